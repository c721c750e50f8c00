"""A model file that runs its maker's code when it is loaded is refused, whatever it is called, unless in words."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from errno import EIO
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cloud.fleet.pickles import runs_code
from sync.errors import InvalidValue
from sync.models import Manifest
from tests.cloud.fleet.model_world import ModelWorld, some_bytes


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/never",)


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def broken_before(data: bytes) -> bytes:
    """A zip whose first member cannot be read."""
    whole = bytearray(zipped({"a": b"x" * 1000, "b": data}))
    start = whole.index(b"x") if b"xxxx" in whole else whole.index(b"a", 30) + 1
    whole[start : start + 4] = b"\xff\xff\xff\xff"
    return bytes(whole)


def broken_bzip2() -> bytes:
    whole = bytearray(zipped({"a": b"x" * 1000}, zipfile.ZIP_BZIP2))
    whole[whole.index(b"BZh") + 4] ^= 255
    return bytes(whole)


def before_its_beginning() -> bytes:
    """A zip that says that its list of files is there."""
    whole = bytearray(zipped({"a": b"x"}))
    whole[-6] += 100
    return bytes(whole)


def tarred(members: dict[str, bytes], *, old: bool = False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    if not old:
        return out.getvalue()
    whole = bytearray(out.getvalue())
    whole[257:265] = bytes(8)
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    return bytes(whole)


def array(values: object, **how: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values, **how), allow_pickle=True)  # type: ignore[call-overload]
    return out.getvalue()


PICKLES = {f"protocol {number}": pickle.dumps(Evil(), protocol=number) for number in range(6)}
EVIL = {
    **PICKLES,
    "a long one": pickle.dumps([*range(100_000), Evil()], protocol=4),
    "without saying that it is one": PICKLES["protocol 4"][11:],
    "torch's zip": zipped({"archive/data.pkl": PICKLES["protocol 2"], "archive/data/0": bytes(100)}),
    "a zip with one under another name": zipped({"weights": bytes(10), "config.json": PICKLES["protocol 4"]}),
    "a zip with one behind what cannot be read": broken_before(PICKLES["protocol 2"]),
    "a zip with one behind very many": zipped({**{f"{number}": b"" for number in range(10_010)}, "data.pkl": b""}),
    "a zip that is too long to be looked at": zipped(
        {**{f"{number}": b"" for number in range(10_010)}, "weights": PICKLES["protocol 2"]}
    ),
    "a broken zip": b"PK\x03\x04" + some_bytes(100),
    "a zip with what cannot be read before words": broken_before(b"words"),
    "a zip of what bzip2 cannot unpack": broken_bzip2(),
    "a zip that begins before itself": before_its_beginning(),
    "an array of objects": array([Evil()], dtype=object),
    "a structured array with objects": array([(1, None)], dtype=[("a", "i4"), ("b", "O")]),
    "arrays of objects in a zip": zipped({"a.npy": array([Evil()], dtype=object)}),
    "a tar with a checkpoint": tarred({"model_weights.ckpt": bytes(10)}),
    "a tar with a pickle": tarred({"weights": PICKLES["protocol 2"]}),
    "a tar of the time before they said so": tarred({"weights": PICKLES["protocol 2"]}, old=True),
    "a tar that ends within a file": tarred({"weights": bytes(5000)})[:900],
}
HARMLESS = {
    "safetensors": (16).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + bytes(4),
    "gguf": b"GGUF" + some_bytes(1000),
    "noise": some_bytes(200_000),
    "words before noise": b"before" + some_bytes(200_000),
    "a call before noise": b"R" + some_bytes(200_000, 4),
    "zeros": bytes(200_000),
    "nothing": b"",
    "json": json.dumps({"a": [1, 2], "b": "c"}).encode(),
    "csv": b"category,text\n(a),b\n1.0,2\n" * 100,
    "text": b"I have a plan. (It is a good one.)\nS is next\n" * 2000,
    "digits": b"0.12 0.13\n1.2\n" * 1000,
    "an array": array([1.0, 2.0]),
    "arrays": zipped({"a.npy": array([1, 2]), "words.txt": b"a b c"}),
    "what is no tar": some_bytes(257) + b"ustar" + some_bytes(1000),
    "onnx": b"\x08\x07\x12\x07pytorch" + some_bytes(1000),
}


@pytest.mark.parametrize("kind", EVIL)
def test_a_file_that_runs_code_is_known_by_what_is_in_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(EVIL[kind])
    assert runs_code(path.name, lambda: path.open("rb"))


def test_a_disk_that_fails_is_no_file_that_runs_code() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(EIO, "the disk")
            return super().read(size)

    with pytest.raises(OSError, match="the disk"):
        runs_code("weights.bin", lambda: Failing(EVIL["a tar with a pickle"]))


@pytest.mark.parametrize("name", ["m.pt", "m.PTH", "m.ckpt", "a/b.pkl", "m.joblib", "m.pkl.gz", "m.pickle"])
def test_or_by_its_name(name: str) -> None:
    assert runs_code(name, lambda: io.BytesIO(b"harmless"))


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_data_is_taken(kind: str) -> None:
    assert runs_code("weights.bin", lambda: io.BytesIO(HARMLESS[kind])) == ""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ModelWorld]:
    world = ModelWorld(tmp_path)
    yield world
    world.store.close()


def test_it_is_not_published_unless_in_words_and_then_the_manifest_says_so(world: ModelWorld) -> None:
    folder = world.folder("m", {"good.safetensors": HARMLESS["safetensors"], "deep/weights.bin": EVIL["torch's zip"]})
    with pytest.raises(InvalidValue, match=r"deep/weights\.bin") as refused:
        world.registry.publish(folder, "embed", "1")
    assert "--allow-pickle-that-runs-code" in refused.value.hint
    assert world.packs() == {}
    made = world.registry.publish(folder, "embed", "1", allow_pickle=True)
    assert Manifest.parse(made.manifest).runs_code
    assert made.runs_code


def test_noise_is_hardly_ever_taken_for_one() -> None:
    noise = (io.BytesIO(some_bytes(70_000, seed)) for seed in range(1000))
    assert sum(bool(runs_code("m.bin", partial(next, noise))) for _ in range(1000)) <= 2
