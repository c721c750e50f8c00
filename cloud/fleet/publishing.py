"""Taking what was signed offline, and keeping its timestamp fresh.

A repository (``agentdb-cloud trust`` makes it) is roots, roles of targets, and the targets' bytes. ``publish`` signs a
snapshot and a timestamp beside it, then verifies all of it as a device would before a byte is stored. What always
holds: what is stored verifies under its newest root, whole; what a device may be given is listed, and its bytes are
here; versions only rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from cloud.control_rows import TargetRow, TrustRow
from cloud.fleet import choices
from cloud.fleet.documents import check_document
from cloud.fleet.trusting import ROOT, SNAPSHOT, TIMESTAMP, newest
from cloud.ports import Reading, Transaction
from sync.errors import InvalidValue, NotFound, Refused, TooLarge
from sync.limits import AHEAD_MAX, ROLES_BYTES_MAX, TARGET_BYTES_MAX
from sync.models import Manifest
from sync.targets import parse_path

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey
    from sync.manifests import TrustedSet

TIMESTAMP_MS = 7 * 86_400_000
SNAPSHOT_MS = 365 * 86_400_000
# More than may have been signed after the manifest that was restored from: none of those versions is given out twice.
_LOST_MAX = 10_000
KEY_HINT = "agentdb-cloud publish DIR TRUST --online-key FILE puts the key there that the root names"


class Repository(NamedTuple):
    """``roots`` in ascending order of their versions, those that are held already may be among them; ``roles`` by their
    names, ``targets`` by their paths, without what is held if that is convenient. ``assigned``: paths of what the whole
    fleet runs from now on, by the same commit.
    """

    roots: Sequence[bytes]
    roles: Mapping[str, bytes]
    targets: Mapping[str, bytes]
    assigned: Sequence[str] = ()


class Published(NamedTuple):
    """Versions of what was published, and how many roots and targets were new."""

    root: int
    snapshot: int
    timestamp: int
    roots: int
    targets: int


def publish(tx: Transaction, fleet: bytes, repository: Repository, key: SigningKey, now_ms: int) -> Published:
    """Verify and store. Raises Untrusted and Expired as a device would; NotFound for a target that is listed and whose
    bytes are nowhere, InvalidValue for one that no device would take; TooLarge; Refused if something that is assigned
    would not be listed any more, or be below its floor. What it is to be ``assigned`` raises as ``ControlDesk.goal``.
    """
    from sync.manifests import TrustedSet

    held = {name: row.data for name, row in newest(tx, fleet).items()}
    fresh = _new_roots(tx, fleet, repository.roots)
    if not held:
        if not fresh or fresh[0].version != 1:
            raise InvalidValue("the first root is not in it", hint="agentdb-cloud trust init makes it; all are kept")
        held = {ROOT: fresh[0].data}
    return _store(tx, TrustedSet.load(held, fleet), fresh, repository, key, now_ms)


def _store(
    tx: Transaction,
    before: TrustedSet,
    fresh: Sequence[TrustRow],
    repository: Repository,
    key: SigningKey,
    now_ms: int,
) -> Published:
    from sync.manifests import Offer

    fleet = before.fleet
    rooted = before
    for row in fresh:
        if row.version > before.versions()[ROOT]:
            rooted = rooted.update(Offer([row.data]), now_ms)
    held = _roles_of(before)
    roles = {**held, **repository.roles}
    size = sum(map(len, roles.values()))
    if size > ROLES_BYTES_MAX:
        raise TooLarge(
            f"the metadata of all roles is {size:,} bytes, and devices take {ROLES_BYTES_MAX:,} at once",
            hint="agentdb-cloud trust prune; publish what is left first where that was delegated",
        )
    snapshot = before.stored().get(SNAPSHOT, b"")
    anew = bool(fresh) or roles != held
    offer = _signed_online(rooted, roles, key, now_ms, before.versions(), snapshot, anew=anew)
    trusted = rooted.update(Offer((), *offer, roles), now_ms)
    targets = _targets(tx, trusted, repository.targets)
    for path in repository.assigned:
        trusted.target(path)  # raises NotFound for what is not listed
        choices.check_room(tx, fleet, path)
        choices.set_channel(tx, fleet, parse_path(path).place, path, now_ms)
    _check_named(tx, trusted)
    versions = trusted.versions()
    stored = trusted.stored()
    tx.put_trust(fleet, fresh)
    tx.put_trust(fleet, [TrustRow(name, versions[name], stored[name]) for name in versions if name != ROOT])
    tx.add_targets(fleet, targets)
    tx.touch_control(fleet)
    return Published(versions[ROOT], versions[SNAPSHOT], versions[TIMESTAMP], len(fresh), len(targets))


def sign_again(
    tx: Transaction, fleet: bytes, key: SigningKey, now_ms: int, least: Mapping[str, int] | None = None
) -> bool:
    """Sign timestamp, and snapshot, anew if half of its time is over, or if its version is not above ``least``. False
    if there was nothing to do. Raises Untrusted, Expired, Refused.
    """
    from sync.manifests import Offer, TrustedSet

    held = {name: row.data for name, row in newest(tx, fleet).items()}
    if not held:
        return False
    trusted = TrustedSet.load(held, fleet)
    versions = trusted.versions()
    floors = {name: _believed(versions.get(name, 0), (least or {}).get(name, 0)) for name in (SNAPSHOT, TIMESTAMP)}
    lives = {SNAPSHOT: SNAPSHOT_MS, TIMESTAMP: TIMESTAMP_MS}
    due = {
        name
        for name, life_ms in lives.items()
        if floors[name] > versions.get(name, 0) or _is_due(trusted, name, life_ms, now_ms)
    }
    if not due:
        return False
    roles = _roles_of(trusted)
    timestamp, snapshot = _signed_online(
        trusted, roles, key, now_ms, floors, held.get(SNAPSHOT, b""), anew=SNAPSHOT in due
    )
    after = trusted.update(Offer((), timestamp, snapshot), now_ms)
    stored, versions = after.stored(), after.versions()
    tx.put_trust(fleet, [TrustRow(name, versions[name], stored[name]) for name in (SNAPSHOT, TIMESTAMP)])
    tx.touch_control(fleet)
    return True


def sign_past_what_was_lost(
    tx: Transaction, fleet: bytes, key: SigningKey, now_ms: int, seen: Mapping[str, int] | None = None
) -> bool:
    """After a restore: devices may hold versions that this control plane has lost. Other bytes of the same version
    would never be asked for, and all that follows them be refused. So far on that once is enough for all devices, and
    past what one has ``seen``. False without trust. Raises as ``sign_again``.
    """
    seen, versions = seen or {}, {}
    for name, row in newest(tx, fleet).items():
        versions[name] = max(row.version + _LOST_MAX, _believed(row.version, seen.get(name, 0)))
    return sign_again(tx, fleet, key, now_ms, versions)


def is_ahead(view: Reading, fleet: bytes, seen: Mapping[str, int]) -> bool:
    """Whether a device says that it has seen a timestamp or a snapshot that is not held here, and may be believed."""
    return any(
        _believed(version, seen.get(name, 0)) > version
        for name, version in view.trust_versions(fleet)
        if name in (SNAPSHOT, TIMESTAMP)
    )


def _is_due(trusted: TrustedSet, name: str, life_ms: int, now_ms: int) -> bool:
    try:
        return trusted.expires_ms(name) - now_ms < life_ms // 2
    except NotFound:
        return True


def _believed(held: int, seen: int) -> int:
    """A device may push its own numbers up, not everybody's without end."""
    return seen if held < seen <= held + AHEAD_MAX else held


