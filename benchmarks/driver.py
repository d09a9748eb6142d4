"""What MongoDB's driver costs: the same letters with Motor and with PyMongo's own asyncio client, in turn.

python -m benchmarks.driver
"""

from __future__ import annotations

from benchmarks.compare import OURS, compare
from benchmarks.parts import Stage
from benchmarks.peers.ours import Mailsender
from benchmarks.run import alone
from benchmarks.table import Choice, choice

DRIVERS = {"with Motor": "motor", "with PyMongo": "pymongo"}
"""Each with what `MONGODB_DRIVER` is for it."""

LETTERS, ROUNDS = 20_000, 4


def measure(stage: Stage, scale: float = 1.0) -> Choice:
    """A row for each driver."""
    peers = [
        Mailsender(f"{OURS} {name}", 100, LETTERS, settings={"MONGODB_DRIVER": driver})
        for name, driver in DRIVERS.items()
    ]
    rounds, _ = compare(stage, peers, ROUNDS, scale)
    return Choice("What MongoDB's driver costs", rounds)


if __name__ == "__main__":
    alone(lambda stage: choice(measure(stage)))
