"""Senders of a route: each takes a letter, a session and a slot, and carries the letter to its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import structlog

from mailsender.aio import first_of, pause
from mailsender.blobs.cache import BlobCache, Taken
from mailsender.message.composer import Filling, OnePersonsFault
from mailsender.message.mail import NO_CONTENTS, Mail
from mailsender.message.parts import Base64
from mailsender.model.address import BadAddress, parse_address
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Envelope, Letter, Phase, Result, Settlement, Status, Verdict, now_ms
from mailsender.observe.supervision import was_cancelled
from mailsender.queue.inflight import InFlight
from mailsender.ratelimit.gcra import UNLIMITED, Slot
from mailsender.ratelimit.limiter import NoSlots
from mailsender.routing.pool import Held, Stopped
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route
from mailsender.sending.attempt import Attempt, after_attempt, as_error, progress
from mailsender.sending.errand import Errand, Said
from mailsender.sending.judge import Judge
from mailsender.sending.permit import Margins, Means, Permit
from mailsender.sending.reply_rules import When
from mailsender.sending.settler import Settler
from mailsender.smtp.port import NotBegun, RelayAway

log = structlog.get_logger()

TIMER_TICK = 0.001
"""Seconds to which an event loop's timers are exact; uvloop counts whole milliseconds."""

LOOK = 0.25
"""Seconds between two looks at a relay that refused everybody, or whose quota was used up."""

UNREAD = 30.0
"""Seconds after which a letter is tried again whose attachments, or template, could not be read."""


