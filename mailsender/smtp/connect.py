"""A relay behind `mailsender.smtp.port.Transport`.

aiosmtplib connects, negotiates TLS and authenticates; then its transport is taken over for the
transactions, which are ours (`mailsender.smtp.session`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import structlog
from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPHeloError,
    SMTPResponse,
    SMTPResponseException,
)
from aiosmtplib.protocol import SMTPProtocol

from mailsender.model.clock import Clock
from mailsender.model.letter import Phase
from mailsender.net.tls import Renewed, client_context
from mailsender.smtp.commands import Offers
from mailsender.smtp.credentials import Credentials
from mailsender.smtp.errors import relay_away
from mailsender.smtp.hosts import Host, Lookups, dial, own_name
from mailsender.smtp.learned import Learned
from mailsender.smtp.logins import Logins
from mailsender.smtp.mechanisms import Login
from mailsender.smtp.port import RelayAway
from mailsender.smtp.protocol import Timeouts
from mailsender.smtp.replies import MAX_EMPTY
from mailsender.smtp.session import SmtpSession, Writes

log = structlog.get_logger()

_UNKNOWN_COMMAND = {500, 502}
_NO_REPLY = -1  # as the client has it


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpConfig:
    """How a relay is reached. The names of settings stand in its errors, so that one knows what to mend.

    `host` is a name or an address, see `Host`. `name` is the relay's in the file, empty where it is not from
    there. `ca_file` takes the place of the system's CAs. Without a
    `helo_name` see `own_name`. Without `pipelining` the relay is spoken to one command at a
    time, whatever it offers.
    """

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"]
    ca_file: str = ""
    verify: bool = True
    credentials: Credentials = field(default_factory=Credentials)
    auth_cleartext: bool = False
    helo_name: str = ""
    pipelining: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    name: str = ""

    @property
    def address(self) -> str:
        """``host:port``."""
        return Host.of(self.host).with_port(self.port)

    @property
    def told(self) -> str:
        """As logs name the relay: several of a file may have one host and port, each with its own account."""
        return self.name or self.address


class SmtpRelay:
    """See `mailsender.smtp.port.Transport`. It keeps no connection of its own."""

    def __init__(self, config: SmtpConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._told, self._address = config.told, config.address  # asked for with each letter
        self._tls = Renewed(lambda: tls_context(config), config.ca_file)
        self._writes: Writes | None = None
        self._logins = Logins(config.credentials, config.host, config.port, clock, told=config.told)
        self._lookups = Lookups()
        self._learned = Learned(config.told, clock, config.timeouts.dot)
        if config.tls != "none" and not config.verify:
            log.warning(
                "relay_certificate_not_verified",
                relay=self.name,
                action="any certificate is accepted, so anybody on the way can read mail and password;"
                " set SMTP_TLS_CA_FILE and leave out SMTP_TLS_VERIFY=false",
            )

    @property
    def name(self) -> str:
        """See `Transport`."""
        return self._told

    @property
    def address(self) -> str:
        """See `Transport`."""
        return self._address

    @property
    def remark(self) -> str:
        """See `Relay`."""
        return self._learned.remark

    def bar_logins(self, barred: Callable[[str], str]) -> None:
        """See `Transport`."""
        self._logins.barred = barred

    async def connect(self) -> SmtpSession:
        """See `Relay`.

        Raises:
            RelayAway: see `Relay`.
        """
        config = self._config
        credentials = config.credentials
        if credentials.complete and config.tls == "none" and not config.auth_cleartext:
            what = "token" if credentials.tokens else "password"
            raise RelayAway(
                f"the {what} would be sent in clear text: set SMTP_TLS, or SMTP_AUTH_CLEARTEXT=true",
                phase=Phase.AUTH,
                permanent=True,
            )
        self._writes = self._writes or Writes()
        self._learned.reconsider()
        opening = _Opening(config, await self._tls_context(), self._logins, self._clock)
        try:
            return await opening.session(self._lookups, self._learned, self._writes)
        except (SMTPException, OSError, ValueError) as error:
            if isinstance(error.__cause__ or error, ssl.SSLCertVerificationError):
                self._tls.forget()
            away = relay_away(
                error,
                phase=opening.phase,
                host=config.host,
                told=self._logins.told(opening.login),
                advice=self._logins.advice,
            )
            if opening.phase is Phase.AUTH:
                away.login = self._logins.refused
            raise away from error

    async def _tls_context(self) -> ssl.SSLContext | None:
        """Reading the CAs takes a while, and is done aside."""
        if self._config.tls == "none":
            return None
        try:
            return await asyncio.to_thread(self._tls.get)
        except OSError as error:
            raise RelayAway(
                f"SMTP_TLS_CA_FILE={self._config.ca_file} is no readable PEM file: {error}",
                phase=Phase.CONNECT,
                permanent=True,
            ) from error


def tls_context(config: SmtpConfig) -> ssl.SSLContext:
    """TLS 1.2 or later (RFC 8996), the relay's certificate and name verified unless told otherwise.

    Raises:
        OSError: the CA file cannot be read, or holds no certificate.
    """
    context = client_context(config.ca_file)
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Opening:
    """One way from nothing to a session; `phase` is how far it has come."""

    def __init__(
        self,
        config: SmtpConfig,
        context: ssl.SSLContext | None,
        logins: Logins,
        clock: Clock,
    ) -> None:
        self._config = config
        self._logins = logins
        self._clock = clock
        self.login: Login | None = None
        self.phase = Phase.CONNECT
        self._host = Host.of(config.host)
        self._client = SMTP(
            hostname=self._host.name,
            use_tls=config.tls == "implicit",
            start_tls=False,
            tls_context=context,
        )

    async def session(self, lookups: Lookups, learned: Learned, writes: Writes) -> SmtpSession:
        """All the steps. Raises what aiosmtplib, ssl and sockets raise; nothing is left open then."""
        if self._config.credentials.complete:
            self.phase = Phase.AUTH
            self.login = await self._logins.next()
            self.phase = Phase.CONNECT
        try:
            await self._connect(lookups)
            await self._ehlo()
            if self._config.tls == "starttls":
                await self._starttls()
            if self.login is not None:
                await self._log_in(self.login)
            return self._taken_over(learned, writes)
        except BaseException:
            self._cut()
            raise

    async def _connect(self, lookups: Lookups) -> None:
        """TCP and TLS by one deadline, the greeting by another.

        The client takes one time-out for both; its transport appears in between.
        """
        loop = asyncio.get_running_loop()
        timeouts = self._config.timeouts
        deadline = loop.time() + timeouts.connect
        connection = await dial(lookups, self._host.lookup, self._config.port, timeouts.connect)
        self._client.local_hostname = self._config.helo_name or own_name(connection)
        async with asyncio.timeout(None) as limit:

            def still_connecting() -> None:
                if self._client.transport is None:
                    limit.reschedule(loop.time())

            timer = loop.call_at(deadline, still_connecting)
            try:
                await self._client.connect(sock=connection, timeout=timeouts.greeting)
            except ValueError:
                connection.close()  # the client found fault with what it was to say, and took nothing over
                raise
            except SMTPException as error:
                # A cause from within SMTP means that the relay was reached, and kept or broke its silence.
                if isinstance(error, SMTPResponseException) or isinstance(error.__cause__, SMTPException):
                    self.phase = Phase.GREETING
                raise
            finally:
                timer.cancel()
        if self._client.protocol is not None:
            _pass_over_empty_lines(self._client.protocol)

    async def _ehlo(self) -> None:
        self.phase = Phase.EHLO
        timeout = self._config.timeouts.command
        try:
            await self._client.ehlo(timeout=timeout)
        except SMTPHeloError as error:
            if error.code not in _UNKNOWN_COMMAND or not self._client.is_connected:
                raise
            await self._client.helo(timeout=timeout)  # RFC 5321 §3.2: a server of old, without extensions

    async def _starttls(self) -> None:
        """TLS or nothing: a relay that does not offer it may be somebody on the way who took it out.

        What the relay sent in clear text behind its 220 is thrown away by the client, and what it
        offered before is asked again (RFC 3207 §4.2).
        """
        self.phase = Phase.STARTTLS
        if not self._client.supports_extension("starttls"):
            raise RelayAway(
                "the relay does not offer STARTTLS, and nothing is sent without it: if it speaks TLS from"
                " the start set SMTP_TLS=implicit; SMTP_TLS=none sends in clear text",
                phase=self.phase,
                permanent=True,
            )
        await self._client.starttls(timeout=self._config.timeouts.connect)
        await self._ehlo()

    async def _log_in(self, login: Login) -> None:
        self.phase = Phase.AUTH

        def say(line: bytes) -> Awaitable[SMTPResponse]:
            return self._client.execute_command(line, timeout=self._config.timeouts.command)

        await self._logins.log_in(say, self._client.server_auth_methods, login)

    def _taken_over(self, learned: Learned, writes: Writes) -> SmtpSession:
        """The session on the client's transport; the client has nothing more to do with it."""
        client = self._client
        transport, protocol = client.transport, client.protocol
        if transport is None or protocol is None or transport.is_closing():
            raise ConnectionResetError("the relay closed the connection")
        if protocol._buffer.strip():  # noqa: SLF001  no public way to see that a reply too many lies there
            raise RelayAway("the relay sent more than it was asked for", phase=self.phase)
        protected = self._config.tls != "none" and self._config.verify
        offers = Offers.of(client.esmtp_extensions, protected=protected)
        if not self._config.pipelining:
            offers = replace(offers, pipelining=False)
        log.debug("relay_session_opened", relay=self._config.told, offers=offers)
        return SmtpSession(
            cast("asyncio.Transport", transport), offers, self._config.timeouts, self._clock, learned, writes
        )

    def _cut(self) -> None:
        """Leave nothing open; a polite TLS goodbye could take half a minute."""
        transport = self._client.transport
        self._client.close()
        if transport is not None:
            cast("asyncio.Transport", transport).abort()


def _pass_over_empty_lines(protocol: SMTPProtocol) -> None:
    """Have the client pass over some empty lines between two replies, as `ReplyParser` does."""
    read, passed = protocol._read_response_from_buffer, 0  # noqa: SLF001  there is no public way

    def tolerant() -> SMTPResponse | None:
        nonlocal passed
        buffer = protocol._buffer  # noqa: SLF001  as above
        while buffer.startswith((b"\n", b"\r\n")):
            del buffer[: buffer.index(b"\n") + 1]
            passed += 1
            if passed > MAX_EMPTY:
                raise SMTPResponseException(_NO_REPLY, f"it sent more than {MAX_EMPTY} empty lines")
        reply = read()
        if reply is not None:
            passed = 0
        return reply

    protocol._read_response_from_buffer = tolerant  # type: ignore[method-assign]  # noqa: SLF001  as above
