"""What the queue promises of reports, and the outbox that it keeps for that."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure
from structlog.testing import capture_logs

from mailsender.model.errors import Unavailable
from mailsender.model.letter import Answer, Letter, Settlement, Status
from mailsender.queue.port import Inserted, Queue
from mailsender.reports.publisher import Reporter, ReporterConfig
from tests.claims import LIFE, OTHER, REPLICA, claim
from tests.clocks import ManualClock
from tests.contract.conftest import (
    DEFERRED,
    MONGO,
    REFUSED,
    RETENTION,
    World,
    again,
    claim_one,
    ended,
    letter,
    only,
    send_one,
)
from tests.fakes import FakeSink

pytestmark = pytest.mark.asyncio

MANY = 40


async def taken(queue: Queue, many: int = MANY, replica: str = REPLICA) -> list[Settlement]:
    """Letters that came in and were claimed, with the outcome that is to be written."""
    await queue.insert([letter(number) for number in range(many)])
    claimed = await claim(queue, many, replica)
    assert len(claimed.letters) == many
    return [Settlement(token=claimed.token, letter=ended(each)) for each in claimed.letters]


async def sent(queue: Queue, many: int = MANY, replica: str = REPLICA) -> list[Letter]:
    settlements = await taken(queue, many, replica)
    assert await queue.settle(settlements) == frozenset()
    return [each.letter for each in settlements]


async def unreported(queue: Queue, older_than: float = 0) -> set[str]:
    return {each.id for each in await queue.unreported(older_than, 10 * MANY)}


def ids(letters: list[Letter]) -> set[str]:
    return {each.id for each in letters}


def answer_of(number: int) -> Answer:
    return letter(number).answers[0]


# --- one report a letter -----------------------------------------------------------------------------


async def test_what_is_settled_is_to_be_reported_until_that_is_acknowledged(queue: Queue) -> None:
    letters = await sent(queue)
    assert (await queue.stats()).unreported == MANY
    assert await unreported(queue) == ids(letters)
    await queue.acknowledge(letters[:10])
    await queue.acknowledge(letters[10:])
    await queue.acknowledge(letters)
    assert (await queue.stats()).unreported == 0
    assert await unreported(queue) == set()


async def test_what_is_acknowledged_is_not_found_again(queue: Queue) -> None:
    """One partition of the profile topic is in trouble, and one letter of many waits for it."""
    letters = await sent(queue)
    await queue.acknowledge(letters[:-1])
    assert await unreported(queue) == ids(letters[-1:])
    assert (await queue.stats()).unreported == 1
    assert await unreported(queue) == ids(letters[-1:])
    await queue.acknowledge(letters[-1:])
    assert (await queue.stats()).unreported == 0
    assert await unreported(queue) == set()


class Counted:
    """A queue that counts the sweeps that are over."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.sweeps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def unreported(self, older_than: float, limit: int) -> list[Letter]:
        found = await self._queue.unreported(older_than, limit)
        self.sweeps += 1
        return found


async def test_what_is_out_is_not_published_again_while_others_cannot_be(queue: Queue) -> None:
    counted: Any = Counted(queue)
    letters, sink, clock, stop = await sent(queue), FakeSink(), ManualClock(), asyncio.Event()
    sick = letters[0].id.encode()
    sink.refuse = lambda out: Unavailable("slow") if sick in (out.value or b"") else None
    config = ReporterConfig(topic="profile", sweep_age=0.0, first_wait=100.0, longest_wait=100.0)
    reporter = Reporter(counted, sink, config=config, clock=clock)
    await reporter.offer(letters)
    running = asyncio.create_task(reporter.run(stop))
    async with asyncio.timeout(20):
        for _ in range(3):
            before = counted.sweeps
            while counted.sweeps == before or reporter.state.waiting > reporter.state.put_off:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            clock.forward(6)
            await reporter.offer(())
        assert (reporter.state.published, reporter.state.put_off) == (MANY - 1, 1)
        sink.refuse = lambda _: None
        stop.set()
        assert await running == 0
    assert len(sink.published) == MANY


