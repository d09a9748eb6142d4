"""What the loops need from the world, as narrow Protocols. Their docstrings are the contract.

Every implementation answers to the same contract suite (`tests/contract`). Errors of a driver are
translated at its adapter into the two families below, with the original as ``__cause__``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from mailsender.model.history import History
from mailsender.model.letter import (
    DEFAULT_ROUTE,
    Answer,
    Claim,
    Envelope,
    FreshClaim,
    Letter,
    Origin,
    Outcome,
    Recipient,
    Result,
    Settlement,
    StoredLetter,
)


class Unavailable(Exception):  # noqa: N818  a state of the world, not a mistake
    """A part of the outside world cannot do it now; the same call may succeed later."""


class Forbidden(Unavailable):
    """A part of the outside world does not let us: a login or a right is wanting.

    The same call succeeds once an operator has mended that, so it is waited for as for any `Unavailable`.
    """


class Rejected(Exception):  # noqa: N818  as above
    """A part of the outside world will never do it; repeating the call is of no use."""


class Clock(Protocol):
    """Time, as the loops read it."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for leases, slots and time-outs."""
        ...

    def epoch(self) -> float:
        """Seconds since 1970 in UTC; for what people and other programs read."""
        ...


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    epoch = staticmethod(time.time)


# --- the queue ---------------------------------------------------------------------------------


class Inserted(StrEnum):
    """What became of one letter given to `Queue.insert`."""

    NEW = "new"  # stored now
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


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How full the queue is.

    Of those that are `awaiting`, `due` wait for no time of their own. `oldest_due` is how long, in seconds,
    the letter that should have been sent first has been waiting beyond its time; 0.0 where none is due.
    `oldest_unreported` is how long the oldest report of `unreported` has been to come.
    """

    awaiting: int
    due: int
    processing: int
    sent: int
    error: int
    unreported: int
    oldest_due: float
    oldest_unreported: float = 0.0


CLOCK_AGE: Final = 10.0
"""Seconds for which a reading of the store's clock is used."""


class Histories(Protocol):
    """What is known of the in-topic's partitions."""

    async def history(self, topic: str, partition: int) -> History:
        """What is known of a partition of the in-topic; an empty one where nothing is."""
        ...

    async def note_history(self, topic: str, partition: int, history: History) -> None:
        """Keep what is known of a partition.

        One that knows less than what is kept, of the same log, or anything of an earlier log, changes
        nothing: another replica went on with the partition.
        """
        ...


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

    async def insert(self, letters: Sequence[Letter]) -> list[Inserted]:
        """Store letters, in order, in few round trips; answers stand in the order of `letters`.

        A letter with status `awaiting` can be claimed at once; one with `error` is final, and its report
        still to come. Nothing that one letter holds keeps its neighbours out. A letter that the store
        can never hold raises nothing: it is stored as an `error` with the reason and without its body.
        The same letter twice in one call is treated as if it came in two.
        `letters[i].answers[0].origin` is set for all of them. At most `MOST_PUBLISHERS` join a letter, with
        about `PUBLISHERS_BYTES` of keys and tokens; there is always room left for what becomes of it.
        """
        ...

    async def insert_claimed(
        self, letters: Sequence[Letter], claim: FreshClaim
    ) -> tuple[list[Inserted], Claim]:
        """`insert`, with the first `claim.limit` letters of its route that can be sent stored as claimed.

        They are `processing` under `claim.token` from the start, which saves their claim and the reading of
        their bodies. The claim holds those that are in the queue under this token, and no others: a letter
        that was there before belongs to whoever has it. The rest is stored `awaiting`.
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

    async def claim(self, limit: int, token: str, route: str = DEFAULT_ROUTE) -> Claim:
        """Take up to `limit` letters of `route` that are due under `token`, the longest waiting first.

        One claim is bounded in bytes, too, though one letter is taken whatever its size.
        Letters become `processing` under `token`, which is new and begins with the ID of a replica that has
        joined. A letter is never under two tokens.
        With one replica the order is that of insertion, where a deferred letter counts as inserted when it
        is due, and one that was given back keeps its place. Returns an empty claim where none
        is due. If the reply of a write is lost the letters are read back by token, or not
        returned at all: `claims_of` finds them.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> frozenset[str]:
        """Write outcomes back, each guarded by its token, though its replica may be dead.

        Before a final state it is written down that its report is still to come, and with it until when the
        letter is remembered; `awaiting` becomes due after the settlement's delay. Repeating a settlement
        changes nothing. Returns the IDs of late writers: letters that another token's holder settled or owns;
        theirs changed nothing.
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

    async def held(self, claims: Mapping[str, Sequence[str]]) -> dict[str, list[Letter]]:
        """Letters that are still `processing` under their tokens, as they were claimed, by token.

        `claims` maps a token to IDs.
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
        """
        ...

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        """Note that all `answers` of these letters, as they were settled or read, were published."""
        ...

    async def get(self, letter_id: str) -> Letter | None:
        """One letter by its ID, or None."""
        ...

    async def look_up(self, letter_id: str) -> StoredLetter | None:
        """One letter by its ID, with its times, or None. For people: nothing that is sent asks for it."""
        ...

    async def stats(self) -> QueueStats:
        """Counts by status and the age of the oldest; cheap enough to ask every few seconds."""
        ...

    async def keep_record(self, record: Record, reason: str) -> str:
        """Store a whole record that the dead-letter topic refused; returns where, for a header.

        Safe to repeat: the same record is kept once.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


