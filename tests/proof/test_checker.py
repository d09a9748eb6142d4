"""The judge is judged: a clean history passes, and each planted fault is found, by its own name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from proof.checker import Verdict, check
from proof.experiments.rate import WRITTEN
from proof.history import Allowed, Break, History, Published, Rate, Report, Stored, Told
from proof.ledger import Acceptance

LETTERS = 5
AT_REST = Break(what="a drain while idle", start=104.5, end=105.0)


def addresses(number: int) -> tuple[str, ...]:
    return f"one{number}@to.example.test", f"two{number}@to.example.test"


def accepted(number: int, at: float = 0.0, **more: Any) -> Acceptance:
    values = {
        "mark": f"m{number}",
        "message_id": f"<{number}@x>",
        "recipients": addresses(number),
        "mail_at": 100.0 + number + at,
        "at": 100.1 + number + at,
        "epoch": 0.0,
        "session": "1.1",
        "digest": "d",
        "size": 1,
    }
    return Acceptance(**{**values, **more})


def report(number: int, **more: Any) -> Report:
    values = {
        "letter": f"id{number}",
        "mark": f"m{number}",
        "status": "sent",
        "message_id": f"<{number}@x>",
        "recipients": {address: Told(status="accepted") for address in addresses(number)},
        "words": f"words {number}",
    }
    return Report(**{**values, **more})


def stored(number: int, **more: Any) -> Stored:
    return Stored(**{"letter": f"id{number}", "mark": f"m{number}", "status": "sent", **more})


def clean() -> History:
    numbers = range(LETTERS)
    return History(
        published=tuple(Published(mark=f"m{n}", addresses=addresses(n)) for n in numbers),
        acceptances=tuple(accepted(n) for n in numbers),
        mails=tuple(accepted(n).mail_at for n in numbers),
        reports=tuple(report(n) for n in numbers),
        stored=tuple(stored(n) for n in numbers),
        offsets={0: (3, 3), 1: (2, 2)},
        rate=Rate(letters=2, period=2.0),
        poison=(b"{",),
        dead=(b"{", b"{"),
    )


def but(old: tuple[Any, ...], number: int, *new: Any) -> tuple[Any, ...]:
    return (*old[:number], *new, *old[number + 1 :])


def refused(number: int, **more: Any) -> Report:
    told = {address: Told(status="refused") for address in addresses(number)}
    return report(number, status="error", message_id="", recipients=told, **more)


def test_a_clean_history_passes() -> None:
    found = check(clean())
    assert found.faults == ()
    assert found.good
    assert str(found) == "kept"
    assert (found.letters, found.accepted, found.reports) == (5, {1: 10}, {1: 5})
    assert found.most_in_a_period == 2


def wrong(base: History, number: int, *some: str) -> tuple[Published, ...]:
    """The letters, of which one may fail, or some of its recipients."""
    may_fail = frozenset(some or addresses(number))
    return but(base.published, number, replace(base.published[number], may_fail=may_fail))


def test_a_truthful_error_passes() -> None:
    base = clean()
    found = check(
        replace(
            base,
            published=wrong(base, 2),
            acceptances=but(base.acceptances, 2),
            reports=but(base.reports, 2, refused(2), refused(2)),
            stored=but(base.stored, 2, stored(2, status="error")),
        )
    )
    assert found.faults == ()
    assert (found.accepted, found.reports) == ({0: 2, 1: 8}, {1: 4, 2: 1})


def test_a_part_refused_passes() -> None:
    base, (one, two) = clean(), addresses(1)
    told = {one: Told(status="accepted"), two: Told(status="refused")}
    found = check(
        replace(
            base,
            published=wrong(base, 1, two.upper()),
            acceptances=but(base.acceptances, 1, accepted(1, recipients=(one,))),
            reports=but(base.reports, 1, report(1, recipients=told)),
        )
    )
    assert found.faults == ()


def planted() -> dict[str, tuple[History, str]]:
    """One fault each, with the promise that it breaks."""
    base = clean()
    one, _two = addresses(1)
    twice = (*base.acceptances, accepted(1, at=5.0))
    over_both = (accepted(1, relay="first"), accepted(1, at=5.0, relay="second"))
    two_relays = but(base.acceptances, 1, *over_both)
    mistold = {one: Told(status="accepted"), addresses(1)[1]: Told(status="deferred")}
    return {
        "lost": (
            replace(
                base,
                acceptances=but(base.acceptances, 1),
                reports=but(base.reports, 1),
            ),
            "P1",
        ),
        "unreported": (replace(base, reports=but(base.reports, 1)), "P4"),
        "other words": (replace(base, reports=(*base.reports, report(1, words="else"))), "P4"),
        "two IDs": (replace(base, reports=(*base.reports, report(1, letter="else"))), "P2"),
        "told sent, not accepted": (
            replace(
                base,
                acceptances=but(base.acceptances, 1),
                reports=but(base.reports, 1, report(1, recipients={})),
            ),
            "P4",
        ),
        "told error, accepted": (
            replace(
                base,
                reports=but(base.reports, 1, report(1, status="error", recipients={})),
                stored=but(base.stored, 1, stored(1, status="error")),
            ),
            "P4",
        ),
        "told neither": (
            replace(
                base,
                reports=but(base.reports, 1, report(1, status="gone")),
                stored=but(base.stored, 1, stored(1, status="gone")),
            ),
            "P4",
        ),
        "recipient not told": (
            replace(base, reports=but(base.reports, 1, report(1, recipients={one: Told(status="accepted")}))),
            "P4",
        ),
        "failed for no fault of its own": (
            replace(
                base,
                acceptances=but(base.acceptances, 1),
                reports=but(base.reports, 1, refused(1)),
                stored=but(base.stored, 1, stored(1, status="error")),
            ),
            "P14",
        ),
        "told as uncertain, was not": (
            replace(base, reports=but(base.reports, 1, report(1, recipients=named(1), uncertain=True))),
            "P11",
        ),
        "told accepted, was not": (
            replace(base, acceptances=but(base.acceptances, 1, accepted(1, recipients=(one,)))),
            "P4",
        ),
        "told not accepted, was": (
            replace(base, reports=but(base.reports, 1, report(1, recipients=mistold))),
            "P4",
        ),
        "other Message-ID": (
            replace(base, reports=but(base.reports, 1, report(1, message_id="<else@x>"))),
            "P4",
        ),
        "not in the collection": (replace(base, stored=but(base.stored, 1)), "P1"),
        "left processing": (
            replace(
                base,
                published=(*base.published, Published(mark="m9", addresses=addresses(9))),
                stored=(*base.stored, stored(9, status="processing")),
            ),
            "P6",
        ),
        "left awaiting": (
            replace(
                base,
                published=(*base.published, Published(mark="m9", addresses=addresses(9))),
                stored=(*base.stored, stored(9, status="awaiting")),
            ),
            "P6",
        ),
        "left in the outbox": (
            replace(base, stored=but(base.stored, 1, stored(1, reported=False))),
            "P4",
        ),
        "stored otherwise": (
            replace(base, stored=but(base.stored, 1, stored(1, status="error"))),
            "P4",
        ),
        "twice without a break": (replace(base, acceptances=twice), "P3"),
        "by two relays": (
            replace(base, acceptances=two_relays, breaks=(Break(what="kill", start=101.5, end=102.0),)),
            "P12",
        ),
        "too many twice": (
            replace(base, acceptances=twice, breaks=(Break(what="kill", start=101.5, end=102.0),)),
            "P3",
        ),
        "a letter nobody wrote": (
            replace(base, acceptances=(*base.acceptances, accepted(1, mark="smuggled"))),
            "P8",
        ),
        "a recipient nobody named": (
            replace(
                base,
                acceptances=but(
                    base.acceptances, 1, accepted(1, recipients=(*addresses(1), "else@example.test"))
                ),
            ),
            "P8",
        ),
        "a report nobody waits for": (
            replace(base, reports=(*base.reports, report(9))),
            "P4",
        ),
        "a blind copy was seen": (
            replace(base, acceptances=but(base.acceptances, 1, accepted(1, leaked=("a@b.c",)))),
            "P7",
        ),
        "not committed to the end": (replace(base, offsets={0: (2, 3)}), "P1"),
        "committed beyond the end": (replace(base, offsets={0: (4, 3)}), "P1"),
        "too fast": (replace(base, mails=(*base.mails, 101.5, 101.6)), "P5"),
        "refused, yet taken": (
            replace(
                base,
                refused=(Published(mark="m9", addresses=addresses(9)),),
                stored=(*base.stored, stored(9)),
            ),
            "P2",
        ),
        "begun after the end": (replace(base, live_mails=(104.6,), stops=(AT_REST,)), "P6"),
        "swallowed": (replace(base, dead=()), "P9"),
        "dead without need": (replace(base, dead=(b"{", b"[]")), "P9"),
        "broke SMTP": (replace(base, violations=("1.1: a bare CR",)), "P8"),
        "seen": (replace(base, faults=("exit status 1",)), "-"),
    }


def planted_with_notes() -> dict[str, tuple[History, Allowed]]:
    """The same for a service that keeps notes, in one of whose lives letters were cut at the dot."""
    base = clean()
    killed = Break(what="kill", start=104.5, end=104.5)
    doubles = replace(
        base,
        acceptances=(*base.acceptances, *(accepted(n, at=9.0) for n in range(2))),
        breaks=(Break(what="another", start=99.0, end=99.0), killed),
    )
    # The second recipient is not named, though the first and the letter as a whole are.
    half = {address: Told(status="accepted", uncertain=not n) for n, address in enumerate(addresses(1))}
    halves = (report(0, recipients=named(0), uncertain=True), report(1, recipients=half, uncertain=True))
    told = tuple(report(n, recipients=named(n), uncertain=True) for n in range(2))
    early = {address: Told(status="uncertain", uncertain=True, phase="data") for address in addresses(2)}
    ended = report(2, status="error", recipients=early, uncertain=True)
    notes = Allowed(duplicates=9, window=9.0, named=True, a_break=2)
    return {
        "twice, not named uncertain": (replace(doubles, reports=(*halves, *base.reports[2:])), notes),
        "more twice than sessions": (
            replace(doubles, reports=(*told, *base.reports[2:])),
            replace(notes, a_break=1),
        ),
        "too many uncertain": (
            replace(doubles, reports=(*told, *base.reports[2:])),
            replace(notes, uncertain=1),
        ),
        "twice instead of an error": (
            replace(doubles, reports=(*told, *base.reports[2:])),
            replace(notes, once=True),
        ),
        "uncertain, but not at the dot": (
            replace(
                base,
                doubted=frozenset({"m2"}),
                reports=but(base.reports, 2, ended),
                stored=but(base.stored, 2, stored(2, status="error")),
            ),
            notes,
        ),
    }


def named(number: int) -> dict[str, Told]:
    return {address: Told(status="accepted", uncertain=True) for address in addresses(number)}


@pytest.mark.parametrize("kind", planted_with_notes())
def test_each_fault_of_the_notes_is_found(kind: str) -> None:
    history, allowed = planted_with_notes()[kind]
    found = check(history, allowed)
    assert {(fault.promise, fault.kind) for fault in found.faults} == {("P11", kind)}


def test_a_letter_twice_that_is_named_is_what_the_notes_allow() -> None:
    history, allowed = planted_with_notes()["more twice than sessions"]
    found = check(history, replace(allowed, a_break=2))
    assert found.faults == ()
    assert found.duplicates == 2


def test_a_letter_twice_without_a_report_is_told_as_both() -> None:
    history, allowed = planted_with_notes()["more twice than sessions"]
    silent = replace(history, reports=tuple(each for each in history.reports if each.mark != "m0"))
    found = check(silent, replace(allowed, a_break=2))
    told = {(fault.promise, fault.kind) for fault in found.faults}
    assert {("P11", "twice, not named uncertain"), ("P4", "unreported")} <= told


def test_an_earlier_report_may_name_it() -> None:
    history, allowed = planted_with_notes()["more twice than sessions"]
    later = (*history.reports, report(0), report(1))
    assert check(replace(history, reports=later), replace(allowed, a_break=2)).faults == ()


@pytest.mark.parametrize("status", ["refused", "deferred"])
def test_whoever_is_not_known_to_be_refused_may_not_fail(status: str) -> None:
    base, (one, two) = clean(), addresses(1)
    told = {one: Told(status="accepted"), two: Told(status=status)}
    history = replace(
        base,
        acceptances=but(base.acceptances, 1, accepted(1, recipients=(one,))),
        reports=but(base.reports, 1, report(1, recipients=told)),
    )
    assert check(history).kinds() == {"failed for no fault of its own": 1}
    assert check(replace(history, published=wrong(base, 1, two))).good


def test_a_letter_that_ends_before_anybody_is_asked_of_has_to_be_wrong() -> None:
    base = clean()
    history = replace(
        base,
        acceptances=but(base.acceptances, 1),
        reports=but(base.reports, 1, report(1, status="error", message_id="", recipients={})),
        stored=but(base.stored, 1, stored(1, status="error")),
    )
    assert check(history).kinds() == {"failed for no fault of its own": 1}
    assert check(replace(history, published=wrong(base, 1))).good


def test_a_report_tells_of_all_unless_it_says_that_there_is_no_room() -> None:
    base = clean()
    history = replace(base, reports=but(base.reports, 1, report(1, recipients={})))
    assert check(history).kinds() == {"recipient not told": 2}
    roomless = replace(base, reports=but(base.reports, 1, report(1, recipients={}, omitted=True)))
    assert check(roomless).good


def test_a_doubt_needs_a_dot_without_an_answer_or_a_break() -> None:
    base = clean()
    doubted = replace(base, reports=but(base.reports, 1, report(1, recipients=named(1), uncertain=True)))
    assert check(doubted).kinds() == {"told as uncertain, was not": 1}
    assert check(replace(doubted, doubted=frozenset({"m1"}))).good
    assert check(replace(doubted, acceptances=but(base.acceptances, 1, accepted(1, told=False)))).good
    later = replace(doubted, breaks=(Break(what="kill", start=104.5, end=104.5),))
    assert check(later, Allowed(doubts=0)).kinds() == {"told as uncertain, was not": 1}
    assert check(later, Allowed(doubts=1)).good
    near = replace(doubted, breaks=(Break(what="kill", start=101.2, end=101.2),))
    assert check(near, Allowed(doubts=0)).good


def test_where_uncertain_letters_end_an_error_must_be_named_to_be_the_truth() -> None:
    base, strict = clean(), Allowed(named=True, once=True)
    for uncertain in (True, False):
        told = {a: Told(status="uncertain", uncertain=uncertain, phase="dot") for a in addresses(1)}
        ended = report(1, status="error", recipients=told, uncertain=uncertain)
        history = replace(
            base,
            reports=but(base.reports, 1, ended),
            stored=but(base.stored, 1, stored(1, status="error")),
            doubted=frozenset({"m1"}),
        )
        found = check(history, strict)
        assert found.good is uncertain
        assert ("told error, accepted" in found.kinds()) is not uncertain


BESIDE = {
    # Such a letter has no report either, and no other way to plant it is there.
    "left processing": {"lost"},
    "left awaiting": {"lost"},
    "told sent, not accepted": {"recipient not told"},
    "twice without a break": {"too many twice"},
    "by two relays": {"too many twice"},
}


@pytest.mark.parametrize("kind", planted())
def test_each_planted_fault_is_found(kind: str) -> None:
    history, promise = planted()[kind]
    found = check(history)
    assert not found.good
    kinds = {fault.kind for fault in found.faults}
    assert kinds - BESIDE.get(kind, set()) == {kind}
    assert {fault.promise for fault in found.faults if fault.kind == kind} == {promise}
    assert kind in str(found)
    assert any(kind in line for line in found.details())


def test_every_kind_of_fault_that_the_judge_knows_is_planted() -> None:
    import re
    from pathlib import Path

    import proof.checker

    source = Path(proof.checker.__file__).read_text()
    known = set(re.findall(r'kind="([^"]+)"', source)) | {"lost", "unreported"}
    known -= {"accepted, waits still"}  # only where letters may wait, see below
    known |= {"left processing", "left awaiting"}
    assert known == planted().keys() | planted_with_notes().keys()


def doubled(**more: Any) -> History:
    base = clean()
    return replace(base, acceptances=(*base.acceptances, accepted(1, at=5.0)), **more)


def judged(history: History, **allowed: Any) -> Verdict:
    return check(history, Allowed(duplicates=1, **allowed))


def test_a_duplicate_is_explained_by_a_break_soon_after_the_acceptance() -> None:
    assert judged(doubled(breaks=(Break(what="kill", start=102.0, end=102.0),))).good
    assert judged(doubled(breaks=(Break(what="outage", start=100.0, end=103.0),))).good


def test_a_duplicate_is_explained_by_a_kill_between_mail_and_acceptance() -> None:
    assert judged(doubled(breaks=(Break(what="kill", start=101.05, end=101.05),)), window=0.0).good


def test_a_duplicate_is_not_explained_by_a_break_at_another_time() -> None:
    long_after = Break(what="kill", start=104.0, end=104.0)
    before = Break(what="kill", start=100.0, end=100.9)
    assert not judged(doubled(breaks=(long_after, before))).good


@pytest.mark.parametrize(
    ("at", "good"), [(98.0, False), (100.0, True), (103.0, True), (104.85, True), (105.5, False)]
)
def test_a_failover_explains_what_was_accepted_until_mongodb_could_be_written_to(
    at: float, good: bool
) -> None:
    """As `rate` notes it: a replica is killed, the primary steps down, and a write is answered at last."""
    breaks = (Break(what="kill", start=101.0, end=101.0), Break(what="failover", start=101.1, end=104.9))
    twice = (accepted(1, at=at - 101.1), accepted(1, at=20.0))
    history = replace(clean(), acceptances=but(clean().acceptances, 1, *twice), breaks=breaks)
    found = judged(history, window=WRITTEN)
    assert found.good is good
    assert ("twice without a break" in found.kinds()) is not good


def test_a_duplicate_is_explained_where_the_relay_did_not_answer() -> None:
    base = clean()
    silent = but(base.acceptances, 1, accepted(1, told=False), accepted(1, at=5.0))
    assert judged(replace(base, acceptances=silent)).good


def test_different_recipients_in_two_transactions_are_no_duplicate() -> None:
    base, (one, two) = clean(), addresses(1)
    parts = (accepted(1, recipients=(one,)), accepted(1, recipients=(two,), at=3.0))
    found = check(replace(base, acceptances=but(base.acceptances, 1, *parts)))
    assert found.faults == ()
    assert found.duplicates == 0


def test_parts_of_a_letter_may_go_over_two_relays_and_so_may_what_is_named() -> None:
    base, (one, two) = clean(), addresses(1)
    parts = (accepted(1, recipients=(one,), relay="a"), accepted(1, recipients=(two,), at=3.0, relay="b"))
    assert check(replace(base, acceptances=but(base.acceptances, 1, *parts))).good
    again = (accepted(1, relay="a", told=False), accepted(1, at=3.0, relay="b"))
    told = report(1, recipients=named(1), uncertain=True)
    history = replace(base, acceptances=but(base.acceptances, 1, *again), reports=but(base.reports, 1, told))
    assert check(history, Allowed(duplicates=1)).good


def test_what_was_taken_for_others_needs_no_explanation() -> None:
    one, two = addresses(1)
    acceptances = [
        accepted(1, told=False),
        accepted(1, at=3.0, recipients=(two,)),
        accepted(1, at=6.0, recipients=(one,)),
    ]
    history = replace(clean(), acceptances=but(clean().acceptances, 1, *acceptances))
    assert not check(history, Allowed(duplicates=None)).faults
    again = (*acceptances, accepted(1, at=9.0, recipients=(two,)))
    history = replace(clean(), acceptances=but(clean().acceptances, 1, *again))
    kinds = [fault.kind for fault in check(history, Allowed(duplicates=None)).faults]
    assert kinds == ["twice without a break"]


def test_an_error_that_is_told_as_uncertain_is_the_truth() -> None:
    base = clean()
    told = {address: Told(status="uncertain", uncertain=True) for address in addresses(1)}
    uncertain = report(1, status="error", recipients=told, uncertain=True)
    found = check(
        replace(
            base,
            doubted=frozenset({"m1"}),
            reports=but(base.reports, 1, uncertain),
            stored=but(base.stored, 1, stored(1, status="error")),
        )
    )
    assert found.faults == ()
    assert found.uncertain == 1


def test_letters_may_wait_where_that_is_allowed() -> None:
    base = clean()
    waits = replace(
        base,
        published=(
            *base.published,
            Published(mark="m8", addresses=("a@b.c",)),
            Published(mark="m9", addresses=("c@b.c",)),
        ),
        stored=(*base.stored, stored(9, status="awaiting")),
        offsets={0: (2, 3)},
    )
    assert check(waits, Allowed(unfinished=True)).faults == ()
    in_hand = replace(waits, stored=(*base.stored, stored(9, status="processing")))
    assert check(in_hand, Allowed(unfinished=True)).kinds()["left processing"] == 1


def test_a_letter_that_was_accepted_may_not_wait() -> None:
    base = clean()
    forgotten = replace(
        base, reports=but(base.reports, 1), stored=but(base.stored, 1, stored(1, status="awaiting"))
    )
    assert check(forgotten, Allowed(unfinished=True)).kinds() == {"accepted, waits still": 1}


UNSURE = Published(mark="m9", addresses=addresses(9))


def test_a_letter_of_which_nobody_knows_may_be_there_or_not() -> None:
    base = replace(clean(), unsure=(UNSURE,), rate=None)
    assert check(base).good
    assert check(base).letters == LETTERS
    there = replace(
        base,
        acceptances=(*base.acceptances, accepted(9)),
        reports=(*base.reports, report(9)),
        stored=(*base.stored, stored(9)),
    )
    assert check(there).good
    assert check(there).letters == LETTERS + 1
    half = replace(there, reports=base.reports)
    assert check(half).kinds() == {"unreported": 1}, "once it is there it is a letter like any other"
    twice = replace(there, acceptances=(*there.acceptances, accepted(9, at=5.0)))
    assert check(twice).kinds() == {"too many twice": 1, "twice without a break": 1}


def test_a_letter_that_was_refused_is_nowhere() -> None:
    base = replace(clean(), refused=(UNSURE,), rate=None)
    assert check(base).good
    for more in (
        {"acceptances": (*base.acceptances, accepted(9))},
        {"reports": (*base.reports, report(9))},
        {"stored": (*base.stored, stored(9, status="awaiting"))},
    ):
        assert check(replace(base, **more)).kinds() == {"refused, yet taken": 1}


def test_what_is_begun_between_a_stop_and_the_next_start_is_found() -> None:
    # The relay reads on what a client wrote that is gone; only who is still there can begin anything.
    for at, found in ((104.4, 0), (104.5, 0), (104.6, 1), (104.9, 1), (105.0, 0)):
        judged = check(replace(clean(), mails=(at,), live_mails=(at,), stops=(AT_REST,), rate=None))
        assert judged.kinds()["begun after the end"] == found, at
    assert check(replace(clean(), mails=(104.6,), stops=(AT_REST,), rate=None)).good
    for_good = replace(AT_REST, end=math.inf)
    assert check(replace(clean(), live_mails=(999.0,), stops=(for_good,))).kinds() == {
        "begun after the end": 1
    }


def test_a_rate_is_judged_by_its_fullest_window() -> None:
    base = replace(clean(), mails=(0.0, 0.5, 1.0, 2.5, 4.6), rate=Rate(letters=2, period=2.0))
    found = check(base)
    assert found.most_in_a_period == 3
    assert found.good
    assert check(replace(base, mails=(*base.mails, 1.9))).kinds() == {"too fast": 1}
