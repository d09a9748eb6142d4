"""POST /letters against a service that is played: forms, keys, waiting, and every answer as described."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.message.parts import MAX_ATTACHMENTS
from mailsender.model.errors import TooLarge, Unavailable
from mailsender.model.letter import Letter, Phase, Recipient, Result, Status, StoredLetter, Verdict
from mailsender.web import handlers
from mailsender.web.app import ANSWERING
from mailsender.web.letter_form import BadForm, boundary_of, read_form
from mailsender.web.models import DryRunView
from mailsender.web.operations import BadLetter, Clash, Refused, Submission
from tests.dispatching import until
from tests.unit.test_contracts import check
from tests.unit.test_web import DUE, ID, KEY, SINCE, Flaw, Played, problem, raises, raw, serving

LETTER = b'{"Subject": "s", "Addresses": ["a@example.test"]}'
REFUSED = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")
ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, text="queued")


def stored(status: Status, *results: Result, reason: str = "") -> StoredLetter:
    recipients = tuple(
        Recipient(address=f"{place}@example.test", result=each) for place, each in enumerate(results)
    )
    letter = Letter(
        id=ID,
        addresses=tuple(each.address for each in recipients),
        subject="SECRET",
        body="SECRET",
        recipients=recipients,
        status=status,
        reason=reason,
        finished_at=DUE,
    )
    return StoredLetter(letter=letter, accepted_at=SINCE, due=None)


def doubtful() -> StoredLetter:
    """One that may have arrived."""
    found = stored(Status.ERROR)
    recipient = Recipient(address="a@example.test", result=REFUSED, doubts=1)
    return replace(found, letter=found.letter.evolve(recipients=(recipient,)))


def becomes(found: StoredLetter | None) -> Any:
    async def outcome(_: Callable[[], bool]) -> StoredLetter | None:
        return found

    return outcome


# --- one letter as JSON --------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"]
)
async def test_a_letter_is_taken_whatever_its_content_type(content_type: str) -> None:
    service = Played()
    async with serving(service) as client:
        headers = {"Content-Type": content_type}
        answer = await client.ask("POST", "/letters?key=user+7", data=LETTER, headers=headers)
    assert answer[0] == 202
    assert json.loads(answer[2]) == {"id": ID, "topic": "mts-to-mailsender", "partition": 3, "offset": 7}
    assert answer[1]["Location"] == f"letters/{ID}"
    assert service.given == [Submission(body=LETTER)]
    assert (service.keys, service.waits) == (["user 7"], [])
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("order-1042", "order-1042"),
        ('"order-1042"', "order-1042"),
        (r'"a \"b\" \\ c"', r'a "b" \ c'),
        ("\N{GRINNING FACE}" * 256, "\N{GRINNING FACE}" * 256),
        ('a"b', 'a"b'),
    ],
)
async def test_the_key_of_the_header_goes_along(header: str, key: str) -> None:
    service = Played()
    async with serving(service) as client:
        assert (await client.ask("POST", "/letters", data=LETTER, headers={"Idempotency-Key": header}))[
            0
        ] == 202
    assert service.given == [Submission(body=LETTER, key=key)]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "values",
    [
        [
            "",
        ],
        ['"'],
        ['"a'],
        ['"a\\"'],
        ['""'],
        ["a", "a"],
        ["\N{GRINNING FACE}" * 257],
    ],
)
async def test_a_header_that_is_no_key_is_refused(values: list[str]) -> None:
    service = Played()
    headers = [("X-API-KEY", KEY), *(("Idempotency-Key", value) for value in values)]
    async with serving(service) as client:
        url = f"http://127.0.0.1:{client.port}/letters"
        async with client.session.post(url, data=LETTER, headers=headers) as answer:
            body = problem((answer.status, answer.headers, await answer.text()))
    assert (body["status"], body["reason"]) == (400, "bad-idempotency-key")
    assert service.given == []


@pytest.mark.asyncio
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
async def test_a_key_whose_bytes_are_no_text_is_refused(query: str) -> None:
    service = Played()
    async with serving(service, key="") as client:
        head = f"POST /letters{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(LETTER)}\r\n"
        end = b"Connection: close\r\nIdempotency-Key: caf\xe9\r\n\r\n"
        said = await raw(client.port, head.encode() + end + LETTER)
    body = json.loads(said.partition(b"\r\n\r\n")[2])
    assert (body["status"], body["reason"]) == (400, "bad-idempotency-key")
    assert body["detail"] == "The `Idempotency-Key` is not UTF-8."
    assert service.given == []


@pytest.mark.asyncio
async def test_a_bad_letter_is_told_where_it_is_wrong() -> None:
    flaws = [Flaw(0, "Addresses[3]", "is odd"), Flaw(0, "Attachments[0].Name", "is long")]
    async with serving(Played(result=raises(BadLetter("The letter is wrong.", flaws)))) as client:
        answer = await client.ask("POST", "/letters", data=LETTER)
    body = problem(answer)
    assert (body["status"], body["reason"]) == (400, "bad-letter")
    assert [error["pointer"] for error in body["errors"]] == ["#/Addresses/3", "#/Attachments/0/Name"]
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (TooLarge("no"), 413, "too-large"),
        (Refused("draining", "stopping", retry_after=5), 503, "draining"),
        (Refused("unconfirmed", "perhaps", retry_after=5, ids=(ID,)), 503, "unconfirmed"),
        (Unavailable("no broker"), 503, "unavailable"),
    ],
)
async def test_what_is_not_taken_is_said_as_of_a_batch(error: Exception, status: int, reason: str) -> None:
    async with serving(Played(result=raises(error))) as client:
        answer = await client.ask("POST", "/letters", data=LETTER)
    assert (answer[0], problem(answer)["reason"]) == (status, reason)
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
async def test_a_service_that_takes_nothing_reads_nothing() -> None:
    service = Played(refusal=Refused("no-broker", "away", retry_after=5))
    async with serving(service) as client:
        assert problem(await client.ask("POST", "/letters", data=LETTER))["reason"] == "no-broker"
    assert service.given == []


# --- waiting -------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_was_sent_is_200_with_each_recipient() -> None:
    service = Played(becomes=becomes(stored(Status.SENT, ACCEPTED, REFUSED)))
    async with serving(service) as client:
        answer = await client.ask("POST", "/letters?wait=2s", data=LETTER)
    body = json.loads(answer[2])
    assert (answer[0], body["status"]) == (200, "sent")
    assert [each["code"] for each in body["recipients"]] == [250, 550]
    assert "SECRET" not in answer[2]
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("found", "words"),
    [
        (stored(Status.ERROR, REFUSED, REFUSED), "0@example.test: 550 5.1.1 no such user"),
        (stored(Status.ERROR, REFUSED, reason="the queue cannot store the letter"), "the queue cannot store"),
        (stored(Status.ERROR), "The letter was not sent."),
        (doubtful(), "Nobody knows whether the letter was sent. a@example.test: 5"),
    ],
)
async def test_what_nobody_got_is_422_with_the_words_of_who_decided(found: StoredLetter, words: str) -> None:
    async with serving(Played(becomes=becomes(found))) as client:
        answer = await client.ask("POST", "/letters?wait=2s", data=LETTER)
    body = problem(answer)
    assert (body["status"], body["reason"]) == (422, "refused")
    assert words in body["detail"]
    assert body["letter"]["status"] == "error"
    assert "SECRET" not in answer[2]
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
async def test_what_is_under_way_is_202_all_the_same() -> None:
    async with serving(Played(becomes=becomes(None))) as client:
        answer = await client.ask("POST", "/letters?wait=2s", data=LETTER)
    assert (answer[0], json.loads(answer[2])["id"]) == (202, ID)


@pytest.mark.asyncio
async def test_another_letter_of_the_same_id_is_not_taken_for_this_one() -> None:
    async def another(_: Callable[[], bool]) -> StoredLetter | None:
        raise Clash(ID)

    async with serving(Played(becomes=another)) as client:
        answer = await client.ask("POST", "/letters?wait=2s", data=LETTER)
    assert (answer[0], problem(answer)["reason"]) == (422, "duplicate-id")
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("wait", "least", "most"),
    [("500ms", 0.5, 0.5), ("1m30s", 1.5, 2 - ANSWERING), ("9999d", 1.5, 2 - ANSWERING)],
)
async def test_a_wait_leaves_time_for_the_answer(wait: str, least: float, most: float) -> None:
    service = Played()
    async with serving(service, timeout=2) as client:
        assert (await client.ask("POST", f"/letters?wait={wait}", data=LETTER))[0] == 202
    (seconds,) = service.waits
    assert least - 0.5 < seconds <= most


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "query", ["wait=10", "wait=00", "wait=", "wait=-1s", "wait=1s&wait=1s", "wait=soon", "dry_run=yes"]
)
async def test_a_parameter_that_cannot_be_understood_is_refused(query: str) -> None:
    service = Played()
    async with serving(service) as client:
        answer = await client.ask("POST", f"/letters?{query}", data=LETTER)
    assert (answer[0], problem(answer)["reason"]) == (400, "bad-query")
    assert service.given == []
    check("/letters", "POST", *answer)


@pytest.mark.asyncio
async def test_a_caller_who_goes_away_is_noticed() -> None:
    noticed = asyncio.Event()

    async def outcome(gone: Callable[[], bool]) -> StoredLetter | None:
        assert not gone()
        waiting.set()
        await until(gone)
        noticed.set()
        return None

    waiting = asyncio.Event()
    async with serving(Played(becomes=outcome), timeout=20, key="") as client:
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = b"POST /letters?wait=15s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(LETTER)
        writer.write(head + LETTER)
        await waiting.wait()
        writer.close()
        await asyncio.wait_for(noticed.wait(), 5)


@pytest.mark.asyncio
async def test_one_who_waits_takes_no_turn_from_those_who_post(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.web.handlers.MAX_POSTS", 1)
    waiting, go = asyncio.Event(), asyncio.Event()

    async def outcome(_: Callable[[], bool]) -> StoredLetter | None:
        waiting.set()
        await go.wait()
        return None

    async with serving(Played(becomes=outcome)) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.ask("POST", "/letters?wait=5s", data=LETTER))
        await waiting.wait()
        assert (await client.ask("POST", "/post", data=b"[]"))[0] == 200
        go.set()
        assert (await first)[0] == 202


# --- dry run -------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "given"), [("/post", b"[{}]"), ("/letters", Submission(body=b"[{}]"))])
async def test_a_dry_run_publishes_nothing_whatever_the_state(path: str, given: bytes | Submission) -> None:
    service = Played(refusal=Refused("no-broker", "away", retry_after=5))
    async with serving(service) as client:
        answer = await client.ask("POST", f"{path}?dry_run=true", data=b"[{}]")
        assert (await client.ask("POST", f"{path}?dry_run=false", data=b"[{}]"))[0] == 503
    assert (answer[0], json.loads(answer[2])) == (200, {"letters": 1, "faults": [], "shown": []})
    assert service.given == [given]
    assert service.bodies == service.keys == []
    check(path, "POST", *answer)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/post", "/letters"])
async def test_dry_runs_that_wait_take_no_place_of_a_post(path: str) -> None:
    """Each may wait for files, one behind the other."""
    at_once = 0
    waits = asyncio.Event()

    class Waiting(Played):
        async def dry_run(self, given: bytes | Submission) -> DryRunView:
            nonlocal at_once
            at_once += 1
            await waits.wait()
            return await super().dry_run(given)

    async with serving(Waiting()) as client:
        tries = [
            asyncio.create_task(client.ask("POST", f"{path}?dry_run=true", data=b"[{}]"))
            for _ in range(2 * handlers.MAX_POSTS)
        ]
        await until(lambda: at_once == handlers.MAX_DRY_RUNS)
        await asyncio.sleep(0.1)  # the others have arrived, too
        assert (await asyncio.wait_for(client.ask("POST", path, data=b"[{}]"), 2))[0] in {200, 202}
        assert at_once == handlers.MAX_DRY_RUNS, "the others are not read"
        waits.set()
        assert {(await each)[0] for each in tries} == {200}


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/post", "/letters"])
@pytest.mark.parametrize("name", ["dry-run", "dryrun", "DRY_RUN", "dryRun"])
async def test_who_nearly_asks_for_a_dry_run_publishes_nothing(path: str, name: str) -> None:
    service = Played()
    async with serving(service) as client:
        answer = await client.ask("POST", f"{path}?{name}=true", data=LETTER)
    assert (answer[0], problem(answer)["reason"]) == (400, "bad-query")
    assert service.bodies == service.given == []


# --- forms ---------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> bytes:
    """A form from the heads of its parts, without their line ends, and their contents."""
    written = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), body) for head, body in parts]
    return b"".join(written) + b"--%b--\r\n" % boundary.encode()


NAMED = 'Content-Disposition: form-data; name="letter"'
PDF = 'Content-Disposition: form-data; name="a"; filename="Счёт.pdf"\r\nContent-Type: application/pdf'
HEADERS = {"Content-Type": "multipart/form-data; boundary=b0undary"}


async def attach(name: str, content_type: str, content: AsyncIterator[bytes]) -> Mapping[str, Any]:
    return {name: b"".join([piece async for piece in content]), "type": content_type}


async def leave(name: str, content_type: str, content: AsyncIterator[bytes]) -> Mapping[str, Any]:
    return {"Name": name}


async def in_pieces(body: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, end in pairwise(places):
        if start < end:
            yield body[start:end]


def read(body: bytes, cuts: list[int] | None = None, taken: Any = attach) -> tuple[bytes, Any]:
    return asyncio.run(read_form("b0undary", in_pieces(body, cuts or []), taken))


@pytest.mark.asyncio
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_form_by_a_client_of_forms_is_a_letter_with_files(chunked: bool) -> None:
    service = Played()
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("letter", LETTER.decode(), content_type="application/json")
    data.add_field("one", b"%PDF \xff\r\n--b", filename="Счёт.pdf", content_type="application/pdf")
    data.add_field("two", b"", filename="empty.bin", content_type="application/octet-stream")
    async with serving(service) as client:
        payload = data()
        body: Any = payload
        headers = dict(payload.headers)
        if chunked:
            body = in_pieces(await payload.as_bytes(), [3, 50, 51, 200])
        assert (await client.ask("POST", "/letters", data=body, headers=headers))[0] == 202
    assert service.given == [
        Submission(
            body=LETTER,
            files=(
                {"Name": "Счёт.pdf", "ContentType": "application/pdf", "Content": b"%PDF \xff\r\n--b"},
                {"Name": "empty.bin", "ContentType": "application/octet-stream", "Content": b""},
            ),
        )
    ]


@given(
    st.binary(max_size=200)
    | st.sampled_from([b"\r\n--b0undar", b"\r\n", b"--b0undary\r", b"\r\n--b0undarz"]),
    st.lists(st.integers(0, 2000), max_size=8),
)
def test_a_form_reads_the_same_however_it_comes_in_pieces(content: bytes, cuts: list[int]) -> None:
    if b"\r\n--b0undary" in b"\r\n" + content:
        content = b"x"
    body = form((PDF, content), (NAMED, LETTER))
    letter, files = read(body, cuts)
    assert letter == LETTER
    assert files == ({"Счёт.pdf": content, "type": "application/pdf"},)


def test_a_file_that_nobody_reads_is_passed_over() -> None:
    body = form((PDF, b"x" * 1000), (NAMED, LETTER))
    assert read(body, list(range(0, 1500, 7)), leave) == (LETTER, ({"Name": "Счёт.pdf"},))


def test_a_file_has_its_name_without_a_path_and_a_type() -> None:
    head = 'Content-Disposition: form-data; name="x"; filename="{}"'
    names = ["../../etc/passwd", r"C:\\Temp\\a.txt", "/a b", "a%22b"]
    _, files = read(form((NAMED, LETTER), *((head.format(name), b"") for name in names)))
    assert [next(iter(each)) for each in files] == ["passwd", "a.txt", "a b", 'a"b']
    assert {each["type"] for each in files} == {"application/octet-stream"}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("filename*=utf-8''%D0%B0.pdf", "а.pdf"),
        ("filename*=UTF-8'ru'%D0%B0.pdf", "а.pdf"),
        ("filename=\"a.pdf\"; filename*=utf-8''%D0%B0.pdf", "а.pdf"),
        ("filename*=utf-8''%D0%B0.pdf; filename=a.pdf", "а.pdf"),
        ("filename*=utf-8''..%2F..%2Fa", "a"),
        ("filename=\"a.pdf\"; filename*=utf-8''%FF.pdf", "a.pdf"),
        ("filename=\"a.pdf\"; filename*=koi8-r''%C1.pdf", "a.pdf"),
        ('filename="50%25.pdf"', "50%25.pdf"),
    ],
)
def test_a_name_in_percent_signs_counts_where_it_says_so(written: str, name: str) -> None:
    head = f'Content-Disposition: form-data; name="x"; {written}'
    assert read(form((NAMED, LETTER), (head, b"x")), taken=leave)[1] == ({"Name": name},)


def test_a_field_in_which_no_file_was_chosen_is_none() -> None:
    head = 'Content-Disposition: form-data; name="x"; filename=""\r\nContent-Type: application/octet-stream'
    assert read(form((head, b""), (NAMED, LETTER), (PDF, b""))) == (
        LETTER,
        ({"Счёт.pdf": b"", "type": "application/pdf"},),
    )
    assert read(form((head, b"x" * 99), (NAMED, LETTER)), [150, 160])[1] == (
        {"": b"x" * 99, "type": "application/octet-stream"},
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (form((PDF, b"")), "the part `letter` is missing"),
        (form(), "the part `letter` is missing"),
        (form((NAMED, LETTER), (NAMED, LETTER)), "is there twice"),
        (form((NAMED, LETTER), (NAMED.replace("letter", "note"), b"")), "nor a file with a name"),
        (form((NAMED + "\r\nContent-Transfer-Encoding: base64", b"e30=")), "Content-Transfer-Encoding"),
        (form((NAMED, LETTER))[:-8], "unexpected end"),
        (form((NAMED, LETTER))[:60], "unexpected end"),
        (b"", "unexpected end"),
        (LETTER * 10, "unexpected end"),
        (form(("X: y", LETTER)), "missing content-disposition"),
        (form(("Content-Disposition: attachment; name=letter", LETTER)), "wrong type"),
        (form((NAMED + "\r\nX: " + "x" * 9000, LETTER)), "length exceeded"),
        (form(*[(PDF, b"")] * (MAX_ATTACHMENTS + 1), (NAMED, LETTER)), "count exceeded"),
        (b"--b0undary\r\nContent-Disposition: form-data; name=\xff\r\n\r\n", "failed to decode"),
    ],
)
def test_what_is_no_form_with_a_letter_is_told(body: bytes, words: str) -> None:
    with pytest.raises(BadForm) as bad:
        read(body, [30, 31])
    assert words in str(bad.value)
    assert "xff" not in str(bad.value)


@pytest.mark.parametrize("content_type", ["application/json", "", "multipart/mixed; boundary=x", "multipart"])
def test_what_says_that_it_is_no_form_is_none(content_type: str) -> None:
    assert boundary_of(content_type) is None


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "b" * 71, "; boundary=ж"])
def test_a_form_without_a_boundary_is_told(boundary: str) -> None:
    with pytest.raises(BadForm, match="no boundary"):
        boundary_of(f"multipart/form-data{boundary}")
    assert boundary_of('Multipart/Form-Data; Boundary="a b"') == "a b"


@pytest.mark.asyncio
async def test_a_broken_form_is_400() -> None:
    service = Played()
    async with serving(service) as client:
        for body, headers in ((b"nothing", HEADERS), (LETTER, {"Content-Type": "multipart/form-data"})):
            answer = await client.ask("POST", "/letters", data=body, headers=headers)
            assert (answer[0], problem(answer)["reason"]) == (400, "bad-body")
            check("/letters", "POST", *answer)
    assert service.given == []


@pytest.mark.asyncio
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
@pytest.mark.parametrize("headers", [HEADERS, {}], ids=["form", "JSON"])
async def test_a_body_over_the_limit_is_413(chunked: bool, headers: dict[str, str]) -> None:
    service = Played()
    body = form((PDF, b"x" * 6000), (NAMED, LETTER))
    async with serving(service, max_bytes=5000) as client:
        data: Any = in_pieces(body, [1000, 3000]) if chunked else body
        answer = await client.ask("POST", "/letters", data=data, headers=headers)
    assert problem(answer)["reason"] == "too-large"
    assert service.given == []
    check("/letters", "POST", *answer)
