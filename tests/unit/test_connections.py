"""Connections that a relay limits over all replicas: their shares never sum up to more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.ratelimit.connections import ConnectionShare, share_of

PATIENCE = 60.0
LOOK = 20.0


@given(total=st.integers(0, 40), living=st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=1))
def test_shares_are_even_and_sum_up_to_all(total: int, living: set[str]) -> None:
    shares = [share_of(total, each, living) for each in living]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert share_of(total, "nobody", living) == 0


def test_the_surplus_replicas_have_none() -> None:
    assert [share_of(3, each, "abcde") for each in "abcde"] == [1, 1, 1, 0, 0]


def test_who_is_alone_waits_for_nobody() -> None:
    share = ConnectionShare(3, patience=PATIENCE)
    assert share.allowed(0.0) == 0
    share.see("a", {"a"}, 0.0)
    assert share.allowed(0.0) == 3


def test_who_comes_to_others_waits_until_they_have_seen_it_and_they_shrink_at_once() -> None:
    first, second = ConnectionShare(3, patience=PATIENCE), ConnectionShare(3, patience=PATIENCE)
    first.see("a", {"a"}, 0.0)
    second.see("b", {"a", "b"}, 5.0)
    assert (first.allowed(5.0), second.allowed(5.0)) == (3, 0)
    first.see("a", {"a", "b"}, 20.0)
    assert first.allowed(20.0) == 2
    for at in (25.0, 45.0, 64.0):
        second.see("b", {"a", "b"}, at)
        assert second.allowed(at) == 0
    second.see("b", {"a", "b"}, 65.0)
    assert second.allowed(65.0) == 1


def test_what_others_leave_is_taken_when_they_are_gone_for_a_while() -> None:
    share = ConnectionShare(3, patience=PATIENCE)
    share.see("a", {"a"}, 0.0)
    share.see("a", {"a", "b", "c"}, 10.0)
    for at in range(20, 80, 10):
        share.see("a", {"a"}, at)
        assert share.allowed(at) == 1
    share.see("a", {"a"}, 80.0)
    assert share.allowed(80.0) == 3


def test_who_has_not_seen_the_living_for_long_has_none() -> None:
    share = ConnectionShare(3, patience=PATIENCE)
    share.see("a", {"a"}, 0.0)
    assert share.allowed(PATIENCE) == 3
    assert share.allowed(PATIENCE + 0.1) == 0
    share.see("a", {"a", "b"}, 100.0)
    assert share.allowed(100.0) == 0, "who else lives now may have taken them"


@settings(max_examples=200, deadline=None)
@given(
    total=st.integers(1, 7),
    phases=st.lists(st.sets(st.sampled_from("abcde"), min_size=1), min_size=1, max_size=12),
    offsets=st.lists(st.floats(0.0, LOOK - 0.5), min_size=5, max_size=5),
)
def test_together_they_never_have_more_than_all(
    total: int, phases: list[set[str]], offsets: list[float]
) -> None:
    """Replicas come and go, and each looks when it looks; those that go have closed what they had."""
    shares: dict[str, ConnectionShare] = {}
    offset = dict(zip("abcde", offsets, strict=True))
    for number, living in enumerate(phases):
        begins = number * LOOK  # as fast as all can see it
        shares = {name: shares.get(name) or ConnectionShare(total, patience=PATIENCE) for name in living}
        for at, name in sorted((begins + offset[name], name) for name in living):
            shares[name].see(name, living, at)
            assert sum(each.allowed(at) for each in shares.values()) <= total
