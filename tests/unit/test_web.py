"""The HTTP side against a service that is played: every status, header and limit over a real socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from mailsender import __version__
from mailsender.model.errors import TooLarge, Unavailable
from mailsender.model.handling import Handling, Priority
from mailsender.model.letter import (
    Answer,
    Letter,
    Origin,
    PastAttempt,
    Phase,
    Recipient,
    Result,
    Status,
    StoredLetter,
    Verdict,
)
from mailsender.web import handlers, middleware
from mailsender.web.app import BACKLOG, READ_AHEAD, make_app, serve
from mailsender.web.explain_models import ExplainedView
from mailsender.web.models import DryRunView
from mailsender.web.operations import (
    BadBatch,
    BadConfig,
    Lifted,
    NoConfig,
    NoOrder,
    Operations,
    Posted,
    Refused,
    Reloaded,
    Submission,
    Submitted,
)
from mailsender.web.problems import MAX_FAULTS, ProblemError, pointer

KEY = "correct horse ключ"
_LIMIT = Path("/proc/sys/net/core/somaxconn")
SOMAXCONN = int(_LIMIT.read_text()) if _LIMIT.exists() else 0
ID = "6b03f03e1c3fe5165a363fce"
SINCE = datetime(2026, 1, 2, 3, tzinfo=UTC)
DUE = datetime(2026, 1, 2, 4, tzinfo=UTC)


@dataclass(frozen=True)
class Flaw:
    index: int
    field: str
    text: str


@dataclass
class Played:
    """A service whose answers a test sets."""

    state: str = "running"
    config: Reloaded | BadConfig = field(default_factory=lambda: NoConfig("there is none"))
    asked_by: str = ""
    reason: str = ""
    refusal: Refused | None = None
    result: Callable[[bytes], Coroutine[Any, Any, Posted]] | None = None
    why_not: list[str] = field(default_factory=list)
    letters: dict[str, Letter] = field(default_factory=dict)
    explained: dict[str, ExplainedView] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    given: list[bytes | Submission] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    becomes: Callable[[Callable[[], bool]], Coroutine[Any, Any, StoredLetter | None]] | None = None
    drains: int = 0

    def accepting(self) -> None:
        if self.refusal:
            raise self.refusal

    async def post(self, body: bytes, key: str = "") -> Posted:
        self.bodies.append(body)
        self.keys.append(key)
        if self.result:
            return await self.result(body)
        return Posted(topic="mts-to-mailsender", partition=3, offset=7, ids=(ID,))

    async def attach(self, name: str, content_type: str, content: AsyncIterator[bytes]) -> Mapping[str, Any]:
        whole = b"".join([piece async for piece in content])
        return {"Name": name, "ContentType": content_type, "Content": whole}

    async def submit(self, given: Submission, key: str = "") -> Submitted:
        self.given.append(given)
        self.keys.append(key)
        if self.result:
            await self.result(given.body)
        return Submitted(topic="mts-to-mailsender", partition=3, offset=7, id=ID, content=b"")

    async def outcome(
        self, submitted: Submitted, seconds: float, gone: Callable[[], bool]
    ) -> StoredLetter | None:
        self.waits.append(seconds)
        return await self.becomes(gone) if self.becomes else None

    async def dry_run(self, given: bytes | Submission) -> DryRunView:
        self.given.append(given)
        return DryRunView.model_construct(letters=1, faults=[], shown=[])

    def ready(self) -> tuple[bool, list[str]]:
        return not self.why_not, self.why_not

    async def status(self) -> Mapping[str, Any]:
        return {"queue": {"awaiting": 4}}

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return f"# {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"

    async def letter(self, letter_id: str) -> StoredLetter | None:
        found = self.letters.get(letter_id)
        return found and StoredLetter(
            letter=found, accepted_at=SINCE, due=None if found.status.final else DUE
        )

    async def explain(self, letter_id: str) -> ExplainedView | None:
        return self.explained.get(letter_id)

    async def lift_order(self, relay: str, scope: str, *, by: str, reason: str) -> Lifted:
        self.asked_by, self.reason = by, reason
        if relay != "ses":
            raise NoOrder("there is no such relay")
        return Lifted(relay=relay, scope=scope, rule="ses/rate", said="454")

    async def reload(self, by: str) -> Reloaded:
        self.asked_by = by
        if isinstance(self.config, BadConfig):
            raise self.config
        return self.config

    def begin_drain(self) -> Mapping[str, Any]:
        self.drains += 1
        self.state = "draining"
        return {"state": self.state, "step": "intake" if self.drains == 1 else "senders"}


@dataclass
class Client:
    """A caller who shows the key."""

    session: aiohttp.ClientSession
    port: int

    async def ask(
        self, method: str, path: str, *, key: str | None = KEY, **options: Any
    ) -> tuple[int, Mapping[str, str], str]:
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["X-API-KEY"] = key
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, headers=headers, **options) as answer:
            return answer.status, answer.headers, await answer.text()


@asynccontextmanager
async def serving(
    operations: Operations, *, key: str = KEY, max_bytes: int = 10_000, timeout: float = 5
) -> AsyncIterator[Client]:
    app = make_app(operations, api_key=key, max_bytes=max_bytes, timeout=timeout)
    server = await serve(app, "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            yield Client(session, server.port)
    finally:
        await server.close()


def raises(error: Exception) -> Callable[[bytes], Coroutine[Any, Any, Posted]]:
    async def result(_: bytes) -> Posted:
        raise error

    return result


def problem(answer: tuple[int, Mapping[str, str], str]) -> dict[str, Any]:
    """The body of a problem, after a look at what all problems have in common (RFC 9457 §3.1)."""
    status, headers, text = answer
    assert headers["Content-Type"].startswith("application/problem+json")
    body: dict[str, Any] = json.loads(text)
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys()
    assert "Traceback" not in text
    return body


@pytest.mark.asyncio
async def test_the_greeting_is_one_line_with_name_version_and_state() -> None:
    async with serving(Played()) as client:
        status, headers, text = await client.ask("GET", "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["Server"] == "mailsender"
    assert text == f"mailsender {__version__}: running\n"


@pytest.mark.asyncio
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "nonsense", None])
async def test_post_takes_a_batch_whatever_its_content_type(content_type: str | None) -> None:
    service = Played()
    headers = {"Content-Type": content_type} if content_type else {}
    async with serving(service) as client:
        status, _, text = await client.ask("POST", "/post", data=b"[{}]", headers=headers)
    assert status == 200
    assert json.loads(text) == {"topic": "mts-to-mailsender", "partition": 3, "offset": 7, "ids": [ID]}
    assert service.bodies == [b"[{}]"]


@pytest.mark.asyncio
async def test_a_bad_batch_is_told_where_it_is_wrong_and_what_would_be_right() -> None:
    faults = [Flaw(2, "Addresses", "is empty"), Flaw(5, "", "is not an object"), Flaw(6, "a/b~c", "odd")]
    service = Played(result=raises(BadBatch("3 faults", faults)))
    async with serving(service) as client:
        body = problem(await client.ask("POST", "/post", data=b"[]"))
    assert body["status"] == 400
    assert body["reason"] == "bad-batch"
    assert [error["pointer"] for error in body["errors"]] == ["#/2/Addresses", "#/5", "#/6/a~1b~0c"]
    assert body["errors"][0] == {
        "index": 2,
        "field": "Addresses",
        "pointer": "#/2/Addresses",
        "text": "is empty",
    }
    assert isinstance(body["sample"][0]["Addresses"], list)


@pytest.mark.asyncio
async def test_the_records_key_may_be_chosen() -> None:
    service = Played()
    async with serving(service) as client:
        for query in ("", "?key=", "?key=user+17", "?key=%D0%98%D0%B2%D0%B0%D0%BD"):
            assert (await client.ask("POST", f"/post{query}", data=b"[]"))[0] == 200
        for query in ("?key=a&key=b", f"?key={'x' * 1025}"):
            answer = await client.ask("POST", f"/post{query}", data=b"[]")
            assert (answer[0], problem(answer)["reason"]) == (400, "bad-key")
    assert service.keys == ["", "", "user 17", "Иван"]


@pytest.mark.asyncio
async def test_the_list_of_faults_is_bounded_and_says_so() -> None:
    faults = [Flaw(index, "Subject", "wrong") for index in range(MAX_FAULTS + 20)]
    async with serving(Played(result=raises(BadBatch("many", faults)))) as client:
        body = problem(await client.ask("POST", "/post", data=b"[]"))
    assert len(body["errors"]) == MAX_FAULTS
    assert str(MAX_FAULTS + 20) in body["detail"]


@pytest.mark.asyncio
async def test_a_fault_that_quotes_a_lone_surrogate_is_answered_all_the_same() -> None:
    faults = [Flaw(0, "Subject", "holds '\ud800'")]
    async with serving(Played(result=raises(BadBatch("bad", faults)))) as client:
        body = problem(await client.ask("POST", "/post", data=b"[]"))
    assert body["status"] == 400


@pytest.mark.asyncio
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_body_over_the_limit_is_413_and_never_reaches_the_service(chunked: bool) -> None:
    service = Played()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    async with serving(service, max_bytes=5000) as client:
        data: Any = pieces() if chunked else b"x" * 5001
        body = problem(await client.ask("POST", "/post", data=data))
        exact = await client.ask("POST", "/post", data=b"x" * 5000)
    assert body["status"] == 413
    assert "5000 bytes" in body["detail"]
    assert exact[0] == 200
    assert service.bodies == [b"x" * 5000]


@pytest.mark.asyncio
async def test_one_who_waits_for_his_turn_holds_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "MAX_POSTS", 1)
    arrived, paused, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    pause_reading, feed_data, held = BaseProtocol.pause_reading, StreamReader.feed_data, 0

    def pause(self: BaseProtocol) -> None:
        pause_reading(self)
        paused.set()

    def feed(self: StreamReader, data: bytes, *more: Any) -> Any:
        nonlocal held
        held += 0 if go.is_set() else len(data)
        return feed_data(self, data, *more)

    async def wait(_: bytes) -> Posted:
        arrived.set()
        await go.wait()
        return Posted(topic="t", partition=0, offset=0, ids=())

    monkeypatch.setattr(BaseProtocol, "pause_reading", pause)
    monkeypatch.setattr(StreamReader, "feed_data", feed)
    size = 1_000_000
    service = Played(result=wait)
    async with serving(service, max_bytes=size) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.ask("POST", "/post", data=b"[]"))
        await arrived.wait()
        second = group.create_task(client.ask("POST", "/post", data=b"x" * size))
        await paused.wait()
        go.set()
        assert [(await each)[0] for each in (first, second)] == [200, 200]
    # Its own mark, which is twice what is wanted, and one read of the loop's on top.
    assert held <= 2 * READ_AHEAD + 256 * 1024
    assert [len(body) for body in service.bodies] == [2, size]


@pytest.mark.asyncio
async def test_a_body_announced_as_too_large_waits_for_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "MAX_POSTS", 1)
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(_: bytes) -> Posted:
        arrived.set()
        await go.wait()
        return Posted(topic="t", partition=0, offset=0, ids=())

    async with serving(Played(result=wait), max_bytes=5000) as client, asyncio.TaskGroup() as group:
        under_way = group.create_task(client.ask("POST", "/post", data=b"[]"))
        await arrived.wait()
        assert problem(await client.ask("POST", "/post", data=b"x" * 5001))["status"] == 413
        go.set()
        assert (await under_way)[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
async def test_a_compressed_body_is_415_and_nobody_unpacks_it(coding: str) -> None:
    service = Played()
    bomb = gzip.compress(b"[" + b" " * 4_000_000 + b"]")
    async with serving(service) as client:
        for key in (KEY, None):
            headers = {"Content-Encoding": coding}
            answer = await client.ask("POST", "/post", key=key, data=bomb, headers=headers)
            assert problem(answer)["status"] == (415 if key else 401)
            assert key is None or answer[1]["Accept-Encoding"] == "identity"
        plain = await client.ask("POST", "/post", data=b"[{}]", headers={"Content-Encoding": "identity"})
    assert plain[0] == 200
    assert service.bodies == [b"[{}]"]


@pytest.mark.asyncio
async def test_the_server_unpacks_nothing_for_those_whom_it_turns_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A megabyte of gzip is a gigabyte of spaces: a second and a half of the event loop, without a key."""
    unpacked: list[object] = []
    monkeypatch.setattr("aiohttp.http_parser.DeflateBuffer.__init__", lambda *a, **k: unpacked.append(a))
    async with serving(Played()) as client:
        for path in ("/post", "/healthz", "/nowhere"):
            headers = {"Content-Encoding": "gzip"}
            await client.ask("POST", path, key=None, data=gzip.compress(b"[]"), headers=headers)
    assert not unpacked


