"""The tools with which the tests render and check deploy/k8s."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import parts
from tests.deploy.engine import ROOT, UNAVAILABLE

K8S = ROOT / "deploy" / "k8s"

Object = dict[str, Any]

_READ_YAML = """
import json, sys, yaml

class Loader(yaml.SafeLoader):
    "Refuses what YAML readers differ about: a key given twice."

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

json.dump([one for one in yaml.load_all(sys.stdin, Loader) if one], sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What `kube_tools` installs."""

    folder: Path

    def render(self, folder: Path) -> str:
        """The YAML that `kubectl apply -k` would send."""
        return output([self.folder / "bin" / "kustomize", "build", folder])

    @staticmethod
    def overlay(folder: Path, kustomization: Object) -> None:
        """Make an overlay of its own; JSON is YAML, too."""
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization))

    def read(self, text: str) -> list[Object]:
        """The objects of a YAML stream."""
        found = json.loads(output([self.folder / "validate/bin/python", "-c", _READ_YAML], text))
        assert isinstance(found, list)
        return found

    def validate(self, version: str, file: Path) -> subprocess.CompletedProcess[str]:
        """Check a file against one version's schemas; an unknown field is a fault."""
        program = self.folder / "validate/bin/kubernetes-validate"
        command: list[str | Path] = [program, "--strict", "--kubernetes-version", version, file]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def output(command: Sequence[str | Path], text: str = "") -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(script: Path, timeout: float = 850) -> str:
    """Run a script that installs a tool; what it prints, which is where the tool lies."""
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode == UNAVAILABLE:
        parts.missing(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def tools() -> Tools:
    """kustomize, Kubernetes' schemas and a reader of YAML."""
    return Tools(Path(installed(Path(__file__).with_name("kube_tools"))))
