"""What a target has to be for devices to take it: looked at before it is signed, and again before it is published.

A document that no device takes would be refused with all that is assigned beside it. A device may still refuse what is
right here: its software may be older.
"""

from __future__ import annotations

from sync.errors import DataError, InputError, InvalidValue, Malformed
from sync.models import Manifest
from sync.policy import Policy
from sync.targets import Kind, parse_path

_HINTS = {
    Kind.POLICY: "agentdb-cloud policy lint FILE --write FILE.json makes what is signed",
    Kind.MODEL: "agentdb-cloud models publish makes what is signed",
}


def check_document(path: str, data: bytes) -> Policy | Manifest:
    """Raises InvalidValue: the path, or what is no policy, or no model's manifest, or one of another name or number."""
    try:
        wanted = parse_path(path)
    except Malformed as error:
        raise InvalidValue(error.message, hint=error.hint) from error
    try:
        read = Policy.parse(data) if wanted.kind is Kind.POLICY else Manifest.parse(data)
    except (DataError, InputError) as error:
        raise InvalidValue(f"{path}: {error.message}", hint=_HINTS[wanted.kind]) from error
    if isinstance(read, Policy) and read.name != wanted.name:
        raise InvalidValue(f"{path}: the policy in it is {read.name!r}", hint=f"--as policies/{read.name}/NUMBER.json")
    if isinstance(read, Manifest) and (read.name, read.number) != (wanted.name, wanted.number):
        raise InvalidValue(
            f"{path}: the manifest in it is of {read.name!r} {read.number}",
            hint=f"--as models/{read.name}/{read.number}.json",
        )
    return read
