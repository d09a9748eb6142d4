from __future__ import annotations

import re
from base64 import b64decode, encodebytes
from binascii import b2a_qp
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr, parsedate_to_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailsender.message.compose import BadBody, BadHeader, Composer
from mailsender.model.address import BadAddress
from mailsender.model.letter import Letter, Recipient
from mailsender.model.text import LONG, PIECE, header_fault

DATE = datetime(2026, 3, 1, 9, 8, 7, 654000, tzinfo=UTC)
COMPOSER = Composer("Почта", "news@example.org")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
HEADER = TEXT.filter(lambda text: header_fault(text) is None)


def letter(
    subject: str = "Hi", body: str = "<p>Hi</p>", letter_id: str = "6b03f03e1c3fe5165a363fce"
) -> Letter:
    return Letter(
        id=letter_id,
        addresses=("secret@recipient.example",),
        recipients=(Recipient(address="secret@recipient.example"),),
        subject=subject,
        body=body,
    )


def compose(subject: str = "Hi", body: str = "<p>Hi</p>", *, eight_bit: bool = True) -> bytes:
    return COMPOSER.compose(letter(subject, body), eight_bit=eight_bit, date=DATE)


def parse(message: bytes) -> EmailMessage:
    parsed = message_from_bytes(message, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def body_of(message: bytes) -> str:
    raw = parse(message).get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode()


def as_sent(body: str) -> str:
    """What a reader is to get: CRLF line ends, the last line ended."""
    text = re.sub(r"\r\n?|\n", "\r\n", body)
    return text if not text or text.endswith("\r\n") else text + "\r\n"


def assert_fit_for_the_wire(message: bytes) -> None:
    assert message.endswith(b"\r\n")
    assert b"\r" not in message.replace(b"\r\n", b"")
    assert b"\n" not in message.replace(b"\r\n", b"")
    assert b"\0" not in message
    assert max(map(len, message.split(b"\r\n"))) <= 998


def test_a_plain_letter_byte_for_byte() -> None:
    message = Composer("", "news@example.org").compose(letter(), eight_bit=True, date=DATE)
    assert message == (
        b"Date: Sun, 01 Mar 2026 09:08:07 +0000\r\n"
        b"From: news@example.org\r\n"
        b"To: undisclosed-recipients:;\r\n"
        b"Subject: Hi\r\n"
        b"Message-ID: <6b03f03e1c3fe5165a363fce@example.org>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/html; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"<p>Hi</p>\r\n"
    )


@given(
    subject=HEADER,
    body=TEXT | st.text(st.sampled_from("aя.\r\n\0 =\t"), max_size=3000),
    eight_bit=st.booleans(),
)
@example(subject="", body="", eight_bit=False)
@example(subject=" ", body=".\r\n..\n.", eight_bit=False)
@example(
    subject="two  spaces and more, so that this line has to be folded somewhere or other",
    body="\r",
    eight_bit=True,
)
@example(subject="=?utf-8?Q?not=20ours?=", body="=?utf-8?Q?x?=", eight_bit=True)
@example(subject="word " * 40 + "end", body="x" * 5000, eight_bit=True)
@example(subject="Ж" * 400, body="Ж" * 499 + "\n" + "Ж" * 500, eight_bit=True)
@example(subject="😀" * 100, body="a\tb \n", eight_bit=False)
def test_a_standard_reader_gets_what_was_written(subject: str, body: str, eight_bit: bool) -> None:
    message = compose(subject, body, eight_bit=eight_bit)
    assert_fit_for_the_wire(message)
    parsed = parse(message)
    assert parsed["Subject"] == subject
    assert body_of(message) == as_sent(body)
    assert parsed["From"].addresses[0].display_name == "Почта"
    assert parsed["From"].addresses[0].addr_spec == "news@example.org"
    assert parsed.keys() == [
        "Date",
        "From",
        "To",
        "Subject",
        "Message-ID",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
    assert b"recipient.example" not in message
    if not eight_bit:
        assert message.isascii()


@given(HEADER)
def test_encoded_words_are_short_whole_and_folded(subject: str) -> None:
    [header] = re.findall(rb"Subject:.*?(?=\r\nMessage-ID)", compose(subject), re.DOTALL)
    for line in header.split(b"\r\n"):
        assert len(line) <= 76
    for word in re.findall(rb"=\?utf-8\?B\?(.*?)\?=", header):
        assert len(word) + 12 <= 75
        assert b64decode(word).decode()  # raises where a character was split


@pytest.mark.parametrize(
    ("body", "eight_bit", "encoding"),
    [
        ("ascii", False, "7bit"),
        ("x" * 998, False, "7bit"),
        ("x" * 999, True, "quoted-printable"),
        ("Тело", True, "8bit"),
        ("Ж" * 499, True, "8bit"),
        ("Ж" * 500, True, "base64"),
        ("Тело", False, "base64"),
        ("mostly ascii with one ж among many letters " * 3, False, "quoted-printable"),
        ("nul \0 among ascii letters", True, "quoted-printable"),
    ],
)
def test_the_encoding_fits_the_body_and_the_relay(body: str, eight_bit: bool, encoding: str) -> None:
    message = compose(body=body, eight_bit=eight_bit)
    assert parse(message)["Content-Transfer-Encoding"] == encoding
    assert body_of(message) == as_sent(body)


LINE = "<p>строка €</p>\n"
ODD_LINES = st.sampled_from(
    [
        "\r\n",
        "\r",
        "\n",
        ".\n",
        ".\r\n..\n",
        "x" * 998,
        "x" * 998 + "\r\n",
        "x" * 999,
        "ж" * 500,
        "\0",
        "😀",
        "\x85\u2028",
    ]
)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["", "<p>line</p>\n", "<p>line</p>\r\n", LINE]),
    st.lists(st.tuples(st.sampled_from([0, 1, 15, 16, 17, PIECE - 1, PIECE]), ODD_LINES), max_size=3),
    st.sampled_from(["", "\n", "\r", "x"]),
    st.booleans(),
)
@example(LINE, [(PIECE - 998, "x" * 999)], "", True)
@example("x", [], "", True)
def test_a_long_body_is_written_as_a_short_one(
    line: str, odd: list[tuple[int, str]], end: str, eight_bit: bool
) -> None:
    text = "".join("y" * gap + each for gap, each in odd) + end
    body = line * (LONG // max(1, len(line)) + 1) + text
    message = compose(body=body, eight_bit=eight_bit)
    sent = as_sent(body).encode()
    fits = b"\0" not in sent and max(map(len, sent.split(b"\r\n"))) <= 998
    if fits and (body.isascii() or eight_bit):
        encoding = b"7bit" if body.isascii() else b"8bit"
        assert message.partition(b"\r\n\r\n")[2] == sent
        assert b"\r\nContent-Transfer-Encoding: %b\r\n" % encoding in message[:PIECE]
    else:
        assert_fit_for_the_wire(message)
        assert body_of(message) == as_sent(body)
    short = compose(body="" if body.isascii() else "ж", eight_bit=True)
    assert message[:PIECE].split(b"\r\nContent-Transfer")[0] == short.split(b"\r\nContent-Transfer")[0]


@given(st.lists(st.sampled_from([0, 1, 2, 499, 500, 997, 998, 999]), min_size=1, max_size=6))
def test_lines_of_any_lengths_are_armoured_only_where_one_is_too_long(lengths: list[int]) -> None:
    message = compose(body="\n".join("x" * length for length in lengths))
    assert (parse(message)["Content-Transfer-Encoding"] == "7bit") == (max(lengths) <= 998)


@given(st.text(st.sampled_from("aЖ= \n\0"), min_size=1, max_size=400))
def test_of_two_encodings_the_shorter_is_taken(body: str) -> None:
    message = compose(body=body, eight_bit=False)
    chosen = message.partition(b"\r\n\r\n")[2]
    if parse(message)["Content-Transfer-Encoding"] == "7bit":
        return
    raw = as_sent(body).encode()
    assert len(chosen) == min(len(b2a_qp(raw, istext=True)), len(encodebytes(raw).replace(b"\n", b"\r\n")))


@pytest.mark.parametrize(
    "subject",
    ["a\r\nBcc: x@y.z", "a\nb", "a\rb", "a\0b", "a\x1fb", "a\x85b", "a\u2028b", "a\u2029b", "a\ud800", "\t"],
)
def test_a_subject_that_could_end_its_header_is_refused(subject: str) -> None:
    with pytest.raises(BadHeader, match="the subject holds"):
        compose(subject)


@pytest.mark.parametrize("subject", ["", "Тема", "a\u200db", "a\u00a0b", "\ue000", "\ufeff", "😀"])
def test_other_characters_may_stand_in_a_header(subject: str) -> None:
    assert parse(compose(subject))["Subject"] == subject


def test_a_body_that_is_no_text_is_refused() -> None:
    for before in ("a", "a\n" * LONG):
        with pytest.raises(BadBody):
            compose(body=before + "\ud800")


@pytest.mark.parametrize(
    "display",
    [
        "Ann",
        "Ann Example",
        "Ann, Sales",
        'Ann "A." \\ Ex',
        "Ann (x) <b@c.d>",
        "Анна",
        "=?utf-8?Q?x?=",
        "a" * 200,
        "Ж" * 90,
    ],
)
def test_the_sender_reads_back(display: str) -> None:
    message = Composer(display, "news@почта.рф").compose(letter(), eight_bit=True, date=DATE)
    assert_fit_for_the_wire(message)
    [sender] = parse(message)["From"].addresses
    assert sender.addr_spec == "news@xn--80a1acny.xn--p1ai"
    # The newer parser of the standard library leaves spaces between the encoded-words of a phrase
    # (RFC 2047 §6.2 says to drop them), so long names are read with the older one.
    name, _ = parseaddr(message_from_bytes(message)["From"])
    assert str(make_header(decode_header(name))) == display


def test_a_bad_sender_is_refused_at_once() -> None:
    with pytest.raises(BadHeader):
        Composer("a\r\nb", "news@example.org")
    with pytest.raises(BadAddress):
        Composer("a", "news")


def test_the_date_is_the_one_given() -> None:
    assert parsedate_to_datetime(parse(compose())["Date"]) == DATE.replace(microsecond=0)


def test_each_letter_has_its_own_date() -> None:
    dates = [
        DATE,
        DATE,
        DATE + timedelta(seconds=0.1),
        DATE + timedelta(seconds=1),
        DATE,
        DATE - timedelta(days=1),
    ]
    for date in dates:
        message = COMPOSER.compose(letter(), eight_bit=True, date=date)
        assert parsedate_to_datetime(parse(message)["Date"]) == date.replace(microsecond=0)


def named(letter_id: str, message_id: str = "") -> Letter:
    return letter().evolve(id=letter_id, message_id=message_id)


def test_a_letter_keeps_the_message_id_of_its_first_attempt() -> None:
    before = "<6b03f03e1c3fe5165a363fce@before.example>"
    mine = named("6b03f03e1c3fe5165a363fce", before)
    assert COMPOSER.message_id(mine) == before
    assert f"Message-ID: {before}".encode() in COMPOSER.compose(mine, eight_bit=True, date=DATE)


@pytest.mark.parametrize(
    "stored",
    [
        "<reader@example.test>",
        "<6b03f03e1c3fe5165a363fce@before.example>\r\nBcc: x@y.test",
        "<6b03f03e1c3fe5165a363fce@>",
        "<6b03f03e1c3fe5165a363fce@a b>",
        "6b03f03e1c3fe5165a363fce@before.example",
    ],
)
def test_what_another_program_stored_in_its_place_does_not_count(stored: str) -> None:
    mine = named("6b03f03e1c3fe5165a363fce", stored)
    assert COMPOSER.message_id(mine) == "<6b03f03e1c3fe5165a363fce@example.org>"


def test_message_ids_are_made_of_the_letters_id_alone() -> None:
    assert COMPOSER.message_id(named("6b03f03e1c3fe5165a363fce")) == "<6b03f03e1c3fe5165a363fce@example.org>"
    assert compose().count(b"<6b03f03e1c3fe5165a363fce@example.org>") == 1


@given(st.text(max_size=80))
@example("a@b.c")
@example("\r\nBcc: a@b.c")
@example("a..b")
@example("")
def test_an_odd_id_of_another_program_makes_a_safe_message_id(letter_id: str) -> None:
    first = COMPOSER.message_id(named(letter_id))
    assert re.fullmatch(r"<[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*@example\.org>", first)
    assert COMPOSER.message_id(named(letter_id)) == first
    assert COMPOSER.message_id(named(letter_id + "\0")) != first
