"""Three brokers: one partition of a topic is sick while all others are well; leaders and disks are lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import Producer

from lab.world import Replica
from proof.checker import check
from proof.cluster import Cluster, Layout
from proof.experiments.publishers import restart
from proof.history import Allowed
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

SICK = 1
"""The partition that is; its only nodes are chosen so that the loss of `LOST` makes it so."""

LOST = 3
"""The node that is killed."""

WAYS = {
    "without a leader": Layout(
        partition=SICK, there=[LOST], others=[1], settings={"min.insync.replicas": "1"}
    ),
    "below its min ISR": Layout(partition=SICK, there=[2, LOST], others=[1, 2]),
}
TOPICS = ("letters", "reports", "dead")

LETTERS, BAD = 400, 20
IN_TIME = 20.0
"""Seconds in which what does not depend on the sick partition is done."""

NOTHING_COMES = 70.0
"""Seconds for which the sick partition of the in-topic stays so: longer than a client has patience with a
broker from which nothing comes."""

PATIENCE = 60.0


def sick(stage: Stage, seed: int, *, topic: str, way: str) -> Row:
    """One partition of one topic, in one way."""
    began = time.monotonic()
    cluster = stage.cluster
    with run(stage.with_broker(cluster), "sick", seed, topics={topic: WAYS[way]}) as world:
        service = world.world.started()
        well = [n for n in range(cluster.partitions) if topic != "letters" or n != SICK]
        _publish(world, 100, well)
        if not world.wait_done(PATIENCE):
            world.fault("not all was answered while all was well")
        cluster.nodes[LOST - 1].kill()
        try:
            flaps, accepted, told = _meanwhile(world, service, well, topic)
        finally:
            cluster.nodes[LOST - 1].start()
        cluster.wait_leader(getattr(world.topics, topic), SICK, range(1, 4))
        if not world.wait_done(PATIENCE):
            world.fault(f"not all was answered {PATIENCE:g} s after the node's return")
        bad = BAD if topic == "dead" else 0
        restart(world, service)
        dead = (b"no batch",) if bad else ()
        verdict = check(world.history(poison=dead), Allowed(duplicates=0))
        for name in (world.topics.letters, world.topics.reports, world.topics.dead):
            cluster.wait_leader(name, 0, range(1, 4))
    return row(
        f"a partition of the topic of {topic} {way}",
        seed,
        1,
        verdict,
        notes=f"in {IN_TIME:g} s {accepted} of {LETTERS} letters out, {told} reported;"
        f" readiness changed {flaps} times",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="sick --seed {seed}"',
    )


def _meanwhile(world: Run, service: Replica, well: Sequence[int], topic: str) -> tuple[int, int, int]:
    """How often readiness changed, how many letters were accepted and how many reported."""
    rest(2.0)  # until the others have noticed
    before, told = len(_accepted(world)), world.told()
    ready, began = _Readiness(service), time.monotonic()
    if topic == "dead":
        _publish(world, 0, well, bad=BAD)
    wanted = sum(_publish(world, LETTERS, well))
    deadline = time.monotonic() + IN_TIME
    share = 1.0 if topic != "reports" else 0.6  # with their keys a quarter of them has to wait
    while time.monotonic() < deadline:
        world.read_reports(0.3)
        if len(_accepted(world)) - before >= wanted and world.told() - told >= share * LETTERS:
            break
    if topic == "letters":
        rest(max(0.0, NOTHING_COMES - (time.monotonic() - began)))
    answered = service.post([{"Subject": "[post]", "Body": "x", "Addresses": []}]).status
    accepted = len(_accepted(world)) - before
    if accepted < wanted:
        world.fault(f"only {accepted} of {wanted} letters that depend on nothing sick were out in time")
    if world.told() - told < share * LETTERS:
        world.fault(f"only {world.told() - told} of {LETTERS} letters were reported in time")
    if topic != "letters" and answered not in {200, 400}:
        world.fault(f"a post was answered with {answered} though the in-topic is well")
    changes = ready.stop()
    if changes > 2:
        world.fault(f"readiness changed {changes} times")
    return changes, accepted, world.told() - told


class _Readiness:
    """Counts how often `/readyz` changes its mind."""

    def __init__(self, service: Replica) -> None:
        self._service = service
        self._over = threading.Event()
        self._changes = 0
        self._thread = threading.Thread(target=self._run, name="readiness", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join(30)
        return self._changes

    def _run(self) -> None:
        last = self._service.get("/readyz").status
        while not self._over.wait(0.2):
            now = self._service.get("/readyz").status
            self._changes += now != last
            last = now


def _accepted(world: Run) -> set[str]:
    return {each.mark for each in world.relay.read().acceptances}


def _publish(world: Run, count: int, partitions: Sequence[int], *, bad: int = 0) -> list[bool]:
    """So many letters in well partitions, each with whether the relay takes it; and `bad` records."""
    producer = Producer(
        {"bootstrap.servers": world.stage.broker.bootstrap, "acks": "all", "linger.ms": 5, "log_level": 0}
    )
    chance: random.Random = world.chance
    sent = []
    for _ in range(count):
        value = world.publisher.encoded([world.publisher.letter()])
        last = world.publisher.published[-1]
        refused = last.mark.endswith("unwanted") or all(to.startswith("nobody") for to in last.addresses)
        sent.append(not refused)
        key = b"key %d" % chance.randrange(1000)
        producer.produce(world.topics.letters, value, key, partition=chance.choice(partitions))
    for _ in range(bad):
        producer.produce(
            world.topics.letters,
            b"no batch",
            b"key %d" % chance.randrange(1000),
            partition=chance.choice(partitions),
        )
    left = producer.flush(60)
    if left:
        world.fault(f"{left} records could not be published to what is well")
    return sent


# --- leaders and disks ---------------------------------------------------------------------------


def lost(stage: Stage, seed: int, *, what: str) -> Row:
    """A leader that knew more than its successor, or a disk."""
    began = time.monotonic()
    cluster = stage.cluster
    settings = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
    layout = Layout(partition=SICK, there=[LOST, 2], others=[1, 2], settings=settings)
    topics = {"letters": layout} if what == UNCLEAN else {}
    with run(stage.with_broker(cluster), "lost", seed, topics=topics) as world:
        service = world.world.started()
        LOSSES[what](world, service, cluster)
        if not world.wait_done(PATIENCE):
            world.fault(f"not all was answered within {PATIENCE:g} s")
        restart(world, service)
        verdict = check(world.history(), Allowed(duplicates=0))
    return row(
        f"three brokers: {what}",
        seed,
        1,
        verdict,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="sick --seed {seed}"',
    )


UNCLEAN = "a leader without the last records"


def _unclean(world: Run, service: Replica, cluster: Cluster) -> None:
    """The group has committed more than the new leader ever had, and by the next start it has other ones."""
    topic, follower, leader = world.topics.letters, cluster.nodes[1], cluster.nodes[LOST - 1]
    _publish(world, 40, [SICK])
    world.wait_done(PATIENCE)
    follower.kill()
    cluster.wait_in_sync(topic, SICK, 1)
    _publish(world, 40, [SICK])
    if not world.wait_done(PATIENCE):
        world.fault("not all was answered by the leader alone")
    service.terminate()
    if service.wait_exit(40) != 0:
        world.fault(f"it ended with {service.child.returncode} on SIGTERM")
    lines = len(service.log)
    # Two of three are the quorum, so the follower has to be there before the leader goes.
    leader.freeze()
    follower.start()
    leader.kill()
    cluster.wait_leader(topic, SICK, [follower.number])
    _publish(world, 60, [SICK])
    service.start()
    world.wait_done(PATIENCE)
    loud = [line for line in service.log[lines:] if line.get("level") in {"warning", "error", "critical"}]
    if not any("offset" in str(line) or "records" in str(line) for line in loud):
        world.fault("no line says that the log is another than the one that was read")
    leader.start()


def _wiped(world: Run, service: Replica, cluster: Cluster) -> None:
    """Each node loses its disk in turn, while letters come and go."""
    for node in cluster.nodes:
        _publish(world, 60, range(cluster.partitions))
        node.kill()
        node.wipe()
        _publish(world, 60, range(cluster.partitions))
        node.start()
        for name in (world.topics.letters, world.topics.reports, world.topics.dead):
            for partition in range(cluster.partitions):
                cluster.wait_in_sync(name, partition, 3)
    if not service.child.running:
        world.fault(f"the service ended, with {service.child.returncode}")


LOSSES: dict[str, Callable[[Run, Replica, Cluster], None]] = {
    UNCLEAN: _unclean,
    "each disk wiped in turn": _wiped,
}
