"""Personal letters with a template: pinned when they are taken in, rendered for each recipient when sent."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from time import process_time
from typing import Any, cast

import pytest

from mailsender.intake.batch import read_letter
from mailsender.intake.schema import Limits
from mailsender.intake.templates import Filler
from mailsender.message.composer import Filling, LetterComposer, OnePersonsFault
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Origin, Phase, Result, Status, Verdict
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import document_of
from mailsender.templates.files import template_of
from mailsender.templates.folder import Folder
from mailsender.templates.library import Library
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.pins import Pinner, Pins, pin_of
from mailsender.templates.template import TemplateError
from tests.clocks import ManualClock
from tests.dispatching import running
from tests.relays import FakeRelay
from tests.templates import template

ORIGIN = Origin(topic="in", partition=0, offset=1, index=0, timestamp=2)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ANNA, BORIS, CAROL = "anna@example.com", "boris@example.com", "carol@example.com"
FILES = {
    "news.subject": "News for {{ name }}",
    "news.html": "{% extends 'layout.html' %}"
    "{% block text %}<p>{{ name }}: {{ 12 // share }}</p>{% endblock %}",
    "news.txt": "{{ name }}: {{ 12 // share }}",
}
LAYOUT = {"layout.html": "<i>{{ company }}</i>{% block text %}{% endblock %}"}
KEYS: dict[str, Any] = {
    "Template": "news",
    "Personal": True,
    "Variables": {"share": 4, "name": "friend"},
    "Addresses": [
        {"Address": ANNA, "Name": "Анна", "Variables": {"name": "<Анна>"}},
        {"Address": BORIS, "Variables": {"share": 3}},
        CAROL,
    ],
}


class Shelf(MemoryShelf):
    """Counts who asks for what is pinned, and may be away."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.asked = 0
        self.away = 0

    async def pinned(self, digest: str) -> str | None:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise Unavailable("MongoDB does not answer")
        return await super().pinned(digest)

    async def saved(self, files: Mapping[str, str]) -> None:
        name = next(iter(files)).partition(".")[0]
        await self.put(template_of(name, files), files)


