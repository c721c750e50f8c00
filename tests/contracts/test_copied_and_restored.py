"""Copies that meet a restored cloud, a wrong clock, a refusal, or each other again and again (ADR 12)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.link.carrier import Carrier
from edge.storage import link_state
from sync.effects import Send, SessionKeys
from sync.fetching import FetchingSession
from sync.messages import Hello, Push
from sync.records import Record
from tests.contracts.fleet_world import LIMITS
from tests.contracts.test_convergence import close, copy_of, heal
from tests.contracts.test_copied_counters import Killed, agree, count, old_copy, put_back, start


def test_a_copy_that_owes_its_state_to_a_restored_cloud_leaves_its_own_counts_out_of_it(tmp_path: Path) -> None:
    """The cloud cannot tell yet that it is a copy, and a total of its own under the shared name would replace what its
    original counted.
    """
    cloud, device, other = start(tmp_path, 19)
    backup = cloud.backup()
    other.notes.put("lost", {"text": "after the backup"})
    heal(cloud, [device, other])
    clone = copy_of(device, tmp_path / "clone")
    count(device, 10)
    device.clock.now_ms += 1_000
    clone.clock.now_ms += 2_000  # its total has the later stamp
    count(clone, 100)
    cloud.restore(backup)
    sent = clone.edge.log.state_operations(None, 100)
    [slots] = [Record.decode(operation.values[0]).slots["visits", "c"] for operation in sent if operation.key == "k"]
    assert sum(entry[2] for entry in slots.values()) == 1
    assert device.sync()
    agree(cloud, [clone, device, other], visits=111)


def test_a_store_that_was_put_back_meets_a_restored_cloud(tmp_path: Path) -> None:
    """What the cloud holds beyond the ack was written under this name and never sent by this store: it is another's,
    though it came before the cloud's present life began.
    """
    cloud, device, other = start(tmp_path, 20)
    old = old_copy(device, tmp_path / "old")
    count(device, 10)
    assert device.sync()
    other.notes.put("before", {"text": "before the backup"})
    assert other.sync()
    backup = cloud.backup()
    put_back(device, old)
    count(device, 100)
    count(device, 1_000)
    other.notes.put("lost", {"text": "after the backup"})
    assert other.sync()
    cloud.restore(backup)
    agree(cloud, [device, other], visits=1_111)


@pytest.mark.parametrize("ahead_ms", [6_000, 60_000])
def test_a_snapshot_is_opened_and_written_to_while_the_clock_is_ahead(tmp_path: Path, ahead_ms: int) -> None:
    """What the new name writes never comes below what the old one wrote into the same record: no image could say so."""
    cloud, device, other = start(tmp_path, 21)
    device.clock.now_ms += ahead_ms
    count(device, 10)
    device.notes.patch("k", {"text": "pending"})
    device.edge.snapshot(tmp_path / "snapshot")
    put_back(device, tmp_path / "snapshot")
    count(device, 100)
    device.notes.patch("k", {"mood": "written under the new name"})
    agree(cloud, [device, other], visits=111, text="pending", mood="written under the new name")


def test_a_store_is_copied_after_a_refusal_and_before_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock jumped, and what it counted came from the future. The copy has to move that out of the shared slot."""
    cloud, device, other = start(tmp_path, 22)
    count(device, 1)
    exchange = device._exchange
    jumped: list[bool] = []

    def watched(session: FetchingSession, send: Send, loss: float) -> None:
        if isinstance(send.message, Hello) and device.edge.log.dead_letters():
            raise Killed
        exchange(session, send, loss)
        if isinstance(send.message, Push) and not jumped:
            jumped.append(True)
            device.clock.now_ms += 3_600_000
            count(device, 10)

    with monkeypatch.context() as patch:
        patch.setattr(device, "_exchange", watched)
        with pytest.raises(Killed):
            device.sync()
    clone = copy_of(device, tmp_path / "clone")
    for part in (device, clone):
        part.clock.now_ms = cloud.clock.now_ms
    assert device.sync()
    count(device, 1_000)
    assert device.sync()
    for clock in (cloud.clock, device.clock, clone.clock, other.clock):
        clock.now_ms += 60_000  # the copy's later stamps would win
    heal(cloud, [clone, device, other])
    [visits] = {(each.notes.get("k") or {})["visits"] for each in (clone, device, other)}
    assert visits in (1_012, 1_022), "what both had may be counted twice; less is never counted"
    close(cloud, [clone, device, other])


def test_one_process_is_renamed_as_often_as_it_is_copied(tmp_path: Path) -> None:
    cloud, device, _ = start(tmp_path, 23)
    keys = SessionKeys(cloud.fleet, device.key, cloud.keys.service_key.public, device.ring)
    log = device.edge.log
    session = FetchingSession(link_state.load_position(log), keys, device.random, limits=LIMITS)
    carrier, now_ms = Carrier(log, str(device.path), session), 0
    for number in range(5):
        for _ in range(400):
            session.tick(now_ms)
            session.written(log.head_seq)
            for effect in session.ready():
                if isinstance(effect, Send):
                    device._exchange(session, effect, 0.0)
                else:
                    carrier.carry_out(effect)
            if session.idle:
                break
            now_ms += session.wake_ms() or 0
        assert session.idle, f"after {number} copies: {session.error}"
        clone = copy_of(device, tmp_path / f"clone-{number}", running=True)
        count(clone, 100)
        assert clone.sync()
        clone.edge.close()
        count(device, 1)
