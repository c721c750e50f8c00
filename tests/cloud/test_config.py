"""The control plane's configuration: the sample is the defaults, and what is wrong is said with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.config import ArchiveConfig, CloudConfig, archive_url, load, parse
from sync.errors import InvalidConfig

SAMPLE = Path(__file__).resolve().parents[2] / "configs" / "cloud.toml"


def test_the_sample_is_the_defaults_and_names_every_key() -> None:
    assert load(SAMPLE) == CloudConfig()
    text = SAMPLE.read_text()
    for section in CloudConfig.__struct_fields__:
        for key in getattr(CloudConfig(), section).__struct_fields__:
            assert f"{key} =" in text or f"[{section}.{key}]" in text


def test_no_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "cloud.toml") == CloudConfig()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1", "prot"),
        ("[sever]\nport = 1", "sever"),
        ("[server]\nport = '1'", "server.port"),
        ("[server]\nport = 65536", "port"),
        ("[server]\nhost = ''", "host"),
        ("[server]\nhost = '0.0.0.0'", "loopback"),
        ("[server]\nhost = '::'", "loopback"),
        ("[server]\nhost = 'example.org'", "loopback"),
        ("[server]\ntls_key_file = 'k'", "tls_key_file"),
        ("[server]\nurl = 'ftp://x'", "url"),
        ("[server]\nbody_timeout_s = nan", "body_timeout_s"),
        ("[server]\nshutdown_timeout_s = inf", "shutdown_timeout_s"),
        ("[archive]\nurl = ''", "url"),
        ("[archive]\ninterval_s = 0", "interval_s"),
        ("[archive.options]\nregion = 5", "archive.options"),
        ("[conflicts.resolvers]\nlonger = 'os.system'", "longer"),
        ("[conflicts.resolvers]\nlonger = 'a:b:c'", "longer"),
        ("[server", "Expected"),
        ("[server]\nport = 1\nport = 2", "overwrite"),
    ],
)
def test_what_is_wrong_names_file_and_key_and_says_what_to_do(text: str, named: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        parse(text, "x/cloud.toml")
    assert raised.value.message.startswith("x/cloud.toml: ")
    assert named in raised.value.message
    assert raised.value.hint


def test_what_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cloud.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfig):
        load(tmp_path / "cloud.toml")


@pytest.mark.parametrize(
    "text",
    [
        "[server]\nhost = '0.0.0.0'\nallow_plain_http = true",
        "[server]\nhost = '0.0.0.0'\ntls_certificate_file = 'c'\ntls_key_file = 'k'",
        "[server]\nhost = '::1'",
        "[server]\nhost = 'localhost'",
        "[conflicts.resolvers]\nlonger = 'my.rules:longer'",
    ],
)
def test_what_is_accepted(text: str) -> None:
    parse(text, "x")


def test_a_relative_archive_lies_in_the_directory() -> None:
    assert archive_url(ArchiveConfig(), Path("/srv/a")) == "/srv/a/archive"
    assert archive_url(ArchiveConfig(url="/srv/b"), Path("/srv/a")) == "/srv/b"
    assert archive_url(ArchiveConfig(url="s3://b/p"), Path("/srv/a")) == "s3://b/p"
