"""The state digest: one hash over everything that lives in a store, the same on every replica that holds the same
state.

Tombstones, floors, and the marks of what was removed from a set or replaced among siblings do not count: they are
dropped at different times on different replicas, and no reader sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgpack

from sync.records import Record
from sync.stamps import NEVER

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_PLAIN = 0x93  # [ts, replica, values]: without older fields, slots and floor


class StateDigest:
    """Add records in order of (collection, key), compared as UTF-8 bytes; dead ones are passed over."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.records = 0

    def add(self, collection: str, key: str, image: bytes) -> None:
        self.add_all([(collection, key, image)])

    def add_all(self, records: Iterable[tuple[str, str, bytes]]) -> None:
        """(collection, key, image) of each."""
        update, count = self._hash.update, 0
        for collection, key, image in records:
            living = living_image(image)
            if living is not None:
                update(sha256(_pack((collection, key, living))).digest())
                count += 1
        self.records += count

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def living_image(image: bytes) -> bytes | None:
    """The image without what does not count; None for a record that is dead."""
    if image[0] == _PLAIN:
        return image
    record = Record.decode(image)
    if not record.alive:
        return None
    record.floor = NEVER
    for field, slots in list(record.slots.items()):
        record.slots[field] = {slot: entry for slot, entry in slots.items() if entry[1]}
        if not record.slots[field]:
            del record.slots[field]
    return record.encode()
