"""What must hold of the end state, each a function that raises Violation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from cloud.rows import Conflict
from cloud.storage.archive.snapshots import state_digest
from cloud.storage.archive.verify import verify
from cloud.storage.sqlite_store import SqliteStore
from simulations.fleet.agent import CANARY, TALLIES
from simulations.fleet.disasters import living
from simulations.fleet.erasing import told_places
from simulations.fleet.oracle import Oracle, Place, Written, contains
from simulations.fleet.violation import Violation
from simulations.steered import ending
from sync.errors import AgentDBError, NotFound, TooLarge
from sync.limits import FUTURE_MS_MAX
from sync.operations import Kind
from sync.records import Record
from sync.stamps import COUNTER_BITS, device_of

if TYPE_CHECKING:
    from simulations.fleet.device_node import DeviceNode
    from simulations.fleet.fleet import Fleet

LOG_ROWS_MAX = 200_000
THOROUGH_MAX = 50  # devices that are searched and compared record by record; of more, as many, spread evenly
_DISASTERS = ("stores set back", "stores cloned", "cloud restores", "stores rebuilt", "devices revoked")


def difference(fleet: Fleet) -> str:
    """What keeps the replicas from being equal and idle, or ""."""
    for owner in fleet.cloud.fleets:
        wanted = fleet.cloud.digest(owner)
        for device in fleet.devices:
            if device.fleet != owner or device.revoked:
                continue
            if device.edge is None:
                return f"{device.name} is down"
            if not device.link.settled:
                error = device.link.session.error if device.link.session else None
                return f"{device.name} is not done: {error}"
            if fleet.steering is not None:
                if why := ending.difference(fleet, fleet.steering, device, refused_places(fleet, owner)):
                    return why
            elif device.edge.digest() != wanted and not _differs_by_refusals(fleet, device):
                return f"{device.name} differs from the cloud"
    return ""


def _differs_by_refusals(fleet: Fleet, device: DeviceNode) -> bool:
    """Whether all that is different was refused: such a write stays on the device that made it, in its dead letters."""
    spared = refused_places(fleet, device.fleet)
    if not spared:
        return False
    log, images = device.opened.log, fleet.cloud.images(device.fleet)
    places = {*images, *((name, key) for name in log.schemas for key, _ in log.scan(name, limit=100_000))}
    for place in sorted(places - spared):
        held, known = log.image(*place), images.get(place)
        if living(held) != living(known):
            return False
    return True


def state_refused(fleet: Fleet, owner: bytes) -> set[Place]:
    """Records that a repair could not give back, too large with what the cloud has: they stay on their device."""
    letters = fleet.cloud.plane.dead_letters(owner, limit=100_000)
    return {(letter.collection, letter.key) for letter in letters if not letter.seq and letter.code == TooLarge.code}


def refused_places(fleet: Fleet, owner: bytes) -> set[Place]:
    """Records of which the cloud refused something."""
    written = fleet.oracles[owner].written.values()
    return {held.place for held in written if held.refused} | state_refused(fleet, owner)


def check_all(fleet: Fleet) -> None:
    for owner, oracle in fleet.oracles.items():
        images = fleet.cloud.images(owner)
        spared = refused_places(fleet, owner)
        as_state = state_refused(fleet, owner)
        for held in oracle.written.values():
            if held.place in as_state:
                held.excused = "its record was refused as state"
        check_oracle(fleet, oracle, images)
        check_isolation(owner, fleet, images)
        if not any(fleet.world.counts[name] for name in _DISASTERS):
            if fleet.steering is None:  # whoever was not in its scope had not seen what its cursor passed
                check_conflicts(fleet, owner, oracle, images)
            check_dead_letters(fleet, owner)
        every = -(-len(fleet.devices) // THOROUGH_MAX)
        for number, device in enumerate(fleet.devices):
            if device.fleet == owner and not device.revoked:
                fleet.world.counts["deletes forgotten by devices"] += forgotten(device, images)
                seen = images if device.steered is None else ending.in_scope(device.steered, images)
                check_device(device, seen, thorough=number % every == 0, spared=spared)
        if fleet.steering is not None:
            fleet.steering.check_evicted(owner)
    check_cloud(fleet)
    check_archive(fleet)


def check_oracle(fleet: Fleet, oracle: Oracle, images: dict[Place, bytes]) -> None:
    """No acknowledged operation lost, none invented, each effective once."""
    images = told_places(images)
    oracle.check_nothing_lost(images)
    oracle.check_nothing_invented(images)
    # Open (docs/BUGS_FOUND.md): what a copy and its original both had may be counted twice; less is only counted where
    # the cloud has forgotten what the original had pushed.
    copied = bool(oracle.copied_devices)
    if not (copied and fleet.world.counts["cloud restores"]):
        oracle.check_tallies(images, TALLIES, exact=not copied)
    if not any(fleet.world.counts[name] for name in _DISASTERS):
        oracle.check_nothing_missing(images)


def check_device(device: DeviceNode, images: dict[Place, bytes], *, thorough: bool, spared: set[Place]) -> None:
    """Replicas are byte-equal (their digests are already), the log is whole and bounded, the projection is the fold of
    the log.
    """
    log = device.opened.log
    for (collection, key), image in images.items() if thorough else ():
        known = living(image)
        if (collection, key) not in spared and known is not None and living(log.image(collection, key)) != known:
            raise Violation("replicas equal", f"{device.name} has another {collection}/{key} than the cloud")
    problems = log.verify()
    if problems and device.rotten:
        return  # what rots on a page that nobody has read is for ``verify`` to find
    if problems:
        raise Violation("verify", f"{device.name}: {problems[0]}")
    rows = log.reader.one("SELECT count(*) FROM operations") or 0
    if rows > LOG_ROWS_MAX:
        raise Violation("bounded", f"{device.name}: {rows} operations in the log")
    if thorough:
        check_search(device)


def forgotten(device: DeviceNode, images: dict[Place, bytes]) -> int:
    """How many deletes the cloud knows of, and this device does not any more."""
    log = device.opened.log
    dead = [place for place, image in images.items() if not Record.decode(image).alive]
    return sum(log.image(*place) is None for place in dead)


def check_search(device: DeviceNode) -> None:
    """A vector search finds exactly the living records that have a vector: the exact tier is a fold of the log."""
    edge = device.opened
    if "memories" not in edge.log.schemas:
        return
    memories = edge.collection("memories")
    wanted = sorted(key for key, fields in memories.scan() if "embedding" in fields)
    found = sorted(hit.key for hit in memories.search(vector=[1.0, 0.0, 0.0, 0.0], k=1 + len(wanted)))
    if wanted != found:
        raise Violation("projection", f"{device.name}: a search finds {found}, the log has {wanted}")


def check_isolation(owner: bytes, fleet: Fleet, images: dict[Place, bytes]) -> None:
    """Nothing of one fleet is ever visible in another."""
    prefix = f"{chr(ord('a') + fleet.cloud.fleets.index(owner))}/"
    for collection, key in images:
        if not collection.startswith("_") and not key.startswith(prefix):
            raise Violation("isolation", f"{collection}/{key} is in the fleet of {prefix}")


def check_conflicts(fleet: Fleet, owner: bytes, oracle: Oracle, images: dict[Place, bytes]) -> None:
    """Every write that lost without its loss being seen by the winner's writer is in the conflict record."""
    conflicts = fleet.cloud.plane.conflicts(owner, limit=100_000)
    recorded = {
        (found.collection, found.key, side.replica, side.ts) for found in conflicts for side in (found.held, found.came)
    }
    shown = [
        (found.collection, found.key, side.replica, side.value)
        for found in conflicts
        for side in (found.held, found.came)
        if isinstance(side.value, dict)
    ]
    check_truly_concurrent(oracle, conflicts)
    by_place: dict[Place, list[Written]] = {}
    for held in oracle.written.values():
        if not held.refused and (held.acknowledged or contains(images.get(held.place), held.operation)):
            by_place.setdefault(held.place, []).append(held)
    for place, all_held in by_place.items():
        record = Record.decode(images[place]) if place in images else Record()
        for held in all_held:
            operation = held.operation
            if (*place, operation.replica, operation.ts) in recorded or place[0].startswith("_"):
                continue
            if not held.acknowledged:  # of what a failed call left, a later write hides whether it ever arrived
                continue
            for name, rule, value in zip(operation.shape.names, operation.shape.rules, operation.values, strict=True):
                named = any(
                    (said.get(name) == value or (name in said and writer == operation.replica))
                    for *at, writer, said in shown
                    if tuple(at) == place
                )
                if rule == "l" and not named and _is_silent(name, value, held, all_held, record):
                    raise Violation(
                        "conflicts recorded", f"{held.node}'s {place} {name}={value!r} was overwritten unseen"
                    )


