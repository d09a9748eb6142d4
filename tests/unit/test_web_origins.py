"""A page that somebody's browser shows cannot use a service without a key; programs go on as they did."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import pytest

from mailsender.web.app import make_app, serve
from mailsender.web.origins import ANY, foreign
from tests.unit.test_web import KEY, Played, problem, serving

LETTER = b'[{"Addresses":["a@example.test"]}]'
THERE = "http://attacker.example"


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/post", "/halt"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": THERE, "Content-Type": "text/plain"},
        {"Origin": THERE, "Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "null"},
        {"Origin": "http://[half"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=["plain", "form", "null", "broken", "fetch", "neighbour"],
)
async def test_a_page_elsewhere_can_neither_post_nor_halt(path: str, headers: Mapping[str, str]) -> None:
    service = Played()
    async with serving(service, key="") as client:
        answer = await client.ask("POST", path, data=LETTER, headers=headers)
    assert answer[0] == 403
    assert problem(answer)["reason"] == "cross-site"
    assert (service.bodies, service.drains) == ([], 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_foreign_name_that_points_here_gets_nothing(method: str) -> None:
    service, path = Played(), {"GET": "/status", "POST": "/post"}[method]
    async with serving(service, key="") as client:
        headers = {
            "Host": f"attacker.example:{client.port}",
            "Origin": f"http://attacker.example:{client.port}",
        }
        answer = await client.ask(method, path, headers=headers)
        assert (await client.ask("GET", "/healthz", headers=headers))[0] == 200, "probes tell nothing"
    assert answer[0] == 421
    assert problem(answer)["reason"] == "foreign-host"
    assert service.bodies == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "no type at all"},
        {"Host": "mailsender:8000"},
        {"Host": "mailsender.mts.svc.cluster.local"},
        {"Host": "LOCALHOST.:8000", "Origin": "http://localhost.:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_programs_and_our_own_page_go_on(headers: Mapping[str, str]) -> None:
    service = Played()
    async with serving(service, key="") as client:
        assert (await client.ask("POST", "/post", data=LETTER, headers=headers))[0] == 200
    assert service.bodies == [LETTER]


@pytest.mark.asyncio
async def test_with_a_key_names_and_origins_do_not_matter() -> None:
    async with serving(Played(), key=KEY) as client:
        headers = {"Host": "mail.example.com", "Origin": "https://console.example.com"}
        assert (await client.ask("POST", "/post", data=LETTER, headers=headers))[0] == 200


@pytest.mark.asyncio
async def test_a_request_without_a_host_is_answered() -> None:
    app = make_app(Played(), api_key="", max_bytes=1000, timeout=5)
    server = await serve(app, "127.0.0.1", 0)
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(caller, b"GET / HTTP/1.0\r\n\r\n")
            assert (await loop.sock_recv(caller, 100)).startswith(b"HTTP/1.0 200")
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("host", "allowed", "is_foreign"),
    [
        ("attacker.example", [], True),
        ("attacker.example:8000", ["mail.example.com"], True),
        ("mail.example.com:8000", ["mail.example.com"], False),
        ("Mail.Example.COM", ["mail.example.com"], False),
        ("attacker.example", [ANY], False),
        ("localhost.attacker.example", [], True),
        ("127.0.0.1.attacker.example", [], True),
        ("127.0.0.1:1", [], False),
        ("10.1.2.3", [], False),
        ("printer.local", [], False),
        ("notlocal.notinternal", [], True),
        ("a:b:c", [], True),
        ("", [], False),
        (socket.gethostname(), [], False),
    ],
)
def test_names_that_may_be_anybodys(host: str, allowed: list[str], is_foreign: bool) -> None:
    assert foreign(host, allowed) is is_foreign
