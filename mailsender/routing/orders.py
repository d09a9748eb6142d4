"""What a relay's replies ordered beyond their letters, as this replica obeys it. Pure, given `now`.

`now` is monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailsender.routing.reply_rule import RELAY_KEY, Decision

MOST: Final = 1_000
"""Scope keys that are kept: whoever answers for each of a million recipients must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A decision that is in force until a time."""

    decision: Decision
    until: float


class Orders:
    """Those in force, by scope key; see `mailsender.routing.reply_rule.scope_key`."""

    def __init__(self) -> None:
        self._of: dict[str, Ordered] = {}

    def __len__(self) -> int:
        return len(self._of)

    def obey(self, decision: Decision, key: str, now: float) -> bool:
        """Take one in; whether it is news: nothing held that key. The later end holds."""
        before = self._of.get(key)
        until = now + decision.seconds
        news = before is None or before.until <= now
        if before is None or until > before.until:
            self._of[key] = Ordered(decision, until)
        if len(self._of) > MOST:
            self._make_room(now)
        return news

    def of(self, key: str, now: float) -> Ordered | None:
        """What holds a key now, None where nothing does."""
        found = self._of.get(key)
        if found is not None and found.until <= now:
            del self._of[key]
            return None
        return found

    def left(self, key: str, now: float) -> float:
        """Seconds for which nothing that the key covers may begin."""
        found = self.of(key, now)
        return 0.0 if found is None else found.until - now

    def _make_room(self, now: float) -> None:
        """The past ones go; of the others the one that ends first, but never the relay's own."""
        for key in [key for key, each in self._of.items() if each.until <= now]:
            del self._of[key]
        if len(self._of) > MOST:
            others = [key for key in self._of if key != RELAY_KEY]
            del self._of[min(others, key=lambda key: self._of[key].until)]
