"""How soon a connected device runs another policy: a real server, a live link over loopback HTTP, a store on disk.

``policy_change_ms``: from the operator's call (``agentdb-cloud assign``, in another process than the server: its
transaction included) until the policy is active on the device: the server notices, answers the page that waits, signs
an assignment; the device fetches it and the policy, verifies both, keeps them in one transaction and compiles. Beside
the median, the worst. Baseline: three plain requests to the same server over one connection and two durable rows in
SQLite, one after the other: what the path has to wait for at the least.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

from cloud.fleet.publishing import Repository
from cloud.fleet.signing import SigningKey
from cloud.fleet.trust_files import TrustFiles, read_key_file
from cloud.ports import SystemRandom
from cloud.server.home import Home
from edge.node import Edge
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, scratch, timed
from simulations.control_plane import ControlPlane
from simulations.processes import Children

CHANGES = 40
WAIT_S_MAX = 30.0
_LOOK_S = 0.0005
_PAUSES_S = (0.0, 0.013, 0.029, 0.041)  # so that changes fall anywhere between two looks of the server


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    if "policy_change_ms" not in wanted:
        return
    with scratch() as folder, Children(folder) as children:
        cloud = ControlPlane(children, folder / "cloud")
        cloud.init(str(folder / "archive"))
        port = cloud.serve()
        with Home.open(folder / "cloud") as home, Edge.open(folder / "device") as edge:
            _publish(home, folder / "trust")
            edge.join(cloud.token(uses=1), name="device", url=f"http://127.0.0.1:{port}")
            edge.start_sync()
            took = [_change(home, edge, number) * 1e3 for number in range(1, CHANGES + 2)]
            edge.stop_sync()
        baseline = [_raw(folder, port, number) * 1e3 for number in range(CHANGES)]
    later = took[1:]  # the first brings the imports of what verifies
    yield Measurement(
        "policy_change_ms",
        median(later),
        "ms",
        len(later),
        median(baseline),
        (Goal("value", "<=", 150),),
        extra={"worst_ms": max(later), "first_ms": took[0]},
        baseline_is="three plain requests and two durable rows, one after the other",
    )


def _publish(home: Home, folder: Path) -> None:
    now_ms = home.clock.wall_ms()
    files = TrustFiles.create(folder, home.fleet.fleet, SystemRandom(), now_ms)
    for number in range(1, CHANGES + 2):
        files.add_target(_path(number), _document(number), now_ms)
    key = read_key_file(files.keys / "online.pem")
    assert isinstance(key, SigningKey)
    roots, roles, documents = files.complete()
    home.publish(Repository(roots, roles, documents), key)


def _change(home: Home, edge: Edge, number: int) -> float:
    sleep(_PAUSES_S[number % len(_PAUSES_S)])
    started = perf_counter()
    home.plane.assign(home.fleet.fleet, "policy", _path(number))
    while edge.policy.describe().get("number") != number:
        if perf_counter() - started > WAIT_S_MAX:
            raise AssertionError(f"policy {number} is not active after {WAIT_S_MAX:.0f} s")
        sleep(_LOOK_S)
    return perf_counter() - started


def _raw(folder: Path, port: int, number: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    store = raw_sqlite.connect(folder / f"raw-{number}.db")

    def path() -> None:
        for _ in range(3):
            connection.request("GET", "/v1/health")
            connection.getresponse().read()
        for row in range(2):
            raw_sqlite.insert_many(store, [(str(row), _document(row))])

    seconds = timed(path)
    store.close()
    connection.close()
    return seconds


def _path(number: int) -> str:
    return f"policies/kiosk/{number}.json"


def _document(number: int) -> bytes:
    return f'{{"name":"kiosk","schema":1,"store":{{"quota_mib":{1000 + number}}}}}'.encode()
