"""``agentdb-cloud trust``: who signs at once, and who signs after another."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from threading import Thread

import pytest

from cloud.fleet import signing
from cloud.fleet.signing import SigningKey
from cloud.fleet.trust_files import TrustFiles, read_key_file, sign_file
from sync.errors import Untrusted
from tests.cloud.test_trust_cli import FLEET, Device, ok


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    ok("init", tmp_path / "trust", "--fleet", FLEET.hex())
    return tmp_path / "trust"


def test_who_sign_at_once_do_not_lose_each_others_signature(
    trust: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [tmp_path / f"root-{number}.pem" for number in (1, 2, 3)]
    for key in keys:
        shutil.move(trust / "keys" / key.name, key)
    ok("renew", trust, "root")
    draft, signed_with = trust / "metadata" / "2.root.json", signing.signed_with

    def slowly(data: bytes, key: SigningKey) -> bytes:
        time.sleep(0.2)
        return signed_with(data, key)

    monkeypatch.setattr(signing, "signed_with", slowly)
    hands = [found for key in keys[:2] if isinstance(found := read_key_file(key), SigningKey)]
    threads = [Thread(target=sign_file, args=(draft, [key])) for key in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert TrustFiles(trust).signing()[0].have == 2


def test_a_team_that_is_given_other_keys_signs_a_new_version(trust: Path, tmp_path: Path) -> None:
    """The one that was published would be other bytes under its version, which nobody takes."""
    for name in ("old", "new"):
        ok("key", tmp_path / f"{name}.pem")
    delegated = ("delegate", trust, "vision", "--path", "models/vision-*/*", "--key")
    ok(*delegated, tmp_path / "old.pem.pub", "--sign-with", tmp_path / "old.pem")
    device = Device(trust)
    assert device.take().versions()["vision"] == 1
    ok(*delegated, tmp_path / "new.pem.pub")
    with pytest.raises(Untrusted, match="vision: version 2 has 0 of 1"):
        TrustFiles(trust).complete()
    ok("sign", trust / "metadata" / "vision.json", "--key", tmp_path / "new.pem")
    assert device.take().versions()["vision"] == 2
    ok(*delegated, tmp_path / "new.pem.pub", "--path", "models/eyes/*")
    assert device.take().versions()["vision"] == 2, "its keys are the same"
