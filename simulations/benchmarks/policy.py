"""What a decision by the policy costs, of one with 256 [[sync]] rules (50 collections, 8 prefixes in each; agents with
namespaces) and 54 [[agent]] tables, over places as they come: many keys, few collections.

``policy_decision_us``: the rule of a place; ``compile_ms`` to make the tables of the policy. ``policy_may_us``: what
an agent may do, answers kept; ``once_us`` is what one costs that is not kept yet. ``policy_cedar_us``: the same with a
Cedar text of 54 policies.
Baseline: a dict from the whole question to the answer, which nobody could keep for all keys.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

from simulations.benchmarks.measure import Goal, Measurement, alternate, timed
from sync.cedar import Cedar
from sync.permissions import Permissions
from sync.policy import Policy
from sync.scope import ScopeTable

ROUNDS, DECISIONS = 15, 5_000
_GOAL = (Goal("value", "<=", 20),)
_WHAT = "one look-up in a dict"
_SITES = ("north/", "north/a", "south/", "east/", "west/", "hall-1/", "hall-2/", "yard/")


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    policy = Policy.parse(Policy.from_document(_document()).to_json())
    rng = random.Random(1)
    if "policy_decision_us" in wanted:
        places = [_place(rng) for _ in range(DECISIONS)]
        table = ScopeTable(policy.sync)
        known = {place: table.rule(*place) for place in places}
        compile_ms = min(timed(lambda: ScopeTable(policy.sync)) for _ in range(5)) * 1e3
        yield _measured("policy_decision_us", table.rule, known, places, {"compile_ms": compile_ms})
    asked = [
        (f"agent-{rng.randrange(80)}", rng.choice(("read", "write")), f"c{rng.randrange(50)}.x")
        for _ in range(DECISIONS)
    ]
    if "policy_may_us" in wanted:
        permissions = Permissions(policy.agents)
        answers = {question: permissions.may(*question) for question in asked}
        new = list(answers)[:500]
        once = min(_us_each(Permissions(policy.agents).may, new) for _ in range(5))
        yield _measured("policy_may_us", permissions.may, answers, asked, {"once_us": once})
    if "policy_cedar_us" in wanted:
        cedar = Cedar(_cedar())
        permissions = Permissions(policy.agents, cedar.decide)
        answers = {question: permissions.may(*question) for question in asked}
        new = list(answers)[:500]
        once = min(_us_each(Permissions(policy.agents, cedar.decide).may, new) for _ in range(5))
        yield _measured("policy_cedar_us", permissions.may, answers, asked, {"once_us": once})


def _measured(
    name: str,
    decide: Callable[..., Any],
    known: Mapping[Any, Any],
    questions: Sequence[tuple[str, ...]],
    extra: dict[str, float],
) -> Measurement:
    if any(decide(*question) != known[question] for question in questions):
        raise AssertionError("another answer than before")

    def raw() -> float:
        started = perf_counter()
        for question in questions:
            known[question]
        return (perf_counter() - started) / len(questions) * 1e6

    value, baseline = alternate(ROUNDS, lambda: _us_each(decide, questions), raw)
    return Measurement(name, value, "us", ROUNDS, baseline, _GOAL, extra=extra, baseline_is=_WHAT)


def _us_each(decide: Callable[..., Any], questions: Sequence[tuple[str, ...]]) -> float:
    started = perf_counter()
    for question in questions:
        decide(*question)
    return (perf_counter() - started) / len(questions) * 1e6


def _place(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.25:
        return "agent.memories", f"agent-{rng.randrange(80)}/n{rng.randrange(4)}/semantic/{rng.randrange(10_000)}"
    return f"c{rng.randrange(50)}.x", f"{rng.choice((*_SITES, 'other/'))}{rng.randrange(100_000)}"


def _document() -> dict[str, Any]:
    rules: list[dict[str, Any]] = [
        {"collections": [f"c{at}.*"], "prefixes": [site], "direction": ("up", "down", "both")[number % 3]}
        for at in range(25)
        for number, site in enumerate(_SITES)
    ]
    rules += [{"collections": [f"c{at}.*"], "prefixes": list(_SITES), "priority": "bulk"} for at in range(25, 45)]
    rules += [{"agents": [f"agent-{at}"], "namespaces": ["n1", "n2"], "direction": "local"} for at in range(36)]
    agents = [
        {"name": f"agent-{at}", "allow": {"read": ["*"], "write": [f"c{at}.*", "agent.*"]}, "deny": {"read": ["c7.*"]}}
        for at in range(54)
    ]
    return {"schema": 1, "name": "bench", "sync": rules, "agent": agents}


def _cedar() -> str:
    lines = ["permit(principal, action, resource);"]
    for at in range(53):
        one = f'principal == Agent::"agent-{at}", action == Action::"write", resource == Collection::"c{at}.x"'
        lines.append(f"forbid({one});")
    return "\n".join(lines)
