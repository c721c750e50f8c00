"""A device of the fleet, with all its keys, seals a few hundred bytes that open to gigabytes.

Each bomb is defused in a process of its own whose memory is watched: an error, quickly, and never more memory than an
honest segment at the bounds may take.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import zstandard

from sync import columns
from sync.column_codecs import CONST, GENERIC, LINEAR, LISTS, OPTIONAL, TEXTS, WORDS
from sync.errors import Malformed, TooLarge
from sync.limits import SEGMENT_OPENED_BYTES_MAX
from sync.segment import GENESIS, Packed, pack, seal_packed, unpack
from tests.sync.histories import BASE_TS
from tests.sync.operations import A, put
from tests.sync.sealing import DEVICE, FLEET, RING, opened

ROOT = Path(__file__).resolve().parents[2]
MEMORY_MB_MAX = 256  # of which 53 are the process and what the test imports
SECONDS_MAX = 20  # of processor time; the machines are shared
COUNT = 65_536


def body_of(*value_columns: Any, count: int = COUNT, keys: Any = None, rules: str = "") -> bytes:
    """Columns of one group with as many fields."""
    names = [f"f{i:05}" for i in range(len(value_columns))]
    group = [1, "things", names, rules or "l" * len(names), keys or [CONST, "k"], list(value_columns)]
    out: bytes = msgpack.packb(
        [1, count, [A], [CONST, 0], [LINEAR, 1, 1], [LINEAR, BASE_TS, 1], [CONST, 0], None, [group]]
    )
    return out


def lists_of(total: int, inner: Any, count: int = COUNT) -> list[Any]:
    return [LISTS, [CONST, total // count], total, inner]


def packed_list(item: bytes, count: int, times: int) -> bytes:
    """``times`` lists of ``count`` items each, in a list."""
    return b"\xdc" + struct.pack(">H", times) + (b"\xdd" + struct.pack(">I", count) + item * count) * times


WIDE = [WORDS, 1, b"\0 " + b"x" * 500_000, bytes([1, 0] * (COUNT - 1) + [1])]
BOMBS: dict[str, Callable[[], bytes]] = {
    "a long constant": lambda: body_of([CONST, "x" * 200_000]),
    "constant bytes": lambda: body_of([CONST, b"x" * 200_000]),
    "a long constant key": lambda: body_of(keys=[CONST, "k" * 200_000]),
    "constants in every field": lambda: body_of(*[[CONST, None]] * 4000),
    "linear by text": lambda: body_of([LINEAR, "", "x" * 1_000_000]),
    "linear by bytes": lambda: body_of([LINEAR, b"", b"x" * 1_000_000]),
    "linear by lists": lambda: body_of([LINEAR, [], [0] * 60_000]),
    "linear beyond 64 bits": lambda: body_of([LINEAR, 0, 2**63]),
    "one long word": lambda: body_of(WIDE),
    "words just within": lambda: body_of(*[[WORDS, 1, b"\0 " + b"x" * 900, bytes([1, 0] * (COUNT - 1) + [1])]] * 50),
    "words in fields": lambda: body_of(*[[WORDS, 1, b"\0 " + b"x" * 130_000, b"\1\0" * 499 + b"\1"]] * 60, count=500),
    "a column of separators": lambda: body_of([WORDS, 1, b"\0", bytes(8_000_000)]),
    "lists of a constant": lambda: body_of(lists_of(1 << 40, [CONST, "x"])),
    "lists of the empty text": lambda: body_of(lists_of(1 << 26, [CONST, ""])),
    "empty lists in fields": lambda: body_of(*[lists_of(COUNT, [CONST, ""])] * 1000),
    "optional constants": lambda: body_of(*[[OPTIONAL, b"\1" * COUNT, [CONST, "x" * 900]]] * 100),
    "optional of optional": lambda: body_of([OPTIONAL, b"\1" * COUNT, [OPTIONAL, b"\1" * COUNT, [CONST, 1]]]),
    "texts of one length": lambda: body_of(*[[TEXTS, [CONST, 0], b""]] * 2000),
    "generic empty lists": lambda: body_of([GENERIC, "here"]).replace(
        msgpack.packb("here"), packed_list(b"\x90", COUNT, 120)
    ),
    "additions of constants": lambda: body_of(*[[13, lists_of(COUNT, [CONST, "a"])]] * 500, rules="s" * 500),
    "msgpack of empty lists": lambda: packed_list(b"\x90", COUNT, 120),
    "msgpack of empty maps": lambda: packed_list(b"\x80", COUNT, 120),
    "msgpack of short texts": lambda: packed_list(b"\xa2ab", COUNT, 40),
    "msgpack of integers": lambda: packed_list(b"\xcd\x01\x2c", COUNT, 40),
    "msgpack levels that announce": lambda: b"\xdd\x00\x01\x00\x00" * 1000,
    "msgpack maps that announce": lambda: b"\xdf\x00\x01\x00\x00\xa1a" * 1000,
    "a shape for each operation": lambda: msgpack.packb(
        [
            1,
            COUNT,
            [A],
            [CONST, 0],
            [LINEAR, 1, 1],
            [LINEAR, BASE_TS, 1],
            [CONST, 0],
            [LINEAR, 0, 1],
            [[1, "t", [f"f{i}"], "l", [CONST, "k"], [[CONST, 1]]] for i in range(COUNT)],
        ]
    ),
}


class Outcome(NamedTuple):
    """What came of a bomb: bytes on the wire, peak of resident memory, processor time."""

    result: str
    wire_bytes: int
    memory_mb: int
    seconds: float


def defuse(name: str) -> Outcome:
    """Open one bomb."""
    body = BOMBS[name]()
    assert len(body) <= SEGMENT_OPENED_BYTES_MAX, "a bomb must fit a segment"
    packed = Packed(zstandard.ZstdCompressor(level=3).compress(body), len(body), COUNT, BASE_TS, BASE_TS + COUNT - 1)
    data = seal_packed(
        packed, fleet=FLEET, stream=A, replica=A, first_seq=1, previous=GENESIS, ring=RING, signer=DEVICE
    ).data
    del body
    started = time.process_time()
    try:
        result = f"{len(opened(data).operations)} operations"
    except (Malformed, TooLarge) as error:
        result = type(error).__name__
    seconds = time.process_time() - started
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return Outcome(result, len(data), int(peak.group(1)) // 1024, seconds)


def defuse_all() -> None:
    """Each in a child of this process, so that the peaks are their own; one line of JSON for each that survives."""
    for name in BOMBS:
        pid = os.fork()
        if pid == 0:
            os.write(1, (json.dumps([name, defuse(name)]) + "\n").encode())
            os._exit(0)
        os.waitpid(pid, 0)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    code = "from tests.attacks.test_segments_bombs import defuse_all; defuse_all()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: Outcome(*outcome) for name, outcome in map(json.loads, done.stdout.splitlines())}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_defused(name: str, outcomes: dict[str, Outcome]) -> None:
    assert name in outcomes, "it raised something else, or took the process with it"
    outcome = outcomes[name]
    assert outcome.memory_mb <= MEMORY_MB_MAX
    assert outcome.seconds <= SECONDS_MAX
    assert outcome.wire_bytes < 64 << 10
    honest = name == "a shape for each operation"  # if odd
    assert outcome.result in (["65536 operations"] if honest else ["Malformed", "TooLarge"])


# -- zstd -------------------------------------------------------------------------------------------------------------

PLAIN = columns.encode([put(1, "k", note="hello " * 50)])
FRAME = zstandard.ZstdCompressor().compress(PLAIN)


def undeclared(data: bytes, window_log: int = 10) -> bytes:
    """A frame that does not say how much it holds."""
    parameters = zstandard.ZstdCompressionParameters(write_content_size=False, window_log=window_log)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def declaring(size: int) -> bytes:
    """A frame whose header (RFC 8878, section 3.1.1.1) declares ``size`` and whose blocks hold ``PLAIN``, raw."""
    descriptor = 0b1110_0000  # an eight-byte content size, single segment
    block = (len(PLAIN) << 3 | 1).to_bytes(3, "little") + PLAIN
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + size.to_bytes(8, "little") + block


def test_the_hand_made_frame_is_a_frame() -> None:
    assert unpack(declaring(len(PLAIN)), len(PLAIN)) == unpack(FRAME, len(PLAIN))


ZEROS = zstandard.ZstdCompressor().compress(bytes(64 << 20))


@pytest.mark.parametrize(
    ("frame", "length"),
    [
        (FRAME, len(PLAIN) + 1),
        (FRAME, len(PLAIN) - 1),
        (FRAME, 0),
        (FRAME[:-1], len(PLAIN)),
        (FRAME + b"\0", len(PLAIN)),
        (FRAME + FRAME, len(PLAIN)),
        (FRAME + FRAME, 2 * len(PLAIN)),
        (FRAME + b"\x50\x2a\x4d\x18\x01\x00\x00\x00x", len(PLAIN)),
        (b"\x50\x2a\x4d\x18\x01\x00\x00\x00x" + FRAME, len(PLAIN)),
        (b"\x50\x2a\x4d\x18\xff\xff\xff\xff", 0),
        (undeclared(PLAIN), len(PLAIN)),
        (undeclared(bytes(1 << 20), 27), 1 << 20),
        (declaring(len(PLAIN) + 1), len(PLAIN) + 1),
        (declaring(len(PLAIN) - 1), len(PLAIN) - 1),
        (declaring(0), 0),
        (declaring(2**40), len(PLAIN)),
        (declaring(2**63), len(PLAIN)),
        (ZEROS, len(PLAIN)),
        (ZEROS, 64 << 20),
        (zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(PLAIN * 9)).compress(PLAIN), len(PLAIN)),
        (PLAIN, len(PLAIN)),
        (b"", 0),
    ],
)
def test_frames_that_are_not_what_the_header_announces(frame: bytes, length: int) -> None:
    with pytest.raises((Malformed, TooLarge)):
        unpack(frame, length)


def test_frames_changed_at_random() -> None:
    packed = pack([put(seq, f"k{seq}", note=f"hello {seq % 7}") for seq in range(1, 200)])
    for seed in range(2_000):
        rng = random.Random(seed)
        data = bytearray(packed.data)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            unpack(bytes(data), packed.plain_length)
        except (Malformed, TooLarge):
            continue
