"""The words of the domain: letters, recipients, envelopes and what became of them.

Everything here is frozen and free of I/O. Times are aware datetimes in UTC, kept to the
millisecond because that is what the queue stores: a report made before and after a restart
must have the same words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from sys import getsizeof
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Status(StrEnum):
    """Where a letter stands; the four statuses of the original service."""

    AWAITING = "awaiting"
    PROCESSING = "processing"
    SENT = "sent"
    ERROR = "error"

    @property
    def final(self) -> bool:
        """Whether nothing more will be done for the letter."""
        return self is Status.SENT or self is Status.ERROR


class Verdict(StrEnum):
    """What a transaction came to for one recipient."""

    ACCEPTED = "accepted"  # the relay took responsibility
    DEFERRED = "deferred"  # 4xx, or lost before the dot: nothing was sent, worth another try
    REFUSED = "refused"  # 5xx: final for this recipient
    UNCERTAIN = "uncertain"  # lost after the dot: nobody knows


class Phase(StrEnum):
    """The step at which an outcome was decided."""

    INTAKE = "intake"  # before the queue: the letter itself is wrong
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    RSET = "rset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What happened to one recipient, and why.

    `code` is the SMTP reply code (RFC 5321 §4.2), None where no reply was seen; `enhanced` the
    enhanced status code (RFC 3463) such as ``5.1.1``; `text` one line fit for a person.
    """

    verdict: Verdict
    phase: Phase
    code: int | None = None
    enhanced: str | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One address of a letter with its own state: None until something happened to it.

    `uncertain` stays set once an attempt was lost after its dot: the recipient may have got the
    letter from that attempt, whatever a later one came to. `closed` ends it although its result alone would
    not: an uncertain one that the operator does not want to address again.
    """

    address: str
    result: Result | None = None
    uncertain: bool = False
    closed: bool = False

    @property
    def open(self) -> bool:
        """Whether the next transaction has to address it."""
        if self.closed:
            return False
        if self.result is None:
            return True
        verdict = self.result.verdict
        return verdict is Verdict.DEFERRED or verdict is Verdict.UNCERTAIN

    @property
    def accepted(self) -> bool:
        """Whether a relay took responsibility for it."""
        return self.result is not None and self.result.verdict is Verdict.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What SMTP sees: the reverse-path and the recipients of one transaction (RFC 5321 §2.3.1)."""

    reverse_path: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one transaction came to: a result for every recipient of its envelope, in order.

    `session_usable` says whether the session may carry the next transaction; `text` sums up the
    reply that decided, for logs.
    """

    results: Mapping[str, Result]
    session_usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a letter came from. `timestamp` is the record's, in milliseconds, -1 where it has none."""

    topic: str
    partition: int
    offset: int
    index: int
    timestamp: int

    def letter_id(self) -> str:
        """The ID of a letter that brings none: 24 hex digits, the same at every reading of its record.

        Four bytes of the record's time in seconds, so that IDs sort roughly by time as ObjectIds do,
        and eight of a hash over the origin. Kafka accepts the timestamp -1, hence the mask.
        """
        seconds = (self.timestamp // 1000) & 0xFFFFFFFF
        return f"{seconds:08x}{self._digest().hex()}"

    def other_id(self) -> str:
        """A second ID from the same origin, for the answer to a letter whose own ID is taken."""
        seconds = (self.timestamp // 1000) & 0xFFFFFFFF
        return f"{seconds:08x}{self._digest(b'duplicate-id').hex()}"

    def _digest(self, person: bytes = b"") -> bytes:
        name = f"{self.topic}\0{self.partition}\0{self.offset}\0{self.timestamp}\0{self.index}"
        return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, person=person).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One party that gets the letter's report: the first publisher, or a later one of the same letter."""

    token: Any = ""
    key: bytes | None = None
    origin: Origin | None = None


@dataclass(frozen=True, kw_only=True)  # no slots: see `evolve`
class Letter:
    """One message to one or more addresses, as the queue keeps it.

    `attempts` counts the claims in which a transaction was begun for it (all slices of a large letter
    are one attempt). `answers[0]` is the first publisher's; `answered` says how many of `answers`
    were already published. `reason` explains an `error` that no relay decided. `relay` and
    `message_id` are those of the last attempt. `adopted` marks a document that another program put
    into the queue. `digest` is a hash of the content, by which a second publisher of the same ID is
    told from a clash.
    """

    id: str
    addresses: tuple[str, ...]
    subject: str
    body: str
    answers: tuple[Answer, ...] = (Answer(),)
    answered: int = 0
    recipients: tuple[Recipient, ...] = ()
    status: Status = Status.AWAITING
    attempts: int = 0
    reason: str = ""
    relay: str = ""
    message_id: str = ""
    finished_at: datetime | None = None
    digest: bytes = b""
    adopted: bool = False

    @property
    def pending(self) -> tuple[str, ...]:
        """The addresses that the next attempt has to reach, in order, each once."""
        return tuple(dict.fromkeys([r.address for r in self.recipients if r.open]))

    @cached_property
    def size(self) -> int:
        """Roughly the bytes it takes in memory; for bounds, not for accounts."""
        return getsizeof(self.body) + getsizeof(self.subject) + 256 * (len(self.addresses) + 8)

    def evolve(self, **changes: Any) -> Letter:
        """A copy with `changes`.

        Two dictionaries are merged, which takes a tenth of the time of `dataclasses.replace`; every letter
        is changed at least once on its way.

        Raises:
            TypeError: a letter has no such field.
        """
        copy = _new(Letter)
        values = copy.__dict__
        values.update(self.__dict__, **changes)
        if "size" in values and not _SIZED.isdisjoint(changes):
            del values["size"]
        if len(values) - ("size" in values) != len(_FIELDS):
            raise TypeError(f"a letter has no {', '.join(changes.keys() - _FIELDS)}")
        return copy


_new = object.__new__
_FIELDS = frozenset(each.name for each in fields(Letter))
_SIZED = frozenset({"body", "subject", "addresses"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Letters taken for sending, and until when they are ours.

    `token` fences late writers. `until` is on the caller's monotonic clock, counted from before the
    claim was sent, so it never lies later than what the queue wrote.
    """

    token: str
    until: float
    letters: tuple[Letter, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshClaim:
    """A wish to own letters from the moment of their insertion: up to `limit` of them, for `lease` seconds.

    `since` is the caller's monotonic clock before the first try. A call that is repeated brings the same
    claim: what an earlier try stored under `token` is known by it, although its reply was lost.
    """

    token: str
    limit: int
    lease: float
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What is to be written back for one letter under its lease.

    `letter` is the new state: final, or `awaiting` again after `delay` seconds.
    """

    token: str
    letter: Letter
    delay: float = 0.0


def now_ms(epoch: float) -> datetime:
    """The aware UTC datetime of `epoch` seconds, cut to the millisecond as the queue keeps it."""
    return _EPOCH + timedelta(milliseconds=math.floor(epoch * 1000))


def content_digest(addresses: Sequence[str], subject: str, body: str) -> bytes:
    """A hash of what makes two letters the same letter: addresses in order, subject and body."""
    texts = (str(len(addresses)), *addresses, subject, body)
    try:
        raw = [text.encode() for text in texts]
    except UnicodeEncodeError:
        raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    parts = b"".join([part for each in raw for part in (len(each).to_bytes(8, "big"), each)])
    return blake2b(parts, digest_size=16).digest()
