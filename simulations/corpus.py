"""Real texts: the documentation strings of Python's standard library, or a reader's own files.

The standard library is parsed, never imported: reading a text must not run anything. Keys are stable names
(``json.decoder.JSONDecoder.decode``), so the same text has the same key on every device.

``read_path`` takes a text file (its paragraphs), a JSONL file (a string a line, or an object with one of
``TEXT_FIELDS``), or a directory of both.
What cannot be a text raises CorpusError with the place; in a directory, files that are not text are left out.
"""

from __future__ import annotations

import ast
import inspect
import json
import sysconfig
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

CHARACTERS_MAX = 4_000
_SHORTEST = 40
_FILE_BYTES_MAX = 64 << 20
_KEY_CHARACTERS_MAX = 120
TEXT_FIELDS = ("text", "body", "content", "document", "description", "title")
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "ensurepip", "turtledemo"}


class CorpusError(Exception):
    """The input holds nothing that could be indexed; the message says where and why."""


class Text(NamedTuple):
    """``source`` is the module or file that it comes from."""

    key: str
    source: str
    title: str
    body: str


def standard_library() -> list[Text]:
    """Docstrings of at least 40 characters, in order of module and line."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT.intersection(path.relative_to(root).parts))
    found: dict[str, Text] = {}
    for path in files:
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for text in _docstrings(module, path):
            found.setdefault(text.key, text)
    texts = list(found.values())
    if not texts:
        raise CorpusError(f"no sources of the standard library under {root}: give texts of your own with --input")
    return texts


def spread(texts: list[Text], most: int) -> list[Text]:
    """``most`` of the texts, taken evenly from all of them."""
    if len(texts) <= most:
        return texts
    return [texts[place * len(texts) // most] for place in range(most)]


def read_path(path: Path) -> list[Text]:
    """The texts of a file or directory, in order of name and place. Raises CorpusError."""
    if not path.exists():
        raise CorpusError(f"there is nothing at {path}")
    texts: list[Text] = []
    if path.is_dir():
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            name = file.relative_to(path).as_posix()
            if not any(part.startswith(".") for part in Path(name).parts) and (content := _decoded(file)) is not None:
                texts += _texts_of(name, content)
    else:
        content = _decoded(path)
        if content is None:
            raise CorpusError(f"{path} is not UTF-8 text")
        texts = list(_texts_of(path.name, content))
    if not texts:
        raise CorpusError(f"{path} holds no text to index")
    unique: dict[str, Text] = {}
    for text in texts:
        unique.setdefault(text.key, text)
    return list(unique.values())


def _docstrings(module: str, path: Path) -> Iterator[Text]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escape sequences in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates and deliberately broken files are no sources of texts
        return
    stack: list[tuple[str, ast.AST]] = [(module, tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            body = ast.get_docstring(node, clean=False)
            if body is not None and len(body := inspect.cleandoc(body)) >= _SHORTEST:
                yield Text(_short(name), module, name, _clean(body[:CHARACTERS_MAX]))
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = [(f"{name}.{child.name}", child) for child in node.body if hasattr(child, "name")]
                stack += reversed(inner)


def _texts_of(name: str, content: str) -> Iterator[Text]:
    if name.endswith((".jsonl", ".ndjson")):
        yield from _json_lines(name, content)
        return
    paragraphs = [part.strip() for part in content.replace("\r\n", "\n").split("\n\n")]
    for number, paragraph in enumerate(_joined(paragraphs), 1):
        yield Text(_short(f"{name}#{number}"), name, f"{name} part {number}", paragraph)


def _joined(paragraphs: list[str]) -> Iterator[str]:
    """Paragraphs of a useful size: short ones (headings) go with what follows, very long ones are cut."""
    pending = ""
    for paragraph in filter(None, paragraphs):
        pending = f"{pending}\n\n{paragraph}" if pending else paragraph
        while len(pending) > CHARACTERS_MAX:
            yield pending[:CHARACTERS_MAX]
            pending = pending[CHARACTERS_MAX:]
        if len(pending) >= _SHORTEST:
            yield pending
            pending = ""
    if pending.strip():
        yield pending


def _json_lines(name: str, content: str) -> Iterator[Text]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{name}, line {number}: not JSON: {error}") from error
        body = _body_of(value)
        if body is None:
            raise CorpusError(
                f"{name}, line {number}: no text in it: a line is a string, or an object with one of the fields "
                f"{', '.join(TEXT_FIELDS)}; id or key, and title, may name it"
            )
        key = value.get("id", value.get("key")) if isinstance(value, dict) else None
        title = value.get("title") if isinstance(value, dict) else None
        named = f"{name}:{key}" if isinstance(key, (str, int)) and str(key) else f"{name}#{number}"
        shown = title if isinstance(title, str) and title else named
        yield Text(_short(named), name, _clean(shown[:CHARACTERS_MAX]), _clean(body[:CHARACTERS_MAX]))


def _body_of(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if not isinstance(value, dict):
        return None
    for name in TEXT_FIELDS:
        if isinstance(item := value.get(name), str) and item.strip():
            return item
    return None


def _decoded(path: Path) -> str | None:
    """The file's text; None if it is not text. Surrogates and NUL never get in."""
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise CorpusError(f"{path} is over {_FILE_BYTES_MAX >> 20} MiB: cut it into several files")
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from error
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON and Python literals can spell and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _short(name: str) -> str:
    """A key: the name if it is short, else its start and a digest of the whole."""
    name = _clean(name).replace("\0", "")
    if len(name) <= _KEY_CHARACTERS_MAX:
        return name
    return f"{name[: _KEY_CHARACTERS_MAX - 17]}~{sha256(name.encode()).hexdigest()[:16]}"
