"""Logins that tell no password: SCRAM-SHA-256, and access tokens from files and from a token endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from lab.parts import Certificates
from lab.relay_zoo import PASSWORD, USER, ScramOffered, TokensWanted, ZooRelay
from lab.restricted_postfix import PostfixStrongLogins
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.letter import Envelope
from mailsender.smtp.auth import FIRST_PAUSE
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.credentials import Credentials, TokenEndpoint, TokenFile
from mailsender.smtp.port import RelayAway
from mailsender.smtp.tokens import AHEAD, TOO_NEW
from tests.clocks import ManualClock
from tests.integration.test_relay_zoo import real
from tests.sessions import ACCEPTED, MESSAGE, A, Permit, config, send, server_tls, verdicts

SECRET = "the-clients-secret"


def by(relay: Any, clock: Clock | None = None, **credentials: Any) -> SmtpRelay:
    who = Credentials(**{"user": USER, **credentials})
    made = config(relay.host, relay.port, credentials=who, auth_cleartext=True)
    return SmtpRelay(made, clock or SystemClock())


async def log_in(adapter: SmtpRelay) -> None:
    session = await asyncio.wait_for(adapter.connect(), 10)
    try:
        assert verdicts(await send(session)) == [ACCEPTED]
    finally:
        await session.close()


async def refused(adapter: SmtpRelay) -> RelayAway:
    with pytest.raises(RelayAway) as caught:
        await asyncio.wait_for(adapter.connect(), 10)
    assert caught.value.phase == "auth"
    return caught.value


def put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def kept(path: Path) -> tuple[str, int, list[str]]:
    """What a file holds, its mode, and what lies beside it."""
    return path.read_text(), path.stat().st_mode & 0o777, [each.name for each in path.parent.iterdir()]


def commands(relay: ZooRelay) -> list[str]:
    return [" ".join(said.split()[:2]) for said in relay.commands if said.startswith("AUTH")]


# --- SCRAM-SHA-256 -------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("password", [PASSWORD, "with, commas = and spaces"])
async def test_where_scram_is_offered_the_password_is_not_told(password: str) -> None:
    async with ScramOffered() as relay:
        relay.accounts = {USER: password}
        adapter = by(relay, password=password)
        await log_in(adapter)
        await log_in(adapter)
    assert relay.logins == 2
    assert commands(relay) == ["AUTH SCRAM-SHA-256"] * 2
    for form in (password, f"\0{USER}\0{password}"):
        assert base64.b64encode(form.encode()) not in relay.raw


@pytest.mark.asyncio
async def test_a_password_beyond_ascii_goes_by_plain() -> None:
    """Without SASLprep it may not go by SCRAM (RFC 5802 §2.2)."""
    async with ScramOffered() as relay:
        relay.accounts = {USER: "пароль"}
        await log_in(by(relay, password="пароль"))
    assert commands(relay) == ["AUTH PLAIN"]


@pytest.mark.asyncio
@pytest.mark.parametrize("proof", ["wrong", "none"])
async def test_a_relay_that_does_not_know_the_password_is_told_no_letter(proof: str) -> None:
    async with ScramOffered(proof=proof) as relay:
        error = await refused(by(relay, password=PASSWORD))
        assert error.permanent
        assert "without a proof" in str(error)
        assert commands(relay) == ["AUTH SCRAM-SHA-256"]
        assert relay.taken == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "options",
    [
        {"refusal": "432 4.7.12 A password transition is needed"},
        {"refusal": "504 5.5.4 Unrecognized authentication type"},
        {"refusal": "535 5.7.8 Error: authentication failed: no SCRAM for this account"},
        {"rounds": 2000},
    ],
)
async def test_where_scram_does_not_work_the_next_mechanism_does(options: dict[str, Any]) -> None:
    async with ScramOffered(**options) as relay:
        adapter = by(relay, password=PASSWORD)
        await log_in(adapter)
        await log_in(adapter)
    assert commands(relay)[0] == "AUTH SCRAM-SHA-256"
    assert commands(relay)[-2:] == ["AUTH PLAIN"] * 2, "what worked comes first"


@pytest.mark.asyncio
async def test_a_wrong_password_is_one_by_scram_too() -> None:
    async with ScramOffered() as relay:
        error = await refused(by(relay, password="wrong"))
    assert (error.code, error.permanent) == (535, True)
    assert "SMTP_PASSWORD" in str(error)
    assert len(commands(relay)) == 2, "each try counts towards the lock of the account"


@pytest.mark.asyncio
async def test_a_mechanism_that_is_asked_for_is_the_only_one() -> None:
    async with ScramOffered() as relay:
        await log_in(by(relay, password=PASSWORD, mechanism="LOGIN"))
        assert commands(relay) == ["AUTH LOGIN"]
    async with ZooRelay() as relay:
        error = await refused(by(relay, password=PASSWORD, mechanism="SCRAM-SHA-256"))
    assert "offers AUTH LOGIN PLAIN" in str(error)
    assert "SMTP_AUTH" in str(error)
    assert commands(relay) == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "credentials",
    [
        {"password": PASSWORD},
        {"tokens": True},
        {"tokens": True, "mechanism": "OAUTHBEARER"},
    ],
)
async def test_a_real_postfix_takes_them(credentials: dict[str, Any], tmp_path: Path) -> None:
    if "tokens" in credentials:
        put(tmp_path / "token", "good-token\n")
        credentials = {**credentials, "tokens": TokenFile(path=str(tmp_path / "token"))}
    async with real(PostfixStrongLogins) as relay:
        session = await by(relay, **credentials).connect()
        mine = Envelope(reverse_path=USER, recipients=(A,))
        assert verdicts(await session.transact(mine, MESSAGE, Permit())) == [ACCEPTED]
        await session.close()
        other = {"password": "wrong"} if "password" in credentials else {"user": "other@example.org"}
        error = await refused(by(relay, **{**credentials, **other}))
    assert error.code == 535


# --- a token from a file -------------------------------------------------------------------------


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("good-token\n")
    return path


@pytest.mark.asyncio
@pytest.mark.parametrize("offered", ["XOAUTH2", "OAUTHBEARER", "XOAUTH2,OAUTHBEARER", "OAUTHBEARER,XOAUTH2"])
async def test_a_token_logs_in_by_either_mechanism(offered: str, token_file: Path) -> None:
    async with TokensWanted(mechanisms=offered) as relay:
        adapter = by(relay, tokens=TokenFile(path=str(token_file)))
        await log_in(adapter)
        put(token_file, json.dumps({"access_token": "next-token", "expires_in": 3599}))
        relay.tokens = {"next-token"}
        await log_in(adapter)
    assert relay.heard == ["good-token", "next-token"]
    best = "OAUTHBEARER" if offered == "OAUTHBEARER" else "XOAUTH2"
    assert commands(relay) == [f"AUTH {best}"] * 2


@pytest.mark.asyncio
async def test_a_token_as_long_as_microsofts_goes_out(token_file: Path) -> None:
    long = "eyJ0eXAi" * 500
    put(token_file, long)
    async with TokensWanted() as relay:
        relay.tokens = {long}
        await log_in(by(relay, tokens=TokenFile(path=str(token_file))))
    # RFC 4954 §4: what makes the command too long is not in it, but answers the relay.
    assert [said for said in relay.commands if said.startswith("AUTH")] == ["AUTH XOAUTH2"]


@pytest.mark.asyncio
async def test_a_relay_that_wants_the_token_with_the_command(token_file: Path) -> None:
    class AtOnce(TokensWanted):
        async def _authenticate(self, peer: Any, command: str) -> None:
            if command == "AUTH XOAUTH2":
                await peer.say("501 5.5.4 Syntax: AUTH XOAUTH2 token")
            else:
                await super()._authenticate(peer, command)

    async with AtOnce(mechanisms="XOAUTH2") as relay:
        await log_in(by(relay, tokens=TokenFile(path=str(token_file))))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("words", "told"), [("google", "status 401, scope https://mail."), ("microsoft", "535")]
)
async def test_a_refused_token_says_what_to_look_at(words: str, told: str, token_file: Path) -> None:
    put(token_file, "stale-token")
    async with TokensWanted(words=words) as relay:
        error = await refused(by(relay, tokens=TokenFile(path=str(token_file))))
    assert (error.code, error.permanent) == (535, True)
    for part in (told, f"SMTP_TOKEN_FILE={token_file}", "last changed 0 minutes ago"):
        assert part in str(error)
    assert "stale-token" not in str(error)


@pytest.mark.asyncio
async def test_a_new_token_in_the_file_does_not_wait_for_what_the_old_one_earned(token_file: Path) -> None:
    clock = ManualClock()
    put(token_file, "stale-token")
    async with TokensWanted() as relay:
        adapter = by(relay, clock, tokens=TokenFile(path=str(token_file)))
        await refused(adapter)
        heard = len(relay.heard)
        await refused(adapter)
        assert len(relay.heard) == heard, "the same one is not tried again before its time"
        put(token_file, "good-token")
        await log_in(adapter)
        assert relay.heard[heard:] == ["good-token"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "holds no access token"),
        ("two words", "holds no access token"),
        ("{", "holds no access token"),
        ('{"access_token": 1}', "holds no access token"),
        ("x" * 9000, "holds no access token"),
        ("т", "holds no access token"),
    ],
)
async def test_a_file_without_a_token_says_so_and_no_relay_is_bothered(
    content: str | None, said: str, token_file: Path
) -> None:
    path = token_file if content is not None else token_file.with_name("none")
    put(token_file, content or "")
    async with TokensWanted() as relay:
        error = await refused(by(relay, tokens=TokenFile(path=str(path))))
    assert said in str(error)
    assert f"SMTP_TOKEN_FILE={path}" in str(error)
    assert relay.peers == []


@pytest.mark.asyncio
async def test_a_token_that_a_relay_repeats_stays_out_of_the_error(token_file: Path) -> None:
    class Parrot(TokensWanted):
        async def _authenticate(self, peer: Any, command: str) -> None:
            if not command.endswith("XOAUTH2"):
                await peer.say("504 5.7.4 Once is enough")
                return
            await peer.say("334 ")
            line = (await peer.line()).decode().strip()
            await peer.say(f"535 5.7.8 What is stale-token, and {line}?")

    put(token_file, "stale-token")
    async with Parrot(mechanisms="XOAUTH2") as relay:
        adapter = by(relay, tokens=TokenFile(path=str(token_file)))
        for _ in range(2):  # the second time it is told again, and nobody asked
            assert "What is ***, and ***?" in str(await refused(adapter))
    assert len(relay.heard) == 0
    assert len(relay.peers) == 1


# --- a token endpoint ----------------------------------------------------------------------------


class Endpoint:
    """Grants tokens over HTTP as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.grants: Any = lambda number: {"access_token": f"token-{number}", "expires_in": 3600}
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.asked.append({name: str(value) for name, value in form.items()})
        self.headers.append(dict(request.headers))
        self.arrived.set()
        await self.gate.wait()
        told = self.grants(len(self.asked))
        if isinstance(told, web.Response):
            return told
        return web.json_response({"token_type": "Bearer", **told}, status=self.status)


