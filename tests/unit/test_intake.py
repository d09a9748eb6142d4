from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.intake import consumer
from mailsender.intake.consumer import Intake, IntakeConfig
from mailsender.intake.schema import Limits
from mailsender.model.errors import Rejected, TooLarge, Unavailable
from mailsender.model.history import History, Standing, digest_of, from_text
from mailsender.model.letter import Letter, Origin, Status
from mailsender.model.records import Outgoing, Record
from mailsender.queue.port import MOST_PUBLISHERS, Inserted
from mailsender.reports.report import report_bytes
from tests.claims import claim
from tests.clocks import ManualClock
from tests.fakes import FakeOwner, FakeSink, FakeSource, FlakyQueue, record

pytestmark = pytest.mark.asyncio

RETENTION = 86400.0


def letters(*subjects: str, **more: Any) -> bytes:
    return json.dumps([{"Subject": s, "Addresses": ["a@b.test"], **more} for s in subjects]).encode()


class Stage:
    """An intake among doubles; it stops when its source has nothing more."""

    def __init__(self, *fetches: Sequence[Record], queue: FlakyQueue | None = None, **config: Any) -> None:
        self.clock = ManualClock()
        self.source = FakeSource(self.clock, *fetches)
        self.queue = queue or FlakyQueue(self.clock)
        self.sink = FakeSink()
        self.stop = asyncio.Event()
        self.source.on_empty = self.stop.set
        self.offered: list[Letter] = []
        self.owner = FakeOwner()
        self.intake = Intake(
            self.source,
            self.queue,
            self.sink,
            config=IntakeConfig(dead_letter_topic="dead", retention=RETENTION, **config),
            clock=self.clock,
            owner=self.owner,
            final=self._offer,
        )

    async def _offer(self, letters: Sequence[Letter]) -> None:
        self.offered += letters

    async def run(self) -> None:
        async with asyncio.timeout(10):
            await self.intake.run(self.stop)

    async def letter(self, **origin: int) -> Letter:
        place = {"partition": 0, "offset": 0, "index": 0, "timestamp": -1, **origin}
        found = await self.queue.get(Origin(topic="in", **place).letter_id())
        assert found is not None
        return found


async def test_letters_are_stored_then_committed_then_the_group_is_left() -> None:
    stage = Stage(
        [record(letters("a", "b")), record(letters("c"), offset=1), record(letters("d"), partition=3)]
    )
    await stage.run()
    assert [
        (await stage.letter(**at)).subject for at in ({}, {"index": 1}, {"offset": 1}, {"partition": 3})
    ] == [*("a", "b", "c", "d")]
    assert stage.source.commits == [{("in", 0): 2, ("in", 3): 1}]
    assert stage.source.calls == ["open", "commit", "close"]
    state = stage.intake.state
    assert (state.status, state.records, state.letters, state.bad_letters) == ("stopped", 3, 4, 0)


async def test_the_key_and_the_origin_stay_with_the_letter() -> None:
    stage = Stage([record(letters("a"), key=b"\xff\x00", offset=7, timestamp=999)])
    stage.clock.start = -stage.clock.now  # the epoch is young, so the record is not old
    await stage.run()
    (answer,) = (await stage.letter(offset=7, timestamp=999)).answers
    assert answer.key == b"\xff\x00"
    assert answer.origin == Origin(topic="in", partition=0, offset=7, index=0, timestamp=999)


async def test_all_letters_of_a_fetch_go_in_with_one_insert() -> None:
    stage = Stage([record(letters("a"), offset=n) for n in range(50)])
    await stage.run()
    assert [len(ids) for ids in stage.queue.inserts] == [50]


async def test_inserts_are_bounded_and_no_offset_is_ahead_of_its_letters() -> None:
    """The second record spreads over three inserts; only the last of them lets its offset go."""
    stage = Stage([record(letters("a"), offset=0), record(letters(*"bcdefg"), offset=1)], batch=3)
    seen: list[tuple[int, list[int]]] = []

    original = stage.queue.insert

    async def insert(some: Sequence[Letter], _: object = ()) -> list[Inserted]:
        seen.append((len(some), [offsets["in", 0] for offsets in stage.source.commits]))
        return await original(some)

    stage.queue.insert = insert  # type: ignore[method-assign]
    await stage.run()
    assert [size for size, _ in seen] == [3, 3, 1]
    assert all(set(commits) <= {1} for _, commits in seen)
    assert stage.source.commits[-1] == {("in", 0): 2}


