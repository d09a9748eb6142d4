"""To look through what was given: a batch of letters, or a finished message."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from mailsender.intake.batch import NotABatch
from mailsender.lint.letters import Surroundings, elements_of, view_of_element
from mailsender.lint.message import MAX_MESSAGE, NotAMessage, view_of_message
from mailsender.lint.rule import Finding, findings_of, worst
from mailsender.lint.table import RULES

MAX_INPUT: Final = MAX_MESSAGE
"""Octets that are looked at."""

MAX_LETTERS: Final = 1_000
"""Letters of a batch that are looked at: those of a batch are alike."""

MAX_FINDINGS: Final = 1_000
"""Findings that are told; nobody reads more."""

MAX_WORK: Final = 8 * 1024 * 1024
"""Characters of all bodies that are looked at: some seconds of work."""


class NothingToSee(Exception):  # noqa: N818  an answer about the input
    """What was given is neither a batch nor a message; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linted:
    """What was found in `kind`; `looked_at` of its `messages` were looked at."""

    kind: Literal["letters", "message"]
    messages: int
    looked_at: int
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """The same as programs read it."""
        return {
            "kind": self.kind,
            "messages": self.messages,
            "looked_at": self.looked_at,
            "worst": worst(self.findings),
            "findings": [asdict(each) for each in self.findings],
        }


def is_batch(data: bytes) -> bool:
    """Whether `data` is meant as JSON: its first sign is a bracket, with which no header's name begins."""
    return data.removeprefix(BOM_UTF8).lstrip()[:1] in {b"[", b"{"}


def lint(data: bytes, known: Surroundings) -> Linted:
    """What a mailbox provider would mind in `data`.

    It is a batch in JSON as on the in-topic, a letter of one, or a message as in an .eml file. Which of them,
    its first sign tells.

    Raises:
        NothingToSee: it is none of them, or too large.
    """
    if len(data) > MAX_INPUT:
        raise NothingToSee(f"it has {len(data)} octets; {MAX_INPUT} are looked at")
    try:
        if is_batch(data):
            return _batch(data, known)
        view = view_of_message(data, known)
    except (NotABatch, NotAMessage) as error:
        raise NothingToSee(str(error)) from None
    return Linted(kind="message", messages=1, looked_at=1, findings=tuple(findings_of(view, RULES)))


def _batch(data: bytes, known: Surroundings) -> Linted:
    elements = elements_of(data, known.limits)
    findings: list[Finding] = []
    looked_at = work = 0
    for element in elements[:MAX_LETTERS]:
        if work > MAX_WORK or len(findings) >= MAX_FINDINGS:
            break
        view = view_of_element(element, known)
        findings += findings_of(view, RULES, looked_at)
        looked_at += 1
        work += len(view.html or "") + len(view.text or "")
    return Linted(
        kind="letters",
        messages=len(elements),
        looked_at=looked_at,
        findings=tuple(findings[:MAX_FINDINGS]),
    )
