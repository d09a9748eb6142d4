from __future__ import annotations

import json
import re
from datetime import timedelta
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.utils import collapse_rfc2231_value, getaddresses, parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsender.message import mime
from mailsender.message.compose import Composer
from mailsender.message.fields import Field
from mailsender.message.headers import Further, Head, Mailbox, Unsubscribe, parse_mailbox
from mailsender.message.mime import NeedsSmtputf8
from mailsender.message.parts import Attachment, Base64, Calendar, Content
from mailsender.model.letter import Letter, Recipient
from mailsender.smtp.commands import on_the_wire
from tests.messages import BODY, DATE, HEADER, MEANT, MESSAGE_ID, Meant, dump, person, tree

AUTHOR = parse_mailbox("Почта <news@example.org>")
HEAD = Head(author=AUTHOR, subject="Hi")
PDF = Attachment(name="Счёт.pdf", content_type="application/pdf", content=Base64.of([b"%PDF\0\xff" * 500]))
LOGO = Attachment(
    name="logo.png", content_type="image/png", content=Base64.of([b"png"]), inline=True, content_id="logo"
)
INVITATION = Calendar("BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n", "REQUEST")


def compose(content: Content, head: Head = HEAD, *, eight_bit: bool = True) -> bytes:
    return b"".join(composed(content, head, eight_bit=eight_bit).pieces())


def composed(content: Content, head: Head = HEAD, *, eight_bit: bool = True) -> mime.Message:
    return mime.compose(head, content, date=DATE, message_id=MESSAGE_ID, eight_bit=eight_bit)


