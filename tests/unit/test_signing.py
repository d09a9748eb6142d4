"""Letters of every kind, signed as they go out and verified by dkimpy."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailsender.intake.batch import read_letter
from mailsender.intake.schema import Limits, Senders
from mailsender.message.composer import LetterComposer
from mailsender.message.dkim import SigningKey, SigningKeys
from mailsender.message.parts import Base64
from mailsender.message.signing import SigningComposer
from mailsender.model.blobs import ref_of
from mailsender.model.letter import Letter, Origin
from mailsender.model.text import PIECE
from tests.signing import ED25519, both, key, signatures, verified

NOW = datetime.now(UTC).replace(microsecond=0)
LIMITS = Limits(senders=Senders.of(["example.test", "example.org", "shop.example.org", "почта.рф"]))
PLAIN = LetterComposer("Робот", "robot@example.test")
TEST, ORG = both("example.test"), both("example.org")
SIGNING = SigningComposer(PLAIN, "robot@example.test", SigningKeys([*TEST, *ORG]))


def letter(body: str = "<p>Привет,  мир</p>\n\n", **keys: Any) -> Letter:
    element = {"Addresses": ["a@example.com"], "Subject": "Тема", "Body": body, **keys}
    made = read_letter(
        element, Origin(topic="in", partition=0, offset=1, index=0, timestamp=2), None, LIMITS, now=NOW
    )
    assert not made.reason
    return made


def composed(each: Letter, composer: SigningComposer | LetterComposer = SIGNING, **options: Any) -> bytes:
    made = composer.compose(each, **{"eight_bit": True, "date": NOW, "contents": CONTENTS, **options})
    return made if isinstance(made, bytes) else b"".join(made)


@pytest.mark.parametrize(
    "body", ["", "<p>Hi</p>", "Привет,  мир \t\r\n\r\n", "x" * 2000, "ж\n" * PIECE, "a  b\n" * PIECE]
)
def test_a_plain_letter_is_the_same_behind_its_signatures(body: str) -> None:
    message = composed(letter(body))
    assert verified(message, TEST) == [True, True]
    assert message.endswith(b"\r\n" + composed(letter(body), PLAIN, eight_bit=False))
    assert message.isascii(), "a relay without 8BITMIME must have nothing to encode"
    assert {each["d"] for each in signatures(message)} == {"example.test"}


def test_a_letter_whose_domain_has_no_key_goes_out_as_before() -> None:
    others = SigningComposer(PLAIN, "robot@example.test", SigningKeys(ORG))
    assert composed(letter(), others) == composed(letter(), PLAIN)


FILE, LARGE = bytes(range(256)) * 400, bytes(range(256)) * 6000
CONTENTS = {ref_of(each): Base64.of([each]) for each in (FILE, LARGE)}

FULL: dict[str, Any] = {
    "From": "Отдел <billing@example.org>",
    "ReplyTo": "help@example.org",
    "To": ["Анна <anna@example.com>"],
    "TextBody": "Здравствуйте\n",
    "Attachments": [{"Name": "Счёт.pdf", "Content": b64encode(FILE).decode()}],
    "Headers": {"X-Campaign": "spring  sale"},
    "ListUnsubscribe": {"URL": "https://example.org/u/1", "Mail": "leave@example.org"},
    "References": ["<a@example.com>", "<b@example.com>"],
}


def test_a_letter_with_all_there_is_is_signed_for_its_own_sender() -> None:
    message = composed(letter(**FULL))
    assert verified(message, ORG) == [True, True]
    assert message.isascii()
    for each in signatures(message):
        assert each["d"] == "example.org"
        covered = each["h"].split(":")
        for name in ("From", "To", "Subject", "List-Unsubscribe", "List-Unsubscribe-Post", "References"):
            assert covered.count(name) == 2, "nobody can add another one"


def test_a_long_message_is_signed_in_pieces_that_others_share() -> None:
    each = letter(Attachments=[{"Name": "a.bin", "Content": b64encode(LARGE).decode()}])
    made = SIGNING.compose(each, eight_bit=True, date=NOW, contents=CONTENTS)
    assert isinstance(made, tuple)
    assert any(piece is CONTENTS[ref_of(LARGE)].pieces[0] for piece in made)
    assert verified(b"".join(made), TEST) == [True, True]


@pytest.mark.parametrize(
    ("sender", "signed_by"),
    [
        ("a@example.test", "example.test"),
        ("a@shop.example.org", "example.org"),  # the nearest above
        ("a@почта.рф", ""),
    ],
)
def test_the_author_decides_whose_keys_sign(sender: str, signed_by: str) -> None:
    message = composed(letter(From=sender))
    assert {each["d"] for each in signatures(message)} == ({signed_by} if signed_by else set())


def test_a_name_alone_changes_no_domain() -> None:
    message = composed(letter(FromName="Служба"))
    assert verified(message, TEST) == [True, True]


def test_each_message_of_a_personal_letter_is_signed() -> None:
    each = letter(Personal=True, Addresses=["a@example.com", "b@example.com"])
    first, second = (composed(each, person=person) for person in each.addresses)
    assert verified(first, TEST) == verified(second, TEST) == [True, True]
    assert [tags["b"] for tags in signatures(first)] != [tags["b"] for tags in signatures(second)]


def test_an_internationalized_domain_signs_by_its_a_labels() -> None:
    own = key("почта.рф", "s1")
    message = composed(
        letter(From="a@почта.рф"), SigningComposer(PLAIN, "robot@example.test", SigningKeys([own]))
    )
    assert verified(message, [own]) == [True]
    assert signatures(message)[0]["d"] == "xn--80a1acny.xn--p1ai"


def test_headers_beyond_ascii_are_signed_as_they_are() -> None:
    message = composed(letter(ReplyTo="почта@example.com"), smtputf8=True)
    assert "почта@example.com".encode() in message
    assert verified(message, TEST) == [True, True]


def test_what_changes_a_signed_message_is_found() -> None:
    message = composed(letter())
    assert verified(message.replace(b"\r\n\r\n", b"\r\n\r\nmore", 1), TEST) == [False, False]
    assert verified(message.replace(b"\r\nFrom:", b"\r\nFrom: eve@example.net\r\nFrom:", 1), TEST) == [
        False,
        False,
    ]


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was signed, in order."""
    seen: list[bytes] = []
    made = SigningKey.signature

    def signature(self: SigningKey, data: bytes) -> bytes:
        seen.append(data)
        return made(self, data)

    monkeypatch.setattr(SigningKey, "signature", signature)
    return seen


