"""Policies in the cloud: what of the feed the devices may have by them (``cloud.stream.scopes.Scopes``), and which one
the cloud itself goes by.

What always holds: a device whose policy is not held here, or is not understood, gets nothing instead of everything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from cloud.fleet import choices
from cloud.fleet.rollouts import DONE, spec_of
from cloud.fleet.trusting import Trusting
from cloud.ports import Caller, Reading
from sync.errors import InvalidPolicy, Refused
from sync.policy import Policy
from sync.scope import ScopeTable

Chosen = Callable[[Reading, Caller], bytes]
_TABLES_MAX = 64


class FleetPolicy(NamedTuple):
    """``path`` is the target's."""

    path: str
    document: Policy


class FleetPolicies:
    """The policy by which the cloud itself does what concerns the whole fleet: the one that a rollout to
    all has brought to all since one was assigned to all, or else the one that was. Thread-safe.
    """

    def __init__(self, trusting: Trusting) -> None:
        self._trusting = trusting
        self._held: dict[bytes, tuple[bytes, Policy]] = {}

    def of(self, view: Reading, fleet: bytes) -> FleetPolicy | None:
        """None if none is assigned. Raises Untrusted, NotFound, InvalidPolicy for one that cannot be read."""
        path = _path_of(view, fleet)
        if not path:
            return None
        digest = self._trusting.load(view, fleet).target(path).sha256
        held = self._held.get(fleet)
        if held is None or held[0] != digest:
            row = view.target(fleet, digest)
            held = self._held[fleet] = (digest, Policy.parse(row.data if row is not None else b""))
        return FleetPolicy(path, held[1])


def _path_of(view: Reading, fleet: bytes) -> str:
    done = [spec_of(row.spec) for row in view.rollouts(fleet, (DONE,)) if row.place == choices.POLICY]
    paths = [spec.path for spec in done if spec.is_for_all]
    channel = next((row.path for row in view.channels(fleet) if row.place == choices.POLICY), "")
    return paths[-1] if paths else channel


class PolicyScopes:
    """``chosen`` says the SHA-256 of the policy that a device is to run now, b"" for none. Compiled scopes are kept,
    the most recently used. Thread-safe.
    """

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self._tables: OrderedDict[tuple[bytes, bytes], ScopeTable] = OrderedDict()
        self._lock = Lock()

    def assigned(self, view: Reading, caller: Caller) -> tuple[bytes, ScopeTable] | None:
        """Raises Refused."""
        digest = self._chosen(view, caller)
        return (digest, self.named(view, caller, digest)) if digest else None

    def named(self, view: Reading, caller: Caller, digest: bytes) -> ScopeTable:
        """Raises Refused."""
        place = (caller.fleet, digest)
        with self._lock:
            found = self._tables.get(place)
            if found is not None:
                self._tables.move_to_end(place)
                return found
        row = view.target(caller.fleet, digest)
        try:
            table = ScopeTable(Policy.parse(row.data if row is not None else b"").sync)
        except InvalidPolicy as error:
            raise Refused(
                f"no policy of this fleet is {digest.hex()[:16]}…",
                hint="agentdb-cloud publish, again; the device goes on with what it has",
            ) from error
        with self._lock:
            self._tables[place] = table
            while len(self._tables) > _TABLES_MAX:
                self._tables.popitem(last=False)
        return table
