"""Writes records as no client library would: any octets in a header's name, one batch a record, any time.

A produce request of version 3 and a batch of version 2, put together by hand (Kafka's protocol guide).
"""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from aiokafka.record.util import calc_crc32c

NOW: Final = -2
"""As a record's time: that of this machine. (-1 is Kafka's own word for none.)"""

LEADERLESS: Final = 20.0
"""Seconds for which a broker may not know yet that it leads a new topic."""

_ERRORS: Final = {10: "too large", 3: "no such topic or partition", 6: "not the leader"}
_PASSING: Final = {3, 5, 6}


class Refused(Exception):  # noqa: N818  it says what happened
    """The broker did not take a record."""


class RawProducer:
    """One connection to the broker at `bootstrap`, which has to lead what is written to."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._connection = socket.create_connection((host, int(port)), timeout=30)

    def close(self) -> None:
        self._connection.close()

    def put(
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int = 0,
        key: bytes | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        at: int = NOW,
        packed: bool = False,
    ) -> int:
        """Write one record; its offset. `at` is its time in milliseconds, `packed` says with gzip.

        Raises:
            Refused: the broker did not take it.
            OSError: the connection is gone.
        """
        stamp = int(time.time() * 1000) if at == NOW else at
        batch = _batch(_record(key, value, headers), stamp, packed=packed)
        name = topic.encode()
        body = struct.pack(">hhih", 0, 3, 1, -1)  # produce, version 3, number 1, no client id
        body += struct.pack(">hhi", -1, -1, 20_000)  # no transaction, all replicas, in this time
        body += struct.pack(">ih", 1, len(name)) + name
        body += struct.pack(">iii", 1, partition, len(batch)) + batch
        deadline = time.monotonic() + LEADERLESS
        while True:
            self._connection.sendall(struct.pack(">i", len(body)) + body)
            answer = self._exactly(struct.unpack(">i", self._exactly(4))[0])
            error, offset = struct.unpack_from(">hq", answer, 4 + 4 + 2 + len(name) + 4 + 4)
            if not error:
                return int(offset)
            if error not in _PASSING or time.monotonic() > deadline:
                raise Refused(_ERRORS.get(error, f"error {error}"))
            time.sleep(0.05)  # there is no event for it

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self._connection.recv(size - len(data))
            if not more:
                raise ConnectionError("the broker closed the connection")
            data += more
        return bytes(data)


def _varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _octets(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _record(key: bytes | None, value: bytes | None, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"\0" + _varint(0) + _varint(0) + _octets(key) + _octets(value) + _varint(len(headers))
    body += b"".join([_octets(name) + _octets(held) for name, held in headers])
    return _varint(len(body)) + body


def _batch(record: bytes, stamp: int, *, packed: bool) -> bytes:
    content = gzip.compress(record, 9) if packed else record
    head = struct.pack(">hiqqqhii", int(packed), 0, stamp, stamp, -1, -1, -1, 1)
    summed = head + content
    return struct.pack(">qiibI", 0, 4 + 1 + 4 + len(summed), -1, 2, calc_crc32c(summed)) + summed
