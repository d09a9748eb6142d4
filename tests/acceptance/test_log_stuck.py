"""The service beside a log collector that hangs, and one that went away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from mailsender.dev.process import free_port


@contextmanager
def service(stderr: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """One that waits for its broker, and tells so."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "SMTP_HOST": "127.0.0.1",
        "SMTP_FROM": "from@example.test",
        "SMTP_TLS": "none",
        "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
        "MONGODB_URI": "memory:",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "LOG_LEVEL": "debug",
        "DRAIN_TIMEOUT": "2s",
    }
    command = [sys.executable, "-m", "mailsender", "run"]
    process = subprocess.Popen(command, env=environment, stderr=stderr)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answers(url: str, within: float = 30.0) -> bool:
    """Whether it does so before the time is over; it may not listen yet."""
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    return False


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more: whoever writes to it waits until somebody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"." * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b".")
    os.set_blocking(write, True)
    return read, write


@pytest.mark.parametrize("kind", ["stuck", "closed", "full"])
def test_a_log_that_takes_nothing_stops_nothing(kind: str) -> None:
    if kind == "full":
        read, write = os.open("/dev/null", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    else:
        read, write = full_pipe()
    try:
        if kind == "closed":
            os.close(read)
        with service(write) as (process, url):
            assert answers(f"{url}/healthz")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        if kind != "closed":
            os.close(read)
        os.close(write)
