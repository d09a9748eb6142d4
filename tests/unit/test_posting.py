"""Letters from HTTP through a whole replica in memory: published, read, sent, waited for; or only tried."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.admin import breath, dry_run, waiting
from mailsender.admin.operations import ReplicaOperations
from mailsender.aio import pause
from mailsender.intake.idempotency import id_of_key
from mailsender.model.blobs import ref_of
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Phase, Result, Status, Verdict
from mailsender.model.records import Landed, Outgoing, Record
from mailsender.queue.memory import MemoryQueue
from mailsender.service import Replica
from mailsender.web import app
from mailsender.web.problems import MAX_FAULTS
from tests.dispatching import until
from tests.fakes import FakeSink
from tests.relays import ACCEPTED, FakeRelay
from tests.unit import test_replica
from tests.unit.test_replica import QuietSource, replica_over
from tests.unit.test_web import Client, problem, serving

pytestmark = pytest.mark.asyncio

TOPIC = "mts-to-mailsender"
GOOD = {"Subject": "Тема", "Body": "<p>x</p>", "Addresses": ["a@example.test"]}
NO_USER = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")


class Topic(FakeSink):
    """Keeps what is published, and says so to who reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.landed = asyncio.Event()

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        answers = await super().publish(records)
        self.landed.set()
        return answers

    def letters(self) -> list[list[dict[str, Any]]]:
        """The batches on the in-topic."""
        return [json.loads(each.value or b"") for each in self.published if each.topic == TOPIC]


class Reading(QuietSource):
    """Hands out what is published to the in-topic."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._next = 0

    async def fetch(self, timeout: float) -> list[Record]:
        if self._next >= len(self._topic.published):
            self._topic.landed.clear()
            await pause(self._topic.landed, timeout)
        first, self._next = self._next, len(self._topic.published)
        return [
            Record(
                topic=TOPIC, partition=0, offset=first + place, timestamp=1, key=each.key, value=each.value
            )
            for place, each in enumerate(self._topic.published[first:])
            if each.topic == TOPIC
        ]

    async def commit(self, offsets: object, notes: object = None) -> bool:
        return True

    async def idle(self, timeout: float) -> None:
        pass


class Asked(MemoryQueue):
    """Counts who asks what has ended, and fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.asked: list[list[str]] = []
        self.errors: list[Exception] = []

    async def ended(self, ids: Sequence[str]) -> frozenset[str]:
        self.asked.append(list(ids))
        if self.errors:
            raise self.errors.pop()
        return await super().ended(ids)


@dataclass
class Stage:
    """A replica that runs, and one who calls it."""

    replica: Replica
    client: Client
    topic: Topic
    queue: Asked
    relay: FakeRelay
    ended: asyncio.Task[int]

    async def submit(self, letter: object, query: str = "wait=5s", **headers: str) -> tuple[int, Any]:
        data = letter if isinstance(letter, bytes) else json.dumps(letter).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.ask("POST", f"/letters?{query}", data=data, headers=named)
        return answer[0], problem(answer) if answer[0] >= 400 else json.loads(answer[2])


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: Callable[[str], Result] = lambda _: ACCEPTED,
    hold: bool = False,
    **settings: str,
) -> AsyncIterator[Stage]:
    topic, queue = Topic(), Asked()
    monkeypatch.setattr(test_replica, "QuietSource", lambda: Reading(topic))
    monkeypatch.setattr(waiting, "LOOK", 0.01)
    relay = FakeRelay(answer=answer, hold=asyncio.Event() if hold else None)
    replica = replica_over(
        relay, queue, SystemClock(), monkeypatch, sink=topic, SMTP_FROM_ALLOWED="example.org", **settings
    )
    task = asyncio.create_task(replica.run())
    await until(lambda: replica.state == "running")
    async with serving(ReplicaOperations(replica), max_bytes=1_000_000, timeout=10) as client:
        yield Stage(replica, client, topic, queue, relay, task)
        if relay.hold is not None:
            relay.hold.set()
        replica.drain("test")
        await task


# --- what becomes of it --------------------------------------------------------------------------


async def test_what_the_relay_takes_is_200(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        status, body = await stage.submit(GOOD)
    assert (status, body["status"], body["recipients"][0]["code"]) == (200, "sent", 250)
    ((published,),) = stage.topic.letters()
    assert published == {"ID": body["id"], **GOOD}


async def test_what_the_relay_refuses_is_422_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, answer=lambda _: NO_USER) as stage:
        status, body = await stage.submit(GOOD)
    assert (status, body["reason"]) == (422, "refused")
    assert body["detail"] == "The letter was not sent. a@example.test: 550 5.1.1 no such user"


