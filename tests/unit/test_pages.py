"""The pages for operators and for those who test against the catcher: what they name and show is so."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import smtplib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.core import TyperGroup

import mailsender
from mailsender.cli.app import app
from mailsender.dev.process import free_port, listens
from mailsender.model.letter import Status
from mailsender.observe.log import _serialize
from mailsender.service import RESERVE
from mailsender.settings.environment import Settings, load
from mailsender.settings.table import table
from mailsender.web.endpoints.table import ENDPOINTS
from mailsender.web.models import StatusView

ROOT = Path(__file__).parents[2]
NAMES = (
    *("production.md", "testing.md", "operations.md", "migration.md", "on-call.md", "changes.md", "oauth.md"),
    *("routing.md", "replies.md", "suppression.md", "kubernetes.md"),
    *(f"reference/{name}.md" for name in ("topics", "http", "cli", "settings", "logs", "configuration")),
)
TEXT = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in NAMES}
KNOWN = {row.name for row in table()} | {"MAILSENDER_COMPILE", "MAILSENDER_URL"}
EVENTS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mailsender").rglob("*.py"))


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT[name], re.DOTALL)


@pytest.mark.parametrize("name", TEXT)
def test_the_settings_that_a_page_names_are_there(name: str) -> None:
    named = set(
        re.findall(
            r"\b((?:SMTP|KAFKA|MONGODB|MONGO|HTTP|MAILSENDER|QUEUE|DRAIN|SUPPRESSION)_[A-Z_]+)\b", TEXT[name]
        )
    )
    assert named
    families = {name for name in named if name.endswith("_")}  # as in `KAFKA_TLS_…`
    assert all(any(known.startswith(family) for known in KNOWN) for family in families)
    assert sorted(named - families - KNOWN) == []


@pytest.mark.parametrize("name", TEXT)
def test_the_events_that_a_page_names_are_there(name: str) -> None:
    named = set(
        re.findall(r"`((?:loop|letter|relay|partition|drain|setting|records|log)_[a-z_]+)`", TEXT[name])
    )
    assert [event for event in sorted(named) if f'"{event}"' not in EVENTS] == []


@pytest.mark.parametrize("name", TEXT)
def test_the_commands_that_a_page_shows_can_be_understood(name: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    shown = re.findall(r"(?:^|`|bin/|\$ |-- )mailsender ([a-z]+)([^`\n#&]*)", TEXT[name], re.MULTILINE)
    for command, rest in shown:
        words = shlex.split(rest)
        found = group.commands[command]
        if isinstance(found, TyperGroup) and words and words[0].isalpha():
            found = found.commands[words[0]]
        options = {option for each in found.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, command


def test_what_on_call_greps_for_are_warnings_and_errors_alone() -> None:
    """`summary` counts errors, and what is quoted may hold any word."""
    (shown,) = re.findall(r"kubectl logs DEPLOYMENT \| (grep .*)", TEXT["on-call.md"])
    lines = [
        _serialize({"time": "t", "level": "info", "event": "summary", "error": 0, "sent": 3}),
        _serialize({"time": "t", "level": "warning", "event": "relay_away", "error": "warning"}),
        _serialize({"time": "t", "level": "error", "event": "loop_failed"}),
    ]
    found = subprocess.run(
        shlex.split(shown), input="\n".join(lines), capture_output=True, text=True, check=True
    ).stdout
    assert found.splitlines() == lines[1:]


def test_what_status_is_said_to_have_it_has() -> None:
    for field in ("waits_for", "not_ready_because", "rate", "sessions", "reports", "intake", "queue"):
        assert field in StatusView.model_fields
    paths = {endpoint.path for endpoint in ENDPOINTS}
    assert {"/readyz", "/status", "/post", "/letters/{id}"} <= paths


def test_the_states_that_the_page_of_operations_tells_are_all_there() -> None:
    told = [row[0].strip(" `") for row in rows("operations.md")]
    states, statuses = get_args(StatusView.model_fields["state"].annotation), [str(each) for each in Status]
    assert told[told.index("state") + 2 :][: len(states)] == list(states)
    assert told[told.index("status") + 2 :][: len(statuses)] == statuses


def rows(name: str) -> list[list[str]]:
    """The cells of a page's tables."""
    return [line.strip("|").split("|") for line in TEXT[name].splitlines() if line.startswith("| ")]


def test_the_fields_that_a_page_names_of_an_event_it_has() -> None:
    (row,) = [row for row in rows("on-call.md") if "`letter_failed`" in row[0]]
    worker = (ROOT / "mailsender" / "sending/sender.py").read_text(encoding="utf-8")
    fields = set(re.findall(r"^            (\w+)=", worker.partition('"letter_failed"')[2], re.MULTILINE))
    assert {"code", "attempts"} <= fields
    assert set(re.findall(r"`([a-z]+)`", row[1])) <= fields


