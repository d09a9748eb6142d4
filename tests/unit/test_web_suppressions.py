"""The suppression list over HTTP, with a list in memory."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from structlog.testing import capture_logs

from mailsender.admin.suppression_operations import ReplicaSuppressions
from mailsender.model.errors import Unavailable
from mailsender.model.letter import now_ms
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.port import Entry, Filter, Refusal, Source
from mailsender.suppression.rules import MAX_REASON, SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch
from mailsender.web import connections, suppression_handlers
from mailsender.web.app import make_app, serve
from mailsender.web.endpoints.table import moves_file
from mailsender.web.suppression_operations import SuppressionOperations
from tests.clocks import ManualClock
from tests.unit import test_web
from tests.unit.test_contracts import check
from tests.unit.test_web import Client, problem, serving

pytestmark = pytest.mark.asyncio

ANN, BOB = "ann@example.test", "bob@example.test"
NO_TIME = (
    "suppressions.0.until: is no time such as 2026-12-31T23:59:59Z, no duration from now such as 60d, and not"
    " never"
)


class Store(MemorySuppressions):
    """Fails as it is told to."""

    fault: Exception | None = None
    pages = 0

    async def put(self, entries: Sequence[Entry]) -> int:
        if self.fault:
            raise self.fault
        return await super().put(entries)

    async def remove(self, keys: Collection[str], *, learned: bool = False) -> int:
        if self.fault:
            raise self.fault
        return await super().remove(keys, learned=learned)

    async def listed(self, wanted: Filter, *, after: str, most: int) -> list[Entry]:
        self.pages += 1
        if self.fault and self.pages > 1:
            raise self.fault
        return await super().listed(wanted, after=after, most=most)


@dataclass
class Played(test_web.Played):
    store: Store = field(default_factory=Store)
    clock: ManualClock = field(default_factory=ManualClock)
    watch: Any = None

    def __post_init__(self) -> None:
        self.watch = SuppressionWatch(self.store, self.clock, SuppressionPolicy())
        parts = SimpleNamespace(suppressions=self.store)
        replica = SimpleNamespace(suppression=self.watch, parts=parts, clock=self.clock)
        self.suppressions: SuppressionOperations = ReplicaSuppressions(replica)  # type: ignore[arg-type]

    @property
    def now(self) -> datetime:
        return now_ms(self.clock.epoch())

    def kept(self) -> list[str]:
        return sorted(self.store._entries)


@asynccontextmanager
async def listening(service: Played) -> AsyncIterator[Client]:
    async with serving(service) as client:
        yield client


def body(*entries: dict[str, Any]) -> str:
    return json.dumps({"suppressions": list(entries)})


async def asked(client: Client, method: str, path: str, **options: Any) -> dict[str, Any]:
    """What is answered, after a look whether the description says so."""
    status, headers, text = await client.ask(method, path, **options)
    assert status == 200, text
    assert headers["Content-Type"].startswith("application/json")
    found: dict[str, Any] = json.loads(text)
    operation = path.partition("?")[0]
    operation = "/suppressions/{address}" if method == "DELETE" else operation
    check(operation, method, status, headers, text)
    return found


async def test_addresses_are_put_there_and_listed() -> None:
    service = Played()
    until = "2030-01-02T03:04:05+03:00"
    with capture_logs() as logs:
        async with listening(service) as client:
            entries = [
                {"address": "Ann@Example.test", "reason": "asked us\nto"},
                {"address": "@example.org", "stream": "news", "until": "never"},
                {"address": BOB, "until": until},
            ]
            assert await asked(client, "POST", "/suppressions", data=body(*entries)) == {"put": 3, "new": 3}
            assert await asked(client, "POST", "/suppressions", data=body(*entries)) == {"put": 3, "new": 0}
            found = await asked(client, "GET", "/suppressions")
            await asked(client, "DELETE", f"/suppressions/{quote(ANN)}")
            await client.ask("POST", "/suppressions/import", data="dave@example.test\n")
    assert found["next"] is None
    assert [each["address"] for each in found["suppressions"]] == ["@example.org", ANN, BOB]
    domain, ann, bob = found["suppressions"]
    assert (domain["stream"], domain["until"]) == ("news", None)
    assert (ann["source"], ann["reason"], ann["letter"]) == ("operator", "asked us to", "")
    assert datetime.fromisoformat(ann["since"]) == service.now
    assert datetime.fromisoformat(ann["until"]) == service.now + timedelta(days=30)
    assert datetime.fromisoformat(bob["until"]) == datetime.fromisoformat(until)
    done = [each for each in logs if each["event"].startswith("suppressions_")]
    assert [each.get("new") for each in done] == [3, 0, None, 1]
    assert [each["by"].rpartition(" from 127.0.0.1")[0] for each in done] == [
        *2 * ("POST /suppressions",),
        "DELETE /suppressions/{address}",
        "POST /suppressions/import",
    ]
    assert "example" not in str(logs)


async def test_of_a_long_reason_the_beginning_is_kept() -> None:
    service = Played()
    async with listening(service) as client:
        entry = {"address": ANN, "reason": "on and " * 500}
        assert await asked(client, "POST", "/suppressions", data=body(entry)) == {"put": 1, "new": 1}
        (found,) = (await asked(client, "GET", "/suppressions"))["suppressions"]
    assert found["reason"] == ("on and " * 500)[:MAX_REASON]


async def test_what_is_put_there_is_met_at_once() -> None:
    service = Played()
    await service.watch.look_up([])
    async with listening(service) as client:
        service.watch._empty, service.watch._good_until = True, float("inf")
        await asked(client, "POST", "/suppressions", data=body({"address": ANN}))
    assert not service.watch.idle


async def test_it_is_listed_page_by_page_by_address_and_by_stream() -> None:
    service = Played()
    async with listening(service) as client:
        several = [{"address": f"{n}@example.test", "stream": s} for n in range(3) for s in ("", "news")]
        await asked(client, "POST", "/suppressions", data=body(*several))

        async def page(query: str) -> tuple[list[str], str | None]:
            found = await asked(client, "GET", f"/suppressions?{query}")
            return [f"{e['address']} {e['stream']}".strip() for e in found["suppressions"]], found["next"]

        first, after = await page("limit=4")
        assert after is not None
        rest, end = await page(f"limit=4&after={quote(after)}")
        assert (len(first), [*first, *rest], end) == (4, service.kept(), None)
        assert (await page("address=1@EXAMPLE.test"))[0] == ["1@example.test", "1@example.test news"]
        assert len((await page("stream="))[0]) == len((await page("stream=news"))[0]) == 3
        assert (await page(f"address={quote('1@example.test')}&stream=news"))[0] == ["1@example.test news"]


async def test_what_holds_for_an_address_is_its_own_and_its_domains() -> None:
    service = Played()
    async with listening(service) as client:
        several = [
            {"address": f"{name}@example.test", "stream": stream}
            for name in ("", "1", "ann", "bob")
            for stream in ("", "news")
        ]
        await asked(client, "POST", "/suppressions", data=body(*several, {"address": "@b.example.test"}))

        async def page(query: str) -> tuple[list[str], str | None]:
            found = await asked(client, "GET", f"/suppressions?{query}")
            return [f"{e['address']} {e['stream']}".strip() for e in found["suppressions"]], found["next"]

        domains = ["@example.test", "@example.test news"]
        assert await page("address=Ann@Example.test") == ([*domains, ANN, f"{ANN} news"], None)
        assert await page("address=eve@example.test") == (domains, None)
        assert await page("address=@example.test") == (domains, None)
        assert await page("address=eve@b.example.test") == (["@b.example.test"], None)
        assert await page("address=ann@example.test&stream=news") == ([domains[1], f"{ANN} news"], None)
        # Page by page, whichever of the two comes first in the order of keys.
        for name in ("1@example.test", ANN):
            whole = sorted([*domains, name, f"{name} news"])
            first, after = await page(f"address={name}&limit=3")
            assert (first, after) == (whole[:3], whole[2])
            assert await page(f"address={name}&limit=3&after={quote(whole[2])}") == (whole[3:], None)


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (f"{ANN}", "@example.test"),
        (f"{ANN}?stream=news", "@example.test (news)"),
        (f"{BOB}?stream=news", BOB),
    ],
)
async def test_what_holds_still_is_told_to_who_took_nothing_off(gone: str, left: str) -> None:
    service = Played()
    entry = {"address": left.partition(" ")[0], "stream": "news" if "(" in left else ""}
    async with listening(service) as client:
        await asked(client, "POST", "/suppressions", data=body(entry))
        answer = await client.ask("DELETE", f"/suppressions/{gone}")
        told = problem(answer)
        assert (answer[0], told["reason"]) == (404, "still-suppressed")
        assert told["detail"] == f"No such entry is on the list, but {left} is, which holds for it."
        answer = await client.ask("DELETE", "/suppressions/ann@example.org")
        assert "reason" not in problem(answer)
    assert len(service.kept()) == 1


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=١",
        "limit=1&limit=2",
        "address=nobody",
        "stream=a&stream=b",
        f"stream={'s' * 101}",
        f"after={'a' * 501}",
    ],
)
async def test_a_parameter_that_cannot_be_understood_is_told(query: str) -> None:
    async with listening(Played()) as client:
        answer = await client.ask("GET", f"/suppressions?{query}")
        assert (answer[0], problem(answer)["reason"]) == (400, "bad-query")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{}", "suppressions: Field required"),
        ("[]", "the body: "),
        (body(), "suppressions: "),
        (
            body({"address": ANN}, {"address": "nobody"}),
            "suppressions.1.address: it has no @; nothing was put",
        ),
        (body({"address": ANN, "until": "soon"}), NO_TIME),
        (body({"address": ANN, "until": "60"}), NO_TIME),
        (body({"address": ANN, "until": "2020-01-01T00:00:00Z"}), "suppressions.0.until: lies in the past"),
        (body({"address": ANN, "until": "0s"}), "suppressions.0.until: lies in the past"),
        (body({"address": ANN, "until": "99999999999d"}), "suppressions.0.until: lies too far"),
        (body({"address": ANN, "until": "2030-01-01T00:00:00"}), NO_TIME),
        (body({"address": ANN, "until": "9999-12-31T23:59:59-12:00"}), "suppressions.0.until: lies too far"),
        (body({"address": ANN, "stream": "a\tb"}), "suppressions.0.stream: no letter can have it"),
        (body({"address": ANN, "untill": "never"}), "suppressions.0.untill"),
        (body(*[{"address": ANN}] * 1001), "suppressions: "),
    ],
)
async def test_what_cannot_be_put_there_is_told_and_nothing_is(given: str, told: str) -> None:
    service = Played()
    async with test_web.serving(service, max_bytes=100_000) as client:
        answer = await client.ask("POST", "/suppressions", data=given)
    assert answer[0] == 400
    found = problem(answer)
    assert found["detail"].startswith(told)
    assert found["reason"] == ("bad-suppression" if "suppressions." in told else "bad-body")
    assert service.kept() == []


async def test_an_entry_may_hold_for_some_time_from_now() -> None:
    service = Played()
    async with listening(service) as client:
        await asked(client, "POST", "/suppressions", data=body({"address": ANN, "until": "60d12h"}))
        (found,) = (await asked(client, "GET", "/suppressions"))["suppressions"]
    assert datetime.fromisoformat(found["until"]) == service.now + timedelta(days=60, hours=12)


async def test_an_address_is_taken_off_it() -> None:
    service = Played()
    async with listening(service) as client:
        streams = [{"address": ANN, "stream": each} for each in ("", "news", "codes")]
        await asked(client, "POST", "/suppressions", data=body(*streams, {"address": "@example.org"}))
        path = f"/suppressions/{quote('Ann@Example.test')}"
        assert await asked(client, "DELETE", f"{path}?stream=news") == {"removed": 1}
        assert service.kept() == ["@example.org", ANN, f"{ANN} codes"]
        assert await asked(client, "DELETE", path) == {"removed": 2}
        assert await asked(client, "DELETE", "/suppressions/@example.org") == {"removed": 1}
        for gone in (path, "/suppressions/nobody"):
            assert (await client.ask("DELETE", gone))[0] == 404
    assert service.kept() == []


async def test_what_is_counted_but_not_in_force_is_taken_off_too() -> None:
    service = Played()
    until = service.now + timedelta(days=1)
    counted = Refusal(address=ANN, reason="550", letter="a" * 24, own=False, at=service.now, until=until)
    await service.store.note([counted])
    async with listening(service) as client:
        assert (await asked(client, "GET", "/suppressions"))["suppressions"] == []
        assert await asked(client, "DELETE", f"/suppressions/{ANN}") == {"removed": 1}


async def test_a_file_is_put_there_and_comes_back() -> None:
    service = Played()
    rows = "".join(f"{n}@example.test,news,reason {n}\n" for n in range(2500))

    async def blocks() -> AsyncIterator[bytes]:
        raw = f"Address,Stream,Reason\n{rows}nobody,,\n".encode()
        for start in range(0, len(raw), 7001):
            yield raw[start : start + 7001]

    async with listening(service) as client:
        found = await asked(client, "POST", "/suppressions/import", data=blocks())
        assert found == {
            "rows": 2501,
            "put": 2500,
            "new": 2500,
            "wrong": 1,
            "faults": [{"row": 2502, "text": "address: it has no @"}],
        }
        status, headers, text = await client.ask("GET", "/suppressions/export")
        assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        assert text.startswith(
            "address,stream,reason,source,since,until\r\n0@example.test,news,reason 0,import,"
        )
        assert len(text.splitlines()) == 2501
        before = dict(service.store._entries)
        service.store._entries.clear()
        again = await asked(client, "POST", "/suppressions/import", data=text)
        assert (again["new"], again["wrong"]) == (2500, 0)
        assert service.store._entries == before
        await asked(client, "POST", "/suppressions", data=body({"address": ANN}))
        assert len((await client.ask("GET", "/suppressions/export?stream="))[2].splitlines()) == 2
    assert service.store.pages >= 6


async def test_of_a_file_the_head_alone_reads_no_more_than_a_page() -> None:
    service = Played()
    now = service.now
    await service.store.put(
        [Entry(address=f"{n}@example.test", source=Source.OPERATOR, since=now) for n in range(1500)]
    )
    async with listening(service) as client:
        status, headers, text = await client.ask("HEAD", "/suppressions/export")
        assert (status, headers["Content-Type"], text) == (200, "text/csv; charset=utf-8", "")
        assert service.store.pages == 1
        assert (await client.ask("GET", "/suppressions/export"))[2].count("\r\n") == 1501


@pytest.mark.parametrize(("name", "allowed"), [("import", {"POST"}), ("export", {"GET", "HEAD"})])
async def test_the_path_of_a_file_is_nobodys_address(name: str, allowed: set[str]) -> None:
    async with listening(Played()) as client:
        answer = await client.ask("DELETE", f"/suppressions/{name}")
    assert answer[0] == 405, problem(answer)
    assert set(answer[1]["Allow"].split(",")) == allowed


async def test_an_empty_file_puts_nothing_there() -> None:
    async with listening(Played()) as client:
        found = await asked(client, "POST", "/suppressions/import")
        assert found == {"rows": 0, "put": 0, "new": 0, "wrong": 0, "faults": []}
        assert (await client.ask("GET", "/suppressions/export"))[2].count("\r\n") == 1


async def test_a_file_that_names_a_column_twice_is_not_taken() -> None:
    service = Played()
    async with listening(service) as client:
        answer = await client.ask("POST", "/suppressions/import", data=f"address,address\n{ANN},{BOB}\n")
        assert (answer[0], problem(answer)["reason"]) == (400, "bad-suppression")
        detail = "the column address is named twice; nothing was put on the list"
        assert problem(answer)["detail"] == detail
        assert service.kept() == []


async def test_a_file_that_is_too_large_or_packed_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression_handlers, "MAX_FILE", 50_000)

    async def many() -> AsyncIterator[bytes]:
        for number in range(4000):
            yield f"{number}@example.test\n".encode()

    service = Played()
    async with listening(service) as client:
        answer = await client.ask("POST", "/suppressions/import", data=b"x" * 50_001)
        assert (answer[0], problem(answer)["reason"]) == (413, "too-large")
        assert service.kept() == []
        answer = await client.ask("POST", "/suppressions/import", data=many())
        assert (answer[0], problem(answer)["reason"]) == (413, "too-large")
        answer = await client.ask(
            "POST", "/suppressions/import", data=b"", headers={"Content-Encoding": "gzip"}
        )
        assert answer[0] == 415


async def test_as_many_files_as_may_be_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression_handlers, "MAX_FILES", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield f"{ANN}\n".encode()
        begun.set()
        await go_on.wait()

    async with listening(Played()) as client:
        first = asyncio.create_task(client.ask("POST", "/suppressions/import", data=slow()))
        await begun.wait()
        await asyncio.sleep(0.05)  # its head has arrived
        for method, path in (("POST", "import"), ("GET", "export")):
            answer = await client.ask(method, f"/suppressions/{path}")
            assert (answer[0], problem(answer)["reason"]) == (503, "busy")
        go_on.set()
        assert (await first)[0] == 200
        assert (await client.ask("GET", "/suppressions/export"))[0] == 200


async def test_while_mongodb_is_away_that_is_told() -> None:
    service = Played()
    service.store.fault, service.store.pages = Unavailable("MongoDB is away"), 1
    async with listening(service) as client:
        for method, path, data in (
            ("GET", "/suppressions", None),
            ("POST", "/suppressions", body({"address": ANN})),
            ("DELETE", f"/suppressions/{ANN}", None),
            ("POST", "/suppressions/import", ANN),
            ("GET", "/suppressions/export", None),
        ):
            answer = await client.ask(method, path, data=data)
            assert (answer[0], problem(answer)["reason"]) == (503, "unavailable")


async def test_a_file_that_is_not_whole_ends_with_its_connection() -> None:
    service = Played()
    now = service.now
    await service.store.put(
        [Entry(address=f"{n}@example.test", source=Source.OPERATOR, since=now) for n in range(1500)]
    )
    service.store.fault = Unavailable("MongoDB is away")
    async with listening(service) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.ask("GET", "/suppressions/export")
        service.store.fault = None
        assert (await client.ask("GET", "/suppressions/export"))[0] == 200


@pytest.mark.parametrize("reads", [True, False])
async def test_a_file_that_is_read_is_not_cut_however_long_it_takes(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page comes each 50 ms, for 1 s, and who gets no further is cut after 0.3."""
    monkeypatch.setattr(connections, "LOOK", 0.02)
    monkeypatch.setattr(suppression_handlers, "MOST", 10)
    service = Played()
    now, reason = service.now, "x" * MAX_REASON
    entries = [
        Entry(address=f"{n}@a.test", source=Source.IMPORT, since=now, reason=reason) for n in range(200)
    ]
    await service.store.put(entries)
    listed = service.store.listed

    async def slow(wanted: Filter, *, after: str, most: int) -> list[Entry]:
        await asyncio.sleep(0.05)
        return await listed(wanted, after=after, most=most) or ([] if reads else entries)

    monkeypatch.setattr(service.store, "listed", slow)
    gone, leave = asyncio.Event(), connections.Crowd.leave
    monkeypatch.setattr(connections.Crowd, "leave", lambda *of: (leave(*of), gone.set()))
    app = make_app(service, api_key="", max_bytes=1000, timeout=5)
    server = await serve(app, "127.0.0.1", 0, stuck=0.3)
    try:
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=caller, limit=1024)
        writer.write(b"GET /suppressions/export HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            if reads:
                assert (await reader.read()).count(b"@a.test") == 200
            else:
                await gone.wait()
        writer.close()
    finally:
        await server.close()


async def test_files_have_their_time_and_nothing_else_has() -> None:
    assert moves_file("POST", "/suppressions/import")
    assert moves_file("GET", "/suppressions/export")
    assert not moves_file("POST", "/suppressions")
    assert not moves_file("DELETE", f"/suppressions/{ANN}")


async def test_a_page_of_another_site_changes_nothing_here() -> None:
    service = Played()
    async with serving(service, key="") as client:
        headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        answer = await client.ask("DELETE", f"/suppressions/{ANN}", headers=headers, key=None)
        assert (answer[0], problem(answer)["reason"]) == (403, "cross-site")
