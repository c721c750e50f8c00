"""What a delta log makes of a clock that turned out to be wrong: in one transaction, or not at all."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from edge.storage import log_clock
from edge.storage.delta_log import DeltaLog
from edge.storage.transaction import Write
from sync.errors import FutureStamp, StorageError
from sync.messages import Refusal
from sync.operations import Kind
from sync.stamps import timestamp_of, wall_ms_of
from tests.edge.logs import NOTES, put, remote, reopen, values
from tests.edge.stores import TickingClock

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.fixture
def log(tmp_path: Path) -> DeltaLog:
    """Its collection was declared, and taken, while its clock was right; now it is a week ahead."""
    clock = TickingClock(START_MS - 7 * DAY_MS)
    log = reopen(tmp_path, clock=clock)
    log.declare(NOTES)
    log.acknowledge(log.head_seq, b"s" * 32)
    clock._now_ms = START_MS
    return log


def increment(log: DeltaLog) -> None:
    log.submit([Write(Kind.INCREMENT, "notes", "n", {"n": 1}, True)])


def stamps_ms(log: DeltaLog) -> list[int]:
    return [wall_ms_of(operation.ts) - START_MS for operation in log.pending(log.acked_seq, 100, 1 << 20)]


def test_an_earlier_increment_that_was_refused_does_not_count_instead_of_the_later(
    log: DeltaLog, tmp_path: Path
) -> None:
    """The cloud took the second, which contains the first: the first keeps its stamp, and adds nothing."""
    increment(log)
    increment(log)
    first, second = log.pending(log.acked_seq, 10, 1 << 20)
    log.note_link(acked=(second.seq, b"t" * 32), refusals=[Refusal(first.seq, "future-stamp", "ahead")])
    log.learn_time(START_MS - 60_000)
    digest = log.digest()
    log.mend_stamps()
    (again,) = log.pending(log.acked_seq, 10, 1 << 20)
    assert (again.seq, again.ts, again.values) == (second.seq + 1, first.ts, first.values)
    assert values(log, "n", "notes") == {"n": 2}
    assert log.digest() == digest
    log.mend_stamps()
    assert len(log.pending(log.acked_seq, 10, 1 << 20)) == 1, "once"
    assert [letter.seq for letter in log.dead_letters()] == [first.seq]
    assert log.verify() == []
    log.close()
    again_open = reopen(tmp_path)
    assert again_open.verify() == []
    again_open.close()


def test_what_was_refused_goes_before_what_still_waits(log: DeltaLog) -> None:
    for key in "ab":
        put(log, key, "notes", x=key)
    refused, waits = log.pending(log.acked_seq, 10, 1 << 20)
    log.note_link(acked=(refused.seq, b"t" * 32), refusals=[Refusal(refused.seq, "future-stamp", "ahead")])
    log.learn_time(START_MS - DAY_MS)
    log.mend_stamps()
    tail = log.pending(log.acked_seq, 10, 1 << 20)
    assert [operation.key for operation in tail] == ["a", "b"]
    assert [operation.seq for operation in tail] == [refused.seq + 1, waits.seq + 1]
    assert tail[0].ts < tail[1].ts < waits.ts
    assert log.head_seq == waits.seq + 1
    assert [key for _, _, key in log.changes(log.position - 2, 10)] == ["a", "b"], "the projections hear of it"
    log.close()


def test_nothing_moves_while_something_sent_has_no_answer(log: DeltaLog) -> None:
    put(log, "a", "notes", x=1)
    before = log.pending(0, 100, 1 << 20)
    log.meta_set("sent", [(log.head_seq, b"t" * 32)])
    log.learn_time(START_MS + DAY_MS)
    log.mend_stamps(as_state=True)
    assert log.pending(0, 100, 1 << 20) == before
    log.meta_set("sent", [])
    log.mend_stamps()
    assert log.pending(0, 100, 1 << 20) != before, "the drift was not forgotten meanwhile"
    log.close()


def test_a_baseline_is_begun_only_if_something_may_have_been_displaced(log: DeltaLog) -> None:
    put(log, "a", "notes", x=1)
    log.learn_time(START_MS - DAY_MS)
    log.mend_stamps()
    assert (log.baseline, stamps_ms(log)[0] < 0) == (None, True)
    put(log, "b", "notes", x=1)
    log.apply([remote(1, "c", 5, "notes", x=1)], cursor=9)
    log.learn_time(START_MS - 2 * DAY_MS)
    log.mend_stamps()
    assert log.baseline == b""
    assert log.meta_get("baseline") == b""
    log.close()


def test_what_had_lost_by_a_slow_clock_wins_once_it_is_stamped_anew(log: DeltaLog) -> None:
    """Somebody else wrote before it, by the true time, and was read before the clock could be mended."""
    put(log, "a", "notes", x="the later")
    half_a_day_on = timestamp_of(START_MS + DAY_MS // 2)
    log.apply([remote(1, "a", half_a_day_on, "notes", x="the earlier")], cursor=9)
    assert values(log, "a", "notes") == {"x": "the earlier"}
    log.learn_time(START_MS + DAY_MS)
    log.mend_stamps()
    assert stamps_ms(log)[0] > DAY_MS // 2
    assert values(log, "a", "notes") == {"x": "the later"}
    assert log.verify() == []
    log.close()


def test_the_clock_comes_down_and_stays_down(log: DeltaLog, tmp_path: Path) -> None:
    put(log, "a", "notes", x=1)
    log.learn_time(START_MS - DAY_MS)
    log.mend_stamps()
    low = log.clock.last
    assert wall_ms_of(low) < START_MS
    log.close()
    again = reopen(tmp_path, clock=TickingClock(START_MS + 1_000))
    assert again.clock.last == low
    put(again, "b", "notes", x=1)
    assert max(stamps_ms(again)) < 0
    again.close()


def test_a_clock_that_is_set_back_goes_on_at_its_pace(log: DeltaLog, tmp_path: Path) -> None:
    put(log, "a", "notes", x=1)
    log.close()
    clock = TickingClock(60_000)
    again = reopen(tmp_path, clock=clock)
    put(again, "b", "notes", x=1)
    clock._now_ms += 5_000
    put(again, "c", "notes", x=1)
    again.close()
    third = reopen(tmp_path, clock=clock)
    clock._now_ms += 5_000
    put(third, "d", "notes", x=1)
    third.learn_time(START_MS + DAY_MS)
    third.mend_stamps()
    a, b, c, d = stamps_ms(third)
    assert a < 1_000, "written before the clock was set back: where it was"
    assert DAY_MS - 11_000 < b < DAY_MS - 9_000
    assert DAY_MS - 6_000 < c < DAY_MS - 4_000
    assert DAY_MS - 1_000 < d <= DAY_MS + 10
    third.close()


def test_a_write_that_could_have_no_effect_is_not_acknowledged(log: DeltaLog) -> None:
    far = log.clock.reading(DAY_MS)
    log.apply([remote(1, "far", far, "notes", x=1)], cursor=9)
    assert log.clock.last < far
    head = log.head_seq
    with pytest.raises(FutureStamp, match=r"86[34].. s ahead"):
        put(log, "far", "notes", x=2)
    assert log.head_seq == head
    put(log, "near", "notes", x=2)
    put(log, "near", "notes", x=3)
    assert values(log, "near", "notes") == {"x": 3}
    log.close()


def test_a_repair_that_fails_changes_nothing(log: DeltaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        put(log, f"k{n}", "notes", x=n)
    log.learn_time(START_MS - DAY_MS)
    before, digest = log.pending(0, 100, 1 << 20), log.digest()

    def full(*_: object) -> None:
        raise apsw.FullError("disk full")

    monkeypatch.setattr(log_clock, "insert", full)
    with pytest.raises(StorageError):
        log.mend_stamps()
    monkeypatch.undo()
    assert (log.pending(0, 100, 1 << 20), log.digest()) == (before, digest)
    log.mend_stamps()
    assert max(stamps_ms(log)[1:]) < 0
    assert log.verify() == []
    log.close()


def test_a_write_between_learning_and_mending_takes_its_place_too(log: DeltaLog, tmp_path: Path) -> None:
    """The clock is known to be ahead by then: it must not be taken for one that was set back."""
    put(log, "a", "notes", x=1)
    log.learn_time(START_MS - DAY_MS)
    put(log, "b", "notes", x=1)
    log.mend_stamps()
    assert -DAY_MS - 1_000 < stamps_ms(log)[0] < stamps_ms(log)[1] < -DAY_MS + 1_000
    put(log, "c", "notes", x=1)
    log.learn_time(START_MS - 2 * DAY_MS)
    log.close()
    again = reopen(tmp_path, clock=TickingClock(START_MS + 1_000))
    put(again, "d", "notes", x=1)
    again.mend_stamps()
    assert max(stamps_ms(again)) < -2 * DAY_MS + 2_000
    again.close()


def test_a_store_that_has_not_noted_what_was_taken_knows_it_from_its_log(log: DeltaLog) -> None:
    put(log, "a", "notes", x=1)
    log.acknowledge(log.head_seq, b"t" * 32)
    taken = log.pending(log.acked_seq - 1, 1, 1 << 20)[0].ts
    with log.writer.lock, log.transact() as db:
        db.execute("DELETE FROM meta WHERE name = 'acked_ts'")
    put(log, "b", "notes", x=1)
    log.learn_time(START_MS - 60_000)
    log.mend_stamps()
    assert log.pending(log.acked_seq, 1, 1 << 20)[0].ts > taken
    log.close()


def test_a_disk_that_fails_while_stamps_are_mended_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = reopen(tmp_path)

    def fails(*_: object, **__: object) -> None:
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(log_clock._Repair, "__init__", fails)
    with pytest.raises(StorageError, match="I/O error"):
        log.mend_stamps()
    log.close()
