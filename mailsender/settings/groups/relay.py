"""The relay, and what a letter's sender may be."""

from __future__ import annotations

from email.utils import getaddresses, parseaddr
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, SecretStr, field_validator

from mailsender.intake.schema import Senders
from mailsender.message.compose import BadHeader
from mailsender.message.headers import Mailbox
from mailsender.model.address import BadAddress, parse_address
from mailsender.ratelimit.gcra import Allowance
from mailsender.settings.key_files import key_files
from mailsender.settings.kinds import DAY, MOST, Duration, field, listed
from mailsender.smtp.credentials import Credentials, TokenEndpoint, TokenFile


class RelaySettings(BaseModel):
    """The relay that all letters take."""

    smtp_host: str = field(
        ...,
        "The relay's host name or address. With relays in `MAILSENDER_CONFIG` it may be absent.",
        original=True,
    )
    smtp_port: int = field(587, "The relay's port.", original=True, ge=1, le=65535)
    smtp_user: str = field(
        "", "User for AUTH (with a password or tokens), and the default sender.", original=True
    )
    smtp_password: SecretStr = field(SecretStr(""), "Password for AUTH.", original=True)
    smtp_auth: Literal["auto", "scram-sha-256", "plain", "login", "xoauth2", "oauthbearer"] = field(
        "auto",
        "The mechanism of AUTH. `auto`: what the relay offers, the best first, in whatever form it takes it.",
    )
    smtp_token_file: str = field(
        "",
        "File with an access token, which something else renews, in place of a password: alone, or as"
        " `access_token` in a JSON object.",
        shown="none",
    )
    smtp_token_url: str = field(
        "", "Token endpoint that grants access tokens, in place of a password.", shown="none"
    )
    smtp_token_client_id: str = field("", "The application that the token endpoint knows.", shown="none")
    smtp_token_client_secret: SecretStr = field(SecretStr(""), "The application's secret.", shown="none")
    smtp_token_refresh_file: str = field(
        "",
        "File with a refresh token by which the endpoint grants; a new one is written there. Without it: by"
        " the application's own credentials.",
        shown="none",
    )
    smtp_token_scope: str = field("", "What the token is to be good for.", shown="none")
    smtp_from: str = field(
        "", "`From` and reverse-path: an address or `Name <address>`.", shown="`SMTP_USER`"
    )
    smtp_from_allowed: str = field(
        "",
        "Further senders that letters may name in `From`, `Sender` and `ReversePath`: addresses and domains,"
        " separated by commas.",
    )
    dkim_keys: str = field(
        "",
        "Private keys that sign the letters of their domains, `domain:selector:file` each, separated by"
        " commas. A file is a whole path, or the name of one in `MAILSENDER_SECRETS_DIR`.",
        shown="none",
        repr=False,  # somebody may put a key there, and is told
    )
    smtp_tls: Literal["implicit", "starttls", "none"] = field(
        "starttls",
        "How the session is protected. `starttls` is required, never a fall back to clear text.",
        shown="implicit on port 465, else starttls",
    )
    smtp_tls_ca_file: str = field("", "PEM file of a private CA.", shown="the system's CAs")
    smtp_tls_verify: bool = field(True, "`false` accepts any certificate, with a warning at the start.")
    smtp_auth_cleartext: bool = field(False, "`true` allows AUTH on a session without TLS.")
    smtp_helo_name: str = field(
        "", "Name given in EHLO.", shown="the machine's name if it is a whole one, else its address"
    )
    smtp_pipelining: Literal["auto", "off"] = field(
        "auto",
        "`auto`: commands go ahead of their replies where the relay offers it and it works; `off`: never.",
    )
    smtp_max_senders: int = field(
        5, "Sessions with the relay at once, at most.", original=True, ge=1, le=1000
    )
    smtp_max_letters_per_session: int = field(
        1000, "Transactions after which a session is opened anew; 0 = no limit.", ge=0, le=MOST
    )
    smtp_session_idle: Duration = field(30.0, "Time after which an idle session is closed.", shown="30s")
    smtp_max_recipients: int = field(100, "Recipients in one transaction.", ge=1, le=10000)
    smtp_retry_for: Duration = field(
        2 * 86400.0,
        "Time for which a deferred recipient is tried again before it is given up: the sum of the waits"
        " between attempts that told something about it. RFC 5321 §4.5.4.1 asks for days.",
        shown="2d",
    )
    smtp_max_attempts: int = field(
        0,
        "Attempts after which a deferred recipient is given up although `SMTP_RETRY_FOR` is not over; 0 = as"
        " many as fit.",
        ge=0,
        le=100_000,
    )
    smtp_uncertain: Literal["resend", "error"] = field(
        "resend",
        "What becomes of a recipient after a connection lost between the message's end and the reply, who may"
        " have got the letter: `resend` may send it twice, `error` may leave it unsent and reports it.",
    )
    smtp_uncertain_resends: int = field(
        1,
        "How often `resend` sends again to one recipient after such losses; then it ends as uncertain.",
        ge=1,
        le=100,
    )
    smtp_retry_delay: Duration = field(
        60.0, "Wait before the second attempt; doubled for each further one, at most 1h.", shown="1m"
    )
    smtp_refuse_probability: float = field(
        0.0, "The share of letters refused at random without sending them, for courses and tests.", ge=0, le=1
    )
    smtp_rate_limit_max_letters: int = field(
        5,
        "Transactions per period, over all replicas, and in any one the burst more; 0 = unlimited.",
        original=True,
        ge=0,
        le=MOST,
    )
    smtp_rate_limit_period: Duration = field(5.0, "The rate's period.", original=True, shown="5s")
    smtp_rate_limit_burst: int = field(
        1,
        "Transactions that may come at once after a pause, beyond the rate; 0: none, if the relay counts"
        " exactly.",
        ge=0,
        le=MOST,
    )
    smtp_daily_quota: int = field(0, "Transactions a day, over all replicas; 0 = none.", ge=0, le=MOST)
    smtp_quota_timezone: str = field("UTC", "Time zone in which the quota's day begins.")
    smtp_timeout_connect: Duration = field(30.0, "TCP connection and TLS handshake.", shown="30s", le=DAY)
    smtp_timeout_greeting: Duration = field(
        300.0, "The 220 greeting (RFC 5321 §4.5.3.2.1).", shown="5m", le=DAY
    )
    smtp_timeout_command: Duration = field(
        300.0, "EHLO, AUTH, MAIL, RCPT and RSET (RFC 5321 §4.5.3.2.2-3).", shown="5m", le=DAY
    )
    smtp_timeout_data: Duration = field(120.0, "354 after DATA (RFC 5321 §4.5.3.2.4).", shown="2m", le=DAY)
    smtp_timeout_block: Duration = field(
        180.0, "Writing the message when the relay reads slowly (RFC 5321 §4.5.3.2.5).", shown="3m", le=DAY
    )
    smtp_timeout_dot: Duration = field(
        600.0, "The reply to the final dot (RFC 5321 §4.5.3.2.6).", shown="10m", le=DAY
    )

    @field_validator("smtp_quota_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone; a name such as Europe/Moscow is needed") from None
        return value

    @field_validator("smtp_from_allowed")
    @classmethod
    def _allowed(cls, value: str) -> str:
        try:
            Senders.of(listed(value))
        except BadAddress as error:
            raise ValueError(f"one of them is neither an address nor a domain: {error}") from None
        return value

    @field_validator("dkim_keys")
    @classmethod
    def _keys(cls, value: str) -> str:
        key_files(value)
        return value

    @property
    def authenticates(self) -> bool:
        """Whether sessions log in: without a password and tokens `SMTP_USER` is only the sender."""
        return self.credentials.complete

    @property
    def credentials(self) -> Credentials:
        """Who logs in, and by what."""
        tokens: TokenFile | TokenEndpoint | None = None
        if self.smtp_token_file:
            tokens = TokenFile(path=self.smtp_token_file)
        elif self.smtp_token_url:
            tokens = TokenEndpoint(
                url=self.smtp_token_url,
                client_id=self.smtp_token_client_id,
                client_secret=self.smtp_token_client_secret.get_secret_value(),
                refresh_file=self.smtp_token_refresh_file,
                scope=self.smtp_token_scope,
            )
        return Credentials(
            user=self.smtp_user,
            password=self.smtp_password.get_secret_value(),
            tokens=tokens,
            mechanism="" if self.smtp_auth == "auto" else self.smtp_auth.upper(),
        )

    @property
    def sender(self) -> tuple[str, str]:
        """Display name and address of `From`; the address is the reverse-path too."""
        return parseaddr(self.smtp_from or self.smtp_user)

    @property
    def senders(self) -> Senders:
        """In whose name letters may be sent."""
        return Senders.of([*listed(self.smtp_from_allowed), self.sender[1]])

    @property
    def allowance(self) -> Allowance:
        """What may be sent."""
        return Allowance(
            letters=self.smtp_rate_limit_max_letters,
            period=self.smtp_rate_limit_period,
            burst=self.smtp_rate_limit_burst,
            quota=self.smtp_daily_quota,
            timezone=self.smtp_quota_timezone,
        )


