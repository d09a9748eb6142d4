"""Gathers outcomes and writes them back in bulk; what is final goes on to the reporter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog

from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import Letter, Recipient, Settlement, Status, now_ms
from mailsender.observe.conditions import Condition
from mailsender.observe.metrics import AGES, Times
from mailsender.observe.supervision import Keep, once
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue

log = structlog.get_logger()

T = TypeVar("T")

BATCH = 500
"""Outcomes in one write: enough to share the round trip, few enough to keep the write short."""

GATHER = 0.05
"""Seconds from one write to the next, so that under load a write is shared by more than a few: each costs
both sides about as much as twenty letters. What comes after a pause is written at once."""

GATHER_JOURNALED = 0.15
"""The same where a journal is kept: a successor knows from it what was sent, so that no letter comes twice
although its outcome waited longer. Only whoever loses the machine loses the journal, too."""

BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of letters whose outcomes wait, from which a write is due as well: they count as in flight, and a few
large ones must not keep others out while they wait for company."""

UNSETTLED = 1000
"""Outcomes that may wait to be written before no more letters are begun: each of them would be sent again if
the process died now. Two writes' worth, so that one can be gathered while the other is under way."""

SLOW = 0.5
"""Seconds that a write may take before no more letters are begun: it may be the first of an outage."""

UNSTORABLE = "what became of its recipients could not be stored"
"""The reason of a letter whose outcome MongoDB takes in no other words."""

