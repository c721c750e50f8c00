"""Names of agents and threads, and ids of checkpoints, as parts of keys; texts.

A checkpoint's id is a number that rises within its thread, and who made it: 16 and 12 hexadecimal digits. In its key
every digit is inverted, so that the newest, which is the greatest, comes first in the order of keys.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from sync.errors import InvalidValue, TooLarge
from sync.places import escaped

NAME_BYTES_MAX = 128
TYPES = ("context", "working", "long-term", "task", "relationship", "embedding")  # of threads
TEXT_BYTES_MAX = 64 << 10  # of a memory, of a query
TICKS = 20  # bits of the number below the milliseconds
DIGITS = 16  # of the number
_INVERTED = bytes.maketrans(b"0123456789abcdef", b"fedcba9876543210")  # of bytes: of a str it takes five times as long
_ID = re.compile(r"([0-9a-f]{16})-([0-9a-f]{12})")


def escape(what: str, name: str) -> str:
    """A name as a part of a key; ``what`` is for the error. Raises InvalidValue, TooLarge."""
    if type(name) is not str or not name or "\0" in name:
        raise InvalidValue(f"the name of {what} is a non-empty string without NUL, not {name!r:.60}")
    out = escaped(name)
    try:
        size = len(out.encode())
    except UnicodeEncodeError as error:
        raise InvalidValue(f"the name of {what} is not valid Unicode: {error.reason}") from error
    if size > NAME_BYTES_MAX:
        raise TooLarge(f"the name of {what}, {name[:20]!r}…, is over {NAME_BYTES_MAX} bytes")
    return out


def check_text(what: str, text: Any) -> None:
    """Raises InvalidValue, TooLarge."""
    if type(text) is not str or not text or text.isspace():
        raise InvalidValue(f"{what} is a string with something in it, not {text!r:.40}")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidValue(f"{what} is not valid Unicode: {error.reason}") from error
    if size > TEXT_BYTES_MAX:
        raise TooLarge(
            f"{what} has {size:,} bytes; the most are {TEXT_BYTES_MAX:,}", hint="agent.documents() takes long texts"
        )


def make_id(number: int, replica: bytes) -> str:
    return f"{number:016x}-{_maker(replica)}"


@lru_cache(maxsize=64)
def _maker(replica: bytes) -> str:
    return blake2b(replica, digest_size=6).hexdigest()


def number_of(checkpoint: str) -> int:
    return int(_parsed(checkpoint)[1], 16)


def key_of(prefix: str, checkpoint: str) -> str:
    """Raises InvalidValue for what is not the id of a checkpoint."""
    return made_key_of(prefix, _parsed(checkpoint)[0])


def made_key_of(prefix: str, checkpoint: str) -> str:
    """The same for what ``make_id`` has returned."""
    return prefix + _inverted(checkpoint)


def id_of(prefix: str, key: str) -> str:
    """The opposite of ``key_of``."""
    return _inverted(key[len(prefix) :])


def _inverted(checkpoint: str) -> str:
    return checkpoint.encode().translate(_INVERTED).decode()


def _parsed(checkpoint: str) -> re.Match[str]:
    found = _ID.fullmatch(checkpoint) if type(checkpoint) is str else None
    if found is None:
        raise InvalidValue(f"not the id of a checkpoint: {checkpoint!r:.60}", hint="thread.history() lists them")
    return found


def described(given: Any) -> str:
    """What was given, for a message: a class is often an object of it that was not made."""
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def check_function(what: str, given: Any, hint: str) -> None:
    """Raises InvalidValue. A class is none here, though it can be called: an object of it is meant."""
    if not callable(given) or isinstance(given, type):
        raise InvalidValue(f"{what} is a function, not {described(given)}", hint=hint)


def check_progress(on_progress: Any) -> None:
    """Raises InvalidValue."""
    if on_progress is not None:
        check_function("on_progress", on_progress, "it is called with how many are done, and how many there are")
