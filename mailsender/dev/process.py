"""Child processes with a log, a wait for readiness, and ways to end or freeze them."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below every system's ephemeral range: a client that retries against a stopped part's port can otherwise be
given that very port as its own, connect to itself, and keep the part from coming back."""


class ChildError(Exception):
    """A child process did not start, did not become ready, or ended when it should not."""


class PartMissing(Exception):  # noqa: N818 - it reads as what it says
    """This machine has not what a part needs; the text says what and how to get it."""


def cache_directory() -> Path:
    """Where what was fetched once is kept: `$MAILSENDER_CACHE`, else `~/.cache/mailsender`."""
    chosen = os.environ.get("MAILSENDER_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "mailsender"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class _Mine:
    """The ports that this process takes, and those given out: who got one may not listen there yet."""

    ports = _PORTS

    def __init__(self) -> None:
        self.given: set[int] = set()


_mine = _Mine()


def free_port() -> int:
    """A port of the loopback interface that nobody uses, below the ephemeral ones; another one each time."""
    if len(_mine.given) > len(_mine.ports) // 2:
        _mine.given.clear()  # most of those who got them are gone
    for _ in range(200):
        port = _mine.ports.start + secrets.randbelow(len(_mine.ports))
        if port not in _mine.given and port_is_free(port):
            _mine.given.add(port)
            return port
    raise ChildError(f"no free port between {_mine.ports.start} and {_mine.ports.stop}")


def take_ports(share: int, of: int) -> None:
    """From now on take ports of one of so many shares alone.

    Where several processes start parts, none of them then gets the port of a part that is down for a while.
    """
    size = len(_PORTS) // of
    _mine.ports = _PORTS[share * size : (share + 1) * size]


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


class _Guard:
    """This process's one `guard.py`, started with the first child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let it kill what is left, and wait for it."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.communicate()

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = self._start()
            stdin = self._process.stdin
            with contextlib.suppress(OSError):  # a guard that somebody killed is no reason to fail
                if stdin is not None:
                    stdin.write(line.encode())

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        atexit.register(self.close)
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


_guard = _Guard()


class Child:
    """One child process, in a session of its own, with its output in a file.

    In its own session a Ctrl-C at the terminal does not reach it: who started it decides when it ends. It
    never outlives this process, see `guard.py`.
    """

    def __init__(self, name: str, directory: Path, *, inherit_output: bool = False) -> None:
        self.name = name
        self.directory = directory.absolute()
        self.log = self.directory / f"{name}.log"
        self._inherit_output = inherit_output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended (frozen counts as running)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal's number; None while it runs."""
        return self._started().poll()

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it, in its own directory unless told otherwise; the log grows over several starts.

        Raises:
            ChildError: It runs already, or the system could not start it.
        """
        if self.running:
            raise ChildError(f"{self.name} runs already")
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=None if self._inherit_output else log,
                    stderr=None if self._inherit_output else subprocess.STDOUT,
                    cwd=cwd or self.directory,
                    env=None if env is None else dict(env),
                    start_new_session=True,
                )
            except OSError as error:
                raise ChildError(f"{self.name} could not be started: {error}") from error
        _guard.watch(self._process.pid)

    def until(self, check: Callable[[], object], timeout: float, what: str = "ready") -> None:
        """Wait until `check` holds, asking ever less often.

        Raises:
            ChildError: The process ended first, or the time was over.
        """
        deadline = time.monotonic() + timeout
        pause = 0.005
        while not check():
            if not self.running:
                raise ChildError(f"{self.name} ended with status {self.returncode}{self._last_words()}")
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name} was not {what} after {timeout:g} s{self._last_words()}")
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status.

        Raises:
            ChildError: It still runs after `timeout` seconds.
        """
        process = self._started()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{self.name} still runs after {timeout:g} s{self._last_words()}") from None
        _guard.forget(process.pid)
        return status

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it started; nothing when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._started().pid, number)

    def stop(self, timeout: float = 20.0) -> None:
        """End it politely; past the deadline kill it."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        self.thaw()  # a frozen process gets its SIGTERM only then
        try:
            self.wait(timeout)
        except ChildError:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self.wait(10.0)

    def freeze(self) -> None:
        """Stop its execution (SIGSTOP): its connections stay open and nothing answers.

        Returns when all its threads have stopped: on a busy machine some of them can still answer after the
        signal was sent.

        Raises:
            ChildError: They have not within ten seconds.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while self.running and not self._stopped():
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name} goes on although it was told to stop")
            time.sleep(0.001)

    def _stopped(self) -> bool:
        told = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        try:
            return os.waitid(os.P_PID, self.pid, told) is not None
        except ChildProcessError:  # it has ended, and somebody waited for it
            return True

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.signal(signal.SIGCONT)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        return self._process

    def _last_words(self, lines: int = 15) -> str:
        if not self.log.exists():
            return ""
        text = self.log.read_text("utf-8", "replace").splitlines()[-lines:]
        return "".join(f"\n  {line}" for line in [f"(the end of {self.log}:)", *text]) if text else ""


class Part(ABC):
    """A server that runs as a child process on a port of the loopback interface."""

    def __init__(self, name: str, directory: Path, port: int = 0) -> None:
        self.directory = directory.absolute()
        self.port = port or free_port()
        self.child = Child(name, directory)

    @abstractmethod
    def start(self) -> None:
        """Start it, on the same port each time, and return when it is ready.

        Raises:
            PartMissing: This machine has not what it needs.
            ChildError: It did not become ready.
        """

    def stop(self) -> None:
        """End it politely; its data stays."""
        self.child.stop()

    def kill(self) -> None:
        """End it as a power cut would; its data stays."""
        self.child.kill()

    def freeze(self) -> None:
        """Keep it from answering, its connections open."""
        self.child.freeze()

    def thaw(self) -> None:
        """Let it answer again."""
        self.child.thaw()
