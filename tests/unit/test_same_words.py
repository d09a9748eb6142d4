"""What a relay says to one recipient after the other, in the same words, says nothing of any of them."""

from __future__ import annotations

import pytest

from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase, Result, Status, Verdict
from mailsender.routing.same_words import RUN, SameWords
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.port import Entry
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch
from tests.dispatching import Scene, letter, running
from tests.relays import ACCEPTED, FakeRelay


def no(text: str = "go away", enhanced: str | None = None) -> Result:
    return Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced=enhanced, text=text)


def test_from_the_third_one_on_nothing_is_learned_and_the_first_two_are_taken_back() -> None:
    words = SameWords()
    assert RUN == 3
    assert [words.heard(each, no()) for each in ("a", "b", "c", "d", "c", "a")] == [
        frozenset(),
        frozenset(),
        {"a", "b", "c"},
        {"d"},
        {"c"},
        {"a"},
    ]


def test_addresses_and_numbers_make_no_difference_and_other_words_do() -> None:
    words = SameWords()
    for n in range(2):
        assert not words.heard(f"r{n}", no(f"<r{n}@a.test>: go away (id {n}x7)"))
    assert words.heard("r2", no("<r2@a.test>: go away (id 2x7)"))
    assert not words.heard("r3", no("who is that"))
    assert not words.heard("r4", no("go away"))
    assert not words.heard("r5", no("go away", "5.2.1"))


def test_one_who_is_refused_again_and_again_is_one() -> None:
    words = SameWords()
    assert not any(words.heard("a", no()) for _ in range(10))


def test_once_somebody_is_taken_it_begins_anew() -> None:
    words = SameWords()
    for each in "abc":
        words.heard(each, no())
    words.end()
    assert not words.heard("d", no())


# --- letters on their way ----------------------------------------------------------------------------


async def send(scene: Scene, watch: SuppressionWatch, first: int, *addresses: str) -> None:
    """Send a letter to each of these, one after the other, and write what is learned."""
    for number, address in enumerate(addresses, first):
        await scene.queue.insert([letter(number, address)])
        scene.dispatcher.nudge()
        await scene.settled(number)
    assert await watch._write()


async def known(watch: SuppressionWatch, *addresses: str) -> list[Entry]:
    return sorted(await watch.store.find(addresses), key=lambda each: each.address)


PEOPLE = tuple(f"r{n}@example.test" for n in range(8))


@pytest.mark.asyncio
async def test_what_is_said_to_everybody_suppresses_nobody_in_any_number_of_rounds() -> None:
    relay = FakeRelay(answer=lambda _: no())
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        for turn in range(3):
            await send(scene, watch, 1 + turn * len(PEOPLE), *PEOPLE)
        assert {each.status for each in scene.reported} == {Status.ERROR}
    assert await known(watch, *PEOPLE) == []


@pytest.mark.asyncio
async def test_what_was_written_of_the_first_two_is_taken_back() -> None:
    """As by a process that started between two rounds: their second refusals count before the third one's."""
    relay = FakeRelay(answer=lambda _: no())
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        await send(scene, watch, 1, *PEOPLE[:2])
        await send(scene, watch, 3, *PEOPLE[:2])
        assert [each.active for each in await known(watch, *PEOPLE)] == [True, True]
        await send(scene, watch, 5, PEOPLE[2])
    assert await known(watch, *PEOPLE) == []
    assert watch.lifted == 0


@pytest.mark.asyncio
async def test_so_it_is_where_they_are_recipients_of_one_letter() -> None:
    relay = FakeRelay(answer=lambda _: no())
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        for number in (1, 2):
            await scene.queue.insert([letter(number, *PEOPLE)])
            scene.dispatcher.nudge()
            await scene.settled(number)
        assert await watch._write()
    assert await known(watch, *PEOPLE) == []


@pytest.mark.asyncio
async def test_where_others_are_taken_in_between_or_in_the_same_letter_it_is_learned_from() -> None:
    relay = FakeRelay(answer=lambda address: no() if address in PEOPLE[:4] else ACCEPTED)
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        await send(scene, watch, 1, PEOPLE[0], PEOPLE[5], PEOPLE[1], PEOPLE[6], PEOPLE[2], PEOPLE[7])
        await scene.queue.insert([letter(7, *PEOPLE)])
        scene.dispatcher.nudge()
        await scene.settled(7)
        assert await watch._write()
    found = await known(watch, *PEOPLE)
    assert [(each.address, each.active) for each in found] == [
        (PEOPLE[0], True),
        (PEOPLE[1], True),
        (PEOPLE[2], True),
        (PEOPLE[3], False),
    ]


@pytest.mark.asyncio
async def test_what_is_about_the_address_and_nothing_else_is_learned_from_in_any_row() -> None:
    relay = FakeRelay(answer=lambda _: no("no such user", "5.1.1"))
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        await send(scene, watch, 1, *PEOPLE)
    assert len(await known(watch, *PEOPLE)) == len(PEOPLE)


@pytest.mark.asyncio
async def test_one_bad_address_of_a_quiet_service_is_learned_by_its_second_refusal() -> None:
    relay = FakeRelay(answer=lambda _: no())
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        await send(scene, watch, 1, PEOPLE[0], PEOPLE[0])
    assert [each.active for each in await known(watch, PEOPLE[0])] == [True]
