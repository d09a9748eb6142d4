"""The words of the domain: letters, recipients, envelopes and what became of them.

Everything here is frozen and free of I/O. Times are aware datetimes in UTC, kept to the
millisecond because that is what the queue stores: a report made before and after a restart
must have the same words.

A letter takes a dozen of these objects on its way, and `frozen=True` makes them three times as dear. So those
have `Final` fields and an `__init__` of their own: mypy lets nobody change them, and compiled they
cannot be changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from sys import getsizeof
from typing import Any, Final

from mailsender.model.handling import PLAIN, Handling
from mailsender.model.terms import Terms

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ANSWER: Final = 512
"""Bytes of an answer beside its token and key: itself and its origin."""

_SPOT: Final = 256
"""Bytes of an address, its recipient and its place in both lists."""

_RESULT: Final = 320
"""Bytes of a recipient's result beside its text, with the name of a rule as long as one may be."""

_PAST: Final = 384
"""Bytes of a past attempt and its result, beside its text."""

MOST_PAST: Final = 20
"""Attempts that are kept of a letter, the newest: a day of an hour's retries, and most letters take two."""

PAST_TEXT: Final = 200
"""Characters of a reply that are kept with each of them: what is said last is kept whole beside it."""


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


@dataclass(init=False, slots=True, unsafe_hash=True)
class Result:
    """What happened to one recipient, and why.

    `code` is the SMTP reply code (RFC 5321 §4.2), None where no reply was seen; `enhanced` the
    enhanced status code (RFC 3463) such as ``5.1.1``; `text` one line fit for a person. `rule` names the
    reply rule that decided, empty where the relay was taken at its word.
    """

    verdict: Final[Verdict]
    phase: Final[Phase]
    code: Final[int | None]
    enhanced: Final[str | None]
    text: Final[str]
    rule: Final[str]

    def __init__(
        self,
        *,
        verdict: Verdict,
        phase: Phase,
        code: int | None = None,
        enhanced: str | None = None,
        text: str = "",
        rule: str = "",
    ) -> None:
        """Take its fields."""
        self.verdict = verdict
        self.phase = phase
        self.code = code
        self.enhanced = enhanced
        self.text = text
        self.rule = rule


@dataclass(init=False, slots=True, unsafe_hash=True)
class Recipient:
    """One address of a letter with its own state: None until something happened to it.

    `tries` counts the attempts that told something about it and did not end it, `doubts` those of them that
    were lost after their dot: the recipient may have got the letter from each, whatever a later one came to.
    `closed` ends it although its result alone would not: it was tried, or doubted, often enough. `relay` is
    the one of which its result is. `due` is from when on it may be tried again where that is later than for
    others of its letter, in epoch seconds; else 0.
    """

    address: Final[str]
    result: Final[Result | None]
    tries: Final[int]
    doubts: Final[int]
    closed: Final[bool]
    relay: Final[str]
    due: Final[float]

    def __init__(
        self,
        *,
        address: str,
        result: Result | None = None,
        tries: int = 0,
        doubts: int = 0,
        closed: bool = False,
        relay: str = "",
        due: float = 0.0,
    ) -> None:
        """Take its fields."""
        self.address = address
        self.result = result
        self.tries = tries
        self.doubts = doubts
        self.closed = closed
        self.relay = relay
        self.due = due

    @property
    def uncertain(self) -> bool:
        """Whether it may have got the letter from an attempt that was lost after its dot."""
        return self.doubts > 0

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


@dataclass(init=False, slots=True, unsafe_hash=True)
class PastAttempt:
    """What one attempt to send a letter came to: `result` is what decided, of `asked` recipients.

    `accepted` of them were accepted. `at` is when it was over, None where a successor only found its traces;
    `seconds` is how long it took and `tls` the version of TLS of its session, where that is known.
    """

    at: Final[datetime | None]
    relay: Final[str]
    result: Final[Result]
    asked: Final[int]
    accepted: Final[int]
    seconds: Final[float | None]
    tls: Final[str]

    def __init__(
        self,
        *,
        at: datetime | None,
        relay: str,
        result: Result,
        asked: int = 1,
        accepted: int = 0,
        seconds: float | None = None,
        tls: str = "",
    ) -> None:
        """Take its fields."""
        self.at = at
        self.relay = relay
        self.result = result
        self.asked = asked
        self.accepted = accepted
        self.seconds = seconds
        self.tls = tls


