"""Every sentence of `SlotStore`'s docstrings, and MongoDB's arithmetic against `limiter`'s."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import pairwise, product
from typing import Any

import pytest
from bson import Decimal128

from mailsender.model.clock import SystemClock
from mailsender.ratelimit.gcra import (
    AHEAD,
    UNCOUNTED,
    Allowance,
    Cursor,
    SlotGrant,
    SlotRequest,
    day_bounds,
    days_around,
    give_back,
    take,
)
from mailsender.ratelimit.mongo import MongoSlotStore, leasing
from mailsender.ratelimit.order import HEARD, MOST_ORDERS, RELAY, Order, destination
from mailsender.ratelimit.port import SlotStore
from tests.clocks import ManualClock
from tests.contract.conftest import MONGO, only

pytestmark = pytest.mark.asyncio

FAST = Allowance(letters=1000, period=1.0, burst=100)
SLOW = Allowance(letters=1, period=3600.0)
QUOTA = Allowance(letters=0, period=1.0, quota=10)


MANY = (
    Allowance(letters=14, period=1.0, burst=3, quota=400, quota_period=3600.0),
    Allowance(letters=2000, period=300.0, burst=700),
    Allowance(letters=100_000, period=86400.0, burst=9000),
)


def wish(want: int, allowance: Allowance, member: str = "", *further: Allowance) -> SlotRequest:
    return SlotRequest(want=want, allowance=allowance, member=member, further=further)


def order(key: str = RELAY, **changes: Any) -> Order:
    """What a reply ordered, on a clock that shows 0."""
    return Order(
        **{"key": key, "rule": "too fast", "said": "450 $now 4.2.1 не так быстро", "until": 0.0, **changes}
    )


def times(grant: SlotGrant) -> list[float]:
    return [grant.first + index * grant.step for index in range(grant.count)]


_NO_NUMBERS = {
    **asdict(Order(key=RELAY, rule="r", said="450", until=math.nan, factor=0.5, then_until=math.nan)),
    "step": 15.0,
}


@pytest.mark.parametrize(
    "garbage",
    [
        {"next": "soon", "used": "many", "day": [], "members": 5},
        {"next": float("nan"), "used": float("inf")},
        {"members": {"a": {"at": 4102444800.0, "next": "x", "hungry": []}}},
        {"members": {"a": 5}},
        {"next": None, "used": None, "day": None, "members": None},
        {"used": {"a": 1}, "day": True},
        {"next": Decimal128("1E+6000")},
        {"further": 5, "spent": "much", "version": "x"},
        {"order": {"until": "never"}, "orders": [5, {"key": "x"}], "version": 7},
        {"order": 5, "orders": "all"},
        {"order": _NO_NUMBERS, "orders": [_NO_NUMBERS]},
    ],
)
@only(*MONGO)
async def test_a_cursor_that_holds_what_is_none_is_mended(slots: Any, garbage: dict[str, Any]) -> None:
    """Else nothing would be sent any more, and no restart would help."""
    await slots.lease(wish(3, QUOTA, "me"))
    good = await slots._slots.find_one({"_id": "cursor"})
    await slots._slots.replace_one({"_id": "cursor"}, {**good, **garbage})
    for allowance in (QUOTA, FAST):
        assert (await slots.lease(wish(3, allowance, "me"))).count == 3
    if "used" not in garbage and "day" not in garbage:
        assert (await slots.lease(wish(10, QUOTA, "me"))).count <= 4, "what was used of the quota stays"


async def test_slots_are_consecutive_and_given_once(slots: SlotStore) -> None:
    grants = await asyncio.gather(*(slots.lease(wish(20, FAST)) for _ in range(5)))
    taken = sorted(time for grant in grants for time in times(grant))
    assert len(taken) == 100
    gaps = [later - earlier for earlier, later in pairwise(taken)]
    assert min(gaps) > FAST.step * 0.999


async def test_a_lease_says_when_its_slots_are_good(slots: SlotStore) -> None:
    grant = await slots.lease(wish(5, FAST))
    assert grant.count == 5
    assert grant.asked <= grant.answered
    assert grant.first == pytest.approx(grant.now - FAST.life * 0.8)
    assert (grant.step, grant.life) == (FAST.step, FAST.life)
    assert grant.day <= grant.now < grant.day_end
    # Good for its whole life, less what nobody can know of when the store answered.
    assert grant.latest(0) - grant.earliest(0) == pytest.approx(
        FAST.life - (grant.answered - grant.asked),
        abs=1e-5,  # to what the seconds of an epoch can tell
    )


async def test_nothing_to_lease_says_when_to_ask_again(slots: SlotStore) -> None:
    assert (await slots.lease(wish(5, SLOW))).count == 1
    grant = await slots.lease(wish(5, SLOW))
    assert grant.count == 0
    assert 0 < grant.again <= 60
    assert not grant.exhausted


async def test_a_lease_reaches_no_further_than_a_moment_ahead(slots: SlotStore) -> None:
    grant = await slots.lease(wish(100_000, FAST))
    assert times(grant)[-1] <= grant.now + AHEAD
    assert grant.count < 100_000


async def test_the_quota_is_shared_and_ends(slots: SlotStore) -> None:
    first = await slots.lease(wish(6, QUOTA))
    second = await slots.lease(wish(6, QUOTA))
    third = await slots.lease(wish(6, QUOTA))
    assert (first.count, second.count, third.count) == (6, 4, 0)
    assert third.exhausted
    assert third.used == 10


async def test_a_wish_for_none_takes_none_and_tells_what_is_used(slots: SlotStore) -> None:
    taken = await slots.lease(wish(6, QUOTA))
    looked = await slots.lease(wish(0, QUOTA))
    assert (looked.count, looked.used, looked.exhausted) == (0, 6, False)
    rest = await slots.lease(wish(6, QUOTA))
    assert rest.count == 4
    assert times(rest)[0] > times(taken)[-1]
    assert (await slots.lease(wish(0, QUOTA))).exhausted


async def test_unspent_slots_come_back(slots: SlotStore) -> None:
    grant = await slots.lease(wish(8, QUOTA))
    await slots.give_back(grant, 5)
    following = await slots.lease(wish(20, QUOTA))
    assert following.count == 7
    assert following.first == pytest.approx(grant.first + 3 * grant.step, abs=1)


async def test_slots_that_others_leased_behind_are_lost_but_not_their_quota(slots: SlotStore) -> None:
    first = await slots.lease(wish(3, QUOTA))
    second = await slots.lease(wish(3, QUOTA))
    await slots.give_back(first, 2)
    third = await slots.lease(wish(20, QUOTA))
    assert times(third)[0] > times(second)[-1]
    assert third.count == 6


async def test_giving_nothing_back(slots: SlotStore) -> None:
    grant = await slots.lease(wish(3, QUOTA))
    await slots.give_back(grant, 0)
    assert (await slots.lease(wish(20, QUOTA))).count == 7


@pytest.mark.parametrize(
    "allowance",
    [
        FAST,
        SLOW,
        QUOTA,
        Allowance(letters=5, period=5.0),
        Allowance(letters=14, period=1.0, burst=0),
        Allowance(letters=7, period=0.3, burst=3, quota=20, timezone="Europe/Moscow"),
        Allowance(letters=333, period=1.7, burst=11, quota=150, timezone="America/New_York"),
    ],
    ids=lambda allowance: f"{allowance.letters}-in-{allowance.period}-{allowance.burst}",
)
@only(*MONGO)
async def test_the_server_computes_as_we_do(
    slots: SlotStore, client: Any, database: str, allowance: Allowance
) -> None:
    """Bit for bit: any difference would let replicas and tests disagree about the rate."""
    cursor = Cursor()
    for turn, want in enumerate((1, 3, 50, 0, 1000, 2, 7, 5000, 5000, 5000, 5000)):
        request = wish(want, allowance, ("", "a", "b")[turn % 3])
        grant = await slots.lease(request)
        cursor, first, count = take(cursor, grant.now, request)
        assert (grant.first, grant.count, grant.used, grant.day) == (first, count, cursor.used, cursor.day)
        if want % 2:
            await slots.give_back(grant, count // 2)
            cursor = give_back(cursor, grant, count // 2)
        stored = await client.get_database(database).get_collection("letters.slots").find_one({})
        assert (stored["next"], stored["used"], stored["day"]) == (cursor.next, cursor.used, cursor.day)
        assert stored["members"] == {name: asdict(each) for name, each in cursor.members.items()}


@pytest.mark.parametrize(
    "ordered",
    [
        None,
        order(factor=0.3, then_until=0.01),
        order(factor=0.5, then_until=60.0, spacing=0.11),
        order(until=0.2),
    ],
    ids=["no order", "growing", "slowed", "paused"],
)
@only(*MONGO)
async def test_the_server_computes_several_rates_and_a_rolling_quota_as_we_do(
    slots: SlotStore, client: Any, database: str, ordered: Order | None
) -> None:
    collection = client.get_database(database).get_collection("letters.slots")
    cursor = Cursor()
    if ordered is not None:
        await slots.order(ordered, 0.0)
    for turn, want in enumerate((1, 30, 0, 1000, 7, 5000, 5000)):
        request = wish(want, MANY[0], ("", "a", "b")[turn % 3], *MANY[1:])
        grant = await slots.lease(request)
        cursor, first, count = take(replace(cursor, orders=grant.orders), grant.now, request)
        assert (grant.first, grant.count, grant.used, grant.laid) == (first, count, cursor.used, cursor.laid)
        if want % 2:
            await slots.give_back(grant, count // 2)
            cursor = give_back(cursor, grant, count // 2)
        stored = await collection.find_one({})
        assert (stored["next"], stored["further"]) == (cursor.next, cursor.further)
        assert stored["spent"] == [asdict(each) for each in cursor.spent]
        assert (stored["counting"], stored["counted"]) == (cursor.counting, cursor.counted)
    assert cursor.used > 0 or ordered is not None


@only(*MONGO)
async def test_the_server_computes_as_we_do_where_replicas_have_other_rates(
    slots: SlotStore, client: Any, database: str
) -> None:
    collection = client.get_database(database).get_collection("letters.slots")
    fast, hourly = replace(MANY[0], quota=0, quota_period=0.0), replace(MANY[1], burst=2)
    cursor, before = Cursor(), None
    changes = ((fast, hourly), MANY, (hourly,), (fast,), (fast, hourly), (fast, MANY[1]))
    for turn, rates in enumerate(changes * 2):
        request = wish((3, 50, 1)[turn % 3], rates[0], "", *rates[1:])
        grant = await slots.lease(request)
        cursor, first, count = take(cursor, grant.now, request)
        assert (grant.first, grant.count, grant.laid) == (first, count, cursor.laid)
        if before is not None:  # whose rates are others
            await slots.give_back(before, before.count // 2)
            cursor = give_back(cursor, before, before.count // 2)
        before = grant
        stored = await collection.find_one({})
        assert (stored["next"], stored.get("further", {})) == (cursor.next, cursor.further)


@pytest.mark.parametrize("ago", [UNCOUNTED - 60, UNCOUNTED + 60])
@only(*MONGO)
async def test_the_server_counts_another_form_of_a_quota_anew_as_we_do(
    slots: SlotStore, client: Any, database: str, ago: float
) -> None:
    collection = client.get_database(database).get_collection("letters.slots")
    rolling = replace(QUOTA, quota_period=86400.0)
    cursor = Cursor()
    last = replace(rolling, quota_period=3600.0)
    for quota in (QUOTA, rolling, replace(QUOTA, by_recipient=True), QUOTA, last):
        request = wish(6, quota)
        grant = await slots.lease(request)
        cursor, _, count = take(cursor, grant.now, request)
        assert (grant.count, grant.used, grant.day) == (count, cursor.used, cursor.day)
        stored = await collection.find_one({})
        assert (stored["counting"], stored["counted"]) == (cursor.counting, cursor.counted)
        assert stored.get("spent", []) == [asdict(each) for each in cursor.spent]
        cursor = replace(cursor, counted=grant.now - ago)
        await collection.update_one({}, {"$set": {"counted": cursor.counted}})
    assert cursor.counting == wish(1, last if ago > UNCOUNTED else QUOTA).counting


@pytest.mark.parametrize("period", [0.0, 3600.0])
@only(*MONGO)
async def test_the_server_computes_what_recipients_take_of_a_quota_as_we_do(
    slots: SlotStore, client: Any, database: str, period: float
) -> None:
    allowance = Allowance(
        letters=300, period=1.0, burst=90, quota=90, quota_period=period, quota_by_recipient=True
    )
    collection = client.get_database(database).get_collection("letters.slots")
    cursor = Cursor()
    for turn, (want, extra) in enumerate(((1, 0), (2, 30), (0, 5), (3, 0), (1, 100), (4, 100), (0, 9))):
        request = replace(wish(want, allowance, ("", "a", "b")[turn % 3]), extra=extra)
        grant = await slots.lease(request)
        cursor, first, count = take(cursor, grant.now, request)
        assert (grant.first, grant.count, grant.extra) == (first, count, cursor.extra)
        assert grant.used == cursor.used
        if want % 2:
            left = replace(grant, extra=grant.extra // 2)
            await slots.give_back(left, count // 2)
            cursor = give_back(cursor, left, count // 2)
        stored = await collection.find_one({})
        assert (stored["next"], [asdict(each) for each in cursor.spent]) == (
            cursor.next,
            stored.get("spent", []),
        )
        assert period or stored["used"] == cursor.used
    assert cursor.used >= 45


async def test_units_of_the_quota_come_with_slots_as_far_as_it_has_them_and_go_back(slots: SlotStore) -> None:
    allowance = replace(FAST, quota=20, quota_by_recipient=True)
    first = await slots.lease(replace(wish(2, allowance), extra=10))
    assert (first.count, first.extra, first.used) == (2, 10, 12)
    second = await slots.lease(replace(wish(2, allowance), extra=10))
    assert (second.count, second.extra, second.used) == (2, 6, 20)
    await slots.give_back(replace(second, extra=4), 0)
    third = await slots.lease(replace(wish(2, allowance), extra=10))
    assert (third.count, third.extra, third.used, third.exhausted) == (2, 2, 20, False)
    assert (await slots.lease(replace(wish(0, allowance), extra=10))).exhausted


async def test_an_order_is_obeyed_from_the_next_lease_on(slots: SlotStore) -> None:
    assert (await slots.lease(wish(1, FAST, "a"))).count == 1
    await slots.order(order(until=30.0), 0.0)
    for member in ("a", "b", "c"):
        grant = await slots.lease(wish(5, FAST, member))
        assert grant.count == 0
        assert grant.orders[RELAY].until == pytest.approx(grant.now + 30, abs=5)
        assert 0 < grant.again <= 30
    assert await slots.lift(RELAY)
    assert (await slots.lease(wish(5, FAST, "a"))).count == 5
    assert not await slots.lift(RELAY)


async def test_what_was_ordered_slows_the_rate(slots: SlotStore) -> None:
    await slots.order(order(factor=0.25, then_until=600.0), 0.0)
    grant = await slots.lease(wish(50, FAST))
    assert grant.step == pytest.approx(FAST.step * 4)
    assert grant.first >= grant.now - 1e-6, "and nothing is in hand from before"


async def test_orders_of_other_scopes_come_with_the_next_lease(slots: SlotStore) -> None:
    await slots.order(order(destination("Gmail.com"), until=30.0), 0.0)
    first = await slots.lease(wish(1, FAST))
    assert first.count == 1, "they hold up nobody else"
    assert first.orders["destination:gmail.com"].said == "450 $now 4.2.1 не так быстро"
    await slots.order(order("sender:a.b@c.example", until=math.inf), 0.0)
    await slots.lift("destination:gmail.com")
    second = await slots.lease(wish(1, FAST))
    assert list(second.orders) == ["sender:a.b@c.example"]
    assert second.orders["sender:a.b@c.example"].until == math.inf


async def test_an_order_never_shortens_another_one(slots: SlotStore) -> None:
    await slots.order(order(until=600.0, rule="quota"), 0.0)
    await slots.order(order(until=5.0, factor=0.5, then_until=700.0), 0.0)
    grant = await slots.lease(wish(1, FAST))
    held = grant.orders[RELAY]
    assert (held.rule, held.factor) == ("quota", 0.5)
    assert held.until - grant.now == pytest.approx(600, abs=5)
    assert held.then_until - grant.now == pytest.approx(700, abs=5)


async def test_replies_to_the_same_excess_slow_once(slots: SlotStore) -> None:
    assert HEARD > 5
    for _ in range(3):
        await slots.order(order(factor=0.5, then_until=600.0), 0.0)
    assert (await slots.lease(wish(1, FAST))).orders[RELAY].factor == 0.5


async def test_orders_are_bounded_and_the_relay_s_stays(
    slots: SlotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_ORDERS == 1000
    monkeypatch.setattr("mailsender.ratelimit.order.MOST_ORDERS", 3)
    await slots.order(order(until=1.0), 0.0)
    for number in range(5):
        await slots.order(order(f"destination:{number}", until=60.0 + number), 0.0)
    kept = (await slots.lease(wish(1, FAST))).orders
    assert sorted(kept) == [*(f"destination:{each}" for each in (2, 3, 4)), RELAY]


async def test_orders_that_come_together_are_all_kept(slots: SlotStore) -> None:
    keys = [f"destination:{each}.example" for each in range(4)]
    await asyncio.gather(*(slots.order(order(each, until=60.0), 0.0) for each in keys))
    assert sorted((await slots.lease(wish(0, FAST))).orders) == keys


@only(*MONGO)
async def test_orders_outlive_the_process(slots: SlotStore, client: Any, database: str) -> None:
    await slots.order(order(until=60.0), 0.0)
    await slots.order(order("destination:a.example", until=60.0), 0.0)
    again = MongoSlotStore(client, database=database, collection="letters.slots", clock=SystemClock())
    grant = await again.lease(wish(5, FAST))
    assert (grant.count, sorted(grant.orders)) == (0, ["destination:a.example", RELAY])


async def test_what_stands_beside_has_slots_and_orders_of_its_own(slots: SlotStore) -> None:
    await slots.order(order(until=60.0), 0.0)
    assert (await slots.lease(wish(1, FAST))).count == 0
    assert (await slots.beside("gmail.com").lease(wish(1, SLOW))).count == 1
    assert (await slots.beside("gmail.com").lease(wish(1, SLOW))).count == 0
    assert (await slots.beside("yahoo.com").lease(wish(1, SLOW))).count == 1


@only(*MONGO)
async def test_relays_and_destinations_have_documents_of_their_own(client: Any, database: str) -> None:
    collection = client.get_database(database).get_collection("letters.slots")
    ses = MongoSlotStore(
        client, database=database, collection="letters.slots", clock=SystemClock(), name="ses"
    )
    await ses.beside("gmail.com").lease(wish(1, FAST))
    assert [each["_id"] async for each in collection.find({})] == ["ses/gmail.com"]


async def test_a_quota_holds_though_replicas_know_other_zones(slots: SlotStore) -> None:
    """As while a file with another zone comes to one after another; some do not take it."""
    zones = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago")
    taken = [
        (await slots.lease(wish(3, replace(QUOTA, timezone=zone)))).count for _ in range(4) for zone in zones
    ]
    assert sum(taken) <= QUOTA.quota + 6, "those days that began later were begun once"
    assert taken[-3:] == [0, 0, 0]


async def test_a_rolling_quota_is_shared_ends_and_says_when_it_comes_back(slots: SlotStore) -> None:
    rolling = replace(QUOTA, quota_period=86400.0)
    first = await slots.lease(wish(6, rolling, "a"))
    second = await slots.lease(wish(6, rolling, "b"))
    third = await slots.lease(wish(6, rolling, "a"))
    assert (first.count, second.count, third.count) == (6, 4, 0)
    assert third.exhausted
    assert third.now + 86400 < third.renewed < third.now + 86400 + 600 + 70
    await slots.give_back(second, 3)
    assert (await slots.lease(wish(6, rolling, "a"))).count == 3


async def test_a_slow_rate_with_something_in_hand_lets_the_fast_one_go(slots: SlotStore) -> None:
    fast, slow = Allowance(letters=100, period=1.0, burst=5), Allowance(letters=600, period=60.0, burst=600)
    grant = await slots.lease(wish(5, fast, "", slow))
    assert (grant.step, grant.count) == (fast.step, 5)
    grant = await slots.lease(wish(90, replace(fast, letters=20), "", replace(slow, burst=1)))
    assert grant.step == pytest.approx(0.1)


@only(*MONGO)
async def test_members_who_want_more_than_there_is_share_it(slots: SlotStore) -> None:
    allowance = Allowance(letters=1000, period=1.0)
    greedy = await slots.lease(wish(10_000, allowance, "a"))
    assert greedy.count > 900, "while nobody else asks"
    assert (await slots.lease(wish(10_000, allowance, "b"))).count < 200
    taken = {"a": 0, "b": 0}
    begins = time.monotonic() + 1.5  # until then the first second's slots are still about
    while time.monotonic() < begins + 3.0:
        for member in ("a", "a", "a", "b"):  # who asks more often must not get more
            grant = await slots.lease(wish(10_000, allowance, member))
            taken[member] += grant.count if time.monotonic() >= begins else 0
        await asyncio.sleep(0.02)
    # A factor of two is what is promised, over a minute. It is 1.1 here, and 1.55 on a busy machine: the
    # slots that come to be between two questions are most often of "a", who asks more often.
    assert max(taken.values()) < 2 * min(taken.values())
    assert sum(taken.values()) > 2000


@only(*MONGO)
@pytest.mark.parametrize("zone", ["Africa/Cairo", "Asia/Amman", "America/Nuuk", "America/Mexico_City"])
async def test_the_day_is_ours_whatever_the_server_knows_of_zones(slots: SlotStore, zone: str) -> None:
    grant = await slots.lease(wish(1, Allowance(letters=0, period=1.0, quota=5, timezone=zone)))
    assert (grant.day, grant.day_end) == day_bounds(grant.now, zone)


@only(*MONGO)
async def test_a_zone_that_the_server_does_not_know(slots: SlotStore) -> None:
    grant = await slots.lease(
        wish(1, Allowance(letters=0, period=1.0, quota=5, timezone="America/Ciudad_Juarez"))
    )
    assert grant.count == 1


@only(*MONGO)
async def test_a_replica_whose_clock_is_days_off_leases_all_the_same(
    slots: SlotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await slots.lease(wish(4, QUOTA))
    monkeypatch.setattr(slots, "_ahead", -1e6)
    grant = await slots.lease(wish(5, QUOTA))
    assert (grant.count, grant.used) == (5, 9)
    assert grant.day <= grant.now < grant.day_end


@pytest.mark.parametrize(
    ("zone", "moments"),
    [
        (
            "America/New_York",
            ["2026-03-08T06:59", "2026-03-08T07:01", "2026-11-01T05:30", "2026-11-01T06:30"],
        ),
        ("Europe/Moscow", ["2026-03-28T21:30", "2010-03-28T00:30", "2014-10-25T22:30"]),
        ("Europe/Berlin", ["2026-03-29T00:30", "2026-03-29T01:30", "2026-10-25T00:30", "2026-10-25T22:59"]),
        # Where clocks are changed at midnight there is none on one day, and on another there are two.
        ("Africa/Cairo", ["2026-04-23T21:59", "2026-04-23T22:00", "2026-10-29T20:59", "2026-10-29T21:30"]),
        ("America/Havana", ["2026-03-08T04:59", "2026-03-08T05:01", "2026-11-01T04:30", "2026-11-01T05:30"]),
        ("Asia/Kathmandu", ["2026-01-01T18:14", "2026-01-01T18:15"]),
        ("UTC", ["2024-02-29T23:59", "2026-12-31T23:59"]),
    ],
)
@only(*MONGO)
async def test_days_begin_and_end_alike(client: Any, database: str, zone: str, moments: list[str]) -> None:
    collection = client.get_database(database).get_collection("days")
    request = wish(3, Allowance(letters=0, period=1.0, quota=5, timezone=zone))
    for moment, away in product(moments, (-43200, -1, 0, 1, 43200)):
        now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
        await collection.replace_one({"_id": 0}, {"_id": 0, "moment": now}, upsert=True)
        pipeline = [
            {"$set": each["$set"]} if "$set" in each else each
            for each in _at_field(leasing(request, days_around(now.timestamp() + away, zone)))
        ]
        await collection.update_one({"_id": 0}, pipeline)
        found = await collection.find_one({"_id": 0})
        start, end = day_bounds(now.timestamp(), zone)
        assert (found["day"], found["day_end"]) == (start, end)


def _at_field(value: Any) -> Any:
    """The pipeline with the field `moment` for the server's clock."""
    if isinstance(value, dict):
        return {key: _at_field(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_at_field(each) for each in value]
    return "$moment" if isinstance(value, str) and value == "$$NOW" else value


@only(*MONGO)
async def test_a_clock_that_was_set_back_is_not_waited_for(
    slots: SlotStore, client: Any, database: str
) -> None:
    await slots.lease(wish(1, FAST, "me"))
    await slots.lease(wish(10**6, FAST, "hungry"))
    collection = client.get_database(database).get_collection("letters.slots")
    an_hour = {each: {"$add": [f"${each}", 3600]} for each in ("next", "members.me.at", "members.me.next")}
    await collection.update_one({}, [{"$set": an_hour}])
    grant = await slots.lease(wish(5, FAST, "me"))
    assert grant.count == 0
    assert grant.again <= 0.1
    assert (await until_leased(slots, wish(5, FAST, "me"))).count > 0


async def test_a_rate_that_is_raised_holds_at_once(slots: SlotStore) -> None:
    last = await slots.lease(wish(5, SLOW))
    assert last.count == 1
    grant = await slots.lease(wish(5, FAST))
    assert grant.again <= 0.1
    grant = await until_leased(slots, wish(5, FAST))
    assert grant.first >= last.first + FAST.step
    # And one that is lowered again counts from there.
    assert (await until_leased(slots, wish(5, SLOW))).count == 1
    assert (await slots.lease(wish(5, SLOW))).count == 0


async def until_leased(slots: Any, request: SlotRequest) -> SlotGrant:
    """The grant of somebody who asks again when they are told to."""
    for _ in range(20):
        grant: SlotGrant = await slots.lease(request)
        if grant.count:
            return grant
        if isinstance(slots._clock, ManualClock):
            slots._clock.forward(grant.again)
        else:
            await asyncio.sleep(grant.again)
    raise AssertionError("no slot for long")
