"""Which text may be stored, and how much room it takes."""

from __future__ import annotations

from sys import getsizeof

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.text import cleaned, octets, storable


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
