"""From finished letters to the profile topic: published, acknowledged, marked.

A letter is marked as reported only after the broker has acknowledged its report. What a crash, an outage or a
full buffer left unmarked is found again by the sweep, so a report may come twice, with the same words, but it
does come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from mailsender.afterwards import afterwards
from mailsender.letter import Answer, Letter
from mailsender.ports import Clock, Landed, Outgoing, Queue, RecordSink, TooLarge, Unavailable
from mailsender.wire import report_bytes

log = structlog.get_logger()

ENVELOPE = 200
"""Bytes that a record takes beside key and value, at most, when it has no headers."""

SMALLEST = 2048
"""Bytes into which a report always fits, when everything that can be left out is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterConfig:
    """How reports are published; times in seconds, sizes in bytes.

    `max_bytes` bounds the letters that wait for their report in memory, `batch` and `batch_bytes` the reports
    of one round.
    Every `sweep_every` the queue is asked for letters that have been unmarked for more than `sweep_age`: long
    enough for every replica to have reported its own. The wait after a failure grows from `first_wait` to
    `longest_wait`. A stop flushes for at most `stop_timeout`.
    """

    topic: str
    with_body: bool = True
    max_request_size: int = 1_000_000
    max_bytes: int = 8 * 1024 * 1024
    batch: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    sweep_every: float = 5.0
    sweep_age: float = 30.0
    first_wait: float = 1.0
    longest_wait: float = 15.0
    stop_timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterState:
    """What the reporter is at, and what it did since the start.

    `status` is ``running``, ``failing: <why>`` or ``stopped``. `left_to_sweep` counts the letters that
    found no room while publishing failed.
    """

    status: str = "running"
    waiting: int = 0
    published: int = 0
    marked: int = 0
    swept: int = 0
    left_to_sweep: int = 0


