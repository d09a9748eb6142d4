"""Files of notes, held by their living writer's lock, one run after another.

Those of dead processes are taken over in `mailsender.journal.estate`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from mailsender.journal import record as notes
from mailsender.journal.estate import Estate
from mailsender.journal.file import NoteFile
from mailsender.model.letter import Result
from mailsender.model.ports import Rejected

log = structlog.get_logger()

_NOTHING = bytes(28)

SEGMENT = 4 * 1024 * 1024
"""Octets of a file, after which a new one is begun."""


class FileRecorder:
    """`mailsender.journal.port.Notes` of one process in `directory`, in files of about `segment` octets.

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
        self._files: list[NoteFile] = []  # the oldest first
        self._current: NoteFile | None = None
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

    def new_run(self) -> str:
        """See `mailsender.journal.port.Notes`. What is noted so far stays in its files until it is done."""
        self._run = secrets.token_bytes(8)
        self.run = self._run.hex()
        self._pen = notes.Pen(self._run, self._place)
        if self._current is not None:
            self._current.seal()
            self._current = None
        for file in self._files[:]:
            if not file.names:
                self._files.remove(file)
                file.delete()
        return self.run

    def dot(self, token: str, letter_id: str, start: int, count: int) -> bool:
        """Note that the dot of a slice is next; False: it must not be written."""
        key = notes.key(letter_id, token)
        if key is None:
            return True
        return self._write(self._pen.note(notes.DOT, key, start, count), key)

    def replied(self, token: str, letter_id: str, start: int, results: Sequence[Result]) -> bool:
        """Note what the relay said of the recipients from index `start` on."""
        key = notes.key(letter_id, token)
        if key is None:
            return True
        return self._write(self._pen.replies(key, start, results), key)

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:
        """Note that letters, by token, are settled, given back or lost; delete files that name no others."""
        keys = {found for token, ids in ended.items() for each in ids if (found := notes.key(each, token))}
        told: set[bytes] = set().union(*[file.names & keys for file in self._files])
        for key in told:
            self._write(self._pen.note(notes.DONE, key))
        for file in self._files[:]:
            file.names.difference_update(told)
            if not file.names and file is not self._current:
                self._files.remove(file)
                file.delete()

    def writable(self) -> bool:
        """Whether notes can be written; tries it with a note about nothing when the last one could not be."""
        return not self.trouble or self._write(self._pen.note(notes.DONE, _NOTHING))

    def left_behind(self) -> notes.LeftBehind:
        """See `mailsender.journal.port.Notes`."""
        return self._estate.take()

    def forget(self) -> None:
        """See `mailsender.journal.port.Notes`."""
        self._estate.forget()

    def close(self) -> None:
        """Delete what names nobody any more; leave the rest to the next start."""
        for file in self._files:
            if file.names:
                file.leave()
            else:
                file.delete()
        self._files.clear()
        self._current = None
        self._estate.release()

    def _write(self, made: bytes, key: bytes | None = None) -> bool:
        try:
            file = self._current
            if file is None or not file.has_room(len(made)):
                file = self._begin(len(made))
            if key is not None:
                file.names.add(key)
            file.put(made)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        if self.trouble:
            log.info("notes_written_again")
            self.trouble = ""
        return True

    def _begin(self, room: int = 0) -> NoteFile:
        path = self._directory / f"{self.run}-{self._number:06}.notes"
        file = NoteFile(path, max(room, self._segment))
        self._number += 1
        if self._current is not None:
            self._current.seal()
        self._files.append(file)
        self._current = file
        return file

    def _fail(self, reason: str) -> None:
        if not self.trouble:
            log.error(
                "notes_not_written", error=reason, action="no letter is sent until they can be; none is lost"
            )
        self.trouble = reason
