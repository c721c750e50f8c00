"""docs/API.md, made of the public names' signatures and docstrings: ``python -m simulations api``.

The sources are read by griffe, never imported, so signatures are as they were written. Public is what ``edge`` exports
and what it needs from ``sync``; of a class, its own methods, properties and fields without an underscore, but for those
that only ``edge``'s own modules call (``_INNER``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import griffe

import edge
from sync import errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "API.md"
# What one part of a store needs of another, and no caller.
_INNER = {
    "Async": {"store", "inner", "run", "ended", "put_again"},
    "Memory": {"prepared"},
    "Thread": {"put_again", "prefix"},
}
_GROUPS = (
    ("The store", ("Edge", "EdgeConfig")),
    ("Collections", ("Collection", "Hit", "FieldRule", "VectorSpec")),
    ("Agents", ("Agent",)),
    ("State", ("Thread", "Checkpoint", "Snapshots", "Snapshot", "Restored")),
    ("Memory", ("Memory", "Added", "Recall", "Remembered", "Scoring", "Terms", "Forgetting", "Forgotten")),
    ("Documents", ("Documents", "Document", "Indexed", "Passage", "Splitter", "Chunk")),
    ("Attachments and their cache", ("Attachments", "Attachment", "Found", "Cache", "CacheStatus", "Evicted", "Share")),
    ("Erasure", ("Erasure", "Receipt")),
    ("Embedders of media", ("MediaEmbedder", "CallableMediaEmbedder")),
    ("Embedders", ("Embedder", "CallableEmbedder", "SentenceTransformerEmbedder", "HttpEmbedder")),
)
_FROM_SYNC = ("sync.ports.Clock", "sync.ports.RandomSource")
_HEAD = """# API

What `from edge import …` gives, from the docstrings: `python -m simulations api` writes this page, and a test compares
it. The [guide](GUIDE.md) says how the parts go together, with examples that run. Times are milliseconds since 1970,
durations say their unit in their name (`_ms`, `_s`, `_days`), sizes are bytes unless something else is said, vectors
are sequences or arrays of floats and are stored as float32, unless declared otherwise. A call that raises has changed
nothing, unless it says so.

