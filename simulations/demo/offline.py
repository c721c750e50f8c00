"""Chapters 1 to 3: a fleet on paper, two devices that index and search with no server, and their disagreements."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from simulations.corpus import Text
from simulations.demo.cast import Cast, expect
from simulations.demo.screen import size
from simulations.processes import together

A, B, C = "robot", "kiosk", "gateway"
SHARED = 12
TEXTS_MIN = 40
_WORD = re.compile(r"(?<![^\W_])[a-z]{4,12}(?![^\W_])")  # whole words, as a text index cuts them
_READABLE = {A: "parse a json document", B: "wait for a lock with a timeout"}


class Disagreements:
    """Which of the shared texts the two devices change, and what must come of it. By place among the shared ones."""

    def __init__(self, shared: Sequence[Text]) -> None:
        keys = [text.key for text in shared]
        self.titles = keys[:4]  # both write another title: a conflict each
        self.deleted_by_a = keys[4:6]  # A deletes, B edits
        self.deleted_by_b = keys[6]  # B deletes, A edits
        self.both_fields = keys[7:9]  # A writes one field, B another: no conflict, both stay
        self.counted = keys[9]  # both count: the sum
        self.labelled = keys[10]  # both add to a set: the union

    def of_a(self) -> list[dict[str, Any]]:
        return [
            *(_patch(key, title=f"{A}'s title for {key}") for key in self.titles),
            *({"do": "delete", "key": key} for key in self.deleted_by_a),
            _patch(self.deleted_by_b, title=f"kept by {A}"),
            *(_patch(key, title=f"{A} retitled this") for key in self.both_fields),
            {"do": "increment", "key": self.counted, "field": "reads", "by": 3},
            {"do": "add", "key": self.labelled, "field": "labels", "elements": ["checked", "long"]},
        ]

    def of_b(self) -> list[dict[str, Any]]:
        return [
            *(_patch(key, title=f"{B}'s title for {key}") for key in self.titles),
            *(_patch(key, title=f"edited by {B} while {A} deleted it") for key in self.deleted_by_a),
            {"do": "delete", "key": self.deleted_by_b},
            *(_patch(key, note=f"{B} made a note") for key in self.both_fields),
            {"do": "increment", "key": self.counted, "field": "reads", "by": 4},
            {"do": "add", "key": self.labelled, "field": "labels", "elements": ["checked", "short"]},
        ]

    def second_thoughts_of_a(self) -> list[dict[str, Any]]:
        """Later than B's, so that not every conflict has the same winner."""
        return [_patch(key, title=f"{A}'s second title for {key}") for key in self.titles[2:]]

    @property
    def conflicting(self) -> set[tuple[str, str]]:
        """(key, field) of the conflicts that must be on record; the field is "" for delete against update."""
        deletes = [*self.deleted_by_a, self.deleted_by_b]
        return {(key, "title") for key in self.titles} | {(key, "") for key in deletes}


def fleet_on_paper(cast: Cast) -> None:
    cast.screen.chapter(
        "A fleet on paper",
        "The control plane gets its keys and a join token for three devices. It is not started: nothing listens.",
    )
    cast.create_fleet()
    expect(cast.cloud.server is None, "the control plane runs, but it should not yet")
    where = "an S3 API (moto's server)" if cast.options else "a local directory"
    cast.screen.proved(f"a fleet exists; its archive will be in {where}")


def work_offline(cast: Cast) -> Disagreements:
    screen, texts = cast.screen, cast.texts
    screen.chapter(
        "Two devices work offline",
        f"Each is a process of its own. {A} indexes one half of {len(texts):,} texts, {B} the other, with full-text "
        "and vector search; a few texts are on both. There is no server to ask.",
    )
    shared, halves = texts[:SHARED], split(texts)
    jobs = []
    with screen.bars(*halves) as bars:
        for name, half in halves.items():
            path = cast.folder / f"{name}.jsonl"
            path.write_text("".join(_line(text) for text in half), encoding="utf-8")
            index = partial(cast.devices[name].call, "index", path=str(path), first=0, last=len(half))
            jobs.append(partial(index, on_progress=bars[name]))
        made = together(*jobs)
    for name, done in zip(halves, made, strict=True):
        cast.tally.json_bytes += done["json_bytes"]
        cast.tally.times[f"indexing {done['texts']:,} texts on {name}"] = done["seconds"]
        screen.say(
            f"{name}: {done['texts']:,} texts ({size(done['json_bytes'])} as JSON) durable after "
            f"{done['seconds']:.1f} s, {done['texts'] / done['seconds']:,.0f} a second"
        )
    screen.say("vectors: hashed words and letter triples, 64 dimensions; not a language model, none is downloaded here")
    together(*(partial(_search, cast, name, half) for name, half in halves.items()))
    return Disagreements(shared)


