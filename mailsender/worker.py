"""One worker: a session of its own, and letters through it one after the other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from mailsender.address import BadAddress, parse_address
from mailsender.gate import NoSlots, SlotGate
from mailsender.leases import Hand
from mailsender.letter import Envelope, Letter, Phase, Result, Settlement, Status, Verdict, now_ms
from mailsender.limiter import Slot
from mailsender.ports import Clock, NotBegun, Relay, RelayAway, Session
from mailsender.retry import Attempt, RetryPolicy, after_attempt, as_error
from mailsender.settle import Settler

log = structlog.get_logger()

FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0
"""Seconds between two tries to reach a relay that is away."""


class Compose(Protocol):
    """Makes the bytes of a message; see `mailsender.mime`."""

    def compose(self, letter: Letter, *, eight_bit: bool, date: datetime) -> bytes:
        """The message, ready for the wire but for dot-stuffing. Raises ValueError for a bad header."""
        ...

    def message_id(self, letter_id: str) -> str:
        """The Message-ID, the same over all attempts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPolicy:
    """What the operator chose about sending. Times in seconds."""

    reverse_path: str
    max_recipients: int
    max_letters_per_session: int
    session_idle: float
    refuse_probability: float
    retry: RetryPolicy
    lease: float

    @property
    def begin_margin(self) -> float:
        """What a lease must still hold for a transaction to begin: its envelope takes a while."""
        return min(10.0, self.lease / 4)

    @property
    def dot_margin(self) -> float:
        """What a lease must still hold for the dot: from then on renewal goes on until the reply."""
        return min(5.0, self.lease / 8)


@dataclass(slots=True)
class RelayState:
    """What all workers together know of the relay."""

    name: str
    open_sessions: int = 0
    busy: int = 0
    trouble: str = ""
    phase: str = ""
    since: float | None = None  # epoch seconds of the first failure in a row
    connected_ever: bool = False

    @property
    def away(self) -> bool:
        """Whether no session is open and the last try to open one failed."""
        return bool(self.trouble) and self.open_sessions == 0


@dataclass(slots=True)
class _Go:
    """Permission for one transaction: the slot for its beginning, the lease for both moments."""

    clock: Clock
    hand: Hand
    policy: SendPolicy
    letter_id: str
    slot: Slot
    cut: Callable[[], bool]
    begun: bool = field(default=False)
    lease_lost: bool = field(default=False)

    def begin(self) -> bool:
        now = self.clock.monotonic()
        self.lease_lost = self.hand.until(self.letter_id) - now < self.policy.begin_margin
        self.begun = not self.lease_lost and not self.cut() and self.slot.good(now)
        return self.begun

    def dot(self) -> bool:
        self.lease_lost = self.hand.until(self.letter_id) - self.clock.monotonic() < self.policy.dot_margin
        return not self.lease_lost and not self.cut()


