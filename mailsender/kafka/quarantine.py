"""Which partitions hold a record that cannot be decoded, and when each is tried again. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError, RecordTooLargeError, UnsupportedCodecError

from mailsender.kafka.client import described

log = structlog.get_logger()

CHUNK = 64
"""Records taken from a partition at once, between two looks at the bytes in flight."""

_ABOUT_A_RECORD = (UnsupportedCodecError, CorruptRecordException, RecordTooLargeError)


def about_a_record(error: BaseException) -> bool:
    """Whether an error came out of decoding a record: one of three, or anything that is not Kafka's own."""
    return isinstance(error, _ABOUT_A_RECORD) or not isinstance(error, KafkaError)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why the record at `offset` cannot be read, and since when on the monotonic clock it is left alone."""

    reason: str
    offset: int
    since: float


class Quarantine:
    """Partitions go from sound to careful to closed, and from closed by way of probation back to sound.

    An error in the middle of a chunk gives back nothing of the chunk. So a partition with an error is first
    taken with care, record by record; the next error is about the very next record, and closes it. Every
    `retry` seconds a closed one is tried again.
    """

    def __init__(self, retry: float) -> None:
        self._retry = retry
        self._careful: set[TopicPartition] = set()
        self._closed: dict[TopicPartition, Unreadable] = {}
        self._probation: dict[TopicPartition, Unreadable] = {}

    @property
    def closed(self) -> frozenset[TopicPartition]:
        """The partitions from which nothing is to be taken."""
        return frozenset(self._closed)

    @property
    def trouble(self) -> str:
        """What cannot be read, for readiness and status; empty when all can."""
        for partition, found in {**self._closed, **self._probation}.items():
            where = f"partition {partition.partition} of {partition.topic} at offset {found.offset}"
            return f"{where} cannot be read: {found.reason}"
        return ""

    def chunk(self, partition: TopicPartition) -> int:
        """How many records to take from it at once."""
        return 1 if partition in self._careful else CHUNK

    def warn(self, partition: TopicPartition) -> bool:
        """Note an error; whether care would still find out how far the partition can be read."""
        first = partition not in self._careful
        self._careful.add(partition)
        return first

    def close(self, partition: TopicPartition, offset: int, error: BaseException, now: float) -> None:
        """The record at `offset` cannot be read."""
        known = self._probation.pop(partition, None)
        self._closed[partition] = Unreadable(described(error), offset, now)
        if known is not None and known.offset == offset:
            return
        log.error(
            "partition_unreadable",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
            reason=described(error),
            doing="the partition is paused and tried again every now and then; the others go on",
            check="whether the record is damaged or its codec unknown; to step over it, stop all members"
            " and move the group's offset with kafka-consumer-groups --reset-offsets",
        )

    def due(self, now: float) -> list[TopicPartition]:
        """The closed partitions that have another try from now on."""
        found = [p for p, unreadable in self._closed.items() if now - unreadable.since >= self._retry]
        for partition in found:
            self._probation[partition] = self._closed.pop(partition)
        return found

    def sound(self, partition: TopicPartition) -> None:
        """Records of it came, down to the last that was there."""
        self._careful.discard(partition)
        if self._probation.pop(partition, None):
            log.info("partition_readable", topic=partition.topic, partition=partition.partition)

    def keep(self, mine: Iterable[TopicPartition]) -> None:
        """Forget all partitions but `mine`: whoever has the others finds out."""
        keep = frozenset(mine)
        self._closed = {p: found for p, found in self._closed.items() if p in keep}
        self._probation = {p: found for p, found in self._probation.items() if p in keep}
        self._careful = {*self._closed, *self._probation}
