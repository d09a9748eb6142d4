"""Every sentence of `Queue`'s docstrings, for every implementation."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from mailsender.model.errors import Unavailable
from mailsender.model.history import History, Milestone, digest_of
from mailsender.model.letter import (
    Answer,
    FreshClaim,
    JsonText,
    Origin,
    PastAttempt,
    Phase,
    Recipient,
    Result,
    Settlement,
    Status,
    Verdict,
    now_ms,
)
from mailsender.model.records import Record
from mailsender.queue.mongo.indexes import INDEXES
from mailsender.queue.mongo.outbox import INDEXES as OUTBOX_INDEXES
from mailsender.queue.port import Inserted, Queue
from tests.claims import LIFE, OTHER, REPLICA, claim, insert_claimed, token_of
from tests.clocks import ManualClock
from tests.contract.conftest import (
    ACCEPTED,
    DEFERRED,
    FINISHED,
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

pytestmark = pytest.mark.asyncio


class Counting:
    """A database that counts the commands it is given."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.calls = 0

    async def command(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return await self._database.command(*args, **kwargs)


class LosesReply:
    """A collection whose `method` does its work and then loses the reply, once."""

    def __init__(self, collection: Any, method: str) -> None:
        self._collection = collection
        self._method = method
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name != self._method or self.lost:
            return found

        async def perform(*args: Any, **kwargs: Any) -> Any:
            self.lost = True
            await found(*args, **kwargs)
            raise AutoReconnect("connection closed")

        return perform


def lose_reply(queue: Any, method: str) -> None:
    lossy = LosesReply(queue._letters, method)
    queue._letters = lossy
    queue._inserter._letters = lossy


# --- time ------------------------------------------------------------------------------------------


async def _store_time(world: World) -> float:
    if world.database is None:
        return world.clock.epoch()
    hello = await world.database.client.get_database("admin").command("hello")
    return float(hello["localTime"].replace(tzinfo=UTC).timestamp())


async def test_now_is_the_clock_of_the_store(queue: Queue, world: World) -> None:
    before = await _store_time(world)
    now = await queue.now()
    after = await _store_time(world) + 0.001  # a stored date may lack a part of its last millisecond
    assert before - 0.1 <= now <= after


async def test_now_goes_on_by_itself(queue: Queue, world: World) -> None:
    first = await queue.now()
    if isinstance(world.clock, ManualClock):
        world.clock.forward(5)
        assert await queue.now() == first + 5
    else:
        assert first <= await queue.now() < first + 5


@only(*MONGO)
async def test_now_asks_the_store_again_when_the_reading_is_old(queue: Any) -> None:
    clock = ManualClock()
    asked = Counting(queue._server_clock._admin)
    queue._server_clock._admin, queue._server_clock._clock = asked, clock
    queue._server_clock.forget()
    first = await queue.now()
    clock.forward(9)
    second = await queue.now()
    assert first + 8.9 < second <= first + 9
    assert asked.calls == 1
    clock.forward(2)
    assert await queue.now() < second  # the server's clock is believed, not ours
    assert asked.calls == 2


# --- insert ----------------------------------------------------------------------------------------


async def test_what_comes_in_comes_out(queue: Queue) -> None:
    sample = letter(1)
    assert await queue.insert([sample]) == [Inserted.NEW]
    _, claimed = await claim_one(queue)
    assert claimed == sample.evolve(
        status=Status.PROCESSING,
        recipients=tuple(Recipient(address=each) for each in sample.addresses),
    )
    assert claimed.pending == sample.addresses


@pytest.mark.parametrize(
    "token",
    [
        "",
        "Иван",
        "$secret",
        None,
        True,
        0,
        -1.5,
        2**200,
        {"$set": {"a.b": [1, {"$x": None}]}, "": "\0"},
        [[[[]]], "[]"],
        "\ud800",
        JsonText("3.14159265358979323846264338327950288"),
        JsonText('{"a":[1.50,1e400,-0],"ж":"\\u0000"}'),
    ],
)
async def test_any_token_comes_back_word_for_word(queue: Queue, token: object) -> None:
    sample = letter(1)
    await queue.insert([sample.evolve(answers=(Answer(token=token, origin=sample.answers[0].origin),))])
    _, claimed = await claim_one(queue)
    assert claimed.answers[0].token == token
    assert type(claimed.answers[0].token) is type(token)


@pytest.mark.parametrize("key", [None, b"", b"\xff\x00\xd0", "ключ".encode()])
async def test_keys_keep_their_bytes(queue: Queue, key: bytes | None) -> None:
    sample = letter(1)
    await queue.insert([sample.evolve(answers=(Answer(key=key, origin=sample.answers[0].origin),))])
    _, claimed = await claim_one(queue)
    assert claimed.answers[0].key == key


async def test_an_error_is_final_and_unreported(queue: Queue) -> None:
    bad = letter(1, status=Status.ERROR, reason="no addresses", addresses=())
    assert await queue.insert([bad]) == [Inserted.NEW]
    assert (await claim(queue, 10)).letters == ()
    (found,) = await queue.unreported(0, 10)
    assert (found.status, found.reason, found.addresses) == (Status.ERROR, "no addresses", ())
    assert found.finished_at is not None


async def test_a_replay_is_nothing_to_do(queue: Queue) -> None:
    letters = [letter(number) for number in range(3)]
    await queue.insert(letters[:2])
    assert await queue.insert(letters) == [Inserted.REPLAY, Inserted.REPLAY, Inserted.NEW]
    assert len((await claim(queue, 10)).letters) == 3


async def test_ids_differ_in_case_only_for_people(queue: Queue) -> None:
    sample = letter(1, id="6B03F03E1C3FE5165A363FCE")
    assert await queue.insert([sample]) == [Inserted.NEW]
    assert await queue.insert([again(sample, 2)]) == [Inserted.JOINED]
    assert await queue.get(sample.id) is not None
    _, claimed = await claim_one(queue)
    assert claimed.id == sample.id.lower()


async def test_a_second_publisher_joins(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    second = again(first, 2)
    assert await queue.insert([second]) == [Inserted.JOINED]
    assert await queue.insert([second]) == [Inserted.REPLAY]
    assert await queue.insert([first]) == [Inserted.REPLAY]
    _, claimed = await claim_one(queue)
    assert claimed.answers == (*first.answers, *second.answers)


async def test_a_pipeline_never_reads_what_a_publisher_wrote(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    for number, token in enumerate(["$subject", {"$literal": 1}, "$$ROOT"]):
        origin = Origin(topic="$topic", partition=0, offset=number, index=0, timestamp=0)
        other = Answer(token=token, key=b"$body", origin=origin)
        assert await queue.insert([first.evolve(answers=(other,))]) == [Inserted.JOINED]
    found = await queue.get(first.id)
    assert found is not None
    assert [each.token for each in found.answers[1:]] == ["$subject", {"$literal": 1}, "$$ROOT"]
    assert found.answers[1].origin is not None
    assert found.answers[1].origin.topic == "$topic"


async def test_other_content_under_the_same_id_is_a_clash(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    for change in ({"subject": "x"}, {"body": "x"}, {"addresses": ("x@example.test",)}):
        assert await queue.insert([again(first, 2).evolve(**change)]) == [Inserted.CLASH]
    found = await queue.get(first.id)
    assert found is not None
    assert (found.subject, found.answers) == (first.subject, first.answers)


async def test_the_same_letter_twice_in_one_call(queue: Queue) -> None:
    first = letter(1)
    verdicts = await queue.insert(
        [
            first,
            letter(9),
            first,
            again(first, 2),
            again(first, 2),
            again(
                first,
                3,
            ),
            again(first, 4).evolve(body="x"),
        ]
    )
    assert verdicts == [
        Inserted.NEW,
        Inserted.NEW,
        Inserted.REPLAY,
        Inserted.JOINED,
        Inserted.REPLAY,
        Inserted.JOINED,
        Inserted.CLASH,
    ]
    found = await queue.get(first.id)
    assert found is not None
    assert len(found.answers) == 3


async def test_answers_stand_in_the_order_of_letters(queue: Queue) -> None:
    taken = [letter(number) for number in range(0, 2500, 2)]
    await queue.insert(taken)
    verdicts = await queue.insert([letter(number) for number in range(2500)])
    assert verdicts == [Inserted.REPLAY, Inserted.NEW] * 1250


async def test_nothing_to_insert(queue: Queue) -> None:
    assert await queue.insert([]) == []


@pytest.mark.parametrize(
    "poison",
    [
        {"body": "\ud800"},
        {"subject": "a\udfffb"},
        {"addresses": ("a\ud800@example.test", "b@example.test")},
        {"body": "x" * (13 * 1024 * 1024)},
        {"subject": "x" * (13 * 1024 * 1024)},
        {"addresses": ("x" * 1_000_000,) * 13},
        {"reason": "\ud800"},
    ],
    ids=["body", "subject", "address", "long body", "long subject", "many addresses", "reason"],
)
@only(*MONGO)
async def test_what_cannot_be_stored_is_stored_as_an_error(queue: Queue, poison: dict[str, Any]) -> None:
    bad = letter(2, **poison)
    verdicts = await queue.insert([letter(1), bad, letter(3)])
    assert verdicts == [Inserted.NEW] * 3
    assert {each.subject for each in (await claim(queue, 10)).letters} == {"Тема 1", "Тема 3"}
    (found,) = await queue.unreported(0, 10)
    assert (found.id, found.status, found.body) == (bad.id, Status.ERROR, "")
    assert found.reason
    assert found.answers == bad.answers
    assert await queue.insert([bad]) == [Inserted.REPLAY]


@only(*MONGO)
async def test_what_the_server_refuses_stands_alone(queue: Queue, world: World) -> None:
    """A rule that somebody put on the collection, and a value that slips through our checks."""
    await world.database.command({"collMod": "letters", "validator": {"body": {"$ne": "bad"}}})
    slips = letter(3, attempts=2**70)
    verdicts = await queue.insert([letter(1), letter(2, body="bad"), slips, letter(4)])
    assert verdicts == [Inserted.NEW] * 4
    found = await queue.unreported(0, 10)
    assert {each.id for each in found} == {letter(2).id, slips.id}
    assert all(each.reason for each in found)
    assert len((await claim(queue, 10)).letters) == 2


@only(*MONGO)
async def test_an_insert_whose_reply_is_lost_is_replayed(queue: Queue) -> None:
    lose_reply(queue, "insert_many")
    with pytest.raises(Unavailable) as caught:
        await queue.insert([letter(1)])
    assert isinstance(caught.value.__cause__, AutoReconnect)
    assert await queue.insert([letter(1)]) == [Inserted.REPLAY]
    assert len((await claim(queue, 10)).letters) == 1


@only(*MONGO)
async def test_a_join_whose_reply_is_lost_is_replayed(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    await send_one(queue)
    await queue.acknowledge(await queue.unreported(0, 1))
    lose_reply(queue, "bulk_write")
    with pytest.raises(Unavailable):
        await queue.insert([again(first, 2)])
    assert await queue.insert([again(first, 2)]) == [Inserted.REPLAY]
    (found,) = await queue.unreported(0, 1)
    assert found.answers == again(first, 2).answers


@only(*MONGO)
async def test_a_letter_forgotten_while_it_is_joined_comes_in_again(queue: Any, world: World) -> None:
    first = letter(1)
    await queue.insert([first])

    class Forgets:
        """Forgets everything between the look and the join."""

        def __init__(self, collection: Any) -> None:
            self._collection = collection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._collection, name)

        async def bulk_write(self, *args: Any, **kwargs: Any) -> Any:
            await world.raw.delete_many({})
            return await self._collection.bulk_write(*args, **kwargs)

    queue._inserter._letters = Forgets(queue._letters)
    assert await queue.insert([again(first, 2)]) == [Inserted.NEW]
    _, claimed = await claim_one(queue)
    assert claimed.answers == letter(2).answers


# --- claim -----------------------------------------------------------------------------------------


async def test_letters_are_claimed_in_the_order_they_came(queue: Queue) -> None:
    for start in range(0, 50, 10):
        await queue.insert([letter(number) for number in range(start, start + 10)])
    offsets: list[int] = []
    while letters := (await claim(queue, 7)).letters:
        offsets += [each.answers[0].origin.offset for each in letters if each.answers[0].origin]
    assert offsets == list(range(50))


async def test_a_claim_is_never_larger_than_asked(queue: Queue) -> None:
    await queue.insert([letter(number) for number in range(5)])
    assert len((await claim(queue, 3)).letters) == 3
    assert len((await claim(queue, 3)).letters) == 2
    empty = await claim(queue, 3)
    assert empty.letters == ()
    assert empty.token


async def test_what_is_claimed_is_processing_under_the_token(queue: Queue) -> None:
    await queue.insert([letter(1)])
    token = token_of()
    claimed = await queue.claim(1, token)
    assert claimed.token == token
    assert claimed.letters[0].status is Status.PROCESSING
    assert await queue.claims_of(REPLICA) == {token: [letter(1).id]}


async def test_replicas_never_share_a_letter(world: World) -> None:
    replicas = [await world.replica() for _ in range(2)]
    await replicas[0].insert([letter(number) for number in range(400)])

    async def drain(queue: Queue) -> list[str]:
        mine: list[str] = []
        while letters := (await claim(queue, 20)).letters:
            mine += [each.id for each in letters]
        return mine

    first, second = await asyncio.gather(*map(drain, replicas))
    assert len(first) + len(second) == 400
    assert len({*first, *second}) == 400


@only(*MONGO)
async def test_a_claim_whose_reply_is_lost_is_read_back(queue: Queue) -> None:
    await queue.insert([letter(number) for number in range(3)])
    lose_reply(queue, "update_many")
    claimed = await claim(queue, 10)
    assert len(claimed.letters) == 3
    assert await queue.claims_of(REPLICA) == {claimed.token: [each.id for each in claimed.letters]}


class HalfDone(LosesReply):
    """A collection of which an `update_many` changes one and loses its reply; the `rest` comes later."""

    rest: Any = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name != self._method or self.lost:
            return found

        async def perform(query: Any, *args: Any, **kwargs: Any) -> Any:
            self.lost = True
            self.rest = lambda: found(query, *args, **kwargs)
            await found({**query, "_id": {"$in": query["_id"]["$in"][:1]}}, *args, **kwargs)
            raise AutoReconnect("connection closed")

        return perform


@only(*MONGO)
async def test_what_comes_under_a_claim_after_it_was_read_back_can_be_found(queue: Any) -> None:
    await queue.insert([letter(number) for number in range(3)])
    half = queue._letters = HalfDone(queue._letters, "update_many")
    claimed = await claim(queue, 10)
    assert len(claimed.letters) == 1
    await half.rest()
    found = await queue.claims_of(REPLICA)
    assert sorted(found[claimed.token]) == sorted(letter(number).id for number in range(3))


@only(*MONGO)
async def test_a_claim_is_bounded_in_bytes(queue: Queue) -> None:
    await queue.insert([letter(number, body="x" * 2_500_000) for number in range(5)])
    assert len((await claim(queue, 10)).letters) == 3
    assert len((await claim(queue, 10)).letters) == 2


# --- who lives --------------------------------------------------------------------------------------


async def test_the_living_keep_their_letters_and_the_dead_do_not(queue: Queue, world: World) -> None:
    await queue.insert([letter(number) for number in range(2)])
    ours, others = await claim(queue, 1), await claim(queue, 1, OTHER)
    await world.pass_time(50)
    assert await queue.beat(REPLICA, LIFE)
    await world.pass_time(20)
    assert await queue.reclaim(10) == 1
    assert await queue.claims_of(REPLICA) == {ours.token: [ours.letters[0].id]}
    assert await queue.claims_of(OTHER) == {}
    assert (await claim(queue, 10)).letters == others.letters


async def test_who_lives_is_known_to_all(queue: Queue, world: World) -> None:
    await queue.insert([letter(number) for number in range(2)])
    await claim(queue, 1)
    await claim(queue, 1, OTHER)
    assert await queue.living() == {REPLICA, OTHER}
    await world.pass_time(50)
    assert await queue.beat(REPLICA, LIFE)
    await world.pass_time(20)
    await queue.reclaim(10)
    assert await queue.living() == {REPLICA}
    await queue.leave(REPLICA)
    assert await queue.living() == set()


async def test_who_is_late_and_not_yet_declared_dead_lives_on(queue: Queue, world: World) -> None:
    await queue.insert([letter(1)])
    await claim(queue, 1)
    await world.pass_time(1000)
    assert await queue.beat(REPLICA, LIFE)
    assert await queue.reclaim(10) == 0


async def test_who_was_declared_dead_stays_so(queue: Queue, world: World) -> None:
    await queue.join(REPLICA, LIFE)
    await world.pass_time(61)
    assert await queue.reclaim(10) == 0
    assert not await queue.beat(REPLICA, LIFE)
    assert not await queue.beat(REPLICA, LIFE), "the first refusal has not brought it back"


async def test_what_a_dead_one_claims_after_all_comes_back(queue: Queue, world: World) -> None:
    """Its write was on the way when it was declared dead."""
    await queue.insert([letter(1)])
    await queue.join(OTHER, LIFE)
    await world.pass_time(61)
    assert await queue.reclaim(10) == 0
    assert len((await queue.claim(1, token_of(OTHER))).letters) == 1
    assert await queue.reclaim(10) == 1


async def test_what_nobody_left_comes_back_at_once(queue: Queue) -> None:
    await queue.insert([letter(1), letter(2)])
    await claim(queue, 1)
    await claim(queue, 1, OTHER)
    await queue.leave(OTHER)
    await queue.leave(OTHER)
    assert not await queue.beat(OTHER, LIFE)
    assert await queue.reclaim(10) == 1
    assert list(await queue.claims_of(REPLICA)) != []


async def test_what_is_held_is_told_by_token(queue: Queue, world: World) -> None:
    await queue.insert([letter(number) for number in range(4)])
    lease = await queue.claim(2, "a" * 32)
    other = await queue.claim(1, "ab" * 16)
    gone, kept = lease.letters
    await queue.settle([Settlement(token=lease.token, letter=ended(gone))])
    await world.pass_time(100)
    asked = {lease.token: [gone.id, kept.id, other.letters[0].id], other.token: [], "nobody": [kept.id]}
    held = await queue.held(asked)
    assert {token: [each.id for each in letters] for token, letters in held.items()} == {
        lease.token: [kept.id]
    }
    assert held[lease.token][0].pending == kept.pending
    assert await queue.held({}) == {}
    assert await queue.claims_of("a" * 16) == {lease.token: [kept.id]}
    assert await queue.claims_of("ab" * 8) == {other.token: [other.letters[0].id]}
    assert await queue.claims_of("b" * 16) == {}


async def test_a_recipient_that_is_closed_stays_so(queue: Queue) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    unknown = Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT)
    first, second = claimed.recipients
    closed = Recipient(address=first.address, result=unknown, doubts=1, closed=True)
    moved = claimed.evolve(status=Status.AWAITING, recipients=(closed, second))
    await queue.settle([Settlement(token=token, letter=moved)])
    _, again = await claim_one(queue)
    assert again.recipients == (closed, second)
    assert again.pending == (second.address,)


# --- progress --------------------------------------------------------------------------------------


async def test_what_is_noted_on_the_way_is_known_to_whoever_gets_the_letter_next(
    queue: Queue, world: World
) -> None:
    sample = letter(1, addresses=tuple(f"r{n}@example.test" for n in range(6)))
    await queue.insert([sample])
    token, claimed = await claim_one(queue)
    taken = [Recipient(address=each, result=ACCEPTED) for each in claimed.addresses]
    later = Recipient(address=claimed.addresses[2], result=DEFERRED, tries=1)
    assert await queue.progress(token, claimed.id, {0: taken[0], 1: taken[1], 2: later})
    assert await queue.progress(token, claimed.id, {4: taken[4]})
    assert await queue.progress(token, claimed.id, {4: taken[4]}), "to repeat it changes nothing"
    wanted = (taken[0], taken[1], later, claimed.recipients[3], taken[4], claimed.recipients[5])
    held = await queue.held({token: [claimed.id]})
    assert held[token][0].recipients == wanted
    assert await queue.noted({token: [claimed.id]}) == {claimed.id: {0, 1, 2, 4}}
    assert held[token][0].status is Status.PROCESSING
    await world.pass_time(61)
    await queue.reclaim(10)
    second, again = await claim_one(queue, OTHER)
    assert again.recipients == wanted
    assert await queue.noted({token: [claimed.id], second: [claimed.id]}) == {}, (
        "that was under another token"
    )
    assert not await queue.progress(token, claimed.id, {5: taken[5]}), "it is another one's"
    assert await queue.progress(second, claimed.id, {2: taken[2], 3: taken[3]})
    assert await queue.noted({second: [claimed.id, letter(7).id]}) == {claimed.id: {2, 3}}
    found = await queue.get(claimed.id)
    assert found is not None
    assert found.pending == (claimed.addresses[5],)
    await queue.release(second, [claimed.id])
    third, last = await claim_one(queue)
    assert last.recipients == found.recipients
    done = last.evolve(status=Status.SENT, recipients=tuple(taken), finished_at=None)
    assert await queue.settle([Settlement(token=third, letter=done)]) == frozenset()
    assert not await queue.progress(third, claimed.id, {5: taken[5]})
    [sent] = await queue.unreported(0, 10)
    assert sent.recipients == tuple(taken)


async def test_progress_and_settlement_may_come_in_any_order(queue: Queue) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    sent = ended(claimed)
    await queue.settle([Settlement(token=token, letter=sent)])
    assert not await queue.progress(token, claimed.id, {0: Recipient(address="x", result=DEFERRED)})
    assert await queue.unreported(0, 10) == [sent]


# --- settle ----------------------------------------------------------------------------------------


async def test_a_final_state_is_stored_unreported(queue: Queue) -> None:
    await queue.insert([letter(1)])
    sent = await send_one(queue)
    (found,) = await queue.unreported(0, 10)
    assert found == sent
    assert found.recipients[0].result == ACCEPTED
    assert await queue.get(sent.id) == sent
    assert (await claim(queue, 10)).letters == ()


async def test_recipients_keep_their_own_results(queue: Queue) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    a, b = claimed.addresses
    recipients = (
        Recipient(address=a, result=REFUSED),
        Recipient(address=b, result=DEFERRED, doubts=1),
    )
    later = claimed.evolve(status=Status.AWAITING, recipients=recipients, attempts=1)
    await queue.settle([Settlement(token=token, letter=later)])
    token, claimed = await claim_one(queue)
    assert claimed == later.evolve(status=Status.PROCESSING)
    assert claimed.pending == (b,)
    sent = ended(claimed)
    await queue.settle([Settlement(token=token, letter=sent)])
    assert await queue.unreported(0, 10) == [sent]


async def test_letters_that_end_alike_keep_their_own_names(queue: Queue) -> None:
    await queue.insert([letter(number) for number in range(20)])
    lease = await claim(queue, 20)
    outcomes = [
        ended(each, REFUSED, Status.ERROR) if n % 3 else ended(each) for n, each in enumerate(lease.letters)
    ]
    assert (
        await queue.settle([Settlement(token=lease.token, letter=each) for each in outcomes]) == frozenset()
    )
    found = {each.id: each for each in await queue.unreported(0, 100)}
    assert found == {each.id: each for each in outcomes}


async def test_a_deferred_letter_waits_for_its_delay(queue: Queue, world: World) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    later = claimed.evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=token, letter=later, delay=100)])
    assert (await claim(queue, 1)).letters == ()
    await world.pass_time(90)
    assert (await claim(queue, 1)).letters == ()
    await world.pass_time(11)
    assert (await claim_one(queue))[1].attempts == 1


