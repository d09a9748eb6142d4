"""A real Postfix with one of the restrictions that its operators commonly set. They need root, as it does."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from lab.postfix import POSTSCREEN, Postfix
from lab.relay_zoo import PASSWORD, USER
from lab.sasl import REFUSED, ScramServer, bearer

_STRANGERS = {
    "mynetworks": "",
    "relay_domains": "static:all",
    "relay_transport": "discard:",
    "smtpd_relay_restrictions": "reject_unauth_destination",
}
"""Postfix exempts its own network from most limits; here this machine is not in it."""


class RealPostfix:
    """Its defaults; the others differ by `SETTINGS`. An async context manager, as scripted ones are."""

    NAME: ClassVar[str] = "postfix"
    SETTINGS: ClassVar[dict[str, str]] = {}
    FRONT: ClassVar[str | None] = None

    def __init__(self, *, port: int = 0, **settings: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="zoo-")
        front: dict[str, Any] = {"front": self.FRONT} if self.FRONT else {}
        settings = {**self.SETTINGS, **settings}
        self._postfix = Postfix(Path(self._directory.name), settings=settings, **front)
        if port:
            self._postfix.port = int(port)
        self.host, self.port = self._postfix.host, self._postfix.port
        self.trace: Callable[[str, bytes], None] | None = None

    @property
    def log(self) -> str:
        """What Postfix has logged."""
        return self._postfix.child.log.read_text()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._postfix.start)
        if self.FRONT is None:  # postscreen remembers whom it greeted
            async with asyncio.timeout(20):
                while not await self._greets():  # noqa: ASYNC110  it has no event
                    await asyncio.sleep(0.1)
        return self

    async def _greets(self) -> bool:
        """Its port is open before all of its parts are there."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            greeting = await reader.readline()
            writer.write(b"QUIT\r\n")
            await reader.read()
        except ConnectionError:
            return False
        finally:
            writer.close()
        return greeting.startswith(b"220")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._postfix.stop)
        self._directory.cleanup()


class PostfixRecipientLimit(RealPostfix):
    """`smtpd_recipient_limit`: ``452 4.5.3 Error: too many recipients`` from the eleventh recipient on."""

    NAME = "postfix-recipient-limit"
    SETTINGS: ClassVar[dict[str, str]] = {"smtpd_recipient_limit": "10"}


class PostfixHelo(RealPostfix):
    """`reject_non_fqdn_helo_hostname`: ``504 5.5.2 <vm>: Helo command rejected``, which shows at RCPT."""

    NAME = "postfix-helo"
    SETTINGS: ClassVar[dict[str, str]] = {
        "smtpd_helo_required": "yes",
        "smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
    }


class PostfixUnknownDomain(RealPostfix):
    """`reject_unknown_recipient_domain`: ``450 4.1.2 … Domain not found`` for what DNS does not know."""

    NAME = "postfix-unknown-domain"
    SETTINGS: ClassVar[dict[str, str]] = {"smtpd_recipient_restrictions": "reject_unknown_recipient_domain"}


class PostfixPostscreen(RealPostfix):
    """postscreen with a greeting of two lines, one of them late, and a test that ends in ``450 4.3.2``.

    A client that passed is told to come again: it finds Postfix itself at its next connection.
    """

    NAME = "postfix-postscreen"
    SETTINGS: ClassVar[dict[str, str]] = {
        **_STRANGERS,
        "postscreen_access_list": "",
        "postscreen_greet_wait": "2s",
        "postscreen_greet_action": "enforce",
        "postscreen_pipelining_enable": "yes",
        "postscreen_pipelining_action": "enforce",
        "postscreen_cache_map": "btree:$data_directory/postscreen_cache",
    }
    FRONT = POSTSCREEN


class PostfixRate(RealPostfix):
    """`smtpd_client_message_rate_limit`: ``450 4.7.1 Error: too much mail`` from the sixth a minute on."""

    NAME = "postfix-rate"
    SETTINGS: ClassVar[dict[str, str]] = {
        **_STRANGERS,
        "smtpd_client_event_limit_exceptions": "",
        "smtpd_client_message_rate_limit": "5",
        "anvil_rate_time_unit": "60s",
    }


