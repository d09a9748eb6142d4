"""A connection to a relay: octets out, replies in, and a deadline for whatever is due.

The connection is made elsewhere (`mailsender.smtp.connect`); this protocol takes its transport over
once the relay is ready for mail. What is said and what a reply answers is for its listener to know
(`mailsender.smtp.session`). Whatever breaks the order of question and answer ends the connection: a
stream that is out of step can pin one recipient's answer on another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from mailsender.smtp.replies import Reply, ReplyError, ReplyParser

BLOCK = 256 * 1024
"""Octets handed to the transport at a time; the block time-out is for each (RFC 5321 §4.5.3.2.5)."""

TOGETHER = 4
"""Writes that go out in one go at most: while a relay takes them, the next ones are made."""

LAST_WORDS = 2.0
"""Seconds for the relay to close its end after QUIT."""


class Lost(Exception):  # noqa: N818  a state of the world, not a mistake
    """The connection is of no further use; the text says why.

    `reply` is what the relay said out of turn before it went, such as 421. `late` says that we left, for an
    answer that took too long.
    """

    def __init__(self, text: str, reply: Reply | None = None, *, late: bool = False) -> None:
        """Note why, and the relay's last word."""
        super().__init__(text)
        self.reply = reply
        self.late = late


class Listener(Protocol):
    """Who is told what comes over a channel."""

    @property
    def waiting(self) -> bool:
        """Whether a reply is due."""
        ...

    def take(self, reply: Reply) -> None:
        """One reply; nothing is to be written yet, for more may have come with it."""
        ...

    def heard(self) -> None:
        """All that has come is taken: what may be written now is to be written soon."""
        ...

    def lost(self, lost: Lost) -> None:
        """The connection is gone; told once."""
        ...


