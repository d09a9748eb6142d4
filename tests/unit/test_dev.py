"""`mailsender dev`, as far as it can be looked at without its parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pymongo.errors import NotPrimaryError, PyMongoError
from rich.console import Console

from mailsender.dev.mailbox import Mailbox
from mailsender.dev.mongod import Mongod
from mailsender.dev.process import ChildError
from mailsender.dev.stack import Endpoints, _Stack, _what_to_try


class Server:
    """What answers on a mongod's port: its own, or another one."""

    def __init__(self, data: Path, *, refuses: PyMongoError | None = None) -> None:
        self._data = data
        self._refuses = refuses
        self.asked: list[str] = []
        self.admin = self

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def command(self, name: str, *_: object, **__: object) -> dict[str, Any]:
        self.asked.append(name)
        if name == "getCmdLineOpts":
            return {"parsed": {"storage": {"dbPath": str(self._data)}}}
        if self._refuses is not None:
            raise self._refuses
        return {"config": {"members": []}}


class Started(Mongod):
    """A mongod whose process is another program, and whose port somebody answers on."""

    def __init__(self, directory: Path, program: str, server: Server) -> None:
        super().__init__(directory)
        self._program = program
        self._server = server

    def launch(self) -> None:
        self.child.start([sys.executable, "-c", self._program])

    def client(self, *, timeout: float = 5.0) -> Any:
        return self._server


@pytest.fixture
def parts() -> Iterator[list[Mongod]]:
    made: list[Mongod] = []
    yield made
    for each in made:
        each.kill()


def test_another_mongod_on_its_port_is_left_alone(tmp_path: Path, parts: list[Mongod]) -> None:
    server = Server(tmp_path / "of-another" / "data")
    parts.append(Started(tmp_path, "raise SystemExit('address in use')", server))
    with pytest.raises(ChildError, match=r"mongod ended with status 1(?s:.)*address in use"):
        parts[0].start()
    assert set(server.asked) <= {"getCmdLineOpts"}


def test_a_mongod_that_refuses_is_told_in_one_line(tmp_path: Path, parts: list[Mongod]) -> None:
    error = NotPrimaryError("interrupted at shutdown", {"codeName": "InterruptedAtShutdown"})
    parts.append(Started(tmp_path, "import time; time.sleep(60)", Server(tmp_path / "data", refuses=error)))
    with pytest.raises(ChildError) as told:
        parts[0].start()
    assert "interrupted at shutdown" in str(told.value)
    assert "\n" not in str(told.value)


ENDPOINTS = Endpoints(
    "http://127.0.0.1:8000", "127.0.0.1:9092", "memory:", "127.0.0.1:1025", "http://127.0.0.1:8025"
)
TOPICS = {"KAFKA_TOPIC_MAILSENDER": "in", "KAFKA_TOPIC_PROFILE": "out"}


def test_it_says_how_its_commands_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    programs = Path(sys.executable).parent
    assert f'  export PATH="{programs}:$PATH"' in _what_to_try(ENDPOINTS, TOPICS).splitlines()
    (tmp_path / "mailsender").write_text("#!/bin/sh\n")
    (tmp_path / "mailsender").chmod(0o755)
    assert "export PATH" not in _what_to_try(ENDPOINTS, TOPICS)


def test_a_calendar_without_a_name_has_one_in_the_catcher() -> None:
    raw = (
        b"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n"
        b"--b\r\nContent-Type: text/calendar; method=REQUEST\r\n\r\nMETHOD:REQUEST\r\n--b--\r\n"
    )
    caught = Mailbox().add(mail_at=0, accepted_at=0, mail_from="", rcpt_tos=[], raw=raw)
    assert [each.name for each in caught.files()] == ["invite.ics"]


def test_a_file_of_real_relays_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is mailed from the embedded stack."""
    monkeypatch.setenv("MAILSENDER_CONFIG", "/etc/relays.toml")
    monkeypatch.setattr("mailsender.dev.stack.signal.signal", lambda *_: None)
    stack = _Stack(Console(quiet=True), tmp_path, ExitStack())
    service = SimpleNamespace(start=Mock(), stop=Mock(), until=Mock(), running=False)
    monkeypatch.setattr(stack, "_service", service)
    where = Endpoints(http="h", kafka="k:1", mongodb="memory:", smtp="c:25", catcher="c")
    stack._start_service(["run"], Mock(host="127.0.0.1", port=25), 8000, where)
    given = service.start.call_args.kwargs["env"]
    assert (given["MAILSENDER_CONFIG"], given["SMTP_HOST"]) == ("", "127.0.0.1")
