"""A key of the publisher's own names a letter: the same ID from it, whatever the door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.intake.batch import faults, identified, letter_id, read_batch, read_letter, with_id
from mailsender.intake.idempotency import MAX_KEY, id_of_key, key_fault
from mailsender.intake.schema import NO_ID, Limits, is_id
from mailsender.model.letter import Letter, Origin, Status, content_digest
from tests.unit.test_batch import GOOD, NOW, ORIGIN, read

KEY = "shop/order-1042/receipt"
OTHER = Origin(topic="another", partition=7, offset=8, index=0, timestamp=-1)


def at(element: dict[str, Any], origin: Origin) -> Letter:
    return read_letter(element, origin, None, Limits(), now=NOW)


def test_the_id_of_a_key_is_the_same_for_ever() -> None:
    """Publishers compute it, and letters in queues have it: it may never change."""
    assert id_of_key(KEY) == "7fc8eb11f0ad069417c0060c"
    assert id_of_key("ключ") != id_of_key("KEY")


def test_the_letter_has_it_wherever_it_comes_from() -> None:
    element = {**GOOD, "IdempotencyKey": KEY}
    letter = read(element)
    assert (letter.status, letter.id) == (Status.AWAITING, id_of_key(KEY))
    assert letter.digest == content_digest(letter.addresses, letter.subject, letter.body)
    assert not letter.id_computed
    other = at({"idempotencykey": KEY, **GOOD}, OTHER)
    assert (other.id, other.content) == (letter.id, letter.content)
    (batched,) = read_batch(json.dumps([element]).encode(), None, Limits(), origin=lambda _: OTHER, now=NOW)
    assert (batched.id, batched.digest) == (letter.id, letter.digest)
    assert letter_id(element) == letter.id


def test_one_with_its_own_id_stays_as_it_is_and_one_without_gets_it_written() -> None:
    own = {**GOOD, "id": "6B03f03e1c3fe5165a363fce"}
    assert identified(own, lambda: "f" * 24) is own
    assert identified({**GOOD, "IdempotencyKey": KEY}, lambda: "f" * 24)["ID"] == id_of_key(KEY)
    for none in (GOOD, {**GOOD, "ID": NO_ID}, {**GOOD, "ID": "", "IdempotencyKey": ""}):
        assert letter_id(identified(none, lambda: "f" * 24)) == "f" * 24


def test_beside_an_id_it_has_to_be_that_of_the_id() -> None:
    element = {**GOOD, "IdempotencyKey": KEY}
    assert not faults([with_id(element, id_of_key(KEY).upper())])
    (fault,) = faults([with_id(element, "6b03f03e1c3fe5165a363fce")])
    assert (fault.field, fault.text) == (
        "IdempotencyKey",
        "stands beside an `ID` that is not made from it; leave one of them out",
    )
    assert at(with_id(element, "6b03f03e1c3fe5165a363fce"), OTHER).id == "6b03f03e1c3fe5165a363fce"


@pytest.mark.parametrize("none", [None, "", NO_ID])
def test_an_id_that_means_none_is_none(none: object) -> None:
    assert read({**GOOD, "ID": none, "IdempotencyKey": KEY}).id == id_of_key(KEY)


@pytest.mark.parametrize("none", [None, ""])
def test_a_key_that_is_empty_is_none(none: object) -> None:
    assert read({**GOOD, "IdempotencyKey": none}).id == ORIGIN.letter_id()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("k" * (MAX_KEY + 1), "has 257 characters; 256 are allowed"),
        ("\ud800", "holds half of a surrogate pair"),
        (7, "must be a string, not a number"),
        ([KEY], "must be a string, not an array"),
    ],
)
def test_what_is_no_key_is_the_fault_of_its_letter(key: object, text: str) -> None:
    (fault,) = faults([{**GOOD, "IdempotencyKey": key}])
    assert (fault.field, fault.text) == ("IdempotencyKey", text)
    letter = read({**GOOD, "IdempotencyKey": key})
    assert (letter.status, letter.id) == (Status.ERROR, ORIGIN.letter_id())


def test_a_letter_that_is_wrong_elsewhere_is_an_error_under_the_id_of_its_key() -> None:
    letter = read({**GOOD, "Addresses": ["nobody"], "IdempotencyKey": KEY})
    assert (letter.status, letter.id) == (Status.ERROR, id_of_key(KEY))


@pytest.mark.parametrize("key", ["\N{GRINNING FACE}" * MAX_KEY, "\0", " ", "\u2028", "e\u0301", "\u00e9"])
def test_any_characters_are_a_key(key: str) -> None:
    letter = read({**GOOD, "IdempotencyKey": key})
    assert (letter.status, letter.id) == (Status.AWAITING, id_of_key(key))


def test_keys_are_compared_as_they_stand() -> None:
    keys = [KEY, KEY.upper(), KEY + " ", "e\u0301", "\u00e9", " "]
    assert len({id_of_key(key) for key in keys}) == len(keys)


@given(st.text(max_size=MAX_KEY), st.text(max_size=MAX_KEY))
def test_every_text_up_to_the_limit_has_an_id_of_its_own(one: str, other: str) -> None:
    assert not key_fault(one)
    assert is_id(id_of_key(one))
    assert (id_of_key(one) == id_of_key(other)) == (one == other)
