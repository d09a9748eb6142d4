"""Addresses to which nothing is sent."""

from __future__ import annotations

from pydantic import BaseModel

from mailsender.settings.kinds import Duration, field
from mailsender.suppression.rules import LIFE


class SuppressionSettings(BaseModel):
    """What is put on the suppression list, and whom it does not hold for."""

    suppression_learn: bool = field(
        False,
        "Whether addresses that relays refuse for good are put on the suppression list. What is on the list"
        " is not sent to in either case.",
    )
    suppression_life: Duration = field(
        LIFE,
        "Time for which an entry of the list holds where it does not say until when.",
        ge=3600,
        shown="30d",
    )
    suppression_transactional: str = field(
        "transactional",
        "Streams whose letters may go out whoever is on the list, between commas: they say"
        ' `"Suppression": "ignore"`.',
    )
