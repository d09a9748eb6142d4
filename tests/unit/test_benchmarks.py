"""The harness of `make bench`, without what it measures: letters, tables, JSON, and reading /proc."""

from __future__ import annotations

import contextlib
import json
import os
import re
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

import mailsender
from benchmarks import against, driver, goals, letters, table, tls
from benchmarks.__main__ import PAGE, TABLES, _parse
from benchmarks.compare import compare
from benchmarks.measure import Meter, Round, cpu_seconds, peak_mb, poll, round_size, tree
from benchmarks.parts import HERE, ROOT, Stage, Tree, Way
from benchmarks.peers import bare, ours
from benchmarks.stamping_sink import HOST, StampingSink, stamping_sink
from lab.parts import make_certificates
from lab.world import Replica
from mailsender.dev.process import ChildError, PartMissing
from mailsender.message.compose import Composer
from mailsender.model.address import parse_address
from mailsender.model.letter import Letter
from mailsender.settings.environment import Settings

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


# --- ours with one setting changed ---

CLEAR = Round(1000, 0.2, 0.10, 0.1, 100, sink_cpu=0.05)
SECURE = Round(1000, 0.25, 0.12, 0.1, 101, sink_cpu=0.1)


def slower(each: Round, times: float) -> Round:
    """The same on a machine that is so many times as slow."""
    return replace(each, seconds=each.seconds * times, sender_cpu=each.sender_cpu * times)


def a_choice(limit: Round) -> table.Choice:
    rounds = {
        "mailsender in clear": [CLEAR, slower(CLEAR, 3), slower(CLEAR, 2)],
        "mailsender over TLS": [SECURE, slower(SECURE, 3), slower(SECURE, 2)],
    }
    return table.Choice("What TLS costs", rounds, {name: [limit] for name in rounds}, ["a note"])


def test_a_choice_is_compared_round_by_round() -> None:
    section = table.choice(a_choice(Round(1000, 0.025, 0, 0, 0)))
    rows = {row[0]: dict(zip(section.head[1:4], row[1:4], strict=True)) for row in section.rows}
    assert rows["mailsender over TLS"] == {"letters/s": "2,000", "min": "1,333", "max": "4,000"}
    ratios = [(row[4], row[6]) for row in section.rows]
    assert ratios == [("1.00", "1.00"), ("0.80", "1.20")], "however slow the machine was meanwhile"
    assert section.notes[0] == "3 rounds of each, of 1,000 letters, in turn."
    assert section.notes[-1] == "a note"


def test_a_turn_that_was_disturbed_does_not_show_in_the_ratio() -> None:
    """Between the medians of all rounds it would: 1,667 and 5,000."""
    slow = slower(CLEAR, 3)
    made = table.Choice("c", {"a": [CLEAR, slow, CLEAR], "b": [CLEAR, slow, slow]})
    assert made.times("b", table.SPEED) == 1.0


def test_a_table_says_what_the_sink_takes_and_where_that_may_be_the_limit() -> None:
    clear_of_it = table.choice(a_choice(Round(1000, 0.025, 0, 0, 0)))
    assert [row[-1] for row in clear_of_it.rows] == ["40,000", "40,000"]
    assert [row[-2] for row in clear_of_it.rows] == ["12", "20"], "of a core"
    assert not [note for note in clear_of_it.notes if "may be the sink" in note]
    near = table.choice(a_choice(Round(1000, 0.225, 0, 0, 0)))
    said = [note.partition(":")[0] for note in near.notes if "may be the sink" in note]
    assert said == ["mailsender in clear"], "2,500 are sent of 4,444 that can be"


def test_a_sink_whose_limit_was_not_measured_may_be_the_limit() -> None:
    made = a_choice(CLEAR)
    assert replace(made, limits={name: [] for name in made.rounds}).may_be_the_sink("mailsender in clear")


def test_without_a_limit_there_is_no_column_for_it() -> None:
    section = table.choice(replace(a_choice(CLEAR), limits={}))
    assert "sink's limit, letters/s" not in section.head
    assert {len(row) for row in section.rows} == {len(section.head)}


def test_goals_say_what_a_choice_costs() -> None:
    mine = {"name": "mailsender", "letters_per_s": 3000.0, "cpu_s_per_1000": 0.2}
    rows = goals.beside([mine], [a_choice(CLEAR)]).rows
    assert rows[-2:] == [
        ["letters/s over TLS, times those in clear", "", "0.80"],
        ["CPU s/1000 over TLS, times those in clear", "", "1.20"],
    ]


def test_before_and_after_are_compared_measurement_by_measurement() -> None:
    section = table.before_and_after(
        {"batches of 100": ([CLEAR, slower(CLEAR, 2)], [SECURE, slower(SECURE, 2)])}
    )
    assert section.head[:4] == ["letters", "letters/s before", "after", "times"]
    row = ["batches of 100", "3,750", "3,000", "0.80", "0.150", "0.180", "1.20", "0.100", "0.100", "1.00"]
    assert section.rows == [[*row, "100", "101", "1.01"]]


