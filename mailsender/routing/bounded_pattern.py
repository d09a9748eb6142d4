"""Regular expressions of an operator that cannot take long, whatever a relay writes. Pure.

Python's `re` tries one way after another, and `(a+)+b` has more ways than anybody can wait for. So a rule may
use a part of the language in which the ways can be counted beforehand: what is repeated is one character or
class, never a group, and the ways from one place, times what each can cost, are at most `MAX_WORK`.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

from mailsender.model.text import MAX_TEXT

MAX_PATTERN: Final = 200
"""Characters of the longest pattern: a reply's line that is quoted whole fits."""

MAX_WORK: Final = 8_000
"""Ways to fit from one place of a text, times the pattern's characters. Of the worst patterns on the worst
texts of `MAX_TEXT` characters that were found it is 7 ms; usual ones take microseconds."""

_ATOM: Final = re.compile(
    r"\\[dDwWsSbB]|\\[^\w\s]|\[\^?\]?(?:\\[dDwWsS]|\\[^\w\s]|[^\]\\\[])*\]|\(\?:|[^\\\[\])*+?{}|]"
)
_REPEAT: Final = re.compile(r"([*+?]|\{(\d{1,3})(?:,(\d{0,3}))?\})\??")


class BadPattern(ValueError):  # noqa: N818  an answer about what an operator wrote
    """A pattern that may take long, or is none; the text says why."""


def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern`, to be searched for in texts of up to `MAX_TEXT` characters, whatever their case.

    Raises:
        BadPattern: it is none, or not of the part of the language that cannot take long.
    """
    if len(pattern) > MAX_PATTERN:
        raise BadPattern(f"has {len(pattern)} characters, more than {MAX_PATTERN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = re.compile(pattern, re.IGNORECASE)
    except Warning as warning:
        raise BadPattern(f"will be read otherwise by a later Python: {warning}") from None
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"is no regular expression: {error}") from None
    ways = _Counter(pattern).count()
    if ways * len(pattern) > MAX_WORK:
        raise BadPattern(
            "may fit in too many ways; repeat less, such as .{0,20} for .*, and leave out a .* at either end"
        )
    return found


class _Counter:
    """Counts the ways from one place: those of a row multiply, those of alternatives add up."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def count(self) -> int:
        """All of the pattern.

        Raises:
            BadPattern: it has something else than this part of the language.
        """
        ways = self._alternatives()
        if self._at < len(self._pattern):
            raise BadPattern(f"cannot be used: {self._pattern[self._at :]!r} stands where it may not")
        return ways

    def _alternatives(self) -> int:
        total = 0
        while True:
            total += self._row()
            if not self._pattern.startswith("|", self._at):
                return total
            self._at += 1

    def _row(self) -> int:
        ways = 1
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            ways = min(ways * self._piece(), MAX_WORK + 1)
        return ways

    def _piece(self) -> int:
        found = _ATOM.match(self._pattern, self._at)
        if found is None:
            raise BadPattern(
                f"cannot be used: {self._pattern[self._at :]!r} is not of the part that is taken"
            )
        self._at = found.end()
        if found[0] not in {"(", "(?:"}:
            return self._repeats()
        inner = self._alternatives()
        if not self._pattern.startswith(")", self._at):
            raise BadPattern("cannot be used: a group of another kind than (…) and (?:…)")
        self._at += 1
        repeat = _REPEAT.match(self._pattern, self._at)
        if repeat is None:
            return inner
        if repeat[0] != "?":
            raise BadPattern("cannot be used: a group is repeated; only single characters and classes may be")
        self._at = repeat.end()
        return inner + 1

    def _repeats(self) -> int:
        repeat = _REPEAT.match(self._pattern, self._at)
        if repeat is None:
            return 1
        self._at = repeat.end()
        sign, least, most = repeat[1], repeat[2], repeat[3]
        if sign == "?":
            return 2
        if sign in "*+":
            return MAX_TEXT
        if most is None:
            return 1
        return max(1, (int(most) if most else MAX_TEXT) - int(least) + 1)
