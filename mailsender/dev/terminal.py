"""Who gets the terminal's Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def own_foreground() -> Iterator[None]:
    """Take the terminal's foreground for this process alone, and give it back.

    Started by `make`, this process shares a process group with it, and a Ctrl-C would reach both: make then
    ends by the signal whatever its recipe's exit status is. In a group of its own, in the foreground, this
    process gets the Ctrl-C, ends with 0, and so does make. Does nothing without a terminal, in the
    background, or when a shell has given this process its own group already.
    """
    group = os.getpgrp()
    terminal = sys.__stdin__.fileno() if sys.__stdin__ is not None else -1
    if group == os.getpid() or not os.isatty(terminal) or os.tcgetpgrp(terminal) != group:
        yield
        return
    # Giving the terminal away from the background would stop this process; a Ctrl-Z would leave make waiting.
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTOU, signal.SIGTSTP)}
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, group)
        with contextlib.suppress(OSError):
            os.setpgid(0, group)
        for number, handler in kept.items():
            signal.signal(number, handler)
