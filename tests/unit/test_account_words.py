"""An account's or a relay's fault in plain words: what hosting relays say, and what only sounds so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase, Result, Status, Verdict
from mailsender.routing import breaker
from mailsender.routing.presets import PRESETS, rules_of
from mailsender.routing.reply_rule import Action, Decision, ReplyRule, Scope, Suppress
from mailsender.sending import sender
from mailsender.sending.reply_rules import decide
from mailsender.sending.reply_words import WORDS
from mailsender.smtp.replies import Reply
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch
from tests.dispatching import letter, running, until
from tests.fleet import fleet, route
from tests.relays import ACCEPTED, FakeRelay

STAGES = ("rcpt", "data", "dot")

LIMITS = [
    # cPanel
    "550 Domain a.test has exceeded the max emails per hour (60/60 (100%)) allowed. Message discarded.",
    "550 Domain a.test has exceeded the max defers and failures per hour (5/5 (100%)) allowed.",
    "451 Domain a.test has exceeded the max emails per hour (60/60 (100%)) allowed. It is tried later",
    # HestiaCP
    "550 Email account user@a.test is sending too many emails - rate overlimit = 83.6 / 1h",
    "550 Email account user@a.test has exceeded rate overlimit",
    # Plesk
    "554 5.7.0 Your message could not be sent. The limit on the number of allowed outgoing messages was"
    " exceeded. Try again later.",
    # DirectAdmin
    "550 You (user) have reached your message limit",
    "550 You (user@a.test) have reached your daily email limit at a.test",
    # Postfix with policyd, postfwd, Mailu, Exim's own page
    "554 5.7.1 <bob@b.test>: Recipient address rejected: Policy rejection; Message count quota exceeded",
    "450 4.7.1 <a@a.test>: Sender address rejected: Deferring: Too many messages from sender in last 60",
    "450 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: Number messages per hour exceeded. Error:RATE_MSG",
    "554 5.7.1 <a@a.test>: SASL login name rejected: You are sending too many emails too fast.",
    "450 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: Number recipients per hour exceeded",
    "450 Sender rate exceeds 100 messages per 1h",
    "450 4.7.1 Error: too much mail from 192.0.2.1",
    "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
    "550 5.7.1 only 5 recipients per 5 minutes allowed",
    "550 5.7.1 <DATA>: Data command rejected: only 10 messages per day",
    # GoDaddy, IONOS, Zoho, OVH, Hostinger, msndr, and others
    "552 Message would take you over your relay quota of 500 Current quota used: 487",
    "450 Requested mail action not taken: mailbox unavailable Mail send limit exceeded.",
    "550 5.4.6 Unusual sending activity detected. Please try after sometime",
    "550 sorry, too many emails (#5.7.1)",
    "451 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: Hostinger_out_ratelimit",
    "550 Too many messages. Try again in 92 seconds.",
    "550 Too many messages",
    "450 too many emails from this sender, please try again later",
    "550 User me@a.test has exceeded its 24-hour sending limit. Messages to 25 recipients out of 25",
    "550 send spam mail rejected: exceeded hour limit",
    "550 User has exceeded outgoing email quota",
    "451 4.7.1 Hourly limit exceeded",
    "550 5.7.1 Daily SMTP relay limit exceeded for customer.",
    "554 5.7.1 You've reached your sending limit. Don't worry you can send again soon.",
    "554 The message can't be submitted because the sender's submission quota was exceeded",
    "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
    "451 4.7.1 Received too many messages from a new or untrusted IP (G28)",
    "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message",
    "450 4.7.1 <bob@b.test>: Recipient address rejected: Policy Rejection- Quota Exceeded",
    "451 Authentication failed: Maximum credits exceeded",
    "550 5.4.6 Mail rate exceeded limit. Click here to unblock",
    "554 5.7.1 <DATA>: Data command rejected: limit of 400 rcpts per 24 hours for client a@a.test reached",
    "554 5.7.1 <bob@b.test>: Recipient address rejected: You have exceeded your Outmail quota",
]

DENIED = (
    "554 Access denied: User `arn:aws:iam::1:user/x' is not authorized to perform `ses:SendRawEmail' on"
    " resource `arn:aws:ses:eu-west-1:1:identity/bob@b.test'"
)

REFUSED = [
    "550 relaying denied",
    "550 5.7.1 <bob@b.test>... Relaying denied",
    "554 5.7.1 <bob@b.test>: Relay access denied",
    "554 <bob@b.test>: Recipient address rejected: Relay access denied",
    "550 relay not permitted",
    "550 5.1.1 Relay not permitted",
    "550 Relaying not allowed",
    "553 Relaying disallowed as a@a.test",
    "550 5.7.1 Unable to relay",
    "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
    "550 5.7.64 TenantAttribution; Relay Access Denied",
    "550 5.7.0 Mail relay denied 192.0.2.1. Invalid credentials for relay for one of the domains in: a.test",
    "550 5.7.1 Invalid credentials for relay [192.0.2.1].",
    "550 relaying to b.test prohibited by administrator",
    "554 Refused. Sending to remote addresses (relaying) is not allowed",
    "551 we do not relay",
    "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
    "450 4.7.1 <bob@b.test>: Relay access denied",
    "550 authentication required",
    "550 Authentication is required for relay",
    "550 5.7.1 SMTP AUTH is required",
    "554 5.7.1 You must authenticate first",
    "550 Please turn on SMTP Authentication in your mail client. a.test is not permitted to relay through"
    " this server without authentication.",
    "550 You must be authenticated to send through this server",
    "550 You must log in before you send",
    "553 You are not logged in",
    "550 5.7.1 Client was not authenticated",
    "550 This server requires authentication",
    '550 Outgoing mail from "user@a.test" has been suspended.',
    "550 message sending for this account is disabled",
    "554 Sending paused for this account. Please contact us.",
    "550 Verification failed for <a@a.test> No such person at this address Sender verify failed",
    "451 Could not complete sender verify callout",
]

SOUNDS_SO = [
    # the reply, and the rule that decided about it before there were words; at RCPT
    ("552 5.2.2 <bob@b.test> mailbox full", "mailbox"),
    ("552 5.2.2 User has exceeded the mail quota, too many messages in the daily limit", "mailbox"),
    ("452 4.2.2 The email account that you tried to reach is over quota", "mailbox"),
    ("550 5.7.1 email quota exceeded", "unclear"),
    ("552 Mailbox quota exceeded", "no-mailbox"),
    ("552 User has too many messages on the server", "no-mailbox"),
    ("550 The mailbox has exceeded its daily quota", "no-mailbox"),
    ("552 Disk quota exceeded, storage limit of the user reached", "no-mailbox"),
    (
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents more",
        "mailbox",
    ),
    ("450 4.2.1 The user you are trying to contact is receiving mail too quickly", "mailbox"),
    ("450 4.2.1 <bob@b.test>: Mailbox received too much email in a short period of time (G30)", "mailbox"),
    ("450 User is receiving mail too quickly", "recipient-later"),
    (
        "550 The recipient has exceeded their limit for the number of messages they can receive per hour",
        "no-mailbox",
    ),
    (
        "554 5.2.122 The recipient has exceeded their limit for the number of messages they can receive",
        "mailbox",
    ),
    ("450 4.7.1 Recipient rate limit exceeded", "recipient-later"),
    ("450 Too many messages for this recipient", "recipient-later"),
    ("452 Too many recipients received this hour", "recipient-later"),
    ("550 Message exceeds the sending limit of 25 MB", "no-mailbox"),
    ("552 5.3.4 Message size exceeds the sending limit", "message"),
    ("451 Too many messages in this session", "recipient-later"),
    ("452 4.3.2 Connection rate limit exceeded", "relay-state"),
    ("421 4.7.26 This mail has been rate limited because it is unauthenticated.", "session-refused"),
    ("550 5.1.1 <ratelimit@b.test>: user unknown", "mailbox"),
    ("550 No such user: too.many.messages@rate-limit.test", "no-mailbox"),
    ("550 Unknown domain rate-limit.test", "no-mailbox"),
    ("550 5.7.1 Message rejected as spam by content filtering", "unclear"),
    ("554 5.7.1 Rejected by policy", "unclear"),
    ("554 5.4.6 Message exceeded 50 hops, this may indicate a mail loop", "way"),
    ("550 5.4.1 [bob@b.test]: Recipient address rejected: Access denied", "way"),
    ("550 5.1.1 <bob@b.test>: Recipient address rejected: User unknown in relay recipient table", "mailbox"),
    ("550 No such user on this relay", "no-mailbox"),
    (
        "550 5.1.1 <bob@b.test>: Recipient address rejected: undeliverable address: host mx.b.test[192.0.2.1]"
        " said: 554 5.7.1 <bob@b.test>: Relay access denied (in reply to RCPT TO command)",
        "mailbox",
    ),
    ("550-Callout verification failed: 550-Response: 550 Too many messages", "no-mailbox"),
    ("550 5.7.1 RESOLVER.RST.AuthRequired; authentication required", "unclear"),
    (
        "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; sender not authenticated for group",
        "unclear",
    ),
    ("550 5.7.1 Authentication required: SPF or DKIM has to pass", "unclear"),
    ("550 5.7.1 This message does not have authentication information", "unclear"),
    ("550 Account disabled", "no-mailbox"),
    ("550 5.2.1 The email account that you tried to reach is disabled", "mailbox"),
    ("550 This account has been suspended", "no-mailbox"),
    ("552 5.2.2 You have exceeded your mail quota", "mailbox"),
    ("552 You have exceeded your storage quota", "no-mailbox"),
    ("550 Callout: b.test said: sender verify failed", "no-mailbox"),
    ("550 b.test said: not authorized to perform that", "no-mailbox"),
]


def said(line: str, stage: str = "rcpt") -> Result:
    reply = Reply.of(int(line[:3]), [line[4:]])
    verdict = Verdict.DEFERRED if reply.code < 500 else Verdict.REFUSED
    return Result(
        verdict=verdict, phase=Phase(stage), code=reply.code, enhanced=reply.enhanced, text=reply.text
    )


def decided(line: str, stage: str = "rcpt", *rules: ReplyRule, carried: bool = False) -> Decision:
    return decide(rules, said(line, stage), carried=carried)


@pytest.mark.parametrize("line", LIMITS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_limit_of_the_account_holds_the_relay_whoever_else_is_taken(line: str, stage: str) -> None:
    """The window slides: the relay takes one in between, and says it again of the next."""
    decision = decided(line, stage)
    assert (decision.action, decision.otherwise) == (Action.HOLD, Action.HOLD), decision.rule
    assert (decision.suppress, decision.counts) == (Suppress.NEVER, False)


@pytest.mark.parametrize("line", REFUSED)
@pytest.mark.parametrize("stage", STAGES)
def test_an_account_that_is_refused_fails_nobody_either(line: str, stage: str) -> None:
    """A relay that takes others may mean the domain of this one: it alone waits then, by its schedule."""
    decision = decided(line, stage)
    assert (decision.action, decision.otherwise) == (Action.HOLD, Action.DEFER), decision.rule
    assert (decision.suppress, decision.counts) == (Suppress.NEVER, False)


@pytest.mark.parametrize(("line", "rule"), SOUNDS_SO)
def test_what_only_sounds_so_is_decided_as_without_words(line: str, rule: str) -> None:
    assert decided(line).rule == f"default/{rule}"


def test_each_of_the_words_is_met_by_a_reply_and_each_exception_by_one_that_is_none() -> None:
    told = [said(line).text for line in (*LIMITS, *REFUSED, DENIED)]
    unmeant = [said(line).text for line, _ in SOUNDS_SO]
    for words in WORDS.values():
        assert [each for each in words.meant if not any(words.finds(text, each) for text in told)] == []
        missing = [each for each in words.unless if not any(words.finds(text, each) for text in unmeant)]
        assert missing == []


@pytest.mark.parametrize(
    "line", ["550 relaying denied", "550 Too many messages", "550 authentication required"]
)
def test_a_fail_of_the_file_gives_way_to_them(line: str) -> None:
    everything = ReplyRule(
        name="all", codes=("5",), action=Action.FAIL, scope=Scope.RECIPIENT, suppress=Suppress.AT_ONCE
    )
    assert decided(line, "rcpt", everything).rule.startswith("default/")
    assert decided("550 No such user", "rcpt", everything).rule == "all"


def test_the_files_and_the_presets_go_first() -> None:
    own = ReplyRule(name="mine", text="too many messages", action=Action.SLOW, scope=Scope.RELAY)
    assert decided("550 Too many messages", "dot", own).rule == "mine"
    assert (
        decided("550 5.7.1 Relaying denied", "rcpt", *PRESETS["mailgun"].rules).rule
        == "mailgun/not-logged-in"
    )


@pytest.mark.parametrize(
    ("line", "stage", "rule"),
    [
        ("421 Too many messages", "dot", "session-over"),
        ("530 Authentication required", "mail", "session-over"),
        ("452 4.4.5 Too many messages", "mail", "session-full"),
        ("451 Too many messages", "data", "session-full-data"),
    ],
)
def test_where_a_session_had_carried_letters_another_one_is_tried_first(
    line: str, stage: str, rule: str
) -> None:
    assert decided(line, stage, carried=True).rule == f"default/{rule}"


def test_words_of_our_own_are_not_the_relays() -> None:
    ours = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, enhanced="5.1.3", text="too many messages")
    assert decide((), ours).rule == "default/own-check"


# --- letters on their way ----------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held relay is tried again at once, so that a test need not wait for it."""
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(breaker, "LAST_WAIT", 0.1)
    monkeypatch.setattr(sender, "LOOK", 0.02)


