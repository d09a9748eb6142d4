"""SIGTERM in the first second of `mailsender run`, while it still imports what it needs.

As process 1 of a container it has to have a handler by then: the kernel keeps a signal without one from the
first process of a PID namespace, the container goes on, and is killed when its grace period is over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.parts import missing

HOLD = '''
"""Put on the way of imports: the one named in HOLD_AT tells the test, then waits to be stopped."""

import os
import signal
import sys


class Hold:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["HOLD_AT"]:
            with open(os.environ["HOLD_TELLS"], "w") as fifo:
                fifo.write(str(os.getpid()))
            signal.pause()
        return None


sys.meta_path.insert(0, Hold())
'''

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Start]:
    """Starts the command, and returns when it stands still in the middle of the import of `module`."""
    (tmp_path / "sitecustomize.py").write_text(HOLD)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started: list[subprocess.Popen[bytes]] = []

    def start(
        module: str, *, within: tuple[str, ...] = (), number: str | None = None
    ) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "HOLD_AT": module,
            "HOLD_TELLS": str(fifo),
            "SMTP_HOST": "127.0.0.1",
            "SMTP_FROM": "robot@example.test",
            "KAFKA_BROKERS": "127.0.0.1:1",
            "MONGODB_URI": "memory:",
        }
        command = [*within, sys.executable, "-m", "mailsender", "run"]
        process = subprocess.Popen(command, env=environment)
        started.append(process)
        told = fifo.read_text()  # returns when the other end was opened, written to and closed
        assert told == (number or str(process.pid))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("module", ["mailsender.settings.environment", "mailsender.app", "aiokafka"])
def test_a_signal_during_the_imports_ends_it_in_good_order(held: Start, module: str) -> None:
    process = held(module)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def in_a_pid_namespace() -> tuple[str, ...]:
    """What starts a command as process 1: for root, else with the help of a user namespace."""
    plain = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    return plain if works(plain) else (*plain, "--map-root-user")


def works(command: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False, timeout=20)
    except OSError:
        return False
    return done.returncode == 0


def test_as_process_1_of_a_container_it_hears_the_signal(held: Start) -> None:
    namespace = in_a_pid_namespace()
    if not works(namespace):
        missing("PID namespaces cannot be made here (unshare)")
    outer = held("mailsender.app", within=namespace, number="1")
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    [inner] = map(int, children)
    os.kill(inner, signal.SIGTERM)
    assert outer.wait(20) == 0, "unshare ends with the status of what it started"
