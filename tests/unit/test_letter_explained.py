"""Why a letter is where it is: over two routes and three relays, each with what may stand in the way."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsender.admin.explaining import Explaining
from mailsender.admin.operations import ReplicaOperations
from mailsender.app import build
from mailsender.cli.letter_way import list_told, told
from mailsender.intake.batch import Fault
from mailsender.journal.port import NoJournal
from mailsender.model.errors import Unavailable
from mailsender.model.handling import Handling
from mailsender.model.letter import Letter, Phase, Recipient, Result, Settlement, Status, Verdict
from mailsender.ratelimit.order import RELAY, Order, destination, sender
from mailsender.routing.obstacles import Kind
from mailsender.sending.attempt import NEVER_TRIED
from mailsender.service import Replica
from mailsender.settings.environment import load
from mailsender.suppression.port import Source
from mailsender.suppression.rules import entry_of
from mailsender.web.explain_models import ExplainedView, Kinds
from mailsender.web.operations import BadBatch, BadLetter, Submission
from mailsender.web.operations import Fault as Wrong
from tests.claims import REPLICA, token_of
from tests.clocks import ManualClock
from tests.dispatching import letter
from tests.fakes import FakeSink

pytestmark = pytest.mark.asyncio

TEXT = """\
[relays.ses]
host = "127.0.0.1"
from = ["example.com"]
[relays.grid]
host = "127.0.0.1"
port = 26
[relays.own]
host = "127.0.0.1"
port = 27
[relays.own.destinations."slowly.test"]
rate = "1/m"
[routes.default]
relays = ["own"]
[routes.news]
match = { stream = "news" }
relays = [{ name = "ses", weight = 3 }, { name = "grid", weight = 1 }]
fallback = ["own"]
[routes.night]
match = { stream = "night" }
relays = ["own"]
window = "WINDOW"
[routes.far]
match = { destination = "far.test" }
relays = ["grid"]
[routes.mine]
open = true
relays = ["own"]
"""
REFUSAL = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=550, text="Account suspended")
NEWS, NIGHT = Handling(stream="news"), Handling(stream="night")


class Scene:
    """A replica with a file, that does not run, and its clock."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        settings = load()
        self.replica = Replica(settings, build(settings, self.clock), self.clock, listen=nobody)
        self.replica.opening.clear()
        self.ses, self.grid, self.own = self.replica.relays
        self.queue = self.replica.parts.queue

    async def put(self, number: int, *addresses: str, **more: object) -> Letter:
        made = letter(number, *addresses, **more)
        await self.queue.insert([made])
        return made

    async def ended(
        self, number: int, *recipients: Recipient, status: Status = Status.ERROR, **more: object
    ) -> Letter:
        made = letter(number, *(each.address for each in recipients), status=status, **more)
        await self.queue.insert([made := made.evolve(recipients=recipients)])
        return made

    async def ask(self, which: Letter) -> ExplainedView:
        found = await Explaining(self.replica).explain(which.id)
        assert found is not None
        return ExplainedView.model_validate(found.model_dump())

    def in_seconds(self, seconds: float) -> str:
        return f"{datetime.fromtimestamp(self.clock.epoch() + seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


async def nobody(_: Replica) -> None:
    """Listens to nobody."""


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    now = datetime.fromtimestamp(ManualClock().epoch(), UTC)
    window = f"{(now + timedelta(hours=2)):%H}:00-{(now + timedelta(hours=3)):%H}:00"
    path = tmp_path / "relays.toml"
    path.write_text(TEXT.replace("WINDOW", window))
    for name, value in {
        "SMTP_FROM": "robot@example.com",
        "KAFKA_BROKERS": "127.0.0.1:1",
        "MONGODB_URI": "memory:",
        "MAILSENDER_CONFIG": str(path),
    }.items():
        monkeypatch.setenv(name, value)
    return Scene(path)


