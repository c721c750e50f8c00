"""Shapes of operations, interned: operations of one shape share one tuple, and composing them costs a dict lookup."""

from __future__ import annotations

from sync.operations import Kind, Shape

_PUT = int(Kind.PUT)
_SHAPES_MAX = 4096


class ShapeCache:
    """Bounded: it begins anew when it is full."""

    def __init__(self) -> None:
        self.orders: dict[tuple[str, ...], tuple[tuple[str, ...], str, bool]] = {}
        self._any: dict[Shape, Shape] = {}

    def order(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], str, bool]:
        """The names in order, the rules of as many last-writer fields, and whether they were in order already."""
        found = self.orders.get(names)
        if found is None:
            if len(self.orders) >= _SHAPES_MAX:
                self.orders.clear()
            ordered = tuple(sorted(names))
            found = self.orders[names] = (ordered, "l" * len(ordered), ordered == names)
        return found

    def plain(self, collection: str, names: tuple[str, ...]) -> Shape:
        """The shape of a PUT of these last-writer fields."""
        ordered, rules, _ = self.order(names)
        return self.intern(Shape(_PUT, collection, ordered, rules))

    def intern(self, shape: Shape) -> Shape:
        if len(self._any) >= _SHAPES_MAX:
            self._any.clear()
        return self._any.setdefault(shape, shape)
