"""The broker's part: one partition of letters, which one member of the group reads, and the reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from mailsender.aio import pause
from mailsender.model.errors import Unavailable
from mailsender.model.records import Landed, Outgoing, Record
from simulation.loop import Process, VirtualLoop
from simulation.store import START

LETTERS = "mts-to-mailsender"

SESSION = 30.0
"""Seconds of silence after which a member of the group is put out."""

FETCHED = 10
"""Records that one fetch brings at most."""

ROUND_TRIP = 0.004


class Broker:
    """Kafka, as far as the service sees it; `away` answers nothing. `told` is given each report."""

    def __init__(self, loop: VirtualLoop, told: Callable[[Process, Outgoing], None]) -> None:
        self.loop = loop
        self.told = told
        self.away = False
        self.committed = 0
        self.records: list[Record] = []
        self.members: list[Source] = []

    def publish(self, value: bytes, key: bytes) -> None:
        """A publisher's record."""
        at = int((START + self.loop.time()) * 1000)
        self.records.append(
            Record(topic=LETTERS, partition=0, offset=len(self.records), timestamp=at, key=key, value=value)
        )
        for each in self.members:
            each.news.set()

    @property
    def reader(self) -> Source | None:
        """The member to whom the partition belongs."""
        return self.members[0] if self.members else None

    def silent(self, process: Process) -> None:
        """A process answers no more: unless it does again soon, the partition is somebody else's."""
        self.loop.world(self.loop.time() + SESSION, self._put_out, process)

    def _put_out(self, process: Process) -> None:
        for each in [each for each in self.members if each.process is process]:
            if process.dead or process.frozen:
                self.leave(each)

    def leave(self, member: Source) -> None:
        """A member is of the group no more; the next one reads from what was committed."""
        if member in self.members:
            was_reader = self.reader is member
            self.members.remove(member)
            if was_reader and self.reader is not None:
                self.reader.at = self.committed
                self.reader.generation += 1
                self.reader.news.set()


class Source:
    """`RecordSource` of one process."""

    trouble = ""
    lost = 0

    def __init__(self, broker: Broker, process: Process) -> None:
        self.process = process
        self.generation = 0
        self.news = asyncio.Event()
        self.at = 0
        self._broker = broker

    async def open(self) -> None:
        """Join the group."""
        if self.process.dead:
            return
        self.at = self._broker.committed
        self.generation += 1
        self._broker.members.append(self)

    async def fetch(self, timeout: float) -> list[Record]:
        """See `RecordSource.fetch`. Who was put out while it was frozen comes back as a new member."""
        broker = self._broker
        if self not in broker.members:
            await self.open()
        self.news.clear()
        if broker.away or broker.reader is not self or self.at >= len(broker.records):
            await pause(self.news, timeout)
        if broker.away or broker.reader is not self:
            return []
        found = broker.records[self.at : self.at + FETCHED]
        self.at += len(found)
        return found

    async def idle(self, timeout: float) -> None:
        """See `RecordSource.idle`."""
        await asyncio.sleep(timeout)

    async def commit(
        self,
        offsets: Mapping[tuple[str, int], int],
        notes: Mapping[tuple[str, int], str] | None = None,
    ) -> bool:
        """See `RecordSource.commit`."""
        del notes
        await _later(self._broker.loop)
        if self.process.dead or self._broker.away:
            return False
        if self._broker.reader is self:
            self._broker.committed = max(self._broker.committed, *offsets.values())
        return True

    def lag(self) -> dict[tuple[str, int], int]:
        """See `RecordSource.lag`."""
        return {}

    async def close(self) -> None:
        """Leave the group."""
        if not self.process.dead:
            self._broker.leave(self)


class Sink:
    """`RecordSink` of one process."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._process = process
        self._noticed = False

    @property
    def trouble(self) -> str:
        """See `RecordSink.trouble`."""
        return "no broker answers" if self._noticed else ""

    def trouble_with(self, topic: str) -> str:
        """See `RecordSink.trouble_with`."""
        del topic
        return self.trouble

    async def open(self) -> None:
        """See `RecordSink.open`."""

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        """See `RecordSink.publish`. What is on its way when its process dies comes all the same."""
        broker = self._broker
        if self._process.dead:
            return [Unavailable("this process is dead")] * len(records)
        if broker.away:
            self._noticed = True
            return [Unavailable("no broker answers")] * len(records)
        self._noticed = False
        arrived: asyncio.Future[None] = broker.loop.create_future()
        broker.loop.world(broker.loop.time() + ROUND_TRIP, self._arrive, records, arrived)
        await arrived
        return [Landed(topic=each.topic, partition=0, offset=0) for each in records]

    def _arrive(self, records: Sequence[Outgoing], arrived: asyncio.Future[None]) -> None:
        for each in records:
            self._broker.told(self._process, each)
        if not arrived.done():
            arrived.set_result(None)

    async def close(self) -> None:
        """See `RecordSink.close`."""


async def _later(loop: VirtualLoop) -> None:
    """One round trip, to the moment."""
    arrived: asyncio.Future[None] = loop.create_future()
    loop.world(loop.time() + ROUND_TRIP, _arrive, arrived)
    await arrived


def _arrive(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)
