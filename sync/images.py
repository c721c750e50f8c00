"""Short cuts over encoded records, for the reads and writes that must be fast.

A *plain* image is one that a single write made whole: ``[ts, replica, {name: value}]``, no older fields, no slots, no
floor. Nearly every record is plain, and for a plain one most questions are answered without building a ``Record``.

What always holds: each function says, bytes or values, exactly what ``sync.records`` would
(``tests/sync/test_images.py`` compares them). What is not plain is left to ``Record``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from sync.errors import Malformed
from sync.operations import Kind, Operation
from sync.records import Record
from sync.records import fold as full_fold

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_PLAIN_64 = b"\x93\xcf"  # and with a timestamp of 64 bits, as nearly all have
PLAIN = 0x93  # msgpack: an array of three


def plain_image(ts: int, replica: bytes, packed_fields: bytes) -> bytes:
    """The image of a record that one write made, from its fields, packed as a map in order of name."""
    if ts > 0xFFFFFFFF and len(replica) == 16:
        return b"\x93\xcf" + ts.to_bytes(8, "big") + b"\xc4\x10" + replica + packed_fields
    packed: bytes = b"\x93" + _pack(ts) + _pack(replica) + packed_fields
    return packed


def fold(image: bytes | None, operation: Operation) -> bytes:
    """``sync.records.fold``, with short cuts where the outcome is plain: a first write of last-writer fields, and a
    later one that names every field of a plain image.
    """
    replica, _, ts, _, (kind, _, names, rules), _, values = operation
    if kind <= Kind.PATCH and rules.count("l") == len(rules):
        if image is None:
            return plain_image(ts, replica, _pack(dict(zip(names, values, strict=True))))
        if image[0] == PLAIN:
            held_ts, _, held = _plain(image)
            if held_ts < ts and held.keys() <= set(names):
                return plain_image(ts, replica, _pack(dict(zip(names, values, strict=True))))
    return full_fold(image, operation)


def is_alive(image: bytes) -> bool:
    """Whether a reader sees the record."""
    return image[0] == PLAIN or Record.decode(image).alive


def newest_of(image: bytes) -> int:
    """The largest timestamp in it. Raises Malformed."""
    if image[:2] == _PLAIN_64:
        return int.from_bytes(image[2:10], "big")
    return Record.decode(image).newest_ts


def image_values(image: bytes) -> dict[str, Any] | None:
    """What a reader sees: fields in order of name, absent ones left out; None for a deleted record. Raises
    Malformed.
    """
    if image[0] == PLAIN:
        fields = _plain(image)[2]
        if None in fields.values():
            return {name: value for name, value in fields.items() if value is not None}
        return fields
    record = Record.decode(image)
    return record.values() if record.alive else None


def split_image(image: bytes, most: int) -> list[bytes]:
    """Images of at most ``most`` bytes that join to this one. What alone is larger is left out."""
    if len(image) <= most:
        return [image]
    whole = Record.decode(image)
    parts: list[Record] = []
    size = most

    def room(needed: int) -> Record:
        nonlocal size
        size += needed
        if size > most:
            part = Record()
            part.ts, part.replica, part.floor = whole.ts, whole.replica, whole.floor
            parts.append(part)
            size = len(part.encode()) + needed
        return parts[-1]

    for name, held in whole.lww.items():
        room(len(_pack([name, held]))).lww[name] = held
    for (name, rule), slots in whole.slots.items():
        for slot, entry in slots.items():
            room(len(_pack([name, rule, slot, entry])) + 16).slots.setdefault((name, rule), {})[slot] = entry
    return [encoded for part in parts if len(encoded := part.encode()) <= most]


def replaced_fields(image: bytes, values: Mapping[str, Any], ts: int) -> dict[str, Any] | None:
    """The fields of a PUT of ``values`` at ``ts`` over ``image``, if the outcome is plain again; else None.

    That is so if the image is plain and older, and the PUT names, or makes absent, every field in it. Only for
    collections whose fields are all last-writer.
    """
    if image[0] != PLAIN:
        return None
    held_ts, _, held = _plain(image)
    if held_ts >= ts:
        return None
    if held.keys() == values.keys():
        return {name: values[name] for name in held}  # in order of name, as they are held
    wanted = dict(values)
    for name, value in held.items():
        if name not in wanted:
            if value is None:  # absent since an older write: it keeps its older stamp
                return None
            wanted[name] = None
    return wanted


def _plain(image: bytes) -> tuple[int, bytes, dict[str, Any]]:
    try:
        ts, replica, fields = msgpack.unpackb(image, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"not a record image: {error}") from error
    return ts, replica, fields
