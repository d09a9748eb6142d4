"""The way of log lines out of the process, which never holds up whoever logs.

A log collector that hangs, a full disk or a closed pipe must not stop mail: a thread writes the lines; what
it cannot write within a bound is dropped, and how much that was is told when lines go out again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MOST_BYTES: Final = 1024 * 1024
"""Bytes of lines that wait to be written: a pipe holds 64 KB, and a collector that was started anew is back
within what a busy service says meanwhile."""

PAUSE: Final = 1.0
"""Seconds between two tries while nothing can be written: a disk may have room again."""


class LogWriter:
    """Writes text to a descriptor from a thread of its own; structlog and logging take it for a stream.

    `lost` is called, on that thread, with the number of lines that were dropped, when one goes out again.
    """

    def __init__(self, descriptor: int, *, lost: Callable[[int], None], terminal: bool = False) -> None:
        self._descriptor = os.dup(descriptor)  # its own: a number that is closed may soon name something else
        self._tell_lost = lost
        self._terminal = terminal
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def isatty(self) -> bool:
        """Whether a person reads along."""
        return self._terminal

    def write(self, text: str) -> int:
        """Take a line, or drop it where too much waits; returns at once."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            # A line alone may be larger than the bound.
            if self._lines and self._bytes + len(line) > MOST_BYTES:
                self._dropped += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def drain(self, timeout: float) -> bool:
        """Wait until all lines are out; False when `timeout` seconds were too few."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines, timeout)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines[0]
            rest = self._write(memoryview(line))
            while rest:
                rest = self._write(rest)
            with self._changed:
                self._lines.popleft()
                self._bytes -= len(line)
                dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                self._tell_lost(dropped)

    def _write(self, line: memoryview) -> memoryview:
        """What is left of a line after one try, and a pause where nothing could be written."""
        try:
            return line[os.write(self._descriptor, line) :]
        except BlockingIOError:  # another process has put the terminal, or the pipe, into this mode
            select.select([], [self._descriptor], [], PAUSE)
        except OSError:
            time.sleep(PAUSE)
        return line
