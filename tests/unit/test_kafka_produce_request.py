"""Requests that are put together in one go: to a broker they are the library's."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.producer import sender
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from mailsender.kafka import producer
from mailsender.kafka.produce_request import WholeRequest

VERSIONS = [each.API_VERSION for each in ProduceRequest._CLASSES]
BATCHES = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary() | st.binary().map(bytearray)), max_size=3)
TOPICS = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), BATCHES), max_size=3
)


def written(kind: Any, version: int, topics: Any) -> bytes:
    """What the library's own connection writes for a request."""
    lines: list[bytes] = []
    connection = AIOKafkaConnection.__new__(AIOKafkaConnection)
    connection.__dict__.update(
        _reader=None,
        _writer=SimpleNamespace(write=lines.append, drain=lambda: None),
        _versions={0: (version, version)},
        _client_id="mailsender-ж",
        _correlation_id=6,
        _host="b",
        _port=1,
        _loop=SimpleNamespace(get_debug=lambda: False),
    )
    request = kind(transactional_id=None, required_acks=-1, timeout=10_000, topics=topics)
    connection.send(request, expect_response=False)
    (octets,) = lines
    assert type(octets) is bytes
    return octets


@pytest.mark.parametrize("version", VERSIONS)
@given(topics=TOPICS)
def test_they_are_the_librarys_octet_for_octet(version: int, topics: Any) -> None:
    octets = written(WholeRequest, version, topics)
    assert octets == written(ProduceRequest, version, topics)
    assert struct.unpack_from(">ihhi", octets) == (len(octets) - 4, 0, version, 7)


def test_the_producer_sends_them() -> None:
    assert producer.sender is sender
    batch = SimpleNamespace(get_data_buffer=lambda: bytearray(b"records"))
    parts = SimpleNamespace(
        client=None,
        _txn_manager=None,
        _acks=-1,
        _request_timeout_ms=10,
        _retry_backoff=0.1,
        _default_backoff=0,
    )
    handler = sender.SendProduceReqHandler(parts, {TopicPartition("t", 0): batch})
    assert type(handler.create_request()) is WholeRequest
