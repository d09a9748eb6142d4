"""How the relays are reached, that of `SMTP_*` and those of the file."""

from __future__ import annotations

from dataclasses import replace

from mailsender.routing.plan import DEFAULT
from mailsender.settings.environment import Settings
from mailsender.settings.file.relays import RelayTable
from mailsender.smtp.connect import SmtpConfig
from mailsender.smtp.credentials import Credentials
from mailsender.smtp.protocol import Timeouts

IMPLICIT = 465
"""The port on which TLS comes first (RFC 8314 §3.3)."""


def links_of(settings: Settings) -> dict[str, SmtpConfig]:
    """The way to each relay, by its name."""
    found = {DEFAULT: smtp_config(settings)} if settings.smtp_host else {}
    config = settings.config
    if config is not None:
        for name, relay in config.tables.relays.items():
            link = _link(relay, config.hosts[name], config.credentials[name], settings.smtp_helo_name)
            found[name] = replace(link, name=name)
    return found


def in_file(settings: Settings, relay: str) -> bool:
    """Whether a relay is one of the file's, by whose keys its faults are told then."""
    return settings.config is not None and relay in settings.config.tables.relays


def smtp_config(settings: Settings) -> SmtpConfig:
    """How the relay that `SMTP_*` are is reached."""
    return SmtpConfig(
        host=settings.smtp_host,
        port=settings.smtp_port,
        tls=settings.smtp_tls,
        ca_file=settings.smtp_tls_ca_file,
        verify=settings.smtp_tls_verify,
        credentials=settings.credentials,
        auth_cleartext=settings.smtp_auth_cleartext,
        helo_name=settings.smtp_helo_name,
        pipelining=settings.smtp_pipelining == "auto",
        timeouts=Timeouts(
            connect=settings.smtp_timeout_connect,
            greeting=settings.smtp_timeout_greeting,
            command=settings.smtp_timeout_command,
            data=settings.smtp_timeout_data,
            block=settings.smtp_timeout_block,
            dot=settings.smtp_timeout_dot,
        ),
    )


def _link(relay: RelayTable, host: str, credentials: Credentials, helo_name: str) -> SmtpConfig:
    times = relay.timeouts
    return SmtpConfig(
        host=host,
        port=relay.port,
        tls=relay.tls or ("implicit" if relay.port == IMPLICIT else "starttls"),
        ca_file=relay.tls_ca_file,
        verify=relay.tls_verify,
        credentials=credentials,
        auth_cleartext=relay.auth_cleartext,
        helo_name=relay.helo_name or helo_name,
        pipelining=relay.pipelining == "auto",
        timeouts=Timeouts(
            connect=times.connect,
            greeting=times.greeting,
            command=times.command,
            data=times.data,
            block=times.block,
            dot=times.dot,
        ),
    )
