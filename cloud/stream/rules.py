"""What becomes of a conflict: the collection's rule is asked, the answer is recorded, and written if
merging chose otherwise.

* ``latest``: the later stamp stands, as merging decided; nothing is written, except to bring a record back
  whose edit won over its delete;
* ``priority``: the device with the higher priority in the roster; between equals, the later stamp;
* ``resolver:NAME``: a Python function of the operator's decides. If it raises, is not registered, or gives
  something that the schema does not take, the later stamp stands and the conflict stays open, with the reason;
* ``manual``: the later stamp stands and the conflict stays open until somebody says otherwise (``settle``).

The rule is the one that the collection was declared with, or that the fleet's policy has for it (``[[merge]]``): then
the note says which policy.

An earlier resolution counts in a later conflict as what it chose: with ``priority``, a third device is
compared with the device that won, and nobody overrules a resolver or a person. What merely came back from
the grave is overruled by anybody.

A resolver is called as ``resolver(collection, key, field, left, right, context)``: ``left`` was there,
``right`` arrived, both ``cloud.rows.Claim``; ``context`` is ``{"record": what a reader sees now}``. It
returns the field's value. For delete against update (field "") it returns the record's fields, or None for
the delete. It runs inside the push's transaction: it must be quick, and a function of its arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from cloud.rows import Claim, Conflict, Ruled
from cloud.storage.fold import FLOOR, Held
from cloud.stream.conflicts import (
    OVERTAKEN,
    Answer,
    Fleet,
    Open,
    before_delete,
    bring_back,
    delete,
    same,
    set_field,
    show,
)
from sync.errors import AgentDBError, InvalidValue
from sync.records import Record
from sync.schema import CollectionSchema
from sync.stamps import device_of

Resolver = Callable[[str, str, str, Claim, Claim, Mapping[str, Any]], Any]

_NOTE_CHARACTERS_MAX = 500
_NOBODY, _EVERYBODY = -(1 << 62), 1 << 62


class Judged(NamedTuple):
    """A conflict as it will be recorded (its number, time and resolution position are still to be filled
    in), and what the cloud should write for it.
    """

    conflict: Conflict
    answer: Answer | None


class Judge:
    """The rules of one collection, applied to one record."""

    def __init__(
        self,
        schema: CollectionSchema,
        key: str,
        held: Held,
        fleet: Fleet,
        resolvers: Mapping[str, Resolver],
        ruled: Ruled | None = None,
    ) -> None:
        """``ruled``: what the fleet's policy says instead of the schema."""
        self._rule, self._by = ruled or Ruled(schema.conflict, "")
        self._schema = schema
        self._key = key
        self._held = held
        self._fleet = fleet
        self._resolvers = resolvers

    def judge(self, found: Open) -> Judged:
        """Raises InvalidValue or TooLarge if what the rule decides cannot be written (``leave_open`` then)."""
        rule = self._rule
        if found.overtaken:
            return self._as_merged(found, note=OVERTAKEN)
        if rule == "priority":
            return self._by_priority(found)
        if rule.startswith("resolver:"):
            return self._by_resolver(found, rule.partition(":")[2])
        restored = self._restore(found)
        return self._as_merged(found, restored, state="open" if rule == "manual" else "resolved")

    def leave_open(self, found: Open, error: AgentDBError) -> Judged:
        """What merging decided stands until a person says otherwise."""
        return self._as_merged(found, state="open", note=f"cannot be written: {error.message}"[:_NOTE_CHARACTERS_MAX])

    # -- rules ----------------------------------------------------------------------------------------------------

    def _as_merged(
        self, found: Open, answer: Answer | None = None, *, state: str = "resolved", note: str = ""
    ) -> Judged:
        return self._judged(found, "came" if found.came_wins else "held", answer, state, note)

    def _restore(self, found: Open) -> Answer | None:
        """What comes back where an edit won over a delete by its stamp."""
        if found.field != FLOOR or not found.edit_wins:
            return None
        return bring_back(self._schema, self._held, found.edited, self._fleet.cloud)

    def _by_priority(self, found: Open) -> Judged:
        held = self._priority(found.held, found.held_position)
        came = self._priority(found.came, 0)
        if held == came:
            return self._as_merged(found, self._restore(found), note="equal priority: the later stamp")
        winner = "came" if came > held else "held"
        claim = found.came if winner == "came" else found.held
        if found.field != FLOOR:
            return self._judged(found, winner, self._field(found.field, claim.value))
        anew = self._anew(found)
        if claim.delete:
            answer = delete(self._schema.name) if self._held.record.alive and not anew else None
        elif found.edit_wins:
            answer = self._restore(found)
        else:
            edited = found.edited or before_delete(self._held)
            answer = self._show_given(edited, {**edited.values(), **claim.value}, anew)
        return self._judged(found, winner, answer)

    def _by_resolver(self, found: Open, name: str) -> Judged:
        record = self._held.record
        try:
            resolver = self._resolvers[name]
            given = resolver(
                self._schema.name, self._key, found.field, found.held, found.came, {"record": record.values()}
            )
            value = self._normalised(found.field, given)
            anew = self._anew(found)
            stays = bool(anew) and value is None  # the old life ends, and what was written anew is there already
            if anew:
                value = {**(record.values() if value is None else value), **anew}
        except Exception as error:  # noqa: BLE001 - the operator's code may raise anything; no device waits for it
            reason = (
                f"no resolver {name!r}"
                if isinstance(error, KeyError) and name not in self._resolvers
                else (f"resolver {name!r}: {type(error).__name__}: {error}")
            )
            return self._as_merged(found, self._restore(found), state="open", note=reason[:_NOTE_CHARACTERS_MAX])
        answer = None if stays else self._write(found.field, value, anew)
        return self._judged(found, self._matches(found, value), answer)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _anew(self, found: Open) -> dict[str, Any]:
        """The fields that somebody else wrote after the delete in ``found``, having seen it, or that were decided upon
        since: a new life of the record, which is no part of this conflict. Not what merely came back from the grave.
        """
        if found.field != FLOOR or not found.held.delete:
            return {}
        restored = (found.held.ts + 1, self._fleet.cloud)
        held, device = self._held, device_of(found.came.replica)
        return {
            name: slot[2]
            for name, slot in held.record.lww.items()
            if held.position_of(name) > found.held_position and device_of(slot[1]) != device and slot[:2] != restored
        }

    def _normalised(self, field: str, value: Any) -> Any:
        """Raises InvalidValue, TooLarge or SchemaMismatch."""
        if field != FLOOR:
            return self._schema.normalise({field: value})[field]
        return None if value is None else self._schema.normalise(value)

    def _write(self, field: str, value: Any, anew: Collection[str] = ()) -> Answer | None:
        """What makes the field, or the record, have this (normalised) value. Fields that were written ``anew`` are
        written as they are held, by a last writer, whatever the schema has made of them since.
        """
        if field != FLOOR:
            return self._field(field, value)
        if value is not None:
            rule_letter = self._schema.rule_letter
            letters = {name: "l" if name in anew else rule_letter(name) for name in value}
            return show(self._schema, self._held.record, value, self._fleet.cloud, letters.__getitem__)
        return delete(self._schema.name) if self._held.record.alive else None

    def _field(self, field: str, value: Any) -> Answer | None:
        slot = self._held.record.lww.get(field)
        if same(slot[2] if slot else None, value):
            return None
        return set_field(self._schema.name, field, value)

    def _show_given(
        self, source: Record, shown: Mapping[str, Any], anew: Mapping[str, Any] | None = None
    ) -> Answer | None:
        """What makes the record show what a reader saw of ``source``, and what was written ``anew`` by a last writer.
        Raises InvalidValue or TooLarge.
        """
        anew = anew or {}
        letters = {**source.shown_by(), **dict.fromkeys(anew, "l")}
        values: dict[str, Any] = {}
        for name, value in {**shown, **anew}.items():
            if name not in letters:
                letters[name] = _letter(self._schema, name, value)
            if letters[name] == "l":
                values[name] = value
            elif value is not None:
                values[name] = value[-1] if letters[name] == "k" else value
        return show(self._schema, self._held.record, values, self._fleet.cloud, letters.__getitem__)

    def _priority(self, claim: Claim, position: int) -> int:
        if device_of(claim.replica) != device_of(self._fleet.cloud):
            row = self._fleet.devices.get(device_of(claim.replica))
            return row.priority if row else _NOBODY
        earlier = self._fleet.resolved_at(position)
        if earlier is None or (earlier.field == FLOOR and not claim.delete):
            return _NOBODY
        if earlier.winner == "resolved" or earlier.rule == "manual":
            return _EVERYBODY
        winner = earlier.came if earlier.winner == "came" else earlier.held
        row = self._fleet.devices.get(device_of(winner.replica))
        return row.priority if row else _EVERYBODY

    def _matches(self, found: Open, value: Any) -> str:
        for side, claim in (("held", found.held), ("came", found.came)):
            if same(claim.value, value) and (found.field != FLOOR or claim.delete == (value is None)):
                return side
        return "resolved"

    def _judged(
        self, found: Open, winner: str, answer: Answer | None = None, state: str = "resolved", note: str = ""
    ) -> Judged:
        conflict = Conflict(
            number=0,
            position=found.position,
            at_ms=0,
            collection=self._schema.name,
            key=self._key,
            field=found.field,
            held=found.held,
            came=found.came,
            winner=winner,
            rule=self._rule,
            state=state,
            resolution=0,
            note=self._with_policy(note),
        )
        return Judged(conflict, answer)

    def _with_policy(self, note: str) -> str:
        """Whose the rule is, unless a later write has settled it."""
        if not self._by or note == OVERTAKEN:
            return note
        return f"{note}; rule of {self._by}" if note else f"rule of {self._by}"

    # -- a person decides -----------------------------------------------------------------------------------------

    def settle(self, conflict: Conflict, take: str, value: Any) -> Judged:
        """``take``: "winner", "loser" or "value" (then ``value`` is the field's; for delete against update
        the record's fields, or None). Raises InvalidValue, TooLarge or SchemaMismatch.
        """
        if take == "winner":
            return Judged(conflict._replace(state="resolved", note="kept"), None)
        if take == "value":
            wanted = self._normalised(conflict.field, value)
            winner = "resolved"
        elif take == "loser":
            winner = "held" if conflict.winner == "came" else "came"
            claim = conflict.held if winner == "held" else conflict.came
            wanted = claim.value
            if conflict.field == FLOOR and not claim.delete:
                whole = self._whole()
                answer = self._show_given(whole, {**whole.values(), **claim.value})
                return self._by_hand(conflict, winner, answer)
        else:
            raise InvalidValue(f"cannot take {take!r}", hint="winner, loser or value")
        return self._by_hand(conflict, winner, self._write(conflict.field, wanted))

    def _by_hand(self, conflict: Conflict, winner: str, answer: Answer | None) -> Judged:
        return Judged(conflict._replace(state="resolved", winner=winner, note="decided by hand"), answer)

    def _whole(self) -> Record:
        """The record as it is, or was before it was deleted."""
        record = self._held.record
        return record if record.alive else before_delete(self._held)


def _letter(schema: CollectionSchema, name: str, value: Any) -> str:
    """The rule by which a shown value that no record holds any more can be written again: the schema's, unless the
    value was written before the field had it.
    """
    letter = schema.rule_letter(name)
    fits = type(value) is list if letter in "sk" else letter == "l" or type(value) in (int, float)
    return letter if fits else "l"
