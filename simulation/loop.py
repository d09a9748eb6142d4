"""An event loop whose time is virtual, and processes in it that can be frozen and killed.

Nothing waits in earnest: when nobody is ready the clock goes on to the next timer. Of two callbacks that are
due at the same time the one that was asked for first comes first, so a world has one history.

Callbacks of a process are told from those of the world by their context. The world's come in time, to the
moment. Those of a process may be a little late, as on any machine: while nothing happens (`slack`) its polls
are gathered, and hours pass in which there is nothing to do but to look whether there is.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")

MOST_TURNS = 200_000
"""Turns of the loop in which time stands still, after which somebody spins: a batch of thousands takes some
hundred."""


class Spins(AssertionError):  # noqa: N818  what is found
    """Something asks for its turn again and again, and time does not go on."""


class Process:
    """What belongs to one process: a frozen one gets no turn, a dead one reaches nothing in the world."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.missed: deque[asyncio.Handle] = deque()


CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the head of this page.

    `slack(due)` says by how many seconds callbacks of processes that are due then may be late. `faults` are
    errors of callbacks and tasks that nobody took.
    """

    def __init__(self, slack: Callable[[float], float] = lambda _: 0.0) -> None:
        super().__init__()
        self._now = 0.0
        self._slack = slack
        self._soon: deque[asyncio.Handle] = deque()
        self._exact: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._late: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._orders = count()
        self._still = 0
        self.faults: list[str] = []
        self.set_exception_handler(self._note_fault)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def world(self, when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call back at `when`, to the moment, on behalf of nobody in the world."""
        return self.call_at(when, callback, *args, context=_WORLD)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_later`."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        if context is None:
            context = copy_context()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heap = self._exact if context.get(CURRENT) is None else self._late
        heapq.heappush(heap, (when, next(self._orders), timer))
        return timer

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on: what it missed comes now."""
        process.frozen = False
        self._soon.extend(process.missed)
        process.missed.clear()

    # --- inside, as `asyncio.BaseEventLoop` calls it ---------------------------------------------------

    def _run_once(self) -> None:
        """One turn: what is ready, or else the next moment at which something is."""
        if not self._soon:
            self._go_on()
        self._still += 1
        if self._still > MOST_TURNS:
            raise Spins(f"at {self._now:.3f} s time stands still; last: {list(self._soon)[:3]}")
        soon = self._soon
        for _ in range(len(soon)):
            handle = soon.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(CURRENT)  # type: ignore[attr-defined]  # typeshed's has it from 3.12 on
            if process is not None and process.frozen:
                process.missed.append(handle)
            else:
                handle._run()

    def _go_on(self) -> None:
        """Let time pass until something is due."""
        exact, late = _first(self._exact), _first(self._late)
        first = min(exact, late)
        if first == math.inf:
            raise Spins(f"at {self._now:.3f} s everybody waits for what never comes")
        now = first
        if late <= exact:
            now = min(exact, late + self._slack(late))
        if now > self._now:
            self._now, self._still = now, 0
        for heap in (self._exact, self._late):
            while heap and heap[0][0] <= now:
                timer = heapq.heappop(heap)[2]
                if not timer._cancelled:
                    self._soon.append(timer)

    def _note_fault(self, _: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
        error = told.get("exception")
        self.faults.append(f"{told.get('message')}: {error!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: it is left out when its time comes."""

    def _write_to_self(self) -> None:
        """Nothing: no other thread is there to wake it."""

    def _process_events(self, event_list: object) -> None:
        """Nothing: there are no sockets."""


def _first(heap: list[tuple[float, int, asyncio.TimerHandle]]) -> float:
    while heap and heap[0][2]._cancelled:
        heapq.heappop(heap)
    return heap[0][0] if heap else math.inf


def _world() -> Context:
    context = copy_context()
    context.run(CURRENT.set, None)
    return context


_WORLD = _world()


def context_of(process: Process) -> Context:
    """A context in which all that is begun belongs to the process."""
    context = copy_context()
    context.run(CURRENT.set, process)
    return context
