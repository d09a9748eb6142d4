"""Where a process writes what it does with letters in flight, as a port."""

# ruff: noqa: ARG002  where no journal is kept nothing is done with what is told

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mailsender.journal.record import Trail
from mailsender.model.letter import Result


class Journal(Protocol):
    """What a process writes about letters in flight, so that its successor knows what it did.

    It outlives the process once a call returns, though not the machine. No call waits, and none raises: a
    journal is advice, and a letter without one is given back once its replica is declared dead. The bodies
    are those of `NoJournal`.
    """

    replica: str = ""
    """The replica ID with which the tokens of our claims begin; none where nobody asks."""

    trouble: str = ""
    """Why it cannot be written, for readiness and status; empty when all is well."""

    def new_replica(self) -> str:
        """Another replica ID from now on, for the letters under the one before are others'."""
        return ""

    def writable(self) -> bool:
        """Whether it can be written; tries it anew when it last could not be."""
        return True

    def dot(self, token: str, letter_id: str, start: int, count: int, relay: str) -> bool:
        """The final dot is about to be written to `relay` for `count` of `Letter.everybody`, from `start` on.

        False: that could not be written down, so the dot must not be written.
        """
        return True

    def replied(self, token: str, letter_id: str, start: int, results: Sequence[Result], relay: str) -> None:
        """The reply to that dot, for one recipient at least."""
        return

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:
        """Letters, by token, are durably settled, given back or lost."""
        return

    def left_behind(self) -> tuple[Mapping[bytes, Trail], Sequence[str]]:
        """What dead processes of this place left: trails by `record.key_of`, replicas of whom all is known.

        What these claimed and has no trail was never sent. Nobody else takes it until `forget`.
        """
        return {}, ()

    def forget(self) -> None:
        """What `left_behind` told is durably settled or given back: delete it."""
        return

    def close(self) -> None:
        """Delete what is of no more use; leave the rest to the next start."""
        return


class NoJournal(Journal):
    """Where none is kept."""
