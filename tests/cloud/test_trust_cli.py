"""``agentdb-cloud trust``: what an operator signs offline is what a device takes, and mistakes change nothing."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cloud.cli import main
from cloud.fleet import signing
from cloud.fleet.signing import SigningKey
from cloud.fleet.trust_files import TrustFiles, read_key_file
from cloud.ports import SystemClock
from sync.errors import NotFound, StaleWrite, TooLarge, Untrusted
from sync.limits import TARGET_BYTES_MAX
from sync.manifests import Offer, TrustedSet, pinned
from tests.control_world import model_document
from tests.trust_world import DAY_MS

FLEET = bytes(range(16))


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["trust", *(str(arg) for arg in args)])


def ok(*args: object) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, (result.output, result.stderr)
    return json.loads(result.stdout)


def refused(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.count("\n") <= 2
    assert "hint: " in result.stderr
    return result.stderr


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    ok("init", tmp_path / "trust", "--fleet", FLEET.hex())
    return tmp_path / "trust"


def document(directory: Path, path: str = "policies/kiosk/1.json", level: str = "info") -> Path:
    """What may be listed as ``path``: a policy, with another ``level`` another one, or a manifest."""
    kind, _, name = path.removesuffix(".json").partition("/")
    name, _, number = name.partition("/")
    data = b'{"log":{"level":"%b"},"name":"%b","schema":1}' % (level.encode(), name.encode())
    file = directory.parent / "document.json"
    file.write_bytes(model_document(name, int(number)) if kind == "models" and number.isdecimal() else data)
    return file


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "metadata").iterdir())}


class Device:
    """Takes what is published, as the control plane would publish it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        root = TrustFiles(directory).roots()[0]
        self.trusted = pinned(root, sha256(root).digest(), FLEET)
        self.version = 0
        self.snapshot = b""

    def take(self, online: str = "online") -> TrustedSet:
        published = TrustFiles(self.directory).complete()
        key = TrustFiles(self.directory).held()[online]
        self.version += 1
        soon = SystemClock().wall_ms() + DAY_MS
        self.snapshot = signing.make_snapshot(published.roles, self.version, soon, key, self.snapshot)
        timestamp = signing.make_timestamp(self.snapshot, self.version, soon, key)
        new_roots = published.roots[self.trusted.versions()["root"] :]
        offer = Offer(new_roots, timestamp, self.snapshot, published.roles)
        self.trusted = self.trusted.update(offer, SystemClock().wall_ms())
        return self.trusted


def test_from_nothing_to_a_target_that_a_device_finds(trust: Path) -> None:
    assert sorted(path.name for path in (trust / "keys").iterdir()) == [
        "models.pem", "online.pem", "policies.pem", "root-1.pem", "root-2.pem", "root-3.pem", "targets.pem",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in (trust / "keys").iterdir()} == {0o600}
    device = Device(trust)
    assert device.take().listed() == []
    data = document(trust).read_bytes()
    done = ok("add-target", trust, document(trust), "--as", "policies/kiosk/7.json", "--floor", "6")
    assert (done["role"], done["version"], done["complete"], done["targets"]) == ("policies", 2, True, 1)
    found = device.take().target("policies/kiosk/7.json")
    assert (found.length, found.sha256, found.floor, found.role) == (len(data), sha256(data).digest(), 6, "policies")
    assert TrustFiles(trust).complete().documents == {"policies/kiosk/7.json": data}
    status = ok("status", trust)
    assert status["fleet"] == FLEET.hex()
    assert status["root_sha256"] == sha256((trust / "metadata" / "1.root.json").read_bytes()).hexdigest()
    assert [one["role"] for one in status["files"]] == ["root", "targets", "policies", "models"]
    table = run("status", trust).stdout
    assert "policies  2        1        1 of 1" in table


def test_it_needs_no_control_plane_and_no_network(trust: Path) -> None:
    """In a process of its own that may open no socket, and from the files alone."""
    add = [
        "trust",
        "add-target",
        str(trust),
        str(document(trust, "models/embed/1.json")),
        "--as",
        "models/embed/1.json",
    ]
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('a socket')\n"
        "socket.socket.__init__ = refuse\n"
        "from cloud.cli import main\n"
        f"main({add!r}, standalone_mode=False)\n"
        "assert not {'aiohttp', 'apsw', 'cloud.server.home', 'tuf.ngclient'} & set(sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment)
    assert Device(trust).take().target("models/embed/1.json").number == 1


