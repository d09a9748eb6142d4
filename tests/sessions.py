"""What the tests of the relay's adapter share: a session to a scripted relay, letters, permission."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from lab.parts import Certificates
from lab.scripted import ScriptedRelay
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.letter import Envelope, Outcome, Result, Verdict
from mailsender.smtp.connect import SmtpConfig, SmtpRelay
from mailsender.smtp.credentials import Credentials
from mailsender.smtp.protocol import Timeouts
from mailsender.smtp.session import SmtpSession

MESSAGE = b"Subject: Hi\r\n\r\n<p>Hi</p>\r\n"
SENDER = "news@example.org"
A, B, C = "a@example.test", "b@example.test", "c@example.test"
SHORT = 0.15
LARGE = (b"x" * 900 + b"\r\n") * 14_000  # more than the buffers between two ends take
SHORTLY = Timeouts(connect=5, greeting=5, command=5, data=5, block=5, dot=5)
ACCEPTED, DEFERRED, REFUSED, UNCERTAIN = (
    Verdict.ACCEPTED,
    Verdict.DEFERRED,
    Verdict.REFUSED,
    Verdict.UNCERTAIN,
)


@dataclass
class Permit:
    """`Permit` that answers as told, and notes what the relay had heard by then."""

    relay: ScriptedRelay | None = None
    may_begin: bool = True
    may_end: bool = True
    heard_at_begin: list[str] = field(default_factory=list)
    asked_for_dot: int = 0
    told: list[dict[str, Result]] = field(default_factory=list)
    refusals: list[dict[str, Result]] = field(default_factory=list)

    def begin(self) -> bool:
        self.heard_at_begin += self.relay.commands if self.relay else []
        return self.may_begin

    def dot(self) -> bool:
        self.asked_for_dot += 1
        return self.may_end

    def refused(self, results: Mapping[str, Result]) -> None:
        self.refusals.append(dict(results))

    def replied(self, results: Mapping[str, Result]) -> None:
        self.told.append(dict(results))


def server_tls(certificates: Certificates) -> ssl.SSLContext:
    """How a relay speaks TLS with a certificate that only `certificates.ca` vouches for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    return context


def config(host: str, port: int, **changes: Any) -> SmtpConfig:
    account = {name: changes.pop(name) for name in ("user", "password") if name in changes}
    plain = SmtpConfig(
        host=host,
        port=port,
        tls="none",
        credentials=Credentials(**account),
        helo_name="client.example.test",
        timeouts=SHORTLY,
    )
    return replace(plain, **changes)


@asynccontextmanager
async def opened(
    relay: ScriptedRelay, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[SmtpSession]:
    where = {"host": relay.host, "port": relay.port}
    session = await SmtpRelay(config(**(where | changes)), clock or SystemClock()).connect()
    try:
        yield session
    finally:
        await session.close()


async def send(
    session: SmtpSession, *recipients: str, message: bytes = MESSAGE, go: Permit | None = None
) -> Outcome:
    envelope = Envelope(reverse_path=SENDER, recipients=recipients or (A,))
    return await asyncio.wait_for(session.transact(envelope, message, go or Permit()), 20)


def verdicts(outcome: Outcome) -> list[Verdict]:
    return [result.verdict for result in outcome.results.values()]


def mail_commands(relay: ScriptedRelay) -> list[str]:
    """What the relay heard of transactions."""
    return [command for command in relay.commands if not command.startswith(("EHLO", "QUIT"))]
