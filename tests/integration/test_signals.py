"""Signals from the first moment of the process to its last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mailsender.dev.process import free_port

COMMAND = [sys.executable, "-m", "mailsender", "run"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def environment(port: int) -> dict[str, str]:
    """What a service needs that waits for its broker."""
    return {
        "PATH": os.environ["PATH"],
        "SMTP_HOST": "127.0.0.1",
        "SMTP_FROM": "from@example.test",
        "SMTP_TLS": "none",
        "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
        "MONGODB_URI": "memory:",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "DRAIN_TIMEOUT": "2s",
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def until_alive(port: int, within: float = 60.0) -> None:
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return
        time.sleep(0.05)
    raise AssertionError("it does not answer")


def handles(process: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_each_signal_that_means_an_end_drains(
    environment: dict[str, str], port: int, log: Path, number: signal.Signals
) -> None:
    with log.open("wb") as out, subprocess.Popen(COMMAND, env=environment, stderr=out) as process:
        try:
            until_alive(port)
            process.send_signal(number)
            assert process.wait(20) == 0
        finally:
            process.kill()
    text = log.read_text()
    assert f'"{number.name}"' in text
    assert '"event":"stopped"' in text.replace(": ", ":")


def test_a_hang_up_that_is_ignored_by_wish_stays_ignored(
    environment: dict[str, str], port: int, log: Path
) -> None:
    with log.open("wb") as out, subprocess.Popen(["nohup", *COMMAND], env=environment, stderr=out) as process:
        try:
            until_alive(port)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert '"SIGHUP"' not in log.read_text()


@pytest.fixture
def slow_imports(tmp_path: Path) -> Iterator[Path]:
    """A place for modules in which the command line takes for ever to be imported."""
    place = tmp_path / "slow"
    place.mkdir()
    (place / "typer.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    return place


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_while_it_still_imports_ends_it_at_once(
    environment: dict[str, str], slow_imports: Path, number: signal.Signals
) -> None:
    environment["PYTHONPATH"] = str(slow_imports)
    with subprocess.Popen(
        COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"importing\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, b"", b"")


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
def test_from_its_first_handler_on_no_moment_is_deaf(environment: dict[str, str], wait: float) -> None:
    with subprocess.Popen(COMMAND, env=environment, stderr=subprocess.PIPE) as process:
        try:
            ends = time.monotonic() + 30
            while not handles(process.pid, signal.SIGTERM) and time.monotonic() < ends:
                time.sleep(0.001)
            time.sleep(wait)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in err


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a namespace of processes takes root"
)
def test_as_process_1_it_hears_a_signal_before_it_has_imported_anything(
    environment: dict[str, str], slow_imports: Path
) -> None:
    environment["PYTHONPATH"] = str(slow_imports)
    command = ["unshare", "--pid", "--fork", "--kill-child", *COMMAND]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                pytest.skip("no namespace of processes is to be had here")
            (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(inner), signal.SIGTERM)
            assert process.wait(5) == 0
        finally:
            process.kill()


STUCK = """
import asyncio, time
from mailsender import app as service

async def main(settings):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
    service.log.info("last words")
    return 3

service._main = main
from mailsender.settings.environment import load
service.run_service(load())
"""


def test_a_thread_that_cannot_be_called_off_does_not_hold_up_the_end(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], env=environment, stderr=subprocess.PIPE, timeout=30, check=False
    )
    assert done.returncode == 3
    assert b"last words" in done.stderr
