"""What a fleet's offline keys have signed: TUF metadata, verified without I/O and without a clock.

``TrustedSet`` is a value: what is trusted, as bytes and what they say. ``update`` makes the next one or raises, and the
old one stays as it was. It follows the client workflow of the TUF specification 1.0 (§5.3 to §5.6), file by file with
``sync.metadata``; a test holds it against python-tuf's own ``TrustedMetadataSet``, which reads a clock and imports an
HTTP client. What we ask beyond it: each root carries this fleet's id, keys are Ed25519 and have one id each, each file
names the next by SHA-256, and only ``targets`` delegates.

Sizes are looked at before anything is parsed. *now* is what the caller says; expiry stops ``update``, and nothing else.

This module takes 80 ms to import (python-tuf, and all its signers): import it where it is used, never at the top.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from sync.errors import Malformed, NotFound, Refused, TooLarge, Untrusted
from sync.limits import ROLES_MAX, ROOTS_MAX
from sync.metadata import (
    ASK,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    check_keys,
    check_named,
    check_rise,
    check_size,
    check_time,
    check_version,
    expires_ms,
    floor_of,
    is_by,
    is_signed,
    read_root,
    read_signed,
    target_info,
)
from sync.targets import TargetInfo, TargetName, parse_path

_ROLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Offer(NamedTuple):
    """Metadata that a peer sends, only what differs from what is held. Empty bytes: not sent."""

    roots: Sequence[bytes] = ()
    timestamp: bytes = b""
    snapshot: bytes = b""
    roles: Mapping[str, bytes] = {}


class TrustedSet:
    """Made by ``pinned``, ``load`` or ``update``. A new fleet's has a root and nothing else; see ``whole``."""

    def __init__(
        self,
        fleet: bytes,
        root: tuple[bytes, Root],
        timestamp: tuple[bytes, Timestamp] | None = None,
        snapshot: tuple[bytes, Snapshot] | None = None,
        roles: Mapping[str, tuple[bytes, Targets]] | None = None,
        spare: Mapping[str, bytes] | None = None,
    ) -> None:
        self.fleet = fleet
        self._root = root
        self._timestamp = timestamp
        self._snapshot = snapshot
        self._roles = dict(roles or {})
        # Of roles that nothing names after new roots came alone: the next snapshot may name the same bytes again.
        self._spare = dict(spare or {})
        self._floors: dict[tuple[str, str, str], int] = {}  # each costs a look at all that its role lists

    @staticmethod
    def load(stored: Mapping[str, bytes], fleet: bytes) -> TrustedSet:
        """What ``stored()`` gave, each verified again under the newest root. Expiry is not looked at.

        Raises Untrusted: these bytes are not the ones that were stored. What is left is then ``load`` of the root
        alone; the rest is fetched again.
        """
        data = stored.get(ROOT)
        if data is None:
            raise Untrusted("root: there is none", hint="pin the fleet's first root: agentdb-edge trust pin")
        root = read_root(data, fleet, None)
        timestamp = snapshot = None
        if TIMESTAMP in stored:
            timestamp = (stored[TIMESTAMP], read_signed(Timestamp, stored[TIMESTAMP], TIMESTAMP, root))
        if SNAPSHOT in stored:
            snapshot = (stored[SNAPSHOT], read_signed(Snapshot, stored[SNAPSHOT], SNAPSHOT, root))
        roles = {}
        if TARGETS in stored:
            if timestamp is None or snapshot is None:
                raise Untrusted("targets: stored without what names it", hint="fetch the fleet's metadata again")
            check_named(SNAPSHOT, timestamp[1].snapshot_meta, snapshot[0])
            check_version(SNAPSHOT, snapshot[1], timestamp[1].snapshot_meta)
            roles = _delegated(root, snapshot[1], stored, None)
        return TrustedSet(fleet, (data, root), timestamp, snapshot, roles)

    def stored(self) -> dict[str, bytes]:
        """The bytes to keep, by the names of their roles; ``load`` takes them."""
        return {name: data for name, (data, _) in self._parts()}

    def versions(self) -> dict[str, int]:
        """Of each role that is held, for asking only for what is newer."""
        return {name: signed.version for name, (_, signed) in self._parts()}

    @property
    def whole(self) -> bool:
        """Whether all is there that a target needs: after a change of keys it may not be, until the next update."""
        return self._timestamp is not None and self._snapshot is not None and TARGETS in self._roles

    @property
    def snapshot_version(self) -> int:
        """0 if there is none."""
        return self._snapshot[1].version if self._snapshot is not None else 0

    def expired(self, now_ms: int) -> tuple[str, ...]:
        """The roles whose time is over, for status."""
        return tuple(name for name, (_, signed) in self._parts() if expires_ms(signed) <= now_ms)

    def expires_ms(self, role: str) -> int:
        """When. Raises NotFound if the role is not held."""
        for name, (_, signed) in self._parts():
            if name == role:
                return expires_ms(signed)
        raise NotFound(f"no metadata of the role {role!r}", hint="status names the roles that are held")

    def update(self, offered: Offer, now_ms: int) -> TrustedSet:
        """The next set. Roots alone are taken alone, and what they still vouch for is kept; else the result is whole.

        Raises TooLarge before anything is parsed; Untrusted for what is forged, malformed, older than what is held, or
        does not fit together; Expired for what is past its time at ``now_ms``.
        """
        _check_sizes(offered)
        data, root = self._root
        for new_data in offered.roots:
            data, root = new_data, read_root(new_data, self.fleet, root)
        held = self._vouched(root)
        bytes_held = {**self._spare, **{name: role for name, (role, _) in self._roles.items()}}
        if offered.roots and not (offered.timestamp or offered.snapshot or offered.roles):
            return TrustedSet(self.fleet, (data, root), *held, spare=bytes_held)
        check_time(ROOT, root, now_ms)
        timestamp = _next_timestamp(root, held.timestamp, offered.timestamp)
        check_time(TIMESTAMP, timestamp[1], now_ms)
        snapshot = _next_snapshot(root, held.snapshot, offered.snapshot, timestamp[1].snapshot_meta, now_ms)
        roles = _delegated(root, snapshot[1], {**bytes_held, **offered.roles}, now_ms)
        strange = sorted(offered.roles.keys() - roles.keys())
        if strange:
            raise Untrusted(f"{strange[0]}: no role that is delegated to and in the snapshot", hint=ASK)
        return TrustedSet(self.fleet, (data, root), timestamp, snapshot, roles)

    def target(self, path: str) -> TargetInfo:
        """By delegation, in its order; a terminating role's answer is final (TUF §5.6.7).

        Raises Malformed for what is no path, NotFound if it is not listed, Refused if what is listed says too little.
        """
        wanted = parse_path(path)
        if TARGETS in self._roles:
            targets = self._roles[TARGETS][1]
            order = [(TARGETS, True)] if path in targets.targets else []
            if not order and targets.delegations is not None:
                order = list(targets.delegations.get_roles_for_target(path))
            for name, terminating in order:
                role = self._roles.get(name)
                if role is not None and path in role[1].targets:
                    return target_info(wanted, name, role[1].targets, self._floor(name, wanted))
                if terminating:
                    break
        raise NotFound(
            f"{path} is not among the fleet's signed targets",
            hint="agentdb-cloud trust add-target signs it; agentdb-cloud publish hands over what is signed",
        )

    def listed(self) -> list[TargetInfo]:
        """All that ``target`` finds, in the order of kind, name and number: for operators."""
        found = []
        paths = {path for _, role in self._roles.values() for path in role.targets}
        for path in sorted(paths):
            try:
                found.append(self.target(path))
            except (NotFound, Refused, Malformed):
                continue  # listed outside its role's delegation, or without its number: no device takes it either
        return sorted(found)

    def verify_online(self, message: bytes, signatures: Sequence[bytes]) -> None:
        """Enough of the keys of *timestamp* signed ``message``. Raises Untrusted."""
        role = self._root[1].roles[TIMESTAMP]
        keys = [self._root[1].keys[keyid] for keyid in role.keyids if keyid in self._root[1].keys]
        good = sum(any(is_by(key, message, signature) for signature in signatures) for key in keys)
        if good < role.threshold:
            raise Untrusted(f"signed by {good} of {role.threshold} keys that sign online for this fleet", hint=ASK)

    def _floor(self, role: str, wanted: TargetName) -> int:
        asked = (role, wanted.kind, wanted.name)
        if asked not in self._floors:
            self._floors[asked] = floor_of(wanted, self._roles[role][1].targets)
        return self._floors[asked]

    def _parts(self) -> Iterable[tuple[str, tuple[bytes, Signed]]]:
        yield ROOT, self._root
        if self._timestamp is not None:
            yield TIMESTAMP, self._timestamp
        if self._snapshot is not None:
            yield SNAPSHOT, self._snapshot
        yield from self._roles.items()

    def _vouched(self, root: Root) -> _Held:
        """What is held and this root vouches for. The rest is no floor any more: this is how a fast-forward by a stolen
        key is undone (TUF §5.3.11).
        """
        if root is self._root[1]:
            return _Held(self._timestamp, self._snapshot, self._roles)
        timestamp, snapshot = self._timestamp, self._snapshot
        if timestamp is not None and not is_signed(Timestamp, timestamp[0], TIMESTAMP, root):
            timestamp = None
        if snapshot is not None and not is_signed(Snapshot, snapshot[0], SNAPSHOT, root):
            snapshot = None
        whole = self.whole and timestamp is not None and snapshot is not None
        roles = self._roles if whole and is_signed(Targets, self._roles[TARGETS][0], TARGETS, root) else {}
        return _Held(timestamp, snapshot, roles)


