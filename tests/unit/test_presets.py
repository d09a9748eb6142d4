"""What is done about each reply that providers are known to give: by preset, as a table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.provider_replies import DAY, HOUR, MINUTE, RECIPIENT, SAID, SLOW
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.presets import PRESETS, Preset, rules_of
from mailsender.routing.reply_rule import Action, Decision, ReplyRule, Scope, Suppress
from mailsender.sending.reply_rules import decide
from mailsender.smtp.replies import Reply

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "presets.md"


def decided(preset: str, line: str, stage: str, *own: ReplyRule, taken: bool = False) -> Decision:
    """What is done about `line` as a relay with this preset says it."""
    reply = Reply.of(int(line[:3]), [line[4:]])
    verdict = Verdict.DEFERRED if reply.code < 500 else Verdict.REFUSED
    result = Result(
        verdict=verdict, phase=Phase(stage), code=reply.code, enhanced=reply.enhanced, text=reply.text
    )
    return decide(rules_of(own, preset), result, taken=taken)


@pytest.mark.parametrize(("preset", "line", "stage", "action", "scope", "seconds"), SAID)
def test_what_is_done(
    preset: str, line: str, stage: str, action: Action, scope: Scope, seconds: float
) -> None:
    decision = decided(preset, line, stage)
    assert (decision.action, decision.scope, decision.seconds) == (action, scope, seconds), decision.rule
    assert decision.rule.startswith(f"{preset}/")
    assert decision.source
    assert decision.said in line.replace("  ", " ") or len(decision.said) == len(line)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_rule_of_a_preset_is_in_the_table_and_says_whence_it_is(preset: Preset) -> None:
    reached = {decided(name, line, stage).rule for name, line, stage, *_ in SAID if name == preset.name}
    # Of some providers no further words for the login are known.
    unreached = [rule.name for rule in preset.rules if rule.name not in reached]
    assert [name for name in unreached if not name.endswith(("/login", "/login-other"))] == []
    assert all(rule.source for rule in preset.rules)
    assert len({rule.name for rule in preset.rules}) == len(preset.rules)
    if not all(rule.verified for rule in preset.rules) or not preset.limits.verified:
        assert preset.open_questions or preset.limits.verified


@pytest.mark.parametrize("preset", PRESETS)
def test_a_session_that_has_forgotten_the_login_is_replaced_and_stops_nothing(preset: str) -> None:
    forgotten = Result(
        verdict=Verdict.REFUSED, phase=Phase.MAIL, code=530, enhanced="5.7.57", text="Not authenticated"
    )
    assert decide(rules_of((), preset), forgotten, carried=True).action is Action.RENEW
    assert decide(rules_of((), preset), forgotten).action is Action.HOLD


@pytest.mark.parametrize("preset", PRESETS)
def test_what_providers_have_in_common_is_said_by_the_defaults(preset: str) -> None:
    """`Any` of the material: nobody's preset takes it away."""
    gone = decided(preset, "550 5.1.1 No such user", "rcpt")
    assert (gone.action, gone.scope, gone.suppress) == (Action.ANSWER, RECIPIENT, Suppress.AT_ONCE)
    going = decided(preset, "421 4.3.2 Going down", "mail")
    assert (going.action, going.counts) == (Action.HOLD, False)
    nothing = Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT, code=421, text="lost")
    assert decide(rules_of((), preset), nothing).rule == ""


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_follow_what_is_said_of_a_rate(preset: str) -> None:
    for rule in PRESETS[preset].rules:
        if rule.action is SLOW:
            assert rule.then is not None
            assert rule.then.rate < 1
            assert rule.seconds > 0


def test_an_unknown_preset_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ValueError, match=r"^preset: nobody is none; there are ses, google-relay"):
        rules_of((), "nobody")


def test_the_limits_of_microsoft_are_those_that_it_publishes() -> None:
    limits = PRESETS["microsoft365"].limits
    assert (limits.rates, limits.quota, limits.connections_total) == (("30/1m",), "10000/24h", 3)


def test_the_limits_are_in_the_files_notation() -> None:
    for preset in PRESETS.values():
        limits = preset.limits
        assert all(re.fullmatch(r"[1-9]\d*/(\d+[smh]|s|m|h)", each) for each in limits.rates), preset.name
        assert not limits.quota or re.fullmatch(r"[1-9]\d*/24h", limits.quota)
        assert bool(limits.source) or limits == type(limits)()


# --- the page --------------------------------------------------------------------------------------


def published() -> str:
    """The tables of docs/reference/presets.md."""
    return "\n\n".join(map(_table, PRESETS.values()))


def _table(preset: Preset) -> str:
    lines = [f"## `{preset.name}`: {preset.title}", ""]
    lines.append("| rule | at | reply | enhanced | text | what is done | about | for | then | who says so |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for rule in preset.rules:
        then = "" if rule.then is None else f"{rule.then.rate:.0%} for {_span(rule.then.seconds)}"
        cells = [
            f"`{rule.name}`",
            ", ".join(rule.at) or "any",
            ", ".join(f"{code}xx" if len(code) == 1 else code for code in rule.codes),
            ", ".join(rule.enhanced).replace("-", "none"),
            rule.text or (f"`{rule.pattern}`".replace("|", r"\|") if rule.pattern else ""),
            rule.action + (", and one session fewer" if rule.fewer_sessions else ""),
            rule.scope,
            _span(rule.seconds) if rule.seconds else "",
            then,
            rule.source + ("" if rule.verified else " (not verified)"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [_limits(preset), preset.open_questions and f"Not verified: {preset.open_questions}."]
    return "\n".join([*lines, *(line for note in notes if note for line in ("", note))])


def _limits(preset: Preset) -> str:
    limits = preset.limits
    found = [f'`rate = "{each}"`' for each in limits.rates]
    found += [f'`quota = "{limits.quota}"`'] * bool(limits.quota)
    for key in ("connections_total", "max_recipients", "letters_per_session"):
        value = getattr(limits, key)
        found += [f"`{key} = {value}`"] * bool(value)
    found += ["`burst = 0`"] * limits.exact
    counted = [name for name in ("rate", "quota") if getattr(limits, f"{name}_of_recipients")]
    found += [f"recipients are what its {' and '.join(counted)} count"] * bool(counted)
    if not found:
        return ""
    return f"Limits: {', '.join(found)} ({limits.source}{'' if limits.verified else '; not verified'})."


def _span(seconds: float) -> str:
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def test_the_published_tables_are_the_presets() -> None:
    assert published() in PAGE.read_text(encoding="utf-8"), published()
