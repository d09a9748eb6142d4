"""Commands that pages show with what they print, and files to copy: both are as the program has them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import CliRunner

from mailsender.check.relays import judge_file
from mailsender.cli.app import app
from mailsender.settings.environment import Settings, load, slips
from mailsender.settings.links import links_of
from mailsender.settings.relays import plan_of
from mailsender.smtp.credentials import TokenEndpoint

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "k8s" / "components" / "relays" / "relays.toml"
ASKING = ("--letter",)
"""What asks a service that runs, and so cannot be typed here."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="there is no checkout around the compiled form")

Reading: TypeAlias = Callable[[str], Settings]


def shown() -> list[tuple[str, str, str]]:
    """Page, command and output of each that asks nobody."""
    return [
        (page.name, command, output)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for block in re.findall(r"```(?:text|console)\n(\$ .*?)```", page.read_text("utf-8"), re.DOTALL)
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
        if not any(each in command for each in ASKING)
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reading:
    """Read settings whose file has a text; the secrets that it names are there."""

    def loaded(text: str) -> Settings:
        for name in re.findall(r'(?:password|client_secret)_file = "([^"]+)"', text):
            (tmp_path / name).write_text("s3cret\n")
        (tmp_path / "relays.toml").write_text(text)
        for name, value in {
            "MAILSENDER_CONFIG": str(tmp_path / "relays.toml"),
            "MAILSENDER_SECRETS_DIR": str(tmp_path),
            "SMTP_FROM": "shop@example.com",
            "KAFKA_BROKERS": "k:1",
            "MONGODB_URI": "memory:",
        }.items():
            monkeypatch.setenv(name, value)
        return load()

    return loaded


@pytest.mark.parametrize(("page", "command", "output"), shown())
def test_a_command_prints_what_its_page_shows(page: str, command: str, output: str, read: Reading) -> None:
    """Where it reads a file, that is the example."""
    read(EXAMPLE.read_text("utf-8"))
    program, *words = shlex.split(command)
    assert program == "mailsender", page
    made = CliRunner().invoke(app, words, env={"MAILSENDER_URL": "http://127.0.0.1:1"})  # nobody is there
    assert made.exit_code == 0, made.output
    assert TIME.sub("SOME TIME", made.stdout) == TIME.sub("SOME TIME", output)


def test_the_pages_that_show_some_are_looked_at() -> None:
    assert {"routing.md", "replies.md"} <= {page for page, _, _ in shown()}


def test_the_file_to_copy_is_taken_without_a_word(read: Reading) -> None:
    settings = read(EXAMPLE.read_text("utf-8"))
    assert slips(settings.config) == []
    assert [each.level for each in judge_file(settings)] == ["ok"]
    plan = plan_of(settings)
    assert [each.name for each in plan.relays] == ["ses", "sendgrid", "postfix"]
    assert [each.name for each in plan.routes] == ["default", "staff", "newsletter"]


def files() -> list[tuple[str, str]]:
    """Page and text of each part of a file that a page shows, made a whole one."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for text in re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            named = re.findall(r"^\[+relays\.([\w-]+)", text, re.MULTILINE)
            there = re.findall(r"^\[relays\.([\w-]+)\]$", text, re.MULTILINE)
            whole = "".join(f'[relays.{name}]\nhost = "h"\n' for name in {*named} - {*there}) + text
            if "[routes.default]" not in text:
                whole += f'[routes.default]\nrelays = ["{named[0]}"]\n'
            found.append((page.name, whole))
    return found


@pytest.mark.parametrize(("page", "text"), files(), ids=[page for page, _ in files()])
def test_what_a_page_shows_of_a_file_is_taken(
    page: str, text: str, read: Reading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, "s3cret")
    (tmp_path / "ses").write_text("s3cret\n")
    assert plan_of(read(text.replace("/run/secrets/ses", "ses"))).relays, page


def test_the_table_with_tokens_is_what_the_page_says(read: Reading) -> None:
    ((_, text),) = [each for each in files() if each[0] == "oauth.md"]
    tokens = links_of(read(text))["microsoft"].credentials.tokens
    assert isinstance(tokens, TokenEndpoint)
    assert (tokens.client_id, tokens.client_secret) == ("APPLICATION_ID", "s3cret")


def trial() -> tuple[str, str]:
    """The file and the commands of the recipe for trying a file on one machine."""
    page = (ROOT / "docs" / "routing.md").read_text("utf-8")
    section = page.partition("## Trying a file on one machine")[2]
    file, commands = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("toml", "sh"))
    assert file
    assert commands
    return file[1], commands[1]


def test_a_file_is_tried_beside_the_embedded_stack_without_a_letter_that_leaves_the_machine(
    read: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shared with the stack's own service would be taken from it."""
    text, commands = trial()
    stack = read(text)  # with the names that all have who set nothing
    given = dict(each.split("=", 1) for each in shlex.split(commands, comments=True) if "=" in each)
    assert given.pop("MAILSENDER_CONFIG") == "trial.toml"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert slips(settings.config) == []
    assert {(each.host, each.port, each.tls) for each in links_of(settings).values()} == {
        ("127.0.0.1", 1025, "none")
    }
    for name in (
        "kafka_topic_mailsender",
        "kafka_topic_profile",
        "kafka_topic_dead_letter",
        "kafka_groupid",
        "mongodb_base_name",
        "http_port",
    ):
        assert getattr(settings, name) != getattr(stack, name), name


def test_what_is_typed_to_try_a_file_is_understood() -> None:
    """All but to run it: each command is one, with options that it has."""
    typed = [line for line in trial()[1].splitlines() if line.startswith("mailsender ")]
    assert len(typed) > 3
    for line in typed:
        made = CliRunner().invoke(app, [*shlex.split(line, comments=True)[1:], "--help"])
        assert made.exit_code == 0, made.output
