"""``put_group_commit_speedup``: single durable puts by 16 threads against the same by one, through shared commits.

Baseline: what raw SQLite gains from 16 threads, a connection and a lock between them, each committing its own row.

However many share a commit, each of them has to be woken: ``hand_over_us`` is what that costs here at the least, in a
ring of 16 threads, each of which waits for a lock, releases the next one's and does nothing else. So the faster the
disk (``raw_one_thread_ops_s``), the less there is to be shared, and the smaller is the speed-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Barrier, Lock, Thread

from edge import Edge
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch, timed
from simulations.workloads import COLLECTION, Document, memory_documents

THREADS = 16
PUTS = 1600
HAND_OVERS = 3200
ROUNDS = 7


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - there is one
    documents = memory_documents(PUTS * (ROUNDS + 1) * 2)
    chunks = [documents[at : at + PUTS] for at in range(0, len(documents), PUTS)]
    ours_left, raw_left = iter(chunks), iter(chunks)
    with scratch() as folder, Edge.open(folder / "store") as edge:
        memories = edge.collection(COLLECTION)
        db = raw_sqlite.connect(folder / "raw.db")
        lock = Lock()

        def ours(document: Document) -> None:
            memories.put(document.key, document.fields)

        def raw(document: Document) -> None:
            row = raw_sqlite.row_of(document)
            with lock:
                db.execute(raw_sqlite.INSERT, row)

        one, many, raw_one, raw_many, hand_over = alternate(
            ROUNDS,
            lambda: PUTS / _threaded(1, next(ours_left), ours),
            lambda: PUTS / _threaded(THREADS, next(ours_left), ours),
            lambda: PUTS / _threaded(1, next(raw_left), raw),
            lambda: PUTS / _threaded(THREADS, next(raw_left), raw),
            _hand_over,
        )
        db.close()
    yield Measurement(
        "put_group_commit_speedup",
        many / one,
        "x",
        ROUNDS,
        raw_many / raw_one,
        (Goal("value", ">=", 4),),
        extra={
            "one_thread_ops_s": one,
            "threads_ops_s": many,
            "threads": THREADS,
            "hand_over_us": hand_over * 1e6,
            "raw_one_thread_ops_s": raw_one,
        },
        baseline_is="raw SQLite: 16 threads against one",
    )


def _hand_over() -> float:
    """Seconds from one thread to the next, in a ring of them."""
    turns = [Lock() for _ in range(THREADS)]
    for turn in turns:
        turn.acquire()

    def work(number: int) -> None:
        own, following = turns[number], turns[(number + 1) % THREADS]
        for _ in range(HAND_OVERS // THREADS):
            own.acquire()
            following.release()

    workers = [Thread(target=work, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()

    def around() -> None:
        turns[0].release()
        for worker in workers:
            worker.join()

    return timed(around) / HAND_OVERS


def _threaded(threads: int, documents: Sequence[Document], put: Callable[[Document], None]) -> float:
    """Seconds that the threads need for all documents together. Raises what a thread raised."""
    errors: list[BaseException] = []
    ready = Barrier(threads + 1)

    def work(share: Sequence[Document]) -> None:
        try:
            ready.wait()
            for document in share:
                put(document)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that measures
            errors.append(error)

    workers = [Thread(target=work, args=(documents[number::threads],)) for number in range(threads)]
    for worker in workers:
        worker.start()

    def together() -> None:
        ready.wait()
        for worker in workers:
            worker.join()

    seconds = timed(together)
    if errors:
        raise errors[0]
    return seconds
