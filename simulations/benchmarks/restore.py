"""``restore_ops_s``: a new control plane's directory from the archive (a local directory) and the keys alone.

20,000 documents in 8 pushes are in the archive, no snapshot: every operation is fetched, verified (hash, signature,
tag), decoded, merged and stored, the state digest computed and compared, the new store checked and synced to the disk.
Extra: the same from a snapshot. Baseline: raw SQLite, the same rows by ``executemany`` in one durable transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from cloud.config import DATABASE, KEYS
from cloud.server.recovery import restore_home
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch, timed
from simulations.control_plane import ControlPlane, start_device
from simulations.processes import Children
from simulations.workloads import memory_documents

DOCUMENTS = 20_000
ROUNDS = 5


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - there is one
    rows = raw_sqlite.rows_of(memory_documents(DOCUMENTS))
    with scratch() as folder:
        digest = _make_archive(folder)
        numbers = count()

        def restored() -> float:
            target = folder / f"restored-{next(numbers)}"
            made = []
            seconds = timed(lambda: made.append(restore_home(target, str(folder / "archive"), folder / "cloud" / KEYS)))
            if made[0].digest != digest or not (target / DATABASE).exists():
                raise AssertionError("the restored state is not the one that was archived")
            return DOCUMENTS / seconds

        def raw() -> float:
            db = raw_sqlite.connect(folder / f"raw-{next(numbers)}.db")
            seconds = timed(lambda: raw_sqlite.insert_many(db, rows))
            db.close()
            return DOCUMENTS / seconds

        value, baseline = alternate(ROUNDS, restored, raw)
        ControlPlane(Children(folder), folder / "cloud").command("archive", "snapshot", str(folder / "cloud"))
        (from_snapshot,) = alternate(ROUNDS, restored)
    yield Measurement(
        "restore_ops_s",
        value,
        "ops/s",
        ROUNDS,
        baseline,
        (Goal("value", ">=", 50_000),),
        extra={"from_snapshot_ops_s": from_snapshot},
        baseline_is="raw SQLite executemany of the same rows",
    )


def _make_archive(folder: Path) -> str:
    """The state digest of what a device has pushed and the server archived before it stopped."""
    with Children(folder) as children:
        cloud = ControlPlane(children, folder / "cloud")
        cloud.init(str(folder / "archive"))
        token = cloud.token(uses=1)
        url = f"http://127.0.0.1:{cloud.serve()}"
        device = start_device(children, "a", folder / "a")
        device.call("join", token=token, name="a", url=url)
        device.call("load_memories", count=DOCUMENTS)
        device.call("sync", url=url)
        cloud.stop()
        digest = cloud.digest()
        if digest != device.call("digest") or cloud.status()["archive"]["behind"]:
            raise AssertionError("the archive does not hold what the device wrote")
    return digest
