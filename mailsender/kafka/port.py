"""What the loops need from Kafka: a source of records and a sink. The docstrings are the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mailsender.model.records import Landed, Outgoing, Record


class RecordSource(Protocol):
    """The in-topic, as one member of its consumer group reads it.

    A broker that is away is survived inside: calls return nothing meanwhile and `trouble` says why.
    """

    async def open(self) -> None:
        """Join the group; returns although no broker answers yet."""
        ...

    async def fetch(self, timeout: float) -> list[Record]:
        """The next records, in order within each partition; empty after `timeout` seconds.

        Each record is handed out once, unless its partition was given away and came back.
        """
        ...

    async def idle(self, timeout: float) -> None:
        """Stay in the group without taking records, for about `timeout` seconds."""
        ...

    async def commit(
        self,
        offsets: Mapping[tuple[str, int], int],
        notes: Mapping[tuple[str, int], str] | None = None,
    ) -> bool:
        """Commit the next offset to read of each (topic, partition), with a note of what lies before it.

        Partitions that are not ours any more are left out: another member will redo them. False means
        that the broker did not confirm it in time and that the call should be repeated.
        """
        ...

    @property
    def trouble(self) -> str:
        """Why records are not coming, or some never will, for readiness and status; empty if all is well."""
        ...

    @property
    def generation(self) -> int:
        """Another number after partitions came or went: what was known of one may be old since.

        Whatever was handed out and is not committed by then is handed out again, to us or to another member.
        """
        ...

    @property
    def lost(self) -> int:
        """Records that the broker deleted before they were read, since the start, where that shows."""
        ...

    def lag(self) -> Mapping[tuple[str, int], int]:
        """How many records lie behind the last that was handed out, by (topic, partition), where known."""
        ...

    async def close(self) -> None:
        """Leave the group, within a deadline."""
        ...


class RecordSink(Protocol):
    """An idempotent producer, acks=all."""

    async def open(self) -> None:
        """Start; returns although no broker answers yet."""
        ...

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        """Publish all, without waiting one by one; answers stand in the order of `records`.

        An answer is where the record lies once every in-sync replica has it, `Rejected` (`TooLarge`, or it
        is refused for something else that it holds: it always will be), or `Unavailable` (it may or may not
        have been stored). Never raises for a single record and never waits longer than its deadline. A
        partition in trouble holds up nothing but its own records, and those not longer than it has to: one
        that is known to be in trouble answers at once.
        """
        ...

    @property
    def trouble(self) -> str:
        """Why no record at all can be published, for readiness and status; empty when some can."""
        ...

    def trouble_with(self, topic: str) -> str:
        """Why no record can be published on `topic`; empty when one of its partitions takes some."""
        ...

    async def close(self) -> None:
        """Flush and stop, within a deadline."""
        ...
