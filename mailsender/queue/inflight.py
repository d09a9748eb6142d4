"""The letters in hand and their leases: kept alive, known when lost, and other replicas' reclaimed.

The keeper of leases is there whatever else is going on, so it looks after the queue, too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping

import structlog

from mailsender.aio import pause
from mailsender.journal.port import NoNotes, Notes
from mailsender.model.letter import Lease
from mailsender.model.ports import Clock, Forbidden, Queue, QueueStats, Rejected, Unavailable

log = structlog.get_logger()

_LONG_AGO = float("-inf")

RECLAIM_EVERY = 2.0
"""Seconds between two looks for leases that ran out: an index says at once that there are none."""

FORGET_EVERY = 10.0
"""Seconds between two looks for letters to be forgotten, which were remembered for a minute at least."""

COUNT_SHARE = 10
"""How many times as long as counting took is waited until the next: millions of letters take a while."""

LEAST_STEP, MOST_STEP = 0.5, 5.0
"""Seconds by which MongoDB's clock may seem to go wrong, for an answer takes its time; a sixth of a lease if
that lies between."""

RECLAIM_BATCH = 1000
"""Leases reclaimed in one round trip; a dead replica's share comes back in a few of them."""


class Hand:
    """Which letters are in hand, under which token, and until when by the monotonic clock.

    What ends is noted in `notes`. `run` names this process: a successor that has its notes knows it.
    Whoever may find too many letters here takes `eased` before it looks, and waits for that: it is set once,
    when some have left, and another takes its place.
    """

    def __init__(self, notes: Notes | None = None) -> None:
        self.notes = notes or NoNotes()
        self.run = self.notes.run or secrets.token_hex(8)
        self._tokens: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._until: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._decided: set[str] = set()
        self.bytes = 0
        self.eased = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tokens)

    def new_token(self) -> str:
        """A token for a claim, which begins with `run`, so that it is known for ours; 32 hex digits."""
        return self.run + secrets.token_hex(16 - len(self.run) // 2)

    def take(self, lease: Lease) -> None:
        """Note a claim's letters."""
        if not lease.letters:
            return
        # Its lease had run out unnoticed, and the letter came back: the old claim is over.
        self.drop([letter.id for letter in lease.letters if letter.id in self._tokens])
        self._until[lease.token] = lease.until
        self._members[lease.token] = {letter.id for letter in lease.letters}
        for letter in lease.letters:
            self._tokens[letter.id] = lease.token
            self._sizes[letter.id] = letter.size
            self.bytes += letter.size

    def drop(self, ids: Iterable[str]) -> None:
        """Forget letters that were settled, released or lost; repeating it does no harm."""
        ended: dict[str, list[str]] = {}
        for letter_id in ids:
            token = self._tokens.pop(letter_id, None)
            if token is None:
                continue
            ended.setdefault(token, []).append(letter_id)
            self.bytes -= self._sizes.pop(letter_id)
            self._decided.discard(letter_id)
            members = self._members[token]
            members.discard(letter_id)
            if not members:
                del self._members[token], self._until[token]
        if ended:
            self.ease()
            self.notes.done(ended)

    def ease(self) -> None:
        """Tell those who wait that there is more room."""
        eased, self.eased = self.eased, asyncio.Event()
        eased.set()

    def decide(self, token: str, letter_id: str) -> None:
        """Note that what becomes of a letter only waits to be written; whoever writes it drops it."""
        if self._tokens.get(letter_id) == token:
            self._decided.add(letter_id)

    def decided(self, letter_id: str) -> bool:
        """Whether its outcome, or its return, waits to be written or is being written."""
        return letter_id in self._decided

    def token(self, letter_id: str) -> str | None:
        """The token under which a letter is in hand, None when it is not."""
        return self._tokens.get(letter_id)

    def lasts(self, token: str, letter_id: str) -> float:
        """When the letter's lease under `token` ends; -inf once it was lost, though it came in again."""
        return self._until[token] if self._tokens.get(letter_id) == token else _LONG_AGO

    def by_token(self) -> dict[str, list[str]]:
        """IDs in hand by token, as `Queue.renew` takes them."""
        return {token: list(ids) for token, ids in self._members.items()}

    def extend(self, tokens: Iterable[str], until: float) -> None:
        """Note a renewal."""
        for token in tokens:
            if token in self._until:
                self._until[token] = until


class Health:
    """For how long MongoDB has answered without a break, and what its clock shows. Pure, given `now`.

    `now` is in monotonic seconds. A gap between two answers longer than `longest_gap`, two intervals, is a
    break, too: the process was stopped, or the driver waited for the next primary. So is a clock of MongoDB's
    that was set, or that of another member: leases that it says ran out may be those of the living.
    """

    def __init__(self, interval: float) -> None:
        self.longest_gap = 2 * interval
        self._step = max(LEAST_STEP, min(MOST_STEP, interval))
        self._since: float | None = None
        self._last = float("-inf")
        self._server: float | None = None

    def answered(self, now: float, server: float) -> float:
        """An operation succeeded, and MongoDB's clock showed `server`, in epoch seconds.

        Returns by how many seconds the clock was set since the last time, 0.0 where it was not.
        """
        stepped = 0.0
        if self._server is not None:
            stepped = server - self.server(now)
            if abs(stepped) <= self._step:
                stepped = 0.0
        if self._since is None or stepped or now - self._last > self.longest_gap:
            self._since = now
        self._last, self._server = now, server
        return stepped

    def server(self, now: float) -> float:
        """What MongoDB's clock shows, unless it was set since it was asked; -inf before that."""
        return self._server + now - self._last if self._server is not None else float("-inf")

    def failed(self) -> None:
        """An operation did not."""
        self._since = None

    def steady(self, now: float) -> bool:
        """Whether it has been there for two intervals, so that others could renew their leases."""
        if self._since is None or now - self._last > self.longest_gap:
            return False
        return now - self._since >= self.longest_gap

    @property
    def good(self) -> bool:
        """Whether the last operation succeeded."""
        return self._since is not None


class LeaseKeeper:
    """Renews what is in hand, watches MongoDB's health, reclaims leases that ran out, forgets what may be.

    `lease` is in seconds. Renewal comes six times a lease, so that five may fail before one ends. It has a
    loop of its own, `run`, which waits for nothing else; what can wait is done by `tidy`.
    """

    def __init__(self, queue: Queue, hand: Hand, clock: Clock, *, lease: float) -> None:
        self._queue = queue
        self._hand = hand
        self._clock = clock
        self.lease = lease
        self.interval = lease / 6
        self.health = Health(self.interval)
        self.stats: QueueStats | None = None
        self._counted_at = 0.0
        self._uncounted = False
        self._refused = False
        self._forbidden = False
        self._away_since: float | None = None
        self.lost = 0
        self.reclaimed = 0

    @property
    def stats_age(self) -> float | None:
        """Seconds since the queue was counted; None where it never was."""
        return self._clock.monotonic() - self._counted_at if self.stats is not None else None

    async def count(self) -> None:
        """Count the queue anew.

        Raises:
            Unavailable: the queue is away; what was counted before stays.
        """
        self.stats = await self._queue.stats()
        self._counted_at = self._clock.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Renew until `stop`."""
        beat_at = self._clock.monotonic()
        while not stop.is_set():
            now = self._clock.monotonic()
            if now >= beat_at:
                beat_at = now + self.interval
                await self._beat()
            await pause(stop, max(0.0, beat_at - self._clock.monotonic()))

    async def tidy(self, stop: asyncio.Event) -> None:
        """Count, reclaim and forget until `stop`; one that fails keeps no other from its turn."""
        count_at = forget_at = self._clock.monotonic()
        while not stop.is_set():
            now = self._clock.monotonic()
            await self._reclaim()
            if now >= count_at:
                took = await self._count()
                count_at = now + max(self.interval, COUNT_SHARE * took)
            if now >= forget_at:
                if await self._forget():
                    continue
                forget_at = now + FORGET_EVERY
            await pause(stop, min(RECLAIM_EVERY, self.interval))

    async def _count(self) -> float:
        """Count the queue; the seconds that it took."""
        began = self._clock.monotonic()
        try:
            await self.count()
        except (Unavailable, Rejected) as error:
            if not self._uncounted and self.health.good:
                log.warning("counting_fails", error=str(error), action="the counts that are told grow old")
                self._uncounted = True
        else:
            if self._uncounted:
                log.info("counting_works")
            self._uncounted = False
        return self._clock.monotonic() - began

    async def _forget(self) -> bool:
        """Forget some letters whose time has come; whether there may be more."""
        if not self.health.good:
            return False
        try:
            return await self._queue.forget() > 0
        except (Forbidden, Rejected) as error:
            # Leases are worth more than a tidy store.
            if not self._refused:
                log.error(
                    "forgetting_refused",
                    error=str(error),
                    action="reported letters stay, nothing waits for it; tried again, but not told again",
                    check="whether MongoDB's user may remove documents",
                )
            self._refused = True
        except Unavailable as error:
            self.away(error)
        return False

    async def renew(self) -> None:
        """Extend the leases of all letters in hand; letters that turn out lost are dropped.

        Raises:
            Unavailable: the queue is away; the leases go on running out.
        """
        held: Mapping[str, list[str]] = self._hand.by_token()
        if not held:
            return
        asked = self._clock.monotonic()
        lost = await self._queue.renew(held, self.lease)
        self._hand.extend(held, asked + self.lease)
        # What is being written back is no longer ours either, but a majority need not have it yet: it is
        # done when its own write is answered, which tells the late ones as well.
        hand = self._hand
        mine = [each for each in lost if hand.token(each) in held and not hand.decided(each)]
        if mine:
            self.lost += len(mine)
            log.warning("leases_lost", letters=len(mine), action="they are left to whoever has them now")
            hand.drop(mine)

    async def _beat(self) -> None:
        was_good = self.health.good
        try:
            await self.renew()
            server = await self._queue.now(0.0)
        except (Unavailable, Rejected) as error:
            self.away(error)
            return
        stepped = self.health.answered(self._clock.monotonic(), server)
        if stepped:
            log.warning(
                "mongodb_clock_set",
                seconds=round(stepped, 3),
                action="no lease is taken for run out until those who live could renew theirs",
            )
        if self._away_since is not None or not was_good:
            seconds = self._clock.monotonic() - self._away_since if self._away_since is not None else 0.0
            log.info("mongodb_answers", after_seconds=round(seconds, 1))
        self._forbidden, self._away_since = False, None

    def away(self, error: Exception) -> None:
        """Note that MongoDB does not answer; whoever meets it first has it told, once."""
        self.health.failed()
        forbidden = isinstance(error, Forbidden)
        if self._away_since is None or (forbidden and not self._forbidden):
            log.warning(
                "mongodb_away",
                error=str(error),
                action="nothing new is claimed; leases are renewed as soon as it is back",
            )
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
        self._forbidden |= forbidden  # a server that comes back may let us in no more: worth a line too

    async def _reclaim(self) -> None:
        now = self._clock.monotonic()
        if not self.health.steady(now):
            return
        try:
            # Steady now, it must not be done after an outage that begins now: owners could not renew in it.
            # Nor by a clock that is set just now.
            gap, by = self.health.longest_gap, self.health.server(now)
            count = await self._queue.reclaim(RECLAIM_BATCH, gap, by)
        except (Unavailable, Rejected) as error:
            self.away(error)
            return
        if count:
            self.reclaimed += count
            log.warning("leases_reclaimed", letters=count, action="they are sent by whoever claims them")
