"""The topics that mailsender writes: an idempotent producer behind `ports.RecordSink`.

Batches are made here, not by the producer: one acknowledgement serves all of a batch's records, where `send`
makes a future for each and hashes each key anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from mailsender.adapters.kafka import (
    KafkaConfig,
    Keeper,
    client_log,
    client_options,
    close_connections,
    described,
    end_tasks,
    translated,
)
from mailsender.ports import Landed, Outgoing, TooLarge, Unavailable

log = structlog.get_logger()

BATCH_BYTES = 256 * 1024
"""Bytes of records that go to a partition in one request; far below what brokers take by default."""

OVERHEAD = 80
"""Bytes that the client counts for a record beside its key and value, rounded up."""

ROUNDS = 3
"""Producers that one `publish` may use up: a refused batch leaves its producer out of sequence."""

_PARTITIONER = DefaultPartitioner()


class KafkaSink:
    """See `ports.RecordSink`."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._log = client_log()
        self._fault = ""
        self._keeper: Keeper[AIOKafkaProducer] = Keeper(
            config, make=self._make, begun=self._begun, abandon=_abandon
        )

    async def open(self) -> None:
        """See `ports.RecordSink`."""
        self._keeper.open()

    @property
    def trouble(self) -> str:
        """See `ports.RecordSink`."""
        return self._fault or ("" if self._keeper.client else self._keeper.fault or "not connected yet")

    async def close(self) -> None:
        """See `ports.RecordSink`."""
        await self._keeper.close()

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        """See `ports.RecordSink`."""
        if not records:
            return []
        deadline = asyncio.get_running_loop().time() + self._config.timeout
        call = _Publishing(records, deadline, self._config.max_request_size)
        for _ in range(ROUNDS):
            producer = await self._keeper.get(call.left())
            if producer is None:
                break
            trouble = await call.attempt(producer)
            if trouble is not None:
                # A batch that failed for good, or that nobody knows of, blocks its partition's sequence.
                self._keeper.replace(producer, described(trouble))
            if not call.open or call.left() <= 0:
                break
        answers = call.answers(self.trouble)
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

    def _note(self, answers: Sequence[Landed | Exception]) -> None:
        """Keep `trouble`, and say so when it begins and when it ends."""
        away = next((answer for answer in answers if isinstance(answer, Unavailable)), None)
        if away is None:
            self._keeper.well()
            self._log.well()
            if self._fault:
                log.info("kafka_publishing_well")
            self._fault = ""
            return
        if not self._fault:
            log.warning(
                "kafka_publishing_trouble",
                reason=str(away),
                records=len(answers),
                doing="what was not acknowledged is published again",
                check="that the brokers of KAFKA_BROKERS answer and the topic may be written to",
            )
        self._fault = str(away)


