"""Replies to dots that are longer in coming than usual."""

from __future__ import annotations

from mailsender.routing.slow_replies import FORGET, MARGIN, SLOW, Dots
from mailsender.smtp.learned import LONGEST, Learned
from tests.clocks import ManualClock


def test_some_that_wait_are_slow_and_all_of_them_are_stuck() -> None:
    dots = Dots()
    dots.look(100.0, [(1, 90.0, 5), (2, 95.0, 5)])
    assert (dots.slow, dots.stuck) == (0, False)
    dots.look(100.0 + SLOW, [(1, 90.0, 5), (2, 95.0, 5), (3, 129.0, 0)])
    assert (dots.slow, dots.longest, dots.stuck) == (2, 10 + SLOW, False)
    dots.look(130.0 + SLOW, [(1, 90.0, 5), (2, 95.0, 5), (3, 129.0, 0)])
    assert (dots.slow, dots.stuck) == (3, True)
    dots.look(131.0 + SLOW, [(1, 90.0, 5), (2, 95.0, 5), (3, 129.0, 0), (4, 0.0, 0)])
    assert dots.stuck, "that another session was opened shows nothing yet"
    dots.look(132.0 + SLOW, [(1, 90.0, 5), (2, 95.0, 5), (3, 129.0, 0), (4, 0.0, 1)])
    assert (dots.slow, dots.stuck) == (3, False), "a letter that is taken does"
    dots.look(140.0 + SLOW, [(4, 0.0, 1)])
    assert (dots.slow, dots.longest, dots.stuck) == (0, 0.0, False)


def test_what_is_usual_for_a_relay_is_not_slow() -> None:
    dots = Dots()
    dots.look(140.0, [(1, 100.0, 7)])
    assert dots.slow == 1
    dots.look(145.0, [(1, 0.0, 8)])
    dots.look(200.0, [(1, 200.0 - 40.0 * MARGIN + 1, 8)])
    assert dots.slow == 0
    dots.look(202.0, [(1, 200.0 - 40.0 * MARGIN, 8)])
    assert dots.slow == 1
    later = 146.0 + FORGET
    dots.look(later, [(1, later - SLOW - 1, 8)])
    assert dots.slow == 1, "an hour later it is forgotten"


def test_without_a_session_nothing_is_stuck() -> None:
    dots = Dots()
    dots.look(1000.0, [])
    assert not dots.stuck


def test_sessions_that_find_out_together_wait_longer_once_and_not_for_ever() -> None:
    learned = Learned("relay", ManualClock(), 600.0)
    for _ in range(5):
        learned.dot_overdue(600.0)
    assert learned.dot == 1200.0
    for _ in range(9):
        learned.dot_overdue(learned.dot)
    assert learned.dot == LONGEST
    long = Learned("relay", ManualClock(), 2 * LONGEST)
    long.dot_overdue(long.dot)
    assert long.dot == 2 * LONGEST
