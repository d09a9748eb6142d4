"""The in-topic: a member of the consumer group behind `ports.RecordSource`.

Three habits of aiokafka shape this module. `getmany` over several partitions loses the records that it had
already taken from one when another's cannot be decoded, so records are taken partition by partition, and one
by one where that went wrong. A wait of its own has no deadline while the group rebalances, so there is one
poll at a time, as a task that outlives the call that began it. And a rebalance forgets pauses, so they are
made again as soon as partitions are assigned.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    RecordTooLargeError,
)

from mailsender.adapters.kafka import (
    KafkaConfig,
    Keeper,
    client_log,
    client_options,
    close_connections,
    described,
    end_tasks,
)
from mailsender.adapters.kafka_quarantine import Quarantine, about_a_record
from mailsender.adapters.kafka_records import UNREADABLE, read_within
from mailsender.ports import Clock, Record, SystemClock

log = structlog.get_logger()

OVERHEAD = 200
"""Bytes that a record takes beside its key and value."""

PER_PARTITION = 256 * 1024
"""Bytes of one partition in one fetch, more only for a single batch that is larger. Small enough for buffers
that are used again: those of megabytes are made and given back each time, at twice the cost of the fetch."""

GRACE = 0.5
"""Seconds that a poll may take beyond its time before it is left to go on in the background."""

LOOK_AROUND = 1000
"""Milliseconds after which the library looks whether there is something to fetch although nothing has
happened. Whatever happens makes it look at once; shorter only wakes an idle service. The brokers' own long
poll is not to be longer: while it waits for empty partitions of a node nothing is asked of the others."""

PATIENCE = 1.0
"""Seconds that trouble may last before it is logged: joining a group takes a moment."""

HUNT = 50
"""Rounds in which partitions are asked one by one after an error that names none of them."""


class KafkaSource:
    """See `ports.RecordSource`."""

    def __init__(self, config: KafkaConfig, topic: str, *, clock: Clock | None = None) -> None:
        self._config = config
        self._topic = topic
        self._clock = clock or SystemClock()
        self._log = client_log(self._clock)
        self._keeper: Keeper[AIOKafkaConsumer] = Keeper(
            config, make=self._make, begun=self._begun, abandon=_abandon
        )
        self._member = False  # of the group, with its assignment known
        self._idle = False
        self._poll: asyncio.Task[dict[TopicPartition, list[ConsumerRecord]]] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._stash: list[Record] = []
        self._turn = 0
        self._unfinished: TopicPartition | None = None
        self._hunt = 0
        self._quarantine = Quarantine(config.retry_unreadable)
        self._watched_from = self._clock.epoch()
        self._seen = self._clock.epoch()
        self._commit_fault = ""
        self._unconfirmed = False
        self._troubled_since: float | None = None
        self._told = False

    async def open(self) -> None:
        """See `ports.RecordSource`."""
        self._keeper.open()

    async def close(self) -> None:
        """See `ports.RecordSource`."""
        await self._keeper.close()
        for task in (self._poll, self._committing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._poll = self._committing = None

    # --- records ---------------------------------------------------------------------------------

    async def fetch(self, timeout: float) -> list[Record]:
        """See `ports.RecordSource`."""
        consumer = await self._keeper.get(timeout)
        if consumer is None:
            self._watch()
            return []
        self._wake(consumer)
        await self._wait_for_records(consumer, 0.0 if self._stash else timeout)
        records, self._stash = self._stash, []
        room = self._config.max_bytes // 2 - sum(_size(record) for record in records)
        try:
            async for record in self._drain(consumer, room):
                records.append(record)
        except KafkaError as error:
            self._keeper.replace(consumer, described(error))
        self._watch()
        return records

    async def idle(self, timeout: float) -> None:
        """See `ports.RecordSource`."""
        consumer = await self._keeper.get(timeout)
        if consumer is not None:
            self._idle = True
            self._hunt = 0
            consumer.pause(*consumer.assignment())
            await self._wait_for_records(consumer, timeout)
        self._watch()

    async def _wait_for_records(self, consumer: AIOKafkaConsumer, timeout: float) -> None:
        """Poll until a record is there or `timeout` has passed; what comes goes to the stash.

        It asks for one record only: then the partition whose record cannot be decoded costs no others.
        """
        if self._hunt > 0 and timeout > 0:
            # An error named no partition. Until `_drain` has met it again, ask only one by one.
            self._hunt -= 1
            await asyncio.sleep(min(timeout, 0.1))
            return
        if self._poll is None:
            self._poll = asyncio.create_task(consumer.getmany(timeout_ms=int(timeout * 1000), max_records=1))
        await asyncio.wait({self._poll}, timeout=timeout + GRACE)
        if not self._poll.done():
            return
        poll, self._poll = self._poll, None
        if poll.cancelled():
            return
        error = poll.exception()
        if error is None:
            self._stash.extend(_record(found) for batch in poll.result().values() for found in batch)
        elif about_a_record(error):
            self._hunt = HUNT
        else:
            self._keeper.replace(consumer, described(error))

    async def _drain(self, consumer: AIOKafkaConsumer, room: int) -> AsyncIterator[Record]:
        """Take what was fetched ahead, partition by partition, up to `room` bytes and a last record.

        Nothing here suspends: `getmany` without a timeout does only during a rebalance, which is looked at
        before every call.
        """
        turns, self._unfinished = self._turns(consumer), None
        for partition in turns:
            if room <= 0:
                break
            chunk = self._quarantine.chunk(partition)
            clean = False
            while room > 0 and self._member:
                try:
                    batch = (await consumer.getmany(partition, max_records=chunk)).get(partition, [])
                except Exception as error:
                    if not about_a_record(error):
                        raise
                    await self._met_unreadable(consumer, partition, error)
                    break
                for found in batch:
                    record = _record(found)
                    room -= _size(record)
                    clean = True
                    yield record
                if len(batch) < chunk:
                    if clean:
                        self._quarantine.sound(partition)
                    break
            else:
                self._unfinished = self._unfinished or partition

    def _turns(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        """The partitions to take from, each first in its turn, so that none starves another."""
        mine = sorted(consumer.assignment() - self._quarantine.closed)
        if not mine:
            return []
        self._turn = (self._turn + 1) % len(mine)
        turns = mine[self._turn :] + mine[: self._turn]
        if self._unfinished in turns:
            # Of a batch that was begun all that it unpacks to is in memory: one at a time.
            turns.remove(self._unfinished)
            turns.insert(0, self._unfinished)
        return turns

    def _wake(self, consumer: AIOKafkaConsumer) -> None:
        """End the pause of `idle`, and let unreadable partitions have another try when it is time."""
        self._resume(consumer, self._quarantine.due(self._clock.monotonic()))
        if self._idle:
            self._idle = False
            self._watched_from = self._clock.epoch()
            self._resume(consumer, consumer.assignment() - self._quarantine.closed)
        if self._clock.epoch() - self._seen > 2:
            self._watched_from = self._clock.epoch()  # nobody polled, so silence meant nothing
        self._seen = self._clock.epoch()

    def _resume(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        consumer.resume(*(partition for partition in partitions if partition in consumer.paused()))

    async def _met_unreadable(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, error: Exception
    ) -> None:
        """Pause the partition, once it is certain that the very next record is the culprit."""
        if isinstance(error, RecordTooLargeError):
            # The one error after which the library steps over the record.
            consumer.seek(partition, await self._position(consumer, partition) - 1)
        elif self._quarantine.warn(partition):
            return  # the position stays: what the error swallowed is fetched again
        consumer.pause(partition)
        offset = await self._position(consumer, partition)
        self._quarantine.close(partition, offset, error, self._clock.monotonic())
        self._hunt = 0

    async def _position(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
        try:
            async with asyncio.timeout(self._config.timeout):
                return int(await consumer.position(partition))
        except (TimeoutError, KafkaError):
            return -1

    # --- commits ---------------------------------------------------------------------------------

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> bool:
        """See `ports.RecordSource`."""
        deadline = asyncio.get_running_loop().time() + self._config.timeout
        if not await self._committed(deadline):
            return False
        consumer = self._keeper.client
        if consumer is None:
            return True  # we are no member, so nothing is ours
        mine = consumer.assignment()
        ours = {
            p: offset for (topic, n), offset in offsets.items() if (p := TopicPartition(topic, n)) in mine
        }
        if not ours:
            return True
        self._committing = asyncio.create_task(consumer.commit(ours))
        return await self._committed(deadline)

    async def _committed(self, deadline: float) -> bool:
        """Whether the commit under way, if any, is through; one that hangs goes on and is asked for again."""
        task = self._committing
        if task is None:
            return True
        await asyncio.wait({task}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        self._unconfirmed = not task.done()
        if self._unconfirmed:
            return False
        self._committing = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, IllegalStateError | CommitFailedError):
            log.debug("commit_left_to_another", reason=described(error))
        elif error is not None:
            self._commit_fault = f"offsets cannot be committed: {described(error)}"
            return False
        self._commit_fault = ""
        self._log.well()
        return True

    # --- how it is -------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """See `ports.RecordSource`."""
        consumer = self._keeper.client
        if consumer is None:
            return self._keeper.fault or "not connected yet"
        if self._quarantine.trouble:
            return self._quarantine.trouble
        if not consumer.partitions_for_topic(self._topic):
            return f"there is no topic {self._topic}"
        if self._unconfirmed and self._committing is not None and not self._committing.done():
            return "the broker does not confirm the commit of offsets"
        return self._commit_fault or self._silence(consumer)

    def _silence(self, consumer: AIOKafkaConsumer) -> str:
        seconds = self._silent_for(consumer)
        if seconds < 2 * max(self._config.timeout, self._config.session_timeout):
            return ""
        if not self._member:
            return f"not let into the group {self._config.group} for {seconds:.0f} s"
        return f"no answer from the brokers for {seconds:.0f} s"

    def _silent_for(self, consumer: AIOKafkaConsumer) -> float:
        """Seconds since the partition that was silent longest had an answer, 0.0 while they are paused."""
        if self._idle:
            return 0.0
        latest = self._clock.epoch()
        if not self._member:
            latest = self._watched_from
        for partition in consumer.assignment() - consumer.paused():
            answered = (consumer.last_poll_timestamp(partition) or 0) / 1000
            latest = min(latest, max(answered, self._watched_from))
        return self._clock.epoch() - latest

    def _watch(self) -> None:
        """Say when trouble begins and ends, and give up a client that nothing comes from any more."""
        now, reason = self._clock.monotonic(), self.trouble
        consumer = self._keeper.client
        if consumer is not None and self._silent_for(consumer) > self._config.stall:
            self._keeper.replace(consumer, reason)
        if reason:
            self._troubled_since = now if self._troubled_since is None else self._troubled_since
            if not self._told and now - self._troubled_since >= PATIENCE:
                self._told = True
                log.warning("kafka_reading_trouble", topic=self._topic, reason=reason, doing="tried again")
            return
        self._keeper.well()
        self._log.well()
        if self._told and self._troubled_since is not None:
            log.info("kafka_reading_well", topic=self._topic, seconds=round(now - self._troubled_since, 1))
        self._troubled_since, self._told = None, False

    # --- the client ------------------------------------------------------------------------------

    def _make(self) -> AIOKafkaConsumer:
        config = self._config
        read_within(config.max_bytes)
        ahead = config.max_bytes // 2
        return AIOKafkaConsumer(
            **client_options(config),
            group_id=config.group,
            group_instance_id=config.instance_id or None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            consumer_timeout_ms=LOOK_AROUND,
            fetch_max_bytes=ahead,
            max_partition_fetch_bytes=min(ahead, PER_PARTITION),
            session_timeout_ms=int(config.session_timeout * 1000),
            heartbeat_interval_ms=int(min(3.0, config.session_timeout / 3) * 1000),
            max_poll_interval_ms=int(config.max_poll_interval * 1000),
        )

    def _begun(self, consumer: AIOKafkaConsumer) -> None:
        # Only now: a topic in the constructor must exist for `start` to return.
        self._member = False
        self._watched_from = self._seen = self._clock.epoch()
        for task in (self._poll, self._committing):
            if task is not None:
                task.cancel()  # it asks the client that this one replaces
        consumer.subscribe([self._topic], listener=_Listener(self, consumer))

    def _revoked(self, consumer: AIOKafkaConsumer) -> None:
        if self._keeper.keeps(consumer):
            self._member = False
            self._commit_fault = ""
            self._watched_from = self._clock.epoch()
            self._stash.clear()  # whoever gets the partitions reads from the committed offsets again

    def _assigned(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        if not self._keeper.keeps(consumer):
            return
        mine = set(partitions)
        self._quarantine.keep(mine)
        consumer.pause(*(mine if self._idle else self._quarantine.closed))
        self._member = True
        self._watched_from = self._clock.epoch()
        log.info("partitions_assigned", topic=self._topic, partitions=sorted(p.partition for p in mine))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Tells the source what the group does to its partitions."""

    def __init__(self, source: KafkaSource, consumer: AIOKafkaConsumer) -> None:
        self._source = source
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002  its signature
        """A rebalance begins."""
        self._source._revoked(self._consumer)  # noqa: SLF001  one class in two halves

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """A rebalance is over."""
        self._source._assigned(self._consumer, assigned)  # noqa: SLF001  as above


