"""Recipients for whom a reply asked to wait: what is too small and too many for the relay's document. Pure.

`now` is monotonic seconds. A letter's own time is kept with the letter; this is for others to the address.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mailsender.routing.reply_rule import Decision

MOST: Final = 1_000
"""Addresses that are kept: whoever answers so for each of a million recipients must not fill the memory."""


class Resting(NamedTuple):
    """Who rests does so for `seconds` more, by a rule, after what a relay said."""

    seconds: float
    rule: str
    said: str


class Orders:
    """Those in force, by scope key; see `mailsender.routing.reply_rule.scope_key`."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[float, Decision]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def count(self, now: float) -> int:
        """How many rest now."""
        return sum(until > now for until, _ in self._of.values())

    def obey(self, decision: Decision, key: str, now: float) -> None:
        """Take one in. The later end holds."""
        until = now + decision.seconds
        if until > self._of.get(key, (0.0, decision))[0]:
            self._of[key] = until, decision
        if len(self._of) > MOST:
            self._make_room(now)

    def of(self, key: str, now: float) -> Resting | None:
        """What holds a key now, None where nothing does."""
        found = self._of.get(key)
        if found is None:
            return None
        until, decision = found
        if until <= now:
            del self._of[key]
            return None
        return Resting(until - now, decision.rule, decision.said)

    def forget_past(self, now: float) -> None:
        """Those that are over go: as long as there is any, each letter is asked about."""
        for key in [key for key, (until, _) in self._of.items() if until <= now]:
            del self._of[key]

    def _make_room(self, now: float) -> None:
        """The past ones go; of the others the one that ends first."""
        self.forget_past(now)
        if len(self._of) > MOST:
            del self._of[min(self._of, key=lambda key: self._of[key][0])]
