"""What relays of a file cost: the same letters over the relay of the settings, and of a file.

All have the same sessions in sum, and lead to the same sink. Three share the letters of one route by weight,
or each has a stream and a route of its own. That letters have a stream costs something by itself: the same
letters are sent without a file, too.

    python -m benchmarks.relays
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from benchmarks.compare import OURS, compare
from benchmarks.letters import batches
from benchmarks.measure import Round
from benchmarks.parts import Stage
from benchmarks.peers import SESSIONS, Peer
from benchmarks.peers.ours import Mailsender, measured, world
from benchmarks.run import alone
from benchmarks.table import Choice, choice

LETTERS, ROUNDS = 20_000, 4
BATCH = 100

RELAY = """\
[relays.{name}]
host = "127.0.0.1"
port = {port}
tls = "none"
connections = {connections}
"""

WEIGHTS = "[routes.default]\nrelays = [{relays}]\n"
ROUTE = '[routes.{name}]\nmatch = {{ stream = "{name}" }}\nrelays = ["{name}"]\n'

NAMES = ("a", "b", "c")


class Filed:
    """Ours with the relays of a file: `names`, by equal weights, or each for the `streams` of its name.

    Without `names` there is no file.
    """

    letters = LETTERS

    def __init__(self, name: str, names: tuple[str, ...], *, streams: bool = False) -> None:
        self.name = name
        self._names = names
        self._streams = streams

    def run(self, stage: Stage, letters: int) -> Round:
        settings = {}
        if self._names:
            path = stage.room("relays") / f"{uuid4().hex}.toml"
            path.write_text(self._text(stage.way.port), "utf-8")
            settings["MAILSENDER_CONFIG"] = str(path)
        with world(stage, **settings) as here:
            here.publish(self._batches(letters))
            return measured(stage, here, letters)

    def _text(self, port: int) -> str:
        each, more = divmod(SESSIONS, len(self._names))
        parts = [
            RELAY.format(name=name, port=port, connections=each + (place < more))
            for place, name in enumerate(self._names)
        ]
        if self._streams:
            parts += [ROUTE.format(name=name) for name in self._names]
        weights = ", ".join(f'{{ name = "{name}", weight = 1 }}' for name in self._names)
        return "\n".join([*parts, WEIGHTS.format(relays=weights)])

    def _batches(self, letters: int) -> Iterable[list[Mapping[str, Any]]]:
        for number, batch in enumerate(batches(letters, BATCH)):
            stream = NAMES[number % len(NAMES)]
            yield [{**each, "Stream": stream} for each in batch] if self._streams else list(batch)


def measure(stage: Stage, scale: float = 1.0) -> Choice:
    """A row for each."""
    peers: list[Peer] = [
        Mailsender(f"{OURS} without a file", BATCH, LETTERS),
        Filed(f"{OURS}, one relay of a file", NAMES[:1]),
        Filed(f"{OURS}, three by weight", NAMES),
        Filed(f"{OURS} without a file, three streams", (), streams=True),
        Filed(f"{OURS}, three routes", NAMES, streams=True),
    ]
    rounds, _ = compare(stage, peers, ROUNDS, scale)
    return Choice("What relays of a file cost", rounds)


if __name__ == "__main__":
    alone(lambda stage: choice(measure(stage)))
