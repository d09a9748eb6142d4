"""The rendered Deployment, ConfigMap and Secret run for real, by `podman kube play`.

Podman stands in for the kubelet, and differs from it in what the overlay below makes up for.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.parts import wait_until
from lab.world import Replica, World, batches
from mailsender.dev.catcher import Catcher
from tests.acceptance import conftest as acceptance
from tests.deploy import kube
from tests.deploy.engine import ROOT, SCRIPTS, Engine
from tests.deploy.kube import K8S, Object, Tools, installed

SAMPLE = ROOT / "mailsender" / "dev" / "sample.json"
SECRET = ("HTTP_API_KEY", "MONGODB_URI")
"""What of the settings goes into the Secret, all else into the ConfigMap."""

pytestmark = [
    pytest.mark.deploy,
    # Where nothing is cached, the base image, the image and the tools are made first.
    pytest.mark.timeout(1500),
]

tools = kube.tools
world = acceptance.world


@dataclass(frozen=True, slots=True)
class Podman:
    """Podman over the project's engine."""

    environment: dict[str, str]

    def run(self, *arguments: str | Path, text: str = "") -> str:
        """What a command prints; it has to succeed."""
        done = self.attempt(*arguments, text=text)
        assert done.returncode == 0, f"podman {arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / "podman", *arguments],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )


@pytest.fixture(scope="session")
def podman(engine: Engine) -> Podman:
    """Podman with what it needs for pods."""
    if not engine.is_podman:
        pytest.skip("a Docker engine answers, and only Podman plays Kubernetes' YAML")
    pause = installed(Path(__file__).with_name("kube_pause"))
    path = os.environ["PATH"]
    return Podman({**os.environ, **engine.environment, "PATH": f"{pause}:{path}" if pause else path})


@dataclass(frozen=True, slots=True)
class Pod:
    """The Deployment's pod as Podman plays it."""

    podman: Podman
    deployment: str
    grace: int

    @property
    def name(self) -> str:
        """Its name, which Podman's versions make in different ways; empty when there is none."""
        found = self.podman.run("pod", "ps", "--filter", f"name={self.deployment}", "--format", "{{.Name}}")
        return found.strip()

    @property
    def container(self) -> str:
        return f"{self.name}-mailsender"

    def state(self) -> Object:
        (found,) = json.loads(self.podman.run("container", "inspect", self.container))
        assert isinstance(found, dict)
        return found

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script in the container, as its user."""
        return self.podman.attempt("exec", self.container, "sh", "-c", script)

    def log(self) -> str:
        done = self.podman.attempt("logs", self.container)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Stop it as the kubelet would; the exit status of the service."""
        # Podman before 4.6 does not read terminationGracePeriodSeconds.
        self.podman.run("pod", "stop", "--time", str(self.grace), self.name)
        status = self.state()["State"]["ExitCode"]
        assert isinstance(status, int)
        return status


def overlay(world: World, replica: Replica, image: str, folder: Path) -> Object:
    """The base with a test's settings, as a team would write it, and what Podman wants to have otherwise."""
    settings = dict(replica.settings)
    secret = {name: settings.pop(name) for name in SECRET}
    name, _, tag = image.rpartition(":")
    pod = "/spec/template/spec"
    return {
        "resources": [os.path.relpath(K8S / "base", folder.resolve())],
        "nameSuffix": f"-{world.database.replace('_', '-')}",
        "images": [{"name": "mailsender", "newName": name, "newTag": tag}],
        "configMapGenerator": [
            {
                "name": "mailsender",
                "behavior": "merge",
                "literals": [f"{name}={value}" for name, value in settings.items()],
            }
        ],
        "secretGenerator": [
            {"name": "mailsender", "literals": [f"{name}={value}" for name, value in secret.items()]}
        ],
        # Podman would run both replicas, on one port.
        "replicas": [{"name": "mailsender", "count": 1}],
        "patches": [
            {
                "target": {"kind": "Deployment"},
                "patch": json.dumps(
                    [
                        # The broker and mongod of the tests listen on loopback, and say so to their clients.
                        {"op": "add", "path": f"{pod}/hostNetwork", "value": True},
                        {"op": "remove", "path": f"{pod}/containers/0/ports"},
                        # Podman makes probes over HTTP into calls of curl inside the container, where there
                        # is none on purpose, and would stop the pod. The test asks their paths itself.
                        {"op": "remove", "path": f"{pod}/containers/0/startupProbe"},
                        {"op": "remove", "path": f"{pod}/containers/0/livenessProbe"},
                        {"op": "remove", "path": f"{pod}/containers/0/readinessProbe"},
                    ]
                ),
            }
        ],
    }


