"""A process whose file is read again: by a signal, and by the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mailsender.dev.process import free_port

COMMAND = [sys.executable, "-m", "mailsender"]

TEXT = """\
[relays.a]
host = "127.0.0.1"
port = 1
tls = "none"
rate = "14/s"
[routes.default]
relays = ["a"]
"""


class Running:
    """The process, its file and its log."""

    def __init__(self, directory: Path) -> None:
        self.file, self.log = directory / "relays.toml", directory / "log"
        self.file.write_text(TEXT)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "SMTP_FROM": "from@example.test",
            "MAILSENDER_CONFIG": str(self.file),
            "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
            "MONGODB_URI": "memory:",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "DRAIN_TIMEOUT": "2s",
            "LOG_FORMAT": "json",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*COMMAND, "run"], env=self.environment, stderr=log)

    def until(self, so: Callable[[], bool], within: float = 90.0) -> None:
        ends = time.monotonic() + within
        while not so():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)

    def alive(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/healthz", timeout=5):
            return True
        return False

    def told(self, event: str, words: str) -> bool:
        lines = self.log.read_text().splitlines()
        return any(f'"{event}"' in line and words in line for line in lines)

    def reload(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "reload", "--url", self.url],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    try:
        made.until(made.alive)
        yield made
    finally:
        made.process.kill()
        made.process.wait(10)


def test_a_hang_up_has_the_file_read_again_and_a_wrong_one_changes_nothing(running: Running) -> None:
    running.file.write_text(TEXT.replace("14/s", "7/s"))
    running.process.send_signal(signal.SIGHUP)
    running.until(lambda: running.told("config_reloaded", "relays.a.rate"))
    running.file.write_text(TEXT.replace("rate", "rte"))
    running.process.send_signal(signal.SIGHUP)
    running.until(lambda: running.told("config_refused", "relays.toml:5: relays.a.rte: is no key here"))
    refused = running.reload()
    assert refused.returncode == 1
    assert "relays.toml:5: relays.a.rte: is no key here; rate may be meant" in refused.stderr
    running.file.write_text(TEXT.replace("14/s", "3/s").replace("port = 1", "port = 2"))
    made = running.reload()
    assert (made.returncode, made.stdout) == (
        0,
        "restart  relays.a.rate\nrestart  relays.a: how it is reached, or who logs in\n",
    )
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0, running.log.read_text()