async def test_bad_letters_are_told_once_a_batch_and_once_for_all() -> None:
    value = b'[{"Addresses":["a@b.test"]},{"Subject":7},{"Subject":8,"Body":"SECRET"}]'
    stage = Stage([record(value)], [record(value)])
    with capture_logs() as events:
        await stage.run()
    (told,) = [each for each in events if each["event"] == "bad_letters"]
    bad = await stage.letter(index=1)
    assert (told["letters"], told["first"], told["origin"]) == (2, bad.id, "in[0]@0, letter 1")
    assert "Subject must be a string" in told["reason"]
    assert "SECRET" not in str(told)


async def test_a_record_read_twice_is_a_replay() -> None:
    stage = Stage([record(letters("a", "b"))], [record(letters("a", "b"))])
    await stage.run()
    assert stage.intake.state.replays == 2
    assert stage.owner.nudges == 1
    assert (await stage.queue.stats()).awaiting == 2


async def test_a_bad_letter_is_an_error_with_a_reason_and_its_neighbours_are_not() -> None:
    value = b'[{"Addresses":["a@b.test"]},{"Subject":7},{"Addresses":["a@b.test"]}]'
    stage = Stage([record(value)])
    await stage.run()
    bad = await stage.letter(index=1)
    assert bad.status is Status.ERROR
    assert "Subject must be a string" in bad.reason
    assert [words(letter) for letter in stage.offered] == [words(bad)]
    assert (await stage.queue.stats()).awaiting == 2
    assert stage.intake.state.bad_letters == 1


async def test_an_error_that_was_stored_before_is_not_offered_again() -> None:
    stage = Stage([record(b"[{}]")], [record(b"[{}]")])
    await stage.run()
    assert len(stage.offered) == 1


async def test_the_limits_are_the_configured_ones() -> None:
    stage = Stage([record(letters("a", Body="x" * 2000))], limits=Limits(body=1024))
    await stage.run()
    assert "1024 are allowed" in (await stage.letter()).reason


# --- the same ID twice ---------------------------------------------------------------------------

OWN = "6b03f03e1c3fe5165a363fce"


def words(letter: Letter) -> bytes:
    return report_bytes(letter, letter.answers[0], with_body=True, limit=10**6)


async def test_a_second_publisher_of_the_same_letter_joins() -> None:
    stage = Stage([record(letters("a", ID=OWN)), record(letters("a", ID=OWN), offset=1, key=b"other")])
    await stage.run()
    letter = await stage.queue.get(OWN)
    assert letter is not None
    assert [answer.key for answer in letter.answers] == [b"k", b"other"]
    assert stage.intake.state.joined == 1


async def test_another_letter_under_the_same_id_is_answered_under_an_id_of_its_own() -> None:
    stage = Stage(
        [record(letters("a", ID=OWN)), record(letters("b", ID=OWN, Token=5), offset=1, key=b"other")]
    )
    await stage.run()
    first = await stage.queue.get(OWN)
    assert first is not None
    assert (first.subject, first.status, len(first.answers)) == ("a", Status.AWAITING, 1)
    (answer,) = stage.offered
    stored = await stage.queue.get(answer.id)
    assert stored is not None
    assert words(answer) == words(stored)
    origin = Origin(topic="in", partition=0, offset=1, index=0, timestamp=-1)
    assert answer.id == origin.other_id(OWN.encode() + answer.content)
    assert answer.status is Status.ERROR
    assert answer.reason.startswith(f"duplicate-id: the ID {OWN} was given to a letter with other content")
    assert (answer.subject, answer.answers[0].token, answer.answers[0].key) == ("b", 5, b"other")
    assert stage.intake.state.clashes == 1
    assert stage.source.commits == [{("in", 0): 2}]