class _Held(NamedTuple):
    timestamp: tuple[bytes, Timestamp] | None
    snapshot: tuple[bytes, Snapshot] | None
    roles: Mapping[str, tuple[bytes, Targets]]


def pinned(root: bytes, digest: bytes, fleet: bytes) -> TrustedSet:
    """The set that begins with a fleet's first root, known by its SHA-256 (32 bytes).

    Raises TooLarge; Untrusted if it is another one, does not sign itself, or is another fleet's.
    """
    check_size(ROOT, root)
    if sha256(root).digest() != digest:
        raise Untrusted("root: not the one whose digest was given", hint=ASK)
    return TrustedSet.load({ROOT: root}, fleet)


def _check_sizes(offered: Offer) -> None:
    if len(offered.roots) > ROOTS_MAX or len(offered.roles) > ROLES_MAX + 1:
        raise TooLarge(f"more than {ROOTS_MAX} roots or {ROLES_MAX} roles at once")
    for name, data in (
        *((ROOT, root) for root in offered.roots),
        (TIMESTAMP, offered.timestamp),
        (SNAPSHOT, offered.snapshot),
        *offered.roles.items(),
    ):
        check_size(name, data)


def _next_timestamp(root: Root, held: tuple[bytes, Timestamp] | None, data: bytes) -> tuple[bytes, Timestamp]:
    if not data:
        if held is None:
            raise Untrusted("timestamp: not sent, and none is held", hint="fetch the fleet's metadata whole")
        return held
    new = read_signed(Timestamp, data, TIMESTAMP, root)
    if held is not None:
        check_rise(TIMESTAMP, new.version, held[1].version)
        if new.version == held[1].version:
            return held
        check_rise(SNAPSHOT, new.snapshot_meta.version, held[1].snapshot_meta.version)
    return data, new