def no(line: str, stage: str = "rcpt") -> Callable[[str], Result]:
    return lambda _: said(line, stage)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("550 relaying denied", "rcpt"),
        ("550 Email account user@a.test has exceeded rate overlimit", "rcpt"),
        (LIMITS[5], "dot"),
        ("550 authentication required", "rcpt"),
    ],
)
async def test_the_second_relay_takes_over(line: str, stage: str) -> None:
    fakes = {"a": FakeRelay(name="a.example:25", answer=no(line, stage)), "b": FakeRelay(name="b.example:25")}
    async with fleet(fakes, [route("default", "a", "b")]) as stage_:
        await stage_.put(*[letter(n) for n in range(60)])
        done = await stage_.settled(60)
    assert {each.status for each in done} == {Status.SENT}
    assert stage_.sent()["b"] == 60


@pytest.mark.asyncio
@pytest.mark.usefixtures("soon")
async def test_where_there_is_no_other_relay_all_wait_and_none_is_suppressed() -> None:
    relay = FakeRelay(answer=no("550 relaying denied"))
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch) as scene:
        await scene.queue.insert([letter(n) for n in range(60)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.breaker.open)
        assert scene.reported == []
        relay.answer = lambda _: ACCEPTED
        done = await scene.settled(60)
    assert {each.status for each in done} == {Status.SENT}
    assert {each.attempts for each in done} == {1}
    assert watch._refusals == []


@pytest.mark.asyncio
@pytest.mark.usefixtures("soon")
async def test_a_window_that_slides_loses_nobody() -> None:
    """Of two the relay takes one, and says of the other one that the limit is reached."""
    count = iter(range(1000))
    relay = FakeRelay(answer=lambda _: said(LIMITS[5], "dot") if next(count) % 2 else ACCEPTED)
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(n) for n in range(6)])
        scene.dispatcher.nudge()
        done = await scene.settled(6)
    assert {each.status for each in done} == {Status.SENT}


