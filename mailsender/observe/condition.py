"""What keeps letters from going on their way, since when, and for how long at least."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mailsender.model.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A part that does not do its work now. Times in epoch seconds.

    `until` is when it will be tried next, or is over, where that is known. One that is no `trouble` is as
    it was set up to be, and leaves the service ready.
    """

    part: str
    text: str
    trouble: bool = True
    since: float = 0.0
    until: float | None = None


class Conditions:
    """The conditions that `look` finds, with the time at which each began as far as anybody looked."""

    def __init__(self, clock: Clock, look: Callable[[], Iterable[Condition]]) -> None:
        self._clock = clock
        self._look = look
        self._since: dict[str, float] = {}

    def now(self) -> list[Condition]:
        """Those that are there now."""
        found = list(self._look())
        now = self._clock.epoch()
        self._since = {each.part: each.since or self._since.get(each.part, now) for each in found}
        return [replace(each, since=self._since[each.part]) for each in found]