class PostfixSenderLogin(RealPostfix):
    """`reject_sender_login_mismatch`: ``553 5.7.1 … not owned by user`` for an address of others."""

    NAME = "postfix-sender-login"
    SETTINGS: ClassVar[dict[str, str]] = {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sender_login_maps": f"inline:{{ {{ {USER} = {USER} }}, {{ owner@example.org = other }} }}",
        "smtpd_sender_restrictions": "reject_sender_login_mismatch",
    }

    def __init__(self, *, port: int = 0, **settings: str) -> None:
        self._accounts = Accounts()
        super().__init__(port=port, smtpd_sasl_path=f"inet:127.0.0.1:{self._accounts.port}", **settings)

    async def __aenter__(self) -> Self:
        await self._accounts.open()
        return await super().__aenter__()

    async def __aexit__(self, *how: Any) -> None:
        await super().__aexit__(*how)
        await self._accounts.close()


class PostfixStrongLogins(PostfixSenderLogin):
    """SCRAM-SHA-256, XOAUTH2 and OAUTHBEARER, as a Postfix in front of Dovecot passes them on."""

    NAME = "postfix-strong-logins"

    def __init__(self, *, port: int = 0, **settings: str) -> None:
        super().__init__(port=port, **settings)
        self._accounts.mechanisms = ("SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER")


class Accounts:
    """Knows one account, in the words of Dovecot's authentication protocol, which Postfix speaks."""

    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    tokens: ClassVar[set[str]] = {"good-token"}

    def __init__(self) -> None:
        from mailsender.dev.process import free_port

        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._served: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._served:  # Postfix keeps one open for each of its processes
            writer.transport.abort()
        tasks = [task for task in self._served.values() if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served[writer] = asyncio.current_task()
        try:
            await self._talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            del self._served[writer]
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"VERSION\t1\t1\n"
            + "".join(f"MECH\t{each}\tplaintext\n" for each in self.mechanisms).encode()
            + b"SPID\t1\nCUID\t1\nCOOKIE\t00112233445566778899aabbccddeeff\nDONE\n"
        )
        names: dict[str, str] = {}
        talks: dict[str, Talk] = {}
        while line := await reader.readline():
            verb, *words = line.decode().rstrip("\n").split("\t")
            if verb == "AUTH" and words[1] not in {"PLAIN", "LOGIN"}:
                talks[words[0]] = self._scram() if words[1].startswith("SCRAM") else self._bearer(words[1])
                next(talks[words[0]])
            if verb in {"AUTH", "CONT"} and words[0] in talks:
                writer.write(_said(talks[words[0]], verb, words).encode())
            elif verb in {"AUTH", "CONT"}:
                writer.write(self._answer(verb, words, names).encode())

    def _answer(self, verb: str, words: list[str], names: dict[str, str]) -> str:
        number = words[0]
        if verb == "AUTH":
            given = [word for word in words if word.startswith("resp=")]
            coded = given[0].removeprefix("resp=") if given else None
            if words[1] == "LOGIN" and coded is None:
                names[number] = ""
                return f"CONT\t{number}\t{_coded('Username:')}\n"
            if words[1] == "LOGIN":
                names[number] = _decoded(coded or "")
                return f"CONT\t{number}\t{_coded('Password:')}\n"
            if coded is None:
                return f"CONT\t{number}\t\n"
            return self._verdict(number, *_decoded(coded).split("\0")[1:])
        said = _decoded(words[1])
        if number not in names:
            return self._verdict(number, *said.split("\0")[1:])
        if not names[number]:
            names[number] = said
            return f"CONT\t{number}\t{_coded('Password:')}\n"
        return self._verdict(number, names.pop(number), said)

    def _scram(self) -> Talk:
        scram = ScramServer(USER, PASSWORD)
        first = yield ""
        outcome = scram.outcome((yield scram.challenge(first)))
        if outcome is not None:
            yield outcome
        yield outcome is not None

    def _bearer(self, mechanism: str) -> Talk:
        user, token = bearer(mechanism, (yield ""))
        good = user == USER and token in self.tokens
        if not good:
            yield REFUSED
        yield good

    def _verdict(self, number: str, user: str = "", password: str = "") -> str:
        good = (user, password) == (USER, PASSWORD)
        return f"OK\t{number}\tuser={user}\n" if good else f"FAIL\t{number}\tuser={user}\n"


Talk = Generator[str | bool, str, None]
"""Takes what a client says and gives the next challenge, at last whether it is let in."""


def _said(talk: Talk, verb: str, words: list[str]) -> str:
    number = words[0]
    given = words[1:2] if verb == "CONT" else [word[5:] for word in words if word.startswith("resp=")]
    if not given:
        return f"CONT\t{number}\t\n"
    answer = talk.send(_decoded(given[0]))
    if isinstance(answer, str):
        return f"CONT\t{number}\t{_coded(answer)}\n"
    return f"OK\t{number}\tuser={USER}\n" if answer else f"FAIL\t{number}\tuser={USER}\n"


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
