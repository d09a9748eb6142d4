"""Amazon SES, by its SMTP interface."""

from __future__ import annotations

from mailsender.routing.presets.preset import AUTH, HALF_FOR_A_WHILE, MINUTE, Limits, Preset, Rules
from mailsender.routing.reply_rule import Action, Scope

_QUOTAS = "AWS: SES developer guide, manage-sending-quotas-errors"
_CODES = "AWS: SES developer guide, smtp-response-codes"
_rule = Rules("ses")

SES = Preset(
    name="ses",
    title="Amazon SES",
    rules=(
        _rule(
            "rate",
            454,
            text="Maximum sending rate exceeded",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=5.0,  # "wait 5 seconds before retrying", as smtp-response-codes has it
            then=HALF_FOR_A_WHILE,
            source=_QUOTAS,
        ),
        _rule(
            "daily-quota",
            454,
            text="Daily message quota exceeded",
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=10 * MINUTE,  # it counts any 24 hours, so there may be room again soon
            source=_QUOTAS,
        ),
        _rule(
            "sender-not-verified",
            554,
            text="Email address is not verified",
            action=Action.STOP,
            scope=Scope.SENDER,
            source="AWS: SES developer guide, troubleshoot-error-messages",
        ),
        _rule(
            "connections",
            421,
            text="Too many concurrent SMTP connections",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=30.0,
            source=_CODES,
        ),
        _rule(
            "login-later",
            454,
            at=AUTH,
            action=Action.WAIT,
            scope=Scope.RELAY,
            seconds=MINUTE,
            source=_CODES + ": 454 Temporary authentication failure; the time is ours",
            verified=False,
        ),
        _rule("login", 530, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source=_CODES),
        _rule(
            "paused",
            554,
            text="Sending paused for this account",
            action=Action.STOP,
            scope=Scope.RELAY,
            source="as others report it",
            verified=False,
        ),
    ),
    limits=Limits(
        max_recipients=50,
        rate_of_recipients=True,
        quota_of_recipients=True,
        exact=True,
        source="AWS: 50 recipients a message; rate and quota are each account's own, and count recipients",
    ),
    open_questions="the words for a paused account; limits are each account's own. What a user without"
    " rights is told is left to the defaults: it may be about one recipient, whose address is an identity of"
    " the account (ministryofjustice/analytical-platform #6944). In the sandbox the address that is not"
    " verified may be the recipient's",
)
