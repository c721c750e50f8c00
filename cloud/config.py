"""The control plane's configuration: one TOML file, read once, frozen.

What always holds: a key that is not known is an error and not a wish; a value has its unit in its name; every error
names the file, the key and what to do. ``configs/cloud.toml`` shows every key with its default (a test parses it).

Secrets are not in here: keys are files under ``<dir>/keys``, credentials of an object store come from the environment
that its driver reads anyway (AWS_PROFILE, AWS_ACCESS_KEY_ID, instance roles …).
"""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sync.errors import InvalidConfig

FILE = "cloud.toml"
DATABASE = "cloud.db"
KEYS = "keys"
PORT = "port"
PORT_DEFAULT = 7700

FLEETING = "memory://"
PLACES = "a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"


def is_place(url: str) -> bool:
    """Whether it can be looked into at all: a directory or a URL, of any kind."""
    try:
        urlsplit(url)
    except ValueError:  # of brackets that are no address
        return "://" not in url
    return "\0" not in url


Problem = tuple[str, str, str]  # key, what is wrong with it, what to do

_PLAIN_HINT = (
    "give tls_certificate_file and tls_key_file; or, if a proxy in front does TLS or the network is trusted,"
    " say allow_plain_http = true"
)


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all: a key that is not declared is an error."""


class ServerConfig(_Section, frozen=True):
    """``url`` is what devices are told in join tokens; derived from host and port if empty."""

    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    url: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    allow_plain_http: bool = False
    access_log: bool = False
    body_timeout_s: float = 30.0
    polls_max: int = 10_000
    shutdown_timeout_s: float = 20.0

    @property
    def tls(self) -> bool:
        return bool(self.tls_certificate_file)

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def problems(self) -> list[Problem]:
        found: list[Problem] = []
        if not self.host:
            found.append(("host", "is empty", "127.0.0.1, or the address to listen on"))
        if not 0 <= self.port <= 65_535:
            found.append(("port", f"{self.port} is not a port", "0 (any free one) to 65535"))
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            found.append(("tls_key_file", "and tls_certificate_file belong together", "give both or neither"))
        if not self.loopback and not self.tls and not self.allow_plain_http:
            what = f"{self.host!r} is not loopback and there is no TLS: join tokens would be readable on the way"
            found.append(("host", what, _PLAIN_HINT))
        if self.url and not (self.url.startswith(("http://", "https://")) and is_place(self.url)):
            found.append(("url", f"{self.url!r} is no address", "https://host, or http://host:port"))
        found += _bounds("body_timeout_s", self.body_timeout_s, 0.1, 600)
        found += _bounds("shutdown_timeout_s", self.shutdown_timeout_s, 0.1, 600)
        found += _bounds("polls_max", self.polls_max, 1, 1_000_000)
        return found


class ArchiveConfig(_Section, frozen=True):
    """``url``: a directory (relative to the control plane's own), or s3://bucket/prefix, gs://, az://. ``options`` go
    to the driver of an object store as they are: endpoint, region. ``write = false``: a rehearsal, which was restored
    from this archive and leaves it to the control plane that writes it.
    """

    url: str = "archive"
    interval_s: float = 5.0
    snapshot_interval_s: float = 3600.0
    write: bool = True
    options: dict[str, str] = {}

    def problems(self) -> list[Problem]:
        found: list[Problem] = []
        if not self.url:
            found.append(("url", "is empty", PLACES))
        if not is_place(self.url):
            found.append(("url", f"{self.url!r} is no place", PLACES))
        if self.url.startswith(FLEETING):
            found.append(("url", f"{self.url!r} would be gone with the process that wrote it", PLACES))
        found += _bounds("interval_s", self.interval_s, 0.05, 86_400)
        found += _bounds("snapshot_interval_s", self.snapshot_interval_s, 1, 31_622_400)
        return found


class FleetConfig(_Section, frozen=True):
    """``lease_days``: how long a silent device is waited for before others forget deletes that it has not read."""

    lease_days: float = 30.0

    @property
    def lease_ms(self) -> int:
        return int(self.lease_days * 86_400_000)

    def problems(self) -> list[Problem]:
        return _bounds("lease_days", self.lease_days, 0.01, 36_500)


class ConflictConfig(_Section, frozen=True):
    """``resolvers``: the name that a collection's schema uses → "package.module:function"."""

    resolvers: dict[str, str] = {}

    def problems(self) -> list[Problem]:
        return [
            (f"resolvers.{name}", f"{path!r} does not name a function", '"package.module:function"')
            for name, path in self.resolvers.items()
            if not all(part.isidentifier() for part in path.replace(":", ".", 1).split(".")) or ":" not in path
        ]


class CloudConfig(_Section, frozen=True):
    server: ServerConfig = ServerConfig()
    archive: ArchiveConfig = ArchiveConfig()
    fleet: FleetConfig = FleetConfig()
    conflicts: ConflictConfig = ConflictConfig()

    def validate(self, source: str = "configuration") -> CloudConfig:
        """Itself. Raises InvalidConfig, naming the first key that is wrong."""
        for name in self.__struct_fields__:
            for key, what, hint in getattr(self, name).problems():
                raise InvalidConfig(f"{source}: [{name}] {key} {what}", hint=hint)
        return self


def load(path: Path) -> CloudConfig:
    """The file's configuration, validated. Raises InvalidConfig, for a missing file too: the defaults would quietly
    archive to another place than before.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidConfig(
            f"{path} is missing",
            hint="put it back as it was; an empty file means the defaults, with the archive in the same directory",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path}: {error}", hint="it must be a readable UTF-8 text file") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> CloudConfig:
    """Raises InvalidConfig."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{source}: {error}", hint="correct the TOML there") from error
    try:
        config = msgspec.convert(values, CloudConfig)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"{source}: {error}", hint="the cloud.toml that init writes shows every key") from error
    return config.validate(source)


def archive_url(config: ArchiveConfig, directory: Path) -> str:
    """The archive's URL with a relative directory made absolute against the control plane's own."""
    return config.url if "://" in config.url else str(directory / config.url)


def _bounds(key: str, value: float, least: float, most: float) -> list[Problem]:
    if least <= value <= most:
        return []
    return [(key, f"= {value} is out of bounds", f"between {least} and {most}")]
