"""The arithmetic of `gcra`, `windows`, `quota` and `order` as update pipelines of MongoDB.

All operations come in the same order as there, and sums have two terms, so both sides come to the same number
to the last bit; the contract suite holds them against each other. Times in the document are seconds:

- `next`, `further`, `used`, `day`, `members`, `spent`, `counting`, `counted`: see `gcra.Cursor`.
- `order`: what was ordered for the relay. `orders`: for other scopes, an array. `version`: a number that
  changes with them, so that a lease need not bring them all.
- `now`, `known`, `first`, `count`, `step`, `starts`, `steps`, `day_end`, `extra`: of the last lease, for its
  reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from mailsender.ratelimit import quota
from mailsender.ratelimit.gcra import (
    AHEAD,
    DAY_MARGIN,
    FARTHEST,
    GENEROUS,
    MEMBER_AGE,
    UNCOUNTED,
    SlotGrant,
    SlotRequest,
)
from mailsender.ratelimit.order import STEPS
from mailsender.ratelimit.windows import ENDLESS

Stage: TypeAlias = dict[str, Any]
"""A stage of a pipeline, or an expression in one."""

MOST_USED = 2**53
"""No quota is as large, and up to it every whole number can be told."""

_BY_THE_WAY = (
    "today",
    "ours",
    "turn",
    "share",
    "others",
    "pace",
    "spacing",
    "cursors",
    "reach",
    "counts",
    "taken",
)


def leasing(request: SlotRequest, days: Sequence[float]) -> list[Stage]:
    """The pipeline of `gcra.take` with the server's `$$NOW`.

    The days' starts are computed here, one owner of time zones being enough: the server only says between
    which two of `days` it is. Is it beyond them, `known` is false and nothing is leased.
    """
    before, today, tomorrow, after = days
    return [
        {"$set": {"now": _seconds("$$NOW")}},
        {"$set": {"known": {"$and": [{"$lte": [before, "$now"]}, {"$lt": ["$now", after]}]}}},
        {
            "$set": {
                "today": _by_now((tomorrow, tomorrow), (today, today), otherwise=before),
                "day_end": _by_now((tomorrow, after), (today, tomorrow), otherwise=today),
                "members": _recent({"$ifNull": ["$members", {}]}),
            }
        },
        *_anew(request),
        *_so_far(request),
        *_laying(request),
        *_counting(request),
        *_moving(request),
        {"$unset": [*_BY_THE_WAY, *(() if request.rolling else ("spent",))]},
    ]


def _anew(request: SlotRequest) -> list[Stage]:
    """The pipeline of `gcra._begins_anew`, and what follows from it; `ours`: what is counted is the same."""
    is_same = {"$in": [{"$ifNull": ["$counting", ""]}, ["", request.counting]]}
    since = {"$abs": {"$subtract": ["$now", {"$ifNull": ["$counted", 0.0]}]}}
    anew = {"$and": ["$known", {"$not": is_same}, {"$gte": [since, UNCOUNTED]}]}
    return [
        {
            "$set": {
                "ours": {"$or": [is_same, anew]},
                "used": {"$cond": [anew, 0, "$used"]},
                "spent": {"$cond": [anew, [], "$spent"]},
                "day": {"$cond": [anew, "$today", "$day"]},
            }
        },
        {
            "$set": {
                "counting": {"$cond": ["$ours", request.counting, "$counting"]},
                "counted": {"$cond": ["$ours", "$now", "$counted"]},
            }
        },
    ]


def _so_far(request: SlotRequest) -> list[Stage]:
    """What was spent of the quota."""
    began = {"$cond": [_counts_on(), "$day", "$today"]}
    day: Stage = {"$set": {"day": {"$cond": ["$known", began, {"$ifNull": ["$day", 0.0]}]}}}
    if not request.rolling:
        return [{"$set": {"used": {"$cond": [_same_day(), "$used", 0]}, **day["$set"]}}]
    since = {"$subtract": ["$now", request.keep]}
    until = {"$add": ["$now", request.allowance.quota_period]}
    counts = {"$and": [{"$lt": [since, "$$this.by"]}, {"$lte": ["$$this.by", until]}]}
    return [
        {"$set": {"spent": _those({"$ifNull": ["$spent", []]}, counts), **day["$set"]}},
        {"$set": {"used": {"$sum": "$spent.count"}}},
    ]


def _laying(request: SlotRequest) -> list[Stage]:
    """The pipeline of `gcra._lay` and `windows.lay`."""
    windows = request.windows
    depth = {"$cond": [{"$eq": ["$pace", 1]}, request.depth, 0.0]}
    resumed = {"$cond": ["$pace", _of_order("until"), 0.0]}
    horizon = {"$min": [{"$add": ["$now", AHEAD]}, {"$subtract": ["$day_end", DAY_MARGIN]}]}
    places = range(len(windows))
    return [
        {"$set": {"pace": _pace()}},
        {"$set": {"spacing": {"$cond": [{"$lt": ["$pace", 1]}, _of_order("spacing"), 0.0]}}},
        {
            "$set": {
                "steps": [
                    {"$divide": [{"$max": [each.step, "$spacing"]}, {"$cond": ["$pace", "$pace", 1.0]}]}
                    for each in windows
                ]
            }
        },
        {"$set": {"cursors": _cursors([each.name for each in windows[1:]])}},
        {"$set": {"cursors": [_drawn_in(place) for place in places]}},
        {"$set": {"first": {"$max": [{"$max": "$cursors"}, {"$subtract": ["$now", depth]}, resumed]}}},
        {
            "$set": {
                "starts": [
                    {"$max": [_at("cursors", place), {"$subtract": ["$first", windows[place].lag]}]}
                    for place in places
                ],
                "reach": {"$subtract": [horizon, "$first"]},
            }
        },
        {
            "$set": {
                "counts": [
                    {
                        "$min": [
                            {"$cond": ["$pace", request.want, 0]},
                            {"$add": [1, {"$floor": {"$divide": ["$reach", _at("steps", place)]}}]},
                            *(_caught_up(place, other) for other in places if other != place),
                        ]
                    }
                    for place in places
                ]
            }
        },
        {"$set": {"step": {"$arrayElemAt": ["$steps", _most("$counts")]}}},
    ]


def _cursors(names: Sequence[str]) -> list[Stage]:
    """The pipeline of `gcra._cursors`, by the names of the windows but the first."""
    following: Stage = {"$ifNull": ["$next", 0.0]}
    further = {"$objectToArray": {"$ifNull": ["$further", {}]}}
    others = _those(further, {"$not": {"$in": ["$$this.k", names]}})
    farthest = _last_of(following, further)
    return [_last_of(following, others), *({"$ifNull": [f"$further.{each}", farthest]} for each in names)]


def _last_of(following: Stage, further: Stage) -> Stage:
    """The last of a time and of those of windows."""
    ends = {"$map": {"input": further, "in": "$$this.v"}}
    return {"$max": [following, {"$max": ends}]}


def _drawn_in(place: int) -> Stage:
    """A cursor, which cannot lie further ahead than the last slot and its window's step."""
    cursor = _at("cursors", place)
    farthest = {"$add": ["$now", {"$add": [FARTHEST, _at("steps", place)]}]}
    # What is no number stays what it is: it has to be met, and mended.
    return {"$cond": [{"$and": ["$pace", _is_number(cursor)]}, {"$min": [cursor, farthest]}, cursor]}


def _caught_up(place: int, other: int) -> Stage:
    """After how many slots at the step of one window another one, of a longer step, is caught up with."""
    step, longer = _at("steps", place), _at("steps", other)
    in_hand = {"$subtract": ["$first", _at("starts", other)]}
    count = {"$add": [1, {"$floor": {"$divide": [in_hand, {"$subtract": [longer, step]}]}}]}
    return {"$cond": [{"$gt": [longer, step]}, count, ENDLESS]}


def _counting(request: SlotRequest) -> list[Stage]:
    """How many are leased: what fits, what is left of the quota, and no more than an even share."""
    member = request.member
    limits: list[Any] = [{"$max": "$counts"}, {"$cond": ["$known", request.want, 0]}]
    if request.allowance.quota:
        limits.append({"$subtract": [request.allowance.quota, "$used"]})
    share = {"$multiply": [{"$multiply": ["$step", GENEROUS]}, {"$add": ["$others", 1]}]}
    stages: list[Stage] = [{"$set": {"others": _hungry(member)}}, {"$set": {"share": share}}]
    if member:
        own, farthest = f"$members.{member}.next", {"$add": ["$now", {"$add": [FARTHEST, "$share"]}]}
        turn = {"$max": [{"$min": [{"$ifNull": [own, 0.0]}, farthest]}, "$now"]}
        reach = {"$subtract": [{"$add": ["$now", AHEAD]}, "$turn"]}
        even = {"$add": [1, {"$floor": {"$divide": [reach, "$share"]}}]}
        limits.append({"$cond": ["$others", even, request.want]})
        stages.append({"$set": {"turn": turn}})
    return [*stages, {"$set": {"count": {"$max": [0, {"$min": limits}]}}}, *_extra(request)]


