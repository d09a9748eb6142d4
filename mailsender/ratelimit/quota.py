"""A quota over any period, such as any 24 hours: what was spent, in buckets. Pure, given `now`.

Slots are counted in the bucket in which they were leased. A bucket counts until nothing that was leased in it
can lie in the same period as what begins now, so the oldest is counted for a bucket's width longer than it
need be, and the quota is never exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

BUCKETS = 144
"""Buckets in a period: ten minutes each of a day, which is as soon as something of it comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """So many slots were leased before `by`, in epoch seconds, and after the end of the bucket before."""

    by: float
    count: int


def width(period: float) -> float:
    """Seconds of a bucket."""
    return period / BUCKETS


def kept(buckets: Iterable[Bucket], now: float, *, period: float, keep: float) -> tuple[Bucket, ...]:
    """Those that count: ended less than `keep` seconds ago.

    Those far in the future were written by a clock that was wrong, and are not waited for.
    """
    return tuple(each for each in buckets if now - keep < each.by <= now + period)


def end_of_bucket(now: float, period: float) -> float:
    """When the bucket of `now` ends."""
    return (1 + math.floor(now / width(period))) * width(period)


def spend(buckets: Sequence[Bucket], by: float, count: int) -> tuple[Bucket, ...]:
    """The buckets with `count` more in the one that ends `by`, which comes last."""
    if not count:
        return tuple(buckets)
    spent = sum(each.count for each in buckets if each.by == by)
    return (*(each for each in buckets if each.by != by), Bucket(by=by, count=spent + count))


def unspend(buckets: Iterable[Bucket], by: float, count: int) -> tuple[Bucket, ...]:
    """The buckets with `count` less in the one that ends `by`, if it is still there."""
    return tuple(
        replace(each, count=max(0, each.count - count)) if each.by == by else each for each in buckets
    )


def renewed_at(buckets: Iterable[Bucket], keep: float) -> float:
    """When something of a quota that is used up comes back."""
    return min((each.by for each in buckets if each.count), default=0.0) + keep
