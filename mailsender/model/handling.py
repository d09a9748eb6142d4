"""What a letter asks of the service: how soon, over which route, until when. Pure values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

NAME: Final = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)
"""What streams and routes are called: they stand in files, on command lines and in metrics."""

MAX_STREAM: Final = 64
"""Characters of a stream or a tag: a label, which stands in logs, metrics and reports."""

MAX_TAGS: Final = 10
"""Tags of a letter."""

MAX_ROUTE: Final = 64
"""Characters of a route's name."""

DENIED: Final = "names no route that letters may choose"
"""What is wrong with the `Route` of a letter that may not have it."""

EXPIRED: Final = "expired"
"""How the reason of a letter begins whose time to be sent was over before anybody took it."""


class Priority(StrEnum):
    """How much a letter matters, as its publisher says."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What was asked; what is empty, or None, was not.

    `stream` and `tags` are the publisher's labels; tags stand in order, each once. `route` is the route that
    the letter names, which need not be the one that it takes. `retry` is a schedule, as
    `mailsender.routing.retry` reads it. It may not be sent before `not_before`, nor after `expire_at`; both
    are in UTC, to the millisecond.
    """

    stream: str = ""
    tags: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    route: str = ""
    retry: str = ""
    not_before: datetime | None = None
    expire_at: datetime | None = None

    def document(self) -> dict[str, Any]:
        """What says something, as it is stored."""
        found: dict[str, Any] = {
            "stream": self.stream,
            "tags": list(self.tags),
            "priority": "" if self.priority is Priority.NORMAL else self.priority.value,
            "route": self.route,
            "retry": self.retry,
            "not_before": self.not_before,
            "expire_at": self.expire_at,
        }
        return {name: value for name, value in found.items() if value}

    @property
    def text(self) -> str:
        """JSON that is the same for all that ask for the same; empty where nothing is asked."""
        return "" if self is PLAIN or self == PLAIN else _text(self)


@lru_cache(maxsize=1000)  # letters of a batch mostly ask for the same, and each is asked for it three times
def _text(handling: Handling) -> str:
    return json.dumps(handling.document(), default=datetime.isoformat, ensure_ascii=False, sort_keys=True)


PLAIN: Final = Handling()
"""That of a letter that asks for nothing, as all that have only the original's keys."""
