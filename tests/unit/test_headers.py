from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import collapse_rfc2231_value

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsender.message.compose import BadHeader
from mailsender.message.fields import MAX_WORD, parameter, parameter_for_old_readers, text_field
from mailsender.message.headers import (
    MAX_FIELD,
    MAX_FURTHER,
    MAX_IDS,
    MAX_NAME,
    MAX_VALUE,
    REPEATABLE,
    Further,
    Head,
    Mailbox,
    Unsubscribe,
    parse_mailbox,
)
from mailsender.model.address import BadAddress, parse_address
from mailsender.model.text import header_fault

DATE = datetime(2026, 3, 1, 9, 8, 7, tzinfo=UTC)
NEWS = parse_mailbox("news@example.org")
MESSAGE_ID = "<a@example.org>"
HEADER = st.text(st.characters(exclude_categories=("Cs",)), max_size=300).filter(
    lambda text: header_fault(text) is None
)


def written(head: Head, name: str) -> bytes:
    [raw] = [each.raw for each in head.fields(DATE, MESSAGE_ID) if each.name == name]
    return raw


def names(head: Head) -> list[str]:
    return [each.name for each in head.fields(DATE, MESSAGE_ID)]


def read(raw: bytes) -> EmailMessage:
    parsed = message_from_bytes(raw + b"\r\n", policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


# --- mailboxes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("ann@example.org", "", "ann@example.org"),
        ("<ann@example.org>", "", "ann@example.org"),
        ("Ann <ann@example.org>", "Ann", "ann@example.org"),
        ("Ann<ann@example.org>", "Ann", "ann@example.org"),
        ('"Doe, Ann" <ann@example.org>', "Doe, Ann", "ann@example.org"),
        (r'"Ann \"A.\" \\" <ann@example.org>', 'Ann "A." \\', "ann@example.org"),
        ('Ann "A." Doe <ann@example.org>', 'Ann "A." Doe', "ann@example.org"),
        ("Doe, Ann <x> <ann@example.org>", "Doe, Ann <x>", "ann@example.org"),
        ("Анна <x@почта.рф>", "Анна", "x@xn--80a1acny.xn--p1ai"),
        ("a..b@docomo.example", "", '"a..b"@docomo.example'),
        ('"ann@example.org, Bob" <ann@example.org>', "ann@example.org, Bob", "ann@example.org"),
        ("ann@example.org <ann@example.org>", "ann@example.org", "ann@example.org"),
        ("Shop @ Home, Inc. <ann@example.org>", "Shop @ Home, Inc.", "ann@example.org"),
    ],
)
def test_a_mailbox_is_an_address_with_or_without_a_name(text: str, name: str, address: str) -> None:
    mailbox = parse_mailbox(text)
    assert (mailbox.name, mailbox.address.wire) == (name, address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Ann", "Ann <>", "<ann>", "a@b.c, d@e.f", "Ann <a@b.c>, d@e.f", "Ann <a@b.c> x", "G:a@b.c;"),
        *("Ann <a@b.c>, Bob <d@e.f>", "a@b.c, Bob <d@e.f>", "Ann <a@b.c>; Bob <d@e.f>", "a@b.c ,<d@e.f>"),
    ],
)
def test_what_is_no_single_mailbox_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_mailbox(text)


@pytest.mark.parametrize("name", ["a\r\nBcc: x@y.z", "a\nb", "a\0", "a\u2028", "\ud800", "\x85"])
def test_a_name_that_could_end_its_header_is_refused(name: str) -> None:
    with pytest.raises(BadHeader, match="the name holds"):
        Mailbox(name, NEWS.address)
    with pytest.raises(BadHeader, match="the name holds"):
        parse_mailbox(f"{name} <a@b.example>")


def test_a_list_of_mailboxes_has_one_on_each_line() -> None:
    head = Head(
        author=NEWS, to=(parse_mailbox("Doe, Ann <ann@example.org>"), parse_mailbox("bob@example.org"))
    )
    assert written(head, "To") == b'To: "Doe, Ann"\r\n <ann@example.org>,\r\n bob@example.org\r\n'


def test_a_sender_stands_only_where_it_is_another_than_the_author() -> None:
    assert "Sender" not in names(Head(author=NEWS, sender=NEWS))
    head = Head(author=NEWS, sender=parse_mailbox("Robot <robot@example.org>"))
    assert written(head, "Sender") == b"Sender: Robot\r\n <robot@example.org>\r\n"


def test_without_to_nobody_is_shown() -> None:
    head = Head(author=NEWS, cc=(parse_mailbox("ann@example.org"),))
    assert written(head, "To") == b"To: undisclosed-recipients:;\r\n"
    assert written(head, "Cc") == b"Cc: ann@example.org\r\n"


