"""The path that the tests take where a container engine answers: the same tests, with the same results."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from lab import parts
from tests.deploy.engine import ROOT, Engine

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]

# What needs no server, and what another driver says to the same one, is no matter of containers.
TESTS = ("-k", "not memory and not pymongo", "tests/contract", "tests/integration/test_parts.py")


def test_the_contracts_hold_in_containers(engine: Engine) -> None:
    environment = {**os.environ, **engine.environment, **engine.stand_ins()}
    environment.pop("MAILSENDER_TEST_PARTS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    (met,) = re.findall(r"^parts: (.*)$", done.stdout, re.MULTILINE)
    for part in (r"mongod \S+ \(testcontainers", r"kafka:\S+ \(testcontainers"):
        assert re.search(part, met), met
    parts.met["testcontainers"] = f"testcontainers ({done.stdout.strip().splitlines()[-1].strip('= ')})"
