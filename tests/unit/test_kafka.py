from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from unittest.mock import AsyncMock

import pytest
import uvloop
from aiokafka import TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    CorruptRecordException,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RequestTimedOutError,
    UnsupportedCodecError,
)
from aiokafka.protocol.admin import ApiVersionRequest, DescribeConfigsRequest
from structlog.testing import capture_logs

from lab.parts import Certificates
from mailsender.kafka.client import ClientLog, KafkaConfig, client_log, client_options, translated
from mailsender.kafka.quarantine import CHUNK, Quarantine, about_a_record
from mailsender.model.errors import TooLarge, Unavailable
from tests.clocks import ManualClock

BROKERS = ("a:9092", "b:9092")


def test_a_plain_connection_needs_no_more_than_brokers() -> None:
    options = client_options(KafkaConfig(brokers=BROKERS, timeout=2.5))
    assert options["bootstrap_servers"] == ["a:9092", "b:9092"]
    assert options["request_timeout_ms"] == 2500
    assert not {"ssl_context", "sasl_plain_password"} & options.keys()


def test_tls_checks_certificates_by_the_given_ca(certificates: Certificates) -> None:
    config = KafkaConfig(
        brokers=BROKERS,
        security_protocol="SASL_SSL",
        sasl_username="u",
        sasl_password="p",
        tls_ca_file=str(certificates.ca),
        tls_cert_file=str(certificates.cert),
        tls_key_file=str(certificates.key),
    )
    options = client_options(config)
    context = options["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "p")


def test_a_missing_ca_file_is_an_error_and_not_no_check() -> None:
    with pytest.raises(OSError):
        client_options(KafkaConfig(brokers=BROKERS, security_protocol="SSL", tls_ca_file="/nowhere.pem"))


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_request_on_a_connection_that_is_lost_is_an_error_of_the_connection(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """uvloop raises RuntimeError then, for which the library's tasks are not prepared."""

    async def requests() -> None:
        async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

        server = await asyncio.start_server(resets, "127.0.0.1", 0)
        connection = AIOKafkaConnection("127.0.0.1", server.sockets[0].getsockname()[1])
        connection._do_version_lookup = AsyncMock()
        await connection.connect()
        connection._read_task.cancel()  # it would see the loss, in the turn after this one
        await connection._closed_fut
        try:
            # asyncio's own transport says nothing of it; that of uvloop does so at once.
            asyncio.ensure_future(connection.send(ApiVersionRequest())).cancel()
            connection.close()
            await connection.send(ApiVersionRequest())
        finally:
            connection.close()
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=factory) as runner, pytest.raises(KafkaConnectionError):
        runner.run(requests())


@pytest.mark.asyncio
async def test_a_request_that_the_broker_does_not_know_says_nothing_of_the_connection() -> None:
    async def hears(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hears, "127.0.0.1", 0)
    connection = AIOKafkaConnection("127.0.0.1", server.sockets[0].getsockname()[1])
    connection._do_version_lookup = AsyncMock()
    await connection.connect()
    try:
        with pytest.raises(IncompatibleBrokerVersion):
            connection.send(DescribeConfigsRequest([]))
    finally:
        connection.close()
        server.close()
        await server.wait_closed()


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(KafkaConfig(brokers=BROKERS, sasl_password="hunter2"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MessageSizeTooLargeError(), TooLarge),
        (RequestTimedOutError(), Unavailable),
        (TimeoutError(), Unavailable),
    ],
)
def test_errors_become_those_of_the_ports_with_their_cause(error: Exception, kind: type[Exception]) -> None:
    ours = translated(error)
    assert type(ours) is kind
    assert ours.__cause__ is error
    assert type(error).__name__ in str(ours)


# --- the library's log ---------------------------------------------------------------------------


@pytest.fixture
def library() -> Iterator[tuple[logging.Logger, ClientLog, ManualClock]]:
    clock = ManualClock()
    handler = ClientLog(clock)
    logger = logging.Logger("aiokafka.test")  # noqa: LOG001  one that no other test sees
    logger.addHandler(handler)
    yield logger, handler, clock
    handler.close()


