"""One worker: a session of its own, and letters through it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Protocol

import structlog

from mailsender.address import BadAddress, parse_address
from mailsender.gate import NoSlots, SlotGate
from mailsender.leases import Hand
from mailsender.letter import Envelope, Letter, Outcome, Phase, Result, Settlement, Status, Verdict, now_ms
from mailsender.limiter import UNLIMITED, Slot
from mailsender.ports import Clock, Go, NotBegun, Relay, RelayAway, Session
from mailsender.retry import Attempt, RetryPolicy, after_attempt, as_error
from mailsender.sessions import OwnSession, RelayState, Stopped
from mailsender.settle import Settler
from mailsender.supervision import Keep, once
from mailsender.waiting import pause

log = structlog.get_logger()


TIMER_TICK = 0.001
"""Seconds to which an event loop's timers are exact; uvloop counts whole milliseconds."""


class Compose(Protocol):
    """Makes the bytes of a message; see `mailsender.mime`."""

    def compose(self, letter: Letter, *, eight_bit: bool, date: datetime) -> bytes:
        """The message, ready for the wire but for dot-stuffing. Raises ValueError for a bad header."""
        ...

    def message_id(self, letter_id: str) -> str:
        """The Message-ID, the same over all attempts."""
        ...


@dataclass(frozen=True, kw_only=True)
class SendPolicy:
    """What the operator chose about sending. Times in seconds."""

    reverse_path: str
    max_recipients: int
    max_letters_per_session: int
    session_idle: float
    refuse_probability: float
    retry: RetryPolicy
    lease: float

    @cached_property
    def begin_margin(self) -> float:
        """What a lease must still hold for a transaction to begin: its envelope takes a while."""
        return min(10.0, self.lease / 4)

    @cached_property
    def dot_margin(self) -> float:
        """What a lease must still hold for the dot: from then on renewal goes on until the reply."""
        return min(5.0, self.lease / 8)


@dataclass(slots=True)
class _Means:
    """What all transactions of a worker need to be permitted; `cut` ends those that are before their dot."""

    clock: Clock
    hand: Hand
    policy: SendPolicy
    cut: bool = False


class _Go:
    """Permission for one transaction: the slot for its beginning, the lease for both moments.

    `start` is the first of `recipients` in the letter's `pending`.
    """

    __slots__ = ("lease_lost", "letter_id", "means", "recipients", "slot", "start", "token", "unnoted")

    def __init__(
        self,
        means: _Means,
        *,
        token: str,
        letter_id: str,
        start: int,
        recipients: tuple[str, ...],
        slot: Slot,
    ) -> None:
        self.means = means
        self.token = token
        self.letter_id = letter_id
        self.start = start
        self.recipients = recipients
        self.slot = slot
        self.lease_lost = False
        self.unnoted = False

    def begin(self) -> bool:
        means = self.means
        now = means.clock.monotonic()
        self.lease_lost = means.hand.lasts(self.token, self.letter_id) - now < means.policy.begin_margin
        return not self.lease_lost and not means.cut and self.slot.good(now)

    def dot(self) -> bool:
        means = self.means
        left = means.hand.lasts(self.token, self.letter_id) - means.clock.monotonic()
        self.lease_lost = left < means.policy.dot_margin
        if self.lease_lost or means.cut:
            return False
        # The last question: a note of a dot says that it was written.
        count = len(self.recipients)
        self.unnoted = not means.hand.notes.dot(self.token, self.letter_id, self.start, count)
        return not self.unnoted

    def replied(self, results: Mapping[str, Result]) -> None:
        found = [results[each] for each in self.recipients]
        self.means.hand.notes.replied(self.token, self.letter_id, self.start, found)