async def test_a_publisher_who_finds_no_room_is_answered_by_itself_and_sending_goes_on() -> None:
    """A producer that repeats itself for ever shares a letter with itself a hundred times, and no more."""
    many = [record(letters("a", ID=OWN), offset=n, key=str(n).encode()) for n in range(MOST_PUBLISHERS + 3)]
    stage = Stage([*many, record(letters("z"), offset=len(many))])
    await stage.run()
    letter = await stage.queue.get(OWN)
    assert letter is not None
    assert (letter.status, len(letter.answers)) == (Status.AWAITING, 1 + MOST_PUBLISHERS)
    assert [answer.answers[0].key for answer in stage.offered] == [b"101", b"102"]
    assert all(answer.status is Status.ERROR for answer in stage.offered)
    assert all(answer.reason.startswith(f"shared-too-often: the letter {OWN}") for answer in stage.offered)
    assert {letter.subject for letter in (await claim(stage.queue, 10)).letters} == {"a", "z"}
    assert stage.source.commits[-1] == {("in", 0): len(many) + 1}


async def test_a_letter_whose_origin_was_used_before_is_sent_under_another_id() -> None:
    """The topic was deleted and made again, and its producer rounds the time of its records to the hour."""
    stage = Stage([record(letters("a", "b"))])
    await stage.run()
    made_again = [record(letters("a", "x")), record(letters("y"), offset=1)]
    for _ in range(2):
        later = Stage(made_again, queue=stage.queue)
        await later.run()
    claimed = (await claim(stage.queue, 10)).letters
    assert sorted(letter.subject for letter in claimed) == ["a", "b", "x", "y"]
    assert later.offered == []
    assert (later.intake.state.clashes, later.intake.state.replays) == (0, 2)


async def test_a_clash_read_twice_is_answered_once() -> None:
    clash = [record(letters("a", ID=OWN)), record(letters("b", ID=OWN), offset=1)]
    stage = Stage(clash, clash)
    await stage.run()
    assert len(stage.offered) == 1
    assert (await stage.queue.stats()).error == 1


# --- dead letters --------------------------------------------------------------------------------


def header(outgoing: Outgoing, name: str) -> str:
    return dict(outgoing.headers)[f"mailsender-{name}"].decode()


@pytest.mark.parametrize("value", [b"{", None, b"", b"\xff", b"[1]", b"[" * 10_000, b'[{"a":NaN}]'])
async def test_a_poison_record_goes_whole_to_the_dead_letter_topic(value: bytes | None) -> None:
    poison = record(value, offset=1, key=b"\xff", headers=(("trace", b"\xfe"),))
    stage = Stage([record(letters("a")), poison, record(letters("c"), offset=2)])
    await stage.run()
    (dead,) = stage.sink.published
    assert (dead.topic, dead.key, dead.value) == ("dead", b"\xff", value)
    assert dead.headers[0] == ("trace", b"\xfe")
    assert [header(dead, name) for name in ("reason", "topic", "partition", "offset")] == [
        *("not-a-batch", "in", "0", "1")
    ]
    assert header(dead, "detail")
    assert header(dead, "time").endswith("+00:00")
    assert stage.source.commits == [{("in", 0): 3}]
    assert (await stage.queue.stats()).awaiting == 2
    assert stage.intake.state.dead_letters == 1


async def test_faulty_letters_without_number_are_answered_up_to_a_number_and_the_good_ones_go_out() -> None:
    good = letters("a")[1:-1]
    value = b"[" + b",".join([good, *[b"{}"] * 5000, good]) + b"]"
    stage = Stage([record(value), record(letters("c"), offset=1)], limits=Limits(faulty=10))
    await stage.run()
    stats = await stage.queue.stats()
    assert (stats.awaiting, stats.error) == (3, 10)
    (dead,) = stage.sink.published
    assert (header(dead, "reason"), dead.value) == ("too-many-faults", value)
    assert header(dead, "detail").startswith("5000 of its letters are wrong; the first 10 of them")
    assert stage.source.commits[-1] == {("in", 0): 2}


