"""What `POST /lint` answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mailsender.web.models import Count

_CLOSED = ConfigDict(frozen=True, extra="forbid")


class FindingView(BaseModel):
    """One thing that a mailbox provider would mind."""

    model_config = _CLOSED

    index: Count = Field(description="The letter's place in the array, from 0; 0 for a message.")
    rule: str = Field(description="The rule's name, which stays the same; docs/reference/lint.md has all.")
    level: Literal["note", "warning", "error"]
    text: str = Field(description="What is so, for a person.")
    reason: str = Field(description="Why it matters.")
    source: str = Field(description="Who says so.")


class LintView(BaseModel):
    """What was found in letters, or in a message."""

    model_config = _CLOSED

    kind: Literal["letters", "message"]
    messages: Count = Field(description="Letters in the batch; 1 for a message.")
    looked_at: Count = Field(description="Those of them that were looked at: of a large batch the first.")
    worst: Literal["ok", "note", "warning", "error"]
    findings: list[FindingView] = Field(description="By letter, the worst first; at most 1000.")
