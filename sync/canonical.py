"""Canonical JSON (RFC 8785): what was signed has one form, so it has one reading.

What always holds: ``read`` takes the bytes that ``write`` makes and no others; with them no key comes twice. RFC 8785
writes every number as ECMAScript does, so a float of 1e20 goes as 100000000000000000000, which Python would read as an
integer that cannot be written again: beyond 2^53 - 1, digits without a point are a float's.
"""

from __future__ import annotations

import json
from typing import Any

import rfc8785

from sync.limits import JSON_INT_MAX


def write(document: Any) -> bytes:
    """Raises ValueError: an integer over ``JSON_INT_MAX``, NaN, infinity, what JSON has not, or nested too deeply."""
    try:
        return bytes(rfc8785.dumps(document))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read(data: bytes) -> Any:
    """Raises ValueError."""
    try:
        document = json.loads(data, parse_int=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if write(document) != data:
        raise ValueError("it is not in its canonical form (RFC 8785)")
    return document


def _number(digits: str) -> int | float:
    whole = int(digits)
    return whole if abs(whole) <= JSON_INT_MAX else float(digits)
