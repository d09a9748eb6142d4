from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.intake import batch as batches
from mailsender.intake.batch import NotABatch, decode, faults, letter_id, read_batch, read_letter, with_id
from mailsender.intake.fast_batch import plain_elements
from mailsender.intake.schema import Limits, token_fault
from mailsender.model.json_values import batch_text, token_text
from mailsender.model.letter import (
    Answer,
    JsonText,
    Letter,
    Origin,
    Phase,
    Recipient,
    Result,
    Status,
    Verdict,
)
from mailsender.model.text import LONG, PIECE, header_fault, storable
from mailsender.reports import report as reports
from mailsender.reports.report import ReportTooLarge, report, report_bytes
from mailsender.reports.schema import Report

NOW = datetime(2022, 10, 17, 12, 30, 5, 250000, tzinfo=UTC)
ORIGIN = Origin(topic="in", partition=2, offset=40, index=3, timestamp=1_666_009_805_250)
GOOD = {"Subject": "Тема", "Body": "<b>Тело</b>", "Addresses": ["a1@example.test"], "Token": "Иван"}


def read(element: dict[str, Any], key: bytes | None = b"k", limits: Limits | None = None) -> Letter:
    return read_letter(element, ORIGIN, key, limits or Limits(), now=NOW)


class TestDecode:
    def test_an_array_of_objects_is_a_batch(self) -> None:
        assert decode('[{"Subject":"Тема"}, {}]'.encode()) == [{"Subject": "Тема"}, {}]

    def test_an_empty_array_is_an_empty_batch(self) -> None:
        assert decode(b" [] ") == []

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (None, "no value"),
            (b"", "not JSON"),
            (b"null", "null"),
            (b"7", "a number"),
            (b"true", "a boolean"),
            (b'"[]"', "a string"),
            (b'{"Subject":"x"}', "an object"),
            (b"[{}, 1]", "element 1 is a number"),
            (b"[[]]", "element 0 is an array"),
            (b"[{}", "not JSON"),
            (b"[{}] x", "not JSON"),
            (b"[{},]", "not JSON"),
            (b"[{'a':1}]", "not JSON"),
            (b'[{"Token":NaN}]', "NaN"),
            (b'[{"Token":-Infinity}]', "-Infinity"),
            (b'[{"Body":"\xff"}]', "not UTF-8 at byte 10"),
            (b'[{"Body":"\xed\xa0\x80"}]', "not UTF-8"),
            ("[{}]".encode("utf-16"), "UTF-16"),
            ("[{}]".encode("utf-16-be"), "not JSON"),
            (b"\xfe\xff" + "[{}]".encode("utf-16-be"), "UTF-16"),
            (b"\xef\xbb\xbf", "not JSON"),
            (b"\xef\xbb\xbf\xef\xbb\xbf[{}]", "not JSON"),
            (b"[\xef\xbb\xbf{}]", "not JSON"),
            (b"\0\0\0\0\7[{}]", "begins with a schema registry's header (schema 7)"),
            (b"\0\0\1\x86\xa0\x02\xff\xfe", "begins with a schema registry's header (schema 100000)"),
            (b"\0\0\0\0\0\0\0\0", "not JSON"),
            (gzip.compress(b"[{}]", mtime=0), "gzip"),
            (b"\x28\xb5\x2f\xfd\x04\x58", "zstd"),
            (b'[{"Body":"a\nb"}]', "not JSON"),
            (b"[" * 100_000, "nests too deep"),
            (b'[{"Token":' + b"[" * 100_000 + b"]" * 99_000, "nests too deep"),
            (b"\x00\x01\x02", "not JSON"),
        ],
    )
    def test_everything_else_is_not(self, value: bytes | None, words: str) -> None:
        with pytest.raises(NotABatch, match=re.escape(words)):
            decode(value)

    def test_a_byte_order_mark_is_no_part_of_the_batch(self) -> None:
        value = b'\xef\xbb\xbf[{"Subject":"a","Token":1.50}]'
        assert decode(value) == [{"Subject": "a", "Token": JsonText("1.50")}]

    def test_a_record_with_a_byte_order_mark_has_the_letters_of_one_without(self) -> None:
        value = json.dumps([GOOD, {**GOOD, "Token": 1.5}]).encode()
        marked = read_batch(b"\xef\xbb\xbf" + value, b"k", Limits(), origin=lambda _: ORIGIN, now=NOW)
        assert list(marked) == list(read_batch(value, b"k", Limits(), origin=lambda _: ORIGIN, now=NOW))

    @pytest.mark.parametrize("depth", [940, 990, 2_000, 90_000])
    @pytest.mark.parametrize(
        ("opens", "ends"), [(b"[", b"]"), (b'{"]}\\"[":', b"}")], ids=["arrays", "objects"]
    )
    def test_what_nests_too_deep_does_not_condemn_its_neighbours(
        self, depth: int, opens: bytes, ends: bytes
    ) -> None:
        deep = opens * (depth // len(opens)) + b"1" + ends * (depth // len(opens))
        good = b'{"Addresses":["a@b.test"],"Token":1.50,"q":"[\\"["}'
        value = b"[%b,{%b,%b},{%b,%b},%b]" % (
            good, good[1:-1], b'"unknown":' + deep, good[1:-1], b'"Token":' + deep, good
        )  # fmt: skip
        letters = list(read_batch(value, b"k", Limits(), origin=lambda _: ORIGIN, now=NOW))
        assert [letter.reason for letter in letters] == ["", "", "Token nests deeper than 32 levels", ""]
        assert letters[0].answers[0].token == letters[3].answers[0].token == JsonText("1.50")

    @pytest.mark.parametrize("unit", [b'{"a":', b'[{"a":'], ids=["objects", "both"])
    def test_a_search_for_what_nests_too_deep_does_not_go_on_and_on(self, unit: bytes) -> None:
        """A record of a megabyte took half a second, in which nothing else went on."""

        def letters(depth: int) -> list[Letter]:
            ends = b"}]" if unit.startswith(b"[") else b"}"
            value = b'[{"Addresses":["a@b.test"],"unknown":%b}]' % (unit * depth + b"1" + ends * depth)
            return list(read_batch(value, None, Limits(), origin=lambda _: ORIGIN, now=NOW))

        assert [letter.reason for letter in letters(5_000)] == [""]
        with pytest.raises(NotABatch, match="nests too deep, and holds more than 100000 brackets and texts"):
            letters(60_000)

    def test_no_depth_is_beyond_one_reading_and_not_beyond_the_other(self) -> None:
        """Where a token holds a fraction the batch is read twice, and the second time from further down."""
        for depth in range(900, 1010):
            value = b'[{"Token":1.50},{"unknown":%b}]' % (b"[" * depth + b"]" * depth)
            assert decode(value)[0] == {"Token": JsonText("1.50")}

    @pytest.mark.parametrize("digits", [400, 4_000, 4_301, 90_000])
    @pytest.mark.parametrize("sign", [b"", b"-"], ids=["plus", "minus"])
    def test_a_number_of_any_length_is_the_fault_of_its_letter_alone(self, digits: int, sign: bytes) -> None:
        number = sign + b"9" * digits
        value = b'[%b,{"Addresses":["a@b.test"],"unknown":%b},{"Addresses":["a@b.test"],"Token":%b}]' % (
            b'{"Addresses":["a@b.test"],"Token":1.50}', number, number
        )  # fmt: skip
        first, second, third = read_batch(value, b"k", Limits(), origin=lambda _: ORIGIN, now=NOW)
        assert (first.reason, second.reason) == ("", "")
        assert first.answers[0].token == JsonText("1.50")
        if len(number) <= 4096:
            assert token_text(third.answers[0].token).encode() == number
        else:
            assert third.reason == f"Token has {len(number)} bytes as JSON; 4096 are allowed"

    def test_a_batch_that_is_written_again_holds_no_infinity(self) -> None:
        batch = decode(b'[{"unknown":{"a":[1e999,-1e999,1]},"Token":[1e999]}]')
        assert batch_text(batch, ascii_only=True) == '[{"unknown":{"a":[null,null,1]},"Token":[1e999]}]'

    @pytest.mark.parametrize("inner", [b"1", b"1e999"])
    @pytest.mark.parametrize("depth", [100, 500, 900, 986, 5000])
    def test_a_batch_of_any_depth_is_written_again(self, depth: int, inner: bytes) -> None:
        value = b'[{"unknown":%b,"Token":1.50}]' % (b"[" * depth + inner + b"]" * depth)
        assert decode(batch_text(decode(value), ascii_only=True).encode())[0]["Token"] == JsonText("1.50")

    def test_a_number_in_the_place_of_a_text_is_called_so(self) -> None:
        value = b'[{"Addresses":["a@b.test"],"Subject":' + b"9" * 5000 + b"}]"
        (letter,) = read_batch(value, b"k", Limits(), origin=lambda _: ORIGIN, now=NOW)
        assert letter.reason == "Subject must be a string, not a number"

    def test_lone_surrogates_are_legal_json(self) -> None:
        assert decode(b'[{"Subject":"\\ud800"}]') == [{"Subject": "\ud800"}]

    def test_integers_beyond_eight_bytes_are_exact(self) -> None:
        assert decode(b'[{"Token":123456789012345678901234567890}]') == [
            {"Token": 123456789012345678901234567890}
        ]

    @given(
        st.binary() | st.text().map(str.encode) | st.binary().map(lambda raw: b'[{"Body":"' + raw + b'"}]')
    )
    def test_any_bytes_are_a_batch_or_not(self, value: bytes) -> None:
        try:
            elements = decode(value)
        except NotABatch:
            return
        assert all(type(element) is dict for element in elements)


class TestGoodLetters:
    def test_the_sample(self) -> None:
        letter = read(GOOD)
        assert (letter.status, letter.reason, letter.finished_at) == (Status.AWAITING, "", None)
        assert (letter.subject, letter.body) == ("Тема", "<b>Тело</b>")
        assert letter.addresses == ("a1@example.test",)
        assert letter.recipients == (Recipient(address="a1@example.test"),)
        assert letter.answers == (Answer(token="Иван", key=b"k", origin=ORIGIN),)
        assert letter.id == ORIGIN.letter_id()
        assert not letter.digest
        assert read({**GOOD, "ID": "6b03f03e1c3fe5165a363fce"}).digest

    def test_keys_match_without_regard_to_case_and_the_last_wins(self) -> None:
        letter = read({"subject": "first", "SUBJECT": "last", "aDDresses": ["a@b.test"]})
        assert (letter.status, letter.subject) == (Status.AWAITING, "last")

    def test_unknown_keys_and_the_reports_own_are_ignored(self) -> None:
        letter = read({**GOOD, "Colour": 7, "Status": "sent", "KafkaKey": {"x": 1}})
        assert letter == read(GOOD)

    @pytest.mark.parametrize("name", ["TextBody", "Template", "Priority", "Subject", "Body", "ID"])
    def test_null_is_as_good_as_absent(self, name: str) -> None:
        assert read({**GOOD, name: None}).status is Status.AWAITING

    def test_null_subject_and_body_are_empty(self) -> None:
        letter = read({"Subject": None, "Addresses": ["a@b.test"]})
        assert (letter.subject, letter.body, letter.answers[0].token) == ("", "", "")

    @pytest.mark.parametrize(
        ("given_id", "kept"),
        [
            ("6B03F03E1C3FE5165A363FCE", "6b03f03e1c3fe5165a363fce"),
            ("000000000000000000000000", ORIGIN.letter_id()),
            ("", ORIGIN.letter_id()),
            (None, ORIGIN.letter_id()),
        ],
    )
    def test_ids(self, given_id: object, kept: str) -> None:
        letter = read({**GOOD, "ID": given_id})
        assert (letter.status, letter.id) == (Status.AWAITING, kept)

    def test_each_mailbox_is_a_recipient_once(self) -> None:
        letter = read({"Addresses": ["b@x.test", "a@x.test", "b@X.test", "B@x.test"]})
        assert [r.address for r in letter.recipients] == ["b@x.test", "a@x.test", "B@x.test"]
        assert letter.addresses == ("b@x.test", "a@x.test", "b@X.test", "B@x.test")

    @pytest.mark.parametrize(
        "token", [None, True, 0, -1.5, 2**200, "x", [], {"a": [1, {"b": None}]}, "x" * 4094, "я" * 2047]
    )
    def test_tokens_come_back_as_they_were(self, token: object) -> None:
        letter = read({**GOOD, "Token": token})
        assert letter.status is Status.AWAITING
        written = json.loads(report_bytes(letter, letter.answers[0], with_body=True, limit=10**6))
        assert written["Token"] == token
        assert type(written["Token"]) is type(token)

    def test_a_body_of_the_largest_size(self) -> None:
        limits = Limits(body=1024)
        assert read({**GOOD, "Body": "я" * 512}, limits=limits).status is Status.AWAITING
        assert read({**GOOD, "Body": "я" * 512 + "."}, limits=limits).status is Status.ERROR

    def test_an_id_from_the_record_is_the_same_at_every_reading(self) -> None:
        assert read(GOOD).id == read(dict(GOOD)).id


class TestBadLetters:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"Addresses": None}, "Addresses is missing"),
            ({"Addresses": []}, "Addresses is empty; a letter needs at least one address"),
            ({"Addresses": "a@b.test"}, "Addresses must be an array of strings, not a string"),
            ({"Addresses": ["a@b.test", 7]}, "Addresses[1] must be a string, not a number"),
            ({"Addresses": ["a@b.test", None]}, "Addresses[1] must be a string, not null"),
            ({"Addresses": ["a@b.test", "who"]}, "Addresses[1] is not an address"),
            ({"Addresses": ["a@b.test\r\nRCPT TO:<x@y.test>"]}, "Addresses[0] is not an address"),
            ({"Addresses": ["\ud800@b.test"]}, "Addresses[0] "),
            ({"Subject": 7}, "Subject must be a string, not a number"),
            ({"Subject": ["x"]}, "Subject must be a string, not an array"),
            ({"Subject": "a\r\nBcc: x@y.test"}, "Subject holds a line break"),
            ({"Subject": "a\x00b"}, "Subject holds the control character U+0000"),
            ({"Subject": "a\x7fb"}, "Subject holds the control character U+007F"),
            ({"Subject": "a\u2028b"}, "Subject holds a line separator (U+2028)"),
            ({"Subject": "\ud800"}, "Subject holds half of a surrogate pair"),
            ({"Body": {"x": 1}}, "Body must be a string, not an object"),
            ({"Body": True}, "Body must be a string, not a boolean"),
            ({"Body": "\udfff"}, "Body holds half of a surrogate pair"),
            ({"ID": "xyz"}, "ID must be 24 hexadecimal digits"),
            ({"ID": 7}, "ID must be 24 hexadecimal digits"),
            ({"ID": "٠" * 24}, "ID must be 24 hexadecimal digits"),
            ({"Token": "x" * 4095}, "Token has 4097 bytes as JSON; 4096 are allowed"),
            ({"Token": float("inf")}, "Token holds a number that JSON cannot carry back"),
            ({"Token": ["\ud800"]}, "Token holds half of a surrogate pair"),
            ({"Token": {"\ud800": 1}}, "Token holds half of a surrogate pair"),
            ({"Template": "x"}, "Body comes from the template"),
            ({"template": " ", "Body": ""}, "Template is no name of a template"),
            ({"Variables": [1]}, "Variables must be an object, not an array"),
            ({"Priority": 0}, "Priority must be a string, not a number"),
        ],
    )
    def test_are_errors_with_a_reason(self, change: dict[str, Any], reason: str) -> None:
        letter = read({**GOOD, **change})
        assert letter.status is Status.ERROR
        assert letter.reason.startswith(reason), letter.reason
        assert letter.finished_at == NOW
        assert letter.recipients == ()
        assert letter.answers[0].key == b"k"
        assert [fault.text for fault in faults([GOOD, {**GOOD, **change}])]

    def test_keep_what_can_be_stored(self) -> None:
        letter = read({"Subject": 7, "Body": "a\ud800b", "Addresses": [1, "a@b.test"], "Token": ["\udc00"]})
        assert (letter.subject, letter.body, letter.addresses) == ("", "a\ufffdb", ("a@b.test",))
        assert letter.answers[0].token == ["\ufffd"]

    def test_a_body_that_is_too_large_is_not_kept(self) -> None:
        letter = read({**GOOD, "Body": "x" * 2000}, limits=Limits(body=1024))
        assert (letter.body, letter.reason) == ("", "Body has 2000 bytes; 1024 are allowed")

    def test_keep_their_own_id_if_it_is_one(self) -> None:
        assert read({"ID": "6B03F03E1C3FE5165A363FCE"}).id == "6b03f03e1c3fe5165a363fce"
        assert read({"ID": "nope"}).id == ORIGIN.letter_id()

    def test_too_many_addresses(self) -> None:
        letter = read({"Addresses": ["a@b.test"] * 4}, limits=Limits(addresses=3))
        assert letter.reason == "Addresses holds 4 addresses; 3 are allowed"
        assert len(letter.addresses) == 3

    def test_all_faults_are_named_up_to_a_number(self) -> None:
        letter = read({"Subject": 1, "Addresses": ["a@b.test", *range(9)]})
        assert "Subject must be" in letter.reason or "Addresses[1]" in letter.reason
        assert letter.reason.endswith("; and 5 more")

    def test_a_deep_token(self) -> None:
        deep: Any = "x"
        for _ in range(33):
            deep = [deep]
        assert read({**GOOD, "Token": deep}).reason == "Token nests deeper than 32 levels"
        assert read({**GOOD, "Token": deep[0]}).status is Status.AWAITING

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    )
    names = st.sampled_from(["ID", "Subject", "Body", "Addresses", "Token", "token", "TextBody", "Other"])

    @given(st.dictionaries(names, json_values | st.lists(st.just("a@b.test"), max_size=2)))
    def test_any_element_becomes_a_letter_that_can_be_stored(self, element: dict[str, Any]) -> None:
        letter = read(element)
        assert letter.status in {Status.AWAITING, Status.ERROR}
        assert (letter.status is Status.ERROR) == bool(letter.reason) == bool(faults([element]))
        texts = (letter.id, letter.subject, letter.body, letter.reason, *letter.addresses)
        assert all(storable(text) for text in texts)
        raw = report_bytes(letter, letter.answers[0], with_body=True, limit=10**7)
        written = json.loads(raw)
        assert written["ID"] == letter.id
        assert written["Token"] == letter.answers[0].token


