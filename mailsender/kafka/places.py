"""Where the partitions of a member are read (`mailsender.kafka.positions`), asked for and kept.

A partition that comes to us is paused until it is known where its reading goes on: it waits for its leader by
itself, and no other waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from mailsender.kafka.client import described
from mailsender.kafka.losses import Losses, named
from mailsender.kafka.positions import Met, Place, placed
from mailsender.kafka.private import Known, ask, leader_of, position_of
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.history import Histories, History
from mailsender.model.records import Record

PLACING_TAKES = 5.0
"""Seconds that it may take to find out where a partition is read: before that it is no trouble."""

TOGETHER = 1.0
"""Seconds in which the brokers tell of all partitions together, or each is asked for by itself."""

PLACED_AGAIN = 1.0
"""Seconds after which it is asked again where a partition is to be read."""

LEADERS_EVERY = 1.0
"""Seconds between two looks at who leads the partitions."""

LOOKED_AGAIN = 5.0
"""Seconds between two looks whether offsets that were left out had been deleted."""


class Places:
    """Those of one consumer after another; partitions that are `waiting` are paused, and not to be read.

    `timeout` is for one request, in seconds. `keeps` tells whether a consumer is still the one in use,
    `resume` has it read a partition that has its place. `generation` is another one after partitions were
    assigned, or taken away. `moved` is set when reading of a partition went
    elsewhere: what else was fetched of it before is nobody's.
    """

    def __init__(
        self,
        histories: Histories | None,
        clock: Clock,
        *,
        timeout: float,
        keeps: Callable[[AIOKafkaConsumer], bool],
        resume: Callable[[AIOKafkaConsumer, TopicPartition], None],
    ) -> None:
        self.losses = Losses()
        self.waiting: dict[TopicPartition, str] = {}  # and why
        self.moved = False
        self.generation = 0
        self._histories = histories
        self._clock = clock
        self._timeout = timeout
        self._keeps = keeps
        self._resume = resume
        self._waiting_since: dict[TopicPartition, float] = {}
        self._compared: dict[TopicPartition, Place] = {}  # those whose next record is to be compared
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, tuple[int, str]] = {}
        self._leaders: dict[TopicPartition, int] = {}
        self._leaders_at = 0.0
        self._gaps: dict[TopicPartition, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ask nobody any more."""
        for task in list(self._tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def forget(self) -> None:
        """No partition is ours now."""
        self.generation += 1
        self.waiting.clear()
        self._compared.clear()
        self._next.clear()
        self._committed.clear()
        self._leaders.clear()

    def assign(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """These are ours from now on, and are read as soon as it is known where."""
        self.forget()
        mine = sorted(partitions)
        for partition in mine:
            self._set_aside(consumer, partition, "it is not known yet where it is to be read")
        self._begin_task(self._place_all(consumer, mine, self.generation))

    # --- what is known ---------------------------------------------------------------------------

    def next_of(self, partition: TopicPartition) -> int | None:
        """The offset behind the last record that was handed out, None where none was."""
        return self._next.get(partition)

    @property
    def trouble(self) -> str:
        """Which partition waits for longer than it should, and why; empty where none does."""
        now = self._clock.monotonic()
        for partition, reason in self.waiting.items():
            if now - self._waiting_since.get(partition, now) >= PLACING_TAKES:
                return f"{named(partition)} waits: {reason}"
        return ""

    def admit(self, consumer: AIOKafkaConsumer, partition: TopicPartition, record: Record) -> bool:
        """Whether a record is to be handed out; else it is compared with what is known, or nobody's."""
        if partition in self.waiting:
            return False  # what was fetched before reading moved
        place = self._compared.get(partition)
        if place is not None:
            self._compare(consumer, partition, place, record)
            return False
        expected = self._next.get(partition)
        if expected is not None and record.offset < expected:
            # The broker had nothing at our position any more, and the library began anew.
            self._place_again(consumer, partition, "its log became shorter")
            return False
        if expected is not None and record.offset > expected:
            self._look_for_loss(consumer, partition, expected)
        self._next[partition] = record.offset + 1
        return True

    def committed(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """These are committed, each with its note."""
        self._committed.update(offsets)

    def behind(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, tuple[int, str]]:
        """What lies behind the last records and may be committed with them: markers of transactions.

        Nobody hands those out, and else the lag would never be 0. Only where all that was handed out is
        committed; what is returned counts as committed.
        """
        found: dict[TopicPartition, tuple[int, str]] = {}
        for partition in self._read(consumer):
            expected = self._next.get(partition)
            committed, note = self._committed.get(partition, (None, ""))
            position = position_of(consumer, partition)
            if expected is None or position is None or position <= expected:
                continue
            if committed == expected or (committed is None and expected == 0):
                found[partition] = position, note
        for partition, (position, _) in found.items():
            self._next[partition] = position
        self._committed.update(found)
        return found

    def look_at_leaders(self, consumer: AIOKafkaConsumer) -> None:
        """Compare again where a partition has another leader: its log may be shorter than the last one's.

        What is not committed yet is handed out again, which harms nothing.
        """
        now = self._clock.monotonic()
        if now < self._leaders_at:
            return
        self._leaders_at = now + LEADERS_EVERY
        for partition in self._read(consumer):
            leader = leader_of(consumer, partition)
            if leader >= 0 and self._leaders.get(partition, leader) != leader:
                self._place_again(consumer, partition, "its leader changed")

    def _read(self, consumer: AIOKafkaConsumer) -> set[TopicPartition]:
        """The partitions whose next record is handed out."""
        mine: set[TopicPartition] = consumer.assignment() - self.waiting.keys() - self._compared.keys()
        return mine

    # --- finding them ----------------------------------------------------------------------------

    def _place_again(self, consumer: AIOKafkaConsumer, partition: TopicPartition, why: str) -> None:
        self._set_aside(consumer, partition, why)
        self._begin_task(self._place(consumer, partition, self.generation))

    def _set_aside(self, consumer: AIOKafkaConsumer, partition: TopicPartition, why: str) -> None:
        """Read no more of a partition until it is placed."""
        consumer.pause(partition)
        self.waiting[partition] = why
        self._waiting_since[partition] = self._clock.monotonic()
        self._compared.pop(partition, None)
        self._next.pop(partition, None)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ours(self, consumer: AIOKafkaConsumer, generation: int) -> bool:
        """Whether partitions are those yet that were assigned then."""
        return generation == self.generation and self._keeps(consumer)

    async def _place_all(
        self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], generation: int
    ) -> None:
        """Place partitions that were assigned together, with few requests where none is in trouble."""
        known: Known | None = None
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(TOGETHER):
                known = await ask(consumer, partitions)
        if generation == self.generation:
            for partition in partitions:
                self._begin_task(self._place(consumer, partition, generation, known))

    async def _place(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        generation: int,
        known: Known | None = None,
    ) -> None:
        """Find out where a partition is to be read, and let it be read there; tries until it is known.

        `known` is what the brokers said of it just now, if they did.
        """
        while self._ours(consumer, generation):
            try:
                async with asyncio.timeout(2 * self._timeout):
                    told, known = known or await ask(consumer, [partition]), None
                    place = await self._find(partition, told)
                    if place.cut is not None:
                        await self._cut(consumer, partition, place.cut, generation)
                if self._ours(consumer, generation):
                    if place.committed is not None:
                        self._committed[partition] = place.committed, _note(partition, told)
                    self._tell(partition, place)
                    self._go(consumer, partition, place)
            except Exception as error:  # noqa: BLE001  whatever it is, this partition waits, and no other
                if not self._ours(consumer, generation):
                    return  # it may have been placed anew meanwhile
                reason = str(error) if isinstance(error, Unavailable) else described(error)
                self.waiting[partition] = f"nobody tells where its log begins and ends ({reason})"
                await asyncio.sleep(PLACED_AGAIN)
            else:
                return

    async def _find(self, partition: TopicPartition, known: Known) -> Place:
        offsets, begins, ends = known
        found = offsets.get(partition)
        committed = found.offset if found is not None and found.offset >= 0 else None
        history = History()
        if self._histories is not None:
            history = await self._histories.history(partition.topic, partition.partition)
        return placed(committed, _note(partition, known), begins[partition], ends[partition], history)

    async def _cut(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int, generation: int
    ) -> None:
        """Have it known that the log is another one from `offset` on, if the partition is still ours.

        Else who has it now has seen more of it.
        """
        if self._histories is None:
            return
        where = partition.topic, partition.partition
        history = await self._histories.history(*where)
        if self._ours(consumer, generation):
            await self._histories.note_history(*where, history.cut(offset))

    def _go(self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place) -> None:
        """Read on from a place."""
        if partition not in consumer.assignment():
            return
        consumer.seek(partition, place.position)
        self._leaders[partition] = leader_of(consumer, partition)
        self.waiting.pop(partition, None)
        if place.compares:
            self._compared[partition] = place
        else:
            self._compared.pop(partition, None)
            self._next[partition] = place.position
        self._resume(consumer, partition)

    def _compare(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place, record: Record
    ) -> None:
        met = place.meet(record.offset, record.key, record.value, record.timestamp)
        if met is Met.SAME:
            self._compared.pop(partition, None)
            self._next[partition] = place.position
        elif met is Met.MOVE:
            self._go(consumer, partition, place)
            self.moved = True
        else:
            consumer.pause(partition)
            self.waiting[partition] = "its log is another one"
            self._waiting_since[partition] = self._clock.monotonic()
            self._compared.pop(partition, None)
            self._begin_task(self._cut_and_go(consumer, partition, place, self.generation))

    async def _cut_and_go(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place, generation: int
    ) -> None:
        while self._ours(consumer, generation):
            try:
                await self._cut(consumer, partition, place.cut or 0, generation)
                if self._ours(consumer, generation):
                    self._tell(partition, place)
                    self._go(consumer, partition, place)
            except Exception as error:  # noqa: BLE001  as above
                if not self._ours(consumer, generation):
                    return  # as above
                self.waiting[partition] = (
                    f"its log is another one, which cannot be noted ({described(error)})"
                )
                await asyncio.sleep(PLACED_AGAIN)
            else:
                return

    # --- what was lost ---------------------------------------------------------------------------

    def _tell(self, partition: TopicPartition, place: Place) -> None:
        """Say what is not as it was left."""
        if place.cut is not None:
            self.losses.differs(
                partition, first=place.cut, committed=place.committed, position=place.position
            )
        if place.lost:
            self.losses.deleted(partition, place.begin - place.lost, place.lost)

    def _look_for_loss(self, consumer: AIOKafkaConsumer, partition: TopicPartition, expected: int) -> None:
        """Find out whether offsets that were left out were deleted; most belong to transactions."""
        now = self._clock.monotonic()
        if now >= self._gaps.get(partition, 0.0):
            self._gaps[partition] = now + LOOKED_AGAIN
            self._begin_task(self._measure_loss(consumer, partition, expected))

    async def _measure_loss(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, expected: int
    ) -> None:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(self._timeout):
                begin = (await consumer.beginning_offsets([partition]))[partition]
            if begin > expected:
                self.losses.deleted(partition, expected, begin - expected)


def _note(partition: TopicPartition, known: Known) -> str:
    """What lies beside the committed offset of a partition."""
    found = known[0].get(partition)
    return found.metadata if found is not None else ""
