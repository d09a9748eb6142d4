"""From finished letters to the profile topic: published, acknowledged, and out of the outbox.

A letter leaves the outbox only after the broker has acknowledged its report. What a crash, an outage or a
full buffer left there is found again by the sweep, so a report may come twice, with the same words, but it
does come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import structlog

from mailsender.aio import afterwards
from mailsender.kafka.port import RecordSink
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, TooLarge, Unavailable
from mailsender.model.letter import Answer, Letter, Origin
from mailsender.model.records import Landed, Outgoing, Record
from mailsender.observe.metrics import AGES, Times
from mailsender.queue.port import Queue
from mailsender.reports.report import report_bytes

log = structlog.get_logger()

ENVELOPE = 200
"""Bytes that a record takes beside key and value, at most, when it has no headers."""

SMALLEST = 2048
"""Bytes into which a report always fits, when everything that can be left out is."""

BREATH_BYTES = 512 * 1024
"""Bytes of letters whose reports are made before others get a turn: some milliseconds of CPU time. Ordinary
ones come to that less than once a batch."""

_GivenUp = tuple[Letter, int, Outgoing, Rejected]
"""A letter, which of its answers it is about, the report, and why the broker will never take it."""


JOINED: Final = 1000
"""Letters with a second publisher that are looked after; the sweep finds what is beyond."""

JOINED_AT_ONCE: Final = 16
"""Of them, those that are read in one round."""

SOON, LATER = 0.2, 10.0
"""Seconds between two looks at one of them: first and longest. One that ends in this replica is looked at at
once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterConfig:
    """How reports are published; times in seconds, sizes in bytes.

    `max_bytes` bounds the letters that wait for their report in memory, and once more those that a partition
    in trouble keeps waiting; `batch` and `batch_bytes` bound the reports of one round.
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

    `status` is ``running``, ``failing: <why>`` or ``stopped``; it fails, too, while a part of the reports can
    be published and another cannot: those are `put_off`. `given_up` counts the reports that the broker will
    never take: they are kept in the queue's store. `left_to_sweep` counts the letters that found no room
    while publishing failed.
    """

    status: str = "running"
    waiting: int = 0
    put_off: int = 0
    published: int = 0
    given_up: int = 0
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
        self._put_off: list[Letter] = []
        self._put_off_bytes = 0
        self._crowded = False  # one found no room among them since the last sweep
        self._again_at = 0.0
        self._pause = config.first_wait
        self._unmarked: list[Letter] = []
        self._in_hand: dict[str, int] = {}
        self._bytes = 0
        self._failing = False
        self._running = False
        self._ended = False
        self._swept: set[str] = set()  # of those in flight
        self._swept_out = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._sweep_at = clock.monotonic()
        self._ailing = False
        self._ailing_since = 0.0
        self._wait = config.first_wait
        # Each as it was brought, when to look at it, and the pause after that.
        self._joined: dict[tuple[str, Origin | None], tuple[Letter, float, float]] = {}
        self.times = Times()
        self.since_records = Times(AGES)  # until reports were acknowledged

    @property
    def bytes(self) -> int:
        """Bytes of the letters whose reports are to come, or to be acknowledged."""
        return self._bytes

    @property
    def state(self) -> ReporterState:
        """How it is; for readiness and status."""
        return replace(self._state, waiting=self._left(), put_off=len(self._put_off))

    def _left(self) -> int:
        return len(self._waiting) + len(self._put_off) + len(self._unmarked)

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

    def joined(self, letters: Iterable[Letter]) -> None:
        """Take letters as a further publisher brought them, who joined when they were on their way, or ended.

        That one's report goes out when they end, or at once where they have.
        """
        now = self._clock.monotonic()
        for each in letters:
            if len(self._joined) < JOINED:
                self._joined[each.id, each.answers[0].origin] = (each, now, SOON)
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> int:
        """Publish and mark until `stop` is set, then flush within the deadline.

        Returns how many letters are left; they stay unreported in the queue, and the next start's sweep
        finds them.
        """
        stopping = asyncio.create_task(stop.wait())
        self._running = True
        await afterwards(partial(self._until, stop, stopping), partial(self._end, stop, stopping))
        return self._left()

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

    async def _round(self, *, sweeps: bool = True) -> bool:
        """One batch, or a sweep; whether there may be more to do at once."""
        try:
            if self._unmarked:
                await self._mark()
            due = self._clock.monotonic() >= self._sweep_at
            if sweeps and due and self._room_taken() < self._config.max_bytes // 2:
                await self._sweep()
            if self._joined:
                await self._look_at_joined()
            if self._put_off and self._clock.monotonic() >= self._again_at:
                self._try_again()
            if self._waiting:
                await self._publish()
        except Unavailable as error:
            self._fails(error)
            return False
        finally:
            self._room.set()
        self._works()
        self._tell_swept()
        return bool(self._waiting)

    async def _rest(self, stopping: asyncio.Task[bool]) -> None:
        """Sleep until there is something to do, or to stop."""
        self._changed.clear()
        if self._failing:
            seconds = self._wait
            self._wait = min(self._config.longest_wait, self._wait * 2)
            await asyncio.wait({stopping}, timeout=seconds)
            return
        soon = min(self._sweep_at, self._again_at) if self._put_off else self._sweep_at
        if self._joined:
            soon = min(soon, *(at for _, at, _ in self._joined.values()))
        seconds = max(0.0, soon - self._clock.monotonic())
        changed = asyncio.create_task(self._changed.wait())
        await asyncio.wait({changed, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        await asyncio.gather(changed, return_exceptions=True)

    async def _flush(self) -> None:
        """Publish and mark what is in flight; a failure is tried again until the deadline.

        Nothing more is swept: there may be an outage's reports, and whoever lives, or starts, finds them.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.stop_timeout):
                while self._left():
                    self._again_at = 0.0
                    if not await self._round(sweeps=False) and (self._failing or self._put_off):
                        await asyncio.sleep(min(0.5, self._config.first_wait))
        if self._left():
            log.warning(
                "reports_left",
                letters=self._left(),
                doing="they are unreported in the queue; the next start publishes them",
            )

    # --- publishing ------------------------------------------------------------------------------

    async def _publish(self) -> None:
        """Publish a batch of reports, all before waiting for one; mark the letters acknowledged.

        What failed goes behind what was not tried yet, unless nothing can be published at all.
        """
        batch = self._next_batch()
        try:
            failed = await self._publish_batch(batch)
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise
        kept: dict[str, Letter] = {}
        for letter, _ in failed:
            kept.setdefault(letter.id, letter)
        self._unmarked += [letter for letter in batch if letter.id not in kept]
        left = [kept[letter.id] for letter in batch if letter.id in kept]
        away = bool(self._sink.trouble_with(self._config.topic))
        if away:
            self._waiting.extendleft(reversed(left))
        else:
            for letter in left:
                self._put(letter)
        if self._unmarked:
            await self._mark()
        if failed and away:
            raise failed[0][1]
        if failed:
            self._ails(failed[0][1])

    def _put(self, letter: Letter) -> None:
        """Put a letter off, or leave it to the sweep where too many are."""
        if self._put_off_bytes + letter.size > self._config.max_bytes and self._put_off:
            self._let_go(letter)
            self._count(left_to_sweep=1)
            self._crowded = True
            return
        if not self._put_off:
            self._again_at = self._clock.monotonic() + self._pause
        self._put_off.append(letter)
        self._put_off_bytes += letter.size

    def _try_again(self) -> None:
        """Let those that were put off have another try, behind all others."""
        self._waiting.extend(self._put_off)
        self._put_off, self._put_off_bytes = [], 0
        self._pause = min(self._config.longest_wait, self._pause * 2)

    def _next_batch(self) -> list[Letter]:
        batch: list[Letter] = []
        room = self._config.batch_bytes
        while self._waiting and len(batch) < self._config.batch and (room > 0 or not batch):
            batch.append(self._waiting.popleft())
            room -= batch[-1].size
        return batch

    async def _publish_batch(self, batch: Sequence[Letter]) -> list[tuple[Letter, Exception]]:
        """The letters whose reports were not all acknowledged, with the error of each.

        Of those the answers before the first that failed count as published: they are not asked for again.
        """
        asked = [(each, index) for each in batch for index in range(each.answered, len(each.answers))]
        limit = self._config.max_request_size
        records, heavy = [], 0
        for letter, index in asked:
            records.append(self._record(letter, letter.answers[index], limit))
            heavy += letter.size
            if heavy > BREATH_BYTES:
                heavy = 0
                await asyncio.sleep(0)
        failed: list[tuple[Letter, Exception]] = []
        refused: list[_GivenUp] = []
        began = self._clock.monotonic()
        results = await self._sink.publish(records)
        self.times.note(self._clock.monotonic() - began)
        for (letter, index), record, result in zip(asked, records, results, strict=True):
            found = result
            if isinstance(found, TooLarge):
                found = await self._publish_smaller(letter, letter.answers[index])
            if isinstance(found, Rejected):
                refused.append((letter, index, record, found))
            elif not isinstance(found, Landed):
                failed.append((letter.evolve(answered=index), found))
        self._count(published=len(asked) - len(failed) - len(refused))
        if refused:
            failed += await self._give_up(refused)
        return failed

    async def _give_up(self, refused: Sequence[_GivenUp]) -> list[tuple[Letter, Exception]]:
        """Keep reports that no try will ever publish where an operator finds them.

        Returns those that could not be kept now; they are tried again.
        """
        failed: list[tuple[Letter, Exception]] = []
        where = ""
        for letter, index, report, why in refused:
            record = Record(
                topic=f"{report.topic}/{letter.id}",
                partition=-1,
                offset=index,
                timestamp=-1,
                key=report.key,
                value=report.value,
            )
            try:
                where = await self._queue.keep_record(record, str(why))
            except Unavailable as error:
                failed.append((letter, error))
        kept = len(refused) - len(failed)
        if kept:
            self._count(given_up=kept)
            log.error(
                "reports_given_up",
                reports=kept,
                reason=str(refused[0][3]),
                letter=refused[0][0].id,
                kept_in=where,
                doing="the broker will never take them; each is kept in MongoDB instead",
                check="the settings of the topic, with `mailsender check`",
            )
        return failed

    async def _publish_smaller(self, letter: Letter, answer: Answer) -> Landed | Exception:
        """Ever smaller reports, down to one that holds the ID and the status; at last without the key."""
        limit, least = self._config.max_request_size, len(answer.key or b"") + ENVELOPE + SMALLEST
        result: Landed | Exception = TooLarge(f"its key alone takes {len(answer.key or b'')} bytes")
        # Once nothing but the key is left of it, further ones would not be smaller.
        while limit >= max(SMALLEST, least):
            limit = limit // 2 if limit == self._config.max_request_size else limit // 4
            (result,) = await self._sink.publish([self._record(letter, answer, limit)])
            if not isinstance(result, TooLarge):
                return result
        log.error(
            "report_too_large",
            letter=letter.id,
            reason=str(result),
            doing="a report without key and contents is published",
            check="the size that the broker takes (max.message.bytes) against KAFKA_MAX_REQUEST_SIZE",
        )
        bare = replace(answer, key=None)
        (result,) = await self._sink.publish([self._record(letter, bare, SMALLEST)])
        return result

    def _record(self, letter: Letter, answer: Answer, limit: int) -> Outgoing:
        """The record of a report that takes at most `limit` bytes, unless its key alone takes more."""
        room = max(SMALLEST, limit - ENVELOPE - len(answer.key or b""))
        value = report_bytes(letter, answer, with_body=self._config.with_body, limit=room)
        return Outgoing(topic=self._config.topic, key=answer.key, value=value)

    async def _mark(self) -> None:
        await self._queue.acknowledge(self._unmarked)
        self._count(marked=len(self._unmarked))
        marked, self._unmarked = self._unmarked, []
        self.since_records.note_since_records(marked, self._clock.epoch())
        for letter in marked:
            if letter.id in self._swept:
                self._swept_out += 1
            self._let_go(letter)

    def _let_go(self, letter: Letter) -> None:
        self._bytes -= letter.size
        self._in_hand[letter.id] -= 1
        if not self._in_hand[letter.id]:
            del self._in_hand[letter.id]
            self._swept.discard(letter.id)

    async def _sweep(self) -> None:
        """Find what was left unmarked; at once again when there may be more, and room for it."""
        # Those that were put off are the oldest of all and would hide the others.
        limit = self._config.batch + len(self._put_off)
        found = await self._queue.unreported(self._config.sweep_age, limit)
        fresh = [letter for letter in found if letter.id not in self._in_hand]
        for letter in fresh:
            self._take(letter)
        self._count(swept=len(fresh))
        self._swept.update(letter.id for letter in fresh)
        if len(found) < limit or self._crowded:
            self._sweep_at = self._clock.monotonic() + self._config.sweep_every
        self._crowded = False

    def _tell_swept(self) -> None:
        """Say how many of those found are out, once all are that can be and no more are to be found."""
        if self._swept_out and not self._waiting and self._clock.monotonic() < self._sweep_at:
            log.info("reports_swept", letters=self._swept_out, doing="they are published now")
            self._swept_out = 0

    async def _look_at_joined(self) -> None:
        """Take those that have ended, each for the publisher who joined it late."""
        now = self._clock.monotonic()
        due = [each for each, (_, at, _) in self._joined.items() if at <= now][:JOINED_AT_ONCE]
        for each in due:
            letter, _, wait = self._joined[each]
            known = await self._queue.get(letter.id)
            if known is not None and not known.status.final:
                self._joined[each] = (letter, now + wait, min(LATER, 2 * wait))
                continue
            del self._joined[each]
            if known is not None and not self._full(known):
                self._take(known.evolve(answers=letter.answers, answered=0))

    # --- accounts --------------------------------------------------------------------------------

    def _full(self, letter: Letter) -> bool:
        """Whether there is no room for `letter`; a letter alone may be larger than the bound."""
        taken = self._room_taken()
        return bool(taken) and taken + letter.size > self._config.max_bytes

    def _room_taken(self) -> int:
        """Bytes of letters in flight, but for those that were put off, which have a bound of their own."""
        return self._bytes - self._put_off_bytes

    def _take(self, letter: Letter) -> None:
        self._waiting.append(letter)
        self._bytes += letter.size
        self._in_hand[letter.id] = self._in_hand.get(letter.id, 0) + 1

    def _fails(self, error: Exception) -> None:
        """Nothing can be published, or marked, now."""
        self._failing = True
        self._ails(error)

    def _ails(self, error: Exception) -> None:
        """Something cannot be published now."""
        self._now(status=f"failing: {error}")
        if not self._ailing:
            self._ailing, self._ailing_since = True, self._clock.monotonic()
            log.warning(
                "reporting_fails",
                reason=str(error),
                doing="reports wait in the queue and are published later; nothing else waits for them",
            )

    def _works(self) -> None:
        self._failing = False
        self._wait = self._config.first_wait
        if self._put_off:
            return
        self._pause = self._config.first_wait
        if self._ailing:
            seconds = round(self._clock.monotonic() - self._ailing_since, 1)
            log.info("reporting_works", seconds=seconds, left_to_sweep=self._state.left_to_sweep)
        self._ailing = False
        self._now(status="running")

    def _now(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)

    def _count(self, **more: int) -> None:
        self._now(**{name: getattr(self._state, name) + number for name, number in more.items()})
