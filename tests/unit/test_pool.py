"""Sessions with a relay: how they are opened, shared, replaced and closed, and what is said of failures."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from structlog.testing import capture_logs

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.pool import NOT_ASKED, RELEARN, Held, Pool, PoolLimits, Stopped
from mailsender.smtp.port import RelayAway, Session
from tests.clocks import ManualClock
from tests.dispatching import known_relay
from tests.relays import FakeRelay, FakeSession

REFUSED = RelayAway("nobody listens there: see SMTP_HOST and SMTP_PORT (connection refused)", phase="connect")
LOGIN = RelayAway("the relay refused the session (auth): 535 Wrong password", phase="auth", code=535)


class Line:
    """The sessions with a relay, told by a test what came of its tries."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.relay = FakeRelay()
        self.pool = Pool(
            self.relay,
            PoolLimits(sessions=2),
            self.clock,
            chance=random.Random(1),
            stopping=asyncio.Event(),
        )

    def told(self, *tries: RelayAway, every: float = 1.0) -> list[tuple[str, object, object, object]]:
        """What is said of these in a row."""
        with capture_logs() as logs:
            for each in tries:
                self.pool.note_away(each)
                self.clock.forward(every)
        return [(line["event"], line["phase"], line["code"], line["error"]) for line in logs]


def test_a_relay_that_is_away_is_told_once_and_again_when_something_else_is_wrong() -> None:
    line = Line()
    assert line.told(REFUSED, REFUSED, LOGIN, LOGIN) == [
        ("relay_away", "connect", None, str(REFUSED)),
        ("relay_away", "auth", 535, str(LOGIN)),
    ]
    assert line.pool.reach.since == ManualClock().epoch(), "it is one outage"
    line.clock.forward(60)
    code = RelayAway("the relay refused the session (auth): 534 Mechanism", phase="auth", code=534)
    other = RelayAway("no address was found for SMTP_HOST=relay", phase="connect")
    assert [error for *_, error in line.told(code, other, every=120)] == [str(code), str(other)]


def test_the_same_in_other_words_of_the_relay_is_no_news() -> None:
    tries = [
        RelayAway(f"the relay refused the session (greeting): 421 id {n}", phase="greeting", code=421)
        for n in range(10)
    ]
    assert len(Line().told(*tries, every=1000)) == 1


def test_troubles_that_alternate_are_told_ever_more_rarely() -> None:
    line = Line()
    assert len(line.told(*[REFUSED, LOGIN] * 1800)) <= 9, "in an hour"
    assert len(line.told(*[REFUSED, LOGIN] * 1800)) <= 1


@pytest.mark.asyncio
async def test_that_the_last_session_is_gone_is_another_trouble_than_that_it_opens_no_further_ones() -> None:
    line = Line()
    held = await line.pool.place(wait=True)
    assert [event for event, *_ in line.told(REFUSED)] == ["relay_refuses_session"]
    line.pool.leave(held, usable=False)
    assert [event for event, *_ in line.told(REFUSED, REFUSED)] == ["relay_away"]


def test_an_outage_that_begins_anew_is_told_at_once() -> None:
    line = Line()
    line.told(*[REFUSED, LOGIN] * 100)
    line.pool.note_there()
    assert len(line.told(LOGIN)) == 1


def refusal(code: int, text: str) -> Result:
    return Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=code, text=text)


def test_that_a_relay_refuses_letters_for_another_reason_is_told() -> None:
    clock = ManualClock()
    state = known_relay(FakeRelay(), clock)
    with capture_logs() as logs:
        for code, text in ((550, "Sender not allowed"), (550, "Still not"), (451, "Quota"), (451, "Quota 2")):
            state.hold("1" * 24, refusal(code, text))
            clock.forward(400)
            assert state.breaker.take_try(clock.monotonic())
    told = [(line["event"], line["code"], line["text"]) for line in logs]
    assert told == [
        ("relay_refuses_letters", 550, "Sender not allowed"),
        ("relay_refuses_letters", 451, "Quota"),
    ]
    assert state.refusing_since == ManualClock().epoch(), "since then it takes none"


