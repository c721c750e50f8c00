"""What a target is called: ``policies/<name>/<number>.json`` and ``models/<name>/<number>.json``, and what is signed
about it.

A target is a document that runs on devices (a policy, the manifest of a model). Offline keys list it, with its length,
digest, and ``custom.agentdb``; an assignment names it. Both sides read names by these rules, without python-tuf, which
only ``sync.manifests`` knows.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from sync.errors import Malformed

NUMBER_MAX = 999_999_999
_PATH = re.compile(r"(policies|models)/([a-z0-9][a-z0-9._-]{0,63})/([1-9][0-9]{0,8})\.json")


class Kind(StrEnum):
    """The first part of a target's path; also the name of the role that lists it, if no narrower one does."""

    POLICY = "policies"
    MODEL = "models"


class TargetName(NamedTuple):
    """``name``: 1 to 64 of ``a-z 0-9 . _ -``, the first a letter or digit. ``number``: from 1, rising."""

    kind: Kind
    name: str
    number: int

    @property
    def path(self) -> str:
        return f"{self.kind.value}/{self.name}/{self.number}.json"

    @property
    def place(self) -> str:
        """Where a device runs it: ``policy``, or ``models/<name>``."""
        return "policy" if self.kind is Kind.POLICY else f"{self.kind.value}/{self.name}"


class TargetInfo(NamedTuple):
    """A target as the role that answers for it lists it. ``floor``: the least number of this name that may still be
    assigned, the highest that any listed number of the name asks for. ``sha256`` is 32 bytes.
    """

    kind: Kind
    name: str
    number: int
    floor: int
    length: int
    sha256: bytes
    role: str

    @property
    def path(self) -> str:
        return TargetName(self.kind, self.name, self.number).path


def parse_path(path: str) -> TargetName:
    """Raises Malformed."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise Malformed(
            f"{path[:128]!r} is not the path of a target",
            hint="policies/NAME/NUMBER.json or models/NAME/NUMBER.json; names of a-z, 0-9, '.', '_', '-'",
        )
    return TargetName(Kind(found[1]), found[2], int(found[3]))
