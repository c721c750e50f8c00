"""What a device was given to run, on a disk that fails or changes it, after a restart, and in other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.control.model_slots import Slots
from edge.node import Edge
from edge.storage import policy_row
from edge.storage.log_schema import connect
from sync.assignments import Agreed
from sync.errors import CorruptStore, DataError, DiskFull, NotFound, StorageError, Untrusted
from sync.messages import Control
from tests.control_world import DOCUMENTS, MODEL, POLICY_2, ControlWorld
from tests.control_world import POLICY as POLICY_1
from tests.edge.control.trust_device import Device, everything
from tests.edge.faulty_vfs import faulty_vfs

pytestmark = pytest.mark.usefixtures("assigned")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["full", "io", "short"])
def test_a_disk_that_fails_in_the_last_step_leaves_the_old_set_whole(
    world: ControlWorld, tmp_path: Path, kind: str
) -> None:
    with faulty_vfs() as faults:
        device = Device(tmp_path / "device", world)
        device.update()
        world.publish(2)
        world.plane.assign(world.fleet, "policy", POLICY_2)
        control, before = device.ask(), everything(device)
        faults.kind = kind
        failures = 0
        for writes in range(100):
            faults.writes_left = writes
            try:
                device.trust.accept(control, device.fetch)
            except StorageError:
                failures += 1
                faults.writes_left = None
                assert everything(device) == before
                device.again()
                assert everything(device) == before
                continue
            break
        faults.writes_left = None
        assert failures > 3
        assert device.runs() == {"policy": DOCUMENTS[POLICY_2]}
        device.again()
        assert device.runs() == {"policy": DOCUMENTS[POLICY_2]}
        device.edge.close()


def damage(device: Device, name: str) -> None:
    log = device.edge.log
    with log.writer.lock, log.transact() as db:
        db.execute("UPDATE trust SET data = substr(data, 1, 100) || 'x' || substr(data, 102) WHERE name = ?", (name,))


@pytest.mark.parametrize("name", ["snapshot", "root"])
def test_what_is_kept_and_was_damaged_is_found_and_fetched_again(device: Device, name: str) -> None:
    device.update()
    device.trust.check()
    damage(device, name)
    assert len(device.trust.verify()) == 1
    assert len(device.edge.verify()) == 1
    with pytest.raises(CorruptStore, match="damaged"):
        device.trust.check()
    assert device.refused == "corrupt-store"
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    device.update()
    assert (device.refused, device.trust.verify()) == ("", [])


def test_damage_is_found_when_something_new_comes_too(device: Device) -> None:
    device.update()
    control = device.ask()
    damage(device, "policies")
    with pytest.raises(CorruptStore):
        device.trust.accept(control, device.fetch)
    device.update()
    assert device.trust.verify() == []


def test_a_document_that_was_damaged_does_not_run(device: Device) -> None:
    device.update()
    log = device.edge.log
    with log.writer.lock, log.transact() as db:
        db.execute("UPDATE targets SET data = X'7B7D'")
    with pytest.raises(Untrusted, match="not what was agreed"):
        device.runs()
    assert device.trust.verify() == [f"{POLICY_1}: not what was agreed: the disk, or something else, changed it"]


def change(device: Device, *statements: str) -> None:
    log = device.edge.log
    with log.writer.lock, log.transact() as db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize("statement", ["UPDATE targets SET data = X'00'", "DELETE FROM targets"])
def test_a_document_that_the_disk_has_changed_or_lost_is_fetched_again(device: Device, statement: str) -> None:
    device.world.plane.assign(device.world.fleet, "models/embed", MODEL)
    device.update()
    right = device.runs()
    change(device, statement)
    device.again()
    assert len(device.edge.models.status()) == 1, "what is damaged keeps nobody from the others"
    assert device.edge.policy.describe()["path"] == POLICY_1, "the policy holds by a row of its own"
    assert len(device.trust.verify()) == 2
    assert device.update() == (), "nothing new is assigned"
    assert device.runs() == right
    assert device.trust.verify() == []


def test_a_damaged_document_keeps_no_later_assignment_back(device: Device) -> None:
    device.world.plane.assign(device.world.fleet, "models/embed", MODEL)
    device.update()
    change(device, "UPDATE targets SET data = X'00'")
    device.again()
    device.world.plane.assign(device.world.fleet, "policy", POLICY_2)
    assert device.update() == ("policy",)
    assert device.runs() == {"policy": DOCUMENTS[POLICY_2], "models/embed": DOCUMENTS[MODEL]}


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM trust WHERE name = '{name}'" for name in ("root", "timestamp", "targets", "models")),
        "DELETE FROM trust WHERE name NOT LIKE '=%'",
        "UPDATE trust SET data = 5 WHERE name = 'timestamp'",
        "UPDATE trust SET data = 'text' WHERE name = 'root'",
    ],
)
def test_metadata_that_the_disk_has_lost_is_fetched_again(device: Device, statement: str) -> None:
    device.update()
    change(device, statement)
    device.again()
    assert len(device.trust.verify()) == 1
    with pytest.raises(CorruptStore):
        device.update()
    device.update()
    assert device.trust.verify() == []
    device.world.plane.assign(device.world.fleet, "policy", POLICY_2)
    assert device.update() == ("policy",)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_full_disk_kept_from_beginning_is_begun_at_the_next_handshake(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.world.plane.assign(device.world.fleet, "models/embed", MODEL)

    def full(*_: object) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as disk:
        disk.setattr(policy_row, "store", full)
        disk.setattr(Slots, "keep", full)
        device.update()
        assert device.edge.policy.describe() == {}
        assert device.edge.models.status() == []
        device.again()
        assert device.edge.policy.describe() == {}
        assert device.edge.models.status() == [], "it keeps nobody from the models that are there"
    assert device.update() == (), "nothing new is assigned"
    assert device.edge.policy.describe()["path"] == POLICY_1
    assert [one.name for one in device.edge.models.status()] == ["embed"]


# -- without a network -------------------------------------------------------------------------------------------------


def test_a_start_reads_what_runs_and_imports_nothing_that_verifies(device: Device) -> None:
    device.update()
    device.edge.close()
    code = """
