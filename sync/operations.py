"""An operation: one change to one record, as it travels and as it is logged.

Operations of the same kind on the same fields share a ``Shape``; what differs from one to the next are numbers, a key
and a tuple of values. That is how they are written column by column (``sync.columns``), and why no operation carries a
dict.

The effect on each field is said by the shape's ``rules``, one letter a field, so that ``sync.records.merge`` needs no
schema and two replicas with different schema versions still converge:

====== =========== =====================================================================
letter rule        the value in the operation
====== =========== =====================================================================
``l``  lww         the new value; None is "absent" (as in RFC 7396)
``c``  counter     this replica's running total after the increment
``x``  max         the largest value that the writer knew, its own included
``n``  min         the smallest
``s``  set         ``[added elements, [[removed element, [[replica, ts], …]], …]]``
``k``  keep-all    ``[value, [[replica, ts], …]]``: the value and the siblings it has seen and replaces
====== =========== =====================================================================

Delete has no fields. An image has no fields and one value, an encoded record; it merges as a whole.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple


class Kind(IntEnum):
    PUT = 1
    PATCH = 2
    INCREMENT = 3
    ADD = 4
    REMOVE = 5
    DELETE = 6
    IMAGE = 7


class Shape(NamedTuple):
    """What a group of operations has in common. ``names`` are sorted; ``rules`` has one letter for each name."""

    kind: int
    collection: str
    names: tuple[str, ...] = ()
    rules: str = ""


class OpId(NamedTuple):
    replica: bytes
    seq: int


class Operation(NamedTuple):
    """``seq`` is dense from 1 within a replica, 0 for state (baseline, repair) that is not part of any log.

    ``ts`` is the hybrid timestamp; ``(ts, replica)`` is the stamp. ``seen`` is the feed position that the writer had
    applied. ``values`` run parallel to ``shape.names`` (one encoded record for an image).
    """

    replica: bytes
    seq: int
    ts: int
    seen: int
    shape: Shape
    key: str
    values: tuple[Any, ...]

    @property
    def id(self) -> OpId:
        return OpId(self.replica, self.seq)

    @property
    def fields(self) -> dict[str, Any]:
        return dict(zip(self.shape.names, self.values, strict=False))
