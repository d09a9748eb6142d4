"""The targets that need a conversation: a letter on the wire, and a body over HTTP. One process, one loop."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from types import SimpleNamespace
from typing import Any

import aiohttp
from pydantic import SecretStr

from mailsender.admin.operations import ReplicaOperations
from mailsender.intake.placing import Placing
from mailsender.message.compose import BadBody, BadHeader
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Envelope, Letter, Result, Verdict
from mailsender.model.records import Landed, Outgoing
from mailsender.service import Parts
from mailsender.smtp.connect import SmtpConfig, SmtpRelay
from mailsender.smtp.protocol import Timeouts
from mailsender.web.app import make_app, serve
from proof import ledger as books
from proof.fuzz import chance as nasty
from proof.fuzz.targets import COMPOSER, LIMITS, NOW, Judge, make_letter
from proof.plan import Plan
from proof.smtp_server import Relay, serve_one
from proof.wire import Wire

WAITS = Timeouts(connect=10, greeting=10, command=10, data=10, block=10, dot=10)


@dataclass
class Book:
    """A ledger in memory."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    def note(self, kind: str, **more: Any) -> None:
        self.entries.append({"k": kind, **more})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["k"] == kind]


class Permit:
    """Leave to begin and to end."""

    def begin(self) -> bool:
        return True

    def dot(self) -> bool:
        return True

    def refused(self, results: Mapping[str, Result]) -> None:
        pass

    def replied(self, results: Mapping[str, Result]) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Submission:
    """A letter and whom it goes to."""

    letter: Letter
    recipients: tuple[str, ...]


def make_submission(chance: Random) -> Submission:
    """A letter with addresses good and bad."""
    addresses = dict.fromkeys(nasty.address(chance) for _ in range(chance.randint(1, 4)))
    return Submission(make_letter(chance), tuple(addresses))


@contextmanager
def wire_judge() -> Iterator[Judge]:
    """Sends each submission through the service's own dialogue to the strict server."""
    with asyncio.Runner() as runner:
        bench = runner.run(_WireBench.opened())
        try:
            yield lambda submission: runner.run(bench.judge(submission))
        finally:
            runner.run(bench.close())


class _WireBench:
    def __init__(self) -> None:
        self.book = Book()
        self.relay = Relay(self.book, Plan())  # type: ignore[arg-type]
        self.tasks: set[asyncio.Task[None]] = set()
        self.session: Any = None

    @classmethod
    async def opened(cls) -> _WireBench:
        bench = cls()
        loop = asyncio.get_running_loop()
        bench.server = await loop.create_server(bench.connected, "127.0.0.1", 0)
        port = bench.server.sockets[0].getsockname()[1]
        config = SmtpConfig(host="127.0.0.1", port=port, tls="none", helo_name="c.test", timeouts=WAITS)
        bench.client = SmtpRelay(config, SystemClock())
        return bench

    server: asyncio.Server
    client: SmtpRelay

    def connected(self) -> Wire:
        def begin() -> None:
            task = asyncio.get_running_loop().create_task(serve_one(self.relay, wire, encrypted=False))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        wire = Wire(begin)
        return wire

    async def judge(self, submission: Submission) -> str:
        """One message, the envelope's recipients, nothing else."""
        try:
            message = COMPOSER.compose(submission.letter, eight_bit=True, date=NOW)
        except (BadHeader, BadBody):
            return "no message"
        if self.session is None:
            self.session = await self.client.connect()
        self.book.entries.clear()
        envelope = Envelope(reverse_path="news@sender.test", recipients=submission.recipients)
        outcome = await self.session.transact(envelope, message, Permit())
        if not outcome.session_usable:
            await self.session.close()
            self.session = None
        assert set(outcome.results) == set(submission.recipients)
        assert self.book.of(books.VIOLATION) == []
        wanted = [a for a in submission.recipients if outcome.results[a].verdict is Verdict.ACCEPTED]
        taken = self.book.of(books.ACCEPTED)
        assert len(taken) == bool(wanted), (taken, wanted)
        for each in taken:
            assert [_local(a) for a in each["rcpt"]] == [_local(a) for a in wanted]
            assert each["digest"] == blake2b(message, digest_size=12).hexdigest()
        return "accepted" if taken else "no recipient"

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()
        self.server.close()
        await self.server.wait_closed()
        for task in list(self.tasks):
            task.cancel()


def _local(address: str) -> str:
    return address.rpartition("@")[0]


# --- HTTP --------------------------------------------------------------------------------------------


class _Sink:
    """A broker that takes everything."""

    trouble = ""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def trouble_with(self, topic: str) -> str:
        del topic
        return ""

    async def publish(self, records: list[Outgoing]) -> list[Landed]:
        self.values += [record.value or b"" for record in records]
        return [Landed(topic=record.topic, partition=0, offset=0) for record in records]


@contextmanager
def http_judge() -> Iterator[Judge]:
    """Posts each body to the service's own web application."""
    with asyncio.Runner() as runner:
        bench = runner.run(_HttpBench.opened())
        try:
            yield lambda body: runner.run(bench.judge(body))
        finally:
            runner.run(bench.close())


class _HttpBench:
    client: aiohttp.ClientSession
    server: Any

    def __init__(self) -> None:
        self.sink = _Sink()

    @classmethod
    async def opened(cls) -> _HttpBench:
        bench = cls()
        # What takes letters over HTTP touches neither the queue nor what comes in.
        nothing: Any = None
        sink: Any = bench.sink
        replica = SimpleNamespace(
            state="running",
            parts=Parts(queue=nothing, source=nothing, sink=sink, relays={}),
            settings=SimpleNamespace(
                queue_max_letters=0, kafka_topic_mailsender="t", variables={}, code_secret=SecretStr("")
            ),
            queue_full=None,
            tidier=SimpleNamespace(stats=None),
            limits=LIMITS,
            clock=SystemClock(),
            suppression=None,
            placing=Placing(),
        )
        operations = ReplicaOperations(replica)  # type: ignore[arg-type]
        app = make_app(operations, api_key="", max_bytes=20_000, timeout=20)
        bench.server = await serve(app, "127.0.0.1", 0)
        bench.client = aiohttp.ClientSession()
        return bench

    async def judge(self, body: bytes) -> str:
        """200 and a batch that can be read and has IDs, or 4xx and what is wrong; nothing in between."""
        self.sink.values.clear()
        url = f"http://127.0.0.1:{self.server.port}/post"
        async with self.client.post(url, data=body) as answer:
            said = json.loads(await answer.read())
            status = answer.status
        if status == 200:
            (value,) = self.sink.values
            elements = json.loads(value)
            assert len(said["ids"]) == len(elements) == len(json.loads(body))
            assert all(re.fullmatch(r"[0-9a-f]{24}", each) for each in said["ids"]), said
            return "200"
        assert status in {400, 413}, (status, said)
        assert said["status"] == status
        assert said["detail"]
        assert self.sink.values == []
        return str(status)

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()