class Composer(LetterComposer):
    """Keeps what it made."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__("Robot", "robot@example.test", Pins(shelf))
        self.made: list[EmailMessage] = []

    def compose(self, *args: Any, **kwargs: Any) -> bytes:
        made = super().compose(*args, **kwargs)
        self.made.append(cast("EmailMessage", email.message_from_bytes(made, policy=policy.default)))
        return made


def taken(keys: Mapping[str, Any], shelf: Shelf) -> Letter:
    """A letter as it goes into the queue, and comes out of it."""
    read = read_letter(dict(keys), ORIGIN, None, Limits(), now=NOW)
    filler = Filler(Library(Folder(), shelf), shelf, {"company": "A&B"}, most=100_000)
    letter = asyncio.run(filler.fill(read, NOW))
    assert letter.status is Status.AWAITING, letter.reason
    return letter_of(document_of(letter, NOW)[0])


@pytest.fixture
def shelf() -> Shelf:
    made = Shelf()
    asyncio.run(made.saved(LAYOUT))
    asyncio.run(made.saved(FILES))
    return made


def words(message: EmailMessage) -> tuple[str, str, str]:
    parts = {
        part.get_content_type(): part.get_content().strip()
        for part in message.walk()
        if not part.is_multipart()
    }
    return message["Subject"], parts.get("text/html", ""), parts.get("text/plain", "")


def sent(
    letter: Letter, composer: Composer, person: str, filling: Filling | None = None
) -> tuple[str, str, str]:
    ready = filling or asyncio.run(composer.filling(letter))
    composer.compose(letter, eight_bit=True, smtputf8=True, date=NOW, person=person, filling=ready)
    return words(composer.made[-1])


def test_each_recipient_has_words_of_his_own(shelf: Shelf) -> None:
    letter, composer = taken(KEYS, shelf), Composer(shelf)
    assert sent(letter, composer, ANNA) == (
        "News for <Анна>",
        "<i>A&amp;B</i><p>&lt;Анна&gt;: 3</p>",
        "<Анна>: 3",
    )
    assert composer.made[0]["To"] == "Анна <anna@example.com>"
    assert sent(letter, composer, BORIS) == ("News for friend", "<i>A&amp;B</i><p>friend: 4</p>", "friend: 4")
    assert sent(letter, composer, CAROL) == ("News for friend", "<i>A&amp;B</i><p>friend: 3</p>", "friend: 3")
    for message, person in zip(composer.made, (ANNA, BORIS, CAROL), strict=True):
        others = {ANNA, BORIS, CAROL} - {person}
        assert not any(each in message.as_string() for each in others)


def test_what_it_was_taken_in_with_stays_until_it_is_sent(shelf: Shelf) -> None:
    """The template, its layout and the variables of all letters."""
    letter = taken(KEYS, shelf)
    asyncio.run(shelf.saved({**FILES, "news.txt": "another {{ nosuch }}"}))
    asyncio.run(shelf.saved({"layout.html": "another"}))
    assert sent(letter, Composer(shelf), CAROL) == (
        "News for friend",
        "<i>A&amp;B</i><p>friend: 3</p>",
        "friend: 3",
    )
    assert json.loads(letter.mail)["Template"] == "news@1"


def test_its_subject_stands_in_place_of_the_templates(shelf: Shelf) -> None:
    assert sent(taken({**KEYS, "Subject": "Тема"}, shelf), Composer(shelf), ANNA)[0] == "Тема"


def test_the_language_is_that_of_the_letter(shelf: Shelf) -> None:
    asyncio.run(shelf.saved({**FILES, "news.ru.subject": "Новости"}))
    assert sent(taken({**KEYS, "Lang": "ru-RU"}, shelf), Composer(shelf), ANNA)[0] == "Новости"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"share": 0}, "template news.html, line 1"),
        ({"name": "a\nb"}, "template news.subject: the subject holds"),
        ({"name": None}, "null cannot be written out"),
    ],
)
def test_a_fault_of_one_recipients_variables_is_his_alone(
    shelf: Shelf, variables: dict[str, Any], reason: str
) -> None:
    letter = taken({**KEYS, "Addresses": [{"Address": ANNA, "Variables": variables}, BORIS]}, shelf)
    composer = Composer(shelf)
    with pytest.raises(OnePersonsFault, match=reason):
        sent(letter, composer, ANNA)
    assert sent(letter, composer, BORIS)[2] == "friend: 3"


def test_all_letters_of_a_template_share_what_is_kept(shelf: Shelf) -> None:
    first, second = taken(KEYS, shelf), taken({**KEYS, "Variables": {"share": 1, "name": "x"}}, shelf)
    assert json.loads(first.mail)["Pin"] == json.loads(second.mail)["Pin"]
    composer = Composer(shelf)
    for letter in (first, second, first):
        sent(letter, composer, CAROL)
    assert shelf.asked == 1


def test_what_was_changed_or_is_gone_is_told(shelf: Shelf) -> None:
    pins = Pins(shelf)
    with pytest.raises(TemplateError, match="no longer stored"):
        asyncio.run(pins.filling("0" * 64, ""))
    asyncio.run(shelf.pin("1" * 64, '{"templates": []}'))
    with pytest.raises(TemplateError, match="was changed"):
        asyncio.run(pins.filling("1" * 64, ""))


def test_only_so_much_is_kept(shelf: Shelf) -> None:
    digests = []
    for number in range(4):
        digest, text = pin_of([template({"t.txt": "x" * 1_000 + str(number)})], {})
        asyncio.run(shelf.pin(digest, text))
        digests.append(digest)
    pins = Pins(shelf, kept=2_500)
    for digest in (*digests, *digests):
        assert asyncio.run(pins.filling(digest, "")).compiled.name == "t"
    assert shelf.asked == 8, "the first is gone when it is its turn again"
    asyncio.run(pins.filling(digests[-1], ""))
    assert shelf.asked == 8


def test_what_is_too_large_is_refused_when_it_is_taken_in() -> None:
    large = [template({f"t{i}.{a}.txt": "x" * 200_000 for a in ("aa", "bb")}) for i in range(25)]
    with pytest.raises(TemplateError, match="bytes of sources"):
        pin_of(large, {})


@pytest.mark.asyncio
async def test_it_is_pinned_once_and_again_after_a_failure() -> None:
    calls = 0

    class Failing(MemoryShelf):
        async def pin(self, digest: str, text: str) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise Unavailable("MongoDB does not answer")
            await super().pin(digest, text)

    shelf = Failing(ManualClock())
    await shelf.put(template({"t.txt": "x"}), {})
    found = await Library(shelf).found("t")
    pinner = Pinner(shelf, {})
    with pytest.raises(Unavailable):
        await pinner.pin(found)
    digest = await pinner.pin(found)
    assert await pinner.pin(found) == digest
    assert calls == 2
    assert await shelf.pinned(digest)


# --- by a sender ---------------------------------------------------------------------------------


def results(letter: Letter) -> dict[str, tuple[Verdict, str]]:
    return {
        each.address: (each.result.verdict, each.result.text) for each in letter.recipients if each.result
    }


async def carried(letter: Letter, composer: Composer, relay: FakeRelay, **more: Any) -> Letter:
    async with running(relay, composer=composer, senders=1, **more) as scene:
        await scene.queue.insert([letter])
        scene.dispatcher.nudge()
        (settled,) = await scene.settled(1)
        return settled


def test_a_rendering_fault_at_sending_is_that_recipients_refusal(shelf: Shelf) -> None:
    addresses = [
        {"Address": ANNA, "Variables": {"share": 0}},
        BORIS,
        {"Address": CAROL, "Variables": {"name": None}},
    ]
    letter, composer, relay = taken({**KEYS, "Addresses": addresses}, shelf), Composer(shelf), FakeRelay()
    settled = asyncio.run(carried(letter, composer, relay))
    assert settled.status is Status.SENT
    assert [each.recipients for each in relay.sent] == [(BORIS,)]
    found = results(settled)
    assert found[BORIS][0] is Verdict.ACCEPTED
    assert found[ANNA][0] is found[CAROL][0] is Verdict.REFUSED
    assert "news.html, line 1" in found[ANNA][1]


def test_a_letter_of_which_nobodys_message_can_be_made_is_an_error(shelf: Shelf) -> None:
    letter, relay = (
        taken({**KEYS, "Variables": {"share": 0, "name": "x"}, "Addresses": [ANNA, CAROL]}, shelf),
        FakeRelay(),
    )
    settled = asyncio.run(carried(letter, Composer(shelf), relay))
    assert settled.status is Status.ERROR
    assert relay.sent == []
    assert {each[0] for each in results(settled).values()} == {Verdict.REFUSED}


def test_a_retry_renders_for_those_alone_who_were_put_off(shelf: Shelf) -> None:
    answers = iter([Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="later")])
    accepted = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, text="ok")
    relay = FakeRelay(answer=lambda address: next(answers, accepted) if address == BORIS else accepted)
    composer = Composer(shelf)
    settled = asyncio.run(carried(taken(KEYS, shelf), composer, relay))
    assert settled.status is Status.SENT
    assert [each.recipients for each in relay.sent] == [(ANNA,), (BORIS,), (CAROL,), (BORIS,)]
    assert words(composer.made[1]) == words(composer.made[3])
    assert shelf.asked == 1


def test_while_the_store_is_away_it_is_put_off_and_no_attempt_is_counted(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailsender.sending.mail.UNREAD", 0.02)
    shelf.away = 3
    relay = FakeRelay()
    settled = asyncio.run(carried(taken(KEYS, shelf), Composer(shelf), relay))
    assert (settled.status, settled.attempts) == (Status.SENT, 1)
    assert len(relay.sent) == 3
    assert shelf.asked == 4


def test_one_whose_template_is_gone_is_an_error(shelf: Shelf) -> None:
    letter = taken(KEYS, shelf)
    shelf._pins.clear()
    settled = asyncio.run(carried(letter, Composer(shelf), FakeRelay()))
    assert settled.status is Status.ERROR
    assert all("no longer stored" in text for _, text in results(settled).values())
    assert len(results(settled)) == 3


def test_whoever_has_it_has_it_although_the_template_is_gone_for_the_others(shelf: Shelf) -> None:
    deferred = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="later")
    accepted = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, text="ok")
    composer = Composer(shelf)

    def answer(address: str) -> Result:
        if address != CAROL:
            return accepted
        shelf._pins.clear()
        composer._fillings = Pins(shelf)
        return deferred

    settled = asyncio.run(carried(taken(KEYS, shelf), composer, FakeRelay(answer=answer)))
    assert settled.status is Status.SENT
    assert [results(settled)[each][0] for each in (ANNA, BORIS, CAROL)] == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
        Verdict.REFUSED,
    ]


def test_thousands_that_cannot_be_rendered_leave_others_their_turn(shelf: Shelf) -> None:
    addresses = [f"a{number}@example.com" for number in range(2_000)]
    letter = taken({**KEYS, "Variables": {"share": 0, "name": "x"}, "Addresses": addresses}, shelf)
    turns = 0

    async def carry() -> Letter:
        nonlocal turns

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        settled = await carried(letter, Composer(shelf), FakeRelay())
        counting.cancel()
        return settled

    assert asyncio.run(carry()).status is Status.ERROR
    assert turns >= len(addresses)


def test_rendering_is_fast_enough(shelf: Shelf) -> None:
    """Some 14,000 a second on one core; 5,000 are wanted, and a machine under load may have less."""
    files = {
        "fast.subject": "{{ name }}, {{ count }} new",
        "fast.html": "<p>{{ name }}</p><p>{{ place }}</p><p>{{ count }}</p>"
        "<p>{{ link }}</p><p>{{ code }}</p>",
        "fast.txt": "{{ name }} {{ place }} {{ count }} {{ link }} {{ code }}",
    }
    asyncio.run(shelf.saved(files))
    letter = taken({"Template": "fast", "Personal": True, "Addresses": [ANNA]}, shelf)
    filling = asyncio.run(Composer(shelf).filling(letter))
    assert filling is not None
    own = {"name": "Anna", "place": "Köln", "count": 3, "link": "https://example.com/?a&b", "code": "123456"}
    begun = process_time()
    for number in range(1_000):
        assert filling.letter("", own, {"count": number}).html
    assert process_time() - begun < 1
