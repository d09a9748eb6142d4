"""Where senders wait for slots: leases them in chunks, hands them out in order, gives back the rest."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from mailsender.aio import first_of
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import now_ms
from mailsender.observe.conditions import Condition
from mailsender.ratelimit.extras import Extras
from mailsender.ratelimit.gcra import (
    AGREEMENT,
    AHEAD,
    EVERYBODY,
    MIN_LEFT,
    UNLIMITED,
    Allowance,
    Slot,
    SlotGrant,
    SlotRequest,
    Term,
    meeting,
)
from mailsender.ratelimit.lapses import Lapses, burst_for
from mailsender.ratelimit.order import MOST_ORDERS, RELAY, Order
from mailsender.ratelimit.port import SlotStore
from mailsender.ratelimit.standing import Pace, Standing
from mailsender.ratelimit.turns import Turns

log = structlog.get_logger()

MAX_WANT = 2000
"""Slots asked for at once; more only age."""

MIN_MEETING = 0.02
"""Seconds that slots for the recipients of one transaction have in common at least: with less all of them
would lapse when it is a little late."""

RETRY = 1.0
"""Seconds between two tries while the slot store is away."""

VAIN_RETRY = 0.25
"""Seconds until the next lease when two in a row brought slots that were over when they came."""

WRITES = 10
"""Orders that are written before the next lease, each in two round trips: who waits for a slot is not to wait
for hundreds of destinations that were told to rest in the same moment. Until it is written an order holds
here."""

LOOK_EVERY = 5.0
"""Seconds after which one that leases nothing asks what the others used of the quota: one write, for a
`/status` that is hardly older than the page that shows it."""


LOOK_SENDING = 1.0
"""The same where letters go out without a rate, so that nothing is leased: what a relay ordered on a replica
has to hold on the others as soon as where there is one."""


def nobody(_letters: int) -> int:
    """No letter has more than one recipient, as far as is known."""
    return 0


class NoSlots(Exception):  # noqa: N818  a state, not a mistake
    """None will come for long: the quota is used up, a reply ordered it, or the limiter is shut."""


class Changed(NoSlots):
    """Something changed about the relay: who still wants a slot asks again."""


@dataclass(slots=True)
class _Chunk:
    grant: SlotGrant
    handed: int = 0


class Limiter:
    """Slots for the senders of one replica over one relay, and what the relay's replies ordered.

    All rates of `allowance` and `further` hold, and the quota of `allowance`.
    `backlog` says how many letters are in flight beyond those whose senders wait here, so that one lease
    serves them too; `further_recipients` how many recipients beyond one each so many of them have, which is
    asked where recipients are counted. `member` names the replica among those who share the rate. `watch`:
    it looks for what other replicas were told though it leases nothing, and begins with that; without, a
    relay that has neither rate nor quota is not asked for. `name` is how the log tells it, and `within` the
    relay of which it is one destination's: that one's burst holds for it.

    Since the start, `granted` slots were leased, `lapsed` of them unused, and `awaited` were waited for;
    `exhausted` times the quota was used up. `condition` tells that the store gives none, `lapsing` that it is
    too far away for them.
    """

    def __init__(
        self,
        store: SlotStore,
        allowance: Allowance,
        clock: Clock,
        *,
        backlog: Callable[[], int],
        further_recipients: Callable[[int], int] = nobody,
        member: str = "",
        further: tuple[Allowance, ...] = (),
        watch: bool = False,
        name: str = "",
        within: str = "",
    ) -> None:
        self._store = store
        self.name = name
        self.within = within
        self.allowance = allowance
        self.further = further
        self._clock = clock
        self._backlog = backlog
        self._further_recipients = further_recipients
        self._member = member
        self._watch = watch
        self._waiters: deque[asyncio.Future[Slot]] = deque()
        self._turns: Turns[asyncio.Future[Slot]] | None = None  # in its place where routes share it
        self._chunk: _Chunk | None = None
        self._returned: list[_Chunk] = []
        self._spare: deque[Slot] = deque()
        self._extras = Extras()
        self._short = 0  # units of the quota that those wait for who have a slot
        self._shorts: list[asyncio.Future[None]] = []
        self._term = Term()
        self._next_at = self._turn_at = float("-inf")  # monotonic
        self._wanted = asyncio.Event()
        self._told = asyncio.Event()
        self._standing = Standing(clock.epoch() - clock.monotonic())
        self._looked = not watch  # at the orders of before the start
        self._pace = Pace(clock.monotonic())
        self.exhausted_until: float | None = None  # epoch seconds
        self.used_today: int | None = None  # not known yet
        self.condition = Condition(part="slots")
        self.lapsing = Condition(part="slots")
        self._lapses = Lapses()
        self._store_ahead = -math.inf  # of the store's clock of our monotonic one, at least
        self._vain = 0  # leases in a row of which no slot could be used
        self.granted = self.lapsed = self.awaited = self.exhausted = 0
        self._shut = False
        self._unpaced = self._unlimited = self._free = False
        self._each = EVERYBODY
        self._reckon()

    @property
    def waiting(self) -> int:
        """Senders that wait for a slot."""
        return len(self._waiters) if self._turns is None else len(self._turns)

    @property
    def quota_left(self) -> int | None:
        """Transactions that the quota still allows; None without one, and until it is known."""
        if not self.allowance.quota or self.used_today is None:
            return None
        return max(0, self.allowance.quota - self.used_today)

    @property
    def life(self) -> float:
        """Seconds for which a slot may be spent; without end where none are needed."""
        return math.inf if self._unlimited else self._request(0).life

    @property
    def rates(self) -> list[Allowance]:
        """All that are kept; none where there is no rate."""
        return [each for each in (self.allowance, *self.further) if each.letters]

    def most(self, seconds: float) -> float:
        """How many slots may be had within so many seconds at most; without end where there is no rate."""
        return min([each.rate * seconds + each.burst for each in self.rates], default=math.inf)

    @property
    def goes(self) -> bool:
        """Whether slots may be had before long."""
        return not (self._used_up or self.condition.text or self._lapses.all or self._held_up())

    @property
    def _used_up(self) -> bool:
        """Whether the quota is, and nothing that was leased of it is in hand any more."""
        return self.exhausted_until is not None and not self._in_hand

    def blocked_because(self) -> str:
        """Why not, for people; empty where they may."""
        order = self.held(RELAY, self._clock.monotonic())
        if order is not None:
            return f"it asked to wait ({order.rule}): {order.said}"
        if self.condition.text or self.exhausted_until is None:
            return self.condition.text or (self.lapsing.text if self._lapses.all else "")
        return "the quota is used up"

    def change(self, allowance: Allowance, further: tuple[Allowance, ...] = ()) -> None:
        """Keep other rates from now on; what was leased by the old ones goes back."""
        if (allowance, further) == (self.allowance, self.further):
            return
        self.allowance, self.further = allowance, further
        self.exhausted_until = self.used_today = None
        self.forget_turns()
        self._lapses.judge(self._request(0).life)
        self._tell_lapses()
        self._drop()
        self._returned += [_Chunk(each, each.count) for each in self._extras.clear()]
        self._reckon()
        while self._free and self.waiting:
            waiter = self._first()
            if not waiter.done():
                waiter.set_result(UNLIMITED)
        self._wanted.set()
        self._told.set()

    def divide(self, shares: Mapping[str, float]) -> None:
        """From now on routes by these names wait here, each for its share; fewer than two: in one line."""
        if len(shares) > 1 and self._turns is not None:
            self._turns.use(shares)
            return
        waiting, self._turns = self._take_waiters(), Turns(shares) if len(shares) > 1 else None
        for each in waiting:
            self._add("", each)

    def look_again(self) -> None:
        """Turn all away who wait, with `Changed`."""
        self._turn_away(Changed)

    # --- what was ordered ------------------------------------------------------------------------

    def order(self, order: Order, *, quietly: bool = False) -> None:
        """Obey what a reply asks for, here at once, and have it written down for all replicas.

        Its times are epoch seconds on this process's clock. It holds though the store is away. `quietly`: the
        log has it from elsewhere.
        """
        now, epoch = self._clock.monotonic(), self._clock.epoch()
        order = order.checked()
        if self._unpaced and order.key == RELAY and order.factor < 1 and not order.spacing:
            order = replace(order, spacing=self._pace.spacing(now))
        if self._standing.add(order, now, epoch) and not quietly:
            log.warning(
                "relay_ordered",
                relay=self.name,
                scope=order.key,
                rule=order.rule,
                said=order.said,
                seconds=round(order.until - epoch, 1),
                factor=order.factor,
                action="nothing of that scope begins so long, on any replica; then the rate is the factor of"
                " what it was, and grows back",
            )
        if order.key == RELAY:
            self._drop()
            self._reckon()
        self._wanted.set()
        self._told.set()

    @property
    def knows(self) -> bool:
        """Whether what was ordered before the start is known."""
        return self._looked

    @property
    def ordered(self) -> bool:
        """Whether there may be an order at all: a cheap look before a closer one."""
        return bool(self._standing.orders)

    def orders(self) -> list[Order]:
        """All that hold, as far as this replica knows; their times are epoch seconds at the store."""
        return self._standing.all(self._clock.monotonic())

    def held(self, key: str, now: float) -> Order | None:
        """The order by which nothing of a scope may begin at `now`, in monotonic seconds, if there is one.

        A scope other than the relay that is slowed is open for a part of the time.
        """
        return self._standing.of(key, now) if self.left(key, now) > 0 else None

    def left(self, key: str, now: float) -> float:
        """Seconds until something of a scope may begin; 0.0: it may now."""
        return self._standing.left(key, now) if self._standing.orders else 0.0

    async def lift(self, key: str) -> bool:
        """End the order of a scope, on all replicas; whether the store had one.

        Raises:
            Unavailable: the store is away; it holds on.
        """
        lifted = await self._store.lift(key)
        self._standing.forget(key)
        self._reckon()
        self._told.set()
        return lifted

    def _held_up(self) -> bool:
        return bool(self._standing.orders) and self.left(RELAY, self._clock.monotonic()) > 0

    def _reckon(self) -> None:
        """Whether there is a rate to keep, and whether slots are needed at all."""
        self._unpaced = not self.rates
        self._unlimited = self._unpaced and not self.allowance.quota
        counts = self.allowance.by_recipient or self.allowance.quota_by_recipient
        self._each = 1 if counts else EVERYBODY  # recipients that a slot is for
        order = self._standing.of(RELAY, self._clock.monotonic())
        self._free = self._unlimited and self._looked and order is None
        if order is not None and self._held_up():
            self._turn_away()

    def _drop(self) -> None:
        """Spend no more of what was leased before, nor let others that have it."""
        self._term.over, self._term = True, Term()
        self.lapsed += len(self._spare)
        self._spare.clear()
        chunk, self._chunk = self._chunk, None
        if chunk is not None and chunk.handed < chunk.grant.count:
            self._returned.append(chunk)

    # --- slots -----------------------------------------------------------------------------------

    def at_once(self) -> Slot | None:
        """A slot that nobody has to wait for; there is one where no rate is kept."""
        if self._free and not self._shut and self.exhausted_until is None:
            self._pace.begun += 1
            return UNLIMITED
        return None

    async def acquire(self, route: str = "") -> Slot:
        """The next slot; it may lie a little ahead, so that its holder can get ready for it.

        `route` is who waits, where several share the rate.

        Raises:
            Changed: whoever waits is to see whether it is to wait still.
            NoSlots: none will come for long.
        """
        if self._unlimited and not self._free:
            self._reckon()  # what was ordered may be over
        if self._shut or self._used_up or self._lapses.all or self._held_up():
            raise NoSlots
        if self._free:
            self._pace.begun += 1
            return UNLIMITED
        if not self.waiting and (slot := self._take()) is not None:
            return slot
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._add(route, future)
        self.awaited += 1
        self._wanted.set()
        return await future

    async def widen(self, slot: Slot, recipients: int) -> Slot:
        """The slot for a transaction with as many of so many recipients as can be had; it may come later.

        They are fewer only while others have what there is, or the quota ends.
        """
        if slot.recipients >= recipients or slot.asked:
            return slot
        if self.allowance.by_recipient:
            return replace(self._together(slot, recipients), asked=True)
        more = recipients - slot.recipients
        if self._extras.left(self._clock.monotonic()) < more and not self._shut and self.quota_left != 0:
            await self._more(more)
        more = self._extras.take(more, self._clock.monotonic())
        return replace(slot, recipients=slot.recipients + more, asked=True)

    async def _more(self, units: int) -> None:
        """Wait for a lease that is to bring so many units of the quota."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._shorts.append(future)
        self._short += units
        self._wanted.set()
        self._told.set()
        await future

    def _together(self, slot: Slot, recipients: int) -> Slot:
        """As many slots behind one another as are good at the same time, from this one on or a later one."""
        chunk, now, moved = self._chunk, self._clock.monotonic(), False
        if chunk is None or chunk.grant.life - chunk.grant.step < MIN_MEETING:
            return slot  # no two of them are good together
        while slot.recipients < recipients and (more := self._next()) is not None:
            wider = meeting(slot, more, now, MIN_MEETING)
            if wider is not None:
                slot = replace(wider, recipients=slot.recipients + 1, limits=slot.limits)
            elif slot.recipients == 1 and slot.limits is None and (not moved or slot.earliest < now):
                # Others have those between, or it has little time left: who waits takes it, and we begin
                # anew behind them.
                self.put_back(slot)
                slot, moved = more, True
            else:
                self.put_back(more)
                break
        return slot

    def wait(self, now: float) -> float:
        """Seconds until who asks for a slot now has one, as far as this replica knows; `now` is monotonic."""
        if self._free:
            return 0.0
        if self._lapses.all:
            return VAIN_RETRY
        chunk = self._chunk
        at = self._next_at if chunk is None else chunk.grant.earliest(chunk.handed)
        return max(0.0, at - now) + self.waiting * self._step

    def turn(self, now: float) -> float:
        """Seconds until the turn of one that does not wait here, behind all those who were told before."""
        self._turn_at = self.next_turn(now)
        return self._turn_at - now

    def forget_turns(self) -> None:
        """Those who were told their turns come sooner now: who comes next does not stand behind them."""
        self._turn_at = float("-inf")

    def promised(self, now: float) -> int:
        """How many were told turns that are still to come."""
        return math.ceil(max(0.0, self._turn_at - now) / self._step) if self._turn_at > now else 0

    def next_turn(self, now: float) -> float:
        """When the next turn is, in monotonic seconds."""
        return max(self._turn_at + self._step, now + self.wait(now))

    @property
    def _step(self) -> float:
        return max(each.step for each in self._request(0).rates)

    def good(self, slot: Slot, now: float) -> bool:
        """Whether a transaction may begin with a slot that was handed out before; `now` is monotonic."""
        return slot.good(now) and self.left(RELAY, now) == 0

    def put_back(self, slot: Slot) -> None:
        """Let somebody else have a slot that was not used."""
        if slot.recipients != 1:
            slot = self._narrow(slot)
        if slot is UNLIMITED or self._free or not self._lasts(slot):
            return
        while self.waiting:
            waiter = self._first()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._spare.append(slot)

    def _narrow(self, slot: Slot) -> Slot:
        """A slot that was for several recipients, for one of them: the others may be had by anybody.

        What it has of other limits was one transaction's, and stays with the one.
        """
        if slot.recipients == EVERYBODY:
            return slot
        one = replace(slot, recipients=1, asked=False)
        if not self.allowance.by_recipient:
            self._extras.put_back(slot.recipients - 1, slot.latest)
        elif self._lasts(one):
            other = replace(one, limits=None)
            for _ in range(slot.recipients - 1):
                self.put_back(other)
        return one

    async def run(self, stop: asyncio.Event) -> None:
        """Claim slots while somebody waits, and keep an eye on quota and orders, until `stop`."""
        while not stop.is_set():
            if not await self._has_to_ask(stop):
                continue
            self._told.clear()
            seconds = await self._write()
            if not seconds and self._asks:
                seconds = await self._refill()
                if self._standing.unwritten:
                    continue
            if seconds > 0 and not self._told.is_set():
                await first_of(stop, self._told, timeout=seconds)

    @property
    def _asks(self) -> bool:
        """Whether the store has anything to say."""
        return not self._unlimited or self._watch or bool(self._standing.orders or self.condition.text)

    @property
    def _pending(self) -> bool:
        """Whether the store has to be told something."""
        return bool(self._standing.unwritten or self._returned or self.condition.text)

    async def _has_to_ask(self, stop: asyncio.Event) -> bool:
        """Wait until there is something to ask the store for, or to tell it; False: look again."""
        looks = self.allowance.quota > 0 or self._watch or bool(self._standing.orders or self.lapsing.text)
        known = not looks or (self.used_today is not None and not self.condition.text)
        if self.waiting or self._shorts or self.exhausted_until is not None or not known or self._pending:
            return True
        self._wanted.clear()
        # Without a rate nothing else asks often: slots of a quota alone are good for long.
        sends = self._unpaced and self._backlog() > 0
        wait = (LOOK_SENDING if sends else LOOK_EVERY) if looks or self._unlimited else None
        # It takes several answers in time until slots are used again: nobody is to wait for as many looks.
        await first_of(stop, self._wanted, timeout=VAIN_RETRY if self._lapses.all else wait)
        self._pace.look(self._clock.monotonic())
        return not stop.is_set() and (self.waiting > 0 or bool(self._shorts) or looks or self._pending)

    def shut(self) -> None:
        """Hand out nothing more; those who wait are told at once."""
        self._shut = True
        self._turn_away()

    async def close(self) -> None:
        """Give back what is left of the lease, and write down what was ordered.

        Losing slots would only waste a moment of the rate.
        """
        self.shut()
        self._drop()
        self._returned += [_Chunk(each, each.count) for each in self._extras.clear()]
        await self._write(MOST_ORDERS + 1)

    async def _write(self, most: int = WRITES) -> float:
        """Tell the store what was ordered and what is not used; returns the seconds to wait on trouble.

        Of what was ordered it is told `most` at once, and of the relay first.
        """
        orders = sorted(self._standing.unwritten.values(), key=lambda each: each.key != RELAY)
        for order in orders[:most]:
            try:
                await self._store.order(order, self._clock.epoch())
                self._back()
            except Unavailable as error:
                self._away(error)
                return RETRY
            except Rejected as error:
                log.error(
                    "order_not_written", scope=order.key, error=str(error), action="it holds here alone"
                )
            self._standing.written(order)
        if self._extras:
            self._returned += [
                _Chunk(each, each.count) for each in self._extras.over(self._clock.monotonic())
            ]
        returned, self._returned = self._returned, []
        for chunk in returned:
            try:
                await self._store.give_back(chunk.grant, chunk.grant.count - chunk.handed)
            except (Unavailable, Rejected) as error:
                log.warning("slots_not_given_back", error=str(error), action="they lapse by themselves")
        return 0.0

    def _away(self, error: Unavailable) -> None:
        if self.condition.set(str(error), self._clock.epoch()):
            action = "nothing is sent until slots can be leased again"
            log.warning("slots_away", error=str(error), action=action)

    def _request(self, want: int, extra: int = 0) -> SlotRequest:
        return SlotRequest(
            want=want,
            allowance=self.allowance,
            member=self._member,
            further=self.further,
            extra=extra,
            late=self._lapses.late,
        )

    def _wish(self, want: int) -> SlotRequest:
        """The wish for slots of so many letters, and for what their recipients take if they are counted."""
        allowance = self.allowance
        if allowance.by_recipient:
            return self._request(min(MAX_WANT, want + self._further_recipients(want)) if want else 0)
        if not allowance.quota_by_recipient:
            return self._request(want)
        # Of more letters than those of the next slots nobody knows when they go.
        letters = min(want, math.ceil(AHEAD * self._rate) + self.waiting)
        needed = self._further_recipients(letters) + self._short if want else self._short
        return self._request(want, max(0, needed - self._extras.left(self._clock.monotonic())))

    @property
    def _rate(self) -> float:
        return 1 / self._step

    def _back(self) -> None:
        if self.condition.clear():
            log.info("slots_back")

    async def _refill(self) -> float:
        """Claim once and hand out; returns the seconds to wait before the next try.

        Where nobody waits it takes none, and only looks how much of the quota is used and what was ordered.
        """
        slowed = not self._unlimited or RELAY in self._standing.orders
        want = min(MAX_WANT, self.waiting + self._backlog()) if self.waiting and slowed else 0
        request = self._wish(want)
        try:
            grant = await self._store.lease(request)
        except Unavailable as error:
            self._away(error)
            return RETRY
        if (request.allowance, request.further) != (self.allowance, self.further):
            self._returned.append(_Chunk(grant))  # it was changed meanwhile
            return 0.0
        self._back()
        self._learn(grant)
        self._note_quota(grant)
        self._look_at_clock(grant)
        if grant.extra:
            self._extras.add(grant)
            grant = replace(grant, extra=0)
        if self._comes_too_late(grant):
            self._no_longer_short()
            self._vain += 1
            return 0.0 if self._vain == 1 else VAIN_RETRY
        self.granted += grant.count
        self._next_at = grant.earliest(grant.count)
        if grant.count:
            self._vain = 0
            self._chunk = _Chunk(grant)
        if self._held_up():
            self._drop()  # by an order of our own that came meanwhile
        self._hand_out()
        self._no_longer_short()
        if grant.count or (grant.exhausted and self.exhausted_until is None):
            return 0.0  # what is in hand of the quota may be gone before more of it comes
        return min(grant.again, LOOK_EVERY) if self._standing.orders else grant.again

    def _look_at_clock(self, grant: SlotGrant) -> None:
        """Say when the store's clock shows less than it must, by what it showed before."""
        behind = self._store_ahead - (grant.now - grant.asked)
        self._store_ahead = grant.now - grant.answered
        if behind > 2 * AGREEMENT:
            log.warning(
                "clock_stepped_back",
                relay=self.name,
                seconds=round(behind, 3),
                action="the next slot is a second ahead, the others follow it",
                advice="check time synchronisation of MongoDB's hosts",
            )

    def _comes_too_late(self, grant: SlotGrant) -> bool:
        """Whether all its slots are over before anybody has them: then they go back, for the quota's sake."""
        took = grant.answered - grant.asked
        self._lapses.note(took, grant.life)
        self._tell_lapses()
        if not grant.count or grant.life - took > MIN_LEFT:
            return False
        self._returned.append(_Chunk(grant))
        return True

    def _tell_lapses(self) -> None:
        """Say that most slots are over before they can be used, and that they are no longer."""
        if not self._lapses.most:
            if self.lapsing.clear():
                log.info("slots_last", relay=self.name)
            return
        took, life = self._lapses.usual, self._request(0).life
        text = (
            f"MongoDB takes {took * 1000:.0f} ms to answer, and a slot of {self.name} is good for"
            f" {life * 1000:.0f} ms: hardly any can be used"
        )
        if self.lapsing.set(text, self._clock.epoch()):
            log.warning(
                "slots_lapse",
                relay=self.name,
                seconds=round(took, 3),
                life=round(life, 3),
                action="hardly anything is sent there, by other relays where there are any",
                advice="have MongoDB nearer, or let more come at once: a burst of"
                f" {burst_for((self.allowance, *self.further), took)}"
                + (f" for the relay {self.within}, by which its destinations go" if self.within else ""),
            )
        if self._lapses.all:
            self._turn_away()

    def _no_longer_short(self) -> None:
        """Who waits for units of the quota goes on with what there is."""
        shorts, self._shorts, self._short = self._shorts, [], 0
        for each in shorts:
            if not each.done():
                each.set_result(None)

    def _hand_out(self) -> None:
        while self.waiting and (slot := UNLIMITED if self._free else self._take()) is not None:
            waiter = self._first()
            if not waiter.done():
                waiter.set_result(slot)
            elif slot is not UNLIMITED:
                self._spare.append(slot)  # that one waited for too long

    def _learn(self, grant: SlotGrant) -> None:
        """Take in what the store says of orders."""
        if self._looked and not grant.orders and not self._standing.orders:
            return
        now, epoch = self._clock.monotonic(), self._clock.epoch()
        if self._standing.learn(grant.orders, grant.now - grant.answered, now, epoch):
            self._drop()
        self._looked = True
        self._reckon()

    def _take(self) -> Slot | None:
        while self._spare:
            slot = self._spare.popleft()
            if self._lasts(slot):
                return slot
            self.lapsed += 1
        following = self._next()
        if following is not None:
            self._pace.begun += 1
        return following

    def _next(self) -> Slot | None:
        """The next slot of the lease."""
        chunk = self._chunk
        while chunk is not None and chunk.handed < chunk.grant.count:
            index = chunk.handed
            chunk.handed += 1
            slot = self._slot(chunk.grant, index)
            if self._lasts(slot):
                return slot
            self.lapsed += 1
        self._chunk = None
        return None

    def _slot(self, grant: SlotGrant, index: int) -> Slot:
        return Slot(
            earliest=grant.earliest(index),
            latest=grant.latest(index),
            terms=(self._term,),
            recipients=self._each,
        )

    @property
    def _in_hand(self) -> bool:
        """Whether a slot of those that were leased may still be handed out."""
        if any(map(self._lasts, self._spare)):
            return True
        chunk = self._chunk
        return chunk is not None and any(
            self._lasts(self._slot(chunk.grant, index)) for index in range(chunk.handed, chunk.grant.count)
        )

    def _lasts(self, slot: Slot) -> bool:
        """Whether it is still worth handing out."""
        return slot.latest - max(self._clock.monotonic(), slot.earliest) > MIN_LEFT and not slot.over

    def _note_quota(self, grant: SlotGrant) -> None:
        self.used_today = grant.used
        if grant.exhausted and self._in_hand:
            return  # all of it is leased, and not all of that is spent
        if not grant.exhausted:
            if self.exhausted_until is not None:
                log.info("daily_quota_renewed", relay=self.name)
            self.exhausted_until = None
            return
        if self.exhausted_until is None:
            self.exhausted += 1
            log.warning(
                "daily_quota_used_up",
                relay=self.name,
                quota=self.allowance.quota,
                until=now_ms(grant.renewed).isoformat(),
                action="letters wait until then",
                advice="raise SMTP_DAILY_QUOTA, or the relay's quota in the file, if it allows more",
            )
        self.exhausted_until = grant.renewed
        self._take()  # of what was in hand nothing lasts: it is counted
        self._turn_away()

    def _turn_away(self, why: type[NoSlots] = NoSlots) -> None:
        self._no_longer_short()
        for waiter in self._take_waiters():
            if not waiter.done():
                waiter.set_exception(why())

    # --- who waits -------------------------------------------------------------------------------

    def _add(self, route: str, waiter: asyncio.Future[Slot]) -> None:
        if self._turns is None:
            self._waiters.append(waiter)
        else:
            self._turns.add(route, waiter)

    def _first(self) -> asyncio.Future[Slot]:
        """The waiter whose turn it is; there is one."""
        return self._waiters.popleft() if self._turns is None else self._turns.take()

    def _take_waiters(self) -> list[asyncio.Future[Slot]]:
        """All of them, who wait here no more."""
        waiting = list(self._waiters if self._turns is None else self._turns)
        self._waiters.clear()
        if self._turns is not None:
            self._turns.clear()
        return waiting
