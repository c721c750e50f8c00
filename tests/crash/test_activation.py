"""Whatever a crash leaves of a model's activation, the next start gives one good model, and goes on from there."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import Edge
from edge.control.model_store import ModelStore
from simulations.crash import strace
from simulations.crash.disk import Disk
from simulations.crash.judge import lay_out, scratch
from simulations.crash.operations import Operation, Reader
from simulations.crash.power import State
from simulations.crash.strace import Call
from simulations.processes import ROOT, environment
from sync.errors import NotFound
from tests.crash.model_work import FILES, STEPS, STORE, documents, opened, shelf
from tests.crash.traced import needs_strace
from tests.edge.control.model_world import assign, contents, settle

ACTIVE = [0, *(active for _, _, active in STEPS)]
ROUNDS = 3  # of chosen losses for each cut, after "what was synced" and "everything"
Done = list[tuple[Call, Operation]]


def recorded(base: Path) -> Done:
    """What ``model_work`` did to its disk, in order."""
    (base / "disk").mkdir(parents=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.model_work", str(base), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env={**environment(), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        ours.settimeout(60)
        assert ours.recv(64) == b"ready"
        tracer = strace.attach(child.pid, base / "trace")
        ours.send(b"go")
        acknowledged = 0
        while ours.recv(64):
            acknowledged += 1
        _, said = child.communicate(timeout=60)
        assert tracer.stderr is not None
        tracer.stderr.close()
        tracer.wait(60)
    assert acknowledged == len(STEPS), said
    return list(Reader(str(base / "disk")).operations(strace.calls(base / "trace")))


def states(done: Done) -> Iterator[State]:
    """After every write: with what was synced, with everything, and with losses as chance has it."""
    chance = random.Random(7)
    for number in range(2 + ROUNDS):
        disk = Disk({})
        acknowledged = 0
        for at, (call, operation) in enumerate(done):
            if operation.kind == "ack":
                acknowledged = operation.place
            disk.apply(operation, call.ended)
            if operation.kind != "open" and not operation.path.endswith("-shm"):
                files = disk.after_power_cut(chance if number else None, everything=number == 1)
                yield State(at, acknowledged, {path: data for path, data in files.items() if not path.endswith("-shm")})


def judged(base: Path, acknowledged: int) -> list[str]:
    """What is wrong with the store below ``base``, after so many steps and perhaps a part of one more."""
    allowed = set(ACTIVE[acknowledged : acknowledged + 2])
    if not (base / STORE / "log.db").exists():
        return [] if acknowledged == 0 else ["the store is gone"]
    with Edge.open(base / STORE) as edge:
        models = opened(base, edge)
        problems = []
        if "damage" in [what for what, _, _ in STEPS[max(0, acknowledged - 1) : acknowledged + 1]]:
            models.verify()  # what is done in the background after an unclean end, as only the bytes show it
        found = given(models)
        if found not in allowed:
            problems.append(f"it gives {found}, of {sorted(allowed)}: {models.note('embed')}")
        models.connect(shelf(base).fill)
        settle(models)
        if models.note("embed").active is not None and given(models) < 0:
            problems.append("what it gives after it went on is no model")
        for number in (5, 2):
            assign(models, number, documents(base, number))
            settle(models)
            if given(models) != number:
                problems.append(f"{number} cannot be had any more: {models.note('embed')} {models.problems}")
        problems += models.verify() + edge.log.verify()
        models.close()
    return problems


def given(models: ModelStore) -> int:
    """The number of what ``path`` gives, by its bytes; 0 for nothing, -1 for bytes of no version."""
    try:
        with models.use("embed") as path:
            found = contents(path)
    except NotFound:
        return 0
    return next((number for number, files in FILES.items() if files == found), -1)


@needs_strace
@pytest.mark.slow
def test_every_prefix_of_every_steps_writes_gives_one_good_model() -> None:
    with scratch() as base:
        done = recorded(base)
        kinds = {operation.kind for _, operation in done}
        assert {"create", "write", "rename", "unlink", "sync", "ack"} <= kinds
        seen: set[int] = set()
        problems: list[str] = []
        cases = 0
        for state in states(done):
            digest = hash((state.acknowledged, *sorted(state.files.items(), key=lambda item: item[0])))
            if digest in seen:
                continue
            seen.add(digest)
            cases += 1
            lay_out(base / "disk", state.files)
            found = judged(base, state.acknowledged)
            step = STEPS[min(state.acknowledged, len(STEPS) - 1)]
            problems += [f"cut after {state.cut} of {len(done)}, in {step}: {problem}" for problem in found]
        sys.stdout.write(f"{cases} states of {len(done)} operations\n")
    assert problems == []
    assert cases > 500


@pytest.mark.slow
def test_sigkill_at_each_step_with_real_processes(tmp_path: Path) -> None:
    kill_at = 0
    ends: list[int] = []
    while not ends or ends[-1] != 0:
        kill_at += 1
        base = tmp_path / str(kill_at)
        (base / "disk").mkdir(parents=True)
        ends.append(_lived(base, kill_at))
        assert ends[-1] in (-9, 0)
        with Edge.open(base / STORE, read_only=True) as edge:
            assert given(edge.models) in (0, 1, 2), kill_at
            assert edge.models.verify() == [], kill_at
        again = _lived(base, 0)
        assert again == 0, kill_at
        with Edge.open(base / STORE, read_only=True) as edge:
            assert given(edge.models) == 2, kill_at
            (status,) = edge.models.status()
            assert (status.returned, [one["number"] for one in status.refused]) == (4, [4]), kill_at
        shutil.rmtree(base)
    assert len(ends) > 25


def _lived(base: Path, kill_at: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.model_work", str(base), "--kill", str(kill_at)],
        env={**environment(), "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode
