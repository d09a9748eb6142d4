"""Where in a TOML document a key stands."""

from __future__ import annotations

import tomllib
import tracemalloc
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.settings.file.bounds import excess
from mailsender.settings.file.lines import Path, lines_of

TEXT = '''\
# a comment with [brackets] and "quotes"
top = 1  # one

[relays.ses]
host = "a # no comment"
rate = ["14/s", # first
  "2000/5m"]
text = """
[no.table]
key = 1
"""
long = \'\'\'
x = "\'\'\'
[relays."gmail.com".'x y']
at.once = true
[[relays.ses.rules]]
code = 454
then = { rate = "50%",  for = "10m" }
[[relays.ses.rules]]
[relays.ses.rules.then]
rate = 1979-05-27T07:32:00Z
[routes . news]
relays = [
  { name = "ses", weight = 3 },
  "b",
]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("relays",), 4),
        (("relays", "ses"), 4),
        (("relays", "ses", "host"), 5),
        (("relays", "ses", "rate"), 6),
        (("relays", "ses", "rate", 0), 6),
        (("relays", "ses", "rate", 1), 7),
        (("relays", "ses", "text"), 8),
        (("relays", "ses", "long"), 12),
        (("relays", "gmail.com", "x y"), 14),
        (("relays", "gmail.com", "x y", "at", "once"), 15),
        (("relays", "ses", "rules", 0), 16),
        (("relays", "ses", "rules", 0, "code"), 17),
        (("relays", "ses", "rules", 0, "then", "for"), 18),
        (("relays", "ses", "rules", 1), 19),
        (("relays", "ses", "rules", 1, "then", "rate"), 21),
        (("routes", "news"), 22),
        (("routes", "news", "relays", 0, "weight"), 24),
        (("routes", "news", "relays", 1), 25),
    ],
)
def test_a_key_stands_on_its_line(path: Path, line: int) -> None:
    tomllib.loads(TEXT)
    assert lines_of(TEXT)[path] == line


def test_what_only_looks_like_a_table_is_none() -> None:
    found = lines_of(TEXT)
    assert ("no",) not in found
    assert ("relays", "ses", "x") not in found


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Of everything in a document."""
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= paths(inner, (*path, index))
    return found


SCALARS = st.one_of(st.text(), st.integers(-1000, 1000), st.booleans(), st.floats(allow_nan=False))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5), st.booleans())
def test_every_key_of_any_document_is_found(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)
    read = tomllib.loads(text)
    found = lines_of(text)
    assert paths(read) == set(found)
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5), st.booleans())
def test_no_document_of_a_usual_size_has_too_much(document: dict[str, Any], multiline: bool) -> None:
    assert excess(tomli_w.dumps(document, multiline_strings=multiline)) is None


MANY = "a." * 40 + "a = [[[[[[[[[[[[[[[[[["


@pytest.mark.parametrize(
    "text",
    [
        f"# {MANY}",
        f"x = '{MANY}'",
        f'x = "\\"{MANY}"',
        f"x = '''\n'{MANY}''\n'''''",
        f'x = """\n""{MANY}\\"""\n"""""',
        f'"{MANY}" = "" # {MANY}',
    ],
)
def test_what_stands_in_quotes_or_in_a_comment_is_no_key(text: str) -> None:
    tomllib.loads(text)
    assert excess(text) is None


@pytest.mark.parametrize("text", [f'x = "a\n{MANY}', f'x = """{MANY}', f"x = '''{MANY}", f"'a\n{MANY}"])
def test_what_stands_behind_the_first_fault_is_left_to_the_parser(text: str) -> None:
    assert excess(text) is None
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)


@pytest.mark.parametrize(
    "text", [" " * 900_000, "#\n" * 400_000, f'x = "{"a" * 900_000}"', f"x = '{'a' * 9**6}'"]
)
def test_a_long_text_takes_no_memory_by_its_characters(text: str) -> None:
    tracemalloc.start()
    try:
        assert excess(text) is None
        lines_of(text)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
