"""What operators signed, taken by the control plane: verified as a device would, or refused with nothing changed."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.control_plane import ControlPlane
from cloud.control_rows import ChannelRow
from cloud.fleet import publishing
from cloud.fleet.control_key import ControlKeyFile
from cloud.fleet.publishing import SNAPSHOT_MS, TIMESTAMP_MS, Repository
from cloud.fleet.signing import SigningKey
from cloud.fleet.trusting import Trusting
from sync.chunks import Chunk, ChunkList, file_digest
from sync.errors import (
    CorruptStore,
    Expired,
    InvalidConfig,
    InvalidValue,
    Malformed,
    NotFound,
    Refused,
    StaleWrite,
    TooLarge,
    Untrusted,
)
from sync.limits import ASSIGNED_MODELS_MAX
from sync.manifests import TrustedSet
from sync.models import FileRef, ListRef, Manifest, PackRef
from sync.tokens import parse_token
from tests.control_world import DOCUMENTS, MODEL, POLICY, POLICY_2, ControlWorld, model_document
from tests.trust_world import DAY_MS, PrivateKey


@pytest.fixture
def world(tmp_path: Path) -> ControlWorld:
    return ControlWorld(tmp_path)


def trusted(world: ControlWorld) -> TrustedSet:
    with world.store.reading() as view:
        return Trusting().load(view, world.fleet)


def everything(world: ControlWorld) -> object:
    with world.store.reading() as view:
        return view.trust_versions(world.fleet), view.targets(world.fleet), view.channels(world.fleet)


def test_what_is_published_verifies_whole_and_its_bytes_are_kept(world: ControlWorld) -> None:
    assert world.publish() == (1, 1, 1, 1, 3)
    held = trusted(world)
    assert held.whole
    assert held.versions() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "policies": 1, "models": 1}
    assert held.expires_ms("timestamp") == world.clock.now_ms + TIMESTAMP_MS
    assert held.expires_ms("snapshot") == world.clock.now_ms + SNAPSHOT_MS
    with world.store.reading() as view:
        for path, data in DOCUMENTS.items():
            row = view.target(world.fleet, sha256(data).digest())
            assert row is not None
            assert (row.path, row.data) == (path, data)
        assert view.control(world.fleet) == 1
    assert world.actions()[-1] == "trust.published"


def test_more_metadata_than_devices_take_at_once_is_refused(
    world: ControlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(world)
    monkeypatch.setattr(publishing, "ROLES_BYTES_MAX", 1_000)
    with pytest.raises(TooLarge, match="devices take 1,000 at once") as raised:
        world.publish()
    assert "trust prune" in raised.value.hint
    assert everything(world) == before


def test_versions_rise_and_what_has_not_changed_is_not_signed_again(world: ControlWorld) -> None:
    world.publish()
    assert world.publish() == (1, 1, 2, 0, 0), "a fresh timestamp is all"
    documents = {**DOCUMENTS, "policies/kiosk/3.json": DOCUMENTS[POLICY].replace(b"}", b',"store":{"quota_mib":9}}')}
    assert world.publish(2, documents=documents) == (1, 2, 3, 0, 1)


def test_of_two_first_roots_neither_is_taken(world: ControlWorld) -> None:
    """Which one the devices are to pin cannot be told; each is signed well."""
    repository = world.repository()
    other = world.operators.root(expires_ms=world.clock.now_ms + 9 * DAY_MS)
    with pytest.raises(Refused, match="two roots of version 1") as raised:
        world.plane.publish(world.fleet, repository._replace(roots=[*repository.roots, other]))
    assert raised.value.hint
    assert everything(world) == ([], [], [])
    assert world.plane.publish(world.fleet, repository._replace(roots=[*repository.roots] * 2)).roots == 1


def test_what_no_device_would_take_is_not_published(world: ControlWorld) -> None:
    world.publish()
    chunk = Chunk(bytes(32), 1, 0, 0)
    listed = ListRef(sha256(ChunkList((chunk,)).encode()).hexdigest(), 1)
    file = FileRef("weights.bin", 1, (0, 1), file_digest([chunk]).hex())
    elsewhere = Manifest(1, "embed", 4, "4", 1, listed, [PackRef("00" * 32, 1)], [file]).encode()
    for path, data, error, said in (
        ("policies/kiosk/3.json", b'{"n":3}', InvalidValue, "schema of the policy"),
        ("policies/other/3.json", DOCUMENTS[POLICY], InvalidValue, "the policy in it is 'kiosk'"),
        ("models/embed/9.json", elsewhere, InvalidValue, "of 'embed' 4"),
        ("models/embed/4.json", elsewhere, NotFound, "not published here"),
    ):
        with pytest.raises(error, match=said) as raised:
            world.publish(2, documents={**DOCUMENTS, path: data})
        assert raised.value.hint
    assert world.publish() == (1, 1, 2, 0, 0), "nothing was stored"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"policies": (PrivateKey(20),)}, Untrusted),
        ({"targets": (PrivateKey(99),)}, Untrusted),
        ({"fleet": b"another fleet..."}, Untrusted),
        ({"online": PrivateKey(41)}, Refused),
    ],
)
def test_what_a_device_would_refuse_is_refused(world: ControlWorld, changed: dict[str, Any], error: type) -> None:
    repository = world.repository(**changed)
    if "fleet" in changed or "online" in changed:
        repository = repository._replace(roots=[world.operators.but(**changed).root()])
    with pytest.raises(error):
        world.plane.publish(world.fleet, repository)
    assert everything(world) == ([], [], [])
    with world.store.reading() as view:
        assert view.control(world.fleet) == 0


def test_older_roles_and_expired_ones_are_refused(world: ControlWorld) -> None:
    world.publish(2)
    before = everything(world)
    with pytest.raises(StaleWrite):
        world.publish(1)
    late = world.operators.offer(3, role_expires_ms=world.clock.now_ms - DAY_MS).roles
    with pytest.raises(Expired):
        world.plane.publish(world.fleet, Repository([], late, DOCUMENTS))
    assert everything(world) == before


def test_a_target_needs_its_bytes_and_they_must_be_right(world: ControlWorld) -> None:
    roots, roles, *_ = world.repository()
    with pytest.raises(NotFound, match="not here"):
        world.plane.publish(world.fleet, Repository(roots, roles, {}))
    with pytest.raises(Refused, match="not what was signed"):
        world.plane.publish(world.fleet, Repository(roots, roles, {**DOCUMENTS, POLICY: b'{"n":9}'}))
    with pytest.raises(InvalidValue, match="first root"):
        world.plane.publish(world.fleet, Repository([], roles, DOCUMENTS))
    world.publish()
    world.plane.publish(world.fleet, Repository([], roles, {}))  # all is held


def test_another_root_of_a_version_that_is_held(world: ControlWorld) -> None:
    world.publish()
    forged = world.operators.root(expires_ms=world.clock.now_ms + DAY_MS)
    with pytest.raises(Refused, match="published already"):
        world.plane.publish(world.fleet, Repository([forged], {}, {}))


def test_what_is_assigned_stays_listed_and_above_its_floor(world: ControlWorld) -> None:
    world.publish()
    world.plane.assign(world.fleet, "policy", POLICY)
    without = {path: data for path, data in DOCUMENTS.items() if path != POLICY}
    with pytest.raises(Refused, match="not listed"):
        world.publish(2, documents=without)
    with pytest.raises(Refused, match="floor"):
        world.publish(2, floors={POLICY_2: 2})
    world.plane.assign(world.fleet, "policy", POLICY_2)
    world.publish(2, floors={POLICY_2: 2}, documents=without)
    with pytest.raises(NotFound):
        world.plane.assign(world.fleet, "policy", POLICY)


def test_a_floor_above_what_runs_is_published_with_what_is_to_run(world: ControlWorld) -> None:
    """One commit: refused whole, or done whole, and an operator's doing in the audit trail."""
    world.publish()
    world.plane.assign(world.fleet, "policy", POLICY)
    raised = world.repository(2, floors={POLICY_2: 2})
    before = everything(world)
    for path, why in (("policies/kiosk/9.json", NotFound), ("kiosk", Malformed), (POLICY, Refused)):
        with pytest.raises(why):
            world.plane.publish(world.fleet, raised._replace(assigned=[path]))
    assert everything(world) == before
    world.plane.publish(world.fleet, raised._replace(assigned=[POLICY_2]))
    with world.store.reading() as view:
        assert [(row.place, row.path) for row in view.channels(world.fleet)] == [("policy", POLICY_2)]
        said = [(row.action, row.subject) for row in view.audit(world.fleet)]
    assert said[-1] == ("channel.set", "policy")
    with pytest.raises(Refused, match="below its floor"):
        world.plane.assign(world.fleet, "policy", POLICY)