# --- Kafka ---------------------------------------------------------------------------------------


RECORD_OVERHEAD: Final = 80
"""Bytes that Kafka's clients count for a record beside its key, value and headers, rounded up."""

HEADER_OVERHEAD: Final = 10
"""Bytes of the two lengths of a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the in-topic. `timestamp` in milliseconds, -1 where it has none.

    `appended` says that the broker set the time when it took the record, and not its producer. `fault` says
    why it could not be read; its `value` is then what lies there instead.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    appended: bool = False
    fault: str = ""


def record_bytes(record: Record | Outgoing) -> int:
    """Bytes of a record's key, value and headers, and of what stands between them in a batch, rounded up."""
    size = len(record.key or b"") + len(record.value or b"") + RECORD_OVERHEAD
    for name, value in record.headers:
        size += (len(name) if name.isascii() else 4 * len(name)) + len(value or b"") + HEADER_OVERHEAD
    return size


@dataclass(init=False, slots=True, unsafe_hash=True)
class Outgoing:
    """A record to be published. One that may lie `anywhere` avoids the partition of its key in trouble."""

    topic: Final[str]
    key: Final[bytes | None]
    value: Final[bytes | None]
    headers: Final[tuple[tuple[str, bytes | None], ...]]
    anywhere: Final[bool]

    def __init__(
        self,
        *,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
        anywhere: bool = False,
    ) -> None:
        """Take its fields."""
        self.topic = topic
        self.key = key
        self.value = value
        self.headers = headers
        self.anywhere = anywhere


@dataclass(init=False, slots=True, unsafe_hash=True)
class Landed:
    """Where a published record lies."""

    topic: Final[str]
    partition: Final[int]
    offset: Final[int]

    def __init__(self, *, topic: str, partition: int, offset: int) -> None:
        """Take its fields."""
        self.topic = topic
        self.partition = partition
        self.offset = offset


class TooLarge(Rejected):
    """The broker or the client refuses the record for its size."""


class RecordSource(Protocol):
    """The in-topic, as one member of its consumer group reads it.

    A broker that is away is survived inside: calls return nothing meanwhile and `trouble` says why.
    """

    async def open(self) -> None:
        """Join the group; returns although no broker answers yet."""
        ...

    async def fetch(self, timeout: float) -> list[Record]:
        """The next records, in order within each partition; empty after `timeout` seconds.

        Each record is handed out once, unless its partition was given away and came back.
        """
        ...

    async def idle(self, timeout: float) -> None:
        """Stay in the group without taking records, for about `timeout` seconds."""
        ...

    async def commit(
        self,
        offsets: Mapping[tuple[str, int], int],
        notes: Mapping[tuple[str, int], str] | None = None,
    ) -> bool:
        """Commit the next offset to read of each (topic, partition), with a note of what lies before it.

        Partitions that are not ours any more are left out: another member will redo them. False means
        that the broker did not confirm it in time and that the call should be repeated.
        """
        ...

    @property
    def trouble(self) -> str:
        """Why records are not coming, or some never will, for readiness and status; empty if all is well."""
        ...

    @property
    def lost(self) -> int:
        """Records that the broker deleted before they were read, since the start, where that shows."""
        ...

    def lag(self) -> Mapping[tuple[str, int], int]:
        """How many records lie behind the last that was handed out, by (topic, partition), where known."""
        ...

    async def close(self) -> None:
        """Leave the group, within a deadline."""
        ...


class RecordSink(Protocol):
    """An idempotent producer, acks=all."""

    async def open(self) -> None:
        """Start; returns although no broker answers yet."""
        ...

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        """Publish all, without waiting one by one; answers stand in the order of `records`.

        An answer is where the record lies once every in-sync replica has it, `Rejected` (`TooLarge`, or it
        is refused for something else that it holds: it always will be), or `Unavailable` (it may or may not
        have been stored). Never raises for a single record and never waits longer than its deadline. A
        partition in trouble holds up nothing but its own records, and those not longer than it has to: one
        that is known to be in trouble answers at once.
        """
        ...

    @property
    def trouble(self) -> str:
        """Why no record at all can be published, for readiness and status; empty when some can."""
        ...

    def trouble_with(self, topic: str) -> str:
        """Why no record can be published on `topic`; empty when one of its partitions takes some."""
        ...

    async def close(self) -> None:
        """Flush and stop, within a deadline."""
        ...