@pytest.mark.asyncio
async def test_a_record_too_large_for_the_broker_is_413() -> None:
    async with serving(Played(result=raises(TooLarge("no")))) as client:
        assert problem(await client.ask("POST", "/post", data=b"[]"))["status"] == 413


@pytest.mark.asyncio
async def test_refused_letters_are_503_with_a_time_to_come_again_and_unread() -> None:
    refusal = Refused("draining", "The service is stopping.", retry_after=0.2)
    service = Played(refusal=refusal)
    async with serving(service) as client:
        answer = await client.ask("POST", "/post", data=b"[]")
    body = problem(answer)
    assert body["status"] == 503
    assert body["reason"] == "draining"
    assert answer[1]["Retry-After"] == "1"
    assert service.bodies == []


@pytest.mark.asyncio
async def test_what_may_have_been_stored_is_503_with_the_ids_to_repeat_it_with() -> None:
    unsure = Refused("unconfirmed", "It may have been stored.", retry_after=5, ids=(ID,))
    async with serving(Played(result=raises(unsure))) as client:
        answer = await client.ask("POST", "/post", data=b"[]")
    body = problem(answer)
    assert (body["status"], body["reason"], body["ids"]) == (503, "unconfirmed", [ID])
    assert answer[1]["Retry-After"] == "5"


@pytest.mark.asyncio
async def test_an_absent_broker_is_503_with_a_time_to_come_again() -> None:
    async with serving(Played(result=raises(Unavailable("no broker answers")))) as client:
        answer = await client.ask("POST", "/post", data=b"[]")
    assert problem(answer)["detail"] == "no broker answers"
    assert answer[0] == 503
    assert int(answer[1]["Retry-After"]) >= 1


@pytest.mark.asyncio
@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", KEY[:-1], "ключ"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/post"), ("GET", "/nowhere")])
async def test_without_the_right_key_there_is_nothing_to_see(key: str | None, method: str, path: str) -> None:
    service = Played()
    async with serving(service) as client:
        answer = await client.ask(method, path, key=key, data=b"[]" if method == "POST" else None)
    assert problem(answer)["status"] == 401
    assert "WWW-Authenticate" in answer[1]
    assert service.bodies == []
    assert service.drains == 0


@pytest.mark.asyncio
async def test_without_a_configured_key_everybody_is_let_in() -> None:
    async with serving(Played(), key="") as client:
        assert (await client.ask("GET", "/", key=None))[0] == 200
        assert (await client.ask("GET", "/", key="anything"))[0] == 200


@pytest.mark.asyncio
async def test_probes_need_no_key_and_tell_nothing() -> None:
    service = Played()
    async with serving(service) as client:
        assert (await client.ask("GET", "/healthz", key=None))[::2] == (200, "ok\n")
        assert (await client.ask("GET", "/readyz", key=None))[::2] == (200, "ok\n")
        service.why_not = ["the relay smtp.example refuses the password"]
        assert (await client.ask("GET", "/healthz", key=None))[::2] == (200, "ok\n")
        assert (await client.ask("GET", "/readyz", key=None))[::2] == (503, "not ready\n")