def test_a_channel_names_what_is_listed_and_fits(world: ControlWorld) -> None:
    with pytest.raises(NotFound, match="no root"):
        world.plane.assign(world.fleet, "policy", POLICY)
    world.publish(floors={POLICY_2: 2})
    for place, path, error in (
        ("policy", "policies/none/1.json", NotFound),
        ("policy", POLICY, Refused),
        ("policy", MODEL, InvalidValue),
        ("models/embed", POLICY_2, InvalidValue),
        ("models/other", MODEL, InvalidValue),
        ("models", "", InvalidValue),
        ("firmware", "", InvalidValue),
    ):
        with pytest.raises(error):
            world.plane.assign(world.fleet, place, path)
    world.plane.assign(world.fleet, "models/embed", MODEL)
    with world.store.reading() as view:
        assert view.channels(world.fleet) == [("models/embed", MODEL)]
    world.plane.assign(world.fleet, "models/embed", "")
    assert everything(world)[2] == []  # type: ignore[index]
    assert world.actions()[-2:] == ["channel.set", "channel.set"]


def test_more_models_than_an_assignment_holds_are_not_assigned(world: ControlWorld) -> None:
    documents = {f"models/m{at}/1.json": model_document(f"m{at}", 1) for at in range(ASSIGNED_MODELS_MAX + 1)}
    world.publish(documents=documents)
    *paths, last = documents
    for path in paths:
        world.plane.assign(world.fleet, path.rpartition("/")[0], path)
    with pytest.raises(InvalidValue, match="at most 64 models") as raised:
        world.plane.assign(world.fleet, last.rpartition("/")[0], last)
    assert "--nothing" in raised.value.hint
    assert world.fetch().assignment
    world.plane.assign(world.fleet, paths[0].rpartition("/")[0], "")
    world.plane.assign(world.fleet, last.rpartition("/")[0], last)
    assert world.fetch().assignment


