"""Swapped targets: other bytes, the digest or path of another, or one that its role has no right to list."""

from __future__ import annotations

from typing import Any

import pytest
from tuf.api.metadata import TargetFile

from sync.errors import Malformed, Refused, Untrusted
from sync.manifests import Offer
from tests.attacks.trust_updater import NEW, OLD, THIRD, WIDER, WORLD, Updater, refused
from tests.trust_world import NOW_MS

MODEL = "models/embed/1.json"


def test_the_bytes_of_another_document(updater: Updater) -> None:
    sealed = WIDER.sealed(3, snapshot=3, policy=WIDER.assigned(THIRD))
    right = WIDER.documents[THIRD]
    for wrong in (WORLD.documents[OLD], b"", right + b" ", b"x" * len(right)):
        refused(updater, Untrusted, WIDER.offer(3), sealed, documents={THIRD: wrong}, match="not the bytes that were")
    updater.accept(WIDER.offer(3), sealed, WIDER.documents, NOW_MS)
    assert updater.running() == {THIRD: right}


def test_the_digest_or_length_of_another(updater: Updater) -> None:
    old, new = WORLD.assigned(OLD), WORLD.assigned(NEW)
    for changed in ({"sha256": old.sha256}, {"length": new.length + 1}, {"sha256": "00" * 32, "length": 0}):
        sealed = WORLD.sealed(3, snapshot=2, policy=WORLD.assigned(NEW, **changed))
        refused(updater, Refused, Offer(), sealed, match="another length or digest")


def test_the_place_of_another(updater: Updater) -> None:
    model, policy = WORLD.assigned(MODEL), WORLD.assigned(NEW)
    refused(updater, Refused, Offer(), WORLD.sealed(3, snapshot=2, policy=model), match="is assigned as policies")
    sealed = WORLD.sealed(3, snapshot=2, policy=None, models={"rank": model})
    refused(updater, Refused, Offer(), sealed, match="is assigned as models/rank")
    sealed = WORLD.sealed(3, snapshot=2, policy=None, models={"embed": policy})
    refused(updater, Refused, Offer(), sealed, match="is assigned as models/embed")


@pytest.mark.parametrize(
    "path", ["policies/kiosk/../../etc/1.json", "/policies/kiosk/1.json", "policies/kiosk/1.json\0", ""]
)
def test_a_path_that_is_none(updater: Updater, path: str) -> None:
    new = WORLD.assigned(NEW)
    changed = type(new)(path=path, length=new.length, sha256=new.sha256)
    refused(updater, Malformed, Offer(), WORLD.sealed(3, snapshot=2, policy=changed), match="not the path of a target")


def listing(role: str, path: str, data: bytes, number: int) -> Any:
    """A change by which ``role`` lists a document, whatever it may."""

    def change(name: str, what: Any) -> None:
        if name == role:
            what.targets[path] = TargetFile.from_data(path, data, ["sha256"])
            entry = {"name": path.split("/")[1], "number": number, "floor": 1}
            what.targets[path].unrecognized_fields["custom"] = {"agentdb": entry}

    return change


@pytest.mark.parametrize(("role", "path"), [("models", "policies/kiosk/9.json"), ("policies", "models/embed/9.json")])
def test_what_a_role_lists_outside_its_delegation_is_not_listed(updater: Updater, role: str, path: str) -> None:
    world = WORLD.but(change=listing(role, path, b"evil", 9))
    evil = WORLD.but(documents={path: b"evil"}).assigned(path)
    kind = {"policy": evil} if path.startswith("policies") else {"policy": None, "models": {"embed": evil}}
    sealed = WORLD.sealed(3, snapshot=3, **kind)
    refused(updater, Refused, world.offer(3), sealed, documents={path: b"evil"}, match="no offline key has signed")


def test_an_entry_that_claims_another_name_or_number(updater: Updater) -> None:
    """What is listed as number 1 and says that it is 9 would pass any floor."""
    change = listing("policies", "policies/kiosk/1.json", WORLD.documents[OLD], 9)
    sealed = WORLD.sealed(3, snapshot=3, policy=WORLD.assigned(OLD))
    refused(updater, Refused, WORLD.but(change=change).offer(3), sealed, match="without its name, number and floor")
