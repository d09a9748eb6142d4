"""How rates, quotas, parts and names are written in the file. Pure.

Each parser raises `ValueError` with a text that says what is needed; the value itself is not repeated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mailsender.model.address import BadAddress, parse_address
from mailsender.model.durations import seconds_of
from mailsender.model.handling import MAX_STREAM
from mailsender.model.handling import NAME as STREAM
from mailsender.routing.presets import Limits
from mailsender.settings.kinds import DAY, MOST

NAME: Final = "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"
"""A relay's or a route's name. It stands in documents' keys, in labels of metrics and in commands, where
dots, slashes and dollar signs have meanings of their own, and a longer one breaks tables."""

RATE: Final = "^[0-9]{1,10}( recipients| messages)?/([smhd]|([0-9]+([.][0-9]+)?(ms|s|m|h|d))+)$"
QUOTA: Final = (
    "^[0-9]{1,10}( recipients| messages)?/(day( [A-Za-z0-9_+/-]+)?|([0-9]+([.][0-9]+)?(s|m|h|d))+)$"
)
PERCENT: Final = "^[0-9]{1,3}([.][0-9]+)?%$"
DURATION: Final = "^(0|([0-9]+([.][0-9]+)?(ms|s|m|h|d))+)$"
"""What editors may say before the service does; the parsers below decide."""

SHORTEST_QUOTA: Final = 600.0
"""Seconds. What is counted over less than ten minutes is a rate."""

LONGEST_QUOTA: Final = 31 * DAY
"""Seconds; no provider counts over more than a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`letters` in `period` seconds.

    Recipients are counted, or transactions; `recipients` None: as the relay's preset has it.
    """

    letters: int
    period: float
    recipients: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """`letters` in any `period` seconds, or in a calendar day of `timezone`: then that is 0.

    `recipients`: see `Rate`.
    """

    letters: int
    period: float = 0.0
    timezone: str = "UTC"
    recipients: bool | None = None


def parse_rate(text: str) -> Rate:
    """``14/s``, ``100/5m``: so many in a period; ``14 recipients/s``, ``14 messages/s`` say of what.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(RATE, text):
        raise ValueError("a rate such as 14/s or 100/5m is needed")
    number, _, period = text.partition("/")
    count, recipients = _counted(number)
    return Rate(letters=count, period=_period(period), recipients=recipients)


def parse_quota(text: str) -> Quota:
    """``50000/24h`` in any 24 hours; ``500/day`` or ``500/day Europe/Moscow`` in a calendar day there.

    ``10000 recipients/24h`` says what is counted.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(QUOTA, text):
        raise ValueError("a quota such as 50000/24h (any 24 hours) or 500/day Europe/Moscow is needed")
    number, _, period = text.partition("/")
    count, recipients = _counted(number)
    word, _, zone = period.partition(" ")
    if word == "day":
        return Quota(letters=count, timezone=known_zone(zone or "UTC"), recipients=recipients)
    seconds = _period(period)
    if not SHORTEST_QUOTA <= seconds <= LONGEST_QUOTA:
        raise ValueError("a quota's period is from 10m to 31d; what is counted over less is a rate")
    return Quota(letters=count, period=seconds, recipients=recipients)


def counts_recipients(limit: Rate | Quota, preset: Limits) -> bool:
    """Whether a rate or a quota counts recipients: as it says itself, else as the limits of the preset do."""
    if limit.recipients is not None:
        return limit.recipients
    return preset.rate_of_recipients if isinstance(limit, Rate) else preset.quota_of_recipients


def parse_percent(text: str) -> float:
    """The part that ``50%`` is: 0.5.

    Raises:
        ValueError: it is none from 0 to 100 percent.
    """
    if not re.fullmatch(PERCENT, text) or float(text[:-1]) > 100:
        raise ValueError("a part such as 50% is needed")
    return float(text[:-1]) / 100


def known_zone(name: str) -> str:
    """The name of a time zone that is known.

    Raises:
        ValueError: it is not.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; a name such as Europe/Moscow is needed") from None
    return name


def domain_pattern(text: str) -> str:
    """A domain as DNS has it, in lower case, or ``*.`` before one for all below it.

    Raises:
        ValueError: it is neither.
    """
    wild, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        return wild + parse_address(f"a@{name}").domain
    except BadAddress as error:
        raise ValueError(f"a domain, or *.domain, is needed: {error}") from None


def mailbox_pattern(text: str) -> str:
    """An address as it goes onto the wire, or what `domain_pattern` takes.

    Raises:
        ValueError: it is neither.
    """
    if "@" not in text:
        return domain_pattern(text)
    try:
        return parse_address(text).wire
    except BadAddress as error:
        raise ValueError(f"an address, a domain or *.domain is needed: {error}") from None


def stream_name(text: str) -> str:
    """A stream that a letter can have.

    Raises:
        ValueError: none can have it.
    """
    if len(text) > MAX_STREAM or not STREAM.fullmatch(text):
        raise ValueError(
            f"no letter can have it; one has letters, digits, '.', '-' and '_' of ASCII, up to {MAX_STREAM}"
        )
    return text


def _counted(text: str) -> tuple[int, bool | None]:
    """How many, and whether of recipients; None where that is not said."""
    number, _, what = text.partition(" ")
    count = int(number)
    if not 1 <= count <= MOST:
        raise ValueError(f"its number is from 1 to {MOST}; leave it out for none")
    return count, what == "recipients" if what else None


def _period(text: str) -> float:
    seconds = seconds_of(f"1{text}" if text.isalpha() else text)
    if not 0 < seconds <= LONGEST_QUOTA:
        raise ValueError("its period is from 1ms to 31d")
    return seconds
