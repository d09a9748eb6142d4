"""What replies mean: the table, read as a table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.sending.reply_rules import (
    ACCOUNT_CODES,
    RULES,
    Action,
    Rule,
    Scope,
    When,
    as_deferred,
    rule_for,
)
from mailsender.sending.reply_words import WORDS
from mailsender.smtp.replies import Reply

ANSWER, DEFER, SPLIT, RENEW, HOLD, WEIGH = (
    Action.ANSWER,
    Action.DEFER,
    Action.SPLIT,
    Action.RENEW,
    Action.HOLD,
    Action.WEIGH,
)


def said(line: str, phase: str) -> Result:
    """`line` as a relay says it; without a code it is our own word, or the connection was lost."""
    if not line[0].isdigit():
        refused = line.startswith("own")
        verdict = Verdict.REFUSED if refused else Verdict.DEFERRED
        return Result(verdict=verdict, phase=Phase(phase), enhanced=line.split()[1] if refused else None)
    reply = Reply.of(int(line[:3]), [line[4:]])
    verdict = Verdict.DEFERRED if reply.code < 500 else Verdict.REFUSED
    return Result(
        verdict=verdict, phase=Phase(phase), code=reply.code, enhanced=reply.enhanced, text=reply.text
    )


def found(line: str, phase: str, before: str) -> Rule:
    """The rule for `line`; `before` are words of what happened, and of what is so of the letter."""
    words = before.split()
    known = tuple(When[word.upper()] for word in words if word in {"own", "own_path", "own_sender", "tls"})
    return rule_for(said(line, phase), taken="taken" in words, carried="carried" in words, known=known)


TABLE = [
    # the reply, the stage, after others were taken in the transaction or the session, what is to be done
    ("452 4.5.3 Too many recipients", "rcpt", "taken", SPLIT),
    ("452 Too many recipients", "rcpt", "taken", SPLIT),
    ("552 5.5.3 Too many recipients", "rcpt", "taken", SPLIT),
    ("552 Too many recipients", "rcpt", "taken", SPLIT),
    ("550 5.5.3 Too many recipients", "dot", "", SPLIT),
    ("552 5.2.2 Mailbox full", "rcpt", "taken", ANSWER),
    ("452 4.2.2 Out of storage", "rcpt", "taken", ANSWER),
    ("452 4.3.1 Insufficient system storage", "rcpt", "", WEIGH),
    ("452 4.3.1 Insufficient system storage", "mail", "", HOLD),
    ("452 4.4.5 Too many messages", "mail", "carried", RENEW),
    ("451 4.7.0 Enough", "mail", "carried", RENEW),
    ("530 5.7.0 Log in", "mail", "carried", RENEW),
    ("451 4.7.0 Enough", "data", "carried", RENEW),
    ("530 5.7.0 Log in", "data", "carried", RENEW),
    ("421 4.3.2 Going down", "rcpt", "carried", RENEW),
    ("421 4.3.2 Going down", "dot", "carried", RENEW),
    ("421 4.7.28 Unusual rate", "dot", "carried", HOLD),
    ("421 4.3.2 Busy", "mail", "", HOLD),
    ("421 4.3.2 Busy", "rcpt", "", WEIGH),
    ("530 5.7.0 Log in", "mail", "", HOLD),
    ("535 5.7.8 Bad credentials", "rcpt", "", HOLD),
    ("550 5.4.5 Daily limit", "mail", "", HOLD),
    ("550 5.4.5 Daily limit", "rcpt", "taken", HOLD),
    ("553 5.7.1 Not owned by user", "mail", "", HOLD),
    ("553 5.7.1 Not owned by user", "rcpt", "", HOLD),
    ("553 5.7.1 No", "rcpt", "taken", ANSWER),
    ("450 4.1.8 Sender address rejected", "rcpt", "", HOLD),
    ("504 5.5.2 Helo command rejected", "rcpt", "", HOLD),
    ("454 Throttling failure", "dot", "", HOLD),
    ("554 5.2.0 Quota exceeded", "dot", "", HOLD),
    ("554 No", "mail", "", HOLD),
    ("550 5.1.7 Bad sender", "mail", "", HOLD),
    ("501 5.5.4 Bad parameter", "mail", "", HOLD),
    ("552 5.3.4 Too large", "mail", "", ANSWER),
    ("552 5.3.4 Too large", "mail", "carried", ANSWER),
    ("552 Too large", "mail", "", ANSWER),
    ("554 5.6.0 Bad content", "dot", "", ANSWER),
    ("550 5.1.1 No such user", "rcpt", "", ANSWER),
    ("550 No such user", "rcpt", "", ANSWER),
    ("553 Name not allowed", "rcpt", "", ANSWER),
    ("450 4.2.0 Greylisted", "rcpt", "", ANSWER),
    ("451 4.7.1 Greylisted", "rcpt", "", ANSWER),
    ("450 Greylisted", "rcpt", "carried", ANSWER),
    ("550 5.4.1 Access denied", "rcpt", "", ANSWER),
    ("554 No", "rcpt", "", WEIGH),
    ("554 No", "rcpt", "taken", ANSWER),
    ("550 5.7.1 Relaying denied", "rcpt", "", HOLD),
    ("550 Relaying denied", "rcpt", "taken", HOLD),
    ("550 Hourly limit exceeded", "rcpt", "", HOLD),
    ("550 Too many messages", "mail", "own own_path", HOLD),
    ("550 Authentication required", "rcpt", "", HOLD),
    ("550 Outgoing mail has been suspended", "rcpt", "", HOLD),
    ("550 Sender verify failed", "rcpt", "", HOLD),
    ("554 Access denied: x is not authorized to perform", "dot", "", WEIGH),
    ("550 Sender verify failed", "rcpt", "own own_path own_sender", DEFER),
    ("550 5.7.504 Recipient address rejected: Access denied", "rcpt", "", WEIGH),
    ("554 5.7.1 Spam", "dot", "", WEIGH),
    ("554 Email address is not verified", "dot", "", WEIGH),
    ("550 5.1.1 No such user", "dot", "", ANSWER),
    ("451 4.3.0 Later", "dot", "", WEIGH),
    ("own 5.3.4", "mail", "", ANSWER),
    ("own 5.1.3", "rcpt", "", ANSWER),
    ("own 5.6.7", "rcpt", "", ANSWER),
    ("own 5.6.7", "mail", "", HOLD),
    ("own 5.6.7", "mail", "own", HOLD),  # the reverse-path is everybody's
    ("own 5.6.7", "mail", "own own_path", ANSWER),
    ("own 5.1.7", "mail", "own own_path", ANSWER),
    ("own 5.7.30", "mail", "own tls", ANSWER),
    ("550 5.7.30 REQUIRETLS needed", "dot", "tls", ANSWER),
    ("550 5.7.10 Encryption needed", "rcpt", "own tls", ANSWER),
    ("550 5.7.30 No DKIM", "dot", "own", HOLD),
    ("555 5.5.4 Unsupported option: ENVID", "mail", "own", WEIGH),
    ("501 5.5.4 Bad parameter", "mail", "own carried", WEIGH),
    ("553 5.7.1 Not owned by user", "mail", "own own_path carried", DEFER),
    ("553 5.7.1 Not owned by user", "rcpt", "own own_path own_sender", DEFER),
    ("553 5.7.1 Not owned by user", "rcpt", "own own_sender", HOLD),  # the reverse-path is everybody's
    ("450 4.1.8 Sender address rejected", "rcpt", "own own_path own_sender", DEFER),
    ("451 4.1.8 Domain of sender does not resolve", "mail", "own own_path carried", DEFER),
    ("550 5.1.8 Sender address rejected", "rcpt", "own own_sender", HOLD),
    ("550 5.7.60 No permission to send as this sender", "dot", "own_sender", DEFER),
    ("550 5.7.26 Unauthenticated", "dot", "own_sender", DEFER),
    ("550 5.7.139 Basic authentication is off", "mail", "own own_path own_sender", HOLD),
    ("550 5.7.1 No", "mail", "own own_path", WEIGH),
    ("550 5.7.1 No", "mail", "own own_path carried", RENEW),
    ("451 4.3.0 Later", "mail", "own own_path", HOLD),
    ("530 5.7.0 Log in", "mail", "own", HOLD),
    ("550 5.4.5 Daily limit", "mail", "own", HOLD),
    ("lost", "mail", "", HOLD),
    ("lost", "rcpt", "", WEIGH),
    ("lost", "data", "carried", RENEW),
    ("250 What?", "data", "carried", RENEW),
]


@pytest.mark.parametrize(("line", "phase", "before", "action"), TABLE)
def test_what_is_to_be_done(line: str, phase: str, before: str, action: Action) -> None:
    assert found(line, phase, before).action is action, found(line, phase, before).source


@pytest.mark.parametrize("code", ACCOUNT_CODES)
def test_the_accounts_fault_never_fails_a_letter_whoever_else_was_taken(code: str) -> None:
    line = f"550 {code.replace('x', '5')} No"
    for phase in ("mail", "rcpt", "data", "dot"):
        rule = rule_for(said(line, phase), taken=True, carried=False)
        assert (rule.action, rule.otherwise, rule.scope) == (HOLD, HOLD, Scope.SENDER)


codes = st.integers(400, 599)
enhanced = st.none() | st.from_regex(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)


@given(codes, enhanced, st.booleans(), st.booleans())
def test_a_refusal_at_mail_fails_a_letter_only_for_what_the_letter_is(
    code: int, enhanced: str | None, taken: bool, carried: bool
) -> None:
    result = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=code, enhanced=enhanced)
    rule = rule_for(result, taken=taken, carried=carried)
    if Action.ANSWER in {rule.action, rule.otherwise} and rule.action is not Action.RENEW:
        assert rule.scope is Scope.MESSAGE


@given(st.sampled_from(Phase), st.none() | st.integers(-1, 999), st.none() | st.text(), st.booleans())
def test_there_is_a_rule_for_whatever_is_said(
    phase: Phase, code: int | None, enhanced: str | None, some: bool
) -> None:
    for verdict in Verdict:
        rule_for(Result(verdict=verdict, phase=phase, code=code, enhanced=enhanced), taken=some, carried=some)


def test_every_rule_can_be_reached_and_says_whence_it_is() -> None:
    """A rule that no reply reaches is one that another one above it has swallowed."""
    reached = set()
    for phase in ("mail", "rcpt", "data", "dot"):
        for before in ("", "taken", "carried", "own", "own carried", "own own_path", "own_sender", "tls"):
            lines = {line for line, _, _, _ in TABLE}
            lines |= {f"550 {code.replace('x', '5')} No" for code in ACCOUNT_CODES}
            lines |= {"552 Too much", "503 5.5.1 Sequence", "421 4.2.1 Bye", "451 4.3.0 Later"}
            for line in lines:
                reached.add(id(found(line, phase, before)))
    assert [rule for rule in RULES if id(rule) not in reached] == []
    assert all(rule.source for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_what_is_put_off_keeps_its_words() -> None:
    refused = said("554 5.7.1 No", "dot")
    later = as_deferred(refused)
    assert (later.verdict, later.code, later.enhanced, later.text, later.phase) == (
        Verdict.DEFERRED,
        554,
        "5.7.1",
        "No",
        Phase.DOT,
    )
    assert as_deferred(later) is later


DEEDS = {Action.ANSWER: "as it says", Action.DEFER: "later"}


def published() -> str:
    """The table of docs/replies.md."""
    lines = ["| rule | at | reply | enhanced | after | what is done | if others are taken | about | why |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for rule in RULES:
        enhanced = ACCOUNT if rule.enhanced is ACCOUNT_CODES else ", ".join(rule.enhanced)
        enhanced = enhanced or ", ".join(f"not {each}" for each in rule.other_than)
        reply = ", ".join(f"{code}xx" if len(code) == 1 else code for code in rule.codes) or "none"
        weighed = rule.action in {HOLD, WEIGH, DEFER}
        cells = [
            f"`{rule.name}`",
            "any" if len(rule.at) == 4 else ", ".join(rule.at),
            f"{reply}, [words](#words-of-the-account)" if rule.words else reply,
            enhanced.replace("-", "none"),
            "" if rule.when is When.ALWAYS else rule.when,
            DEEDS.get(rule.action, rule.action),
            DEEDS.get(rule.otherwise, rule.otherwise) if weighed else "",
            rule.scope,
            rule.source,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


ACCOUNT = "the accounts' codes below"


def test_each_action_and_scope_that_explain_prints_stands_in_a_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "replies.md").read_text(encoding="utf-8")
    named = {
        name
        for cell in re.findall(r"^\|([^|]*)\|", page, re.MULTILINE)
        for name in re.findall(r"`([a-z]+)`", cell)
    }
    assert {str(each) for each in (*Action, *Scope)} <= named


def published_words() -> str:
    """The words of docs/replies.md."""
    lines = ["| rule | words such as |", "| --- | --- |"]
    lines += [f"| `{name}` | {', '.join(words.such_as)} |" for name, words in WORDS.items()]
    return "\n".join(lines)


def test_each_kind_of_words_has_its_rule() -> None:
    assert [rule.words for rule in RULES if rule.name == rule.words] == list(WORDS)
    assert {rule.words for rule in RULES if rule.words} == set(WORDS)


def test_what_is_about_the_sender_fails_nobody_whoever_else_is_taken() -> None:
    """Others may have gone before a limit began, or after it was over for a moment."""
    assert [rule.name for rule in RULES if rule.scope is Scope.SENDER and rule.otherwise is ANSWER] == []


def test_the_published_table_is_the_one_that_is_used() -> None:
    page = (Path(__file__).parents[2] / "docs" / "replies.md").read_text(encoding="utf-8")
    assert published() in page, published()
    assert published_words() in page, published_words()
    assert all(f"`{code}`" in page for code in ACCOUNT_CODES)
