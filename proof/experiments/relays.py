"""Three relays of a file: each fails in every way while letters go over the others, and replicas are killed.

What one relay took no other one may take, unless its report says that it may have come twice (P12).
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from lab.world import Replica
from proof.checker import Verdict, check
from proof.history import Allowed
from proof.relay import LedgerRelay
from proof.run import Run, rest
from proof.stage import Stage
from proof.table import Row, row
from proof.three import NAMES, by_relay, history_of, plan_of, relay_table, relays_of, started, use

WAYS = ("killed", "frozen", "refusing logins", "kill -9")
"""What is done to one of the relays, or, under `kill -9`, to a replica while relays put off many."""

VICTIMS = (("first",), ("second",), ("first", "second"), ("second", "third"))
"""Who is struck at a time; one is always left."""

AWAY = 3.0
"""Seconds for which a relay is in trouble: longer than a step may take."""

FRESH = 150
"""Letters published before each blow, and again when it has fallen: some are on their way at any time."""

WITHIN = 0.02
"""By how much the share of a relay may differ from its weight's over a thousand letters."""

LOST = {"phase": "DOT", "p": 0.01, "do": "reset", "accept": True}
"""Now and then a relay takes a letter and says nothing: nobody but itself knows."""

PUT_OFF = [
    {"phase": "RCPT", "p": 0.3, "do": "reply", "text": "450 4.2.1 Another time"},
    {"phase": "DOT", "p": 0.2, "do": "reply", "text": "451 4.3.0 Another time"},
]
"""Whom one relay puts off the next one gets: there is a failover at every instant."""


def relays(stage: Stage, seed: int, *, way: str, runs: int, replicas: int) -> Row:
    """`runs` blows, each of which strikes one relay or two, or one replica.

    While both that share the letters are away the fallback has them.
    """
    began = time.monotonic()
    with _three(stage, f"relays-{way.replace(' ', '-')}", seed, {"first": 2, "second": 1}) as (world, three):
        for place, relay in enumerate(three.values()):
            relay.follow(plan_of(seed + place, LOST, *(PUT_OFF if way == "kill -9" else ())))
        services = [started(world) for _ in range(replicas)]
        for _ in range(runs):
            world.publisher.publish(FRESH)
            rest(world.chance.uniform(0.1, 0.5))
            if way == "kill -9":
                _kill(world, world.chance.choice(services))
            else:
                _strike(world, three, world.chance.choice(VICTIMS), way)
        world.publisher.publish(FRESH)
        world.wait_done(120)
        for service in services:
            service.wait_ready()
        world.stop_services()
        history = history_of(world, three)
        verdict = check(history, Allowed(duplicates=None, named=True))
    return row(
        f"three relays, {way}, {replicas} replicas",
        seed,
        runs,
        verdict,
        notes=f"{by_relay(history)}; {verdict.uncertain} told as uncertain",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="relays --runs {runs} --seed {seed}"',
    )


def weights(stage: Stage, seed: int, *, letters: int, replicas: int) -> Row:
    """So many letters over relays with the weights 3, 1 and 1."""
    began = time.monotonic()
    wanted = {"first": 3, "second": 1, "third": 1}
    with _three(stage, "relays-weights", seed, wanted) as (world, three):
        for _ in range(replicas):
            started(world)
        world.publisher.publish(letters)
        world.wait_done(60 + letters / 50)
        world.stop_services()
        # Whom it refuses counts, too: the turn was its own.
        mails = {name: len(relay.read().mails) for name, relay in three.items()}
        for name, weight in wanted.items():
            share, due = mails[name] / sum(mails.values()), weight / sum(wanted.values())
            if abs(share - due) > WITHIN:
                world.fault(f"{name} had {share:.1%} of the letters, {due:.1%} are its own")
        history = history_of(world, three)
        verdict: Verdict = check(history, Allowed(duplicates=0))
    return row(
        f"three relays by weight, {replicas} replicas",
        seed,
        1,
        verdict,
        notes=", ".join(f"{name} {count}" for name, count in mails.items()),
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="relays --seed {seed}"',
    )


# --- the relays -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _three(
    stage: Stage, name: str, seed: int, weighted: Mapping[str, int]
) -> Iterator[tuple[Run, dict[str, LedgerRelay]]]:
    """A world with three relays. Those without a weight are the fallback."""
    with relays_of(stage, name, seed) as (world, three):
        shared = ", ".join(f'{{ name = "{each}", weight = {weight} }}' for each, weight in weighted.items())
        fallback = json.dumps([each for each in NAMES if each not in weighted])
        route = f'[routes.default]\nrelays = [{shared}]\nfallback = {fallback}\nretry = "1s"\n'
        use(world, *(relay_table(each, relay.port) for each, relay in three.items()), route)
        yield world, three


def _strike(world: Run, three: Mapping[str, LedgerRelay], names: Sequence[str], way: str) -> None:
    struck = [three[name] for name in names]
    with world.broken(f"{way}: {', '.join(names)}"):
        back = [_struck(world, relay, way) for relay in struck]
        world.publisher.publish(FRESH)
        rest(AWAY)
        for undo in back:
            undo()


def _struck(world: Run, relay: LedgerRelay, way: str) -> Callable[[], None]:
    """Do it to a relay; returns what undoes it."""
    if way == "killed":
        relay.kill()
        return relay.start
    if way == "frozen":
        relay.freeze()
        return relay.thaw
    before = relay.plan
    text = world.chance.choice(["535 5.7.8 Not you", "454 4.7.0 Not now"])
    refusal = {"phase": "AUTH", "do": "reply", "text": text}
    relay.follow({**before, "script": [refusal, *before["script"]]})
    return lambda: relay.follow(before)


def _kill(world: Run, service: Replica) -> None:
    service.wait_ready()
    rest(world.chance.uniform(0.0, 0.7))
    service.child.signal(signal.SIGKILL)
    service.child.wait(10)
    world.note_break("kill -9")
    service.start()
