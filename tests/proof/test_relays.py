"""The experiments with several relays judge what they saw: rests, shares and windows."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from proof.experiments.replies import begun_early
from proof.experiments.shares import CLAIMED, RATE, outside, unfair
from proof.ledger import MAIL, SAID, SESSION, Moment


def moments(kind: str, *at: float, place: str = "here") -> list[Moment]:
    return [Moment(kind=kind, place=place, at=each) for each in at]


@pytest.mark.parametrize(
    ("mails", "early"),
    [
        ((9.0, 10.5), []),  # the latter was on its way
        ((12.0,), [(12.0, 2.0)]),
        ((69.0, 70.5), [(69.0, 59.0)]),
        ((100.5, 102.0), [(102.0, 2.0)]),  # it was told once more
    ],
)
def test_what_begins_while_a_relay_is_to_rest(
    mails: Sequence[float], early: list[tuple[float, float]]
) -> None:
    seen = [*moments(SAID, 10.0, 100.0), *moments(MAIL, *mails), *moments(SESSION, 15.0)]
    seen += [*moments(MAIL, 15.0, place="there"), *moments(SAID, 90.0, place="there")]
    assert list(begun_early(seen, "here", MAIL, 60.0, 1.0)) == early


def accepted(pattern: str, count: int, alone: int, *, slow: float = 1.0) -> list[tuple[float, str]]:
    """Letters in turn as `pattern` has them, and then those of b alone, so much slower."""
    head = [pattern[number % len(pattern)] for number in range(2 * CLAIMED * RATE + count)]
    found = [(number / RATE, stream) for number, stream in enumerate([*head, "a"])]
    return [*found, *((found[-1][0] + (number + 1) * slow / RATE, "b") for number in range(alone))]


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (accepted("aaab", 100, 50), ""),
        (accepted("aab", 100, 50), "while both waited"),
        (accepted("aaab", 100, 50, slow=4.0), "one alone had"),
        ([], "while both waited"),
    ],
)
def test_shares_that_are_not_kept(found: list[tuple[float, str]], what: str) -> None:
    faults = list(unfair(found))
    assert len(faults) == bool(what)
    assert all(each.startswith(what) for each in faults)


@pytest.mark.parametrize(
    ("begun", "what"),
    [
        ((95.0, 100.5, 161.0), ""),
        ((95.0, 110.0, 161.0), "1 began while the window was closed"),
        ((95.0,), "nothing was sent"),
        ((80.0, 161.0), "nothing was sent"),
    ],
)
def test_what_begins_outside_of_a_window(begun: Sequence[float], what: str) -> None:
    away = time.time() - time.monotonic()
    faults = list(outside([at - away for at in begun], 100.0, 160.0, 1.0))
    assert len(faults) == bool(what)
    assert all(each.startswith(what) for each in faults)