def check_truly_concurrent(oracle: Oracle, conflicts: Sequence[Conflict]) -> None:
    """No conflict is recorded over a value that stood before the eyes of the other's writer. Only while it takes a
    baseline, which has no position before its end, a device has seen more than it can say.
    """
    written = {(held.place, held.operation.replica, held.operation.ts): held for held in oracle.written.values()}
    for found in conflicts:
        place = (found.collection, found.key)
        came = written.get((place, found.came.replica, found.came.ts))
        if came is None or came.before is None or came.midway:
            continue
        standing = Record.decode(came.before).lww.get(found.field)
        if standing is not None and standing[:2] == (found.held.ts, found.held.replica):
            raise Violation("conflicts recorded", f"{came.node} had seen what its {place} is said to conflict with")


def _is_silent(name: str, value: object, held: Written, rivals: list[Written], record: Record) -> bool:
    """Whether this write of a field is neither what stands, nor was seen (or repeated) by any that came after it."""
    operation = held.operation
    slot = record.lww.get(name)
    if slot is not None and (slot[:2] == (operation.ts, operation.replica) or slot[2] == value):
        return False
    device = device_of(operation.replica)
    stamp = (operation.ts, operation.replica)
    for other in rivals:
        rival = other.operation
        if other is held or (rival.ts, rival.replica) < stamp:
            continue
        speaks = rival.shape.kind == Kind.DELETE or name in rival.shape.names
        if not speaks:
            continue
        unknown = other.before is None and not other.acknowledged  # acknowledged, and None: there was no record
        if device_of(rival.replica) == device or unknown or contains(other.before, operation):
            return False
        if rival.fields.get(name) == value and rival.shape.kind != Kind.DELETE:
            return False
    return True