def read(message: bytes) -> EmailMessage:
    parsed = message_from_bytes(message, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    for part in parsed.walk():
        assert not part.defects
    return parsed


def shape(part: Message[Any, Any]) -> Any:
    if part.is_multipart():
        return [part.get_content_subtype(), *map(shape, part.get_payload())]
    return part.get_filename() or part.get_content_subtype()


# --- the plain form ------------------------------------------------------------------------------


@given(display=HEADER, subject=HEADER, body=BODY, eight_bit=st.booleans())
@example(display="a" * 61, subject="word " * 40 + "end", body="--=_\n", eight_bit=True)
def test_a_letter_of_the_originals_keys_has_the_same_octets(
    display: str, subject: str, body: str, eight_bit: bool
) -> None:
    letter = Letter(
        id="6b03f03e1c3fe5165a363fce",
        addresses=("secret@recipient.example",),
        recipients=(Recipient(address="secret@recipient.example"),),
        subject=subject,
        body=body,
    )
    plain = Composer(display, "news@почта.рф")
    author = Mailbox(display, parse_mailbox("news@почта.рф").address)
    made = mime.compose(
        Head(author=author, subject=subject),
        Content(html=body),
        date=DATE,
        message_id=plain.message_id(letter),
        eight_bit=eight_bit,
    )
    expected = plain.compose(letter, eight_bit=eight_bit, date=DATE)
    assert b"".join(made.pieces()) == expected
    assert made.size == len(expected)
    assert made.eight_bit == (not expected.isascii())
    assert not made.smtputf8


# --- read back -----------------------------------------------------------------------------------


@given(MEANT)
def test_the_standard_library_reads_what_was_meant(meant: Meant) -> None:
    made = meant.composed()
    message = b"".join(made.pieces())
    assert_fit_for_the_wire(made)
    new, old = read(message), message_from_bytes(message)
    assert new.keys() == old.keys() == [each.name for each in made.fields]
    assert_same_people(old, meant.head)
    assert_same_headers(new, old, meant.head)
    for parsed in (new, old):
        assert parts(parsed) == tree(meant.content.tree())
    for part in new.walk():
        assert_no_defect_but_for_old_readers(part)


@given(meant=MEANT)
def test_what_was_meant_can_be_given_to_other_readers(tmp_path_factory: Any, meant: Meant) -> None:
    folder = tmp_path_factory.mktemp("meant")
    dump(meant, folder, "one")
    told = json.loads((folder / "one.json").read_text("utf-8"))
    assert told == meant.as_json()
    assert told["parts"] == parts(message_from_bytes((folder / "one.eml").read_bytes()))


def parts(part: Message[Any, Any]) -> dict[str, Any]:
    """What was read, in the form in which it was meant."""
    kind = part.get_content_type()
    if part.is_multipart():
        assert part["Content-Transfer-Encoding"] in {"7bit", "8bit"}
        return {"type": kind, "parts": [parts(each) for each in part.get_payload()]}
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    if part["Content-Disposition"] is None:
        return {"type": kind, "text": content.decode(), "method": part.get_param("method", "")}
    name = part.get_param("filename", "", "Content-Disposition")
    again = Attachment(
        # What is no tuple was unquoted already: once more, and a name in angle brackets would lose them.
        name=collapse_rfc2231_value(name) if isinstance(name, tuple) else name,
        content_type=kind,
        content=Base64.of([content]),
        inline=part.get_content_disposition() == "inline",
        content_id=str(part["Content-ID"] or "").strip("<>"),
    )
    return tree(again)


def assert_same_people(old: Message[str, str], head: Head) -> None:
    # Read by the older parser: the newer one leaves spaces between the encoded-words of a name.
    people = {"From": (head.author,), "Reply-To": head.reply_to, "To": head.to, "Cc": head.cc}
    for name, meant in people.items():
        found = [
            {"name": str(make_header(decode_header(shown))), "address": address}
            for shown, address in getaddresses(old.get_all(name, []))
        ]
        if name == "To" and not meant:
            assert old["To"] == "undisclosed-recipients:;"
        else:
            assert found == [person(each) for each in meant]
    assert ("Sender" in old) == (head.sender not in {None, head.author})


def assert_same_headers(new: EmailMessage, old: Message[str, str], head: Head) -> None:
    assert new["Subject"] == head.subject
    assert new["Message-ID"] == MESSAGE_ID
    assert parsedate_to_datetime(new["Date"]) == DATE
    assert (old["In-Reply-To"] or "").split() == list(head.in_reply_to)
    assert (old["References"] or "").split() == list(head.references)
    assert new.get("Auto-Submitted", "") == head.auto_submitted
    assert new.get("Importance", "") == head.importance
    for each in head.further:
        assert each.value.strip(" ") in new.get_all(each.name, [])
    if head.unsubscribe and head.unsubscribe.url:
        assert f"<{head.unsubscribe.url}>" in old["List-Unsubscribe"]


def assert_no_defect_but_for_old_readers(part: Message[Any, Any]) -> None:
    for name, value in part.items():
        defects = [str(each) for each in value.defects]
        if name == "Content-Type" and "name" in value.params:  # the name in encoded-words, for old readers
            defects = [each for each in defects if not re.search("encoded.word", each)]
        assert not defects


def assert_fit_for_the_wire(made: mime.Message) -> None:
    pieces = made.pieces()
    message = b"".join(pieces)
    assert made.size == len(message)
    assert made.eight_bit == (not message.isascii())
    for piece in pieces:
        assert piece.endswith(b"\r\n")
    assert b"\r" not in message.replace(b"\r\n", b"")
    assert b"\n" not in message.replace(b"\r\n", b"")
    assert b"\0" not in message
    assert max(map(len, message.split(b"\r\n"))) <= 998
    stuffed = b"".join([bytes(on_the_wire(piece, 0, len(piece))) for piece in pieces])
    assert stuffed == on_the_wire(message, 0, len(message))


# --- structure -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Content(), "html"),
        (Content(html="<p>"), "html"),
        (Content(text="x"), "plain"),
        (Content(calendar=INVITATION), "calendar"),
        (Content(text="x", html="<p>"), ["alternative", "plain", "html"]),
        (
            Content(calendar=INVITATION, html="<p>", text="x"),
            ["alternative", "plain", "html", "calendar"],
        ),
        (Content(attachments=(PDF,)), ["mixed", "html", "Счёт.pdf"]),
        (Content(html="<p>", attachments=(LOGO,)), ["related", "html", "logo.png"]),
        (Content(text="x", attachments=(LOGO,)), ["mixed", "plain", "logo.png"]),
        (
            Content(html="<p>", text="x", attachments=(PDF, LOGO)),
            ["mixed", ["related", ["alternative", "plain", "html"], "logo.png"], "Счёт.pdf"],
        ),
    ],
)
def test_parts_stand_as_mail_programs_expect(content: Content, expected: Any) -> None:
    assert shape(read(compose(content))) == expected


