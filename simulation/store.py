"""The store that all replicas share, MongoDB's part: it can be away, and lose its answers.

A call takes a while on the wire, is carried out at once and whole, and its answer may be lost: whoever asked
does not know then. What was on its way when its process died is carried out all the same.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Protocol, TypeVar, cast

from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Status
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.port import Queue
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.port import SlotStore
from simulation.loop import Process, VirtualLoop

T = TypeVar("T")

START = 1_800_000_000.0
"""Epoch seconds at which every world begins."""

OPERATION = 10.0
"""Seconds after which a driver gives an operation up."""


class WorldClock:
    """The clock of a machine in the world; `ahead` is by how many seconds its date is wrong."""

    def __init__(self, loop: VirtualLoop, ahead: float = 0.0) -> None:
        self.monotonic = loop.time
        self._loop = loop
        self.ahead = ahead

    def epoch(self) -> float:
        """See `mailsender.model.clock.Clock`."""
        return START + self._loop.time() + self.ahead


@dataclass(slots=True)
class Trouble:
    """How the store is ill: `away` answers nothing, `lost` is the part of the answers that never arrive."""

    away: bool = False
    lost: float = 0.0


class Observer(Protocol):
    """Who is told what the store has done, before anybody else learns of it."""

    def done(self, process: Process, call: str, arguments: tuple[Any, ...], result: Any) -> None:
        """A call was carried out for a process."""
        ...


class Store:
    """The queue and the slots of each relay, and how they are reached."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, observer: Observer) -> None:
        self.loop = loop
        self.chance = chance
        self.clock = WorldClock(loop)
        self.queue = MemoryQueue(self.clock)
        self.slots: dict[str, SlotStore] = {}
        self.trouble = Trouble()
        self.latency = 0.004
        self._observer = observer
        self._dues: list[float] = []

    def slots_of(self, relay: str) -> SlotStore:
        """The slots of a relay."""
        return self.slots.setdefault(relay, MemorySlotStore(self.clock))

    def seat(self, process: Process) -> Seat:
        """The way to the store for a process."""
        return Seat(self, process)

    # --- for those who look on -------------------------------------------------------------------

    def letter(self, letter_id: str) -> Letter | None:
        """A letter as it is now."""
        return at_once(self.queue.get(letter_id))

    def holds(self, token: str, letter_id: str) -> bool:
        """Whether a letter is under this token now."""
        return bool(at_once(self.queue.held({token: [letter_id]})))

    def claims(self, replica: str) -> int:
        """How many letters are under tokens of a replica."""
        return sum(map(len, at_once(self.queue.claims_of(replica)).values()))

    @property
    def processing(self) -> int:
        """How many letters are somebody's: counted there already, and asked each time that time goes on."""
        return self.queue._counts[Status.PROCESSING]

    @property
    def awaiting(self) -> int:
        """How many letters wait, counted likewise."""
        return self.queue._counts[Status.AWAITING]

    def next_due(self, now: float) -> float:
        """When the next letter comes due that was put off; inf where none is."""
        while self._dues and self._dues[0] <= now:
            heapq.heappop(self._dues)
        return self._dues[0] if self._dues else math.inf

    def done(self, process: Process, call: str, arguments: tuple[Any, ...], result: Any) -> None:
        """Note what was done, and tell whoever looks on."""
        if call == "settle":
            now = self.loop.time()
            for each in arguments[0]:
                if each.delay and each.letter.status is Status.AWAITING:
                    heapq.heappush(self._dues, now + each.delay)
        self._observer.done(process, call, arguments, result)


class Seat:
    """A process's way to the store. What it asks for once it is dead is never asked."""

    def __init__(self, store: Store, process: Process) -> None:
        self._store = store
        self._process = process
        self.names = {""}
        self.queue = cast("Queue", _Way(self, store.queue))

    def slots(self, relay: str) -> SlotStore:
        """The way to a relay's slots."""
        return cast("SlotStore", _Way(self, self._store.slots_of(relay)))

    async def ask(
        self, name: str, call: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **more: Any
    ) -> Any:
        """Have the store do something; waits for its answer.

        Raises:
            Unavailable: there is none.
        """
        store, loop = self._store, self._store.loop
        if self._process.dead:
            raise Unavailable("this process is dead")
        answer: asyncio.Future[Any] = loop.create_future()
        asked = loop.time()
        at = asked + store.latency * (0.5 + store.chance.random())
        loop.world(at, self._carry_out, name, partial(call, *args, **more), args, answer)
        result = await answer
        if is_dataclass(result) and hasattr(result, "asked"):  # what slots are timed by is the asker's clock
            return replace(cast("Any", result), asked=asked, answered=loop.time())
        return result

    def _carry_out(
        self,
        name: str,
        call: Callable[[], Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        answer: asyncio.Future[Any],
    ) -> None:
        store = self._store
        if store.trouble.away:
            wait = OPERATION if store.chance.random() < 0.5 else 0.01
            store.loop.world(store.loop.time() + wait, _fail, answer, "nobody answers")
            return
        if name == "join":
            self.names.add(args[0])
        # It serves one process alone, by its contract: here it is asked in the name of each in turn.
        store.queue._name, store.queue._names = args[0] if name == "join" else "", self.names
        try:
            result = at_once(call())
        except Exception as error:  # noqa: BLE001  it is the asker's
            if not answer.done():
                answer.set_exception(error)
            return
        lost = store.chance.random() < store.trouble.lost
        store.done(self._process, name, args, result)
        if lost:
            store.loop.world(store.loop.time() + OPERATION, _fail, answer, "the answer was lost")
        elif not answer.done():
            answer.set_result(result)


class _Way:
    """A port whose calls all go over a seat."""

    def __init__(self, seat: Seat, target: object) -> None:
        self._seat = seat
        self._target = target

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._target, name)
        # What is no coroutine asks nobody; a store beside another one is reached over the same seat.
        way = partial(self._seat.ask, name) if iscoroutinefunction(target) else self._without_asking
        call = partial(way, target)
        self.__dict__[name] = call
        return call

    def _without_asking(self, target: Callable[..., Any], *args: Any) -> Any:
        found = target(*args)
        return None if found is None else _Way(self._seat, found)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        return cast("T", ended.value)
    work.close()
    raise RuntimeError("what is in memory waits for nothing")


def _fail(answer: asyncio.Future[Any], why: str) -> None:
    if not answer.done():
        answer.set_exception(Unavailable(f"MongoDB: {why}"))


Shelf = Mapping[str, SlotStore]
