"""Two bare clients: no queue, no store, no answer; what a script would do, and the least that SMTP costs.

Both are one process on uvloop with ten sessions, opened off the clock; message bytes are made once and
shared; each measures itself. The aiosmtplib loop awaits one `sendmail` after the other in each session. The
pipelined client is the limit: one write carries a message, its final dot, and the next letter's envelope.
"""

from __future__ import annotations

import json

from benchmarks.measure import Round
from benchmarks.parts import Stage, python
from benchmarks.peers import SESSIONS


class Bare:
    """A client in a process of its own that prints what it came to."""

    def __init__(self, name: str, client: str, letters: int) -> None:
        self.name, self._client, self.letters = name, client, letters

    def run(self, stage: Stage, letters: int) -> Round:
        sunk = stage.sink.received()
        words = ("-m", f"benchmarks.peers.{self._client}", stage.sink.port, letters, SESSIONS)
        with python("client", stage.room("client"), *words) as child:
            status = child.wait(300)
            said = child.log.read_text()
        if status != 0 or stage.sink.received() - sunk != letters:
            raise RuntimeError(f"{self.name} ended with {status}: {said[-2000:]}")
        return Round(**json.loads(said.splitlines()[-1])["round"])


def loop(letters: int = 60_000) -> Bare:
    """The aiosmtplib loop."""
    return Bare("bare aiosmtplib loop", "bare_client", letters)


def limit() -> Bare:
    """The pipelined client."""
    return Bare("bare pipelined client", "pipelined_client", 150_000)


def inject(stage: Stage, port: int, letters: int) -> float:
    """Put letters into another server by the pipelined client; says when it began, in seconds since 1970."""
    words = ("-m", "benchmarks.peers.pipelined_client", port, letters, SESSIONS)
    with python("inject", stage.room("inject"), *words) as child:
        status = child.wait(300)
        said = child.log.read_text()
    if status != 0:
        raise RuntimeError(f"the injecting client ended with {status}: {said[-2000:]}")
    return float(json.loads(said.splitlines()[-1])["began"])