async def test_a_letters_history_goes_along(queue: Queue) -> None:
    await queue.insert([letter(1), letter(2)])
    claimed = await claim(queue, 2)
    past = PastAttempt(at=FINISHED, relay="relay:25", result=DEFERRED, asked=2, seconds=0.25, tls="TLSv1.3")
    first, second = claimed.letters
    later = [
        first.evolve(status=Status.AWAITING, attempts=1, history=(past,)),
        second.evolve(status=Status.AWAITING, attempts=1),
    ]
    await queue.settle([Settlement(token=claimed.token, letter=each) for each in later])
    again = await claim(queue, 2)
    assert {each.id: each.history for each in again.letters} == {first.id: (past,), second.id: ()}
    traces = PastAttempt(at=None, relay="", result=ACCEPTED, accepted=1)
    done = [ended(each, history=(*each.history, traces)) for each in again.letters]
    await queue.settle([Settlement(token=again.token, letter=each) for each in done])
    found = await queue.look_up(first.id)
    assert found is not None
    assert found.letter.history == (past, traces)
    unreported = {each.id: each.history for each in await queue.unreported(0, 10)}
    assert unreported == {first.id: (past, traces), second.id: (traces,)}, "a report has the same words"


async def test_whoever_looks_sees_since_when_a_letter_is_there_and_until_when_it_waits(
    queue: Queue, world: World
) -> None:
    before = await queue.now(0)
    await queue.insert([letter(1)])
    found = await queue.look_up(letter(1).id)
    assert found is not None
    assert found.accepted_at is not None
    assert found.due is not None
    assert abs(found.accepted_at.timestamp() - before) < 5
    assert abs(found.due.timestamp() - before) < 5
    token, claimed = await claim_one(queue)
    held = await queue.look_up(letter(1).id)
    assert held is not None
    assert (held.letter.status, held.due) == (Status.PROCESSING, None)
    later = claimed.evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=token, letter=later, delay=100)])
    again = await queue.look_up(letter(1).id.upper())
    assert again is not None
    assert again.due is not None
    assert abs(again.due.timestamp() - before - 100) < 10
    assert again.accepted_at == found.accepted_at
    assert await queue.look_up("0" * 24) is None


