"""Senders of a route: each takes a letter, a session and a slot, and carries the letter to its end."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from mailsender.aio import pause
from mailsender.message.mail import NO_CONTENTS
from mailsender.model.letter import Envelope, Letter, Phase, Result, Settlement, Status, Verdict, now_ms
from mailsender.observe.supervision import was_cancelled
from mailsender.ratelimit.gcra import EVERYBODY, UNLIMITED, Slot
from mailsender.ratelimit.limiter import Changed, NoSlots
from mailsender.routing.obstacles import Moment
from mailsender.routing.pool import Held, Stopped
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import RELAY_KEY
from mailsender.routing.route import Route
from mailsender.sending.attempt import (
    NO_WAITS,
    Attempt,
    address_fault,
    after_attempt,
    as_error,
    as_expired,
    policy_of,
    progress,
    refused,
)
from mailsender.sending.errand import Anew, Errand, Said, carry, ends
from mailsender.sending.expiry import tell_expired
from mailsender.sending.failover import elsewhere, ended, suit
from mailsender.sending.judge import Judge
from mailsender.sending.mail import have_filling, known_of, mail_of, message_of, take_contents
from mailsender.sending.orders import aside, own_times, spare, told_before, unasked
from mailsender.sending.parts import moved_on, part_of
from mailsender.sending.past import past_of, remembers, with_past
from mailsender.sending.permit import Permit, certain
from mailsender.sending.tools import Tools
from mailsender.smtp.port import RelayAway

log = structlog.get_logger()

TIMER_TICK = 0.001
"""Seconds to which an event loop's timers are exact; uvloop counts whole milliseconds."""

IDLES = 10.0
"""Seconds of waiting for a slot after which a session is asked whether it is there: relays close what idles,
the most impatient after some half a minute. The question takes a round trip, for which not all slots last."""

LOOK = 0.25
"""Seconds between two looks at a relay that refused everybody, or whose quota was used up."""


