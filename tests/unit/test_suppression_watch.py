"""One replica's view of the suppression list: what it asks, what it learns, what it does without it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.model.letter import Letter, Phase, Result, Status, Verdict, now_ms
from mailsender.suppression import watch as module
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.port import Entry, Refusal, Source
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import CLOSED_FOR, EMPTY_FOR, SuppressionWatch
from tests.clocks import ManualClock
from tests.dispatching import letter, until
from tests.relays import ACCEPTED

pytestmark = pytest.mark.asyncio

ANN, BOB = "ann@example.test", "bob@example.test"
NO_SUCH = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")
UNCLEAR = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, text="no")


class Store(MemorySuppressions):
    """Counts what is asked, and fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fault: Exception | None = None

    async def empty(self) -> bool:
        self._say("empty")
        return await super().empty()

    async def find(self, keys: Collection[str]) -> list[Entry]:
        self._say("find")
        return await super().find(keys)

    async def note(self, refusals: Sequence[Refusal]) -> None:
        self._say("note")
        await super().note(refusals)

    async def remove(self, keys: Collection[str], *, learned: bool = False) -> int:
        self._say("remove")
        return await super().remove(keys, learned=learned)

    def _say(self, what: str) -> None:
        self.asked.append(what)
        if self.fault is not None:
            raise self.fault


class Scene:
    def __init__(self, **changes: Any) -> None:
        self.clock = ManualClock()
        self.store = Store()
        policy = SuppressionPolicy(**{"learns": True} | changes)
        self.watch = SuppressionWatch(self.store, self.clock, policy, stream=lambda each: each.subject)

    async def put(self, address: str, **changes: Any) -> None:
        now = now_ms(self.clock.epoch())
        fields: dict[str, Any] = {"source": Source.OPERATOR, "since": now, "until": now + timedelta(days=30)}
        await MemorySuppressions.put(self.store, [Entry(address=address, **fields | changes)])
        self.watch.stir()

    async def written(self) -> None:
        """What was learned is written."""
        stop = asyncio.Event()
        stop.set()
        await self.watch.run(stop)

    def entry(self, address: str) -> Entry | None:
        return self.store._entries.get(address)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATHER", "FIRST_BACKOFF", "LAST_BACKOFF"):
        monkeypatch.setattr(module, name, 0.001)


def mail(number: int, *addresses: str, stream: str = "") -> Letter:
    return letter(number, *addresses).evolve(subject=stream)


# --- before it is sent ---------------------------------------------------------------------------


async def test_an_empty_list_is_asked_for_once_in_a_while_and_nobody_is_looked_up() -> None:
    scene = Scene()
    assert not scene.watch.idle
    assert await scene.watch.look_up([mail(1)]) == {}
    assert scene.watch.idle
    assert await scene.watch.look_up([mail(2)]) == {}
    scene.clock.forward(EMPTY_FOR)
    assert not scene.watch.idle
    assert await scene.watch.look_up([mail(3)]) == {}
    assert scene.store.asked == ["empty", "empty"]


async def test_the_letters_of_a_claim_are_one_query() -> None:
    scene = Scene()
    await scene.put(ANN)
    letters = [mail(number) for number in range(500)]
    found = await scene.watch.look_up([*letters, mail(500, ANN)])
    assert [each.status for each in found.values()] == [Status.ERROR]
    await scene.watch.look_up(letters)
    assert scene.store.asked == ["empty", "find", "find"]


async def test_what_another_replica_puts_there_is_met_soon() -> None:
    scene = Scene()
    await scene.watch.look_up([mail(1, ANN)])
    now = now_ms(scene.clock.epoch())
    await scene.store.put([Entry(address=ANN, source=Source.OPERATOR, since=now)])
    scene.clock.forward(EMPTY_FOR)
    assert len(await scene.watch.look_up([mail(1, ANN)])) == 1
    await scene.store.put([Entry(address=BOB, source=Source.OPERATOR, since=now)])
    assert len(await scene.watch.look_up([mail(2, BOB)])) == 1  # at once: the list is not empty


