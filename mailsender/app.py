"""The composition root: builds the parts from the settings and runs a replica over them.

Beside it only the embedded stack and `check`, which tries the parts one by one, name adapters.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog
from aiohttp import web

from mailsender import __version__, signals
from mailsender.admin.operations import ReplicaOperations
from mailsender.admin.reloading import Reloading
from mailsender.blobs.memory import MemoryBlobs
from mailsender.blobs.mongo import MongoBlobs
from mailsender.blobs.port import BlobStore
from mailsender.codes.memory import MemoryCodeStore
from mailsender.codes.mongo import MongoCodeStore
from mailsender.codes.port import CodeStore
from mailsender.journal.port import Journal, NoJournal
from mailsender.journal.record import place_of
from mailsender.kafka.client import OURS, KafkaConfig
from mailsender.kafka.consumer import KafkaSource
from mailsender.kafka.producer import KafkaSink
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.errors import Rejected
from mailsender.observe.log import configure
from mailsender.observe.log_writer import LogWriter
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.mongo.client import connect
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.mongo.templates import MongoShelf
from mailsender.queue.port import Queue
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.mongo import CURSOR, MongoSlotStore
from mailsender.ratelimit.port import SlotStore
from mailsender.routing.fleet import RelayParts
from mailsender.routing.plan import DEFAULT
from mailsender.service import Front, Parts, Replica
from mailsender.settings.environment import Settings, slips
from mailsender.settings.links import in_file, links_of
from mailsender.settings.secrets import secret_values
from mailsender.settings.signing import signing_keys
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.of_file import OfFile
from mailsender.smtp.port import Transport
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.mongo import MongoSuppressions
from mailsender.suppression.port import SuppressionStore
from mailsender.templates.folder import Folder, read_folder
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.port import Shelf
from mailsender.web.app import SCRAPERS, Server, make_app, make_metrics_app, serve
from mailsender.web.connections import affordable

log = structlog.get_logger()

LAST_LINES = 1.0
"""Seconds that the last lines of the log have to go out: a pipe that nobody reads must not keep us."""

FILES = 128
"""Files and connections that the service opens beside those of HTTP and of the relay's sessions."""

UNREAD = 30.0
"""Seconds that a caller has for reading an answer, beside the time of the request itself."""

