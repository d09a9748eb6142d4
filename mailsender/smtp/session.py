"""The dialogue with a relay: what is said when, and which letter and step each reply belongs to.

It is our own, not the library's, because everything turns on knowing *when* a connection was lost:
before the dot nothing was sent, after it nobody knows.

Where the relay offers PIPELINING (RFC 2920) one write carries a message, its dot and the next letter's MAIL,
RCPT … and DATA, which has to be the last of its group (§3.1). So a letter costs one round trip. At most one
letter is after its dot, and at most one more has been spoken of, at any time. Without the extension one
command is said at a time; what a reply means is the same.

Everything happens in turns: a packet's replies are taken (`SmtpSession.take`), those who waited for them go
on and ask for more, then what may be said is written (`SmtpSession._proceed`). So the next letter is there
when the message before it goes out, and the relay finds what all sessions have to say at one waking.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.model.ports import Clock, NotBegun, Permit
from mailsender.smtp.channel import Channel, Lost
from mailsender.smtp.patience import Patience
from mailsender.smtp.pipelining import Pipelining
from mailsender.smtp.plan import Offers, plan, stuffed
from mailsender.smtp.replies import Kind, Reply
from mailsender.smtp.transaction import VERDICTS, Transaction

PROBE_AFTER = 3.0
"""Seconds of idling after which a session is asked whether it is still there."""

PROBE_TIMEOUT = 5.0
"""Seconds that the answers to NOOP and QUIT may take: no letter depends on them."""

ONE_WRITE = 16 * 1024
"""Octets up to which message and dot go out together: they fit into any socket's buffer."""

# RFC 5321 §4.2.1: a second digit of 2 speaks of the transmission channel. Behind the dot none of these says
# that the message was taken: they answer a connection, or QUIT.
_OF_THE_CHANNEL = frozenset(range(220, 230))
_CLOSING = 421  # RFC 5321 §3.8: the relay closes the connection, whatever was asked
_BAD_SEQUENCE = 503
_DATA = b"DATA\r\n"
_DOT = b".\r\n"
_RSET = b"RSET\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that each step may take; the defaults are those of RFC 5321 §4.5.3.2."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0
    dot: float = 600.0


@dataclass(slots=True, eq=False)
class _Question:
    """A command beside all transactions; whoever asked waits for `answer`, for at most `seconds`."""

    answer: asyncio.Future[Reply]
    seconds: float


_Step = tuple[Phase, bytes, Transaction | _Question, str]
"""A command, what its reply is about, and for which recipient. A plain tuple, for a letter takes five."""


