"""What letters wait for, where there are several relays: which one it is, how long, and how many letters."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mailsender.admin.operations import ReplicaOperations
from mailsender.app import build
from mailsender.model.errors import Unavailable
from mailsender.model.handling import Handling
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.ratelimit.gcra import Allowance
from mailsender.service import Replica
from mailsender.settings.environment import load
from mailsender.web.models import ConditionView
from tests.clocks import ManualClock
from tests.dispatching import letter, until

pytestmark = pytest.mark.asyncio

TEXT = """\
[relays.ses]
host = "127.0.0.1"
rate = "2/s"
quota = "500 recipients/24h"
[relays.ses.destinations."slow.test"]
rate = "10/1m"
[relays.ses.destinations."*.slower.test"]
rate = "1/1m"
[relays.grid]
host = "127.0.0.1"
rate = "1/s"
quota = "9/day"
[routes.default]
relays = ["grid", "ses"]
[routes.news]
match = { stream = "news" }
relays = [{ name = "ses", weight = 3 }, { name = "grid", weight = 1 }]
[routes.night]
match = { stream = "night" }
relays = ["ses"]
window = "Sun 03:00-03:01"
"""
REFUSAL = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=550, text="Account suspended")


class Scene:
    """A replica with a file, that does not run, and its clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        settings = load()
        self.replica = Replica(settings, build(settings, self.clock), self.clock, listen=nobody)
        self.replica.opening.clear()
        self.ses, self.grid = self.replica.relays
        for relay in self.replica.relays:
            relay.pool.reach.ever = True
        self.operations = ReplicaOperations(self.replica)

    async def look(self) -> None:
        """Let each limiter hear what was ordered before: until then nothing goes over its relay."""
        stop = asyncio.Event()
        looks = [asyncio.create_task(relay.limiter.run(stop)) for relay in self.replica.relays]
        await until(lambda: all(relay.limiter.knows for relay in self.replica.relays))
        stop.set()
        await asyncio.gather(*looks)

    async def put(self, route: str, *numbers: int) -> None:
        asked = Handling(stream="" if route == "default" else route)
        await self.replica.parts.queue.insert(
            [letter(number, route=route, handling=asked) for number in numbers]
        )

    async def waits(self, part: str) -> dict[str | None, dict[str, Any]]:
        """The conditions of a part, by their relays, each as it is described."""
        found = [each for each in (await self.operations.status())["waits_for"] if each["part"] == part]
        for each in found:
            ConditionView.model_validate(each)
        assert len({each["relay"] for each in found}) == len(found)
        return {each["relay"]: each for each in found}


async def nobody(_: Replica) -> None:
    """Listens to nobody."""


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    path = tmp_path / "relays.toml"
    path.write_text(TEXT)
    for name, value in {
        "SMTP_FROM": "robot@example.com",
        "KAFKA_BROKERS": "127.0.0.1:1",
        "MONGODB_URI": "memory:",
        "MAILSENDER_CONFIG": str(path),
    }.items():
        monkeypatch.setenv(name, value)
    return Scene()


async def test_it_is_told_which_relay_it_is(scene: Scene) -> None:
    await scene.look()
    scene.grid.hold("0" * 24, REFUSAL)
    found = await scene.waits("relay")
    assert [(name, each["text"]) for name, each in found.items()] == [
        ("grid", "refuses letters: 550 Account suspended")
    ]
    assert not found["grid"]["trouble"], "its routes have another one"
    scene.ses.hold("0" * 24, REFUSAL)
    assert "relay ses: refuses letters: 550 Account suspended" in scene.operations.ready()[1]


async def test_a_quota_is_told_as_the_file_has_it_and_each_since_its_own_time(scene: Scene) -> None:
    end = scene.clock.epoch() + 3600
    scene.ses.limiter.exhausted_until = end
    first = await scene.waits("quota")
    assert [(name, each["text"]) for name, each in first.items()] == [
        ("ses", "500 recipients in 1d are used up")
    ]
    scene.clock.forward(60)
    scene.grid.limiter.exhausted_until = end
    both = await scene.waits("quota")
    assert both["grid"]["text"] == "9 transactions a day are used up"
    assert both["ses"]["since"] == first["ses"]["since"]
    assert both["grid"]["since"] > both["ses"]["since"]