# --- free text -----------------------------------------------------------------------------------


@given(HEADER)
@example("word " * 60 + "x" * 300 + " end")
@example("two  spaces " * 12)
@example('{"a": "' + "b" * 950 + '"}')
@example("😀" * 100)
@example("x" * 75 + " =?utf-8?Q?x?=")
def test_free_text_reads_back_from_short_lines(text: str) -> None:
    raw = text_field("X-Campaign", text).raw
    assert str(read(raw)["X-Campaign"]) == text.strip(" ")
    for line in raw.removesuffix(b"\r\n").split(b"\r\n"):
        assert len(line) <= 78 or b" " not in re.sub(
            rb"  +", b"", line.removeprefix(b"X-Campaign: ").lstrip()
        )
        for word in re.findall(rb"=\?utf-8\?B\?[^?]*\?=", line):
            assert len(word) <= 75
            assert b64decode(word[10:-2]).decode()  # raises where a character was split


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Новости <news.example.org>", "=?utf-8?B?0J3QvtCy0L7RgdGC0Lg=?= <news.example.org>"),
        ("x Ж y Ж z", "x =?utf-8?B?0JYgeSDQlg==?= z"),
        ("a =?x?= b", "a =?utf-8?B?PT94Pz0=?= b"),
        ("a  Ж  b", "=?utf-8?B?YSAg0JYgIGI=?="),
    ],
)
def test_words_that_are_ascii_stay_as_they_are(text: str, written: str) -> None:
    assert text_field("List-Id", text).raw == f"List-Id: {written}\r\n".encode()


def test_a_word_for_a_program_stays_whole() -> None:
    url = "https://example.org/" + "x" * 800
    assert text_field("X-Url", f"see {url} now").raw == f"X-Url: see\r\n {url}\r\n now\r\n".encode()


def test_an_empty_value_may_stand() -> None:
    assert text_field("X-Y", " ").raw == b"X-Y:\r\n"


# --- further headers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("Bcc", "BCC", "bcc", "Date", "Message-ID", "Received", "Return-Path", "Delivered-To"),
        *("MIME-Version", "mime-anything", "Content-Type", "CONTENT-TRANSFER-ENCODING", "Content-X"),
        *("Resent-To", "Resent-Anything", "DKIM-Signature", "ARC-Seal", "Authentication-Results"),
        *("X-SMTPAPI", "X-MSYS-API", "X-MC-BccAddress", "Apparently-To", "X-BCC", "X-Original-To"),
        *("X-Gm-Original-To", "X-Envelope-To", "TLS-Required", "Errors-To", "Return-Receipt-To"),
        *("X-SES-SOURCE-ARN", "x-ses-from-arn", "X-SES-RETURN-PATH-ARN", "X-SES-LIST-MANAGEMENT-OPTIONS"),
        *(
            "X-Mailgun-Drop-Message",
            "X-Mailgun-Recipient-Variables",
            "X-Mailgun-Deliver-By",
            "X-Mailgun-Dkim",
        ),
        *("X-PM-Message-Stream", "X-PM-TrackLinks", "X-MC-Template", "X-MC-SendAt", "X-MJ-TemplateID"),
        *("X-Mailjet-DeduplicateCampaign", "X-Sib-Sandbox", "X-MQ-Envelope", "X-Virtual-MTA"),
        *("X-GreenArrow-MtaID", "X-MS-Exchange-Organization-SCL", "X-SMTPeter-Tags"),
    ],
)
def test_headers_that_are_not_a_publishers_are_refused(name: str) -> None:
    with pytest.raises(BadHeader, match=f"the header {name} cannot be set"):
        Further(name, "x")


@pytest.mark.parametrize(
    "name",
    [
        *("X-SES-CONFIGURATION-SET", "x-ses-message-tags", "X-Mailgun-Tag", "X-Mailgun-Variables"),
        *("X-PM-Tag", "X-PM-Metadata-Order", "X-MC-Tags", "X-MC-Metadata", "X-MJ-CustomID", "X-Mailin-Tag"),
        *("Disposition-Notification-To", "Precedence", "X-Priority", "List-Id", "Feedback-ID", "X-Mailer"),
    ],
)
def test_labels_of_providers_and_what_mail_programs_read_are_taken(name: str) -> None:
    assert Further(name, "x").name == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("To", "To"),
        ("CC", "Cc"),
        ("from", "From"),
        ("Sender", "Sender"),
        ("reply-to", "ReplyTo"),
        ("Subject", "Subject"),
        ("List-Unsubscribe-Post", "ListUnsubscribe"),
        ("In-Reply-To", "InReplyTo"),
    ],
)
def test_a_header_with_a_key_of_its_own_names_it(name: str, key: str) -> None:
    with pytest.raises(BadHeader, match=f"has a key of its own, {key}$"):
        Further(name, "x")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "X Y",
        "X:",
        "X\r\nBcc",
        "X\n",
        "Ж",
        "X(y)",
        'X"',
        "X\0",
        "x" * 51,
        "X/y",
        "X-.",
        "Mime_Version",
    ],
)
def test_what_is_no_name_of_a_header_is_refused(name: str) -> None:
    with pytest.raises(BadHeader, match="a header's name has"):
        Further(name, "x")


