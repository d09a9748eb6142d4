"""Batches of records as the brokers hand them out, read within bounds and tolerantly. Pure.

The library unpacks a batch whole, whatever comes out, and gives up a whole partition for a header's name that
is not UTF-8. What is read here has bounds, and a record that cannot be read becomes one that says so, so that
those behind it are reached. Only a wrong checksum and an unknown codec are errors: there nobody can tell what
is a record and what is not.

`Batches` has what the library's fetcher wants of its own class, in whose place it stands.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cramjam
from aiokafka import codec as codecs
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

UNREADABLE: Final = object()
"""Stands in place of the first header's name in a record that could not be read; its value is the reason."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")  # of a batch of version 2, whose fields the names below give
_MAGIC: Final = 16
_ATTRIBUTES: Final = 21
_LEAST: Final = 14  # of an entry of any version, behind its offset and length
_CODECS: Final = 0x07
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_CHECKS: Final = {_GZIP: "has_gzip", _SNAPPY: "has_snappy", _LZ4: "has_lz4", _ZSTD: "has_zstd"}
_APPEND_TIME: Final = 0x08
_ROOM_AT_FIRST: Final = 24
"""So many times its packed size is what a batch is expected to unpack to, before the bound is tried."""


MOST_HEADERS: Final = 1000
"""Headers of a record: ten times as many as tracing, routing and signing write together. One of two bytes
takes ninety in memory, so that without a bound a record of some kilobytes, packed, could take a gigabyte."""

_LARGE: Final = 256 * 1024
"""Bytes of a batch above which headers are counted before the library makes them. Below they are counted when
they are made, at no cost: the most that fit it, 128,000, take 12 MB for a moment."""


class TooMuch(Exception):  # noqa: N818  an answer about a batch
    """It unpacks to more than is allowed. `prefix` is what was unpacked until then."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__("unpacks to too much")
        self.prefix = prefix


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record with the names that the library gives its fields; `timestamp` in milliseconds."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[Any, bytes | None]]
    checksum: None = None


class Batches:
    """The batches in the answer to a fetch; the last one may be cut off.

    It ends where half of `limit` was unpacked, which is as much as is taken at once: what an answer holds is
    bounded as it was packed, and whoever asks for some records would get all that they unpack to. What is
    left is fetched again.
    """

    def __init__(self, data: bytes, limit: int) -> None:
        self._data = memoryview(data)
        self._limit = limit
        self._at = 0
        self._room = limit // 2

    def size_in_bytes(self) -> int:
        """Bytes of the answer."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether another batch is there as a whole, and to be read now."""
        return self._room > 0 and self._end() is not None

    def next_batch(self) -> Any:
        """The next batch.

        Raises:
            CorruptRecordException: what is there is too short to be one.
        """
        end = self._end()
        if end is None:
            return None
        raw = self._data[self._at : end]
        if len(raw) < 12 + _LEAST:
            raise CorruptRecordException("a batch is shorter than its header")
        self._at = end
        if raw[_MAGIC] < 2:
            return LegacyRecordBatch(bytes(raw), raw[_MAGIC])  # of brokers before 3.0
        return Batch(bytes(raw), self._limit, self._note)

    def _note(self, unpacked: int) -> None:
        self._room -= unpacked

    def _end(self) -> int | None:
        if len(self._data) - self._at < 12:
            return None
        (length,) = struct.unpack_from(">i", self._data, self._at + 8)
        end = self._at + 12 + int(length)
        return end if self._at + 12 <= end <= len(self._data) else None


