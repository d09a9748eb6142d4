"""One worker: a session of its own, and letters through it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Protocol

import structlog

from mailsender.aio import pause
from mailsender.model.address import BadAddress, parse_address
from mailsender.model.letter import Envelope, Letter, Phase, Result, Settlement, Status, Verdict, now_ms
from mailsender.model.ports import Clock, Go, NotBegun, Relay, RelayAway
from mailsender.observe.supervision import Keep, once, was_cancelled
from mailsender.queue.inflight import InFlight
from mailsender.ratelimit.gcra import UNLIMITED, Slot
from mailsender.ratelimit.limiter import NoSlots, SlotGate
from mailsender.sending.attempt import Attempt, RetryPolicy, after_attempt, as_error, progress
from mailsender.sending.reply_rules import Action, Rule, as_deferred, rule_for
from mailsender.sending.sessions import Held, OwnSession, RelayState, Stopped
from mailsender.sending.settler import Settler
from mailsender.sending.weighing import Ruling

log = structlog.get_logger()


TIMER_TICK = 0.001
"""Seconds to which an event loop's timers are exact; uvloop counts whole milliseconds."""


LOOK = 0.25
"""Seconds between two looks whether a relay that refused everybody takes letters again."""

RENEWALS = 2
"""Sessions in a row that a letter is tried over anew, as if their end had nothing to do with it."""

DOUBTED_TRIES = 7
"""Attempts after which a refusal is taken to be about the letter although the relay took nobody else since:
an hour by the default schedule."""


class Compose(Protocol):
    """Makes the bytes of a message; see `mailsender.message.compose`."""

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
    life: float

    @cached_property
    def begin_margin(self) -> float:
        """For how long a letter must be ours yet for a transaction to begin: its envelope takes a while."""
        return min(10.0, self.life / 4)

    @cached_property
    def dot_margin(self) -> float:
        """For how long it must be ours yet for the dot: from then on the heart goes on until the reply."""
        return min(5.0, self.life / 8)


@dataclass(slots=True)
class _Means:
    """What all transactions of a worker need to be permitted; `cut` ends those that are before their dot."""

    clock: Clock
    in_flight: InFlight
    policy: SendPolicy
    cut: bool = False


class _Go:
    """Permission for one transaction: the slot for its beginning, that the letter is ours for both moments.

    `runs` are the places of `recipients` in `Letter.everybody`, as pairs of the first one and their number.
    """

    __slots__ = ("denied", "held", "letter_id", "lost", "means", "recipients", "runs", "slot", "token")

    def __init__(
        self,
        means: _Means,
        *,
        token: str,
        letter_id: str,
        runs: tuple[tuple[int, int], ...],
        recipients: tuple[str, ...],
        slot: Slot,
        held: Held,
    ) -> None:
        self.means = means
        self.held = held
        self.token = token
        self.letter_id = letter_id
        self.runs = runs
        self.recipients = recipients
        self.slot = slot
        self.lost = False
        self.denied = False

    def begin(self) -> bool:
        means = self.means
        now = means.clock.monotonic()
        self.lost = means.in_flight.lasts(self.token, self.letter_id) - now < means.policy.begin_margin
        return not self.lost and not means.cut and self.slot.good(now)

    def dot(self) -> bool:
        means = self.means
        self.held.dot_at = now = means.clock.monotonic()
        left = means.in_flight.lasts(self.token, self.letter_id) - now
        self.lost = left < means.policy.dot_margin
        # The last question: a note of a dot says that it was written.
        self.denied = self.lost or means.cut or not self._noted()
        return not self.denied

    def _noted(self) -> bool:
        notes = self.means.in_flight.notes
        for start, count in self.runs:  # noqa: SIM110  one run, nearly always: a generator costs more than it
            if not notes.dot(self.token, self.letter_id, start, count):
                return False
        return True

    def replied(self, results: Mapping[str, Result]) -> None:
        self.held.dot_at = 0.0
        found = [results[each] for each in self.recipients]
        for place, result in enumerate(found):
            if result.verdict is Verdict.REFUSED:
                found[place] = _as_noted(result, results)
        notes, runs = self.means.in_flight.notes, self.runs
        if len(runs) == 1:
            notes.replied(self.token, self.letter_id, runs[0][0], found)
            return
        at = 0
        for start, count in runs:
            notes.replied(self.token, self.letter_id, start, found[at : at + count])
            at += count


