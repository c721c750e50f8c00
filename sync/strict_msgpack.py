"""msgpack as we write it, and nothing else that msgpack can be.

What always holds: ``unpack`` raises Malformed or TooLarge and nothing else; no extension types, no duplicate keys, and
the memory it takes is bounded. By itself msgpack takes 64 bytes for each byte that says "empty list", and room for as
many items as a header announces, at each of a thousand levels.
"""

from __future__ import annotations

from typing import Any

import msgpack

from sync.errors import Malformed, TooLarge
from sync.limits import SEGMENT_CONTAINERS_MAX, VALUE_ITEMS_MAX


class _Counter:
    """Sees every list and map as soon as it is complete."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = SEGMENT_CONTAINERS_MAX

    def a_list(self, items: list[Any]) -> list[Any]:
        self._count()
        return items

    def a_map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._count()
        out = dict(pairs)
        if len(out) != len(pairs):
            raise Malformed("a map with a duplicate key")
        return out

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooLarge(f"more than {SEGMENT_CONTAINERS_MAX} lists and maps")


def _refuse_extension(code: int, _data: bytes) -> Any:
    raise Malformed(f"msgpack extension type {code}")


def unpack(data: bytes) -> Any:
    """Raises Malformed or TooLarge."""
    counter = _Counter()
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            list_hook=counter.a_list,
            object_pairs_hook=counter.a_map,
            max_array_len=VALUE_ITEMS_MAX,
            max_map_len=VALUE_ITEMS_MAX,
            ext_hook=_refuse_extension,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"not msgpack as we write it: {error}") from error
