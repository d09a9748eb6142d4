"""Has letters come soon that were put off for what holds no more, in the background.

A letter that waits for its destination's turn, or for the end of an order, has the time in its document that
followed from the limits and orders of then. After the start, a change of the file, or an order that was
lifted, those whose wait has lost its reason are due at once. Who has them then looks at what holds now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from mailsender.aio import first_of, pause
from mailsender.message.mail import Mail
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Recipient
from mailsender.queue.port import Queue
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route
from mailsender.sending.orders import IN_TURN, UNASKED, in_turn, unasked
from mailsender.sending.scopes import recipient_rests, sender_rests
from mailsender.sending.tools import Compose

log = structlog.get_logger()

SOON = 1.0
"""Seconds after a change until the look: by then what was in hand is settled."""

HEARD = 10.0
"""Seconds after an order was lifted until a second look: by then the other replicas know, and put off none of
the letters again that were due at the first."""

REPLACED = 150.0
"""The same after a start or a change of the file: one that goes by the old file may have to end its drain."""

AHEAD = 2.0
"""Seconds by which a letter's time has to be ahead: what is due sooner comes by itself."""

MOST = 10_000
"""Letters that are found at once."""

PAGE = 200
"""Letters read at once, if they are not large."""

TICK = 0.001
"""Seconds to which the queue's times are exact."""

LAST_BACKOFF = 300.0
"""Seconds between two looks at most while the queue does not answer."""


def freed(letter: Letter, relays: Sequence[Relay], mail: Mail | None, now: float) -> bool:
    """Whether what a letter waits for holds no more for somebody in it; `now` is monotonic.

    Not so where a relay said something of one, or nothing was told of one yet: its time is its own.
    """
    pending = [each for each in letter.recipients if each.open]
    if not all(unasked(each.result) for each in pending):
        return False
    return any(not _holds(each, relays, mail, now) for each in pending)


def _holds(recipient: Recipient, relays: Sequence[Relay], mail: Mail | None, now: float) -> bool:
    text = "" if recipient.result is None else recipient.result.text
    if text.startswith(IN_TURN):
        return any(text == in_turn(relay, recipient.address) for relay in relays)
    return any(
        sender_rests(relay, mail, now) is not None
        or recipient_rests(relay, recipient.address, now) is not None
        for relay in relays
    )


class Hastener:
    """Looks after the start, and after each `ask`; `moved` is told of routes whose letters are due."""

    def __init__(
        self,
        queue: Queue,
        clock: Clock,
        composer: Compose,
        *,
        routes: Callable[[], Sequence[Route]],
        moved: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._composer = composer
        self._routes = routes
        self._moved = moved
        self._stop = asyncio.Event()
        self._asked = asyncio.Event()
        self._looks: list[float] = []  # monotonic: when to look
        self.ask()

    def ask(self, *, heard: float = REPLACED) -> None:
        """Have it look soon, and again `heard` seconds from now: by then all replicas know of the change."""
        now = self._clock.monotonic()
        self._looks += [now + SOON, now + heard]
        self._asked.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look when it is time to, until `stop`."""
        self._stop = stop
        while not stop.is_set():
            self._asked.clear()
            now = self._clock.monotonic()
            if any(each <= now for each in self._looks):
                self._looks = [each for each in self._looks if each > now]
                await self._looked()
            else:
                left = min(self._looks) - now if self._looks else None
                await first_of(stop, self._asked, timeout=left)

    async def _looked(self) -> None:
        """Look once; as long as the queue is away, or it is not known what was ordered, later."""
        backoff = SOON
        while not self._stop.is_set():
            try:
                if self._known():
                    await self.look()
                    return
            except Unavailable:
                log.debug("hastening_waits", action="looked for again soon")
            await pause(self._stop, backoff)
            backoff = min(LAST_BACKOFF, 2 * backoff)

    def _known(self) -> bool:
        relays = {relay for route in self._routes() for relay in route.relays}
        return all(
            relay.limiter.knows and (relay.destinations is None or relay.destinations.knows)
            for relay in relays
        )

    async def look(self) -> None:
        """Go once through the letters that no relay was asked for.

        Raises:
            Unavailable: the queue is away.
        """
        for route in self._routes():
            after, full, hastened = self._clock.epoch() + AHEAD, True, 0
            while full and not self._stop.is_set():
                found = await self._queue.put_off(route.name, UNASKED, after, MOST)
                full = len(found) == MOST
                if found:
                    hastened += await self._go_through([each for each, _ in found], route)
                    # Several may be due in the same moment, and those that hold still are found again.
                    after = max(after + TICK, found[-1][1] - 2 * TICK)
            if hastened:
                log.info("letters_hastened", letters=hastened, route=route.name)
                self._moved(route.name)

    async def _go_through(self, ids: Sequence[str], route: Route) -> int:
        """Have those of these letters come that wait for nothing any more; how many do."""
        due: list[str] = []
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            while page and not self._stop.is_set():
                letters = await self._queue.look_at(page)
                now = self._clock.monotonic()
                due += [each.id for each in letters if freed(each, route.relays, self._mail(each), now)]
                # Large ones do not come all at once.
                page = page[page.index(letters[-1].id) + 1 :] if letters else []
                await asyncio.sleep(0)  # a queue in memory waits for nothing: others have their turn
        return await self._queue.hasten(due) if due else 0

    def _mail(self, letter: Letter) -> Mail | None:
        """What its further keys say; who has it next says what is wrong with them."""
        try:
            return self._composer.mail(letter) if letter.mail else None
        except ValueError:
            return None
