"""Lint and confirmation codes over HTTP, against a service that is played."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from structlog.testing import capture_logs

from mailsender.admin import code_operations
from mailsender.admin.code_operations import ReplicaCodes
from mailsender.admin.confined import Bounds, Confined
from mailsender.admin.operations import ReplicaOperations
from mailsender.codes.desk import Guess, Made, NoCodes, TooOften, Wanted
from mailsender.codes.memory import MemoryCodeStore
from mailsender.codes.port import Verdict
from mailsender.lint.letters import Surroundings
from mailsender.lint.run import Linted, NothingToSee, lint
from mailsender.model.address import parse_address
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.queue.memory import MemoryQueue
from mailsender.web import openapi, operations
from mailsender.web.operations import BadBatch, Refused
from tests.fakes import FakeSink
from tests.templates import template
from tests.unit import test_web
from tests.unit.test_contracts import check
from tests.unit.test_replica import FakeRelay, replica_over
from tests.unit.test_web import problem, serving

HANDLE, LETTER = "a" * 32, "6b03f03e1c3fe5165a363fce"
UNTIL = datetime(2026, 11, 29, 12, 10, tzinfo=UTC)
SECRET = "0123456789abcdef" * 4
ASKED = {"Address": "ann@example.org", "Variables": {"company": "Example"}}
GIVEN = {"ID": HANDLE, "Address": "ann@example.org", "Code": "123456"}


@dataclass
class Played(test_web.Played):
    """A service whose answers a test sets."""

    fault: Exception | None = None
    verdict: Verdict = Verdict.RIGHT
    wanted: list[Wanted] = field(default_factory=list)
    guesses: list[Guess] = field(default_factory=list)
    bulk: list[bool | None] = field(default_factory=list)

    async def lint(self, body: bytes, bulk: bool | None) -> Linted:
        self.bulk.append(bulk)
        return lint(body, Surroundings(now=UNTIL, bulk=bulk))

    async def make_code(self, wanted: Wanted) -> Made:
        self.wanted.append(wanted)
        if self.fault:
            raise self.fault
        return Made(handle=HANDLE, until=UNTIL, letter=LETTER)

    async def check_code(self, guess: Guess) -> Verdict:
        self.guesses.append(guess)
        if self.fault:
            raise self.fault
        return self.verdict


# --- lint ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(("query", "bulk"), [("", None), ("?bulk=true", True), ("?bulk=false", False)])
async def test_lint_says_what_it_finds(query: str, bulk: bool | None) -> None:
    service = Played()
    async with serving(service) as client:
        body = b'[{"Addresses": ["ann@example.org"], "TextBody": "Hello {{ name }}", "Subject": "Hello"}]'
        status, _, text = await client.ask("POST", f"/lint{query}", data=body)
    assert status == 200
    found = json.loads(text)
    assert (found["kind"], found["messages"], found["looked_at"], found["worst"]) == (
        "letters",
        1,
        1,
        "error",
    )
    assert found["findings"][-1 if bulk else 0]["index"] == 0
    assert "template-left" in {each["rule"] for each in found["findings"]}
    assert set(found["findings"][0]) == {"index", "rule", "level", "text", "reason", "source"}
    assert service.bulk == [bulk]


@pytest.mark.asyncio
async def test_lint_says_what_it_cannot_look_at() -> None:
    async with serving(Played()) as client:
        answer = await client.ask("POST", "/lint", data=b"words")
        assert (answer[0], problem(answer)["reason"]) == (400, "no-letters")
        for query in ("?bulk=yes", "?bulk=true&bulk=false"):
            answer = await client.ask("POST", f"/lint{query}", data=b"[]")
            assert (answer[0], problem(answer)["reason"]) == (400, "bad-query")
        assert (await client.ask("POST", "/lint", data=b"x" * 20_000))[0] == 413


# --- codes ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_code_is_asked_for() -> None:
    service = Played()
    async with serving(service) as client:
        status, _, text = await client.ask("POST", "/codes", data=json.dumps(ASKED))
        assert status == 202
        assert json.loads(text) == {"id": HANDLE, "until": "2026-11-29T12:10:00Z", "letter": LETTER}
        whole = {
            "address": "Ann@EXAMPLE.org",
            "PURPOSE": "address",
            "Template": "confirm@3",
            "Lang": "ru",
            "Caller": "192.0.2.7",
            "IdempotencyKey": "session",
            "Known": False,
            "Token": [1],
        }
        assert (await client.ask("POST", "/codes", data=json.dumps(whole)))[0] == 202
    first, second = service.wanted
    assert (first.purpose, first.template, first.known, first.key, first.token) == (
        *("password", "password", True),
        *("", ""),
    )
    assert first.caller == "at 127.0.0.1"
    assert second == Wanted(
        address=parse_address("Ann@EXAMPLE.org"),
        purpose="address",
        template="confirm@3",
        variables={},
        lang="ru",
        caller="named 192.0.2.7",
        key="session",
        known=False,
        token=[1],
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("verdict", Verdict)
async def test_a_code_is_checked(verdict: Verdict) -> None:
    service = Played(verdict=verdict)
    async with serving(service) as client:
        status, _, text = await client.ask("POST", "/codes/check", data=json.dumps(GIVEN))
    assert (status, json.loads(text)) == (200, {"result": verdict.value})
    (guess,) = service.guesses
    assert (guess.handle, guess.address.text, guess.purpose, guess.code) == (
        *(HANDLE, "ann@example.org"),
        *("password", "123456"),
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/codes", b"no JSON", "no JSON"),
        ("/codes", b"[]", "no JSON object"),
        ("/codes", b"{}", "Address is missing"),
        ("/codes", b'{"Address": "s3cret of nobody"}', "Address is not an address"),
        ("/codes", b'{"Address": "a@example.org", "s3cret": 1}', "a key is none"),
        ("/codes", b'{"Address": "a@example.org", "Adress": 1}', "Adress is none of the keys that are known"),
        ("/codes", b'{"Address": "a@example.org", "Known": "s3cret"}', "Known: must be true or false"),
        ("/codes", b'{"Address": "a@example.org", "Token": "x", "Lang": 7}', "Lang: must be a string"),
        ("/codes", b'{"Address": "a@example.org", "Purpose": "s3cret s3cret"}', "Purpose: "),
        ("/codes", b'{"Address": "a@example.org", "Variables": ["s3cret"]}', "Variables: "),
        ("/codes", b'{"Address": "a@example.org", "Caller": "' + b"s3cret" * 100 + b'"}', "Caller: "),
        ("/codes", b'{"Address": "a@example.org", "Variables": {"a": "\\ud800"}}', "no JSON"),
        ("/codes", b"[" * 9000, "no JSON"),
        ("/codes/check", b'{"ID": "s3cret", "Address": "a@example.org"}', "Code is missing"),
        ("/codes/check", b'{"ID": "1", "Address": "a@example.org", "Code": 123456}', "Code: "),
    ],
)
async def test_a_wrong_request_is_told_without_its_values(path: str, body: bytes, told: str) -> None:
    service = Played()
    async with serving(service) as client:
        answer = await client.ask("POST", path, data=body)
    found = problem(answer)
    assert (answer[0], found["reason"]) == (400, "bad-code-request")
    assert told in found["detail"]
    assert "s3cret" not in answer[2]
    assert "123456" not in answer[2]
    assert service.wanted == service.guesses == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (NoCodes(), 404, "no-codes"),
        (TooOften("address", 61.2), 429, "too-often"),
        (TooOften("caller", 0.0), 429, "too-often"),
        (BadBatch("1 of 1 letters are wrong."), 400, "bad-batch"),
        (Refused("no-broker", "none", retry_after=5), 503, "no-broker"),
        (Unavailable("MongoDB did not answer"), 503, "unavailable"),
    ],
)
async def test_what_cannot_be_done_is_told(fault: Exception, status: int, reason: str) -> None:
    async with serving(Played(fault=fault)) as client:
        answer = await client.ask("POST", "/codes", data=json.dumps(ASKED))
        assert (answer[0], problem(answer)["reason"]) == (status, reason)
        if status in {429, 503}:
            assert int(answer[1]["Retry-After"]) >= 1
        if reason == "too-often":
            whose = "address" if answer[1]["Retry-After"] == "62" else "caller"
            assert whose in problem(answer)["detail"]
        if reason in {"no-codes", "unavailable"}:
            answer = await client.ask("POST", "/codes/check", data=json.dumps(GIVEN))
            assert (answer[0], problem(answer)["reason"]) == (status, reason)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "body", "fault", "status"),
    [
        ("/lint", [{"Addresses": ["ann@example.org"], "Subject": "{{ a }}"}], None, 200),
        ("/lint", "words", None, 400),
        ("/codes", ASKED, None, 202),
        ("/codes", {}, None, 400),
        ("/codes", ASKED, TooOften("address", 61.2), 429),
        ("/codes", ASKED, NoCodes(), 404),
        ("/codes", ASKED, Refused("unconfirmed", "ask again", retry_after=5), 503),
        ("/codes/check", GIVEN, None, 200),
        ("/codes/check", {}, None, 400),
        ("/codes/check", GIVEN, NoCodes(), 404),
        ("/codes/check", GIVEN, Unavailable("away"), 503),
    ],
)
async def test_answers_are_described(path: str, body: Any, fault: Exception | None, status: int) -> None:
    async with serving(Played(fault=fault)) as client:
        answer = await client.ask("POST", path, data=json.dumps(body))
    assert answer[0] == status
    check(path, "POST", *answer)


def test_what_may_be_asked_is_described() -> None:
    schemas = openapi.document()["components"]["schemas"]
    for model, good in (("CodeIn", ASKED), ("GuessIn", GIVEN)):
        validator = Draft202012Validator({**schemas[model], "components": {"schemas": schemas}})
        assert validator.is_valid(good)
        assert not validator.is_valid({})
        assert not validator.is_valid(good | {"Address": "Ann <ann@example.org>"})
        assert not validator.is_valid(good | {"Colour": "blue"})


@pytest.mark.asyncio
async def test_a_request_is_bounded() -> None:
    async with serving(Played(), max_bytes=200_000) as client:
        large = json.dumps(ASKED | {"Variables": {"a": "x" * 70_000}})
        answer = await client.ask("POST", "/codes", data=large)
    assert (answer[0], problem(answer)["reason"]) == (413, "too-large")


# --- over a replica ------------------------------------------------------------------------------


@dataclass
class Desk:
    """A replica that makes codes, its sink, and what it posted."""

    codes: ReplicaCodes
    sink: FakeSink
    posted: list[Any] = field(default_factory=list)


@pytest_asyncio.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(
        FakeRelay(),
        MemoryQueue(clock),
        clock,
        monkeypatch,
        sink=sink,
        CODE_SECRET=SECRET,
        CODE_LENGTH="8",
        CODE_LIFE="2m",
        CODE_PER_ADDRESS="2",
    )
    replica.state = "running"
    object.__setattr__(replica.parts, "codes", MemoryCodeStore(clock))
    await replica.parts.shelf.put(
        template({"password.subject": "Your code", "password.txt": "{{ code }}{{ company|default('') }}"}), {}
    )
    await replica.parts.shelf.put(template({"needs.subject": "Your code", "needs.txt": "{{ company }}"}), {})
    posted: list[Any] = []

    async def post(body: bytes) -> None:
        posted.append(json.loads(body))

    monkeypatch.setattr(code_operations, "faults", lambda elements, limits: [])
    return Desk(ReplicaCodes(replica, post, lambda: LETTER), sink, posted)


WANTED = Wanted(
    address=parse_address("ann@example.org"),
    purpose="password",
    template="password",
    variables={},
    caller="me",
)


@pytest.mark.asyncio
async def test_settings_say_what_codes_are_like(desk: Desk) -> None:
    made = await desk.codes.make(WANTED)
    ((letter,),) = desk.posted
    assert len(letter["Variables"]["code"]) == 8
    assert letter["Variables"]["minutes"] == 2
    assert made.letter == letter["ID"] == LETTER
    guess = Guess(
        handle=made.handle, address=WANTED.address, purpose="password", code=letter["Variables"]["code"]
    )
    assert await desk.codes.check(guess) is Verdict.RIGHT
    await desk.codes.make(WANTED)
    with pytest.raises(TooOften):
        await desk.codes.make(WANTED)


@pytest.mark.asyncio
@pytest.mark.parametrize("known", [True, False])
async def test_what_no_letter_can_be_made_of_is_refused_and_not_counted(desk: Desk, known: bool) -> None:
    wanted = replace(WANTED, known=known)
    for other, told in [
        (replace(wanted, template="nope"), "Template cannot be filled in: template nope: "),
        (replace(wanted, template="password@7"), "Template cannot be filled in: template password@7: "),
        (
            replace(wanted, template="needs"),
            "Template cannot be filled in: template needs.txt, line 1, variable",
        ),
    ]:
        for _ in range(3):  # more than an address may have
            with pytest.raises(BadBatch) as caught:
                await desk.codes.make(other)
            (fault,) = caught.value.faults
            assert told in f"{fault.field} {fault.text}"
    assert (desk.posted, desk.sink.published) == ([], [])
    assert await desk.codes.make(wanted)
    assert await desk.codes.make(wanted)


@pytest.mark.asyncio
async def test_for_an_address_that_is_not_known_a_batch_of_nothing_is_published(desk: Desk) -> None:
    unknown = Wanted(**{name: getattr(WANTED, name) for name in Wanted.__slots__} | {"known": False})
    await desk.codes.make(unknown)
    assert desk.posted == []
    (record,) = desk.sink.published
    assert (record.topic, record.value) == ("mts-to-mailsender", b"[]")
    desk.sink.away = True
    for _ in range(3):
        with pytest.raises(Refused, match="ask for another one") as caught:
            await desk.codes.make(unknown)
        assert (caught.value.reason, caught.value.ids) == ("unconfirmed", ())


@pytest.mark.asyncio
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("reason", ["unconfirmed", "forbidden"])
async def test_what_kafka_says_is_the_same_for_both(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, known: bool, reason: str
) -> None:
    async def post(_: bytes) -> None:
        raise Refused(reason, "post them again with the IDs", retry_after=5, ids=(LETTER,))

    async def publish(_: object) -> list[Exception]:
        return [Forbidden("no right") if reason == "forbidden" else Unavailable("away")]

    monkeypatch.setattr(desk.codes, "_post", post)
    monkeypatch.setattr(desk.sink, "publish", publish)
    wanted = Wanted(**{name: getattr(WANTED, name) for name in Wanted.__slots__} | {"known": known})
    with pytest.raises(Refused) as caught:
        await desk.codes.make(wanted)
    assert (caught.value.reason, caught.value.ids, caught.value.retry_after) == (reason, (), 5.0)
    assert str(caught.value) == str(code_operations._refused(reason))


@pytest.mark.asyncio
async def test_a_letter_that_cannot_be_made_is_told_for_both(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def post(_: bytes) -> None:
        raise BadBatch("1 of 1 letters are wrong.", ["fault"])  # type: ignore[list-item]

    monkeypatch.setattr(desk.codes, "_post", post)
    monkeypatch.setattr(code_operations, "faults", lambda elements, limits: ["fault"])
    for known in (True, False):
        wanted = Wanted(**{name: getattr(WANTED, name) for name in Wanted.__slots__} | {"known": known})
        with pytest.raises(BadBatch, match="1 of 1") as caught:
            await desk.codes.make(wanted)
        assert caught.value.faults == ("fault",)


@pytest.mark.asyncio
async def test_a_refusal_of_kafka_for_good_is_passed_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def publish(_: object) -> list[Exception]:
        return [Rejected("never")]

    monkeypatch.setattr(desk.sink, "publish", publish)
    unknown = Wanted(**{name: getattr(WANTED, name) for name in Wanted.__slots__} | {"known": False})
    with pytest.raises(Rejected):
        await desk.codes.make(unknown)


@pytest.mark.asyncio
async def test_without_a_secret_there_are_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    replica.state = "running"
    service: operations.Operations = ReplicaOperations(replica)
    with pytest.raises(NoCodes):
        await service.make_code(WANTED)
    with pytest.raises(NoCodes):
        await service.check_code(
            Guess(handle=HANDLE, address=WANTED.address, purpose="password", code="123456")
        )


@pytest.mark.asyncio
async def test_a_replica_lints_with_its_own_sender_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    service = ReplicaOperations(replica)
    letter = {"Addresses": ["a@example.org"], "Subject": "Hello", "TextBody": "Hello Ann, how are you?"}
    with capture_logs() as logs:
        found = await service.lint(json.dumps([letter | {"From": "b@example.com"}]).encode(), None)
        mine = await service.lint(json.dumps([letter | {"To": ["robot@example.test"]}]).encode(), None)
    assert [each.rule for each in found.findings] == ["refused"]
    await service.close()
    assert "SMTP_FROM_ALLOWED" in found.findings[0].text
    assert [each.rule for each in mine.findings] == ["to-self"]
    assert logs == []


@pytest.mark.asyncio
async def test_what_takes_too_long_to_look_through_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    service = ReplicaOperations(replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch))
    monkeypatch.setattr(service, "_confined", Confined(bounds=Bounds(seconds=0.0)))
    with pytest.raises(NothingToSee, match="it takes more than 0 s"):
        await service.lint(b"Subject: x\r\n\r\nx", None)
    await service.close()