async def test_nothing_stands_in_the_way(scene: Scene) -> None:
    found = await scene.ask(await scene.put(1))
    assert found.says == [
        "It waits on the route default.",
        "1 recipient by the route default (no other one is for it) over own.",
        "Nothing stands in its way: it is sent at its turn, within seconds.",
    ]
    (person,) = found.recipients
    assert (person.address, person.next_relays, person.obstacles) == ("r1@example.test", ["own"], [])
    assert (found.ahead, found.obstacles) == (0, [])


async def test_what_keeps_the_whole_replica_from_sending(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await scene.put(1)
    scene.replica.dispatcher.condition.set("not authorized to update", 0.0)
    full = NoJournal()
    full.trouble = "No space left on device"
    monkeypatch.setattr(scene.replica, "parts", replace(scene.replica.parts, journal=full))
    monkeypatch.setattr(scene.replica, "state", "draining")
    found = await scene.ask(asked)
    assert found.says[2:] == [
        "This replica stops, and begins to send nothing more.",
        "This replica cannot write its journal, and sends nothing until it can: No space left on device.",
        "This replica gets no letters out of the queue: not authorized to update.",
    ]
    assert [each.kind for each in found.obstacles] == ["here"] * 3
    (claimed,) = (await scene.queue.claim(1, token := token_of(), "default")).letters
    assert (await scene.ask(claimed)).obstacles == [], "another replica has it"
    monkeypatch.setattr(scene.replica.in_flight, "token", lambda _: token)
    assert [each.kind for each in (await scene.ask(claimed)).obstacles] == ["here"] * 3


async def test_weights_and_what_goes_first(scene: Scene) -> None:
    await scene.put(1, handling=NEWS, route="news")
    found = await scene.ask(await scene.put(2, handling=NEWS, route="news"))
    assert "over ses (weight 3), grid (weight 1), own (else)." in found.says[1]
    assert (found.ahead, [each.kind for each in found.obstacles]) == (1, ["behind"])
    assert found.says[-1] == "Of its route 1 letter in the queue go first, at its rate."
    assert found.recipients[0].next_relays == ["ses", "grid"]


async def test_a_relay_that_does_not_go_is_passed_over(scene: Scene) -> None:
    asked = await scene.put(1, handling=NEWS, route="news")
    end = scene.clock.epoch() + 60
    scene.ses.limiter.order(Order(key=RELAY, rule="ses/rate", said="454 Throttling", until=end))
    found = await scene.ask(asked)
    assert found.recipients[0].next_relays == ["grid"]
    assert found.obstacles == [], "the route goes"
    (order,) = found.ways[0].relays[0].obstacles
    assert (order.kind, order.rule, order.said) == ("order", "ses/rate", "454 Throttling")
    assert f"until {scene.in_seconds(60)}; it said: 454 Throttling." in order.text
    scene.grid.limiter.exhausted_until = end
    assert (await scene.ask(asked)).recipients[0].next_relays == ["own"], "the fallback"
    scene.own.hold("0" * 24, REFUSAL)
    found = await scene.ask(asked)
    assert [(each.kind, each.relay) for each in found.obstacles] == [
        ("order", "ses"),
        ("quota", "grid"),
        ("breaker", "own"),
    ]
    assert "own refuses everybody's letters: 550 Account suspended. It is tried again at" in found.says[-1]
    assert found.recipients[0].next_relays == []


async def test_what_is_ordered_about_a_sender_or_a_destination(scene: Scene) -> None:
    asked = await scene.put(1, "a@slow.test", "b@other.test")
    end = scene.clock.epoch() + 600
    scene.own.limiter.order(Order(key=destination("slow.test"), rule="r/slow", said="421 Busy", until=end))
    one, other = (await scene.ask(asked)).recipients
    assert (one.next_relays, [each.rule for each in one.obstacles]) == ([], ["r/slow"])
    assert (other.next_relays, other.obstacles) == (["own"], [])
    said = "To a@slow.test: By the rule r/slow nothing to slow.test goes over own until"
    assert (await scene.ask(asked)).says[-1].startswith(said)
    scene.own.limiter.order(
        Order(key=sender("robot@example.com"), rule="r/me", said="550 no", until=float("inf"))
    )
    one, other = (await scene.ask(asked)).recipients
    assert (other.next_relays, other.obstacles[0].until) == ([], None)
    assert "until somebody acts" in other.obstacles[0].text


async def test_the_limits_of_a_destination(scene: Scene) -> None:
    asked = await scene.put(1, "a@slowly.test", "b@other.test")
    assert [each.obstacles for each in (await scene.ask(asked)).recipients] == [[], []]
    destinations = scene.own.destinations
    assert destinations is not None
    own = destinations.of("slowly.test")
    assert own is not None
    own._next_at = scene.clock.monotonic() + 30  # it had the slots until then
    one, other = (await scene.ask(asked)).recipients
    (obstacle,) = one.obstacles
    assert (obstacle.kind, obstacle.relay, one.next_relays) == ("turn", "own", [])
    assert obstacle.text.startswith("The limits of slowly.test over own are reached: who comes now goes at ")
    assert obstacle.until is not None
    assert 30 <= obstacle.until.timestamp() - scene.clock.epoch() <= 91
    assert (await scene.ask(asked)).recipients[0].obstacles == [obstacle], "to ask changes nothing"
    assert (other.next_relays, other.obstacles) == (["own"], [])
    own.lapsing.set("hardly any can be used", scene.clock.epoch())
    text = (await scene.ask(asked)).recipients[0].obstacles[0].text
    assert text == "No slots can be had for slowly.test over own: hardly any can be used."
    own.condition.set("MongoDB is away", scene.clock.epoch())
    kinds = [each.kind for each in (await scene.ask(asked)).recipients[0].obstacles]
    assert kinds == ["slots", "turn"]


async def test_who_takes_no_mail_from_the_sender(scene: Scene) -> None:
    mail = json.dumps({"From": '"Me" <me@example.org>'})
    found = await scene.ask(await scene.put(1, handling=NEWS, route="news", mail=mail))
    assert found.recipients[0].next_relays == ["grid"]
    assert [(each.kind, each.relay) for each in found.recipients[0].obstacles] == [("sender", "ses")]
    assert found.says[-1] == "Nothing stands in its way: it is sent at its turn, within seconds."


async def test_recipients_take_several_routes(scene: Scene) -> None:
    found = await scene.ask(await scene.put(1, "a@far.test", "b@near.test", "c@near.test"))
    assert [(each.route, each.recipients) for each in found.ways] == [("default", 2), ("far", 1)]
    assert [(each.route, each.next_relays) for each in found.recipients] == [
        ("far", ["grid"]),
        ("default", ["own"]),
        ("default", ["own"]),
    ]


async def test_a_route_that_is_none_or_another_ones(scene: Scene) -> None:
    found = await scene.ask(await scene.put(1, route="gone"))
    assert (found.route, [each.kind for each in found.obstacles]) == ("gone", ["route"])
    assert found.says[2] == "The route gone on which it waits is none here: it is routed anew, to default."
    found = await scene.ask(await scene.put(2, route="news"))
    assert "is not the one of its recipients now" in found.obstacles[0].text


async def test_a_window_that_is_closed(scene: Scene) -> None:
    (window,) = (await scene.ask(await scene.put(1, handling=NIGHT, route="night"))).obstacles
    assert window.kind == "window"
    assert window.until is not None
    assert 3600 < window.until.timestamp() - scene.clock.epoch() <= 7200


async def test_a_time_of_its_own_and_why(scene: Scene) -> None:
    asked = await scene.put(1)
    await scene.queue.join(REPLICA, 60)
    claim = await scene.queue.claim(1, token := token_of())
    assert (await scene.ask(asked)).says[0] == "Another replica has it in hand; that one can say more."
    scene.replica.in_flight.take(claim)
    assert (await scene.ask(asked)).says[0].startswith("This replica has it in hand")
    busy = Result(
        verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.1", text="Busy", rule="r/busy"
    )
    one = claim.letters[0]
    people = (type(one.recipients[0])(address=one.recipients[0].address, result=busy, tries=1),)
    later = one.evolve(status=Status.AWAITING, attempts=1, recipients=people)
    await scene.queue.settle([Settlement(token=token, letter=later, delay=300)])
    found = await scene.ask(asked)
    at = scene.in_seconds(300)
    assert found.says[2] == f"It is due at {at}, since it was put off (rule r/busy): 450 4.2.1 Busy"
    assert (found.ahead, found.obstacles[0].kind) == (None, "due")
    assert found.recipients[0].next_try == found.due
    scene.clock.forward(301)
    assert (await scene.ask(asked)).obstacles == []


async def test_whom_the_list_has(scene: Scene) -> None:
    now = datetime.fromtimestamp(scene.clock.epoch(), UTC)
    entry = entry_of(
        "@shut.test", stream="news", reason="550", source=Source.OPERATOR, since=now, now=now, life=60.0
    )
    await scene.replica.parts.suppressions.put([entry])
    found = await scene.ask(await scene.put(1, "Ann@shut.test", handling=NEWS, route="news"))
    assert (found.recipients[0].next_relays, found.recipients[0].obstacles[0].kind) == ([], "suppressed")
    assert "To Ann@shut.test: @shut.test is on the suppression list for the stream news" in found.says[-1]
    found = await scene.ask(await scene.put(2, "Ann@shut.test"))
    assert found.recipients[0].obstacles == [], "it is another stream's"


async def test_what_ended_and_what_nobody_knows(scene: Scene) -> None:
    bad = await scene.put(1, status=Status.ERROR, reason="no subject")
    found = await scene.ask(bad)
    assert found.says[0].endswith(": no subject.")
    assert (found.recipients, found.ways) == ([], [])
    assert await Explaining(scene.replica).explain("f" * 24) is None
    scene.replica.opening.set("MongoDB is away", 0.0)
    with pytest.raises(Unavailable, match="away"):
        await Explaining(scene.replica).explain(bad.id)


REFUSED = Result(
    verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="No such user", rule="r/gone"
)
BUSY = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="Busy", rule="default/later")
ON_LIST = Result(verdict=Verdict.REFUSED, phase=Phase.INTAKE, text="suppressed: left us")
LOST = Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT, text="the connection was lost")


