"""Attachments on their way in: by content or by name, in the store before the letter is in the queue."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest

from mailsender.blobs.memory import MemoryBlobs
from mailsender.intake.attachments import SECURED, Attachments
from mailsender.intake.consumer import Intake, IntakeConfig
from mailsender.intake.schema import Limits
from mailsender.model.blobs import named_in, ref_of, without_texts
from mailsender.model.errors import Unavailable
from mailsender.model.letter import FreshClaim, Letter, Origin, Status
from mailsender.model.records import Record
from mailsender.queue.port import Inserted
from tests.clocks import ManualClock
from tests.fakes import FakeSink, FakeSource, FlakyQueue, record

PDF = b"%PDF-1.7 \xff\x00"
REF = ref_of(PDF)
ID = "6b03f03e1c3fe5165a363fce"


def inline(content: bytes = PDF, **more: Any) -> dict[str, Any]:
    return {"Name": "a.pdf", "Content": b64encode(content).decode(), **more}


def named(ref: str = REF, **more: Any) -> dict[str, Any]:
    return {"Name": "a.pdf", "Ref": ref, **more}


def batch(*attachments: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps(
        [{"Addresses": ["a@b.test"], "Attachments": each, **more} for each in attachments]
    ).encode()


class Shelf(MemoryBlobs):
    """Notes what was asked for, and fails as many times as told."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.asked: list[tuple[set[str], set[str]]] = []
        self.failures = 0

    async def secure(self, refs: Any, contents: Any) -> dict[str, int]:
        self.asked.append((set(refs), set(contents)))
        if self.failures:
            self.failures -= 1
            raise Unavailable("no primary")
        return await super().secure(refs, contents)


class Stage:
    """An intake with a shelf; it stops when its source has nothing more."""

    def __init__(self, *fetches: Sequence[Record], limits: Limits = Limits()) -> None:  # noqa: B008  frozen
        self.clock = ManualClock()
        self.source = FakeSource(self.clock, *fetches)
        self.queue = FlakyQueue(self.clock)
        self.shelf = Shelf(self.clock)
        self.offered: list[Letter] = []
        config = IntakeConfig(dead_letter_topic="dead", retention=86400.0, limits=limits)
        self.intake = Intake(
            self.source,
            self.queue,
            FakeSink(),
            config=config,
            clock=self.clock,
            final=self._offer,
            attachments=Attachments(self.shelf, limits, self.clock),
        )

    async def _offer(self, letters: Sequence[Letter]) -> None:
        self.offered += letters

    async def run(self) -> None:
        stop = asyncio.Event()
        self.source.on_empty = stop.set
        async with asyncio.timeout(10):
            await self.intake.run(stop)

    async def letter(self, **origin: int) -> Letter:
        place = {"partition": 0, "offset": 0, "index": 0, "timestamp": -1, **origin}
        found = await self.queue.get(Origin(topic="in", **place).letter_id())
        assert found is not None
        return found


@pytest.mark.asyncio
async def test_what_a_letter_brings_is_stored_once_and_named_by_it() -> None:
    stage = Stage([record(batch([inline()], [inline(), inline(b"other")], []))])
    await stage.run()
    first, second, third = [await stage.letter(index=each) for each in range(3)]
    assert json.loads(first.mail) == {
        "Attachments": [{"ContentType": "application/pdf", "Name": "a.pdf", "Ref": REF}]
    }
    assert named_in(second.mail) == (REF, ref_of(b"other"))
    assert named_in(third.mail) == ()
    assert stage.shelf.asked == [({REF, ref_of(b"other")}, {REF, ref_of(b"other")})]
    assert b"".join([block async for block in stage.shelf.read(REF)]) == PDF


@pytest.mark.asyncio
async def test_the_same_file_inline_or_by_name_makes_the_same_letter() -> None:
    stage = Stage(
        [record(batch([inline()], ID=ID))],
        [record(batch([named()], ID=ID), offset=1)],
        [record(batch([named(Name="b.pdf")], ID=ID), offset=2)],
    )
    await stage.run()
    state = stage.intake.state
    assert (state.joined, state.clashes) == (1, 1)
    letter = await stage.queue.get(ID)
    assert letter is not None
    assert len(letter.answers) == 2


