"""Files of notes: locked, deleted only when all is done, and no permission on a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mailsender import notes
from mailsender.adapters.recorder import FileRecorder

PLACE = notes.place(["host"])
ONE, TWO, TOKEN = "1" * 24, "2" * 24, "a" * 32


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.notes"))


def test_what_was_noted_can_be_read_and_a_living_ones_file_is_locked(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path, PLACE)
    assert recorder.claimed(TOKEN, [ONE, TWO])
    assert recorder.dot(TOKEN, ONE, 0, 1)
    [path] = files(tmp_path)
    stories = notes.Stories(PLACE)
    stories.add(path.read_bytes())
    assert [(s.letter_id, s.begun) for s in stories.open()] == [(ONE, True), (TWO, False)]
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    recorder.close()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_is_deleted_only_when_all_that_it_names_is_done(tmp_path: Path) -> None:
    recorder = FileRecorder(tmp_path, PLACE, segment=notes.SIZE)
    recorder.claimed(TOKEN, [ONE, TWO])
    first = files(tmp_path)
    recorder.done({TOKEN: [ONE]})
    assert first[0].exists()
    recorder.done({TOKEN: [TWO]})
    assert not first[0].exists()
    recorder.close()
    assert files(tmp_path) == []


def test_no_dot_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = FileRecorder(tmp_path, PLACE)

    def full(descriptor: int, raw: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert not recorder.dot(TOKEN, ONE, 0, 1)
    assert recorder.dot(TOKEN, ONE, 0, 1)
    recorder.close()
