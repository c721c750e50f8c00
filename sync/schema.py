"""Collection schemas: which fields a collection has, how each one merges, which are searched, and what values may be.

A schema is declared on any device (``edge.collection(...)``) and travels as a record of the system collection
``_collections``, so it reaches every replica by the ordinary feed, archive and restore. Fields that a schema does not
name are allowed (type ``any``, last writer wins) unless it is ``strict``.

What always holds: a value that passed ``normalise`` can be packed, merged, projected and sent; what did not has changed
nothing. The rule of a declared field never changes (``check_successor``): replicas that merged under another rule could
not be brought together again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from sync.errors import InvalidValue, SchemaMismatch, TooLarge
from sync.limits import (
    COLLECTION_NAME_BYTES_MAX,
    FIELD_NAME_BYTES_MAX,
    FIELDS_MAX,
    INT_MAX,
    INT_MIN,
    KEY_BYTES_MAX,
    SET_ELEMENTS_MAX,
    VALUE_DEPTH_MAX,
    VECTOR_DIMENSIONS_MAX,
)

COLLECTIONS = "_collections"
RULE_LETTERS = {"lww": "l", "counter": "c", "max": "x", "min": "n", "set": "s", "keep-all": "k"}
TYPES = ("any", "str", "int", "float", "bool", "bytes", "json", "strings", "vector")
METRICS = ("cosine", "dot", "l2")
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class FieldRule(NamedTuple):
    """The type of a field's values and how concurrent writes of it merge."""

    type: str = "any"
    merge: str = "lww"


class VectorSpec(NamedTuple):
    """The collection's vector field: float32, ``dimensions`` long, made by the embedding model named ``model``."""

    field: str
    dimensions: int
    metric: str = "cosine"
    model: str = ""


