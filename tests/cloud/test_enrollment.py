"""Joining a fleet: who is let in, who is not, that a lost answer costs nothing, and that all of it is on the record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud.identity import audit
from cloud.identity.enrollment import EPOCHS_SENT_MAX, TOKEN_TTL_S_MAX
from cloud.rows import DeviceRow
from sync.errors import InvalidValue, Malformed, NotFound, Refused, StorageError, Unauthenticated
from sync.keys import unwrap
from sync.messages import enroll_proof
from sync.tokens import fingerprint
from tests.cloud.identity_world import World, enroll_request


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def _roster(world: World) -> list[DeviceRow]:
    return world.enrollment.devices(world.fleet)


def test_a_device_joins_and_can_read_what_the_fleet_writes(world: World) -> None:
    key, token = world.new_key(), world.token()
    answer = world.enrollment.enroll(enroll_request(token, key, "kiosk 7"))

    assert (answer.fleet, answer.device) == (world.fleet, key.device_id)
    assert token.fingerprint == fingerprint(world.keys.service_key.public)
    assert answer.cloud_signing == world.keys.service_key.public.signing
    [wrapped] = answer.keys
    assert unwrap(wrapped.wrapped, key, world.fleet, wrapped.epoch) == world.keys.ring(world.fleet).key(1)
    [row] = _roster(world)
    assert (row.name, row.priority, row.revoked_ms, row.identity) == ("kiosk 7", 0, 0, key.public)
    assert world.actions() == ["fleet.created", "token.created", "device.enrolled"]


def test_the_same_token_with_the_same_key_gets_the_same_identity(world: World) -> None:
    key, token = world.new_key(), world.token(uses=1)
    first = world.enrollment.enroll(enroll_request(token, key))
    world.clock.now_ms += 48 * 3600 * 1000  # the answer was lost, and the device came back two days later
    again = world.enrollment.enroll(enroll_request(token, key, "another name"))

    assert (first.fleet, first.device) == (again.fleet, again.device)
    assert [row.name for row in _roster(world)] == ["device"]
    assert world.actions()[-1] == "device.rejoined"


def test_a_member_uses_up_no_further_token(world: World) -> None:
    key = world.joined()
    token = world.token(uses=1)
    world.enrollment.enroll(enroll_request(token, key))
    world.enrollment.enroll(enroll_request(token, world.new_key()))
    assert len(_roster(world)) == 2


def test_a_token_has_as_many_uses_as_it_was_given(world: World) -> None:
    token = world.token(uses=2)
    for _ in range(2):
        world.enrollment.enroll(enroll_request(token, world.new_key()))
    with pytest.raises(Refused, match="used up"):
        world.enrollment.enroll(enroll_request(token, world.new_key()))
    assert len(_roster(world)) == 2


def test_a_refusal_is_on_the_record_though_it_changes_nothing(world: World) -> None:
    token = world.token(ttl_s=60)
    world.clock.now_ms += 60_000
    with pytest.raises(Refused, match="expired"):
        world.enrollment.enroll(enroll_request(token, world.new_key()))
    assert world.actions()[-1] == "device.refused"
    with world.store.reading() as view:
        held = view.token(token.id)
    assert held is not None
    assert held.uses == 1
    assert _roster(world) == []


def test_the_store_does_not_hold_the_secret(world: World) -> None:
    token = world.token()
    with world.store.reading() as view:
        [row] = view.tokens(world.fleet)
        trail = view.audit(world.fleet)
    assert token.secret not in row
    assert token.secret.hex() not in repr(trail)
    assert repr(token.secret)[2:-1] not in repr(trail)


def test_a_wrong_secret(world: World) -> None:
    token = world.token()
    with pytest.raises(Unauthenticated):
        world.enrollment.enroll(enroll_request(token._replace(secret=bytes(32)), world.new_key()))
    with pytest.raises(Unauthenticated):
        world.enrollment.enroll(enroll_request(token._replace(id=bytes(16)), world.new_key()))
    assert _roster(world) == []


def test_a_proof_over_something_else(world: World) -> None:
    token, key = world.token(), world.new_key()
    request = enroll_request(token, key)
    other = enroll_proof(token.id, key.public.signing, key.public.exchange, "another name")
    for changed in (
        msgspec.structs.replace(request, proof=bytes(64)),
        msgspec.structs.replace(request, proof=key.sign(other)),
        msgspec.structs.replace(request, exchange=world.new_key().public.exchange),
        msgspec.structs.replace(request, signing=world.new_key().public.signing),
    ):
        with pytest.raises(Unauthenticated):
            world.enrollment.enroll(changed)
    assert _roster(world) == []


def test_an_exchange_key_that_gives_no_secret(world: World) -> None:
    token, key = world.token(), world.new_key()
    proof = key.sign(enroll_proof(token.id, key.public.signing, bytes(32), "device"))
    request = msgspec.structs.replace(enroll_request(token, key), exchange=bytes(32), proof=proof)
    with pytest.raises(Malformed, match="X25519"):
        world.enrollment.enroll(request)
    assert _roster(world) == []


def test_a_name_that_would_confuse_a_terminal(world: World) -> None:
    with pytest.raises(InvalidValue):
        world.enrollment.enroll(enroll_request(world.token(), world.new_key(), "a\x1b[2Jb"))


def test_a_signing_key_with_two_exchange_keys(world: World) -> None:
    key, other = world.joined(), world.new_key()
    token = world.token()
    proof = key.sign(enroll_proof(token.id, key.public.signing, other.public.exchange, "device"))
    request = msgspec.structs.replace(enroll_request(token, key), exchange=other.public.exchange, proof=proof)
    with pytest.raises(Refused):
        world.enrollment.enroll(request)


def test_a_key_belongs_to_one_fleet(world: World) -> None:
    key = world.joined()
    elsewhere = world.enrollment.create_fleet("elsewhere").fleet
    token = world.enrollment.create_token(elsewhere)
    with pytest.raises(Refused, match="another fleet"):
        world.enrollment.enroll(enroll_request(token, key))
    assert world.enrollment.devices(elsewhere) == []


def test_who_is_revoked_stays_out_and_gets_no_newer_key(world: World) -> None:
    key = world.joined()
    stays = world.joined("stays")
    row = world.enrollment.revoke(world.fleet, key.device_id, reason="stolen")
    assert row.revoked_ms == world.clock.now_ms
    assert world.keys.ring(world.fleet).epochs() == (1, 2)
    with world.store.reading() as view:
        assert [epoch.epoch for epoch in view.epochs(world.fleet)] == [1, 2]

    with pytest.raises(Refused, match="revoked"):
        world.enrollment.enroll(enroll_request(world.token(), key))
    answer = world.enrollment.enroll(enroll_request(world.token(), stays))
    assert [wrapped.epoch for wrapped in answer.keys] == [1, 2]

    trail = world.actions()
    world.enrollment.revoke(world.fleet, key.device_id)  # again: nothing
    assert world.actions() == trail
    assert world.keys.ring(world.fleet).epochs() == (1, 2)


def test_a_revocation_that_failed_before_there_was_a_new_key_makes_one_the_next_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.joined()

    def fails(fleet: bytes) -> int:
        raise StorageError("the disk of the keys is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.keys, "create_epoch", fails)
        with pytest.raises(StorageError):
            world.enrollment.revoke(world.fleet, key.device_id)
    assert world.keys.ring(world.fleet).epochs() == (1,)
    world.enrollment.revoke(world.fleet, key.device_id)
    assert world.keys.ring(world.fleet).epochs() == (1, 2)
    world.enrollment.revoke(world.fleet, key.device_id)
    assert world.keys.ring(world.fleet).epochs() == (1, 2)


def test_priority(world: World) -> None:
    key = world.joined()
    world.enrollment.set_priority(world.fleet, key.device_id, 7)
    assert [row.priority for row in _roster(world)] == [7]
    with pytest.raises(InvalidValue):
        world.enrollment.set_priority(world.fleet, key.device_id, 1 << 40)
    with pytest.raises(NotFound):
        world.enrollment.set_priority(world.fleet, bytes(12), 7)
    with pytest.raises(NotFound):
        world.enrollment.revoke(world.enrollment.create_fleet("other").fleet, key.device_id)


@pytest.mark.parametrize(("ttl_s", "uses"), [(0, 1), (TOKEN_TTL_S_MAX + 1, 1), (60, 0), (60, 10_000_000)])
def test_tokens_have_bounds(world: World, ttl_s: int, uses: int) -> None:
    with pytest.raises(InvalidValue):
        world.token(uses=uses, ttl_s=ttl_s)


def test_a_token_for_a_fleet_that_does_not_exist(world: World) -> None:
    with pytest.raises(NotFound):
        world.enrollment.create_token(bytes(16))


def test_a_long_history_of_keys_is_cut_to_the_newest(world: World) -> None:
    for _ in range(EPOCHS_SENT_MAX):
        world.keys.create_epoch(world.fleet)
    key = world.new_key()
    answer = world.enrollment.enroll(enroll_request(world.token(), key))
    assert [wrapped.epoch for wrapped in answer.keys] == list(range(2, EPOCHS_SENT_MAX + 2))


def test_the_audit_trail_shows_what_was_changed(world: World) -> None:
    world.joined()
    with world.store.reading() as view:
        rows = view.audit(world.fleet)
    assert audit.broken(world.fleet, rows) is None
    for index, row in enumerate(rows):
        for changed in (
            row._replace(actor="somebody else"),
            row._replace(at_ms=row.at_ms + 1),
            row._replace(details={**row.details, "x": 1}),
        ):
            assert audit.broken(world.fleet, [*rows[:index], changed, *rows[index + 1 :]]) == row.number
        without = [*rows[:index], *rows[index + 1 :]]
        assert audit.broken(world.fleet, without) == (row.number if without[index:] else None)
    assert audit.broken(bytes(16), rows) == 1
