"""The providers that tests play keep their limits over days, and the limiter finds its way beneath them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.providers import DAY, Window
from mailsender.ratelimit.gcra import Allowance, Cursor, SlotRequest, take
from mailsender.ratelimit.order import RELAY, Order, obeyed
from mailsender.routing.presets import PRESETS


def test_a_window_is_full_until_its_first_is_as_old_as_it_is_long() -> None:
    window = Window(3, 10.0)
    for now in (0.0, 1.0, 2.0):
        assert window.left(now)
        window.take(now)
    assert not window.left(9.9)
    assert window.free_at(9.9) == 10.0
    assert window.left(10.0) == 1
    assert window.left(12.0) == 3


def test_what_is_too_much_of_one_message_is_paid_off() -> None:
    window = Window(1, 1.0)
    window.take(0.0, 5)
    assert not window.left(4.9)
    assert window.left(5.0)


def test_a_day_is_any_24_hours() -> None:
    window = Window(2, DAY)
    window.take(0.0)
    window.take(DAY / 2)
    assert not window.left(DAY - 1)
    assert window.left(DAY) == 1


START = 1_700_000_000.0
RATE_RULE = next(rule for rule in PRESETS["ses"].rules if rule.text == "Maximum sending rate exceeded")


def told_to_slow(now: float) -> Order:
    """What the preset orders for SES's 454, as a relay writes it down."""
    then = RATE_RULE.then
    assert then is not None
    until = now + RATE_RULE.seconds
    return Order(
        key=RELAY,
        rule=RATE_RULE.name,
        said="454",
        until=until,
        factor=then.rate,
        then_until=until + then.seconds,
    )


def answers(allowance: Allowance, ses: Window, seconds: float) -> list[tuple[float, bool]]:
    """When SES was sent to, and whether it took it, while letters wait at any time."""
    cursor, now, found = Cursor(), START, list[tuple[float, bool]]()
    while now < START + seconds:
        cursor, first, count = take(cursor, now, SlotRequest(want=50, allowance=allowance))
        now += 0.0 if count else 0.1
        step = cursor.laid.step if cursor.laid else 0.0
        for place in range(count):
            now = max(now, first + place * step)
            good = ses.left(now) > 0
            found.append((now, good))
            if not good:
                cursor = replace(cursor, orders=obeyed(cursor.orders, told_to_slow(now), now))
                break
            ses.take(now)
    return found


@pytest.mark.parametrize("account", [14, 13, 10, 5])
def test_an_account_that_is_stricter_than_the_file_has_little_to_say(account: int) -> None:
    """One of 14 a second is, too, if it counts strictly: the burst after a pause is one more."""
    found = answers(Allowance(letters=14, period=1.0), Window(account, 1.0), 3600)
    begun = [good for _, good in found]
    after = begun[begun.index(False) + 1 :]
    assert after.count(False) <= len(after) / 100
    # And it is used: never less than a quarter of what it allows, over all.
    assert after.count(True) >= 3600 * account / 4


def test_who_is_too_fast_only_after_a_pause_is_at_full_speed_again() -> None:
    found = answers(Allowance(letters=14, period=1.0), Window(14, 1.0), 1800)
    lately = [good for at, good in found if at >= START + 1200]
    assert all(lately)
    assert len(lately) >= 0.95 * 14 * 600


def test_an_account_with_the_burst_of_the_file_has_nothing_to_say() -> None:
    found = answers(Allowance(letters=14, period=1.0), Window(14 + 1, 1.0), 600)
    assert all(good for _, good in found)
    assert len(found) >= 0.95 * 14 * 600


def test_an_account_that_counts_exactly_has_nothing_to_say_where_there_is_no_burst() -> None:
    found = answers(Allowance(letters=14, period=1.0, burst=0), Window(14, 1.0), 600)
    assert all(good for _, good in found)
    assert len(found) >= 0.95 * 14 * 600


def test_a_quota_in_the_file_keeps_to_what_a_provider_counts() -> None:
    """Over three days, whose first begins with a pause: no bucket lets more out than the provider has."""
    day = Window(2000, DAY)
    allowance = Allowance(letters=1, period=1.0, quota=2000, quota_period=DAY)
    cursor, now, taken = Cursor(), START, 0
    while now < START + 3 * DAY:
        cursor, first, count = take(cursor, now, SlotRequest(want=50, allowance=allowance))
        for place in range(count):
            assert day.left(max(now, first + place))
            day.take(max(now, first + place))
        taken += count
        now += 30.0
    assert taken == 3 * 2000
