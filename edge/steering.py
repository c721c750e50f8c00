"""The part of ``Edge`` that the fleet's operators steer: what this device is told to be and to run.

All of it is made with its first use: a store that no fleet steers pays for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from edge.storage import policy_row
from edge.storage.once import once
from sync.errors import DataError, StorageError

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.config import EdgeConfig
    from edge.control.model_store import ModelStore
    from edge.control.policy import ActivePolicy, Policies
    from edge.control.trust import TrustStore
    from edge.control.twin import Twin
    from edge.link.model_source import ModelSource
    from edge.link.runner import Link
    from edge.storage.cache import Cache
    from edge.storage.control_tables import Document
    from edge.storage.delta_log import DeltaLog
    from edge.storage.projections import Projections
    from sync.policy import Policy
    from sync.ports import Clock


class Steering:
    """``Edge`` is one."""

    path: str
    config: EdgeConfig
    log: DeltaLog
    projections: Projections
    _clock: Clock
    _source: ModelSource | None = None

    if TYPE_CHECKING:

        @once
        def cache(self) -> Cache: ...

        @once
        def _shelf(self) -> Shelf: ...

        def carry_out_erasures(self) -> None: ...

    @property
    def policy(self) -> ActivePolicy:
        """What holds on this device: what syncs, and what agents may do; without a policy, everything (ADR 24)."""
        return self._policies.active()

    @once
    def _policies(self) -> Policies:
        from edge.control.policy import Policies

        return Policies(self.log, self._policy_obeyed)

    def _policy_obeyed(self, policy: Policy | None) -> None:
        from edge.policy_rounds import has_rounds

        if has_rounds(policy) or "_policy_rounds" in vars(self):  # what another one asked for is given back there
            self._policy_rounds  # noqa: B018 - the rounds look whether it is there
            self.projections.start()

    @once
    def _policy_rounds(self) -> Callable[[], None]:
        from edge.policy_rounds import PolicyRounds
        from edge.storage.seldomer import Seldomer

        work = PolicyRounds(self.log, self._policies, lambda: self._shelf, lambda: self.cache, lambda: self.trust)
        return Seldomer(work, self._clock)

    @once
    def _erasing(self) -> Callable[[], None]:
        from edge.storage.seldomer import Seldomer

        return Seldomer(self.carry_out_erasures, self._clock)

    def _seldom(self) -> None:
        """A part of the background's rounds: erasures from elsewhere, and what the policy has done in rounds."""
        with ExitStack() as both:
            if "_policy_rounds" in vars(self):
                both.callback(self._policy_rounds)
            self._erasing()

    def _quota_bytes(self) -> int:
        """What the whole store may take; 0: no bound."""
        if not self._is_steered():
            return self.config.quota_bytes
        from edge.policy_rounds import quota_bytes

        return quota_bytes(self.config.quota_bytes, self._policies)

    def _is_steered(self) -> bool:
        """Whether there may be a policy. While there was never one, nothing is loaded that reads one."""
        return "_policies" in vars(self) or (self.log.read_only and policy_row.is_there(self.log))

    def _begin_steering(self) -> None:
        """With the store, before anybody writes."""
        if policy_row.is_there(self.log) or self.log.meta_get("control") is not None:
            self._policies.begin()

    def _check_allowed(self, agent: str, action: str, store: str) -> None:
        """Of an agent's handle, at every call. Raises NotAllowed."""
        if self._is_steered():
            self._policies.active().check(agent, action, store)

    @once
    def twin(self) -> Twin:
        """What this device should be, and what it says that it is: desired and reported configuration."""
        from edge.control.twin import Twin

        return Twin(self.log)

    @once
    def models(self) -> ModelStore:
        """The models that the fleet assigns to this device: the version in use, and those on trial."""
        import logging

        from edge.control.model_care import open_models
        from edge.control.model_part import fit_again, look, tell
        from edge.control.trust import MODELS

        models = open_models(self.log, self.path, self.config, self._clock, lambda: self.cache, self.twin.reported)

        def assigned() -> list[Document]:
            return self.trust.sound(MODELS)

        if not self.log.read_only:
            self.twin.listeners.append(lambda: fit_again(models, assigned))
            try:
                tell(models, assigned())  # what was agreed, and a crash kept from being told
            except (StorageError, DataError) as error:  # neither a full disk, nor what newer software has agreed
                logging.getLogger("agentdb.edge").warning("models: not begun: %s (%s)", error.message, error.hint)
                self.trust.tell_again(MODELS)
            models.tell_outcomes(self._model_outcome)
            self._connect(models)
        else:
            look(models, assigned())
        return models

    def _model_outcome(self, name: str, number: int, digest: bytes, outcome: str, why: str) -> None:
        from sync.models import target_path

        self.twin.note_outcome(f"models/{name}", target_path(name, number), digest.hex(), outcome, why)

    @once
    def trust(self) -> TrustStore:
        """What this device trusts, and what both sides named for it to run (ADR 23)."""
        from edge.control.model_part import ModelPart
        from edge.control.policy import POLICY
        from edge.control.policy_told import PolicyTold
        from edge.control.trust import MODELS, TrustStore

        trust = TrustStore(self.log)
        told = PolicyTold(self._policies, self.log, lambda: self.twin)
        trust.on_activated(POLICY, told)
        if not self.log.read_only:
            told.catch_up()
        if self._policies.behind:
            trust.tell_again(POLICY)
        trust.on_activated(MODELS, ModelPart(self.path, lambda: self.models))
        return trust

    def _models_from(self, link: Link, url: str | None, within_ms: int | None = None) -> None:
        """While a link is up, models can be fetched. Where none is here or agreed, nothing is made for it."""
        from edge.control.model_part import concerned
        from edge.link.model_source import ModelSource

        self._source = ModelSource(link, url, self._clock, within_ms)
        if "models" in vars(self):
            self._connect(self.models)
        elif concerned(self.log, self.path):
            self.models  # noqa: B018 - it connects itself

    def _connect(self, models: ModelStore) -> None:
        from edge.control.model_fetch import ModelFetch

        if (source := self._source) is not None:
            models.connect(ModelFetch(source.connect, source.ring, source.admit), source.target)

    def _models_come(self, link: Link, url: str | None) -> None:
        """What a sync waits for: what is assigned is fetched, tried, and what became of it reported. What is not, says
        so in ``status``.
        """
        if "models" in vars(self):
            self.models.fetch()
            self.models.advance()
            link.report(url)

    def _end_models(self) -> None:
        """The link has ended."""
        source, self._source = self._source, None
        if source is not None:
            source.end()
            if "models" in vars(self):
                self.models.connect(None)

    def _problems_of_models(self) -> list[str]:
        from edge.storage.paths import has_models

        return self.models.verify() if has_models(self.path) else []

    def _end_steering(self) -> None:
        if "twin" in vars(self):
            self.twin.end()

    def _end_policies(self) -> None:
        if "_policies" in vars(self):
            self._policies.end()
