"""A policy as somebody wrote it: TOML, or the JSON that is published."""

from __future__ import annotations

import tomllib

from sync.errors import InvalidPolicy
from sync.policy import EXAMPLE, Policy, check_size


def read_policy(data: bytes) -> Policy:
    """Of a file's bytes. Raises InvalidPolicy."""
    check_size(data)
    if data.startswith(b"{"):
        return Policy.parse(data)
    policy = Policy.from_document(read_toml(data))
    check_size(policy.to_json())
    return policy


def read_toml(data: bytes) -> dict[str, object]:
    """Raises InvalidPolicy."""
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidPolicy(f"not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InvalidPolicy(f"not valid TOML: {error!s:.200}", hint=EXAMPLE) from error