def _roles_of(trusted: TrustedSet) -> dict[str, bytes]:
    return {name: data for name, data in trusted.stored().items() if name not in (ROOT, TIMESTAMP, SNAPSHOT)}


def _signed_online(
    trusted: TrustedSet,
    roles: Mapping[str, bytes],
    key: SigningKey,
    now_ms: int,
    above: Mapping[str, int],
    before: bytes,
    *,
    anew: bool,
) -> tuple[bytes, bytes]:
    """Timestamp and snapshot, of versions ``above`` those. The snapshot ``before`` stays if not ``anew``."""
    from cloud.fleet.signing import ONLINE, make_snapshot, make_timestamp, root_keys

    named = root_keys(trusted.stored()[ROOT])[ONLINE]
    if key.public not in named.keys:
        raise Refused("this root gives timestamp and snapshot to another key than the control plane's", hint=KEY_HINT)
    if named.threshold > 1:
        raise Refused(f"this root wants {named.threshold} keys online, and there is one", hint="rotate online to one")
    snapshot = trusted.stored().get(SNAPSHOT, b"")
    if anew or not snapshot:
        snapshot = make_snapshot(roles, above.get(SNAPSHOT, 0) + 1, now_ms + SNAPSHOT_MS, key, before)
    return make_timestamp(snapshot, above.get(TIMESTAMP, 0) + 1, now_ms + TIMESTAMP_MS, key), snapshot


