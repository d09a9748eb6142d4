"""The first section of README, run as it stands there, in a clone that nothing was done to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import wait_until

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def commands_of(section: str) -> list[str]:
    """The shell lines of a section of README, without their comments."""
    text = (ROOT / "README.md").read_text("utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a new user gets, with what is not committed yet."""
    target = tmp_path_factory.mktemp("clone") / "mailsender"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(target)], check=True)
    changed = subprocess.run(["git", "diff", "HEAD", "--binary"], cwd=ROOT, capture_output=True, check=True)
    if changed.stdout:
        subprocess.run(["git", "apply", "-"], cwd=target, input=changed.stdout, check=True)
    return target


@pytest.fixture(scope="module")
def stack(clone: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`make dev`, ready; ended at the latest with the test."""
    with (clone / "dev.log").open("wb") as log:
        made = subprocess.Popen(
            ["make", "dev"],
            cwd=clone,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        endpoints = clone / ".dev" / "endpoints.json"
        wait_until(lambda: endpoints.exists() or made.poll() is not None, "`make dev` ready", 400)
        assert made.poll() is None, (clone / "dev.log").read_text()[-3000:]
        found = json.loads(endpoints.read_text())
        assert (found["http"], found["kafka"]) == ("http://127.0.0.1:8000", "127.0.0.1:9092"), (
            "README's ports are taken on this machine"
        )
        yield made
    finally:
        if made.poll() is None:
            os.killpg(made.pid, signal.SIGTERM)
            made.wait(60)


def test_the_first_commands_are_the_two_of_the_set_up() -> None:
    assert commands_of("Start")[:2] == ["make dev", "make test"]


def test_each_command_does_what_it_says(clone: Path, stack: subprocess.Popen[bytes]) -> None:
    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=clone, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
        return done.stdout.decode()

    (post,) = [line for line in commands_of("Start") if "/post" in line]
    (read,) = [line for line in commands_of("Start") if line.startswith("kcat")]
    (halt,) = [line for line in commands_of("Start") if "/halt" in line]

    assert len(json.loads(run(post))["ids"]) == 6

    def reports() -> list[dict[str, object]]:
        return [json.loads(line) for line in run(f"{read} -q").splitlines()]

    wait_until(lambda: len(reports()) == 6, "six reports", 60)
    assert {report["Status"] for report in reports()} == {"sent"}
    caught = json.loads(run("curl -s http://127.0.0.1:8025/messages.json"))
    assert len(caught) == 6

    assert json.loads(run(halt))["draining"] is True
    assert stack.wait(60) == 0
