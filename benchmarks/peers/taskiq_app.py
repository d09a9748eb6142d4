"""What a worker of taskiq runs; started by `taskiq_redis`, which says how by BENCH_REDIS and the like."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiosmtplib
from taskiq import TaskiqEvents
from taskiq_redis import RedisStreamBroker

from benchmarks.letters import SENDER, message

SESSIONS = 5
"""Sessions of one worker."""

# Entries are read from the beginning of the stream: it is filled before the workers come.
broker = RedisStreamBroker(
    os.environ.get("BENCH_REDIS", "redis://127.0.0.1:1/0"),
    queue_name="letters",
    consumer_id="0",
    xread_count=500,
    max_connection_pool_size=200,
)
_idle: asyncio.Queue[aiosmtplib.SMTP] = asyncio.Queue()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _open(_state: Any) -> None:
    """Open the sessions, say so, and wait until the clock runs."""
    for _ in range(SESSIONS):
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=int(os.environ["BENCH_SMTP_PORT"]), start_tls=False
        )
        await client.connect()
        await client.ehlo()
        _idle.put_nowait(client)
    room = Path(os.environ["BENCH_ROOM"])
    (room / f"ready-{os.getpid()}").touch()
    while not (room / "go").exists():  # noqa: ASYNC110 - before the clock runs
        await asyncio.sleep(0.002)


@broker.task
async def send(letter: dict[str, Any]) -> None:
    client = await _idle.get()
    try:
        await client.sendmail(SENDER, letter["Addresses"], message(letter))
    finally:
        _idle.put_nowait(client)
