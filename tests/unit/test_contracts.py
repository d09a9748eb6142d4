"""The published contracts: up to date, valid, and saying exactly what the program does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from openapi_spec_validator import validate
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.cli.schemas import DOCUMENTS, asyncapi, letters_schema, report_schema, text_of
from mailsender.intake import consumer as intake
from mailsender.intake.batch import faults
from mailsender.intake.dead_letter_schema import DeadLetterHeaders
from mailsender.intake.dead_letters import MAX_DETAIL, DeadLetters, DeadRecord
from mailsender.intake.schema import LetterIn
from mailsender.intake.schema_patterns import ADDRESS, DOTTED, PLAIN
from mailsender.model.address import BadAddress, parse_address
from mailsender.model.errors import TooLarge, Unavailable
from mailsender.model.letter import Letter
from mailsender.model.records import Outgoing, Record
from mailsender.model.text import header_fault
from mailsender.queue.memory import MemoryQueue
from mailsender.reports.report import report_bytes
from mailsender.web import openapi
from mailsender.web.app import make_app
from mailsender.web.endpoints.pages import FILES
from mailsender.web.endpoints.table import ENDPOINTS
from mailsender.web.explain_models import AddresseeView, ExplainedView, ObstacleView, StopView, WayView
from mailsender.web.operations import BadBatch, Posted, Refused
from tests.clocks import ManualClock
from tests.unit.test_batch import GOOD, finished, read
from tests.unit.test_web import KEY, Flaw, Played, raises, raw, serving

ROOT = Path(__file__).parents[2]
UI = ROOT / "mailsender" / "web" / "swagger-ui"
ID = "6b03f03e1c3fe5165a363fce"


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every member of every object in a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


# --- the documents -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_kept_is_up_to_date(name: str) -> None:
    kept = (ROOT / "docs" / DOCUMENTS[name][0]).read_text(encoding="utf-8")
    assert kept == text_of(name), "run `mailsender schema --write docs`"


def test_the_openapi_document_is_valid() -> None:
    validate(openapi.document())


def test_every_route_is_described_and_nothing_else() -> None:
    application = make_app(Played(), api_key="", max_bytes=1000, timeout=1)
    routed = {
        (route.method.lower(), route.resource.canonical)
        for route in application.router.routes()
        if route.resource and route.method != "HEAD"
    }
    described = {
        (method, path) for path, methods in openapi.document()["paths"].items() for method in methods
    }
    assert routed == described


@pytest.mark.parametrize("document", [openapi.document(), asyncapi()], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere_and_everything_is_referred_to(document: dict[str, Any]) -> None:
    found = {target for key, target in walk(document) if key == "$ref"}
    for target in found:
        place: Any = document
        for step in target.removeprefix("#/").split("/"):
            place = place[step]
    kept = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert kept <= found


def test_patterns_mean_the_same_in_every_dialect() -> None:
    patterns = {pattern for key, pattern in walk(letters_schema()) if key == "pattern"}
    assert len(patterns) > 3
    for pattern in patterns:
        assert "(?" not in pattern, "RE2 knows no look-around"
        assert not re.search(r"\\[dDwWsSbBpPuUAZ]", pattern), "dialects differ about it"


def test_nothing_of_a_deployment_is_in_what_everybody_may_see() -> None:
    assert "127.0.0.1" not in openapi.text()
    assert [server["url"] for server in openapi.document()["servers"]] == ["/"]


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["schema"]).stdout.split() == list(DOCUMENTS)
    assert runner.invoke(app, ["schema", "report"]).stdout == text_of("report")
    written = runner.invoke(app, ["schema", "--write", str(tmp_path)])
    assert written.exit_code == 0
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")} == {
        place for place, _ in DOCUMENTS.values()
    }


@pytest.mark.parametrize("arguments", [["nonsense"], ["report", "--write", "."]])
def test_the_command_says_what_it_takes(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["schema", *arguments])
    assert result.exit_code == 2
    assert "asyncapi, openapi, letters, report, dead-letter" in result.stderr


# --- letters -------------------------------------------------------------------------------------

LETTER = Draft202012Validator(letters_schema()["items"])
ADDRESSES = Draft202012Validator(ADDRESS)


@pytest.mark.parametrize("validator", [Draft7Validator, Draft202012Validator])
def test_the_schema_of_letters_is_one(validator: Any) -> None:
    validator.check_schema(letters_schema())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ID": ""},
        {"ID": None},
        {"ID": "0" * 24},
        {"ID": "6B03f03e1c3fe5165a363fce"},
        {"Subject": None, "Body": None, "Token": None},
        {"Token": {"a": [1, None, {"b": 2**80}]}},
        {"TextBody": None, "Priority": None},
        {"Body": None, "Template": "welcome@3", "Variables": {"a": [1]}, "Lang": "ru"},
        {"Template": None, "Variables": None, "Lang": None},
        {"From": "", "To": [], "Variables": {}, "Headers": [], "Calendar": {"Text": "", "Method": ""}},
        {
            "DSN": {"Notify": None, "Ret": "", "EnvID": ""},
            "ListUnsubscribe": {"URL": "https://a.b", "Mail": ""},
        },
        {"Attachments": [{"Name": "", "ContentType": "", "Content": "AAEC", "Ref": "", "Inline": False}]},
        {"Attachments": [{"Name": None, "Content": "", "Ref": "sha256:" + "0" * 64}, {"Content": ""}]},
        {"Attachments": [{"Content": "AAEC\r\nAA==\n", "Ref": []}, {"Content": "\n"}]},
        {"Status": 7, "KafkaKey": [], "Colour": "blue"},
        {"Addresses": ["иван@пример.рф", "a.b+c@localhost", "Straße@straße.example"]},
        {"Addresses": ["a..b@docomo.ne.jp", ".a@docomo.ne.jp", "a.@docomo.ne.jp", "." + "a" * 61 + "@b.c"]},
        {"Addresses": ["a" * 87 + "@reply.github.com", "a@xn--i-7iq.ws", "a@my_host.example.com"]},
    ],
)
def test_what_the_program_takes_the_schema_takes(change: dict[str, Any]) -> None:
    assert LETTER.is_valid({**GOOD, **change})
    assert not faults([{**GOOD, **change}])


@pytest.mark.parametrize(
    "change",
    [
        {"ID": "6b03"},
        {"ID": "6b03f03e1c3fe5165a363fce\n"},
        {"ID": "\n"},
        {"ID": "g" * 24},
        {"ID": 7},
        {"Addresses": None},
        {"Addresses": []},
        {"Addresses": "a@example.test"},
        {"Addresses": ["a@example.test", None]},
        {"Addresses": ["a@example.test\n"]},
        {"Addresses": ["Ivan <a@example.test>"]},
        {"Addresses": ["a@[192.0.2.1]"]},
        {"Addresses": ["..@example.test"]},
        {"Addresses": ["." + "a" * 240 + "@example.test"]},
        {"Addresses": ["a" * 242 + "@example.test"]},
        {"Addresses": ["a@" + "b" * 64]},
        {"Addresses": ["a@" + ".".join(["b" * 60] * 5)]},
        {"Subject": "a\r\nBcc: b@example.test"},
        {"Subject": ["a"]},
        {"Body": 7},
        {"Token": "x" * 4095},
        {"Token": [0] * 2048},
        {"TextBody": 7},
        {"Body": "", "Template": "a/b"},
        {"Body": "", "Template": "a\n"},
        {"Body": "", "Template": "a", "Variables": [1]},
        {"Attachments": [{"Content": "AAEC", "Ref": "sha256:" + "0" * 64}]},
        {"Attachments": [{"Content": None, "Ref": ""}]},
        {"Attachments": [{"Ref": None}]},
        {"Attachments": [{"Content": "", "Ref": False}]},
        {"Attachments": [{"Content": 0, "Ref": "sha256:" + "0" * 64}]},
        {"DSN": {"Ret": "ALL"}},
        {"Body": "", "Template": "a", "Lang": 7},
        {"Headers": ["a"]},
        {"Priority": 0},
    ],
)
def test_what_the_program_refuses_the_schema_refuses(change: dict[str, Any]) -> None:
    assert not LETTER.is_valid({**GOOD, **change})
    assert faults([{**GOOD, **change}])


def test_a_letter_without_addresses_is_refused_by_both() -> None:
    assert not LETTER.is_valid({"Subject": "a"})
    assert faults([{"Subject": "a"}])


def test_every_key_of_the_model_is_in_the_schema() -> None:
    assert set(letters_schema()["items"]["properties"]) == set(LetterIn.model_fields)


def test_subjects_agree_character_by_character() -> None:
    for number in [*range(0x3000), 0xFEFF, 0xFFFD, 0x1F600]:
        subject = f"a{chr(number)}b"
        assert LETTER.is_valid({**GOOD, "Subject": subject}) == (header_fault(subject) is None), number


def acceptable(address: str) -> bool:
    try:
        parse_address(address)
    except BadAddress:
        return False
    return True


SPECIAL = "".join(map(chr, range(128)))
PIECES = st.sampled_from(["a", "B", "7", ".", "-", "@", "+", "_", "xn--", "x" * 63, "y" * 60, " ", "\n"])
NEARLY = st.tuples(st.lists(PIECES, max_size=5), st.lists(PIECES, max_size=8)).map(
    lambda halves: "".join(halves[0]) + "@" + "".join(halves[1])
)


@given(NEARLY | st.text(SPECIAL, max_size=12) | st.text(SPECIAL, min_size=1).map("{}@a.b".format))
@example("a@b\n")
@example(".xn--b@c.example")
@example("a@xn--i-7iq.ws")
@example("a@b_.c")
@example("a@b." + "c" * 63)
@example("a" * 252 + "@b")
@example("a" * 253 + "@b")
@example("." + "a" * 249 + "@b")
@example("." + "a" * 250 + "@b")
@example("..@b")
def test_plain_addresses_agree(address: str) -> None:
    """ASCII is described exactly."""
    assert Draft202012Validator({"anyOf": [PLAIN, DOTTED]}).is_valid(address) == acceptable(address)


LETTERS = "abzÀÖØßöøÿΑΡΣΩασςωАЯабяЁёЄєІіЇїҐґ0129"


@given(
    st.text(LETTERS + ".+-", min_size=1, max_size=60),
    st.lists(st.text(LETTERS + "-", min_size=1, max_size=17), min_size=1, max_size=4),
)
@example("ü" * 50, ["ÿя" * 8, "Ωя" * 8, "ÀЯ" * 8])
@example("ü" * 50, ["zΩґΑіЄÿбαёбґÀøΡЯ"] * 3)
def test_internationalized_addresses_that_match_are_accepted(local: str, labels: list[str]) -> None:
    address = f"{local}@{'.'.join(labels)}"
    if ADDRESSES.is_valid(address):
        assert acceptable(address)


# --- reports and dead letters --------------------------------------------------------------------


@pytest.mark.parametrize(
    "letter",
    [finished(), read({"Subject": 7}), read({**GOOD, "Addresses": ["who"]}), finished().evolve(attempts=3)],
)
@pytest.mark.parametrize("limit", [10**6, 650])
def test_reports_are_as_their_schema_says(letter: Letter, limit: int) -> None:
    written = json.loads(report_bytes(letter, letter.answers[0], with_body=True, limit=limit))
    Draft202012Validator(report_schema()).validate(written)
    assert set(written) == set(report_schema()["required"]) == set(report_schema()["properties"])


class Sink:
    """Refuses the first record for its size, so that a pointer to it is published too."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []

    async def publish(self, records: list[Outgoing]) -> list[Any]:
        if not self.taken:
            self.taken += records
            return [TooLarge("too large")]
        self.taken += records
        return [None]


