"""Attachments' bodies over HTTP, a sealed part at a time: ``/v1/bodies`` with signed requests (docs/PROTOCOL.md)."""

from __future__ import annotations

from edge.link.signed_client import SignedClient
from sync.bodies import PART_SEALED_BYTES_MAX
from sync.errors import ProtocolError
from sync.lanes import BULK
from sync.limits import BODY_NAMES_MAX
from sync.messages import BodiesFound, BodyKept, FindBodies, encode

BODIES_PATH = "/v1/bodies"


class BodyClient(SignedClient):
    """A connection over which bodies are found, put and fetched."""

    lane = BULK
    part_bytes = PART_SEALED_BYTES_MAX

    def place(self) -> bytes:
        """The id of where bodies are kept. Raises as ``find``."""
        answer = self.ask("POST", BODIES_PATH, encode(FindBodies([])))
        if not isinstance(answer, BodiesFound):
            raise ProtocolError("the server did not say where it keeps bodies")
        return answer.place

    def find(self, names: list[bytes]) -> list[list[int]]:
        """The numbers of each body's parts that are there. Raises SyncError and its kinds, DataError."""
        found: list[list[int]] = []
        for at in range(0, len(names), BODY_NAMES_MAX):
            some = names[at : at + BODY_NAMES_MAX]
            answer = self.ask("POST", BODIES_PATH, encode(FindBodies(some)))
            if not isinstance(answer, BodiesFound) or len(answer.parts) != len(some):
                raise ProtocolError("the server did not say which bodies it has")
            found += answer.parts
        return found

    def put(self, name: bytes, number: int, sealed: bytes) -> bool:
        """False if there was such a part already. It is durable there when this returns. Raises as ``find``."""
        answer = self.ask("PUT", f"{BODIES_PATH}/{name.hex()}/{number}", sealed)
        if not isinstance(answer, BodyKept):
            raise ProtocolError(f"the server answered a part of a body with {type(answer).__name__}")
        return answer.created

    def get(self, name: bytes, number: int) -> bytes:
        """The sealed part. Raises NotFound, and as ``find``."""
        answer = self.ask("GET", f"{BODIES_PATH}/{name.hex()}/{number}")
        if not isinstance(answer, bytes):
            raise ProtocolError(f"the server sent {type(answer).__name__} instead of a part of a body")
        return answer
