"""The fleet's keys on a device: what is damaged is told from what the disk only fails to read now."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.link.membership import FLEET_KEYS_FILE, keep_keys
from edge.storage.keystore import KEYS_DIRECTORY
from sync.errors import CorruptStore, StorageError


def test_keys_that_cannot_be_read_now_are_not_called_damaged(tmp_path: Path) -> None:
    """CorruptStore ends a live link for good, and sends its owner for a new token; a failing disk does neither."""
    path = tmp_path / KEYS_DIRECTORY / FLEET_KEYS_FILE
    path.mkdir(parents=True)
    with pytest.raises(StorageError) as raised:
        keep_keys(str(tmp_path), {1: bytes(32)})
    assert type(raised.value) is StorageError
    assert "token" not in raised.value.hint
    path.rmdir()
    path.write_bytes(b"\x91")
    with pytest.raises(CorruptStore, match="damaged"):
        keep_keys(str(tmp_path), {1: bytes(32)})
    path.unlink()
    keep_keys(str(tmp_path), {1: bytes(32)})
    assert path.exists()


def test_keys_that_cannot_be_written_are_an_error_of_ours(tmp_path: Path) -> None:
    """A live link tries again after a StorageError; anything else would end it."""
    folder = tmp_path / KEYS_DIRECTORY
    (folder / f"{FLEET_KEYS_FILE}.part").mkdir(parents=True)  # where the new file is made
    with pytest.raises(StorageError):
        keep_keys(str(tmp_path), {1: bytes(32)})
    (folder / f"{FLEET_KEYS_FILE}.part").rmdir()
    keep_keys(str(tmp_path), {1: bytes(32)})
    assert (folder / FLEET_KEYS_FILE).exists()