def check_dead_letters(fleet: Fleet, owner: bytes) -> None:
    """What the cloud refused is in the dead letters of the device that wrote it, too."""
    letters = fleet.cloud.plane.dead_letters(owner, limit=100_000)
    held: dict[bytes, set[int]] = {}
    for device in fleet.devices:
        if device.fleet == owner and device.edge is not None:
            for letter in device.edge.log.dead_letters():
                held.setdefault(letter.operation.replica, set()).add(letter.seq)
    kept = {(letter.replica, letter.seq) for letter in letters}
    for replica, seq in fleet.oracles[owner].refusals:
        if (replica, seq) not in kept:
            raise Violation("dead letters", f"{replica.hex()[:6]}/{seq} was refused, and the cloud did not keep it")
    for refused in letters:
        if refused.seq and refused.seq not in held.get(refused.replica, set()):
            raise Violation("dead letters", f"{refused.collection}/{refused.key} ({refused.code}) is not on its device")


def check_cloud(fleet: Fleet) -> None:
    """The store is whole: dense feed, decodable images, true counts."""
    problems = fleet.cloud.store.verify()
    if problems:
        raise Violation("verify", f"cloud: {problems[0]}")
    for owner in fleet.cloud.fleets:
        clock_ms = fleet.cloud.head(owner).clock >> COUNTER_BITS
        if clock_ms > fleet.cloud.clock.wall_ms() + FUTURE_MS_MAX:
            raise Violation("not from the future", f"the fleet's clock is at {clock_ms}")


