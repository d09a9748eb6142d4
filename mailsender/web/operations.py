"""What the HTTP side needs from the service: one narrow Protocol. Its docstrings are the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailsender.model.letter import StoredLetter


class Fault(Protocol):
    """One thing that is wrong in a batch; `intake.batch.Fault` is one."""

    @property
    def index(self) -> int:
        """The letter's place in the array, from 0."""
        ...

    @property
    def field(self) -> str:
        """The key at fault, such as ``Addresses``; empty where it is the letter as a whole."""
        ...

    @property
    def text(self) -> str:
        """What is wrong, for a person."""
        ...


class BadBatch(Exception):  # noqa: N818  an answer to the caller, not a mistake of ours
    """A posted body is no batch, or letters in it are wrong; nothing of it was published."""

    def __init__(self, text: str, faults: Sequence[Fault] = ()) -> None:
        """Note what is wrong, and where."""
        super().__init__(text)
        self.faults = tuple(faults)


class Refused(Exception):  # noqa: N818  as above
    """The service takes no letters now.

    `reason` is a stable word for programs (``draining``, ``queue-full``, ``no-broker`` …), the text is
    for people, `retry_after` says in how many seconds another attempt makes sense. Nothing was taken, but
    with ``unconfirmed``: there nobody knows. `ids` are those with which the letters can be posted again.
    """

    def __init__(self, reason: str, text: str, *, retry_after: float, ids: Sequence[str] = ()) -> None:
        """Note why, and until when."""
        super().__init__(text)
        self.reason = reason
        self.retry_after = retry_after
        self.ids = tuple(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """Where a posted batch lies on the in-topic, and the IDs of its letters, in order."""

    topic: str
    partition: int
    offset: int
    ids: tuple[str, ...]


class Operations(Protocol):
    """The service, as its HTTP side sees it.

    Every call has a deadline of its own. All but `state`, `ready`, `metrics` and `begin_drain` may raise
    `model.errors.Unavailable` when a part of the outside world is away; that becomes a 503.
    """

    @property
    def state(self) -> str:
        """One word: ``starting``, ``running``, ``draining`` and the like."""
        ...

    def accepting(self) -> None:
        """Return if letters are taken now; asked before a body is read.

        Raises:
            Refused: they are not.
        """
        ...

    async def post(self, body: bytes, key: str = "") -> Posted:
        """Publish `body` as one batch, with an `ID` written into each letter that has none.

        `key` is the record's, which the reports bring back; empty for one that is made up.

        Raises:
            BadBatch: it is no batch, or some of its letters are wrong.
            Refused: no letters are taken now.
            TooLarge: the broker refuses a record of this size.
        """
        ...

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the service does its work, and if not, why; without asking anybody."""
        ...

    async def status(self) -> Mapping[str, Any]:
        """Counts, rate and quota, sessions, relay, drain: what JSON can hold, no secrets, no addresses."""
        ...

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """What a scraper that accepts this gets, and its Content-Type; without asking anybody."""
        ...

    async def letter(self, letter_id: str) -> StoredLetter | None:
        """One letter of the queue with its times, or None. `letter_id` is 24 lower-case hex digits."""
        ...

    def begin_drain(self) -> Mapping[str, Any]:
        """Start the drain and say so; when it is under way already, say how far it is."""
        ...
