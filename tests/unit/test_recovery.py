"""What the journal of a dead process says is settled, as far as its claims still hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from mailsender.journal.port import NoJournal
from mailsender.journal.record import UNCERTAIN, Trail, key_of
from mailsender.message.compose import Composer
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Claim, Letter, Phase, Recipient, Result, Settlement, Status, Verdict
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.routing.retry import RetryPolicy
from mailsender.sending.recovery import Recovery
from mailsender.sending.settler import Settler
from tests.claims import claim
from tests.clocks import ManualClock
from tests.dispatching import letter

REPLICA, OTHER = "a" * 16, "b" * 16
TOKEN = REPLICA + "0" * 16
TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
LATER = Result(verdict=Verdict.DEFERRED, phase=Phase.DOT, code=451)

pytestmark = pytest.mark.asyncio


MADE_UP = '~{"_id": "made up elsewhere"}'


class Left(NoJournal):
    """The journal of a dead process."""

    def __init__(self, *trails: tuple[bytes, Trail]) -> None:
        self.trails = dict(trails)
        self.replicas = [REPLICA]
        self.forgotten = False

    def left_behind(self) -> tuple[dict[bytes, Trail], list[str]]:
        return self.trails, self.replicas

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

    def recovery(self, journal: Left, *, resend: bool = True) -> Recovery:
        return Recovery(
            queue=self.queue,
            journal=journal,
            settler=self.settler,
            composer=Composer("", "robot@today.example.test"),
            schedules={
                "default": RetryPolicy(max_attempts=3, delay=60.0, resends=int(resend)),
                "once": RetryPolicy(max_attempts=1, delay=60.0),
            },
            chance=random.Random(1),
        )

    async def recover(self, *trails: tuple[bytes, Trail], resend: bool = True) -> Recovery:
        journal = Left(*trails)
        recovery = self.recovery(journal, resend=resend)
        await recovery.run()
        assert journal.forgotten
        return recovery

    async def now(self, number: int) -> Letter:
        found = await self.queue.get(letter(number).id)
        assert found is not None
        return found


def trail(number: int, *results: Result, token: str = TOKEN, relay: str = "relay:25") -> tuple[bytes, Trail]:
    return key_of(letter(number).id, token), Trail(relay, dict(enumerate(results)))


async def test_an_id_of_another_program_is_known_by_its_hash() -> None:
    scene = Scene()
    await scene.claimed(letter(0).evolve(id=MADE_UP), letter(1))
    done = await scene.recover((key_of(MADE_UP, TOKEN), trail(0, TAKEN)[1]))
    assert (done.settled, done.released) == (1, 1)
    found = await scene.queue.get(MADE_UP)
    assert found is not None
    assert found.status is Status.SENT


async def test_answered_is_settled_uncertain_is_named_and_unsent_is_given_back() -> None:
    scene = Scene()
    await scene.claimed(*[letter(number) for number in range(4)])
    done = await scene.recover(trail(0, TAKEN), trail(1, UNCERTAIN), trail(2, LATER))
    assert (done.settled, done.uncertain, done.released) == (2, 1, 1)
    assert (await scene.now(0)).status is Status.SENT
    unknown = await scene.now(1)
    assert (unknown.status, unknown.attempts, unknown.recipients[0].uncertain) == (Status.AWAITING, 1, True)
    (past,) = unknown.history
    assert (past.at, past.result.verdict, past.seconds) == (None, Verdict.UNCERTAIN, None), "only its traces"
    assert (await scene.now(3)).attempts == 0
    due = await claim(scene.queue, 9)
    assert {each.id for each in due.letters} == {letter(1).id, letter(3).id}, "the deferred one waits"
    assert scene.settler.tally.uncertain == 1
    assert scene.settler.tally.recovered == 2


async def test_an_uncertain_one_ends_as_an_error_when_that_is_wanted() -> None:
    scene = Scene()
    await scene.claimed(letter(1))
    await scene.recover(trail(1, UNCERTAIN), resend=False)
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
    await scene.recover(trail(1, TAKEN, TAKEN))
    assert ((await scene.now(1)).pending, (await scene.now(1)).attempts) == (("c@x.test",), 0)
    assert len((await claim(scene.queue, 1)).letters) == 1


async def test_the_relay_is_that_of_the_journal_and_the_message_id_that_of_the_first_attempt() -> None:
    scene = Scene()
    told = f"<{letter(1).id}@yesterday.example.test>"
    await scene.claimed(letter(0), letter(1, message_id=told))
    await scene.recover(trail(0, TAKEN, relay="first:25"), trail(1, UNCERTAIN, relay="second:587"))
    first, second = await scene.now(0), await scene.now(1)
    assert (first.relay, first.message_id) == ("first:25", f"<{letter(0).id}@today.example.test>")
    assert (second.relay, second.message_id) == ("second:587", told)


async def test_how_often_a_letter_is_tried_is_for_its_own_route_to_say() -> None:
    scene = Scene()
    await scene.queue.insert([letter(0), letter(1, route="once"), letter(2, route="gone")])
    for route in ("default", "once", "gone"):
        await scene.queue.claim(1, TOKEN, route)
    await scene.recover(trail(0, LATER), trail(1, LATER), trail(2, LATER))
    assert [(await scene.now(number)).status for number in range(3)] == [
        Status.AWAITING,
        Status.ERROR,
        Status.AWAITING,
    ]


async def test_what_a_transaction_of_a_large_letter_wrote_down_is_not_counted_again() -> None:
    scene = Scene()
    claimed = await scene.claimed(letter(1, "a@x.test", "b@x.test", "c@x.test"))
    [large] = claimed.letters
    put_off = Recipient(address="a@x.test", result=LATER, tries=1)
    await scene.queue.progress(TOKEN, large.id, {0: put_off})
    await scene.recover(trail(1, LATER, TAKEN, UNCERTAIN))
    found = {each.address: each for each in (await scene.now(1)).recipients}
    assert (found["a@x.test"].tries, found["b@x.test"].accepted) == (1, True)
    assert (found["c@x.test"].tries, found["c@x.test"].uncertain) == (1, True)


async def test_so_it_is_with_one_that_is_not_large_and_with_doubt() -> None:
    """A personal letter, or one to several destinations, takes a transaction for each of two, too."""
    scene = Scene()
    [personal] = (await scene.claimed(letter(1, "a@x.test", "b@x.test"))).letters
    doubted = Recipient(address="a@x.test", result=UNCERTAIN, tries=1, doubts=1)
    await scene.queue.progress(TOKEN, personal.id, {0: doubted})
    await scene.recover(trail(1, UNCERTAIN))
    first, second = (await scene.now(1)).recipients
    assert (first.tries, first.doubts, first.closed) == (1, 1, False), (
        "it is sent again once, as was asked for"
    )
    assert second.tries == 0


async def test_what_is_said_again_in_a_further_attempt_counts() -> None:
    scene = Scene()
    await scene.queue.insert([letter(1)])
    [claimed] = (await scene.queue.claim(1, OTHER + "0" * 16)).letters
    put_off = claimed.evolve(
        recipients=(Recipient(address=claimed.addresses[0], result=LATER, tries=1),), status=Status.AWAITING
    )
    await scene.queue.settle([Settlement(token=OTHER + "0" * 16, letter=put_off)])
    assert (await scene.queue.claim(1, TOKEN)).letters
    await scene.recover(trail(1, LATER))
    assert (await scene.now(1)).recipients[0].tries == 2


async def test_of_a_replica_of_whom_not_all_is_known_only_what_is_told_is_settled() -> None:
    scene = Scene()
    await scene.claimed(letter(1), letter(2))
    journal = Left(trail(1, TAKEN))
    journal.replicas = []
    await scene.recovery(journal).run()
    assert ((await scene.now(1)).status, (await scene.now(2)).status) == (Status.SENT, Status.PROCESSING)


async def test_what_was_settled_before_the_death_is_left_alone() -> None:
    """A journal does not say what is done: that is known by the claim, which is over."""
    scene = Scene()
    claimed = await scene.claimed(letter(1))
    sent = claimed.letters[0].evolve(status=Status.SENT, relay="before")
    await scene.queue.settle([Settlement(token=TOKEN, letter=sent)])
    with capture_logs() as events:
        await scene.recover(trail(1, UNCERTAIN))
    assert [each["event"] for each in events] == ["journal_recovered"]
    assert (await scene.now(1)).relay == "before"


async def test_what_another_one_has_stays_its_own() -> None:
    scene = Scene()
    claimed = await scene.claimed(letter(1), letter(2))
    await scene.queue.settle(
        [Settlement(token=TOKEN, letter=claimed.letters[0].evolve(status=Status.SENT, relay="first"))]
    )
    await scene.queue.release(TOKEN, [letter(2).id])
    await scene.queue.claim(1, OTHER * 2)
    done = await scene.recover(trail(1, UNCERTAIN), trail(2, TAKEN))
    assert (done.settled, done.uncertain, done.released) == (0, 0, 0)
    assert (await scene.now(1)).relay == "first"
    assert (await scene.now(2)).status is Status.PROCESSING


class Away(MemoryQueue):
    """A queue that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.away = True
        self.asked = asyncio.Event()

    async def held(self, claims: Mapping[str, Sequence[str]]) -> dict[str, list[Letter]]:
        self.asked.set()
        if self.away:
            raise Unavailable("away")
        return await super().held(claims)


async def test_it_waits_for_mongodb_and_a_stop_leaves_the_journal() -> None:
    queue = Away()
    scene = Scene(queue)
    await scene.claimed(letter(1))
    journal = Left(trail(1, TAKEN))
    stopped = asyncio.create_task(scene.recovery(journal).run())
    await queue.asked.wait()
    stopped.cancel()
    await asyncio.wait({stopped})
    assert not journal.forgotten
    queue.asked.clear()
    waiting = asyncio.create_task(scene.recovery(journal).run())
    await queue.asked.wait()
    queue.away = False
    await waiting
    assert journal.forgotten
    assert (await scene.now(1)).status is Status.SENT