class Batch:
    """One batch, read by the library where that can, and carefully where it cannot.

    `note` is told how many bytes it unpacks to, where it is packed.
    """

    def __init__(self, raw: bytes, limit: int, note: Callable[[int], None]) -> None:
        self._raw = raw
        self._limit = limit
        self._note = note
        self._library = DefaultRecordBatch(raw)
        self.base_offset: int = self._library.base_offset
        self.next_offset: int = self._library.next_offset
        self.producer_id: int = self._library.producer_id
        self.is_control_batch: bool = self._library.is_control_batch
        self.is_transactional: bool = self._library.is_transactional

    def validate_crc(self) -> bool:
        """Whether it is as it was written."""
        return bool(self._library.validate_crc())

    def __next__(self) -> Any:
        """The record of a control batch, which is never packed."""
        return next(self._library)

    def __iter__(self) -> Iterator[Any]:
        """Its records, and in place of what cannot be read a record that says so.

        Raises:
            UnsupportedCodecError: nobody here knows how it is packed.
        """
        codec = self._raw[_ATTRIBUTES + 1] & _CODECS
        if codec and not (codec in _CHECKS and getattr(codecs, _CHECKS[codec])()):
            raise UnsupportedCodecError(f"nobody here unpacks codec {codec}")
        whole = self._raw
        try:
            if codec:
                whole = _plain(self._raw, _unpacked(self._raw, codec, self._limit))
                self._note(len(whole))
        except TooMuch as error:
            self._note(len(error.prefix))
            yield from self._carefully(error.prefix, 0, cut=True)
            return
        except Exception as error:  # noqa: BLE001  each library has errors of its own, and some panic
            why = f"cannot be unpacked ({type(error).__name__}: {error})"
            yield self._rest(self.base_offset, f"the batch that it is in {why}")
            return
        read = 0
        try:
            for record in self._by_the_library(whole):
                too_large = record.value is not None and len(record.value) > self._limit
                if too_large or record.offset >= self.next_offset or len(record.headers) > MOST_HEADERS:
                    break
                read += 1
                yield record
            else:
                return
        # UnicodeDecodeError is a ValueError; an IndexError says that a record ends too early.
        except (CorruptRecordException, ValueError, IndexError):
            pass
        yield from self._carefully(whole[_HEADER.size :], read, cut=False)

    def _by_the_library(self, whole: bytes) -> Iterator[Any]:
        """The records of the batch, which is `whole` where it is not packed any more."""
        records: Iterator[Any] = self._library if whole is self._raw else DefaultRecordBatch(whole)
        if len(whole) <= _LARGE:
            return records
        return (record for _, record in zip(_few_headers(whole), records, strict=False))

    def _carefully(self, data: bytes, read: int, *, cut: bool) -> Iterator[RawRecord]:
        """The records behind the first `read`; `cut` says that `data` is not all there is."""
        fields = _HEADER.unpack_from(self._raw)
        count, at = fields[12], 0
        for index in range(count):
            # A record that was removed by compaction leaves a gap, and nobody knows of it where none is read.
            offset = self.base_offset + index
            try:
                length, start = _varint(data, at)
            except IndexError:
                length, start = -1, at
            end = start + length
            if cut and (length < 0 or end > len(data)):
                yield self._rest(offset, self._large(length, count - index))
                return
            if length < 0 or end > len(data):
                yield self._rest(offset, "it, or what is before it in its batch, is no record")
                return
            if length > self._limit:
                yield self._rest(offset, self._large(length, count - index))
                return
            at = end
            if index >= read:
                yield self._record(data[start:end], offset)

    def _large(self, length: int, left: int) -> str:
        what = f"a record of {length} bytes" if length > self._limit else "its batch"
        of = f" with {left - 1} more behind it" if left > 1 else ""
        return (
            f"{what}{of} unpacks to more than INTAKE_MAX_BYTES ({self._limit}); the value is the whole batch"
        )

    def _record(self, body: bytes, expected: int) -> RawRecord:
        fields = _HEADER.unpack_from(self._raw)
        append_time = bool(fields[5] & _APPEND_TIME)
        timestamp, offset = fields[8], expected
        try:
            delta, at = _varint(body, 1)
            if not append_time:
                timestamp = _time(fields[7] + delta)
            delta, at = _varint(body, at)
            offset = self.base_offset + delta
            key, at = _bytes(body, at)
            value, at = _bytes(body, at)
            headers, at = _headers(body, at)
            _check_offset(offset, self.base_offset, self.next_offset)
        except (IndexError, ValueError) as error:
            why = f"it is no record that can be read ({error}); the value is what lies in its place"
            return _told(expected, timestamp, int(append_time), body, why)
        return RawRecord(offset, timestamp, int(append_time), key, value, headers)

    def _rest(self, offset: int, why: str) -> RawRecord:
        """What stands for a record and all those behind it."""
        return _told(offset, _HEADER.unpack_from(self._raw)[8], 0, self._raw, why)


def _check_offset(offset: int, first: int, end: int) -> None:
    if not first <= offset < end:
        raise ValueError(f"its offset would be {offset}")


def _time(timestamp: int) -> int:
    """The same, if it is one: nobody, and no store, has room for more than 64 bits."""
    if not -(2**63) <= timestamp < 2**63:
        raise ValueError(f"its time would be {timestamp}")
    return timestamp


