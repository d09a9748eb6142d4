"""The suppression list as CSV (RFC 4180), in UTF-8: read block by block, written row by row. Pure.

The first row may name its columns, of `COLUMNS` in any order; others are passed over. Without such a row each
has an address, and perhaps a stream, a reason and so on, in that order. A file of other columns is refused.
An empty `until` stands for the usual time. A row is a line: none goes on over a line's end. Neither the row
that names the columns nor an empty line is counted.
"""

from __future__ import annotations

import csv
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Final

from mailsender.suppression.port import Entry, Source
from mailsender.suppression.rules import NEVER, BadEntry, entry_of

COLUMNS: Final = ("address", "stream", "reason", "source", "since", "until")

MAX_LINE: Final = 4096
"""Characters of a row: more than an address, a stream and a reason have, however they are written."""

MAX_FAULTS: Final = 100
"""Rows of which it is told what is wrong with them; the others are counted."""


_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
"""Octets that are no UTF-8, as the decoder leaves them: no character is decoded to these."""


class BadFile(ValueError):  # noqa: N818  reads better where it is caught
    """None of the rows can be read as it is meant; the message says why."""


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong with a row. `row` is its line in the file; the first one is 1."""

    row: int
    text: str


class Reader:
    """Entries out of blocks of a file, as they come; what is wrong with others is noted and passed over.

    `now` and `life`, in seconds, are for rows that do not say since when and until when they hold. `rows`
    are those that should be entries, and of them `wrong` are none.
    """

    def __init__(self, now: datetime, life: float) -> None:
        self._now = now
        self._life = life
        self._decoder = getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._rest = ""
        self._columns: Sequence[str] = ()
        self._line = 0
        self.rows = 0
        self.wrong = 0
        self.faults: list[RowFault] = []

    def feed(self, block: bytes, *, last: bool = False) -> Iterator[Entry]:
        """The entries that end in this block; behind the `last` one nothing follows.

        Raises:
            BadFile: the first row names a column twice, or has no address where one is and does not say where
                one is. No entry came before it.
        """
        lines = (self._rest + self._decoder.decode(block, last)).split("\n")
        # Of a row that is too long enough is kept to see that it is.
        self._rest = "" if last else lines.pop()[: MAX_LINE + 1]
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            try:
                cells = self._cells(line.removesuffix("\r"))
                if not self._columns and self._name_columns(cells):
                    continue
                entry = self._entry(line, cells)
            except BadEntry as error:
                self._note(str(error))
            else:
                self.rows += 1
                yield entry

    def _cells(self, line: str) -> list[str]:
        if len(line) > MAX_LINE:
            raise BadEntry(f"has more than {MAX_LINE} characters")
        try:
            (cells,) = csv.reader([line], strict=True)
        except (csv.Error, ValueError):
            raise BadEntry(
                "is no row of CSV: a quotation mark is missing, or stands where none may"
            ) from None
        return cells

    def _name_columns(self, cells: Sequence[str]) -> bool:
        """Whether the first row names the columns; they are known from then on."""
        named = [each.strip().casefold() for each in cells]
        self._columns = named if "address" in named else COLUMNS
        if self._columns is not named:
            if "@" not in named[0]:  # of somebody else's columns all the others would be taken for ours
                raise BadFile(
                    "the first row neither begins with an address nor names the columns, of"
                    f" {', '.join(COLUMNS)}, with address among them"
                )
            return False
        if twice := [each for each in COLUMNS if named.count(each) > 1]:
            raise BadFile(f"the column {twice[0]} is named twice")
        return True

    def _entry(self, line: str, cells: Sequence[str]) -> Entry:
        if _NOT_UTF8.search(line):
            raise BadEntry("is not UTF-8")
        row = dict(zip(self._columns, cells, strict=False))
        until = row.get("until", "").strip()
        source = row.get("source", "").strip().casefold() or Source.IMPORT.value
        if source not in set(Source):
            raise BadEntry(f"source: is none of {', '.join(Source)}")
        return entry_of(
            row.get("address", ""),
            stream=row.get("stream", ""),
            reason=row.get("reason", ""),
            source=Source(source),
            since=_time("since", row.get("since", "").strip()) or self._now,
            until=None if not until or until == NEVER else _time("until", until),
            endless=until == NEVER,
            now=self._now,
            life=self._life,
        )

    def _note(self, text: str) -> None:
        self.rows += 1
        self.wrong += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(RowFault(self._line, text))


def _time(column: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadEntry(f"{column}: is no time such as 2026-12-31T23:59:59Z") from None


def head() -> str:
    """The row that names the columns."""
    return _row(COLUMNS)


def row(entry: Entry) -> str:
    """An entry as a row."""
    since = _written(entry.since)
    until = NEVER if entry.until is None else _written(entry.until)
    return _row((entry.address, entry.stream, entry.reason, entry.source.value, since, until))


def _row(cells: Sequence[str]) -> str:
    out = StringIO()
    # Somebody else may have written a line's end into the collection.
    csv.writer(out).writerow([each.replace("\r", " ").replace("\n", " ") for each in cells])
    return out.getvalue()


def _written(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
