"""Callers who bring nothing but connections: they are bounded in number, and their heads in time and size."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from contextlib import AsyncExitStack
from unittest.mock import AsyncMock, Mock

import pytest
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.observe import supervision
from mailsender.web import connections
from mailsender.web.app import make_app, serve
from mailsender.web.connections import FEWEST, MAX_HEAD, Connection, Crowd, affordable
from mailsender.web.operations import Posted
from mailsender.web.pages import Pages
from tests.unit.test_web import Played, raw, serving

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LETTER = b'[{"Addresses":["a@example.test"]}]'


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK", 0.01)
    monkeypatch.setattr(connections, "GRACE", 0.05)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.1)


async def ended(port: int, said: bytes) -> bytes:
    """What comes back on a connection that says `said` and no more, until the other side ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("said", "answer"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"HTTP/1.1 408 "), (GET[:-2], b"HTTP/1.1 408 ")],
    ids=["nothing", "half", "all but the end"],
)
async def test_a_head_that_does_not_come_ends_the_connection(said: bytes, answer: bytes, quick: None) -> None:
    async with serving(Played(), key="") as client:
        assert (await ended(client.port, said)).startswith(answer)
        assert (await client.ask("GET", "/healthz"))[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET  /  HTTP/9.9\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_without_a_word_of_what_we_are_made_of(said: bytes) -> None:
    async with serving(Played(), key="") as client:
        answer = await ended(client.port, said)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"Server: mailsender\r\n" in answer
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    assert b"Content-Type: application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 400


@pytest.mark.asyncio
async def test_a_second_head_on_the_same_connection_has_no_more_time(quick: None) -> None:
    async with serving(Played(), key="") as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(GET.replace(b"Connection: close\r\n", b""))
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET / HT")
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


@pytest.mark.asyncio
async def test_a_large_head_behind_a_request_is_refused_too() -> None:
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(20))
    async with serving(Played(), key="") as client:
        said = await ended(client.port, GET.replace(b"Connection: close\r\n", b"") + head)
    assert b"HTTP/1.1 200" not in said[20:]


@pytest.mark.asyncio
async def test_a_large_head_that_is_not_complete_is_refused_before_it_is_kept() -> None:
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(60))
    assert len(head) > 10 * MAX_HEAD
    async with serving(Played(), key="") as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        sent, refused = 0, False
        while not refused and sent < len(head):
            writer.write(head[sent : sent + 8192])
            sent += 8192
            refused = await at_end(reader)
        writer.close()
    assert refused
    assert sent <= MAX_HEAD + 3 * 8192


