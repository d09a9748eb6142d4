"""All settings: their names, kinds, bounds and meanings, read from `mailsender.settings.sources`.

The original service's names are kept where they mean the same thing. Durations read ``250ms``, ``5s``,
``1m``, ``24h``, ``30d`` or several in a row (``1m30s``) and are seconds in the code.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import getaddresses, parseaddr
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import quote_plus
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mailsender.intake.schema import Senders
from mailsender.model.address import BadAddress, parse_address
from mailsender.queue.mongo import connection_string
from mailsender.ratelimit.gcra import Allowance
from mailsender.settings.key_files import key_files
from mailsender.settings.sources import SettingsError, is_link, read, secret_files
from mailsender.templates.template import Limits, normal_language
from mailsender.templates.variables import bounded

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}", re.ASCII)

MEMORY_URI = "memory:"
"""`MONGODB_URI` for a queue that lives and dies with the process; for trying things out."""


MIN_CODE_SECRET = 32
"""Characters of the shortest `CODE_SECRET`: in hex they are 128 bits."""

_PREFIXES = (
    *("SMTP_", "KAFKA_", "MONGODB_", "MONGO_", "HTTP_", "LETTER_", "REPORT_", "INTAKE_", "QUEUE_", "LOG_"),
    *("DRAIN_", "DKIM_", "MAILSENDER_", "CODE_", "BLOB_", "TEMPLATES_"),
)

_NEAR = 0.85
"""How alike (`difflib`) a name has to be to one of ours to be a slip: other programs have names, too."""

_NEAR_OF_OURS = 0.75
"""The same for one that is meant for us, whatever it may be: how alike the other has to be to be named."""

_OTHERS = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)"  # what Kubernetes puts beside a container for each service
    r"|\w+_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
    r"|(MONGODB_ROOT|MONGO_INITDB|KAFKA_CFG)_\w+"  # of their images
    r"|MAILSENDER_(URL|COMPILE|TEST_\w+|SECRETS_DIR)",
)


def parse_duration(value: object) -> object:
    """Seconds of ``1m30s``; anything else is left for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError("a duration such as 250ms, 5s, 1m, 24h or 30d is needed")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration_text(seconds: float) -> str:
    """A duration as it is written in a setting: ``90s``, ``5m``, ``1d``."""
    unit = next((name for name in ("d", "h", "m") if seconds and not seconds % _UNITS[name]), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


_DAY = 86400.0

LONGEST = 3650 * _DAY
"""Seconds of the longest duration, ten years: far longer ones lead beyond what calendars can say."""

MOST = 10**9
"""The most of what has no bound of its own; what is computed with it still fits MongoDB's numbers."""

Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=LONGEST)]


def _field(default: Any, text: str, *, original: bool = False, shown: str = "", **limits: Any) -> Any:
    """A setting with what its table says: `original` for the Go service's own, `shown` for its default."""
    extra: dict[str, Any] = {"original": original, "shown": shown}
    return Field(default, description=text, json_schema_extra=extra, **limits)


def _check_name(value: str, *, forbidden: str, longest: int) -> None:
    found = next((char for char in value if char in forbidden), None)
    if found is not None:
        raise ValueError(f"{'a space' if found == ' ' else repr(found)} cannot stand in it")
    if not 0 < len(value.encode()) <= longest:
        raise ValueError(f"it has to have 1 to {longest} bytes")


def _check_topics(settings: Settings) -> None:
    """A dead letter on the in-topic would be read again, and be a dead letter again, for ever."""
    given: dict[str, str] = {}
    for name in ("KAFKA_TOPIC_MAILSENDER", "KAFKA_TOPIC_PROFILE", "KAFKA_TOPIC_DEAD_LETTER"):
        topic = getattr(settings, name.lower())
        if topic in given:
            raise ValueError(f"{name}: is the topic of {given[topic]}; each needs one of its own")
        given[topic] = name


