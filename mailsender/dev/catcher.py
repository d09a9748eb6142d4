"""A mail catcher: takes any letter over SMTP, shows it on a page and as JSON, delivers nothing.

Run by itself: `python -m mailsender.dev.catcher --smtp-port 1025 --http-port 8025`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import logging
import re
import signal
import ssl
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from hmac import compare_digest
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from mailsender.dev.catcher_page import make_application
from mailsender.dev.mailbox import MAX_BYTES, MAX_MESSAGES, Mailbox
from mailsender.dev.process import LOOPBACK, ChildError, Part, free_port

Tls = Literal["none", "starttls", "implicit"]

_LETTER_MAX_BYTES = 35 * 1024 * 1024
_REJECT = re.compile(r"reject-([45]\d\d)@", re.IGNORECASE)
_DOT = re.compile(r"dot-([45]\d\d)@", re.IGNORECASE)


class _Transaction(Envelope):
    """aiosmtpd's envelope, and when it began."""

    mail_at = 0.0


class _Server(SMTP):
    """aiosmtpd's session with our envelope."""

    def _create_envelope(self) -> _Transaction:
        return _Transaction()


class _Handler:
    """What aiosmtpd calls at each step; holds the magic recipients."""

    def __init__(self, mailbox: Mailbox, directory: Path | None, *, auth: bool) -> None:
        self._mailbox = mailbox
        self._directory = directory
        self._auth = auth

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer PIPELINING, which works when one reads line by line, and AUTH only where it is wanted."""
        session.host_name = hostname
        offered = [line for line in responses if self._auth or not line.startswith("250-AUTH")]
        return [*offered[:-1], "250-PIPELINING", offered[-1]]

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: _Transaction, address: str, options: list[str]
    ) -> str:
        """Note when the transaction began."""
        envelope.mail_at = time.time()
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: _Transaction, address: str, options: list[str]
    ) -> str:
        """Take the recipient, or refuse it as its name asks for."""
        match = _REJECT.match(address)
        if match:
            return f"{match[1]} {match[1][0]}.1.1 <{address}> is refused, as its name asks for"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: _Transaction) -> str:  # noqa: N802
        """Keep the message, or fail as a recipient's name asks for."""
        for address in envelope.rcpt_tos:
            match = _DOT.match(address)
            if match:
                return f"{match[1]} {match[1][0]}.6.0 not taken, as <{address}> asks for"
            if address.lower().startswith("drop@"):
                if server.transport is not None:
                    server.transport.close()
                await asyncio.Event().wait()  # until the closed connection cancels this
        caught = self._mailbox.add(
            mail_at=envelope.mail_at,
            accepted_at=time.time(),
            mail_from=envelope.mail_from or "",
            rcpt_tos=envelope.rcpt_tos,
            raw=envelope.original_content or b"",
        )
        if self._directory is not None:
            (self._directory / f"{caught.id}.eml").write_bytes(caught.raw)
        return f"250 2.0.0 OK caught as {caught.id}"


@dataclass(frozen=True, slots=True)
class _Credentials:
    user: bytes
    password: bytes

    @classmethod
    def parse(cls, text: str) -> _Credentials:
        user, _, password = text.partition(":")
        return cls(user.encode(), password.encode())

    def __call__(
        self, _server: SMTP, _session: Session, _env: Envelope, _how: str, data: object
    ) -> AuthResult:
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        good = compare_digest(data.login, self.user) & compare_digest(data.password, self.password)
        return AuthResult(success=bool(good), handled=False)


@dataclass(frozen=True, slots=True)
class _Options:
    host: str
    smtp_port: int
    http_port: int
    tls: Tls
    tls_cert: Path | None
    tls_key: Path | None
    auth: _Credentials | None
    directory: Path | None
    max_messages: int
    max_bytes: int


