"""The dispatcher with all its parts, over the in-memory queue and a scripted relay; letters to send."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from mailsender.blobs.cache import BlobCache
from mailsender.journal.port import Journal
from mailsender.message.mail import Mail
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.letter import Answer, Letter, Origin, Recipient
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import Relay, RelayPolicy
from mailsender.routing.reply_rule import ReplyRule
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.route import Route
from mailsender.sending.dispatcher import Dispatcher
from mailsender.sending.settler import Settler
from mailsender.sending.tools import Compose, SendPolicy, Tools
from mailsender.smtp.port import Transport
from mailsender.suppression.watch import SuppressionWatch
from tests.relays import FakeRelay

UNLIMITED = Allowance(letters=0, period=1.0)


def letter(number: int, *addresses: str, **more: object) -> Letter:
    origin = Origin(topic="t", partition=0, offset=number, index=0, timestamp=1_700_000_000_000)
    wanted = addresses or (f"r{number}@example.test",)
    return Letter(
        id=origin.letter_id(),
        addresses=wanted,
        subject=f"letter {number}",
        body="b",
        answers=(Answer(origin=origin),),
        recipients=tuple(Recipient(address=address) for address in wanted),
        **more,  # type: ignore[arg-type]
    )


async def until(check: Callable[[], object]) -> None:
    """Let the loops run until `check` holds; what is asked for has no event of its own."""
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def known_relay(
    transport: Transport,
    clock: Clock,
    *,
    allowance: Allowance = UNLIMITED,
    backlog: Callable[[], int] = int,
    max_recipients: int = 100,
    sessions: PoolLimits = PoolLimits(sessions=1),  # noqa: B008  it is frozen
    stopping: asyncio.Event | None = None,
    rules: Sequence[ReplyRule] = (),
) -> Relay:
    """A relay as a replica has it."""
    return Relay(
        "default",
        transport,
        Limiter(MemorySlotStore(clock), allowance, clock, backlog=backlog),
        clock,
        policy=RelayPolicy(reverse_path="s@example.test", max_recipients=max_recipients, sessions=sessions),
        chance=random.Random(1),
        stopping=stopping or asyncio.Event(),
        rules=rules,
    )


class PlainComposer:
    def compose(self, letter: Letter, *, eight_bit: bool, date: datetime) -> bytes:
        if letter.subject == "raises":
            raise RuntimeError("a bug")
        if letter.subject == "bad header":
            raise ValueError("Subject: holds a control character")
        return letter.body.encode()

    def mail(self, letter: Letter) -> Mail:
        raise AssertionError("these letters have no further keys")

    def message_id(self, letter: Letter) -> str:
        return f"<{letter.id}@example.test>"


@dataclass
class Scene:
    queue: MemoryQueue
    relay: FakeRelay
    dispatcher: Dispatcher
    known: Relay
    route: Route
    settler: Settler
    in_flight: InFlight
    heartbeat: Heartbeat
    reported: list[Letter] = field(default_factory=list)

    async def settled(self, count: int) -> list[Letter]:
        await until(lambda: len(self.reported) >= count)
        return self.reported

    async def stats_are(self, **wanted: int) -> None:
        async with asyncio.timeout(10):
            while True:
                stats = await self.queue.stats()
                if all(getattr(stats, name) == value for name, value in wanted.items()):
                    return
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    relay: FakeRelay,
    *,
    allowance: Allowance = UNLIMITED,
    senders: int = 3,
    queue: MemoryQueue | None = None,
    journal: Journal | None = None,
    max_recipients: int = 100,
    max_attempts: int = 2,
    delay: float = 0.02,
    life: float = 60.0,
    composer: Compose | None = None,
    blobs: BlobCache | None = None,
    suppression: SuppressionWatch | None = None,
    rules: Sequence[ReplyRule] = (),
    **policy: float,
) -> AsyncIterator[Scene]:
    clock = SystemClock()
    queue = queue or MemoryQueue(clock)
    in_flight = InFlight(journal)
    heartbeat = Heartbeat(queue, in_flight, clock, life=life)
    await heartbeat.begin()
    reported: list[Letter] = []

    async def report(letters: Sequence[Letter]) -> None:
        reported.extend(letters)

    settler = Settler(queue, in_flight, clock, report=report)
    chance, stopping = random.Random(1), asyncio.Event()
    routes: list[Route] = []
    known = known_relay(
        relay,
        clock,
        allowance=allowance,
        backlog=lambda: len(routes[0].backlog),
        max_recipients=max_recipients,
        sessions=PoolLimits(
            sessions=senders,
            letters=int(policy.get("max_letters_per_session", 0)),
            idle=policy.get("session_idle", 30.0),
        ),
        stopping=stopping,
        rules=rules,
    )
    retry = RetryPolicy(max_attempts=max_attempts, delay=delay)
    routes.append(Route("default", [known], retry=retry, clock=clock))
    dispatcher = Dispatcher(
        queue=queue,
        relays=[known],
        routes=routes,
        tools=Tools.of(
            in_flight=in_flight,
            settler=settler,
            composer=composer or PlainComposer(),  # type: ignore[arg-type]
            policy=SendPolicy(refuse_probability=policy.get("refuse_probability", 0.0), life=life),
            clock=clock,
            chance=chance,
            stopping=stopping,
            suppression=suppression,
            blobs=blobs,
        ),
        heartbeat=heartbeat,
    )
    scene = Scene(queue, relay, dispatcher, known, routes[0], settler, in_flight, heartbeat, reported)
    stop = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        settling = group.create_task(settler.run())
        group.create_task(dispatcher.run())
        group.create_task(known.limiter.run(stop))
        try:
            yield scene
        finally:
            dispatcher.stop_claiming()
            await dispatcher.finish(1.0)
            await settler.flush(5.0)
            stop.set()
            settling.cancel()
