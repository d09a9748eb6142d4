"""What the HTTP side may ask of a replica: post, look, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mailsender.admin.blobs import ReplicaBlobs
from mailsender.admin.code_operations import ReplicaCodes
from mailsender.admin.confined import Confined, TooMuch
from mailsender.admin.explaining import Explaining
from mailsender.admin.lifting import Lifting
from mailsender.admin.posting import Posting
from mailsender.admin.readings import readings
from mailsender.admin.relay_state import moment, relay_details, relay_state, route_states
from mailsender.admin.reloading import Reloading
from mailsender.admin.suppression_operations import ReplicaSuppressions
from mailsender.admin.template_operations import ReplicaTemplates
from mailsender.admin.waiting import Waiting
from mailsender.codes.desk import Guess, Made, Wanted
from mailsender.codes.port import Verdict
from mailsender.lint.letters import Surroundings, nearest
from mailsender.lint.run import Linted, NothingToSee, lint
from mailsender.message.headers import Mailbox
from mailsender.model.address import parse_address
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, StoredLetter, now_ms
from mailsender.observe.metrics import Metrics
from mailsender.service import Replica, text_of_html
from mailsender.templates.prepare import prepared
from mailsender.web.explain_models import ExplainedView
from mailsender.web.models import DryRunView
from mailsender.web.operations import Clash, Lifted, Posted, Reloaded, Submission, Submitted

FRESH = 1.0
"""Seconds for which a count of the queue is good, and for which a new one is waited for."""


class ReplicaOperations:
    """Implements `web.operations.Operations` over a replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._counting: asyncio.Task[None] | None = None
        self.blobs = ReplicaBlobs(replica)
        self.suppressions = ReplicaSuppressions(replica)
        self._posting = Posting(replica, self.blobs)
        self._waiting = Waiting(replica.parts.queue, lambda: replica.state != "running")
        self._reloading = Reloading(replica)
        self._explaining = Explaining(replica)
        self._lifting = Lifting(replica)
        self._metrics = Metrics(partial(readings, replica))
        self._codes = ReplicaCodes(replica, self.post, self._posting.new_id)
        self._confined = Confined(lint.__module__, prepared.__module__)
        self.templates = ReplicaTemplates(replica, self._confined.run)

    @property
    def state(self) -> str:
        """One word: ``starting``, ``running``, ``draining`` or ``stopped``."""
        return self._replica.state

    # --- posting ---------------------------------------------------------------------------------

    def accepting(self) -> None:
        """Raises Refused when no letters are taken now."""
        self._posting.accepting()

    async def post(self, body: bytes, key: str = "") -> Posted:
        """Publish `body` as its producer would, with an `ID` in each letter that has none."""
        return await self._posting.post(body, key)

    async def attach(self, name: str, content_type: str, content: AsyncIterator[bytes]) -> Mapping[str, Any]:
        """What stands in `Attachments` for a file that comes with a letter."""
        return await self._posting.attach(name, content_type, content)

    async def submit(self, given: Submission, key: str = "") -> Submitted:
        """Publish one letter as a batch of its own."""
        return await self._posting.submit(given, key)

    async def dry_run(self, given: bytes | Submission) -> DryRunView:
        """What would become of letters."""
        return await self._posting.dry_run(given)

    async def outcome(
        self, submitted: Submitted, seconds: float, gone: Callable[[], bool]
    ) -> StoredLetter | None:
        """What became of a submitted letter, waited for as long as `seconds`."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                while await self._waiting.ended(submitted.id, gone):
                    with suppress(Unavailable):  # it was there a moment ago: asked again
                        found = await self._replica.parts.queue.look_up(submitted.id)
                        if found is not None and not _is_of(submitted, found.letter):
                            raise Clash(submitted.id)
                        return found
        except TimeoutError:
            pass
        return None

    # --- before it is sent, and codes ----------------------------------------------------------

    async def lint(self, body: bytes, bulk: bool | None) -> Linted:
        """What a mailbox provider would mind."""
        replica = self._replica
        name, address = replica.settings.sender
        keys = replica.parts.keys
        known = Surroundings(
            now=now_ms(replica.clock.epoch()),
            sender=Mailbox(name, parse_address(address)),
            signing=None if keys is None else partial(nearest, frozenset(key.domain for key in keys)),
            text_of=text_of_html(replica.settings),
            bulk=bulk,
            limits=replica.limits,
        )
        try:
            return await self._confined.run(lint, body, known)
        except TooMuch as error:
            raise NothingToSee(str(error)) from None

    async def make_code(self, wanted: Wanted) -> Made:
        """Make a confirmation code and publish its letter."""
        self.accepting()
        return await self._codes.make(wanted)

    async def check_code(self, guess: Guess) -> Verdict:
        """What a confirmation code is."""
        return await self._codes.check(guess)

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
        now = replica.clock.epoch()
        return {
            "waits_for": [
                asdict(each)
                | {"since": moment(each.since), "until": moment(each.until), "relay": each.relay or None}
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
                "max": replica.relays[0].policy.sessions.sessions,
                "open": len(replica.relays[0].pool),
                "busy": replica.relays[0].pool.busy,
                "slow": replica.relays[0].pool.dots.slow,
            },
            "relay": relay_state(replica.relays[0]),
            "relays": [relay_details(each, now, replica.clock.monotonic()) for each in replica.relays],
            "routes": route_states(replica.routes, None if stats is None else stats.routes),
            "intake": asdict(replica.intake.state),
            "reports": asdict(replica.reporter.state),
            "event_loop": {
                "stalls": replica.watchdog.stalls,
                "longest_stall_seconds": round(replica.watchdog.longest, 3),
                "longest_stall_cpu_seconds": round(replica.watchdog.longest_cpu, 3),
            },
            "loops": [asdict(state) | {"since": moment(state.since)} for state in replica.supervisor.states],
            "drain": self._progress(),
        }

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """All metrics as they are now, in the form that is accepted, and its Content-Type."""
        return self._metrics.text(accept)

    async def letter(self, letter_id: str) -> StoredLetter | None:
        """One letter of the queue with its times, or None."""
        if self._replica.opening.text:
            raise Unavailable(self._replica.opening.text)
        return self._timed(await self._replica.parts.queue.look_up(letter_id))

    def _timed(self, found: StoredLetter | None) -> StoredLetter | None:
        """As it was found; but one that waits may be tried next when its route's window is open."""
        if found is None or found.due is None:
            return found
        routes = self._replica.routes
        hours = next((each.hours for each in routes if each.name == found.letter.route), None)
        if hours is None or hours.window is None:
            return found
        due = max(found.due.timestamp(), self._replica.clock.epoch())
        opens = hours.opens(due)
        return replace(found, due=now_ms(opens)) if opens > due else found

    async def explain(self, letter_id: str) -> ExplainedView | None:
        """Which way a letter takes and what stands in it now, or None."""
        return await self._explaining.explain(letter_id)

    async def close(self) -> None:
        """End what is under way for callers; the replica is not touched."""
        await self._confined.close()

    async def reload(self, by: str) -> Reloaded:
        """Read the file of relays and routes again."""
        return await self._reloading.reload(by)

    async def lift_order(self, relay: str, scope: str, *, by: str, reason: str) -> Lifted:
        """End what a relay's reply ordered."""
        return await self._lifting.lift(relay, scope, by=by, reason=reason)

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
            "waiting_until": moment(limiter.exhausted_until),
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


def _is_of(submitted: Submitted, letter: Letter) -> bool:
    """Whether a letter is the one that was submitted: its record brought it, or has the same content."""
    place = submitted.topic, submitted.partition, submitted.offset
    origins = [answer.origin for answer in letter.answers if answer.origin is not None]
    ours = any((origin.topic, origin.partition, origin.offset) == place for origin in origins)
    return ours or letter.content == submitted.content
