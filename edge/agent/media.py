"""Media types of attachments, and what makes vectors of images and sounds.

A *medium* is the part of a media type before the slash: image, audio, video, text, application. Each may have an
embedder of its own, and its vectors are in a collection of their own: those of one model compare with each other only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from mimetypes import MimeTypes
from typing import Any, Protocol, runtime_checkable

from edge.agent.embedders import check_dimensions, check_model_name
from edge.agent.names import check_function, described
from sync.errors import InvalidValue

MEDIA = ("image", "audio", "video", "text", "application")
OCTETS = "application/octet-stream"
_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]{0,99}")
# (offset, bytes) that a file of that type has; the first that fits counts.
_MAGIC: tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...] = (
    ("image/png", ((0, b"\x89PNG\r\n\x1a\n"),)),
    ("image/jpeg", ((0, b"\xff\xd8\xff"),)),
    ("image/gif", ((0, b"GIF8"),)),
    ("image/webp", ((0, b"RIFF"), (8, b"WEBP"))),
    ("audio/wav", ((0, b"RIFF"), (8, b"WAVE"))),
    ("audio/flac", ((0, b"fLaC"),)),
    ("audio/ogg", ((0, b"OggS"),)),
    ("audio/mpeg", ((0, b"ID3"),)),
    ("video/mp4", ((4, b"ftyp"),)),
    ("video/webm", ((0, b"\x1a\x45\xdf\xa3"),)),
    ("application/pdf", ((0, b"%PDF-"),)),
)
MAGIC_BYTES = 16


@runtime_checkable
class MediaEmbedder(Protocol):
    """``embed`` returns one vector of ``dimensions`` for each body, in order. If it has ``embed_texts``, too, which
    does so for texts in the same space (as CLIP and CLAP do), questions in words find what it embedded.
    """

    @property
    def model(self) -> str:
        """Its name, the same on all devices whose vectors may be compared."""
        ...

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        ...

    def embed(self, bodies: Sequence[bytes]) -> Sequence[Any]:
        """One vector for each body, in order; what it raises passes, and nothing is written."""
        ...


class CallableMediaEmbedder:
    """Any function from bodies to vectors; ``texts`` from texts to vectors in the same space."""

    def __init__(
        self,
        function: Callable[[Sequence[bytes]], Sequence[Any]],
        *,
        model: str,
        dimensions: int,
        texts: Callable[[Sequence[str]], Sequence[Any]] | None = None,
    ) -> None:
        for given in (function, *(() if texts is None else (texts,))):
            check_function("what makes vectors", given, "from a list of bodies, or of texts, to as many vectors")
        self._function = function
        self.model = check_model_name(model)
        self.dimensions = check_dimensions(dimensions)
        if texts is not None:
            self.embed_texts = texts

    def embed(self, bodies: Sequence[bytes]) -> Sequence[Any]:
        """What the function returns."""
        return self._function(bodies)


def medium_of(media_type: str) -> str:
    return media_type.partition("/")[0]


def media_type_of(source: bytes | os.PathLike[str], head: bytes, given: str | None) -> str:
    """As it was given, or by the name of the file, or by its first bytes. Raises InvalidValue."""
    if given is not None:
        if type(given) is not str or not _TYPE.fullmatch(given) or medium_of(given) not in MEDIA:
            raise InvalidValue(
                f"not a media type: {given!r:.80}", hint=f"such as image/png; it begins with {', '.join(MEDIA)}"
            )
        return given
    guessed = None if isinstance(source, bytes) else MimeTypes().guess_type(os.fspath(source))[0]  # not this machine's
    if guessed is not None and _TYPE.fullmatch(guessed) and medium_of(guessed) in MEDIA:
        return guessed
    for media_type, parts in _MAGIC:
        if all(head[at : at + len(part)] == part for at, part in parts):
            return media_type
    return OCTETS


def check_embedders(embedders: Mapping[str, Any] | None) -> dict[str, Any]:
    """Medium -> embedder. Raises InvalidValue."""
    if embedders is not None and not isinstance(embedders, Mapping):
        raise InvalidValue(
            f"embedders are a mapping of media to embedders, not {type(embedders).__name__}",
            hint='such as {"image": CallableMediaEmbedder(…)}',
        )
    for medium, embedder in (embedders or {}).items():
        if medium not in MEDIA:
            raise InvalidValue(f"there is no medium {medium!r:.40}", hint=f"one of {', '.join(MEDIA)}")
        if isinstance(embedder, type) or not isinstance(embedder, MediaEmbedder):
            raise InvalidValue(
                f"an embedder is an object with a model, dimensions and embed(), not {described(embedder)}",
                hint="CallableMediaEmbedder(function, model=…, dimensions=…) makes one; CallableEmbedder for text",
            )
    return dict(embedders or {})
