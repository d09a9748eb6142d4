"""A relay of the file: what is wrong with it is told by the file's keys instead of the settings' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from mailsender.smtp.port import RelayAway, Session, Transport

KEYS: Final[Mapping[str, str]] = {
    "SMTP_HOST": "host",
    "SMTP_PORT": "port",
    "SMTP_USER": "user",
    "SMTP_PASSWORD": "password",
    "SMTP_AUTH": "auth",
    "SMTP_AUTH_CLEARTEXT": "auth_cleartext",
    "SMTP_TOKEN_FILE": "oauth.token_file",
    "SMTP_TOKEN_URL": "oauth.token_url",
    "SMTP_TOKEN_CLIENT_ID": "oauth.client_id",
    "SMTP_TOKEN_CLIENT_SECRET": "oauth.client_secret",
    "SMTP_TOKEN_REFRESH_FILE": "oauth.refresh_file",
    "SMTP_TOKEN_SCOPE": "oauth.scope",
    "SMTP_TLS": "tls",
    "SMTP_TLS_CA_FILE": "tls_ca_file",
    "SMTP_TLS_VERIFY": "tls_verify",
    "SMTP_HELO_NAME": "helo_name",
    "SMTP_PIPELINING": "pipelining",
    "SMTP_TIMEOUT_CONNECT": "timeouts.connect",
    "SMTP_TIMEOUT_GREETING": "timeouts.greeting",
    "SMTP_TIMEOUT_COMMAND": "timeouts.command",
    "SMTP_TIMEOUT_DATA": "timeouts.data",
    "SMTP_TIMEOUT_BLOCK": "timeouts.block",
    "SMTP_TIMEOUT_DOT": "timeouts.dot",
}
"""The key of a relay in the file for each setting that says the same of the relay `default`. A password may
come from another key, too; that one is enough to find it."""

_SETTING: Final = re.compile(r"SMTP_[A-Z_]+\b")


def file_words(text: str) -> str:
    """`text` with the file's key for each setting that has one."""
    return _SETTING.sub(lambda found: KEYS.get(found[0], found[0]), text)


class OfFile:
    """A `Transport` that is told by its name in the file, and whose errors speak of the file.

    Several relays may have one host and port, each with an account of its own.
    """

    def __init__(self, name: str, transport: Transport) -> None:
        self._name = name
        self._transport = transport

    @property
    def name(self) -> str:
        """See `Transport`."""
        return self._name

    @property
    def address(self) -> str:
        """See `Transport`."""
        return self._transport.address

    @property
    def remark(self) -> str:
        """See `Transport`."""
        return file_words(self._transport.remark)

    def bar_logins(self, barred: Callable[[str], str]) -> None:
        """See `Transport`."""
        self._transport.bar_logins(barred)

    async def connect(self) -> Session:
        """See `Transport`.

        Raises:
            RelayAway: see `Transport`.
        """
        try:
            return await self._transport.connect()
        except RelayAway as error:
            text, phase, code = file_words(str(error)), error.phase, error.code
            raise RelayAway(
                text,
                phase=phase,
                code=code,
                permanent=error.permanent,
                reply=error.reply,
                login=error.login,
            ) from error
