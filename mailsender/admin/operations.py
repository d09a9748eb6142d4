"""What the HTTP side may ask of a replica: post, look, drain."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mailsender.admin.blobs import ReplicaBlobs
from mailsender.admin.readings import readings
from mailsender.intake.batch import Fault, NotABatch, decode, faults, letter_id, with_id
from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.model.json_values import batch_text
from mailsender.model.letter import StoredLetter, now_ms
from mailsender.model.records import Landed, Outgoing
from mailsender.observe.metrics import Metrics
from mailsender.service import Replica
from mailsender.web.operations import BadBatch, Posted, Refused
from mailsender.web.problems import MAX_FAULTS

KEY_BYTES = 16
"""Bytes of the random key of a posted record, as the original chose it; ours can be printed."""

FRESH = 1.0
"""Seconds for which a count of the queue is good, and for which a new one is waited for."""

BREATH = 0.005
"""Seconds of work on a posted batch after which others have their turn."""

RETRY_SOON, RETRY_LATER = 5.0, 30.0
"""Seconds after which a refused post may be tried again: another replica answers, or a part is back."""


class ReplicaOperations:
    """Implements `web.operations.Operations` over a replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._counting: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._metrics = Metrics(partial(readings, replica))
        self.blobs = ReplicaBlobs(replica)

    @property
    def state(self) -> str:
        """One word: ``starting``, ``running``, ``draining`` or ``stopped``."""
        return self._replica.state

    # --- posting ---------------------------------------------------------------------------------

    def accepting(self) -> None:
        """Raises Refused when no letters are taken now."""
        replica = self._replica
        if replica.state != "running":
            text = f"This replica is {replica.state} and takes no letters; try another one."
            raise Refused(replica.state, text, retry_after=RETRY_SOON)
        # Not the topic's trouble: a post is what tells whether that is over.
        if replica.parts.sink.trouble:
            text = "Kafka cannot be reached now, so nothing of the batch was taken; try again."
            raise Refused("no-broker", text, retry_after=RETRY_SOON)
        if (waiting := replica.queue_full) is not None:
            replica.posts_refused += 1
            limit = replica.settings.queue_max_letters
            text = f"{waiting} letters wait already, more than QUEUE_MAX_LETTERS ({limit})."
            raise Refused("queue-full", text, retry_after=RETRY_LATER)

    async def post(self, body: bytes, key: str = "") -> Posted:
        """Publish `body` as its producer would, with an `ID` in each letter that has none."""
        self.accepting()
        # One after the other: the work for several at once would be one long turn for all others.
        async with self._reading:
            elements, value = await self._read(body)
        topic = self._replica.settings.kafka_topic_mailsender
        named = key.encode() or _printable_key()
        record = Outgoing(topic=topic, key=named, value=value, anywhere=not key)
        (answer,) = await self._replica.parts.sink.publish([record])
        if isinstance(answer, Rejected):
            raise answer
        ids = tuple(letter_id(element) for element in elements)
        if isinstance(answer, Forbidden):
            text = (
                f"mailsender may not write to {topic}: give its user WRITE there. Then post the same letters,"
                " with the IDs that `ids` gives them."
            )
            raise Refused("forbidden", text, retry_after=RETRY_SOON, ids=ids) from answer
        if not isinstance(answer, Landed):
            text = (
                "Kafka did not confirm the batch in time; it may have been stored. To repeat it safely post"
                " the same letters with the IDs that `ids` gives them."
            )
            raise Refused("unconfirmed", text, retry_after=RETRY_SOON, ids=ids) from answer
        return Posted(topic=answer.topic, partition=answer.partition, offset=answer.offset, ids=ids)

    async def _read(self, body: bytes) -> tuple[list[dict[str, Any]], bytes]:
        """The elements of a batch, each with an ID, and the batch of them.

        Raises:
            BadBatch: it is none, or some of its letters are wrong.
        """
        try:
            elements = decode(body, self._replica.limits)
        except NotABatch as error:
            raise BadBatch(str(error)) from None
        if not elements:
            raise BadBatch("The array is empty: there is nothing to send.")
        await asyncio.sleep(0)
        await self._examine(elements)
        breath = _Breath()
        for index, element in enumerate(elements):
            if not letter_id(element):
                elements[index] = with_id(element, self._new_id())
            await breath.taken()
        return elements, _written(elements)

    async def _examine(self, elements: Sequence[Mapping[str, Any]]) -> None:
        """Look through a batch, and let others have their turn meanwhile.

        Raises:
            BadBatch: with as many faults as are told; what comes behind them is not looked at.
        """
        found: list[Fault] = []
        breath = _Breath()
        for index, element in enumerate(elements):
            found += [replace(fault, index=index) for fault in faults([element], self._replica.limits)]
            if len(found) > MAX_FAULTS:
                break
            await breath.taken()
        if found:
            least = "At least " if len(found) > MAX_FAULTS else ""
            wrong = len({f.index for f in found})
            raise BadBatch(f"{least}{wrong} of {len(elements)} letters are wrong.", found)

    def _new_id(self) -> str:
        """As ObjectIds are: the time, so that IDs sort by it, and chance."""
        return f"{int(self._replica.clock.epoch()) & 0xFFFFFFFF:08x}{secrets.token_hex(8)}"

    # --- looking ---------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, list[str]]:
        """Whether all parts do their work, and which do not."""
        reasons = self._replica.not_ready_because()
        return not reasons, reasons

    async def status(self) -> Mapping[str, Any]:
        """All that an operator wants to see at once; the queue is counted anew where it can be."""
        replica = self._replica
        await self._count()
        stats, age = replica.tidier.stats, replica.tidier.stats_age
        return {
            "waits_for": [
                asdict(each) | {"since": _moment(each.since), "until": _moment(each.until)}
                for each in replica.conditions.now()
            ],
            "uptime_seconds": round(replica.clock.monotonic() - replica.started, 1),
            "queue": None
            if stats is None
            else {
                "age_seconds": round(age or 0.0, 1),
                "awaiting": stats.awaiting,
                "due": stats.due,
                "processing": stats.processing,
                "sent": stats.sent,
                "error": stats.error,
                "unreported": stats.unreported,
                "oldest_due_seconds": round(stats.oldest_due, 1),
                "in_hand": len(replica.in_flight),
            },
            "since_start": self._counters(),
            "rate": self._rate(),
            "sessions": {
                "max": replica.settings.smtp_max_senders,
                "open": len(replica.relays[0].pool),
                "busy": replica.relays[0].pool.busy,
                "slow": replica.relays[0].pool.dots.slow,
            },
            "relay": self._relay(),
            "intake": asdict(replica.intake.state),
            "reports": asdict(replica.reporter.state),
            "event_loop": {
                "stalls": replica.watchdog.stalls,
                "longest_stall_seconds": round(replica.watchdog.longest, 3),
                "longest_stall_cpu_seconds": round(replica.watchdog.longest_cpu, 3),
            },
            "loops": [asdict(state) | {"since": _moment(state.since)} for state in replica.supervisor.states],
            "drain": self._progress(),
        }

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """All metrics as they are now, in the form that is accepted, and its Content-Type."""
        return self._metrics.text(accept)

    async def letter(self, letter_id: str) -> StoredLetter | None:
        """One letter of the queue with its times, or None."""
        if self._replica.opening.text:
            raise Unavailable(self._replica.opening.text)
        return await self._replica.parts.queue.look_up(letter_id)

    def begin_drain(self) -> Mapping[str, Any]:
        """Start the drain, or say how far it is."""
        self._replica.drain("halt")
        return self._progress()

    async def _count(self) -> None:
        """Count the queue, unless that was done a moment ago, or takes long, or cannot be done."""
        tidier = self._replica.tidier
        if self._counting is None and (tidier.stats_age is None or tidier.stats_age > FRESH):
            self._counting = asyncio.create_task(tidier.count())
            self._counting.add_done_callback(self._counted)
        if self._counting is not None:
            await asyncio.wait({self._counting}, timeout=FRESH)

    def _counted(self, task: asyncio.Task[None]) -> None:
        self._counting = None
        if not task.cancelled():
            task.exception()  # the tidier tells what is wrong with the queue

    def _counters(self) -> dict[str, int]:
        replica, counted = self._replica, self._replica.counted()
        return counted | {
            "late_settlements": counted.pop("late"),
            "letters_lost": replica.heartbeat.lost,
            "letters_reclaimed": replica.tidier.reclaimed,
        }

    def _rate(self) -> dict[str, Any]:
        limiter = self._replica.relays[0].limiter
        allowance = limiter.allowance
        return {
            "letters": allowance.letters,
            "period_seconds": allowance.period,
            "burst": allowance.burst,
            "daily_quota": allowance.quota,
            "quota_left": limiter.quota_left,
            "waiting_until": _moment(limiter.exhausted_until),
        }

    def _relay(self) -> dict[str, Any]:
        relay = self._replica.relays[0]
        reach = relay.pool.reach
        if relay.pool.away:
            state = "away"
        elif relay.breaker.open:
            state = "refuses"
        else:
            state = "answers" if reach.ever else "not asked yet"
        return {
            "name": relay.address,
            "state": state,
            "trouble": reach.trouble or relay.breaker.why or None,
            "phase": reach.phase or relay.breaker.phase or None,
            "since": _moment(relay.since),
            "again": _moment(relay.next_try),
            "remark": relay.transport.remark or None,
        }

    def _progress(self) -> dict[str, Any]:
        replica, progress = self._replica, self._replica.progress
        if progress.started is None:
            return {"draining": False}
        return {
            "draining": True,
            "reason": progress.reason,
            "step": progress.step or "begins",
            "seconds": round(replica.clock.monotonic() - progress.started, 1),
            "timeout_seconds": replica.settings.drain_timeout,
            "in_hand": len(replica.in_flight),
            "unclean": list(progress.unclean),
        }


def _moment(epoch: float | None) -> str | None:
    return now_ms(epoch).isoformat() if epoch else None


class _Breath:
    """Lets others have their turn when long work has had its own."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def taken(self) -> None:
        """To be called between two small pieces of the work."""
        if time.monotonic() - self._since > BREATH:
            await asyncio.sleep(0)
            self._since = time.monotonic()


def _printable_key() -> bytes:
    return secrets.token_urlsafe(KEY_BYTES * 3 // 4).encode()


def _written(elements: Sequence[Mapping[str, Any]]) -> bytes:
    """A batch as JSON; half of a surrogate pair, which an ignored key may hold, goes escaped as it came."""
    try:
        return batch_text(elements, ascii_only=False).encode()
    except UnicodeEncodeError:
        return batch_text(elements, ascii_only=True).encode()