@pytest.mark.parametrize("value", ["a\r\nBcc: x", "a\rb", "a\nb", "a\tb", "a\0", "a\u2029", "\udc00"])
def test_a_value_that_could_end_its_header_is_refused(value: str) -> None:
    with pytest.raises(BadHeader, match="the header X-Y holds"):
        Further("X-Y", value)


def test_a_header_comes_again_only_where_it_may() -> None:
    once = (Further("List-Id", "a"), Further("list-id", "b"))
    with pytest.raises(BadHeader, match="the header list-id is there twice"):
        Head(author=NEWS, further=once)
    for name in (*REPEATABLE, "X-Tag"):
        assert names(Head(author=NEWS, further=(Further(name, "a"), Further(name, "b")))).count(name) == 2


# --- structured headers --------------------------------------------------------------------------


def test_references_are_folded_between_message_ids() -> None:
    ids = tuple(f"<{'a' * 30}.{number}@example.org>" for number in range(5))
    raw = written(Head(author=NEWS, references=ids, in_reply_to=ids[-1:]), "References")
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    assert raw.decode().replace("\r\n", "") == "References: " + " ".join(ids)


@pytest.mark.parametrize(
    "message_id",
    ["", "a@b", "<a@b", "<>", "<@>", "<a b@c>", "<a@b><c@d>", "<a@b>\r\nX: y", "<a@>", "<я@b>", "<a>"],
)
def test_what_is_no_message_id_is_refused(message_id: str) -> None:
    for name in ("in_reply_to", "references"):
        with pytest.raises(BadHeader, match="Message-ID that is not of the form"):
            Head(author=NEWS, **{name: (message_id,)})
    with pytest.raises(BadHeader, match="the header Message-ID has"):
        Head(author=NEWS).fields(DATE, message_id)


def test_only_another_programs_message_id_may_have_two_at_signs() -> None:
    assert Head(author=NEWS, references=("<a@b@c>",)).references == ("<a@b@c>",)
    with pytest.raises(BadHeader, match="the header Message-ID has"):
        Head(author=NEWS).fields(DATE, "<a@b@c>")


def test_words_of_a_few_are_all_that_some_headers_take() -> None:
    head = Head(author=NEWS, auto_submitted="auto-generated", importance="high")
    assert written(head, "Auto-Submitted") == b"Auto-Submitted: auto-generated\r\n"
    assert written(head, "Importance") == b"Importance: high\r\n"
    with pytest.raises(BadHeader, match="Auto-Submitted can only be auto-generated, auto-notified"):
        Head(author=NEWS, auto_submitted="yes")
    with pytest.raises(BadHeader, match="Importance can only be high, low, normal"):
        Head(author=NEWS, importance="HIGH")


@pytest.mark.parametrize(
    ("unsubscribe", "value", "one_click"),
    [
        (Unsubscribe("https://a.example/u?x=1,2;3"), "<https://a.example/u?x=1,2;3>", True),
        (Unsubscribe("HTTPS://a.example/"), "<HTTPS://a.example/>", True),
        (Unsubscribe("http://a.example/u"), "<http://a.example/u>", False),
        (Unsubscribe(mail=parse_address("leave+a%b@a.example")), "<mailto:leave+a%25b@a.example>", False),
        (
            Unsubscribe("https://a.example/", parse_address("leave@a.example")),
            "<https://a.example/>, <mailto:leave@a.example>",
            True,
        ),
    ],
)
def test_one_click_is_offered_by_https_alone(unsubscribe: Unsubscribe, value: str, one_click: bool) -> None:
    head = Head(author=NEWS, unsubscribe=unsubscribe)
    assert written(head, "List-Unsubscribe").decode() == f"List-Unsubscribe: {value}\r\n"
    assert ("List-Unsubscribe-Post" in names(head)) == one_click == unsubscribe.one_click
    if one_click:
        post = written(head, "List-Unsubscribe-Post")
        assert post == b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"


