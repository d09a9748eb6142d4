"""Reads the file and judges it. One complaint names all that is wrong with it, each with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from mailsender.settings.file.bounds import excess
from mailsender.settings.file.checks import faults_of
from mailsender.settings.file.faults import Fault, told, told_of_model, unreadable
from mailsender.settings.file.lines import lines_of
from mailsender.settings.file.logins import credentials_of, host_of, names_in
from mailsender.settings.file.schema import FileTables
from mailsender.settings.sources import SettingsError
from mailsender.smtp.credentials import Credentials, TokenEndpoint

CONFIG: Final = "MAILSENDER_CONFIG"

MAX_BYTES: Final = 1_000_000
"""Bytes of the largest file: all relays and routes that there may be, with some hundred words on each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says, and what it names: hosts and credentials of its relays. `path` is where it lies."""

    path: str
    tables: FileTables
    hosts: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, Credentials] = field(default_factory=dict, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody may see."""
        found = []
        for each in self.credentials.values():
            found += [each.password, f"\0{each.user}\0{each.password}"] if each.password else []  # RFC 4616
            if isinstance(each.tokens, TokenEndpoint):
                found.append(each.tokens.client_secret)
        return tuple(text for text in found if text)

    @property
    def names(self) -> frozenset[str]:
        """Names of the environment that the file takes values from."""
        return frozenset(names_in(self.tables.relays.values()))


def read_config(path: str, *, smtp: bool) -> Config:
    """The file at `path`. `smtp`: `SMTP_*` are a relay, too.

    Raises:
        SettingsError: it cannot be read, or something in it is wrong; nothing of a secret is in the text.
    """
    text = _text(path)
    if (more := excess(text)) is not None:
        raise SettingsError(f"{CONFIG}: {path}:{more[0]}: {more[1]}")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{CONFIG}: {unreadable(path, error, text)}") from None
    try:
        tables = FileTables.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        complaint = told_of_model(path, FileTables, details, lines_of(text), document)
        raise SettingsError(f"{CONFIG}: {complaint}") from None
    found = faults_of(tables, smtp=smtp)
    hosts, credentials = _named(tables, found)
    if found:
        raise SettingsError(f"{CONFIG}: {told(path, found, lines_of(text), document)}")
    return Config(path=path, tables=tables, hosts=hosts, credentials=credentials)


def _named(tables: FileTables, faults: list[Fault]) -> tuple[dict[str, str], dict[str, Credentials]]:
    """Hosts and credentials of all relays."""
    hosts, credentials = {}, {}
    for name, relay in tables.relays.items():
        place = ("relays", name)
        hosts[name] = host_of(relay, place, faults)
        credentials[name] = credentials_of(relay, place, faults)
    return hosts, credentials


def _text(path: str) -> str:
    place = Path(path)
    try:
        if place.exists() and not place.is_file():  # a pipe would be waited for
            raise SettingsError(f"{CONFIG}: {path} is no file")
        with place.open("rb") as file:
            octets = file.read(MAX_BYTES + 1)
        if len(octets) > MAX_BYTES:
            raise SettingsError(f"{CONFIG}: {path} is longer than {MAX_BYTES} bytes")
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        raise SettingsError(f"{CONFIG}: {path}:{line}: it is not UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"{CONFIG}: {path} cannot be read: {reason}") from None
