"""How fleets begin and devices join: join tokens, the roster, the fleet's keys for those who are in it.

What always holds:

* A device joins by a token *and* a proof that it holds the private key it names (``sync.messages.enroll_proof``).
* The store holds SHA-256 of a token's secret, never the secret. Comparison takes the same time whatever differs.
* The same token with the same key is answered with the same identity, whether or not the token still has uses: a
  device whose answer was lost asks again and it costs nothing. A device that is enrolled uses up no further token.
* A key belongs to one fleet. A revoked key never comes back; the device makes a new one.
* Every acceptance, refusal and change of the roster is an audit row, in the same transaction. (An unknown token id
  names no fleet and is only logged.)

Attempts are not counted or slowed: a secret has 256 random bits, and 2**64 guesses a second would need longer than the
universe has lasted. For the same reason a fast hash is enough; slow ones protect what people can remember. The audit
trail cannot be flooded by strangers either: without a token id (128 random bits) there is no row.

Who may call the operator's methods is for the caller to say: they are reached through the command line on the control
plane's own machine, never through its HTTP interface.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from cloud.identity import audit
from cloud.identity.key_service import FleetKeys
from cloud.ports import KeyService, Store, Transaction
from cloud.rows import DeviceRow, EpochRow, FleetRow, Head, TokenRow
from sync.errors import AgentDBError, BadSignature, InvalidValue, Malformed, NotFound, Refused, Unauthenticated
from sync.keys import KeyRing, PublicIdentity, wrap
from sync.messages import Enroll, Enrolled, WrappedKey, enroll_proof
from sync.ports import Clock, RandomSource
from sync.stamps import DEVICE_BYTES, device_of
from sync.tokens import JoinToken, fingerprint

logger = logging.getLogger(__name__)

TOKEN_TTL_S = 24 * 3600
TOKEN_TTL_S_MAX = 366 * 24 * 3600
TOKEN_USES_MAX = 1_000_000
PRIORITY_MAX = 1_000_000
NAME_CHARACTERS_MAX = 128
EPOCHS_SENT_MAX = 64

_NEW_TOKEN = "ask for a new token: agentdb-cloud token"  # noqa: S105 - a sentence
_NO_TOKEN = TokenRow(bytes(16), bytes(16), bytes(32), 0, 0, 0)


class Joined(NamedTuple):
    """A device that is in the roster, and what it is given. ``again``: it was there before."""

    row: DeviceRow
    keys: list[WrappedKey]
    again: bool


class Enrollment:
    """Fleets, tokens and the roster. Blocking; each method is one transaction."""

    def __init__(self, store: Store, keys: FleetKeys, clock: Clock, random: RandomSource) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._random = random

    # -- fleets ---------------------------------------------------------------------------------------------------

    def create_fleet(self, name: str) -> FleetRow:
        """A new fleet with its first epoch key. The key comes first: one that no fleet uses does no harm."""
        _check_name(name, "fleet")
        now_ms = self._clock.wall_ms()
        row = FleetRow(self._random.token(16), name, now_ms)
        head = Head(0, self._random.token(16), 1, 0, 0, 0, 0)
        epoch = self._keys.create_epoch(row.fleet)
        with self._store.writing() as tx:
            tx.create_fleet(row, head)
            tx.put_epoch(row.fleet, EpochRow(epoch, now_ms, "fleet created"))
            self._audit(tx, row.fleet, "fleet.created", row.fleet.hex(), name=name)
        return row

    def rotate(self, fleet: bytes, reason: str) -> int:
        """A new epoch, used from now on; devices receive its key at their next handshake. Raises NotFound."""
        with self._store.reading() as view:
            view.head(fleet)
        epoch = self._keys.create_epoch(fleet)
        with self._store.writing() as tx:
            now_ms = self._clock.wall_ms()
            tx.put_epoch(fleet, EpochRow(epoch, now_ms, reason))
            self._audit(tx, fleet, "epoch.created", str(epoch), reason=reason)
        return epoch

    # -- tokens ---------------------------------------------------------------------------------------------------

    def create_token(
        self, fleet: bytes, *, ttl_s: int = TOKEN_TTL_S, uses: int = 1, name: str = "", url: str = ""
    ) -> JoinToken:
        """A new join token; its secret is nowhere but in what is returned. ``name`` is for the audit trail. Raises
        NotFound for an unknown fleet, InvalidValue for a bound.
        """
        if not 1 <= ttl_s <= TOKEN_TTL_S_MAX:
            raise InvalidValue(f"a token is valid for 1 to {TOKEN_TTL_S_MAX} seconds, not {ttl_s}")
        if not 1 <= uses <= TOKEN_USES_MAX:
            raise InvalidValue(f"a token has 1 to {TOKEN_USES_MAX} uses, not {uses}")
        token_id, secret = self._random.token(16), self._random.token(32)
        now_ms = self._clock.wall_ms()
        expires_ms = now_ms + ttl_s * 1000
        with self._store.writing() as tx:
            tx.head(fleet)
            root = tx.trust(fleet, "root", 1)
            tx.put_token(TokenRow(token_id, fleet, _hash(secret), uses, expires_ms, now_ms))
            self._audit(tx, fleet, "token.created", token_id.hex(), uses=uses, expires_ms=expires_ms, name=name)
        pin = sha256(root.data).digest() if root is not None else b""
        return JoinToken(token_id, secret, fleet, fingerprint(self._keys.service_key.public), url, pin)

    # -- joining --------------------------------------------------------------------------------------------------

    def enroll(self, message: Enroll) -> Enrolled:
        """Raises Unauthenticated (token or proof not accepted), Refused (expired, used up, revoked, of another fleet),
        Malformed (a key that must not be used) or InvalidValue; each after its audit row is durable.
        """
        refusal: AgentDBError | None = None
        joined: Joined | None = None
        with self._store.writing() as tx:
            token = tx.token(message.token_id)
            try:
                joined = self._join(tx, token, message)
            except (Unauthenticated, Refused, Malformed, InvalidValue) as error:
                refusal = error
            self._note(tx, token, message, joined, refusal)
        if joined is None:
            assert refusal is not None
            raise refusal
        service = self._keys.service_key.public
        return Enrolled(
            fleet=joined.row.fleet,
            device=joined.row.device,
            cloud_signing=service.signing,
            cloud_exchange=service.exchange,
            keys=joined.keys,
            time_ms=self._clock.wall_ms(),
        )

    def _join(self, tx: Transaction, token: TokenRow | None, message: Enroll) -> Joined:
        good = hmac.compare_digest(_hash(message.secret), (token or _NO_TOKEN).secret_hash)
        if token is None or not good:
            raise Unauthenticated("the join token is not accepted", hint=_NEW_TOKEN)
        identity = PublicIdentity.checked(message.signing, message.exchange)
        try:
            identity.verify(
                message.proof, enroll_proof(message.token_id, message.signing, message.exchange, message.name)
            )
        except BadSignature as error:
            raise Unauthenticated("the device did not prove that it holds the key it names") from error
        known = tx.device(identity.device)
        if known is not None:
            _check_known(known, token, identity)
            return Joined(known, wrapped_keys(self._keys, token.fleet, identity), again=True)
        _check_name(message.name, "device")
        now_ms = self._clock.wall_ms()
        if now_ms >= token.expires_ms:
            raise Refused("the join token has expired", hint=_NEW_TOKEN)
        try:
            wrapped = wrapped_keys(self._keys, token.fleet, identity)
        except ValueError as error:  # the library's word for an X25519 point that gives no secret
            raise Malformed("this X25519 public key has small order", hint="create a new device key") from error
        if not tx.use_token(token.token_id):
            raise Refused("the join token is used up", hint=_NEW_TOKEN)
        row = DeviceRow(
            fleet=token.fleet,
            device=identity.device,
            signing=identity.signing,
            exchange=identity.exchange,
            name=message.name,
            priority=0,
            enrolled_ms=now_ms,
            token_id=token.token_id,
            revoked_ms=0,
        )
        tx.put_devices([row])
        return Joined(row, wrapped, again=False)

    def _note(
        self,
        tx: Transaction,
        token: TokenRow | None,
        message: Enroll,
        joined: Joined | None,
        refusal: AgentDBError | None,
    ) -> None:
        device = sha256(message.signing).digest()[:DEVICE_BYTES].hex()
        if token is None:
            logger.warning("enrollment of %s refused: unknown token id %s", device, message.token_id.hex())
            return
        details = {"token": token.token_id.hex(), "name": message.name}
        if joined is None:
            reason = refusal.message if refusal else ""
            self._audit(tx, token.fleet, "device.refused", device, f"device {device}", **details, reason=reason)
        else:
            action = "device.rejoined" if joined.again else "device.enrolled"
            self._audit(tx, token.fleet, action, device, f"device {device}", **details)

    # -- the roster -----------------------------------------------------------------------------------------------

    def devices(self, fleet: bytes) -> list[DeviceRow]:
        with self._store.reading() as view:
            return view.devices(fleet)

    def set_priority(self, fleet: bytes, device: bytes, priority: int) -> DeviceRow:
        """Raises NotFound, InvalidValue."""
        if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
            raise InvalidValue(f"a priority lies between -{PRIORITY_MAX} and {PRIORITY_MAX}")
        with self._store.writing() as tx:
            row = _member(tx, fleet, device)._replace(priority=priority)
            tx.put_devices([row])
            self._audit(tx, fleet, "device.priority", device.hex(), priority=priority)
        return row

    def revoke(self, fleet: bytes, device: bytes, *, reason: str = "") -> DeviceRow:
        """No request of this device is accepted from now on. What the cloud holds of its replicas stays, and nothing is
        added: revocation is by (replica, seq), never by a time that a device could claim. Then the fleet gets a new
        epoch key, which this device is not given. Raises NotFound. Revoking twice changes nothing, but for that key if
        the first time failed before there was one.
        """
        because = f"device {device.hex()} revoked"
        with self._store.writing() as tx:
            row = _member(tx, fleet, device)
            if not row.revoked_ms:
                row = row._replace(revoked_ms=self._clock.wall_ms())
                tx.lock_head(fleet)  # no push between what we read and the bound
                held = [held for held in tx.replicas(fleet) if device_of(held.replica) == device]
                tx.revoke(fleet, device, row.revoked_ms, {replica.replica: replica.last_seq for replica in held})
                self._audit(tx, fleet, "device.revoked", device.hex(), reason=reason)
            elif any(epoch.reason == because for epoch in tx.epochs(fleet)):
                return row
        self.rotate(fleet, because)
        return row

    def _audit(
        self, tx: Transaction, fleet: bytes, action: str, subject: str, actor: str = "operator", **details: Any
    ) -> None:
        audit.record(tx, fleet, self._clock.wall_ms(), actor, action, subject, **details)


def wrapped_keys(
    keys: KeyService,
    fleet: bytes,
    recipient: PublicIdentity,
    epochs: Sequence[int] | None = None,
    *,
    without: Sequence[int] = (),
) -> list[WrappedKey]:
    """The fleet's epoch keys (the newest ``EPOCHS_SENT_MAX`` unless some are named), each wrapped to one member, but
    for those that it has already.
    """
    ring: KeyRing = keys.ring(fleet)
    chosen = ring.epochs()[-EPOCHS_SENT_MAX:] if epochs is None else epochs
    had = set(without)
    chosen = [epoch for epoch in chosen if epoch not in had]
    return [WrappedKey(epoch, wrap(ring.key(epoch), recipient, fleet, epoch)) for epoch in chosen]


def _check_known(known: DeviceRow, token: TokenRow, identity: PublicIdentity) -> None:
    """A key that is in a roster already and has proved itself, with a token whose secret was right. Raises Refused."""
    if known.fleet != token.fleet:
        raise Refused("this key belongs to another fleet", hint="create a new device key")
    if known.revoked_ms:
        raise Refused("this device was revoked", hint="create a new device key, and ask for a token")
    if known.identity != identity:
        raise Refused("this signing key is enrolled with another exchange key", hint="create a new device key")


def _member(tx: Transaction, fleet: bytes, device: bytes) -> DeviceRow:
    row = tx.device(device)
    if row is None or row.fleet != fleet:
        raise NotFound(f"no device {device.hex()} in this fleet", hint="agentdb-cloud devices lists them")
    return row


def _check_name(name: str, what: str) -> None:
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidValue(f"a {what}'s name has 1 to {NAME_CHARACTERS_MAX} printable characters")


def _hash(secret: bytes) -> bytes:
    return sha256(b"agentdb.token.v1" + secret).digest()
