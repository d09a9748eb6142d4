"""SMTP transactions as a client speaks them: what is said when, and which letter and step a reply belongs to.

Pure: it knows no loop, no transport and no clock. It is our own, not the library's, because everything turns
on knowing *when* a connection was lost: before the dot nothing was sent, after it nobody knows.

Where the relay offers PIPELINING (RFC 2920) one write carries a message, its dot and the next letter's MAIL,
RCPT … and DATA, which has to be the last of its group (§3.1). So a letter costs one round trip. At most one
letter is after its dot, and at most one more has been spoken of, at any time. Without the extension one
command is said at a time; what a reply means is the same.

Whatever breaks the order of question and answer ends the session: a stream that is out of step can pin one
recipient's answer on another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mailsender.model.letter import Phase
from mailsender.smtp.commands import Offers, on_the_wire
from mailsender.smtp.learned import Learned
from mailsender.smtp.pieces import Pieces
from mailsender.smtp.replies import Kind, Reply, ReplyError, ReplyParser
from mailsender.smtp.transaction import End, Transaction

ONE_WRITE = 16 * 1024
"""Octets of a message up to which it and its dot go out together: they fit into any socket's buffer."""

BLOCK = 256 * 1024
"""Octets of a larger one that go out at a time; the block time-out is for each (RFC 5321 §4.5.3.2.5)."""

# RFC 5321 §4.2.1: a second digit of 2 speaks of the transmission channel. Behind the dot none of these says
# that the message was taken: they answer a connection, or QUIT.
_OF_THE_CHANNEL = frozenset(range(220, 230))
_CLOSING = 421  # RFC 5321 §3.8: the relay closes the connection, whatever was asked
_BAD_SEQUENCE = 503
_DATA = b"DATA\r\n"
_DOT = b".\r\n"
_RSET = b"RSET\r\n"
_NOTHING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that each step may take; the defaults are those of RFC 5321 §4.5.3.2."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0
    dot: float = 600.0


class Question:
    """A command beside all transactions, whose answer may take `seconds`; without one `reply` stays None."""

    __slots__ = ("command", "reply", "seconds", "waiter")

    def __init__(self, command: bytes, seconds: float, waiter: Any = None) -> None:
        self.command = command
        self.seconds = seconds
        self.waiter = waiter
        self.reply: Reply | None = None


_Step = tuple[Phase, bytes, Transaction | Question, str]
"""A command, what its reply is about, and for which recipient. A plain tuple, for a letter takes five."""


