"""The providers that tests play keep their limits over days, and the limiter finds its way beneath them."""

from __future__ import annotations

from lab.providers import DAY, Window


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
