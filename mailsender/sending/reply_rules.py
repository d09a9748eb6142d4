"""What a relay's reply means beyond its first digit: whom it is about, and what is to be done.

Data, and pure. `RULES` is read from its top; the first rule that fits holds. A rule fits by the stage, the
reply's code and its enhanced code, and by what happened before: whether the relay took somebody in the same
transaction, or took letters earlier in the same session. Its action is what to do, its scope says for whom.

The basic code decides and the enhanced code refines it: relays leave enhanced codes out, or write them
freely. Texts are not looked at. What is said here without a reply (`code` is None) has rules of its own, so
that our own words are never taken for the relay's.

An account's or a relay's fault must never fail a letter, and many relays say it in words that could be about
the letter: a plain 554. Such a reply is `WEIGH`: what it means is told by what the relay says next. It is
about the letter if the relay takes another one after it, and about the relay if it says the same of
everybody. `otherwise` is what a reply means once it is known that others are taken.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from mailsender.model.letter import Phase, Result, Verdict


class Action(StrEnum):
    """What is to be done about a reply."""

    ANSWER = "answer"  # what its first digit says: 4xx later, 5xx never
    DEFER = "defer"  # later, although its first digit says never; it holds up nobody else
    SPLIT = "split"  # in a further transaction, at once
    RENEW = "renew"  # over another session, at once
    HOLD = "hold"  # no letter until the relay takes one again; nothing is counted
    WEIGH = "weigh"  # what it means is told by what the relay says of others


class Scope(StrEnum):
    """Whom a reply is about."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    TRANSACTION = "transaction"
    SESSION = "session"
    SENDER = "sender"  # our account, our address, our greeting: the same for all letters
    RELAY = "relay"


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
NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row. `codes` are codes or first digits; no codes: it fits where there was no reply, and only there.

    `enhanced` are enhanced codes with `x` for any number, and `-` for none; no entry: any or none.
    """

    at: tuple[Phase, ...]
    codes: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    when: When = When.ALWAYS
    action: Action
    otherwise: Action = Action.ANSWER
    scope: Scope
    source: str

    def fits(
        self, phase: Phase, code: int | None, enhanced: str | None, *, happened: Collection[When]
    ) -> bool:
        """Whether the rule is about such a reply."""
        return (
            phase in self.at
            and self.when in happened
            and _fits_code(code, self.codes)
            and (not self.enhanced or any(_fits_enhanced(enhanced, each) for each in self.enhanced))
        )


def _fits_code(code: int | None, patterns: tuple[str, ...]) -> bool:
    if code is None:
        return not patterns
    return any(str(code).startswith(each) for each in patterns)


def _fits_enhanced(enhanced: str | None, pattern: str) -> bool:
    if enhanced is None:
        return pattern == NONE
    numbers, wanted = enhanced.split("."), pattern.split(".")
    return len(numbers) == len(wanted) and all(w in {"x", n} for n, w in zip(numbers, wanted, strict=True))


ACCOUNT_CODES = (
    "x.4.5",  # Google: daily sending limit, relay limit
    "5.7.26",  # Google: no SPF and no DKIM of the sender's domain pass
    "5.7.27",  # Google: SPF
    "5.7.30",  # Google: DKIM
    "5.7.40",  # Google: no DMARC record
    "5.7.233",  # Microsoft: the tenant's limit of external recipients
    "5.2.251",  # Microsoft: 5.2.251 to .255 are repeated errors of the account
    "5.2.252",
    "5.2.253",
    "5.2.254",
    "5.2.255",
    "5.7.60",  # Microsoft: no permission to send as this sender
    "5.7.57",  # Microsoft: the client has not logged in
    "5.7.139",  # Microsoft: basic authentication is off
    "x.7.8",  # RFC 4954 §6: credentials invalid
    "x.7.9",  # RFC 4954 §6: the mechanism is too weak
    "5.7.14",  # Google: log in with a browser first
)
"""Enhanced codes by which a relay says that it is the account's or the sender's fault."""

SENDER_CODES = (
    "5.7.26",  # Google: no SPF and no DKIM of the sender's domain pass
    "5.7.27",  # Google: SPF
    "5.7.30",  # Google: DKIM
    "5.7.40",  # Google: no DMARC record
    "5.7.60",  # Microsoft: no permission to send as this sender
)
"""Those of them that are about the sender: where a letter chose its own they are not about the account."""

RULES: tuple[Rule, ...] = (
    # --- without a reply -------------------------------------------------------------------------
    Rule(
        at=(MAIL,),
        enhanced=("5.1.7", "5.6.7"),
        when=When.OWN_PATH,
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="our own check: the relay cannot take a reverse-path that this letter alone has",
    ),
    Rule(
        at=(MAIL,),
        enhanced=("5.1.7", "5.6.7"),
        action=Action.HOLD,
        otherwise=Action.HOLD,
        scope=Scope.SENDER,
        source="our own check: every letter has this reverse-path, and the relay cannot take it",
    ),
    Rule(
        at=ANYWHERE,
        enhanced=("5.x.x",),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="our own check of the address, the size or RequireTLS against what the relay offers",
    ),
    Rule(
        at=ANYWHERE,
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="the connection was lost before the dot, and had carried letters",
    ),
    Rule(
        at=(MAIL,),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.RELAY,
        source="a session that is lost at its first word is one that the relay does not want",
    ),
    Rule(
        at=ANYWHERE,
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="lost in the middle of the first letter: the relay's fault, or something in the letter",
    ),
    # --- about the message -----------------------------------------------------------------------
    Rule(
        at=ANYWHERE,
        codes=("4", "5"),
        enhanced=("x.3.4", "x.6.x", "x.2.3"),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="RFC 3463 §3.3, §3.4, §3.7: too large for the mailbox or the system; content, conversion",
    ),
    Rule(
        at=(MAIL,),
        codes=("552",),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="RFC 1870 §6.1: the declared size is more than the relay takes",
    ),
    Rule(
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
        at=ANYWHERE,
        codes=("4", "5"),
        enhanced=("x.1.7", "x.1.8"),
        when=When.OWN_PATH,
        action=Action.DEFER,
        scope=Scope.MESSAGE,
        source="RFC 3463 §3.2: the sender's address, which is the letter's own",
    ),
    Rule(
        at=(MAIL, RCPT),
        codes=("553",),
        enhanced=("5.7.1",),
        when=When.OWN_PATH,
        action=Action.DEFER,
        scope=Scope.MESSAGE,
        source="Postfix reject_sender_login_mismatch, of a sender's address that is the letter's own",
    ),
    Rule(
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
        at=(RCPT,),
        codes=("4", "5"),
        enhanced=("x.5.3",),
        when=When.TAKEN,
        action=Action.SPLIT,
        scope=Scope.TRANSACTION,
        source="RFC 3463 §3.6, RFC 5321 §4.5.3.1.10: too many recipients; Postfix, Google 452 4.5.3",
    ),
    Rule(
        at=(RCPT,),
        codes=("452", "552"),
        enhanced=(NONE,),
        when=When.TAKEN,
        action=Action.SPLIT,
        scope=Scope.TRANSACTION,
        source="RFC 5321 §4.5.3.1.10: too many recipients; 552 in the words of old",
    ),
    Rule(
        at=(DATA, DOT),
        codes=("4", "5"),
        enhanced=("x.5.3",),
        action=Action.SPLIT,
        scope=Scope.TRANSACTION,
        source="RFC 3463 §3.6: too many recipients, said late; Google 550 5.5.3",
    ),
    # --- about the session -----------------------------------------------------------------------
    Rule(
        at=ANYWHERE,
        codes=("4",),
        enhanced=("4.7.28",),
        action=Action.HOLD,
        scope=Scope.RELAY,
        source="Google: too much from our address or domain; another session is no remedy",
    ),
    Rule(
        at=ANYWHERE,
        codes=("421", "530"),
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="RFC 5321 §3.8, RFC 4954 §6: the relay ends the session, or has forgotten the login",
    ),
    Rule(
        at=(MAIL,),
        codes=("501", "504", "553", "555"),
        when=When.OWN,
        action=Action.WEIGH,
        scope=Scope.MESSAGE,
        source="RFC 5321 §4.2.2: about the address or the parameters of MAIL, of which some are the letter's",
    ),
    Rule(
        at=(MAIL,),
        codes=("4", "5"),
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="relays that take so many messages a session: 452 4.4.5, 451, 530, 554; a fresh one tells",
    ),
    Rule(
        at=(DATA,),
        codes=("4", "503"),
        when=When.CARRIED,
        action=Action.RENEW,
        scope=Scope.SESSION,
        source="the same, said at DATA",
    ),
    # --- about our account -----------------------------------------------------------------------
    Rule(
        at=ANYWHERE,
        codes=("530", "534", "535", "538"),
        action=Action.HOLD,
        otherwise=Action.HOLD,
        scope=Scope.SENDER,
        source="RFC 4954 §6: about the login",
    ),
    Rule(
        at=ANYWHERE,
        codes=("4", "5"),
        enhanced=ACCOUNT_CODES,
        action=Action.HOLD,
        otherwise=Action.HOLD,
        scope=Scope.SENDER,
        source="the providers' own pages, see ACCOUNT_CODES",
    ),
    Rule(
        at=(DATA, DOT),
        codes=("554",),
        enhanced=("5.2.0",),
        action=Action.HOLD,
        scope=Scope.SENDER,
        source="Microsoft: the account's recipients a day are used up",
    ),
    # --- about the relay -------------------------------------------------------------------------
    Rule(
        at=(MAIL,),
        codes=("5",),
        when=When.OWN,
        action=Action.WEIGH,
        scope=Scope.MESSAGE,
        source="at MAIL the letter said something of its own: a reverse-path, notifications, RequireTLS",
    ),
    Rule(
        at=(MAIL,),
        codes=("4", "5"),
        action=Action.HOLD,
        otherwise=Action.DEFER,
        scope=Scope.RELAY,
        source="at MAIL nothing is known of the letter but its size; 421 4.3.2, 452 4.3.1, 550, 553, 554",
    ),
    Rule(
        at=ANYWHERE,
        codes=("432", "454"),
        action=Action.HOLD,
        scope=Scope.RELAY,
        source="Microsoft 432: too many connections; SES 454: throttled, said at the dot; Postfix 454 4.7.1",
    ),
    # --- about the recipient ---------------------------------------------------------------------
    Rule(
        at=(RCPT,),
        codes=("5",),
        when=When.TAKEN,
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="others were taken with the same sender, in the same session",
    ),
    Rule(
        at=(RCPT, DATA, DOT),
        codes=("4", "5"),
        enhanced=("x.1.7", "x.1.8"),
        action=Action.HOLD,
        scope=Scope.SENDER,
        source="RFC 3463 §3.2: the sender's address; Postfix says it at RCPT",
    ),
    Rule(
        at=(RCPT,),
        codes=("553",),
        enhanced=("5.7.1",),
        action=Action.HOLD,
        scope=Scope.SENDER,
        source="Postfix reject_sender_login_mismatch: the sender's address is not owned by the user",
    ),
    Rule(
        at=(RCPT, DATA, DOT),
        codes=("504",),
        action=Action.HOLD,
        scope=Scope.SENDER,
        source="Postfix reject_non_fqdn_helo_hostname: our name in EHLO, see SMTP_HELO_NAME",
    ),
    Rule(
        at=(RCPT, DATA, DOT),
        codes=("4", "5"),
        enhanced=("x.1.x", "x.2.x"),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 3463 §3.2, §3.3: the address, the mailbox",
    ),
    Rule(
        at=(RCPT,),
        codes=("4", "5"),
        enhanced=("x.4.x",),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 3463 §3.5: the way to the recipient; Microsoft 550 5.4.1",
    ),
    Rule(
        at=(RCPT,),
        codes=("550", "551", "553", "501", "552"),
        enhanced=(NONE,),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 5321 §4.2.2, §4.3.2: no such mailbox, not here, name not allowed, full",
    ),
    Rule(
        at=(RCPT,),
        codes=("421",),
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="RFC 5321 §3.8: the end of a session that had not carried anything",
    ),
    Rule(
        at=(RCPT,),
        codes=("4",),
        enhanced=("4.3.x",),
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="RFC 3463 §3.4: the relay's own state; it may be a recipient's domain's",
    ),
    Rule(
        at=(RCPT,),
        codes=("4",),
        action=Action.ANSWER,
        scope=Scope.RECIPIENT,
        source="RFC 5321 §4.2.2: not now; greylisting (RFC 6647) is by recipient",
    ),
    # --- nobody can tell -------------------------------------------------------------------------
    Rule(
        at=(DOT,),
        codes=("552",),
        enhanced=(NONE,),
        action=Action.ANSWER,
        scope=Scope.MESSAGE,
        source="RFC 5321 §4.2.2: too much",
    ),
    Rule(
        at=(RCPT, DATA, DOT),
        codes=("4", "5"),
        action=Action.WEIGH,
        scope=Scope.RELAY,
        source="554, 5.7.1 and their like: content, policy, or the account (SES: sender not verified)",
    ),
)

_AT_ITS_WORD = Rule(
    at=(), action=Action.ANSWER, scope=Scope.RECIPIENT, source="accepted, uncertain, or said by no rule"
)


def rule_for(result: Result, *, taken: bool, carried: bool, known: tuple[When, ...] = ()) -> Rule:
    """The rule that fits what was said about a recipient who was not accepted.

    `taken`: the relay took somebody else's RCPT in the same transaction. `carried`: it took letters before in
    the same session. `known` is what else is so, of the letter itself.
    """
    if result.verdict is Verdict.ACCEPTED or result.verdict is Verdict.UNCERTAIN:
        return _AT_ITS_WORD
    code = result.code
    if code is not None and code < 400:
        code = None  # a reply that made no sense ended the session: lost, in the relay's words
    happened = [When.ALWAYS, *known]
    happened += [When.TAKEN] * taken
    happened += [When.CARRIED] * carried
    return _rule(result.phase, code, result.enhanced, tuple(happened))


@lru_cache(maxsize=1024)  # a relay says the same few things thousands of times
def _rule(phase: Phase, code: int | None, enhanced: str | None, happened: tuple[When, ...]) -> Rule:
    for rule in RULES:
        if rule.fits(phase, code, enhanced, happened=happened):
            return rule
    return _AT_ITS_WORD


def as_deferred(result: Result) -> Result:
    """The same words, with another try to come."""
    if result.verdict is Verdict.DEFERRED:
        return result
    return Result(
        verdict=Verdict.DEFERRED,
        phase=result.phase,
        code=result.code,
        enhanced=result.enhanced,
        text=result.text,
    )