class TestBatches:
    """The short way for plain letters makes what the long way makes."""

    texts = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(["Тема", "a\u2028b", "\ud800"])
    values: st.SearchStrategy[Any] = st.none() | texts | st.integers() | st.lists(st.integers(), max_size=2)
    addresses = st.lists(
        st.sampled_from(["a@b.test", "A@B.test", "иван@пример.рф", "x", "", "a@b.test\r\n"]) | texts,
        max_size=3,
    )
    elements = st.fixed_dictionaries(
        {},
        optional={
            "Addresses": addresses | values,
            "Subject": texts | values,
            "Body": texts | values,
            "Token": texts | values,
            "ID": st.sampled_from(["", "0" * 24, "6B03F03E1C3FE5165A363FCE", "6b03", "x" * 24]) | values,
            "body": texts,
            "Other": values,
        },
    )
    plain = st.fixed_dictionaries(
        {"Addresses": addresses, "Subject": texts, "Body": texts, "Token": texts},
        optional={
            "ID": st.just("6b03f03e1c3fe5165a363fce"),
            "Stream": st.sampled_from(["news", "", "no name", "x" * 65]) | values,
            "Tags": st.lists(st.sampled_from(["a", "b", "", "\n"]), max_size=11) | st.lists(values) | values,
            "Priority": st.sampled_from(["high", "LOW", "urgent", ""]) | values,
            "Route": st.sampled_from(["staff", "", "a b"]) | values,
            "Retry": st.sampled_from(["1m, 5m*2", "soon", ""]) | values,
            "NotBefore": st.sampled_from(["2026-11-30T08:00:00Z", "tomorrow", ""]) | values,
            "ExpireAt": st.sampled_from(["2026-11-30t11:00:00.123456+03:00", "2026-11-30", ""]) | values,
            "stream": texts,
        },
    )

    @given(st.lists(elements, max_size=3) | st.lists(plain, max_size=3), st.booleans())
    def test_both_ways_make_the_same(self, batch: list[dict[str, Any]], escaped: bool) -> None:
        limits = Limits(body=12, addresses=2)
        try:
            value = json.dumps(batch, ensure_ascii=escaped).encode()
        except UnicodeEncodeError:
            return
        where = [
            Origin(topic="in", partition=2, offset=40, index=index, timestamp=5)
            for index in range(len(batch))
        ]
        short = list(read_batch(value, b"k", limits, origin=where.__getitem__, now=NOW))
        long = [
            read_letter(element, origin, b"k", limits, now=NOW)
            for element, origin in zip(decode(value), where, strict=True)
        ]
        assert short == long

    @pytest.mark.parametrize(
        "value",
        [
            b'[{"Addresses":["a@b.test"],"Token":"a","Token":"b"}]',
            b'[{"Addresses":["a@b.test"],"Body":"a","body":"b"}]',
            b'[{"Addresses":["a@b.test"],"Subject":"\\ud83d\\ude00 \\ud800"}]',
            b'[{"Addresses":["a@b.test"],"Token":"' + b"x" * 5000 + b'"}]',
            b'[{"Addresses":["a@b.test"],"Token":"' + b"x" * 700 + b'"}]',
            b'[{"Addresses":["a@b.test"],"Token":1,"Token":"b"}]',
            b'[{"Addresses":["a@b.test"],"Token":123456789012345678901234567890}]',
            b'[{"Addresses":[]}]',
            b"[{}]",
            b" [ ] ",
        ],
    )
    def test_odd_ones(self, value: bytes) -> None:
        short = list(read_batch(value, None, Limits(), origin=lambda _: ORIGIN, now=NOW))
        assert short == [read_letter(each, ORIGIN, None, Limits(), now=NOW) for each in decode(value)]

    @given(st.data())
    def test_both_ways_read_the_same_json(self, data: st.DataObject) -> None:
        value = (
            b'[{"Addresses":["a@b.test"],"Subject":"\xd0\xa2\\n\\ud83d\\ude00","ID":""}, {"Addresses":["c"]}]'
        )
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, min(len(value), start + 3)))
        bits = [
            b'"',
            b"\\",
            b",",
            b"{",
            b"]",
            b"\x00",
            b"\x1f",
            b"\n",
            b"\xff",
            b"\xed\xa0\x80",
            b"\xef\xbb\xbf",
        ]
        value = value[:start] + data.draw(st.binary(max_size=3) | st.sampled_from(bits)) + value[end:]
        elements = plain_elements(value)
        if elements is not None:
            assert elements == decode(value)

    @pytest.mark.parametrize("value", [None, b"", b"{}", b"[1]", b"\xff", b'[{"Token":NaN}]', b"[[["])
    def test_what_is_no_batch_is_told_at_once(self, value: bytes | None) -> None:
        with pytest.raises(NotABatch):
            read_batch(value, None, Limits(), origin=lambda _: ORIGIN, now=NOW)


