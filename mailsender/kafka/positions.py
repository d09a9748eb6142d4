"""Where reading of a partition goes on, and whether its log is still the one whose offset was committed.

A broker hands out whatever lies at an offset. So before a partition is read the last record that was taken
in is compared with what lies there now. Where they differ, older milestones tell how far the log is the same:
from there it is read again, which harms nothing, for what was taken in before is known. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from mailsender.model.history import History, Milestone, digest_of, from_text

MOST_COMPARED = 16
"""Milestones that are compared before the log is taken for another one altogether."""


class Met(Enum):
    """What a record means to a partition that is still to be placed."""

    SAME = auto()  # it is compared, and dropped; what comes next is handed out
    MOVE = auto()  # reading has to move to `Place.position`; what comes now is dropped
    OTHER = auto()  # as MOVE, and the log is another one from `Place.cut` on


@dataclass(slots=True)
class Place:
    """One partition between its assignment and its first record.

    `start` is where reading goes on when all is as it was, `begin` where the log begins. `lost` records were
    deleted before anybody here had read them. `position` is where to read now.
    """

    committed: int | None
    begin: int
    start: int
    lost: int
    position: int
    left: list[Milestone] = field(default_factory=list)
    differs: bool = False
    cut: int | None = None

    @property
    def compares(self) -> bool:
        """Whether the record at `position` is to be compared."""
        return bool(self.left)

    def meet(self, offset: int, key: bytes | None, value: bytes | None, timestamp: int) -> Met:
        """Compare the first record that came from `position` on."""
        wanted = self.left.pop(0)
        if offset == wanted.last and digest_of(key, value, timestamp) == wanted.digest:
            return self._agreed(wanted)
        # One that compaction took away says nothing; another one in its place does.
        self.differs = self.differs or offset == wanted.last
        return self._next()

    def _agreed(self, milestone: Milestone) -> Met:
        self.left.clear()
        if self.differs:
            self.cut = milestone.last + 1
            self.position = self.cut if self.committed is not None else self.begin
            return Met.OTHER
        self.position = self.start
        return Met.SAME if self.start == milestone.last + 1 else Met.MOVE

    def _next(self) -> Met:
        if self.left:
            self.position = self.left[0].last
            return Met.MOVE
        if self.differs:
            self.cut = self.position = self.begin
            return Met.OTHER
        self.position = self.start
        return Met.MOVE


def placed(committed: int | None, note: str, begin: int, end: int, history: History) -> Place:
    """The place of a partition whose log goes from `begin` to `end`, and of which `history` is known."""
    milestones = _milestones(committed, note, history)
    start = begin if committed is None else max(committed, begin)
    lost = 0 if committed is None else max(0, begin - committed)
    place = Place(committed=committed, begin=begin, start=start, lost=lost, position=start)
    there = [each for each in milestones if each.last >= begin]
    place.left = [each for each in there if each.last < end]
    place.differs = len(place.left) < len(there) or start > end
    if place.left:
        place.position = place.left[0].last
    elif place.differs:
        place.cut = place.position = begin
    return place


def _milestones(committed: int | None, note: str, history: History) -> Sequence[Milestone]:
    """What can be compared, the latest first."""
    found = [each for each in reversed(history.milestones) if each.digest]
    beside = from_text(note, committed) if committed is not None else None
    if beside is not None:
        found = [beside, *(each for each in found if each.last != beside.last)]
        found.sort(key=lambda each: -each.last)
    return found[:MOST_COMPARED]
