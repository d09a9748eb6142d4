"""Letters that name a template, from the in-topic to the queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.intake.batch import faults
from mailsender.intake.schema import Limits
from mailsender.intake.templates import Filler
from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import Letter, Status
from mailsender.templates.files import template_of
from mailsender.templates.library import Library
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.template import Template
from tests.fakes import record
from tests.unit.test_intake import Stage

WELCOME = {
    "welcome.subject": "Hello {{ name }}",
    "welcome.html": "<p>{{ name }} of {{ company }}</p>",
    "welcome.txt": "{{ name }} of {{ company }}",
    "welcome.ru.subject": "Привет {{ name }}",
    "welcome.ru.html": "<p>\n{{ nam }}</p>",
}
SHARED = {"company": "A&B", "name": "you"}


class FlakyShelf(MemoryShelf):
    """Fails as often as a test wants."""

    away = 0
    failure: Exception = Unavailable("MongoDB does not answer")

    async def find(self, name: str, version: str | None) -> Template | None:
        if self.away:
            self.away -= 1
            raise self.failure
        return await super().find(name, version)


class TemplateStage(Stage):
    """An intake that fills letters in."""

    def __init__(self, *fetches: Any, shelf: FlakyShelf | None = None, queue: Any = None) -> None:
        super().__init__(*fetches, queue=queue)
        self.shelf = shelf or FlakyShelf(self.clock)
        filler = Filler(Library(self.shelf), self.shelf, SHARED, most=100_000)
        self.intake._fill = filler.fill

    async def saved(self, files: Mapping[str, str] = WELCOME, name: str = "welcome") -> None:
        await self.shelf.put(template_of(name, files), files)


def batch(*letters: Mapping[str, Any]) -> bytes:
    return json.dumps([{"Addresses": ["a@b.test"], **each} for each in letters]).encode()


async def taken(*letters: Mapping[str, Any], files: Mapping[str, str] = WELCOME) -> list[Letter]:
    stage = TemplateStage([record(batch(*letters))])
    await stage.saved(files)
    await stage.run()
    return [await stage.letter(index=index) for index in range(len(letters))]


@pytest.mark.asyncio
async def test_a_letter_is_as_if_it_had_brought_what_its_template_makes() -> None:
    (one,) = await taken({"Template": "welcome", "Variables": {"name": "Tom & <b>Co</b>"}})
    assert one.status is Status.AWAITING
    assert one.subject == "Hello Tom & <b>Co</b>"
    assert one.body == "<p>Tom &amp; &lt;b&gt;Co&lt;/b&gt; of A&amp;B</p>"
    assert json.loads(one.mail) == {"TextBody": "Tom & <b>Co</b> of A&B"}


@pytest.mark.asyncio
async def test_a_template_without_a_text_leaves_a_letter_of_the_plainest_form() -> None:
    files = {"welcome.subject": "s", "welcome.html": "<p>"}
    (one, other) = await taken(
        {"Template": "welcome"}, {"Template": "welcome", "ReplyTo": "r@b.test"}, files=files
    )
    assert (one.subject, one.body, one.mail) == ("s", "<p>", "")
    assert json.loads(other.mail) == {"ReplyTo": ["r@b.test"]}


@pytest.mark.asyncio
async def test_a_text_alone_is_a_letter_without_a_body() -> None:
    (one,) = await taken(
        {"Template": "welcome"}, files={"welcome.subject": "s", "welcome.txt": "{{ company }}"}
    )
    assert (one.body, json.loads(one.mail)) == ("", {"TextBody": "A&B"})


@pytest.mark.asyncio
async def test_the_subject_that_it_brings_stands_in_place_of_the_templates() -> None:
    (one, other) = await taken(
        {"Template": "welcome", "Subject": "Mine"}, {"Template": "welcome", "Subject": ""}
    )
    assert (one.subject, other.subject) == ("Mine", "Hello you")


@pytest.mark.asyncio
async def test_the_letters_variables_win_over_those_of_all() -> None:
    (one,) = await taken({"Template": "welcome", "Variables": {"company": "C"}})
    assert one.body == "<p>you of C</p>"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"Template": "nosuch"}, "template nosuch: there is no such template"),
        ({"Template": "welcome@2"}, "template welcome@2: there is no such template"),
        (
            {"Template": "welcome", "Lang": "ru"},
            "template welcome.ru.html, line 2, variable nam: it is missing",
        ),
        (
            {"Template": "welcome", "Variables": {"name": "a\nb"}},
            "template welcome.subject: the subject holds",
        ),
        ({"Template": "welcome", "Variables": {"name": ["SECRET"]}}, "line 1: a list cannot be written out"),
    ],
)
async def test_an_error_is_that_letters_error_and_never_half_a_batch(
    keys: dict[str, Any], reason: str
) -> None:
    before, bad, after = await taken(
        {"Template": "welcome"}, {**keys, "Addresses": ["x@b.test"], "Token": 7}, {"Subject": "plain"}
    )
    assert (before.status, after.status) == (Status.AWAITING, Status.AWAITING)
    assert bad.status is Status.ERROR
    assert bad.reason.startswith("Template cannot be filled in: ")
    assert reason in bad.reason
    assert "SECRET" not in bad.reason
    assert (bad.addresses, bad.body, bad.mail) == (("x@b.test",), "", "")
    assert bad.answers[0].token == 7
    assert bad.finished_at is not None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"welcome.html": "x"}, "template welcome: it has no .subject source, and the letter has no Subject"),
        ({"welcome.subject": "x"}, "template welcome: it has neither an .html nor a .txt source"),
        (
            {"welcome.subject": "x", "welcome.html": "x" * 101},
            "it makes a body of 101 bytes; 100 are allowed",
        ),
        (
            {"welcome.subject": "x", "welcome.html": "{% include 'no.html' %}"},
            "welcome.html, line 1: there is no",
        ),
        (
            {"welcome.subject": "x", "welcome.html": "{% for i in range(10**9) %}{% endfor %}"},
            "welcome.html, line 1: it takes more than 200000 steps",
        ),
    ],
)
async def test_a_template_that_makes_no_letter(files: dict[str, str], reason: str) -> None:
    stage = TemplateStage([record(batch({"Template": "welcome"}))])
    stage.intake._fill = Filler(Library(stage.shelf), stage.shelf, {}, most=100).fill
    await stage.saved(files)
    await stage.run()
    bad = await stage.letter()
    assert bad.status is Status.ERROR
    assert reason in bad.reason


@pytest.mark.asyncio
async def test_the_same_letter_is_the_same_although_its_template_changed() -> None:
    own = {"Template": "welcome", "ID": "6b03f03e1c3fe5165a363fce"}
    stage = TemplateStage([record(batch(own))])
    await stage.saved()
    await stage.run()
    await stage.saved({**WELCOME, "welcome.subject": "another"})
    again = TemplateStage(
        [record(batch(own))], [record(batch(own), offset=1)], shelf=stage.shelf, queue=stage.queue
    )
    await again.run()
    state = again.intake.state
    assert (state.replays, state.joined, state.clashes, state.errors) == (1, 1, 0, 0)
    stored = await stage.queue.get("6b03f03e1c3fe5165a363fce")
    assert stored is not None
    assert stored.subject == "Hello you", "what was taken in first"
    assert len(stored.answers) == 2


@pytest.mark.asyncio
async def test_a_letter_without_an_id_is_the_same_when_it_is_read_again() -> None:
    stage = TemplateStage([record(batch({"Template": "welcome"}))])
    await stage.saved()
    await stage.run()
    await stage.saved({**WELCOME, "welcome.subject": "another"})
    again = TemplateStage([record(batch({"Template": "welcome"}))], shelf=stage.shelf, queue=stage.queue)
    with capture_logs() as events:
        await again.run()
    assert again.intake.state.replays == 1
    assert [each["event"] for each in events if each["log_level"] in {"warning", "error"}] == []


@pytest.mark.asyncio
async def test_other_variables_under_the_same_id_are_a_clash() -> None:
    own = {"Template": "welcome", "ID": "6b03f03e1c3fe5165a363fce"}
    other = {**own, "Variables": {"name": "x"}}
    stage = TemplateStage([record(batch(own)), record(batch(other), offset=1)])
    await stage.saved()
    await stage.run()
    assert stage.intake.state.clashes == 1
    twice = TemplateStage([record(batch(other), offset=1)], shelf=stage.shelf, queue=stage.queue)
    await twice.saved({**WELCOME, "welcome.subject": "another"})
    with capture_logs() as events:
        await twice.run()
    assert [each["event"] for each in events if each["event"] == "letter_id_collision"] == []


@pytest.mark.asyncio
async def test_while_the_store_is_away_intake_waits_and_fails_nothing() -> None:
    stage = TemplateStage([record(batch({"Subject": "plain"}, {"Template": "welcome"}))])
    await stage.saved()
    stage.shelf.away = 3
    with capture_logs() as events:
        await stage.run()
    assert (await stage.letter(index=1)).subject == "Hello you"
    assert [each["event"] for each in events if each["event"].startswith("intake_")] == [
        "intake_waits",
        "intake_goes_on",
    ]
    assert stage.source.commits == [{("in", 0): 1}]


@pytest.mark.asyncio
async def test_a_stop_while_the_store_is_away_commits_nothing_of_the_record() -> None:
    stage = TemplateStage([record(batch({"Template": "welcome"}))])
    stage.shelf.away = 1_000_000
    running = asyncio.create_task(stage.run())
    async with asyncio.timeout(10):
        while not stage.intake.state.status.startswith("waiting"):  # noqa: ASYNC110
            await asyncio.sleep(0)
    stage.stop.set()
    await running
    assert stage.source.commits == []
    assert stage.queue.inserts == []


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [Rejected("MongoDB refuses: error 2"), RuntimeError("SECRET")])
async def test_a_fault_of_the_store_ends_one_letter_and_not_the_topic(failure: Exception) -> None:
    stage = TemplateStage([record(batch({"Template": "welcome"}, {"Template": "welcome"}))])
    await stage.saved()
    stage.shelf.away, stage.shelf.failure = 1, failure
    await stage.run()
    bad, good = await stage.letter(), await stage.letter(index=1)
    assert (bad.status, good.status) == (Status.ERROR, Status.AWAITING)
    assert "SECRET" not in bad.reason


@pytest.mark.asyncio
async def test_a_letter_that_only_speaks_of_templates_stays_as_it_is() -> None:
    (one,) = await taken({"TextBody": 'the key "Template": is new', "ReplyTo": "r@b.test"})
    assert json.loads(one.mail)["TextBody"] == 'the key "Template": is new'


@pytest.mark.asyncio
async def test_a_personal_letter_keeps_what_it_is_made_from() -> None:
    (one,) = await taken(
        {
            "Template": "welcome",
            "Personal": True,
            "Variables": {"x": 1},
            "Addresses": [{"Address": "a@b.test", "Name": "A", "Variables": {"name": "Anna"}}, "b@b.test"],
        }
    )
    assert (one.status, one.addresses) == (Status.AWAITING, ("a@b.test", "b@b.test"))
    keys = json.loads(one.mail)
    assert keys.pop("Pin")
    assert keys == {
        "Template": "welcome@1",
        "Personal": True,
        "Variables": {"x": 1},
        "Names": {"a@b.test": "A"},
        "VariablesOf": {"a@b.test": {"name": "Anna"}},
    }


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"Template": 7}, "Template"),
        ({"Template": "a/b"}, "Template"),
        ({"Template": "a@"}, "Template"),
        ({"Template": "x" * 500}, "Template"),
        ({"Template": "a", "Body": "<p>"}, "Body"),
        ({"Template": "a", "TextBody": "x"}, "TextBody"),
        ({"Template": "a", "Variables": [1]}, "Variables"),
        ({"Template": "a", "Variables": {"a": [1] * 10_001}}, "Variables"),
        ({"Template": "a", "Variables": {"a": "x" * 600_000}}, "Variables"),
        ({"Template": "a", "Variables": {"a": "\ud800"}}, "Variables"),
        ({"Template": "a", "Variables": {"a": float("inf")}}, "Variables"),
        ({"Template": "a", "Lang": "../ru"}, "Lang"),
        ({"Template": "a", "Lang": 7}, "Lang"),
        ({"Variables": {"a": 1}}, "Variables"),
        ({"Lang": "ru"}, "Lang"),
        ({"Template": "a", "Addresses": [{"Address": "a@b.test", "Variables": {"a": 1}}]}, "Addresses"),
        ({"Personal": True, "Addresses": [{"Address": "a@b.test", "Variables": {"a": 1}}]}, "Addresses"),
        (
            {"Template": "a", "Personal": True, "Addresses": [{"Address": "a@b.test", "Variables": 7}]},
            "Addresses[0].Variables",
        ),
        ({"Template": "a", "Addresses": [{"Address": "a@b.test", "Lang": "ru"}]}, "Addresses[0]"),
    ],
)
def test_keys_that_say_nothing_are_told(keys: dict[str, Any], field: str) -> None:
    (fault,) = faults([{"Addresses": ["a@b.test"], **keys}], Limits())
    assert fault.field == field


@pytest.mark.parametrize(
    "keys",
    [
        {"Template": "a", "Body": None, "TextBody": None, "Variables": None, "Lang": None},
        {"Template": "a@1.0-x", "Variables": {"a": {"b": [1, None, True, 10**40]}}, "Lang": "pt_BR"},
        {"template": "a", "variables": {}, "body": ""},
        {"Template": "", "Variables": [], "Lang": "", "TextBody": ""},
        {"Template": None, "Variables": None, "Lang": None, "Pin": "x", "VariablesOf": 7},
    ],
)
def test_keys_that_are_taken(keys: dict[str, Any]) -> None:
    assert faults([{"Addresses": ["a@b.test"], **keys}], Limits()) == []


def test_nobody_can_publish_a_pin() -> None:
    from mailsender.intake.batch import read_letter
    from tests.unit.test_mail import NOW, ORIGIN

    element = {"Addresses": ["a@b.test"], "Template": "a", "Pin": "x", "VariablesOf": {}, "Personal": True}
    letter = read_letter(element, ORIGIN, None, Limits(), now=NOW)
    assert json.loads(letter.mail) == {"Template": "a", "Personal": True}
    assert letter.digest, "what was published, whatever becomes of it"


@pytest.mark.asyncio
async def test_while_a_record_takes_minutes_it_stays_in_the_group() -> None:
    """Without it another member would begin the same record, and be put out just the same, for ever."""
    stage = TemplateStage([record(batch(*[{"Template": "welcome"}] * 20))])
    await stage.saved()
    fill = stage.intake._fill
    assert fill is not None

    async def slow(letter: Letter, now: datetime) -> Letter:
        stage.clock.forward(20.0)
        return await fill(letter, now)

    stage.intake._fill = slow
    await stage.run()
    assert stage.source.calls.count("idle") >= 400 // 60
    assert {(await stage.letter(index=index)).status for index in range(20)} == {Status.AWAITING}
