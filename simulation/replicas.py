"""Processes of the service in a world: started, killed, frozen, told to stop."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from unittest import mock

from mailsender.journal.port import Journal, NoJournal
from mailsender.routing.fleet import RelayParts
from mailsender.routing.plan import Plan
from mailsender.service import Parts, Replica
from mailsender.settings.environment import Settings
from simulation.journals import Disk, DiskJournal
from simulation.loop import Process, VirtualLoop, context_of
from simulation.relays import ScriptedRelay
from simulation.store import Store, WorldClock
from simulation.topic import Broker, Sink, Source

SETTINGS: Mapping[str, object] = {
    "smtp_host": "relay.example.test",
    "smtp_from": "robot@example.test",
    "kafka_brokers": "nowhere:1",
    "mongodb_uri": "mongodb://nowhere/mts",
    "letter_text_from_html": False,
}


def settings_of(changes: Mapping[str, object]) -> Settings:
    """Settings of a world, whatever the environment of this process says."""
    with mock.patch.dict(os.environ, {}, clear=True):
        return Settings(**{**SETTINGS, **changes})  # type: ignore[arg-type]


class _Nobody:
    """Nobody listens to people."""

    async def close(self) -> None:
        pass


class Running:
    """A process of the service. `ended` is its exit status, None while it has none."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        store: Store,
        broker: Broker,
        relays: Mapping[str, ScriptedRelay],
        plan: Plan,
        settings: Settings,
        chance: random.Random,
        disk: Disk | None,
        gone: Callable[[Running], None],
    ) -> None:
        self.process = process = Process(name)
        self.ended: int | None = None
        self.ended_at = float("inf")
        self.draining = False
        self.relays = relays
        self._loop = loop
        self._broker = broker
        self._gone = gone
        seat = store.seat(process)
        journal: Journal = DiskJournal(disk, process) if disk is not None else NoJournal()
        parts = Parts(
            queue=seat.queue,
            source=Source(broker, process),
            sink=Sink(broker, process),
            relays={each: RelayParts(relays[each], seat.slots(each)) for each in relays},
            journal=journal,
        )
        context = context_of(process)
        self.replica: Replica = context.run(
            Replica, settings, parts, WorldClock(loop), listen=_listen, plan=plan, chance=chance
        )
        # It looks twenty times a second whether the machine is too slow, which here it never is.
        self.replica.watchdog = _NoWatchdog()  # type: ignore[assignment]
        self._task = context.run(loop.create_task, self._run())

    async def _run(self) -> None:
        status = await self.replica.run()
        if not self.process.dead:
            self.ended, self.ended_at = status, self._loop.time()
            self._gone(self)

    @property
    def alive(self) -> bool:
        """Whether it is there at all, frozen or not."""
        return self.ended is None and not self.process.dead

    def kill(self) -> None:
        """End it without a word, as SIGKILL does: what it holds is lost, and its connections end."""
        if not self.alive:
            return
        self.process.dead = True
        for each in self.relays.values():
            each.cut(self.process)
        self._broker.silent(self.process)
        self._loop.thaw(self.process)
        self._task.cancel()

    def freeze(self, seconds: float) -> None:
        """Give it no turn for a while, as SIGSTOP does. Its connections stay."""
        if self.alive and not self.process.frozen:
            self.process.frozen = True
            self._broker.silent(self.process)
            self._loop.world(self._loop.time() + seconds, self._loop.thaw, self.process)

    def drain(self) -> None:
        """Tell it to stop, as SIGTERM does."""
        if self.alive and not self.draining:
            self.draining = True
            context_of(self.process).run(self.replica.on_signal, "SIGTERM")

    def troubles(self) -> list[str]:
        """What it says of itself that must never be: loops that failed."""
        return [
            f"{self.process.name}: the {each.name} loop failed: {each.error}"
            for each in self.replica.supervisor.states
        ]

    async def gone(self) -> None:
        """Wait until nothing of it is left."""
        await asyncio.wait([self._task])


class _NoWatchdog:
    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


async def _listen(replica: Replica) -> _Nobody:
    del replica
    return _Nobody()
