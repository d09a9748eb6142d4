"""What was lost of the in-topic before it was read: told by log, readiness and status."""

from __future__ import annotations

import structlog
from aiokafka import TopicPartition

log = structlog.get_logger()

MOST_LOSSES = 100
"""Losses that are told by readiness and status; the log tells all."""


def named(partition: TopicPartition) -> str:
    """A partition, for people."""
    return f"partition {partition.partition} of {partition.topic}"


class Losses:
    """All of them since the start. `records` are how many were deleted unread."""

    def __init__(self) -> None:
        self.records = 0
        self._told: list[str] = []

    def deleted(self, partition: TopicPartition, first: int, count: int) -> None:
        """So many records, from offset `first` on, were deleted before they were read."""
        self.records += count
        log.error(
            "records_lost",
            topic=partition.topic,
            partition=partition.partition,
            records=count,
            first=first,
            last=first + count - 1,
            reason="the broker deleted them before they were read",
            check="the topic's retention.ms and retention.bytes, and whether the service stood still",
        )
        self._note(f"{count} records of {named(partition)} from offset {first} on were deleted unread")

    def differs(self, partition: TopicPartition, *, first: int, committed: int | None, position: int) -> None:
        """Other records than were read lie in a log from offset `first` on; it is read from `position` on."""
        log.error(
            "log_differs",
            topic=partition.topic,
            partition=partition.partition,
            committed=committed,
            read_from=position,
            reason="other records lie there than were read: the log was cut off, or the topic made anew",
            doing="it is read again from where it still agrees; nothing is taken in twice",
            check="the brokers: an unclean election, a restored disk, a topic that was deleted",
        )
        self._note(f"the log of {named(partition)} differs from offset {first} on")

    @property
    def text(self) -> str:
        """What was lost, until the next start: somebody has to see it. Empty where nothing was."""
        if not self._told:
            return ""
        more = f" (and {len(self._told) - 1} more)" if len(self._told) > 1 else ""
        return f"{self._told[0]}{more}; told until the next start"

    def _note(self, text: str) -> None:
        if len(self._told) < MOST_LOSSES:
            self._told.append(text)
