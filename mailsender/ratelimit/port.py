"""Where slots come from, as a narrow Protocol. Its docstrings are the contract."""

from __future__ import annotations

from typing import Protocol

from mailsender.ratelimit.gcra import SlotGrant, SlotRequest


class SlotStore(Protocol):
    """The one place from which all replicas lease slots."""

    async def lease(self, request: SlotRequest) -> SlotGrant:
        """Claim up to `request.want` slots; a grant of none says when to ask again.

        Members who want more than there is get about as much each. To want none takes none, and tells how
        much of the quota is used. Raises `Unavailable`.
        """
        ...

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        """Return the last `unspent` slots of `grant`; what cannot be returned any more is lost."""
        ...
