"""Who is suppressed, for how long, and what a refusal adds: the pure rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailsender.model.letter import Phase, Recipient, Result, Status, Verdict
from mailsender.sending.reply_rules import Action, Scope, rule_for
from mailsender.suppression.port import Entry, Source
from mailsender.suppression.rules import (
    SuppressionPolicy,
    ignores,
    in_force,
    keys_of,
    normal,
    refusals_needed,
    refusals_of,
    without,
)
from tests.dispatching import letter
from tests.relays import ACCEPTED

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
LIFE = timedelta(days=30)


def entry(address: str, **changes: Any) -> Entry:
    fields: dict[str, Any] = {"source": Source.OPERATOR, "since": NOW, "until": NOW + LIFE}
    return Entry(address=address, **fields | changes)


def refusal(code: int | None, enhanced: str | None, phase: Phase = Phase.RCPT) -> Result:
    return Result(verdict=Verdict.REFUSED, phase=phase, code=code, enhanced=enhanced, text="no")


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ann@Example.TEST", "ann@example.test"),
        ("ann+news@example.test", "ann+news@example.test"),
        ("Ёж@пример.рф", "ёж@xn--e1afmkfd.xn--p1ai"),
        ("Groß@example.test", "groß@example.test"),  # gross@ may be another's
        ("GROẞ@example.test", "groß@example.test"),
        ("@Пример.рф", "@xn--e1afmkfd.xn--p1ai"),
        ("@example.test", "@example.test"),
    ],
)
def test_spellings_of_one_address_are_one(text: str, name: str) -> None:
    assert normal(text) == name


@pytest.mark.parametrize("text", ["", "@", "ann", "example.test", "a@b@c", "ann @example.test", "@a b"])
def test_what_is_no_address_has_no_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"it |nothing"):
        normal(text)


def test_an_address_meets_its_own_entries_and_its_domains() -> None:
    assert keys_of("Ann@example.test") == ("ann@example.test", "@example.test")
    assert keys_of("ann@example.test", "news") == (
        "ann@example.test",
        "ann@example.test news",
        "@example.test",
        "@example.test news",
    )
    assert keys_of("nobody") == ()


# --- what a letter loses -------------------------------------------------------------------------


def found(*entries: Entry) -> dict[str, Entry]:
    return {each.key: each for each in entries}


def test_a_letter_to_nobody_on_the_list_stays_as_it_is() -> None:
    sent = letter(1, "ann@example.test")
    assert without(sent, "", found(entry("bob@example.test")), NOW) is None
    assert without(sent, "", found(entry("ann@example.test", stream="news")), NOW) is None
    assert without(sent, "news", found(entry("@example.org")), NOW) is None


@pytest.mark.parametrize(
    "hit",
    [
        entry("ann@example.test"),
        entry("ann@example.test", until=None),
        entry("ann@example.test", stream="news"),
        entry("@example.test"),
        entry("@example.test", stream="news"),
    ],
    ids=str,
)
def test_a_letter_to_one_on_the_list_ends_as_error(hit: Entry) -> None:
    moved = without(letter(1, "Ann@example.test"), "news", found(hit), NOW)
    assert moved is not None
    (recipient,) = moved.recipients
    assert (moved.status, moved.attempts, moved.pending) == (Status.ERROR, 0, ())
    assert recipient.result == Result(
        verdict=Verdict.REFUSED, phase=Phase.INTAKE, text="suppressed: operator"
    )


@pytest.mark.parametrize("over", [{"until": NOW}, {"active": False}], ids=str)
def test_what_does_not_hold_now_hits_nobody(over: dict[str, Any]) -> None:
    assert not in_force(entry("ann@example.test", **over), NOW)
    assert without(letter(1, "ann@example.test"), "", found(entry("ann@example.test", **over)), NOW) is None


def test_the_reason_is_told() -> None:
    hit = entry("ann@example.test", source=Source.REFUSAL, reason="550 5.1.1")
    moved = without(letter(1, "ann@example.test"), "", found(hit), NOW)
    assert moved is not None
    assert moved.recipients[0].result is not None
    assert moved.recipients[0].result.text == "suppressed: 550 5.1.1"


def test_the_others_of_a_letter_are_left() -> None:
    sent = letter(1, "ann@example.test", "bob@example.test", "ann@example.test")
    moved = without(sent, "", found(entry("ann@example.test")), NOW)
    assert moved is not None
    assert (moved.status, moved.pending) == (Status.AWAITING, ("bob@example.test",))


def test_who_has_got_it_keeps_that_and_so_does_the_letter() -> None:
    took = Recipient(address="ann@example.test", result=ACCEPTED)
    later = Recipient(
        address="bob@example.test",
        result=Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT),
        tries=2,
        doubts=1,
    )
    sent = letter(1, "ann@example.test", "bob@example.test").evolve(recipients=(took, later))
    moved = without(sent, "", found(entry("@example.test")), NOW)
    assert moved is not None
    assert moved.status is Status.SENT
    assert moved.recipients[0] == took
    assert (moved.recipients[1].tries, moved.recipients[1].uncertain) == (2, True)


TRANSACTIONAL = SuppressionPolicy()


def test_a_letter_ignores_the_list_where_it_says_so_and_its_stream_may() -> None:
    says = letter(1, mail='{"Suppression":"ignore"}')
    assert ignores(says, "transactional", TRANSACTIONAL)
    assert not ignores(says, "news", TRANSACTIONAL)
    assert not ignores(says, "", TRANSACTIONAL)
    assert ignores(says, "codes", SuppressionPolicy(transactional=frozenset({"codes"})))


@pytest.mark.parametrize(
    "mail",
    [
        "",
        "{}",
        '{"TextBody":"\\"Suppression\\":\\"ignore\\""}',
        '{"Suppression":"x"}',
        '["Suppression"]',
        '"Suppression" {',
        '{"Suppression":' + "[" * 100_000,
    ],
)
def test_others_do_not(mail: str) -> None:
    assert not ignores(letter(1, mail=mail), "transactional", TRANSACTIONAL)


# --- what a refusal adds -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [550, 551, 553])
@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"])
def test_what_is_about_the_address_is_the_recipients_own(code: int, enhanced: str) -> None:
    assert refusals_needed(refusal(code, enhanced)) == 1
    assert refusals_needed(refusal(code, enhanced, Phase.DOT)) == 0
    assert refusals_needed(refusal(code, enhanced, Phase.MAIL)) == 0


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [(550, None), (551, None), (553, None), (552, "5.1.1"), (550, "5.2.1"), (552, "5.2.2"), (550, "5.4.1")],
)
def test_what_may_be_the_recipients_counts(code: int, enhanced: str | None) -> None:
    assert refusals_needed(refusal(code, enhanced)) == 2
    assert refusals_needed(refusal(code, enhanced, Phase.DOT)) == 0


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [
        (None, "5.1.3"),  # our own check
        (554, None),
        (501, None),
        (550, "5.7.1"),
        (554, "5.7.1"),
        (550, "5.7.26"),
        (553, "5.1.7"),
        (550, "5.1.8"),
        (550, "5.1.90"),
        (552, "5.2.3"),
        (554, "5.2.252"),
        (550, "5.4.5"),
        (550, "5.3.0"),
        (550, "5.5.3"),
        (550, "5.6.0"),
        (450, "4.1.1"),
        (535, "5.1.1"),
        (504, "5.1.1"),
    ],
)
def test_what_may_be_the_accounts_the_senders_or_the_letters_does_not(
    code: int | None, enhanced: str | None
) -> None:
    assert refusals_needed(refusal(code, enhanced)) == 0


def test_nothing_counts_that_the_rules_of_replies_take_for_anybody_elses_fault() -> None:
    details = [
        f"5.{subject}.{detail}" for subject in range(8) for detail in (*range(100), 233, 251, 255, 705, 708)
    ]
    seen = set()
    for code in range(400, 600):
        for enhanced in (None, *details):
            result = refusal(code, enhanced)
            if refusals_needed(result):
                rule = rule_for(result, taken=False, carried=False)
                assert (rule.action, rule.scope) == (Action.ANSWER, Scope.RECIPIENT), (code, enhanced)
                seen.add(code)
    assert seen == {550, 551, 552, 553, 554}


def test_only_what_was_refused_for_good_counts() -> None:
    deferred = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=550, enhanced="5.1.1")
    results = {
        "Ann@example.test": refusal(550, "5.1.1"),
        "bob@example.test": refusal(550, None),
        "cid@example.test": deferred,
        "dan@example.test": ACCEPTED,
        "eve@example.test": refusal(550, "5.7.1"),
        "nobody": refusal(550, "5.1.1"),
    }
    sent = letter(1, *results)
    told = list(refusals_of(sent, results, NOW, NOW + LIFE))
    assert [(each.address, each.own, each.reason) for each in told] == [
        ("ann@example.test", True, "550 5.1.1"),
        ("bob@example.test", False, "550"),
    ]
    assert {(each.letter, each.at, each.until) for each in told} == {(sent.id, NOW, NOW + LIFE)}


@pytest.mark.parametrize(("times", "told"), [(0, []), (1, [True]), (2, [False])])
def test_a_rule_that_fails_a_recipient_says_whether_it_is_suppressed(times: int, told: list[bool]) -> None:
    """Whatever the codes would say: 550 5.1.1 is the recipient's own, and what is said at the dot is not."""
    for phase, enhanced in ((Phase.RCPT, "5.1.1"), (Phase.DOT, "5.7.1")):
        result = Result(verdict=Verdict.REFUSED, phase=phase, code=550, enhanced=enhanced, rule="mine")
        results = {"r1@example.test": result}
        found = refusals_of(letter(1, *results), results, NOW, NOW + LIFE, failed={"r1@example.test": times})
        assert [each.own for each in found] == told
    later = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=550, rule="mine")
    assert not [*refusals_of(letter(1), {"r1@a.test": later}, NOW, NOW + LIFE, failed={"r1@a.test": 1})]
