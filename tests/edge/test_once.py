"""What is made once is made once, however many threads ask at the same time (Python 3.12's own may make it twice)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import sleep

from edge import Edge
from edge.storage.once import once


class Holder:
    def __init__(self) -> None:
        self.made = 0

    @once
    def value(self) -> object:
        """Kept."""
        sleep(0.02)
        self.made += 1
        return object()


def test_one_thread_makes_it_and_the_others_wait() -> None:
    holder, ready = Holder(), Barrier(8)

    def ask(_: int) -> object:
        ready.wait()
        return holder.value

    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(ask, range(8))))
    assert (holder.made, len(found)) == (1, 1)
    assert Holder().value is not holder.value
    assert Holder.value.__doc__ == "Kept."


def test_a_store_has_one_shelf(tmp_path: Path) -> None:
    ready = Barrier(8)
    with Edge.open(tmp_path / "s") as edge, ThreadPoolExecutor(8) as pool:

        def ask(_: int) -> object:
            ready.wait()
            return edge.agent("a")._shelf

        assert len({id(one) for one in pool.map(ask, range(8))}) == 1
