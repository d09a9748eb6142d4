"""What TLS costs: the same letters into one sink, in clear, by STARTTLS and by TLS from the start, in turn.

smtp-sink speaks no TLS, so the sink is our own (`benchmarks.stamping_sink`), for the letters in clear, too.
How much it takes each way is measured in the same turns by the bare pipelined client: the client may be what
ends first there, so it is the least that the sink takes. A session sends a thousand letters, as it does by
default, so handshakes are a small part.

    python -m benchmarks.tls
"""

from __future__ import annotations

from benchmarks.compare import OURS, compare
from benchmarks.measure import Round
from benchmarks.parts import Stage
from benchmarks.peers import Peer
from benchmarks.peers.bare import limit
from benchmarks.peers.ours import Mailsender
from benchmarks.run import alone
from benchmarks.stamping_sink import stamping_sink
from benchmarks.table import Choice, choice
from lab.parts import make_certificates

WAYS = {"in clear": "none", "over STARTTLS": "starttls", "over implicit TLS": "implicit"}
"""Each with what `SMTP_TLS` is for it."""

LETTERS, ROUNDS = 20_000, 4
LIMIT_LETTERS = 40_000


def measure(stage: Stage, scale: float = 1.0) -> Choice:
    """A row for each way."""
    room = stage.room("tls")
    ours: dict[str, list[Round]] = {}
    limits: dict[str, list[Round]] = {}
    with stamping_sink(room, make_certificates(room)) as sink:
        peers: list[Peer] = []
        for name, tls in WAYS.items():
            way = sink.way(tls)
            peers.append(Mailsender(f"{OURS} {name}", 100, LETTERS, way=way))
            peers.append(limit(f"bare pipelined client {name}", LIMIT_LETTERS, way))
        rounds, skipped = compare(stage, peers, ROUNDS, scale)
    for mine, bare in zip(peers[::2], peers[1::2], strict=True):
        ours[mine.name], limits[mine.name] = rounds[mine.name], rounds[bare.name]
    notes = [f"{name} is left out: {why}" for name, why in skipped.items()]
    return Choice("What TLS costs", ours, limits, notes)


if __name__ == "__main__":
    alone(lambda stage: choice(measure(stage)))
