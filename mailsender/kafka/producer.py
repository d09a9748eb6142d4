"""The topics that mailsender writes: an idempotent producer behind `mailsender.kafka.port.RecordSink`.

Batches are made here, not by the producer: one acknowledgement serves all of a batch's records, where `send`
makes a future for each and hashes each key anew.

Each partition waits for itself alone. A batch that is not acknowledged in time stays with the producer, which
repeats it until it is; meanwhile what would go to the same partition is answered at once, and what may lie
anywhere goes elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTimestampError,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownProducerId,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from mailsender.kafka.client import (
    KafkaConfig,
    Keeper,
    client_log,
    client_options,
    close_connections,
    described,
    end_tasks,
    translated,
)
from mailsender.kafka.partitions import Lane, Lanes
from mailsender.kafka.produce_request import WholeRequest
from mailsender.model.errors import Forbidden, Rejected, TooLarge, Unavailable
from mailsender.model.records import Landed, Outgoing, record_bytes

log = structlog.get_logger()

BATCH_BYTES = 256 * 1024
"""Bytes of records that go to a partition in one request; far below what brokers take by default."""

FEW = 8
"""Records that wait a moment for their partition, when they come alone. Who brings more has others, too."""

ROUNDS = 3
"""Producers that one `publish` may use up: a refused batch leaves its producer out of sequence."""

TRIAL = 1.0
"""Seconds that a partition which was in trouble before may hold up those who publish."""

_ABOUT_THE_PRODUCER: Final = (
    ProducerClosed,
    OutOfOrderSequenceNumber,
    # A broker of before Kafka 2.5 forgets a producer with the last of its records (KAFKA-7190).
    UnknownProducerId,
    InvalidProducerEpoch,
    ProducerFenced,
    # The next records go without the time of our clock.
    InvalidTimestampError,
)
"""Errors after which a new producer may do what this one could not."""

_PARTITIONER: Final = DefaultPartitioner()

sender.ProduceRequest = WholeRequest

NO_TOPIC: Final = "the brokers know no such topic, or have just made it"
NOBODY_TELLS: Final = "nobody tells in time which partitions there are"


async def _tells(producer: AIOKafkaProducer, deadline: float) -> bool:
    """Whether a broker answers, until `deadline` on the loop's clock, when it is asked for topics anew."""
    try:
        async with asyncio.timeout_at(deadline):
            return bool(await producer.client.force_metadata_update())
    except (KafkaError, TimeoutError):
        return False


