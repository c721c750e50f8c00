"""Twins in the cloud: labels, what is desired of a device, and what it reports (``sync.twins`` has their algebra).

What always holds: a version of *desired* that a device was told of names one document for ever; a version of *reported*
is taken only if it follows the one that is held, or says it again (the answer was lost, and what is sent again has all
that was sent before); any other is answered with the one that is held, whereupon the device sends all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from cloud.ports import Reading
from cloud.rows import DeviceRow
from cloud.twin_rows import ReadingTwins, TwinRow, WritingTwins
from sync import twins
from sync.errors import InvalidValue, StaleWrite, TooLarge
from sync.groups import Documents, Group
from sync.limits import AHEAD_MAX
from sync.twins import AGENTS, SYSTEM, Document

LABELS_MAX: Final = 64
LABEL_BYTES_MAX: Final = 256
_LABEL_NAME_MAX: Final = 64
_PAGE: Final = 500

Label = str | int | float | bool


class Member(NamedTuple):
    """A device in good standing, its twin, and what queries look at."""

    device: DeviceRow
    twin: TwinRow
    documents: Documents


class Taken(NamedTuple):
    """The answer to a report: the version of *reported* that is held, and what is desired and not reported, as JSON.
    ``twin`` is the row as it now is, None if the report was not taken.
    """

    version: int
    delta: bytes
    twin: TwinRow | None


def twin_of(view: ReadingTwins, fleet: bytes, device: bytes) -> TwinRow:
    return view.twin(fleet, device) or TwinRow(device)


def documents_of(row: TwinRow) -> Documents:
    return {"labels": _loaded(row.labels), "reported": _loaded(row.reported)}


def members(view: Reading, fleet: bytes, group: Group) -> Iterator[Member]:
    """In order of device: all in good standing that the query names."""
    rows = _in_order(view, fleet)
    row = next(rows, None)
    for device in view.devices(fleet):
        while row is not None and row.device < device.device:
            row = next(rows, None)
        if device.revoked_ms:
            continue
        twin = row if row is not None and row.device == device.device else TwinRow(device.device)
        documents = documents_of(twin)
        if group.matches(documents):
            yield Member(device, twin, documents)


def set_labels(tx: WritingTwins, fleet: bytes, device: bytes, changes: Mapping[str, Label | None]) -> TwinRow:
    """None takes a label away. Raises InvalidValue, TooLarge."""
    row = twin_of(tx, fleet, device)
    labels = _loaded(row.labels)
    for name, value in changes.items():
        _check_label(name, value)
        if value is None:
            labels.pop(name, None)
        else:
            labels[name] = value
    if len(labels) > LABELS_MAX:
        raise TooLarge(f"a device has at most {LABELS_MAX} labels", hint="take one away: NAME=")
    row = row._replace(labels=twins.check_document(labels))
    tx.put_twins(fleet, [row])
    return row


def set_desired(
    tx: WritingTwins,
    fleet: bytes,
    device: bytes,
    patch: Mapping[str, Any],
    *,
    agent: str | None = None,
    expected: int | None = None,
) -> TwinRow:
    """Merge ``patch`` into what is desired of this device alone, or of one agent of it. It is told what that and the
    rollouts make (``tell``). Raises InvalidValue, TooLarge, StaleWrite if ``expected`` is not the version any more.
    """
    row = twin_of(tx, fleet, device)
    if expected is not None and row.desired_version != expected:
        raise StaleWrite(
            f"version {row.desired_version} is desired by now, not {expected}", hint="look at it, and set it again"
        )
    given = dict(patch)
    if agent is None and (taken := sorted({AGENTS, SYSTEM} & given.keys())):
        raise InvalidValue(f"{taken[0]!r} is not the device's own", hint="--agent NAME sets an agent's")
    if agent is not None:
        given = {AGENTS: {agent: given}}
    twins.check_patch(given)
    row = row._replace(own=twins.check_document(twins.merge(_loaded(row.own), given)))
    tx.put_twins(fleet, [row])
    return row


def told(row: TwinRow, patches: Sequence[Mapping[str, Any]]) -> TwinRow:
    """The row with what the device is told from now on: what rollouts add, under what is desired of it alone. The
    version rises if that is another document. Raises TooLarge.
    """
    wanted: Document = {}
    for patch in (*patches, _loaded(row.own)):
        wanted = twins.merge(wanted, patch)
    desired = twins.check_document(wanted)
    if desired == row.desired:
        return row
    return row._replace(desired=desired, desired_version=row.desired_version + 1)


def take_report(
    tx: WritingTwins, fleet: bytes, device: bytes, version: int, patch: bytes, acks: int, now_ms: int
) -> Taken:
    """A device's report, in the transaction that answers it. Raises Malformed, TooLarge."""
    row = twin_of(tx, fleet, device)
    change = twins.read_patch(patch)
    if version not in (row.reported_version, row.reported_version + 1) or not version:
        return Taken(row.reported_version, _delta(row), None)
    reported = twins.check_document(twins.merge(_loaded(row.reported), change))
    row = row._replace(reported=reported, reported_version=version, acked=acks, at_ms=now_ms)
    if acks > row.desired_version:  # it was told of versions that a restored cloud does not know: they stay its own
        told = acks if acks <= row.desired_version + AHEAD_MAX else row.desired_version
        row = row._replace(acked=0, desired_version=told + 1)
    tx.put_twins(fleet, [row])
    return Taken(version, _delta(row), row)


def _delta(row: TwinRow) -> bytes:
    return twins.check_document(twins.delta(_loaded(row.desired), _loaded(row.reported)))


def _in_order(view: ReadingTwins, fleet: bytes) -> Iterator[TwinRow]:
    after = b""
    while rows := view.twins(fleet, after, _PAGE):
        yield from rows
        after = rows[-1].device


def _check_label(name: str, value: Label | None) -> None:
    if not (0 < len(name) <= _LABEL_NAME_MAX) or not name.replace("-", "_").isidentifier() or not name.isascii():
        raise InvalidValue(f"{name!r:.80} is no name of a label", hint="letters, digits, _ and -, as in site or rack-2")
    if isinstance(value, str) and len(value.encode(errors="replace")) > LABEL_BYTES_MAX:
        raise TooLarge(f"the label {name} is over {LABEL_BYTES_MAX} bytes", hint="what is long belongs in records")


def _loaded(data: bytes) -> Document:
    document: Document = msgspec.json.decode(data)
    return document
