"""Letters per second of the main job beside a bare aiosmtplib loop, in one run on one machine.

    python -m benchmarks.main_job [LETTERS]

A preloaded topic on a real Kafka, a real mongod (majority, journaled), Postfix's smtp-sink; the service is
measured from its start until the last report is marked. CPU seconds are the service's own process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import aiosmtplib

from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod
from tests.acceptance.harness import Replica, World
from tests.parts import SmtpSink, Topics, running, wait_until

BATCH = 6
BODY = "<p>" + "мир и труд " * 70 + "</p>"
SESSIONS = 10


def bench_letter(number: int) -> dict[str, object]:
    addresses = [f"one{number}@example.test", f"two{number}@example.test"]
    return {"Subject": f"Письмо {number}", "Body": BODY, "Addresses": addresses, "Token": str(number)}


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def ours(
    letters: int, broker: KafkaBroker, mongod: Mongod, sink: SmtpSink, directory: Path
) -> dict[str, float]:
    world = World(directory, broker.bootstrap, mongod.uri, "bench", Topics.unique(), sink.port)
    world.create_topics()
    world.settings = {"SMTP_MAX_SENDERS": str(SESSIONS), "MONGODB_LEASE": "60s"}
    world.publish(
        [[bench_letter(n) for n in range(at, min(at + BATCH, letters))] for at in range(0, letters, BATCH)]
    )
    service = world.replica()
    began = time.monotonic()
    service.start()
    try:
        with world.letters() as collection:
            wait_until(
                lambda: collection.count_documents({"reported": True}) >= letters,
                "the last report marked",
                600,
            )
        took = time.monotonic() - began
        result = {"letters_per_s": letters / took, **costs(service, letters)}
    finally:
        service.terminate()
        assert service.wait_exit() == 0
        world.close()
    return result


def costs(service: Replica, letters: int) -> dict[str, float]:
    pid = service.child.pid
    return {"cpu_s_per_1000": cpu_of(pid) / letters * 1000, "rss_mb": peak_mb(pid)}


def bare(letters: int, sink: SmtpSink) -> dict[str, float]:
    """The same letter through as many aiosmtplib sessions, and nothing else."""
    text = (
        "From: s@example.test\r\nTo: undisclosed-recipients:;\r\nSubject: x\r\n"
        "Content-Type: text/html; charset=utf-8\r\n\r\n" + BODY + "\r\n"
    ).encode()

    async def sender(share: int) -> None:
        client = aiosmtplib.SMTP(hostname=sink.host, port=sink.port, start_tls=False)
        await client.connect()
        for number in range(share):
            await client.sendmail(
                "s@example.test", [f"one{number}@example.test", f"two{number}@example.test"], text
            )
        await client.quit()

    async def all_of_them() -> None:
        await asyncio.gather(*(sender(letters // SESSIONS) for _ in range(SESSIONS)))

    import uvloop

    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    uvloop.run(all_of_them())
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "letters_per_s": letters / took,
        "cpu_s_per_1000": cpu / letters * 1000,
        "rss_mb": after.ru_maxrss / 1024,
    }


def main() -> None:
    letters = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            running(KafkaBroker(directory / "kafka")) as broker,
            running(Mongod(directory / "mongod")) as mongod,
            running(SmtpSink(directory / "sink")) as sink,
        ):
            loop = bare(letters, sink)
            service = ours(letters, broker, mongod, sink, directory)
    rows = [{"name": "mailsender", **service}, {"name": "bare aiosmtplib loop", **loop}]
    for row in rows:
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))
    print(f"ratio {service['letters_per_s'] / loop['letters_per_s']:.2f}")


if __name__ == "__main__":
    main()