@pytest.mark.asyncio
async def test_status_says_why_the_service_is_not_ready() -> None:
    async with serving(Played(why_not=["no broker answers"])) as client:
        status, headers, text = await client.ask("GET", "/status")
    body = json.loads(text)
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert headers["Cache-Control"] == "no-store"
    assert body["ready"] is False
    assert body["not_ready_because"] == ["no broker answers"]
    assert body["queue"] == {"awaiting": 4}


@pytest.mark.asyncio
async def test_halt_drains_and_a_second_call_says_how_far_it_is() -> None:
    service = Played()
    async with serving(service) as client:
        first = await client.ask("POST", "/halt")
        second = await client.ask("POST", "/halt")
    assert (first[0], json.loads(first[2])) == (200, {"state": "draining", "step": "intake"})
    assert (second[0], json.loads(second[2])) == (200, {"state": "draining", "step": "senders"})


@pytest.mark.asyncio
async def test_what_a_reply_ordered_is_lifted_and_who_asked_is_told() -> None:
    service = Played()
    async with serving(service) as client:
        path = "/relays/ses/orders/sender%3Aa%2Fb%40example.org"
        status, _, body = await client.ask("DELETE", f"{path}?reason=mended")
        assert (status, json.loads(body)) == (
            200,
            {
                "relay": "ses",
                "scope": "sender:a/b@example.org",
                "rule": "ses/rate",
                "said": "454",
                "until": None,
            },
        )
        assert service.asked_by.startswith("DELETE /relays/ses/orders/sender:a/b@example.org from 127.0.0.1")
        assert service.reason == "mended"
        status, _, body = await client.ask("DELETE", "/relays/none/orders/relay")
        assert (status, json.loads(body)["reason"]) == (404, "no-order")
        assert (await client.ask("DELETE", f"{path}?reason={'x' * 201}"))[0] == 400
        assert (await client.ask("DELETE", path, key=""))[0] == 401


