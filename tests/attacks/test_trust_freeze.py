"""Freeze: whoever withholds what is newer holds a device back until expiry at most; what runs, runs on."""

from __future__ import annotations

from tuf.api.exceptions import ExpiredMetadataError

from sync.errors import Expired
from sync.manifests import Offer
from tests.attacks.trust_updater import NEW, WORLD, Updater, refused
from tests.trust_world import DAY_MS, NOW_MS

ENDS_MS = NOW_MS + 30 * DAY_MS


def test_the_same_for_ever_ends_with_its_expiry(updater: Updater) -> None:
    running = updater.running()
    updater.accept(WORLD.offer(2), None, {}, ENDS_MS - 1)
    assert updater.running() == running, "nothing new"
    for offer in (WORLD.offer(2), Offer()):
        refused(updater, Expired, offer, now_ms=ENDS_MS, match="timestamp: version 2 has expired")
    refused(updater, Expired, WORLD.offer(2), now_ms=ENDS_MS, theirs=ExpiredMetadataError)
    refused(updater, Expired, WORLD.offer(2), WORLD.sealed(3, snapshot=2, expires_ms=ENDS_MS + DAY_MS), now_ms=ENDS_MS)
    updater.accept(WORLD.offer(3, expires_ms=ENDS_MS + DAY_MS), None, {}, ENDS_MS)


def test_what_has_expired_when_it_is_offered(updater: Updater) -> None:
    late = WORLD.offer(3, expires_ms=NOW_MS)
    refused(updater, Expired, late, match="timestamp: version 3", theirs=ExpiredMetadataError)
    late = WORLD.offer(3, role_expires_ms=NOW_MS)
    refused(updater, Expired, late, match="targets: version 3", theirs=ExpiredMetadataError)


def test_an_expired_root(updater: Updater) -> None:
    """It is taken, for those who must have signed it; and nothing by it, until the next."""
    offer = WORLD.offer(3, roots=(WORLD.root(2, expires_ms=NOW_MS),))
    refused(updater, Expired, offer, match="root: version 2", theirs=ExpiredMetadataError, tries=1)
    refused(updater, Expired, WORLD.offer(3), match="root: version 2", theirs=ExpiredMetadataError)
    updater.accept(WORLD.offer(3, roots=(WORLD.root(3),)), None, {}, NOW_MS)


def test_an_expired_assignment(updater: Updater) -> None:
    sealed = WORLD.sealed(3, snapshot=2, time_ms=NOW_MS - 2, expires_ms=NOW_MS)
    refused(updater, Expired, WORLD.offer(2), sealed, match="it has expired")


def test_a_clock_that_is_set_back_revives_nothing(updater: Updater) -> None:
    """The time of the newest assignment is the least that it can be now."""
    later = NOW_MS + 29 * DAY_MS
    sealed = WORLD.sealed(3, snapshot=2, policy=WORLD.assigned(NEW), time_ms=later, expires_ms=later + 5 * DAY_MS)
    updater.accept(WORLD.offer(2), sealed, WORLD.documents, later)
    offer = WORLD.offer(3, expires_ms=later - 1)
    refused(updater, Expired, offer, now_ms=NOW_MS, match="timestamp")


def test_a_clock_far_ahead_is_mended_and_all_is_well(updater: Updater) -> None:
    refused(updater, Expired, WORLD.offer(3), now_ms=NOW_MS + 4000 * DAY_MS, theirs=ExpiredMetadataError)
    updater.accept(WORLD.offer(3), WORLD.sealed(3, snapshot=3, policy=WORLD.assigned(NEW)), WORLD.documents, NOW_MS)
    assert updater.running() == {NEW: WORLD.documents[NEW]}