async def test_what_is_under_way_is_202_and_sent_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, hold=True) as stage:
        status, body = await stage.submit(GOOD, "wait=100ms")
        assert (status, body["topic"], body["partition"], body["offset"]) == (202, TOPIC, 0, 0)
        assert stage.relay.hold is not None
        stage.relay.hold.set()
        await until(lambda: stage.relay.sent)
    found = await stage.queue.get(body["id"])
    assert found is not None
    assert found.status is Status.SENT


async def test_the_same_key_twice_at_once_is_one_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        answers = await asyncio.gather(*(stage.submit(GOOD, Idempotency_Key="order-7") for _ in range(2)))
        in_it = await stage.submit({**GOOD, "idempotencykey": "order-7"}, Idempotency_Key='"order-7"')
    assert [(status, body["id"]) for status, body in (*answers, in_it)] == [(200, id_of_key("order-7"))] * 3
    assert len(stage.relay.sent) == 1
    assert [each["ID"] for (each,) in stage.topic.letters()] == [id_of_key("order-7")] * 3


async def test_the_same_key_with_other_content_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        assert (await stage.submit(GOOD, Idempotency_Key="order-7"))[0] == 200
        status, body = await stage.submit({**GOOD, "Subject": "another"}, Idempotency_Key="order-7")
    assert (status, body["reason"]) == (422, "duplicate-id")
    assert len(stage.relay.sent) == 1