def test_half_signed_files_go_from_hand_to_hand(trust: Path, tmp_path: Path) -> None:
    device = Device(trust)
    device.take()
    away = tmp_path / "away"
    away.mkdir()
    for number in (1, 2, 3):
        shutil.move(trust / "keys" / f"root-{number}.pem", away / f"root-{number}.pem")
    done = ok("renew", trust, "root", "--days", "30")
    assert (done["version"], done["have"], done["need"], done["complete"]) == (2, 0, 2, False)
    assert len(done["missing"]) == 3
    with pytest.raises(Untrusted, match="root: version 2 has 0 of 2"):
        TrustFiles(trust).complete()
    again = ok("renew", trust, "root", "--days", "60")
    assert again["version"] == 2, "a draft is changed as it is"
    assert not (trust / "metadata" / "3.root.json").exists()
    elsewhere = away / "2.root.json"
    shutil.copy(trust / "metadata" / "2.root.json", elsewhere)
    assert "put it back" in run("sign", elsewhere, "--key", away / "root-1.pem").stdout
    shutil.copy(elsewhere, trust / "metadata" / "2.root.json")
    assert "1 of 2" in run("status", trust).stdout
    same = ok("sign", trust / "metadata" / "2.root.json", "--key", away / "root-1.pem")
    assert same["have"] == 1, "the same key twice counts once"
    done = ok("sign", trust / "metadata" / "2.root.json", "--key", away / "root-3.pem")
    assert (done["have"], done["complete"]) == (2, True)
    before = files_of(trust)
    ok("sign", trust / "metadata" / "2.root.json", "--key", away / "root-2.pem")
    assert files_of(trust) == before, "one signature more would be other bytes of the same version"
    assert device.take().versions()["root"] == 2


def test_only_keys_of_the_role_sign_what_is_in_the_directory(trust: Path) -> None:
    before = files_of(trust)
    keys = trust / "keys"
    for file, key in (("policies", "models"), ("targets", "online"), ("models", "root-1"), ("1.root", "targets")):
        path = trust / "metadata" / f"{file}.json"
        assert "is not signed by the key" in refused("sign", path, "--key", keys / f"{key}.pem")
    assert "public key" in refused("sign", trust / "metadata" / "policies.json", "--key", public(trust, "policies"))
    ok("renew", trust, "root")
    assert "not the newest" in refused("sign", trust / "metadata" / "1.root.json", "--key", keys / "root-1.pem")
    assert {name: data for name, data in files_of(trust).items() if name != "2.root.json"} == before


def public(trust: Path, name: str) -> Path:
    key = read_key_file(trust / "keys" / f"{name}.pem")
    assert isinstance(key, SigningKey)
    path = trust.parent / f"{name}.pub"
    path.write_bytes(key.public.to_pem())
    return path


@pytest.mark.parametrize("role", ["root", "targets", "policies", "models"])
def test_keys_are_rotated_and_the_old_ones_sign_nothing_any_more(trust: Path, role: str) -> None:
    device = Device(trust)
    ok("add-target", trust, document(trust), "--as", "policies/kiosk/1.json")
    before = device.take().versions()
    old = trust / "keys" / ("root-1.pem" if role == "root" else f"{role}.pem")
    ok("rotate", trust, role, "--new", "2", "--threshold", "2")
    versions = device.take().versions()
    risen = {"root": {"root"}, "targets": {"root", "targets"}}.get(role, {"targets", role})
    assert {name for name in before if versions[name] > before[name]} - {"timestamp", "snapshot"} == risen
    assert device.trusted.target("policies/kiosk/1.json").number == 1
    done = ok("renew", trust, role)
    assert (done["have"], done["need"], done["complete"]) == (2, 2, True)
    newest = TrustFiles(trust).path(role)
    if role != "root":
        assert "is not signed by the key" in refused("sign", newest, "--key", old)


def test_a_new_root_needs_the_old_keys(trust: Path, tmp_path: Path) -> None:
    device = Device(trust)
    device.take()
    for number in (1, 2):
        (trust / "keys" / f"root-{number}.pem").unlink()
    done = ok("rotate", trust, "root", "--new", "3", "--threshold", "2")
    assert (done["complete"], done["have"], done["need"]) == (False, 1, 2), "the new alone do not do"
    with pytest.raises(Untrusted, match="has 1 of 2"):
        device.take()


def test_rotating_the_online_key_undoes_a_fast_forward(trust: Path) -> None:
    device = Device(trust)
    device.take()
    device.version = 10**9
    device.take()
    device.version, device.snapshot = 1, b""
    with pytest.raises(Untrusted, match="older"):
        device.take()
    (file,) = ok("rotate", trust, "online", "--new", "1")["private"]
    (new,) = [name for name in TrustFiles(trust).held() if name.startswith("online-")]
    assert Path(file) == trust / "keys" / f"{new}.pem"
    device.snapshot = b""
    assert device.take(new).versions()["timestamp"] == 3