@asynccontextmanager
async def granting(certificates: Certificates | None = None) -> AsyncIterator[tuple[Endpoint, TokenEndpoint]]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/token", endpoint.answer)
    context = server_tls(certificates) if certificates else None
    server = TestServer(app, scheme="https" if context else "http", host="127.0.0.1")
    await server.start_server(ssl=context)
    ask = TokenEndpoint(
        url=str(server.make_url("/token")), client_id="app", client_secret=SECRET, scope="mail.send"
    )
    try:
        yield endpoint, ask
    finally:
        endpoint.gate.set()
        await server.close()


@pytest.mark.asyncio
async def test_a_token_is_granted_by_client_credentials_and_used_until_it_is_about_to_end() -> None:
    clock = ManualClock()
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        relay.tokens = {"token-1"}
        adapter = by(relay, clock, tokens=ask)
        await log_in(adapter)
        clock.forward(3600 - AHEAD - 1)
        await log_in(adapter)
        assert len(endpoint.asked) == 1
        clock.forward(2)
        relay.tokens = {"token-2"}
        await log_in(adapter)
    assert (
        endpoint.asked
        == [
            {
                "grant_type": "client_credentials",
                "client_id": "app",
                "client_secret": SECRET,
                "scope": "mail.send",
            }
        ]
        * 2
    )
    assert relay.heard == ["token-1", "token-1", "token-2"]


