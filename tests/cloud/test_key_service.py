"""Keys in files: who may read them, that they are never overwritten, and that another process's epoch is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.identity.key_service import EPOCH_FILE, SERVICE_FILE, FileKeyService
from sync.errors import CorruptStore, InvalidConfig
from tests.cloud.identity_world import SeededRandom

FLEET, OTHER = b"f" * 16, b"o" * 16


def test_keys_survive_and_nobody_else_may_read_them(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    keys = FileKeyService.create(directory, SeededRandom())
    assert keys.ring(FLEET).epochs() == ()
    assert (keys.create_epoch(FLEET), keys.create_epoch(FLEET), keys.create_epoch(OTHER)) == (1, 2, 1)

    again = FileKeyService(directory, SeededRandom(2))
    assert again.service_key.public == keys.service_key.public
    assert again.ring(FLEET).items() == keys.ring(FLEET).items()
    assert again.fleets() == [FLEET, OTHER]
    assert directory.stat().st_mode & 0o777 == 0o700
    for name in (SERVICE_FILE, EPOCH_FILE):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in directory.iterdir()) == [EPOCH_FILE, SERVICE_FILE]


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    FileKeyService.create(tmp_path, SeededRandom())
    with pytest.raises(InvalidConfig):
        FileKeyService.create(tmp_path, SeededRandom())


def test_an_epoch_of_another_process_is_seen(tmp_path: Path) -> None:
    server = FileKeyService.create(tmp_path, SeededRandom())
    server.create_epoch(FLEET)
    operator = FileKeyService(tmp_path, SeededRandom(2))
    assert operator.create_epoch(FLEET) == 2
    assert server.ring(FLEET).items() == operator.ring(FLEET).items()
    assert server.create_epoch(FLEET) == 3
    assert operator.ring(FLEET).current == 3


def test_a_ring_is_a_copy(tmp_path: Path) -> None:
    keys = FileKeyService.create(tmp_path, SeededRandom())
    keys.create_epoch(FLEET)
    keys.ring(FLEET).add(9, bytes(32))
    assert keys.ring(FLEET).epochs() == (1,)


@pytest.mark.parametrize("name", [SERVICE_FILE, EPOCH_FILE])
def test_files_that_are_open_missing_or_damaged(tmp_path: Path, name: str) -> None:
    FileKeyService.create(tmp_path, SeededRandom()).create_epoch(FLEET)
    path = tmp_path / name
    good = path.read_bytes()

    path.chmod(0o640)
    with pytest.raises(InvalidConfig, match="read by others"):
        FileKeyService(tmp_path, SeededRandom())
    path.chmod(0o600)

    for length in (0, 1, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(CorruptStore):
            FileKeyService(tmp_path, SeededRandom())
    path.write_bytes(good + b"x")
    with pytest.raises(CorruptStore):
        FileKeyService(tmp_path, SeededRandom())

    path.unlink()
    with pytest.raises(InvalidConfig) as raised:
        FileKeyService(tmp_path, SeededRandom())
    assert raised.value.hint


def test_a_damaged_byte_of_the_epoch_keys_is_an_error_of_ours(tmp_path: Path) -> None:
    """Also one that makes text no UTF-8, for which msgspec has an exception of its own."""
    FileKeyService.create(tmp_path / "keys", SeededRandom()).create_epoch(FLEET)
    path = tmp_path / "keys" / EPOCH_FILE
    whole = path.read_bytes()
    for place in range(whole.index(FLEET)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with pytest.raises(CorruptStore, match="epoch"):
            FileKeyService(tmp_path / "keys", SeededRandom())
