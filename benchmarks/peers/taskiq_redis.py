"""taskiq on Redis streams: a task a letter, taken from a consumer group and acknowledged when it was sent.

Tuned: two workers (a process a core), uvloop (which taskiq takes by itself), reads of 500 entries, 500
prefetched, 100 tasks at once; each worker keeps five aiosmtplib sessions open and lends them to its tasks; no
results are kept; arguments are not validated. redis-server syncs its append-only file every second, so a
power cut can lose the last second's letters. No report is made.

The stream is filled and the workers are up, with their sessions open, before the clock starts; it stops when
the sink took the last letter and none is left unacknowledged.
"""

from __future__ import annotations

from uuid import uuid4

from benchmarks.letters import batches
from benchmarks.measure import Meter, Round, poll
from benchmarks.parts import Stage, python
from mailsender.dev.process import PartMissing

WORKERS, TASKS, PREFETCH = 2, 100, 500
QUEUE = "letters"


class Taskiq:
    """taskiq, as a peer."""

    name = "taskiq on Redis streams"
    letters = 36_000

    def run(self, stage: Stage, letters: int) -> Round:
        try:
            import redis
            import taskiq_redis  # noqa: F401 - only asked for
        except ImportError as error:
            raise PartMissing(f"{error.name} is not installed") from error
        room = stage.room("taskiq")
        variables = {
            "BENCH_REDIS": stage.redis.url,
            "BENCH_SMTP_PORT": str(stage.sink.port),
            "BENCH_ROOM": str(room),
        }
        with redis.Redis.from_url(stage.redis.url) as server:
            server.flushall()
            _fill(server, letters)
            words = ["-m", "taskiq", "worker", "benchmarks.peers.taskiq_app:broker", "--workers", WORKERS]
            words += ["--max-async-tasks", TASKS, "--max-prefetch", PREFETCH, "--ack-type", "when_executed"]
            words += ["--no-parse", "--log-level", "WARNING"]
            with python("taskiq", room, *words, **variables) as child:
                child.until(lambda: len(list(room.glob("ready-*"))) == WORKERS, 30)
                wanted = stage.sink.received() + letters
                meter = Meter([child.pid], [stage.redis.child.pid])
                (room / "go").touch()
                poll(lambda: stage.sink.received() >= wanted, "last letter", timeout=300)
                poll(lambda: _acknowledged(server), "last acknowledgement", timeout=30)
                return meter.round(letters)


def _fill(server: object, letters: int) -> None:
    """Write the entries that `task.kiq` would write, many in a round trip."""
    from taskiq.message import TaskiqMessage

    from benchmarks.peers.taskiq_app import broker, send

    for batch in batches(letters, 500):
        pipe = server.pipeline(transaction=False)  # type: ignore[attr-defined]  # redis's own types differ
        for each in batch:
            task = TaskiqMessage(
                task_id=uuid4().hex, task_name=send.task_name, labels={}, args=[each], kwargs={}
            )
            pipe.xadd(QUEUE, {b"data": broker.formatter.dumps(task).message})
        pipe.execute()


def _acknowledged(server: object) -> bool:
    group = server.xinfo_groups(QUEUE)[0]  # type: ignore[attr-defined]  # as above
    return group["pending"] == 0 and group["lag"] == 0