@pytest.mark.asyncio
async def test_the_file_is_read_again_and_what_became_of_it_is_told() -> None:
    service = Played(config=Reloaded(path="/r.toml", taken=("relays.a.rate",), left=("relays.b is new",)))
    async with serving(service) as client:
        status, _, body = await client.ask("POST", "/reload")
        assert (status, json.loads(body)) == (
            200,
            {"path": "/r.toml", "taken": ["relays.a.rate"], "left": ["relays.b is new"]},
        )
        assert service.asked_by.startswith("POST /reload from 127.0.0.1")
        for error, reason in ((BadConfig("/r.toml:3: wrong"), "bad-config"), (NoConfig("none"), "no-config")):
            service.config = error
            status, _, body = await client.ask("POST", "/reload")
            problem = json.loads(body)
            assert (status, problem["reason"], problem["detail"]) == (409, reason, f"{error}.")
        status, _, _ = await client.ask("POST", "/reload", key="")
        assert status == 401


HANDLED = (
    *("route", "wanted_route", "stream", "tags", "priority", "retry", "not_before", "expires"),
    "suppression",
)


@pytest.mark.asyncio
async def test_a_letter_is_shown_with_what_it_asked_for() -> None:
    plain = Letter(id=ID, addresses=("a@example.test",), subject="s", body="b")
    asked = Handling(
        stream="news",
        tags=("a", "b"),
        priority=Priority.HIGH,
        route="bulk",
        retry="1m, 5m*2",
        not_before=datetime(2026, 1, 2, 8, 0, tzinfo=UTC),
        expire_at=datetime(2026, 1, 4, tzinfo=UTC),
    )
    expires = datetime(2026, 1, 3, tzinfo=UTC)
    full = Letter(
        id=ID,
        addresses=plain.addresses,
        subject="s",
        body="b",
        route="bulk",
        handling=asked,
        expires=expires,
        mail=json.dumps({"Suppression": "ignore"}),
    )
    shown = []
    for letter in (plain, full):
        async with serving(Played(letters={ID: letter})) as client:
            answer = await client.ask("GET", f"/letters/{ID}")
        body = json.loads(answer[2])
        shown.append({name: body[name] for name in HANDLED})
    assert shown == [
        {
            "route": "default",
            "wanted_route": "",
            "stream": "",
            "tags": [],
            "priority": "normal",
            "retry": "",
            "not_before": None,
            "expires": None,
            "suppression": "",
        },
        {
            "route": "bulk",
            "wanted_route": "bulk",
            "stream": "news",
            "tags": ["a", "b"],
            "priority": "high",
            "retry": "1m, 5m*2",
            "not_before": "2026-01-02T08:00:00Z",
            "expires": "2026-01-03T00:00:00Z",
            "suppression": "ignore",
        },
    ]


