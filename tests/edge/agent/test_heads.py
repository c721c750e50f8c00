"""The newest checkpoints that are kept in memory are those that a scan would find, whoever writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edge import Edge, Thread
from edge.agent.names import key_of, make_id
from sync.schema import declare
from tests.edge.logs import remote


def test_the_newest_is_looked_for_only_after_somebody_else_wrote_checkpoints(edge: Edge) -> None:
    agent = edge.agent("guide")
    thread, other, memory = agent.thread(), agent.thread("other"), agent.memory()
    scans: list[str] = []
    real = edge.log.scan

    def counted(collection: str, **options: Any) -> Any:
        scans.append(collection)
        return real(collection, **options)

    edge.log.scan = counted  # type: ignore[method-assign]
    first = [thread.put(0), other.put(0)]
    for number in range(1, 20):
        memory.add(f"text {number}")
        first = [thread.put(number, expected=first[0].id), other.put(number, expected=first[1].id)]
        assert (thread.get(), other.get()) == (number, number)
    assert scans == ["_checkpoints"] * 2
    old = make_id(1, b"another")
    fields = {"at": 1, "metadata": {}, "parent": "", "size": 1}
    edge.log.apply([remote(1, key_of(other.prefix, old), 5, "_checkpoints", **fields)], cursor=1)
    assert thread.get() == 19
    assert len(scans) == 3
    assert other.prune(keep_latest=1) == 20
    assert other.get() == 19
    with edge.batch():
        thread.put("in a batch")
    assert thread.get() == "in a batch"
    assert thread.delete() == 21
    assert thread.get() is None


def test_what_was_found_before_a_put_is_not_kept_after_it(edge: Edge, thread: Thread) -> None:
    """One thread scans while another puts twice."""
    heads = edge._shelf.heads
    thread.put(1)
    edge.agent("guide").thread("other").delete()
    edge._shelf.log.declare(declare("more"))
    heads._known.clear()

    def slowly() -> str | None:
        found = thread._newest()
        thread.put(2)
        thread.put(3)
        return found

    heads.newest(thread.prefix, slowly)
    assert thread.get() == 3


def test_heads_are_found_by_many_threads_at_once(edge: Edge) -> None:
    agent = edge.agent("guide")

    def work(number: int) -> None:
        thread = agent.thread(f"t{number % 3}")
        for step in range(40):
            made = thread.put((number, step))
            head = thread.head()
            assert head is not None
            assert head.id >= made.id
            agent.memory().add(f"{number} {step}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    for name in ("t0", "t1", "t2"):
        found = [one.id for one in agent.thread(name).history()]
        assert len(found) == 80
        head = agent.thread(name).head()
        assert head is not None
        assert head.id == found[0] == max(found)


def test_what_else_metadata_say_of_merged_is_nobodys_end(thread: Thread) -> None:
    odd = [{"a": 1}, ["b"], None, 7]
    made = thread.put(1, metadata={"merged": odd})
    assert [one.id for one in thread.heads()] == [made.id]
    assert thread.heads()[0].metadata == {"merged": odd}
