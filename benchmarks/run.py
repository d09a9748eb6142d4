"""A run's surroundings: a temporary directory, the parts in it, and their end whatever happens."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from benchmarks.parts import Stage, is_compiled
from benchmarks.table import Section


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """A stage in a temporary directory. A SIGTERM ends it as a Ctrl-C does, and both end every part."""
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too: a shell's background jobs begin deaf to it
        signal.signal(number, _interrupt)
    with (
        tempfile.TemporaryDirectory(prefix="mailsender-bench-", ignore_cleanup_errors=True) as name,
        Stage(Path(name)) as stage,
    ):
        yield stage


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def alone(measure: Callable[[Stage], Section]) -> None:
    """Run one measurement by itself and print its table."""
    with staged() as stage:
        print(measure(stage))


def machine() -> str:
    """When and on what this run is made, and how busy that was before it, in one line."""
    model = _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown processor"
    memory = int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / 2**20
    parts = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{os.cpu_count()} cores ({model})",
        f"{memory:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"load before the run {os.getloadavg()[0]:.1f}",
        "mailsender's hot path compiled" if is_compiled() else "mailsender as plain Python",
    )
    return ", ".join(parts)


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def say(text: str) -> None:
    """Progress, apart from what the run prints at its end."""
    print(text, file=sys.stderr, flush=True)
