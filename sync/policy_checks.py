"""What the values in a policy may be. Each check takes where it is (for people) and the value, and returns the value as
it is kept, or raises InvalidPolicy, which names the key and says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sync.errors import InvalidPolicy
from sync.limits import COLLECTION_NAME_BYTES_MAX, KEY_BYTES_MAX
from sync.places import PREFIX, escaped
from sync.values import brief

Check = Callable[[str, Any], Any]

LIST_MAX = 64  # names, globs or prefixes in a rule
NAME_BYTES_MAX = 128  # of an agent or a namespace, as keys have it
STORES = ("attachments", "documents", "memories", "state", "vectors")  # of an agent, as permissions name them
_POLICY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_COLLECTION = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{COLLECTION_NAME_BYTES_MAX - 1}}}")
_COLLECTIONS = re.compile(rf"(?:[A-Za-z][A-Za-z0-9_.-]{{0,{COLLECTION_NAME_BYTES_MAX - 1}}})?\*?")
_RESOLVER_CHARACTERS_MAX = 256
# Cedar parses by recursion, and ends the process where the stack does: on 512 KiB at 64 brackets or 400 ifs.
_NESTED_MAX, _IFS_MAX = 24, 100
_UNREAD = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*', re.DOTALL)


def wrong(where: str, value: Any, hint: str) -> InvalidPolicy:
    return InvalidPolicy(f"{where} is {brief(value)}", hint=hint)


def whole(least: int, most: int) -> Check:
    def check(where: str, value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise wrong(where, value, f"a whole number from {least:,} to {most:,}")
        return value

    return check


def number(least: float, most: float) -> Check:
    def check(where: str, value: Any) -> float:
        if type(value) not in (int, float) or not least <= value <= most:
            raise wrong(where, value, f"a number from {least:,} to {most:,}")
        return value  # type: ignore[no-any-return]

    return check


def choice(*words: str) -> Check:
    def check(where: str, value: Any) -> str:
        if type(value) is not str or value not in words:
            raise wrong(where, value, f"choose one of {', '.join(words)}")
        return value

    return check


def texts(check: Check, most: int = LIST_MAX) -> Check:
    """A list of one to ``most`` different ones."""

    def check_list(where: str, value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not 1 <= len(value) <= most:
            raise wrong(where, value, f"a list of 1 to {most}")
        found = tuple(check(f"{where}, entry {at}", item) for at, item in enumerate(value, 1))
        for at, item in enumerate(found):
            if item in found[:at]:
                raise InvalidPolicy(f"{where} has {brief(item)} twice", hint="once is enough")
        return found

    return check_list


def policy_name(where: str, value: Any) -> str:
    if type(value) is not str or not _POLICY_NAME.fullmatch(value):
        raise wrong(where, value, "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit")
    return value


def collection(where: str, value: Any) -> str:
    """A collection of the user's."""
    if type(value) is not str or not _COLLECTION.fullmatch(value) or value.startswith(PREFIX):
        raise wrong(where, value, f"the name of a collection; system and {PREFIX}* ones are reached by agents")
    return value


def collections(where: str, value: Any) -> str:
    """A name, or the beginning of names and ``*``, of collections of the user's."""
    if type(value) is not str or not value or not _COLLECTIONS.fullmatch(value):
        raise wrong(where, value, "the name of a collection, or its beginning and *, such as sensors.*")
    if value.startswith(PREFIX):
        raise wrong(where, value, 'collections of agents are reached by agents = ["guide"], all of an agent together')
    return value


def permitted(where: str, value: Any) -> str:
    """As ``collections``, or what an agent has of its own."""
    stores = (PREFIX + "*", *(PREFIX + store for store in STORES))
    if type(value) is str and value in stores:
        return value
    if type(value) is str and value.startswith(PREFIX):
        raise wrong(where, value, f"of an agent's own there are {', '.join(stores)}")
    return str(collections(where, value))


def prefix(where: str, value: Any) -> str:
    """The beginning of keys."""
    text = _text(where, value, "the beginning of keys, such as north/")
    if len(text.encode()) > KEY_BYTES_MAX:
        raise wrong(where, value, f"a key has at most {KEY_BYTES_MAX} bytes")
    return text


def agents(where: str, value: Any) -> str:
    """The name of an agent, or its beginning and ``*``."""
    return _name(where, value, "the name of an agent, or its beginning and *")


def namespace(where: str, value: Any) -> str:
    name = _name(where, value, "the name of a namespace")
    if name.endswith("*"):
        raise wrong(where, value, "a namespace is named in full")
    return name


def conflict(where: str, value: Any) -> str:
    if value in ("latest", "priority", "manual"):
        return str(value)
    if type(value) is str and 9 < len(value) <= _RESOLVER_CHARACTERS_MAX and value.startswith("resolver:"):
        return value
    raise wrong(where, value, "latest, priority, manual or resolver:NAME")


def field_name(where: str, value: Any) -> str:
    text = _text(where, value, "the name of a field")
    if text[0] == "_" or len(text.encode()) > 64:
        raise wrong(where, value, "the name of a field: at most 64 bytes, no '_' at its beginning")
    return text


def link_class(where: str, value: Any) -> str:
    if type(value) is not str or not _POLICY_NAME.fullmatch(value):
        raise wrong(where, value, "a class as the device names its links, such as metered; default is any other")
    return value


def program(most: int) -> Check:
    """Cedar of at most so many bytes, and not deeply nested."""

    def check(where: str, value: Any) -> str:
        text = _text(where, value, "a text")
        if len(text.encode()) > most:
            raise InvalidPolicy(f"{where} has {len(text.encode()):,} bytes", hint=f"the most are {most:,}")
        read = _UNREAD.sub(" ", text)
        if _deepest(read) > _NESTED_MAX or len(re.findall(r"\bif\b", read)) > _IFS_MAX:
            raise InvalidPolicy(
                f"{where} is nested too deeply", hint=f"at most {_NESTED_MAX} brackets deep, {_IFS_MAX} times if"
            )
        return text

    return check


def _deepest(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[(\[{}\])]", text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _name(where: str, value: Any, hint: str) -> str:
    text = _text(where, value, hint)
    if len(escaped(text).encode()) > NAME_BYTES_MAX:
        raise wrong(where, value, f"{hint}: at most {NAME_BYTES_MAX} bytes")
    return text


def _text(where: str, value: Any, hint: str) -> str:
    if type(value) is not str or not value or "\0" in value:
        raise wrong(where, value, hint)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise wrong(where, value, f"{hint}, of valid Unicode") from error
    return value