async def test_those_that_have_ended_are_told_apart_in_one_look(queue: Queue) -> None:
    letters = [letter(number) for number in range(4)]
    ids = [each.id for each in letters]
    wrong = letters[3].evolve(status=Status.ERROR, reason="wrong")
    await queue.insert([*letters[:3], wrong])
    assert await queue.ended([*ids, "0" * 24]) == {ids[3]}
    claimed = await claim(queue, 2)
    assert await queue.ended(ids) == {ids[3]}, "what is on its way has not ended"
    await queue.settle([Settlement(token=claimed.token, letter=ended(claimed.letters[0]))])
    assert await queue.ended(ids) == {claimed.letters[0].id, ids[3]}
    assert await queue.ended([]) == frozenset()


async def test_a_settlement_repeated_changes_nothing(queue: Queue) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    settlement = Settlement(token=token, letter=ended(claimed))
    assert await queue.settle([settlement]) == frozenset()
    assert await queue.settle([settlement]) == frozenset()
    found = await queue.unreported(0, 10)
    await queue.acknowledge(found)
    assert await queue.settle([settlement]) == frozenset()
    assert await queue.unreported(0, 10) == []


async def test_a_retry_repeated_does_not_touch_the_next_claim(queue: Queue) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    settlement = Settlement(token=token, letter=claimed.evolve(status=Status.AWAITING, attempts=1))
    await queue.settle([settlement])
    second, _ = await claim_one(queue)
    assert await queue.settle([settlement]) == frozenset()
    assert await queue.claims_of(REPLICA) == {second: [claimed.id]}