def _told(offset: int, timestamp: int, kind: int, value: bytes, why: str) -> RawRecord:
    return RawRecord(offset, timestamp, kind, None, value, [(UNREADABLE, why.encode("utf-8", "replace"))])


def _plain(raw: bytes, data: bytes) -> bytes:
    """The same batch, not packed."""
    header = bytearray(raw[: _HEADER.size])
    header[_ATTRIBUTES + 1] &= ~_CODECS & 0xFF
    return b"".join((header, data))


def _unpacked(raw: bytes, codec: int, limit: int) -> bytes:
    """The records of a packed batch.

    Raises:
        TooMuch: they are more than `limit` bytes.
    """
    packed = memoryview(raw)[_HEADER.size :]
    if codec == _GZIP:
        return _gunzipped(packed, limit)
    if codec == _SNAPPY:
        _measure_snappy(packed, limit)
        return bytes(codecs.snappy_decode(bytes(packed)))
    library = cramjam.lz4 if codec == _LZ4 else cramjam.zstd
    for room in (min(limit, _ROOM_AT_FIRST * len(packed) + 65536), limit):
        into = bytearray(room)
        try:
            return bytes(memoryview(into)[: library.decompress_into(packed, into)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
    raise TooMuch(bytes(into))


def _gunzipped(packed: memoryview, limit: int) -> bytes:
    """What a gzip stream of one or several members holds (RFC 1952 §2.2)."""
    found, left = [], bytes(packed)
    room = limit
    while left:
        member = zlib.decompressobj(wbits=31)
        found.append(member.decompress(left, room + 1))
        room -= len(found[-1])
        if room < 0:
            raise TooMuch(b"".join(found))
        if not member.eof:
            raise ValueError("the gzip stream is cut off")
        left = member.unused_data
    return b"".join(found)


def _measure_snappy(packed: memoryview, limit: int) -> None:
    """Refuse what says that it unpacks to too much, block by block in the framing of Java's clients."""
    if bytes(packed[:8]) != b"\x82SNAPPY\x00":
        size = cramjam.snappy.decompress_raw_len(packed)
    else:
        size, at = 0, 16
        while at + 4 <= len(packed):
            (length,) = struct.unpack_from(">i", packed, at)
            at += 4
            if length < 0 or at + length > len(packed):
                raise ValueError("a block of snappy is cut off")
            size += cramjam.snappy.decompress_raw_len(packed[at : at + length])
            at += length
    if size > limit:
        raise TooMuch(b"")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in zigzag code, and where it ends."""
    shift = result = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (result >> 1) ^ -(result & 1), at
        shift += 7
        if shift > 63:
            raise IndexError("a number of more than 64 bits")


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise ValueError("a field is longer than its record")
    return data[at : at + length], at + length


def _few_headers(whole: bytes) -> Iterator[None]:
    """Look at each record of a batch that is not packed before anybody makes its headers.

    Raises:
        ValueError, IndexError: they are more than are read, or nobody knows where they begin.
    """
    at = _HEADER.size
    for _ in range(_HEADER.unpack_from(whole)[12]):
        length, at = _varint(whole, at)
        end = at + length
        at += 1  # its attributes
        while whole[at] & 0x80:  # its time
            at += 1
        at += 1
        while whole[at] & 0x80:  # its offset
            at += 1
        key, at = _varint(whole, at + 1)
        value, at = _varint(whole, at + max(0, key))
        at += max(0, value)
        if whole[at]:  # nearly all have none
            count, at = _varint(whole, at)
            _few(count)
        yield
        if at > end:
            raise ValueError("a record is longer than it says")
        at = end


def _few(headers: int) -> int:
    """The same number. Raises ValueError for one that no record may have."""
    if not 0 <= headers <= MOST_HEADERS:
        raise ValueError(f"it has {headers} headers, and {MOST_HEADERS} are read")
    return headers


def _headers(data: bytes, at: int) -> tuple[list[tuple[Any, bytes | None]], int]:
    count, at = _varint(data, at)
    found: list[tuple[Any, bytes | None]] = []
    for _ in range(_few(count)):
        name, at = _bytes(data, at)
        value, at = _bytes(data, at)
        # Written out where it is not UTF-8, so that whoever gets the record next can carry it.
        found.append(((name or b"").decode("utf-8", "backslashreplace"), value))
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes behind its last field")
    return found, at


def read_within(limit: int) -> None:
    """Have the clients of this process read batches of up to `limit` unpacked bytes, by the class above."""
    fetcher.MemoryRecords = partial(Batches, limit=limit)
