"""The signals that stop the service, and what they do before there is anything to stop.

It is imported before all else, so it imports next to nothing: process 1 of a container is sent no signal for
which it has no handler, and importing the client libraries takes a second.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

_ALWAYS: Final = ("SIGTERM", "SIGINT")
_UNLESS_IGNORED: Final = ("SIGHUP", "SIGQUIT")
"""`nohup`, and a shell that runs something in the background, have them ignored; that is a wish. Windows has
neither."""

RELOAD: Final = "SIGHUP"
"""The signal that has the file read again, where there is one: as it has of most daemons. Else it ends us."""

_came: Final[list[str]] = []
"""`RELOAD`, if it came before there was anything to read the file for."""


def signals() -> list[signal.Signals]:
    """Those that stop the service in good order."""
    there = [getattr(signal, name) for name in _UNLESS_IGNORED if hasattr(signal, name)]
    heard = [number for number in there if signal.getsignal(number) is not signal.SIG_IGN]
    return [*(getattr(signal, name) for name in _ALWAYS), *heard]


def end_at_once() -> None:
    """Let each of them end the process, as nothing is in flight yet, until others handle them."""
    for number in signals():
        signal.signal(number, _end)


def remember_reload() -> None:
    """Let it no longer end the process, as a file was read: one that comes from now on is for who runs."""
    for number in signals():
        if number.name == RELOAD:
            signal.signal(number, _remember)


def reload_came() -> bool:
    """Whether it came since then; it is told once."""
    came = bool(_came)
    _came.clear()
    return came


def _remember(_: int, __: FrameType | None) -> None:
    _came[:] = [RELOAD]


def _end(_: int, __: FrameType | None) -> None:
    # No exception: it could come in the middle of an import that swallows it.
    os._exit(0)