async def test_a_letter_that_its_own_record_brought_is_its_own_whatever_was_made_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is stored may be another form of what was published."""
    async with running(monkeypatch) as stage:
        look_up = stage.queue.look_up

        async def changed(letter_id: str) -> Any:
            found = await look_up(letter_id)
            assert found is not None
            object.__setattr__(found, "letter", found.letter.evolve(body="made of it", digest=b"other"))
            return found

        monkeypatch.setattr(stage.queue, "look_up", changed)
        assert (await stage.submit(GOOD))[0] == 200


async def test_a_key_of_256_emoji_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "\N{GRINNING FACE}" * 256
    async with running(monkeypatch) as stage:
        assert (await stage.submit(GOOD, Idempotency_Key=key))[1]["id"] == id_of_key(key)
        status, body = await stage.submit(GOOD, Idempotency_Key=key + "!")
        assert (status, body["reason"]) == (400, "bad-idempotency-key")
        status, body = await stage.submit({**GOOD, "IdempotencyKey": key}, Idempotency_Key="another")
        assert (status, body["errors"][0]["text"]) == (400, "is another one than the header's")
        status, body = await stage.submit({**GOOD, "IdempotencyKey": []}, Idempotency_Key="another")
    assert (status, len(stage.relay.sent)) == (400, 1)


async def test_a_posted_batch_has_the_ids_of_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [{**GOOD, "IdempotencyKey": "one"}, GOOD, {**GOOD, "id": "6B03f03e1c3fe5165a363fce"}]
    async with running(monkeypatch) as stage:
        answer = await stage.client.ask("POST", "/post", data=json.dumps(batch).encode())
    ids = json.loads(answer[2])["ids"]
    assert (ids[0], ids[2]) == (id_of_key("one"), "6b03f03e1c3fe5165a363fce")
    ((first, second, third),) = stage.topic.letters()
    assert (first["ID"], second["ID"]) == tuple(ids[:2])
    assert third == batch[2], "one that has an ID is published as it is"


# --- waiting -------------------------------------------------------------------------------------


async def test_a_drain_answers_who_waits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, hold=True) as stage:
        waits = asyncio.create_task(stage.submit(GOOD, "wait=9s"))
        await stage.relay.started.wait()
        stage.replica.drain("test")
        assert (await asyncio.wait_for(waits, 2))[0] == 202
        assert (await stage.submit(GOOD))[1]["reason"] == "draining"
    assert len(stage.relay.sent) == 1


async def test_all_who_wait_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, hold=True) as stage:
        waits = [asyncio.create_task(stage.submit(GOOD, Idempotency_Key=str(n % 3))) for n in range(12)]
        await until(lambda: len(stage.queue.asked) and len(stage.queue.asked[-1]) == 3)
        assert stage.relay.hold is not None
        stage.relay.hold.set()
        assert {(await each)[0] for each in waits} == {200}
        asked = len(stage.queue.asked)
        await stage.client.ask("GET", "/status")
        assert len(stage.queue.asked) == asked, "nobody waits any more, so nobody asks"
    assert max(map(len, stage.queue.asked)) == 3


async def test_one_too_many_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_WAITING", 1)
    async with running(monkeypatch, hold=True) as stage:
        first = asyncio.create_task(stage.submit(GOOD, "wait=9s"))
        await stage.relay.started.wait()
        assert (await asyncio.wait_for(stage.submit(GOOD, "wait=9s"), 2))[0] == 202
        assert stage.relay.hold is not None
        stage.relay.hold.set()
        assert (await first)[0] == 200


async def test_a_queue_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        stage.queue.errors = [Unavailable("no primary")] * 3
        look_up, away = stage.queue.look_up, [Unavailable("no primary")]

        async def sometimes(letter_id: str) -> Any:
            if away:
                raise away.pop()
            return await look_up(letter_id)

        monkeypatch.setattr(stage.queue, "look_up", sometimes)
        assert (await stage.submit(GOOD))[0] == 200
    assert not stage.queue.errors
    assert not away


async def test_a_fault_of_ours_ends_a_wait_and_not_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        stage.queue.errors = [KeyError("inner")]
        with capture_logs() as events:
            assert (await stage.submit(GOOD))[1]["reason"] == "unexpected"
        assert [each["event"] for each in events if each["log_level"] == "error"] == ["http_request_failed"]
        assert (await stage.submit(GOOD))[0] == 200


async def test_one_who_hangs_up_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_WAITING", 1)
    async with running(monkeypatch, hold=True) as stage:
        first = asyncio.create_task(stage.submit(GOOD, "wait=9s"))
        await stage.relay.started.wait()
        await until(lambda: stage.queue.asked)
        first.cancel()
        await asyncio.wait({first})
        second = asyncio.create_task(stage.submit(GOOD, "wait=9s", Idempotency_Key="second"))
        assert stage.relay.hold is not None
        async with asyncio.timeout(5):
            while not any(id_of_key("second") in ids for ids in stage.queue.asked):
                if second.done():  # there was no room yet: asked again with the same key
                    assert second.result()[0] == 202
                    second = asyncio.create_task(stage.submit(GOOD, "wait=9s", Idempotency_Key="second"))
                await asyncio.wait({second}, timeout=0.02)
        stage.relay.hold.set()
        assert (await second)[0] == 200


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words", "field"),
    [
        (b"[]", "an array, not a letter", ""),
        (b"7", "a number, not a letter", ""),
        (b"{", "not JSON", ""),
        (b"", "not JSON", ""),
        (b'{"a":1},{"b":2}', "not JSON", ""),
        (b'{"Token":NaN}', "NaN", ""),
        (b"[" * 100_000, "nests too deep", ""),
        ({}, "is wrong", "Addresses"),
        ({**GOOD, "Addresses": ["@"]}, "is wrong", "Addresses[0]"),
        ({**GOOD, "ID": "no id"}, "is wrong", "ID"),
        ({**GOOD, "Attachments": 7}, "is wrong", "Attachments"),
        ({**GOOD, "ID": "6b03f03e1c3fe5165a363fce", "IdempotencyKey": "k"}, "is wrong", "IdempotencyKey"),
    ],
)
async def test_what_is_no_good_letter_is_not_published(
    monkeypatch: pytest.MonkeyPatch, body: object, words: str, field: str
) -> None:
    async with running(monkeypatch) as stage:
        status, told = await stage.submit(body)
        dry = await stage.submit(body, "dry_run=true")
    assert (status, told["reason"]) == (400, "bad-letter")
    assert words in told["detail"]
    assert [each["field"] for each in told["errors"]] == ([field] if field else [])
    assert dry[0] == (200 if field else 400)
    if field:
        assert dry[1]["faults"] == told["errors"]
    assert stage.topic.published == []


async def test_a_number_comes_back_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        body = (
            b'\xef\xbb\xbf{"Addresses":["a@example.test"],"Token":{"amount":1.50,"id":12345678901234567890}}'
        )
        assert (await stage.submit(body))[0] == 200
    (record,) = [each for each in stage.topic.published if each.topic == TOPIC]
    assert b'"Token":{"amount":1.50,"id":12345678901234567890}' in (record.value or b"")


async def test_files_become_attachments_behind_those_of_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"Name": "a.txt", "ContentType": "text/plain", "Content": "YQ=="}
    parts = [
        b'name="letter"\r\n\r\n' + json.dumps({**GOOD, "attachments": [own]}).encode(),
        b'name="file"; filename="b.bin"\r\n\r\n\x00\xff',
    ]
    body = b"".join(b"--b\r\nContent-Disposition: form-data; %b\r\n" % part for part in parts) + b"--b--"
    headers = {"Content_Type": "multipart/form-data; boundary=b"}
    async with running(monkeypatch) as stage:
        assert (await stage.submit(body, **headers))[0] == 200
        _, dry = await stage.submit(body, "dry_run=true", **headers)
    ((published,),) = stage.topic.letters()
    added = {"Name": "b.bin", "ContentType": "application/octet-stream", "Ref": ref_of(b"\x00\xff")}
    assert published["Attachments"] == [own, added]
    assert "attachments" not in published
    message = message_from_bytes(dry["shown"][0]["messages"][0]["text"].encode(), policy=policy.default)
    assert [each.get_filename() for each in message.iter_attachments()] == ["a.txt", "b.bin"]  # type: ignore[attr-defined]


async def test_a_text_part_is_made_of_html_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made for the message alone: what was published is what is kept, and told."""
    letter = {**GOOD, "Body": "<p>Hello, <b>A</b>nna</p>"}
    async with running(monkeypatch, LETTER_TEXT_FROM_HTML="true") as stage:
        status, body = await stage.submit(letter)
        assert (status, body["status"]) == (200, "sent")
        found = await stage.queue.get(body["id"])
        _, dry = await stage.submit(letter, "dry_run=true")
        _, _, lint = await stage.client.ask("POST", "/lint", data=json.dumps([letter]))
    assert found is not None
    assert (found.body, found.mail) == (letter["Body"], "")
    ((published,),) = stage.topic.letters()
    assert published == {"ID": body["id"], **letter}
    message = message_from_bytes(dry["shown"][0]["messages"][0]["text"].encode(), policy=policy.default)
    kinds = [(part.get_content_type(), part.get_content().strip()) for part in message.iter_parts()]  # type: ignore[attr-defined]
    assert kinds == [("text/plain", "Hello, Anna"), ("text/html", letter["Body"])]
    assert "no-text" not in {each["rule"] for each in json.loads(lint)["findings"]}


