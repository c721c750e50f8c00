"""What is written, and kept back, at a place whose record has left the device, or of which others know otherwise."""

from __future__ import annotations

import pytest

from edge.storage import evicted
from tests.contracts.kept_world import BIG, PLACE, damage_policy, forget_deletes, in_the_cloud, rows, values, world
from tests.contracts.scope_world import ScopeWorld

__all__ = ["world"]


def let_go(world: ScopeWorld, **fields: object) -> None:
    """The kiosk's record, which has left it; the policy keeps what is written since."""
    kiosk = world.devices["kiosk"]
    kiosk.notes.put(PLACE[1], fields)
    world.heal()
    world.give("kiosk", "south")
    world.heal()
    assert evicted.state_of(kiosk.edge.log, *PLACE) is not None
    world.give("kiosk", "local")
    kiosk.clock.now_ms += 1_000


@pytest.mark.parametrize("fields", [{"text": "all's"}, {"text": "all's", "visits": 3}])
def test_a_delete_of_what_has_left_is_not_forgotten(world: ScopeWorld, fields: dict[str, object]) -> None:
    """Others know of the record, whether or not anything of it is in its stub."""
    let_go(world, **fields)
    kiosk = world.devices["kiosk"]
    kiosk.notes.delete(PLACE[1])
    forget_deletes(kiosk)
    assert values(world, "office") == fields
    world.give("kiosk", "")
    world.heal()
    assert (values(world, "office"), in_the_cloud(world)) == (None, None)
    assert rows(kiosk) == set()
    assert kiosk.edge.digest() == world.cloud.digest()


@pytest.mark.parametrize("lost", [False, True])
def test_a_repair_goes_on_over_what_was_written_where_a_record_has_left(world: ScopeWorld, *, lost: bool) -> None:
    """A stub that nobody wrote to is no record that the cloud would take."""
    let_go(world, text="all's", visits=3, best=7)
    kiosk = world.devices["kiosk"]
    kiosk.notes.increment(PLACE[1], "visits", 2, upsert=True)
    kiosk.notes.patch(PLACE[1], {"best": 5})
    if lost:
        world.restore()
    kiosk.edge.log.new_incarnation()
    assert kiosk.sync()
    assert in_the_cloud(world) == {"text": "all's", "visits": 3, "best": 7}
    assert rows(kiosk) == {PLACE}
    world.give("kiosk", "")
    world.heal()
    assert in_the_cloud(world) == {"text": "all's", "visits": 5, "best": 7}
    world.check()


def test_nor_is_one_under_a_policy_that_cannot_be_read_any_more(world: ScopeWorld) -> None:
    """Before, its place was sent while it was small."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "small")
    kiosk.notes.put(PLACE[1], {"text": BIG})
    kiosk.notes.patch(PLACE[1], {"text": "small"})
    for steps in range(20):
        kiosk.sync(steps=steps)
        if PLACE in world.images():
            break
    assert rows(kiosk) == {PLACE}, "the log went first"
    damage_policy(kiosk)
    kiosk.notes.delete(PLACE[1])
    forget_deletes(kiosk)
    world.give("kiosk", "")
    world.heal()
    assert in_the_cloud(world) is None
    assert kiosk.edge.digest() == world.cloud.digest()