async def at_end(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has answered or ended, after a moment for it to do so."""
    try:
        async with asyncio.timeout(0.02):
            await reader.read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.asyncio
async def test_a_body_in_many_pieces_is_no_head() -> None:
    async def pieces() -> object:
        for _ in range(40):
            yield b" " * 8000
            await asyncio.sleep(0)
        yield LETTER

    service = Played()
    async with serving(service, key="", max_bytes=1_000_000) as client:
        assert (await client.ask("POST", "/post", data=pieces()))[0] == 200
        assert (await client.ask("POST", "/post", data=b" " * 400_000 + LETTER))[0] == 200
    assert [len(body) for body in service.bodies] == [320_000 + len(LETTER), 400_000 + len(LETTER)]


@pytest.mark.asyncio
async def test_who_idles_makes_room_for_who_comes(quick: None) -> None:
    app = make_app(Played(), api_key="", max_bytes=1000, timeout=5, most=8)
    connections_told: list[int] = []
    with capture_logs() as events:
        server = await serve(app, "127.0.0.1", 0, most=8)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.close)
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=0.5))
            for _ in range(3):
                assert (await raw(server.port, GET)).startswith(b"HTTP/1.1 200 ")
    crowded = [event for event in events if event["event"] == "http_crowded"]
    connections_told += [event["connections"] for event in crowded]
    assert connections_told == [8], "told once, and there are never more"


@pytest.mark.asyncio
async def test_a_request_under_way_is_not_sent_away(quick: None) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(_: bytes) -> Posted:
        arrived.set()
        await go.wait()
        return Posted(topic="t", partition=0, offset=0, ids=("6b03f03e1c3fe5165a363fce",))

    app = make_app(Played(result=wait), api_key="", max_bytes=1000, timeout=20, most=4)
    server = await serve(app, "127.0.0.1", 0, most=4)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        post = b"POST /post HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]"
        posting = asyncio.create_task(raw(server.port, post))
        await arrived.wait()
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=0.5))
        assert (await raw(server.port, GET)).startswith(b"HTTP/1.1 200 ")
        go.set()
        assert (await posting).startswith(b"HTTP/1.1 200 ")


async def read_to_end(loop: asyncio.AbstractEventLoop, caller: socket.socket) -> None:
    while await loop.sock_recv(caller, 65_536):
        pass


@pytest.mark.asyncio
async def test_an_answer_that_nobody_reads_is_cut(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, leave = asyncio.Event(), Crowd.leave

    def left(self: Crowd, connection: Connection) -> None:
        leave(self, connection)
        gone.set()

    monkeypatch.setattr(Crowd, "leave", left)
    app = make_app(Played(), api_key="", max_bytes=1000, timeout=5)
    server = await serve(app, "127.0.0.1", 0, stuck=0.1)
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(caller, ("127.0.0.1", server.port))
        await loop.sock_sendall(caller, b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        async with asyncio.timeout(5):
            await gone.wait()
        with pytest.raises(ConnectionResetError):  # so that the system forgets what was not read
            await read_to_end(loop, caller)
    finally:
        caller.close()
        await server.close()


@pytest.mark.asyncio
async def test_callers_who_do_not_read_files_take_nobody_elses_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.web.middleware.MAX_FILES", 2)
    inside, enter = [], Crowd.enter

    def entered(self: Crowd, connection: Connection) -> None:
        inside.append(connection)
        enter(self, connection)

    monkeypatch.setattr(Crowd, "enter", entered)
    app = make_app(Played(), api_key="", max_bytes=1000, timeout=5)
    server = await serve(app, "127.0.0.1", 0)
    loop, callers = asyncio.get_running_loop(), [socket.socket() for _ in range(2)]
    ask = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        for caller in callers:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.setblocking(False)
            await loop.sock_connect(caller, ("127.0.0.1", server.port))
            await loop.sock_sendall(caller, ask)
            await loop.sock_recv(caller, 1)
        refused = await raw(server.port, ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"busy"' in refused
        for path in (b"/status", b"/healthz"):
            asked = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path
            assert (await raw(server.port, asked)).startswith(b"HTTP/1.1 200 ")
        buffers = [
            each.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            for each in inside
            if each.transport
        ]
        assert buffers
        assert max(buffers) <= 2 * connections.SEND_BUFFER, "Linux doubles what it is told"
    finally:
        for caller in callers:
            caller.close()
        await server.close()


@pytest.mark.asyncio
async def test_a_file_that_a_socket_takes_at_once_leaves_turns_to_others() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    name = "swagger-ui-bundle.js"
    takes_all = Mock(
        **{"write.side_effect": AsyncMock(), "write_headers": AsyncMock(), "write_eof": AsyncMock()}
    )
    request = make_mocked_request("GET", f"/docs/{name}", match_info={"file": name}, writer=takes_all)
    beside = asyncio.create_task(others())
    await Pages().file(request)
    beside.cancel()
    assert turns >= takes_all.write.call_count > 10


@pytest.mark.asyncio
async def test_a_caller_who_cannot_be_let_in_does_not_end_the_listening(
    monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    loop = asyncio.get_running_loop()
    accept, refused = loop.sock_accept, [OSError(24, "Too many open files"), OSError(103, "gone")]

    async def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if refused:
            raise refused.pop(0)
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    with capture_logs() as events:
        async with serving(Played(), key="") as client:
            assert (await client.ask("GET", "/healthz"))[0] == 200
    assert [event["event"] for event in events] == ["http_out_of_descriptors"]


@pytest.mark.asyncio
async def test_letting_in_goes_on_after_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(supervision, "FIRST_BACKOFF", 0.001)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [RuntimeError("nobody expects this")]

    async def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    keeper = supervision.Supervisor(SystemClock(), lambda *_: None)
    app = make_app(Played(), api_key="", max_bytes=1000, timeout=5)
    with capture_logs() as events:
        server = await serve(app, "127.0.0.1", 0, keep=keeper.keep)
        assert (await raw(server.port, GET)).startswith(b"HTTP/1.1 200 ")
        await server.close()
    assert [(event["event"], event["loop"]) for event in events] == [("loop_failed", "http")]


def test_files_are_kept_for_the_main_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((256, 123), (65536, 512), (64, FEWEST), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert affordable(512, 133) == most


@pytest.mark.asyncio
async def test_all_addresses_of_a_name_are_listened_on() -> None:
    app = make_app(Played(), api_key="", max_bytes=1000, timeout=5)
    server = await serve(app, "localhost", 0)
    try:
        for each in server.sockets:
            host, port, *_ = each.getsockname()
            assert port == server.port
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(GET)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    finally:
        await server.close()
