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
from sync.limits import FIELDS_MAX, INT_MAX, INT_MIN, VECTOR_DIMENSIONS_MAX
from sync.precisions import PRECISIONS, check_stored, coarser, form_of, load, store, stored_bytes
from sync.values import (
    COLLECTIONS,
    SYSTEM_COLLECTIONS,
    brief,
    check_collection_name,
    check_elements,
    check_field_name,
    check_key,
    check_value,
    element_order,
    pack_vector,
    unpack_vector,
)

RULE_LETTERS = {"lww": "l", "counter": "c", "max": "x", "min": "n", "set": "s", "keep-all": "k"}
TYPES = ("any", "str", "int", "float", "bool", "bytes", "json", "strings", "vector")
METRICS = ("cosine", "dot", "l2")
_known_names: set[str] = set()  # field names that were checked before: most records have the same ones
_KNOWN_NAMES_MAX = 4096
_NAMES_CHARACTERS_MAX = 256  # of an embedding model, of a resolver


class FieldRule(NamedTuple):
    """The type of a field's values and how concurrent writes of it merge."""

    type: str = "any"
    merge: str = "lww"


class VectorSpec(NamedTuple):
    """The collection's vector field: ``dimensions`` long, made by the embedding model named ``model``, stored and sent
    in a ``precision`` of float32, float16 or int8 (``sync.precisions``).
    """

    field: str
    dimensions: int
    metric: str = "cosine"
    model: str = ""
    precision: str = "float32"

    @property
    def stored_bytes(self) -> int:
        """The size of a stored vector."""
        return stored_bytes(self.dimensions, self.precision)

    def pack(self, value: Any) -> bytes:
        """The stored form of what ``pack_vector`` takes. Raises as it does."""
        return store(pack_vector(value, self.dimensions, self.field), self.precision, self.field)

    def unpack(self, stored: bytes) -> array[float]:
        """The numbers of a stored form, which must be one (``form_of``)."""
        return load(stored, self.form_of(stored) or self.precision)

    def form_of(self, stored: bytes) -> str | None:
        """The precision in which it is stored, the declared one or a coarser one; None: it is no such vector."""
        return form_of(len(stored), self.dimensions, self.precision)

    def coarser(self, stored: bytes, form: str) -> bytes:
        """The same in the form that a policy wants, never a finer one (``sync.precisions.coarser``)."""
        return coarser(stored, self.dimensions, self.precision, form)

    def check(self, stored: bytes) -> None:
        """Of a stored form that somebody else made. Raises SchemaMismatch, InvalidValue."""
        check_stored(stored, self.dimensions, self.precision, self.field)

    def to_list(self) -> list[Any]:
        """Without the precision that was the only one once: such a declaration is the same bytes as ever."""
        return list(self[:4] if self.precision == "float32" else self)


