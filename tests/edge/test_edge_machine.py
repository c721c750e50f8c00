"""A Hypothesis state machine drives a store through writes, searches, closes and kills, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from edge import Collection, Edge, EdgeConfig
from edge.storage import log_writer
from sync.errors import NotFound
from sync.operations import Kind, Operation, Shape
from sync.stamps import replica_id
from tests.edge.stores import SeededRandom, TickingClock

FAR = replica_id(b"another-one!", 1)
KEYS = st.sampled_from(["a", "b", "ba", "bb", "c", "é", "z" * 40])
SMALL = st.integers(-3, 3)
PLAIN = st.none() | SMALL | st.sampled_from(["", "x", "ü" * 5]) | st.binary(max_size=3) | st.lists(SMALL, max_size=2)
VECTORS = st.lists(SMALL, min_size=3, max_size=3)
ELEMENTS = st.lists(st.sampled_from(["red", "blue", 7]), min_size=1, max_size=3, unique=True)
MERGED = ("n", "tags")

Model = dict[str, dict[str, Any]]
Write = tuple[str, str, Any]


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    out: dict[str, Any] = draw(st.dictionaries(st.sampled_from("pqr"), PLAIN, max_size=3))
    if draw(st.booleans()):
        out["v"] = draw(st.none() | VECTORS)
    if draw(st.integers(0, 3)) == 0:
        out["n"] = draw(SMALL)
    if draw(st.integers(0, 3)) == 0:
        out["tags"] = draw(ELEMENTS)
    return out


@st.composite
def writes(draw: st.DrawFn) -> Write:
    kind = draw(st.sampled_from(["put", "put", "patch", "increment", "add", "remove", "delete"]))
    payload: Any = None
    if kind in ("put", "patch"):
        payload = draw(fields().filter(bool)) if kind == "patch" else draw(fields())
    elif kind == "increment":
        payload = draw(SMALL)
    elif kind in ("add", "remove"):
        payload = draw(ELEMENTS)
    return kind, draw(KEYS), payload


def perform(notes: Collection, write: Write) -> None:
    kind, key, payload = write
    if kind == "put":
        notes.put(key, payload)
    elif kind == "patch":
        notes.patch(key, payload)
    elif kind == "increment":
        notes.increment(key, "n", payload)
    elif kind == "add":
        notes.add(key, "tags", *payload)
    elif kind == "remove":
        notes.remove(key, "tags", *payload)
    else:
        notes.delete(key)


def follow(model: Model, write: Write) -> bool:
    """What ``perform`` leads to; False, and nothing, if the record is not there."""
    kind, key, payload = write
    held = model.get(key)
    if kind == "put":
        kept = {name: value for name, value in (held or {}).items() if name in MERGED}
        model[key] = {**kept, **payload}
        return True
    if held is None:
        return False
    if kind == "patch":
        held.update(payload)
    elif kind == "increment":
        held["n"] = held.get("n", 0) + payload
    elif kind == "add":
        held["tags"] = list({*held.get("tags", []), *payload})
    elif kind == "remove":
        held["tags"] = [tag for tag in held.get("tags", []) if tag not in payload]
    else:
        del model[key]
    return True


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """In one form: no absent fields, a set without elements is none, vectors are lists."""
    out = {name: value for name, value in sorted(record.items()) if value is not None}
    if "tags" in out:
        out["tags"] = sorted(out["tags"], key=str)
        if not out["tags"]:
            del out["tags"]
    if "v" in out:
        out["v"] = list(out["v"])
    return out


class EdgeMachine(RuleBasedStateMachine):
    """``model`` is what the store must show; every rule ends with both in agreement."""

    fold_records_max = log_writer.FOLD_RECORDS_MAX

    def __init__(self) -> None:
        super().__init__()
        self._kept = log_writer.FOLD_RECORDS_MAX
        log_writer.FOLD_RECORDS_MAX = self.fold_records_max
        self.root = Path(tempfile.mkdtemp(prefix="edge-machine-"))
        self.lives = 0
        self.model: Model = {}
        self.remote_seq = 0
        self._open(self.root / "0")

    def _open(self, store: Path) -> None:
        config = EdgeConfig(durability="relaxed")
        self.edge = Edge.open(store, config=config, clock=TickingClock(), random=SeededRandom(self.lives))
        self.notes = self.edge.collection(
            "notes", fields={"n": ("int", "counter"), "tags": "set"}, vector=("v", 3, "l2")
        )

    @rule(write=writes())
    def write(self, write: Write) -> None:
        if follow(self.model, write):
            perform(self.notes, write)
        else:
            self._is_not_found(lambda: perform(self.notes, write))

    @rule(many=st.lists(writes(), max_size=12))
    def batch(self, many: list[Write]) -> None:
        model = {key: dict(record) for key, record in self.model.items()}
        fits = [follow(model, write) for write in many].count(False) == 0

        def perform_all() -> None:
            with self.edge.batch():
                for write in many:
                    perform(self.notes, write)

        if fits:
            perform_all()
            self.model = model
        else:
            self._is_not_found(perform_all)

    def _is_not_found(self, action: Callable[[], None]) -> None:
        try:
            action()
        except NotFound:
            return
        raise AssertionError("a change of a record that is not there was accepted")

    @rule(key=KEYS, value=SMALL, later=st.booleans())
    def remote_patch(self, key: str, value: int, later: bool) -> None:
        """Another device's patch of one field: it wins if its stamp is later."""
        log = self.edge.log
        if not later and key in self.model:
            return  # whether it wins depends on stamps that the model does not have
        self.remote_seq += 1
        shape = Shape(Kind.PATCH, "notes", ("p",), "l")
        ts = log.clock.last + 1000 if later else 1
        image = log.image("notes", key)
        log.apply([Operation(FAR, self.remote_seq, ts, 0, shape, key, (value,))], cursor=self.remote_seq)
        if later or image is None:
            self.model.setdefault(key, {})["p"] = value

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        found = self.notes.get(key)
        assert (found is None) == (key not in self.model)
        if found is not None:
            assert shown(found) == shown(self.model[key])
            assert list(found) == sorted(found)

    @rule(prefix=st.sampled_from(["", "b", "é"]), least=st.none() | SMALL, limit=st.none() | st.integers(1, 4))
    def scan(self, prefix: str, least: int | None, limit: int | None) -> None:
        where = None if least is None else {"q": {"$gte": least}}
        found = [(key, shown(record)) for key, record in self.notes.scan(prefix, where, limit)]
        expected = [
            (key, shown(record))
            for key, record in sorted(self.model.items(), key=lambda item: item[0].encode())
            if key.startswith(prefix) and (least is None or (type(record.get("q")) is int and record["q"] >= least))
        ]
        assert found == expected[:limit]

    @rule(query=VECTORS, k=st.integers(1, 5), wanted=st.none() | SMALL)
    def search(self, query: list[int], k: int, wanted: int | None) -> None:
        where = None if wanted is None else {"p": wanted}
        hits = self.notes.search(vector=query, k=k, filter=where)
        expected = sorted(
            (sum((a - b) ** 2 for a, b in zip(query, record["v"], strict=True)), key)
            for key, record in self.model.items()
            if record.get("v") is not None
            and (wanted is None or (type(record.get("p")) is int and record.get("p") == wanted))
        )
        assert [(-hit.score, hit.key) for hit in hits] == expected[:k]
        assert all(shown(hit.fields) == shown(self.model[hit.key]) for hit in hits)

    @rule()
    def fold(self) -> None:
        self.edge.log.fold()

    @rule()
    def acknowledge_and_trim(self) -> None:
        self.edge.log.acknowledge(self.edge.log.head_seq, b"i" * 32)
        self.edge.projections.trim()

    @rule()
    def close_and_reopen(self) -> None:
        before = self.edge.digest(), self.edge.log.head_seq, self.edge.log.position, self.edge.log.cursor
        store = Path(self.edge.path)
        self.edge.close()
        self.lives += 1
        self._open(store)
        assert (self.edge.digest(), self.edge.log.head_seq, self.edge.log.position, self.edge.log.cursor) == before

    @rule()
    def kill(self) -> None:
        """The files as they are at this moment, opened by somebody else; the old process is never heard of again."""
        old = self.edge
        before = old.log.head_seq, old.log.position
        self.lives += 1
        store = self.root / str(self.lives)
        shutil.copytree(old.path, store)
        digest = old.digest()
        old.close()
        shutil.rmtree(old.path)
        self._open(store)
        assert (self.edge.log.head_seq, self.edge.log.position) == before
        assert self.edge.digest() == digest

    @invariant()
    def counts_agree(self) -> None:
        assert self.notes.count() == len(self.model)

    def teardown(self) -> None:
        try:
            found = {key: shown(record) for key, record in self.notes.scan()}
            assert found == {key: shown(record) for key, record in self.model.items()}
            assert self.edge.verify() == []
        finally:
            log_writer.FOLD_RECORDS_MAX = self._kept
            self.edge.close()
            shutil.rmtree(self.root, ignore_errors=True)


class QuickFolding(EdgeMachine):
    """The same with images that go to their table every few writes, so that both places are met all the time."""

    fold_records_max = 3


def test_a_store_is_a_dict_that_survives() -> None:
    run_state_machine_as_test(EdgeMachine)


def test_a_store_that_folds_all_the_time_is_one_too() -> None:
    run_state_machine_as_test(QuickFolding)
