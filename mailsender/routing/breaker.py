"""Whether a relay takes letters at all: while it refuses everybody it is tried with one letter at a time.

Pure, given `now` in monotonic seconds.
"""

from __future__ import annotations

from typing import Final

from mailsender.model.letter import Phase, Result

FIRST_WAIT, LAST_WAIT = 1.0, 300.0
"""Seconds until the relay is tried with a letter; doubled each time that it refuses it."""

RUN = 5
"""Letters refused alike in a row, and none taken since, that make it the relay's or the account's doing."""

MIXED_RUN = 2 * RUN
"""The same for letters refused in different words."""

PUT_OFF_RUN = 20
"""Letters in a row that the relay put off with 4xx, and took none: so many recipients do not have to wait by
chance. What each says may well be about itself, as greylisting is (RFC 6647), so it takes more of them."""

PUT_OFF_WAIT = 60.0
"""Seconds at most between two letters to a relay that puts off all of them."""

REMEMBERED = 1000
"""Letters that are known to have been refused when nobody knew why."""

FIRST_SILENCE, LAST_SILENCE = 60.0, 3600.0
"""Seconds after a second line about the same outage until a third one may follow; doubled each time."""

Words = tuple[Phase, int | None, str | None]
"""What refusals in a row have to have in common."""


class Telling:
    """When an outage is told: as it begins, and again when something else is wrong than was told last.

    Where two troubles alternate it is told ever more rarely, and then as it is at that time.
    """

    def __init__(self) -> None:
        self._told: object = None
        self._silence = 0.0
        self._until = 0.0

    def news(self, what: object, now: float) -> bool:
        """Whether this is to be told now; it counts as told then."""
        if what == self._told or now < self._until:
            return False
        if self._told is not None:
            self._silence = min(LAST_SILENCE, self._silence * 2) or FIRST_SILENCE
            self._until = now + self._silence
        self._told = what
        return True

    def over(self) -> None:
        """The outage is over: the next one is told at once."""
        self._told, self._silence, self._until = None, 0.0, 0.0


class Breaker:
    """Closed, open until a time, or trying. `why` is what the relay said when it opened, for people."""

    def __init__(self) -> None:
        self.open = False
        self.why = ""
        self.phase = ""
        self.until = 0.0
        self._wait = FIRST_WAIT
        self._trying = False
        self._tries = 0

    def trip(self, why: str, phase: str, now: float, most: float = LAST_WAIT) -> bool:
        """The relay refused somebody for a reason of its own. True if that is news.

        It is tried again after `most` seconds at the latest.
        """
        if self.open and not self._trying:
            return False
        news = not self.open
        self._wait = FIRST_WAIT if news else min(most, self._wait * 2)
        self.open, self._trying = True, False
        self.why, self.phase = why, phase
        self.until = now + self._wait
        return news

    def close(self) -> bool:
        """The relay took a letter, or spoke of one. True if that is news."""
        news = self.open
        self.open = self._trying = False
        self.why = self.phase = ""
        return news

    @property
    def state(self) -> str:
        """`closed`, `open` or `probing`."""
        if not self.open:
            return "closed"
        return "probing" if self._trying else "open"

    def left(self, now: float) -> float:
        """Seconds until it is tried again."""
        return max(0.0, self.until - now) if self.open else 0.0

    def may_try(self, now: float) -> bool:
        """Whether a letter may be got for a try: its time has come and no other one is under way."""
        return self.open and not self._trying and now >= self.until

    def take_try(self, now: float) -> int:
        """Take the one try, if there is one: its number, else 0. Whoever has it gives it back in the end."""
        if not self.may_try(now):
            return 0
        self._trying = True
        self._tries += 1
        return self._tries

    def give_back(self, number: int) -> None:
        """Whoever had this try is through: if the relay has not ended it, somebody else may have it."""
        if number == self._tries:
            self._trying = False


class Refusals:
    """Letters refused in words that do not tell whether it is them or everybody, since one was last taken.

    `number` counts them; `numbers` are those of letters that are on their way still. A letter that the relay
    took says something about those refusals only that came before it was begun: what was under way already
    tells nothing of a fault that began meanwhile.
    """

    def __init__(self) -> None:
        self.number = 0
        self._proved = 0
        self._runs: Final[dict[Words, set[str]]] = {}
        self.numbers: Final[dict[str, int]] = {}

    def note(self, letter_id: str, result: Result, recipient: str = "") -> bool:
        """One more; whether they are so many now that it is everybody.

        With a `recipient` it is the letter's to this one alone, which the relay took for others.
        """
        words = (result.phase, result.code, result.enhanced)
        alike = self._runs.setdefault(words, set())
        alike.add(f"{letter_id} {recipient}")
        self.remember(letter_id)
        return len(alike) >= RUN or len(set().union(*self._runs.values())) >= MIXED_RUN

    def remember(self, letter_id: str) -> None:
        """Note when it was refused first."""
        self.number += 1
        self.numbers.setdefault(letter_id, self.number)
        while len(self.numbers) > REMEMBERED:
            del self.numbers[next(iter(self.numbers))]

    def taken(self, since: int) -> bool:
        """The relay took a letter that was begun at that number; whether no refusal is younger."""
        self._proved = max(self._proved, since)
        over = since >= self.number
        if over:
            self.end()
        return over

    def others_taken_since(self, letter_id: str) -> bool:
        """Whether the relay took others after it had refused this one: then it is about this one."""
        number = self.numbers.get(letter_id)
        return number is not None and self._proved >= number

    def settled(self, letter_id: str) -> None:
        """The letter came to its end: nothing about it has to be remembered."""
        self.numbers.pop(letter_id, None)

    def end(self) -> None:
        """The run is over: the relay took somebody, or is held."""
        self._runs.clear()
