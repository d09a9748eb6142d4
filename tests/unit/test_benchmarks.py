"""The harness of `make bench`, without what it measures: letters, tables, JSON, and reading /proc."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import goals, letters, table
from benchmarks.__main__ import PAGE, TABLES
from benchmarks.measure import Meter, Round, cpu_seconds, peak_mb, poll, round_size, tree
from mailsender.message.compose import Composer
from mailsender.model.address import parse_address
from mailsender.model.letter import Letter

ROUNDS = {
    "mailsender": [Round(1000, 0.1, 0.05, 0.2, 100), Round(1000, 0.2, 0.06, 0.1, 110)],
    "mailsender, batches of 6": [Round(1000, 0.25, 0.05, 0.2, 90)],
    "other": [Round(500, 0.5, 0.5, 0.0, 30), Round(500, 1.0, 0.25, 0.0, 20), Round(500, 0.25, 1.0, 0.0, 10)],
    "absent": [],
}


def test_body_has_the_size_that_is_asked_for() -> None:
    for size in (letters.BODY_BYTES, 1, 2, 1024, 100 * 1024):
        assert len(letters.body_of(size).encode()) == size


def test_letters_and_messages_are_of_one_size_whatever_their_number() -> None:
    made = [letters.letter(number) for number in (0, 7, 123_456, 99_999_999)]
    assert len({len(json.dumps(each)) for each in made}) == 1
    assert len({len(letters.message(each)) for each in made}) == 1
    assert all(len(each["Addresses"]) == 2 for each in made)


def test_peers_send_as_many_bytes_as_mailsender_does() -> None:
    each = letters.letter(5)
    ours = Composer("Sender", letters.SENDER).compose(
        Letter(id="0" * 24, addresses=tuple(each["Addresses"]), subject=each["Subject"], body=each["Body"]),
        eight_bit=True,
        date=datetime(2026, 1, 1, tzinfo=UTC),
    )
    theirs = letters.message(each)
    assert len(theirs) == len(ours)
    assert theirs.partition(b"\r\n\r\n")[2] == ours.partition(b"\r\n\r\n")[2]


def test_messages_need_no_dot_stuffing_and_end_their_last_line() -> None:
    for size in (letters.BODY_BYTES, 1000, 1001, 102_400):
        text = letters.message(letters.letter(1, body=letters.body_of(size)))
        assert b"\r\n." not in text
        assert text.endswith(b"\r\n")
        assert max(map(len, text.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    ("before", "letters"),
    [([], 60_000), ([Round(60_000, 30.0, 1, 1, 1)], 16_000), ([Round(60_000, 6.0, 1, 1, 1)], 60_000)],
)
def test_a_round_is_no_longer_than_it_has_to_be(before: list[Round], letters: int) -> None:
    assert round_size(60_000, before) == letters


def test_batches_hold_every_letter_once() -> None:
    made = list(letters.batches(20, 6, recipients=3))
    assert [len(batch) for batch in made] == [6, 6, 6, 2]
    assert [each["Token"] for batch in made for each in batch] == [f"{number:08d}" for number in range(20)]
    assert all(parse_address(to) for batch in made for each in batch for to in each["Addresses"])


def test_summary_is_of_medians() -> None:
    assert table.summary("other", ROUNDS["other"]) == {
        "name": "other",
        "letters_per_s": 1000.0,
        "cpu_s_per_1000": 1.0,
        "stores_cpu_s_per_1000": 0.0,
        "rss_mb": 20,
    }


def test_json_has_ours_first_and_nobody_who_was_not_measured() -> None:
    rows = json.loads(table.to_json(table.summaries(ROUNDS)))
    assert [row["name"] for row in rows] == ["mailsender", "mailsender, batches of 6", "other"]
    assert set(rows[0]) == {"name", "letters_per_s", "cpu_s_per_1000", "stores_cpu_s_per_1000", "rss_mb"}


def test_ratio_says_how_many_times_as_fast_ours_is() -> None:
    assert table.ratio(3000, 1000) == "3.00"
    assert table.ratio(3000, 0) == "-"


def test_comparison_shows_median_least_most_and_ratios() -> None:
    skipped = {"absent": "there is no such thing"}
    section = table.comparison(ROUNDS, skipped, ["mailsender", "mailsender, batches of 6"])
    assert section.rows[2] == ["other", "1,000", "500", "2,000", "1.000", "0.000", "20", "7.50", "4.00"]
    assert section.rows[0][-2:] == ["1.00", "0.53"]
    assert "absent is left out: there is no such thing" in section.notes
    lines = [line for line in str(section).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "the table is aligned"


def test_goals_are_ratios_and_cpu_is_that_of_the_reference() -> None:
    ours = {"name": "mailsender", "letters_per_s": 3000.0, "cpu_s_per_1000": 0.2}
    others = [
        {"name": name, "letters_per_s": 1000.0, "cpu_s_per_1000": factor * goals.REFERENCE[name]}
        for name, factor in zip(goals.REFERENCE, (1.5, 3.0, 2.0, 4.0), strict=True)
    ]
    rows = {row[0]: row[1:] for row in goals.beside([ours, *others]).rows}
    assert rows["letters/s, times those of Postfix end to end"] == ["8, at least 5", "3.00"]
    assert rows["CPU of others, times the reference's"] == ["", "2.50 (1.50 to 4.00)"]
    assert rows["CPU s/1000, as the reference would take"] == ["0.10", "0.080"]
    alone = goals.beside([ours])
    assert [row[0] for row in alone.rows] == ["CPU s/1000 here"]


def test_table_replaces_only_what_stands_between_the_markers() -> None:
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    once = table.put_between(page, "| new |")
    assert once == f"before\n{table.BEGIN}\n\n| new |\n\n{table.END}\nafter\n"
    assert table.put_between(once, "| new |") == once
    with pytest.raises(ValueError, match="bench:begin"):
        table.put_between("no markers", "| new |")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_cpu_and_memory_of_a_process_and_its_children_are_read() -> None:
    work = "sum(range(3_000_000))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}']); {work}"
    hold = f"{child}; print('done', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        meter = Meter([process.pid])
        assert process.stdout.readline() == b"done\n"
        made = meter.round(10)
        assert tree(process.pid) == [process.pid]
        assert made.sender_cpu > 0.02, "of the child, too, which has ended"
        assert 2 < peak_mb(process.pid) < 200
        assert tree(os.getpid())[0] == os.getpid()
        assert process.pid in tree(os.getpid())
        assert cpu_seconds([os.getpid()]) > 0
    finally:
        process.communicate()


def test_polling_ends_with_the_condition_or_the_time() -> None:
    asked = iter([False, False, True])
    poll(lambda: next(asked), "third answer", timeout=5, pause=0)
    with pytest.raises(TimeoutError, match="no answer"):
        poll(lambda: False, "answer", timeout=0.01, pause=0)


def test_the_short_form_has_who_how_fast_and_at_what_price() -> None:
    head = ["sender", "letters/s", "min", "CPU s/1000", "peak MB", "mailsender ÷ this", "two ÷ this"]
    compared = table.Section("c", head, [["mailsender", "9", "8", "0.1", "50", "1.00", "1.20"]])
    brief = table.short(compared, table.Section("g", ["what", "goal"], [["speed", "8"]]))
    lines = [re.sub(" +", " ", line) for line in brief.splitlines()]
    assert lines[0] == "| sender | letters/s | CPU s/1000 | peak MB | mailsender ÷ this |"
    assert lines[2] == "| mailsender | 9 | 0.1 | 50 | 1.00 |"
    assert brief.endswith("| speed |    8 |")


def test_both_pages_have_their_markers() -> None:
    for page in (PAGE, TABLES):
        assert table.put_between(page.read_text("utf-8"), "new") != page.read_text("utf-8")
