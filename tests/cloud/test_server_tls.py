"""TLS: spoken where it is configured, and what is wrong with its files is said."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cloud.config import ServerConfig
from cloud.server.serve import tls_context
from sync.errors import InvalidConfig
from tests.cloud.identity_world import World
from tests.cloud.server_world import CountingPlane, LiveServer


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, None)
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


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
