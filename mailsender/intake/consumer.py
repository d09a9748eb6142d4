"""From the in-topic to the queue: records -> letters -> durable -> committed.

An offset is committed only when every letter of its record is durable, and its dead letter, if it is one,
acknowledged. Ids are computed from the origin, so whatever is read twice is stored once; that makes every
step safe to repeat, and so nothing is ever skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from mailsender.aio import afterwards
from mailsender.intake.attachments import Attachments, Contents
from mailsender.intake.batch import NotABatch, read_batch
from mailsender.intake.dead_letters import DeadLetters, DeadRecord
from mailsender.intake.placing import Placing
from mailsender.intake.schema import Limits
from mailsender.kafka.port import RecordSink, RecordSource
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.handling import PLAIN
from mailsender.model.history import APART, History, Milestone, Standing, digest_of
from mailsender.model.letter import FreshClaim, Letter, Origin, Status, now_ms
from mailsender.model.records import Record, record_bytes
from mailsender.observe.conditions import Condition
from mailsender.observe.metrics import Times
from mailsender.queue.port import Inserted, Queue

log = structlog.get_logger()

T = TypeVar("T")

NOT_A_BATCH = "not-a-batch"
TOO_OLD = "older-than-retention"
UNREADABLE = "unreadable"
TOO_MANY_FAULTS = "too-many-faults"

_NOT_STORED = (Inserted.CLASH, Inserted.TAKEN, Inserted.CROWDED)

SURELY_STORED = 1024 * 1024
"""Bytes up to which a letter is stored as it is, so that its report can be made before it is read back."""

APART_CLOCKS = 5.0
"""Seconds by which the clock of this machine, or of a producer, may be off before it is said."""

SAID_AGAIN = 3600.0
"""Seconds after which it is said again."""

ASK_AGAIN = 30.0
"""Seconds of filling letters in after which the source is asked, so that the group keeps us: 20,000 letters
with a costly template take an hour, and a member is put out after five minutes of silence."""

BREATH = 0.001
"""Seconds of decoding before the senders' sessions get a turn: a letter takes some 10 µs, and a hundred
milliseconds with thousands of addresses."""


class Owner(Protocol):
    """Who may have letters as soon as they are stored: see `mailsender.sending.dispatcher.Dispatcher`."""

    async def fresh_claims(self, letters: Sequence[Letter]) -> Sequence[FreshClaim]:
        """Claims for letters about to be stored; none where they have to wait their turn."""
        ...

    def take_fresh(
        self, claims: Sequence[FreshClaim], letters: Sequence[Letter], found: Sequence[Inserted]
    ) -> None:
        """Take those that were stored under these claims, whatever happened meanwhile."""
        ...

    def lose_fresh(self, claims: Sequence[FreshClaim]) -> None:
        """Nobody will say what was stored under these claims."""
        ...

    def nudge(self) -> None:
        """Letters were stored that nobody owns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeConfig:
    """How records become letters; times in seconds, sizes in bytes.

    A record that was taken in longer than `retention` ago goes to `dead_letter_topic` when it is read again:
    the queue may have forgotten that its letters were sent. Up to `batch` letters, or `batch_bytes` of them,
    are inserted at once. While the queue or the dead-letter topic is away the wait grows from `first_wait` to
    `longest_wait`. After `stop_timeout` a stop no longer waits for the insert under way. `poll` is how long
    one fetch waits for records: one that comes ends it, and so does a stop, so that it says only how often an
    idle service wakes.
    """

    dead_letter_topic: str
    retention: float
    limits: Limits = field(default_factory=Limits)
    batch: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    first_wait: float = 1.0
    longest_wait: float = 15.0
    stop_timeout: float = 10.0
    poll: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeState:
    """What intake is at, and what it did since the start.

    `status` is ``starting``, ``running``, ``waiting: <for what>`` or ``stopped``.
    """

    status: str = "starting"
    records: int = 0
    letters: int = 0
    bad_letters: int = 0
    errors: int = 0
    dead_letters: int = 0
    replays: int = 0
    joined: int = 0
    clashes: int = 0
    records_lost: int = 0


class _Stopped(Exception):  # noqa: N818  a way out, not a mistake
    """It is time to stop, and what was being tried did not succeed; its offsets stay uncommitted."""