@pytest.mark.parametrize(
    "url",
    [
        *("a.example", "//a.example/", "ftp://a.example/", "javascript:alert(1)", "https://", "https:///x"),
        *("https://a.example/ж", "https://a.example/ x", "https://a.example/>,<mailto:x@y.z", "https://[a"),
        *("https://a.example/\r\nX: y", "https://a.example/{{token}}", "https://a.example/" + "x" * MAX_WORD),
    ],
)
def test_what_is_no_url_to_unsubscribe_at_is_refused(url: str) -> None:
    with pytest.raises(BadHeader, match="the unsubscription's URL"):
        Unsubscribe(url)


def test_an_unsubscription_needs_a_way() -> None:
    with pytest.raises(BadHeader, match="neither a URL nor an address"):
        Unsubscribe()


# --- parameters ----------------------------------------------------------------------------------


@given(HEADER.filter(bool))
@example("a" * 255)
@example("Ж" * 255)
@example("😀" * 255)
@example("a'b*c%d (e) ~`{|}^.txt")
@example("trailing space ")
def test_a_parameter_reads_back(value: str) -> None:
    raw = b"Content-Disposition: attachment" + parameter("filename", value) + b"\r\n"
    header = read(raw)["Content-Disposition"]
    assert header.params == {"filename": value}
    assert not header.defects
    old = message_from_bytes(raw + b"\r\n").get_param("filename", "", "Content-Disposition")
    assert collapse_rfc2231_value(old) == value
    for line in raw.split(b"\r\n"):
        assert len(line) <= 78 or b'filename="' in line
        assert len(line) <= 998


@given(HEADER.filter(bool))
def test_no_continuation_splits_a_character(value: str) -> None:
    for piece in re.findall(r"\*=(?:utf-8'')?([^;\r]*)", parameter("filename", value).decode()):
        octets = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), piece.encode())
        assert octets.decode()


@pytest.mark.parametrize("value", ["plain.pdf", "a b (c).pdf"])
def test_a_plain_name_is_the_same_for_all_readers(value: str) -> None:
    assert (
        parameter("name", value)
        == parameter_for_old_readers("name", value)
        == f';\r\n name="{value}"'.encode()
    )


def test_old_readers_get_encoded_words() -> None:
    assert parameter_for_old_readers("name", "Счёт.pdf") == b';\r\n name="=?utf-8?B?0KHRh9GR0YIucGRm?="'
    long = parameter_for_old_readers("name", "Ж" * 90)
    assert max(map(len, long.split(b"\r\n"))) <= 78


# --- bounds --------------------------------------------------------------------------------------


def test_there_may_be_so_much_of_each_and_no_more() -> None:
    largest = "😀" * MAX_NAME
    with pytest.raises(BadHeader, match=f"the name has {MAX_NAME + 1} characters"):
        Mailbox(largest + "a", NEWS.address)
    with pytest.raises(BadHeader, match=f"has {MAX_VALUE + 1} characters"):
        Further("X-Y", "a" * (MAX_VALUE + 1))
    with pytest.raises(BadHeader, match=f"the subject has {MAX_VALUE + 1} characters"):
        Head(author=NEWS, subject="a" * (MAX_VALUE + 1))
    with pytest.raises(BadHeader, match=f"has {MAX_FURTHER + 1} further headers"):
        Head(author=NEWS, further=(Further("X-Y", ""),) * (MAX_FURTHER + 1))
    with pytest.raises(BadHeader, match=f"References has {MAX_IDS + 1} Message-IDs"):
        Head(author=NEWS, references=("<a@b>",) * (MAX_IDS + 1))


@pytest.mark.parametrize("name", ["reply_to", "to", "cc"])
def test_people_may_be_shown_as_long_as_no_relay_cuts_their_header(name: str) -> None:
    few = tuple(parse_mailbox(f"reader{number}@example.org") for number in range(3000))
    Head(author=NEWS, **{name: few})
    with pytest.raises(BadHeader, match=r"would have \d+ octets; 100000 are allowed"):
        Head(author=NEWS, **{name: few + few})


def test_the_largest_that_is_allowed_stays_below_the_largest_header() -> None:
    mailbox = Mailbox("😀" * MAX_NAME, parse_address("a" * 60 + "@" + ".".join(["b" * 60] * 3) + ".example"))
    longest_id = f"<{'a' * (MAX_WORD - 4)}@b>"
    head = Head(
        author=mailbox,
        to=(mailbox,) * (MAX_FIELD // 2500),
        subject="😀" * MAX_VALUE,
        references=(longest_id,) * MAX_IDS,
        further=(
            Further("X-".ljust(50, "Y"), "😀" * MAX_VALUE),
            Further("X-".ljust(50, "Y"), "a" * MAX_WORD),
        ),
        unsubscribe=Unsubscribe("https://a.example/".ljust(MAX_WORD, "x")),
    )
    for each in head.fields(DATE, longest_id):
        assert len(each.raw) <= MAX_FIELD
        assert max(map(len, each.raw.split(b"\r\n"))) <= 998
