"""``agentdb-cloud models``: the real commands over a real directory, its archive and a restore of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sync.models import Manifest, Probe
from tests.cloud.fleet.model_world import some_bytes
from tests.cloud.test_cli import ok, run

SAMPLE = Path(__file__).resolve().parents[2] / "configs" / "model.toml"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    ok("init", tmp_path / "cloud")
    return tmp_path / "cloud"


def folder(path: Path, seed: int = 1) -> Path:
    path.mkdir()
    (path / "model.safetensors").write_bytes(some_bytes(500_000, seed))
    (path / "words.txt").write_text("a b c")
    return path


def test_the_sample_has_every_kind_of_probe_and_every_key(fleet: Path, tmp_path: Path) -> None:
    source = folder(tmp_path / "m")
    made = ok(
        *("models", "publish", fleet, source, "--name", "embed", "--version", "1.3.0", "--details", SAMPLE),
        *("--metric", "ndcg=0.5", "--lineage", "run=4712", "--alias", "canary"),
    )
    assert (made["number"], made["files"], made["bytes"], made["runs_code"]) == (1, 2, 500_005, False)
    manifest = Manifest.parse(Path(made["manifest"]).read_bytes())
    assert made["manifest"].endswith("to-sign/models/embed/1.json")
    assert {type(probe) for probe in manifest.probes} == set(Probe.__args__)
    assert manifest.metrics == {"recall": 0.93, "ndcg": 0.5}
    assert manifest.lineage == {"parent": "embed 1.2.0", "data": "corpus of 2026-10", "run": "4712"}
    assert manifest.chunk_list(Path(made["chunk_list"]).read_bytes())


def test_what_was_published_is_listed_named_and_shown(fleet: Path, tmp_path: Path) -> None:
    assert "No model" in run("models", "list", fleet).stdout
    source = folder(tmp_path / "m")
    said = None
    for version in ("1.0", "1.1"):
        said = run("models", "publish", fleet, source, "--name", "embed", "--version", version, "--out", tmp_path)
        assert said.exit_code == 0, said.stderr
        assert f"Published embed {version} as number" in said.stdout
        assert "To be signed: " in said.stdout
    assert said is not None
    assert "500,005 were there" in said.stdout
    assert ok("models", "alias", fleet, "embed", "champion", "1.0")["number"] == 1
    listed = ok("models", "list", fleet)
    assert [(row["number"], row["version"], row["aliases"]) for row in listed] == [
        (1, "1.0", ["champion"]),
        (2, "1.1", []),
    ]
    table = run("models", "list", fleet, "embed").stdout
    assert "champion" in table
    shown = ok("models", "show", fleet, "embed", "champion", "--out", tmp_path / "again")
    assert (tmp_path / "again/models/embed/1.json").read_bytes() == (tmp_path / "models/embed/1.json").read_bytes()
    assert (tmp_path / "again/models/embed/1.chunks").read_bytes() == (tmp_path / "models/embed/1.chunks").read_bytes()
    assert [file["path"] for file in shown["manifest"]["files"]] == ["model.safetensors", "words.txt"]
    assert "words.txt" in run("models", "show", fleet, "embed").stdout
    assert run("models", "remove", fleet, "embed", "1").exit_code == 2
    assert ok("models", "alias", fleet, "embed", "champion", "--drop")["number"] == 0
    assert ok("models", "remove", fleet, "embed", "1")["number"] == 1
    assert [(row["action"], row["subject"]) for row in ok("audit", fleet)["rows"] if "model" in row["action"]] == [
        ("model.published", "embed 1"),
        ("model.published", "embed 2"),
        ("model.named", "embed 1"),
        ("model.unnamed", "embed"),
        ("model.removed", "embed 1"),
    ]
    assert ok("models", "gc", fleet) == {"packs": 0, "bytes": 0, "kept": 0}
    assert "Deleted 0 packs" in run("models", "gc", fleet).stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("publish", "m", "--name", "embed", "--version", "1"), "--allow-pickle-that-runs-code"),
        (("publish", "none", "--name", "embed", "--version", "1"), "nothing was published"),
        (("publish", "m", "--name", "Embed", "--version", "1"), "a-z"),
        (("publish", "n", "--name", "embed", "--version", "1", "--alias", "7"), "canary"),
        (("publish", "n", "--name", "embed", "--version", "1", "--metric", "recall=nan"), "configs/model.toml"),
        (
            ("publish", "n", "--name", "embed", "--version", "1", "--lineage", "data=" + "x" * 1025),
            "configs/model.toml",
        ),
        (("publish", "n", "--name", "embed", "--version", "\x1b[2J"), "1.3.0"),
        (("publish", "m", "--name", "embed", "--version", "1", "--metric", "recall"), ""),
        (("publish", "m", "--name", "embed", "--version", "1", "--metric", "recall=high"), "recall=0.93"),
        (("publish", "m", "--name", "embed", "--version", "1", "--details", "bad.toml"), "configs/model.toml"),
        (("show", "embed"), "models list"),
        (("alias", "embed", "champion"), "NUMBER"),
        (("alias", "embed", "champion", "7"), "models list"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder(tmp_path / "m") / "weights.pt").write_bytes(b"x")
    folder(tmp_path / "n")
    (tmp_path / "bad.toml").write_text("[needs]\ngpus = 1\n")
    result = run("models", arguments[0], fleet, *arguments[1:])
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error: ")
    assert hint in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert ok("models", "list", fleet) == []
    assert not list((fleet / "archive").rglob("pack/*"))


def test_pickles_are_published_in_words_only_and_said_so(fleet: Path, tmp_path: Path) -> None:
    (folder(tmp_path / "m") / "weights.pt").write_bytes(b"x")
    flags = ("--name", "embed", "--version", "1", "--allow-pickle-that-runs-code")
    result = run("models", "publish", fleet, tmp_path / "m", *flags)
    assert result.exit_code == 0
    assert "warning: it runs its maker's code" in result.stderr
    assert ok("models", "list", fleet)[0]["runs_code"]


def test_a_restore_knows_the_models_and_leaves_their_packs(fleet: Path, tmp_path: Path) -> None:
    ok("models", "publish", fleet, folder(tmp_path / "m"), "--name", "embed", "--version", "1", "--alias", "canary")
    ok("models", "publish", fleet, folder(tmp_path / "n", 2), "--name", "other", "--version", "1")
    ok("models", "remove", fleet, "other", "1")
    ok("archive", "run", fleet)
    before = ok("models", "show", fleet, "embed")
    back = tmp_path / "back"
    ok("restore", back, "--archive", fleet / "archive", "--keys", fleet / "keys")
    assert ok("models", "show", back, "embed", "canary") == before
    assert [row["name"] for row in ok("models", "list", back)] == ["embed"]
    assert ok("models", "gc", back)["kept"] == 1
    assert ok("archive", "verify", back)["unreferenced"] == 0
    again = ok("models", "publish", back, tmp_path / "m", "--name", "embed", "--version", "2")
    assert (again["number"], again["stored_bytes"]) == (2, 0), "where its chunks lie is known again"
    made = ok("models", "publish", back, tmp_path / "n", "--name", "other", "--version", "1")
    assert made["number"] == 2, "a number that was removed is not given out again"
    assert json.dumps(made)
