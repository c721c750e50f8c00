"""What a device is to run, fetched beside the session: ``FetchControl``, then the targets that are not here; and what
it reports of itself.

``ControlLink`` does it once; ``ControlCare`` is the thread that does it while a live link is up: as often as the
session hears of an assignment, at each handshake and at once when a page says a new number, and when something is
reported. It is begun by the first of these: without trust and reports there is none. What always holds: what arrives is
verified by ``edge.control.trust`` alone, and what runs goes on whatever goes wrong here; what the network broke off is
tried again, what was refused at the next handshake.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from edge.link.transport import SYNC_PATH
from sync.errors import (
    AgentDBError,
    CorruptStore,
    DataError,
    InputError,
    ProtocolError,
    Refused,
)
from sync.messages import Control, FetchControl, Report, Reported, encode
from sync.ports import RandomSource
from sync.schedule import Backoff

if TYPE_CHECKING:
    from edge.link.signed_client import SignedClient
    from sync.assignments import Agreed

ANSWERS_MAX = 64  # of one round: 32 roots each
REPORTS_MAX = 4  # of one round; more is reported with the next
_log = logging.getLogger("agentdb.edge")


class More(Protocol):
    @property
    def more(self) -> bool:
        """There are further roots."""
        ...


class Trust(Protocol):
    """What the link needs of ``edge.control.trust.TrustStore``."""

    pinned: Callable[[], None]

    def asking(self) -> FetchControl: ...
    def summary(self) -> dict[str, Any]: ...
    def accept(self, control: Control, fetch: Callable[[Agreed], bytes]) -> More: ...
    def check(self) -> None: ...
    def note_refused(self, error: AgentDBError) -> None: ...


class Twin(Protocol):
    """What the link needs of ``edge.control.twin.Twin``."""

    wake: Callable[[], None]

    def due(self) -> tuple[int, bytes, int] | None: ...
    def answered(self, due: Any, version: int) -> bool: ...
    def note(self, patch: Mapping[str, Any]) -> None: ...


class ControlLink:
    """``client`` makes a connection."""

    def __init__(self, trust: Trust, twin: Twin, client: Callable[[], SignedClient]) -> None:
        self._trust = trust
        self.twin = twin
        self._client = client

    def exchange(self, *, ask: bool, using: Callable[[SignedClient], None] = lambda _: None) -> None:
        """Fetch what there is to run, if it is to ``ask`` for that; then report what has changed, also that something
        was refused. ``using`` is told of the connection, for ``abort``. Raises as ``TrustStore.asking`` and ``accept``,
        SyncError, StorageError; what was refused is raised last.
        """
        if not ask and self.twin.due() is None:
            return
        refused: AgentDBError | None = None
        client = self._client()
        using(client)
        try:
            if ask:
                try:
                    self._fetch(client)
                except (DataError, InputError, Refused) as error:
                    refused = error
                self.twin.note({"trust": self._trust.summary()})
            self._report(client)
        finally:
            client.close()
        if refused is not None:
            raise refused

    def _fetch(self, client: SignedClient) -> None:
        for _ in range(ANSWERS_MAX):
            asking = encode(self._trust.asking())
            try:
                answer = client.ask("POST", SYNC_PATH, asking)
            except (DataError, InputError, Refused) as error:  # the control plane cannot say it: people have to know
                self._trust.note_refused(error)
                raise
            if not isinstance(answer, Control):
                raise ProtocolError("the server did not say what this device is to run")
            try:
                accepted = self._trust.accept(answer, lambda target: client.target(target.sha256.hex()))
            except CorruptStore:  # noted; what is asked next is what is missing
                continue
            if not accepted.more:
                return
        raise ProtocolError(f"the server has still more roots after {ANSWERS_MAX} answers")

    def _report(self, client: SignedClient) -> None:
        """All of it, where the cloud has another version."""
        for _ in range(REPORTS_MAX):
            due = self.twin.due()
            if due is None:
                return
            answer = client.ask("POST", SYNC_PATH, encode(Report(*due)))
            if not isinstance(answer, Reported):
                raise ProtocolError("the server did not say what it has of this device's reports")
            self.twin.answered(due, answer.version)


class ControlCare:
    """``hear`` begins its thread; ``stop`` ends it, and ``join`` waits for that."""

    def __init__(self, link: ControlLink, trust: Trust, random: RandomSource) -> None:
        self.problem = ""
        self._asks = False
        self._link = link
        self._trust = trust
        self._backoff = Backoff(random)
        self._heard = threading.Event()
        self._lock = threading.Lock()
        self._stopping = False
        self._busy = False
        self._client: SignedClient | None = None
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """What was last heard of has been asked for, and taken or refused."""
        # In this order: it is busy before it takes what it heard.
        return not self._heard.is_set() and not self._busy and not self.problem

    def hear(self, assignment: int) -> None:
        """There may be something new to run, or to report: to a peer that takes it. ``assignment``: the number of the
        newest, 0 in a fleet without trust. From the session's thread; returns at once. Raises StorageError.
        """
        self._link.twin.wake = self._begin
        self._trust.pinned = self._ask
        if assignment:
            self._ask()
        elif self._link.twin.due() is not None:
            self._begin()

    def _ask(self) -> None:
        with self._lock:
            self._asks = True
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            self._heard.set()
            if self._thread is None and not self._stopping:
                self._busy = True
                self._thread = threading.Thread(target=self._run, name="agentdb-control", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """At once; what is under way is asked for again by the next link."""
        with self._lock:
            self._stopping = True
        self._trust.pinned = self._link.twin.wake = lambda: None
        self._heard.set()
        client = self._client
        if client is not None:
            client.abort()

    def join(self, within_s: float) -> None:
        if self._thread is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        wait_s: float | None = None
        checked = False
        while True:
            self._heard.wait(wait_s)
            self._busy = True
            self._heard.clear()
            if self._stopping:
                return
            with self._lock:  # what is heard meanwhile is not lost
                asks, self._asks = self._asks, False
            wait_s = self._round(asks=asks)
            if asks and not checked and wait_s is None:
                checked = True
                wait_s = self._check()
            self._busy = False

    def _round(self, *, asks: bool) -> float | None:
        """Seconds until the next one, if nothing is heard before; None: there is nothing to do."""
        try:
            self._link.exchange(ask=asks, using=self._use)
        except (DataError, InputError, Refused) as error:  # what was asked for: noted by who refused it
            _log.info("trust: nothing new was taken: %s", error)
        except AgentDBError as error:
            return self._again(error, asks=asks)
        except Exception as error:  # noqa: BLE001 - logged and shown; a thread that ended would be worse
            _log.exception("trust: unexpected error; trying again")
            self._ask_again(asks)
            self.problem = f"{type(error).__name__}: {error}"
            return self._backoff.next_ms() / 1000
        finally:
            self._client = None
        self.problem = ""
        self._backoff.reset()
        return None

    def _check(self) -> float | None:
        """Once what is new is here, nobody waits for it: 80 ms to import what verifies, and as much again to do it."""
        try:
            self._trust.check()
        except AgentDBError as error:
            return self._again(error, asks=True)
        return None

    def _again(self, error: AgentDBError, *, asks: bool) -> float:
        self._ask_again(asks)
        if not self._stopping:
            if str(error) != self.problem:
                _log.warning("trust: %s (%s)", error, error.hint)
            self.problem = str(error)
        return self._backoff.next_ms() / 1000

    def _ask_again(self, asks: bool) -> None:
        with self._lock:
            self._asks = self._asks or asks

    def _use(self, client: SignedClient) -> None:
        self._client = client
        if self._stopping:
            client.abort()
