"""What a relay's reply means beyond its first digit: whom it is about, and what is to be done.

Data, and pure. `RULES` is read from its top; the first rule that fits holds. A rule fits by the stage, the
reply's code and its enhanced code, and by what happened before: whether the relay took somebody in the same
transaction, or took letters earlier in the same session. Its action is what to do, its scope says for whom.

The basic code decides and the enhanced code refines it: relays leave enhanced codes out, or write them
freely. Texts are looked at for nothing but words that blame the account and mean nothing else: see
`mailsender.sending.reply_words`. What is said here without a reply (`code` is None) has rules of its own, so
that our own words are never taken for the relay's.

These are the defaults. The rules of a relay, its file's and its preset's, come before them; see `decide` and
`mailsender.routing.reply_rule`.

An account's or a relay's fault must never fail a letter, and many relays say it in words that could be about
the letter: a plain 554. Such a reply is `WEIGH`: what it means is told by what the relay says next. It is
about the letter if the relay takes another one after it, and about the relay if it says the same of
everybody. `otherwise` is what a reply means once it is known that others are taken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.reply_rule import (
    ACCOUNT_CODES,
    ACCOUNT_REPLIES,
    NONE,
    Action,
    Decision,
    ReplyRule,
    Scope,
    Suppress,
    decided,
    first_fit,
    fits_enhanced,
    own_words,
)
from mailsender.sending.reply_words import kinds_of
from mailsender.suppression.rules import refusals_needed

__all__ = [
    "ACCOUNT_CODES",
    "RULED",
    "RULES",
    "Action",
    "Rule",
    "Scope",
    "When",
    "as_deferred",
    "as_refused",
    "decide",
    "rule_for",
    "ruled",
]

DEFAULT: Final = "default/"
"""Begins the names of the defaults, as a preset's name and a slash begin those of its rules."""


class When(StrEnum):
    """What has to have happened before for a rule to fit."""

    ALWAYS = "always"
    TAKEN = "taken"  # somebody was taken in this transaction
    CARRIED = "carried"  # letters were taken in this session
    OWN = "own"  # MAIL said something of this letter alone: its reverse-path, or its terms
    OWN_PATH = "own path"  # the letter has a reverse-path of its own
    OWN_SENDER = "own sender"  # its From, Sender or reverse-path is not the service's
    TLS = "tls"  # it required TLS on all of its way


