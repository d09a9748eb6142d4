"""Fresh letters go from their insert straight to the workers, where nothing older waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mailsender.model.clock import SystemClock
from mailsender.model.handling import Handling
from mailsender.model.letter import Letter, Status
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.port import Inserted
from mailsender.ratelimit.gcra import Allowance
from mailsender.sending.dispatcher import BYTES_IN_FLIGHT, FRESH
from tests.dispatching import Scene, letter, running, until
from tests.relays import FakeRelay


async def hand_over(scene: Scene, letters: Sequence[Letter]) -> int:
    """As intake does it; returns how many were owned from the start."""
    claims = await scene.dispatcher.fresh_claims(letters)
    found = await scene.queue.insert(letters, claims)
    scene.dispatcher.take_fresh(claims, letters, found)
    owned = found.count(Inserted.CLAIMED)
    if owned < len(letters):
        scene.dispatcher.nudge()
    return owned


class CountingQueue(MemoryQueue):
    """Counts the claims that found letters."""

    found = 0

    async def claim(self, limit, token, route="default"):  # type: ignore[no-untyped-def]
        claimed = await super().claim(limit, token, route)
        self.found += bool(claimed.letters)
        return claimed


@pytest.mark.asyncio
async def test_fresh_letters_are_sent_without_a_claim() -> None:
    queue = CountingQueue(SystemClock())
    async with running(FakeRelay(), queue=queue) as scene:
        await until(lambda: scene.route.dry)
        assert await hand_over(scene, [letter(n) for n in range(50)]) == 50
        done = await scene.settled(50)
    assert {found.status for found in done} == {Status.SENT}
    assert queue.found == 0
    assert len(scene.in_flight) == 0


@pytest.mark.asyncio
async def test_fresh_letters_wait_their_turn_behind_older_ones() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(n) for n in range(1000)])
        scene.dispatcher.nudge()
        await relay.started.wait()
        assert await hand_over(scene, [letter(2000)]) == 0
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(1001)
        await until(lambda: scene.route.dry)
        assert await hand_over(scene, [letter(2001)]) == 1


@pytest.mark.asyncio
async def test_with_a_rate_only_so_many_come_fresh_as_it_lets_out_soon() -> None:
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=1, period=1.0)) as scene:
        await until(lambda: scene.route.dry)
        began = asyncio.get_running_loop().time()
        owned = await hand_over(scene, [letter(n) for n in range(100)])
        assert asyncio.get_running_loop().time() - began < 0.3  # nothing is waited for
        assert 1 <= owned <= 4
        assert await hand_over(scene, [letter(200)]) == 0


@pytest.mark.asyncio
async def test_what_waits_in_the_queue_does_not_starve_behind_fresh_letters() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await until(lambda: scene.route.dry)
        await hand_over(scene, [letter(n) for n in range(1000)])
        await relay.started.wait()
        await scene.queue.insert([letter(5000)])  # a retry that became due, say: nobody is told
        waiting = letter(5000).id
        await until(lambda: scene.in_flight.token(waiting))


@pytest.mark.asyncio
async def test_a_full_basket_is_waited_for_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = 2.0  # far longer than a busy machine takes for a hundred letters
    monkeypatch.setattr("mailsender.sending.dispatcher.PATIENCE", patience)
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await until(lambda: scene.route.dry)
        assert await hand_over(scene, [letter(n) for n in range(FRESH)]) == FRESH
        await relay.started.wait()
        began = asyncio.get_running_loop().time()
        assert await hand_over(scene, [letter(n) for n in range(5000, 5100)]) <= 1
        assert asyncio.get_running_loop().time() - began < 2 * patience
        began = asyncio.get_running_loop().time()
        assert await hand_over(scene, [letter(n) for n in range(6000, 6100)]) == 0
        assert asyncio.get_running_loop().time() - began < patience / 2  # and not twice
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(FRESH + 200)


@pytest.mark.asyncio
async def test_a_full_hand_is_waited_for_as_a_full_basket_is() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=2) as scene:
        await until(lambda: scene.route.dry)
        assert await hand_over(scene, [letter(1).evolve(body="b" * BYTES_IN_FLIGHT)]) == 1
        await relay.started.wait()
        coming = asyncio.create_task(hand_over(scene, [letter(2)]))
        await asyncio.sleep(0)
        assert relay.hold is not None
        relay.hold.set()
        assert await coming == 1


@pytest.mark.asyncio
async def test_what_waits_for_room_in_the_hand_is_claimed_when_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.sending.dispatcher.POLL", 60.0)  # longer than `settled` has patience
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=2) as scene:
        await scene.queue.insert([letter(1).evolve(body="b" * BYTES_IN_FLIGHT)])
        scene.dispatcher.nudge()
        await relay.started.wait()
        await scene.queue.insert([letter(2)])
        scene.dispatcher.nudge()
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(2)


@pytest.mark.parametrize("why", ["away", "stopping"])
@pytest.mark.asyncio
async def test_no_fresh_letters_while_nothing_can_be_sent(why: str) -> None:
    relay = FakeRelay(away="connection refused" if why == "away" else "")
    async with running(relay) as scene:
        if why == "away":
            await until(lambda: scene.known.pool.away)
        else:
            await until(lambda: scene.route.dry)
            scene.dispatcher.stop_claiming()
        assert await scene.dispatcher.fresh_claims([letter(1)]) == []


@pytest.mark.asyncio
async def test_fresh_letters_that_come_after_the_stop_go_back() -> None:
    async with running(FakeRelay()) as scene:
        await until(lambda: scene.route.dry)
        letters = [letter(n) for n in range(5)]
        claims = await scene.dispatcher.fresh_claims(letters)
        found = await scene.queue.insert(letters, claims)
        assert found == [Inserted.CLAIMED] * 5
        scene.dispatcher.stop_claiming()
        scene.dispatcher.take_fresh(claims, letters, found)
        await scene.dispatcher.finish(1.0)
        assert await scene.settler.flush(5.0)
        stats = await scene.queue.stats()
    assert (stats.awaiting, stats.processing) == (5, 0)


@pytest.mark.asyncio
async def test_fresh_letters_of_a_name_that_was_declared_dead_are_nobodys_to_send() -> None:
    relay = FakeRelay()
    async with running(relay) as scene:
        await until(lambda: scene.route.dry)
        letters = [letter(n) for n in range(5)]
        claims = await scene.dispatcher.fresh_claims(letters)
        found = await scene.queue.insert(letters, claims)
        assert found == [Inserted.CLAIMED] * 5
        scene.in_flight.begin_anew()
        scene.in_flight.alive_until = SystemClock().monotonic() + 60
        scene.dispatcher.take_fresh(claims, letters, found)
        assert await hand_over(scene, [letter(9)]) == 1
        await scene.settled(1)
        assert (await scene.queue.stats()).processing == 5
    assert len(relay.sent) == 1


@pytest.mark.asyncio
async def test_a_fresh_letter_of_another_stream_does_not_wait_for_a_batch_that_is_at_hand() -> None:
    """Nor does a batch of another one have all turns, or a stream's letters others than in their order."""
    relay = FakeRelay(hold=asyncio.Event())
    news, codes = Handling(stream="news"), Handling(stream="codes")
    async with running(relay, senders=1) as scene:
        await until(lambda: scene.route.dry)
        assert await hand_over(scene, [letter(n) for n in range(100)]) == 100
        await relay.started.wait()
        assert await hand_over(scene, [letter(200 + n, handling=news) for n in range(50)]) == 50
        assert await hand_over(scene, [letter(300, handling=codes)]) == 1
        assert await hand_over(scene, [letter(301, handling=Handling(stream="bills"))]) == 1
        assert await hand_over(scene, [letter(100), letter(250, handling=news)]) == 2
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(154)
    sent = [int(each.recipients[0].partition("@")[0][1:]) for each in relay.sent]
    assert sent.index(300) < sent.index(301) < 6
    begun = sent[5:80]
    assert abs(sum(each < 200 for each in begun) - sum(200 <= each < 300 for each in begun)) <= 3
    for stream in (range(101), range(200, 251)):
        assert [each for each in sent if each in stream] == list(stream)
