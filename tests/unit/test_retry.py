from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.letter import Letter, Phase, Recipient, Result, Status, Verdict
from mailsender.routing.retry import MAX_DELAY, RetryPolicy
from mailsender.sending.attempt import Attempt, after_attempt, as_error

POLICY = RetryPolicy(max_attempts=3, delay=60)

ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
DEFERRED = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450)
REFUSED = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550)
UNCERTAIN = Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT)


def letter(*addresses: str, attempts: int = 0) -> Letter:
    return Letter(
        id="0" * 24,
        addresses=addresses,
        subject="s",
        body="b",
        status=Status.PROCESSING,
        attempts=attempts,
        recipients=tuple(Recipient(address=address) for address in addresses),
    )


def tried(*, cut: bool = False, **results: Result) -> Attempt:
    return Attempt(results=results, relay="relay:25", message_id="<m@x>", cut=cut)


def step(subject: Letter, attempt: Attempt) -> tuple[Letter, float]:
    return after_attempt(subject, attempt, POLICY, jitter=0.5)


def test_all_accepted_is_sent() -> None:
    moved, delay = step(letter("a", "b"), tried(a=ACCEPTED, b=ACCEPTED))
    assert (moved.status, moved.attempts, moved.finished_at, delay) == (Status.SENT, 1, None, 0.0)
    assert (moved.relay, moved.message_id) == ("relay:25", "<m@x>")


def test_one_accepted_and_one_refused_is_sent_and_names_the_refused() -> None:
    moved, _ = step(letter("a", "b"), tried(a=ACCEPTED, b=REFUSED))
    assert moved.status is Status.SENT
    assert [r.result for r in moved.recipients] == [ACCEPTED, REFUSED]


def test_each_result_names_the_relay_that_it_is_of() -> None:
    moved, _ = step(letter("a", "b", "c"), tried(a=ACCEPTED, b=DEFERRED))
    assert [each.relay for each in moved.recipients] == ["relay:25", "relay:25", ""]
    other = Attempt(results={"b": ACCEPTED}, relay="other:25", message_id="<m@x>")
    moved, _ = step(moved, other)
    assert [each.relay for each in moved.recipients] == ["relay:25", "other:25", ""]
    assert moved.relay == "other:25"


def test_none_accepted_is_an_error() -> None:
    assert step(letter("a", "b"), tried(a=REFUSED, b=REFUSED))[0].status is Status.ERROR


def test_a_retry_addresses_only_the_deferred() -> None:
    moved, delay = step(letter("a", "b", "c"), tried(a=ACCEPTED, b=DEFERRED, c=REFUSED))
    assert (moved.status, moved.attempts, delay) == (Status.AWAITING, 1, 60.0)
    assert moved.pending == ("b",)
    moved, _ = step(moved, tried(b=ACCEPTED))
    assert moved.status is Status.SENT
    assert moved.pending == ()


def test_the_last_attempt_is_final_and_keeps_why() -> None:
    moved = letter("a", "b")
    for _ in range(3):
        assert moved.status is not Status.ERROR
        moved, _ = step(moved, tried(a=DEFERRED, b=DEFERRED))
    assert (moved.status, moved.attempts) == (Status.ERROR, 3)
    assert {each.result for each in moved.recipients} == {DEFERRED}


def test_nobody_is_given_up_whom_no_attempt_reached() -> None:
    moved = letter("a", "b", "c")
    for _ in range(3):
        moved, delay = step(moved, tried(a=DEFERRED, c=ACCEPTED))
    assert (moved.status, moved.pending, delay) == (Status.AWAITING, ("b",), 0.0)
    assert moved.recipients[1].tries == 0
    moved, _ = step(moved, tried(b=DEFERRED))
    assert (moved.status, moved.pending) == (Status.AWAITING, ("b",))
    moved, _ = step(moved, tried(b=ACCEPTED))
    assert moved.status is Status.SENT
    assert [each.tries for each in moved.recipients] == [3, 1, 0]


def test_what_tells_nothing_about_a_recipient_costs_no_attempt_and_is_kept_all_the_same() -> None:
    held = Attempt(results={"a": DEFERRED, "b": DEFERRED}, relay="r", message_id="m", idle={"a"}, pause=7.0)
    moved = letter("a")
    for _ in range(10):
        moved, delay = after_attempt(moved, held, POLICY, jitter=0.5)
        assert (moved.status, moved.attempts, moved.recipients[0].tries, delay) == (
            Status.AWAITING,
            0,
            0,
            7.0,
        )
    assert moved.recipients[0].result == DEFERRED
    moved, delay = after_attempt(letter("a", "b"), held, POLICY, jitter=0.5)
    assert ([each.tries for each in moved.recipients], moved.attempts, delay) == ([0, 1], 1, 60.0)
    doubted, _ = step(letter("a"), tried(a=UNCERTAIN))
    doubted, _ = after_attempt(doubted, held, POLICY, jitter=0.5)
    assert doubted.recipients[0].result == UNCERTAIN, "nothing that was heard since is worth more"


def test_uncertain_is_tried_again_and_remembered() -> None:
    moved, _ = step(letter("a"), tried(a=UNCERTAIN))
    assert moved.status is Status.AWAITING
    moved, _ = step(moved, tried(a=ACCEPTED))
    assert moved.status is Status.SENT
    assert moved.recipients[0].uncertain


