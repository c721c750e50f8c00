"""What travels between a device and the cloud in the simulator: HTTP's headers and body, without HTTP.

The requests are signed and checked by the product's own code (RFC 9421), so a repeated request is a replay there, as
it is in life. Four of five runs leave the signatures out: then repeated requests reach the protocol itself, and a run
takes half the time.
"""

from __future__ import annotations

from typing import Any

import msgpack

from cloud.control_plane import ControlPlane
from cloud.identity.auth import Authenticator
from cloud.ports import Caller, Store
from edge.link.signing import Nonces, sign_request
from edge.link.transport import SYNC_PATH
from sync.errors import AgentDBError, StaleNonce, StorageError, Unauthenticated
from sync.keys import DeviceKey
from sync.messages import Answer, AnyMessage, Failure, Message, decode, encode


def wrap(message: Message, key: DeviceKey, nonces: Nonces | None) -> bytes:
    """A request, signed if there are nonces."""
    body = encode(message)
    headers = {} if nonces is None else sign_request(key, nonces.next(), "POST", SYNC_PATH, body)
    packed: bytes = msgpack.packb([key.device_id, headers, body])
    return packed


def caller_of(request: bytes, store: Store) -> tuple[AnyMessage, Caller]:
    """Who asks, and for what. Raises what the server would."""
    device, headers, body = msgpack.unpackb(request)
    if headers:
        claimed = Authenticator(store).claim("POST", SYNC_PATH, headers)
        claimed.check_body(body)
        with store.writing(durable=False) as tx:
            claimed.consume(tx)
        return decode(body), claimed.caller
    with store.reading() as view:
        row = view.device(device)
    if row is None or row.revoked_ms:
        raise Unauthenticated("this device is not enrolled here, or was revoked")
    return decode(body), Caller(row.fleet, device, row.identity)


def answer_to(plane: ControlPlane, message: AnyMessage, caller: Caller) -> bytes:
    """Raises StorageError; every other failure is an answer."""
    try:
        return pack_answer(plane.handle(message, caller))
    except StorageError:
        raise
    except AgentDBError as error:
        return pack_failure(error)


def pack_answer(answer: Answer) -> bytes:
    packed: bytes = msgpack.packb([encode(answer), 0])
    return packed


def pack_failure(error: AgentDBError) -> bytes:
    """As ``cloud.server`` answers it: of the storage's troubles a device only hears that there are some."""
    largest = error.largest if isinstance(error, StaleNonce) else 0
    failure = Failure.of(error)
    if isinstance(error, StorageError):
        failure = Failure(error.code, "the control plane's storage is not available", "", retryable=True)
    packed: bytes = msgpack.packb([encode(failure), largest])
    return packed


def unpack_answer(data: bytes) -> tuple[Any, int]:
    """The answer, and the largest nonce that was used, 0 if it was not said. Raises AgentDBError or ValueError."""
    body, largest = msgpack.unpackb(data)
    return decode(body), largest
