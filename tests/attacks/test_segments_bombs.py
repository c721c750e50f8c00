"""Bodies that decompress, decode or expand to too much, and msgpack that is not what we write.

Whoever holds a fleet key and a device key can seal anything; so everything inside the body is hostile, too. These are
sealed and signed properly: only the bounds of ``open_segment`` stand between them and memory.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import msgpack
import pytest
import zstandard

from sync import columns
from sync.errors import AgentDBError, DataError, Malformed, TooLarge
from sync.operations import Kind, Operation, Shape
from sync.segment import Packed, seal_packed
from tests.attacks.test_segments_altered import FLEET, KEY, REPLICA, RING, SHAPE, opened

MIB = 1 << 20


def sealed(data: bytes, plain_length: int, count: int = 1) -> bytes:
    return seal_packed(
        Packed(data, plain_length, count, 1_000, 1_000),
        fleet=FLEET,
        stream=REPLICA,
        replica=REPLICA,
        first_seq=1,
        previous=bytes(32),
        ring=RING,
        signer=KEY,
    ).data


def body(plain: bytes) -> bytes:
    return sealed(zstandard.ZstdCompressor().compress(plain), len(plain))


def honest() -> list[Any]:
    """The decoded structure of a good segment, to be broken."""
    operations = [Operation(REPLICA, 1, 1_000, 0, SHAPE, "k", ("x",))]
    structure: list[Any] = msgpack.unpackb(columns.encode(operations))
    return structure


def test_the_honest_structure_opens() -> None:
    assert len(opened(body(msgpack.packb(honest()))).operations) == 1


@pytest.mark.parametrize(
    ("data", "plain_length"),
    [
        (zstandard.ZstdCompressor().compress(bytes(64 * MIB)), 64 * MIB),
        (zstandard.ZstdCompressor().compress(bytes(64 * MIB)), 1_000),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB)), 1_000),
        (zstandard.ZstdCompressor().compress(b"x" * 50) + b"trailing", 50),
        (zstandard.ZstdCompressor().compress(b"x" * 50) * 2, 100),
        (zstandard.ZstdCompressor().compress(b"x" * 50) + struct.pack("<II", 0x184D2A50, 0), 50),
        (b"not zstd at all", 10),
        (b"", 0),
    ],
    ids=["declared", "declared smaller", "undeclared", "trailing", "two frames", "skippable frame", "no zstd", "empty"],
)
def test_zstd_bombs_and_odd_frames(data: bytes, plain_length: int) -> None:
    if len(data) > 900_000:
        raise AssertionError("the bomb has to fit a segment")
    with pytest.raises((DataError, TooLarge)):
        opened(sealed(data, plain_length))


@pytest.mark.parametrize(
    "plain",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 50_000 + b"\xc0",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\xc7\x00\x05",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc1",
        b"\x90extra",
        b"\x81\x01\x02",
        b"\xa4\xff\xff\xff\xff",
    ],
    ids=[
        "2**32 items", "2**32 pairs", "2**32 text", "2**32 bytes", "2**32 extension", "deep lists", "deep maps",
        "duplicate keys", "NaN", "extension", "timestamp", "reserved byte", "trailing", "integer key", "not UTF-8",
    ],
)  # fmt: skip
def test_msgpack_that_we_do_not_write(plain: bytes) -> None:
    with pytest.raises((Malformed, TooLarge)):
        opened(body(plain))


def test_the_same_inside_a_value() -> None:
    """Where a column carries values as they are, they are checked as strictly."""
    nan = float("nan")
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    for value in (nan, {"a": nan}, [float("inf")], deep, {1: 2}, msgpack.Timestamp(1), msgpack.ExtType(4, b"")):
        structure = honest()
        structure[-1][0][-1] = [[0, [value]]]
        with pytest.raises((Malformed, TooLarge)):
            opened(body(msgpack.packb(structure)))


@pytest.mark.parametrize("count", [0, -1, 65_537, 2**40, "1", None, 1.0, True])
def test_an_impossible_number_of_operations(count: Any) -> None:
    structure = honest()
    structure[1] = count
    if count is True:
        structure[1] = 2
    with pytest.raises((Malformed, TooLarge)):
        opened(body(msgpack.packb(structure)))


AMPLIFIERS = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from tests.attacks.test_segments_bombs import amplifier, body, opened
from sync.errors import DataError, TooLarge
data = body(amplifier(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    opened(data)
except (DataError, TooLarge) as error:
    print("refused", type(error).__name__, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
else:
    print("opened")
"""


def amplifier(kind: str) -> bytes:
    """A few bytes that would become gigabytes: 65,536 operations whose columns repeat something large."""
    n = 65_536
    big = "x" * 200_000
    columns_of: dict[str, list[Any]] = {
        "constant": [1, big],
        "words": [8, 1, (big + " y").encode(), bytes(2_000_000)],
        "nested optional": [12, b"\x01" * n, [12, b"\x01" * n, [1, big]]],
        "lists": [11, [1, 200_000], 200_000 * n, [1, big]],
    }
    shape = [int(Kind.PUT), "notes", ["text"], "l"]
    const, linear = [1, 0], [2, 1, 1]
    group = [*shape, [7, [1, 1], b"k" * n], [columns_of[kind]]]
    plain: bytes = msgpack.packb([1, n, [REPLICA], const, linear, [2, 1_000, 1], const, None, [group]])
    return plain


@pytest.mark.parametrize("kind", ["constant", "words", "nested optional", "lists"])
def test_columns_that_expand(kind: str, request: pytest.FixtureRequest) -> None:
    """In a process of its own, so that the memory it takes can be told: less than 200 MB more."""
    done = subprocess.run(
        [sys.executable, "-c", AMPLIFIERS, str(request.config.rootpath), kind],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    words = done.stdout.split()
    assert words[:1] == ["refused"], done.stdout + done.stderr
    assert int(words[2]) < 200


def test_an_operation_that_is_too_large_on_its_own() -> None:
    shape = Shape(Kind.PUT, "notes", ("a", "b"), "ll")
    half = "".join(chr(0x4E00 + n % 20_000) for n in range(50_000))
    operation = Operation(REPLICA, 1, 1_000, 0, shape, "k", (half, half))
    with pytest.raises(TooLarge):
        opened(body(columns.encode([operation])))


def test_no_mutation_of_the_structure_escapes_as_another_error() -> None:
    """Every part replaced by every kind of wrong thing: a typed error, or operations that encode to the same again."""
    wrong: list[Any] = [None, -1, 0, 2**63 - 1, "x", b"x", [], [[]], {}, 1.5, [1, 2], [0, []], b"\xff" * 16, "lcxnsk"]
    places = list(_places(honest()))
    assert len(places) > 20
    refused = 0
    for place in places:
        for value in wrong:
            structure = honest()
            holder = structure
            for step in place[:-1]:
                holder = holder[step]
            holder[place[-1]] = value
            plain = msgpack.packb(structure)
            try:
                operations = columns.decode(plain)
            except AgentDBError:
                refused += 1
                continue
            assert columns.decode(columns.encode(operations)) == operations
    assert refused > len(places) * len(wrong) // 2


def _places(structure: Any, path: tuple[int, ...] = ()) -> Any:
    if isinstance(structure, list):
        for index, item in enumerate(structure):
            yield (*path, index)
            yield from _places(item, (*path, index))
