"""Records that hold no batch: whole to the dead-letter topic, with headers that say why and whence.

A partition of that topic that is in trouble is left out: a dead letter may lie in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from mailsender.kafka.port import RecordSink
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected
from mailsender.model.letter import now_ms
from mailsender.model.records import Outgoing, Record
from mailsender.queue.port import Queue

log = structlog.get_logger()

HEADER = "mailsender-"
"""Beginning of the names of our headers."""

MAX_DETAIL = 500
"""Characters of the sentence in a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRecord:
    """A record that is not taken in: `reason` in one word, `detail` in a sentence."""

    record: Record
    reason: str
    detail: str


class DeadLetters:
    """The way to the dead-letter topic, and past it for what the topic refuses for good."""

    def __init__(self, queue: Queue, sink: RecordSink, *, topic: str, clock: Clock) -> None:
        self._queue = queue
        self._sink = sink
        self._topic = topic
        self._clock = clock

    def tell(self, dead: Sequence[DeadRecord]) -> None:
        """One event for each reason, however many records; a flood of poison is no flood of lines."""
        for reason in sorted({one.reason for one in dead}):
            those = [one for one in dead if one.reason == reason]
            first = those[0].record
            log.warning(
                "dead_letters",
                reason=reason,
                records=len(those),
                first=f"{first.topic}[{first.partition}]@{first.offset}",
                detail=those[0].detail,
                doing=f"the records go whole to {self._topic}",
            )

    async def bury(self, dead: list[DeadRecord]) -> None:
        """Publish records and take each out of `dead` once the broker has it.

        What the broker refuses, for its size or because it has no key, is kept in the queue's store, and its
        record on the topic says where. To be called again with the same list after an error.

        Raises:
            Unavailable: Kafka, or the store, cannot do it now for what is left in `dead`.
        """
        answers = await self._sink.publish([self._whole(one) for one in dead])
        left: list[DeadRecord] = []
        refused: list[DeadRecord] = []
        away: Exception | None = None
        for one, answer in zip(dead, answers, strict=True):
            if isinstance(answer, Rejected):
                refused.append(one)
            elif isinstance(answer, Exception):
                left.append(one)
                away = answer
        dead[:] = [*left, *refused]
        if away is not None and not self._topic_alone_ails():
            raise away
        if away is not None:
            await self._keep_aside(left, away)
            dead[:] = refused
        while dead:
            await self._keep_elsewhere(dead[-1])
            dead.pop()

    def _topic_alone_ails(self) -> bool:
        """Whether Kafka is there, but not for this topic: letters must not wait for it."""
        return not self._sink.trouble and bool(self._sink.trouble_with(self._topic))

    async def _keep_aside(self, left: Sequence[DeadRecord], away: Exception) -> None:
        where = ""
        for one in left:
            where = await self._queue.keep_record(one.record, f"{one.reason}: {one.detail}")
        self._tell_aside(len(left), away, where)

    def _tell_aside(self, records: int, away: Exception, where: str) -> None:
        log.error(
            "dead_letters_kept_aside",
            records=records,
            reason=str(away),
            kept_in=where,
            doing="no partition of the dead-letter topic takes them, so they are kept in MongoDB alone",
            check="the topic, with `mailsender check`",
        )

    async def _keep_elsewhere(self, one: DeadRecord) -> None:
        where = await self._queue.keep_record(one.record, one.detail)
        headers = (*self._headers(one), (f"{HEADER}kept-in", where.encode()))
        (answer,) = await self._sink.publish(
            [Outgoing(topic=self._topic, key=where.encode(), value=b"", headers=headers, anywhere=True)]
        )
        if isinstance(answer, Rejected):
            log.error("dead_letter_pointer_refused", kept_in=where, reason=str(answer))
        elif isinstance(answer, Exception) and self._topic_alone_ails():
            self._tell_aside(1, answer, where)
        elif isinstance(answer, Exception):
            raise answer

    def _whole(self, one: DeadRecord) -> Outgoing:
        record = one.record
        headers = (*record.headers, *self._headers(one))
        return Outgoing(topic=self._topic, key=record.key, value=record.value, headers=headers, anywhere=True)

    def _headers(self, one: DeadRecord) -> tuple[tuple[str, bytes], ...]:
        said = {
            "reason": one.reason,
            "detail": one.detail[:MAX_DETAIL],
            "topic": one.record.topic,
            "partition": str(one.record.partition),
            "offset": str(one.record.offset),
            "time": now_ms(self._clock.epoch()).isoformat(timespec="milliseconds"),
        }
        return tuple((HEADER + name, text.encode("utf-8", "replace")) for name, text in said.items())
