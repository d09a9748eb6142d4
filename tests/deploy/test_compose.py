"""docker-compose.yml: what Compose's own loader makes of it, and the stack that it brings up."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from pymongo import MongoClient

import mailsender
from lab import parts
from lab.world import Reader
from mailsender.dev.process import free_port
from mailsender.settings import environment as settings
from mailsender.settings.kinds import parse_duration
from mailsender.settings.sources import SECRETS_DIR
from tests.deploy.engine import ROOT, Engine, wait_healthy

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]  # whatever comes first installs and builds

FILE = ROOT / "docker-compose.yml"
SAMPLE = (ROOT / "mailsender" / "dev" / "sample.json").read_bytes()
PARTS = ("kafka", "mongodb", "mailpit")

Object = dict[str, Any]


# What the file says


@pytest.fixture(scope="module")
def resolved(checkers: Path) -> Object:
    """The file as the Compose project's own loader reads it, without any variable."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [checkers / "compose-spec", "-format", "json", FILE],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "the loader warns of nothing"
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_every_variable_of_the_service_is_a_setting(resolved: Object) -> None:
    known = {name.upper() for name in settings.Settings.model_fields}
    assert set(resolved["services"]["mailsender"]["environment"]) <= known


def test_the_settings_are_good(resolved: Object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_secrets(tmp_path)
    for name, value in resolved["services"]["mailsender"]["environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    found = settings.load()
    assert found.http_api_key.get_secret_value() == (tmp_path / "http_api_key").read_text()
    assert found.authenticates
    assert found.bind_host == "0.0.0.0"


def test_the_services_secrets_are_files(resolved: Object) -> None:
    secret = {name for name, field in settings.Settings.model_fields.items() if field.annotation is SecretStr}
    service = resolved["services"]["mailsender"]
    names = {one["source"] for one in service["secrets"]}
    assert names <= secret
    assert "http_api_key" in names
    assert not {name.lower() for name in service["environment"]} & secret
    assert {Path(one["file"]).name for one in resolved["secrets"].values()} == names | {"mailpit_users"}


def test_no_port_listens_beyond_loopback(resolved: Object) -> None:
    ports = [port for service in resolved["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert {port.get("host_ip") for port in ports} == {"127.0.0.1"}
    assert not [service for service in resolved["services"].values() if "network_mode" in service]


def test_images_are_pinned_and_can_be_chosen(resolved: Object) -> None:
    images = {name: service["image"] for name, service in resolved["services"].items()}
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images.values()), images
    assert images["mailsender"] == f"mailsender:{mailsender.__version__}"
    text = FILE.read_text("utf-8")
    assert re.findall(r"image: \$\{MAILSENDER_(\w*?)_?IMAGE:-", text) == ["KAFKA", "MONGODB", "MAILPIT", ""]


def test_the_service_waits_for_its_parts_and_outlives_its_drain(resolved: Object) -> None:
    service = resolved["services"]["mailsender"]
    assert {name: one["condition"] for name, one in service["depends_on"].items()} == dict.fromkeys(
        PARTS, "service_healthy"
    )
    drain = parse_duration(service["environment"]["DRAIN_TIMEOUT"])
    grace = parse_duration(service["stop_grace_period"])
    assert isinstance(drain, float)
    assert isinstance(grace, float)
    assert grace > drain + 5
    assert all("healthcheck" in one for one in resolved["services"].values())


def test_the_service_is_hardened(resolved: Object) -> None:
    service = resolved["services"]["mailsender"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]


def test_data_lie_in_named_volumes(resolved: Object) -> None:
    volumes = [one for service in resolved["services"].values() for one in service.get("volumes", [])]
    named = {one["source"] for one in volumes if one["type"] == "volume"}
    assert named == set(resolved["volumes"]) == {*PARTS, "mailsender"}
    assert all(one.get("read_only") for one in volumes if one["type"] == "bind")


def test_secrets_are_kept_and_others_shut_out(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    make_secrets(directory)
    first = {path.name: path.read_text() for path in directory.iterdir()}
    assert set(first) == {"http_api_key", "smtp_password", "mailpit_users"}
    assert first["mailpit_users"] == f"mailsender:{first['smtp_password']}\n"
    assert len(first["http_api_key"]) == 48
    assert first["http_api_key"] != first["smtp_password"]
    assert directory.stat().st_mode & 0o777 == 0o700
    make_secrets(directory)
    assert {path.name: path.read_text() for path in directory.iterdir()} == first


def make_secrets(directory: Path) -> None:
    subprocess.run([ROOT / "deploy" / "compose" / "make-secrets", directory], check=True)


# What it brings up


@dataclass
class Stack:
    """One project of its own, on ports of its own."""

    engine: Engine
    secrets: Path
    environment: Mapping[str, str]
    project: str = field(default_factory=lambda: f"mailsender-test-{uuid4().hex[:8]}")
    ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("HTTP", "KAFKA", "MONGODB", "MAILPIT")}
    )

    def compose(self, *arguments: str, timeout: float = 240) -> None:
        ports = {f"MAILSENDER_{name}_PORT": str(port) for name, port in self.ports.items()}
        program = ["docker-compose"] if self.engine.is_podman else ["docker", "compose"]
        done = subprocess.run(
            [*program, "--project-name", self.project, "--file", FILE, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=ROOT,
            env={**os.environ, **self.environment, **ports, "MAILSENDER_SECRETS": str(self.secrets)},
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.last_words()}"

    def container(self, service: str) -> Any:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (found,) = self.engine.client.containers.list(all=True, filters={"label": labels})
        found.reload()
        return found

    def last_words(self) -> str:
        label = f"com.docker.compose.project={self.project}"
        found = self.engine.client.containers.list(all=True, filters={"label": label})
        return "".join(
            f"\n--- {one.name} ({one.status})\n{one.logs(tail=30).decode(errors='replace')}" for one in found
        )

    def up(self) -> None:
        """Bring it up; all of it is healthy then."""
        self.compose("up", "--detach")
        wait_healthy(self.container("mailsender"))

    def down(self, *arguments: str) -> int:
        """Take it down and give the service's exit status back."""
        service = self.container("mailsender")
        statuses: list[int] = []
        waiting = threading.Thread(target=lambda: statuses.append(service.wait(timeout=120)["StatusCode"]))
        waiting.start()
        self.compose("down", *arguments)
        waiting.join(10)
        (status,) = statuses
        return status

    def ask(self, method: str, path: str, body: bytes | None = None, *, key: str | None = None) -> Any:
        key = (self.secrets / "http_api_key").read_text() if key is None else key
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['HTTP']}{path}", body, {"X-API-KEY": key}, method=method
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def reports(self, count: int) -> list[Object]:
        bootstrap, topic = f"127.0.0.1:{self.ports['KAFKA']}", "mts-to-profile"
        reader = Reader(bootstrap, topic)  # waits for the topic, which the first report makes
        try:
            return reader.until(lambda found: len(found) >= count, 60)
        finally:
            reader.close()

    def caught(self) -> int:
        url = f"http://127.0.0.1:{self.ports['MAILPIT']}/api/v1/messages"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(json.load(answer)["total"])


@pytest.fixture
def stack(engine: Engine, image: str, tmp_path: Path) -> Iterator[Stack]:
    if engine.is_podman and shutil.which("docker-compose") is None:
        parts.missing("there is no docker-compose")
    make_secrets(tmp_path / "secrets")
    environment = {**engine.environment, **engine.stand_ins(), "MAILSENDER_IMAGE": image}
    made = Stack(engine, tmp_path / "secrets", environment)
    try:
        yield made
    finally:
        print(made.last_words())  # shown when the test failed
        made.compose("down", "--volumes", "--timeout", "5")


def when(text: str) -> datetime:
    """A time as engines write it: with nanoseconds, which Python does not read."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))


def first_healthy(container: Any) -> datetime:
    """When a container's check first succeeded, as far as the engine remembers."""
    return min(when(one["End"]) for one in container.attrs["State"]["Health"]["Log"] if one["ExitCode"] == 0)


def test_up_a_batch_down_and_up_again(stack: Stack) -> None:
    stack.compose("up", "--detach")
    service = stack.container("mailsender")
    started = when(service.attrs["State"]["StartedAt"])
    for name in PARTS:
        container = stack.container(name)
        assert container.attrs["State"]["Health"]["Status"] == "healthy"
        assert first_healthy(container) < started, f"the service waited for {name}"
    wait_healthy(service)
    for name in (*PARTS, "mailsender"):
        bindings = stack.container(name).attrs["NetworkSettings"]["Ports"].values()
        assert {one["HostIp"] for several in bindings if several for one in several} == {"127.0.0.1"}

    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.ask("POST", "/post", SAMPLE, key="wrong")
    ids = stack.ask("POST", "/post", SAMPLE)["ids"]
    reports = stack.reports(6)
    assert sorted(report["ID"] for report in reports) == sorted(ids)
    assert {report["Status"] for report in reports} == {"sent"}
    assert stack.caught() == 6
    with MongoClient[Object]("127.0.0.1", stack.ports["MONGODB"], directConnection=True) as client:
        assert client.admin.command("hello")["setName"] == "rs0"

    assert stack.down() == 0
    stack.up()
    assert [stack.ask("GET", f"/letters/{one}")["status"] for one in ids] == ["sent"] * 6
    assert stack.caught() == 6
    # What Kafka kept: the reports, and how far the service had read, for else there would be twelve.
    assert len(stack.reports(6)) == 6
    assert stack.down() == 0
    parts.met["compose"] = "compose (Kafka, MongoDB, Mailpit, the service)"
