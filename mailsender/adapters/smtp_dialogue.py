"""The transaction: MAIL, RCPT, DATA and the dot (RFC 5321 §3.3), and what became of each recipient.

It is our own, not the library's, because everything turns on knowing *when* a connection was lost:
before the dot nothing was sent, after it nobody knows.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from mailsender.adapters.smtp_channel import Channel, Lost
from mailsender.address import Address, BadAddress, parse_address
from mailsender.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.ports import Clock, Go, NotBegun
from mailsender.reply import Kind, Reply

PROBE_AFTER = 3.0
"""Seconds of idling after which a session is asked whether it is still there."""

PROBE_TIMEOUT = 5.0
"""Seconds that the answers to NOOP and QUIT may take: no letter depends on them."""

ONE_WRITE = 16 * 1024
"""Octets up to which message and dot go out together: they fit into any socket's buffer."""

_VERDICTS = {
    Kind.COMPLETED: Verdict.ACCEPTED,
    Kind.TRANSIENT: Verdict.DEFERRED,
    Kind.PERMANENT: Verdict.REFUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that each step may take; the defaults are those of RFC 5321 §4.5.3.2."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0
    dot: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The extensions that matter here. `size` is the largest message in octets, 0 for no stated limit."""

    eight_bit: bool = False
    smtputf8: bool = False
    sizes: bool = False
    size: int = 0

    @classmethod
    def of(cls, extensions: dict[str, str]) -> Offers:
        """What an EHLO reply offers; `extensions` maps keywords in lower case to their parameters."""
        limit = extensions.get("size", "").strip()
        return cls(
            eight_bit="8bitmime" in extensions,
            smtputf8="smtputf8" in extensions,
            sizes="size" in extensions,
            size=int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be said in a transaction: the MAIL command, and one RCPT for each recipient.

    `results` holds those who are refused without a word to the relay.
    """

    mail: bytes
    rcpts: dict[str, bytes]
    results: dict[str, Result]


def plan(envelope: Envelope, message: bytes, offers: Offers) -> Plan:
    """Decide what to say. No address can add a command or a parameter: only our own grammar passes.

    Raises:
        ValueError: `message` holds a CR or LF that is no line end: a relay might see a dot, and the
            end of the message, where we see none.
    """
    if not message.count(b"\r\n") == message.count(b"\r") == message.count(b"\n"):
        raise ValueError("the message holds a bare CR or LF")
    try:
        sender = parse_address(envelope.reverse_path) if envelope.reverse_path else None
    except BadAddress as error:
        return _refused_whole(envelope, "5.1.7", f"the reverse-path is no address: {error}")
    if sender and sender.needs_smtputf8 and not offers.smtputf8:
        return _refused_whole(envelope, "5.6.7", "the sender's address needs SMTPUTF8, which the relay lacks")
    if offers.size and len(message) > offers.size:
        text = f"the message has {len(message)} octets and the relay takes at most {offers.size}"
        return _refused_whole(envelope, "5.3.4", text)
    taken: dict[str, Address] = {}
    results: dict[str, Result] = {}
    for recipient in dict.fromkeys(envelope.recipients):
        try:
            address = parse_address(recipient)
        except BadAddress as error:
            results[recipient] = _refused(Phase.RCPT, "5.1.3", f"not an address: {error}")
            continue
        if address.needs_smtputf8 and not offers.smtputf8:
            results[recipient] = _refused(Phase.RCPT, "5.6.7", "it needs SMTPUTF8, which the relay lacks")
        else:
            taken[recipient] = address
    utf8 = bool(sender and sender.needs_smtputf8) or any(a.needs_smtputf8 for a in taken.values())
    parameters = (
        f" SIZE={len(message)}" if offers.sizes else "",
        " BODY=8BITMIME" if offers.eight_bit and not message.isascii() else "",
        " SMTPUTF8" if utf8 else "",
    )
    return Plan(
        mail=f"MAIL FROM:<{sender.wire if sender else ''}>{''.join(parameters)}\r\n".encode(),
        rcpts={name: f"RCPT TO:<{address.wire}>\r\n".encode() for name, address in taken.items()},
        results=results,
    )


def _refused(phase: Phase, enhanced: str, text: str) -> Result:
    return Result(verdict=Verdict.REFUSED, phase=phase, enhanced=enhanced, text=text)


def _refused_whole(envelope: Envelope, enhanced: str, text: str) -> Plan:
    result = _refused(Phase.MAIL, enhanced, text)
    return Plan(mail=b"", rcpts={}, results=dict.fromkeys(envelope.recipients, result))


def stuffed(message: bytes) -> bytes:
    """`message` with its leading dots doubled (RFC 5321 §4.5.2) and its last line ended."""
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    if message.startswith(b"."):
        message = b"." + message
    return message.replace(b"\r\n.", b"\r\n..")


@dataclass(slots=True)
class _Transaction:
    """How far one transaction has come, and what is settled. `waiting` are those not yet settled."""

    waiting: dict[str, bytes]
    results: dict[str, Result]
    phase: Phase = Phase.MAIL
    some_taken: bool = False

    def settle(self, recipient: str, reply: Reply) -> None:
        """Note what `reply`, which came in this phase, means for `recipient`."""
        verdict = _VERDICTS[reply.kind]
        if reply.code == 552 and self.phase is Phase.RCPT and self.some_taken and reply.enhanced is None:
            verdict = Verdict.DEFERRED  # "too many recipients" of old: RFC 5321 §4.5.3.1.10
        if reply.code == 530:
            verdict = (
                Verdict.DEFERRED
            )  # "authentication required" (RFC 4954 §6): our settings, not the letter
        del self.waiting[recipient]
        self.results[recipient] = Result(
            verdict=verdict, phase=self.phase, code=reply.code, enhanced=reply.enhanced, text=reply.text
        )

    def settle_all(self, reply: Reply) -> None:
        """Note what `reply` means for everybody left."""
        for recipient in list(self.waiting):
            self.settle(recipient, reply)

    def lost(self, lost: Lost) -> None:
        """Note that the connection is gone: everybody left is deferred, after the dot uncertain."""
        result = Result(
            verdict=Verdict.UNCERTAIN if self.phase is Phase.DOT else Verdict.DEFERRED,
            phase=self.phase,
            code=lost.reply.code if lost.reply else None,
            enhanced=lost.reply.enhanced if lost.reply else None,
            text=str(lost),
        )
        self.results.update(dict.fromkeys(self.waiting, result))
        self.waiting.clear()


class SmtpSession:
    """See `mailsender.ports.Session`."""

    def __init__(self, channel: Channel, offers: Offers, timeouts: Timeouts, clock: Clock) -> None:
        self._channel = channel
        self._offers = offers
        self._timeouts = timeouts
        self._patience = {Phase.DATA: timeouts.data, Phase.DOT: timeouts.dot}
        self._clock = clock
        self._used = clock.monotonic()

    def accepts_8bit(self) -> bool:
        """See `Session`."""
        return self._offers.eight_bit

    async def transact(self, envelope: Envelope, message: bytes, go: Go) -> Outcome:
        """See `Session`.

        Raises:
            NotBegun: `go.begin()` said no.
            ValueError: `message` holds a bare CR or LF.
        """
        said = plan(envelope, message, self._offers)
        transaction = _Transaction(waiting=dict(said.rcpts), results=said.results)
        if said.rcpts:
            await self._carry(transaction, said, message, go)
        self._used = self._clock.monotonic()
        return Outcome(
            results={recipient: transaction.results[recipient] for recipient in envelope.recipients},
            session_usable=self._channel.alive,
        )

    async def _carry(self, transaction: _Transaction, said: Plan, message: bytes, go: Go) -> None:
        """Go through the steps until everybody is settled."""
        if not self._channel.alive:
            transaction.lost(self._channel.fault)
            return
        if not go.begin():
            raise NotBegun
        try:
            taken = await self._envelope(transaction, said) and await self._content(transaction, message, go)
            if not taken:
                await self._reset()
        except Lost as lost:
            transaction.lost(lost)

    async def _envelope(self, transaction: _Transaction, said: Plan) -> bool:
        """MAIL and RCPT; False when nobody is left to send to."""
        reply = await self._ask(said.mail, Phase.MAIL, Kind.COMPLETED)
        if reply.kind is not Kind.COMPLETED:
            transaction.settle_all(reply)
            return False
        transaction.phase = Phase.RCPT
        for recipient, command in said.rcpts.items():
            reply = await self._ask(command, Phase.RCPT, Kind.COMPLETED)
            if reply.kind is Kind.COMPLETED:
                transaction.some_taken = True
            else:
                transaction.settle(recipient, reply)
        return bool(transaction.waiting)

    async def _content(self, transaction: _Transaction, message: bytes, go: Go) -> bool:
        """DATA, the message and the dot; False when the relay did not take it."""
        transaction.phase = Phase.DATA
        reply = await self._ask(b"DATA\r\n", Phase.DATA, Kind.INTERMEDIATE)
        if reply.kind is Kind.INTERMEDIATE:
            reply = await self._message(transaction, stuffed(message), go)
        transaction.settle_all(reply)
        return reply.kind is Kind.COMPLETED

    async def _message(self, transaction: _Transaction, body: bytes, go: Go) -> Reply:
        """The message and, only when `go` allows, its end."""
        if len(body) > ONE_WRITE:
            await self._channel.write(body, self._timeouts.block)
            body = b""
        self._channel.check()  # what is lost from here on counts as lost after the dot
        if not go.dot():
            self._channel.fail("given up before the end of the message was sent")
            raise self._channel.fault
        transaction.phase = Phase.DOT
        return await self._ask(body + b".\r\n", Phase.DOT, Kind.COMPLETED)

    async def _reset(self) -> None:
        """Clear what a refused transaction left behind, so that it cannot poison the next one."""
        try:
            reply = await self._ask(b"RSET\r\n", Phase.RSET, Kind.COMPLETED)
        except Lost:
            return  # everybody is settled; that the session is over shows in its state
        if reply.kind is not Kind.COMPLETED:
            self._channel.fail(f"the relay refused RSET: {reply}", reply)

    async def _ask(self, command: bytes, phase: Phase, wanted: Kind) -> Reply:
        """Ask, and end the session on 421 and on a reply that is no answer to this.

        Raises:
            Lost: there is no answer, or none that has a meaning here.
        """
        reply = await self._channel.ask(command, self._patience.get(phase, self._timeouts.command))
        if reply.kind < Kind.TRANSIENT and reply.kind is not wanted:
            self._channel.fail(f"the relay answered {reply.code} where that has no meaning", reply)
            raise self._channel.fault
        if reply.code == 421:  # RFC 5321 §3.8: it closes the connection, whatever was asked
            self._channel.fail(f"the relay ends the session: {reply}", reply)
            if phase is not Phase.DOT:
                raise self._channel.fault
        return reply

    async def ready(self) -> bool:
        """See `Session`."""
        if self._channel.alive and self._clock.monotonic() - self._used > PROBE_AFTER:
            try:
                await self._ask_shortly(b"NOOP\r\n")
            except Lost:
                return False
            self._used = self._clock.monotonic()
        return self._channel.alive

    async def try_sender(self, reverse_path: str) -> Result:
        """See `Session`."""
        # Without a message there is no size to declare, and as its own recipient it gets a result.
        said = plan(
            Envelope(reverse_path=reverse_path, recipients=(reverse_path,)),
            b"",
            replace(self._offers, sizes=False),
        )
        asked = _Transaction(waiting=dict(said.rcpts), results=said.results)
        if said.rcpts:
            try:
                asked.settle_all(await self._ask(said.mail, Phase.MAIL, Kind.COMPLETED))
                await self._reset()
            except Lost as lost:
                asked.lost(lost)
        return asked.results[reverse_path]

    async def _ask_shortly(self, command: bytes) -> None:
        reply = await self._channel.ask(command, min(PROBE_TIMEOUT, self._timeouts.command))
        if reply.kind is not Kind.COMPLETED:
            self._channel.fail(f"the relay answered {reply}", reply)

    def abort(self) -> None:
        """See `Session`."""
        self._channel.fail("the session was cut off here")

    async def close(self) -> None:
        """See `Session`."""
        if self._channel.alive:
            with suppress(Lost):  # it was to end anyway
                await self._ask_shortly(b"QUIT\r\n")
        await self._channel.close()
