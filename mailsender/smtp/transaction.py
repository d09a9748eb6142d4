"""One transaction (RFC 5321 §3.3): how far it has come, and what was said of whom. Pure.

A verdict is what a reply's first digit says; what it means beyond that is for
`mailsender.sending.reply_rules`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mailsender.model.letter import Envelope, Phase, Result, Verdict
from mailsender.smtp.commands import Offers, plan
from mailsender.smtp.pieces import Pieces
from mailsender.smtp.port import Permit
from mailsender.smtp.replies import Kind, Reply

VERDICTS = {
    Kind.COMPLETED: Verdict.ACCEPTED,
    Kind.TRANSIENT: Verdict.DEFERRED,
    Kind.PERMANENT: Verdict.REFUSED,
}


class End(NamedTuple):
    """Why a session is over. `reply` is what the relay said out of turn before it went, such as 421."""

    why: str
    reply: Reply | None = None


class Transaction:
    """What was asked for, how far it is, and what is settled.

    `waiting` are the recipients not yet settled, each with its command, `phase` the step whose reply is due
    next. In the end `results` has all recipients, or `not_begun` says that nothing came of it, see
    `mailsender.smtp.port.NotBegun`. `waiter` belongs to whoever asked for it.

    `not_first`: the session carried others before, so its end need not have to do with this one.
    `behind_dot`: its commands were sent ahead in one packet with another's dot. `abandoned`: the relay has
    refused it, or is to forget it. `behind_refused`: it was spoken of before the one ahead of it was refused,
    so no RSET came in between. `out_of_step`: what became of it has nothing to do with it, for the relay took
    its MAIL for a part of that refused transaction, or its commands were lost on the way. `secret` is the
    envelope's: replies are taken without it.
    """

    __slots__ = (
        "abandoned",
        "answered",
        "behind_dot",
        "behind_refused",
        "mail",
        "message",
        "message_wanted",
        "not_begun",
        "not_first",
        "out_of_step",
        "permit",
        "phase",
        "recipients_taken",
        "results",
        "secret",
        "sent_ahead",
        "waiter",
        "waiting",
    )

    def __init__(
        self,
        envelope: Envelope,
        message: bytes | Pieces,
        permit: Permit,
        offers: Offers,
        waiter: Any = None,
    ) -> None:
        """Nobody is settled yet but those who are refused without a word.

        Raises:
            ValueError: `message` holds a bare CR or LF.
        """
        self.mail, self.waiting, self.results = plan(envelope, message, offers)
        self.message = message
        self.permit = permit
        self.secret = envelope.secret
        self.waiter = waiter
        self.phase = Phase.MAIL
        self.not_first = False
        self.sent_ahead = False
        self.behind_dot = False
        self.answered = False
        self.abandoned = False
        self.message_wanted = False
        self.recipients_taken = False
        self.behind_refused = False
        self.out_of_step = False
        self.not_begun = False

    @property
    def judged(self) -> bool:
        """Whether what became of the session says anything about this letter."""
        return (self.answered or not self.not_first) and not self.out_of_step

    def refuse(self, recipient: str, reply: Reply) -> None:
        """Note that by `reply`, which came in this phase, `recipient` is not taken."""
        del self.waiting[recipient]
        self.results[recipient] = result = result_of(reply, self.phase)
        self.permit.refused({recipient: result})

    def refuse_all(self, reply: Reply) -> None:
        """The same for everybody left."""
        result = result_of(reply, self.phase)
        refused = dict.fromkeys(self.waiting, result)
        self._settle_rest(result)
        self.permit.refused(refused)

    def settle_all(self, reply: Reply) -> None:
        """Note what the reply to the dot means for everybody left."""
        if reply.kind is Kind.COMPLETED:
            self._settle_rest(result_of(reply, self.phase))
        else:
            self.refuse_all(reply)

    def lost(self, end: End) -> None:
        """Note that the connection is gone: everybody left is deferred, after the dot uncertain."""
        result = Result(
            verdict=Verdict.UNCERTAIN if self.phase is Phase.DOT else Verdict.DEFERRED,
            phase=self.phase,
            code=end.reply.code if end.reply else None,
            enhanced=end.reply.enhanced if end.reply else None,
            text=end.why,
        )
        self._settle_rest(result)

    def _settle_rest(self, result: Result) -> None:
        for recipient in self.waiting:
            self.results[recipient] = result
        self.waiting.clear()


def result_of(reply: Reply, phase: Phase) -> Result:
    """What `reply` in `phase` means for those whom it is about."""
    return Result(
        verdict=VERDICTS[reply.kind],
        phase=phase,
        code=reply.code,
        enhanced=reply.enhanced,
        text=reply.text,
    )
