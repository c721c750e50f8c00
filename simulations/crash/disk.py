"""A disk that forgets: replays operations on files, and says what may be there after the power went.

The model. What was fsynced is there. Of what was written since, any part may be: nothing, everything, the first few
writes, any of them, a write torn at its 512-byte sectors, a file's new size with NULs in it. Making, renaming and
removing a name lasts once a directory that it concerns was fsynced; until then any of these may have happened or not,
a rename whole or not at all. A sync covers what had returned before it began. It is what POSIX promises and less than
most file systems do.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from simulations.crash.operations import Operation

SECTOR = 512
Files = dict[str, bytes | None]  # path -> content; None for a directory


class _Change(NamedTuple):
    """To a file's content. ``kind``: write, truncate or grow; ``at`` is when it returned."""

    kind: str
    place: int
    data: bytes
    at: int


class _Naming(NamedTuple):
    """To directories: entries that go (directory, name) and those that come (directory, name, node)."""

    gone: tuple[tuple[Node, str], ...]
    come: tuple[tuple[Node, str, Node], ...]
    at: int


class Node:
    """A file or directory: ``durable`` is what is on the disk for certain, ``pending`` what happened since."""

    def __init__(self, *, is_directory: bool) -> None:
        self.is_directory = is_directory
        self.names: dict[str, Node] = {}
        self.durable_names: dict[str, Node] = {}
        self.content = bytearray()
        self.durable = b""
        self.pending: list[_Change] = []


class Disk:
    """Starts with ``files``, all durable. ``apply`` what was done; ``after_power_cut`` any number of times.

    ``forgetful``: beginnings of the names of files that may lose what was not synced; the others never do.
    """

    def __init__(self, files: Files, forgetful: tuple[str, ...] = ("",)) -> None:
        self.root = Node(is_directory=True)
        self._forgetful = forgetful
        self._open: dict[int, Node] = {}
        self._namings: list[_Naming] = []
        self._now = 0
        for path in sorted(files):
            content = files[path]
            node = Node(is_directory=content is None)
            if content is not None:
                node.content, node.durable = bytearray(content), content
            folder, name = self._place(path)
            folder.names[name] = folder.durable_names[name] = node

    # -- what happened ------------------------------------------------------------------------------------------------

    def apply(self, operation: Operation, now: int) -> None:
        """``now``: the number of the line in which it returned."""
        self._now = now
        kind = operation.kind
        if kind in ("create", "open"):
            self._open[operation.file] = self._made(operation.path) if kind == "create" else self._node(operation.path)
        elif kind in ("write", "truncate", "grow"):
            node = self._open[operation.file]
            change = _Change(kind, operation.place, operation.data, now)
            _change(node.content, change)
            node.pending.append(change)
        elif kind == "sync":
            self._sync(self._open[operation.file], operation.began)
        elif kind == "mkdir":
            folder, name = self._place(operation.path)
            self._name((), ((folder, name, Node(is_directory=True)),))
        elif kind in ("unlink", "rmdir"):
            self._name((self._place(operation.path),), ())
        elif kind in ("rename", "link"):
            source, node = self._place(operation.path), self._node(operation.path)
            self._name((source,) if kind == "rename" else (), ((*self._place(operation.other), node),))
        elif kind != "ack":
            raise AssertionError(kind)
        if not operation.path.startswith(self._forgetful):
            self._settle(operation)

    def _settle(self, operation: Operation) -> None:
        """As if it had been synced at once."""
        if operation.kind in ("write", "truncate", "grow"):
            self._sync(self._open[operation.file], self._now + 1)
        elif self._namings and self._namings[-1].at == self._now:
            _rename(self._namings.pop(), durable=True)

    def _made(self, path: str) -> Node:
        folder, name = self._place(path)
        if name not in folder.names:
            self._name((), ((folder, name, Node(is_directory=False)),))
        return folder.names[name]

    def _name(self, gone: tuple[tuple[Node, str], ...], come: tuple[tuple[Node, str, Node], ...]) -> None:
        naming = _Naming(gone, come, self._now)
        _rename(naming, durable=False)
        self._namings.append(naming)

    def _sync(self, node: Node, began: int) -> None:
        """What had returned before the sync began is covered; what overlapped with it may be."""
        if not node.is_directory:
            durable = bytearray(node.durable)
            while node.pending and node.pending[0].at < began:
                _change(durable, node.pending.pop(0))
            node.durable = bytes(durable)
            return
        kept = []
        for naming in self._namings:
            if naming.at < began and node in _folders(naming):
                _rename(naming, durable=True)
            else:
                kept.append(naming)
        self._namings = kept

    def _node(self, path: str) -> Node:
        node = self.root
        for part in filter(None, path.split("/")):
            node = node.names[part]
        return node

    def _place(self, path: str) -> tuple[Node, str]:
        above, _, name = path.rpartition("/")
        return self._node(above), name

    # -- what may be left of it ---------------------------------------------------------------------------------------

    def as_it_is(self) -> Files:
        """What a process sees now, and the next one will if only this one is killed."""
        return self._files(self.root, {}, None, durable=False)

    def after_power_cut(self, chance: random.Random | None, *, everything: bool = False) -> Files:
        """One state that the disk may be in: any as ``chance`` has it, without it only what was synced, or
        ``everything``.
        """
        if everything:
            return self.as_it_is()
        names: dict[Node, dict[str, Node]] = {}
        for naming in _some(self._namings, chance):
            for folder in _folders(naming):
                names.setdefault(folder, dict(folder.durable_names))
            for folder, name in naming.gone:
                names[folder].pop(name, None)
            for folder, name, node in naming.come:
                names[folder][name] = node
        return self._files(self.root, names, chance, durable=True)

    def _files(
        self, folder: Node, names: dict[Node, dict[str, Node]], chance: random.Random | None, *, durable: bool
    ) -> Files:
        found: Files = {}
        entries = names.get(folder, folder.durable_names) if durable else folder.names
        for name, node in sorted(entries.items()):
            if node.is_directory:
                found[name] = None
                inside = self._files(node, names, chance, durable=durable)
                found.update({f"{name}/{path}": content for path, content in inside.items()})
            else:
                found[name] = _left(node, chance) if durable else bytes(node.content)
        return found


