"""Claims as a replica makes them: under tokens that begin with its ID."""

from __future__ import annotations

import secrets

from mailsender.model.letter import Claim
from mailsender.queue.port import Queue

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
