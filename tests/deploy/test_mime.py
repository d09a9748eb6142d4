"""Messages of every kind, read by a second reader in another language: Go's standard library.

The first one is Python's, in the unit tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lab.parts import met, missing
from mailsender.message.headers import Head, Mailbox
from mailsender.message.mime import NeedsSmtputf8
from mailsender.message.parts import Attachment, Base64, Calendar, Content
from mailsender.model.address import parse_address
from tests.messages import MEANT, Meant

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

READER = Path(__file__).parent / "mime_reader"
DRAWN = 500

TEXTS = [None, "", "Hello\n", "Привет\n", "x" * 2000]
FILES = [
    Attachment(name="Счёт №1.pdf", content_type="application/pdf", content=Base64.of([b"%PDF\0\xff" * 500])),
    Attachment(
        name="a.png", content_type="image/png", content=Base64.of([b"p"]), inline=True, content_id="a"
    ),
    Attachment(name="", content_type="text/csv; charset=utf-8", content=Base64.of([])),
]
INVITATION = Calendar("BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Встреча\r\nEND:VCALENDAR\r\n", "REQUEST")
HEAD = Head(author=Mailbox("Почта", parse_address("news@example.org")), subject="Тема")


def combined() -> Iterator[Meant]:
    """Every combination of parts, for a session of either kind."""
    files = [
        tuple(each for each, there in zip(FILES, bits, strict=True) if there)
        for bits in product((0, 1), repeat=3)
    ]
    for text, html, calendar, attached, eight_bit in product(
        TEXTS, TEXTS, [None, INVITATION], files, (True, False)
    ):
        content = Content(html=html, text=text, calendar=calendar, attachments=attached)
        yield Meant(head=HEAD, content=content, eight_bit=eight_bit, smtputf8=False)


def drawn() -> list[Meant]:
    """Some of all that can be meant."""
    found: list[Meant] = []

    @settings(
        max_examples=DRAWN,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(MEANT)
    def draw(meant: Meant) -> None:
        found.append(meant)

    draw()
    return found


def said_of(messages: list[bytes], directory: Path) -> list[dict[str, Any]]:
    """What the reader finds in each."""
    if shutil.which("go") is None:
        missing("there is no go, with which the second reader of messages is built")
    shutil.copytree(READER, directory / "reader")
    done = subprocess.run(
        ["go", "run", "."],
        cwd=directory / "reader",
        input="".join(f"{json.dumps({'message': b64encode(each).decode()})}\n" for each in messages),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    met["second reader of messages"] = "Go's standard library"
    # Not `splitlines`: that cuts at U+2028, which JSON may hold as it is.
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def expected(meant: Meant) -> dict[str, Any]:
    """What is meant, in the words of the reader."""
    found = meant.as_json()
    sender = found["sender"]
    found |= {"from": [found["from"]], "sender": [sender] if sender else []}
    found["date"] = found["date"].replace("+00:00", "Z")
    for key in ("from", "sender", "reply_to", "to", "cc"):
        found[key] = [{**each, "address": _unquoted(each["address"])} for each in found[key]]
    return found


def _unquoted(address: str) -> str:
    """An address as the reader has it, whose local part it takes out of its quotes."""
    local, _, domain = address.rpartition("@")
    return f"{local[1:-1] if local.startswith(chr(34)) else local}@{domain}"


def test_a_second_reader_finds_what_was_meant(tmp_path: Path) -> None:
    several, messages = [], []
    for meant in [*combined(), *drawn()]:
        try:
            messages.append(b"".join(meant.composed().pieces()))
        except NeedsSmtputf8:
            continue
        several.append(meant)
    assert len(several) > 2 * DRAWN / 3
    for meant, message, found in zip(several, messages, said_of(messages, tmp_path), strict=True):
        wanted = expected(meant)
        assert "wrong" not in found, (found, message)
        headers, unsubscribe = found.pop("headers"), found.pop("unsubscribe")
        for name, value in wanted.pop("headers"):
            assert value in headers["-".join(map(str.capitalize, name.split("-")))], (name, message)
        url = wanted.pop("unsubscribe")
        assert not url or f"<{url}>" in unsubscribe, message
        assert found == wanted, message
