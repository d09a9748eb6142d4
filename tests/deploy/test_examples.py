"""examples/: each program, run as its README has it, against `mailsender dev`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.parts import local_kafka, local_mongod, met, missing, wait_until

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
NEEDS = {"Python": [], "Go": ["go"], "Java": ["java", "mvn"], "kcat": ["kcat"]}

RECIPIENTS = ["order 1 ann@example.test", "order 2 bob@example.test", "order 2 carol@example.test"]


def commands() -> dict[str, str]:
    """What README has typed for each program: the last line of its block, after what installs."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^## (\w+)\n(?:(?!^## ).*\n)*?```sh\n((?:.+\n)+)```", text, re.MULTILINE)
    return {name: block.splitlines()[-1] for name, block in blocks}


def test_each_program_has_its_command() -> None:
    assert commands().keys() == NEEDS.keys()
    folders = {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}
    assert folders - {"templates"} == {name.lower() for name in NEEDS}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where the parts of a running `mailsender dev` listen."""
    directory = tmp_path_factory.mktemp("stack")
    local_kafka(directory)  # its in-memory broker would be one for librdkafka alone
    local_mongod(directory)
    told = directory / ".dev" / "endpoints.json"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAMS / "mailsender", "dev"],
            cwd=directory,
            env=os.environ | {"SMTP_RATE_LIMIT_MAX_LETTERS": "0"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: told.exists() or process.poll() is not None, "`mailsender dev` ready", 120)
        assert process.poll() is None, (directory / "log").read_text()[-3000:]
        yield json.loads(told.read_text())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: Maven leaves what it makes beside the sources."""
    directory = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", directory / "examples", ignore=shutil.ignore_patterns("target"))
    return directory


@pytest.mark.parametrize("name", NEEDS)
def test_it_publishes_a_batch_and_reads_its_reports(name: str, checkout: Path, stack: dict[str, str]) -> None:
    for program in NEEDS[name]:
        if shutil.which(program) is None:
            missing(f"there is no {program}, with which the example in {name} is run")
    before = len(caught(stack))
    done = subprocess.run(
        ["bash", "-euc", commands()[name]],
        cwd=checkout,
        env=os.environ
        | {"KAFKA_BROKERS": stack["kafka"], "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plain = re.sub(
        r"\x1b\[\d*m", "", done.stdout
    )  # Maven ends with a change of colour, also where nobody sees it
    said = sorted(line for line in plain.splitlines() if line)
    if name == "kcat":
        reports = [json.loads(line) for line in said]
        said = sorted(
            f"order {report['Token']['order']} {each['Address']} {each['Status']}"
            for report in reports
            for each in report["Recipients"]
        )
    assert said == [f"{recipient} accepted" for recipient in RECIPIENTS]
    assert len(caught(stack)) == before + 2
    met[f"example in {name}"] = ", ".join(NEEDS[name]) or sys.executable


def caught(stack: dict[str, str]) -> list[dict[str, object]]:
    """The letters that the mail catcher has."""
    with urllib.request.urlopen(f"{stack['catcher']}/messages.json", timeout=30) as answer:
        found: list[dict[str, object]] = json.load(answer)
    return found
