"""The suppression list where MongoDB's user may do what is documented, and where it may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from lab import parts
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Forbidden
from mailsender.queue.mongo.client import connect, disconnect
from mailsender.queue.mongo.rights import RIGHTS
from mailsender.suppression.mongo import MongoSuppressions
from mailsender.suppression.port import Entry, Filter, Refusal, Source
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch
from tests.dispatching import letter

pytestmark = pytest.mark.asyncio

NOW = datetime(2030, 1, 2, tzinfo=UTC)
ANN = "ann@example.test"


async def test_the_documented_rights_are_enough_and_without_them_letters_go_out(
    lone_mongod: parts.LoneMongod,
) -> None:
    entry = Entry(address=ANN, source=Source.OPERATOR, since=NOW)
    refusal = Refusal(
        address="bob@example.test", reason="550", letter="a" * 24, own=True, at=NOW, until=NOW + timedelta(1)
    )
    for rights in (RIGHTS[".suppression"], frozenset[str]()):
        database = f"test_{uuid4().hex[:12]}"
        beside = {"letters.other": {"find"}}
        uri = lone_mongod.narrow_user(database, beside | ({"letters.suppression": rights} if rights else {}))
        client = connect(uri, timeout=10.0, app_name="suppression")
        store = MongoSuppressions(client, database=database, collection="letters.suppression")
        watch = SuppressionWatch(store, SystemClock(), SuppressionPolicy())
        if rights:
            assert await store.put([entry]) == 1
            await store.note([refusal])
            assert len(await watch.look_up([letter(1, ANN)])) == 1
            assert len(await store.listed(Filter(now=NOW), after="", most=10)) == 2
            assert await store.remove([ANN]) == 1
        else:
            with pytest.raises(Forbidden):
                await store.put([entry])
            with pytest.raises(Forbidden):
                await store.note([refusal])
            assert await watch.look_up([letter(1, ANN)]) == {}
            assert watch.unread
        await disconnect(client, 10.0)