async def test_what_was_found_hides_nothing_behind_it(queue: Queue, world: World) -> None:
    """It cannot be reported, and there is more of it than one sweep finds."""
    await queue.insert([letter(number) for number in range(5)])
    letters = []
    for _ in range(5):
        letters.append(await send_one(queue))
        await world.pass_time(1)
    found = [[each.id for each in await queue.unreported(0, 2)] for _ in range(4)]
    names = [each.id for each in letters]
    assert found == [names[:2], names[2:4], names[4:], names[:2]]


async def test_what_is_an_error_from_the_start_is_to_be_reported(queue: Queue) -> None:
    bad = letter(1, status=Status.ERROR, reason="no address")
    assert await queue.insert([bad, letter(2)]) == [Inserted.NEW, Inserted.NEW]
    (found,) = await queue.unreported(0, 10)
    assert (found.id, found.status, found.reason) == (bad.id, Status.ERROR, "no address")
    await queue.acknowledge([bad])
    assert await unreported(queue) == set()


async def test_a_letter_says_whether_its_report_is_out(queue: Queue) -> None:
    letters = await sent(queue, 2)
    before = await queue.look_up(letters[0].id)
    await queue.acknowledge(letters)
    after = await queue.look_up(letters[0].id)
    assert before is not None
    assert after is not None
    assert (before.letter.answered, after.letter.answered) == (0, 1)


async def test_ours_come_oldest_first_and_not_too_soon(queue: Queue, world: World) -> None:
    await queue.insert([letter(number) for number in range(3)])
    first = await send_one(queue)
    await world.pass_time(100)
    await queue.beat(REPLICA, LIFE)
    second = await send_one(queue)
    assert [each.id for each in await queue.unreported(30, 10)] == [first.id]
    assert [each.id for each in await queue.unreported(0, 10)] == [first.id, second.id]
    assert [each.id for each in await queue.unreported(0, 1)] == [first.id]


async def test_to_acknowledge_what_is_not_final_changes_nothing(queue: Queue) -> None:
    await queue.insert([letter(1)])
    _, claimed = await claim_one(queue)
    await queue.acknowledge([claimed])
    await queue.acknowledge([])
    found = await queue.get(claimed.id)
    assert found is not None
    assert found.status is Status.PROCESSING


# --- whose they are ----------------------------------------------------------------------------------


@only(*MONGO)
async def test_those_of_a_replica_that_lives_are_its_own(world: World) -> None:
    mine, other = await world.replica(), await world.replica()
    letters = await sent(mine)
    await other.join(OTHER, LIFE)
    await world.pass_time(50)
    assert await mine.beat(REPLICA, LIFE)
    await world.pass_time(50)
    assert await unreported(other) == set()
    assert await unreported(mine) == ids(letters)


@only(*MONGO)
async def test_those_of_the_dead_are_anybodys(world: World) -> None:
    mine, other = await world.replica(), await world.replica()
    letters = await sent(mine)
    await world.pass_time(61)
    await other.join(OTHER, LIFE)
    await other.reclaim(10)
    found = await other.unreported(30, 10 * MANY)
    assert {each.id: each for each in found} == {each.id: each for each in letters}
    await other.acknowledge(found)
    assert await unreported(mine) == set()
    assert (await mine.stats()).unreported == 0


@only(*MONGO)
async def test_those_of_one_that_has_left_are_anybodys(world: World) -> None:
    mine, other = await world.replica(), await world.replica()
    letters = await sent(mine)
    await mine.leave(REPLICA)
    await other.join(OTHER, LIFE)
    assert await unreported(other, 30) == ids(letters)


async def test_those_under_a_name_that_a_replica_had_before_are_its_own(queue: Queue) -> None:
    letters = await sent(queue)
    await queue.join(OTHER, LIFE)
    assert await unreported(queue) == ids(letters)


