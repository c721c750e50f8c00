"""Messages: what is encoded comes back; what was cut, changed or made up is Malformed or TooLarge, and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync import messages
from sync.errors import AgentDBError, Malformed, TooLarge
from sync.limits import INT_MAX, MESSAGE_BYTES_MAX, SEGMENT_SEALED_BYTES_MAX
from sync.messages import AnyMessage, Hello, Message, Pull, Push, PushAck, Refusal, Welcome, WrappedKey, decode, encode
from tests.conftest import CI

KINDS: tuple[type[Message], ...] = get_args(AnyMessage)
ROUNDS = 3_000 if CI else 500


def _field(info: Any) -> st.SearchStrategy[Any]:
    """Values at and within the bounds of one field."""
    if isinstance(info, msgspec.inspect.IntType):
        return st.integers(info.ge or 0, info.le if info.le is not None else (info.lt or 0) - 1)
    if isinstance(info, msgspec.inspect.BoolType):
        return st.booleans()
    if isinstance(info, msgspec.inspect.ListType):
        return st.lists(_field(info.item_type), max_size=3)
    if isinstance(info, msgspec.inspect.StructType):
        return _struct(info.cls)
    low = info.min_length or 0
    high = max(low, min(info.max_length or 20, 20))
    if isinstance(info, msgspec.inspect.BytesType):
        return st.binary(min_size=low, max_size=high)
    assert isinstance(info, msgspec.inspect.StrType)
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=low, max_size=high)


def _struct(cls: type) -> st.SearchStrategy[Any]:
    info = msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    return st.builds(cls, *(_field(field.type) for field in info.fields))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=50)
@given(data=st.data())
def test_every_message_comes_back(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(_struct(kind))
    decoded = decode(encode(message))
    assert type(decoded) is kind
    assert decoded == message


def samples() -> list[Message]:
    """One of each of the larger ones, with everything in it."""
    refusals = [Refusal(5, "too-large", "why"), Refusal(6, "future-stamp", "")]
    return [
        Hello([1], b"f" * 16, b"r" * 16, 9, 8, b"i" * 32, 7, b""),
        Welcome(1, 5, b"c" * 16, 0, 3, b"", 4, False, [WrappedKey(7, b"w" * 80)], refusals),
        Push(b"segment"),
        PushAck(5, b"i" * 32, refusals, 9, 10),
        Pull(b"r" * 16, 7, 100, 1 << 20, 0, b"c" * 16),
    ]


def test_a_message_is_an_array_that_begins_with_its_name() -> None:
    for message in samples():
        unpacked = msgpack.unpackb(encode(message))
        assert unpacked[0] == type(message).__name__
        assert all(not isinstance(part, dict) for part in unpacked)


def test_fields_of_a_later_version_are_ignored() -> None:
    for message in samples():
        later = [*msgpack.unpackb(encode(message)), "more", {"and": "more"}]
        assert decode(msgpack.packb(later)) == message


def test_every_truncation_and_everything_that_follows() -> None:
    for message in samples():
        data = encode(message)
        for length in range(len(data)):
            with pytest.raises(Malformed):
                decode(data[:length])
        with pytest.raises(Malformed):
            decode(data + b"\0")
        with pytest.raises(Malformed):
            decode(data + data)


def checked(data: bytes) -> bool:
    """Whether the bytes are a message; it must then come back."""
    try:
        message = decode(data)
    except (Malformed, TooLarge):
        return False
    assert decode(encode(message)) == message
    return True


def test_messages_changed_at_random() -> None:
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        data = bytearray(encode(rng.choice(samples())))
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
        checked(bytes(data))


@given(st.binary(max_size=60))
def test_bytes_that_were_never_a_message(data: bytes) -> None:
    checked(data)
    checked(b"\x92\xa4Push" + data)


JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    2**64 - 1,
    1.5,
    float("nan"),
    "",
    "x" * 2000,
    b"",
    b"x" * 2000,
    [],
    [[]],
    {},
    {"a": 1},
)


def test_wrong_types_everywhere() -> None:
    for message in samples():
        fields = msgpack.unpackb(encode(message))
        for place in range(len(fields)):
            refused = 0
            for junk in (*JUNK, msgpack.Timestamp(1), msgpack.ExtType(3, b"x")):
                refused += not checked(msgpack.packb([*fields[:place], junk, *fields[place + 1 :]]))
            assert refused > len(JUNK) / 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\xa4Nope",
        b"\x91\x01",
        b"\x81\xa4type\xa4Push",
        b"\x92\xa4Push\xc6\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\xa4Push",
        b"\x92\xa4Push\xdb\xff\xff\xff\xff",
        b"\x96\xa8PullPage\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\xa4Push" + b"\x91" * 100_000,
        b"\x93\xa4Push\xc4\x00" + b"\x91" * 100_000,
        b"\x92\xa4Push\xa2\xc3\x28",
    ],
)
def test_made_up(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)


def test_lengths_that_are_announced_take_no_memory() -> None:
    """In a process that may not have it: a list of 2^32 segments, refusals or versions."""
    code = """
import resource
from sync.errors import Malformed
from sync.messages import decode
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for name, before in ((b"PullPage", b""), (b"Hello", b""), (b"PushAck", b"\\x05\\xc4\\x00"), (b"PullPage",
b"\\x90\\x05")):
    for count in (b"\\xdd\\xff\\xff\\xff\\xff", b"\\xdd\\x00\\x40\\x00\\x00"):
        try:
            decode(b"\\x98" + bytes([0xA0 + len(name)]) + name + before + count + b"\\x01" * 100)
        except Malformed:
            continue
        raise SystemExit("accepted")
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=True, timeout=60)


def test_the_bound_of_one_message() -> None:
    segment = bytes(SEGMENT_SEALED_BYTES_MAX)
    assert decode(encode(Push(segment))) == Push(segment)
    with pytest.raises(Malformed):
        decode(msgpack.packb(["Push", segment + b"\0"]))
    page = messages.PullPage([segment] * 5, 1, 1, 1)
    with pytest.raises(TooLarge):
        encode(page)
    with pytest.raises(TooLarge):
        decode(bytes(MESSAGE_BYTES_MAX + 1))
    with pytest.raises(Malformed):
        decode(encode(PushAck(INT_MAX + 1, b"", [], 0, 0)))


def test_a_failure_of_a_newer_peer_is_an_error_all_the_same() -> None:
    failure = messages.Failure("bill-unpaid", "too much", "pay", retryable=False)
    error = failure.error()
    assert isinstance(error, AgentDBError)
    assert (error.code, error.message) == ("sync", "too much")


def test_the_proof_names_token_keys_and_name() -> None:
    one = messages.enroll_proof(b"t" * 16, b"s" * 32, b"e" * 32, "kiosk")
    others = [
        messages.enroll_proof(b"u" * 16, b"s" * 32, b"e" * 32, "kiosk"),
        messages.enroll_proof(b"t" * 16, b"e" * 32, b"s" * 32, "kiosk"),
        messages.enroll_proof(b"t" * 16, b"s" * 32, b"e" * 32, "kiosk2"),
    ]
    assert one.startswith(b"agentdb.enroll.v1")
    assert one not in others
