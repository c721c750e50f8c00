"""What similarity means: how a stored vector becomes a searchable row, and how rows are ranked. Both tiers use this.

A *row* is float32; for cosine it is the vector divided by its length, so that one matrix-vector product scores all
rows. Scores are "higher is better": cosine similarity, dot product, negative squared Euclidean distance.

What always holds: ``Query.exact`` gives one row the same score wherever it lies and whoever asks (float64, row by
row), so ties are real ties; ``Query.approximate`` (float32) is never further from it than ``error_bound``. A
ranking scores all rows approximately, and those that could still be among the best exactly: recall is 1.0 by
construction, not by luck.

A vector of zeros has no direction: cosine never finds it, and a query of zeros is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from sync.errors import InvalidValue
from sync.schema import VectorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Places = NDArray[np.intp]

_EPSILON = 2.0**-24  # the unit roundoff of float32
_LEAST = 2.0**-126  # the smallest float32 of full precision: of a product below it all digits may be lost
_GROWTH = 4
_EXACT_ROWS = 4096  # scored exactly at a time: 12 MB of float64 at 384 dimensions


def row_of(spec: VectorSpec, value: Any) -> Floats | None:
    """The searchable row of a field's value; None if it is not such a vector, or has no direction under cosine.

    A schema is checked where values are written; but a record may have been written before the schema was declared.
    """
    import numpy as np

    form = spec.form_of(value) if type(value) is bytes else None
    if form is None:
        return None
    row = numbers_of(form, value)
    if spec.metric != "cosine":
        return row if np.isfinite(row).all() else None
    wide = row.astype(np.float64)
    length = float(np.sqrt(wide @ wide))
    if not 0.0 < length < float("inf"):
        return None
    return (wide / length).astype(np.float32)


def numbers_of(precision: str, stored: bytes) -> Floats:
    """The numbers of a stored vector: bit by bit those of ``VectorSpec.unpack``."""
    import numpy as np

    if precision == "float16":
        return np.frombuffer(stored, dtype="<f2").astype(np.float32)
    if precision == "int8":
        levels = np.frombuffer(stored, dtype=np.int8, offset=4).astype(np.float32)
        return cast("Floats", levels * np.frombuffer(stored, dtype="<f4", count=1))
    return np.frombuffer(stored, dtype="<f4")


class Query:
    """A query vector, prepared for one metric. Raises InvalidValue if it cannot rank anything."""

    def __init__(self, spec: VectorSpec, packed: bytes) -> None:
        import numpy as np

        self.spec = spec
        wide = np.frombuffer(packed, dtype="<f4").astype(np.float64)
        self.length = float(np.sqrt(wide @ wide))
        if spec.metric == "cosine":
            if self.length == 0.0:
                raise InvalidValue("a query vector of zeros has no direction", hint="cosine compares directions")
            wide /= self.length
            self.length = 1.0
        self.wide: Doubles = wide
        self.row: Floats = wide.astype(np.float32)

    def approximate(self, rows: Floats, lengths: Floats | None) -> Floats:
        """Scores of all rows, in float32. ``lengths`` are the rows' Euclidean lengths (None for cosine: all are 1).

        By ``einsum``, not by ``@``: it is one thread with SIMD, which the memory's bandwidth keeps as busy as BLAS and
        its threads (2.0 and 1.9 ms at 20,000 x 384), and when the machine has other work to do, BLAS's threads spin
        waiting for each other (10 to 16 ms; einsum 2.1 ms).
        """
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):  # ``ranking`` deals with what overflows float32
            scores = np.einsum("ij,j->i", rows, self.row)
            if self.spec.metric == "l2":
                assert lengths is not None
                scores *= 2
                scores -= lengths * lengths
                scores -= np.float32(self.length * self.length)
        return cast("Floats", scores)

    def error_bound(self, lengths: Floats | None) -> Floats | float:
        """How far ``approximate`` may be from ``exact``: the classic n·u·|x|·|q| of an inner product, with slack, and
        what n products of next to nothing may have lost.
        """
        import numpy as np

        relative = 2 * (self.spec.dimensions + 16) * _EPSILON
        if lengths is None:
            return relative
        lost = np.float32(2 * (self.spec.dimensions + 16) * _LEAST)
        with np.errstate(over="ignore"):
            if self.spec.metric == "dot":
                return cast("Floats", lengths * np.float32(relative * self.length) + lost)
            reach = lengths + np.float32(self.length)
            return cast("Floats", reach * reach * np.float32(relative) + lost)

    def exact(self, rows: Floats) -> Doubles:
        """Scores in float64, each from its own row alone."""
        import numpy as np

        wide = rows.astype(np.float64)
        if self.spec.metric == "l2":
            wide -= self.wide
            wide *= wide
            return cast("Doubles", -wide.sum(axis=1))
        wide *= self.wide
        return cast("Doubles", wide.sum(axis=1))


def lengths_of(spec: VectorSpec, rows: Floats) -> Floats | None:
    """Euclidean lengths of the rows, where scoring needs them."""
    import numpy as np

    if spec.metric == "cosine":
        return None
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    with np.errstate(over="ignore"):
        return cast("Floats", np.sqrt(squares).astype(np.float32))


def ranking(
    query: Query,
    scores: Floats,
    bound: Floats | float,
    dead: Places,
    rows_at: Callable[[Places], Floats],
    first: int,
) -> Iterator[tuple[Places, Doubles]]:
    """All rows but the ``dead``, best first, in groups ``(places, exact scores)``.

    ``scores`` are approximate and at most ``bound`` from the exact ones. The first group has at least ``first`` rows,
    or all. Every score in a group is above those of the next: ties are never split.

    Why it is complete: let ``cut`` be the m-th largest of the lower bounds. A row whose upper bound is below ``cut``
    scores below it, and the m rows above it are among those that are scored exactly.
    """
    import numpy as np

    upper, lower = scores + bound, scores - bound
    if not np.isfinite(scores).all():  # float32 overflowed: only exact scores can be trusted
        upper, lower = np.full_like(scores, np.inf), np.full_like(scores, -np.inf)
    upper[dead] = lower[dead] = -np.inf
    living = len(scores) - len(dead)
    above, wanted = np.inf, max(1, first)
    while living:
        cut = -np.inf if wanted >= living else float(np.partition(lower, -wanted)[-wanted])
        places = np.flatnonzero(upper >= cut) if cut > -np.inf else np.flatnonzero(upper > -np.inf)
        exact = np.concatenate(
            [query.exact(rows_at(places[at : at + _EXACT_ROWS])) for at in range(0, len(places), _EXACT_ROWS)]
        )
        certain = (exact >= cut) & (exact < above)
        yield places[certain], exact[certain]
        if cut == -np.inf:
            return
        above, wanted = cut, wanted * _GROWTH
