"""Celery on Redis: a task a letter, acknowledged late, sent by prefork processes.

Tuned: four processes under one consumer, each with one smtplib session that it opens at its start and keeps;
64 tasks prefetched a process; no results, no gossip, mingle, heartbeat or task events; JSON. redis-server
syncs its append-only file every second, so a power cut can lose the last second's letters. No report is made.

The queue is filled and the processes are up, with their sessions open, before the clock starts: they are then
told to consume the queue. It stops when the sink took the last letter and none is left unacknowledged.
"""

from __future__ import annotations

from typing import Any

from benchmarks.letters import batches
from benchmarks.measure import Meter, Round, poll
from benchmarks.parts import Stage, python
from mailsender.dev.process import PartMissing

PROCESSES = 4
QUEUE = "letters"


class Celery:
    """Celery, as a peer."""

    name = "Celery on Redis"
    letters = 12_000

    def run(self, stage: Stage, letters: int) -> Round:
        try:
            import redis

            from benchmarks.peers import celery_app
        except ImportError as error:
            raise PartMissing(f"{error.name} is not installed") from error
        room = stage.room("celery")
        app = celery_app.app
        app.conf.broker_url = stage.redis.url
        variables = {
            "BENCH_REDIS": stage.redis.url,
            "BENCH_SMTP_PORT": str(stage.sink.port),
            "BENCH_ROOM": str(room),
        }
        with redis.Redis.from_url(stage.redis.url) as server:
            server.flushall()
            _fill(app, letters)
            words = ["-m", "celery", "-A", "benchmarks.peers.celery_app", "worker", "-P", "prefork"]
            words += ["-c", PROCESSES, "-Q", "idle", "-l", "WARNING", "-n", "bench@localhost"]
            words += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            with python("celery", room, *words, **variables) as child:
                child.until(lambda: len(list(room.glob("ready-*"))) == PROCESSES, 30)
                child.until(lambda: app.control.ping(timeout=0.5), 30)
                wanted = stage.sink.received() + letters
                meter = Meter([child.pid], [stage.redis.child.pid])
                app.control.add_consumer(QUEUE)
                poll(lambda: stage.sink.received() >= wanted, "last letter", timeout=300)
                poll(lambda: server.hlen("unacked") == 0, "last acknowledgement", timeout=30)
                return meter.round(letters)


def _fill(app: Any, letters: int) -> None:
    from benchmarks.peers.celery_app import send

    with app.producer_or_acquire() as producer:
        for batch in batches(letters, 500):
            for each in batch:
                send.apply_async(args=[each], queue=QUEUE, producer=producer)