def test_what_is_set_for_a_measurement_are_settings_of_the_service() -> None:
    """A name that it does not know would be ignored, and nothing be compared."""
    given = {*ours.SETTINGS, *Way(StampingSink, 1).settings, "MONGODB_DRIVER"}  # type: ignore[arg-type]
    known = {name.upper() for name in Settings.model_fields}
    assert given <= known
    assert set(get_args(Settings.model_fields["mongodb_driver"].annotation)) == set(driver.DRIVERS.values())
    assert set(get_args(Settings.model_fields["smtp_tls"].annotation)) == set(tls.WAYS.values())


# --- who runs when ---


class Counting:
    """A peer that notes its turns."""

    letters = 5000

    def __init__(self, name: str, turns: list[tuple[str, int]], fails: bool = False) -> None:
        self.name, self._turns, self._fails = name, turns, fails

    def run(self, stage: Stage, letters: int) -> Round:
        self._turns.append((self.name, letters))
        if self._fails:
            raise TimeoutError("no answer")
        return Round(letters, 10.0, 0.1, 0.1, 10)


def test_turns_alternate_and_who_fails_is_left_out(tmp_path: Path) -> None:
    turns: list[tuple[str, int]] = []
    peers = [Counting("mailsender", turns), Counting("b", turns, fails=True), Counting("c", turns)]
    rounds, skipped = compare(Stage(tmp_path), peers, 2)
    assert [name for name, _ in turns] == ["mailsender", "b", "c", "c", "mailsender"]
    assert {name: len(each) for name, each in rounds.items()} == {"mailsender": 2, "b": 0, "c": 2}
    assert skipped == {"b": "no answer"}
    with pytest.raises(TimeoutError):
        compare(Stage(tmp_path), peers, 1, may_fail=False)
    with pytest.raises(TimeoutError):
        compare(Stage(tmp_path), [Counting("mailsender over TLS", turns, fails=True)], 1)


def test_a_small_round_is_not_made_larger(tmp_path: Path) -> None:
    turns: list[tuple[str, int]] = []
    few, many = Counting("few", turns), Counting("many", turns)
    few.letters = 60
    compare(Stage(tmp_path), [few, many], 1, scale=0.01)
    assert turns == [("few", 60), ("many", 1000)]


# --- a sink that speaks TLS ---


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StampingSink]:
    directory = tmp_path_factory.mktemp("sink")
    with stamping_sink(directory, make_certificates(directory)) as made:
        yield made


@pytest.mark.parametrize("mode", tls.WAYS.values())
def test_the_sink_takes_letters_every_way_and_notes_each_once(sink: StampingSink, mode: str) -> None:
    way, before = sink.way(mode), sink.received()
    context = ssl.create_default_context(cafile=sink.ca)
    client: smtplib.SMTP
    if mode == "implicit":
        client = smtplib.SMTP_SSL(HOST, way.port, context=context, timeout=20)
    else:
        client = smtplib.SMTP(HOST, way.port, timeout=20)
    with client:
        client.ehlo()
        assert client.has_extn("starttls") == (mode != "implicit")
        if mode == "starttls":
            client.starttls(context=context)
            client.ehlo()
            assert not client.has_extn("starttls"), "RFC 3207 §4.2: not offered again"
        assert client.has_extn("pipelining")
        for number in range(2):
            each = letters.letter(number)
            client.sendmail(letters.SENDER, each["Addresses"], letters.message(each))
        assert client.sock.version() is not None if isinstance(client.sock, ssl.SSLSocket) else mode == "none"
    assert sink.received() == before + 2
    assert [each.recipient for each in sink.arrivals()[-2:]] == [
        "reader00000000.0@example.test",
        "reader00000001.0@example.test",
    ]


@pytest.mark.parametrize("mode", tls.WAYS.values())
def test_the_bare_client_finds_the_limit_of_every_way(sink: StampingSink, mode: str, tmp_path: Path) -> None:
    before = len(sink.arrivals())
    made = bare.limit("bare", 40, sink.way(mode)).run(Stage(tmp_path), 40)
    assert made.letters == 40
    came = [each.recipient for each in sink.arrivals()[before:]]
    assert sorted(came) == [f"reader{number:08d}.0@example.test" for number in range(40)]


def test_what_comes_with_the_end_of_the_handshake_is_answered_under_tls(sink: StampingSink) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=sink.ca)
    client = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with socket.create_connection((HOST, sink.way("starttls").port), timeout=20) as connection:
        for command in (b"EHLO a.example.test\r\n", b"STARTTLS\r\n"):
            assert connection.recv(4096).startswith(b"2")
            connection.sendall(command)
        assert connection.recv(4096) == b"220 2.0.0 Go ahead\r\n"
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        client.write(b"EHLO a.example.test\r\n")
        connection.sendall(outgoing.read())  # the end of the handshake, and what follows, in one
        assert _read(client, connection, incoming).endswith(b"250 ENHANCEDSTATUSCODES\r\n")


