"""Keeps relays that limit connections over all replicas within this replica's share of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Unavailable
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue
from mailsender.ratelimit.connections import ConnectionShare
from mailsender.routing.relay import Relay

LOOK = 5.0
"""Seconds between two looks who lives: several in the life of a replica, as `ConnectionShare` asks for."""

LOOKS = 3
"""Looks that there have to be in the time for which a share has to stand before it is used."""


class Sharing:
    """Looks who lives, and lets each relay have as many sessions as are this replica's.

    Until the first look it has none. `life` is after how many seconds of silence a replica counts as dead.
    """

    def __init__(
        self, queue: Queue, in_flight: InFlight, clock: Clock, relays: Sequence[Relay], *, life: float
    ) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._clock = clock
        patience = max(life, LOOKS * LOOK)
        self.shares = {
            relay: ConnectionShare(relay.connections_total, patience=patience)
            for relay in relays
            if relay.connections_total
        }
        for relay in self.shares:
            relay.pool.allow(0)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        while not stop.is_set():
            await self.look()
            await pause(stop, LOOK)

    async def look(self) -> None:
        """Look once. Where nobody can say who lives, the share shrinks when it was last seen too long ago."""
        began = self._clock.monotonic()
        try:
            living = await self._queue.living()
        except Unavailable:  # whoever claims says so
            living = None
        for relay, share in self.shares.items():
            if living is not None:
                share.see(self._in_flight.replica, living, began)
            allowed = min(relay.policy.sessions.sessions, share.allowed(self._clock.monotonic()))
            if allowed != relay.pool.window[1]:
                relay.pool.allow(allowed)
