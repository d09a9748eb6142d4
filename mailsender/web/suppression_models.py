"""What is asked about the suppression list, and what is answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mailsender.model.handling import MAX_STREAM
from mailsender.suppression.csv_text import MAX_FAULTS
from mailsender.suppression.port import Source
from mailsender.suppression.rules import MAX_REASON

MOST = 1000
"""Entries in one request, and in one answer."""

_ASKED = ConfigDict(frozen=True, extra="forbid", strict=True)
_ANSWERED = ConfigDict(frozen=True, extra="forbid")
_SOURCE: dict[str, Any] = {"enum": list(Source)}

Stream = Annotated[str, Field(max_length=MAX_STREAM)]


class SuppressionIn(BaseModel):
    """An address, or all of a domain, to be put on the list."""

    model_config = _ASKED

    address: str = Field(
        description="A plain address, or `@` and a domain: all addresses in it, but not in those below it.",
        max_length=400,
    )
    stream: Stream = Field("", description="Whose letters are not sent; empty: all letters.")
    reason: str = Field("", description=f"Why, for reports; {MAX_REASON} characters of it are kept.")
    until: str | None = Field(
        None,
        description="Until when it holds: a time such as 2026-12-31T23:59:59Z, or a duration from now such as"
        " 60d; `never`: it does not end by itself. Without it: SUPPRESSION_LIFE.",
        max_length=100,
    )


class SuppressionsIn(BaseModel):
    """Entries to be put on the list, in place of those of the same address and stream."""

    model_config = _ASKED

    suppressions: list[SuppressionIn] = Field(min_length=1, max_length=MOST)


class SuppressionView(BaseModel):
    """An entry of the list that holds now."""

    model_config = _ANSWERED

    address: str = Field(description="In lower case, the domain in A-labels.")
    stream: str = Field(description="Whose letters are not sent; empty: all letters.")
    source: str = Field(description="Who put it there.", json_schema_extra=_SOURCE)
    reason: str = Field(description="Why; of a refusal the relay's codes.")
    since: datetime = Field(description="Since when it holds.")
    until: datetime | None = Field(description="Until when; null: it does not end by itself.")
    letter: str = Field(description="The ID of the letter that was refused last; empty where none was.")


class SuppressionsView(BaseModel):
    """A page of the list."""

    model_config = _ANSWERED

    suppressions: list[SuppressionView] = Field(description="By address, and by stream.", max_length=MOST)
    next: str | None = Field(description="What `after` takes for the next page; null: this is the last.")


class SuppressedView(BaseModel):
    """What was put on the list."""

    model_config = _ANSWERED

    put: int = Field(description="How many entries were put there.", ge=0)
    new: int = Field(description="How many of them were not there before.", ge=0)


class RowFaultView(BaseModel):
    """A row of a file that was passed over."""

    model_config = _ANSWERED

    row: int = Field(description="Its line in the file; the first one is 1.", ge=1)
    text: str = Field(description="What is wrong with it, for a person.")


class ImportedView(BaseModel):
    """What became of a file."""

    model_config = _ANSWERED

    rows: int = Field(
        description="Rows of the file that should be entries, put or wrong: not the one that names columns,"
        " nor empty lines.",
        ge=0,
    )
    put: int = Field(description="How many entries were put on the list.", ge=0)
    new: int = Field(description="How many of them were not there before.", ge=0)
    wrong: int = Field(description="Rows that were passed over.", ge=0)
    faults: list[RowFaultView] = Field(description=f"The first {MAX_FAULTS} of them.", max_length=MAX_FAULTS)


class LiftedView(BaseModel):
    """What was taken off the list."""

    model_config = _ANSWERED

    removed: int = Field(description="How many entries.", ge=1)
