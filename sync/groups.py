"""Groups: which devices of a fleet, said as a query on their labels and on what they report. And what a model needs of
a device, said likewise of what that device reports: ``gpu = true and not memory.gib < 8``.

::

    labels.site = "north" and (reported.hardware != "rev2" or reported.battery.percent <= 20)

    query      = term { "or" term }
    term       = factor { "and" factor }
    factor     = "not" factor | "(" query ")" | path comparison
    comparison = ("=" | "!=" | "<" | "<=") value | "in" "(" value { "," value } ")"
    path       = "labels" "." name | "reported" "." name { "." name }
    value      = "text" | number | true | false               names: letters, digits, _ and -

What always holds: a query is parsed whole before anything is read, within bounds; what is not understood raises
InvalidFilter with the position and what was expected there. The empty query is every device.

What a device does not report is like nothing: every comparison with it is false but ``!=``, which is true. Numbers
compare with numbers, texts with texts by code point; other types are never equal and in no order. Those that are active
are asked when it matters: a group has no list of members that could be old.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from sync.errors import InvalidFilter, TooLarge

QUERY_BYTES_MAX: Final = 4096
CONDITIONS_MAX: Final = 64
DEPTH_MAX: Final = 16

Documents = Mapping[str, Mapping[str, Any]]
"""``{"labels": …, "reported": …}`` of one device."""
Matches = Callable[[Documents], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text> "(?:[^"\\\n]|\\.)*" )
      | (?P<number> -?\d+(?:\.\d+)?(?:[eE][+-]?\d+)? (?![\w.]) )
      | (?P<word> [A-Za-z_][\w-]*(?:\.[\w-]+)* )
      | (?P<sign> != | <= | = | < | \( | \) | , )
    )""",
    re.VERBOSE | re.ASCII,
)
_RESERVED = frozenset({"and", "or", "not", "in", "true", "false"})
_MISSING: Final = object()


class Group(NamedTuple):
    """A parsed query. ``paths`` are the places that it looks at."""

    text: str
    matches: Matches
    paths: tuple[tuple[str, ...], ...] = ()


def parse(text: str) -> Group:
    """Raises InvalidFilter, TooLarge."""
    return _parse(text, ())


def parse_needs(text: str) -> Group:
    """Of names that a device reports, without ``reported.`` before them. Raises InvalidFilter, TooLarge."""
    return _parse(text, ("reported",))


def _parse(text: str, within: tuple[str, ...]) -> Group:
    if len(text.encode(errors="replace")) > QUERY_BYTES_MAX:
        raise TooLarge(f"a group's query is over {QUERY_BYTES_MAX} bytes", hint="give its devices a label instead")
    if not text.strip():
        return Group("", lambda _: True)
    parser = _Parser(text, within)
    return Group(text, parser.whole(), tuple(parser.paths))


def parse_path(text: str) -> tuple[str, ...]:
    """Of ``labels.site`` or ``reported.a.b``. Raises InvalidFilter."""
    parts = tuple(text.split("."))
    if not _is_path(parts):
        raise InvalidFilter(f"not a place in a twin: {text!r:.80}", hint="labels.NAME or reported.NAME[.NAME…]")
    return parts