def _record(found: ConsumerRecord) -> Record:
    if found.headers and found.headers[0][0] is UNREADABLE:
        return Record(
            topic=found.topic,
            partition=found.partition,
            offset=found.offset,
            timestamp=found.timestamp,
            key=None,
            value=found.value,
            fault=found.headers[0][1].decode(),
        )
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp=-1 if found.timestamp is None else found.timestamp,
        key=found.key,
        value=found.value,
        headers=tuple((name, value or b"") for name, value in found.headers),
    )


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"") + OVERHEAD


async def _abandon(consumer: AIOKafkaConsumer) -> None:
    """Free a consumer whose broker hangs; the library has no public way to do it without waiting for it."""
    client, fetcher, coordinator = consumer._client, consumer._fetcher, consumer._coordinator  # noqa: SLF001  there is no public way
    if coordinator is not None:
        await end_tasks(
            [
                coordinator._coordination_task,  # noqa: SLF001  there is no public way
                coordinator._heartbeat_task,  # noqa: SLF001  there is no public way
                coordinator._commit_refresh_task,  # noqa: SLF001  there is no public way
            ]
        )
    if fetcher is not None:
        await end_tasks([fetcher._fetch_task, *fetcher._pending_tasks])  # noqa: SLF001  there is no public way
    await close_connections(client)