async def test_a_large_key_does_not_multiply_by_many_letters() -> None:
    many = record(letters(*["a"] * 1000), key=b"k" * 30_000)
    stage = Stage([many, record(letters("b"), offset=1, key=b"k" * 900_000), record(letters("c"), offset=2)])
    await stage.run()
    (dead,) = stage.sink.published
    assert (header(dead, "reason"), dead.value, dead.key) == ("not-a-batch", many.value, many.key)
    assert "its key of 30000 bytes" in header(dead, "detail")
    assert "1000 letters" in header(dead, "detail")
    assert (await stage.queue.stats()).awaiting == 2


async def test_a_key_as_over_http_may_have_as_many_letters_as_there_may_be() -> None:
    value = b"[" + b",".join([b'{"Addresses":["a@b.test"],"Token":1}'] * 200) + b"]"
    stage = Stage([record(value, key=b"k" * 1024)], limits=Limits(letters=200))
    await stage.run()
    assert stage.sink.published == []
    assert (await stage.queue.stats()).awaiting == 200
    assert Limits(letters=30_000).keys == 1024 * 30_000


async def test_a_record_with_too_many_faults_is_a_dead_letter_once() -> None:
    records = [record(b"[" + b",".join([b"{}"] * 20) + b"]"), record(letters("c"), offset=1)]
    stage = Stage(records)
    stage.intake._config = replace(stage.intake._config, limits=Limits(faulty=10))
    await stage.run()
    assert len(stage.sink.published) == 1
    later = again(stage, records)
    later.intake._config = stage.intake._config
    await later.run()
    assert later.sink.published == []
    assert later.source.commits[-1] == {("in", 0): 2}


async def test_others_have_their_turn_between_letters_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, seen = 0, set[int]()
    add = consumer._Batch.add

    def counted(*args: Any) -> None:
        nonlocal decoded
        decoded += 1
        add(*args)

    async def others() -> None:
        while True:
            seen.add(decoded)
            await asyncio.sleep(0)

    monkeypatch.setattr(consumer._Batch, "add", counted)
    many = json.dumps([{"Addresses": [f"a{n}@b.test" for n in range(2000)]}] * 20).encode()
    stage, ticking = Stage([record(many)]), asyncio.create_task(others())
    await stage.run()
    ticking.cancel()
    assert len(seen) > 10


async def test_a_record_that_could_not_be_read_is_a_dead_letter_and_its_neighbours_are_not() -> None:
    unreadable = record(b"\x01\x02", key=None, fault="it unpacks to too much")
    stage = Stage([unreadable, record(letters("a"), offset=1)])
    await stage.run()
    (dead,) = stage.sink.published
    assert (header(dead, "reason"), header(dead, "detail")) == ("unreadable", "it unpacks to too much")
    assert dead.value == b"\x01\x02"
    assert stage.source.commits == [{("in", 0): 2}]
    assert (await stage.queue.stats()).awaiting == 1


# --- records that may have been sent and forgotten -----------------------------------------------

DAY = 86400.0


def again(stage: Stage, *fetches: Sequence[Record], days: float = 0.0) -> Stage:
    """A second start over the same queue, so many days later."""
    later = Stage(*fetches)
    later.queue = later.intake._queue = later.intake._dead_letters._queue = stage.queue
    stage.clock.forward(days * DAY)
    later.clock.start, later.clock.now = stage.clock.start, stage.clock.now
    stage.queue._clock = later.clock
    return later


@pytest.mark.parametrize("timestamp", [0, 1_666_000_000, -1, 10**15])
async def test_a_time_that_a_producer_gave_buries_no_record_that_was_never_taken_in(timestamp: int) -> None:
    stage = Stage([record(letters("a"), timestamp=timestamp)])
    await stage.run()
    assert stage.sink.published == []
    assert (await stage.queue.stats()).awaiting == 1


@pytest.mark.parametrize("days", [-31.0, 31.0])
async def test_the_clock_of_this_machine_buries_nothing(days: float) -> None:
    stage = Stage([record(letters("a"), timestamp=int(ManualClock().epoch() * 1000))])
    store = ManualClock()
    stage.queue._clock = store
    stage.clock.start += days * DAY
    with capture_logs() as logs:
        await stage.run()
    assert stage.sink.published == []
    (told,) = [entry for entry in logs if entry["event"] == "clocks_disagree"]
    assert (told["whose"], told["seconds_ahead"]) == ("this machine", days * DAY)