async def test_who_is_late_still_settles_what_nobody_took(queue: Queue, world: World) -> None:
    await queue.insert([letter(1)])
    token, claimed = await claim_one(queue)
    await world.pass_time(1000)
    assert await queue.settle([Settlement(token=token, letter=ended(claimed))]) == frozenset()
    assert len(await queue.unreported(0, 10)) == 1


@pytest.mark.parametrize("then", ["waits", "claimed", "settled"])
async def test_a_late_writer_changes_nothing(queue: Queue, world: World, then: str) -> None:
    await queue.insert([letter(number) for number in range(2)])
    dead, alive = await claim(queue, 1, OTHER), await claim(queue, 1)
    (late,), (kept,) = dead.letters, alive.letters
    await world.pass_time(61)
    assert await queue.beat(REPLICA, LIFE)
    assert await queue.reclaim(10) == 1
    if then != "waits":
        token, claimed = await claim_one(queue)
        if then == "settled":
            await queue.settle([Settlement(token=token, letter=ended(claimed, REFUSED, Status.ERROR))])
    before = await queue.get(late.id)
    settlements = [
        Settlement(token=dead.token, letter=ended(late)),
        Settlement(token=alive.token, letter=ended(kept)),
    ]
    assert await queue.settle(settlements) == {late.id}
    assert await queue.get(late.id) == before
    assert kept.id in {each.id for each in await queue.unreported(0, 10)}


