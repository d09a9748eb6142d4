"""Rules that an operator or a preset writes: what they may say, in which order, what they may never do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.model.text import MAX_TEXT
from mailsender.routing.orders import MOST, Orders, Resting
from mailsender.routing.presets import PRESETS, rules_of
from mailsender.routing.reply_rule import (
    ACCOUNT_CODES,
    ACCOUNT_REPLIES,
    ACTIONS,
    LONGEST,
    MAX_NAME,
    MAX_RULES,
    RELAY_KEY,
    SCOPES,
    STAGES,
    Action,
    Decision,
    ReplyRule,
    Scope,
    Suppress,
    Then,
    checked,
    own_words,
    scope_key,
)
from mailsender.sending.reply_rules import When, decide
from mailsender.suppression.rules import refusals_needed
from tests.dispatching import running, until
from tests.relays import FakeRelay

FAIL_ALL = ReplyRule(
    name="all", codes=("5",), action=Action.FAIL, scope=Scope.RECIPIENT, suppress=Suppress.AT_ONCE
)


def rule(**keys: Any) -> ReplyRule:
    return ReplyRule(**{"name": "r", "codes": ("450",), "action": Action.WAIT, "scope": Scope.RELAY, **keys})


def reply(code: int, enhanced: str | None = None, text: str = "", stage: Phase = Phase.RCPT) -> Result:
    verdict = Verdict.REFUSED if code >= 500 else Verdict.DEFERRED
    return Result(verdict=verdict, phase=stage, code=code, enhanced=enhanced, text=text)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"name": ""}, "name"),
        ({"name": "n" * (MAX_NAME + 1)}, "name"),
        ({"name": "two words"}, "name"),
        ({"at": (Phase.RSET,)}, "stage"),
        ({"codes": ("250",)}, "code"),
        ({"codes": ("4500",)}, "code"),
        ({"codes": ()}, "code"),
        ({"enhanced": ("4.7",)}, "enhanced"),
        ({"enhanced": ("2.0.0",)}, "enhanced"),
        ({"text": "t" * 201}, "text"),
        ({"pattern": "(a+)+b"}, "pattern"),
        ({"pattern": "(", "codes": ()}, "pattern"),
        ({"action": Action.HOLD}, "action"),
        ({"action": Action.WEIGH}, "action"),
        ({"scope": Scope.MESSAGE}, "scope"),
        ({"action": Action.FAIL}, "scope"),
        ({"action": Action.FAIL, "scope": Scope.SENDER}, "scope"),
        ({"action": Action.SPLIT}, "scope"),
        ({"action": Action.STOP, "scope": Scope.RECIPIENT}, "scope"),
        ({"action": Action.SLOW, "scope": Scope.RECIPIENT}, "scope"),
        ({"suppress": Suppress.AT_ONCE}, "suppress"),
        ({"seconds": LONGEST + 1}, "for"),
        ({"seconds": float("nan")}, "for"),
        ({"action": Action.RETRY, "then": Then(rate=0.5, seconds=1)}, "then"),
        ({"scope": Scope.RECIPIENT, "then": Then(rate=0.5, seconds=1)}, "then"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_key(keys: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        rule(**keys)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1.1, 1), (0.5, 0), (0.5, LONGEST + 1), (-1, 1)])
def test_a_second_step_is_a_part_of_the_rate_for_a_while(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^then\."):
        Then(rate=rate, seconds=seconds)


def test_what_is_left_out_has_a_sensible_time() -> None:
    slow = rule(action=Action.SLOW)
    assert (slow.seconds, slow.then) == (60.0, Then(rate=0.5, seconds=600.0))
    assert rule().seconds == 300.0
    assert rule(seconds=0.0).seconds == 0.0
    assert (rule(action=Action.STOP).seconds, rule(action=Action.STOP).then) == (
        3600.0,
        Then(rate=0.02, seconds=60.0),
    )
    assert rule(action=Action.SWITCH, scope=Scope.RECIPIENT).then is None
    assert rule(action=Action.RETRY).seconds == 0.0


def test_a_relay_has_a_bounded_number_of_rules_with_names_of_their_own() -> None:
    many = [rule(name=f"r{n}") for n in range(MAX_RULES)]
    assert checked(many) == tuple(many)
    with pytest.raises(ValueError, match=f"^rules: at most {MAX_RULES}"):
        checked([*many, rule(name="one-more")])
    with pytest.raises(ValueError, match=r"^rules: two have the name r$"):
        rules_of([rule(), rule()], "ses")


@pytest.mark.parametrize(
    ("keys", "fits", "not_fits"),
    [
        ({"codes": ("4",)}, reply(421), reply(550)),
        ({"codes": ("45",)}, reply(452), reply(421)),
        ({"codes": ("450", "550")}, reply(550), reply(551)),
        ({"enhanced": ("4.x.1",)}, reply(450, "4.2.1"), reply(450, "4.2.2")),
        ({"enhanced": ("-",)}, reply(450), reply(450, "4.2.2")),
        ({"text": "Too FAST"}, reply(450, text="you are too fast"), reply(450, text="you are fast")),
        ({"pattern": "too (fast|many)"}, reply(450, text="Too many"), reply(450, text="too much")),
        ({"at": (Phase.DOT, Phase.AUTH)}, reply(450, stage=Phase.DOT), reply(450, stage=Phase.DATA)),
    ],
)
def test_all_that_is_said_has_to_fit(keys: dict[str, Any], fits: Result, not_fits: Result) -> None:
    own = (rule(**keys),)
    assert decide(own, fits).rule == "r"
    assert decide(own, not_fits).rule.startswith("default/")


def test_the_files_come_first_then_the_presets_then_the_defaults() -> None:
    said = reply(454, text="Throttling failure: Maximum sending rate exceeded", stage=Phase.DOT)
    own = rule(name="mine", codes=("454",), text="maximum sending rate", seconds=9.0)
    assert decide(rules_of((own,), "ses"), said).rule == "mine"
    assert decide(rules_of((rule(),), "ses"), said).rule == "ses/rate"
    assert decide(rules_of((rule(),), ""), said).rule == "default/throttled"
    first, second = replace(own, name="first"), replace(own, name="second")
    assert decide((first, second), said).rule == "first"


def test_a_rule_is_not_fed_by_our_own_words() -> None:
    own = (rule(codes=("421",), text="the relay ends"), rule(name="s", codes=("421",), text="Busy"))
    ended = Result(
        verdict=Verdict.DEFERRED,
        phase=Phase.RCPT,
        code=421,
        enhanced="4.3.2",
        text="the relay ends the session: 421 4.3.2 Busy",
    )
    assert own_words(ended) == "Busy"
    assert decide(own, ended).rule == "s"
    lost = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, text="the connection was lost")
    assert decide((rule(codes=(), text="lost"),), lost).rule == "default/lost"
    ours = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, enhanced="5.1.3", text="it has no domain")
    assert decide((replace(FAIL_ALL, codes=(), text="domain"),), ours).rule == "default/own-check"
    assert own_words(reply(550, text="the relay said: no")) == "the relay said: no"


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.UNCERTAIN])
def test_no_rule_has_a_say_about_what_was_accepted_or_is_uncertain(verdict: Verdict) -> None:
    said = Result(verdict=verdict, phase=Phase.DOT, code=450, text="x")
    decision = decide((rule(),), said)
    assert (decision.rule, decision.action) == ("", Action.ANSWER)


# --- what may never be -----------------------------------------------------------------------------

names = st.sampled_from(["", *PRESETS])
enhanced_codes = st.none() | st.from_regex(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)


@st.composite
def own_rules(draw: st.DrawFn) -> ReplyRule:
    scope, action = draw(st.sampled_from(SCOPES)), draw(st.sampled_from(ACTIONS))
    own = scope is Scope.RECIPIENT
    if action in {Action.FAIL, Action.SPLIT}:
        scope = Scope.RECIPIENT
    elif own and action in {Action.SLOW, Action.STOP}:
        scope = Scope.RELAY
    fail = action is Action.FAIL
    return ReplyRule(
        name=draw(st.sampled_from(["a", "b", "c"])),
        at=tuple(draw(st.lists(st.sampled_from(STAGES), max_size=2))),
        codes=tuple(draw(st.lists(st.sampled_from(["4", "5", "55", "550", "535"]), min_size=1, max_size=2))),
        text=draw(st.sampled_from(["", "limit", "x"])),
        pattern=draw(st.sampled_from(["", "a|b", r"\d{1,3}"])),
        action=action,
        scope=scope,
        seconds=draw(st.sampled_from([-1.0, 0.0, 5.0])),
        suppress=draw(st.sampled_from(Suppress)) if fail else Suppress.NEVER,
    )


@settings(max_examples=50, deadline=None)
@given(
    st.lists(own_rules(), max_size=3),
    names,
    st.sampled_from(Phase),
    st.none() | st.integers(-1, 999),
    st.none() | st.text(max_size=20),
    st.text(max_size=12) | st.just("limit " * MAX_TEXT),
    st.sets(st.sampled_from(When)),
)
def test_any_reply_gives_a_decision(
    own: list[ReplyRule],
    preset: str,
    phase: Phase,
    code: int | None,
    enhanced: str | None,
    text: str,
    happened: set[When],
) -> None:
    rules = (*own, *rules_of((), preset))
    for verdict in Verdict:
        said = Result(verdict=verdict, phase=phase, code=code, enhanced=enhanced, text=text)
        decision = decide(
            rules,
            said,
            taken=When.TAKEN in happened,
            carried=When.CARRIED in happened,
            known=tuple(happened - {When.TAKEN, When.CARRIED}),
        )
        assert isinstance(decision, Decision)
        assert len(decision.rule) <= MAX_NAME
        assert len(decision.said) <= MAX_TEXT
        assert 0 <= decision.seconds <= LONGEST


@settings(max_examples=50, deadline=None)
@given(
    st.lists(own_rules(), max_size=3),
    names,
    st.sampled_from(STAGES),
    st.sampled_from([(int(code), None) for code in ACCOUNT_REPLIES])
    | st.tuples(st.sampled_from([550, 554, 553]), st.sampled_from(ACCOUNT_CODES)),
    st.text("limtx12 ", max_size=30),
    st.booleans(),
)
def test_an_accounts_fault_never_fails_or_suppresses_a_recipient(
    own: list[ReplyRule], preset: str, stage: Phase, said: tuple[int, str | None], text: str, taken: bool
) -> None:
    """Whatever an operator writes: neither at once, nor by attempts that count until there are too many."""
    code, enhanced = said
    result = reply(code, enhanced and enhanced.replace("x", "5"), text, stage)
    decision = decide((*own, *rules_of((), preset)), result, taken=taken)
    for action in (decision.action, decision.otherwise):
        assert action not in {Action.FAIL, Action.ANSWER, Action.DEFER, Action.WEIGH}, decision.rule
    assert decision.suppress is Suppress.NEVER
    assert not decision.counts


@pytest.mark.parametrize(
    ("preset", "code", "enhanced", "text"),
    [
        ("ses", 554, None, "Message rejected: Email address is not verified."),
        ("microsoft365", 554, "5.2.0", "SubmissionQuotaExceeded"),
        ("microsoft365", 554, "5.2.2", "mailbox full; STOREDRV"),
        ("google-relay", 550, "5.7.1", "Daily SMTP relay limit exceeded for customer"),
        ("sendgrid", 550, None, "The from address does not match a verified Sender Identity"),
        ("mailru", 550, None, "message sending for this account is disabled"),
    ],
)
def test_a_fail_of_the_file_gives_way_to_a_preset_that_blames_the_account(
    preset: str, code: int, enhanced: str | None, text: str
) -> None:
    decision = decide(rules_of((FAIL_ALL,), preset), reply(code, enhanced, text, Phase.DOT))
    assert decision.rule.startswith(f"{preset}/")
    assert not decision.counts
    assert decide(rules_of((FAIL_ALL,), preset), reply(554, "5.7.1", "Spam", Phase.DOT)).action is Action.FAIL


def test_a_fail_gives_way_where_nothing_is_known_of_the_recipient() -> None:
    assert decide((FAIL_ALL,), reply(550, stage=Phase.MAIL)).rule == "default/mail"
    assert decide((FAIL_ALL,), reply(550, stage=Phase.AUTH)).rule == "default/session"
    assert decide((FAIL_ALL,), reply(550)).rule == "all"


@pytest.mark.parametrize(
    ("said", "suppress"),
    [
        (reply(550, "5.1.1"), Suppress.AT_ONCE),
        (reply(550, "5.1.2"), Suppress.AT_ONCE),
        (reply(550, "5.1.3"), Suppress.AT_ONCE),
        (reply(550, "5.1.10"), Suppress.AT_ONCE),
        (reply(551, "5.1.6"), Suppress.AT_ONCE),
        (reply(553, "5.1.1"), Suppress.AT_ONCE),
        (reply(550, "5.1.1", stage=Phase.DOT), Suppress.NEVER),
        (reply(501), Suppress.NEVER),
        (reply(501, "5.1.3"), Suppress.NEVER),
        (reply(550), Suppress.SECOND),
        (reply(552, "5.2.2"), Suppress.SECOND),
        (reply(450, "4.1.1"), Suppress.NEVER),
        (reply(552, "5.3.4"), Suppress.NEVER),
        (reply(554, "5.6.0", stage=Phase.DOT), Suppress.NEVER),
        (reply(554, "5.7.1", stage=Phase.DOT), Suppress.NEVER),
        (reply(550, stage=Phase.MAIL), Suppress.NEVER),
        (reply(550, "5.4.5"), Suppress.NEVER),
        (Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, enhanced="5.1.3"), Suppress.NEVER),
    ],
)
def test_what_the_defaults_call_the_recipients_own(said: Result, suppress: Suppress) -> None:
    assert decide((), said).suppress is suppress


@given(st.sampled_from(Phase), st.integers(500, 559), enhanced_codes, st.booleans(), st.booleans())
def test_what_is_explained_is_what_is_learned(
    stage: Phase, code: int, enhanced: str | None, taken: bool, carried: bool
) -> None:
    said = reply(code, enhanced, stage=stage)
    decision = decide((), said, taken=taken, carried=carried)
    needed = refusals_needed(said)
    assert decision.suppress == (needed if decision.action is Action.ANSWER else 0)
    later = decision.action in {Action.ANSWER, Action.SPLIT}  # who is split off is answered by itself
    if not later and decision.otherwise is Action.ANSWER:
        assert needed == 0, "else it would be learned from once others were taken, and nobody was told"


# --- orders ----------------------------------------------------------------------------------------


def ordered(seconds: float, scope: Scope = Scope.RELAY) -> Decision:
    return Decision(rule="r", action=Action.WAIT, otherwise=Action.WAIT, scope=scope, seconds=seconds)


def test_an_order_names_what_it_is_about() -> None:
    about = {"recipient": "Anna@Example.ORG", "sender": "S@Example.test"}
    assert [scope_key(scope, **about) for scope in SCOPES] == [
        "recipient:anna@example.org",
        "destination:example.org",
        "sender:s@example.test",
        RELAY_KEY,
    ]


def test_an_order_names_domains_as_they_go_onto_the_wire() -> None:
    about = {"recipient": "Anna@b\u00fccher.Example", "sender": "S@\uff45xample.test"}
    assert [scope_key(scope, **about) for scope in SCOPES] == [
        "recipient:anna@xn--bcher-kva.example",
        "destination:xn--bcher-kva.example",
        "sender:s@example.test",
        RELAY_KEY,
    ]
    assert scope_key(Scope.DESTINATION, recipient="a@gmail\u3002com") == "destination:gmail.com"


def test_what_is_ordered_holds_until_its_end_and_the_later_end_holds() -> None:
    orders = Orders()
    assert not orders
    orders.obey(ordered(10.0), "a", 100.0)
    orders.obey(ordered(5.0), "a", 101.0)
    assert orders.of("a", 104.0) == Resting(6.0, "r", "")
    orders.obey(ordered(60.0), "a", 104.0)
    assert orders.of("a", 104.0) == Resting(60.0, "r", "")
    assert orders.of("b", 104.0) is None
    assert orders.of("a", 164.0) is None
    assert not orders, "it is forgotten with its end"


@pytest.mark.asyncio
async def test_nobody_is_asked_about_any_more_when_all_that_was_ordered_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each letter pays for the look, and nobody writes to that recipient again."""
    monkeypatch.setattr("mailsender.sending.dispatcher.WATCH", 0.01)
    async with running(FakeRelay()) as scene:
        now = scene.settler._clock.monotonic()
        scene.known.orders.obey(ordered(0.05), "recipient:a@b.test", now)
        scene.known.orders.obey(ordered(60.0), "recipient:c@d.test", now)
        assert scene.known.ordered
        await until(lambda: len(scene.known.orders) == 1)
        assert scene.known.orders.of("recipient:c@d.test", now)


def test_those_who_would_be_too_many_make_room() -> None:
    orders = Orders()
    for n in range(MOST + 50):
        orders.obey(ordered(10.0 + n), f"recipient:{n}@a.test", 0.0)
    assert len(orders) == MOST
    assert orders.of("recipient:0@a.test", 0.5) is None
    assert orders.of(f"recipient:{MOST + 49}@a.test", 0.5) is not None
    orders.obey(ordered(1.0), "recipient:more@b.test", 500.0)
    assert len(orders) < MOST, "those that are over go first"
