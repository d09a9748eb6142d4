"""The published contracts, by the tools of those who use them: AsyncAPI's, Schemathesis, a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from lab import parts
from lab.world import KEY, World
from tests.acceptance import conftest as acceptance
from tests.deploy.engine import ROOT
from tests.deploy.kube import installed

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]  # whatever comes first installs the tools

DOCS = ROOT / "docs"
EXAMPLES = 30
"""Cases for each operation in each of Schemathesis' phases that make them at random."""

BROWSER = "chromium-headless-shell"

world = acceptance.world


@pytest.fixture(scope="session")
def tools() -> Path:
    """Where AsyncAPI's parser and Schemathesis lie."""
    return Path(installed(Path(__file__).with_name("contract_tools")))


def run(
    *command: str | Path, cwd: Path, timeout: float = 300, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    # A proxy of this machine has no business between a tool and the service on loopback.
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=timeout
    )


# --- the topics ----------------------------------------------------------------------------------


def test_asyncapis_own_parser_finds_the_document_valid(tools: Path, tmp_path: Path) -> None:
    done = run(tools / "bin/asyncapi", DOCS / "asyncapi.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # It has one remark: that there is an AsyncAPI 3.1 by now.
    assert re.search(r"0 errors, 0 warnings", done.stdout), done.stdout


def test_it_would_find_a_fault(tools: Path, tmp_path: Path) -> None:
    document = json.loads((DOCS / "asyncapi.json").read_text("utf-8"))
    document["operations"]["report"]["action"] = "shout"
    broken = tmp_path / "asyncapi.json"
    broken.write_text(json.dumps(document))
    done = run(tools / "bin/asyncapi", broken, cwd=tmp_path)
    assert done.returncode != 0
    assert "operations.report.action" in done.stdout


# --- HTTP ----------------------------------------------------------------------------------------


def schemathesis(tools: Path, directory: Path, location: str | Path, port: int, *more: str) -> Any:
    """All checks, all phases, a bounded number of cases, the same ones at every run.

    Failures that are none are told by `schemathesis_hooks`.
    """
    # 413: ten thousand long addresses are right by the schema, which cannot count the bytes of a body.
    (directory / "schemathesis.toml").write_text(
        'hooks = "tests.deploy.schemathesis_hooks"\n'
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "413", "429", "5xx"]\n'
        # A body that is wrong and too large is refused for its size, unread.
        "[checks.negative_data_rejection]\n"
        'expected-statuses = ["400", "401", "403", "404", "405", "409", "413", "415", "429", "5xx"]\n'
    )
    return run(
        *(tools / "python/bin/st", "run", location, "--url", f"http://127.0.0.1:{port}"),
        *("--header", f"X-API-KEY: {KEY}", "--checks", "all", "--max-examples", str(EXAMPLES)),
        *("--seed", "1", "--generation-database", "none", "--continue-on-failure", "--no-color", *more),
        cwd=directory,
        timeout=600,
        path=ROOT,
    )


def test_schemathesis_finds_nothing(tools: Path, world: World, tmp_path: Path) -> None:
    service = world.started()
    document = json.loads((DOCS / "openapi.json").read_text("utf-8"))
    assert service.get("/openapi.json").json() == document

    # The halt would end the run. From a file: what it reads from the service it does not exercise.
    published = DOCS / "openapi.json"
    done = schemathesis(tools, tmp_path, published, service.port, "--exclude-operation-id", "halt")

    assert done.returncode == 0, done.stdout + done.stderr
    generated, passed = map(int, re.findall(r"(\d+) generated, (\d+) passed", done.stdout)[0])
    assert generated == passed > 300, done.stdout
    operations = sum(map(len, document["paths"].values()))
    assert f"Tested: {operations - 1}\n" in done.stdout, done.stdout
    assert not service.events("http_request_failed")
    # What it posted by the description was taken, and is answered. How much it posts changes with every key.
    letters = sum(world.by_status().values())
    assert letters > 25
    world.wait_reports(letters)

    halted = service.halt()
    assert halted.status == 200
    answer = document["paths"]["/halt"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator({**answer, "components": document["components"]}).validate(halted.json())
    assert service.wait_exit() == 0


@pytest.mark.parametrize("fault", ["a status is left out", "a number is called a text"])
def test_schemathesis_would_find_a_fault(tools: Path, world: World, tmp_path: Path, fault: str) -> None:
    service = world.started()
    document = service.get("/openapi.json").json()
    if fault == "a status is left out":
        operation = "letter"
        del document["paths"]["/letters/{id}"]["get"]["responses"]["404"]
    else:
        operation = "status"
        document["components"]["schemas"]["SessionsView"]["properties"]["max"] = {"type": "string"}
    wrong = tmp_path / "openapi.json"
    wrong.write_text(json.dumps(document))

    done = schemathesis(tools, tmp_path, wrong, service.port, "--include-operation-id", operation)

    assert done.returncode == 1, done.stdout + done.stderr


# --- the page ------------------------------------------------------------------------------------


def test_the_page_shows_every_operation_in_a_browser(tools: Path, world: World, tmp_path: Path) -> None:
    """Under its own Content-Security-Policy, without a word of complaint, and without the key."""
    browser = shutil.which(BROWSER)
    if browser is None:
        parts.missing(f"there is no {BROWSER}")
    service = world.started()
    done = run(
        *(browser, "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"),
        f"http://127.0.0.1:{service.port}/docs",
        cwd=tmp_path,
        timeout=120,
    )
    shown = set(re.findall(r'id="operations-\w+-(\w+)"', done.stdout)) - {"tag"}
    operations = service.get("/openapi.json").json()["paths"].values()
    wanted = {inner["operationId"] for methods in operations for inner in methods.values()}
    assert wanted <= shown, done.stdout + done.stderr
    assert "CONSOLE" not in done.stderr, "no script complained, and nothing was refused by the policy"