async def test_the_clock_of_a_producer_that_is_ahead_is_said_once() -> None:
    ahead = int((ManualClock().epoch() + 3000) * 1000)
    stage = Stage(*[[record(letters("a"), timestamp=ahead, offset=n)] for n in range(5)])
    with capture_logs() as logs:
        await stage.run()
    (told,) = [entry for entry in logs if entry["event"] == "clocks_disagree"]
    assert told["whose"] == "the producer of in[0]"
    assert (await stage.queue.stats()).awaiting == 5


@pytest.mark.parametrize("timestamp", [-1, 0, 10**15])
async def test_what_was_taken_in_longer_ago_than_the_retention_is_not_sent_again(timestamp: int) -> None:
    first = [record(letters("a"), offset=n, timestamp=timestamp) for n in range(3)]
    stage = Stage(first[:1], first[1:])
    await stage.run()
    stage.queue._entries.clear()  # sent, reported and forgotten
    later = again(stage, [*first, record(letters("b"), offset=3)], days=2)
    await later.run()
    assert [header(dead, "offset") for dead in later.sink.published] == ["0", "1", "2"]
    assert {header(dead, "reason") for dead in later.sink.published} == {"older-than-retention"}
    assert [entry.letter.subject for entry in later.queue._entries.values()] == ["b"]


async def test_what_was_taken_in_within_the_retention_is_a_replay_whatever_its_time_says() -> None:
    first = [record(letters("a"), offset=n, timestamp=0) for n in range(3)]
    stage = Stage(first)
    await stage.run()
    later = again(stage, first, days=0.5)
    await later.run()
    assert later.sink.published == []
    assert later.intake.state.replays == 3


async def test_dead_letters_are_dead_once() -> None:
    poison = [record(b"{"), record(b"x", offset=1, fault="no record"), record(letters("a"), offset=2)]
    stage = Stage(poison)
    await stage.run()
    assert len(stage.sink.published) == 2
    later = again(stage, poison)
    await later.run()
    assert later.sink.published == []
    much_later = again(later, poison, days=2)
    await much_later.run()
    assert [header(dead, "reason") for dead in much_later.sink.published] == ["older-than-retention"] * 3
    last = again(much_later, poison, days=2)
    await last.run()
    assert last.sink.published == []


async def test_a_time_that_the_broker_gave_counts_where_nothing_is_known_of_the_partition() -> None:
    old = int((ManualClock().epoch() - 2 * DAY) * 1000)
    stage = Stage([record(letters("a"), timestamp=old, appended=True)])
    await stage.run()
    assert [header(dead, "reason") for dead in stage.sink.published] == ["older-than-retention"]


async def test_a_note_of_what_lies_before_goes_with_the_offset() -> None:
    stage = Stage([record(letters("a")), record(letters("b"), offset=4)])
    await stage.run()
    told = from_text(stage.source.notes["in", 0], 5)
    assert told is not None
    assert (told.last, told.digest) == (4, digest_of(b"k", letters("b"), -1))


async def test_what_is_known_is_noted_every_few_seconds_and_at_the_end() -> None:
    stage = Stage(*[[record(letters("a"), offset=n)] for n in range(50)])
    noted: list[int] = []
    original = stage.queue.note_history

    async def note(topic: str, partition: int, history: History) -> None:
        noted.append(history.high)
        await original(topic, partition, history)

    stage.queue.note_history = note  # type: ignore[method-assign]
    await stage.run()
    assert noted == [1, 50]


def interrupted(stage: Stage, meanwhile: Callable[[], Awaitable[None]], *records: Record) -> None:
    """After what it hands out first the stage's partitions go, and come back once `meanwhile` is over."""
    fetches = [*stage.source.fetches]
    stage.source.fetches.clear()
    plain = stage.source.fetch

    async def fetch(timeout: float) -> list[Record]:
        if fetches:
            return list(fetches.pop(0))
        if stage.source.generation == 0:
            stage.source.generation = 1
            await meanwhile()
            return list(records)
        return await plain(timeout)

    stage.source.fetch = fetch  # type: ignore[method-assign]


