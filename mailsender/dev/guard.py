"""Kills what a dead parent left behind; run by path, with nothing but the standard library.

The parent holds the other end of standard input and writes `+PID` for each process group it starts and
`-PID` for each that has ended. However the parent dies, `kill -9` included, the pipe closes, and whatever is
still listed is killed.

Linux's PR_SET_PDEATHSIG would do with less, but it fires when the *thread* that forked ends (an executor's,
say), needs code between fork and exec in a threaded parent, and exists on no other system.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Keep the list until standard input ends, then kill who is on it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
