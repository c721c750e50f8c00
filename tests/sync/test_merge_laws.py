"""Merging is commutative, associative and idempotent, for every rule, on what real writers write: 5,000 histories each
in CI. Equality is of bytes, so that digests agree too.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync.operations import Kind, Operation, Shape
from sync.records import Record, merge, state_operation
from sync.records import fold as fold_image
from tests.sync.histories import BASE_TS, RULES, Event, fold, play

PROGRAMS = st.binary(min_size=8, max_size=56)
# Each replica writes, hears the next one, deletes, and writes again.
ROUND = bytes(
    byte for who in range(3) for step in ((200, 4, 9), (10, 0, 9), (90, 0, 0), (201, 4, 3)) for byte in (who, *step)
)


def shuffled(operations: list[Operation], program: bytes) -> list[Operation]:
    """A permutation that the program determines."""
    return random.Random(program).sample(operations, len(operations))


def shape_of(collection: str, names: tuple[str, ...]) -> Shape:
    return Shape(Kind.PUT, collection, names, "l" * len(names))


def state_of(record: Record) -> Operation:
    return state_operation("things", "key", record.encode(), shape_of)


@pytest.mark.parametrize("rule", RULES)
@settings.get_profile("laws")
@given(program=PROGRAMS)
@example(program=ROUND)
def test_merging_is_commutative_associative_and_idempotent(rule: str, program: bytes) -> None:
    operations = [event.operation for event in play(program, rule)]
    in_order = fold(operations)
    expected = in_order.encode()

    # commutative: any order of the operations, folded in memory, gives the same bytes, and shows the same
    other_order = shuffled(operations, program)
    assert fold(other_order).encode() == expected
    assert repr(fold(other_order).values()) == repr(in_order.values())

    # idempotent: each of them twice, the second time anywhere later
    again = fold(other_order)
    assert not any(again.apply(operation) for operation in operations)
    assert again.encode() == expected

    # associative: states of any three parts, joined in either grouping, or sent as state operations
    parts = [fold(other_order[start::3]) for start in range(3)]
    a, b, c = parts
    left, right = _joined(_joined(a, b), c), _joined(a, _joined(b, c))
    assert left.encode() == right.encode() == expected
    assert fold([state_of(part) for part in reversed(parts) if part.stamp.ts]).encode() == expected
    assert not right.join(a)
    assert not right.join(right)


def _joined(one: Record, other: Record) -> Record:
    """The join, leaving both as they are."""
    out = Record.decode(one.encode())
    out.join(other)
    return out


@pytest.mark.parametrize("rule", RULES)
@given(program=PROGRAMS)
def test_merge_and_fold_say_the_same_and_leave_their_arguments_alone(rule: str, program: bytes) -> None:
    record: Record | None = None
    image: bytes | None = None
    for event in play(program, rule):
        before = None if record is None else record.encode()
        merged = merge(record, event.operation)
        assert (None if record is None else record.encode()) == before
        assert merged.changed == (merged.record.encode() != before)
        record, image = merged.record, fold_image(image, event.operation)
        assert record.encode() == image
        assert Record.decode(image).encode() == image
        assert Record.decode(image).values() == record.values()


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=30)
@given(program=st.binary(min_size=12, max_size=24))
def test_every_permutation_of_a_short_history(rule: str, program: bytes) -> None:
    operations = [event.operation for event in play(program, rule)]
    images = {fold(list(order)).encode() for order in permutations(operations)}
    assert len(images) == 1


@given(st.permutations([1, 1.0, True, 0, -0.0, 0.0, "a", b"a", None, [1], [True]]), st.sampled_from("lk"))
def test_a_forger_who_uses_one_stamp_twice_cannot_split_the_fleet(values: list[Any], letter: str) -> None:
    def claim(value: Any) -> Operation:
        contribution = value if letter == "l" else [value, []]
        return Operation(b"f" * 16, 1, BASE_TS, 0, Shape(Kind.PATCH, "things", ("f",), letter), "k", (contribution,))

    claims = [claim(value) for value in values]
    record = fold(claims)
    assert record.encode() == fold(claims[::-1]).encode() == fold(sorted(claims, key=repr)).encode()
    assert not record.join(fold(claims[:5]))


def test_programs_make_histories_worth_testing() -> None:
    """Of random programs, enough have concurrent writes, deletes of what others wrote, and writing after a delete."""
    rng = random.Random(1)
    counts = dict.fromkeys(("concurrent", "deleted", "again", "inverted"), 0)
    for _ in range(300):
        events = play(rng.randbytes(56), rng.choice(RULES))
        counts["concurrent"] += any(_concurrent(events, i, j) for j in range(len(events)) for i in range(j))
        deletes = [i for i, event in enumerate(events) if event.operation.shape.kind == Kind.DELETE]
        counts["deleted"] += bool(deletes)
        counts["again"] += any(i in event.seen for i in deletes for event in events)
        stamps = [event.stamp for event in events]
        counts["inverted"] += stamps != sorted(stamps)
    assert counts["concurrent"] > 200
    assert counts["deleted"] > 50
    assert counts["again"] > 25
    assert counts["inverted"] > 100


def _concurrent(events: list[Event], first: int, second: int) -> bool:
    """Whether neither's writer had seen the other."""
    return first not in events[second].seen and second not in events[first].seen