def test_the_headers_of_dead_letters_are_as_their_schema_says() -> None:
    sink = Sink()
    clock = ManualClock()
    graveyard = DeadLetters(MemoryQueue(clock), sink, topic="dead", clock=clock)  # type: ignore[arg-type]
    record = Record(topic="in", partition=1, offset=2, timestamp=3, key=b"k", value=b"v", headers=())
    dead = DeadRecord(record=record, reason=intake.NOT_A_BATCH, detail="x" * 900)
    asyncio.run(graveyard.bury([dead]))
    whole, pointer = ({name: (value or b"").decode() for name, value in one.headers} for one in sink.taken)
    schema = DeadLetterHeaders.model_json_schema()
    Draft202012Validator(schema).validate(whole)
    Draft202012Validator(schema).validate(pointer)
    assert set(whole) == set(schema["required"])
    assert set(pointer) == set(schema["properties"])
    assert schema["properties"]["mailsender-reason"]["enum"] == [
        *(intake.NOT_A_BATCH, intake.TOO_OLD, intake.UNREADABLE, intake.TOO_MANY_FAULTS)
    ]
    assert schema["properties"]["mailsender-detail"]["maxLength"] == MAX_DETAIL


# --- HTTP ----------------------------------------------------------------------------------------


def check(path: str, method: str, status: int, headers: Mapping[str, str], text: str) -> None:
    """An answer stands in the description, with its media type, its headers and its form."""
    document = openapi.document()
    described = document["paths"][path][method.lower()]["responses"][str(status)]
    media = headers["Content-Type"].partition(";")[0]
    schema = described["content"][media]["schema"]
    body = json.loads(text) if media.endswith("json") else text
    Draft202012Validator({**schema, "components": document["components"]}).validate(body)
    assert [name for name in described.get("headers", {}) if name not in headers] == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 200),
        (BadBatch("bad", [Flaw(2, "Addresses[1]", "is odd")]), 400),
        (TooLarge("no"), 413),
        (KeyError("bug"), 500),
        (Refused("draining", "stopping", retry_after=5), 503),
        (Unavailable("no broker"), 503),
    ],
)
async def test_answers_to_posts_are_described(error: Exception | None, status: int) -> None:
    async with serving(Played(result=raises(error) if error else None)) as client:
        answer = await client.ask("POST", "/post", data=b"[]")
    assert answer[0] == status
    check("/post", "POST", *answer)


