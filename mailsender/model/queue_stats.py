"""How full the queue is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MOST_ROUTES: Final = 1000
"""Routes that are told apart: far more than there ever are, but another program may write any name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStats:
    """How many letters wait on a route: those that are `awaiting`.

    `deferred` of them wait for a time of their own that has not come yet. `oldest_due` is as that of
    `QueueStats`.
    """

    awaiting: int
    deferred: int = 0
    oldest_due: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How full the queue is.

    Of those that are `awaiting`, `due` wait for no time of their own. `oldest_due` is how long, in seconds,
    the letter that should have been sent first has been waiting beyond its time; 0.0 where none is due.
    `oldest_unreported` is how long the oldest report of `unreported` has been to come. `routes` are those on
    which letters wait, by name, the unknown ones among them: at most `MOST_ROUTES`, those with the most.

    Several queries count, a moment apart: of letters that change hands meanwhile some may be counted for
    what they were, and one that is put off then for `sent`.
    """

    awaiting: int
    due: int
    processing: int
    sent: int
    error: int
    unreported: int
    oldest_due: float
    oldest_unreported: float = 0.0
    routes: Mapping[str, RouteStats] = field(default_factory=dict)
