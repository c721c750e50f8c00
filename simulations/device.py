"""A device as a process of its own: the public ``edge`` API, driven by JSON lines (``simulations.child``).

    python -m simulations.device STORE

It opens (or makes) the store and says ``{"open": seconds}``; then it does what it is asked. What it is asked is what an
application would do: index texts, search, change records, join a fleet, sync. Ends with the end of stdin.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from edge import Collection, Edge
from simulations import child, keywords, workloads
from simulations.embedding import DIMENSIONS, MODEL, embed

TEXTS, NOTES = "texts", "notes"
VECTOR = "embedding"
DECLARATION: dict[str, Any] = {
    "fields": {"reads": "counter", "labels": "set"},
    "vector": (VECTOR, DIMENSIONS, "cosine", MODEL),
    "text": ["title", "body"],
}
BATCH = 250
_SEARCH_MAX = 5


class Device:
    """``edge`` is the store. Every public method is a request's name."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._pulled = threading.Condition()
        self._count = 0

    # -- an application's day -----------------------------------------------------------------------------------------

    def index(self, path: str, first: int, last: int) -> dict[str, Any]:
        """Put texts ``first`` to ``last`` of a JSONL file, each with its vector; how long that took."""
        texts = self._texts()
        lines = Path(path).read_text(encoding="utf-8").splitlines()[first:last]
        started, json_bytes = perf_counter(), 0
        for at in range(0, len(lines), BATCH):
            with self._edge.batch():
                for line in lines[at : at + BATCH]:
                    text = json.loads(line)
                    fields = {**text["fields"], VECTOR: embed(text["fields"]["body"])}
                    texts.put(text["key"], fields)
                    json_bytes += len(_as_json(text["key"], fields))
            child.progress(min(at + BATCH, len(lines)), len(lines))
        return {"seconds": perf_counter() - started, "json_bytes": json_bytes, "texts": len(lines)}

    def warm(self) -> None:
        """Import lancedb beside what comes next: it takes seconds, and the first text search would wait for it."""
        threading.Thread(target=import_module, args=("lancedb",), daemon=True).start()

    def search(self, text: str, mode: str, k: int = _SEARCH_MAX) -> dict[str, Any]:
        """Titles and scores, best first; ``mode`` is text, vector or hybrid."""
        started = perf_counter()
        wanted: dict[str, Any] = {"text": text} if mode == "text" else {"vector": embed(text)}
        if mode == "hybrid":
            wanted["text"] = text
        hits = self._texts().search(k=k, mode=mode, **wanted)
        return {
            "seconds": perf_counter() - started,
            "tier": hits[0].tier if hits else "",
            "hits": [[hit.key, hit.fields["title"], round(hit.score, 3)] for hit in hits],
        }

    def write(self, changes: Sequence[Mapping[str, Any]]) -> int:
        """Carry out changes: ``{"do": "put" | "patch" | …, "key": …, …}``. Their bytes as JSON."""
        texts = self._texts()
        for change in changes:
            key = change["key"]
            match change["do"]:
                case "put":
                    texts.put(key, {**change["fields"], VECTOR: embed(change["fields"]["body"])})
                case "patch":
                    texts.patch(key, change["fields"])
                case "increment":
                    texts.increment(key, change["field"], change["by"])
                case "add":
                    texts.add(key, change["field"], *change["elements"])
                case "delete":
                    texts.delete(key)
                case unknown:
                    raise ValueError(f"unknown change {unknown!r}")
        return sum(len(json.dumps(change, ensure_ascii=False).encode()) for change in changes)

    def get(self, keys: Sequence[str]) -> list[Any]:
        """The records without their vectors; None for what is not there."""
        found = [self._texts().get(key) for key in keys]
        return [record and {name: value for name, value in record.items() if name != VECTOR} for record in found]

    def load_memories(self, count: int) -> int:
        """Put the benchmark's memory documents; their bytes as JSON."""
        memories = self._edge.collection(workloads.COLLECTION)
        documents = workloads.memory_documents(count)
        with self._edge.batch():
            for document in documents:
                memories.put(document.key, document.fields)
        return sum(len(document.as_json()) for document in documents)

    # -- the fleet ----------------------------------------------------------------------------------------------------

    def join(self, token: str, name: str, url: str) -> None:
        self._edge.join(token, name=name, url=url)

    def sync(self, url: str, timeout_s: float = 60.0) -> dict[str, Any]:
        started = perf_counter()
        before = total = 0

        def on_progress(progress: Any) -> None:
            nonlocal before, total
            done = progress.pushed + progress.pulled
            total = total or done + progress.pending + progress.behind  # as the first answer lets it expect
            if done - before >= BATCH:
                before = done
                child.progress(min(done, total), total)

        made = self._edge.sync(url=url, timeout_s=timeout_s, on_progress=on_progress)
        child.progress(made.pushed + made.pulled, made.pushed + made.pulled)
        return {"seconds": perf_counter() - started, **made._asdict()}

    def start_sync(self, url: str) -> None:
        self._count = 0
        self._edge.start_sync(url=url, on_progress=self._on_progress)

    def stop_sync(self) -> None:
        self._edge.stop_sync()

    def await_pulled(self, count: int, timeout_s: float) -> int:
        """Wait until the background sync has applied that many operations of others."""
        with self._pulled:
            self._pulled.wait_for(lambda: self._count >= count, timeout_s)
            return self._count

    def _on_progress(self, progress: Any) -> None:
        with self._pulled:
            self._count = progress.pulled
            self._pulled.notify_all()

    # -- what it is told to be and to run -----------------------------------------------------------------------------

    def policy(self) -> str:
        """The name of the policy that holds; "" without one."""
        return self._edge.policy.name

    def write_notes(self, keys: Sequence[str]) -> None:
        notes = self._edge.collection(NOTES)
        for key in keys:
            notes.put(key, {"body": f"Note {key}."})

    def notes(self, keys: Sequence[str]) -> list[str]:
        """Those that are here."""
        notes = self._edge.collection(NOTES)
        return [key for key in keys if notes.get(key) is not None]

    def model(self, name: str) -> dict[str, Any]:
        return self._edge.models.status(name)[0].shown()

    def about(self, model: str, text: str) -> list[str]:
        """What the model in use says of a text; how it went is counted."""
        with self._edge.models.use(model) as path:
            words = keywords.run(str(path), {"text": text})
        self._edge.models.report_use(model, ok=True)
        return words

    # -- what it holds ------------------------------------------------------------------------------------------------

    def digest(self) -> str:
        return self._edge.digest()

    def status(self) -> dict[str, Any]:
        return self._edge.status()

    def records(self, collection: str = TEXTS) -> int:
        return self._edge.collection(collection).count() if collection in self._edge.collections() else 0

    def verify(self) -> list[str]:
        return self._edge.verify()

    def _texts(self) -> Collection:
        return self._edge.collection(TEXTS, **DECLARATION)

    def requests(self) -> Iterator[str]:
        return (name for name in dir(self) if not name.startswith("_") and name != "requests")


def _as_json(key: str, fields: Mapping[str, Any]) -> bytes:
    """As a REST API would send it; a vector as a list of numbers that read back to the same float32."""
    shown = {name: [float(f"{x:.9g}") for x in value] if name == VECTOR else value for name, value in fields.items()}
    return workloads.json_bytes(key, shown)


def main(store: str) -> None:
    started = perf_counter()
    with Edge.open(store) as edge:
        device = Device(edge)
        child.say({"open": perf_counter() - started})
        child.serve({name: getattr(device, name) for name in device.requests()})


if __name__ == "__main__":
    main(sys.argv[1])
