"""Where slots come from, as a narrow Protocol. Its docstrings are the contract."""

from __future__ import annotations

from typing import Protocol

from mailsender.ratelimit.gcra import SlotGrant, SlotRequest
from mailsender.ratelimit.order import Order


class SlotStore(Protocol):
    """The one place from which all replicas lease slots of one relay, or of one destination there."""

    async def lease(self, request: SlotRequest) -> SlotGrant:
        """Claim up to `request.want` slots; a grant of none says when to ask again.

        Members who want more than there is get about as much each. To want none takes none, and tells how
        much of the quota is used. No slot comes from a time that an order forbids, and no more than it
        leaves of the rate; the grant has all orders, those that are over at the latest until the next one
        comes. After the slots come `request.extra` units of the quota, as far as it has them. Raises
        `Unavailable`.
        """
        ...

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        """Return the last `unspent` slots of `grant`, and the units of the quota that are its `extra`.

        What cannot be returned any more is lost.
        """
        ...

    async def order(self, order: Order, now: float) -> None:
        """Write down what a reply ordered; its times are epoch seconds on a clock that shows `now`.

        It holds for every lease after that, and on the store's clock until its time is over. What an earlier
        order of that scope asks for still holds, too; see `order.merged`. Of more than `MOST_ORDERS` scopes
        the one whose order would end first is forgotten; that of the relay never is. To repeat it asks for no
        less speed, within `HEARD` seconds. Raises `Unavailable`.
        """
        ...

    async def lift(self, key: str) -> bool:
        """End the order of a scope; whether there was one. Raises `Unavailable`."""
        ...

    def beside(self, name: str) -> SlotStore:
        """The store of what has slots of its own beside these, such as one destination; always the same."""
        ...
