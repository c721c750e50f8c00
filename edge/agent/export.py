"""Everything of an agent, or of one namespace, as JSON lines: for its owner, for another program, for the law.

A line is one memory, document, attachment, vector or checkpoint: ``{"store": "memory" | "document" | "attachment" |
"vector" | "state", …}``, UTF-8, in order of store and key, what JSON has not as ``values.plain`` has it. Vectors of
memories and documents are left out: a model makes them anew. The bytes of attachments are files in the directory
``<file>.bodies``, named in their lines.

What always holds: the file is there whole, with all that it names, or not at all; nothing of another agent is in it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.agent.agents import Agent
from edge.agent.attachments import Attachments
from edge.agent.documents import DOCUMENTS, Documents
from edge.agent.embedders import vector_fields
from edge.agent.memory_record import MEMORIES
from edge.agent.names import escape
from edge.agent.values import plain
from edge.storage.appearing import appearing
from edge.storage.bodies import ATTACHMENTS
from edge.storage.durable import fsync_path, storage_error
from edge.storage.paths import path_of
from sync.errors import InvalidValue
from sync.places import unescaped

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf

BODIES_SUFFIX = ".bodies"


def export(shelf: Shelf, agent: str, path: str | os.PathLike[str], *, namespace: str | None = None) -> dict[str, int]:
    """Write the file ``path``, which must not exist; readable by its owner only. Returns how many of each store.

    ``namespace``: only its memories, documents, attachments, and the space of vectors of that name. Raises
    InvalidValue, StorageError, CorruptStore (a checkpoint or attachment that does not check out), BodyNotHere (an
    attachment's bytes cannot be fetched).
    """
    target = Path(path_of("an export", path))
    beside = target.with_name(target.name + BODIES_SUFFIX)
    for there in (target, beside):
        if os.path.lexists(there):
            raise InvalidValue(f"{there} is there already", hint="choose a new file")
    with ExitStack() as kept:
        counts = _write(shelf, agent, namespace, target, beside, kept)
        kept.pop_all()
    return counts


def _write(
    shelf: Shelf, agent: str, namespace: str | None, target: Path, beside: Path, unless_done: ExitStack
) -> dict[str, int]:
    """``unless_done`` takes back what is there before the file."""
    bodies = _bodies(shelf, agent, namespace, beside)
    if bodies:
        unless_done.callback(shutil.rmtree, beside, ignore_errors=True)
    counts = {"memory": 0, "document": 0, "attachment": 0, "vector": 0, "state": 0}
    draft: Path | None = None
    try:
        handle, made = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
        draft = Path(made)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for line in lines(shelf, agent, namespace, beside.name, bodies):
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


def _bodies(shelf: Shelf, agent: str, namespace: str | None, folder: Path) -> frozenset[str]:
    """Write the attachments' bytes into a new directory, each once. Returns their digests; no directory, if none."""
    found = {one.digest: (store, one.id) for store in _attachments(shelf, agent, namespace) for one in store.all()}
    if not found:
        return frozenset()
    with appearing(str(folder.absolute())) as draft:
        for digest, (store, name) in found.items():
            with store.open(name) as body, Path(draft, digest).open("xb") as file:
                shutil.copyfileobj(body, file)
                file.flush()
                os.fsync(file.fileno())
    return frozenset(found)


def _attachments(shelf: Shelf, agent: str, namespace: str | None) -> list[Attachments]:
    if ATTACHMENTS not in shelf.log.schemas:
        return []
    prefix = f"{escape('an agent', agent)}/"
    names = _namespaces(shelf, ATTACHMENTS, prefix) if namespace is None else [namespace]
    return [Attachments(shelf, agent, name) for name in names]


def _name(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)  # unlike a rename, it fails if there is such a file by now
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if target.exists():  # a file system without links, such as that of memory cards
            raise FileExistsError(target) from error
        draft.rename(target)


def lines(
    shelf: Shelf, agent: str, namespace: str | None, folder: str, bodies: Container[str]
) -> Iterator[dict[str, Any]]:
    """The lines of the file, as plain values; ``folder`` has the bytes of attachments, those of ``bodies``: what was
    attached since is not exported.
    """
    prefix = f"{escape('an agent', agent)}/"
    if namespace is not None:
        prefix += f"{escape('a namespace', namespace)}/"
    if MEMORIES in shelf.log.schemas:
        for key, fields in shelf.collection(MEMORIES).scan(prefix):
            left_out = {"agent", *vector_fields(fields)}
            shown = {name: value for name, value in fields.items() if name not in left_out}
            accesses, last = shelf.recalls.of([key]).get(key, (0, 0))
            yield {"store": "memory", "id": key, **_plain_fields(shown), "accesses": accesses, "accessed_at": last}
    if DOCUMENTS in shelf.log.schemas:
        for name in _namespaces(shelf, DOCUMENTS, prefix):
            found = Documents(shelf, agent, name)
            for document in found.all():
                told = {**document._asdict(), "namespace": name, "text": found.text(document.id)}
                yield {"store": "document", **_plain_fields(told)}
    for attachments in _attachments(shelf, agent, namespace):
        for one in (one for one in attachments.all() if one.digest in bodies):
            told = {**one._asdict(), "namespace": attachments.namespace, "body": f"{folder}/{one.digest}"}
            del told["here"]
            yield {"store": "attachment", **_plain_fields(told)}
    yield from _vectors(shelf, agent, namespace)
    if namespace is None:
        for thread in Agent(shelf, agent).threads():
            for point in thread.history():
                told = {**point._asdict(), "metadata": dict(point.metadata), "value": thread.get(point.id)}
                yield {"store": "state", "thread": thread.name, "type": thread.type, **_plain_fields(told)}


def _vectors(shelf: Shelf, agent: str, namespace: str | None) -> Iterator[dict[str, Any]]:
    for space in Agent(shelf, agent).spaces():
        if namespace not in (None, space.space):
            continue
        for vector in space.all():
            told = {"key": vector.key, "vector": vector.vector, "metadata": vector.metadata}
            yield {"store": "vector", "space": space.space, **_plain_fields(told)}


def _namespaces(shelf: Shelf, collection: str, prefix: str) -> list[str]:
    found = {key.split("/")[1] for key, _ in shelf.collection(collection).scan(prefix)}
    return sorted(unescaped(name) for name in found)


def _plain_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in fields.items()}
