"""One replica: opens its parts, runs the loops over them, and drains them in order.

The order in which it stops (promise P6), and why each step stands where it does:

1. Not ready, `/post` refused: nobody sends us more while we stop.
2. Intake ends its insert and commit and leaves the group: others get the partitions soonest.
3. No more claims; what no sender has begun goes back, so that another replica can send it now.
4. Senders finish their letter. At the deadline a session before its dot is cut (deferred, no attempt
   counted); one after it is uncertain.
5. Outcomes are settled: only then can nothing be sent twice. Nobody claims any more what is over and ends it.
   What refusals told is written behind them.
6. Reports are published and marked: they tell what step 5 made durable.
7. Slots go back, so that the other replicas have them.
8. The heartbeat ends: not earlier, or letters would be given away under steps 4 to 6.
9. Producer, consumer, MongoDB, then HTTP are closed; HTTP last, so that progress can be watched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Protocol

import structlog

from mailsender import __version__
from mailsender.blobs.cache import BlobCache
from mailsender.blobs.memory import MemoryBlobs
from mailsender.blobs.port import BlobStore
from mailsender.codes.port import CodeStore
from mailsender.intake.attachments import Attachments
from mailsender.intake.consumer import Intake, IntakeConfig
from mailsender.intake.placing import Placing, default_route, not_default
from mailsender.intake.schema import Limits
from mailsender.intake.templates import Filler
from mailsender.journal.port import Journal, NoJournal
from mailsender.kafka.port import RecordSink, RecordSource
from mailsender.message.composer import LetterComposer
from mailsender.message.dkim import SigningKeys
from mailsender.message.signing import SigningComposer
from mailsender.model.clock import Clock, SharedClock, SystemClock
from mailsender.model.errors import Forbidden, Unavailable
from mailsender.observe.conditions import Condition, Conditions, first
from mailsender.observe.stalls import Watchdog
from mailsender.observe.summary import Summary
from mailsender.observe.supervision import Supervisor
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue
from mailsender.queue.tidier import Chore, Tidier
from mailsender.reports.publisher import Reporter, ReporterConfig
from mailsender.routing.conditions import Moment, conditions_of
from mailsender.routing.fleet import Fleet, RelayParts
from mailsender.routing.plan import Plan
from mailsender.routing.routes import table_of
from mailsender.routing.shares import expire_of, shares_of
from mailsender.sending.dispatcher import Dispatcher
from mailsender.sending.expiry import Expiry
from mailsender.sending.recovery import Recovery
from mailsender.sending.settler import Settler
from mailsender.sending.tools import Compose, SendPolicy, Tools
from mailsender.settings.environment import Settings
from mailsender.settings.relays import plan_of
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.port import SuppressionStore
from mailsender.suppression.watch import SuppressionWatch
from mailsender.templates.folder import Folder
from mailsender.templates.library import Library
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.pins import Pins
from mailsender.templates.port import Shelf

log = structlog.get_logger()

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 10.0
"""Seconds between tries to open the queue while MongoDB is away."""

CLOSING = 1.0
"""Seconds for saying good-bye to what may not answer, although the drain's time is over."""

LEAST = 0.5
"""Seconds that each step of the drain gets even when its time is over: what is quick still ends well."""

RESERVE = 0.35
"""The part of the time-out kept for settling and reporting when senders are cut."""

HURRY = 5.0
"""Seconds that a second signal leaves to give letters back."""

SWEEP_EVERY, SWEPT = 60.0, 20
"""Seconds between two looks for blobs that no letter names, and how many are looked at in one go."""

BARE_EVERY, BARE = 10.0, 500
"""The same for letters whose bodies are kept no longer."""

LATE_EVERY, LATE = 2.0, 500
"""The same for letters whose time to be sent is over."""

REMEMBER_EVERY, REMEMBERED = 3600.0, 20
"""Seconds at most between two looks for letters that have to be remembered until they are reported, and how
many entries of the outbox are looked at in one go: each names up to a thousand of them."""


@dataclass(slots=True)
class Progress:
    """How far the drain is, for `/status`, `/halt` and the log."""

    reason: str = ""
    started: float | None = None
    step: str = ""
    unclean: list[str] = field(default_factory=list)
    uncertain_before: int = 0


