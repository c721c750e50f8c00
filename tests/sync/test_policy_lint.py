"""Likely mistakes are found, each by its name; policies without any are left in peace."""

from __future__ import annotations

from typing import Any

import pytest

from sync.policy import Policy
from sync.policy_lint import ERROR, lint
from sync.schema import FieldRule, declare

SCHEMAS = {
    one.name: one
    for one in (
        declare("notes"),
        declare("sensors.pressure", vector=("v", 4)),
        declare("photos", vector=("v", 8, "cosine", "", "float16")),
        declare("totals", fields={"n": FieldRule("int", "counter")}, strict=True),
    )
}


def policy(**tables: Any) -> Policy:
    return Policy.from_document({"schema": 1, "name": "a", **tables})


def sync(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"sync": [{"collections": ["notes"], **rule} if "agents" not in rule else rule for rule in rules]}


@pytest.mark.parametrize(
    ("tables", "where", "said"),
    [
        (sync({}, {"prefixes": ["a/"]}), "[[sync]] 2", "no place has this rule"),
        (sync({"collections": ["n*"]}, {}), "[[sync]] 2", "no place has this rule"),
        (sync({"agents": ["g*"]}, {"agents": ["guide"], "namespaces": ["x"]}), "[[sync]] 2", "no place has this rule"),
        (sync({"prefixes": ["a"]}, {"prefixes": ["ab"]}), "[[sync]] 2", "no place has this rule"),
        (sync({"direction": "local", "interval_s": 5}), "[[sync]] 1: interval_s", "has no effect under local"),
        (sync({"direction": "down", "priority": "urgent"}), "[[sync]] 1: priority", "has no effect under down"),
        (sync({"direction": "down", "vectors": "int8"}), "[[sync]] 1: vectors", "nothing is written"),
        (sync({"direction": "absent", "age_days_max": 5}), "[[sync]] 1: age_days_max", "all is absent"),
        ({"sync": [{"agents": ["a"], "record_bytes_max": 9}]}, "[[sync]] 1: record_bytes_max", "goes without"),
        (sync({"direction": "local", "age_days_max": 5}), "[[sync]] 1: age_days_max", "under local"),
        (sync({"priority": "urgent", "interval_s": 5}), "[[sync]] 1: interval_s", "do not wait"),
        (sync({"collections": ["note"]}), "[[sync]] 1: collections", "no collection of the fleet"),
        (sync({"collections": ["x.*"]}), "[[sync]] 1: collections", "no collection of the fleet"),
        (sync({"collections": ["photos"], "vectors": "float32"}), "[[sync]] 1: vectors", "coarser: that holds"),
        ({"merge": [{"collection": "totals", "conflict": "manual"}]}, "[[merge]] 1", "rules of their own"),
        ({"merge": [{"collection": "total", "conflict": "manual"}]}, "[[merge]] 1: collection", "no collection"),
        ({"link": [{"class": "metered"}]}, "[[link]]", "another class has no budget"),
        (
            {"link": [{"class": "default", "bytes_per_day": 300_000}]},
            "[[link]] 1: bytes_per_day",
            "wait for ever",
        ),
        (
            {"link": [{"class": "default", "bytes_per_day": 600_000, "burst_bytes": 700_000}]},
            "[[link]] 1: burst_bytes",
            "more than a day",
        ),
        ({"link": [{"class": "default", "lanes": ["bulk"]}]}, "[[link]] 1: lanes", "wait for another"),
        ({"link": [{"class": "default", "urgent_share": 0.5}]}, "[[link]] 1: urgent_share", "there is none"),
        (
            {"link": [{"class": "default", "bytes_per_day": 600_000, "urgent_share": 0.5}]},
            "[[link]] 1: urgent_share",
            "leaves bulk nothing",
        ),
        (
            {"link": [{"class": "default", "bytes_per_day": 600_000, "urgent_share": 1, "lanes": ["urgent", "normal"]}]},  # noqa: E501
            "[[link]] 1: urgent_share",
            "leaves normal nothing",
        ),
        (
            {
                **sync({"prefixes": ["~"], "age_days_max": 5}, {"age_days_max": 90}),
                "retention": [{"collection": "notes", "delete_days": 30}],
            },
            "[[retention]] 1: delete_days",
            "age_days_max = 90",
        ),
        (
            {**sync({"age_days_max": 90}), "retention": [{"collection": "notes", "delete_days": 30}]},
            "[[retention]] 1: delete_days",
            "age_days_max = 90",
        ),
        ({"agent": [{"name": "g*"}, {"name": "guide"}]}, "[[agent]] 2", "decides for all"),
        ({"cedar": {"text": "permit(principal, action, resource);"}}, "[cedar]", "every agent"),
    ],
)  # fmt: skip
def test_a_likely_mistake_is_found_and_nothing_else(tables: dict[str, Any], where: str, said: str) -> None:
    (found,) = lint(policy(**tables), SCHEMAS)
    assert found.where == where
    assert said in found.message
    assert found.level != ERROR


def test_what_is_kept_on_the_device_is_carried_out() -> None:
    said = policy(
        sync=[{"collections": ["notes"], "direction": "local"}, {"collections": ["*"], "record_bytes_max": 9}],
        staleness=[{"after_hours": 8, "do": "writes-local"}, {"after_hours": 1, "do": "report"}],
    )
    assert lint(said) == []


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_forms_that_cannot_be_told_apart_are_an_error(form: str) -> None:
    (found,) = lint(policy(sync=[{"collections": ["sensors.*"], "vectors": form}]), SCHEMAS)
    assert (found.level, found.where) == (ERROR, "[[sync]] 1: vectors")
    assert "of one length in 'sensors.pressure'" in found.message
    assert lint(policy(sync=[{"collections": ["photos"], "vectors": form}]), SCHEMAS) == []
    assert lint(policy(sync=[{"collections": ["sensors.*"], "vectors": "none"}]), SCHEMAS) == []


def test_without_schemas_names_are_taken_as_they_are() -> None:
    assert lint(policy(**sync({"collections": ["nowhere"], "vectors": "int8"}))) == []
