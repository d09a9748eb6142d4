"""What keeps letters from going on their way, since when, and for how long at least.

A part whose work can fail has a `Condition` of its own, sets it when that happens and clears it when it is
over. Readiness, `/status`, the `summary` line and the metrics have it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mailsender.model.clock import Clock


@dataclass(slots=True, kw_only=True)
class Condition:
    """A part that does not do its work now, as `text` says; all is well where that is empty.

    Times are in epoch seconds.
    `until` is when it will be tried next, or is over, where that is known. One that is no `trouble` is as
    it was set up to be, and leaves the service ready. `relay` is the name of the relay that it is about,
    where a file names several.
    """

    part: str
    text: str = ""
    trouble: bool = True
    since: float = 0.0
    until: float | None = None
    relay: str = ""

    @property
    def subject(self) -> str:
        """The part, and which relay, for a sentence."""
        return f"{self.part} {self.relay}" if self.relay else self.part

    def set(self, text: str, now: float) -> bool:
        """It does not do its work, for this reason; whether that is news, which is told once."""
        news = not self.text
        if news:
            self.since = now
        self.text = text
        return news

    def clear(self) -> bool:
        """It does its work; whether that is news."""
        news = bool(self.text)
        self.text = ""
        return news


class Conditions:
    """The conditions that `look` finds, with the time at which each began as far as anybody knows."""

    def __init__(self, clock: Clock, look: Callable[[], Iterable[Condition]]) -> None:
        self._clock = clock
        self._look = look
        self._since: dict[tuple[str, str], float] = {}

    def now(self) -> list[Condition]:
        """Those that are there now; an end that is over already is not told: nobody knows a later one."""
        found = list(self._look())
        now = self._clock.epoch()
        self._since = {
            (each.part, each.relay): each.since or self._since.get((each.part, each.relay), now)
            for each in found
        }
        return [
            replace(
                each,
                since=self._since[each.part, each.relay],
                until=each.until if each.until is not None and each.until > now else None,
            )
            for each in found
        ]


def first(*conditions: Condition) -> Iterable[Condition]:
    """The first that is set, if any: those behind it follow from it, or tell of the same."""
    return [each for each in conditions if each.text][:1]
