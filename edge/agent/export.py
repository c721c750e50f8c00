"""Everything of an agent, or of one namespace, as JSON lines: for its owner, for another program, for the law.

A line is one memory, document or checkpoint: ``{"store": "memory" | "document" | "state", …}``, UTF-8, in order of
store and key, what JSON has not as ``values.plain`` has it. Vectors are left out: a model makes them anew.

What always holds: the file is there whole, or not at all; nothing of another agent is in it.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.agent.agents import Agent
from edge.agent.documents import DOCUMENTS, Documents
from edge.agent.embedders import VECTOR
from edge.agent.memory_record import MEMORIES
from edge.agent.names import escape, unescape
from edge.agent.values import plain
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
    counts = {"memory": 0, "document": 0, "state": 0}
    draft: Path | None = None
    try:
        handle, made = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
        draft = Path(made)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for line in lines(shelf, agent, namespace):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts[line["store"]] += 1
            file.flush()
            os.fsync(file.fileno())
        _name(draft, target)
        fsync_path(target.parent)
    except FileExistsError as error:
        raise InvalidValue(f"{target} is there already", hint="choose a new file") from error
    except OSError as error:
        raise storage_error(f"exporting to {target}", error) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
    return counts


def _name(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)  # unlike a rename, it fails if there is such a file by now
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if target.exists():  # a file system without links, such as that of memory cards
            raise FileExistsError(target) from error
        draft.rename(target)


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
