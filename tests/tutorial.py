"""docs/templates.md as a list of what is typed and what is then shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "templates.md"
SERVICE = "## Into the service"
"""Where it begins to need one."""


def steps(text: str) -> list[tuple[str, str]]:
    """Each block of commands, with what it shows; empty where the page does not say."""
    return re.findall(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)


def halves() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The steps before, and those after a service is needed."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(SERVICE)
    return steps(before), steps(after)


def typed(commands: str, directory: Path) -> str:
    """What commands show, with plain spaces. Raises AssertionError where one fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(
        ["bash", "-euc", commands],
        cwd=directory,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout
    return made.stdout.replace("\u202f", " ").replace("\u00a0", " ")
