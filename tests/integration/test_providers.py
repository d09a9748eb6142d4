"""Replicas over relays of the file that keep their providers' limits: full speed, no storms, nobody failed.

The queue and the slots are in memory, the sessions real. Where a day has to pass, replicas end and others
begin later: so what was ordered, and what was used of a quota, is seen to outlive them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lab.providers import DAY, GoogleLimits, MicrosoftLimits, Provider, SesLimits
from lab.relay_zoo import ZooRelay
from mailsender.app import build
from mailsender.model.letter import Letter, Status
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.sending import sharing
from mailsender.service import Replica
from mailsender.settings.environment import load
from tests.dispatching import letter, until
from tests.fakes import FakeSink
from tests.integration.test_relays_of_the_file import Topic, front

pytestmark = pytest.mark.asyncio

RELAY = """\
[relays.{name}]
host = "127.0.0.1"
port = {port}
tls = "none"
{more}
"""

SESSIONS = 5
"""What a relay of the file has at once, unless it says otherwise."""


class Later:
    """The machine's clocks, `ahead` by as many seconds as a test says."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def epoch(self) -> float:
        return time.time() + self.ahead


@dataclass
class World:
    """What replicas share, and outlives them."""

    file: Path
    clock: Later = field(default_factory=Later)
    slots: dict[str, MemorySlotStore] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock, retention=7 * DAY)

    def write(self, relays: Sequence[tuple[str, ZooRelay, str]], route: str) -> None:
        """The file: relays by name, with what else is said of them, and the route `default`."""
        tables = [RELAY.format(name=name, port=relay.port, more=more) for name, relay, more in relays]
        self.file.write_text("".join(tables) + f"[routes.default]\n{route}\n")

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[Replica]:
        settings = load()
        parts = build(settings, self.clock)
        relays = {
            name: replace(each, slots=self.slots.setdefault(name, MemorySlotStore(self.clock)))
            for name, each in parts.relays.items()
        }
        parts = replace(parts, queue=self.queue, source=Topic(), sink=FakeSink(), relays=relays)
        replica = Replica(settings, parts, self.clock, listen=front)
        task = asyncio.create_task(replica.run())
        try:
            await until(lambda: replica.state == "running")
            yield replica
        finally:
            replica.drain("test")
            async with asyncio.timeout(30):
                await task

    async def put(self, count: int, *to: str) -> None:
        """So many more letters, in the order in which they are to go."""
        start = len(self.letters)
        more = [letter(number, *to) for number in range(start, start + count)]
        self.letters += more
        await self.queue.insert(more)

    async def sent(self, count: int) -> None:
        """Wait until so many are."""
        async with asyncio.timeout(14):
            while (await self.queue.stats()).sent < count:  # noqa: ASYNC110  there is no event
                await asyncio.sleep(0.02)

    async def at_rest(self) -> None:
        """Wait until no letter is in anybody's hand."""
        async with asyncio.timeout(14):
            while (await self.queue.stats()).processing:  # noqa: ASYNC110  there is no event
                await asyncio.sleep(0.02)

    async def nobody_failed(self) -> bool:
        """Whether nobody was refused, nor has an attempt been counted for the account's fault."""
        found = [await self.queue.get(each.id) for each in self.letters]
        return all(
            each is not None and (each.status, each.attempts) in {(Status.SENT, 1), (Status.AWAITING, 0)}
            for each in found
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "relays.toml")
    for name, value in {
        "SMTP_FROM": "robot@example.test",
        "KAFKA_BROKERS": "127.0.0.1:1",
        "MONGODB_URI": "memory:",
        "MONGODB_LEASE": "2s",
        "MAILSENDER_CONFIG": str(made.file),
        "DRAIN_TIMEOUT": "5s",
    }.items():
        monkeypatch.setenv(name, value)
    return made


def fullest(times: Sequence[float], seconds: float) -> int:
    """The most of them in any so many seconds."""
    return max(sum(start <= each < start + seconds for each in times) for start in times)


# --- a rate ---------------------------------------------------------------------------------------


class Stalls:
    """When, and for how long, a busy machine let the loop stand still: slots lapse meanwhile."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seconds = 0.0

    @property
    def count(self) -> int:
        return len(self.ends)

    def explain(self, times: Sequence[float]) -> bool:
        """Whether each of `times` has a stall of its own within the second before it."""
        left = list(self.ends)
        for at in times:
            near = [end for end in left if at - 1.1 <= end <= at + 0.1]
            if not near:
                return False
            left.remove(near[0])
        return True

    async def __aenter__(self) -> Stalls:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late = time.monotonic() - before - 0.01
            if late > 0.02:  # less does no harm to a slot, which lives for 50 ms
                self.ends.append(time.monotonic())
                self.seconds += late


TRIES = 3
"""Worlds of which one has to run undisturbed: SES here counts to the letter. Where a busy machine holds the
first letter of a second for 40 ms between its slot and the count, the second has fifteen. One is tried again
only where such a stall was seen just before each of what was too much."""


@pytest.mark.parametrize("replicas", [1, 2])
async def test_the_full_rate_is_reached_and_ses_has_nothing_to_say_of_it(world: World, replicas: int) -> None:
    """The file has the account's rate as it is, and SES counts it to the letter."""
    for _ in range(TRIES):
        ses, stalls = await _seconds_of_ses(World(world.file), replicas)
        assert stalls.explain([each.at for each in ses.told(454)])
        if not ses.told(454):
            break
    assert not ses.told(454)
    at = [each.at for each in ses.told(250)][14:]
    # Each stall costs the slots that lapsed in it, and the one that it cut short.
    assert len(at) - 1 + 14 * stalls.seconds + stalls.count >= 0.95 * 14 * (at[-1] - at[0])
    assert fullest(at, 1.0) <= 14


