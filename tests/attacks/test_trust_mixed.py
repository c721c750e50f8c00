"""Mix and match: files that were all signed, and never together."""

from __future__ import annotations

import pytest
from tuf.api.exceptions import LengthOrHashMismatchError

from sync.errors import Untrusted
from tests.attacks.trust_updater import WORLD, Updater, refused


def test_a_new_timestamp_with_an_old_snapshot(updater: Updater) -> None:
    for other in (1, 2, 4):
        offer = WORLD.offer(3)._replace(snapshot=WORLD.offer(other).snapshot)
        refused(updater, Untrusted, offer, match="snapshot: not the bytes", theirs=LengthOrHashMismatchError)


@pytest.mark.parametrize("role", ["targets", "policies", "models"])
def test_a_new_snapshot_with_an_old_role(updater: Updater, role: str) -> None:
    for other in (1, 2, 4):
        good = WORLD.offer(3)
        offer = good._replace(roles={**good.roles, role: WORLD.offer(other).roles[role]})
        refused(updater, Untrusted, offer, match=f"{role}: not the bytes", theirs=LengthOrHashMismatchError)


def test_a_role_under_the_name_of_another(updater: Updater) -> None:
    good = WORLD.offer(3)
    offer = good._replace(roles={**good.roles, "policies": good.roles["models"]})
    refused(updater, Untrusted, offer, match="policies: not the bytes", theirs=LengthOrHashMismatchError)


def test_a_new_set_of_which_one_file_is_withheld(updater: Updater) -> None:
    """What is held fits no more, so nothing is filled up with it."""
    good = WORLD.offer(3)
    refused(updater, Untrusted, good._replace(snapshot=b""), match="snapshot: not the bytes")
    for role in good.roles:
        rest = {name: data for name, data in good.roles.items() if name != role}
        refused(updater, Untrusted, good._replace(roles=rest), match=f"{role}: not the bytes")


def test_a_snapshot_without_digests_names_nothing(updater: Updater) -> None:
    """python-tuf takes it, and then versions alone hold old and new apart."""

    def forget(name: str, what: object) -> None:
        if name == "snapshot":
            for file in what.meta.values():  # type: ignore[attr-defined]
                file.hashes = None

    refused(updater, Untrusted, WORLD.but(change=forget).offer(3), match="named without its SHA-256")
