"""What merged records show, compared with models that say it in terms of who had seen what, not of slots and floors."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import InvalidValue
from sync.limits import INT_MAX, INT_MIN
from sync.operations import Kind, Operation, Shape
from sync.records import Record, compose, compose_add, compose_increment, compose_remove
from sync.stamps import NEVER, Stamp
from sync.values import check_value, element_order
from tests.sync.histories import BASE_TS, FIELDS, LETTERS, Event, fold, letter_of, play

PROGRAMS = st.binary(min_size=8, max_size=64)
HISTORIES = settings(max_examples=500)
A, B, C = bytes([1]) * 16, bytes([2]) * 16, bytes([3]) * 16


def living(events: list[Event]) -> dict[int, Event]:
    """The writes that no delete covers, by place in the history."""
    deletes = [event.stamp for event in events if event.operation.shape.kind == Kind.DELETE]
    floor = max(deletes, default=NEVER)
    return {place: event for place, event in enumerate(events) if event.stamp > floor}


def writes_of(events: dict[int, Event], name: str) -> dict[int, Event]:
    return {place: event for place, event in events.items() if name in event.operation.shape.names}


def value_in(event: Event, name: str) -> Any:
    return event.operation.fields[name]


def same(one: Any, other: Any) -> bool:
    """Equal with equal types: 1, 1.0 and True are three values."""
    return repr(one) == repr(other)


@HISTORIES
@given(program=PROGRAMS)
def test_last_writer_is_the_largest_stamp(program: bytes) -> None:
    events = play(program, "lww")
    shown: dict[str, Any] = {}
    for event in sorted(living(events).values(), key=lambda event: event.stamp):
        shown.update(event.operation.fields)
    expected = {name: value for name, value in sorted(shown.items()) if value is not None}
    assert same(fold([event.operation for event in events]).values(), expected)


@HISTORIES
@given(program=PROGRAMS)
def test_alive_is_written_after_the_last_delete(program: bytes) -> None:
    events = play(program, "mixed")
    record = fold([event.operation for event in events])
    assert record.alive == bool(living(events))
    assert record.stamp == max((event.stamp for event in events), default=NEVER)
    if not record.alive:
        assert record.values() == {}
        assert not record.lww
        assert not record.slots


@HISTORIES
@given(program=PROGRAMS)
def test_counters_sum_what_every_replica_last_said(program: bytes) -> None:
    events = play(program, "counter")
    record = fold([event.operation for event in events])
    for name in FIELDS:
        totals: dict[bytes, Any] = {}
        for event in sorted(writes_of(living(events), name).values(), key=lambda event: event.stamp):
            totals[event.operation.replica] = value_in(event, name)
        assert same(record.values().get(name), sum(totals[r] for r in sorted(totals)) if totals else None)


@HISTORIES
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=30), st.randoms(use_true_random=False))
def test_counters_sum_all_increments(steps: list[tuple[int, int]], rng: Any) -> None:
    """Whatever each replica has heard of the others when it increments."""
    everyone = [Record() for _ in range(4)]
    operations = []
    for at, (who, by) in enumerate(steps):
        replica = bytes([who]) * 16
        value = compose_increment(everyone[who], "n", by, replica)
        operation = Operation(replica, 1, BASE_TS + at, 0, Shape(Kind.INCREMENT, "things", ("n",), "c"), "k", (value,))
        operations.append(operation)
        for other, record in enumerate(everyone):
            if other == who or rng.random() < 0.5:
                record.apply(operation)
    for record in everyone:
        for operation in operations:
            record.apply(operation)
    assert {record.encode() for record in everyone} == {everyone[0].encode()}
    assert everyone[0].values() == ({"n": sum(by for _, by in steps)} if steps else {})


@pytest.mark.parametrize(("rule", "best"), [("max", max), ("min", min)])
@HISTORIES
@given(program=PROGRAMS)
def test_max_and_min_show_the_best_that_was_written_since_a_delete(rule: str, best: Any, program: bytes) -> None:
    events = play(program, rule)
    contributions: dict[tuple[int, str], Any] = {}
    for place, event in enumerate(events):  # what a writer contributes is its value, or better if it had seen better
        past = living([events[i] for i in sorted(event.seen)])
        places = [sorted(event.seen)[i] for i in past]
        for name in event.operation.shape.names:
            known = [contributions[i, name] for i in places if (i, name) in contributions]
            contributions[place, name] = best([event.asked[name], *known])
            assert value_in(event, name) == contributions[place, name]
    shown = fold([event.operation for event in events]).values()
    for name in FIELDS:
        values = [contributions[place, name] for place in writes_of(living(events), name)]
        assert shown.get(name) == (best(values) if values else None)


@HISTORIES
@given(program=PROGRAMS)
def test_sets_keep_what_no_remover_had_seen(program: bytes) -> None:
    events = play(program, "set")
    record = fold([event.operation for event in events])
    alive = living(events)
    for name in FIELDS:
        writes = writes_of(alive, name)
        if not any(value_in(event, name)[0] or value_in(event, name)[1] for event in writes.values()):
            continue
        expected = set()
        for place, event in writes.items():
            for element in value_in(event, name)[0]:
                removers = [w for w in writes.values() if place in w.seen and _removes(w, name, element)]
                if not removers:
                    expected.add((type(element), element))
        shown = record.values().get(name, [])
        assert [(type(e), e) for e in shown] == sorted(expected, key=lambda pair: element_order(pair[1]))


def _removes(event: Event, name: str, element: Any) -> bool:
    kind = event.operation.shape.kind
    if kind == Kind.ADD:
        return False
    asked = event.asked if kind == Kind.REMOVE else event.asked[name]
    return (element in asked) == (kind == Kind.REMOVE)


@HISTORIES
@given(program=PROGRAMS)
def test_keep_all_keeps_what_nobody_had_seen_and_replaced(program: bytes) -> None:
    events = play(program, "keep-all")
    record = fold([event.operation for event in events])
    for name in FIELDS:
        writes = writes_of(living(events), name)
        siblings = [
            event for place, event in writes.items() if not any(place in other.seen for other in writes.values())
        ]
        expected = [event.asked[name] for event in sorted(siblings, key=lambda event: event.stamp)]
        assert same(record.values().get(name), expected or None)


# -- single stories that the documentation tells ----------------------------------------------------------------------


def write(record: Record, ts: int, replica: bytes, kind: int, rule: str, payload: Any) -> Operation:
    """One operation on field ``f`` as a writer that sees ``record`` composes it; applied to it."""
    letter = LETTERS[rule]
    names: tuple[str, ...] = ("f",)
    values: tuple[Any, ...]
    if kind == Kind.ADD:
        values = (compose_add(payload),)
    elif kind == Kind.REMOVE:
        values = (compose_remove(record, "f", payload),)
    elif kind == Kind.INCREMENT:
        values = (compose_increment(record, "f", payload, replica),)
    elif kind == Kind.DELETE:
        names, letter, values = (), "", ()
    else:
        names, letter, values = compose(record, {"f": payload}, letter_of(rule), replica, replace=kind == Kind.PUT)
    operation = Operation(replica, 1, BASE_TS + ts, 0, Shape(kind, "things", names, letter), "k", values)
    record.apply(operation)
    return operation


def test_add_wins_over_a_concurrent_remove() -> None:
    ours, theirs = Record(), Record()
    first = write(ours, 1, A, Kind.ADD, "set", ["x", "y"])
    theirs.apply(first)
    removal = write(theirs, 9, B, Kind.REMOVE, "set", ["x", "y"])
    addition = write(ours, 2, A, Kind.ADD, "set", ["x"])  # earlier, and not seen by the remover
    ours.apply(removal)
    theirs.apply(addition)
    assert ours.encode() == theirs.encode()
    assert ours.values() == {"f": ["x"]}


def test_keep_all_keeps_concurrent_values_until_a_writer_has_seen_them() -> None:
    ours, theirs = Record(), Record()
    one = write(ours, 1, A, Kind.PATCH, "keep-all", "one")
    two = write(theirs, 2, B, Kind.PATCH, "keep-all", "two")
    ours.apply(two)
    theirs.apply(one)
    assert ours.values() == theirs.values() == {"f": ["one", "two"]}
    answer = write(theirs, 3, C, Kind.PATCH, "keep-all", "both")
    ours.apply(answer)
    assert ours.values() == {"f": ["both"]}


def test_a_counter_can_be_set_and_begins_again_after_a_delete() -> None:
    record = Record()
    write(record, 1, A, Kind.INCREMENT, "counter", 5)
    write(record, 2, B, Kind.INCREMENT, "counter", 2)
    assert record.values() == {"f": 7}
    write(record, 3, B, Kind.PATCH, "counter", 100)
    assert record.values() == {"f": 100}
    write(record, 4, C, Kind.DELETE, "counter", None)
    assert not record.alive
    write(record, 5, A, Kind.INCREMENT, "counter", 1)
    assert record.values() == {"f": 1}


def test_an_edit_later_than_a_delete_it_had_not_seen_survives_alone() -> None:
    record = Record()
    put = write(record, 1, A, Kind.PUT, "lww", "old")
    unaware = fold([put])
    delete = write(record, 2, B, Kind.DELETE, "lww", None)
    names, rules, values = compose(unaware, {"g": 1}, letter_of("lww"), C, replace=False)
    patch = Operation(C, 1, BASE_TS + 3, 0, Shape(Kind.PATCH, "things", names, rules), "k", values)
    assert fold([put, delete, patch]).values() == fold([patch, delete, put]).values() == {"g": 1}
    assert Stamp(BASE_TS + 2, B) == fold([put, delete]).stamp


def test_a_removal_takes_every_addition_that_its_writer_saw() -> None:
    record = Record()
    additions = [write(record, ts, replica, Kind.ADD, "set", ["x"]) for ts, replica in ((1, A), (2, B))]
    removal = write(record, 3, C, Kind.REMOVE, "set", ["x"])
    assert record.values() == fold([removal, *additions]).values() == {"f": []}


@pytest.mark.parametrize("rule", ["set", "keep-all"])
def test_replacing_what_was_deleted_meanwhile_leaves_no_trace_of_it(rule: str) -> None:
    record = Record()
    first = write(record, 1, A, Kind.PUT, rule, ["x"])
    delete = write(fold([first]), 5, B, Kind.DELETE, rule, None)
    unaware = write(fold([first]), 9, C, Kind.PUT, rule, ["y"])
    orders = [[first, delete, unaware], [first, unaware, delete], [unaware, delete, first], [delete, unaware, first]]
    assert len({fold(order).encode() for order in orders}) == 1
    assert list(fold(orders[0]).slots["f", LETTERS[rule]]) == [("y", C) if rule == "set" else C]


@pytest.mark.parametrize("rule", ["counter", "max", "min"])
def test_what_is_shown_of_numbers_does_not_depend_on_the_order_of_arrival(rule: str) -> None:
    """Floats round differently when they are added in another order, and 1, 1.0 and True compare as equal."""
    for numbers in ((0.1, 0.2, 0.3), (1, 1.0, 1), (1e308, 1e308, -1e308), (2**62, 2**62, 2**62), (-0.0, 0, 0.0)):
        operations = [
            write(Record(), 1, replica, Kind.PATCH, rule, value)
            for replica, value in zip((A, B, C), numbers, strict=True)
        ]
        shown = {repr(fold(list(order)).values()) for order in permutations(operations)}
        assert len(shown) == 1, numbers
        check_value("f", fold(operations).values()["f"])


def test_a_counter_never_leaves_what_a_value_can_be() -> None:
    record = Record()
    write(record, 1, A, Kind.INCREMENT, "counter", INT_MAX)
    with pytest.raises(InvalidValue):
        compose_increment(record, "f", 1, A)
    write(record, 2, B, Kind.INCREMENT, "counter", INT_MAX)
    assert record.values() == {"f": INT_MAX}
    with pytest.raises(InvalidValue):
        compose(record, {"f": INT_MIN}, letter_of("counter"), A, replace=False)


def test_a_put_clears_what_was_last_writer_before_the_schema_knew_better() -> None:
    """A field written before its collection declared it a counter: the PUT that leaves it out must not add None."""
    record = Record()
    write(record, 1, A, Kind.PUT, "lww", "text")
    names, rules, values = compose(record, {"g": 1}, letter_of("counter"), B, replace=True)
    assert (names, rules, values) == (("f", "g"), "lc", (None, 1))
