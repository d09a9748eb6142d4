"""Has letters wait on routes that are theirs, in the background: after a change, and past what is blocked.

A letter that comes to its turn is looked at then anyway, by its sender. What is looked for here would not
come to it, or not soon: it waits on a route that is gone, or on one over which nothing goes, and would go
over another one, as a whole or with some of its recipients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from mailsender.aio import first_of
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter
from mailsender.queue.port import Queue
from mailsender.routing.table import RouteTable

log = structlog.get_logger()

LOOK = 10.0
"""Seconds between two looks for routes that are gone or blocked; each costs a look into an index."""

SOON = 1.0
"""Seconds after a change until the next look: by then what was claimed for a route that is gone is back."""

AGAIN = 300.0
"""Seconds after which the letters of a route that is blocked still are gone through once more."""

PAGE = 200
"""Letters read at once, if they are not large."""

MOST = 100_000
"""Letters of a route gone through at once. Those that leave it make room for others at the next time."""

Blocked = Callable[[str], bool]
"""Whether letters of a route would only wait now; so of one that this replica does not have."""


def way_of(letter: Letter, table: RouteTable, blocked: Blocked) -> str:
    """The route on which a letter is to wait: one of its own, and if there is one, that is not blocked."""
    pending = letter.pending
    if pending and not table.by_destination:
        return table.of(letter)
    parts = table.parts(letter, pending)
    ways = [letter.route, *parts] if letter.route in parts else [*parts]
    if not ways:
        return letter.route  # nobody is left to be sent to: whoever has it next ends it
    return next((each for each in ways if not blocked(each)), ways[0])


class Rerouter:
    """Looks again and again, and at once after `changed` was set.

    `table` is asked for each time; `moved` is told of routes to which letters came.
    """

    def __init__(
        self,
        queue: Queue,
        clock: Clock,
        *,
        table: Callable[[], RouteTable],
        blocked: Blocked,
        moved: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._table = table
        self._blocked = blocked
        self._moved = moved
        self._known: RouteTable | None = None
        self._looked_at: dict[str, float] = {}  # monotonic: when a blocked route was gone through
        self._stop = asyncio.Event()
        self.changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        self._stop = stop
        while not stop.is_set():
            changed = self.changed.is_set()
            self.changed.clear()
            try:
                await self.look()
            except Unavailable:
                log.debug("rerouting_waits", action="looked for again soon")
            await first_of(stop, self.changed, timeout=SOON if changed else LOOK)

    async def look(self) -> None:
        """Go through the routes that have letters which may have to wait elsewhere.

        Raises:
            Unavailable: the queue is away.
        """
        table = self._table()
        changed = self._known is not None and self._known is not table
        for route in await self._queue.routes():
            if route not in table.names or changed or self._worth(route, table):
                await self._go_through(route, table)
        self._known = table

    def _worth(self, route: str, table: RouteTable) -> bool:
        """Whether a blocked route is to be gone through now: letters may have other ways."""
        if table.plain or not self._blocked(route):
            self._looked_at.pop(route, None)
            return False
        now = self._clock.monotonic()
        if now - self._looked_at.get(route, -AGAIN) < AGAIN:
            return False
        self._looked_at[route] = now
        return True

    async def _go_through(self, route: str, table: RouteTable) -> None:
        ids = await self._queue.waiting(route, MOST)
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            while page and not self._stop.is_set():
                letters = await self._queue.look_at(page)
                await self._move([each for each in letters if each.route == route], route, table)
                # Large ones do not come all at once.
                page = page[page.index(letters[-1].id) + 1 :] if letters else []

    async def _move(self, letters: Collection[Letter], origin: str, table: RouteTable) -> None:
        ways: dict[str, list[str]] = {}
        for each in letters:
            ways.setdefault(way_of(each, table, self._blocked), []).append(each.id)
        for route, ids in ways.items():
            if route == origin or not (moved := await self._queue.move(ids, origin, route)):
                continue
            log.info("letters_rerouted", letters=moved, origin=origin, route=route)
            self._moved(route)
