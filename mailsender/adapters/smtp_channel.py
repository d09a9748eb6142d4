"""A connection to a relay as a place to ask and be answered.

The connection is made elsewhere (`mailsender.adapters.smtp`); this protocol takes its transport over
once the relay is ready for mail. Every wait has a deadline, and whatever breaks the order of question
and answer ends the connection: a stream that is out of step can pin one recipient's answer on another.
"""

from __future__ import annotations

import asyncio

from mailsender.reply import Reply, ReplyError, ReplyParser

BLOCK = 256 * 1024
"""Octets handed to the transport at a time; the block time-out is for each (RFC 5321 §4.5.3.2.5)."""

LAST_WORDS = 2.0
"""Seconds for the relay to close its end after QUIT."""


class Lost(Exception):  # noqa: N818  a state of the world, not a mistake
    """The connection is of no further use; the text says why.

    `reply` is what the relay said out of turn before it went, such as 421.
    """

    def __init__(self, text: str, reply: Reply | None = None) -> None:
        """Note why, and the relay's last word."""
        super().__init__(text)
        self.reply = reply


class Channel(asyncio.Protocol):
    """One question at a time, each with a deadline, to whoever is at the other end of `transport`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser()
        self._answer: asyncio.Future[Reply] | None = None
        self._room: asyncio.Future[None] | None = None
        self._paused = False
        self._fault: Lost | None = None
        self._gone = self._loop.create_future()
        self._transport = transport
        # With no slack `write` returns once all is in the hands of the kernel (under TLS, but for one
        # buffer): the dot does not wait behind a message that the relay is slow to read. It is 1, not
        # 0, because at 0 a TLS transport pauses its writer when its buffer is empty, for good.
        transport.set_write_buffer_limits(high=1, low=0)
        transport.set_protocol(self)
        if transport.is_closing():
            self.fail("the relay closed the connection")
            self._gone.set_result(None)

    @property
    def alive(self) -> bool:
        """Whether another question may be asked."""
        return self._fault is None

    @property
    def fault(self) -> Lost:
        """Why it is not alive."""
        return Lost(str(self._fault or ""), self._fault.reply if self._fault else None)

    async def ask(self, command: bytes, timeout: float) -> Reply:
        """Send `command`, which has its CRLF, and wait up to `timeout` seconds for the whole reply.

        Raises:
            Lost: there will be no reply; the connection is closed.
        """
        self.check()
        if self._answer:
            raise RuntimeError("a question is still open on this session")
        self._answer = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._late, timeout)
        try:
            self._transport.write(command)
            return await self._answer
        except asyncio.CancelledError:
            self.fail("the wait for the relay's answer was given up")  # which may come yet, out of turn
            raise
        finally:
            timer.cancel()
            self._answer = None

    async def write(self, data: bytes, timeout: float) -> None:
        """Send `data` block by block, waiting up to `timeout` seconds for the relay to take each.

        Raises:
            Lost: not all was sent; the connection is closed.
        """
        for start in range(0, len(data), BLOCK):
            self.check()
            self._transport.write(data[start : start + BLOCK])
            if self._paused:
                await self._until_taken(timeout)
        self.check()

    def check(self) -> None:
        """Make sure that the connection is still there.

        A transport that fails in `write` says nothing, swallows what follows and calls back only later:
        without this look at it the dot would seem to have been sent.

        Raises:
            Lost: it is not.
        """
        if self._transport.is_closing():
            self.fail("the connection was lost")
        if self._fault:
            raise self.fault

    async def _until_taken(self, timeout: float) -> None:
        self._room = self._loop.create_future()
        timer = self._loop.call_later(timeout, self.fail, f"the relay took no data for {timeout:g}s")
        try:
            await self._room
        except asyncio.CancelledError:
            self.fail("the sending of a message was given up midway")
            raise
        finally:
            timer.cancel()
            self._room = None

    def fail(self, why: str, reply: Reply | None = None) -> None:
        """Close the connection at once; whoever waits is told `why`. The first reason stands."""
        self._transport.abort()
        if self._fault:
            return
        self._fault = Lost(why, reply)
        if self._answer and not self._answer.done():
            self._answer.set_exception(self.fault)
        if self._room and not self._room.done():
            self._room.set_exception(self.fault)

    async def close(self) -> None:
        """Close the connection in good order, within a deadline."""
        self._fault = self._fault or Lost("the session was closed")
        self._transport.close()
        try:
            await asyncio.wait([self._gone], timeout=LAST_WORDS)
        finally:
            self._transport.abort()

    def _late(self, timeout: float) -> None:
        self.fail(f"the relay gave no answer within {timeout:g}s")

    # --- called by the transport -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._fault:
            return
        try:
            for reply in self._parser.feed(data):
                self._take(reply)
        except ReplyError as error:
            self.fail(str(error))
        if self._parser.midway and not self._waiting:
            self.fail("the relay spoke out of turn")

    @property
    def _waiting(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _take(self, reply: Reply) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(reply)
        else:
            self.fail(f"the relay said, unasked: {reply}", reply)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self.fail("the relay closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.fail(f"the connection was lost ({exc})" if exc else "the connection was lost")
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        if self._room and not self._room.done():
            self._room.set_result(None)