class CollectionSchema(NamedTuple):
    """``conflict`` is what the cloud does with concurrent overwrites: ``latest``, ``priority`` (of the device),
    ``manual`` or ``resolver:NAME``."""

    name: str
    fields: Mapping[str, FieldRule] = {}
    vector: VectorSpec | None = None
    text: tuple[str, ...] = ()
    conflict: str = "latest"
    strict: bool = False

    def rule_letter(self, field: str) -> str:
        rule = self.fields.get(field)
        return RULE_LETTERS[rule.merge] if rule is not None else "l"

    def all_lww(self) -> bool:
        return all(rule.merge == "lww" for rule in self.fields.values())

    def to_document(self) -> dict[str, Any]:
        """A plain, msgpack-able form; ``from_document`` reads it back."""
        return {
            "conflict": self.conflict,
            "fields": {name: [rule.type, rule.merge] for name, rule in sorted(self.fields.items())},
            "strict": self.strict,
            "text": list(self.text),
            "vector": list(self.vector) if self.vector else None,
        }

    @staticmethod
    def from_document(name: str, document: Any) -> CollectionSchema:
        """Raises SchemaMismatch for anything ``declare`` would not have produced."""
        try:
            vector = document["vector"]
            return declare(
                name,
                fields={field: FieldRule(*rule) for field, rule in document["fields"].items()},
                vector=VectorSpec(*vector) if vector else None,
                text=document["text"],
                conflict=document["conflict"],
                strict=document["strict"],
            )
        except (KeyError, TypeError, AttributeError, InvalidValue) as error:
            raise SchemaMismatch(f"not a schema document for collection {name!r}: {error}") from error

    def normalise(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Checked values in the form they are stored: vectors as float32 little-endian bytes, tuples as lists.

        Raises InvalidValue, TooLarge or SchemaMismatch.
        """
        if not isinstance(values, Mapping):
            raise InvalidValue(
                f"a record's fields are a mapping of names to values, not {type(values).__name__}"
            )
        if len(values) > FIELDS_MAX:
            raise TooLarge(f"{len(values)} fields; a record has at most {FIELDS_MAX}")
        declared = self.fields
        out: dict[str, Any] = {}
        for name, value in values.items():
            rule = declared.get(name)
            if rule is None:
                check_field_name(name)
                if self.strict:
                    raise SchemaMismatch(
                        f"collection {self.name!r} has no field {name!r}",
                        hint="declare it, or open the schema (strict=False)",
                    )
                kind = type(value)
                if kind is str or kind is bool or value is None:
                    out[name] = value
                else:
                    out[name] = check_value(name, value)
            elif value is None:
                if rule.merge != "lww":
                    raise InvalidValue(f"field {name!r} merges by {rule.merge!r} and cannot be None")
                out[name] = None
            elif rule.merge == "lww":
                out[name] = self._typed(name, rule.type, value)
            else:
                out[name] = self._merged(name, rule, value)
        return out

    def _typed(self, name: str, kind: str, value: Any) -> Any:
        if kind == "vector":
            assert self.vector is not None
            return pack_vector(value, self.vector.dimensions, name)
        if kind == "float" and type(value) is int:
            value = float(value)
        value = check_value(name, value)
        if not _is_of(kind, value):
            raise SchemaMismatch(f"field {name!r} of {self.name!r} is {kind}, not {type(value).__name__}")
        return value

    def _merged(self, name: str, rule: FieldRule, value: Any) -> Any:
        """A contribution to a field that is not last-writer: for a set the whole list, for the others one value."""
        if rule.merge == "set":
            return check_elements(name, value)
        value = check_value(name, value)
        if rule.merge == "keep-all":
            return value
        if type(value) not in (int, float):
            raise SchemaMismatch(
                f"field {name!r} merges by {rule.merge!r} and takes numbers, not {type(value).__name__}"
            )
        if rule.type in ("int", "float") and not _is_of(rule.type, value):
            if rule.type == "float":
                return float(value)
            raise SchemaMismatch(
                f"field {name!r} of {self.name!r} is {rule.type}, not {type(value).__name__}"
            )
        return value


def declare(
    name: str,
    *,
    fields: Mapping[str, FieldRule | tuple[str, str] | str] | None = None,
    vector: VectorSpec | tuple[Any, ...] | None = None,
    text: Iterable[str] = (),
    conflict: str = "latest",
    strict: bool = False,
) -> CollectionSchema:
    """Build and check a schema.

    ``fields`` maps a name to ``FieldRule(type, merge)``, to the same as a tuple, or to one word: a type (``"int"``) or a
    merge rule (``"counter"``). ``vector`` is ``(field, dimensions[, metric[, model]])``; ``text`` names the fields that
    full-text search covers. Raises InvalidValue or SchemaMismatch.
    """
    check_collection_name(name)
    rules: dict[str, FieldRule] = {}
    for field, rule in (fields or {}).items():
        check_field_name(field)
        if isinstance(rule, str):
            rule = FieldRule("any", rule) if rule in RULE_LETTERS else FieldRule(rule, "lww")
        rules[field] = _check_rule(field, FieldRule(*rule))
    spec = VectorSpec(*vector) if vector else None
    if spec is not None:
        check_field_name(spec.field)
        if type(spec.dimensions) is not int or not 1 <= spec.dimensions <= VECTOR_DIMENSIONS_MAX:
            raise SchemaMismatch(
                f"a vector has 1 to {VECTOR_DIMENSIONS_MAX} dimensions, not {spec.dimensions!r}"
            )
        if spec.metric not in METRICS or not isinstance(spec.model, str):
            raise SchemaMismatch(f"unknown metric {spec.metric!r}; known are {', '.join(METRICS)}")
        if rules.get(spec.field, FieldRule("vector")) != FieldRule("vector", "lww"):
            raise SchemaMismatch(f"the vector field {spec.field!r} is declared with another type")
        rules[spec.field] = FieldRule("vector", "lww")
    for field, rule in rules.items():
        if rule.type == "vector" and (spec is None or spec.field != field):
            raise SchemaMismatch(f"vector field {field!r} needs vector=({field!r}, dimensions)")
    names = (text,) if isinstance(text, str) else tuple(text)
    for field in names:
        check_field_name(field)
        if rules.setdefault(field, FieldRule("str", "lww")) != FieldRule("str", "lww"):
            raise SchemaMismatch(f"text field {field!r} must be of type str and merge lww")
    if len(rules) > FIELDS_MAX:
        raise TooLarge(f"{len(rules)} fields; a schema has at most {FIELDS_MAX}")
    if conflict not in ("latest", "priority", "manual") and not (
        isinstance(conflict, str) and conflict[:9] == "resolver:" and conflict[9:]
    ):
        raise SchemaMismatch(
            f"unknown conflict rule {conflict!r}", hint="latest, priority, manual or resolver:NAME"
        )
    return CollectionSchema(name, rules, spec, names, conflict, bool(strict))


def check_successor(old: CollectionSchema, new: CollectionSchema) -> None:
    """Raise SchemaMismatch unless data written under ``old`` stays valid and mergeable under ``new``."""
    for field, rule in old.fields.items():
        if new.fields.get(field, rule) != rule:
            raise SchemaMismatch(
                f"field {field!r} of {old.name!r} is {rule.type}/{rule.merge} and cannot become "
                f"{new.fields[field].type}/{new.fields[field].merge}",
                hint="declare a new field instead",
            )
    if old.vector and new.vector and old.vector.dimensions != new.vector.dimensions:
        raise SchemaMismatch(f"the vectors of {old.name!r} have {old.vector.dimensions} dimensions")


COLLECTIONS_SCHEMA = CollectionSchema(COLLECTIONS, {"spec": FieldRule("json", "lww")}, strict=True)


def check_key(key: Any) -> str:
    """A record key: 1 to 512 bytes of UTF-8 without NUL. Raises InvalidValue or TooLarge."""
    if type(key) is not str or not key or "\0" in key:
        raise InvalidValue(f"a key is a non-empty string without NUL, not {key!r:.80}")
    if len(key) > KEY_BYTES_MAX or (not key.isascii() and len(_utf8("key", key)) > KEY_BYTES_MAX):
        raise TooLarge(
            f"the key is over {KEY_BYTES_MAX} bytes",
            hint="use a digest as key and keep the long name in a field",
        )
    return key


def check_collection_name(name: Any) -> str:
    """Letters, digits and ``_ - .``, at most 64; a leading underscore is reserved for the system."""
    if name == COLLECTIONS:
        return COLLECTIONS
    if (
        type(name) is not str
        or not _NAME_CHARS.issuperset(name)
        or not name[:1].isalpha()
        or len(name) > COLLECTION_NAME_BYTES_MAX
    ):
        raise InvalidValue(
            f"not a collection name: {name!r:.80}",
            hint=f"a letter, then letters, digits, '_', '-', '.'; at most {COLLECTION_NAME_BYTES_MAX}",
        )
    return name


def check_field_name(name: Any) -> str:
    """A field name: 1 to 64 bytes of UTF-8, not starting with an underscore (those are ours), no NUL."""
    if type(name) is not str or not name or name[0] == "_" or "\0" in name:
        raise InvalidValue(
            f"not a field name: {name!r:.80}", hint="a non-empty string that does not start with '_'"
        )
    if len(name) > FIELD_NAME_BYTES_MAX or (
        not name.isascii() and len(_utf8("field name", name)) > FIELD_NAME_BYTES_MAX
    ):
        raise TooLarge(f"field name {name[:20]!r}… is over {FIELD_NAME_BYTES_MAX} bytes")
    return name


def check_value(name: str, value: Any, depth: int = 0) -> Any:
    """A value that msgpack can carry both ways: None, bool, 64-bit int, finite float, str, bytes, list, dict of str.

    Tuples become lists. Raises InvalidValue (wrong type, NaN, too deep) or TooLarge.
    """
    kind = type(value)
    if kind is str or kind is bool or kind is bytes or value is None:
        return value
    if kind is int:
        if not INT_MIN <= value <= INT_MAX:
            raise InvalidValue(f"field {name!r}: {value} does not fit 64 bits")
        return value
    if kind is float:
        if not isfinite(value):
            raise InvalidValue(f"field {name!r}: {value} cannot be stored; use None for a missing number")
        return value
    if depth >= VALUE_DEPTH_MAX:
        raise InvalidValue(f"field {name!r} is nested deeper than {VALUE_DEPTH_MAX} levels")
    if kind is list or kind is tuple:
        return [check_value(name, item, depth + 1) for item in value]
    if kind is dict:
        for inner in value:
            if type(inner) is not str:
                raise InvalidValue(
                    f"field {name!r}: the keys of a map are strings, not {type(inner).__name__}"
                )
        return {inner: check_value(name, item, depth + 1) for inner, item in value.items()}
    if kind is bytearray or kind is memoryview:
        return bytes(value)
    raise InvalidValue(
        f"field {name!r}: cannot store a {kind.__name__}",
        hint="None, bool, int, float, str, bytes, list, dict; vectors need a schema",
    )


def check_elements(name: str, value: Any) -> list[Any]:
    """The elements of a set field: strings or integers, no duplicates kept. Raises InvalidValue or TooLarge."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidValue(
            f"field {name!r} is a set and takes a list of strings or integers, not {type(value).__name__}"
        )
    for element in value:
        if type(element) is int and INT_MIN <= element <= INT_MAX:
            continue
        if type(element) is not str:
            raise InvalidValue(
                f"field {name!r}: the elements of a set are strings or 64-bit integers, not {element!r:.40}"
            )
    if len(value) > SET_ELEMENTS_MAX:
        raise TooLarge(f"field {name!r} has {len(value)} elements; a set has at most {SET_ELEMENTS_MAX}")
    return sorted(set(value), key=element_order)


