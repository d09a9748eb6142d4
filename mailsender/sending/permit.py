"""Permission for one transaction, asked at the two moments that cannot be taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailsender.message.mail import Mail
from mailsender.model.clock import Clock
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.queue.inflight import InFlight
from mailsender.ratelimit.gcra import Slot
from mailsender.ratelimit.limiter import Limiter
from mailsender.routing.breaker import Breaker
from mailsender.routing.pool import Held
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import ReplyRule
from mailsender.sending.reply_rules import Action, as_deferred, decide
from mailsender.sending.scopes import NOTHING, order, somebody_rests


@dataclass(frozen=True, slots=True)
class Margins:
    """For how many seconds a letter must be ours yet: for a transaction to begin, and for its dot.

    An envelope takes a while; from the dot on the heart goes on until the reply.
    """

    begin: float
    dot: float

    @staticmethod
    def of(life: float) -> Margins:
        """Those of a replica that counts as dead after so many seconds of silence."""
        return Margins(min(10.0, life / 4), min(5.0, life / 8))


@dataclass(slots=True)
class Means:
    """What all transactions need to be permitted; `cut` ends those that are before their dot."""

    clock: Clock
    in_flight: InFlight
    margins: Margins
    cut: bool = False


class Permit:
    """Permission for one transaction: the slot for its beginning, that the letter is ours for both moments.

    `runs` are the places of `recipients` in `Letter.everybody`, as pairs of the first one and their number.
    `rules` are the relay's own, `limiter` knows what its replies ordered, `breaker` whether it is to be left
    alone: None for the one letter that may try it. `over` is the relay itself, `mail` what the letter's
    further keys say. `held_back`: it could not begin as somebody in it rests, by what was said meanwhile.
    `begun` is when it began, 0.0 before: from then on its slot is nobody else's.
    `obeyed` is what was ordered in it.
    """

    __slots__ = (
        "begun",
        "breaker",
        "denied",
        "held",
        "held_back",
        "letter_id",
        "limiter",
        "lost",
        "mail",
        "means",
        "obeyed",
        "over",
        "recipients",
        "relay",
        "rules",
        "runs",
        "slot",
        "token",
    )

    def __init__(
        self,
        means: Means,
        *,
        token: str,
        letter_id: str,
        runs: tuple[tuple[int, int], ...],
        recipients: tuple[str, ...],
        relay: str,
        slot: Slot,
        held: Held,
        rules: Sequence[ReplyRule] = (),
        limiter: Limiter | None = None,
        breaker: Breaker | None = None,
        over: Relay | None = None,
        mail: Mail | None = None,
    ) -> None:
        self.means = means
        self.rules = rules
        self.limiter = limiter
        self.breaker = breaker
        self.over = over
        self.mail = mail
        self.relay = relay
        self.held = held
        self.token = token
        self.letter_id = letter_id
        self.runs = runs
        self.recipients = recipients
        self.slot = slot
        self.begun = 0.0
        self.lost = False
        self.denied = False
        self.held_back = False
        self.obeyed = NOTHING

    def begin(self) -> bool:
        """See `smtp.port.Permit`."""
        means = self.means
        now = means.clock.monotonic()
        self.lost = means.in_flight.lasts(self.token, self.letter_id) - now < means.margins.begin
        if not self._may_use_slot(now) or self.lost or means.cut:
            return False
        self.begun = now
        return True

    def _may_use_slot(self, now: float) -> bool:
        """Whether its slot is good, and the relay has not said meanwhile that it wants nothing now.

        What it said to another letter holds from that moment on (P14), whoever has a session and a slot.
        """
        if self.breaker is not None and self.breaker.open:
            return False
        if self.over is not None and self.over.ordered:
            self.held_back = somebody_rests(self.over, self.mail, self.recipients, now)
        good = self.slot.good(now) if self.limiter is None else self.limiter.good(self.slot, now)
        return good and not self.held_back

    def dot(self) -> bool:
        """See `smtp.port.Permit`."""
        means = self.means
        self.held.dot_at = now = means.clock.monotonic()
        self.held.to_dot = now - self.begun
        left = means.in_flight.lasts(self.token, self.letter_id) - now
        self.lost = left < means.margins.dot
        # The last question: what the journal says of a dot says that it was written.
        self.denied = self.lost or means.cut or not self._written_down()
        return not self.denied

    def _written_down(self) -> bool:
        journal = self.means.in_flight.journal
        for start, count in self.runs:
            if not journal.dot(self.token, self.letter_id, start, count, self.relay):
                return False
        return True

    def refused(self, results: Mapping[str, Result]) -> None:
        """See `smtp.port.Permit`. What the relay's rules order does not wait for the transaction's end."""
        if self.over is None or not self.rules:
            return
        now = self.means.clock.monotonic()
        others = self.over.refusals.others_taken_since(self.letter_id)
        for address, result in results.items():
            decision = decide(self.rules, result)
            if decision.doubted and others:
                continue  # most likely it is about the letter, and is looked at more closely when all is said
            if decision.orders or decision.fewer_sessions:
                self.obeyed = order(self.over, self.mail, address, decision, now, obeyed=self.obeyed)

    def replied(self, results: Mapping[str, Result]) -> None:
        """See `smtp.port.Permit`."""
        self.held.dot_at = 0.0
        found = [results[each] for each in self.recipients]
        for place, result in enumerate(found):
            if result.verdict is Verdict.REFUSED:
                found[place] = certain(self.rules, result, results)
        journal, at = self.means.in_flight.journal, 0
        for start, count in self.runs:
            journal.replied(self.token, self.letter_id, start, found[at : at + count], self.relay)
            at += count


def certain(rules: Sequence[ReplyRule], result: Result, results: Mapping[str, Result]) -> Result:
    """What is certain though nothing further is heard: a refusal only if it is about recipient or letter."""
    if result.verdict is not Verdict.REFUSED:
        return result
    action = decide(rules, result, taken=some_taken(results), carried=False).action
    final = action is Action.ANSWER or action is Action.FAIL
    return result if final else as_deferred(result)


def some_taken(results: Mapping[str, Result]) -> bool:
    """Whether the relay took somebody's RCPT: a later step decided about them."""
    return any(each.phase is Phase.DATA or each.phase is Phase.DOT for each in results.values())
