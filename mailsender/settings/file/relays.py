"""The tables of a relay."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from mailsender.routing.reply_rule import MAX_RULES
from mailsender.settings.file.kinds import (
    MOST_ENTRIES,
    Domain,
    Mailboxes,
    Part,
    QuotaKind,
    Rates,
    RuleTime,
    Secret,
    StepTime,
    Table,
    Text,
    Texts,
    key,
    listed,
)
from mailsender.settings.file.notations import domain_pattern
from mailsender.settings.kinds import MOST
from mailsender.smtp.protocol import Timeouts

Stage: TypeAlias = Literal["connect", "greeting", "ehlo", "auth", "mail", "rcpt", "data", "dot"]
Action: TypeAlias = Literal["wait", "slow", "switch", "split", "stop", "fail", "retry"]
Scope: TypeAlias = Literal["recipient", "destination", "sender", "relay"]

_RFC: Final = Timeouts()


def _each_once(value: object) -> object:
    """Refuses two spellings of one domain, of which the first would be lost without a word."""
    seen: set[str] = set()
    for each in value if isinstance(value, dict) else ():
        try:
            domain = domain_pattern(each)
        except ValueError:
            continue  # it is told by itself
        if domain in seen:
            raise ValueError(f"{domain} stands there twice")
        seen.add(domain)
    return value


def _code(value: object) -> str:
    """A code, or its first digits, as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a reply code such as 454 is needed")  # noqa: TRY004  pydantic's own kind of error
    return str(value)


_CodeKind: TypeAlias = Annotated[int, Field(ge=4, le=599)] | Annotated[str, Field(pattern="^[45][0-9]{0,2}$")]

_Code: TypeAlias = Annotated[str, BeforeValidator(_code, json_schema_input_type=_CodeKind)]

Codes: TypeAlias = Annotated[
    list[_Code],
    BeforeValidator(listed, json_schema_input_type=_CodeKind | list[_CodeKind]),
    Field(min_length=1, max_length=400),
]

Stages: TypeAlias = Annotated[
    list[Stage],
    BeforeValidator(listed, json_schema_input_type=Stage | list[Stage]),
    Field(min_length=1, max_length=8),
]


class ThenTable(Table):
    """The second step of a rule: a reduced rate once the first one is over."""

    rate: Part = key(..., "The part of the relay's rate that is allowed.", "50%")
    for_: RuleTime = key(
        ..., "How long; then the rate grows back to the full one in steps.", "10m", alias="for"
    )


class RuleTable(Table):
    """What a reply means beyond its first digit. All that is said of the reply has to fit."""

    name: Text = key(
        "", "What reports, the log and `explain` call it. Without one `RELAY/1`, by its place.", "too-fast"
    )
    stage: Stages | None = key(None, "At which steps.", "dot", ["mail", "rcpt"])
    code: Codes | None = key(None, "The reply's code, or its first digits, or several.", 454, [421, "45"])
    enhanced: Texts | None = key(
        None, "The enhanced code (RFC 3463), `x` for any number, `-` for none.", "4.7.28", ["4.7.x", "-"]
    )
    text: Text = key("", "What stands in the reply, in any case of letters.", "Maximum sending rate exceeded")
    pattern: Text = key(
        "", "A regular expression that is found in the reply, in any case of letters.", "too (many|fast)"
    )
    action: Action = key(
        ...,
        "`wait`: nothing for a time. `slow`: less for a time. `switch`: another relay. `split`: fewer"
        " recipients at once. `stop`: nothing for a time, as a person has to act, and then a few letters on"
        " trial. `fail`: final for the recipient. `retry`: by the schedule; with `for` as `wait`.",
        "slow",
    )
    scope: Scope = key("recipient", "For whom: `recipient`, `destination`, `sender` or `relay`.", "relay")
    for_: RuleTime | None = key(
        None,
        "How long. Without it 5 min (`wait`), 1 min (`slow`), 10 min (`switch`), 1 h (`stop`).",
        "1m",
        alias="for",
    )
    then: ThenTable | None = key(None, "What follows.", {"rate": "50%", "for": "10m"})
    suppress: Literal["never", "at-once", "second"] = key(
        "never", "After which refusal by a `fail` the address is suppressed.", "at-once"
    )
    fewer_sessions: bool = key(
        False,
        "`true`: the relay has too many of our sessions. Whoever hears it has one fewer from then on, for an"
        " hour.",
    )


class DestinationTable(Table):
    """What of a relay's limits holds for mail to one domain."""

    rate: Rates = key(
        ..., "Messages (transactions) in a period; of several all hold.", "20/s", ["5/s", "1000/h"]
    )


class TimeoutsTable(Table):
    """How long each step may take."""

    connect: StepTime = key(_RFC.connect, "TCP connection and TLS handshake.", "30s")
    greeting: StepTime = key(_RFC.greeting, "The 220 greeting (RFC 5321 §4.5.3.2.1).", "5m")
    command: StepTime = key(_RFC.command, "EHLO, AUTH, MAIL, RCPT and RSET (RFC 5321 §4.5.3.2.2-3).", "5m")
    data: StepTime = key(_RFC.data, "354 after DATA (RFC 5321 §4.5.3.2.4).", "2m")
    block: StepTime = key(
        _RFC.block, "Writing the message when the relay reads slowly (RFC 5321 §4.5.3.2.5).", "3m"
    )
    dot: StepTime = key(_RFC.dot, "The reply to the final dot (RFC 5321 §4.5.3.2.6).", "10m")