def element_order(element: Any) -> tuple[bool, Any]:
    """A total order over the integers and strings of a set."""
    return (type(element) is str, element)


def pack_vector(value: Any, dimensions: int, name: str = "vector") -> bytes:
    """``dimensions`` float32, little-endian, from a sequence of numbers, a float buffer (array, ndarray) or such bytes.

    Raises SchemaMismatch for a wrong dimension and InvalidValue for NaN, infinity or other types.
    """
    try:
        if isinstance(value, bytes):
            floats = array("f")
            floats.frombytes(value)
        elif isinstance(value, (list, tuple)):
            floats = array("f", value)
        else:
            view = memoryview(value)
            if view.ndim != 1 or view.format not in ("f", "d", "e"):
                raise InvalidValue(
                    f"field {name!r}: a vector is one-dimensional and of floats, not {view.ndim}-d {view.format!r}"
                )
            floats = array("f", view.tobytes()) if view.format == "f" else array("f", view.tolist())
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(f"field {name!r}: not a vector of floats: {error}") from error
    if len(floats) != dimensions:
        raise SchemaMismatch(f"field {name!r} has {dimensions} dimensions; this vector has {len(floats)}")
    if not isfinite(sum(floats)):
        raise InvalidValue(f"field {name!r}: a vector with NaN or infinity cannot be searched")
    return floats.tobytes()