class Basket(Protocol):
    """Where claimed letters wait for a worker."""

    def take(self) -> tuple[str, Letter] | None:
        """The next letter with its claim's token, None when there is none."""
        ...

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a letter; False when `timeout` seconds are over or no more will come."""
        ...


class Worker:
    """Takes letters from the basket while it has a session to send them through.

    The session comes first: while the relay is away no letter is taken, so none counts an attempt.

    Where the relay takes transactions pipelined and no rate is to be kept, letters come in two lanes: while
    one is at its message the next one's envelope is ready to go with it. With a rate there is one lane, for a
    slot is not to lapse behind another letter.
    """

    def __init__(
        self,
        *,
        basket: Basket,
        relay: Relay,
        state: RelayState,
        gate: SlotGate,
        hand: Hand,
        settler: Settler,
        composer: Compose,
        policy: SendPolicy,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._basket = basket
        self._relay_name = relay.name
        self._state = state
        self._gate = gate
        self._hand = hand
        self._settler = settler
        self._composer = composer
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._means = _Means(clock, hand, policy)
        self._quiet = log.bind()  # resolved once: an event that is not written costs a letter next to nothing
        self._stopping = asyncio.Event()
        self._second, self._date = 0, now_ms(0)
        self._line = OwnSession(
            relay,
            state,
            clock,
            share=policy.max_letters_per_session,
            chance=chance,
            stopping=self._stopping,
        )

    async def run(self, keep: Keep = once) -> None:
        """Work until `stop`; `close` is to follow, however it ends."""
        loss = "letters are sent over fewer sessions"
        async with asyncio.TaskGroup() as lanes:
            # Each by itself: what fails in one lane must not end the other in mid-transaction.
            lanes.create_task(keep("sending", self._lane, self._stopping, loss))
            if self._gate.allowance.unlimited:
                lanes.create_task(keep("sending", self._second_lane, self._stopping, loss))

    async def close(self) -> None:
        """Close the session."""
        await self._line.close()

    def stop(self) -> None:
        """Take no more letters; a transaction that has begun goes on to its end."""
        self._stopping.set()
        self._line.deep.set()

    def cut(self) -> None:
        """End now: before the dot the letter is deferred, after it uncertain."""
        self._means.cut = True
        self.stop()
        self._line.abort()

    # --- lanes -----------------------------------------------------------------------------------

    async def _lane(self) -> None:
        while not self._stopping.is_set():
            await self._next()

    async def _second_lane(self) -> None:
        while not self._stopping.is_set():
            await self._line.deep.wait()
            await self._next()

    async def _next(self) -> None:
        found = self._at_once() or await self._waited_for()
        if found is None:
            return
        try:
            await self._handle(*found)
        except Exception as error:  # noqa: BLE001  one letter's failure never harms the next
            self._raised(*found, error)
            self._line.retire()

    def _at_once(self) -> tuple[str, Letter] | None:
        """A letter, where nothing has to be waited for."""
        if self._line.warm is None or not self._settler.open.is_set():
            return None
        return self._basket.take()

    async def _waited_for(self) -> tuple[str, Letter] | None:
        """A letter, once there is one and what it needs; None: look again."""
        idle = self._policy.session_idle if self._line.open else None
        # A relay that was away is asked on although no letter waits, so that readiness tells the truth.
        if not self._state.away and not await self._basket.wait(idle):
            await self._line.close_if_idle()
            return None
        if not (self._line.warm or await self._line.have()):
            return None
        if not self._settler.open.is_set() and not await self._may_begin():
            return None
        return self._basket.take()

    async def _may_begin(self) -> bool:
        """Wait until outcomes can be written again; False when it is time to stop."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._settler.open, self._stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not self._stopping.is_set()

    # --- one letter ------------------------------------------------------------------------------

    async def _handle(self, token: str, letter: Letter) -> None:
        if self._hand.token(letter.id) != token:
            return  # its lease was lost while it waited; under a newer one it comes again
        # What came over the topic was checked at intake.
        fault = letter.reason or (_address_fault(letter) if letter.adopted else "")
        if fault:
            self._settle(token, as_error(letter, fault))
            return
        odds = self._policy.refuse_probability
        if odds and self._chance.random() < odds:
            refused = Result(
                verdict=Verdict.REFUSED, phase=Phase.MAIL, text="refused at random (SMTP_REFUSE_PROBABILITY)"
            )
            self._finish(token, letter, dict.fromkeys(letter.pending, refused), cut=False)
            return
        try:
            await self._send(token, letter)
        except ValueError as error:  # the message cannot be made
            self._settle(token, as_error(letter, str(error)))

    async def _send(self, token: str, letter: Letter) -> None:
        """Carry the letter's open recipients, slice by slice."""
        results: Mapping[str, Result] = {}
        pending = letter.pending
        size = self._policy.max_recipients
        whole = True
        for start in range(0, len(pending), size):
            try:
                outcome = await self._transact(token, letter, start, pending[start : start + size])
            except Exception as error:
                if not results:
                    raise
                # What earlier slices came to stays true; the others end here, with the reason.
                log.error("slice_raised", letter=letter.id, exc_info=error, action="the others are refused")
                results = {**results, **_refused(pending[start:], error)}
                break
            if outcome is None:
                whole = False
                break
            results = {**results, **outcome} if results else outcome
        if self._hand.token(letter.id) != token and not results:
            return  # lost meanwhile, and nothing was sent
        if not results:
            self._settler.release(token, [letter.id])
            return
        cut = self._means.cut or (not whole and (self._stopping.is_set() or bool(self._hand.notes.trouble)))
        self._finish(token, letter, results, cut=cut)

    async def _transact(
        self, token: str, letter: Letter, start: int, recipients: tuple[str, ...]
    ) -> Mapping[str, Result] | None:
        """One transaction; None when it could not begin, or its end could not be noted."""
        envelope = Envelope(reverse_path=self._policy.reverse_path, recipients=recipients)
        while True:
            try:
                slot = self._gate.at_once() or await self._gate.acquire()
                session = self._line.warm or await self._line.fit()
            except (NoSlots, Stopped):
                return None
            except RelayAway as error:
                self._line.note_away(error)
                return None
            if slot is not UNLIMITED:
                await self._come(slot)
            # The slot was a while ahead, and outcomes could not be written any more: it lapses instead.
            if not self._settler.open.is_set() and await self._may_begin():
                continue
            if self._stopping.is_set():
                return None
            message = self._composer.compose(letter, eight_bit=session.accepts_8bit(), date=self._now())
            go = _Go(
                self._means,
                token=token,
                letter_id=letter.id,
                start=start,
                recipients=recipients,
                slot=slot,
            )
            outcome = await self._carry(session, envelope, message, go)
            if outcome is not None:
                return None if go.unnoted else outcome.results
            if go.lease_lost or self._means.cut:
                return None
            # Else the slot lapsed while we got ready, or the session had ended: try again.

    async def _carry(self, session: Session, envelope: Envelope, message: bytes, go: Go) -> Outcome | None:
        """One transaction over a session, which is closed when it was the last; None: nothing came of it."""
        self._line.enter()
        try:
            outcome = await session.transact(envelope, message, go)
        except NotBegun:
            return None
        finally:
            self._line.leave()
        if not outcome.session_usable:
            await self._line.close(session)
        return outcome

    async def _come(self, slot: Slot) -> None:
        """Wait for a slot's moment, or until it is time to stop."""
        while (early := slot.earliest - self._clock.monotonic()) > 0 and not self._stopping.is_set():
            # Timers may end a millisecond early, and a slot that has not come yet would be given up.
            await pause(self._stopping, early + TIMER_TICK)

    def _finish(self, token: str, letter: Letter, results: Mapping[str, Result], *, cut: bool) -> None:
        attempt = Attempt(
            results=results,
            relay=self._relay_name,
            message_id=self._composer.message_id(letter.id),
            cut=cut,
        )
        moved, delay = after_attempt(letter, attempt, self._policy.retry, jitter=self._chance.random())
        self._settle(token, moved, delay)
        self._log(moved, delay, results)

    def _settle(self, token: str, letter: Letter, delay: float = 0.0) -> None:
        self._settler.put(Settlement(token=token, letter=letter, delay=delay))

    def _raised(self, token: str, letter: Letter, error: Exception) -> None:
        log.error(
            "letter_raised",
            letter=letter.id,
            error=type(error).__name__,
            exc_info=error,
            action="reported as error; the worker goes on with a new session",
        )
        if self._hand.token(letter.id) == token:
            reason = f"internal error while sending ({type(error).__name__})"
            self._settle(token, as_error(letter, reason))

    def _log(self, letter: Letter, delay: float, results: Mapping[str, Result]) -> None:
        bad = [r.result for r in letter.recipients if r.result and not r.accepted]
        if not bad:
            self._quiet.debug("letter_sent", letter=letter.id)
            return
        if any(result.verdict is Verdict.UNCERTAIN for result in results.values()):
            self._settler.tally.uncertain += 1
        first = bad[0]
        event = "letter_deferred" if letter.status is Status.AWAITING else "letter_failed"
        log.warning(
            event,
            letter=letter.id,
            recipients=len(letter.recipients),
            not_accepted=len(bad),
            verdict=first.verdict,
            phase=first.phase,
            code=first.code,
            enhanced=first.enhanced,
            attempts=letter.attempts,
            again_in_seconds=round(delay, 1) if letter.status is Status.AWAITING else None,
        )

    def _now(self) -> datetime:
        """The second that it is: a message's date has no more, and letters share it."""
        second = int(self._clock.epoch())
        if second != self._second:
            self._second, self._date = second, now_ms(second)
        return self._date


def _refused(addresses: Sequence[str], error: Exception) -> dict[str, Result]:
    reason = str(error) if isinstance(error, ValueError) else f"internal error ({type(error).__name__})"
    return dict.fromkeys(addresses, Result(verdict=Verdict.REFUSED, phase=Phase.DATA, text=reason))


def _address_fault(letter: Letter) -> str:
    """Why an adopted document cannot be sent."""
    if not letter.addresses:
        return "addresses: at least one is needed"
    for index, address in enumerate(letter.addresses):
        try:
            parse_address(address)
        except BadAddress as error:
            return f"addresses[{index}]: {error}"
    return ""