@pytest.mark.asyncio
async def test_answers_to_slow_posts_are_described() -> None:
    async def hang(_: bytes) -> Posted:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(Played(result=hang), timeout=0.3, key="") as client:
        late = await client.ask("POST", "/post", data=b"[]")
        cut = await raw(client.port, b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n[")
    assert late[0] == 504
    check("/post", "POST", *late)
    head, _, body = cut.decode().partition("\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    check("/post", "POST", int(head.split()[1]), fields, body)


@pytest.mark.asyncio
async def test_refusals_are_described_and_the_key_is_wanted_as_described() -> None:
    async with serving(Played(letters={ID: finished()})) as client:
        for endpoint in ENDPOINTS:
            places = {"id": ID, "file": "start.js", "name": "welcome", "ref": f"sha256:{'0' * 64}"}
            places |= {"address": "ann@example.org", "relay": "ses", "scope": "relay"}
            path = endpoint.path.format_map(places)
            wrong_method = await client.ask("PATCH", path)
            assert wrong_method[0] == 405
            check(endpoint.path, endpoint.method, *wrong_method)
            keyless = await client.ask(endpoint.method, path, key=None)
            assert keyless[0] == (200 if endpoint.public else 401), endpoint
            check(endpoint.path, endpoint.method, *keyless)
        for path, asked in (("/letters/{id}", "/letters/" + "0" * 24), ("/docs/{file}", "/docs/x.js")):
            missing = await client.ask("GET", asked)
            assert missing[0] == 404
            check(path, "GET", *missing)


@pytest.mark.asyncio
async def test_a_letter_is_as_described() -> None:
    waiting = read(GOOD)
    async with serving(Played(letters={ID: finished(), "0" * 24: waiting})) as client:
        for letter_id in (ID, "0" * 24):
            check("/letters/{id}", "GET", *await client.ask("GET", f"/letters/{letter_id}"))


@pytest.mark.asyncio
async def test_why_a_letter_waits_is_as_described() -> None:
    obstacle = ObstacleView(
        kind="order", text="Wait.", until=datetime(2026, 1, 2, tzinfo=UTC), relay="a", rule="r", said="450"
    )
    stop = StopView(relay="a", weight=None, fallback=False, obstacles=[obstacle])
    told = ExplainedView(
        id=ID,
        status="awaiting",
        says=["It waits."],
        route="default",
        due=None,
        ahead=3,
        ways=[WayView(route="default", why="w", recipients=1, relays=[stop])],
        obstacles=[obstacle],
        recipients=[
            AddresseeView(address="a@b.test", route="default", next_relays=["a"], next_try=None, obstacles=[])
        ],
        recipients_left_out=0,
    )
    async with serving(Played(explained={ID: told})) as client:
        status, headers, text = await client.ask("GET", f"/letters/{ID.upper()}/explain")
        assert json.loads(text)["obstacles"][0]["kind"] == "order"
        check("/letters/{id}/explain", "GET", status, headers, text)
        for unknown in ("0" * 24, "x"):
            missing = await client.ask("GET", f"/letters/{unknown}/explain")
            assert missing[0] == 404
            check("/letters/{id}/explain", "GET", *missing)


# --- the page ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with serving(Played()) as client:
        status, headers, text = await client.ask("GET", "/docs", key=None)
        references = re.findall(r'(?:src|href)="([^"]+)"', text)
        assert status == 200
        assert {"docs/swagger-ui-bundle.js", "docs/start.js", "docs/swagger-ui.css"} <= set(references)
        for reference in references:
            got, part, _ = await client.ask("HEAD", f"/{reference}", key=None)
            assert got == 200, reference
            media = FILES.get(reference.removeprefix("docs/"), "application/json")
            assert part["Content-Type"].partition(";")[0] == media
    policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"unsafe|http|\*", headers["Content-Security-Policy"])
    assert not re.search(r"<script>|<style| on\w+=| style=", text)


def test_what_is_copied_is_unchanged_and_has_its_licence() -> None:
    sums = dict(re.findall(r"^\| `(.+)` \| `(\w{64})` \|$", (UI / "README.md").read_text(), re.MULTILINE))
    assert set(sums) == {path.name for path in UI.iterdir()} - {
        *("README.md", "LICENSE", "NOTICE", "index.html", "start.js"),
    }
    for name, expected in sums.items():
        assert hashlib.sha256((UI / name).read_bytes()).hexdigest() == expected, name


@pytest.mark.asyncio
async def test_answers_are_no_place_for_scripts() -> None:
    async with serving(Played()) as client:
        _, headers, _ = await client.ask("GET", "/status", key=KEY)
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
