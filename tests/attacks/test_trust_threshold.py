"""Too few signatures: of one of two, of one key twice, of a root that only its past or only its future signed."""

from __future__ import annotations

import pytest
from tuf.api.exceptions import BadVersionNumberError, RepositoryError, UnsignedMetadataError

from sync.errors import Untrusted
from sync.manifests import Offer
from tests.attacks.trust_updater import WORLD, Updater, refused
from tests.trust_world import DAY_MS, NOW_MS, PrivateKey, World, named, signed, with_signatures
from tests.trust_world import at as moment

OTHERS = WORLD.but(roots=tuple(PrivateKey(number) for number in (4, 5, 6)))


def set_with(role: str, data: bytes) -> Offer:
    """A set of version 3 in which the thief of the online key names these bytes as the role's."""
    from tuf.api.metadata import Snapshot

    roles = {**WORLD.offer(3).roles, role: data}
    snapshot = Snapshot(version=3, expires=moment(NOW_MS + 30 * DAY_MS))
    snapshot.meta = {f"{name}.json": named(3, each) for name, each in roles.items()}
    snapshot_bytes = signed(snapshot, [WORLD.online])
    return Offer((), WORLD.timestamp(3, snapshot_bytes), snapshot_bytes, roles)


def test_one_of_two_that_a_role_needs(updater: Updater) -> None:
    role = WORLD.offer(3).roles["policies"]
    for keep in (slice(0, 1), slice(1, 2), slice(0, 0)):
        offer = set_with("policies", with_signatures(role, lambda entries, keep=keep: entries[keep]))  # type: ignore[misc]
        refused(updater, Untrusted, offer, match=r"policies: .*[01]/2 keys", theirs=UnsignedMetadataError)


def test_the_same_key_twice(updater: Updater) -> None:
    role = WORLD.offer(3).roles["policies"]
    offer = set_with("policies", with_signatures(role, lambda entries: entries[:1] * 2))
    refused(updater, Untrusted, offer, match="policies: not TUF metadata", theirs=RepositoryError)

    def copied(entries: list[dict[str, str]]) -> list[dict[str, str]]:
        return [entries[0], {**entries[0], "keyid": entries[1]["keyid"]}]

    offer = set_with("policies", with_signatures(role, copied))
    refused(updater, Untrusted, offer, match="policies: .*1/2 keys", theirs=UnsignedMetadataError)


@pytest.mark.parametrize("role", ["targets", "policies", "models"])
def test_a_role_that_the_online_key_alone_signed(updater: Updater, role: str) -> None:
    thief = {role: (WORLD.online,)}
    data = WORLD.but(**thief).offer(3).roles[role]
    refused(updater, Untrusted, set_with(role, data), match=f"{role}: .*0/", theirs=UnsignedMetadataError)


def test_a_delegate_that_signs_as_another(updater: Updater) -> None:
    data = WORLD.but(models=WORLD.policies).offer(3).roles["models"]
    refused(updater, Untrusted, set_with("models", data), match="models: .*0/1 keys", theirs=UnsignedMetadataError)


def root_round(world: World, root: bytes) -> Offer:
    return world.offer(3, roots=(root,))


def test_a_root_by_the_old_keys_alone_or_the_new_alone(updater: Updater) -> None:
    for signers in (WORLD.roots, OTHERS.roots, (*WORLD.roots, OTHERS.roots[0]), (WORLD.roots[0], *OTHERS.roots)):
        offer = root_round(OTHERS, OTHERS.root(2, by=signers))
        refused(updater, Untrusted, offer, match="root: .*[01]/2 keys", theirs=UnsignedMetadataError)
    good = OTHERS.root(2, by=(*WORLD.roots[:2], *OTHERS.roots[1:]))
    updater.accept(root_round(OTHERS, good), None, {}, NOW_MS)


def test_a_root_of_too_few(updater: Updater) -> None:
    for signers in (WORLD.roots[:1], WORLD.roots[:1] * 2, ()):
        offer = root_round(WORLD, WORLD.root(2, by=signers))
        refused(updater, Untrusted, offer, match="root: .*[01]/2 keys", theirs=UnsignedMetadataError)


def test_a_root_that_lowers_its_own_threshold(updater: Updater) -> None:
    """It is signed enough by its own account, and not by that of the one before."""
    weak = WORLD.but(root_threshold=1, roots=WORLD.roots[:1])
    refused(updater, Untrusted, root_round(weak, weak.root(2)), match="root: .*1/2", theirs=UnsignedMetadataError)


def test_a_root_that_skips_a_version_or_repeats_one(updater: Updater) -> None:
    for version in (1, 3, 10**9):
        offer = root_round(WORLD, WORLD.root(version))
        refused(updater, Untrusted, offer, match="does not follow 1", theirs=BadVersionNumberError)


def test_an_assignment_by_any_key_but_the_online_one(updater: Updater) -> None:
    from sync.assignments import seal

    for key in (*WORLD.roots, *WORLD.targets, *WORLD.policies, *WORLD.models, PrivateKey(99)):
        sealed = seal(WORLD.assignment(3, snapshot=2), key)
        refused(updater, Untrusted, Offer(), sealed, match="assignment: not signed")
