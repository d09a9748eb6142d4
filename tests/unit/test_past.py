"""A letter's history: which attempts are remembered, in which words, in documents and in reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import encode
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.letter import (
    MOST_PAST,
    PAST_TEXT,
    Answer,
    Letter,
    PastAttempt,
    Phase,
    Recipient,
    Result,
    Status,
    Verdict,
    now_ms,
)
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import likeness, state_of
from mailsender.reports import report as reports
from mailsender.reports.report import report, report_bytes
from mailsender.routing.retry import RetryPolicy
from mailsender.sending.attempt import Attempt, after_attempt
from mailsender.sending.past import remembers, with_past

ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="queued")
DEFERRED = Result(
    verdict=Verdict.DEFERRED,
    phase=Phase.RCPT,
    code=450,
    enhanced="4.2.0",
    text="greylisted",
    rule="ses/too-fast",
)
REFUSED = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="nobody")
UNCERTAIN = Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT, text="lost")
NOW = datetime(2026, 11, 30, 1, 2, 3, 456000, UTC)


def letter(*addresses: str, **changes: Any) -> Letter:
    recipients = tuple(Recipient(address=each) for each in addresses)
    made = Letter(id="0" * 24, addresses=addresses, subject="s", body="b", recipients=recipients)
    return made.evolve(status=Status.PROCESSING, **changes)


def after(before: Letter, idle: tuple[str, ...] = (), cut: bool = False, **results: Result) -> Letter:
    """The letter behind an attempt, as a sender leaves it."""
    attempt = Attempt(results=results, relay="mx:25", message_id="<1@x>", idle=idle, cut=cut)
    moved, _ = after_attempt(before, attempt, RetryPolicy(max_attempts=0, delay=1), jitter=0.5)
    if remembers(before, moved):
        moved = with_past(before, moved, attempt, at=NOW, seconds=1.23456, tls="TLSv1.3")
    return moved


def past(**changes: Any) -> PastAttempt:
    fields = {"at": NOW, "relay": "mx:25", "result": DEFERRED, "seconds": 1.235, "tls": "TLSv1.3"}
    return PastAttempt(**fields | changes)


@pytest.mark.parametrize("result", [ACCEPTED, REFUSED])
def test_a_letter_that_one_attempt_ended_has_no_history(result: Result) -> None:
    """Nearly all of them: so those that end alike are still written alike."""
    assert after(letter("a"), a=result).history == ()


def test_each_attempt_of_a_letter_that_took_more_is_remembered() -> None:
    put_off = after(letter("a", "b"), a=ACCEPTED, b=DEFERRED)
    assert put_off.history == (past(asked=2, accepted=1),)
    sent = after(put_off, b=ACCEPTED)
    assert sent.status is Status.SENT
    assert sent.history == (past(asked=2, accepted=1), past(result=ACCEPTED, accepted=1))


@pytest.mark.parametrize(
    ("results", "decides"),
    [
        ({"a": ACCEPTED, "b": REFUSED, "c": DEFERRED}, DEFERRED),
        ({"a": DEFERRED, "b": UNCERTAIN, "c": ACCEPTED}, UNCERTAIN),
    ],
)
def test_what_is_told_is_why_the_letter_goes_on(results: dict[str, Result], decides: Result) -> None:
    (told,) = after(letter("a", "b", "c"), **results).history
    assert (told.result, told.asked, told.accepted) == (decides, 3, 1)


def test_what_told_nothing_about_anybody_is_no_attempt() -> None:
    assert after(letter("a"), idle=("a",), a=DEFERRED).history == ()
    assert after(letter("a"), cut=True, a=DEFERRED).history == ()
    (told,) = after(letter("a", "b"), idle=("a",), a=DEFERRED, b=DEFERRED).history
    assert told.asked == 1


def test_the_newest_are_kept_and_their_words_are_cut() -> None:
    found = letter("a")
    for number in range(MOST_PAST + 5):
        wordy = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text=f"{number} " + "я" * 490)
        found = after(found.evolve(status=Status.PROCESSING), a=wordy)
    assert found.attempts == MOST_PAST + 5
    assert [each.result.text.split()[0] for each in found.history] == [
        str(n) for n in range(5, MOST_PAST + 5)
    ]
    assert {len(each.result.text) for each in found.history} == {PAST_TEXT}
    assert len(encode({"history": state_of(found)["history"]})) < 20_000
    assert found.size > letter("a").size + MOST_PAST * PAST_TEXT


# --- in a document -------------------------------------------------------------------------------

TIMES = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: now_ms(milliseconds / 1000))
RESULTS = st.builds(
    Result,
    verdict=st.sampled_from(Verdict),
    phase=st.sampled_from(Phase),
    code=st.none() | st.integers(200, 599),
    enhanced=st.none() | st.just("4.2.0"),
    text=st.text(max_size=PAST_TEXT),
    rule=st.sampled_from(["", "ses/too-fast"]),
)
PASTS = st.builds(
    PastAttempt,
    at=st.none() | TIMES,
    relay=st.sampled_from(["", "mx:25", "ses"]),
    result=RESULTS,
    asked=st.integers(1, 10_000),
    accepted=st.integers(0, 10_000),
    seconds=st.none() | st.floats(0, 1e5).map(lambda seconds: round(seconds, 3)),
    tls=st.sampled_from(["", "TLSv1.2", "TLSv1.3"]),
)


@given(st.lists(PASTS, max_size=MOST_PAST).map(tuple))
def test_a_history_comes_back_from_its_document_as_it_was(history: tuple[PastAttempt, ...]) -> None:
    kept = letter("a", history=history, relay="mx:25")
    document = {**state_of(kept), "_id": "x", "addresses": ["a"], "status": "awaiting"}
    if not history:
        del document["history"]
    assert letter_of(document).history == history


def test_letters_with_another_history_are_not_alike() -> None:
    assert likeness(letter("a", history=(past(),))) != likeness(letter("a"))
    assert likeness(letter("a", history=(past(),))) == likeness(letter("a", history=(past(),)))


@pytest.mark.parametrize(
    "theirs",
    [None, 5, "x", {}, [1], [{}], [{"verdict": "x", "phase": "dot"}], [{"verdict": "sent"}], [[[]]]],
)
def test_a_field_of_that_name_by_another_program_is_no_history(theirs: Any) -> None:
    document = {"_id": "x", "addresses": ["a"], "status": "awaiting", "history": theirs}
    found = letter_of(document)
    assert (found.history, found.reason) == ((), "")


def test_odd_values_in_one_are_unknown() -> None:
    entry = {
        "verdict": "deferred",
        "phase": "rcpt",
        "at": "now",
        "relay": 5,
        "asked": -1,
        "accepted": "x",
        "seconds": float("nan"),
        "tls": 1,
    }
    document = {"_id": "x", "addresses": ["a"], "status": "awaiting", "history": [entry] * 99}
    found = letter_of(document).history
    assert len(found) == MOST_PAST
    assert (found[0].at, found[0].relay, found[0].asked, found[0].seconds, found[0].tls) == (
        None,
        "",
        0,
        None,
        "",
    )


# --- in a report ---------------------------------------------------------------------------------

ANSWER = Answer(token="t")


def test_a_report_tells_it() -> None:
    told = json.loads(
        report_bytes(letter("a", history=(past(), past(at=None))), ANSWER, with_body=True, limit=9999)
    )
    first, second = told["History"]
    assert first == {
        "Time": "2026-11-30T01:02:03.456Z",
        "Relay": "mx:25",
        "Status": "deferred",
        "Code": 450,
        "EnhancedCode": "4.2.0",
        "Text": "greylisted",
        "Phase": "rcpt",
        "Rule": "ses/too-fast",
        "Recipients": 1,
        "Accepted": 0,
        "Seconds": 1.235,
        "TLS": "TLSv1.3",
    }
    assert second == {**first, "Time": ""}


@given(st.lists(PASTS, max_size=3).map(tuple))
def test_the_short_way_writes_what_the_model_writes(history: tuple[PastAttempt, ...]) -> None:
    told = letter("a", history=history)
    assert reports._plain(told, ANSWER) == reports._encode(report(told, ANSWER))


def test_a_report_that_is_too_large_goes_without_it_first() -> None:
    wordy = Recipient(address="a", result=Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, text="w" * 300))
    long = letter("a", history=(past(),) * 5, recipients=(wordy,))
    full = len(report_bytes(long, ANSWER, with_body=False, limit=9999))
    told = json.loads(report_bytes(long, ANSWER, with_body=False, limit=full - 1))
    assert (told["History"], told["Omitted"]) == ([], ["History"])
    assert told["Recipients"][0]["Text"] == "w" * 300
    short = long.evolve(history=())
    full = len(report_bytes(short, ANSWER, with_body=False, limit=9999))
    told = json.loads(report_bytes(short, ANSWER, with_body=False, limit=full - 1))
    assert told["Omitted"] == ["Recipients.Text"], "what is empty is not left out"
