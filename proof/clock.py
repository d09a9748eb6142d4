"""Another clock for one process, by libfaketime (Debian's `faketime`), which can be moved while it runs."""

from __future__ import annotations

from pathlib import Path

_SLEEP = """\
import select
import time

def sleep(seconds):
    select.select([], [], [], seconds)

time.sleep = sleep
"""
"""Python sleeps until a moment of the monotonic clock, which libfaketime refuses where it has to leave that
clock alone."""

PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


def library() -> Path | None:
    """Where it lies; None where it is not installed."""
    return next((found for place in PLACES for found in Path("/").glob(place[1:])), None)


class OtherClock:
    """A clock that is `ahead` seconds ahead of the machine's, or behind.

    Only the time of day: the monotonic clock, by which a process measures lengths, stays the machine's.

    Raises:
        LookupError: libfaketime is not installed.
    """

    def __init__(self, path: Path, ahead: float = 0.0) -> None:
        found = library()
        if found is None:
            raise LookupError("there is no libfaketime (on Debian: apt-get install faketime)")
        self._library = found
        self._path = path
        self.set(ahead)

    def set(self, ahead: float) -> None:
        """From now on so many seconds ahead."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{ahead:+.3f}\n")
        fresh.replace(self._path)

    @property
    def environment(self) -> dict[str, str]:
        """What the process is to be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def for_python(self, tree: Path) -> dict[str, str]:
        """The same for a process of Python, whose modules lie in `tree`."""
        shim = self._path.with_suffix(".python")
        shim.mkdir(exist_ok=True)
        (shim / "sitecustomize.py").write_text(_SLEEP)
        return {**self.environment, "PYTHONPATH": f"{shim}:{tree}"}
