"""The image: its source is linted, it is built, looked into, and run as an operator would run it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mailsender
from lab import parts
from lab.parts import KafkaServer, MongoServer, Topics
from lab.world import World, check_all_answered
from mailsender.dev.catcher import Catcher
from mailsender.dev.process import free_port
from tests.deploy.engine import ROOT, Engine, wait_healthy

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]  # whatever comes first installs and builds

SAMPLE = ROOT / "mailsender" / "dev" / "sample.json"

HARDENED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}

LOOK = """
import importlib.util, json, os, pathlib, shutil, sysconfig
packages = pathlib.Path(sysconfig.get_path("purelib"))
left = ["/run/secrets", "/root/.cache", "/build", "/opt/mailsender/tests"]
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "make", "ld") if shutil.which(name)],
    "installers": [name for name in ("pip", "setuptools", "wheel", "uv") if importlib.util.find_spec(name)],
    "tests": [str(path) for path in packages.rglob("*") if path.name in {"test", "tests"} and path.is_dir()],
    "dev": [name for name in ("aiosmtpd", "confluent_kafka", "pytest") if importlib.util.find_spec(name)],
    "left": [path for path in left if os.path.exists(path)],
    "writable": [path for path in ("/", "/opt", str(packages)) if os.access(path, os.W_OK)],
    "compiled": (packages / "mailsender/__pycache__").is_dir(),
}))
"""


def test_sources_are_linted(checkers: Path) -> None:
    dockerfiles = [
        ROOT / "Dockerfile",
        *sorted((ROOT / "scripts" / "podman" / "stand-in-images").glob("*/Dockerfile")),
    ]
    done = subprocess.run(
        [checkers / "hadolint", "--no-color", *dockerfiles], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_are_linted(checkers: Path) -> None:
    scripts = [
        path
        for folder in ("deploy", "scripts")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and (path.suffix == ".sh" or path.read_bytes()[:32].startswith(b"#!/usr/bin/env bash"))
    ]
    assert scripts
    done = subprocess.run(
        [checkers / "shellcheck", "--external-sources", *sorted(scripts)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


def test_configuration(engine: Engine, image: str) -> None:
    config = engine.client.images.get(image).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["mailsender"], "the exec form: signals reach the service, no shell"
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    created = engine.client.containers.create(image)  # Podman shows an image's check only there
    check = created.attrs["Config"]["Healthcheck"]["Test"]
    created.remove()
    assert check[0] == "CMD"
    assert not [word for word in check if " " in word], "Podman 4 takes such an argument for two"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "mailsender"
    assert labels["org.opencontainers.image.version"] == mailsender.__version__
    assert labels["org.opencontainers.image.base.name"] == engine.base_image()
    assert re.fullmatch("[0-9a-f]{40}", labels["org.opencontainers.image.revision"])


def test_nothing_is_in_it_that_only_builds(engine: Engine, image: str) -> None:
    found = json.loads(engine.output(image, ["/opt/mailsender/bin/python", "-c", LOOK]))
    assert found == {
        "user": [10001, 10001],
        "compilers": [],
        "installers": [],
        "tests": [],
        "dev": [],
        "left": [],
        "writable": [],
        "compiled": True,
    }
    assert engine.output(image, ["mailsender", "--version"]) == f"mailsender {mailsender.__version__}"


def test_how_much_it_adds_to_its_base(engine: Engine, image: str) -> None:
    if not engine.is_podman:
        engine.client.images.pull(engine.base_image())  # BuildKit keeps what it builds on to itself
    whole = engine.client.images.get(image).attrs["Size"]
    added = whole - engine.client.images.get(engine.base_image()).attrs["Size"]
    parts.met["image"] = f"the image: {whole / 1e6:.0f} MB, {added / 1e6:.0f} MB of them over its base"
    # 80 MB of them are what letters and templates take: Babel's locales are 34, and the native libraries that
    # read HTML and JSON Schema and sign are 12 to 16 each.
    assert added < 190e6


def test_a_change_of_the_code_makes_only_the_last_layer_anew(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "build_hook.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tmp_path)
    for name in ("requirements", "mailsender"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "mailsender" / "__init__.py").open("a") as module:
        module.write("\n# changed\n")
    changed = engine.build_image(f"{image}-changed", tmp_path)
    before, after = (engine.client.images.get(name).attrs["RootFS"]["Layers"] for name in (image, changed))
    engine.client.images.remove(changed, force=True)
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.fixture
def world(
    tmp_path: Path,
    kafka: KafkaServer,
    mongod: MongoServer,
    database: str,
    topics: Topics,
    catcher: Catcher,
) -> Iterator[World]:
    made = World(tmp_path, kafka.bootstrap, mongod.uri, database, topics, catcher.port)
    made.create_topics()
    yield made
    made.close()


def test_it_runs_hardened_sends_reports_and_drains(engine: Engine, image: str, world: World) -> None:
    port = free_port()
    # On the machine's own network: the parts listen on its loopback interface.
    options = {
        **HARDENED,
        "network_mode": "host",
        "environment": {**world.environment(), "HTTP_PORT": str(port)},
    }
    with engine.container(image, **options) as container:
        wait_healthy(container)
        world.publish([json.loads(SAMPLE.read_text("utf-8"))], key=b"from-the-image")
        reports = world.wait_reports(6)
        assert [report["Status"] for report in reports] == ["sent"] * 6
        check_all_answered(world, 6, reports)
        asked = container.exec_run(["mailsender", "status", "--url", f"http://127.0.0.1:{port}", "--json"])
        assert asked.exit_code == 0, asked.output
        container.stop(timeout=40)
        assert container.wait(timeout=10)["StatusCode"] == 0
        last = json.loads(container.logs().decode().splitlines()[-1])
        assert (last["event"], last["clean"]) == ("stopped", True)


def test_a_missing_setting_ends_it_with_a_line(engine: Engine, image: str) -> None:
    with engine.container(image, **HARDENED) as container:
        assert container.wait(timeout=60)["StatusCode"] == 2
        assert "KAFKA_BROKERS: is missing" in container.logs().decode()


def test_it_does_not_serve_everybody_without_a_key(engine: Engine, image: str) -> None:
    settings = {
        "KAFKA_BROKERS": "127.0.0.1:1",
        "MONGODB_URI": "memory:",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_FROM": "sender@example.test",
        "HTTP_HOST": "0.0.0.0",
    }
    with engine.container(image, environment=settings, **HARDENED) as container:
        assert container.wait(timeout=60)["StatusCode"] == 2
        assert "HTTP_API_KEY: is missing" in container.logs().decode()


def test_the_public_base_is_pinned() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    (base,) = [line for line in text.splitlines() if line.startswith("ARG BASE=")]
    assert base.partition(":")[2].count(".") == 2, "a tag with the patch version"
    assert text.count("FROM ${BASE}") == 1
    assert text.count("FROM ${COMPILER}") == 1
    # Compiled modules are for one Python on one C library.
    (compiler,) = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ARG COMPILER=")]
    assert compiler == base.partition("=")[2].replace("-slim-", "-")
