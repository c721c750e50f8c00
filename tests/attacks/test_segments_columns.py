"""A device of the fleet, with all its keys, seals columns that no encoder wrote.

Thousands of random changes to good columns, to their structure and to their bytes. Each ends in Malformed or TooLarge,
or in operations that are valid: they encode again and come back, and merging them raises nothing.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import msgpack
import pytest

from sync import columns
from sync.errors import Malformed, TooLarge
from sync.limits import INT_MAX, INT_MIN
from sync.operations import Operation
from sync.records import Record, state_operation
from tests.conftest import CI
from tests.sync.histories import BASE_TS
from tests.sync.operations import A, B, of_every_kind, put, shape_of
from tests.sync.values import same

ROUNDS = 12_000 if CI else 1_200
EVERYTHING = columns.encode(of_every_kind())
FEW = columns.encode([put(1, "k", a=1, b="x"), put(2, "l", a=5, b=None), put(3, "m", c=[["a"], []])])
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 13, 14, 255, 65_536, INT_MAX, INT_MIN, 2**64 - 1, 0.0, 1.5),
    *(float("nan"), float("inf"), "", "l", "s", "k", "things", "_x", "\0", "a b", b"", b"\0", b"\1\0", bytes(16), A, B),
    *(
        [],
        [[]],
        {},
        {"a": 1},
        {"a": float("nan")},
        [1, None],
        [1, "x"],
        [2, 1, 1],
        [0, [1, "a"]],
        [0, []],
        [12, b"\1", [1, 1]],
    ),
    *(
        [[], []],
        [["a"], []],
        [1, [[B, BASE_TS]]],
        [["a"], [["a", [[B, 5]]]]],
        msgpack.ExtType(1, b""),
        msgpack.Timestamp(1),
    ),
)


def outcome(body: bytes) -> list[Operation] | None:
    """The operations, having checked that they are valid; None if the columns were refused."""
    try:
        operations = columns.decode(body)
    except (Malformed, TooLarge):
        return None
    again = columns.decode(columns.encode(operations))
    assert same([list(operation) for operation in again], [list(operation) for operation in operations])
    records: dict[str, Record] = {}
    for operation in operations:
        records.setdefault(operation.key, Record()).apply(operation)
    for key, record in records.items():
        image = record.encode()
        assert Record.decode(image).encode() == image
        record.values()
        if record.stamp.ts:
            state = state_operation("things", key, image, shape_of)
            assert columns.decode(columns.encode([state])) == [state]
    return operations


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything within a structure."""
    out = [here] if here else []
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for index, item in items:
        out += places(item, (*here, index))
    return out


def mutate(body: Any, rng: random.Random) -> None:
    """One random change in place: replace, remove, repeat, exchange, nest, or bend a number or bytes a little."""
    path = rng.choice(places(body))
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    last, old = path[-1], holder[path[-1]]
    what = rng.randrange(8)
    if what == 0 and isinstance(holder, list):
        del holder[last]
    elif what == 1 and isinstance(holder, list):
        holder.insert(last, copy.deepcopy(old))
    elif what == 2 and isinstance(holder, list):
        other = rng.randrange(len(holder))
        holder[last], holder[other] = holder[other], holder[last]
    elif what == 3:
        holder[last] = [old]
    elif what == 4 and isinstance(old, int) and not isinstance(old, bool):
        holder[last] = max(INT_MIN, min(INT_MAX, old + rng.choice((-1, 1, 2, -256, 1 << 40))))
    elif what == 5 and isinstance(old, bytes) and old:
        index = rng.randrange(len(old))
        holder[last] = old[:index] + rng.randbytes(rng.randrange(3)) + old[index + 1 :]
    else:
        holder[last] = copy.deepcopy(rng.choice(JUNK))


@pytest.mark.parametrize("body", [EVERYTHING, FEW], ids=["everything", "few"])
@pytest.mark.parametrize("changes", [1, 2, 5])
def test_structures_that_were_changed_at_random(body: bytes, changes: int) -> None:
    accepted = 0
    rounds = ROUNDS // 6 if body is EVERYTHING else ROUNDS // 3
    for seed in range(rounds):
        rng = random.Random(seed)
        structure = msgpack.unpackb(body)
        for _ in range(changes):
            mutate(structure, rng)
        try:
            accepted += outcome(msgpack.packb(structure)) is not None
        except Exception as error:
            raise AssertionError(f"seed {seed}, {changes} changes") from error
    assert accepted < rounds / 2  # most changes are noticed
    assert accepted > 0 or changes > 1  # and some make other valid operations, so that the tests above mean something


@pytest.mark.parametrize("body", [EVERYTHING, FEW], ids=["everything", "few"])
def test_bytes_that_were_changed_at_random(body: bytes) -> None:
    for seed in range(ROUNDS // 4):
        rng = random.Random(seed)
        data = bytearray(body)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        outcome(bytes(data))


def test_every_byte_of_few_operations_altered_and_every_truncation() -> None:
    for index in range(len(FEW)):
        for byte in {FEW[index] ^ 1, FEW[index] ^ 0x80, 0x90, 0x80, 0xC0, 0xC7, 0xCF, 0xDD, 0xFF} - {FEW[index]}:
            outcome(FEW[:index] + bytes([byte]) + FEW[index + 1 :])
        assert outcome(FEW[:index]) is None
    assert outcome(FEW + b"\0") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\x00\x00\xff\xff" * 2_000,
        b"\x81\xa1a" * 2_000,
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x01",
        b"\x81\x90\x01",
        b"\xc7\x00\x05",
        b"\xd4\x05a",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xa2\xc3\x28",
        b"\xa3\xed\xa0\x80",
    ],
    ids=[
        *(
            "nothing",
            "a list of 2^32",
            "a map of 2^32",
            "text of 2^32",
            "bytes of 2^32",
            "ext of 2^32",
            "the unused byte",
        ),
        *(
            "100,000 levels",
            "levels that announce",
            "levels of maps",
            "duplicate keys",
            "an integer key",
            "a list as key",
        ),
        *("an empty ext", "ext", "a timestamp", "not UTF-8", "a surrogate"),
    ],
)
def test_msgpack_that_we_do_not_write(body: bytes) -> None:
    for whole in (body, FEW[:-1] + body, b"\x99\x01\x01\x91" + body):
        with pytest.raises((Malformed, TooLarge)):
            columns.decode(whole)
