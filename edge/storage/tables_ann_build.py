"""Making an approximate index of a collection's vectors, and measuring whether it may serve (ADR 17).

A LanceDB table of its own: the key, a digest of the stored vector, and the row that is searched, under an IVF_SQ index
(partitions by k-means; each number as a byte). It is made from the record images, beside the collection's own table,
and never changes afterwards: what is written later is found in the collection's table.

How recall is measured: 256 stored vectors, evenly spread over the keys, each without itself. The true nearest 100 of
each come from one pass over all rows. On one half the cheapest setting that reaches 0.95, of the nearest 10 and of the
nearest 100, is chosen; on the other half it is measured. What does not reach it there is not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from hashlib import blake2b
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.vectors import row_of
from sync.images import image_values

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from lancedb.table import Table
    from numpy.typing import NDArray

    from edge.storage.delta_log import DeltaLog
    from edge.storage.vectors import Floats
    from sync.schema import CollectionSchema, VectorSpec

KEY, DIGEST, ROW = "key", "digest", "row"
TABLE = "index"
ROWS_MIN = 1_000
RECALL_MIN = 0.95
NEAR, FAR = 10, 100  # the depths at which recall is measured
MARGIN = 6
SAMPLE = 256  # vectors asked for, half of them to choose by and half to measure with
_PAGE = 1024
_SCAN_ROWS = 2048
_PROBES_MIN = 4
_PROBES_SHARE = 4  # a search that looks at more than a quarter of all partitions is no better than an exact one
_FACTORS = (2, 4, 8)  # candidates for each result, scored exactly from the records
_TRAINING_MIN, _TRAINING_MAX = 32, 256  # rows for each partition that k-means sees


class Abandoned(Exception):
    """The store was closed meanwhile."""


class Setting(NamedTuple):
    """``probes`` partitions are searched, and ``factor`` candidates scored exactly for each result."""

    probes: int
    factor: int

    def fetch(self, k: int) -> int:
        return self.factor * k + MARGIN


class Recall(NamedTuple):
    """Of the nearest 10, and of the nearest 100."""

    near: float
    far: float

    @property
    def lower(self) -> float:
        return min(self)


class Built(NamedTuple):
    """``recall`` was measured on the ``sample`` vectors that the setting was not chosen by. ``refused`` says why the
    index must not serve, or is empty.
    """

    rows: int
    partitions: int
    setting: Setting
    recall: Recall
    sample: int
    refused: str


def digest_of(stored: bytes) -> int:
    """Tells a stored vector from what became of it since: 64 bits."""
    return int.from_bytes(blake2b(stored, digest_size=8).digest(), "little", signed=True)


def build(
    folder: Path,
    connect: Callable[[Path], Any],
    log: DeltaLog,
    schema: CollectionSchema,
    training_bytes: int,
    stopped: Callable[[], bool],
) -> Built:
    """Write the index into ``folder`` and measure it. Raises Abandoned if ``stopped`` says so, and what Lance does."""
    import numpy as np
    from lancedb.index import IvfSq

    spec = schema.vector
    assert spec is not None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    queries: dict[str, Floats] = {}
    table = connect(folder).create_table(TABLE, data=_reader(log, schema, spec, queries, stopped))
    rows = table.count_rows()
    if rows < ROWS_MIN:
        return Built(rows, 0, Setting(0, 0), Recall(0.0, 0.0), 0, f"only {rows} records have a vector")
    keys, asked = list(queries), np.stack(list(queries.values()))
    partitions = max(1, isqrt(rows))
    rate = training_bytes // (4 * spec.dimensions * partitions)
    config = IvfSq(
        distance_type=index_metric(spec),
        num_partitions=partitions,
        sample_rate=max(_TRAINING_MIN, min(_TRAINING_MAX, rate)),
    )
    table.create_index(ROW, config=config)
    truth = _nearest(table, spec, keys, asked, stopped)
    chosen, recall = _chosen(table, spec, keys, asked, truth, partitions, stopped)
    refused = ""
    if recall.lower < RECALL_MIN:
        refused = (
            f"recall@{NEAR} is {recall.near:.3f}, recall@{FAR} {recall.far:.3f} with {chosen.probes} of {partitions} "
            f"partitions and {chosen.factor} candidates for each result; below {RECALL_MIN} no index serves"
        )
    return Built(rows, partitions, chosen, recall, len(keys) - len(keys) // 2, refused)


def index_metric(spec: VectorSpec) -> Any:
    """Rows of cosine have length 1, where the Euclidean distance puts them in the same order."""
    return "l2" if spec.metric == "cosine" else spec.metric


def candidates(table: Any, spec: VectorSpec, row: Floats, setting: Setting, fetch: int) -> list[tuple[str, int]]:
    """(key, digest) of what the index thinks nearest, best first."""
    from lancedb.background_loop import LOOP

    query = table._table.query().nearest_to(row).column(ROW).distance_type(index_metric(spec))  # noqa: SLF001
    loop: Any = LOOP
    found = loop.run(query.nprobes(setting.probes).select([KEY, DIGEST, "_distance"]).limit(fetch).to_arrow())
    return list(zip(found[KEY].to_pylist(), found[DIGEST].to_pylist(), strict=True))


def _reader(
    log: DeltaLog, schema: CollectionSchema, spec: VectorSpec, queries: dict[str, Floats], stopped: Callable[[], bool]
) -> pa.RecordBatchReader:
    import pyarrow as pa

    layout = pa.schema(
        [
            pa.field(KEY, pa.string()),
            pa.field(DIGEST, pa.int64()),
            pa.field(ROW, pa.list_(pa.float32(), spec.dimensions)),
        ]
    )
    step = max(1, log.count(schema.name) // SAMPLE)

    def batches() -> Iterator[pa.RecordBatch]:
        number, after = 0, ""
        while images := log.scan(schema.name, after=after, limit=_PAGE):
            _check(stopped)
            after = images[-1][0]
            keys, digests, rows = [], [], []
            for key, image in images:
                stored = (image_values(image) or {}).get(spec.field)
                row = row_of(spec, stored)
                if row is None or stored is None:
                    continue
                keys.append(key)
                digests.append(digest_of(stored))
                rows.append(row.tobytes())
                if number % step == 0 and len(queries) < SAMPLE:
                    queries[key] = row
                number += 1
            flat = pa.Array.from_buffers(
                pa.float32(), len(rows) * spec.dimensions, [None, pa.py_buffer(b"".join(rows))]
            )
            vectors = pa.FixedSizeListArray.from_arrays(flat, spec.dimensions)
            columns = [pa.array(keys, pa.string()), pa.array(digests, pa.int64()), vectors]
            yield pa.RecordBatch.from_arrays(columns, schema=layout)

    return pa.RecordBatchReader.from_batches(layout, batches())


def _nearest(
    table: Table, spec: VectorSpec, keys: list[str], asked: Floats, stopped: Callable[[], bool]
) -> list[list[str]]:
    """The true nearest of each of the vectors ``asked``, best first, without itself: in one pass over the rows."""
    import numpy as np
    import pyarrow as pa

    depth = FAR + 1
    best = np.full((len(keys), depth), -np.inf, dtype=np.float32)
    places: NDArray[np.int64] = np.zeros((len(keys), depth), dtype=np.int64)
    first = 0
    name: dict[int, str] = {}
    for batch in table.search().select([KEY, ROW]).to_batches(_SCAN_ROWS):
        _check(stopped)
        flat = batch.column(ROW).flatten().to_numpy(zero_copy_only=False)
        rows = flat.reshape(-1, spec.dimensions)
        scores = asked @ rows.T
        if spec.metric == "l2":
            scores = 2 * scores - np.einsum("ij,ij->i", rows, rows)
        scores = np.concatenate([best, scores], axis=1)
        here = np.broadcast_to(np.arange(first, first + len(rows)), (len(keys), len(rows)))
        at = np.concatenate([places, here], axis=1)
        top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        best, places = np.take_along_axis(scores, top, 1), np.take_along_axis(at, top, 1)
        new = np.unique(places[places >= first])
        named = batch.column(KEY).take(pa.array(new - first)).to_pylist()
        name.update(zip(new.tolist(), named, strict=True))
        first += len(rows)
    order = np.argsort(-best, axis=1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return [
        [name[place] for place in line if name[place] != key][:FAR]
        for key, line in zip(keys, places.tolist(), strict=True)
    ]


def _chosen(
    table: Table,
    spec: VectorSpec,
    keys: list[str],
    asked: Floats,
    truth: list[list[str]],
    partitions: int,
    stopped: Callable[[], bool],
) -> tuple[Setting, Recall]:
    """The cheapest setting that reaches the recall, and what was measured of it; or the one that came nearest."""
    most = max(1, partitions // _PROBES_SHARE)
    probes = [count for count in (_PROBES_MIN << at for at in range(12)) if count < most]
    settings = [Setting(count, _FACTORS[0]) for count in [*probes, most]]
    settings += [Setting(most, factor) for factor in _FACTORS[1:]]
    halves = (range(0, len(keys), 2), range(1, len(keys), 2))
    closest = (settings[0], Recall(0.0, 0.0))
    for setting in settings:
        recall = closest[1]
        for half in halves:
            _check(stopped)
            recall = _recall(table, spec, setting, [(keys[at], asked[at], truth[at]) for at in half])
            if recall.lower < RECALL_MIN:
                break
        if recall.lower > closest[1].lower:
            closest = (setting, recall)
        if recall.lower >= RECALL_MIN:
            break
    return closest


def _recall(table: Table, spec: VectorSpec, setting: Setting, asked: list[tuple[str, Floats, list[str]]]) -> Recall:
    found = {NEAR: 0, FAR: 0}
    wanted = {NEAR: 0, FAR: 0}
    for key, row, nearest in asked:
        got = [name for name, _ in candidates(table, spec, row, setting, setting.fetch(FAR) + 1) if name != key]
        for depth in (NEAR, FAR):
            found[depth] += len({*nearest[:depth]} & {*got[: setting.fetch(depth)]})
            wanted[depth] += len(nearest[:depth])
    return Recall(*(found[depth] / max(1, wanted[depth]) for depth in (NEAR, FAR)))


def _check(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Abandoned
