"""A world: what is in it, what is done to it, and what became of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from mailsender.model.letter import DEFAULT_ROUTE, Origin
from mailsender.model.records import Outgoing
from mailsender.queue.port import Inserted
from simulation.design import Design
from simulation.journals import Disk
from simulation.judge import Fault, counts, faults
from simulation.ledger import Broken, Ledger, Published, Reported
from simulation.loop import Process, Spins, VirtualLoop
from simulation.manners import Mood
from simulation.relays import ScriptedRelay
from simulation.replicas import Running, settings_of
from simulation.store import START, Store, at_once
from simulation.surroundings import logged, named
from simulation.topic import LETTERS, Broker

PATIENCE = 4 * 86400.0
"""Seconds that a world is given to come to its end once nothing is broken any more: retries come once an
hour, and a quota may have to be waited for."""

FIRST_WAIT, LAST_WAIT = 60.0, 1800.0
"""Seconds between two looks whether it has come to its end."""

QUIET = 1.2
"""Seconds without news after which polls are gathered."""

LONGEST = 900.0
"""Seconds by which a poll may be late while nobody has anything to do."""

DOMAIN = "example.test"
"""That of all people unless it is said otherwise."""

LIFE = 60.0
"""Seconds of silence after which a replica counts as dead, as by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a world. `hours` are simulated, `seconds` real; what is counted says `judge.counts`."""

    faults: tuple[Fault, ...]
    letters: int
    accepted: tuple[int, int, int]
    reports: tuple[int, int, int]
    twice: int
    transactions: int
    hours: float
    seconds: float
    digest: str


class World:
    """A world that runs once. `chance` is what its script draws from."""

    def __init__(self, design: Design, seed: int | str) -> None:
        self.design = design
        self.chance = random.Random(f"script/{seed}")
        self._seed = seed
        self.loop = VirtualLoop(self._slack)
        self.ledger = Ledger()
        self.store = Store(self.loop, random.Random(f"store/{seed}"), self)
        self.broker = Broker(self.loop, self._reported)
        luck = random.Random(f"relays/{seed}")
        self.relays = {
            name: ScriptedRelay(each.traits, self.loop, self.ledger, luck, owns=self.store.holds)
            for name, each in design.lines.items()
        }
        self.disks: dict[str, Disk] = {}
        self.replicas: list[Running] = []
        self._plan = design.plan()
        self._settings = settings_of({"mongodb_lease": LIFE, **design.settings})
        self._names = 0
        self._letters = 0
        self._last = 0.0  # when the last thing happens that is known of
        self._busy_at = 0.0
        self._ill_until = 0.0
        self._shared = any(each.total for each in design.lines.values())
        self._known: dict[str, str] = {}  # processes, and the names that they took
        self._strikes: dict[str, str] = {}

    # --- what a script does ------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    def at(self, when: float, action: Callable[..., object], *args: object) -> None:
        """Do something at that time."""
        self._last = max(self._last, when)
        self.loop.world(when, self._do, action, args)

    def publish(
        self,
        count: int,
        *,
        people: int = 1,
        local: Callable[[int], str] = lambda _: "r",
        stream: str = "",
        domains: Sequence[str] = (DOMAIN,),
    ) -> None:
        """Publish a batch of letters, each to so many people. `local` begins a person's address.

        They are of a stream, whose route has its name where there is one; people are of `domains` in turn.
        """
        offset = len(self.broker.records)
        at = int((START + self.now) * 1000)
        elements: list[dict[str, object]] = []
        more = {"Stream": stream} if stream else {}
        for index in range(count):
            addresses = self._addresses(people, local, domains)
            origin = Origin(topic=LETTERS, partition=0, offset=offset, index=index, timestamp=at)
            self._note(origin.letter_id(), addresses, stream or DEFAULT_ROUTE)
            elements.append({"Addresses": addresses, "Subject": "s", "Body": "b", **more})
        self.broker.publish(orjson.dumps(elements), b"key")

    def start(self, host: str = "") -> Running:
        """Start a replica, on a host where others may have run before."""
        self._names += 1
        host = host or f"host{self._names}"
        disk = self.disks.setdefault(host, Disk()) if self.design.journal else None
        running = Running(
            f"{host}/{self._names}",
            loop=self.loop,
            store=self.store,
            broker=self.broker,
            relays=self.relays,
            plan=self._plan,
            settings=self._settings,
            chance=random.Random(f"replica/{self._seed}/{self._names}"),
            disk=disk,
            gone=self._ended,
        )
        self.replicas.append(running)
        return running

    def living(self) -> list[Running]:
        """Replicas that are there and were not told to stop."""
        return [each for each in self.replicas if each.alive and not each.draining]

    def kill(self, running: Running) -> None:
        """Kill a replica; another one starts on its host soon."""
        if running.alive:
            running.kill()
            self.break_(running.process.name, "killed")
            self.at(
                self.now + 1 + 5 * self.chance.random(), self.start, running.process.name.partition("/")[0]
            )

    def kill_after(self, running: Running, call: str) -> None:
        """Kill a replica when the store has next done a `call` for it, and before it learns of that."""
        self._strikes[running.process.name] = call

    def freeze(self, running: Running, seconds: float) -> None:
        """Freeze a replica for a while."""
        if running.alive and not running.process.frozen:
            running.freeze(seconds)
            self.break_(running.process.name, "frozen", seconds + LIFE)

    def drain(self, running: Running) -> None:
        """Stop a replica politely; another one starts when it is gone."""
        running.drain()

    def store_away(self, seconds: float) -> None:
        """MongoDB is away for a while."""
        self.store.trouble.away = True
        self.break_("", "the store is away", seconds + LIFE)
        self.at(self.now + seconds, self._store_back)

    def store_loses(self, seconds: float, share: float) -> None:
        """A part of MongoDB's answers is lost for a while."""
        self.store.trouble.lost = share
        self.break_("", "the store's answers are lost", seconds + LIFE)
        self.at(self.now + seconds, self._store_back)

    def _store_back(self) -> None:
        self.store.trouble.away, self.store.trouble.lost = False, 0.0

    def broker_away(self, seconds: float) -> None:
        """Kafka is away for a while."""
        self.broker.away = True
        self.at(self.now + seconds, setattr, self.broker, "away", False)

    def relay_mood(self, name: str, seconds: float, mood: Mood) -> None:
        """A relay is in another mood for a while; its sessions end where it is away."""
        relay = self.relays[name]
        relay.mood = mood
        if mood.away:
            relay.cut()
        self.at(self.now + seconds, self._cheer_up, relay, mood)

    def _cheer_up(self, relay: ScriptedRelay, mood: Mood) -> None:
        if relay.mood is mood:
            relay.mood = Mood()

    def break_(self, process: str, what: str, seconds: float = float("inf")) -> None:
        """Note that something was broken."""
        self._ill_until = max(
            self._ill_until, self.now + (seconds if seconds < float("inf") else LIFE) + LIFE
        )
        self.ledger.broken.append(Broken(process=process, what=what, start=self.now, end=self.now + seconds))

    # --- the run -----------------------------------------------------------------------------------

    def run(self, hours: float) -> Outcome:
        """Let so much time pass, mend what is broken, wait until all has ended, and judge."""
        began = time.perf_counter()
        with logged(self.ledger.seen), named(random.Random(f"names/{self._seed}")):
            try:
                asyncio.set_event_loop(self.loop)
                self.loop.run_until_complete(self._history(hours * 3600))
            except Spins as error:
                self.ledger.seen.append(str(error))
            finally:
                lasted = self.now
                self._bury()
        self.ledger.seen += self.loop.faults
        for each in self.replicas:
            self.ledger.seen += each.troubles()
        accepted, reports, twice = counts(self.ledger)
        return Outcome(
            faults=tuple(faults(self.ledger, self.design.terms())),
            letters=len(self.ledger.published),
            accepted=accepted,
            reports=reports,
            twice=twice,
            transactions=len(self.ledger.begun),
            hours=lasted / 3600,
            seconds=time.perf_counter() - began,
            digest=self._digest(),
        )

    async def _history(self, seconds: float) -> None:
        for _ in range(self.design.replicas):
            self.start()
        await self._until(seconds)
        self._mend()
        deadline, wait = self.now + PATIENCE, FIRST_WAIT
        while not self._all_ended() and self.now < deadline:
            await self._until(self.now + wait)
            wait = min(LAST_WAIT, wait * 1.5)
        if not self._all_ended():
            self.ledger.seen.append(f"it does not come to an end: {at_once(self.store.queue.stats())}")
        for each in self.replicas:
            each.drain()
        await self._until(self.now + 120.0)
        for each in self.replicas:
            if each.alive:
                self.ledger.seen.append(f"P6: {each.process.name} does not end")

    async def _until(self, when: float) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        self.loop.world(when, future.set_result, None)
        await future

    def _mend(self) -> None:
        """Nothing is broken any more, and somebody is there."""
        self._store_back()
        self.broker.away = False
        self._strikes.clear()
        for relay in self.relays.values():
            relay.mood = Mood()
        for each in self.replicas:
            if each.process.frozen:
                self.loop.thaw(each.process)
        if not self.living():
            self.start()

    def _all_ended(self) -> bool:
        stats = at_once(self.store.queue.stats())
        taken_in = self.broker.committed == len(self.broker.records)
        return (
            self.now >= self._last
            and taken_in
            and not (stats.awaiting or stats.processing or stats.unreported)
        )

    def _bury(self) -> None:
        """End all that still runs, in the world of the dead."""
        for each in self.replicas:
            each.process.dead, each.process.frozen = True, False
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        asyncio.set_event_loop(None)
        self.loop.close()

    # --- inside --------------------------------------------------------------------------------------

    def _do(self, action: Callable[..., object], args: Sequence[object]) -> None:
        self._busy_at = max(self._busy_at, self.now)
        action(*args)

    def _slack(self, due: float) -> float:
        """By how much polls that are due then may be late: by more the longer nothing has happened."""
        busy = max(self._busy_at, *(each.busy_at for each in self.relays.values()))
        quiet = due - busy
        if quiet < QUIET:
            return 0.0
        # Whoever was ill has to see for a while that all is well, and late beats look like an outage.
        most = LIFE / 8 if self.store.processing or due < self._ill_until else LONGEST
        if self._shared and self.store.awaiting:
            # Who has not seen the others for a life has no share of the connections, and while nobody has one
            # nothing happens: three looks have to come in that time.
            most = min(most, LIFE / 4)
        return max(0.0, min(most, quiet, self.store.next_due(self.now) - due))

    def _ended(self, running: Running) -> None:
        """A replica ended by itself: after a drain, or because it gave up."""
        name = running.process.name
        left = self.store.claims(running.replica.in_flight.replica)
        ill = any(each.process == "" and each.end >= self.now - 60 for each in self.ledger.broken)
        ill = ill or self.broker.away
        if running.ended and not ill:
            self.ledger.seen.append(
                f"P6: {name} ended with {running.ended}: {running.replica.progress.unclean}"
            )
        if left and not ill:
            self.ledger.seen.append(f"P6: {name} ended and left {left} letters processing")
        if not running.draining:
            self.ledger.seen.append(f"{name} ended by itself: {running.replica.progress.reason}")

    def done(self, process: Process, call: str, arguments: tuple[Any, ...], result: Any) -> None:
        """See `Observer`."""
        news = call == "settle"
        if call == "claim":
            news = bool(result.letters)
        elif call == "insert":
            news = Inserted.NEW in result or Inserted.CLAIMED in result
        elif call in {"reclaim", "unreported"}:
            news = bool(result)
        elif call == "join":
            self._joined(process, arguments[0])
        elif call == "lease" and result.count:
            # Whoever has a slot is there at its moment.
            last = result.first + result.count * result.step - result.now
            self._busy_at = max(self._busy_at, self.now + last)
        if news:
            self._busy_at = max(self._busy_at, self.now)
            if self._strikes.get(process.name) == call:
                del self._strikes[process.name]
                self.kill(next(each for each in self.replicas if each.process is process))

    def _joined(self, process: Process, name: str) -> None:
        """A replica takes a name: another one only where it was silent for a whole life.

        One that does not learn that it has it asks for the same again.
        """
        if self._known.get(process.name, name) != name:
            broken = (each for each in self.ledger.broken if each.process == process.name)
            if not any(each.start <= self.now <= each.end for each in broken):
                self.ledger.seen.append(
                    f"P3: {process.name} was declared dead while it lived, at {self.now:.1f}"
                )
        self._known[process.name] = name

    def _reported(self, process: Process, record: Outgoing) -> None:
        del process
        words = record.value or b""
        told = orjson.loads(words)
        letter = self.store.letter(told["ID"])
        self._busy_at = max(self._busy_at, self.now)
        self.ledger.reported.append(
            Reported(
                at=self.now,
                letter=told["ID"],
                status=told["Status"],
                words=words,
                stored=None if letter is None else letter.status,
            )
        )

    def _addresses(self, people: int, local: Callable[[int], str], domains: Sequence[str]) -> list[str]:
        self._letters += 1
        number = self._letters
        return [
            f"{local(place)}{number}.{place}@{domains[(number + place) % len(domains)]}"
            for place in range(people)
        ]

    def _note(self, letter: str, addresses: Sequence[str], route: str) -> None:
        self.ledger.published[letter] = Published(
            at=self.now, letter=letter, recipients=tuple(addresses), route=route
        )

    def _digest(self) -> str:
        """Names the history: the same seed has the same."""
        begun = [(each.at, each.letter, each.relay) for each in self.ledger.begun]
        return blake2b(repr(begun).encode(), digest_size=8).hexdigest()