def _extra(request: SlotRequest) -> list[Stage]:
    """What of the quota is leased beside the slots, where something is wanted; `taken` is all of it."""
    if not request.extra:
        return []
    left = {"$subtract": [{"$subtract": [request.allowance.quota, "$used"]}, "$count"]}
    wanted = {"$cond": ["$known", request.extra, 0]}
    return [
        {"$set": {"extra": {"$max": [0, {"$min": [wanted, left]}]}}},
        {"$set": {"taken": {"$add": ["$count", "$extra"]}}},
    ]


def _moving(request: SlotRequest) -> list[Stage]:
    """What the cursor is after that."""
    member, windows = request.member, request.windows
    kept = {
        "at": "$now",
        "next": {"$cond": ["$others", {"$add": ["$turn", {"$multiply": ["$count", "$share"]}]}, "$now"]},
        "hungry": {"$lt": ["$count", request.want]},
    }
    taken = "$taken" if request.extra else "$count"
    moved: Stage = {
        "next": _following(0, windows[0].lag),
        "used": {"$add": ["$used", taken]},
        **({f"members.{member}": kept} if member else {}),
    }
    for place, each in enumerate(windows[1:], 1):
        moved[f"further.{each.name}"] = _following(place, each.lag)
    if request.rolling:
        moved["spent"] = {"$cond": [taken, _spent(request.allowance.quota_period, taken), "$spent"]}
    # Rates that are none any more are forgotten.
    return [{"$unset": ["further"]}, {"$set": moved}]


def _following(place: int, lag: float) -> Stage:
    """The pipeline of `windows.Laid.following`."""
    step = _at("steps", place)
    moved = {"$add": [_at("starts", place), {"$multiply": ["$count", step]}]}
    last = {"$multiply": [{"$subtract": ["$count", 1]}, "$step"]}
    pulled = {"$add": [{"$add": [{"$subtract": ["$first", lag]}, last]}, step]}
    return {"$cond": [{"$gte": [step, "$step"]}, moved, {"$max": [moved, pulled]}]}


def _spent(period: float, taken: str) -> Stage:
    """The pipeline of `quota.spend`."""
    width = quota.width(period)
    by = {"$multiply": [{"$add": [1, {"$floor": {"$divide": ["$now", width]}}]}, width]}
    here = {"$sum": {"$map": {"input": _those("$spent", _same("$$by")), "in": "$$this.count"}}}
    grown = [{"by": "$$by", "count": {"$add": [taken, here]}}]
    others = _those("$spent", {"$not": _same("$$by")})
    return {"$let": {"vars": {"by": by}, "in": {"$concatArrays": [others, grown]}}}


def returning(grant: SlotGrant, unspent: int) -> list[Stage]:
    """The pipeline of `gcra.give_back`."""
    laid = grant.laid
    if laid is None:
        return []
    moved: Stage = {}
    units = unspent + grant.extra
    ends, returned = laid.following(grant.count), laid.following(grant.count - unspent)
    for place, name in enumerate(("next", *(f"further.{each}" for each in grant.further))):
        near = {"$lt": [{"$abs": {"$subtract": [f"${name}", ends[place]]}}, laid.steps[place] / 1000]}
        # `further` may have been forgotten: no field comes of that, and null would be less than any number.
        ours_is_last = {"$and": [_is_number(f"${name}"), near]}
        moved[name] = {"$cond": [ours_is_last, returned[place], {"$ifNull": [f"${name}", "$$REMOVE"]}]}
    if grant.bucket:
        less = {"$max": [0, {"$subtract": ["$$this.count", units]}]}
        bucket = {"$cond": [_same(grant.bucket), {"by": "$$this.by", "count": less}, "$$this"]}
        moved["spent"] = {"$map": {"input": {"$ifNull": ["$spent", []]}, "in": bucket}}
    else:
        less = {"$max": [0, {"$subtract": ["$used", units]}]}
        moved["used"] = {"$cond": [{"$eq": ["$day", grant.day]}, less, "$used"]}
    return [{"$set": moved}]


def reading_the_time() -> list[Stage]:
    """What time it is there."""
    return [{"$set": {"now": _seconds("$$NOW")}}]


