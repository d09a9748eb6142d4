"""docs/templates.md as it stands, beside `mailsender dev`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.parts import local_kafka, local_mongod, wait_until
from tests.tutorial import ROOT, halves, typed

pytestmark = pytest.mark.timeout(300)

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where the parts of a `mailsender dev` in this directory listen."""
    local_kafka(tmp_path)
    local_mongod(tmp_path)
    told = tmp_path / ".dev" / "endpoints.json"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAMS / "mailsender", "dev"],
            cwd=tmp_path,
            env=os.environ | {"SMTP_RATE_LIMIT_MAX_LETTERS": "0", "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: told.exists() or process.poll() is not None, "`mailsender dev` ready", 120)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        yield json.loads(told.read_text())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_what_it_has_typed_is_sent(tmp_path: Path, stack: dict[str, str]) -> None:
    before, after = halves()
    for commands, shown in (*before, *after):
        made = typed(commands, tmp_path)
        assert made == shown or not shown, commands

    def caught() -> dict[str, str]:
        with urllib.request.urlopen(f"{stack['catcher']}/messages.json", timeout=30) as answer:
            return {each["rcpt_tos"][0]: each["subject"] for each in json.load(answer)}

    wait_until(lambda: len(caught()) == 3, "three messages")
    assert caught() == {
        "anna@example.com": "Welcome, Anna",
        "boris@example.com": "Добро пожаловать, Борис",
        "carol@example.com": "Добро пожаловать, Carol",
    }