# --- dry run -------------------------------------------------------------------------------------


async def test_a_dry_run_finds_what_the_intake_would_find(monkeypatch: pytest.MonkeyPatch) -> None:
    there, not_there = [{"Content": "AAEC"}], [{"Content": "AAEC"}, {"Ref": ref_of(b"nobody's")}]
    async with running(monkeypatch) as stage:
        for letter, field, pointer, text in (
            ({**GOOD, "Attachments": not_there}, "Attachments[1].Ref", "#/Attachments/1/Ref", "put it first"),
            (
                {"Addresses": GOOD["Addresses"], "Template": "nosuch", "Attachments": there},
                *("Template", "#/Template", "cannot be filled in: template nosuch"),
            ),
        ):
            _, answer = await stage.submit(letter, "dry_run=true")
            (fault,) = answer["faults"]
            assert (fault["field"], fault["pointer"]) == (field, pointer)
            assert text in fault["text"]


async def test_a_dry_run_shows_what_would_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [
        {**GOOD, "IdempotencyKey": "one", "To": ["Anna <anna@example.test>"], "ReversePath": "b@example.org"},
        GOOD,
        {**GOOD, "ID": "6B03F03E1C3FE5165A363FCE", "Addresses": ["c@example.test", "C@EXAMPLE.TEST"]},
    ]
    async with running(monkeypatch) as stage:
        answer = await stage.client.ask("POST", "/post?dry_run=true", data=json.dumps(batch).encode())
    body = json.loads(answer[2])
    assert (answer[0], body["letters"], body["faults"]) == (200, 3, [])
    first, second, third = body["shown"]
    assert [each["id"] for each in (first, second, third)] == [
        id_of_key("one"),
        None,
        "6b03f03e1c3fe5165a363fce",
    ]
    assert first["recipients"] == ["a@example.test", "anna@example.test"]
    assert [each["reverse_path"] for each in (first, second)] == ["b@example.org", "robot@example.test"]
    assert {each["route"] for each in body["shown"]} == {"default"}
    assert {tuple(each["relays"]) for each in body["shown"]} == {("relay.example.test:25",)}
    messages = [each["messages"][0] for each in body["shown"]]
    parsed = [message_from_bytes(each["text"].encode(), policy=policy.default) for each in messages]
    assert [each["size"] for each in messages] == [len(each["text"].encode()) for each in messages]
    assert [each["Subject"] for each in parsed] == ["Тема"] * 3
    assert parsed[0]["To"] == "Anna <anna@example.test>"
    assert parsed[1]["Message-ID"] == f"<{'0' * 24}@example.test>"
    assert "a@example.test" not in messages[1]["text"]
    assert stage.topic.published == []
    assert (await stage.queue.stats()).sent == 0


