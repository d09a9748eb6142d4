from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import Answer, Letter, Origin, Status, content_digest, now_ms
from mailsender.reports.publisher import Reporter, ReporterConfig
from tests.clocks import ManualClock
from tests.fakes import FakeSink, FlakyQueue

pytestmark = pytest.mark.asyncio


class Stage:
    """A reporter among doubles."""

    def __init__(self, **config: Any) -> None:
        self.clock = ManualClock()
        self.queue = FlakyQueue(self.clock)
        self.sink = FakeSink()
        self.stop = asyncio.Event()
        quick = {"first_wait": 0.01, "longest_wait": 0.02, **config}
        self.reporter = Reporter(
            self.queue, self.sink, config=ReporterConfig(topic="profile", **quick), clock=self.clock
        )

    async def finished(self, count: int, body: str = "") -> list[Letter]:
        """Letters that were finished, as the queue holds them."""
        made = [self._letter(index, body) for index in range(count)]
        await self.queue.insert(made)
        return made

    def _letter(self, index: int, body: str) -> Letter:
        origin = Origin(topic="in", partition=0, offset=0, index=index, timestamp=0)
        return Letter(
            id=origin.letter_id(),
            addresses=("a@b.test",),
            subject=f"s{index}",
            body=body,
            answers=(Answer(token=index, key=b"k%d" % index, origin=origin),),
            status=Status.ERROR,
            reason="x",
            finished_at=now_ms(self.clock.epoch()),
            digest=content_digest(("a@b.test",), f"s{index}", body),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[int]]:
        task = asyncio.create_task(self.reporter.run(self.stop))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                yield task
        finally:
            self.stop.set()
            await asyncio.wait_for(task, 10)

    async def until(self, check: Callable[[], object]) -> None:
        while not check():  # noqa: ASYNC110  no event tells of each of these states
            await asyncio.sleep(0)

    async def unreported(self) -> int:
        return (await self.queue.stats()).unreported


async def test_letters_are_published_together_and_marked_after_that() -> None:
    stage = Stage()
    letters = await stage.finished(100)
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 100)
    assert stage.sink.calls == [100]
    assert [out.key for out in stage.sink.published] == [b"k%d" % i for i in range(100)]
    assert {out.topic for out in stage.sink.published} == {"profile"}
    first = json.loads(stage.sink.published[0].value or b"")
    assert (first["ID"], first["Token"], first["Status"]) == (letters[0].id, 0, "error")
    assert await stage.unreported() == 0


async def test_nothing_is_marked_before_it_is_acknowledged() -> None:
    stage = Stage()
    letters = await stage.finished(3)
    stage.sink.away = True
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.status.startswith("failing"))
        assert await stage.unreported() == 3
        stage.sink.away = False
        await stage.until(lambda: stage.reporter.state.marked == 3)
    assert len(stage.sink.published) == 3
    assert stage.reporter.state.status == "stopped"


async def test_what_was_acknowledged_is_marked_though_its_neighbour_was_not() -> None:
    stage = Stage()
    letters = await stage.finished(4)
    gone = {b"k1", b"k3"}
    stage.sink.refuse = lambda out: Unavailable("slow") if out.key in gone else None
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 2)
        assert [out.key for out in stage.sink.published] == [b"k0", b"k2"]
        gone.clear()
        stage.clock.forward(1)
        await stage.until(lambda: stage.reporter.state.marked == 4)
    assert [out.key for out in stage.sink.published] == [b"k0", b"k2", b"k1", b"k3"]


async def test_a_mark_that_fails_is_made_again_and_not_published_again() -> None:
    stage = Stage()
    letters = await stage.finished(3)
    stage.queue.failures["acknowledge"] = 2
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 3)
    assert len(stage.sink.published) == 3


async def test_trouble_is_said_once_when_it_begins_and_once_when_it_ends() -> None:
    stage = Stage()
    letters = await stage.finished(1)
    stage.sink.away = True
    with capture_logs() as logs:
        async with stage.running():
            await stage.reporter.offer(letters)
            await stage.until(lambda: len(stage.sink.calls) > 3)
            stage.sink.away = False
            await stage.until(lambda: stage.reporter.state.marked == 1)
    assert [entry["event"] for entry in logs] == ["reporting_fails", "reporting_works"]


async def test_every_publisher_that_was_not_answered_yet_gets_a_report() -> None:
    stage = Stage()
    (letter,) = await stage.finished(1)
    late = (Answer(token="late", key=b"l"), Answer(token="later", key=None))
    letter = letter.evolve(answers=(*letter.answers, *late), answered=1)
    async with stage.running():
        await stage.reporter.offer([letter])
        await stage.until(lambda: stage.reporter.state.published == 2)
    assert [out.key for out in stage.sink.published] == [b"l", None]
    assert [json.loads(out.value or b"")["Token"] for out in stage.sink.published] == ["late", "later"]


