"""How a replica fares: its memory at the worst, and for how long its loop stood still.

Both are seen from outside: the kernel keeps the peak of a process's memory, and a loop that stands still
answers no `/healthz`. Where the service has a watchdog of its own, that is told beside it: the view from
outside holds the waits of a busy machine, too.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.world import Replica

PAUSE = 0.01
"""Seconds between two questions."""


IMPORTS = 0.4
"""Seconds in which an interpreter imports the client libraries on a machine as quick as it is meant to be."""

_LIBRARIES = (
    "import aiohttp.web, aiokafka, aiosmtplib, motor.motor_asyncio, pydantic_settings, structlog, uvloop"
)


def slower() -> float:
    """How many times slower than meant this machine starts a process now; 1 where it is not."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", _LIBRARIES], check=True, timeout=60)
        took.append(time.monotonic() - began)
    return max(1.0, statistics.median(took) / IMPORTS)


def peak(pid: int) -> float:
    """The most memory that a process ever had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen: `memory` in MiB, `stall` in seconds, and `own`, what the service says of it itself."""

    memory: float
    stall: float
    own: float | None = None

    def __str__(self) -> str:
        own = "" if self.own is None else f" ({self.own * 1000:.0f} ms of work by its own watchdog)"
        return f"memory at most {self.memory:.0f} MiB, longest stall {self.stall * 1000:.0f} ms{own}"


class Vitals:
    """Asks all the time, from the start of a `with` block to its end; over restarts, too."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._over = threading.Event()
        self._longest = 0.0
        self._memory = 0.0
        self._own: float | None = None
        self._thread = threading.Thread(target=self._run, name="vitals", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(70)

    def look(self) -> Seen:
        """What was seen until now. Before a replica ends it is to be asked, for then its numbers go."""
        self._measure()
        with contextlib.suppress(Exception):  # it may be frozen or gone; what was seen before stands
            own = own_stall(self._replica.status())
            self._own = own if own is None else max(own, self._own or 0.0)
        return Seen(memory=self._memory, stall=self._longest, own=self._own)

    def _measure(self) -> None:
        with contextlib.suppress(OSError, StopIteration):  # its process may have ended
            self._memory = max(self._memory, peak(self._replica.child.pid))

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):  # asked again; the stall goes on
                self._ask_on()
            self._over.wait(0.05)

    def _ask_on(self) -> None:
        """Over one connection, until it is lost."""
        line = http.client.HTTPConnection("127.0.0.1", self._replica.port, timeout=60)
        with contextlib.closing(line):
            line.connect()
            answered = 0
            while not self._over.is_set():
                asked = time.monotonic()
                line.request("GET", "/healthz")
                line.getresponse().read()
                answered += 1
                if answered > 1:  # before the first answer the process may have been starting
                    self._longest = max(self._longest, time.monotonic() - asked)
                self._measure()
                self._over.wait(PAUSE)


def own_stall(status: Mapping[str, Any]) -> float | None:
    """The longest stall by the service's own watchdog, in seconds of its work; None where it has none."""
    loop = status.get("event_loop")
    longest = loop.get("longest_stall_cpu_seconds") if isinstance(loop, Mapping) else None
    return float(longest) if isinstance(longest, int | float) else None
