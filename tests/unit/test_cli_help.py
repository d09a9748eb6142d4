"""What the command line says about itself, and that it says so at once."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from lab.parts import missing
from mailsender.cli.app import app
from mailsender.cli.help import (
    DEVELOPERS,
    EXAMPLES,
    RUNNING,
    SERVICE,
    STATUSES,
    SUPPRESSION,
    TEMPLATES,
    WHOLE,
)

GROUPS = {
    SERVICE: ["run", "dev", "check"],
    RUNNING: ["post", "status", "explain", "health", "reload", "lift", "halt"],
    DEVELOPERS: ["lint", "schema"],
    SUPPRESSION: ["suppress"],
    TEMPLATES: ["template"],
}
NAMES = [name for names in GROUPS.values() for name in names]
HEAVY = ("aiohttp", "aiokafka", "motor", "pymongo", "aiosmtplib", "pydantic", "structlog", "rich.table")


def shown(*words: str) -> str:
    made = CliRunner().invoke(app, [*words, "--help"], prog_name="mailsender", env={"COLUMNS": "80"})
    assert made.exit_code == 0, made.output
    return made.stdout


def sections(text: str) -> dict[str, list[str]]:
    """The indented lines below each title."""
    found: dict[str, list[str]] = {}
    for title, body in re.findall(r"^(\S.*):\n((?:  .*\n)+)", text, re.MULTILINE):
        found[title] = [line.removeprefix("  ") for line in body.splitlines()]
    return found


def test_commands_stand_in_their_groups_each_on_one_line() -> None:
    found = sections(shown())
    assert [title for title in found if title in GROUPS] == list(GROUPS)
    for title, names in GROUPS.items():
        assert [line.split()[0] for line in found[title]] == names
        assert all(line.endswith(".") and not line.endswith("..") for line in found[title]), (
            "nothing is cut off"
        )


@pytest.mark.parametrize("name", [WHOLE, *NAMES])
def test_each_help_ends_with_examples_and_exit_statuses(name: str) -> None:
    text = shown(*([name] if name else []))
    found = sections(text)
    assert list(found)[-2:] == ["Examples", "Exit status"]
    examples, statuses = " ".join(found["Examples"]), found["Exit status"]
    assert all(line in examples for line, _ in EXAMPLES[name])
    assert [line.split()[0] for line in statuses] == [code for code, _ in STATUSES.get(name, STATUSES[WHOLE])]
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii() or set(text) - set(map(chr, range(128))) <= set("…–"), "no boxes are painted"


def test_h_is_short_for_help() -> None:
    assert CliRunner().invoke(app, ["status", "-h"], prog_name="mailsender").stdout == shown("status")


EXAMPLE_LINES = [line for rows in EXAMPLES.values() for line, _ in rows]


@pytest.mark.parametrize("line", EXAMPLE_LINES)
def test_an_example_can_be_typed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch.json").write_text("[]")
    (tmp_path / "message.eml").write_text("From: a@example.org\n")
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    commands = [part.strip() for part in re.split(r"&&|\|", line) if "mailsender" in part.split()]
    assert commands
    for command in commands:
        _, name, *words = shlex.split(re.split(r"\d?>", command)[0])
        if words == ["--help"]:
            assert name in NAMES
        else:
            group.commands[name].make_context(name, words).close()


def test_help_and_version_start_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from mailsender.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    # typer reads the options of a command with pydantic, whatever we do.
    for words, allowed in (["--version"], []), (["--help"], []), (["check", "--help"], ["pydantic"]):
        made = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=60
        )
        *said, loaded = made.stdout.splitlines()
        assert said
        assert set(ast.literal_eval(loaded)) <= set(allowed)


def test_a_fault_of_our_own_shows_no_local_variables() -> None:
    code = """
import mailsender.settings.environment
def load():
    password = "s3cret" + "-of-a-frame"
    raise RuntimeError("a fault of our own")
mailsender.settings.environment.load = load
from mailsender.cli.app import main
main()
"""
    made = subprocess.run(
        [sys.executable, "-c", code, "check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert made.returncode == 1
    assert "RuntimeError: a fault of our own" in made.stderr
    assert "s3cret-of-a-frame" not in made.stderr + made.stdout


# --- completion ----------------------------------------------------------------------------------


def in_bash(script: str, home: Path) -> str:
    """What bash prints; the command under test is the one beside this Python."""
    bash = shutil.which("bash")
    if bash is None:
        missing("there is no bash")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(home)}
    made = subprocess.run(
        [bash, "--norc", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return made.stdout


def test_bash_is_given_its_completion(tmp_path: Path) -> None:
    printed = in_bash("mailsender --show-completion; true", tmp_path)
    assert "complete -o default -F _mailsender_completion mailsender" in printed
    assert in_bash("_MAILSENDER_COMPLETE=source_bash mailsender", tmp_path).strip() == printed.strip()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["st"], ["status"]),
        ([""], NAMES),
        (["status", "--j"], ["--json"]),
        (["schema", "o"], ["openapi"]),
    ],
)
def test_bash_completes(typed: list[str], offered: list[str], tmp_path: Path) -> None:
    words = " ".join(map(shlex.quote, ["mailsender", *typed]))
    script = f"""
source <(mailsender --show-completion)
COMP_WORDS=({words}) COMP_CWORD={len(typed)}
_mailsender_completion mailsender
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    assert in_bash(script, tmp_path).split() == offered


def test_completion_can_be_installed(tmp_path: Path) -> None:
    in_bash("mailsender --install-completion; true", tmp_path)
    words = "COMP_WORDS=(mailsender ha) COMP_CWORD=1"
    script = f'source ~/.bashrc; {words}; _mailsender_completion mailsender; echo "${{COMPREPLY[@]}}"'
    assert in_bash(script, tmp_path).split() == ["halt"]
