"""Replies that providers are known to give, and what is to be done about each; for tests and the proof."""

from __future__ import annotations

from typing import Final, NamedTuple

from mailsender.routing.reply_rule import SCOPES, Action, Scope

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WAIT, SLOW, SWITCH, SPLIT, STOP, FAIL, RETRY = (
    Action.WAIT,
    Action.SLOW,
    Action.SWITCH,
    Action.SPLIT,
    Action.STOP,
    Action.FAIL,
    Action.RETRY,
)
RECIPIENT, DESTINATION, SENDER, RELAY = SCOPES


class Said(NamedTuple):
    """A reply of the provider with that preset at a stage: what is to be done, about whom, for how long."""

    preset: str
    reply: str
    stage: str
    action: Action
    scope: Scope
    seconds: float


_GOOGLE = ("google-relay", "google-user")

_SAID: Final[tuple[tuple[str, str, str, Action, Scope, float], ...]] = (
    # preset, reply, stage, what is to be done, to whom, for how many seconds
    ("ses", "454 Throttling failure: Maximum sending rate exceeded", "dot", SLOW, RELAY, 5.0),
    ("ses", "454 Throttling failure: Maximum sending rate exceeded.", "data", SLOW, RELAY, 5.0),
    ("ses", "454 Throttling failure: Daily message quota exceeded", "dot", SWITCH, RELAY, 10 * MINUTE),
    (
        "ses",
        "554 Message rejected: Email address is not verified. The following identities failed the check in"
        " region EU-WEST-1: no-reply@example.com",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    ("ses", "421 Too many concurrent SMTP connections", "greeting", SLOW, RELAY, 30.0),
    ("ses", "454 Temporary authentication failure", "auth", WAIT, RELAY, MINUTE),
    ("ses", "535 Authentication Credentials Invalid", "auth", STOP, RELAY, HOUR),
    ("ses", "530 Authentication required", "auth", STOP, RELAY, HOUR),
    ("ses", "554 Sending paused for this account. Please contact AWS.", "dot", STOP, RELAY, HOUR),
    (
        "google",
        "421 4.7.28 Gmail has detected an unusual rate of email with the same Message-ID header",
        "dot",
        WAIT,
        RECIPIENT,
        HOUR,
    ),
    (
        "google",
        "421 4.7.28 Gmail has detected an unusual rate of email originating from your DKIM domain",
        "dot",
        SLOW,
        SENDER,
        MINUTE,
    ),
    (
        "google",
        "421 4.7.28 [192.0.2.1] Our system has detected an unusual rate of unsolicited mail originating from"
        " your IP address. Please visit https://support.google.com/mail/?p=UnsolicitedRateLimitError",
        "dot",
        SLOW,
        RELAY,
        MINUTE,
    ),
    ("google", "421 4.7.28 originating from your IP Netblock", "mail", SLOW, RELAY, MINUTE),
    (
        "google",
        "421 4.7.26 This mail has been rate limited because it is unauthenticated. Gmail requires all senders"
        " to authenticate with either SPF or DKIM.",
        "dot",
        SLOW,
        SENDER,
        MINUTE,
    ),
    ("google", "421 4.7.27 Your email has been rate limited because SPF", "dot", SLOW, SENDER, MINUTE),
    ("google", "421 4.7.30 Your email has been rate limited because DKIM", "dot", SLOW, SENDER, MINUTE),
    (
        "google",
        "421 4.7.32 Your email has been rate limited because the From: header (RFC5322) in this message isn't"
        " aligned with either the authenticated SPF or DKIM organizational domain.",
        "dot",
        SLOW,
        SENDER,
        MINUTE,
    ),
    (
        "google",
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
        "rcpt",
        WAIT,
        RECIPIENT,
        10 * MINUTE,
    ),
    (
        "google",
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional",
        "rcpt",
        WAIT,
        RECIPIENT,
        10 * MINUTE,
    ),
    ("google", "450 4.2.1 Peak SMTP relay limit exceeded for customer.", "mail", SLOW, RELAY, MINUTE),
    ("google", "452 4.2.2 The recipient's inbox is out of storage space.", "rcpt", WAIT, RECIPIENT, 4 * HOUR),
    ("google", "552 5.2.2 The recipient's inbox is out of storage and inactive.", "rcpt", FAIL, RECIPIENT, 0),
    ("google", "452 4.5.3 Your message has too many recipients.", "rcpt", SPLIT, RECIPIENT, 0),
    ("google-relay", "550 5.4.5 Daily user sending limit exceeded.", "dot", SWITCH, SENDER, HOUR),
    ("google-relay", "550 5.4.5 Daily SMTP relay limit exceeded for user.", "rcpt", SWITCH, SENDER, HOUR),
    ("google-user", "550 5.4.5 Daily user sending limit exceeded.", "dot", SWITCH, RELAY, HOUR),
    ("google", "550 5.7.1 Daily SMTP relay limit exceeded for customer.", "dot", SWITCH, RELAY, HOUR),
    (
        "google",
        "454 4.7.0 Too many login attempts, please try again later.",
        "auth",
        WAIT,
        RELAY,
        10 * MINUTE,
    ),
    ("google", "421 4.7.0 Connection expired, try reconnecting.", "mail", RETRY, RELAY, 0),
    ("google", "535 5.7.8 Username and Password not accepted.", "auth", STOP, RELAY, HOUR),
    ("google", "534 5.7.9 Application-specific password required.", "auth", STOP, RELAY, HOUR),
    ("google", "534 5.7.14 Please log in through your web browser.", "auth", STOP, RELAY, HOUR),
    ("google", "535 5.7.80 Username and Password not accepted.", "auth", STOP, RELAY, HOUR),
    ("google", "534 5.7.90 Application-specific password required.", "auth", STOP, RELAY, HOUR),
    ("google", "550 5.7.26 This mail is unauthenticated.", "dot", STOP, SENDER, HOUR),
    ("google", "550 5.7.27 SPF did not pass.", "dot", STOP, SENDER, HOUR),
    ("google", "550 5.7.30 DKIM did not pass.", "dot", STOP, SENDER, HOUR),
    ("google", "550 5.7.40 No DMARC record.", "dot", STOP, SENDER, HOUR),
    ("microsoft365", "432 4.3.2 Concurrent connections limit exceeded.", "mail", WAIT, RELAY, 5.0),
    (
        "microsoft365",
        "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded.",
        "dot",
        WAIT,
        RELAY,
        5.0,
    ),
    (
        "microsoft365",
        "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
        "dot",
        SWITCH,
        RELAY,
        HOUR,
    ),
    (
        "microsoft365",
        "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to"
        " process message due to a permanent exception with message Cannot submit message.",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    (
        "microsoft365",
        "554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message due to a"
        " permanent exception with message WASCL UserAction verdict is not None. Actual verdict is Suspend",
        "dot",
        STOP,
        RELAY,
        HOUR,
    ),
    ("microsoft365", "550 5.1.8 Access denied, bad outbound sender", "dot", STOP, RELAY, HOUR),
    ("microsoft365", "550 5.7.501 Access denied, spam abuse detected", "dot", STOP, RELAY, HOUR),
    ("microsoft365", "550 5.7.502 Access denied, banned sender", "rcpt", STOP, RELAY, HOUR),
    *(
        ("microsoft365", f"550 5.2.{code} Continuous errors", "dot", STOP, RELAY, HOUR)
        for code in range(251, 256)
    ),
    ("microsoft365", "550 5.7.233 Tenant external recipient rate limit", "rcpt", SWITCH, RELAY, HOUR),
    (
        "microsoft365",
        "550 5.1.90 Your message can't be sent because you've reached your daily limit for message"
        " recipients",
        "rcpt",
        SWITCH,
        RELAY,
        HOUR,
    ),
    (
        "microsoft365",
        "550 5.7.705 Access denied, tenant has exceeded threshold. For more information please go to"
        " http://go.microsoft.com/fwlink/?LinkId=524931 AS831",
        "dot",
        STOP,
        RELAY,
        HOUR,
    ),
    (
        "microsoft365",
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP. For more"
        " information please go to http://go.microsoft.com/fwlink/?LinkId=526653 AS(7230)",
        "rcpt",
        STOP,
        RELAY,
        HOUR,
    ),
    ("microsoft365", "554 5.2.2 mailbox full; STOREDRV.Submission.Exception", "dot", STOP, RELAY, HOUR),
    (
        "microsoft365",
        "535 5.7.139 Authentication unsuccessful, basic authentication",
        "auth",
        STOP,
        RELAY,
        HOUR,
    ),
    ("microsoft365", "535 5.7.3 Authentication unsuccessful", "auth", STOP, RELAY, HOUR),
    (
        "microsoft365",
        "550 5.7.60 SMTP; Client does not have permissions to send as",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    (
        "microsoft365",
        "451 4.7.500 Server busy. Please try again later",
        "rcpt",
        SLOW,
        DESTINATION,
        5 * MINUTE,
    ),
    (
        "exchange",
        "421 4.4.2 Message submission rate for this client has exceeded",
        "mail",
        SLOW,
        RELAY,
        MINUTE,
    ),
    ("exchange", "452 4.3.1 Insufficient system resources", "mail", WAIT, RELAY, MINUTE),
    ("exchange", "550 5.7.60 SMTP; Client does not have permissions to send as", "dot", STOP, SENDER, HOUR),
    ("exchange", "535 5.7.3 Authentication unsuccessful", "auth", STOP, RELAY, HOUR),
    (
        "yahoo",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user"
        " complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
        "mail",
        WAIT,
        DESTINATION,
        2 * HOUR,
    ),
    (
        "yahoo",
        "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying is of no use.",
        "mail",
        STOP,
        DESTINATION,
        4 * HOUR,
    ),
    (
        "yahoo",
        "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1",
        "greeting",
        STOP,
        DESTINATION,
        4 * HOUR,
    ),
    ("yahoo", "450 User is receiving mail too quickly", "rcpt", WAIT, RECIPIENT, 10 * MINUTE),
    ("sendgrid", "451 Authentication failed: Maximum credits exceeded", "auth", SWITCH, RELAY, DAY),
    ("sendgrid", "452 Too many recipients received this hour", "rcpt", SWITCH, RELAY, HOUR),
    (
        "sendgrid",
        "550 The from address does not match a verified Sender Identity.",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    ("sendgrid", "535 Authentication failed", "auth", STOP, RELAY, HOUR),
    (
        "mailgun",
        "421 Domain example.org is not allowed to send: recipient limit exceeded, try again after Sun",
        "data",
        SWITCH,
        RELAY,
        HOUR,
    ),
    (
        "mailgun",
        "421 Domain sandbox1.mailgun.org is not allowed to send: Please activate your Mailgun account.",
        "data",
        STOP,
        RELAY,
        HOUR,
    ),
    (
        "mailgun",
        "421 Domain sandbox1.mailgun.org is not allowed to send: Sandbox subdomains are for test purposes"
        " only. Please add your own domain or add the address to authorized recipients in Account Settings.",
        "data",
        RETRY,
        RECIPIENT,
        0,
    ),
    ("mailgun", "550 5.7.1 Relaying denied", "rcpt", STOP, RELAY, HOUR),
    ("mailgun", "535 5.7.0 Mailgun is not loving your login or password", "auth", STOP, RELAY, HOUR),
    ("postmark", "535 5.7.8 Error: authentication failed", "auth", STOP, RELAY, HOUR),
    ("mailersend", "450 Too many requests #MS-ST-G", "mail", SLOW, RELAY, MINUTE),
    ("mailersend", "535 No", "auth", STOP, RELAY, HOUR),
    ("selectel", "450 ratelimit exceeded", "mail", WAIT, RELAY, 5 * MINUTE),
    ("selectel", "550 bounced check filter", "rcpt", FAIL, RECIPIENT, 0),
    ("selectel", "501 from domain not trusted", "mail", STOP, SENDER, HOUR),
    ("selectel", "535 No", "auth", STOP, RELAY, HOUR),
    ("yandex360", "554 5.7.1 Spam limit exceeded", "dot", SWITCH, RELAY, DAY),
    ("yandex360", "535 5.7.8 Error: authentication failed", "auth", STOP, RELAY, HOUR),
    ("mailru", "550 message sending for this account is disabled", "mail", STOP, RELAY, HOUR),
    ("mailru", "535 Incorrect authentication data", "auth", STOP, RELAY, HOUR),
    ("postfix", "450 4.7.1 Error: too much mail from 192.0.2.1", "mail", SLOW, RELAY, MINUTE),
    ("postfix", "450 4.7.1 Error: too many recipients from 192.0.2.1", "rcpt", SLOW, RELAY, MINUTE),
    (
        "postfix",
        "421 4.7.0 mx.test Error: too many connections from 192.0.2.1",
        "greeting",
        SLOW,
        RELAY,
        10.0,
    ),
    ("postfix", "452 4.3.1 Insufficient system storage", "mail", WAIT, RELAY, MINUTE),
)

SAID: Final = tuple(
    Said(name, *each[1:]) for each in _SAID for name in (_GOOGLE if each[0] == "google" else (each[0],))
)
"""All of them; those of Google are of both its presets."""
