"""Everything of an agent, or of one namespace, as JSON lines: for its owner, for another program, for the law.

A line is one memory, document or checkpoint: ``{"store": "memory" | "document" | "state", …}``, UTF-8, in order of
store and key. What JSON has not: bytes are ``{"$base64": …}``, an array ``{"$array": [dtype, shape, numbers]}``, a
tuple ``{"$tuple": […]}``, a time ``{"$time": ISO 8601}``, NaN and the infinities ``{"$float": "nan"}``, a dict with
other keys than strings ``{"$dict": [[key, value], …]}``; so is one of which a name begins with ``$``. Vectors are
left out: a model makes them anew.

What always holds: the file is there whole, or not at all; nothing of another agent is in it.
"""

from __future__ import annotations

import base64
import json
import os
from array import array
from collections.abc import Iterator
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.agent.agents import Agent
from edge.agent.documents import DOCUMENTS, Documents
from edge.agent.embedders import VECTOR
from edge.agent.memory_record import MEMORIES
from edge.agent.names import escape, unescape
from edge.storage.durable import fsync_path, storage_error
from sync.errors import InvalidValue

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf


def export(shelf: Shelf, agent: str, path: str | os.PathLike[str], *, namespace: str | None = None) -> dict[str, int]:
    """Write the file ``path``, which must not exist; readable by its owner only. Returns how many of each store.

    ``namespace``: only its memories and documents. Raises InvalidValue, StorageError, CorruptStore (a checkpoint that
    does not check out).
    """
    target = Path(path)
    if target.exists():
        raise InvalidValue(f"{target} is there already", hint="choose a new file")
    draft = target.with_name(target.name + ".part")
    counts = {"memory": 0, "document": 0, "state": 0}
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            for line in lines(shelf, agent, namespace):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts[line["store"]] += 1
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, target)  # unlike a rename, it fails if there is such a file by now
        draft.unlink()
        fsync_path(target.parent)
    except FileExistsError as error:
        draft.unlink(missing_ok=True)
        raise InvalidValue(f"{target} is there already", hint="choose a new file") from error
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise storage_error(f"exporting to {target}", error) from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return counts


def lines(shelf: Shelf, agent: str, namespace: str | None) -> Iterator[dict[str, Any]]:
    """The lines of the file, as plain values."""
    prefix = f"{escape('an agent', agent)}/"
    if namespace is not None:
        prefix += f"{escape('a namespace', namespace)}/"
    if MEMORIES in shelf.log.schemas:
        for key, fields in shelf.collection(MEMORIES).scan(prefix):
            shown = {name: value for name, value in fields.items() if name not in ("agent", VECTOR)}
            accesses, last = shelf.recalls.of([key]).get(key, (0, 0))
            yield {"store": "memory", "id": key, **_plain_fields(shown), "accesses": accesses, "accessed_at": last}
    if DOCUMENTS in shelf.log.schemas:
        for name in _namespaces(shelf, prefix):
            found = Documents(shelf, agent, name)
            for document in found.all():
                told = {**document._asdict(), "namespace": name, "text": found.text(document.id)}
                yield {"store": "document", **_plain_fields(told)}
    if namespace is None:
        for thread in Agent(shelf, agent).threads():
            for one in thread.history():
                told = {**one._asdict(), "metadata": dict(one.metadata), "value": thread.get(one.id)}
                yield {"store": "state", "thread": thread.name, "type": thread.type, **_plain_fields(told)}


def _namespaces(shelf: Shelf, prefix: str) -> list[str]:
    found = {key.split("/")[1] for key, _ in shelf.collection(DOCUMENTS).scan(prefix)}
    return sorted(unescape(name) for name in found)


def _plain_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in fields.items()}


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        if all(isinstance(name, str) and not name.startswith("$") for name in value):
            return {name: plain(item) for name, item in value.items()}
        return {"$dict": [[plain(name), plain(item)] for name, item in value.items()]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [plain(item) for item in value]}
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, array):
        return value.tolist()
    if type(value).__module__ == "numpy":
        return {"$array": [value.dtype.str, list(value.shape), plain(value.ravel().tolist())]}
    if isinstance(value, float) and not isfinite(value):
        return {"$float": str(value)}
    return value