# --- a part that cannot be published -------------------------------------------------------------


async def test_what_failed_goes_behind_what_was_not_tried_and_holds_nothing_up() -> None:
    stage = Stage(batch=10, first_wait=5.0, longest_wait=10.0)
    letters = await stage.finished(60)
    sick = {b"k%d" % i for i in range(20)}
    stage.sink.refuse = lambda out: Unavailable("partition 3 of profile: slow") if out.key in sick else None
    loop = asyncio.get_running_loop()
    with capture_logs() as logs:
        async with stage.running():
            began = loop.time()
            await stage.reporter.offer(letters)
            await stage.until(lambda: stage.reporter.state.marked == 40)
            assert loop.time() - began < 1.0  # no wait of 5 s for anybody
            assert stage.reporter.state.put_off == 20
            assert "partition 3" in stage.reporter.state.status
            more = await stage.finished(80)
            await stage.reporter.offer(more[60:])
            await stage.until(lambda: stage.reporter.state.marked == 60)
            sick.clear()
            stage.clock.forward(6)
            await stage.until(lambda: stage.reporter.state.marked == 80)
    assert [e["event"] for e in logs if e["event"].startswith("reporting")] == [
        *("reporting_fails", "reporting_works")
    ]


async def test_of_a_letter_with_several_publishers_what_is_out_is_not_published_at_each_try() -> None:
    stage = Stage()
    (letter,) = await stage.finished(1)
    letter = letter.evolve(answers=(*letter.answers, Answer(token="late", key=b"sick")))
    stage.sink.refuse = lambda out: Unavailable("slow") if out.key == b"sick" else None
    async with stage.running():
        await stage.reporter.offer([letter])
        for tries in (2, 3, 4):
            await stage.until(lambda tries=tries: sum(stage.sink.calls) >= tries)
            stage.clock.forward(1)
        stage.sink.refuse = lambda _: None
        stage.clock.forward(1)
        await stage.until(lambda: stage.reporter.state.marked == 1)
    assert [out.key for out in stage.sink.published] == [b"k0", b"sick"]


async def test_those_that_were_put_off_hide_nobody_from_the_sweep() -> None:
    stage = Stage(batch=10, first_wait=100.0, longest_wait=100.0)
    letters = await stage.finished(30)
    sick = {b"k%d" % i for i in range(20)}
    stage.sink.refuse = lambda out: Unavailable("slow") if out.key in sick else None
    async with stage.running():
        await stage.reporter.offer(letters[:20])
        await stage.until(lambda: stage.reporter.state.put_off == 20)
        stage.clock.forward(31)
        await stage.reporter.offer(())
        await stage.until(lambda: stage.reporter.state.marked == 10)
        sick.clear()


async def test_letters_that_are_put_off_are_bounded() -> None:
    stage = Stage(batch=2, max_bytes=9000, first_wait=100.0, longest_wait=100.0)
    letters = await stage.finished(20, body="b" * 1000)
    stage.sink.refuse = lambda out: Unavailable("slow") if out.key != b"k19" else None
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 1)
        state = stage.reporter.state
        assert state.put_off < 4
        assert state.put_off + state.left_to_sweep == 19
        stage.sink.refuse = lambda out: None


async def test_what_finds_no_room_among_those_put_off_is_not_swept_at_once_again() -> None:
    stage = Stage(batch=2, max_bytes=4000, first_wait=100.0, longest_wait=100.0, stop_timeout=0.05)
    await stage.finished(40, body="b" * 1000)
    stage.sink.refuse = lambda out: Unavailable("slow") if out.key != b"k39" else None
    stage.clock.forward(31)
    async with stage.running():
        await stage.until(lambda: stage.reporter.state.left_to_sweep)
        for _ in range(200):
            await asyncio.sleep(0)
        assert stage.reporter.state.swept < 20
        for _ in range(20):
            stage.clock.forward(5)
            await stage.reporter.offer(())
            for _ in range(50):
                await asyncio.sleep(0)
        assert stage.reporter.state.marked == 1, "those that cannot be published hide it from the sweep"


