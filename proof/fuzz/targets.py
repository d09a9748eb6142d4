"""What is held against the service's pure parts, input by input. A judge raises AssertionError."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from functools import lru_cache
from random import Random
from typing import Any
from unittest import mock

import bson

from mailsender.intake.batch import NotABatch, decode, read_letter
from mailsender.intake.schema import Limits
from mailsender.message.compose import BadBody, BadHeader, Composer
from mailsender.model.letter import Letter, Origin, Status
from mailsender.model.text import MAX_TEXT
from mailsender.queue.mongo.documents import Unstorable, document_of
from mailsender.reports.report import report_bytes
from mailsender.settings.environment import load
from mailsender.settings.sources import SettingsError
from mailsender.smtp.replies import ReplyError, ReplyParser
from proof.fuzz import chance as nasty
from proof.strict import message_faults

KNOWN = "known:"
"""Begins the word for an input that shows only a fault which is known, see `tests/proof/test_findings.py`."""

NOW = datetime(2026, 3, 1, 9, 8, 7, tzinfo=UTC)
ORIGIN = Origin(topic="t", partition=0, offset=1, index=0, timestamp=1_700_000_000_000)
LIMITS = Limits(body=4000, addresses=3)
COMPOSER = Composer("Почта", "news@sender.test")

Judge = Callable[[Any], str]
"""Raises AssertionError; else says in a word how far the input came, so that nobody is fooled by inputs that
all fail at the first check."""


def letters_of(raw: bytes) -> list[Letter]:
    """The letters of a record, empty where it is no batch."""
    try:
        elements = decode(raw)
    except NotABatch:
        return []
    return [read_letter(element, ORIGIN, b"\xffkey", LIMITS, now=NOW) for element in elements]


def judge_record(raw: bytes) -> str:
    """Any octets: no batch, or letters that can be stored, and answered where they are final."""
    letters = letters_of(raw)
    for letter in letters:
        assert letter.status in {Status.AWAITING, Status.ERROR}, letter
        assert re.fullmatch(r"[0-9a-f]{24}", letter.id), letter.id
        assert (letter.status is Status.ERROR) == bool(letter.reason), letter
        assert letter.status is Status.ERROR or letter.pending, letter
        try:
            document, _ = document_of(letter, NOW)
        except Unstorable:
            continue
        bson.encode(document)
        if letter.status is Status.ERROR:
            told = json.loads(report_bytes(letter, letter.answers[0], with_body=True, limit=10**6))
            assert told["Status"] == "error"
            assert told["Reason"]["Text"]
    if not letters:
        return "no letters"
    return "good letters" if any(each.status is Status.AWAITING for each in letters) else "bad letters"


def judge_message(letter: Letter) -> str:
    """A good letter becomes one message that reads back as it was meant, whatever its text holds."""
    for eight_bit in (True, False):
        try:
            message = COMPOSER.compose(letter, eight_bit=eight_bit, date=NOW)
        except (BadHeader, BadBody):
            return "no message"
        assert message_faults(message.replace(b"\r\n.", b"\r\n.."), eight_bit=eight_bit) == []
        read = message_from_bytes(message, policy=_READING)
        assert isinstance(read, EmailMessage)
        assert not read.defects, read.defects
        assert sorted(name.lower() for name in read) == sorted(_HEADERS), read.items()
        assert _spaces(str(read["Subject"])) == _spaces(letter.subject)
        body = read.get_payload(decode=True)
        assert isinstance(body, bytes)
        assert _lines(body.decode()) == _lines(letter.body)
    return "read back"


_READING = policy.default.clone(header_factory=lru_cache(256)(HeaderRegistry()))
"""The library parses a header anew each time it is looked at, and most are the same in all messages."""

_HEADERS = (
    *("date", "from", "to", "subject", "message-id", "mime-version", "content-type"),
    "content-transfer-encoding",
)


def _spaces(text: str) -> str:
    """The library that reads back folds runs of spaces in its own way, and drops those at the ends."""
    return " ".join(text.split())


def _lines(text: str) -> list[str]:
    lines = re.sub(r"\r\n?", "\n", text).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def judge_replies(pieces: list[bytes]) -> str:
    """Any octets in any pieces: the same replies as in one piece, or `ReplyError`."""
    whole, piecewise = _replies([b"".join(pieces)]), _replies(pieces)
    assert whole == piecewise
    for code, _, text in whole[0]:
        assert 200 <= code <= 599
        assert len(text) <= MAX_TEXT
        assert text.isprintable()
    return "replies" if whole[0] else "none"


def _replies(pieces: list[bytes]) -> tuple[list[tuple[int, str | None, str]], bool]:
    parser = ReplyParser()
    found: list[tuple[int, str | None, str]] = []
    try:
        for piece in pieces:
            found.extend((reply.code, reply.enhanced, reply.text) for reply in parser.feed(piece))
    except ReplyError:
        return found, True
    return found, False


REQUIRED = {
    "SMTP_HOST": "relay.test",
    "SMTP_FROM": "a@b.test",
    "KAFKA_BROKERS": "k:9092",
    "MONGODB_URI": "mongodb://m/",
}
SECRETS = ("SMTP_PASSWORD", "HTTP_API_KEY", "MONGODB_PASSWORD", "KAFKA_SASL_PASSWORD")


@contextmanager
def settings_judge() -> Iterator[Judge]:
    """A judge of whole environments, with nothing of the machine's in them."""
    with mock.patch.dict(os.environ, clear=True):
        yield _judge_settings


