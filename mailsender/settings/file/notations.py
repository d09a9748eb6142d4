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
from mailsender.settings.kinds import DAY, MOST

NAME: Final = "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"
"""A relay's or a route's name. It stands in documents' keys, in labels of metrics and in commands, where
dots, slashes and dollar signs have meanings of their own, and a longer one breaks tables."""

RATE: Final = "^[0-9]{1,10}/([smhd]|([0-9]+([.][0-9]+)?(ms|s|m|h|d))+)$"
QUOTA: Final = "^[0-9]{1,10}/(day( [A-Za-z0-9_+/-]+)?|([0-9]+([.][0-9]+)?(s|m|h|d))+)$"
PERCENT: Final = "^[0-9]{1,3}([.][0-9]+)?%$"
DURATION: Final = "^(0|([0-9]+([.][0-9]+)?(ms|s|m|h|d))+)$"
"""What editors may say before the service does; the parsers below decide."""

SHORTEST_QUOTA: Final = 600.0
"""Seconds. What is counted over less than ten minutes is a rate."""

LONGEST_QUOTA: Final = 31 * DAY
"""Seconds; no provider counts over more than a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`letters` transactions in `period` seconds."""

    letters: int
    period: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """`letters` transactions in any `period` seconds, or in a calendar day of `timezone`: then that is 0."""

    letters: int
    period: float = 0.0
    timezone: str = "UTC"


def parse_rate(text: str) -> Rate:
    """``14/s``, ``100/5m``: transactions in a period.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(RATE, text):
        raise ValueError("a rate such as 14/s or 100/5m is needed")
    number, _, period = text.partition("/")
    return Rate(letters=_count(number), period=_period(period))


def parse_quota(text: str) -> Quota:
    """``50000/24h`` in any 24 hours; ``500/day`` or ``500/day Europe/Moscow`` in a calendar day there.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(QUOTA, text):
        raise ValueError("a quota such as 50000/24h (any 24 hours) or 500/day Europe/Moscow is needed")
    number, _, period = text.partition("/")
    word, _, zone = period.partition(" ")
    if word == "day":
        return Quota(letters=_count(number), timezone=known_zone(zone or "UTC"))
    seconds = _period(period)
    if not SHORTEST_QUOTA <= seconds <= LONGEST_QUOTA:
        raise ValueError("a quota's period is from 10m to 31d; what is counted over less is a rate")
    return Quota(letters=_count(number), period=seconds)


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


def _count(number: str) -> int:
    count = int(number)
    if not 1 <= count <= MOST:
        raise ValueError(f"its number is from 1 to {MOST}; leave it out for none")
    return count


def _period(text: str) -> float:
    seconds = seconds_of(f"1{text}" if text.isalpha() else text)
    if not 0 < seconds <= LONGEST_QUOTA:
        raise ValueError("its period is from 1ms to 31d")
    return seconds
