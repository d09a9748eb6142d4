"""What `mailsender explain` does: finds the rules that are asked about, and says what a reply would mean."""

from __future__ import annotations

from mailsender.model.letter import Phase
from mailsender.routing.presets import rules_of
from mailsender.routing.reply_rule import STAGES, ReplyRule
from mailsender.sending.explain import Explanation, NoReply, explained
from mailsender.settings.environment import load
from mailsender.settings.relays import plan_of
from mailsender.settings.sources import SettingsError

__all__ = ["NoReply", "SettingsError", "explanation"]


def explanation(
    reply: str, stage: str, preset: str, relay: str, *, taken: bool, carried: bool
) -> Explanation:
    """What a reply would mean to a relay with a preset, or to one of the settings; without either by default.

    Raises:
        NoReply: it is none, or the stage is none.
        ValueError: there is no such preset or relay.
        SettingsError: the settings that name the relay are wrong.
    """
    if stage not in STAGES:
        raise NoReply(f"--stage: {stage} is none; there are {', '.join(STAGES)}")
    return explained(_rules(preset, relay), reply, Phase(stage), taken=taken, carried=carried)


def _rules(preset: str, relay: str) -> tuple[ReplyRule, ...]:
    if not relay:
        return rules_of((), preset)
    relays = {each.name: each for each in plan_of(load()).relays}
    if relay not in relays:
        raise ValueError(f"relay: {relay} is none; there are {', '.join(relays)}")
    return rules_of(relays[relay].rules, preset or relays[relay].preset)
