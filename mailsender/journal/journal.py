"""A journal in files: those of this process, and those that dead ones left in the same directory."""

# ruff: noqa: D102  what is public stands in `port`

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from mailsender.journal import record
from mailsender.journal.file import JournalFile
from mailsender.model.letter import REPLICA_DIGITS, Result

log = structlog.get_logger()

SEGMENT = 2 * 1024 * 1024
"""Octets of a file, after which a new one is begun: about 23,000 letters."""

_FILES = f"{'?' * REPLICA_DIGITS}-*.journal"
_UNCERTAIN = record.packed(record.UNCERTAIN)
_COME_BACK = "its letters come back when its replica is declared dead"


class FileJournal:
    """`mailsender.journal.port.Journal` of one process in `directory`, in files of about `segment` octets.

    The last one is written; another one is deleted when all letters that it names are done.

    Raises:
        OSError: no file can be written there.
    """

    def __init__(self, directory: Path, place: bytes, *, segment: int = SEGMENT) -> None:
        self.replica = secrets.token_hex(REPLICA_DIGITS // 2)
        self.trouble = ""
        self._directory = directory
        self._place = place
        self._segment = segment
        self._number = 0
        self._files: list[JournalFile] = []
        self._taken: list[JournalFile] = []
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._begin()  # a successor knows of us by it

    def new_replica(self) -> str:
        self.replica = secrets.token_hex(REPLICA_DIGITS // 2)
        self._try_anew()
        return self.replica

    def writable(self) -> bool:
        return not self.trouble or self._try_anew()

    def dot(self, token: str, letter_id: str, start: int, count: int, relay: str) -> bool:
        return self._write(record.key_of(letter_id, token), start, count, _UNCERTAIN, relay)

    def replied(self, token: str, letter_id: str, start: int, results: Sequence[Result], relay: str) -> None:
        key = record.key_of(letter_id, token)
        for file in self._files:
            if key in file.names:
                break
        else:
            return  # it was given away meanwhile: a record that nobody declares done would keep its file
        count, said = 0, 0
        for result in results:
            code = record.packed(result)
            if count and code != said:
                self._write(key, start, count, said, relay)
                start, count = start + count, 0
            count, said = count + 1, code
        self._write(key, start, count, said, relay)

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:
        keys = {record.key_of(each, token) for token, ids in ended.items() for each in ids}
        for file in self._files[:]:
            file.names -= keys
            if not file.names and file is not self._files[-1]:
                self._files.remove(file)
                file.delete()

    def left_behind(self) -> tuple[Mapping[bytes, record.Trail], Sequence[str]]:
        known: list[record.Known] = []
        replicas, untold = set(), set()
        for path in sorted(self._directory.glob(_FILES)):
            replicas.add(path.name[:REPLICA_DIGITS])
            told = self._take(path)
            if told is None:
                untold.add(path.name[:REPLICA_DIGITS])
            else:
                known += told
        return record.trails(known), sorted(replicas - untold)

    def forget(self) -> None:
        for file in self._taken:
            file.delete()
        self._taken.clear()

    def close(self) -> None:
        for file in self._files:
            if file.names:
                file.release()
            else:
                file.delete()
        for file in self._taken:
            file.release()
        self._files.clear()
        self._taken.clear()

    def _write(self, key: bytes, start: int, count: int, said: int, relay: str) -> bool:
        """Write what is known of so many recipients; False: it could not be done."""
        try:
            if self._files[-1].size >= self._segment:
                self._begin()
            file = self._files[-1]
            number = file.relays.get(relay, 0)
            if not number:
                number = len(file.relays) + 1
                file.append(record.named(number, relay))
                file.relays[relay] = number
            file.append(record.known(number, key, start, count, said))
        except OSError as error:
            self._fail(error)
            return False
        file.names.add(key)
        return True

    def _begin(self) -> None:
        # It gets its name when it is locked and has its head: nobody can take it for a dead process's. Who is
        # killed meanwhile leaves one without a name, at which nobody looks.
        path = self._directory / f"{self.replica}-{self._number:06}.begun"
        file = JournalFile(path, new=True)
        try:
            file.append(record.head(self._place))
            file.rename(path.with_suffix(".journal"))
        except OSError:
            file.delete()
            raise
        self._number += 1
        self._files.append(file)
        self.done({})

    def _try_anew(self) -> bool:
        try:
            self._begin()
        except OSError as error:
            self._fail(error)
            return False
        if self.trouble:
            log.info("journal_written_again")
            self.trouble = ""
        return True

    def _fail(self, error: OSError) -> None:
        if not self.trouble:
            action = "no letter is sent until it can be; none is lost"
            log.error("journal_not_written", error=_reason(error), action=action)
        self.trouble = _reason(error)

    def _take(self, path: Path) -> list[record.Known] | None:
        """Hold the file of a dead process, and tell what it says; None where that is not for us to know."""
        file = None
        try:
            file = JournalFile(path)
            told = record.read(path.read_bytes(), self._place)
        except (BlockingIOError, FileNotFoundError):
            return None  # somebody living has it, or another start has dealt with it
        except (OSError, record.Foreign) as error:
            # Whoever wrote it may come back; here it means nothing.
            log.warning("journal_left", file=path.name, error=_reason(error), action=_COME_BACK)
        except record.Unreadable as error:
            path.rename(path.with_suffix(".unreadable"))
            log.warning("journal_set_aside", file=path.name, error=str(error), action=_COME_BACK)
        else:
            self._taken.append(file)
            return told
        if file is not None:
            file.release()
        return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
