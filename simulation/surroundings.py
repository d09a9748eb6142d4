"""What a world changes for the whole process while it runs: where logs go, and whence names come."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import structlog

GRAVE = {"ruling_failed", "loop_failed", "outcome_not_written"}
"""Events that tell of a fault of ours, beside all that come with an exception."""


@contextmanager
def logged(seen: list[str]) -> Iterator[None]:
    """Keep what the service logs of its own faults, and let everything else go."""
    before = structlog.get_config()

    def look(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event["event"] in GRAVE or event.get("exc_info"):
            seen.append(f"{event['event']}: {event}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[look],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def named(chance: random.Random) -> Iterator[None]:
    """Let names that are drawn in secret come from the seed, too."""
    with mock.patch("secrets.token_hex", lambda octets: f"{chance.getrandbits(8 * octets):0{2 * octets}x}"):
        yield
