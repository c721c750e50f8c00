"""The parts of attachments' bodies in the fleet's object store: sealed on a device, kept as they come (docs/FORMAT.md).

What always holds: a part is durable when ``put`` returns, and is never replaced: what a device was told is kept stays
as it was. The cloud does not look into a part; its header must name the place that it is put at.
"""

from __future__ import annotations

from collections.abc import Callable

from cloud.ports import ObjectStore
from cloud.storage.archive.names import Names
from sync.bodies import PARTS_MAX, parse_part
from sync.errors import BrokenChain, InvalidValue, Malformed
from sync.ports import RandomSource

PLACE_BYTES = 16


class Bodies:
    """Of all fleets of an object store, which is opened when it is asked. Blocks; safe to use from several threads."""

    def __init__(self, objects: Callable[[], ObjectStore], random: RandomSource) -> None:
        self._objects = objects
        self._random = random
        self._places: dict[bytes, bytes] = {}

    def put(self, fleet: bytes, name: bytes, number: int, sealed: bytes) -> bool:
        """False if the part is there already: that one stays. Raises DataError, TooLarge, and as an object store."""
        header = parse_part(sealed)
        if (header.fleet, header.name, header.number) != (fleet, name, number):
            raise BrokenChain("the part's header names another fleet, body or place")
        return self._objects().put(Names(fleet).body_part(name, number), sealed, create_only=True)

    def get(self, fleet: bytes, name: bytes, number: int) -> bytes:
        """Raises NotFound, and as an object store."""
        if number >= PARTS_MAX:
            raise InvalidValue(f"a body has at most {PARTS_MAX} parts")
        return self._objects().get(Names(fleet).body_part(name, number))

    def place(self, fleet: bytes) -> bytes:
        """16 bytes that are this place's for as long as its objects are here, or are moved together. Raises Malformed
        for what is none, and as an object store.
        """
        if fleet not in self._places:
            name = Names(fleet).bodies_place
            self._objects().put(name, self._random.token(PLACE_BYTES), create_only=True)
            place = self._objects().get(name)
            if len(place) != PLACE_BYTES:
                raise Malformed(f"{name} has {len(place)} bytes, not {PLACE_BYTES}")
            self._places[fleet] = place
        return self._places[fleet]

    def held(self, fleet: bytes, name: bytes) -> list[int]:
        """The numbers of the parts that are there, ascending. Raises as an object store."""
        prefix = Names(fleet).body(name)
        found = (info.name.removeprefix(prefix) for info in self._objects().list(prefix))
        return sorted(int(number) for number in found if number.isdecimal() and int(number) < PARTS_MAX)
