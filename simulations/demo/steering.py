"""Chapters 11 to 13: what operators decide: a policy for one device, a model for all, and a bad one that comes back.

Nothing here runs on a device because a server says so: it was signed with keys that are in no server, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from simulations import keywords
from simulations.demo.cast import Cast, expect
from simulations.demo.offline import A, B, C
from simulations.demo.screen import size
from simulations.keywords import MODEL
from simulations.processes import ChildFailed

STAFF, LOBBY = "staff/", "lobby/"
SITE, RING = "lobby", "canary"
_NOTES = 5
_GOLDEN = 3
_ROUNDS_MAX = 5
_POLICY = f"""schema = 1
name = "lobby"

[[sync]]
collections = ["notes"]
prefixes = ["{STAFF}"]
direction = "absent"
"""


def policy(cast: Cast) -> None:
    """For the device in the lobby only."""
    screen = cast.screen
    screen.chapter(
        "A policy changes what syncs",
        f"{B} stands in the lobby: records of the staff must not be on it. A policy says so; signed offline, it goes "
        f'to devices with the label site = "{SITE}", and is obeyed by cloud and device alike.',
    )
    before = _write_notes(cast, "before")
    cast.sync(A)
    cast.sync(B, C)
    expect(_there(cast, B, before) == before, f"{B} does not have what {A} wrote while everything syncs")
    cast.cloud.command("labels", _home(cast), B, f"site={SITE}")
    source, signed = cast.folder / "lobby.toml", cast.folder / "lobby.json"
    source.write_text(_POLICY, encoding="utf-8")
    cast.cloud.command("policy", "lint", str(source), "--write", str(signed))
    _sign(cast, signed, "policies/lobby/1.json")
    _roll_out(cast, "policies/lobby/1.json", [{"percent": 100}], group=f'labels.site = "{SITE}"')
    cast.sync(*cast.devices)
    names = {name: cast.devices[name].call("policy") for name in (A, B, C)}
    expect(names == {A: "", B: "lobby", C: ""}, f"the policies in force are {names}")
    rows = [("once the policy holds", *_counted(_there(cast, B, before)))]
    expect(_there(cast, B, before) == before, f"{B} dropped what the archive does not have")
    cast.cloud.command("archive", "run", _home(cast))
    found = before
    for _ in range(_ROUNDS_MAX):
        cast.sync(B)
        found = _there(cast, B, before)
        if len(found) < len(before):
            break
    rows.append(("once the archive has them, too", *_counted(found)))
    expect(found == before[_NOTES:], f"{B} has {found}; nothing of the staff should be there")
    after = _write_notes(cast, "after")
    cast.sync(A)
    cast.sync(B, C)
    rows.append((f"of what {A} writes afterwards", *_counted(_there(cast, B, after))))
    screen.table((f"on {B}", *(f"#{prefix}…" for prefix in (STAFF, LOBBY))), rows)
    expect(_there(cast, B, after) == after[_NOTES:], f"{B} has {_there(cast, B, after)} of what came after")
    expect(_there(cast, C, before + after) == before + after, f"{C} does not have all that {A} wrote")
    refused = ""
    try:
        cast.devices[B].call("write_notes", keys=[f"{STAFF}here"])
    except ChildFailed as error:
        refused = str(error)
    expect("not-allowed" in refused, f"{B} wrote where its policy says that nothing is: {refused or 'no error'}")
    screen.proved(f"{B} keeps and gets nothing of {STAFF}…, and may write nothing there; {A} and {C} have everything")


def good_model(cast: Cast) -> dict[str, float]:
    """To all of the fleet. Returns its weights."""
    screen = cast.screen
    screen.chapter(
        "A model goes out",
        "A table of word weights, made from the texts. Each device fetches its chunks, tries it in a process of its "
        "own against answers that are known, and only then uses it.",
    )
    weights = keywords.weigh(text.body for text in cast.texts)
    folder = cast.folder / "model"
    keywords.save(weights, folder)
    details = cast.folder / "model.toml"
    probes = [(text, keywords.best(weights, text)) for text in telling(text.body for text in cast.texts)]
    details.write_text("".join(map(probe, probes)), encoding="utf-8")
    made = _publish(cast, folder, "1.0.0", details)
    rollout = _roll_out(cast, f"models/{MODEL}/1.json", [{"percent": 100}])
    before = cast.wire()
    cast.sync(*cast.devices)
    rows = []
    for name in cast.devices:
        status = _model(cast, name)
        expect(
            status["state"] == "committed", f"{name}'s model is {status['state']}: {status['why']}{status['problem']}"
        )
        rows.append((name, status["version"], status["state"], size(cast.wire()[name]["down"] - before[name]["down"])))
    screen.table(("device", "version", "state", "#received"), rows)
    asked, answer = probes[0]
    for name in cast.devices:
        said = cast.devices[name].call("about", model=MODEL, text=asked)
        expect(said == answer, f"{name} answers {said}, not {answer}")
    _come_to(cast, rollout, "done")
    screen.proved(f"{size(made['bytes'])} of weights are in use on all; asked what a text is about, all say {answer}")
    return weights


def bad_model(cast: Cast, weights: dict[str, float]) -> None:
    """One that answers wrongly, to a ring of one device first."""
    screen = cast.screen
    screen.chapter(
        "A bad one comes back by itself",
        f"Version 1.1.0 has lost its sign for half of the words. It goes to the ring {RING!r} first, that is {B}.",
    )
    cast.cloud.command("labels", _home(cast), B, f"ring={RING}")
    folder = cast.folder / "model"
    keywords.save(keywords.broken(weights, telling(text.body for text in cast.texts)[0]), folder)
    made = _publish(cast, folder, "1.1.0", cast.folder / "model.toml")
    stages: list[dict[str, Any]] = [{"percent": 0, "ring": RING}, {"percent": 100}]
    rollout = _roll_out(cast, f"models/{MODEL}/2.json", stages)
    screen.say(f"of {size(made['bytes'])}, {size(made['stored_bytes'])} had to be stored: the rest was there")
    shown = _come_to(cast, rollout, "reverted")
    cast.sync(*cast.devices)
    rows = []
    for name in cast.devices:
        status = _model(cast, name)
        back = status["refused"]
        rows.append((name, status["version"], *((back[0]["number"], back[0]["reason"]) if back else ("", ""))))
        expect(status["number"] == 1, f"{name} uses number {status['number']} of the model")
    screen.table(("device", "in use", "returned", "why"), rows)
    screen.say(f"rollout: {shown['state']}; exposed: {shown['exposed']}; {shown['why']}")
    expect(shown["exposed"] == 1, f"{shown['exposed']} devices were exposed to it")
    expect([one["number"] for one in _model(cast, B)["refused"]] == [2], f"{B} did not return from it")
    screen.proved(f"{B} went back by itself, the rollout halted, and {A} and {C} never saw it")


def _home(cast: Cast) -> str:
    return str(cast.cloud.directory)


def _sign(cast: Cast, document: Path, path: str) -> None:
    """With the offline keys, then hand it to the control plane."""
    cast.cloud.command("trust", "add-target", str(cast.trust), str(document), "--as", path)
    cast.cloud.command("publish", _home(cast), str(cast.trust))


def _publish(cast: Cast, folder: Path, version: str, details: Path) -> dict[str, Any]:
    made: dict[str, Any] = cast.cloud.command(
        *("models", "publish", _home(cast), str(folder), "--name", MODEL, "--version", version),
        *("--details", str(details)),
    )
    path = f"models/{MODEL}/{made['number']}.json"
    _sign(cast, cast.cloud.directory / "to-sign" / path, path)
    return made


def _roll_out(cast: Cast, what: str, stages: Sequence[dict[str, Any]], *, group: str = "") -> str:
    """Its id."""
    file = cast.folder / "rollout.json"
    gate = {"reporting_min": 1, "soak_s": 0}
    file.write_text(json.dumps({"what": what, "group": group, "stages": stages, "gate": gate}), encoding="utf-8")
    made: dict[str, Any] = cast.cloud.command("rollouts", "create", _home(cast), str(file))
    found: str = made["id"]
    return found


def _come_to(cast: Cast, rollout: str, state: str) -> dict[str, Any]:
    """The rollout, when it has come to this: devices ask and report, as they do whenever they are connected."""
    shown: dict[str, Any] = {}
    for _ in range(_ROUNDS_MAX):
        cast.sync(*cast.devices)
        shown = cast.cloud.command("rollouts", "show", _home(cast), rollout)
        if shown["state"] == state:
            break
    why = shown["why"] or shown["waits_for"]
    expect(shown["state"] == state, f"the rollout is {shown['state']}, not {state}: {why}")
    return shown


def _model(cast: Cast, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cast.devices[name].call("model", name=MODEL)
    return found


def telling(texts: Iterable[str]) -> list[str]:
    """Those with the most different words, in which another table of weights shows."""
    return sorted(texts, key=lambda text: -len(keywords.count_words(text)))[:_GOLDEN]


def probe(golden: tuple[str, list[str]]) -> str:
    """TOML."""
    text, words = golden
    # A string of JSON is one of TOML but for surrogate pairs and a raw DEL.
    told = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f'[[probes]]\nkind = "golden"\ninput = {{text = {told}}}\noutput = {json.dumps(words)}\n\n'


def _there(cast: Cast, name: str, keys: Sequence[str]) -> list[str]:
    found: list[str] = cast.devices[name].call("notes", keys=keys)
    return found


def _counted(keys: Sequence[str]) -> tuple[int, int]:
    return sum(key.startswith(STAFF) for key in keys), sum(key.startswith(LOBBY) for key in keys)


def _write_notes(cast: Cast, when: str) -> list[str]:
    """Of the staff and of the lobby, on one device; their keys."""
    keys = [f"{prefix}{when} {number}" for prefix in (STAFF, LOBBY) for number in range(_NOTES)]
    cast.devices[A].call("write_notes", keys=keys)
    return keys
