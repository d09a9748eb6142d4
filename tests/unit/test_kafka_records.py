"""Batches of records: whatever is in them, the good ones come out, within bounds."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tracemalloc
from typing import Any

import cramjam
import pytest
from aiokafka.codec import snappy_encode
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from mailsender.kafka import records
from mailsender.kafka.records import UNREADABLE, Batches

LIMIT = 1024 * 1024
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Headers = list[tuple[str, bytes | None]]


def batch(*values: bytes | None, codec: int = 0, base: int = 0, headers: Headers | None = None) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, 0, 10**9)
    for number, value in enumerate(values):
        builder.append(number, 1000 + number, b"k%d" % number, value, headers or [])
    return renewed(bytes(builder.build()), base=base)


def renewed(raw: bytes, *, base: int | None = None, attributes: int | None = None) -> bytes:
    """With a right checksum, and length, whatever was done to it."""
    made = bytearray(raw)
    struct.pack_into(">i", made, 8, len(made) - 12)
    if base is not None:
        struct.pack_into(">q", made, 0, base)
    if attributes is not None:
        struct.pack_into(">h", made, 21, attributes)
    struct.pack_into(">I", made, 17, calc_crc32c(bytes(made[21:])))
    return bytes(made)


def packed_with(payload: bytes, codec: int, like: bytes) -> bytes:
    """The batch `like`, with other bytes in place of its records."""
    return renewed(like[:61] + payload, attributes=codec)


def answer(*raw: bytes, limit: int = LIMIT, start: int = 0) -> Any:
    """As the library's fetcher reads what a broker sent in one answer."""
    return PartitionRecords(
        TopicPartition("in", 0), Batches(b"".join(raw), limit), [], start, None, None, True, READ_COMMITTED
    )


def read(*raw: bytes, limit: int = LIMIT, start: int = 0) -> list[Any]:
    """All of its records, answer by answer: the next one begins where the one before was left."""
    found: list[Any] = []
    left = list(raw)
    while left:
        part = answer(*left, limit=limit, start=start)
        found += part
        start = part.next_fetch_offset
        left = [each for each in left if DefaultRecordBatch(each).next_offset > start]
    return found


def fault(record: Any) -> str:
    if record.headers and record.headers[0][0] is UNREADABLE:
        return str(record.headers[0][1].decode())
    return ""


@pytest.mark.parametrize("codec", CODECS)
def test_good_records_come_as_the_library_reads_them(codec: str) -> None:
    values = [b"x" * random.Random(n).randrange(3000) for n in range(200)] + [None]
    raw = batch(*values, codec=CODECS[codec], base=40, headers=[("n", b"v"), ("m", None)])
    ours = read(raw, batch(b"last", base=300), start=40)
    assert [r.value for r in ours] == [*values, b"last"]
    library = list(
        PartitionRecords(
            TopicPartition("in", 0), fetcher_records(raw), [], 40, None, None, True, READ_COMMITTED
        )
    )
    assert ours[:-1] == library


def fetcher_records(raw: bytes) -> Any:
    from aiokafka.record.memory_records import MemoryRecords

    return MemoryRecords(raw)


@pytest.mark.parametrize("codec", CODECS)
def test_a_name_of_a_header_that_is_not_utf8_is_written_out(codec: str) -> None:
    plain = batch(b"a", b"b", b"c", headers=[("name", b"v")]).replace(b"name", b"na\xffe", 2)
    data = plain[61:]
    payload = {
        "none": data,
        "gzip": gzip.compress(data),
        "snappy": snappy_encode(data),
        "lz4": bytes(cramjam.lz4.compress(data)),
        "zstd": bytes(cramjam.zstd.compress(data)),
    }[codec]
    found = read(packed_with(payload, CODECS[codec], plain), batch(b"d", base=3))
    assert [r.value for r in found] == [b"a", b"b", b"c", b"d"]
    assert [r.headers for r in found] == [
        *((("na\\xffe", b"v"),), (("na\\xffe", b"v"),), (("name", b"v"),), ())
    ]
    assert [(r.offset, r.timestamp) for r in found[:3]] == [(n, 1000 + n) for n in range(3)]
    assert [r.key for r in found[:3]] == [b"k0", b"k1", b"k2"]


def test_a_time_that_does_not_fit_64_bits_makes_no_record_and_those_beside_it_come() -> None:
    made = bytearray(batch(b"a", b"b", headers=[("name", b"v")]).replace(b"name", b"na\xffe"))
    struct.pack_into(">q", made, 27, 2**63 - 1)  # to which the second record adds one
    good, bad, behind = read(renewed(bytes(made)), batch(b"c", base=2))
    assert (good.value, good.timestamp) == (b"a", 2**63 - 1)
    assert "its time would be 9223372036854775808" in fault(bad)
    assert -(2**63) <= bad.timestamp < 2**63
    assert behind.value == b"c"


def bomb(codec: str, size: int) -> bytes:
    like = batch(b"0" * size)
    data = like[61:]
    if codec == "gzip":
        into = io.BytesIO()
        with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=9) as file:
            file.write(data)
        payload = into.getvalue()
    elif codec == "snappy":
        payload = snappy_encode(data)
    else:
        payload = bytes(getattr(cramjam, codec).compress(data))
    return packed_with(payload, CODECS[codec], like)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_unpacks_to_too_much_is_said_and_those_behind_it_come(codec: str) -> None:
    raw = bomb(codec, 3 * LIMIT)
    large, good = read(raw, batch(b"good", base=1))
    assert "INTAKE_MAX_BYTES" in fault(large)
    assert (large.offset, large.value, large.key) == (0, raw, None)
    assert (good.offset, good.value) == (1, b"good")


