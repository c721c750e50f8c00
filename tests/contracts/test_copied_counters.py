"""What a copy counts before it knows that it is one (ADR 12): nothing that was acknowledged is lost or counted twice.

actor-ts (its issue 955) is the failure: see ``test_known_failures`` for its name. Every test ends with exact values, on
every device and in the cloud.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import msgpack
import pytest

from edge.storage import renaming
from tests.contracts.fleet_world import Cloud, Device
from tests.contracts.test_convergence import close, copy_of, fleet, heal


def start(tmp_path: Path, seed: int, **values: Any) -> tuple[Cloud, Device, Device]:
    cloud, (device, other) = fleet(tmp_path, seed, count=2)
    device.notes.put("k", {"visits": 1, "best": 3} | values)
    heal(cloud, [device, other])
    return cloud, device, other


def old_copy(device: Device, target: Path) -> Path:
    """Its directory as it is now, to be put back later."""
    device.edge.close()
    shutil.copytree(device.path, target)
    device.open()
    return target


def put_back(device: Device, old: Path) -> None:
    device.edge.close()
    shutil.rmtree(device.path)
    shutil.copytree(old, device.path)
    device.open()


def count(device: Device, by: int, times: int = 1) -> None:
    for _ in range(times):
        device.notes.increment("k", "visits", by)


def agree(cloud: Cloud, devices: list[Device], **values: Any) -> None:
    heal(cloud, devices)
    for device in devices:
        shown = device.notes.get("k")
        assert shown is not None, device.name
        assert {name: shown[name] for name in values} == values, device.name
        assert device.edge.log.verify() == []
    close(cloud, devices)


def test_a_store_that_was_put_back_writes_before_it_hears_anything(tmp_path: Path) -> None:
    cloud, device, other = start(tmp_path, 1)
    old = old_copy(device, tmp_path / "old")
    count(device, 4)
    device.notes.patch("k", {"best": 9})
    heal(cloud, [device, other])
    put_back(device, old)
    count(device, 1)
    device.notes.patch("k", {"best": 4})
    agree(cloud, [device, other], visits=6, best=9)


@pytest.mark.parametrize("first", [0, 1])
def test_two_clones_count_at_once(tmp_path: Path, first: int) -> None:
    cloud, device, other = start(tmp_path, 2)
    clone = copy_of(device, tmp_path / "clone")
    count(device, 10)
    count(clone, 100)
    device.notes.patch("k", {"best": 7})
    clone.notes.patch("k", {"best": 5})
    both = [device, clone]
    assert both[first].sync()
    agree(cloud, [*both, other], visits=111, best=7)


@pytest.mark.parametrize("how", ["before", "in parts", "after"])
@pytest.mark.parametrize("more", [0, 3], ids=["nothing", "operations"])
def test_what_was_pending_when_the_copy_was_made_counts_once(tmp_path: Path, how: str, more: int) -> None:
    """The original pushes it before, around or after the first handshake of a copy that added ``more``."""
    cloud, device, other = start(tmp_path, 3)
    count(device, 10, times=12)  # two segments
    if how == "before":
        clone = copy_of(device, tmp_path / "clone")
        count(device, 1_000)
        count(clone, 100_000, times=more)
        assert device.sync()
    elif how == "in parts":
        clone = copy_of(device, tmp_path / "clone")
        count(clone, 100_000, times=more)
        assert not device.sync(steps=5)  # a part of it arrives
        count(device, 1_000)
    else:  # a snapshot takes its name when it is opened, and does not wait for the original
        device.edge.snapshot(tmp_path / "snapshot")
        clone = Device.__new__(Device)
        clone.__dict__.update(device.__dict__, path=tmp_path / "snapshot", name="clone", before={}, delayed=[])
        clone.open()
        count(clone, 100_000, times=more)
        count(device, 1_000)
    assert clone.sync()
    agree(cloud, [clone, device, other], visits=1 + 120 + 1_000 + 100_000 * more)


def test_what_only_a_snapshot_has_is_not_lost(tmp_path: Path) -> None:
    cloud, device, other = start(tmp_path, 4)
    count(device, 10, times=3)
    device.edge.snapshot(tmp_path / "snapshot")
    count(device, 1_000)
    put_back(device, tmp_path / "snapshot")
    count(device, 5)
    agree(cloud, [device, other], visits=36)


def test_equal_operations_at_one_stamp_are_taken_for_one(tmp_path: Path) -> None:
    """The limit of it: a copy that writes exactly what its original wrote at that place of its log, in the same
    millisecond. Nobody can tell that there are two.
    """
    cloud, device, other = start(tmp_path, 5)
    count(device, 10, times=3)
    old = old_copy(device, tmp_path / "old")
    count(device, 100, times=2)
    heal(cloud, [device, other])
    put_back(device, old)
    count(device, 100)
    count(device, 1_000)
    agree(cloud, [device, other], visits=1 + 30 + 200 + 1_000)


def test_the_later_writes_of_the_original_are_in_the_cloud(tmp_path: Path) -> None:
    cloud, device, other = start(tmp_path, 6)
    count(device, 10, times=3)
    old = old_copy(device, tmp_path / "old")
    count(device, 100, times=2)
    heal(cloud, [device, other])
    put_back(device, old)
    device.clock.now_ms += 1  # as many operations, and the same
    count(device, 100, times=2)
    agree(cloud, [device, other], visits=1 + 30 + 200 + 200)


def test_puts_of_counters(tmp_path: Path) -> None:
    """A put moves a counter to a value: what that adds is what its writer saw to be missing."""
    cloud, device, other = start(tmp_path, 7)
    other.notes.increment("k", "visits", 50)
    heal(cloud, [device, other])
    clone = copy_of(device, tmp_path / "clone")
    device.notes.put("k", {"visits": 60, "text": "+9"})
    clone.notes.put("k", {"visits": 40, "text": "-11"})
    clone.notes.put("new", {"visits": 7, "best": 1})
    device.notes.put("new", {"visits": 8, "best": 2})
    agree(cloud, [device, clone, other], visits=51 + 9 - 11)


def test_maxima_and_minima_by_another_rule(tmp_path: Path) -> None:
    cloud, (device, other) = fleet(tmp_path, 8, count=2)
    fields = {"low": "min", "high": "max", "sum": "counter"}
    for each in (device, other):
        each.edge.collection("marks", fields=fields)
    device.edge.collection("marks").put("m", {"low": 5, "high": 5, "sum": 0.5})
    heal(cloud, [device, other])
    clone = copy_of(device, tmp_path / "clone")
    clone.clock.now_ms += 1
    for each, low, high in ((device, 1, 6), (clone, 2, 9)):
        each.edge.collection("marks").patch("m", {"low": low, "high": high})
        each.edge.collection("marks").increment("m", "sum", 0.25)
    heal(cloud, [device, clone, other])
    for each in (device, clone, other):
        assert each.edge.collection("marks").get("m") == {"low": 1, "high": 9, "sum": 1.0}
    close(cloud, [device, clone, other])


@pytest.mark.parametrize("who", ["the copy", "another"])
def test_a_delete_in_between(tmp_path: Path, who: str) -> None:
    """What came before the copy's own delete is gone with it."""
    cloud, device, other = start(tmp_path, 9)
    count(device, 10)
    clone = copy_of(device, tmp_path / "clone")
    for each in (device, clone, other):
        each.clock.now_ms += 10
    count(clone, 100)
    count(device, 1_000)
    for each in (device, clone, other):
        each.clock.now_ms += 10
    {"the copy": clone, "another": other}[who].notes.delete("k")
    for each in (device, clone, other):
        each.clock.now_ms += 10
    if who == "the copy":
        clone.notes.put("k", {"visits": 3, "best": 1})
        clone.notes.increment("k", "visits", 4)
        agree(cloud, [device, clone, other], visits=7, best=1)
    else:  # the copy had not seen the delete: its later edit wins, and the cloud brings back what was deleted
        count(clone, 4)
        agree(cloud, [device, clone, other], visits=1 + 10 + 100 + 1_000 + 4, best=3)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_copy_of_the_copy(tmp_path: Path, order: tuple[int, ...]) -> None:
    """All three have the first operations, two of them the second ones."""
    cloud, device, other = start(tmp_path, 10)
    count(device, 1, times=2)
    clone = copy_of(device, tmp_path / "clone")
    count(clone, 10, times=2)
    second = copy_of(clone, tmp_path / "second")
    count(device, 100)
    count(clone, 1_000)
    count(second, 10_000)
    stores = [device, clone, second]
    for place in order:
        assert stores[place].sync()
        stores[place].crash()
    agree(cloud, [*stores, other], visits=1 + 2 + 20 + 100 + 1_000 + 10_000)


