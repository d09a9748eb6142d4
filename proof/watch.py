"""Sees what the service does to the world as it does it, so that a blow can fall at that very moment.

Of the service's insides it knows nothing: letters that are stored, claimed and settled show in the change
stream of their collection and of the outbox, a report on its topic, a commit among the broker's own records.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lab.parts import partitions_of

COMMITS = "__consumer_offsets"
OUTBOX = "letters.outbox"
_PIPELINE: list[dict[str, Any]] = [
    {
        "$match": {
            "operationType": {"$in": ["insert", "update", "delete"]},
            "ns.coll": {"$in": ["letters", OUTBOX]},
        }
    },
    {"$project": {"operationType": 1, "ns": 1, "fields": "$updateDescription.updatedFields"}},
    {"$project": {"operationType": 1, "ns": 1, "status": "$fields.status"}},
]


class Watch:
    """What has happened so far, by its name: insert, commit, claim, announce, settle, report, acknowledge."""

    def __init__(self, mongo_uri: str, database: str, bootstrap: str, reports: str, group: str) -> None:
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._inserts: list[float] = []
        self._over = threading.Event()
        self._group = group.encode()
        self._ready = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._letters, args=(mongo_uri, database), name="changes", daemon=True),
            threading.Thread(target=self._records, args=(bootstrap, reports), name="records", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            if not self._ready.acquire(timeout=30):
                raise RuntimeError("the watch saw neither the collection nor the topics")

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def next(self, what: str, timeout: float) -> bool:
        """Wait for the next one from now; whether it came."""
        with self._changed:
            seen = self._counts[what]
            return self._changed.wait_for(lambda: self._counts[what] > seen, timeout)

    def first_insert(self, after: float, before: float) -> float | None:
        """When the first letter was stored between two moments, a few milliseconds late; None if none was."""
        place = bisect(self._inserts, after)
        found = self._inserts[place] if place < len(self._inserts) else None
        return found if found is not None and found < before else None

    def _happened(self, what: str) -> None:
        with self._changed:
            self._counts[what] += 1
            if what == "insert":
                self._inserts.append(time.monotonic())
            self._changed.notify_all()

    def _letters(self, uri: str, database: str) -> None:
        with (
            MongoClient[dict[str, Any]](uri, appname="watch") as client,
            client[database].watch(_PIPELINE, max_await_time_ms=200) as stream,
        ):
            self._ready.release()
            while not self._over.is_set():
                # MongoDB may be away for a while; the stream resumes by itself.
                with contextlib.suppress(PyMongoError):
                    change = stream.try_next()
                    if change is not None and (what := kind_of(change)):
                        self._happened(what)

    def _records(self, bootstrap: str, reports: str) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"watch-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            consumer.assign([*_ends(consumer, reports), *_ends(consumer, COMMITS)])
            consumer.consume(1, timeout=0.5)
            self._ready.release()
            while not self._over.is_set():
                for message in consumer.consume(500, timeout=0.05):
                    if message.error() is not None:
                        continue
                    if message.topic() == reports:
                        self._happened("report")
                    elif is_commit(message.key() or b"", self._group):
                        self._happened("commit")
        finally:
            consumer.close()


def kind_of(change: Mapping[str, Any]) -> str:
    """What a change of the collection means; nothing when it is none of ours."""
    if change.get("ns", {}).get("coll") == OUTBOX:
        return {"insert": "announce", "delete": "acknowledge"}.get(change["operationType"], "")
    if change["operationType"] == "insert":
        return "insert"
    return {"processing": "claim", "sent": "settle", "error": "settle"}.get(change.get("status", ""), "")


def is_commit(key: bytes, group: bytes) -> bool:
    """Whether the key of one of the broker's own records is that of a committed offset of this group."""
    version, length = int.from_bytes(key[:2], "big"), int.from_bytes(key[2:4], "big")
    return len(key) > 4 and version in {0, 1} and key[4 : 4 + length] == group


def _ends(consumer: Consumer, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number, OFFSET_END) for number in partitions_of(consumer, topic)]
