"""Attachments: images, sounds, films, any bytes, in one namespace of an agent (ADR 16).

An attachment is a record, which syncs like any other: what it is called, its media type, a caption, and the digest of
its bytes. The bytes (its body) are a file of this store, and on their own way to the cloud and back: another device has
the record first, and fetches the body when it is read.

What always holds: a record is written when its body is durable here; what is read is what the digest says; a body is
stored once, however many attachments have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from edge.agent.embedders import K_MAX, Embedder, embedded, searched
from edge.agent.media import MAGIC_BYTES, MEDIA, MediaEmbedder, check_embedders, media_type_of, medium_of
from edge.agent.names import check_text, escape
from edge.agent.permitted import permitted
from edge.storage.bodies import ATTACHMENTS, check_size, names_body, open_source
from edge.storage.search import Scored, depth_for, fuse
from edge.storage.transaction import Write
from sync.errors import BodyNotHere, InvalidValue, NotFound, TooLarge
from sync.operations import Kind
from sync.stamps import device_of

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.storage.bodies import Kept
    from edge.storage.collection import Collection

EMBEDDED_BYTES_MAX = 64 << 20
_FETCH_MAX = 10_000
_DIGEST_BYTES = 12
_ID_BYTES_MAX = 1_024
_FIELDS = {"agent": "str", "namespace": "str", "digest": "str", "media_type": "str", "size": "int", "text": "str"}
_WRITTEN = {"id": str, "media_type": str, "text": str, "metadata": dict, "added_at": int, "added_by": str}
_VECTOR_FIELDS = {"agent": "str", "namespace": "str", "text": "str"}


class Attachment(NamedTuple):
    """``digest`` is the SHA-256 of its ``size`` bytes, in hex; ``text`` its caption. ``added_at`` in milliseconds since
    1970, by the device ``added_by``. ``here``: the body is on this device.
    """

    id: str
    digest: str
    media_type: str
    size: int
    text: str
    metadata: Mapping[str, Any]
    added_at: int
    added_by: str
    here: bool


class Found(NamedTuple):
    """What a search found. ``score``: the reciprocal rank fusion over the rankings that have it, named in ``by``."""

    attachment: Attachment
    score: float
    by: tuple[str, ...]


@permitted("attachments", "_shelf", reads="all get open read search", writes="add delete pin unpin")
class Attachments:
    """Get one from ``edge.agent(name).attachments(namespace)``. Safe to use from several threads."""

    def __init__(
        self,
        shelf: Shelf,
        agent: str,
        namespace: str,
        *,
        embedders: Mapping[str, Embedder | MediaEmbedder] | None = None,
    ) -> None:
        self.agent, self.namespace = agent, namespace
        self._shelf = shelf
        self._embedders = check_embedders(embedders)
        self._prefix = f"{escape('an agent', agent)}/{escape('a namespace', namespace)}/"
        self._records = searched(shelf, ATTACHMENTS, _FIELDS, None)
        self._spaces = {
            medium: searched(shelf, _space(medium), _VECTOR_FIELDS, embedder)
            for medium, embedder in sorted(self._embedders.items())
        }

    def __repr__(self) -> str:
        return f"<Attachments {self.namespace!r} of {self.agent!r}>"

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(
        self,
        source: bytes | os.PathLike[str],
        *,
        id: str | None = None,  # noqa: A002 - what users call it
        media_type: str | None = None,
        text: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Attachment:
        """Attach a file or bytes, at most 1 GiB. The body and the record are on disk when this returns.

        ``id`` names it, and replaces what had that name (whose body goes at once, or in a fleet with the next sync); by
        default it is the digest, so the same bytes are the same attachment. ``text`` is its caption, by which it is
        found. Raises InvalidValue, NotFound, TooLarge, QuotaExceeded, StorageError, and what an embedder does.
        """
        self._shelf.check_alone("attaching")
        if not isinstance(source, (bytes, os.PathLike)):
            raise InvalidValue(
                f"an attachment is bytes or a path, not {type(source).__name__}", hint="Path(…), bytes(…)"
            )
        if text:
            check_text("a caption", text)
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidValue(f"metadata is a mapping, not {type(metadata).__name__}")
        if id is not None:
            self._key(id)
        media_type = media_type_of(source, _head(source), media_type)
        with self._shelf.cache.keeping(source) as kept:
            name = id if id is not None else kept.digest.hex()
            key = self._key(name)
            fields = {
                "agent": self.agent,
                "digest": kept.digest.hex(),
                "id": name,
                "media_type": media_type,
                "metadata": dict(metadata or {}),
                "namespace": self.namespace,
                "size": kept.size,
                "text": text,
            }
            with self._shelf.lock(key):
                old = self._records.get(key)
                old = old if old is not None and is_attachment(old) else None
                before = None if old is None else old["digest"]
                vectors = self._vector_writes(key, fields, kept, old)
                same = old is not None and all(old.get(word) == value for word, value in fields.items())
                if not same or old is None:
                    whose = {"added_at": self._shelf.clock.wall_ms(), "added_by": self._device()}
                    old = {**fields, **whose}
                    vectors.append(self._shelf.put_of(ATTACHMENTS, key, old))
                if vectors:
                    self._shelf.submit(vectors)
                shown = self._shown(old)
        if before not in (None, shown.digest):
            self._shelf.cache.replaced(bytes.fromhex(before))
        return shown

    def delete(self, attachment: str) -> None:
        """Its record, its vectors and, if no other attachment of this store has it, its body here; the cloud keeps what
        it has of the body, sealed. Raises NotFound, StorageError.
        """
        self._shelf.check_alone("deleting an attachment")
        key = self._key(attachment)
        with self._shelf.lock(key):
            fields = self._held(attachment)
            writes = [Write(Kind.DELETE, ATTACHMENTS, key, upsert=True)]
            writes += [Write(Kind.DELETE, space, key, upsert=True) for space in self._with_vector(key)]
            self._shelf.submit(writes)
        digest = bytes.fromhex(fields["digest"])
        if digest not in self._shelf.cache.bodies.named():
            self._shelf.cache.collect()

    def pin(self, attachment: str) -> None:
        """Its body stays on this device; if it is away, from when it is next read. Raises NotFound, StorageError."""
        self._shelf.cache.pin(self._held(attachment)["digest"])

    def unpin(self, attachment: str) -> None:
        """Raises NotFound, StorageError."""
        self._shelf.cache.unpin(self._held(attachment)["digest"])

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, attachment: str) -> Attachment | None:
        """What is known of it, without its body."""
        fields = self._records.get(self._key(attachment))
        return None if fields is None or not is_attachment(fields) else self._shown(fields)

    def open(self, attachment: str) -> BinaryIO:
        """Its body as a file, to be read from the beginning and closed; it was checked. One that is not here is fetched
        from the cloud. Raises NotFound, BodyNotHere (why, and what to do), CorruptStore, QuotaExceeded, StorageError,
        DataError (the cloud sent something else; nothing of it is kept).
        """
        fields, cache = self._held(attachment), self._shelf.cache
        try:
            file = cache.body(bytes.fromhex(fields["digest"]), fields["size"])
        except BodyNotHere as error:
            where = f"{attachment!r:.100}, added by {fields['added_by']}, is not on this device"
            raise BodyNotHere(f"{where}: {error.message}", hint=error.hint) from error
        if not self._shelf.log.read_only and self._records.get(self._key(attachment)) is None:
            cache.collect()  # deleted while it was fetched
        return file

    def read(self, attachment: str) -> bytes:
        """All bytes of its body. Raises as ``open``."""
        with self.open(attachment) as file:
            return file.read()

    def all(self) -> Iterator[Attachment]:
        """In no order of use."""
        for _, fields in self._records.scan(self._prefix):
            if is_attachment(fields):
                yield self._shown(fields)

    def search(
        self,
        query: str | None = None,
        k: int = 10,
        *,
        vectors: Mapping[str, Any] | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in Collection.search
    ) -> list[Found]:
        """The ``k`` best by their captions (BM25), by the vectors of captions if there is an embedder for text, and by
        those of each medium: asked in words where its embedder has ``embed_texts``, or by one of ``vectors`` (medium ->
        vector). What is asked in several ways is fused by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009).

        ``filter`` is over metadata, and id, media_type, size and added_at. Raises InvalidValue, InvalidFilter,
        SchemaMismatch, StorageError, and what an embedder does.
        """
        if type(k) is not int or not 1 <= k <= K_MAX:
            raise InvalidValue(f"k is a whole number from 1 to {K_MAX}, not {k!r:.40}")
        asked = self._questions(query, vectors)
        matches = None if filter is None else self._shelf.matcher(ATTACHMENTS, filter)
        rankings = {by: self._ranking(found, question, k, matches) for by, found, question in asked}
        best = []
        for key, score in fuse(rankings.values(), k):
            fields = self._records.get(key)
            if fields is not None and is_attachment(fields):
                by = tuple(name for name, ranking in rankings.items() if any(hit.key == key for hit in ranking))
                best.append(Found(self._shown(fields), score, by))
        return best

    # -- inside -------------------------------------------------------------------------------------------------------

    def _key(self, attachment: str) -> str:
        if type(attachment) is not str or not attachment:
            raise InvalidValue(f"the id of an attachment is a non-empty string, not {attachment!r:.60}")
        try:
            encoded = attachment.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue(f"the id of an attachment is not valid Unicode: {error.reason}") from error
        if len(encoded) > _ID_BYTES_MAX:
            raise TooLarge(f"the id of an attachment has {len(encoded):,} bytes; the most are {_ID_BYTES_MAX:,}")
        return self._prefix + blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()

    def _held(self, attachment: str) -> dict[str, Any]:
        fields = self._records.get(self._key(attachment))
        if fields is None or not is_attachment(fields):
            where = f"namespace {self.namespace!r} of agent {self.agent!r}"
            raise NotFound(f"{where} has no attachment {attachment!r:.100}", hint="all() lists what there is")
        return fields

    def _device(self) -> str:
        """What the fleet calls this device, or its id."""
        kept = self._shelf.log.meta_get("fleet")
        return kept[4] if kept is not None else device_of(self._shelf.log.replica).hex()

    def _shown(self, fields: Mapping[str, Any]) -> Attachment:
        here = bytes.fromhex(fields["digest"]) in self._shelf.cache.bodies
        return Attachment(**{name: fields[name] for name in Attachment._fields[:-1]}, here=here)

    def _vector_writes(
        self, key: str, fields: Mapping[str, Any], kept: Kept, old: Mapping[str, Any] | None
    ) -> list[Write]:
        """Vectors for what is new, and none of what was replaced."""
        medium, text = medium_of(fields["media_type"]), fields["text"]
        same = old is not None and old["digest"] == fields["digest"] and old["media_type"] == fields["media_type"]
        there = self._with_vector(key)
        wanted: dict[str, bool] = {}  # the space -> what it was made of is as it was
        if text and "text" in self._spaces:
            wanted["text"] = old is not None and old["text"] == text
        if medium != "text" and medium in self._spaces:
            wanted[medium] = same
        writes = []
        for name, unchanged in wanted.items():
            space = self._spaces[name]
            if unchanged and space.name in there:
                continue
            what: Any = text if name == "text" else self._body(kept)
            (vector,) = embedded(self._embedders[name], [what], space)
            owner = {"agent": self.agent, "namespace": self.namespace, **vector}
            writes.append(self._shelf.put_of(space.name, key, owner))
        stale = [
            space
            for space in there
            if space not in {_space(name) for name in wanted}
            and not (same and old is not None and (space != _space("text") or old["text"] == text))
        ]
        return writes + [Write(Kind.DELETE, space, key, upsert=True) for space in stale]

    def _body(self, kept: Kept) -> bytes:
        if kept.size > EMBEDDED_BYTES_MAX:
            raise TooLarge(
                f"a body of {kept.size:,} bytes; the most that are embedded are {EMBEDDED_BYTES_MAX:,}",
                hint="attach it without an embedder for its medium",
            )
        file = self._shelf.cache.bodies.open(kept.digest)
        assert file is not None
        with file:
            return file.read()

    def _with_vector(self, key: str) -> list[str]:
        """The spaces that have a vector of it."""
        spaces = [_space(medium) for medium in MEDIA]
        return [
            space
            for space in spaces
            if space in self._shelf.log.schemas and self._shelf.log.values(space, key) is not None
        ]

    def _questions(
        self, query: str | None, vectors: Mapping[str, Any] | None
    ) -> list[tuple[str, Collection, dict[str, Any]]]:
        """(name, where, as ``Collection.search`` takes it)."""
        asked: list[tuple[str, Collection, dict[str, Any]]] = []
        if vectors is not None and not isinstance(vectors, Mapping):
            raise InvalidValue(
                f"vectors are a mapping of media to vectors, not {type(vectors).__name__}",
                hint='such as {"image": [0.1, 0.9]}',
            )
        given = dict(vectors or {})
        for medium in given:
            if medium not in self._spaces:
                known = f"there are those of {', '.join(self._spaces)}" if self._spaces else "give embedders="
                raise InvalidValue(f"there is no vector space for {medium!r:.40}", hint=known)
        if query is not None:
            check_text("a query", query)
            asked.append(("caption", self._records, {"text": query, "mode": "text"}))
            for medium, space in self._spaces.items():
                embedder = self._embedders[medium]
                if medium in given or not (medium == "text" or hasattr(embedder, "embed_texts")):
                    continue
                asking = embedder if medium == "text" else _OfTexts(embedder)
                ((given[medium],),) = (vector.values() for vector in embedded(asking, [query], space))
        elif not given:
            raise InvalidValue("a search asks something", hint="a query, or vectors={medium: vector}")
        asked += [(name, self._spaces[name], {"vector": given[name], "mode": "vector"}) for name in sorted(given)]
        return asked

    def _ranking(self, where: Collection, question: Mapping[str, Any], k: int, matches: Any) -> list[Scored]:
        """As many as a fusion for ``k`` wants of those that the filter lets pass."""
        wanted = fetch = depth_for(k)
        owner = {"agent": self.agent, "namespace": self.namespace}
        while True:
            hits = where.search(**question, k=min(fetch, _FETCH_MAX), filter=owner)
            found = [Scored(hit.key, hit.score) for hit in hits if self._passes(hit.key, matches)]
            if len(found) >= wanted or len(hits) < fetch or fetch >= _FETCH_MAX:
                return found[:wanted]
            fetch *= 4

    def _passes(self, key: str, matches: Any) -> bool:
        fields = self._records.get(key)
        if fields is None or not is_attachment(fields):
            return False
        if matches is None:
            return True
        own = {name: fields[name] for name in ("id", "media_type", "size", "added_at")}
        return bool(matches({**fields["metadata"], **own}))


class _OfTexts:
    """A medium's embedder, asked in words."""

    def __init__(self, embedder: Any) -> None:
        self.model, self.dimensions = embedder.model, embedder.dimensions
        self.embed = embedder.embed_texts


def is_attachment(fields: Mapping[str, Any]) -> bool:
    """Whether a record is what ``add`` writes: any device of the fleet can write others into the collection."""
    return names_body(fields) is not None and all(type(fields.get(name)) is kind for name, kind in _WRITTEN.items())


def _space(medium: str) -> str:
    return f"{ATTACHMENTS}.{medium}"


def _head(source: bytes | os.PathLike[str]) -> bytes:
    """Its first bytes. Raises NotFound, InvalidValue, TooLarge."""
    if isinstance(source, bytes):
        check_size(len(source))
        return source[:MAGIC_BYTES]
    with open_source(source) as file:
        try:
            return file.read(MAGIC_BYTES)
        except OSError as error:
            raise InvalidValue(f"{os.fspath(source)} cannot be read: {error.strerror}") from error
