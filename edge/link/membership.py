"""Joining a fleet, and what a device keeps of it: the cloud's identity, the URL, the fleet's epoch keys.

A join token (docs/FORMAT.md) carries the fingerprint of the fleet's cloud: the feed has to be signed by the keys that
the token's author meant. Whether who answers holds them is not asked: TLS vouches for that (PROTOCOL §8). Kept are
``meta["fleet"]`` in the delta log (public), ``keys/fleet.keys`` (0600: epoch → key) and, for a store that is made anew
around its keys, ``keys/fleet.name``.

What always holds: a lost answer costs nothing (the same token with the same device key is answered the same again); a
device belongs to one fleet for life, and has there the name that it first joined by: the roster keeps that one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgpack

from edge.storage.control_tables import keep_pin
from edge.storage.delta_log import DeltaLog
from edge.storage.keystore import KEYS_DIRECTORY, load_device_key, write_private
from edge.storage.log_schema import translate
from sync.effects import SessionKeys
from sync.errors import CorruptStore, InvalidValue, NotFound, ProtocolError, Refused
from sync.keys import KeyRing, PublicIdentity, unwrap
from sync.messages import Enroll, Enrolled, enroll_proof
from sync.tokens import JoinToken

FLEET_KEYS_FILE = "fleet.keys"
FLEET_NAME_FILE = "fleet.name"


class Membership(NamedTuple):
    """The fleet that a device belongs to."""

    fleet: bytes
    cloud: PublicIdentity
    url: str
    name: str


def enroll_request(log: DeltaLog, store: str, token: JoinToken, name: str) -> Enroll:
    """The request to send to the token's cloud. Raises Refused if the device belongs to another fleet already,
    InvalidValue for a name that is none, or not the one that this fleet knows it by.
    """
    if not 0 < len(name) <= 128:
        raise InvalidValue("a device's name has 1 to 128 characters")
    member = find_membership(log)
    if member is not None and member.fleet != token.fleet:
        raise Refused("this device belongs to another fleet", hint="create a new store for the new fleet")
    called = member.name if member is not None else _noted_names(store).get(token.fleet, name)
    if name != called:
        raise InvalidValue(
            f"the fleet knows this device as {called!r}, and that stays; it cannot join again as {name!r}",
            hint=f"leave the name out, or give {called!r}; another name takes another store, with keys of its own",
        )
    key = load_device_key(store)
    public = key.public
    proof = key.sign(enroll_proof(token.id, public.signing, public.exchange, name))
    return Enroll(token.id, token.secret, public.signing, public.exchange, name, proof)


def accept(log: DeltaLog, store: str, token: JoinToken, answer: Enrolled, url: str, name: str) -> Membership:
    """Check the answer and keep it. Raises BadSignature if it is not from the cloud that made the token, and
    StorageError.
    """
    cloud = PublicIdentity.checked(answer.cloud_signing, answer.cloud_exchange)
    token.vouches_for(cloud)
    key = load_device_key(store)
    if answer.device != key.device_id or answer.fleet != token.fleet:
        raise ProtocolError("the server enrolled another device than this one, or into another fleet")
    keep_keys(store, {item.epoch: unwrap(item.wrapped, key, token.fleet, item.epoch) for item in answer.keys})
    member = Membership(token.fleet, cloud, url, name)
    _write(store, FLEET_NAME_FILE, msgpack.packb({token.fleet: name}))
    log.meta_set("fleet", [member.fleet, *member.cloud, member.url, member.name])
    if token.root:
        keep_pin(log, token.root)
    return member


def known_name(log: DeltaLog, store: str, token: JoinToken) -> str:
    """What the token's fleet calls this device if it is known here, or ""."""
    member = find_membership(log)
    return member.name if member is not None else _noted_names(store).get(token.fleet, "")


def find_membership(log: DeltaLog) -> Membership | None:
    kept = log.meta_get("fleet")
    if kept is None:
        return None
    fleet, signing, exchange, url, name = kept
    return Membership(fleet, PublicIdentity(signing, exchange), url, name)


def require_membership(log: DeltaLog) -> Membership:
    """Raises NotFound if the device has not joined a fleet."""
    member = find_membership(log)
    if member is None:
        raise NotFound("this device has not joined a fleet", hint="agentdb-edge init STORE --join TOKEN")
    return member


def session_keys(log: DeltaLog, store: str) -> SessionKeys:
    """What a session signs, reads and trusts with. Raises NotFound, CorruptStore, StorageError."""
    member = require_membership(log)
    return SessionKeys(member.fleet, load_device_key(store), member.cloud, KeyRing(_read_keys(store)))


def keep_keys(store: str, keys: dict[int, bytes]) -> None:
    """Add epoch keys to those that are kept. Raises CorruptStore, StorageError."""
    kept = {**_read_keys(store), **keys}
    _write(store, FLEET_KEYS_FILE, msgpack.packb(sorted(kept.items())))


def _write(store: str, name: str, data: bytes) -> None:
    path = str(Path(store, KEYS_DIRECTORY, name))
    try:
        write_private(path, data)
    except OSError as error:
        raise translate(error, path) from error


def _read_keys(store: str) -> dict[int, bytes]:
    path = Path(store, KEYS_DIRECTORY, FLEET_KEYS_FILE)
    try:
        with path.open("rb") as file:
            keys = dict(msgpack.unpackb(file.read(1 << 20)))
            KeyRing(keys)  # raises for anything but epochs and 32-byte keys
            return keys
    except FileNotFoundError:
        return {}
    except OSError as error:  # of the disk, which may be better the next time; the keys are not lost
        raise translate(error, str(path)) from error
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise CorruptStore(f"{path} is damaged: {error}", hint="join the fleet again with a new token") from error


def _noted_names(store: str) -> dict[bytes, str]:
    """Fleet -> the name that these keys have in it. A file that is not there or damaged says nothing."""
    try:
        with Path(store, KEYS_DIRECTORY, FLEET_NAME_FILE).open("rb") as file:
            noted = msgpack.unpackb(file.read(4096))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, OSError):
        return {}
    if not isinstance(noted, dict):
        return {}
    return {fleet: name for fleet, name in noted.items() if type(fleet) is bytes and type(name) is str}
