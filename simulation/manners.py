"""How a relay is, what it says, and what it allows: the words of a script."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.reply_rule import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """A reply. `holds` is for how many seconds it forbids to begin anything; `phase` is where it is said.

    `scope` is what it forbids that for: all that goes there, a recipient, or its domain. `fresh`: in a
    session that carried letters it may be about that, and forbids nothing; another one is asked.
    """

    code: int
    enhanced: str
    text: str
    phase: Phase
    holds: float = 0.0
    scope: Scope = Scope.RELAY
    fresh: bool = False

    def result(self) -> Result:
        """What it means for a recipient by its first digit."""
        verdict = Verdict.DEFERRED if self.code < 500 else Verdict.REFUSED
        return Result(
            verdict=verdict, phase=self.phase, code=self.code, enhanced=self.enhanced, text=self.text
        )


TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="queued")
NOBODY = Says(code=550, enhanced="5.1.1", text="no such user", phase=Phase.RCPT)
GREY = Says(code=450, enhanced="4.2.0", text="greylisted", phase=Phase.RCPT)
FULL = Says(code=452, enhanced="4.2.2", text="mailbox full", phase=Phase.RCPT)
CROWD = Says(code=452, enhanced="4.5.3", text="too many recipients", phase=Phase.RCPT)
FULL_SESSION = Says(code=421, enhanced="4.4.5", text="too many messages in this session", phase=Phase.MAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a relay allows, and what it says to whom wants more: `count` transactions in any `period`.

    `recipients`: these are counted, and while there is room for one there is for all of a transaction.
    """

    count: int
    period: float
    says: Says
    recipients: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How a relay is. Times in seconds, chances by transaction.

    `greylist` is how long a recipient has to wait whom it sees for the first time. `lost_before` and
    `lost_after` are chances that the connection is lost before the dot, or after it; `taken_all_the_same` is
    how often it has taken the letter then. `slow` is the chance that its answer to a dot takes `slowness`.
    """

    host: str
    depth: int = 1
    connecting: float = 0.12
    envelope: float = 0.04
    dot: float = 0.06
    sessions: int = 0
    recipients: int = 0
    letters_a_session: int = 0
    limits: tuple[Limit, ...] = ()
    greylist: float = 0.0
    lost_before: float = 0.0
    lost_after: float = 0.0
    taken_all_the_same: float = 0.5
    slow: float = 0.0
    slowness: float = 400.0


@dataclass(slots=True)
class Mood:
    """How it is now: `away` takes no connection, `login` refuses every one, `says` is said to all.

    `loses` is the chance that it loses the connection after a dot. `domain`: it speaks so of
    recipients of this domain alone.
    """

    away: bool = False
    login: bool = False
    says: Says | None = None
    loses: float = 0.0
    domain: str = ""


class Window:
    """How many came in any period: it counts all, and says whether another one is one too many."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.most = 0
        self._times: deque[float] = deque()

    def take(self, now: float, people: int = 1) -> bool:
        """Count one that comes now; whether it is within the limit. What is refused counts for nothing.

        What is too much of it is paid off in the time that follows, as AWS tells of SES.
        """
        times, count, period = self._times, self.limit.count, self.limit.period
        while times and times[0] <= now - period:
            times.popleft()
        self.most = max(self.most, len(times) + 1)
        if len(times) >= count:
            return False
        times.extend(
            now + number // count * period for number in range(people if self.limit.recipients else 1)
        )
        return True