class Reporter:
    """Publishes what became of letters; queue and sink are opened and closed by the owner."""

    def __init__(self, queue: Queue, sink: RecordSink, *, config: ReporterConfig, clock: Clock) -> None:
        self._queue = queue
        self._sink = sink
        self._config = config
        self._clock = clock
        self._state = ReporterState()
        self._waiting: deque[Letter] = deque()
        self._unmarked: list[Letter] = []
        self._in_hand: dict[str, int] = {}
        self._bytes = 0
        self._failing = False
        self._running = False
        self._ended = False
        self._swept_in_a_row = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._sweep_at = clock.monotonic()
        self._failing_since = 0.0
        self._wait = config.first_wait

    @property
    def state(self) -> ReporterState:
        """How it is; for readiness and status."""
        return replace(self._state, waiting=len(self._waiting) + len(self._unmarked))

    async def offer(self, letters: Sequence[Letter]) -> None:
        """Take finished letters, as the queue holds them, for their report.

        Waits for room while publishing goes well. While it fails, or when the reporter has ended, letters
        beyond the bound are left to the sweep: sending must not wait for reports.
        """
        for letter in letters:
            while self._full(letter) and self._running and not self._failing:
                self._room.clear()
                self._changed.set()
                await self._room.wait()  # each round of `run` sets it, and a round has its deadlines
            if self._ended or self._full(letter):
                self._count(left_to_sweep=1)
            else:
                self._take(letter)
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> int:
        """Publish and mark until `stop` is set, then flush within the deadline.

        Returns how many letters are left; they stay unreported in the queue, and the next start's sweep
        finds them.
        """
        stopping = asyncio.create_task(stop.wait())
        self._running = True
        await afterwards(partial(self._until, stop, stopping), partial(self._end, stop, stopping))
        return len(self._waiting) + len(self._unmarked)

    async def _until(self, stop: asyncio.Event, stopping: asyncio.Task[bool]) -> None:
        while not stop.is_set():
            if not await self._round():
                await self._rest(stopping)
        await self._flush()

    async def _end(self, stop: asyncio.Event, stopping: asyncio.Task[bool]) -> None:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        self._running, self._ended = False, stop.is_set()  # else it is begun again
        self._room.set()
        self._now(status="stopped")

    async def _round(self) -> bool:
        """One batch, or a sweep; whether there may be more to do at once."""
        try:
            if self._unmarked:
                await self._mark()
            if self._clock.monotonic() >= self._sweep_at and self._bytes < self._config.max_bytes // 2:
                await self._sweep()
            if self._waiting:
                await self._publish()
        except Unavailable as error:
            self._fails(error)
            return False
        finally:
            self._room.set()
        self._works()
        return bool(self._waiting)

    async def _rest(self, stopping: asyncio.Task[bool]) -> None:
        """Sleep until there is something to do, or to stop."""
        self._changed.clear()
        if self._failing:
            seconds = self._wait
            self._wait = min(self._config.longest_wait, self._wait * 2)
            await asyncio.wait({stopping}, timeout=seconds)
            return
        seconds = max(0.0, self._sweep_at - self._clock.monotonic())
        changed = asyncio.create_task(self._changed.wait())
        await asyncio.wait({changed, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        await asyncio.gather(changed, return_exceptions=True)

    async def _flush(self) -> None:
        """Publish and mark what is in hand; a failure is tried again until the deadline."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.stop_timeout):
                while self._waiting or self._unmarked:
                    if not await self._round() and self._failing:
                        await asyncio.sleep(min(0.5, self._config.first_wait))
        if self._waiting or self._unmarked:
            log.warning(
                "reports_left",
                letters=len(self._waiting) + len(self._unmarked),
                doing="they are unreported in the queue; the next start publishes them",
            )

    # --- publishing ------------------------------------------------------------------------------

    async def _publish(self) -> None:
        """Publish a batch of reports, all before waiting for one; mark the letters acknowledged."""
        batch = self._next_batch()
        try:
            failed = await self._publish_batch(batch)
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise
        kept = {letter.id for letter, _ in failed}
        self._waiting.extendleft(letter for letter in reversed(batch) if letter.id in kept)
        self._unmarked += [letter for letter in batch if letter.id not in kept]
        if self._unmarked:
            await self._mark()
        if failed:
            raise failed[0][1]

    def _next_batch(self) -> list[Letter]:
        batch: list[Letter] = []
        room = self._config.batch_bytes
        while self._waiting and len(batch) < self._config.batch and (room > 0 or not batch):
            batch.append(self._waiting.popleft())
            room -= batch[-1].size
        return batch

    async def _publish_batch(self, batch: Sequence[Letter]) -> list[tuple[Letter, Exception]]:
        """The letters whose reports were not all acknowledged, with the error of each."""
        asked = [(letter, answer) for letter in batch for answer in letter.answers[letter.answered :]]
        records = [self._record(letter, answer, self._config.max_request_size) for letter, answer in asked]
        failed: list[tuple[Letter, Exception]] = []
        for (letter, answer), result in zip(asked, await self._sink.publish(records), strict=True):
            found = result
            if isinstance(found, TooLarge):
                found = await self._publish_smaller(letter, answer)
            if not isinstance(found, Landed):
                failed.append((letter, found))
        self._count(published=len(asked) - len(failed))
        return failed

    async def _publish_smaller(self, letter: Letter, answer: Answer) -> Landed | Exception:
        """Ever smaller reports, down to one that holds the ID and the status; at last without the key."""
        limit = self._config.max_request_size // 2
        result: Landed | Exception = TooLarge("not tried")
        while limit >= SMALLEST:
            (result,) = await self._sink.publish([self._record(letter, answer, limit)])
            if not isinstance(result, TooLarge):
                return result
            limit //= 4
        log.error(
            "report_too_large",
            letter=letter.id,
            reason=str(result),
            doing="a report without key and contents is published",
            check="the size that the broker takes (max.message.bytes) against KAFKA_MAX_REQUEST_SIZE",
        )
        bare = replace(answer, key=None)
        (result,) = await self._sink.publish([self._record(letter, bare, SMALLEST)])
        if isinstance(result, TooLarge):
            log.error("report_impossible", letter=letter.id, reason=str(result), doing="it is given up")
            return Landed(topic=self._config.topic, partition=-1, offset=-1)
        return result

    def _record(self, letter: Letter, answer: Answer, limit: int) -> Outgoing:
        """The record of a report that takes at most `limit` bytes, unless its key alone takes more."""
        room = max(SMALLEST, limit - ENVELOPE - len(answer.key or b""))
        value = report_bytes(letter, answer, with_body=self._config.with_body, limit=room)
        return Outgoing(topic=self._config.topic, key=answer.key, value=value)

    async def _mark(self) -> None:
        await self._queue.mark_reported(self._unmarked)
        self._count(marked=len(self._unmarked))
        marked, self._unmarked = self._unmarked, []
        for letter in marked:
            self._bytes -= letter.size
            self._in_hand[letter.id] -= 1
            if not self._in_hand[letter.id]:
                del self._in_hand[letter.id]

    async def _sweep(self) -> None:
        """Find what was left unmarked; at once again when there may be more."""
        found = await self._queue.unreported(self._config.sweep_age, self._config.batch)
        fresh = [letter for letter in found if letter.id not in self._in_hand]
        for letter in fresh:
            self._take(letter)
        self._count(swept=len(fresh))
        self._swept_in_a_row += len(fresh)
        if len(found) < self._config.batch:
            self._sweep_at = self._clock.monotonic() + self._config.sweep_every
            if self._swept_in_a_row:
                log.info("reports_swept", letters=self._swept_in_a_row, doing="they are published now")
            self._swept_in_a_row = 0

    # --- accounts --------------------------------------------------------------------------------

    def _full(self, letter: Letter) -> bool:
        """Whether there is no room for `letter`; a letter alone may be larger than the bound."""
        return bool(self._bytes) and self._bytes + letter.size > self._config.max_bytes

    def _take(self, letter: Letter) -> None:
        self._waiting.append(letter)
        self._bytes += letter.size
        self._in_hand[letter.id] = self._in_hand.get(letter.id, 0) + 1

    def _fails(self, error: Exception) -> None:
        self._now(status=f"failing: {error}")
        if not self._failing:
            self._failing, self._failing_since = True, self._clock.monotonic()
            log.warning(
                "reporting_fails",
                reason=str(error),
                doing="sending goes on; reports wait in the queue and are published later",
            )

    def _works(self) -> None:
        if self._failing:
            seconds = round(self._clock.monotonic() - self._failing_since, 1)
            log.info("reporting_works", seconds=seconds, left_to_sweep=self._state.left_to_sweep)
        self._failing = False
        self._wait = self._config.first_wait
        self._now(status="running")

    def _now(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)

    def _count(self, **more: int) -> None:
        self._now(**{name: getattr(self._state, name) + number for name, number in more.items()})
