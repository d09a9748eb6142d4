"""Whose turn it is among relays that share letters by weight. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LAG: Final = 4
"""Turns by which one that would have to be waited for may fall behind: few beside the twenty by which the
shares of a thousand letters may differ, and enough for a session of its own to come free."""


class Turns:
    """Smooth weighted round robin, as nginx's: each of n turns in a row falls to its relay in time.

    In as many turns as the weights add up to, each relay has exactly its weight of them, and they are spread.
    A relay that may not have a turn is passed over; it has nothing to catch up with when it may again. One
    that may, but is not `ready`, is passed over for `LAG` turns at most, and has them later.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._credits = [0] * len(weights)

    def take(self, may: Sequence[bool], ready: Sequence[bool] = ()) -> int | None:
        """The place of the one whose turn it is, of those that `may` have it; None where none may.

        `ready` are those that need not be waited for; without it all are.
        """
        first: int | None = None
        best: int | None = None
        total = 0
        for place, weight in enumerate(self._weights):
            if not may[place] or not weight:
                continue
            total += weight
            self._credits[place] += weight
            if first is None or self._credits[place] > self._credits[first]:
                first = place
            if ready and ready[place] and (best is None or self._credits[place] > self._credits[best]):
                best = place
        if first is None:
            return None
        if best is None or self._credits[first] > LAG * total:
            best = first
        self._credits[best] -= total
        return best

    def give_back(self, place: int, may: Sequence[bool]) -> None:
        """Nothing came of a turn that was taken while the same might have it: it counts for nobody."""
        total = 0
        for each, weight in enumerate(self._weights):
            if may[each] or each == place:
                total += weight
                self._credits[each] -= weight
        self._credits[place] += total

    def share(self, place: int, may: Sequence[bool]) -> float:
        """What part of the turns falls to one of those that `may` have them."""
        total = sum(weight for weight, each in zip(self._weights, may, strict=True) if each)
        return self._weights[place] / total if total and may[place] else 0.0
