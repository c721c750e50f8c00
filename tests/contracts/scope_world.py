"""Real devices of a real control plane whose policies change in mid-life: assigned in the cloud, active on the device
some time later, or never.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from cloud.control_rows import TargetRow
from cloud.fleet.policies import PolicyScopes
from cloud.ports import Caller, Reading
from cloud.storage.archive.state import ArchiveState, save_state
from edge.storage import link_state
from edge.storage.control_tables import Document
from sync.errors import NotAllowed, NotFound, NotHere
from sync.images import image_values, is_alive
from sync.policy import Policy
from sync.records import Record
from sync.scope import ScopeTable
from sync.stamps import NEVER
from tests.contracts.fleet_world import Cloud, Device

NORTH: dict[str, Any] = {"collections": ["notes"], "prefixes": ["north/"]}
RULES: dict[str, list[dict[str, Any]]] = {
    "": [],
    "north": [NORTH, {"collections": ["*"], "direction": "up"}],
    "south": [{"collections": ["notes"], "prefixes": ["south/"]}, {"collections": ["*"], "direction": "absent"}],
    "notes": [{"collections": ["logs"], "direction": "absent"}],
    "logs": [{"collections": ["notes"], "direction": "up"}],
    "young": [{"collections": ["notes"], "age_days_max": 1}, {"collections": ["logs"], "age_days_max": 3}],
    "older": [{"collections": ["notes"], "age_days_max": 30}],
    "no guide": [{"agents": ["guide"], "direction": "absent"}],
    "north only": [NORTH, {"collections": ["*"], "direction": "absent"}],
}
#: Policies that keep some of what is written on the device.
KEEPING: dict[str, list[dict[str, Any]]] = {
    "local": [{"collections": ["*"], "direction": "local"}],
    "local south": [{"collections": ["*"], "prefixes": ["south/"], "direction": "local"}],
    "small": [{"collections": ["*"], "record_bytes_max": 400}],
    "local guide": [{"agents": ["guide"], "direction": "local"}],
    "local up": [{"collections": ["notes"], "direction": "local"}, {"collections": ["*"], "direction": "up"}],
}
KEYS = [f"{place}/{at}" for place in ("north", "south") for at in range(4)]
DAY_MS = 86_400_000
COLLECTIONS = ("notes", "logs")
ALL = RULES | KEEPING
NOTES, LOGS = ({(collection, key) for key in KEYS} for collection in COLLECTIONS)
PLACES = [(collection, key) for collection in COLLECTIONS for key in KEYS]
TALLIES = [("notes", "north/tally"), ("notes", "south/tally")]  # of which is known what they have to come to


Rules = dict[str, list[dict[str, Any]]]


def policies(rules: Rules) -> dict[str, Policy]:
    """By name, without "", which is none."""
    documents = {name: {"schema": 1, "name": name.replace(" ", "-"), "sync": held} for name, held in rules.items()}
    return {name: Policy.from_document(document) for name, document in documents.items() if name}


class Tally:
    """What was written to a record that only counts, and from which nobody removes what another adds."""

    def __init__(self) -> None:
        self.visits = self.best = 0
        self.tags: set[str] = set()


class ScopeWorld:
    """``rules`` are those of the policies that there are, ``logs`` how that collection is declared. ``assigned`` says
    which policy the cloud wants of each device, "" for none; a device hears of it when it is told (``activate``).
    """

    def __init__(self, path: Path, names: tuple[str, ...], seed: int = 1, rules: Rules = ALL, **logs: Any) -> None:
        found, logs = policies(rules), logs or {"text": ["text"]}
        self.tables = {"": ScopeTable(())} | {name: ScopeTable(one.sync) for name, one in found.items()}
        self.documents = {name: one.to_json() for name, one in found.items()}
        self.assigned: dict[str, str] = dict.fromkeys(names, "")
        self._names: dict[bytes, str] = {}
        (path / "cloud").mkdir(parents=True)
        self.cloud = Cloud(path / "cloud", seed, PolicyScopes(self._chosen))
        with self.cloud.store.writing() as tx:
            for number, data in enumerate(self.documents.values(), 1):
                tx.add_targets(self.cloud.fleet, [TargetRow(0, sha256(data).digest(), f"policies/{number}.json", data)])
        self.devices: dict[str, Device] = {}
        for number, name in enumerate(names):
            device = self.devices[name] = Device(path / name, self.cloud, name, seed * 100 + number)
            device.edge.collection("logs", **logs)
            self._names[device.key.device_id] = name
        self.wrote: set[tuple[str, str]] = set()
        self.count = 0
        self.tallies = {place: Tally() for place in TALLIES}
        self.archived: Path | None = None

    def close(self) -> None:
        for device in self.devices.values():
            device.edge.close()
        self.cloud.store.close()

    def _chosen(self, _: Reading, caller: Caller) -> bytes:
        return self.digest(self.assigned[self._names[caller.device]])

    def digest(self, name: str) -> bytes:
        return sha256(self.documents[name]).digest() if name else b""

    def activate(self, name: str) -> None:
        """The device hears of what it is assigned now."""
        wanted, device = self.assigned[name], self.devices[name]
        documents = []
        if wanted:
            data = self.documents[wanted]
            documents = [Document("policy", "policies/1.json", 1, sha256(data).digest(), "", 0, data)]
        device.edge._policies.activated(documents)

    def give(self, name: str, wanted: str) -> None:
        self.assigned[name] = wanted
        self.activate(name)

    def write(self, name: str, place: tuple[str, str], kind: str = "put") -> bool:
        """False where the device's policy does not let it write, or there is nothing to change."""
        device = self.devices[name]
        held = device.edge.collection(place[0])
        device.clock.now_ms += 1
        self.count += 1
        try:
            if kind == "delete":
                held.delete(place[1])
            elif kind == "patch":
                held.patch(place[1], {"text": f"{name} {self.count}"})
            elif kind in ("add", "remove", "count") and place[0] == "logs":
                return False
            elif kind == "add":
                held.add(place[1], "tags", str(self.count % 5))
            elif kind == "remove":
                held.remove(place[1], "tags", str(self.count % 5))
            elif kind == "count":
                held.increment(place[1], "visits", 2)
            else:
                held.put(place[1], {"text": f"{name} {self.count}"})
        except (NotAllowed, NotFound, NotHere):
            return False
        self.wrote.add(place)
        return True

    def grow(self, name: str, place: tuple[str, str], size: int) -> bool:
        """Give the record a text of that many characters. False as with ``write``."""
        device = self.devices[name]
        device.clock.now_ms += 1
        try:
            device.edge.collection(place[0]).patch(place[1], {"mood": "x" * size})
        except (NotAllowed, NotFound, NotHere):
            return False
        self.wrote.add(place)
        return True

    def tally(self, name: str, place: tuple[str, str]) -> bool:
        """Count there, by 1, raise its maximum, and swap a tag of the device's own. False where it may not write."""
        device, tally = self.devices[name], self.tallies[place]
        device.clock.now_ms += 1
        self.count += 1
        notes, key, tag = device.edge.collection("notes"), place[1], f"{name} {self.count}"
        try:
            notes.increment(key, "visits", upsert=True)
            tally.visits += 1
            notes.patch(key, {"best": self.count % 50}, upsert=True)
            tally.best = max(tally.best, self.count % 50)
            notes.add(key, "tags", tag, upsert=True)
            tally.tags.add(tag)
            old = min((one for one in tally.tags if one.startswith(name) and one != tag), default=None)
            if old is not None and old in (notes.get(key) or {}).get("tags", ()):
                notes.remove(key, "tags", old)
                tally.tags.discard(old)
        except NotAllowed:
            return False
        except NotHere:
            return True
        return True

    def heal(self) -> None:
        """Everybody hears of everything, over a good wire, and the archive has it."""
        for _ in range(2):
            self.heal_without_archive()
            self.archive()
        self.heal_without_archive()

    def heal_without_archive(self) -> None:
        for name in self.devices:
            self.activate(name)
        for _ in range(2):
            for device in self.devices.values():
                assert device.sync(), f"{device.name} does not come to rest: {device.edge.status()['log']}"

    def pass_by(self, ms: int) -> None:
        """For everybody."""
        self.cloud.clock.now_ms += ms
        for device in self.devices.values():
            device.clock.now_ms += ms

    def archive(self) -> None:
        """What is there now is archived; a restore goes back to that."""
        with self.cloud.store.writing() as tx:
            head = tx.lock_head(self.cloud.fleet)
            save_state(tx, self.cloud.fleet, ArchiveState(number=1, position=head.position))
        self.archived = self.cloud.backup()

    def restore(self) -> None:
        """From the archive, as it is now."""
        if self.archived is not None:
            self.cloud.restore(self.archived)

    def images(self) -> dict[tuple[str, str], bytes]:
        """What the cloud has."""
        with self.cloud.store.reading() as view:
            return {(row.collection, row.key): row.image for row in view.records(self.cloud.fleet, limit=10_000)}

    def check(self) -> None:
        """Nothing that was written is lost, and everybody has what is in its scope, as it is in the cloud."""
        images = self.images()
        assert self.wrote <= set(images), self.wrote - set(images)
        for place, tally in self.tallies.items():
            shown = image_values(images[place]) if place in images else {}
            told = [(shown or {}).get(name) for name in ("visits", "best", "tags")]
            assert told == ([tally.visits, tally.best, sorted(tally.tags)] if tally.visits else [None] * 3), place
        for name, device in self.devices.items():
            for place in [*PLACES, *TALLIES]:
                held, wanted = _living(device.edge.log.image(*place)), _living(images.get(place))
                rule = self.tables[self.assigned[name]].rule(*place)
                if rule.in_scope:
                    if rule.age_days_max and wanted is not None and is_alive(wanted):
                        since = device.edge.log.clock.reading(-rule.age_days_max * DAY_MS)
                        young = Record.decode(wanted).newest_ts >= since
                        assert held == wanted or (held is None and not young), (name, place, "is here in part")
                    elif wanted is not None and is_alive(wanted):
                        assert held == wanted, (name, place, "is not here, or is not what the cloud has")
                    else:
                        assert held is None or not is_alive(held), (name, place, "was deleted")
                elif rule.direction == "absent":
                    assert held is None or not is_alive(held), (name, place, "must not be here")
            position = link_state.load_position(device.edge.log)
            digest = self.digest(self.assigned[name])
            assert (position.scope, position.growth, position.owed) == (digest, None, False), name
            assert device.edge.verify() == []


def held(world: ScopeWorld, name: str = "kiosk") -> set[tuple[str, str]]:
    """Of ``PLACES``, those that the device has a record at."""
    return {place for place in PLACES if world.devices[name].edge.log.values(*place) is not None}


def notes(world: ScopeWorld, name: str = "kiosk") -> Any:
    return world.devices[name].edge.collection("notes")


def _living(image: bytes | None) -> bytes | None:
    """Without the delete before it, which a device may have forgotten (ADR 11)."""
    if image is None or not is_alive(image):
        return image
    record = Record.decode(image)
    record.floor = NEVER
    return record.encode()