class Outbox:
    """What several channels have to write in one turn of the loop, written in one go at the turn's end.

    A relay that is woken by the first write is still awake for the others. Waking it for each costs both
    sides about as much as the write itself.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parcels: list[tuple[Channel, bytes]] = []

    def put(self, channel: Channel, data: bytes) -> None:
        """Write `data` to `channel` soon, behind what was put before."""
        if not self._parcels:
            self._loop.call_soon(self._empty)
        self._parcels.append((channel, data))
        if len(self._parcels) >= TOGETHER:
            self._empty()

    def _empty(self) -> None:
        parcels, self._parcels = self._parcels, []
        for channel, data in parcels:
            channel.hand_over(data)


class Channel(asyncio.Protocol):
    """Writes to whoever is at the other end of `transport`, and tells its listener what comes back.

    `outbox` is shared by channels that write together.
    """

    def __init__(self, transport: asyncio.Transport, outbox: Outbox | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox or Outbox()
        self._parser = ReplyParser()
        self._listener: Listener | None = None
        self._paused = False
        self._fault: Lost | None = None
        self._gone = self._loop.create_future()
        self._deadline: float | None = None
        self._overdue = "", 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rest: memoryview | None = None
        self._taken: Callable[[], None] | None = None
        self._block_timeout = 0.0
        self._transport = transport
        # With no slack `write` returns once all is in the hands of the kernel (under TLS, but for one
        # buffer): the dot does not wait behind a message that the relay is slow to read. It is 1, not
        # 0, because at 0 a TLS transport pauses its writer when its buffer is empty, for good.
        transport.set_write_buffer_limits(high=1, low=0)
        transport.set_protocol(self)
        if transport.is_closing():
            self.fail("the relay closed the connection")
            self._gone.set_result(None)

    def listen(self, listener: Listener) -> None:
        """Tell `listener` from now on."""
        self._listener = listener

    @property
    def alive(self) -> bool:
        """Whether anything more may be said.

        It looks at the transport, too: one that fails in `write` says nothing, swallows what follows and
        calls back only later. Without this look a dot would seem to have been sent.
        """
        if self._fault is None and self._transport.is_closing():
            self.fail("the connection was lost")
        return self._fault is None

    @property
    def fault(self) -> Lost:
        """Why it is not alive."""
        fault = self._fault
        return Lost(str(fault), fault.reply, late=fault.late) if fault else Lost("")

    def write(self, data: bytes) -> None:
        """Write `data` at the end of this turn; for what fits into a socket's buffer.

        It may not be written after all when the channel fails before: who writes a dot counts it as written.
        """
        self._outbox.put(self, data)

    def hand_over(self, data: bytes) -> None:
        """Write `data` now, for the outbox; what goes wrong is this channel's alone."""
        if self._fault is None:
            try:
                self._transport.write(data)
            except Exception as error:  # noqa: BLE001  the others' turn comes all the same
                self._loop.call_exception_handler({"message": "a transport raised", "exception": error})
                self.fail(f"internal error in writing ({type(error).__name__})")

    def stream(self, data: bytes, timeout: float, taken: Callable[[], None]) -> None:
        """Send `data` block by block; `taken` is called when the relay's side has taken all of it.

        Each block may take `timeout` seconds, else the connection is closed.
        """
        self._rest, self._taken, self._block_timeout = memoryview(data), taken, timeout
        self._pump()

    def due(self, seconds: float | None) -> None:
        """Close the connection unless `due` is called again within `seconds`; None: nothing is due."""
        if seconds is None:
            self._deadline = None
        else:
            self._set_deadline(seconds, "the relay gave no answer within")

    def fail(self, why: str, reply: Reply | None = None, *, late: bool = False) -> None:
        """Close the connection at once; the listener is told `why`. The first reason stands."""
        self._transport.abort()
        if self._fault:
            return
        self._fault = Lost(why, reply, late=late)
        self._stop_timer()
        self._rest = self._taken = None
        if self._listener is not None:
            self._listener.lost(self.fault)

    async def close(self) -> None:
        """Close the connection in good order, within a deadline."""
        self._stop_timer()
        if self._fault is None:
            self._fault = Lost("the session was closed")
            if self._listener is not None:
                self._listener.lost(self.fault)
        self._transport.close()
        try:
            await asyncio.wait([self._gone], timeout=LAST_WORDS)
        finally:
            if not self._gone.done():
                self._transport.abort()

    # --- deadlines -------------------------------------------------------------------------------

    def _set_deadline(self, seconds: float, overdue: str) -> None:
        """One timer serves all deadlines: it is moved only when the new one comes before it."""
        self._deadline = self._loop.time() + seconds
        self._overdue = overdue, seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._stop_timer()
            self._timer = self._loop.call_at(self._deadline, self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() >= self._deadline:
            what, seconds = self._overdue
            self.fail(f"{what} {seconds:g}s", late=True)
        else:
            self._timer = self._loop.call_at(self._deadline, self._tick)

    # --- a message that does not fit into a buffer ----------------------------------------------

    def _pump(self) -> None:
        """Write on until the transport has enough, or nothing is left."""
        while self._rest is not None:
            if self._paused:
                self._set_deadline(self._block_timeout, "the relay took no data for")
                return
            if not self.alive:
                return
            if not self._rest:
                taken, self._rest, self._taken = self._taken, None, None
                self._deadline = None
                if taken is not None:
                    taken()
                return
            block, self._rest = self._rest[:BLOCK], self._rest[BLOCK:]
            self._transport.write(bytes(block))

    # --- called by the transport -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        listener = self._listener
        if self._fault or listener is None:
            return
        try:
            for reply in self._parser.feed(data):
                listener.take(reply)
                if self._fault:
                    return
        except ReplyError as error:
            self.fail(str(error))
            return
        if self._parser.midway and not listener.waiting:
            self.fail("the relay spoke out of turn")
            return
        listener.heard()

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
        if self._rest is not None:
            # Not here: transports call this in the middle of their own accounts.
            self._loop.call_soon(self._pump)
