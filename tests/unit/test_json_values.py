"""Tokens whose numbers a program would change by reading them: they come back as they were written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.admin.posting import _written
from mailsender.intake.batch import decode, faults, read_batch, with_id
from mailsender.intake.schema import Limits
from mailsender.model.letter import Letter, Origin, Status
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import document_of
from mailsender.reports.report import report_bytes

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PI = "3.14159265358979323846264338327950288"
NUMBERS = [
    PI,
    f"-{PI}",
    "1.0",
    "1.50",
    "1E5",
    "1e-7",
    "0.10",
    "1e400",
    "-1e-400",
    "-0",
    "-0.0",
    "1.0e+0",
    "9" * 40,
]


def batch(token: str) -> bytes:
    return b'[{"Addresses":["a@b.c"],"Token":%b}]' % token.encode()


def one(value: bytes) -> Letter:
    def origin(index: int) -> Origin:
        return Origin(topic="t", partition=0, offset=1, index=index, timestamp=1_700_000_000_000)

    [letter] = read_batch(value, b"k", Limits(), origin=origin, now=NOW)
    return letter


def reported(letter: Letter, limit: int = 10**6) -> bytes:
    done = letter.evolve(status=Status.SENT, finished_at=NOW)
    return report_bytes(done, done.answers[0], with_body=True, limit=limit)


def token_in(report: bytes) -> str:
    """The octets of the token, as they stand in a report without anything odd before it."""
    begin = report.index(b'"Token":') + len(b'"Token":')
    return report[begin : report.index(b',"Status":', begin)].decode()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("form", ["{}", "[{}]", '{{"a":[1,{{"b":{}}}],"c":"x"}}'])
def test_a_number_comes_back_as_it_was_written(number: str, form: str) -> None:
    token = form.format(number)
    assert token_in(reported(one(batch(token)))) == token


@pytest.mark.parametrize("number", NUMBERS)
def test_it_does_so_by_way_of_mongodb(number: str) -> None:
    letter = one(batch(f'{{"n":{number}}}'))
    document, _ = document_of(letter, NOW)
    again = letter_of({**document, "_id": document["_id"]})
    assert token_in(reported(again)) == f'{{"n":{number}}}'
    assert again.answers[0].token == letter.answers[0].token


@pytest.mark.parametrize("number", NUMBERS)
def test_it_does_so_by_way_of_http(number: str) -> None:
    """A posted batch is written anew, with an ID in each letter."""
    elements = decode(batch(f"[{number}]"))
    value = _written([with_id(each, "6b03f03e1c3fe5165a363fce") for each in elements])
    assert token_in(reported(one(value))) == f"[{number}]"
    assert not faults(elements)


def test_spaces_go_and_texts_are_written_as_they_always_were() -> None:
    token = '{ "a" : 1.50 , "<b>" : "\\u0041 & \\b \\u2028 \\ud83d\\ude00 Ж \\"Token\\":\\"\\"" }'
    raw = token_in(reported(one(batch(token))))
    assert raw.startswith('{"a":1.50,"\\u003cb\\u003e":"A \\u0026 \\u0008 \\u2028 ')
    assert json.loads(raw) == json.loads(token)


def test_the_fields_before_it_are_not_taken_for_it() -> None:
    decoy = '"Token":""'
    value = json.dumps([{"Addresses": ["a@b.c"], "Subject": decoy, "Body": decoy, "Token": 0}]).encode()
    value = value.replace(b'"Token": 0', b'"Token": 2.50')
    read = json.loads(reported(one(value)), parse_float=Decimal)
    assert (read["Subject"], read["Body"], str(read["Token"])) == (decoy, decoy, "2.50")


def test_it_is_measured_as_it_is_written() -> None:
    good, long = "0." + "1" * 4094, "0." + "1" * 4095
    assert one(batch(good)).status is Status.AWAITING
    bad = one(batch(long))
    assert bad.status is Status.ERROR
    assert bad.reason == "Token has 4097 bytes as JSON; 4096 are allowed"
    assert token_in(reported(bad)) == '""'


def test_a_deep_one_is_refused_as_ever() -> None:
    for within in ("1.5", "", "{}"):
        letter = one(batch("[" * 33 + within + "]" * 33))
        assert letter.reason == "Token nests deeper than 32 levels"
        assert not one(batch("[" * 31 + f"[{within}]".replace("{}", "") + "]" * 31)).reason


def test_half_of_a_surrogate_pair_in_it_is_refused_and_replaced() -> None:
    letter = one(batch('[1.50,"\\ud800"]'))
    assert "surrogate" in letter.reason
    assert token_in(reported(letter)) == '[1.50,"\ufffd"]'


def test_a_report_that_is_too_large_leaves_it_out_last() -> None:
    letter = one(batch("0." + "1" * 3000))
    assert b'"Token":""' in reported(letter, limit=1200)


def test_only_the_last_of_several_counts() -> None:
    value = b'[{"Addresses":["a@b.c"],"Token":1.50,"token":2.50,"TOKEN":[3.50,3.0]}]'
    assert token_in(reported(one(value))) == "[3.50,3.0]"


def test_it_takes_memory_by_its_length() -> None:
    short, long = one(batch("0.1")), one(batch("0." + "1" * 4000))
    assert long.answers[0].size - short.answers[0].size > 3900


_LEAVES = st.one_of(
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?\Z"),
    st.sampled_from(["true", "false", "null"]),
    st.text(max_size=5).filter(str.isprintable).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
    max_leaves=10,
)


@given(_VALUES)
def test_every_value_comes_back_as_it_was_written(token: str) -> None:
    raw = token_in(reported(one(batch(token))))
    told = raw.replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u0026", "&")
    assert told == token
