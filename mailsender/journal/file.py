"""A file of a journal. A process is dead when its file's lock is free.

Numbers of processes come again, and in a container they are nearly always the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path


class JournalFile:
    """The file at `path`, locked for as long as it is not released.

    `size` is in octets. `relays` are the numbers by which its records name them, `names` the letters in it
    that are not done, by `record.key_of`.

    Raises:
        BlockingIOError: somebody living has it.
        FileNotFoundError: it is gone.
        OSError: it cannot be opened, made or locked.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        self.size = 0
        self.relays: dict[str, int] = {}
        self.names: set[bytes] = set()
        self._descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._descriptor).st_ino != path.stat().st_ino:
                # Another start took and deleted it, between the look into the directory and the lock.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError:
            os.close(self._descriptor)
            raise

    def append(self, records: bytes) -> None:
        """Write records: they survive the process, for the page cache is the kernel's, though not the power.

        Raises:
            OSError: they could not be written; what was written before stays as it is.
        """
        written = os.pwrite(self._descriptor, records, self.size)
        if written < len(records):
            # A disk that is nearly full took what it could: no half of a record may stand before others.
            os.ftruncate(self._descriptor, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def rename(self, path: Path) -> None:
        """Give it another name."""
        self.path = self.path.rename(path)

    def release(self) -> None:
        """Let a successor have it."""
        os.close(self._descriptor)

    def delete(self) -> None:
        """Delete it, if that can be done: what it names is done, so that nobody will take it for news."""
        with suppress(OSError):
            self.path.unlink()
        self.release()
