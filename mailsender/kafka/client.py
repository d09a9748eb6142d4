"""What both sides of Kafka share: settings, TLS, errors in our words, a quiet log, a client that is kept.

aiokafka survives a broker that goes and comes back, but logs thousands of lines meanwhile, and some of its
calls wait for ever on a broker that hangs. So its log is folded into one event for each change of state, and
every call is made under a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import (
    BrokerResponseError,
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    kafka_errors,
)

from mailsender.model.clock import Clock, SystemClock
from mailsender.model.errors import Forbidden, Rejected, TooLarge, Unavailable
from mailsender.net.tls import client_context

log = structlog.get_logger()

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
"""Seconds between two attempts to start a client; doubled from the first to the longest."""

CALM = 10.0
"""Seconds without a warning of the client library after which a success ends its trouble."""


OURS = "mailsender"
"""How the client ids of all our replicas begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """How brokers are reached and how long is waited for them; times in seconds, sizes in bytes.

    `timeout` is the deadline of every wait. `max_bytes` bounds the fetched records in memory: half of it for
    those handed out, half for those fetched ahead. A member that does not poll for `max_poll_interval` leaves
    the group. A client that got nothing at all for `stall` is replaced. `retry_unreadable` is the wait before
    a partition whose next record cannot be read is tried again.
    """

    brokers: tuple[str, ...]
    client_id: str = OURS
    group: str = "mailsender"
    instance_id: str = ""
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    timeout: float = 10.0
    session_timeout: float = 10.0
    max_poll_interval: float = 300.0
    metadata_max_age: float = 5.0
    max_bytes: int = 16 * 1024 * 1024
    max_request_size: int = 1_000_000
    compression: str | None = None
    stall: float = 60.0
    retry_unreadable: float = 60.0


def _losing(send: Callable[..., Any]) -> Callable[..., Any]:
    """`send` of the library's connections, which a loss ends with the error that it expects of one.

    A transport of uvloop's that was lost in this very turn of the loop raises RuntimeError when it is written
    to (aiokafka's issue 1038). That ended the task that renews metadata, and nobody saw it: from then on
    every commit waited for that task.
    """

    @wraps(send)
    def sent(connection: Any, *args: Any, **named: Any) -> Any:
        try:
            return send(connection, *args, **named)
        except KafkaError:
            raise  # they are RuntimeErrors, too
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection was lost: {error}") from error

    return sent


AIOKafkaConnection.send = _losing(AIOKafkaConnection.send)
AIOKafkaConnection._send_sasl_token = _losing(AIOKafkaConnection._send_sasl_token)  # noqa: SLF001  no public way