def test_a_message_with_everything_octet_for_octet() -> None:
    text = '<img src="cid:logo">'
    content = Content(text="Hi", html=text, calendar=INVITATION, attachments=(LOGO, PDF))
    head, _, body = compose(content).partition(b"\r\n\r\n")
    mixed, related, alternative = re.findall(rb'boundary="(.*)"', head + body)
    pdf = b"\r\n".join(PDF.content.pieces)
    assert (
        head
        == (
            b"Date: Sun, 01 Mar 2026 09:08:07 +0000\r\n"
            b"From: =?utf-8?B?0J/QvtGH0YLQsA==?=\r\n <news@example.org>\r\n"
            b"To: undisclosed-recipients:;\r\n"
            b"Subject: Hi\r\n"
            b"Message-ID: <6b03f03e1c3fe5165a363fce@example.org>\r\n"
            b"MIME-Version: 1.0\r\n"
            b'Content-Type: multipart/mixed;\r\n boundary="%b"\r\n'
            b"Content-Transfer-Encoding: 7bit"
        )
        % mixed
    )
    assert body == (
        b"--%(mixed)b\r\n"
        b'Content-Type: multipart/related; type="multipart/alternative";\r\n boundary="%(related)b"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n\r\n"
        b"--%(related)b\r\n"
        b'Content-Type: multipart/alternative;\r\n boundary="%(alternative)b"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n\r\n"
        b"--%(alternative)b\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\nHi\r\n"
        b"\r\n--%(alternative)b\r\n"
        b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
        b'<img src="cid:logo">\r\n'
        b"\r\n--%(alternative)b\r\n"
        b"Content-Type: text/calendar; charset=utf-8; method=REQUEST\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n\r\n"
        b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
        b"\r\n--%(alternative)b--\r\n"
        b"\r\n--%(related)b\r\n"
        b'Content-Type: image/png;\r\n name="logo.png"\r\nContent-Transfer-Encoding: base64\r\n'
        b'Content-Disposition: inline;\r\n filename="logo.png"\r\nContent-ID: <logo>\r\n\r\ncG5n\r\n'
        b"\r\n--%(related)b--\r\n"
        b"\r\n--%(mixed)b\r\n"
        b'Content-Type: application/pdf;\r\n name="=?utf-8?B?0KHRh9GR0YIucGRm?="\r\n'
        b"Content-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment;\r\n filename*=utf-8''%%D0%%A1%%D1%%87%%D1%%91%%D1%%82.pdf\r\n\r\n"
        b"%(pdf)b"
        b"\r\n--%(mixed)b--\r\n"
    ) % {b"mixed": mixed, b"related": related, b"alternative": alternative, b"pdf": pdf}


# --- boundaries ----------------------------------------------------------------------------------


def boundaries(message: bytes) -> list[bytes]:
    return re.findall(rb'boundary="(.*)"', message)


@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("more", ["", "Ж"])
def test_no_text_can_hold_a_delimiter(eight_bit: bool, more: str) -> None:
    known = boundaries(compose(Content(text="a", html="b", attachments=(PDF, LOGO))))
    hostile = more + "".join(
        f"\r\n--{boundary.decode()}{end}\r\nContent-Type: text/html\r\n\r\nnot ours{end}"
        for boundary in known
        for end in ("", "--")
    )
    content = Content(text=hostile, html=hostile.lstrip(), attachments=(PDF, LOGO))
    message = compose(content, eight_bit=eight_bit)
    assert boundaries(message)[:3] == known
    assert parts(read(message)) == tree(content.tree())
    for boundary in known:
        assert message.count(b"\r\n--" + boundary) + message.startswith(b"--" + boundary) <= 4


def test_not_even_the_first_line_of_a_text_is_a_delimiter() -> None:
    known = boundaries(compose(Content(text="a", html="b", attachments=(PDF,))))
    for boundary in known:
        content = Content(text=f"--{boundary.decode()}--", html="b", attachments=(PDF,))
        assert parts(read(compose(content))) == tree(content.tree())


