"""What depends on the order of events within one turn of the loop: no real connection does that on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.smtp.commands import Offers
from mailsender.smtp.protocol import Timeouts
from mailsender.smtp.session import TOGETHER, SmtpSession, Writes
from tests.clocks import ManualClock


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and breaks when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.breaks_at = b"\0"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.breaks_at in bytes(data):
            self.closing = True  # as asyncio does: the callback comes a turn later
        else:
            self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Yes:
    """Permission for everything."""

    asked_for_dot = False
    told: Mapping[str, Result] | None = None

    def begin(self) -> bool:
        return True

    def dot(self) -> bool:
        self.asked_for_dot = True
        return True

    def refused(self, results: Mapping[str, Result]) -> None:
        pass

    def replied(self, results: Mapping[str, Result]) -> None:
        self.told = dict(results)


async def turns() -> None:
    """Until those who waited have gone on, and what they asked for is written."""
    for _ in range(3):
        await asyncio.sleep(0)


def opened(wire: Wire, writes: Writes | None = None) -> SmtpSession:
    return SmtpSession(wire, Offers(), Timeouts(), ManualClock(), writes=writes)


async def at_data(wire: Wire, message: bytes) -> tuple[SmtpSession, asyncio.Task[Outcome], Yes]:
    """A transaction that waits for the answer to DATA."""
    session, go = opened(wire), Yes()
    envelope = Envelope(reverse_path="a@b.c", recipients=("d@e.f",))
    sending = asyncio.create_task(session.transact(envelope, message, go))
    for _ in range(2):
        await turns()
        session.data_received(b"250 Ok\r\n")
    await turns()
    assert wire.written.endswith(b"DATA\r\n")
    return session, sending, go


@pytest.mark.asyncio
@pytest.mark.parametrize("more", [b"421 4.3.2 Bye\r\n", b"250 2.0.0 What?\r\n", b"nonsense\r\n", b"250-half"])
async def test_what_comes_together_with_354_is_heard_before_the_dot_is_said(more: bytes) -> None:
    wire = Wire()
    session, sending, go = await at_data(wire, b"x\r\n")
    session.data_received(b"354 Go on\r\n" + more)
    [result] = (await sending).results.values()
    assert (result.verdict, result.phase) == (Verdict.DEFERRED, Phase.DATA)
    assert not go.asked_for_dot
    assert wire.written.endswith(b"DATA\r\n")


@pytest.mark.asyncio
async def test_a_connection_that_breaks_before_the_turn_of_354_was_lost_before_the_dot() -> None:
    wire = Wire()
    session, sending, go = await at_data(wire, b"x\r\n")
    wire.closing = True  # as asyncio does: the callback comes a turn later
    session.data_received(b"354 Go on\r\n")
    [result] = (await sending).results.values()
    assert (result.verdict, result.phase) == (Verdict.DEFERRED, Phase.DATA)
    assert not go.asked_for_dot
    assert wire.written.endswith(b"DATA\r\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("event", ["eof", "lost", "421"])
async def test_a_connection_lost_in_the_turn_of_354_was_lost_before_the_dot(event: str) -> None:
    wire = Wire()
    session, sending, go = await at_data(wire, b"x\r\n")
    session.data_received(b"354 Go on\r\n")
    if event == "eof":
        session.eof_received()
    elif event == "lost":
        session.connection_lost(ConnectionResetError("reset"))
    else:
        session.data_received(b"421 4.3.2 Bye\r\n")
    [result] = (await sending).results.values()
    assert (result.verdict, result.phase) == (Verdict.DEFERRED, Phase.DATA)
    assert not go.asked_for_dot
    assert wire.written.endswith(b"DATA\r\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("event", ["eof", "lost"])
async def test_a_connection_lost_behind_the_dot_is_uncertain(event: str) -> None:
    wire = Wire()
    session, sending, _ = await at_data(wire, b"x\r\n")
    session.data_received(b"354 Go on\r\n")
    await turns()
    assert wire.written.endswith(b"x\r\n.\r\n")
    if event == "eof":
        session.eof_received()
    else:
        session.connection_lost(ConnectionResetError("reset"))
    [result] = (await sending).results.values()
    assert (result.verdict, result.phase) == (Verdict.UNCERTAIN, Phase.DOT)


@pytest.mark.asyncio
async def test_a_transport_that_breaks_in_the_middle_of_the_message_gets_no_dot() -> None:
    wire = Wire()
    wire.breaks_at = b"last line"
    session, sending, go = await at_data(wire, b"line\r\n" * 100_000 + b"last line\r\n")
    session.data_received(b"354 Go on\r\n")
    [result] = (await sending).results.values()
    assert (result.verdict, result.phase) == (Verdict.DEFERRED, Phase.DATA)
    assert not go.asked_for_dot


@pytest.mark.asyncio
async def test_a_reply_to_the_dot_counts_although_the_connection_went_at_once() -> None:
    session, sending, _ = await at_data(Wire(), b"x\r\n")
    session.data_received(b"354 Go on\r\n")
    await turns()
    session.data_received(b"250 2.0.0 Queued\r\n")
    session.connection_lost(None)
    outcome = await sending
    assert outcome.results["d@e.f"].verdict is Verdict.ACCEPTED
    assert not outcome.session_usable


class Raises(Yes):
    """Permission that cannot be asked for."""

    def dot(self) -> bool:
        raise RuntimeError("a bug")


class RaisesAtOnce(Yes):
    def begin(self) -> bool:
        raise RuntimeError("a bug")


@pytest.mark.asyncio
async def test_a_fault_of_our_own_before_anything_is_said_leaves_nobody_waiting() -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    session = opened(Wire())
    envelope = Envelope(reverse_path="a@b.c", recipients=("d@e.f",))
    outcome = await asyncio.wait_for(session.transact(envelope, b"x\r\n", RaisesAtOnce()), 2)
    assert outcome.results["d@e.f"].verdict is Verdict.DEFERRED
    assert "RuntimeError" in outcome.results["d@e.f"].text
    assert len(complaints) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("message", [b"x\r\n", b"line\r\n" * 100_000], ids=["one write", "streamed"])
async def test_a_fault_of_our_own_leaves_nobody_waiting(message: bytes) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    wire = Wire()
    session = opened(wire)
    envelope = Envelope(reverse_path="a@b.c", recipients=("d@e.f",))
    sending = asyncio.create_task(session.transact(envelope, message, Raises()))
    for reply in (b"250 Ok\r\n", b"250 Ok\r\n", b"354 Go on\r\n"):
        await turns()
        session.data_received(reply)
    outcome = await asyncio.wait_for(sending, 2)
    assert outcome.results["d@e.f"].verdict is Verdict.DEFERRED
    assert "RuntimeError" in outcome.results["d@e.f"].text
    assert not outcome.session_usable
    assert len(complaints) == 1


@pytest.mark.asyncio
async def test_a_reply_to_the_dot_is_told_before_anybody_waits() -> None:
    wire = Wire()
    session, sending, go = await at_data(wire, b"x\r\n")
    session.data_received(b"354 go\r\n")
    await turns()
    assert go.asked_for_dot
    assert go.told is None
    session.data_received(b"250 taken\r\n")
    # Not a turn later: the process may die in between.
    assert go.told is not None
    assert [(r.verdict, r.code) for r in go.told.values()] == [(Verdict.ACCEPTED, 250)]
    await sending


class Notes(Yes):
    """Remembers what was on the wire when a dot was allowed, and whether its reply was known to anybody."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.on_the_wire = b""
        self.sending: asyncio.Task[Outcome] | None = None
        self.known_before = True

    def dot(self) -> bool:
        self.on_the_wire = self.wire.written
        return True

    def replied(self, results: Mapping[str, Result]) -> None:
        super().replied(results)
        assert self.sending is not None
        self.known_before = self.sending.done()


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [1, 100_000], ids=["one write", "streamed"])
async def test_a_dot_is_noted_before_it_is_written_and_its_reply_before_anybody_goes_on(size: int) -> None:
    wire = Wire()
    session, go = opened(wire), Notes(wire)
    envelope = Envelope(reverse_path="a@b.c", recipients=("d@e.f",))
    go.sending = asyncio.create_task(session.transact(envelope, b"line\r\n" * size, go))
    for reply in (b"250 Ok\r\n", b"250 Ok\r\n", b"354 Go on\r\n"):
        await turns()
        session.data_received(reply)
    await turns()
    assert wire.written.endswith(b"line\r\n.\r\n")
    assert go.on_the_wire
    assert not go.on_the_wire.endswith(b"\r\n.\r\n")
    session.data_received(b"250 Taken\r\n")
    assert go.told is not None
    assert go.told["d@e.f"].verdict is Verdict.ACCEPTED
    assert not go.known_before
    assert (await go.sending).results == go.told