async def _seconds_of_ses(world: World, replicas: int) -> tuple[SesLimits, Stalls]:
    """What SES was sent in seven seconds of its full rate, behind what a start leaves over."""
    async with SesLimits(rate=14) as ses, AsyncExitStack() as several:
        world.write([("ses", ses, 'preset = "ses"\nrate = "14/s"')], 'relays = ["ses"]')
        for _ in range(replicas):
            await several.enter_async_context(world.replica())
        async with Stalls() as stalls:
            await world.put(200)
            await until(lambda: len(ses.taken) > 14)
            await asyncio.sleep(7.0)  # what is shown is what passes in a time
        return ses, stalls


async def test_ses_counts_recipients_and_its_day_holds_no_more_of_them_than_the_file_says(
    world: World,
) -> None:
    async with SesLimits(rate=1000, quota=60) as ses:
        world.write([("ses", ses, 'preset = "ses"\nrate = "100/s"\nquota = "60/24h"')], 'relays = ["ses"]')
        async with world.replica() as replica, Stalls() as stalls:
            await world.put(30, "a@example.test", "b@example.test", "c@example.test")
            await until(lambda: replica.relays[0].limiter.exhausted_until)
            await world.at_rest()
    # A slot that lapsed is lost to the day: on a busy machine, and that of each of ten senders that takes one
    # before its letter is known, and then finds the two behind it taken by others.
    taken = sum(len(each.recipients) for each in ses.taken)
    assert taken <= 60
    assert taken + 3 * stalls.count >= 60 - 10
    assert not ses.told(454)


async def test_microsoft_counts_messages_by_the_minute_and_recipients_by_the_day(world: World) -> None:
    async with MicrosoftLimits(per_minute=100_000, recipients=20) as microsoft:
        limits = 'preset = "microsoft365"\nrate = "600/m"\nquota = "20/24h"'
        world.write([("m365", microsoft, limits)], 'relays = ["m365"]')
        async with world.replica() as replica:
            await world.put(8, *(f"r{number}@example.test" for number in range(4)))
            await until(lambda: replica.relays[0].limiter.exhausted_until)
            await world.at_rest()
    sent = [len(each.recipients) for each in microsoft.taken]
    assert sum(sent) <= 20
    assert sent[:2] == [4, 4], "letters go whole, but for what is left at the end"
    assert not microsoft.told(554)


async def test_who_was_told_that_it_is_too_fast_is_so_no_more(world: World) -> None:
    """The account's rate is lower than the file says."""
    async with SesLimits(rate=8) as ses:
        world.write([("ses", ses, 'preset = "ses"\nrate = "14/s"')], 'relays = ["ses"]')
        async with world.replica():
            await world.put(100)
            await until(lambda: ses.told(454))
            await asyncio.sleep(9.0)  # what is shown is what passes in a time
    first = ses.answers.index(ses.told(454)[0])
    after = ses.answers[first + 1 :]
    assert len(after) >= 15
    assert sum(each.code == 454 for each in after) <= len(after) / 100
    assert after[0].at - ses.answers[first].at >= 5.0, "SES wants to be left alone for so long"


async def test_thirty_a_minute_are_sent_and_microsoft_delays_none(world: World) -> None:
    async with MicrosoftLimits() as microsoft:
        world.write([("m365", microsoft, 'preset = "microsoft365"')], 'relays = ["m365"]')
        async with world.replica():
            await world.put(6)
            await world.sent(6)
    at = [each.at for each in microsoft.told(250)]
    # What a pause left over lets the second follow the first sooner.
    assert (at[-1] - at[1]) / (len(at) - 2) <= 2.0 * 1.05
    assert fullest(at, 6.0) <= 4
    assert not microsoft.delayed


async def test_google_finds_the_rate_unusual_and_is_left_alone(world: World) -> None:
    async with GoogleLimits(pace=20) as google:
        world.write([("google", google, 'preset = "google-user"')], 'relays = ["google"]')
        async with world.replica() as replica:
            await world.put(60)
            await until(lambda: google.told(421))
            await world.at_rest()
            assert len(google.told(421)) <= 2 * SESSIONS
            [order] = replica.relays[0].limiter.orders()
            assert (order.key, order.rule) == ("relay", "google-user/rate-of-address")
            assert await world.nobody_failed()
        assert len(google.taken) == 20