async def test_a_report_that_the_broker_never_takes_is_kept_and_counted_as_that() -> None:
    stage = Stage()
    letters = await stage.finished(30)
    stage.sink.refuse = lambda out: Rejected("it needs a key") if out.key in {b"k7", b"k9"} else None
    with capture_logs() as logs:
        async with stage.running():
            await stage.reporter.offer(letters)
            await stage.until(lambda: stage.reporter.state.marked == 30)
    state = stage.reporter.state
    assert (state.published, state.given_up) == (28, 2)
    kept = {record.topic: record for record in stage.queue.kept}
    assert set(kept) == {f"profile/{letters[7].id}", f"profile/{letters[9].id}"}
    assert json.loads(kept[f"profile/{letters[7].id}"].value or b"")["Token"] == 7
    (told,) = [entry for entry in logs if entry["event"] == "reports_given_up"]
    assert (told["log_level"], told["reports"]) == ("error", 2)
    assert await stage.unreported() == 0


async def test_what_cannot_be_kept_either_is_tried_again() -> None:
    stage = Stage()
    letters = await stage.finished(3)
    stage.sink.refuse = lambda out: Rejected("never") if out.key == b"k1" else None
    stage.queue.failures["keep_record"] = 1
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 2)
        stage.clock.forward(1)
        await stage.until(lambda: stage.reporter.state.marked == 3)
    assert stage.reporter.state.given_up == 1


async def test_a_report_that_fits_in_no_way_is_given_up_and_not_counted_as_published() -> None:
    stage = Stage()
    letters = await stage.finished(1)
    stage.sink.largest = 10
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 1)
    assert (stage.reporter.state.published, stage.reporter.state.given_up) == (0, 1)
    assert len(stage.queue.kept) == 1


# --- room ----------------------------------------------------------------------------------------


async def test_offering_waits_for_room_while_publishing_goes_well() -> None:
    stage = Stage(max_bytes=5000, batch=2)
    letters = await stage.finished(20, body="b" * 1000)
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 20)
    assert stage.reporter.state.left_to_sweep == 0
    assert max(stage.sink.calls) <= 2


async def test_offering_does_not_wait_while_publishing_fails() -> None:
    stage = Stage(max_bytes=5000)
    letters = await stage.finished(20, body="b" * 1000)
    stage.sink.away = True
    async with stage.running():
        await stage.reporter.offer(letters)
        state = stage.reporter.state
        assert state.left_to_sweep > 10
        assert state.waiting + state.left_to_sweep == 20
        stage.sink.away = False
        stage.clock.forward(31)
        await stage.until(lambda: stage.reporter.state.marked == 20)
    assert len({out.key for out in stage.sink.published}) == 20


async def test_offering_to_a_reporter_that_does_not_run_never_blocks() -> None:
    stage = Stage(max_bytes=3000)
    letters = await stage.finished(10, body="b" * 1000)
    async with asyncio.timeout(1):
        await stage.reporter.offer(letters)
    assert stage.reporter.state.left_to_sweep > 0


async def test_a_letter_larger_than_the_bound_is_taken_alone() -> None:
    stage = Stage(max_bytes=500)
    letters = await stage.finished(3, body="b" * 1000)
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 3)
    assert stage.reporter.state.left_to_sweep == 0


# --- the sweep -----------------------------------------------------------------------------------


async def test_the_sweep_takes_only_what_was_unmarked_for_long() -> None:
    stage = Stage()
    await stage.finished(3)
    async with stage.running():
        stage.clock.forward(29)
        await asyncio.sleep(0.05)
        assert stage.sink.published == []
    again = Reporter(stage.queue, stage.sink, config=ReporterConfig(topic="profile"), clock=stage.clock)
    stage.clock.forward(1)
    stop = asyncio.Event()
    task = asyncio.create_task(again.run(stop))
    async with asyncio.timeout(5):
        await stage.until(lambda: again.state.marked == 3)
    stop.set()
    assert await task == 0
    assert again.state.swept == 3
    assert await stage.unreported() == 0


async def test_a_sweep_goes_on_until_nothing_is_left() -> None:
    stage = Stage(batch=10)
    await stage.finished(35)
    stage.clock.forward(31)
    with capture_logs() as logs:
        async with stage.running():
            await stage.until(lambda: stage.reporter.state.marked == 35)
    assert len(stage.sink.published) == 35
    assert [(e["event"], e["letters"]) for e in logs] == [("reports_swept", 35)]


async def test_what_the_sweep_found_is_told_when_it_is_published_and_not_before() -> None:
    stage = Stage()
    await stage.finished(5)
    stage.clock.forward(31)
    stage.sink.away = True
    with capture_logs() as logs:
        async with stage.running():
            await stage.until(lambda: len(stage.sink.calls) > 2)
            assert [e["event"] for e in logs] == ["reporting_fails"], "nothing is published yet"
            stage.sink.away = False
            await stage.until(lambda: stage.reporter.state.marked == 5)
    swept = [e for e in logs if e["event"] == "reports_swept"]
    assert [(e["letters"], e["doing"]) for e in swept] == [(5, "they are published now")]