def _folders(naming: _Naming) -> list[Node]:
    return list(dict.fromkeys([place[0] for place in naming.gone] + [place[0] for place in naming.come]))


def _rename(naming: _Naming, *, durable: bool) -> None:
    for folder, name in naming.gone:
        (folder.durable_names if durable else folder.names).pop(name, None)
    for folder, name, node in naming.come:
        (folder.durable_names if durable else folder.names)[name] = node


def _some(changes: list[_Naming], chance: random.Random | None) -> Iterable[_Naming]:
    if chance is None or not changes:
        return ()
    way = chance.randrange(4)
    if way == 0:
        return changes
    if way == 1:
        return changes[: chance.randrange(len(changes) + 1)]
    likely = chance.random()
    return [change for change in changes if chance.random() < likely]


def _left(node: Node, chance: random.Random | None) -> bytes:
    """What may be left of a file."""
    pending = node.pending
    if chance is None or not pending:
        return node.durable
    left = bytearray(node.durable)
    way = chance.randrange(6)
    taken = pending
    if way == 1:
        taken = pending[: chance.randrange(len(pending) + 1)]
    elif way == 2:
        taken = []
    elif way > 2:
        likely = chance.random()
        taken = [change for change in pending if chance.random() < likely]
    for change in taken:
        if way >= 4 and change.kind == "write" and chance.random() < 0.5:
            _tear(left, change, chance)
        else:
            _change(left, change)
    if way in (2, 5) and len(node.content) > len(left):
        left.extend(bytes(len(node.content) - len(left)))  # its size was kept, and not what is in it
    return bytes(left)


def _change(content: bytearray, change: _Change) -> None:
    end = change.place + len(change.data)
    if change.kind == "truncate":
        del content[change.place :]
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if change.kind == "write":
        content[change.place : end] = change.data


def _tear(content: bytearray, change: _Change, chance: random.Random) -> None:
    """Some of the write's sectors."""
    at, data = change.place, change.data
    cut = SECTOR - at % SECTOR
    while data:
        if chance.random() < 0.5:
            _change(content, _Change("write", at, data[:cut], 0))
        at, data, cut = at + cut, data[cut:], SECTOR
