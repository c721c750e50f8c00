"""``agentdb-edge models``: what is here, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge import Edge, EdgeConfig
from edge.cli import main
from sync.models import Golden, Soak
from tests.edge.control.model_world import Shelf, assign, contents, model, settle

GOOD, BETTER, BAD = (model([[number, 2.0]]) for number in (1.0, 1.0005, 9.0))
PROBES = [Golden([1.0, 1.0], [3.0], 0.01)]
TOML = '[models.runners]\ntoy = "tests.edge.control.runner:run"\n'


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    shelf = Shelf(folder / "shelf")
    Edge.open(folder / "store").close()
    (folder / "store" / "edge.toml").write_text(TOML)
    with Edge.open(folder / "store") as edge:
        edge.models.connect(shelf.fill)
        for number, files, soak in ((1, GOOD, Soak()), (2, BETTER, Soak(uptime_s=300, uses=2)), (3, BAD, Soak())):
            assign(edge.models, number, shelf.publish(number, files, probes=PROBES, soak=soak))
            settle(edge.models)
            if number == 2:
                edge.models.report_use("embed")
                assign(edge.models, 1, shelf.publish(1, GOOD, probes=PROBES, soak=Soak()))
        assign(edge.models, 7, shelf.publish(7, GOOD, name="chat", runs_code=True), "chat")
        assign(edge.models, 8, shelf.publish(8, BETTER, name="soaks", soak=Soak(uptime_s=300, uses=2)), "soaks")
        settle(edge.models)
        edge.models.connect(None)
        assign(edge.models, 9, shelf.publish(9, GOOD, name="waits"), "waits")
    return str(folder / "store")


def test_the_list_says_what_is_in_use_and_what_came_back(store: str) -> None:
    lines = run("list", store).output.splitlines()
    assert lines[0].split() == ["model", "state", "in", "use", "next", "returned", "bytes"]
    assert lines[1].split()[:6] == ["embed", "returned", "1", "(1.1)", "-", "3"]
    assert lines[1].endswith("golden: output[0] is 11 instead of 3, 0.01 off may be")
    assert "0 of 5 minutes, 0 of 2 uses, 0 errors" in lines[2]
    assert lines[3].split()[:5] == ["waits", "fetching", "-", "9", "-"]
    told = json.loads(run("list", store, "--json").output)
    assert [(one["name"], one["state"], one["number"]) for one in told] == [
        ("embed", "returned", 1),
        ("soaks", "soaking", 8),
        ("waits", "fetching", 0),
    ]


def test_one_model_in_full(store: str) -> None:
    said = run("show", store, "embed").output
    assert "1 (1.1), " in said
    assert "3: golden: output[0] is 11 instead of 3" in said
    assert "tests.edge.control.runner:run" in said
    assert "Refused here" in said
    told = json.loads(run("show", store, "embed", "--json").output)
    assert (told["returned"], told["refused"][0]["number"]) == (3, 3)
    assert "2 uses" in run("show", store, "soaks").output


def test_the_path_is_where_the_files_are(store: str) -> None:
    assert contents(Path(run("path", store, "embed").output.strip())) == GOOD
    assert contents(Path(json.loads(run("path", store, "embed", "--json").output)["path"])) == GOOD


@pytest.mark.parametrize("command", ["show", "path", "retry", "remove"])
def test_a_name_that_is_not_here_is_a_mistake_in_a_line(store: str, command: str) -> None:
    done = run(command, store, "none")
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert done.output.splitlines()[1].startswith("hint: ")
    assert json.loads(run(command, store, "none", "--json").output)["error"] == "not-found"


def test_what_is_on_its_way_has_no_path_yet(store: str) -> None:
    done = run("path", store, "waits")
    assert (done.exit_code, "it is fetching" in done.output) == (2, True)


def test_a_store_without_models(tmp_path: Path) -> None:
    Edge.open(tmp_path).close()
    assert run("list", str(tmp_path)).output == "No models: the fleet has assigned none to this device.\n"
    assert json.loads(run("list", str(tmp_path), "--json").output) == []
    with Edge.open(tmp_path) as edge:
        assert edge.status()["models"] == []


def test_retry_and_remove(store: str) -> None:
    with Edge.open(store, read_only=True) as edge:
        assert [one["name"] for one in edge.status()["models"]] == ["embed", "soaks", "waits"]
        assert edge.verify() == []
    done = run("retry", store, "embed")
    assert done.output == "embed: returned, golden: output[0] is 11 instead of 3, 0.01 off may be\n"
    Path(store, "edge.toml").write_text("")
    told = json.loads(run("retry", store, "embed", "--json").output)
    assert (told["state"], told["number"], told["measured"]["unprobed"]) == ("committed", 3, ["golden"])
    assert EdgeConfig().models_runners == {}
    done = run("remove", store, "embed")
    assert done.output.startswith("embed removed, ")
    assert json.loads(run("remove", store, "soaks", "--json").output)["removed"] == "soaks"
    assert not Path(store, "models", "embed").exists()
