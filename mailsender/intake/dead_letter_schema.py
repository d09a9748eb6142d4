"""The dead-letter topic: what a record there carries beside the original's bytes and headers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_NUMBER = "^[0-9]+$"


class DeadLetterHeaders(BaseModel):
    """The headers of a dead letter, as text. The original record's own headers stand beside them."""

    model_config = ConfigDict(frozen=True)

    reason: Literal["not-a-batch", "older-than-retention", "unreadable", "too-many-faults"] = Field(
        alias="mailsender-reason",
        description=(
            "`older-than-retention`: it may have been sent and forgotten, so it is not taken in again."
            " `unreadable`: it is no record that can be read, or unpacks to too much; the value is what lies"
            " in its place, as `mailsender-detail` says."
            " `too-many-faults`: its good letters were taken in, and the first of the others have reports."
        ),
    )
    detail: str = Field(
        alias="mailsender-detail", description="A sentence for a person.", min_length=1, max_length=500
    )
    topic: str = Field(alias="mailsender-topic", description="The topic it was on.", min_length=1)
    partition: str = Field(
        alias="mailsender-partition", description="The partition it was in.", pattern=_NUMBER
    )
    offset: str = Field(alias="mailsender-offset", description="Its offset there.", pattern=_NUMBER)
    time: str = Field(
        alias="mailsender-time",
        description="When it was moved, RFC 3339 in UTC.",
        json_schema_extra={"format": "date-time"},
    )
    kept_in: str = Field(
        "",
        alias="mailsender-kept-in",
        description="Where the broker refused the record for its size: the place in MongoDB that holds it.",
    )
