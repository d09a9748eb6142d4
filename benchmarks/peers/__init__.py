"""mailsender and the senders beside it, one module each, all measured by the same harness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the peers' own processes come by here, and shall not pay for what the harness needs
    from benchmarks.measure import Round
    from benchmarks.parts import Stage

SESSIONS = 10
"""Sessions to the sink of each Python sender but Celery, ours too; and those by which Postfix is fed."""


class Peer(Protocol):
    """One sender. `letters` is how many a round of the full run sends: some seconds' worth."""

    name: str
    letters: int

    def run(self, stage: Stage, letters: int) -> Round:
        """Send that many letters into the stage's sink and say what it cost.

        Starting interpreters and servers is not part of it.

        Raises:
            PartMissing: this machine lacks what it needs.
        """
        ...
