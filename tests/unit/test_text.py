"""Which text may be stored, and how much room it takes."""

from __future__ import annotations

from sys import getsizeof

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.model.text import PIECE, cleaned, octets, storable, utf8_pieces


@given(st.text())
def test_octets_are_those_of_utf_8(text: str) -> None:
    assert octets(text) == len(text.encode())


@given(st.text(), st.characters(categories=["Cs"]), st.text())
def test_half_a_surrogate_pair_has_none(before: str, half: str, after: str) -> None:
    text = before + half + after
    with pytest.raises(UnicodeEncodeError):
        octets(text)
    assert not storable(text)
    assert storable(cleaned(text))


def test_a_text_is_encoded_once() -> None:
    text = "письмо " * 1000
    before = getsizeof(text)
    size = octets(text)
    assert getsizeof(text) >= before + size  # it lies beside the text now
    assert octets(text) == size


NEAR_AN_END = st.sampled_from(
    [0, 1, 7, PIECE // 2, PIECE - 3, PIECE - 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE]
)
LONG_TEXT = st.lists(
    st.tuples(NEAR_AN_END, st.sampled_from(["\n", "\r\n", "\r", "ж\n", "€", "😀", "\0", "\n.", ""])),
    max_size=5,
).map(lambda parts: "".join("x" * gap + odd for gap, odd in parts))


@settings(max_examples=50)
@given(LONG_TEXT)
def test_pieces_of_a_text_are_all_of_it_and_end_where_lines_do(text: str) -> None:
    pieces = list(utf8_pieces(text))
    assert b"".join(pieces) == text.encode()
    for piece in pieces[:-1]:
        assert 0 < len(piece) <= PIECE
        assert piece.endswith(b"\n") or (len(piece) == PIECE and b"\n" not in piece)


def test_there_are_no_pieces_of_what_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        list(utf8_pieces("x" * PIECE + "\ud800"))
