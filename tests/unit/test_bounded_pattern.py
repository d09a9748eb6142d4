"""What an operator's regular expression may be: whatever a relay writes, it ends soon."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.text import MAX_TEXT
from mailsender.routing.bounded_pattern import MAX_PATTERN, BadPattern, compiled

TAKEN = [
    ("rate", "the RATE is exceeded"),
    ("DKIM domain|SPF domain", "from your SPF domain"),
    (r"\[TSS?0[0-9]\].{0,100}deferred", "421 [TSS04] Messages from 192.0.2.1 temporarily deferred"),
    (r"^too (many|much) mail", "too much mail from"),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", "from 192.0.2.1 of"),
    ("a.*b", "xa----b"),
    ("(?:try )?again", "try again"),
    (r"[^\]]+\]", "x]"),
    ("[]a]", "]"),
    ("x{2}", "axxb"),
    (r"\(c\)", "(c)"),
]


@pytest.mark.parametrize(("pattern", "text"), TAKEN)
def test_it_is_found_whatever_its_case(pattern: str, text: str) -> None:
    assert compiled(pattern).search(text.swapcase())
    assert not compiled(pattern).search("~")


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|a)*b",
        "(?:a*)*",
        "(a){2,9}",
        ".*a.*b",
        "a{0,40}b{0,40}c{0,40}",
        "(a|b|c)?(a|b|c)?(a|b|c)?(a|b|c)?(a|b|c)?(a|b|c)?",
        "(?=a)b",
        "(?P<x>a)",
        "(?i)a",
        r"(a)\1",
        "a**",
        "a++",
        "(a",
        "a)",
        "[a",
        "*",
        "a{2",
        "x" * (MAX_PATTERN + 1),
        "a{1,999}b{1,999}",
        "(" * 90 + ")" * 90 + "*",
        "[[",
        "[a--b]",
        "[a&&b]",
    ],
)
def test_what_may_take_long_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compiled(pattern)


@given(st.text("ab.*+?{}()[]|\\0123,^-", max_size=60), st.text("ab01", max_size=MAX_TEXT))
def test_whatever_is_written_is_taken_or_refused(pattern: str, text: str) -> None:
    try:
        found = compiled(pattern)
    except BadPattern:
        return
    assert isinstance(found, re.Pattern)
    found.search(text)


def test_the_most_that_is_taken_ends() -> None:
    """Patterns at the limit, on texts that nearly fit everywhere: without a limit they would not end."""
    for pattern in (r".*\d", "a{0,12}a{0,30}b", "(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)b", ".*aaaaaaaaaaaab"):
        for _ in range(20):
            assert compiled(pattern).search("a" * MAX_TEXT) is None
