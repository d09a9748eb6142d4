"""Requests that bring batches to a broker, put together in one go.

The library joins a request's fields level by level, then these to a header and to a length: eight copies of
each batch. With a single one a batch of 5 MB takes 5 ms instead of 46, one of 100 KB 20 µs instead of 290.
"""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Int32, String

_TEXT = String("utf-8")


class Parts:
    """What the library takes for a request's octets: joined when it puts something before them.

    First that is the header, empty here, then the length of all.
    """

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def __radd__(self, before: bytes) -> Any:
        return b"".join((before, *self._parts)) if before else self


class _Said:
    """A header that is one of its request's parts already."""

    def encode(self) -> bytes:
        return b""


class _AtOnce:
    """What a request does here in another way, in all its versions: they differ in what precedes `topics`."""

    SCHEMA: Any

    def build_request_header(self, correlation_id: int, client_id: str) -> _Said:
        header = super().build_request_header(correlation_id, client_id)  # type: ignore[misc]
        self.__dict__["header"] = header.encode()
        return _Said()

    def encode(self) -> Parts:
        fields = self.__dict__
        parts = [fields["header"]]
        for name, kind in zip(self.SCHEMA.names[:-1], self.SCHEMA.fields[:-1], strict=True):
            parts.append(kind.encode(fields[name]))
        parts.append(Int32.encode(len(fields["topics"])))
        for topic, batches in fields["topics"]:
            parts += (_TEXT.encode(topic), Int32.encode(len(batches)))
            for partition, batch in batches:
                parts += (Int32.encode(partition), Int32.encode(len(batch)), batch)
        return Parts(parts)


class WholeRequest(ProduceRequest):  # type: ignore[misc]
    """A `ProduceRequest` of the library, in any version that a broker knows, put together at once."""


_VERSIONS = ProduceRequest._CLASSES  # noqa: SLF001  there is no public way
WholeRequest._CLASSES = tuple(type(each.__name__, (_AtOnce, each), {}) for each in _VERSIONS)  # noqa: SLF001