@pytest.mark.asyncio
async def test_a_letter_is_shown_without_its_content() -> None:
    refused = Result(
        verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user"
    )
    letter = Letter(
        id=ID,
        addresses=("a@example.test", "b@example.test"),
        subject="Code 493021",
        body="<p>BODY-SECRET</p>",
        answers=(
            Answer(
                token="TOKEN-SECRET", origin=Origin(topic="t", partition=0, offset=5, index=1, timestamp=1)
            ),
        ),
        answered=1,
        recipients=(Recipient(address="a@example.test", result=refused), Recipient(address="b@example.test")),
        status=Status.ERROR,
        attempts=2,
        finished_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    async with serving(Played(letters={ID: letter})) as client:
        status, _, text = await client.ask("GET", f"/letters/{ID.upper()}")
    body = json.loads(text)
    assert status == 200
    assert body["status"] == "error"
    assert body["reported"] is True
    assert body["finished_at"] == "2026-01-02T03:04:05Z"
    assert (body["accepted_at"], body["due"]) == ("2026-01-02T03:00:00Z", None)
    assert body["recipients"][0]["code"] == 550
    assert body["recipients"][1]["verdict"] is None
    assert body["origin"] == {"topic": "t", "partition": 0, "offset": 5, "index": 1}
    assert not [secret for secret in ("BODY-SECRET", "493021", "TOKEN-SECRET") if secret in text]
    assert body["recipients"][1]["next_try"] is None
    assert body["history"] == []
    past = PastAttempt(
        at=letter.finished_at, relay="mx:25", result=refused, asked=2, seconds=1.5, tls="TLSv1.3"
    )
    waiting = letter.evolve(status=Status.AWAITING, history=(past,))
    async with serving(Played(letters={ID: waiting})) as client:
        _, _, text = await client.ask("GET", f"/letters/{ID}")
    body = json.loads(text)
    assert body["due"] == "2026-01-02T04:00:00Z"
    assert [each["next_try"] for each in body["recipients"]] == [None, "2026-01-02T04:00:00Z"]
    assert body["history"] == [
        {
            "at": "2026-01-02T03:04:05Z",
            "relay": "mx:25",
            "verdict": "refused",
            "phase": "rcpt",
            "code": 550,
            "enhanced": "5.1.1",
            "text": "no such user",
            "rule": "",
            "recipients": 2,
            "accepted": 0,
            "seconds": 1.5,
            "tls": "TLSv1.3",
        }
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/nowhere", "/letters/" + "0" * 24, "/letters/short", "/post/", "/letters/"]
)
async def test_an_unknown_path_or_letter_is_404(path: str) -> None:
    async with serving(Played()) as client:
        assert problem(await client.ask("GET", path))["status"] == 404


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/post", "POST"),
        ("GET", "/halt", "POST"),
        ("POST", "/status", "GET,HEAD"),
        ("DELETE", "/healthz", "GET,HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_told_the_right_one(method: str, path: str, allowed: str) -> None:
    service = Played()
    async with serving(service) as client:
        answer = await client.ask(method, path)
    assert problem(answer)["status"] == 405
    assert answer[1]["Allow"] == allowed
    assert service.drains == 0


@pytest.mark.asyncio
async def test_what_nobody_expected_is_500_with_an_id_that_the_log_has_too() -> None:
    with capture_logs() as events:
        async with serving(Played(result=raises(KeyError("inner detail")))) as client:
            answer = await client.ask("POST", "/post?secret=1", data=b"[]")
    body = problem(answer)
    assert body["status"] == 500
    assert "inner detail" not in answer[2]
    [event] = [event for event in events if event["event"] == "http_request_failed"]
    assert event["incident"] == body["id"]
    assert body["instance"] == f"urn:uuid:{body['id']}"
    assert body["id"] in body["detail"]
    assert event["route"] == "/post"
    assert isinstance(event["exc_info"], KeyError)


@pytest.mark.asyncio
async def test_a_handler_that_hangs_is_cut_and_answered_504() -> None:
    cancelled = asyncio.Event()

    async def hang(_: bytes) -> Posted:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(Played(result=hang), timeout=0.2) as client:
        body = problem(await client.ask("POST", "/post", data=b"[]"))
    assert body["status"] == 504
    assert "Letters of this request may have been taken" in body["detail"]
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/lint", "Nothing was changed."),
        ("GET", f"/letters/{ID}", "Nothing was changed."),
        ("POST", "/templates/a/preview", "Nothing was changed."),
        ("PUT", "/templates/a?check=true", "Nothing was changed."),
        ("POST", "/letters?dry_run=true", "Nothing was changed."),
        ("PUT", "/templates/a", "It may have been saved"),
        ("POST", "/letters?dry_run=false", "Letters of this request may have been taken"),
        ("DELETE", "/suppressions/a@example.test", "It may have been taken off the list."),
        ("DELETE", "/suppressions/a%2Fb@example.test", "It may have been taken off the list."),
        ("POST", "/codes", "A code may have been made and sent."),
        ("POST", "/codes/check", "It may have counted as a try."),
        ("PUT", f"/blobs/sha256:{'0' * 64}", "It may have been stored"),
    ],
)
@pytest.mark.asyncio
async def test_a_504_says_what_may_have_been_done(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, said: str
) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(middleware, "UPLOAD_TIME", 0.05)
    request = make_mocked_request(method, path)
    with pytest.raises(ProblemError, match=re.escape(said)) as raised:
        await middleware.bound(0.05, 10)(request, hang)
    assert raised.value.status == 504


