"""What a file of TOML may have at most, looked at before it is read. Pure.

`tomllib` takes a kilobyte of memory for each part of a key, and time by the square of a key's parts. So a
file of some kilobytes could fill the memory of a service that reads it again while letters are sent. What
comes here may be no TOML at all: what is wrong is left to `tomllib`, which reads no further than there.
"""

from __future__ import annotations

import re
from typing import Final

MOST_PARTS: Final = 16
"""Parts of a key, or of a table's header: three times as many as the longest that there is has."""

MOST_NESTED: Final = 16
"""Arrays and inline tables in one another."""

MOST_WORDS: Final = 50_000
"""Parts of keys, values, arrays and tables of a file. 100 relays with seventy domains each have less."""

LONGEST_WORD: Final = 1000
"""Characters of a key or a number outside quotes; Python makes no number of more than 4,300 digits."""

_BARE: Final = r"[A-Za-z0-9_-]++"
_LINE: Final = r'"(?!"")(?:[^"\\\n]++|\\[^\n])*+"' r"|'(?!'')[^'\n]*+'"
_LINES: Final = r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}+' r"|'''(?:[^']++|'(?!''))*+'{3,5}+"
_TOKEN: Final = re.compile(
    rf"(?P<key>(?:{_BARE}|{_LINE})(?:[ \t]*+\.[ \t]*+(?:{_BARE}|{_LINE}))*+)"
    rf"|(?P<lines>{_LINES})|(?P<open>[\[{{])|(?P<close>[\]}}])|(?P<nothing>#[^\n]*+|[^\"'\[\]{{}}#A-Za-z0-9_-]++)",
    re.DOTALL,
)
_PART: Final = re.compile(rf"{_BARE}|{_LINE}")


def excess(text: str) -> tuple[int, str] | None:
    """The line, from 1, on which `text` has more of something than it may, and what; None: it has not."""
    at = words = nested = 0
    while found := _TOKEN.match(text, at):
        kind, fault = found.lastgroup, ""
        if kind == "key":
            parts = _PART.findall(found[0])
            words += len(parts)
            fault = _key_fault(parts)
        elif kind == "open":
            words, nested = words + 1, nested + 1
            if nested > MOST_NESTED:
                fault = f"more than {MOST_NESTED} arrays and tables stand in one another"
        elif kind == "close":
            nested -= 1
        words += kind == "lines"
        if words > MOST_WORDS:
            fault = f"the file has more than {MOST_WORDS} keys, values, arrays and tables up to here"
        if fault:
            return text.count("\n", 0, at) + 1, fault
        at = found.end()
    return None


def _key_fault(parts: list[str]) -> str:
    """What is wrong with a key, or with a value that is written like one; empty where nothing is."""
    if len(parts) > MOST_PARTS:
        return f"a key has {len(parts)} parts with dots between them; {MOST_PARTS} are allowed"
    if any(len(part) > LONGEST_WORD and part[0] not in "\"'" for part in parts):
        return f"a key or a number has more than {LONGEST_WORD} characters"
    return ""