def mending() -> list[Stage]:
    """What is left of a cursor when all is taken out that cannot be counted with."""
    numbers = ("until", "factor", "then_until", "step", "spacing", "at")
    bucket = {"$and": [_is_number("$$this.by"), _is_number("$$this.count")]}
    return [
        {"$set": {"now": _seconds("$$NOW")}},
        {
            "$replaceWith": {
                "_id": "$_id",
                "next": {"$max": ["$now", _number("$next", {"$add": ["$now", AHEAD]})]},
                "used": _number("$used", MOST_USED),
                "day": _number("$day", {"$add": ["$now", AHEAD]}),
                "members": {},
                "spent": {"$cond": [{"$isArray": "$spent"}, _those("$spent", bucket), []]},
                "order": {
                    "$cond": [
                        {"$and": [_counts(f"$order.{each}") for each in numbers]},
                        "$order",
                        "$$REMOVE",
                    ]
                },
                "orders": {"$cond": [{"$isArray": "$orders"}, "$orders", []]},
                "version": {"$add": [_number("$version", MOST_USED), 1]},
            }
        },
    ]


def _pace() -> Stage:
    """The pipeline of `order.Order.pace`; without an order it is 1."""
    until, factor, then_until = _of_order("until"), _of_order("factor", 1.0), _of_order("then_until")
    grown_for = {"$subtract": ["$now", then_until]}
    steps = {"$add": [1, {"$floor": {"$divide": [grown_for, _of_order("step", 1.0)]}}]}
    grown = {"$divide": [{"$multiply": [{"$subtract": [1, factor]}, steps]}, STEPS]}
    return {
        "$switch": {
            "branches": [
                {"case": {"$lt": ["$now", until]}, "then": 0.0},
                {"case": {"$gte": [factor, 1]}, "then": 1.0},
                {"case": {"$lt": ["$now", then_until]}, "then": factor},
                {"case": {"$gte": [steps, STEPS]}, "then": 1.0},
            ],
            "default": {"$add": [factor, grown]},
        }
    }


def _of_order(field: str, otherwise: float = 0.0) -> Stage:
    return {"$ifNull": [f"$order.{field}", otherwise]}


def _number(field: str, most: Any) -> Stage:
    """The number in a field, 0 where there is none up to `most`."""
    return {"$cond": [{"$and": [_counts(field), {"$lte": [field, most]}]}, field, 0]}


def _counts(field: str) -> Stage:
    """Whether it can be counted with: NaN is less than any number."""
    return {"$and": [_is_number(field), {"$gte": [field, 0]}]}


def _is_number(field: Any) -> Stage:
    return {"$in": [{"$type": field}, ["double", "int", "long"]]}


def _at(field: str, place: int) -> Stage:
    return {"$arrayElemAt": [f"${field}", place]}


def _most(field: str) -> Stage:
    """The place of the largest number in an array, the first of them."""
    return {"$indexOfArray": [field, {"$max": field}]}


def _those(array: Any, condition: Any) -> Stage:
    return {"$filter": {"input": array, "as": "this", "cond": condition}}


def _same(by: Any) -> Stage:
    return {"$eq": ["$$this.by", by]}


def _by_now(*from_on: tuple[float, float], otherwise: float) -> Any:
    """The value of the first of the times, the latest first, that is not later than now."""
    found: Any = otherwise
    for time, value in reversed(from_on):
        found = {"$cond": [{"$lte": [time, "$now"]}, value, found]}
    return found


def _same_day() -> Stage:
    """Whether what was used still counts; beyond the days that are known nobody can say that it does not."""
    return {"$or": [_counts_on(), {"$and": [{"$not": "$known"}, {"$gt": ["$used", 0]}]}]}


def _counts_on() -> Stage:
    """The pipeline of `gcra._counts_on`; what is no number is not between two."""
    return {"$and": [{"$gte": ["$day", "$today"]}, {"$lte": ["$day", "$now"]}]}


def _recent(members: Any) -> Stage:
    young = {"$lt": [{"$abs": {"$subtract": ["$now", "$$this.v.at"]}}, MEMBER_AGE]}
    return {"$arrayToObject": _those({"$objectToArray": members}, young)}


def _hungry(member: str) -> Stage:
    """How many others wanted more than they got."""
    other = {"$and": ["$$this.v.hungry", {"$ne": ["$$this.k", member]}]}
    return {"$size": _those({"$objectToArray": "$members"}, other)}


def _seconds(date: Any) -> Stage:
    return {"$divide": [{"$toDouble": {"$toLong": date}}, 1000]}
