"""Documents as text: what a source is, its text, and how that is cut into chunks.

Text and code are read as they are; HTML becomes Markdown (markdownify), a PDF the text of its pages (pypdf); the
cutting is semantic-text-splitter's. The three are the extra ``agentdb-edge[documents]``, imported when they are needed.
Code is cut by its syntax where the parser of its language is installed (``code_parts``), else as any text.

What always holds: a chunk is a part of the text, at the place that it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from edge.agent.code_parts import Part, language_of
from edge.agent.names import described
from edge.settings import settings
from sync.errors import InvalidValue, NotFound, StorageError, TooLarge

SOURCE_BYTES_MAX = 64 << 20
CHUNK_BYTES_MAX = 64 << 10
CHUNKS_MAX = 100_000
TEXT, MARKDOWN, HTML, PDF = "text/plain", "text/markdown", "text/html", "application/pdf"
_BY_SUFFIX = {".md": MARKDOWN, ".markdown": MARKDOWN, ".html": HTML, ".htm": HTML, ".pdf": PDF}
_RUN_CHUNKS, _RUN_MIN = 8, 4_000
_BREAK = re.compile("\n|[.!?]\\s|[\u3002\uff01\uff1f]")  # of a line, of a sentence
_EXTRA = "pip install 'agentdb-edge[documents]'"


class Loaded(NamedTuple):
    """``name`` is a file's, or ""; ``media_type`` of the source; its text is Markdown where it was HTML."""

    name: str
    media_type: str
    text: str


class Chunk(NamedTuple):
    """``text`` is ``document[start:end]``, in characters."""

    start: int
    end: int
    text: str


Chunker = Callable[[str], Iterable[str]]


@settings(InvalidValue)
class Splitter(NamedTuple):
    """Chunks of at most ``size``, with up to ``overlap`` of the one before; at headings, paragraphs, sentences, words
    where possible, and code where a declaration or statement ends. ``measure`` gives a text's size in another unit than
    characters (a tokenizer's length). ``language`` is that of code (python, javascript, …); by default what a file's
    suffix says; "text" cuts code as text.
    """

    size: int = 1_000
    overlap: int = 100
    measure: Callable[[str], int] | None = None
    language: str | None = None

    def chunks(self, loaded: Loaded) -> list[Chunk]:
        """Raises InvalidValue, NotFound (an extra is not installed), TooLarge."""
        if type(self.size) is not int or not 1 <= self.size <= CHUNK_BYTES_MAX:
            raise InvalidValue(f"size is a whole number from 1 to {CHUNK_BYTES_MAX}, not {self.size!r:.40}")
        if type(self.overlap) is not int or not 0 <= self.overlap < self.size:
            raise InvalidValue(f"overlap is a whole number from 0, less than size, not {self.overlap!r:.40}")
        try:
            import semantic_text_splitter as splitting
        except ImportError as error:
            raise NotFound("semantic-text-splitter is not installed", hint=_EXTRA) from error
        kinds: Any = splitting
        formatted = loaded.media_type in (MARKDOWN, HTML, PDF)
        language = language_of(self.language, "" if formatted else loaded.name)
        whole = [Part(0, loaded.text, code=False)] if language is None else language.parts(loaded.text)
        plain = self._made(kinds.MarkdownSplitter if loaded.media_type in (MARKDOWN, HTML) else kinds.TextSplitter)
        syntax = plain if language is None else self._made(kinds.CodeSplitter, language.grammar())
        found: list[Chunk] = []
        try:
            for start, part, splitter in self._runs(whole, plain, syntax):
                for at, text in splitter.chunk_indices(part):
                    found.append(Chunk(start + at, start + at + len(text), text))
                if len(found) > CHUNKS_MAX:
                    break
            return _checked(found)
        except TypeError as error:
            raise InvalidValue(
                f"measure= is a function from a text to a whole number: {error}",
                hint="such as lambda text: len(tokenizer.encode(text))",
            ) from error

    def _made(self, kind: Any, *grammar: Any) -> Any:
        if self.measure is None:
            return kind(*grammar, self.size, overlap=self.overlap)
        return kind.from_callback(*grammar, self.measure, self.size, overlap=self.overlap)

    def _runs(self, whole: Iterable[Part], plain: Any, syntax: Any) -> Iterator[tuple[int, str, Any]]:
        """Where each begins, its text, and what cuts it."""
        for part in whole:
            if part.code:
                yield part.start, part.text, syntax
                continue
            for start, text in _parts(part.text, max(_RUN_MIN, _RUN_CHUNKS * self.size)):
                yield part.start + start, text, plain


