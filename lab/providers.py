"""Relays that keep a provider's published limits, and count what comes. By hand as those of the zoo:

    python -m lab.relay_zoo ses-limits rate=14 quota=200

Those of `lab.relay_zoo` are in one trouble from the beginning; these take mail until a limit is reached, and
again when there is room. Their clock, in seconds, is an argument, so that a day can pass in a test. `answers`
holds what each transaction was told in the end, and when.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from lab.relay_zoo import Visit, ZooRelay, path_of
from lab.scripted import DOT, GOOD, GREETING, Answer, Peer, drop, then

DAY = 86400.0
MINUTE = 60.0


class Window:
    """At most so many in any `seconds`. Pure, given `now`.

    What comes while there is room is taken whole; what is too much of it is paid off in the time that
    follows, as AWS tells of SES: five recipients at one a second stop whoever sent to them for five seconds.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._taken: list[float] = []

    def left(self, now: float) -> int:
        """How many there is room for."""
        del self._taken[: bisect.bisect_right(self._taken, now - self.seconds)]
        return max(0, self.most - len(self._taken))

    def take(self, now: float, count: int = 1) -> None:
        """Count so many."""
        for number in range(count):
            bisect.insort(self._taken, now + number // self.most * self.seconds)

    def free_at(self, now: float) -> float:
        """When there is room for one."""
        return now if self.left(now) else self._taken[len(self._taken) - self.most] + self.seconds


@dataclass(frozen=True, slots=True)
class Answered:
    """What one transaction was told in the end, and when, by the provider's clock."""

    at: float
    text: str

    @property
    def code(self) -> int:
        return int(self.text[:3])


class Provider(ZooRelay):
    """A relay with limits. `now` is its clock, `thinks` the seconds that it takes for each message.

    `most_open` is how many sessions there were at once at most.
    """

    NAME: ClassVar[str] = ""

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, thinks: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.now = now
        self._thinks = float(thinks)
        self.answers: list[Answered] = []
        self.most_open = 0

    @property
    def open(self) -> int:
        """Sessions that are there now."""
        return sum(not peer.over.is_set() for peer in self.peers)

    def told(self, code: int) -> list[Answered]:
        """The transactions that were told this."""
        return [each for each in self.answers if each.code == code]

    def refusal(self, visit: Visit, moment: str, command: str) -> str | None:
        """What it says instead of yes; None: yes, and at the dot that counts."""
        return None

    def count(self, visit: Visit) -> float:
        """Count a message that is taken; returns the seconds for which the reply is kept back."""
        return 0.0

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment == GREETING:
            self.most_open = max(self.most_open, self.open)
        text = self.refusal(visit, moment, command)
        if text is None:
            return self._taken_over if moment == DOT else None
        self.answers.append(Answered(self.now(), text))
        return then(text, drop) if text.startswith("421") else text

    async def _taken_over(self, peer: Peer) -> None:
        visit = self.visit(peer)
        pause = self.count(visit) + self._thinks
        # Counted before it is waited for: others come meanwhile.
        if pause:
            await asyncio.sleep(pause)
        self.take(peer)
        self.answers.append(Answered(self.now(), GOOD[DOT]))
        await peer.say(GOOD[DOT])


class SesLimits(Provider):
    """Amazon SES: `rate` recipients a second and `quota` in any 24 hours, then 454; verified senders alone.

    Both count recipients, not messages ("Service quotas in Amazon SES"), and there is room for a whole
    message as long as there is any. How AWS measures a second it does not say: `burst` more of them are let
    pass, none unless given. `verified` are addresses and domains, separated by commas; none: all. The
    words are those of "manage-sending-quotas-errors"; 454 comes after the dot, without an enhanced code.
    """

    NAME = "ses-limits"

    def __init__(
        self,
        *,
        rate: int = 14,
        burst: int = 0,
        quota: int = 50_000,
        verified: str = "",
        max_recipients: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.second, self.day = Window(int(rate) + int(burst), 1.0), Window(int(quota), DAY)
        self.verified = tuple(verified.lower().split(",")) if verified else ()
        self._max_recipients = int(max_recipients)

    def refusal(self, visit: Visit, moment: str, command: str) -> str | None:
        if moment == "RCPT" and len(visit.recipients) >= self._max_recipients:
            return "452 Too many recipients"
        if moment != DOT:
            return None
        sender, now = (visit.sender or "").lower(), self.now()
        if self.verified and not {sender, sender.rpartition("@")[2]} & {*self.verified}:
            return (
                "554 Message rejected: Email address is not verified. The following identities failed the"
                f" check in region EU-WEST-1: {sender}"
            )
        if not self.day.left(now):
            return "454 Throttling failure: Daily message quota exceeded."
        if not self.second.left(now):
            return "454 Throttling failure: Maximum sending rate exceeded."
        return None

    def count(self, visit: Visit) -> float:
        for window in (self.second, self.day):
            window.take(self.now(), len(visit.recipients))
        return 0.0


class GoogleLimits(Provider):
    """Google: `daily` messages in any 24 hours, `pace` a minute from one address, `to_one` a minute to one.

    Then it says 550 5.4.5 at MAIL, 421 4.7.28 after the dot, and 450 4.2.1 at RCPT; and 452 4.5.3 to the
    101st recipient. The words are those of its lists of errors (answers 3726730 and 6140680); the numbers
    beside the daily one it does not publish.
    """

    NAME = "google-limits"

    def __init__(
        self,
        *,
        daily: int = 2000,
        pace: int = 1_000_000,
        to_one: int = 1_000_000,
        max_recipients: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.day, self.minute = Window(int(daily), DAY), Window(int(pace), MINUTE)
        self._to: defaultdict[str, Window] = defaultdict(lambda: Window(int(to_one), MINUTE))
        self._max_recipients = int(max_recipients)

    def refusal(self, visit: Visit, moment: str, command: str) -> str | None:
        now = self.now()
        # At the dot, too: of those who were let in some may be too many when they get there.
        if moment in {"MAIL", DOT} and not self.day.left(now):
            return (
                "550 5.4.5 Daily user sending limit exceeded. For more information go to mail-limits - gsmtp"
            )
        if moment == "RCPT" and len(visit.recipients) >= self._max_recipients:
            return "452 4.5.3 Your message has too many recipients. - gsmtp"
        if moment == "RCPT" and not self._to[path_of(command)].left(now):
            return (
                "450 4.2.1 The user you are trying to contact is receiving mail too quickly. Please resend"
                " your message at a later time. - gsmtp"
            )
        if moment == DOT and not self.minute.left(now):
            return (
                "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your\r\n"
                "421 4.7.28 IP Netblock. To protect our users, mail has been rate limited. - gsmtp"
            )
        return None

    def count(self, visit: Visit) -> float:
        now = self.now()
        for window in (self.day, self.minute, *(self._to[each] for each in visit.recipients)):
            window.take(now)
        return 0.0


class MicrosoftLimits(Provider):
    """Microsoft 365: three connections, 30 messages a minute, 10,000 recipients in any 24 hours.

    Who has more than `connections` is told 432 4.3.2, after the dot; what is more than `per_minute` is kept
    waiting into the minutes that follow; beyond `recipients` it says 554 5.2.0. Words and numbers are those
    of "smtp-submission-improvements". `delayed` are the seconds for which replies were kept back.
    """

    NAME = "microsoft365-limits"

    def __init__(
        self, *, connections: int = 3, per_minute: int = 30, recipients: int = 10_000, **options: Any
    ) -> None:
        super().__init__(**options)
        self._connections = int(connections)
        self.minute, self.day = Window(int(per_minute), MINUTE), Window(int(recipients), DAY)
        self.delayed: list[float] = []

    def refusal(self, visit: Visit, moment: str, command: str) -> str | None:
        if moment != DOT:
            return None
        if self.open > self._connections:
            return "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending"
        if not self.day.left(self.now()):
            return (
                "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process"
                " message due to a permanent exception: the sender's submission quota was exceeded."
            )
        return None

    def count(self, visit: Visit) -> float:
        now = self.now()
        self.day.take(now, len(visit.recipients))
        free = self.minute.free_at(now)
        self.minute.take(free)
        if free > now:
            self.delayed.append(free - now)
        return free - now