async def test_what_is_put_there_while_it_is_asked_is_met() -> None:
    scene = Scene()
    asking, go_on = asyncio.Event(), asyncio.Event()

    async def empty() -> bool:
        asking.set()
        await go_on.wait()
        return True

    scene.store.empty = empty  # type: ignore[method-assign]
    looking = asyncio.create_task(scene.watch.look_up([mail(1, BOB)]))
    await asking.wait()
    await scene.put(ANN)
    go_on.set()
    await looking
    assert not scene.watch.idle


async def test_a_stream_has_its_own_and_may_ignore_the_list() -> None:
    scene = Scene()
    await scene.put(ANN)
    await scene.put(BOB, stream="news")
    ignoring = mail(1, ANN, stream="transactional").evolve(mail='{"Suppression":"ignore"}')
    letters = [
        ignoring,
        mail(2, ANN, stream="transactional"),
        mail(3, BOB, stream="news"),
        mail(4, BOB, stream="transactional"),
        mail(5, ANN, BOB, stream="news"),
    ]
    found = await scene.watch.look_up(letters)
    assert found.keys() == {each.id for each in (letters[1], letters[2], letters[4])}


async def test_while_mongodb_is_away_nobody_knows() -> None:
    scene = Scene()
    scene.store.fault = Unavailable("away")
    with pytest.raises(Unavailable):
        await scene.watch.look_up([mail(1)])
    assert not scene.watch.idle


@pytest.mark.parametrize("fault", [Forbidden("no right"), Rejected("no")], ids=str)
async def test_a_list_that_may_not_be_read_keeps_nobody_from_sending(fault: Exception) -> None:
    scene = Scene()
    scene.store.fault = fault
    with capture_logs() as logs:
        assert await scene.watch.look_up([mail(1)]) == {}
        assert scene.watch.idle
        scene.clock.forward(CLOSED_FOR)
        assert await scene.watch.look_up([mail(1)]) == {}
    assert [each["event"] for each in logs] == ["suppression_unread"]
    assert scene.watch.unread
    scene.store.fault = None
    scene.clock.forward(CLOSED_FOR)
    await scene.watch.look_up([mail(1)])
    assert not scene.watch.unread


# --- after it was sent ---------------------------------------------------------------------------


async def test_one_refusal_of_its_own_is_learned_and_met_at_once() -> None:
    scene = Scene()
    await scene.watch.look_up([mail(1, ANN)])
    scene.watch.note(mail(1, ANN), {ANN: NO_SUCH})
    await scene.written()
    found = scene.entry(ANN)
    assert found is not None
    assert (found.active, found.reason, found.letter) == (True, "550 5.1.1", mail(1).id)
    assert found.until == now_ms(scene.clock.epoch()) + timedelta(days=30)
    assert len(await scene.watch.look_up([mail(2, ANN)])) == 1
    assert scene.watch.learned == 1


async def test_another_one_takes_two_letters() -> None:
    scene = Scene()
    for number, active in ((1, False), (1, False), (2, True)):
        scene.watch.note(mail(number, ANN), {ANN: UNCLEAR})
        await scene.written()
        found = scene.entry(ANN)
        assert found is not None
        assert found.active is active


async def test_a_success_between_two_refusals_makes_the_first_one_forgotten() -> None:
    scene = Scene()
    scene.watch.note(mail(1, ANN), {ANN: UNCLEAR})
    await scene.written()
    assert not scene.watch.watching
    await scene.watch.look_up([mail(2, ANN, BOB)])
    assert scene.watch.watching
    scene.watch.note(mail(2, ANN, BOB), {ANN: ACCEPTED, BOB: ACCEPTED})
    assert not scene.watch.watching
    await scene.written()
    assert scene.entry(ANN) is None
    assert scene.watch.lifted == 1
    scene.watch.note(mail(3, ANN), {ANN: UNCLEAR})
    await scene.written()
    found = scene.entry(ANN)
    assert found is not None
    assert not found.active


