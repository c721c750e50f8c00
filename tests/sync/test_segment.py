"""Segments: what is sealed opens to the same, passes through others unchanged, and costs what it should."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import BrokenChain, DecryptionFailed, Malformed, TooLarge
from sync.keys import KeyRing
from sync.limits import CLEAR_META_BYTES_MAX, SEGMENT_SEALED_BYTES_MAX
from sync.operations import Kind, Operation, Shape
from sync.segment import (
    FLAG_FEED,
    FLAG_LAST,
    FLAG_STATE,
    GENESIS,
    HEADER_BYTES,
    SIGNATURE_BYTES,
    SegmentHeader,
    expect,
    pack,
    parse_header,
    seal_packed,
    segment_id,
    unpack,
)
from tests.sync.histories import BASE_TS
from tests.sync.operations import A, B, batches, of_every_kind, put
from tests.sync.sealing import DEVICE, FLEET, OTHER, RING, a_few, opened, sealed
from tests.sync.values import same


def anything(header: SegmentHeader) -> None:
    """Every header will do."""


@given(batches, st.binary(max_size=40))
def test_what_is_sealed_opens_to_the_same(operations: list[Operation], clear: bytes) -> None:
    segment = sealed(operations, flags=FLAG_FEED, clear=clear)
    result = opened(segment.data, check=anything)
    assert result.operations == operations
    assert same([o.values for o in result.operations], [o.values for o in operations])
    assert (result.header, result.id, result.clear) == (segment.header, segment.id, clear)
    assert unpack(result.packed.data, result.packed.plain_length) == operations


def test_the_header_says_what_is_inside() -> None:
    operations = a_few()
    segment = sealed(operations, clear=b"clear", previous=b"p" * 32)
    header = parse_header(segment.data)
    assert header == segment.header
    assert (header.fleet, header.stream, header.replica, header.previous) == (FLEET, A, A, b"p" * 32)
    assert (header.epoch, header.key_id, header.flags) == (7, DEVICE.key_id, 0)
    assert (header.first_seq, header.last_seq, header.count) == (1, 3, 3)
    assert (header.min_ts, header.max_ts) == (BASE_TS + 1, BASE_TS + 3)
    assert segment.data[HEADER_BYTES : HEADER_BYTES + 5] == b"clear"
    assert len(segment.data) == HEADER_BYTES + 5 + header.body_length + SIGNATURE_BYTES
    assert segment.id == segment_id(segment.data) == sha256(segment.data[:-SIGNATURE_BYTES]).digest()


def test_packed_columns_pass_through_unchanged() -> None:
    """The cloud seals what devices packed, under its own key and chain, without encoding it again."""
    first = opened(sealed(a_few()).data)
    again = seal_packed(
        first.packed, fleet=FLEET, stream=B, replica=B, first_seq=812, previous=first.id, ring=RING, signer=OTHER,
        flags=FLAG_FEED, clear=b"\x91\x05",
    )  # fmt: skip
    check = expect(fleet=FLEET, stream=B, previous=first.id, first_seq=812)
    second = opened(again.data, known=[OTHER.public], check=check)
    assert second.packed == first.packed == pack(a_few())
    assert second.operations == first.operations
    assert second.clear == b"\x91\x05"


def test_sealing_twice_gives_two_ciphertexts_of_one_plaintext() -> None:
    one, two = sealed(a_few()), sealed(a_few())
    assert one.header == two.header
    assert one.id != two.id
    assert opened(one.data).packed == opened(two.data).packed


def test_a_batch_of_everything() -> None:
    operations = of_every_kind()
    assert opened(sealed(operations, flags=FLAG_FEED).data, check=anything).operations == operations


def test_state_has_no_seq() -> None:
    state = [operation._replace(seq=0) for operation in a_few()]
    assert opened(sealed(state, flags=FLAG_STATE | FLAG_LAST).data, check=anything).operations == state
    for flags in (0, FLAG_LAST):
        with pytest.raises(Malformed):
            opened(sealed(state, flags=flags).data, check=anything)
    with pytest.raises(Malformed):
        opened(sealed(a_few(), flags=FLAG_STATE).data, check=anything)


ONE, TWO, THREE = a_few()


@pytest.mark.parametrize(
    "operations",
    [
        [ONE, THREE],
        [TWO, ONE],
        [ONE, ONE],
        [ONE, TWO._replace(replica=B)],
        [ONE, TWO._replace(ts=ONE.ts)],
        [ONE, TWO._replace(ts=ONE.ts - 1)],
    ],
    ids=["gap", "order", "twice", "replica", "same time", "back in time"],
)
def test_a_devices_segment_is_dense_its_own_and_rises(operations: list[Operation]) -> None:
    with pytest.raises(Malformed):
        opened(sealed(operations).data, check=anything)
    assert opened(sealed(operations, flags=FLAG_FEED).data, check=anything).operations == operations


def test_the_chain() -> None:
    first = sealed([ONE])
    second = sealed([TWO], previous=first.id)
    good = expect(fleet=FLEET, stream=A, replica=A, first_seq=2, previous=first.id)
    assert opened(second.data, check=good).operations == [TWO]
    for wrong in (
        expect(fleet=b"another fleet !!", stream=A),
        expect(fleet=FLEET, stream=B),
        expect(fleet=FLEET, stream=A, replica=B),
        expect(fleet=FLEET, stream=A, first_seq=1),
        expect(fleet=FLEET, stream=A, previous=GENESIS),
    ):
        with pytest.raises(BrokenChain):
            opened(second.data, check=wrong)


def test_epochs() -> None:
    """New segments use the newest key; older ones stay readable; a key that was never given is named."""
    old = sealed(a_few(), ring=KeyRing({1: b"1" * 32}))
    assert old.header.epoch == 1
    assert opened(old.data).operations == a_few()
    with pytest.raises(DecryptionFailed, match="epoch 7"):
        opened(sealed(a_few()).data, ring=KeyRing({1: b"1" * 32}))
    with pytest.raises(DecryptionFailed):
        opened(old.data, ring=KeyRing({1: b"x" * 32}))
    with pytest.raises(DecryptionFailed, match="no fleet key"):
        sealed(a_few(), ring=KeyRing())


def test_bounds_of_what_is_sealed() -> None:
    assert opened(sealed(a_few(), clear=bytes(CLEAR_META_BYTES_MAX)).data).clear == bytes(CLEAR_META_BYTES_MAX)
    with pytest.raises(TooLarge):
        sealed(a_few(), clear=bytes(CLEAR_META_BYTES_MAX + 1))
    rng = random.Random(1)
    noise = [put(seq, "k", blob=rng.randbytes(250_000)) for seq in range(1, 6)]
    assert len(sealed(noise[:4]).data) <= SEGMENT_SEALED_BYTES_MAX
    with pytest.raises(TooLarge):
        sealed(noise)
    with pytest.raises(TooLarge):
        pack([put(seq, "k", blob=bytes([seq]) * 250_000) for seq in range(1, 40)])


@settings(max_examples=20)
@given(st.integers(0, 70_000))
def test_the_announced_length_of_the_ciphertext_is_the_real_one(size: int) -> None:
    """Of every size around the cipher's chunks: ``seal`` asserts it."""
    for near in (size, 16_384 - 60 + size % 120, 32_768 - 60 + size % 120):
        operation = put(1, "k", blob=random.Random(near).randbytes(near))
        assert opened(sealed([operation]).data).operations == [operation]


