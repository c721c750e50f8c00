"""A parsed filter as a Lance expression, built with ``lancedb.expr`` from typed literals: no text is ever assembled.

What always holds: the expression lets every row pass whose record the filter's predicate lets pass, and perhaps
others. The search evaluates the predicate on the record's fields afterwards, so what cannot be pushed down (undeclared
fields, JSON columns as a whole) is simply left out, and Lance's idea of equality never decides.

Of a map in a JSON column the text is asked for the entry as ``tables_schema`` writes it: ``"floor":2`` is in that of
every record whose entry is 2, and in some others. A memory's metadata is such a map: where few pass, asking all 50,000
images instead took a second.

SQL has three truth values and a missing field makes a comparison NULL, whose negation is NULL again. So negations are
pushed down to the comparisons, and those that are true of a missing field say so. lancedb 0.40 offers no IS NULL; but
``concat`` reads NULL as empty, and a number, a boolean and a list are never empty as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, inf, nextafter
from typing import TYPE_CHECKING, Any

from edge.storage.filters import All, Condition, Either, Filter, Negation, Node, family
from edge.storage.tables_schema import MISFIT, Column, to_json
from sync.limits import INT_MAX, INT_MIN

if TYPE_CHECKING:
    from lancedb.expr import Expr

_PLAIN = ("eq", "in", "gt", "gte", "lt", "lte")
_OPPOSITE = {"gt": "lte", "gte": "lt", "lt": "gte", "lte": "gt"}
_FAMILY = {"str": "str", "int": "number", "float": "number", "bool": "bool", "bytes": "bytes"}
_ZERO: Mapping[str, Any] = {"str": "", "int": 0, "float": 0.0, "bool": False, "bytes": b""}


def expression(where: Filter | None, columns: Sequence[Column]) -> Expr | None:
    """The expression, or None if nothing of the filter can be pushed down."""
    return None if where is None else _expression(where.root, columns)


def narrowing(where: Filter | None, columns: Sequence[Column]) -> Iterator[Expr]:
    """What one search after the other may push down, each more than the one before: of the filter's parts those that
    compare plainly, then all. Where a field may be missing, Lance takes twice the time.
    """
    if where is not None:
        parts = _flat(where.root)
        plain = tuple(part for part in parts if _is_plain(part))
        for root in (All(plain), where.root) if 0 < len(plain) < len(parts) else (where.root,):
            pushed = _expression(root, columns)
            if pushed is not None:
                yield pushed


def _is_plain(node: Node) -> bool:
    if isinstance(node, Condition):
        return node.operator in _PLAIN or node.entry is not None
    return not isinstance(node, Negation) and all(map(_is_plain, node.parts))


def _flat(node: Node) -> list[Node]:
    """What all must hold."""
    return [part for one in node.parts for part in _flat(one)] if isinstance(node, All) else [node]


def _expression(root: Node, columns: Sequence[Column]) -> Expr | None:
    from lancedb.expr import col, lit

    pushed = _push(root, {column.field: column for column in columns}, negated=False)
    return None if pushed is None else pushed | (col(MISFIT) == lit(True))


def _push(node: Node, columns: Mapping[str, Column], *, negated: bool) -> Expr | None:
    if isinstance(node, Negation):
        return _push(node.part, columns, negated=not negated)
    if isinstance(node, Condition):
        column = columns.get(node.field)
        if column is not None and column.kind == "json" and node.entry is not None and not negated:
            return _entry(column, node.entry, node.operator, node.operand)
        return None if column is None else _condition(column, node.operator, node.operand, negated=negated)
    parts = [_push(part, columns, negated=negated) for part in node.parts]
    if isinstance(node, All) is not negated:
        return _joined([part for part in parts if part is not None], conjunction=True)
    assert isinstance(node, (All, Either))
    return (
        None if any(part is None for part in parts) else _joined([p for p in parts if p is not None], conjunction=False)
    )


def _joined(parts: list[Expr], *, conjunction: bool) -> Expr | None:
    joined: Expr | None = None
    for part in parts:
        joined = part if joined is None else joined & part if conjunction else joined | part
    return joined


def _condition(column: Column, operator: str, operand: Any, *, negated: bool) -> Expr | None:
    """None: nothing to push, every row may pass."""
    from lancedb.expr import col, lit

    if column.dimensions or column.kind == "json":
        return None
    if operator == "exists":
        missing = _missing(column)
        return ~missing if operand is not negated else missing
    if operator == "contains":
        # A list is compared as text: "[a, b]" contains the element, and a longer word does too. Good enough to narrow.
        return None if negated or column.kind != "list" else col(column.name).cast("string").contains(lit(str(operand)))
    if operator in ("ne", "nin"):
        operator, negated = ("eq" if operator == "ne" else "in"), not negated
    if operator in ("eq", "in"):
        choices = [choice for one in (operand if operator == "in" else (operand,)) for choice in _equals(column, one)]
        if negated:
            return _missing(column) | ~col(column.name).isin([lit(choice) for choice in choices]) if choices else None
        return col(column.name).isin([lit(choice) for choice in choices]) if choices else lit(False)
    if family(operand) != _FAMILY.get(column.kind):
        return None if negated else lit(False)
    if not negated:
        return _ordered(column, operator, operand)
    return _missing(column) | _ordered(column, _OPPOSITE[operator], operand)


def _entry(column: Column, entry: str, operator: str, operand: Any) -> Expr | None:
    """What the text of the map must have in it."""
    from lancedb.expr import col, lit

    try:
        name = to_json({entry: 0}).removeprefix("{").removesuffix("0}")
        name.encode()
    except UnicodeEncodeError:
        return lit(False)  # no record has such a name
    text = col(column.name)
    if operator in ("eq", "in"):
        values = {written for one in (operand if operator == "in" else (operand,)) for written in _written(one)}
        wanted = {written + end for written in values for end in ",}"}
        return _joined([text.contains(lit(name + written)) for written in sorted(wanted)], conjunction=False)
    if operator in ("gt", "gte", "lt", "lte") or (operator == "exists" and operand):
        return text.contains(lit(name))
    if operator == "contains":
        return text.contains(lit(f"{name}[")) & text.contains(lit(to_json(operand)))
    return None


def _written(operand: Any) -> list[str]:
    """The JSON of all that equals the operand."""
    if type(operand) not in (int, float):
        return [to_json(operand)]
    found = [str(int(operand))] if operand == int(operand) else []
    if float(operand) == operand:
        found.append(repr(float(operand)))
    return found if operand else [*found, "-0.0"]


def _missing(column: Column) -> Expr:
    """True or false, never NULL: whether the column is NULL."""
    from lancedb.expr import col, func, lit

    value = col(column.name)
    never_empty = value if column.kind == "list" else (value == lit(_ZERO[column.kind]))
    return func("concat", never_empty.cast("string"), lit("")) == lit("")


def _equals(column: Column, operand: Any) -> list[Any]:
    """The literals of the column's own type that equal the operand: one or none."""
    if family(operand) != _FAMILY.get(column.kind):
        return []
    if column.kind == "int" and type(operand) is float:
        return [int(operand)] if operand.is_integer() and INT_MIN <= operand <= INT_MAX else []
    if column.kind == "float":
        return [float(operand) + 0.0] if float(operand) == operand else []
    return [operand]


def _ordered(column: Column, operator: str, operand: Any) -> Expr:
    """The ordering against a literal of the column's own type, so that nothing is rounded where Lance compares."""
    from lancedb.expr import col, lit

    if column.kind == "int" and type(operand) is float:
        operand = floor(operand) if operator in ("gt", "lte") else ceil(operand)
        if not INT_MIN <= operand <= INT_MAX:
            below = operand < INT_MIN
            return ~_missing(column) if below is (operator in ("gt", "gte")) else lit(False)
    if column.kind == "float":
        nearest = float(operand) + 0.0
        if nearest != operand:  # an integer between two floats: compare with the neighbour on the far side
            operator = "gte" if operator in ("gt", "gte") else "lte"
            if operator == "gte" and nearest < operand:
                nearest = nextafter(nearest, inf)
            elif operator == "lte" and nearest > operand:
                nearest = nextafter(nearest, -inf)
        operand = nearest
    value, literal = col(column.name), lit(operand)
    compared: dict[str, Expr] = {
        "gt": value > literal,
        "gte": value >= literal,
        "lt": value < literal,
        "lte": value <= literal,
    }
    return compared[operator]