async def test_a_success_lifts_what_was_learned_and_nothing_else() -> None:
    scene = Scene()
    await scene.put(ANN, source=Source.REFUSAL)
    await scene.put(BOB)
    await scene.put(BOB, stream="codes", source=Source.BOUNCE)
    both = mail(1, ANN, BOB, stream="codes")
    await scene.watch.look_up([both])
    scene.watch.note(both, {ANN: ACCEPTED, BOB: ACCEPTED})
    await scene.written()
    assert [each.key for each in await scene.store.find([ANN, BOB, f"{BOB} codes"])] == [BOB]


async def test_a_refusal_that_waits_is_taken_back_by_a_success() -> None:
    scene = Scene()
    await scene.put(ANN, source=Source.REFUSAL, active=False, refusals=1)
    await scene.watch.look_up([mail(2, ANN), mail(3, ANN)])
    scene.watch.note(mail(2, ANN), {ANN: UNCLEAR})
    scene.watch.note(mail(3, ANN), {ANN: ACCEPTED})
    await scene.written()
    assert scene.entry(ANN) is None


async def test_without_learning_nothing_is_written() -> None:
    scene = Scene(learns=False)
    scene.watch.note(mail(1, ANN), {ANN: NO_SUCH})
    await scene.written()
    assert await scene.store.empty()
    assert "note" not in scene.store.asked


async def test_what_was_learned_waits_for_mongodb() -> None:
    scene = Scene()
    stop = asyncio.Event()
    scene.store.fault = Unavailable("away")
    running = asyncio.create_task(scene.watch.run(stop))
    scene.watch.note(mail(1, ANN), {ANN: NO_SUCH})
    await until(lambda: scene.store.asked.count("note") >= 3)
    scene.store.fault = None
    await until(lambda: scene.entry(ANN) is not None)
    asked = len(scene.store.asked)
    stop.set()
    await running
    assert (len(scene.store.asked), scene.watch.learned) == (asked, 1)


async def test_what_cannot_be_written_is_dropped() -> None:
    scene = Scene()
    scene.store.fault = Rejected("no")
    scene.watch.note(mail(1, ANN), {ANN: NO_SUCH})
    with capture_logs() as logs:
        await scene.written()
        await scene.written()
    assert [each["event"] for each in logs] == ["suppression_not_written"]


async def test_what_is_learned_and_watched_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", 2)
    monkeypatch.setattr(module, "WATCHED", 2)
    scene = Scene()
    for number in range(4):
        scene.watch.note(mail(number), {f"r{number}@example.test": NO_SUCH})
    assert scene.watch.forgotten == 2
    await scene.written()
    assert scene.watch.learned == 2
    for number in range(4):
        await scene.put(f"r{number}@example.test", source=Source.REFUSAL)
    await scene.watch.look_up([mail(number) for number in range(4)])
    scene.watch.note(mail(9), {f"r{number}@example.test": ACCEPTED for number in range(4)})
    await scene.written()
    assert scene.watch.lifted == 2


async def test_that_nothing_may_be_written_is_said_once_and_it_waits() -> None:
    scene = Scene()
    scene.store.fault = Forbidden("lacks rights")
    scene.watch.note(letter(1, ANN), {ANN: NO_SUCH})
    with capture_logs() as logs:
        for _ in range(3):
            await scene.written()
        assert [each["event"] for each in logs] == ["suppression_unwritten"]
        assert scene.watch.unwritten
        scene.store.fault = None
        await scene.written()
    assert scene.entry(ANN) is not None
    assert [each["event"] for each in logs] == [
        "suppression_unwritten",
        "suppression_written_again",
        "refusals_learned",
    ]
