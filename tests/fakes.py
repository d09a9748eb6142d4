"""Doubles of the record source and sink, and of a queue that goes away, for unit tests of the loops."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailsender.model.errors import TooLarge, Unavailable
from mailsender.model.letter import Claim, FreshClaim, Letter
from mailsender.model.records import Landed, Outgoing, Record
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.port import Inserted
from tests.clocks import ManualClock


class FakeSource:
    """Hands out scripted fetches; notes every call in `calls` and every commit in `commits`."""

    def __init__(self, clock: ManualClock, *fetches: Sequence[Record]) -> None:
        self.clock = clock
        self.fetches = deque(fetches)
        self.commits: list[dict[tuple[str, int], int]] = []
        self.notes: dict[tuple[str, int], str] = {}
        self.confirms: deque[bool] = deque()
        self.calls: list[str] = []
        self.on_empty: Callable[[], None] = lambda: None
        self.on_idle: Callable[[], None] = lambda: None
        self.trouble = ""
        self.lost = 0
        self.generation = 0

    async def open(self) -> None:
        self.calls.append("open")

    async def fetch(self, timeout: float) -> list[Record]:
        await asyncio.sleep(0)
        if self.fetches:
            return list(self.fetches.popleft())
        self.clock.forward(timeout)
        self.on_empty()
        return []

    async def idle(self, timeout: float) -> None:
        await asyncio.sleep(0)
        self.calls.append("idle")
        self.clock.forward(timeout)
        self.on_idle()

    async def commit(
        self,
        offsets: Mapping[tuple[str, int], int],
        notes: Mapping[tuple[str, int], str] | None = None,
    ) -> bool:
        await asyncio.sleep(0)
        confirmed = self.confirms.popleft() if self.confirms else True
        self.calls.append("commit" if confirmed else "commit unconfirmed")
        if confirmed:
            self.commits.append(dict(offsets))
            self.notes.update(notes or {})
        return confirmed

    def lag(self) -> dict[tuple[str, int], int]:
        return {}

    async def close(self) -> None:
        self.calls.append("close")


class FakeOwner:
    """Takes `room` letters from their insertion on; notes what it got, and how often others were
    announced."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.nudges = 0
        self.claims: list[Claim] = []
        self.lost: list[str] = []

    async def fresh_claims(self, letters: Sequence[Letter]) -> list[FreshClaim]:
        if not self.room:
            return []
        return [FreshClaim(token=f"claim {len(self.claims)}", limit=min(len(letters), self.room))]

    def take_fresh(
        self, claims: Sequence[FreshClaim], letters: Sequence[Letter], found: Sequence[Inserted]
    ) -> None:
        (claim,) = claims
        mine = [letter for letter, what in zip(letters, found, strict=True) if what is Inserted.CLAIMED]
        self.claims.append(Claim(token=claim.token, letters=tuple(mine)))
        self.room -= len(mine)

    def lose_fresh(self, claims: Sequence[FreshClaim]) -> None:
        self.lost += [each.token for each in claims]

    def nudge(self) -> None:
        self.nudges += 1


class FakeSink:
    """Keeps what is published; `away` makes it Unavailable, records beyond `largest` bytes are TooLarge."""

    def __init__(self, *, largest: int = 1_000_000) -> None:
        self.largest = largest
        self.away = False
        self.ailing: set[str] = set()
        self._noticed = False
        self.published: list[Outgoing] = []
        self.calls: list[int] = []
        self.refuse: Callable[[Outgoing], Exception | None] = lambda _: None
        self.trouble = ""

    async def open(self) -> None:
        pass

    def trouble_with(self, topic: str) -> str:
        return self.trouble or ("no broker answers" if self._noticed or topic in self.ailing else "")

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        await asyncio.sleep(0)
        self.calls.append(len(records))
        self._noticed = self.away
        # As the real one may: the same error for all.
        gone = Unavailable("no broker answers")
        return [gone if self.away else self._take(record) for record in records]

    def _take(self, record: Outgoing) -> Landed | Exception:
        if (error := self.refuse(record)) is not None:
            return error
        size = len(record.key or b"") + len(record.value or b"")
        size += sum(len(name) + len(value) for name, value in record.headers)
        if size > self.largest:
            return TooLarge(f"{size} bytes")
        self.published.append(record)
        return Landed(topic=record.topic, partition=0, offset=len(self.published) - 1)

    async def close(self) -> None:
        pass


class FlakyQueue(MemoryQueue):
    """A queue in memory whose calls fail as many times as `failures` says, call by call."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.failures: dict[str, int] = {}
        self.inserts: list[list[str]] = []
        self.kept: list[Record] = []

    def _maybe_fail(self, call: str) -> None:
        if self.failures.get(call, 0) > 0:
            self.failures[call] -= 1
            raise Unavailable("no primary")

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        await asyncio.sleep(0)
        self._maybe_fail("insert")
        self.inserts.append([letter.id for letter in letters])
        return await super().insert(letters, claims)

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        await asyncio.sleep(0)
        self._maybe_fail("acknowledge")
        await super().acknowledge(letters)

    async def unreported(self, older_than: float, limit: int) -> list[Letter]:
        self._maybe_fail("unreported")
        return await super().unreported(older_than, limit)

    async def keep_record(self, record: Record, reason: str) -> str:
        self._maybe_fail("keep_record")
        self.kept.append(record)
        return await super().keep_record(record, reason)


def record(value: bytes | None, **changes: Any) -> Record:
    """A record of the in-topic."""
    told = {"topic": "in", "partition": 0, "offset": 0, "timestamp": -1, "key": b"k", **changes}
    return Record(value=value, **told)
