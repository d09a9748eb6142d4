"""What a letter and its parts promise as values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mailsender.model.letter import (
    Answer,
    JsonText,
    Letter,
    PastAttempt,
    Phase,
    Recipient,
    Result,
    Status,
    Verdict,
)

LETTER = Letter(
    id="6b03f03e1c3fe5165a363fce",
    addresses=("a@example.test",),
    subject="Subject",
    body="Body",
    answers=(Answer(token="t", key=b"k"),),
    recipients=(Recipient(address="a@example.test"),),
    digest=b"d",
)
CHANGES = {
    "id": "0" * 24,
    "addresses": (),
    "subject": "",
    "body": "",
    "answers": (Answer(),),
    "answered": 1,
    "recipients": (),
    "status": Status.SENT,
    "attempts": 2,
    "reason": "why",
    "relay": "relay:25",
    "message_id": "<id@example.test>",
    "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
    "digest": b"",
    "adopted": True,
    "route": "news",
    "history": (
        PastAttempt(at=None, relay="relay:25", result=Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT)),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_of_one_field_alone(name: str) -> None:
    changed = LETTER.evolve(**{name: CHANGES[name]})  # type: ignore[arg-type]  by name
    assert getattr(changed, name) == CHANGES[name]
    assert all(getattr(changed, each) == getattr(LETTER, each) for each in CHANGES if each != name)
    assert changed != LETTER


def test_a_letter_has_no_other_fields() -> None:
    with pytest.raises(TypeError):
        LETTER.evolve(colour="red")  # type: ignore[call-arg]  that is the mistake
    assert LETTER.evolve() == LETTER


def test_the_size_is_that_of_what_the_letter_holds_now() -> None:
    large = LETTER.evolve(body="x" * 10_000)
    assert large.size - LETTER.size == 10_000 - len(LETTER.body)
    assert large.evolve(status=Status.SENT).size == large.size
    assert large.evolve(body="y").size < LETTER.size
    assert large.evolve(subject="x" * 500, addresses=("a",) * 9).size > large.size + 500 + 8 * 200


def test_every_byte_that_a_letter_holds_counts() -> None:
    plain = LETTER.size
    held = 500_000
    key = LETTER.evolve(answers=(Answer(token="t", key=b"k" * held),))
    assert key.size - plain >= held - 10
    token = LETTER.evolve(answers=(Answer(token="t" * held),))
    assert token.size - plain >= held - 10
    written = LETTER.evolve(answers=(Answer(token=JsonText("1" * held)),))
    assert written.size - plain >= held - 10
    nested = LETTER.evolve(answers=(Answer(token=[[{"a": [1.5]}] for _ in range(1000)]),))
    assert nested.size - plain >= 1000 * 200
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert LETTER.evolve(answers=(Answer(token=deep),)).size > 100_000 * 50
    joined = LETTER.evolve(answers=(*LETTER.answers, Answer(key=b"k" * held)))
    assert joined.size - plain >= held
    assert LETTER.evolve(reason="r" * held).size - plain >= held
    assert LETTER.evolve(addresses=("a" * held,)).size - plain >= held - 20
    said = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, text="t" * 500)
    other = replace(said, text="u" * 500)
    apart = tuple(Recipient(address="a", result=said if n % 2 else other) for n in range(100))
    assert LETTER.evolve(recipients=apart).size - plain >= 100 * 500
    alike = tuple(Recipient(address="a", result=said) for _ in range(100))
    assert 500 <= LETTER.evolve(recipients=alike).size - plain < 1000


def test_equal_values_are_one_key_and_can_be_replaced() -> None:
    result = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550)
    assert len({result, Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550)}) == 1
    assert replace(result, code=551) == Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=551)
    assert (
        repr(Recipient(address="a"))
        == "Recipient(address='a', result=None, tries=0, doubts=0, closed=False, relay='', due=0.0)"
    )
