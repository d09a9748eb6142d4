"""The relay of the experiments: strict, scripted, and with a ledger. A process of its own.

    python -m proof.smtp_server --port N --ledger FILE --control SOCKET [--cert PEM --key PEM] [--plan JSON]
                                [--places N]

It may listen at further addresses of the loopback, its places, of which each may have a plan of its own; what
happens there stands in the ledger with the place.

The control socket (Unix) takes one JSON object a line and answers with one:

    {"do": "plan", "plan": {...}}                    follow another plan, see `proof.plan`
    {"do": "count"}                                  what was counted so far
    {"do": "wait", "what": "accepted", "count": 9}   answers once so many were accepted (mails, sessions …)
    {"do": "kill", "pid": 1, "in": 9, "when": "dot" | "before" | "after"}
        SIGKILL to the process group at the ninth acceptance from now, which stands in the ledger by then,
        before or after its 250 is handed to the kernel; with "dot" before it is decided on
    {"do": "living", "within": 1.0}
        answers once no client has a session, or says after so many seconds how many have one
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from proof import ledger as books
from proof.control import Control
from proof.ledger import LedgerFile
from proof.plan import Deed, Plan
from proof.strict import (
    NotACommand,
    command_fault,
    end_of_message,
    look_at,
    mailbox,
    message_faults,
    path_of,
    unstuffed,
)
from proof.wire import Gone, Wire

NAME, HOST = "ledger.example.test", "127.0.0.1"
BLIND_DOMAIN = b"to.example.test"
"""The domain of all recipients of the experiments: an address in it has no business in any message."""

GOOD = {"MAIL": "250 2.1.0 Ok", "RCPT": "250 2.1.5 Ok", "DATA": "354 Go ahead", "DOT": "250 2.0.0 Taken"}

# RFC 2920 §3.1: these end a group of commands, so nothing may come behind them before their reply.
_LAST_OF_A_GROUP = {"EHLO", "HELO", "DATA", "STARTTLS", "AUTH", "QUIT", "NOOP", "VRFY", "EXPN"}


@dataclass(slots=True)
class Killing:
    """Whom to kill at which acceptance."""

    pid: int
    at: int
    when: str


@dataclass(slots=True)
class Relay:
    """What all sessions share."""

    book: LedgerFile
    plan: Plan
    tls: ssl.SSLContext | None = None
    counts: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    killing: Killing | None = None
    wires: set[Wire] = field(default_factory=set)

    async def living(self, within: float) -> int:
        """How many of those who are connected now have not ended it `within` so many seconds."""
        ends = [asyncio.ensure_future(wire.end()) for wire in self.wires]
        if not ends:
            return 0
        _, living = await asyncio.wait(ends, timeout=within)
        for each in living:
            each.cancel()
        return len(living)

    def count(self, what: str) -> None:
        """Count, and wake whoever waits for it."""
        self.counts[what] += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def kill_if_due(self, when: str) -> None:
        """Kill whom we were told to kill, if this is the moment."""
        due = self.killing
        decided = self.counts["accepted"] + (when == "dot")
        if due and due.when == when and decided >= due.at:
            self.killing = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(due.pid, signal.SIGKILL)
            self.count("killed")


@dataclass(slots=True)
class Transaction:
    """From MAIL to the dot."""

    mail_at: float
    eight_bit: bool
    recipients: list[str] = field(default_factory=list)


class Session:
    """One connection."""

    def __init__(self, relay: Relay, wire: Wire, number: int, *, encrypted: bool) -> None:
        self._relay = relay
        self._wire = wire
        self._name = f"{os.getpid()}.{number}"
        self._encrypted = encrypted
        self._place = place_of(wire.host)
        self._greeted = False
        self._known = False
        self._transaction: Transaction | None = None

    async def run(self) -> None:
        """Talk until one side has enough of it."""
        if self._place:
            self._relay.book.note(books.SESSION, session=self._name, place=self._place)
        await self._answer("GREETING", f"220 {NAME} ESMTP")
        while (line := await self._wire.line()) is not None:
            fault = command_fault(line)
            if fault:
                self._violation(fault, line)
                self._wire.say("500 5.5.2 Syntax")
                continue
            text = line.decode("utf-8", "surrogateescape")
            verb = text.partition(" ")[0].upper()
            if verb == "QUIT":
                self._wire.say("221 2.0.0 Bye")
                await self._wire.flush()
                return
            await self._obey(verb, text)

    async def _obey(self, verb: str, text: str) -> None:
        piped = self._wire.more_waits
        if piped and (verb in _LAST_OF_A_GROUP or not self._offers("pipelining", default=True)):
            self._violation(f"more came behind {verb} before its reply", b"")
        handler = {
            "EHLO": self._ehlo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
        }.get(verb)
        if handler:
            await handler(text)
        elif verb in {"RSET", "NOOP", "HELO"}:
            self._transaction = None if verb != "NOOP" else self._transaction
            self._greeted = self._greeted or verb == "HELO"
            self._wire.say("250 2.0.0 Ok")
        else:
            self._violation("an unknown command", text.encode("utf-8", "surrogateescape"))
            self._wire.say("502 5.5.1 Unknown")

    # --- the commands ----------------------------------------------------------------------------

    async def _ehlo(self, text: str) -> None:
        self._greeted, self._transaction = True, None
        lines = [NAME, "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self._offers("pipelining", default=True):
            lines.append("PIPELINING")
        if (
            self._relay.tls
            and not self._encrypted
            and self._relay.plan.offer("tls", "starttls") == "starttls"
        ):
            lines.append("STARTTLS")
        if self._relay.plan.offer("auth", False):
            lines.append("AUTH PLAIN LOGIN")
        good = "\r\n".join(f"250{' ' if line is lines[-1] else '-'}{line}" for line in lines)
        await self._answer("EHLO", good, text)

    async def _starttls(self, text: str) -> None:
        if self._relay.tls is None or self._encrypted:
            self._wire.say("503 5.5.1 Not now")
            return
        if await self._answer("STARTTLS", "220 2.0.0 Go ahead", text):
            await self._wire.flush()
            await self._wire.encrypt(self._relay.tls)
            self._encrypted, self._greeted = True, False

    async def _auth(self, text: str) -> None:
        if not self._relay.plan.offer("auth", False):
            self._violation("AUTH, which was not offered", b"")
            self._wire.say("502 5.5.1 Not offered")
            return
        words = text.split(" ")
        for _ in range({"PLAIN": 1, "LOGIN": 2}.get(words[1].upper(), 0) - len(words[2:])):
            self._wire.say("334 ")
            await self._wire.line()
        self._known = await self._answer("AUTH", "235 2.7.0 Welcome", "AUTH")

    async def _mail(self, text: str) -> None:
        place = {"place": self._place} if self._place else {}
        self._relay.book.note(books.MAIL, session=self._name, alive=self._wire.alive, **place)
        self._relay.count("mails")
        if not self._greeted or self._transaction or (self._offers("auth") and not self._known):
            self._violation("MAIL out of order", text.encode())
            self._wire.say("503 5.5.1 Out of order")
            return
        parameters = self._path("MAIL", text)
        if parameters is None:
            return
        # From here on it counts as begun, even when the answer is that the client may not.
        begun = Transaction(time.monotonic(), parameters.get("BODY", "").upper() == "8BITMIME")
        if await self._answer("MAIL", GOOD["MAIL"], text):
            self._transaction = begun

    async def _rcpt(self, text: str) -> None:
        if self._transaction is None:
            # Behind a refused MAIL of the same group that is as it should be (RFC 2920 §3.1).
            self._wire.say("503 5.5.1 No MAIL")
            return
        if self._path("RCPT", text) is None:
            return
        if await self._answer("RCPT", GOOD["RCPT"], text):
            self._transaction.recipients.append(mailbox(text[text.index("<") + 1 : text.rindex(">")]))

    def _path(self, verb: str, text: str) -> dict[str, str] | None:
        try:
            address, parameters = path_of(verb, text)
        except NotACommand as error:
            self._violation(str(error), b"")
            self._wire.say("501 5.5.4 Syntax")
            return None
        if not address.isascii() and verb == "MAIL" and "SMTPUTF8" not in parameters:
            self._violation("a path beyond ASCII without SMTPUTF8", text.encode())
        unknown = parameters.keys() - {"SIZE", "BODY", "SMTPUTF8"}
        if unknown:
            self._violation(f"parameters that were not offered: {sorted(unknown)}", b"")
        return parameters

    async def _data(self, text: str) -> None:
        taken = self._transaction
        if taken is None or not taken.recipients:
            self._wire.say("554 5.5.1 No valid recipients")
            self._transaction = None
            return
        if not await self._answer("DATA", GOOD["DATA"], text):
            self._transaction = None
            return
        await self._wire.flush()
        raw = await self._message()
        self._transaction = None
        await self._dot(taken, raw)

    async def _message(self) -> bytes:
        searched = 0
        while (found := end_of_message(self._wire.buffer, searched)) is None:
            searched = len(self._wire.buffer)
            await self._wire.more()
        end, following = found
        raw = bytes(self._wire.buffer[:end])
        del self._wire.buffer[:following]
        return raw

    # --- the dot ---------------------------------------------------------------------------------

    async def _dot(self, taken: Transaction, raw: bytes) -> None:
        for fault in message_faults(raw, eight_bit=taken.eight_bit):
            self._violation(fault, b"")
        seen = look_at(unstuffed(raw), taken.recipients, BLIND_DOMAIN)
        self._relay.kill_if_due("dot")
        deed = self._relay.plan.at("DOT", seen.mark, self._place)
        if deed is not None and deed.do != "reply":
            self._relay.book.note(books.DOUBTED, session=self._name, mark=seen.mark)
        delay = self._relay.plan.delay("DOT")
        if delay and deed is None:
            await asyncio.sleep(delay)
        if deed is not None and not deed.accepts:
            self._relay.book.note(
                books.REFUSED, session=self._name, mark=seen.mark, text=deed.text or deed.do
            )
            await self._do(deed, GOOD["DOT"])
            return
        self._relay.book.note(
            books.ACCEPTED,
            session=self._name,
            mark=seen.mark,
            id=seen.message_id,
            rcpt=taken.recipients,
            mail_m=taken.mail_at,
            digest=seen.digest,
            size=seen.size,
            told=deed is None or deed.tells,
            leaked=seen.leaked,
        )
        self._relay.count("accepted")
        self._relay.kill_if_due("before")
        if deed is None:
            self._wire.say(GOOD["DOT"])
        else:
            await self._do(deed, GOOD["DOT"])
        if self._relay.killing and not self._wire.more_waits:
            await self._wire.flush()
            self._relay.kill_if_due("after")

    # --- answers ---------------------------------------------------------------------------------

    async def _answer(self, phase: str, good: str, argument: str = "") -> bool:
        """Give the good reply, or do what the plan wants; whether the client may go on from it."""
        deed = self._relay.plan.at(phase, argument, self._place)
        if deed is not None and deed.do == "late" and phase == "DATA":  # a message comes, whose ever it is
            self._relay.book.note(books.DOUBTED, session=self._name, mark=f"?{self._name}")
        if deed is None:
            if delay := self._relay.plan.delay(phase):
                await asyncio.sleep(delay)
            self._wire.say(good)
            return True
        return await self._do(deed, good)

    async def _do(self, deed: Deed, good: str) -> bool:
        self._relay.count("deeds")
        if self._place:
            self._relay.book.note(books.SAID, session=self._name, place=self._place)
        wire = self._wire
        if deed.do == "reply":
            wire.say(deed.text)
            if deed.text.startswith("421"):
                await wire.flush()
                raise Gone
            return deed.text[:1] in {"2", "3"}
        await wire.flush()
        if deed.do == "stall":
            await asyncio.sleep(deed.seconds)
            wire.say(good)
            return True
        if deed.do == "drip":
            for octet in f"{good}\r\n".encode():
                wire.write(bytes([octet]))
                await asyncio.sleep(deed.seconds / (len(good) + 2))
            return True
        if deed.do == "half":
            wire.half_close()
            await asyncio.sleep(deed.seconds)
            raise Gone
        noise = {"late": f"{good}\r\n", "long": f"250 {'x' * 10_000}\r\n", "many": "250-more\r\n" * 500}
        wire.write(
            noise.get(deed.do, "\x00\xff?! no SMTP at all\r\n" if deed.do == "garbage" else "").encode()
        )
        if deed.do in {"late", "long", "many", "garbage"}:
            await wire.flush()
        if deed.do != "close":
            wire.reset()
        raise Gone

    def _offers(self, name: str, *, default: bool = False) -> bool:
        return bool(self._relay.plan.offer(name, default))

    def _violation(self, what: str, line: bytes) -> None:
        self._relay.count("violations")
        shown = f"{what} {line[:200]!r}" if line else what
        self._relay.book.note(books.VIOLATION, session=self._name, what=shown)

    def broken(self, mark: str) -> None:
        """Note that the client went in the middle of a transaction."""
        if self._transaction:
            self._relay.book.note(books.BROKEN, session=self._name, what=mark)


def place_of(host: str) -> str:
    """The place that an address is; the usual one is none."""
    return "" if host == HOST else host


def places(count: int) -> list[str]:
    """So many addresses of the loopback beside the usual one."""
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


async def serve_one(relay: Relay, wire: Wire, *, encrypted: bool) -> None:
    """One connection, to its end."""
    relay.count("sessions")
    relay.wires.add(wire)
    session = Session(relay, wire, relay.counts["sessions"], encrypted=encrypted)
    try:
        await session.run()
    except (Gone, OSError, ssl.SSLError):
        session.broken("the connection ended")
    finally:
        relay.wires.discard(wire)
        wire.close()


def _context(arguments: argparse.Namespace, *, old: bool) -> ssl.SSLContext:
    """TLS as it is offered; the `old` one ends with 1.1."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(arguments.cert, arguments.key)
    if old:
        tls.set_ciphers("ALL:@SECLEVEL=0")  # without which OpenSSL 3 would not even try
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is old on purpose
            tls.minimum_version = ssl.TLSVersion.TLSv1
            tls.maximum_version = ssl.TLSVersion.TLSv1_1
    return tls


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    plan = Plan(json.loads(arguments.plan))
    tls = _context(arguments, old=plan.offer("old", default=False)) if arguments.cert else None
    relay = Relay(LedgerFile(arguments.ledger), plan, tls)
    implicit = tls is not None and plan.offer("tls", "starttls") == "implicit"
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def connected() -> Wire:
        def begin() -> None:
            task = loop.create_task(serve_one(relay, wire, encrypted=implicit))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        wire = Wire(begin)
        return wire

    control = await asyncio.start_unix_server(Control(relay).talk, arguments.control)
    server = await loop.create_server(
        connected,
        [HOST, *places(arguments.places)],
        arguments.port,
        ssl=tls if implicit else None,
        backlog=1000,
    )
    async with server, control:
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="The relay of the experiments.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--plan", default="{}")
    parser.add_argument("--places", type=int, default=0)
    arguments = parser.parse_args()
    arguments.control.unlink(missing_ok=True)
    uvloop.run(serve(arguments))


if __name__ == "__main__":
    main()
