"""Five bad models, and good ones, with a real runner in a real process and no network: each is returned from here."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge import Edge, EdgeConfig
from edge.control.model_store import ModelStore
from edge.control.probing import Outcome, run_probes
from simulations.processes import ROOT
from sync.activation import COMMITTED, RETURNED, SOAKING, STAGED, TRYING
from sync.models import Errors, Golden, Latency, Loads, Manifest, Memory, Probe, Soak
from tests.edge.control.model_world import Files, Shelf, assign, contents, model, release, settle
from tests.edge.control.runner import run

RUNNER = "tests.edge.control.runner:run"
WEIGHTS = [[1.0, 0.5], [0.0, 2.0]]
GOOD = model(WEIGHTS)
PROBES: list[Probe] = [
    Loads(within_ms=30_000),
    Golden([2.0, 4.0], [4.0, 8.0], 1e-3),
    Latency(p95_ms=40, runs=10),
    Memory(peak_bytes=150 << 20),
    Errors(share_max=0.1, of_at_least=10),
]
BAD: dict[str, tuple[Files, str]] = {
    "does not load": (
        {**GOOD, "model.safetensors": GOOD["model.safetensors"][:-1]},
        "loads: model.safetensors is none",
    ),
    "has no config": ({"model.safetensors": GOOD["model.safetensors"]}, "loads: FileNotFoundError"),
    "ends the process": (model(WEIGHTS, exit=3), "loads: SystemExit: 3"),
    "answers wrongly": (model([[1.0, 0.6], [0.0, 2.0]]), "golden: output[0] is 4.4 instead of 4, 0.001 off may be"),
    "answers too little": (model([[1.0, 0.5]]), "golden: output has 1 items instead of 2"),
    "is too slow": (model(WEIGHTS, sleep_ms=50), "latency: p95 is 5"),
    "is too big": (model(WEIGHTS, hold_bytes=400 << 20), "memory: took"),
}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def models(tmp_path: Path, shelf: Shelf) -> Iterator[ModelStore]:
    config = EdgeConfig(models_runners={"toy": RUNNER})
    with Edge.open(tmp_path / "store", config=config) as edge:
        models = ModelStore(edge.log, edge.path, edge._clock, runners=config.models_runners)
        models.connect(shelf.fill)
        assign(models, 1, shelf.publish(1, GOOD, probes=PROBES))
        settle(models)
        models.connect(None)  # there is no network any more
        assert models.note("embed").state == COMMITTED, models.status()
        yield models
        models.close()


def offer(models: ModelStore, shelf: Shelf, files: Files, soak: Soak | None = None) -> None:
    """Version 2, which was fetched while there was a network."""
    models.connect(shelf.fill)
    assign(models, 2, shelf.publish(2, files, probes=PROBES, soak=soak))
    assert models.fetch() == 1
    models.connect(None)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_model_is_returned_from_without_a_network(models: ModelStore, shelf: Shelf, bad: str) -> None:
    files, why = BAD[bad]
    offer(models, shelf, files)
    assert models.note("embed").state == STAGED
    assert models.advance() == 1
    note = models.note("embed")
    assert note.state == RETURNED
    assert note.why.startswith(why)
    assert contents(models.path("embed")) == GOOD
    assert [one["reason"] for one in models.status("embed")[0].refused] == [note.why]
    models.connect(shelf.fill)
    assign(models, 2, shelf.publish(2, files, probes=PROBES))
    assert (models.fetch(), models.advance(), models.note("embed").state) == (0, 0, RETURNED)


def test_a_model_that_fails_in_use_is_returned_from_in_its_soak(models: ModelStore, shelf: Shelf) -> None:
    """Its probes do not find it out; the agent that uses it does."""
    offer(models, shelf, model(WEIGHTS, input_max=5.0), Soak(uses=100))
    assert models.advance() == 1
    assert models.note("embed").state == SOAKING
    for turn in range(40):
        if models.note("embed").state != SOAKING:
            break
        with models.use("embed") as path:
            try:
                run(str(path), [float(turn), 1.0])
            except ValueError:
                models.report_use("embed", ok=False)
            else:
                models.report_use("embed", ok=True)
    assert models.note("embed").why == "4 of 10 uses failed, 10.0% may"
    assert contents(models.path("embed")) == GOOD
    assert models.status("embed")[0].refused[0]["number"] == 2


def test_a_good_one_is_kept_and_what_was_measured_is_told(models: ModelStore, shelf: Shelf) -> None:
    offer(models, shelf, model(WEIGHTS, note="better"))
    models.advance()
    (status,) = models.status()
    assert (status.state, status.number, status.runner) == (COMMITTED, 2, RUNNER)
    assert status.measured["loads"]["headers"] == 1
    assert status.measured["golden"] == {"off_by": 0.0}
    assert 0 < status.measured["latency"]["p95_ms"] < 40
    assert 5 << 20 < status.measured["memory"]["peak_bytes"] < 150 << 20


def probe(folder: Path, files: Files, probes: list[Probe], runner: str | None = RUNNER) -> Outcome:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    manifest = Manifest.parse(release(1, files, probes=probes)[0])
    outcome = run_probes(folder, manifest, runner, lambda: False)
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    ("runner", "why"),
    [
        ("no_such_module:run", "loads: ModuleNotFoundError: No module named 'no_such_module'"),
        ("tests.edge.control.runner:none", "loads: AttributeError"),
        ("tests.edge.control.runner:__doc__", "loads: tests.edge.control.runner:__doc__ in [models.runners]"),
    ],
)
def test_a_runner_that_is_missing_is_a_model_that_does_not_load(tmp_path: Path, runner: str, why: str) -> None:
    assert probe(tmp_path, GOOD, PROBES, runner).why.startswith(why)


def test_without_a_runner_only_headers_are_read(tmp_path: Path) -> None:
    outcome = probe(tmp_path, model([[9.0, 9.0]]), PROBES, None)
    assert outcome.why == ""
    assert outcome.measured["loads"] == {"headers": 1}
    assert outcome.measured["unprobed"] == ["golden", "latency", "memory"] or "memory" in outcome.measured
    broken = probe(tmp_path, {"model.safetensors": b"\xff" * 100}, PROBES, None)
    assert broken.why.startswith("loads: model.safetensors is none")


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a runner of a body, in a folder that only ``sys.path`` of this process knows."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def made(body: str) -> str:
        (folder / "hidden_runner.py").write_text("import os, subprocess, sys, time\n" + textwrap.dedent(body))
        return "hidden_runner:run"

    return made


def test_one_that_hangs_is_killed_at_its_deadline_with_all_it_has_started(
    tmp_path: Path, hidden: Callable[[str], str]
) -> None:
    mark = tmp_path / "pids"
    runner = hidden(
        f"""
        def run(path, given):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open({str(mark)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
            print("a runner may print")
            time.sleep(600)
        """,
    )
    began = time.monotonic()
    outcome = probe(tmp_path / "model", GOOD, [Loads(within_ms=3_000)], runner)
    assert outcome.why == "loads: not done within 3,000 ms"
    assert time.monotonic() - began < 30
    for pid in map(int, mark.read_text().split()):
        assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True


def test_memory_of_what_a_runner_starts_counts_and_address_space_does_not(
    tmp_path: Path, hidden: Callable[[str], str]
) -> None:
    runner = hidden(
        """
        import mmap

        def run(path, given):
            reserved = mmap.mmap(-1, 8 << 30)
            if given:
                code = "import time; held = bytearray(b'x') * (300 << 20); time.sleep(600)"
                subprocess.Popen([sys.executable, "-c", code]).wait()
            return [1.0]
        """,
    )
    bound = Memory(peak_bytes=200 << 20)
    assert probe(tmp_path / "a", GOOD, [Golden(None, [1.0]), bound], runner).why == ""
    assert probe(tmp_path / "b", GOOD, [Golden([1], [1.0]), bound], runner).why.startswith("memory: took")


def test_one_that_kills_itself_is_a_verdict(tmp_path: Path, hidden: Callable[[str], str]) -> None:
    runner = hidden(
        """
        def run(path, given):
            sys.stderr.write("out of luck\\n")
            sys.stderr.flush()
            os.kill(os.getpid(), 11)
        """,
    )
    assert probe(tmp_path / "a", GOOD, [], runner).why == "loads: the process ended by signal SIGSEGV out of luck"


def test_one_that_leaves_somebody_at_its_pipes_is_a_verdict(tmp_path: Path, hidden: Callable[[str], str]) -> None:
    """What it has started may have a session of its own, and still have its standard error open."""
    mark = tmp_path / "pid"
    runner = hidden(
        f"""
        def run(path, given):
            code = "import time; time.sleep(60)"
            child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
            open({str(mark)!r}, "w").write(str(child.pid))
            os.kill(os.getpid(), 11)
        """,
    )
    began = time.monotonic()
    try:
        assert probe(tmp_path / "a", GOOD, [], runner).why == "loads: the process ended by signal SIGSEGV"
        assert time.monotonic() - began < 30
    finally:
        os.kill(int(mark.read_text()), 9)


def test_what_was_under_way_is_named(
    tmp_path: Path, hidden: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    runner = hidden(
        f"""
        def run(path, given):
            with open({str(mark)!r}, "a") as mark:
                mark.write("x")
                if mark.tell() == int(os.environ["DIES_AT"]):
                    os._exit(7)
            return given
        """,
    )
    goldens = [Golden(1, 1), Golden(2, 2)]
    latency = Latency(p95_ms=1000, runs=1)
    for at, probes, kind in ((2, [latency], "latency"), (3, goldens, "golden"), (4, [*goldens, latency], "latency")):
        monkeypatch.setenv("DIES_AT", str(at))
        mark.unlink(missing_ok=True)
        assert probe(tmp_path / f"at{at}", GOOD, [*probes], runner).why == f"{kind}: the process ended by exit 7"


@pytest.mark.parametrize(
    ("found", "right", "why"),
    [
        ("[1.0, float('nan')]", [1.0, 1.0], "golden: output[1] is nan instead of 1"),
        ("{'a': [1, 'x'], 'b': None}", {"a": [1.0004, "x"], "b": None}, ""),
        ("{'a': 1}", {"b": 1}, "golden: output has other names: a, b"),
        ("True", 1, "golden: output is 'True' instead of '1'"),
        ("'abc'", "abd", "golden: output is 'abc' instead of 'abd'"),
        ("__import__('array').array('f', [1, 2])", [1, 2], ""),
        ("(1, 2)", [1, 2], ""),
        ("object()", [1], "golden: output is '<object object"),
    ],
)
def test_golden_outputs(tmp_path: Path, hidden: Callable[[str], str], found: str, right: object, why: str) -> None:
    runner = hidden(f"def run(path, given):\n    return {found}\n")
    outcome = probe(tmp_path / "a", GOOD, [Golden(1, right, 1e-3)], runner)
    assert outcome.why.startswith(why)
    assert bool(outcome.why) == bool(why)


def test_of_several_golden_outputs_the_largest_difference_is_told(tmp_path: Path, hidden: Callable[[str], str]) -> None:
    runner = hidden("def run(path, given):\n    return given\n")
    goldens: list[Probe] = [Golden(1.0, 1.0, 0.5), Golden(1.25, 1.0, 0.5), Golden(2.0, 2.125, 0.5)]
    outcome = probe(tmp_path / "a", GOOD, goldens, runner)
    assert outcome.why == ""
    assert outcome.measured["golden"] == {"off_by": 0.25}


def test_closing_ends_the_probes_and_the_trial_goes_on_later(tmp_path: Path, shelf: Shelf) -> None:
    config = EdgeConfig(models_runners={"toy": RUNNER})
    files = model(WEIGHTS, sleep_ms=20_000)
    with Edge.open(tmp_path / "store", config=config) as edge:
        edge.models.connect(shelf.fill)
        assign(edge.models, 1, shelf.publish(1, files, probes=PROBES))
        deadline = time.monotonic() + 30
        while edge.models.note("embed").state != TRYING:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with Edge.open(tmp_path / "store", read_only=True) as edge:
        note = edge.models.note("embed")
        assert (note.state, note.tries) == (TRYING, 0), "no fault of the model's"


def test_probes_do_not_outlive_the_process_that_runs_them(tmp_path: Path) -> None:
    """The agent is killed; what it was trying goes with it."""
    code = """
        import sys, threading
        from pathlib import Path
        from edge.control import probing
        from tests.edge.control.model_world import model, release
        from sync.models import Manifest
        folder = Path(sys.argv[1])
        files = model([[1.0]], sleep_ms=600_000)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        made = probing.subprocess.Popen
        def told(*args, **options):
            process = made(*args, **options)
            print(process.pid, flush=True)
            return process
        probing.subprocess.Popen = told
        manifest = Manifest.parse(release(1, files)[0])
        probing.run_probes(folder, manifest, "tests.edge.control.runner:run", lambda: False)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as agent:
        assert agent.stdout is not None
        child = int(agent.stdout.readline())
        time.sleep(0.5)
        agent.kill()
        agent.wait()
    assert not is_alive(child)


def test_where_no_process_can_be_had_it_is_no_fault_of_the_models(
    models: ModelStore, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(models, shelf, model(WEIGHTS, note="good"))

    def none(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", none)
        for _ in range(5):
            assert models.advance() == 0
    assert models.note("embed").tries == 0
    assert "Cannot allocate memory" in models.status()[0].problem
    assert (models.advance(), models.note("embed").state) == (1, COMMITTED)


def test_no_probe_is_left(models: ModelStore) -> None:
    """Whatever the others here did."""
    del models
    here = str(os.getpid())
    left = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal() and _is_probe_of(entry, here)]
    assert left == []


def _is_probe_of(entry: Path, parent: str) -> bool:
    try:
        stat = (entry / "stat").read_text().rpartition(")")[2].split()
        return stat[1] == parent and b"probe_child" in (entry / "cmdline").read_bytes()
    except OSError:
        return False
