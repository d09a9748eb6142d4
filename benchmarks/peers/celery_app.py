"""What a process of Celery runs; started by `celery_redis`, which says how by BENCH_REDIS and the like."""

from __future__ import annotations

import os
import smtplib
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from benchmarks.letters import SENDER, message

app = Celery("bench", broker=os.environ.get("BENCH_REDIS", "redis://127.0.0.1:1/0"))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=4,
    task_create_missing_queues=True,
)
_session: list[smtplib.SMTP] = []


@worker_process_init.connect
def _open(**_: Any) -> None:
    """Open this process's session and say so."""
    session = smtplib.SMTP("127.0.0.1", int(os.environ["BENCH_SMTP_PORT"]))
    session.ehlo()
    _session.append(session)
    (Path(os.environ["BENCH_ROOM"]) / f"ready-{os.getpid()}").touch()


@app.task
def send(letter: dict[str, Any]) -> None:
    _session[0].sendmail(SENDER, letter["Addresses"], message(letter))
