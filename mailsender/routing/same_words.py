"""Recipients whom a relay refused in the same words, one after the other, and took nobody in between. Pure.

Where so many are, what it says need not be about any of them: it may refuse the account in words that nobody
knows yet.
"""

from __future__ import annotations

import re
from typing import Final

from mailsender.model.letter import Result

RUN: Final = 3
"""Different recipients in a row from whose refusals nothing is learned of any of them."""

NOBODY: Final[frozenset[str]] = frozenset()

_VARIES: Final = re.compile(r"\S*[@\d]\S*")
"""Addresses, numbers, and the names that a relay gives to what it refuses."""


class SameWords:
    """The last run of them, of one relay: its words, and up to `RUN` recipients."""

    def __init__(self) -> None:
        self._words: tuple[int | None, str | None, str] | None = None
        self._recipients: set[str] = set()

    def __bool__(self) -> bool:
        """Whether somebody was refused since the relay took one."""
        return self._words is not None

    def heard(self, address: str, result: Result) -> frozenset[str]:
        """One more was refused; returns those of whom nothing is to be learned from it.

        With the one who makes it a run the earlier ones are among them, from then on each further one.
        """
        words = result.code, result.enhanced, " ".join(_VARIES.sub(" ", result.text).split())
        if words != self._words:
            self._words, self._recipients = words, set()
        if len(self._recipients) >= RUN:
            return frozenset((address,))
        self._recipients.add(address)
        return frozenset(self._recipients) if len(self._recipients) >= RUN else NOBODY

    def end(self) -> None:
        """The relay took somebody."""
        self._words = None
        self._recipients = set()