import sys
from edge.node import Edge
with Edge.open(sys.argv[1]) as edge:
    names = {one.place: one.path for one in edge.trust.documents("")}
    status = edge.trust.status()
assert names == {"policy": "policies/kiosk/1.json"}, names
assert status.assignment == 1
heavy = {"tuf", "securesystemslib", "rfc8785", "json", "sync.manifests", "sync.assignments"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code, str(device.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    device.open()


def test_a_copy_of_the_store_and_a_reader_have_it_too(device: Device, tmp_path: Path) -> None:
    device.update()
    with Edge.open(device.path, read_only=True) as reader:
        assert {one.place for one in reader.trust.documents("")} == {"policy"}
        assert reader.status()["trust"]["assignment"] == 1
    device.edge.snapshot(tmp_path / "copy")
    with Edge.open(tmp_path / "copy", clock=device.world.clock) as copy:
        assert {one.data for one in copy.trust.documents("")} == {DOCUMENTS[POLICY_1]}
        assert copy.trust.verify() == []
        assert copy.trust.asking() == device.trust.asking()


@pytest.mark.parametrize("note", [b"\x05", b"\x97\x01\x02\x03\x04\x90\x80", b"\x98" + b"\xc0" * 8, b"\xc1"])
def test_a_damaged_note_of_it_is_a_damaged_store(device: Device, note: bytes) -> None:
    device.update()
    device.edge.close()
    db = connect(str(device.path / "log.db"))
    whole = db.execute("SELECT value FROM meta WHERE name = 'control'").get
    db.execute("UPDATE meta SET value = ? WHERE name = 'control'", (note,))
    with pytest.raises(CorruptStore, match="'control'") as found:
        Edge.open(device.path)
    assert "snapshot" in found.value.hint
    db.execute("UPDATE meta SET value = ? WHERE name = 'control'", (whole,))
    db.close()
    device.open()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}


def test_a_document_that_is_lost_for_good_keeps_no_other_from_being_begun(device: Device) -> None:
    device.world.plane.assign(device.world.fleet, "models/embed", MODEL)
    device.update()
    change(device, "UPDATE targets SET data = X'00' WHERE path LIKE 'policies/%'", "DELETE FROM policy")
    told: list[list[str]] = []
    part: Any = SimpleNamespace(wanted=tuple, activated=lambda given: told.append([one.path for one in given]))
    device.trust.on_activated("", part)  # all places in one part

    def gone(target: Agreed) -> bytes:
        raise NotFound(f"{target.path} is nowhere")

    device.trust.tell_again("")
    device.trust.accept(device.ask(), gone)
    assert told == [[MODEL]]
    change(device, "DELETE FROM targets")
    device.trust.tell_again("")
    device.trust.accept(device.ask(), gone)
    assert told == [[MODEL]], "that nothing is left to run is not what was agreed"


def test_what_was_put_back_is_begun_though_nothing_new_is_taken(device: Device) -> None:
    device.update()
    change(device, "UPDATE targets SET data = X'00'", "DELETE FROM policy")
    device.again()
    assert device.edge.policy.describe() == {}
    control = device.ask()
    with pytest.raises(DataError):
        device.trust.accept(Control(control.roots, b"{}", b"", [], b"", b""), device.fetch)
    assert device.edge.policy.describe()["path"] == POLICY_1


def test_an_assignment_that_the_disk_has_changed_is_fetched_again(device: Device) -> None:
    device.update()
    right = device.trust.tables.kept()
    change(device, "UPDATE trust SET data = X'7B' WHERE name = '=assignment'")
    device.again()
    with pytest.raises(CorruptStore, match="assignment"):
        device.edge.twin.desired()
    device.update()
    device.update()
    assert device.trust.tables.kept() == right
    assert device.edge.twin.desired() == {}
