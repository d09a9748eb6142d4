"""What the queue knows of a partition: how far it was taken in, when, and what lay there. Pure.

A record that was never taken in cannot have been sent and forgotten, whatever its time says; one that was,
and whose letters may be forgotten by now, must not be taken in again. Both are told from offsets and from the
queue's own clock: the clocks of producers and replicas have no say.

Offsets mean something only as long as the log is the same. So milestones say what lay there: a topic that was
made anew, or a log that was cut off, shows by them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, replace
from enum import Enum, auto
from hashlib import blake2b
from typing import Any, Protocol

MOST = 48
"""Milestones that are kept of a partition. The newest stand close together, older ones ever farther apart."""

RECENT = 12
"""The newest milestones, of which none is left out."""

APART = 5.0
"""Seconds between two milestones, at least."""


class Standing(Enum):
    """What a record is to the queue."""

    NEW = auto()  # never taken in
    AGAIN = auto()  # taken in before, and its letters are still known
    FORGOTTEN = auto()  # taken in before, and its letters may be forgotten
    UNDATED = auto()  # taken in before, nobody knows when


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """At the time `at`, in epoch seconds of the queue's clock, all records below `offset` were taken in.

    And none from there on. The last of them lies at `last`; `digest` is made of what it holds, and is empty
    where nobody saw it.
    """

    offset: int
    at: float
    last: int
    digest: str

    def text(self) -> str:
        """In few bytes, to lie beside a committed offset."""
        return json.dumps({"v": 1, "last": self.last, "digest": self.digest}, separators=(",", ":"))


def from_text(text: str, offset: int) -> Milestone | None:
    """The milestone that lies beside a committed offset, None where there is none of ours."""
    try:
        told = json.loads(text)
        last, digest = told["last"], told["digest"]
    except (ValueError, TypeError, KeyError):
        return None
    if not isinstance(last, int) or not isinstance(digest, str) or not 0 <= last < offset:
        return None
    return Milestone(offset=offset, at=0.0, last=last, digest=digest)


def digest_of(key: bytes | None, value: bytes | None, timestamp: int) -> str:
    """What tells a record from another one at the same offset."""
    made = blake2b(b"%d %d %d " % (timestamp, _length(key), _length(value)), digest_size=8)
    made.update(key or b"")
    made.update(value or b"")
    return made.hexdigest()


def _length(field: bytes | None) -> int:
    return -1 if field is None else len(field)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One partition, as the queue knows it.

    `log` counts the logs that the partition had: it grows where a part of it turned out to be another one.
    Records below `forgotten` may be forgotten; those from `buried[0]` to below `buried[1]` are dead letters
    for that already. `retention` is the one in force when this was written, in seconds. After it was made
    longer, letters that were reported under the `shorter` one are forgotten as they were to be, until
    `shorter_until`.
    """

    milestones: tuple[Milestone, ...] = ()
    log: int = 0
    forgotten: int = 0
    buried: tuple[int, int] = (0, 0)
    retention: float = 0.0
    shorter: float = 0.0
    shorter_until: float = 0.0

    @property
    def high(self) -> int:
        """All below was taken in, nothing from here on was."""
        return self.milestones[-1].offset if self.milestones else 0

    def standing(self, offset: int) -> Standing:
        """What the record at `offset` is."""
        if offset >= self.high:
            return Standing.NEW
        if offset < self.forgotten:
            return Standing.FORGOTTEN
        return Standing.UNDATED if offset < self.milestones[0].offset else Standing.AGAIN

    def was_buried(self, offset: int) -> bool:
        """Whether a record that may be forgotten is a dead letter for that already."""
        return self.buried[0] <= offset < self.buried[1]

    def aged(self, now: float, retention: float) -> History:
        """As it is at `now`. What was forgotten under a shorter retention stays so under a longer one."""
        shorter, until = self.shorter, self.shorter_until
        if now >= until:
            shorter = 0.0
        if 0.0 < self.retention < retention:
            shorter = min(shorter or self.retention, self.retention)
            until = max(until, now + self.retention)
        least = min(retention, shorter or retention)
        times = [each.at for each in self.milestones]
        # A record was taken in after the milestone before it.
        place = bisect_right(times, now - least)
        forgotten = self.forgotten
        if place:
            beyond = self.milestones[place : place + 1]
            forgotten = max(forgotten, beyond[0].offset if beyond else self.high)
        return replace(self, forgotten=forgotten, retention=retention, shorter=shorter, shorter_until=until)

    def reached(self, milestone: Milestone, since: float, first: int = 0) -> History:
        """With one milestone more; thinned out where they become too many.

        `since` is when the first record behind the last milestone was met: until then that one held. Where
        there is none yet, `first` is that record's offset.
        """
        if milestone.offset <= self.high:
            return self
        origin = Milestone(offset=first, at=since, last=first - 1, digest="")
        milestones = [*(self.milestones or (origin,)), milestone]
        if since > milestones[-2].at:
            milestones[-2] = replace(milestones[-2], at=since)
        if len(milestones) > MOST:
            gaps = [milestones[i + 1].at - milestones[i - 1].at for i in range(1, len(milestones) - RECENT)]
            del milestones[1 + gaps.index(min(gaps))]
        return replace(self, milestones=tuple(milestones))

    def bury(self, offset: int) -> History:
        """With one more record that is a dead letter for its age."""
        first, end = self.buried
        if not first <= offset <= end:
            return replace(self, buried=(offset, offset + 1))
        return replace(self, buried=(first, max(end, offset + 1)))

    def cut(self, offset: int) -> History:
        """Of a log that is another one from `offset` on."""
        kept = tuple(each for each in self.milestones if each.offset <= offset)
        first, end = self.buried
        return replace(
            self,
            milestones=kept,
            log=self.log + 1,
            forgotten=min(self.forgotten, offset),
            buried=(min(first, offset), min(end, offset)),
        )

    def document(self) -> dict[str, Any]:
        """As plain values, for a store."""
        return {
            "milestones": [
                {"offset": each.offset, "at": each.at, "last": each.last, "digest": each.digest}
                for each in self.milestones
            ],
            "log": self.log,
            "high": self.high,
            "forgotten": self.forgotten,
            "buried": list(self.buried),
            "retention": self.retention,
            "shorter": self.shorter,
            "shorter_until": self.shorter_until,
        }


def from_document(told: dict[str, Any]) -> History:
    """What `document` wrote; an empty one where that cannot be read."""
    try:
        first, end = told["buried"]
        return History(
            milestones=tuple(
                Milestone(
                    offset=int(each["offset"]),
                    at=float(each["at"]),
                    last=int(each["last"]),
                    digest=str(each["digest"]),
                )
                for each in told["milestones"]
            ),
            log=int(told["log"]),
            forgotten=int(told["forgotten"]),
            buried=(int(first), int(end)),
            retention=float(told["retention"]),
            shorter=float(told.get("shorter", 0.0)),
            shorter_until=float(told.get("shorter_until", 0.0)),
        )
    except (KeyError, TypeError, ValueError):
        return History()


class Histories(Protocol):
    """What is known of the in-topic's partitions."""

    async def history(self, topic: str, partition: int) -> History:
        """What is known of a partition of the in-topic; an empty one where nothing is."""
        ...

    async def note_history(self, topic: str, partition: int, history: History) -> None:
        """Keep what is known of a partition.

        One that knows less than what is kept, of the same log, or anything of an earlier log, changes
        nothing: another replica went on with the partition.
        """
        ...
