"""The indexes of the letters' collection, one for each query that does not go by `_id`; how to build them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pymongo import ASCENDING, IndexModel
from pymongo.errors import OperationFailure

from mailsender.adapters.mongo import Collection, calling

INDEX_TIMEOUT = 600.0
"""Seconds for building the indexes; on a collection that the original filled it takes a while, once."""

# IndexOptionsConflict and IndexKeySpecsConflict.
_DIFFERS = {85, 86}

# The status comes first so that counting by status reads the index alone. A query must name the same
# single value as the partial filter: `$in` would not use the index.
INDEXES = (
    IndexModel(
        [("status", ASCENDING), ("due", ASCENDING), ("seq", ASCENDING)],
        name="mailsender_due",
        partialFilterExpression={"status": "awaiting"},
    ),
    IndexModel(
        [("status", ASCENDING), ("until", ASCENDING)],
        name="mailsender_until",
        partialFilterExpression={"status": "processing"},
    ),
    IndexModel(
        [("reported", ASCENDING), ("at", ASCENDING)],
        name="mailsender_unreported",
        partialFilterExpression={"reported": False},
    ),
    IndexModel(
        [("status", ASCENDING)],
        name="mailsender_error",
        partialFilterExpression={"status": "error"},
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


async def ensure_indexes(collection: Collection, indexes: Sequence[IndexModel]) -> None:
    """Build those of `indexes` that are missing.

    Raises:
        Unavailable: MongoDB is away, or takes longer than `INDEX_TIMEOUT`.
    """
    async with calling(INDEX_TIMEOUT):
        for index in indexes:
            await _ensure(collection, index)


async def _ensure(collection: Collection, index: IndexModel) -> None:
    """Make sure of one index; one that somebody made in another way is no reason not to start."""
    try:
        await collection.create_indexes([index])
    except OperationFailure as error:
        if error.code not in _DIFFERS:
            raise
        _log.warning(
            "index_differs",
            index=index.document["name"],
            action="the one that is there is used; drop it and start again to have ours",
        )
