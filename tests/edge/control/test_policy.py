"""The policy that holds: activated whole or not at all, read back after a restart and by other processes, and shown."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge import Attachments, Documents, Edge, Memory, Thread, Vectors
from edge.cli import main
from edge.control.policy import ActivePolicy, activate
from edge.storage import evicted, policy_row
from edge.storage.policy_row import PolicyRow
from sync.errors import CorruptStore, InvalidPolicy, NotAllowed
from sync.policy import Policy

DOCUMENT = {
    "schema": 1,
    "name": "kiosk",
    "sync": [
        {
            "collections": ["sensors.*"],
            "prefixes": ["north/"],
            "direction": "up",
            "interval_s": 60,
            "urgent_when": {"field": "importance", "at_least": 8},
        },
        {"agents": ["guide"], "direction": "up"},
    ],
    "agent": [{"name": "guide", "allow": {"read": ["*"], "write": ["notes"]}}],
    "log": {"level": "debug"},
}


def row(number: int = 7, **changes: Any) -> PolicyRow:
    data = Policy.from_document({**DOCUMENT, **changes}).to_json()
    return PolicyRow(f"policies/kiosk/{number}.json", number, sha256(data).digest(), 1_000, 812, data)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_without_a_policy_everything_syncs_and_agents_may_do_everything(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        held = ActivePolicy.of(edge.log)
        assert (held.name, held.describe()) == ("", {})
        assert (held.rule("notes", "k").number, held.rule("notes", "k").direction) == (0, "both")
        held.check("guide", "write", "notes")


def test_what_was_activated_holds_after_a_restart_and_for_readers(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "store") as edge:
        assert activate(edge.log, row()).rule("sensors.x", "north/1").number == 1
        assert activate(edge.log, row(8)).describe()["number"] == 8
        with Edge.open(tmp_path / "store", read_only=True) as reader:
            assert ActivePolicy.of(reader.log).describe()["number"] == 8
    with Edge.open(tmp_path / "store") as edge:
        held = ActivePolicy.of(edge.log)
        assert held.row == row(8)
        assert held.describe()["document"] == DOCUMENT
        assert edge.verify() == []
        edge.snapshot(tmp_path / "copy")
    with Edge.open(tmp_path / "copy") as copy:
        assert ActivePolicy.of(copy.log).name == "kiosk"


@pytest.mark.parametrize(
    "wrong",
    [
        row()._replace(data=b"{}"),
        row()._replace(sha256=sha256(b"{}").digest(), data=b"{}"),
        row()._replace(sha256=b"0" * 32),
        row(8, cedar={"text": "permit(all)"}),
    ],
    ids=["bytes of another", "no policy", "digest", "no Cedar"],
)
def test_what_cannot_hold_leaves_what_did(tmp_path: Path, wrong: PolicyRow) -> None:
    with Edge.open(tmp_path) as edge:
        activate(edge.log, row())
        with pytest.raises(InvalidPolicy):
            activate(edge.log, wrong)
        assert policy_row.load(edge.log) == row()


def test_a_row_that_is_not_what_was_stored_is_said(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        policy_row.store(edge.log, row()._replace(data=row(log={"level": "info"}).data))
        with pytest.raises(CorruptStore, match="not the one that was activated"):
            ActivePolicy.of(edge.log)


def test_what_an_agent_may_not_do_names_agent_action_and_policy() -> None:
    held = ActivePolicy(Policy.from_document(DOCUMENT))
    held.check("guide", "read", "agent.memories")
    with pytest.raises(NotAllowed, match=r"agent 'guide' may not write 'agent\.memories'") as caught:
        held.check("guide", "write", "agent.memories")
    assert "kiosk" in caught.value.hint


def test_the_command_shows_and_explains(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        said = run("policy", "show", tmp_path)
        assert (said.exit_code, said.stdout[:10]) == (0, "No policy:")
        assert json.loads(run("policy", "show", tmp_path, "--json").stdout) == {}
        activate(edge.log, row())
    said = run("policy", "show", tmp_path)
    assert said.stdout.startswith("policy kiosk 7, of assignment 812; 2 sync rules\n")
    assert "[[sync]] 1" in said.stdout
    assert json.loads(run("policy", "show", tmp_path, "--json").stdout)["document"] == DOCUMENT

    asked = ("policy", "explain", tmp_path, "sensors.x", "north/7")
    told = json.loads(run(*asked, "--fields", '{"importance": 9}', "--agent", "guide", "--json").stdout)
    assert (told["rule"], told["direction"], told["received"], told["sent"]) == (1, "up", False, True)
    assert (told["lane"], told["interval_s"]) == ("urgent", 60)
    assert told["may"] == {"read": True, "write": False}
    shown = run(*asked).stdout
    assert "[[sync]] 1 of policy kiosk" in shown
    assert "within 60 s" in shown
    assert "no rule: the default" in run("policy", "explain", tmp_path, "sensors.x", "south/7").stdout
    assert "sent; what others" in run("policy", "explain", tmp_path, "_values", "guide/00/11").stdout


def test_explain_says_why_a_record_that_must_not_be_here_is(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("plain").put("k", {"n": 1})
        edge.collection("counted", fields={"n": "counter"}).put("k", {"n": 1})
        activate(edge.log, row(sync=[{"collections": ["*"], "direction": "absent"}]))
    for collection, key, why in (("plain", "k", "archive"), ("counted", "k", "archive"), ("plain", "other", "")):
        asked = ("policy", "explain", tmp_path, collection, key)
        told = json.loads(run(*asked, "--json").stdout)["stays"]
        assert why in told
        assert bool(why) == bool(told)
        assert ("stays for now" in run(*asked).stdout) == bool(why)


def test_explain_says_what_has_left_and_what_is_too_old(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("notes").put("old", {"n": 1})
        edge.agent("guide").documents().add("A text.", id="d")
        (document,) = [key for key, _ in edge.log.scan("agent.documents")]
        rules = [{"collections": ["*"], "age_days_max": 1}, {"agents": ["*"], "age_days_max": 1}]
        activate(edge.log, row(sync=rules))
        ref = (edge.log.collection_id("notes"), "gone")
        with edge.log.writer.lock, edge.log.transact() as db:
            db.execute(evicted.TABLE)
            db.execute("INSERT INTO evicted VALUES (?, ?, 1, ?, X'')", (*ref, evicted.WANTED))
    for collection, key, left, stays in (
        ("notes", "gone", "fetched", ""),
        ("notes", "old", "", ""),
        ("agent.documents", document, "", "several records"),
    ):
        asked = ("policy", "explain", tmp_path, collection, key)
        told = json.loads(run(*asked, "--json").stdout)
        assert (left in told["left"], stays in told["stays"]) == (True, True)
        assert (bool(told["left"]), bool(told["stays"])) == (bool(left), bool(stays))
        shown = run(*asked).stdout
        assert ("has left" in shown, "stays for now" in shown) == (bool(left), bool(stays))
    assert "policy" in run("status", tmp_path).stdout
    with Edge.open(tmp_path) as edge:
        activate(edge.log, row(sync=[{"collections": ["*"], "direction": "absent"}]))
        with edge.log.writer.lock, edge.log.transact() as db:
            db.execute("UPDATE evicted SET state = ?", (evicted.QUIET,))
    assert "until a policy wants it here" in run("policy", "explain", tmp_path, "notes", "gone").stdout


def test_another_policy_can_be_asked_as_if_it_held(tmp_path: Path) -> None:
    Edge.open(tmp_path / "store").close()
    path = tmp_path / "a.toml"
    path.write_text('schema = 1\nname = "a"\n[[sync]]\ncollections = ["*"]\ndirection = "down"\n')
    said = run("policy", "explain", tmp_path / "store", "notes", "k", "--file", path)
    assert "received; not written here" in said.stdout
    assert run("policy", "show", tmp_path / "store", "--file", path).stdout.startswith("policy a, from a file; 1 sync")
    path.write_text("schema = 2")
    said = run("policy", "show", tmp_path / "store", "--file", path)
    assert said.exit_code == 2
    assert str(path) in said.stderr


@pytest.mark.parametrize(
    "asked", [("a b", "k"), ("notes", ""), ("notes", "k", "--agent", ""), ("n", "k", "--fields", "[")]
)
def test_what_cannot_be_asked_is_a_line_and_a_hint(tmp_path: Path, asked: tuple[str, ...]) -> None:
    Edge.open(tmp_path).close()
    said = run("policy", "explain", tmp_path, *asked)
    assert said.exit_code == 2
    assert said.stderr.startswith("error: ")


# -- what holds is obeyed ---------------------------------------------------------------------------------------------

STORES: list[tuple[type[Any], str, set[str]]] = [
    (Thread, "state", set()),
    (Memory, "memories", {"fields_of", "held", "patch_of", "prepared", "ranked"}),
    (Documents, "documents", set()),
    (Attachments, "attachments", set()),
    (Vectors, "vectors", set()),
]


@pytest.mark.parametrize(("cls", "store", "inner"), STORES, ids=lambda one: one if isinstance(one, str) else "")
def test_every_call_of_an_agents_handle_asks(tmp_path: Path, cls: type[Any], store: str, inner: set[str]) -> None:
    """``inner``: for what is done to many at once, which has asked."""
    with Edge.open(tmp_path) as edge:
        guide = edge.agent("guide")
        handles: list[Any] = [guide.thread(), guide.memory(), guide.documents(), guide.attachments()]
        handles.append(guide.vectors("space", dimension=2))
        (handle,) = [one for one in handles if type(one) is cls]
        activate(edge.log, row(agent=[{"name": "guide", "allow": {}}], sync=[]))
        edge._policies  # noqa: B018 - as a link does, or the next opening
        calls = {name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")} - inner
        for name in sorted(calls):
            method = getattr(handle, name)
            needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
            given = [None for p in needed if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            with pytest.raises(NotAllowed, match=f"agent.{store}"):
                method(*given)
        other = edge.agent("other").memory()
        assert other.get(other.add("tea").id) is not None, "a table names the agents that it is of"


def test_reading_may_be_allowed_where_writing_is_not(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        guide = edge.agent("guide")
        thread = guide.thread()
        thread.put({"step": 1})
        edge.agent("guide").memory().add("tea")
        allowed = {"read": ["agent.*"], "write": ["agent.memories"]}
        activate(edge.log, row(agent=[{"name": "guide", "allow": allowed}], sync=[]))
    with Edge.open(tmp_path) as edge:
        thread = edge.agent("guide").thread()
        assert thread.get() == {"step": 1}
        with pytest.raises(NotAllowed):
            thread.put({"step": 2})
        assert edge.agent("guide").memory().add("coffee").id
        assert edge.agent("guide").export(tmp_path / "out.jsonl")["memory"] == 2
        for act in (edge.agent("guide").erase, edge.agent("guide").lift_erasure):
            with pytest.raises(NotAllowed):
                act()
        edge.collection("notes").put("k", {"a": 1})  # the device's owner asks nobody
        with Edge.open(tmp_path, read_only=True) as reader:
            assert reader.agent("guide").thread().get() == {"step": 1}


def test_a_process_that_only_reads_hears_of_a_policy(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.agent("guide").thread().put(1)
        with Edge.open(tmp_path, read_only=True) as reader:
            thread = reader.agent("guide").thread()
            assert thread.get() == 1
            activate(edge.log, row(agent=[{"name": "guide", "allow": {}}], sync=[]))
            with pytest.raises(NotAllowed):
                thread.get()
            activate(edge.log, row(8, sync=[], agent=[]))
            assert thread.get() == 1
            assert reader.policy.describe()["number"] == 8


@pytest.mark.parametrize("direction", ["down", "absent"])
def test_nothing_is_written_where_writes_are_only_received_or_nothing_is_kept(tmp_path: Path, direction: str) -> None:
    rules = [
        {"collections": ["settings"], "prefixes": ["fleet/"], "direction": direction},
        {"agents": ["clerk"], "direction": direction},
    ]
    with Edge.open(tmp_path) as edge:
        settings = edge.collection("settings")
        settings.put("fleet/a", {"n": 1})
        edge.agent("clerk").memory().add("tea")
        edge.agent("other").thread().put(1)
        activate(edge.log, row(sync=rules, agent=[]))
    with Edge.open(tmp_path) as edge:
        settings = edge.collection("settings")
        before = edge.log.head_seq
        for write in (
            lambda: settings.put("fleet/a", {"n": 2}),
            lambda: settings.patch("fleet/a", {"n": 2}),
            lambda: settings.delete("fleet/a"),
            lambda: edge.agent("clerk").memory().add("coffee"),
            lambda: edge.agent("clerk").thread().put(1),
        ):
            with pytest.raises(NotAllowed, match=f"is {direction} on this device"):
                write()
        with pytest.raises(NotAllowed):
            _both(edge)
        assert edge.log.head_seq == before
        assert settings.get("mine") is None
        assert settings.get("fleet/a") == {"n": 1}
        assert edge.agent("clerk").memory().search("tea"), "what a search notes is ours"
        settings.put("mine", {"n": 1})
        edge.collection("declared")


def _both(edge: Edge) -> None:
    with edge.batch():
        edge.collection("settings").put("mine", {"n": 1})
        edge.collection("settings").put("fleet/b", {"n": 1})


def test_a_store_without_a_policy_loads_nothing_that_reads_one(tmp_path: Path) -> None:
    code = f"""
import sys
from edge import Attachments, Documents, Edge, Memory, Thread, Vectors
for _ in range(2):
    with Edge.open({str(tmp_path)!r}) as edge:
        edge.agent("guide").memory().add("tea")
        edge.agent("guide").thread().put(1)
found = [name for name in sys.modules if name.startswith(("sync.polic", "edge.control", "rfc8785", "cedarpy"))]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
