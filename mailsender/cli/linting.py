"""What `mailsender lint` does: looks through what was given, and puts the findings into lines."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import partial

from mailsender.lint.letters import Surroundings, nearest
from mailsender.lint.run import Linted, NothingToSee, lint
from mailsender.message.headers import Mailbox, parse_mailbox
from mailsender.settings.sources import SettingsError, read

__all__ = ["NothingToSee", "lines", "linted"]


def linted(data: bytes, bulk: bool | None, signed_by: Collection[str]) -> Linted:
    """What is found; see `mailsender.lint.run.lint`. `signed_by` are domains with keys, none for unknown.

    Raises:
        NothingToSee: it is neither letters nor a message.
    """
    domains = {each.strip().lower() for each in signed_by}
    signing = partial(nearest, domains) if domains else None
    return lint(data, Surroundings(now=datetime.now(UTC), sender=_sender(), signing=signing, bulk=bulk))


def lines(found: Linted) -> Iterator[str]:
    """Two lines for each finding: what is so, and why it matters."""
    for each in found.findings:
        place = f"letter {each.index}, " if found.kind == "letters" else ""
        yield f"{each.level:<7} {place}{each.rule}: {each.text}"
        yield f"        {each.reason} ({each.source})"


def _sender() -> Mailbox | None:
    """The sender of the service that has these surroundings, if they name one."""
    try:
        own = read(["smtp_from", "smtp_user"])
        return parse_mailbox(own.get("smtp_from") or own.get("smtp_user") or "")
    except (SettingsError, ValueError):
        return None