def test_faults_name_index_and_field() -> None:
    found = faults([GOOD, {"Subject": 1, "Addresses": ["x"]}, {"Addresses": ["x", "a@b.test", "y"]}])
    assert [(f.index, f.field) for f in found] == [(1, "Subject"), (2, "Addresses[0]"), (2, "Addresses[2]")]


def test_ids_of_elements() -> None:
    assert letter_id({"id": "6B03F03E1C3FE5165A363FCE"}) == "6b03f03e1c3fe5165a363fce"
    assert letter_id({"ID": "0" * 24}) == letter_id({}) == letter_id({"ID": 3}) == ""
    assert with_id({"id": None, "Subject": "x"}, "6b03") == {"ID": "6b03", "Subject": "x"}


@pytest.mark.parametrize("text", ["", "Тема", "a\u00a0b 😀"])
def test_good_headers(text: str) -> None:
    assert header_fault(text) is None


# --- reports -------------------------------------------------------------------------------------

REFUSED = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")
ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="queued")


def finished(**changes: Any) -> Letter:
    return read(GOOD).evolve(
        id="6b03f03e1c3fe5165a363fce",
        status=Status.SENT,
        recipients=(Recipient(address="a1@example.test", result=ACCEPTED, relay="mx:25"),),
        attempts=1,
        relay="mx:25",
        message_id="<1@x>",
        finished_at=NOW,
        **changes,
    )