def client_options(config: KafkaConfig) -> dict[str, Any]:
    """What consumers and producers of aiokafka are told alike.

    Raises:
        OSError: a TLS file cannot be read or is no PEM.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": list(config.brokers),
        "client_id": config.client_id,
        "request_timeout_ms": int(config.timeout * 1000),
        "metadata_max_age_ms": int(config.metadata_max_age * 1000),
        "security_protocol": config.security_protocol,
    }
    if config.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = config.sasl_mechanism
        options["sasl_plain_username"] = config.sasl_username
        options["sasl_plain_password"] = config.sasl_password
    if config.security_protocol.endswith("SSL"):
        options["ssl_context"] = _tls(config)
    return options


def _tls(config: KafkaConfig) -> ssl.SSLContext:
    for name in (config.tls_ca_file, config.tls_cert_file, config.tls_key_file):
        if name:
            Path(name).open("rb").close()  # whose error names the file, as those of ssl do not
    return client_context(config.tls_ca_file, config.tls_cert_file, config.tls_key_file)


def described(error: BaseException) -> str:
    """An error of the library in one short line: its class where it says nothing."""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """The broker refuses a record for what it holds, as one without a key on a compacted topic."""

    errno = 87
    message = "INVALID_RECORD"
    description = "the broker refuses the record; on a compacted topic it needs a key"


class FencedInstanceIdError(BrokerResponseError):  # type: ignore[misc]  # as above
    """Another member of the group came with the same name."""

    errno = 82
    message = "FENCED_INSTANCE_ID"
    description = "another member of the group has the same KAFKA_GROUP_INSTANCE_ID"


# What the library does not know would all be one "unknown error".
for _error in (InvalidRecordError, FencedInstanceIdError):
    kafka_errors.setdefault(_error.errno, _error)


def translated(error: BaseException, *, keyless: bool = False) -> Rejected | Unavailable:
    """The error of a publishing in the words of the ports, with the original as its cause.

    `keyless` says that it is about a single record without a key: then brokers mean that by "corrupt", too.
    """
    ours: Rejected | Unavailable
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        ours = TooLarge(described(error))
    elif isinstance(error, InvalidRecordError):
        ours = Rejected(f"Kafka: {described(error)}")
    elif keyless and isinstance(error, CorruptRecordException):
        ours = Rejected(f"Kafka: {described(error)}; on a compacted topic a record needs a key")
    elif isinstance(error, TopicAuthorizationFailedError):
        ours = Forbidden(f"Kafka: {described(error)}")
    else:
        ours = Unavailable(f"Kafka: {described(error)}")
    ours.__cause__ = error
    return ours


# --- the library's own log -----------------------------------------------------------------------


_NOT_KNOWN = "member_id was not recognized"

_IN_CLEAR = "Sending username and password in the clear"


class ClientLog(logging.Handler):
    """Folds the library's warnings into two events: one when trouble begins, one when it is over.

    Over means that something succeeded (`well`) after `CALM` seconds without another warning.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._began: float | None = None
        self._latest = 0.0
        self._lines = 0
        self._warned = False
        self.last = ""
        self.thrown_out: deque[float] = deque(maxlen=16)  # when the group did not know its member any more

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line of the library."""
        if record.msg == _IN_CLEAR:
            self._password_in_clear()
            return
        self._latest = self._clock.monotonic()
        if _NOT_KNOWN in str(record.msg):
            self.thrown_out.append(self._latest)
        self._lines += 1
        self.last = _worded(record)
        if self._began is None:
            self._began = self._latest
            log.warning(
                "kafka_client_trouble",
                said=self.last,
                by=record.name,
                doing="the client tries again by itself; further lines of it are counted, not logged",
            )

    def _password_in_clear(self) -> None:
        """No trouble, but something to be told, once."""
        if not self._warned:
            self._warned = True
            log.warning(
                "kafka_password_in_clear",
                action="anybody on the way can read it; set KAFKA_SECURITY_PROTOCOL=SASL_SSL,"
                " or KAFKA_SASL_MECHANISM=SCRAM-SHA-512",
            )

    def well(self) -> None:
        """Note that a broker has just done what it was asked for."""
        now = self._clock.monotonic()
        if self._began is None or now - self._latest < CALM:
            return
        log.info("kafka_client_calm", seconds=round(now - self._began, 1), lines=self._lines)
        self._began, self._lines, self.last = None, 0, ""


def _worded(record: logging.LogRecord) -> str:
    """A line of the library, in which an error that says nothing, as a time-out does, stands by its class."""
    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage()
    dumb = (isinstance(each, BaseException) and not str(each) for each in record.args)
    told = (type(each).__name__ if mute else each for each, mute in zip(record.args, dumb, strict=True))
    return str(record.msg) % tuple(told)


def client_log(clock: Clock | None = None) -> ClientLog:
    """The handler that all clients of this process share; put in place the first time."""
    logger = logging.getLogger("aiokafka")
    for handler in logger.handlers:
        if isinstance(handler, ClientLog):
            return handler
    handler = ClientLog(clock or SystemClock())
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # its debug lines hold keys and values
    logger.propagate = False
    return handler


# --- a client that is kept -----------------------------------------------------------------------


class Client(Protocol):
    """What aiokafka's consumer and producer have in common."""

    async def start(self) -> None:
        """Connect."""
        ...

    async def stop(self) -> None:
        """Finish and disconnect."""
        ...


C = TypeVar("C", bound=Client)


IDLE_STOP = 2.0
"""Seconds for the stop of a client that holds nothing. One that joins its group is let in only when others
have come, or a dead one's session is over, and `stop` waits for that: longer than a drain may."""