# --- the relay -----------------------------------------------------------------------------------


class Permit(Protocol):
    """Permission for a transaction, asked at the two moments that cannot be taken back."""

    def begin(self) -> bool:
        """Asked just before MAIL FROM is written: the slot has not lapsed, and the letter is ours."""
        ...

    def dot(self) -> bool:
        """Asked just before the final dot is written: the letter is still ours and nobody cut us off.

        After a yes nothing may come between but the write: it is noted that a relay may have the letter.
        """
        ...

    def replied(self, results: Mapping[str, Result]) -> None:
        """Told what the reply to the dot came to for all recipients, before anybody waits for anything."""
        ...


class RelayAway(Unavailable):
    """No session could be opened. `phase` and `code` say how far it came.

    `permanent` tells a fault that waiting will not mend (wrong password, wrong certificate), so that
    the operator hears of it at once; it is tried again all the same.
    """

    def __init__(self, text: str, *, phase: str, code: int | None = None, permanent: bool = False) -> None:
        """Note how far it came."""
        super().__init__(text)
        self.phase = phase
        self.code = code
        self.permanent = permanent


class NotBegun(Exception):  # noqa: N818  an answer, not a mistake
    """Nothing came of a transaction, nothing was sent, and it says nothing about the letter.

    `Permit.begin` said no; or the session ended before the relay had answered a word about this letter, and
    it had carried others before, so that its end has to do with them; or commands that were sent ahead of
    their replies got none, which will not be done again. Another session may try at once.
    """


class Session(Protocol):
    """One connection to a relay."""

    @property
    def pipeline_depth(self) -> int:
        """How many transactions it is worth to ask for at once: 2 where the relay takes them pipelined."""
        ...

    async def transact(self, envelope: Envelope, message: bytes, permit: Permit) -> Outcome:
        """Carry one transaction through and say what became of each recipient.

        Several may be asked for at once: they are carried in the order in which they were asked for, and at
        most one of them is after its dot.

        `message` is ready for the wire but for dot-stuffing: CRLF line ends, no final dot. Never raises
        for anything that the relay does: a lost connection before the dot is `deferred`, after it
        `uncertain`, and `session_usable` is False. If `permit.dot()` says no the connection is closed
        without the dot and all recipients are deferred in phase `data`. After a refused
        transaction the session has been reset (RSET) when it is usable.

        Raises:
            NotBegun: nothing came of it.
        """
        ...

    @property
    def reusable(self) -> bool:
        """Whether it is certain to be alive without asking: it is alive and was used just now."""
        ...

    async def check_alive(self) -> bool:
        """Whether it can carry another transaction; asks the relay (NOOP) after it has been idle."""
        ...

    async def try_sender(self, reverse_path: str, recipient: str = "") -> Result:
        """What the relay says to MAIL FROM with `reverse_path`, which is taken back at once (RSET).

        Where a `recipient` is named and the sender was taken, what it says to RCPT TO with that; the result's
        phase tells. No letter is sent. Without a recipient `accepted` may still turn into a refusal later:
        many relays judge the greeting and the sender only when they hear the first one. Never raises for
        anything that the relay does; a lost connection is `deferred`.
        """
        ...

    def abort(self) -> None:
        """Cut the connection now. A transaction under way ends at once as if it was lost."""
        ...

    async def close(self) -> None:
        """QUIT, within a deadline."""
        ...

    @property
    def supports_8bit(self) -> bool:
        """Whether the relay offers 8BITMIME (RFC 6152)."""
        ...


class Transport(Protocol):
    """The way to an SMTP server that we submit to."""

    @property
    def name(self) -> str:
        """``host:port``, for reports and logs."""
        ...

    @property
    def remark(self) -> str:
        """What it is found to do otherwise than it says, for an operator; empty when there is nothing."""
        ...

    async def connect(self) -> Session:
        """Open a session: connection, TLS, EHLO, AUTH.

        Raises:
            RelayAway: it could not be opened, with the reason.
        """
        ...


__all__ = [
    "CLOCK_AGE",
    "MOST_PUBLISHERS",
    "PUBLISHERS_BYTES",
    "Answer",
    "Clock",
    "Forbidden",
    "Inserted",
    "Landed",
    "NotBegun",
    "Origin",
    "Outgoing",
    "Permit",
    "Queue",
    "QueueStats",
    "Record",
    "RecordSink",
    "RecordSource",
    "Rejected",
    "RelayAway",
    "Session",
    "SystemClock",
    "TooLarge",
    "Transport",
    "Unavailable",
]
