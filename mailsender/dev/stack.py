"""`mailsender dev`: broker, database, mail catcher and the service, on one machine, without Docker."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from mailsender.dev.catcher import Catcher
from mailsender.dev.kafka import (
    KAFKA_VERSION,
    Broker,
    KafkaBroker,
    MockBroker,
    java_version,
    kafka_jars,
)
from mailsender.dev.mongod import Mongod, mongod_binary, mongod_version
from mailsender.dev.process import LOOPBACK, Child, ChildError, Part, PartMissing, listens, port_is_free
from mailsender.dev.terminal import own_foreground
from mailsender.settings.groups.mongodb import MEMORY_URI

HTTP_PORT, KAFKA_PORT, MONGODB_PORT, SMTP_PORT, CATCHER_PORT = 8000, 9092, 27017, 1025, 8025
MAX_PORT = 65535
SAMPLE = Path(__file__).with_name("sample.json")

_SERVICE = (sys.executable, "-m", "mailsender", "run")
_READY_TIMEOUT = 60.0
_TOPICS = {
    "KAFKA_TOPIC_MAILSENDER": "mts-to-mailsender",
    "KAFKA_TOPIC_PROFILE": "mts-to-profile",
    "KAFKA_TOPIC_DEAD_LETTER": "mts-to-mailsender-dead-letter",
}


class _InUseError(ChildError):
    """A running stack has the directory: nothing in it is to be thrown away."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where everything is; `.dev/endpoints.json` holds the same."""

    http: str
    kafka: str
    mongodb: str
    smtp: str
    catcher: str


def run_stack(directory: Path = Path(".dev"), *, service: Sequence[str] = _SERVICE) -> int:
    """Start everything, wait for the service's end, stop everything.

    A Ctrl-C, a SIGTERM or the service's own `/halt` ends it; the parts stay until the service has drained.

    Args:
        directory: Where all state lives; a second start in it finds the first one's letters.
        service: The command that starts the service.

    Returns:
        The exit status: the service's, so 0 after a clean drain; 1 when something did not start.
    """
    console = Console(highlight=False)
    directory = directory.absolute()
    try:
        with own_foreground(), _interruptible(), _only_one(directory), contextlib.ExitStack() as parts:
            return _Stack(console, directory, parts).run(service)
    except KeyboardInterrupt:
        console.print("Stopped before everything was up.")
        return 0
    except _InUseError as error:
        console.print(f"[bold red]✗[/] {escape(str(error))}")
        return 1
    except (ChildError, PartMissing) as error:
        console.print(f"[bold red]✗[/] {escape(str(error))}")
        console.print(f"  Logs and state are in {escape(str(directory))}; it can be thrown away.")
        return 1


