"""What the loops need from a queue. The docstrings are the contract.

Every implementation answers to the same suite (`tests/contract`), and translates its driver's errors into
those of `mailsender.model.errors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

from mailsender.model.history import Histories
from mailsender.model.letter import (
    DEFAULT_ROUTE,
    Claim,
    FreshClaim,
    Letter,
    Recipient,
    Settlement,
    StoredLetter,
)
from mailsender.model.queue_stats import QueueStats
from mailsender.model.records import Record
from mailsender.queue.ranks import RouteShares


class Inserted(StrEnum):
    """What became of one letter given to `Queue.insert`."""

    NEW = "new"  # stored now
    CLAIMED = "claimed"  # stored under the claim of its route, by this call or by an earlier try of it
    REPLAY = "replay"  # the same origin was stored before: nothing to do
    JOINED = "joined"  # same ID, other origin, same content: its publisher gets the answer too
    LATE = "late"  # as joined, but the letter is on its way or has ended: its publisher is answered by itself
    CLASH = "clash"  # same ID, other content: not stored
    TAKEN = "taken"  # its ID was computed from its origin, and belongs to other content: not stored
    CROWDED = "crowded"  # as joined, but its publisher found no room beside the others: not stored


MOST_PUBLISHERS: Final = 100
"""Publishers beside the first who may share a letter, so that a producer that repeats itself for ever fills
no document."""


PUBLISHERS_BYTES: Final = 1024 * 1024
"""Bytes that their keys and tokens may take together."""


CLOCK_AGE: Final = 10.0
"""Seconds for which a reading of the store's clock is used."""


