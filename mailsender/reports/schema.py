"""The form of a record of the profile topic.

Apart from `reports`, whose functions can be compiled; mypyc takes no model of pydantic.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mailsender.model.letter import MOST_PAST, Phase

# Everything is always written; readers can count on it.
_DESCRIBED = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

_PHASES: dict[str, Any] = {"enum": ["", *(phase.value for phase in Phase)]}
_TIME = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z$"


class Reason(BaseModel):
    """Why the letter ended as it did: the reply that decided, or our own words where no relay did."""

    model_config = _DESCRIBED

    Code: int | None = Field(None, description="SMTP reply code (RFC 5321); null where no reply was seen.")
    EnhancedCode: str = Field("", description="Enhanced status code (RFC 3463), such as 5.1.1, or empty.")
    Text: str = Field("", description="One line fit for a person.")
    Phase: str = Field(
        "",
        description="The step that decided: `intake` before any relay was asked, `dot` at the message's end.",
        json_schema_extra=_PHASES,
    )


class RecipientReport(BaseModel):
    """What became of one recipient."""

    model_config = _DESCRIBED

    Address: str = Field(description="As published.")
    Status: Literal["accepted", "refused", "deferred", "uncertain"] = Field(
        description="`deferred` and `uncertain` are what the last attempt came to when no more is left."
    )
    Code: int | None = Field(None, description="SMTP reply code; null where no reply was seen.")
    EnhancedCode: str = Field("", description="Enhanced status code, or empty.")
    Text: str = Field("", description="One line fit for a person.")
    Phase: str = Field("", description="The step that decided.", json_schema_extra=_PHASES)
    Uncertain: bool = Field(
        False, description="An attempt was lost after its final dot: the letter may have arrived from it."
    )
    Relay: str = Field(
        "",
        description="The relay that said so, or that was asked last, named as in the file or as `host:port`;"
        " empty for none.",
    )
    Rule: str = Field(
        "",
        description="The reply rule that decided what that means, such as `ses/rate` or `default/mailbox`;"
        " empty where the relay was taken at its word.",
    )


class AttemptReport(BaseModel):
    """What one attempt came to."""

    model_config = _DESCRIBED

    Time: str = Field("", description="When it was over; empty where only its traces were found.")
    Relay: str = Field("", description="The relay that was asked, named as in the file or as `host:port`.")
    Status: Literal["accepted", "refused", "deferred", "uncertain"] = Field(
        description="What decided about the letter."
    )
    Code: int | None = Field(None, description="SMTP reply code; null where no reply was seen.")
    EnhancedCode: str = Field("", description="Enhanced status code, or empty.")
    Text: str = Field("", description="The beginning of what was said.")
    Phase: str = Field("", description="The step that decided.", json_schema_extra=_PHASES)
    Rule: str = Field(
        "", description="The reply rule that decided; empty where the relay was taken at its word."
    )
    Recipients: int = Field(description="How many recipients something was said about.", ge=0)
    Accepted: int = Field(description="How many of them were accepted.", ge=0)
    Seconds: float | None = Field(None, description="How long it took; null where that is not known.", ge=0)
    TLS: str = Field("", description="The version of TLS, such as `TLSv1.3`; empty for none, or unknown.")


class Report(BaseModel):
    """One record of the profile topic; the first seven fields are those of the original service."""

    model_config = _DESCRIBED

    ID: str = Field(
        description=(
            "The letter's ID, 24 hexadecimal digits. Only what another program had put into the queue itself"
            " may have another form."
        ),
        min_length=1,
    )
    Addresses: list[str] = Field(description="As published.")
    Subject: str = Field(description="As published.")
    Body: str = Field(description="As published; empty when `BodyOmitted`.")
    Token: Any = Field(description="As published.")
    Status: Literal["sent", "error"] = Field(
        description="`sent`: a relay took responsibility for at least one recipient."
    )
    KafkaKey: str = Field(description="The record's key as text, undecodable bytes as U+FFFD.")
    Reason: Reason
    Recipients: list[RecipientReport] = Field(description="Each recipient that was tried, once.")
    Attempts: int = Field(description="How often sending was begun.", ge=0)
    History: list[AttemptReport] = Field(
        [],
        description=f"The last {MOST_PAST} attempts of a letter that took more than one, the oldest first;"
        " empty where one ended it, which the other fields tell.",
    )
    Relay: str = Field(
        description="The relay of the last attempt, named as in the file or as `host:port`, or empty."
    )
    MessageID: str = Field(description="The message's Message-ID, the same over all attempts, or empty.")
    Time: str = Field(
        description="When the letter was finished, RFC 3339 in UTC with milliseconds.",
        json_schema_extra={"format": "date-time", "pattern": _TIME},
    )
    Uncertain: bool = Field(description="Some recipient may have got the letter twice, or without a trace.")
    BodyOmitted: bool = Field(
        False, description="`Body` was left out: for size, by a setting, or because it is kept no longer."
    )
    Omitted: list[str] = Field([], description="What else was left out because the report was too large.")
    Route: str = Field("", description="The route that the letter took.")
    Stream: str = Field("", description="As published, or empty.")
    Tags: list[str] = Field([], description="As published, each once and in order.")