class Sender:
    """Sends letters of one route, one at a time.

    The session and the slot come before the letter: while the relay is away no letter is taken, so none
    counts an attempt, and which letter goes next is decided when it can go. There are more senders than
    sessions where a relay takes transactions pipelined: the next letter is ready when the one before it is
    through.
    """

    def __init__(self, route: Route, tools: Tools) -> None:
        self._route = route
        self._tools = tools
        self._backlog = route.backlog
        self._in_flight = tools.in_flight
        self._settler = tools.settler
        self._composer = tools.composer
        self._policy = tools.policy
        self._clock = tools.clock
        self._chance = tools.chance
        self._stopping = tools.stopping
        self._means = tools.means
        self._blobs = tools.blobs
        self._suppression = tools.suppression
        self._judge = Judge(tools.clock, self._finish_if_ours)
        self._quiet = log.bind()  # resolved once: an event that is not written costs a letter next to nothing
        self._second, self._date = 0, now_ms(0)

    async def run(self) -> None:
        """Send until it is time to stop; a transaction that has begun goes on to its end."""
        while not (self._stopping.is_set() or self._route.ended.is_set()):
            if self._route.closed and len(self._backlog):
                await pause(self._stopping, LOOK)  # the dispatcher takes them back
            elif self._route.tried:
                await self._try()
            elif self._backlog.reserve_at_once() or await self._backlog.reserve():
                if self._route.alone and not self._route.relays[0].breaker.open:
                    await self._next(self._route.relays[0])
                else:
                    await self._take_turn()

    async def _take_turn(self) -> None:
        """Send the letter that was reserved over the relay whose turn it is."""
        if self._route.tried:  # since we waited for it
            self._backlog.cancel()
            return
        relay, trial = self._route.turn()
        sent = False
        try:
            sent = await self._next(relay, trial=trial > 0)
        finally:
            self._route.done(relay, trial=trial, sent=sent)

    async def _try(self) -> None:
        """Where all relays refuse everybody: one letter, when it is time and no other one is on its way."""
        now = self._clock.monotonic()
        relays = [each for each in self._route.relays if each.breaker.open]
        relay = next((each for each in relays if each.breaker.may_try(now)), None)
        if relay is None:
            left = min([each.breaker.left(now) for each in relays])
            await pause(self._stopping, min(LOOK, left or LOOK))
            return
        # The letter comes first: who waits for one must not keep a route that has some from trying.
        if not (self._backlog.reserve_at_once() or await self._backlog.reserve()):
            return
        number = relay.breaker.take_try(self._clock.monotonic())
        if not number:
            self._backlog.cancel()
            return
        try:
            await self._next(relay, trial=True)
        finally:
            relay.breaker.give_back(number)

    async def _next(self, relay: Relay, *, trial: bool = False) -> bool:
        """Send the letter that was reserved, once there is all that it takes; whether it was taken.

        `trial`: the relay refused letters, and this one is to show whether it takes some again.
        """
        try:
            line = self._route.line()
            held = await self._place(relay, line, trial=trial)
            if held is not None and trial and not await self._answers(relay, held):
                held = None
            began = self._clock.monotonic()
            slot = None if held is None else await self._slot(relay, line)
            if held is not None and slot is not None and slot is not UNLIMITED:
                long = self._clock.monotonic() - began > IDLES
                held = await self._on_time(relay, held, slot, line, trial=trial, long=long)
        except BaseException:
            self._backlog.cancel()
            raise
        if held is None or slot is None:
            if held is not None:
                relay.pool.leave(held)
            self._backlog.cancel()
            await self._give_way(relay)
            return False
        found = None
        if not self._wants(relay, trial=trial):
            self._backlog.cancel()  # it refused letters meanwhile, or the route goes elsewhere
        elif not self._route.closed and (self._settler.open.is_set() or await self._may_begin()):
            found = self._backlog.take()
        else:
            self._backlog.cancel()
        if found is None:
            relay.pool.leave(held)
            relay.limiter.put_back(slot)
            await self._give_way(relay)
            return False
        await self._safely(Errand(*found, relay, held, slot, trial=trial))
        return True

    async def _give_way(self, relay: Relay) -> None:
        """Let others have their turn, or wait where no letter goes: nothing else here need wait at all."""
        if relay.goes if self._route.alone else self._route.goes:
            await asyncio.sleep(0)
        else:
            await pause(self._stopping, LOOK)

    async def _answers(self, relay: Relay, held: Held) -> bool:
        """Whether a relay that refused letters answers at all; if not it is left alone for longer.

        No letter is to find out what NOOP can. A session that carries another letter is not asked.
        """
        if await held.session.check_alive(ask=True):
            return True
        relay.pool.leave(held, usable=False)
        relay.breaker.trip(relay.breaker.why, relay.breaker.phase, self._clock.monotonic())
        return False

    async def _on_time(
        self, relay: Relay, held: Held, slot: Slot, line: str, *, trial: bool, long: bool
    ) -> Held | None:
        """Wait for a slot's moment; the place, or another one where its session ended meanwhile.

        Behind a slow rate its sender may have waited `long` for the slot, and relays close what idles. Slots
        come up to a second ahead, which is time to look. None: there is no place, and the slot goes back.
        """
        found: Held | None = held
        if long and not await _alive(held):
            relay.pool.leave(held, usable=False)
            found = await self._place(relay, line, trial=trial)
        if found is None:
            relay.limiter.put_back(slot)
        else:
            await self._come(slot)
        return found

    def _wants(self, relay: Relay, *, trial: bool) -> bool:
        """Whether letters go over it still: it has not refused any meanwhile, and the route has it."""
        return (trial or not relay.breaker.open) and relay in self._route.relays

    def _wants_more(self, relay: Relay, *, trial: bool) -> bool:
        """The same of a letter that was not taken yet: the route may be gone, too."""
        return self._wants(relay, trial=trial) and not self._route.ended.is_set()

    async def _place(self, relay: Relay, line: str, *, trial: bool) -> Held | None:
        """A place in a session; None where there is none, and another relay may have one."""
        if relay.ordered and relay.held(RELAY_KEY, self._clock.monotonic()):
            return None
        held = relay.pool.at_once()
        if held is not None:
            return held
        wants = partial(self._wants_more, relay, trial=trial)
        try:
            held = await relay.pool.place(
                wait=self._route.alone, route=line, still=partial(self._route.waits_for, relay), wanted=wants
            )
        except (Stopped, RelayAway):
            return None
        if wants():
            return held
        relay.pool.leave(held)
        return None

    async def _slot(self, relay: Relay, line: str) -> Slot | None:
        """A slot, which may lie a little ahead; None where none will come for long."""
        try:
            return relay.limiter.at_once() or await relay.limiter.acquire(line)
        except NoSlots:
            return None

    async def _safely(self, errand: Errand) -> None:
        """Send a letter; what goes wrong with it harms no other one."""
        try:
            await self._handle(errand)
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            # A library cancelled what we waited for: that ends this letter, and nobody else would.
            self._raised(errand, RuntimeError("cancelled from within"))
        except Exception as error:  # noqa: BLE001  one letter's failure never harms the next
            self._raised(errand, error)
        errand.give_back()

    async def _may_begin(self) -> bool:
        """Wait until outcomes can be written again; False when it is time to stop."""
        if not self._stopping.is_set():
            await self._settler.open.wait()  # the dispatcher ends the wait when it stops
        return not self._stopping.is_set()

    # --- one letter ------------------------------------------------------------------------------

    async def _handle(self, errand: Errand) -> None:
        token, letter = errand.token, errand.letter
        if self._in_flight.token(letter.id) != token:
            return  # it was lost while it waited; under a newer claim it comes again
        # What came over the topic was checked at intake; what only looks so could wait here for ever.
        foreign = letter.adopted or not letter.addresses
        fault = letter.reason or (address_fault(letter) if foreign else "")
        if fault:
            self._settle(token, as_error(letter, fault))
            return
        if letter.expires is not None and letter.expires.timestamp() <= self._clock.epoch():
            self._settle(token, as_expired(letter))
            tell_expired([letter])
            return
        # Of one that was tried before some may have to wait for longer than others.
        if (letter.attempts or not self._tools.table.plain) and not self._take_part(errand):
            return
        odds = self._policy.refuse_probability
        if odds and self._chance.random() < odds:
            unlucky = Result(
                verdict=Verdict.REFUSED, phase=Phase.MAIL, text="refused at random (SMTP_REFUSE_PROBABILITY)"
            )
            errand.results = dict.fromkeys(errand.left, unlucky)
            self._finish(errand)
            return
        try:
            if letter.mail:
                await self._send_mail(errand)
            elif self._route.open_to_service or suit(errand, self._route):
                await self._send(errand)
            else:
                self._finish_if_ours(errand)
        except ValueError as error:  # the message cannot be made; who has got it before has it all the same
            if any(each.accepted for each in letter.recipients):
                errand.results = refused(letter.pending, error)
                self._finish_if_ours(errand)
            else:
                self._settle(token, as_error(letter, str(error)))

    def _take_part(self, errand: Errand) -> bool:
        """Leave those whose way is not this route, or who are not due; False: nobody else is left."""
        letter, table, now = errand.letter, self._tools.table, self._clock.epoch()
        part = part_of(letter, self._route.name, table, now)
        errand.left, errand.elsewhere = part.addresses, part.others
        if not part.addresses:
            self._settle(errand.token, *moved_on(letter, table, now))
        return bool(part.addresses)

    async def _send_mail(self, errand: Errand) -> None:
        """Send a letter with further keys, once its template and its attachments are at hand."""
        mail = mail_of(errand, self._composer)
        if mail is None or (mail.pin and not await have_filling(errand, self._composer)):
            self._finish_if_ours(errand)
            return
        if not (self._route.open_to_all or suit(errand, self._route)):
            self._finish_if_ours(errand)
            return
        if mail.personal:
            errand.size = 1
        if not mail.attachments or self._blobs is None:
            await self._send(errand)
            return
        taken = await take_contents(errand, mail, self._blobs)
        if taken is None:
            self._finish_if_ours(errand)
            return
        errand.contents = taken.contents
        try:
            await self._send(errand)
        finally:
            errand.contents = NO_CONTENTS  # a letter that is weighed may wait for long
            self._blobs.give_back(taken)

    async def _send(self, errand: Errand) -> None:
        """Carry the letter's open recipients, in as many transactions as it takes, over one relay or more."""
        destinations = errand.relay.destinations
        if destinations is not None and destinations.limited and self._put_aside(errand):
            return
        errand.fresh_first()
        while True:
            while self._anybody_left(errand):
                if not await self._equipped(errand):
                    errand.short = True
                    break
                part = errand.part
                try:
                    said = await self._transact(errand, part)
                except Exception as error:  # noqa: BLE001  looked at, and raised where it has to be
                    if ends(errand, part, error):
                        break
                    continue
                if not self._take_in(errand, part, said):
                    break
                if errand.left and not await self._write_down(errand, part):
                    break
            if self._route.alone or errand.accepted or not await self._turn_elsewhere(errand):
                break
        self._end(errand)

    def _put_aside(self, errand: Errand) -> bool:
        """Keep the letter at hand until its destination's turn, if that is near; whether it is kept."""
        if self._stopping.is_set() or self._route.ended.is_set():
            return False  # nobody takes it from there any more
        seconds = aside(errand, self._clock.monotonic())
        if seconds:
            self._backlog.put_aside(errand.token, errand.letter, seconds)
        return bool(seconds)

    def _end(self, errand: Errand) -> None:
        """Nothing more is sent now: what was said decides, or has to be weighed; or the letter goes back."""
        letter = errand.letter
        if self._in_flight.token(letter.id) != errand.token and not errand.results:
            return  # lost meanwhile, and nothing was sent
        if errand.doubtful:
            self._judge.weigh_later(errand)
        elif errand.results:
            self._finish(errand)
        else:
            self._settler.release(errand.token, [letter.id])

    async def _turn_elsewhere(self, errand: Errand) -> bool:
        """Turn to the next relay, if there is one for somebody: the others are written down before."""
        if self._means.cut or self._stopping.is_set() or elsewhere(errand, self._route) is None:
            return False
        done = ended(errand)
        if done and not await self._write_down(errand, done):
            return False
        further = elsewhere(errand, self._route)
        if further is None or self._in_flight.token(errand.letter.id) != errand.token:
            return False
        self._note_past(errand)
        errand.turn_to(*further)
        return True

    def _anybody_left(self, errand: Errand) -> bool:
        """Whether somebody is to be sent to; who rests, by what the relay said before, is left out."""
        if errand.relay.ordered:
            spare(errand, self._clock.monotonic())
        return bool(errand.left)

    def _take_in(self, errand: Errand, part: tuple[str, ...], said: Said | None) -> bool:
        """Note what one transaction came to; whether to go on with the letter."""
        if said is None:
            errand.short = True
            return False
        errand.left = errand.left[len(part) :]
        if errand.tried:
            errand.note(part)
        if said.good:
            errand.results |= said.results
            errand.took()
            return True
        if self._means.cut:
            rules, results = errand.relay.rules, said.results
            # Nobody weighs it any more: what may be the account's fault must not fail a recipient.
            errand.results |= {each: certain(rules, result, results) for each, result in results.items()}
            return False
        known = known_of(errand.mail, errand.relay.policy.reverse_path) if errand.mail else ()
        if said.put_off is not None and not known:
            errand.relay.put_off(errand.letter.id, said.put_off, part)
        return self._judge.judge(errand, part, said, known)

    async def _write_down(self, errand: Errand, part: tuple[str, ...]) -> bool:
        """Have the outcomes of `part` written; False when the letter is lost, or it is time to stop.

        Only then comes the next transaction: a process that dies in a large letter sends one of them again.
        """
        letter = errand.letter
        changed = progress(
            letter.recipients,
            errand.places_of(part),
            self._attempt(errand),
            policy_of(letter, self._route.retry),
        )
        if not changed:
            return True
        written = self._settler.progress(errand.token, letter.id, changed)
        stop = asyncio.ensure_future(self._stopping.wait())
        waits: list[asyncio.Future[Any]] = [written, stop]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        errand.short = not (written.done() and written.result())
        return not errand.short

    async def _transact(self, errand: Errand, part: tuple[str, ...]) -> Said | None:
        """One transaction; None when it could not begin, or was given up before its dot.

        Raises:
            Anew: not all of `part` may be sent to now.
        """
        mail = errand.mail
        own = mail.reverse_path if mail is not None else ""
        envelope = Envelope(
            reverse_path=own or errand.relay.policy.reverse_path,
            recipients=part,
            terms=None if mail is None else mail.terms,
            secret="" if mail is None else mail.code(part[0]),
        )
        while True:
            if not await self._equipped(errand, len(part)):
                return None
            if mail is None:
                message = self._composer.compose(
                    errand.letter, eight_bit=errand.session.supports_8bit, date=self._now()
                )
            else:
                if mail.personal:
                    await asyncio.sleep(0)  # thousands are made, and each time others have their turn
                message = message_of(errand, mail, part, self._composer, self._now())
            held, slot = errand.take()
            permit = Permit(
                self._means,
                token=errand.token,
                letter_id=errand.letter.id,
                runs=errand.runs(part),
                recipients=part,
                relay=errand.relay.told,
                slot=slot,
                held=held,
                rules=errand.relay.rules,
                limiter=errand.relay.limiter,
                breaker=None if errand.trial else errand.relay.breaker,
                over=errand.relay,
                mail=mail,
            )
            if errand.permit is None:
                errand.permit = permit
            said = await carry(errand.relay, held, envelope, message, permit)
            if permit.denied:
                return None
            if said is not None:
                said.obeyed = permit.obeyed
                return said
            if permit.lost or self._means.cut:
                return None
            # Else the slot lapsed while we got ready, or the session had ended: try again.
            _let_go(errand.relay, permit)

    async def _equipped(self, errand: Errand, recipients: int = 1) -> bool:
        """Whether there is a session, and a slot whose moment has come; False: not now.

        Raises:
            Anew: the slot is not for so many `recipients`.
        """
        destinations = errand.relay.destinations
        while True:
            if self._rests(errand):
                return False
            slot, held, long = errand.slot, errand.held, False
            limited = destinations is not None and destinations.limited
            if held is None or slot is None or limited or slot.recipients < EVERYBODY:
                began = self._clock.monotonic()
                if not await self._provide(errand, limited=limited):
                    return False
                long = self._clock.monotonic() - began > IDLES
                slot, held = errand.slot, errand.held
                if slot is None or held is None:
                    continue
            if slot is not UNLIMITED and not await self._came(errand, slot, held, long=long):
                continue
            if self._settler.open.is_set():
                errand.expect(recipients)
                # What is over goes back, and ends in the queue.
                over = self._route.closed or errand.expired(self._clock)
                return not (self._stopping.is_set() or over)
            # The slot was a while ahead, and outcomes could not be written any more: it lapses instead.
            errand.slot = None
            if not await self._may_begin():
                return False

    async def _provide(self, errand: Errand, *, limited: bool) -> bool:
        """Get the session and the slot that it lacks; True without one: ask again. False: none for long.

        Nor for longer than it may be sent: a slot of a slow rate may be an hour ahead.
        """
        expires = errand.letter.expires
        left = None if expires is None else expires.timestamp() - self._clock.epoch()
        try:
            async with asyncio.timeout(left):
                await self._acquire(errand, limited=limited)
        except Changed:
            errand.give_back()  # its session may have ended
            return errand.relay in self._route.relays
        except (NoSlots, Stopped, RelayAway, TimeoutError):
            return False
        return True

    async def _acquire(self, errand: Errand, *, limited: bool) -> None:
        """Wait for the session and the slot that it lacks.

        Raises:
            Changed: whoever waits for a slot is to look again.
            NoSlots, RelayAway: none will come for long.
            Stopped: it is time to stop.
        """
        relay, line = errand.relay, self._route.line_of(errand.letter)
        if errand.held is None:
            errand.held = relay.pool.at_once() or await relay.pool.place(
                wait=False, route=line, wanted=partial(self._wants, relay, trial=errand.trial)
            )
        if errand.slot is None:
            errand.slot = relay.limiter.at_once() or await relay.limiter.acquire(line)
        if limited or errand.slot.recipients < EVERYBODY:
            slot, errand.slot = errand.slot, None
            errand.slot = await self._fitted(errand, slot)

    async def _fitted(self, errand: Errand, slot: Slot) -> Slot:
        """A slot of the relay that fits the limits of the destination, too, and as many recipients as it can.

        Raises:
            NoSlots: none will come for long.
        """
        relay = errand.relay
        if relay.destinations is not None:
            slot = await relay.destinations.join(errand.left[0], slot, self._route.line_of(errand.letter))
        return await relay.limiter.widen(slot, min(errand.wanted, len(errand.left)))

    def _rests(self, errand: Errand) -> bool:
        """Whether the relay refused letters, or ordered to wait, since this one was taken."""
        relay = errand.relay
        if relay.breaker.open and not errand.trial:
            return True
        return relay.ordered and relay.held(RELAY_KEY, self._clock.monotonic()) > 0

    async def _came(self, errand: Errand, slot: Slot, held: Held, *, long: bool) -> bool:
        """Wait for a slot's moment; False where the session ended while we waited `long` for the slot."""
        if long and not await _alive(held):
            errand.relay.pool.leave(held, usable=False)
            errand.held = None
            return False
        await self._come(slot)
        return True

    async def _come(self, slot: Slot) -> None:
        """Wait for a slot's moment, or until it is time to stop."""
        while (early := slot.earliest - self._clock.monotonic()) > 0 and not self._stopping.is_set():
            # Timers may end a millisecond early, and a slot that has not come yet would be given up.
            await pause(self._stopping, early + TIMER_TICK)

    # --- what it came to -------------------------------------------------------------------------

    def _finish_if_ours(self, errand: Errand) -> None:
        if self._in_flight.token(errand.letter.id) == errand.token:
            self._finish(errand)

    def _attempt(self, errand: Errand) -> Attempt:
        stopped = errand.short and (self._stopping.is_set() or bool(self._in_flight.journal.trouble))
        return Attempt(
            results=errand.results,
            relay=errand.letter.relay if errand.unasked else errand.heard.told,
            message_id=self._composer.message_id(errand.letter),
            cut=self._means.cut or stopped,
            idle=errand.idle,
            pause=self._pause(errand) if errand.pause else 0.0,
            waits=errand.waits or NO_WAITS,
            by=errand.by,
        )

    def _pause(self, errand: Errand) -> float:
        """Seconds until those come again of whom nothing was learnt: 0 where another relay goes instead.

        Where none was asked it is the letter that waits, whatever goes.
        """
        instead = self._route.goes and not errand.relay.free and not errand.unasked
        return 0.0 if instead else errand.pause

    def _finish(self, errand: Errand) -> None:
        attempt, letter = self._attempt(errand), errand.letter
        moved, delay = after_attempt(letter, attempt, self._route.retry, jitter=self._chance.random())
        if remembers(letter, moved, errand.past):
            moved = self._with_past(errand, attempt, moved)
        if not moved.status.final and (errand.elsewhere or errand.waits or errand.idle):
            now = Moment(epoch=self._clock.epoch(), monotonic=self._clock.monotonic())
            own = NO_WAITS if attempt.cut else own_times(errand, attempt, delay, now)
            if errand.elsewhere or own:
                moved, delay = moved_on(
                    moved,
                    self._tools.table,
                    now.epoch,
                    tried=attempt.results.keys(),
                    delay=delay,
                    own=own,
                    last=self._route.name,
                )
        for relay in (*errand.tried, errand.relay):
            if relay.refusals.numbers and moved.status.final:
                relay.refusals.settled(letter.id)
        self._settle(errand.token, moved, delay)
        if self._log(moved, delay, errand) or self._suppression.watching:
            self._suppression.note(moved, attempt.results, errand.failed, errand.unlearned)

    def _with_past(self, errand: Errand, attempt: Attempt, moved: Letter) -> Letter:
        at, seconds, tls = self._circumstances(errand)
        return with_past(errand.letter, moved, attempt, errand.past, at=at, seconds=seconds, tls=tls)

    def _note_past(self, errand: Errand) -> None:
        """Remember what came of the relay from which the letter turns to another one."""
        at, seconds, tls = self._circumstances(errand)
        relay = errand.relay.told
        past = past_of(errand.results, relay, errand.by, at=at, seconds=seconds, tls=tls)
        if past is not None:
            errand.past = (*errand.past, past)

    def _circumstances(self, errand: Errand) -> tuple[datetime, float | None, str]:
        """When an attempt over a relay was over, the seconds that it took, the session's version of TLS."""
        at, permit = now_ms(self._clock.epoch()), errand.permit
        if permit is None or not permit.begun:
            return at, None, ""
        return at, self._clock.monotonic() - permit.begun, permit.held.session.tls

    def _settle(self, token: str, letter: Letter, delay: float = 0.0) -> None:
        self._settler.put(Settlement(token=token, letter=letter, delay=delay))

    def _raised(self, errand: Errand, error: Exception) -> None:
        letter = errand.letter
        log.error(
            "letter_raised",
            letter=letter.id,
            error=type(error).__name__,
            exc_info=error,
            action="reported as error; the sender goes on with another session",
        )
        errand.retire()
        if self._in_flight.token(letter.id) == errand.token:
            reason = f"internal error while sending ({type(error).__name__})"
            self._settle(errand.token, as_error(letter, reason))

    def _log(self, letter: Letter, delay: float, errand: Errand) -> bool:
        """Say what an attempt came to; whether somebody was not accepted."""
        bad = [r.result for r in letter.recipients if r.result and not r.accepted]
        if not bad:
            self._quiet.debug("letter_sent", letter=letter.id)
            return False
        results = errand.results
        some = [each for each in results.values() if each.verdict is not Verdict.ACCEPTED]
        heard = [each for each in some if not unasked(each)]
        if some and letter.status is Status.AWAITING and (not heard or told_before(errand)):
            # No relay was asked, and it is no news: /status tells that letters wait so.
            again = round(delay, 1)
            self._quiet.debug("letter_waits", letter=letter.id, text=some[0].text, again_in_seconds=again)
            return True
        if any(result.verdict is Verdict.UNCERTAIN for result in results.values()):
            self._settler.tally.uncertain += 1
        first = (heard or bad)[0]
        ours = bool(heard) and first.verdict is Verdict.DEFERRED and errand.unasked
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
            rule=first.rule,
            text=first.text if ours else None,
            attempts=letter.attempts,
            again_in_seconds=round(delay, 1) if letter.status is Status.AWAITING else None,
        )
        return True

    def _now(self) -> datetime:
        """The second that it is: a message's date has no more, and letters share it."""
        second = int(self._clock.epoch())
        if second != self._second:
            self._second, self._date = second, now_ms(second)
        return self._date


async def _alive(held: Held) -> bool:
    """Whether a session can carry another letter; after it has been idle the relay is asked."""
    return held.session.reusable or await held.session.check_alive()


def _let_go(relay: Relay, permit: Permit) -> None:
    """Give back the slot of a transaction that did not begin: of its session nothing was asked.

    Raises:
        Anew: somebody in it rests.
    """
    if not permit.begun:
        relay.limiter.put_back(permit.slot)
    if permit.held_back:
        raise Anew
