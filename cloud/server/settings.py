"""The text of a cloud.toml: written for a new directory, edited when the archive moves.

What always holds: a new file shows every key with its default, commented out (``SAMPLE`` is ``configs/cloud.toml``, a
test compares them); an edit changes the archive's place and nothing else, or is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import msgspec

from cloud.config import parse
from sync.errors import InvalidConfig

SAMPLE = """\
# The control plane: `agentdb-cloud init DIR` writes DIR/cloud.toml with all of this commented out.
# Every key is optional; the values here are the defaults.

[server]
host = "127.0.0.1"
port = 7700                  # 0: any free one; it is printed and written to DIR/port
url = ""                     # what join tokens tell devices; "" is http(s)://host:port
tls_certificate_file = ""    # PEM, with its chain
tls_key_file = ""
# Anything but loopback needs TLS, unless this says in words that it does not:
allow_plain_http = false
access_log = false
body_timeout_s = 30.0        # a request whose body takes longer is dropped
polls_max = 10_000           # long polls that wait at once; more are answered without waiting
shutdown_timeout_s = 20.0    # for requests under way; the archive gets its last run after that

[archive]
url = "archive"              # a directory (relative to DIR), s3://bucket/prefix, gs://bucket/prefix, az://container/prefix
interval_s = 5.0             # between runs that put new feed rows into the archive
snapshot_interval_s = 3600.0 # between baselines, which make a restore fast
write = true                 # false: nothing is written there (agentdb-cloud restore --rehearse)

# Passed to the driver of the object store. Credentials come from its usual environment variables.
[archive.options]
# endpoint = "https://storage.example"
# region = "eu-central-1"

[fleet]
lease_days = 30.0            # a device that is silent for longer is not waited for when others forget deletes

# Python functions that decide conflicts, by the name that a collection's schema uses.
# def keep_longer(collection, key, field, held, came, context) returns the field's value; held.value and came.value are
# the two, context["record"] is the record as it is. For a delete against an edit field is "": return all fields, or
# None to delete.
[conflicts.resolvers]
# keep_longer = "mypackage.rules:keep_longer"
"""

_KEY = re.compile(r"[A-Za-z0-9_.\"-]+ *= *")
_ARCHIVE, _OPTIONS = "[archive]", "[archive.options]"


def config_text(archive: str = "", options: Mapping[str, str] | None = None, *, write: bool = True) -> str:
    """The cloud.toml of a new directory. Without ``archive`` it lies in the directory."""
    defaults = "".join(f"# {line}" if _KEY.match(line) else line for line in SAMPLE.splitlines(keepends=True))
    about = "# The configuration of this control plane. What is commented out is the default.\n"
    return _edited(about + defaults[defaults.index("\n[server]") :], archive, options or {}, write=write)


def with_archive(text: str, url: str, options: Mapping[str, str]) -> str:
    """The same configuration with its archive, to be written, at another place. Raises InvalidConfig if that cannot be
    said by changing lines of ``[archive]`` and ``[archive.options]``.
    """
    before = parse(text, "cloud.toml")
    archive = msgspec.structs.replace(before.archive, url=url, options=dict(options), write=True)
    edited = _edited(text, url, options, write=True)
    try:
        done = parse(edited, "cloud.toml") == msgspec.structs.replace(before, archive=archive)
    except InvalidConfig:
        done = False
    if not done:
        raise InvalidConfig(
            "cloud.toml is written in a way that cannot be edited here",
            hint=f"give {_ARCHIVE} and {_OPTIONS} as tables with one key in a line, then try again",
        )
    return edited


def _edited(text: str, url: str, options: Mapping[str, str], *, write: bool) -> str:
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.partition("#")[0].strip()
        key = line.partition("=")[0].strip() if _KEY.match(line.lstrip()) else ""
        if (section == _OPTIONS and key) or (section == _ARCHIVE and key in ("url", "write", "options")):
            continue
        lines.append(line)
    given = [f"url = {_quoted(url)}"] if url else []
    if not write:
        given.append("write = false  # a rehearsal: serve does not archive; `agentdb-cloud archive move` ends it")
    _insert(lines, _ARCHIVE, given)
    _insert(lines, _OPTIONS, [f"{key} = {_quoted(value)}" for key, value in options.items()])
    return "\n".join(lines) + "\n"


def _insert(lines: list[str], section: str, given: list[str]) -> None:
    """After the section's first line; the section is made if it is not there."""
    if not given:
        return
    at = next((number for number, line in enumerate(lines, 1) if line.partition("#")[0].strip() == section), 0)
    if not at:
        lines += ["", section]
        at = len(lines)
    lines[at:at] = given


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are among its own, if what is not ASCII stays as it is."""
    return json.dumps(text, ensure_ascii=False)
