"""TLS: spoken where it is configured, and what is wrong with its files is said."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from cloud.config import ServerConfig
from cloud.server.serve import tls_context
from sync.errors import InvalidConfig
from tests.cloud.identity_world import World
from tests.cloud.server_world import CountingPlane, LiveServer
from tests.cloud.tls_files import self_signed


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return self_signed(tmp_path)


def test_tls_is_spoken(tmp_path: Path, files: tuple[str, str]) -> None:
    world = World(tmp_path)
    config = ServerConfig(port=0, tls_certificate_file=files[0], tls_key_file=files[1])
    with LiveServer(world, CountingPlane(world), config) as server:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=files[0])
        with urlopen(f"{server.url}/v1/health", context=trusting) as response:
            assert response.status == 200
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urlopen(f"{server.url}/v1/health")
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(URLError):
            urlopen(f"{server.url}/v1/health", context=trusting)
    world.store.close()


def test_files_that_are_none(tmp_path: Path, files: tuple[str, str]) -> None:
    certificate, key = files
    (tmp_path / "junk.pem").write_text("junk")
    for pair in ((certificate, "missing"), ("missing", key), (str(tmp_path / "junk.pem"), key), (key, certificate)):
        with pytest.raises(InvalidConfig, match="tls_"):
            tls_context(ServerConfig(tls_certificate_file=pair[0], tls_key_file=pair[1]))