@pytest.mark.parametrize("page", ["operations.md", "limits.md", "kubernetes.md"])
def test_it_is_said_when_a_drain_cuts_sessions(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"{1 - RESERVE:.0%}".replace("%", " %") in text
    assert "only after `DRAIN_TIMEOUT`" not in text


def test_the_whole_configuration_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (configuration,) = blocks("production.md", "text")
    for line in configuration.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    settings = load()
    assert settings.sender == ("Example Shop", "no-reply@example.com")
    assert settings.allowance.rate == pytest.approx(14, rel=0.1)
    assert "authSource=mts" in settings.mongo_uri
    assert settings.bind_host == "0.0.0.0"


def test_the_files_that_installing_takes_are_there() -> None:
    install = blocks("production.md", "sh")[0]
    for name in re.findall(r"-r (\S+)", install):
        assert (ROOT / name).exists()


@pytest.fixture
def catcher() -> Iterator[tuple[int, int]]:
    """The catcher by itself, as the page starts it; its ports for SMTP and HTTP."""
    (_, command) = blocks("testing.md", "sh")
    words = shlex.split(command.partition("#")[0])
    smtp, http = free_port(), free_port()
    words[words.index("--smtp-port") + 1], words[words.index("--http-port") + 1] = str(smtp), str(http)
    environment = {"PYTHONPATH": str(Path(mailsender.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, *words[1:]], env=environment)
    try:
        ends = time.monotonic() + 20
        while not (listens(smtp) and listens(http)):
            assert process.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.05)
        yield smtp, http
    finally:
        process.terminate()
        process.wait(10)


def test_a_test_finds_its_letter_as_the_page_has_it(catcher: tuple[int, int]) -> None:
    smtp, http = catcher
    (script,) = blocks("testing.md", "python")
    names: dict[str, object] = {}
    exec(script.replace(":8025", f":{http}"), names)
    url = f"http://127.0.0.1:{http}"
    assert names["newer"](0) == []  # type: ignore[operator]
    with smtplib.SMTP("127.0.0.1", smtp, timeout=10) as session:
        session.sendmail("a@example.test", ["b@example.test"], "Subject: found\r\n\r\nbody")
        for address, code in (("reject-550@example.test", 550), ("reject-451@example.test", 451)):
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                session.sendmail("a@example.test", [address], "Subject: x\r\n\r\nbody")
            assert refused.value.recipients[address][0] == code
        with pytest.raises(smtplib.SMTPDataError) as at_dot:
            session.sendmail("a@example.test", ["dot-451@example.test"], "Subject: x\r\n\r\nbody")
        assert at_dot.value.smtp_code == 451
        with pytest.raises(smtplib.SMTPServerDisconnected):
            session.sendmail("a@example.test", ["drop@example.test"], "Subject: x\r\n\r\nbody")
    found = names["wait_for_letter"](0)  # type: ignore[operator]
    assert (found["id"], found["mail_from"], found["rcpt_tos"], found["subject"]) == (
        1,
        "a@example.test",
        ["b@example.test"],
        "found",
    )
    for path in ("/messages/1.json", "/messages/1.eml", "/counts.json"):
        with urllib.request.urlopen(url + path) as answer:
            assert answer.status == 200
            if path == "/counts.json":
                assert json.load(answer)["received"] == 1
    urllib.request.urlopen(urllib.request.Request(f"{url}/messages", method="DELETE")).close()
    assert names["newer"](0) == []  # type: ignore[operator]


def test_the_settings_for_short_tests_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict(re.findall(r"`(SMTP_[A-Z_]+)=([^`]+)`", TEXT["testing.md"]))
    assert given
    for name, value in {**given, "SMTP_FROM": "a@example.test", "KAFKA_BROKERS": "k:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MONGODB_URI", "memory:")
    assert isinstance(load(), Settings)


DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=[page.stem for page in DECISIONS])
def test_a_decision_has_its_four_parts_and_stands_in_the_list(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    number = int(page.name.partition("-")[0])
    title = text.splitlines()[0].removeprefix("# ")
    assert title.startswith(f"{number}. ")
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    assert parts[1::2] == ["Context", "Decision", "Number", "Consequence"]
    assert all(part.strip() for part in parts[2::2])
    listed = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"- [{title}](adr/{page.name})\n" in listed


def test_what_is_said_to_show_a_promise_is_there() -> None:
    promises = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Promises")[2]
    named = re.findall(r"`(?:\w+/)?(test_\w+\.py)(?:::(test_\w+))?", promises.partition("\n## ")[0])
    assert len(named) > 20
    for file, name in named:
        texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(file)]
        assert any(f"def {name}" in text for text in texts), f"{file}::{name}"


def _named_in(patterns: Sequence[str], folders: Sequence[str], pattern: str) -> Iterator[tuple[str, str]]:
    """What matches in files, each with the file's name."""
    for folder, kind in itertools.product(folders, patterns):
        for path in (ROOT / folder).glob(kind):
            for found in re.findall(pattern, path.read_text(encoding="utf-8")):
                yield str(path.relative_to(ROOT)), found


def test_the_files_of_code_that_pages_name_are_there() -> None:
    there = {f"/{path.relative_to(ROOT)}" for path in ROOT.glob("*/**/*.py") if ".venv" not in path.parts}
    named = set(_named_in(("*.md", "docs/**/*.md"), (".",), r"`((?:\w+/)*\w+\.py)`"))
    assert len(named) > 30
    missing = [each for each in named if not any(path.endswith(f"/{each[1]}") for path in there)]
    assert sorted(missing) == []


def test_the_modules_that_code_and_pages_name_are_there() -> None:
    """As ``mailsender.x.y`` in backquotes, where `y` may be what stands in the module."""
    named = set(
        _named_in(
            ("**/*.py",), ("mailsender", "simulation", "proof", "benchmarks"), r"`(mailsender(?:\.\w+)+)`"
        )
    )
    named |= set(_named_in(("docs/**/*.md", "*.md"), (".",), r"`(mailsender(?:\.\w+)+)`"))
    assert len(named) > 30
    missing = []
    for file, name in named:
        parts = name.split(".")
        path = ROOT.joinpath(*parts)
        within = path.parent.with_suffix(".py")
        defined = within.is_file() and re.search(rf"\b{parts[-1]}\b", within.read_text(encoding="utf-8"))
        if not (path.is_dir() or path.with_suffix(".py").is_file() or defined):
            missing.append((file, name))
    assert sorted(missing) == []


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(page.name.partition("-")[0]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    assert len(DECISIONS) > 10
