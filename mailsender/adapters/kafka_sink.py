"""The topics that mailsender writes: an idempotent producer behind `ports.RecordSink`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed
from aiokafka.partitioner import DefaultPartitioner
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

LINGER_MS = 5
"""Wait for companions of a record; they come from one `publish`, so a few milliseconds collect them."""

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
        call = _Publishing(records, asyncio.get_running_loop().time() + self._config.timeout)
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
            linger_ms=LINGER_MS,
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

    def __init__(self, records: Sequence[Outgoing], deadline: float) -> None:
        self._records = records
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
        together = [i for i in todo if i not in self._doubted and not _empty(self._records[i])]
        trouble = await self._send_together(producer, together)
        for i in todo:
            if trouble is not None:
                break
            if i not in together:
                trouble = await self._send_alone(producer, i)
        return trouble

    async def _send_together(self, producer: AIOKafkaProducer, todo: Sequence[int]) -> BaseException | None:
        futures: dict[int, asyncio.Future[RecordMetadata]] = {}
        trouble: BaseException | None = None
        try:
            async with asyncio.timeout_at(self._deadline):
                for i in todo:
                    record = self._records[i]
                    try:
                        futures[i] = await producer.send(
                            record.topic, record.value, key=record.key, headers=list(record.headers)
                        )
                    except MessageSizeTooLargeError as error:  # by the client's own limit; nothing was sent
                        self._found[i] = _too_large(error)
        except (KafkaError, TimeoutError) as error:
            trouble = error
        if futures:
            await asyncio.wait(futures.values(), timeout=self.left())
        for i, future in futures.items():
            trouble = self._take(i, future) or trouble
        return trouble

    async def _send_alone(self, producer: AIOKafkaProducer, i: int) -> BaseException | None:
        """Send one record in a batch of its own: a refusal of that batch is about this record.

        It is also the way for a record with neither key nor value, which `send` does not take.
        """
        record = self._records[i]
        batch = producer.create_batch()
        batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
        batch.close()
        try:
            async with asyncio.timeout_at(self._deadline):
                partitions = sorted(await producer.partitions_for(record.topic))
                partition = _PARTITIONER(record.key, partitions, partitions)
                future = await producer.send_batch(batch, record.topic, partition=partition)
                await asyncio.wait({future})
        except (KafkaError, TimeoutError) as error:
            self._failed[i] = translated(error)
            return error
        return self._take(i, future, alone=True)

    def _take(
        self, i: int, future: asyncio.Future[RecordMetadata], *, alone: bool = False
    ) -> BaseException | None:
        """Note what became of a record; returns the error that spoils its producer, if any."""
        if not future.done():
            future.add_done_callback(_retrieve)
            return TimeoutError("no acknowledgement in time")
        error = future.exception()
        if error is None:
            landed = future.result()
            self._found[i] = Landed(topic=landed.topic, partition=landed.partition, offset=landed.offset)
            return None
        ours = translated(error)
        if isinstance(ours, TooLarge) and alone:
            self._found[i] = ours
        elif isinstance(ours, TooLarge):
            self._doubted.add(i)  # its batch was refused; each of it is tried alone
        else:
            self._failed[i] = ours
        return error


def _empty(record: Outgoing) -> bool:
    return record.key is None and record.value is None


def _too_large(error: Exception) -> TooLarge:
    ours = TooLarge(described(error))
    ours.__cause__ = error
    return ours


def _retrieve(future: asyncio.Future[RecordMetadata]) -> None:
    """An answer that comes after the deadline interests nobody, but must not be called unretrieved."""
    if not future.cancelled():
        future.exception()


async def _abandon(producer: AIOKafkaProducer) -> None:
    """Free a producer whose broker hangs: `stop` waits for acknowledgements that never come.

    The library has no public way; its parts are ended in the order in which they wait for each other.
    """
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001
    await close_connections(producer.client)
    await end_tasks([producer._sender.sender_task])  # noqa: SLF001
