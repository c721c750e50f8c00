"""Quantised vectors: their error is bounded, they are the same everywhere, and storing again changes nothing."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.storage.vectors import numbers_of
from sync.columns import decode, encode
from sync.errors import InvalidValue, SchemaMismatch
from sync.operations import Kind, Operation, Shape
from sync.precisions import PRECISIONS, check_stored, load, store, stored_bytes
from sync.schema import CollectionSchema, VectorSpec, check_successor, declare, pack_vector

any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
halves = st.floats(-65504, 65504, width=32)
vectors = st.lists(any_float, min_size=1, max_size=40)


def _packed(numbers: list[float]) -> bytes:
    return array("f", numbers).tobytes()


@given(vectors)
def test_an_int8_number_is_half_a_scale_off_at_most(numbers: list[float]) -> None:
    stored = store(_packed(numbers), "int8")
    assert len(stored) == stored_bytes(len(numbers), "int8") == 4 + len(numbers)
    peak = max(map(abs, numbers))
    bound = max(peak / 127 * (1 + 2**-15) / 2, 2.0**-127)
    assert all(abs(a - b) <= bound for a, b in zip(numbers, load(stored, "int8"), strict=True))


@given(st.lists(halves, min_size=1, max_size=40))
def test_a_float16_number_is_a_2048th_off_at_most(numbers: list[float]) -> None:
    stored = store(_packed(numbers), "float16")
    assert len(stored) == 2 * len(numbers)
    loaded = load(stored, "float16")
    assert all(abs(a - b) <= max(abs(a) * 2**-11, 2**-25) for a, b in zip(numbers, loaded, strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
@given(st.lists(halves, min_size=1, max_size=40))
def test_what_was_stored_is_stored_as_the_same_bytes(precision: str, numbers: list[float]) -> None:
    stored = store(_packed(numbers), precision)
    check_stored(stored, len(numbers), precision, "v")
    assert store(load(stored, precision).tobytes(), precision) == stored
    assert numbers_of(precision, stored).tobytes() == load(stored, precision).tobytes(), "numpy and array agree"


@given(vectors)
def test_int8_holds_all_that_float32_holds(numbers: list[float]) -> None:
    stored = store(_packed(numbers), "int8")
    check_stored(stored, len(numbers), "int8", "v")
    assert store(load(stored, "int8").tobytes(), "int8") == stored


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidValue, match="65,504"):
        store(_packed([1.0, 1e6]), "float16", "v")


@pytest.mark.parametrize(
    ("stored", "precision"),
    [
        (b"\x00\x7c\x00\x00", "float16"), (b"\x00\x00\xc0\x7f\x01\x01", "int8"), (b"\x00\x00\x80\xbf\x01\x01", "int8"),
        (b"\x00\x00\x80\x3f\x80\x01", "int8"), (b"\xff\xff\x7f\x7f\x01\x01", "int8"),
        (b"\x00\x00\x80\x7f\x00\x00\x00\x00", "float32"),
    ],
)  # fmt: skip
def test_a_strangers_bytes_are_looked_at(stored: bytes, precision: str) -> None:
    with pytest.raises(InvalidValue):
        check_stored(stored, 2, precision, "v")
    with pytest.raises(SchemaMismatch, match="bytes"):
        check_stored(stored, 3, precision, "v")


def test_a_declaration_without_a_precision_is_the_bytes_that_it_was() -> None:
    old = declare("c", vector=("v", 4, "dot", "m"))
    assert old.to_document()["vector"] == ["v", 4, "dot", "m"]
    new = declare("c", vector=("v", 4, "dot", "m", "int8"))
    assert new.to_document()["vector"] == ["v", 4, "dot", "m", "int8"]
    for schema in (old, new):
        assert CollectionSchema.from_document("c", schema.to_document()) == schema
    with pytest.raises(SchemaMismatch, match="stored as float32"):
        check_successor(old, new)
    with pytest.raises(SchemaMismatch, match="unknown precision 'float8'"):
        declare("c", vector=("v", 4, "dot", "", "float8"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_segment_carries_them_as_they_are(precision: str) -> None:
    rng = np.random.default_rng(3)
    spec = VectorSpec("v", 32, precision=precision)
    shape = Shape(Kind.PUT, "c", ("v",), "l")
    rows = [spec.pack(rng.standard_normal(32).astype(np.float32)) for _ in range(50)]
    operations = [Operation(b"r" * 16, 1 + at, 1000 + at, 0, shape, f"k{at}", (row,)) for at, row in enumerate(rows)]
    body = encode(operations)
    assert decode(body) == operations
    assert len(body) < 50 * (spec.stored_bytes + 16) + 300


def test_packing_is_by_the_precision_of_the_declaration() -> None:
    schema = declare("c", vector=("v", 2, "l2", "", "float16"))
    assert schema.normalise({"v": [1.0, 0.1]}) == {"v": store(pack_vector([1.0, 0.1], 2), "float16")}