def _new_roots(view: Reading, fleet: bytes, roots: Sequence[bytes]) -> list[TrustRow]:
    """Those that are not held. Raises Refused for another of a version that is, or that is among them."""
    from cloud.fleet.signing import version_of

    found: dict[int, TrustRow] = {}
    for data in roots:
        version = version_of(data)
        row = view.trust(fleet, ROOT, version) if version > 0 else None
        if row is not None and row.data != data:
            raise Refused(f"another root of version {version} is published already", hint="is this another fleet's?")
        if row is None and found.setdefault(version, TrustRow(ROOT, version, data)).data != data:
            raise Refused(f"there are two roots of version {version}", hint="publish the one that devices are to pin")
    return sorted(found.values(), key=lambda row: row.version)


def _targets(view: Reading, trusted: TrustedSet, given: Mapping[str, bytes]) -> list[TargetRow]:
    """Those that are new. Everything that is listed must be at hand."""
    found = []
    for info in trusted.listed():
        row = view.target(trusted.fleet, info.sha256)
        if row is not None:
            if row.path != info.path:
                _check_runs(view, trusted.fleet, info.path, row.data)
            continue
        data = given.get(info.path)
        if data is None:
            raise NotFound(f"{info.path} is listed, and its bytes are not here", hint="publish the whole repository")
        if len(data) > TARGET_BYTES_MAX:
            raise TooLarge(f"{info.path} has {len(data)} bytes, over {TARGET_BYTES_MAX}")
        if len(data) != info.length or sha256(data).digest() != info.sha256:
            raise Refused(f"{info.path} is not what was signed", hint="sign it as it is now, under a new number")
        _check_runs(view, trusted.fleet, info.path, data)
        found.append(TargetRow(0, info.sha256, info.path, data))
    return found


def _check_runs(view: Reading, fleet: bytes, path: str, data: bytes) -> None:
    """Raises InvalidValue, NotFound: it would be refused by every device, or could be fetched by none."""
    read = check_document(path, data)
    if not isinstance(read, Manifest) or not read.chunks.count:
        return
    if view.target(fleet, bytes.fromhex(read.chunks.sha256)) is None:
        raise NotFound(f"{path}: the model was not published here", hint="agentdb-cloud models publish, with this DIR")


def _check_named(view: Reading, trusted: TrustedSet) -> None:
    """What devices may be given stays listed. Raises Refused."""
    for path in sorted(choices.named_paths(view, trusted.fleet)):
        try:
            info = trusted.target(path)
        except NotFound as error:
            raise Refused(f"{path} is assigned, and is not listed any more", hint="assign another first") from error
        if info.number < info.floor:
            raise Refused(
                f"{path} is assigned, and would be below its floor, {info.floor}",
                hint="assign a newer number first; or with it: agentdb-cloud publish DIR TRUST --assign PATH",
            )
