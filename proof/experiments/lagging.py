"""A secondary that lags, and a connection string that prefers secondaries: what decides is not read there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from mailsender.dev.mongod import Mongod, ReplicaSet
from proof.checker import check
from proof.experiments.publishers import restart
from proof.history import Allowed
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

LEASE, IN_TIME = 40.0, 20.0
"""Seconds: a letter that was claimed and not found waits for its replica's end, and that is too late."""


def lagging(stage: Stage, seed: int, *, letters: int) -> Row:
    """So many letters, in two portions."""
    began = time.monotonic()
    # So slow that most of what comes at once waits for longer than the lag before it is claimed.
    settings = {"MONGODB_LEASE": f"{LEASE:g}s", "SMTP_RATE_LIMIT_PERIOD": "1s"}
    settings |= {"SMTP_RATE_LIMIT_MAX_LETTERS": "50", "SMTP_RATE_LIMIT_BURST": "10"}
    with (
        run(stage, "lagging", seed, settings=settings, replica_set=True) as world,
        _behind(stage.replica_set) as late,
    ):
        # All that may be read elsewhere is read from the late one, and so nothing is found by chance.
        uri = f"{stage.replica_set.uri}&readPreference=secondaryPreferred&readPreferenceTags=late:yes"
        world.world.settings["MONGODB_URI"] = uri
        before = _asked(late)
        service = world.world.started()
        slowest = 0.0
        for _ in range(2):
            began_one = time.monotonic()
            world.publisher.publish(letters // 2)
            if not _out(world):
                world.fault(f"not all was answered within {IN_TIME:g} s, of a lease of {LEASE:g} s")
                break
            slowest = max(slowest, time.monotonic() - began_one)
            world.wait_done(2 * LEASE)
        restart(world, service)
        if asked := _asked(late) - before:
            world.fault(f"the member that is late was asked {asked} times for what decides")
        verdict = check(world.history(), Allowed(duplicates=0))
    return row(
        "reads that prefer a secondary, and one that lags",
        seed,
        1,
        verdict,
        notes=f"one stood still; {letters // 2} letters took {slowest:.1f} s at most",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="lagging --seed {seed}"',
    )


def _out(world: Run) -> bool:
    return world.wait_told(len(world.publisher.published), IN_TIME)


@contextlib.contextmanager
def _behind(members: ReplicaSet) -> Iterator[Mongod]:
    """One secondary stands still for as long as the block takes, and can be told from the others.

    A member with a delay of its own would not do: clients are not told of it, and ask it nothing.
    """
    late = members.secondaries[0]
    _mark(members, late.address, {"late": "yes"})
    try:
        _apply(late, stopped=True)
        yield late
    finally:
        _apply(late, stopped=False)
        _mark(members, late.address, {})


def _apply(member: Mongod, *, stopped: bool) -> None:
    with member.client() as client:
        mode = "alwaysOn" if stopped else "off"
        client.admin.command({"configureFailPoint": "rsSyncApplyStop", "mode": mode})


def _asked(member: Mongod) -> int:
    """How many queries it has answered, of whoever sent them; members ask each other in other ways."""
    with member.client() as client:
        return int(client.admin.command("serverStatus")["opcounters"]["query"])


def _mark(members: ReplicaSet, address: str, tags: dict[str, str]) -> None:
    with members.primary.client() as client:
        config = client.admin.command("replSetGetConfig")["config"]
        for each in config["members"]:
            if each["host"] == address:
                each |= {"tags": tags, "priority": 0 if tags else 1}
        config["version"] += 1
        client.admin.command("replSetReconfig", config)
