"""What dead processes left in the directory of notes: taken over under a lock, deleted when it is dealt with.

A process is dead when its file's lock is free: numbers of processes come again, and in a container they are
nearly always the same.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import structlog

from mailsender.journal import record as notes

log = structlog.get_logger()


class Estate:
    """The files of notes in `directory` that nobody holds, as long as they belong to `place`."""

    def __init__(self, directory: Path, place: bytes) -> None:
        self._directory = directory
        self._place = place
        self._taken: list[tuple[int, Path]] = []

    def take(self) -> notes.LeftBehind:
        """Hold what dead processes left, and tell what is open in it.

        A file that cannot be read is set aside with a warning: its letters, and all others of its run that
        no readable note names, come back when it is declared dead.
        """
        self.release()
        stories = notes.Stories(self._place)
        untold = set()
        for path in sorted(self._directory.glob("*.notes")):
            try:
                whole = self._take(path, stories)
            except OSError as error:
                log.warning("notes_left", file=path.name, error=error.strerror or str(error), action=_LEASES)
                whole = False
            if not whole:
                untold.add(_run(path))
        self._sweep()
        runs = {_run(path) for _, path in self._taken} - untold
        return notes.LeftBehind(stories=stories.open(), runs=sorted(filter(_RUN.fullmatch, runs)))

    def forget(self) -> None:
        """Delete what was taken."""
        for _, path in self._taken:
            path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of what was taken, for another start."""
        for descriptor, _ in self._taken:
            os.close(descriptor)
        self._taken.clear()

    def _take(self, path: Path, stories: notes.Stories) -> bool:
        """Whether all that it says is told; False, too, when somebody living holds it."""
        descriptor = _locked(path)
        if descriptor is None:
            return False
        try:
            stories.add(path.read_bytes())
        except notes.Foreign as error:
            # Whoever wrote it may come back; here it means nothing.
            os.close(descriptor)
            log.warning("notes_left", file=path.name, error=str(error), action=_LEASES)
        except notes.Unreadable as error:
            path.rename(path.with_suffix(".unreadable"))
            os.close(descriptor)
            log.warning("notes_set_aside", file=path.name, error=str(error), action=_LEASES)
        except OSError:
            os.close(descriptor)
            raise
        else:
            self._taken.append((descriptor, path))
            return True
        return False

    def _sweep(self) -> None:
        """Delete files that were begun and never got their name: nothing was written into them."""
        for path in self._directory.glob(".????????????????-*"):
            descriptor = _locked(path)
            if descriptor is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)


_RUN = re.compile("[0-9a-f]{16}")

_LEASES = "its letters come back when its replica is declared dead"


def _run(path: Path) -> str:
    """The run whose file it is, as tokens begin."""
    return path.name.partition("-")[0]


def _locked(path: Path) -> int | None:
    """The file, locked; None when it belongs to the living or is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another start may have taken and deleted it, between the look into the directory and the lock.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
