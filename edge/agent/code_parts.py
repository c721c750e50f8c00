"""Code in parts that are worth cutting where its syntax ends something: whole declarations, not nested too deep.

tree-sitter's parsers are the extra ``agentdb-edge[code]``: wheels that have them built in, imported when needed.

What always holds: the parts are all of the text, in order; what they are is the text's doing and the parser's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import PurePath
from typing import Any, NamedTuple

from sync.errors import InvalidValue, NotFound

# The splitter looks at every declaration of a part for each chunk of it, and at every level of what is nested for each
# piece: 10 s for 2.5 MB of small functions in one part, 50 s for 10 kB of 5,000 brackets. Code that people write has
# some 25 levels.
PART_BYTES, PART_BYTES_MAX, LEVELS_MAX = 32 << 10, 256 << 10, 100
CODE_CHARACTERS_MAX = 4 << 20  # the tree of a text takes some twenty times its size
_EXTRA = "pip install 'agentdb-edge[code]'"
_MODULES = {  # of each language, and its function that returns the grammar
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "python": ("tree_sitter_python", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}
LANGUAGES = tuple(_MODULES)
_BY_SUFFIX = {
    **dict.fromkeys((".sh", ".bash"), "bash"),
    ".c": "c",
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".hxx"), "cpp"),
    ".go": "go",
    ".java": "java",
    **dict.fromkeys((".cjs", ".js", ".jsx", ".mjs"), "javascript"),
    **dict.fromkeys((".py", ".pyi"), "python"),
    ".rs": "rust",
    ".tsx": "tsx",
    **dict.fromkeys((".cts", ".mts", ".ts"), "typescript"),
}


class Part(NamedTuple):
    """``text`` begins at ``start``, in characters; ``code``: worth cutting by syntax."""

    start: int
    text: str
    code: bool


class Language(NamedTuple):
    """``grammar()`` is the one of its name, anew for each that asks: as semantic-text-splitter takes it."""

    grammar: Callable[[], Any]
    parser: Any

    def parts(self, text: str) -> Iterator[Part]:
        if len(text) > CODE_CHARACTERS_MAX:
            yield Part(0, text, code=False)
            return
        data = text.encode()
        root = self.parser.parse(data).root_node
        start = at = 0
        deep = False
        ends = [(node.end_byte, node) for node in root.children] or [(len(data), root)]
        for number, (behind, node) in enumerate(ends):
            last = number == len(ends) - 1
            deep = deep or _deeper(node, LEVELS_MAX)
            if behind - start < PART_BYTES and not last:
                continue
            end = len(data) if last else behind
            part = data[start:end].decode()
            yield Part(at, part, code=not deep and end - start <= PART_BYTES_MAX)
            start, at, deep = end, at + len(part), False


def language_of(named: str | None, file: str) -> Language | None:
    """Of a name, or else by a file's suffix; None where there is none. Raises InvalidValue for an unknown name, and
    NotFound if the extra is not installed, for what was named.
    """
    name = _BY_SUFFIX.get(PurePath(file).suffix.lower(), "") if named is None else named
    if type(name) is not str or name not in _MODULES:
        if named is None or named == "text":
            return None
        raise InvalidValue(f"not a language: {named!r:.40}", hint=f"text, {', '.join(LANGUAGES)}")
    module, function = _MODULES[name]
    try:
        import tree_sitter

        grammar = getattr(import_module(module), function)
    except ImportError as error:
        if named is None:
            return None
        raise NotFound(f"the parser of {named} is not installed", hint=_EXTRA) from error
    return Language(grammar, tree_sitter.Parser(tree_sitter.Language(grammar())))


def _deeper(node: Any, most: int) -> bool:
    """Whether something in the node has more than ``most`` levels above it."""
    cursor = node.walk()
    level = 0
    while True:
        if cursor.goto_first_child():
            level += 1
            if level > most:
                return True
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return False
            level -= 1