async def test_what_others_took_in_is_known_when_their_partition_comes_back() -> None:
    stage = Stage([record(letters("a"))])

    async def elsewhere() -> None:
        stage.clock.forward(DAY)
        await Stage([record(letters("b"), offset=n) for n in (1, 2, 3)], queue=stage.queue).run()
        stage.clock.forward(DAY)

    interrupted(stage, elsewhere, record(letters("c"), offset=4))
    await stage.run()
    known = await stage.queue.history("in", 0)
    aged = known.aged(stage.clock.epoch() + DAY / 2, RETENTION)
    assert [aged.standing(n) for n in (1, 3, 4)] == [*2 * [Standing.FORGOTTEN], Standing.AGAIN]


async def test_what_others_took_in_is_known_after_a_fault_too() -> None:
    stage = Stage([record(letters("a"))])
    await stage.run()
    stage.clock.forward(DAY)
    await Stage([record(b"{", offset=1)], queue=stage.queue).run()
    stage.stop.clear()
    stage.source.fetches.append([record(b"{", offset=1)])
    await stage.run()
    assert stage.sink.published == []


async def test_a_log_that_others_found_to_be_another_one_is_noted_on() -> None:
    stage = Stage([record(letters("a"))])

    async def elsewhere() -> None:
        known = await stage.queue.history("in", 0)
        await stage.queue.note_history("in", 0, known.cut(1))

    interrupted(stage, elsewhere, record(letters("c"), offset=1), record(letters("d"), offset=2))
    await stage.run()
    known = await stage.queue.history("in", 0)
    assert (known.log, known.high) == (1, 3)


# --- the topic of dead letters -------------------------------------------------------------------


async def test_what_the_topic_refuses_for_its_size_is_kept_and_the_topic_says_where() -> None:
    stage = Stage([record(b"x" * 5000), record(b"y", offset=1)])
    stage.sink.largest = 2000
    await stage.run()
    assert [kept.value for kept in stage.queue.kept] == [b"x" * 5000]
    pointer = next(dead for dead in stage.sink.published if dead.value == b"")
    assert header(pointer, "kept-in") == f"memory/in/0/0/{digest_of(b'k', b'x' * 5000, -1)}"
    assert header(pointer, "reason") == "not-a-batch"
    assert len(stage.sink.published) == 2
    assert stage.source.commits == [{("in", 0): 2}]


async def test_what_the_topic_refuses_for_another_reason_is_kept_too() -> None:
    stage = Stage([record(b"{", key=None), record(b"[", offset=1)])
    stage.sink.refuse = lambda out: Rejected("it needs a key") if out.key is None else None
    await stage.run()
    assert [kept.value for kept in stage.queue.kept] == [b"{"]
    assert {header(dead, "offset") for dead in stage.sink.published} == {"0", "1"}
    assert stage.source.commits == [{("in", 0): 2}]


async def test_a_dead_letter_may_lie_in_any_partition() -> None:
    stage = Stage([record(b"{")])
    await stage.run()
    assert [dead.anywhere for dead in stage.sink.published] == [True]


async def test_a_dead_letter_topic_that_takes_nothing_holds_up_no_letters() -> None:
    stage = Stage([record(b"{"), record(letters("a"), offset=1)])
    stage.sink.refuse = lambda _: Unavailable("partition 0 of dead: too few replicas")
    stage.sink.ailing = {"dead"}
    with capture_logs() as logs:
        await stage.run()
    assert [kept.value for kept in stage.queue.kept] == [b"{"]
    assert stage.source.commits == [{("in", 0): 2}]
    (told,) = [entry for entry in logs if entry["event"] == "dead_letters_kept_aside"]
    assert (told["records"], told["kept_in"]) == (1, f"memory/in/0/0/{digest_of(b'k', b'{', -1)}")


async def test_a_pointer_that_the_topic_does_not_take_holds_up_no_letters_either() -> None:
    stage = Stage([record(b"x" * 5000), record(letters("a"), offset=1)])
    stage.sink.refuse = lambda out: Unavailable("slow") if out.value == b"" else TooLarge("5000 bytes")
    stage.sink.ailing = {"dead"}
    await stage.run()
    assert [kept.value for kept in stage.queue.kept] == [b"x" * 5000]
    assert stage.source.commits == [{("in", 0): 2}]


