"""What `mailsender explain` does: says what a reply would mean, and which way a letter would take."""

from __future__ import annotations

from collections.abc import Sequence

from mailsender.intake.placing import not_default
from mailsender.model.address import parse_address
from mailsender.model.handling import Priority
from mailsender.model.letter import Phase
from mailsender.routing.plan import Plan
from mailsender.routing.presets import rules_of
from mailsender.routing.reply_rule import STAGES, ReplyRule
from mailsender.routing.table import RouteTable, Traits
from mailsender.routing.way import NoWay, Way, way_of
from mailsender.sending.explain import Explanation, NoReply, explained
from mailsender.settings.environment import Settings, load
from mailsender.settings.relays import plan_of
from mailsender.settings.sources import SettingsError

__all__ = ["NoReply", "NoWay", "SettingsError", "explanation", "way"]


def explanation(
    reply: str, stage: str, preset: str, relay: str, *, taken: bool, carried: bool
) -> Explanation:
    """What a reply would mean to a relay with a preset, or to one of the settings; without either by default.

    Raises:
        NoReply: it is none, or the stage is none.
        ValueError: there is no such preset or relay, or both are named.
        SettingsError: the settings that name the relay are wrong.
    """
    if stage not in STAGES:
        raise NoReply(f"--stage: {stage} is none; there are {', '.join(STAGES)}")
    if preset and relay:
        raise ValueError("--preset and --relay say two things of whose rules hold: one of them is needed")
    rules, learns = rules_of((), preset), None
    if relay:
        rules, learns = _rules(relay)
    return explained(rules, reply, Phase(stage), taken=taken, carried=carried, learns=learns)


def way(to: str, *, stream: str, sender: str, priority: str, tags: Sequence[str], route: str) -> Way | NoWay:
    """Which way a letter to `to` would take by the settings and the file; the rest is what the letter says.

    Raises:
        ValueError: an address or the priority is none.
        SettingsError: the settings are wrong.
    """
    parse_address(to)
    if priority not in list(Priority):
        raise ValueError(f"--priority: {priority} is none; there are {', '.join(Priority)}")
    settings = load()
    traits = Traits(
        stream=stream,
        senders=(parse_address(sender).text if sender else settings.sender[1],),
        priority=Priority(priority),
        tags=tuple(tags),
        wish=route,
    )
    plan = plan_of(settings)
    if denial := _denial(settings, plan, route):
        return NoWay(why=denial)
    return way_of(plan, traits, to)


def _denial(settings: Settings, plan: Plan, route: str) -> str:
    """Why the intake takes a letter for an error that names this route; empty where it does not."""
    if settings.config is None and not not_default(route):
        return ""
    return RouteTable(plan.routes).denial(route) if route else ""


def _rules(relay: str) -> tuple[tuple[ReplyRule, ...], bool]:
    """The rules of a relay of the settings, and whether the service learns from refusals."""
    plan = plan_of(load())
    relays = {each.name: each for each in plan.relays}
    if relay not in relays:
        raise ValueError(f"relay: {relay} is none; there are {', '.join(relays)}")
    return rules_of(relays[relay].rules, relays[relay].preset), plan.suppression.learns