async def test_an_end_that_is_over_is_not_told_where_the_count_is_old(scene: Scene) -> None:
    await scene.look()
    await scene.put("default", *range(200))
    before = (await scene.waits("rate"))["grid"]
    assert before["until"] is not None
    scene.clock.forward(200)

    async def away() -> None:
        raise Unavailable("MongoDB is away")

    scene.replica.tidier.count = away  # type: ignore[method-assign]
    after = (await scene.waits("rate"))["grid"]
    assert (after["text"], after["until"]) == (before["text"], None)


async def test_letters_wait_for_the_rate_of_the_relay_that_they_take(scene: Scene) -> None:
    await scene.look()
    await scene.put("default", *range(200))
    await scene.put("night", *range(200, 500))
    found = await scene.waits("rate")
    assert {name: each["text"].partition(",")[0] for name, each in found.items()} == {
        "grid": "200 letters are due"
    }
    await scene.put("news", *range(500, 900))
    scene.clock.forward(10)
    found = await scene.waits("rate")
    assert {name: each["text"] for name, each in found.items()} == {
        "ses": "300 letters are due, and the rate is 2 in 1s",
        "grid": "300 letters are due, and the rate is 1 in 1s",
    }


async def test_of_several_rates_the_slowest_tells_how_long_it_takes(scene: Scene) -> None:
    hourly = Allowance(letters=60, period=3600.0)
    scene.grid.limiter.change(scene.grid.limiter.allowance, (hourly,))
    await scene.look()
    await scene.put("default", *range(200))
    found = (await scene.waits("rate"))["grid"]
    assert found["text"] == "200 letters are due, and the rate is 60 in 1h"
    assert datetime.fromisoformat(found["until"]).timestamp() - scene.clock.epoch() > 199 * 60


async def test_letters_wait_for_their_destinations_turn_and_that_is_no_trouble(scene: Scene) -> None:
    await scene.look()
    assert await scene.waits("destination") == {}
    limits = scene.ses.destinations
    assert limits is not None
    now = scene.clock.monotonic()
    for limiter in limits.limiters.values():
        limiter._next_at = now + 1.0  # the next slot that the store has given
    for domain, letters in {"slow.test": 297, "a.slower.test": 3}.items():
        for _ in range(letters):
            assert limits.rest(domain, now) > 0
    (found,) = (await scene.waits("destination")).values()
    assert (found["relay"], found["trouble"]) == ("ses", False)
    assert found["text"] == "297 letters in line for slow.test (10 in 1m), 3 for other destinations"
    shown = {
        each["destination"]: each for each in (await scene.operations.status())["relays"][0]["destinations"]
    }
    assert (shown["slow.test"]["waiting"], shown["*.slower.test"]["waiting"]) == (297, 3)
    assert scene.operations.metrics("text/plain")[0].decode().count('condition{part="destination"} 1.0') == 1
    scene.clock.forward(900)
    (found,) = (await scene.waits("destination")).values()
    assert found["text"] == "147 letters in line for slow.test (10 in 1m)"
    scene.clock.forward(3600)
    assert await scene.waits("destination") == {}


async def test_a_route_of_which_no_relay_takes_mail_from_the_service_is_told_for_a_while(
    scene: Scene,
) -> None:
    await scene.look()
    assert await scene.waits("route") == {}
    text = scene.replica.routes[1].takes_none_from("robot@example.com", for_seconds=120.0)
    (found,) = (await scene.waits("route")).values()
    assert (found["text"], found["trouble"]) == (text, False)
    assert [each["blocked_because"] for each in (await scene.operations.status())["routes"]][:2] == [
        None,
        text,
    ]
    scene.clock.forward(121)
    assert await scene.waits("route") == {}
