"""From the broker's acknowledgement of a one-letter batch to the letter's arrival; the service is idle,
without a rate.

One letter at a time, at uneven distances, so that no timer of the service is met in step. The letter has
arrived when the sink has read its final dot. All clocks are this machine's one.

    python -m benchmarks.latency
"""

from __future__ import annotations

import json
import random
import time
from statistics import median, quantiles

from confluent_kafka import Producer

from benchmarks.letters import letter
from benchmarks.measure import poll
from benchmarks.parts import Stage
from benchmarks.peers.ours import end, ready, world
from benchmarks.run import alone
from benchmarks.stamping_sink import stamping_sink
from benchmarks.table import Section

LETTERS, WARM_UP = 300, 20
PAUSE = (0.03, 0.09)
"""Seconds between letters: longer than one takes, so that each meets an idle service."""


def measure(stage: Stage) -> Section:
    """One row of milliseconds."""
    with stamping_sink(stage.room("latency")) as sink, world(stage, sink.way()) as here:
        service = ready(here)
        acknowledged = _publish(here.bootstrap, here.topics.letters)
        poll(lambda: len(sink.arrivals()) >= len(acknowledged), "all letters", timeout=60, pause=0.1)
        end(service)
        arrived = {each.recipient: each.arrived_at for each in sink.arrivals()}
    late = sorted((arrived[to] - at) * 1000 for to, at in list(acknowledged.items())[WARM_UP:])
    cuts = (late[0], median(late), quantiles(late, n=100)[98], late[-1])
    return Section(
        "Latency of an idle service",
        ["from acknowledgement to arrival", "min ms", "median ms", "p99 ms", "max ms"],
        [[f"{len(late)} letters, one by one", *(f"{value:.1f}" for value in cuts)]],
    )


def _publish(bootstrap: str, topic: str) -> dict[str, float]:
    """Publish letters one by one; says when the broker acknowledged the one to each first recipient."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
    acknowledged: dict[str, float] = {}
    for number in range(WARM_UP + LETTERS):
        each = letter(number)

        def delivered(error: object, _record: object, to: str = each["Addresses"][0]) -> None:
            assert error is None, error
            acknowledged[to] = time.time()

        producer.produce(topic, json.dumps([each]).encode(), on_delivery=delivered)
        poll(lambda: producer.poll(0.01) > 0, "acknowledgement", timeout=30, pause=0)
        time.sleep(random.uniform(*PAUSE))
    return acknowledged


if __name__ == "__main__":
    alone(measure)
