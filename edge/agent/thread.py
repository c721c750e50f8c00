"""Thread: the checkpoints of one state of one agent (ADR 13).

What always holds: a checkpoint never changes; ids of a thread rise on a device and are never the same on two; what was
returned by ``put`` reads back equal until it is pruned.

It leaves to others: values as bytes (``values``), large ones (``large_values``), which threads there are (``agents``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge.agent.large_values import Ref
from edge.agent.names import TYPES, escape, id_of, key_of, made_key_of
from edge.agent.permitted import permitted
from edge.agent.shelf import CHECKPOINTS
from edge.agent.values import decode, digest_of, encode
from edge.storage.transaction import Write
from sync.errors import CorruptStore, InvalidValue, NotFound, StaleWrite
from sync.limits import INT_MAX
from sync.operations import Kind
from sync.schema import check_value

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf

INLINE_BYTES_MAX = 16 << 10
_DAY_MS = 86_400_000
_PAGE = 500
_ATTEMPTS = 3
_MERGED = "merged"  # in the metadata of a checkpoint: the ids of those that it brings together
ANY: Final = object()


class Checkpoint(NamedTuple):
    """One version of a state, without its value. ``parent`` is what it followed, "" for the first; ``at_ms`` the
    device's clock in milliseconds since 1970; ``size`` the encoded value's, in bytes.
    """

    id: str
    parent: str
    at_ms: int
    size: int
    metadata: Mapping[str, Any]


@permitted("state", "_shelf", reads="get head heads history", writes="delete fork prune put put_again")
class Thread:
    """Get one from ``edge.agent(name).thread(name)``. Safe to use from several threads and tasks."""

    def __init__(self, shelf: Shelf, agent: str, name: str, kind: str) -> None:
        if kind not in TYPES:
            raise InvalidValue(f"not a type of state: {kind!r:.60}", hint=f"one of {', '.join(TYPES)}")
        self.agent, self.name, self.type = agent, name, kind
        self._shelf = shelf
        self._owner = escape("an agent", agent)
        self.prefix = f"{kind}/{self._owner}/{escape('a thread', name)}/"
        self._lock = shelf.lock(self.prefix)

    def __repr__(self) -> str:
        return f"<Thread {self.name!r} of {self.agent!r}, {self.type}>"

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(
        self,
        value: Any,
        *,
        expected: str | object | None = ANY,
        metadata: Mapping[str, Any] | None = None,
        merges: Sequence[str] = (),
    ) -> Checkpoint:
        """Add a checkpoint; it is on disk when this returns (in ``edge.batch()``: when the batch ends).

        ``value`` is made of dicts, lists, tuples, strings, numbers, bytes, booleans, None, numpy arrays and times with
        a zone. ``expected`` is the id that has to be the newest, or None: there has to be none. ``merges`` are the ids
        of other ends of branches that this brings together: ``heads`` does not show them any more. Raises StaleWrite,
        NotFound (what is merged), InvalidValue, TooLarge, StorageError, with nothing changed.
        """
        packed = encode(value)
        said = {} if metadata is None else _checked(metadata)
        return self._put(packed, expected, {**said, **self._merged(merges)} if merges else said)

    def fork(self, name: str, *, at: str | None = None, metadata: Mapping[str, Any] | None = None) -> Thread:
        """A new thread of the same agent and type that begins with the value of a checkpoint, by default the newest.

        Raises NotFound, StaleWrite (there is such a thread), and what ``put`` does.
        """
        found, packed = self._found(at)
        new = Thread(self._shelf, self.agent, name, self.type)
        forked = {"forked": [self.name, found.id], **_checked(metadata)}
        try:
            new._put(packed, None, forked)
        except StaleWrite as error:
            raise StaleWrite(
                f"agent {self.agent!r} has a thread {name!r} already",
                hint="fork under another name, or put to that one",
            ) from error
        return new

    def prune(self, *, keep_latest: int | None = None, keep_days: float | None = None) -> int:
        """Delete checkpoints but the newest ``keep_latest``, those of the last ``keep_days``, and those that a
        snapshot names. The newest always stays. Returns how many are gone. Raises InvalidValue, StorageError.
        """
        if keep_latest is None and keep_days is None:
            raise InvalidValue("say what to keep", hint="keep_latest=100, keep_days=30, or both")
        if keep_latest is not None and (type(keep_latest) is not int or keep_latest < 1):
            raise InvalidValue(f"keep_latest is a whole number, 1 or more, not {keep_latest!r:.40}")
        if keep_days is not None and (type(keep_days) not in (int, float) or not keep_days >= 0):
            raise InvalidValue(f"keep_days is a number, 0 or more, not {keep_days!r:.40}")
        self._shelf.check_alone("prune")
        since_ms = None if keep_days is None else self._shelf.clock.wall_ms() - keep_days * _DAY_MS
        gone = [
            found.id
            for number, found in enumerate(self.history())
            if number >= (keep_latest or 1) and (since_ms is None or found.at_ms < since_ms)
        ]
        return self._delete(gone)

    def delete(self) -> int:
        """Delete the thread, with all its checkpoints; snapshots that name one of them keep it. Returns how many."""
        self._shelf.check_alone("delete")
        return self._delete([found.id for found in self.history()])

    def _delete(self, old: list[str]) -> int:
        """But for what a snapshot names: those are read last, so that one that is taken meanwhile counts."""
        pinned = self._shelf.pinned(self.prefix)
        gone = [one for one in old if one not in pinned]
        for at in range(0, len(gone), _PAGE):
            # Nobody minds if another has deleted it already.
            self._shelf.submit(
                [
                    Write(Kind.DELETE, CHECKPOINTS, key_of(self.prefix, one), upsert=True)
                    for one in gone[at : at + _PAGE]
                ]
            )
        if gone:
            self._shelf.collect(self._owner)
        return len(gone)

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, checkpoint: str | None = None) -> Any:
        """The value of a checkpoint, by default of the newest; None if the thread has none yet. Its checksum is
        verified. Raises NotFound (no such checkpoint), CorruptStore, StorageError.
        """
        attempts = _ATTEMPTS
        while (at := self._head() if checkpoint is None else checkpoint) is not None:
            try:
                return decode(self._found(at)[1])
            except NotFound:
                attempts -= 1
                if checkpoint is not None or not attempts:
                    raise  # else somebody has put and pruned meanwhile
        return None

    def head(self) -> Checkpoint | None:
        """The newest checkpoint, or None."""
        found = self._head()
        return None if found is None else _shown(found, self._fields(found))

    def history(self, limit: int | None = None, *, before: str | None = None) -> Iterator[Checkpoint]:
        """Newest first, those older than ``before`` if it is given. Raises InvalidValue."""
        if limit is not None and (type(limit) is not int or not 1 <= limit <= INT_MAX):
            raise InvalidValue(f"limit is a whole number, 1 or more, not {limit!r:.40}")
        after = "" if before is None else key_of(self.prefix, before)
        found = self._shelf.records(CHECKPOINTS, self.prefix, after)
        return (_shown(id_of(self.prefix, key), fields) for key, fields in islice(found, limit))

    def heads(self) -> list[Checkpoint]:
        """The ends of the branches, newest first: more than one where devices went on from one checkpoint offline,
        until somebody puts what ``merges`` them.
        """
        every = list(self.history())
        followed = {found.parent for found in every}
        for found in every:
            merged = found.metadata.get(_MERGED)
            followed.update(one for one in (merged if isinstance(merged, list) else ()) if type(one) is str)
        return [found for found in every if found.id not in followed]

    def put_again(self, checkpoint: str, metadata: dict[str, Any]) -> Checkpoint:
        """A new checkpoint with the value of an old one. Raises what ``get`` and ``put`` do."""
        return self._put(self._found(checkpoint)[1], ANY, metadata)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _merged(self, merges: Sequence[str]) -> dict[str, Any]:
        """What the metadata says of them."""
        if isinstance(merges, (str, bytes)) or not isinstance(merges, Sequence):
            raise InvalidValue(f"merges is a list of ids, not {type(merges).__name__}", hint="thread.heads() has them")
        for one in merges:
            self._fields(one)
        return {_MERGED: list(merges)}

    def _put(self, packed: bytes, expected: str | object | None, metadata: dict[str, Any]) -> Checkpoint:
        shelf, prefix = self._shelf, self.prefix
        if expected is not ANY:
            shelf.check_alone("put with expected=")
        schema = shelf.ensure(CHECKPOINTS)
        batch = shelf.open_batch()
        with self._lock:
            before = shelf.log.position
            head = shelf.heads.following(prefix, batch, self._newest)
            if expected is not ANY and expected != head:
                self._stale(expected, head)
            at_ms = shelf.clock.wall_ms()
            new = shelf.heads.next_id(head, at_ms)
            key = made_key_of(prefix, new)
            fields: dict[str, Any] = {  # in order of name, and as ``normalise`` would leave them
                "at": at_ms,
                "digest": digest_of(packed),
                "metadata": check_value("metadata", metadata) if metadata else {},
                "parent": head or "",
                "size": len(packed),
            }
            if len(packed) <= INLINE_BYTES_MAX:
                fields["value"] = packed
                shelf.submit((shelf.log.put_of(CHECKPOINTS, key, fields, schema),))
            else:
                shelf.store(self._owner, key, fields, packed, self._resembling(head))
            shelf.heads.moved(prefix, new, before, batch)
        return Checkpoint(new, head or "", at_ms, len(packed), metadata)

    def _resembling(self, head: str | None) -> Ref | None:
        """Where the value before is, if it is a large one and in the log already."""
        fields = None if head is None else self._shelf.log.values(CHECKPOINTS, key_of(self.prefix, head))
        return None if fields is None else self._ref(fields)

    def _stale(self, expected: object, head: str | None) -> None:
        if expected is not None and type(expected) is not str:
            raise InvalidValue(
                f"expected is the id of a checkpoint, or None, not {type(expected).__name__}",
                hint="the id= of what put, head and history return",
            )
        newest = "there is none" if head is None else f"the newest is {head}"
        raise StaleWrite(
            f"thread {self.name!r} has moved on: {'none' if expected is None else expected} was expected, {newest}",
            hint="thread.get() reads it; put again with expected=thread.head().id",
        )

    def _head(self) -> str | None:
        """The newest id."""
        return self._shelf.heads.newest(self.prefix, self._newest)

    def _newest(self) -> str | None:
        for key, _ in self._shelf.log.scan(CHECKPOINTS, prefix=self.prefix, limit=1):
            return id_of(self.prefix, key)
        return None

    def _found(self, checkpoint: str | None) -> tuple[Checkpoint, bytes]:
        at = self._head() if checkpoint is None else checkpoint
        if at is None:
            raise NotFound(f"thread {self.name!r} of agent {self.agent!r} has no checkpoint yet")
        fields = self._fields(at)
        packed = fields.get("value")
        if packed is None:
            packed = self._shelf.large.load(self._ref(fields) or _damaged(at))
        if digest_of(packed) != fields.get("digest"):
            _damaged(at)
        return _shown(at, fields), packed

    def _fields(self, checkpoint: str) -> dict[str, Any]:
        fields = self._shelf.log.values(CHECKPOINTS, key_of(self.prefix, checkpoint))
        if fields is None:
            raise NotFound(
                f"thread {self.name!r} of agent {self.agent!r} has no checkpoint {checkpoint}",
                hint="thread.history() lists them",
            )
        return fields

    def _ref(self, fields: Mapping[str, Any]) -> Ref | None:
        packed = fields.get("ref")
        return None if packed is None else Ref.unpack(self._owner, packed)


def _checked(metadata: Any) -> dict[str, Any]:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidValue(f"metadata is a mapping, not {type(metadata).__name__}")
    return dict(metadata or {})


def _shown(checkpoint: str, fields: Mapping[str, Any]) -> Checkpoint:
    try:
        return Checkpoint(checkpoint, fields["parent"], fields["at"], fields["size"], fields["metadata"])
    except KeyError as error:
        raise CorruptStore(f"checkpoint {checkpoint} has no {error}") from error


def _damaged(checkpoint: str) -> Any:
    raise CorruptStore(f"the value of checkpoint {checkpoint} is not what was stored", hint="agentdb-edge verify")