def check_sender(settings: RelaySettings) -> None:
    """See that there is one address that letters are from.

    Raises:
        ValueError: there is not.
    """
    name = "SMTP_FROM" if settings.smtp_from else "SMTP_USER"
    text = settings.smtp_from or settings.smtp_user
    if len(getaddresses([text])) > 1:
        raise ValueError(f"SMTP_FROM: one address is needed ({name} gives several)")
    try:
        address = parse_address(settings.sender[1])
    except BadAddress as error:
        raise ValueError(f"SMTP_FROM: an address is needed ({name} does not give one: {error})") from None
    try:
        Mailbox(settings.sender[0], address)
    except BadHeader as error:
        raise ValueError(f"SMTP_FROM: {error}") from None


_OF_TOKENS = (
    "smtp_token_client_id",
    "smtp_token_client_secret",
    "smtp_token_refresh_file",
    "smtp_token_scope",
)


def check_credentials(settings: RelaySettings) -> None:
    """See that what is said of the login goes together.

    Raises:
        ValueError: it does not.
    """
    if settings.smtp_token_file and settings.smtp_token_url:
        raise ValueError("SMTP_TOKEN_FILE: SMTP_TOKEN_URL is set, too; tokens come from one of them")
    lone = [name for name in _OF_TOKENS if name in settings.model_fields_set]
    if lone and not settings.smtp_token_url:
        raise ValueError(f"{lone[0].upper()}: SMTP_TOKEN_URL is missing, which it belongs to")
    fault = settings.credentials.fault
    if fault:
        name = "SMTP_TOKEN_URL" if settings.smtp_token_url else "SMTP_TOKEN_FILE"
        raise ValueError(f"{name if settings.credentials.tokens else 'SMTP_AUTH'}: {fault}")