# --- settlements and their entries -------------------------------------------------------------------


@only(*MONGO)
async def test_one_entry_stands_for_all_that_is_settled_together(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    (entry,) = await world.outbox.find({}).to_list(None)
    assert (entry["count"], len(entry["letters"]), entry["replica"]) == (MANY, MANY, REPLICA)
    documents = await world.raw.find({}).to_list(None)
    assert {each["outbox"] for each in documents} == {entry["_id"]}
    await queue.acknowledge(letters[:10])
    assert await world.outbox.count_documents({}) == 1
    await queue.acknowledge(letters[10:])
    assert await world.outbox.count_documents({}) == 0


@only(*MONGO)
async def test_settling_again_after_a_lost_reply_makes_no_second_entry(queue: Any, world: World) -> None:
    settlements = await taken(queue)
    assert await queue.settle(settlements) == frozenset()
    queue._outbox._left.clear()
    queue._outbox._entry_of.clear()
    assert await queue.settle(settlements) == frozenset()
    assert await world.outbox.count_documents({}) == 1
    await queue.acknowledge([each.letter for each in settlements])
    assert await unreported(queue) == set()


async def test_late_writers_are_not_reported(world: World) -> None:
    mine = await world.replica()
    settlements = await taken(mine)
    await world.pass_time(61)
    other = await world.replica()
    assert await other.reclaim(3) == 3
    theirs = await claim(other, 3, OTHER)
    late = await mine.settle(settlements)
    assert late == {each.id for each in theirs.letters}
    await mine.acknowledge([each.letter for each in settlements if each.letter.id not in late])
    await other.settle([Settlement(token=theirs.token, letter=ended(each)) for each in theirs.letters])
    assert await unreported(other) == late


@only(*MONGO)
async def test_an_entry_whose_settlement_is_under_way_is_left_alone(world: World) -> None:
    mine: Any = await world.replica()
    settlements = await taken(mine)
    names, tokens = [each.letter.id for each in settlements], {each.token for each in settlements}
    await mine._outbox.begin(names, tokens, await mine._server_clock.now())
    await world.pass_time(61)
    other = await world.replica()
    await other.join(OTHER, LIFE)
    await world.replicas.update_one({"_id": REPLICA}, {"$set": {"dead": True}})
    assert await unreported(other) == set()
    assert await world.outbox.count_documents({}) == 1
    # It comes after all, and then the process is gone.
    assert await mine.settle(settlements) == frozenset()
    assert await unreported(other) == set(names)


@only(*MONGO)
async def test_an_entry_whose_letters_went_to_others_is_removed(world: World) -> None:
    mine: Any = await world.replica()
    settlements = await taken(mine)
    names, tokens = [each.letter.id for each in settlements], {each.token for each in settlements}
    await mine._outbox.begin(names, tokens, await mine._server_clock.now())
    await world.pass_time(61)
    other = await world.replica()
    await other.join(OTHER, LIFE)
    assert await other.reclaim(MANY) == MANY
    assert await unreported(other) == set()
    assert await world.outbox.count_documents({}) == 0
    assert (await other.stats()).awaiting == MANY


@only(*MONGO)
async def test_an_entry_whose_letters_are_not_there_yet_is_kept_for_an_hour(world: World) -> None:
    """Its insert may be on the way."""
    mine: Any = await world.replica()
    await mine.join(REPLICA, LIFE)
    await mine._outbox.begin([letter(1).id], [], await mine._server_clock.now())
    await mine.leave(REPLICA)
    other = await world.replica()
    await world.pass_time(3000)
    assert await unreported(other) == set()
    assert await world.outbox.count_documents({}) == 1
    await world.pass_time(700)
    assert await unreported(other) == set()
    assert await world.outbox.count_documents({}) == 0


@only(*MONGO)
async def test_a_removal_that_fails_is_told_and_repeated(
    queue: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_query: Any) -> None:
        raise OperationFailure("interrupted", 11601)

    letters = await sent(queue)
    with monkeypatch.context() as patch:
        patch.setattr(queue._outbox._outbox, "delete_many", fails)
        with pytest.raises(Unavailable):
            await queue.acknowledge(letters)
    assert await unreported(queue) == ids(letters)
    await queue.acknowledge(letters)
    assert await world.outbox.count_documents({}) == 0


@only(*MONGO)
async def test_what_is_kept_in_mind_is_bounded_and_the_sweep_finds_the_rest(
    queue: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile topic is away, and letter after letter is sent."""
    monkeypatch.setattr(queue._outbox, "_most", 3 * MANY)
    letters: list[Letter] = []
    for turn in range(5):
        await queue.insert([letter(1000 * turn + number) for number in range(MANY)])
        claimed = await claim(queue, MANY)
        outcomes = [Settlement(token=claimed.token, letter=ended(each)) for each in claimed.letters]
        assert await queue.settle(outcomes) == frozenset()
        letters += [each.letter for each in outcomes]
    assert len(queue._outbox._entry_of) <= 3 * MANY
    found: set[str] = set()
    while batch := await queue.unreported(0, MANY):
        found |= {each.id for each in batch}
        await queue.acknowledge(batch)
    assert found == ids(letters)
    assert not queue._outbox._entry_of
    assert (await queue.stats()).unreported == 0


class Half:
    """A collection whose `method` does a part of its work and fails then, once."""

    def __init__(self, collection: Any, method: str) -> None:
        self._collection = collection
        self._method = method

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name != self._method:
            return found

        async def perform(given: list[Any], **kwargs: Any) -> Any:
            self._method = ""
            await found(given[:1], **kwargs)
            raise AutoReconnect("connection closed")

        return perform


@only(*MONGO)
async def test_an_insert_that_failed_by_half_forgets_no_report(queue: Any, world: World) -> None:
    bad = [letter(number, status=Status.ERROR, reason="no address") for number in (1, 2)]
    queue._inserter._letters = Half(queue._inserter._letters, "insert_many")
    with pytest.raises(Unavailable):
        await queue.insert(bad)
    assert await queue.insert(bad) == [Inserted.REPLAY, Inserted.NEW]
    await queue.acknowledge(bad[1:])
    assert await unreported(queue) == ids(bad[:1])
    await queue.acknowledge(bad[:1])
    assert await world.outbox.count_documents({}) == 0
    assert not queue._outbox._left


@only(*MONGO)
async def test_an_entry_stays_until_all_of_it_is_settled(queue: Any, world: World) -> None:
    sent_, failed = await taken(queue, 2)
    failed = Settlement(token=failed.token, letter=ended(failed.letter, REFUSED, Status.ERROR))
    letters, queue._letters = queue._letters, Half(queue._letters, "bulk_write")
    with pytest.raises(Unavailable):
        await queue.settle([sent_, failed])
    assert await unreported(queue) == {sent_.letter.id}
    await queue.acknowledge([sent_.letter])
    assert await world.outbox.count_documents({}) == 1
    # It is settled after all, and then the process is gone.
    update = {"status": "error", "settled_by": failed.token}
    await letters.update_one({"claim": failed.token, "status": "processing"}, {"$set": update})
    assert await unreported(await world.replica()) == set()
    assert await unreported(queue) == {failed.letter.id}
    await queue.acknowledge([failed.letter])
    assert await world.outbox.count_documents({}) == 0


async def test_one_that_was_settled_under_two_tokens_is_reported_by_the_good_one(world: World) -> None:
    """Its replica was declared dead and claimed it again, and both outcomes waited for MongoDB."""
    queue = await world.replica()
    await queue.insert([letter(1), letter(2)])
    old, first = await claim_one(queue)
    await world.pass_time(61)
    assert await queue.reclaim(10) == 1
    claimed = await claim(queue, 2, OTHER)
    good = [Settlement(token=claimed.token, letter=ended(each)) for each in claimed.letters]
    late = Settlement(token=old, letter=ended(first, REFUSED, Status.ERROR))
    assert await queue.settle([late, *good]) == {first.id}
    await queue.acknowledge([each.letter for each in good if each.letter.id != first.id])
    (found,) = await queue.unreported(0, 10)
    assert (found.id, found.status) == (first.id, Status.SENT)


@only(*MONGO)
async def test_of_an_entry_that_is_gone_nothing_is_kept_in_mind(queue: Any, world: World) -> None:
    """Its letters are forgotten, or another replica has reported them."""
    forgotten = await sent(queue, 2)
    await world.raw.delete_many({})
    await world.pass_time(3700)
    await queue.beat(REPLICA, LIFE)
    with capture_logs() as logs:
        assert await unreported(queue) == set()
    assert [(each["event"], each["letters"]) for each in logs] == [("letters_gone", len(forgotten))]
    await queue.insert([letter(1000)])
    await send_one(queue)
    await world.outbox.delete_many({})
    assert await unreported(queue) == set()
    assert not queue._outbox._entry_of
    assert not queue._outbox._left


@only(*MONGO)
async def test_one_that_was_tried_and_is_then_set_apart_is_reported(queue: Queue, world: World) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    deferred = ended(claimed, DEFERRED, Status.AWAITING)
    assert await queue.settle([Settlement(token=token, letter=deferred)]) == frozenset()
    await world.database.command({"collMod": "letters", "validator": {"status": {"$ne": "processing"}}})
    assert (await claim(queue, 1)).letters == ()
    (found,) = await queue.unreported(0, 10)
    assert (found.id, found.status) == (claimed.id, Status.ERROR)


# --- further publishers ------------------------------------------------------------------------------


async def test_who_joins_a_letter_that_waits_is_answered_with_the_others(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    assert await queue.insert([again(first, 2)]) == [Inserted.JOINED]
    done = await send_one(queue)
    assert done.answers == (answer_of(1), answer_of(2))
    assert [each.answers for each in await queue.unreported(0, 10)] == [done.answers]
    await queue.acknowledge([done])
    assert await unreported(queue) == set()


@pytest.mark.parametrize("when", ["on its way", "ended", "reported"])
async def test_who_joins_it_later_is_answered_by_himself(queue: Queue, when: str) -> None:
    first = letter(1)
    await queue.insert([first])
    token, claimed = await claim_one(queue)
    done = ended(claimed)
    if when != "on its way":
        await queue.settle([Settlement(token=token, letter=done)])
    if when == "reported":
        await queue.acknowledge([done])
    assert await queue.insert([again(first, 2)]) == [Inserted.LATE]
    if when == "on its way":
        assert await queue.unreported(0, 10) == []
        await queue.settle([Settlement(token=token, letter=done)])
    if when != "reported":
        await queue.acknowledge([done])
    (found,) = await queue.unreported(0, 10)
    assert (found.id, found.answers, found.status) == (first.id, (answer_of(2),), Status.SENT)
    await queue.acknowledge([found])
    assert await unreported(queue) == set()
    assert await queue.insert([again(first, 3), again(first, 2)]) == [Inserted.LATE, Inserted.REPLAY]
    assert [each.answers for each in await queue.unreported(0, 10)] == [(answer_of(3),)]


async def test_who_joins_late_and_again_is_answered_once(queue: Queue) -> None:
    """His record is read again: its offset was not committed."""
    first = letter(1)
    await queue.insert([first])
    done = await send_one(queue)
    await queue.acknowledge([done])
    assert await queue.insert([again(first, 2)]) == [Inserted.LATE]
    assert await queue.insert([again(first, 2)]) == [Inserted.REPLAY]
    assert (await queue.stats()).unreported == 1


async def test_who_joined_one_that_is_tried_again_hides_nobody(queue: Queue, world: World) -> None:
    letters = [letter(number) for number in range(3)]
    await queue.insert(letters)
    claimed = await claim(queue, 3)
    joins = [again(each, 10 + number) for number, each in enumerate(letters)]
    assert await queue.insert(joins) == [Inserted.LATE] * 3
    deferred = [ended(each, DEFERRED, Status.AWAITING) for each in claimed.letters]
    await queue.settle([Settlement(token=claimed.token, letter=each, delay=1000) for each in deferred])
    await queue.insert([letter(4)])
    done = await send_one(queue)
    await world.pass_time(100)
    await queue.beat(REPLICA, LIFE)
    assert [each.id for each in await queue.unreported(30, 2)] == [done.id]


@only(*MONGO)
async def test_who_joined_late_and_died_is_answered_by_others(world: World) -> None:
    mine, other = await world.replica(), await world.replica()
    first = letter(1)
    await mine.insert([first])
    done = await send_one(mine)
    await mine.acknowledge([done])
    assert await mine.insert([again(first, 2)]) == [Inserted.LATE]
    await mine.leave(REPLICA)
    assert [each.answers for each in await other.unreported(30, 10)] == [(answer_of(2),)]


@only(*MONGO)
async def test_he_is_told_only_what_cannot_be_rolled_back(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (done,) = await sent(queue, 1)
    monkeypatch.setattr(queue, "_letters", None)  # which is read as the primary has it
    found = await queue.get(done.id)
    assert found is not None
    assert found.status is Status.SENT
    assert queue._committed.read_concern.level == "majority"


# --- for how long it is remembered -------------------------------------------------------------------


async def _left(queue: Queue, world: World, done: Letter) -> float:
    """Seconds for which it is remembered still."""
    at = (await world.document(done))["expire_at"]
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return float(aware.timestamp()) - await queue.now(0.0)


@only(*MONGO)
async def test_a_letter_is_remembered_from_its_end_on(queue: Queue, world: World) -> None:
    (done,) = await sent(queue, 1)
    assert abs(await _left(queue, world, done) - RETENTION) < 5


@only(*MONGO)
async def test_one_that_nobody_can_report_is_remembered_for_longer(queue: Queue, world: World) -> None:
    """No sweep finds it: nothing can be published, and the reporter is full."""
    (done,) = await sent(queue, 1)
    await world.pass_time(0.6 * RETENTION)
    await queue.beat(REPLICA, LIFE)
    assert [await queue.remember(1) for _ in range(2)] == [1, 0]
    assert await _left(queue, world, done) > 0.9 * RETENTION
    assert (await queue.stats()).oldest_unreported > 0.5 * RETENTION
    assert await unreported(queue, 30) == {done.id}
    await queue.acknowledge([done])
    assert await world.outbox.count_documents({}) == 0


@only(*MONGO)
async def test_only_those_that_wait_for_their_report_are_remembered_for_longer(
    queue: Queue, world: World
) -> None:
    await queue.insert([letter(number) for number in range(4)])
    old = [await send_one(queue) for _ in range(3)]
    await queue.acknowledge(old[:1])
    await world.pass_time(0.3 * RETENTION)
    await queue.beat(REPLICA, LIFE)
    young = await send_one(queue)
    assert [await queue.remember(1) for _ in range(4)] == [1, 1, 0, 1]
    left = [await _left(queue, world, each) / RETENTION for each in (*old, young)]
    assert [round(each, 1) for each in left] == [0.7, 1.0, 1.0, 1.0]


async def test_what_is_remembered_does_not_come_in_again(queue: Queue, world: World) -> None:
    (done,) = await sent(queue, 1)
    await queue.acknowledge([done])
    assert await queue.insert([letter(0)]) == [Inserted.REPLAY]
    if world.raw is None:
        await world.pass_time(RETENTION + 1)
    else:
        await world.raw.delete_one({"_id": (await world.document(done))["_id"]})  # as MongoDB does by itself
    assert await queue.insert([letter(0)]) == [Inserted.NEW]
