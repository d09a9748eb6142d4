"""Files of a journal: locked, deleted only when all is done, and no permission on a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mailsender.journal import record
from mailsender.journal.file import JournalFile
from mailsender.journal.journal import FileJournal
from mailsender.model.letter import Phase, Result, Verdict

PLACE = record.place_of(["host"])
ONE, TWO, TOKEN = "1" * 24, "2" * 24, "a" * 32
RELAY = "relay:25"
TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
NOTHING: tuple[dict[bytes, record.Trail], list[str]] = ({}, [])


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.journal"))


def said(path: Path) -> list[tuple[bytes, int, int, Verdict]]:
    known = record.read(path.read_bytes(), PLACE)
    return [(key, start, count, result.verdict) for key, start, count, _, result in known]


def key(letter_id: str) -> bytes:
    return record.key_of(letter_id, TOKEN)


def test_what_was_written_can_be_read_and_a_living_ones_file_is_locked(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE)
    assert journal.dot(TOKEN, ONE, 0, 1, RELAY)
    assert journal.dot(TOKEN, TWO, 0, 2, RELAY)
    journal.replied(TOKEN, ONE, 0, [TAKEN], RELAY)
    [path] = files(tmp_path)
    assert said(path) == [
        (key(ONE), 0, 1, Verdict.UNCERTAIN),
        (key(TWO), 0, 2, Verdict.UNCERTAIN),
        (key(ONE), 0, 1, Verdict.ACCEPTED),
    ]
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    journal.close()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_each_file_says_which_relay_a_letter_went_over(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE, segment=record.HEAD + 4 * record.SIZE)
    for number, relay in enumerate(["a:25", "b:25", "a:25", "b:25"]):
        journal.dot(TOKEN, f"{number:024x}", 0, 1, relay)
    told = [
        [relay for _, _, _, relay, _ in record.read(each.read_bytes(), PLACE)] for each in files(tmp_path)
    ]
    assert told == [["a:25", "b:25"], ["a:25", "b:25"]]
    journal.close()


def test_recipients_of_whom_the_same_was_said_share_a_record(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE)
    later = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=451)
    journal.dot(TOKEN, ONE, 5, 6, RELAY)
    journal.replied(TOKEN, ONE, 5, [TAKEN, TAKEN, later, TAKEN, TAKEN, TAKEN], RELAY)
    [path] = files(tmp_path)
    assert [(start, count, verdict) for _, start, count, verdict in said(path)] == [
        (5, 6, Verdict.UNCERTAIN),
        (5, 2, Verdict.ACCEPTED),
        (7, 1, Verdict.DEFERRED),
        (8, 3, Verdict.ACCEPTED),
    ]
    journal.close()


def test_a_file_is_deleted_only_when_all_that_it_names_is_done(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE, segment=record.HEAD + record.SIZE)
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    first = files(tmp_path)
    journal.dot(TOKEN, TWO, 0, 1, RELAY)
    journal.replied(TOKEN, ONE, 0, [TAKEN], RELAY)
    assert len(files(tmp_path)) == 3
    journal.done({TOKEN: [TWO]})
    assert first[0].exists()
    assert len(files(tmp_path)) == 2
    journal.done({TOKEN: [ONE]})
    assert not first[0].exists()
    journal.close()
    assert files(tmp_path) == []


def test_a_reply_to_what_was_given_away_keeps_no_file(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE)
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    journal.done({TOKEN: [ONE]})
    journal.replied(TOKEN, ONE, 0, [TAKEN], RELAY)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_on_which_nothing_can_be_deleted_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal(tmp_path, PLACE, segment=record.HEAD + record.SIZE)
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    journal.dot(TOKEN, TWO, 0, 1, RELAY)

    def fixed(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fixed)
    journal.done({TOKEN: [ONE, TWO]})
    journal.close()


def refusing(call: Callable[..., int], room: int) -> Callable[..., int]:
    """`os.pwrite` on a disk with room for so many octets yet."""

    def write(descriptor: int, octets: bytes, at: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = call(descriptor, octets[:room], at)
        room -= written
        return written

    return write


def test_no_dot_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal(tmp_path, PLACE)
    with monkeypatch.context() as patched, capture_logs() as events:
        patched.setattr(os, "pwrite", refusing(os.pwrite, 0))
        assert not journal.dot(TOKEN, ONE, 0, 1, RELAY)
        assert not journal.writable()
        assert journal.trouble == "No space left on device"
        assert len(list(tmp_path.iterdir())) == 1
        patched.undo()
        assert journal.writable()
    assert journal.trouble == ""
    assert [event["event"] for event in events] == ["journal_not_written", "journal_written_again"]
    assert journal.dot(TOKEN, ONE, 0, 1, RELAY)
    journal.close()


@pytest.mark.parametrize("part", [1, record.SIZE // 2, record.SIZE - 1])
def test_of_a_record_for_which_there_was_no_room_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    journal = FileJournal(tmp_path, PLACE)
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    [path] = files(tmp_path)
    whole = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refusing(os.pwrite, part))
        assert not journal.dot(TOKEN, TWO, 0, 1, RELAY)
        assert path.read_bytes() == whole
    assert journal.dot(TOKEN, TWO, 0, 1, RELAY)
    assert [each for each, *_ in said(path)] == [key(ONE), key(TWO)]
    journal.close()


@pytest.mark.parametrize("room", [record.SIZE - 1, 2 * record.SIZE - 1])
def test_on_a_disk_that_is_full_a_relays_name_is_written_before_its_number_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    journal = FileJournal(tmp_path, PLACE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refusing(os.pwrite, room))
        assert not journal.dot(TOKEN, ONE, 0, 1, RELAY)
    assert journal.dot(TOKEN, ONE, 0, 1, RELAY)
    [path] = files(tmp_path)
    assert [relay for _, _, _, relay, _ in record.read(path.read_bytes(), PLACE)] == [RELAY]
    journal.close()


def dead(directory: Path, place: bytes = PLACE) -> str:
    """A process that died after the dots of two letters, one of which was answered; its replica ID."""
    journal = FileJournal(directory, place)
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    journal.dot(TOKEN, TWO, 0, 1, RELAY)
    journal.replied(TOKEN, TWO, 0, [TAKEN], RELAY)
    journal.close()
    return journal.replica


def left(directory: Path, place: bytes = PLACE) -> tuple[Mapping[bytes, record.Trail], Sequence[str]]:
    """What a start finds that then ends without having dealt with it."""
    heir = FileJournal(directory, place)
    found = heir.left_behind()
    heir.close()
    return found


def test_what_the_dead_left_is_told_and_deleted_when_it_is_dealt_with(tmp_path: Path) -> None:
    replica = dead(tmp_path)
    heir = FileJournal(tmp_path, PLACE)
    trails, replicas = heir.left_behind()
    assert replicas == [replica]
    found = {each: (trail.relay, trail.outcome(["a"])["a"].verdict) for each, trail in trails.items()}
    assert found == {key(ONE): (RELAY, Verdict.UNCERTAIN), key(TWO): (RELAY, Verdict.ACCEPTED)}
    assert left(tmp_path) == NOTHING, "two at once never take the same"
    heir.forget()
    heir.close()
    assert list(tmp_path.iterdir()) == []


def test_one_that_died_before_its_first_dot_is_known_too(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE)
    [path] = files(tmp_path)
    raw = path.read_bytes()
    journal.close()
    path.write_bytes(raw)
    assert left(tmp_path) == ({}, [journal.replica])


def test_what_was_not_dealt_with_is_told_again(tmp_path: Path) -> None:
    replica = dead(tmp_path)
    assert left(tmp_path)[1] == [replica]
    assert left(tmp_path)[1] == [replica]


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    living = FileJournal(tmp_path, PLACE)
    living.dot(TOKEN, ONE, 0, 1, RELAY)
    before = files(tmp_path)
    heir = FileJournal(tmp_path, PLACE)
    assert heir.left_behind() == NOTHING
    heir.forget()
    heir.close()
    assert files(tmp_path) == before
    living.close()


def test_whoever_was_declared_dead_goes_on_under_another_name(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE)
    first = journal.replica
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    assert journal.new_replica() == journal.replica != first
    assert [path.name[:16] for path in files(tmp_path)].count(first) == 1, "what is not done stays"
    assert journal.dot(TOKEN, TWO, 0, 1, RELAY)
    journal.done({TOKEN: [ONE]})
    [path] = files(tmp_path)
    assert path.name == f"{journal.replica}-000001.journal"
    journal.close()
    trails, replicas = left(tmp_path)
    assert (replicas, list(trails)) == ([journal.replica], [key(TWO)])


@pytest.mark.parametrize("damage", [b"x", b"MSN2"])
def test_a_file_that_cannot_be_read_is_set_aside_with_its_replica(tmp_path: Path, damage: bytes) -> None:
    replica = dead(tmp_path)
    [path] = files(tmp_path)
    path.write_bytes(damage + path.read_bytes()[len(damage) :])
    with capture_logs() as events:
        assert left(tmp_path) == NOTHING
    assert [event["event"] for event in events] == ["journal_set_aside"]
    assert [each.name for each in tmp_path.iterdir()] == [f"{replica}-000000.unreadable"]


def test_of_a_replica_one_of_whose_files_is_damaged_the_others_are_told(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, PLACE, segment=record.HEAD + record.SIZE)
    journal.dot(TOKEN, ONE, 0, 1, RELAY)
    journal.dot(TOKEN, TWO, 0, 1, RELAY)
    journal.close()
    files(tmp_path)[0].write_bytes(b"x")
    trails, replicas = left(tmp_path)
    assert (replicas, list(trails)) == ([], [key(TWO)]), "what it claimed is not known to be unsent"


def test_another_places_file_stays_where_it_is(tmp_path: Path) -> None:
    dead(tmp_path, record.place_of(["another host"]))
    with capture_logs() as events:
        assert left(tmp_path) == NOTHING
    assert [event["event"] for event in events] == ["journal_left"]
    [path] = files(tmp_path)
    JournalFile(path).release()  # nobody holds it


def test_a_file_that_may_not_be_opened_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(tmp_path)
    [path] = files(tmp_path)
    opening = os.open

    def denied(which: Path, flags: int, mode: int) -> int:
        if which == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opening(which, flags, mode)

    heir = FileJournal(tmp_path, PLACE)
    with monkeypatch.context() as patched, capture_logs() as events:
        patched.setattr(os, "open", denied)
        assert heir.left_behind() == NOTHING
    heir.close()
    assert [(each["event"], each["error"]) for each in events] == [("journal_left", "Permission denied")]
    assert len(files(tmp_path)) == 1


def test_a_file_deleted_in_the_meantime_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead(tmp_path)
    [path] = files(tmp_path)
    locking = fcntl.flock

    def lock(descriptor: int, how: int) -> None:
        locking(descriptor, how)
        path.unlink()
        path.write_bytes(b"another's")

    heir = FileJournal(tmp_path, PLACE)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", lock)
        assert heir.left_behind() == NOTHING
    heir.close()
    assert path.read_bytes() == b"another's"


def test_a_file_that_has_no_name_yet_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / f"{'0' * 16}-000000.begun").touch()
    assert left(tmp_path) == NOTHING


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with capture_logs() as events, pytest.raises(OSError, match="Not a directory"):
        FileJournal(tmp_path / "file" / "state", PLACE)
    assert events == []


def test_a_directory_on_a_full_disk_is_refused_and_left_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", refusing(os.pwrite, record.HEAD - 1))
    with pytest.raises(OSError, match="No space left"):
        FileJournal(tmp_path, PLACE)
    assert list(tmp_path.iterdir()) == []
