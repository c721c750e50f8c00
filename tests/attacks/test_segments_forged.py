"""Signers that are not who they claim to be, keys that verify anything, and images with contents that nobody wrote."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from sync import columns
from sync.errors import BadSignature, DecryptionFailed, Malformed, TooLarge
from sync.keys import KeyRing, PublicIdentity
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from sync.segment import _HEADER, HEADER_BYTES, MAGIC, SIGNATURE_BYTES, open_segment
from tests.sync.histories import BASE_TS, play
from tests.sync.operations import A, B, state_of
from tests.sync.sealing import DEVICE, EXPECTED, OTHER, RING, a_few, opened, roster, sealed

# -- signers ----------------------------------------------------------------------------------------------------------


def test_a_signer_who_is_not_in_the_roster() -> None:
    with pytest.raises(BadSignature):
        opened(sealed(a_few(), signer=OTHER).data)


def test_a_signer_who_claims_to_be_another() -> None:
    data = sealed(a_few(), signer=OTHER).data
    header = sealed(a_few()).header
    claimed = _HEADER.pack(MAGIC, *header) + data[HEADER_BYTES:]
    with pytest.raises(BadSignature):
        opened(claimed, known=[DEVICE.public, OTHER.public])


def test_nothing_is_decrypted_before_the_signature_was_checked() -> None:
    class Untouchable:
        def key(self, epoch: int) -> bytes:
            raise AssertionError("asked for a key")

    data = sealed(a_few()).data
    ring: Any = Untouchable()
    with pytest.raises(BadSignature):
        opened(data[:-1] + bytes([data[-1] ^ 1]), ring=ring)
    with pytest.raises(AssertionError):
        opened(data, ring=ring)


def test_a_roster_that_answers_with_another_key_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        open_segment(sealed(a_few()).data, identity=lambda _: OTHER.public, ring=RING, check=EXPECTED)
    assert roster(OTHER.public)(OTHER.key_id) == OTHER.public


# The eight points of small order of edwards25519, and encodings of y or sign that are not canonical.
_P = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D4D706A17C7
SMALL_ORDER = [0, 1, _P - 1, _ORDER_8, _P - _ORDER_8]
NOT_CANONICAL = [_P, _P + 1, 2**255 - 1]


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", SMALL_ORDER + NOT_CANONICAL)
def test_signing_keys_that_verify_forgeries(y: int, sign: int) -> None:
    """A signature of (identity, 0) verifies for a small-order key whatever the message is."""
    with pytest.raises(Malformed):
        PublicIdentity.checked((y | sign).to_bytes(32, "little"), DEVICE.public.exchange)


def test_a_small_order_key_really_is_dangerous() -> None:
    """Why they are refused: the library accepts such a forgery."""
    weak = PublicIdentity((1).to_bytes(32, "little"), bytes(32))
    weak.verify((1).to_bytes(32, "little") + bytes(32), b"whatever")


# Of both curve and twist; a shared secret with any of them is zero.
TORSION = (
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
)


@pytest.mark.parametrize("encoded", [*TORSION, *(u.to_bytes(32, "little").hex() for u in (0, 1, _P - 1, _P, _P + 1))])
def test_exchange_keys_that_share_no_secret(encoded: str) -> None:
    with pytest.raises(Malformed):
        PublicIdentity.checked(DEVICE.public.signing, bytes.fromhex(encoded))


def test_points_that_are_not_on_the_curve() -> None:
    refused = 0
    for y in range(2, 40):
        try:
            PublicIdentity.checked(y.to_bytes(32, "little"), DEVICE.public.exchange)
        except Malformed:
            refused += 1
    assert 10 < refused < 30  # half of all y have no x


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_keys_of_a_wrong_length(length: int) -> None:
    with pytest.raises(Malformed):
        PublicIdentity.checked(bytes(length), DEVICE.public.exchange)
    with pytest.raises(Malformed):
        PublicIdentity.checked(DEVICE.public.signing, bytes(length))


def test_honest_keys_are_accepted() -> None:
    for key in (DEVICE, OTHER):
        assert PublicIdentity.checked(*key.public) == key.public


def test_a_revoked_epoch_opens_nothing() -> None:
    with pytest.raises(DecryptionFailed):
        opened(sealed(a_few(), ring=KeyRing({9: b"9" * 32})).data)


def test_the_signature_covers_what_precedes_it_and_its_purpose() -> None:
    """A signature over the bare id, or over other bytes of the same key, is none."""
    segment = sealed(a_few())
    for message in (segment.id, segment.data[:-SIGNATURE_BYTES], b"agentdb.enroll.v1" + segment.id):
        with pytest.raises(BadSignature):
            opened(segment.data[:-SIGNATURE_BYTES] + DEVICE.sign(message))


# -- images -----------------------------------------------------------------------------------------------------------


def image_operation(image: Any, ts: int = BASE_TS, replica: bytes = A) -> Operation:
    return Operation(replica, 0, ts, 0, Shape(Kind.IMAGE, "things"), "k", (image,))


def decode(operation: Operation) -> None:
    columns.decode(columns.encode([operation]))


def packed(*state: Any) -> bytes:
    out: bytes = msgpack.packb(list(state))
    return out


NO_FLOOR = (0, b"")
OLD = BASE_TS - 5
FORGED: dict[str, Any] = {
    "not msgpack": b"\xc1",
    "empty": b"",
    "a map": msgpack.packb({}),
    "a number": b"\x05",
    "too short": packed(BASE_TS, A),
    "too long": packed(BASE_TS, A, {}, {}, [], *NO_FLOOR, 1),
    "something behind it": packed(BASE_TS, A, {}) + b"\0",
    "fields as a list": packed(BASE_TS, A, []),
    "fields without names": packed(BASE_TS, A, {b"f": 1}),
    "a field twice": b"\x93" + msgpack.packb(BASE_TS) + msgpack.packb(A) + b"\x82\xa1f\x01\xa1f\x02",
    "a tail that says nothing": packed(BASE_TS, A, {"f": 1}, {}, [], *NO_FLOOR),
    "fields out of order": packed(BASE_TS, A, {"g": 1, "f": 2}),
    "a wide integer": b"\x93\xcf" + BASE_TS.to_bytes(8, "big") + msgpack.packb(A) + b"\x81\xa1f\xcc\x05",
    "a timestamp of text": packed("now", A, {}),
    "a timestamp of nothing": packed(None, A, {}),
    "a fractional timestamp": packed(float(BASE_TS), A, {}),
    "a short replica": packed(BASE_TS, b"A", {}),
    "a reserved field": packed(BASE_TS, A, {"_f": 1}),
    "NaN": packed(BASE_TS, A, {"f": float("nan")}),
    "nested too deep": packed(BASE_TS, A, {"f": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}),
    "an extension": packed(BASE_TS, A, {"f": msgpack.ExtType(5, b"x")}),
    "a msgpack time": packed(BASE_TS, A, {"f": msgpack.Timestamp(5, 5)}),
    "fields without any write": packed(0, b"", {"f": 1}),
    "nothing at all": packed(0, b"", {}),
    "an older field from the future": packed(BASE_TS, A, {}, {"f": [BASE_TS + 1, B, 1]}, [], *NO_FLOOR),
    "an older field below the floor": packed(BASE_TS, A, {}, {"f": [OLD, B, 1]}, [], OLD + 1, B),
    "an older field that is the newest": packed(BASE_TS, A, {}, {"f": [BASE_TS, A, 1]}, [], *NO_FLOOR),
    "a field both new and old": packed(BASE_TS, A, {"f": 1}, {"f": [OLD, A, 1]}, [], *NO_FLOOR),
    "a floor above the newest write": packed(BASE_TS, A, {"f": 1}, {}, [], BASE_TS + 1, A),
    "a floor without a replica": packed(BASE_TS, A, {"f": 1}, {}, [], OLD, b""),
    "a floor that is not one": packed(BASE_TS, A, {"f": 1}, {"g": [OLD, A, 1]}, [], 0, A),
    "a floor of text": packed(BASE_TS, A, {"f": 1}, {}, [], "then", A),
    "an unknown rule": packed(BASE_TS, A, {}, {}, [["f", "q", [[A, OLD, 1, 1]]]], *NO_FLOOR),
    "a rule that is a list": packed(BASE_TS, A, {}, {}, [["f", [], [[A, OLD, 1, 1]]]], *NO_FLOOR),
    "last-writer slots": packed(BASE_TS, A, {}, {}, [["f", "l", [[A, OLD, 1, 1]]]], *NO_FLOOR),
    "no slots": packed(BASE_TS, A, {}, {}, [["f", "c", []]], *NO_FLOOR),
    "a counter of text": packed(BASE_TS, A, {}, {}, [["f", "c", [[A, OLD, 1, "1"]]]], *NO_FLOOR),
    "a counter that was removed": packed(BASE_TS, A, {}, {}, [["f", "c", [[A, OLD, 0, 1]]]], *NO_FLOOR),
    "a counter of infinity": packed(BASE_TS, A, {}, {}, [["f", "c", [[A, OLD, 1, float("inf")]]]], *NO_FLOOR),
    "a contribution from the future": packed(BASE_TS, A, {}, {}, [["f", "c", [[B, BASE_TS + 1, 1, 1]]]], *NO_FLOOR),
    "a contribution at the end of time": packed(BASE_TS, A, {}, {}, [["f", "x", [[B, 2**64 - 1, 1, 1]]]], *NO_FLOOR),
    "contributions out of order": packed(BASE_TS, A, {}, {}, [["f", "c", [[B, OLD, 1, 1], [A, OLD, 1, 1]]]], *NO_FLOOR),
    "contributions of one replica": packed(
        BASE_TS, A, {}, {}, [["f", "c", [[A, OLD, 1, 1], [A, OLD + 1, 1, 1]]]], *NO_FLOOR
    ),
    "neither live nor removed": packed(BASE_TS, A, {}, {}, [["f", "s", [["x", A, OLD, 2]]]], *NO_FLOOR),
    "live by truth": packed(BASE_TS, A, {}, {}, [["f", "s", [["x", A, OLD, True]]]], *NO_FLOOR),
    "an element of None": packed(BASE_TS, A, {}, {}, [["f", "s", [[None, A, OLD, 1]]]], *NO_FLOOR),
    "an element that is a list": packed(BASE_TS, A, {}, {}, [["f", "s", [[[], A, OLD, 1]]]], *NO_FLOOR),
    "an element of truth": packed(BASE_TS, A, {}, {}, [["f", "s", [[True, A, OLD, 1]]]], *NO_FLOOR),
    "elements 1 and True": packed(BASE_TS, A, {}, {}, [["f", "s", [[1, A, OLD, 1], [True, A, OLD + 1, 1]]]], *NO_FLOOR),
    "mixed elements out of order": packed(
        BASE_TS, A, {}, {}, [["f", "s", [["x", A, OLD, 1], [1, A, OLD, 1]]]], *NO_FLOOR
    ),
    "a removed sibling with a value": packed(BASE_TS, A, {}, {}, [["f", "k", [[A, OLD, 0, "v"]]]], *NO_FLOOR),
    "a sibling without a value": packed(BASE_TS, A, {}, {}, [["f", "k", [[A, OLD, 1, None]]]], *NO_FLOOR),
    "a sibling that is too deep": packed(
        BASE_TS, A, {}, {}, [["f", "k", [[A, OLD, 1, [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]], *NO_FLOOR
    ),
    "names out of order": packed(
        BASE_TS, A, {}, {}, [["g", "c", [[A, OLD, 1, 1]]], ["f", "c", [[A, OLD, 1, 1]]]], *NO_FLOOR
    ),
    "a name twice": packed(BASE_TS, A, {}, {}, [["f", "c", [[A, OLD, 1, 1]]]] * 2, *NO_FLOOR),
    "names of mixed types": packed(BASE_TS, A, {}, {"f": [OLD, A, 1], b"g": [OLD, A, 1]}, [], *NO_FLOOR),
    "text": "image",
}


@pytest.mark.parametrize("what", FORGED)
def test_an_image_that_no_writer_makes(what: str) -> None:
    with pytest.raises(Malformed):
        decode(image_operation(FORGED[what]))


@pytest.mark.parametrize("rule", ["mixed", "set", "keep-all", "counter", "max"])
def test_images_that_writers_make_are_accepted_and_only_under_their_own_stamp(rule: str) -> None:
    program = bytes(range(7, 250)) + bytes(range(250, 90, -1))
    states = [operation for operation in state_of(play(program, rule)) if operation.shape.kind == Kind.IMAGE]
    assert len(states) > 5
    for operation in states:
        decode(operation)
        for wrong in (operation._replace(ts=operation.ts - 1), operation._replace(ts=operation.ts + 1)):
            with pytest.raises(Malformed):
                decode(wrong)
        with pytest.raises(Malformed):
            decode(operation._replace(replica=b"\xee" * 16))


def test_every_byte_of_an_image_altered() -> None:
    """What still decodes is another state that a writer could have made; nothing else gets through."""
    operation = state_of(play(bytes(range(7, 250)), "mixed"))[-1]
    image = operation.values[0]
    accepted = 0
    for index in range(len(image)):
        for byte in (image[index] ^ 1, image[index] ^ 0x80, 0xC0, 0x90, 0xFF):
            changed = image[:index] + bytes([byte]) + image[index + 1 :]
            try:
                decode(operation._replace(values=(changed,)))
            except (Malformed, TooLarge):
                continue
            accepted += 1
            record = Record.decode(changed)
            joined = Record()
            joined.join(record)
            assert joined.encode() == changed
            assert joined.stamp == (operation.ts, operation.replica)
            joined.values()
    assert 0 < accepted < len(image) * 5 / 2
