"""What is done about each reply that providers are known to give: by preset, as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.presets import PRESETS, Preset, rules_of
from mailsender.routing.reply_rule import SCOPES, Action, Decision, ReplyRule, Scope, Suppress
from mailsender.sending.reply_rules import decide
from mailsender.smtp.replies import Reply

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "presets.md"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WAIT, SLOW, SWITCH, SPLIT, STOP, FAIL, RETRY = (
    Action.WAIT,
    Action.SLOW,
    Action.SWITCH,
    Action.SPLIT,
    Action.STOP,
    Action.FAIL,
    Action.RETRY,
)
RECIPIENT, DESTINATION, SENDER, RELAY = SCOPES


def decided(preset: str, line: str, stage: str, *own: ReplyRule, taken: bool = False) -> Decision:
    """What is done about `line` as a relay with this preset says it."""
    reply = Reply.of(int(line[:3]), [line[4:]])
    verdict = Verdict.DEFERRED if reply.code < 500 else Verdict.REFUSED
    result = Result(
        verdict=verdict, phase=Phase(stage), code=reply.code, enhanced=reply.enhanced, text=reply.text
    )
    return decide(rules_of(own, preset), result, taken=taken)


SAID = [
    # preset, reply, stage, what is to be done, to whom, for how many seconds
    ("ses", "454 Throttling failure: Maximum sending rate exceeded", "dot", SLOW, RELAY, 5.0),
    ("ses", "454 Throttling failure: Maximum sending rate exceeded.", "data", SLOW, RELAY, 5.0),
    ("ses", "454 Throttling failure: Daily message quota exceeded", "dot", SWITCH, RELAY, 10 * MINUTE),
    (
        "ses",
        "554 Message rejected: Email address is not verified. The following identities failed the check in"
        " region EU-WEST-1: no-reply@example.com",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    ("ses", "421 Too many concurrent SMTP connections", "greeting", SLOW, RELAY, 30.0),
    ("ses", "454 Temporary authentication failure", "auth", WAIT, RELAY, MINUTE),
    ("ses", "535 Authentication Credentials Invalid", "auth", STOP, RELAY, HOUR),
    ("ses", "530 Authentication required", "mail", STOP, RELAY, HOUR),
    ("ses", "554 Sending paused for this account. Please contact AWS.", "dot", STOP, RELAY, HOUR),
    ("ses", "554 Access denied: User `arn:aws:iam` is not authorized to perform", "dot", STOP, RELAY, HOUR),
    (
        "google",
        "421 4.7.28 Gmail has detected an unusual rate of email with the same Message-ID header",
        "dot",
        WAIT,
        RECIPIENT,
        HOUR,
    ),
    (
        "google",
        "421 4.7.28 Gmail has detected an unusual rate of email originating from your DKIM domain",
        "dot",
        SLOW,
        SENDER,
        MINUTE,
    ),
    (
        "google",
        "421 4.7.28 [192.0.2.1] Our system has detected an unusual rate of unsolicited mail originating from"
        " your IP address. Please visit https://support.google.com/mail/?p=UnsolicitedRateLimitError",
        "dot",
        SLOW,
        RELAY,
        MINUTE,
    ),
    ("google", "421 4.7.28 originating from your IP Netblock", "mail", SLOW, RELAY, MINUTE),
    (
        "google",
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
        "rcpt",
        WAIT,
        RECIPIENT,
        10 * MINUTE,
    ),
    (
        "google",
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional",
        "rcpt",
        WAIT,
        RECIPIENT,
        10 * MINUTE,
    ),
    ("google", "450 4.2.1 Peak SMTP relay limit exceeded for customer.", "mail", SLOW, RELAY, MINUTE),
    ("google", "452 4.2.2 The recipient's inbox is out of storage space.", "rcpt", WAIT, RECIPIENT, 4 * HOUR),
    ("google", "552 5.2.2 The recipient's inbox is out of storage and inactive.", "rcpt", FAIL, RECIPIENT, 0),
    ("google", "452 4.5.3 Your message has too many recipients.", "rcpt", SPLIT, RECIPIENT, 0),
    ("google", "550 5.4.5 Daily user sending limit exceeded.", "dot", SWITCH, RELAY, HOUR),
    ("google", "550 5.4.5 Daily SMTP relay limit exceeded for user.", "rcpt", SWITCH, RELAY, HOUR),
    ("google", "550 5.7.1 Daily SMTP relay limit exceeded for customer.", "dot", SWITCH, RELAY, HOUR),
    (
        "google",
        "454 4.7.0 Too many login attempts, please try again later.",
        "auth",
        WAIT,
        RELAY,
        10 * MINUTE,
    ),
    ("google", "421 4.7.0 Connection expired, try reconnecting.", "mail", RETRY, RELAY, 0),
    ("google", "535 5.7.8 Username and Password not accepted.", "auth", STOP, RELAY, HOUR),
    ("google", "534 5.7.9 Application-specific password required.", "auth", STOP, RELAY, HOUR),
    ("google", "534 5.7.14 Please log in through your web browser.", "auth", STOP, RELAY, HOUR),
    ("google", "535 5.7.80 Username and Password not accepted.", "auth", STOP, RELAY, HOUR),
    ("google", "534 5.7.90 Application-specific password required.", "auth", STOP, RELAY, HOUR),
    ("google", "550 5.7.26 This mail is unauthenticated.", "dot", STOP, SENDER, HOUR),
    ("google", "550 5.7.27 SPF did not pass.", "dot", STOP, SENDER, HOUR),
    ("google", "550 5.7.30 DKIM did not pass.", "dot", STOP, SENDER, HOUR),
    ("google", "550 5.7.40 No DMARC record.", "dot", STOP, SENDER, HOUR),
    ("microsoft365", "432 4.3.2 Concurrent connections limit exceeded.", "mail", WAIT, RELAY, 5.0),
    (
        "microsoft365",
        "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded.",
        "dot",
        WAIT,
        RELAY,
        5.0,
    ),
    (
        "microsoft365",
        "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
        "dot",
        SWITCH,
        RELAY,
        HOUR,
    ),
    *(
        ("microsoft365", f"550 5.2.{code} Continuous errors", "dot", STOP, RELAY, HOUR)
        for code in range(251, 256)
    ),
    ("microsoft365", "550 5.7.233 Tenant external recipient rate limit", "rcpt", SWITCH, RELAY, HOUR),
    ("microsoft365", "554 5.2.2 mailbox full; STOREDRV.Submission.Exception", "dot", STOP, RELAY, HOUR),
    (
        "microsoft365",
        "535 5.7.139 Authentication unsuccessful, basic authentication",
        "auth",
        STOP,
        RELAY,
        HOUR,
    ),
    ("microsoft365", "535 5.7.3 Authentication unsuccessful", "auth", STOP, RELAY, HOUR),
    (
        "microsoft365",
        "550 5.7.60 SMTP; Client does not have permissions to send as",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    (
        "microsoft365",
        "451 4.7.500 Server busy. Please try again later",
        "rcpt",
        SLOW,
        DESTINATION,
        5 * MINUTE,
    ),
    (
        "exchange",
        "421 4.4.2 Message submission rate for this client has exceeded",
        "mail",
        SLOW,
        RELAY,
        MINUTE,
    ),
    ("exchange", "452 4.3.1 Insufficient system resources", "mail", WAIT, RELAY, MINUTE),
    ("exchange", "550 5.7.60 SMTP; Client does not have permissions to send as", "dot", STOP, SENDER, HOUR),
    ("exchange", "535 5.7.3 Authentication unsuccessful", "auth", STOP, RELAY, HOUR),
    (
        "yahoo",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user"
        " complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
        "mail",
        WAIT,
        DESTINATION,
        2 * HOUR,
    ),
    (
        "yahoo",
        "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying is of no use.",
        "mail",
        STOP,
        DESTINATION,
        4 * HOUR,
    ),
    (
        "yahoo",
        "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1",
        "greeting",
        STOP,
        DESTINATION,
        4 * HOUR,
    ),
    ("yahoo", "450 User is receiving mail too quickly", "rcpt", WAIT, RECIPIENT, 10 * MINUTE),
    ("sendgrid", "451 Authentication failed: Maximum credits exceeded", "auth", SWITCH, RELAY, DAY),
    ("sendgrid", "452 Too many recipients received this hour", "rcpt", SWITCH, RELAY, HOUR),
    (
        "sendgrid",
        "550 The from address does not match a verified Sender Identity.",
        "dot",
        STOP,
        SENDER,
        HOUR,
    ),
    ("sendgrid", "535 Authentication failed", "auth", STOP, RELAY, HOUR),
    (
        "mailgun",
        "421 Domain example.org is not allowed to send: recipient limit exceeded, try again after Sun",
        "data",
        SWITCH,
        RELAY,
        HOUR,
    ),
    (
        "mailgun",
        "421 Domain sandbox1.mailgun.org is not allowed to send: Please activate your Mailgun account.",
        "data",
        STOP,
        RELAY,
        HOUR,
    ),
    ("mailgun", "550 5.7.1 Relaying denied", "rcpt", STOP, RELAY, HOUR),
    ("mailgun", "535 5.7.0 Mailgun is not loving your login or password", "auth", STOP, RELAY, HOUR),
    ("postmark", "535 5.7.8 Error: authentication failed", "auth", STOP, RELAY, HOUR),
    ("mailersend", "450 Too many requests #MS-ST-G", "mail", SLOW, RELAY, MINUTE),
    ("mailersend", "535 No", "auth", STOP, RELAY, HOUR),
    ("selectel", "450 ratelimit exceeded", "mail", WAIT, RELAY, 5 * MINUTE),
    ("selectel", "550 bounced check filter", "rcpt", FAIL, RECIPIENT, 0),
    ("selectel", "501 from domain not trusted", "mail", STOP, SENDER, HOUR),
    ("selectel", "535 No", "auth", STOP, RELAY, HOUR),
    ("yandex360", "554 5.7.1 Spam limit exceeded", "dot", SWITCH, RELAY, DAY),
    ("yandex360", "535 5.7.8 Error: authentication failed", "auth", STOP, RELAY, HOUR),
    ("mailru", "550 message sending for this account is disabled", "mail", STOP, RELAY, HOUR),
    ("mailru", "535 Incorrect authentication data", "auth", STOP, RELAY, HOUR),
    ("postfix", "450 4.7.1 Error: too much mail from 192.0.2.1", "mail", SLOW, RELAY, MINUTE),
    ("postfix", "450 4.7.1 Error: too many recipients from 192.0.2.1", "rcpt", SLOW, RELAY, MINUTE),
    (
        "postfix",
        "421 4.7.0 mx.test Error: too many connections from 192.0.2.1",
        "greeting",
        SLOW,
        RELAY,
        10.0,
    ),
    ("postfix", "452 4.3.1 Insufficient system storage", "mail", WAIT, RELAY, MINUTE),
]


def rows() -> Iterator[tuple[str, str, str, Action, Scope, float]]:
    """Those of Google are of both its presets."""
    for preset, *rest in SAID:
        for name in ("google-relay", "google-user") if preset == "google" else (preset,):
            yield (name, *rest)  # type: ignore[misc]


@pytest.mark.parametrize(("preset", "line", "stage", "action", "scope", "seconds"), list(rows()))
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
    reached = {decided(name, line, stage).rule for name, line, stage, *_ in rows() if name == preset.name}
    # Of some providers no further words for the login are known.
    unreached = [rule.name for rule in preset.rules if rule.name not in reached]
    assert [name for name in unreached if not name.endswith(("/login", "/login-other"))] == []
    assert all(rule.source for rule in preset.rules)
    assert len({rule.name for rule in preset.rules}) == len(preset.rules)
    if not all(rule.verified for rule in preset.rules) or not preset.limits.verified:
        assert preset.open_questions or preset.limits.verified


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
            rule.action,
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
