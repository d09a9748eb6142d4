"""What a reply would mean, told beforehand: which rule fits, what is done, to whom, until when. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.reply_rule import Action, Decision, ReplyRule, Scope, Suppress
from mailsender.sending.reply_rules import decide
from mailsender.smtp.replies import Reply

_REPLY: Final = re.compile(r"([45][0-9]{2})(?:[ -](.*))?", re.DOTALL)

MAX_REPLY: Final = 10_000
"""Characters of a reply that is explained: what a session keeps of one is far less."""

_DEEDS: Final = {
    Action.WAIT: "nothing that the rule is about begins for a while",
    Action.SLOW: "nothing that the rule is about begins for a while, and then less at a time",
    Action.SWITCH: "another relay of the route takes over; where there is none it is a wait",
    Action.SPLIT: "sent to at once in a further transaction, with fewer recipients",
    Action.STOP: "nothing that the rule is about begins for a while: a person has to act; then a trial",
    Action.FAIL: "final for this recipient",
    Action.RETRY: "tried again later",
    Action.DEFER: "tried again later, although the reply says never",
    Action.RENEW: "tried again at once over another session",
    Action.HOLD: "nobody's letters go to the relay but one at a time on trial, with growing pauses",
    Action.WEIGH: "what it means is told by what the relay says of other letters",
}

_SCOPES: Final = {
    Scope.RECIPIENT: "this recipient",
    Scope.DESTINATION: "all recipients of the same domain",
    Scope.MESSAGE: "this letter",
    Scope.TRANSACTION: "this transaction",
    Scope.SESSION: "this session",
    Scope.SENDER: "all letters from this sender",
    Scope.RELAY: "all that goes over the relay",
}

_SUPPRESSED: Final = {
    Suppress.AT_ONCE: "the address is suppressed at once",
    Suppress.SECOND: "the address is suppressed when a second letter is refused so",
}


_AT_RCPT: Final = "nothing is put there: of a refusal in these words only one at RCPT counts (--stage rcpt)"

_LEARNS_NOT: Final = "nothing is put there: the service does not learn from refusals (SUPPRESSION_LEARN)"


class NoReply(ValueError):  # noqa: N818  an answer about what was typed
    """It is no reply that asks for a decision; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A reply at a stage, and the decision about it.

    `learns` says whether the service puts refused addresses on its suppression list, None where no settings
    were asked; `suppress` after how many such refusals it would, and `at_rcpt` the same of the same reply to
    RCPT.
    """

    reply: Reply
    stage: Phase
    decision: Decision
    suppress: Suppress
    at_rcpt: Suppress
    learns: bool | None

    def document(self, now: datetime) -> dict[str, Any]:
        """For programs; `until` is when a first step ends that begins at `now`, null where there is none."""
        decision, then = self.decision, self.decision.then
        until = now + timedelta(seconds=decision.seconds)
        return {
            "reply": {"code": self.reply.code, "enhanced": self.reply.enhanced, "text": self.reply.text},
            "stage": self.stage.value,
            "rule": decision.rule,
            "action": decision.action.value,
            "scope": decision.scope.value,
            "seconds": decision.seconds,
            "until": _time(until) if decision.seconds else None,
            "then": None if then is None else {"rate": then.rate, "seconds": then.seconds},
            "counts": decision.counts,
            "suppress": self.suppress.name.lower(),
            "learns": self.learns,
            "source": decision.source,
            "verified": decision.verified,
        }

    def lines(self, now: datetime) -> Iterator[str]:
        """For people: a line for each thing there is to say."""
        decision = self.decision
        yield f"reply   {self.reply} (at {self.stage})"
        yield f"rule    {decision.rule}"
        yield f"does    {decision.action}: {self._deed()}"
        yield f"to      {decision.scope}: {_SCOPES[decision.scope]}"
        if decision.seconds:
            until = now + timedelta(seconds=decision.seconds)
            yield f"until   {_time(until)}: {span(decision.seconds)} from now"
        if decision.then is not None:
            yield f"then    {decision.then.rate:.0%} of the rate for {span(decision.then.seconds)}"
        yield f"letter  {self._letter()}"
        if listed := self._listed():
            yield f"list    {listed}"
        yield f"why     {decision.source}{'' if decision.verified else ' (not verified)'}"

    def _deed(self) -> str:
        action = self.decision.action
        if action is not Action.ANSWER:
            return _DEEDS[action]
        return "tried again later, as it says" if self.reply.code < 500 else "final for this recipient"

    def _listed(self) -> str:
        """What comes of it for the suppression list; empty where such a reply never counts."""
        if self.suppress not in _SUPPRESSED:
            return _AT_RCPT if self.at_rcpt in _SUPPRESSED else ""
        if self.learns is None:
            return f"where the service learns (SUPPRESSION_LEARN) {_SUPPRESSED[self.suppress]}"
        return _SUPPRESSED[self.suppress] if self.learns else _LEARNS_NOT

    def _letter(self) -> str:
        action = self.decision.action
        if action is Action.FAIL or (action is Action.ANSWER and self.reply.code >= 500):
            return "this recipient is not tried again"
        if action is Action.WEIGH:
            return "a 4xx is tried again meanwhile; a 5xx is final only if the relay takes others after it"
        again = "sent to at once" if action is Action.SPLIT else "tried again"
        return f"{again}; the attempt {'counts' if self.decision.counts else 'does not count'}"


def explained(
    rules: Sequence[ReplyRule],
    line: str,
    stage: Phase,
    *,
    taken: bool = False,
    carried: bool = False,
    learns: bool | None = None,
) -> Explanation:
    """What `line`, a reply as a relay sends it, would mean at a stage; `learns` as in what it returns.

    `rules` and the rest are as for `decide`.

    Raises:
        NoReply: see there.
    """
    found = _REPLY.fullmatch(line.strip()[:MAX_REPLY])
    if found is None:
        raise NoReply("a reply begins with its code, from 400 to 599: 454 Throttling failure")
    code = int(found[1])
    if code > 559:
        raise NoReply(f"{code} is no reply code (RFC 5321 §4.2.1)")
    lines = [re.sub(rf"^{code}[ -]", "", each.strip()) for each in (found[2] or "").split("\n")]
    reply = Reply.of(code, lines)
    verdict = Verdict.DEFERRED if code < 500 else Verdict.REFUSED

    def at(phase: Phase) -> tuple[Decision, Suppress]:
        result = Result(verdict=verdict, phase=phase, code=code, enhanced=reply.enhanced, text=reply.text)
        decision = decide(rules, result, taken=taken, carried=carried)
        return decision, decision.suppress

    decision, suppress = at(stage)
    _, at_rcpt = at(Phase.RCPT)
    return Explanation(
        reply=reply, stage=stage, decision=decision, suppress=suppress, at_rcpt=at_rcpt, learns=learns
    )


def span(seconds: float) -> str:
    """A duration in words: ``5 s``, ``10 min``, ``2 h``, ``1 d``."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"


def _time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
