"""Kills a writing process again and again, and looks each time whether the store is what was acknowledged.

A process of its own (``python -m tests.edge.kill_loop DIR KILLS SEED``), single-threaded, so that it may fork
cheaply. What a writer does is a function of its number and its turn, and it reports every turn that returned. So
after a kill the store must hold exactly what the reported turns lead to, or that and the one turn that was under
way.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edge import Collection, Edge
from edge.storage import log_writer

WRITERS = 3
KEYS = 12
Model = dict[str, dict[str, Any]]


def turn_of(writer: int, turn: int) -> tuple[str, str]:
    """What to do, and to which record."""
    rng = random.Random(writer * 1_000_003 + turn)
    return rng.choice(["put", "put", "put", "increment", "patch", "delete", "batch"]), f"{writer}-{rng.randrange(KEYS)}"


def act(notes: Collection, edge: Edge, writer: int, turn: int) -> None:
    what, key = turn_of(writer, turn)
    if what == "increment":
        notes.increment(key, "n", upsert=True)
    elif what == "patch":
        notes.patch(key, {f"f{turn % 3}": turn}, upsert=True)
    elif what == "delete":
        if key in notes:
            notes.delete(key)
        else:
            notes.put(key, {"again": turn})
    elif what == "batch":
        with edge.batch():
            for number in range(30):
                notes.put(f"{writer}-b{number}", {"turn": turn, "x": "y" * 100})
            notes.put(key, {"turn": turn})
    else:
        notes.put(key, {"turn": turn, "x": "y" * (turn % 300)})


def expect(model: Model, writer: int, turn: int) -> None:
    """What ``act`` leads to. A counter survives a put, and not a delete."""
    what, key = turn_of(writer, turn)
    held = model.get(key)
    kept = {"n": held["n"]} if held is not None and "n" in held else {}
    if what == "increment":
        model[key] = {**(held or {}), "n": (held or {}).get("n", 0) + 1}
    elif what == "patch":
        model[key] = {**(held or {}), f"f{turn % 3}": turn}
    elif what == "delete":
        if held is not None:
            del model[key]
        else:
            model[key] = {"again": turn}
    elif what == "batch":
        for number in range(30):
            model[f"{writer}-b{number}"] = {"turn": turn, "x": "y" * 100}
        model[key] = {"turn": turn, **kept}
    else:
        model[key] = {"turn": turn, "x": "y" * (turn % 300), **kept}


def write(store: Path, turns: list[int], pipe: int) -> None:
    """The child: writes until it is killed. Folds and checkpoints come often, so that kills meet them."""
    log_writer.FOLD_RECORDS_MAX = 25
    edge = Edge.open(store)
    edge.log.writer.db.execute("PRAGMA wal_autocheckpoint=40")
    notes = edge.collection("notes", fields={"n": "counter"})

    def work(writer: int) -> None:
        for turn in range(turns[writer], 1 << 30):
            act(notes, edge, writer, turn)
            os.write(pipe, f"{writer} {turn}\n".encode())

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(1, len(turns))]
    for thread in threads:
        thread.start()
    work(0)


def reported(pipe: int) -> list[tuple[int, int]]:
    data = b""
    while chunk := os.read(pipe, 1 << 16):
        data += chunk
    lines = data.split(b"\n")[:-1]
    return [(int(writer), int(turn)) for writer, _, turn in (line.partition(b" ") for line in lines)]


def check(store: Path, models: list[Model], turns: list[int]) -> None:
    """Bring models and turns up to what the store holds, or fail."""
    with Edge.open(store) as edge:
        if "notes" not in edge.collections():
            assert not any(turns), "the store has forgotten everything"
            return
        found: list[Model] = [{} for _ in turns]
        for key, fields in edge.collection("notes").scan():
            found[int(key.partition("-")[0])][key] = fields
        for writer, model in enumerate(models):
            if found[writer] != model:
                expect(model, writer, turns[writer])
                turns[writer] += 1
            assert found[writer] == model, f"writer {writer} at turn {turns[writer]}"
        problems = edge.log.verify()
        assert not problems, problems


def main(store: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    turns = [0] * WRITERS
    models: list[Model] = [{} for _ in turns]
    alone = 0
    for _ in range(kills):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            try:
                write(store, turns, theirs)
            finally:
                os._exit(70)
        os.close(theirs)
        time.sleep(rng.choice([0.01, 0.05, 0.1, 0.2]) * rng.random() + 0.002)
        os.kill(child, signal.SIGKILL)
        acknowledged = reported(ours)
        os.close(ours)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"the writer ended by itself: {status}"
        alone += not acknowledged
        for writer, turn in acknowledged:
            assert turn == turns[writer]
            expect(models[writer], writer, turn)
            turns[writer] += 1
        check(store, models, turns)
    sys.stdout.write(f"{kills} kills, {sum(turns)} writes, {alone} before the first one\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
