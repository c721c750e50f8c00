"""Large values beside their checkpoints: stored once, by digest, whole or as a patch of the value before (ADR 13).

A patch is zstd with the base as its raw-content dictionary (RFC 8878, section 5), so what was changed anywhere in the
value costs little more than itself. A chain is bounded in length and in bytes.

What always holds: a replica makes patches of values that it wrote itself for the same agent, and nobody else deletes
those, unless the agent is erased; what nothing needs any more is deleted with all its parts at once, and patches before
what they are patches of. So what a patch needs is there for as long as the patch is, whenever anything is interrupted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.agent.values import DIGEST_BYTES, VALUE_BYTES_MAX, digest_of
from edge.storage.transaction import Write
from sync.errors import CorruptStore, NotFound
from sync.operations import Kind

if TYPE_CHECKING:
    import zstandard

    from edge.storage.delta_log import DeltaLog

VALUES = "_values"
PART_BYTES = 192 << 10  # an operation has at most 256 KiB
CHAIN_MAX = 256  # patches: the last of them is read in about 0.1 s, if it is a megabyte
CHAIN_BYTES = 4  # times the value
LEVEL = 3
_CACHED_BYTES_MAX = 16 << 20
_DELETES = 1_000
_WINDOW_LOG_MIN, _WINDOW_LOG_MAX = 17, 27


class Ref(NamedTuple):
    """Where a large value is: whose it is (as in keys), the replica that wrote it, and its name there: its digest, but
    for those of batches. No agent's value needs another agent's: each can be erased.
    """

    agent: str
    replica: bytes
    name: bytes

    def pack(self) -> bytes:
        """As an agent's checkpoint has it."""
        return self.replica + self.name

    @staticmethod
    def unpack(agent: str, packed: bytes) -> Ref:
        return Ref(agent, packed[:-DIGEST_BYTES], packed[-DIGEST_BYTES:])


class _Stored(NamedTuple):
    """The first part of a value: ``base`` is the name of what it is a patch of, or empty; ``depth`` and ``chain``
    count the patches and their bytes back to a whole value.
    """

    base: bytes
    depth: int
    chain: int
    size: int
    parts: int
    data: bytes


