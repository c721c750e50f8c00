"""A rule changes while links are up: real commands, a real server, a real network; what comes into scope is there in a
moment, without another connection and without waiting for a poll to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edge.node import Edge
from simulations.processes import Children
from tests.contracts.test_control_path import PATIENCE_S, Fleet, eventually, policy

NARROW = '{"name":"kiosk","schema":1,"sync":[{"collections":["logs"],"direction":"up"}]}'
WIDE = '{"name":"kiosk","schema":1}'


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Children(tmp_path) as children:
        yield Fleet(tmp_path, children)


def has_policy(edge: Edge) -> bool:
    return edge.policy.name == "kiosk"


def test_a_rule_is_narrowed_and_widened_while_links_are_up(fleet: Fleet) -> None:
    fleet.document(policy(1), NARROW)
    fleet.document(policy(2), WIDE)
    fleet.publish("--online-key", fleet.trust / "keys" / "online.pem")
    fleet.assign("policy", policy(1))
    with fleet.device("writer") as writer, fleet.device("reader") as reader:
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
        fleet.assign("policy", policy(2))
        assert eventually(lambda: reader.collection("logs").count() == 20)
        writer.collection("logs").put("k0", {"n": 100})
        assert eventually(lambda: reader.collection("logs").get("k0") == {"n": 100})
        for edge in (writer, reader):
            edge.sync(timeout_s=PATIENCE_S)
        assert reader.digest() == writer.digest()


def test_one_sync_takes_a_policy_and_what_it_gains(fleet: Fleet) -> None:
    fleet.document(policy(1), NARROW)
    fleet.document(policy(2), WIDE)
    fleet.publish("--online-key", fleet.trust / "keys" / "online.pem")
    fleet.assign("policy", policy(1))
    with fleet.device("writer") as writer, fleet.device("reader") as reader:
        reader.sync(timeout_s=PATIENCE_S)
        writer.collection("logs").put("k", {"n": 1})
        writer.sync(timeout_s=PATIENCE_S)
        reader.sync(timeout_s=PATIENCE_S)
        assert reader.policy.name == "kiosk"
        assert reader.collection("logs").get("k") is None
        fleet.assign("policy", policy(2))
        reader.sync(timeout_s=PATIENCE_S)
        assert reader.collection("logs").get("k") == {"n": 1}
