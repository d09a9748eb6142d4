"""The port behind which templates are kept that people save while the service runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailsender.templates.template import Template, TemplateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One version as it was saved.

    `template` is prepared; `files` are what its author wrote, by the names that they have in a folder.
    `saved_at` is None for one that came out of a folder.
    """

    template: Template
    files: Mapping[str, str]
    saved_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The newest version of a template, without what is in it."""

    name: str
    version: str
    files: tuple[str, ...]
    saved_at: datetime | None = None


class PinStore(Protocol):
    """Keeps what letters are made of when they are sent, under the hash of it, and never forgets it."""

    async def pin(self, digest: str, text: str) -> None:
        """Keep `text`; afterwards it is durable. To keep it again changes nothing.

        Raises:
            Unavailable: nobody knows whether it is kept.
            Rejected: it never can be.
        """
        ...

    async def pinned(self, digest: str) -> str | None:
        """What is kept under `digest`; None where nothing is.

        Raises:
            Unavailable: the store does not answer.
        """
        ...


class Shelf(TemplateStore, PinStore, Protocol):
    """Templates by name and version. A version never changes, and the highest is the newest.

    Versions are numbers, written as texts: 1, 2, 3. What one replica saves all others find within
    `MAX_AGE` seconds.
    """

    async def put(self, template: Template, files: Mapping[str, str]) -> tuple[Stored, bool]:
        """Keep `template`, which is prepared, as the newest version; its own version does not count.

        Returns it with its version, and whether that is new: the same as the newest one is not kept twice.

        Raises:
            Unavailable: nobody knows whether it is kept; to put it again does no harm.
            Rejected: it never can be.
        """
        ...

    async def look_up(self, name: str, version: str | None) -> Stored | None:
        """One version, or the newest one, as it is now; None where there is none.

        Raises:
            Unavailable: the store does not answer.
        """
        ...

    async def listed(self) -> list[Listed]:
        """The newest version of each template, by name; at most `MAX_LISTED`.

        Raises:
            Unavailable: the store does not answer.
        """
        ...


MAX_AGE = 2.0
"""Seconds after which it is asked again which version is the newest."""

MAX_LISTED = 10_000
"""Templates that a list names."""


def number_of(version: str) -> int | None:
    """The number that a version of a `Shelf` is; None where it is none."""
    if not version.isascii() or not version.isdigit() or version[0] == "0" or len(version) > 9:
        return None
    return int(version)
