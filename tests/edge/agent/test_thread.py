"""Threads of checkpoints: history, time travel, forks, pruning, and who may write when."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge import Edge, InvalidValue, NotFound, StaleWrite, Thread, TooLarge
from tests.edge.stores import TickingClock

DAY_MS = 86_400_000


def large(seed: int, size: int = 300_000) -> dict[str, Any]:
    return {"v": random.Random(seed).randbytes(size)}


def test_a_thread_that_nobody_has_put_to(edge: Edge, thread: Thread) -> None:
    assert thread.get() is None
    assert thread.head() is None
    assert list(thread.history()) == []
    assert thread.heads() == []
    assert edge.agents() == []
    assert thread.prune(keep_latest=1) == 0
    with pytest.raises(NotFound, match="no checkpoint yet"):
        thread.fork("other")


def test_history_is_newest_first_and_every_checkpoint_reads_back(thread: Thread) -> None:
    made = [thread.put({"step": number}, metadata={"why": f"s{number}"}) for number in range(5)]
    assert thread.get() == {"step": 4}
    assert list(thread.history()) == made[::-1]
    assert [one.parent for one in made] == ["", *(one.id for one in made[:-1])]
    assert [one.id for one in made] == sorted(one.id for one in made)
    assert [one.id for one in thread.history(2, before=made[3].id)] == [made[2].id, made[1].id]
    assert [thread.get(one.id) for one in made] == [{"step": number} for number in range(5)]
    assert made[2].metadata == {"why": "s2"}
    assert made[2].size == len(b"\x81\xa4step\x02")


def test_a_stale_write_is_an_error_that_names_the_newest(thread: Thread) -> None:
    first = thread.put(1, expected=None)
    with pytest.raises(StaleWrite, match=first.id):
        thread.put(2, expected=None)
    second = thread.put(2, expected=first.id)
    with pytest.raises(StaleWrite, match=second.id) as caught:
        thread.put(3, expected=first.id)
    assert caught.value.code == "stale-write"
    assert "expected=" in caught.value.hint
    assert thread.get() == 2
    assert len(list(thread.history())) == 2


def test_of_many_that_expect_the_same_one_writes(thread: Thread) -> None:
    first = thread.put(0)

    def attempt(number: int) -> bool:
        try:
            thread.put(number, expected=first.id)
        except StaleWrite:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(64))) == 1
    assert len(list(thread.history())) == 2


def test_many_writers_of_one_thread_make_one_chain(edge: Edge, thread: Thread) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(thread.put, range(200)))
    assert len({one.id for one in made}) == 200
    history = list(thread.history())
    assert [one.parent for one in history] == [*(one.id for one in history[1:]), ""]
    assert len(thread.heads()) == 1


@pytest.mark.parametrize("expected", [1, b"x", object()])
def test_expected_is_an_id(thread: Thread, expected: object) -> None:
    with pytest.raises(InvalidValue, match="expected is the id"):
        thread.put(1, expected=expected)


@pytest.mark.parametrize("checkpoint", ["", "x", "0" * 16, 7, "../../x", "G" * 16 + "-" + "0" * 12])
def test_what_is_not_an_id_is_said(thread: Thread, checkpoint: Any) -> None:
    thread.put(1)
    with pytest.raises(InvalidValue, match="not the id"):
        thread.get(checkpoint)


def test_an_id_of_nothing(thread: Thread) -> None:
    thread.put(1)
    with pytest.raises(NotFound, match="has no checkpoint 0000"):
        thread.get("0" * 16 + "-" + "0" * 12)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 3, None])
def test_names(edge: Edge, name: Any) -> None:
    with pytest.raises(InvalidValue):
        edge.agent(name)
    with pytest.raises(InvalidValue):
        edge.agent("a").thread(name)


def test_names_that_keys_could_confuse(edge: Edge) -> None:
    places = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b"), ("a", "b%"), ("é", "ü/%25")]
    for number, (agent, name) in enumerate(places):
        edge.agent(agent).thread(name).put(number)
    assert [edge.agent(agent).thread(name).get() for agent, name in places] == list(range(len(places)))
    assert edge.agents() == sorted({agent for agent, _ in places})
    assert [thread.name for thread in edge.agent("a").threads()] == ["b", "b%", "b/c"]
    with pytest.raises(TooLarge):
        edge.agent("x" * 129)


def test_types_are_threads_of_their_own(edge: Edge) -> None:
    agent = edge.agent("guide")
    agent.thread("t", type="task").put("a task")
    agent.thread("t").put("a context")
    assert agent.thread("t", type="task").get() == "a task"
    assert [(one.type, one.name) for one in agent.threads()] == [("context", "t"), ("task", "t")]
    assert [one.type for one in agent.threads(type="task")] == ["task"]
    with pytest.raises(InvalidValue, match="not a type of state"):
        agent.thread("t", type="mood")


def test_a_fork_goes_its_own_way(thread: Thread) -> None:
    first = thread.put({"step": 1})
    thread.put({"step": 2})
    fork = thread.fork("what-if", at=first.id)
    fork.put({"step": "other"})
    assert thread.get() == {"step": 2}
    oldest = list(fork.history())[-1]
    assert (fork.get(oldest.id), oldest.metadata["forked"]) == ({"step": 1}, ["tour", first.id])
    with pytest.raises(StaleWrite, match="has a thread 'what-if' already"):
        thread.fork("what-if")


def test_what_prune_keeps(edge: Edge, thread: Thread) -> None:
    clock = edge._clock
    assert isinstance(clock, TickingClock)
    for number in range(10):
        thread.put(number)
        clock._now_ms += DAY_MS
    assert thread.prune(keep_days=3.5, keep_latest=2) == 7
    assert [thread.get(one.id) for one in thread.history()] == [9, 8, 7]
    assert thread.prune(keep_latest=2) == 1
    assert thread.prune(keep_days=0) == 1, "the newest stays"
    assert thread.get() == 9
    for bad in ({}, {"keep_latest": 0}, {"keep_latest": True}, {"keep_days": -1}, {"keep_days": float("nan")}):
        with pytest.raises(InvalidValue):
            thread.prune(**bad)


def test_a_clock_that_goes_back_makes_no_older_checkpoint(edge: Edge, thread: Thread) -> None:
    first = thread.put(1)
    clock = edge._clock
    assert isinstance(clock, TickingClock)
    clock._now_ms -= 10_000 * DAY_MS
    second = thread.put(2)
    assert second.id > first.id
    assert thread.get() == 2


def test_after_a_restart_everything_is_as_it_was(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        thread = edge.agent("a").thread()
        made = [thread.put(value) for value in (1, large(1), large(2), None)]
    with Edge.open(tmp_path / "s") as edge:
        thread = edge.agent("a").thread()
        assert list(thread.history()) == made[::-1]
        assert [thread.get(one.id) for one in made] == [1, large(1), large(2), None]
        assert thread.put(5).parent == made[-1].id


# -- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_chain_and_seen_at_its_end(edge: Edge, thread: Thread) -> None:
    zero = thread.put(0)
    with edge.batch():
        first = thread.put(1)
        second = thread.put(large(2))
        third = thread.put(large(2))
        assert thread.get() == 0
        for refused in (
            lambda: thread.put(3, expected=third.id),
            lambda: thread.prune(keep_latest=1),
            thread.delete,
        ):
            with pytest.raises(InvalidValue, match="not inside of a batch"):
                refused()
    assert [first.parent, second.parent, third.parent] == [zero.id, first.id, second.id]
    assert [thread.get(one.id) for one in (first, second, third)] == [1, large(2), large(2)]
    assert thread.head() == third


def test_of_a_batch_that_failed_nothing_is_there(edge: Edge, thread: Thread) -> None:
    first = thread.put(1)
    with suppress(ZeroDivisionError), edge.batch():
        thread.put(2)
        thread.put(large(3))
        _ = 1 // 0
    assert thread.head() == first
    assert thread.put(4).parent == first.id
    assert edge.log.count("_values") == 0


def test_what_is_collected_while_a_batch_is_open_is_not_what_it_writes(edge: Edge, thread: Thread) -> None:
    thread.put(large(1))
    thread.put(2)
    with edge.batch():
        kept = thread.put(large(1))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(thread.prune, keep_latest=1).result() == 1
    assert thread.get(kept.id) == large(1)


def test_two_batches_of_one_thread_and_one_that_fails(edge: Edge, thread: Thread) -> None:
    """Whoever commits later is not forgotten, and what never was is not shown."""
    zero = thread.put(0)
    first, second = edge.batch(), edge.batch()

    def other() -> None:
        with suppress(ZeroDivisionError), second:
            thread.put("never")
            _ = 1 // 0

    with ThreadPoolExecutor(1) as pool:
        with first:
            one = thread.put("one")
            pool.submit(other).result()
            assert thread.head() == zero
        assert thread.head() == one
        with pytest.raises(StaleWrite):
            thread.put(2, expected=zero.id)
        assert pool.submit(thread.get).result() == "one"


def test_pages_from_the_cloud_and_puts_at_the_same_moment(edge: Edge, thread: Thread) -> None:
    """A newer checkpoint of another device's arrives between a put's commit and what follows it in memory."""
    from edge.agent.names import key_of, make_id, number_of
    from edge.agent.values import digest_of, encode
    from tests.edge.logs import remote

    made = thread.put(1)
    newer = make_id(number_of(made.id) + (1 << 40), b"another")
    packed = encode("theirs")
    fields = {"at": 1, "digest": digest_of(packed), "metadata": {}, "parent": "", "size": len(packed), "value": packed}
    page = [remote(1, key_of(thread.prefix, newer), 5, "_checkpoints", **fields)]
    heads, log = thread._shelf.heads, edge.log
    moved = heads.moved

    def interleaved(*place: Any, **options: Any) -> None:
        log.apply(page, cursor=1)
        assert thread.get() == "theirs"
        moved(*place, **options)

    heads.moved = interleaved  # type: ignore[method-assign]
    thread.put(2)
    assert thread.get() == "theirs"
    with pytest.raises(StaleWrite):
        thread.put(3, expected=made.id)


def test_copies_of_a_store_give_out_different_ids(tmp_path: Path) -> None:
    import shutil

    from edge.ports import SystemRandom

    clock = TickingClock()
    with Edge.open(tmp_path / "a", clock=clock, random=SystemRandom()) as edge:
        edge.agent("x").thread().put(0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    clock._now_ms -= DAY_MS  # behind the newest checkpoint
    made = set()
    for name in "ab":
        with Edge.open(tmp_path / name, clock=clock, random=SystemRandom()) as edge:
            made |= {edge.agent("x").thread().put(number).id for number in range(3)}
    assert len(made) == 6


def test_agents_are_all_that_have_something(edge: Edge) -> None:
    edge.agent("m").memory("a").add("x")
    edge.agent("m").memory("b").add("y")
    edge.agent("d/é").documents().add("a text", id="1")
    edge.agent("v").vectors("faces", dimension=2).upsert("a", [1, 2])
    edge.agent("p").attachments().add(b"png")
    for name in ("one", "two"):
        edge.agent("t").thread(name).put(1)
    edge.agent("t").thread("one", type="task").put(1)
    assert edge.agents() == ["d/é", "m", "p", "t", "v"]
    assert edge.snapshots.agents() == ["t"]
    edge.agent("m").erase()
    assert edge.agents() == ["d/é", "p", "t", "v"]
