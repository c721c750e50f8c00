"""``sync.assignments``: what the control plane signs is taken as it was signed, and only what both sides named."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from sync.assignments import (
    CONTEXT,
    Agreed,
    Assigned,
    Assignment,
    Desired,
    Signed,
    agreed,
    check_target,
    is_signed,
    open_assignment,
    seal,
)
from sync.errors import Expired, Malformed, Refused, TooLarge, UnsupportedVersion, Untrusted
from sync.limits import ASSIGNED_MODELS_MAX, ASSIGNMENT_BYTES_MAX
from sync.targets import Kind
from tests.sync.test_canonical import values
from tests.trust_world import DAY_MS, DEVICE, FLEET, NOW_MS, PrivateKey, World, flipped

DOCUMENTS = {
    "policies/kiosk/6.json": b'{"old":1}',
    "policies/kiosk/7.json": b'{"a":1}',
    "models/embed/3.json": b"[]",
    "models/rank/1.json": b"",
}
WORLD = World(documents=DOCUMENTS)
TRUSTED = WORLD.trusted()


def opened(signed: Signed, held: int = 0, now_ms: int = NOW_MS, device: bytes = DEVICE) -> Assignment:
    return open_assignment(signed, TRUSTED, FLEET, device, held, now_ms)


def by_hand(document: Any, key: PrivateKey = WORLD.online, data: bytes | None = None) -> Signed:
    """Signed as ``seal`` would, without what ``seal`` checks."""
    data = rfc8785.dumps(document) if data is None else data
    return Signed(data, key.sign(CONTEXT + data))


def document(**changed: Any) -> dict[str, Any]:
    return {**json.loads(WORLD.sealed(5).data), **changed}


@given(st.dictionaries(st.text(max_size=8), values, max_size=4), st.integers(1, 2**53 - 1))
@example({"x": 1e20}, 1)
def test_what_is_sealed_is_opened_as_it_was(state: dict[str, Any], number: int) -> None:
    assignment = WORLD.assignment(number, desired=Desired(version=3, state=state))
    assert opened(seal(assignment, WORLD.online)) == assignment


def test_its_bytes_are_these() -> None:
    assignment = WORLD.assignment(
        812,
        policy=Assigned(path="policies/kiosk/7.json", length=4096, sha256="ab" * 32, rollout="r9", stage=1),
        models={"embed": Assigned(path="models/embed/3.json", length=2, sha256="cd" * 32)},
    )
    assert seal(assignment, WORLD.online).data.decode() == (
        '{"desired":{"state":{"log":{"level":"info"}},"version":1},"device":"' + DEVICE.hex() + '",'
        '"expires_ms":1800086400000,"fleet":"000102030405060708090a0b0c0d0e0f",'
        '"models":{"embed":{"length":2,"path":"models/embed/3.json","sha256":"' + "cd" * 32 + '"}},'
        '"number":812,"policy":{"length":4096,"path":"policies/kiosk/7.json","rollout":"r9","sha256":"'
        + "ab" * 32 + '","stage":1},"snapshot":1,"time_ms":1800000000000,"v":1}'
    )  # fmt: skip


def test_every_bit_counts() -> None:
    signed = WORLD.sealed()
    for bit in range(0, 8 * len(signed.data), 13):
        with pytest.raises(Untrusted, match="not signed"):
            opened(signed._replace(data=flipped(signed.data, bit)))
    for bit in range(8 * len(signed.signature)):
        with pytest.raises(Untrusted, match="not signed"):
            opened(signed._replace(signature=flipped(signed.signature, bit)))


def test_who_signs_and_what_for() -> None:
    data = WORLD.sealed().data
    for key in (*WORLD.roots, *WORLD.targets, *WORLD.policies, PrivateKey(99)):
        with pytest.raises(Untrusted, match="not signed"):
            opened(by_hand(None, key, data))
    with pytest.raises(Untrusted, match="not signed"):
        opened(Signed(data, WORLD.online.sign(data)))  # as metadata would be: without our context
    signature = WORLD.sealed().signature
    assert opened(Signed(data, bytes(64) + signature)).number == 1, "any of the signatures"
    for wrong in (b"", signature[:-1], signature + b"x", signature * 9, bytes(64)):
        with pytest.raises(Untrusted, match="not signed"):
            opened(Signed(data, wrong))


def test_the_threshold_of_timestamp_holds_for_assignments() -> None:
    second = PrivateKey(41)

    def two_of_two(name: str, signed: Any) -> None:
        if name == "root":
            signed.add_key(second.signer.public_key, "timestamp")
            signed.roles["timestamp"].threshold = 2

    trusted = WORLD.but(change=two_of_two).pinned()
    signed = WORLD.sealed()
    assert not is_signed(signed, trusted)
    assert not is_signed(signed._replace(signature=signed.signature * 2), trusted)
    assert is_signed(signed._replace(signature=signed.signature + second.sign(CONTEXT + signed.data)), trusted)


def test_it_is_of_this_fleet_and_device_newer_and_beside_this_snapshot() -> None:
    assert opened(WORLD.sealed(5), held=4).number == 5
    for held in (5, 6, 10**9):
        with pytest.raises(Untrusted, match="not newer"):
            opened(WORLD.sealed(5), held=held)
    with pytest.raises(Untrusted, match="another device"):
        opened(WORLD.sealed(5), device=bytes(12))
    with pytest.raises(Untrusted, match="another fleet"):
        opened(WORLD.sealed(5, fleet=bytes(16).hex()))
    for snapshot in (0, 2):
        with pytest.raises(Untrusted, match="beside snapshot"):
            opened(WORLD.sealed(5, snapshot=snapshot))
    with pytest.raises(Untrusted, match="beside snapshot"):
        open_assignment(WORLD.sealed(5, snapshot=0), WORLD.pinned(), FLEET, DEVICE, 0, NOW_MS)


def test_it_expires_and_so_does_what_it_was_signed_beside() -> None:
    signed = WORLD.sealed(expires_ms=NOW_MS + 100 * DAY_MS)
    assert opened(signed, now_ms=NOW_MS + 30 * DAY_MS - 1).number == 1
    with pytest.raises(Expired, match="timestamp"):
        opened(signed, now_ms=NOW_MS + 30 * DAY_MS)
    assert opened(WORLD.sealed(), now_ms=NOW_MS + DAY_MS - 1).number == 1
    with pytest.raises(Expired, match="it has expired"):
        opened(WORLD.sealed(), now_ms=NOW_MS + DAY_MS)


def test_the_time_within_cannot_be_later_than_the_expiry() -> None:
    with pytest.raises(Malformed, match="expires"):
        seal(WORLD.assignment(time_ms=NOW_MS + DAY_MS), WORLD.online)
    with pytest.raises(Malformed, match="expires"):
        opened(by_hand(document(time_ms=NOW_MS + 2 * DAY_MS)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'"number":5', b'"number":5,"number":6'),
        lambda text: text.replace(b'"v":1}', b'"v":1} '),
        lambda text: text.replace(b'"number":5', b'"number":5.0'),
        lambda text: text.replace(b'"number":5', b'"number":5e0'),
        lambda text: text.replace(b"kiosk", b"k\\u0069osk"),
        lambda text: b"[" * 100_000,
        lambda text: b"\xff" + text,
        lambda text: b"[1]",
        lambda text: b"null",
        lambda text: b"",
        lambda text: text.replace(b'"number":5', b'"number":NaN'),
        lambda text: text.replace(b'"number":5', b'"number":9007199254740993'),
    ],
)
def test_it_has_one_reading(change: Any) -> None:
    with pytest.raises(Malformed, match="canonical"):
        opened(by_hand(None, data=change(rfc8785.dumps(document()))))


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 0},
        {"number": "5"},
        {"number": True},
        {"extra": 1},
        {"device": "00"},
        {"fleet": FLEET.hex().upper()},
        {"fleet": FLEET.hex() + "\n"},
        {"device": DEVICE.hex() + "\n"},
        {"policy": {"path": "policies/kiosk/7.json"}},
        {"policy": {"path": "x" * 129, "length": 1, "sha256": "ab" * 32}},
        {"policy": {"path": "policies/kiosk/7.json", "length": -1, "sha256": "ab" * 32}},
        {"policy": {"path": "policies/kiosk/7.json", "length": 1, "sha256": "ab" * 32 + "\n"}},
        {"models": {f"m{n}": document()["policy"] for n in range(ASSIGNED_MODELS_MAX + 1)}},
        {"desired": {"version": 1}},
    ],
)
def test_its_schema_is_closed(changed: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="as it should be"):
        opened(by_hand(document(**changed)))


def test_a_later_version_says_so() -> None:
    for version in (2, "1", True, None):
        with pytest.raises(UnsupportedVersion):
            opened(by_hand(document(v=version)))


def test_it_is_bounded_before_anything_else() -> None:
    with pytest.raises(TooLarge):
        opened(Signed(b"x" * (ASSIGNMENT_BYTES_MAX + 1), b""))
    with pytest.raises(TooLarge):
        seal(WORLD.assignment(desired=Desired(version=1, state={"x": "y" * ASSIGNMENT_BYTES_MAX})), WORLD.online)


@pytest.mark.parametrize("value", [2**53, float("nan"), float("inf"), b"bytes", object()])
def test_what_no_device_would_take_is_not_sealed(value: object) -> None:
    with pytest.raises(Malformed):
        seal(WORLD.assignment(desired=Desired(version=1, state={"x": value})), WORLD.online)
    with pytest.raises(Malformed):
        seal(WORLD.assignment(number=0), WORLD.online)


# -- agreed ------------------------------------------------------------------------------------------------------------


def test_both_sides_name_what_runs() -> None:
    models = {name: WORLD.assigned(f"models/{name}/{n}.json", rollout="r1") for name, n in (("rank", 1), ("embed", 3))}
    assignment = WORLD.assignment(policy=WORLD.assigned("policies/kiosk/7.json", rollout="r9", stage=2), models=models)
    found = agreed(assignment, TRUSTED)
    assert [(one.kind, one.path, one.rollout, one.stage) for one in found] == [
        (Kind.POLICY, "policies/kiosk/7.json", "r9", 2),
        (Kind.MODEL, "models/embed/3.json", "r1", 0),
        (Kind.MODEL, "models/rank/1.json", "r1", 0),
    ]
    for one in found:
        check_target(one, DOCUMENTS[one.path])
        for wrong in (DOCUMENTS[one.path] + b" ", b"{}", DOCUMENTS["policies/kiosk/6.json"]):
            with pytest.raises(Untrusted, match="not the bytes"):
                check_target(one, wrong)
    assert agreed(WORLD.assignment(policy=None), TRUSTED) == []


def refusal(changed: Assigned, trusted: Any = TRUSTED, running: tuple[bytes, ...] = ()) -> list[Agreed]:
    return agreed(WORLD.assignment(policy=changed), trusted, running)


def test_what_only_one_side_named_is_refused() -> None:
    good = WORLD.assigned("policies/kiosk/7.json")
    with pytest.raises(Refused, match="no offline key"):
        refusal(Assigned(path="policies/kiosk/8.json", length=good.length, sha256=good.sha256))
    with pytest.raises(Refused, match="no offline key"):
        refusal(good, WORLD.pinned())
    with pytest.raises(Refused, match="another length or digest"):
        refusal(Assigned(path=good.path, length=good.length + 1, sha256=good.sha256))
    with pytest.raises(Refused, match="another length or digest"):
        refusal(Assigned(path=good.path, length=good.length, sha256="00" * 32))
    with pytest.raises(Malformed, match="path of a target"):
        refusal(Assigned(path="policies/kiosk/../7.json", length=1, sha256="00" * 32))


def test_a_target_is_assigned_where_it_belongs() -> None:
    with pytest.raises(Refused, match="assigned as policies"):
        refusal(WORLD.assigned("models/embed/3.json"))
    with pytest.raises(Refused, match="assigned as models/rank"):
        agreed(WORLD.assignment(models={"rank": WORLD.assigned("models/embed/3.json")}), TRUSTED)
    with pytest.raises(Refused, match="assigned as models/rank"):
        agreed(WORLD.assignment(models={"rank": WORLD.assigned("policies/kiosk/7.json")}), TRUSTED)


def test_a_floor_is_for_what_is_newly_assigned() -> None:
    world = WORLD.but(floors={"policies/kiosk/7.json": 7})
    trusted = world.trusted()
    assert refusal(world.assigned("policies/kiosk/7.json"), trusted)[0].number == 7
    old = world.assigned("policies/kiosk/6.json")
    with pytest.raises(Refused, match="below the floor"):
        refusal(old, trusted)
    assert refusal(old, trusted, (bytes.fromhex(old.sha256),))[0].number == 6, "it runs already"


def test_a_held_assignment_whose_key_was_replaced_is_no_floor_any_more() -> None:
    rotated = WORLD.but(online=PrivateKey(41))
    moved = TRUSTED.update(rotated.offer(1, roots=(rotated.root(2),)), NOW_MS)
    held = WORLD.sealed(2**53 - 1)
    assert is_signed(held, TRUSTED)
    assert not is_signed(held, moved)
    assert open_assignment(rotated.sealed(1), moved, FLEET, DEVICE, 0, NOW_MS).number == 1
