"""One file of notes: mapped into memory, so that a note takes no system call, and locked by its writer.

What is written into a shared mapping is in the kernel's hands at once, just as by `write`: it survives the
process, not the power.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

from mailsender.journal.record import SIZE

STEP = 256 * SIZE
"""Octets for which room on the disk is taken at a time. Without it a full disk would end the process
(SIGBUS); with more of it that a disk is full would be noticed late."""


class NoteFile:
    """A new file at `path` with room for `size` octets, its octets zero where nothing is written yet.

    Raises:
        OSError: it cannot be made, or there is no room for it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.names: set[bytes] = set()  # letters that it names and that are not done
        hidden = path.with_name(f".{path.stem}")
        self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # It gets its name when it is locked: nobody can take it for a dead process's.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._descriptor, size)
            self._size, self._room, self._end = size, 0, 0
            self._grow()
            self._map = mmap.mmap(self._descriptor, size)
            hidden.rename(path)
        except OSError:
            hidden.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise

    def has_room(self, octets: int) -> bool:
        """Whether so much more goes into it."""
        return self._end + octets <= self._size

    def put(self, notes: bytes) -> None:
        """Write notes.

        Raises:
            OSError: there is no room on the disk; what was written before stays as it is.
        """
        while self._end + len(notes) > self._room:
            self._grow()
        for at in range(0, len(notes), SIZE):
            start, end = self._end, self._end + SIZE
            # The first octet comes last: until it is there, the note is not.
            self._map[start + 1 : end] = notes[at + 1 : at + SIZE]
            self._map[start] = notes[at]
            self._end = end

    def _grow(self) -> None:
        more = min(STEP, self._size - self._room)
        # Of a disk that is nearly full it takes what there is, and raises the next time.
        self._room += os.pwrite(self._descriptor, bytes(more), self._room)

    def seal(self) -> None:
        """Write nothing more into it; it stays locked."""
        self._map.close()

    def leave(self) -> None:
        """Let go of it, for a successor."""
        self.seal()
        os.close(self._descriptor)

    def delete(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)
        self.leave()