@pytest.fixture
def replica(world: World) -> Replica:
    """The service's side that the tests talk to; its process is the pod's, never started here."""
    # Slow enough for a stop to meet letters that wait, fast enough for the sample.
    return world.replica(
        SMTP_RATE_LIMIT_MAX_LETTERS="10", SMTP_RATE_LIMIT_PERIOD="1s", SMTP_RATE_LIMIT_BURST="10"
    )


@pytest.fixture
def pod(
    world: World, replica: Replica, podman: Podman, image: str, tools: Tools, tmp_path: Path
) -> Iterator[Pod]:
    """The pod, ready."""
    folder = tmp_path / "overlay"
    folder.mkdir()
    tools.overlay(folder, overlay(world, replica, image, folder))
    objects = {one["kind"]: one for one in tools.read(tools.render(folder))}
    deployment, secret = objects["Deployment"], objects["Secret"]
    made = Pod(
        podman,
        deployment["metadata"]["name"],
        deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
    )
    manifest = tmp_path / "played.json"
    played = [deployment, objects["ConfigMap"]]
    try:
        # Podman 4.3 keeps a Secret of the YAML in a form that it cannot read back as variables ("not valid
        # JSON"): it wants the data alone.
        podman.run("secret", "create", secret["metadata"]["name"], "-", text=json.dumps(secret["data"]))
        manifest.write_text("\n---\n".join(map(json.dumps, played)))
        podman.run("kube", "play", manifest)
        wait_until(lambda: replica.get("/readyz").status == 200, "ready pod", 60)
        yield made
    finally:
        _remove(made, secret["metadata"]["name"])


def _remove(pod: Pod, secret: str) -> None:
    """Leave nothing: no pod, no volumes of it, no secret."""
    deadline = time.monotonic() + 30
    # A container that has just ended may still hold a mount for a moment.
    while name := pod.name:
        done = pod.podman.attempt("pod", "rm", "--force", "--time", "0", name)
        assert time.monotonic() < deadline, done.stderr
        if done.returncode:
            time.sleep(0.5)
    pod.podman.attempt("volume", "rm", "tmp", "state")
    pod.podman.run("secret", "rm", secret)


def test_the_pod_sends_a_batch_and_drains(world: World, replica: Replica, pod: Pod, catcher: Catcher) -> None:
    # The probes' paths, as the kubelet asks them: without a key.
    for path in ("/healthz", "/readyz"):
        answer = replica.request("GET", path, headers={"X-API-KEY": ""})
        assert (answer.status, answer.body) == (200, b"ok\n")
    assert replica.request("GET", "/status", headers={"X-API-KEY": ""}).status == 401
    _check_confinement(pod)
    # As docs/kubernetes.md has it done after a first installation.
    check = pod.shell("mailsender check")
    assert check.returncode == 0, check.stdout + check.stderr

    answer = replica.post(SAMPLE.read_bytes())
    assert answer.status == 200
    reports = world.wait_reports(6)
    assert {report["ID"] for report in reports} == set(answer.json()["ids"])
    assert {report["Status"] for report in reports} == {"sent"}
    assert len(catcher.messages()) == 6

    # A stop in the middle of the work: SIGTERM, and no more than the grace period.
    world.publish(batches(200))
    wait_until(lambda: world.by_status()["sent"] >= 20, "letters being sent", 30)
    before = time.monotonic()
    assert pod.stop() == 0, pod.log()
    assert time.monotonic() - before < pod.grace

    left = world.by_status()
    assert left["awaiting"] > 0, "all were sent before the stop, which then proves nothing"
    assert left["processing"] == left["error"] == 0
    assert len({report["ID"] for report in world.reports()}) == left["sent"]
    assert len(catcher.messages()) == left["sent"], "something was sent without being settled, or twice"


def _check_confinement(pod: Pod) -> None:
    """What the manifests ask for is what the process has."""
    assert pod.shell("id -u").stdout == "10001\n"
    status = dict(line.split(":\t") for line in pod.shell("grep : /proc/1/status").stdout.splitlines())
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "a filter is in force"
    assert "Read-only file system" in pod.shell("touch /opt/x").stderr
    assert pod.shell("touch /tmp/x /var/lib/mailsender/x && rm /tmp/x /var/lib/mailsender/x").returncode == 0
