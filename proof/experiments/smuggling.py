"""SMTP smuggling and header injection in every field, against a real Postfix and against aiosmtpd."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.postfix import Postfix
from mailsender.dev.process import PartMissing
from proof import ledger as books
from proof.checker import check
from proof.history import Allowed, History, Published
from proof.ledger import LedgerFile
from proof.load import DOMAIN
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.strict import look_at
from proof.table import NOT_RUN, Row, row

ENDS = (
    "\n.\n",
    "\n.\r\n",
    "\r.\r\n",
    "\r\n.\n",
    "\r\n.\r",
    "\r.\r",
    "\r\n.\r\n",
    "\n\n.\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\x85.\x85",
    "\u2028.\u2028",
    "\x0b.\x0b",
)
LINES = (
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\n ",
    "\x85",
    "\u2028",
    "\u2029",
    "\0",
    "\x0b",
    "\x1c",
    "%0d%0a",
    "\\r\\n",
)
GOOD = f"one@{DOMAIN}"
HEADER = f"Bcc: evil@{DOMAIN}"


def smuggled(end: str, new_line: str = "\r\n") -> str:
    """A second message behind the end of the first."""
    commands = (f"MAIL FROM:<evil@{DOMAIN}>", f"RCPT TO:<evil@{DOMAIN}>", "DATA")
    return end + new_line.join((*commands, "Subject: [smuggled]", "", "smuggled", ".", "QUIT", ""))


def bodies() -> Iterator[str]:
    """Bodies that want to end early, as they come and in each transfer encoding."""
    sorts = ("", "Слово. ", "x" * 1200, "Слово. " * 300)
    for end, before, new_line in itertools.product(ENDS, sorts, ("\r\n", "\n")):
        yield f"<p>{before}{smuggled(end, new_line)}</p>"
    for end in ENDS:
        # The same in base64 or quoted-printable already: whoever decodes once too often would be fooled.
        yield base64.b64encode(smuggled(end).encode()).decode()
        yield smuggled(end).replace("\r", "=0D").replace("\n", "=0A")


def subjects() -> Iterator[str]:
    """Subjects that want to be more than one header."""
    for line in LINES:
        yield f"hello{line}{HEADER}"
        yield f"hello{line}{smuggled(chr(13) + chr(10) + '.' + chr(13) + chr(10))}"
        yield f"=?utf-8?B?{base64.b64encode(f'x{line}{HEADER}'.encode()).decode()}?="
        yield f"=?utf-8?Q?x=0D=0A{HEADER.replace(' ', '_')}?="


def addresses() -> Iterator[str]:
    """Addresses that want to be more than one, or a command."""
    one, evil = f"one@{DOMAIN}", f"evil@{DOMAIN}"
    for line in LINES:
        yield f"{one}{line}"
        yield f"{one}>{line}RCPT TO:<{evil}"
        yield f"o{line}ne@{DOMAIN}"
    yield from (f"{one},{evil}", f"{one}, {evil}", f"{one};{evil}", f"{one} {evil}", f"<{one}>,<{evil}>")
    yield from (f"<{evil}>", f"x <{evil}>", f"{one}> <{evil}", f"@{DOMAIN}:{evil}", f"{one} SIZE=1")
    yield from (
        f'"x\\" <{evil}>"@{DOMAIN}',
        f'"{evil}"@{DOMAIN}',
        f"(x){evil}",
        f"{evil}(x)",
        f"evil%{DOMAIN}@{DOMAIN}",
    )
    yield from (
        f"x:{evil};",
        f"evil\u200b@{DOMAIN}",
        f"evil\uff20{DOMAIN}",
        f"evil@{DOMAIN}.",
        "evil@[127.0.0.1]",
    )


def letters(name: str) -> list[dict[str, Any]]:
    """All of them; each has its token as its mark."""
    number = itertools.count()
    made: list[dict[str, Any]] = []

    def add(subject: str, body: str, address: str) -> None:
        mark = f"{name}.{next(number)}"
        made.append({"Subject": f"[{mark}] {subject}", "Body": body, "Addresses": [address], "Token": mark})

    for body in bodies():
        add("hello", body, GOOD)
    for subject in subjects():
        add(subject, "hello", GOOD)
    for address in addresses():
        add("hello", "hello", address)
    return made


def _publish(world: Run) -> int:
    made = letters(world.publisher_name)
    for start in range(0, len(made), 10):
        batch = made[start : start + 10]
        for each in batch:
            to = tuple(each["Addresses"])
            # No body is wrong; a subject, or an address, with a line's end in it is.
            wrong = frozenset(() if each["Subject"].endswith("] hello") and to == (GOOD,) else to)
            published = Published(mark=str(each["Token"]), addresses=to, may_fail=wrong)
            world.publisher.published.append(published)
        world.publisher.send(batch)
    world.publisher.flush()
    return len(made)


CONTROL = "control"


def naive(port: int) -> None:
    """What a client without any care sends: the control, without which a clean result shows nothing."""
    text = f"Subject: [{CONTROL}]\r\n\r\nhello{smuggled(chr(10) + '.' + chr(13) + chr(10))}"
    steps = ("EHLO c.test", f"MAIL FROM:<a@{DOMAIN}>", f"RCPT TO:<one@{DOMAIN}>", "DATA")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.recv(4096)
        for step in steps:
            connection.sendall(f"{step}\r\n".encode())
            connection.recv(4096)
        # Fooled it obeys the QUIT within; else the one behind the message's true end.
        with contextlib.suppress(ConnectionError):
            connection.sendall(f"{text}\r\n.\r\nQUIT\r\n".encode())
            while connection.recv(4096):
                pass


def without_control(history: History) -> tuple[History, int]:
    """The history without what the control brought, and how many messages it smuggled."""
    marks = [each.mark for each in history.acceptances]
    kept = tuple(each for each in history.acceptances if each.mark not in {CONTROL, "smuggled"})
    own = marks.count("smuggled")
    # More than one would be the service's own, and those stay to be found.
    surplus = [each for each in history.acceptances if each.mark == "smuggled"][1:]
    return dataclasses.replace(history, acceptances=(*kept, *surplus)), min(1, own)


def through_postfix(stage: Stage, seed: int) -> Row:
    """The service hands to Postfix, and Postfix to the strict relay, where what it understood is seen."""
    began, title = time.monotonic(), "smuggling and injection, Postfix"
    with run(stage, "smuggling-postfix", seed, plan={"delay": {}}) as world:
        postfix = Postfix(world.directory / "postfix", world.relay.port)
        try:
            postfix.start()
            naive(postfix.port)
            count = _publish(world)
            world.world.started(SMTP_PORT=str(postfix.port))
            world.wait_done(90)
            _wait_empty(world, postfix)
            world.stop_services()
            version = postfix.version
        except PartMissing as error:
            return Row(experiment=title, seed=seed, runs=0, verdict=f"{NOT_RUN}: {error}")
        finally:
            postfix.stop()
        history, controls = without_control(world.history())
        if not controls:
            history = dataclasses.replace(history, faults=(*history.faults, "the control was not smuggled"))
        # Postfix itself writes the one recipient of a message into its Received, as it does for everybody.
        taken = tuple(dataclasses.replace(each, leaked=()) for each in history.acceptances)
        verdict = check(dataclasses.replace(history, acceptances=taken), Allowed(duplicates=0))
    return _row(title, seed, count, verdict, began, f"Postfix {version}, which the control fools")


def _wait_empty(world: Run, postfix: Postfix) -> None:
    deadline = time.monotonic() + 60
    while not postfix.queue_is_empty():
        if time.monotonic() > deadline:
            world.fault("Postfix did not hand on all within 60 s")
            return
        rest(0.2)


def through_aiosmtpd(stage: Stage, seed: int) -> Row:
    """Aiosmtpd takes bare LF for a line's end, as many a server does."""
    from importlib.metadata import version

    began = time.monotonic()
    with run(stage, "smuggling-aiosmtpd", seed, plan={"delay": {}}) as world, _aiosmtpd(world) as port:
        naive(port)
        count = _publish(world)
        world.world.started(SMTP_PORT=str(port))
        world.wait_done(90)
        world.stop_services()
        history, controls = without_control(world.history())
        verdict = check(history, Allowed(duplicates=0))
    title, fooled = "smuggling and injection, aiosmtpd", "fools" if controls else "does not fool"
    return _row(
        title, seed, count, verdict, began, f"aiosmtpd {version('aiosmtpd')}, which the control {fooled}"
    )


@contextmanager
def _aiosmtpd(world: Run) -> Iterator[int]:
    """Aiosmtpd as it comes, writing what it understood into the ledger."""
    from aiosmtpd.controller import Controller

    from mailsender.dev.process import free_port

    book = LedgerFile(world.relay.ledger)

    class Handler:
        async def handle_DATA(self, _server: object, session: Any, envelope: Any) -> str:  # noqa: N802
            seen = look_at(envelope.original_content, envelope.rcpt_tos, DOMAIN.encode())
            book.note(
                books.ACCEPTED,
                session=str(session.peer),
                mark=seen.mark,
                id=seen.message_id,
                rcpt=envelope.rcpt_tos,
                mail_m=time.monotonic(),
                digest=seen.digest,
                size=seen.size,
                told=True,
                leaked=[each for each in seen.leaked if not each.startswith("evil@")],
            )
            return "250 2.0.0 Ok"

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()
        book.close()


def _row(title: str, seed: int, count: int, verdict: Any, began: float, server: str) -> Row:
    return row(
        title,
        seed,
        count,
        verdict,
        notes=server,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="smuggling --seed {seed}"',
    )