class KafkaSink:
    """See `mailsender.kafka.port.RecordSink`."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._log = client_log()
        self._lanes = Lanes()
        self._acked = 0.0
        self._told = False
        self._clock_told = False
        self._keeper: Keeper[AIOKafkaProducer] = Keeper(
            config, make=self._make, begun=self._begun, abandon=_abandon
        )

    async def open(self) -> None:
        """See `mailsender.kafka.port.RecordSink`."""
        self._keeper.open()

    @property
    def trouble(self) -> str:
        """See `mailsender.kafka.port.RecordSink`."""
        return self._away() or self._silence()

    def trouble_with(self, topic: str) -> str:
        """See `mailsender.kafka.port.RecordSink`."""
        producer = self._keeper.client
        if producer is not None and self._lanes.is_unknown(topic):
            # The client has asked on by itself; else the trouble would last until the next record.
            partitions = producer.client.cluster.partitions_for_topic(topic)
            if partitions:
                self._lanes.seen(topic, len(partitions))
        return self.trouble or self._lanes.all_ail(topic)

    def _away(self) -> str:
        return "" if self._keeper.client else self._keeper.fault or "not connected yet"

    def _silence(self) -> str:
        """Why partitions are in trouble, where it is not theirs: there is no connection at all."""
        producer = self._keeper.client
        trouble = self._lanes.some_trouble()
        if producer is None or not trouble or _connected(producer):
            return ""
        return f"no broker can be reached ({trouble})"

    async def close(self) -> None:
        """See `mailsender.kafka.port.RecordSink`."""
        await self._keeper.close()

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        """See `mailsender.kafka.port.RecordSink`."""
        if not records:
            return []
        began = asyncio.get_running_loop().time()
        call = _Publishing(records, began + self._config.timeout, self._config.max_request_size, self._lanes)
        for _ in range(ROUNDS):
            producer = await self._keeper.get(call.left())
            if producer is None:
                break
            trouble = await call.attempt(producer)
            if trouble is not None:
                # A batch that failed for good blocks its partition's sequence.
                self._keeper.replace(producer, described(trouble))
            elif not call.again():
                break
            if call.left() <= 0:
                break
        answers = call.answers(self._away())
        self._note(answers)
        return answers

    def _make(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **client_options(self._config),
            enable_idempotence=True,
            acks="all",
            compression_type=self._config.compression,
            max_request_size=self._config.max_request_size,
            max_batch_size=min(BATCH_BYTES, self._config.max_request_size),
        )

    def _begun(self, _: AIOKafkaProducer) -> None:
        log.debug("kafka_producer_started")
        self._acked = asyncio.get_running_loop().time()

    def _note(self, answers: Sequence[Landed | Exception]) -> None:
        """Say when trouble begins and when it ends, and give up a producer through which nothing goes."""
        now = asyncio.get_running_loop().time()
        away: Exception | None = None
        for answer in answers:
            if isinstance(answer, Landed):
                self._acked = now
            elif away is None and isinstance(answer, Unavailable):
                away = answer
        self._say_clock()
        if self._acked == now:
            self._keeper.well()
            self._log.well()
        producer = self._keeper.client
        if away is not None and producer is not None and now - self._acked > self._config.stall:
            self._keeper.replace(producer, str(away))
        if away is not None and not self._told:
            self._told = True
            log.warning(
                "kafka_publishing_trouble",
                reason=str(away),
                records=len(answers),
                partitions=self._lanes.ailing(),
                doing="what was not acknowledged is published again; partitions that are well do not wait",
                check="that the brokers of KAFKA_BROKERS answer, that all partitions have a leader and enough"
                " replicas, and that the topic may be written to",
            )
        elif self._told and away is None and not self._lanes.ailing():
            self._told = False
            log.info("kafka_publishing_well")

    def _say_clock(self) -> None:
        distrusted = self._lanes.timestamp is not None
        if distrusted and not self._clock_told:
            log.warning(
                "clocks_disagree",
                whose="this machine",
                of="the brokers' clock",
                reason="a broker refuses records for their time",
                doing="they are published without one",
                check="that NTP runs on both",
            )
        self._clock_told = distrusted


class _Publishing:
    """One call of `publish`: what each record came to so far, and until when it is tried."""

    def __init__(self, records: Sequence[Outgoing], deadline: float, largest: int, lanes: Lanes) -> None:
        self._records = records
        self._largest = largest
        self._deadline = deadline
        self._lanes = lanes
        self._found: dict[int, Landed | Rejected] = {}
        self._failed: dict[int, Exception] = {}
        self._doubted: set[int] = set()
        self._put_off: set[int] = set()
        self._waited = False

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def again(self) -> bool:
        """Whether there is something to be tried at once, with the same producer."""
        for i, record in enumerate(self._records):
            if i in self._found:
                continue
            if i in self._doubted or (i not in self._put_off and i not in self._failed):
                return True
            if (record.anywhere or record.key is None) and self._lanes.some_well(record.topic):
                return True
        return False

    def answers(self, trouble: str) -> list[Landed | Exception]:
        """An answer for every record."""
        missing = Unavailable(f"Kafka: no acknowledgement in time ({trouble or 'the broker is slow'})")
        return [self._found.get(i) or self._failed.get(i, missing) for i in range(len(self._records))]

    async def attempt(self, producer: AIOKafkaProducer) -> BaseException | None:
        """Send what has no answer yet; returns why the producer is of no more use, or None."""
        self._put_off.clear()
        todo = [i for i in range(len(self._records)) if i not in self._found]
        trouble = await self._send_together(producer, [i for i in todo if i not in self._doubted])
        for i in todo:
            if trouble is not None:
                break
            if i in self._doubted:
                trouble = await self._send_together(producer, [i])
        return trouble

    async def _send_together(self, producer: AIOKafkaProducer, todo: Sequence[int]) -> BaseException | None:
        """Send batches of our own making: one acknowledgement serves all records of a batch."""
        packed: dict[Lane, list[_Batch]] = {}
        unknown: KafkaError | TimeoutError | None = None
        try:
            # Some of the time is kept for finding out why nobody knows.
            async with asyncio.timeout_at(self._deadline - min(TRIAL, self.left() / 4)):
                packed = await self._pack(producer, todo)
                if not packed and self._put_off and len(todo) <= FEW and not self._waited:
                    self._waited = True
                    await self._lanes.freed(min(TRIAL, self.left()))
                    packed = await self._pack(producer, todo)
        except (KafkaError, TimeoutError) as error:
            unknown = error
        if unknown is not None:
            # Nobody knows where they go; nothing was sent, so the producer is as good as before.
            await self._note_unknown(producer, todo, unknown)
            return None
        carried = [self._carry(producer, lane, batches) for lane, batches in packed.items()]
        found = await asyncio.gather(*carried)
        return next((error for error in found if error is not None), None)

    async def _note_unknown(
        self, producer: AIOKafkaProducer, todo: Sequence[int], error: KafkaError | TimeoutError
    ) -> None:
        forbidden = isinstance(error, TopicAuthorizationFailedError)
        told = isinstance(error, TimeoutError) and await _tells(producer, self._deadline)
        for topic in {self._records[i].topic for i in todo}:
            why: Rejected | Unavailable
            if isinstance(error, TimeoutError):
                none = told and not producer.client.cluster.partitions_for_topic(topic)
                why = Unavailable(f"Kafka: {NO_TOPIC if none else NOBODY_TELLS}")
            else:
                why = translated(error)
            note = self._lanes.shut if forbidden else self._lanes.unknown
            note(topic, str(why).removeprefix("Kafka: "))
            for i in todo:
                if self._records[i].topic == topic:
                    self._failed.setdefault(i, why)

    async def _pack(self, producer: AIOKafkaProducer, todo: Sequence[int]) -> dict[Lane, list[_Batch]]:
        """Batches by partition; records without a key go where there is room."""
        packed: dict[Lane, list[_Batch]] = {}
        places: dict[tuple[str, bytes | None, bool], Lane] = {}
        now, timestamp = asyncio.get_running_loop().time(), self._lanes.timestamp
        for i in todo:
            record = self._records[i]
            refused = self._refused(record)
            if refused is not None:
                self._found[i] = refused
                continue
            where = record.topic, record.key, record.anywhere
            if where not in places:
                places[where] = await self._lane(producer, record)
            lane = places[where]
            if not lane.open(now):
                self._put_off.add(i)
                self._failed[i] = self._ailing(lane)
                continue
            batches = packed.get(lane)
            if batches is None:
                batches = packed[lane] = []
            try:
                if batches and batches[-1].add(i, record, timestamp):
                    continue
                if batches and record.key is None:
                    lane = places[where] = await self._lane(producer, record)
                    batches = packed.setdefault(lane, [])
                batch = _Batch(producer.create_batch())
                batch.add(i, record, timestamp)
            except (TypeError, ValueError) as error:
                self._found[i] = Rejected(f"it cannot be written as a record: {described(error)}")
                continue
            batches.append(batch)
        return {lane: batches for lane, batches in packed.items() if batches}

    def _refused(self, record: Outgoing) -> Rejected | None:
        """Why a record need not be sent: the answer is known."""
        size = record_bytes(record)
        if size > self._largest:
            return TooLarge(f"{size} bytes with their envelope; {self._largest} are allowed")
        return self._lanes.refused(record.topic, size, keyless=record.key is None)

    async def _lane(self, producer: AIOKafkaProducer, record: Outgoing) -> Lane:
        """Where a record goes: by its key as all clients of Kafka have it, else anywhere it can."""
        partitions = sorted(await producer.partitions_for(record.topic))
        self._lanes.seen(record.topic, len(partitions))
        lane = self._lanes.of(record.topic, int(_PARTITIONER(record.key, partitions, partitions)))
        if not (record.anywhere or record.key is None) or not lane.ails:
            return lane
        well = [n for n in partitions if not self._lanes.of(record.topic, n).ails]
        return self._lanes.of(record.topic, int(_PARTITIONER(None, well, well))) if well else lane

    async def _carry(
        self, producer: AIOKafkaProducer, lane: Lane, batches: Sequence[_Batch]
    ) -> BaseException | None:
        """Send one partition's batches in order; returns the error that spoils their producer, if any."""
        trial = lane.ails
        deadline = self._deadline
        if trial:
            deadline = min(deadline, asyncio.get_running_loop().time() + TRIAL)
            self._leave(batches[1:], self._ailing(lane))
            batches = batches[:1]
        trouble: BaseException | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for batch in batches:
                    batch.builder.close()
                    batch.future = await producer.send_batch(
                        batch.builder, lane.topic, partition=lane.partition
                    )
                await asyncio.wait([each.future for each in batches if each.future is not None])
        except TimeoutError:
            trouble = None  # what is on its way stays there, and the producer repeats it
        except KafkaError as error:
            trouble = error
        self._take_all(lane, batches, trouble)
        for batch in batches:
            trouble = _spoilt(batch) or trouble
        return trouble

    def _take_all(self, lane: Lane, batches: Sequence[_Batch], unsent: BaseException | None) -> None:
        """Note what became of each batch, in their order."""
        for batch in batches:
            if batch.future is not None and batch.future.done():
                self._take(lane, batch, batch.future)
            elif unsent is not None:
                self._fail(lane, batch, unsent)
            else:
                lane.ail("no acknowledgement in time", batch.future)
                self._leave([batch], Unavailable(f"Kafka: {lane.trouble}"))

    def _take(self, lane: Lane, batch: _Batch, future: asyncio.Future[RecordMetadata]) -> None:
        error = future.exception()
        if error is None:
            lane.well()
            self._lanes.opened(lane.topic)
            first = future.result().offset
            for place, i in enumerate(batch.members):
                self._found[i] = Landed(topic=lane.topic, partition=lane.partition, offset=first + place)
                self._failed.pop(i, None)
            return
        if isinstance(error, InvalidTimestampError):
            self._lanes.distrust_clock()
        alone = len(batch.members) == 1
        record = self._records[batch.members[0]]
        ours = translated(error, keyless=alone and record.key is None)
        if isinstance(ours, Rejected) and alone:
            size = record_bytes(record)
            self._lanes.learn(lane.topic, ours, size, keyless=record.key is None)
            self._found[batch.members[0]] = ours
        elif isinstance(ours, Rejected):
            self._doubted.update(batch.members)
            untold = Unavailable("Kafka: it was refused together with others, and is to be tried alone")
            self._failed.update(dict.fromkeys(batch.members, untold))
        else:
            self._fail(lane, batch, error)

    def _fail(self, lane: Lane, batch: _Batch, error: BaseException) -> None:
        """Note an error that says nothing about the records: it is the partition's, or the producer's."""
        if isinstance(error, _ABOUT_THE_PRODUCER):
            self._failed.update(dict.fromkeys(batch.members, translated(error)))
            return
        if isinstance(error, TopicAuthorizationFailedError):
            self._lanes.shut(lane.topic, described(error))
        lane.ail(described(error), None)
        self._leave([batch], self._ailing(lane))

    def _ailing(self, lane: Lane) -> Unavailable:
        """Why something is not sent to a partition in trouble, or was refused there: it is not stored."""
        kind = Forbidden if self._lanes.is_shut(lane.topic) else Unavailable
        return kind(f"Kafka: {lane.trouble}")

    def _leave(self, batches: Sequence[_Batch], why: Exception) -> None:
        """Records of these get no acknowledgement in this call, unless they go elsewhere."""
        for batch in batches:
            for i in batch.members:
                self._failed[i] = why
                self._put_off.add(i)