async def test_a_dead_letter_is_published_until_it_is_acknowledged_before_its_offset_goes() -> None:
    stage = Stage([record(b"{"), record(b"[", offset=1)])
    refusals = [Unavailable("slow"), None, Unavailable("slow"), Unavailable("slow"), None]
    stage.sink.refuse = lambda _: refusals.pop(0) if refusals else None
    commits: list[int] = []
    stage.source.on_idle = lambda: commits.append(len(stage.source.commits))
    await stage.run()
    assert [dead.value for dead in stage.sink.published] == [b"[", b"{"]
    assert set(commits) == {0}
    assert stage.source.commits == [{("in", 0): 2}]


# --- the queue away, commits that fail, the end --------------------------------------------------


async def test_it_waits_for_the_queue_polling_and_says_so_once() -> None:
    stage = Stage([record(letters("a"))])
    stage.queue.failures["insert"] = 6
    states: list[str] = []
    stage.source.on_idle = lambda: states.append(stage.intake.state.status)
    with capture_logs() as logs:
        await stage.run()
    assert (await stage.queue.stats()).awaiting == 1
    assert stage.source.commits == [{("in", 0): 1}]
    assert set(states) == {"waiting: MongoDB: no primary"}
    waits = [entry for entry in logs if entry["event"].startswith("intake_")]
    assert [entry["event"] for entry in waits] == ["intake_waits", "intake_goes_on"]
    assert waits[1]["seconds"] == 1 + 2 + 4 + 8 + 15 + 15


async def test_a_stop_while_the_queue_is_away_commits_nothing() -> None:
    stage = Stage([record(letters("a"))])
    stage.queue.failures["insert"] = 1_000_000
    stage.source.on_idle = stage.stop.set
    await stage.run()
    assert stage.source.commits == []
    assert stage.source.calls[-1] == "close"


async def test_a_stop_ends_the_insert_under_way_and_leaves_the_rest() -> None:
    stage = Stage([record(letters(*"ab"), offset=n) for n in range(5)], batch=2)
    original = stage.queue.insert

    async def insert(some: Sequence[Letter], _: object = ()) -> list[Inserted]:
        stage.stop.set()
        return await original(some)

    stage.queue.insert = insert  # type: ignore[method-assign]
    await stage.run()
    assert (await stage.queue.stats()).awaiting == 2
    assert stage.source.commits == [{("in", 0): 1}]


async def test_an_insert_that_hangs_does_not_hold_up_the_stop() -> None:
    stage = Stage([record(letters("a"))], stop_timeout=0.05)

    async def insert(_: Sequence[Letter], claims: object = ()) -> list[Inserted]:
        stage.stop.set()
        await asyncio.Event().wait()
        raise AssertionError

    stage.queue.insert = insert  # type: ignore[method-assign]
    await stage.run()
    assert stage.source.commits == []
    assert stage.source.calls == ["open", "close"]


@pytest.mark.parametrize("away", [False, True], ids=["fetch", "idle"])
async def test_a_stop_waits_for_nothing_that_the_source_might_still_say(away: bool) -> None:
    stage = Stage([record(letters("a"))] if away else [])
    stage.queue.failures["insert"] = 1_000_000 if away else 0

    async def silence(_: float) -> list[Record]:
        asyncio.get_running_loop().call_soon(stage.stop.set)
        await asyncio.Event().wait()
        raise AssertionError

    if away:
        stage.source.idle = silence  # type: ignore[assignment,method-assign]
    else:
        stage.source.fetches.clear()
        stage.source.fetch = silence  # type: ignore[method-assign]
    with capture_logs() as logs:
        await stage.run()
    assert not [log for log in logs if log["event"] == "intake_cut_short"]
    assert stage.source.calls == ["open", "close"]
    assert stage.source.commits == []


async def test_a_commit_that_was_not_confirmed_is_made_again() -> None:
    stage = Stage([record(letters("a"))], [record(letters("b"), partition=1)], [])
    stage.source.confirms.extend([False, False])
    await stage.run()
    assert stage.source.commits == [{("in", 0): 1, ("in", 1): 1}]


