"""Letters that name a template through a whole replica in memory, with what is saved over HTTP."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from typing import Any

import pytest

from tests.unit.test_posting import Stage, running

pytestmark = pytest.mark.asyncio

WELCOME = {
    "welcome.subject": "Hello {{ name }}",
    "welcome.html": "<p>{{ 12 // share }}</p>",
    "welcome.txt": "{{ name }}: {{ 12 // share }}",
}
LETTER: dict[str, Any] = {
    "Template": "welcome",
    "Variables": {"name": "<Anna>", "share": 4},
    "Addresses": ["a@example.test"],
}
PERSONAL: dict[str, Any] = {
    **LETTER,
    "Personal": True,
    "Addresses": [
        "a@example.test",
        {"Address": "b@example.test", "Variables": {"share": 0, "name": "SECRET"}},
    ],
}


async def save(stage: Stage, files: dict[str, str]) -> None:
    status, _, text = await stage.client.ask("PUT", "/templates/welcome", data=json.dumps({"files": files}))
    assert status == 200, text


async def test_it_is_sent_as_if_it_had_brought_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        await save(stage, WELCOME)
        status, body = await stage.submit(LETTER)
        found = await stage.queue.get(body["id"])
    assert (status, body["status"]) == (200, "sent")
    assert found is not None
    assert (found.subject, found.body) == ("Hello <Anna>", "<p>3</p>")
    assert json.loads(found.mail) == {"TextBody": "<Anna>: 3"}
    report = next(
        json.loads(each.value or b"") for each in stage.topic.published if each.topic == "mts-to-profile"
    )
    assert (report["Subject"], report["Body"], report["Status"]) == ("Hello <Anna>", "<p>3</p>", "sent")


async def test_one_that_cannot_be_filled_in_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as stage:
        await save(stage, WELCOME)
        status, body = await stage.submit({**LETTER, "Variables": {"name": "x"}})
        assert stage.relay.sent == []
    assert status == 422
    assert "template welcome.html, line 1, variable share: it is missing" in body["detail"]


async def test_a_recipient_whose_message_cannot_be_made_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as stage:
        await save(stage, WELCOME)
        status, body = await stage.submit(PERSONAL)
        assert [each.recipients for each in stage.relay.sent] == [("a@example.test",)]
    assert (status, body["status"]) == (200, "sent")
    first, second = body["recipients"]
    assert (first["verdict"], second["verdict"]) == ("accepted", "refused")
    assert "welcome.html, line 1" in second["text"]
    assert "SECRET" not in json.dumps(body)


async def test_a_dry_run_shows_what_a_template_makes_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as stage:
        await save(stage, WELCOME)
        _, body = await stage.submit(LETTER, "dry_run=true")
        personal = {
            **PERSONAL,
            "Addresses": ["a@example.test", {"Address": "b@example.test", "Variables": {"share": 3}}],
        }
        _, each_his_own = await stage.submit(personal, "dry_run=true")
        for wrong in (PERSONAL, {**LETTER, "Variables": {}}, {**LETTER, "Template": "nosuch"}):
            _, told = await stage.submit(wrong, "dry_run=true")
            (fault,) = told["faults"]
            assert "template " in fault["text"]
            assert "SECRET" not in json.dumps(told)
        shelf: Any = stage.replica.parts.shelf
        assert shelf._pins == {}
        assert stage.topic.published == []
    made = message_from_bytes(body["shown"][0]["messages"][0]["text"].encode(), policy=policy.default)
    assert made["Subject"] == "Hello <Anna>"
    assert [part.get_content().strip() for part in made.walk() if not part.is_multipart()] == [
        "<Anna>: 3",
        "<p>3</p>",
    ]
    texts = [each["text"] for each in each_his_own["shown"][0]["messages"]]
    assert ["<Anna>: 3" in texts[0], "<Anna>: 4" in texts[1]] == [True, True]
