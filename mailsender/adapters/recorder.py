"""Files of notes: written with a bare `os.write`, held by their living writer's lock, one run after another.

Never buffered, so that they survive the process; never fsynced, so not the power. Those of dead processes are
taken over in `mailsender.adapters.estate`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from mailsender import notes
from mailsender.adapters.estate import Estate
from mailsender.letter import Result
from mailsender.ports import Rejected

log = structlog.get_logger()

_NOTHING = bytes(28)

SEGMENT = 4 * 1024 * 1024
"""Octets after which a new file is begun."""


class FileRecorder:
    """`mailsender.notebook.Notes` of one process in `directory`, in files of about `segment` octets.

    A file is deleted when all letters that it names are done and another one is being written.
    """

    def __init__(self, directory: Path, place: bytes, *, segment: int = SEGMENT) -> None:
        self._directory = directory
        self._place = place
        self._segment = segment
        self._run = secrets.token_bytes(8)
        self.run = self._run.hex()
        self._pen = notes.Pen(self._run, place)
        self._estate = Estate(directory, place)
        self._number = 0
        self._files: dict[int, tuple[Path, set[bytes]]] = {}  # by descriptor, the oldest first
        self._current = -1
        self._size = 0
        self.trouble = ""

    def prepare(self) -> None:
        """Make the directory if it is not there, and begin a file, by which a successor knows of this run.

        Raises:
            Rejected: notes cannot be kept there; the text says why.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._begin()
        except OSError as error:
            reason = error.strerror or str(error)
            raise Rejected(f"{self._directory} cannot be written: {reason}") from error

    def dot(self, token: str, letter_id: str, start: int, count: int) -> bool:
        """Note that the dot of a slice is next; False: it must not be written."""
        key = notes.key(letter_id, token)
        if key is None:
            return True
        return self._write([self._pen.note(notes.DOT, key, start, count)], [key])

    def replied(self, token: str, letter_id: str, start: int, results: Sequence[Result]) -> bool:
        """Note what the relay said of the recipients from index `start` on."""
        key = notes.key(letter_id, token)
        if key is None:
            return True
        return self._write([self._pen.replies(key, start, results)], [key])

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:
        """Note that letters, by token, are settled, given back or lost; delete files that name no others."""
        keys = {found for token, ids in ended.items() for each in ids if (found := notes.key(each, token))}
        told: set[bytes] = set().union(*[names & keys for _, names in self._files.values()])
        note = self._pen.note
        self._write([note(notes.DONE, key) for key in told], [])
        for descriptor, (path, names) in list(self._files.items()):
            names.difference_update(told)
            if not names and descriptor != self._current:
                self._delete(descriptor, path)

    def writable(self) -> bool:
        """Whether notes can be written; tries it with a note about nothing when the last one could not be."""
        return not self.trouble or self._write([self._pen.note(notes.DONE, _NOTHING)], [])

    def left_behind(self) -> notes.LeftBehind:
        """See `mailsender.notebook.Notes`."""
        return self._estate.take()

    def forget(self) -> None:
        """See `mailsender.notebook.Notes`."""
        self._estate.forget()

    def close(self) -> None:
        """Delete what names nobody any more; leave the rest to the next start."""
        for descriptor, (path, names) in list(self._files.items()):
            if names:
                os.close(descriptor)
                del self._files[descriptor]
            else:
                self._delete(descriptor, path)
        self._current = -1
        self._estate.release()

    def _write(self, made: Sequence[bytes], keys: Iterable[bytes]) -> bool:
        if not made:
            return True
        raw = b"".join(made)
        try:
            if self._current < 0 or self._size >= self._segment:
                self._begin()
            self._files[self._current][1].update(keys)
            written = os.write(self._current, raw)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        self._size += written
        if written != len(raw):
            self._current = -1  # its end is torn: nothing may follow there
            self._fail("only a part was written")
            return False
        if self.trouble:
            log.info("notes_written_again")
            self.trouble = ""
        return True

    def _begin(self) -> None:
        name = f"{self.run}-{self._number:06}"
        path, hidden = self._directory / f"{name}.notes", self._directory / f".{name}"
        self._number += 1
        descriptor = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # It gets its name when it is locked: nobody can take it for a dead process's.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(path)
        except OSError:
            os.close(descriptor)
            raise
        self._files[descriptor] = (path, set())
        self._current, self._size = descriptor, 0

    def _delete(self, descriptor: int, path: Path) -> None:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        del self._files[descriptor]

    def _fail(self, reason: str) -> None:
        if not self.trouble:
            log.error(
                "notes_not_written", error=reason, action="no letter is sent until they can be; none is lost"
            )
        self.trouble = reason
