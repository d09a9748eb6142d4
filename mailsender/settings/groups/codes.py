"""Confirmation codes."""

from __future__ import annotations

from pydantic import BaseModel, SecretStr, field_validator

from mailsender.settings.kinds import DAY, Duration, field

MIN_CODE_SECRET = 32
"""Characters of the shortest `CODE_SECRET`: in hex they are 128 bits."""


class CodeSettings(BaseModel):
    """How codes are made, and how many."""

    code_secret: SecretStr = field(
        SecretStr(""),
        "Key under which confirmation codes are hashed, the same in all replicas: 32 random characters at"
        " least. Without it no codes are made.",
    )
    code_length: int = field(6, "Digits of a code.", ge=6, le=12)
    code_life: Duration = field(600.0, "Time for which a code holds.", ge=60, le=DAY, shown="10m")
    code_tries: int = field(5, "How often a code may be tried.", ge=1, le=20)
    code_pause: Duration = field(
        60.0,
        "Time for which a request for a code that is repeated under its `IdempotencyKey` sends none.",
        ge=1,
        le=3600,
        shown="1m",
    )
    code_window: Duration = field(
        3600.0,
        "Time in which codes are counted; it begins with the first.",
        ge=60,
        le=7 * DAY,
        shown="1h",
    )
    code_per_address: int = field(5, "Codes for one address in a window.", ge=1, le=1000)
    code_per_caller: int = field(100, "Codes for one caller in a window.", ge=1, le=1_000_000)

    @field_validator("code_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        """A code has few digits, so the key has to be what nobody can guess."""
        if 0 < len(value.get_secret_value()) < MIN_CODE_SECRET:
            raise ValueError(f"it has to have at least {MIN_CODE_SECRET} characters")
        return value
