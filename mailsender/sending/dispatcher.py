"""Claims letters for each route, as many as can soon be sent, and runs the senders that carry them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from mailsender.aio import first_of, pause
from mailsender.message.values import BadKey
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.handling import DENIED
from mailsender.model.letter import Claim, FreshClaim, Letter, Settlement, Status
from mailsender.observe.conditions import Condition
from mailsender.observe.metrics import Times
from mailsender.observe.supervision import Keep, once
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Inserted, Queue
from mailsender.routing.relay import Relay
from mailsender.routing.route import FRESH, Route
from mailsender.routing.table import RouteTable
from mailsender.routing.weighing import Ruling
from mailsender.sending.attempt import as_expired
from mailsender.sending.expiry import tell_expired
from mailsender.sending.hastening import Hastener
from mailsender.sending.lost_claims import LostClaims
from mailsender.sending.rerouter import Rerouter, way_of
from mailsender.sending.sender import Sender
from mailsender.sending.settler import Settler
from mailsender.sending.sharing import Sharing
from mailsender.sending.tools import Tools

log = structlog.get_logger()

PATIENCE = 0.5
"""Seconds that intake may wait for room in the backlog, once: a letter that it has to store unclaimed costs
three times as much, and so do all behind it until the queue is empty again."""

BYTES_IN_FLIGHT = 24 * 1024 * 1024
"""Bytes of letters in flight above which nothing more is claimed: some 4,000 ordinary letters, as many as are
under way at full speed, and so few of the largest that the process stays below 200 MB."""

TRICKLE = 10
"""Letters that a route with nothing at hand claims although those of others take all the memory: a few, and
few bytes, for a claim is bounded in them."""

POLL = 1.0
"""Seconds between two looks into an empty queue; a letter of this replica's own intake nudges. A look is the
dearest thing that an idle service does."""

WATCH = 5.0
"""Seconds between two looks whether sessions wait for a reply since longer than usual."""

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 10.0
"""Seconds between two claims while MongoDB is away."""

GOODBYE = 1.0
"""Seconds that all relays together have at least to answer QUIT at a stop."""

FRESH_ONLY = "only letters fresh from intake are sent"

PIPELINED = 2
"""Senders a session: the second one has the next letter ready where the relay takes them pipelined."""


class Dispatcher:
    """The way of a letter from claim to settlement, for one replica.

    `stopping` is what relays and senders were told to look at, too.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        relays: Sequence[Relay],
        routes: Sequence[Route],
        tools: Tools,
        heartbeat: Heartbeat,
    ) -> None:
        self._queue = queue
        self._in_flight: InFlight = tools.in_flight
        self._heartbeat = heartbeat
        self._settler: Settler = tools.settler
        self._clock: Clock = tools.clock
        self._stopping = tools.stopping
        self._means = tools.means
        self._suppression = tools.suppression
        self._tools = tools
        self.relays = tuple(relays)
        self.routes = tuple(routes)
        self.rerouter = Rerouter(
            queue,
            tools.clock,
            table=lambda: tools.table,
            blocked=self._blocks,
            moved=self._nudge_one,
        )
        self.hastener = Hastener(
            queue, tools.clock, tools.composer, routes=lambda: self.routes, moved=self._nudge_one
        )
        self.sharing = Sharing(queue, tools.in_flight, tools.clock, relays, life=tools.policy.life)
        self.lost_claims = LostClaims(queue, tools.in_flight, tools.settler, heartbeat, tools.clock)
        self.condition = Condition(part="mongodb")
        self.times = Times()  # of claims
        self.held_up = 0  # times that letters in flight took all the memory that they may
        self._crowd = False
        self._suppressed: dict[str, Mapping[str, Letter]] = {}  # of fresh claims, by their tokens
        self._senders: dict[str, int] = {}  # how many each route has
        self._running: set[asyncio.Task[None]] = set()
        self._claiming: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._keep: Keep = once

    def nudge(self) -> None:
        """Letters were stored that nobody owns: look into the queue now."""
        for route in self.routes:
            route.nudge()

    def _nudge_one(self, name: str) -> None:
        for route in self.routes:
            if route.name == name:
                route.nudge()

    def _blocks(self, name: str) -> bool:
        """Whether letters of a route would only wait now."""
        return all(route.name != name or bool(route.blocked_because()) for route in self.routes)

    def route_of(self, letter: Letter) -> str:
        """The route on which a letter that comes in is to wait.

        Raises:
            BadKey: it names one that letters may not choose.
        """
        table = self._tools.table
        if self.denies(letter.handling.route):
            raise BadKey("Route", DENIED)
        return table.of(letter) if table.plain else way_of(letter, table, self._blocks)

    def denies(self, route: str) -> bool:
        """Whether a letter may not name a route; empty it is none."""
        return bool(route and self._tools.table.denial(route))

    def change(self, routes: Sequence[Route], table: RouteTable) -> None:
        """Go on over these routes, some of which may be new; letters of others are routed anew.

        What is changed in a route that stays is changed by `Route.change` before.
        """
        gone = [each for each in self.routes if each not in routes]
        self.routes = tuple(routes)
        self._tools.table = table
        for route in gone:
            self._senders.pop(route.name, None)
            route.leave()
            self._release(route.backlog.drain())
            for relay in route.relays:
                relay.look_again()
        if self._group is not None and not self._stopping.is_set():
            self._staff(self._group)
        self.rerouter.changed.set()
        self.hastener.ask()

    def _staff(self, group: asyncio.TaskGroup) -> None:
        """Have each route's letters claimed and sent, by as many senders as it is worth."""
        keep = self._keep
        for route in self.routes:
            ended = route.ended
            if route.name not in self._senders:
                task = group.create_task(keep("claiming", partial(self._claim_all, route), ended, FRESH_ONLY))
                self._claiming.add(task)
                task.add_done_callback(self._claiming.discard)
            for _ in range(self._senders.get(route.name, 0), PIPELINED * route.senders):
                run = Sender(route, self._tools).run
                task = group.create_task(keep("sending", run, ended, "fewer letters are sent at once"))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            self._senders[route.name] = max(self._senders.get(route.name, 0), PIPELINED * route.senders)

    async def fresh_claims(self, letters: Sequence[Letter]) -> Sequence[FreshClaim]:
        """Claims for letters about to be stored, one a route; none where they have to wait their turn.

        Only while the queue holds nothing older for a route, and only for as many as can soon be sent. What
        is just full is waited for, but not for long and not twice.
        """
        wanted = Counter(letter.route for letter in letters if letter.status is Status.AWAITING)
        ends = self._clock.monotonic() + PATIENCE
        claims = []
        for route in self.routes:
            if not (count := wanted.get(route.name, 0)):
                continue
            room = self._fresh_room(route)
            if 0 <= room < count and route.unlimited:
                room = await self._more_fresh_room(route, count, ends)
            if room > 0:
                limit = min(room, count)
                claims.append(FreshClaim(token=self._in_flight.new_token(), limit=limit, route=route.name))
        if claims and not self._suppression.idle:
            claims = await self._looked_up(claims, letters)
        self._in_flight.asked.update([each.token for each in claims])
        return claims

    async def _looked_up(self, claims: list[FreshClaim], letters: Sequence[Letter]) -> list[FreshClaim]:
        """The claims, with what their letters lose by the suppression list; none where nobody can know."""
        try:
            found = await self._suppression.look_up(letters)
        except Unavailable:
            return []
        if found:
            self._suppressed |= {each.token: found for each in claims}
        return claims

    def take_fresh(
        self, claims: Sequence[FreshClaim], letters: Sequence[Letter], found: Sequence[Inserted]
    ) -> None:
        """Take the letters of which the queue says that they came in under these claims."""
        claimed = [letter for letter, what in zip(letters, found, strict=True) if what is Inserted.CLAIMED]
        for claim in claims:
            self._in_flight.answered(claim.token)
            mine = tuple(letter for letter in claimed if letter.route == claim.route)
            route = next((each for each in self.routes if each.name == claim.route), None)
            suppressed = self._suppressed.pop(claim.token, None)
            self._take(route, Claim(token=claim.token, letters=mine), suppressed, fresh=True)

    def lose_fresh(self, claims: Sequence[FreshClaim]) -> None:
        """Nobody will say what came in under these claims: it goes back."""
        for claim in claims:
            self._suppressed.pop(claim.token, None)
            self._in_flight.unanswered(claim.token)

    async def _more_fresh_room(self, route: Route, wanted: int, ends: float) -> int:
        """Wait until as many letters as are `wanted` fit, or the time `ends`."""
        backlog = route.backlog
        backlog.room_mark = FRESH - wanted
        while True:
            backlog.room.clear()
            eased = self._in_flight.eased
            room = self._fresh_room(route)
            left = ends - self._clock.monotonic()
            if room < 0 or room >= wanted or left <= 0:
                return room
            await first_of(backlog.room, eased, timeout=left)

    def _fresh_room(self, route: Route) -> int:
        """How many letters fit into the backlog; -1 when none may come that way."""
        if self._stopping.is_set() or self._in_flight.journal.trouble or not self._in_flight.joined:
            return -1
        room = route.fresh_room()
        return 0 if room > 0 and self._crowded() else room

    async def run(self, keep: Keep = once) -> None:
        """Claim and send until `stop_claiming` and `finish`."""
        async with asyncio.TaskGroup() as group:
            self._create_tasks(group, keep)

    def _create_tasks(self, group: asyncio.TaskGroup, keep: Keep) -> None:
        """Begin to claim and to send on every route, and what goes on beside."""
        stop = self._stopping
        self._group, self._keep = group, keep
        self._staff(group)
        for relay in self.relays:
            group.create_task(keep("sessions", relay.pool.run, stop, "sessions that idle stay open"))
        group.create_task(keep("watching", self._watch, stop, "nobody hears of a relay that hangs"))
        if self.sharing.shares:
            share = partial(self.sharing.run, stop)
            group.create_task(keep("sharing", share, stop, "it may have no session with some relays"))
        if self._tools.table.names:
            look = partial(self.rerouter.run, stop)
            group.create_task(keep("rerouting", look, stop, "letters stay on routes that are gone"))
        look = partial(self.lost_claims.run, stop)
        group.create_task(keep("lost claims", look, stop, "letters whose claims were not answered wait"))
        hasten = partial(self.hastener.run, stop)
        group.create_task(keep("hastening", hasten, stop, "letters keep times that followed from old limits"))

    def stop_claiming(self) -> None:
        """Claim no more, give back what no sender has begun, let the senders end their letter."""
        self._stopping.set()
        self._settler.let_go()
        for relay in self.relays:
            relay.limiter.shut()
            if relay.destinations is not None:
                relay.destinations.shut()
            relay.pool.stop()
        for route in self.routes:
            route.leave()
            self._release(route.backlog.drain())

    async def claimed_out(self, timeout: float) -> bool:
        """Wait for the claims under way, whose letters go back; False when `timeout` seconds were too few.

        What such a claim took after all is left to other replicas.
        """
        if not self._claiming:
            return True
        _, late = await asyncio.wait(set(self._claiming), timeout=timeout)
        return not late

    async def finish(self, timeout: float) -> bool:
        """Wait for the senders; cut those that are not done after `timeout` seconds. True if none was cut.

        Letters of which nobody knows yet what their refusal means go back.
        """
        until = self._clock.monotonic() + timeout
        none_cut = await self._senders_end(timeout)
        for relay in self.relays:
            relay.scale.rule(Ruling.STOPPED)
        closing = [asyncio.ensure_future(relay.pool.close()) for relay in self.relays]
        # Whoever is still asked for its last words then is so beside what follows: nothing depends on them.
        await asyncio.wait(closing, timeout=max(GOODBYE, until - self._clock.monotonic()))
        return none_cut

    async def _senders_end(self, timeout: float) -> bool:
        if not self._running:
            return True
        _, late = await asyncio.wait(set(self._running), timeout=timeout)
        if not late:
            return True
        log.warning(
            "sessions_cut",
            sessions=sum(relay.pool.busy for relay in self.relays),
            action="letters before their dot go back; what becomes of those after it says SMTP_UNCERTAIN",
        )
        self._means.cut = True
        for relay in self.relays:
            relay.pool.abort()
        await asyncio.wait(late, timeout=5.0)
        return False

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            for relay in self.relays:
                relay.pool.look_at_dots()
                relay.pool.look_at_moves(slots_awaited=relay.limiter.waiting > 0)
                relay.orders.forget_past(self._clock.monotonic())
            self._end_expired()
            await pause(self._stopping, WATCH)

    def _end_expired(self) -> None:
        """End letters in hand whose time is over, whatever they wait for; those in the queue end there."""
        now = self._clock.epoch()
        late = [each for route in self.routes for each in route.backlog.take_expired(now)]
        ours = [(token, letter) for token, letter in late if self._in_flight.token(letter.id) == token]
        for token, letter in ours:
            self._settler.put(Settlement(token=token, letter=as_expired(letter)))
        if ours:
            tell_expired([letter for _, letter in ours])

    # --- claiming --------------------------------------------------------------------------------

    async def _claim_all(self, route: Route) -> None:
        backoff = FIRST_BACKOFF
        while not (self._stopping.is_set() or route.ended.is_set()):
            route.nudged.clear()
            route.backlog.low.clear()
            eased = self._in_flight.eased
            if self._blocked(route):
                self._release(route.backlog.drain())
            room = self._room(route)
            if room <= 0:
                await first_of(route.backlog.low, eased, timeout=POLL)
                continue
            got = await self._claim(route, room)
            if self.condition.text:
                await pause(self._stopping, backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)
                continue
            backoff = FIRST_BACKOFF
            route.dry = got < room
            if not got:
                await pause(route.nudged, POLL)

    def _blocked(self, route: Route) -> bool:
        """Whether what is claimed has to go back: nothing goes, or no journal can be written.

        Nor is anything claimed under a name that others do not know yet.
        """
        if not self._in_flight.joined:
            return True
        return bool(route.blocked_because()) or not self._in_flight.journal.writable()

    def _room(self, route: Route) -> int:
        """How many letters to claim for a route now."""
        if self._blocked(route):
            return 0
        if not self._crowded():
            return route.room()
        # Another route may hang with all the memory: what does not depend on it goes on, a few at a time.
        starves = len(self.routes) > 1 and not route.backlog
        return min(route.room(), TRICKLE) if starves else 0

    async def _claim(self, route: Route, room: int) -> int:
        """Claim up to `room` letters; returns how many. `condition` says why there is none."""
        route.note_look()
        token = self._in_flight.ask()
        began = self._clock.monotonic()
        try:
            claim = await self._queue.claim(room, token, route.name)
            found = {} if self._suppression.idle else await self._suppression.look_up(claim.letters)
        except Unavailable as error:
            self._in_flight.unanswered(token)
            route.dry = False
            self.condition.set(str(error) or type(error).__name__, self._clock.epoch())
            self._heartbeat.away(error)
            return 0
        except Exception:
            self._in_flight.answered(
                token
            )  # a fault of ours: MongoDB is done with it, and a look finds what it took
            raise
        except BaseException:
            self._in_flight.unanswered(token)
            raise
        self.times.note(self._clock.monotonic() - began)
        self.condition.clear()
        self._in_flight.answered(claim.token)
        self._take(route, claim, found)
        return len(claim.letters)

    def _take(
        self,
        route: Route | None,
        claim: Claim,
        suppressed: Mapping[str, Letter] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Take a claim's letters; `suppressed` are those of them with recipients who are to get nothing."""
        if not self._in_flight.is_own(claim.token):
            return  # asked for before this replica was declared dead: whoever lives gets them, and sends them
        self._in_flight.take(claim)
        if route is None or route.ended.is_set() or self._stopping.is_set():
            self._release([(claim.token, letter) for letter in claim.letters])
        else:
            route.put(self._without(claim, suppressed) if suppressed else claim, fresh=fresh)

    def _without(self, claim: Claim, suppressed: Mapping[str, Letter]) -> Claim:
        """A claim without recipients who are to get nothing; letters with nobody else end here."""
        moved = [suppressed.get(each.id, each) for each in claim.letters]
        ended = [each for each in moved if each.status.final]
        for letter, left in zip(claim.letters, moved, strict=True):
            self._suppression.hits += len(letter.pending) - len(left.pending)
        for each in ended:
            self._settler.put(Settlement(token=claim.token, letter=each))
        if ended:
            log.info("letters_suppressed", letters=len(ended))
        kept = [index for index, each in enumerate(moved) if not each.status.final]
        return Claim(
            token=claim.token,
            letters=tuple([moved[index] for index in kept]),
            places=tuple([claim.places[index] for index in kept]) if claim.places else (),
        )

    def _crowded(self) -> bool:
        """Whether the letters in flight take all the memory that they may."""
        crowd = self._in_flight.bytes + self._settler.unreported_bytes >= BYTES_IN_FLIGHT
        if crowd and not self._crowd:
            self.held_up += 1
        self._crowd = crowd
        return crowd

    def _release(self, letters: Sequence[tuple[str, Letter]]) -> None:
        by_token: dict[str, list[str]] = {}
        for token, letter in letters:
            if self._in_flight.token(letter.id) == token:
                by_token.setdefault(token, []).append(letter.id)
        for token, ids in by_token.items():
            self._settler.release(token, ids)
