"""A rule changes while links are up: real commands, a real server, a real network; what comes into scope is there in a
moment, without another connection and without waiting for a poll to end.
"""

from __future__ import annotations

from functools import partial

import pytest

from edge.node import Edge
from edge.storage import evicted
from sync.errors import NotHere
from tests.contracts.operated_fleet import PATIENCE_S, Fleet, eventually, fleet, policy

__all__ = ["fleet"]

NARROW = '{"name":"kiosk","schema":1,"sync":[{"collections":["logs"],"direction":"up"}]}'
WIDE = '{"name":"kiosk","schema":1}'


@pytest.fixture
def narrow(fleet: Fleet) -> Fleet:
    fleet.follow(NARROW, WIDE)
    return fleet


def has_policy(edge: Edge) -> bool:
    return edge.policy.name == "kiosk"


def test_a_rule_is_narrowed_and_widened_while_links_are_up(narrow: Fleet) -> None:
    with narrow.device("writer") as writer, narrow.device("reader") as reader:
        for edge in (writer, reader):
            edge.collection("logs")
            edge.collection("notes")
            edge.start_sync()
            assert eventually(partial(has_policy, edge))
        for at in range(20):
            writer.collection("logs").put(f"k{at}", {"n": at})
        writer.collection("notes").put("last", {"n": 20})
        assert eventually(lambda: "last" in reader.collection("notes"))
        assert reader.collection("logs").count() == 0, "the feed has passed it by"
        narrow.assign("policy", policy(2))
        assert eventually(lambda: reader.collection("logs").count() == 20)
        writer.collection("logs").put("k0", {"n": 100})
        assert eventually(lambda: reader.collection("logs").get("k0") == {"n": 100})
        for edge in (writer, reader):
            edge.sync(timeout_s=PATIENCE_S)
        assert reader.digest() == writer.digest()


def test_one_sync_takes_a_policy_and_what_it_gains(narrow: Fleet) -> None:
    with narrow.device("writer") as writer, narrow.device("reader") as reader:
        reader.sync(timeout_s=PATIENCE_S)
        writer.collection("logs").put("k", {"n": 1})
        writer.sync(timeout_s=PATIENCE_S)
        reader.sync(timeout_s=PATIENCE_S)
        assert reader.policy.name == "kiosk"
        assert reader.collection("logs").get("k") is None
        narrow.assign("policy", policy(2))
        reader.sync(timeout_s=PATIENCE_S)
        assert reader.collection("logs").get("k") == {"n": 1}


def test_what_has_left_is_fetched_at_once_when_it_is_written_to(fleet: Fleet) -> None:
    with fleet.device("writer") as writer, fleet.device("reader") as reader:
        for edge in (writer, reader):
            edge.collection("notes", fields={"n": "counter", "tags": "set"})
            edge.start_sync()
        for key in ("heard", "put", "counted"):
            writer.collection("notes").put(key, {"text": "of the writer", "n": 1, "tags": ["a"]})
        notes = reader.collection("notes")
        assert eventually(lambda: notes.count() == 3)
        let_go(reader, "notes")
        assert notes.count() == 0
        writer.collection("notes").add("heard", "tags", "b")
        assert eventually(lambda: notes.get("heard") == {"text": "of the writer", "n": 1, "tags": ["a", "b"]})
        notes.increment("counted", "n", 2)
        assert eventually(lambda: notes.get("counted") == {"text": "of the writer", "n": 3, "tags": ["a"]})
        with pytest.raises(NotHere):
            notes.put("put", {"text": "of the reader"})
        assert eventually(lambda: "put" in notes)
        notes.put("put", {"text": "of the reader"})
        for edge in (reader, writer, reader):
            edge.sync(timeout_s=PATIENCE_S)
        assert writer.collection("notes").get("put") == {"text": "of the reader", "n": 1, "tags": ["a"]}
        assert reader.digest() == writer.digest()
        assert reader.verify() == []


def let_go(edge: Edge, collection: str) -> None:
    """As if all of it had become too old."""
    log = edge.log
    log.fold()
    number = log.collection_id(collection)
    with log.writer.lock:
        with log.transact() as db:
            db.execute(evicted.TABLE)
            rows = db.execute("SELECT key, image FROM records WHERE collection = ?", (number,)).fetchall()
            for key, image in rows:
                evicted.keep(db, (number, str(key)), bytes(image), log.replica)  # type: ignore[arg-type]
            db.execute("DELETE FROM records WHERE collection = ?", (number,))
        log.settle_again(log.clock.last)
