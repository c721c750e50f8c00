"""Bytes of released formats stay readable, and are still what is written. See ``generate.py``."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from sync import columns
from sync.bodies import body_name, open_part
from sync.column_codecs import ADDS, GENERIC
from sync.limits import INT_MAX
from sync.messages import Hello, Pull, Refusal, Welcome, decode, encode
from sync.records import Record
from sync.segment import FLAG_FEED, expect, open_segment
from sync.tokens import parse_token
from tests.golden.generate import (
    BODY_DIGEST,
    CLOUD,
    CLOUD_KEY,
    DEVICE_KEY,
    FLEET,
    HERE,
    RING,
    A,
    operations,
    plain_files,
    record,
)

PLAIN = plain_files()


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_what_is_written_has_not_changed(name: str) -> None:
    assert PLAIN[name] == (HERE / name).read_bytes(), "a change of format needs a new version, and new golden files"


def test_golden_columns_and_images_are_read() -> None:
    assert columns.decode((HERE / "columns.v1.bin").read_bytes()) == operations()
    image = (HERE / "image.v1.bin").read_bytes()
    assert Record.decode(image).values() == record().values()
    assert Record.decode(image).encode() == image


@pytest.mark.parametrize("name", [name for name in sorted(PLAIN) if name.endswith(".v3.bin")])
def test_golden_messages_are_read(name: str) -> None:
    data = (HERE / name).read_bytes()
    assert encode(decode(data)) == data


def test_messages_of_the_first_version_are_read_without_what_came_later() -> None:
    hello, welcome = (decode((HERE / f"{name}.v1.bin").read_bytes()) for name in ("hello", "welcome"))
    assert hello == Hello([1], FLEET, A, 9, 8, b"i" * 32, 7, CLOUD)
    assert welcome == Welcome(1, 5, CLOUD, 2, 3, b"i" * 32, 4, True, [], [Refusal(1, "too-large", "no")], 3)
    assert isinstance(hello, Hello)
    assert isinstance(welcome, Welcome)
    assert (hello.epochs, welcome.stable) == ([], 0)


def test_messages_of_the_second_version_are_read_without_what_came_later() -> None:
    hello, welcome = (decode((HERE / f"{name}.v2.bin").read_bytes()) for name in ("hello", "welcome"))
    refusals = [Refusal(1, "too-large", "no")]
    assert hello == Hello([1, 2], FLEET, A, 9, 8, b"i" * 32, 7, CLOUD, [1, 7])
    assert welcome == Welcome(2, 5, CLOUD, 2, 3, b"i" * 32, 4, True, [], refusals, 3, 2)
    assert isinstance(hello, Hello)
    assert isinstance(welcome, Welcome)
    assert (hello.assignment, welcome.assignment, welcome.archived) == (0, 0, 0)


def test_who_asks_without_a_number_is_never_woken_by_one() -> None:
    pull = decode((HERE / "pull.v1.bin").read_bytes())
    assert pull == Pull(A, 7, 100, 1 << 20, 0, CLOUD)
    assert isinstance(pull, Pull)
    assert pull.assignment == INT_MAX


def test_the_golden_token_is_read() -> None:
    assert parse_token((HERE / "token.v1.txt").read_text()).url == "https://cloud.example"
    assert parse_token((HERE / "token.v2.txt").read_text()).root == b"r" * 32


def test_golden_segments_open() -> None:
    push = open_segment(
        (HERE / "push.v1.seg").read_bytes(),
        identity=lambda _: DEVICE_KEY.public,
        ring=RING,
        check=expect(fleet=FLEET, stream=A, replica=A, first_seq=1),
    )
    assert push.operations == operations()
    feed = open_segment(
        (HERE / "feed.v1.seg").read_bytes(),
        identity=lambda _: CLOUD_KEY.public,
        ring=RING,
        check=expect(fleet=FLEET, stream=CLOUD),
    )
    assert (feed.operations, feed.header.flags, feed.clear) == (operations(), FLAG_FEED, b"\x91\xcc\x8c")


def test_the_golden_part_of_a_body_opens() -> None:
    name = body_name(RING, RING.current, FLEET, BODY_DIGEST)
    sealed = (HERE / "body.v1.part").read_bytes()
    place = {"ring": RING, "epoch": RING.current, "fleet": FLEET, "number": 1, "parts": 2}
    assert open_part(sealed, name=name, **place) == b"the last part"  # type: ignore[arg-type]
    assert sealed[24:56] == name, "the name of a body is what it was"


def test_the_golden_operations_use_every_column_tag() -> None:
    def tags(column: Any) -> set[int]:
        inner = [part for part in column[1:] if isinstance(part, list) and part and column[0] != GENERIC]
        return {column[0]}.union(*map(tags, inner))

    top = msgpack.unpackb((HERE / "columns.v1.bin").read_bytes())
    all_columns = [*top[3:8], *(column for group in top[8] for column in [group[4], *group[5]])]
    assert set().union(*map(tags, all_columns)) == set(range(ADDS + 1))