@only(*MONGO)
async def test_a_settlement_whose_reply_is_lost_is_repeated(queue: Queue) -> None:
    await queue.insert([letter(number) for number in range(3)])
    lease = await claim(queue, 3)
    settlements = [Settlement(token=lease.token, letter=ended(each)) for each in lease.letters]
    lose_reply(queue, "bulk_write")
    with pytest.raises(Unavailable):
        await queue.settle(settlements)
    assert await queue.settle(settlements) == frozenset()
    assert len(await queue.unreported(0, 10)) == 3


async def test_a_publisher_who_joins_in_mid_flight_stays(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    token, claimed = await claim_one(queue)
    assert await queue.insert([again(first, 2)]) == [Inserted.LATE]
    await queue.settle([Settlement(token=token, letter=ended(claimed))])
    found = await queue.get(first.id)
    assert found is not None
    assert len(found.answers) == 2


# --- release and reclaim ---------------------------------------------------------------------------


async def test_released_letters_are_as_they_were(queue: Queue) -> None:
    await queue.insert([letter(number) for number in range(3)])
    lease = await claim(queue, 2)
    await queue.release(lease.token, [lease.letters[0].id])
    await queue.release(lease.token, [lease.letters[0].id])
    await queue.release("nobody", [lease.letters[1].id])
    await queue.release(lease.token, [])
    back = await claim(queue, 10)
    assert [each.subject for each in back.letters] == ["Тема 0", "Тема 2"]
    assert back.letters[0] == lease.letters[0]


async def test_letters_of_the_dead_are_first_in_line(queue: Queue, world: World) -> None:
    await queue.insert([letter(number) for number in range(4)])
    await claim(queue, 3, OTHER)
    assert await queue.reclaim(10) == 0
    await world.pass_time(61)
    await queue.insert([letter(number) for number in range(4, 6)])
    assert await queue.reclaim(2) == 2
    assert await queue.reclaim(2) == 1
    assert await queue.reclaim(2) == 0
    claimed = await claim(queue, 10)
    assert [each.subject for each in claimed.letters] == [f"Тема {number}" for number in range(6)]


async def test_who_is_dead_only_by_a_clock_set_ahead_lives(queue: Queue, world: World) -> None:
    """To pass time for the store alone is what a step of its clock does."""
    await queue.insert([letter(1)])
    before = await queue.now(0.0)
    await claim_one(queue)
    await world.pass_time(3600)
    assert await queue.reclaim(10, by=before + (59 if world.raw is None else -3541)) == 0
    assert await queue.reclaim(10, by=before + 70) == 1


# --- the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unknown", ["0" * 24, "", "x", "~", "~{", '~{"$oid": 5}', "~5", "~" + "[" * 5000, '~"\\ud800"']
)
async def test_an_unknown_letter_is_none(queue: Queue, unknown: str) -> None:
    assert await queue.get(unknown) is None


