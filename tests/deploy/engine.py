"""The container engine as scripts/podman provides it, asked through Docker's API whichever it is."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
import pytest

from lab import parts
from lab.parts import wait_until

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "podman"

UNAVAILABLE = 69
"""EX_UNAVAILABLE: what a tool is installed with is not on this machine."""

_EXPORT = re.compile(r"^export (\w+)=(.*)$", re.MULTILINE)


def script(
    name: str, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 850
) -> str:
    """Run a script of scripts/podman; what it prints."""
    done = subprocess.run(
        [SCRIPTS / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    if done.returncode == UNAVAILABLE:
        parts.missing(done.stderr.strip())
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}"
    return done.stdout.strip()


def installed(name: str) -> Path:
    """Run a script that installs something; the directory that it prints."""
    return Path(script(name))


def _exports(text: str) -> dict[str, str]:
    return dict(_EXPORT.findall(text))


@dataclass(frozen=True, slots=True)
class Engine:
    """Docker, or Podman behind Docker's API."""

    client: Any
    environment: Mapping[str, str]
    """What its clients need beside the environment that is there."""

    @property
    def is_podman(self) -> bool:
        return self.environment["MAILSENDER_ENGINE"] == "podman"

    @property
    def name(self) -> str:
        return f"{'Podman' if self.is_podman else 'Docker'} {self.client.version()['Version']}"

    def build_image(self, tag: str, directory: Path = ROOT) -> str:
        """Build the service's image and give its name back."""
        return script("image", tag, directory, env=self.environment)

    def base_image(self) -> str:
        """On what it was built."""
        if self.is_podman:
            return script("base", env=self.environment)
        (default,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
        return str(default)

    def stand_ins(self) -> dict[str, str]:
        """Which images compose and testcontainers are to use."""
        return _exports(script("stand-ins", env=self.environment))

    @contextlib.contextmanager
    def container(self, image: str, **options: Any) -> Iterator[Any]:
        """A container that runs, and is removed in the end; its last words stand in a failure's report."""
        container = self.client.containers.run(image, detach=True, **options)
        try:
            yield container
        finally:
            print(container.logs(tail=50).decode("utf-8", "replace"))
            container.remove(force=True, v=True)

    def output(self, image: str, command: Sequence[str]) -> str:
        """What a command prints inside of a fresh container; it has to succeed."""
        with self.container(
            image, entrypoint=list(command[:1]), command=list(command[1:]), read_only=True
        ) as run:
            status = run.wait(timeout=60)["StatusCode"]
            said = str(run.logs().decode())
        assert status == 0, said
        return said.strip()


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """The engine; ended again if it was started here."""
    said = script("up")
    environment = _exports(said)
    address = environment.get("DOCKER_HOST") or os.environ.get("DOCKER_HOST")
    client: Any = docker.DockerClient(base_url=address, timeout=120)
    try:
        yield Engine(client, environment)
    finally:
        client.close()
        if "# started" in said:
            script("down")


def wait_healthy(container: Any, timeout: float = 90) -> None:
    """Wait until a container's own check says that it is well."""
    wait_for(container, lambda state: state["Health"]["Status"] == "healthy", "healthy", timeout)


def wait_for(container: Any, check: Callable[[dict[str, Any]], bool], what: str, timeout: float) -> None:
    """Wait for a state of a container; not beyond its end."""

    def reached() -> bool:
        container.reload()
        state = container.attrs["State"]
        if check(state):
            return True
        if state["Status"] == "exited":
            pytest.fail(f"ended with {state['ExitCode']}: {container.logs(tail=20).decode()}", pytrace=False)
        return False

    wait_until(reached, f"{container.name} that is {what}", timeout)