def written(letter: Letter, *, limit: int = 10**6, with_body: bool = True, answer: int = 0) -> bytes:
    return report_bytes(letter, letter.answers[answer], with_body=with_body, limit=limit)


class TestReports:
    def test_the_originals_seven_fields_come_first_and_as_it_wrote_them(self) -> None:
        letter = finished().evolve(body="Тело <b>&\u2028\b\f\\b\n")
        begins = (
            '{"ID":"6b03f03e1c3fe5165a363fce","Addresses":["a1@example.test"],"Subject":"Тема",'
            '"Body":"Тело \\u003cb\\u003e\\u0026\\u2028\\u0008\\u000c\\\\b\\n",'
            '"Token":"Иван","Status":"sent","KafkaKey":"k",'
        )
        assert written(letter).decode().startswith(begins)
        assert json.loads(written(letter))["Body"] == letter.body

    def test_ours_follow(self) -> None:
        full = json.loads(written(finished()))
        assert list(full) == list(Report.model_fields)
        assert full["Reason"] == {"Code": 250, "EnhancedCode": "2.0.0", "Text": "queued", "Phase": "dot"}
        assert full["Recipients"] == [
            {
                "Address": "a1@example.test",
                "Status": "accepted",
                "Code": 250,
                "EnhancedCode": "2.0.0",
                "Text": "queued",
                "Phase": "dot",
                "Uncertain": False,
                "Relay": "mx:25",
                "Rule": "",
            }
        ]
        assert (full["Attempts"], full["Relay"], full["MessageID"]) == (1, "mx:25", "<1@x>")
        assert full["Time"] == "2022-10-17T12:30:05.250Z"
        assert (full["Uncertain"], full["BodyOmitted"], full["Omitted"]) == (False, False, [])

    def test_it_is_one_line_and_answers_to_its_schema(self) -> None:
        raw = written(finished(subject="a"))
        assert b"\n" not in raw
        assert Report.model_validate_json(raw).Subject == "a"

    def test_a_refusal_decides_an_error(self) -> None:
        deferred = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="later")
        letter = finished().evolve(
            status=Status.ERROR,
            recipients=(
                Recipient(address="a@x.test", result=deferred, doubts=1),
                Recipient(address="b@x.test", result=REFUSED),
            ),
        )
        told = report(letter, letter.answers[0])
        assert (told.Status, told.Reason.Code, told.Reason.Text) == ("error", 550, "no such user")
        assert [r.Status for r in told.Recipients] == ["deferred", "refused"]
        assert told.Uncertain

    def test_a_bad_letters_reason(self) -> None:
        told = report(letter := read({"Subject": 1}), letter.answers[0])
        assert told.Status == "error"
        assert told.Reason.Phase == "intake"
        assert "Subject must be a string" in told.Reason.Text

    @pytest.mark.parametrize(("key", "text"), [(None, ""), (b"\xffa", "\ufffda"), ("ключ".encode(), "ключ")])
    def test_keys_as_text(self, key: bytes | None, text: str) -> None:
        letter = read(GOOD, key=key)
        assert json.loads(written(letter))["KafkaKey"] == text

    def test_each_publisher_gets_its_own_token_and_key(self) -> None:
        letter = finished()
        letter = letter.evolve(answers=(*letter.answers, Answer(token=7, key=b"z")))
        assert [json.loads(written(letter, answer=i))["Token"] for i in (0, 1)] == ["Иван", 7]

    def test_the_body_can_be_switched_off(self) -> None:
        full = json.loads(written(finished(), with_body=False))
        assert (full["Body"], full["BodyOmitted"], full["Omitted"]) == ("", True, [])

    def test_it_is_not_escaped_to_ascii(self) -> None:
        letter = finished().evolve(body="я" * 1000)
        assert len(written(letter)) < 2 * 1000 + 1000

    def test_what_is_too_large_is_left_out_step_by_step(self) -> None:
        wordy = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, text="w" * 300)
        addresses = tuple(f"a{i:04}@example.test" for i in range(100))
        letter = read({**GOOD, "Addresses": list(addresses)}, key=b"k" * 600).evolve(
            subject="s" * 700,
            body="b" * 5000,
            reason="r" * 700,
            recipients=tuple(Recipient(address=a, result=wordy) for a in addresses),
        )
        steps = [
            (60_000, False, []),
            (49_500, True, []),
            (21_000, True, ["Recipients.Text"]),
            (6_000, True, ["Recipients.Text", "Recipients"]),
            (2_600, True, ["Recipients.Text", "Recipients", "Addresses"]),
            (1_900, True, ["Recipients.Text", "Recipients", "Addresses", "Subject"]),
            (1_300, True, ["Recipients.Text", "Recipients", "Addresses", "Subject", "KafkaKey"]),
            (600, True, ["Recipients.Text", "Recipients", "Addresses", "Subject", "KafkaKey", "Reason.Text"]),
        ]
        for limit, body_omitted, omitted in steps:
            raw = written(letter, limit=limit)
            assert len(raw) <= limit
            full = json.loads(raw)
            assert (full["BodyOmitted"], full["Omitted"]) == (body_omitted, omitted), limit
            assert full["ID"] == letter.id

    def test_what_cannot_be_made_small_enough_says_so(self) -> None:
        with pytest.raises(ReportTooLarge, match="100 bytes"):
            written(finished(), limit=100)

    def test_the_words_are_the_same_at_every_publishing(self) -> None:
        letter = finished()
        assert written(letter) == written(letter.evolve())

    @given(
        st.text(st.characters(codec=None)),
        st.text(st.characters(codec=None)) | st.integers() | st.floats() | st.lists(st.floats()),
        st.binary() | st.none(),
        st.sampled_from(
            [REFUSED, ACCEPTED, Result(verdict=Verdict.UNCERTAIN, phase=Phase.DOT, text="<\u2028>")]
        ),
    )
    def test_the_short_way_writes_what_the_model_writes(
        self, text: str, token: Any, key: bytes | None, result: Result
    ) -> None:
        letter = finished().evolve(
            subject=text,
            body=text,
            reason=text[:3],
            recipients=(Recipient(address=text, result=result), Recipient(address="b@c.test")),
        )
        answer = Answer(token=token, key=key)
        short = reports._plain(letter, answer)
        if short is not None:
            assert short == reports._encode(report(letter, answer))
        else:
            assert not (isinstance(token, str) and storable(token) and storable(text))


