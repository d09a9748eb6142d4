"""Signed letters as they arrive behind real relays, aiosmtpd and Postfix, judged by another program."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.parts import met, missing, wait_until
from lab.postfix import Postfix
from lab.world import World, letter
from mailsender.dev.catcher import Catcher
from mailsender.dev.process import PartMissing
from tests.signing import ED25519, RSA, both, key, pem, signatures, verified, written

LETTERS: list[dict[str, Any]] = [
    letter(1),
    letter(2, Body="<p>Привет,  мир</p> \r\n.\r\n..точки\n" + "ж" * 2000),
    letter(3, Body=""),
    letter(4, Subject="Очень длинная тема " * 20, Body="line with  spaces \t\n" * 2000),
    letter(
        5,
        From="Отдел <billing@shop.example.test>",
        To=["Анна <anna@example.test>"],
        TextBody="Здравствуйте\n.\n",
        Attachments=[{"Name": "Счёт.pdf", "Content": b64encode(bytes(range(256)) * 600).decode()}],
        ListUnsubscribe={"URL": "https://example.test/u/1", "Mail": "leave@example.test"},
        Headers={"X-Campaign": "spring  sale"},
    ),
    letter(6, "one@example.test", "two@example.test", Personal=True),
]
MESSAGES = len(LETTERS) + 1


@pytest.fixture(params=["aiosmtpd", "postfix"])
def relay(request: pytest.FixtureRequest, catcher: Catcher, tmp_path: Path) -> Iterator[int]:
    """The port of a relay behind which everything comes to the catcher."""
    if request.param == "aiosmtpd":
        yield catcher.port
        return
    postfix = Postfix(tmp_path / "postfix", catcher.port)
    try:
        postfix.start()
    except PartMissing as error:
        missing(str(error))
    met["relay of signed letters"] = f"Postfix {postfix.version}"
    try:
        yield postfix.port
    finally:
        postfix.stop()


def test_each_signature_is_good_where_the_letter_arrives(
    world: World, catcher: Catcher, relay: int, tmp_path: Path
) -> None:
    world.smtp_port = relay
    world.settings = {
        "DKIM_KEYS": written(tmp_path, ("example.test", "rsa", RSA), ("example.test", "ed", ED25519)),
        "SMTP_FROM_ALLOWED": "example.test, shop.example.test",
    }
    service = world.started()
    world.publish([LETTERS])
    arrived = [catcher.raw(message["id"]) for message in catcher.wait_for(MESSAGES)]
    world.wait_reports(len(LETTERS))
    for message in arrived:
        assert [each["d"] for each in signatures(message)] == ["example.test", "example.test"]
        assert verified(message, both("example.test")) == [True, True], message
    assert not service.events("letter_raised")
    private = [line for line in written_keys(tmp_path) if "-" not in line]
    log = service.child.log.read_text()
    assert private
    assert not any(line in log for line in private)


def written_keys(directory: Path) -> Iterator[str]:
    """The lines of all files of keys."""
    for path in directory.glob("*.pem"):
        yield from path.read_text().splitlines()


def test_a_service_does_not_start_with_a_key_that_cannot_sign(world: World, tmp_path: Path) -> None:
    path = tmp_path / "bad.pem"
    path.write_bytes(pem(ED25519)[:60])
    service = world.replica(DKIM_KEYS=f"example.test:s1:{path}")
    service.start()
    assert service.wait_exit() == 2
    (event,) = service.events("cannot_start")
    assert event["error"].startswith("DKIM_KEYS: example.test:s1: it is no private key")


def test_the_parts_of_a_large_letter_are_signed_alike(world: World, catcher: Catcher, tmp_path: Path) -> None:
    world.settings = {
        "DKIM_KEYS": written(tmp_path, ("example.test", "rsa", RSA)),
        "SMTP_MAX_RECIPIENTS": "10",
    }
    world.started()
    world.publish([[letter(1, *(f"r{number}@example.test" for number in range(50)))]])
    arrived = [catcher.raw(message["id"]) for message in catcher.wait_for(5)]
    for message in arrived:
        assert verified(message, [key("example.test", "rsa", RSA)]) == [True]
    by_date: dict[str, set[str]] = {}
    for message in arrived:
        (tags,) = signatures(message)
        by_date.setdefault(tags["t"], set()).add(tags["b"])
    assert all(len(each) == 1 for each in by_date.values())
    wait_until(lambda: world.unreported() == 0, "its report is acknowledged", 30)
