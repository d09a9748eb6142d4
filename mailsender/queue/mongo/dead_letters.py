"""Whole records that the dead-letter topic refused, as documents. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from bson import encode

from mailsender.model.records import Record
from mailsender.queue.mongo.documents import clean

CHUNK_BYTES = 12 * 1024 * 1024
"""Bytes of one part; MongoDB takes documents of up to 16 MiB."""


def documents_of(record: Record, reason: str, now: datetime) -> Iterator[dict[str, Any]]:
    """The documents that hold `record`, kept at `now` for `reason`; the one that names it comes last.

    Its `_id` is topic, partition and offset, so that keeping it twice changes nothing. A large record stands
    in `chunks` further documents, their `_id` with a `chunk` number: their `bytes`, put together, are
    a BSON document with `key`, `headers` and `value`.
    """
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    headers = [{"name": clean(name), "value": value} for name, value in record.headers]
    content = {"key": record.key, "headers": headers, "value": record.value}
    about = {"_id": place, "reason": clean(reason), "timestamp": record.timestamp, "kept_at": now}
    raw = encode(content)
    if len(raw) <= CHUNK_BYTES:
        yield {**about, **content}
        return
    starts = range(0, len(raw), CHUNK_BYTES)
    for number, start in enumerate(starts):
        yield {"_id": {**place, "chunk": number}, "bytes": raw[start : start + CHUNK_BYTES]}
    yield {**about, "chunks": len(starts), "size": len(raw)}
