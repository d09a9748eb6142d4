from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.text import MAX_TEXT, one_line
from mailsender.smtp.replies import MAX_EMPTY, MAX_LINE, MAX_LINES, Kind, Reply, ReplyError, ReplyParser


def parse(data: bytes) -> list[Reply]:
    parser = ReplyParser()
    replies = list(parser.feed(data))
    assert not parser.midway
    return replies


def test_reads_code_enhanced_code_and_text() -> None:
    assert parse(b"550 5.1.1 No such user\r\n") == [Reply(550, "5.1.1", "No such user")]


@pytest.mark.parametrize("line", [b"250\r\n", b"250 \r\n", b"250\n"])
def test_a_code_alone_is_a_reply(line: bytes) -> None:
    assert parse(line) == [Reply(250, None, "")]


def test_lines_of_one_reply_are_joined_and_the_enhanced_code_is_said_once() -> None:
    data = b"550-5.7.1 Our policy\r\n550-5.7.1 forbids this;\r\n550 5.7.1 see the page\r\n"
    assert parse(data) == [Reply(550, "5.7.1", "Our policy forbids this; see the page")]


def test_several_replies_in_one_piece_keep_their_order() -> None:
    data = b"250 one\r\n550-two\r\n550 three\r\n354 four\r\n"
    assert [(reply.code, reply.text) for reply in parse(data)] == [
        (250, "one"),
        (550, "two three"),
        (354, "four"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_empty_lines_between_replies_are_passed_over(end: bytes) -> None:
    parser = ReplyParser()
    for _ in range(3):
        for reply in (b"250-a\r\n250 b\r\n", b"250 c\r\n"):
            assert [each.code for each in parser.feed(end * MAX_EMPTY + reply)] == [250]
            assert not parser.midway
    for octet in end * MAX_EMPTY:
        assert not list(parser.feed(bytes([octet])))
        assert not parser.midway
    with pytest.raises(ReplyError, match="empty lines"):
        list(parser.feed(end))


def test_an_enhanced_code_of_another_class_is_text() -> None:
    assert parse(b"550 4.2.1 odd\r\n") == [Reply(550, None, "4.2.1 odd")]


@pytest.mark.parametrize("text", [b"5.1.1.7 x", b"5.1 x", b"5.1.1x", b"5.1234.1 x"])
def test_what_only_looks_like_an_enhanced_code_is_text(text: bytes) -> None:
    assert parse(b"550 " + text + b"\r\n") == [Reply(550, None, text.decode())]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (250, Kind.COMPLETED),
        (354, Kind.INTERMEDIATE),
        (451, Kind.TRANSIENT),
        (421, Kind.TRANSIENT),
        (550, Kind.PERMANENT),
    ],
)
def test_the_first_digit_is_the_kind(code: int, kind: Kind) -> None:
    assert Reply(code, None, "").kind is kind


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250-a\r\n\r\n250 b\r\n",
        b" \r\n",
        b"25\r\n",
        b"2500 x\r\n",
        b"150 x\r\n",
        b"650 x\r\n",
        b"\xff\xfe\x00\n",
        b"\x16\x03\x01\x02\x00\x01\n",
        b"250-a\r\n251 b\r\n",
        b"250_x\r\n",
    ],
)
def test_garbage_is_an_error(garbage: bytes) -> None:
    with pytest.raises(ReplyError):
        list(ReplyParser().feed(garbage))


def test_a_reply_before_the_garbage_still_counts() -> None:
    """It may be the one that took responsibility for a letter."""
    replies = ReplyParser().feed(b"250 queued\r\n250_\r\n")
    assert next(replies).text == "queued"
    with pytest.raises(ReplyError):
        next(replies)


def test_a_line_without_an_end_is_bounded() -> None:
    parser = ReplyParser()
    assert not list(parser.feed(b"250 " + b"x" * (MAX_LINE - 4)))
    assert parser.midway
    with pytest.raises(ReplyError, match="octets"):
        list(parser.feed(b"x"))


def test_a_long_line_that_comes_whole_is_bounded_too() -> None:
    with pytest.raises(ReplyError, match="octets"):
        list(ReplyParser().feed(b"250 " + b"x" * MAX_LINE + b"\r\n"))


def test_a_reply_without_an_end_is_bounded() -> None:
    parser = ReplyParser()
    assert not list(parser.feed(b"250-x\r\n" * (MAX_LINES - 1)))
    with pytest.raises(ReplyError, match="lines"):
        list(parser.feed(b"250-x\r\n"))


def test_text_is_cut_and_cleaned() -> None:
    [reply] = parse(
        "550 5.0.0 a\x1b[31mred\x00\x85\u2028\u202e б\t  c".encode() + b"\xff" + b"z" * 3000 + b"\r\n"
    )
    assert reply.text.startswith("a [31mred б c\ufffdzz")
    assert len(reply.text) == MAX_TEXT
    assert reply.text.isprintable()


def test_str_reads_as_the_relay_wrote_it() -> None:
    assert str(Reply(550, "5.1.1", "No such user")) == "550 5.1.1 No such user"
    assert str(Reply(421, None, "")) == "421"


@given(st.text())
def test_clean_text_is_one_short_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= MAX_TEXT


@given(
    st.lists(
        st.tuples(
            st.integers(200, 599),
            st.lists(st.sampled_from(["", "a", "2.1.0 b", "ж"]), min_size=1, max_size=4),
        ),
        max_size=5,
    ),
    st.data(),
)
def test_the_pieces_in_which_bytes_come_do_not_matter(
    replies: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    stream = b"".join(
        f"{code}{' ' if place == len(lines) - 1 else '-'}{line}\r\n".encode()
        for code, lines in replies
        for place, line in enumerate(lines)
    )
    whole = parse(stream)
    assert [reply.code for reply in whole] == [code for code, _ in replies]
    parser = ReplyParser()
    pieces: list[Reply] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        pieces += parser.feed(stream[:size])
        stream = stream[size:]
    assert pieces == whole
