"""The benchmarks' frame: names, lines, targets and the report. Figures themselves are never tested."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations.benchmarks import __main__ as command
from simulations.benchmarks import registry, report
from simulations.benchmarks.measure import Goal, Measurement, alternate, shown, whole_processes
from simulations.benchmarks.registry import BENCHMARKS, NAMES

CONTRACT = {
    *("cold_start_ms", "cold_start_rss_mb", "put_durable_ops_s", "put_batch_ops_s", "put_group_commit_speedup"),
    *(
        "get_us",
        "policy_decision_us",
        "policy_may_us",
        "policy_cedar_us",
        "policy_change_ms",
        "segment_bytes_per_op",
        "edit_bytes_per_op",
        "seal_ops_s",
        "open_ops_s",
        "sync_ops_s",
    ),
    *("sync_wire_bytes", "search_ms", "search_recall", "search_rss_mb", "search_lance_ms", "search_text_ms"),
    *("restore_ops_s", "memory_add_us", "state_put_us", "state_get_us", "checkpoints_mb", "async_stall_ms"),
    *("vector_knn_ms", "ann_knn_ms", "ann_recall"),
    *("model_update_bytes", "model_share_bytes", "model_publish_mb_s", "model_write_mb_s"),
    *("open_large_ms", "memory_search_text_ms", "memory_search_hybrid_ms", "open_million_mb"),
}


def test_everything_that_the_contract_names_is_measured_once() -> None:
    assert set(NAMES) == CONTRACT
    assert len(NAMES) == len(CONTRACT)


@pytest.mark.parametrize("module", BENCHMARKS)
def test_every_benchmark_says_what_it_measures_and_against_what(module: str) -> None:
    text = importlib.import_module(f"simulations.benchmarks.{module}").__doc__ or ""
    assert "Baseline" in text
    assert all(f"``{name}``" in text for name in BENCHMARKS[module])


def test_names_and_modules_can_be_chosen() -> None:
    assert registry.select("seal_ops_s, get_us") == {"gets": {"get_us"}, "segments": {"seal_ops_s"}}
    assert registry.select("cold_start") == {"cold_start": set(BENCHMARKS["cold_start"])}
    assert set(registry.select(None)) == set(BENCHMARKS)


@pytest.mark.parametrize("only", ["nonsense", "get_us,nonsense", ","])
def test_an_unknown_name_is_refused_and_the_names_are_listed(only: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", only])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in NAMES)


def test_a_line_has_the_contract_s_fields_and_says_whether_the_target_is_met() -> None:
    line = Measurement(
        "x", 12_345.678, "ops/s", 5, 24_000.0, (Goal("value", ">=", 10_000), Goal("ratio", ">=", 0.9))
    ).line()
    assert line["value"] == 12_350
    assert line["ratio"] == 0.5144
    assert line["target"] == "value >= 10,000 and ratio >= 0.9"
    assert line["met"] is False
    assert Measurement("x", 1.0, "ms", 5, None, (Goal("ratio", "<=", 1),)).line()["met"] is False
    either = Measurement("x", 1.0, "ms", 5, 4.0, (Goal("value", "<=", 0.5), Goal("ratio", "<=", 1)), any_goal=True)
    assert either.line()["met"] is True
    assert "target" not in Measurement("x", 1.0, "ms", 5).line()


def test_figures_keep_four_digits() -> None:
    assert [shown(figure) for figure in (0.123456, 123.456, 1_234_567.0, 17, None)] == [
        0.1235,
        123.5,
        1_235_000,
        17,
        None,
    ]


def test_rounds_take_turns_and_the_first_does_not_count() -> None:
    said: list[str] = []

    def action(name: str, results: Iterator[float]) -> float:
        said.append(name)
        return next(results)

    ours, raw = iter([99.0, 1.0, 2.0, 3.0]), iter([99.0, 10.0, 20.0, 30.0])
    assert alternate(3, lambda: action("a", ours), lambda: action("b", raw)) == [2.0, 20.0]
    assert "".join(said) == "baabbaab"


def test_a_process_is_measured_from_outside_and_its_failure_is_not_a_figure(tmp_path: Path) -> None:
    small, large = tmp_path / "small.py", tmp_path / "large.py"
    small.write_text("")
    large.write_text("import time; held = bytearray(64_000_000); time.sleep(0.1)")
    nothing, something = whole_processes(1, [str(small)], [str(large)])
    assert something.rss_mb - nothing.rss_mb > 60
    assert something.wall_ms - nothing.wall_ms > 50
    small.write_text("raise SystemExit(3)")
    with pytest.raises(Exception, match="non-zero exit status"):
        whole_processes(1, [str(small)])


def test_the_peak_memory_is_the_child_s_own_and_not_its_parent_s(tmp_path: Path) -> None:
    script = tmp_path / "small.py"
    script.write_text("")
    held = bytearray(200_000_000)
    [run] = whole_processes(1, [str(script)])
    assert run.rss_mb < len(held) / 2e6


def test_lines_are_printed_and_written_anew_and_a_broken_benchmark_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(module: str, _wanted: frozenset[str]) -> Iterator[Measurement]:
        if module == "gets":
            raise RuntimeError("the disk is on fire")
        yield Measurement("open_ops_s", 1.0, "ops/s", 1)

    monkeypatch.setattr(command, "OUTPUT", tmp_path / "build" / "bench.jsonl")
    monkeypatch.setattr(registry, "run", run)
    for _ in range(2):
        assert command.main(["--only", "get_us,open_ops_s"]) == 1
    printed = capsys.readouterr()
    assert "the disk is on fire" in printed.err
    [line] = (tmp_path / "build" / "bench.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "open_ops_s"
    assert printed.out.splitlines() == [line, line]


def test_the_report_is_of_a_complete_run_only() -> None:
    lines: list[dict[str, Any]] = [
        Measurement(name, 1.0, "ms", 3, 2.0, (Goal("value", "<=", 0.5),)).line() for name in NAMES
    ]
    text = report.render(lines, 0.5)
    assert all(f"`{name}`" in text for name in NAMES)
    assert "**no**" in text
    with pytest.raises(ValueError, match="not complete: get_us"):
        report.render([line for line in lines if line["name"] != "get_us"], 0.5)


def test_the_report_in_the_docs_has_every_measurement() -> None:
    if not report.TARGET.exists():
        pytest.skip("not written yet")
    text = report.TARGET.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in NAMES), f"run {sys.executable} -m simulations.benchmarks --report"