async def test_one_recipient_who_gets_too_much_holds_up_nobody_else(world: World) -> None:
    async with GoogleLimits(to_one=2) as google:
        world.write([("google", google, 'preset = "google-user"')], 'relays = ["google"]')
        async with world.replica():
            await world.put(8, "busy@example.test")
            await world.put(20)
            await world.sent(22)
            await world.at_rest()
        assert len(google.told(450)) <= 2 * SESSIONS
        assert (await world.queue.stats()).error == 0
        asked = len(google.answers)
        world.clock.ahead += 3600
        google.now = world.clock.monotonic
        async with world.replica():
            await until(lambda: len(google.answers) > asked)
        assert len(google.taken) > 22


# --- connections ----------------------------------------------------------------------------------


async def test_two_replicas_have_three_connections_with_microsoft(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LOOK", 0.2)  # a share stands for the life of a replica before it is used
    async with MicrosoftLimits(per_minute=100_000, thinks=0.1) as microsoft:
        world.write(
            [("m365", microsoft, 'preset = "microsoft365"\nrate = "6000/m"')],
            'relays = ["m365"]',
        )
        async with world.replica() as first:
            async with world.replica() as second:
                pools = [each.relays[0].pool for each in (first, second)]
                await until(lambda: sorted(each.window[1] for each in pools) == [1, 2])
                await world.put(60)
                await world.sent(60)
                assert microsoft.most_open == 3
            await until(lambda: pools[0].window[1] == 3)
            await world.put(60)
            await until(lambda: microsoft.open == 3)
            await world.sent(120)
    assert microsoft.most_open == 3
    assert not microsoft.told(432)


# --- a quota --------------------------------------------------------------------------------------

USED_UP: dict[str, tuple[Callable[..., Provider], dict[str, int], str, int]] = {
    "ses": (SesLimits, {"quota": 20, "rate": 1000}, 'preset = "ses"', 454),
    "google": (GoogleLimits, {"daily": 20}, 'preset = "google-user"', 550),
    "microsoft": (
        MicrosoftLimits,
        {"recipients": 20, "per_minute": 100_000},
        'preset = "microsoft365"\nrate = "6000/m"',
        554,
    ),
    "our own count": (GoogleLimits, {}, 'preset = "google-user"\nquota = "20/24h"', 0),
}
"""The provider, its limits, what the file says of it, and what it says when its day is used up."""


@pytest.mark.parametrize("which", USED_UP)
async def test_a_quota_that_is_used_up_is_a_switch_where_there_is_another_relay(
    world: World, which: str
) -> None:
    make, limits, more, code = USED_UP[which]
    async with make(**limits) as provider, ZooRelay() as spare:
        world.write(
            [("main", provider, more), ("spare", spare, "")], 'relays = ["main"]\nfallback = ["spare"]'
        )
        async with world.replica():
            await world.put(80)
            await world.sent(80)
    assert (len(provider.taken), len(spare.taken)) == (20, 60)
    assert bool(code) <= len(provider.told(code)) <= 2 * SESSIONS
    assert await world.nobody_failed()


@pytest.mark.parametrize("which", USED_UP)
async def test_a_quota_that_is_used_up_is_a_wait_where_there_is_none(world: World, which: str) -> None:
    make, limits, more, code = USED_UP[which]
    async with make(now=world.clock.monotonic, **limits) as provider:
        world.write([("main", provider, more)], 'relays = ["main"]')
        async with world.replica():
            await world.put(35)
            await until(lambda: len(provider.taken) == 20)
            await world.at_rest()
            assert bool(code) <= len(provider.told(code)) <= 2 * SESSIONS
            assert await world.nobody_failed()
        asked = len(provider.answers)
        world.clock.ahead += 60
        async with world.replica() as later:
            await until(later.routes[0].blocked_because)
            await asyncio.sleep(0.5)  # nothing is to come, of which there is no event
            assert len(provider.answers) == asked, "what was said is obeyed by who starts later, too"
        world.clock.ahead += DAY + 700  # and what a bucket may be late
        async with world.replica():
            await world.sent(35)
    assert len(provider.taken) == 35
    assert await world.nobody_failed()


async def test_a_sender_that_is_not_verified_waits_for_somebody_to_do_it(world: World) -> None:
    async with SesLimits(rate=1000, verified="example.org", now=world.clock.monotonic) as ses:
        world.write([("ses", ses, 'preset = "ses"')], 'relays = ["ses"]')
        async with world.replica() as replica:
            await world.put(20)
            await until(lambda: ses.told(554))
            await world.at_rest()
            assert len(ses.told(554)) <= 2 * SESSIONS
            assert [each.key for each in replica.relays[0].limiter.orders()] == ["sender:robot@example.test"]
            assert await world.nobody_failed()
        ses.verified = ("example.test",)
        world.clock.ahead += 2 * 3600
        async with world.replica():
            await world.sent(20)
    assert await world.nobody_failed()