def look_up(documents: Documents, path: tuple[str, ...]) -> Any:
    """What is there, or None."""
    found = _at(documents, path)
    return None if found is _MISSING else found


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str, within: tuple[str, ...]) -> None:
        self.paths: list[tuple[str, ...]] = []
        self._within = within
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._conditions = 0

    def whole(self) -> Matches:
        matches = self._query(1)
        if self._peek().kind != "end":
            self._fail("'and', 'or' or the end")
        return matches

    def _query(self, depth: int) -> Matches:
        if depth > DEPTH_MAX:
            raise InvalidFilter(f"the query is nested deeper than {DEPTH_MAX}", hint="without so many parentheses")
        parts = [self._term(depth)]
        while self._takes("or"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else lambda documents: any(part(documents) for part in parts)

    def _term(self, depth: int) -> Matches:
        parts = [self._factor(depth)]
        while self._takes("and"):
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else lambda documents: all(part(documents) for part in parts)

    def _factor(self, depth: int) -> Matches:
        if self._takes("not"):
            if depth >= DEPTH_MAX:
                raise InvalidFilter(f"the query is nested deeper than {DEPTH_MAX}", hint="two nots are none")
            inner = self._factor(depth + 1)
            return lambda documents: not inner(documents)
        if self._takes("("):
            inner = self._query(depth + 1)
            self._expect(")")
            return inner
        return self._condition()

    def _condition(self) -> Matches:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise TooLarge(f"the query has more than {CONDITIONS_MAX} conditions", hint="`in (…)` is one")
        token = self._peek()
        path = (*self._within, *token.text.split("."))
        if token.kind != "word" or token.text in _RESERVED or not _is_path(path):
            self._fail("the name of something reported" if self._within else "labels.NAME or reported.NAME")
        self._next += 1
        self.paths.append(path)
        return self._comparison(path)

    def _comparison(self, path: tuple[str, ...]) -> Matches:
        if self._takes("="):
            value = self._value()
            return lambda documents: _equal(_at(documents, path), value)
        if self._takes("!="):
            value = self._value()
            return lambda documents: not _equal(_at(documents, path), value)
        if self._takes("<="):
            value = self._ordered()
            return lambda documents: _ordered(_at(documents, path), value) and _at(documents, path) <= value
        if self._takes("<"):
            value = self._ordered()
            return lambda documents: _ordered(_at(documents, path), value) and _at(documents, path) < value
        if self._takes("in"):
            self._expect("(")
            values = [self._value()]
            while self._takes(","):
                values.append(self._value())
            self._expect(")")
            return lambda documents: any(_equal(_at(documents, path), value) for value in values)
        return self._fail("=, !=, <, <= or in")

    def _value(self) -> Any:
        token = self._peek()
        value: Any = _MISSING
        if token.kind == "text":
            try:
                value = json.loads(token.text)
            except ValueError:
                self._fail("text as JSON has it")
        elif token.kind == "number":
            if not _is_json_number(token.text):
                self._fail("a number")
            value = json.loads(token.text)
        elif token.text in ("true", "false"):
            value = token.text == "true"
        else:
            self._fail('"text", a number, true or false')
        self._next += 1
        return value

    def _ordered(self) -> Any:
        at = self._next
        value = self._value()
        if isinstance(value, bool):
            self._next = at
            self._fail('a number or "text": true and false have no order')
        return value

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _takes(self, text: str) -> bool:
        token = self._peek()
        if token.kind not in ("word", "sign") or token.text != text:
            return False
        self._next += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            self._fail(f"'{text}'")

    def _fail(self, expected: str) -> NoReturn:
        token = self._peek()
        there = "the end" if token.kind == "end" else repr(token.text)
        hint = "texts stand in double quotes" if token.kind == "word" else ""
        if token.text.startswith((">", "==")):
            hint = "= compares; `not x <= 3` is x > 3"
        raise InvalidFilter(f"the query at {token.at + 1}: {expected} should be there, not {there:.60}", hint=hint)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while True:
        start = len(text) - len(text[at:].lstrip())
        if start == len(text):
            return [*found, _Token("end", "", start)]
        match = _TOKEN.match(text, at)
        if match is None or (match["sign"] == "=" and text.startswith("==", start)):
            return [*found, _Token("strange", text[start : start + 20], start)]
        assert match.lastgroup is not None
        found.append(_Token(match.lastgroup, match[match.lastgroup], start))
        at = match.end()


def _is_path(parts: tuple[str, ...]) -> bool:
    if parts[0] == "labels":
        return len(parts) == 2 and _is_name(parts[1])
    return parts[0] == "reported" and 2 <= len(parts) <= DEPTH_MAX and all(map(_is_name, parts[1:]))


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w-]{1,128}", text, re.ASCII) is not None


def _is_json_number(text: str) -> bool:
    return re.fullmatch(r"-?(0|[1-9]\d{0,17})(\.\d{1,17})?([eE][+-]?\d{1,2})?", text) is not None


def _at(documents: Any, path: tuple[str, ...]) -> Any:
    found = documents
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return _MISSING
        found = found[name]
    return found


def _equal(found: Any, value: Any) -> bool:
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value
    return bool(found == value)


def _ordered(found: Any, value: Any) -> bool:
    if isinstance(found, bool):
        return False
    return isinstance(found, str) if isinstance(value, str) else isinstance(found, int | float)