class Compose(Protocol):
    """Makes the bytes of a message; see `mailsender.message.composer`."""

    def compose(
        self,
        letter: Letter,
        *,
        eight_bit: bool,
        date: datetime,
        smtputf8: bool = False,
        person: str = "",
        contents: Mapping[str, Base64] = NO_CONTENTS,
        filling: Filling | None = None,
    ) -> bytes | tuple[bytes, ...]:
        """The message, ready for the wire but for dot-stuffing. Raises ValueError for a bad header.

        `person` is the one recipient of a message of a personal letter, `contents` are those of attachments,
        `filling` is what its words are made of. Raises OnePersonsFault where this message alone cannot be
        made.
        """
        ...

    async def filling(self, letter: Letter) -> Filling | None:
        """What the messages of a personal letter are made of, None where it has no template.

        Raises:
            ValueError: nothing can be made of it.
            Unavailable: the store of templates does not answer.
        """
        ...

    def mail(self, letter: Letter) -> Mail:
        """What its further keys say. Raises ValueError where they say nothing that can be sent."""
        ...

    def message_id(self, letter: Letter) -> str:
        """The Message-ID, the same over all attempts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPolicy:
    """What the operator chose about sending, whatever the relay.

    `refuse_probability` is the course's: so many letters are refused without asking a relay. `life` is after
    how many seconds of silence this replica counts as dead.
    """

    refuse_probability: float
    life: float


@dataclass(slots=True)
class Tools:
    """What all senders of a replica share."""

    in_flight: InFlight
    settler: Settler
    composer: Compose
    policy: SendPolicy
    clock: Clock
    chance: random.Random
    stopping: asyncio.Event
    means: Means
    blobs: BlobCache | None = None

    @staticmethod
    def of(
        *,
        in_flight: InFlight,
        settler: Settler,
        composer: Compose,
        policy: SendPolicy,
        clock: Clock,
        chance: random.Random,
        stopping: asyncio.Event,
        blobs: BlobCache | None = None,
    ) -> Tools:
        """Those with the margins that follow from them."""
        means = Means(clock, in_flight, Margins.of(policy.life))
        return Tools(in_flight, settler, composer, policy, clock, chance, stopping, means, blobs)


class Sender:
    """Sends letters of one route, one at a time.

    The session and the slot come before the letter: while the relay is away no letter is taken, so none
    counts an attempt, and which letter goes next is decided when it can go. There are more senders than
    sessions where a relay takes transactions pipelined: the next letter is ready when the one before it is
    through.
    """

    def __init__(self, route: Route, tools: Tools) -> None:
        self._route = route
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
        self._judge = Judge(tools.clock, self._finish_if_ours)
        self._quiet = log.bind()  # resolved once: an event that is not written costs a letter next to nothing
        self._second, self._date = 0, now_ms(0)

    async def run(self) -> None:
        """Send until it is time to stop; a transaction that has begun goes on to its end."""
        while not self._stopping.is_set():
            if self._route.tried:
                await self._try()
            elif self._backlog.reserve_at_once() or await self._backlog.reserve():
                await self._next(self._route.relay())

    async def _try(self) -> None:
        """Where all relays refuse everybody: one letter, when it is time and no other one is on its way."""
        now = self._clock.monotonic()
        relay = next((each for each in self._route.relays if each.breaker.take_try(now)), None)
        if relay is None:
            left = min([each.breaker.left(now) for each in self._route.relays])
            await pause(self._stopping, min(LOOK, left or LOOK))
            return
        try:
            if await self._backlog.reserve():
                await self._next(relay)
        finally:
            relay.breaker.give_back()

    async def _next(self, relay: Relay) -> None:
        """Send the letter that was reserved, once there is all that it takes."""
        try:
            held = await self._place(relay)
            slot = None if held is None else await self._slot(relay)
        except BaseException:
            self._backlog.cancel()
            raise
        if held is None or slot is None:
            if held is not None:
                relay.pool.leave(held)
            self._backlog.cancel()
            if slot is None and not self._route.relay().goes:
                await pause(self._stopping, LOOK)
            return
        found = None
        if slot is not UNLIMITED:
            await self._come(slot)
        if self._settler.open.is_set() or await self._may_begin():
            found = self._backlog.take()
        else:
            self._backlog.cancel()
        if found is None:
            relay.pool.leave(held)
            relay.limiter.put_back(slot)
            return
        await self._safely(relay, held, slot, *found)

    async def _place(self, relay: Relay) -> Held | None:
        """A place in a session; None where there is none, and another relay may have one."""
        try:
            return relay.pool.at_once() or await relay.pool.place(wait=self._route.alone)
        except (Stopped, RelayAway):
            return None

    async def _slot(self, relay: Relay) -> Slot | None:
        """A slot, which may lie a little ahead; None where none will come for long."""
        try:
            return relay.limiter.at_once() or await relay.limiter.acquire()
        except NoSlots:
            return None

    async def _safely(self, relay: Relay, held: Held, slot: Slot, token: str, letter: Letter) -> None:
        """Send a letter; what goes wrong with it harms no other one."""
        errand = Errand(token, letter, relay, held, slot)
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
        await first_of(self._settler.open, self._stopping)
        return not self._stopping.is_set()

    # --- one letter ------------------------------------------------------------------------------

    async def _handle(self, errand: Errand) -> None:
        token, letter = errand.token, errand.letter
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
            errand.results = dict.fromkeys(letter.pending, refused)
            self._finish(errand)
            return
        try:
            if letter.mail:
                await self._send_mail(errand, self._composer.mail(letter))
            else:
                await self._send(errand)
        except ValueError as error:  # the message cannot be made
            self._end(errand, error)

    def _end(self, errand: Errand, error: ValueError) -> None:
        """No message can be made any more. Who has got one from an earlier attempt has it all the same."""
        letter = errand.letter
        if any(each.accepted for each in letter.recipients):
            errand.results = _refused(letter.pending, error)
            self._finish_if_ours(errand)
        else:
            self._settle(errand.token, as_error(letter, str(error)))

    async def _send_mail(self, errand: Errand, mail: Mail) -> None:
        """Send a letter with further keys, once its template and its attachments are at hand."""
        errand.mail = mail
        if mail.personal:
            errand.size = 1
            if mail.pin and not await self._template(errand):
                return
        if not mail.attachments or self._blobs is None:
            await self._send(errand)
            return
        taken = await self._attachments(self._blobs, errand, mail)
        if taken is None:
            return
        errand.contents = taken.contents
        try:
            await self._send(errand)
        finally:
            errand.contents = NO_CONTENTS  # a letter that is weighed may wait for long
            self._blobs.give_back(taken)

    async def _attachments(self, blobs: BlobCache, errand: Errand, mail: Mail) -> Taken | None:
        """What it carries; None where that cannot be read now: it is put off, and no attempt is counted."""
        try:
            return await blobs.take(mail.refs)
        except Unavailable as error:
            text = f"its attachments cannot be read now: {error}"
        self._put_off(errand, text)
        return None

    async def _template(self, errand: Errand) -> bool:
        """Have at hand what a personal letter is made of; False where it ends, or is put off, without it."""
        try:
            errand.filling = await self._composer.filling(errand.letter)
        except Unavailable as error:
            self._put_off(errand, f"its template cannot be read now: {error}")
            return False
        except ValueError as error:  # what others got of it before they have
            errand.results = _refused(errand.left, error)
            self._finish_if_ours(errand)
            return False
        return True

    def _put_off(self, errand: Errand, text: str) -> None:
        unread = Result(verdict=Verdict.DEFERRED, phase=Phase.DATA, text=text)
        errand.results = dict.fromkeys(errand.left, unread)
        errand.idle = set(errand.left)
        errand.pause = UNREAD
        self._finish_if_ours(errand)

    async def _send(self, errand: Errand) -> None:
        """Carry the letter's open recipients, in as many transactions as it takes."""
        letter = errand.letter
        while errand.left:
            if not await self._equipped(errand):
                errand.short = True
                break
            part = errand.left[: min(errand.size, errand.room)]
            try:
                said = await self._transact(errand, part)
            except Exception as error:  # noqa: BLE001  looked at, and raised where it has to be
                if self._ends(errand, part, error):
                    break
                continue
            if not self._take_in(errand, part, said):
                break
            if errand.left and not await self._write_down(errand, part):
                break
        if self._in_flight.token(letter.id) != errand.token and not errand.results:
            return  # lost meanwhile, and nothing was sent
        if errand.doubtful:
            self._judge.weigh_later(errand)
        elif errand.results:
            self._finish(errand)
        else:
            self._settler.release(errand.token, [letter.id])

    def _ends(self, errand: Errand, part: tuple[str, ...], error: Exception) -> bool:
        """Whether a letter ends here for what was raised; raises it where nothing was sent yet."""
        if isinstance(error, OnePersonsFault):
            errand.results |= _refused(part, error)
            errand.left = errand.left[len(part) :]
            return False
        if not errand.results:
            raise error
        self._refuse_the_rest(errand, error)
        return True

    def _refuse_the_rest(self, errand: Errand, error: Exception) -> None:
        """What earlier slices came to stays true; the others end here, with the reason."""
        log.error("slice_raised", letter=errand.letter.id, exc_info=error, action="the others are refused")
        errand.results |= _refused(errand.left, error)

    def _take_in(self, errand: Errand, part: tuple[str, ...], said: Said | None) -> bool:
        """Note what one transaction came to; whether to go on with the letter."""
        if said is None:
            errand.short = True
            return False
        errand.left = errand.left[len(part) :]
        if said.good:
            errand.results |= said.results
            errand.taken = True
            return True
        if self._means.cut:
            errand.results |= said.results
            return False
        letter = errand.letter
        known = _known(self._composer.mail(letter), errand.relay.policy.reverse_path) if letter.mail else ()
        return self._judge.judge(errand, part, said, known)

    async def _write_down(self, errand: Errand, part: tuple[str, ...]) -> bool:
        """Have the outcomes of `part` written; False when the letter is lost, or it is time to stop.

        Only then comes the next transaction: a process that dies in a large letter sends one of them again.
        """
        letter = errand.letter
        changed = progress(
            letter.recipients, errand.places_of(part), self._attempt(errand), self._route.retry
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
        """One transaction; None when it could not begin, or was given up before its dot."""
        mail = self._composer.mail(errand.letter) if errand.letter.mail else None
        own = mail.reverse_path if mail is not None else ""
        envelope = Envelope(
            reverse_path=own or errand.relay.policy.reverse_path,
            recipients=part,
            terms=None if mail is None else mail.terms,
        )
        while True:
            if not await self._equipped(errand):
                return None
            if mail is None:
                message = self._composer.compose(
                    errand.letter, eight_bit=errand.session.supports_8bit, date=self._now()
                )
            else:
                if mail.personal:
                    await asyncio.sleep(0)  # thousands are made, and each time others have their turn
                message = self._composer.compose(
                    errand.letter,
                    eight_bit=errand.session.supports_8bit,
                    smtputf8=errand.session.supports_smtputf8,
                    date=self._now(),
                    person=part[0] if mail.personal else "",
                    contents=errand.contents,
                    filling=errand.filling,
                )
            held, slot = errand.take()
            permit = Permit(
                self._means,
                token=errand.token,
                letter_id=errand.letter.id,
                runs=errand.runs(part),
                recipients=part,
                relay=errand.relay.address,
                slot=slot,
                held=held,
            )
            said = await self._carry(errand.relay, held, envelope, message, permit)
            if permit.denied:
                return None
            if said is not None:
                return said
            if permit.lost or self._means.cut:
                return None
            # Else the slot lapsed while we got ready, or the session had ended: try again.

    async def _equipped(self, errand: Errand) -> bool:
        """Whether there is a session, and a slot whose moment has come; False: not now."""
        relay = errand.relay
        while True:
            try:
                if errand.held is None:
                    errand.held = relay.pool.at_once() or await relay.pool.place(wait=False)
                if errand.slot is None:
                    errand.slot = relay.limiter.at_once() or await relay.limiter.acquire()
            except (NoSlots, Stopped, RelayAway):
                return False
            if errand.slot is not UNLIMITED:
                await self._come(errand.slot)
            if self._settler.open.is_set():
                return not self._stopping.is_set()
            # The slot was a while ahead, and outcomes could not be written any more: it lapses instead.
            errand.slot = None
            if not await self._may_begin():
                return False

    async def _carry(
        self,
        relay: Relay,
        held: Held,
        envelope: Envelope,
        message: bytes | tuple[bytes, ...],
        permit: Permit,
    ) -> Said | None:
        """One transaction over a session, which is closed when it was the last; None: nothing came of it."""
        since = relay.refusals.number
        relay.pool.begin(held)
        try:
            outcome = await held.session.transact(envelope, message, permit)
        except NotBegun:
            outcome = None
        except BaseException:
            relay.pool.leave(held, usable=False)
            raise
        if outcome is None:
            relay.pool.leave(held)
            return None
        good, some, carried = True, False, held.taken > 0
        for each in outcome.results.values():
            if each.verdict is Verdict.ACCEPTED:
                some = True
            else:
                good = False
        if good:
            relay.accepted += len(outcome.results)
        else:
            relay.count(outcome.results.values())
        if some:
            held.taken += 1
            if relay.uneasy:
                relay.took(max(since, held.refused))
        relay.pool.leave(held, usable=outcome.session_usable)
        return Said(outcome.results, held, good=good, carried=carried)

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
            relay=errand.relay.address,
            message_id=self._composer.message_id(errand.letter),
            cut=self._means.cut or stopped,
            idle=errand.idle,
            pause=errand.pause,
        )

    def _finish(self, errand: Errand) -> None:
        attempt, letter = self._attempt(errand), errand.letter
        moved, delay = after_attempt(letter, attempt, self._route.retry, jitter=self._chance.random())
        refusals = errand.relay.refusals
        if refusals.numbers and moved.status.final:
            refusals.settled(letter.id)
        self._settle(errand.token, moved, delay)
        self._log(moved, delay, attempt.results)

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


def _known(mail: Mail, service: str) -> tuple[When, ...]:
    """What is so of a letter that says more in MAIL than others do, or is from others than `service`."""
    known: list[When] = []
    others = [key for key, each in mail.senders if service not in {each.wire, each.text}]
    if "ReversePath" in others:
        known.append(When.OWN_PATH)
    if "ReversePath" in others or mail.terms is not None:
        known.append(When.OWN)
    if mail.require_tls:
        known.append(When.TLS)
    if others:
        known.append(When.OWN_SENDER)
    return tuple(known)


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
