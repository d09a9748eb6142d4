"""For how long MongoDB is away after a blow: from the blow until a majority has a write again.

A new primary says that it is one up to a second before the others follow it. Until they do no settlement is
acknowledged, so a sender that is killed then takes what it knows with it, and another blow may undo what it
wrote. So such a break ends with what any client sees: the answer to a write that was begun after the blow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from proof.history import Break

DATABASE, COLLECTION = "proof", "writes"
LONGEST = 60.0
"""Seconds after which a MongoDB that does not come back is a fault of the experiment."""


class Outages:
    """Looks for the ends of outages while the experiment goes on. Breaks go to `note`, faults to `fault`."""

    def __init__(self, uri: str, note: Callable[[Break], None], fault: Callable[[str], None]) -> None:
        self._uri = uri
        self._note = note
        self._fault = fault
        self._threads: list[threading.Thread] = []

    def since(self, what: str, start: float) -> None:
        """A blow that began at `start` has fallen; its break is noted when a write is answered."""
        thread = threading.Thread(target=self._watch, args=(what, start), name="outage", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Wait until the ends of all outages are known."""
        while self._threads:
            self._threads.pop().join()

    def _watch(self, what: str, start: float) -> None:
        answered = written(self._uri, LONGEST)
        self._note(Break(what=what, start=start, end=time.monotonic()))
        if not answered:
            self._fault(f"{what}: MongoDB took no write for {LONGEST:g} s")


def written(uri: str, timeout: float) -> bool:
    """Write until a majority has it; whether it had it within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    # Each try is a write of its own, and none waits for long: the server that it went to may be frozen.
    with MongoClient[dict[str, Any]](
        uri, retryWrites=False, serverSelectionTimeoutMS=1000, connectTimeoutMS=1000, socketTimeoutMS=3000
    ) as client:
        concern = WriteConcern(w="majority", j=True, wtimeout=2000)
        writes = client[DATABASE].get_collection(COLLECTION, write_concern=concern)
        while time.monotonic() < deadline:
            try:
                writes.insert_one({})
            except PyMongoError:
                time.sleep(0.01)  # a server that refuses at once must not be asked all the time
            else:
                return True
    return False
