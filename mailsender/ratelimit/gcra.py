"""Slots: permission to begin one transaction within a stated short time. Pure, given `now`.

Tokens that are leased now and spent later stack on the next refill. So what is leased are *slots*,
each with its own time and a life after which it is lost. For M letters per period P with burst B:

    life = max(50 ms, B * P / M - 50 ms)        step = max(P / M, (P + life + 50 ms) / (M + B))

Slots lie `step` apart and each may be spent within `life` of its time. Spends are timed by what the
store's clock showed when they were leased, and that clock is not one: its members' differ, and it runs
backwards now and then. So the store's true time of a spend lies within `life` + 50 ms of its slot's, as long
as those clocks agree within 50 ms, and no window of P holds more than M + B spends. The store hands out
consecutive times from one shared cursor; this module computes with them.

Where a relay counts exactly the burst is 0, and no window of P is to hold more than M:

    life = 40 ms        step = (P + life) / M

That is 96 % of 14 in a second. The clocks' 50 ms are left out of it, or it would be 92 %: the one period in
which the store's clock steps back by so much, as when another member takes over, holds up to 5 % more.

Where a relay counts recipients instead of transactions a slot is for one of them, and a transaction begins
when as many are good as it has recipients. Where its quota alone does, a slot is for a transaction, and the
recipients beyond its first one take `extra` units of the quota, which a lease brings in the same write.

Where a relay has several rates each has a cursor, and slots fit all of them (`windows`). A quota is counted
by the calendar day, or in buckets over any period (`quota`). What a reply ordered slows all of it (`order`).

No slot lies further ahead than a lease reaches, so no cursor lies further than that and a `step`. One that
does was left there by a lower rate, or the store's clock was set back: it is drawn in, and whoever waits need
not wait out what is no more.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from mailsender.ratelimit import quota
from mailsender.ratelimit.order import RELAY, Order
from mailsender.ratelimit.quota import Bucket
from mailsender.ratelimit.windows import Laid, Window, lay

MIN_LIFE = 0.05
"""Seconds. Shorter lives than this are lost to ordinary scheduling delays."""

EXACT_LIFE = 0.04
"""Seconds of life where there is no burst: the rate is that much less than the full one in a second, of which
what SES allows is to be reached within 5 %."""

AGREEMENT = 0.05
"""Seconds within which the store's clock readings have to agree for the rate to be kept."""

DEPTH = 0.8
"""The part of a slot's life that a lease may reach back, so that a burst can follow a pause."""

AHEAD = 1.0
"""Seconds that a lease may reach into the future; a replica that dies wastes at most these slots."""

FARTHEST = AHEAD + AGREEMENT
"""Seconds beyond which the last slot cannot lie: another reading of the clock may have shown so much more."""

DAY_MARGIN = 0.001
"""Seconds before the end of a day at which its last slot may lie at the latest."""

MIN_WAIT, MAX_WAIT = 0.01, 60.0
"""Seconds to wait after a lease of nothing: no busy polling, and none too long for a changed setting."""

UNCOUNTED = 2 * MAX_WAIT
"""Seconds in which nobody asked by the form of a quota that was counted until another form is counted anew:
one whose quota is used up asks half as seldom. Were it at once two replicas with different files would begin
anew each time."""

MEMBER_AGE = 5.0
"""Seconds for which a replica that asked counts among those who share the rate."""

GENEROUS = 0.9
"""How much sooner than its share would have it a replica may lease again while others want more than they
got: were the shares exact, what one is late with would be lost to all."""

QUOTA_ONLY_RATE = 1_000_000
"""Slots a second when there is a daily quota but no rate: fast enough never to be felt."""

MIN_LEFT = 0.002
"""Seconds of life below which a slot is not worth handing out."""

EXTRA_LIFE = 60.0
"""Seconds for which units of a quota may be kept for recipients: estimates of how many will be needed are
seldom exact, and what is left over serves the next letters."""

EVERYBODY = 10**6
"""More recipients than any transaction has."""

