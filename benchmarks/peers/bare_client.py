"""The aiosmtplib loop's own process.

python -m benchmarks.peers.bare_client PORT LETTERS SESSIONS
"""

from __future__ import annotations

import asyncio
import sys

import aiosmtplib
import uvloop

from benchmarks.letters import SENDER, letter, message
from benchmarks.peers.clocked import Clock

HOST = "127.0.0.1"


async def _send(client: aiosmtplib.SMTP, share: range, text: bytes) -> None:
    for number in share:
        await client.sendmail(
            SENDER, [f"reader{number:08d}.0@example.test", f"reader{number:08d}.1@example.test"], text
        )


async def _main(port: int, letters: int, sessions: int) -> None:
    text = message(letter(0))
    clients = [aiosmtplib.SMTP(hostname=HOST, port=port, start_tls=False) for _ in range(sessions)]
    for client in clients:
        await client.connect()
        await client.ehlo()
    clock = Clock()
    await asyncio.gather(
        *(_send(each, range(first, letters, sessions), text) for first, each in enumerate(clients))
    )
    clock.report(letters)
    for client in clients:
        await client.quit()


if __name__ == "__main__":
    uvloop.run(_main(*map(int, sys.argv[1:4])))