async def test_a_commit_that_was_not_confirmed_before_the_partition_went_is_made_no_more() -> None:
    """Another replica may have gone on with it: what is committed would jump back."""
    stage = Stage([record(letters("a"))])
    stage.source.confirms.extend([False, True])

    async def elsewhere() -> None:
        return

    interrupted(stage, elsewhere)
    await stage.run()
    assert stage.source.commits == []


async def test_the_next_insert_does_not_wait_for_the_commit() -> None:
    stage = Stage([record(letters("a"))], [record(letters("b"), offset=1)])
    release = asyncio.Event()
    original = stage.source.commit

    async def commit(offsets: Any, notes: Any = None) -> bool:
        await release.wait()
        return await original(offsets, notes)

    stage.source.commit = commit  # type: ignore[method-assign]
    insert = stage.queue.insert

    async def watched(some: Sequence[Letter], _: object = ()) -> list[Inserted]:
        if len(stage.queue.inserts) == 1:
            release.set()  # the second insert begins while the first commit is under way
        return await insert(some)

    stage.queue.insert = watched  # type: ignore[method-assign]
    await stage.run()
    assert stage.source.commits == [{("in", 0): 1}, {("in", 0): 2}]


async def test_what_is_no_state_of_the_world_ends_it_loudly() -> None:
    stage = Stage([record(letters("a"))])

    async def insert(_: Sequence[Letter], claims: object = ()) -> list[Inserted]:
        raise KeyError("a mistake of ours")

    stage.queue.insert = insert  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        await stage.run()
    assert stage.source.commits == []
    assert stage.source.calls[-1] == "close"


# --- letters that are owned as soon as they are stored ------------------------------------------


async def test_the_owner_gets_as_many_as_it_wants_and_hears_of_the_rest() -> None:
    stage = Stage([record(letters(*"abcde"))])
    stage.owner.room = 2
    await stage.run()
    assert [[each.subject for each in lease.letters] for lease in stage.owner.claims] == [["a", "b"]]
    assert stage.owner.nudges == 1
    stats = await stage.queue.stats()
    assert (stats.processing, stats.awaiting) == (2, 3)
    assert stage.source.commits == [{("in", 0): 1}]


async def test_nobody_is_told_of_letters_that_are_owned_or_were_there_or_are_errors() -> None:
    stage = Stage([record(letters("a")), record(letters("b"), offset=1)])
    stage.owner.room = 100
    await stage.run()
    assert stage.owner.nudges == 0
    again = Stage([record(letters("a")), record(b'[{"Subject":"no address"}]', offset=1)])
    again.queue = again.intake._queue = stage.queue
    await again.run()
    assert again.owner.nudges == 0


async def test_after_a_lost_reply_the_same_claim_is_made_again() -> None:
    """Else what the first try stored would lie under a token that nobody knows until its lease ran out."""
    stage = Stage([record(letters("a", "b"))])
    stage.owner.room = 100
    original = stage.queue.insert
    tokens: list[str] = []

    async def insert(some: Any, claims: Any = ()) -> Any:
        tokens.extend(claim.token for claim in claims)
        stored = await original(some, claims)
        if len(tokens) == 1:
            raise Unavailable("the reply was lost")
        return stored

    stage.queue.insert = insert  # type: ignore[method-assign]
    await stage.run()
    assert len(tokens) == 2
    assert len(set(tokens)) == 1
    (lease,) = stage.owner.claims
    assert [each.subject for each in lease.letters] == ["a", "b"]
    assert stage.source.commits == [{("in", 0): 1}]


async def test_the_next_batch_is_decoded_while_one_is_stored_and_no_two_are_stored_at_once() -> None:
    stage = Stage([record(letters(*"ab"), offset=n) for n in range(6)], batch=2)
    original = stage.queue.insert
    under_way, decoded = 0, []

    async def insert(some: Sequence[Letter], _: object = ()) -> list[Inserted]:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        for _ in range(20):
            await asyncio.sleep(0)
        decoded.append(stage.intake.state.records)
        under_way -= 1
        return await original(some)

    stage.queue.insert = insert  # type: ignore[method-assign]
    await stage.run()
    assert decoded[0] == 2
    assert stage.source.commits[-1] == {("in", 0): 6}