# --- places -----------------------------------------------------------------------------------------


class Scene:
    """A pool over a relay, whose clock a test moves."""

    def __init__(self, relay: FakeRelay | None = None, **limits: float) -> None:
        self.clock = ManualClock()
        self.relay = relay or FakeRelay()
        self.stopping = asyncio.Event()
        self.pool = Pool(
            self.relay,
            PoolLimits(
                sessions=int(limits.get("sessions", 2)),
                letters=int(limits.get("letters", 0)),
                idle=limits.get("idle", 30.0),
            ),
            self.clock,
            chance=random.Random(1),
            stopping=self.stopping,
            patience=limits.get("patience", math.inf),
        )

    async def place(self, *, wait: bool = True) -> Held:
        async with asyncio.timeout(5):
            held = await self.pool.place(wait=wait)
        self.pool.begin(held)
        return held


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_session_is_used_again_and_the_one_that_was_used_last_comes_first() -> None:
    scene = Scene()
    first, second = await scene.place(), await scene.place()
    assert scene.relay.connects == 2
    scene.pool.leave(first)
    scene.pool.leave(second)
    assert await scene.place() is second
    assert await scene.place() is first
    assert (scene.relay.connects, len(scene.pool), scene.pool.busy) == (2, 2, 2)


@pytest.mark.asyncio
async def test_whoever_finds_no_place_waits_for_one() -> None:
    scene = Scene(sessions=1)
    held = await scene.place()
    waiting = [asyncio.create_task(scene.place()) for _ in range(2)]
    await turns()
    assert not any(each.done() for each in waiting)
    scene.pool.leave(held)
    await turns()
    assert [each.done() for each in waiting] == [True, False]
    scene.pool.leave(await waiting[0])
    assert await waiting[1] is held


@pytest.mark.asyncio
async def test_nobody_waits_behind_a_message_that_takes_longer_than_a_slot_lives() -> None:
    scene = Scene(FakeRelay(depth=2), sessions=1, patience=0.05)
    slow = await scene.place()
    slow.session.under_way = 1  # type: ignore[attr-defined]  its transaction is under way
    quick = await scene.place()
    assert quick is slow, "nothing is known of it yet"
    slow.to_dot = 0.06
    scene.pool.leave(quick)
    waiting = asyncio.create_task(scene.place())
    await turns()
    assert not waiting.done()
    slow.to_dot = 0.04
    scene.pool.leave(slow)
    assert await waiting is slow
    assert await scene.place() is slow


@pytest.mark.asyncio
async def test_half_of_a_session_is_taken_when_there_are_no_whole_ones() -> None:
    scene = Scene(FakeRelay(depth=2), sessions=2)
    held = [await scene.place() for _ in range(2)]
    assert scene.relay.connects == 2
    for each in held:
        each.session.under_way = 1  # type: ignore[attr-defined]  its transaction is under way
    more = [await scene.place() for _ in range(2)]
    assert set(map(id, more)) == set(map(id, held))
    waiting = asyncio.create_task(scene.place())
    await turns()
    assert not waiting.done()
    scene.pool.leave(more[0])
    assert await waiting is more[0]


@pytest.mark.asyncio
async def test_what_is_remembered_of_places_does_not_grow() -> None:
    scene = Scene(FakeRelay(depth=2), sessions=1)
    for _ in range(1000):
        scene.pool.leave(await scene.place())
    assert (len(scene.pool._second), len(scene.pool._idle), len(scene.pool._waiters)) == (0, 1, 0)
    assert scene.relay.connects == 1


