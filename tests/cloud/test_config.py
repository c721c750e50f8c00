"""The control plane's configuration: the sample is the defaults, and what is wrong is said with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.config import ArchiveConfig, CloudConfig, archive_url, load, parse
from cloud.server import settings
from cloud.server.settings import config_text, with_archive
from sync.errors import InvalidConfig

SAMPLE = Path(__file__).resolve().parents[2] / "configs" / "cloud.toml"


def test_the_sample_is_the_defaults_and_names_every_key() -> None:
    assert load(SAMPLE) == CloudConfig()
    text = SAMPLE.read_text()
    for section in CloudConfig.__struct_fields__:
        for key in getattr(CloudConfig(), section).__struct_fields__:
            assert f"{key} =" in text or f"[{section}.{key}]" in text


def test_an_empty_file_is_the_defaults_and_none_is_a_mistake(tmp_path: Path) -> None:
    """The defaults would quietly archive to another place than the file said that is gone."""
    with pytest.raises(InvalidConfig, match=r"cloud.toml is missing") as raised:
        load(tmp_path / "cloud.toml")
    assert "empty file" in raised.value.hint
    (tmp_path / "cloud.toml").touch()
    assert load(tmp_path / "cloud.toml") == CloudConfig()


def test_what_init_writes_shows_every_key_with_its_default() -> None:
    assert SAMPLE.read_text() == settings.SAMPLE
    assert parse(config_text(), "x") == CloudConfig()
    written = config_text().splitlines()
    for line in settings.SAMPLE.splitlines()[2:]:
        assert line in written or f"# {line}" in written


def test_config_text_is_what_it_says() -> None:
    written = parse(config_text('a "b" \\ ü \U0001f600', {"region": "x"}), "x")
    assert written.archive.url == 'a "b" \\ ü \U0001f600'
    assert written.archive.options == {"region": "x"}
    assert parse(config_text("a", write=False), "x").archive == ArchiveConfig(url="a", write=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        config_text(),
        config_text("old", {"endpoint": "e"}, write=False),
        "[archive]\nurl = 'old'\ninterval_s = 9.0\n[archive.options]\nendpoint = 'e'\n[server]\nurl = 'http://x'\n",
        "[server]\nport = 1\n[archive]\n  url = 'old' # here\n  options = { endpoint = 'e' }\n",
    ],
)
def test_the_archive_s_place_is_edited_and_nothing_else(text: str) -> None:
    before = parse(text, "x")
    for url, options in (("s3://b/p", {"region": "r"}), ("/new", {})):
        edited = parse(with_archive(text, url, options), "x")
        assert edited.archive.url == url
        assert edited.archive.options == options
        assert edited.archive.write
        assert (edited.server, edited.conflicts, edited.archive.interval_s) == (
            before.server,
            before.conflicts,
            before.archive.interval_s,
        )


def test_a_file_that_cannot_be_edited_line_by_line_is_left_alone() -> None:
    with pytest.raises(InvalidConfig, match="cannot be edited"):
        with_archive('archive = { url = "old" }', "/new", {})


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
        ("[server]\nurl = 'http://[::1'", "url"),
        ("[archive]\nurl = ''", "url"),
        ("[archive]\nurl = 's3://['", "url"),
        ('[archive]\nurl = "a\\u0000"', "url"),
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
        "[server]\nurl = 'http://[::1]:7700'",
        "[archive]\nurl = '//[x] y'",
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
