"""A letter's further keys: what is wrong with each, and the message that they make."""

from __future__ import annotations

import email
import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from typing import Any, cast

import pytest

from mailsender.intake import batch as intake_batch
from mailsender.intake.batch import MAX_FAULTS, faults, read_batch, read_letter
from mailsender.intake.schema import Limits, Senders
from mailsender.message.compose import Composer
from mailsender.message.composer import KEPT, LetterComposer, OnePersonsFault
from mailsender.message.mail import KEYS, Mail
from mailsender.message.mail import read as keys_read
from mailsender.message.parts import Base64
from mailsender.message.plain_text import plain_text
from mailsender.message.values import BadKey
from mailsender.model.blobs import ref_of
from mailsender.model.letter import Letter, Origin, Status
from mailsender.queue.mongo.bodies import _stripping
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import document_of
from mailsender.templates.compiled import Rendered

ORIGIN = Origin(topic="in", partition=0, offset=1, index=0, timestamp=2)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
LIMITS = Limits(senders=Senders.of(["robot@example.test", "example.org"]))
PDF = b"%PDF-1.7 \xff\x00 not really"

FULL: dict[str, Any] = {
    "From": "Отдел <billing@example.org>",
    "Sender": "robot@example.test",
    "ReplyTo": ["help@example.org", "Second <second@example.org>"],
    "ReversePath": "bounces@example.org",
    "To": ["Анна <anna@example.com>"],
    "Cc": ["cc@example.com"],
    "TextBody": "Здравствуйте",
    "Attachments": [
        {"Name": "Счёт.pdf", "ContentType": "application/pdf", "Content": b64encode(PDF).decode()},
        {
            "Name": "logo.png",
            "ContentType": "image/png",
            "Content": "AAEC",
            "Inline": True,
            "ContentID": "logo@x",
        },
    ],
    "Headers": {"X-Campaign": "spring", "Keywords": ["one", "two"]},
    "ListUnsubscribe": {"URL": "https://example.org/u/1", "Mail": "leave@example.org"},
    "InReplyTo": "<a@example.com>",
    "References": ["<a@example.com>", "<b@example.com>"],
    "AutoSubmitted": "auto-generated",
    "Importance": "high",
}


def taken(change: Mapping[str, Any], **plain: Any) -> Letter:
    element = {"Addresses": ["blind@example.com"], "Subject": "Тема", "Body": "<p>x</p>", **plain, **change}
    return read_letter(element, ORIGIN, None, LIMITS, now=NOW)


CONTENTS = {ref_of(each): Base64.of([each]) for each in (PDF, b"\x00\x01\x02")}


def message(letter: Letter, person: str = "") -> EmailMessage:
    made = LetterComposer("Robot", "robot@example.test").compose(
        letter, eight_bit=True, smtputf8=True, date=NOW, person=person, contents=CONTENTS
    )
    assert isinstance(made, bytes)
    return cast("EmailMessage", email.message_from_bytes(made, policy=policy.default))


def test_a_message_with_a_large_file_stays_in_pieces() -> None:
    large = b"x" * 2_000_000
    content = Base64.of([large])
    letter = taken({"Attachments": [{"Name": "a", "Ref": ref_of(large)}]})
    composer = LetterComposer("Robot", "robot@example.test")
    made = composer.compose(letter, eight_bit=False, date=NOW, contents={ref_of(large): content})
    assert isinstance(made, tuple)
    assert [id(each) for each in made if len(each) > 1000] == [id(each) for each in content.pieces]
    parsed = email.message_from_bytes(b"".join(made), policy=policy.default)
    (attached,) = cast("EmailMessage", parsed).iter_attachments()
    assert attached.get_payload(decode=True) == large


def test_a_message_is_not_made_without_its_files() -> None:
    letter = taken({"Attachments": [{"Name": "a", "Ref": ref_of(b"elsewhere")}]})
    with pytest.raises(ValueError, match="is not at hand"):
        message(letter)