class Dialogue:
    """A session with a relay that is ready for mail, as octets and what they mean.

    `submit` asks for a transaction, `output` is what may be written now, `receive` takes what has come,
    `tick` the time, and `end` tells that the connection is over. What follows stands in fields: `done` are
    the transactions and questions that are through, for the caller to take out; `over` is why the session is
    over, None while it is not; `deadline` is when `tick` wants to be called, None where nothing is due. `now`
    is in seconds on any clock that never goes back.

    Of a large message `output` gives one block after the other; `streaming` says that more of it is to be
    asked for once the transport has taken this one.
    """

    __slots__ = (
        "_answered",
        "_begun",
        "_blocks",
        "_carried",
        "_front",
        "_learned",
        "_next",
        "_offers",
        "_owed",
        "_parser",
        "_queue",
        "_sent",
        "_timeouts",
        "_unsaid",
        "_wait",
        "_watched",
        "deadline",
        "done",
        "over",
        "streaming",
    )

    def __init__(self, offers: Offers, timeouts: Timeouts, learned: Learned) -> None:
        self._offers = offers
        self._timeouts = timeouts
        self._learned = learned
        self._parser = ReplyParser()
        self._carried = False
        self._queue: deque[Transaction] = deque()  # not begun
        self._begun: list[Transaction] = []  # and not finished, the earliest first
        self._front: Transaction | None = None  # the last one begun, while it is before its dot
        self._sent = 0  # how much of its message is written, where that is a large one
        self._blocks: Iterator[bytes | memoryview] | None = None  # what is left of one in pieces
        self._next: bytes | memoryview | None = None  # the first of them
        self._unsaid: deque[_Step] = deque()
        self._owed: deque[_Step] = deque()
        self._answered = 0  # how many steps were answered: the number of the one that is owed next
        self._watched = _NOTHING  # the number of the step that the deadline is for
        self._wait = 0.0  # seconds that it is given
        self.deadline: float | None = None
        self.done: deque[Transaction | Question] = deque()
        self.over: End | None = None
        self.streaming = False

    @property
    def pipelining(self) -> bool:
        """Whether commands are sent ahead of their replies."""
        return self._offers.pipelining and self._learned.pipelining

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way."""
        return bool(self._begun)

    # --- what is asked for -----------------------------------------------------------------------

    def submit(self, transaction: Transaction) -> None:
        """Carry a transaction, behind those that were asked for before."""
        self._queue.append(transaction)

    def withdraw(self, asked: Transaction | Question) -> None:
        """Nobody waits for it any more. Where it was said already its answer may come yet, out of turn."""
        if isinstance(asked, Transaction) and asked in self._queue:
            self._queue.remove(asked)
        elif isinstance(asked, Question) or asked in self._begun:
            self.end("the wait for the relay's answer was given up")

    def ask(self, question: Question, now: float) -> bytes:
        """What to write to ask something while no transaction is under way.

        Raises:
            RuntimeError: one is: behind its DATA the question would be a line of the message.
        """
        if self._begun:
            raise RuntimeError("nothing may be asked while a transaction is under way")
        self._owed.append((Phase.RSET, question.command, question, ""))
        self._watch(now)
        return question.command

    # --- what is said ----------------------------------------------------------------------------

    def output(self, now: float) -> bytes | memoryview:
        """All that may be written now, in one go, or the next block of a large message.

        A dot counts as written from here on: a connection that is lost now is lost after it.
        """
        if self.over is not None:
            self._dismiss()
            return b""
        out: list[bytes] = []
        front = self._front
        if front is not None and front.message_wanted:
            if self._has_block(front):
                return self._block(front, now)
            if not self._end_message(front, out):
                return b""
        self._begin_next()
        self._say(out)
        self._watch(now)
        return out[0] if len(out) == 1 else b"".join(out)

    def _has_block(self, front: Transaction) -> bool:
        """Whether the message has to be streamed further before its end."""
        message = front.message
        if isinstance(message, Pieces):
            return not front.abandoned and bool(front.waiting) and self._has_piece(message)
        size = len(message)
        return size > ONE_WRITE and self._sent < size and not front.abandoned and bool(front.waiting)

    def _has_piece(self, message: Pieces) -> bool:
        if self._blocks is None:
            self._blocks = message.blocks_on_the_wire(BLOCK)
        if self._next is None:
            self._next = next(self._blocks, None)
        return self._next is not None

    def _block(self, front: Transaction, now: float) -> bytes | memoryview:
        start = self._sent
        self._sent += BLOCK
        self.streaming = True
        self._wait = self._timeouts.block
        self.deadline, self._watched = now + self._wait, _NOTHING
        message, piece = front.message, self._next
        if isinstance(message, Pieces):
            self._next = None
            return piece or b""
        return on_the_wire(message, start, self._sent)

    def _end_message(self, front: Transaction, out: list[bytes]) -> bool:
        """The dot, behind the message where that is a small one; False when it may not be ended.

        Of a large one all is with the relay: permission for its end is asked now, not before.
        """
        self.streaming = False
        if front.abandoned or not front.waiting:
            # 354 without a recipient: RFC 2920 §3.1 wants the lone dot, whose reply counts for nobody.
            if front.behind_refused or (front.abandoned and front.recipients_taken):
                # It may have recipients all the same, those of the letter before or some without our MAIL:
                # the lone dot would send them an empty message.
                self.end("the relay takes recipients of a transaction that it refused")
                return False
            front.abandoned = True
        elif not front.permit.dot():
            self.end("given up before the end of the message was sent")
            return False
        else:
            front.phase = Phase.DOT
            if not self._sent and isinstance(front.message, bytes):
                out.append(bytes(on_the_wire(front.message, 0, ONE_WRITE)))
        out.append(_DOT)
        self._owed.append((Phase.DOT, _DOT, front, ""))
        self._front, self._sent, self._blocks = None, 0, None
        front.message_wanted = False
        return True

    @property
    def _asks(self) -> bool:
        """Whether a question is open: behind NOOP nothing may be sent before its reply (RFC 2920 §3.1)."""
        return any(isinstance(step[2], Question) for step in self._owed)

    def _begin_next(self) -> None:
        """Begin the next transaction where the dialogue has room for it and it is allowed to."""
        if self._owed and not self._begun and self._asks:
            return
        while self._queue and self._front is None and (self.pipelining or not self._begun):
            transaction = self._queue[0]
            begins = transaction.permit.begin()
            self._queue.popleft()
            if not begins:
                self._refuse(transaction)
                continue
            transaction.not_first, self._carried = self._carried, True
            transaction.sent_ahead = self.pipelining
            transaction.behind_dot = transaction.sent_ahead and bool(self._begun)
            self._begun.append(transaction)
            self._front = transaction
            unsaid = self._unsaid
            unsaid.append((Phase.MAIL, transaction.mail, transaction, ""))
            for recipient, command in transaction.waiting.items():
                unsaid.append((Phase.RCPT, command, transaction, recipient))
            unsaid.append((Phase.DATA, _DATA, transaction, ""))

    def _say(self, out: list[bytes]) -> None:
        unsaid, owed = self._unsaid, self._owed
        if self.pipelining:
            owed.extend(unsaid)
            out.extend([step[1] for step in unsaid])
            unsaid.clear()
        elif unsaid and not owed:
            owed.append(unsaid.popleft())
            out.append(owed[0][1])

    # --- deadlines -------------------------------------------------------------------------------

    def _due(self) -> int:
        """The number of the step that is owed next."""
        return self._answered if self._owed else _NOTHING

    def _watch(self, now: float) -> None:
        """Set the deadline of the reply that is due next, once for each."""
        due = self._due()
        if due != self._watched:
            self._watched = due
            if due == _NOTHING:
                self.deadline = None
            else:
                self._wait = self._seconds_for(self._owed[0])
                self.deadline = now + self._wait

    def _seconds_for(self, step: _Step) -> float:
        phase, _, about, _ = step
        if isinstance(about, Question):
            return about.seconds
        if phase is Phase.DOT:
            return self._learned.dot
        seconds = self._timeouts.data if phase is Phase.DATA else self._timeouts.command
        if self._learned.proven or not about.sent_ahead:
            return seconds
        return self._learned.wait(seconds, behind_dot=about.behind_dot)

    def tick(self, now: float) -> None:
        """End the session where what is due has not come by its deadline."""
        if self.deadline is None or now < self.deadline or self._due() != self._watched:
            return
        if self.streaming:
            self.end(f"the relay took no data for {self._wait:g}s")
            return
        self._doubt_pipelining()
        if self._owed[0][0] is Phase.DOT:
            self._learned.dot_overdue(self._wait)
        self.end(f"the relay gave no answer within {self._wait:g}s")

    def _doubt_pipelining(self) -> None:
        """An answer took too long: if anything was sent ahead, that may be why, and no letter's fault."""
        phase, command, about, _ = self._owed[0]
        if isinstance(about, Question) or not about.sent_ahead:
            return
        if phase is Phase.DOT and (len(self._owed) == 1 or self._learned.proven):
            return  # nothing came behind it, or what does is known to arrive: the relay is slow
        self._learned.unanswered("the dot" if phase is Phase.DOT else command.split(b":")[0].decode().strip())
        for transaction in self._begun:
            if transaction.waiting and transaction.phase is not Phase.DOT:
                transaction.out_of_step = True

    # --- what is heard ---------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take what the relay sent, in whatever pieces."""
        if self.over is None:
            self._receive(data)

    # By itself, for mypy believes that `over` stays what it was seen to be, and compiled code believes mypy.
    def _receive(self, data: bytes) -> None:
        try:
            for reply in self._parser.feed(data):
                self._take(reply)
                if self.over is not None:
                    return
        except ReplyError as error:
            self.end(str(error))
            return
        if self._parser.midway and not self._owed:
            self.end("the relay spoke out of turn")

    def _take(self, reply: Reply) -> None:
        if not self._owed:
            self.end(f"the relay said, unasked: {reply}", reply)
            return
        phase, _, about, recipient = self._owed[0]
        if isinstance(about, Question):
            self._owed.popleft()
            self._answered += 1
            about.reply = reply
            self.done.append(about)
            return
        if about.secret:
            reply = reply.masked(about.secret)
        wanted = Kind.INTERMEDIATE if phase is Phase.DATA else Kind.COMPLETED
        if reply.kind is not wanted or reply.code in _OF_THE_CHANNEL:
            if reply.kind < Kind.TRANSIENT:
                self.end(f"the relay answered {reply.code} where that has no meaning", reply)
                return
            if reply.code == _CLOSING and phase is not Phase.DOT:
                self.end(f"the relay ends the session: {reply}", reply)
                return
        self._owed.popleft()
        self._answered += 1
        _TAKE[phase](self, about, recipient, reply)

    def _mail(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if reply.kind is Kind.COMPLETED:
            transaction.phase = Phase.RCPT
        elif reply.code == _BAD_SEQUENCE and transaction.behind_refused:
            # The relay holds on to the refused transaction before this one; RSET is what it takes.
            transaction.out_of_step = transaction.abandoned = True
        else:
            transaction.refuse_all(reply)
            transaction.abandoned = True
        transaction.answered = True
        self._skip_abandoned(transaction)

    def _rcpt(self, transaction: Transaction, recipient: str, reply: Reply) -> None:
        if reply.kind is Kind.COMPLETED:
            transaction.recipients_taken = True
        elif not transaction.abandoned:
            transaction.refuse(recipient, reply)
        following = self._owed or self._unsaid
        if following and following[0][0] is Phase.DATA and not transaction.abandoned:
            if transaction.waiting:
                transaction.phase = Phase.DATA
            else:
                self._skip_abandoned(transaction)

    def _skip_abandoned(self, transaction: Transaction) -> None:
        """Say no more of a transaction that is over; what was said already is still answered."""
        over = transaction.abandoned or not transaction.waiting
        if over and self._unsaid and self._unsaid[0][2] is transaction:
            self._unsaid.clear()
            transaction.abandoned = True
            self._front = None
            self._reset(transaction)

    def _data(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if reply.kind is Kind.INTERMEDIATE:
            transaction.message_wanted = True
            return
        if not transaction.out_of_step:
            transaction.refuse_all(reply)
        self._front = None
        self._reset(transaction)

    def _dotted(self, transaction: Transaction, _: str, reply: Reply) -> None:
        if not transaction.abandoned:
            transaction.settle_all(reply)
            transaction.permit.replied(transaction.results)
        if reply.code == _CLOSING:
            self.end(f"the relay ends the session: {reply}", reply)
        elif reply.kind is Kind.COMPLETED and not transaction.abandoned:
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
            self.end(f"the relay refused RSET: {reply}", reply)
        else:
            self._finish(transaction)

    # --- how it ends -----------------------------------------------------------------------------

    def _finish(self, transaction: Transaction) -> None:
        self._begun.remove(transaction)
        if transaction.sent_ahead and not self._learned.proven:
            self._learned.worked(behind_dot=transaction.behind_dot)
        transaction.not_begun = transaction.out_of_step
        self.done.append(transaction)

    def _refuse(self, transaction: Transaction) -> None:
        transaction.not_begun = True
        self.done.append(transaction)

    def end(self, why: str, reply: Reply | None = None) -> None:
        """The session is over, and with it all that is under way. The first reason stands."""
        if self.over is not None:
            return
        self.over = end = End(why, reply)
        self.deadline, self.streaming, self._front = None, False, None
        self._blocks = self._next = None
        self.done.extend([step[2] for step in self._owed if isinstance(step[2], Question)])
        self._owed.clear()
        self._unsaid.clear()
        for transaction in self._begun:
            if transaction.judged:
                transaction.lost(end)
            else:
                transaction.not_begun = True
            self.done.append(transaction)
        self._begun.clear()
        self._dismiss()

    def _dismiss(self) -> None:
        """Send away those who had not begun when the session was over.

        A session that never carried anything would be replaced by another one like it without end: there the
        first letter is told what happened.
        """
        while self._queue:
            transaction = self._queue.popleft()
            if self._carried or self.over is None:
                self._refuse(transaction)
                continue
            self._carried = True
            transaction.lost(self.over)
            self.done.append(transaction)


_TAKE: dict[Phase, Any] = {
    Phase.MAIL: Dialogue._mail,  # noqa: SLF001  a table of the class's own methods
    Phase.RCPT: Dialogue._rcpt,  # noqa: SLF001  as above
    Phase.DATA: Dialogue._data,  # noqa: SLF001  as above
    Phase.DOT: Dialogue._dotted,  # noqa: SLF001  as above
    Phase.RSET: Dialogue._was_reset,  # noqa: SLF001  as above
}
