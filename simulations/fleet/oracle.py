"""What the fleet promised: every acknowledged write, remembered outside of the system that made the promise.

The oracle keeps the operations themselves, as the device's log showed them right after the acknowledgement (compared
with what was asked for), each with the image that its writer had before: that says exactly, and without believing any
``seen``, what the writer knew. It never reads the product's cursors or acknowledgements to decide what must be there.

Two bounds follow for every record of the final state:

* **nothing lost**: folding any promised operation into it changes nothing;
* **nothing invented, nothing twice**: it is no more than the join of everything that was ever written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from simulations.fleet.violation import Violation
from sync.images import fold
from sync.limits import FUTURE_MS_MAX
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from sync.schema import COLLECTIONS
from sync.stamps import COUNTER_BITS, NEVER, device_of, incarnation_of

Place = tuple[str, str]  # collection, key
COPY = "a copy"
MOVABLE = frozenset("cxn")  # counters, maxima, minima: rules of contributions that a copy moves (docs/adr/0012)


class Asked(NamedTuple):
    """A write that a caller asked for; what its log may say of it."""

    kind: int
    place: Place
    fields: Mapping[str, Any] | None
    amount: int = 0


class Written:
    """One operation that reached a device's log. ``before`` is the record's image when it was written. ``midway``: a
    baseline was or is under way, so its writer knows more than its cursor says. ``earlier``: as it was in the log
    before its stamp moved.
    """

    __slots__ = ("acknowledged", "amount", "before", "earlier", "excused", "midway", "node", "operation", "refused")

    def __init__(
        self, node: str, operation: Operation, before: bytes | None, *, acknowledged: bool, amount: int = 0
    ) -> None:
        self.node = node
        self.operation = operation
        self.before = before
        self.acknowledged = acknowledged
        self.amount = amount  # what was asked to be counted
        self.excused = ""
        self.refused = self.midway = False
        self.earlier: list[Operation] = []

    @property
    def place(self) -> Place:
        return (self.operation.shape.collection, self.operation.key)


def show(operation: Operation) -> str:
    """In one line, for people. Replica ids are the same in every run of a seed."""
    shape = operation.shape
    fields = ", ".join(f"{name}={value!r}"[:60] for name, value in zip(shape.names, operation.values, strict=False))
    who = f"{operation.replica.hex()[:6]}.{operation.replica[-1]}/{operation.seq}"
    return f"{Kind(shape.kind).name} {shape.collection}/{operation.key} {{{fields}}} by {who} at {operation.ts}"


def contains(image: bytes | None, operation: Operation, copied: Collection[bytes] = ()) -> bool:
    """Whether the record knows of this operation, or of what came after it. What a device counted whose store was
    ``copied`` may have moved to other slots: it is judged by what it comes to (``Oracle.check_tallies``).
    """
    if image is None:
        return False
    shape = operation.shape
    if device_of(operation.replica) in copied and MOVABLE & {*shape.rules}:
        kept = [at for at, rule in enumerate(shape.rules) if rule not in MOVABLE]
        names, rules = tuple(shape.names[at] for at in kept), "".join(shape.rules[at] for at in kept)
        values = tuple(operation.values[at] for at in kept)
        operation = operation._replace(shape=shape._replace(names=names, rules=rules), values=values)
        if not names:
            return True
    return fold(image, operation) == image


def _without_counts(record: Record) -> Record:
    record.slots = {field: slots for field, slots in record.slots.items() if field[1] not in MOVABLE}
    record.ts, record.replica = NEVER  # the newest write may be one that moved
    return record


class Oracle:
    """For one fleet. ``clouds`` are the cloud's own operations (answers of resolvers, records brought back)."""

    def __init__(self) -> None:
        self.written: dict[tuple[str, bytes, int], Written] = {}
        self.clouds: dict[tuple[bytes, int, Place], Operation] = {}
        self.refusals: list[tuple[bytes, int]] = []  # replica and seq of what a device was told that it was refused
        self.history: set[tuple[bytes, int, int]] = set()  # refused, and written again
        self.fed: set[tuple[bytes, int, int]] = set()  # those that entered the feed
        self.known: set[tuple[bytes, int, int]] = set()  # (replica, seq, ts), for membership only
        self.asked: dict[str, list[Asked]] = {}
        self.copied_devices: set[bytes] = set()  # for membership only
        self._variants: list[Operation] = []  # as they were before their stamps moved: a copy may have them like that
        self._retired = 0

    # -- the devices' side --------------------------------------------------------------------------------------------

    def ask(self, node: str, asked: Sequence[Asked]) -> None:
        """Before a write: it may come to the log, whatever becomes of the call."""
        self.asked[node] = list(asked)

    def acknowledge(
        self,
        node: str,
        operations: Sequence[Operation],
        before: Mapping[Place, bytes | None],
        *,
        excused: str = "",
        midway: bool = False,
    ) -> None:
        """The call returned, and the log has these operations since; ``excused`` says why nobody may count on them.
        Raises Violation if they are not what was asked for.
        """
        asked = self.asked.pop(node, [])
        if len(asked) != len(operations):
            raise Violation("acknowledged", f"{node}: {len(asked)} writes asked, {len(operations)} operations logged")
        for want, operation in zip(asked, operations, strict=True):
            _check_same(node, want, operation)
            image = before.get(want.place)
            _check_causal(node, image, operation)
            held = Written(node, operation, image, acknowledged=True, amount=want.amount)
            held.excused, held.midway = excused, midway
            self._add(held)

    def found(self, node: str, operations: Sequence[Operation], *, owed: bool = False) -> None:
        """What a device's log holds, after a restart, a failed call, or a clock that was mended: what is new was asked
        for; what was known may have other stamps and seqs now, if it had not been pushed, but the same order. ``owed``:
        all that was asked for last was acknowledged.
        """
        if not operations:
            if owed:
                raise Violation("nothing lost", f"{node} acknowledged {self.asked.get(node)}, and its log is empty")
            return
        first, replica = operations[0].seq, operations[0].replica
        if incarnation_of(replica) > 1:
            self.copied_devices.add(device_of(replica))
        mine = [
            held
            for (name, writer, seq), held in self.written.items()
            if name == node
            and writer == replica
            and (seq >= first or held.refused or (replica, seq, held.operation.ts) not in self.fed)
        ]
        unmatched: dict[tuple[Shape, str], list[Written]] = {}
        for held in mine:
            unmatched.setdefault((held.operation.shape, held.operation.key), []).append(held)
        asked = list(self.asked.get(node, []))
        wanted = len(asked)
        for operation in operations:
            known = self.written.get((node, replica, operation.seq))
            if (replica, operation.seq, operation.ts) in self.history or (
                known is not None and known.refused and known.operation == operation
            ):
                continue  # it stays in the log as it was; what is written again for it comes after it
            likely = unmatched.get((operation.shape, operation.key))
            if likely:
                same = [held for held in likely if held.operation == operation]  # or the first, with another stamp
                held = (same or likely)[0]
                likely.remove(held)
                self._follow(held, operation)
                continue
            want = next((want for want in asked if _is_same(want, operation)), None)
            if want is not None:
                asked.remove(want)
            elif operation.shape.collection != COLLECTIONS and not self._is_compensation(operation):
                raise Violation("nothing invented", f"{node} has an operation that nobody asked for: {show(operation)}")
            self._add(Written(node, operation, None, acknowledged=False, amount=want.amount if want else 0))
        if owed and asked:
            raise Violation("nothing lost", f"{node} acknowledged {asked} before it died")
        if 0 < len(asked) < wanted:
            raise Violation("all or nothing", f"{node} has a part of a batch: not {asked}")

    def _follow(self, held: Written, operation: Operation) -> None:
        """It is in the log like this now."""
        if held.operation == operation:
            return
        old = held.operation
        self._variants.append(old)
        if held.refused:
            self.history.add((old.replica, old.seq, old.ts))
        if self.written.get((held.node, old.replica, old.seq)) is held:
            del self.written[held.node, old.replica, old.seq]
        held.earlier.append(old)
        held.operation, held.refused = operation, False
        self._add(held)

    def copied(self, source: str, target: str) -> None:
        """``target``'s store is a copy of ``source``'s: it has the same operations, and owes none of them."""
        for (node, replica, seq), held in list(self.written.items()):
            if node == source:
                self.copied_devices.add(device_of(replica))
                copy = Written(target, held.operation, held.before, acknowledged=False)
                copy.excused = COPY
                self.written[target, replica, seq] = copy

    def refused(self, node: str, replica: bytes, seq: int) -> Written | None:
        """The cloud did not take it; what it was."""
        self.refusals.append((replica, seq))
        held = self.written.get((node, replica, seq))
        if held is not None:
            held.refused = True
        return held

    def excuse(self, why: str, survivors: Sequence[Mapping[Place, bytes]], suspects: Iterable[Written]) -> int:
        """A disaster: of the suspects, those that no survivor has are gone with good reason. Returns how many."""
        count = 0
        for held in suspects:
            if not held.excused and not self._survives(held, survivors):
                held.excused = why
                count += 1
        return count

    def retire(self, held: Written) -> None:
        """The writer's store no longer has it, so its name may be given again; the promise stands."""
        self.copied_devices.add(device_of(held.operation.replica))
        operation = held.operation
        del self.written[held.node, operation.replica, operation.seq]
        self._retired += 1
        self.written[f"{held.node} before {self._retired}", operation.replica, operation.seq] = held
        held.node = f"{held.node} before {self._retired}"

    def reinstate(self, node: str, operations: Iterable[Operation]) -> None:
        """The store has these again, which an earlier setting back had taken from it. They are promised already."""
        for operation in operations:
            self.copied_devices.add(device_of(operation.replica))
            if (node, operation.replica, operation.seq) not in self.written:
                held = Written(node, operation, None, acknowledged=False)
                held.excused = COPY
                self._add(held)

    def forget_answers(self, survivors: Sequence[Mapping[Place, bytes]]) -> None:
        """The cloud lost a part of its feed: answers of its own that nobody has are gone with it."""
        for key, operation in list(self.clouds.items()):
            if not any(contains(images.get(key[2]), operation) for images in survivors):
                del self.clouds[key]

    def of(self, node: str) -> list[Written]:
        return [held for held in self.written.values() if held.node == node]

    # -- the cloud's side ---------------------------------------------------------------------------------------------

    def knows(self, operations: Iterable[Operation], cloud: bytes) -> bool:
        """Whether somebody is known to have written all of these."""
        return all((it.replica, it.seq, it.ts) in self.known for it in operations if not _is_from_cloud(it, cloud))

    def committed(self, operations: Iterable[Operation], cloud: bytes, now_ms: int) -> None:
        """Operations that entered the feed. Raises Violation for one that nobody wrote, or that is from the future."""
        for operation in operations:
            if operation.seq and operation.ts >> COUNTER_BITS > now_ms + FUTURE_MS_MAX:
                raise Violation("not from the future", f"the feed has {show(operation)}, and it is {now_ms}")
            self.fed.add((operation.replica, operation.seq, operation.ts))
            if not _is_from_cloud(operation, cloud):
                if (operation.replica, operation.seq, operation.ts) not in self.known:
                    raise Violation(
                        "nothing invented", f"the feed has an operation that nobody wrote: {show(operation)}"
                    )
            elif operation.seq and operation.shape.kind != Kind.IMAGE:
                place = (operation.shape.collection, operation.key)
                self.clouds[operation.replica, operation.ts, place] = operation

    # -- what must hold of the final state ----------------------------------------------------------------------------

    def check_nothing_lost(self, images: Mapping[Place, bytes]) -> None:
        for held in self.written.values():
            if held.excused or held.refused or not held.acknowledged:
                continue
            if not self._has(images, held):
                raise Violation("nothing lost", f"{held.node} was told that {show(held.operation)} is safe")

    def check_nothing_invented(self, images: Mapping[Place, bytes]) -> None:
        everything = self.everything()
        for place, image in images.items():
            record = self._judged(everything.get(place, Record()))
            joined = record.encode()
            record.join(self._judged(Record.decode(image)))
            if record.encode() != joined:
                raise Violation(
                    "nothing invented", f"{place} is more than what was written: {Record.decode(image).values()}"
                )

    def check_nothing_missing(self, images: Mapping[Place, bytes]) -> None:
        """Where no disaster excused anything, the state is exactly the join of all that was written."""
        for place, record in self.everything(promised=True).items():
            if record.encode() != images.get(place):
                found = Record.decode(images[place]).values() if place in images else None
                raise Violation("nothing lost", f"{place} is {found}, the writes come to {record.values()}")

    def everything(self, *, promised: bool = False) -> dict[Place, Record]:
        """The join of all operations; with ``promised``, of those that the cloud took, or that were acknowledged and
        not refused: what a failed call left in a log may be gone with the next power cut.
        """
        out: dict[Place, Record] = {}
        for held in self.written.values():
            fed = (held.operation.replica, held.operation.seq, held.operation.ts) in self.fed
            if not promised or (not held.refused and (held.acknowledged or fed)):
                out.setdefault(held.place, Record()).apply(held.operation)
        for (_, _, place), operation in self.clouds.items():
            out.setdefault(place, Record()).apply(operation)
        for operation in () if promised else self._variants:
            if device_of(operation.replica) in self.copied_devices:
                out.setdefault((operation.shape.collection, operation.key), Record()).apply(operation)
        return out

    def check_tallies(self, images: Mapping[Place, bytes], collection: str, *, exact: bool) -> None:
        """What was only ever counted up comes to at least what was promised and, if it is to be ``exact``, at most to
        what was asked for.
        """
        sums: dict[Place, list[int]] = {}
        for held in self.written.values():
            if held.place[0] != collection or held.excused == COPY:
                continue
            low, high, top, most = sums.setdefault(held.place, [0, 0, 0, 0])
            promised = held.acknowledged and not held.excused and not held.refused
            if held.operation.shape.kind == Kind.INCREMENT:
                sums[held.place] = [low + held.amount * promised, high + held.amount, top, most]
            else:
                sums[held.place] = [low, high, max(top, held.amount * promised), max(most, held.amount)]
        for place, (low, high, top, most) in sums.items():
            values = Record.decode(images[place]).values() if place in images else {}
            count, best = values.get("count", 0), values.get("top", 0)
            if not low <= count <= (high if exact else count) or not top <= best <= most:
                wanted = f"{low}..{high} and a top of {top}..{most}"
                raise Violation("counted once", f"{place} has {count} and a top of {best}, not {wanted}")

    def covers(self, image: bytes, other: bytes) -> bool:
        """Whether a record's image has all that another has, but for what copies counted."""
        record, alone = self._judged(Record.decode(image)), self._judged(Record.decode(image)).encode()
        record.join(self._judged(Record.decode(other)))
        return record.encode() == alone

    def _survives(self, held: Written, survivors: Sequence[Mapping[Place, bytes]]) -> bool:
        """Whether somebody has it. Of a count that two copies made under one name, a later total says nothing."""
        operation = held.operation
        counts = device_of(operation.replica) in self.copied_devices and MOVABLE & {*operation.shape.rules}
        if counts and (operation.replica, operation.seq, operation.ts) not in self.fed:
            return False
        return any(contains(images.get(held.place), operation) for images in survivors)

    def _has(self, images: Mapping[Place, bytes], held: Written) -> bool:
        return contains(images.get(held.place), held.operation, self.copied_devices)

    def _judged(self, record: Record) -> Record:
        return _without_counts(record) if self.copied_devices else record

    # -- inside -------------------------------------------------------------------------------------------------------

    def _add(self, held: Written) -> None:
        operation = held.operation
        self.written[held.node, operation.replica, operation.seq] = held
        self._know(operation)

    def _is_compensation(self, operation: Operation) -> bool:
        """A copy of a store takes back what its original had counted already."""
        return operation.shape.kind == Kind.INCREMENT and device_of(operation.replica) in self.copied_devices

    def _know(self, operation: Operation) -> None:
        self.known.add((operation.replica, operation.seq, operation.ts))


def _is_from_cloud(operation: Operation, cloud: bytes) -> bool:
    """The cloud's own, or state: what state says was written by others before."""
    return device_of(operation.replica) == cloud or operation.shape.kind == Kind.IMAGE or operation.seq == 0


def _is_same(want: Asked, operation: Operation) -> bool:
    if (want.kind, *want.place) != (operation.shape.kind, operation.shape.collection, operation.key):
        return False
    if want.fields is None:
        return True
    names, rules = operation.shape.names, operation.shape.rules
    said = {name: value for name, rule, value in zip(names, rules, operation.values, strict=True) if rule == "l"}
    return all(said.get(name) == value for name, value in want.fields.items() if name in said or value is None) and (
        set(want.fields) <= set(names) or want.kind == Kind.PUT
    )


def _check_same(node: str, want: Asked, operation: Operation) -> None:
    if not _is_same(want, operation):
        raise Violation("acknowledged", f"{node} asked for {want}, and {show(operation)} was logged")


def _check_causal(node: str, before: bytes | None, operation: Operation) -> None:
    """A write comes after everything that its writer saw."""
    if before is not None and (operation.ts, operation.replica) <= Record.decode(before).stamp:
        raise Violation("causal order", f"{node}: {show(operation)} is not after what it was written over")