@pytest.mark.asyncio
async def test_a_session_is_replaced_after_its_share_once_nothing_is_under_way() -> None:
    scene = Scene(FakeRelay(depth=2), sessions=1, letters=2)
    first = await scene.place()
    first.session.under_way = 1  # type: ignore[attr-defined]
    assert await scene.place() is first
    waiting = asyncio.create_task(scene.place())
    scene.pool.leave(first)
    await turns()
    assert not scene.relay.sessions[0].closed
    assert not waiting.done()
    scene.pool.leave(first)
    assert await waiting is not first
    assert scene.relay.sessions[0].closed
    assert scene.relay.connects == 2


@pytest.mark.asyncio
async def test_a_session_that_died_while_it_idled_is_replaced() -> None:
    scene = Scene()
    held = await scene.place()
    scene.pool.leave(held)
    scene.relay.sessions[0].alive = False
    assert await scene.place() is not held
    assert len(scene.pool) == 1


@pytest.mark.asyncio
async def test_an_unusable_one_is_closed_and_whoever_waits_opens_another() -> None:
    scene = Scene(sessions=1)
    held = await scene.place()
    waiting = asyncio.create_task(scene.place())
    await turns()
    scene.pool.leave(held, usable=False)
    assert await waiting is not held
    assert scene.relay.sessions[0].closed


