"""Whole records that the dead-letter topic refused, as documents. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from bson import encode
from pymongo import ASCENDING, IndexModel

from mailsender.model.history import digest_of
from mailsender.model.records import Record
from mailsender.queue.mongo.documents import clean

CHUNK_BYTES = 12 * 1024 * 1024
"""Bytes of one part; MongoDB takes documents of up to 16 MiB."""


INDEXES: Final = (
    IndexModel([("expire_at", ASCENDING)], name="mailsender_deadletter_expire", expireAfterSeconds=0),
)


def documents_of(
    record: Record, reason: str, now: datetime, retention: timedelta
) -> Iterator[dict[str, Any]]:
    """The documents that hold `record`, kept at `now` for `reason`; the one that names it comes last.

    They go after `retention`: whoever may publish may fill the collection. Their `_id` is topic, partition,
    offset and a `digest` of the record, so that keeping it twice changes nothing, and that of a topic that
    was made anew replaces none. A large record stands in `chunks` further documents, their `_id` with a
    `chunk` number: their `bytes`, put together, are a BSON document with `key`, `headers` and `value`.
    """
    place = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "digest": digest_of(record.key, record.value, record.timestamp),
    }
    expire_at = now + retention
    headers = [{"name": clean(name), "value": value} for name, value in record.headers]
    content = {"key": record.key, "headers": headers, "value": record.value}
    about = {"_id": place, "reason": clean(reason), "timestamp": record.timestamp, "kept_at": now}
    about["expire_at"] = expire_at
    raw = encode(content)
    if len(raw) <= CHUNK_BYTES:
        yield {**about, **content}
        return
    starts = range(0, len(raw), CHUNK_BYTES)
    for number, start in enumerate(starts):
        part = raw[start : start + CHUNK_BYTES]
        yield {"_id": {**place, "chunk": number}, "bytes": part, "expire_at": expire_at}
    yield {**about, "chunks": len(starts), "size": len(raw)}