class OAuthTable(Table):
    """Access tokens in place of a password: in a file that something else renews, or from an endpoint."""

    token_file: Text = key(
        "", "File with an access token that something else renews.", "/run/tokens/google.json"
    )
    token_url: Text = key(
        "",
        "Endpoint that grants access tokens (RFC 6749 §3.2).",
        "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
    )
    client_id: Text = key("", "Who asks there; `${NAME}` is taken, too.", "${GOOGLE_CLIENT_ID}")
    client_secret: Secret = key(
        "", "The client's secret, as `${NAME}`.", "${GOOGLE_CLIENT_SECRET}", repr=False
    )
    client_secret_file: Text = key("", "File with the client's secret.", "/run/secrets/google-client")
    refresh_file: Text = key(
        "",
        "File with a refresh token; a new one is written there. Without it the client asks for itself.",
        "/var/lib/mailsender/google-refresh",
    )
    scope: Text = key("", "What the token is for.", "https://outlook.office365.com/.default")
    ca_file: Text = key("", "PEM file of a private CA, in place of the system's.")
    basic: bool = key(False, "`true` tells the client's secret in a header instead of the body.")


class RelayTable(Table):
    """One relay: how it is reached, what it may be asked, and what its replies mean."""

    host: Text = key(
        ..., "Its host name or address; `${NAME}` is taken, too.", "smtp.example.com", min_length=1
    )
    port: int = key(587, "Its port.", 587, ge=1, le=65535)
    tls: Literal["implicit", "starttls", "none"] | None = key(
        None,
        "How sessions are protected. Without it `implicit` on port 465, else `starttls`, which is required.",
    )
    tls_ca_file: Text = key("", "PEM file of a private CA, in place of the system's.", "/etc/ssl/our-ca.pem")
    tls_verify: bool = key(True, "`false` accepts any certificate, with a warning.")
    helo_name: Text = key("", "Name given in EHLO. Without it as `SMTP_HELO_NAME` says.", "mail.example.com")
    pipelining: Literal["auto", "off"] = key(
        "auto", "`auto`: commands go ahead of their replies where the relay offers it and it works."
    )
    user: Text = key("", "User for AUTH; `${NAME}` is taken, too.", "AKIA…", "${SES_USER}")
    password: Secret = key(
        "",
        "Password for AUTH, as `${NAME}`: of the environment, else of the file of that name in"
        " `MAILSENDER_SECRETS_DIR`.",
        "${SES_PASSWORD}",
        repr=False,
    )
    password_file: Text = key(
        "",
        "File with the password: a whole path, or the name of one in `MAILSENDER_SECRETS_DIR`.",
        "/run/secrets/ses",
    )
    auth: Literal["auto", "scram-sha-256", "plain", "login", "xoauth2", "oauthbearer"] = key(
        "auto", "The mechanism of AUTH. `auto`: what the relay offers, the best first."
    )
    oauth: OAuthTable | None = key(None, "Tokens in place of a password.")
    auth_cleartext: bool = key(False, "`true` allows AUTH on a session without TLS.")
    preset: Text = key("", "Name of the reply rules and limits of a provider.", "ses")
    rate: Rates | None = key(
        None,
        "How many in a period, over all replicas; of several all hold. Without one the preset's, or none."
        " `recipients` are counted, or `messages`, which are transactions; where that is not said, as the"
        " preset has it, or messages.",
        "14/s",
        ["14/s", "2000/5m"],
        "14 recipients/s",
    )
    burst: int | None = key(
        None,
        "How many may come at once after a pause, beyond the rate. `0`: none, no period holds more than the"
        " rate, for relays that count exactly. Without it the preset's, or 1.",
        1,
        0,
        ge=0,
        le=MOST,
    )
    quota: QuotaKind | None = key(
        None,
        "How many over all replicas in any period of that length, or in a calendar day of a time zone."
        " Without one the preset's, or none. What is counted is said as for `rate`.",
        "50000/24h",
        "500/day Europe/Moscow",
        "10000 recipients/24h",
    )
    connections: int | None = key(None, "Sessions at once, of each replica. Without it 5.", 10, ge=1, le=1000)
    connections_total: int | None = key(
        None,
        "Sessions at once, of all replicas together. Without it the preset's, or as many as they open.",
        3,
        ge=1,
        le=MOST,
    )
    letters_per_session: int | None = key(
        None,
        "Transactions after which a session is opened anew; 0 = no limit. Without it the preset's, or 1000.",
        500,
        ge=0,
        le=MOST,
    )
    session_idle: StepTime = key(30.0, "Time after which an idle session is closed.", "30s")
    max_recipients: int | None = key(
        None, "Recipients in one transaction. Without it the preset's, or 100.", 50, ge=1, le=10_000
    )
    from_: Mailboxes | None = key(
        None,
        "Senders that this relay takes: addresses, domains, `*.domain`. All of a letter's `From`, `Sender`"
        " and `ReversePath` have to be among them. Without it: all.",
        ["example.com", "news@example.org"],
        alias="from",
    )
    timeouts: TimeoutsTable = key(TimeoutsTable(), "How long each step may take.", {"dot": "5m"})
    destinations: Annotated[dict[Domain, DestinationTable], BeforeValidator(_each_once)] = key(
        {},
        "Limits for mail to a domain, or to `*.domain`.",
        {"gmail.com": {"rate": "20/s"}},
        max_length=MOST_ENTRIES,
    )
    rules: list[RuleTable] = key(
        [],
        "What replies mean; the first that fits decides. They go before the preset's.",
        max_length=MAX_RULES,
    )
