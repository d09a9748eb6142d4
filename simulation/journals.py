"""The disk of a host: the journals of its processes, which outlive them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence

from mailsender.journal import record
from mailsender.journal.port import Journal
from mailsender.model.letter import REPLICA_DIGITS, Result
from simulation.loop import Process


class Disk:
    """What processes of a host wrote, by replica."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[Process, list[record.Known]]] = {}


class DiskJournal(Journal):
    """A journal on such a disk. What is written stands there, whatever happens to the process."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._taken: list[str] = []
        self.new_replica()

    def new_replica(self) -> str:
        """See `Journal.new_replica`."""
        self.replica = secrets.token_hex(REPLICA_DIGITS // 2)
        self._disk.files[self.replica] = self._process, []
        return self.replica

    def dot(self, token: str, letter_id: str, start: int, count: int, relay: str) -> bool:
        """See `Journal.dot`."""
        self._write((record.key_of(letter_id, token), start, count, relay, record.UNCERTAIN))
        return True

    def replied(self, token: str, letter_id: str, start: int, results: Sequence[Result], relay: str) -> None:
        """See `Journal.replied`."""
        key = record.key_of(letter_id, token)
        for place, each in enumerate(results, start):
            self._write((key, place, 1, relay, record.unpacked(record.packed(each))))

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:
        """See `Journal.done`: nothing, for nobody looks for what is claimed no more."""

    def left_behind(self) -> tuple[Mapping[bytes, record.Trail], Sequence[str]]:
        """See `Journal.left_behind`."""
        self._taken = [name for name, (process, _) in self._disk.files.items() if process.dead]
        known = [each for name in self._taken for each in self._disk.files[name][1]]
        return record.trails(known), sorted(self._taken)

    def forget(self) -> None:
        """See `Journal.forget`."""
        for each in self._taken:
            self._disk.files.pop(each, None)
        self._taken = []

    def close(self) -> None:
        """See `Journal.close`."""
        if not self._process.dead:
            self._disk.files = {k: v for k, v in self._disk.files.items() if v[0] is not self._process}

    def _write(self, known: record.Known) -> None:
        if not self._process.dead:
            self._disk.files[self.replica][1].append(known)
