"""A relay that does everything wrong now and then: every reply at every phase, stalls, resets, garbage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lab.parts import make_certificates
from proof.checker import check
from proof.history import Allowed
from proof.plan import trouble
from proof.run import run
from proof.stage import Stage
from proof.table import Row, row

SHORT = {f"SMTP_TIMEOUT_{name}": "2s" for name in ("CONNECT", "GREETING", "COMMAND", "DATA", "BLOCK", "DOT")}


WAYS = ("pipelining", "one by one", "TLS and AUTH")


def misbehaving(stage: Stage, seed: int, *, letters: int, way: str = "pipelining") -> Row:
    """So many letters through it."""
    began = time.monotonic()
    offers: dict[str, Any] = {"pipelining": way != "one by one"}
    settings, certificates = dict(SHORT), None
    if way == "TLS and AUTH":
        offers |= {"tls": "starttls", "auth": True}
        certificates = make_certificates(_fresh(stage.directory / "certificates"))
        settings |= {"SMTP_TLS": "starttls", "SMTP_TLS_CA_FILE": str(certificates.ca)}
        settings |= {"SMTP_USER": "user", "SMTP_PASSWORD": "password"}
    plan = {**trouble(seed, 0.004), "delay": {}, "offers": offers}
    options = {"settings": settings, "plan": plan, "certificates": certificates}
    with run(stage, "misbehaving", seed, **options) as world:
        world.world.started()
        world.publisher.publish(letters)
        world.wait_done(60 + letters / 20)
        deeds = world.relay.tell("count").get("deeds", 0)
        world.stop_services()
        # What was accepted without an answer may come again; everything else may not.
        verdict = check(world.history(), Allowed(duplicates=None))
    return row(
        f"a relay that misbehaves, {way}",
        seed,
        deeds,
        verdict,
        notes=f"{verdict.uncertain} letters told as uncertain",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="misbehaving --runs {letters} --seed {seed}"',
    )


def _fresh(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory
