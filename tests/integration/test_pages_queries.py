"""The queries that docs/changes.md shows find what they say, in a real MongoDB."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from lab.parts import MongoServer
from mailsender.model.blobs import ref_of
from mailsender.model.clock import SystemClock
from mailsender.model.handling import Handling
from mailsender.model.letter import Answer, Letter, Origin, Recipient, Settlement, Status
from mailsender.queue.mongo.client import connect
from mailsender.queue.mongo.queue import MongoQueue
from tests.claims import claim

PAGE = (Path(__file__).parents[2] / "docs" / "changes.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^db\.letters\.(\w+)\((\{.*?\})\)(?:\.sort\((.*)\))?$", PAGE, re.MULTILINE)


def made(number: int, address: str) -> Letter:
    origin = Origin(topic="mts-to-mailsender", partition=0, offset=number, index=0, timestamp=1)
    return Letter(
        id=origin.letter_id(),
        addresses=(address,),
        subject="s",
        body="b",
        answers=(Answer(origin=origin),),
        recipients=(Recipient(address=address),),
    )


@pytest.mark.asyncio
async def test_the_queries_of_the_page_find_what_they_say(mongod: MongoServer, database: str) -> None:
    client = connect(mongod.uri, app_name="test", timeout=10)
    queue = MongoQueue(
        client, database=database, collection="letters", retention=3600, clock=SystemClock(), timeout=10
    )
    await queue.open()
    waits, sent, tried = made(4, "ivan@example.com"), made(5, "ivan@example.com"), made(6, "eva@example.com")
    await queue.insert([sent, tried])
    lease = await claim(queue, 2)
    outcome = {sent.id: Status.SENT, tried.id: Status.AWAITING}
    settled = [each.evolve(status=outcome[each.id], attempts=1) for each in lease.letters]
    await queue.settle([Settlement(token=lease.token, letter=each, delay=60) for each in settled])
    await queue.insert(
        [
            waits.evolve(
                handling=Handling(stream="news"), mail=f'{{"Attachments":[{{"Ref":"{ref_of(b"%PDF")}"}}]}}'
            )
        ]
    )
    await queue.close()
    found: list[Any] = []
    with MongoClient[dict[str, Any]](mongod.uri) as direct:
        letters = direct[database]["letters"]
        for method, query, order in SHOWN:
            if method == "find":
                cursor = letters.find(json.loads(query))
                found.append(
                    [str(each["_id"]) for each in (cursor.sort(json.loads(order)) if order else cursor)]
                )
        (deleting,) = [json.loads(query) for method, query, _ in SHOWN if method == "deleteMany"]
        assert letters.delete_many(deleting).deleted_count == 1
        assert {str(each["_id"]) for each in letters.find()} == {waits.id, tried.id}
        fields = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
        stored = {name for each in letters.find() for name in each} | {"claim", "finished_at", "reason"}
        assert fields <= stored
    by_address, by_record, longest, again = found
    assert set(by_address) == {waits.id, sent.id}
    assert by_record == [sent.id]
    assert longest == [waits.id, tried.id]
    assert again == [tried.id]