class Basket(Protocol):
    """Where claimed letters wait for a worker."""

    def take(self) -> Letter | None:
        """The next letter, None when there is none."""
        ...

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a letter; False when `timeout` seconds are over or no more will come."""
        ...


class Worker:
    """Takes letters from the basket while it has a session to send them through.

    The session comes first: while the relay is away no letter is taken, so none counts an attempt.
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
        self._relay = relay
        self._state = state
        self._gate = gate
        self._hand = hand
        self._settler = settler
        self._composer = composer
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._session: Session | None = None
        self._carried = 0
        self._stopping = asyncio.Event()
        self._cut = False

    async def run(self) -> None:
        """Work until `stop`; ends with the session closed."""
        try:
            while not self._stopping.is_set():
                await self._next()
        finally:
            await self._close_session()

    def stop(self) -> None:
        """Take no more letters; a transaction that has begun goes on to its end."""
        self._stopping.set()

    def cut(self) -> None:
        """End now: before the dot the letter is deferred, after it uncertain."""
        self._cut = True
        self.stop()
        if self._session is not None:
            self._session.abort()

    # --- sessions --------------------------------------------------------------------------------

    async def _next(self) -> None:
        idle = self._policy.session_idle if self._session else None
        # A relay that was away is asked on although no letter waits, so that readiness tells the truth.
        if not self._state.away and not await self._basket.wait(idle):
            await self._close_session()
            return
        if not await self._have_session():
            return
        letter = self._basket.take()
        if letter is None:
            return
        self._state.busy += 1
        try:
            await self._handle(letter)
        except Exception as error:  # noqa: BLE001  one letter's failure never harms the next
            self._raised(letter, error)
            await self._close_session()
        finally:
            self._state.busy -= 1

    async def _have_session(self) -> bool:
        """Whether a session is there and fit; opens one, trying again with backoff."""
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            try:
                await self._fit_session()
            except RelayAway as error:
                self._note_away(error)
            else:
                return True
            await self._pause(backoff * (0.75 + self._chance.random() / 2))
            backoff = min(LAST_BACKOFF, backoff * 2)
        return False

    async def _fit_session(self) -> Session:
        """A session that can carry a transaction now. Raises RelayAway."""
        limit = self._policy.max_letters_per_session
        if self._session is not None and limit and self._carried >= limit:
            await self._close_session()
        if self._session is not None and not await self._session.ready():
            await self._close_session()
        if self._session is None:
            session = await self._relay.connect()
            self._session = session
            self._carried = 0
            self._state.open_sessions += 1
            self._note_there()
        return self._session

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._state.open_sessions -= 1
            await session.close()

    def _note_away(self, error: RelayAway) -> None:
        state = self._state
        if not state.trouble:
            state.since = self._clock.epoch()
            log.warning(
                "relay_away" if state.open_sessions == 0 else "relay_refuses_session",
                relay=state.name,
                phase=error.phase,
                code=error.code,
                error=str(error),
                action="tried again with backoff; letters wait and no attempt is counted",
            )
        state.trouble, state.phase = str(error), error.phase

    def _note_there(self) -> None:
        state = self._state
        if state.trouble or not state.connected_ever:
            away = round(self._clock.epoch() - state.since, 1) if state.since else 0.0
            log.info("relay_answers", relay=state.name, after_seconds=away)
        state.connected_ever = True
        state.trouble, state.phase, state.since = "", "", None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    # --- one letter ------------------------------------------------------------------------------

    async def _handle(self, letter: Letter) -> None:
        token = self._hand.token(letter.id)
        if token is None:
            return  # its lease was lost while it waited
        fault = letter.reason or _address_fault(letter)
        if fault:
            self._settle(token, as_error(letter, fault, now=self._now()))
            return
        if self._chance.random() < self._policy.refuse_probability:
            refused = Result(
                verdict=Verdict.REFUSED, phase=Phase.MAIL, text="refused at random (SMTP_REFUSE_PROBABILITY)"
            )
            self._finish(token, letter, dict.fromkeys(letter.pending, refused), cut=False)
            return
        try:
            await self._send(token, letter)
        except ValueError as error:  # the message cannot be made
            self._settle(token, as_error(letter, str(error), now=self._now()))

    async def _send(self, token: str, letter: Letter) -> None:
        """Carry the letter's open recipients, slice by slice."""
        results: dict[str, Result] = {}
        pending = letter.pending
        size = self._policy.max_recipients
        whole = True
        for start in range(0, len(pending), size):
            envelope = Envelope(
                reverse_path=self._policy.reverse_path, recipients=pending[start : start + size]
            )
            try:
                outcome = await self._transact(letter, envelope)
            except Exception as error:
                if not results:
                    raise
                # What earlier slices came to stays true; the others end here, with the reason.
                log.error("slice_raised", letter=letter.id, exc_info=error, action="the others are refused")
                results.update(_refused(pending[start:], error))
                break
            if outcome is None:
                whole = False
                break
            results.update(outcome)
        if self._hand.token(letter.id) != token and not results:
            return  # lost meanwhile, and nothing was sent
        if not results:
            self._settler.release(token, [letter.id])
            return
        cut = self._cut or (not whole and self._stopping.is_set())
        self._finish(token, letter, results, cut=cut)

    async def _transact(self, letter: Letter, envelope: Envelope) -> dict[str, Result] | None:
        """One transaction; None when it could not begin."""
        while True:
            try:
                slot = await self._gate.acquire()
            except NoSlots:
                return None
            try:
                session = await self._fit_session()
            except RelayAway as error:
                self._note_away(error)
                return None
            await self._pause(max(0.0, slot.earliest - self._clock.monotonic()))
            if self._stopping.is_set():
                return None
            message = self._composer.compose(letter, eight_bit=session.accepts_8bit(), date=self._now())
            go = _Go(self._clock, self._hand, self._policy, letter.id, slot, lambda: self._cut)
            try:
                outcome = await session.transact(envelope, message, go)
            except NotBegun:
                if go.lease_lost or self._cut:
                    return None
                continue  # the slot lapsed while we got ready: take another
            self._carried += 1
            if not outcome.session_usable:
                await self._close_session()
            return dict(outcome.results)

    def _finish(self, token: str, letter: Letter, results: dict[str, Result], *, cut: bool) -> None:
        attempt = Attempt(
            results=results,
            relay=self._relay.name,
            message_id=self._composer.message_id(letter.id),
            cut=cut,
        )
        moved, delay = after_attempt(
            letter, attempt, self._policy.retry, now=self._now(), jitter=self._chance.random()
        )
        self._settle(token, moved, delay)
        self._log_failures(moved, delay)

    def _settle(self, token: str, letter: Letter, delay: float = 0.0) -> None:
        self._settler.put(Settlement(token=token, letter=letter, delay=delay))

    def _raised(self, letter: Letter, error: Exception) -> None:
        log.error(
            "letter_raised",
            letter=letter.id,
            error=type(error).__name__,
            exc_info=error,
            action="reported as error; the worker goes on with a new session",
        )
        token = self._hand.token(letter.id)
        if token is not None:
            reason = f"internal error while sending ({type(error).__name__})"
            self._settle(token, as_error(letter, reason, now=self._now()))

    def _log_failures(self, letter: Letter, delay: float) -> None:
        bad = [r.result for r in letter.recipients if r.result and r.result.verdict is not Verdict.ACCEPTED]
        if not bad:
            log.debug("letter_sent", letter=letter.id)
            return
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
        return now_ms(self._clock.epoch())


def _refused(addresses: Sequence[str], error: Exception) -> dict[str, Result]:
    reason = str(error) if isinstance(error, ValueError) else f"internal error ({type(error).__name__})"
    return dict.fromkeys(addresses, Result(verdict=Verdict.REFUSED, phase=Phase.DATA, text=reason))


def _address_fault(letter: Letter) -> str:
    """Why an adopted document cannot be sent; letters of the topic were checked at intake."""
    if not letter.adopted:
        return ""
    if not letter.addresses:
        return "addresses: at least one is needed"
    for index, address in enumerate(letter.addresses):
        try:
            parse_address(address)
        except BadAddress as error:
            return f"addresses[{index}]: {error}"
    return ""
