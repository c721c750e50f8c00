"""Headers of safetensors and GGUF: what is read of a model without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.control.model_headers import check_headers
from sync.errors import Malformed
from tests.edge.control.model_world import model

GOOD = model([[1.0, 0.5], [0.0, 2.0]])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.safetensors", b""),
        ("m.safetensors", b"\xff" * 8),
        ("m.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("m.safetensors", (9).to_bytes(8, "little") + b'{"a":1.5}'),
        ("m.safetensors", GOOD["model.safetensors"] + b"x"),
        ("m.safetensors", GOOD["model.safetensors"].replace(b"F32", b"F16")),
        ("m.safetensors", (200_000).to_bytes(8, "little") + b"[" * 200_000),
        (
            "m.safetensors",
            (68).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}',
        ),
        ("m.gguf", b"GGUF"),
        ("m.gguf", b"GGML" + bytes(20)),
        ("m.gguf", b"GGUF" + (3).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little") + bytes(8)),
        ("m.gguf", b"GGUF" + (9).to_bytes(4, "little") + bytes(16)),
    ],
)
def test_headers_that_are_none(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Malformed, match="is none"):
        check_headers(tmp_path, [name])


def test_headers_that_are_right(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(GOOD["model.safetensors"])
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    (tmp_path / "m.onnx").write_bytes(b"anything")
    assert check_headers(tmp_path, ["m.safetensors", "m.gguf", "m.onnx"]) == 2