def simply_written(letter: Letter, token: Any) -> bytes:
    """A report as Go's encoder has it, character by character (see its `encoding/json.HTMLEscape`)."""
    answer = Answer(token="", key=letter.answers[0].key)
    fields = report(letter, answer).model_dump() | {"Token": token}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    text = re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)
    signs = {"\\b": "\\u0008", "\\f": "\\u000c"}
    return re.sub(r"\\.", lambda found: signs.get(found[0], found[0]), text).encode()


SIGNS = '<>&"\\\b\f\n\r\t\x00\x1f\x7fж€\u2028\u2029😀…'
ODD_SIGNS = st.sampled_from([*SIGNS, "&gt;", "\\b", "\\u2028", '"Body":""', '","Token":"'])


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["", '<p>a"b &amp; c</p>\n', "<p>Мир — труд</p>\n"]),
    st.lists(st.tuples(st.sampled_from([0, 1, PIECE - 3, PIECE - 1, PIECE]), ODD_SIGNS), max_size=4),
    st.sampled_from(["", "Иван\b", 7, {"Body": "", "Token": ""}, ['"Body":""']]),
)
def test_a_body_of_any_length_is_reported_as_it_was(
    line: str, odd: list[tuple[int, str]], token: Any
) -> None:
    body = line * (LONG // max(1, len(line)) + 1) + "".join("y" * gap + each for gap, each in odd)
    letter = finished().evolve(body=body, subject='"Body":""', reason="\b\f<")
    answers = (Answer(token=token, key=b"k"),)
    told = written(letter.evolve(answers=answers), limit=10**8)
    assert told == simply_written(letter, token)
    assert json.loads(told)["Body"] == body


def test_a_body_that_cannot_fit_is_not_written_to_see_that_it_does_not() -> None:
    letter = finished().evolve(body="x" * 5_000_000)
    tracemalloc.start()
    told = written(letter, limit=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert json.loads(told)["BodyOmitted"]
    assert peak < 1_000_000


# --- what a batch may hold -----------------------------------------------------------------------


def batch_of(count: int) -> bytes:
    return b"[" + b",".join([b'{"Addresses":["a@b.test"]}'] * count) + b"]"


@pytest.mark.parametrize("odd", [b"", b',{"Unknown":1}'])
def test_letters_of_a_batch_are_bounded(odd: bytes) -> None:
    limits = Limits(letters=50)
    allowed, beyond = (batch_of(n)[:-1] + odd + b"]" for n in (50 - bool(odd), 51))
    assert len(list(read_all(allowed, limits))) == 50
    with pytest.raises(NotABatch, match="50 are allowed"):
        read_all(beyond, limits)


def read_all(value: bytes, limits: Limits) -> Any:
    place = partial(Origin, topic="in", partition=0, offset=0, timestamp=0)
    return read_batch(value, b"k", limits, origin=lambda index: place(index=index), now=NOW)


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b",".join([b"{}"] * 400_000) + b"]",
        b'[{"Addresses":["a@b.test"],"Token":' + b"[" + b",".join([b"[]"] * 400_000) + b"]}]",
        b'[{"Addresses":["a@b.test"],"Token":' + b"[" + b",".join([b'""'] * 400_000) + b"]}]",
        b'[{"Addresses":["a@b.test"],"x":' + b'{"a":' * 400_000,
    ],
)
def test_values_of_a_batch_are_counted_before_it_is_taken_apart(value: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(NotABatch, match="holds more than 340000 values"):
        read_all(value, Limits())
    with pytest.raises(NotABatch, match="holds more than 340000 values"):
        decode(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(value)


@given(
    st.lists(st.sampled_from([b",", b"[", b"{", b"x", b'"', b"y" * PIECE, b"," * (PIECE - 1)]), max_size=8)
)
def test_signs_of_values_are_counted_wherever_they_stand(parts: list[bytes]) -> None:
    value = b"".join(parts)
    marks = sum(value.count(sign) for sign in (b",", b"[", b"{"))
    assert not batches._more_marks(value, marks)
    if marks:
        assert batches._more_marks(value, marks - 1)


def test_a_token_of_too_many_values_is_refused_without_a_look_at_all_of_them() -> None:
    value = b'[{"Addresses":["a@b.test"],"Token":[' + b",".join([b"[[1]]"] * 100_000) + b"]}]"
    (letter,) = read_all(value, Limits())
    assert "Token has more than 4096 bytes as JSON" in letter.reason
    most = [1] * 2047
    assert token_fault(most) is None
    assert token_fault([*most, 1, 1]) is not None


def test_what_looks_like_values_within_texts_does_not_count() -> None:
    body = '{a,"b\\": [1, 2]}, \\"' * 30_000
    value = json.dumps([{"Addresses": ["a@b.test"], "Body": body}]).encode()
    (letter,) = read_all(value, Limits())
    assert letter.body == body


def personal(*addresses: Any, **more: Any) -> Letter:
    keys = {"Template": "t", "Personal": True, "Addresses": list(addresses), **more}
    return read({**GOOD, "Body": None, **keys})


ANN = {"Address": "ann@example.test", "Name": "Ann", "Variables": {"n": 1}}


@pytest.mark.parametrize(
    ("again", "key"),
    [
        ({**ANN, "Variables": {"n": 2}}, "Variables"),
        ({**ANN, "Variables": {"n": 1.0}}, "Variables"),
        ({**ANN, "Variables": {"n": True}}, "Variables"),
        ({**ANN, "Variables": None}, "Variables"),
        ({**ANN, "Name": "Anna"}, "Name"),
        ({**ANN, "ListUnsubscribe": {"URL": "https://example.test/1"}}, "ListUnsubscribe"),
        ({**ANN, "Address": "ann@EXAMPLE.test", "Variables": {"n": 2}}, "Variables"),
        ("ann@example.test", "Name"),
    ],
)
def test_a_recipient_of_a_personal_letter_has_one_message(again: Any, key: str) -> None:
    for places in ((ANN, "b@example.test", again), (again, "b@example.test", ANN)):
        letter = personal(*places)
        assert letter.status is Status.ERROR
        assert letter.reason == (
            f"Addresses[2] is the recipient of Addresses[0] again, with another {key}; a recipient of a"
            " personal letter gets one message"
        )
        assert faults([{**GOOD, "Body": None, "Template": "t", "Personal": True, "Addresses": list(places)}])


def test_one_that_stands_twice_alike_counts_once() -> None:
    again = {"ListUnsubscribe": {"URL": ""}, **ANN, "Address": "ann@Example.test"}
    letter = personal(ANN, "b@example.test", again, {"Address": "b@example.test", "Name": ""})
    assert [each.address for each in letter.recipients] == ["ann@example.test", "b@example.test"]
    assert personal(ANN, {**ANN, "Address": "Ann@example.test", "Name": "B"}).reason == "", "another mailbox"
    other = read({**GOOD, "Addresses": [ANN["Address"], {"Address": "ann@example.test", "Name": "Anna"}]})
    assert len(other.recipients) == 1, "one that is not personal shows no name"
