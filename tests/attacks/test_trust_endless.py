"""Endless data: too much of anything is refused at its bound, before anything is parsed."""

from __future__ import annotations

import tracemalloc

import pytest
from tuf.api.serialization import DeserializationError

from sync.assignments import CONTEXT, Signed
from sync.errors import AgentDBError, Malformed, TooLarge, Untrusted
from sync.limits import (
    ASSIGNMENT_BYTES_MAX,
    ROLE_BYTES_MAX,
    ROLES_MAX,
    ROOT_BYTES_MAX,
    ROOTS_MAX,
    SNAPSHOT_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from sync.manifests import Offer
from tests.attacks.trust_updater import WORLD, Updater, refused
from tests.trust_world import NOW_MS

GOOD = WORLD.offer(3)


@pytest.mark.parametrize("fill", [b"x", b"[", b" "])
@pytest.mark.parametrize("beyond", [1, 10_000_000])
def test_a_file_over_its_bound(updater: Updater, fill: bytes, beyond: int) -> None:
    for offer in (
        Offer(roots=(fill * (ROOT_BYTES_MAX + beyond),)),
        GOOD._replace(timestamp=GOOD.timestamp + fill * (TIMESTAMP_BYTES_MAX + beyond)),
        GOOD._replace(snapshot=GOOD.snapshot + fill * (SNAPSHOT_BYTES_MAX + beyond)),
        GOOD._replace(roles={**GOOD.roles, "policies": fill * (ROLE_BYTES_MAX + beyond)}),
    ):
        refused(updater, TooLarge, offer)


def test_too_many_files(updater: Updater) -> None:
    refused(updater, TooLarge, Offer(roots=(b"",) * (ROOTS_MAX + 1)))
    refused(updater, TooLarge, GOOD._replace(roles={f"r{number}": b"" for number in range(ROLES_MAX + 2)}))


def test_nothing_is_parsed_before_sizes_are_known(updater: Updater) -> None:
    """The memory that a refusal takes is far below what was sent."""
    offer = GOOD._replace(roles={**GOOD.roles, "models": b"[" * 10_000_000})
    tracemalloc.start()
    with pytest.raises(TooLarge):
        updater.accept(offer, None, {}, NOW_MS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_brackets_that_nest_without_end(updater: Updater) -> None:
    """100,000 of them are over the bound of a root; as many as fit are no metadata."""
    refused(updater, TooLarge, Offer(roots=(b"[" * 100_000,)))
    refused(updater, Untrusted, GOOD._replace(roots=(b"[" * ROOT_BYTES_MAX,)), theirs=DeserializationError)
    nested = b'{"signatures":[],"signed":' + b'{"a":' * 5000 + b"1" + b"}" * 5001
    refused(updater, Untrusted, GOOD._replace(roots=(nested,)), theirs=DeserializationError)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"x" * (ASSIGNMENT_BYTES_MAX + 1), TooLarge),
        (b"[" * (ASSIGNMENT_BYTES_MAX + 1), TooLarge),
        (b"[" * ASSIGNMENT_BYTES_MAX, Malformed),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, Malformed),
        (b'{"a":' * 20_000, Malformed),
        (b"1" * 5000, Malformed),
    ],
)
def test_an_endless_assignment_even_of_the_right_key(updater: Updater, data: bytes, error: type[AgentDBError]) -> None:
    refused(updater, error, Offer(), Signed(data, WORLD.online.sign(CONTEXT + data)))


def test_signatures_without_end(updater: Updater) -> None:
    sealed = WORLD.sealed(3, snapshot=2)
    refused(updater, Untrusted, Offer(), sealed._replace(signature=bytes(64) * 100_000), match="not signed")
