"""What a reply ordered is ended by a person: here, in the store, and in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mailsender.admin.operations import ReplicaOperations
from mailsender.app import build
from mailsender.model.errors import Unavailable
from mailsender.model.letter import now_ms
from mailsender.observe.metrics import ALL
from mailsender.ratelimit.order import RELAY, Order, login, sender
from mailsender.sending.hastening import HEARD, SOON
from mailsender.service import Replica
from mailsender.settings.environment import load
from mailsender.web.operations import NoOrder
from tests.clocks import ManualClock

pytestmark = pytest.mark.asyncio

TEXT = """\
[relays.ses]
host = "127.0.0.1"
rate = "14/s"
[relays.ses.destinations."*.example.org"]
rate = "1/s"
[routes.default]
relays = ["ses"]
"""


async def nobody(_: Replica) -> None:
    """Listens to nobody."""


class Scene:
    """A replica over the store in memory, that does not run."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        settings = load()
        self.replica = Replica(settings, build(settings, self.clock), self.clock, listen=nobody)
        self.replica.opening.clear()
        (self.ses,) = self.replica.relays
        self.operations = ReplicaOperations(self.replica)

    async def order(self, key: str, until: float | None = None) -> None:
        """As a reply orders it, written into the store."""
        end = self.clock.epoch() + 3600 if until is None else until
        made = Order(key=key, rule="ses/stop", said="554 not verified", until=end)
        kind, _, name = key.partition(":")
        if kind == "destination" and self.ses.destinations is not None:
            self.ses.destinations.order(name, made)
            for limiter in self.ses.destinations.limiters.values():
                await limiter._write()
        else:
            self.ses.limiter.order(made)
        await self.ses.limiter._write()

    async def lift(self, scope: str, relay: str = "ses") -> tuple[str, str]:
        found = await self.operations.lift_order(relay, scope, by="a test", reason="verified\n\x1b[31m now")
        return found.scope, found.rule

    def held(self, key: str) -> float:
        return self.ses.held(key, self.clock.monotonic())


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


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        (RELAY, "relay"),
        (sender("ann@example.com"), "sender:Ann@Example.com"),
        (login("ab12"), "relay"),
        (login("ab12"), "login:ab12"),
        ("destination:gmail.com", "destination:gmail.com"),
        ("destination:a.example.org", "destination:*.example.org"),
        ("destination:a.example.org", "destination:b.example.org"),
    ],
)
async def test_what_was_ordered_holds_no_more(scene: Scene, key: str, asked: str) -> None:
    await scene.order(key)
    assert scene.held(key) > 3500
    with capture_logs() as logs:
        scope, _ = await scene.lift(asked)
    assert scope == asked.lower()
    assert scene.held(key) == 0.0
    (line,) = [each for each in logs if each["event"] == "order_lifted"]
    assert (line["relay"], line["scope"], line["by"]) == ("ses", asked.lower(), "a test")
    assert "\n" not in line["reason"]
    with pytest.raises(NoOrder, match="nothing is ordered"):
        await scene.lift(asked)


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("destination:xn--bcher-kva.example", "Destination:b\u00fccher.example"),
        ("sender:ann@xn--bcher-kva.example", "sender:Ann@B\u00fccher.example"),
    ],
)
async def test_a_scope_is_known_however_its_domain_is_written(scene: Scene, key: str, asked: str) -> None:
    await scene.order(key)
    assert (await scene.lift(asked))[0] == key
    assert scene.held(key) == 0.0


async def test_it_is_told_what_it_was_and_other_scopes_hold_on(scene: Scene) -> None:
    await scene.order(sender("ann@example.com"), float("inf"))
    await scene.order(RELAY)
    end = now_ms(scene.clock.epoch() + 3600)
    found = await scene.operations.lift_order("ses", "relay", by="a test", reason="")
    assert (found.rule, found.said, found.until) == ("ses/stop", "554 not verified", end)
    assert scene.held(sender("ann@example.com")) > 3500
    found = await scene.operations.lift_order("ses", "sender:ann@example.com", by="a test", reason="")
    assert found.until is None, "until somebody acts, which is now"


async def test_one_that_another_replica_was_told_is_lifted_too(scene: Scene) -> None:
    await scene.ses.limiter._store.order(
        Order(key=RELAY, rule="r", said="no", until=scene.clock.epoch() + 60), scene.clock.epoch()
    )
    assert await scene.lift("relay") == ("relay", "")
    with pytest.raises(NoOrder):
        await scene.lift("relay")


async def test_what_cannot_be_lifted(scene: Scene) -> None:
    with pytest.raises(NoOrder, match="there is no such relay; there are ses"):
        await scene.lift("relay", relay="grid")
    scene.replica.opening.set("MongoDB is away", 0.0)
    with pytest.raises(Unavailable, match="away"):
        await scene.lift("relay")


@pytest.mark.parametrize(
    "scope",
    ["foo", "gmail.com", "", "relay:", "relay:ses", "destination", "sender:", "recipient:ann@example.com"],
)
async def test_what_is_no_scope_is_refused_with_those_that_there_are(scene: Scene, scope: str) -> None:
    await scene.order(RELAY)
    with pytest.raises(NoOrder) as refused:
        await scene.lift(scope)
    assert str(refused.value) == (
        "there is no such scope; there are relay, destination:DOMAIN and sender:ADDRESS, as status shows them"
    )
    assert scene.held(RELAY) > 3500


async def test_a_destinations_limiter_knows_its_relay(scene: Scene) -> None:
    assert scene.ses.limiter.within == ""
    assert scene.ses.destinations is not None
    assert {each.within for each in scene.ses.destinations.limiters.values()} == {"ses"}


async def test_metrics_count_orders_by_what_they_cover(scene: Scene) -> None:
    await scene.order(RELAY)
    await scene.order("destination:a.example.org")
    await scene.order("destination:gmail.com")
    text = scene.operations.metrics("text/plain")[0].decode()
    rows = [each for each in text.splitlines() if each.startswith(ALL["orders"].shown)]
    assert {each.partition('scope="')[2] for each in rows} == {
        'relay"} 1.0',
        'login"} 0.0',
        'destination"} 2.0',
        'sender"} 0.0',
        'recipient"} 0.0',
    }
    assert 'destination_slot_waiters{destination="*.example.org",relay="ses"} 0.0' in text


async def test_letters_that_waited_for_its_end_are_due_soon_and_looked_for_again(scene: Scene) -> None:
    await scene.order("destination:gmail.com")
    hastener = scene.replica.dispatcher.hastener
    before = len(hastener._looks)
    await scene.lift("destination:gmail.com")
    now = scene.clock.monotonic()
    assert [each - now for each in hastener._looks[before:]] == pytest.approx([SOON, HEARD])
