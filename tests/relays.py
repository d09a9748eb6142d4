"""A relay for the loops' unit tests: scripted outcomes, no network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.smtp.port import NotBegun, Permit, RelayAway

ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, text="ok")


@dataclass
class FakeRelay:
    """Accepts all, or does what `answer` says; counts and can hold transactions at their dot."""

    name: str = "relay.example.test:25"
    remark: str = ""
    away: str = ""
    answer: Callable[[str], Result] = lambda address: ACCEPTED
    hold: asyncio.Event | None = None
    before_dot: bool = True
    depth: int = 1
    sent: list[Envelope] = field(default_factory=list)
    connects: int = 0
    under_way: int = 0
    most_under_way: int = 0
    cut_short: int = 0
    not_begun: int = 0
    asked: int = 0
    mute: bool = False
    sessions: list[FakeSession] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return self.name

    def bar_logins(self, barred: Callable[[str], str]) -> None:
        self.barred = barred

    async def connect(self) -> FakeSession:
        self.connects += 1
        if self.away:
            raise RelayAway(self.away, phase="connect")
        session = FakeSession(self)
        self.sessions.append(session)
        return session


class FakeSession:
    """See `FakeRelay`."""

    def __init__(self, relay: FakeRelay) -> None:
        self.relay = relay
        self.closed = False
        self.alive = True
        self.usable = True
        self.under_way = 0
        self.aborted = asyncio.Event()

    async def transact(self, envelope: Envelope, message: bytes, permit: Permit) -> Outcome:
        if not permit.begin():
            self.relay.not_begun += 1
            raise NotBegun
        self.relay.started.set()
        self.relay.under_way += 1
        self.relay.most_under_way = max(self.relay.most_under_way, self.relay.under_way)
        self.under_way += 1
        try:
            return await self._carry(envelope, permit)
        finally:
            self.relay.under_way -= 1
            self.under_way -= 1

    async def _carry(self, envelope: Envelope, permit: Permit) -> Outcome:
        if self.relay.hold is not None:
            held = asyncio.ensure_future(self.relay.hold.wait())
            cut = asyncio.ensure_future(self.aborted.wait())
            await asyncio.wait({held, cut}, return_when=asyncio.FIRST_COMPLETED)
            held.cancel()
            cut.cancel()
        if self.aborted.is_set():
            verdict = Verdict.DEFERRED if self.relay.before_dot else Verdict.UNCERTAIN
            phase = Phase.DATA if self.relay.before_dot else Phase.DOT
            return _alike(envelope, Result(verdict=verdict, phase=phase))
        if not permit.dot():
            lost = Result(verdict=Verdict.DEFERRED, phase=Phase.DATA)
            return _alike(envelope, lost)
        self.relay.sent.append(envelope)
        results = {address: self.relay.answer(address) for address in envelope.recipients}
        if any(result.verdict is not Verdict.UNCERTAIN for result in results.values()):
            permit.replied(results)
        return Outcome(results=results, session_usable=self.usable)

    @property
    def pipeline_depth(self) -> int:
        return self.relay.depth

    @property
    def reusable(self) -> bool:
        return self.alive and self.under_way > 0

    async def check_alive(self, *, ask: bool = False) -> bool:
        ask = ask and not self.under_way
        self.relay.asked += ask
        return self.alive and not (ask and self.relay.mute)

    def abort(self) -> None:
        self.alive = False
        self.aborted.set()

    async def close(self) -> None:
        self.relay.cut_short += self.under_way
        self.closed = True

    @property
    def tls(self) -> str:
        return "TLSv1.3"

    @property
    def supports_smtputf8(self) -> bool:
        return True

    @property
    def supports_8bit(self) -> bool:
        return True


def _alike(envelope: Envelope, result: Result) -> Outcome:
    return Outcome(results=dict.fromkeys(envelope.recipients, result), session_usable=False)