def check_archive(fleet: Fleet) -> None:
    """After a last run, a restore from the archive equals the state; so do restores to earlier positions of this life.
    Nothing in it can be read.
    """
    cloud = fleet.cloud
    for owner in cloud.fleets:
        cloud.archive(owner, snapshot=False, trim=False)
        report = verify(cloud.objects, cloud.keys, owner, anchor=cloud.anchor)
        if report.problems:
            raise Violation("archive", f"verify: {report.problems[0]}")
        head = cloud.head(owner)
        earlier = sorted(
            at
            for held, life, at in cloud.digests
            if held == owner and life == head.incarnation and at >= head.restored_head
        )
        for position in (None, *sorted({*earlier})[:1]):
            wanted = cloud.digest(owner) if position is None else cloud.digests[owner, head.incarnation, position]
            if _restored(fleet, owner, position) != wanted:
                raise Violation("archive", f"restored to {position or 'the end'}, the state is another")
    for name, data in cloud.objects.data.items():
        if CANARY.encode() in data:
            raise Violation("no plaintext", f"a text can be read in {name}")


def check_damaged_archive(fleet: Fleet, dice: Random) -> None:
    """An object of the archive is taken away, exchanged or altered, and put back. What ``verify`` finds nothing wrong
    with can be restored, and no restore ends in another state than there was.
    """
    cloud = fleet.cloud
    objects = cloud.objects
    whole, objects.data = objects.data, dict(objects.data)
    trouble, objects.trouble = objects.trouble, 0.0
    try:
        if len(whole) < 2:
            return
        name, other = dice.sample(sorted(whole), 2)
        how = dice.choice(["gone", "exchanged", "altered"])
        if how == "gone":
            del objects.data[name]
        elif how == "exchanged":
            objects.data[name], objects.data[other] = whole[other], whole[name]
        else:
            at = dice.randrange(len(whole[name]))
            altered = bytearray(whole[name])
            altered[at] ^= 1 << dice.randrange(8)
            objects.data[name] = bytes(altered)
        outcomes = [_outcome(fleet, owner) for owner in cloud.fleets]
        fleet.world.note("objects", f"one is {how}: {', '.join(outcomes)}", count="objects damaged")
    finally:
        objects.data, objects.trouble = whole, trouble


def _outcome(fleet: Fleet, owner: bytes) -> str:
    cloud = fleet.cloud
    committed = True
    try:
        report = verify(cloud.objects, cloud.keys, owner, anchor=cloud.anchor)
        problems, committed = len(report.problems), report.manifests > 0
    except AgentDBError:
        problems = 1
    try:
        digest, position = _restored_state(fleet, owner, None)
    except AgentDBError as error:
        if not committed and isinstance(error, NotFound) and cloud.anchor.last(owner) is None:
            return "leftovers of a first run that came to no end"
        if not problems:
            raise Violation("archive", f"verify finds nothing, and the restore fails: {error}") from error
        return f"found, {error.code}"
    known = {noted for (held, _, at), noted in cloud.digests.items() if (held, at) == (owner, position)}
    if known and digest not in known:
        raise Violation("archive", f"restored from a damaged archive to {position}, the state is another")
    return "found, restored" if problems else "harmless"


def _restored(fleet: Fleet, owner: bytes, position: int | None) -> str:
    return _restored_state(fleet, owner, position)[0]


def _restored_state(fleet: Fleet, owner: bytes, position: int | None) -> tuple[str, int]:
    path = Path(fleet.root) / "restored.db"
    store = SqliteStore.open(path)
    try:
        restored = fleet.cloud.restore_into(store, owner, position)
        with store.reading() as view:
            return state_digest(view, owner).hexdigest(), restored.position
    finally:
        store.close()
        for file in path.parent.glob("restored.db*"):
            file.unlink()
