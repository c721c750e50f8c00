"""The device's side of the protocol as a state machine without I/O (docs/PROTOCOL.md).

The caller steps it and carries out what ``ready()`` hands back, in order:

* ``Send``: deliver the message to the cloud; give the answer to ``receive(effect.number, answer)`` or the failure to
  ``failed(effect.number, error)``. Sends of the two lanes (push, pull) may be under way at the same time.
* ``Load`` / ``LoadState``: read operations from the delta log; hand them to ``loaded`` / ``loaded_state``.
* ``Learn``, ``Persist``, ``Apply``, ``Mend``, ``Sweep``, ``NewIncarnation``: make durable, **then** call
  ``advance(effect)``.

The one duty of the caller: nothing that follows from an effect is sent before ``advance`` was called for it. The
session emits what depends on it only afterwards, so carrying effects out in order and one by one is always right.

What always holds:

* a segment is noted durably (``Persist.sent``) before it is sent, so that after a lost answer and a restart the device
  can tell its own segment from a stranger's that the cloud holds under its name;
* the cursor moves only together with the page it covers (``Apply``);
* an answer to a request from before the last handshake is dropped;
* every failure leads to a new handshake after a backoff with jitter, so repeating is without effect.
What the handshake decides, and when everything is pushed anew, is in ``sync.handshake``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sync.asking import ask_baseline, ask_page, check_ack, greeting, seal_push
from sync.effects import (
    FLEETING,
    PULL,
    PUSH,
    Apply,
    Effect,
    Learn,
    Load,
    LoadState,
    Mend,
    NewIncarnation,
    Persist,
    Position,
    SessionKeys,
    SessionLimits,
)
from sync.errors import AgentDBError, CorruptStore, FutureStamp, ProtocolError, TooLarge, UnsupportedVersion
from sync.flights import Flights
from sync.handshake import RENEW, REPAIR, Repair, compare, consequences, is_pristine, owes, sweep, take_keys
from sync.messages import PROTOCOL_VERSIONS, Answer, BaselinePage, Failure, Message, PullPage, Push, PushAck, Welcome
from sync.operations import Operation
from sync.pages import open_baseline, open_page
from sync.places import Whole
from sync.ports import RandomSource
from sync.schedule import Backoff, Greetings
from sync.segment import FLAG_LAST, FLAG_STATE, GENESIS, Sealed

_RENEWALS_MAX = 3


class SyncSession:
    """``live``: keep long-polling; otherwise ``idle`` becomes true once both sides have everything. ``versions`` of the
    protocol are offered to the cloud. ``assignment``: the number of the newest that it has spoken of, 0 for none.
    """

    def __init__(
        self,
        position: Position,
        keys: SessionKeys,
        random: RandomSource,
        *,
        live: bool = False,
        limits: SessionLimits | None = None,
        versions: Sequence[int] = PROTOCOL_VERSIONS,
    ) -> None:
        self.position = position
        self.head, self.assignment, self.version = position.cursor, 0, 0
        self.error: AgentDBError | None = None
        self.connected = False
        self._keys = keys
        self._limits = limits or SessionLimits()
        self._greetings = Greetings(self._limits.hello_ms if live else None)
        self._live = live
        self._versions = versions
        self._backoff = Backoff(random)
        self._now_ms = self._not_before_ms = self._renewals = 0
        self._flights = Flights()
        self._effects: list[Effect] = []
        self._waiting: list[Effect] = []
        self._push_size = self._limits.push_operations
        self._sealed: Sealed | None = None
        self._loading = self._pristine = self._mend_later = False
        self._unswept: Welcome | None = None
        self._repair: Repair | None = None

    # -- what the caller tells ------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Monotonic milliseconds; call before ``ready`` whenever time has passed."""
        self._now_ms = now_ms

    def written(self, head_seq: int) -> None:
        """The device wrote; ``head_seq`` is the last local seq now."""
        self.position = self.position._replace(head_seq=head_seq)

    def greet(self) -> None:
        """Somebody waits for what the cloud has now: not idle before a handshake that begins after this; it waits for
        no backoff.
        """
        self._greetings.asked, self._not_before_ms = True, 0

    def receive(self, number: int, answer: Answer) -> None:
        """The answer to the ``Send`` of that number; dropped if it is from before the last handshake."""
        lane = self._flights.land(number)
        if lane is None:
            return
        try:
            if isinstance(answer, Failure):
                raise answer.error()
            self._receive(lane, answer)
        except AgentDBError as error:
            wait_ms = answer.retry_after_ms if isinstance(answer, Failure) else 0
            self._disconnect(error, wait_ms)

    def failed(self, number: int, error: AgentDBError) -> None:
        """No answer came."""
        if self._flights.land(number) is not None:
            self._disconnect(error, 0)

    def loaded(self, operations: Sequence[Operation]) -> None:
        """The answer to ``Load``."""
        self._loading = False
        if not self.connected:
            return
        if not operations:
            raise CorruptStore("the delta log has lost operations that were not pushed yet", hint="run verify")
        position = self.position
        sealed = self._seal(operations, position.acked[0] + 1, position.acked[1] or GENESIS, 0)
        if sealed is None:
            return
        self._sealed = sealed
        self._push_size = min(self._limits.push_operations, self._push_size * 2)
        self._effects.append(Persist(sent=position.sending(sealed.header.last_seq, sealed.id)))

    def loaded_state(self, operations: Sequence[Operation], after: tuple[str, str] | None) -> None:
        """The answer to ``LoadState``; ``after`` is None with the last part."""
        self._loading = False
        repair = self._repair
        if repair is None or not self.connected:
            return
        if not operations:
            self._repaired(repair, self.position.acked)
            return
        flags = FLAG_STATE | (FLAG_LAST if after is None else 0)
        self._sealed = self._seal(operations, self.position.acked[0], repair.previous, flags)
        if self._sealed is None:
            return
        repair.next_after = after
        repair.last = after is None
        if repair.last:  # it becomes what the cloud holds of this replica: noted, as those of the log are
            self._effects.append(Persist(sent=self.position.sending(self.position.acked[0], self._sealed.id)))
        else:
            self._send(PUSH, Push(self._sealed.data))

    def mended(self, head_seq: int, baseline: bytes | None) -> None:
        """The answer to ``Mend``: the log's head now, and the baseline that is under way or has become necessary."""
        self.position = self.position._replace(head_seq=head_seq, baseline=baseline)

    def reincarnated(self, replica: bytes) -> None:
        """The answer to ``NewIncarnation``: a replica id that no segment was ever sent under. The note that the state
        has to be pushed (``Position.repair``) must be made durable together with it.
        """
        self.position = self.position._replace(replica=replica, head_seq=0, acked=(0, b""), sent=(), repair=True)

    # -- what the caller does ---------------------------------------------------------------------------------------

    def ready(self) -> list[Effect]:
        """What to carry out now, in this order. Effects that must be made durable come back through ``advance``."""
        if not self._waiting and not self._effects:
            self._plan()
        effects, self._effects = self._effects, []
        self._waiting += [effect for effect in effects if not isinstance(effect, FLEETING)]
        return effects

    def advance(self, effect: Effect, *, done: bool = True, repair: bool = False) -> None:
        """The effect is durable, or not ``done`` and dropped. ``repair``: it had consequences that only the whole state
        can carry; that this has to be pushed is durable with it.
        """
        self._waiting.remove(effect)
        position = self.position
        if isinstance(effect, Persist):
            position = position.noting(effect)
            if effect.sent and self._sealed and self.connected:
                self._send(PUSH, Push(self._sealed.data))
        elif isinstance(effect, Apply) and done:
            cursor = position.cursor if effect.cursor is None else effect.cursor
            position = position._replace(cursor=cursor, baseline=effect.baseline, repair=position.repair or repair)
        self.position = position

    def interrupt(self, position: Position, error: AgentDBError, wait_ms: int) -> None:
        """An effect could not be carried out. Begin again with a handshake, not before ``wait_ms``, from ``position``,
        what is durable. Answers to what was under way are ignored.
        """
        self._waiting.clear()
        self._effects.clear()
        self.position = position
        self._disconnect(error, wait_ms)

    def wake_ms(self) -> int | None:
        """How long until ``tick`` + ``ready`` can do something by themselves; None: only an event can."""
        if self.connected:
            return self._greets_ms()
        if self._flights:
            return None
        return max(0, self._not_before_ms - self._now_ms)

    @property
    def idle(self) -> bool:
        """Settled, as far as a handshake says that began after the last ``greet``."""
        return self.settled and not self._greetings.asked

    @property
    def settled(self) -> bool:
        """Connected, everything local acknowledged, everything of the feed applied."""
        position = self.position
        return (
            self.connected
            and not self._waiting
            and not self._effects
            and self._repair is None
            and not position.repair
            and position.baseline is None
            and position.acked[0] >= position.head_seq
            and position.cursor >= self.head
            and PUSH not in self._flights
            and not (self._unswept and sweep(position, self._unswept))
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _greets_ms(self) -> int | None:
        """Connected: how long until it shakes hands again; None: not before something else has ended."""
        if self._loading or self._repair or PUSH in self._flights:
            return None
        if owes(self.position, self.head) or (self._greetings.asked and self.settled):
            return 0
        return self._greetings.due_ms(self._now_ms)

    def _plan(self) -> None:
        if self.connected and self._greets_ms() == 0:
            self._disconnect(None, 0)
        if not self.connected:
            if not self._flights and self._now_ms >= self._not_before_ms:
                self._send(PUSH, greeting(self.position, self._keys, self._versions))
                self._greetings.asked = False
            return
        if self._unswept and PUSH not in self._flights and (effect := sweep(self.position, self._unswept)):
            self._effects.append(effect)
            self._unswept = None
        if PUSH not in self._flights and not self._loading:
            self._plan_push()
        if PULL not in self._flights and self._repair is None:
            self._plan_pull()

    def _plan_push(self) -> None:
        position, size = self.position, self._push_size
        if self._repair is not None:
            self._loading = True
            self._effects.append(LoadState(self._repair.after, size, self._limits.push_bytes))
        elif position.acked[0] < position.head_seq:
            self._loading = True
            if self._mend_later:  # what waits to be mended is not sent; what was sent is, to learn whether it was taken
                size = min(size, max(1, position.sent_until - position.acked[0]))
            self._effects.append(Load(position.acked[0], size, self._limits.push_bytes))

    def _plan_pull(self) -> None:
        position = self.position
        if position.baseline is not None:
            self._pristine = is_pristine(position)
            self._send(PULL, ask_baseline(position, everything=not self._pristine))
        elif (behind := position.cursor < self.head) or self._live:
            self._send(PULL, ask_page(position, self._limits, self.version, self.assignment, wait=not behind))

    def _receive(self, lane: str, answer: Answer) -> None:
        if isinstance(answer, Welcome) and not self.connected:
            self._welcomed(answer)
        elif isinstance(answer, PushAck) and lane == PUSH and self.connected:
            self._acknowledged(answer)
        elif isinstance(answer, PullPage) and lane == PULL and self.connected:
            self._pulled(answer)
        elif isinstance(answer, BaselinePage) and lane == PULL and self.connected:
            self._pulled_baseline(answer)
        else:
            raise ProtocolError(f"the cloud answered with {type(answer).__name__}, which was not asked for")
        # A greeting that goes well says nothing of the push that failed, nor does a page.
        if not isinstance(answer, Welcome) and (lane == PUSH or self.position.acked[0] >= self.position.head_seq):
            self._backoff.reset()

    def _welcomed(self, welcome: Welcome) -> None:
        if welcome.version not in self._versions:
            raise UnsupportedVersion(f"the cloud chose protocol version {welcome.version}", hint="update this device")
        self._effects.append(Learn(welcome.time_ms, take_keys(self._keys, welcome)))
        self.error = None
        self.connected = True
        self._greetings.last_ms = self._now_ms
        self.head, self.assignment, self.version = welcome.head, welcome.assignment, welcome.version
        self._sealed = None
        self._push_size = self._limits.push_operations
        self._follow(welcome)

    def _follow(self, welcome: Welcome) -> None:
        """What the comparison of both sides' knowledge leads to."""
        position = self.position
        verdict = compare(position, welcome)
        if verdict.action == RENEW:
            self._renew()
            return
        if verdict.action == REPAIR:
            self._repair = Repair(verdict.cursor, verdict.own_until, welcome.incarnation)
        else:
            self._unswept = welcome if welcome.version > 1 else None
        effects = consequences(verdict, position, welcome)
        self._mend_later = not isinstance(effects[-1], Mend)
        self._effects += effects

    def _renew(self) -> None:
        """This store was restored or cloned: somebody else wrote under its name. Go on under a new one."""
        self._renewals += 1
        if self._renewals > _RENEWALS_MAX:
            raise ProtocolError("the cloud claims to hold what this device never wrote, whatever its name")
        self._effects += [Mend(as_state=True), NewIncarnation()]
        self._disconnect(None, 0)

    def _acknowledged(self, ack: PushAck) -> None:
        sealed, self._sealed = self._sealed, None
        if sealed is None:
            raise ProtocolError("the cloud acknowledged what was not sent")
        self.head = max(self.head, ack.head)
        repair = self._repair
        if repair is not None:
            repair.previous, repair.after = sealed.id, repair.next_after
            if repair.last:
                if ack.last_segment != sealed.id or ack.last_seq < self.position.acked[0]:
                    raise ProtocolError("the cloud did not take the state that was sent")
                if ack.last_seq > self.position.acked[0]:  # a clone has pushed since the handshake
                    self._renew()
                else:
                    self._repaired(repair, (ack.last_seq, ack.last_segment))
            return
        check_ack(ack, sealed)
        acked = (ack.last_seq, ack.last_segment)
        self._effects.append(Persist(acked, (), tuple(ack.refusals), own_until=ack.head))
        self._renewals = 0
        if any(refusal.code == FutureStamp.code for refusal in ack.refusals):
            self._disconnect(FutureStamp("this device's clock is ahead", hint="it asks the cloud for the time"), 0)
        elif self._mend_later:
            self._disconnect(None, 0)

    def _repaired(self, repair: Repair, acked: tuple[int, bytes]) -> None:
        self._repair, self._renewals = None, 0
        done = Persist(acked, (), (), repair.incarnation, repair.cursor, repair=False, own_until=repair.own_until)
        self._effects.append(done)

    def _pulled(self, page: PullPage) -> None:
        operations = open_page(page, self.position.cursor, self._keys, self.position.incarnation)
        self.head, self.assignment = page.head, page.assignment
        if page.cursor != self.position.cursor:
            self._effects.append(Apply(operations, page.cursor, None, narrowed=page.narrowed))

    def _pulled_baseline(self, page: BaselinePage) -> None:
        position = self.position
        operations = open_baseline(page, position.baseline, self._keys, position.incarnation)
        self.head, cursor = page.head, None if page.next else page.cursor
        self._effects.append(Apply(operations, cursor, page.next or None, self._pristine, page.narrowed, None, Whole()))

    def _seal(self, operations: Sequence[Operation], first_seq: int, previous: bytes, flags: int) -> Sealed | None:
        """None if they are too many for one segment: fewer are loaded then."""
        try:
            return seal_push(operations, self._keys, self.position.replica, first_seq, previous, flags)
        except TooLarge:
            if len(operations) == 1:
                raise
            self._push_size = max(1, len(operations) // 2)
            return None

    def _send(self, lane: str, message: Message) -> None:
        self._effects.append(self._flights.depart(lane, message))

    def _disconnect(self, error: AgentDBError | None, wait_ms: int) -> None:
        """Forget what is under way; what was emitted to be made durable still is."""
        self.error = error
        self.connected = False
        self._flights.clear()
        self._effects = [effect for effect in self._effects if not isinstance(effect, FLEETING)]
        self._sealed = self._repair = self._unswept = None
        self._loading = False
        if error is not None:
            self._not_before_ms = self._now_ms + self._backoff.next_ms(wait_ms)
