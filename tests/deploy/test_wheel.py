"""The wheel, as somebody gets it who installs mailsender into an environment of theirs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mailsender
from lab import parts
from tests.deploy.engine import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]


def run(*command: str | Path, directory: Path, status: int = 0) -> str:
    """Run a command far from the checkout; what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    return said


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the locked build backend, without asking the network."""
    directory = tmp_path_factory.mktemp("wheel")
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", directory, ROOT, directory=directory)
    (found,) = directory.glob("*.whl")
    parts.met["wheel"] = f"{found.name} ({found.stat().st_size // 1000} kB)"
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of a fresh environment with the wheel and what it needs at run time, as locked."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", directory, directory=directory)
    pip: list[str | Path] = [directory / "bin" / "python", "-m", "pip"]
    pip += ["--quiet", "--disable-pip-version-check", "install"]
    run(*pip, "--require-hashes", "--requirement", ROOT / "requirements" / "run.txt", directory=directory)
    run(*pip, "--no-index", "--no-deps", wheel, directory=directory)
    return directory / "bin"


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "mailsender/py.typed" in names
    assert "mailsender/dev/sample.json" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"mailsender", f"mailsender-{mailsender.__version__}.dist-info"}, "no tests, nothing else"


def test_what_it_needs_is_what_is_locked(environment: Path, tmp_path: Path) -> None:
    run(environment / "python", "-m", "pip", "check", directory=tmp_path)


def test_the_command_is_on_the_path(environment: Path, tmp_path: Path) -> None:
    said = run(environment / "mailsender", "--version", directory=tmp_path)
    assert said == f"mailsender {mailsender.__version__}\n"
    assert "run" in run(environment / "python", "-m", "mailsender", "--help", directory=tmp_path)


def test_every_module_of_the_service_loads(environment: Path, tmp_path: Path) -> None:
    load = "import mailsender.app, mailsender.check.run, mailsender.cli.tables, mailsender.cli.client"
    run(environment / "python", "-W", "error", "-c", load, directory=tmp_path)


def test_the_embedded_stack_says_which_extra_it_wants(environment: Path, tmp_path: Path) -> None:
    said = run(environment / "mailsender", "dev", directory=tmp_path, status=1)
    assert "pip install 'mailsender[dev]'" in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_its_types_are_seen(environment: Path, tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "from mailsender.model.letter import Letter\n\n"
        "def first(letter: Letter) -> int:\n    return letter.addresses[0]\n"
    )
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--config-file="]
    mypy += ["--cache-dir", tmp_path / "cache", "--python-executable", environment / "python"]
    said = run(*mypy, user, directory=tmp_path, status=1)
    assert 'Incompatible return value type (got "str", expected "int")' in said
    assert "Found 1 error" in said, said