async def test_stats(queue: Queue, world: World) -> None:
    empty = await queue.stats()
    assert (empty.awaiting, empty.due, empty.oldest_due, empty.oldest_unreported) == (0, 0, 0.0, 0.0)
    await queue.insert([letter(number) for number in range(6)])
    await queue.insert([letter(6, status=Status.ERROR, reason="bad")])
    await queue.acknowledge([await send_one(queue)])
    await send_one(queue)
    await claim_one(queue)
    await world.pass_time(100)
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing, stats.sent, stats.error, stats.unreported) == (3, 1, 2, 1, 2)
    assert 100 <= stats.oldest_due < 110
    assert 100 <= stats.oldest_unreported < 110
    lease = await claim(queue, 1)
    later = lease.letters[0].evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=lease.token, letter=later, delay=100)])
    assert ((await queue.stats()).awaiting, (await queue.stats()).due) == (3, 2)
    await world.pass_time(101)
    assert ((await queue.stats()).awaiting, (await queue.stats()).due) == (3, 3)


async def test_what_waits_is_counted_by_route(queue: Queue, world: World) -> None:
    assert (await queue.stats()).routes == {}
    await queue.insert([letter(number, route="a") for number in range(3)])
    await queue.insert([letter(3, route="b")])
    await world.pass_time(50)
    lease = await queue.claim(1, token_of(), "a")
    later = lease.letters[0].evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=lease.token, letter=later, delay=100)])
    stats = await queue.stats()
    assert {name: (each.awaiting, each.deferred) for name, each in stats.routes.items()} == {
        "a": (3, 1),
        "b": (1, 0),
    }
    assert all(50 <= each.oldest_due < 60 for each in stats.routes.values())
    assert (stats.awaiting, stats.due) == (4, 3)
    await queue.claim(10, token_of(), "a")
    stats = await queue.stats()
    assert (stats.routes["a"].awaiting, stats.routes["a"].deferred) == (1, 1)
    assert stats.routes["a"].oldest_due == 0.0, "it waits for its own time"
    await world.pass_time(101)
    assert (await queue.stats()).routes["a"].deferred == 0
    await queue.claim(10, token_of(), "a")
    assert set((await queue.stats()).routes) == {"b"}


async def test_how_many_go_before_a_letter(queue: Queue, world: World) -> None:
    letters = [letter(number, route="a") for number in range(4)]
    await queue.insert([*letters, letter(4, route="b")])
    assert [await queue.ahead(each.id, 100) for each in letters] == [0, 1, 2, 3]
    assert await queue.ahead(letters[3].id, 2) == 2, "no more is looked at"
    lease = await queue.claim(1, token_of(), "a")
    assert await queue.ahead(letters[0].id, 100) is None, "it is on its way"
    later = lease.letters[0].evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=lease.token, letter=later, delay=100)])
    assert await queue.ahead(letters[0].id, 100) is None, "its time is to come"
    assert [await queue.ahead(each.id, 100) for each in letters[1:]] == [0, 1, 2]
    await world.pass_time(101)
    assert await queue.ahead(letters[0].id, 100) == 0
    assert [await queue.ahead(each.id, 100) for each in letters[1:]] == [0, 2, 3]
    assert await queue.ahead("f" * 24, 100) is None


@pytest.mark.parametrize("size", [10, 13 * 1024 * 1024])
async def test_a_refused_record_is_kept_once(queue: Queue, world: World, size: int) -> None:
    record = Record(
        topic="in",
        partition=3,
        offset=7,
        timestamp=-1,
        key=b"\xff",
        value=b"x" * size,
        headers=(("h", b"\0"), ("n", None)),
    )
    where = await queue.keep_record(record, "too large")
    assert await queue.keep_record(record, "too large") == where
    digest = digest_of(record.key, record.value, record.timestamp)
    assert where.endswith(f"in/3/7/{digest}")
    if world.database is None:
        return
    kept = await world.database.get_collection("letters.deadletters").find({}).to_list(None)
    place = {"topic": "in", "partition": 3, "offset": 7, "digest": digest}
    (head,) = [each for each in kept if each["_id"] == place]
    assert head["reason"] == "too large"
    assert len(kept) == 1 + head.get("chunks", 0)
    if size == 10:
        assert (head["key"], head["value"]) == (b"\xff", b"x" * 10)
        assert head["headers"] == [{"name": "h", "value": b"\0"}, {"name": "n", "value": None}]
        return
    parts = sorted((each for each in kept if "bytes" in each), key=lambda each: each["_id"]["chunk"])
    assert sum(len(each["bytes"]) for each in parts) == head["size"] > size


@pytest.mark.parametrize("size", [10, 13 * 1024 * 1024])
async def test_another_record_at_the_same_place_does_not_replace_it(
    queue: Queue, world: World, size: int
) -> None:
    """A topic that is made anew has the same offsets; and a pointer leads to each of them."""
    first = Record(topic="in", partition=0, offset=0, timestamp=1, key=None, value=b"x" * size)
    second = replace(first, timestamp=2, value=b"y" * 10)
    where = [await queue.keep_record(each, "too large") for each in (first, second)]
    assert len({*where}) == 2
    assert await queue.keep_record(first, "too large") == where[0]
    if world.database is not None:
        kept = await world.database.get_collection("letters.deadletters").find({}).to_list(None)
        heads = [each for each in kept if "bytes" not in each]
        assert len(heads) == 2
        assert len(kept) == 2 + sum(each.get("chunks", 0) for each in heads)


@only(*MONGO)
@pytest.mark.parametrize("size", [10, 13 * 1024 * 1024])
async def test_a_record_that_is_kept_goes_when_the_retention_is_over(world: World, size: int) -> None:
    """Anybody who may publish may have it filled."""
    queue = await world.replica()
    record = Record(topic="in", partition=0, offset=0, timestamp=1, key=None, value=b"x" * size)
    await queue.keep_record(record, "too large")
    there = world.database.get_collection("letters.deadletters")
    found = (await there.index_information())["mailsender_deadletter_expire"]
    assert (found["key"], found["expireAfterSeconds"]) == ([("expire_at", 1)], 0)
    kept = await there.find({}, {"expire_at": 1}).to_list(None)
    now = now_ms(await queue.now(0))
    left = {round((each["expire_at"] - now).total_seconds(), -1) for each in kept}
    assert left == {RETENTION}


@only(*MONGO)
async def test_who_may_make_no_index_for_records_that_are_kept_starts_all_the_same(world: World) -> None:
    queue: Any = world.make()
    queue._deadletters = Locked()
    await queue.open()
    assert await queue.insert([letter(1)]) == [Inserted.NEW]


class Locked:
    """A collection in which no index may be made."""

    async def create_indexes(self, _: Any) -> None:
        raise OperationFailure("not authorized", 13)


async def test_opening_twice_is_safe(world: World) -> None:
    queue = await world.replica()
    await queue.open()
    await world.replica()