@pytest.mark.asyncio
async def test_what_several_sessions_have_to_say_goes_out_together_and_in_order() -> None:
    writes, wires = Writes(), [Wire() for _ in range(TOGETHER)]
    sessions = [opened(wire, writes) for wire in wires]
    for session in sessions[:-1]:
        writes.put(session, b"first ")
    assert not any(wire.written for wire in wires)
    writes.put(sessions[-1], b"first ")
    assert {wire.written for wire in wires} == {b"first "}
    writes.put(sessions[0], b"second ")
    writes.put(sessions[0], b"third")
    await turns()
    assert wires[0].written == b"first second third"


@pytest.mark.asyncio
async def test_a_session_that_failed_in_this_turn_writes_nothing_more() -> None:
    writes, wires = Writes(), [Wire(), Wire()]
    failing, other = (opened(wire, writes) for wire in wires)
    writes.put(failing, b"x")
    writes.put(other, b"x")
    failing.abort()
    await turns()
    assert [wire.written for wire in wires] == [b"", b"x"]


@pytest.mark.asyncio
async def test_a_transport_that_raises_ends_its_own_session_and_no_other() -> None:
    class Raising(Wire):
        def write(self, data: bytes) -> None:
            raise RuntimeError("no more writing")

    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    writes, wires = Writes(), [Raising(), Wire()]
    raising, other = (opened(wire, writes) for wire in wires)
    writes.put(raising, b"x")
    writes.put(other, b"x")
    await turns()
    assert wires[1].written == b"x"
    assert other.alive
    assert not raising.alive
    assert [str(each) for each in told] == ["no more writing"]
    envelope = Envelope(reverse_path="a@b.c", recipients=("d@e.f",))
    outcome = await raising.transact(envelope, b"x\r\n", Yes())
    assert outcome.results["d@e.f"].text == "internal error in writing (RuntimeError)"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"550 5.7.1 rejected: 638037 is your code\r\n", "rejected: ****** is your code"),
        (b"550-rejected: 638\r\n550 037 is your code\r\n", "rejected: ****** is your code"),
        (b"451 4.7.1 638-037, 638037\r\n", "******, ******"),
        (b"250 2.0.0 queued: 638037\r\n", "queued: ******"),
        (b"421 4.3.2 not 638037, bye\r\n", "not ******, bye"),
        (b"550 5.7.1 1638038 is another\r\n", "1638038 is another"),
    ],
)
async def test_a_secret_that_the_relay_repeats_is_masked(reply: bytes, told: str) -> None:
    wire, go = Wire(), Yes()
    session = opened(wire)
    envelope = Envelope(reverse_path="a@b.c", recipients=("d@e.f",), secret="638037")
    sending = asyncio.create_task(session.transact(envelope, b"x\r\n", go))
    for answer in (b"250 Ok\r\n", b"250 Ok\r\n", b"354 Go on\r\n"):
        await turns()
        session.data_received(answer)
    await turns()
    session.data_received(reply)
    await turns()
    if wire.written.endswith(b"RSET\r\n"):
        session.data_received(b"250 Ok\r\n")
    outcome = await asyncio.wait_for(sending, 5)
    assert outcome.results["d@e.f"].text == told
    assert go.told is not None
    assert go.told["d@e.f"].text == told, "what the journal gets is masked, too"
