"""What the active policy has done from time to time, in the rounds of the background's care: forgetting, giving up
bodies of attachments once it allows the store less room, and saying that nothing fresh was heard.

What always holds: only the process that writes the store does it. When something was forgotten last is noted durably,
after it was done: what a crash interrupts is done again, and forgetting what is forgotten changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

from edge.control.keeping import NOT_WRITTEN, WRITES_LOCAL
from sync.errors import AgentDBError
from sync.patterns import Patterns
from sync.policy import Policy
from sync.policy_tables import Forget
from sync.stamps import wall_ms_of

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.control.policy import ActivePolicy, Policies
    from edge.control.trust import TrustStore
    from edge.storage.cache import Cache
    from edge.storage.delta_log import DeltaLog

_NOTE = "forgot"  # in the log: digest of a [[forget]] -> when it was done last, UTC milliseconds
_HOUR_MS = 3_600_000
_LAST = "\U0010ffff"
BULK_OFF = "bulk-off"
_log = logging.getLogger("agentdb.edge")


def has_rounds(policy: Policy | None) -> bool:
    """Whether a policy has something done in rounds."""
    return policy is not None and bool(policy.forget or policy.store.quota_mib or policy.staleness)


def quota_bytes(configured: int, policies: Policies) -> int:
    """The lesser of what ``edge.toml`` and the policy allow the store; 0: no bound. Of a policy that cannot be read,
    which ``status`` says, what is configured.
    """
    try:
        policy = policies.active().document
    except AgentDBError:
        return configured
    told = policy.store.quota_mib << 20 if policy is not None else 0
    return min(configured, told) if configured and told else configured or told


def stale_steps(policy: Policy | None, trust: TrustStore) -> list[str]:
    """What the policy has done by now because nothing fresh was heard of the fleet, in its order. Raises
    StorageError.
    """
    steps = policy.staleness if policy is not None else ()
    stale_ms = trust.staleness_ms() if steps else None
    return [step.do for step in steps if stale_ms is not None and stale_ms >= step.after_hours * _HOUR_MS]


class PolicyRounds:
    """Of one store that is open for writing; called from one thread."""

    def __init__(
        self,
        log: DeltaLog,
        policies: Policies,
        shelf: Callable[[], Shelf],
        cache: Callable[[], Cache],
        trust: Callable[[], TrustStore],
    ) -> None:
        self._log = log
        self._policies = policies
        self._shelf = shelf
        self._cache = cache
        self._trust = trust
        self._quota_mib = 0
        self._stale: list[str] = []

    def __call__(self) -> None:
        """Raises the first error of what was to be forgotten once all of it was tried; StorageError."""
        active = self._policies.active()
        policy = active.document or Policy("")
        if policy.store.quota_mib != self._quota_mib:
            self._cache().settle()
            self._quota_mib = policy.store.quota_mib
        stale = stale_steps(policy, self._trust())
        self._policies.writes_local(stale=WRITES_LOCAL in stale)
        if stale and stale != self._stale:
            _log.warning("policy: no fresh word of the fleet for so long that it asks for: %s", ", ".join(stale))
        self._stale = stale
        if policy.forget:
            self._forget_what_is_due(active, policy.forget)

    def _forget_what_is_due(self, active: ActivePolicy, rules: tuple[Forget, ...]) -> None:
        noted: dict[str, int] = self._log.meta_get(_NOTE) or {}
        noted = {name: noted[name] for name in map(_digest, rules) if name in noted}
        failed: AgentDBError | None = None
        for rule in rules:
            now_ms = wall_ms_of(self._log.clock.reading())
            since_ms = now_ms - noted.get(_digest(rule), 0)
            if 0 <= since_ms < rule.every_hours * _HOUR_MS:  # negative: the clock was ahead then
                continue
            try:
                self._forget(active, rule)
                noted[_digest(rule)] = now_ms
                self._log.meta_set(_NOTE, noted)
            except AgentDBError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _forget(self, active: ActivePolicy, rule: Forget) -> None:
        from edge.agent.memory import Memory
        from edge.agent.memory_care import Forgetting, forget
        from edge.agent.memory_record import MEMORIES

        chosen = Forgetting(rule.min_retention, rule.keep, rule.kinds, rule.older_than_days)
        agents = Patterns([(rule.agent, 0, None)])
        shelf = self._shelf().of_the_owner()
        for agent, namespace in self._namespaces(MEMORIES):
            if not agents.met(agent) or (rule.namespaces and namespace not in rule.namespaces):
                continue
            memory = Memory(shelf, agent, namespace)
            if active.rule(MEMORIES, memory.prefix).direction in NOT_WRITTEN:
                continue  # those devices do it that write there
            done = forget(memory, chosen)
            if done.archived or done.expired:
                counts = (len(done.archived), len(done.expired))
                _log.info("policy: of %r, %r: %d memories archived, %d expired", agent, namespace, *counts)

    def _namespaces(self, memories: str) -> Iterator[tuple[str, str]]:
        """Those that have memories: by one look at the index for each."""
        from sync.places import unescaped

        if memories not in self._log.schemas:
            return
        after = ""
        while found := self._log.scan(memories, after=after, limit=1):
            agent, namespace, _ = found[0][0].split("/", 2)
            after = f"{agent}/{namespace}/{_LAST}"
            yield unescaped(agent), unescaped(namespace)


def _digest(rule: Forget) -> str:
    """What it asks for; how often is not part of it."""
    return blake2b(repr(rule._replace(every_hours=0)).encode(), digest_size=16).hexdigest()
