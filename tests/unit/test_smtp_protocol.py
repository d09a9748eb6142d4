"""The SMTP protocol by octets alone: no loop, no transport, and time is a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.model.letter import Envelope, Phase, Result, Verdict
from mailsender.model.text import PIECE
from mailsender.smtp.commands import Offers, on_the_wire, plan
from mailsender.smtp.learned import LONGEST, PROBATION, Learned
from mailsender.smtp.protocol import BLOCK, ONE_WRITE, Dialogue, Question, Timeouts
from mailsender.smtp.transaction import Transaction
from tests.clocks import ManualClock

MESSAGE = b"Subject: Hi\r\n\r\n.\r\nHi\r\n"
STUFFED = b"Subject: Hi\r\n\r\n..\r\nHi\r\n.\r\n"
A, B = "a@x.test", "b@x.test"
MAIL, RCPT_A, RCPT_B = b"MAIL FROM:<s@x.test>\r\n", b"RCPT TO:<a@x.test>\r\n", b"RCPT TO:<b@x.test>\r\n"
DATA, DOT, RSET = b"DATA\r\n", b".\r\n", b"RSET\r\n"
OK, GO_ON = b"250 2.0.0 Ok\r\n", b"354 Go on\r\n"
WAITS = Timeouts(command=3, data=4, block=5, dot=6)
ACCEPTED, DEFERRED, REFUSED, UNCERTAIN = (
    Verdict.ACCEPTED,
    Verdict.DEFERRED,
    Verdict.REFUSED,
    Verdict.UNCERTAIN,
)


@dataclass
class Permit:
    """Answers as told, and notes at which moment it was asked."""

    may_begin: bool = True
    may_end: bool = True
    asked: list[str] = field(default_factory=list)
    told: list[Mapping[str, Result]] = field(default_factory=list)
    refusals: list[Mapping[str, Result]] = field(default_factory=list)

    def begin(self) -> bool:
        self.asked.append("begin")
        return self.may_begin

    def dot(self) -> bool:
        self.asked.append("dot")
        return self.may_end

    def refused(self, results: Mapping[str, Result]) -> None:
        self.refusals.append(dict(results))

    def replied(self, results: Mapping[str, Result]) -> None:
        self.told.append(dict(results))


class Talk:
    """A dialogue, the octets that it wrote, and the time."""

    def __init__(self, *, pipelining: bool = False, learned: Learned | None = None) -> None:
        self.learned = learned or Learned("relay", ManualClock(), WAITS.dot)
        self.dialogue = Dialogue(Offers(pipelining=pipelining), WAITS, self.learned)
        self.now = 100.0

    def letter(self, *recipients: str, message: bytes = MESSAGE, permit: Permit | None = None) -> Transaction:
        envelope = Envelope(reverse_path="s@x.test", recipients=recipients or (A,))
        transaction = Transaction(envelope, message, permit or Permit(), Offers())
        self.dialogue.submit(transaction)
        return transaction

    def says(self) -> bytes:
        """All that may be written now, with a transport that takes everything."""
        said = bytes(self.dialogue.output(self.now))
        while self.dialogue.streaming:
            said += self.dialogue.output(self.now)
        return said

    def hears(self, *replies: bytes) -> bytes:
        """Replies in one packet; what is said to that."""
        self.dialogue.receive(b"".join(replies))
        return self.says()

    def up_to(self, phase: Phase, *recipients: str) -> Transaction:
        """A letter that waits for the reply to `phase`."""
        letter = self.letter(*recipients)
        self.says()
        steps = [Phase.MAIL, *[Phase.RCPT] * max(1, len(recipients)), Phase.DATA, Phase.DOT]
        for step in steps[: steps.index(phase)]:
            self.hears(GO_ON if step is Phase.DATA else OK)
        return letter


def verdicts(letter: Transaction) -> list[Verdict]:
    assert not letter.waiting
    return [result.verdict for result in letter.results.values()]


# --- what is said when -----------------------------------------------------------------------


def test_one_command_at_a_time() -> None:
    talk = Talk()
    first, second = talk.letter(A, B), talk.letter(B)
    assert talk.says() == MAIL
    assert talk.says() == b"", "nothing more before the reply"
    assert [talk.hears(OK) for _ in range(3)] == [RCPT_A, RCPT_B, DATA]
    assert talk.hears(GO_ON) == STUFFED
    assert not talk.dialogue.done
    assert talk.hears(OK) == MAIL
    assert list(talk.dialogue.done) == [first]
    assert verdicts(first) == [ACCEPTED, ACCEPTED]
    assert second.waiting


def test_pipelined_a_letter_costs_one_round_trip_and_one_is_behind_its_dot() -> None:
    talk = Talk(pipelining=True)
    letters = [talk.letter() for _ in range(4)]
    group = MAIL + RCPT_A + DATA
    assert talk.says() == group
    assert talk.hears(OK, OK, GO_ON) == STUFFED + group
    assert talk.says() == b""
    assert talk.hears(OK) == b"", "the second one's message waits for all replies to what comes before it"
    assert talk.hears(OK, OK) == b""
    assert talk.hears(GO_ON) == STUFFED + group
    assert list(talk.dialogue.done) == letters[:1]
    assert talk.hears(OK, OK, OK, GO_ON) == STUFFED + group
    assert talk.hears(OK, OK, OK, GO_ON) == STUFFED
    assert talk.hears(OK) == b""
    assert [verdicts(each) for each in letters] == [[ACCEPTED]] * 4
    assert talk.dialogue.over is None


def test_a_permit_is_asked_just_before_each_of_the_two_moments_and_told_at_once() -> None:
    talk, permit, behind = Talk(pipelining=True), Permit(), Permit()
    talk.letter(permit=permit)
    talk.letter(permit=behind)
    assert permit.asked == []
    talk.says()
    assert (permit.asked, behind.asked) == (["begin"], [])
    talk.dialogue.receive(OK + OK + GO_ON)
    assert (permit.asked, behind.asked) == (["begin"], [])
    talk.says()
    assert (permit.asked, behind.asked) == (["begin", "dot"], ["begin"])
    talk.dialogue.receive(b"250 2.0.0 Taken\r\n")
    assert [result.text for told in permit.told for result in told.values()] == ["Taken"]


def test_a_letter_that_may_not_begin_is_passed_over() -> None:
    talk = Talk()
    first, second = talk.letter(permit=Permit(may_begin=False)), talk.letter(B)
    assert talk.says() == MAIL
    assert list(talk.dialogue.done) == [first]
    assert (first.not_begun, second.not_begun) == (True, False)


@pytest.mark.parametrize("message", [MESSAGE, b"x\r\n" * ONE_WRITE], ids=["small", "large"])
def test_a_letter_that_may_not_be_ended_ends_the_session(message: bytes) -> None:
    talk = Talk()
    letter = talk.letter(message=message, permit=Permit(may_end=False))
    talk.says()
    talk.hears(OK)
    talk.hears(OK)
    assert not talk.hears(GO_ON).endswith(DOT)
    assert talk.dialogue.over is not None
    assert letter.results[A].phase is Phase.DATA
    assert verdicts(letter) == [DEFERRED]


def test_a_question_is_answered_and_the_next_letter_carried() -> None:
    talk, question = Talk(), Question(b"NOOP\r\n", 2.0)
    assert talk.dialogue.ask(question, talk.now) == b"NOOP\r\n"
    assert talk.dialogue.deadline == talk.now + 2
    talk.dialogue.receive(b"250 2.0.0 Here\r\n")
    assert list(talk.dialogue.done) == [question]
    assert question.reply is not None
    assert question.reply.text == "Here"
    talk.letter()
    assert talk.says() == MAIL


def test_a_question_without_an_answer_ends_the_session() -> None:
    talk, question = Talk(pipelining=True), Question(b"NOOP\r\n", 2.0)
    talk.dialogue.ask(question, talk.now)
    talk.dialogue.tick(talk.now + 2)
    assert list(talk.dialogue.done) == [question]
    assert question.reply is None
    assert talk.dialogue.over is not None
    assert talk.learned.pipelining, "nothing was sent ahead"


@pytest.mark.parametrize("pipelining", [False, True])
@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.DOT])
def test_a_question_in_the_middle_of_a_letter_is_a_mistake(phase: Phase, pipelining: bool) -> None:
    talk = Talk(pipelining=pipelining)
    talk.up_to(phase)
    with pytest.raises(RuntimeError, match="under way"):
        talk.dialogue.ask(Question(b"NOOP\r\n", 2.0), talk.now)


# --- what a reply means at each stage --------------------------------------------------------

STAGES = [Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.DOT]
REPLIES = [(b"451 4.3.0 Later\r\n", DEFERRED), (b"550 5.1.1 No\r\n", REFUSED)]


@pytest.mark.parametrize("pipelining", [False, True])
@pytest.mark.parametrize("phase", STAGES)
@pytest.mark.parametrize(("reply", "verdict"), REPLIES)
def test_a_refusal_is_for_its_letter_and_the_session_is_reset(
    phase: Phase, reply: bytes, verdict: Verdict, pipelining: bool
) -> None:
    talk = Talk(pipelining=pipelining)
    letter = talk.up_to(phase)
    said = talk.hears(reply)
    if pipelining and phase in {Phase.MAIL, Phase.RCPT}:
        assert said == b"", "the rest was said already"
        no = b"503 5.5.1 Sequence\r\n"
        said = talk.hears(no, no) if phase is Phase.MAIL else talk.hears(no)
    assert said == RSET
    assert not talk.dialogue.done
    talk.hears(OK)
    assert list(talk.dialogue.done) == [letter]
    result = letter.results[A]
    assert (result.verdict, result.phase, result.code) == (verdict, phase, int(reply[:3]))
    assert talk.dialogue.over is None
    talk.letter(B)
    assert talk.says().startswith(MAIL)


@pytest.mark.parametrize("pipelining", [False, True])
@pytest.mark.parametrize("phase", STAGES)
def test_421_and_a_lost_connection_end_the_session(phase: Phase, pipelining: bool) -> None:
    lost, closed = Talk(pipelining=pipelining), Talk(pipelining=pipelining)
    letter, told = lost.up_to(phase), closed.up_to(phase)
    lost.dialogue.end("the connection was lost")
    assert closed.hears(b"421 4.3.2 Bye\r\n") == b""
    for talk, each in ((lost, letter), (closed, told)):
        assert list(talk.dialogue.done) == [each]
        assert talk.dialogue.over is not None
        assert each.results[A].phase is phase
        assert talk.says() == b""
    assert verdicts(letter) == [UNCERTAIN if phase is Phase.DOT else DEFERRED]
    assert (verdicts(told), told.results[A].code) == ([DEFERRED], 421)


@pytest.mark.parametrize("phase", STAGES)
@pytest.mark.parametrize("reply", [b"220 Hello\r\n", b"221 Bye\r\n"])
def test_what_speaks_of_the_channel_never_says_that_a_letter_was_taken(phase: Phase, reply: bytes) -> None:
    talk = Talk()
    letter = talk.up_to(phase)
    talk.hears(reply)
    assert verdicts(letter) == [UNCERTAIN if phase is Phase.DOT else DEFERRED]
    assert talk.dialogue.over is not None


@pytest.mark.parametrize("pipelining", [False, True])
def test_whoever_is_refused_is_told_while_the_letter_goes_on(pipelining: bool) -> None:
    talk, permit = Talk(pipelining=pipelining), Permit()
    talk.letter(A, B, permit=permit)
    talk.says()
    talk.hears(OK)
    talk.hears(b"450 4.2.1 Slowly\r\n")
    (told,) = permit.refusals
    assert [(each, result.code, result.phase) for each, result in told.items()] == [(A, 450, Phase.RCPT)]
    talk.hears(OK)
    talk.hears(GO_ON)
    talk.hears(b"451 4.7.0 Later\r\n")
    assert [list(each) for each in permit.refusals] == [[A], [B]]
    assert permit.refusals[1][B].phase is Phase.DOT
    assert not talk.dialogue.done, "RSET has no answer yet"


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.DATA])
def test_that_all_are_refused_is_told_before_the_session_is_reset(phase: Phase) -> None:
    talk, permit = Talk(), Permit()
    talk.letter(A, B, permit=permit)
    talk.says()
    for _ in range(0 if phase is Phase.MAIL else 3):
        talk.hears(OK)
    assert talk.hears(b"451 4.7.0 Later\r\n") == RSET
    (told,) = permit.refusals
    assert {each: result.phase for each, result in told.items()} == {A: phase, B: phase}


def test_refused_recipients_leave_the_others_theirs() -> None:
    talk = Talk()
    letter = talk.up_to(Phase.RCPT, A, B)
    assert talk.hears(b"550 5.1.1 No\r\n") == RCPT_B
    assert talk.hears(OK) == DATA
    talk.hears(GO_ON)
    talk.hears(OK)
    assert {name: result.verdict for name, result in letter.results.items()} == {A: REFUSED, B: ACCEPTED}


def test_without_a_recipient_354_gets_the_lone_dot_which_nobody_is_told_of() -> None:
    talk, permit = Talk(pipelining=True), Permit()
    letter = talk.letter(permit=permit)
    talk.says()
    assert talk.hears(OK, b"550 5.1.1 No\r\n", GO_ON) == DOT
    assert talk.hears(b"250 2.0.0 Queued\r\n") == RSET
    talk.hears(OK)
    assert verdicts(letter) == [REFUSED]
    assert (permit.asked, permit.told) == (["begin"], [])


def test_behind_a_refused_dot_the_next_letter_goes_on_without_a_reset() -> None:
    talk = Talk(pipelining=True)
    first, second = talk.letter(), talk.letter(B)
    talk.says()
    talk.hears(OK, OK, GO_ON)
    assert talk.hears(b"554 5.7.1 Spam\r\n", OK, OK, GO_ON) == STUFFED
    talk.hears(OK)
    assert (verdicts(first), verdicts(second)) == ([REFUSED], [ACCEPTED])


def test_a_relay_that_holds_on_to_a_refused_letter_is_reset_and_the_next_one_was_not_begun() -> None:
    talk = Talk(pipelining=True)
    first, second = talk.letter(), talk.letter(B)
    talk.says()
    talk.hears(OK, OK, GO_ON)
    out_of_step = b"503 5.5.1 Sequence\r\n"
    assert talk.hears(b"554 5.7.1 Spam\r\n", out_of_step, out_of_step, out_of_step) == RSET
    talk.hears(OK)
    assert verdicts(first) == [REFUSED]
    assert second.not_begun
    assert talk.dialogue.over is None


def test_letters_that_nothing_was_said_about_were_not_begun_but_the_first_one_is_told() -> None:
    talk = Talk()
    first, second = talk.letter(), talk.letter()
    talk.dialogue.end("gone")
    assert verdicts(first) == [DEFERRED]
    assert (first.results[A].text, second.not_begun) == ("gone", True)


def test_a_refused_reset_ends_the_session_and_the_first_reason_stands() -> None:
    talk = Talk()
    letter = talk.up_to(Phase.MAIL)
    assert talk.hears(b"550 5.7.1 No\r\n") == RSET
    talk.hears(b"502 5.5.1 What?\r\n")
    talk.dialogue.end("the connection was lost")
    assert talk.dialogue.over is not None
    assert talk.dialogue.over.why == "the relay refused RSET: 502 5.5.1 What?"
    assert (verdicts(letter), letter.results[A].code) == ([REFUSED], 550)


@pytest.mark.parametrize("begun", [False, True])
def test_a_letter_that_is_withdrawn(begun: bool) -> None:
    talk = Talk()
    letter = talk.letter()
    if begun:
        talk.says()
    talk.dialogue.withdraw(letter)
    assert (talk.dialogue.over is not None) == begun
    assert talk.says() == b""


# --- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "seconds"), [(Phase.MAIL, 3), (Phase.RCPT, 3), (Phase.DATA, 4), (Phase.DOT, 6)]
)
def test_each_step_has_its_deadline(phase: Phase, seconds: float) -> None:
    talk = Talk()
    letter = talk.up_to(phase)
    assert talk.dialogue.deadline == talk.now + seconds
    talk.now += seconds
    talk.dialogue.tick(talk.now - 0.001)
    assert talk.dialogue.over is None
    talk.dialogue.tick(talk.now)
    assert talk.dialogue.over is not None
    assert talk.dialogue.deadline is None
    assert letter.results[A].text == f"the relay gave no answer within {seconds}s"
    assert letter.results[A].phase is phase


def test_a_reply_that_is_there_at_its_deadline_is_in_time() -> None:
    talk = Talk()
    letter = talk.up_to(Phase.DOT)
    talk.dialogue.receive(OK)
    talk.dialogue.tick(talk.now + WAITS.dot)  # before anything is written
    assert verdicts(letter) == [ACCEPTED]
    assert talk.dialogue.over is None
    talk.says()
    assert talk.dialogue.deadline is None, "nothing is due"


def test_each_block_of_a_large_message_has_its_deadline() -> None:
    talk = Talk()
    letter = talk.letter(message=b"x" * BLOCK + b"\r\n")
    talk.says()
    talk.hears(OK)
    talk.hears(OK)
    talk.dialogue.receive(GO_ON)
    assert len(talk.dialogue.output(talk.now)) == BLOCK
    talk.now += 4
    assert talk.dialogue.output(talk.now) == b"\r\n"
    assert talk.dialogue.deadline == talk.now + WAITS.block
    talk.dialogue.tick(talk.now + WAITS.block)
    assert letter.results[A].text == "the relay took no data for 5s"
    assert (verdicts(letter), letter.results[A].phase) == ([DEFERRED], Phase.DATA)


def test_what_is_sent_ahead_is_on_probation_until_it_has_worked() -> None:
    learned = Learned("relay", ManualClock(), 600.0)
    talk = Talk(pipelining=True, learned=learned)
    talk.dialogue = Dialogue(Offers(pipelining=True), Timeouts(), learned)
    first, second = talk.letter(), talk.letter()
    talk.says()
    assert talk.dialogue.deadline == talk.now + PROBATION
    talk.hears(OK, OK, GO_ON)
    assert talk.dialogue.deadline == talk.now + 600
    talk.hears(OK)
    assert talk.dialogue.deadline == talk.now + PROBATION, "behind a dot it has not shown yet"
    talk.hears(OK, OK, GO_ON)
    talk.hears(OK)
    talk.letter()
    talk.says()
    assert talk.dialogue.deadline == talk.now + Timeouts().command
    assert [verdicts(each) for each in (first, second)] == [[ACCEPTED], [ACCEPTED]]


def test_commands_sent_ahead_that_get_no_answer_are_no_letters_fault() -> None:
    talk = Talk(pipelining=True)
    letter = talk.letter()
    talk.says()
    talk.dialogue.tick(talk.now + WAITS.command)
    assert letter.not_begun
    assert not talk.learned.pipelining


def test_a_dot_that_is_not_answered_in_time_is_waited_for_longer_the_next_time() -> None:
    talk = Talk()
    letter = talk.up_to(Phase.DOT)
    talk.dialogue.tick(talk.now + WAITS.dot)
    assert verdicts(letter) == [UNCERTAIN]
    assert talk.learned.dot == min(2 * WAITS.dot, LONGEST)


# --- octets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [b"x\r\n" * ONE_WRITE, b"y" * BLOCK, b"\r\n." * BLOCK, b"." * (ONE_WRITE + 1)]
)
def test_a_large_message_comes_in_blocks_and_its_dot_with_what_follows(message: bytes) -> None:
    talk = Talk(pipelining=True)
    talk.letter(message=message)
    talk.letter(B)
    talk.says()
    talk.dialogue.receive(OK + OK + GO_ON)
    blocks = [bytes(talk.dialogue.output(talk.now))]
    while talk.dialogue.streaming:
        blocks.append(bytes(talk.dialogue.output(talk.now)))
    assert all(len(block) <= 2 * BLOCK for block in blocks)
    assert len(blocks) == 1 + -(-len(message) // BLOCK)
    assert blocks[-1] == DOT + MAIL + RCPT_B + DATA
    assert b"".join(blocks[:-1]) == stuffed(message)


def stuffed(message: bytes) -> bytes:
    """As RFC 5321 §4.5.2 has it, line by line."""
    lines = message.removesuffix(b"\r\n").split(b"\r\n")
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)


@given(
    st.lists(st.sampled_from([b"\r\n", b".", b"x", b"\r\n.", b"xyz"]), max_size=12).map(b"".join),
    st.lists(st.integers(0, 30), max_size=5),
)
def test_dots_are_doubled_wherever_a_message_is_cut(message: bytes, cuts: list[int]) -> None:
    ends = [*sorted({cut for cut in cuts if 0 < cut < len(message)}), len(message)]
    pieces = [bytes(on_the_wire(message, start, end)) for start, end in zip([0, *ends], ends, strict=False)]
    assert b"".join(pieces) == stuffed(message)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, PIECE - 3, PIECE - 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE - 3]),
            st.sampled_from([b"\r\n"] * 6 + [b"\r", b"\n", b"\r\r\n", b"\n\r\n", b"\r\n\n", b"\n\r"]),
        ),
        max_size=6,
    )
)
def test_a_bare_cr_or_lf_is_found_wherever_it_stands(lines: list[tuple[int, bytes]]) -> None:
    message = b"".join(b"x" * length + end for length, end in lines)
    envelope = Envelope(reverse_path="s@x.test", recipients=(A,))
    bare = message.replace(b"\r\n", b"")
    if b"\r" in bare or b"\n" in bare:
        with pytest.raises(ValueError, match="bare CR or LF"):
            plan(envelope, message, Offers())
    else:
        assert plan(envelope, message, Offers(sizes=True))[0].endswith(b" SIZE=%d\r\n" % len(message))


def test_a_block_without_leading_dots_is_not_copied() -> None:
    message = b"a.b\r\n" * ONE_WRITE
    block = on_the_wire(message, BLOCK, 2 * BLOCK)
    assert isinstance(block, memoryview)
    assert block.obj is message


REPLY = st.sampled_from([OK] * 6 + [GO_ON, b"451 4.3.0 Later\r\n", b"550-5.1.1 No\r\n550 5.1.1 No\r\n"])
ODD = st.sampled_from([b"421 4.3.2 Bye\r\n", b"250-half", b"nonsense\r\n", b"\r\n", b"221 Bye\r\n", b"2"])


def good(command: bytes) -> bytes:
    return GO_ON if command == DATA else OK


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.integers(1, 4), st.lists(REPLY | st.none(), max_size=30), st.data())
def test_the_packets_in_which_replies_come_change_nothing(
    pipelining: bool, count: int, replies: list[bytes | None], data: st.DataObject
) -> None:
    """One reply a command, and none out of turn: then it is all the same where a packet ends."""

    def carried(packets: bool) -> tuple[bytes, object]:
        talk, said, given = Talk(pipelining=pipelining), b"", iter(replies)
        letters = [talk.letter(A, B) for _ in range(count)]
        new = talk.says()
        while new:
            said += new
            answer = b"".join(next(given, None) or good(command) for command in commands(new))
            if packets:
                cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=4)))
                parts = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
                new = b"".join(talk.hears(part) for part in parts)
            else:
                new = talk.hears(answer)
        return said, [(each.not_begun, each.results) for each in letters]

    assert carried(packets=True) == carried(packets=False)


def commands(written: bytes) -> list[bytes]:
    """What is to be answered: a message and its dot are one."""
    if not written.startswith((DOT, b"Subject")):
        return written.splitlines(keepends=True)
    message, dot, rest = written.rpartition(DOT)
    return [message + dot, *rest.splitlines(keepends=True)]


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(REPLY | ODD, max_size=6).map(b"".join), st.data())
def test_any_octets_mean_the_same_in_any_pieces(pipelining: bool, octets: bytes, data: st.DataObject) -> None:
    """As long as nothing is written in between."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=5)))
    whole, pieces = Talk(pipelining=pipelining), Talk(pipelining=pipelining)
    made = []
    for talk, parts in (
        (whole, [octets]),
        (pieces, [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]),
    ):
        letters = [talk.up_to(Phase.DATA), talk.letter(B)]
        for part in parts:
            talk.dialogue.receive(part)
        over = talk.dialogue.over is not None
        results = [{name: (r.verdict, r.phase) for name, r in each.results.items()} for each in letters]
        made.append((over, [each.not_begun for each in letters], results))
    assert made[0] == made[1]