def test_the_parts_of_a_letter_share_their_signature(operations: list[bytes]) -> None:
    composer = SigningComposer(PLAIN, "robot@example.test", SigningKeys([key("example.test", "s1")]))
    first, other = letter(), letter("other")
    messages = [composed(each, composer) for each in (first, other, first, other)]
    assert len(operations) == 2
    assert messages[0] == messages[2]
    assert messages[1] == messages[3]
    later = composed(first, composer, date=NOW + timedelta(seconds=1))
    assert len(operations) == 3, "its Date is another"
    assert verified(later, [key("example.test", "s1")]) == [True]


def test_the_time_of_signing_is_that_of_its_date() -> None:
    (tags, _) = signatures(composed(letter()))
    assert int(tags["t"]) == int(NOW.timestamp())


def test_a_message_that_cannot_be_made_says_why() -> None:
    with pytest.raises(ValueError, match="subject"):
        composed(letter().evolve(subject="a\r\nb"))


def test_beside_the_operation_of_the_key_it_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 0.4 ms for a letter of 10 KB, the best of some tries: others use the machine, too."""
    monkeypatch.setattr(SigningKey, "signature", lambda *_: bytes(256))
    composer = SigningComposer(PLAIN, "robot@example.test", SigningKeys([key("example.test", "s1", ED25519)]))
    each = letter("<p>Hello,  dear reader of letters</p>\n" * 270)

    def seconds(by: SigningComposer | LetterComposer, date: datetime) -> float:
        begun = time.perf_counter()
        composed(each, by, date=date, eight_bit=False)
        return time.perf_counter() - begun

    dates = [NOW + timedelta(seconds=number) for number in range(100)]
    signing = min(seconds(composer, date) for date in dates)
    plain = min(seconds(PLAIN, date) for date in dates)
    print(f"signed {signing * 1e6:.0f} µs, plain {plain * 1e6:.0f} µs")
    assert signing - plain < 0.0004


def test_no_signature_shows_in_what_is_told_of_keys() -> None:
    assert not re.search(r"private|PRIVATE", repr(TEST[0]))


def test_large_headers_are_not_kept_with_their_signatures() -> None:
    composer = SigningComposer(PLAIN, "robot@example.test", SigningKeys(TEST))
    composed(letter(), composer)
    large = composed(letter(Headers={f"X-Number-{n}": "ж" * 1000 for n in range(20)}), composer)
    assert verified(large, TEST) == [True, True]
    assert composer._signature.cache_info().currsize == 1
