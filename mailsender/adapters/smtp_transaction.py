"""One transaction (RFC 5321 §3.3): how far it has come, and what replies mean for its recipients. Pure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache

from mailsender.adapters.smtp_channel import Lost
from mailsender.adapters.smtp_plan import Plan
from mailsender.letter import Phase, Result, Verdict
from mailsender.ports import Go
from mailsender.reply import Kind, Reply

VERDICTS = {
    Kind.COMPLETED: Verdict.ACCEPTED,
    Kind.TRANSIENT: Verdict.DEFERRED,
    Kind.PERMANENT: Verdict.REFUSED,
}


@dataclass(slots=True, eq=False, kw_only=True)
class Transaction:
    """What was asked for, how far it is, and what is settled.

    `waiting` are the recipients not yet settled, `phase` the step whose reply is due next. `follows` says
    that the session carried others before: its end need not have to do with this one. `heard` is set by the
    first reply, `void` when the relay has refused it or is to forget it, `at_message` by 354. `out_of_step`
    tells that the relay took its MAIL for a part of the refused transaction before it.
    """

    said: Plan
    message: bytes
    go: Go
    done: asyncio.Future[None]
    follows: bool = False
    heard: bool = False
    void: bool = False
    at_message: bool = False
    some_taken: bool = False
    behind_refused: bool = False
    out_of_step: bool = False
    phase: Phase = Phase.MAIL
    waiting: dict[str, None] = field(init=False)
    results: dict[str, Result] = field(init=False)

    def __post_init__(self) -> None:
        """Nobody is settled yet but those who are refused without a word."""
        self.waiting = dict.fromkeys(self.said.rcpts)
        self.results = dict(self.said.results)

    @property
    def judged(self) -> bool:
        """Whether what became of the session says anything about this letter."""
        return (self.heard or not self.follows) and not self.out_of_step

    def settle(self, recipient: str, reply: Reply) -> None:
        """Note what `reply`, which came in this phase, means for `recipient`."""
        del self.waiting[recipient]
        self.results[recipient] = self._result(reply)

    def settle_all(self, reply: Reply) -> None:
        """Note what `reply` means for everybody left."""
        if self.waiting:
            self.results.update(dict.fromkeys(self.waiting, self._result(reply)))
            self.waiting.clear()

    def lost(self, lost: Lost) -> None:
        """Note that the connection is gone: everybody left is deferred, after the dot uncertain."""
        result = Result(
            verdict=Verdict.UNCERTAIN if self.phase is Phase.DOT else Verdict.DEFERRED,
            phase=self.phase,
            code=lost.reply.code if lost.reply else None,
            enhanced=lost.reply.enhanced if lost.reply else None,
            text=str(lost),
        )
        self.results.update(dict.fromkeys(self.waiting, result))
        self.waiting.clear()

    def _result(self, reply: Reply) -> Result:
        verdict = VERDICTS[reply.kind]
        if reply.code == 552 and self.phase is Phase.RCPT and self.some_taken and reply.enhanced is None:
            verdict = Verdict.DEFERRED  # "too many recipients" of old: RFC 5321 §4.5.3.1.10
        if reply.code == 530:
            # "Authentication required" (RFC 4954 §6): our settings, not the letter.
            verdict = Verdict.DEFERRED
        return _result(verdict, self.phase, reply)


@lru_cache(maxsize=256)  # most letters of a relay end with the same few words, and then alike
def _result(verdict: Verdict, phase: Phase, reply: Reply) -> Result:
    return Result(verdict=verdict, phase=phase, code=reply.code, enhanced=reply.enhanced, text=reply.text)