def test_an_outage_is_two_events_however_many_lines(
    library: tuple[logging.Logger, ClientLog, ManualClock],
) -> None:
    logger, handler, clock = library
    with capture_logs() as logs:
        for _ in range(8000):
            logger.error("Unable connect to node with id %s", 1)
            clock.forward(0.01)
            handler.well()  # another client's success in the middle of it
        clock.forward(10)
        handler.well()
        handler.well()
    assert [entry["event"] for entry in logs] == ["kafka_client_trouble", "kafka_client_calm"]
    assert logs[0]["said"] == "Unable connect to node with id 1"
    assert (logs[1]["lines"], logs[1]["seconds"]) == (8000, 90.0)


def test_an_error_without_words_stands_by_its_class(
    library: tuple[logging.Logger, ClientLog, ManualClock],
) -> None:
    logger, handler, _ = library
    with capture_logs():
        logger.error('Unable connect to "%s:%s": %s', "broker", 9092, TimeoutError())
    assert handler.last == 'Unable connect to "broker:9092": TimeoutError'


def test_success_alone_says_nothing(library: tuple[logging.Logger, ClientLog, ManualClock]) -> None:
    logger, handler, _ = library
    with capture_logs() as logs:
        logger.info("Joined group")
        handler.well()
    assert logs == []


def test_there_is_one_handler_for_all_clients() -> None:
    assert client_log() is client_log()
    assert logging.getLogger("aiokafka").level == logging.WARNING


# --- partitions that cannot be read --------------------------------------------------------------

P, Q = TopicPartition("in", 1), TopicPartition("in", 2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnsupportedCodecError("zstd"), True),
        (CorruptRecordException("crc"), True),
        (ValueError("varint"), True),
        (KafkaError("coordination"), False),
        (RequestTimedOutError(), False),
    ],
)
def test_which_errors_are_about_a_record(error: Exception, expected: bool) -> None:
    assert about_a_record(error) is expected


def test_from_sound_to_closed_to_sound() -> None:
    quarantine = Quarantine(retry=60.0)
    error = CorruptRecordException("crc")
    with capture_logs() as logs:
        assert quarantine.chunk(P) == CHUNK
        assert quarantine.warn(P)  # first with care
        assert (quarantine.chunk(P), quarantine.chunk(Q), quarantine.trouble) == (1, CHUNK, "")
        assert not quarantine.warn(P)
        quarantine.close(P, 7, error, now=100.0)
        assert quarantine.closed == {P}
        assert quarantine.trouble.startswith("partition 1 of in at offset 7 cannot be read: Corrupt")
        assert quarantine.due(159.0) == []
        assert quarantine.due(160.0) == [P]
        assert quarantine.closed == frozenset()
        assert quarantine.trouble  # until a record came
        quarantine.close(P, 7, error, now=160.0)  # no better: nothing new to say
        assert quarantine.due(220.0) == [P]
        quarantine.sound(P)
        assert (quarantine.chunk(P), quarantine.trouble) == (CHUNK, "")
    assert [entry["event"] for entry in logs] == ["partition_unreadable", "partition_readable"]


def test_another_record_that_cannot_be_read_is_news() -> None:
    quarantine = Quarantine(retry=0.0)
    with capture_logs() as logs:
        quarantine.close(P, 7, ValueError(), now=0.0)
        quarantine.due(1.0)
        quarantine.close(P, 9, ValueError(), now=1.0)
    assert [entry["offset"] for entry in logs] == [7, 9]


def test_what_went_to_another_member_is_forgotten() -> None:
    quarantine = Quarantine(retry=60.0)
    for partition in (P, Q):
        quarantine.warn(partition)
        quarantine.close(partition, 1, ValueError(), now=0.0)
    quarantine.keep([Q, TopicPartition("in", 3)])
    assert quarantine.closed == {Q}
    assert (quarantine.chunk(P), quarantine.chunk(Q)) == (CHUNK, 1)