QUOTA_ONLY_LIFE = 60.0
"""Seconds of life when there is no rate to keep: a slot that lapses is lost to the day's quota."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What may be sent: `letters` per `period` seconds with `burst`, and `quota` a day (0 = none).

    `letters` 0 means no rate. `burst` 0: no period holds more than `letters`. The quota is that of a calendar
    day, and `timezone` decides when it begins; or that of any `quota_period` seconds, where these are not 0.

    `by_recipient`: each recipient takes a slot, and so counts for the quota, too. `quota_by_recipient`: a
    transaction takes one slot, and of the quota as much as it has recipients.
    """

    letters: int
    period: float
    burst: int = 1
    quota: int = 0
    timezone: str = "UTC"
    quota_period: float = 0.0
    by_recipient: bool = False
    quota_by_recipient: bool = False

    @property
    def unlimited(self) -> bool:
        """Whether no slots are needed at all."""
        return self.letters == 0 and self.quota == 0

    @property
    def rate(self) -> float:
        """Slots a second in the long run."""
        return 1 / self.step

    @property
    def life(self) -> float:
        """Seconds for which a slot may be spent."""
        if self.letters == 0:
            return QUOTA_ONLY_LIFE
        if self.burst == 0:
            return EXACT_LIFE
        return max(MIN_LIFE, self.burst * self.period / self.letters - AGREEMENT)

    @property
    def step(self) -> float:
        """Seconds between two slots."""
        if self.letters == 0:
            return 1 / QUOTA_ONLY_RATE
        if self.burst == 0:
            return (self.period + self.life) / self.letters
        crowded = (self.period + self.life + AGREEMENT) / (self.letters + self.burst)
        return max(self.period / self.letters, crowded)

    def implies(self, other: Allowance) -> bool:
        """Whether whatever keeps this rate keeps the other one, too."""
        longer = self.period >= other.period and self.letters + self.burst <= other.letters + other.burst
        return longer and self.step >= other.step


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRequest:
    """A wish for `want` slots under an allowance, and under the rates of all `further` ones.

    `extra` units of the quota are wanted beside those that the slots take. The answer may be `late` by so
    many seconds: slots that would be over by then are left out.
    `member` names the replica, so that those who want more than there is share it evenly; empty: it takes
    what it can have.
    """

    want: int
    allowance: Allowance
    member: str = ""
    further: tuple[Allowance, ...] = ()
    extra: int = 0
    late: float = 0.0

    @property
    def depth(self) -> float:
        """Seconds that it may reach back: what is good no more when it is known could be leased for ever.

        Of a fast rate, that is, of which little is wanted: the next try would reach back as far. Without a
        burst there is nothing to catch up with: the whole life is left for what a letter is late on its way
        to the relay's count, the first one of a session above all.
        """
        if not all(each.burst for each in self.rates if each.letters):
            return 0.0
        return max(0.0, DEPTH * self.life - self.late)

    @property
    def rates(self) -> tuple[Allowance, ...]:
        """The rates that matter, the fastest first: not those that another one implies."""
        if not self.further:
            return (self.allowance,)
        known = [each for each in (self.allowance, *self.further) if each.letters]
        rates = [
            each
            for place, each in enumerate(known)
            if not any(
                other.implies(each) and (not each.implies(other) or before < place)
                for before, other in enumerate(known)
                if before != place
            )
        ]
        return tuple(sorted(rates, key=lambda each: each.step)) or (self.allowance,)

    @property
    def life(self) -> float:
        """Seconds for which a slot may be spent: no bucket of a quota is passed over meanwhile."""
        life = min([each.life for each in self.rates]) if self.further else self.allowance.life
        return min(life, quota.width(self.allowance.quota_period)) if self.rolling else life

    @property
    def windows(self) -> tuple[Window, ...]:
        """The rates as windows; the first one's cursor is `Cursor.next`."""
        life = self.life
        if not self.further:
            return (Window(name="", step=self.allowance.step, lag=self.allowance.life - life),)
        return tuple(
            Window(
                name=f"{each.letters}_{each.burst}_{round(each.period * 1000)}",
                step=each.step,
                lag=each.life - life,
            )
            for each in self.rates
        )

    @property
    def rolling(self) -> bool:
        """Whether there is a quota over any period."""
        return bool(self.allowance.quota and self.allowance.quota_period)

    @property
    def counting(self) -> str:
        """What its quota counts, and over which time: a count of something else says nothing of it."""
        counts = self.allowance.by_recipient or self.allowance.quota_by_recipient
        period = self.allowance.quota_period if self.rolling else 0.0
        return f"{'recipients' if counts else 'transactions'} {period:.0f}"

    @property
    def keep(self) -> float:
        """Seconds after its end for which a bucket of the quota counts.

        What was leased last in it may be spent so much later than that in a period before.
        """
        kept = AHEAD + self.life
        if self.allowance.quota_by_recipient:
            kept = max(kept, EXTRA_LIFE)
        return self.allowance.quota_period + kept + AGREEMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotGrant:
    """`count` consecutive slots from `first` on, `step` apart, each good for `life` seconds.

    `first`, `now` and `day_end` are seconds on the store's clock. `asked` and `answered` are this process's
    monotonic clock just before the request and just after its reply, which bound what time it
    was at the store. With `count` 0, `again` says in how many seconds to ask next, and `exhausted`
    that the quota is what stands in the way (until `renewed`). `laid`, `further` (the names of those
    windows) and `bucket` are what giving back takes; `orders` are all that the store has, by scope. `extra`
    units of the quota came with it, or are left of those.
    """

    first: float
    count: int
    step: float
    life: float
    now: float
    day: float
    day_end: float
    asked: float
    answered: float
    again: float = 0.0
    exhausted: bool = False
    used: int = 0
    renewed: float = 0.0
    laid: Laid | None = None
    further: tuple[str, ...] = ()
    bucket: float = 0.0
    orders: Mapping[str, Order] = field(default_factory=dict)
    extra: int = 0

    def earliest(self, index: int) -> float:
        """When slot `index` begins on the local monotonic clock, at the latest it can be.

        At local time L the store's clock stands between now + (L - answered) and now + (L - asked);
        a slot is begun by the low end of that.
        """
        return self.first + index * self.step - self.now + self.answered

    def latest(self, index: int) -> float:
        """When slot `index` lapses on the local monotonic clock, at the earliest it can be."""
        end = min(self.first + index * self.step + self.life, self.day_end)
        return end - self.now + self.asked

    @property
    def extra_until(self) -> float:
        """When its `extra` units may not be used any more, on the local monotonic clock."""
        return min(EXTRA_LIFE, self.day_end - self.now) + self.asked