LARGE = 1024 * 1024
"""Bytes from which a buffer is given back when it is freed; batches of letters, mostly. Smaller ones are
faster from the heap."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def build(settings: Settings, clock: Clock) -> Parts:
    """The real parts, not yet opened; `relays` are those of `plan_of`, by their names.

    Raises:
        Rejected: a connection string or a key that signs cannot be read, or no journal can be kept where it
            is wanted.
    """
    keys = signing_keys(settings)
    queue, slots_of, codes, blobs, shelf, suppressions = build_store(settings, clock)
    kafka = kafka_config(settings)
    return Parts(
        queue=queue,
        source=KafkaSource(kafka, settings.kafka_topic_mailsender, histories=queue),
        sink=KafkaSink(kafka),
        relays={
            name: RelayParts(transport, slots_of(name))
            for name, transport in build_relays(settings, clock).items()
        },
        journal=build_journal(settings),
        keys=keys,
        codes=codes,
        blobs=blobs,
        folder=build_folder(settings),
        shelf=shelf,
        suppressions=suppressions,
    )


def build_relays(settings: Settings, clock: Clock) -> dict[str, Transport]:
    """The way to each relay, by its name."""
    links = links_of(settings)
    ways = {name: SmtpRelay(link, clock) for name, link in links.items()}
    return {name: OfFile(name, way) if in_file(settings, name) else way for name, way in ways.items()}


def build_folder(settings: Settings) -> Folder:
    """The templates of the folder, if there is one.

    Raises:
        Rejected: it cannot be read, or one of its templates is none; one line that names the setting.
    """
    if not settings.templates_dir:
        return Folder()
    directory = Path(settings.templates_dir)
    try:
        folder, errors = read_folder(directory, language=settings.templates_language)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Rejected(f"TEMPLATES_DIR: {directory} cannot be read: {reason}") from error
    if errors:
        more = f"; and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise Rejected(f"TEMPLATES_DIR: {errors[0]}{more}; see `mailsender template check {directory}`")
    return folder


def build_journal(settings: Settings) -> Journal:
    """The journal for the next start, if one is kept; that of a queue in memory would be of no use.

    Raises:
        Rejected: one line that names the setting.
    """
    if not settings.mailsender_state_dir or settings.in_memory:
        return NoJournal()
    try:
        from mailsender.journal.journal import FileJournal  # noqa: PLC0415  Windows has no such locks
    except ImportError:
        raise Rejected("MAILSENDER_STATE_DIR: this system lacks the locks that a journal needs") from None
    # A pod's name and a machine's stay over a restart. With the host's name in it, the journal of a living
    # process whose lock cannot be seen from here is never taken from a disk that hosts share.
    place = place_of(
        [
            socket.gethostname(),
            *settings.mongo_hosts,
            settings.mongodb_base_name,
            settings.mongodb_collection,
        ]
    )
    directory = Path(settings.mailsender_state_dir)
    try:
        return FileJournal(directory, place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Rejected(f"MAILSENDER_STATE_DIR: {directory} cannot be written: {reason}") from error


def build_store(
    settings: Settings, clock: Clock
) -> tuple[Queue, Callable[[str], SlotStore], CodeStore, BlobStore, Shelf, SuppressionStore]:
    """The stores, in MongoDB over one client or in memory; slots are had by the name of their relay."""
    if settings.in_memory:
        letters = MemoryQueue(clock, body_retention=settings.body_retention)
        blobs = MemoryBlobs(clock, settings.blob_retention, letters.names)
        codes_, shelf_ = MemoryCodeStore(clock), MemoryShelf(clock)
        return letters, lambda _: MemorySlotStore(clock), codes_, blobs, shelf_, MemorySuppressions()
    client = connect(
        settings.mongo_uri,
        timeout=settings.mongodb_timeout,
        app_name="mailsender",
        driver=settings.mongodb_driver,
    )
    database, collection = settings.mongodb_base_name, settings.mongodb_collection
    queue = MongoQueue(
        client,
        database=database,
        collection=collection,
        retention=settings.mongodb_retention,
        clock=clock,
        timeout=settings.mongodb_timeout,
        body_retention=settings.body_retention,
    )

    def slots_of(relay: str) -> SlotStore:
        return MongoSlotStore(
            client,
            database=database,
            collection=f"{collection}.slots",
            clock=clock,
            timeout=settings.mongodb_timeout,
            name=CURSOR if relay == DEFAULT else relay,
        )

    codes = MongoCodeStore(
        client, database=database, collection=f"{collection}.codes", timeout=settings.mongodb_timeout
    )
    blobs_ = MongoBlobs(
        client,
        database=database,
        collection=collection,
        retention=settings.blob_retention,
        clock=clock,
        timeout=settings.mongodb_timeout,
    )
    shelf = MongoShelf(
        client,
        database=database,
        collection=f"{collection}.templates",
        clock=clock,
        timeout=settings.mongodb_timeout,
    )
    suppressions = MongoSuppressions(
        client,
        database=database,
        collection=f"{collection}.suppression",
        timeout=settings.mongodb_timeout,
    )
    return queue, slots_of, codes, blobs_, shelf, suppressions


def kafka_config(settings: Settings) -> KafkaConfig:
    """How the brokers are reached, and the group."""
    return KafkaConfig(
        brokers=tuple(settings.brokers),
        security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        sasl_username=settings.kafka_sasl_username,
        sasl_password=settings.kafka_sasl_password.get_secret_value(),
        tls_ca_file=settings.kafka_tls_ca_file,
        tls_cert_file=settings.kafka_tls_cert_file,
        tls_key_file=settings.kafka_tls_key_file,
        client_id=f"{OURS}-{socket.gethostname()}",
        group=settings.kafka_groupid,
        instance_id=settings.kafka_group_instance_id,
        session_timeout=settings.kafka_session_timeout,
        timeout=settings.kafka_timeout,
        max_request_size=settings.kafka_max_request_size,
        max_bytes=settings.intake_max_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Servers:
    """All that listens on behalf of a replica, and what answers."""

    operations: ReplicaOperations
    servers: tuple[Server, ...]

    async def close(self) -> None:
        """Close them one by one, the last first; before, what callers wait for."""
        await self.operations.close()
        for server in reversed(self.servers):
            await server.close()


async def listen(replica: Replica) -> Front | None:
    """The HTTP side of a replica; None where an address cannot be had, which the log says."""
    settings, operations = replica.settings, ReplicaOperations(replica)
    sessions = sum(relay.policy.sessions.sessions for relay in replica.relays)
    most = affordable(settings.http_max_connections, FILES + sessions)
    app = make_app(
        operations,
        api_key=settings.http_api_key.get_secret_value(),
        max_bytes=settings.http_max_bytes,
        timeout=settings.http_timeout,
        most=most,
        allowed_hosts=settings.allowed_hosts,
        max_blob=settings.blob_max_bytes,
    )
    server = await _served(app, replica, settings.http_port, most, "HTTP_PORT")
    if server is None:
        return None
    log.info("http_listens", host=settings.bind_host, port=server.port, connections=most)
    if not settings.http_metrics_port:
        return _Servers(operations, (server,))
    only_metrics = make_metrics_app(
        operations, timeout=settings.http_timeout, allowed_hosts=settings.allowed_hosts
    )
    port = settings.http_metrics_port
    beside = await _served(only_metrics, replica, port, SCRAPERS, "HTTP_METRICS_PORT")
    if beside is None:
        await server.close()
        return None
    log.info("metrics_listen", host=settings.bind_host, port=port, connections=SCRAPERS)
    return _Servers(operations, (server, beside))


async def _served(
    app: web.Application, replica: Replica, port: int, most: int, setting: str
) -> Server | None:
    """What serves `app` at this port; None where it cannot be had, which is said then."""
    settings = replica.settings
    try:
        return await serve(
            app,
            settings.bind_host,
            port,
            most=most,
            stuck=settings.http_timeout + UNREAD,
            keep=replica.supervisor.keep,
        )
    except OSError as error:
        log.error(
            "http_cannot_listen",
            host=settings.bind_host,
            port=port,
            error=error.strerror or str(error),
            advice=f"set HTTP_HOST and {setting} to a free address",
        )
        return None


def run_service(settings: Settings) -> NoReturn:
    """Run one replica until it is drained; ends the process with its exit status.

    Nothing is waited for then: a name that is being looked up cannot be called off, and neither the event
    loop nor the interpreter would end before that thread does, a minute later where a resolver is silent.
    """
    writer = LogWriter(sys.stderr.fileno(), lost=_lines_lost, terminal=sys.stderr.isatty())
    configure(settings.log_level, settings.log_format, secrets=secret_values(settings), stream=writer)
    for slip in slips(settings.config):
        log.warning(
            "setting_unknown",
            name=slip.name,
            nearest=slip.nearest or None,
            place=slip.place,
            action="it is ignored",
        )
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        status = runner.run(_main(settings))
    except BaseException:
        runner.close()
        raise
    writer.drain(LAST_LINES)
    os._exit(status)


def _lines_lost(count: int) -> None:
    log.warning(
        "log_lines_lost", lines=count, action="they are dropped while the log takes none; mail does not wait"
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415  there is none for Windows

    return uvloop.new_event_loop


def _spare_the_collector() -> None:
    """Let the garbage collector leave alone what stays, and come less often.

    Letters hold no cycles: reference counts free them. With the defaults a tenth of the service's CPU time
    went into looking for some among the thousands in flight.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _give_memory_back() -> None:
    """Have the C library return large buffers to the system when they are freed, instead of keeping them.

    By default it learns from each large buffer that such sizes are common, keeps them, and does so in an
    arena for each thread: with letters of megabytes a process of 80 MB grows by hundreds. Without glibc
    nothing is done.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE)


async def _main(settings: Settings) -> int:
    clock = SystemClock()
    try:
        parts = build(settings, clock)
    except Rejected as error:
        log.error("cannot_start", error=str(error))
        return 2
    replica = Replica(settings, parts, clock, listen=listen)
    loop, reloading = asyncio.get_running_loop(), Reloading(replica)
    for number in signals.signals():
        loop.add_signal_handler(number, replica.on_signal, number.name)
        if settings.config is not None and number.name == signals.RELOAD:
            loop.add_signal_handler(number, reloading.begin, number.name)
    if signals.reload_came():
        reloading.begin(signals.RELOAD)
    _spare_the_collector()
    _give_memory_back()
    log.info("starting", version=__version__, loop=type(loop).__module__)
    return await replica.run()
