"""What the notes of a dead process say is settled, as far as its leases still hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

import pytest

from mailsender.journal.port import NoNotes
from mailsender.journal.record import LeftBehind, Story, noted_id
from mailsender.model.letter import Claim, Letter, Phase, Result, Settlement, Status, Verdict
from mailsender.model.ports import Unavailable
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.routing.schedule import RetryPolicy
from mailsender.sending.recovery import Recovery
from mailsender.sending.settler import Settler
from tests.claims import claim
from tests.clocks import ManualClock
from tests.dispatching import PlainComposer, known_relay, letter
from tests.relays import FakeRelay

RUN, OTHER = "a" * 16, "b" * 16
TOKEN = RUN + "0" * 16
TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
LATER = Result(verdict=Verdict.DEFERRED, phase=Phase.DOT, code=451)

pytestmark = pytest.mark.asyncio


MADE_UP = '~{"_id": "made up elsewhere"}'


class Left(NoNotes):
    """Notes of a dead process."""

    def __init__(self, *stories: Story) -> None:
        self.stories = stories
        self.forgotten = False

    def left_behind(self) -> LeftBehind:
        return LeftBehind(stories=self.stories, runs=[RUN])

    def forget(self) -> None:
        self.forgotten = True


class Scene:
    """A queue whose letters the dead process holds."""

    def __init__(self, queue: MemoryQueue | None = None) -> None:
        self.clock = ManualClock()
        self.queue = queue or MemoryQueue(self.clock)
        self.settler = Settler(self.queue, InFlight(), self.clock, report=self.report)

    async def report(self, letters: Sequence[Letter]) -> None:
        pass

    async def claimed(self, *letters: Letter, token: str = TOKEN) -> Claim:
        await self.queue.insert(letters)
        return await self.queue.claim(len(letters), token)

    def recovery(self, notes: Left, *, resend: bool = True) -> Recovery:
        return Recovery(
            queue=self.queue,
            notes=notes,
            settler=self.settler,
            composer=PlainComposer(),
            relay=known_relay(FakeRelay(name="relay:25"), self.clock, max_recipients=2),
            retry=RetryPolicy(max_attempts=3, delay=60.0, resends=int(resend)),
            chance=random.Random(1),
        )

    async def recover(self, *stories: Story, resend: bool = True) -> Recovery:
        notes = Left(*stories)
        recovery = self.recovery(notes, resend=resend)
        await recovery.run()
        assert notes.forgotten
        return recovery

    async def now(self, number: int) -> Letter:
        found = await self.queue.get(letter(number).id)
        assert found is not None
        return found


def story(number: int, *dots: tuple[int, int], token: str = TOKEN, **results: Result) -> Story:
    known = {int(index[1:]): result for index, result in results.items()}
    return Story(letter(number).id, token, list(dots), known)


async def test_an_id_of_another_program_is_known_by_its_hash() -> None:
    scene = Scene()
    await scene.claimed(letter(0).evolve(id=MADE_UP), letter(1))
    done = await scene.recover(Story(noted_id(MADE_UP), TOKEN, [(0, 1)], {0: TAKEN}))
    assert (done.settled, done.released, done.gone) == (1, 1, 0)
    found = await scene.queue.get(MADE_UP)
    assert found is not None
    assert found.status is Status.SENT


async def test_answered_is_settled_uncertain_is_named_and_unsent_is_given_back() -> None:
    scene = Scene()
    await scene.claimed(*[letter(number) for number in range(4)])
    done = await scene.recover(story(0, (0, 1), _0=TAKEN), story(1, (0, 1)), story(2, (0, 1), _0=LATER))
    assert (done.settled, done.uncertain, done.released, done.gone) == (2, 1, 1, 0)
    assert (await scene.now(0)).status is Status.SENT
    unknown = await scene.now(1)
    assert (unknown.status, unknown.attempts, unknown.recipients[0].uncertain) == (Status.AWAITING, 1, True)
    assert (await scene.now(3)).attempts == 0
    due = await claim(scene.queue, 9)
    assert {each.id for each in due.letters} == {letter(1).id, letter(3).id}, "the deferred one waits"
    assert scene.settler.tally.uncertain == 1
    assert scene.settler.tally.recovered == 2


async def test_an_uncertain_one_ends_as_an_error_when_that_is_wanted() -> None:
    scene = Scene()
    await scene.claimed(letter(1))
    await scene.recover(story(1, (0, 1)), resend=False)
    ended = await scene.now(1)
    assert ended.status is Status.ERROR
    assert ended.recipients[0].result is not None
    assert (ended.recipients[0].result.verdict, ended.recipients[0].result.phase) == (
        Verdict.UNCERTAIN,
        Phase.DOT,
    )


async def test_slices_that_were_not_reached_are_due_at_once_without_an_attempt() -> None:
    scene = Scene()
    await scene.claimed(letter(1, "a@x.test", "b@x.test", "c@x.test"))
    await scene.recover(story(1, (0, 2), _0=TAKEN, _1=TAKEN))
    assert ((await scene.now(1)).pending, (await scene.now(1)).attempts) == (("c@x.test",), 0)
    assert len((await claim(scene.queue, 1)).letters) == 1


async def test_what_another_one_has_stays_its_own() -> None:
    scene = Scene()
    lease = await scene.claimed(letter(1), letter(2))
    await scene.queue.settle(
        [Settlement(token=TOKEN, letter=lease.letters[0].evolve(status=Status.SENT, relay="first"))]
    )
    await scene.queue.release(TOKEN, [letter(2).id])
    await scene.queue.claim(1, OTHER * 2)
    done = await scene.recover(story(1, (0, 1)), story(2, (0, 1), _0=TAKEN))
    assert (done.settled, done.uncertain, done.released, done.gone) == (0, 0, 0, 2)
    assert (await scene.now(1)).relay == "first"
    assert (await scene.now(2)).status is Status.PROCESSING


class Away(MemoryQueue):
    """A queue that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.away = True
        self.asked = asyncio.Event()

    async def held(self, leases: Mapping[str, Sequence[str]]) -> dict[str, list[Letter]]:
        self.asked.set()
        if self.away:
            raise Unavailable("away")
        return await super().held(leases)


async def test_it_waits_for_mongodb_and_a_stop_leaves_the_notes() -> None:
    queue = Away()
    scene = Scene(queue)
    await scene.claimed(letter(1))
    notes = Left(story(1, (0, 1), _0=TAKEN))
    stopped = asyncio.create_task(scene.recovery(notes).run())
    await queue.asked.wait()
    stopped.cancel()
    await asyncio.wait({stopped})
    assert not notes.forgotten
    queue.asked.clear()
    waiting = asyncio.create_task(scene.recovery(notes).run())
    await queue.asked.wait()
    queue.away = False
    await waiting
    assert notes.forgotten
    assert (await scene.now(1)).status is Status.SENT