@pytest.mark.asyncio
async def test_a_timeout_inside_of_the_service_is_not_mistaken_for_the_requests_own() -> None:
    with capture_logs():
        async with serving(Played(result=raises(TimeoutError()))) as client:
            assert problem(await client.ask("POST", "/post", data=b"[]"))["status"] == 500


async def raw(port: int, data: bytes) -> bytes:
    """All that the server says to `data` until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.asyncio
async def test_a_body_that_does_not_arrive_is_408_and_the_connection_ends() -> None:
    async with serving(Played(), key="", timeout=0.3) as client:
        said = await raw(client.port, b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n[")
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    assert json.loads(body)["status"] == 408


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    ],
    ids=["header", "line", "many", "garbage"],
)
async def test_heads_over_the_limits_are_400_and_no_traceback_in_the_log(
    request_head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Played(), key="") as client:
        said = await raw(client.port, request_head)
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"Traceback" not in said
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "said",
    [b"Content-Length: 50\r\n\r\n[", b"Transfer-Encoding: chunked\r\n\r\n5\r\n[{"],
    ids=["length", "chunked"],
)
async def test_a_caller_who_hangs_up_in_mid_body_is_no_incident(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    service = Played()
    with capture_logs() as events:
        async with serving(service, key="") as client:
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(b"POST /post HTTP/1.1\r\nHost: x\r\n" + said)
            await writer.drain()
            assert (await client.ask("GET", "/healthz"))[0] == 200  # by now it is being read
            writer.close()
            await writer.wait_closed()
            assert (await client.ask("POST", "/post", data=b"[]"))[0] == 200
    assert service.bodies == [b"[]"]
    assert not [event for event in events if event["event"] == "http_request_failed"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.asyncio
async def test_a_connection_of_ours_that_breaks_is_an_incident_while_the_caller_is_there() -> None:
    async def breaks(_: bytes) -> Posted:
        raise ConnectionResetError("not the caller's")

    with capture_logs() as events:
        async with serving(Played(result=breaks), key="") as client:
            assert (await client.ask("POST", "/post", data=b"[]"))[0] == 500
    assert [event["event"] for event in events if event["log_level"] == "error"] == ["http_request_failed"]


EXPECTING = b"POST /post HTTP/1.1\r\nHost: x\r\nX-API-KEY: %s\r\nExpect: %s\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("key", "expect", "size", "answer"),
    [
        (b"k" * 32, b"100-continue", 2, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"wrong", b"100-continue", 2, b"HTTP/1.1 401 "),
        (b"k" * 32, b"100-continue", 50_000_000, b"HTTP/1.1 413 "),
        (b"k" * 32, b"elephants", 2, b"HTTP/1.1 417 "),
    ],
    ids=["asked for", "no key", "too large", "unknown"],
)
async def test_a_body_that_waits_is_asked_for_when_it_is_wanted(
    key: bytes, expect: bytes, size: int, answer: bytes
) -> None:
    async with serving(Played(), key="k" * 32) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(EXPECTING % (key, expect, size))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(answer)
        if head.startswith(b"HTTP/1.1 100"):
            writer.write(b"[]")
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200 ")
        else:
            assert b"application/problem+json" in head
        writer.close()


@pytest.mark.asyncio
async def test_over_its_bound_the_service_is_busy_but_answers_probes_and_halt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(middleware, "MAX_IN_FLIGHT", 2)
    arrived, go = asyncio.Semaphore(0), asyncio.Event()

    async def wait(_: bytes) -> Posted:
        arrived.release()
        await go.wait()
        return Posted(topic="t", partition=0, offset=0, ids=())

    async with serving(Played(result=wait)) as client, asyncio.TaskGroup() as group:
        under_way = [group.create_task(client.ask("POST", "/post", data=b"[]")) for _ in range(2)]
        await arrived.acquire()
        await arrived.acquire()
        answer = await client.ask("POST", "/post", data=b"[]")
        assert problem(answer)["reason"] == "busy"
        assert "nothing of this one was done" in problem(answer)["detail"]
        assert "Retry-After" in answer[1]
        assert (await client.ask("GET", "/healthz"))[0] == 200
        assert (await client.ask("POST", "/halt"))[0] == 200
        go.set()
        assert [(await task)[0] for task in under_way] == [200, 200]
        later = [(await client.ask("POST", "/post", data=b"[]"))[0] for _ in range(3)]
    assert later == [200, 200, 200], "what has ended must not count any more"


@pytest.mark.asyncio
async def test_only_so_many_bodies_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "MAX_POSTS", 3)
    together, most = 0, 0

    async def count(_: bytes) -> Posted:
        nonlocal together, most
        together += 1
        most = max(most, together)
        for _turn in range(20):
            await asyncio.sleep(0)
        together -= 1
        return Posted(topic="t", partition=0, offset=0, ids=())

    async with serving(Played(result=count)) as client:
        answers = await asyncio.gather(*(client.ask("POST", "/post", data=b"[]") for _ in range(12)))
    assert {status for status, _, _ in answers} == {200}
    assert most <= 3


@pytest.mark.skipif(SOMAXCONN < BACKLOG, reason="this system does not hold as many")
@pytest.mark.asyncio
async def test_callers_who_come_at_once_are_held_until_they_are_taken() -> None:
    async with serving(Played()) as client, AsyncExitStack() as callers:
        # No turn of the loop in between: the kernel alone answers. One too many would wait for a second.
        for _ in range(BACKLOG // 2):
            callers.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=0.5))


@pytest.mark.asyncio
async def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    async with serving(Played()) as client:
        app = make_app(Played(), api_key="", max_bytes=1000, timeout=1)
        with pytest.raises(OSError, match="Address already in use"):
            await serve(app, "127.0.0.1", client.port)


def test_a_pointer_names_the_letter_and_its_key() -> None:
    assert pointer(3, "") == "#/3"
    assert pointer(0, "Body") == "#/0/Body"
    assert pointer(1, "Addresses[12]") == "#/1/Addresses/12"
    assert pointer(None, "") == "#"
    assert pointer(None, "Attachments[0].Name") == "#/Attachments/0/Name"
    assert pointer(None, "Headers.X-A.b/c") == "#/Headers/X-A.b~1c"
