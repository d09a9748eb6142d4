"""Whose turn it is among relays that share letters by weight. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Turns:
    """Smooth weighted round robin, as nginx's: each of n turns in a row falls to its relay in time.

    In as many turns as the weights add up to, each relay has exactly its weight of them, and they are spread.
    A relay that may not have a turn is passed over; it has nothing to catch up with when it may again.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._credits = [0] * len(weights)

    def take(self, may: Sequence[bool]) -> int | None:
        """The place of the one whose turn it is, of those that `may` have it; None where none may."""
        best: int | None = None
        total = 0
        for place, weight in enumerate(self._weights):
            if not may[place] or not weight:
                continue
            total += weight
            self._credits[place] += weight
            if best is None or self._credits[place] > self._credits[best]:
                best = place
        if best is not None:
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