@dataclass(slots=True, eq=False)
class Term:
    """What slots were handed out under; `over` once a reply ordered something else."""

    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Permission to begin one transaction, on the local monotonic clock, unless one of `terms` is over.

    `limits` tells whose limits it fits beside those of the relay. It is good for so many `recipients` where
    the relay counts them, and `asked` tells that no more can be had.
    """

    earliest: float
    latest: float
    terms: tuple[Term, ...] = field(default=(), compare=False, repr=False)
    limits: Hashable = field(default=None, compare=False, repr=False)
    recipients: int = EVERYBODY
    asked: bool = field(default=False, compare=False, repr=False)

    def good(self, now: float) -> bool:
        """Whether a transaction may begin at `now`."""
        return self.earliest <= now < self.latest and not self.over

    @property
    def over(self) -> bool:
        """Whether it is good no more, at whatever time."""
        for term in self.terms:  # noqa: SIM110  each letter asks, and a generator costs more than the loop
            if term.over:
                return True
        return False


UNLIMITED = Slot(earliest=float("-inf"), latest=float("inf"))
"""The slot of those who need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A replica that leases: when it asked last, until when its share is used, whether it wanted more."""

    at: float
    next: float
    hungry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The shared state from which slots are leased: what the store keeps, in seconds.

    `next` is the cursor of the fastest rate; `further` has those of the others, by name. `used` is what was
    spent of the quota: in the calendar day that began at `day`, or in the buckets `spent`. `counting` names
    what is counted there, as `SlotRequest.counting` does, and `counted` is when somebody did so last. `laid`
    is how the slots lie that were leased last, `extra` what they brought beside.
    """

    next: float = 0.0
    used: int = 0
    day: float = 0.0
    members: Mapping[str, Member] = field(default_factory=dict)
    further: Mapping[str, float] = field(default_factory=dict)
    spent: tuple[Bucket, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=dict)
    laid: Laid | None = None
    extra: int = 0
    counting: str = ""
    counted: float = 0.0


def meeting(one: Slot, other: Slot, now: float, least: float = MIN_LEFT) -> Slot | None:
    """The time that two slots have in common, if more than `least` seconds of it are left."""
    earliest, latest = max(one.earliest, other.earliest), min(one.latest, other.latest)
    if latest - max(now, earliest) <= least:
        return None
    return Slot(earliest=earliest, latest=latest, terms=(*one.terms, *other.terms))