def test_rotating_says_where_the_new_keys_are(trust: Path) -> None:
    said = run("rotate", trust, "online", "--new", "1").stdout
    (file,) = (trust / "keys").glob("online-*.pem")
    assert f"new key: {file}\n" in said
    assert f"agentdb-cloud publish DIR {trust} --online-key {file}" in said
    said = run("rotate", trust, "policies", "--new", "2").stdout
    assert all(f"new key: {file}\n" in said for file in (trust / "keys").glob("policies-*.pem"))
    assert "publish" not in said


def test_a_team_has_targets_of_its_own(trust: Path, tmp_path: Path) -> None:
    made = ok("key", tmp_path / "vision.pem")
    assert (tmp_path / "vision.pem").stat().st_mode & 0o777 == 0o600
    assert len(made["key"]) == 64
    ok("delegate", trust, "vision", "--path", "models/vision-*/*", "--key", tmp_path / "vision.pem.pub")
    with pytest.raises(Untrusted, match="vision: version 1 has 0 of 1"):
        TrustFiles(trust).complete()
    done = ok("add-target", trust, document(trust, "models/vision-eyes/1.json"), "--as", "models/vision-eyes/1.json")
    assert (done["role"], done["version"], done["complete"]) == ("vision", 1, False)
    ok("sign", trust / "metadata" / "vision.json", "--key", tmp_path / "vision.pem")
    ok("add-target", trust, document(trust, "models/embed/1.json"), "--as", "models/embed/1.json")
    device = Device(trust)
    assert {info.path: info.role for info in device.take().listed()} == {
        "models/vision-eyes/1.json": "vision", "models/embed/1.json": "models",
    }  # fmt: skip
    ok(
        "add-target",
        trust,
        document(trust, "models/vision-eyes/2.json"),
        "--as",
        "models/vision-eyes/2.json",
        "--sign-with",
        tmp_path / "vision.pem",
    )
    assert device.take().target("models/vision-eyes/2.json").number == 2


def test_numbers_rise_and_floors_never_fall(trust: Path) -> None:
    ok("add-target", trust, document(trust), "--as", "policies/kiosk/7.json", "--floor", "5")
    before = files_of(trust)
    again = ok("add-target", trust, document(trust), "--as", "policies/kiosk/7.json")
    assert again["version"] == 2
    assert "listed already" in refused(
        "add-target", trust, document(trust, level="debug"), "--as", "policies/kiosk/7.json"
    )
    assert "listed already" in refused("add-target", trust, document(trust), "--as", "policies/kiosk/6.json")
    for floor in (4, 9):
        text = refused("add-target", trust, document(trust), "--as", "policies/kiosk/8.json", "--floor", floor)
        assert "a floor of" in text
    for path in ("policies/Kiosk/8.json", "policies/8.json", "elsewhere/kiosk/8.json", "models/../8.json"):
        assert "not the path of a target" in refused("add-target", trust, document(trust), "--as", path)
    assert files_of(trust) == before
    ok("add-target", trust, document(trust), "--as", "policies/kiosk/8.json")
    assert Device(trust).take().target("policies/kiosk/8.json").floor == 5
    with pytest.raises(TooLarge):
        TrustFiles(trust).add_target("models/embed/1.json", bytes(TARGET_BYTES_MAX + 1), 1)


@pytest.mark.parametrize(
    ("path", "data", "said", "hint"),
    [
        ("policies/kiosk/1.json", b'name = "kiosk"\nschema = 1', "not a policy in JSON", "policy lint FILE --write"),
        (
            "policies/other/1.json",
            b'{"name":"kiosk","schema":1}',
            "the policy in it is 'kiosk'",
            "--as policies/kiosk/",
        ),
        ("policies/kiosk/1.json", b"[" * 100_000, "not a policy in JSON", "policy lint"),
        ("models/embed/1.json", b'{"name":"kiosk","schema":1}', "not a model's manifest", "models publish"),
        ("models/embed/2.json", model_document("embed", 1), "of 'embed' 1", "--as models/embed/1.json"),
    ],
)
def test_what_no_device_would_take_is_not_listed(trust: Path, path: str, data: bytes, said: str, hint: str) -> None:
    before = files_of(trust)
    (trust.parent / "document.json").write_bytes(data)
    text = refused("add-target", trust, trust.parent / "document.json", "--as", path)
    assert said in text
    assert hint in text
    assert files_of(trust) == before


def test_a_draft_does_not_rise_with_each_document(trust: Path) -> None:
    shutil.move(trust / "keys" / "policies.pem", trust.parent / "policies.pem")
    for number in (1, 2, 3):
        done = ok("add-target", trust, document(trust), "--as", f"policies/kiosk/{number}.json")
        assert (done["version"], done["have"], done["targets"]) == (2, 0, number)
    done = ok("sign", trust / "metadata" / "policies.json", "--key", trust.parent / "policies.pem")
    assert done["complete"]
    assert len(Device(trust).take().listed()) == 3


