"""The shared cursor of slots, leased in MongoDB by MongoDB's clock, and the orders beside it.

One document holds them for a relay. The arithmetic is that of `gcra.take`, written as an update pipeline
(`pipelines`). Orders come seldom: they are counted with here, and written where nobody was quicker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

import structlog
from pymongo import ReturnDocument

from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.queue.mongo.client import Client, Document, calling, durable
from mailsender.ratelimit.gcra import (
    Cursor,
    Member,
    SlotGrant,
    SlotRequest,
    days_around,
    grant_of,
)
from mailsender.ratelimit.order import RELAY, Order, obeyed
from mailsender.ratelimit.pipelines import leasing, mending, reading_the_time, returning
from mailsender.ratelimit.quota import Bucket
from mailsender.ratelimit.windows import Laid

_log = structlog.get_logger()

CURSOR = "cursor"
"""The document of the relay that the settings of one relay are."""

TRIES = 3
"""Leases after which one whose day was not known is given up: the second knows the store's time."""

ORDER_TRIES = 20
"""Writes of an order that others may forestall: all replicas may have one at once, and one of them writes."""

_GARBAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class MongoSlotStore:
    """`SlotStore` on the document `name` of `collection`; `timeout` is each call's deadline, in seconds."""

    def __init__(
        self,
        client: Client,
        *,
        database: str,
        collection: str,
        clock: Clock,
        timeout: float = 10.0,
        name: str = CURSOR,
    ) -> None:
        self._client, self._database, self._collection = client, database, collection
        self._named = {"_id": name}
        self._slots = durable(client, database, collection, timeout)
        self._clock = clock
        self._timeout = timeout
        self._ahead = clock.epoch() - clock.monotonic()  # of the store's clock, as far as it is known
        self._orders: dict[str, Order] = {}
        self._version: object = None  # of the orders that are known

    async def lease(self, request: SlotRequest) -> SlotGrant:
        """See `SlotStore.lease`. Slots whose reply is lost are lost with it."""
        try:
            return await self._lease(request)
        except (Rejected, *_GARBAGE) as error:
            # Somebody wrote into the cursor what cannot be counted with; it would be met again and again.
            _log.error(
                "slots_cursor_mended",
                error=f"{type(error).__name__}: {error}",
                action="what can be read of it stays; the next slot is now, without a burst",
                check="who writes into the collection of slots",
            )
        async with calling(self._timeout):
            await self._slots.update_one(self._named, mending())
        return await self._lease(request)

    async def _lease(self, request: SlotRequest) -> SlotGrant:
        for _ in range(TRIES):
            days = days_around(self._clock.monotonic() + self._ahead, request.allowance.timezone)
            asked = self._clock.monotonic()
            async with calling(self._timeout):
                document = await self._slots.find_one_and_update(
                    self._named,
                    leasing(request, days),
                    projection={"orders": 0},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            answered = self._clock.monotonic()
            self._ahead = document["now"] - answered
            if document["known"]:
                orders = await self._orders_by(document)
                return _grant(document, orders, request, asked, answered)
        raise Unavailable("MongoDB's clock is in another day each time it is asked")

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        """See `SlotStore.give_back`. Not to be repeated when it failed: the quota might be returned twice."""
        if unspent + grant.extra <= 0:
            return
        async with calling(self._timeout):
            await self._slots.update_one(self._named, returning(grant, unspent))

    async def order(self, order: Order, now: float) -> None:
        """See `SlotStore.order`."""

        def obey(orders: Mapping[str, Order], here: float) -> dict[str, Order]:
            return obeyed(orders, order.later(here - now).checked(), here)

        await self._change(obey)

    async def lift(self, key: str) -> bool:
        """See `SlotStore.lift`."""
        found = False

        def without(orders: Mapping[str, Order], _here: float) -> dict[str, Order]:
            nonlocal found
            found = key in orders
            return {name: each for name, each in orders.items() if name != key}

        await self._change(without)
        return found

    def beside(self, name: str) -> MongoSlotStore:
        """See `SlotStore.beside`. Its document is named after this one's."""
        return MongoSlotStore(
            self._client,
            database=self._database,
            collection=self._collection,
            clock=self._clock,
            timeout=self._timeout,
            name=f"{self._named['_id']}/{name}",
        )

    async def _change(self, changed: Callable[[Mapping[str, Order], float], dict[str, Order]]) -> None:
        """Write other orders, made of those that are there and of the store's time."""
        for _ in range(ORDER_TRIES):
            async with calling(self._timeout):
                document = await self._slots.find_one_and_update(
                    self._named, reading_the_time(), upsert=True, return_document=ReturnDocument.AFTER
                )
            orders = changed(_orders_in(document), document["now"])
            relay = orders.pop(RELAY, None)
            others = [_document_of(each) for each in orders.values()]
            change: Document = {"$set": {"orders": others}, "$inc": {"version": 1}}
            if relay is not None:
                change["$set"]["order"] = _document_of(relay)
            else:
                change["$unset"] = {"order": ""}
            async with calling(self._timeout):
                result = await self._slots.update_one(
                    {**self._named, "version": document.get("version")}, change
                )
            if result.matched_count:
                return
        raise Unavailable("others change the relay's orders each time")

    async def _orders_by(self, document: Document) -> dict[str, Order]:
        """All orders, that of the relay as a lease found it; the others are asked for when they changed."""
        version = document.get("version")
        if version != self._version:
            async with calling(self._timeout):
                found = await self._slots.find_one(self._named, {"orders": 1, "version": 1})
            found = found or {}
            self._orders, self._version = _orders_in(found), found.get("version")
        if "order" not in document:
            return self._orders
        return {**self._orders, RELAY: _order_of(document["order"])}


def _grant(
    document: Document, orders: Mapping[str, Order], request: SlotRequest, asked: float, answered: float
) -> SlotGrant:
    members = {
        name: Member(at=each["at"], next=each["next"], hungry=each["hungry"])
        for name, each in document["members"].items()
    }
    windows, steps = request.windows, tuple(document["steps"])
    cursor = Cursor(
        next=document["next"],
        used=int(document["used"]),
        day=document["day"],
        members=members,
        further={each.name: document["further"][each.name] for each in windows[1:]},
        spent=tuple(Bucket(by=each["by"], count=int(each["count"])) for each in document.get("spent", ())),
        orders=orders,
        laid=Laid(
            first=document["first"],
            step=document["step"],
            starts=tuple(document["starts"]),
            steps=steps,
            lags=tuple(document["lags"]),
        ),
        extra=int(document["extra"]) if request.extra else 0,
    )
    return grant_of(
        cursor=cursor,
        first=document["first"],
        count=int(document["count"]),
        now=document["now"],
        request=request,
        asked=asked,
        answered=answered,
    )


def _document_of(order: Order) -> Document:
    return {**asdict(order), "step": order.step}


def _order_of(document: Document) -> Order:
    numbers = {name: float(document[name]) for name in ("until", "factor", "then_until", "spacing", "at")}
    if any(map(math.isnan, numbers.values())):
        raise ValueError("an order has a number that is none")
    return Order(key=str(document["key"]), rule=str(document["rule"]), said=str(document["said"]), **numbers)


def _orders_in(document: Document) -> dict[str, Order]:
    """The orders that a document holds; what is none is left out, and goes with the next change."""
    found: dict[str, Order] = {}
    kept = document.get("orders")
    for each in (document.get("order"), *(kept if isinstance(kept, list) else ())):
        try:
            order = _order_of(each)
        except _GARBAGE:
            continue
        found[order.key] = order
    return found