The control plane is steered by its command line, `agentdb-cloud` ([guide](GUIDE.md)); `cloud` and `sync` have no other
names for callers than those here.
"""


def render() -> str:
    """The whole page. Raises TypeError if a name is exported that is no class in the sources."""
    package = griffe.load("edge", search_paths=[ROOT], allow_inspection=False, resolve_aliases=False)
    sync = griffe.load("sync", search_paths=[ROOT], allow_inspection=False, resolve_aliases=False)
    modules = griffe.ModulesCollection()
    modules["edge"], modules["sync"] = package, sync
    errors_ = [name for name in edge.__all__ if getattr(errors, name, None) is not None]
    awaited = [name for name in edge.__all__ if name.startswith("Async")]
    known = {name for _, names in _GROUPS for name in names} | {*errors_, *awaited}
    groups = [*_GROUPS, ("More", tuple(name for name in edge.__all__ if name not in known))]
    out = [_HEAD]
    for title, names in groups:
        if names:
            out.append(f"## {title}\n")
            out += [_class(_found(modules, name)) for name in names]
    out.append("## The clock and the dice\n\nWhat `Edge.open(clock=…, random=…)` takes, for tests and simulations.\n")
    out += [_class(_at(modules, path)) for path in _FROM_SYNC]
    out += [_awaited(modules, awaited), _errors(errors_)]
    return "\n".join(out).rstrip() + "\n"


def _found(modules: griffe.ModulesCollection, name: str) -> griffe.Class:
    value = getattr(edge, name)
    return _at(modules, f"{value.__module__}.{name}")


def _at(modules: griffe.ModulesCollection, path: str) -> griffe.Class:
    module, _, name = path.rpartition(".")
    found = modules[module].members.get(name)
    if not isinstance(found, griffe.Class):
        raise TypeError(f"{path} is exported, and is no class of these sources")
    return found


def _class(found: griffe.Class) -> str:
    lines = [f"### {found.name}\n", _text(found), ""]
    own = list(_members(found))
    fields = [one for one in own if isinstance(one, griffe.Attribute) and "property" not in one.labels]
    if fields:
        lines += ["```python", *(_field(one) for one in fields), "```", ""]
    built = found.members.get("__init__")
    if isinstance(built, griffe.Function) and _may_be_built(found):
        lines += [f"```python\n{found.name}{_signature(built, returns=False)}\n```", ""]
    for one in own:
        if isinstance(one, griffe.Function):
            lines += [
                f"#### {found.name}.{one.name}\n",
                f"```python\n{one.name}{_signature(one)}\n```\n",
                _text(one),
                "",
            ]
        elif isinstance(one, griffe.Attribute) and "property" in one.labels:
            lines += _member(found, one, _field(one))
    return "\n".join(lines)


def _member(found: griffe.Class, one: griffe.Object, code: str) -> list[str]:
    return [f"#### {found.name}.{one.name}\n", f"```python\n{code}\n```\n", _text(one), ""]


def _may_be_built(found: griffe.Class) -> bool:
    """What a method of another gives says so, and is not built by callers."""
    return "Get one from" not in _text(found) and found.name not in ("Edge", "Collection", "Agent", "Snapshots")


def _members(found: griffe.Class) -> Iterator[griffe.Function | griffe.Attribute]:
    for one in found.members.values():
        if one.name.startswith("_") or one.name in _INNER.get(found.name, ()):
            continue
        if isinstance(one, griffe.Function) or (isinstance(one, griffe.Attribute) and _is_told(found, one)):
            yield one


def _is_told(found: griffe.Class, one: griffe.Attribute) -> bool:
    """A property, or a field of a tuple: not what ``__init__`` keeps for its methods."""
    return "property" in one.labels or any(str(base) == "NamedTuple" for base in found.bases)


def _field(one: griffe.Attribute) -> str:
    default = "" if one.value is None else f" = {_quoted(one.value)}"
    return f"{one.name}: {one.annotation}{default}"


def _signature(one: griffe.Function, *, returns: bool = True) -> str:
    parts = [str(part) for part in _parameters(one)]
    tail = f" -> {one.returns}" if returns and one.returns is not None else ""
    short = f"({', '.join(parts)}){tail}"
    if len(short) + len(one.name) <= 110:
        return short
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){tail}"


def _parameters(one: griffe.Function) -> Iterator[str]:
    kinds = griffe.ParameterKind
    starred = False
    before: griffe.Parameter | None = None
    for part in one.parameters:
        if part.name == "self":
            continue
        if before is not None and before.kind is kinds.positional_only and part.kind is not kinds.positional_only:
            yield "/"
        if part.kind is kinds.keyword_only and not starred:
            starred = True
            yield "*"
        starred = starred or part.kind is kinds.var_positional
        sign = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(part.kind or kinds.positional_or_keyword, "")
        typed = f": {part.annotation}" if part.annotation is not None else ""
        equals = " = " if typed else "="
        default = "" if part.default is None or sign else f"{equals}{_quoted(part.default)}"
        yield f"{sign}{part.name}{typed}{default}"
        before = part


def _quoted(value: object) -> str:
    """As ruff would write it, which formats the Python of Markdown files, too."""
    return str(value).replace("'", '"')


def _text(one: griffe.Object) -> str:
    """The docstring; ``names`` in double backticks, as the sources have them, become Markdown's single ones."""
    said = inspect.cleandoc(one.docstring.value) if one.docstring is not None else ""
    return re.sub(r"``([^`\n]+)``", r"`\1`", said)


def _awaited(modules: griffe.ModulesCollection, names: list[str]) -> str:
    lines = [
        "## Awaited\n",
        "The same names and arguments, for asyncio: a method is awaited, an iterator is an `async for`.\n",
    ]
    for name in names:
        found = _found(modules, name)
        own = [
            f"`{one.name}`"
            for one in found.members.values()
            if not one.name.startswith("_") and one.name not in _INNER["Async"]
        ]
        lines.append(f"* **{name}**: {' '.join(_text(found).split())} {', '.join(own)}".rstrip())
    return "\n".join(lines) + "\n"


def _errors(names: list[str]) -> str:
    tree = inspect.cleandoc(errors.__doc__ or "").partition("::\n")[2]
    block, _, after = tree.partition("\n``code``")
    lines = ["## Errors\n", "```text", inspect.cleandoc(block), "```", ""]
    lines += [" ".join(re.sub(r"``([^`\n]+)``", r"`\1`", f"``code``{after}").split()), ""]
    lines += ["| error | `code` | `retryable` |", "|---|---|---|"]
    for name in names:
        kind = getattr(errors, name)
        lines.append(f"| `{name}` | `{kind.code}` | {'yes' if kind.retryable else ''} |")
    return "\n".join(lines) + "\n"