class _Stack:
    """One run: the parts as they come up, each of which `parts` will stop, last first."""

    def __init__(self, console: Console, directory: Path, parts: contextlib.ExitStack) -> None:
        self._console = console
        self._directory = directory
        self._parts = parts
        self._service = Child("service", directory, inherit_output=True)
        self._told = directory / "endpoints.json"
        self._topics = {name: os.environ.get(name) or default for name, default in _TOPICS.items()}

    def run(self, command: Sequence[str]) -> int:
        started = time.monotonic()
        self._told.unlink(missing_ok=True)
        broker = self._start_broker()
        mongodb = self._start_mongod()
        catcher = self._start_catcher()
        http_port = _http_port()
        endpoints = Endpoints(
            http=f"http://{LOOPBACK}:{http_port}",
            kafka=broker.bootstrap,
            mongodb=mongodb,
            smtp=f"{catcher.host}:{catcher.port}",
            catcher=catcher.http,
        )
        self._start_service(command, catcher, http_port, endpoints)
        if self._service.running:
            self._tell(endpoints, time.monotonic() - started)
        status = self._service.wait()
        self._told.unlink(missing_ok=True)
        self._console.print(f"The service has ended with status {status}; stopping the rest.")
        return status if status >= 0 else 128 - status

    def _start_broker(self) -> Broker:
        broker: Broker
        try:
            with self._step("Kafka's jars", "fetching them if they are not here yet (43 MB, once)") as say:
                java = java_version().split(".", maxsplit=1)[0]
                kafka_jars()
                say(f"Apache Kafka {KAFKA_VERSION}, Java {java}")
            broker = KafkaBroker(self._directory / "kafka", _pick_port(KAFKA_PORT))
        except PartMissing as error:
            self._note(f"{error}: an in-memory broker instead, which forgets its topics at the end")
            broker = MockBroker(self._directory / "mock-broker")
        with self._step("Kafka", "starting") as say:
            self._start(broker)
            broker.ensure_topics(list(self._topics.values()))
            say(broker.bootstrap)
        return broker

    def _start_mongod(self) -> str:
        try:
            mongod_binary()
        except PartMissing as error:
            self._note(f"{error}: an in-memory queue instead, which forgets its letters at the end")
            return MEMORY_URI
        mongod = Mongod(self._directory / "mongod", _pick_port(MONGODB_PORT))
        with self._step("MongoDB", "starting") as say:
            self._start(mongod)
            say(f"{mongod.uri} (mongod {mongod_version()})")
        return mongod.uri

    def _start_catcher(self) -> Catcher:
        catcher = Catcher(self._directory / "catcher", _pick_port(SMTP_PORT), _pick_port(CATCHER_PORT))
        with self._step("Mail catcher", "starting") as say:
            self._start(catcher)
            say(f"{catcher.host}:{catcher.port}, its page {catcher.http}")
        return catcher

    def _start_service(self, command: Sequence[str], catcher: Catcher, port: int, where: Endpoints) -> None:
        """Start it; from then on the signals that would end this process go to the service."""
        environment = os.environ | {
            "KAFKA_BROKERS": where.kafka,
            "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
            "MONGODB_URI": where.mongodb,
            "SMTP_HOST": catcher.host,
            "SMTP_PORT": str(catcher.port),
            "SMTP_TLS": "none",
            "SMTP_USER": "",
            "SMTP_PASSWORD": "",
            # Its relays are real ones, and nothing is mailed from here.
            "MAILSENDER_CONFIG": "",
            "SMTP_FROM": os.environ.get("SMTP_FROM") or "mailsender <mailsender@example.test>",
            "MAILSENDER_STATE_DIR": os.environ.get("MAILSENDER_STATE_DIR")
            or str((self._directory / "journal").absolute()),
            "HTTP_HOST": LOOPBACK,
            "HTTP_PORT": str(port),
            # Codes that were made before a restart are over: who tries things out asks for another.
            "CODE_SECRET": os.environ.get("CODE_SECRET") or secrets.token_hex(32),
        }
        self._console.print("  Service: starting")
        self._service.start(command, env=environment, cwd=Path.cwd())
        self._parts.callback(self._service.stop)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._forward)
        self._service.until(lambda: not self._service.running or _is_ready(port), _READY_TIMEOUT)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._service.signal(number)

    def _start(self, part: Part) -> None:
        self._parts.callback(part.stop)
        part.start()

    @contextlib.contextmanager
    def _step(self, name: str, what: str) -> Iterator[Callable[[str], None]]:
        """A line of progress: a spinner on a terminal, then what came of it and how long it took."""
        started = time.monotonic()
        result: list[str] = []
        with self._console.status(f"{name}: {what}"):
            yield result.append
        took = time.monotonic() - started
        self._console.print(f"[green]✓[/] {name}: {escape(' '.join(result))} [dim]({took:.1f} s)[/]")

    def _note(self, text: str) -> None:
        self._console.print(f"[yellow]![/] {escape(text)}", soft_wrap=True)

    def _tell(self, endpoints: Endpoints, took: float) -> None:
        """Write the file, then say on the terminal where everything is and what to try."""
        fresh = self._told.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(endpoints)) + "\n", "utf-8")
        fresh.replace(self._told)
        self._console.print(f"[green]✓[/] Service: {endpoints.http} [dim](all in {took:.1f} s)[/]")
        # No frame and no wrapping: these lines are there to be copied.
        self._console.print("\n" + escape(_what_to_try(endpoints, self._topics)) + "\n", soft_wrap=True)


def _what_to_try(endpoints: Endpoints, topics: dict[str, str]) -> str:
    here = Path.cwd()
    programs = Path(sys.executable).parent
    found = (
        []
        if shutil.which("mailsender")
        else ["For `mailsender` in another shell:", f'  export PATH="{programs}:$PATH"']
    )
    sample = SAMPLE.relative_to(here) if SAMPLE.is_relative_to(here) else SAMPLE
    key = ' -H "X-API-KEY: $HTTP_API_KEY"' if os.environ.get("HTTP_API_KEY") else ""
    letters, reports = topics["KAFKA_TOPIC_MAILSENDER"], topics["KAFKA_TOPIC_PROFILE"]
    return "\n".join(
        [
            f"Service {endpoints.http}   Kafka {endpoints.kafka}   SMTP {endpoints.smtp}",
            f"MongoDB {endpoints.mongodb}",
            f"Caught mail {endpoints.catcher}",
            "",
            *found,
            "Post six letters over HTTP, or as a record:",
            f"  curl{key} --data-binary @{sample} {endpoints.http}/post",
            f"  kcat -P -b {endpoints.kafka} -t {letters} -k demo {sample}",
            "Read the reports:",
            f"  kcat -C -b {endpoints.kafka} -t {reports} -o beginning",
            "Drain and stop (or Ctrl-C):",
            f"  curl{key} -X POST {endpoints.http}/halt",
        ]
    )


def _pick_port(wanted: int) -> int:
    """The wanted port, or the next that nobody uses."""
    for port in range(wanted, wanted + 100):
        if port_is_free(port) and not listens(port):
            return port
    raise ChildError(f"no free port from {wanted} to {wanted + 99}")


def _http_port() -> int:
    """The service's port: the one that ``HTTP_PORT`` names, or else the first that is free.

    Raises:
        ChildError: the one that is named is none, or somebody uses it.
    """
    named = os.environ.get("HTTP_PORT", "").strip()
    if not named:
        return _pick_port(HTTP_PORT)
    if not named.isascii() or not named.isdigit() or not 1 <= int(named) <= MAX_PORT:
        raise ChildError(f"HTTP_PORT is no port of 1 to {MAX_PORT}")
    if not port_is_free(int(named)) or listens(int(named)):
        raise ChildError(f"HTTP_PORT: port {named} is in use; name another one, or none")
    return int(named)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Keep a second stack out of the same state."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _InUseError(f"another `mailsender dev` uses {directory}") from None
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Until the service is there, SIGTERM does what a Ctrl-C does; afterwards all is as before."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in kept:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
