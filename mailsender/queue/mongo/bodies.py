"""Bodies that go before their letters (`MONGODB_BODY_RETENTION`): what is left tells what became of them.

A letter gets `body_until` in the write that ends it, where such a time is set at all. Once that has come
and its report is out, body, texts and attachments go, in one guarded write that leaves the hash of its
content behind: by that it is known again. An index of its own names the next ones; other letters have no
entry in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, UpdateOne

from mailsender.model.blobs import without_texts
from mailsender.queue.mongo.client import Collection, Document, ServerClock
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import nameable
from mailsender.queue.mongo.outbox import Outbox

READ_BYTES: Final = 8 * 1024 * 1024
"""Bytes of documents that are read in one go, but always at least one document."""

LOOK_AGAIN: Final = timedelta(minutes=10)
"""After how long a letter is looked at again whose report is still to come."""

INDEX: Final = IndexModel([("body_until", ASCENDING)], name="mailsender_body", sparse=True)

_BY_ID = "_id_"


class Bodies:
    """Those of a collection of letters; the owner gives calls a deadline and translates their errors.

    `kept` is for how long bodies of final letters are kept; None: as long as the letters.
    """

    def __init__(
        self, letters: Collection, outbox: Outbox, clock: ServerClock, *, kept: timedelta | None
    ) -> None:
        self._letters = letters
        self._outbox = outbox
        self._clock = clock
        self._kept = kept

    def until(self, now: datetime) -> Document:
        """What a letter that ends at `now` has to say about it."""
        return {} if self._kept is None else {"body_until": now + self._kept}

    async def drop(self, limit: int) -> int:
        """See `Queue.drop_bodies`."""
        if self._kept is None:
            return 0
        now = await self._clock.now()
        shown = {"outbox": 1, "size": {"$bsonSize": "$$ROOT"}}
        over = self._letters.find({"body_until": {"$lte": now}}, shown).sort([("body_until", ASCENDING)])
        found = await over.limit(limit).to_list(limit)
        named = _within([each for each in found if nameable(each["_id"])])
        open_ = await self._outbox.open_among([each.get("outbox") for each in named])
        waiting = [each["_id"] for each in named if each.get("outbox") in open_]
        if waiting:
            later = {"$set": {"body_until": now + LOOK_AGAIN}}
            await self._letters.update_many({"_id": {"$in": waiting}}, later, hint=_BY_ID)
        await self._strip([each["_id"] for each in named if each.get("outbox") not in open_])
        return len(named)

    async def _strip(self, ids: Sequence[Any]) -> None:
        query = {"_id": {"$in": list(ids)}, "body_until": {"$exists": True}}
        documents = await self._letters.find(query, hint=_BY_ID).to_list(None)
        updates = [_stripping(document) for document in documents]
        if updates:
            await self._letters.bulk_write(updates, ordered=False)


def _stripping(document: Document) -> UpdateOne:
    letter = letter_of(document)
    left: Document = {"body": "", "bare": True, "digest": letter.content}
    gone: Document = dict.fromkeys(["body_until", "blobs"], "")
    try:
        mail = without_texts(letter.mail)
    except (AttributeError, RecursionError, ValueError):  # it is not as we write it, and nobody can read it
        mail = ""
    if mail:
        left["mail"] = mail
    elif letter.mail:  # what another program calls so is its own
        gone["mail"] = ""
    query = {"_id": document["_id"], "body_until": document["body_until"]}
    return UpdateOne(query, {"$set": left, "$unset": gone}, hint=_BY_ID)


def _within(found: Sequence[Document]) -> Sequence[Document]:
    """As many as fit into `READ_BYTES`, and at least one."""
    total = 0
    for count, document in enumerate(found):
        total += document["size"]
        if count and total > READ_BYTES:
            return found[:count]
    return found