class SmtpSession:
    """See `mailsender.model.ports.Session`. All sessions with a relay share `pipelining` and `patience`."""

    def __init__(  # noqa: PLR0917  what a session is made of, once
        self,
        channel: Channel,
        offers: Offers,
        timeouts: Timeouts,
        clock: Clock,
        pipelining: Pipelining | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._offers = offers
        self._pipelining = pipelining or Pipelining("", clock)
        self._timeouts = timeouts
        self._dots = patience or Patience("", timeouts.dot)
        self._dot_wait = timeouts.dot
        self._patience = {
            Phase.MAIL: timeouts.command,
            Phase.RCPT: timeouts.command,
            Phase.RSET: timeouts.command,
            Phase.DATA: timeouts.data,
        }
        self._clock = clock
        self._used = clock.monotonic()
        self._carried = False
        self._queue: deque[Transaction] = deque()  # not begun
        self._live: list[Transaction] = []  # begun and not finished, the earliest first
        self._front: Transaction | None = None  # the last one begun, while it is before its dot
        self._streaming = False  # its message is on its way, in blocks
        self._proceeding = False  # in this turn, after those who wait
        self._unsaid: deque[_Step] = deque()
        self._owed: deque[_Step] = deque()
        self._answered = 0  # how many steps were answered: the number of the one that is owed next
        self._watched: int | None = None  # the number of the step that the deadline is for
        channel.listen(self)

    def accepts_8bit(self) -> bool:
        """See `Session`."""
        return self._offers.eight_bit

    @property
    def depth(self) -> int:
        """See `Session`."""
        return 2 if self._speaks_ahead else 1

    @property
    def _speaks_ahead(self) -> bool:
        """Whether commands are sent ahead of their replies."""
        return self._offers.pipelining and self._pipelining.works

    async def transact(self, envelope: Envelope, message: bytes, permit: Permit) -> Outcome:
        """See `Session`.

        Raises:
            NotBegun: see `Session`.
            ValueError: `message` holds a bare CR or LF.
        """
        said = plan(envelope, message, self._offers)
        if not said.rcpts:
            return Outcome(results=said.results, session_usable=self._channel.alive)
        done = self._loop.create_future()
        transaction = Transaction(said=said, message=message, permit=permit, done=done)
        self._queue.append(transaction)
        self.heard()
        try:
            await done
        except asyncio.CancelledError:
            self._give_up(transaction)
            raise
        results = transaction.results
        return Outcome(
            results={recipient: results[recipient] for recipient in envelope.recipients},
            session_usable=self._channel.alive,
        )

    def _give_up(self, transaction: Transaction) -> None:
        if transaction in self._queue:
            self._queue.remove(transaction)
        elif transaction in self._live:
            self._channel.fail("the wait for the relay's answer was given up")  # it may come yet, out of turn

    # --- what is said ----------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """See `Listener`."""
        return bool(self._owed)

    def heard(self) -> None:
        """See `Listener`."""
        if not self._proceeding:
            self._proceeding = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._proceeding = False
        self._safely(self._proceed)

    def _safely(self, step: Callable[[], None]) -> None:
        """A fault of our own ends the session, or those who wait would wait for ever."""
        try:
            step()
        except Exception as error:
            self._channel.fail(f"internal error in the dialogue ({type(error).__name__})")
            raise

    def _proceed(self) -> None:
        """Write all that may be said, in one go."""
        if not self._channel.alive:
            self._dismiss()
            return
        if self._streaming:
            return
        out: list[bytes] = []
        front = self._front
        if front is not None and front.at_message and not self._end_message(front, out):
            return
        self._begin_next()
        self._say(out)
        if out:
            self._channel.write(b"".join(out))
        self._watch()

    def _end_message(self, front: Transaction, out: list[bytes]) -> bool:
        """The message and its dot; False when it has to be streamed first, or may not be ended."""
        if front.void or not front.waiting:
            # 354 without a recipient: RFC 2920 §3.1 wants the lone dot, whose reply counts for nobody.
            if front.void and front.some_taken:
                # It took recipients without our MAIL: the lone dot would send them an empty message.
                self._channel.fail("the relay takes recipients of a transaction that it refused")
                return False
            front.void = True
            self._dot(front, _DOT, out)
            return True
        body = stuffed(front.message)
        if len(body) <= ONE_WRITE:
            return self._ask_and_dot(front, body + _DOT, out)
        self._streaming = True
        self._channel.stream(body, self._timeouts.block, partial(self._safely, self._streamed))
        return False

    def _streamed(self) -> None:
        """All of a large message is with the relay: permission for its end is asked now, not before."""
        self._streaming = False
        out: list[bytes] = []
        front = self._front
        if front is None or not self._ask_and_dot(front, _DOT, out):
            return
        self._begin_next()
        self._say(out)
        self._channel.write(b"".join(out))
        self._watch()

    def _ask_and_dot(self, front: Transaction, last: bytes, out: list[bytes]) -> bool:
        # A connection that is lost from here on counts as lost after the dot.
        if not self._channel.alive:
            return False
        if not front.permit.dot():
            self._channel.fail("given up before the end of the message was sent")
            return False
        front.phase = Phase.DOT
        self._dot(front, last, out)
        return True

    def _dot(self, front: Transaction, last: bytes, out: list[bytes]) -> None:
        self._front = None
        front.at_message = False
        self._owed.append((Phase.DOT, last, front, ""))
        out.append(last)

    def _begin_next(self) -> None:
        """Begin the next transaction where the dialogue has room for it and it is allowed to."""
        while self._queue and self._front is None and (self._speaks_ahead or not self._live):
            transaction = self._queue.popleft()
            if not transaction.permit.begin():
                self._refuse(transaction)
                continue
            transaction.follows, self._carried = self._carried, True
            transaction.ahead = self._speaks_ahead
            transaction.behind_dot = transaction.ahead and bool(self._live)
            self._live.append(transaction)
            self._front = transaction
            said, unsaid = transaction.said, self._unsaid
            unsaid.append((Phase.MAIL, said.mail, transaction, ""))
            for recipient, command in said.rcpts.items():
                unsaid.append((Phase.RCPT, command, transaction, recipient))
            unsaid.append((Phase.DATA, _DATA, transaction, ""))

    def _say(self, out: list[bytes]) -> None:
        unsaid, owed = self._unsaid, self._owed
        if self._speaks_ahead:
            owed.extend(unsaid)
            out.extend([step[1] for step in unsaid])
            unsaid.clear()
        elif unsaid and not owed:
            owed.append(unsaid.popleft())
            out.append(owed[0][1])

    def _watch(self) -> None:
        """Set the deadline of the reply that is due next, once for each."""
        due = self._answered if self._owed else None
        if due != self._watched:
            self._watched = due
            self._channel.due(None if due is None else self._seconds_for(self._owed[0]))

    def _seconds_for(self, step: _Step) -> float:
        phase, _, about, _ = step
        if isinstance(about, _Question):
            return about.seconds
        if phase is Phase.DOT:
            self._dot_wait = self._dots.dot
            return self._dot_wait
        seconds = self._patience[phase]
        if self._pipelining.trusted or not about.ahead:
            return seconds
        return self._pipelining.patience(seconds, behind_dot=about.behind_dot)

    # --- what is heard ---------------------------------------------------------------------------

    def take(self, reply: Reply) -> None:
        """See `Listener`."""
        if not self._owed:
            self._channel.fail(f"the relay said, unasked: {reply}", reply)
            return
        phase, _, about, recipient = self._owed[0]
        if isinstance(about, _Question):
            self._owed.popleft()
            self._answered += 1
            if not about.answer.done():
                about.answer.set_result(reply)
            return
        wanted = Kind.INTERMEDIATE if phase is Phase.DATA else Kind.COMPLETED
        if reply.kind is not wanted or reply.code in _OF_THE_CHANNEL:
            if reply.kind < Kind.TRANSIENT:
                self._channel.fail(f"the relay answered {reply.code} where that has no meaning", reply)
                return
            if reply.code == _CLOSING and phase is not Phase.DOT:
                self._channel.fail(f"the relay ends the session: {reply}", reply)
                return
        self._owed.popleft()
        self._answered += 1
        _TAKE[phase](self, about, recipient, reply)

    def _mail(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if reply.kind is Kind.COMPLETED:
            transaction.phase = Phase.RCPT
        elif reply.code == _BAD_SEQUENCE and transaction.behind_refused:
            # The relay holds on to the refused transaction before this one; RSET is what it takes.
            transaction.out_of_step = transaction.void = True
        else:
            transaction.settle_all(reply)
            transaction.void = True
        transaction.heard = True
        self._skip_when_void(transaction)

    def _rcpt(self, transaction: Transaction, recipient: str, reply: Reply) -> None:
        if reply.kind is Kind.COMPLETED:
            transaction.some_taken = True
        elif not transaction.void:
            transaction.settle(recipient, reply)
        following = self._owed or self._unsaid
        if following and following[0][0] is Phase.DATA and not transaction.void:
            if transaction.waiting:
                transaction.phase = Phase.DATA
            else:
                self._skip_when_void(transaction)

    def _skip_when_void(self, transaction: Transaction) -> None:
        """Say no more of a transaction that is over; what was said already is still answered."""
        over = transaction.void or not transaction.waiting
        if over and self._unsaid and self._unsaid[0][2] is transaction:
            self._unsaid.clear()
            transaction.void = True
            self._front = None
            self._reset(transaction)

    def _data(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if reply.kind is Kind.INTERMEDIATE:
            transaction.at_message = True
            return
        if not transaction.out_of_step:
            transaction.settle_all(reply)
        self._front = None
        self._reset(transaction)

    def _dotted(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if not transaction.void:
            transaction.settle_all(reply)
            transaction.permit.replied(transaction.results)
        if reply.code == _CLOSING:
            self._channel.fail(f"the relay ends the session: {reply}", reply)
        elif reply.kind is Kind.COMPLETED and not transaction.void:
            self._finish(transaction)
        elif self._front is None:
            self._reset(transaction)
        else:
            # The next one was spoken of already: a RSET now would be the end of that one.
            self._front.behind_refused = True
            self._finish(transaction)

    def _reset(self, transaction: Transaction) -> None:
        """Clear what a refused transaction left behind, so that it cannot poison the next one."""
        self._unsaid.append((Phase.RSET, _RSET, transaction, ""))

    def _was_reset(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if reply.kind is not Kind.COMPLETED:
            self._channel.fail(f"the relay refused RSET: {reply}", reply)
        else:
            self._finish(transaction)

    # --- how it ends -----------------------------------------------------------------------------

    def _finish(self, transaction: Transaction) -> None:
        self._live.remove(transaction)
        self._used = self._clock.monotonic()
        if transaction.ahead and not self._pipelining.trusted:
            self._pipelining.worked(behind_dot=transaction.behind_dot)
        if transaction.out_of_step:
            self._refuse(transaction)
        elif not transaction.done.done():
            transaction.done.set_result(None)

    def _refuse(self, transaction: Transaction) -> None:
        if not transaction.done.done():
            transaction.done.set_exception(NotBegun())

    def lost(self, lost: Lost) -> None:
        """See `Listener`."""
        if lost.late and self._owed:
            self._doubt_pipelining()
            if self._owed[0][0] is Phase.DOT:
                self._dots.overdue(self._dot_wait)
        owed, live = list(self._owed), list(self._live)
        self._owed.clear()
        self._unsaid.clear()
        self._live.clear()
        self._front, self._streaming = None, False
        for _, _, about, _ in owed:
            if isinstance(about, _Question) and not about.answer.done():
                about.answer.set_exception(lost)
        for transaction in live:
            if not transaction.judged:
                self._refuse(transaction)
                continue
            transaction.lost(lost)
            if not transaction.done.done():
                transaction.done.set_result(None)
        self._dismiss()

    def _doubt_pipelining(self) -> None:
        """An answer took too long: if anything was sent ahead, that may be why, and no letter's fault."""
        phase, command, about, _ = self._owed[0]
        if isinstance(about, _Question) or not about.ahead:
            return
        if phase is Phase.DOT and (len(self._owed) == 1 or self._pipelining.trusted):
            return  # nothing came behind it, or what does is known to arrive: the relay is slow
        self._pipelining.failed("the dot" if phase is Phase.DOT else command.split(b":")[0].decode().strip())
        for transaction in self._live:
            if transaction.waiting and transaction.phase is not Phase.DOT:
                transaction.out_of_step = True

    def _dismiss(self) -> None:
        """Send away those who had not begun when the connection was lost.

        A session that never carried anything would be replaced by another one like it without end: there the
        first letter is told what happened.
        """
        while self._queue:
            transaction = self._queue.popleft()
            if self._carried:
                self._refuse(transaction)
                continue
            self._carried = True
            transaction.lost(self._channel.fault)
            if not transaction.done.done():
                transaction.done.set_result(None)

    # --- between transactions --------------------------------------------------------------------

    @property
    def warm(self) -> bool:
        """See `Session`."""
        return self._channel.alive and (
            bool(self._live) or self._clock.monotonic() - self._used <= PROBE_AFTER
        )

    async def ready(self) -> bool:
        """See `Session`."""
        if self._channel.alive and not self.warm:
            try:
                await self._ask_shortly(b"NOOP\r\n")
            except Lost:
                return False
            self._used = self._clock.monotonic()
        return self._channel.alive

    async def try_sender(self, reverse_path: str, recipient: str = "") -> Result:
        """See `Session`."""
        # Without a message there is no size to declare, and a recipient it needs to get a result.
        whom = recipient or reverse_path
        envelope = Envelope(reverse_path=reverse_path, recipients=(whom,))
        said = plan(envelope, b"", replace(self._offers, sizes=False))
        if not said.rcpts:
            return said.results[whom]
        result = await self._try(Phase.MAIL, said.mail)
        if recipient and result.verdict is Verdict.ACCEPTED:
            result = await self._try(Phase.RCPT, said.rcpts[recipient])
        if self._channel.alive:
            with suppress(Lost):  # the answer stands; that the session is over shows in its state
                await self._ask_shortly(_RSET)
        return result

    async def _try(self, phase: Phase, command: bytes) -> Result:
        try:
            reply = await self._ask(command, self._timeouts.command)
            if reply.code == _CLOSING or reply.kind is Kind.INTERMEDIATE:
                self._channel.fail(f"the relay answered {reply}", reply)
                raise self._channel.fault
        except Lost as lost:
            code = lost.reply.code if lost.reply else None
            return Result(verdict=Verdict.DEFERRED, phase=phase, code=code, text=str(lost))
        return Result(
            verdict=VERDICTS[reply.kind],
            phase=phase,
            code=reply.code,
            enhanced=reply.enhanced,
            text=reply.text,
        )

    async def _ask_shortly(self, command: bytes) -> None:
        reply = await self._ask(command, min(PROBE_TIMEOUT, self._timeouts.command))
        if reply.kind is not Kind.COMPLETED:
            self._channel.fail(f"the relay answered {reply}", reply)

    async def _ask(self, command: bytes, seconds: float) -> Reply:
        """Ask beside all transactions and wait for the answer.

        Raises:
            Lost: there will be none; the connection is closed.
        """
        if not self._channel.alive:
            raise self._channel.fault
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._owed.append((Phase.RSET, command, _Question(answer, seconds), ""))
        self._channel.write(command)
        self._watch()
        try:
            return await answer
        except asyncio.CancelledError:
            self._channel.fail("the wait for the relay's answer was given up")  # it may come yet, out of turn
            raise

    def abort(self) -> None:
        """See `Session`."""
        self._channel.fail("the session was cut off here")

    async def close(self) -> None:
        """See `Session`."""
        if self._channel.alive and not self._live:
            with suppress(Lost):  # it was to end anyway
                await self._ask_shortly(b"QUIT\r\n")
        await self._channel.close()


_TAKE: dict[Phase, Any] = {
    Phase.MAIL: SmtpSession._mail,  # noqa: SLF001  a table of the class's own methods
    Phase.RCPT: SmtpSession._rcpt,  # noqa: SLF001  as above
    Phase.DATA: SmtpSession._data,  # noqa: SLF001  as above
    Phase.DOT: SmtpSession._dotted,  # noqa: SLF001  as above
    Phase.RSET: SmtpSession._was_reset,  # noqa: SLF001  as above
}
