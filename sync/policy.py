"""Policy: one closed, versioned document that says what a device syncs, keeps, spends and allows (ADR 24).

It is written as TOML and travels as canonical JSON (RFC 8785): the same policy is the same bytes, whoever made them.
Only canonical bytes are taken, so a document has one reading: no key twice, no number that two parsers read apart.

What always holds: a Policy was checked, all of it; ``parse(policy.to_json())`` is equal to it. What it means for a
place is ``sync.scope``, for an agent ``sync.permissions``; what is likely a mistake ``sync.policy_lint`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sync.errors import InvalidPolicy
from sync.policy_checks import policy_name
from sync.policy_tables import (
    TABLES,
    AgentRule,
    CedarRule,
    Forget,
    LinkRule,
    LogRule,
    MergeRule,
    Retention,
    Staleness,
    StoreRule,
    SyncRule,
    read_list,
    read_table,
    written,
)
from sync.values import brief

SCHEMA = 1
POLICY_BYTES_MAX = 256 << 10
_KEYS = ("schema", "name", *TABLES)
EXAMPLE = 'such as schema = 1, name = "kiosk" and below them [[sync]] tables; configs/policies has some'
_OF = {"agent": "agents"}  # the field of a key


class Policy(NamedTuple):
    """Tables in the order of the document; the first [[sync]] that matches decides."""

    name: str
    sync: tuple[SyncRule, ...] = ()
    merge: tuple[MergeRule, ...] = ()
    retention: tuple[Retention, ...] = ()
    forget: tuple[Forget, ...] = ()
    store: StoreRule = StoreRule()
    link: tuple[LinkRule, ...] = ()
    log: LogRule = LogRule()
    agents: tuple[AgentRule, ...] = ()
    cedar: CedarRule | None = None
    staleness: tuple[Staleness, ...] = ()

    @staticmethod
    def parse(data: bytes) -> Policy:
        """The policy that canonical JSON says. Raises InvalidPolicy."""
        from sync import canonical  # noqa: PLC0415 - a device that starts reads what was checked when it came

        check_size(data)
        try:
            document = canonical.read(data)
        except ValueError as error:
            raise InvalidPolicy(
                f"not a policy in JSON: {error!s:.200}", hint="agentdb-cloud policy lint; TOML has no canonical form"
            ) from error
        return Policy.from_document(document)

    @staticmethod
    def again(data: bytes) -> Policy:
        """Of bytes that ``parse`` has taken before. Raises InvalidPolicy."""
        try:
            return Policy.from_document(msgspec.json.decode(data))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidPolicy(f"not a policy in JSON: {error!s:.200}", hint="agentdb-cloud policy lint") from error

    @staticmethod
    def from_document(document: Any) -> Policy:
        """Of what a parser returned. Raises InvalidPolicy."""
        if not isinstance(document, Mapping):
            raise InvalidPolicy(f"a policy is a table of keys, not {type(document).__name__}", hint=EXAMPLE)
        schema = document.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise InvalidPolicy(
                f"the schema of the policy is {brief(schema)}, known here is {SCHEMA}"
                if "schema" in document
                else f"the schema of the policy is missing, known here is {SCHEMA}",
                hint=f"schema = {SCHEMA}; a greater one needs a newer version of this software",
            )
        if "name" not in document:
            raise InvalidPolicy("a policy has a name", hint=EXAMPLE)
        values: dict[str, Any] = {"name": policy_name("name", document["name"])}
        key: str
        for key, value in document.items():
            if key not in _KEYS:
                raise InvalidPolicy(f"a policy has no key {key!r:.80}", hint=f"known are {', '.join(_KEYS)}")
            table = TABLES.get(key)
            if table is not None:
                read = read_list(key, value, table) if table.most else read_table(f"[{key}]", value, table)
                values[_OF.get(key, key)] = read
        policy = Policy(**values)
        for at, rule in enumerate(policy.sync, 1):
            _check_places(f"[[sync]] {at}", rule)
        return policy

    def to_document(self) -> dict[str, Any]:
        """Plain values; what is as by default is left out."""
        out: dict[str, Any] = {"schema": SCHEMA, "name": self.name}
        for key, table in TABLES.items():
            value = getattr(self, _OF.get(key, key))
            if table.most and value:
                out[key] = [written(one) for one in value]
            elif not table.most and value is not None and (said := written(value)):
                out[key] = said
        return out

    def to_json(self) -> bytes:
        """The bytes that are published."""
        from sync import canonical  # noqa: PLC0415 - as in ``parse``

        return canonical.write(self.to_document())


def check_size(data: bytes) -> None:
    """Before it is parsed. Raises InvalidPolicy."""
    if len(data) > POLICY_BYTES_MAX:
        raise InvalidPolicy(
            f"a policy of {len(data):,} bytes; the most are {POLICY_BYTES_MAX:,}", hint="name collections by a glob"
        )


def _check_places(where: str, rule: SyncRule) -> None:
    if bool(rule.collections) == bool(rule.agents):
        raise InvalidPolicy(f"{where} names collections or agents, one of the two", hint='collections = ["*"] is all')
    if rule.prefixes and not rule.collections:
        raise InvalidPolicy(f"{where}: prefixes are of the keys of collections", hint="of agents, namespaces")
    if rule.namespaces and not rule.agents:
        raise InvalidPolicy(f"{where}: namespaces are of agents", hint="of collections, prefixes")