def _parts(text: str, most: int) -> Iterator[tuple[int, str]]:
    """The text in parts, with where they begin: cut only where there is no break in more than ``most`` characters, at a
    space if there is one. The splitter looks at all of what has no break for each chunk of it: 17 s for 200,000 Chinese
    characters in one line, where those of a book take 0.1 s.
    """
    start = last = 0
    for found in chain(_BREAK.finditer(text), (None,)):
        end = len(text) if found is None else found.end()
        while end - last > most:
            space = text.rfind(" ", last + most // 2, last + most)
            cut = space + 1 if space >= 0 else last + most
            yield start, text[start:cut]
            start = last = cut
        last = end
    yield start, text[start:]


def chunked(loaded: Loaded, chunker: Splitter | Chunker) -> list[Chunk]:
    """By a splitter, or by a function of the user's that returns parts of the text in order. Raises InvalidValue."""
    if isinstance(chunker, Splitter):
        return chunker.chunks(loaded)
    if not callable(chunker) or isinstance(chunker, type):
        raise InvalidValue(
            f"a chunker is a Splitter or a function, not {described(chunker)}",
            hint="such as Splitter(size=500, overlap=50), or a function from the text to its parts in order",
        )
    found: list[Chunk] = []
    start = end = 0
    parts = chunker(loaded.text)
    if isinstance(parts, (str, Mapping)) or not isinstance(parts, Iterable):
        raise InvalidValue(f"a chunker returns a list of strings, not {type(parts).__name__}")
    for text in parts:
        if type(text) is not str:
            raise InvalidValue(f"a chunker returns strings, not {type(text).__name__}")
        if not text.strip():
            continue
        at = loaded.text.find(text, end)  # after the one before, or else overlapping it
        at = at if at >= 0 else loaded.text.find(text, start)
        if at < 0:
            raise InvalidValue(f"the chunk {text[:40]!r} is not in the document, or not in order")
        start, end = at, at + len(text)
        found.append(Chunk(start, end, text))
    if not found:
        raise InvalidValue("the chunker returned no part of the document", hint="nothing of it would be found")
    return _checked(found)


def _checked(found: list[Chunk]) -> list[Chunk]:
    if len(found) > CHUNKS_MAX:
        raise TooLarge(f"{len(found):,} chunks; a document has at most {CHUNKS_MAX:,}", hint="a larger size")
    for chunk in found:
        if len(chunk.text.encode()) > CHUNK_BYTES_MAX:
            raise TooLarge(f"a chunk of {len(chunk.text):,} characters; the most are {CHUNK_BYTES_MAX:,} bytes")
    return found


def load(source: str | bytes | os.PathLike[str], media_type: str | None = None) -> Loaded:
    """A path (any ``os.PathLike``) is read; a string is the text itself, bytes are looked at. Raises InvalidValue,
    NotFound, TooLarge, StorageError.
    """
    name = ""
    if isinstance(source, os.PathLike):
        path = Path(source)
        name = path.name
        media_type = media_type or _BY_SUFFIX.get(path.suffix.lower())
        source = _read(path)
    if isinstance(source, str):
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue(f"the text is not valid Unicode: {error.reason}") from error
        if len(source) > SOURCE_BYTES_MAX:
            raise TooLarge(f"a text of {len(source):,} characters; the most are {SOURCE_BYTES_MAX:,}")
        media_type = media_type or TEXT
        return Loaded(name, media_type, _markdown(source) if media_type == HTML else source)
    if not isinstance(source, bytes):
        raise InvalidValue(
            f"a document is a path, a string or bytes, not {type(source).__name__}",
            hint='Path("manual.pdf") is read; a string is the text itself',
        )
    if len(source) > SOURCE_BYTES_MAX:
        raise TooLarge(f"a document of {len(source):,} bytes; the most are {SOURCE_BYTES_MAX:,}")
    media_type = media_type or _sniffed(source)
    if media_type == PDF:
        return Loaded(name, media_type, _pdf(source))
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{name or 'the document'} is not UTF-8 text (byte {error.start})"
        raise InvalidValue(what, hint="decode it, or say media_type='application/pdf'") from error
    if "\0" in text:
        raise InvalidValue(f"{name or 'the document'} has NUL bytes: it is no text")
    return Loaded(name, media_type, _markdown(text) if media_type == HTML else text)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > SOURCE_BYTES_MAX:
            raise TooLarge(f"{path} has {path.stat().st_size:,} bytes; the most are {SOURCE_BYTES_MAX:,}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except ValueError as error:
        raise InvalidValue(f"{path!r} is not a path: {error}") from error
    except IsADirectoryError as error:
        raise InvalidValue(f"{path} is a directory", hint="add its files, one after the other") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _sniffed(source: bytes) -> str:
    head = source[:1024].lstrip().lower()
    if head.startswith(b"%pdf-"):
        return PDF
    return HTML if head.startswith((b"<!doctype html", b"<html")) else TEXT


def _markdown(text: str) -> str:
    try:
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter
    except ImportError as error:
        raise NotFound("markdownify is not installed, which reads HTML", hint=_EXTRA) from error
    page = BeautifulSoup(text, "html.parser")
    for part in page(["script", "style", "template"]):
        part.decompose()
    return str(MarkdownConverter(heading_style="ATX").convert_soup(page)).strip()


def _pdf(source: bytes) -> str:
    from io import BytesIO

    try:
        import pypdf
    except ImportError as error:
        raise NotFound("pypdf is not installed, which reads PDF", hint=_EXTRA) from error
    try:
        return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(BytesIO(source)).pages)
    except Exception as error:
        raise InvalidValue(f"the PDF cannot be read: {error}") from error
