"""The relay of the experiments is itself strict, scripted, and honest in its ledger."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest

from lab.parts import Certificates, running
from proof.checker import check
from proof.history import Break, History
from proof.relay import LedgerRelay
from proof.smtp_server import places

MESSAGE = b"Subject: [letter 1]\r\nMessage-ID: <1@example.test>\r\n\r\nhello\r\n"


@contextlib.contextmanager
def relay(tmp_path: Path, plan: Mapping[str, Any] | None = None, **more: Any) -> Iterator[LedgerRelay]:
    with running(LedgerRelay(tmp_path / "relay", plan, **more)) as made:
        yield made


class Raw:
    """A client that sends what it is told, in one write."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self._socket.makefile("rb")
        self.reply()
        self.say(b"EHLO client.example.test\r\n")

    def reply(self) -> str:
        while line := self._file.readline():
            if line[3:4] != b"-":
                return line.decode("latin-1").rstrip("\r\n")
        return ""

    def say(self, octets: bytes, replies: int = 1) -> list[str]:
        self._socket.sendall(octets)
        return [self.reply() for _ in range(replies)]

    def begin(self) -> None:
        self.say(b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@to.example.test>\r\n", 2)
        assert self.say(b"DATA\r\n") == ["354 Go ahead"]

    def end_rudely(self) -> None:
        """Let the socket's end be a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()


def test_a_good_message_stands_in_the_ledger(tmp_path: Path) -> None:
    with relay(tmp_path) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        client.sendmail("a@example.test", ["b@to.example.test", "c@to.example.test"], MESSAGE)
        client.sendmail("a@example.test", ["d@to.example.test"], MESSAGE + b".\r\n..\r\n")
        found = server.read()
    first, second = found.acceptances
    assert first.mark == "letter 1"
    assert first.message_id == "<1@example.test>"
    assert first.recipients == ("b@to.example.test", "c@to.example.test")
    assert first.mail_at <= first.at
    assert first.leaked == ()
    assert second.size == len(MESSAGE) + len(b".\r\n..\r\n"), "dots are taken off"
    assert len(found.mails) == 2
    assert found.violations == ()


def test_quotes_say_nothing_of_a_mailbox(tmp_path: Path) -> None:
    to = b'RCPT TO:<"a..b"@to.example.test>\r\nRCPT TO:<"a\\"b"@to.example.test>\r\n'
    with relay(tmp_path) as server, Raw(server.port) as client:
        client.say(b"MAIL FROM:<a@example.test>\r\n" + to, 3)
        client.say(b"DATA\r\n")
        assert client.say(MESSAGE + b".\r\n") == ["250 2.0.0 Taken"]
        [taken] = server.read().acceptances
    assert taken.recipients == ("a..b@to.example.test", 'a"b@to.example.test')


def test_commands_in_one_packet(tmp_path: Path) -> None:
    group = b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@to.example.test>\r\nDATA\r\n"
    with relay(tmp_path) as server, Raw(server.port) as client:
        client.say(group, 3)
        assert client.say(MESSAGE + b".\r\n" + group, 4)[-1].startswith("354")
        assert client.say(MESSAGE + b".\r\n") == ["250 2.0.0 Taken"]
        found = server.read()
    assert len(found.acceptances) == 2
    assert found.violations == ()


def test_what_is_read_of_a_client_that_is_gone(tmp_path: Path) -> None:
    group = b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@to.example.test>\r\nDATA\r\n"
    stall = {"phase": "DOT", "nth": 1, "do": "stall", "seconds": 0.5}
    with relay(tmp_path, {"script": [stall]}) as server:
        with Raw(server.port) as client:
            client.say(group, 3)
            client.say(MESSAGE + b".\r\n" + group, 0)
            server.wait_for(1)
        gone = time.monotonic()
        server.wait_for(2, "mails")
        left = server.read()
        assert left.mails[1] > gone, "it was written ahead, and is read when the stall is over"
        assert left.live_mails == left.mails[:1]
        assert check(History(live_mails=left.live_mails, stops=(Break(what="x", start=gone, end=inf),))).good
        with Raw(server.port) as another:
            another.begin()
            found = server.read()
    assert found.live_mails == (found.mails[0], found.mails[2])
    judged = check(History(live_mails=found.live_mails, stops=(Break(what="x", start=gone, end=inf),)))
    assert judged.kinds() == {"begun after the end": 1}, "that one was begun when nobody should be there"


@pytest.mark.parametrize("tidily", [False, True])
def test_a_process_that_ended_has_no_session(tmp_path: Path, tidily: bool) -> None:
    with relay(tmp_path) as server:
        with Raw(server.port) as client:
            client.begin()
            assert server.living() == 1
            if not tidily:
                client.end_rudely()
        assert server.living() == 0


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r"])
def test_only_crlf_dot_crlf_ends_a_message(tmp_path: Path, end: bytes) -> None:
    smuggled = b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<e@to.example.test>\r\nDATA\r\n"
    with relay(tmp_path) as server, Raw(server.port) as client:
        client.begin()
        assert client.say(b"Subject: [one]\r\n\r\nx" + end + smuggled + b"y\r\n.\r\n") == ["250 2.0.0 Taken"]
        found = server.read()
    assert [each.recipients for each in found.acceptances] == [("b@to.example.test",)]
    assert any("bare CR or LF" in fault for fault in found.violations)


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"MAIL FROM:<a@example.test>\nRCPT TO:<b@c.test>\r\n", "bare CR or LF"),
        (b"MAIL FROM:a@example.test\r\n", "no MAIL of RFC 5321"),
        (b"MAIL FROM: <a@example.test>\r\n", "no MAIL of RFC 5321"),
        (b"MAIL FROM:<a b@example.test>\r\n", "no MAIL of RFC 5321"),
        (b"MAIL FROM:<a@example.test> AUTH=<>\r\n", "parameters that were not offered"),
        (b"VRFY someone\r\n", "unknown command"),
        (b"NOOP " + b"x" * 600 + b"\r\n", "a command of"),
        (b"NOOP \x01\r\n", "control character"),
    ],
)
def test_breaches_are_noted(tmp_path: Path, octets: bytes, fault: str) -> None:
    with relay(tmp_path) as server, Raw(server.port) as client:
        client.say(octets)
        violations = server.read().violations
    assert len(violations) == 1
    assert fault in violations[0]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"x" * 1001 + b"\r\n", "a line of more than 1000"),
        ("Тема\r\n".encode(), "8-bit octets without"),
        (b"a\0b\r\n", "a NUL"),
        (b"a\r\n.b\r\n", "begins with one dot"),
    ],
)
def test_breaches_in_a_message_are_noted(tmp_path: Path, message: bytes, fault: str) -> None:
    with relay(tmp_path) as server, Raw(server.port) as client:
        client.begin()
        client.say(MESSAGE + message + b".\r\n")
        violations = server.read().violations
    assert len(violations) == 1
    assert fault in violations[0]


def test_speaking_before_the_reply_without_pipelining(tmp_path: Path) -> None:
    with relay(tmp_path, {"offers": {"pipelining": False}}) as server, Raw(server.port) as client:
        client.say(b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@to.example.test>\r\n", 2)
        assert "behind MAIL" in server.read().violations[0]


def test_a_blind_copy_that_is_not_blind(tmp_path: Path) -> None:
    encoded = (
        b"Content-Transfer-Encoding: base64\r\n\r\nb3RoZXJAdG8uZXhhbXBsZS50ZXN0\r\n"  # other@to.example.test
    )
    with relay(tmp_path) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        client.sendmail(
            "a@example.test", ["b@example.test"], b"Subject: [1]\r\nTo: b@example.test\r\n\r\nx\r\n"
        )
        client.sendmail("a@example.test", ["b@example.test"], b"Subject: [2]\r\n" + encoded)
        leaks = [each.leaked for each in server.read().acceptances]
    assert leaks == [("b@example.test",), ("other@to.example.test",)]


def test_tls_and_auth(tmp_path: Path, certificates: Certificates) -> None:
    plan = {"offers": {"tls": "starttls", "auth": True}}
    files = {"cert": certificates.cert, "key": certificates.key}
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    with relay(tmp_path, plan, **files) as server, smtplib.SMTP("localhost", server.port) as client:
        client.starttls(context=trust)
        client.login("user", "secret")
        client.sendmail("a@example.test", ["b@to.example.test"], MESSAGE)
        found = server.read()
    assert len(found.acceptances) == 1
    assert found.violations == ()
    assert b"secret" not in server.ledger.read_bytes()


@pytest.mark.parametrize("accept", [False, True])
def test_a_reset_at_the_dot_with_and_without_acceptance(tmp_path: Path, accept: bool) -> None:
    plan = {"script": [{"phase": "DOT", "nth": 1, "do": "reset", "accept": accept}]}
    with relay(tmp_path, plan) as server:
        with Raw(server.port) as client:
            client.begin()
            with pytest.raises(ConnectionError):
                client.say(MESSAGE + b".\r\n")
        found = server.read()
    assert [each.told for each in found.acceptances] == [False] * accept
    assert found.refusals == 1 - accept


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"phase": "RCPT", "match": "nobody", "do": "reply", "text": "550 5.1.1 No such user"}, "550"),
        ({"phase": "RCPT", "do": "stall", "seconds": 0.05}, "250"),
        ({"phase": "RCPT", "do": "drip", "seconds": 0.05}, "250"),
        ({"phase": "RCPT", "do": "close"}, ""),
        ({"phase": "RCPT", "do": "half", "seconds": 0.05}, ""),
        ({"phase": "RCPT", "do": "garbage"}, "\x00"),
        ({"phase": "RCPT", "do": "long"}, "250 xxx"),
        ({"phase": "RCPT", "do": "reply", "text": "421 4.3.2 Down"}, "421"),
    ],
)
def test_deeds(tmp_path: Path, rule: dict[str, Any], expected: str) -> None:
    with relay(tmp_path, {"script": [rule]}) as server, Raw(server.port) as client:
        client.say(b"MAIL FROM:<a@example.test>\r\n")
        try:
            said = client.say(b"RCPT TO:<nobody@to.example.test>\r\n")[0]
        except ConnectionResetError:
            said = ""  # a reset may overtake what was said before it
        assert said.startswith(expected) or rule["do"] in {"garbage", "long"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_client_is_killed_at_an_acceptance(tmp_path: Path, when: str) -> None:
    program = (
        "import smtplib, sys\n"
        "client = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n"
        "while True: client.sendmail('a@example.test', ['b@to.example.test'], 'Subject: [x]\\n\\nhello')\n"
    )
    with relay(tmp_path) as server:
        client = subprocess.Popen([sys.executable, "-c", program, str(server.port)], start_new_session=True)
        try:
            server.tell("kill", pid=client.pid, **{"in": 3}, when=when)
            assert client.wait(20) == -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(client.pid, signal.SIGKILL)
        assert len(server.read().acceptances) == 3


def test_the_ledger_outlives_the_relay(tmp_path: Path) -> None:
    with relay(tmp_path) as server:
        for _ in range(2):
            with smtplib.SMTP("127.0.0.1", server.port) as client:
                client.sendmail("a@example.test", ["b@to.example.test"], MESSAGE)
            server.kill()
            server.start()
        assert len(server.read().acceptances) == 2


def test_each_place_of_a_relay_has_a_plan_of_its_own(tmp_path: Path) -> None:
    first, second = places(2)
    plan = {"script": [{"phase": "MAIL", "at": second, "do": "reply", "text": "451 4.3.0 Later"}]}
    with relay(tmp_path, plan, places=2) as server:
        for host in ("127.0.0.1", first, second):
            with smtplib.SMTP(host, server.port) as client:
                client.ehlo()
                assert client.mail("a@example.test")[0] == (451 if host == second else 250)
        found = server.read()
    assert len(found.mails) == 3
    assert [(each.kind, each.place) for each in found.moments] == [
        ("session", first),
        ("mail", first),
        ("session", second),
        ("mail", second),
        ("said", second),
    ]
