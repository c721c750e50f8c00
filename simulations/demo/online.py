"""Chapters 4 to 7: the network comes back, badly; conflicts on record; one state everywhere; a newcomer."""

from __future__ import annotations

import json
from typing import Any

from simulations.demo.cast import Cast, expect
from simulations.demo.offline import A, B, C, Disagreements
from simulations.demo.screen import size

SEED = 20_240_229
_SEGMENT_BYTES_MAX = 1 << 20
_CUTS_MIN, _CUTS_MAX = 2, 5  # together; of each device
_SHOWN = 34


def bad_network(cast: Cast) -> None:
    screen = cast.screen
    screen.chapter(
        "The network comes back, badly",
        "The control plane starts. Both devices join and sync through a proxy that pulls the plug at random bytes.",
    )
    port = cast.cloud.serve()
    cast.connect(port)
    for name in (A, B):
        cast.join(name)
    weight = min(_SEGMENT_BYTES_MAX, cast.tally.json_bytes // 8)  # of what one request may have to carry
    for number, name in enumerate((A, B)):
        cast.proxies[name].cut(SEED + number, max(1_000, weight // 4), max(8_000, 2 * weight), _CUTS_MAX)
    before = screen.seconds
    cast.sync_until_equal("syncing")
    cast.tally.times["syncing through the bad network"] = screen.seconds - before
    wire = cast.wire()
    cuts = sum(counts["cuts"] for counts in wire.values())
    expect(cuts >= _CUTS_MIN, f"the link was to be cut at least {_CUTS_MIN} times, but was cut {cuts} times")
    for name, counts in wire.items():
        screen.say(
            f"{name}: {size(counts['up'])} up, {size(counts['down'])} down, {counts['connections']} connections, "
            f"{counts['cuts']} cut"
        )
    _check_nothing_twice(cast)
    for name in (A, B):
        cast.proxies[name].calm()
    screen.proved(f"{cuts} cut connections later both have everything, and the feed holds every operation exactly once")


def conflicts(cast: Cast, changes: Disagreements) -> None:
    screen = cast.screen
    screen.chapter(
        "Conflicts are decided, and kept",
        "Where both wrote without knowing of each other, a rule chose; the loser is on record, not lost.",
    )
    found = cast.cloud.conflicts()
    cast.tally.conflicts = len(found)
    missing = changes.conflicting - {(conflict["key"], conflict["field"]) for conflict in found}
    expect(not missing, f"no conflict is on record for {sorted(missing)}")
    rows = []
    last = {(conflict["key"], conflict["field"]): conflict for conflict in found}
    for conflict in last.values():
        winner, loser = ("came", "held") if conflict["winner"] == "came" else ("held", "came")
        field = conflict["field"] or "(delete or edit)"
        rows.append((conflict["key"], field, _side(conflict[winner]), _side(conflict[loser]), conflict["rule"]))
    screen.table(("record", "field", "winner", "loser", "rule"), rows)
    screen.say(f"{len(found)} in all: an edit of one also met the text as the other had first indexed it")
    _check_outcome(cast, changes)
    screen.proved("what need not conflict did not: two fields of one record, a counter (3 + 4 = 7), a set")


def one_state(cast: Cast) -> str:
    screen = cast.screen
    screen.chapter(
        "One state everywhere", "The state digest covers every living record: its fields, stamps and writers."
    )
    digests = cast.digests()
    screen.table(("who", "state digest"), list(digests.items()))
    expect(len(set(digests.values())) == 1, "the state digests differ")
    digest = digests["control plane"]
    cast.tally.digests["after the first sync"] = digest
    screen.proved(f"{' and '.join(digests)} hold the same {cast.cloud.status()['records']:,} records")
    return digest


def newcomer(cast: Cast, digest: str) -> None:
    screen = cast.screen
    screen.chapter(
        "A newcomer",
        f"{C} has an empty store. It joins and gets a baseline: the records as they are, not their history.",
    )
    cast.start_devices(C)
    cast.connect(cast.port)
    cast.join(C)
    made = cast.sync(C, title="baseline")[C]
    cast.tally.times[f"a baseline for {C}"] = made["seconds"]
    found = cast.devices[C].call("digest")
    expect(found == digest, f"{C} holds the state {found[:16]}…, not {digest[:16]}…")
    records = cast.devices[C].call("records")
    screen.say(f"{records:,} records in {made['seconds']:.1f} s, {size(cast.wire()[C]['down'])} down")
    answer = cast.devices[C].call("search", text=cast.texts[0].body, mode="vector", k=3)
    expect(answer["hits"], f"{C} finds nothing")
    screen.proved(f"{C}: {found}, and it answers searches")


def _check_nothing_twice(cast: Cast) -> None:
    """The feed holds what the devices wrote, each operation once, and the cloud's own decisions. Besides only, where
    writes came after a delete that may undo them, the record as it is: once for each such conflict at most.
    """
    written = sum(cast.devices[name].call("status")["log"]["head_seq"] for name in (A, B))
    conflicts = cast.cloud.conflicts()
    decisions = sum(1 for conflict in conflicts if conflict["resolution"])
    after_deletes = sum(1 for conflict in conflicts if conflict["held"]["delete"])
    head = cast.cloud.status()["head"]
    expect(
        written + decisions <= head <= written + decisions + after_deletes,
        f"the feed holds {head} operations, but the devices wrote {written}, the cloud decided {decisions}, "
        f"and {after_deletes} writes met a delete",
    )


def _check_outcome(cast: Cast, changes: Disagreements) -> None:
    keys = [*changes.titles, *changes.both_fields, changes.counted, changes.labelled]
    for name in (A, B):
        records: dict[str, Any] = dict(zip(keys, cast.devices[name].call("get", keys=keys), strict=True))
        expected = [B, B, A, A]
        winners = [records[key]["title"].partition("'")[0] for key in changes.titles]
        expect(winners == expected, f"on {name} the titles are of {winners}; the latest writers were {expected}")
        for key in changes.both_fields:
            both = A in records[key]["title"] and B in records[key].get("note", "")
            expect(both, f"on {name}, {key} does not have both edits: {records[key]}")
        reads = records[changes.counted]["reads"]
        expect(reads == 7, f"on {name} the counter is {reads}, not 3 + 4")
        labels = records[changes.labelled]["labels"]
        expect(labels == ["checked", "long", "short"], f"on {name} the set is {labels}")


def _side(claim: dict[str, Any]) -> str:
    if claim["delete"]:
        return f"{claim['device']}: deleted"
    text = claim["value"] if isinstance(claim["value"], str) else json.dumps(claim["value"], ensure_ascii=False)
    return f"{claim['device']}: {text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}"
