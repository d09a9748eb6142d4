"""Records of Kafka, as they come in and as they go out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RECORD_OVERHEAD: Final = 80
"""Bytes that Kafka's clients count for a record beside its key, value and headers, rounded up."""


HEADER_OVERHEAD: Final = 10
"""Bytes of the two lengths of a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the in-topic. `timestamp` in milliseconds, -1 where it has none.

    `appended` says that the broker set the time when it took the record, and not its producer. `fault` says
    why it could not be read; its `value` is then what lies there instead.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    appended: bool = False
    fault: str = ""


def record_bytes(record: Record | Outgoing) -> int:
    """Bytes of a record's key, value and headers, and of what stands between them in a batch, rounded up."""
    size = len(record.key or b"") + len(record.value or b"") + RECORD_OVERHEAD
    for name, value in record.headers:
        size += (len(name) if name.isascii() else 4 * len(name)) + len(value or b"") + HEADER_OVERHEAD
    return size


@dataclass(init=False, slots=True, unsafe_hash=True)
class Outgoing:
    """A record to be published. One that may lie `anywhere` avoids the partition of its key in trouble."""

    topic: Final[str]
    key: Final[bytes | None]
    value: Final[bytes | None]
    headers: Final[tuple[tuple[str, bytes | None], ...]]
    anywhere: Final[bool]

    def __init__(
        self,
        *,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
        anywhere: bool = False,
    ) -> None:
        """Take its fields."""
        self.topic = topic
        self.key = key
        self.value = value
        self.headers = headers
        self.anywhere = anywhere


@dataclass(init=False, slots=True, unsafe_hash=True)
class Landed:
    """Where a published record lies."""

    topic: Final[str]
    partition: Final[int]
    offset: Final[int]

    def __init__(self, *, topic: str, partition: int, offset: int) -> None:
        """Take its fields."""
        self.topic = topic
        self.partition = partition
        self.offset = offset
