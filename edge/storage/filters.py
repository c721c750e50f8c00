"""Filters: which records a search or scan may return, said as data, parsed once, and evaluated over a record's fields.

``{"agent": "a1", "importance": {"$gte": 0.5}, "$or": [{"tags": {"$contains": "x"}}, {"b": 1}]}``

::

    filter     = { field: condition, …, "$and": [filter, …], "$or": [filter, …], "$not": filter }  all must hold
    condition  = scalar | { operator: operand, …, "$not": condition }                              all must hold
    operators  = $eq $ne $gt $gte $lt $lte  scalar      $in $nin  [scalar, …]
                 $contains  string | int    membership in a list or set field
                 $exists    bool            whether the field has a value; None is no value

What always holds: a filter is data. No part of it is ever spliced into a query language, so there is nothing to escape
and nothing to inject; what is not understood raises InvalidFilter before anything is read.

A name with a dot is a declared field's own name, or that of an entry of a map that is declared ``json``:
``{"place.floor": 2}``, all behind the first dot being the entry's key. Filters reach no deeper, and into no other maps.
In a strict collection every name must be declared.

Meaning of a missing field, which is the same as None (``{"f": None}`` asks for records without f): every comparison
with it is false, except ``$ne``, ``$nin`` and ``$exists: False``. Numbers compare with numbers (exactly, also integers
beyond 2^53 with floats), strings with strings by code point, bytes with bytes; between other types ``$eq`` and the
orderings are false, and a boolean is not a number. ``$not`` is negation.

``edge.storage.tables_filters`` turns a parsed filter into a Lance expression; the predicate here has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

from sync.errors import InputError, InvalidFilter
from sync.limits import INT_MAX, INT_MIN
from sync.schema import CollectionSchema, FieldRule, check_field_name
from sync.values import python_scalar

DEPTH_MAX = 16
CONDITIONS_MAX = 256
CHOICES_MAX = 1024

Fields = Mapping[str, Any]
Predicate = Callable[[Fields], bool]


class Condition(NamedTuple):
    """One comparison. ``operator`` is one of eq, ne, gt, gte, lt, lte, in, nin, contains, exists. With an ``entry``, of
    what the map in the field has under that key.
    """

    field: str
    operator: str
    operand: Any
    entry: str | None = None


class All(NamedTuple):
    parts: tuple[Node, ...]


class Either(NamedTuple):
    parts: tuple[Node, ...]


class Negation(NamedTuple):
    part: Node


Node = Condition | All | Either | Negation


class Filter(NamedTuple):
    """A parsed filter: its tree, and the predicate made of it."""

    root: Node
    matches: Predicate


_ORDERINGS: Mapping[str, Callable[[Any, Any], bool]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
# What a field declared with this type may be compared with; other types ("any", "json", undeclared) with any scalar.
_FAMILIES = {"str": "str", "int": "number", "float": "number", "bool": "bool", "bytes": "bytes"}


def parse(expression: Any, schema: CollectionSchema | None = None) -> Filter | None:
    """The filter that ``expression`` says; None and ``{}`` let everything pass and are None.

    With a schema, operands are checked against the declared types. Raises InvalidFilter.
    """
    if expression is None or expression == {}:
        return None
    root = _Parser(schema).filter(expression, 0)
    return Filter(root, _predicate(root))


def family(value: Any) -> str:
    """The family of types within which values compare: number, str, bool, bytes, or other."""
    kind = type(value)
    if kind is int or kind is float:
        return "number"
    return kind.__name__ if kind in (str, bool, bytes) else "other"


class _Parser:
    def __init__(self, schema: CollectionSchema | None) -> None:
        self._schema = schema
        self._conditions = 0

    def filter(self, expression: Any, depth: int) -> Node:
        if not isinstance(expression, Mapping):
            raise InvalidFilter(
                f"a filter is a mapping of field names to conditions, not {type(expression).__name__}",
                hint='for example {"agent": "a1", "importance": {"$gte": 0.5}}',
            )
        _check_depth(depth)
        parts: list[Node] = []
        for name, value in expression.items():
            if name == "$and":
                parts.append(All(self._branches(name, value, depth)))
            elif name == "$or":
                parts.append(Either(self._branches(name, value, depth)))
            elif name == "$not":
                parts.append(Negation(self.filter(value, depth + 1)))
            elif isinstance(name, str) and name.startswith("$"):
                raise InvalidFilter(f"unknown operator {name!r:.80}", hint="between fields: $and, $or, $not")
            else:
                parts.append(self._entry(name, value, depth) or self._of_field(name, value, depth))
        return _all(parts)

    def _of_field(self, name: Any, value: Any, depth: int) -> Node:
        return self._conditions_on(self._known(_field_name(name)), value, depth)

    def _entry(self, name: Any, value: Any, depth: int) -> Node | None:
        """The conditions on an entry of a map, if that is what the name names."""
        if self._schema is None or not isinstance(name, str) or name in self._schema.fields:
            return None
        field, dot, entry = name.partition(".")
        rule = self._schema.fields.get(field)
        if not dot or rule is None or rule != FieldRule("json"):
            return None
        return _inside(self._conditions_on(name, value, depth), field, entry)

    def _known(self, field: str) -> str:
        """Raises InvalidFilter for a field that no record can have, as far as the schema says."""
        schema = self._schema
        if schema is not None and field not in schema.fields:
            if schema.strict:
                known = ", ".join(sorted(schema.fields)) or "none"
                raise InvalidFilter(f"collection {schema.name!r} has no field {field!r}", hint=f"declared are: {known}")
            if "." in field:
                raise InvalidFilter(
                    f"{field!r} is not a declared field",
                    hint="filters reach into maps that are declared json only: keep what you ask for in a field of its "
                    "own; a field whose name has a dot must be declared to be asked for",
                )
        return field

    def _branches(self, name: str, value: Any, depth: int) -> tuple[Node, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidFilter(f"{name} takes a list of one or more filters")
        return tuple(self.filter(item, depth + 1) for item in value)

    def _conditions_on(self, field: str, value: Any, depth: int) -> Node:
        if not isinstance(value, Mapping):
            return self._condition(field, "$eq", value)
        if not value:
            raise InvalidFilter(f"the condition on {field!r} is empty", hint='{"$exists": True} asks for any value')
        _check_depth(depth)
        parts: list[Node] = []
        for operator, operand in value.items():
            if operator == "$not":
                if not isinstance(operand, Mapping):
                    raise InvalidFilter(f"$not on {field!r} takes a condition", hint='{"$not": {"$gt": 5}}, or use $ne')
                parts.append(Negation(self._conditions_on(field, operand, depth + 1)))
            else:
                parts.append(self._condition(field, operator, operand))
        return _all(parts)

    def _condition(self, field: str, operator: Any, operand: Any) -> Node:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise InvalidFilter(f"a filter has at most {CONDITIONS_MAX} conditions")
        rule = self._schema.fields.get(field) if self._schema is not None else None
        operand = python_scalar(operand)
        if operator == "$exists":
            if type(operand) is not bool:
                raise InvalidFilter(f"$exists on {field!r} takes True or False")
            return Condition(field, "exists", operand)
        if operator in ("$eq", "$ne") and operand is None:
            return Condition(field, "exists", operator == "$ne")
        if operator in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"):
            self._check_comparable(field, rule, operator, operand)
            return Condition(field, operator[1:], operand)
        if operator in ("$in", "$nin"):
            if not isinstance(operand, (list, tuple, set, frozenset)) or len(operand) > CHOICES_MAX:
                raise InvalidFilter(f"{operator} on {field!r} takes a list of at most {CHOICES_MAX} values")
            choices = tuple(python_scalar(choice) for choice in operand)
            for choice in choices:
                self._check_comparable(field, rule, operator, choice)
            return Condition(field, operator[1:], choices)
        if operator == "$contains":
            return self._contains(field, rule, operand)
        inner = isinstance(operator, str) and not operator.startswith("$")
        raise InvalidFilter(
            f"unknown operator {operator!r:.80} on {field!r}",
            hint="$eq $ne $gt $gte $lt $lte $in $nin $contains $exists $not"
            + ("; an entry is asked for as 'field.entry', in maps that are declared json only" if inner else ""),
        )

    def _check_comparable(self, field: str, rule: FieldRule | None, operator: str, operand: Any) -> None:
        of = _check_scalar(field, operand)
        if of == "bool" and operator in ("$gt", "$gte", "$lt", "$lte"):
            raise InvalidFilter(f"{operator} on {field!r}: booleans have no order")
        wanted = comparable_family(rule)
        if wanted == "none":
            assert rule is not None
            kind = "a set" if rule.merge == "set" else f"a {rule.merge if rule.merge != 'lww' else rule.type} field"
            asked = "$exists can be asked" if rule.type == "vector" else "$contains and $exists can be asked"
            raise InvalidFilter(f"{field!r} is {kind} and cannot be compared", hint=asked)
        if wanted not in ("any", of):
            raise InvalidFilter(f"{field!r} is compared with a {wanted}, not with {type(operand).__name__}")

    def _contains(self, field: str, rule: FieldRule | None, operand: Any) -> Node:
        if type(operand) not in (str, int):
            raise InvalidFilter(f"$contains on {field!r} takes a string or an integer, not {type(operand).__name__}")
        _check_scalar(field, operand)
        if rule is not None and rule.merge not in ("set", "keep-all") and rule.type not in ("any", "json", "strings"):
            raise InvalidFilter(f"{field!r} is a {rule.type} field; $contains asks about lists and sets")
        return Condition(field, "contains", operand)


def comparable_family(rule: FieldRule | None) -> str:
    """What values of a field with this rule compare with: a family, "any", or "none" (lists and vectors)."""
    if rule is None:
        return "any"
    if rule.merge in ("counter", "max", "min"):
        return "number"
    if rule.merge in ("set", "keep-all") or rule.type in ("strings", "vector"):
        return "none"
    return _FAMILIES.get(rule.type, "any")


def _inside(node: Node, field: str, entry: str) -> Node:
    if isinstance(node, Condition):
        return node._replace(field=field, entry=entry)
    if isinstance(node, Negation):
        return Negation(_inside(node.part, field, entry))
    return node._replace(parts=tuple(_inside(part, field, entry) for part in node.parts))


def _all(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _check_depth(depth: int) -> None:
    if depth >= DEPTH_MAX:
        raise InvalidFilter(f"a filter is nested at most {DEPTH_MAX} levels deep")


def _field_name(name: Any) -> str:
    try:
        return check_field_name(name)
    except InputError as error:
        raise InvalidFilter(error.message, hint=error.hint) from error


def _check_scalar(field: str, value: Any) -> str:
    """The family of an operand that can be compared. Raises InvalidFilter for all others."""
    of = family(value)
    if of == "other":
        raise InvalidFilter(
            f"{field!r} is compared with a string, number, boolean or bytes, not with {type(value).__name__}",
            hint="$in takes a list of choices, $contains asks for an element, $exists whether there is a value; "
            "None is no value",
        )
    if type(value) is int and not INT_MIN <= value <= INT_MAX:
        raise InvalidFilter(f"{field!r}: {value} does not fit 64 bits")
    if type(value) is float and not isfinite(value):
        raise InvalidFilter(f"{field!r}: {value} compares with nothing")
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidFilter(f"{field!r}: the operand is not valid Unicode: {error.reason}") from error
    return of


# -- the predicate ------------------------------------------------------------------------------------------------


def _predicate(node: Node) -> Predicate:
    if isinstance(node, Condition):
        return _compare(node)
    if isinstance(node, Negation):
        inner = _predicate(node.part)
        return lambda fields: not inner(fields)
    parts = [_predicate(part) for part in node.parts]
    outcome = isinstance(node, Either)

    def decided(fields: Fields) -> bool:
        for part in parts:  # any() of a generator takes twice as long, and there are hundreds of candidates
            if part(fields) is outcome:
                return outcome
        return not outcome

    return decided


def _compare(condition: Condition) -> Predicate:
    field, operator, operand, entry = condition
    if entry is not None:
        of_entry = _compare(Condition(entry, operator, operand))
        return lambda fields: of_entry(value if type(value := fields.get(field)) is dict else {})
    if operator == "exists":
        return lambda fields: (fields.get(field) is not None) is operand
    if operator == "contains":
        kind = type(operand)
        return lambda fields: _has(fields.get(field), operand, kind)
    if operator in ("in", "nin"):
        choices = {(family(choice), choice) for choice in operand}
        wanted = operator == "in"
        return lambda fields: _among(fields.get(field), choices) is wanted
    kinds = (int, float) if family(operand) == "number" else (type(operand),)
    if operator in ("eq", "ne"):
        wanted = operator == "eq"
        return lambda fields: (type(value := fields.get(field)) in kinds and value == operand) is wanted
    ordering = _ORDERINGS[operator]
    return lambda fields: type(value := fields.get(field)) in kinds and ordering(value, operand)


def _among(value: Any, choices: set[tuple[str, Any]]) -> bool:
    of = family(value)
    return of != "other" and (of, value) in choices


def _has(value: Any, element: Any, kind: type) -> bool:
    return type(value) is list and any(type(item) is kind and item == element for item in value)