@pytest.mark.parametrize(
    ("recipient", "said"),
    [
        (
            Recipient(address="a@shut.test", result=ON_LIST),
            "To a@shut.test: nothing was sent, suppressed: left us. Now the list has @shut.test, by operator"
            " (left us).",
        ),
        (
            Recipient(address="a@other.test", result=ON_LIST),
            "To a@other.test: nothing was sent, suppressed: left us. Now no entry of the list holds for it.",
        ),
        (
            Recipient(address="a@x.test", result=REFUSED, relay="ses"),
            "To a@x.test: ses refused it at rcpt (rule r/gone): 550 5.1.1 No such user",
        ),
        (
            Recipient(address="a@x.test", result=BUSY, relay="grid", tries=7, closed=True),
            "To a@x.test: given up after 7 attempts; grid put it off last, at rcpt (rule default/later): 450"
            " Busy",
        ),
        (
            Recipient(address="a@x.test", result=LOST, relay="grid", tries=1, doubts=1, closed=True),
            "To a@x.test: nobody knows whether it got it over grid: the connection was lost",
        ),
        (
            Recipient(address="a@x.test", result=NEVER_TRIED, closed=True),
            "To a@x.test: its time was over before it was tried.",
        ),
    ],
)
async def test_what_ended_is_told_recipient_by_recipient(
    scene: Scene, recipient: Recipient, said: str
) -> None:
    now = datetime.fromtimestamp(scene.clock.epoch(), UTC)
    entry = entry_of(
        "@shut.test", reason="left us", source=Source.OPERATOR, since=now, endless=True, now=now, life=1
    )
    await scene.replica.parts.suppressions.put([entry])
    asked = await scene.ended(1, recipient)
    why = "nobody knows whether a relay took it" if recipient.doubts else "no relay took it"
    head = f"It ended as an error at {scene.in_seconds(0)}: {why}."
    assert (await scene.ask(asked)).says == [head, said]
    got = Recipient(address="got@x.test", result=Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250))
    asked = await scene.ended(2, got, recipient, status=Status.SENT, finished_at=now)
    head = f"It was sent at {scene.in_seconds(0)}, to 1 of 2 recipients."
    assert (await scene.ask(asked)).says == [head, said]


