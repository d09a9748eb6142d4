"""A relay of the file: what is wrong with it is told by the file's keys instead of the settings' names."""

from __future__ import annotations

import re
from typing import Final

from mailsender.smtp.port import RelayAway, Session, Transport

_SETTING: Final = re.compile(
    r"SMTP_(?:(TIMEOUT)_)?([A-Z_]+)(?:=(?=(?:implicit|starttls|none|true|false|off)\b))?"
)


def file_words(text: str) -> str:
    """``tls_ca_file`` for ``SMTP_TLS_CA_FILE``, ``timeouts.dot`` for ``SMTP_TIMEOUT_DOT``."""

    def key(found: re.Match[str]) -> str:
        name = f"{'timeouts.' if found[1] else ''}{found[2].lower()}"
        return f"{name} = " if found[0].endswith("=") else name

    return _SETTING.sub(key, text)


class OfFile:
    """A `Transport` whose errors speak of the file."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def name(self) -> str:
        """See `Transport`."""
        return self._transport.name

    @property
    def remark(self) -> str:
        """See `Transport`."""
        return file_words(self._transport.remark)

    async def connect(self) -> Session:
        """See `Transport`.

        Raises:
            RelayAway: see `Transport`.
        """
        try:
            return await self._transport.connect()
        except RelayAway as error:
            error.args = (file_words(str(error)), *error.args[1:])
            raise
