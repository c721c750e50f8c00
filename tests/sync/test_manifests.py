"""``sync.manifests``: the laws of a trusted set, its bounds, and what it costs who does not use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, TargetFile, Targets

from sync.errors import Expired, Malformed, NotFound, Refused, TooLarge, Untrusted
from sync.limits import ROLE_BYTES_MAX, ROOT_BYTES_MAX, ROOTS_MAX, SNAPSHOT_BYTES_MAX, TIMESTAMP_BYTES_MAX
from sync.manifests import Offer, TrustedSet, pinned
from sync.metadata import floor_of
from sync.targets import Kind, TargetName
from tests.trust_world import DAY_MS, FLEET, NOW_MS, PrivateKey, World, flipped

WORLD = World(documents={"policies/kiosk/1.json": b"{}", "models/embed/3.json": b"[]"})
ROLES = ("targets", "policies", "models")

NEW_ONLINE = WORLD.but(online=PrivateKey(41))
SECOND = NEW_ONLINE.root(2)


# -- what is held ------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_loaded_whatever_the_time() -> None:
    trusted = WORLD.trusted()
    again = TrustedSet.load(trusted.stored(), FLEET)
    assert again.stored() == trusted.stored()
    assert again.whole
    assert again.snapshot_version == 1
    assert again.expired(NOW_MS) == ()
    late = NOW_MS + 31 * DAY_MS
    assert again.expired(late) == ("timestamp", "snapshot")
    assert again.expires_ms("timestamp") == NOW_MS + 30 * DAY_MS
    with pytest.raises(NotFound):
        again.expires_ms("nobody")
    with pytest.raises(Expired, match="timestamp"):
        again.update(Offer(), late)
    assert again.update(Offer(), NOW_MS).stored() == again.stored()


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", "policies", "models"])
def test_a_stored_file_that_was_changed_or_lost_is_not_loaded(name: str) -> None:
    stored = WORLD.trusted().stored()
    for bit in range(8 * stored[name].index(b'"signed":'), 8 * len(stored[name]), 97):
        changed = flipped(stored[name], bit)
        if name in ("root", "timestamp") and changed.lower() == stored[name].lower():
            continue  # nobody names these by digest, and python-tuf reads the T of a time in either case
        with pytest.raises(Untrusted, match=name):
            TrustedSet.load({**stored, name: changed}, FLEET)
    rest = {other: data for other, data in stored.items() if other != name}
    if name == "targets":
        assert not TrustedSet.load(rest, FLEET).whole
    else:
        with pytest.raises(Untrusted):
            TrustedSet.load(rest, FLEET)
    with pytest.raises(Untrusted, match="another fleet"):
        TrustedSet.load(stored, bytes(16))


def test_only_what_differs_has_to_be_sent() -> None:
    trusted = WORLD.trusted()
    second = WORLD.timestamp(2, trusted.stored()["snapshot"], NOW_MS + 60 * DAY_MS, snapshot_version=1)
    newer = trusted.update(Offer(timestamp=second), NOW_MS)
    assert newer.versions() == trusted.versions() | {"timestamp": 2}
    with pytest.raises(Untrusted, match="snapshot: not the bytes"):
        trusted.update(WORLD.offer(2)._replace(snapshot=b""), NOW_MS)
    for name in ROLES:
        rest = {other: data for other, data in WORLD.offer(2).roles.items() if other != name}
        with pytest.raises(Untrusted, match=f"{name}: not the bytes"):
            trusted.update(WORLD.offer(2)._replace(roles=rest), NOW_MS)
        with pytest.raises(Untrusted, match=f"{name}: not sent"):
            WORLD.pinned().update(WORLD.offer(2)._replace(roles=rest), NOW_MS)
    with pytest.raises(Untrusted, match="timestamp: not sent"):
        WORLD.pinned().update(WORLD.offer(1)._replace(timestamp=b""), NOW_MS)
    with pytest.raises(Untrusted, match="no role"):
        trusted.update(Offer(roles={"strangers": b"{}"}), NOW_MS)


def test_roots_alone_are_taken_alone_even_beside_what_has_expired() -> None:
    trusted = WORLD.trusted()
    late = NOW_MS + 40 * DAY_MS
    with pytest.raises(Expired):
        trusted.update(Offer(), late)
    moved = trusted.update(Offer(roots=(SECOND,)), late)
    assert moved.versions() == {"root": 2}, "nothing that the old online key signed is a floor any more"
    assert not moved.whole
    again = TrustedSet.load(moved.stored(), FLEET)
    with pytest.raises(NotFound):
        again.target("policies/kiosk/1.json")
    assert again.update(NEW_ONLINE.offer(1), NOW_MS).whole
    assert moved.update(NEW_ONLINE.offer(1)._replace(roles={}), NOW_MS).whole, "the roles are the same bytes"
    with pytest.raises(Untrusted, match="targets: not sent"):
        again.update(NEW_ONLINE.offer(1)._replace(roles={}), NOW_MS)
    other_targets = WORLD.but(targets=(PrivateKey(11),))
    moved = trusted.update(Offer(roots=(other_targets.root(2),)), late)
    assert moved.versions() == {"root": 2, "timestamp": 1, "snapshot": 1}, "floors stay, roles are fetched again"
    assert TrustedSet.load(moved.stored(), FLEET).update(other_targets.offer(2), NOW_MS).whole


def test_a_root_is_pinned_by_its_digest() -> None:
    root = WORLD.root()
    digest = sha256(root).digest()
    assert pinned(root, digest, FLEET).versions() == {"root": 1}
    with pytest.raises(Untrusted, match="digest"):
        pinned(WORLD.root(expires_ms=NOW_MS), digest, FLEET)
    with pytest.raises(Untrusted, match="fleet"):
        pinned(root, digest, bytes(16))
    half = WORLD.root(by=WORLD.roots[:1])
    with pytest.raises(Untrusted, match="1/2"):
        pinned(half, sha256(half).digest(), FLEET)


# -- what we ask beyond TUF --------------------------------------------------------------------------------------------


def test_a_root_of_the_same_keys_and_another_fleet_is_refused() -> None:
    foreign = WORLD.but(fleet=bytes(16)).root(2)
    with pytest.raises(Untrusted, match="another fleet"):
        WORLD.trusted().update(Offer(roots=(foreign,)), NOW_MS)


def change_role(role: str, how: object) -> World:
    def change(name: str, what: Signed) -> None:
        if name == role:
            assert callable(how)
            how(what)

    return WORLD.but(change=change)


def test_one_key_under_two_ids_counts_for_nothing() -> None:
    def twice(root: Root) -> None:
        key = root.keys[root.roles["root"].keyids[0]].to_dict()
        copy = type(root.keys[root.roles["root"].keyids[0]]).from_dict("ab" * 32, key)
        root.keys["ab" * 32] = copy

    with pytest.raises(Untrusted, match="two ids"):
        WORLD.pinned().update(Offer(roots=(change_role("root", twice).root(2),)), NOW_MS)


def test_files_are_named_by_digest() -> None:
    def forget(snapshot: Snapshot) -> None:
        snapshot.meta["policies.json"] = MetaFile(1)

    with pytest.raises(Untrusted, match="policies: named without"):
        WORLD.pinned().update(change_role("snapshot", forget).offer(1), NOW_MS)


def test_only_targets_delegates() -> None:
    def delegate(role: Targets) -> None:
        top: Targets = Targets.from_dict(json.loads(WORLD.top(1, NOW_MS + DAY_MS))["signed"])
        role.delegations = top.delegations

    with pytest.raises(Untrusted, match="models: delegates"):
        WORLD.pinned().update(change_role("models", delegate).offer(1), NOW_MS)


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "bound"),
    [
        (lambda n: Offer(roots=(b"x" * n,)), ROOT_BYTES_MAX),
        (lambda n: Offer(timestamp=b"x" * n), TIMESTAMP_BYTES_MAX),
        (lambda n: Offer(snapshot=b"x" * n), SNAPSHOT_BYTES_MAX),
        (lambda n: Offer(roles={"policies": b"x" * n}), ROLE_BYTES_MAX),
        (lambda n: Offer(roots=(b"x",) * n), ROOTS_MAX),
    ],
)
def test_sizes_are_looked_at_before_anything_is_parsed(offer: object, bound: int) -> None:
    assert callable(offer)
    with pytest.raises(TooLarge):
        WORLD.trusted().update(offer(bound + 1), NOW_MS)
    with pytest.raises(Untrusted):
        WORLD.trusted().update(offer(bound), NOW_MS)


@pytest.mark.parametrize(
    "data", [b"[" * 8000, b"{}", b"null", b'{"signed":NaN}', b"\xff", b'{"signed":{"_type":"root"}}']
)
def test_what_is_no_metadata_is_untrusted(data: bytes) -> None:
    trusted = WORLD.trusted()
    for offer in (Offer(roots=(data,)), Offer(timestamp=data), Offer(snapshot=data), Offer(roles={"targets": data})):
        with pytest.raises(Untrusted):
            trusted.update(offer, NOW_MS)


# -- targets -----------------------------------------------------------------------------------------------------------


def test_a_target_is_found_by_its_delegation() -> None:
    found = WORLD.trusted().target("models/embed/3.json")
    assert (found.kind, found.name, found.number, found.floor) == (Kind.MODEL, "embed", 3, 1)
    assert (found.length, found.sha256, found.role) == (2, sha256(b"[]").digest(), "models")
    assert [info.path for info in WORLD.trusted().listed()] == ["models/embed/3.json", "policies/kiosk/1.json"]
    with pytest.raises(NotFound):
        WORLD.trusted().target("models/embed/4.json")
    with pytest.raises(NotFound):
        WORLD.pinned().target("models/embed/3.json")
    for path in (
        "models/../3.json",
        "models/Embed/3.json",
        "models/embed/03.json",
        "policies/a/b/1.json",
        "/etc/passwd",
    ):
        with pytest.raises(Malformed):
            WORLD.trusted().target(path)


def test_the_floor_is_the_highest_that_any_number_asks_for() -> None:
    paths = [f"models/embed/{number}.json" for number in (7, 9, 10)]
    world = World(documents=dict.fromkeys([*paths, "models/embedder/1.json"], b"x"), floors={paths[1]: 8})
    trusted = world.trusted()
    assert [trusted.target(path).floor for path in paths] == [8, 8, 8]
    assert trusted.target("models/embedder/1.json").floor == 1


def test_a_target_without_its_name_number_and_floor_is_refused() -> None:
    for entry in (None, {}, {"agentdb": {"name": "embed", "number": 4, "floor": 1}}, {"agentdb": {"name": "embed"}},
                  {"agentdb": {"name": "embed", "number": 3, "floor": True}},
                  {"agentdb": {"name": "embed", "number": 3, "floor": -1}}):  # fmt: skip

        def change(role: Targets, entry: object = entry) -> None:
            role.targets["models/embed/3.json"].unrecognized_fields["custom"] = entry

        trusted = WORLD.pinned().update(change_role("models", change).offer(1), NOW_MS)
        with pytest.raises(Refused, match=r"without its name|a floor of"):
            trusted.target("models/embed/3.json")
        assert [info.path for info in trusted.listed()] == ["policies/kiosk/1.json"]


# -- what it costs who does not use it ---------------------------------------------------------------------------------


def test_nothing_imports_python_tuf_but_these() -> None:
    root = Path(__file__).resolve().parents[2]
    names = sorted(path.stem for path in (root / "sync").glob("*.py"))
    others = [f"sync.{name}" for name in names if name not in ("__init__", "manifests", "metadata")]
    code = f"import sys, edge, edge.node, cloud.cli, {', '.join(others)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert {"tuf", "securesystemslib"}.isdisjoint(found.stdout.split())
    assert "sync.assignments" in found.stdout.split()


def test_the_set_does_without_python_tufs_client() -> None:
    root = Path(__file__).resolve().parents[2]
    code = "import sys, sync.manifests; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "tuf.api.metadata" in found.stdout.split()
    assert "tuf.ngclient" not in found.stdout.split()


def test_a_name_of_many_numbers_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a thousand numbers take a million looks, under the lock of who publishes."""
    asked = []

    def counted(wanted: TargetName, listed: Mapping[str, TargetFile]) -> int:
        asked.append(wanted.name)
        return floor_of(wanted, listed)

    monkeypatch.setattr("sync.manifests.floor_of", counted)
    paths = [f"policies/{name}/{number}.json" for name in ("door", "kiosk") for number in range(1, 10)]
    trusted = WORLD.but(documents=dict.fromkeys(paths, b"{}"), floors={"policies/kiosk/9.json": 4}).trusted()
    assert [(info.path, info.floor) for info in trusted.listed()] == [
        (path, 4 if "kiosk" in path else 1) for path in paths
    ]
    assert trusted.target("policies/kiosk/2.json").floor == 4
    assert asked == ["door", "kiosk"]
