"""A relay that does everything wrong now and then: every reply at every phase, stalls, resets, garbage."""

from __future__ import annotations

import time

from proof.checker import check
from proof.history import Allowed
from proof.plan import trouble
from proof.run import run
from proof.stage import Stage
from proof.table import Row, row

SHORT = {f"SMTP_TIMEOUT_{name}": "2s" for name in ("CONNECT", "GREETING", "COMMAND", "DATA", "BLOCK", "DOT")}


def misbehaving(stage: Stage, seed: int, *, letters: int, pipelining: bool) -> Row:
    """So many letters through it."""
    began = time.monotonic()
    plan = {**trouble(seed, 0.004), "delay": {}, "offers": {"pipelining": pipelining}}
    with run(stage, "misbehaving", seed, settings=SHORT, plan=plan) as world:
        world.world.started()
        world.publisher.publish(letters)
        world.wait_done(60 + letters / 20)
        deeds = world.relay.tell("count").get("deeds", 0)
        world.stop_services()
        # What was accepted without an answer may come again; everything else may not.
        verdict = check(world.history(), Allowed(duplicates=None))
    return row(
        "a relay that misbehaves" + ("" if pipelining else ", no PIPELINING"),
        seed,
        deeds,
        verdict,
        notes=f"{verdict.uncertain} letters told as uncertain",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="misbehaving --runs {letters} --seed {seed}"',
    )
