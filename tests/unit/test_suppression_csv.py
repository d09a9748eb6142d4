"""The suppression list as CSV: what is read, what is passed over, and that what is written is read again."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.intake.handling import handling_of
from mailsender.message.values import BadKey
from mailsender.model.handling import MAX_STREAM
from mailsender.suppression.csv_text import MAX_FAULTS, MAX_LINE, BadFile, Reader, head, row
from mailsender.suppression.port import Entry, Source
from mailsender.suppression.rules import MAX_REASON, BadEntry, entry_of

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
LIFE = 30 * 86400.0
LATER = NOW + timedelta(seconds=LIFE)


def read(raw: bytes, size: int = 1 << 20) -> tuple[list[Entry], Reader]:
    reader = Reader(NOW, LIFE)
    blocks = [raw[start : start + size] for start in range(0, len(raw), size)]
    found = [each for block in blocks for each in reader.feed(block)]
    return [*found, *reader.feed(b"", last=True)], reader


def test_a_file_of_bare_addresses_is_read() -> None:
    found, reader = read("\ufeffAnn@example.test\r\n\r\n@Пример.рф\r\n bob@example.test".encode())
    assert [each.address for each in found] == [
        "ann@example.test",
        "@xn--e1afmkfd.xn--p1ai",
        "bob@example.test",
    ]
    assert {(each.source, each.stream, each.reason, each.since, each.until) for each in found} == {
        (Source.IMPORT, "", "", NOW, LATER)
    }
    assert (reader.rows, reader.wrong) == (3, 0)


def test_columns_are_found_by_their_names() -> None:
    text = (
        "Reason,Address,campaign,STREAM,until,since,source\n"
        '"unsubscribed, ""please""",ann@example.test,x,news,never,2025-01-01,bounce\n'
        ",bob@example.test,,,2026-12-31T23:59:59+03:00,,\n"
    )
    ann, bob = read(text.encode())[0]
    assert (ann.key, ann.reason, ann.until) == ("ann@example.test news", 'unsubscribed, "please"', None)
    assert (ann.since, ann.source) == (datetime(2025, 1, 1, tzinfo=UTC), Source.BOUNCE)
    assert (bob.until, bob.since) == (datetime(2026, 12, 31, 20, 59, 59, tzinfo=UTC), NOW)


NO_STREAM = (
    "stream: no letter can have it; one has letters, digits, '.', '-' and '_' alone, of ASCII, up to 64"
)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nobody", "address: it has no @"),
        ('"ann@example.test', "is no row of CSV: a quotation mark is missing, or stands where none may"),
        ("ann@example.test,,,gossip", "source: is none of refusal, bounce, operator, import"),
        ("ann@example.test,,,,,soon", "until: is no time such as 2026-12-31T23:59:59Z"),
        ("ann@example.test,,,,,2020-01-01", "until: lies in the past"),
        ("ann@example.test,,,,0001-01-01T00:00:00+10:00", "since: is no time such as 2026-12-31T23:59:59Z"),
        (f"ann@example.test,{'s' * (MAX_STREAM + 1)}", NO_STREAM),
        ("ann@example.test,news letter", NO_STREAM),
        ("ann@example.test,bob@example.test", NO_STREAM),
        ("*@example.test", "address: * does not stand for others; @example.test is all of the domain"),
        ("%@example.test", "address: % does not stand for others; @example.test is all of the domain"),
        ("@*.example.test", "address: its domain is not a valid name"),
        (f"ann@example.test,,{'r' * MAX_LINE}", "has more than 4096 characters"),
    ],
)
def test_a_wrong_row_is_passed_over_and_named(line: str, text: str) -> None:
    found, reader = read(f"ann@example.test\n{line}\nbob@example.test\n".encode())
    assert [each.address for each in found] == ["ann@example.test", "bob@example.test"]
    assert [(each.row, each.text) for each in reader.faults] == [(2, text)]


@pytest.mark.parametrize("wrong", [b"a\xe9@x.example", b"a@x.example,,caf\xc3", b"\xff\xfea@x.example"])
def test_a_row_that_is_not_utf8_is_wrong(wrong: bytes) -> None:
    found, reader = read(b"address,stream,reason\n\n" + wrong + b"\nbob@x.example\n")
    assert [each.address for each in found] == ["bob@x.example"]
    assert [(each.row, each.text) for each in reader.faults] == [(3, "is not UTF-8")]
    assert (reader.rows, reader.wrong) == (2, 1)


