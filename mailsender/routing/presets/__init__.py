"""Presets: what providers say and want, as data. Each rule names who says so, and if that was verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mailsender.routing.presets.google import GOOGLE_RELAY, GOOGLE_USER
from mailsender.routing.presets.mailboxes import MAILRU, YAHOO, YANDEX360
from mailsender.routing.presets.microsoft import EXCHANGE, MICROSOFT365
from mailsender.routing.presets.postfix import POSTFIX
from mailsender.routing.presets.preset import Limits, Preset
from mailsender.routing.presets.providers import MAILERSEND, MAILGUN, POSTMARK, SELECTEL, SENDGRID
from mailsender.routing.presets.ses import SES
from mailsender.routing.reply_rule import ReplyRule, checked

__all__ = ["NO_LIMITS", "PRESETS", "Limits", "Preset", "limits_of", "rules_of"]

PRESETS: Final[Mapping[str, Preset]] = {
    each.name: each
    for each in (
        SES,
        GOOGLE_RELAY,
        GOOGLE_USER,
        MICROSOFT365,
        EXCHANGE,
        YAHOO,
        SENDGRID,
        MAILGUN,
        POSTMARK,
        MAILERSEND,
        SELECTEL,
        YANDEX360,
        MAILRU,
        POSTFIX,
    )
}
"""All of them, by the names that a relay of the file may give as its `preset`."""


NO_LIMITS: Final = Limits()
"""Those of a relay without a preset."""


def limits_of(preset: str) -> Limits:
    """The limits that go with a preset; an empty name, or one that nobody has, for none."""
    return PRESETS[preset].limits if preset in PRESETS else NO_LIMITS


def rules_of(own: Iterable[ReplyRule], preset: str) -> tuple[ReplyRule, ...]:
    """The rules of a relay: those of the file, then its preset's; an empty name for none.

    Raises:
        ValueError: no preset has that name, or the file's are too many, or two have one name.
    """
    if preset and preset not in PRESETS:
        raise ValueError(f"preset: {preset} is none; there are {', '.join(PRESETS)}")
    return (*checked(own), *(PRESETS[preset].rules if preset else ()))
