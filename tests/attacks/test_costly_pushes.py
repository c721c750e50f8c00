"""Pushes that are small, valid and made to cost: pushes are taken one at a time, so everybody waits for each.

The bounds are several times what it takes here, and a fraction of what it took when the cost grew with the square.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sync.operations import Kind, Operation, Shape
from sync.schema import COLLECTIONS, declare
from sync.stamps import timestamp_of
from tests.cloud.stream_world import Device, Fleet

COUNT = 16_384
SECONDS_MAX = 8.0


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet(None)
    yield fleet
    fleet.close()


def hostile(fleet: Fleet) -> Device:
    van = fleet.device("van")
    van.declare("notes")
    van.put("notes", "k", text="x", other="y")
    van.push()
    return fleet.device("hostile")


def costs(device: Device) -> float:
    """Seconds of the processor's time in which what is in its log is taken, all of it."""
    sealed = device.seal(device.log)
    begun = time.process_time()
    ack = device.send(sealed.data)
    spent = time.process_time() - begun
    assert (ack.last_seq, ack.refusals) == (len(device.log), [])
    return spent


def write(device: Device, shape: Shape, key: str, *values: Any) -> None:
    """Stamped long ago, by one who says that he has seen nothing."""
    seq = len(device.log) + 1
    device.log.append(Operation(device.replica, seq, timestamp_of(1000) + seq, 0, shape, key, values))


def test_collections_by_the_thousand(fleet: Fleet) -> None:
    device = hostile(fleet)
    spec = declare("any").to_document()
    for number in range(COUNT):
        write(device, Shape(Kind.PUT, COLLECTIONS, ("spec",), "l"), f"c{number}", spec)
    assert costs(device) < SECONDS_MAX


def test_writes_to_a_set_that_is_as_large_as_it_may_be(fleet: Fleet) -> None:
    """Whether there is room for one more is known when all of it has been looked at."""
    device = hostile(fleet)
    device.declare("sets", fields={"s": "set"})
    add = Shape(Kind.ADD, "sets", ("s",), "s")
    for number in range(16):
        write(device, add, "k", [[f"{number:02}-{element:03}" for element in range(500)], []])
    device.log = [operation._replace(ts=timestamp_of(1000) + operation.seq) for operation in device.log]
    device.push()
    shown = fleet.shown("sets", "k")
    assert shown is not None
    begun = len(device.log)
    for number in range(1000):
        write(device, add, "k", [[f"more-{number}" * 9], []])
    sealed = device.seal(device.log[begun:])
    started = time.process_time()
    ack = device.send(sealed.data)
    assert time.process_time() - started < 4 * SECONDS_MAX
    assert len(ack.refusals) > 900
    assert {refusal.code for refusal in ack.refusals} == {"too-large"}


def test_a_record_deleted_and_written_by_turns(fleet: Fleet) -> None:
    """Below what another wrote: each delete is a conflict that the next write settles."""
    device = hostile(fleet)
    for number in range(COUNT // 2):
        write(device, Shape(Kind.DELETE, "notes"), "k")
        write(device, Shape(Kind.PATCH, "notes", ("text",), "l"), "k", str(number))
    assert costs(device) < SECONDS_MAX
    assert fleet.shown("notes", "k") == {"text": "x", "other": "y"}