def _parse(arguments: list[str]) -> _Options:
    parser = argparse.ArgumentParser(
        prog="mailsender.dev.catcher", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument("--smtp-port", type=int, default=1025)
    parser.add_argument("--http-port", type=int, default=8025)
    parser.add_argument("--tls", choices=["none", "starttls", "implicit"], help="default: none, or starttls")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE")
    parser.add_argument("--tls-key", type=Path, metavar="FILE")
    parser.add_argument("--auth", type=_Credentials.parse, metavar="USER:PASSWORD", help="require AUTH")
    parser.add_argument("--directory", type=Path, help="also write each message there, as ID.eml")
    parser.add_argument("--max-messages", type=int, default=MAX_MESSAGES)
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES)
    parsed = vars(parser.parse_args(arguments))
    if parsed["tls"] is None:
        parsed["tls"] = "starttls" if parsed["tls_cert"] else "none"
    if (parsed["tls"] == "none") != (parsed["tls_cert"] is None):
        parser.error("--tls and --tls-cert go together")
    return _Options(**parsed)


def _make_session(options: _Options, handler: _Handler, tls: ssl.SSLContext | None) -> SMTP:
    return _Server(
        handler,
        data_size_limit=_LETTER_MAX_BYTES,
        enable_SMTPUTF8=True,
        hostname="catcher.mailsender.test",
        ident="mailsender's catcher",
        tls_context=tls if options.tls == "starttls" else None,
        require_starttls=options.tls == "starttls",
        auth_required=options.auth is not None,
        auth_require_tls=options.tls == "starttls",
        authenticator=options.auth,
    )


async def _serve(options: _Options) -> None:
    mailbox = Mailbox(options.max_messages, options.max_bytes)
    tls = None
    if options.tls_cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    handler = _Handler(mailbox, options.directory, auth=options.auth is not None)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(
        partial(_make_session, options, handler, tls),
        options.host,
        options.smtp_port,
        ssl=tls if options.tls == "implicit" else None,
        backlog=1024,
    )
    runner = web.AppRunner(make_application(mailbox), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.http_port, shutdown_timeout=1).start()
    await stop.wait()
    server.close()
    await runner.cleanup()


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    options = _parse(sys.argv[1:])
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Requiring AUTH while not requiring TLS")
    try:
        asyncio.run(_serve(options))
    except OSError as error:
        sys.stderr.write(f"catcher: {error}\n")
        return 1
    return 0


class Catcher(Part):
    """A catcher as a child process, and its JSON."""

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        http_port: int = 0,
        *,
        tls: Tls = "none",
        cert: Path | None = None,
        key: Path | None = None,
        auth: str = "",
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        super().__init__("catcher", directory, port)
        self.host = LOOPBACK
        self.http_port = http_port or free_port()
        self._command: list[str | Path] = [sys.executable, "-m", "mailsender.dev.catcher"]
        self._command += ["--smtp-port", str(self.port), "--http-port", str(self.http_port), "--tls", tls]
        self._command += ["--max-messages", str(max_messages)]
        if cert is not None and key is not None:
            self._command += ["--tls-cert", cert, "--tls-key", key]
        if auth:
            self._command += ["--auth", auth]

    @property
    def http(self) -> str:
        """The page's address."""
        return f"http://{self.host}:{self.http_port}"

    def start(self) -> None:
        """Start it and wait until SMTP and its page answer."""
        self.child.start(self._command)
        self.child.until(self._answers, 30)

    def messages(self, since: int = 0) -> list[dict[str, Any]]:
        """What was caught after the message of this id, newest last, without the messages themselves."""
        found: list[dict[str, Any]] = json.loads(self._ask("GET", f"/messages.json?since={since}"))
        return found

    def message(self, number: int) -> dict[str, Any]:
        """One message in full."""
        found: dict[str, Any] = json.loads(self._ask("GET", f"/messages/{number}.json"))
        return found

    def raw(self, number: int) -> bytes:
        """One message's bytes as they came."""
        return self._ask("GET", f"/messages/{number}.eml")

    def counts(self) -> dict[str, int]:
        """How many were `received`, are `kept`, were `dropped`."""
        found: dict[str, int] = json.loads(self._ask("GET", "/counts.json"))
        return found

    def clear(self) -> None:
        """Forget all messages."""
        self._ask("DELETE", "/messages")

    def wait_for(self, count: int, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Wait until at least so many were caught, and give all that are kept.

        Raises:
            ChildError: They did not come in time.
        """
        self.child.until(lambda: self.counts()["received"] >= count, timeout, f"sent {count} letters")
        return self.messages()

    def _answers(self) -> bool:
        try:
            self.counts()
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=30)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise ChildError(f"the catcher answered {response.status} to {method} {path}")
        return body


if __name__ == "__main__":
    sys.exit(main())