def test_what_cannot_be_signed_is_logged_once(world: ControlWorld, caplog: pytest.LogCaptureFixture) -> None:
    world.publish()
    with world.store.writing() as tx:
        tx.put_channel(world.fleet, ChannelRow("policy", "policies/lost/1.json"))
    for _ in range(3):
        with pytest.raises(NotFound):
            world.fetch()
    [record] = caplog.records
    assert "policies/lost/1.json" in record.getMessage()


def test_the_timestamp_is_signed_again_when_half_of_its_time_is_over(world: ControlWorld) -> None:
    assert world.plane.control.timestamp_again(world.fleet) is False, "a fleet without trust"
    world.publish()
    world.clock.now_ms += TIMESTAMP_MS // 2
    assert world.plane.control.timestamp_again(world.fleet) is False
    world.clock.now_ms += 1000
    assert world.plane.control.timestamp_again(world.fleet) is True
    assert trusted(world).versions()["timestamp"] == 2
    assert trusted(world).snapshot_version == 1
    world.clock.now_ms += SNAPSHOT_MS // 2
    assert world.plane.control.timestamp_again(world.fleet) is True
    assert trusted(world).snapshot_version == 2
    world.clock.now_ms += SNAPSHOT_MS // 2  # the offline roles are a year old by now: nothing can be fresh
    with pytest.raises(Expired):
        world.plane.control.timestamp_again(world.fleet)


def test_a_new_online_key_takes_a_new_root(world: ControlWorld) -> None:
    world.publish()
    operators, new = world.operators, PrivateKey(41)
    rotated = operators.but(online=new)
    second = rotated.root(2, by=operators.roots)
    with pytest.raises(Refused, match="another key"):
        world.plane.publish(world.fleet, Repository([second], {}, {}))
    world.online = SigningKey(new.private)
    assert world.plane.publish(world.fleet, Repository([operators.root(), second], {}, {}))[:3] == (2, 2, 2)
    assert trusted(world).whole


def test_a_token_has_the_digest_of_the_first_root(world: ControlWorld) -> None:
    assert world.plane.create_token(world.fleet).root == b""
    world.publish()
    token = world.plane.create_token(world.fleet)
    assert token.root == sha256(world.operators.root()).digest()
    assert token.encode().startswith("agentdb2.")
    assert parse_token(token.encode()) == token


def test_without_its_key_nothing_is_published(world: ControlWorld) -> None:
    plane = ControlPlane(world.store, world.keys, world.clock, world.random)
    with pytest.raises(NotFound, match="online key"):
        plane.publish(world.fleet, world.repository())
    world.publish()
    with pytest.raises(NotFound, match="online key"):
        plane.control.timestamp_again(world.fleet)


def test_the_key_is_a_private_file_and_learned_of_when_it_is_put_there(tmp_path: Path) -> None:
    key = ControlKeyFile(tmp_path)
    assert key() is None
    for number in (1, 2):
        made = SigningKey(PrivateKey(number).private)
        ControlKeyFile(tmp_path).put(made)
        assert (tmp_path / "control.key").stat().st_mode & 0o777 == 0o600
        found = key()
        assert found is not None
        assert found.public == made.public
    other = ControlKeyFile(tmp_path)
    (tmp_path / "control.key").chmod(0o640)
    with pytest.raises(InvalidConfig, match="read by others"):
        other()
    (tmp_path / "control.key").chmod(0o600)
    for wrong in (b"-----BEGIN NOTHING-----", SigningKey(PrivateKey(1).private).public.to_pem()):
        (tmp_path / "control.key").write_bytes(wrong)
        with pytest.raises(CorruptStore):
            other()
