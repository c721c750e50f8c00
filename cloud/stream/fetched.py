"""Single records as state, for a device that asks for them by name: what it has let go, and needs again (ADR 24).

What always holds: it gets no more than its scope; an answer says of each place that it covers whether it is not given,
and what is neither given nor refused the cloud does not have. It covers at least one place, and is one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloud.ports import Reading
from cloud.rows import RecordRow
from cloud.stream.baseline import IMAGE_BYTES_PER_PAGE, shapes
from cloud.stream.feed import Sealer
from cloud.stream.scopes import Filter
from sync.operations import Operation
from sync.records import state_operation
from sync.segment import FLAG_STATE, pack_split


class FetchedRecords(NamedTuple):
    """``answered``: the first so many places are; ``denied`` are the numbers of those that are not given."""

    segments: list[bytes]
    answered: int
    denied: list[int]


def fetched(view: Reading, sealer: Sealer, places: Sequence[tuple[str, str]], scope: Filter | None) -> FetchedRecords:
    """Of these places (collection, key), tombstones included."""
    denied = [at for at, place in enumerate(places) if scope is not None and not scope.has(*place)]
    refused = {places[at] for at in denied}
    keys: dict[str, list[str]] = {}
    for collection, key in dict.fromkeys(places):
        if (collection, key) not in refused:
            keys.setdefault(collection, []).append(key)
    rows: dict[tuple[str, str], RecordRow] = {}
    for collection, wanted in keys.items():
        rows.update(((collection, key), row) for key, row in view.lookup(sealer.fleet, collection, wanted).items())
    operations: list[Operation] = []
    shape_of, size, answered = shapes(), 0, 0
    for place in places:
        row = rows.pop(place, None)
        if row is not None:
            if operations and size + len(row.image) > IMAGE_BYTES_PER_PAGE:
                break
            size += len(row.image)
            operations.append(state_operation(*place, row.image, shape_of))
        answered += 1
    pieces = pack_split(operations) if operations else ()
    segments = [sealer.seal(packed, FLAG_STATE, 0) for packed in pieces]
    return FetchedRecords(segments, answered, [at for at in denied if at < answered])
