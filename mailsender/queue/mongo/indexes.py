"""The indexes of the letters' collection, one for each query that does not go by `_id`; how to build them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pymongo import ASCENDING, IndexModel
from pymongo.errors import OperationFailure

from mailsender.queue.mongo.client import Collection, calling

INDEX_TIMEOUT = 600.0
"""Seconds for building the indexes; on a collection that the original filled it takes a while, once."""

# IndexOptionsConflict and IndexKeySpecsConflict.
_DIFFERS = {85, 86}
# Unauthorized.
_NOT_ALLOWED = 13

# The status comes first so that counting by status reads the index alone. A query must name the same
# single value as the partial filter: `$in` would not use the index.
INDEXES = (
    IndexModel(
        [("status", ASCENDING), ("claim", ASCENDING)],
        name="mailsender_claim",
        partialFilterExpression={"status": "processing"},
    ),
    IndexModel(
        [("status", ASCENDING)],
        name="mailsender_error",
        partialFilterExpression={"status": "error"},
    ),
    IndexModel(
        [("status", ASCENDING), ("handling.expires", ASCENDING)],
        name="mailsender_late",
        partialFilterExpression={"status": "awaiting", "handling.expires": {"$exists": True}},
    ),
    IndexModel(
        [("expire_at", ASCENDING)],
        name="mailsender_expire",
        # Without it every letter would have an entry that says it has none yet.
        partialFilterExpression={"expire_at": {"$exists": True}},
        expireAfterSeconds=0,
    ),
)

_log = structlog.get_logger()


async def ensure_indexes(collection: Collection, indexes: Sequence[IndexModel]) -> dict[str, str]:
    """Build those of `indexes` that are missing; returns the name under which each is there, by our name.

    Somebody may have made one under another name, or otherwise: that is no reason not to start. One that
    serves our queries goes by its own name; without one they are left to MongoDB's choice.

    Raises:
        Unavailable: MongoDB is away, or takes longer than `INDEX_TIMEOUT`.
    """
    names: dict[str, str] = {}
    async with calling(INDEX_TIMEOUT):
        for index in indexes:
            ours = index.document["name"]
            found = await _ensure(collection, index)
            if found:
                names[ours] = found
    return names


async def _ensure(collection: Collection, index: IndexModel) -> str:
    """Make sure of one index; returns the name of the one that serves, empty where none does."""
    name = str(index.document["name"])
    try:
        await collection.create_indexes([index])
    except OperationFailure as error:
        if error.code not in _DIFFERS:
            raise
    else:
        return name
    try:
        serving = await _like(collection, index)
    except OperationFailure as error:
        if error.code != _NOT_ALLOWED:
            raise
        serving = ""  # to list indexes takes a right of its own
    if serving and serving != name:
        _log.info("index_under_another_name", index=name, used=serving)
    else:
        _log.warning(
            "index_differs",
            index=name,
            action="the one that is there is used; drop it and start again to have ours",
        )
    return serving


async def _like(collection: Collection, index: IndexModel) -> str:
    """The name of an index of the same keys that holds all that ours would hold."""
    wanted = index.document
    for name, found in (await collection.index_information()).items():
        same = list(found["key"]) == list(wanted["key"].items())
        partial = found.get("partialFilterExpression")
        if same and (partial is None or partial == wanted.get("partialFilterExpression")):
            return str(name)
    return ""
