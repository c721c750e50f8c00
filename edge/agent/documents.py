"""Documents: texts of any length, cut into chunks that are searched, in one namespace of an agent (ADR 15).

A chunk's key is the digest of its text, within its document; a document's record lists its chunks in order with their
places. So what has not changed in a new version of a document is neither written nor embedded again.

What always holds: adding, replacing and deleting a document is one transaction; a hit is a part of a document that is
there now, at the place that it says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.agent.cuts import CUT, cut_before, cut_of, digest_of
from edge.agent.embedders import Embedder, active_field, answered, asked, embedded, searched
from edge.agent.loading import Chunk, Chunker, Splitter, chunked, load
from edge.agent.names import check_function, check_progress, escape
from edge.agent.permitted import permitted
from edge.storage.filters import CHOICES_MAX
from edge.storage.transaction import Write
from sync.errors import InvalidValue, NotFound, TooLarge
from sync.operations import Kind

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.storage.collection import Hit

DOCUMENTS, CHUNKS = "agent.documents", "agent.chunks"
_EMBEDDED_AT_ONCE = 64
_FETCH_MAX = 10_000
_PLACES_PER_RECORD = 5_000
_TITLE_MAX = 1_000
_DOCUMENTS_IN_A_FILTER = 200 * CHOICES_MAX
_CHUNK_FIELDS = {"agent": "str", "document": "str", "namespace": "str", "text": "str"}

Reranker = Callable[[str, Sequence[str]], Sequence[float]]


class Document(NamedTuple):
    """``chunks`` is their number; ``digest`` of the text; times in milliseconds since 1970."""

    id: str
    title: str
    media_type: str
    characters: int
    chunks: int
    digest: str
    updated_at: int
    metadata: Mapping[str, Any]


class Indexed(NamedTuple):
    """What adding a document did, in chunks."""

    id: str
    written: int
    kept: int
    deleted: int


class Passage(NamedTuple):
    """A chunk that a search found: ``text`` is the document's from ``start`` to ``end``, in characters; ``before`` and
    ``after`` are the chunks around it.
    """

    text: str
    score: float
    document: Document
    start: int
    end: int
    before: str | None
    after: str | None


@permitted("documents", "_shelf", reads="all get search text", writes="add delete reembed")
class Documents:
    """Get one from ``edge.agent(name).documents(namespace)``. Safe to use from several threads."""

    def __init__(self, shelf: Shelf, agent: str, namespace: str, *, embedder: Embedder | None = None) -> None:
        self.agent, self.namespace = agent, namespace
        self._shelf = shelf
        self._embedder = embedder
        self._prefix = f"{escape('an agent', agent)}/{escape('a namespace', namespace)}/"
        self._chunks = searched(shelf, CHUNKS, _CHUNK_FIELDS, embedder)
        self._documents = shelf.collection(DOCUMENTS)

    def __repr__(self) -> str:
        return f"<Documents {self.namespace!r} of {self.agent!r}>"

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(
        self,
        source: str | bytes | os.PathLike[str],
        *,
        id: str | None = None,  # noqa: A002 - what users call it
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
        media_type: str | None = None,
        chunker: Splitter | Chunker | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Indexed:
        """Index a path, a text or bytes: text, Markdown, HTML, PDF, code. It is on disk when this returns.

        ``id`` names it: a document of that id is replaced, and only what has changed is written. By default it is the
        path, or the digest of a text. ``chunker``: a ``Splitter``, or a function from the text to its parts; what was
        cut with these sizes stays as it is until the text changes.
        ``on_progress(done, all)`` counts chunks that are embedded. Raises InvalidValue, NotFound, TooLarge,
        StorageError.
        """
        self._shelf.check_alone("adding a document")
        check_progress(on_progress)
        loaded = load(source, media_type)
        if not loaded.text.strip():
            raise InvalidValue(f"{loaded.name or 'the document'} has no text", hint="a PDF of images needs OCR first")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidValue(f"metadata is a mapping, not {type(metadata).__name__}")
        for what, given in (("title", title), ("media_type", loaded.media_type)):
            if type(given) is not str or len(given) > _TITLE_MAX:
                raise InvalidValue(f"{what} is a string of at most {_TITLE_MAX:,} characters, not {given!r:.40}")
        chunker = Splitter() if chunker is None else chunker
        digest = digest_of(loaded.text)
        name = id if id is not None else os.fspath(source) if isinstance(source, os.PathLike) else digest
        key = self._key(name)
        fields: dict[str, Any] = {
            "agent": self.agent,
            "characters": len(loaded.text),
            "digest": digest,
            "id": name,
            "media_type": loaded.media_type,
            "metadata": dict(metadata or {}),
            "namespace": self.namespace,
            "title": title or loaded.name or _first_line(loaded.text),
        }
        with self._shelf.lock(key):
            old = self._documents.get(key)
            same = old is not None and (old["digest"], old["media_type"]) == (digest, loaded.media_type)
            held = cut_before(loaded, chunker, old.get(CUT), self._places(key, old)) if old and same else None
            found, how = chunked(loaded, chunker) if held is None else held, cut_of(chunker)
            fields.update({"chunks": len(found)} if how is None else {"chunks": len(found), CUT: how})
            return self._replace(key, name, fields, found, old, on_progress)

    def _replace(
        self,
        key: str,
        name: str,
        fields: dict[str, Any],
        found: list[Chunk],
        old: dict[str, Any] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Indexed:
        """What is known is what is there, not what the list says: another device's version may have taken some."""
        places: list[list[Any]] = [[digest_of(chunk.text), chunk.start, chunk.end] for chunk in found]
        wanted = {place[0]: chunk for place, chunk in zip(places, found, strict=True)}
        there = {at.rpartition("/")[2]: chunk for at, chunk in self._chunks.scan(f"{key}/")}
        field = active_field(self._chunks.schema) if self._embedder is not None else None
        known = {one for one in wanted if one in there and (field is None or field in there[one])}
        gone = sorted(there.keys() - wanted.keys())
        same = old is not None and all(old.get(word) == value for word, value in fields.items())
        if same and len(known) == len(wanted) and not gone and self._places(key, old) == places:
            return Indexed(name, 0, len(wanted), 0)
        new = {one: chunk for one, chunk in wanted.items() if one not in known}
        writes = self._chunk_writes(key, new, on_progress)
        writes += [Write(Kind.DELETE, CHUNKS, f"{key}/{one}", upsert=True) for one in gone]
        writes += self._document_writes(key, {**fields, "updated_at": self._shelf.clock.wall_ms()}, places, old)
        self._shelf.submit(writes)
        return Indexed(name, len(new), len(known), len(gone))

    def delete(self, document: str) -> None:
        """Raises NotFound, StorageError."""
        self._shelf.check_alone("deleting a document")
        key = self._key(document)
        with self._shelf.lock(key):
            fields = self._held(document)
            writes = [Write(Kind.DELETE, CHUNKS, at, upsert=True) for at, _ in self._chunks.scan(f"{key}/")]
            parts = range(_parts(fields["chunks"]))
            writes += [Write(Kind.DELETE, DOCUMENTS, _part(key, number), upsert=True) for number in parts]
            self._shelf.submit(writes)

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, document: str) -> Document | None:
        """What there is to know of a document, or None. Raises InvalidValue."""
        fields = self._documents.get(self._key(document))
        return None if fields is None else _shown(fields)

    def text(self, document: str) -> str:
        """The document's text, put together from its chunks; what no chunk has (space between them, and what another
        device's version of it has left out) is a space.

        Raises NotFound.
        """
        key = self._key(document)
        fields = self._held(document)
        out = [" "] * fields["characters"]
        for digest, start, end in self._places(key, fields):
            chunk = self._chunks.get(f"{key}/{digest}")
            if chunk is not None:
                out[start:end] = chunk["text"]
        return "".join(out)

    def all(self) -> Iterator[Document]:
        """In no order of use."""
        for key, fields in self._documents.scan(self._prefix):
            if key.count("/") == 2:
                yield _shown(fields)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        mode: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in Collection.search
        reranker: Reranker | None = None,
    ) -> list[Passage]:
        """The ``k`` chunks that answer ``query`` best.

        ``mode`` is text, or with an embedder vector or hybrid (the default then). ``filter`` is over a document's
        metadata, and its id, title, media_type and updated_at. ``reranker`` gives each of 4k candidates a score, higher
        is better. Raises InvalidValue, InvalidFilter, StorageError.
        """
        question = asked(query, k, mode, self._embedder, self._chunks)
        if reranker is not None:
            check_function("a reranker", reranker, "from a query and texts to scores")
        where: dict[str, Any] = {"agent": self.agent, "namespace": self.namespace}
        if filter is not None:
            chosen = self._matching(filter)
            if not chosen:
                return []
            parts = [chosen[at : at + CHOICES_MAX] for at in range(0, len(chosen), CHOICES_MAX)]
            where["$or"] = [{"document": {"$in": part}} for part in parts]
        wanted = k if reranker is None else 4 * k
        fetch = wanted
        while True:
            hits = self._chunks.search(**question._asdict(), k=fetch, filter=where)
            answered(question, self._embedder, self._chunks)
            found = self._passages(hits)
            # What no list names, because another device's version of its document stands, is no hit.
            if len(found) >= wanted or len(hits) < fetch or fetch >= _FETCH_MAX:
                break
            fetch = min(4 * fetch, _FETCH_MAX)
        if reranker is not None:
            found = _reranked(reranker, query, found[:wanted])
        return found[:k]

    def reembed(
        self, embedder: Embedder | None = None, *, on_progress: Callable[[int, int], None] | None = None
    ) -> int:
        """As ``Memory.reembed``, of the chunks of documents. Returns how many vectors were made. Raises InvalidValue
        (no embedder, or not one), StorageError, and what the embedder does.
        """
        from edge.agent.reembedding import reembed

        made = reembed(self._shelf, self._chunks, embedder or self._embedder, self._prefix, on_progress)
        self._embedder = embedder or self._embedder
        return made

    # -- inside -------------------------------------------------------------------------------------------------------

    def _key(self, document: str) -> str:
        if type(document) is not str or not document:
            raise InvalidValue(f"the id of a document is a non-empty string, not {document!r:.60}")
        return self._prefix + digest_of(document)

    def _held(self, document: str) -> dict[str, Any]:
        fields = self._documents.get(self._key(document))
        if fields is None:
            raise NotFound(
                f"namespace {self.namespace!r} of agent {self.agent!r} has no document {document!r:.100}",
                hint="all() lists what there is",
            )
        return fields

    def _places(self, key: str, fields: Mapping[str, Any] | None) -> list[list[Any]]:
        """[digest, start, end] of each chunk, in order."""
        if fields is None:
            return []
        found: list[list[Any]] = list(fields["places"])
        for number in range(1, _parts(fields["chunks"])):
            found += (self._documents.get(_part(key, number)) or {}).get("places", [])
        return found

    def _chunk_writes(
        self, key: str, new: Mapping[str, Chunk], on_progress: Callable[[int, int], None] | None
    ) -> list[Write]:
        writes = []
        every = list(new.items())
        for at in range(0, len(every), _EMBEDDED_AT_ONCE):
            some = every[at : at + _EMBEDDED_AT_ONCE]
            vectors: Sequence[Mapping[str, bytes]] = [{}] * len(some)
            if self._embedder is not None:
                vectors = embedded(self._embedder, [chunk.text for _, chunk in some], self._chunks)
            for (digest, chunk), vector in zip(some, vectors, strict=True):
                fields = {
                    "agent": self.agent,
                    "document": key,
                    "namespace": self.namespace,
                    "text": chunk.text,
                    **vector,
                }
                writes.append(self._shelf.put_of(CHUNKS, f"{key}/{digest}", fields))
            if on_progress is not None:
                on_progress(at + len(some), len(every))
        return writes

    def _document_writes(
        self, key: str, fields: dict[str, Any], places: list[list[Any]], old: Mapping[str, Any] | None
    ) -> list[Write]:
        """The record, with the first places; the others in records of their own."""
        writes = []
        for number in range(_parts(len(places))):
            some = places[number * _PLACES_PER_RECORD : (number + 1) * _PLACES_PER_RECORD]
            part = {**fields, "places": some} if number == 0 else {"places": some}
            writes.append(self._shelf.put_of(DOCUMENTS, _part(key, number), part))
        beyond = range(_parts(len(places)), _parts(old["chunks"]) if old is not None else 0)
        return writes + [Write(Kind.DELETE, DOCUMENTS, _part(key, number), upsert=True) for number in beyond]

    def _matching(self, given: Mapping[str, Any]) -> list[str]:
        matches = self._shelf.matcher(DOCUMENTS, given)
        chosen = []
        for key, fields in self._documents.scan(self._prefix):
            if key.count("/") != 2:
                continue
            shown = {
                **fields["metadata"],
                **{name: fields[name] for name in ("id", "title", "media_type", "updated_at")},
            }
            if matches(shown):
                chosen.append(key)
        if len(chosen) > _DOCUMENTS_IN_A_FILTER:
            raise TooLarge(
                f"the filter lets {len(chosen):,} documents pass; the most are {_DOCUMENTS_IN_A_FILTER:,}",
                hint="a namespace for what is searched together needs no filter",
            )
        return chosen

    def _passages(self, hits: Sequence[Hit]) -> list[Passage]:
        """What the hits are parts of; a document is read once for all of its chunks."""
        held: dict[str, tuple[Document, list[list[Any]], dict[str, int]]] = {}
        found = []
        for hit in hits:
            key, _, digest = hit.key.rpartition("/")
            if key not in held:
                fields = self._documents.get(key)
                if fields is None:
                    continue
                places = self._places(key, fields)
                held[key] = (_shown(fields), places, {place[0]: at for at, place in enumerate(places)})
            document, places, order = held[key]
            at = order.get(digest)
            text = None if at is None else self._text_at(key, places, at)
            if at is None or text is None:
                continue
            before, after = self._text_at(key, places, at - 1), self._text_at(key, places, at + 1)
            found.append(Passage(text, hit.score, document, places[at][1], places[at][2], before, after))
        return found

    def _text_at(self, key: str, places: Sequence[Sequence[Any]], at: int) -> str | None:
        found = self._chunks.get(f"{key}/{places[at][0]}") if 0 <= at < len(places) else None
        return None if found is None else found["text"]


def _reranked(reranker: Reranker, query: str, found: list[Passage]) -> list[Passage]:
    returned = reranker(query, [passage.text for passage in found])
    try:
        scores = [float(score) for score in returned]
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"the reranker returned {returned!r:.60}, no numbers") from error
    if len(scores) != len(found):
        raise InvalidValue(f"the reranker returned {len(scores)} scores for {len(found)} texts")
    if any(map(isnan, scores)):
        raise InvalidValue("the reranker returned NaN, which has no order")
    ranked = [passage._replace(score=score) for passage, score in zip(found, scores, strict=True)]
    return sorted(ranked, key=lambda passage: (-passage.score, passage.document.id, passage.start))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip("# ")[:80]


def _parts(chunks: int) -> int:
    return max(1, -(-chunks // _PLACES_PER_RECORD))


def _part(key: str, number: int) -> str:
    return key if number == 0 else f"{key}/{number}"


def _shown(fields: Mapping[str, Any]) -> Document:
    return Document(*(fields[name] for name in Document._fields))
