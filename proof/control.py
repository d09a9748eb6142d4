"""The relay's control socket: the server's end, and a client for the harness."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proof.plan import Plan

if TYPE_CHECKING:
    from proof.smtp_server import Relay


class Control:
    """Obeys the harness."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the harness."""
        try:
            while line := await reader.readline():
                answer = await self._obey(json.loads(line))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _obey(self, order: Mapping[str, Any]) -> dict[str, Any]:
        from proof.smtp_server import Killing

        relay, do = self._relay, order["do"]
        if do == "plan":
            relay.plan = Plan(order["plan"])
        elif do == "kill":
            at = relay.counts["accepted"] + order["in"]
            relay.killing = Killing(order["pid"], at, order["when"])
        elif do == "spare":
            relay.killing = None
        elif do == "living":
            return {"living": await relay.living(order["within"])}
        elif do == "wait":
            while relay.counts[order["what"]] < order["count"]:
                await relay.changed.wait()
        return dict(relay.counts)


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    """A socket of this family does not wait when the other side's queue of callers is full."""
    while True:
        try:
            connection.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("the relay takes no orders") from None
            time.sleep(0.01)  # there is no event for it
        else:
            return


def tell(path: Path, order: Mapping[str, Any], timeout: float) -> dict[str, int]:
    """Give one order; what the relay has counted.

    Raises:
        TimeoutError: No answer within `timeout` seconds.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        _connect(connection, path, time.monotonic() + timeout)
        connection.sendall(json.dumps(order).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = connection.recv(65536)
            if not more:
                raise ConnectionError("the relay went before it answered")
            answer += more
    counts: dict[str, int] = json.loads(answer)
    return counts
