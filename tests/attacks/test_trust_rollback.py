"""Rollback and fast-forward: what is older than what is held is refused, and what was set far ahead can be undone."""

from __future__ import annotations

import pytest
from tuf.api.exceptions import BadVersionNumberError

from sync.errors import Untrusted
from sync.manifests import Offer
from tests.attacks.trust_updater import NEW, OLD, WORLD, Updater, refused
from tests.trust_world import DAY_MS, NOW_MS, PrivateKey, named, signed
from tests.trust_world import at as moment


def test_an_older_timestamp(updater: Updater) -> None:
    refused(updater, Untrusted, WORLD.offer(1), match="timestamp: version 1", theirs=BadVersionNumberError)


def test_a_newer_timestamp_of_an_older_snapshot(updater: Updater) -> None:
    old = WORLD.offer(1)
    offer = old._replace(timestamp=WORLD.timestamp(3, old.snapshot, snapshot_version=1))
    refused(updater, Untrusted, offer, match="snapshot: version 1 is older", theirs=BadVersionNumberError)


@pytest.mark.parametrize("role", ["targets", "policies", "models"])
def test_a_newer_snapshot_of_an_older_role(updater: Updater, role: str) -> None:
    from tuf.api.metadata import Snapshot

    good, old = WORLD.offer(3), WORLD.offer(1)
    roles = {**good.roles, role: old.roles[role]}
    snapshot = Snapshot(version=3, expires=moment(NOW_MS + 30 * DAY_MS))
    snapshot.meta = {f"{name}.json": named(1 if name == role else 3, data) for name, data in roles.items()}
    data = signed(snapshot, [WORLD.online])
    offer = Offer((), WORLD.timestamp(3, data), data, roles)
    refused(updater, Untrusted, offer, match=f"{role}.json: version 1 is older", theirs=BadVersionNumberError)


def test_a_snapshot_that_forgets_a_role(updater: Updater) -> None:
    from tuf.api.exceptions import RepositoryError

    world = WORLD.but(change=lambda name, what: what.meta.pop("models.json") if name == "snapshot" else None)
    refused(updater, Untrusted, world.offer(3), match="models.json is not in it", theirs=RepositoryError)


def test_an_older_assignment_or_the_same_again(updater: Updater) -> None:
    for number in (1, 2):
        sealed = WORLD.sealed(number, snapshot=2, policy=WORLD.assigned(OLD))
        refused(updater, Untrusted, Offer(), sealed, match="not newer")
    updater.accept(Offer(), WORLD.sealed(3, snapshot=2, policy=WORLD.assigned(OLD)), WORLD.documents, NOW_MS)
    assert updater.running() == {OLD: WORLD.documents[OLD]}, "an operator may go back: by a newer assignment"


def test_an_assignment_of_an_older_snapshot(updater: Updater) -> None:
    sealed = WORLD.sealed(3, snapshot=1, policy=WORLD.assigned(OLD))
    refused(updater, Untrusted, WORLD.offer(2), sealed, match="beside snapshot 1")
    refused(updater, Untrusted, WORLD.offer(3), WORLD.sealed(3, snapshot=2), match="beside snapshot 2")


def test_metadata_that_was_right_stays_though_the_assignment_was_not(updater: Updater) -> None:
    refused(updater, Untrusted, WORLD.offer(3), WORLD.sealed(1, snapshot=3), match="not newer")
    refused(updater, Untrusted, WORLD.offer(2), match="timestamp: version 2", theirs=BadVersionNumberError)


def test_fast_forward_by_a_stolen_online_key_is_undone_by_another_key(updater: Updater) -> None:
    """Versions, the number of the assignment and the time in it: all are set as far ahead as they go."""
    far = 10**9
    late = NOW_MS + 29 * DAY_MS
    ahead = WORLD.sealed(2**53 - 1, snapshot=far, policy=WORLD.assigned(NEW), time_ms=late, expires_ms=late + 1)
    updater.accept(WORLD.offer(far), ahead, WORLD.documents, NOW_MS)
    refused(updater, Untrusted, WORLD.offer(3), match="is older", theirs=BadVersionNumberError)
    good = WORLD.but(online=PrivateKey(41))
    offer = good.offer(3, roots=(good.root(2),))
    sealed = good.sealed(3, snapshot=3, policy=WORLD.assigned(OLD))
    updater.accept(offer, sealed, WORLD.documents, NOW_MS)
    assert updater.running() == {OLD: WORLD.documents[OLD]}
    refused(updater, Untrusted, WORLD.offer(far + 1), match="timestamp: .*0/1", now_ms=NOW_MS)