def unpack_vector(data: bytes) -> array[float]:
    """The inverse of ``pack_vector``; supports the buffer protocol, so ``numpy.asarray`` copies nothing."""
    floats = array("f")
    floats.frombytes(data)
    return floats


def _check_rule(field: str, rule: FieldRule) -> FieldRule:
    if rule.type not in TYPES:
        raise SchemaMismatch(
            f"field {field!r}: unknown type {rule.type!r}", hint=f"one of {', '.join(TYPES)}, or a merge rule"
        )
    if rule.merge not in RULE_LETTERS:
        raise SchemaMismatch(
            f"field {field!r}: unknown merge rule {rule.merge!r}", hint=f"one of {', '.join(RULE_LETTERS)}"
        )
    if rule.merge in ("counter", "max", "min") and rule.type not in ("any", "int", "float"):
        raise SchemaMismatch(f"field {field!r}: {rule.merge!r} merges numbers, not {rule.type}")
    if rule.merge == "set" and rule.type not in ("any", "strings"):
        raise SchemaMismatch(f"field {field!r}: a set holds strings or integers, not {rule.type}")
    if rule.merge == "keep-all" and rule.type not in ("any", "json"):
        raise SchemaMismatch(f"field {field!r}: keep-all holds any values, not {rule.type}")
    return rule


def _is_of(kind: str, value: Any) -> bool:
    if kind == "any" or kind == "json":
        return True
    if kind == "strings":
        return type(value) is list and all(type(item) is str for item in value)
    return type(value).__name__ == kind


def _utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"the {what} is not valid Unicode: {error.reason}") from error