async def test_of_many_who_got_nothing_the_first_are_told(scene: Scene) -> None:
    many = tuple(Recipient(address=f"r{n}@x.test", result=REFUSED, relay="ses") for n in range(25))
    asked = await scene.ended(1, *many)
    says = (await scene.ask(asked)).says
    assert (len(says), says[-1]) == (
        12,
        f"15 more recipients did not get it: GET /letters/{asked.id} has all.",
    )


async def test_why_it_ended_is_told_although_the_list_is_away(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("MongoDB is away")

    monkeypatch.setattr(scene.replica.suppression, "met", away)
    hit = Recipient(address="a@shut.test", result=ON_LIST)
    says = (await scene.ask(await scene.ended(1, hit))).says
    assert says[1] == "To a@shut.test: nothing was sent, suppressed: left us."


async def test_it_is_told_when_a_letter_expires_that_waits(scene: Scene) -> None:
    expires = datetime.fromtimestamp(scene.clock.epoch() + 3600, UTC)
    found = await scene.ask(asked := await scene.put(1, expires=expires))
    assert (
        found.says[2] == f"It expires at {scene.in_seconds(3600)}: if it is not sent before, it is an error."
    )
    scene.clock.forward(3601)
    says = (await scene.ask(asked)).says
    assert not any("expires at" in each for each in says)
    assert "Its time to be sent is over: it is reported as expired within seconds." in says


async def test_the_terminal_shows_relays_and_recipients_and_nothing_that_steers_it(scene: Scene) -> None:
    asked = await scene.put(1, *(f"r{number}@x.test" for number in range(25)), handling=NEWS, route="news")
    scene.ses.hold("0" * 24, Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=550, text="\x1b[31mno"))
    now = datetime.fromtimestamp(scene.clock.epoch(), UTC)
    lines = list(told((await scene.ask(asked)).model_dump(mode="json"), now))
    assert lines[0] == f"letter {asked.id}: awaiting"
    (ses,) = [each for each in lines if each.startswith("  ses")]
    assert ses.startswith("  ses, weight 3: ses refuses everybody's letters: 550 [31mno.")
    assert "  own, only where none of the others goes: goes" in lines
    assert lines[-1] == "… and 5 more recipients"
    assert lines[-2] == f"r19@x.test: next grid, due since {scene.in_seconds(0)}"
    assert "not known" in next(list_told(None))
    assert list(list_told([])) == ["list    the address is not on the suppression list"]


