"""The judges of bad input: what hypothesis finds, and that each of them can find something."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.message.compose import Composer
from mailsender.model.letter import Letter, Phase, Result, Verdict
from mailsender.smtp import protocol
from mailsender.smtp.protocol import Dialogue
from mailsender.smtp.replies import Kind, Reply, ReplyParser
from mailsender.smtp.transaction import End, Transaction
from proof.fuzz import dialogue, sockets, targets
from proof.fuzz.volume import TARGETS, one_slice

MANY = settings(max_examples=500, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["Subject", "Body", "Addresses", "Token", "ID", "addresses", "Headers"])
ELEMENT = st.dictionaries(NAMES, JSON | st.lists(st.text(max_size=30), max_size=3), max_size=6)


@MANY
@given(st.binary(max_size=200))
def test_any_octets_are_a_record(raw: bytes) -> None:
    targets.judge_record(raw)


@MANY
@given(st.lists(ELEMENT, max_size=3))
def test_any_json_is_a_record(elements: list[Mapping[str, Any]]) -> None:
    targets.judge_record(json.dumps(elements).encode())


@MANY
@given(st.text(), st.text())
def test_any_text_is_a_message(subject: str, body: str) -> None:
    targets.judge_message(Letter(id="0" * 24, addresses=("a@b.c",), subject=subject, body=body))


@MANY
@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([b"250 ", b"250-", b"\r\n", b"2.1.0 x"]), max_size=8)
)
def test_any_octets_are_replies(pieces: list[bytes]) -> None:
    targets.judge_replies(pieces)


@MANY
@given(st.binary(max_size=80))
def test_a_relay_may_say_anything(moves: bytes) -> None:
    dialogue.judge_dialogue(moves)


# --- each judge finds what is planted ------------------------------------------------------------


def finds(name: str, count: int = 400) -> list[str]:
    return one_slice(name, 1, count)[0]


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_planted(name: str) -> None:
    found, came = one_slice(name, 1, 400)
    assert found == []
    assert len(came) > 1, "all inputs ended alike, so they show little"


def test_a_decoder_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(raw: bytes) -> list[dict[str, Any]]:
        return list(json.loads(raw))

    monkeypatch.setattr(targets, "decode", decode)
    assert finds("records")


class Injecting(Composer):
    """Adds what a subject with a line break would add."""

    def compose(self, letter: Letter, **options: Any) -> bytes:
        message = super().compose(letter, **options)
        return (
            message.replace(b"Subject:", b"Bcc: evil@example.test\r\nSubject:")
            if "@" in letter.body
            else message
        )


class LosingDots(Composer):
    def compose(self, letter: Letter, **options: Any) -> bytes:
        return super().compose(dataclasses.replace(letter, body=letter.body.replace("..", ".")), **options)


@pytest.mark.parametrize("kind", [Injecting, LosingDots])
def test_a_composer_that_changes_the_letter(monkeypatch: pytest.MonkeyPatch, kind: type[Composer]) -> None:
    monkeypatch.setattr(targets, "COMPOSER", kind("", "news@sender.test"))
    assert finds("messages")


def test_messages_with_bare_line_feeds_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(Composer):
        def compose(self, letter: Letter, **options: Any) -> bytes:
            return super().compose(letter, **options) + b"a\nb\r\n"

    monkeypatch.setattr(sockets, "COMPOSER", Bare("", "news@sender.test"))
    assert any("bare CR or LF" in each for each in finds("wire"))


def test_a_parser_that_depends_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(ReplyParser):
        def feed(self, data: bytes) -> Iterator[Reply]:
            self._lines = []
            return super().feed(data)

    monkeypatch.setattr(targets, "ReplyParser", Forgetful)
    assert finds("replies")


class Hasty(Dialogue):
    """Sends ahead what nobody offered to take."""

    pipelining = True


class Hopeful(Dialogue):
    """Takes a relay that cannot now for one that could."""

    def _take(self, reply: Reply) -> None:
        if self._owed and self._owed[0][0] is Phase.DOT and reply.kind is Kind.TRANSIENT:
            reply = Reply(code=250, enhanced=None, text="")
        super()._take(reply)


class Final(Dialogue):
    """Takes a relay that cannot now for one that never will."""

    def _take(self, reply: Reply) -> None:
        if self._owed and self._owed[0][0] is Phase.RCPT and reply.kind is Kind.TRANSIENT:
            reply = Reply(code=550, enhanced=None, text="")
        super()._take(reply)


def lost_for_good(self: Transaction, end: End) -> None:
    """Takes a connection that ends for a refusal."""
    del end
    self._settle_rest(Result(verdict=Verdict.REFUSED, phase=self.phase, text="the connection was lost"))


def test_a_connection_that_ends_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transaction, "lost", lost_for_good)
    assert finds("dialogue", 3000)


class Wordy(Dialogue):
    """Speaks of the next letter when the one before it is only announced."""

    def _begin_next(self) -> None:
        super()._begin_next()
        if self._queue and self._front is not None and self.pipelining:
            front, self._front = self._front, None
            super()._begin_next()
            self._front = front


class Forgetting(Dialogue):
    """Leaves those waiting who had not begun."""

    def _dismiss(self) -> None:
        self._queue.clear()


@pytest.mark.parametrize("kind", [Hasty, Hopeful, Final, Wordy, Forgetting])
def test_a_dialogue_that_breaks_a_promise(monkeypatch: pytest.MonkeyPatch, kind: type[Dialogue]) -> None:
    monkeypatch.setattr(dialogue, "Dialogue", kind)
    assert finds("dialogue", 3000)


def test_a_message_that_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "on_the_wire", lambda message, start, end: message[start:end])
    assert finds("dialogue")


def test_settings_that_tell_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def load() -> None:
        raise targets.SettingsError(f"SMTP_PASSWORD: {os.environ.get('SMTP_PASSWORD')} is wrong")

    monkeypatch.setattr(targets, "load", load)
    assert finds("settings")


def test_a_service_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def post(_self: object, body: bytes, key: str = "") -> None:
        json.loads(body)["no such thing"]

    monkeypatch.setattr(sockets.ReplicaOperations, "post", post)
    assert finds("http", 20)