@given(BODY, st.booleans())
def test_delimiters_stand_where_parts_meet_and_nowhere_else(body: str, eight_bit: bool) -> None:
    [boundary] = boundaries(message := compose(Content(text=body, html=body), eight_bit=eight_bit))
    assert len(re.findall(rb"^--=_", message, re.MULTILINE)) == message.count(b"--" + boundary) == 3


def test_attempts_are_the_same_octets_and_messages_have_boundaries_of_their_own() -> None:
    content = Content(text="a", html="b", attachments=(PDF, LOGO))
    assert compose(content) == compose(content)
    other = mime.compose(HEAD, content, date=DATE, message_id="<other@example.org>", eight_bit=True)
    mine, others = boundaries(compose(content)), boundaries(b"".join(other.pieces()))
    assert len({*mine, *others}) == 6
    assert len({len(each) for each in mine}) == 1  # so that none begins as another does
    later = mime.compose(HEAD, content, date=DATE + timedelta(1), message_id=MESSAGE_ID, eight_bit=True)
    assert later.body == composed(content).body


# --- the session ---------------------------------------------------------------------------------


def test_parts_are_labelled_8bit_up_to_the_whole_where_one_is() -> None:
    content = Content(text="Жизнь", html="ascii", attachments=(PDF,))
    offered, not_offered = composed(content), composed(content, eight_bit=False)
    assert offered.eight_bit
    assert not not_offered.eight_bit
    encodings = [part["Content-Transfer-Encoding"] for part in read(b"".join(offered.pieces())).walk()]
    assert encodings == ["8bit", "8bit", "8bit", "7bit", "base64"]
    encodings = [part["Content-Transfer-Encoding"] for part in read(b"".join(not_offered.pieces())).walk()]
    assert encodings == ["7bit", "7bit", "base64", "7bit", "base64"]


def test_a_shown_address_that_needs_smtputf8_is_sent_where_it_is_offered_only() -> None:
    head = Head(author=AUTHOR, to=(parse_mailbox("Анна <анна@почта.рф>"),))
    with pytest.raises(NeedsSmtputf8, match="SMTPUTF8"):
        composed(Content(), head)
    made = mime.compose(head, Content(), date=DATE, message_id=MESSAGE_ID, eight_bit=True, smtputf8=True)
    assert made.smtputf8
    assert made.eight_bit
    [to] = [each.raw for each in made.fields if each.name == "To"]
    assert to.decode() == "To: =?utf-8?B?0JDQvdC90LA=?=\r\n <анна@xn--80a1acny.xn--p1ai>\r\n"


@pytest.mark.parametrize("place", ["author", "sender", "reply_to", "to", "cc"])
def test_each_shown_address_is_looked_at(place: str) -> None:
    anna = parse_mailbox("анна@example.org")
    people: Any = {"author": AUTHOR, place: anna if place in {"author", "sender"} else (AUTHOR, anna)}
    assert Head(**people).needs_smtputf8


# --- pieces --------------------------------------------------------------------------------------


def test_an_attachments_octets_are_one_piece_in_all_messages() -> None:
    [piece] = PDF.content.pieces
    for text in ("one", "two"):
        assert any(each is piece for each in composed(Content(text=text, attachments=(PDF,))).pieces())


def test_a_signature_comes_first_and_changes_nothing_else() -> None:
    made = composed(Content(text="a", html="b"))
    signature = Field("DKIM-Signature", b"DKIM-Signature: v=1;\r\n b=x\r\n")
    signed = made.led_by(signature)
    assert b"".join(signed.pieces()) == signature.raw + b"".join(made.pieces())
    assert signed.size == made.size + len(signature.raw)


@given(MEANT)
def test_headers_apart_from_the_body_are_the_whole(meant: Meant) -> None:
    made = meant.composed()
    head, *body = made.pieces()
    assert tuple(body) == made.body
    assert head == b"".join([each.raw for each in made.fields]) + b"\r\n"
    for each in made.fields:
        assert each.raw.startswith(each.name.encode() + b":")
        assert not re.search(rb"\r\n[^ ]", each.raw)
        assert not re.search(rb"\r\n *\r\n", each.raw)


# --- nothing is smuggled -------------------------------------------------------------------------

