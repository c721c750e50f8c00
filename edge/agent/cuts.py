"""How a document was cut, so that its text stays so until it changes: a newer splitter, or a parser that this device
has and the other has not, is no reason to write and embed all of it again.

What always holds: chunks that are taken from a document's list are parts of its text whose digests are in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from edge.agent.loading import Chunk, Chunker, Loaded, Splitter

CUT = "cut"  # in a document's record: the splitter's size, overlap and named language
_DIGEST_BYTES = 12


def digest_of(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def cut_of(chunker: Splitter | Chunker) -> list[Any] | None:
    """None for functions of the user's: two of them cannot be told apart."""
    if not isinstance(chunker, Splitter) or chunker.measure is not None:
        return None
    return [chunker.size, chunker.overlap, chunker.language or ""]


def cut_before(
    loaded: Loaded, chunker: Splitter | Chunker, before: list[Any] | None, places: Sequence[Sequence[Any]]
) -> list[Chunk] | None:
    """The chunks that the ``places`` of the same text say, if this chunker has made them; None: it is to be cut. Of a
    document that does not say how it was cut, from before there were languages, it is tried, once: what says so is
    noted with it then. Raises as ``Splitter``.
    """
    asked = cut_of(chunker)
    if asked is None or not isinstance(chunker, Splitter) or (before is not None and before != asked):
        return None
    found = [Chunk(start, end, loaded.text[start:end]) for _, start, end in places]
    if [place[0] for place in places] != [digest_of(chunk.text) for chunk in found]:
        return None
    if before is None and found != chunker._replace(language="text").chunks(loaded):
        return None
    return found