@pytest.mark.asyncio
async def test_all_sessions_wait_for_one_renewal_which_nobody_who_leaves_ends() -> None:
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        relay.tokens = {"token-1"}
        adapter = by(relay, tokens=ask)
        endpoint.gate.clear()
        first = asyncio.ensure_future(adapter.connect())
        await endpoint.arrived.wait()
        others = [asyncio.ensure_future(adapter.connect()) for _ in range(7)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        endpoint.gate.set()
        for session in await asyncio.wait_for(asyncio.gather(*others), 10):
            await session.close()
    assert len(endpoint.asked) == 1
    assert relay.logins == 7


@pytest.mark.asyncio
async def test_a_token_that_was_taken_back_is_replaced_within_the_same_session() -> None:
    clock = ManualClock()
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        relay.tokens = {"token-1"}
        adapter = by(relay, clock, tokens=ask)
        await log_in(adapter)
        clock.forward(TOO_NEW)
        relay.tokens = {"token-2"}
        await log_in(adapter)
        assert relay.heard == ["token-1", "token-1", "token-2"]
        assert len(relay.peers) == 2
        # One that is refused as soon as it was granted is no reason to ask for more of them.
        relay.tokens = set()
        for _ in range(3):
            error = await refused(adapter)
            clock.forward(FIRST_PAUSE)
    assert "SMTP_TOKEN_SCOPE" in str(error)
    assert len(endpoint.asked) == 2


@pytest.mark.asyncio
async def test_while_the_endpoint_is_away_the_token_there_is_goes_on() -> None:
    clock = ManualClock()
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        relay.tokens = {"token-1", "token-9"}
        adapter = by(relay, clock, tokens=ask)
        await log_in(adapter)
        endpoint.status, endpoint.grants = 503, lambda _: {}
        clock.forward(3600 - AHEAD)
        with structlog.testing.capture_logs() as logs:
            for _ in range(4):
                await log_in(adapter)
                clock.forward(1)
        assert len(endpoint.asked) == 2, "it is left alone for a while"
        (told,) = [each for each in logs if each["event"] == "relay_token_not_renewed"]
        assert (told["log_level"], told["seconds_left"]) == ("warning", AHEAD)
        assert SECRET not in str(logs)
        clock.forward(AHEAD)
        error = await refused(adapter)
        assert not error.permanent
        assert "grants none: 503; it is asked again" in str(error)
        endpoint.status, endpoint.grants = 200, lambda _: {"access_token": "token-9", "expires_in": 3600}
        await refused(adapter)
        clock.forward(60)
        with structlog.testing.capture_logs() as logs:
            await log_in(adapter)
        assert [each["event"] for each in logs if each["log_level"] == "info"] == ["relay_token_renewed"]


@pytest.mark.asyncio
async def test_the_endpoint_is_asked_over_tls_that_is_verified(certificates: Certificates) -> None:
    async with granting(certificates) as (endpoint, ask), TokensWanted() as relay:
        relay.tokens = {"token-1"}
        error = await refused(by(relay, tokens=ask))
        assert "certificate is not to be trusted" in str(error)
        assert endpoint.asked == []
        await log_in(by(relay, tokens=replace(ask, ca_file=str(certificates.ca))))
        error = await refused(by(relay, tokens=replace(ask, ca_file=str(certificates.key) + ".none")))
        assert "is no readable PEM file" in str(error)


@pytest.mark.asyncio
async def test_an_endpoint_that_wants_the_clients_credentials_in_a_header() -> None:
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        relay.tokens = {"token-1"}
        await log_in(by(relay, tokens=replace(ask, client_id="a:p", basic=True)))
    assert endpoint.asked == [{"grant_type": "client_credentials", "scope": "mail.send"}]
    coded = base64.b64encode(f"a%3Ap:{SECRET}".encode()).decode()
    assert endpoint.headers[0]["Authorization"] == f"Basic {coded}"


@pytest.mark.asyncio
async def test_no_secret_follows_a_redirect() -> None:
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        elsewhere = {"Location": f"http://127.0.0.1:{relay.port}/"}
        endpoint.grants = lambda _: web.Response(status=307, headers=elsewhere)
        error = await refused(by(relay, tokens=ask))
    assert "grants none: 307" in str(error)
    assert relay.peers == []


@pytest.mark.asyncio
async def test_an_endpoint_that_nobody_listens_at() -> None:
    async with granting() as (_, ask):
        pass
    async with TokensWanted() as relay:
        error = await refused(by(relay, tokens=ask))
    assert not error.permanent
    assert "cannot be asked" in str(error)
    assert "SMTP_TOKEN_URL" in str(error)


# --- refresh tokens ------------------------------------------------------------------------------


@pytest.fixture
def refresh_file(tmp_path: Path) -> Path:
    path = tmp_path / "refresh"
    path.write_text("refresh-1\n")
    path.chmod(0o640)
    return path


@pytest.mark.asyncio
async def test_a_new_refresh_token_takes_the_place_of_the_old_one(refresh_file: Path) -> None:
    """Microsoft gives a new one each time, and the first ends after 90 days (sasl-xoauth2 30)."""
    clock = ManualClock()
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        endpoint.grants = lambda number: {
            "access_token": "good-token",
            "expires_in": "100",
            "refresh_token": f"refresh-{number + 1}",
        }
        adapter = by(relay, clock, tokens=replace(ask, refresh_file=str(refresh_file), client_secret=""))
        for _ in range(2):
            await log_in(adapter)
            clock.forward(100)
        assert kept(refresh_file) == ("refresh-3\n", 0o640, ["refresh"])
        put(refresh_file, "by-hand")  # an operator's takes the place of ours
        await log_in(adapter)
    told = [(each["grant_type"], each["refresh_token"]) for each in endpoint.asked]
    assert told == [("refresh_token", each) for each in ("refresh-1", "refresh-2", "by-hand")]
    assert all("client_secret" not in each for each in endpoint.asked)


@pytest.mark.asyncio
async def test_a_new_refresh_token_that_cannot_be_written_is_used_and_told_of(
    refresh_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mailsender.smtp.tokens.tempfile.mkstemp", read_only)
    clock = ManualClock()
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        endpoint.grants = lambda number: {
            "access_token": "good-token",
            "expires_in": 100,
            "refresh_token": f"refresh-{number + 1}",
        }
        adapter = by(relay, clock, tokens=replace(ask, refresh_file=str(refresh_file)))
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await log_in(adapter)
                clock.forward(100)
    assert [each["refresh_token"] for each in endpoint.asked] == ["refresh-1", "refresh-2", "refresh-3"]
    (told,) = [each for each in logs if each["event"] == "relay_refresh_token_not_kept"]
    assert told["error"] == "Read-only file system"
    assert "refresh-" not in str(told)


@pytest.mark.asyncio
async def test_a_refresh_token_that_ended_says_what_to_do(refresh_file: Path) -> None:
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        endpoint.status = 400
        endpoint.grants = lambda _: {
            "error": "invalid_grant",
            "error_description": f"AADSTS700082: refresh-1 has expired; {SECRET} is no help",
        }
        error = await refused(by(relay, tokens=replace(ask, refresh_file=str(refresh_file))))
    assert error.permanent
    assert "400 invalid_grant AADSTS700082: *** has expired; *** is no help" in str(error)
    assert "SMTP_TOKEN_REFRESH_FILE" in str(error)
    assert relay.peers == []


@pytest.mark.asyncio
async def test_a_file_without_a_refresh_token(refresh_file: Path) -> None:
    put(refresh_file, "{}" + " " * 10 + "{}")
    async with granting() as (endpoint, ask), TokensWanted() as relay:
        error = await refused(by(relay, tokens=replace(ask, refresh_file=str(refresh_file))))
    assert "holds no refresh token" in str(error)
    assert endpoint.asked == []
