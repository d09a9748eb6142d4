"""Keeps the loops of a service running: one that fails is begun again, and the log says what that means.

What cannot be mended by beginning again ends in a drain with the reason, not in a service that looks alive
and has stopped doing a part of its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import structlog

from mailsender.ports import Clock
from mailsender.waiting import pause

log = structlog.get_logger()

FIRST_BACKOFF: Final = 0.5
LAST_BACKOFF: Final = 10.0
"""Seconds from a failure to the next beginning; doubled for each failure in a row."""

FAILURES: Final = 8
"""Failures in a row after which a loop is given up: some 40 seconds, in which what passes has passed."""

CALM: Final = 10.0
"""Seconds for which a loop has to run until it counts as going on, and its failures as over."""

Loop: TypeAlias = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """A loop that has failed at least once: how often, when last (epoch seconds), why, and what it is at.

    `state` is ``given up``, ``waiting`` to be begun again, ``trying`` until it has run for `CALM` seconds, or
    ``running``: of loops that share a name, the gravest.
    """

    name: str
    failures: int
    since: float
    error: str
    state: str


async def once(name: str, loop: Loop, stop: asyncio.Event, loss: str) -> None:  # noqa: ARG001  as `Supervisor.keep`
    """Run a loop that nobody watches: what it raises goes to the caller."""
    await loop()


Keep: TypeAlias = Callable[[str, Loop, asyncio.Event, str], Coroutine[Any, Any, None]]
"""How a loop is run: `Supervisor.keep` in the service, `once` where nobody watches."""


class Supervisor:
    """Runs loops, and begins them again.

    `give_up` is called with a loop's name and what it failed with when it failed `FAILURES` times in a row,
    or when it was to end anyway.
    """

    def __init__(self, clock: Clock, give_up: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._give_up = give_up
        self._loops: dict[str, dict[object, LoopState]] = {}  # by name, which several may share

    @property
    def states(self) -> list[LoopState]:
        """The loops that have failed since the start; of those that share a name the gravest, and why."""
        return [_gravest(loops.values()) for loops in self._loops.values()]

    @property
    def troubles(self) -> list[str]:
        """A sentence for each loop that does not work now, or has only just been begun again."""
        return [
            f"the {state.name} loop failed and is {_DOING[state.state]}: {state.error}"
            for state in self.states
            if state.state != "running"
        ]

    async def keep(self, name: str, loop: Loop, stop: asyncio.Event, loss: str) -> None:
        """Run `loop`, and again when it raises or ends, until `stop` is set.

        Args:
            name: for the log and `/status`; loops that do the same may share one.
            loop: makes the coroutine; it has to leave things so that it can be called again.
            stop: set when the loop is to end; a loop that fails after that is not begun again.
            loss: what does not happen while it does not run.
        """
        failures, one = 0, object()
        while True:
            calm = asyncio.get_running_loop().call_later(CALM, self._goes_on, name, one) if failures else None
            began = self._clock.monotonic()
            error = await _run(loop)
            if calm is not None:
                calm.cancel()
            if error is None and stop.is_set():
                return
            failures = 1 if self._clock.monotonic() - began >= CALM else failures + 1
            reason = _reason(error)
            last = failures >= FAILURES or stop.is_set()
            backoff = min(LAST_BACKOFF, FIRST_BACKOFF * 2 ** (failures - 1))
            log.error(
                "loop_failed",
                loop=name,
                error=reason,
                failures=failures,
                meanwhile=loss,
                action="the service drains and exits" if last else f"begun again in {backoff:g} s",
                exc_info=error,
            )
            self._note(name, one, reason, "given up" if last else "waiting")
            if last:
                self._give_up(name, reason)
                return
            await pause(stop, backoff)
            self._note_state(name, one, "trying")

    def _goes_on(self, name: str, one: object) -> None:
        self._note_state(name, one, "running")
        log.info("loop_goes_on", loop=name)

    def _note(self, name: str, one: object, error: str, state: str) -> None:
        loops = self._loops.setdefault(name, {})
        failures = loops[one].failures + 1 if one in loops else 1
        now = self._clock.epoch()
        loops[one] = LoopState(name=name, failures=failures, since=now, error=error, state=state)

    def _note_state(self, name: str, one: object, state: str) -> None:
        loops = self._loops[name]
        loops[one] = replace(loops[one], state=state)


def _gravest(loops: Collection[LoopState]) -> LoopState:
    """What is told of loops that share a name: all their failures, what the worst is at, and why."""
    worst = max(loops, key=lambda each: (_GRAVITY.index(each.state), each.since))
    return replace(worst, failures=sum(each.failures for each in loops))


_GRAVITY: Final = ("running", "trying", "waiting", "given up")
_DOING: Final = {"waiting": "begun again soon", "trying": "begun again", "given up": "given up"}


def _reason(error: Exception | None) -> str:
    """A failure's kind; its text may hold what a letter does."""
    if error is None:
        return "it ended by itself"
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return type(error).__name__


def was_cancelled() -> bool:
    """Whether somebody cancelled the task that runs now, and not only what it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _run(loop: Loop) -> Exception | None:
    """What the loop raised, None when it ended.

    A cancellation that nobody asked for, as by a library that cancels what it waits for, is a failure, too.
    """
    try:
        await loop()
    except asyncio.CancelledError:
        if was_cancelled():
            raise
        return RuntimeError("cancelled from within")
    except Exception as error:  # noqa: BLE001  whatever it is, the others go on
        return error
    return None
