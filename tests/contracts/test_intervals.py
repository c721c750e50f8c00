"""``interval_s`` of a rule: writes gather until one is due or somebody asks; real commands, server and network."""

from __future__ import annotations

from edge.node import Edge
from sync.policy import Policy
from tests.contracts.operated_fleet import PATIENCE_S, Fleet, eventually, fleet, policy

__all__ = ["fleet"]


QUIET_S = 1.0  # what would be sent at once has been sent by then
RARE = {"collections": ["logs"], "interval_s": 3600, "urgent_when": {"field": "level", "at_least": 8}}


def steered(fleet: Fleet, *rules: dict[str, object]) -> Edge:
    """A device that has a policy of these rules; nothing else is on its way."""
    document = {"name": "kiosk", "schema": 1, "sync": list(rules)}
    fleet.follow(Policy.from_document(document).to_json().decode())
    edge = fleet.device("writer")
    for name in ("logs", "notes"):
        edge.collection(name)
    edge.start_sync()
    assert eventually(lambda: edge.policy.name == "kiosk")
    edge.sync(timeout_s=PATIENCE_S)
    return edge


def unsent(edge: Edge) -> int:
    log = edge.log
    return int(log.head_seq - log.acked_seq)


def test_writes_gather_until_somebody_asks_or_another_write_goes(fleet: Fleet) -> None:
    with steered(fleet, RARE) as edge:
        logs = edge.collection("logs")
        for at in range(5):
            logs.put(f"k{at}", {"n": at})
        assert not eventually(lambda: unsent(edge) < 5, QUIET_S)
        (row,) = edge.status()["deferred"]
        assert (row["lane"], row["records"], row["why"]) == ("normal", 5, "interval")
        assert 3_000_000 < row["until_ms"] - edge.log.clock.reading() / 65536 <= 3_600_000

        edge.sync(timeout_s=PATIENCE_S)
        assert unsent(edge) == 0
        assert edge.status()["deferred"] == []

        logs.put("k5", {"n": 5})
        assert not eventually(lambda: unsent(edge) == 0, QUIET_S)
        edge.collection("notes").put("a", {"n": 1})  # at once, and the chain before it too
        assert eventually(lambda: unsent(edge) == 0)

        logs.put("k6", {"n": 6})
        assert not eventually(lambda: unsent(edge) == 0, QUIET_S)
        logs.put("k7", {"level": 9})
        assert eventually(lambda: unsent(edge) == 0)


def test_what_is_due_is_sent_and_a_restart_does_not_begin_to_count_anew(fleet: Fleet) -> None:
    with steered(fleet, {"collections": ["logs"], "interval_s": 4}) as edge:
        edge.collection("logs").put("k", {"n": 1})
        assert not eventually(lambda: unsent(edge) == 0, QUIET_S)
    with Edge.open(fleet.folder / "writer") as again:
        again.start_sync()
        assert eventually(lambda: unsent(again) == 0, 6.0)


def test_without_the_rule_what_gathered_goes(fleet: Fleet) -> None:
    with steered(fleet, RARE) as edge:
        edge.collection("logs").put("k", {"n": 1})
        assert not eventually(lambda: unsent(edge) == 0, QUIET_S)
        fleet.document(policy(2), '{"name":"kiosk","schema":1}')
        fleet.publish()
        fleet.assign("policy", policy(2))
        assert eventually(lambda: unsent(edge) == 0)
