"""Every sentence of `SuppressionStore`'s docstrings."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailsender.suppression import memory
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.mongo import MongoSuppressions
from mailsender.suppression.port import Entry, Filter, Refusal, Source, SuppressionStore, key_of
from mailsender.suppression.rules import refused
from tests.contract.conftest import MONGO, only

pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
LIFE = timedelta(days=30)
ANN = "ann@example.test"


def entry(address: str = ANN, **changes: Any) -> Entry:
    fields: dict[str, Any] = {"source": Source.OPERATOR, "since": NOW, "until": NOW + LIFE}
    return Entry(address=address, **fields | changes)


def refusal(letter: str = "a" * 24, *, own: bool = False, at: datetime = NOW, address: str = ANN) -> Refusal:
    return Refusal(address=address, reason="550 $secret", letter=letter, own=own, at=at, until=at + LIFE)


@pytest_asyncio.fixture
async def store(backend: str, client: Any, request: pytest.FixtureRequest) -> SuppressionStore:
    if backend == "memory":
        return MemorySuppressions()
    name = request.getfixturevalue("database")
    return MongoSuppressions(client, database=name, collection="letters.suppression")


async def listed(store: SuppressionStore, after: str = "", most: int = 100, **wanted: Any) -> list[str]:
    found = await store.listed(Filter(now=NOW, **wanted), after=after, most=most)
    return [each.key for each in found]


async def test_it_is_empty_until_something_is_put(store: SuppressionStore) -> None:
    assert await store.empty()
    await store.put([entry()])
    assert not await store.empty()
    assert await store.remove([ANN]) == 1
    assert await store.empty()


async def test_what_was_put_is_found_by_its_key_as_it_was(store: SuppressionStore) -> None:
    endless = entry("@example.test", stream="news $letter", until=None, source=Source.IMPORT, reason="$since")
    over = entry("bob@example.test", until=NOW - LIFE)
    quiet = entry("cid@example.test", active=False, refusals=1, letter="b" * 24, source=Source.REFUSAL)
    assert await store.put([entry(), endless, over, quiet]) == 4
    keys = [ANN, ANN, endless.key, over.key, quiet.key, "@example.test", "eve@example.test"]
    found = await store.find(keys)
    assert {each.key: each for each in found} == {each.key: each for each in (entry(), endless, over, quiet)}
    assert len(found) == 4
    assert await store.find([]) == []


async def test_an_entry_takes_the_place_of_the_one_before(store: SuppressionStore) -> None:
    assert await store.put([entry()]) == 1
    assert await store.put([entry(reason="once more"), entry("bob@example.test")]) == 1
    (found,) = await store.find([ANN])
    assert found.reason == "once more"


async def test_of_two_of_one_key_the_last_one_stays(store: SuppressionStore) -> None:
    assert await store.put([entry(reason="first"), entry(reason="last")]) == 1
    assert [each.reason for each in await store.find([ANN])] == ["last"]


async def test_a_stream_has_entries_of_its_own(store: SuppressionStore) -> None:
    await store.put([entry(), entry(stream="news")])
    assert await store.remove([key_of(ANN, "news")]) == 1
    assert await listed(store) == [ANN]


async def test_only_what_nobody_decided_is_taken_away_as_learned(store: SuppressionStore) -> None:
    by_hand = entry("bob@example.test")
    bounced = entry("cid@example.test", source=Source.BOUNCE)
    await store.put([by_hand, bounced])
    await store.note([refusal(own=True)])
    keys = [ANN, by_hand.key, bounced.key, "eve@example.test"]
    assert await store.remove(keys, learned=True) == 2
    assert await listed(store) == [by_hand.key]
    assert await store.remove(keys) == 1


async def test_it_is_listed_page_by_page_in_the_order_of_keys(store: SuppressionStore) -> None:
    names = ["@example.test", "Ann@example.test", ANN, "éva@example.test", "\U0001f600@example.test"]
    await store.put([entry(each) for each in reversed(names)])
    await store.put([entry(stream="news")])
    everything = [*names[:3], f"{ANN} news", *names[3:]]
    assert await listed(store) == everything
    assert await listed(store, most=2) == everything[:2]
    assert await listed(store, after=everything[1], most=3) == everything[2:5]
    assert await listed(store, after=everything[-1]) == []


async def test_what_is_over_or_not_active_is_not_listed(store: SuppressionStore) -> None:
    await store.put([entry(until=None), entry("bob@example.test", until=NOW)])
    await store.note([refusal(address="cid@example.test")])
    assert await listed(store) == [ANN]


async def test_it_is_listed_by_address_and_by_stream(store: SuppressionStore) -> None:
    others = [f"{ANN}.org", f"x{ANN}", "ann@example.tesu"]
    await store.put([entry(each) for each in (ANN, *others)])
    await store.put([entry(stream="news"), entry(others[0], stream="news"), entry(stream="other")])
    assert await listed(store, address=ANN) == [ANN, f"{ANN} news", f"{ANN} other"]
    assert await listed(store, address=ANN, stream="news") == [f"{ANN} news"]
    assert await listed(store, stream="news") == [f"{ANN} news", f"{others[0]} news"]
    assert await listed(store, stream="") == sorted([ANN, *others])


async def test_one_refusal_of_its_own_is_enough(store: SuppressionStore) -> None:
    await store.note([refusal(own=True)])
    (found,) = await store.find([ANN])
    assert found == refused(None, refusal(own=True))
    assert (found.active, found.reason, found.until) == (True, "550 $secret", NOW + LIFE)


async def test_others_count_by_letter(store: SuppressionStore) -> None:
    await store.note([refusal("a" * 24), refusal("a" * 24)])
    await store.note([refusal("a" * 24)])
    (found,) = await store.find([ANN])
    assert (found.active, found.refusals) == (False, 1)
    await store.note([refusal("b" * 24, at=NOW + timedelta(days=1))])
    (found,) = await store.find([ANN])
    assert (found.active, found.refusals, found.since) == (True, 2, NOW + timedelta(days=1))


async def test_two_refusals_of_one_call_count_in_their_order(store: SuppressionStore) -> None:
    await store.note([refusal("a" * 24), refusal("b" * 24)])
    (found,) = await store.find([ANN])
    assert (found.active, found.letter) == (True, "b" * 24)


async def test_a_refusal_leaves_what_an_operator_decided(store: SuppressionStore) -> None:
    by_hand = entry(reason="asked us to", until=None)
    await store.put([by_hand])
    await store.note([refusal(own=True)])
    assert await store.find([ANN]) == [by_hand]


async def test_of_many_refusals_at_once_each_counts(store: SuppressionStore) -> None:
    await asyncio.gather(*(store.note([refusal(f"{number:024x}")]) for number in range(20)))
    (found,) = await store.find([ANN])
    assert (found.refusals, found.active) == (20, True)


_MOMENTS = st.integers(0, 80).map(lambda days: NOW + timedelta(days=days))
_REFUSALS = st.builds(
    refusal, st.sampled_from(["a" * 24, "b" * 24, "c" * 24]), own=st.booleans(), at=_MOMENTS
)
_BEFORE = st.none() | st.builds(
    entry,
    source=st.sampled_from(list(Source)),
    until=st.none() | _MOMENTS,
    active=st.booleans(),
    refusals=st.integers(0, 3),
    letter=st.sampled_from(["", "a" * 24]),
)


@pytest.fixture(scope="module")
def cases() -> list[tuple[Entry | None, list[Refusal]]]:
    """Histories to compare by; drawn once, since each costs round trips."""
    drawn: list[tuple[Entry | None, list[Refusal]]] = []

    @settings(
        max_examples=60,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(before=_BEFORE, refusals=st.lists(_REFUSALS, min_size=1, max_size=5))
    def draw(before: Entry | None, refusals: list[Refusal]) -> None:
        drawn.append((before, refusals))

    draw()
    return drawn


async def test_a_refusal_does_what_the_rules_say(
    store: SuppressionStore, cases: list[tuple[Entry | None, list[Refusal]]]
) -> None:
    for before, refusals in cases:
        await store.remove([ANN])
        expected = before
        if before is not None:
            await store.put([before])
        for each in refusals:
            expected = refused(expected, each)
        await store.note(refusals)
        assert await store.find([ANN]) == [expected]


@pytest.mark.parametrize("until", [None, NOW + 2 * LIFE], ids=["never", "later"])
@pytest.mark.parametrize("active", [True, False])
async def test_a_refusal_does_not_shorten_what_was_learned(
    store: SuppressionStore, until: datetime | None, active: bool
) -> None:
    """A bounce that a file has for ever would end a month after somebody sent there all the same."""
    await store.put([entry(source=Source.BOUNCE, until=until, active=active)])
    await store.note([refusal(own=True)])
    (found,) = await store.find([ANN])
    assert (found.until, found.active, found.source) == (until, True, Source.REFUSAL)
    assert found == refused(entry(source=Source.BOUNCE, until=until, active=active), refusal(own=True))


@only("memory")
async def test_in_memory_the_oldest_go_first(
    store: SuppressionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST", 3)
    await store.put([entry(f"{number}@example.test") for number in range(5)])
    assert await listed(store) == [f"{number}@example.test" for number in range(2, 5)]


@only(*MONGO)
async def test_what_cannot_be_read_is_passed_over(
    store: SuppressionStore, client: Any, request: pytest.FixtureRequest
) -> None:
    raw = client.get_database(request.getfixturevalue("database")).get_collection("letters.suppression")
    await store.put([entry()])
    await raw.insert_many([{"_id": "1", "active": True, "until": None}, {"_id": "2", "address": 7}])
    assert await listed(store) == [ANN]
    assert await store.find(["1", "2", ANN]) == [entry()]


@only(*MONGO)
async def test_what_is_over_is_deleted_by_mongodb(
    store: SuppressionStore, client: Any, request: pytest.FixtureRequest
) -> None:
    raw = client.get_database(request.getfixturevalue("database")).get_collection("letters.suppression")
    await store.put([entry(), entry("bob@example.test", until=None)])
    await store.note([refusal(address="cid@example.test")])
    indexes = await raw.index_information()
    assert indexes["mailsender_suppression_expire"]["expireAfterSeconds"] == 0
    dated = {each["_id"]: each.get("expire_at") async for each in raw.find({})}
    assert dated == {ANN: NOW + LIFE, "bob@example.test": None, "cid@example.test": NOW + LIFE}


@only(*MONGO)
async def test_more_keys_than_go_into_one_query(
    store: SuppressionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailsender.suppression.mongo.KEYS", 3)
    several = [entry(f"{number}@example.test") for number in range(8)]
    assert await store.put(several) == 8
    assert len(await store.find([each.key for each in several])) == 8
    assert await store.remove([each.key for each in several]) == 8