@pytest.mark.parametrize(
    ("relays", "kinds", "at", "said"),
    [
        ([], [], -60, "no relay goes for it now; due since 2026-11-30T10:44:08Z"),
        ([], [], 60, "no relay goes for it now; due at 2026-11-30T10:46:08Z"),
        ([], ["order"], None, "no relay goes for it now"),
        (["a"], [], 60, "next a, at 2026-11-30T10:46:08Z"),
        (["a", "b"], [], -60, "next a or b, due since 2026-11-30T10:44:08Z"),
        (["a"], [], None, "next a"),
        ([], ["suppressed"], -60, "nothing is sent to it"),
    ],
)
async def test_the_next_try_of_a_recipient_is_a_time_to_come(
    relays: list[str], kinds: list[str], at: float | None, said: str
) -> None:
    now = datetime(2026, 11, 30, 10, 45, 8, 430000, tzinfo=UTC)
    person = {
        "address": "u0@a.test",
        "next_relays": relays,
        "next_try": None if at is None else (now + timedelta(seconds=at)).isoformat(),
        "obstacles": [{"kind": each, "text": "x"} for each in kinds],
    }
    answer = {"id": "1", "status": "awaiting", "says": [], "ways": [], "recipients": [person]}
    assert list(told(answer | {"recipients_left_out": 0}, now))[1:] == [f"u0@a.test: {said}"]


