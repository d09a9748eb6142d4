"""Where the time of one round goes: a profile of the service by py-spy, and its commands to MongoDB.

The profile samples the threads that hold Python's lock, a hundred times a second; the commands are counted by
mongod itself, those of its own upkeep left out. The service runs as plain Python, for py-spy sees nothing of
compiled functions.

    python -m benchmarks.where
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from benchmarks.letters import batches
from benchmarks.parts import Stage
from benchmarks.peers.ours import await_answers, check, end, first_fetch, world
from benchmarks.run import alone
from benchmarks.table import Section

LETTERS, BATCH = 40_000, 100

AREAS = (
    ("handing octets to the relay's socket", ("SmtpSession.write (",)),
    ("composing messages", ("mailsender/message/compose.py",)),
    ("making and encoding reports", ("mailsender/reports/report.py",)),
    ("publishing and noting them", ("mailsender/reports/publisher.py", "mailsender/kafka/producer.py")),
    ("Kafka's client", ("aiokafka/", "mailsender/kafka/")),
    ("documents and MongoDB's driver", ("mailsender/queue/mongo/", "pymongo/", "bson/", "motor/")),
    ("decoding batches", ("mailsender/intake/",)),
    ("settling", ("mailsender/sending/settler.py", "mailsender/sending/attempt.py")),
    ("the dialogue with the relay", ("mailsender/smtp/",)),
    ("handing letters to senders and on", ("mailsender/sending/", "mailsender/routing/")),
)
"""What a sample is counted under: the first whose mark stands in its stack."""

COMMANDS = ("insert", "update", "find", "getMore", "count", "aggregate", "findAndModify")


def measure(stage: Stage) -> Section:
    """Shares of the profile, largest first; the commands are in the notes."""
    with world(stage, plain=True) as here, MongoClient[dict[str, Any]](stage.mongod.uri) as client:
        here.publish(batches(LETTERS, BATCH))
        before, sunk = _commands(client), stage.sink.received()
        service = here.replica()
        service.start()
        first_fetch(service)
        raw = stage.room("where") / "stacks.txt"
        spy = _spy(service.child.pid, raw)
        await_answers(here, LETTERS)
        counted = {name: number - before[name] for name, number in _commands(client).items()}
        spy.send_signal(signal.SIGINT)  # on SIGTERM it writes nothing
        spy.wait(30)
        end(service)
        check(here, LETTERS, stage.sink.received() - sunk)
    shares = _shares(raw.read_text().splitlines())
    total = sum(shares.values()) or 1
    said = ", ".join(f"{number / LETTERS * 1000:.1f} {name}" for name, number in counted.items() if number)
    return Section(
        "Where the time goes",
        ["work", "share of the samples"],
        [[area, f"{number / total:.0%}"] for area, number in shares.most_common()],
        [f"Commands to MongoDB per 1000 letters: {said}.", f"{total} samples, {LETTERS} letters."],
    )


def _spy(pid: int, raw: Path) -> subprocess.Popen[bytes]:
    """py-spy, until it is told to stop."""
    program = Path(sys.executable).with_name("py-spy")
    command = [
        program,
        "record",
        "--gil",
        "--rate",
        "100",
        "--format",
        "raw",
        "--output",
        raw,
        "--pid",
        str(pid),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _commands(client: MongoClient[dict[str, Any]]) -> Counter[str]:
    known = client.admin.command("serverStatus")["metrics"]["commands"]
    return Counter({name: known[name]["total"] for name in COMMANDS if name in known})


def _shares(stacks: Iterable[str]) -> Counter[str]:
    """Samples by area; those from before the service ran, its imports, are left out."""
    found: Counter[str] = Counter()
    for line in stacks:
        stack, _, number = line.rpartition(" ")
        if "run_service" not in stack and "thread.py" not in stack:
            continue
        found[_area(stack)] += int(number)
    return found


def _area(stack: str) -> str:
    for area, marks in AREAS:
        if any(mark in stack for mark in marks):
            return area
    return "the event loop and the rest"


if __name__ == "__main__":
    alone(measure)
