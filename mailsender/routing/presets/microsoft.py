"""Microsoft 365 (smtp.office365.com) and Exchange servers."""

from __future__ import annotations

from mailsender.routing.presets.preset import (
    AUTH,
    HALF_FOR_A_WHILE,
    HALF_FOR_LONGER,
    HOUR,
    MINUTE,
    Limits,
    Preset,
    Rules,
)
from mailsender.routing.reply_rule import Action, Scope

_SUBMISSION = "Microsoft: smtp-submission-improvements"
_SEND_AS = "Microsoft: no permission to send as this sender"
_REPORTS = "Microsoft: non-delivery reports in Exchange Online, 5.7.700 to 5.7.750"
_REPORTS_500 = "Microsoft: non-delivery reports in Exchange Online, 5.7.501 to 5.7.503"
_rule = Rules("microsoft365")
_exchange = Rules("exchange")

MICROSOFT365 = Preset(
    name="microsoft365",
    title="Microsoft 365",
    rules=(
        _rule(
            "connections",
            432,
            enhanced=("4.3.2",),
            action=Action.WAIT,
            scope=Scope.RELAY,
            seconds=5.0,  # until one of the three ends
            fewer_sessions=True,
            source=_SUBMISSION + "; the time is ours",
        ),
        _rule(
            "daily-recipients",
            554,
            enhanced=("5.2.0",),
            pattern="SubmissionQuotaExceeded|submission quota",  # 5.2.0 alone is said of other things, too
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=HOUR,
            source=_SUBMISSION + ": 10,000 recipients in any 24 hours, tried hourly",
        ),
        _rule(
            "send-as-denied",
            554,
            enhanced=("5.2.0",),
            text="SendAsDenied",
            action=Action.STOP,
            scope=Scope.SENDER,
            source="OfficeDocs-Support #1187, rss2email #147: no permission to send as this sender",
            verified=False,
        ),
        _rule(
            "outbound-spam",
            554,
            enhanced=("5.2.0",),
            text="OutboundSpam",
            action=Action.STOP,
            scope=Scope.RELAY,
            source="nodejs-nodemailer-outlook #11: the account is suspended, or not verified",
            verified=False,
        ),
        _rule(
            "blocked-sender",
            550,
            enhanced=("5.1.8",),
            text="outbound sender",
            action=Action.STOP,
            scope=Scope.RELAY,
            source="Microsoft Q&A 5853737: the account is among the restricted entities, for what it sent",
        ),
        _rule(
            "banned",
            550,
            enhanced=("5.7.501", "5.7.502", "5.7.503"),
            action=Action.STOP,
            scope=Scope.RELAY,
            source=_REPORTS_500 + ": the account is banned for spam",
        ),
        _rule(
            "continuous-errors",
            550,
            enhanced=("5.2.251", "5.2.252", "5.2.253", "5.2.254", "5.2.255"),
            action=Action.STOP,
            scope=Scope.RELAY,
            source="Microsoft: continuous-error-throttling",
        ),
        _rule(
            "tenant-limit",
            550,
            enhanced=("5.7.233",),
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=HOUR,
            source="Microsoft Q&A 5835651: external recipients of the tenant in any 24 hours",
        ),
        _rule(
            "daily-recipients-reached",
            550,
            enhanced=("5.1.90",),
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=HOUR,
            source="OfficeDocs-Exchange #2729: the account's recipients in any 24 hours, tried hourly",
            verified=False,
        ),
        _rule(
            "tenant-threshold",
            5,
            enhanced=("5.7.705",),
            action=Action.STOP,
            scope=Scope.RELAY,
            source=_REPORTS + ": the tenant may send nothing before its administrator has talked to support",
        ),
        _rule(
            "tenant-address",
            5,
            enhanced=("5.7.708",),
            action=Action.STOP,
            scope=Scope.RELAY,
            source=_REPORTS
            + ": nothing is taken from this address of the tenant, which is new or suspicious",
        ),
        _rule(
            "own-mailbox-full",
            554,
            enhanced=("5.2.2",),
            action=Action.STOP,
            scope=Scope.RELAY,
            source=_SUBMISSION + ": the sender's own mailbox, by its Sent Items",
        ),
        _rule(
            "basic-auth-off",
            535,
            enhanced=("5.7.139",),
            action=Action.STOP,
            scope=Scope.RELAY,
            source="listmonk #2158: basic authentication is off, XOAUTH2 is needed",
            verified=False,
        ),
        _rule("login", 530, 534, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source="RFC 4954 §6"),
        _rule("send-as", 5, enhanced=("5.7.60",), action=Action.STOP, scope=Scope.SENDER, source=_SEND_AS),
        _rule(
            "server-busy",
            451,
            enhanced=("4.7.500",),
            action=Action.SLOW,
            scope=Scope.DESTINATION,
            seconds=5 * MINUTE,
            then=HALF_FOR_LONGER,
            source="bentonow, coldrelay: minutes",
            verified=False,
        ),
    ),
    limits=Limits(
        rates=("30/1m",),
        quota="10000/24h",
        quota_of_recipients=True,
        connections_total=3,
        source=_SUBMISSION + ": 30 messages a minute, 10,000 recipients a day, three connections a mailbox",
        verified=True,
    ),
    open_questions="451 4.7.500 has no page; what else 554 5.2.0 is said of is left to the defaults",
)

EXCHANGE = Preset(
    name="exchange",
    title="Exchange Server",
    rules=(
        _exchange(
            "submission-rate",
            421,
            enhanced=("4.4.2",),
            text="Message submission rate",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=MINUTE,  # MessageRateLimit of a receive connector is by the minute
            then=HALF_FOR_A_WHILE,
            source="iridis; listmonk #164; ANS: Exchange error codes",
        ),
        _exchange(
            "send-as", 5, enhanced=("5.7.60",), action=Action.STOP, scope=Scope.SENDER, source=_SEND_AS
        ),
        _exchange(
            "login", 530, 534, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source="RFC 4954 §6"
        ),
        _exchange(
            "resources",
            452,
            enhanced=("4.3.1",),
            action=Action.WAIT,
            scope=Scope.RELAY,
            seconds=MINUTE,
            source="back pressure: Insufficient system resources, as others report it",
            verified=False,
        ),
    ),
    open_questions="limits are each connector's own (Get-ReceiveConnector): often 5 a minute for clients",
)
