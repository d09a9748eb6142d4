"""What is asked of confirmation codes, and what is answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mailsender.intake.schema_patterns import ADDRESS
from mailsender.web.models import LetterId

_ASKED = ConfigDict(frozen=True, extra="forbid", strict=True)
_ANSWERED = ConfigDict(frozen=True, extra="forbid")

PURPOSE = "password"

CodeAddress = Annotated[str, Field(json_schema_extra=dict(ADDRESS))]
"""A plain address, checked by `parse_address`."""

PurposeName = Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,64}$", max_length=64)]


class CodeIn(BaseModel):
    """A code that is asked for. Keys match without regard to case."""

    model_config = _ASKED

    Address: CodeAddress = Field(description="Where the code is sent: a plain address.")
    Purpose: PurposeName = Field(
        PURPOSE, description="What it is for. A code is right for its own purpose only."
    )
    Template: str = Field(
        "password",
        description="The template of its letter; it gets `code`, `minutes` and `until` beside `Variables`.",
        max_length=129,
    )
    Variables: dict[str, Any] = Field({}, description="Further values for the template.")
    Lang: str = Field("", description="The reader's language, such as `ru`.", max_length=64)
    Caller: str = Field(
        "",
        description="Who asks, as your system knows it, such as the user's IP address: the limit by caller"
        " counts by it. Without it, the address that the request comes from.",
        max_length=256,
    )
    IdempotencyKey: str = Field(
        "",
        description="Any text that nobody else knows or uses, such as the session's. The same request again"
        " within CODE_PAUSE sends nothing and is answered the same; later it sends a new code under the"
        " same `id`, and the one before holds no more.",
        max_length=256,
    )
    Known: bool = Field(
        True,
        description="false: no letter goes. Now and later all is answered as for other addresses, so that"
        " nobody learns from your answers which ones you know.",
    )
    Token: Any = Field("", description="Comes back in the letter's report.")


class CodeView(BaseModel):
    """A code that was made. The code itself is in its letter only."""

    model_config = _ANSWERED

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = Field(
        description="What the code is checked under. Who does not know it can neither check nor spoil it."
    )
    until: datetime = Field(description="When it is over.")
    letter: LetterId = Field(description="The ID of its letter. Where `Known` was false there is none.")


class GuessIn(BaseModel):
    """A code that somebody gives. Keys match without regard to case."""

    model_config = _ASKED

    ID: str = Field(description="The `id` that came when it was asked for.", max_length=64)
    Address: CodeAddress = Field(description="The address that it was asked for, spelled the same.")
    Purpose: PurposeName = Field(PURPOSE, description="The purpose that it was asked for.")
    Code: str = Field(description="What was typed; spaces and dashes do not count.", max_length=64)


class VerdictView(BaseModel):
    """What a code is."""

    model_config = _ANSWERED

    result: Literal["right", "wrong", "over", "too-often"] = Field(
        description="`right`: once only, it is used up. `over`: its time is over, it was used, or there is"
        " none under this ID, address and purpose. `too-often`: it was tried too often, and is of no use."
    )