def test_pruning_keeps_the_newest_and_the_floors(trust: Path) -> None:
    device = Device(trust)
    for number in range(1, 6):
        floor = ["--floor", "3"] if number == 4 else []
        path = f"models/embed/{number}.json"
        ok("add-target", trust, document(trust, path), "--as", path, *floor)
    ok("add-target", trust, document(trust, "models/rank/1.json"), "--as", "models/rank/1.json")
    device.take()
    done = ok("prune", trust, "models", "--keep", "1")
    assert done["gone"] == [f"models/embed/{number}.json" for number in range(1, 5)]
    trusted = device.take()
    assert [info.path for info in trusted.listed()] == ["models/embed/5.json", "models/rank/1.json"]
    assert trusted.target("models/embed/5.json").floor == 3
    with pytest.raises(NotFound):
        trusted.target("models/embed/4.json")
    assert ok("prune", trust, "models", "--keep", "1")["gone"] == []
    assert "Taken out: 0 targets" in run("prune", trust, "models").stdout


def test_what_was_published_is_not_signed_as_something_else(trust: Path) -> None:
    published = TrustFiles(trust).complete()
    key = TrustFiles(trust).held()["online"]
    snapshot = signing.make_snapshot(published.roles, 1, 2 * DAY_MS, key)
    older = {**published.roles, "policies": signing.make_targets(1, 5 * DAY_MS)}
    with pytest.raises(StaleWrite, match="other bytes"):
        signing.make_snapshot(older, 2, 2 * DAY_MS, key, snapshot)
    ok("renew", trust, "policies")
    newer = signing.make_snapshot(TrustFiles(trust).complete().roles, 2, 2 * DAY_MS, key, snapshot)
    with pytest.raises(StaleWrite, match="version 1, published is 2"):
        signing.make_snapshot(published.roles, 3, 2 * DAY_MS, key, newer)


def test_a_document_that_was_changed_is_not_published(trust: Path) -> None:
    ok("add-target", trust, document(trust), "--as", "policies/kiosk/1.json")
    (trust / "targets" / "policies" / "kiosk" / "1.json").write_text("[]")
    with pytest.raises(Untrusted, match="not as it was listed"):
        TrustFiles(trust).complete()


def test_mistakes_are_one_line_and_a_hint(trust: Path, tmp_path: Path) -> None:
    before = files_of(trust)
    assert "not empty" in refused("init", trust, "--fleet", FLEET.hex())
    assert "not a fleet's id" in refused("init", tmp_path / "new", "--fleet", "abc")
    assert "3 of 2 keys" in refused(
        "init", tmp_path / "new", "--fleet", FLEET.hex(), "--root-keys", 2, "--root-threshold", 3
    )
    assert not (tmp_path / "new").exists()
    assert "no offline trust" in refused("status", tmp_path)
    assert "no role" in refused("renew", trust, "nobody")
    assert "no role" in refused("rotate", trust, "nobody", "--new", 1)
    assert "which keys" in refused("rotate", trust, "models")
    assert "cannot sign" in refused("rotate", trust, "models", "--new", 1, "--threshold", 2)
    key = trust / "keys" / "models.pem"
    assert "same key twice" in refused("rotate", trust, "models", "--key", key, "--key", public(trust, "models"))
    assert "exists already" in refused("key", key)
    assert "no pattern" in refused("delegate", trust, "team", "--path", "*", "--key", key)
    assert "no name" in refused("delegate", trust, "snapshot", "--path", "models/a/*", "--key", key)
    assert "which document" in refused("add-target", trust, tmp_path / "none", "--as", "policies/a/1.json")
    (tmp_path / "bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (tmp_path / "bad.pem").chmod(0o600)
    assert "not a key" in refused("delegate", trust, "team", "--path", "models/a/*", "--key", tmp_path / "bad.pem")
    assert "not TUF metadata" in refused("sign", document(trust), "--key", key)
    key.chmod(0o644)
    assert "can be read by others" in refused("renew", trust, "models")
    assert files_of(trust) == before


def test_an_expired_or_large_role_is_shown(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = importlib.import_module("cloud.cli.trust")
    monkeypatch.setattr(commands, "_MANY_TARGETS", 1)
    ok("add-target", trust, document(trust), "--as", "policies/kiosk/1.json")
    result = run("status", trust)
    assert "warning: policies lists 1 targets" in result.stderr
    monkeypatch.setattr(commands, "_now_ms", lambda: SystemClock().wall_ms() + 400 * DAY_MS)
    assert run("status", trust).stdout.count("(over)") == 4
