"""Google: the SMTP relay of Workspace (smtp-relay.gmail.com) and single accounts (smtp.gmail.com)."""

from __future__ import annotations

from mailsender.routing.presets.preset import (
    AUTH,
    HALF_FOR_LONGER,
    HOUR,
    MINUTE,
    Limits,
    Preset,
    Rules,
)
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Suppress

_PAGE = "Google: Gmail SMTP errors and codes (answer 3726730)"
_WAIT = "; the time is ours"


def _common(preset: str, *, limited: Scope) -> tuple[ReplyRule, ...]:
    """The rules of both; `limited` is who has so many letters a day."""
    rule = Rules(preset)
    return (
        rule(
            "same-message-id",
            4,
            enhanced=("4.7.28",),
            text="Message-ID",
            action=Action.WAIT,
            scope=Scope.RECIPIENT,
            seconds=HOUR,
            source=_PAGE + ": we repeat ourselves; its words, and the time, are not known",
            verified=False,
        ),
        rule(
            "rate-of-domain",
            4,
            enhanced=("4.7.28",),
            pattern="DKIM domain|SPF domain|URL domain",
            action=Action.SLOW,
            scope=Scope.SENDER,
            seconds=MINUTE,
            then=HALF_FOR_LONGER,
            source=_PAGE + "; its words are as others report; KumoMTA shaping.toml slows for 30 minutes",
            verified=False,
        ),
        rule(
            "rate-of-address",
            4,
            enhanced=("4.7.28",),
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=MINUTE,
            then=HALF_FOR_LONGER,
            source=_PAGE + "; KumoMTA shaping.toml slows for 30 minutes",
        ),
        rule(
            "unauthenticated",
            421,
            enhanced=("4.7.26", "4.7.27", "4.7.30", "4.7.32", "5.7.32"),
            action=Action.SLOW,
            scope=Scope.SENDER,
            seconds=MINUTE,
            then=HALF_FOR_LONGER,
            source=_PAGE + ", as sisimai quotes it: SPF, DKIM, their alignment; rate limited" + _WAIT,
            verified=False,
        ),
        rule(
            "peak",
            450,
            enhanced=("4.2.1",),
            text="Peak SMTP relay limit",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=MINUTE,
            then=HALF_FOR_LONGER,
            source=_PAGE + _WAIT,
        ),
        rule(
            "recipient-too-quickly",
            450,
            enhanced=("4.2.1",),
            pattern="too quickly|at a rate",
            action=Action.WAIT,
            scope=Scope.RECIPIENT,
            seconds=10 * MINUTE,
            source=_PAGE + _WAIT,
        ),
        rule(
            "mailbox-full",
            452,
            enhanced=("4.2.2",),
            action=Action.WAIT,
            scope=Scope.RECIPIENT,
            seconds=4 * HOUR,
            source=_PAGE + _WAIT,
        ),
        rule(
            "mailbox-full-inactive",
            552,
            enhanced=("5.2.2",),
            action=Action.FAIL,
            scope=Scope.RECIPIENT,
            suppress=Suppress.SECOND,
            source=_PAGE,
        ),
        rule(
            "too-many-recipients",
            452,
            enhanced=("4.5.3",),
            action=Action.SPLIT,
            scope=Scope.RECIPIENT,
            source=_PAGE,
        ),
        rule(
            "daily-limit-customer",
            550,
            text="Daily SMTP relay limit exceeded for customer",
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=HOUR,
            source="Google: SMTP relay error messages (answer 6140680)",
        ),
        rule(
            "daily-limit",
            550,
            enhanced=("5.4.5",),
            action=Action.SWITCH,
            scope=limited,
            seconds=HOUR,
            source=_PAGE + ": of a user, any 24 hours, tried hourly",
        ),
        rule(
            "too-many-logins",
            454,
            enhanced=("4.7.0",),
            text="Too many login attempts",
            action=Action.WAIT,
            scope=Scope.RELAY,
            seconds=10 * MINUTE,
            source=_PAGE + _WAIT,
        ),
        rule(
            "connection-expired",
            421,
            enhanced=("4.7.0",),
            text="Connection expired",
            action=Action.RETRY,
            scope=Scope.RELAY,
            source=_PAGE + ": another session will do",
        ),
        rule(
            "login",
            534,
            535,
            enhanced=("5.7.8", "5.7.9", "5.7.14", "5.7.80", "5.7.90"),
            action=Action.STOP,
            scope=Scope.RELAY,
            source=_PAGE + ", which prints .80 and .90",
        ),
        rule(
            "login-other", 530, 534, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source="RFC 4954 §6"
        ),
        rule(
            "sender-domain",
            550,
            enhanced=("5.7.26", "5.7.27", "5.7.30", "5.7.40"),
            action=Action.STOP,
            scope=Scope.SENDER,
            source=_PAGE + ": SPF, DKIM, DMARC",
        ),
    )


GOOGLE_RELAY = Preset(
    name="google-relay",
    title="Google Workspace, SMTP relay",
    rules=_common("google-relay", limited=Scope.SENDER),
    limits=Limits(
        quota="10000/24h",
        max_recipients=100,
        source="Google: SMTP relay error messages (answer 6140680): 100 recipients a transaction;"
        " 10,000 letters of a user in any 24 hours, by copies of its page",
    ),
    open_questions="how long to wait after each reply; the limit of the whole customer; that a letter's"
    " sender is the user whose limit is meant",
)

GOOGLE_USER = Preset(
    name="google-user",
    title="Google, one account",
    rules=_common("google-user", limited=Scope.RELAY),
    limits=Limits(
        quota="2000/24h",
        max_recipients=100,
        source="Google: Gmail sending limits in Workspace (answer 166852): 2,000 a day, 500 on trial,"
        " 100 recipients a message over SMTP",
        verified=True,
    ),
    open_questions="how long to wait after each reply; accounts without Workspace have lower limits",
)