async def test_a_dry_run_tells_ways_and_whom_the_list_has(scene: Scene) -> None:
    now = datetime.fromtimestamp(scene.clock.epoch(), UTC)
    entry = entry_of("a@far.test", source=Source.OPERATOR, since=now, now=now, life=60.0)
    await scene.replica.parts.suppressions.put([entry])
    one = {"Subject": "s", "Body": "b", "Addresses": ["a@far.test", "b@near.test"], "Stream": "news"}
    batch = [one, one | {"Stream": ""}, one | {"Route": "nowhere"}]
    operations = ReplicaOperations(scene.replica)
    found = await operations.dry_run(json.dumps(batch).encode())
    await operations.close()
    first, second = found.shown
    assert [(each.route, each.relays, each.recipients) for each in first.ways] == [
        ("news", ["ses", "grid", "own"], 2)
    ]
    assert {each.route: each.recipients for each in second.ways} == {"far": 1, "default": 1}
    assert (first.route, second.route, first.suppressed) == ("news", "default", ["a@far.test"])
    assert [each.index for each in found.faults] == [2]
    assert (found.faults[0].field, found.faults[0].text) == (
        "Route",
        "names no route that letters may choose",
    )


@pytest.mark.parametrize(("route", "taken"), [("far", False), ("nix", False), ("mine", True), ("", True)])
async def test_a_letter_that_may_not_have_its_route_is_not_published(
    scene: Scene, route: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what else is wrong with a letter: it would end as an error, hours later for all its sender knows."""
    sink = FakeSink()
    monkeypatch.setattr(scene.replica, "parts", replace(scene.replica.parts, sink=sink))
    monkeypatch.setattr(scene.replica, "state", "running")
    operations = ReplicaOperations(scene.replica)
    good = {"Subject": "s", "Body": "b", "Addresses": ["b@near.test"]}
    wished = good | {"route": route}
    twice = wished | {"Addresses": ["@"]}
    fault = Fault(index=1, field="Route", text="names no route that letters may choose")
    try:
        batch = await refused(operations.post(json.dumps([good, wished]).encode(), ""), BadBatch)
        alone = await refused(operations.submit(Submission(body=json.dumps(wished).encode()), ""), BadLetter)
        both = await refused(operations.submit(Submission(body=json.dumps(twice).encode()), ""), BadLetter)
        dry = await operations.dry_run(json.dumps([good, wished]).encode())
    finally:
        await operations.close()
    assert batch == (() if taken else (fault,))
    assert alone == (() if taken else (replace(fault, index=0),))
    assert [each.field for each in both] == ["Addresses[0]", *([] if taken else ["Route"])]
    assert [(each.index, each.field, each.text) for each in dry.faults] == [
        (each.index, each.field, each.text) for each in batch
    ]
    assert len(sink.published) == (2 if taken else 0)


async def refused(call: Awaitable[object], kind: type[BadBatch]) -> tuple[Wrong, ...]:
    """What was wrong with what was posted; empty where it was taken."""
    try:
        await call
    except kind as error:
        return error.faults
    return ()


async def test_kinds_are_those_of_the_description() -> None:
    assert set(Kinds.__args__) == {each.value for each in Kind}