def test_one_field_edits_are_small() -> None:
    """1,000 edits of one field of random records: 15 bytes each, of which the key is 4 and the value 8."""
    rng = random.Random(3)
    shape = Shape(Kind.PATCH, "memories", ("importance",), "l")
    edits = [
        Operation(A, i + 1, BASE_TS + (i // 3 << 16) + i % 3, 812, shape, f"{rng.getrandbits(32):08x}", (rng.random(),))
        for i in range(1000)
    ]
    assert len(sealed(edits).data) <= 15 * len(edits)


@pytest.mark.parametrize(
    "change", [{"count": 2}, {"count": 4}, {"min_ts": 1}, {"max_ts": 1 << 62}, {"plain_length": 5}]
)
def test_a_header_that_does_not_fit_what_is_inside(change: dict[str, Any]) -> None:
    """Sealed so by somebody with all keys: whoever reads headers only, as the archive's index does, must not be
    misled.
    """
    packed = pack(a_few())._replace(**change)
    data = seal_packed(
        packed, fleet=FLEET, stream=A, replica=A, first_seq=1, previous=GENESIS, ring=RING, signer=DEVICE,
        flags=FLAG_FEED,
    ).data  # fmt: skip
    with pytest.raises(Malformed):
        opened(data, check=anything)
