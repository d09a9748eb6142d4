"""A long message in pieces: on the wire it is what it would be in one, and no piece is copied."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.message.parts import Base64
from mailsender.model.letter import Envelope, Phase, Verdict
from mailsender.smtp.commands import Offers, plan
from mailsender.smtp.pieces import SHORT, Pieces
from mailsender.smtp.protocol import BLOCK
from mailsender.smtp.transaction import Transaction
from tests.unit.test_smtp_protocol import DATA, DOT, GO_ON, MAIL, OK, RCPT_B, A, B, Permit, Talk, stuffed

FILE = Base64.of([bytes(range(256)) * 4096])
HEAD = b"Subject: Hi\r\n\r\n"
ENVELOPE = Envelope(reverse_path="s@x.test", recipients=(A,))


def asked_for(talk: Talk, *pieces: bytes, recipient: str = A) -> Transaction:
    envelope = Envelope(reverse_path="s@x.test", recipients=(recipient,))
    transaction = Transaction(envelope, Pieces(pieces), Permit(), Offers())
    talk.dialogue.submit(transaction)
    return transaction


# By name: the long one would make a story of 65 kB of what Hypothesis tried.
WORDS = {
    "end": b"\r\n",
    "dot": b".",
    "x": b"x",
    "dot in front": b"\r\n.",
    "xyz": b"xyz",
    "many dots": b".." * SHORT,
}


@given(
    st.lists(st.sampled_from(sorted(WORDS)), max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.sampled_from([1, 2, 3, 7, SHORT, BLOCK]),
)
def test_it_is_stuffed_as_the_whole_would_be(names: list[str], ends: list[bool], most: int) -> None:
    words = [WORDS[each] for each in names]
    cut: list[list[bytes]] = [[]]
    for word, end in zip(words, ends, strict=False):
        cut[-1].append(word)
        if end:
            cut.append([])
    made = Pieces(tuple(b"".join(each) for each in cut))
    whole = b"".join(words)
    assert made.size == len(whole)
    blocks = [bytes(each) for each in made.blocks_on_the_wire(most)]
    assert b"".join(blocks) == (stuffed(whole) if whole else b"")
    assert all(len(each) <= 2 * most + 2 for each in blocks)


def test_a_file_is_not_copied_and_what_is_short_goes_together() -> None:
    made = Pieces((HEAD, b"--=_1\r\n", *FILE.pieces, b"\r\n--=_1--\r\n"))
    assert [len(each) for each in made.blocks] == [
        len(HEAD) + 7,
        *map(len, FILE.pieces),
        len("\r\n--=_1--\r\n"),
    ]
    blocks = list(made.blocks_on_the_wire(BLOCK))
    within = [each for each in blocks if isinstance(each, memoryview) and each.obj in FILE.pieces]
    assert sum(map(len, within)) == FILE.size


def test_it_streams_and_its_dot_goes_with_what_follows() -> None:
    talk = Talk(pipelining=True)
    letter = asked_for(talk, HEAD, b".\r\n", *FILE.pieces)
    asked_for(talk, HEAD, recipient=B)
    talk.says()
    talk.dialogue.receive(OK + OK + GO_ON)
    blocks = [bytes(talk.dialogue.output(talk.now))]
    assert letter.permit.asked == ["begin"], "the dot is asked for when all else is with the relay"
    while talk.dialogue.streaming:
        blocks.append(bytes(talk.dialogue.output(talk.now)))
    assert blocks[-1] == DOT + MAIL + RCPT_B + DATA
    assert b"".join(blocks[:-1]) == HEAD + b"..\r\n" + b"".join(FILE.pieces)
    assert letter.permit.asked == ["begin", "dot"]
    # The second one begins at its own beginning.
    talk.dialogue.receive(OK + OK + OK + GO_ON)
    assert talk.says() == HEAD + DOT
    assert letter.results[A].verdict is Verdict.ACCEPTED


def test_one_that_is_lost_in_the_middle_was_not_sent() -> None:
    talk = Talk()
    letter = asked_for(talk, HEAD, *FILE.pieces)
    talk.says()
    talk.hears(OK)
    talk.hears(OK)
    talk.dialogue.receive(GO_ON)
    talk.dialogue.output(talk.now)
    talk.dialogue.end("the connection was lost")
    assert (letter.results[A].verdict, letter.results[A].phase) == (Verdict.DEFERRED, Phase.DATA)


def test_its_size_is_declared_and_compared_with_both_numbers() -> None:
    made = Pieces((HEAD, *FILE.pieces))
    size = len(HEAD) + FILE.size
    mail, _, _ = plan(ENVELOPE, made, Offers(sizes=True, size=size))
    assert mail == b"MAIL FROM:<s@x.test> SIZE=%d\r\n" % size
    mail, rcpts, results = plan(ENVELOPE, made, Offers(sizes=True, size=size - 1))
    assert (mail, rcpts) == (b"", {})
    assert results[A].text == f"the message has {size} octets and the relay takes at most {size - 1}"


@pytest.mark.parametrize(
    ("pieces", "parameters"),
    [
        ((HEAD, b"x" * SHORT), b""),
        ((HEAD, "ы".encode() * SHORT), b" BODY=8BITMIME"),
        (("Subject: ы\r\n\r\n".encode(), b"x" * SHORT), b" BODY=8BITMIME SMTPUTF8"),
    ],
)
def test_what_it_needs_is_asked_for(pieces: tuple[bytes, ...], parameters: bytes) -> None:
    mail, _, _ = plan(ENVELOPE, Pieces(pieces), Offers(eight_bit=True, smtputf8=True))
    assert mail == b"MAIL FROM:<s@x.test>%b\r\n" % parameters


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"x\ry" + b"x" * SHORT, b"x" * SHORT + b"\n"])
def test_a_bare_cr_or_lf_is_found_in_any_piece(bad: bytes) -> None:
    with pytest.raises(ValueError, match="bare CR or LF"):
        plan(ENVELOPE, Pieces((HEAD, *FILE.pieces, bad)), Offers())