@pytest.mark.asyncio
async def test_a_stop_is_heard_while_an_idle_session_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no more, and the next one is not to be opened for a minute."""
    scene, answer = Scene(sessions=1), asyncio.Event()
    held = await scene.place()
    scene.pool.leave(held)

    async def gone(*, ask: bool = False) -> bool:
        del ask
        await answer.wait()
        return False

    monkeypatch.setattr(held.session, "check_alive", gone)
    waiting = asyncio.create_task(scene.place())
    await turns()
    scene.pool._next_try = scene.clock.monotonic() + 60.0
    scene.stopping.set()
    scene.pool.stop()
    answer.set()
    with pytest.raises(Stopped):
        await waiting


# --- a relay that is away -------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_relay_that_is_away_is_tried_with_growing_pauses_by_one_at_a_time() -> None:
    scene = Scene(FakeRelay(away="refused"), sessions=5)
    waiting = [asyncio.create_task(scene.pool.place(wait=True)) for _ in range(5)]
    await turns()
    tries = scene.relay.connects
    assert (tries, scene.pool.away) == (1, True)
    running = asyncio.create_task(scene.pool.run())
    for seconds in (2.0, 4.0, 8.0):
        await turns()
        assert scene.relay.connects == tries, "nobody tries before it is time"
        scene.clock.forward(seconds)
        scene.pool._wake()
        await turns()
        tries += 1
        assert scene.relay.connects == tries
    scene.relay.away = ""
    scene.clock.forward(60.0)
    scene.pool._wake()
    async with asyncio.timeout(5):
        await asyncio.wait(waiting)
    assert not scene.pool.away
    scene.stopping.set()
    await running


@pytest.mark.asyncio
@pytest.mark.parametrize(("phase", "least", "most"), [("connect", 5.0, 12.5), ("auth", 45.0, 75.0)])
async def test_one_that_comes_back_after_long_is_found_soon_and_one_that_refuses_is_left_in_peace(
    monkeypatch: pytest.MonkeyPatch, phase: str, least: float, most: float
) -> None:
    scene = Scene()

    async def connect() -> Session:
        raise RelayAway("no", phase=phase)

    monkeypatch.setattr(scene.relay, "connect", connect)
    pauses = []
    for _ in range(20):
        with pytest.raises(RelayAway):
            await scene.place(wait=False)
        assert scene.pool.reach.again_at is not None
        pauses.append(scene.pool.reach.again_at - scene.clock.epoch())
        scene.clock.forward(100)
    assert all(least < each <= most for each in pauses[7:]), pauses
    assert pauses[0] < 2


@pytest.mark.asyncio
async def test_who_cannot_wait_is_told_at_once() -> None:
    scene = Scene(FakeRelay(away="refused"))
    for _ in range(2):
        with pytest.raises(RelayAway, match="refused"):
            await scene.place(wait=False)
    assert scene.relay.connects == 1, "it is not asked again so soon"


@pytest.mark.asyncio
async def test_who_cannot_wait_waits_for_a_session_that_is_being_opened() -> None:
    """Told that there is none, it would ask again at once, and nobody else would ever have a turn."""
    scene = Scene(sessions=1)
    first, second = (asyncio.create_task(scene.place(wait=False)) for _ in range(2))
    await turns(20)
    assert first.done()
    assert not second.done()
    scene.pool.leave(await first)
    assert await second is await first


@pytest.mark.asyncio
async def test_that_it_opens_no_further_session_hurts_nobody_who_has_one() -> None:
    scene = Scene(sessions=2)
    held = await scene.place()
    scene.relay.away = "421 too many connections"
    waiting = asyncio.create_task(scene.place())
    await turns()
    assert (scene.pool.away, waiting.done()) == (False, False)
    scene.pool.leave(held)
    assert await waiting is held


@pytest.mark.asyncio
async def test_a_stop_ends_all_waiting() -> None:
    scene = Scene(sessions=1)
    await scene.place()
    waiting = [asyncio.create_task(scene.pool.place(wait=True)) for _ in range(3)]
    await turns()
    scene.stopping.set()
    scene.pool.stop()
    done, _ = await asyncio.wait(waiting, timeout=5)
    assert len(done) == 3
    assert all(isinstance(each.exception(), Stopped) for each in done)


@pytest.mark.asyncio
async def test_a_relay_is_asked_once_although_nothing_is_to_be_sent_and_idle_sessions_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.routing.pool.LOOK", 0.01)
    scene = Scene(idle=10.0)
    assert scene.pool.reason == NOT_ASKED
    running = asyncio.create_task(scene.pool.run())
    async with asyncio.timeout(5):
        while not len(scene.pool):  # noqa: ASYNC110  what is asked for has no event of its own
            await asyncio.sleep(0.005)
        assert scene.pool.reason == ""
        scene.clock.forward(11.0)
        while len(scene.pool):  # noqa: ASYNC110  as above
            await asyncio.sleep(0.005)
    await turns()
    assert (scene.relay.sessions[0].closed, scene.relay.connects) == (True, 1)
    scene.stopping.set()
    await running


# --- how many, and whether they move -----------------------------------------------------------------


@pytest.mark.asyncio
async def test_it_begins_with_few_sessions_and_more_are_opened_as_those_are() -> None:
    scene = Scene(sessions=20)
    waiting = [asyncio.create_task(scene.pool.place(wait=True)) for _ in range(20)]
    await turns(1)
    assert scene.pool.window == (5, 20)
    await asyncio.wait(waiting, timeout=5)
    assert (scene.relay.connects, scene.pool.window) == (20, (20, 20))


@pytest.mark.asyncio
async def test_a_relay_that_opens_no_further_session_is_asked_for_one_more_at_a_time() -> None:
    scene = Scene(sessions=10)
    held = [await scene.place() for _ in range(3)]
    scene.relay.away = "421 too many connections"
    waiting = [asyncio.create_task(scene.pool.place(wait=True)) for _ in range(5)]
    for seconds in (2.0, 4.0, 8.0):
        await turns(20)
        asked = scene.relay.connects
        scene.clock.forward(seconds)
        scene.pool._wake_all()
        await turns(20)
        assert scene.relay.connects == asked + 1, "not by all who wait"
    assert scene.pool.window[0] == len(held) + 1
    scene.relay.away = ""
    scene.clock.forward(60.0)
    scene.pool._wake_all()
    await asyncio.wait(waiting, timeout=5)
    assert len(scene.pool) == 8


@pytest.mark.asyncio
async def test_one_that_was_away_is_back_when_it_answers_a_command_and_no_letter_finds_that_out() -> None:
    scene = Scene(FakeRelay(away="refused"), sessions=5)
    with pytest.raises(RelayAway):
        await scene.place(wait=False)
    scene.relay.away, scene.relay.mute = "", True
    scene.clock.forward(10.0)
    with pytest.raises(RelayAway, match="NOOP"):
        await scene.place(wait=False)
    assert (scene.pool.away, scene.relay.sessions[0].closed, scene.relay.asked) == (True, True, 1)
    scene.relay.mute = False
    scene.clock.forward(60.0)
    await scene.place(wait=False)
    await scene.place(wait=False)
    assert (scene.pool.away, scene.relay.asked) == (False, 2), "only the first one is asked"


@pytest.mark.asyncio
async def test_all_who_have_another_relay_learn_at_once_that_this_one_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(sessions=5)
    answer = asyncio.Event()

    async def connect() -> Session:
        await answer.wait()
        raise RelayAway("refused", phase="connect")

    monkeypatch.setattr(scene.relay, "connect", connect)
    waiting = [asyncio.create_task(scene.place(wait=False)) for _ in range(4)]
    await turns()
    assert not any(each.done() for each in waiting), "it may well be there"
    answer.set()
    done, _ = await asyncio.wait(waiting, timeout=1)
    assert [type(each.exception()) for each in done] == [RelayAway] * 4


@pytest.mark.asyncio
async def test_one_where_nothing_moves_hangs_and_who_has_another_does_not_wait_for_it() -> None:
    scene = Scene(sessions=1)
    held = await scene.place()
    first = asyncio.create_task(scene.place(wait=False))
    patient = asyncio.create_task(scene.place())
    await turns()
    for _ in range(3):
        assert not scene.pool.hangs
        scene.pool.look_at_moves()
    await turns()
    assert scene.pool.hangs
    assert isinstance(first.exception(), RelayAway)
    assert not patient.done(), "it has no other one"
    scene.pool.leave(held)
    await patient
    scene.pool.look_at_moves()
    assert not scene.pool.hangs


@pytest.mark.asyncio
async def test_one_that_greets_nobody_hangs_although_no_letter_waits_behind_those_who_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(sessions=5)
    scene.pool.leave(await scene.place(), usable=False)
    scene.pool.look_at_moves()
    greets = asyncio.Event()
    connect = scene.relay.connect

    async def mute() -> FakeSession:
        await greets.wait()
        return await connect()

    monkeypatch.setattr(scene.relay, "connect", mute)
    waiting = [asyncio.create_task(scene.place(wait=False)) for _ in range(3)]
    patient = asyncio.create_task(scene.place())
    await turns()
    with capture_logs() as logs:
        for _ in range(2):
            assert not scene.pool.hangs
            scene.pool.look_at_moves()
        await turns()
        assert [type(each.exception()) for each in waiting] == [RelayAway] * 3
        assert not patient.done(), "it has no other one"
        with pytest.raises(RelayAway):
            await scene.place(wait=False)
        assert scene.pool.hangs, "nobody begins anew with it"
        greets.set()
        await patient
        await turns()
        assert (len(scene.pool), scene.pool.busy) == (4, 1), "what was being opened is kept"
        await asyncio.wait_for(scene.place(wait=False), 1)
        scene.pool.look_at_moves()
        assert not scene.pool.hangs
    assert [line["event"] for line in logs] == ["relay_hangs", "relay_hangs_no_more"]


@pytest.mark.asyncio
async def test_a_session_that_nobody_waits_for_any_more_ends_with_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(sessions=5)
    scene.pool.leave(await scene.place(), usable=False)
    scene.pool.look_at_moves()
    monkeypatch.setattr(scene.relay, "connect", asyncio.Event().wait)
    waiting = asyncio.create_task(scene.place(wait=False))
    await turns()
    for _ in range(2):
        scene.pool.look_at_moves()
    await turns()
    assert isinstance(waiting.exception(), RelayAway)
    scene.stopping.set()
    scene.pool.stop()
    await asyncio.wait_for(scene.pool.close(), 1)


@pytest.mark.asyncio
async def test_one_where_slots_are_waited_for_does_not_hang() -> None:
    scene = Scene(sessions=1)
    await scene.place()
    waiting = asyncio.create_task(scene.place(wait=False))
    await turns()
    for _ in range(4):
        scene.pool.look_at_moves(slots_awaited=True)
        assert not scene.pool.hangs
    for _ in range(3):
        scene.pool.look_at_moves()
    await turns()
    assert isinstance(waiting.exception(), RelayAway)
    scene.pool.look_at_moves(slots_awaited=True)
    assert not scene.pool.hangs, "who waits for a slot has a session"


def test_one_of_which_nobody_wants_anything_does_not_hang() -> None:
    scene = Scene()
    for _ in range(10):
        scene.pool.look_at_moves()
    assert not scene.pool.hangs


@pytest.mark.asyncio
async def test_sessions_beyond_what_is_allowed_end_when_they_carry_nothing() -> None:
    scene = Scene(sessions=4)
    held = [await scene.place() for _ in range(4)]
    scene.pool.leave(held[0])
    scene.pool.allow(2)
    assert (len(scene.pool), scene.relay.sessions[0].closed) == (3, False)
    await turns()
    assert scene.relay.sessions[0].closed
    for each in held[1:]:
        scene.pool.leave(each)
    assert len(scene.pool) == 2
    scene.pool.allow(0)
    assert (len(scene.pool), scene.pool.closed) == (0, True)
    with pytest.raises(RelayAway):
        await scene.pool.place(wait=False)


@pytest.mark.asyncio
async def test_a_relay_that_counts_sessions_has_one_fewer_and_is_asked_for_more_after_an_hour() -> None:
    scene = Scene(sessions=4)
    held = [await scene.place() for _ in range(4)]
    for each in held:
        scene.pool.leave(each)
    with capture_logs() as logs:
        scene.pool.fewer()
    assert (len(scene.pool), scene.pool.window) == (3, (3, 4))
    assert [(each["event"], each["sessions"]) for each in logs] == [("relay_limits_connections", 3)]
    held = [await scene.place() for _ in range(3)]
    assert scene.pool.at_once() is None
    scene.clock.forward(RELEARN)
    scene.pool.leave(held[0], usable=False)
    await scene.place()
    assert scene.pool.window == (4, 4)


@pytest.mark.asyncio
@pytest.mark.parametrize("allowed", [0, 1, 2, 4])
async def test_nor_are_those_used_that_were_being_opened_when_fewer_were_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    scene, greets = Scene(sessions=4), asyncio.Event()
    first = await scene.place()
    connect = scene.relay.connect

    async def slow() -> FakeSession:
        await greets.wait()
        return await connect()

    monkeypatch.setattr(scene.relay, "connect", slow)
    waiting = [asyncio.create_task(scene.place()) for _ in range(3)]
    await turns()
    scene.pool.allow(allowed)
    greets.set()
    await turns(20)
    assert len(scene.pool) == max(1, allowed), "what carries something ends its letter"
    assert sum(each.closed for each in scene.relay.sessions) == 4 - max(1, allowed)
    scene.pool.leave(first)
    await turns(20)
    assert len(scene.pool) == allowed
    for each in waiting:
        each.cancel()


@pytest.mark.asyncio
async def test_one_more_is_too_many_where_the_relay_says_so_while_it_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene, greets = Scene(sessions=4), asyncio.Event()
    held = [await scene.place() for _ in range(3)]
    connect = scene.relay.connect

    async def slow() -> FakeSession:
        await greets.wait()
        return await connect()

    monkeypatch.setattr(scene.relay, "connect", slow)
    waiting = asyncio.create_task(scene.place())
    await turns()
    scene.pool.fewer()
    greets.set()
    await turns(20)
    for each in held:
        scene.pool.leave(each)
    await waiting
    assert (len(scene.pool), scene.pool.window[0]) == (2, 2)