class _Publishing:
    """One call of `publish`: what each record came to so far, and until when it is tried."""

    def __init__(self, records: Sequence[Outgoing], deadline: float, largest: int) -> None:
        self._records = records
        self._largest = largest
        self._deadline = deadline
        self._found: dict[int, Landed | TooLarge] = {}
        self._failed: dict[int, Exception] = {}
        self._doubted: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether some record has no answer yet."""
        return len(self._found) < len(self._records)

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def answers(self, trouble: str) -> list[Landed | Exception]:
        """An answer for every record."""
        missing = Unavailable(f"Kafka: no acknowledgement in time ({trouble or 'the broker is slow'})")
        return [self._found.get(i) or self._failed.get(i, missing) for i in range(len(self._records))]

    async def attempt(self, producer: AIOKafkaProducer) -> BaseException | None:
        """Send what has no answer yet; returns why the producer is of no more use, or None."""
        todo = [i for i in range(len(self._records)) if i not in self._found]
        doubted = [i for i in todo if i in self._doubted]
        trouble = await self._send_together(producer, [i for i in todo if i not in self._doubted])
        for i in doubted:
            if trouble is not None:
                break
            trouble = await self._send_alone(producer, i)
        return trouble

    async def _send_together(self, producer: AIOKafkaProducer, todo: Sequence[int]) -> BaseException | None:
        """Send batches of our own making: one acknowledgement serves all records of a batch."""
        batches: list[_Batch] = []
        trouble: BaseException | None = None
        try:
            async with asyncio.timeout_at(self._deadline):
                packed = await self._pack(producer, todo)
                batches = [batch for of_one in packed.values() for batch in of_one]
                sent = await asyncio.gather(*(self._send_in_order(producer, one) for one in packed.values()))
            trouble = next((error for error in sent if error is not None), None)
        except (KafkaError, TimeoutError) as error:
            self._failed.update(dict.fromkeys(todo, translated(error)))
            trouble = error
        futures = [batch.future for batch in batches if batch.future is not None]
        if futures:
            await asyncio.wait(futures, timeout=self.left())
        for batch in batches:
            trouble = self._take(batch) or trouble
        return trouble

    async def _pack(
        self, producer: AIOKafkaProducer, todo: Sequence[int]
    ) -> dict[tuple[str, int], list[_Batch]]:
        """Batches by topic and partition; records without a key go where there is room."""
        packed: dict[tuple[str, int], list[_Batch]] = {}
        places: dict[tuple[str, bytes | None], int] = {}
        for i in todo:
            record = self._records[i]
            size = len(record.key or b"") + len(record.value or b"") + OVERHEAD
            if size > self._largest:
                self._found[i] = TooLarge(f"{size} bytes with their envelope; {self._largest} are allowed")
                continue
            where = record.topic, record.key
            if where not in places:
                places[where] = await _partition(producer, *where)
            batches = packed.setdefault((record.topic, places[where]), [])
            if batches and batches[-1].add(i, record):
                continue
            if batches and record.key is None:
                places[where] = await _partition(producer, *where)
                batches = packed.setdefault((record.topic, places[where]), [])
            batch = _Batch(record.topic, places[where], producer.create_batch())
            batch.add(i, record)
            batches.append(batch)
        return packed

    async def _send_in_order(
        self, producer: AIOKafkaProducer, batches: Sequence[_Batch]
    ) -> BaseException | None:
        """Send one partition's batches; the error that kept the rest from being sent, if any."""
        for place, batch in enumerate(batches):
            batch.builder.close()
            try:
                batch.future = await producer.send_batch(
                    batch.builder, batch.topic, partition=batch.partition
                )
            except KafkaError as error:
                unsent = [i for each in batches[place:] for i in each.members]
                self._failed.update(dict.fromkeys(unsent, translated(error)))
                return cast("BaseException", error)  # aiokafka has no types
        return None

    async def _send_alone(self, producer: AIOKafkaProducer, i: int) -> BaseException | None:
        """Send one record in a batch of its own: a refusal of that batch is about this record."""
        record = self._records[i]
        try:
            async with asyncio.timeout_at(self._deadline):
                partition = await _partition(producer, record.topic, record.key)
                batch = _Batch(record.topic, partition, producer.create_batch())
                batch.add(i, record)
                error = await self._send_in_order(producer, [batch])
                if batch.future is None:
                    return error
                await asyncio.wait({batch.future})
        except (KafkaError, TimeoutError) as failure:
            self._failed[i] = translated(failure)
            return failure
        return self._take(batch, alone=True)

    def _take(self, batch: _Batch, *, alone: bool = False) -> BaseException | None:
        """Note what became of a batch's records; returns the error that spoils their producer, if any."""
        future = batch.future
        if future is None:
            return None
        if not future.done():
            future.add_done_callback(_retrieve)
            return TimeoutError("no acknowledgement in time")
        error = future.exception()
        if error is None:
            first = future.result().offset
            for place, i in enumerate(batch.members):
                self._found[i] = Landed(topic=batch.topic, partition=batch.partition, offset=first + place)
            return None
        ours = translated(error)
        if isinstance(ours, TooLarge) and alone:
            self._found[batch.members[0]] = ours
        elif isinstance(ours, TooLarge):
            self._doubted.update(batch.members)  # the batch was refused; each of it is tried alone
        else:
            self._failed.update(dict.fromkeys(batch.members, ours))
        return error


@dataclass(slots=True)
class _Batch:
    """Records on their way to one partition; `members` are their places in the call."""

    topic: str
    partition: int
    builder: BatchBuilder
    members: list[int] = field(default_factory=list)
    future: asyncio.Future[RecordMetadata] | None = None

    def add(self, i: int, record: Outgoing) -> bool:
        """Put a record in; False when it is full. The first one always finds room."""
        added = self.builder.append(
            timestamp=None, key=record.key, value=record.value, headers=list(record.headers)
        )
        if added is None:
            return False
        self.members.append(i)
        return True


async def _partition(producer: AIOKafkaProducer, topic: str, key: bytes | None) -> int:
    """Where a record goes: by its key as all clients of Kafka have it, else anywhere."""
    partitions = sorted(await producer.partitions_for(topic))
    return int(_PARTITIONER(key, partitions, partitions))


def _retrieve(future: asyncio.Future[RecordMetadata]) -> None:
    """An answer that comes after the deadline interests nobody, but must not be called unretrieved."""
    if not future.cancelled():
        future.exception()


async def _abandon(producer: AIOKafkaProducer) -> None:
    """Free a producer whose broker hangs: `stop` waits for acknowledgements that never come.

    The library has no public way; its parts are ended in the order in which they wait for each other.
    """
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001  there is no public way
    await close_connections(producer.client)
    await end_tasks([producer._sender.sender_task])  # noqa: SLF001  there is no public way