def test_the_first_row_names_columns_whatever_else_stands_in_it() -> None:
    found, _ = read("address,prénom,stream\nann@x.example,Ann,news\n".encode("latin-1"))
    assert [each.key for each in found] == ["ann@x.example news"]


@pytest.mark.parametrize("columns", ["address,address", "stream,address,reason,Stream "])
def test_a_file_that_names_a_column_twice_is_refused(columns: str) -> None:
    with pytest.raises(BadFile, match=r"the column (address|stream) is named twice"):
        read(f"{columns}\nann@x.example,bob@x.example\n".encode())


@pytest.mark.parametrize(
    "columns", ["email,reason", "EmailAddress,Reason,Created", "Name,e-mail", "addresses", ",ann@x.example"]
)
def test_a_file_of_somebody_elses_columns_is_refused(columns: str) -> None:
    """Else each row would be put there with its reason for a stream, and nobody be suppressed."""
    with pytest.raises(BadFile, match="neither begins with an address nor names the columns, of address, "):
        read(f"\n{columns}\nann@x.example,BOUNCE\n".encode())


def test_a_first_row_that_is_wrong_is_passed_over_like_others() -> None:
    found, reader = read(b"ann@,,gone\nbob@x.example,,gone\n")
    assert [each.address for each in found] == ["bob@x.example"]
    assert [each.row for each in reader.faults] == [1]


@given(st.text(max_size=MAX_STREAM + 3))
def test_an_entry_has_the_streams_that_letters_have(stream: str) -> None:
    stream = stream.strip()
    try:
        taken = handling_of({"Stream": stream}).stream == stream
    except BadKey:
        taken = False
    try:
        made = entry_of("a@x.example", stream=stream, source=Source.IMPORT, since=NOW, now=NOW, life=LIFE)
        assert made.stream == stream
        assert taken
    except BadEntry:
        assert not taken


@given(st.binary(max_size=400))
def test_each_row_is_put_or_wrong(raw: bytes) -> None:
    found, reader = read(b"ann@example.test\n" + raw)
    assert reader.rows == len(found) + reader.wrong


def test_of_many_wrong_rows_the_first_are_named_and_all_are_counted() -> None:
    _, reader = read(b"nobody@\n" * (MAX_FAULTS + 5))
    assert (reader.wrong, len(reader.faults)) == (MAX_FAULTS + 5, MAX_FAULTS)


def test_a_line_without_an_end_takes_no_memory() -> None:
    reader = Reader(NOW, LIFE)
    for _ in range(100):
        assert list(reader.feed(b"x" * 65536)) == []
    assert len(reader._rest) <= MAX_LINE + 1
    assert list(reader.feed(b"\nann@example.test\n")) != []
    assert reader.wrong == 1


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_how_a_file_is_cut_into_blocks_makes_no_difference(raw: bytes, size: int) -> None:
    raw = b"ann@example.test\n" + raw
    whole, first = read(raw)
    parts, second = read(raw, size)
    assert whole == parts
    assert first.faults == second.faults


_TEXTS = st.text(max_size=MAX_REASON + 20)
_TIMES = st.integers(1, 10**10).map(lambda more: NOW + timedelta(milliseconds=more))


@settings(max_examples=60, deadline=None)
@given(
    address=st.sampled_from(["Ann@example.test", "@example.test", "=1+1@example.test", "ё@пример.рф", "x"]),
    stream=st.sampled_from(["", "news", "a.b-c_D"]) | _TEXTS,
    reason=_TEXTS,
    source=st.sampled_from(Source),
    since=_TIMES,
    until=st.none() | _TIMES,
    endless=st.booleans(),
)
def test_what_is_written_is_read_again(
    address: str,
    stream: str,
    reason: str,
    source: Source,
    since: datetime,
    until: datetime | None,
    endless: bool,
) -> None:
    try:
        made = entry_of(
            address,
            stream=stream,
            reason=reason,
            source=source,
            since=since,
            until=until,
            endless=endless,
            now=NOW,
            life=LIFE,
        )
    except BadEntry:
        return
    made.reason.encode()
    assert len(made.reason) <= MAX_REASON
    text = head() + row(made)
    assert len(list(csv.reader(text.splitlines()))) == 2
    found, reader = read(text.encode())
    assert (found, reader.faults) == ([made], [])
