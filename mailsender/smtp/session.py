"""A session with a relay on asyncio: a transport for `mailsender.smtp.protocol`, time, and those who wait.

The connection is made elsewhere (`mailsender.smtp.connect`); its transport is taken over once the relay is
ready for mail.

Everything happens in turns: a packet's replies are taken (`SmtpSession.data_received`), those who waited for
them go on and ask for more, then what may be said is written (`SmtpSession._go_on`). So the next letter is
there when the message before it goes out, and the relay finds what all sessions have to say at one waking.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

from mailsender.model.clock import Clock
from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.smtp.commands import Offers, plan
from mailsender.smtp.learned import Learned
from mailsender.smtp.pieces import Pieces
from mailsender.smtp.port import NotBegun, Permit
from mailsender.smtp.protocol import Dialogue, Question, Timeouts
from mailsender.smtp.replies import Kind, Reply
from mailsender.smtp.transaction import Transaction, result_of

PROBE_AFTER = 3.0
"""Seconds of idling after which a session is asked whether it is still there."""

PROBE_TIMEOUT = 5.0
"""Seconds that the answers to NOOP and QUIT may take: no letter depends on them."""

TOGETHER = 4
"""Writes that go out in one go at most: while a relay takes them, the next ones are made."""

LAST_WORDS = 2.0
"""Seconds for the relay to close its end after QUIT."""

_CLOSING = 421


class Writes:
    """What several sessions have to write in one turn of the loop, written in one go at the turn's end.

    A relay that is woken by the first write is still awake for the others: ten sessions took 142 µs a letter
    with smtp-sink instead of 165 (five runs each).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[SmtpSession, bytes]] = []

    def put(self, session: SmtpSession, data: bytes) -> None:
        """Write `data` to a session's relay soon, behind what was put before."""
        if not self._waiting:
            self._loop.call_soon(self._write)
        self._waiting.append((session, data))
        if len(self._waiting) >= TOGETHER:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for session, data in waiting:
            session.write(data)


