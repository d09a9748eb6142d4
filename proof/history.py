"""What is known of one run, as plain data: what went in, and what came out at each end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proof.ledger import Acceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A letter that was put on the in-topic. `mark` stands in its subject and is its token.

    `may_fail` are those of its addresses that are wrong, or that the relay refuses for good: nobody else may
    be given up.
    """

    mark: str
    addresses: tuple[str, ...]
    may_fail: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a report says of one recipient: its status, and whether an attempt was lost after its dot.

    `phase` is the step at which it was decided.
    """

    status: str
    uncertain: bool = False
    phase: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A record of the profile topic. `words` is the whole of it, to see whether two are the same.

    `key` is the one that its letter came with, as text. `omitted`: its recipients were left out for its size.
    """

    letter: str
    mark: str
    status: str
    message_id: str = ""
    recipients: Mapping[str, Told] = field(default_factory=dict)
    uncertain: bool = False
    words: str = ""
    key: str = ""
    omitted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A document of the collection."""

    letter: str
    mark: str
    status: str
    reported: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Something was broken from `start` to `end`, in seconds of the monotonic clock."""

    what: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """No window of `period` seconds may hold more than `letters` + `burst` transactions."""

    letters: int
    period: float
    burst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One run.

    `published` are letters that were taken, `refused` those of which somebody was told that they were not,
    `unsure` those of which he was told that nobody knows. `mails` and `live_mails` are those of the ledger.
    `stops` are the times between the end of the last replica and the next start, in which nobody may begin
    anything. `doubted` are letters to whose dot the relay gave no answer that arrives for certain. `offsets`
    gives for each partition what the group committed and where the topic ends. `poison` are values of records
    that are no batches, `dead` those found on the dead-letter topic. `faults` is what an experiment saw
    itself, such as an exit status that is not 0; it goes into the verdict as it stands.
    """

    published: tuple[Published, ...] = ()
    refused: tuple[Published, ...] = ()
    unsure: tuple[Published, ...] = ()
    acceptances: tuple[Acceptance, ...] = ()
    mails: tuple[float, ...] = ()
    live_mails: tuple[float, ...] = ()
    violations: tuple[str, ...] = ()
    doubted: frozenset[str] = frozenset()
    reports: tuple[Report, ...] = ()
    stored: tuple[Stored, ...] = ()
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    breaks: tuple[Break, ...] = ()
    stops: tuple[Break, ...] = ()
    rate: Rate | None = None
    poison: tuple[bytes, ...] = ()
    dead: tuple[bytes, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What is no broken promise in a run.

    `duplicates` is the most letters that may be accepted twice (None: any number). Each must have been
    accepted the first time at most `window` seconds before something broke, or while it was broken, or
    without the client being told. `unfinished` allows letters that wait still, for runs that end before the
    work does.

    `named`: the service keeps notes, so whatever it sends twice its reports name as uncertain. `a_break` is
    the most letters of one break that may come twice, as many as there are sessions. `once`: it was told to
    end uncertain letters, so none may come twice. `uncertain` is the most letters that may be told as such,
    and `doubts` how many of them the relay need know nothing of for each break: their dots were on the way.
    """

    duplicates: int | None = 0
    window: float = 2.0
    unfinished: bool = False
    named: bool = False
    a_break: int | None = None
    once: bool = False
    uncertain: int | None = None
    doubts: int = 20
