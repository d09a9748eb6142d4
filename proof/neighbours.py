"""Good letters beside bad ones: a few at a time, all the time; and how long they were under way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from proof.run import Run

EVERY = 0.2
"""Seconds between two of his posts."""

SLOWEST = 10.0
"""Seconds within which a good letter has to be out while others do their worst, on a machine where broker,
database, relay and judge run beside the service."""


class Neighbour:
    """A publisher who does all right. `few` letters each time, the first ones after so many seconds."""

    def __init__(self, world: Run, *, few: int = 3, after: float = 0.0) -> None:
        self._world = world
        self._few = few
        self._after = after
        self._times: dict[str, float] = {}
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Publish no more.

        Raises:
            RuntimeError: he could not publish.
        """
        self._over.set()
        self._thread.join(150)
        if self._error is not None:
            raise RuntimeError(f"the neighbour failed: {self._error!r}") from self._error

    def worst(self) -> float:
        """Seconds that the slowest of his letters took, from before it was published to its acceptance.

        What was not accepted, though the relay refuses it by no rule, counts as under way until now.
        """
        now = time.monotonic()
        refused = {
            each.mark
            for each in self._world.publisher.published
            if each.mark.endswith("unwanted") or all(to.startswith("nobody") for to in each.addresses)
        }
        arrived: dict[str, float] = {}
        for each in self._world.relay.read().acceptances:
            arrived[each.mark] = min(each.at, arrived.get(each.mark, each.at))
        waits = [arrived.get(mark, now) - at for mark, at in self._times.items() if mark not in refused]
        return max(waits, default=0.0)

    def _run(self) -> None:
        publisher = self._world.publisher
        self._over.wait(self._after)
        try:
            while not self._over.is_set():
                before, began = len(publisher.published), time.monotonic()
                publisher.publish(self._few)
                self._times |= {each.mark: began for each in publisher.published[before:]}
                self._over.wait(EVERY)
        except Exception as error:  # noqa: BLE001  told by `stop`
            self._error = error


@contextlib.contextmanager
def neighbour(world: Run, *, few: int = 3, after: float = 0.0) -> Iterator[Neighbour]:
    """One who publishes for as long as the block takes."""
    made = Neighbour(world, few=few, after=after)
    try:
        yield made
    finally:
        made.stop()