class Keeper(Generic[C]):
    """Keeps one client started: tries until a broker answers, and makes a new one when told to.

    `make` makes an unstarted client; `begun` is called with it once it is started; `abandon` frees by force
    what `stop` left behind. `holds` says whether it has something that a stop has to end in good order; where
    it has not, that is given `IDLE_STOP` seconds and not all of the config's timeout.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        make: Callable[[], C],
        begun: Callable[[C], None],
        abandon: Callable[[C], Awaitable[None]],
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._holds = holds
        self._make = make
        self._begun = begun
        self._abandon = abandon
        self._client: C | None = None
        self._started = asyncio.Event()
        self._beyond_help = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE
        self._told = False
        self.fault = ""

    @property
    def client(self) -> C | None:
        """The client, when one is started."""
        return self._client

    def open(self) -> None:
        """Begin to keep one."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    def keeps(self, client: C) -> bool:
        """Whether `client` is the one in use, and not one that was given up."""
        return client is self._client

    async def get(self, timeout: float) -> C | None:
        """The client, or None if none is started within `timeout` seconds."""
        if self._client is None:
            try:
                async with asyncio.timeout(timeout):
                    await self._started.wait()
            except TimeoutError:
                return None
        return self._client

    def replace(self, client: C, why: str) -> None:
        """Have a new client made in place of `client`; nothing if that was done already."""
        if not self.keeps(client):
            return
        self.fault = why
        self._client = None
        self._started.clear()
        self._beyond_help.set()

    def well(self) -> None:
        """Note that the client works: the next trouble begins with a short pause again."""
        self._pause = FIRST_PAUSE
        self.fault = ""

    async def close(self) -> None:
        """Stop the client within the deadline."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        """Make one client after another; nothing that goes wrong with one keeps the next from being made."""
        while True:
            try:
                await self._keep_one()
            except Exception as error:  # noqa: BLE001  a file that is away for a moment, a fault of the library
                self._ails(described(error))
            await asyncio.sleep(self._pause)
            self._pause = min(LONGEST_PAUSE, self._pause * 2)

    async def _keep_one(self) -> None:
        """Make a client and keep it until it is to be replaced."""
        client = self._make()
        try:
            async with asyncio.timeout(2 * self._config.timeout):
                await client.start()
            self._client = client
            self._begun(client)
            self._beyond_help.clear()
            self._told = False
            self._started.set()
            await self._beyond_help.wait()
        except (KafkaError, TimeoutError, ConnectionError) as error:
            # No broker answers: the library has said so, and better, in its own log.
            self.fault = client_log().last or described(error)
        finally:
            self._client = None
            self._started.clear()
            await self._stop(client)

    def _ails(self, reason: str) -> None:
        self.fault = f"no client can be started: {reason}"
        if not self._told:
            self._told = True
            log.warning(
                "kafka_client_not_started",
                reason=reason,
                doing="tried again until it can be",
                check="the files that the KAFKA_TLS_… settings name",
            )

    async def _stop(self, client: C) -> None:
        patience = self._config.timeout if self._holds() else min(IDLE_STOP, self._config.timeout)
        stopping = asyncio.create_task(client.stop())
        await asyncio.wait({stopping}, timeout=patience)
        hangs = not stopping.done()
        stopping.cancel()
        (outcome,) = await asyncio.gather(stopping, return_exceptions=True)
        if isinstance(outcome, BaseException):
            log.debug("kafka_client_abandoned", hangs=hangs, error=described(outcome))
        # Also after a good `stop`: a connection that was being made meanwhile outlives it.
        await self._abandon(client)


async def end_tasks(tasks: Iterable[asyncio.Task[Any] | None], timeout: float = 1.0) -> None:
    """Cancel tasks until they end, for at most `timeout` seconds.

    More than once, because some of the library's handlers of a cancellation wait again.
    """
    left = {task for task in tasks if task is not None}
    deadline = asyncio.get_running_loop().time() + timeout
    while left and asyncio.get_running_loop().time() < deadline:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=0.05)
        await asyncio.gather(*done, return_exceptions=True)


async def close_connections(client: Any, timeout: float = 1.0) -> None:
    """Close the connections of a client of aiokafka, which fails the requests under way.

    Those being made are waited for, so that they are closed, too.
    """
    closing = asyncio.create_task(_close_all(client))
    await asyncio.wait({closing}, timeout=timeout)
    await end_tasks([closing, client._sync_task])  # noqa: SLF001  there is no public way


async def _close_all(client: Any) -> None:
    await client.close()
    async with client._get_conn_lock:  # noqa: SLF001  held while a connection is made
        await client.close()
