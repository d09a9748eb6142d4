"""Reply rules as the file has them, and as the service goes by them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailsender.model.letter import Phase
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Suppress, Then
from mailsender.settings.file.relays import RelayTable, RuleTable

_SUPPRESS: Final[Mapping[str, Suppress]] = {
    "never": Suppress.NEVER,
    "at-once": Suppress.AT_ONCE,
    "second": Suppress.SECOND,
}


def rules_of(name: str, relay: RelayTable) -> tuple[ReplyRule, ...]:
    """Those of a relay, in their order; they have been judged before."""
    return tuple(reply_rule(rule, name, index) for index, rule in enumerate(relay.rules))


def reply_rule(rule: RuleTable, relay: str, index: int) -> ReplyRule:
    """A rule of a relay. One without a name is called by its place, from 1.

    Raises:
        ValueError: it cannot be one; the text begins with the key that is wrong.
    """
    return ReplyRule(
        name=rule.name or f"{relay}/{index + 1}",
        at=tuple(map(Phase, rule.stage or ())),
        codes=tuple(rule.code or ()),
        enhanced=tuple(rule.enhanced or ()),
        text=rule.text,
        pattern=rule.pattern,
        action=Action(rule.action),
        scope=Scope(rule.scope),
        seconds=-1.0 if rule.for_ is None else rule.for_,
        then=None if rule.then is None else Then(rate=rule.then.rate, seconds=rule.then.for_),
        suppress=_SUPPRESS[rule.suppress],
        fewer_sessions=rule.fewer_sessions,
        source="the file",
        verified=True,
    )