REPEAT_UNWRITTEN = 60.0
"""Seconds after which an outcome that MongoDB refused in all words is offered again."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
"""Seconds between tries while MongoDB is away."""


@dataclass(slots=True)
class Tally:
    """What was settled since the start, by how it ended.

    `uncertain` counts the letters' attempts that ended after the dot without a reply, `recovered` the letters
    that were settled from the journal of a process that died.
    """

    sent: int = 0
    error: int = 0
    deferred: int = 0
    released: int = 0
    late: int = 0
    uncertain: int = 0
    recovered: int = 0


@dataclass(slots=True, eq=False)
class _Progress:
    """What is known of some recipients of a letter that goes on, and who waits until it is written."""

    token: str
    letter_id: str
    changed: Mapping[int, Recipient]
    answer: asyncio.Future[bool]


class Settler:
    """Writes settlements and releases in the order they come; one write is under way at a time.

    A write is repeated until it succeeds: a settlement holds although its replica was declared dead, as long
    as nobody else took the letter. `open` is set while letters may be begun; it is not while outcomes cannot
    be written, or too many wait for it.
    """

    def __init__(
        self,
        queue: Queue,
        in_flight: InFlight,
        clock: Clock,
        *,
        report: Callable[[Sequence[Letter]], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._clock = clock
        self._report = report
        self._settlements: list[Settlement] = []
        self._waiting_bytes = 0
        self._releases: dict[str, list[str]] = {}
        self._progress: list[_Progress] = []
        self._finals: list[Letter] = []
        self._unwritten: dict[str, Settlement] = {}
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._reporting = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.open = asyncio.Event()
        self.open.set()
        self._written_at = float("-inf")
        self._pause = GATHER_JOURNALED if in_flight.journal.replica else GATHER
        self.tally = Tally()
        self.times = Times()
        self.since_records = Times(AGES)  # until letters were settled as sent
        self.held_up = 0  # times that too many outcomes waited for more letters to be begun
        self.condition = Condition(part="mongodb")
        self.unreported_bytes = 0

    def put(self, settlement: Settlement) -> None:
        """Take an outcome; it is written soon."""
        self._in_flight.decide(settlement.token, settlement.letter.id)
        self._settlements.append(settlement)
        self._waiting_bytes += settlement.letter.size
        if self._due:
            self._full.set()
        if len(self._settlements) >= UNSETTLED:
            if self.open.is_set():
                self.held_up += 1
            self.open.clear()
        self._idle.clear()
        self._wake.set()

    def progress(self, token: str, letter_id: str, changed: Mapping[int, Recipient]) -> asyncio.Future[bool]:
        """Take what is known of some recipients of a letter that goes on; see `Queue.progress`.

        It is written at once, and the answer comes when it is.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._progress.append(_Progress(token, letter_id, changed, answer))
        self._full.set()
        self._idle.clear()
        self._wake.set()
        return answer

    def release(self, token: str, ids: Sequence[str]) -> None:
        """Take letters that go back untouched."""
        if ids:
            for each in ids:
                self._in_flight.decide(token, each)
            self._releases.setdefault(token, []).extend(ids)
            self._idle.clear()
            self._wake.set()

    async def run(self, keep: Keep = once) -> None:
        """Write and hand on until cancelled; `flush` first."""
        never = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(keep("settling", self._write_all, never, "no outcome is written"))
            group.create_task(keep("handing on", self._hand_on, never, "reports are left to the sweep"))

    async def flush(self, timeout: float) -> bool:
        """Wait until all that was put is written and handed on; False when `timeout` seconds were too few."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def settle_now(self, settlements: Sequence[Settlement]) -> frozenset[str]:
        """Write outcomes that were never in flight, however long it takes; returns the late ones' IDs.

        What is final is handed on once `run` runs.
        """
        written, late = await self._settle(self._dated(settlements))
        self._idle.clear()
        self._written(written, late)
        self._note_idle()
        return late

    async def release_now(self, token: str, ids: Sequence[str]) -> None:
        """Give back letters that were never in flight, however long it takes."""
        released = await self._give_back(token, ids)
        self.tally.released += released

    async def _write_all(self) -> None:
        self._wake.set()  # something may wait since this failed
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._settlements or self._releases or self._progress:
                await self._write_progress()
                await self._gather()
                await self._write_releases()
                await self._write_settlements()
            self._note_idle()

    @property
    def _due(self) -> bool:
        """Whether as much waits as one write should hold, or somebody waits for one."""
        return bool(self._progress) or len(self._settlements) >= BATCH or self._waiting_bytes >= BATCH_BYTES

    async def _gather(self) -> None:
        """Wait until a write is full, if the last one has only just been."""
        self._full.clear()
        left = self._written_at + self._pause - self._clock.monotonic()
        if left > 0 and not self._due:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._full.wait()
        self._written_at = self._clock.monotonic()

    async def _write_progress(self) -> None:
        """Write what is known of slices now, all at once: there is one of a sender at most.

        What comes meanwhile has its turn behind settlements and releases, which would else never have one.
        """
        if self._progress:
            async with asyncio.TaskGroup() as group:
                for each in self._progress:
                    group.create_task(self._write_slice(each))

    async def _write_slice(self, progress: _Progress) -> None:
        write = partial(self._queue.progress, progress.token, progress.letter_id, progress.changed)
        try:
            ours = await self._until_written(write)
        except Rejected:
            ours = True  # its settlement says what cannot be written
        self._progress.remove(progress)
        if not progress.answer.done():
            progress.answer.set_result(ours)

    async def _write_settlements(self) -> None:
        batch = self._dated(self._settlements[:BATCH])
        if not batch:
            return
        written, late = await self._settle(batch)
        del self._settlements[: len(batch)]
        self._waiting_bytes -= sum(each.letter.size for each in batch)
        self._let_in()
        # A letter that came back to us meanwhile is in flight under another token.
        in_flight = self._in_flight
        ended = [s.letter.id for s in batch if in_flight.token(s.letter.id) == s.token]
        in_flight.drop([each for each in ended if each not in self._unwritten])
        self._written(written, late)

    def _written(self, batch: Sequence[Settlement], late: frozenset[str]) -> None:
        if late:
            self.tally.late += len(late)
            log.warning(
                "late_settlements", letters=len(late), action="another replica has them; nothing was changed"
            )
        kept = [s.letter for s in batch if s.letter.id not in late]
        self._count(kept)
        finals = [letter for letter in kept if letter.status.final]
        if finals:
            self._finals.extend(finals)
            self.unreported_bytes += sum(letter.size for letter in finals)
            self._reporting.set()

    def _dated(self, batch: Sequence[Settlement]) -> list[Settlement]:
        """All that is final in a batch was finished now: those that end alike are written alike.

        A batch is dated once, however often its write is repeated: a report has the same words each time.
        """
        now = now_ms(self._clock.epoch())
        return [
            Settlement(token=each.token, letter=each.letter.evolve(finished_at=now))
            if each.letter.status.final
            else each
            for each in batch
        ]

    async def _settle(self, batch: Sequence[Settlement]) -> tuple[list[Settlement], frozenset[str]]:
        """Write a batch; returns what was written, in the words in which it was, and the late ones' IDs.

        An outcome that the store can never hold is told apart and kept in plainer words. Not to write it
        would be worse than to lose its words: the letter would be sent again for ever.
        """
        written: list[Settlement] = []
        late: set[str] = set()
        pending = [list(batch)]
        while pending:
            part = pending.pop()
            began = self._clock.monotonic()
            try:
                late |= await self._until_written(partial(self._queue.settle, part))
            except Rejected as error:
                if len(part) > 1:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                plainer = self._plainer(part[0])
                if plainer is None:
                    self._keep_unwritten(part[0], str(error))
                else:
                    pending.append([plainer])
            else:
                self.times.note(self._clock.monotonic() - began)
                written += part
                for each in part:
                    self._unwritten.pop(each.letter.id, None)
        return written, frozenset(late)

    def _plainer(self, settlement: Settlement) -> Settlement | None:
        """The same outcome in fewer words, and in the fewest after that; None where there are none fewer."""
        for fewer in (_plain(settlement), self._barest(settlement)):
            if fewer != settlement:
                return fewer
        return None

    def _barest(self, settlement: Settlement) -> Settlement:
        """An end with nothing about the recipients: what became of each cannot be kept.

        A letter that should be tried again ends, too, for nobody would know who has it already.
        """
        letter = settlement.letter
        sent = letter.status is Status.SENT or any(each.accepted for each in letter.recipients)
        if letter.reason == UNSTORABLE:
            return settlement
        return Settlement(
            token=settlement.token,
            letter=letter.evolve(
                status=Status.SENT if sent else Status.ERROR,
                recipients=tuple([Recipient(address=each) for each in letter.addresses]),
                relay="",
                message_id="",
                reason=UNSTORABLE,
                history=(),
                finished_at=letter.finished_at or now_ms(self._clock.epoch()),
            ),
        )

    def _keep_unwritten(self, settlement: Settlement, fault: str) -> None:
        """Keep an outcome that no words can store: the letter stays ours, unsent, until it can be written."""
        letter_id = settlement.letter.id
        if letter_id not in self._unwritten:
            log.error(
                "outcome_not_written",
                letter=letter_id,
                error=fault,
                action="the letter is kept in flight and not sent again; tried again every minute",
                check="whether a rule of the collection refuses it",
            )
        self._unwritten[letter_id] = settlement
        asyncio.get_running_loop().call_later(REPEAT_UNWRITTEN, self._repeat, letter_id)

    def _repeat(self, letter_id: str) -> None:
        settlement = self._unwritten.get(letter_id)
        if settlement is not None:
            self.put(settlement)

    async def _write_releases(self) -> None:
        for token in list(self._releases):
            waiting = self._releases[token]
            ids = waiting[:]  # more of the same claim may come while it is written
            released = await self._give_back(token, ids)
            del waiting[: len(ids)]
            if not waiting:
                del self._releases[token]
            self._in_flight.drop([each for each in ids if self._in_flight.token(each) == token])
            self.tally.released += released

    async def _give_back(self, token: str, ids: Sequence[str]) -> int:
        """Give letters back; how many. One that the store will not take back is left to others."""
        given = 0
        pending = [list(ids)]
        while pending:
            part = pending.pop()
            try:
                await self._until_written(partial(self._queue.release, token, part))
            except Rejected as error:
                if len(part) > 1:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]
                else:
                    log.error("letter_not_given_back", letter=part[0], error=str(error))
            else:
                given += len(part)
        return given

    async def _until_written(self, write: Callable[[], Awaitable[T]]) -> T:
        backoff = FIRST_BACKOFF
        while True:
            slow = asyncio.get_running_loop().call_later(SLOW, self.open.clear)
            try:
                result = await write()
            except Unavailable as error:
                if self.condition.set(str(error), self._clock.epoch()):
                    log.warning("settling_waits", error=str(error), action="repeated until MongoDB is back")
                self.open.clear()
            else:
                if self.condition.clear():
                    log.info("settling_goes_on")
                self._let_in()
                return result
            finally:
                slow.cancel()
            await asyncio.sleep(backoff)
            backoff = min(LAST_BACKOFF, backoff * 2)

    def let_go(self) -> None:
        """Whoever waits until letters may be begun goes on once, for it is time to stop."""
        if not self.open.is_set():
            self.open.set()
            self.open.clear()

    def _let_in(self) -> None:
        """Letters may be begun again, when what is unsettled is little and can be written."""
        if not self.condition.text and len(self._settlements) < UNSETTLED:
            self.open.set()

    async def _hand_on(self) -> None:
        self._reporting.set()
        while True:
            await self._reporting.wait()
            self._reporting.clear()
            while self._finals:
                finals, self._finals = self._finals, []
                try:
                    await self._report(finals)
                finally:  # what could not be handed on is found by the sweep
                    self.unreported_bytes -= sum(letter.size for letter in finals)
                    self._in_flight.ease()
            self._note_idle()

    def _note_idle(self) -> None:
        waiting = self._settlements or self._releases or self._progress or self._finals
        if not (waiting or self.unreported_bytes):
            self._idle.set()

    def _count(self, letters: Sequence[Letter]) -> None:
        sent = [letter for letter in letters if letter.status is Status.SENT]
        error = sum(letter.status is Status.ERROR for letter in letters) if len(sent) < len(letters) else 0
        self.tally.sent += len(sent)
        self.tally.error += error
        self.tally.deferred += len(letters) - len(sent) - error
        self.since_records.note_since_records(sent, self._clock.epoch())


def _plain(settlement: Settlement) -> Settlement:
    """The same outcome without what relays said, now and before."""
    recipients = tuple(
        replace(r, result=replace(r.result, text="", enhanced=None) if r.result else None)
        for r in settlement.letter.recipients
    )
    letter = settlement.letter.evolve(recipients=recipients, relay="", history=())
    return replace(settlement, letter=letter)
