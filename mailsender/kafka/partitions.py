"""How each partition that is written to is doing, and what its topic was seen to refuse. No I/O."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mailsender.model.errors import Rejected, TooLarge

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds for which a partition that failed is left alone; doubled from the first to the longest."""

REMEMBERED = 60.0
"""Seconds for which it is believed that a topic goes on refusing what it refused: its settings may change."""


class Lane:
    """The way to one partition: well, or in trouble with something still on its way, or left alone."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic: Final = topic
        self.partition: Final = partition
        self._reason = ""
        self._pause = FIRST_PAUSE
        self._again = 0.0
        self.pending: asyncio.Future[Any] | None = None

    @property
    def ails(self) -> bool:
        """Whether it is in trouble."""
        return bool(self._reason)

    @property
    def trouble(self) -> str:
        """What its trouble is, in one sentence that is made anew for each trouble; empty when it is well."""
        if not self._reason:
            return ""
        return f"partition {self.partition} of {self.topic}: {self._reason}"

    def open(self, now: float) -> bool:
        """Whether something may be sent: it is well, or may have another try."""
        return not self._reason or (self.pending is None and now >= self._again)

    def ail(self, reason: str, pending: asyncio.Future[Any] | None) -> None:
        """It did not acknowledge what was sent; `pending` is what may still do so."""
        self._reason = reason
        self._again = asyncio.get_running_loop().time() + self._pause
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        if pending is not None:
            self.pending = pending  # the last one: those before it are acknowledged first
            pending.add_done_callback(self._answered)

    def well(self) -> None:
        """It acknowledged something, and nothing is on its way from before."""
        if self.pending is None:
            self._reason, self._pause = "", FIRST_PAUSE

    def _answered(self, future: asyncio.Future[Any]) -> None:
        failed = future.cancelled() or future.exception() is not None
        if future is not self.pending:
            return
        self.pending = None
        if not failed:
            self.well()


class _Known:
    """What a topic refused: records from so many bytes on, or those without a key."""

    def __init__(self) -> None:
        self.until = 0.0
        self.from_bytes: int | None = None
        self.large = ""
        self.keyless = ""


class Lanes:
    """The partitions of all topics that are written to."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._counts: dict[str, int] = {}
        self._known: dict[str, _Known] = {}
        self._shut: dict[str, str] = {}
        self._unknown: dict[str, str] = {}
        self._untimed_until = 0.0

    def of(self, topic: str, partition: int) -> Lane:
        """The lane of a partition."""
        where = topic, partition
        lane = self._lanes.get(where)
        if lane is None:
            lane = self._lanes[where] = Lane(topic, partition)
        return lane

    def seen(self, topic: str, partitions: int) -> None:
        """A topic has so many partitions."""
        self._counts[topic] = partitions
        self._unknown.pop(topic, None)

    def some_well(self, topic: str) -> bool:
        """Whether a partition of the topic is well, as far as is known."""
        return len(self._ailing(topic)) < self._counts.get(topic, 1)

    def shut(self, topic: str, reason: str) -> None:
        """No partition of the topic takes anything: it may not be written to. Until it takes something."""
        self._shut[topic] = f"{topic}: {reason}"

    def unknown(self, topic: str, reason: str) -> None:
        """Nobody tells which partitions the topic has. Until somebody does."""
        self._unknown[topic] = f"{topic}: {reason}"

    def is_shut(self, topic: str) -> bool:
        """Whether it may not be written to, as far as is known."""
        return topic in self._shut

    def is_unknown(self, topic: str) -> bool:
        """Whether nobody told, when last asked."""
        return topic in self._unknown

    def opened(self, topic: str) -> None:
        """A partition of the topic took something."""
        self._shut.pop(topic, None)

    def all_ail(self, topic: str) -> str:
        """The trouble of a topic, or of its first partition where none is without one; else empty."""
        shut = self._shut.get(topic) or self._unknown.get(topic)
        if shut:
            return shut
        ailing = self._ailing(topic)
        return ailing[0].trouble if ailing and not self.some_well(topic) else ""

    def some_trouble(self) -> str:
        """The trouble of some partition; empty where there is none."""
        return next((lane.trouble for lane in self._lanes.values() if lane.ails), "")

    def ailing(self) -> list[str]:
        """Some of the partitions in trouble, for the log."""
        return [f"{lane.topic}[{lane.partition}]" for lane in self._lanes.values() if lane.ails][:10]

    def _ailing(self, topic: str) -> list[Lane]:
        return [lane for (name, _), lane in self._lanes.items() if name == topic and lane.ails]

    async def freed(self, timeout: float) -> None:
        """Wait until something that is on its way gets its answer."""
        pending = [lane.pending for lane in self._lanes.values() if lane.pending is not None]
        if pending:
            await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0)

    # --- the time of records ---------------------------------------------------------------------

    def distrust_clock(self) -> None:
        """A broker refused the time of our clock: for a while records go without one."""
        self._untimed_until = asyncio.get_running_loop().time() + REMEMBERED

    @property
    def timestamp(self) -> int | None:
        """What a record's time is to be: None for that of our clock, -1 for none."""
        return -1 if asyncio.get_running_loop().time() < self._untimed_until else None

    # --- what topics refuse ----------------------------------------------------------------------

    def learn(self, topic: str, answer: Rejected, size: int, *, keyless: bool) -> None:
        """A topic refused a record that was sent alone."""
        known = self._known.setdefault(topic, _Known())
        known.until = asyncio.get_running_loop().time() + REMEMBERED
        if isinstance(answer, TooLarge):
            known.from_bytes = size if known.from_bytes is None else min(size, known.from_bytes)
            known.large = str(answer)
        elif keyless:
            known.keyless = str(answer)

    def refused(self, topic: str, size: int, *, keyless: bool) -> Rejected | None:
        """What the broker would answer, where that is known."""
        known = self._known.get(topic)
        if known is None:
            return None
        if asyncio.get_running_loop().time() >= known.until:
            del self._known[topic]
            return None
        if known.from_bytes is not None and size >= known.from_bytes:
            return TooLarge(f"{size} bytes; {known.large}")
        if keyless and known.keyless:
            return Rejected(known.keyless)
        return None