class _Batch:
    """Letters on their way into the queue, and the offsets that may be committed once they are there."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.dead: list[DeadRecord] = []
        self.offsets: dict[tuple[str, int], int] = {}
        self.last: dict[tuple[str, int], Record] = {}
        self.aged: dict[tuple[str, int], list[int]] = {}
        self.bytes = 0
        self.attached = Contents()

    def add(self, letter: Letter, contents: Contents) -> None:
        self.letters.append(letter)
        self.bytes += letter.size
        if letter.mail:
            self.bytes += self.attached.take_named(letter, contents)

    def bury(self, record: Record, reason: str, detail: str) -> None:
        self.dead.append(DeadRecord(record=record, reason=reason, detail=detail))
        self.bytes += record_bytes(record)

    def passed(self, record: Record) -> None:
        """All of `record` is in this batch or an earlier one."""
        place = record.topic, record.partition
        self.offsets[place] = record.offset + 1
        self.last[place] = record


class _Past:
    """What is known of a partition, and how far it has been read since.

    `reached` is where it is by now, which is noted with the queue every few seconds; `since` is when the
    first record after the last note was met.
    """

    def __init__(self, history: History, first: int) -> None:
        self.history = history
        self.first = first
        self.next = first
        self.reached: Milestone | None = None
        self.since = 0.0
        self.noted = 0.0


class Intake:
    """One member's way from the in-topic into the queue.

    It opens the source when it runs and closes it when it ends; queue and sink are opened and closed by the
    composition root. `owner` gets letters that can be sent; `final` takes those that are errors from the
    start, once they are durable, for their report; `joined` hears of letters that another record had brought
    before. `fill` makes of a letter with further keys what goes into the queue: see
    `mailsender.intake.templates`. `attachments` stores what letters bring with them, and looks for what they
    name.

    While one batch is being stored the next one is decoded; its storing begins when the first is durable.
    """

    def __init__(
        self,
        source: RecordSource,
        queue: Queue,
        sink: RecordSink,
        *,
        config: IntakeConfig,
        clock: Clock,
        machine: Clock | None = None,
        owner: Owner | None = None,
        final: Callable[[Sequence[Letter]], Awaitable[None]] | None = None,
        joined: Callable[[Sequence[Letter]], None] | None = None,
        fill: Callable[[Letter, datetime], Awaitable[Letter]] | None = None,
        attachments: Attachments | None = None,
        placing: Placing | None = None,
    ) -> None:
        self._source = source
        self._queue = queue
        self._config = config
        self._clock = clock
        self._machine = machine or clock  # the machine's own, where `clock` is another one
        self._owner = owner
        self._final = final
        self._joined = joined
        self._fill = fill
        self._placing = placing or Placing()
        self._attachments = attachments or Attachments(None, config.limits, clock)
        self._state = IntakeState()
        self.times = Times()  # of inserts
        self.conditions = {"MongoDB": Condition(part="mongodb"), "Kafka": Condition(part="kafka")}
        self._records = 0
        self._dead_letters = DeadLetters(queue, sink, topic=config.dead_letter_topic, clock=clock)
        self._stopping: asyncio.Task[Any]  # from the start of `run`
        self._storing: asyncio.Task[None] | None = None
        self._turn_ends = 0.0  # on the event loop's clock
        self._asked = 0.0  # when the source was
        self._committing: asyncio.Task[bool] | None = None
        self._under_way: dict[tuple[str, int], Milestone] = {}
        self._to_commit: dict[tuple[str, int], Milestone] = {}
        self._pasts: dict[tuple[str, int], _Past] = {}
        self._generation = -1  # of the source's, in which they, and what is to be committed, were met
        self._epoch = 0.0
        self._said_clocks: dict[str, float] = {}

    @property
    def state(self) -> IntakeState:
        """How it is; for readiness and status."""
        return replace(self._state, records=self._records, records_lost=self._source.lost)

    async def run(self, stop: asyncio.Event) -> None:
        """Take records in until `stop` is set; then end the insert under way, commit and leave the group.

        Waits out a queue, a broker or a dead-letter topic that is away.
        """
        # Begun again after a fault of ours, it knows nothing of what was under way: that comes again.
        self._storing = self._committing = None
        self._under_way, self._to_commit = {}, {}
        self._generation = -1
        self._stopping = asyncio.create_task(stop.wait())
        work = asyncio.create_task(self._work(stop))
        await afterwards(partial(self._until, work), partial(self._close, work))
        if not work.cancelled():
            work.result()

    async def _until(self, work: asyncio.Task[None]) -> None:
        await self._source.open()
        await asyncio.wait({work, self._stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({work}, timeout=self._config.stop_timeout)
        if not work.done():
            log.warning(
                "intake_cut_short",
                after_seconds=self._config.stop_timeout,
                doing="what was being taken in is not committed and will be read again",
            )

    async def _close(self, work: asyncio.Task[None]) -> None:
        await _ended(work, self._stopping)
        await _ended(self._storing, self._committing)
        await self._source.close()
        for condition in self.conditions.values():
            condition.clear()
        self._now(status="stopped")

    async def _work(self, stop: asyncio.Event) -> None:
        self._now(status="running")
        with suppress(_Stopped):
            while not stop.is_set():
                # Before the source is asked again: a store that has to wait asks it, too.
                await self._stored()
                records = await self._unless_stopped(self._source.fetch(self._config.poll))
                if self._source.generation != self._generation:
                    await self._begin_generation()
                if records:
                    await self._take(records, stop)
                elif self._to_commit:
                    await self._commit()
            await self._stored()
        await self._commit()
        await self._end_commit()
        await self._note_pasts()

    async def _take(self, records: Sequence[Record], stop: asyncio.Event) -> None:
        """Take records in, in order; a stop ends it between two inserts, and the rest stays uncommitted."""
        batch = _Batch()
        most = self._config.limits.faulty
        self._epoch = await self._insist("MongoDB", self._queue.now, stop)
        self._compare_clocks(records[-1])
        self._asked = self._clock.monotonic()
        now, plain = now_ms(self._epoch), not self._placing.everybody
        contents = Contents()
        for record in records:
            faulty = 0
            contents = contents.emptied()
            past = self._pasts.get((record.topic, record.partition))
            if past is None or record.offset < past.next:
                past = await self._recall(record, stop)
            past.next = record.offset + 1
            for read in self._letters(record, batch, past.history, contents):
                letter = read if plain and read.handling is PLAIN else self._placing.placed(read, now)
                letter = await self._filled(letter, stop) if letter.mail else letter
                faulty += letter.status is Status.ERROR
                if faulty > most and letter.status is Status.ERROR:
                    await self._breathe()
                    continue
                if self._full(batch):
                    batch = await self._store(batch, stop)
                    if stop.is_set():
                        return
                batch.add(letter, contents)
                await self._breathe()
            if faulty > most:
                told = f"{faulty} of its letters are wrong; the first {most} of them have reports"
                standing = past.history.standing(record.offset)
                self._bury_once(record, batch, standing, TOO_MANY_FAULTS, told)
            batch.passed(record)
            self._records += 1  # not by `_count`: a record may hold a single letter
            if self._full(batch):
                batch = await self._store(batch, stop)
                if stop.is_set():
                    return
            await self._breathe()
        await self._store(batch, stop)

    async def _filled(self, letter: Letter, stop: asyncio.Event) -> Letter:
        """What goes into the queue of a letter with further keys. Waits out a store that is away."""
        if self._fill is None:
            return letter
        if self._clock.monotonic() - self._asked > ASK_AGAIN:
            await self._stored()  # it may be waiting, too, and both would ask the source
            await self._unless_stopped(self._source.idle(0.0))
            self._asked = self._clock.monotonic()
        fill = partial(self._fill, letter, now_ms(self._epoch))
        with suppress(Unavailable):
            return await fill()
        await self._stored()  # as above
        return await self._insist("MongoDB", fill, stop)

    async def _breathe(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() > self._turn_ends:
            await asyncio.sleep(0)
            self._turn_ends = loop.time() + BREATH

    def _full(self, batch: _Batch) -> bool:
        return len(batch.letters) >= self._config.batch or batch.bytes >= self._config.batch_bytes

    def _letters(
        self, record: Record, batch: _Batch, history: History, contents: Contents
    ) -> Iterator[Letter]:
        """The letters of a record, one by one; none where it is a dead letter, which goes to `batch`.

        What they bring with them goes to `contents`.
        """
        standing = history.standing(record.offset)
        if self._may_be_forgotten(record, standing, history):
            if history.was_buried(record.offset):
                self._count(replays=1)
                return
            batch.bury(record, TOO_OLD, "it was taken in before, and may have been sent and forgotten since")
            batch.aged.setdefault((record.topic, record.partition), []).append(record.offset)
            return
        if record.fault:
            self._bury_once(record, batch, standing, UNREADABLE, record.fault)
            return
        try:
            letters = read_batch(
                record.value,
                record.key,
                self._config.limits,
                origin=lambda index: Origin(
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    index=index,
                    timestamp=record.timestamp,
                ),
                now=now_ms(self._epoch),
                keep=contents.keep,
            )
        except NotABatch as error:
            self._bury_once(record, batch, standing, NOT_A_BATCH, str(error))
            return
        yield from letters

    def _bury_once(self, record: Record, batch: _Batch, standing: Standing, reason: str, detail: str) -> None:
        """Bury a record, unless it was taken in before: then it is a dead letter already."""
        if standing is Standing.NEW:
            batch.bury(record, reason, detail)
        else:
            self._count(replays=1)

    def _may_be_forgotten(self, record: Record, standing: Standing, history: History) -> bool:
        """Whether its letters may have been sent, and forgotten since."""
        if standing is Standing.AGAIN:
            return False
        if standing is Standing.FORGOTTEN:
            return True
        age = self._epoch - record.timestamp / 1000
        old = record.timestamp >= 0 and age > self._config.retention
        if standing is Standing.NEW:
            # Of a partition that nobody knows yet: what its broker says, but not what a producer says.
            return old and record.appended and not history.milestones
        return old

    # --- what is known of partitions -------------------------------------------------------------

    async def _begin_generation(self) -> None:
        """Forget what is known of partitions that came or went: others may have gone on with them."""
        self._generation = self._source.generation
        await self._note_pasts()
        self._pasts.clear()
        self._under_way, self._to_commit = {}, {}

    async def _recall(self, record: Record, stop: asyncio.Event) -> _Past:
        """Ask the queue what it knows of a partition that comes to us, or in which we were set back."""
        if (record.topic, record.partition) in self._pasts:
            await self._note_past((record.topic, record.partition))
        ask = partial(self._queue.history, record.topic, record.partition)
        history = await self._insist("MongoDB", ask, stop)
        past = _Past(history.aged(self._epoch, self._config.retention), record.offset)
        self._pasts[record.topic, record.partition] = past
        return past

    async def _remember(self, batch: _Batch) -> None:
        """Note how far partitions were taken in, now that this is durable."""
        now = self._clock.monotonic()
        for place, offset in batch.offsets.items():
            last = batch.last[place]
            digest = digest_of(last.key, last.value, last.timestamp)
            reached = Milestone(offset=offset, at=self._epoch, last=last.offset, digest=digest)
            self._to_commit[place] = reached
            past = self._pasts.get(place)
            if past is None:
                continue
            for aged in batch.aged.get(place, ()):
                past.history = past.history.bury(aged)
            if past.reached is None:
                past.since = self._epoch
            past.reached = reached
            if now - past.noted >= APART or place in batch.aged:
                past.noted = now
                await self._note_past(place)

    async def _note_pasts(self) -> None:
        for place, past in self._pasts.items():
            await self._note_past(place)
            if past.reached is not None:
                return  # the store is away: to wait for it once is enough

    async def _note_past(self, place: tuple[str, int]) -> None:
        past = self._pasts[place]
        if past.reached is None:
            return
        history = past.history.reached(past.reached, past.since, past.first)
        history = history.aged(self._epoch, self._config.retention)
        with suppress(Unavailable):  # the next note says it, too
            await self._queue.note_history(*place, history)
            past.history, past.reached = history, None

    def _compare_clocks(self, record: Record) -> None:
        """Say where a clock is wrong. Nothing is decided by it, but other programs may go by it."""
        off = self._machine.epoch() - self._epoch
        if abs(off) > 2 * APART_CLOCKS:  # the store's time is that of an answer some seconds ago
            self._say_clock("this machine", off)
        ahead = record.timestamp / 1000 - self._epoch
        if ahead > 60:
            self._say_clock(f"the producer of {record.topic}[{record.partition}]", ahead)

    def _say_clock(self, whose: str, off: float) -> None:
        now = self._clock.monotonic()
        if now < self._said_clocks.get(whose, 0.0) or len(self._said_clocks) > 1000:
            return
        self._said_clocks[whose] = now + SAID_AGAIN
        log.warning(
            "clocks_disagree",
            whose=whose,
            seconds_ahead=round(off, 1),
            of="MongoDB's clock",
            doing="this service goes by MongoDB's clock",
            check="that NTP runs on both",
        )

    async def _store(self, batch: _Batch, stop: asyncio.Event) -> _Batch:
        """Begin to store a batch once the one before it is durable, unless it is time to stop.

        Returns an empty one.
        """
        await self._stored()
        if not stop.is_set():
            self._storing = asyncio.create_task(self._keep(batch, stop))
        return _Batch()

    async def _stored(self) -> None:
        """Wait for the batch that is being stored. Raises what its storing raised."""
        task = self._storing
        if task is not None:
            await task
            self._storing = None

    async def _keep(self, batch: _Batch, stop: asyncio.Event) -> None:
        """Make a batch durable, then begin to commit its offsets."""
        letters: Sequence[Letter] = batch.letters
        if batch.attached.refs:
            secure = partial(self._attachments.secure, letters, batch.attached)
            letters = await self._insist("MongoDB", secure, stop)
        if letters:
            await self._insert(letters, stop)
            self._attachments.inserted()
        if batch.dead:
            buried = len(batch.dead)
            self._dead_letters.tell(batch.dead)
            await self._insist("Kafka", partial(self._dead_letters.bury, batch.dead), stop)
            self._count(dead_letters=buried)
        if batch.offsets:
            await self._remember(batch)
            await self._commit()

    # --- letters ---------------------------------------------------------------------------------

    async def _insert(self, letters: Sequence[Letter], stop: asyncio.Event) -> None:
        found = await self._insert_owned(letters, stop)
        refused = [(letter, what) for letter, what in zip(letters, found, strict=True) if what in _NOT_STORED]
        taken = found.count(Inserted.TAKEN)
        self._count(
            letters=len(letters),
            bad_letters=sum(letter.status is Status.ERROR for letter in letters),
            replays=found.count(Inserted.REPLAY),
            joined=found.count(Inserted.JOINED) + found.count(Inserted.LATE),
            clashes=len(refused) - taken,
            errors=_final(letters, found),
        )
        _tell_bad(letters, found)
        await self._answer(letters, found)
        if not refused:
            return
        if taken:
            log.warning(
                "origins_used_again",
                letters=taken,
                doing="they are sent under other IDs: their topic was made again, or its offsets were reset",
            )
        others = [self._instead(letter, what) for letter, what in refused]
        insert = partial(self._attachments.still_secured, partial(self._queue.insert, others))
        again = await self._insist("MongoDB", insert, stop)
        self._count(errors=_final(others, again))
        for letter, what in zip(others, again, strict=True):
            if what in _NOT_STORED:  # two hashes of 64 bits in the same second: one in 2**64, so say it
                log.error("letter_id_collision", id=letter.id, origin=str(letter.answers[0].origin))
        await self._answer(others, again)
        if self._owner is not None and _sendable(others, again):
            self._owner.nudge()

    async def _insert_owned(self, letters: Sequence[Letter], stop: asyncio.Event) -> list[Inserted]:
        """Store letters, as claimed by their owner where it can take them."""
        owner = self._owner
        claims = await owner.fresh_claims(letters) if owner is not None else []
        began = self._clock.monotonic()
        insert = partial(self._attachments.still_secured, partial(self._queue.insert, letters, claims))
        try:
            found = await self._insist("MongoDB", insert, stop)
        except BaseException:
            if owner is not None:
                owner.lose_fresh(claims)
            raise
        self.times.note(self._clock.monotonic() - began)
        if owner is not None and claims:
            owner.take_fresh(claims, letters, found)
        if owner is not None and _sendable(letters, found):
            owner.nudge()
        return found

    async def _answer(self, letters: Sequence[Letter], found: Sequence[Inserted]) -> None:
        """Hand on what is final already, and say who has got a further publisher.

        The reporter's sweep makes up for what is not handed on here.
        """
        if self._final is None:
            return
        ends: list[Letter] = []
        joined: list[Letter] = []
        for letter, what in zip(letters, found, strict=True):
            if what is Inserted.NEW and letter.status.final and letter.size < SURELY_STORED:
                ends.append(letter)
            elif what is Inserted.LATE:
                joined.append(letter)
        if joined and self._joined is not None:
            self._joined(joined)
        if ends:
            await self._final(ends)

    def _instead(self, letter: Letter, what: Inserted) -> Letter:
        """What comes in for a letter that cannot under its ID: itself under another, or an answer to it.

        An answer is an error letter: the report for the first letter must not be contradicted.
        """
        origin = letter.answers[0].origin
        if origin is None:
            raise ValueError("a letter from a record has an origin")
        if what is Inserted.TAKEN:
            return letter.evolve(id=origin.other_id(letter.content))
        if what is Inserted.CLASH:
            fault = f"duplicate-id: the ID {letter.id} was given to a letter with other content before"
        else:
            fault = (
                f"shared-too-often: the letter {letter.id} was accepted before, and so many publishers share"
                " it that this one finds no room; the others' reports tell what became of it"
            )
        return letter.evolve(
            id=origin.other_id(letter.id.encode() + letter.content),
            status=Status.ERROR,
            reason=f"{fault}; {letter.reason}" if letter.reason else fault,
            finished_at=now_ms(self._clock.epoch()),
            digest=letter.content,
        )

    # --- commits ---------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Begin to commit what is durable once the last commit is through; the next insert runs beside it."""
        await self._end_commit()
        if self._source.generation != self._generation:
            self._to_commit = {}  # it is read again, from what its reader committed
        if self._to_commit:
            self._under_way, self._to_commit = self._to_commit, {}
            offsets = {place: reached.offset for place, reached in self._under_way.items()}
            notes = {place: reached.text() for place, reached in self._under_way.items()}
            self._committing = asyncio.create_task(self._source.commit(offsets, notes))

    async def _end_commit(self) -> None:
        task, self._committing = self._committing, None
        if task is not None and not await task:
            self._to_commit = {**self._under_way, **self._to_commit}

    # --- waiting ---------------------------------------------------------------------------------

    async def _insist(self, what: str, call: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Call until it succeeds, staying in the group meanwhile.

        Raises:
            _Stopped: it did not succeed and it is time to stop.
        """
        began, wait = self._clock.monotonic(), self._config.first_wait
        waited = False
        while True:
            try:
                result = await call()
            except Unavailable as error:
                away = error
            else:
                if waited:
                    self.conditions[what].clear()
                    self._now(status="running")
                    seconds = round(self._clock.monotonic() - began, 1)
                    log.info("intake_goes_on", for_=what, seconds=seconds)
                return result
            if not waited:
                waited = True
                self.conditions[what].set(str(away), self._clock.epoch())
                self._now(status=f"waiting: {what}: {away}")
                log.warning(
                    "intake_waits",
                    for_=what,
                    reason=str(away),
                    doing="no records are taken until it is back; nothing is lost",
                )
            await self._idle(wait, stop)
            wait = min(self._config.longest_wait, wait * 2)
            if stop.is_set():
                raise _Stopped from away

    async def _idle(self, seconds: float, stop: asyncio.Event) -> None:
        ends = self._clock.monotonic() + seconds
        while (left := ends - self._clock.monotonic()) > 0 and not stop.is_set():
            await self._unless_stopped(self._source.idle(min(left, self._config.poll)))

    async def _unless_stopped(self, asking: Coroutine[Any, Any, T]) -> T | None:
        """What the source says; None when it is time to stop and it says nothing yet."""
        asked = asyncio.create_task(asking)
        first = partial(asyncio.wait, {asked, self._stopping}, return_when=asyncio.FIRST_COMPLETED)
        await afterwards(first, partial(_ended, asked))
        return None if asked.cancelled() else asked.result()

    def _now(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)

    def _count(self, **more: int) -> None:
        self._now(**{name: getattr(self._state, name) + number for name, number in more.items()})


def _tell_bad(letters: Sequence[Letter], found: Sequence[Inserted]) -> None:
    """One event for a batch, however many. What its publisher wrote is in no reason: it names fields."""
    bad = [
        letter
        for letter, what in zip(letters, found, strict=True)
        if what is Inserted.NEW and letter.status is Status.ERROR
    ]
    if not bad:
        return
    first, origin = bad[0], bad[0].answers[0].origin
    log.warning(
        "bad_letters",
        letters=len(bad),
        first=first.id,
        origin=origin and f"{origin.topic}[{origin.partition}]@{origin.offset}, letter {origin.index}",
        reason=first.reason,
        doing="they are errors, and their publishers get reports; the letters beside them are sent",
    )


def _final(letters: Sequence[Letter], found: Sequence[Inserted]) -> int:
    """How many letters were stored now that are errors from the start."""
    return sum(
        what is Inserted.NEW and letter.status.final for letter, what in zip(letters, found, strict=True)
    )


def _sendable(letters: Sequence[Letter], found: Sequence[Inserted]) -> bool:
    """Whether letters came into the queue that can be sent, and that nobody owns."""
    return any(
        what is Inserted.NEW and not letter.status.final for letter, what in zip(letters, found, strict=True)
    )


async def _ended(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks that still run and wait for them; their errors are looked at by whoever needs them."""
    for task in tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
