"""What means the same is written in one way: whatever the spelling, a letter has one content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.intake.batch import read_letter
from mailsender.intake.schema import Limits, Senders
from mailsender.message.canonical import canonical
from mailsender.message.mail import KEYS
from mailsender.message.mail import read as keys_read
from mailsender.model.blobs import ref_of
from mailsender.model.letter import Letter, Origin, Status
from tests.unit.test_batch import NOW

ORIGIN = Origin(topic="in", partition=0, offset=1, index=0, timestamp=2)
LIMITS = Limits(senders=Senders.of(["example.org"]))
PLAIN = {"ID": "6b03f03e1c3fe5165a363fce", "Subject": "s", "Body": "b", "Addresses": ["a@example.org"]}
FILE = {"Name": "é.pdf", "Content": "aGk="}
CALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR"
ABSENT = object()

# For each key its contents, and for each of those its spellings.
SPELLINGS: dict[str, list[list[Any]]] = {
    "From": [
        [ABSENT, None, ""],
        ["a@example.org"],
        ["Ann <a@example.org>", '"Ann" <a@example.org>', "Ann   <a@example.org>", '"A\\nn" <a@example.org>'],
        ['"A \\"b\\" \\\\" <a@example.org>'],
    ],
    "FromName": [[ABSENT, None, ""], ["Bob"]],
    "Sender": [[ABSENT, None, ""], ["Eve <e@example.org>", '"Eve" <e@example.org>']],
    "ReplyTo": [
        [ABSENT, None, "", []],
        ["r@example.org", ["r@example.org"]],
        [["r@example.org", "s@example.org"]],
        [["s@example.org", "r@example.org"]],
    ],
    "ReversePath": [[ABSENT, None, ""], ["b@example.org"]],
    "To": [[ABSENT, None, []], [["T <t@example.org>"], ['"T" <t@example.org>']], [["t@example.org"]]],
    "Cc": [[ABSENT, None, []], [["c@example.org"]]],
    "Personal": [[ABSENT, None, False, ""]],
    "TextBody": [[ABSENT, None, ""], ["t"], ["t "]],
    "Attachments": [
        [ABSENT, None, []],
        [
            [FILE],
            [{**FILE, "Name": "e\u0301.pdf", "Inline": False, "ContentID": ""}],
            [{**FILE, "ContentType": "application/pdf", "Ref": None}],
            [{**FILE, "ContentType": "Application/PDF", "Content": "aGk=\r\n", "Inline": None}],
            [{"Name": "é.pdf", "Ref": ref_of(b"hi")}],
        ],
        [[{**FILE, "Inline": True, "ContentID": "x"}], [{**FILE, "Inline": True, "ContentID": "<x>"}]],
        [[{**FILE, "ContentType": "text/plain; charset=utf-8"}]],
    ],
    "Calendar": [
        [ABSENT, None, {}, {"Text": "", "Method": None}],
        [
            {"Text": CALENDAR},
            {"Text": CALENDAR, "Method": "REQUEST"},
            {"Text": CALENDAR, "Method": "request"},
        ],
    ],
    "Headers": [
        [ABSENT, None, {}],
        [{"X-A": "1"}, {"X-A": ["1"]}, {"X-A": " 1 "}],
        [{"X-A": ["1", "2"]}],
        [{"X-A": ["2", "1"]}],
        [{"X-A": "1", "X-B": "2"}, {"X-B": ["2"], "X-A": "1"}],
    ],
    "ListUnsubscribe": [
        [ABSENT, None, {}, {"URL": ""}],
        [{"URL": "https://example.org/u"}, {"URL": "https://example.org/u", "Mail": None}],
        [{"Mail": "u@example.org"}, {"URL": "", "Mail": "u@example.org"}],
    ],
    "InReplyTo": [
        [ABSENT, None, "", []],
        ["<a@b>", ["<a@b>"], " <a@b> "],
        [["<a@b>", "<c@d>"], "<a@b> <c@d>", ["<a@b> <c@d>"]],
    ],
    "References": [[ABSENT, None, "", []], ["<a@b> <c@d>", ["<a@b>", "<c@d>"]], ["<c@d> <a@b>"]],
    "AutoSubmitted": [[ABSENT, None, ""], ["no", "No"], ["auto-generated", "Auto-Generated"]],
    "Importance": [[ABSENT, None, ""], ["normal", "Normal"], ["high", "HIGH"]],
    "DSN": [
        [ABSENT, None, {}, {"Notify": []}],
        [{"Notify": ["FAILURE", "DELAY"]}, {"Notify": ["DELAY", "FAILURE"], "Ret": "", "EnvID": None}],
        [{"Notify": ["FAILURE"], "Ret": "HDRS", "EnvID": "x"}],
        [{"Notify": ["NEVER"]}],
    ],
    "RequireTLS": [[ABSENT, None, False], [True]],
    "Suppression": [[ABSENT, None, ""], ["ignore", "Ignore"]],
}
OF_TEMPLATES: dict[str, list[list[Any]]] = {
    "Template": [["t"], ["u"], ["t@1"]],
    "Lang": [[ABSENT, None, ""], ["ru"], ["pt-BR", "pt-br", "PT-BR"]],
    "Variables": [
        [ABSENT, None, {}],
        [{"a": 1, "b": {"c": "x", "d": []}}, {"b": {"d": [], "c": "x"}, "a": 1}],
        [{"a": 1.0, "b": {"c": "x", "d": []}}],
        [{"a": True, "b": {"c": "x", "d": []}}],
    ],
}
OBJECTS: list[list[Any]] = [
    [
        ["x@example.org"],
        [{"Address": "x@example.org"}],
        [{"Address": "x@example.org", "Name": "", "Variables": {}}],
    ],
    [[{"Address": "x@example.org", "Name": "X"}], [{"Name": "X", "Address": "x@example.org"}]],
    [[{"Address": "x@example.org", "Name": "Y"}]],
    [
        [{"Address": "x@example.org", "ListUnsubscribe": {"URL": "https://example.org/x"}}],
        [{"Address": "x@example.org", "ListUnsubscribe": {"URL": "https://example.org/x", "Mail": ""}}],
    ],
    [
        [{"Address": "x@example.org", "Variables": {"a": 1, "b": 2}}],
        [{"Address": "x@example.org", "Variables": {"b": 2, "a": 1}}],
    ],
]


def read(keys: dict[str, Any]) -> Letter:
    element = {**PLAIN, **{key: value for key, value in keys.items() if value is not ABSENT}}
    letter = read_letter(element, ORIGIN, None, LIMITS, now=NOW)
    assert letter.status is Status.AWAITING, letter.reason
    return letter


def test_each_key_is_looked_at() -> None:
    made_here = {"Names", "VariablesOf", "UnsubscribeOf", "Pin"}
    assert {*SPELLINGS, *OF_TEMPLATES} == set(KEYS) - made_here


@pytest.mark.parametrize("key", [*SPELLINGS, *OF_TEMPLATES])
def test_spellings_of_a_key_have_one_content_and_contents_have_several(key: str) -> None:
    base = {"Template": "t", "Body": None} if key in OF_TEMPLATES else {}
    found = []
    for spellings in {**SPELLINGS, **OF_TEMPLATES}[key]:
        contents = {(read({**base, key: each}).digest, read({**base, key: each}).mail) for each in spellings}
        assert len(contents) == 1, spellings
        found.append(contents.pop())
    assert len(set(found)) == len(found)


def test_what_stands_beside_an_address_has_one_content_too() -> None:
    found = []
    for spellings in OBJECTS:
        base = {"Personal": True, "Template": "t", "Body": None}
        contents = {read({**base, "Addresses": each}).digest for each in spellings}
        assert len(contents) == 1, spellings
        found.append(contents.pop())
    assert len(set(found)) == len(found)
    assert read({"Addresses": OBJECTS[1][0]}).digest == read({"Addresses": OBJECTS[0][0]}).digest, "unseen"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"From": "Ann <a@example.org>", "FromName": "Bob"}, {"From": "Bob <a@example.org>"}),
        ({"From": "a@example.org", "Sender": "a@example.org"}, {"From": "a@example.org"}),
        ({"Personal": False, "RequireTLS": False}, {}),
    ],
)
def test_keys_that_together_say_what_others_say(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (read(one).mail, read(one).digest) == (read(other).mail, read(other).digest)


def test_a_letter_that_says_nothing_more_is_a_plain_one() -> None:
    assert read({"Personal": False, "Headers": {}, "ReplyTo": []}).mail == ""


chosen = st.fixed_dictionaries({key: st.sampled_from(groups) for key, groups in SPELLINGS.items()})


@settings(deadline=None)
@given(chosen=chosen, data=st.data())
def test_all_keys_together(chosen: dict[str, list[Any]], data: st.DataObject) -> None:
    """Any spelling of all of them is one content, and what is kept is read as what was published."""
    first, second = [
        {key: data.draw(st.sampled_from(group)) for key, group in chosen.items()} for _ in range(2)
    ]
    one, other = read(first), read(second)
    assert (one.digest, one.mail) == (other.digest, other.mail)
    if one.mail:
        kept = json.loads(one.mail)
        assert canonical(kept, keys_read(kept)) == kept
