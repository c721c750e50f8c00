"""What the objects of an archive are called (docs/FORMAT.md, "Archive").

::

    v1/{hash2}/{fleet}/seg/l{level}/{first:020d}-{last:020d}.{epoch:08x}.{id}    feed segments
    v1/{hash2}/{fleet}/snap/{position:020d}.{epoch:08x}.{id}                     parts of a snapshot
    v1/{hash2}/{fleet}/meta/{number:020d}.{epoch:08x}.{id}                       side tables
    v1/{hash2}/{fleet}/manifest/{number:020d}                                    the chain
    v1/{hash2}/{fleet}/body/{name}/{number:04d}                                  parts of attachments' bodies
    v1/{hash2}/{fleet}/pack/{id}                                                 packs of models' chunks (ADR 25)
    v1/{hash2}/{fleet}/body/place                                                16 random bytes: which place this is

``hash2`` spreads fleets over an object store's partitions. Ids are in hex and commit to the content; everything
sorts in its own order. What always holds: a name says positions and epochs, and nothing of the content.
"""

from __future__ import annotations

import re
from hashlib import sha256

_MANIFEST = re.compile(r"manifest/([0-9]{20})")
NUMBER_MAX = 10**12  # one manifest a second for 30,000 years: who can write to the bucket can put any name into it


class Names:
    """The names of one fleet's objects."""

    def __init__(self, fleet: bytes) -> None:
        self.root = f"v1/{sha256(fleet).hexdigest()[:2]}/{fleet.hex()}/"

    @property
    def manifests(self) -> str:
        """The prefix of all manifests."""
        return self.root + "manifest/"

    def manifest(self, number: int) -> str:
        return f"{self.root}manifest/{number:020d}"

    def segment(self, first: int, last: int, epoch: int, segment: bytes, level: int = 0) -> str:
        return f"{self.root}seg/l{level}/{first:020d}-{last:020d}.{epoch:08x}.{segment.hex()}"

    def snapshot(self, position: int, epoch: int, digest: bytes) -> str:
        return f"{self.root}snap/{position:020d}.{epoch:08x}.{digest.hex()}"

    def meta(self, number: int, epoch: int, digest: bytes) -> str:
        return f"{self.root}meta/{number:020d}.{epoch:08x}.{digest.hex()}"

    @property
    def bodies(self) -> str:
        """The prefix of all bodies, which no manifest names."""
        return self.root + "body/"

    def body(self, name: bytes) -> str:
        """The prefix of a body's parts."""
        return f"{self.bodies}{name.hex()}/"

    def body_part(self, name: bytes, number: int) -> str:
        return f"{self.body(name)}{number:04d}"

    @property
    def bodies_place(self) -> str:
        """The object with the id of the place that bodies are kept in: it moves with them."""
        return self.bodies + "place"

    @property
    def packs(self) -> str:
        """The prefix of all packs of models' chunks; which are needed, models' manifests say."""
        return self.root + "pack/"

    def pack(self, pack: bytes) -> str:
        return self.packs + pack.hex()

    def owns(self, name: str) -> bool:
        return name.startswith(self.root)

    def number_of(self, name: str) -> int | None:
        """The number of a manifest, None for any other name."""
        found = _MANIFEST.fullmatch(name.removeprefix(self.root))
        number = int(found.group(1)) if found else 0
        return number if 0 < number <= NUMBER_MAX else None