async def test_of_what_the_sweep_found_only_that_is_told_which_was_published() -> None:
    stage = Stage()
    await stage.finished(5)
    stage.clock.forward(31)
    sick = {b"k1", b"k3"}
    stage.sink.refuse = lambda out: Unavailable("slow") if out.key in sick else None
    with capture_logs() as logs:
        async with stage.running():
            await stage.until(lambda: stage.reporter.state.put_off == 2)
            await stage.until(lambda: [e for e in logs if e["event"] == "reports_swept"])
            sick.clear()
            stage.clock.forward(6)
            await stage.until(lambda: stage.reporter.state.marked == 5)
    assert [e["letters"] for e in logs if e["event"] == "reports_swept"] == [3, 2]


async def test_that_reports_wait_says_nothing_of_what_does_not_wait_for_them() -> None:
    """MongoDB may be the reason, and then nothing is sent either."""
    stage = Stage()
    letters = await stage.finished(1)
    stage.queue.failures["acknowledge"] = 2
    with capture_logs() as logs:
        async with stage.running():
            await stage.reporter.offer(letters)
            await stage.until(lambda: stage.reporter.state.marked == 1)
    (told,) = [e for e in logs if e["event"] == "reporting_fails"]
    assert "goes on" not in told["doing"]
    assert told["doing"].endswith("nothing else waits for them")


async def test_the_sweep_leaves_what_is_in_hand() -> None:
    stage = Stage()
    letters = await stage.finished(2)
    stage.clock.forward(31)
    await stage.reporter.offer(letters)
    async with stage.running():
        await stage.until(lambda: stage.reporter.state.marked == 2)
    assert len(stage.sink.published) == 2


# --- sizes ---------------------------------------------------------------------------------------


async def test_a_report_that_the_broker_finds_too_large_is_made_smaller() -> None:
    stage = Stage()
    letters = await stage.finished(3, body="b" * 50_000)
    stage.sink.largest = 5000
    async with stage.running():
        await stage.reporter.offer(letters)
        await stage.until(lambda: stage.reporter.state.marked == 3)
    reports = [json.loads(out.value or b"") for out in stage.sink.published]
    assert [(r["BodyOmitted"], r["Body"]) for r in reports] == [(True, "")] * 3
    assert [out.key for out in stage.sink.published] == [b"k0", b"k1", b"k2"]


async def test_between_the_reports_of_large_letters_others_get_their_turn() -> None:
    async def turns(body: str) -> int:
        stage, turns = Stage(), 0
        letters = await stage.finished(4, body)
        async with stage.running():
            offered = asyncio.create_task(stage.reporter.offer(letters))
            while not stage.sink.published:
                turns += 1
                await asyncio.sleep(0)
            await offered
        return turns

    assert await turns("x" * 900_000) >= await turns("x") + 3


async def test_a_key_as_large_as_a_record_is_left_out_at_last() -> None:
    stage = Stage()
    (letter,) = await stage.finished(1)
    letter = letter.evolve(answers=(Answer(key=b"k" * 999_000),))
    stage.sink.largest = 900_000
    with capture_logs() as logs:
        async with stage.running():
            await stage.reporter.offer([letter])
            await stage.until(lambda: stage.reporter.state.marked == 1)
    (out,) = stage.sink.published
    assert out.key is None
    assert json.loads(out.value or b"")["ID"] == letter.id
    assert [e["event"] for e in logs] == ["report_too_large"]
    assert stage.sink.calls == [1, 1], "with such a key no report is smaller than the first"


# --- the end -------------------------------------------------------------------------------------


async def test_a_stop_flushes_what_is_in_hand() -> None:
    stage = Stage()
    letters = await stage.finished(5)
    await stage.reporter.offer(letters)
    stage.stop.set()
    assert await stage.reporter.run(stage.stop) == 0
    assert await stage.unreported() == 0


async def test_a_stop_leaves_to_others_what_they_sweep() -> None:
    stage = Stage(batch=10)
    letters = await stage.finished(35)
    stage.clock.forward(31)
    await stage.reporter.offer(letters[:5])
    stage.stop.set()
    assert await stage.reporter.run(stage.stop) == 0
    assert await stage.unreported() == 30


async def test_a_stop_without_a_broker_keeps_its_deadline_and_says_what_is_left() -> None:
    stage = Stage(stop_timeout=0.1)
    letters = await stage.finished(5)
    stage.sink.away = True
    await stage.reporter.offer(letters)
    stage.stop.set()
    async with asyncio.timeout(2):
        assert await stage.reporter.run(stage.stop) == 5
    assert await stage.unreported() == 5
