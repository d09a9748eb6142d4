"""The in-topic: a member of the consumer group behind `mailsender.kafka.port.RecordSource`.

Three habits of aiokafka shape this module. `getmany` over several partitions loses the records that it had
already taken from one when another's cannot be decoded, so records are taken partition by partition, and one
by one where that went wrong. A wait of its own has no deadline while the group rebalances, so there is one
poll at a time, as a task that outlives the call that began it. And a rebalance forgets pauses, so they are
made again as soon as partitions are assigned.

A partition that comes to us is paused until it is known where its reading goes on, see
`mailsender.kafka.places`.
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

from mailsender.kafka.client import (
    KafkaConfig,
    Keeper,
    client_log,
    client_options,
    described,
)
from mailsender.kafka.group import some, strangers
from mailsender.kafka.losses import named
from mailsender.kafka.places import Places
from mailsender.kafka.private import abandon, ended, position_of
from mailsender.kafka.quarantine import Quarantine, about_a_record
from mailsender.kafka.records import UNREADABLE, read_within
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.history import Histories
from mailsender.model.records import Record, record_bytes

log = structlog.get_logger()

OVERHEAD = 120
"""Bytes that a record takes in memory beside what it has on the wire."""

HEADER_OVERHEAD = 150
"""Bytes that a header takes in memory beside what it has on the wire: a pair, its place, a name, a value."""

MOST = 4096
"""Records of one fetch, more only to end a chunk: while they are read nothing else goes on. By bytes alone a
fetch could be 130,000 records of two bytes; with so many the loop stood still for 0.25 s."""

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

THROWN_OUT, THROWN_OUT_WITHIN = 3, 120.0
"""So often, within so many seconds, a member is thrown out of the group only by another one of its name."""

_FENCED = "FencedInstanceId"
_KEPT_OUT = "InconsistentGroupProtocol"

HUNT = 50
"""Rounds in which partitions are asked one by one after an error that names none of them."""


class KafkaSource:
    """See `mailsender.kafka.port.RecordSource`."""

    def __init__(
        self,
        config: KafkaConfig,
        topic: str,
        *,
        clock: Clock | None = None,
        histories: Histories | None = None,
    ) -> None:
        self._config = config
        self._topic = topic
        self._clock = clock or SystemClock()
        self._log = client_log(self._clock)
        self._keeper: Keeper[AIOKafkaConsumer] = Keeper(
            config, make=self._make, begun=self._begun, abandon=abandon, holds=lambda: self._member
        )
        self._member = False  # of the group, with its assignment known
        self._idle = False
        self._poll: asyncio.Task[dict[TopicPartition, list[ConsumerRecord]]] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._stash: list[Record] = []
        self._places = Places(
            histories,
            self._clock,
            timeout=config.timeout,
            keeps=self._keeper.keeps,
            resume=self._read_on,
        )
        self._named = True
        self._strangers: list[str] = []
        self._looking: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._unfinished: TopicPartition | None = None
        self._hunt = 0
        self._quarantine = Quarantine(config.retry_unreadable)
        self._watched_from = self._clock.epoch()
        self._seen = self._clock.epoch()
        self._commit_fault = ""
        self._unconfirmed_since: float | None = None
        self._troubled_since: float | None = None
        self._told = False

    async def open(self) -> None:
        """See `mailsender.kafka.port.RecordSource`."""
        self._keeper.open()

    async def close(self) -> None:
        """See `mailsender.kafka.port.RecordSource`."""
        await self._keeper.close()
        for task in (self._poll, self._committing, *self._looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._poll = self._committing = None
        await self._places.close()

    # --- records ---------------------------------------------------------------------------------

    async def fetch(self, timeout: float) -> list[Record]:
        """See `mailsender.kafka.port.RecordSource`."""
        consumer = await self._keeper.get(timeout)
        if consumer is None:
            self._watch()
            return []
        self._wake(consumer)
        trouble = ended(consumer)
        if trouble is not None:
            # Met while reading it would look like a record that cannot be decoded.
            self._give_up(consumer, trouble)
            self._watch()
            return []
        await self._wait_for_records(consumer, 0.0 if self._stash else timeout)
        records, self._stash = self._stash, []
        room = self._config.max_bytes // 2 - sum(_size(record) for record in records)
        try:
            async for record in self._drain(consumer, room):
                records.append(record)
        except KafkaError as error:
            self._give_up(consumer, error)
        if not records:
            self._commit_positions(consumer)
        self._watch()
        return records

    async def idle(self, timeout: float) -> None:
        """See `mailsender.kafka.port.RecordSource`."""
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
        poll = self._poll
        if poll is None:
            poll = asyncio.create_task(consumer.getmany(timeout_ms=int(timeout * 1000), max_records=1))
            self._poll = poll
        await asyncio.wait({poll}, timeout=timeout + GRACE)
        if poll is not self._poll or not poll.done():
            return  # in the moment of its end partitions were taken away: what it brought is nobody's
        self._poll = None
        if poll.cancelled():
            return
        error = poll.exception()
        if error is None:
            for partition, batch in poll.result().items():
                self._stash += [r for r in map(_record, batch) if self._places.admit(consumer, partition, r)]
            self._places.moved = False  # a poll takes one record
        elif about_a_record(error):
            self._hunt = HUNT
        else:
            self._give_up(consumer, error)

    async def _drain(self, consumer: AIOKafkaConsumer, room: int) -> AsyncIterator[Record]:
        """Take what was fetched ahead, partition by partition: `room` bytes or `MOST`, and a chunk.

        Nothing here suspends: `getmany` without a timeout does only during a rebalance, which is looked at
        before every call.
        """
        turns, self._unfinished = self._turns(consumer), None
        left = MOST
        for partition in turns:
            more, clean = True, False
            while room > 0 and left > 0 and self._member and more:
                batch = await self._chunk(consumer, partition)
                if batch is None:
                    more = clean = False
                    break
                records, more = batch
                clean = clean or bool(records)
                left -= len(records)
                for record in records:
                    room -= _size(record)
                    yield record
            if clean and not more:
                self._quarantine.sound(partition)
            if more and (room <= 0 or left <= 0):
                self._unfinished = partition
                return

    async def _chunk(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition
    ) -> tuple[list[Record], bool] | None:
        """Some records of a partition, and whether more may be there; None where it cannot be read."""
        chunk = self._quarantine.chunk(partition)
        try:
            batch = (await consumer.getmany(partition, max_records=chunk)).get(partition, [])
        except Exception as error:
            if not about_a_record(error):
                raise
            await self._met_unreadable(consumer, partition, error)
            return None
        records = []
        for found in batch:
            record = _record(found)
            if self._places.admit(consumer, partition, record):
                records.append(record)
            if self._places.moved:
                break
        more = len(batch) == chunk and not self._places.moved
        self._places.moved = False
        return records, more

    def _turns(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        """The partitions to take from, each first in its turn, so that none starves another."""
        mine = sorted(consumer.assignment() - self._quarantine.closed - self._places.waiting.keys())
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
            self._resume(
                consumer, consumer.assignment() - self._quarantine.closed - self._places.waiting.keys()
            )
        self._places.look_at_leaders(consumer)
        if self._clock.epoch() - self._seen > 2:
            self._watched_from = self._clock.epoch()  # nobody polled, so silence meant nothing
        self._seen = self._clock.epoch()

    def _resume(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        consumer.resume(*(partition for partition in partitions if partition in consumer.paused()))

    def _read_on(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        """Have a partition read whose place is known, unless nothing is read now."""
        if not self._idle:
            self._resume(consumer, {partition} - self._quarantine.closed)

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

    async def commit(
        self,
        offsets: Mapping[tuple[str, int], int],
        notes: Mapping[tuple[str, int], str] | None = None,
    ) -> bool:
        """See `mailsender.kafka.port.RecordSource`."""
        deadline = asyncio.get_running_loop().time() + self._config.timeout
        if not await self._committed(deadline):
            return False
        consumer = self._keeper.client
        if consumer is None:
            return True  # we are no member, so nothing is ours
        mine = consumer.assignment()
        ours = {
            p: (offset, (notes or {}).get((topic, n), ""))
            for (topic, n), offset in offsets.items()
            if (p := TopicPartition(topic, n)) in mine
        }
        if not ours:
            return True
        self._begin_commit(consumer, ours)
        done = await self._committed(deadline)
        if done:
            self._places.committed(ours)
        return done

    def _commit_positions(self, consumer: AIOKafkaConsumer) -> None:
        """Commit what lies behind the last records, too: see `Places.behind`."""
        if self._committing is not None and self._committing.done():
            task, self._committing = self._committing, None
            if not task.cancelled():
                task.exception()  # whoever asked for it asks again
        # A poll that is not read yet has moved a position, too.
        if self._committing is not None or self._poll is not None or self._stash or not self._member:
            return
        if ahead := self._places.behind(consumer):
            self._begin_commit(consumer, ahead)

    def _begin_commit(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, tuple[int, str]]
    ) -> None:
        self._unconfirmed_since = None
        self._committing = asyncio.create_task(consumer.commit(offsets))

    async def _committed(self, deadline: float) -> bool:
        """Whether the commit under way, if any, is through; one that hangs goes on and is asked for again."""
        task = self._committing
        if task is None:
            return True
        await asyncio.wait({task}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not task.done():
            if self._unconfirmed_since is None:
                self._unconfirmed_since = self._clock.monotonic()
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

    # --- other programs in our group -------------------------------------------------------------

    async def _look_for_strangers(self, consumer: AIOKafkaConsumer) -> None:
        """Tell of members that are none of ours. Whoever comes or goes has partitions assigned anew."""
        group = self._config.group
        try:
            async with asyncio.timeout(self._config.timeout):
                coordinator = consumer._coordinator.coordinator_id  # noqa: SLF001  there is no public way
                found = await strangers(consumer._client, coordinator, group)  # noqa: SLF001  as above
        except Exception as error:  # noqa: BLE001  whatever it is, reading goes on
            log.debug("kafka_group_not_told", reason=described(error))
            return
        if found == self._strangers:
            return
        self._strangers = found
        if found:
            log.warning(
                "kafka_group_shared",
                group=group,
                members=some(found),
                reason="another program is a member of our group, and what it reads is sent by nobody",
                check="give it a group of its own, or set KAFKA_GROUPID",
            )
        else:
            log.info("kafka_group_ours", group=group)

    # --- a name that somebody else has -----------------------------------------------------------

    def _give_up(self, consumer: AIOKafkaConsumer, error: BaseException) -> None:
        """Have a new client made after an error."""
        if _FENCED in repr(error):
            self._lose_name(consumer)
        elif _KEPT_OUT in repr(error):
            self._keeper.replace(
                consumer,
                f"another program is a member of the group {self._config.group} and shares partitions by"
                " other rules, so we are not let in; `mailsender check` names it",
            )
        else:
            self._keeper.replace(consumer, described(error))

    def _lose_name(self, consumer: AIOKafkaConsumer) -> None:
        """Go on without a name that another member has, too: two would throw each other out for ever."""
        if self._named and self._config.instance_id:
            self._named = False
            log.error(
                "kafka_instance_id_taken",
                instance_id=self._config.instance_id,
                group=self._config.group,
                reason="another member of the group has the same KAFKA_GROUP_INSTANCE_ID",
                doing="this replica goes on without the name; a restart costs it KAFKA_SESSION_TIMEOUT",
                check="give each replica a name of its own, such as that of its pod, and start it again",
            )
        self._keeper.replace(consumer, "another member has the same KAFKA_GROUP_INSTANCE_ID")

    # --- how it is -------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """See `mailsender.kafka.port.RecordSource`."""
        return self._hindrance() or self._places.losses.text

    def _hindrance(self) -> str:
        """Why records are not coming."""
        consumer = self._keeper.client
        if consumer is None:
            return self._keeper.fault or "not connected yet"
        if self._quarantine.trouble:
            return self._quarantine.trouble
        if self._places.trouble:
            return self._places.trouble
        if not consumer.partitions_for_topic(self._topic):
            return f"there is no topic {self._topic}"
        if self._unconfirmed_since is not None and self._commits():
            return "the broker does not confirm the commit of offsets"
        return self._commit_fault or self._silence(consumer)

    @property
    def generation(self) -> int:
        """See `mailsender.kafka.port.RecordSource`."""
        return self._places.generation

    @property
    def lost(self) -> int:
        """See `mailsender.kafka.port.RecordSource`."""
        return self._places.losses.records

    def lag(self) -> dict[tuple[str, int], int]:
        """See `mailsender.kafka.port.RecordSource`. Known of a partition once something of it was fetched."""
        consumer = self._keeper.client
        found: dict[tuple[str, int], int] = {}
        if consumer is None:
            return found
        for partition in consumer.assignment():
            end, read = consumer.highwater(partition), self._places.next_of(partition)
            if read is None:
                read = position_of(consumer, partition)
            if end is not None and read is not None:
                found[partition.topic, partition.partition] = max(0, end - read)
        return found

    def _silence(self, consumer: AIOKafkaConsumer) -> str:
        seconds = self._silent_for(consumer)
        if seconds >= self._patience():
            if not self._member:
                return f"not let into the group {self._config.group} for {seconds:.0f} s"
            return f"no answer from the brokers for {seconds:.0f} s"
        if not self._idle and self._member:
            for partition, answered in self._answered(consumer).items():
                if self._clock.epoch() - answered >= self._patience():
                    return f"{named(partition)} waits: nobody answers for it"
        return ""

    def _patience(self) -> float:
        return 2 * max(self._config.timeout, self._config.session_timeout)

    def _silent_for(self, consumer: AIOKafkaConsumer) -> float:
        """Seconds since any partition had an answer, 0.0 while they are paused.

        One alone that has none waits for its leader; another client would not find it sooner.
        """
        if self._idle:
            return 0.0
        latest = self._watched_from
        if self._member:
            answered = self._answered(consumer)
            if not answered:
                return 0.0
            latest = max(answered.values())
        return self._clock.epoch() - latest

    def _commits(self) -> bool:
        """Whether a commit is under way."""
        return self._committing is not None and not self._committing.done()

    def _unconfirmed_for(self, now: float) -> float:
        """Seconds since a commit that is under way still has been waited for in vain.

        The library asks again for as long as it lives; if what it waits for itself has ended it does not.
        """
        if self._unconfirmed_since is None or not self._commits():
            return 0.0
        return now - self._unconfirmed_since

    def _answered(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, float]:
        """When each partition that is read had its last answer."""
        return {
            partition: max((consumer.last_poll_timestamp(partition) or 0) / 1000, self._watched_from)
            for partition in sorted(consumer.assignment() - consumer.paused())
        }

    def _watch(self) -> None:
        """Say when trouble begins and ends, and give up a client that nothing comes from any more."""
        now, reason, stall = self._clock.monotonic(), self._hindrance(), self._config.stall
        consumer = self._keeper.client
        if consumer is not None and self._named and self._config.instance_id:
            thrown = self._log.thrown_out
            if len(thrown) >= THROWN_OUT and now - thrown[-THROWN_OUT] < THROWN_OUT_WITHIN:
                self._lose_name(consumer)
        if consumer is not None and max(self._silent_for(consumer), self._unconfirmed_for(now)) > stall:
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
            group_instance_id=(config.instance_id or None) if self._named else None,
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
        self._places.forget()
        for task in (self._poll, self._committing):
            if task is not None:
                task.cancel()  # it asks the client that this one replaces
        self._drop_poll()
        consumer.subscribe([self._topic], listener=_Listener(self, consumer))

    def _revoked(self, consumer: AIOKafkaConsumer) -> None:
        if self._keeper.keeps(consumer):
            self._member = False
            self._commit_fault = ""
            self._watched_from = self._clock.epoch()
            # Whoever gets the partitions reads from the committed offsets again.
            self._stash.clear()
            self._places.forget()
            self._drop_poll()

    def _drop_poll(self) -> None:
        """Forget what a poll brought before partitions were taken away and nobody has read yet.

        Handed out later it would let a commit pass what was discarded with the stash. One that still goes on
        brings what is read after that.
        """
        if self._poll is not None and self._poll.done():
            if not self._poll.cancelled():
                self._poll.exception()
            self._poll = None

    def _assigned(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        if not self._keeper.keeps(consumer):
            return
        mine = set(partitions)
        self._quarantine.keep(mine)
        self._places.assign(consumer, mine)
        looking = asyncio.create_task(self._look_for_strangers(consumer))
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)
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
        appended=found.timestamp_type == 1,
        headers=tuple(found.headers),
    )


def _size(record: Record) -> int:
    return record_bytes(record) + OVERHEAD + HEADER_OVERHEAD * len(record.headers)
