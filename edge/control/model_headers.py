"""What can be said of a model's files without running anything: the headers of safetensors and GGUF.

Sources: huggingface.co/docs/safetensors (8 bytes little-endian length, JSON, then the tensors without gap), and
github.com/ggml-org/ggml docs/gguf.md (magic, version 2 or 3, counts). What always holds: bounded before it is read;
what is not understood is Malformed; files of other kinds are left alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from sync.errors import Malformed

HEADER_BYTES_MAX = 100 << 20  # what the safetensors library takes
_GGUF_VERSIONS = (2, 3)
_GGUF_LEAST = 13  # bytes that a tensor or a pair takes in the file, at least
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def check_headers(folder: Path, files: Iterable[str]) -> int:
    """How many of the files have a header that is known, and right. Raises Malformed, OSError."""
    checked = 0
    for name in files:
        check = {".safetensors": _safetensors, ".gguf": _gguf}.get(Path(name).suffix)
        if check is not None:
            path = folder / name
            with path.open("rb") as file:
                try:
                    check(file, path.stat().st_size)
                except (
                    struct.error,
                    ValueError,
                    TypeError,
                    KeyError,
                    AttributeError,
                    OverflowError,
                    RecursionError,
                ) as error:
                    raise Malformed(f"{name} is none: {str(error)[:100]}") from error
            checked += 1
    return checked


def _safetensors(file: BinaryIO, size: int) -> None:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(HEADER_BYTES_MAX, size - 8):
        raise ValueError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(file.read(length))
    tensors = sorted(
        (*map(int, tensor["data_offsets"]), tensor["dtype"], tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__"
    )
    at = 0
    for begin, end, dtype, shape in tensors:
        bits = prod(shape) * _BITS.get(dtype, 0)
        if begin != at or end < begin or (dtype in _BITS and bits != 8 * (end - begin)):
            raise ValueError(f"a tensor at {begin} to {end} that is not one of {shape} {dtype}")
        at = end
    if 8 + length + at != size:
        raise ValueError(f"{size} bytes, of which its header describes {8 + length + at}")


def _gguf(file: BinaryIO, size: int) -> None:
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in _GGUF_VERSIONS:
        raise ValueError(f"it begins with {magic!r}, version {version}")
    if (tensors + pairs) * _GGUF_LEAST > size:
        raise ValueError(f"{size} bytes for {tensors} tensors and {pairs} pairs")
