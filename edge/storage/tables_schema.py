"""A collection as Arrow columns: which columns its table has, and how records become rows of them.

The table is plain LanceDB, made to be opened by lancedb, DuckDB, Polars or pandas:

============== ================================================================================================
column         content
============== ================================================================================================
``_key``       the record's key
``_position``  the log position up to which this row was known to be current when it was written
a field        each declared field: str, int64, double, bool, binary; list<str> for lists and sets (integers in
               decimal); fixed-size list<float> for the vector; double for counters and extremes of any number;
               JSON text for json, keep-all and any
``_extra``     the fields that the schema does not declare, as one JSON object; null if there are none
``_misfit``    true if a declared field holds a value that its column cannot (written before it was declared, or
               beyond 64 bits): it is in ``_extra`` then, and its column is null; else null
============== ================================================================================================

A missing field is null. In JSON, bytes are ``{"$bytes": "<base64>"}``, and a map's own keys that begin with ``$``
have one more ``$`` in front. A field whose name is not letters, digits and underscores, beginning with a letter, has a
column ``x_…`` in which every other byte is written ``_hh``; ``column_name`` gives it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.vectors import numbers_of
from sync.limits import INT_MAX, INT_MIN
from sync.precisions import form_of
from sync.schema import CollectionSchema, FieldRule

if TYPE_CHECKING:
    import pyarrow as pa

KEY, POSITION, EXTRA, MISFIT = "_key", "_position", "_extra", "_misfit"
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MISFIT = object()

Row = tuple[str, int, dict[str, Any]]


class Column(NamedTuple):
    """``kind`` is str, int, float, bool, bytes, list, json, or of a vector: vector, float16, int8, as records store it
    (its column is of float32). ``dimensions`` is that of a vector, else 0.
    """

    field: str
    name: str
    kind: str
    dimensions: int = 0


def column_name(field: str) -> str:
    """The column of a field; distinct fields have distinct columns."""
    if _PLAIN_NAME.fullmatch(field) and not field.startswith("x_"):
        return field
    return "x_" + "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"_{byte:02x}" for byte in field.encode()
    )


def columns_of(schema: CollectionSchema) -> tuple[Column, ...]:
    """The columns of the declared fields, in order of field name."""
    return tuple(
        Column(field, column_name(field), *_kind_and_dimensions(schema, rule))
        for field, rule in sorted(schema.fields.items())
    )


def _kind_and_dimensions(schema: CollectionSchema, rule: FieldRule) -> tuple[str, int]:
    kind = _kind_of(rule)
    if kind != "vector" or schema.vector is None:
        return kind, 0
    precision = schema.vector.precision
    return "vector" if precision == "float32" else precision, schema.vector.dimensions


def _kind_of(rule: FieldRule) -> str:
    if rule.merge in ("counter", "max", "min"):
        return "int" if rule.type == "int" else "float"
    if rule.merge == "set" or rule.type == "strings":
        return "list"
    return "json" if rule.merge == "keep-all" or rule.type in ("any", "json") else rule.type


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "bytes": pa.binary(),
        "list": pa.list_(pa.string()),
        "json": pa.string(),
    }
    fields = [
        pa.field(column.name, pa.list_(pa.float32(), column.dimensions) if column.dimensions else kinds[column.kind])
        for column in columns
    ]
    own = [pa.field(KEY, pa.string()), pa.field(POSITION, pa.int64())]
    return pa.schema([*own, *fields, pa.field(EXTRA, pa.string()), pa.field(MISFIT, pa.bool_())])


def record_batch(columns: Sequence[Column], rows: Sequence[Row]) -> pa.RecordBatch:
    """The rows ``(key, position, fields)`` in Arrow form."""
    import pyarrow as pa

    schema = arrow_schema(columns)
    declared = {column.field for column in columns}
    extras: list[dict[str, Any]] = [
        {name: value for name, value in fields.items() if name not in declared} for _, _, fields in rows
    ]
    misfits: list[bool | None] = [None] * len(rows)
    arrays = [pa.array([row[0] for row in rows], pa.string()), pa.array([row[1] for row in rows], pa.int64())]
    for column in columns:
        values: list[Any] = []
        for place, (_, _, fields) in enumerate(rows):
            value = fields.get(column.field)
            shown = None if value is None else _shown(column, value)
            if shown is _MISFIT:
                extras[place][column.field] = value
                misfits[place] = True
                shown = None
            values.append(shown)
        field = schema.field(column.name)
        arrays.append(_vectors(values, column.dimensions) if column.dimensions else pa.array(values, field.type))
    arrays.append(pa.array([to_json(dict(sorted(extra.items()))) if extra else None for extra in extras], pa.string()))
    arrays.append(pa.array(misfits, pa.bool_()))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _vectors(values: Sequence[bytes | None], dimensions: int) -> pa.Array:
    """One buffer for all, instead of a Python float for each number: 50 times faster at 384 dimensions."""
    import pyarrow as pa

    zeros = bytes(4 * dimensions)
    buffer = pa.py_buffer(b"".join(zeros if value is None else value for value in values))
    flat = pa.Array.from_buffers(pa.float32(), len(values) * dimensions, [None, buffer])
    mask = pa.array([value is None for value in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(flat, dimensions, mask=mask)


def _shown(column: Column, value: Any) -> Any:
    """The value as its column holds it, or ``_MISFIT``."""
    kind, of = column.kind, type(value)
    if kind == "json":
        return to_json(value)
    if kind == "int":
        return value if of is int and INT_MIN <= value <= INT_MAX else _MISFIT
    if kind == "float":
        if of is float:
            return value + 0.0 if isfinite(value) else _MISFIT  # + 0.0: Lance tells -0.0 from 0.0, Python does not
        return float(value) if of is int and INT_MIN <= value <= INT_MAX and float(value) == value else _MISFIT
    if kind == "list":
        if of is list and all(type(item) in (str, int) for item in value):
            return [str(item) for item in value]
        return _MISFIT
    if column.dimensions:
        precision = "float32" if kind == "vector" else kind
        form = form_of(len(value), column.dimensions, precision) if of is bytes else None
        if form is None:
            return _MISFIT
        shown = value if form == "float32" else numbers_of(form, value).tobytes()
        return shown if _finite(shown) else _MISFIT
    return value if of.__name__ == kind else _MISFIT


def _finite(packed: bytes) -> bool:
    import numpy as np

    return bool(np.isfinite(np.frombuffer(packed, dtype="<f4")).all())


def to_json(value: Any) -> str:
    """The documented JSON form of any value that a record can hold."""
    return json.dumps(_jsonable(value), ensure_ascii=False, separators=(",", ":"))


def _jsonable(value: Any) -> Any:
    if type(value) is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if type(value) is dict:
        return {f"${name}" if name[:1] == "$" else name: _jsonable(item) for name, item in value.items()}
    if type(value) is list:
        return [_jsonable(item) for item in value]
    if type(value) is float and not isfinite(value):  # a sum of counters can get there
        return str(value)
    return value
