"""What only one side signed: listed and not assigned, assigned and not listed, assigned below the floor."""

from __future__ import annotations

import json

import pytest
import rfc8785

from sync.assignments import CONTEXT, Signed
from sync.errors import Malformed, Refused, UnsupportedVersion
from sync.manifests import Offer
from tests.attacks.trust_updater import NEW, OLD, THIRD, WIDER, WORLD, Updater, refused
from tests.trust_world import NOW_MS


def test_what_is_listed_and_not_assigned_is_not_installed(updater: Updater) -> None:
    """The offline keys alone: a new target, no new assignment."""
    running = updater.running()
    updater.accept(WIDER.offer(3), None, WIDER.documents, NOW_MS)
    assert updater.running() == running
    updater.restart()
    assert updater.running() == running


def test_what_is_assigned_and_not_listed_is_refused(updater: Updater) -> None:
    """The online key alone, in the hands of a thief."""
    sealed = WIDER.sealed(3, snapshot=2, policy=WIDER.assigned(THIRD))
    refused(updater, Refused, Offer(), sealed, documents=WIDER.documents, match="no offline key has signed it")
    sealed = WIDER.sealed(3, snapshot=3, policy=WIDER.assigned(THIRD))
    refused(updater, Refused, WORLD.offer(3), sealed, documents=WIDER.documents, match="no offline key has signed it")
    updater.accept(WIDER.offer(4), WIDER.sealed(3, snapshot=4, policy=WIDER.assigned(THIRD)), WIDER.documents, NOW_MS)
    assert updater.running() == {THIRD: WIDER.documents[THIRD]}, "both"


def test_one_of_several_that_is_not_listed_stops_all(updater: Updater) -> None:
    models = {"embed": WIDER.but(documents={"models/embed/2.json": b"evil"}).assigned("models/embed/2.json")}
    sealed = WORLD.sealed(3, snapshot=2, policy=WORLD.assigned(OLD), models=models)
    refused(updater, Refused, Offer(), sealed, match="models/embed/2.json is assigned")


def test_what_is_below_the_floor(updater: Updater) -> None:
    """A bad number is taken out of use by the floor of a later one, whoever has the online key."""
    raised = WIDER.but(floors={THIRD: 3})
    sealed = raised.sealed(3, snapshot=3, policy=raised.assigned(OLD))
    refused(updater, Refused, raised.offer(3), sealed, documents=raised.documents, match="below the floor")
    sealed = raised.sealed(3, snapshot=3, policy=raised.assigned(NEW))
    updater.accept(raised.offer(3), sealed, raised.documents, NOW_MS)
    assert updater.running() == {NEW: WORLD.documents[NEW]}, "what runs may go on: a floor is for what is new"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'"number":3', b'"number":2,"number":3'),
        lambda text: text.replace(b'"policy":', b'"policy":null,"policy":'),
        lambda text: text.replace(b'"snapshot":2', b'"snapshot":2.0'),
        lambda text: b" " + text,
    ],
)
def test_bytes_of_two_readings(updater: Updater, change: object) -> None:
    """Signed by the right key: one reader would see the first, another the last."""
    assert callable(change)
    data = WORLD.sealed(3, snapshot=2, policy=WORLD.assigned(OLD)).data
    changed = change(data)
    assert changed != data
    sealed = Signed(changed, WORLD.online.sign(CONTEXT + changed))
    refused(updater, Malformed, Offer(), sealed, match="canonical")


def test_a_field_or_version_that_nobody_knows(updater: Updater) -> None:
    document = json.loads(WORLD.sealed(3, snapshot=2, policy=WORLD.assigned(OLD)).data)
    for changed, error in (({"extra": 1}, Malformed), ({"v": 2}, UnsupportedVersion)):
        data = rfc8785.dumps({**document, **changed})
        refused(updater, error, Offer(), Signed(data, WORLD.online.sign(CONTEXT + data)))
