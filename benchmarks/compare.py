"""Letters per second of mailsender and its peers: in one run, in turn, on one machine, into one sink."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.measure import Round, round_size
from benchmarks.parts import Stage, is_compiled
from benchmarks.peers import Peer, bare
from benchmarks.peers.celery_redis import Celery
from benchmarks.peers.ours import Mailsender, Replicas
from benchmarks.peers.postfix import Postfix
from benchmarks.peers.taskiq_redis import Taskiq
from benchmarks.run import say
from mailsender.dev.process import ChildError, PartMissing

OURS = "mailsender"
SMALL_BATCHES = "mailsender, batches of 6"
TWO = "mailsender, two replicas"
PLAIN = "mailsender, plain Python"

Rounds = dict[str, list[Round]]


def our_peers() -> list[Peer]:
    """Ours as it is deployed."""
    return [Mailsender(OURS, 100, 60_000), Mailsender(SMALL_BATCHES, 6, 60_000), Replicas(TWO, 2, 60_000)]


def all_peers() -> list[Peer]:
    """Every sender, ours first."""
    ours = our_peers()
    if is_compiled():
        ours.append(Mailsender(PLAIN, 100, 60_000, plain=True))
    return [*ours, Postfix(), Taskiq(), Celery(), bare.loop(), bare.limit()]


def quick_peers() -> list[Peer]:
    """Ours beside the bare aiosmtplib loop."""
    return [Mailsender(OURS, 100, 8_000), bare.loop(25_000)]


FEWEST, TIME = 3, 420.0
"""Rounds that there are always, and seconds after which no further one begins."""


def compare(
    stage: Stage, peers: Sequence[Peer], rounds: int, scale: float = 1.0, *, may_fail: bool = True
) -> tuple[Rounds, dict[str, str]]:
    """Run the peers in turn, `rounds` times over; says also who was left out, and why.

    Every other round goes from the last to the first: a machine gets slower and faster, and who is always
    after the same one would have its share of that. A peer that fails is left out from then on. Ours may not
    fail, and nobody may unless they `may_fail`.
    """
    results: Rounds = {peer.name: [] for peer in peers}
    skipped: dict[str, str] = {}
    began = time.monotonic()
    for number in range(rounds):
        if number >= FEWEST and time.monotonic() - began > TIME:
            break
        for peer in peers if number % 2 == 0 else reversed(peers):
            if peer.name in skipped:
                continue
            letters = round_size(peer.letters, results[peer.name])
            try:
                made = peer.run(stage, max(min(letters, 1000), int(letters * scale)))
            except (PartMissing, ChildError, TimeoutError, RuntimeError) as error:
                if not may_fail or peer.name.startswith(OURS):
                    raise
                skipped[peer.name] = str(error).splitlines()[0]
                say(f"{peer.name}: {error}")
                continue
            results[peer.name].append(made)
            say(
                f"round {number + 1}: {peer.name}: {made.letters_per_s:,.0f} letters/s,"
                f" {made.cpu_s_per_1000:.3f} CPU s/1000"
            )
    return results, skipped
