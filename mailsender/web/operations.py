"""What the HTTP side needs from the service: one narrow Protocol. Its docstrings are the contract."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from mailsender.codes.desk import Guess, Made, Wanted
from mailsender.codes.port import Verdict
from mailsender.lint.run import Linted
from mailsender.model.blobs import Blob
from mailsender.model.letter import StoredLetter
from mailsender.web.explain_models import ExplainedView
from mailsender.web.models import DryRunView
from mailsender.web.suppression_operations import SuppressionOperations
from mailsender.web.template_operations import TemplateOperations


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


class BadLetter(BadBatch):
    """The same of one letter that came alone; the index of its faults is 0."""


class Clash(Exception):  # noqa: N818  as above
    """A letter that was published has the ID of another one, with other content: it is not sent."""

    def __init__(self, letter_id: str) -> None:
        """Note the ID."""
        super().__init__(f"The ID {letter_id} was given to a letter with other content before.")
        self.letter_id = letter_id


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


class BadConfig(Exception):  # noqa: N818  as above
    """The file of relays and routes cannot be taken; nothing was changed."""


class NoConfig(BadConfig):
    """There is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What of the file at `path` is `taken` now, and what is `left` for a restart; keys of it, with words."""

    path: str
    taken: tuple[str, ...]
    left: tuple[str, ...]


class NoOrder(Exception):  # noqa: N818  as above
    """There is nothing to be lifted; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """An order of a relay's reply that was ended; see `mailsender.ratelimit.order.Order`.

    `until` is None of one that only a person ends. Where this replica had not heard of it `rule` is empty.
    """

    relay: str
    scope: str
    rule: str = ""
    said: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """Where a posted batch lies on the in-topic, and the IDs of its letters, in order."""

    topic: str
    partition: int
    offset: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One letter as a caller gives it.

    `body` is its JSON. `files` are entries of `Attachments`, as `Operations.attach` made them, beside those
    that it has itself. `key` is its `IdempotencyKey` where that did not come in it, else empty.
    """

    body: bytes
    files: tuple[Mapping[str, Any], ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A letter that was published: where its record lies, its ID, and the hash of its content."""

    topic: str
    partition: int
    offset: int
    id: str
    content: bytes


class Blobs(Protocol):
    """The contents of attachments, as the HTTP side sees them. Errors beside these as of `Operations`."""

    async def put(self, blocks: AsyncIterable[bytes], ref: str = "", offset: int = 0) -> Blob:
        """Store a content, or what is left of it from `offset` on. See `mailsender.blobs.receive`.

        Raises:
            Refused: nothing is taken now.
        """
        ...

    async def keep(self, ref: str) -> Blob | None:
        """The content, kept for its time from now on; None where it is not there."""
        ...

    async def find(self, ref: str) -> Blob | None:
        """The content, None where it is not there."""
        ...

    async def resumable(self, ref: str) -> int:
        """How many bytes are there of an upload of it that broke off."""
        ...


class Operations(Protocol):
    """The service, as its HTTP side sees it.

    Every call has a deadline of its own. All but `state`, `ready`, `metrics` and `begin_drain` may raise
    `model.errors.Unavailable` when a part of the outside world is away; that becomes a 503.
    """

    @property
    def state(self) -> str:
        """One word: ``starting``, ``running``, ``draining`` and the like."""
        ...

    @property
    def templates(self) -> TemplateOperations:
        """What may be asked about templates."""
        ...

    @property
    def suppressions(self) -> SuppressionOperations:
        """The suppression list."""
        ...

    @property
    def blobs(self) -> Blobs:
        """The contents of attachments."""
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

    async def attach(self, name: str, content_type: str, content: AsyncIterator[bytes]) -> Mapping[str, Any]:
        """Take a file that comes with a letter; returns what stands for it in `Attachments`."""
        ...

    async def submit(self, given: Submission, key: str = "") -> Submitted:
        """Publish one letter as a batch of its own; see `post`.

        Raises:
            BadLetter: it is no letter, or something in it is wrong.
            Refused: no letters are taken now.
            TooLarge: the broker refuses a record of this size.
        """
        ...

    async def outcome(
        self, submitted: Submitted, seconds: float, gone: Callable[[], bool]
    ) -> StoredLetter | None:
        """What became of a submitted letter, waited for as long as `seconds`; None where that is not known.

        It is given up earlier when the caller is `gone`, and when the service stops. MongoDB being away
        raises nothing: it is waited for, too.

        Raises:
            Clash: its ID is that of a letter with other content.
        """
        ...

    async def dry_run(self, given: bytes | Submission) -> DryRunView:
        """What would become of a batch, or of one letter, without publishing anything; at any time.

        Raises:
            BadBatch: it is no batch, or no letter. What is wrong in a letter raises nothing: it is told.
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

    async def explain(self, letter_id: str) -> ExplainedView | None:
        """Which way a letter takes and what stands in it now, or None. `letter_id` is as for `letter`."""
        ...

    async def lint(self, body: bytes, bulk: bool | None) -> Linted:
        """What a mailbox provider would mind in letters or in a message.

        `bulk` says whether it is bulk mail; None leaves it to what it says itself.

        Raises:
            NothingToSee: it is neither letters nor a message.
        """
        ...

    async def make_code(self, wanted: Wanted) -> Made:
        """Make a confirmation code and publish its letter.

        Raises:
            NoCodes: no codes are made here.
            TooOften: too many were made.
            BadBatch: no letter can be made of it.
            Refused: no letters are taken now. Then there is no code.
        """
        ...

    async def check_code(self, guess: Guess) -> Verdict:
        """What a confirmation code is, and use it up if it is right.

        Raises:
            NoCodes: no codes are made here.
        """
        ...

    async def reload(self, by: str) -> Reloaded:
        """Read the file of relays and routes again; `by` says for the log who asked.

        Raises:
            NoConfig: there is none.
            BadConfig: it is wrong.
        """
        ...

    async def lift_order(self, relay: str, scope: str, *, by: str, reason: str) -> Lifted:
        """End what a relay's reply ordered, on all replicas; `by` and `reason` are for the log.

        Raises:
            NoOrder: there is no such relay or scope, or nothing is ordered.
        """
        ...

    def begin_drain(self) -> Mapping[str, Any]:
        """Start the drain and say so; when it is under way already, say how far it is."""
        ...
