"""The process behind `MockBroker`: librdkafka's in-memory broker, until SIGTERM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from confluent_kafka.admin import AdminClient


def main() -> None:
    """Start the broker and write its port into the file named on the command line."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    admin = AdminClient({"bootstrap.servers": "", "test.mock.num.brokers": 1})
    (broker,) = admin.list_topics(timeout=10).brokers.values()
    told = Path(sys.argv[1])
    fresh = told.with_suffix(".new")
    fresh.write_text(str(broker.port), "utf-8")
    fresh.replace(told)
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    main()