@only(*MONGO)
async def test_an_index_made_otherwise_does_not_stop_the_start(world: World) -> None:
    await world.raw.create_index([("expire_at", 1)], name="mine", expireAfterSeconds=77)
    await world.raw.create_index([("status", 1), ("due", 1)], name="mailsender_claim")
    queue = await world.replica()
    await queue.insert([letter(1)])
    assert (await claim_one(queue))[1].subject == "Тема 1"


@pytest.mark.parametrize("place", ["letters", "letters.outbox"])
@only(*MONGO)
async def test_indexes_of_the_same_keys_under_other_names_serve(world: World, place: str) -> None:
    """An operator, or a tool, may have made each of them before."""
    there = world.database.get_collection(place)
    for index in INDEXES if place == "letters" else OUTBOX_INDEXES:
        options = {key: value for key, value in index.document.items() if key not in {"name", "key"}}
        await there.create_index(
            list(index.document["key"].items()), name=f"my_{len(options)}_{id(index)}", **options
        )
    queue = await world.replica()
    await queue.insert([letter(1), letter(2), letter(3, status=Status.ERROR, reason="bad")])
    await claim_one(queue)
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing, stats.error, stats.unreported) == (1, 1, 1, 1)
    assert await queue.claims_of(REPLICA) != {}


@only(*MONGO)
async def test_indexes_of_the_same_names_with_other_keys_harm_nobody(world: World) -> None:
    for index in INDEXES:
        keys = [(f"other_{index.document['name']}", 1)]
        await world.raw.create_index(keys, name=index.document["name"])
    queue = await world.replica()
    await queue.insert([letter(1)])
    assert (await queue.stats()).awaiting == 1
    await send_one(queue)
    await queue.acknowledge(await queue.unreported(0, 10))
    assert (await queue.stats()).sent == 1


@only(*MONGO)
async def test_an_unreachable_server_is_unavailable(queue: Any, world: World) -> None:
    class Away:
        """Every call fails as the driver's do without a server."""

        def __getattr__(self, name: str) -> Any:
            def fail(*args: Any, **kwargs: Any) -> Any:
                raise AutoReconnect("no server")

            return fail

    queue._letters = queue._committed = queue._inserter._letters = queue._deadletters = Away()
    queue._order._letters = Away()
    queue._outbox._outbox = queue._outbox._committed = queue._outbox._letters = Away()
    queue._replicas._replicas = queue._server_clock._admin = Away()
    queue._server_clock.forget()
    record = Record(topic="in", partition=0, offset=0, timestamp=0, key=None, value=b"")
    sample = letter(1)
    calls = [
        queue.now(),
        queue.insert([sample]),
        queue.join("t", LIFE),
        queue.beat("t", LIFE),
        queue.leave("t"),
        queue.claim(1, "t"),
        queue.settle([Settlement(token="t", letter=ended(sample))]),
        queue.release("t", [sample.id]),
        queue.reclaim(1),
        queue.unreported(0, 1),
        queue.remember(1),
        queue.get(sample.id),
        queue.stats(),
        queue.ahead(sample.id, 1),
        queue.keep_record(record, "x"),
        queue.open(),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call


# --- partitions ----------------------------------------------------------------------------------


def known(*offsets: int, log: int = 0) -> History:
    made = History(log=log, retention=RETENTION)
    for offset in offsets:
        made = made.reached(Milestone(offset=offset, at=offset + 0.5, last=offset - 1, digest="d"), since=0.0)
    return made


async def test_what_is_known_of_a_partition_is_kept(world: World) -> None:
    queue, other = await world.replica(), await world.replica()
    assert await queue.history("in", 3) == History()
    noted = known(10, 20).bury(4)
    await queue.note_history("in", 3, noted)
    assert await queue.history("in", 3) == noted
    assert await queue.history("in", 4) == await queue.history("other", 3) == History()
    if world.backend != "memory":
        assert await other.history("in", 3) == noted


async def test_who_knows_less_of_a_partition_changes_nothing(world: World) -> None:
    queue = await world.replica()
    await queue.note_history("in", 3, known(10, 20))
    await queue.note_history("in", 3, known(10))
    assert (await queue.history("in", 3)).high == 20
    cut = (await queue.history("in", 3)).cut(10)
    await queue.note_history("in", 3, cut)
    await queue.note_history("in", 3, known(10, 20, 30))
    assert await queue.history("in", 3) == cut


# --- routes --------------------------------------------------------------------------------------


async def test_a_route_has_its_own_letters_in_their_order(queue: Queue) -> None:
    await queue.insert([letter(n, route="ab"[n % 2]) for n in range(10)])
    await queue.insert([letter(n, route="b") for n in range(10, 12)])
    first = await queue.claim(3, token_of(), "b")
    assert [each.subject for each in first.letters] == ["Тема 1", "Тема 3", "Тема 5"]
    assert {each.route for each in first.letters} == {"b"}
    assert (await queue.claim(10, token_of())).letters == (), "none is on the default route"
    await queue.release(first.token, [first.letters[1].id])
    rest = await queue.claim(10, token_of(), "b")
    assert [each.subject for each in rest.letters] == ["Тема 3", *(f"Тема {n}" for n in (7, 9, 10, 11))]
    assert len((await queue.claim(10, token_of(), "a")).letters) == 5


async def test_a_deferred_letter_waits_on_its_route_and_holds_up_nobody(queue: Queue, world: World) -> None:
    await queue.insert([letter(0, route="a"), letter(1, route="a"), letter(2, route="b")])
    claimed = await queue.claim(1, token_of(), "a")
    later = claimed.letters[0].evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=claimed.token, letter=later, delay=100)])
    assert [each.subject for each in (await queue.claim(10, token_of(), "a")).letters] == ["Тема 1"]
    await world.pass_time(99)
    await queue.insert([letter(3, route="a")])
    assert [each.subject for each in (await queue.claim(1, token_of(), "a")).letters] == ["Тема 3"]
    await queue.insert([letter(4, route="a")])
    await world.pass_time(2)
    await queue.insert([letter(5, route="a")])
    found = (await queue.claim(10, token_of(), "a")).letters
    assert [each.subject for each in found] == ["Тема 4", "Тема 0", "Тема 5"]
    assert (await queue.stats()).awaiting == 1