async def test_each_message_of_a_personal_letter_is_shown_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    people = [{"Address": f"p{n}@example.test", "Name": f"Person {n}"} for n in range(12)]
    async with running(monkeypatch) as stage:
        _, body = await stage.submit({**GOOD, "Addresses": people, "Personal": True}, "dry_run=true")
    (shown,) = body["shown"]
    assert len(shown["recipients"]) == 12
    assert (len(shown["messages"]), shown["messages_left_out"]) == (dry_run.MAX_MESSAGES, 2)
    assert [each["person"] for each in shown["messages"]] == [f"p{n}@example.test" for n in range(10)]
    parsed = [message_from_bytes(each["text"].encode(), policy=policy.default) for each in shown["messages"]]
    assert [each["To"] for each in parsed] == [f"Person {n} <p{n}@example.test>" for n in range(10)]


async def test_messages_of_a_personal_letter_leave_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """To make one may take most of a second."""
    monkeypatch.setattr(breath, "BREATH", 0.0)
    turns, seen = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def compose(*_: object, **__: object) -> bytes:
        seen.append(turns)
        return b""

    people = [f"p{n}@example.test" for n in range(10)]
    async with running(monkeypatch) as stage:
        monkeypatch.setattr(type(stage.replica.composer), "compose", compose)
        beside = asyncio.create_task(others())
        await stage.submit({**GOOD, "Addresses": people, "Personal": True}, "dry_run=true")
        beside.cancel()
    assert len(set(seen)) == dry_run.MAX_MESSAGES


async def test_a_dry_run_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "MAX_BYTES", 1000)
    monkeypatch.setattr(dry_run, "MAX_LETTERS", 3)
    batch = [{**GOOD, "Body": "x" * 400} for _ in range(5)]
    async with running(monkeypatch) as stage:
        answer = await stage.client.ask("POST", "/post?dry_run=true", data=json.dumps(batch).encode())
        body = json.loads(answer[2])
        wrong = await stage.client.ask("POST", "/post?dry_run=true", data=json.dumps([{}] * 500).encode())
    texts = [each["messages"][0]["text"] for each in body["shown"]]
    assert (body["letters"], len(texts)) == (5, 3)
    assert [text is None for text in texts] == [False, True, True]
    assert all(each["messages"][0]["size"] > 400 for each in body["shown"])
    faults = json.loads(wrong[2])["faults"]
    assert len(faults) == MAX_FAULTS
    assert faults[7] == {"index": 7, "field": "Addresses", "pointer": "#/7/Addresses", "text": "is missing"}


async def test_a_dry_run_that_waits_for_files_holds_up_no_post(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        waits, goes, take = asyncio.Event(), asyncio.Event(), stage.replica.blobs.take

        async def waiting_for_room(refs: Sequence[str]) -> Any:
            waits.set()
            await goes.wait()
            return await take(refs)

        monkeypatch.setattr(stage.replica.blobs, "take", waiting_for_room)
        dry = asyncio.create_task(stage.submit(GOOD, "dry_run=true"))
        await waits.wait()
        status, _ = await asyncio.wait_for(stage.submit(GOOD, "wait=0s"), 5)
        goes.set()
        assert (status, (await dry)[0]) == (202, 200)


async def test_a_message_that_cannot_be_made_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:

        def compose(letter: Letter, **_: object) -> bytes:
            raise ValueError("the subject cannot stand in a header")

        monkeypatch.setattr(
            type(stage.replica.composer), "compose", lambda self, letter, **k: compose(letter)
        )
        _, body = await stage.submit(GOOD, "dry_run=true")
    assert body["shown"] == []
    (fault,) = body["faults"]
    assert (fault["field"], fault["pointer"], fault["text"]) == (
        "",
        "#",
        "the subject cannot stand in a header",
    )