def disagree(cast: Cast, changes: Disagreements) -> None:
    cast.screen.chapter(
        "They disagree",
        f"Still without a network, both change the same records: other titles, a counter, a set; {A} deletes what {B} "
        "edits, and the other way round.",
    )
    cast.write(A, changes.of_a())
    cast.write(B, changes.of_b())
    cast.write(A, changes.second_thoughts_of_a())
    digests = [cast.devices[name].call("digest") for name in (A, B)]
    expect(digests[0] != digests[1], "the devices hold the same state, although they were given different texts")
    cast.screen.proved(
        f"{len(changes.of_a()) + len(changes.second_thoughts_of_a())} changes on {A}, {len(changes.of_b())} on {B}: "
        "all on disk, none seen by the other"
    )


def split(texts: Sequence[Text]) -> dict[str, list[Text]]:
    """Each device's half; the first few texts are in both."""
    rest = texts[SHARED:]
    return {A: [*texts[:SHARED], *rest[0::2]], B: [*texts[:SHARED], *rest[1::2]]}


def rare_words(texts: Sequence[Text]) -> str:
    """Three words of one text that single it out among these: what a search must find."""
    documents = [_words(text) for text in texts]
    spread = Counter(word for words in documents for word in words)
    scored = []
    for text, words in zip(texts, documents, strict=True):
        rarest = sorted(words, key=lambda word: (spread[word], word))[:3]
        if len(rarest) == 3:
            scored.append((sum(spread[word] for word in rarest), len(text.body), " ".join(rarest)))
    expect(scored, "no text in the input has three words of 4 to 12 letters (a to z), which the story searches for")
    return min(scored)[-1]


def words_of_one(texts: Sequence[Text]) -> str:
    """The first words of one of the texts, from the middle: a question that these texts can answer."""
    middle = len(texts) // 2
    for text in [*texts[middle:], *texts[:middle]]:
        words = _WORD.findall(text.body.lower())
        if len(words) >= 3:
            return " ".join(words[:4])
    return rare_words(texts)


def _words(text: Text) -> set[str]:
    return set(_WORD.findall(text.body.lower()))


def _search(cast: Cast, name: str, half: Sequence[Text]) -> None:
    device, screen = cast.devices[name], cast.screen
    query = rare_words(half)
    found = device.call("search", text=query, mode="text")
    expect(found["tier"] == "lance", f"{name} answered a text search by {found['tier'] or 'nothing'}, not by LanceDB")
    wanted = {text.key for text in half if set(query.split()) <= _words(text)}
    hit = next((key for key, *_ in found["hits"] if key in wanted), "")
    expect(hit, f"{name} did not find {' or '.join(sorted(wanted)[:3])} by its own words: {query!r}")
    rows = []
    question = words_of_one(half) if cast.own_texts else _READABLE[name]
    for mode in ("text", "vector"):
        answer = device.call("search", text=question, mode=mode, k=3)
        expect(answer["hits"] or mode == "text", f"{name} found nothing by {mode}")
        titles = ", ".join(title for _, title, _ in answer["hits"])
        rows.append((mode, f"{answer['seconds'] * 1000:.0f} ms", answer["tier"], titles))
    screen.table(("by", "#time", "tier", f"{name} answers: {question!r}"), rows)
    screen.proved(f"{name} finds {hit} by its rarest words: {query!r}")


def _line(text: Text) -> str:
    fields = {"title": text.title, "source": text.source, "body": text.body}
    return json.dumps({"key": text.key, "fields": fields}, ensure_ascii=False) + "\n"


def _patch(key: str, **fields: str) -> dict[str, Any]:
    return {"do": "patch", "key": key, "fields": fields}
