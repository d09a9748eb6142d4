"""Where senders wait for slots: leases them in chunks, hands them out in order, gives back the rest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mailsender.aio import first_of, pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import now_ms
from mailsender.observe.conditions import Condition
from mailsender.ratelimit.gcra import UNLIMITED, Allowance, Slot, SlotGrant, SlotRequest
from mailsender.ratelimit.port import SlotStore

log = structlog.get_logger()

MAX_WANT = 2000
"""Slots asked for at once; more only age."""

MIN_LEFT = 0.002
"""Seconds of life below which a slot is not worth handing out."""

RETRY = 1.0
"""Seconds between two tries while the slot store is away."""

LOOK_EVERY = 5.0
"""Seconds after which one that leases nothing asks what the others used of the quota: one write, for a
`/status` that is hardly older than the page that shows it."""


class NoSlots(Exception):  # noqa: N818  a state, not a mistake
    """None will come for long: the day's quota is used up, or the limiter is shut for the drain."""


@dataclass(slots=True)
class _Chunk:
    grant: SlotGrant
    handed: int = 0


class Limiter:
    """Slots for the senders of one replica over one relay.

    `backlog` says how many letters are in flight beyond those whose senders wait here, so that one lease
    serves them too. `member` names the replica among those who share the rate.

    Since the start, `granted` slots were leased, `lapsed` of them unused, and `awaited` were waited for;
    `exhausted` times the quota was used up.
    """

    def __init__(
        self,
        store: SlotStore,
        allowance: Allowance,
        clock: Clock,
        *,
        backlog: Callable[[], int],
        member: str = "",
    ) -> None:
        self._store = store
        self.allowance = allowance
        self._unlimited = allowance.unlimited
        self._clock = clock
        self._backlog = backlog
        self._member = member
        self._waiters: deque[asyncio.Future[Slot]] = deque()
        self._chunk: _Chunk | None = None
        self._spare: deque[Slot] = deque()
        self._wanted = asyncio.Event()
        self.exhausted_until: float | None = None  # epoch seconds
        self.used_today: int | None = None  # not known yet
        self.condition = Condition(part="slots")
        self.granted = self.lapsed = self.awaited = self.exhausted = 0
        self._shut = False

    @property
    def waiting(self) -> int:
        """Senders that wait for a slot."""
        return len(self._waiters)

    @property
    def quota_left(self) -> int | None:
        """Transactions that the quota still allows; None without one, and until it is known."""
        if not self.allowance.quota or self.used_today is None:
            return None
        return max(0, self.allowance.quota - self.used_today)

    def at_once(self) -> Slot | None:
        """A slot that nobody has to wait for; there is one where no rate is kept."""
        free = self._unlimited and not self._shut and self.exhausted_until is None
        return UNLIMITED if free else None

    async def acquire(self) -> Slot:
        """The next slot; it may lie a little ahead, so that its holder can get ready for it.

        Raises:
            NoSlots: none will come for long.
        """
        if self._shut or self.exhausted_until is not None:
            raise NoSlots
        if self._unlimited:
            return UNLIMITED
        if not self._waiters and (slot := self._take()) is not None:
            return slot
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        self.awaited += 1
        self._wanted.set()
        return await future

    def put_back(self, slot: Slot) -> None:
        """Let somebody else have a slot that was not used."""
        if slot is UNLIMITED or not self._lasts(slot):
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._spare.append(slot)

    def change(self, allowance: Allowance) -> None:
        """From now on another allowance holds; what was leased under the old one is lost."""
        if allowance == self.allowance:
            return
        self.allowance = allowance
        self._unlimited = allowance.unlimited
        self._chunk = None
        self._spare.clear()
        self.exhausted_until = self.used_today = None
        while self._unlimited and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(UNLIMITED)
        self._wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Claim slots while somebody waits, and keep an eye on the quota, until `stop`."""
        while not stop.is_set():
            looks = self.allowance.quota > 0
            if self._unlimited:
                self._wanted.clear()
                await first_of(stop, self._wanted)
                continue
            known = not looks or (self.used_today is not None and not self.condition.text)
            if not self._waiters and self.exhausted_until is None and known:
                self._wanted.clear()
                await first_of(stop, self._wanted, timeout=LOOK_EVERY if looks else None)
                if stop.is_set() or not (self._waiters or looks):
                    continue
            seconds = await self._refill()
            if seconds > 0:
                await pause(stop, seconds)

    def shut(self) -> None:
        """Hand out nothing more; those who wait are told at once."""
        self._shut = True
        self._turn_away()

    async def close(self) -> None:
        """Give back what is left of the lease. Losing it would only waste a moment of the rate."""
        self.shut()
        chunk, self._chunk = self._chunk, None
        if chunk is None or chunk.handed >= chunk.grant.count:
            return
        try:
            await self._store.give_back(chunk.grant, chunk.grant.count - chunk.handed)
        except Unavailable as error:
            log.warning("slots_not_given_back", error=str(error), action="they lapse by themselves")

    async def _refill(self) -> float:
        """Claim once and hand out; returns the seconds to wait before the next try.

        Where nobody waits it takes none, and only looks how much of the quota is used.
        """
        want = min(MAX_WANT, len(self._waiters) + self._backlog()) if self._waiters else 0
        try:
            allowance = self.allowance
            grant = await self._store.lease(SlotRequest(want=want, allowance=allowance, member=self._member))
        except Unavailable as error:
            if self.condition.set(str(error), self._clock.epoch()):
                action = "nothing is sent until slots can be leased again"
                log.warning("slots_away", error=str(error), action=action)
            return RETRY
        if self.condition.clear():
            log.info("slots_back")
        if allowance is not self.allowance:
            return 0.0  # it was changed meanwhile: what was leased under the old one is lost
        self._note_quota(grant)
        if grant.stepped_back:
            log.warning(
                "clock_stepped_back",
                action="no slots until MongoDB's clock has caught up",
                advice="check time synchronisation of MongoDB's hosts, unless the rate was lower until now",
            )
        if not grant.count:
            return grant.again
        self.granted += grant.count
        self._chunk = _Chunk(grant)
        while self._waiters and (slot := self._take()) is not None:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(slot)
        return 0.0

    def _take(self) -> Slot | None:
        while self._spare:
            slot = self._spare.popleft()
            if self._lasts(slot):
                return slot
            self.lapsed += 1
        chunk = self._chunk
        while chunk is not None and chunk.handed < chunk.grant.count:
            index = chunk.handed
            chunk.handed += 1
            slot = Slot(earliest=chunk.grant.earliest(index), latest=chunk.grant.latest(index))
            if self._lasts(slot):
                return slot
            self.lapsed += 1
        self._chunk = None
        return None

    def _lasts(self, slot: Slot) -> bool:
        """Whether it is still worth handing out."""
        return slot.latest - max(self._clock.monotonic(), slot.earliest) > MIN_LEFT

    def _note_quota(self, grant: SlotGrant) -> None:
        self.used_today = grant.used
        if not grant.exhausted:
            if self.exhausted_until is not None:
                log.info("daily_quota_renewed")
            self.exhausted_until = None
            return
        if self.exhausted_until is None:
            self.exhausted += 1
            log.warning(
                "daily_quota_used_up",
                quota=self.allowance.quota,
                until=now_ms(grant.day_end).isoformat(),
                action="letters wait until then",
                advice="raise SMTP_DAILY_QUOTA if the relay allows more",
            )
        self.exhausted_until = grant.day_end
        self._turn_away()

    def _turn_away(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(NoSlots())
        self._waiters.clear()