class Deadline:
    """The moment by which the drain has to be over; a second signal pulls it closer."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + timeout
        self._timeout = timeout
        self.hurried = asyncio.Event()

    def hurry(self) -> None:
        """Leave only what it takes to give letters back."""
        self._at = min(self._at, self._clock.monotonic() + HURRY)
        self.hurried.set()

    @property
    def left(self) -> float:
        """Seconds until all has to be over."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def work_left(self) -> float:
        """Seconds until senders are cut, so that their outcomes can still be written."""
        if self.hurried.is_set():
            return 0.0
        return max(0.0, self.left - RESERVE * self._timeout)

    async def bound(self, wait: Callable[[float], Awaitable[bool]], seconds: Callable[[], float]) -> bool:
        """Run `wait` with `seconds()`; if the drain is hurried meanwhile, again with what that is then."""
        task = asyncio.ensure_future(wait(seconds()))
        hurried = asyncio.ensure_future(self.hurried.wait())
        if self.hurried.is_set():
            hurried.cancel()
            return await task
        try:
            await asyncio.wait({task, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.wait({task})
            return await wait(seconds())
        finally:
            hurried.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The outside world, behind its ports; `relays` by their names in the plan, `keys` those that sign.

    `codes` keeps confirmation codes, where there are any. Templates come out of `folder`, or else from
    `shelf`.
    """

    queue: Queue
    source: RecordSource
    sink: RecordSink
    relays: Mapping[str, RelayParts]
    journal: Journal = field(default_factory=NoJournal)
    keys: SigningKeys | None = None
    codes: CodeStore | None = None
    blobs: BlobStore = field(default_factory=lambda: MemoryBlobs(SystemClock()))
    folder: Folder = field(default_factory=Folder)
    shelf: Shelf = field(default_factory=lambda: MemoryShelf(SystemClock()))
    suppressions: SuppressionStore = field(default_factory=MemorySuppressions)


class Front(Protocol):
    """What listens to people and other programs."""

    async def close(self) -> None:
        """Listen no more."""
        ...


Listen = Callable[["Replica"], Awaitable[Front | None]]
"""Makes what listens on behalf of a replica; None where it cannot, which it has said."""


class Replica:
    """One replica of the service, over parts that somebody else built."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        clock: Clock,
        *,
        listen: Listen,
        plan: Plan | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.parts = parts
        self._listen = listen
        self.state = "starting"
        self.progress = Progress()
        self.started = clock.monotonic()
        self.opening = Condition(part="mongodb", text="not opened yet")
        self.posts_refused = 0  # for the queue was full
        self.limits = Limits(
            senders=settings.senders,
            body=settings.letter_max_bytes,
            letters=settings.letters_per_batch,
            attachment=settings.blob_max_bytes,
            attachments=settings.letter_max_attachments_bytes,
        )
        self.in_flight = InFlight(parts.journal)
        self.heartbeat = Heartbeat(parts.queue, self.in_flight, clock, life=settings.mongodb_lease)
        machine, self.clock = clock, SharedClock(clock, self.heartbeat.health.server)
        clock = self.clock
        self.blobs = BlobCache(parts.blobs, settings.blob_cache_bytes)
        self.reporter = Reporter(parts.queue, parts.sink, config=_reporter_config(settings), clock=clock)
        self.settler = Settler(parts.queue, self.in_flight, clock, report=self.reporter.offer)
        expiry = Expiry(parts.queue, self.in_flight, self.settler)
        chores = (
            Chore("expired", expiry.sweep, LATE, LATE_EVERY),
            Chore("unreported", parts.queue.remember, REMEMBERED, _remember_every(settings)),
            Chore("bodies", parts.queue.drop_bodies, BARE, BARE_EVERY),
            Chore("blobs", parts.blobs.sweep, SWEPT, SWEEP_EVERY),
        )
        self.tidier = Tidier(parts.queue, self.heartbeat, clock, chores)
        library = Library(parts.folder, parts.shelf)
        self.filler = Filler(library, parts.shelf, settings.variables, most=self.limits.body)
        self.composer = composer = _composer(settings, parts.keys, Pins(parts.shelf))
        chance = chance or random.Random()  # noqa: S311  jitter and the course's refusals, no secrets
        self._stop_sending = asyncio.Event()
        self.filed = plan is not None or settings.config is not None
        self.plan = plan = plan or plan_of(settings)
        self.rereading = asyncio.Lock()  # the file has one reader at a time
        self.suppression = SuppressionWatch(parts.suppressions, clock, plan.suppression)
        parts.queue.share(shares_of(plan))
        self.fleet = Fleet(
            plan, parts.relays, clock, chance=chance, stopping=self._stop_sending, filed=self.filed
        )
        self.relays, self.routes = self.fleet.relays, self.fleet.routes
        self.recovery = Recovery(
            queue=parts.queue,
            journal=parts.journal,
            settler=self.settler,
            composer=composer,
            schedules={route.name: route.retry for route in self.routes},
            chance=chance,
        )
        self.dispatcher = Dispatcher(
            queue=parts.queue,
            relays=self.relays,
            routes=self.routes,
            tools=Tools.of(
                in_flight=self.in_flight,
                settler=self.settler,
                composer=composer,
                policy=_send_policy(settings),
                clock=clock,
                chance=chance,
                stopping=self._stop_sending,
                suppression=self.suppression,
                blobs=self.blobs,
                table=table_of(plan, settings.sender[1]),
            ),
            heartbeat=self.heartbeat,
        )
        # Without a file there is one route, and nothing to be looked at.
        route_of, denies = default_route, not_default
        if self.filed:
            route_of, denies = self.dispatcher.route_of, self.dispatcher.denies
        self.placing = Placing(route_of, expire_of(plan), denies)
        self.intake = Intake(
            parts.source,
            parts.queue,
            parts.sink,
            config=_intake_config(settings, self.limits),
            clock=clock,
            machine=machine,
            owner=self.dispatcher,
            final=self.reporter.offer,
            joined=self.reporter.joined,
            fill=self.filler.fill,
            attachments=Attachments(parts.blobs, self.limits, clock),
            placing=self.placing,
        )
        self.watchdog = Watchdog(clock)
        self.supervisor = Supervisor(clock, self._given_up)
        self.conditions = Conditions(clock, self._conditions)
        self.summary = Summary(self.counted, self.tidier, self.conditions, clock)
        self._stop = asyncio.Event()
        self._stops: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._deadline: Deadline | None = None

    def adopt(self, plan: Plan) -> None:
        """Go on by another plan, whose relays are those that run; see `mailsender.routing.changes`."""
        self.fleet.adopt(plan)
        self.suppression.policy = plan.suppression
        self.parts.queue.share(shares_of(plan))
        self.placing.expire(expire_of(plan))
        self.plan = plan
        self.dispatcher.change(self.routes, table_of(plan, self.settings.sender[1]))

    # --- how it is -------------------------------------------------------------------------------

    def counted(self) -> dict[str, int]:
        """What was done since the start."""
        counted = asdict(self.settler.tally)
        # Letters may fail before anybody tries to send them.
        return counted | {"error": counted["error"] + self.intake.state.errors}

    def not_ready_because(self) -> list[str]:
        """What does not do its work; empty where all does."""
        reasons = [] if self.state == "running" else [self.state]
        reasons += [f"{each.subject}: {each.text}" for each in self.conditions.now() if each.trouble]
        return reasons + self.supervisor.troubles

    def _conditions(self) -> Iterator[Condition]:
        silent = self.state == "running" and not self.heartbeat.health.good
        # What answers may still take nothing in: a right or a quota can be wanting for writes alone.
        taking = self.intake.conditions
        yield from first(
            self.opening,
            self.dispatcher.condition,
            self.settler.condition,
            Condition(part="mongodb", text="does not answer" if silent else ""),
            taking["MongoDB"],
        )
        yield from first(Condition(part="kafka", text=self._kafka_trouble()), taking["Kafka"])
        yield from first(*(relay.limiter.condition for relay in self.relays))
        yield from first(Condition(part="journal", text=self.parts.journal.trouble))
        moment = Moment(
            monotonic=self.clock.monotonic(),
            stats=self.tidier.stats,
            counted_at=self.clock.epoch() - (self.tidier.stats_age or 0.0),
            stops=self._stop.is_set(),
        )
        yield from conditions_of(self.fleet, moment)
        if (over := self.queue_full) is not None:
            text = f"{over} letters wait, more than QUEUE_MAX_LETTERS ({self.settings.queue_max_letters})"
            yield Condition(part="queue", text=text, trouble=False)

    def _kafka_trouble(self) -> str:
        """What Kafka keeps waiting. A replica that stops has left the topic; only its reports wait then."""
        reports = self.parts.sink.trouble_with(self.settings.kafka_topic_profile)
        if not self._stop.is_set():
            return self.parts.source.trouble or reports
        return reports if self.reporter.state.waiting and self.progress.step != "close" else ""

    @property
    def queue_full(self) -> int | None:
        """How many letters wait, where they are more than are taken over HTTP."""
        limit, stats = self.settings.queue_max_letters, self.tidier.stats
        return stats.awaiting if limit and stats is not None and stats.awaiting > limit else None

    # --- stopping --------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Begin the drain; what is under way already goes on."""
        if self._stop.is_set():
            return
        self.state = "draining"
        self.progress.reason = reason
        self.progress.started = self.clock.monotonic()
        self.progress.uncertain_before = self.settler.tally.uncertain
        log.info("drain_begins", reason=reason, timeout=self.settings.drain_timeout)
        self._stop.set()

    def on_signal(self, name: str) -> None:
        """The first signal begins the drain, a second one cuts it short."""
        if self._stop.is_set() and self._deadline is not None:
            log.warning("drain_hurried", signal=name, action="sessions are cut and letters given back")
            self._deadline.hurry()
        else:
            self.drain(name)

    # --- the run ---------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until drained; returns the exit status."""
        self.watchdog.start()
        front = await self._listen(self)
        if front is None:
            return 1
        try:
            await self._open_run_drain()
        finally:
            await self._close_parts()
            self.state = "stopped"
            await front.close()
            self.watchdog.stop()
        for reason in self.progress.unclean:
            log.error("drain_unclean", reason=reason, action="other replicas and the sweep make up for it")
        tally = self.settler.tally
        log.info(
            "stopped",
            clean=not self.progress.unclean,
            # Nothing is left undone with them, but somebody may want to look after them.
            uncertain=tally.uncertain - self.progress.uncertain_before,
            uncertain_since_start=tally.uncertain,
        )
        return 1 if self.progress.unclean else 0

    async def _open_run_drain(self) -> None:
        if not await self._open_queue() or not await self._recover():
            return
        await self.parts.sink.open()
        if not self._stop.is_set():
            self.state = "running"
            log.info("running", version=__version__, relay=", ".join(relay.told for relay in self.relays))
        async with asyncio.TaskGroup() as group:
            keep = self.supervisor.keep
            self._tasks["settler"] = group.create_task(self.settler.run(keep))
            self._tasks["dispatcher"] = group.create_task(self.dispatcher.run(keep))
            for name, loop, loss in (
                ("intake", self.intake.run, "no records are taken in"),
                ("reporter", self.reporter.run, "no reports are published"),
                *(
                    (
                        f"limiter {relay.name}",
                        relay.limiter.run,
                        "nothing is sent if there is a rate or quota",
                    )
                    for relay in self.relays
                ),
                *(
                    (
                        f"destinations {relay.name}",
                        relay.destinations.run,
                        "nothing is sent to destinations that have limits",
                    )
                    for relay in self.relays
                    if relay.destinations is not None
                ),
                ("suppression", self.suppression.run, "nobody learns from refusals"),
                ("heartbeat", self.heartbeat.run, "nobody knows that this replica lives"),
                ("tidier", self.tidier.run, "letters of the dead are not given back, and counts grow old"),
                ("summary", self.summary.run, "no line says what was done"),
            ):
                stop = self._stops[name] = asyncio.Event()
                self._tasks[name] = group.create_task(keep(name, partial(loop, stop), stop, loss), name=name)
            await self._stop.wait()
            await self._drain()
            for task in self._tasks.values():
                task.cancel()

    def _given_up(self, name: str, reason: str) -> None:
        """A loop fails whatever is tried: the service drains instead of doing a part of its work."""
        self.progress.unclean.append(f"the {name} loop failed: {reason}")
        self.drain(f"{name} failed")

    async def _open_queue(self) -> bool:
        """Open the queue, waiting for MongoDB; False when a stop came first."""
        backoff = FIRST_BACKOFF
        told = forbidden = False
        while not self._stop.is_set():
            try:
                opening = await self._unless_stopped(self._open_stores())
                if opening is None:
                    return False
                opening.result()
            except Unavailable as error:
                # That there is a server is one piece of news, that it does not let us in another.
                if not told or (isinstance(error, Forbidden) and not forbidden):
                    log.warning("mongodb_not_there", error=str(error), action="tried again until it is")
                told, forbidden = True, forbidden or isinstance(error, Forbidden)
                self.opening.text = str(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff):
                        await self._stop.wait()
                backoff = min(LAST_BACKOFF, backoff * 2)
            else:
                self.opening.clear()
                return True
        return False

    async def _open_stores(self) -> None:
        await self.parts.queue.open()
        await self.parts.blobs.open()
        await self.heartbeat.begin()

    async def _unless_stopped(self, asking: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
        """What is over, however it ended; None when a stop came first, and it was called off."""
        work = asyncio.create_task(asking)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            work.cancel()  # means nothing to one that is over
        await asyncio.wait({work})
        return None if work.cancelled() else work

    async def _recover(self) -> bool:
        """Settle what dead processes left, before anything is claimed; False when a stop came first."""
        work = await self._unless_stopped(self.recovery.run())
        if work is None:
            return False
        error = work.exception()
        if error is not None:
            # A journal is advice; without one it is slower, but right.
            log.error(
                "recovery_failed",
                error=type(error).__name__,
                exc_info=error,
                action="goes on without the journal; others give its letters back",
            )
        return True

    # --- the drain, in the order that the head of this page gives reasons for ---------------------

    async def _drain(self) -> None:
        deadline = self._deadline = Deadline(self.clock, self.settings.drain_timeout)
        step, unclean = self._step, self.progress.unclean
        step("intake")
        if not await self._ended("intake", deadline, lambda: deadline.work_left / 2):
            unclean.append("intake could not end its insert, its commit or its membership in time")
        step("release")
        self.dispatcher.stop_claiming()
        if not await deadline.bound(self.dispatcher.claimed_out, lambda: deadline.work_left / 2):
            unclean.append("a claim was not answered in time; others give back what it took")
        step("senders")
        await deadline.bound(self.dispatcher.finish, lambda: deadline.work_left)
        step("settle")
        await self._ended("tidier", deadline, lambda: deadline.left * 0.2)
        await self._return_lost(deadline)
        if not await deadline.bound(self.settler.flush, lambda: deadline.left * 0.7):
            unclean.append(f"outcomes were not written in time: {self.settler.condition.text or 'too slow'}")
        if len(self.in_flight):
            unclean.append(f"{len(self.in_flight)} letters are still in flight; others give them back")
        await self._ended("suppression", deadline, lambda: deadline.left * 0.2)
        step("report")
        await self._ended("reporter", deadline, lambda: deadline.left * 0.9)
        left = self.reporter.state.waiting
        if left:
            unclean.append(f"{left} reports were not published and marked in time")
        step("slots")
        for relay in self.relays:
            await self._ended(f"limiter {relay.name}", deadline, lambda: deadline.left)
            await self._within(relay.limiter.close(), max(LEAST, deadline.left), "slots")
            if relay.destinations is not None:
                await self._ended(f"destinations {relay.name}", deadline, lambda: deadline.left)
                await self._within(relay.destinations.close(), max(LEAST, deadline.left), "slots")
        step("heartbeat")
        await self._ended("heartbeat", deadline, lambda: deadline.left)
        await self._within(self.heartbeat.end(), max(LEAST, deadline.left), "heartbeat")
        self.summary.last()
        step("close")

    async def _return_lost(self, deadline: Deadline) -> None:
        """Give back what claims took whose answers were lost; where nobody can know, it is not clean."""
        doubt = "a claim was never answered; what it takes after all comes back once another replica looks"
        await deadline.bound(self._doubts_can_be_settled, lambda: deadline.left * 0.3)
        try:
            async with asyncio.timeout(max(LEAST, deadline.left * 0.3)):
                await self.dispatcher.lost_claims.give_back()
        except (TimeoutError, Unavailable):
            if self.in_flight.in_doubt:
                self.progress.unclean.append(doubt)
            return
        # While MongoDB has not answered for a while again, it may still carry out what it was told before.
        if self.in_flight.in_doubt and not self.heartbeat.health.steady(self.clock.monotonic()):
            self.progress.unclean.append(doubt)

    async def _doubts_can_be_settled(self, timeout: float) -> bool:
        """Wait until MongoDB has done what it was told before, or never will, if `timeout` allows for it.

        A replica that is stopped just after MongoDB changed its primary else leaves letters under its name.
        """
        until = self.clock.monotonic() + timeout
        while self.in_flight.in_doubt:
            now = self.clock.monotonic()
            left = self.heartbeat.health.steady_in(now)
            if left == 0.0 or now + left > until:
                return left == 0.0
            await asyncio.sleep(left)
        return True

    async def _ended(self, name: str, deadline: Deadline, seconds: Callable[[], float]) -> bool:
        """Tell a loop to stop and wait for its end; one that takes longer than `seconds()` is cancelled."""
        task = self._tasks[name]
        self._stops[name].set()

        async def wait(timeout: float) -> bool:
            return bool((await asyncio.wait({task}, timeout=max(LEAST, timeout)))[0])

        ended = await deadline.bound(wait, seconds)
        if not ended:
            task.cancel()
            await asyncio.wait({task}, timeout=LEAST)
        return ended

    def _step(self, name: str) -> None:
        self.progress.step = name
        log.info("drain_step", step=name, in_hand=len(self.in_flight))

    async def _within(self, work: Awaitable[None], seconds: float, name: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except (TimeoutError, Unavailable) as error:
            log.warning("close_failed", part=name, error=str(error) or "took too long")

    async def _close_parts(self) -> None:
        limit = self.settings.kafka_timeout
        if self._deadline is not None:  # nothing depends on it any more
            limit = min(limit, max(CLOSING, self._deadline.left))
        await asyncio.gather(
            self._within(self.parts.sink.close(), limit, "producer"),
            self._within(self.parts.queue.close(), limit, "mongodb"),
        )
        self.parts.journal.close()


def _intake_config(settings: Settings, limits: Limits) -> IntakeConfig:
    return IntakeConfig(
        dead_letter_topic=settings.kafka_topic_dead_letter,
        retention=settings.mongodb_retention,
        limits=limits,
        stop_timeout=settings.drain_timeout / 4,
    )


def _composer(settings: Settings, keys: SigningKeys | None, pins: Pins) -> Compose:
    display, address = settings.sender
    composer = LetterComposer(display, address, pins, text_of=text_of_html(settings))
    if keys is None:
        return composer
    return SigningComposer(composer, address, keys)


def text_of_html(settings: Settings) -> Callable[[str], str | None] | None:
    """What makes the text part of HTML without one; None where none is wanted: its libraries take 10 MB."""
    if not settings.letter_text_from_html:
        return None
    from mailsender.message.plain_text import plain_text  # noqa: PLC0415  as said

    return plain_text


def _remember_every(settings: Settings) -> float:
    """Seconds between two looks for letters whose reports are late: several have to fit into their time."""
    return min(REMEMBER_EVERY, settings.mongodb_retention / 8)


def _reporter_config(settings: Settings) -> ReporterConfig:
    return ReporterConfig(
        topic=settings.kafka_topic_profile,
        with_body=settings.report_body,
        max_request_size=settings.kafka_max_request_size,
        sweep_age=settings.report_sweep_after,
        stop_timeout=settings.drain_timeout / 4,
    )


def _send_policy(settings: Settings) -> SendPolicy:
    return SendPolicy(refuse_probability=settings.smtp_refuse_probability, life=settings.mongodb_lease)
