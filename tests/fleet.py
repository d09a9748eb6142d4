"""The dispatcher over the in-memory queue and several scripted relays, on routes as a test plans them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mailsender.model.clock import Clock, SystemClock
from mailsender.model.letter import Letter
from mailsender.observe.supervision import Keep, once
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.port import SlotStore
from mailsender.routing.plan import RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import Relay, RelayPolicy
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.route import Route
from mailsender.routing.routes import divide
from mailsender.routing.routes import made as made_route
from mailsender.routing.table import RouteTable
from mailsender.sending.dispatcher import Dispatcher
from mailsender.sending.settler import Settler
from mailsender.sending.tools import SendPolicy, Tools
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch
from tests.dispatching import UNLIMITED, PlainComposer, until
from tests.relays import FakeRelay

RETRY = RetryPolicy(max_attempts=3, delay=0.05)


def route(name: str = "default", *relays: str, **more: object) -> RoutePlan:
    return RoutePlan(name=name, relays=relays, **{"retry": RETRY, **more})  # type: ignore[arg-type]


@dataclass
class Fleet:
    queue: MemoryQueue
    fakes: Mapping[str, FakeRelay]
    relays: Mapping[str, Relay]
    routes: Mapping[str, Route]
    dispatcher: Dispatcher
    settler: Settler
    in_flight: InFlight
    reported: list[Letter] = field(default_factory=list)

    async def put(self, *letters: Letter) -> None:
        await self.queue.insert(letters)
        self.dispatcher.nudge()

    async def settled(self, count: int) -> list[Letter]:
        await until(lambda: len(self.reported) >= count)
        return self.reported

    def sent(self) -> dict[str, int]:
        """Transactions whose dot was written, by the relay."""
        return {name: len(fake.sent) for name, fake in self.fakes.items()}


@asynccontextmanager
async def fleet(
    fakes: Mapping[str, FakeRelay],
    routes: Sequence[RoutePlan],
    *,
    sessions: int = 2,
    max_recipients: int = 100,
    allowances: Mapping[str, Allowance] | None = None,
    stores: Mapping[str, SlotStore] | None = None,
    senders: Mapping[str, tuple[str, ...]] | None = None,
    composer: object = None,
    queue: MemoryQueue | None = None,
    clock: Clock | None = None,
    keep: Keep = once,
) -> AsyncIterator[Fleet]:
    clock = clock or SystemClock()
    queue = queue or MemoryQueue(clock)
    in_flight = InFlight()
    heartbeat = Heartbeat(queue, in_flight, clock, life=60.0)
    await heartbeat.begin()
    reported: list[Letter] = []

    async def report(letters: Sequence[Letter]) -> None:
        reported.extend(letters)

    settler = Settler(queue, in_flight, clock, report=report)
    chance, stopping = random.Random(1), asyncio.Event()
    made: dict[str, Route] = {}
    relays = {
        name: Relay(
            name,
            fake,
            Limiter(
                (stores or {}).get(name) or MemorySlotStore(clock),
                (allowances or {}).get(name, UNLIMITED),
                clock,
                backlog=lambda: sum(len(each.backlog) for each in made.values()),
                member=secrets.token_hex(8),
                watch=name in (stores or {}),
            ),
            clock,
            policy=RelayPolicy(
                reverse_path="s@example.test",
                max_recipients=max_recipients,
                sessions=PoolLimits(sessions=sessions),
            ),
            chance=chance,
            stopping=stopping,
            senders=(senders or {}).get(name, ()),
        )
        for name, fake in fakes.items()
    }
    made.update({plan.name: made_route(plan, relays, clock) for plan in routes})
    divide(routes, relays)
    dispatcher = Dispatcher(
        queue=queue,
        relays=list(relays.values()),
        routes=list(made.values()),
        tools=Tools.of(
            in_flight=in_flight,
            settler=settler,
            composer=composer or PlainComposer(),  # type: ignore[arg-type]
            policy=SendPolicy(refuse_probability=0.0, life=60.0),
            clock=clock,
            chance=chance,
            stopping=stopping,
            suppression=SuppressionWatch(MemorySuppressions(), clock, SuppressionPolicy()),
            table=RouteTable(routes),
        ),
        heartbeat=heartbeat,
    )
    found = Fleet(queue, fakes, relays, made, dispatcher, settler, in_flight, reported)
    stop = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        settling = group.create_task(settler.run())
        group.create_task(dispatcher.run(keep))
        for relay in relays.values():
            group.create_task(relay.limiter.run(stop))
        try:
            yield found
        finally:
            dispatcher.stop_claiming()
            await dispatcher.finish(1.0)
            await settler.flush(5.0)
            stop.set()
            settling.cancel()
