"""Claims letters in batches, as many as can soon be sent, and hands them to the workers."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence, Set
from functools import partial

import structlog

from mailsender.afterwards import afterwards
from mailsender.aio import first_of, pause
from mailsender.model.letter import Claim, FreshClaim, Letter
from mailsender.model.ports import Clock, Queue, Relay, Unavailable
from mailsender.observe.supervision import Keep, once
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.ratelimit.limiter import SlotGate
from mailsender.sending.sender import Compose, SendPolicy, Worker
from mailsender.sending.sessions import RelayState
from mailsender.sending.settler import Settler
from mailsender.sending.weighing import Ruling

log = structlog.get_logger()

CLAIM = 500
"""Letters in one claim at most: as measured, a larger batch does not pay."""

FRESH = 2000
"""Letters that come claimed from intake up to which the basket is filled: what is being sent, and a few
inserts that are under way meanwhile. With a rate it is what the rate lets out."""

PATIENCE = 0.5
"""Seconds that intake may wait for room in the basket, once: a letter that it has to store unclaimed costs
three times as much, and so do all behind it until the queue is empty again."""

LOOK = 1.0
"""Seconds between two looks for letters that wait in the queue while fresh ones keep the basket full."""

HAND_BYTES = 24 * 1024 * 1024
"""Bytes of letters in hand above which nothing more is claimed: some 4,000 ordinary letters, as many as are
under way at full speed, and so few of the largest that the process stays below 200 MB."""

AHEAD = 2.0
"""Seconds of work to hold: enough to hide a claim's round trip, and little for others to wait for."""

POLL = 1.0
"""Seconds between two looks into an empty queue; a letter of this replica's own intake nudges. A look is the
dearest thing that an idle service does."""

WATCH = 5.0
"""Seconds between two looks whether sessions wait for a reply since longer than usual."""

DOUBTS = 100
"""Claims without an answer that are told apart; whether there is any is all that is asked."""

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 10.0
"""Seconds between two claims while MongoDB is away."""


class LetterBasket:
    """Claimed letters that wait for a worker, each with its claim's token; bounded by what dispatch claims.

    `low` is set when a letter is taken and no more than `mark` are left, `ebb` likewise for `ebb_mark`.
    """

    def __init__(self) -> None:
        self._letters: deque[tuple[str, Letter]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self.low = asyncio.Event()
        self.mark = 0
        self.ebb = asyncio.Event()
        self.ebb_mark = 0

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, claim: Claim) -> None:
        """Add a claim's letters and wake as many workers."""
        self._letters.extend((claim.token, letter) for letter in claim.letters)
        for _ in claim.letters:
            self._wake_one()

    def take(self) -> tuple[str, Letter] | None:
        """The next letter with its token, None when there is none."""
        if not self._letters:
            return None
        found = self._letters.popleft()
        left = len(self._letters)
        if left <= self.mark:
            self.low.set()
        if left <= self.ebb_mark:
            self.ebb.set()
        return found

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a letter; False when `timeout` seconds are over or no more will come."""
        if self._letters or self._closed:
            return bool(self._letters)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # The worker that waited last is woken first: few warm sessions beat many that idle.
        self._waiters.append(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            if not _woken(future) and future in self._waiters:
                self._waiters.remove(future)
        return bool(self._letters)

    def drain(self) -> list[tuple[str, Letter]]:
        """Take everything out."""
        letters = list(self._letters)
        self._letters.clear()
        return letters

    def close(self) -> None:
        """No more will come: whoever waits is told."""
        self._closed = True
        while self._waiters:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)
                return


def _woken(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled()


class Pace:
    """How many letters a second leave the basket, smoothed. Pure, given `now`."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._since: float | None = None

    def note(self, letters: int, now: float) -> None:
        """`letters` left since the last call."""
        if self._since is None or now <= self._since:
            self._since = now
            return
        elapsed = now - self._since
        weight = 1 - math.exp(-elapsed / AHEAD)
        self._rate += weight * (letters / elapsed - self._rate)
        self._since = now

    @property
    def rate(self) -> float:
        """Letters a second."""
        return self._rate


