"""On which line of a TOML document each key stands. Pure.

`tomllib` keeps no lines, and a complaint without one is a search in a file of hundreds. What comes here has
been read by `tomllib` before, so it is taken for right, and nothing is checked twice.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys from the outside in; a number is a place in an array, from 0."""

# A repetition that gives nothing back keeps no places to go back to, which took a hundred octets a character.
_BLANK: Final = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']++|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\]++|\\.)*+"'
    r"|'[^']*+'",
    re.DOTALL,
)
_REST: Final = re.compile(r"[^,\]}#\r\n]+")
"""A number, a date or a truth value."""


def lines_of(text: str) -> Mapping[Path, int]:
    """The line, from 1, of each table, key and element of an array; `text` is a document that can be read."""
    found = _Reader(text)
    found.document()
    return found.lines


class _Reader:
    """Goes through a document once; `at` is how far it is."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._breaks = [place.start() for place in re.finditer("\n", text)]
        self._elements: Counter[Path] = Counter()  # of arrays of tables

    def document(self) -> None:
        """All of it."""
        table: Path = ()
        self._skip()
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip()

    def _header(self) -> Path:
        """The table whose header stands here."""
        start, array = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        path: Path = ()
        *above, last = self._keys()
        for key in above:
            path = self._newest((*path, key))
        path = (*path, last)
        if array:
            self._elements[path] += 1
        path = self._newest(path)
        self._at += 2 if array else 1
        self._note(path, start)
        return path

    def _newest(self, path: Path) -> Path:
        """The last element so far where `path` is that of an array of tables, else `path`."""
        count = self._elements[path]
        return (*path, count - 1) if count else path

    def _pair(self, table: Path) -> None:
        """A key and its value."""
        start = self._at
        path = (*table, *self._keys())
        self._note(path, start)
        self._at += 1  # the equals sign
        self._skip()
        self._value(path)

    def _keys(self) -> list[str]:
        """A key with its dots, up to what follows it."""
        keys = []
        while True:
            self._skip()
            if (quoted := _STRING.match(self._text, self._at)) is not None:
                keys.append(next(iter(tomllib.loads(f"{quoted[0]} = 0"))))
                self._at = quoted.end()
            else:
                keys.append(self._taken(_BARE))
            self._skip()
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        if self._text[self._at] == "[":
            self._array(path)
        elif self._text[self._at] == "{":
            self._inline(path)
        elif (string := _STRING.match(self._text, self._at)) is not None:
            self._at = string.end()
        else:
            self._taken(_REST)

    def _array(self, path: Path) -> None:
        self._at += 1
        count = 0
        while self._goes_on("]"):
            self._note((*path, count), self._at)
            self._value((*path, count))
            count += 1

    def _inline(self, path: Path) -> None:
        self._at += 1
        while self._goes_on("}"):
            self._pair(path)

    def _goes_on(self, end: str) -> bool:
        """Whether another element comes before the end, behind which it is else."""
        self._skip()
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip()
        if self._text.startswith(end, self._at):
            self._at += 1
            return False
        return True

    def _taken(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None  # noqa: S101  tomllib has read the document
        self._at = found.end()
        return found[0]

    def _skip(self) -> None:
        """Pass over what means nothing."""
        found = _BLANK.match(self._text, self._at)
        assert found is not None  # noqa: S101  it matches nothing, too
        self._at = found.end()

    def _note(self, path: Path, at: int) -> None:
        """Something begins here; tables that are only named on the way begin here as well."""
        line = bisect_left(self._breaks, at) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)
