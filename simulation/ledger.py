"""What happened in a world, as it was seen from outside the service. Times are virtual seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mailsender.model.letter import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A transaction began: MAIL was written. `owned`: the letter was under that process's token then."""

    at: float
    relay: str
    process: str
    letter: str
    owned: bool
    recipients: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Dot:
    """A dot was written for a recipient.

    `taken` says whether the relay took responsibility, None as long as it has not decided. `answered` is when
    its answer reached the process, inf where it never did: then nobody there knows. `given_up` is when the
    process learned that none will come, inf where it never did: until then it waits.
    """

    at: float
    relay: str
    process: str
    letter: str
    recipient: str
    owned: bool
    taken: bool | None = None
    answered: float = float("inf")
    given_up: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A relay said something that holds for more than a letter: that nobody begins for `seconds`.

    `reached` is when the process had it. `whom`: it holds for this address, or this domain after an ``@``;
    empty: for all that goes there.
    """

    reached: float
    relay: str
    process: str
    words: str
    seconds: float
    whom: str = ""

    def concerns(self, begun: Begun) -> bool:
        """Whether it holds for a transaction."""
        return not self.whom or any(each.endswith(self.whom) for each in begun.recipients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Something was done to a process, from `start` to `end`: what it knew may be lost, or come late."""

    process: str
    what: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A relay refused a recipient for good, and for a reason of the recipient's own."""

    recipient: str
    relay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A report arrived. `stored` is the status that the letter had in the queue then, None for none."""

    at: float
    letter: str
    status: str
    words: bytes
    stored: Status | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A letter as its publisher knows it. `route` is where it ought to go."""

    at: float
    letter: str
    recipients: tuple[str, ...]
    route: str


@dataclass(slots=True)
class Ledger:
    """All of it, in the order of time. `sessions` is how many each relay had at once at most."""

    published: dict[str, Published] = field(default_factory=dict)
    begun: list[Begun] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    sessions: dict[str, int] = field(default_factory=dict)

    def dots_by_recipient(self) -> Iterator[tuple[str, list[Dot]]]:
        """The dots of each recipient, in order."""
        found: defaultdict[str, list[Dot]] = defaultdict(list)
        for each in self.dots:
            found[each.recipient].append(each)
        yield from found.items()
