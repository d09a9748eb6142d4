"""A Postfix of one's own, by what its smtpd says (`smtpd.c`)."""

from __future__ import annotations

from mailsender.routing.presets.preset import MINUTE, Preset, Rules
from mailsender.routing.reply_rule import Action, Scope

_SOURCE = "Postfix smtpd.c; anvil_rate_time_unit is 60 s"
_rule = Rules("postfix")

POSTFIX = Preset(
    name="postfix",
    title="Postfix",
    rules=(
        _rule(
            "rate",
            450,
            enhanced=("4.7.1",),
            text="Error: too much mail from",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=MINUTE,
            source=_SOURCE,
        ),
        _rule(
            "recipient-rate",
            450,
            enhanced=("4.7.1",),
            text="Error: too many recipients from",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=MINUTE,
            source=_SOURCE,
            verified=False,
        ),
        _rule(
            "connections",
            421,
            enhanced=("4.7.0",),
            text="too many connections from",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=10.0,
            source=_SOURCE,
            verified=False,
        ),
        _rule(
            "storage",
            452,
            enhanced=("4.3.1",),
            action=Action.WAIT,
            scope=Scope.RELAY,
            seconds=MINUTE,
            source="Postfix: Insufficient system storage; the time is ours",
            verified=False,
        ),
    ),
    open_questions="limits are each installation's own",
)