def _judge_settings(environment: dict[str, str]) -> str:
    """Any environment: settings, or one line that names what is wrong and holds no secret."""
    os.environ.update(environment)
    try:
        found = load()
    except SettingsError as error:
        text = str(error)
        assert text
        assert nasty.CANARY not in text, text
        assert text.isprintable(), text
        return "refused"
    finally:
        os.environ.clear()
    assert nasty.CANARY not in repr(found)
    return "taken"


# --- makers ------------------------------------------------------------------------------------------


def make_letter(chance: Random) -> Letter:
    """A letter as intake would make it, though with text that intake might refuse."""
    return Letter(
        id="6b03f03e1c3fe5165a363fce",
        addresses=("secret@to.example.test",),
        subject=nasty.line(chance),
        body=nasty.text(chance, 30),
    )


def make_pieces(chance: Random) -> list[bytes]:
    """A relay's words in any pieces."""
    raw = nasty.replies(chance)
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randint(0, 6)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def make_environment(chance: Random) -> dict[str, str]:
    """Known names with nasty values; secrets hold the canary."""
    names = [name.upper() for name in _setting_names()]
    made = dict(REQUIRED)
    for name in chance.sample(names, chance.randint(0, 5)):
        made[name] = chance.choice((nasty.text(chance, 3), *_PLAUSIBLE))
    for name in chance.sample(SECRETS, 2):
        made[name] = nasty.CANARY
    for name in chance.sample(list(made), chance.choice((0, 0, 0, 1))):
        del made[name]
    if chance.random() < 0.2:
        made["MONGODB_URI"] = f"mongodb://user:{nasty.CANARY}@{nasty.text(chance, 2)}/"
    made.pop("MAILSENDER_SECRETS_DIR", None)  # a place of the machine's, not input
    # The system itself cannot carry a NUL, nor what is no octet.
    return {name: _environ(text) for name, text in made.items()}


_PLAUSIBLE = ("0", "1", "-1", "5s", "1m30s", "1e3", "true", "none", "465", "inf", "nan", "9" * 400, "5 s")


def _environ(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _setting_names() -> list[str]:
    from mailsender.settings.environment import Settings

    return sorted(Settings.model_fields)


@contextmanager
def plain(judge: Judge) -> Iterator[Judge]:
    """A judge that needs nothing around it."""
    yield judge