def test_a_copy_that_has_its_own_name_is_copied(tmp_path: Path) -> None:
    cloud, device, other = start(tmp_path, 11)
    count(device, 1, times=2)
    clone = copy_of(device, tmp_path / "clone")
    count(device, 10)
    assert device.sync()
    count(clone, 100)
    assert not clone.sync(steps=3)  # it has its new name, and owes its state
    second = copy_of(clone, tmp_path / "second")
    count(clone, 1_000)
    count(second, 10_000)
    agree(cloud, [clone, device, second, other], visits=1 + 2 + 10 + 100 + 1_000 + 10_000)


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_around_the_change_of_names(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, device, other = start(tmp_path, 12)
    count(device, 1, times=2)
    clone = copy_of(device, tmp_path / "clone")
    count(device, 10)
    assert device.sync()
    count(clone, 100)
    whole, moved = clone.edge.log.new_incarnation, renaming.rename

    def die_within(*arguments: Any) -> None:
        moved(*arguments)
        raise Killed

    def die_after() -> bytes:
        whole()
        raise Killed

    with monkeypatch.context() as patch:
        if when == "before":  # everything is moved, and the transaction does not commit
            patch.setattr(renaming, "rename", die_within)
        else:
            patch.setattr(clone.edge.log, "new_incarnation", die_after)
        with pytest.raises(Killed):
            clone.sync()
    assert (clone.notes.get("k") or {})["visits"] == 103
    clone.crash()
    assert (clone.notes.get("k") or {})["visits"] == 103
    agree(cloud, [clone, device, other], visits=113)


@pytest.mark.parametrize("steps", range(1, 26, 2))
def test_a_crash_at_any_step_of_the_way_back(tmp_path: Path, steps: int) -> None:
    """Among them between the page that shows what counts twice and the state that says so."""
    cloud, device, other = start(tmp_path, 13)
    count(device, 1, times=9)
    clone = copy_of(device, tmp_path / "clone")
    count(device, 100)
    count(clone, 1_000)
    assert device.sync()
    clone.sync(steps=steps)
    clone.crash()
    count(clone, 10_000)
    agree(cloud, [clone, device, other], visits=1 + 9 + 100 + 1_000 + 10_000)


def test_clocks_that_were_wrong(tmp_path: Path) -> None:
    """What is restamped before it is moved keeps what it remembers."""
    cloud, device, other = start(tmp_path, 14)
    clone = copy_of(device, tmp_path / "clone")
    count(device, 10)
    assert device.sync()
    clone.clock.now_ms += 3_600_000  # ahead, and nothing of it has been taken
    count(clone, 100, times=3)
    clone.notes.patch("k", {"best": 8})
    agree(cloud, [clone, device, other], visits=311, best=8)


def test_a_total_that_no_slot_can_hold_stays_where_it_is(tmp_path: Path) -> None:
    cloud, device, other = start(tmp_path, 15, visits=-(1 << 62))
    clone = copy_of(device, tmp_path / "clone")
    clone.notes.put("k", {"visits": (1 << 62) + 5})
    clone.notes.increment("k", "visits", 1 << 61)
    device.notes.patch("k", {"best": 7})
    assert device.sync()
    agree(cloud, [clone, device, other], visits=(1 << 62) + 5 + (1 << 61), best=7)


def test_a_store_opened_for_every_write(tmp_path: Path) -> None:
    """As by the command line: each write is another run; their number in a record is bounded."""
    cloud, device, other = start(tmp_path, 16)
    clone = copy_of(device, tmp_path / "clone")
    count(device, 100_000)
    assert device.sync()
    for _ in range(70):
        count(clone, 1)
        clone.crash()
    agree(cloud, [clone, device, other], visits=100_071)


def test_copies_of_a_store_that_is_open(tmp_path: Path) -> None:
    """By a file system's snapshot: the copies hold the beginning of a run that goes on in the original."""
    cloud, device, other = start(tmp_path, 17)
    stores = [device]
    for n in range(2):
        count(device, 1, times=2)
        shutil.copytree(device.path, tmp_path / f"hot{n}")
        clone = Device.__new__(Device)
        clone.__dict__.update(device.__dict__, path=tmp_path / f"hot{n}", name=f"hot{n}", before={}, delayed=[])
        clone.open()
        stores.append(clone)
    count(device, 10)
    count(stores[1], 100)
    count(stores[2], 1_000)
    assert stores[2].sync()
    agree(cloud, [*stores, other], visits=1 + 4 + 10 + 100 + 1_000)


def test_operations_from_before_there_was_this_memory_stay(tmp_path: Path) -> None:
    """What they put into the shared slot cannot be told from what was there; what came after them can."""
    cloud, device, other = start(tmp_path, 18)
    count(device, 10)
    clone = copy_of(device, tmp_path / "clone")
    db = clone.edge.log.writer.db
    for seq, packed in db.execute("SELECT seq, fields FROM operations").fetchall():
        fields = msgpack.unpackb(packed)
        fields.pop("", None)
        db.execute("UPDATE operations SET fields = ? WHERE seq = ?", (msgpack.packb(fields), seq))
    count(clone, 100)
    count(device, 1_000)
    assert device.sync()
    agree(cloud, [clone, device, other], visits=1_111)


@pytest.mark.parametrize("seed", range(12))
def test_any_copies_at_any_time(tmp_path: Path, seed: int) -> None:
    """Stores are copied, put back, killed and synchronised in part, and count all the while."""
    dice = random.Random(seed)
    cloud, device, other = start(tmp_path, 100 + seed)
    stores = [device]
    # What a store has counted: each amount is one increment, and whoever copies it has it too.
    counted: dict[str, dict[int, int]] = {device.name: {}}
    best = 3
    amount = 0
    for step in range(40):
        store = dice.choice(stores)
        store.clock.now_ms += 1 + step
        roll = dice.random()
        if roll < 0.5:
            amount += 1
            count(store, 1 << (amount % 50))
            counted[store.name][amount] = 1 << (amount % 50)
        elif roll < 0.6:
            best = max(best, step)
            store.notes.patch("k", {"best": step})
        elif roll < 0.68 and len(stores) < 5:
            clone = copy_of(store, tmp_path / f"s{seed}-{len(stores)}")
            clone.clock.now_ms = store.clock.now_ms + 1
            counted[clone.name] = dict(counted[store.name])
            stores.append(clone)
        elif roll < 0.75:
            store.crash()
        elif roll < 0.9:
            store.sync(steps=dice.randrange(1, 30), loss=dice.choice([0.0, 0.3]))
        else:
            assert store.sync()
    cloud.clock.now_ms = max(store.clock.now_ms for store in stores)
    for store in (*stores, other):
        store.clock.now_ms = cloud.clock.now_ms
    everything: dict[int, int] = {}
    for amounts in counted.values():
        everything |= amounts
    agree(cloud, [*stores, other], visits=1 + sum(everything.values()), best=best)
