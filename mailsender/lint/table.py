"""All rules, and the page that is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mailsender.lint.body import BODY_RULES
from mailsender.lint.headers import HEADER_RULES
from mailsender.lint.links import LINK_RULES
from mailsender.lint.mailings import MAILING_RULES
from mailsender.lint.rule import Rule

RULES: Final[tuple[Rule, ...]] = (*HEADER_RULES, *MAILING_RULES, *LINK_RULES, *BODY_RULES)


def table() -> Iterator[str]:
    """The lines of the table in docs/reference/lint.md."""
    yield "| rule | level | what is found | why it matters | who says so |"
    yield "| --- | --- | --- | --- | --- |"
    for rule in RULES:
        yield f"| `{rule.id}` | {rule.level} | {rule.about} | {rule.reason} | {rule.source} |"