MAIL, RCPT, DATA, DOT = Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.DOT
ANYWHERE = (MAIL, RCPT, DATA, DOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row. `codes` are codes or first digits; no codes: it fits where there was no reply, and only there.

    `enhanced` are enhanced codes with `x` for any number, and `-` for none; no entry: any or none, but for
    those of `other_than`. `words` is the kind of words that the text has to have. `pauses`: the relay asks
    for fewer letters whoever of them it takes, so it rests though others were taken.
    """

    name: str
    at: tuple[Phase, ...]
    codes: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    other_than: tuple[str, ...] = ()
    words: str = ""
    when: When = When.ALWAYS
    action: Action
    otherwise: Action = Action.ANSWER
    pauses: bool = False
    scope: Scope
    source: str

    def fits(
        self,
        phase: Phase,
        code: int | None,
        enhanced: str | None,
        *,
        words: Collection[str],
        happened: Collection[When],
    ) -> bool:
        """Whether the rule is about such a reply; `words` are the kinds of words that its text has."""
        return (
            phase in self.at
            and self.when in happened
            and _fits_code(code, self.codes)
            and (not self.enhanced or any(fits_enhanced(enhanced, each) for each in self.enhanced))
            and not any(fits_enhanced(enhanced, each) for each in self.other_than)
            and (not self.words or self.words in words)
        )


def _fits_code(code: int | None, patterns: tuple[str, ...]) -> bool:
    if code is None:
        return not patterns
    return any(str(code).startswith(each) for each in patterns)


SENDER_CODES = (
    "5.7.26",  # Google: no SPF and no DKIM of the sender's domain pass
    "5.7.27",  # Google: SPF
    "5.7.30",  # Google: DKIM
    "5.7.40",  # Google: no DMARC record
    "5.7.60",  # Microsoft: no permission to send as this sender
)
"""Those of them that are about the sender: where a letter chose its own they are not about the account."""

_SPOKEN: Final = ("421", "450", "451", "452", "5")
"""Codes beside which words are looked at. 432 and 454 say by themselves that it is too much."""

_OF_A_MAILBOX: Final = ("x.2.1", "x.2.2", "x.2.3", "x.2.4")
"""RFC 3463 §3.3: whatever the words are, the mailbox is meant. Not so by x.2.0, which Microsoft says of its
senders."""


def _by_words(
    name: str, source: str, *, otherwise: Action = Action.DEFER, other_than: tuple[str, ...] = ()
) -> Rule:
    """A rule about the kind of words that has its name: the account's fault, whatever the code says.

    It holds the relay. `DEFER`: where others are taken it may be the recipient's domain that the relay does
    not serve, so that this one waits by its schedule, and holds up nobody.
    """
    return Rule(
        name=name,
        at=ANYWHERE,
        codes=_SPOKEN,
        other_than=other_than,
        words=name,
        action=Action.HOLD,
        otherwise=otherwise,
        scope=Scope.SENDER,
        source=source,
    )


RULES: tuple[Rule, ...] = (
    # --- without a reply -------------------------------------------------------------------------
    Rule(
        name="own-path-untaken",
        at=(MAIL,),
        enhanced=("5.1.7", "5.6.7"),
        when=When.OWN_PATH,
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="our own check: the relay cannot take a reverse-path that this letter alone has",
    ),
    Rule(
        name="sender-untaken",
        at=(MAIL,),
        enhanced=("5.1.7", "5.6.7"),
        action=Action.HOLD,
        otherwise=Action.HOLD,
        scope=Scope.SENDER,
        source="our own check: every letter has this reverse-path, and the relay cannot take it",
    ),
    Rule(
        name="own-check",
        at=ANYWHERE,
        enhanced=("5.x.x",),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="our own check of the address, the size or RequireTLS against what the relay offers",
    ),
    Rule(
        name="lost-later",
        at=ANYWHERE,
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="the connection was lost before the dot, and had carried letters",
    ),
    Rule(
        name="lost-at-mail",
        at=(MAIL,),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.RELAY,
        source="a session that is lost at its first word is one that the relay does not want",
    ),
    Rule(
        name="lost",
        at=ANYWHERE,
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="lost in the middle of the first letter: the relay's fault, or something in the letter",
    ),
    # --- about the message -----------------------------------------------------------------------
    Rule(
        name="message",
        at=ANYWHERE,
        codes=("4", "5"),
        enhanced=("x.3.4", "x.6.x", "x.2.3"),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="RFC 3463 §3.3, §3.4, §3.7: too large for the mailbox or the system; content, conversion",
    ),
    Rule(
        name="size",
        at=(MAIL,),
        codes=("552",),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="RFC 1870 §6.1: the declared size is more than the relay takes",
    ),
    Rule(
        name="requiretls",
        at=ANYWHERE,
        codes=("5",),
        enhanced=("5.7.10", "5.7.30"),
        when=When.TLS,
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 8689 §4.2.1: beyond the relay there is no way with TLS as the letter wants it",
    ),
    # --- about a sender that the letter alone has ------------------------------------------------
    # Each of these letters would stop all others else, and there may be thousands of them in a row.
    Rule(
        name="own-path",
        at=ANYWHERE,
        codes=("4", "5"),
        enhanced=("x.1.7", "x.1.8"),
        when=When.OWN_PATH,
        action=Action.DEFER,
        scope=Scope.MESSAGE,
        source="RFC 3463 §3.2: the sender's address, which is the letter's own",
    ),
    Rule(
        name="own-path-login",
        at=(MAIL, RCPT),
        codes=("553",),
        enhanced=("5.7.1",),
        when=When.OWN_PATH,
        action=Action.DEFER,
        scope=Scope.MESSAGE,
        source="Postfix reject_sender_login_mismatch, of a sender's address that is the letter's own",
    ),
    Rule(
        name="own-path-verified",
        at=ANYWHERE,
        codes=_SPOKEN,
        words="sender",
        when=When.OWN_PATH,
        action=Action.DEFER,
        scope=Scope.MESSAGE,
        source="Exim verify = sender, of a sender's address that is the letter's own",
    ),
    Rule(
        name="own-sender",
        at=ANYWHERE,
        codes=("5",),
        enhanced=SENDER_CODES,
        when=When.OWN_SENDER,
        action=Action.DEFER,
        scope=Scope.MESSAGE,
        source="Google, Microsoft: a sender, or its domain, that is the letter's own; see SENDER_CODES",
    ),
    # --- about the transaction's size -----------------------------------------------------------
    Rule(
        name="too-many-taken",
        at=(RCPT,),
        codes=("4", "5"),
        enhanced=("x.5.3",),
        when=When.TAKEN,
        action=Action.SPLIT,
        scope=Scope.TRANSACTION,
        source="RFC 3463 §3.6, RFC 5321 §4.5.3.1.10: too many recipients; Postfix, Google 452 4.5.3",
    ),
    Rule(
        name="too-many-room",
        at=(RCPT,),
        codes=("452", "552"),
        enhanced=(NONE,),
        when=When.TAKEN,
        action=Action.SPLIT,
        scope=Scope.TRANSACTION,
        source="RFC 5321 §4.5.3.1.10: too many recipients; 552 in the words of old",
    ),
    Rule(
        name="too-many-late",
        at=(DATA, DOT),
        codes=("4", "5"),
        enhanced=("x.5.3",),
        action=Action.SPLIT,
        scope=Scope.TRANSACTION,
        source="RFC 3463 §3.6: too many recipients, said late; Google 550 5.5.3",
    ),
    # --- about the session -----------------------------------------------------------------------
    Rule(
        name="rate-of-sender",
        at=ANYWHERE,
        codes=("4",),
        enhanced=("4.7.28",),
        action=Action.HOLD,
        scope=Scope.RELAY,
        source="Google: too much from our address or domain; another session is no remedy",
    ),
    Rule(
        name="session-over",
        at=ANYWHERE,
        codes=("421", "530"),
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="RFC 5321 §3.8, RFC 4954 §6: the relay ends the session, or has forgotten the login",
    ),
    Rule(
        name="mail-own-terms",
        at=(MAIL,),
        codes=("501", "504", "553", "555"),
        when=When.OWN,
        action=Action.WEIGH,
        scope=Scope.MESSAGE,
        source="RFC 5321 §4.2.2: about the address or the parameters of MAIL, of which some are the letter's",
    ),
    Rule(
        name="session-full",
        at=(MAIL,),
        codes=("4", "5"),
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="relays that take so many messages a session: 452 4.4.5, 451, 530, 554; a fresh one tells",
    ),
    Rule(
        name="session-full-data",
        at=(DATA,),
        codes=("4", "503"),
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="the same, said at DATA",
    ),
    # --- about our account -----------------------------------------------------------------------
    Rule(
        name="login",
        at=ANYWHERE,
        codes=ACCOUNT_REPLIES,
        action=Action.HOLD,
        otherwise=Action.HOLD,
        scope=Scope.SENDER,
        source="RFC 4954 §6: about the login",
    ),
    Rule(
        name="account",
        at=ANYWHERE,
        codes=("4", "5"),
        enhanced=ACCOUNT_CODES,
        action=Action.HOLD,
        otherwise=Action.HOLD,
        scope=Scope.SENDER,
        source="the providers' own pages, see ACCOUNT_CODES",
    ),
    _by_words(
        "limit",
        "cPanel, Plesk, DirectAdmin, policyd, GoDaddy, IONOS: so many letters an hour or a day",
        otherwise=Action.HOLD,
        other_than=_OF_A_MAILBOX,
    ),
    _by_words(
        "rate",
        "HestiaCP, Mailu, OVH, Hostinger: too many letters",
        otherwise=Action.HOLD,
        other_than=_OF_A_MAILBOX,
    ),
    _by_words("relaying", "Exim, sendmail, Postfix, Exchange, qmail: nothing is relayed for us"),
    _by_words("authentication", "SmarterMail, Exchange: what 530 says (RFC 4954 §6), with another code"),
    _by_words("suspended", "cPanel, Mail.ru: the account may not send"),
    _by_words("sender", "Exim verify = sender: the sender's address is looked for, and not found"),
    Rule(
        name="rights",
        at=ANYWHERE,
        codes=_SPOKEN,
        words="rights",
        action=Action.WEIGH,
        otherwise=Action.DEFER,
        scope=Scope.SENDER,
        source="SES: what the user may do, to anybody or to one whose address is an identity of the account",
    ),
    Rule(
        name="account-quota",
        at=(DATA, DOT),
        codes=("554",),
        enhanced=("5.2.0",),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.SENDER,
        source="Microsoft: what the account may send is used up, or it may not send as this sender",
    ),
    # --- about the relay -------------------------------------------------------------------------
    Rule(
        name="mail-own",
        at=(MAIL,),
        codes=("5",),
        when=When.OWN,
        action=Action.WEIGH,
        scope=Scope.MESSAGE,
        source="at MAIL the letter said something of its own: a reverse-path, notifications, RequireTLS",
    ),
    Rule(
        name="mail",
        at=(MAIL,),
        codes=("4", "5"),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.RELAY,
        source="at MAIL nothing is known of the letter but its size; 421 4.3.2, 452 4.3.1, 550, 553, 554",
    ),
    Rule(
        name="throttled",
        at=ANYWHERE,
        codes=("432", "454"),
        action=Action.HOLD,
        pauses=True,
        scope=Scope.RELAY,
        source="Microsoft 432: too many connections; SES 454: throttled, said at the dot; Postfix 454 4.7.1",
    ),
    # --- about the recipient ---------------------------------------------------------------------
    Rule(
        name="rcpt-others-taken",
        at=(RCPT,),
        codes=("5",),
        when=When.TAKEN,
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="others were taken with the same sender, in the same session",
    ),
    Rule(
        name="sender-address",
        at=(RCPT, DATA, DOT),
        codes=("4", "5"),
        enhanced=("x.1.7", "x.1.8"),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.SENDER,
        source="RFC 3463 §3.2: the sender's address; Postfix says it at RCPT",
    ),
    Rule(
        name="sender-login",
        at=(RCPT,),
        codes=("553",),
        enhanced=("5.7.1",),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.SENDER,
        source="Postfix reject_sender_login_mismatch: the sender's address is not owned by the user",
    ),
    Rule(
        name="greeting",
        at=(RCPT, DATA, DOT),
        codes=("504",),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.SENDER,
        source="Postfix reject_non_fqdn_helo_hostname: our name in EHLO, see SMTP_HELO_NAME",
    ),
    Rule(
        name="mailbox",
        at=(RCPT, DATA, DOT),
        codes=("4", "5"),
        enhanced=("x.1.x", "x.2.x"),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 3463 §3.2, §3.3: the address, the mailbox",
    ),
    Rule(
        name="way",
        at=(RCPT,),
        codes=("4", "5"),
        enhanced=("x.4.x",),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 3463 §3.5: the way to the recipient; Microsoft 550 5.4.1",
    ),
    Rule(
        name="no-mailbox",
        at=(RCPT,),
        codes=("550", "551", "553", "501", "552"),
        enhanced=(NONE,),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 5321 §4.2.2, §4.3.2: no such mailbox, not here, name not allowed, full",
    ),
    Rule(
        name="session-refused",
        at=(RCPT,),
        codes=("421",),
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="RFC 5321 §3.8: the end of a session that had not carried anything",
    ),
    Rule(
        name="relay-state",
        at=(RCPT,),
        codes=("4",),
        enhanced=("4.3.x",),
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="RFC 3463 §3.4: the relay's own state; it may be a recipient's domain's",
    ),
    Rule(
        name="recipient-later",
        at=(RCPT,),
        codes=("4",),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 5321 §4.2.2: not now; greylisting (RFC 6647) is by recipient",
    ),
    # --- nobody can tell -------------------------------------------------------------------------
    Rule(
        name="dot-size",
        at=(DOT,),
        codes=("552",),
        enhanced=(NONE,),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="RFC 5321 §4.2.2: too much",
    ),
    Rule(
        name="unclear",
        at=(RCPT, DATA, DOT),
        codes=("4", "5"),
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="554, 5.7.1 and their like: content, policy, or the account (SES: sender not verified)",
    ),
)

_AT_ITS_WORD = Rule(
    name="at-its-word",
    at=(),
    action=Action.ANSWER,
    scope=Scope.RECIPIENT,
    source="accepted, uncertain, or said by no rule",
)

_SESSION = Rule(
    name="session",
    at=(Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.STARTTLS, Phase.AUTH),
    action=Action.HOLD,
    otherwise=Action.HOLD,
    scope=Scope.RELAY,
    source="no letter is taken before there is a session: it is tried again with growing pauses",
)


NOTHING: Final[frozenset[str]] = frozenset()
"""The kinds of words where the relay said none."""


def rule_for(result: Result, *, taken: bool, carried: bool, known: tuple[When, ...] = ()) -> Rule:
    """The default that fits what was said about a recipient who was not accepted.

    `taken`: the relay took somebody else's RCPT in the same transaction. `carried`: it took letters before in
    the same session. `known` is what else is so, of the letter itself.
    """
    if result.verdict is Verdict.ACCEPTED or result.verdict is Verdict.UNCERTAIN:
        return _AT_ITS_WORD
    happened = [When.ALWAYS, *known]
    happened += [When.TAKEN] * taken
    happened += [When.CARRIED] * carried
    code = _reply_code(result)
    words = NOTHING if code is None else kinds_of(own_words(result))
    return _rule(result.phase, code, result.enhanced, words, tuple(happened))


def _reply_code(result: Result) -> int | None:
    """The code of a refusal; a reply that made no sense ended the session: lost, in the relay's words."""
    return result.code if result.code is not None and result.code >= 400 else None


@lru_cache(maxsize=1024)  # a relay says the same few things thousands of times
def _rule(
    phase: Phase, code: int | None, enhanced: str | None, words: frozenset[str], happened: tuple[When, ...]
) -> Rule:
    if phase in _SESSION.at:
        return _SESSION
    for rule in RULES:
        if rule.fits(phase, code, enhanced, words=words, happened=happened):
            return rule
    return _AT_ITS_WORD


def decide(
    rules: Sequence[ReplyRule],
    result: Result,
    *,
    taken: bool = False,
    carried: bool = False,
    known: tuple[When, ...] = (),
) -> Decision:
    """What is done about what was said of a recipient who was not accepted: by `rules`, else by the defaults.

    `rules` are a relay's own, the file's before the preset's. A `fail` of theirs gives way to a default by
    which the same reply is about the account or the relay. The rest is as for `rule_for`.
    """
    default = rule_for(result, taken=taken, carried=carried, known=known)
    code = _reply_code(result)
    usual = _default(default, refusals_needed(result) if default.action is Action.ANSWER else 0)
    told = result.verdict is Verdict.DEFERRED or result.verdict is Verdict.REFUSED
    if not rules or code is None or not told:
        return usual
    text = own_words(result)
    found = first_fit(rules, result.phase, code, result.enhanced, text)
    if found is None or (found.action is Action.FAIL and default.action is Action.HOLD):
        return usual
    # That others are taken tells nothing of a sender that they do not have, nor of a rate.
    others_alike = found.scope is not Scope.SENDER or When.OWN_SENDER not in known
    return decided(
        found,
        code,
        result.enhanced,
        text,
        blames_all=default.action is Action.HOLD,
        doubted=default.otherwise is not Action.HOLD and not default.pauses and others_alike,
    )


@lru_cache(maxsize=1024)
def _default(rule: Rule, refusals: int) -> Decision:
    """What a default says; `refusals` as for `mailsender.suppression.rules.refusals_needed`."""
    if rule is _AT_ITS_WORD:
        return Decision(rule="", action=rule.action, otherwise=rule.otherwise, scope=rule.scope)
    return Decision(
        rule=DEFAULT + rule.name,
        action=rule.action,
        otherwise=rule.otherwise,
        scope=rule.scope,
        counts=rule.action not in {Action.HOLD, Action.RENEW, Action.SPLIT},
        pauses=rule.pauses,
        suppress=Suppress(refusals),
        source=rule.source,
    )


RULED: Final = frozenset({Action.WAIT, Action.SLOW, Action.SWITCH, Action.STOP, Action.RETRY})
"""What rules alone may say, and by which a recipient is tried again: see `mailsender.sending.orders`."""


def as_deferred(result: Result) -> Result:
    """The same words, with another try to come."""
    return result if result.verdict is Verdict.DEFERRED else _with(result, Verdict.DEFERRED, result.rule)


def as_refused(result: Result) -> Result:
    """The same words, for good."""
    return result if result.verdict is Verdict.REFUSED else _with(result, Verdict.REFUSED, result.rule)


def ruled(result: Result, rule: str) -> Result:
    """The same, with the name of the rule that decided."""
    return result if result.rule == rule else _with(result, result.verdict, rule)


def _with(result: Result, verdict: Verdict, rule: str) -> Result:
    return Result(
        verdict=verdict,
        phase=result.phase,
        code=result.code,
        enhanced=result.enhanced,
        text=result.text,
        rule=rule,
    )
