"""What every object store does, whichever it is: a directory, memory, and S3 as its HTTP API is spoken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.ports import ObjectStore
from cloud.storage.bucket_setup import ensure_bucket
from cloud.storage.objects import open_objects
from sync.errors import InvalidConfig, InvalidValue, NotFound, StorageError, TooLarge, Unreachable

KINDS = ["directory", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "endpoint": f"http://{host}:{port}",
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
    }
    server.stop()


@pytest.fixture(params=KINDS)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return open_objects(str(tmp_path / "archive"))
    if request.param == "memory":
        return open_objects("memory://")
    options = request.getfixturevalue("s3_options")
    url = f"s3://bucket-{sha256(str(tmp_path).encode()).hexdigest()[:12]}/some/prefix"
    assert ensure_bucket(url, options=options)
    assert not ensure_bucket(url, options=options)
    return open_objects(url, options=options)


def names(objects: ObjectStore, prefix: str, after: str = "") -> list[str]:
    return [info.name for info in objects.list(prefix, after)]


def test_what_was_put_comes_back(objects: ObjectStore) -> None:
    for data in (b"", b"x", os.urandom(3 << 20)):
        assert objects.put("v1/aa/object", data)
        assert sha256(objects.get("v1/aa/object")).digest() == sha256(data).digest()
        assert objects.head("v1/aa/object").size == len(data)
        assert objects.head("v1/aa/object").modified_ms > 1_700_000_000_000


def test_a_part_is_read_and_nothing_but_what_is_there(objects: ObjectStore) -> None:
    data = os.urandom(100_000)
    with memoryview(bytearray(data) + b"more") as view:
        assert objects.put("v1/aa/part", view[: len(data)], create_only=True)
    for offset, length in ((0, 1), (0, len(data)), (99_999, 1), (1234, 50_000)):
        assert objects.get_range("v1/aa/part", offset, length) == data[offset : offset + length]
    for offset, length in ((0, 100_001), (99_999, 2), (100_000, 1), (1 << 40, 5), (0, 0), (-1, 5), (5, -1)):
        with pytest.raises(InvalidValue):
            objects.get_range("v1/aa/part", offset, length)
    for offset in (0, 5):
        with pytest.raises(NotFound):
            objects.get_range("v1/aa/nothing", offset, 10)


def test_create_only_never_replaces(objects: ObjectStore) -> None:
    assert objects.put("v1/manifest/1", b"first", create_only=True)
    assert not objects.put("v1/manifest/1", b"second", create_only=True)
    assert objects.get("v1/manifest/1") == b"first"
    assert objects.put("v1/manifest/1", b"third")
    assert objects.get("v1/manifest/1") == b"third"


def test_of_racing_creators_one_wins(objects: ObjectStore) -> None:
    won: list[int] = []

    def race(number: int) -> None:
        if objects.put("v1/race", b"%d" % number, create_only=True):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("v1/race") == b"%d" % won[0]


def test_what_is_not_there_is_not_found(objects: ObjectStore) -> None:
    with pytest.raises(NotFound, match="v1/nothing"):
        objects.get("v1/nothing")
    with pytest.raises(NotFound, match="v1/nothing"):
        objects.head("v1/nothing")
    objects.delete("v1/nothing")
    objects.put("v1/a/b", b"x")
    with pytest.raises(NotFound):
        objects.get("v1/a")


def test_deleted_is_gone(objects: ObjectStore) -> None:
    objects.put("v1/x", b"x")
    objects.delete("v1/x")
    with pytest.raises(NotFound):
        objects.get("v1/x")
    assert objects.put("v1/x", b"y", create_only=True)


def test_names_are_listed_by_prefix_in_order(objects: ObjectStore) -> None:
    wanted = [f"v1/f/manifest/{number:020d}" for number in (3, 1, 2, 10)]
    for name in [*wanted, "v1/f/manifest2/1", "v1/f/seg/l0/1", "v1/g/manifest/1"]:
        objects.put(name, b"x")
    assert names(objects, "v1/f/manifest/") == sorted(wanted)
    assert names(objects, "v1/f/manifest/", after=f"v1/f/manifest/{2:020d}") == sorted(wanted)[2:]
    assert names(objects, "v1/f/man") == [*sorted(wanted), "v1/f/manifest2/1"]
    assert len(names(objects, "")) == 7
    assert names(objects, "v1/nobody/") == []


def test_long_lists_are_whole(objects: ObjectStore) -> None:
    expected = [f"v1/n/{number:05d}" for number in range(1100)]  # more than one page of S3's
    for name in reversed(expected):
        objects.put(name, b"")
    assert names(objects, "v1/n/") == expected


@pytest.mark.parametrize(
    "name", ["", "/v1", "v1/", "v1//x", "../x", "v1/../x", ".x", "v1/x#1", "V1/x", "v1/x\n", "x" * 513]
)
def test_names_that_mean_different_things_elsewhere_are_refused(objects: ObjectStore, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: objects.put(name, b""),
        lambda: objects.get(name),
        lambda: objects.head(name),
        lambda: objects.delete(name),
    ]
    for call in calls:
        with pytest.raises(InvalidValue):
            call()


def test_an_object_beyond_the_bound_is_refused(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    objects.put("v1/large", b"12345")
    monkeypatch.setattr("cloud.storage.objects.OBJECT_BYTES_MAX", 4)
    with pytest.raises(TooLarge):
        objects.put("v1/larger", b"12345")
    with pytest.raises(TooLarge):
        objects.get("v1/large")


# -- what only one of them can show --------------------------------------------------------------------------


def test_a_directory_syncs_file_and_directory_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = open_objects(str(tmp_path / "archive"))
    steps: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        steps.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def link(source: Path, target: Path) -> None:
        steps.append(f"link {Path(target).name}")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    objects.put("v1/a/object", b"x", create_only=True)
    assert steps == ["fsync archive", "fsync v1", "fsync object#1", "link object", "fsync a"]
    steps.clear()
    assert not objects.put("v1/a/object", b"y", create_only=True)
    assert steps == ["fsync object#1", "link object", "fsync a"], "what another writer created is made durable too"


def test_unfinished_files_are_neither_seen_nor_in_the_way(tmp_path: Path) -> None:
    objects = open_objects(str(tmp_path))
    objects.put("v1/a", b"x")
    (tmp_path / "v1" / "b#1").write_bytes(b"half")
    assert names(objects, "v1/") == ["v1/a"]
    assert objects.put("v1/b", b"whole", create_only=True)
    assert objects.get("v1/b") == b"whole"
    assert sorted(path.name for path in (tmp_path / "v1").iterdir()) == ["a", "b", "b#1"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sync.errors import DiskFull

    objects = open_objects(str(tmp_path))
    objects.put("v1/a", b"x")

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFull):
            objects.put("v1/b", b"x")
    assert [path.name for path in (tmp_path / "v1").iterdir()] == ["a"]


@pytest.mark.parametrize("url", ["ftp://host/x", "nonsense://", "s3://"])
def test_unusable_urls_are_a_configuration_error(url: str) -> None:
    with pytest.raises(InvalidConfig):
        open_objects(url)


def test_a_missing_directory_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        open_objects(str(tmp_path / "nothing"), create=False)


@pytest.mark.s3
def test_a_missing_bucket_says_so(s3_options: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        open_objects("s3://no-such-bucket", options=s3_options).put("a", b"")
    with pytest.raises(InvalidConfig):
        ensure_bucket("gs://other")


@pytest.mark.s3
def test_a_store_that_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.storage.objects._ATTEMPTS", 0)
    options = {"endpoint": "http://127.0.0.1:9", "region": "x", "access_key_id": "x", "secret_access_key": "x"}
    with pytest.raises(Unreachable):
        open_objects("s3://bucket", options=options).get("a")