class Dispatch:
    """The way of a letter from claim to settlement, for one replica."""

    def __init__(
        self,
        *,
        queue: Queue,
        relay: Relay,
        composer: Compose,
        gate: SlotGate,
        in_flight: InFlight,
        heartbeat: Heartbeat,
        settler: Settler,
        policy: SendPolicy,
        senders: int,
        clock: Clock,
        basket: LetterBasket,
        chance: random.Random,
    ) -> None:
        self._queue = queue
        self._gate = gate
        self._in_flight = in_flight
        self._heartbeat = heartbeat
        self._settler = settler
        self._policy = policy
        self._clock = clock
        self._basket = basket
        self._senders = senders
        self._pace = Pace()
        self._claimed = 0
        self._dry = False  # the last look into the queue found no more than was taken
        self._looked_at = clock.monotonic()
        self._nudged = asyncio.Event()
        self._stopping = asyncio.Event()
        self.relay = RelayState(relay.name, clock)
        self.trouble = ""
        self._asked: set[str] = set()  # tokens of claims under way
        self._doubts: set[str] = set()  # those of claims whose replies were lost
        self._workers = [
            Worker(
                basket=basket,
                relay=relay,
                state=self.relay,
                gate=gate,
                in_flight=in_flight,
                settler=settler,
                composer=composer,
                policy=policy,
                clock=clock,
                chance=chance,
            )
            for _ in range(senders)
        ]
        self._running: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[None] | None = None

    def nudge(self) -> None:
        """Letters were stored that nobody owns: look into the queue now."""
        self._dry = False
        self._nudged.set()

    async def claim_fresh(self, wanted: int) -> FreshClaim | None:
        """A claim for up to `wanted` letters about to be stored; None where they have to wait their turn.

        Only while the queue holds nothing older, and only as many as can soon be sent. What is just full is
        waited for, but not for long and not twice.
        """
        room = self._fresh_room()
        if 0 <= room < wanted and self._gate.allowance.unlimited:
            room = await self._more_fresh_room(wanted)
        if room <= 0:
            return None
        return FreshClaim(token=self._new_token(), limit=min(room, wanted))

    def take_fresh(self, claim: Claim) -> None:
        """Letters that came in under such a claim."""
        self._asked.discard(claim.token)
        self._take(claim)

    async def _more_fresh_room(self, wanted: int) -> int:
        """Wait until as many letters as are `wanted` fit, or `PATIENCE` is over."""
        ends = self._clock.monotonic() + PATIENCE
        self._basket.ebb_mark = FRESH - wanted
        while True:
            self._basket.ebb.clear()
            eased = self._in_flight.eased
            room = self._fresh_room()
            left = ends - self._clock.monotonic()
            if room < 0 or room >= wanted or left <= 0:
                return room
            await first_of(self._basket.ebb, eased, timeout=left)

    def _fresh_room(self) -> int:
        """How many letters fit into the basket; -1 when none may come that way."""
        idle = self._nothing_goes() or self.relay.breaker.open or self._in_flight.notes.trouble
        if idle or not self._dry or self._stopping.is_set():
            return -1
        if self._crowded():
            return 0
        full = FRESH if self._gate.allowance.unlimited else self._target()
        return max(0, full - len(self._basket))

    async def run(self, keep: Keep = once) -> None:
        """Claim and send until `stop_claiming` and `finish`."""
        async with asyncio.TaskGroup() as group:
            self._running = {
                group.create_task(afterwards(partial(worker.run, keep), worker.close))
                for worker in self._workers
            }
            self._claiming = group.create_task(
                keep("claiming", self._claim_all, self._stopping, "only letters fresh from intake are sent")
            )
            group.create_task(
                keep("watching", self._watch_dots, self._stopping, "nobody hears of a relay that hangs")
            )

    def stop_claiming(self) -> None:
        """Claim no more, give back what no worker has begun, let the workers end their letter."""
        self._stopping.set()
        self._nudged.set()
        self._basket.low.set()
        self._gate.shut()
        for worker in self._workers:
            worker.stop()
        self._basket.close()
        self._release(self._basket.drain())

    async def claimed_out(self, timeout: float) -> bool:
        """Wait for the claim under way, whose letters go back; False when `timeout` seconds were too few.

        What such a claim took after all is left to other replicas.
        """
        if self._claiming is None:
            return True
        ended, _ = await asyncio.wait({self._claiming}, timeout=timeout)
        return bool(ended)

    async def return_lost(self) -> int:
        """Give back letters that are ours in the queue and not in flight: a claim's reply was lost; how many.

        To be called when nothing is claimed any more. Without such a reply the queue is not asked.

        Raises:
            Unavailable: the queue cannot say whether there are any.
        """
        return await self._return_claimed(self._doubts | self._asked)

    @property
    def in_doubt(self) -> bool:
        """Whether a claim was never answered; what it takes may still come under our name."""
        return bool(self._doubts or self._asked)

    async def _settle_doubts(self) -> None:
        """Give back what claims took whose replies were lost: while this replica lives nobody else will.

        Only when MongoDB has answered for a while: until then it may carry out what it was told before.
        """
        if not self._doubts or not self._heartbeat.health.steady(self._clock.monotonic()):
            return
        doubts = set(self._doubts)
        try:
            returned = await self._return_claimed(doubts)
        except Unavailable as error:
            self._heartbeat.away(error)
            return
        self._doubts -= doubts
        if returned:
            log.info("lost_claims_returned", letters=returned)

    async def _return_claimed(self, tokens: Set[str]) -> int:
        """Give back what is in the queue under these tokens, and not in flight; how many."""
        if not tokens:
            return 0
        ours = await self._queue.claims_of(self._in_flight.replica)
        lost = 0
        for token in tokens & ours.keys():
            strange = [each for each in ours[token] if self._in_flight.token(each) != token]
            lost += len(strange)
            self._settler.release(token, strange)
        return lost

    def _new_token(self) -> str:
        """A token for a claim that has yet to be answered."""
        token = self._in_flight.new_token()
        self._asked.add(token)
        return token

    async def finish(self, timeout: float) -> bool:
        """Wait for the workers; cut those that are not done after `timeout` seconds. True if none was cut.

        Letters of which nobody knows yet what their refusal means go back.
        """
        none_cut = await self._workers_end(timeout)
        self.relay.scale.rule(Ruling.STOPPED)
        return none_cut

    async def _workers_end(self, timeout: float) -> bool:
        if not self._running:
            return True
        _, late = await asyncio.wait(self._running, timeout=timeout)
        if not late:
            return True
        log.warning(
            "sessions_cut",
            sessions=len(late),
            action="letters before their dot go back; what becomes of those after it says SMTP_UNCERTAIN",
        )
        for worker in self._workers:
            worker.cut()
        await asyncio.wait(late, timeout=5.0)
        return False

    async def _watch_dots(self) -> None:
        while not self._stopping.is_set():
            self.relay.look_at_dots([held for worker in self._workers if (held := worker.held)])
            await pause(self._stopping, WATCH)

    # --- claiming --------------------------------------------------------------------------------

    async def _claim_all(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            self._nudged.clear()
            self._basket.low.clear()
            eased = self._in_flight.eased
            if self._blocked():
                self._release(self._basket.drain())
            room = self._room()
            if room <= 0:
                await first_of(self._basket.low, eased, timeout=POLL)
                continue
            got = await self._claim(room)
            if self.trouble:
                await pause(self._stopping, backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)
                continue
            backoff = FIRST_BACKOFF
            await self._settle_doubts()
            self._dry = got < room
            if not got:
                await pause(self._nudged, POLL)

    async def _claim(self, room: int) -> int:
        """Claim up to `room` letters; returns how many. `trouble` says why there is none."""
        self._looked_at = self._clock.monotonic()
        token = self._new_token()
        try:
            claim = await self._queue.claim(room, token)
        except Unavailable as error:
            self._asked.discard(token)
            if len(self._doubts) < DOUBTS:
                self._doubts.add(token)
            self._dry = False
            self.trouble = str(error) or type(error).__name__
            self._heartbeat.away(error)
            return 0
        except Exception:
            self._asked.discard(token)  # a fault of ours, and no claim that is still under way
            raise
        self.trouble = ""
        self._asked.discard(claim.token)
        self._take(claim)
        return len(claim.letters)

    def _take(self, claim: Claim) -> None:
        self._in_flight.take(claim)
        if self._stopping.is_set():
            self._release([(claim.token, letter) for letter in claim.letters])
        else:
            self._claimed += len(claim.letters)
            self._basket.put(claim)

    def _room(self) -> int:
        """How many letters to claim now: what can be sent within `AHEAD`, less what is in hand."""
        if self._blocked() or self._crowded():
            return 0
        if self.relay.breaker.open:
            return int(not self._basket)  # for a try
        self._pace.note(self._claimed, self._clock.monotonic())
        self._claimed = 0
        full = min(CLAIM, self._target())
        # A claim for a letter or two while the basket is nearly full would be a round trip a letter.
        self._basket.mark = full // 2
        if len(self._basket) <= self._basket.mark:
            return full - len(self._basket)
        # Fresh letters may keep the basket full for ever, and what waits in the queue must not starve behind
        # them.
        return full if self._dry and self._clock.monotonic() - self._looked_at >= LOOK else 0

    def _nothing_goes(self) -> bool:
        """Whether letters would only wait here."""
        gate = self._gate
        return self.relay.away or gate.exhausted_until is not None or bool(gate.trouble)

    def _blocked(self) -> bool:
        """Whether what is claimed has to go back: nothing goes, or could be noted. A note is tried."""
        waits = self.relay.breaker.left(self._clock.monotonic()) > 0
        return waits or self._nothing_goes() or not self._in_flight.notes.writable()

    def _target(self) -> int:
        """How many letters can be sent within `AHEAD`."""
        target = max(2 * self._senders, self._pace.rate * AHEAD)
        if self._gate.allowance.letters:
            target = min(target, self._gate.allowance.rate * AHEAD + self._gate.allowance.burst)
        return math.ceil(target)

    def _crowded(self) -> bool:
        """Whether the letters in hand take all the memory that they may."""
        return self._in_flight.bytes + self._settler.unreported_bytes >= HAND_BYTES

    def _release(self, letters: Sequence[tuple[str, Letter]]) -> None:
        by_token: dict[str, list[str]] = {}
        for token, letter in letters:
            if self._in_flight.token(letter.id) == token:
                by_token.setdefault(token, []).append(letter.id)
        for token, ids in by_token.items():
            self._settler.release(token, ids)
