"""A network that can be cut, stalled or slowed: a TCP proxy in a thread of the harness."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from mailsender.dev.process import LOOPBACK, free_port

OPEN, STALLED, SLOW, CUT = "open", "stalled", "slow", "cut"
MODES = (STALLED, SLOW, CUT)
"""stalled: connections stand, new ones are taken, nothing gets through. slow: every piece takes 100 ms more.
cut: all connections are reset, and new ones too."""

Result = TypeVar("Result")

DELAY = 0.1
_PIECE = 16 * 1024


class Proxy:
    """From a port of its own to `target` on this machine."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._mode = OPEN
        self._moving = asyncio.Event()
        self._moving.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._connected, LOOPBACK, self.port))

    def set(self, mode: str) -> None:
        """From now on be like this."""
        self._call(self._change(mode))

    def close(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    # --- in the loop -----------------------------------------------------------------------------

    async def _change(self, mode: str) -> None:
        self._mode = mode
        if mode == STALLED:
            self._moving.clear()
        else:
            self._moving.set()
        if mode == CUT:
            self._reset_all()

    async def _end(self) -> None:
        self._server.close()
        self._moving.set()
        self._reset_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._mode == CUT:
                _reset(writer)
                return
            await self._moving.wait()
            there, onward = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            _reset(writer)
            return
        finally:
            self._writers.discard(writer)
        self._writers |= {writer, onward}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, onward))
                both.create_task(self._carry(there, writer))
        finally:
            for each in (writer, onward):
                self._writers.discard(each)
                each.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                if self._mode == SLOW:
                    await asyncio.sleep(DELAY)
                await self._moving.wait()
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            return
        _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
