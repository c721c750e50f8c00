"""Which tier answers a collection's vector searches, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def status_of(
    *, count: int, size: int, budget: int, index: Mapping[str, Any] | None, rows_min: int, making: tuple[int, int]
) -> dict[str, Any]:
    """``size`` of the vectors and ``budget`` of the exact tier in bytes; ``index``: what is known of an approximate
    one, None where the exact tier answers; ``making`` one takes so many bytes, of so many that it may.
    """
    tier = "exact" if index is None else "lance"
    why = f"the vectors take {size} bytes, the budget is {budget}"
    out: dict[str, Any] = {"count": count, "tier": tier, "approximate": False, "why": why}
    if index is None:
        return out
    out["index"] = index
    out["approximate"] = index["index"]
    if not index["index"]:
        said = index["problem"] or index.get("refused") or "no index has been made yet"
        needed, allowed = making
        if count < rows_min:
            said = f"fewer than {rows_min} records"
        elif needed > allowed:
            said = f"to make an index takes {needed} bytes, ann_mib_max is {allowed >> 20}"
        out["why"] = f"{why}; exact: {said}"
    return out