def _read(client: ssl.SSLObject, connection: socket.socket, incoming: ssl.MemoryBIO) -> bytes:
    while True:
        try:
            return client.read()
        except ssl.SSLWantReadError:
            incoming.write(connection.recv(65536))


def test_without_a_certificate_no_tls_is_offered(tmp_path: Path) -> None:
    with stamping_sink(tmp_path) as plain, smtplib.SMTP(HOST, plain.way().port, timeout=20) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert list(plain.ports) == ["none"]


# --- a fast sender that cheats ---


def a_world(sent: int, owed: int = 0, outbox: bool = False, marks: bool = False) -> Any:
    def find(there: bool) -> Any:
        return SimpleNamespace(find_one=lambda *_: {"_id": 1} if there else None)

    kept = SimpleNamespace(
        count_documents=lambda query: sent if query == {"status": "sent"} else owed,
        outbox=find(outbox),
        marks=find(marks),
    )
    return SimpleNamespace(letters=lambda: contextlib.nullcontext(kept))


@pytest.mark.parametrize(
    ("kept", "sunk"),
    [
        (a_world(9), 10),
        (a_world(10), 9),
        (a_world(10), 11),
        (a_world(10, outbox=True), 10),
        (a_world(10, marks=True), 10),
        (a_world(10, owed=1), 10),
    ],
)
def test_a_round_fails_when_a_letter_is_lost_doubled_or_unanswered(kept: Any, sunk: int) -> None:
    ours.check(a_world(10), 10, 10)
    with pytest.raises(ChildError, match="of 10 letters"):
        ours.check(kept, 10, sunk)


def test_which_form_of_the_service_runs_is_read_from_the_kernel() -> None:
    compiled = bool(os.environ.get("MAILSENDER_TEST_COMPILED"))
    here: Any = SimpleNamespace(child=SimpleNamespace(pid=os.getpid()))
    assert Replica.compiled_code(here) == (Path(mailsender.__file__).parents[1] if compiled else None)


# --- another commit ---


def test_the_service_of_another_tree_is_measured_for_a_while(tmp_path: Path) -> None:
    stage, other = Stage(tmp_path), Tree(tmp_path / "other", tmp_path / "compiled")
    seen: list[Path] = []

    class Looking(Counting):
        def run(self, stage: Stage, letters: int) -> Round:
            seen.append(stage.tree.root)
            return super().run(stage, letters)

    before = against.Before(Looking("mailsender", []), other)
    assert before.name == "mailsender, before"
    before.run(stage, 10)
    assert (seen, stage.tree) == ([other.root], HERE)
    with pytest.raises(TimeoutError):
        against.Before(Counting("mailsender", [], fails=True), other).run(stage, 10)
    assert stage.tree == HERE


HOOK = """
import os

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    import zipfile
    if os.environ["MAILSENDER_COMPILE"] != "1" or os.path.exists("broken"):
        raise SystemExit("No compiler here")
    name = "mailsender-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.writestr("mailsender/__init__.py", "")
        info = "mailsender-0.1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: mailsender\\nVersion: 0.1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "hook"
backend-path = ["."]
[project]
name = "mailsender"
version = "0.1.0"
"""


def a_tree(root: Path) -> Path:
    """A checkout that knows how to compile itself, but for one that is `broken`."""
    (root / "mailsender").mkdir(parents=True)
    (root / "mailsender" / "__main__.py").touch()
    (root / "hook.py").write_text(HOOK)
    (root / "pyproject.toml").write_text(PROJECT)
    return root


def test_another_tree_is_compiled_by_its_own_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.against.is_compiled", lambda: True)
    root, room = a_tree(tmp_path / "old"), tmp_path / "room"
    room.mkdir()
    made = against.other_tree(root, room)
    assert made.code() == room / "compiled"
    assert (made.code() / "mailsender" / "__init__.py").is_file()
    assert made.code(plain=True) == root
    (root / "broken").touch()
    with pytest.raises(PartMissing, match=r"(?s)cannot be compiled: .*"):
        against.other_tree(root, room)


def test_another_tree_is_taken_as_it_is_where_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.against.is_compiled", lambda: False)
    assert against.other_tree(a_tree(tmp_path / "old"), tmp_path).code() == tmp_path / "old"
    with pytest.raises(PartMissing, match="no checkout of mailsender"):
        against.other_tree(tmp_path, tmp_path)
    with pytest.raises(PartMissing, match="is this tree"):
        against.other_tree(ROOT, tmp_path)


@pytest.mark.parametrize("other", ["--write", "--quick", "--only peers"])
def test_another_tree_is_a_run_of_its_own(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse(["--against", "../old", *other.split()])
    assert "--" in capsys.readouterr().err
    assert _parse(["--against", "../old"]).against == Path("../old")
