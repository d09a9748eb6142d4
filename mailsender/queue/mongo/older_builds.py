"""What builds from before the heartbeat and the outbox left: it is taken over, and neither robs the other.

Those builds leased each letter: `lease` named the claim, `until` its end. That a report was to come stood in
the letter, `reported: False`, or in a mark in `<collection>.marks`, a document for all that were settled
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pymongo import ASCENDING
from pymongo.errors import OperationFailure

from mailsender.queue.mongo.client import Collection, Document, ServerClock, committed
from mailsender.queue.mongo.documents import nameable

NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""`until` of our claims: an older build beside us takes none of them for one that ran out."""

UNCLAIMED: Final[Document] = dict.fromkeys(["claim", "lease", "until"], "")
"""What an update takes away from a letter that nobody has any more."""

LONGEST_LEASE: Final = timedelta(days=1)
"""What was the most that could be set; what is later is another program's."""

AT_ONCE: Final = 8
"""Marks taken over in one go: up to four thousand letters, which MongoDB does in a fraction of a second."""

_UNREPORTED = "mailsender_unreported"
_NO_SUCH_HINT = 2
"""MongoDB's code (BadValue) for a hint of an index that is not there."""
_THEIRS = dict.fromkeys(["mark", "reported", "at"], "")


def not_leased(now: datetime) -> Document:
    """What fits letters that no older build may be about to send at `now`."""
    return {"until": {"$not": {"$gt": now, "$lt": now + LONGEST_LEASE}}}


class Older:
    """Makes entries of the outbox of what older builds left; the owner gives calls a deadline."""

    def __init__(
        self,
        letters: Collection,
        marks: Collection,
        outbox: Collection,
        clock: ServerClock,
        *,
        retention: timedelta,
    ) -> None:
        self._letters = letters
        self._marks = marks
        self._outbox = outbox
        self._clock = clock
        self._retention = retention
        self._were_here = False

    async def open(self) -> None:
        """Look whether there was such a build: its index is there. To list them takes a right of its own."""
        try:
            await self._letters.find({"reported": False}, {"_id": 1}, hint=_UNREPORTED).limit(1).to_list(1)
        except OperationFailure as error:
            if error.code != _NO_SUCH_HINT:
                raise
        else:
            self._were_here = True

    async def take_over(self, older_than: float, limit: int) -> None:
        """Take over some of what is older than that, in seconds: a build that lives looks after the rest."""
        if not self._were_here:
            return
        now = await self._clock.now()
        before = now - timedelta(seconds=older_than)
        old = {"at": {"$lte": before}}
        for mark in await self._found(self._marks, old, AT_ONCE):
            ids = [each for each in _listed(mark, "letters") if nameable(each)]
            if mark.get("reported") is False:
                await self._announce(mark["_id"], ids, _listed(mark, "leases"), before)
            await self._end({"_id": {"$in": ids}, "mark": mark["_id"]}, mark["_id"], now)
            await self._marks.delete_one({"_id": mark["_id"]})
        letters = await self._found(self._letters, {"reported": False, **old}, limit)
        if letters:
            ids, entry = [each["_id"] for each in letters], letters[0]["_id"]
            await self._announce(entry, ids, [each.get("settled_by") for each in letters], before)
            await self._end({"_id": {"$in": ids}}, entry, now)

    async def _found(self, collection: Collection, query: Document, limit: int) -> list[Document]:
        found = await committed(collection).find(query).sort([("at", ASCENDING)]).limit(limit).to_list(limit)
        return [each for each in found if nameable(each["_id"])]

    async def _announce(self, entry: Any, ids: Sequence[Any], claims: Iterable[Any], at: datetime) -> None:
        """Store an entry of nobody's, so that whoever finds it sweeps it."""
        tokens = sorted({each for each in claims if isinstance(each, str)})
        whole = {"letters": list(ids), "count": len(ids), "claims": tokens, "at": at, "replica": ""}
        await self._outbox.update_one({"_id": entry}, {"$setOnInsert": whole}, upsert=True)

    async def _end(self, query: Document, entry: Any, now: datetime) -> None:
        """Let letters be as if they had been settled now, by a build like this one."""
        update = {"$set": {"outbox": entry, "expire_at": now + self._retention}, "$unset": _THEIRS}
        await self._letters.update_many(query, update, hint="_id_")


def _listed(document: Document, name: str) -> list[Any]:
    """A field that should be an array; another program may have written anything."""
    found = document.get(name)
    return found if isinstance(found, list) else []
