"""Where the service keeps its journal, and how it says that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsender.app import build_journal
from mailsender.journal.journal import FileJournal
from mailsender.journal.port import NoJournal
from mailsender.model.errors import Rejected
from mailsender.settings.environment import Settings


def settings(monkeypatch: pytest.MonkeyPatch, **more: str) -> Settings:
    for name, value in {
        "SMTP_HOST": "relay.example.test",
        "SMTP_FROM": "robot@example.test",
        "KAFKA_BROKERS": "nowhere:1",
        "MONGODB_URI": "mongodb://user:pass@Beta:2,alpha:1/?replicaSet=rs0",
        **more,
    }.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_off_by_default_and_with_a_queue_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(build_journal(settings(monkeypatch)), NoJournal)
    where = {"MAILSENDER_STATE_DIR": str(tmp_path), "MONGODB_URI": "memory:"}
    assert isinstance(build_journal(settings(monkeypatch, **where)), NoJournal)


def test_the_directory_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = tmp_path / "deep" / "state"
    journal = build_journal(settings(monkeypatch, MAILSENDER_STATE_DIR=str(where)))
    assert isinstance(journal, FileJournal)
    assert [path.name for path in where.iterdir()] == [f"{journal.replica}-000000.journal"]
    journal.close()
    assert list(where.iterdir()) == []


def test_a_directory_that_cannot_be_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "state"
    with pytest.raises(Rejected, match=r"^MAILSENDER_STATE_DIR: .*file/state cannot be written: "):
        build_journal(settings(monkeypatch, MAILSENDER_STATE_DIR=str(where)))


@pytest.mark.parametrize(("change", "same"), [("user", True), ("database", False), ("host", False)])
def test_a_journal_is_of_one_host_and_one_collection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str, *, same: bool
) -> None:
    where = {"MAILSENDER_STATE_DIR": str(tmp_path)}
    first = build_journal(settings(monkeypatch, **where))
    first.dot("a" * 32, "1" * 24, 0, 1, "relay:25")
    first.close()
    if change == "user":
        where["MONGODB_URI"] = "mongodb://other@alpha:1,beta:2"
    if change == "database":
        where["MONGODB_BASE_NAME"] = "other"
    if change == "host":
        monkeypatch.setattr("socket.gethostname", lambda: "other")
    second = build_journal(settings(monkeypatch, **where))
    assert bool(second.left_behind()[0]) is same
    second.close()
