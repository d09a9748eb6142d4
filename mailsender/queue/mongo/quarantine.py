"""Documents that no loop can deal with: set apart with the reason, so that none is met again and again.

They come from other programs, or a rule of the collection refuses what would be written to them. Each gets
the status `error` and a `reason`; where not even that can be written, this process leaves it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from bson import decode
from bson.raw_bson import RawBSONDocument

from mailsender.model.errors import Rejected
from mailsender.queue.mongo.client import CODEC, RAW, Collection, Document, calling
from mailsender.queue.mongo.documents import letter_id, nameable
from mailsender.queue.mongo.older_builds import UNCLAIMED
from mailsender.queue.mongo.outbox import Outbox

MOST = 1000
"""Documents that one process leaves alone; the one that was left first is tried again after that."""

_OPEN = {"$in": ["awaiting", "processing"]}
_NAMELESS = {
    "$set": {
        "status": "error",
        "reason": "its _id cannot be named: it is not valid UTF-8, or a value without a name",
    },
    "$unset": UNCLAIMED,
}

_log = structlog.get_logger()


class Apart:
    """What is set apart in a collection of letters; `timeout` is the deadline of each call, in seconds."""

    def __init__(self, letters: Collection, outbox: Outbox, timeout: float, *, retention: timedelta) -> None:
        self._letters = letters
        self._outbox = outbox
        self._retention = retention
        self._timeout = timeout
        self._left: dict[str, Any] = {}

    def beside(self, query: Document) -> Document:
        """`query` without what this process leaves alone."""
        if not self._left:
            return query
        return {**query, "_id": {"$nin": list(self._left.values())}}

    def leave(self, stored: Any) -> None:
        """Leave a document alone from now on."""
        self._left[letter_id(stored)] = stored
        if len(self._left) > MOST:
            del self._left[next(iter(self._left))]

    def tell(self, event: str, ids: Sequence[Any]) -> None:
        """Say that something could not be written to documents."""
        _log.error(
            event,
            letters=len(ids),
            first=letter_id(ids[0]),
            check="whether a rule of the collection refuses it, or the document is too large",
        )

    async def put(self, stored: Any, fault: str) -> None:
        """Set the document with this `_id` apart.

        Raises:
            Unavailable: MongoDB is away.
        """
        for update in _endings(fault):
            try:
                async with calling(self._timeout):
                    await self._announced(stored, update)
                    await self._letters.update_one({"_id": stored, "status": _OPEN}, update)
            except Rejected:
                continue  # smaller ones follow
            else:
                _log.warning(
                    "letter_set_apart",
                    letter=letter_id(stored),
                    fault=fault,
                    action="its status is error; the others go on",
                )
                return
        self.leave(stored)
        self.tell("letter_left_alone", [stored])

    async def _announced(self, stored: Any, update: Document) -> None:
        """Its publisher gets a report: the entry comes first. The last resort has no room for its name."""
        now = await self._outbox.now()
        entry = await self._outbox.begin([letter_id(stored)], [], now)
        if len(update["$set"]) > 1:
            update["$set"] |= {"outbox": entry.id, "expire_at": now + self._retention}

    async def unnamed(self, query: Document) -> bool:
        """Set apart documents of `query` that no client can name by their `_id`; whether there were any.

        As it came from the server, the `_id` is a filter all the same.
        """
        raw = self._letters.with_options(codec_options=RAW)
        async with calling(self._timeout):
            found = await raw.find(query, {"_id": 1}).limit(MOST).to_list(MOST)
        _, nameless = sorted_out(found)
        await self.end(nameless)
        return bool(nameless)

    async def end(self, nameless: Sequence[RawBSONDocument]) -> None:
        """Set apart documents that no client can name; each holds its `_id` as it came."""
        async with calling(self._timeout):
            for each in nameless:
                await self._letters.update_one(RawBSONDocument(each.raw), _NAMELESS)
        if nameless:
            _log.warning(
                "letter_cannot_be_named",
                letters=len(nameless),
                action="their status is error, and no report is made; give them another _id",
            )


def sorted_out(found: Sequence[RawBSONDocument]) -> tuple[list[Any], list[RawBSONDocument]]:
    """The `_id`s that a client can name, and those documents whose it cannot."""
    named: list[Any] = []
    nameless: list[RawBSONDocument] = []
    for each in found:
        stored = decode(each.raw, CODEC)["_id"]
        if nameable(stored):
            named.append(stored)
        else:
            nameless.append(each)
    return named, nameless


def _endings(fault: str) -> list[Document]:
    """Updates that end a letter, each smaller than the one before; the last makes the document shrink."""
    error = {"status": "error", "reason": f"it cannot be claimed: {fault}"}
    # Who tried it before has not settled this, which its entry in the outbox would be understood as.
    gone = {**UNCLAIMED, "settled_by": ""}
    dated = {"$currentDate": {"finished_at": True}, "$unset": gone}
    return [
        {"$set": {**error}, **dated},
        {"$set": {**error, "subject": "", "body": "", "recipients": []}, **dated},
        {"$set": {"status": "error"}, "$unset": gone},
    ]