async def test_a_settlement_may_move_a_letter_to_another_route(queue: Queue) -> None:
    await queue.insert([letter(n, route="a") for n in range(3)])
    claimed = await queue.claim(3, token_of(), "a")
    routes = ("a", "b", "b")
    await queue.settle(
        [
            Settlement(token=claimed.token, letter=each.evolve(status=Status.AWAITING, attempts=1, route=to))
            for each, to in zip(claimed.letters, routes, strict=True)
        ]
    )
    found = await queue.claim(9, token_of(), "b")
    assert [(each.subject, each.route) for each in found.letters] == [("Тема 1", "b"), ("Тема 2", "b")]
    assert [each.subject for each in (await queue.claim(9, token_of(), "a")).letters] == ["Тема 0"]


async def test_when_a_recipient_is_due_is_kept(queue: Queue) -> None:
    mine = letter(1, addresses=("a@example.test", "b@example.test"))
    await queue.insert([mine])
    claimed = await queue.claim(1, token_of())
    soon, later = Recipient(address="a@example.test"), Recipient(address="b@example.test", due=1.5e9 + 0.25)
    moved = claimed.letters[0].evolve(status=Status.AWAITING, recipients=(soon, later))
    await queue.settle([Settlement(token=claimed.token, letter=moved)])
    found = (await queue.claim(1, token_of())).letters
    assert found[0].recipients == (soon, later)


async def test_letters_that_wait_can_be_moved_to_another_route(queue: Queue, world: World) -> None:
    await queue.insert([letter(n, route="ab"[n % 2]) for n in range(6)])
    assert await queue.routes() == ["a", "b"]
    claimed = await queue.claim(1, token_of(), "a")
    deferred = await queue.claim(1, token_of(), "a")
    later = deferred.letters[0].evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=deferred.token, letter=later, delay=100)])
    ids = await queue.waiting("a", 9)
    assert sorted(ids) == sorted([letter(2).id, letter(4).id])
    assert len(await queue.waiting("a", 1)) == 1
    assert await queue.waiting("gone", 9) == []
    assert sorted(each.id for each in await queue.look_at([*ids, letter(0).id])) == sorted(ids)
    everybody = [letter(n).id for n in range(6)]
    assert await queue.move(everybody, "a", "c") == 2, (
        "neither who is on the way, nor who is on another route"
    )
    assert await queue.move(everybody, "a", "c") == 0
    assert await queue.routes() == ["b", "c"]
    found = await queue.claim(9, token_of(), "c")
    assert [(each.subject, each.route) for each in found.letters] == [("Тема 4", "c")]
    await world.pass_time(101)
    found = await queue.claim(9, token_of(), "c")
    assert [(each.subject, each.route) for each in found.letters] == [("Тема 2", "c")]
    await queue.release(claimed.token, [letter(0).id])
    assert await queue.waiting("a", 9) == [letter(0).id]


async def test_those_that_no_relay_was_asked_for_can_be_had_sooner(queue: Queue, world: World) -> None:
    await queue.insert([letter(n, route="a") for n in range(6)])
    claimed = await queue.claim(5, token_of(), "a")
    waits = Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, text="waits (10 in 1m)")
    mixed = (Recipient(address="a4@example.test", result=waits), Recipient(address="b4@example.test"))
    both = [
        tuple(Recipient(address=each, result=result) for each in one.addresses)
        for one, result in zip(claimed.letters, [waits, waits, DEFERRED, ACCEPTED], strict=False)
    ]
    await queue.settle(
        [
            Settlement(
                token=claimed.token,
                letter=one.evolve(status=Status.AWAITING, recipients=recipients),
                delay=100.0 - 10 * number,
            )
            for number, (one, recipients) in enumerate(zip(claimed.letters, [*both, mixed], strict=True))
        ]
    )
    now = await queue.now()
    found = await queue.put_off("a", ["rests", "waits ("], now, 9)
    assert [each for each, _ in found] == [letter(n).id for n in (4, 1, 0)]
    assert [round(due - now) for _, due in found] == [60, 90, 100]
    assert await queue.put_off("a", ["waits ("], now, 1) == found[:1]
    assert await queue.put_off("a", ["waits ("], found[1][1], 9) == found[2:]
    assert await queue.put_off("a", ["waits."], now, 9) == await queue.put_off("b", ["waits ("], now, 9) == []
    ids = [letter(n).id for n in (0, 1, 5, 77)]
    assert await queue.hasten(ids) == 2, "nobody who waits for a turn alone, and nobody who is not there"
    assert await queue.hasten(ids) == 0
    due = await queue.claim(9, token_of(), "a")
    assert sorted(each.id for each in due.letters) == sorted(letter(n).id for n in (0, 1, 5))
    assert await queue.hasten([letter(0).id]) == 0, "it is on its way"


async def test_letters_are_looked_at_in_the_order_in_which_they_are_named(queue: Queue) -> None:
    await queue.insert([letter(n) for n in range(6)])
    await queue.claim(1, token_of())
    ids = [letter(n).id for n in (5, 0, 3, 1, 77)]
    assert [each.subject for each in await queue.look_at(ids)] == ["Тема 5", "Тема 3", "Тема 1"]
    assert await queue.look_at([letter(0).id]) == []


@only(*MONGO)
async def test_of_large_letters_only_the_first_ones_are_looked_at(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailsender.queue.mongo.queue.CLAIM_BYTES", 25_000)
    await queue.insert([letter(n, body="x" * 10_000) for n in range(4)])
    ids = [letter(n).id for n in (3, 1, 2, 0)]
    assert [each.subject for each in await queue.look_at(ids)] == ["Тема 3", "Тема 1"]
    monkeypatch.setattr("mailsender.queue.mongo.queue.CLAIM_BYTES", 10)
    assert [each.subject for each in await queue.look_at(ids)] == ["Тема 3"]


async def test_only_letters_of_its_route_come_in_under_a_fresh_claim(queue: Queue) -> None:
    letters = [letter(n, route="ab"[n % 2]) for n in range(6)]
    _, claimed = await insert_claimed(queue, letters, FreshClaim(token=token_of(), limit=2, route="b"))
    assert [each.subject for each in claimed.letters] == ["Тема 1", "Тема 3"]
    assert [each.subject for each in (await queue.claim(9, token_of(), "b")).letters] == ["Тема 5"]
    assert len((await queue.claim(9, token_of(), "a")).letters) == 3


@pytest.mark.parametrize("backend", MONGO, indirect=True)
async def test_who_asks_after_the_end_learns_nothing_of_a_letter(queue: Queue) -> None:
    await queue.insert([letter()])
    await queue.close()
    with pytest.raises(Unavailable):
        await queue.ended([letter().id])
    with pytest.raises(Unavailable):  # none of them is called bad
        await queue.insert([letter(1), letter(2)])
