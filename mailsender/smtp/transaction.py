"""One transaction (RFC 5321 §3.3): how far it has come, and what was said of whom. Pure.

A verdict is what a reply's first digit says; what it means beyond that is for
`mailsender.sending.reply_rules`.
"""

from __future__ import annotations

import asyncio

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.model.ports import Permit
from mailsender.smtp.channel import Lost
from mailsender.smtp.plan import Plan
from mailsender.smtp.replies import Kind, Reply

VERDICTS = {
    Kind.COMPLETED: Verdict.ACCEPTED,
    Kind.TRANSIENT: Verdict.DEFERRED,
    Kind.PERMANENT: Verdict.REFUSED,
}


class Transaction:
    """What was asked for, how far it is, and what is settled.

    `waiting` are the recipients not yet settled, `phase` the step whose reply is due next. `follows` says
    that the session carried others before: its end need not have to do with this one. `ahead` says that its
    commands were sent ahead of their replies, `behind_dot` that they follow another's dot. `heard` is set by
    the first reply, `void` when the relay has refused it or is to forget it, `at_message` by 354.
    `out_of_step` tells that what became of it has nothing to do with it: the relay took its MAIL for a part
    of the refused transaction before it, or its commands were lost on the way.
    """

    __slots__ = (
        "ahead",
        "at_message",
        "behind_dot",
        "behind_refused",
        "done",
        "follows",
        "heard",
        "message",
        "out_of_step",
        "permit",
        "phase",
        "results",
        "said",
        "some_taken",
        "void",
        "waiting",
    )

    def __init__(self, *, said: Plan, message: bytes, permit: Permit, done: asyncio.Future[None]) -> None:
        """Nobody is settled yet but those who are refused without a word."""
        self.said = said
        self.message = message
        self.permit = permit
        self.done = done
        self.follows = False
        self.ahead = False
        self.behind_dot = False
        self.heard = False
        self.void = False
        self.at_message = False
        self.some_taken = False
        self.behind_refused = False
        self.out_of_step = False
        self.phase = Phase.MAIL
        self.waiting: dict[str, None] = dict.fromkeys(said.rcpts)
        self.results: dict[str, Result] = dict(said.results)

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
        return Result(
            verdict=VERDICTS[reply.kind],
            phase=self.phase,
            code=reply.code,
            enhanced=reply.enhanced,
            text=reply.text,
        )
