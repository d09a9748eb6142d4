"""Two bare clients: no queue, no store, no answer; what a script would do, and the least that SMTP costs.

Both are one process on uvloop with ten sessions, opened off the clock; message bytes are made once and
shared; each measures itself. The aiosmtplib loop awaits one `sendmail` after the other in each session. The
pipelined client is the limit: one write carries a message, its final dot, and the next letter's envelope.
"""

from __future__ import annotations

import json
from dataclasses import replace

from benchmarks.measure import Round, cpu_seconds
from benchmarks.parts import Stage, Way, python
from benchmarks.peers import SESSIONS


class Bare:
    """A client in a process of its own that prints what it came to."""

    def __init__(self, name: str, client: str, letters: int, way: Way | None = None) -> None:
        self.name, self._client, self.letters, self._way = name, client, letters, way

    def run(self, stage: Stage, letters: int) -> Round:
        way = self._way or stage.way
        sunk, cpu = way.sink.received(), cpu_seconds([way.sink.child.pid])
        words = ("-m", f"benchmarks.peers.{self._client}", way.port, letters, SESSIONS)
        with python("client", stage.room("client"), *words, *way.words) as child:
            status = child.wait(300)
            said = child.log.read_text()
        if status != 0 or way.sink.received() - sunk != letters:
            raise RuntimeError(f"{self.name} ended with {status}: {said[-2000:]}")
        made = Round(**json.loads(said.splitlines()[-1])["round"])
        return replace(made, sink_cpu=cpu_seconds([way.sink.child.pid]) - cpu)


def loop(letters: int = 60_000) -> Bare:
    """The aiosmtplib loop."""
    return Bare("bare aiosmtplib loop", "bare_client", letters)


def limit(name: str = "bare pipelined client", letters: int = 150_000, way: Way | None = None) -> Bare:
    """The pipelined client; into the sink that all share, or by another `way`."""
    return Bare(name, "pipelined_client", letters, way)


def inject(stage: Stage, port: int, letters: int) -> float:
    """Put letters into another server by the pipelined client; says when it began, in seconds since 1970."""
    words = ("-m", "benchmarks.peers.pipelined_client", port, letters, SESSIONS)
    with python("inject", stage.room("inject"), *words) as child:
        status = child.wait(300)
        said = child.log.read_text()
    if status != 0:
        raise RuntimeError(f"the injecting client ended with {status}: {said[-2000:]}")
    return float(json.loads(said.splitlines()[-1])["began"])
