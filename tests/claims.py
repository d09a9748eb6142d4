"""Claims as a replica makes them: under tokens that begin with its ID."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from mailsender.model.letter import Claim, FreshClaim, Letter
from mailsender.queue.port import Inserted, Queue

REPLICA = "0123456789abcdef"
"""The replica that claims where none is named."""

OTHER = "fedcba9876543210"
"""Another one."""

LIFE = 60.0
"""Seconds that it lives from its last beat on."""


def token_of(replica: str = REPLICA) -> str:
    """A new token of a replica."""
    return replica + secrets.token_hex(8)


async def claim(queue: Queue, limit: int, replica: str = REPLICA) -> Claim:
    """Claim letters for a replica that lives, which it is from then on if it was not known."""
    if not await queue.beat(replica, LIFE):
        await queue.join(replica, LIFE)
    return await queue.claim(limit, token_of(replica))


async def insert_claimed(
    queue: Queue, letters: Sequence[Letter], wanted: FreshClaim
) -> tuple[list[Inserted], Claim]:
    """Insert letters, those of one route as claimed; what became of each, and the claim."""
    found = await queue.insert(letters, [wanted])
    mine = [letter for letter, what in zip(letters, found, strict=True) if what is Inserted.CLAIMED]
    return found, Claim(token=wanted.token, letters=tuple(mine))
