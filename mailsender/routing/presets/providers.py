"""Services that send for others, over SMTP: SendGrid, Mailgun, Postmark, MailerSend, Selectel."""

from __future__ import annotations

from mailsender.routing.presets.preset import AUTH, DAY, HOUR, MINUTE, Limits, Preset, Rules
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Suppress

_TWILIO = "Twilio: SMTP errors and troubleshooting"
_sendgrid, _mailgun, _postmark = Rules("sendgrid"), Rules("mailgun"), Rules("postmark")
_mailersend, _selectel = Rules("mailersend"), Rules("selectel")
_SELECTEL = "Selectel: SMTP dialog errors"


def _login(rule: Rules) -> ReplyRule:
    return rule("login", 530, 534, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source="RFC 4954 §6")


SENDGRID = Preset(
    name="sendgrid",
    title="SendGrid",
    rules=(
        _sendgrid(
            "credits",
            451,
            text="Maximum credits exceeded",
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=DAY,
            source=_TWILIO + ": a limit of the day; said at the login, too",
        ),
        _sendgrid(
            "hour",
            452,
            text="this hour",
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=HOUR,
            source=_TWILIO,
        ),
        _sendgrid(
            "sender-identity",
            5,
            text="does not match a verified Sender Identity",
            action=Action.STOP,
            scope=Scope.SENDER,
            source=_TWILIO + " has it as 403; 550 as others report it",
            verified=False,
        ),
        _login(_sendgrid),
    ),
    limits=Limits(
        letters_per_session=5000,
        source="SendGrid: integrating with the SMTP API: 5,000 a connection",
        verified=True,
    ),
)

MAILGUN = Preset(
    name="mailgun",
    title="Mailgun",
    rules=(
        _mailgun(
            "limit",
            421,
            text="limit exceeded",
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=HOUR,
            source="coopdevs/timeoverflow #820: recipient limit exceeded, try again after …; tried hourly",
            verified=False,
        ),
        _mailgun(
            "sandbox",
            text="Sandbox subdomains are for test purposes only",
            action=Action.RETRY,
            scope=Scope.RECIPIENT,
            source="swapmyvote #182, #891: the recipient is none of those that the sandbox may write to",
            verified=False,
        ),
        _mailgun(
            "not-allowed",
            pattern="domain .{0,70}is not allowed to send",
            action=Action.STOP,
            scope=Scope.RELAY,
            source="Monstarrrr/rebutify #162: the account is not active, or the domain not verified",
            verified=False,
        ),
        _mailgun(
            "not-logged-in",
            5,
            text="Relaying denied",
            action=Action.STOP,
            scope=Scope.RELAY,
            source="Mailgun: Why did I receive Relaying Denied: the session is not logged in",
        ),
        _login(_mailgun),
    ),
    limits=Limits(
        max_recipients=1000, source="Mailgun's API takes 1,000 recipients a message; of SMTP not verified"
    ),
    open_questions="Mailgun publishes no list of SMTP replies: limits and words are as users report them",
)

POSTMARK = Preset(
    name="postmark",
    title="Postmark",
    rules=(_login(_postmark),),
    limits=Limits(
        max_recipients=50, source="Postmark's API takes 50 recipients a message; of SMTP not verified"
    ),
    open_questions="Postmark publishes no SMTP replies; suppressed addresses are taken and told by a webhook",
)

MAILERSEND = Preset(
    name="mailersend",
    title="MailerSend",
    rules=(
        _mailersend(
            "rate",
            450,
            pattern="Too many requests|#MS-ST-G",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=MINUTE,
            source="listmonk #2509; the time is ours",
            verified=False,
        ),
        _login(_mailersend),
    ),
    open_questions="the limits of a plan",
)

SELECTEL = Preset(
    name="selectel",
    title="Selectel",
    rules=(
        _selectel(
            "rate",
            450,
            text="ratelimit exceeded",
            action=Action.WAIT,
            scope=Scope.RELAY,
            seconds=5 * MINUTE,
            source=_SELECTEL,
        ),
        _selectel(
            "stop-list",
            550,
            text="bounced check filter",
            action=Action.FAIL,
            scope=Scope.RECIPIENT,
            suppress=Suppress.SECOND,
            source=_SELECTEL,
        ),
        _selectel(
            "sender-domain",
            501,
            text="from domain not trusted",
            action=Action.STOP,
            scope=Scope.SENDER,
            source=_SELECTEL,
        ),
        _login(_selectel),
    ),
    limits=Limits(rates=("100/5m",), source=_SELECTEL + ": 100 in five minutes", verified=True),
)