def test_a_cut_before_the_dot_counts_no_attempt_and_goes_back_at_once() -> None:
    moved, delay = step(letter("a", attempts=2), tried(a=DEFERRED, cut=True))
    assert (moved.status, moved.attempts, delay) == (Status.AWAITING, 2, 0.0)
    assert moved.pending == ("a",)


def test_a_cut_after_the_dot_counts() -> None:
    moved, delay = step(letter("a"), tried(a=UNCERTAIN, cut=True))
    assert (moved.status, moved.attempts, delay) == (Status.AWAITING, 1, 60.0)


def test_a_cut_between_slices_keeps_what_was_accepted() -> None:
    moved, delay = step(letter("a", "b"), tried(a=ACCEPTED, cut=True))
    assert (moved.status, moved.attempts, delay, moved.pending) == (Status.AWAITING, 0, 0.0, ("b",))


def test_an_error_that_no_relay_decided() -> None:
    moved = as_error(letter("a"), "Subject: no")
    assert (moved.status, moved.reason) == (Status.ERROR, "Subject: no")


def test_the_default_schedule_reaches_days_and_no_number_of_attempts_ends_it_within_an_hour() -> None:
    default = RetryPolicy(max_attempts=0, delay=60.0, retry_for=2 * 86400.0)
    waits = [wait for tries in range(1, 200) if (wait := default.wait(tries, 0.5)) is not None]
    assert default.wait(len(waits) + 1, 0.5) is None
    assert 86400 < sum(waits) <= 2 * 86400
    assert sum(waits) > 2 * 86400 - 3600, "the last attempt comes when the time is nearly over"
    assert RetryPolicy(max_attempts=0, delay=0.0, retry_for=60.0).wait(100, 0.5) is None, "it ends at all"
    assert RetryPolicy(max_attempts=0, delay=60.0).wait(10**9, 0.5) == MAX_DELAY


@pytest.mark.parametrize("resends", [0, 1, 3])
def test_an_uncertain_recipient_is_sent_to_again_so_often_and_then_ends_so(resends: int) -> None:
    policy = RetryPolicy(max_attempts=0, delay=60, resends=resends)
    moved = letter("a")
    for _ in range(resends):
        moved, _ = after_attempt(moved, tried(a=UNCERTAIN), policy, jitter=0.5)
        assert moved.pending == ("a",)
        moved, _ = after_attempt(moved, tried(a=DEFERRED), policy, jitter=0.5)
        assert moved.pending == ("a",), "nothing was sent that time"
    moved, _ = after_attempt(moved, tried(a=UNCERTAIN), policy, jitter=0.5)
    assert (moved.status, moved.recipients[0].uncertain) == (Status.ERROR, True)
    assert moved.recipients[0].result == UNCERTAIN
    beside, _ = after_attempt(letter("a", "b"), tried(a=UNCERTAIN, b=ACCEPTED), policy, jitter=0.5)
    for _ in range(resends):
        beside, _ = after_attempt(beside, tried(a=UNCERTAIN), policy, jitter=0.5)
    assert beside.status is Status.SENT
    assert beside.recipients[0].uncertain


@given(attempts=st.integers(1, 10_000), jitter=st.floats(0, 1), delay=st.floats(0.001, 10_000))
def test_delays_are_bounded(attempts: int, jitter: float, delay: float) -> None:
    wait = RetryPolicy(max_attempts=20_000, delay=delay).wait(attempts, jitter)
    assert wait is not None
    assert 0 < wait <= MAX_DELAY * 1.2 + 1e-6


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 60), (2, 120), (3, None), (4, None)])
def test_delays_double(attempts: int, seconds: float | None) -> None:
    assert POLICY.wait(attempts, 0.5) == seconds


verdicts = st.sampled_from([ACCEPTED, DEFERRED, REFUSED, UNCERTAIN])


@given(st.lists(verdicts, min_size=1, max_size=6), st.integers(0, 5), st.booleans())
def test_final_means_that_nothing_is_open_or_no_attempt_is_left(
    results: list[Result], attempts: int, cut: bool
) -> None:
    names = [f"r{i}" for i in range(len(results))]
    moved, _ = step(
        letter(*names, attempts=attempts), tried(cut=cut, **dict(zip(names, results, strict=True)))
    )
    accepted = any(result is ACCEPTED for result in results)
    if moved.status.final:
        assert moved.status is (Status.SENT if accepted else Status.ERROR)
        assert not moved.pending
    else:
        assert moved.pending
    assert moved.attempts - attempts in {0, 1}


def test_an_uncertain_recipient_is_tried_again_or_ends_there_as_the_operator_wants() -> None:
    lost = tried(a=ACCEPTED, b=UNCERTAIN, c=DEFERRED)
    moved, _ = step(letter("a", "b", "c"), lost)
    assert moved.pending == ("b", "c")
    once = RetryPolicy(max_attempts=3, delay=60, resends=0)
    moved, delay = after_attempt(letter("a", "b", "c"), lost, once, jitter=0.5)
    assert (moved.status, moved.pending, delay) == (Status.AWAITING, ("c",), 60.0)
    moved, _ = after_attempt(moved, tried(c=REFUSED), once, jitter=0.5)
    assert moved.status is Status.SENT
    assert moved.recipients[1].result == UNCERTAIN
    alone, _ = after_attempt(letter("b"), tried(b=UNCERTAIN), once, jitter=0.5)
    assert alone.status is Status.ERROR
    assert alone.recipients[0].uncertain
