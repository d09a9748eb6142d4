"""The real parts that a run shares: broker, mongod, sink, Redis; each started when it is first asked for."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from lab.parts import SmtpSink, running
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod
from mailsender.dev.process import LOOPBACK, Child, Part, PartMissing, free_port, listens

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ROOT / "build" / "compiled"
"""Where `make compiled` leaves the compiled form of this tree."""
POSTFIX_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postfix/sbin"

MONGOD_CACHE_GB = 1.0
"""WiredTiger's cache: more than the tests' mongod gets, far less than it would take by itself."""

_COUNT = re.compile(rb"mesg=(\d+)")


def is_compiled_form(directory: Path) -> bool:
    """Whether a compiled form lies there."""
    return (directory / ".made").is_file()


def is_compiled() -> bool:
    """Whether there is a compiled form: there is none without a compiler."""
    return is_compiled_form(COMPILED)


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout whose service is measured, this one or one of another commit, and its compiled form."""

    root: Path
    compiled: Path

    def code(self, *, plain: bool = False) -> Path:
        """Where its modules lie: in their compiled form, unless there is none or `plain` is wanted."""
        return self.compiled if is_compiled_form(self.compiled) and not plain else self.root


HERE = Tree(ROOT, COMPILED)


class Taking(Protocol):
    """A sink, from outside."""

    @property
    def child(self) -> Child: ...

    def received(self) -> int:
        """How many letters it took since it was started."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """A way into a sink: a port of the loopback interface, and what `SMTP_TLS` is there.

    `ca` is the PEM file of who vouches for it, where it speaks TLS.
    """

    sink: Taking
    port: int
    tls: str = "none"
    ca: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """What mailsender has to know."""
        return {"SMTP_TLS": self.tls, "SMTP_TLS_CA_FILE": self.ca}

    @property
    def words(self) -> tuple[str, ...]:
        """What a bare client has to know beside the port."""
        return () if self.tls == "none" else (self.tls, self.ca)


class Sink(SmtpSink):
    """smtp-sink with its counter, which it writes at every final dot; it offers PIPELINING to everybody."""

    def received(self) -> int:
        """How many messages it took since it was started."""
        with self.child.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 256))
            found = _COUNT.findall(log.read())
        return int(found[-1]) if found else 0


class Redis(Part):
    """A redis-server with its append-only file on, synced every second: the durable setting that most use."""

    def __init__(self, directory: Path) -> None:
        super().__init__("redis", directory)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise PartMissing("there is no redis-server (on Debian: apt-get install redis-server)")
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        options = {"port": str(self.port), "bind": LOOPBACK, "dir": str(data), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "everysec"}
        self.child.start([binary, *(word for key, value in options.items() for word in (f"--{key}", value))])
        self.child.until(lambda: listens(self.port), 10)


class Stage:
    """What the peers of one run share. Leaving it ends every part. `tree` is whose service is measured."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree = HERE
        self._running = contextlib.ExitStack()
        self._rooms = 0
        directory.chmod(0o755)  # Postfix and its sink give up root's rights, and still have to come in

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @cached_property
    def broker(self) -> KafkaBroker:
        return self._running.enter_context(running(KafkaBroker(self.directory / "kafka")))

    @cached_property
    def mongod(self) -> Mongod:
        made = Mongod(self.directory / "mongod", cache_gb=MONGOD_CACHE_GB)
        return self._running.enter_context(running(made))

    @cached_property
    def sink(self) -> Sink:
        return self._running.enter_context(running(Sink(self.directory / "sink")))

    @cached_property
    def redis(self) -> Redis:
        return self._running.enter_context(running(Redis(self.directory / "redis")))

    @property
    def way(self) -> Way:
        """Into the sink that all share."""
        return Way(self.sink, self.sink.port)

    @contextlib.contextmanager
    def serving(self, tree: Tree) -> Iterator[None]:
        """Measure the service of another tree inside this block."""
        usual, self.tree = self.tree, tree
        try:
            yield
        finally:
            self.tree = usual

    def room(self, name: str) -> Path:
        """A fresh directory for one round."""
        self._rooms += 1
        made = self.directory / f"{name}-{self._rooms}"
        made.mkdir()
        return made


@contextlib.contextmanager
def python(name: str, directory: Path, *words: object, **variables: str) -> Iterator[Child]:
    """A Python process that knows these packages; ended at once when its block is left."""
    child = Child(name, directory)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    child.start([sys.executable, *map(str, words)], env=environment, cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()


def a_port() -> int:
    """A free port of the loopback interface."""
    return free_port()


def install_missing(wanted: dict[str, str]) -> None:
    """Install Debian packages, each by the program it brings, where this is root on Debian."""
    packages = [
        package for program, package in wanted.items() if not shutil.which(program, path=POSTFIX_PATH)
    ]
    apt = shutil.which("apt-get")
    if not packages or apt is None or os.geteuid() != 0:
        return
    print(f"Installing {', '.join(packages)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(
            [apt, "-q", *words], env=environment, check=False, stdout=subprocess.DEVNULL, timeout=300
        )
