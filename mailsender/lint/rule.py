"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mailsender.lint.view import View

Level: TypeAlias = Literal["note", "warning", "error"]

LEVELS: Final[tuple[Level, ...]] = ("note", "warning", "error")
"""From the mildest on. For an error a large provider refuses the message or puts it among spam, or everybody
reads what is wrong; a warning costs reputation or readers; a note is to be known."""

GOOGLE: Final = "Google, Email sender guidelines (support.google.com/a/answer/81126)"
YAHOO: Final = "Yahoo, Sender Best Practices (senders.yahooinc.com/best-practices)"
YAHOO_MAIL: Final = "Yahoo Mail, Best practices when sending to Yahoo Mail (2008)"
MICROSOFT: Final = "Microsoft, Outlook.com's requirements for high-volume senders (May 2025)"
SPAMASSASSIN: Final = "SpamAssassin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that is looked for: `look` says what of it there is in a message, or nothing.

    `about` names it, `reason` says why it matters, `source` who says so. What `look` says repeats as little
    of the message as it can.
    """

    id: str
    level: Level
    about: str
    reason: str
    source: str
    look: Callable[[View], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule found in the message at `index` of those that were given."""

    index: int
    rule: str
    level: Level
    text: str
    reason: str
    source: str


def findings_of(view: View, rules: Iterable[Rule], index: int = 0) -> list[Finding]:
    """What `rules` find in a message, the worst first."""
    found = [
        Finding(
            index=index, rule=rule.id, level=rule.level, text=text, reason=rule.reason, source=rule.source
        )
        for rule in rules
        if (text := rule.look(view))
    ]
    return sorted(found, key=lambda each: -LEVELS.index(each.level))


def worst(findings: Sequence[Finding]) -> Level | Literal["ok"]:
    """The worst level of them; ``ok`` where there are none."""
    return max((each.level for each in findings), key=LEVELS.index, default="ok")


def some(names: Iterable[str], most: int = 3) -> str:
    """A few of `names` for a sentence, each once and cut short."""
    each = list(dict.fromkeys(name if len(name) <= 80 else f"{name[:79]}…" for name in names))
    more = f" and {len(each) - most} more" if len(each) > most else ""
    return ", ".join(each[:most]) + more