def _next_snapshot(
    root: Root, held: tuple[bytes, Snapshot] | None, data: bytes, named: MetaFile, now_ms: int
) -> tuple[bytes, Snapshot]:
    if not data:
        if held is None:
            raise Untrusted("snapshot: not sent, and none is held", hint="fetch the fleet's metadata whole")
        data = held[0]
    check_named(SNAPSHOT, named, data)
    new = read_signed(Snapshot, data, SNAPSHOT, root)
    if held is not None:
        for name, before in held[1].meta.items():
            after = new.meta.get(name)
            if after is None:
                raise Untrusted(f"snapshot: {name[:64]} is not in it any more", hint=ASK)
            check_rise(name[:64], after.version, before.version)
    check_time(SNAPSHOT, new, now_ms)
    check_version(SNAPSHOT, new, named)
    return data, new


def _delegated(
    root: Root, snapshot: Snapshot, data: Mapping[str, bytes], now_ms: int | None
) -> dict[str, tuple[bytes, Targets]]:
    """``targets``, then what it delegates to and the snapshot names, in the order of the delegation. A role that is
    delegated to and was never signed lists nothing.
    """
    targets = _role(TARGETS, root, snapshot, data, now_ms)
    roles = {TARGETS: targets}
    delegations = targets[1].delegations
    if delegations is None:
        return roles
    if delegations.roles is None or len(delegations.roles) > ROLES_MAX:
        raise Untrusted(f"targets: delegates by hash, or to more than {ROLES_MAX} roles", hint=ASK)
    check_keys(TARGETS, delegations.keys)
    for name in delegations.roles:
        if not isinstance(name, str) or not _ROLE_NAME.fullmatch(name):
            raise Untrusted("targets: delegates to what is no name of a role", hint=ASK)
        if f"{name}.json" in snapshot.meta:
            roles[name] = _role(name, targets[1], snapshot, data, now_ms)
            if roles[name][1].delegations is not None:
                raise Untrusted(f"{name}: delegates, which only targets may", hint=ASK)
    return roles


def _role(
    name: str, by: Root | Targets, snapshot: Snapshot, available: Mapping[str, bytes], now_ms: int | None
) -> tuple[bytes, Targets]:
    named, data = snapshot.meta.get(f"{name}.json"), available.get(name)
    if named is None:
        raise Untrusted(f"{name}: the snapshot does not name it", hint=ASK)
    if data is None:
        raise Untrusted(f"{name}: not sent, and none is held", hint="fetch the fleet's metadata whole")
    check_named(name, named, data)
    role = read_signed(Targets, data, name, by)
    check_version(name, role, named)
    if now_ms is not None:
        check_time(name, role, now_ms)
    return data, role
