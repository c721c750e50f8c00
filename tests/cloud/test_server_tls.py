"""TLS: spoken where it is configured, and what is wrong with its files is said."""

from __future__ import annotations

import ssl
from contextlib import closing
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from cloud.config import ServerConfig
from cloud.server.serve import tls_context
from cloud.storage.bodies import Bodies
from cloud.storage.objects import open_objects
from edge.link.body_client import BodyClient
from edge.link.signing import Nonces
from sync.bodies import body_name, seal_part
from sync.errors import InvalidConfig, ProtocolError, Unreachable
from sync.keys import KeyRing
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


def test_bodies_go_over_tls(tmp_path: Path, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    objects = open_objects("memory://")
    config = ServerConfig(port=0, tls_certificate_file=files[0], tls_key_file=files[1])
    ring, key = KeyRing({1: b"k" * 32}), world.joined()
    name = body_name(ring, 1, world.fleet, b"d" * 32)
    sealed = seal_part(b"data", ring=ring, epoch=1, fleet=world.fleet, name=name, number=0, parts=1)
    nonces = Nonces(0, lambda _: None)
    bodies = Bodies(lambda: objects, world.random)
    with LiveServer(world, CountingPlane(world), config, bodies=bodies) as server:
        with pytest.raises(ProtocolError, match="no valid certificate"):
            BodyClient(server.url, key, nonces).find([name])
        monkeypatch.setenv("SSL_CERT_FILE", files[0])
        with closing(BodyClient(server.url, key, nonces)) as client:
            assert client.find([name] * 65) == [[]] * 65
            assert [client.put(name, 0, sealed), client.put(name, 0, sealed)] == [True, False]
            assert (client.find([name]), client.get(name, 0)) == ([[0]], sealed)
            client.abort()
            with pytest.raises(Unreachable):
                client.get(name, 0)
        with pytest.raises(InvalidConfig, match="plain HTTP"):
            BodyClient("http://192.0.2.1:7700", key, nonces)
    world.store.close()


def test_files_that_are_none(tmp_path: Path, files: tuple[str, str]) -> None:
    certificate, key = files
    (tmp_path / "junk.pem").write_text("junk")
    for pair in ((certificate, "missing"), ("missing", key), (str(tmp_path / "junk.pem"), key), (key, certificate)):
        with pytest.raises(InvalidConfig, match="tls_"):
            tls_context(ServerConfig(tls_certificate_file=pair[0], tls_key_file=pair[1]))
