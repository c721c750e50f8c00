"""Erasures in the delta log: what is shut, what is dropped, and who answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.storage.delta_log import DeltaLog
from edge.storage.erasures import ERASURES, new_key, pending, scope_of, scopes_of
from edge.storage.transaction import Write
from sync.errors import Erased
from sync.images import fold
from sync.operations import Kind, Shape
from sync.schema import declare
from tests.edge.logs import put, remote, reopen, values

MEMORIES = "agent.memories"
MINE = "guide/tea/episodic/1"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    log = reopen(tmp_path)
    log.declare(declare(MEMORIES))
    log.declare(declare(ERASURES, fields={"at": ("int", "min"), "until": ("int", "min")}))
    yield log
    log.close()


def shut(log: DeltaLog, agent: str = "guide", namespace: str | None = "tea") -> str:
    key = new_key(scope_of(agent, namespace), log.clock.now())
    write(log, Kind.PUT, key, {"at": 1})
    return key


def write(log: DeltaLog, kind: Kind, key: str, fields: dict[str, Any]) -> None:
    log.submit([Write(kind, ERASURES, key, fields, schema=log.schemas[ERASURES])])


def test_what_comes_of_it_is_dropped_and_answered(log: DeltaLog) -> None:
    shut(log)
    head, ts = log.head_seq, log.clock.last
    log.apply([remote(1, MINE, ts + 5, MEMORIES, text="old"), remote(2, "guide/tours/x/1", ts + 6, MEMORIES, text="t")])
    assert values(log, MINE, MEMORIES) is None
    assert values(log, "guide/tours/x/1", MEMORIES) == {"text": "t"}
    (answer,) = log.pending(head, 10, 1 << 20)
    assert (answer.shape.kind, answer.shape.collection, answer.key) == (Kind.DELETE, MEMORIES, MINE)
    assert answer.ts > ts + 5
    log.apply([remote(1, MINE, ts + 5, MEMORIES, text="old")])
    assert log.head_seq == head + 1, "once is enough"
    assert log.verify() == []


def test_a_delete_from_elsewhere_is_taken(log: DeltaLog) -> None:
    put(log, MINE, MEMORIES, text="mine")
    shut(log)
    deleted = remote(1, MINE, log.clock.last + 5, MEMORIES)
    log.apply([deleted._replace(shape=deleted.shape._replace(kind=int(Kind.DELETE), names=(), rules=""), values=())])
    assert values(log, MINE, MEMORIES) is None


def test_lifted_it_takes_what_is_new(log: DeltaLog) -> None:
    key = shut(log)
    until = log.clock.now()
    write(log, Kind.PATCH, key, {"until": until})
    log.apply([remote(1, MINE, until, MEMORIES, text="old")])
    assert values(log, MINE, MEMORIES) is None
    put(log, "guide/tea/episodic/2", MEMORIES, text="new")
    log.apply([remote(2, "guide/tea/episodic/3", log.clock.last + 1, MEMORIES, text="new too")])
    assert values(log, "guide/tea/episodic/3", MEMORIES) == {"text": "new too"}
    write(log, Kind.PATCH, key, {"until": log.clock.now()})
    assert log.erasures.until[key] == until, "the first lift counts"


@pytest.mark.parametrize("as_image", [False, True])
def test_a_lift_and_what_it_lets_in_come_together(log: DeltaLog, as_image: bool) -> None:
    key = shut(log)
    until = log.clock.now() + 10
    lift = remote(1, key, until + 1, ERASURES, at=1, until=until)
    if as_image:  # as a baseline has it
        lift = lift._replace(seq=0, shape=Shape(int(Kind.IMAGE), ERASURES), values=(fold(None, lift),))
    log.apply(
        [
            lift,
            remote(2, MINE, until, MEMORIES, text="old"),
            remote(3, "guide/tea/episodic/2", until + 2, MEMORIES, text="new"),
        ]
    )
    assert values(log, MINE, MEMORIES) is None
    assert values(log, "guide/tea/episodic/2", MEMORIES) == {"text": "new"}
    assert log.erasures.until[key] == until


def test_what_is_shut_stays_so_over_a_restart(log: DeltaLog, tmp_path: Path) -> None:
    key = shut(log)
    log.close()
    again = reopen(tmp_path)
    assert pending(again) == [key]
    with pytest.raises(Erased):
        put(again, MINE, MEMORIES, text="x")
    put(again, "guide/tours/episodic/1", MEMORIES, text="x")
    put(again, "guider/tea/episodic/1", MEMORIES, text="x")
    again.close()


def test_another_replica_shuts_it_as_well(log: DeltaLog) -> None:
    put(log, MINE, MEMORIES, text="mine")
    scope = scope_of("guide", None)
    log.apply([remote(1, new_key(scope, 7), log.clock.last + 1, ERASURES, at=1)])
    assert pending(log) == [new_key(scope, 7)]
    with pytest.raises(Erased):
        put(log, "guide/tours/episodic/1", MEMORIES, text="x")


@pytest.mark.parametrize("fields", [{}, {"at": "soon"}, {"at": 1, "until": "never"}, {"at": None}])
def test_records_that_somebody_wrote_by_hand_shut_nothing(log: DeltaLog, fields: dict[str, Any]) -> None:
    log.apply([remote(1, new_key(scope_of("guide", None), 7), log.clock.last + 1, ERASURES, **fields)])
    assert pending(log) == []
    put(log, MINE, MEMORIES, text="x")


def test_what_is_of_no_agent_has_no_scope() -> None:
    assert scopes_of("notes", "guide/tea/1") == ()
    assert scopes_of("_collections", "agent.memories") == ()
    assert scopes_of(MEMORIES, "guide") == ()
    assert scopes_of("_checkpoints", "context/guide/main/1") == (scope_of("guide", None),)
    assert scopes_of("_values", "guide/00/11/000") == (scope_of("guide", None),)
    assert scopes_of(MEMORIES, MINE) == (scope_of("guide", None), scope_of("guide", "tea"))
