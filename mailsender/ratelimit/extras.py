"""Units of a quota that are kept for recipients beyond one a transaction, where it counts them. Pure.

They come with leases of slots, in the same write, and go back if nobody takes them for a while.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from mailsender.ratelimit.gcra import SlotGrant


class Extras:
    """What leases brought and nobody took yet, the oldest first; `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._held: deque[SlotGrant] = deque()

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, grant: SlotGrant) -> None:
        """Keep those of a lease."""
        if grant.extra:
            self._held.append(grant)

    def left(self, now: float) -> int:
        """How many may be taken."""
        return sum([each.extra for each in self._held if now < each.extra_until])

    def take(self, want: int, now: float) -> int:
        """Take up to `want`; returns how many."""
        taken = 0
        for place, each in enumerate(self._held):
            if taken < want and now < each.extra_until:
                units = min(each.extra, want - taken)
                self._held[place] = replace(each, extra=each.extra - units)
                taken += units
        self._held = deque([each for each in self._held if each.extra])
        return taken

    def put_back(self, units: int, latest: float = math.inf) -> None:
        """Keep such as were taken and not used, of a slot that is good until `latest`.

        Where no lease is held any more they are lost, and where a day has begun since: they are of the quota
        of the one before.
        """
        if not self._held:
            return
        last = self._held[-1]
        if last.day - last.now + last.answered < latest:
            self._held[-1] = replace(last, extra=last.extra + units)

    def over(self, now: float) -> list[SlotGrant]:
        """Give up those that were kept for too long: they are to be given back."""
        found = [each for each in self._held if now >= each.extra_until]
        if found:
            self._held = deque([each for each in self._held if now < each.extra_until])
        return found

    def clear(self) -> list[SlotGrant]:
        """Give up all of them."""
        found, self._held = list(self._held), deque()
        return found
