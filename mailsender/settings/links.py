"""How the relays of the file are reached."""

from __future__ import annotations

from mailsender.settings.environment import Settings
from mailsender.settings.file.relays import RelayTable
from mailsender.smtp.connect import SmtpConfig
from mailsender.smtp.credentials import Credentials
from mailsender.smtp.protocol import Timeouts

IMPLICIT = 465
"""The port on which TLS comes first (RFC 8314 §3.3)."""


def links_of(settings: Settings) -> dict[str, SmtpConfig]:
    """The way to each relay of the file, by its name; empty without a file."""
    config = settings.config
    if config is None:
        return {}
    return {
        name: _link(relay, config.hosts[name], config.credentials[name], settings.smtp_helo_name)
        for name, relay in config.tables.relays.items()
    }


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
