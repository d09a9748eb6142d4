"""One replica: opens its parts, runs the loops over them, and drains them in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from mailsender import __version__
from mailsender.dispatch import Dispatch, LetterBasket
from mailsender.drain import Deadline, Progress
from mailsender.gate import SlotGate
from mailsender.intake import Intake, IntakeConfig
from mailsender.leases import Hand, LeaseKeeper
from mailsender.operations import ReplicaOperations
from mailsender.mime import Composer
from mailsender.ports import Clock, Queue, RecordSink, RecordSource, Relay, SlotStore, Unavailable
from mailsender.reporter import Reporter, ReporterConfig
from mailsender.retry import RetryPolicy
from mailsender.settings import Settings
from mailsender.settle import Settler
from mailsender.summary import Summary
from mailsender.web.app import make_app, serve
from mailsender.wire import Limits
from mailsender.worker import SendPolicy

log = structlog.get_logger()

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 10.0
"""Seconds between tries to open the queue while MongoDB is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The outside world, behind its ports."""

    queue: Queue
    slots: SlotStore
    source: RecordSource
    sink: RecordSink
    relay: Relay


class Replica:
    """One replica of the service, over parts that somebody else built."""

    def __init__(self, settings: Settings, parts: Parts, clock: Clock) -> None:
        self.settings = settings
        self.parts = parts
        self.clock = clock
        self.state = "starting"
        self.progress = Progress()
        self.started = clock.monotonic()
        self.queue_trouble = "not opened yet"
        self.limits = Limits(body=settings.letter_max_bytes)
        self.hand = Hand()
        self.basket = LetterBasket()
        self.keeper = LeaseKeeper(parts.queue, self.hand, clock, lease=settings.mongodb_lease)
        self.gate = SlotGate(parts.slots, settings.allowance, clock, backlog=self.basket.__len__)
        self.reporter = Reporter(parts.queue, parts.sink, config=_reporter_config(settings), clock=clock)
        self.settler = Settler(parts.queue, self.hand, clock, report=self.reporter.offer)
        self.dispatch = Dispatch(
            queue=parts.queue,
            relay=parts.relay,
            composer=Composer(*settings.sender),
            gate=self.gate,
            hand=self.hand,
            keeper=self.keeper,
            settler=self.settler,
            policy=_send_policy(settings),
            senders=settings.smtp_max_senders,
            clock=clock,
            basket=self.basket,
            chance=random.Random(),  # noqa: S311  jitter and the course's refusals, no secrets
        )
        self.intake = Intake(
            parts.source,
            parts.queue,
            parts.sink,
            config=_intake_config(settings, self.limits),
            clock=clock,
            stored=self.dispatch.nudge,
        )
        self.summary = Summary(self.settler.tally, self.keeper, clock)
        self._stop = asyncio.Event()
        self._stops = {name: asyncio.Event() for name in ("intake", "reporter", "gate", "keeper", "summary")}
        self._deadline: Deadline | None = None

    # --- stopping --------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Begin the drain; what is under way already goes on."""
        if self._stop.is_set():
            return
        self.state = "draining"
        self.progress.reason = reason
        self.progress.started = self.clock.monotonic()
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
        settings = self.settings
        app = make_app(
            ReplicaOperations(self),
            api_key=settings.http_api_key.get_secret_value(),
            max_bytes=settings.http_max_bytes,
            timeout=settings.http_timeout,
        )
        try:
            server = await serve(app, settings.bind_host, settings.http_port)
        except OSError as error:
            log.error(  # noqa: TRY400  the operator needs the sentence, not the trace
                "http_cannot_listen",
                host=settings.bind_host,
                port=settings.http_port,
                error=error.strerror or str(error),
                advice="set HTTP_HOST and HTTP_PORT to a free address",
            )
            return 1
        log.info("http_listens", host=settings.bind_host, port=server.port)
        try:
            await self._open_run_drain()
        finally:
            await self._close_parts()
            self.state = "stopped"
            await server.close()
        for reason in self.progress.unclean:
            log.error("drain_unclean", reason=reason, action="leases and the sweep make up for it")
        log.info("stopped", clean=not self.progress.unclean)
        return 1 if self.progress.unclean else 0

    async def _open_run_drain(self) -> None:
        if not await self._open_queue():
            self._deadline = Deadline(self.clock, self.settings.drain_timeout)
            return
        await self.parts.sink.open()
        await self.parts.source.open()
        if not self._stop.is_set():
            self.state = "running"
            log.info("running", version=__version__, relay=self.parts.relay.name)
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._watched("settler", self.settler.run()))
            self._start(group, "intake", self.intake.run(self._stops["intake"]))
            group.create_task(self._watched("dispatch", self.dispatch.run()))
            self._start(group, "reporter", self.reporter.run(self._stops["reporter"]))
            self._start(group, "gate", self.gate.run(self._stops["gate"]))
            self._start(group, "keeper", self.keeper.run(self._stops["keeper"]))
            self._start(group, "summary", self.summary.run(self._stops["summary"]))
            await self._stop.wait()
            await self._drain()
            settling.cancel()

    def _start(self, group: asyncio.TaskGroup, name: str, loop: Coroutine[Any, Any, None]) -> None:
        group.create_task(self._watched(name, loop), name=name)

    async def _watched(self, name: str, loop: Awaitable[None]) -> None:
        """Run a loop; should it raise, the service drains instead of falling."""
        try:
            await loop
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  also exception groups of a loop's own tasks
            log.error("loop_failed", loop=name, exc_info=error, action="the service drains and exits")
            self.progress.unclean.append(f"the {name} loop failed: {type(error).__name__}")
            self.drain(f"{name} failed")

    async def _open_queue(self) -> bool:
        """Open the queue, waiting for MongoDB; False when a stop came first."""
        backoff = FIRST_BACKOFF
        while not self._stop.is_set():
            try:
                await self.parts.queue.open()
            except Unavailable as error:
                if self.queue_trouble == "not opened yet":
                    log.warning("mongodb_not_there", error=str(error), action="tried again until it is")
                self.queue_trouble = str(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff):
                        await self._stop.wait()
                backoff = min(LAST_BACKOFF, backoff * 2)
            else:
                self.queue_trouble = ""
                return True
        return False

    # --- the drain: see `mailsender.drain` for the order and its reasons ------------------------

    async def _drain(self) -> None:
        deadline = self._deadline = Deadline(self.clock, self.settings.drain_timeout)
        step = self._step
        step("intake")
        self._stops["intake"].set()
        if not await deadline.bound(self.intake.stopped, deadline.work_left / 2):
            self.progress.unclean.append("intake could not end its insert or commit in time")
        step("release")
        self.dispatch.stop_claiming()
        step("workers")
        await deadline.bound(self.dispatch.finish, deadline.work_left)
        step("settle")
        if not await deadline.bound(self.settler.flush, deadline.left * 0.7):
            self.progress.unclean.append(
                f"outcomes were not written in time: {self.settler.trouble or 'late'}"
            )
        step("report")
        left = await self._flush_reports(deadline)
        if left:
            self.progress.unclean.append(f"{left} reports were not published or marked in time")
        step("slots")
        self._stops["gate"].set()
        await self._within(self.gate.close(), max(0.5, deadline.left), "slots")
        step("renewal")
        self._stops["keeper"].set()
        self._stops["summary"].set()
        step("close")
        self.summary.last()

    async def _flush_reports(self, deadline: Deadline) -> int:
        self._stops["reporter"].set()
        await deadline.bound(self.reporter.stopped, max(0.5, deadline.left * 0.9))
        return self.reporter.left

    def _step(self, name: str) -> None:
        self.progress.step = name
        log.info("drain_step", step=name, in_hand=len(self.hand))

    async def _within(self, work: Awaitable[None], seconds: float, name: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except (TimeoutError, Unavailable) as error:
            log.warning("close_failed", part=name, error=str(error) or "took too long")

    async def _close_parts(self) -> None:
        limit = self.settings.kafka_timeout
        await self._within(self.parts.sink.close(), limit, "producer")
        await self._within(self.parts.source.close(), limit, "consumer")
        await self._within(self.parts.queue.close(), limit, "mongodb")


def _send_policy(settings: Settings) -> SendPolicy:
    return SendPolicy(
        reverse_path=settings.sender[1],
        max_recipients=settings.smtp_max_recipients,
        max_letters_per_session=settings.smtp_max_letters_per_session,
        session_idle=settings.smtp_session_idle,
        refuse_probability=settings.smtp_refuse_probability,
        retry=RetryPolicy(max_attempts=settings.smtp_max_attempts, delay=settings.smtp_retry_delay),
        lease=settings.mongodb_lease,
    )
