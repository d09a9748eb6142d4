"""Ends letters whose time to be sent is over while they wait: for a relay, their turn, or another try.

A sender does the same with one that it has in hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from mailsender.model.letter import Claim, Letter, Settlement
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue
from mailsender.sending.attempt import as_expired
from mailsender.sending.settler import Settler

log = structlog.get_logger()


def tell_expired(letters: Sequence[Letter]) -> None:
    """Have the log say that these letters end, as their time to be sent is over; there is one at least."""
    log.warning(
        "letters_expired",
        letters=len(letters),
        first=letters[0].id,
        action="they are errors, or sent where a relay took them for somebody; their publishers get reports",
    )


class Expiry:
    """Takes what has expired out of the queue, and settles it."""

    def __init__(self, queue: Queue, in_flight: InFlight, settler: Settler) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._settler = settler

    async def sweep(self, limit: int) -> int:
        """End up to `limit` letters; returns how many.

        Raises:
            Unavailable: the queue is away.
        """
        if not self._in_flight.joined:
            return 0
        token = self._in_flight.ask()
        try:
            claim = await self._queue.claim_expired(limit, token)
        except BaseException:
            self._in_flight.unanswered(token)
            raise
        self._in_flight.answered(token)
        self._end(claim)
        return len(claim.letters)

    def _end(self, claim: Claim) -> None:
        if not claim.letters or not self._in_flight.is_own(claim.token):
            return  # we were declared dead meanwhile: whoever lives gets them
        self._in_flight.take(claim)
        for letter in claim.letters:
            self._settler.put(Settlement(token=claim.token, letter=as_expired(letter)))
        tell_expired(claim.letters)
