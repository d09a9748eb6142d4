"""The suppression list as CSV (RFC 4180), in UTF-8: read block by block, written row by row. Pure.

The first row may name its columns, of `COLUMNS` in any order; others are passed over. Without such a row each
has an address, and perhaps a stream, a reason and so on, in that order. An empty `until` stands for the usual
time. A row is a line: none goes on over a line's end.
"""

from __future__ import annotations

import csv
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong with a row; the first one is 1."""

    row: int
    text: str


class Reader:
    """Entries out of blocks of a file, as they come; what is wrong with others is noted and passed over.

    `now` and `life`, in seconds, are for rows that do not say since when and until when they hold.
    """

    def __init__(self, now: datetime, life: float) -> None:
        self._now = now
        self._life = life
        self._decoder = getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._columns: Sequence[str] = ()
        self.rows = 0
        self.wrong = 0
        self.faults: list[RowFault] = []

    def feed(self, block: bytes, *, last: bool = False) -> Iterator[Entry]:
        """The entries that end in this block; behind the `last` one nothing follows."""
        lines = (self._rest + self._decoder.decode(block, last)).split("\n")
        # Of a row that is too long enough is kept to see that it is.
        self._rest = "" if last else lines.pop()[: MAX_LINE + 1]
        for line in lines:
            self.rows += 1
            if line.strip():
                try:
                    entry = self._entry(line.removesuffix("\r"))
                except BadEntry as error:
                    self._note(str(error))
                else:
                    if entry is not None:
                        yield entry

    def _entry(self, line: str) -> Entry | None:
        """The entry of a row; None of the one that names the columns."""
        if len(line) > MAX_LINE:
            raise BadEntry(f"has more than {MAX_LINE} characters")
        try:
            (cells,) = csv.reader([line], strict=True)
        except (csv.Error, ValueError):
            raise BadEntry(
                "is no row of CSV: a quotation mark is missing, or stands where none may"
            ) from None
        if not self._columns:
            named = [each.strip().casefold() for each in cells]
            self._columns = named if "address" in named else COLUMNS
            if self._columns is named:
                return None
        return self._made(dict(zip(self._columns, cells, strict=False)))

    def _made(self, row: Mapping[str, str]) -> Entry:
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
        self.wrong += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(RowFault(self.rows, text))


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