def days_around(now: float, timezone: str) -> tuple[float, float, float, float]:
    """Starts, in epoch seconds, of yesterday, today, tomorrow and the day after, as `timezone` has `now`."""
    start, end = day_bounds(now, timezone)
    # Noon is safely within a day, whichever way its clocks are changed.
    return day_bounds(start - 43200, timezone)[0], start, end, day_bounds(end + 43200, timezone)[1]


def day_bounds(now: float, timezone: str) -> tuple[float, float]:
    """Start and end, in epoch seconds, of the day of `now` in `timezone`; 23 to 25 hours apart."""
    zone = ZoneInfo(timezone)
    start = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    end = (start.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    return start.timestamp(), end.timestamp()


def take(cursor: Cursor, now: float, request: SlotRequest) -> tuple[Cursor, float, int]:
    """Claim slots from `cursor` at the store's time `now`: the new cursor, the first slot, how many.

    While others want more than they got, a member takes no more than its share of a moment, `AHEAD`.

    The same arithmetic runs inside MongoDB (`ratelimit/pipelines.py`); the contract suite holds the two
    against each other.
    """
    allowance = request.allowance
    day, day_end = day_bounds(now, allowance.timezone)
    if _begins_anew(cursor, now, request):
        cursor = replace(cursor, used=0, spent=(), day=day, counting="")
    spent, used = _so_far(cursor, now, day, request)
    horizon = min(now + AHEAD, day_end - DAY_MARGIN)
    windows = request.windows
    laid, count = _lay(cursor, now, horizon, request, windows)
    if allowance.quota:
        count = min(count, allowance.quota - used)
    members = {name: each for name, each in cursor.members.items() if abs(now - each.at) < MEMBER_AGE}
    member = request.member
    others = sum(each.hungry for name, each in members.items() if name != member)
    share = laid.step * GENEROUS * (others + 1)
    turn = max(min(members[member].next, now + (FARTHEST + share)) if member in members else 0.0, now)
    if member and others:
        count = min(count, 1 + math.floor((now + AHEAD - turn) / share))
    count = max(0, count)
    if member:
        # Who is alone owes nothing to those who come later.
        following = turn + count * share if others else now
        members[member] = Member(at=now, next=following, hungry=count < request.want)
    extra = min(request.extra, allowance.quota - used - count) if request.extra else 0
    extra = max(0, extra)
    if request.rolling:
        spent = quota.spend(spent, quota.end_of_bucket(now, allowance.quota_period), count + extra)
    ends = laid.following(count)
    ours = cursor.counting in {"", request.counting}
    moved = replace(
        cursor,
        next=ends[0],
        further={each.name: end for each, end in zip(windows[1:], ends[1:], strict=True)},
        used=used + count + extra,
        day=cursor.day if _counts_on(cursor, day, now) else day,
        members=members,
        spent=spent,
        laid=laid,
        extra=extra,
        counting=request.counting if ours else cursor.counting,
        counted=now if ours else cursor.counted,
    )
    return moved, laid.first, count


def _begins_anew(cursor: Cursor, now: float, request: SlotRequest) -> bool:
    """Whether what was counted of the quota is something else, and nobody counts it any more."""
    other = cursor.counting not in {"", request.counting}
    return other and abs(now - cursor.counted) >= UNCOUNTED


def _so_far(cursor: Cursor, now: float, day: float, request: SlotRequest) -> tuple[tuple[Bucket, ...], int]:
    """The buckets that count, and what was spent of the quota."""
    if not request.rolling:
        return (), cursor.used if _counts_on(cursor, day, now) else 0
    period = request.allowance.quota_period
    spent = quota.kept(cursor.spent, now, period=period, keep=request.keep)
    return spent, sum(each.count for each in spent)


def _counts_on(cursor: Cursor, day: float, now: float) -> bool:
    """Whether what was used in the day that began at `cursor.day` counts in the one that began at `day`.

    One that began later is another zone's, of a replica with another file, or of ours before it was changed:
    were it begun anew each time nobody would ever have used anything up.
    """
    return day <= cursor.day <= now


def _lay(
    cursor: Cursor, now: float, horizon: float, request: SlotRequest, windows: Sequence[Window]
) -> tuple[Laid, int]:
    """Where slots lie, and how many fit. While an order holds there is no burst, nor one from its pause."""
    order = cursor.orders.get(RELAY)
    pace = 1.0 if order is None else order.pace(now)
    spacing = order.spacing if order is not None and pace < 1 else 0.0
    steps = [max(each.step, spacing) / (pace or 1.0) for each in windows]
    cursors = _cursors(cursor, windows)
    if pace:
        cursors = [min(each, now + (FARTHEST + step)) for each, step in zip(cursors, steps, strict=True)]
    first = max(*cursors, now - (request.depth if pace == 1 else 0.0))
    if order is not None and pace:
        first = max(first, order.until)
    return lay(
        first=first,
        reach=horizon - first,
        want=request.want if pace else 0,
        cursors=cursors,
        steps=steps,
        lags=[each.lag for each in windows],
    )


def _cursors(cursor: Cursor, windows: Sequence[Window]) -> list[float]:
    """Where each window stands.

    A rate that was not known till now has nothing in hand from before. Nor has what somebody leased by other
    rates gone by it: it begins behind all that there is, or replicas of which one has another file would each
    keep a rate of its own.
    """
    names = [each.name for each in windows[1:]]
    others = [end for name, end in cursor.further.items() if name not in names]
    farthest = max([cursor.next, *cursor.further.values()])
    return [max([cursor.next, *others]), *(cursor.further.get(name, farthest) for name in names)]


def give_back(cursor: Cursor, grant: SlotGrant, unspent: int) -> Cursor:
    """Return the last `unspent` slots, and what is `extra`.

    A cursor goes back only if nobody leased after us.
    """
    units = unspent + grant.extra
    if grant.laid is None:
        return cursor
    ends, returned = grant.laid.following(grant.count), grant.laid.following(grant.count - unspent)
    near = [step / 1000 for step in grant.laid.steps]
    following = returned[0] if abs(cursor.next - ends[0]) < near[0] else cursor.next
    further = dict(cursor.further)
    for place, name in enumerate(grant.further, 1):
        if name in further and abs(further[name] - ends[place]) < near[place]:
            further[name] = returned[place]
    if grant.bucket:
        spent = quota.unspend(cursor.spent, grant.bucket, units)
        return replace(cursor, next=following, further=further, spent=spent)
    used = max(0, cursor.used - units) if cursor.day == grant.day else cursor.used
    return replace(cursor, next=following, further=further, used=used)


def grant_of(
    *,
    cursor: Cursor,
    first: float,
    count: int,
    now: float,
    request: SlotRequest,
    asked: float,
    answered: float,
) -> SlotGrant:
    """What a lease means to the one who asked: its slots, or when to ask again."""
    allowance = request.allowance
    _, day_end = day_bounds(now, allowance.timezone)
    exhausted = count == 0 and allowance.quota > 0 and cursor.used >= allowance.quota
    renewed = quota.renewed_at(cursor.spent, request.keep) if request.rolling else day_end
    return SlotGrant(
        first=first,
        count=count,
        step=cursor.laid.step if cursor.laid is not None else allowance.step,
        life=request.life,
        now=now,
        day=cursor.day,
        day_end=day_end,
        asked=asked,
        answered=answered,
        again=0.0 if count else _again(cursor, first, now, request, renewed if exhausted else day_end),
        exhausted=exhausted,
        used=cursor.used,
        renewed=renewed,
        laid=cursor.laid,
        further=tuple(cursor.further),
        bucket=quota.end_of_bucket(now, allowance.quota_period) if request.rolling else 0.0,
        orders=cursor.orders,
        extra=cursor.extra,
    )


def _again(cursor: Cursor, first: float, now: float, request: SlotRequest, end: float) -> float:
    """In how many seconds one who got none is to ask again; `end`: of the day, or of the lack of quota."""
    order = cursor.orders.get(RELAY)
    if order is not None and now < order.until:
        return min(max(order.until - now, MIN_WAIT), MAX_WAIT)
    used_up = request.allowance.quota > 0 and cursor.used >= request.allowance.quota
    mine = cursor.members.get(request.member)
    turn = mine.next if mine is not None else first
    wait = end - now if used_up or first > end - DAY_MARGIN else max(first, turn) - now - AHEAD
    return min(max(wait, MIN_WAIT), MAX_WAIT)