class Queue(Histories, Protocol):
    """Letters that were accepted and are not yet forgotten.

    Every write is durable (majority, journaled) when its call returns. All calls raise `Unavailable`
    when the store is away or cannot say whether a write is durable; each is safe to repeat.
    """

    async def open(self) -> None:
        """Connect and make sure that the indexes exist. Safe to repeat."""
        ...

    async def now(self, age: float = CLOCK_AGE) -> float:
        """The store's own clock, in epoch seconds: the one by which ages are judged.

        Never ahead of the store's clock, and behind it by a round trip at most. The store is asked again only
        when its last answer is older than `age` in seconds; in between the answer is carried on by the
        monotonic clock, so that asking once for each batch costs nothing.
        """
        ...

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        """Store letters, in order, in few round trips; answers stand in the order of `letters`.

        A letter with status `awaiting` can be claimed at once; one with `error` is final, and its report
        still to come. Nothing that one letter holds keeps its neighbours out. A letter that the store
        can never hold raises nothing: it is stored as an `error` with the reason and without its body.
        The same letter twice in one call is treated as if it came in two.
        `letters[i].answers[0].origin` is set for all of them. At most `MOST_PUBLISHERS` join a letter, with
        about `PUBLISHERS_BYTES` of keys and tokens; there is always room left for what becomes of it.

        A letter gets its place in the order of its route, as `mailsender.queue.ranks` has it; one that may
        not be sent before a time of its own waits for that, as a deferred one does.

        Of `claims`, at most one a route, each has the first `limit` letters of its route that can be sent,
        those of a higher priority before the others, come in as claimed: they are `processing` under its
        token from the start, which saves their claim and the reading of their bodies. Those that are in the
        queue under that token, and no others, are told as `CLAIMED`: a letter that was there before belongs
        to whoever has it.
        """
        ...

    async def join(self, replica: str, life: float) -> None:
        """Let a replica be known for living, for `life` seconds from now; its ID is new.

        Before its first claim, for letters of replicas that nobody knows are given back.
        """
        ...

    async def beat(self, replica: str, life: float) -> bool:
        """Let a replica be known for living for `life` seconds from now, though its time may be over.

        False: it was declared dead, or is not known; its letters are given back, and it needs another ID.
        """
        ...

    async def leave(self, replica: str) -> None:
        """Let a replica be known no more. What it still has is given back by `reclaim`. Safe to repeat."""
        ...

    async def living(self) -> set[str]:
        """The IDs of the replicas that live, as far as nobody declared them dead."""
        ...

    async def claim(self, limit: int, token: str, route: str = DEFAULT_ROUTE) -> Claim:
        """Take up to `limit` letters of `route` that are due under `token`, in the route's order.

        One claim is bounded in bytes, too, though one letter is taken whatever its size.
        Letters become `processing` under `token`, which is new and begins with the ID of a replica that has
        joined. A letter is never under two tokens.
        The order is that of their ranks: within a flow that of insertion, and one that was given back keeps
        its place. Where deferred letters are due, too, one of each kind goes in turn, the deferred in the
        order in which they became due. Returns an empty claim where none is due. If the reply of a write is
        lost the letters are read back by token, and a part of them may not be there yet; or none is returned
        at all. `claims_of` finds them.
        """
        ...

    def share(self, routes: Mapping[str, RouteShares]) -> None:
        """Give the flows of routes these shares from now on; letters that wait keep their places."""
        ...

    async def claim_expired(self, limit: int, token: str) -> Claim:
        """Take up to `limit` letters that wait, on any route, and are no longer to be sent (`expires`).

        They are the claimer's, as those of `claim` are.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> frozenset[str]:
        """Write outcomes back, each guarded by its token, though its replica may be dead.

        Before a final state it is written down that its report is still to come, and with it until when the
        letter is remembered; `awaiting` becomes due after the settlement's delay, on the route that the
        letter names then. Repeating a settlement changes nothing. Returns the IDs of late writers: letters
        that another token's holder settled or owns; theirs changed nothing.
        """
        ...

    async def progress(self, token: str, letter_id: str, changed: Mapping[int, Recipient]) -> bool:
        """Note what became of some recipients of a letter that stays `processing` under its token.

        `changed` maps places in `Letter.recipients` to their new states. Whoever gets the letter next, should
        its owner die, finds them so; a settlement replaces them. Repeating it changes nothing. False: it is
        no longer under this token, and nothing was changed.
        """
        ...

    async def release(self, token: str, ids: Sequence[str]) -> None:
        """Give letters back untouched: `awaiting`, due as they were, no attempt counted."""
        ...

    async def routes(self) -> list[str]:
        """The routes on which letters wait, the unknown ones among them."""
        ...

    async def waiting(self, route: str, limit: int) -> list[str]:
        """IDs of up to `limit` letters that wait on a route, due or not."""
        ...

    async def look_at(self, ids: Sequence[str]) -> list[Letter]:
        """Those of these letters that wait now, in the order of `ids`, and of large ones only the first.

        There is at least one, unless none of them waits.
        """
        ...

    async def move(self, ids: Sequence[str], origin: str, route: str) -> int:
        """Let those of these letters that wait on the route `origin` wait on another one; how many do.

        Fresh ones get their places there as if they came in now, in their order: that route has a time of its
        own. Those that are deferred are due as they were. What is on its way meanwhile stays as it is.
        """
        ...

    async def put_off(
        self, route: str, words: Sequence[str], after: float, limit: int
    ) -> list[tuple[str, float]]:
        """Letters that wait on a route for a time of their own, as no relay was asked for somebody in them.

        They are told by how the words begin that say so, and by having no reply's code. The first `limit` of
        those that are due later than `after`, in epoch seconds, in order: IDs and when they are due.
        """
        ...

    async def hasten(self, ids: Sequence[str]) -> int:
        """Let those of these letters that wait for a time to come be due now; how many do."""
        ...

    async def held(self, claims: Mapping[str, Sequence[str]]) -> dict[str, list[Letter]]:
        """Letters that are still `processing` under their tokens, as they were claimed, by token.

        `claims` maps a token to IDs.
        """
        ...

    async def noted(self, claims: Mapping[str, Sequence[str]]) -> dict[str, frozenset[int]]:
        """Of letters that are still `processing` under their tokens: whose states were noted under those.

        `claims` is as for `held`. By ID there are the places that `progress` was given; those without any
        are left out.
        """
        ...

    async def claims_of(self, replica: str) -> dict[str, list[str]]:
        """IDs of the letters that are `processing` under a replica's tokens, by token."""
        ...

    async def reclaim(self, limit: int, within: float = math.inf, by: float = math.inf) -> int:
        """Declare replicas dead whose time is over, and turn up to `limit` of their letters back.

        They are `awaiting` then; returns how many. Their due time stays, so they are first in line.
        A `processing` document that belongs to no replica that is known, left by another program or by one
        that has left, comes back, too. What cannot be done within so many seconds is not done later either:
        after an outage the living come first. A replica whose time ends later than `by`, in epoch seconds,
        is not dead even where the store's clock is beyond it: somebody set that ahead.

        Raises:
            Unavailable: the queue is away, or was for a part of that time.
        """
        ...

    async def unreported(self, older_than: float, limit: int) -> list[Letter]:
        """Final letters whose reports are still to come, about `limit` of them, the oldest first.

        Those of the dead at once; this replica's own only when they wait for more than `older_than` seconds.
        Those of others that live are theirs. A letter has the answers that are to be reported, and no others:
        of one that a publisher joined late, that publisher's.
        Each call goes on behind those that the one before found, so that what cannot be reported hides
        nothing; the call after one that finds fewer begins with the oldest again.
        """
        ...

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        """Note that all `answers` of these letters, as they were settled or read, were published."""
        ...

    async def remember(self, limit: int) -> int:
        """Let letters whose reports are late be remembered for as long again as others are.

        Looks at `limit` entries of the outbox behind those of the call before. Returns how many there were;
        0 after the last of them. To repeat it is safe.
        """
        ...

    async def drop_bodies(self, limit: int) -> int:
        """Let letters go on without what they said, up to `limit` of those for which the time is over.

        They are final and reported. Body, texts and attachments go; the letter is `bare` then, and still
        known by its content. Returns how many were looked at; only where none was is nothing left. To
        repeat it is safe.
        """
        ...

    async def get(self, letter_id: str) -> Letter | None:
        """One letter by its ID, or None."""
        ...

    async def look_up(self, letter_id: str) -> StoredLetter | None:
        """One letter by its ID, with its times, or None. For people: nothing that is sent asks for it."""
        ...

    async def ahead(self, letter_id: str, most: int) -> int | None:
        """How many letters of its route go before one that may be sent now, up to `most`. For people.

        Where fresh and deferred ones wait one of each goes in turn, so of the other kind as many count as of
        its own, if there are so many. None: it does not wait, or it does so for a time of its own.
        """
        ...

    async def ended(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of `ids` whose letters are `sent` or `error`, in one round trip and without their content.

        `ids` are 24 lower-case hex digits each, at most some hundreds.
        """
        ...

    async def stats(self) -> QueueStats:
        """Counts by status and the age of the oldest; cheap enough to ask every few seconds."""
        ...

    async def keep_record(self, record: Record, reason: str) -> str:
        """Store a whole record that the dead-letter topic refused; returns where, for a header.

        It goes when the retention is over. Safe to repeat: the same record is kept once, and beside another
        one that lay in the same place.
        """
        ...

    async def close(self) -> None:
        """Give back connections. Whoever calls afterwards gets `Unavailable`, where there were any."""
        ...
