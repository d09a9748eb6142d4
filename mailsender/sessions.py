"""The session of one worker: opened when it is needed, replaced when it is worn or gone."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import structlog

from mailsender.ports import Clock, Relay, RelayAway, Session
from mailsender.waiting import first_of, pause

log = structlog.get_logger()

FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0
"""Seconds between two tries to reach a relay that is away."""


LAST_MOMENT = 1.0
"""Seconds for a session in the making to be taken down at a stop."""


class Stopped(Exception):  # noqa: N818  an answer, not a mistake
    """It is time to stop, and what is asked for would still take a while."""


@dataclass(slots=True)
class RelayState:
    """What all workers together know of the relay; `busy` counts the sessions that carry something now."""

    name: str
    open_sessions: int = 0
    busy: int = 0
    trouble: str = ""
    phase: str = ""
    since: float | None = None  # epoch seconds of the first failure in a row
    connected_ever: bool = False

    @property
    def away(self) -> bool:
        """Whether no session is open and the last try to open one failed."""
        return bool(self.trouble) and self.open_sessions == 0


class OwnSession:
    """At most one open session, shared by the lanes of one worker.

    After `share` transactions (0 = no limit) it is replaced, when those under way have ended. `stopping` ends
    all waiting for a relay that is away.
    """

    def __init__(
        self,
        relay: Relay,
        state: RelayState,
        clock: Clock,
        *,
        share: int,
        chance: random.Random,
        stopping: asyncio.Event,
    ) -> None:
        self._relay = relay
        self._state = state
        self._clock = clock
        self._share = share
        self._chance = chance
        self._stopping = stopping
        self._session: Session | None = None
        self._fitting = asyncio.Lock()
        self._carried = 0
        self._worn = False
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.deep = asyncio.Event()

    @property
    def warm(self) -> Session | None:
        """The session, when it needs no second look."""
        session = self._session
        return session if session is not None and not self._worn and session.warm else None

    @property
    def open(self) -> bool:
        """Whether there is one."""
        return self._session is not None

    async def have(self) -> bool:
        """Whether it is there and fit; opens one, trying again with backoff. False: it is time to stop."""
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            try:
                await self.fit()
            except Stopped:
                return False
            except RelayAway as error:
                self.note_away(error)
            else:
                return True
            await pause(self._stopping, backoff * (0.75 + self._chance.random() / 2))
            backoff = min(LAST_BACKOFF, backoff * 2)
        return False

    async def fit(self) -> Session:
        """One that can carry a transaction now.

        Raises:
            RelayAway: none can be opened.
            Stopped: it is time to stop, and there is none yet.
        """
        async with self._fitting:
            if self._session is not None and self._worn:
                await first_of(self._quiet, self._stopping)
                if not self._quiet.is_set():
                    raise Stopped
                await self.close()
            if self._session is not None and not await self._session.ready():
                await self.close()
            if self._session is None:
                self._session = await self._opened()
                self._carried, self._worn = 0, False
                self._state.open_sessions += 1
                self._note_there()
                if self._session.depth > 1:
                    self.deep.set()
            return self._session

    async def _opened(self) -> Session:
        """A new session, unless it is time to stop before there is one: its opening may take minutes."""
        opening = asyncio.ensure_future(self._relay.connect())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            opening.cancel()
            raise
        finally:
            stop.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening}, timeout=LAST_MOMENT)
            raise Stopped
        return opening.result()

    def enter(self) -> None:
        """A transaction begins."""
        self._carried += 1
        self._worn = self._worn or bool(self._share and self._carried >= self._share)
        self._under_way += 1
        self._state.busy += self._under_way == 1
        self._quiet.clear()

    def leave(self) -> None:
        """It has ended."""
        self._under_way -= 1
        if not self._under_way:
            self._state.busy -= 1
            self._quiet.set()

    def retire(self) -> None:
        """Carry nothing more over it; what is under way may end."""
        self._worn = True

    def abort(self) -> None:
        """Cut it now."""
        if self._session is not None:
            self._session.abort()

    async def close_if_idle(self) -> None:
        """Close it unless a transaction is under way."""
        if not self._under_way:
            await self.close()

    async def close(self, session: Session | None = None) -> None:
        """Close it; with `session` only if that is still the one."""
        mine = self._session
        if mine is None or (session is not None and session is not mine):
            return
        self._session = None
        self.deep.clear()
        self._state.open_sessions -= 1
        await mine.close()

    # --- what is known of the relay --------------------------------------------------------------

    def note_away(self, error: RelayAway) -> None:
        """Say it when the relay goes away, and keep why."""
        state = self._state
        if not state.trouble:
            state.since = self._clock.epoch()
            log.warning(
                "relay_away" if state.open_sessions == 0 else "relay_refuses_session",
                relay=state.name,
                phase=error.phase,
                code=error.code,
                error=str(error),
                action="tried again with backoff; letters wait and no attempt is counted",
            )
        state.trouble, state.phase = str(error), error.phase

    def _note_there(self) -> None:
        state = self._state
        if state.trouble or not state.connected_ever:
            away = round(self._clock.epoch() - state.since, 1) if state.since else 0.0
            log.info("relay_answers", relay=state.name, after_seconds=away)
        state.connected_ever = True
        state.trouble, state.phase, state.since = "", "", None