@dataclass(slots=True)
class _Batch:
    """Records on their way to one partition; `members` are their places in the call."""

    builder: BatchBuilder
    members: list[int] = field(default_factory=list)
    future: asyncio.Future[RecordMetadata] | None = None

    def add(self, i: int, record: Outgoing, timestamp: int | None) -> bool:
        """Put a record in; False when it is full. The first one always finds room."""
        added = self.builder.append(
            timestamp=timestamp, key=record.key, value=record.value, headers=list(record.headers)
        )
        if added is None:
            return False
        self.members.append(i)
        return True


def _spoilt(batch: _Batch) -> BaseException | None:
    """The error of a batch that was refused, and so left a hole in its partition's sequence.

    Where the partition takes nothing at all the hole matters no more than it; should it take something
    again, that the sequence is broken is an error of its own.
    """
    future = batch.future
    error = future.exception() if future is not None and future.done() else None
    if error is None or isinstance(error, _ABOUT_THE_PRODUCER):
        return error
    return error if isinstance(translated(error, keyless=True), Rejected) else None


def _connected(producer: AIOKafkaProducer) -> bool:
    """Whether a broker is there."""
    connections = producer.client._conns.values()  # noqa: SLF001  there is no public way
    return any(each.connected() for each in connections)


async def _abandon(producer: AIOKafkaProducer) -> None:
    """Free a producer whose broker hangs: `stop` waits for acknowledgements that never come.

    The library has no public way; its parts are ended in the order in which they wait for each other.
    """
    accumulator = producer._message_accumulator  # noqa: SLF001  there is no public way
    batches = [batch for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001  as above
    accumulator.fail_all(ProducerClosed())
    for batch in batches:
        drained = batch._drain_waiter  # noqa: SLF001  as above
        if drained.done() and not drained.cancelled():
            drained.exception()  # looked at, or Python complains that nobody did
    sender = producer._sender  # noqa: SLF001  as above
    # It would tell a transaction of the end, and there is none: Python would complain. All were told above.
    if sender.sender_task is not None:
        sender.sender_task.remove_done_callback(sender._fail_all)  # noqa: SLF001  as above
    await close_connections(producer.client)
    await end_tasks([sender.sender_task])
