"""Files that are away for a moment while they are needed, and come back: so has the service, by itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.guarded_kafka import GuardedKafka
from lab.parts import make_certificates
from lab.world import Replica
from proof.checker import Verdict, check
from proof.experiments.publishers import restart
from proof.history import Allowed
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

AWAY = 6.0
"""Seconds for which a file is away."""

OUTLIVED = 5.0
"""Seconds for which a replica is frozen to count as dead: two and a half times its life."""

BACK = 40.0
"""Seconds after its return within which all that waited is answered."""


def vanished(stage: Stage, seed: int, *, what: str) -> Row:
    """One of `WHAT` is away for a while."""
    began = time.monotonic()
    back = WHAT[what](stage, seed)
    verdict, waited = back
    return row(
        f"{what} away for {AWAY:g} s",
        seed,
        1,
        verdict,
        notes=f"all answered {waited:.1f} s after its return",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="vanished --seed {seed}"',
    )


def _kafka_ca(stage: Stage, seed: int) -> tuple[Verdict, float]:
    """Away while the connection is made, which takes several tries, for the broker comes up later."""
    certificates = make_certificates(_made(stage.directory / f"kafka-ca-{time.monotonic_ns()}"))
    broker = GuardedKafka(stage.directory / f"guarded-{time.monotonic_ns()}", certificates)
    with contextlib.ExitStack() as stack:
        stack.callback(broker.kill)
        broker.start()
        own = certificates.ca.with_name("own-ca.pem")  # the broker wants its own to be there
        own.write_bytes(certificates.ca.read_bytes())
        with run(stage.with_broker(broker), "vanished-kafka", seed) as world:
            world.publisher.publish(50)
            service = world.world.replica(
                KAFKA_BROKERS=f"127.0.0.1:{broker.ssl}",
                KAFKA_SECURITY_PROTOCOL="SSL",
                KAFKA_TLS_CA_FILE=str(own),
                KAFKA_TLS_CERT_FILE=str(certificates.cert),
                KAFKA_TLS_KEY_FILE=str(certificates.key),
            )
            broker.kill()
            service.start()
            service.child.until(lambda: service.get("/healthz").status == 200, 40)
            # Longer than the pauses between two tries at the beginning.
            return _without(world, service, own, lambda: rest(AWAY), broker.start)


def _relay_ca(stage: Stage, seed: int) -> tuple[Verdict, float]:
    certificates = make_certificates(_made(stage.directory / f"relay-ca-{time.monotonic_ns()}"))
    settings = {"SMTP_TLS": "starttls", "SMTP_TLS_CA_FILE": str(certificates.ca)}
    settings["SMTP_MAX_LETTERS_PER_SESSION"] = "5"
    plan = {"offers": {"tls": "starttls"}}
    options = {"settings": settings, "plan": plan, "certificates": certificates}
    with run(stage, "vanished-relay", seed, **options) as world:
        service = world.world.started()
        world.publisher.publish(50)
        return _without(world, service, certificates.ca, world.relay.kill, world.relay.start)


def _notes(stage: Stage, seed: int) -> tuple[Verdict, float]:
    with run(stage, "vanished-notes", seed) as world:
        notes = _made(world.directory / "notes", parents=True)
        service = world.world.started(MAILSENDER_STATE_DIR=str(notes))
        world.world.started()  # declares it dead while it is frozen
        world.publisher.publish(50)

        def outlived() -> None:
            """A file that is open is written on; under a new name the service needs a new one."""
            service.child.freeze()
            rest(OUTLIVED)
            service.child.thaw()

        signs = ("journal_not_written", "journal_written_again")
        return _without(world, service, notes, outlived, signs=signs)


def _without(
    world: Run, service: Replica, path: Path, *blows: Callable[[], None], signs: Sequence[str] = ()
) -> tuple[Verdict, float]:
    """The file goes, then the blows fall that make it needed; it comes back, and all has to go on.

    `signs` are events of the log without which it was not missed, or not found again.
    """
    pid = service.child.pid
    with world.broken(f"{path.name} away"), _away(path):
        for each in blows:
            each()
        world.publisher.publish(50)
        rest(AWAY)
    returned = time.monotonic()
    world.publisher.publish(50)
    if not world.wait_done(BACK):
        world.fault(f"not all was answered {BACK:g} s after its return")
    waited = time.monotonic() - returned
    if not service.child.running or service.child.pid != pid:
        world.fault("the service ended")
    elif service.get("/readyz").status != 200:
        world.fault("it was not ready afterwards")
    for sign in signs:
        if not service.events(sign):
            world.fault(f"no line says {sign}: the fault did not happen, or did not end")
    restart(world, service)
    # The relay that was killed may have accepted what it could tell nobody: one letter a session.
    return check(world.history(), Allowed(duplicates=5 if blows else 0)), waited


@contextlib.contextmanager
def _away(path: Path) -> Iterator[None]:
    elsewhere = path.with_name(f"{path.name}.away")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)


def _made(directory: Path, *, parents: bool = False) -> Path:
    directory.mkdir(parents=parents)
    return directory


WHAT: dict[str, Callable[[Stage, int], tuple[Verdict, float]]] = {
    "Kafka's CA": _kafka_ca,
    "the relay's CA": _relay_ca,
    "the directory of notes": _notes,
}
