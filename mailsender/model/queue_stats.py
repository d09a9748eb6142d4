"""How full the queue is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How full the queue is.

    Of those that are `awaiting`, `due` wait for no time of their own. `oldest_due` is how long, in seconds,
    the letter that should have been sent first has been waiting beyond its time; 0.0 where none is due.
    `oldest_unreported` is how long the oldest report of `unreported` has been to come.
    """

    awaiting: int
    due: int
    processing: int
    sent: int
    error: int
    unreported: int
    oldest_due: float
    oldest_unreported: float = 0.0
