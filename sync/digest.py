"""The state digest: one hash over everything that lives in a store, the same on every replica that holds the same
state.

Tombstones and floors do not count: they are dropped at different times on different replicas and no reader sees them.
"""

from __future__ import annotations

from hashlib import sha256

import msgpack

from sync.records import Record
from sync.stamps import NEVER


class StateDigest:
    """Add records in order of (collection, key), compared as UTF-8 bytes; dead ones are passed over."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.records = 0

    def add(self, collection: str, key: str, image: bytes) -> None:
        if image[0] != 0x93:  # not [ts, replica, values]: it has older fields, slots or a floor
            record = Record.decode(image)
            if not record.alive:
                return
            record.floor = NEVER
            image = record.encode()
        self._hash.update(sha256(msgpack.packb([collection, key, image])).digest())
        self.records += 1

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
