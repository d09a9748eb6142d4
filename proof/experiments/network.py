"""The network to relay, MongoDB and broker is cut, stalled and slowed at random, under load."""

from __future__ import annotations

import contextlib
import time

from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.proxy import MODES, OPEN, Proxy
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

WITHIN = 6.0
"""Seconds that a trouble lasts at most: longer than every time-out of the service's here."""

LEASE = 4.0

STEADY = LEASE / 3 + 0.5
"""Seconds after which MongoDB counts as back; a stop before that may be unclean, for a lost claim."""


def network(stage: Stage, seed: int, *, runs: int) -> Row:
    """`runs` troubles, each with one of the three ways."""
    began = time.monotonic()
    settings = {"MONGODB_LEASE": f"{LEASE:g}s", "MONGODB_TIMEOUT": "3s", "SMTP_TIMEOUT_DOT": "3s"}
    settings |= {f"SMTP_TIMEOUT_{name}": "3s" for name in ("CONNECT", "GREETING", "COMMAND", "DATA")}
    with run(stage, "network", seed, settings=settings) as world, contextlib.ExitStack() as stack:
        proxies = {"relay": Proxy(world.relay.port), "mongodb": Proxy(stage.mongod.port)}
        proxies["broker"] = stage.broker_proxy
        stack.callback(stage.broker_proxy.set, OPEN)
        stack.callback(proxies["relay"].close)
        stack.callback(proxies["mongodb"].close)
        service = world.world.started(
            SMTP_PORT=str(proxies["relay"].port),
            MONGODB_URI=f"mongodb://127.0.0.1:{proxies['mongodb'].port}/?directConnection=true",
            KAFKA_BROKERS=f"127.0.0.1:{stage.broker_proxy.port}",
        )
        filler = Filler(world.publisher, world.relay.accepted, 300)
        for _ in range(runs):
            _trouble(world, proxies)
        filler.stop()
        world.wait_done(90)
        if not service.child.running:
            world.fault(f"the service ended, with {service.child.returncode}")
        rest(STEADY)
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=5 * runs))
    return row(
        "the network is cut, stalled, slow",
        seed,
        runs,
        verdict,
        notes=f"for up to {WITHIN:g} s, to relay, MongoDB and broker",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="network --runs {runs} --seed {seed}"',
    )


def _trouble(world: Run, proxies: dict[str, Proxy]) -> None:
    rest(world.chance.uniform(0.2, 1.0))
    where, mode = world.chance.choice(list(proxies)), world.chance.choice(MODES)
    # Only on the way to the relay can an acceptance be lost from sight.
    with world.broken(f"the network to the {where} {mode}") if where == "relay" else contextlib.nullcontext():
        proxies[where].set(mode)
        rest(world.chance.uniform(0.1, WITHIN))
        proxies[where].set(OPEN)
