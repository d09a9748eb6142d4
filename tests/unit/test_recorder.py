"""Files of notes: locked, deleted only when all is done, and no permission on a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mailsender.journal import record as notes
from mailsender.journal.file import STEP
from mailsender.journal.journal import FileRecorder
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.model.ports import Rejected

PLACE = notes.place(["host"])
ONE, TWO, TOKEN = "1" * 24, "2" * 24, "a" * 32


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.notes"))


def test_what_was_noted_can_be_read_and_a_living_ones_file_is_locked(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path, PLACE)
    assert recorder.dot(TOKEN, ONE, 0, 1)
    assert recorder.dot(TOKEN, TWO, 0, 2)
    [path] = files(tmp_path)
    stories = notes.Stories(PLACE)
    stories.add(path.read_bytes())
    assert [(s.letter_id, s.dots) for s in stories.open()] == [(ONE, [(0, 1)]), (TWO, [(0, 2)])]
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    recorder.close()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_is_deleted_only_when_all_that_it_names_is_done(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path, PLACE, segment=2 * notes.SIZE)
    recorder.dot(TOKEN, ONE, 0, 1)
    recorder.dot(TOKEN, TWO, 0, 1)
    first = files(tmp_path)
    recorder.done({TOKEN: [ONE]})
    assert first[0].exists()
    recorder.done({TOKEN: [TWO]})
    assert not first[0].exists()
    recorder.close()
    assert files(tmp_path) == []


def test_a_reply_of_more_notes_than_a_file_holds_gets_a_file_of_its_size(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path, PLACE, segment=2 * notes.SIZE)
    verdicts = [Verdict.ACCEPTED, Verdict.REFUSED] * 3
    recorder.dot(TOKEN, ONE, 0, len(verdicts))
    results = [Result(verdict=each, phase=Phase.DOT, code=250) for each in verdicts]
    assert recorder.replied(TOKEN, ONE, 0, results)
    stories = notes.Stories(PLACE)
    for path in files(tmp_path):
        stories.add(path.read_bytes())
    [story] = stories.open()
    assert [story.results[index].verdict for index in range(len(verdicts))] == verdicts
    recorder.close()


def test_no_dot_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = FileRecorder(tmp_path, PLACE)

    def full(descriptor: int, octets: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        assert not recorder.dot(TOKEN, ONE, 0, 1)
        assert not recorder.writable()
        assert recorder.trouble == "No space left on device"
    assert recorder.writable()
    assert recorder.trouble == ""
    assert recorder.dot(TOKEN, ONE, 0, 1)
    recorder.close()


def test_on_a_disk_that_fills_up_no_dot_is_without_room_for_its_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = FileRecorder(tmp_path, PLACE)
    write = os.pwrite
    left = STEP * 2

    def filling(descriptor: int, octets: bytes, at: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, octets[: min(left, STEP * 3 // 4)], at)
        left -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", filling)
        noted = [recorder.dot(TOKEN, ONE, index, 1) for index in range(3 * STEP // notes.SIZE)]
    assert noted == [True] * (2 * STEP // notes.SIZE) + [False] * (STEP // notes.SIZE)
    assert recorder.dot(TOKEN, ONE, len(noted), 1)
    [path] = files(tmp_path)
    stories = notes.Stories(PLACE)
    stories.add(path.read_bytes())
    [story] = stories.open()
    assert [start for start, _ in story.dots] == [*range(2 * STEP // notes.SIZE), len(noted)]
    recorder.close()


def test_a_file_of_the_living_is_not_larger_on_the_disk_than_its_notes_and_a_step(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path, PLACE)
    recorder.prepare()
    [path] = files(tmp_path)
    assert path.stat().st_blocks * 512 <= STEP
    recorder.close()


def dead(directory: Path, place: bytes = PLACE) -> str:
    """A process that died after the dots of two letters, one of which was answered; its run."""
    recorder = FileRecorder(directory, place)
    recorder.prepare()
    recorder.dot(TOKEN, ONE, 0, 1)
    recorder.dot(TOKEN, TWO, 0, 1)
    recorder.replied(TOKEN, TWO, 0, [Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)])
    recorder.close()
    return recorder.run


def test_what_the_dead_left_is_told_and_deleted_when_it_is_dealt_with(tmp_path: Path) -> None:
    run = dead(tmp_path)
    heir = FileRecorder(tmp_path, PLACE)
    heir.prepare()
    left = heir.left_behind()
    assert left.runs == [run]
    assert [(s.letter_id, s.outcome(["a"])["a"].verdict) for s in left.stories] == [
        (ONE, Verdict.UNCERTAIN),
        (TWO, Verdict.ACCEPTED),
    ]
    assert FileRecorder(tmp_path, PLACE).left_behind() == notes.LeftBehind(stories=[], runs=[])
    heir.forget()
    heir.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_dealt_with_is_told_again(tmp_path: Path) -> None:
    run = dead(tmp_path)
    heir = FileRecorder(tmp_path, PLACE)
    heir.left_behind()
    heir.close()
    assert FileRecorder(tmp_path, PLACE).left_behind().runs == [run]


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    living = FileRecorder(tmp_path, PLACE)
    living.prepare()
    living.dot(TOKEN, ONE, 0, 1)
    heir = FileRecorder(tmp_path, PLACE)
    assert heir.left_behind() == notes.LeftBehind(stories=[], runs=[])
    heir.forget()
    assert len(files(tmp_path)) == 1


def test_a_damaged_file_is_set_aside_with_its_run(tmp_path: Path) -> None:
    run = dead(tmp_path)
    [path] = files(tmp_path)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with capture_logs() as events:
        assert FileRecorder(tmp_path, PLACE).left_behind() == notes.LeftBehind(stories=[], runs=[])
    assert [event["event"] for event in events] == ["notes_set_aside"]
    assert [each.name for each in tmp_path.iterdir()] == [f"{run}-000000.unreadable"]


def test_another_places_file_stays_where_it_is(tmp_path: Path) -> None:
    dead(tmp_path, notes.place(["another host"]))
    heir = FileRecorder(tmp_path, PLACE)
    with capture_logs() as events:
        assert heir.left_behind().runs == []
    heir.forget()
    assert [event["event"] for event in events] == ["notes_left"]
    assert len(files(tmp_path)) == 1


def test_a_file_deleted_in_the_meantime_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead(tmp_path)
    [path] = files(tmp_path)
    locking = fcntl.flock

    def lock(descriptor: int, how: int) -> None:
        locking(descriptor, how)
        path.unlink()
        path.write_bytes(b"another's")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", lock)
        assert FileRecorder(tmp_path, PLACE).left_behind().stories == []
    assert path.read_bytes() == b"another's"


def test_a_file_that_never_got_its_name_is_swept(tmp_path: Path) -> None:
    (tmp_path / f".{'0' * 16}-000000").touch()
    FileRecorder(tmp_path, PLACE).left_behind()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Rejected, match="file/state cannot be written"):
        FileRecorder(tmp_path / "file" / "state", PLACE).prepare()