def _as_noted(result: Result, results: Mapping[str, Result]) -> Result:
    """What a successor may take for certain: a refusal only if it is about the recipient or the letter."""
    final = rule_for(result, taken=_some_taken(results), carried=False).action is Action.ANSWER
    return result if final else as_deferred(result)


def _some_taken(results: Mapping[str, Result]) -> bool:
    """Whether the relay took somebody's RCPT: a later step decided about them."""
    return any(each.phase is Phase.DATA or each.phase is Phase.DOT for each in results.values())


class _Errand:
    """One letter on its way: who is left to be sent to in this claim, and what was said of the others.

    `idle` are those of whom nothing was learnt, for `pause` seconds. `doubtful` were refused in words that
    may be meant for everybody. `short` tells that it ended before all were asked.
    """

    __slots__ = (
        "at",
        "doubtful",
        "idle",
        "left",
        "letter",
        "pause",
        "places",
        "renewed",
        "results",
        "short",
        "size",
        "taken",
        "token",
    )

    def __init__(self, token: str, letter: Letter, size: int) -> None:
        self.token = token
        self.letter = letter
        self.left = letter.pending
        self.size = size
        self.results: dict[str, Result] = {}
        self.idle: set[str] = set()
        self.doubtful: dict[str, Result] = {}
        self.pause = 0.0
        self.renewed = 0
        self.short = False
        self.taken = False
        self.places: dict[str, int] | None = None
        self.at: dict[str, list[int]] | None = None

    def runs(self, part: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """The places of `part` among all recipients of the letter."""
        if len(part) == len(self.letter.recipients):
            return ((0, len(part)),)
        if self.places is None:
            self.places = {each: place for place, each in enumerate(self.letter.everybody)}
        runs: list[tuple[int, int]] = []
        for each in part:
            place = self.places[each]
            if runs and runs[-1][0] + runs[-1][1] == place:
                runs[-1] = runs[-1][0], runs[-1][1] + 1
            else:
                runs.append((place, 1))
        return tuple(runs)

    def places_of(self, part: tuple[str, ...]) -> list[int]:
        """The places of `part` in `Letter.recipients`, where an address may stand more than once."""
        if self.at is None:
            self.at = {}
            for place, each in enumerate(self.letter.recipients):
                self.at.setdefault(each.address, []).append(place)
        return [place for each in part for place in self.at[each]]


class _Said:
    """What a transaction came to. `good`: all were accepted. `carried`: the session had carried letters."""

    __slots__ = ("carried", "good", "held", "results")

    def __init__(self, results: Mapping[str, Result], held: Held, *, good: bool, carried: bool) -> None:
        self.results = results
        self.held = held
        self.good = good
        self.carried = carried


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
        in_flight: InFlight,
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
        self._in_flight = in_flight
        self._settler = settler
        self._composer = composer
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._means = _Means(clock, in_flight, policy)
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

    @property
    def held(self) -> Held | None:
        """Its session, if there is one now."""
        return self._line.held

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
        if self._state.breaker.open:
            await self._try()
            return
        found = self._at_once() or await self._waited_for()
        if found is not None:
            await self._safely(*found)

    async def _try(self) -> None:
        """Where the relay refuses everybody: one letter, when it is time and no other one is on its way."""
        breaker = self._state.breaker
        now = self._clock.monotonic()
        if not breaker.take_try(now):
            await pause(self._stopping, min(LOOK, breaker.left(now) or LOOK))
            return
        try:
            found = await self._waited_for()
            if found is not None:
                await self._safely(*found)
        finally:
            breaker.give_back()

    async def _safely(self, token: str, letter: Letter) -> None:
        try:
            await self._handle(token, letter)
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            # A library cancelled what we waited for: that ends this letter, and nobody else would.
            self._raised(token, letter, RuntimeError("cancelled from within"))
            self._line.retire()
        except Exception as error:  # noqa: BLE001  one letter's failure never harms the next
            self._raised(token, letter, error)
            self._line.retire()

    def _at_once(self) -> tuple[str, Letter] | None:
        """A letter, where nothing has to be waited for."""
        if self._line.warm is None or not self._settler.open.is_set():
            return None
        return self._basket.take()

    async def _waited_for(self) -> tuple[str, Letter] | None:
        """A letter, once there is one and what it needs; None: look again."""
        idle = self._policy.session_idle if self._line.open else None
        # A relay that was away is asked on although no letter waits, and one that was never asked is asked
        # once, so that readiness tells the truth.
        if not (self._state.away or self._asks_first()) and not await self._basket.wait(idle):
            await self._line.close_if_idle()
            return None
        if not (self._line.warm or await self._line.have()):
            return None
        if not self._settler.open.is_set() and not await self._may_begin():
            return None
        return self._basket.take()

    def _asks_first(self) -> bool:
        """Whether it is this worker's to find out whether the relay can be reached at all."""
        state = self._state
        if state.connected_ever:
            return False
        state.asked_by = state.asked_by or id(self)
        return state.asked_by == id(self)

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
        if self._in_flight.token(letter.id) != token:
            return  # it was lost while it waited; under a newer claim it comes again
        # What came over the topic was checked at intake; what only looks so could wait here for ever.
        foreign = letter.adopted or not letter.addresses
        fault = letter.reason or (_address_fault(letter) if foreign else "")
        if fault:
            self._settle(token, as_error(letter, fault))
            return
        odds = self._policy.refuse_probability
        if odds and self._chance.random() < odds:
            refused = Result(
                verdict=Verdict.REFUSED, phase=Phase.MAIL, text="refused at random (SMTP_REFUSE_PROBABILITY)"
            )
            attempt = Attempt(
                results=dict.fromkeys(letter.pending, refused),
                relay=self._relay_name,
                message_id=self._composer.message_id(letter.id),
            )
            self._finish(attempt, token, letter)
            return
        try:
            await self._send(token, letter)
        except ValueError as error:  # the message cannot be made
            self._settle(token, as_error(letter, str(error)))

    async def _send(self, token: str, letter: Letter) -> None:
        """Carry the letter's open recipients, in as many transactions as it takes."""
        errand = _Errand(token, letter, self._policy.max_recipients)
        while errand.left:
            part = errand.left[: min(errand.size, self._line.room)]
            try:
                said = await self._transact(errand, part)
            except Exception as error:
                if not errand.results:
                    raise
                self._refuse_the_rest(errand, error)
                break
            if not self._take_in(errand, part, said):
                break
            if errand.left and not await self._write_down(errand, part):
                break
        if self._in_flight.token(letter.id) != token and not errand.results:
            return  # lost meanwhile, and nothing was sent
        if errand.doubtful:
            state = self._state
            state.scale.put(letter.id, state.refusals.number, partial(self._rule, errand))
        elif errand.results:
            self._finish_errand(errand)
        else:
            self._settler.release(token, [letter.id])

    def _refuse_the_rest(self, errand: _Errand, error: Exception) -> None:
        """What earlier slices came to stays true; the others end here, with the reason."""
        log.error("slice_raised", letter=errand.letter.id, exc_info=error, action="the others are refused")
        errand.results |= _refused(errand.left, error)

    def _take_in(self, errand: _Errand, part: tuple[str, ...], said: _Said | None) -> bool:
        """Note what one transaction came to; whether to go on with the letter."""
        if said is None:
            errand.short = True
            return False
        errand.left = errand.left[len(part) :]
        if not said.good:
            return self._judge(errand, part, said)
        errand.results |= said.results
        errand.taken = True
        return True

    async def _write_down(self, errand: _Errand, part: tuple[str, ...]) -> bool:
        """Have the outcomes of `part` written; False when the letter is lost, or it is time to stop.

        Only then comes the next transaction: a process that dies in a large letter sends one of them again.
        """
        letter, policy = errand.letter, self._policy.retry
        changed = progress(letter.recipients, errand.places_of(part), self._attempt(errand), policy)
        if not changed:
            return True
        written = self._settler.progress(errand.token, letter.id, changed)
        stop = asyncio.ensure_future(self._stopping.wait())
        waits: list[asyncio.Future[Any]] = [written, stop]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        errand.short = not (written.done() and written.result())
        return not errand.short

    def _judge(self, errand: _Errand, part: tuple[str, ...], said: _Said) -> bool:
        """Take in what was said of `part`, some of whom were not accepted; whether to go on with it."""
        results, state = said.results, self._state
        if self._means.cut:
            errand.results |= results
            return False
        again: list[str] = []
        held: Result | None = None
        taken, renew, doubt, spoken = _some_taken(results), False, False, False
        carried = said.carried and errand.renewed < RENEWALS
        errand.taken = errand.taken or any(each.verdict is Verdict.ACCEPTED for each in results.values())
        for each in part:
            result = results[each]
            rule = rule_for(result, taken=taken, carried=carried)
            action = self._action(errand, rule)
            if action is Action.SPLIT and len(part) > 1:
                again.append(each)
            elif action is Action.RENEW:
                again.append(each)
                renew = True
            elif action is Action.HOLD or (action is Action.WEIGH and state.breaker.open):
                errand.results[each] = as_deferred(result)
                errand.idle.add(each)
                held = result
            elif action is Action.WEIGH:
                doubt = True
                errand.doubtful[each] = result
            else:
                later = action is not Action.ANSWER
                errand.results[each] = as_deferred(result) if later else result
                spoken = spoken or (action is rule.action and result.code is not None)
        self._learn(errand, part, said, again=again, renew=renew)
        errand.left = (*again, *errand.left)
        if held is not None:
            errand.pause = state.hold(errand.letter.id, held)
            return False
        if doubt:
            self._weigh(errand)
            said.held.refused = state.refusals.number
            return False
        if spoken:
            state.at_ease_if_held()
        return True

    def _action(self, errand: _Errand, rule: Rule) -> Action:
        """What to do by a rule, with what is known of other letters."""
        action = rule.action
        if action is not Action.HOLD and action is not Action.WEIGH:
            return action
        others = errand.taken or self._state.refusals.others_taken_since(errand.letter.id)
        return rule.otherwise if others else action

    def _learn(
        self, errand: _Errand, part: tuple[str, ...], said: _Said, *, again: Sequence[str], renew: bool
    ) -> None:
        """What those who are to be sent to again tell about the session."""
        if not again:
            errand.renewed = 0
            return
        if renew:
            errand.renewed += 1
            answer = said.results[again[0]]
            if answer.code is not None and answer.phase in {Phase.MAIL, Phase.DATA} and not said.held.worn:
                self._state.learn_share(said.held.taken)
            said.held.worn = True
            return
        errand.renewed = 0
        if len(again) == len(part):  # said of all of them: only fewer can tell how many are too many
            errand.size = max(1, len(part) // 2)
        else:
            said.held.room = len(part) - len(again)

    def _weigh(self, errand: _Errand) -> None:
        """Somebody was refused in words that may be meant for everybody."""
        doubtful = errand.doubtful
        if self._state.doubt(errand.letter.id, next(iter(doubtful.values()))):
            self._to_blame_is_the_relay(errand)
            return
        later = [each for each, result in doubtful.items() if result.verdict is Verdict.DEFERRED]
        for each in later:  # to wait is what it asks for, whatever it means
            errand.results[each] = doubtful.pop(each)

    def _to_blame_is_the_relay(self, errand: _Errand) -> None:
        for each, result in errand.doubtful.items():
            errand.results[each] = as_deferred(result)
            errand.idle.add(each)
        errand.doubtful = {}
        errand.pause = self._state.breaker.left(self._clock.monotonic())

    def _rule(self, errand: _Errand, ruling: Ruling) -> None:
        """What a refusal turned out to mean is what becomes of its letter."""
        doubtful = errand.doubtful
        if ruling is Ruling.EVERYBODY or ruling is Ruling.STOPPED:
            self._to_blame_is_the_relay(errand)
        else:
            # Nobody else was tried, so nobody knows. It is tried again some times, lest an idle service's
            # only letter fails for the account's fault, but not for days: most often it is the letter.
            tries = max([each.tries for each in errand.letter.recipients if each.address in doubtful])
            final = ruling is Ruling.OWN or tries + 1 >= DOUBTED_TRIES
            errand.results |= doubtful if final else {k: as_deferred(v) for k, v in doubtful.items()}
            errand.doubtful = {}
        if self._in_flight.token(errand.letter.id) == errand.token:
            self._finish_errand(errand)

    async def _transact(self, errand: _Errand, part: tuple[str, ...]) -> _Said | None:
        """One transaction; None when it could not begin, or was given up before its dot."""
        envelope = Envelope(reverse_path=self._policy.reverse_path, recipients=part)
        while True:
            try:
                slot = self._gate.at_once() or await self._gate.acquire()
                held = self._line.warm or await self._line.fit()
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
            eight_bit = held.session.accepts_8bit()
            message = self._composer.compose(errand.letter, eight_bit=eight_bit, date=self._now())
            go = _Go(
                self._means,
                token=errand.token,
                letter_id=errand.letter.id,
                runs=errand.runs(part),
                recipients=part,
                slot=slot,
                held=held,
            )
            said = await self._carry(held, envelope, message, go)
            if go.denied:
                return None
            if said is not None:
                return said
            if go.lost or self._means.cut:
                return None
            # Else the slot lapsed while we got ready, or the session had ended: try again.

    async def _carry(self, held: Held, envelope: Envelope, message: bytes, go: Go) -> _Said | None:
        """One transaction over a session, which is closed when it was the last; None: nothing came of it."""
        state = self._state
        since = state.refusals.number
        self._line.enter(held)
        try:
            outcome = await held.session.transact(envelope, message, go)
        except NotBegun:
            return None
        finally:
            self._line.leave()
        good, some, carried = True, False, held.taken > 0
        for each in outcome.results.values():
            if each.verdict is Verdict.ACCEPTED:
                some = True
            else:
                good = False
        if some:
            held.taken += 1
            if state.uneasy:
                state.took(max(since, held.refused))
        if not outcome.session_usable:
            await self._line.close(held)
        return _Said(outcome.results, held, good=good, carried=carried)

    async def _come(self, slot: Slot) -> None:
        """Wait for a slot's moment, or until it is time to stop."""
        while (early := slot.earliest - self._clock.monotonic()) > 0 and not self._stopping.is_set():
            # Timers may end a millisecond early, and a slot that has not come yet would be given up.
            await pause(self._stopping, early + TIMER_TICK)

    def _finish_errand(self, errand: _Errand) -> None:
        self._finish(self._attempt(errand), errand.token, errand.letter)

    def _attempt(self, errand: _Errand) -> Attempt:
        stopped = errand.short and (self._stopping.is_set() or bool(self._in_flight.notes.trouble))
        return Attempt(
            results=errand.results,
            relay=self._relay_name,
            message_id=self._composer.message_id(errand.letter.id),
            cut=self._means.cut or stopped,
            idle=errand.idle,
            pause=errand.pause,
        )

    def _finish(self, attempt: Attempt, token: str, letter: Letter) -> None:
        moved, delay = after_attempt(letter, attempt, self._policy.retry, jitter=self._chance.random())
        refusals = self._state.refusals
        if refusals.numbers and moved.status.final:
            refusals.settled(letter.id)
        self._settle(token, moved, delay)
        self._log(moved, delay, attempt.results)

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
        if self._in_flight.token(letter.id) == token:
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
