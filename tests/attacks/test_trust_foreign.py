"""Foreign: all of it valid, for another fleet or another device."""

from __future__ import annotations

from hashlib import sha256

import pytest
from tuf.api.exceptions import UnsignedMetadataError

from sync.errors import Untrusted
from sync.manifests import Offer, pinned
from tests.attacks.trust_updater import NEW, WORLD, Updater, refused
from tests.trust_world import FLEET, NOW_MS, PrivateKey, World

OTHER_FLEET = bytes(range(100, 116))
FOREIGN = World(
    fleet=OTHER_FLEET,
    roots=tuple(PrivateKey(number) for number in (101, 102, 103)),
    targets=(PrivateKey(104),),
    policies=(PrivateKey(105), PrivateKey(106)),
    models=(PrivateKey(107),),
    online=PrivateKey(108),
    documents=WORLD.documents,
)
SISTER = WORLD.but(fleet=OTHER_FLEET)  # one operator, the same keys, another fleet


def test_a_set_of_another_fleet(updater: Updater) -> None:
    refused(updater, Untrusted, FOREIGN.offer(3), match="timestamp: .*0/1", theirs=UnsignedMetadataError)
    offer = FOREIGN.offer(3, roots=(FOREIGN.root(2),))
    refused(updater, Untrusted, offer, match="root: .*0/2", theirs=UnsignedMetadataError)


def test_a_root_of_the_same_keys_and_another_fleet(updater: Updater) -> None:
    refused(updater, Untrusted, SISTER.offer(3, roots=(SISTER.root(2),)), match="root: of another fleet")


def test_a_root_that_names_no_fleet(updater: Updater) -> None:
    def forget(name: str, what: object) -> None:
        if name == "root":
            what.unrecognized_fields.clear()  # type: ignore[attr-defined]

    offer = WORLD.offer(3, roots=(WORLD.but(change=forget).root(2),))
    refused(updater, Untrusted, offer, match="root: of another fleet")


def test_the_first_root_of_another_fleet_is_not_pinned() -> None:
    ours = sha256(WORLD.root()).digest()
    for root in (FOREIGN.root(), SISTER.root()):
        with pytest.raises(Untrusted, match="digest"):
            pinned(root, ours, FLEET)
        with pytest.raises(Untrusted, match="another fleet"):
            pinned(root, sha256(root).digest(), FLEET)


def test_an_assignment_of_another_fleet_or_device(updater: Updater) -> None:
    changes = {"snapshot": 2, "policy": WORLD.assigned(NEW)}
    refused(updater, Untrusted, Offer(), FOREIGN.sealed(3, **changes), match="assignment: not signed")
    refused(updater, Untrusted, Offer(), SISTER.sealed(3, **changes), match="assignment: of another fleet")
    sealed = WORLD.sealed(3, device=bytes(12).hex(), **changes)
    refused(updater, Untrusted, Offer(), sealed, match="assignment: of another device")
    updater.accept(Offer(), WORLD.sealed(3, **changes), WORLD.documents, NOW_MS)
