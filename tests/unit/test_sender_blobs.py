"""Letters with attachments on their way out: from the store into the message, or put off, or an error."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import AsyncIterator
from email import policy
from email.message import EmailMessage
from typing import Any, cast

import pytest

from mailsender.blobs.cache import BlobCache
from mailsender.blobs.memory import MemoryBlobs
from mailsender.message.composer import LetterComposer
from mailsender.message.parts import encoded_size
from mailsender.model.blobs import ref_of
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Envelope, Letter, Outcome, Phase, Result, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.smtp.port import Permit
from tests.dispatching import letter, running, until
from tests.relays import ACCEPTED, FakeRelay, FakeSession

pytestmark = pytest.mark.asyncio

FILE = bytes(range(256)) * 8192
REF = ref_of(FILE)


class Store(MemoryBlobs):
    """Is away while told so."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.away = False
        self.reads = 0

    async def read(self, ref: str) -> AsyncIterator[bytes]:
        self.reads += 1
        if self.away:
            raise Unavailable("no primary")
        async for block in super().read(ref):
            yield block


class Catcher(FakeRelay):
    """Keeps the messages that it got, as they came."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes | tuple[bytes, ...]] = []

    async def connect(self) -> FakeSession:
        self.connects += 1
        session = CatcherSession(self)
        self.sessions.append(session)
        return session


class CatcherSession(FakeSession):
    async def transact(self, envelope: Envelope, message: Any, permit: Permit) -> Outcome:
        cast("Catcher", self.relay).messages.append(message)
        return await super().transact(envelope, message, permit)


def composer() -> LetterComposer:
    return LetterComposer("Robot", "robot@example.test")


def carrying(number: int, *addresses: str, ref: str = REF, **more: Any) -> Letter:
    mail = json.dumps({"Attachments": [{"Name": "a.bin", "Ref": ref}], **more}, separators=(",", ":"))
    return letter(number, *addresses, mail=mail)


async def test_many_letters_carry_the_same_file_and_it_is_read_once() -> None:
    relay, store = Catcher(), Store()
    await store.secure([], {REF: FILE})
    cache = BlobCache(store, 10_000_000)
    async with running(relay, composer=composer(), blobs=cache) as scene:
        await scene.queue.insert([carrying(number) for number in range(50)])
        scene.dispatcher.nudge()
        sent = await scene.settled(50)
    assert {each.status for each in sent} == {Status.SENT}
    assert store.reads == 1
    pieces = {id(each) for message in relay.messages for each in message if len(each) > 100_000}  # type: ignore[arg-type]
    assert len(pieces) == 5, "the very same ones in each message"
    made = b"".join(cast("tuple[bytes, ...]", relay.messages[0]))
    parsed = cast("EmailMessage", email.message_from_bytes(made, policy=policy.default))
    assert [each.get_payload(decode=True) for each in parsed.iter_attachments()] == [FILE]
    assert not any(entry.users for entry in cache._entries.values())


async def test_who_waits_for_room_keeps_no_session_from_those_who_have_it() -> None:
    """One between two transactions has what its next one carries; a session is all that it lacks."""
    relay, store = FakeRelay(), Store()
    other = FILE[::-1]
    await store.secure([], {REF: FILE, ref_of(other): other})
    cache = BlobCache(store, encoded_size(len(FILE)) + 4096)
    async with running(relay, senders=1, max_recipients=1, composer=composer(), blobs=cache) as scene:
        letters = [
            carrying(1, "a@x.test", "b@x.test", "c@x.test"),
            carrying(2, "d@x.test", ref=ref_of(other)),
            letter(3, "e@x.test"),
        ]
        await scene.queue.insert(letters)
        scene.dispatcher.nudge()
        async with asyncio.timeout(5):
            sent = await scene.settled(3)
        assert not scene.known.pool.hangs
    assert [(each.status, each.attempts) for each in sent] == [(Status.SENT, 1)] * 3
    assert relay.connects == 1


async def test_a_store_that_is_away_puts_a_letter_off_and_counts_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.sending.mail.UNREAD", 0.02)
    relay, store = Catcher(), Store()
    await store.secure([], {REF: FILE})
    store.away = True
    async with running(relay, composer=composer(), blobs=BlobCache(store, 10**7), max_attempts=1) as scene:
        await scene.queue.insert([carrying(1), letter(2)])
        scene.dispatcher.nudge()
        (plain,) = await scene.settled(1)
        assert plain.subject == "letter 2", "others go on"
        await until(lambda: store.reads > 1)
        waiting = await scene.queue.get(carrying(1).id)
        assert waiting is not None
        assert (waiting.attempts, waiting.status.final) == (0, False)
        store.away = False
        _, sent = await scene.settled(2)
    assert (sent.status, sent.attempts) == (Status.SENT, 1)


async def test_what_put_it_off_is_told() -> None:
    store, queue = Store(), MemoryQueue(SystemClock())
    await store.secure([], {REF: FILE})
    store.away = True
    async with running(Catcher(), composer=composer(), blobs=BlobCache(store, 10**7), queue=queue) as scene:
        await queue.insert([carrying(1)])
        scene.dispatcher.nudge()
        await until(lambda: queue._entries[carrying(1).id].letter.recipients[0].result)
    found = await queue.get(carrying(1).id)
    assert found is not None
    result = found.recipients[0].result
    assert result is not None
    assert (result.verdict, result.text) == (
        Verdict.DEFERRED,
        "its attachments cannot be read now: no primary",
    )
    stored = await queue.look_up(found.id)
    assert stored is not None
    assert stored.due is not None
    assert stored.due.timestamp() > SystemClock().epoch() + 20


async def test_what_is_not_there_any_more_is_an_error_that_names_it() -> None:
    async with running(Catcher(), composer=composer(), blobs=BlobCache(Store(), 10**7)) as scene:
        await scene.queue.insert([carrying(1)])
        scene.dispatcher.nudge()
        (ended,) = await scene.settled(1)
    assert ended.status is Status.ERROR
    assert ended.reason == f"the attachment {REF} is not there any more"


async def test_who_has_got_it_has_although_it_is_gone_when_the_others_come() -> None:
    relay, store = Catcher(), Store()
    await store.secure([], {REF: FILE})
    cache = BlobCache(store, 10**7)

    def answer(address: str) -> Result:
        if address == "a@x.test":
            return ACCEPTED
        store._blobs.clear()
        cache._forget(REF, cache._entries[REF])
        return Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="later")

    relay.answer = answer
    async with running(relay, composer=composer(), blobs=cache) as scene:
        await scene.queue.insert([carrying(1, "a@x.test", "b@x.test")])
        scene.dispatcher.nudge()
        (ended,) = await scene.settled(1)
    assert ended.status is Status.SENT
    found = {each.address: each.result for each in ended.recipients}
    assert found["a@x.test"] == ACCEPTED
    assert found["b@x.test"] is not None
    assert (found["b@x.test"].verdict, found["b@x.test"].text) == (
        Verdict.REFUSED,
        f"the attachment {REF} is not there any more",
    )


async def test_a_letter_of_a_later_version_waits_for_who_can_read_it() -> None:
    queue, later = MemoryQueue(SystemClock()), letter(1, mail='{"Later":1}')
    async with running(Catcher(), composer=composer(), queue=queue, max_attempts=1) as scene:
        await queue.insert([later, letter(2)])
        scene.dispatcher.nudge()
        (plain,) = await scene.settled(1)
        await until(lambda: queue._entries[later.id].letter.recipients[0].result)
    assert plain.subject == "letter 2"
    found = await queue.get(later.id)
    assert found is not None
    assert (found.status, found.attempts) == (Status.AWAITING, 0)
    result = found.recipients[0].result
    assert result is not None
    assert result.text == "it cannot be read here: Later is not known to this version of the service"


async def test_a_personal_letter_carries_it_to_each() -> None:
    relay, store = Catcher(), Store()
    await store.secure([], {REF: FILE})
    async with running(relay, composer=composer(), blobs=BlobCache(store, 10**7)) as scene:
        await scene.queue.insert([carrying(1, "a@x.test", "b@x.test", Personal=True)])
        scene.dispatcher.nudge()
        await scene.settled(1)
    assert [each.recipients for each in relay.sent] == [("a@x.test",), ("b@x.test",)]
    assert len({each[0] for each in relay.messages}) == 2
    assert store.reads == 1