def test_a_letter_with_all_of_them_becomes_a_message_with_all_of_them() -> None:
    letter = taken(FULL)
    assert letter.status is Status.AWAITING, letter.reason
    assert letter.addresses == ("blind@example.com", "anna@example.com", "cc@example.com")
    made = message(letter)
    assert made["From"] == "Отдел <billing@example.org>"
    assert made["To"] == "Анна <anna@example.com>"
    assert made["Cc"] == "cc@example.com"
    assert "blind@example.com" not in made.as_string()
    assert made["Reply-To"] == "help@example.org, Second <second@example.org>"
    assert made["Message-ID"] == f"<{letter.id}@example.org>"
    assert made["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert made["X-Campaign"] == "spring"
    assert made.get_all("Keywords") == ["one", "two"]
    kinds = [part.get_content_type() for part in made.walk()]
    assert kinds == [
        "multipart/mixed",
        "multipart/related",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
        "application/pdf",
    ]
    files = {
        part.get_filename(): part.get_payload(decode=True) for part in made.walk() if part.get_filename()
    }
    assert files == {"Счёт.pdf": PDF, "logo.png": b"\x00\x01\x02"}


def test_a_letter_with_the_originals_keys_alone_is_as_it_was() -> None:
    letter = taken({})
    assert letter.mail == ""
    plain = LetterComposer("Robot", "robot@example.test")
    original = Composer("Robot", "robot@example.test")
    assert plain.compose(letter, eight_bit=False, date=NOW) == original.compose(
        letter, eight_bit=False, date=NOW
    )


def test_what_a_letter_on_its_way_says_is_read_once_however_many_others_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A personal one of thousands has a message for each, and to read it takes a while."""
    composer, reads = LetterComposer("Robot", "robot@example.test"), 0

    def counted(keys: Mapping[str, Any]) -> Mail:
        nonlocal reads
        reads += 1
        return keys_read(keys)

    monkeypatch.setattr("mailsender.message.composer.read", counted)
    letter = taken({"Personal": True, "Addresses": [{"Address": "a@example.com", "Name": "A"}]})
    mail = composer.mail(letter)
    for number in range(2 * KEPT):
        composer.mail(taken({"Headers": {"X-Number": str(number)}}))
    before = reads
    assert composer.mail(letter) is mail
    assert reads == before
    del mail
    composer.mail(letter)
    assert reads == before + 1, "nothing is kept for who is gone"


def test_of_two_bad_letters_with_the_same_id_neither_gets_the_others_answer() -> None:
    """Nor does a good one that is published in place of a bad one."""
    bad, worse = taken({"From": "eve@example.net"}), taken({"Importance": "very"})
    assert bad.status is worse.status is Status.ERROR
    assert len({each.content for each in (bad, worse, taken({}), taken({"Importance": "low"}))}) == 4
    assert taken({"From": "eve@example.net"}).content == bad.content


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "value", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "9" * 4300, "-1e999"]
)
def test_nothing_under_a_further_key_stops_the_reading_of_a_batch(key: str, value: str) -> None:
    first = f'{{"Addresses":["a@example.com"],"{key}":{value}}}'
    batch = f'[{first},{{"Addresses":["b@example.com"]}}]'.encode()
    letters = list(read_batch(batch, None, LIMITS, origin=lambda _: ORIGIN, now=NOW))
    assert letters[-1].status is Status.AWAITING
    known = key not in {"Names", "VariablesOf", "UnsubscribeOf", "Pin"}
    assert letters[0].status is (Status.ERROR if known else Status.AWAITING)


def test_a_key_of_a_later_version_is_told_by_its_name() -> None:
    with pytest.raises(BadKey, match="Later is not known"):
        keys_read({"Later": 1})


@pytest.mark.parametrize("mail", ['{"Later":1}', '{"From":"x"}', "x"])
def test_a_letter_that_cannot_be_read_has_a_message_id_all_the_same(mail: str) -> None:
    """What a killed process left is settled by it: one letter must not keep the others from that."""
    letter = taken({}).evolve(mail=mail)
    assert LetterComposer("", "robot@example.test").message_id(letter) == f"<{letter.id}@example.test>"


def test_one_click_tells_which_recipient_of_a_personal_letter_leaves() -> None:
    people = [
        {"Address": "a@example.com", "ListUnsubscribe": {"URL": "https://example.com/u/a"}},
        {"Address": "b@example.com", "ListUnsubscribe": {"URL": "https://example.com/u/b"}},
        "c@example.com",
    ]
    common = {"ListUnsubscribe": {"URL": "https://example.com/u"}}
    letter = taken({"Personal": True, "Addresses": people, **common})
    assert not letter.reason
    said = {each: message(letter, each)["List-Unsubscribe"] for each in letter.addresses}
    assert said == {
        "a@example.com": "<https://example.com/u/a>",
        "b@example.com": "<https://example.com/u/b>",
        "c@example.com": "<https://example.com/u>",
    }
    assert "goes with Personal" in taken({"Addresses": people}).reason
    bad = [{"Address": "a@example.com"}, {"Address": "b@example.com", "ListUnsubscribe": {"Mail": "nobody"}}]
    assert "Addresses[1].ListUnsubscribe" in taken({"Personal": True, "Addresses": bad}).reason


def test_beside_which_address_something_is_wrong_takes_no_second_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings: list[Mapping[str, Any]] = []

    def counted(keys: Mapping[str, Any]) -> Mail:
        readings.append(keys)
        return keys_read(keys)

    monkeypatch.setattr(intake_batch, "read", counted)
    beside = {"Name": "n", "Variables": {"a": 1}, "ListUnsubscribe": {"URL": "https://example.com/u"}}
    wrong = {"Name": 7, "Variables": 7, "ListUnsubscribe": {"URL": 7}}
    people = [{"Address": f"a{n}@example.com", **beside} for n in range(50)]
    people.append({"Address": "z@example.com", **wrong})
    reason = taken({"Template": "t", "Personal": True, "Addresses": people}, Body="").reason
    assert reason.split("; ") == [
        "Addresses[50].Name must be a string, not a number",
        "Addresses[50].ListUnsubscribe must be a string, not a number",
        "Addresses[50].Variables must be an object, not a number",
    ]
    assert len(readings) == 1


def test_a_personal_letter_shows_each_recipient_alone() -> None:
    letter = taken(
        {"Personal": True},
        Addresses=["a@example.com", {"Address": "b@example.com", "Name": "Борис"}],
    )
    assert letter.addresses == ("a@example.com", "b@example.com")
    first, second = (message(letter, person) for person in letter.addresses)
    assert (first["To"], second["To"]) == ("a@example.com", "Борис <b@example.com>")
    assert "b@example.com" not in first.as_string()
    assert first["Message-ID"] != second["Message-ID"]


def test_a_text_alone_is_no_multipart() -> None:
    made = message(taken({"TextBody": "only this"}, Body=""))
    assert made.get_content_type() == "text/plain"
    assert made.get_content() == "only this\r\n"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"From": 7}, "From"),
        ({"From": "nobody"}, "From"),
        ({"From": "eve@example.net"}, "From"),
        ({"Sender": "eve@example.net"}, "Sender"),
        ({"ReversePath": "eve@example.net"}, "ReversePath"),
        ({"ReversePath": "Robot <robot@example.test>"}, "ReversePath"),
        ({"FromName": "a\r\nBcc: eve@example.net"}, "FromName"),
        ({"ReplyTo": [7]}, "ReplyTo[0]"),
        ({"To": "anna@example.com"}, "To"),
        ({"To": ["anna"]}, "To[0]"),
        ({"To": ["a@example.com"], "Personal": True}, "Personal"),
        ({"Personal": "yes"}, "Personal"),
        ({"TextBody": ["x"]}, "TextBody"),
        ({"TextBody": "\ud800"}, "TextBody"),
        ({"Attachments": {"Name": "a"}}, "Attachments"),
        ({"Attachments": [{"Content": "", "Ref": ""}, {"Ref": ""}]}, "Attachments[1]"),
        ({"Attachments": [{"Content": "?"}]}, "Attachments[0].Content"),
        ({"Attachments": [{"Contents": ""}]}, "Attachments[0]"),
        ({"Attachments": [{"ContentType": "x"}]}, "Attachments[0]"),
        ({"Attachments": [{}] * 101}, "Attachments"),
        ({"Calendar": {"Text": "BEGIN:VCALENDAR"}}, "Calendar"),
        ({"Headers": {"Bcc": "eve@example.net"}}, "Headers"),
        ({"Headers": {"X-A": "a\nB: c"}}, "Headers"),
        ({"Headers": {"X A": "a"}}, "Headers"),
        ({"Headers": {"X-A": 7}}, "Headers.X-A"),
        ({"Headers": {"eve@example.net": 7}}, "Headers"),
        ({"Headers": {"X-A": ["a"] * 51}}, "Headers"),
        ({"To": ["a@example.com"], "Addresses": "blind@example.com"}, "Addresses"),
        ({"To": ["a@example.com"], "Addresses": ["blind"]}, "Addresses[0]"),
        ({"Calendar": {"Text": "METHOD:REQUEST\n\ud800"}}, "Calendar"),
        ({"ReplyTo": "Ann <a@example.com>, Bob <b@example.com>"}, "ReplyTo"),
        ({"ListUnsubscribe": {"URL": "javascript:1"}}, "ListUnsubscribe"),
        ({"InReplyTo": "a"}, "InReplyTo"),
        ({"AutoSubmitted": "maybe"}, "AutoSubmitted"),
        ({"Importance": "very"}, "Importance"),
        ({"Addresses": [{"Address": "a@example.com", "Nmae": "A"}]}, "Addresses[0]"),
        ({"Addresses": [{"Address": "a@example.com", "Name": 7}]}, "Addresses[0].Name"),
        (
            {"Addresses": ["b@example.com", {"Address": "a@example.com", "Name": "a\nb"}]},
            "Addresses[1].Name",
        ),
        (
            {
                "Template": "t",
                "Body": "",
                "Personal": True,
                "Addresses": [
                    {"Address": "b@example.com", "Variables": {"a": 1}},
                    {"Address": "a@example.com", "Variables": 7},
                ],
            },
            "Addresses[1].Variables",
        ),
        ({"Addresses": [{"Address": "a@example.com", "Variables": {"a": 1}}]}, "Addresses"),
        ({"Template": 7, "Body": ""}, "Template"),
        ({"Variables": {"a": ""}}, "Variables"),
    ],
)
def test_what_no_message_can_be_made_of_is_an_error_that_names_the_key(
    change: dict[str, Any], field: str
) -> None:
    letter = taken(change)
    assert letter.status is Status.ERROR
    assert letter.reason.startswith(f"{field} "), letter.reason
    assert "eve@" not in letter.reason
    element = {"Addresses": ["a@example.com"], **change}
    assert [each.field for each in faults([element], LIMITS)] == [field]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (
            {"attachments": [{"name": "a.pdf", "CONTENT": "AAEC", "contentid": "x"}]},
            {"Attachments": [{"Name": "a.pdf", "Content": "AAEC", "ContentID": "x"}]},
        ),
        ({"DSN": {"notify": ["NEVER"], "envId": "1"}}, {"DSN": {"Notify": ["NEVER"], "EnvID": "1"}}),
        (
            {"Calendar": {"text": "METHOD:REQUEST", "method": "request"}},
            {"Calendar": {"Text": "METHOD:REQUEST", "Method": "request"}},
        ),
        (
            {"ListUnsubscribe": {"url": "https://example.org/u"}},
            {"ListUnsubscribe": {"URL": "https://example.org/u"}},
        ),
        ({"ListUnsubscribe": {"url": "", "Mail": None}}, {}),
        (
            {
                "Personal": True,
                "Addresses": [
                    {
                        "address": "blind@example.com",
                        "name": "Анна",
                        "listUnsubscribe": {"url": "https://example.org/u"},
                    }
                ],
            },
            {
                "Personal": True,
                "Addresses": [
                    {
                        "Address": "blind@example.com",
                        "Name": "Анна",
                        "ListUnsubscribe": {"URL": "https://example.org/u"},
                    }
                ],
            },
        ),
    ],
)
def test_keys_within_a_key_match_without_regard_to_case(
    written: dict[str, Any], meant: dict[str, Any]
) -> None:
    before = json.dumps(written)
    letter = taken(written)
    assert (letter.status, letter.reason) == (Status.AWAITING, "")
    assert letter.mail == taken(meant).mail
    assert json.dumps(written) == before


def test_a_calendar_has_the_method_of_its_text() -> None:
    found = taken({"Calendar": {"Text": "BEGIN:VCALENDAR\r\nmethod:cancel\r\nEND:VCALENDAR\r\n"}})
    assert json.loads(found.mail)["Calendar"]["Method"] == "CANCEL"
    both = {"Calendar": {"Text": "BEGIN:VCALENDAR\r\nMETHOD:CANCEL\r\n", "Method": "REQUEST"}}
    assert "METHOD:CANCEL, and not REQUEST" in taken(both).reason


@pytest.mark.parametrize(
    "way", ["mailto:leave@example.com", "leave@example.com?subject=out", "MAILTO:a@b.test"]
)
def test_the_way_to_leave_by_mail_is_an_address_alone(way: str) -> None:
    reason = taken({"ListUnsubscribe": {"Mail": way}}).reason
    assert reason == "ListUnsubscribe.Mail must be the address alone, without mailto: and what follows a ?"
    assert taken({"ListUnsubscribe": {"Mail": "a?b@example.com"}}).status is Status.AWAITING


def test_names_that_are_the_publishers_own_stay_as_they_are() -> None:
    keys = {"Headers": {"x-NAME": "1"}, "Template": "t", "Personal": True, "Variables": {"name": "a"}}
    own = {"Addresses": [{"Address": "a@example.com", "Variables": {"address": "b", "url": 1}}]}
    kept = json.loads(taken({**keys, **own}, Body="").mail)
    assert (kept["Headers"], kept["Variables"]) == ({"x-NAME": ["1"]}, {"name": "a"})
    assert kept["VariablesOf"] == {"a@example.com": {"address": "b", "url": 1}}


def test_all_that_is_wrong_with_a_letter_is_told() -> None:
    wrong = {
        "From": "eve@example.net",
        "FromName": 7,
        "To": ["anna"],
        "Attachments": [{"Content": "?"}],
        "Importance": "very",
        "Subject": "a\nb",
    }
    named = {each.field for each in faults([{"Addresses": ["a@example.com"], **wrong}], LIMITS)}
    assert named == {"FromName", "To[0]", "Attachments[0].Content", "Importance", "Subject"}
    reason = taken({**wrong, "Addresses": ["one"], "Lang": "?"}).reason
    assert reason.count("; ") == MAX_FAULTS
    assert reason.endswith("; and 1 more")


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"To": ["anna"], "Addresses": None}, ["To[0]"]),
        ({"FromName": 7, "Addresses": None}, ["FromName", "Addresses"]),
        ({"FromName": 7, "Addresses": ["a"]}, ["FromName", "Addresses[0]"]),
        (
            {"Addresses": [{"Address": "a@example.com", "Nmae": "A"}], "Subject": 1},
            ["Addresses[0]", "Subject"],
        ),
        (
            {"Personal": True, "To": ["a@example.com"], "Variables": {"a": 1}, "Lang": "ru"},
            ["Personal", "Variables", "Lang"],
        ),
        ({"From": "e@example.net", "Sender": "e@example.net"}, ["From", "Sender"]),
    ],
)
def test_no_fault_is_told_that_another_one_makes(change: dict[str, Any], fields: list[str]) -> None:
    element = {"Addresses": ["a@example.com"], **change}
    assert [each.field for each in faults([element], LIMITS)] == fields


@pytest.mark.parametrize(
    "change",
    [
        *(
            {key: ""}
            for key in ("From", "FromName", "Sender", "ReplyTo", "ReversePath", "TextBody", "Template")
        ),
        *({key: ""} for key in ("Lang", "InReplyTo", "References", "AutoSubmitted", "Importance")),
        *({key: []} for key in ("To", "Cc", "ReplyTo", "Attachments", "References", "Headers", "Variables")),
        *({key: {}} for key in ("ListUnsubscribe", "Calendar", "DSN", "Headers", "Variables")),
        {"ListUnsubscribe": {"URL": "", "Mail": None}},
        {"Calendar": {"Text": "", "Method": ""}},
        {"DSN": {"Notify": None, "Ret": "", "EnvID": ""}},
        {"Addresses": [{"Address": "blind@example.com", "Name": "", "Variables": {}}]},
    ],
)
def test_what_says_nothing_is_as_if_it_were_not_there(change: Mapping[str, Any]) -> None:
    letter = taken(change)
    assert (letter.status, letter.reason, letter.mail) == (Status.AWAITING, "", "")
    assert faults([{"Addresses": ["a@example.com"], **change}], LIMITS) == []


def test_what_says_nothing_within_an_object_is_not_there_either() -> None:
    letter = taken(
        {
            "Attachments": [
                {
                    "Name": "a",
                    "ContentType": "",
                    "Content": "AAEC",
                    "Ref": "",
                    "ContentID": "",
                    "Inline": False,
                },
                {"Name": "b", "Content": "", "Ref": ref_of(PDF)},
            ],
            "ListUnsubscribe": {"URL": "https://example.org/u", "Mail": ""},
            "DSN": {"Notify": [], "Ret": "HDRS", "EnvID": ""},
            "Calendar": {"Text": "METHOD:REQUEST", "Method": ""},
        }
    )
    assert letter.status is Status.AWAITING, letter.reason
    made = message(letter)
    assert [part.get_payload(decode=True) for part in made.iter_attachments()] == [b"\x00\x01\x02", PDF]
    assert made["List-Unsubscribe"] == "<https://example.org/u>"


@pytest.mark.parametrize("lines", ["{}\n{}", "{}\r\n{}\r\n", "\n{}{}"])
def test_a_content_may_have_line_breaks_as_many_encoders_write_them(lines: str) -> None:
    coded = b64encode(PDF).decode()
    content = lines.format(coded[:8], coded[8:])
    letter = taken({"Attachments": [{"Name": "a.pdf", "Content": content}]})
    assert letter.status is Status.AWAITING, letter.reason
    assert json.loads(letter.mail)["Attachments"][0]["Ref"] == ref_of(PDF)


@pytest.mark.parametrize("content", ["AA EC", "AAEC\t", "AAE", "data:;base64,AAEC", "AA-_", "A" * 5])
def test_what_is_no_base64_is_told(content: str) -> None:
    letter = taken({"Attachments": [{"Name": "a.pdf", "Content": content}]})
    assert letter.reason == "Attachments[0].Content is no base64 (RFC 4648 §4)"


def test_a_content_id_may_come_in_angle_brackets() -> None:
    image = {"Name": "l.png", "Content": "AAEC", "Inline": True, "ContentID": "<logo@x>"}
    part = next(each for each in message(taken({"Attachments": [image]})).walk() if each["Content-ID"])
    assert part["Content-ID"] == "<logo@x>"
    for wrong in ("<logo", "logo>", "<>", "<<logo>>", "lo go"):
        assert "Attachments[0]" in taken({"Attachments": [{**image, "ContentID": wrong}]}).reason


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("Receipt.PDF", "", "application/pdf"),
        ("a.png", "", "image/png"),
        ("a.pdf", "application/x-own", "application/x-own"),
        ("a.csv", "", "application/octet-stream"),  # a text of whose charset nothing is known
        ("a.eml", "", "application/octet-stream"),
        ("a.pdf.gz", "", "application/octet-stream"),
        ("pdf", "", "application/octet-stream"),
        ("", "", "application/octet-stream"),
    ],
)
def test_without_a_type_a_file_has_that_of_its_name(name: str, given: str, kind: str) -> None:
    file = {"Name": name, "ContentType": given, "Content": b64encode(PDF).decode()}
    (part,) = message(taken({"Attachments": [file]})).iter_attachments()
    assert part.get_content_type() == kind


def test_a_name_is_composed_as_systems_other_than_apples_show_it() -> None:
    decomposed = "и\u0306 u\u0308 \u1112\u1161\u11ab.bin"
    file = {"Name": decomposed, "Content": b64encode(PDF).decode()}
    (part,) = message(taken({"Attachments": [file]})).iter_attachments()
    assert part.get_filename() == "й ü 한.bin"


def test_a_message_id_of_outlook_can_be_answered() -> None:
    made = message(taken({"InReplyTo": "<foo$@local@example.com>", "References": ["<!&!AAA@x>"]}))
    assert (made["In-Reply-To"], made["References"]) == ("<foo$@local@example.com>", "<!&!AAA@x>")


def test_an_address_to_leave_at_is_told_by_its_place() -> None:
    reason = taken({"ListUnsubscribe": {"Mail": "leave at example.org"}}).reason
    assert reason.startswith("ListUnsubscribe.Mail is no address")


def test_an_empty_text_beside_html_is_no_part() -> None:
    assert message(taken({"TextBody": "", "Importance": "low"})).get_content_type() == "text/html"


def test_a_calendars_method_may_be_in_small_letters() -> None:
    letter = taken({"Calendar": {"Text": "BEGIN:VCALENDAR\nMETHOD:REQUEST\n", "Method": "request"}})
    part = next(each for each in message(letter).walk() if each.get_content_subtype() == "calendar")
    assert part["Content-Type"].params["method"] == "REQUEST"


@pytest.mark.parametrize(("key", "header"), [("InReplyTo", "In-Reply-To"), ("References", "References")])
def test_a_bad_message_id_is_told_by_the_header_it_is_for(key: str, header: str) -> None:
    assert f"the header {header} has a Message-ID" in taken({key: "<x>"}).reason


WITH_TEXT = LetterComposer("Robot", "robot@example.test", text_of=plain_text)


def read(octets: bytes | tuple[bytes, ...]) -> EmailMessage:
    assert isinstance(octets, bytes)
    return cast("EmailMessage", email.message_from_bytes(octets, policy=policy.default))


def test_a_text_part_is_made_of_html_that_has_none_beside_it() -> None:
    letter = taken({}, Body='<p>Hello, <a href="https://example.org/?a=1&amp;copy=2">Анна</a>')
    made = read(WITH_TEXT.compose(letter, eight_bit=True, date=NOW))
    text, html = made.iter_parts()
    assert [made.get_content_type(), text.get_content_type(), html.get_content_type()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]
    assert text.get_content() == "Hello, Анна <https://example.org/?a=1&copy=2>\r\n"
    assert html.get_content().rstrip() == letter.body
    plain = message(letter)
    for name in ("Date", "From", "To", "Subject", "Message-ID"):
        assert made[name] == plain[name]


def test_a_text_of_the_publishers_own_stays() -> None:
    letter = taken({"TextBody": "own"})
    made = read(WITH_TEXT.compose(letter, eight_bit=True, date=NOW))
    assert next(made.iter_parts()).get_content() == "own\r\n"


@pytest.mark.parametrize("body", ["", "<img src=a.png>", "x" * 300_000, "<div>" * 200 + "x"])
def test_a_letter_of_whose_html_no_text_is_made_is_as_it_was(body: str) -> None:
    letter = taken({}, Body=body)
    original = Composer("Robot", "robot@example.test")
    assert WITH_TEXT.compose(letter, eight_bit=True, date=NOW) == original.compose(
        letter, eight_bit=True, date=NOW
    )


def test_what_is_made_for_one_recipient_has_a_text_part_too() -> None:
    class Made:
        def letter(self, subject: str, *layers: Mapping[str, Any]) -> Rendered:
            return Rendered("S", "<p>words</p>", None)

    letter = taken({"Personal": True})
    octets = WITH_TEXT.compose(letter, eight_bit=True, date=NOW, person="blind@example.com", filling=Made())
    assert next(read(octets).iter_parts()).get_content() == "words\r\n"


def test_a_recipient_whom_the_relay_cannot_be_shown_is_one_persons_fault() -> None:
    letter = taken({"Personal": True, "Addresses": ["иван@example.com", "anna@example.com"]})
    composer = LetterComposer("Robot", "robot@example.test")
    with pytest.raises(OnePersonsFault, match="needs SMTPUTF8"):
        composer.compose(letter, eight_bit=True, date=NOW, person="иван@example.com")
    assert composer.compose(letter, eight_bit=True, date=NOW, person="anna@example.com")


def test_a_sender_beyond_ascii_is_shown_as_without_a_text_part() -> None:
    made = LetterComposer("", "робот@example.test", text_of=plain_text).compose(
        taken({}), eight_bit=True, date=NOW
    )
    assert isinstance(made, bytes)
    assert "From: робот@example.test\r\n".encode() in made
    assert b"multipart/alternative" in made


def test_it_is_stored_and_read_back_and_makes_another_letter() -> None:
    letter = taken(FULL)
    document, size = document_of(letter, NOW)
    assert size > len(letter.mail)
    assert letter_of(document).mail == letter.mail
    assert json.loads(letter.mail).keys() == FULL.keys()
    assert document["blobs"] == [ref_of(PDF), ref_of(b"\x00\x01\x02")]
    assert "Content" not in json.loads(letter.mail)["Attachments"][0]
    assert taken({**FULL, "Importance": "low"}).content != letter.content


@pytest.mark.parametrize("mail", ["a@example.com", "[1]", "[" * 2000, '{"TextBody":"x"}'])
def test_whatever_a_document_has_for_further_keys_they_go_with_its_body(mail: str) -> None:
    """What looks after the queue must not end for one letter."""
    document, _ = document_of(taken({"TextBody": "y"}), NOW)
    update: Any = _stripping({**document, "mail": mail, "body_until": NOW})
    assert update._doc["$unset"].keys() == {"body_until", "blobs", "mail"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("TextBody", "ж" * 600), ("Calendar", {"Text": f"METHOD:REQUEST\r\n{'ж' * 600}", "Method": "REQUEST"})],
)
def test_a_text_may_have_as_many_bytes_as_a_body(key: str, value: Any) -> None:
    element = {"Addresses": ["a@example.com"], key: value}
    limits = Limits(body=1000)
    letter = read_letter(element, ORIGIN, None, limits, now=NOW)
    assert letter.status is Status.ERROR
    assert letter.reason.startswith(f"{key} has 12")
    assert letter.reason.endswith(" bytes; 1000 are allowed")
    assert read_letter(element, ORIGIN, None, LIMITS, now=NOW).status is Status.AWAITING


def test_what_another_programs_document_calls_mail_is_not_read() -> None:
    found = letter_of(
        {"_id": "x", "addresses": ["a@example.com"], "mail": "a@example.com", "status": "awaiting"}
    )
    assert found.mail == ""


@pytest.mark.parametrize(
    ("variables", "own", "code"),
    [
        ({"code": "638037"}, {}, "638037"),
        ({"code": 638037}, {}, "638037"),
        ({"code": "A1B2"}, {}, "A1B2"),
        ({"code": "638037"}, {"code": "111111"}, "111111"),
        ({"code": "638037"}, {"name": "Ann"}, "638037"),
        ({"code": "EUR"}, {}, ""),
        ({"code": "SUMMER"}, {}, ""),
        ({"code": ["638037"]}, {}, ""),
        ({"code": "6 "}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_the_code_that_a_letter_brings(variables: dict[str, Any], own: dict[str, Any], code: str) -> None:
    found = keys_read(
        {"Template": "t", "Personal": True, "Variables": variables, "VariablesOf": {"a@b.test": own}}
    )
    assert found.code("a@b.test") == code
