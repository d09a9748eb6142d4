"""Where the flows of routes have come to (`mailsender.queue.ranks`), in a collection that replicas share.

Beside the letters' collection lies one with a document for each flow that had to wait lately, and one for
each route. Times in them are milliseconds since 1970, as ranks are.

- ``{_id: {route, flow}, next, era, first, by, expire_at}``: `next` is the place of the flow's next letter.
  `first` is where what was reserved last begins, and `by` who did it.
- ``{_id: {route}, now, era}``: the route's own time. An era ends when nothing waits: what flows had come to
  in an earlier one counts no further than the route's time.

Nothing is lost with these documents but the order of what waits, so one member's word is enough for them: a
write to a majority would cost each insert as much as the letters themselves.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError
from pymongo.write_concern import WriteConcern

from mailsender.model.clock import Clock
from mailsender.model.errors import Forbidden, Rejected
from mailsender.model.handling import Priority
from mailsender.model.letter import Letter, now_ms
from mailsender.queue.mongo.claim_order import FIRST
from mailsender.queue.mongo.client import DUPLICATE_KEY, Collection, Document, calling
from mailsender.queue.mongo.indexes import ensure_indexes
from mailsender.queue.ranks import LEAD, LOOK, OFFSETS, Shares, flow_of, offset, reached

KEPT: Final = 7 * 86_400_000
"""Milliseconds for which a flow is known after its last letter came in: longer than one waits, and so short
that streams which somebody makes up anew each time are forgotten long before their letters are."""

MOST_ROUTES: Final = 1000
"""Routes whose time is held: far more than there ever are."""

FARTHEST: Final = datetime(2500, 1, 1, tzinfo=UTC).timestamp() * 1000
"""Milliseconds beyond which no place is believed: another program may have written any rank, and a route's
time that followed it to the end of the calendar would leave no places."""

BELIEVED: Final = datetime(9000, 1, 1, tzinfo=UTC).timestamp() * 1000
"""Milliseconds beyond which a time is no time that was counted on from there, and soon no date."""

TRIES: Final = 3
"""How often a flow is reserved that others make at the same moment."""

INDEXES: Final = (
    IndexModel([("expire_at", ASCENDING)], name="mailsender_flow_expire", expireAfterSeconds=0),
)

_GARBAGE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_log = structlog.get_logger()


@dataclass(slots=True)
class _Time:
    """A route's own time, in milliseconds, its era, and when that was read, on the monotonic clock."""

    now: float
    era: int
    read_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Places of a flow for letters, which are numbers among those that wait; in milliseconds."""

    name: Document
    first: float
    step: float
    letters: list[int]

    def place(self, number: int) -> float:
        """The place of one of them, or of whoever comes behind them."""
        return self.first + number * self.step


class Flows:
    """Ranks for letters that have to wait; the owner gives calls a deadline and translates their errors."""

    def __init__(self, letters: Collection, flows: Collection, clock: Clock, shares: Shares) -> None:
        self._letters = letters
        self._flows = flows.with_options(write_concern=WriteConcern(w=1))
        self._clock = clock
        self._shares = shares
        self._times: dict[str, _Time] = {}
        self._forbidden = False

    async def open(self) -> None:
        """Make sure that what is over is removed."""
        try:
            await ensure_indexes(self._flows, INDEXES)
        except Forbidden as error:
            self._say(error)

    async def rank(
        self, waiting: Sequence[tuple[Letter, Document]], now: datetime, timeout: float
    ) -> list[Reserved]:
        """Give a rank to the documents of letters that come in at `now` and wait, in their order.

        Returns what was reserved for them.

        Raises:
            Unavailable: MongoDB does not say where the flows are.
        """
        routes: dict[str, dict[str, list[int]]] = {}
        for index, (letter, _) in enumerate(waiting):
            routes.setdefault(letter.route, {}).setdefault(flow_of(letter), []).append(index)
        reserved: list[Reserved] = []
        for route, flows in routes.items():
            try:
                reserved += await self._reserved(route, flows, now, timeout)
            except Forbidden as error:
                self._say(error)  # they stand in the order in which they came
                break
        for each in reserved:
            for number, index in enumerate(each.letters):
                letter, document = waiting[index]
                document["rank"] = now_ms(each.place(number) / 1000 + offset(letter))
        return reserved

    async def give_back(self, reserved: Sequence[Reserved], stored: Sequence[bool], timeout: float) -> None:
        """Let the flows' next letters have the places behind the last that were `stored`.

        A record that is read again brings no letters, and must not cost its flow their places.

        Raises:
            Unavailable: it may not be done.
        """
        writes = []
        for each in reserved:
            taken = max([number + 1 for number, index in enumerate(each.letters) if stored[index]], default=0)
            if taken < len(each.letters):
                # Unless others reserved meanwhile.
                query = {"_id": each.name, "next": each.place(len(each.letters))}
                writes.append(UpdateOne(query, {"$set": {"next": each.place(taken)}}))
        if writes:
            async with calling(timeout):
                await self._flows.bulk_write(writes, ordered=False)

    def first(self, route: str, now: datetime) -> datetime:
        """Where a newcomer to a route stands, as far as that is known: else by the time of day, `now`."""
        time = self._times.get(route)
        ahead = now.timestamp() if time is None else min(now.timestamp(), time.now / 1000)
        return now_ms(ahead - LEAD)

    def served(self, route: str, heads: Iterable[Document]) -> None:
        """These letters of a route had their turn."""
        time = self._times.get(route)
        if time is not None:
            for each in heads:
                if "rank" in each:
                    time.now = max(time.now, _reached(each))

    async def _reserved(
        self, route: str, wanted: Mapping[str, list[int]], now: datetime, timeout: float
    ) -> list[Reserved]:
        """Places on a route; what somebody wrote into its documents must not keep its letters out."""
        names = [{"route": route}, *({"route": route, "flow": flow} for flow in wanted)]
        for _ in range(2):
            try:
                async with calling(timeout):
                    return await self._reserve(route, await self._time(route, now), wanted)
            except (Rejected, *_GARBAGE) as error:
                _log.error(
                    "flows_mended",
                    route=route,
                    error=f"{type(error).__name__}: {error}",
                    action="its flows begin anew, behind what waits",
                    check="who writes into the collection with .flows",
                )
            self._times.pop(route, None)
            with suppress(Rejected):
                async with calling(timeout):
                    await self._flows.update_many(
                        {"_id": {"$in": names}}, [{"$replaceWith": {"_id": "$_id"}}]
                    )
        return []  # they stand in the order in which they came

    # --- the route's time --------------------------------------------------------------------------

    async def _time(self, route: str, now: datetime) -> _Time:
        """As it was at most `LOOK` seconds ago."""
        known = self._times.get(route)
        asked = self._clock.monotonic()
        if known is not None and asked - known.read_at < LOOK:
            return known
        query = {"status": "awaiting", "route": route, "rank": {"$gte": FIRST}}
        shown = {"rank": 1, "handling.priority": 1}
        head = await self._letters.find(query, shown).sort([("rank", ASCENDING)]).limit(1).to_list(1)
        at, served = now.timestamp() * 1000, known.now if known is not None else 0.0
        if head:
            # Where nobody knows, as when these documents were lost, newcomers come behind all that wait.
            so_far = {"$ifNull": ["$now", at + LEAD * 1000]}
            update: Document = {"now": {"$max": [so_far, served, _reached(head[0])]}}
        else:
            update = {
                "now": {"$max": ["$now", served, at]},
                "era": {"$add": [{"$ifNull": ["$era", 0]}, 1]},
            }
        found = await self._changed({"route": route}, [{"$set": update}])
        if len(self._times) >= MOST_ROUTES:
            self._times.clear()
        time = _Time(now=_sound(found["now"]), era=found.get("era", 0), read_at=asked)
        self._times[route] = time
        return time

    # --- the flows' places -------------------------------------------------------------------------

    async def _reserve(self, route: str, time: _Time, wanted: Mapping[str, list[int]]) -> list[Reserved]:
        """Places for the letters of each flow."""
        names = {flow: {"route": route, "flow": flow} for flow in wanted}
        steps = {flow: self._shares.step(route, flow) * 1000 for flow in wanted}
        token = secrets.token_hex(8)
        updates = {
            flow: _reserving(time, len(letters) * steps[flow], token) for flow, letters in wanted.items()
        }
        found: dict[str, float] = {}
        if len(wanted) > 1:
            found = await self._reserved_together(names, updates, token)
        for flow in wanted.keys() - found.keys():
            found[flow] = _sound((await self._changed(names[flow], updates[flow]))["first"])
        return [
            Reserved(name=names[flow], first=found[flow], step=steps[flow], letters=letters)
            for flow, letters in wanted.items()
        ]

    async def _reserved_together(
        self, names: Mapping[str, Document], updates: Mapping[str, list[Document]], token: str
    ) -> dict[str, float]:
        """The same in two round trips; without those that somebody else reserved in between."""
        writes = [UpdateOne({"_id": names[flow]}, update, upsert=True) for flow, update in updates.items()]
        try:
            await self._flows.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            if any(each["code"] != DUPLICATE_KEY for each in error.details["writeErrors"]):
                raise
        query = {"_id": {"$in": list(names.values())}, "by": token}
        found = await self._flows.find(query, {"first": 1}).to_list(None)
        return {each["_id"]["flow"]: _sound(each["first"]) for each in found}

    async def _changed(self, name: Document, update: list[Document]) -> Document:
        for _ in range(TRIES):
            with suppress(DuplicateKeyError):
                return await self._find_and_change(name, update)
        return await self._find_and_change(name, update)

    async def _find_and_change(self, name: Document, update: list[Document]) -> Document:
        found: Document = await self._flows.find_one_and_update(
            {"_id": name}, update, upsert=True, return_document=ReturnDocument.AFTER
        )
        return found

    def _say(self, error: Forbidden) -> None:
        if not self._forbidden:
            self._forbidden = True
            _log.warning(
                "flows_forbidden",
                error=str(error),
                action="letters wait in the order in which they came; shares of streams do not hold",
            )


def _reserving(time: _Time, length: float, token: str) -> list[Document]:
    """Reserve `length` milliseconds of a route's time for a flow. No text from outside is in it."""
    newcomer = time.now - LEAD * 1000
    next_ = {"$ifNull": ["$next", newcomer]}
    # Nothing waited since: it owes nobody, but comes behind its own that had their turn.
    over = {"$lt": ["$era", time.era]}
    own = {"$cond": [over, {"$min": [next_, time.now]}, next_]}
    return [
        {"$set": {"first": {"$max": [own, newcomer]}}},
        {
            "$set": {
                "next": {"$add": ["$first", length]},
                "era": {"$max": ["$era", time.era]},
                "by": token,
                "expire_at": {"$add": ["$$NOW", KEPT]},
            }
        },
    ]


def _sound(time: Any) -> float:
    """A time as it is kept here.

    Raises:
        ValueError: another program wrote it, or what it was made of.
    """
    if not (isinstance(time, int | float) and 0 <= time <= BELIEVED):
        raise ValueError("that is no time of a route")
    return float(time)


def _reached(document: Document) -> float:
    """Where the route's time is when this letter has its turn, in milliseconds."""
    rank, handling = document["rank"], document.get("handling")
    if not isinstance(rank, datetime):
        return 0.0
    stands = min(rank.timestamp() * 1000, FARTHEST)
    try:
        return reached(stands, OFFSETS[Priority(handling["priority"])] * 1000) if handling else stands
    except (KeyError, TypeError, ValueError):
        return stands