@pytest.mark.asyncio
@pytest.mark.parametrize("preset", ["", "ses"])
async def test_who_is_denied_for_one_address_is_put_off_and_holds_up_nobody(preset: str) -> None:
    """SES says so of a recipient whose address is an identity of the account, among others that it takes."""
    relay = FakeRelay(answer=lambda each: said(DENIED, "dot") if each.startswith("bob") else ACCEPTED)
    async with running(relay, rules=rules_of((), preset)) as scene:
        await scene.queue.insert([letter(n, f"bob{n}@b.test") for n in range(3)])
        await scene.queue.insert([letter(n) for n in range(3, 60)])
        scene.dispatcher.nudge()
        done = await scene.settled(60)
        assert not scene.known.breaker.open
        assert scene.known.limiter.orders() == []
    assert [each.attempts for each in done if each.status is Status.ERROR] == [2, 2, 2]


@pytest.mark.asyncio
@pytest.mark.usefixtures("soon")
async def test_who_is_denied_for_everybody_waits() -> None:
    relay = FakeRelay(answer=no(DENIED, "dot"))
    async with running(relay, max_attempts=9) as scene:
        await scene.queue.insert([letter(n) for n in range(20)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.breaker.open)
        relay.answer = lambda _: ACCEPTED
        done = await scene.settled(20)
    assert {each.status for each in done} == {Status.SENT}


@pytest.mark.asyncio
@pytest.mark.usefixtures("soon")
async def test_a_domain_that_the_relay_does_not_serve_holds_up_nobody_for_long() -> None:
    """An internal relay says so of what it has no way for: it fails by its schedule, and teaches nothing."""
    relay = FakeRelay(answer=lambda address: REFUSAL if address.endswith("@far.test") else ACCEPTED)
    watch = SuppressionWatch(MemorySuppressions(), SystemClock(), SuppressionPolicy(learns=True))
    async with running(relay, suppression=watch, senders=1) as scene:
        await scene.queue.insert([letter(1, "ann@far.test"), *[letter(n) for n in range(2, 6)]])
        scene.dispatcher.nudge()
        done = {each.subject: each for each in await scene.settled(5)}
        assert not scene.known.breaker.open
    assert {each.status for name, each in done.items() if name != "letter 1"} == {Status.SENT}
    assert (done["letter 1"].status, done["letter 1"].attempts) == (Status.ERROR, 2)
    assert watch._refusals == []


REFUSAL = said("550 relaying denied")
