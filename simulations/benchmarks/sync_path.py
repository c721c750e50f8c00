"""The whole path: 10,000 documents from device A through the cloud to device B, over loopback HTTP, three processes.

``sync_ops_s``: from the start of A's sync until B has applied everything. The processes are up and enrolled before; B
follows the feed live; signing, encryption, fsyncs and the server's archive are on. Baseline: no network, no keys, no
merging, one process: pack the same rows (msgpack + zstd-3), unpack and insert them into a "cloud" SQLite file, pack,
unpack and insert them into a "device" one, in portions of 2,500, ``synchronous=FULL``.

``sync_wire_bytes``: what that takes on the wire, both devices, both directions, HTTP included, as counted by a proxy
process before each device. Baseline: the raw codec's bytes, once up and once down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from time import perf_counter

import msgpack
import zstandard

from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, scratch, timed
from simulations.control_plane import ControlPlane, Proxy, start_device
from simulations.processes import Child, Children, together
from simulations.workloads import COLLECTION, memory_documents

DOCUMENTS = 10_000
PORTION = 2_500
ROUNDS = 3
SYNC_S_MAX = 120.0
_OTHER_OPERATIONS = 1  # the collection's schema travels too


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    if "sync_ops_s" in wanted:
        seconds, baseline = [], []
        for _ in range(ROUNDS):
            seconds.append(_Round().run(through_proxy=False).seconds)
            baseline.append(_raw_seconds())
        yield Measurement(
            "sync_ops_s",
            DOCUMENTS / median(seconds),
            "ops/s",
            ROUNDS,
            DOCUMENTS / median(baseline),
            (Goal("value", ">=", 12_000),),
            baseline_is="raw codec + SQLite inserts on both sides, one process",
        )
    if "sync_wire_bytes" in wanted:
        made = _Round().run(through_proxy=True)
        yield Measurement(
            "sync_wire_bytes",
            sum(made.wire.values()),
            "bytes",
            1,
            2 * sum(len(packed) for packed in _raw_portions()),
            extra={
                **made.wire,
                "bytes_per_op": sum(made.wire.values()) / DOCUMENTS,
                "json_bytes": made.json_bytes,
            },
            baseline_is="raw msgpack + zstd-3 of the rows, once up and once down",
        )


class _Round:
    """One fresh fleet, one transfer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.json_bytes = 0
        self.wire: dict[str, int] = {}

    def run(self, *, through_proxy: bool) -> _Round:
        with scratch() as folder, Children(folder) as children:
            cloud = ControlPlane(children, folder / "cloud")
            cloud.init(str(folder / "archive"))
            token = cloud.token(uses=2)
            port = cloud.serve()
            devices = together(*(partial(start_device, children, name, folder / name) for name in "ab"))
            proxies = [Proxy(children, f"proxy-{name}", port) for name in "ab"] if through_proxy else []
            urls = [proxy.url for proxy in proxies] or [f"http://127.0.0.1:{port}"] * 2
            self._transfer(devices[0], devices[1], urls, token, proxies)
            if len({device.call("digest") for device in devices} | {cloud.digest()}) != 1:
                raise AssertionError("the devices and the cloud do not hold the same records")
        return self

    def _transfer(self, a: Child, b: Child, urls: list[str], token: str, proxies: list[Proxy]) -> None:
        for device, url, name in ((a, urls[0], "a"), (b, urls[1], "b")):
            device.call("join", token=token, name=name, url=url)
            device.call("sync", url=url)  # the first handshake: keys, clocks
        self.json_bytes = a.call("load_memories", count=DOCUMENTS)
        b.call("start_sync", url=urls[1])
        expected = DOCUMENTS + _OTHER_OPERATIONS
        before = [proxy.counts() for proxy in proxies]
        started = perf_counter()
        _, pulled = together(
            lambda: a.call("sync", url=urls[0]),
            lambda: b.call("await_pulled", count=expected, timeout_s=SYNC_S_MAX),
        )
        self.seconds = perf_counter() - started
        if pulled != expected or b.call("records", collection=COLLECTION) != DOCUMENTS:
            raise AssertionError(f"B has applied {pulled} of {expected} operations after {SYNC_S_MAX:.0f} s")
        b.call("stop_sync")
        for name, proxy, old in zip("ab", proxies, before, strict=False):
            new = proxy.counts()
            self.wire |= {f"{name}_{way}": new[way] - old[way] for way in ("up", "down")}


def _raw_portions() -> list[bytes]:
    rows = [(document.key, document.fields) for document in memory_documents(DOCUMENTS)]
    return [_packed(rows[at : at + PORTION]) for at in range(0, DOCUMENTS, PORTION)]


def _packed(rows: Sequence[tuple[str, object]]) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(msgpack.packb(rows))


def _raw_seconds() -> float:
    rows = [(document.key, document.fields) for document in memory_documents(DOCUMENTS)]
    with scratch() as folder:
        stores = [raw_sqlite.connect(folder / f"{name}.db") for name in ("cloud", "device")]

        def transfer() -> None:
            for at in range(0, DOCUMENTS, PORTION):
                portion = rows[at : at + PORTION]
                for store in stores:
                    portion = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(_packed(portion)))
                    raw_sqlite.insert_many(store, [(key, msgpack.packb(fields)) for key, fields in portion])

        seconds = timed(transfer)
        for store in stores:
            store.close()
    return seconds