class SmtpSession:
    """See `mailsender.smtp.port.Session`. All sessions with a relay share `learned` and `writes`.

    It has the methods of `asyncio.Protocol` and is none: compiled, its fields would lie in a dictionary then.
    """

    def __init__(  # noqa: PLR0917  what a session is made of, once
        self,
        transport: asyncio.Transport,
        offers: Offers,
        timeouts: Timeouts,
        clock: Clock,
        learned: Learned | None = None,
        writes: Writes | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._offers = offers
        self._timeouts = timeouts
        self._clock = clock
        self._writes = writes or Writes()
        self._dialogue = Dialogue(offers, timeouts, learned or Learned("", clock, timeouts.dot))
        self._used = clock.monotonic()
        secured = transport.get_extra_info("ssl_object")
        self.tls = "" if secured is None else str(secured.version() or "")  # see `Session`
        self._going_on = False  # in this turn, after those who wait
        self._paused = False
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        # With no slack `write` returns once all is in the hands of the kernel (under TLS, but for one
        # buffer): the dot does not wait behind a message that the relay is slow to read. It is 1, not
        # 0, because at 0 a TLS transport pauses its writer when its buffer is empty, for good.
        transport.set_write_buffer_limits(high=1, low=0)
        transport.set_protocol(cast("asyncio.BaseProtocol", self))
        if transport.is_closing():
            self._end("the relay closed the connection")
            self._gone.set_result(None)

    @property
    def supports_smtputf8(self) -> bool:
        """See `Session`."""
        return self._offers.smtputf8

    @property
    def supports_8bit(self) -> bool:
        """See `Session`."""
        return self._offers.eight_bit

    @property
    def pipeline_depth(self) -> int:
        """See `Session`."""
        return 2 if self._dialogue.pipelining else 1

    @property
    def alive(self) -> bool:
        """See `Session`.

        It looks at the transport, too: one that fails in `write` says nothing, swallows what follows and
        calls back only later. Without this look a dot would seem to have been sent.
        """
        if self._dialogue.over is None and self._transport.is_closing():
            self._end("the connection was lost")
        return self._dialogue.over is None

    async def transact(
        self, envelope: Envelope, message: bytes | tuple[bytes, ...], permit: Permit
    ) -> Outcome:
        """See `Session`.

        Raises:
            NotBegun: see `Session`.
            ValueError: `message` holds a bare CR or LF.
        """
        whole = message if isinstance(message, bytes) else Pieces(message)
        transaction = Transaction(envelope, whole, permit, self._offers)
        results = transaction.results
        if transaction.waiting:
            transaction.waiter = waiter = self._loop.create_future()
            self._dialogue.submit(transaction)
            self._go_on_soon()
            try:
                await waiter
            except asyncio.CancelledError:
                self._dialogue.withdraw(transaction)
                self._look()
                raise
            if transaction.not_begun:
                raise NotBegun
        return Outcome(
            results={recipient: results[recipient] for recipient in envelope.recipients},
            session_usable=self.alive,
        )

    # --- turns -----------------------------------------------------------------------------------

    def _go_on_soon(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Write all that may be said. A fault of our own ends the session, or some would wait for ever."""
        self._going_on = False
        try:
            self._say()
        except Exception as error:
            self._end(f"internal error in the dialogue ({type(error).__name__})")
            raise
        self._look()

    def _say(self) -> None:
        dialogue = self._dialogue
        while not (self._paused and dialogue.streaming):
            if dialogue.over is None and self._transport.is_closing():
                dialogue.end("the connection was lost")
            out = dialogue.output(self._loop.time())
            if not dialogue.streaming:
                if out:
                    self._writes.put(self, cast("bytes", out))
                return
            self._transport.write(out)

    def write(self, data: bytes) -> None:
        """Write `data` now, for `Writes`; what goes wrong is this session's alone."""
        if self._dialogue.over is None:
            try:
                self._transport.write(data)
            except Exception as error:  # noqa: BLE001  the others' turn comes all the same
                self._loop.call_exception_handler({"message": "a transport raised", "exception": error})
                self._end(f"internal error in writing ({type(error).__name__})")

    def _look(self) -> None:
        """Tell those who waited, and do what the dialogue wants: an end of the connection, or a deadline."""
        self._tell()
        if self._dialogue.over is not None:
            self._transport.abort()
            return
        deadline = self._dialogue.deadline
        # One timer serves all deadlines: it is moved only when the new one comes before it.
        if deadline is not None and (self._timer is None or self._timer.when() > deadline):
            self._stop_timer()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tell(self) -> None:
        dialogue = self._dialogue
        if dialogue.done:
            self._used = self._clock.monotonic()
            while dialogue.done:
                waiter = dialogue.done.popleft().waiter
                if not waiter.done():
                    waiter.set_result(None)
        if dialogue.over is not None:
            self._stop_timer()

    def _tick(self) -> None:
        self._timer = None
        self._dialogue.tick(self._loop.time())
        self._look()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, why: str) -> None:
        self._dialogue.end(why)
        self._look()

    # --- called by the transport -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._dialogue.receive(data)
        self._tell()
        if self._dialogue.over is None:
            self._go_on_soon()
        else:
            self._transport.abort()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._end("the relay closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(f"the connection was lost ({exc})" if exc else "the connection was lost")
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        if self._dialogue.streaming:
            self._go_on_soon()  # not here: transports call this in the middle of their own accounts

    # --- between transactions --------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """See `Session`."""
        return self.alive and (self._dialogue.busy or self._clock.monotonic() - self._used <= PROBE_AFTER)

    async def check_alive(self, *, ask: bool = False) -> bool:
        """See `Session`."""
        if self.alive and not self._dialogue.busy and (ask or not self.reusable):
            await self._ask_shortly(b"NOOP\r\n")
        return self.alive

    async def try_sender(self, reverse_path: str, recipient: str = "") -> Result:
        """See `Session`."""
        # Without a message there is no size to declare, and a recipient it needs to get a result.
        whom = recipient or reverse_path
        envelope = Envelope(reverse_path=reverse_path, recipients=(whom,))
        mail, rcpts, results = plan(envelope, b"", replace(self._offers, sizes=False))
        if not rcpts:
            return results[whom]
        result = await self._try(Phase.MAIL, mail)
        if recipient and result.verdict is Verdict.ACCEPTED:
            result = await self._try(Phase.RCPT, rcpts[recipient])
        await self._ask_shortly(b"RSET\r\n")  # the answer stands; if the session is over its state shows that
        return result

    async def _try(self, phase: Phase, command: bytes) -> Result:
        reply = await self._ask(command, self._timeouts.command)
        if reply is not None and reply.code != _CLOSING and reply.kind is not Kind.INTERMEDIATE:
            return result_of(reply, phase)
        if reply is not None:
            self._dialogue.end(f"the relay answered {reply}", reply)
            self._look()
        over = self._dialogue.over
        code = over.reply.code if over and over.reply else None
        return Result(verdict=Verdict.DEFERRED, phase=phase, code=code, text=over.why if over else "")

    async def _ask_shortly(self, command: bytes) -> None:
        reply = await self._ask(command, min(PROBE_TIMEOUT, self._timeouts.command))
        if reply is not None and reply.kind is not Kind.COMPLETED:
            self._dialogue.end(f"the relay answered {reply}", reply)
            self._look()

    async def _ask(self, command: bytes, seconds: float) -> Reply | None:
        """Ask beside all transactions and wait for the answer; None: the session is over without one."""
        if not self.alive:
            return None
        waiter: asyncio.Future[None] = self._loop.create_future()
        question = Question(command, seconds, waiter)
        self._writes.put(self, self._dialogue.ask(question, self._loop.time()))
        self._look()
        try:
            await waiter
        except asyncio.CancelledError:
            self._dialogue.withdraw(question)
            self._look()
            raise
        return question.reply

    def abort(self) -> None:
        """See `Session`."""
        self._end("the session was cut off here")

    async def close(self) -> None:
        """See `Session`."""
        if self.alive and not self._dialogue.busy:
            await self._ask_shortly(b"QUIT\r\n")
        self._dialogue.end("the session was closed")
        self._tell()
        self._transport.close()
        try:
            await asyncio.wait([self._gone], timeout=LAST_WORDS)
        finally:
            if not self._gone.done():
                self._transport.abort()
