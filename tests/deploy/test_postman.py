"""postman/: the collection run by newman against the service on real parts, and what it has to cover."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.world import KEY, World
from mailsender.settings.environment import Settings
from mailsender.web.blobs import BlobHandlers
from mailsender.web.handlers import Handlers
from mailsender.web.pages import Pages
from tests.acceptance import conftest as acceptance
from tests.deploy.kube import Object, installed

POSTMAN = Path(__file__).parents[2] / "postman"
COLLECTION = POSTMAN / "mailsender.postman_collection.json"
ENVIRONMENT = POSTMAN / "mailsender.postman_environment.json"
SAMPLE = Path(__file__).parents[2] / "mailsender" / "dev" / "sample.json"

world = acceptance.world

# --- what can be seen without a service ----------------------------------------------------------


@pytest.fixture(scope="module")
def requests() -> list[Object]:
    """The collection's requests, in order."""
    return list(_requests(json.loads(COLLECTION.read_text())))


def _requests(folder: Object) -> Iterator[Object]:
    for item in folder["item"]:
        if "item" in item:
            yield from _requests(item)
        else:
            yield item


def _variables() -> dict[str, str]:
    return {value["key"]: value["value"] for value in json.loads(ENVIRONMENT.read_text())["values"]}


def _path(item: Object) -> str:
    return str(item["request"]["url"]["raw"]).removeprefix("{{baseUrl}}").partition("?")[0]


def test_every_endpoint_is_asked(requests: list[Object]) -> None:
    asked = {(item["request"]["method"], _path(item)) for item in requests}
    # The service is not needed to know its routes.
    routes = Handlers(None, max_bytes=1, read_timeout=1).routes() + Pages().routes()  # type: ignore[arg-type]
    routes += BlobHandlers(None, max_bytes=1, stall=1).routes()  # type: ignore[arg-type]
    for route in routes:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        assert any(method == route.method and re.fullmatch(pattern, path) for method, path in asked), route


def test_every_request_has_a_name_and_asserts_something(requests: list[Object]) -> None:
    names = [item["name"] for item in requests]
    assert len(set(names)) == len(names), "setNextRequest goes by name"
    for item in requests:
        (tests,) = [event for event in item["event"] if event["listen"] == "test"]
        assert "test(" in "\n".join(tests["script"]["exec"]), item["name"]


def test_the_halt_comes_last_and_once(requests: list[Object]) -> None:
    assert [_path(item) for item in requests].index("/halt") == len(requests) - 1


def test_the_sample_is_the_one_that_everybody_knows(requests: list[Object]) -> None:
    (item,) = [item for item in requests if item["name"] == "Post the sample of six letters"]
    assert json.loads(item["request"]["body"]["raw"]) == json.loads(SAMPLE.read_text())


def test_the_environment_has_what_the_collection_uses(requests: list[Object]) -> None:
    text = COLLECTION.read_text()
    used = set(re.findall(r"environment\.get\('(\w+)'\)", text)) | {"baseUrl", "apiKey"}
    assert used == set(_variables())
    assert _variables()["maxBytes"] == str(Settings.model_fields["http_max_bytes"].default)
    set_by_scripts = set(re.findall(r"ariables\.set\('(\w+)'", text))
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) - set(_variables()) <= set_by_scripts


def test_no_key_is_published() -> None:
    assert _variables()["apiKey"] == ""


# --- the run -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def newman() -> Path:
    return Path(installed(POSTMAN / "install-newman"))


def _run(newman: Path, port: int, directory: Path, *variables: str) -> tuple[int, Object, str]:
    """Run the collection; its exit status, its own summary, and what it printed."""
    summary = directory / "newman.json"
    done = subprocess.run(
        [
            *(newman, "run", COLLECTION, "--environment", ENVIRONMENT),
            *("--env-var", f"baseUrl=http://127.0.0.1:{port}", "--env-var", f"apiKey={KEY}"),
            *(word for variable in variables for word in ("--env-var", variable)),
            *("--timeout-request", "20000", "--timeout", "240000", "--color", "off"),
            *("--reporters", "cli,json", "--reporter-json-export", summary),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        # A proxy of this machine has no business between newman and the service on loopback.
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
    )
    return done.returncode, json.loads(summary.read_text())["run"], done.stdout + done.stderr


@pytest.mark.deploy
@pytest.mark.timeout(900)
def test_the_collection_passes_against_the_service(
    newman: Path,
    world: World,
    requests: list[Object],
    tmp_path: Path,
) -> None:
    # Started, but not yet ready: the collection waits for that by itself.
    replica = world.replica()
    replica.start()
    replica.child.until(lambda: replica.get("/healthz").status == 200, 30)

    status, run, said = _run(newman, replica.port, tmp_path)

    assert status == 0, said
    assert run["failures"] == []
    # All of them ran, none was jumped over, and each test really asserted.
    assert {execution["item"]["name"] for execution in run["executions"]} == {
        item["name"] for item in requests
    }
    assert run["stats"]["assertions"]["pending"] == 0
    assert run["stats"]["assertions"]["total"] > 2 * len(requests)
    # Seen from outside: the halt at its end drained the service, and the letters are where newman said.
    assert replica.wait_exit() == 0, replica.child.log.read_text()
    assert world.by_status() == {"sent": 10}
    # Ten letters, of which the two that were posted twice are answered twice; an answer may be repeated.
    reports = world.reports()
    assert len({report["ID"] for report in reports}) == 10
    assert len({json.dumps(report, sort_keys=True) for report in reports}) == 12
    assert {report["Status"] for report in reports} == {"sent"}


@pytest.mark.deploy
@pytest.mark.timeout(900)
def test_the_collection_notices_letters_that_are_not_sent(
    newman: Path,
    world: World,
    tmp_path: Path,
) -> None:
    """The same against a service that refuses every letter: a run that cannot fail proves nothing."""
    replica = world.started(SMTP_REFUSE_PROBABILITY="1")

    status, run, said = _run(newman, replica.port, tmp_path, "pollAttempts=10")

    assert status != 0, said
    failed = {failure["source"]["name"] for failure in run["failures"]}
    assert failed == {
        "The letter is sent",
        "Each of the six is sent",
        "It is sent once and answered twice",
        "The numbers have moved",
        "Send one letter and wait",
        "Send it again with the same key",
        "Send a letter as a form",
    }
    assert replica.wait_exit() == 0
