"""What a replica makes of documents of flows that others wrote; see tests/contract/test_flows.py, too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.model.handling import Handling, Priority
from mailsender.model.letter import Letter
from mailsender.queue.mongo.documents import document_of
from mailsender.queue.mongo.flows import Flows
from mailsender.queue.mongo.insert import _Incoming
from mailsender.queue.ranks import HEAD_START, Shares
from tests.clocks import ManualClock
from tests.dispatching import letter

pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOUND = NOW.timestamp() * 1000


class Nothing:
    """A collection in which nothing is found."""

    def find(self, *_: Any) -> Nothing:
        return self

    def sort(self, _: Any) -> Nothing:
        return self

    def limit(self, _: int) -> Nothing:
        return self

    async def to_list(self, _: Any) -> list[Any]:
        return []


class Written(Nothing):
    """Documents of flows as somebody left them; a mended one is as the server would make it."""

    def __init__(self, found: dict[str, Any], *, mends: bool = True) -> None:
        self.found = found
        self.mends = mends
        self.mended: list[Any] = []

    def with_options(self, **_: Any) -> Written:
        return self

    async def find_one_and_update(self, query: Any, _update: Any, **_: Any) -> dict[str, Any]:
        sound = {"now": SOUND, "era": 1, "first": SOUND}
        return sound if self.mends and query["_id"] in self.mended else sound | self.found

    async def update_many(self, query: Any, _update: Any) -> None:
        self.mended += query["_id"]["$in"]


def waiting() -> list[tuple[Letter, dict[str, Any]]]:
    mine = letter(1, route="r").evolve(handling=Handling(stream="news"))
    return [(mine, document_of(mine, NOW)[0])]


def flows_of(written: Written) -> Flows:
    return Flows(Nothing(), written, ManualClock(), Shares())


@pytest.mark.parametrize("value", ["soon", None, float("nan"), float("inf"), 1e300, -1.0, [], NOW])
@pytest.mark.parametrize("field", ["now", "first"])
async def test_what_another_program_wrote_keeps_no_letter_out(field: str, value: Any) -> None:
    """Else none would come in on that route, and no restart would help."""
    written, several = Written({field: value}), waiting()
    with capture_logs() as logs:
        found = await flows_of(written).rank(several, NOW, 5.0)
    assert [each.first for each in found] == [SOUND]
    assert several[0][1]["rank"] == NOW
    assert [each["event"] for each in logs] == ["flows_mended"]
    assert written.mended == [{"route": "r"}, {"route": "r", "flow": "news"}]


async def test_where_it_cannot_be_mended_letters_stand_as_they_came() -> None:
    several = waiting()
    with capture_logs():
        assert await flows_of(Written({"first": "soon"}, mends=False)).rank(several, NOW, 5.0) == []
    assert several[0][1]["rank"] == NOW


@pytest.mark.parametrize(
    ("priority", "seconds"), [("high", -HEAD_START), ("normal", 0.0), ("low", HEAD_START)]
)
async def test_what_comes_in_claimed_has_its_priority_if_it_is_given_back(
    priority: str, seconds: float
) -> None:
    each = _Incoming(letter(1).evolve(handling=Handling(priority=Priority(priority))), NOW)
    each.claim("token", NOW)
    assert (each.document["rank"] - NOW).total_seconds() == seconds
