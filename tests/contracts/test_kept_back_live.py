"""What is kept back, with real commands, a real server and a real network: it goes while the link is up, with the
policy that lets it, or with the write that makes it small; and `status` and `policy explain` say so.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
from click.testing import CliRunner

from edge.cli import main
from edge.node import Edge
from tests.contracts.operated_fleet import PATIENCE_S, Fleet, eventually, fleet, policy

__all__ = ["fleet"]

KEEPS = json.dumps(
    {
        "name": "kiosk",
        "schema": 1,
        "sync": [
            {"agents": ["guide"], "direction": "local"},
            {"collections": ["drafts"], "direction": "local"},
            {"collections": ["notes"], "record_bytes_max": 1000},
        ],
    },
    separators=(",", ":"),
)
SENDS = '{"name":"kiosk","schema":1}'


@pytest.fixture
def keeping(fleet: Fleet) -> Fleet:
    fleet.follow(KEEPS, SENDS)
    return fleet


def keeps(edge: Edge) -> bool:
    return bool(edge.policy.document and edge.policy.document.sync)


def said(edge: Edge, *args: str) -> str:
    result = CliRunner().invoke(main, [args[0], *args[1:2], edge.path, *args[2:]])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_it_goes_while_the_link_is_up(keeping: Fleet) -> None:
    with keeping.device("writer") as writer, keeping.device("reader") as reader:
        for edge in (writer, reader):
            edge.collection("drafts")
            edge.collection("notes")
            edge.start_sync()
        assert eventually(partial(keeps, writer))
        notes, drafts = writer.collection("notes"), writer.collection("drafts")
        drafts.put("d", {"text": "mine"})
        notes.put("large", {"text": "x" * 2_000})
        notes.put("small", {"text": "x"})
        writer.agent("guide").attachments().add(b"a picture of the garden" * 100, id="a")
        assert eventually(lambda: "small" in reader.collection("notes"))
        assert reader.collection("drafts").get("d") is None
        notes.put("large", {"text": "short now"})
        assert eventually(lambda: reader.collection("notes").get("large") == {"text": "short now"})
        assert eventually(lambda: writer.status()["kept_back"]["records"] == 2), "its whole state has gone, too"
        keeping.assign("policy", policy(2))
        assert eventually(lambda: reader.collection("drafts").get("d") == {"text": "mine"})
        assert eventually(lambda: writer.cache.status().unconfirmed.count == 0), "its body, too"
        with reader.agent("guide").attachments().open("a") as body:
            assert body.read(9) == b"a picture"
        for edge in (writer, reader):
            edge.sync(timeout_s=PATIENCE_S)
        assert reader.digest() == writer.digest()
        assert writer.status()["kept_back"] == {"records": 0, "bytes": 0}


def test_one_sync_takes_the_policy_and_sends_what_it_lets_go(keeping: Fleet) -> None:
    with keeping.device("writer") as writer, keeping.device("reader") as reader:
        writer.sync(timeout_s=PATIENCE_S)
        writer.collection("drafts").put("d", {"text": "mine"})
        writer.collection("notes").put("large", {"text": "x" * 2_000})
        writer.agent("guide").memory().add("they like tea")
        writer.sync(timeout_s=PATIENCE_S)
        assert json.loads(said(writer, "policy", "explain", "drafts", "d", "--json"))["kept_back"] == "local"
        assert "it is larger than is sent" in said(writer, "policy", "explain", "notes", "large")
        assert "kept back" not in said(writer, "policy", "explain", "notes", "none")
        shown = said(writer, "status")
        assert "waits 1 record, 2," in shown
        assert "kept here: larger than is sent, by [[sync]] 3 of the policy" in shown
        assert "kept back 3 records" in shown
        told = json.loads(said(writer, "status", "--json"))
        assert told["kept_back"]["records"] == 3
        assert [(row["why"], row["records"]) for row in told["deferred"]] == [("record-size", 1)]
        keeping.assign("policy", policy(2))
        writer.sync(timeout_s=PATIENCE_S)
        assert writer.status()["kept_back"]["records"] == 0
        reader.sync(timeout_s=PATIENCE_S)
        reader.sync(timeout_s=PATIENCE_S)
        assert reader.collection("notes").get("large") == {"text": "x" * 2_000}
        assert reader.agent("guide").memory().search("tea")[0].text == "they like tea"
