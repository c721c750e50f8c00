"""Operations of every kind, for the tests of what carries them: columns, segments, files."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sync.limits import STAMP_MAX
from sync.operations import Kind, Operation, Shape
from sync.records import Record, state_operation
from tests.sync.histories import BASE_TS, Event, play
from tests.sync.values import KINDS

A, B = b"A" * 16, b"B" * 16


def put(seq: int, key: str, replica: bytes = A, **fields: Any) -> Operation:
    """A PUT of last-writer fields, stamped in order of ``seq``."""
    names = tuple(sorted(fields))
    shape = Shape(Kind.PUT, "things", names, "l" * len(names))
    return Operation(replica, seq, BASE_TS + seq, seq // 2, shape, key, tuple(fields[name] for name in names))


def shape_of(collection: str, names: tuple[str, ...]) -> Shape:
    return Shape(Kind.PUT, collection, names, "l" * len(names))


def state_of(events: list[Event]) -> list[Operation]:
    """The state after each event, as state operations: plain, merged, and deleted records."""
    record = Record()
    out = []
    for event in events:
        record.apply(event.operation)
        out.append(state_operation("things", "key", record.encode(), shape_of))
    return out


def of_every_kind() -> list[Operation]:
    """A small batch that uses every kind, every rule and nearly every column codec. Always the same."""
    program = b"".join(bytes([who, 81 + 7 * who % 170, 5 * who % 251, 3 * who + 1]) for who in range(60))
    events = play(program + bytes([0, 201, 4, 7, 1, 20, 1, 15, 1, 202, 4, 3, 0, 203, 4, 9]), "mixed")
    documents = [
        put(
            i,
            f"doc-{i}",
            agent=f"a {i % 3}",
            at=BASE_TS + i * i,
            score=i / 7,
            tags=["a", "b"][: i % 3],
            text="go " * (i % 9),
        )
        for i in range(1, 40)
    ]
    odd = [
        put(50 + i, "odd", B, v=value, w=bytes([i]) * 12, x=i % 2 == 0)
        for i, value in enumerate((None, 1, "é", [1, {"a": 2.5}]))
    ]
    return [*documents, *(event.operation for event in events), *odd, *state_of(events)[-3:]]


_stamps = st.integers(1, STAMP_MAX)
_keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)
_replicas = st.sampled_from((A, B, bytes(16), b"\xff" * 16))
_value_kinds = st.sampled_from(sorted(KINDS))


@st.composite
def plain_batches(draw: st.DrawFn) -> list[Operation]:
    """Last-writer operations of a few shapes, mixed, with stamps and positions of any size."""
    shapes = []
    for number in range(draw(st.integers(1, 3))):
        kinds = draw(st.lists(_value_kinds, max_size=3))
        names = tuple(f"f{i}" for i in range(len(kinds)))
        kind = draw(st.sampled_from((Kind.PUT, Kind.PATCH)))
        shapes.append((Shape(kind, f"c{number}", names, "l" * len(names)), kinds))
    out: list[Operation] = []
    for _ in range(draw(st.integers(1, 12))):
        shape, kinds = draw(st.sampled_from(shapes))
        values = tuple(draw(KINDS[kind]) for kind in kinds)
        seq = draw(st.one_of(st.just(len(out)), st.integers(0, STAMP_MAX)))
        seen = draw(st.integers(0, STAMP_MAX))
        out.append(Operation(draw(_replicas), seq, draw(_stamps), seen, shape, draw(_keys), values))
    return out


@st.composite
def written_batches(draw: st.DrawFn) -> list[Operation]:
    """What the writers of a random history say, and the states that it goes through."""
    rule = draw(st.sampled_from(("mixed", "set", "keep-all", "counter")))
    events = play(draw(st.binary(min_size=40, max_size=120)), rule)
    operations = [event.operation for event in events]
    return operations + (state_of(events) if draw(st.booleans()) else []) or [put(1, "k")]


batches = st.one_of(plain_batches(), written_batches())