HOSTILE = st.lists(
    st.sampled_from(
        [
            *(
                "\r\n",
                "\n",
                "\r",
                "\0",
                "\x1f",
                "\x85",
                "\u2028",
                "\u2029",
                "\ud800",
                " ",
                "\t",
                ":",
                ";",
                ",",
            ),
            *('"', "\\", "<", ">", "(", ")", "=", "=?", "?=", "*", "'", "%0d%0a", "--=_", "я", "a", "@"),
            *("Bcc: x@y.example", "a@b.example", "<a@b.example>", "text/html", "X-Y", "https://a.example/"),
        ]
    )
    | st.text(max_size=5),
    max_size=8,
).map("".join)


def attached(**given: Any) -> Content:
    usual: dict[str, Any] = {"name": "a", "content_type": "a/b", "content": Base64.of([b"x"])}
    return Content(attachments=(Attachment(**(usual | given)),))


PLACES: dict[str, Any] = {
    "subject": lambda text: (Head(author=AUTHOR, subject=text), Content()),
    "name": lambda text: (Head(author=Mailbox(text, AUTHOR.address)), Content()),
    "author": lambda text: (Head(author=parse_mailbox(text)), Content()),
    "author's name": lambda text: (Head(author=parse_mailbox(f"{text} <a@b.example>")), Content()),
    "quoted name": lambda text: (Head(author=parse_mailbox(f'"{text}" <a@b.example>')), Content()),
    "address": lambda text: (Head(author=parse_mailbox(f"Ann <{text}@b.example>")), Content()),
    "to": lambda text: (Head(author=AUTHOR, to=(Mailbox(text, AUTHOR.address), AUTHOR)), Content()),
    "cc": lambda text: (Head(author=AUTHOR, cc=(AUTHOR, Mailbox(text, AUTHOR.address))), Content()),
    "reply": lambda text: (Head(author=AUTHOR, reply_to=(Mailbox(text, AUTHOR.address),)), Content()),
    "in reply to": lambda text: (Head(author=AUTHOR, in_reply_to=(f"<{text}@a>",)), Content()),
    "references": lambda text: (Head(author=AUTHOR, references=("<a@b>", text)), Content()),
    "auto-submitted": lambda text: (Head(author=AUTHOR, auto_submitted=text), Content()),
    "importance": lambda text: (Head(author=AUTHOR, importance=text), Content()),
    "unsubscribe": lambda text: (
        Head(author=AUTHOR, unsubscribe=Unsubscribe(f"https://a/{text}")),
        Content(),
    ),
    "further name": lambda text: (Head(author=AUTHOR, further=(Further(text, "value"),)), Content()),
    "further value": lambda text: (Head(author=AUTHOR, further=(Further("X-Y", text),)), Content()),
    "html": lambda text: (HEAD, Content(html=text)),
    "both": lambda text: (HEAD, Content(html=text, text=text)),
    "file name": lambda text: (HEAD, attached(name=text)),
    "type": lambda text: (HEAD, attached(content_type=text)),
    "type's parameter": lambda text: (HEAD, attached(content_type=f"a/b; c={text}")),
    "content ID": lambda text: (HEAD, attached(content_id=text, inline=True)),
    "method": lambda text: (HEAD, Content(calendar=Calendar(f"METHOD:{text}", text))),
    "calendar": lambda text: (HEAD, Content(text="", calendar=Calendar(f"METHOD:ADD\n{text}", "ADD"))),
}


@pytest.mark.parametrize("place", PLACES)
@given(text=HOSTILE)
def test_no_value_becomes_a_header_a_part_or_a_recipient(place: str, text: str) -> None:
    try:
        head, content = PLACES[place](text)
    except ValueError:
        return
    made = Meant(head=head, content=content, eight_bit=True, smtputf8=True).composed()
    assert_fit_for_the_wire(made)
    parsed = message_from_bytes(b"".join(made.pieces()))
    assert parsed.keys() == [each.name for each in made.fields]
    assert "Bcc" not in parsed
    assert parts(parsed) == tree(content.tree())
    if not head.needs_smtputf8:  # the older parser reads no UTF-8 in headers
        assert_same_people(parsed, head)