@pytest.mark.asyncio
async def test_a_missing_one_is_its_letters_error_alone_and_stays_that_when_it_is_read_again() -> None:
    missing = ref_of(b"never put")
    value = batch([named(missing)], [inline()])
    stage = Stage([record(value)])
    await stage.run()
    bad, good = await stage.letter(), await stage.letter(index=1)
    assert (bad.status, good.status) == (Status.ERROR, Status.AWAITING)
    assert bad.reason.startswith("Attachments[0].Ref names a blob that is not there")
    assert [each.id for each in stage.offered] == [bad.id]
    assert stage.intake.state.bad_letters == 1
    # The same record once more, when somebody has put it: its letter was answered.
    await stage.shelf.secure([], {missing: b"never put"})
    stage.source.fetches.append([record(value)])
    await stage.run()
    assert stage.intake.state.replays == 2
    assert (await stage.letter()).status is Status.ERROR


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("attachments", "field"),
    [
        ([inline(b"x" * 101)], "Attachments[0].Content has 101 bytes; 100 are allowed"),
        ([inline(b"x" * 90), inline(b"y" * 90)], "Attachments have 180 bytes or more; 150 are allowed"),
        ([named(ref_of(b"z" * 200))], "Attachments[0] has 200 bytes; 100 are allowed"),
        ([named(ref_of(b"z" * 90)), inline(b"x" * 90)], "Attachments have 180 bytes together; 150 are"),
        ([named(ref_of(b"z" * 90))] * 2, "Attachments have 180 bytes together; 150 are allowed"),
        ([inline(Ref=REF)], "Attachments[0] has both a Content and a Ref"),
        ([inline(Ref=False)], "Attachments[0] has both a Content and a Ref"),
        ([named("sha256:" + "A" * 64)], "Attachments[0].Ref is none"),
        ([named("https://example.com/a.pdf")], "Attachments[0].Ref is none"),
        ([{"Name": "a.pdf"}], "Attachments[0] needs its Content, or the Ref of a blob"),
        ([inline()] * 101, "Attachments holds 101 attachments; 100 are allowed"),
    ],
)
async def test_what_cannot_be_attached_says_why(attachments: list[dict[str, Any]], field: str) -> None:
    stage = Stage(
        [record(batch(attachments, [named(ref_of(b"z" * 90))]))],
        limits=Limits(attachment=100, attachments=150),
    )
    contents = [b"z" * 90, b"z" * 200]
    await MemoryBlobs.secure(stage.shelf, [], {ref_of(each): each for each in contents})
    await stage.run()
    bad, good = await stage.letter(), await stage.letter(index=1)
    assert bad.status is Status.ERROR
    assert bad.reason.startswith(field), bad.reason
    assert good.status is Status.AWAITING


@pytest.mark.asyncio
async def test_a_bad_letters_files_are_not_stored() -> None:
    stage = Stage([record(batch([inline()], From="eve@example.net"))])
    await stage.run()
    assert (await stage.letter()).status is Status.ERROR
    assert stage.shelf.asked == []


@pytest.mark.asyncio
async def test_nothing_is_inserted_before_its_files_are_there() -> None:
    stage = Stage([record(batch([inline()]))])
    stage.shelf.failures = 3
    order: list[str] = []
    insert, secure = stage.queue.insert, stage.shelf.secure

    async def inserting(letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        order.append("insert")
        return await insert(letters, claims)

    async def securing(refs: Any, contents: Any) -> dict[str, int]:
        order.append("secure")
        return await secure(refs, contents)

    stage.queue.insert = inserting  # type: ignore[method-assign]
    stage.shelf.secure = securing  # type: ignore[method-assign]
    await stage.run()
    assert order == ["secure"] * 4 + ["insert"]
    assert stage.source.commits == [{("in", 0): 1}]


@pytest.mark.asyncio
async def test_what_was_secured_long_ago_is_secured_again_before_it_is_named() -> None:
    stage = Stage([record(batch([inline()]))], [record(batch([]), offset=1)])
    stage.queue.failures["insert"] = 1
    waited = stage.source.on_idle

    def idle() -> None:
        waited()
        stage.clock.forward(SECURED + 1)

    stage.source.on_idle = idle
    await stage.run()
    assert stage.shelf.asked == [({REF}, {REF}), ({REF}, set())]
    assert (await stage.letter()).status is Status.AWAITING


@pytest.mark.asyncio
async def test_what_a_record_brought_is_stored_again_where_it_was_swept_meanwhile() -> None:
    """Inserts may be refused for longer than a store keeps what nobody names."""
    stage = Stage([record(batch([inline()]))], [record(batch([]), offset=1)])
    stage.queue.failures["insert"] = 1
    waited = stage.source.on_idle

    def idle() -> None:
        waited()
        stage.clock.forward(SECURED + 1)
        stage.shelf._blobs.clear()

    stage.source.on_idle = idle
    await stage.run()
    assert stage.shelf.asked == [({REF}, {REF}), ({REF}, set()), ({REF}, {REF})]
    assert (await stage.letter()).status is Status.AWAITING
    assert REF in stage.shelf._blobs


def test_letters_without_attachments_name_nothing() -> None:
    assert named_in("") == ()
    assert named_in('{"Headers":{"X-A":"\\"Attachments\\":[{\\"Ref\\":7}]"}}') == ()
    assert named_in('{"Variables":{"Attachments":[{"Ref":"x"}]}}') == ()
    assert named_in('{"Attachments":[]}') == ()


def test_without_its_texts_a_letter_keeps_whom_it_was_from() -> None:
    mail = json.dumps({"From": "a@b.test", "TextBody": "secret", "Attachments": [named()]})
    assert without_texts(mail) == '{"From":"a@b.test"}'
    assert without_texts('{"TextBody":"secret"}') == ""
    assert without_texts("") == ""