def test_unpacking_takes_no_more_memory_than_is_allowed(tmp_path: object) -> None:
    raw = bomb("gzip", 100 * LIMIT)
    tracemalloc.start()
    assert fault(read(raw)[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * LIMIT


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_batches_that_unpack_to_much_do_not_come_all_at_once(codec: str) -> None:
    """Packed they fit one answer, and a fetch asks for many records."""
    sizes = [1, *[LIMIT - 1000] * 5, 2]
    batches = [batch(b"\0" * size, codec=CODECS[codec], base=n) for n, size in enumerate(sizes)]
    first = list(answer(*batches))
    assert 1 < len(first) < len(sizes)
    assert sum(len(record.value) for record in first) < LIMIT // 2 + LIMIT
    assert [len(record.value) for record in read(*batches)] == sizes


def test_batches_of_a_usual_size_come_in_one_answer() -> None:
    batches = [batch(b"x" * 1000, codec=1, base=n) for n in range(64)]
    assert len(list(answer(*batches))) == 64


@pytest.mark.parametrize("codec", CODECS)
def test_a_record_with_headers_without_number_is_told_and_those_beside_it_come(codec: str) -> None:
    room = 8 * LIMIT
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 10**9)
    builder.append(0, 0, None, b"x" * LIMIT, [])  # so that not even one such record is made first
    builder.append(1, 0, None, b"[]", [("", None)] * 700_000)
    builder.append(2, 0, None, b"y", [])
    plain = renewed(bytes(builder.build()))
    data = plain[61:]
    payload = {
        "none": lambda: data,
        "gzip": lambda: gzip.compress(data),
        "snappy": lambda: snappy_encode(data),
        "lz4": lambda: bytes(cramjam.lz4.compress(data)),
        "zstd": lambda: bytes(cramjam.zstd.compress(data)),
    }[codec]()
    raw = packed_with(payload, CODECS[codec], plain)
    tracemalloc.start()
    before, crowded, behind = read(raw, limit=room)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * room
    assert (len(before.value), behind.value) == (LIMIT, b"y")
    assert "700000 headers" in fault(crowded)


def test_headers_are_bounded_in_a_small_batch_too() -> None:
    most, more = [("a", b"")] * 1000, [("a", b"")] * 1001
    (good,) = read(batch(b"x", headers=most))
    assert len(good.headers) == 1000
    (bad,) = read(batch(b"x", headers=more))
    assert "1001 headers" in fault(bad)


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_of_a_batch_that_is_too_large_as_a_whole_the_first_records_come(codec: str) -> None:
    raw = batch(*(bytes([n]) * (LIMIT // 4) for n in range(10)), codec=CODECS[codec])
    *good, rest = read(raw)
    assert [r.offset for r in good] == [0, 1, 2]
    assert rest.offset == 3
    assert "6 more" in fault(rest)
    assert rest.value == raw


def test_a_record_that_is_too_large_although_nothing_is_packed() -> None:
    raw = batch(b"a", b"x" * (2 * LIMIT), b"c")
    first, large = read(raw)
    assert first.value == b"a"
    assert "a record of" in fault(large)
    assert large.offset == 1


def test_what_was_read_before_is_not_told_again() -> None:
    raw = bomb("gzip", 3 * LIMIT)
    assert [r.value for r in read(raw, batch(b"good", base=1), start=1)] == [b"good"]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_cannot_be_unpacked_is_said(codec: str) -> None:
    whole = batch(*(b"%d" % n * 300 for n in range(50)), codec=CODECS[codec])
    broken = packed_with(whole[61 : 61 + (len(whole) - 61) // 2], CODECS[codec], whole)
    found = read(broken, batch(b"good", base=50))
    assert "cannot be unpacked" in fault(found[0]) or "is no record" in fault(found[-2])
    assert found[-1].value == b"good"


def test_a_checksum_that_is_wrong_and_a_codec_that_is_unknown_are_errors() -> None:
    raw = bytearray(batch(b"a"))
    raw[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(raw))
    with pytest.raises(UnsupportedCodecError):
        read(renewed(batch(b"a"), attributes=6))


def test_whatever_is_in_a_batch_with_a_right_checksum_those_behind_it_come() -> None:
    chance = random.Random(20)
    whole = batch(*(b"value %d" % n for n in range(5)), headers=[("name", b"v"), ("other", None)])
    for _ in range(3000):
        made = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            made[chance.randrange(61, len(made))] = chance.randrange(256)
        found = read(renewed(bytes(made)), batch(b"good", base=5))
        assert found[-1].value == b"good"
        assert all(0 <= record.offset < 5 for record in found[:-1])


def test_what_is_in_a_large_batch_is_read_as_in_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(33)
    whole = batch(*(b"value %d" % n for n in range(5)), headers=[("name", b"v"), ("other", None)])
    for _ in range(2000):
        made = bytearray(whole)
        for _ in range(chance.randrange(3)):
            made[chance.randrange(61, len(made))] = chance.randrange(256)
        raw = renewed(bytes(made))
        monkeypatch.setattr(records, "_LARGE", 0)
        as_large = read(raw)
        monkeypatch.setattr(records, "_LARGE", len(raw))
        assert as_large == read(raw)


def test_the_seam_is_there() -> None:
    """The fetcher makes its batches by this name; should that change, ours would not be used any more."""
    import inspect

    assert "records = MemoryRecords(part_data[-1])" in inspect.getsource(fetcher.Fetcher._proc_fetch_request)