class LargeValues:
    """Of one store. ``submit`` writes, all or nothing; ``put_of`` makes a write. Safe to use from several threads."""

    def __init__(
        self,
        log: DeltaLog,
        submit: Callable[[Sequence[Write]], Any],
        put_of: Callable[[str, str, Mapping[str, Any]], Write],
    ) -> None:
        self._log = log
        self._submit = submit
        self._put_of = put_of
        self._lock = threading.RLock()
        self._cache: OrderedDict[Ref, bytes] = OrderedDict()
        self._cached_bytes = 0

    def store(
        self, agent: str, packed: bytes, before: Ref | None, finish: Callable[[Ref], Write], *, alone: str = ""
    ) -> Ref:
        """Write an agent's value, unless this replica has it, and what ``finish`` makes of its place: one transaction.

        ``before`` is the value that it probably resembles. ``alone``, a name that nobody else uses, makes it a value of
        its own: what a batch will write much later must not need what is collected meanwhile.
        """
        digest = digest_of(packed)
        ref = Ref(agent, self._log.replica, digest_of(digest + alone.encode()) if alone else digest)
        with self._lock:
            known = not alone and self._head(ref) is not None
            writes = [] if known else self._writes(ref, packed, None if alone else before)
            self._submit([*writes, finish(ref)])
            if not alone:
                self._remember(ref, packed)
        return ref

    def load(self, ref: Ref) -> bytes:
        """What is there under that name; the caller has its checksum. Raises NotFound (it has not arrived),
        CorruptStore.
        """
        chain: list[_Stored] = []
        at, packed = ref, self._remembered(ref)
        while packed is None:
            stored = self._head(at)
            if stored is None:
                raise NotFound(
                    f"the value {ref.name.hex()} has not arrived on this device yet", hint="agentdb-edge sync"
                )
            chain.append(stored._replace(data=self._whole(at, stored)))
            if len(chain) > CHAIN_MAX + 1:
                raise CorruptStore(f"the value {ref.name.hex()} is a patch of a patch without end")
            at = ref._replace(name=stored.base)
            packed = self._remembered(at) if stored.base else b""
        for stored in reversed(chain):
            packed = _unpatch(stored, packed)
        with self._lock:
            self._remember(ref, packed)
        return packed

    def collect(self, agent: str, needed: Callable[[], Iterable[Ref]]) -> int:
        """Delete the agent's values of this replica that no checkpoint needs, nor a value that one needs. Returns how
        many.
        """
        with self._lock:
            mine = Ref(agent, self._log.replica, b"")
            # First what there is: what is committed from here on is not in the list.
            listed: list[str] = []
            prefix = _prefix(mine)
            while page := self._log.scan(VALUES, after=listed[-1] if listed else "", prefix=prefix, limit=_DELETES):
                listed += [key for key, _ in page]
            keep: set[bytes] = set()
            for ref in needed():
                name = ref.name if ref.replica == mine.replica else b""
                while name and name not in keep:
                    keep.add(name)
                    stored = self._head(mine._replace(name=name))
                    name = stored.base if stored is not None else b""
            parts: dict[bytes, list[str]] = {}
            for key in listed:
                name = bytes.fromhex(key.split("/")[2])
                if name not in keep:
                    parts.setdefault(name, []).append(key)
            # A patch goes before its base, and a value with all its parts: whenever this is interrupted, what is left
            # can be read.
            heads = {name: self._head(mine._replace(name=name)) for name in parts}
            depths = {name: 0 if held is None else held.depth for name, held in heads.items()}
            writes: list[Write] = []
            for name in sorted(parts, key=lambda name: (-depths[name], name)):
                writes += [Write(Kind.DELETE, VALUES, key, upsert=True) for key in parts[name]]
                self._forget(mine._replace(name=name))
                if len(writes) >= _DELETES:
                    self._submit(writes)
                    writes = []
            if writes:
                self._submit(writes)
        return len(parts)

    def forget_all(self) -> None:
        """What is in memory."""
        with self._lock:
            self._cache.clear()
            self._cached_bytes = 0

    # -- one value ----------------------------------------------------------------------------------------------------

    def _writes(self, ref: Ref, packed: bytes, before: Ref | None) -> list[Write]:
        base, depth, chain = b"", 0, 0
        data = b""
        same = before is not None and before[:2] == ref[:2]
        held = self._head(before) if before is not None and same else None
        if before is not None and held is not None:
            data = _patch(packed, self.load(before))
            base, depth, chain = before.name, held.depth + 1, held.chain + len(data)
        if not base or depth > CHAIN_MAX or chain > CHAIN_BYTES * len(packed):
            base, depth, chain = b"", 0, 0
            data = _patch(packed, b"")
        pieces = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
        first = {"base": base, "chain": chain, "data": pieces[0], "depth": depth, "parts": len(pieces)}
        first["size"] = len(packed)
        fields: list[dict[str, Any]] = [first, *({"data": piece} for piece in pieces[1:])]
        return [self._put_of(VALUES, _key(ref, number), part) for number, part in enumerate(fields)]

    def _head(self, ref: Ref) -> _Stored | None:
        fields = self._fields(ref, 0)
        if fields is None:
            return None
        try:
            return _Stored(*(fields[name] for name in _Stored._fields))
        except KeyError as error:
            raise CorruptStore(f"the value {ref.name.hex()} has no {error}") from error

    def _whole(self, ref: Ref, first: _Stored) -> bytes:
        parts = [first.data]
        for number in range(1, first.parts):
            fields = self._fields(ref, number)
            if fields is None:
                raise NotFound(
                    f"a part of the value {ref.name.hex()} has not arrived on this device yet",
                    hint="agentdb-edge sync",
                )
            parts.append(fields["data"])
        return b"".join(parts)

    def _fields(self, ref: Ref, number: int) -> dict[str, Any] | None:
        return self._log.values(VALUES, _key(ref, number))

    # -- a few plain values, for the next patch -----------------------------------------------------------------------

    def _remembered(self, ref: Ref) -> bytes | None:
        with self._lock:
            return self._cache.get(ref)

    def _remember(self, ref: Ref, packed: bytes) -> None:
        self._forget(ref)
        self._cache[ref] = packed
        self._cached_bytes += len(packed)
        while self._cached_bytes > _CACHED_BYTES_MAX:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    def _forget(self, ref: Ref) -> None:
        self._cached_bytes -= len(self._cache.pop(ref, b""))


def _key(ref: Ref, number: int) -> str:
    return f"{_prefix(ref)}{ref.name.hex()}/{number:03d}"


def _prefix(ref: Ref) -> str:
    return f"{ref.agent}/{ref.replica.hex()}/"


def _patch(packed: bytes, base: bytes) -> bytes:
    """``packed`` with ``base`` as its dictionary; whole, if that is empty."""
    import zstandard

    window = min(max((len(packed) + len(base)).bit_length(), _WINDOW_LOG_MIN), _WINDOW_LOG_MAX)
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=window, write_checksum=1)
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(base), compression_params=parameters)
    return compressor.compress(packed)


def _unpatch(stored: _Stored, base: bytes) -> bytes:
    import zstandard

    try:
        if not 0 <= stored.size <= VALUE_BYTES_MAX or zstandard.frame_content_size(stored.data) != stored.size:
            raise CorruptStore("a large value says another size than it has")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(base), max_window_size=1 << _WINDOW_LOG_MAX)
        return decompressor.decompress(stored.data)
    except zstandard.ZstdError as error:
        raise CorruptStore(f"a large value cannot be unpacked: {error}") from error


def _dictionary(base: bytes) -> zstandard.ZstdCompressionDict | None:
    import zstandard

    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if base else None
