"""A letter as a document and back, without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp, decode, encode
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.letter import Answer, Letter, Origin, Phase, Recipient, Result, Status, Verdict
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import (
    Unstorable,
    clean,
    document_of,
    letter_id,
    likeness,
    remains_of,
    slice_of,
    state_of,
    stored_id,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
ORIGIN = Origin(topic="in", partition=1, offset=2, index=3, timestamp=-1)
DEFERRED = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=451, enhanced="4.7.1", text="later")
GONE = Result(verdict=Verdict.REFUSED, phase=Phase.CONNECT)


def letter(**changes: Any) -> Letter:
    fields: dict[str, Any] = {
        "id": "6b03f03e1c3fe5165a363fce",
        "addresses": ("a@example.test", "b@example.test"),
        "subject": "Тема",
        "body": "Тело",
        "answers": (Answer(token="т", key=b"k\xff", origin=ORIGIN),),
    }
    return Letter(**fields | changes)


def read(document: dict[str, Any]) -> Letter:
    """The letter after a journey through BSON."""
    return letter_of(decode(encode(document), CodecOptions(tz_aware=True)))


def test_the_original_fields_keep_their_meaning() -> None:
    document, _ = document_of(letter(), NOW)
    shown = {name: document[name] for name in ("addresses", "subject", "body", "token", "status", "kafkakey")}
    assert shown == {
        "addresses": ["a@example.test", "b@example.test"],
        "subject": "Тема",
        "body": "Тело",
        "token": "т",
        "status": "awaiting",
        "kafkakey": "k\N{REPLACEMENT CHARACTER}",
    }
    assert document["_id"] == ObjectId("6b03f03e1c3fe5165a363fce")
    assert (document["route"], document["rank"], document["created_at"]) == ("default", NOW, NOW)


def test_what_did_not_happen_takes_no_place() -> None:
    document, _ = document_of(letter(), NOW)
    absent = {"recipients", "outcome", "attempts", "relay", "message_id", "reason", "finished_at", "also"}
    assert not absent & document.keys()
    assert not {"outbox", "claim", "expire_at", "tokenjson"} & document.keys()


def test_an_error_comes_in_final() -> None:
    document, _ = document_of(letter(status=Status.ERROR, reason="no"), NOW)
    assert document["finished_at"] == NOW
    assert not {"route", "rank"} & document.keys()


def told(relay: str, **fields: Any) -> Recipient:
    """A recipient; of one of whom nothing was said no relay is known."""
    return Recipient(relay=relay if fields["result"] else "", **fields)


recipients = st.builds(
    told,
    relay=st.sampled_from(["", "a.test:25", "b.test:25"]),
    address=st.sampled_from(["a@example.test", "b@example.test", "c@example.test"]),
    result=st.none() | st.sampled_from([DEFERRED, GONE]),
    tries=st.integers(0, 3),
    doubts=st.integers(0, 2),
)


@given(
    recipients=st.lists(recipients, max_size=3).map(tuple),
    token=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    key=st.none() | st.binary(max_size=8),
    attempts=st.integers(0, 9),
    message_id=st.sampled_from(["", "<6b03f03e1c3fe5165a363fce@example.test>", "<other@example.test>"]),
    finished_at=st.none() | st.just(NOW),
    relay=st.sampled_from(["", "a.test:25"]),
)
def test_a_letter_survives_the_journey(
    recipients: tuple[Recipient, ...],
    token: object,
    key: bytes | None,
    attempts: int,
    message_id: str,
    finished_at: datetime | None,
    relay: str,
) -> None:
    sample = letter(
        addresses=tuple(each.address for each in recipients),
        recipients=recipients,
        answers=(Answer(token=token, key=key, origin=ORIGIN),),
        attempts=attempts,
        message_id=message_id,
        finished_at=finished_at,
        relay=relay,
    )
    document, size = document_of(sample, NOW)
    found = read(document)
    assert found == sample.evolve(digest=found.digest)
    assert len(encode(document)) <= size + 200 * len(recipients)


def test_letters_that_end_alike_are_written_alike() -> None:
    def end(sample: Letter, result: Result) -> Letter:
        return sample.evolve(
            recipients=tuple(Recipient(address=each, result=result) for each in sample.addresses),
            message_id=f"<{sample.id}@example.test>",
        )

    one = end(letter(), DEFERRED)
    two = end(letter(id="0" * 24, addresses=("x@example.test",)), DEFERRED)
    three = end(letter(), GONE)
    assert likeness(one) == likeness(two) != likeness(three)
    assert state_of(one) == state_of(two) != state_of(three)
    assert state_of(one)["recipients"] is None
    mixed = one.evolve(recipients=(one.recipients[0], three.recipients[1]))
    assert state_of(mixed)["outcome"] is None
    assert [each["address"] for each in state_of(mixed)["recipients"]] == list(one.addresses)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"subject": "\ud800"}, "subject"),
        ({"body": "x\udfff"}, "body"),
        ({"addresses": ("\udc80@example.test",)}, "addresses"),
        ({"body": "x" * 12 * 1024 * 1024}, "bytes"),
        ({"answers": (Answer(token={1, 2}, origin=ORIGIN),)}, "token"),
        ({"answers": (Answer(token="x" * 13_000_000, origin=ORIGIN),)}, "bytes"),
    ],
)
def test_what_cannot_be_stored_says_why_and_leaves_remains(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Unstorable, match=word) as caught:
        document_of(letter(**change), NOW)
    document, _ = document_of(remains_of(letter(**change), str(caught.value)), NOW)
    found = read(document)
    assert (found.status, found.body) == (Status.ERROR, "")
    assert word in found.reason
    assert found.answers[0].origin == ORIGIN
    assert len(encode(document)) < 300_000


def test_remains_are_told_from_another_letter_by_the_whole_content() -> None:
    one, two = letter(body="\ud800"), letter(body="\ud801")
    assert remains_of(one, "x").digest != remains_of(two, "x").digest


@pytest.mark.parametrize(
    "identity",
    [
        "text",
        "",
        5,
        Int64(5),
        2**40,
        1.5,
        None,
        True,
        Binary(b"\0\1"),
        Binary(b"0" * 16, 4),
        Decimal128("1.0"),
        Timestamp(1, 2),
        datetime(2020, 1, 1, tzinfo=UTC),
        {"b": 1, "a": {"$x": [1]}},
        ObjectId(),
        "6b03f03e1c3fe5165a363fce",
    ],
)
def test_any_id_leads_back_to_its_document(identity: object) -> None:
    assert encode({"_id": stored_id(letter_id(identity))}) == encode({"_id": identity})


@pytest.mark.parametrize("wrong", ["", "x", "0" * 23, "0" * 25, "~", "~{", '~{"$oid": 5}', "~" + "[" * 9999])
def test_a_wrong_id_is_a_value_error(wrong: str) -> None:
    with pytest.raises(ValueError):
        stored_id(wrong)


def test_clean_leaves_characters_alone() -> None:
    assert clean("Тема \N{GRINNING FACE}\0") == "Тема \N{GRINNING FACE}\0"
    assert clean("a\udcff\ud800b") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    "odd",
    [
        {"status": "lost"},
        {"outcome": 5},
        {"outcome": {"verdict": "maybe", "phase": "dot"}},
        {"outcome": {"verdict": "accepted"}},
        {"recipients": 5},
        {"recipients": [{"verdict": "accepted", "phase": "dot"}]},
        {"finished_at": "yesterday"},
        {"attempts": -1},
        {"origin": {"topic": "in"}},
        {"also": {"a": 1}},
        {"token": Regex("a(")},
        {"token": float("nan")},
        {"token": "[" * 5000, "tokenjson": True},
        {"kafkakey": 5},
    ],
)
def test_odd_fields_never_stop_the_reader(odd: dict[str, Any]) -> None:
    document = {"_id": ObjectId(), "status": "awaiting", "addresses": ["a@example.test"], "subject": "x"}
    found = read({**document, **odd})
    assert found.pending == ("a@example.test",)
    assert found.status is (Status.ERROR if "status" in odd else Status.AWAITING)
    assert (found.attempts, found.finished_at, len(found.answers)) == (0, None, 1)


NOTED = {"verdict": "accepted", "phase": "dot", "text": "", "code": 250}


@pytest.mark.parametrize(
    "slices",
    [
        "x",
        {"t": "x"},
        {"t": {"0": "x"}},
        {"t": {"0": ["x", [1], [0, 1, "x"], [0, 1, {"verdict": "?"}]]}},
        {"t": {"0": [[-5, 3, NOTED], ["0", 1, NOTED], [7, 9, NOTED], [2, 10**12, {"verdict": 1}]]}},
        {"t": {"0": [[0, 1, {"tries": 9}], [5, -3, NOTED]]}},
    ],
)
def test_notes_of_another_program_do_no_harm(slices: object) -> None:
    document, _ = document_of(letter(), NOW)
    found = letter_of({**document, "slices": slices})
    assert [each.accepted for each in found.recipients].count(True) <= 1
    assert found.addresses == letter().addresses


@pytest.mark.parametrize("origin", [None, 7, {}, {"$set": None}, {"topic": "t"}])
def test_an_origin_that_is_none_makes_no_document_ours(origin: object) -> None:
    document, _ = document_of(letter(), NOW)
    assert letter_of({**document, "origin": origin}).adopted
    assert not letter_of(document).adopted


def test_notes_that_are_alike_share_a_line() -> None:
    taken = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
    changed = {n: Recipient(address=str(n), result=taken) for n in (0, 1, 2, 5, 6)}
    changed[3] = Recipient(address="3", result=DEFERRED, tries=1)
    assert [(start, count) for start, count, _ in slice_of(changed)] == [(0, 3), (3, 1), (5, 2)]
