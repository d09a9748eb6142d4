"""The in-topic under the group changes: it is made anew, its log begins later, ends earlier, or is another.

What remains there, and what is new, has to be sent, even where it looks like what was read before; and what
the broker took away has to be said.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from lab.world import Replica
from proof.checker import check
from proof.experiments.publishers import restart
from proof.history import Allowed
from proof.raw import RawProducer
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

HOUR = 3_600_000
PATIENCE = 30.0
"""Seconds after a change within which everything that is there is answered."""


def offsets(stage: Stage, seed: int, *, way: str) -> Row:
    """One way."""
    began = time.monotonic()
    with run(stage, "offsets", seed) as world:
        service = world.world.started()
        _put(world, 20)
        _done(world, "before it")
        lines = len(service.log)
        WAYS[way](world, service)
        _done(world, "after it")
        if way in SAID and not _said(service, lines):
            world.fault("no line says that records are gone")
        restart(world, service)
        verdict = check(world.history(), Allowed(duplicates=0))
    return row(
        f"the in-topic is {way}",
        seed,
        1,
        verdict,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="offsets --seed {seed}"',
    )


def _remade_while_it_runs(world: Run, _: Replica) -> None:
    _remake(world)
    _put(world, 20)


def _remade_while_it_is_down(world: Run, service: Replica) -> None:
    with _down(world, service):
        _remake(world)
        _put(world, 20)


def _begins_later(world: Run, service: Replica) -> None:
    """The oldest that nobody had read are taken away, as by a retention that is too short."""
    with _down(world, service):
        _put_in_vain(world, 15)
        end = _put(world, 15)
        _delete_before(world, end - 15)


def _begins_later_while_frozen(world: Run, service: Replica) -> None:
    service.child.freeze()
    try:
        _put_in_vain(world, 15)
        end = _put(world, 15)
        _delete_before(world, end - 15)
    finally:
        service.child.thaw()


def _is_lost(world: Run, service: Replica, *, new: int) -> None:
    """The partition's disk is lost, and so many new records come before anybody looks."""
    broker = world.stage.broker
    with _down(world, service):
        broker.stop()
        shutil.rmtree(broker.directory / "data" / f"{world.topics.letters}-0")
        broker.start()
        _put(world, new)


WAYS: dict[str, Callable[[Run, Replica], None]] = {
    "remade while it runs": _remade_while_it_runs,
    "remade while it is down": _remade_while_it_is_down,
    "cut at its beginning": _begins_later,
    "cut at its beginning while frozen": _begins_later_while_frozen,
    "lost, with less in it than before": lambda world, service: _is_lost(world, service, new=5),
    "lost, with more in it than before": lambda world, service: _is_lost(world, service, new=120),
}

SAID = {name for name in WAYS if not name.startswith("remade")}
"""Where records are gone of which nobody knows what they were."""


@contextlib.contextmanager
def _down(world: Run, service: Replica) -> Iterator[None]:
    service.terminate()
    status = service.wait_exit(40)
    if status != 0:
        world.fault(f"it ended with {status} on SIGTERM")
    yield
    service.start()


def _put(world: Run, count: int) -> int:
    """So many letters, each in a record, at times rounded to the hour; the offset behind the last."""
    producer = RawProducer(world.stage.broker.bootstrap)
    stamp = int(time.time() * 1000) // HOUR * HOUR
    with contextlib.closing(producer):
        for _ in range(count):
            batch = world.publisher.encoded([world.publisher.letter()])
            last = producer.put(world.topics.letters, batch, partition=0, at=stamp)
    return last + 1


def _put_in_vain(world: Run, count: int) -> None:
    """So many that nobody may wait for; but what a client has read already may be sent."""
    number = len(world.publisher.published)
    _put(world, count)
    world.unsure += world.publisher.published[number:]
    del world.publisher.published[number:]


def _remake(world: Run) -> None:
    """Delete the in-topic and make it again, as soon as the broker lets us."""
    admin = AdminClient({"bootstrap.servers": world.stage.broker.bootstrap, "log_level": 0})
    topic = world.topics.letters
    for done in admin.delete_topics([topic], operation_timeout=20).values():
        done.result(30)
    deadline = time.monotonic() + 20
    while topic in admin.list_topics(timeout=20).topics and time.monotonic() < deadline:
        time.sleep(0.05)  # there is no event for it
    world.stage.broker.ensure_topics([topic])


def _delete_before(world: Run, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": world.stage.broker.bootstrap, "log_level": 0})
    for done in admin.delete_records([TopicPartition(world.topics.letters, 0, offset)]).values():
        done.result(20)


def _done(world: Run, when: str) -> None:
    if not world.wait_done(PATIENCE):
        world.fault(f"{when}: not all was answered within {PATIENCE:g} s")


def _said(service: Replica, since: int) -> bool:
    """Whether a line above `info` has come that speaks of offsets or records."""
    loud = [line for line in service.log[since:] if line.get("level") in {"warning", "error", "critical"}]
    return any("offset" in str(line) or "records" in str(line) for line in loud)