@dataclass(init=False, slots=True, unsafe_hash=True)
class Envelope:
    """What SMTP sees: the reverse-path and the recipients of one transaction (RFC 5321 §2.3.1).

    `terms` is what the letter asks of the relay beside delivery; None, as with nearly all: nothing. `secret`
    is masked where the relay repeats it: a confirmation code.
    """

    reverse_path: Final[str]
    recipients: Final[tuple[str, ...]]
    terms: Final[Terms | None]
    secret: Final[str]

    def __init__(
        self,
        *,
        reverse_path: str,
        recipients: tuple[str, ...],
        terms: Terms | None = None,
        secret: str = "",
    ) -> None:
        """Take its fields."""
        self.reverse_path = reverse_path
        self.recipients = recipients
        self.terms = terms
        self.secret = secret


@dataclass(init=False, slots=True, unsafe_hash=True)
class Outcome:
    """What one transaction came to: a result for every recipient of its envelope, in order.

    `session_usable` says whether the session may carry the next transaction.
    """

    results: Final[Mapping[str, Result]]
    session_usable: Final[bool]

    def __init__(self, *, results: Mapping[str, Result], session_usable: bool) -> None:
        """Take its fields."""
        self.results = results
        self.session_usable = session_usable


@dataclass(init=False, slots=True, unsafe_hash=True)
class Origin:
    """Where a letter came from. `timestamp` is the record's, in milliseconds, -1 where it has none."""

    topic: Final[str]
    partition: Final[int]
    offset: Final[int]
    index: Final[int]
    timestamp: Final[int]

    def __init__(self, *, topic: str, partition: int, offset: int, index: int, timestamp: int) -> None:
        """Take its fields."""
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.index = index
        self.timestamp = timestamp

    def letter_id(self) -> str:
        """The ID of a letter that brings none: 24 hex digits, the same at every reading of its record.

        Four bytes of the record's time in seconds, so that IDs sort roughly by time as ObjectIds do,
        and eight of a hash over the origin. Kafka accepts the timestamp -1, hence the mask.
        """
        seconds = (self.timestamp // 1000) & 0xFFFFFFFF
        return f"{seconds:08x}{self._digest().hex()}"

    def other_id(self, what: bytes) -> str:
        """Another ID from the same origin, for `what` cannot have the one that it would have.

        What is named by it says `what`: an answer to a letter whose own ID is taken, or a letter whose origin
        was used before. A topic that was made again has the same origins for other letters.
        """
        seconds = (self.timestamp // 1000) & 0xFFFFFFFF
        return f"{seconds:08x}{self._digest(what, b'other').hex()}"

    def _digest(self, what: bytes = b"", person: bytes = b"") -> bytes:
        name = f"{self.topic}\0{self.partition}\0{self.offset}\0{self.timestamp}\0{self.index}"
        raw = name.encode("utf-8", "surrogatepass") + what
        return blake2b(raw, digest_size=8, person=person).digest()


@dataclass(init=False, slots=True, unsafe_hash=True)
class JsonText:
    """A JSON value in the words in which it was published: to read it would change its numbers."""

    text: Final[str]

    def __init__(self, text: str) -> None:
        """Take its field."""
        self.text = text


@dataclass(init=False, slots=True, unsafe_hash=True)
class Answer:
    """One party that gets the letter's report: the first publisher, or a later one of the same letter."""

    token: Final[Any]
    key: Final[bytes | None]
    origin: Final[Origin | None]

    def __init__(self, *, token: Any = "", key: bytes | None = None, origin: Origin | None = None) -> None:
        """Take its fields."""
        self.token = token
        self.key = key
        self.origin = origin

    @property
    def size(self) -> int:
        """Roughly the bytes it takes in memory."""
        token = self.token
        held = getsizeof(token) if isinstance(token, str) else _held(token)
        return held + len(self.key or b"") + _ANSWER


_NOBODY: Final = (Answer(),)

DEFAULT_ROUTE: Final = "default"
"""The route of a letter for which no other one was chosen."""


@dataclass(init=False, slots=True, unsafe_hash=True)
class Letter:
    """One message to one or more addresses, as the queue keeps it.

    `attempts` counts the claims in which a relay said something about one of its recipients (all slices of
    a large letter are one attempt). `answers[0]` is the first publisher's; `answered` says how many of
    `answers` were already published. `reason` explains an `error` that no relay decided. `relay` and
    `message_id` are those of the last attempt. `adopted` marks a document that another program put
    into the queue. `digest` is the hash of the content that is stored with it, as with each letter that
    brings its own ID; else empty. A second publisher of the same ID is told from a clash by `content`.
    `history` holds the last attempts of a letter that took more than one, the oldest first: what ended one at
    once is told by its other fields. `route` names the route that it takes. `mail` is JSON text of the
    further keys that it brought, as `mailsender.message.mail` reads them, and empty where it has the
    original's alone. `bare` says that its body, texts and attachments were kept for as long as they had to
    be, and are gone. `handling` is what it asks of the service, and `expires` when it is no longer sent: as
    it asks, or as its route says.
    """

    id: Final[str]
    addresses: Final[tuple[str, ...]]
    subject: Final[str]
    body: Final[str]
    answers: Final[tuple[Answer, ...]]
    answered: Final[int]
    recipients: Final[tuple[Recipient, ...]]
    status: Final[Status]
    attempts: Final[int]
    reason: Final[str]
    relay: Final[str]
    message_id: Final[str]
    finished_at: Final[datetime | None]
    digest: Final[bytes]
    adopted: Final[bool]
    route: Final[str]
    mail: Final[str]
    bare: Final[bool]
    history: Final[tuple[PastAttempt, ...]]
    handling: Final[Handling]
    expires: Final[datetime | None]
    _size: int = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        *,
        id: str,  # noqa: A002  the field's name
        addresses: tuple[str, ...],
        subject: str,
        body: str,
        answers: tuple[Answer, ...] = _NOBODY,
        answered: int = 0,
        recipients: tuple[Recipient, ...] = (),
        status: Status = Status.AWAITING,
        attempts: int = 0,
        reason: str = "",
        relay: str = "",
        message_id: str = "",
        finished_at: datetime | None = None,
        digest: bytes = b"",
        adopted: bool = False,
        route: str = DEFAULT_ROUTE,
        mail: str = "",
        bare: bool = False,
        history: tuple[PastAttempt, ...] = (),
        handling: Handling = PLAIN,
        expires: datetime | None = None,
    ) -> None:
        """Take its fields."""
        self.id = id
        self.addresses = addresses
        self.subject = subject
        self.body = body
        self.answers = answers
        self.answered = answered
        self.recipients = recipients
        self.status = status
        self.attempts = attempts
        self.reason = reason
        self.relay = relay
        self.message_id = message_id
        self.finished_at = finished_at
        self.digest = digest
        self.adopted = adopted
        self.route = route
        self.mail = mail
        self.bare = bare
        self.history = history
        self.handling = handling
        self.expires = expires
        self._size = 0

    @property
    def pending(self) -> tuple[str, ...]:
        """The addresses that the next attempt has to reach, in order, each once."""
        return tuple(dict.fromkeys([r.address for r in self.recipients if r.open]))

    @property
    def id_computed(self) -> bool:
        """Whether its ID was computed from its origin: it brought none."""
        origin = self.answers[0].origin
        return origin is not None and self.id == origin.letter_id()

    @property
    def everybody(self) -> tuple[str, ...]:
        """The addresses of all recipients, in order, each once: the same at every attempt."""
        return tuple(dict.fromkeys([r.address for r in self.recipients]))

    @property
    def content(self) -> bytes:
        """Its `digest`, made now where none was stored."""
        return self.digest or content_digest(
            self.addresses, self.subject, self.body, self.mail, self.handling.text
        )

    @property
    def size(self) -> int:
        """Roughly the bytes it takes in memory; for bounds, not for accounts."""
        if not self._size:
            self._size = self._measured()
        return self._size

    def _measured(self) -> int:
        size = getsizeof(self.body) + getsizeof(self.subject) + getsizeof(self.reason) + _SPOT * 8
        if self.mail:
            size += getsizeof(self.mail)
        for address in self.addresses:
            size += _SPOT + len(address)
        for answer in self.answers:
            size += answer.size
        last: Result | None = None
        for recipient in self.recipients:
            result = recipient.result
            if result is not None and result is not last:  # many share the one that says the same
                size += _RESULT + getsizeof(result.text)
                last = result
        for past in self.history:
            size += _PAST + getsizeof(past.result.text)
        return size

    def evolve(
        self,
        *,
        id: str | None = None,  # noqa: A002  the field's name
        addresses: tuple[str, ...] | None = None,
        subject: str | None = None,
        body: str | None = None,
        answers: tuple[Answer, ...] | None = None,
        answered: int | None = None,
        recipients: tuple[Recipient, ...] | None = None,
        status: Status | None = None,
        attempts: int | None = None,
        reason: str | None = None,
        relay: str | None = None,
        message_id: str | None = None,
        finished_at: datetime | None = None,
        digest: bytes | None = None,
        adopted: bool | None = None,
        route: str | None = None,
        mail: str | None = None,
        bare: bool | None = None,
        history: tuple[PastAttempt, ...] | None = None,
        handling: Handling | None = None,
        expires: datetime | None = None,
    ) -> Letter:
        """A copy with changes. What is None stays as it is: nothing known of a letter is ever unset."""
        copy = Letter(
            id=self.id if id is None else id,
            addresses=self.addresses if addresses is None else addresses,
            subject=self.subject if subject is None else subject,
            body=self.body if body is None else body,
            answers=self.answers if answers is None else answers,
            answered=self.answered if answered is None else answered,
            recipients=self.recipients if recipients is None else recipients,
            status=self.status if status is None else status,
            attempts=self.attempts if attempts is None else attempts,
            reason=self.reason if reason is None else reason,
            relay=self.relay if relay is None else relay,
            message_id=self.message_id if message_id is None else message_id,
            finished_at=self.finished_at if finished_at is None else finished_at,
            digest=self.digest if digest is None else digest,
            adopted=self.adopted if adopted is None else adopted,
            route=self.route if route is None else route,
            mail=self.mail if mail is None else mail,
            bare=self.bare if bare is None else bare,
            history=self.history if history is None else history,
            handling=self.handling if handling is None else handling,
            expires=self.expires if expires is None else expires,
        )
        if (
            body is None
            and mail is None
            and subject is None
            and addresses is None
            and answers is None
            and recipients is None
            and reason is None
            and history is None
        ):
            copy._size = self._size
        return copy


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLetter:
    """A letter as the queue keeps it: since when it does, and when the letter may be tried next.

    `accepted_at` is None where that is not known, `due` where it does not await.
    """

    letter: Letter
    accepted_at: datetime | None
    due: datetime | None


REPLICA_DIGITS: Final = 16
"""Hex digits of a replica's ID, with which its tokens begin."""


def replica_of(token: str) -> str:
    """The ID of the replica that made a token."""
    return token[:REPLICA_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Letters taken for sending under a token, which fences late writers.

    It begins with the ID of the replica that has them: they are its own for as long as that lives. `places`
    say where the letters stand in the order of their route, which two claims of it share; empty where that is
    not known.
    """

    token: str
    letters: tuple[Letter, ...] = field(default=())
    places: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshClaim:
    """A wish to own letters of a route from the moment of their insertion: up to `limit` of them.

    A call that is repeated brings the same claim: what an earlier try stored under `token` is known by it,
    although its reply was lost.
    """

    token: str
    limit: int
    route: str = DEFAULT_ROUTE


@dataclass(init=False, slots=True, unsafe_hash=True)
class Settlement:
    """What is to be written back for one letter under its claim.

    `letter` is the new state: final, or `awaiting` again after `delay` seconds.
    """

    token: Final[str]
    letter: Final[Letter]
    delay: Final[float]

    def __init__(self, *, token: str, letter: Letter, delay: float = 0.0) -> None:
        """Take its fields."""
        self.token = token
        self.letter = letter
        self.delay = delay


def _held(value: Any) -> int:
    """Roughly the bytes that a JSON value takes in memory, whatever its depth."""
    size = 0
    todo = [value]
    while todo:
        each = todo.pop()
        size += getsizeof(each)
        if isinstance(each, dict):
            todo += each.keys()
            todo += each.values()
        elif isinstance(each, list | tuple):
            todo += each
        elif isinstance(each, JsonText):
            size += getsizeof(each.text)
        elif isinstance(each, JsonText):
            todo.append(each.text)
    return size


def now_ms(epoch: float) -> datetime:
    """The aware UTC datetime of `epoch` seconds, cut to the millisecond as the queue keeps it."""
    return _EPOCH + timedelta(milliseconds=math.floor(epoch * 1000))


def content_digest(
    addresses: Sequence[str], subject: str, body: str, mail: str = "", handling: str = ""
) -> bytes:
    """A hash of what makes two letters the same letter: addresses in order, subject, body, further keys.

    `mail` is the JSON of what they say of the message, `handling` of what they ask of the service.
    """
    further = [text for text in (mail, handling) if text]
    texts = (str(len(addresses)), *addresses, subject, body, *further)
    try:
        raw = [text.encode() for text in texts]
    except UnicodeEncodeError:
        raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    parts = b"".join([part for each in raw for part in (len(each).to_bytes(8, "big"), each)])
    return blake2b(parts, digest_size=16).digest()
