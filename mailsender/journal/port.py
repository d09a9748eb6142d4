"""Where a process notes what it does with letters in hand: a port like those in `mailsender.model.ports`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mailsender.journal.record import LeftBehind
from mailsender.model.letter import Result


class Notes(Protocol):
    """What a process notes about letters in hand, so that its successor knows what it did.

    A note outlives the process once its call returns, though not the machine. No call waits, and none
    raises: notes are advice, and a letter without them is given back once its replica is declared dead.
    """

    @property
    def run(self) -> str:
        """With what the tokens of our claims begin: up to 16 hex digits, none where nobody asks."""
        ...

    def new_run(self) -> str:
        """Another `run` from now on, for the letters under the one before are others'."""
        ...

    @property
    def trouble(self) -> str:
        """Why notes cannot be written, for readiness and status; empty when all is well."""
        ...

    def dot(self, token: str, letter_id: str, start: int, count: int) -> bool:
        """The final dot is about to be written for `count` of `Letter.everybody`, from index `start` on.

        False: it could not be noted, so the dot must not be written.
        """
        ...

    def replied(self, token: str, letter_id: str, start: int, results: Sequence[Result]) -> bool:
        """The relay's reply to that dot. False: it could not be noted."""
        ...

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:
        """Letters, by token, are durably settled, given back or lost."""
        ...

    def writable(self) -> bool:
        """Whether notes can be written; tries it anew when the last one could not be."""
        ...

    def left_behind(self) -> LeftBehind:
        """What dead processes of this place left. It is kept, and nobody else takes it, until `forget`."""
        ...

    def forget(self) -> None:
        """What `left_behind` told is durably settled or given back: delete it."""
        ...

    def close(self) -> None:
        """Delete what is of no more use; leave the rest to the next start."""
        ...


class NoNotes:
    """`Notes` where none are kept."""

    run = ""
    trouble = ""

    def new_run(self) -> str:
        """See `Notes`."""
        return ""

    def dot(self, *_: object, **__: object) -> bool:
        """See `Notes`."""
        return True

    def replied(self, *_: object, **__: object) -> bool:
        """See `Notes`."""
        return True

    def done(self, *_: object, **__: object) -> None:
        """See `Notes`."""

    def writable(self) -> bool:
        """See `Notes`."""
        return True

    def left_behind(self) -> LeftBehind:
        """See `Notes`."""
        return LeftBehind()

    def forget(self) -> None:
        """See `Notes`."""

    def close(self) -> None:
        """See `Notes`."""