class Settings(BaseSettings):
    """Every setting, by its environment name in lower case."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    # The relay
    smtp_host: str = _field(..., "The relay's host name or address.", original=True)
    smtp_port: int = _field(587, "The relay's port.", original=True, ge=1, le=65535)
    smtp_user: str = _field("", "User for AUTH (with a password), and the default sender.", original=True)
    smtp_password: SecretStr = _field(SecretStr(""), "Password for AUTH.", original=True)
    smtp_from: str = _field(
        "", "`From` and reverse-path: an address or `Name <address>`.", shown="`SMTP_USER`"
    )
    smtp_from_allowed: str = _field(
        "",
        "Further senders that letters may name in `From`, `Sender` and `ReversePath`: addresses and domains,"
        " separated by commas.",
    )
    dkim_keys: str = _field(
        "",
        "Private keys that sign the letters of their domains, `domain:selector:file` each, separated by"
        " commas. A file is a whole path, or the name of one in `MAILSENDER_SECRETS_DIR`.",
        shown="none",
        repr=False,  # somebody may put a key there, and is told
    )
    smtp_tls: Literal["implicit", "starttls", "none"] = _field(
        "starttls",
        "How the session is protected. `starttls` is required, never a fall back to clear text.",
        shown="implicit on port 465, else starttls",
    )
    smtp_tls_ca_file: str = _field("", "PEM file of a private CA.", shown="the system's CAs")
    smtp_tls_verify: bool = _field(True, "`false` accepts any certificate, with a warning at the start.")
    smtp_auth_cleartext: bool = _field(False, "`true` allows AUTH on a session without TLS.")
    smtp_helo_name: str = _field(
        "", "Name given in EHLO.", shown="the machine's name if it is a whole one, else its address"
    )
    smtp_pipelining: Literal["auto", "off"] = _field(
        "auto",
        "`auto`: commands go ahead of their replies where the relay offers it and it works; `off`: never.",
    )
    smtp_max_senders: int = _field(
        5, "Sessions with the relay at once, at most.", original=True, ge=1, le=1000
    )
    smtp_max_letters_per_session: int = _field(
        1000, "Transactions after which a session is opened anew; 0 = no limit.", ge=0, le=MOST
    )
    smtp_session_idle: Duration = _field(30.0, "Time after which an idle session is closed.", shown="30s")
    smtp_max_recipients: int = _field(100, "Recipients in one transaction.", ge=1, le=10000)
    smtp_retry_for: Duration = _field(
        2 * 86400.0,
        "Time for which a deferred recipient is tried again before it is given up: the sum of the waits"
        " between attempts that told something about it. RFC 5321 §4.5.4.1 asks for days.",
        shown="2d",
    )
    smtp_max_attempts: int = _field(
        0,
        "Attempts after which a deferred recipient is given up although `SMTP_RETRY_FOR` is not over; 0 = as"
        " many as fit.",
        ge=0,
        le=100_000,
    )
    smtp_uncertain: Literal["resend", "error"] = _field(
        "resend",
        "What becomes of a recipient after a connection lost between the message's end and the reply, who may"
        " have got the letter: `resend` may send it twice, `error` may leave it unsent and reports it.",
    )
    smtp_uncertain_resends: int = _field(
        1,
        "How often `resend` sends again to one recipient after such losses; then it ends as uncertain.",
        ge=1,
        le=100,
    )
    smtp_retry_delay: Duration = _field(
        60.0, "Wait before the second attempt; doubled for each further one, at most 1h.", shown="1m"
    )
    smtp_refuse_probability: float = _field(
        0.0, "The share of letters refused at random without sending them, for courses and tests.", ge=0, le=1
    )
    smtp_rate_limit_max_letters: int = _field(
        5,
        "Transactions per period, over all replicas, and in any one the burst more; 0 = unlimited.",
        original=True,
        ge=0,
        le=MOST,
    )
    smtp_rate_limit_period: Duration = _field(5.0, "The rate's period.", original=True, shown="5s")
    smtp_rate_limit_burst: int = _field(
        1,
        "Transactions that may come at once after a pause; take it off the rate if the relay counts exactly.",
        ge=1,
        le=MOST,
    )
    smtp_daily_quota: int = _field(0, "Transactions a day, over all replicas; 0 = none.", ge=0, le=MOST)
    smtp_quota_timezone: str = _field("UTC", "Time zone in which the quota's day begins.")
    smtp_timeout_connect: Duration = _field(30.0, "TCP connection and TLS handshake.", shown="30s", le=_DAY)
    smtp_timeout_greeting: Duration = _field(
        300.0, "The 220 greeting (RFC 5321 §4.5.3.2.1).", shown="5m", le=_DAY
    )
    smtp_timeout_command: Duration = _field(
        300.0, "EHLO, AUTH, MAIL, RCPT and RSET (RFC 5321 §4.5.3.2.2-3).", shown="5m", le=_DAY
    )
    smtp_timeout_data: Duration = _field(120.0, "354 after DATA (RFC 5321 §4.5.3.2.4).", shown="2m", le=_DAY)
    smtp_timeout_block: Duration = _field(
        180.0, "Writing the message when the relay reads slowly (RFC 5321 §4.5.3.2.5).", shown="3m", le=_DAY
    )
    smtp_timeout_dot: Duration = _field(
        600.0, "The reply to the final dot (RFC 5321 §4.5.3.2.6).", shown="10m", le=_DAY
    )

    # Kafka
    kafka_brokers: str = _field(..., "Brokers, `host:port`, separated by commas.", original=True)
    kafka_topic_mailsender: str = _field("mts-to-mailsender", "Topic of batches.", original=True)
    kafka_topic_profile: str = _field("mts-to-profile", "Topic of reports.", original=True)
    kafka_topic_dead_letter: str = _field(
        "mts-to-mailsender-dead-letter", "Topic of records that cannot be decoded."
    )
    kafka_groupid: str = _field("mailsender", "Consumer group.", original=True)
    kafka_group_instance_id: str = _field(
        "", "Stable name of this replica, for static membership.", shown="none"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _field(
        "PLAINTEXT", "How brokers are reached."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = _field(
        "PLAIN", "SASL mechanism."
    )
    kafka_sasl_username: str = _field("", "SASL user.")
    kafka_sasl_password: SecretStr = _field(SecretStr(""), "SASL password.")
    kafka_tls_ca_file: str = _field("", "PEM file of a private CA.", shown="the system's CAs")
    kafka_tls_cert_file: str = _field("", "PEM file of the client's certificate.")
    kafka_tls_key_file: str = _field("", "PEM file of its key.")
    kafka_session_timeout: Duration = _field(
        10.0, "Time after which the group takes a dead member's partitions.", ge=6, le=3600, shown="10s"
    )
    kafka_timeout: Duration = _field(10.0, "Deadline of every wait on a broker.", ge=1, le=3600, shown="10s")
    kafka_max_request_size: int = _field(
        1_000_000,
        "Bytes of the largest record to publish; at most what the broker takes.",
        ge=10_000,
        le=100_000_000,
    )
    intake_max_bytes: int = _field(
        16 * 1024 * 1024, "Bytes of fetched records held in memory.", ge=1024 * 1024, le=4 * 1024**3
    )
    letters_per_batch: int = _field(
        20_000, "Letters in one record; one with more goes to the dead-letter topic.", ge=1, le=100_000
    )
    letter_max_bytes: int = _field(
        10 * 1024 * 1024, "Bytes of the largest body.", ge=1024, le=12 * 1024 * 1024
    )
    letter_text_from_html: bool = _field(
        False,
        "Whether a message gets a text part made of its HTML where it has none. That takes some 0.5 ms of CPU"
        " for each KB of HTML that is not the same as before. There is none where the HTML has no words, is"
        " over 256 KB, or holds too much to be looked at.",
    )
    letter_max_attachments_bytes: int = _field(
        25 * 1024 * 1024,
        "Bytes of all attachments of a letter; in the message they take 37 % more, and a relay's SIZE counts"
        " that.",
        ge=1024,
        le=100 * 1024 * 1024,
    )
    blob_max_bytes: int = _field(
        25 * 1024 * 1024, "Bytes of the largest attachment.", ge=1024, le=100 * 1024 * 1024
    )
    blob_store_max_bytes: int = _field(
        20 * 1024**3,
        "Bytes of stored attachments above which `PUT /blobs` answers 503; 0 = no limit. Those that letters"
        " bring with them are stored all the same.",
        ge=0,
        le=1024**5,
    )
    blob_retention: Duration = _field(
        7 * 86400.0,
        "Time for which an attachment that no letter names is kept after it was put, or named last. A letter"
        " that names it may wait on the topic for as long.",
        ge=3600,
        shown="7d",
    )
    blob_cache_bytes: int = _field(
        48 * 1024 * 1024,
        "Bytes of attachments in memory, in base64: of letters that are being sent, and that were last.",
        ge=1024 * 1024,
        le=4 * 1024**3,
    )
    report_sweep_after: Duration = _field(
        30.0,
        "Time for which an answer may lack its report before any replica publishes it.",
        ge=1,
        shown="30s",
    )
    report_body: bool = _field(True, "Whether reports repeat the letter's `Body`.")

    # Templates
    templates_dir: str = _field(
        "",
        "Folder of templates, which is read at the start; the names in it come before those that are saved in"
        " MongoDB.",
        shown="none",
    )
    templates_language: str = _field(
        "en", "Language of the sources in it whose names tell none; a tag such as `ru` or `pt-br`."
    )
    templates_variables: str = _field(
        "", "Variables of all templates: a JSON object. Those of a letter come before them.", shown="none"
    )

    # MongoDB
    mongodb_uri: str = _field(
        "",
        "Connection string; `memory:` keeps the queue in memory, for trials.",
        shown="from the names below",
        repr=False,  # it may hold a password
    )
    mongo_local: str = _field(
        "", "The original's name for a full connection string.", original=True, repr=False
    )
    mongo_nodeport_svc_service_host: str = _field("", "Host, without a URI.", original=True)
    mongo_nodeport_svc_service_port: int = _field(
        27017, "Port, without a URI.", original=True, ge=1, le=65535
    )
    mongodb_username: str = _field(
        "",
        "User, without a URI; of the database `admin`. For one of another database take `MONGODB_URI` with"
        " `authSource`.",
        original=True,
    )
    mongodb_password: SecretStr = _field(SecretStr(""), "Password, without a URI.", original=True)
    mongodb_base_name: str = _field("mts", "Database.", original=True)
    mongodb_collection: str = _field("letters", "Collection of letters.", original=True)
    mongodb_retention: Duration = _field(
        30 * 86400.0, "Time for which reported letters are remembered.", ge=60, shown="30d"
    )
    mongodb_body_retention: Duration = _field(
        0.0,
        "Time after which a reported letter loses its `Body`, texts and attachments; the rest is remembered."
        " 0: they stay as long as the letter.",
        shown="0: as long as the letter",
    )
    mongodb_lease: Duration = _field(
        60.0,
        "Time after which a replica that is silent counts as dead.",
        ge=2,
        le=_DAY,
        shown="60s",
    )
    mongodb_driver: Literal["motor", "pymongo"] = _field(
        "motor",
        "Client library: `pymongo` is PyMongo's own asyncio client; Motor's upkeep ended in May 2026.",
    )
    mongodb_timeout: Duration = _field(10.0, "Deadline of every operation.", ge=0.5, le=3600, shown="10s")
    queue_max_letters: int = _field(
        1_000_000, "Waiting letters above which `POST /post` answers 503; 0 = no limit.", ge=0, le=MOST
    )

    # Confirmation codes
    code_secret: SecretStr = _field(
        SecretStr(""),
        "Key under which confirmation codes are hashed, the same in all replicas: 32 random characters at"
        " least. Without it no codes are made.",
    )
    code_length: int = _field(6, "Digits of a code.", ge=6, le=12)
    code_life: Duration = _field(600.0, "Time for which a code holds.", ge=60, le=_DAY, shown="10m")
    code_tries: int = _field(5, "How often a code may be tried.", ge=1, le=20)
    code_pause: Duration = _field(
        60.0,
        "Time for which a request for a code that is repeated under its `IdempotencyKey` sends none.",
        ge=1,
        le=3600,
        shown="1m",
    )
    code_window: Duration = _field(
        3600.0,
        "Time in which codes are counted; it begins with the first.",
        ge=60,
        le=7 * _DAY,
        shown="1h",
    )
    code_per_address: int = _field(5, "Codes for one address in a window.", ge=1, le=1000)
    code_per_caller: int = _field(100, "Codes for one caller in a window.", ge=1, le=1_000_000)

    # HTTP and the process
    http_host: str = _field("", "Address to listen on.", shown="0.0.0.0 with a key, else 127.0.0.1")
    http_port: int = _field(8000, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    http_metrics_port: int = _field(
        0,
        "Port for `GET /metrics` alone, at the same address and without a key; 0 for none: then it is on"
        " `HTTP_PORT` only, which wants the key.",
        ge=0,
        le=65535,
    )
    http_api_key: SecretStr = _field(SecretStr(""), "Value of `X-API-KEY` that callers must send.")
    http_allow_anonymous: bool = _field(
        False, "`true` lets the service listen beyond loopback without a key."
    )
    http_allowed_hosts: str = _field(
        "",
        "Without a key: further names by which callers may address the service, separated by commas; `*` for"
        " any.",
        shown="addresses, and names that nobody outside can have",
    )
    http_max_bytes: int = _field(1_000_000, "Bytes of the largest request.", ge=1024, le=100_000_000)
    http_max_connections: int = _field(
        512, "Connections at once; fewer where the process may open few files.", ge=16, le=10_000
    )
    http_timeout: Duration = _field(15.0, "Time that a request may take.", ge=1, le=3600, shown="15s")
    mailsender_secrets_dir: str = _field(
        "", "Directory with a file for each setting that shall not stand in the environment.", shown="none"
    )
    mailsender_state_dir: str = _field(
        "",
        "Directory for a journal from which a restarted process knows what the one before it had sent; a"
        " local disk that outlives the process.",
        shown="none",
    )
    drain_timeout: Duration = _field(30.0, "Deadline of the drain.", ge=1, le=_DAY, shown="30s")
    log_level: Literal["debug", "info", "warning", "error"] = _field("info", "Least level logged.")
    log_format: Literal["auto", "json", "console"] = _field(
        "auto", "`auto` is `console` on a terminal, else `json`."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let our own reader take the place of those that take a value as it stands."""
        return init_settings, _Surroundings(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _tls_by_port(cls, data: Any) -> Any:
        """Port 465 is implicit TLS by its registration (RFC 8314 §3.3).

        What Kubernetes says about a service that happens to be named `smtp` or `http` is no port of ours.
        """
        if isinstance(data, dict):
            data = {name: each for name, each in data.items() if not is_link(name, each)}
        if isinstance(data, dict) and "smtp_tls" not in data and str(data.get("smtp_port", "")) == "465":
            return {**data, "smtp_tls": "implicit"}
        return data

    @field_validator("smtp_quota_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone; a name such as Europe/Moscow is needed") from None
        return value

    @field_validator("kafka_brokers")
    @classmethod
    def _brokers(cls, value: str) -> str:
        brokers = _listed(value)
        for broker in brokers:
            host, colon, port = broker.rpartition(":")
            if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"{broker!r} is not host:port")
        if not brokers:
            raise ValueError("at least one host:port is needed")
        return ",".join(brokers)

    @field_validator("kafka_topic_mailsender", "kafka_topic_profile", "kafka_topic_dead_letter")
    @classmethod
    def _topic(cls, value: str) -> str:
        """Kafka's rule for names of topics (`org.apache.kafka.common.internals.Topic`)."""
        if not _TOPIC.fullmatch(value) or value in {".", ".."}:
            raise ValueError("a topic's name has 1 to 249 letters, digits, dots, dashes or underscores")
        return value

    @field_validator("smtp_from_allowed")
    @classmethod
    def _allowed(cls, value: str) -> str:
        try:
            Senders.of(_listed(value))
        except BadAddress as error:
            raise ValueError(f"one of them is neither an address nor a domain: {error}") from None
        return value

    @field_validator("templates_language")
    @classmethod
    def _tag(cls, value: str) -> str:
        tag = normal_language(value)
        if not tag:
            raise ValueError("a language tag such as ru or pt-br is needed")
        return tag

    @field_validator("templates_variables")
    @classmethod
    def _variables(cls, value: str) -> str:
        try:
            found = orjson.loads(value or "{}")
        except orjson.JSONDecodeError as error:
            raise ValueError(f"it is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError("a JSON object is needed")  # noqa: TRY004  what pydantic takes for a fault
        bounded(found, limits=Limits())
        return value

    @field_validator("dkim_keys")
    @classmethod
    def _keys(cls, value: str) -> str:
        key_files(value)
        return value

    @field_validator("code_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        """A code has few digits, so the key has to be what nobody can guess."""
        if 0 < len(value.get_secret_value()) < MIN_CODE_SECRET:
            raise ValueError(f"it has to have at least {MIN_CODE_SECRET} characters")
        return value

    @field_validator("mongodb_base_name")
    @classmethod
    def _database(cls, value: str) -> str:
        """MongoDB's rule for names of databases, on any system."""
        _check_name(value, forbidden='/\\. "$*<>:|?', longest=63)
        return value

    @field_validator("mongodb_collection")
    @classmethod
    def _collection(cls, value: str) -> str:
        """MongoDB's rule for names of collections; 255 bytes hold the database and our endings, too."""
        _check_name(value, forbidden="$", longest=180)
        if value.startswith((".", "system.")) or value.endswith(".") or ".." in value:
            raise ValueError(
                "it may not begin with `system.`, nor with a dot, end with one or hold two in a row"
            )
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        """What can only be judged over several settings."""
        _check_topics(self)
        _check_sender(self)
        if self.smtp_rate_limit_max_letters and self.smtp_rate_limit_period <= 0:
            raise ValueError("SMTP_RATE_LIMIT_PERIOD: must be longer than 0 when there is a rate")
        if not (self.mongodb_uri or self.mongo_local or self.mongo_nodeport_svc_service_host):
            raise ValueError("MONGODB_URI: is missing")
        _check_uri(self)
        if self.authenticates and self.smtp_tls == "none" and not self.smtp_auth_cleartext:
            raise ValueError(
                "SMTP_TLS: is none, so SMTP_PASSWORD would be sent in clear text;"
                " set SMTP_AUTH_CLEARTEXT=true to allow it"
            )
        open_to_others = not self.http_api_key.get_secret_value() and not _loopback(self.bind_host)
        if open_to_others and not self.http_allow_anonymous:
            raise ValueError(
                f"HTTP_API_KEY: is missing, and HTTP_HOST={self.bind_host} can be reached from other"
                " machines; set a key, or HTTP_ALLOW_ANONYMOUS=true"
            )
        return self

    @property
    def body_retention(self) -> float | None:
        """Seconds for which bodies of reported letters are kept, None for as long as the letters."""
        return self.mongodb_body_retention or None

    @property
    def authenticates(self) -> bool:
        """Whether sessions log in: without a password `SMTP_USER` is only the sender."""
        return bool(self.smtp_user and self.smtp_password.get_secret_value())

    @property
    def brokers(self) -> list[str]:
        """The brokers, one by one."""
        return self.kafka_brokers.split(",")

    @property
    def allowed_hosts(self) -> list[str]:
        """Further names of the service, in lower case."""
        return [part.lower() for part in _listed(self.http_allowed_hosts)]

    @property
    def mongo_uri(self) -> str:
        """The connection string: ours, the original's, or put together (and escaped) from its parts."""
        if self.mongodb_uri or self.mongo_local:
            return self.mongodb_uri or self.mongo_local
        password = self.mongodb_password.get_secret_value()
        user = f"{quote_plus(self.mongodb_username)}:{quote_plus(password)}@" if self.mongodb_username else ""
        return (
            f"mongodb://{user}{self.mongo_nodeport_svc_service_host}:{self.mongo_nodeport_svc_service_port}/"
        )

    @property
    def mongo_hosts(self) -> list[str]:
        """The hosts of the connection string, without user and options, in one order."""
        hosts = self.mongo_uri.partition("://")[2].partition("/")[0].partition("?")[0]
        return sorted(host.lower() for host in hosts.rpartition("@")[2].split(","))

    @property
    def in_memory(self) -> bool:
        """Whether the queue lives in this process only."""
        return self.mongo_uri.startswith(MEMORY_URI)

    @property
    def sender(self) -> tuple[str, str]:
        """Display name and address of `From`; the address is the reverse-path too."""
        return parseaddr(self.smtp_from or self.smtp_user)

    @property
    def senders(self) -> Senders:
        """In whose name letters may be sent."""
        return Senders.of([*_listed(self.smtp_from_allowed), self.sender[1]])

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

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of all templates."""
        found: dict[str, Any] = orjson.loads(self.templates_variables or "{}")
        return found

    @property
    def bind_host(self) -> str:
        """The address to listen on: loopback when there is neither a key nor a wish."""
        if self.http_host:
            return self.http_host
        return "0.0.0.0" if self.http_api_key.get_secret_value() else "127.0.0.1"


def _listed(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_uri(settings: Settings) -> None:
    name = next(
        name
        for name in ("mongodb_uri", "mongo_local", "mongo_nodeport_svc_service_host")
        if getattr(settings, name)
    )
    wrong = "" if settings.in_memory else connection_string.fault(settings.mongo_uri)
    if wrong:
        raise ValueError(f"{name.upper()}: {wrong}")


def _check_sender(settings: Settings) -> None:
    name = "SMTP_FROM" if settings.smtp_from else "SMTP_USER"
    text = settings.smtp_from or settings.smtp_user
    if len(getaddresses([text])) > 1:
        raise ValueError(f"SMTP_FROM: one address is needed ({name} gives several)")
    try:
        parse_address(settings.sender[1])
    except BadAddress as error:
        raise ValueError(f"SMTP_FROM: an address is needed ({name} does not give one: {error})") from None


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Surroundings(PydanticBaseSettingsSource):
    """What `mailsender.settings.sources` finds, refused where it is broken as text."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Part of the base class; not used, as all values are read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """See `PydanticBaseSettingsSource`.

        Raises:
            SettingsError: it names each value that is broken as text.
        """
        fields = self.settings_cls.model_fields
        found = read(fields)
        faults = [
            (name, _broken(text, fields[name].annotation is SecretStr))
            for name, text in found.items()
            if not is_link(name, text)
        ]
        if any(fault for _, fault in faults):
            raise SettingsError("; ".join(f"{name.upper()}: {fault}" for name, fault in faults if fault))
        return found


def _broken(text: str, secret: bool) -> str:
    """What is wrong with `text` as text, whatever it should mean; a password may look like anything."""
    kinds = {unicodedata.category(char) for char in text}
    if "Cs" in kinds:
        return "it is not UTF-8"
    if "Cc" in kinds:
        return "a control character, such as a newline or a tab, stands in it"
    if secret:
        return ""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return "the quotes around it are a part of it; leave them out (env files know no quotes)"
    if text.startswith(("tcp://", "udp://")):
        return (
            "it is a link to a Service of that name, which Kubernetes puts into the environment; set it"
            " yourself, or enableServiceLinks: false"
        )
    return ""


def load() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: one line that names every missing or bad value, without the value of a secret. What
            can only be judged over several settings is named once each of them is good by itself.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_complaint(detail) for detail in error.errors())) from None


@dataclass(frozen=True, slots=True)
class Slip:
    """A name that looks like a setting and is none; `nearest` may be empty. `place` says where it stands."""

    name: str
    nearest: str
    place: str


def slips() -> list[Slip]:
    """What the environment and the directory of secrets hold that looks like a setting and is none."""
    found = [Slip(name, near, "the environment") for name, near in astray(os.environ).items()]
    directory, files = secret_files()
    keys = {part.rpartition(":")[2].strip() for part in read(["dkim_keys"]).get("dkim_keys", "").split(",")}
    names = [path.name for path in files if path.name not in keys]
    return found + [Slip(name, near, f"a file in {directory}") for name, near in astray(names).items()]


def astray(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that look like settings and are none, each with the nearest, or an empty text.

    What begins with `SMTP_` is meant for us; of other names only those that are nearly one of ours.
    """
    known = [name.upper() for name in Settings.model_fields]
    found = {}
    for name in sorted({name.upper() for name in names}):
        if name in known or not name.startswith(_PREFIXES) or _OTHERS.fullmatch(name):
            continue
        ours = name.startswith("SMTP_")
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR_OF_OURS if ours else _NEAR)
        if near or ours:
            found[name] = near[0] if near else ""
    return found


def _complaint(detail: Any) -> str:
    text = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return text
    name = str(detail["loc"][0]).upper()
    if detail["type"] == "missing":
        meant = "".join(f" ({slip.name} is set, in {slip.place})" for slip in slips() if slip.nearest == name)
        return f"{name}: is missing{meant}"
    bound = detail["ctx"].get("le", detail["ctx"].get("ge")) if "ctx" in detail else None
    if bound is not None and _is_duration(Settings.model_fields[name.lower()]):
        return f"{name}: at {'most' if 'le' in detail['ctx'] else 'least'} {duration_text(bound)}"
    return f"{name}: {text[:1].lower()}{text[1:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting as its table shows it; `original` says that the Go service had it under this name."""

    name: str
    default: str
    values: str
    meaning: str
    original: bool


def table() -> list[Row]:
    """All settings, for the documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = str(extra.get("shown") or "")
        if not default:
            default = "required" if field.is_required() else _shown(field.default)
        rows.append(
            Row(
                name=name.upper(),
                default=default,
                values=_values(field),
                meaning=field.description or "",
                original=bool(extra.get("original")),
            )
        )
    return rows


def _is_duration(field: FieldInfo) -> bool:
    return any(isinstance(part, BeforeValidator) for part in field.metadata)


def _values(field: FieldInfo) -> str:
    """What a setting takes: its kind, and its bounds where it has some."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if kind is bool:
        return "true, false"
    if kind not in {int, float}:
        return "text"
    duration = _is_duration(field)
    lows: list[Any] = [part.ge for part in field.metadata if isinstance(part, Ge)]
    highs: list[Any] = [part.le for part in field.metadata if isinstance(part, Le)]
    low, high = max(lows, default=None), min(highs, default=None)
    shown: Callable[[Any], str] = duration_text if duration else str
    words = ["duration" if duration else "number"]
    if low is not None and not (duration and low == 0):
        words.append(f"from {shown(low)}")
    if high is not None:
        words.append(f"to {shown(high)}")
    return " ".join(words)


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)