class CollectionSchema(NamedTuple):
    """``conflict`` is what the cloud does with concurrent overwrites: ``latest``, ``priority`` (of the device),
    ``manual`` or ``resolver:NAME``.
    """

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
            "vector": self.vector.to_list() if self.vector else None,
        }

    @staticmethod
    def from_document(name: str, document: Any) -> CollectionSchema:
        """Raises SchemaMismatch for what ``declare`` does not accept; what a later version adds is ignored."""
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
        except (KeyError, TypeError, AttributeError, InvalidValue, TooLarge) as error:
            raise SchemaMismatch(f"not a schema document for collection {name!r}: {error}") from error

    def normalise(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Checked values in the form they are stored: vectors as bytes of their precision, tuples as lists.

        Raises InvalidValue, TooLarge or SchemaMismatch.
        """
        if not isinstance(values, Mapping):
            raise InvalidValue(f"a record's fields are a mapping of names to values, not {type(values).__name__}")
        if len(values) > FIELDS_MAX:
            raise TooLarge(f"{len(values)} fields; a record has at most {FIELDS_MAX}")
        declared = self.fields
        out: dict[str, Any] = {}
        for name, value in values.items():
            rule = declared.get(name)
            if rule is None:
                if name not in _known_names:
                    _remember_name(check_field_name(name))
                if self.strict:
                    raise SchemaMismatch(
                        f"collection {self.name!r} has no field {name!r}",
                        hint="declare the field, or let the schema be open (strict=False, --no-strict)",
                    )
                kind = type(value)  # the commonest values, without a call
                if kind is str:
                    out[name] = value if value.isascii() else check_value(name, value)
                elif (
                    kind is bool
                    or kind is bytes
                    or value is None
                    or (kind is int and INT_MIN <= value <= INT_MAX)
                    or (kind is float and isfinite(value))
                ):
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
        of = type(value)  # the commonest first, likewise
        if of is str and kind == "str" and value.isascii():
            return value
        if of is int and kind == "int" and INT_MIN <= value <= INT_MAX:
            return value
        if kind == "vector":
            assert self.vector is not None
            return self.vector.pack(value)
        value = check_value(name, value)
        if kind == "float" and type(value) is int:
            return float(value)
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
            raise SchemaMismatch(f"field {name!r} of {self.name!r} is {rule.type}, not {type(value).__name__}")
        return value


def _remember_name(name: str) -> None:
    if len(_known_names) >= _KNOWN_NAMES_MAX:
        _known_names.clear()
    _known_names.add(name)


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

    ``fields`` maps a name to ``FieldRule(type, merge)``, to the same as a tuple, or to one word: a type (``"int"``) or
    a merge rule (``"counter"``). ``vector`` is ``(field, dimensions[, metric[, model[, precision]]])``; ``text``
    names the fields that full-text search covers. Raises InvalidValue, SchemaMismatch or TooLarge.
    """
    check_collection_name(name)
    if isinstance(vector, str):
        raise InvalidValue(
            f"vector is (field, dimensions), not {brief(vector)}",
            hint=f"the dimensions are those of your embeddings, such as ({brief(vector)}, 384)",
        )
    try:
        rules = {check_field_name(field): _rule(field, rule) for field, rule in (fields or {}).items()}
        spec = _check_vector(VectorSpec(*vector), rules) if vector else None
        names = (text,) if isinstance(text, str) else tuple(text)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidValue(f"not a declaration of collection {name!r}: {error}") from error
    for field, rule in rules.items():
        if rule.type == "vector" and (spec is None or spec.field != field):
            raise SchemaMismatch(f"vector field {field!r} needs vector=({field!r}, dimensions)")
    for field in names:
        check_field_name(field)
        if rules.setdefault(field, FieldRule("str", "lww")) != FieldRule("str", "lww"):
            raise SchemaMismatch(f"text field {field!r} must be of type str and merge lww")
    if len(rules) > FIELDS_MAX:
        raise TooLarge(f"{len(rules)} fields; a schema has at most {FIELDS_MAX}")
    if type(strict) is not bool:
        raise InvalidValue(f"strict is True or False, not {brief(strict)}")
    return CollectionSchema(name, rules, spec, names, _check_conflict(conflict), strict)


def check_successor(old: CollectionSchema, new: CollectionSchema) -> None:
    """Raise SchemaMismatch unless data written under ``old`` stays valid and mergeable under ``new``."""
    for field, rule in old.fields.items():
        becomes = new.fields.get(field)
        if becomes is None:
            # Undeclared, it would become a last-writer field beside what was merged so far, or beside vectors.
            if rule.merge != "lww" or (rule.type == "vector" and not _moves(old, new)):
                is_what = "holds vectors" if rule.type == "vector" else f"merges by {rule.merge!r}"
                raise SchemaMismatch(
                    f"field {field!r} of {old.name!r} {is_what} and must stay declared",
                    hint="declare it again as it was; no record needs to have it",
                )
        elif becomes != rule:
            raise SchemaMismatch(
                f"field {field!r} of {old.name!r} is {rule.type}/{rule.merge} and cannot become "
                f"{becomes.type}/{becomes.merge}",
                hint="declare a new field instead",
            )
    if old.vector and new.vector and not _moves(old, new) and old.vector.dimensions != new.vector.dimensions:
        raise SchemaMismatch(f"the vectors of {old.name!r} have {old.vector.dimensions} dimensions")
    if old.vector and new.vector and old.vector.precision != new.vector.precision:
        raise SchemaMismatch(f"the vectors of {old.name!r} are stored as {old.vector.precision}")


def _moves(old: CollectionSchema, new: CollectionSchema) -> bool:
    """Whether the vectors are in another field from now on: those of another model, so that a ranking never has both.
    What is in the old field are plain bytes then, which an open schema takes from devices that have not heard of it.
    """
    return bool(old.vector and new.vector and old.vector.field != new.vector.field and not new.strict)


COLLECTIONS_SCHEMA = CollectionSchema(COLLECTIONS, {"spec": FieldRule("json", "lww")}, strict=True)


def _rule(field: str, rule: FieldRule | tuple[str, str] | str) -> FieldRule:
    if isinstance(rule, str):
        return _check_rule(field, FieldRule("any", rule) if rule in RULE_LETTERS else FieldRule(rule, "lww"))
    return _check_rule(field, FieldRule(*rule))


def _check_rule(field: str, rule: FieldRule) -> FieldRule:
    if rule.type not in TYPES:
        raise SchemaMismatch(
            f"field {field!r}: unknown type {brief(rule.type)}",
            hint=f"a type ({', '.join(TYPES)}) or a merge rule ({', '.join(RULE_LETTERS)})",
        )
    if rule.merge not in RULE_LETTERS:
        raise SchemaMismatch(
            f"field {field!r}: unknown merge rule {brief(rule.merge)}", hint=f"one of {', '.join(RULE_LETTERS)}"
        )
    if rule.merge in ("counter", "max", "min") and rule.type not in ("any", "int", "float"):
        raise SchemaMismatch(f"field {field!r}: {rule.merge!r} merges numbers, not {rule.type}")
    if rule.merge == "set" and rule.type not in ("any", "strings"):
        raise SchemaMismatch(f"field {field!r}: a set holds strings or integers, not {rule.type}")
    if rule.merge == "keep-all" and rule.type not in ("any", "json"):
        raise SchemaMismatch(f"field {field!r}: keep-all holds any values, not {rule.type}")
    return rule


def _check_vector(spec: VectorSpec, rules: dict[str, FieldRule]) -> VectorSpec:
    """The vector field is declared by ``vector`` alone, or there and in ``fields``; afterwards it is in ``rules``."""
    check_field_name(spec.field)
    if type(spec.dimensions) is not int or not 1 <= spec.dimensions <= VECTOR_DIMENSIONS_MAX:
        raise SchemaMismatch(f"a vector has 1 to {VECTOR_DIMENSIONS_MAX} dimensions, not {brief(spec.dimensions)}")
    if spec.metric not in METRICS:
        raise SchemaMismatch(f"unknown metric {brief(spec.metric)}; known are {', '.join(METRICS)}")
    if spec.precision not in PRECISIONS:
        raise SchemaMismatch(f"unknown precision {brief(spec.precision)}; known are {', '.join(PRECISIONS)}")
    if not _is_short_text(spec.model):
        raise SchemaMismatch(f"an embedding model's name is a string of at most {_NAMES_CHARACTERS_MAX} characters")
    if rules.get(spec.field, FieldRule("vector")) != FieldRule("vector", "lww"):
        raise SchemaMismatch(f"the vector field {spec.field!r} is declared with another type")
    rules[spec.field] = FieldRule("vector", "lww")
    return spec


def _check_conflict(conflict: Any) -> str:
    if conflict in ("latest", "priority", "manual"):
        return str(conflict)
    if _is_short_text(conflict) and conflict[:9] == "resolver:" and conflict[9:]:
        return str(conflict)
    raise SchemaMismatch(f"unknown conflict rule {brief(conflict)}", hint="latest, priority, manual or resolver:NAME")


def _is_short_text(value: Any) -> bool:
    return type(value) is str and len(value) <= _NAMES_CHARACTERS_MAX and check_value("name", value) == value


def _is_of(kind: str, value: Any) -> bool:
    if kind in ("any", "json"):
        return True
    if kind == "strings":
        return type(value) is list and all(type(item) is str for item in value)
    return type(value).__name__ == kind


__all__ = [
    "COLLECTIONS",
    "COLLECTIONS_SCHEMA",
    "METRICS",
    "PRECISIONS",
    "RULE_LETTERS",
    "SYSTEM_COLLECTIONS",
    "TYPES",
    "CollectionSchema",
    "FieldRule",
    "VectorSpec",
    "check_collection_name",
    "check_elements",
    "check_field_name",
    "check_key",
    "check_successor",
    "check_value",
    "declare",
    "element_order",
    "pack_vector",
    "unpack_vector",
]
