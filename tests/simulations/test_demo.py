"""The demo: its parts, the whole story on a small input, and that nothing stays behind when it is interrupted."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from time import monotonic, sleep

import pytest
from rich.console import Console

from simulations import keywords
from simulations.corpus import Text
from simulations.demo import __main__ as command
from simulations.demo.cast import DemoFailed, expect
from simulations.demo.offline import SHARED, TEXTS_MIN, A, B, Disagreements, rare_words, split, words_of_one
from simulations.demo.screen import Screen, size
from simulations.demo.steering import probe, telling
from simulations.processes import environment


def _texts(count: int) -> list[Text]:
    rng = random.Random(5)
    words = [
        f"{first}{last}" for first in ("pump", "valve", "motor", "relay") for last in ("", "house", "room", "shaft")
    ]
    return [
        Text(f"t{n}", "test", f"Text {n}", " ".join([*rng.choices(words, k=20), f"special{chr(97 + n % 26) * 3}"]))
        for n in range(count)
    ]


def test_both_halves_hold_the_shared_texts_and_together_all() -> None:
    texts = _texts(61)
    halves = split(texts)
    assert halves[A][:SHARED] == halves[B][:SHARED] == texts[:SHARED]
    assert {text.key for half in halves.values() for text in half} == {text.key for text in texts}
    assert len(halves[A]) + len(halves[B]) == len(texts) + SHARED


def test_rare_words_single_out_a_text() -> None:
    texts = [*_texts(20), Text("odd", "test", "odd", "a zebra quietly juggles")]
    assert rare_words(texts) == "juggles quietly zebra"
    with pytest.raises(DemoFailed, match="three words"):
        rare_words([Text("x", "x", "x", "1 2 3")])


def test_texts_of_ones_own_are_asked_in_their_own_words() -> None:
    assert words_of_one([Text(f"t{n}", "t", "t", f"1. Pump number{n} grows louder daily") for n in range(9)]) == (
        "pump grows louder daily"
    )
    short = Text("x", "x", "x", "one two")
    assert words_of_one([*_texts(3), short, short]) == " ".join(_texts(3)[2].body.split()[:4])


def test_texts_without_words_are_told_before_anything_is_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text("\n".join(json.dumps(f"{n} 1 2 3") for n in range(60)))
    assert command.main(["--input", str(path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "three words of 4 to 12 letters" in said
    assert "A fleet on paper" not in said


def test_make_passes_any_file_name_on(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    for name in ("it's here.txt", 'a "b" ;c.txt', "plain"):
        planned = subprocess.run(
            ["make", "-n", "-o", ".venv/package.stamp", "demo", f"INPUT={name}"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert '--input "$INPUT"' in planned.stdout
        assert name not in planned.stdout


def test_the_planned_conflicts_are_exactly_where_both_write_the_same_thing() -> None:
    changes = Disagreements(_texts(SHARED))
    of_a = {(change["key"], *sorted(change.get("fields", ["-"]))) for change in changes.of_a()}
    of_b = {(change["key"], *sorted(change.get("fields", ["-"]))) for change in changes.of_b()}
    assert {key for key, field in of_a & of_b if field == "title"} == set(changes.titles)
    assert len(changes.conflicting) == len(changes.titles) + 3


def test_a_golden_input_is_toml_whatever_the_text() -> None:
    text = 'a \U0001f600 "quoted" \\ \x7f \x1b \u2028 é\n\t'
    (found,) = tomllib.loads(probe((text, ["quoted"])))["probes"]
    assert (found["input"], found["output"]) == ({"text": text}, ["quoted"])


def test_the_bad_model_is_told_from_the_good_one_whichever_texts_there_are() -> None:
    """Also where some have nothing but rare words, or words of one half of the alphabet."""
    for letters in ("abc", "xyz", "amz"):
        words = [f"{first}{second}mm" for first in letters for second in "abcdefgh"]
        texts = ["Пыль 1 2 3", "", *(" ".join(words[at:]) for at in range(0, 20, 5))]
        weights = keywords.weigh(texts)
        asked = telling(texts)[0]
        assert keywords.best(keywords.broken(weights, asked), asked) != keywords.best(weights, asked)


def test_without_a_terminal_there_are_plain_lines_and_texts_are_no_markup() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, force_terminal=False))
    screen.chapter("First [bold]", "What [red]happens[/red].")
    with screen.bars("device") as bars:
        for done in (10, 25, 50, 51, 100):
            bars["device"]({"done": done, "total": 100})
    screen.table(("a", "#b"), [("[link]x", 1)])
    text = out.getvalue()
    assert "1. First [bold]" in text
    assert "[red]happens[/red]" in text
    assert [line.strip() for line in text.splitlines() if "device:" in line] == [
        *("device: 25 of 100", "device: 50 of 100", "device: 100 of 100"),
    ]
    assert "[link]x" in text
    assert "\x1b" not in text


def test_sizes_are_for_people() -> None:
    assert [size(count) for count in (950, 99_000, 1_234_567)] == ["0.9 KB", "99.0 KB", "1.23 MB"]


def test_a_claim_that_does_not_hold_is_a_sentence() -> None:
    expect(1, "fine")
    with pytest.raises(DemoFailed, match="the digests differ"):
        expect([], "the digests differ")


@pytest.mark.parametrize("content", [None, "too short"])
def test_a_bad_input_ends_with_one_clear_sentence(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input.txt"
    if content is not None:
        path.write_text(content)
    assert command.main(["--input", str(path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "The demo failed: " in said
    assert ("nothing at" if content is None else f"at least {TEXTS_MIN}") in said


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], pytest.param(["--s3"], marks=pytest.mark.s3)])
def test_the_whole_story_holds_on_a_small_input(tmp_path: Path, extra: list[str]) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": text.key, "text": text.body}) for text in _texts(80)))
    done = _run(["--input", str(path), *extra], tmp_path)
    said, _ = done.communicate(timeout=170)
    assert done.returncode == 0, said
    assert "10. The fleet goes on" in said
    assert "13. A bad one comes back by itself" in said
    assert not list(tmp_path.glob("agentdb-demo-*"))


@pytest.mark.slow
def test_an_interrupted_demo_leaves_no_process_and_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps(text.body) for text in _texts(80)))
    demo = _run(["--input", str(path)], tmp_path)
    deadline = monotonic() + 60
    while not (folders := [item for item in tmp_path.glob("agentdb-demo-*") if (item / A).exists()]):
        assert monotonic() < deadline
        sleep(0.05)
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert "interrupted" in said
    assert not folders[0].exists()
    mine = subprocess.run(["pgrep", "-f", str(folders[0])], capture_output=True, text=True, check=False)
    assert mine.stdout == ""


def _run(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulations.demo", *arguments],
        env={**environment(), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
