"""What lint says: for each rule a message that breaks it and one that does not, and hostile input."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.lint.domains import aligned, host_of, is_numeric, organization
from mailsender.lint.letters import Surroundings, nearest
from mailsender.lint.page import MAX_HTML, MAX_LINKS, Image, Link, read_html
from mailsender.lint.rule import LEVELS, worst
from mailsender.lint.run import MAX_FINDINGS, MAX_INPUT, MAX_LETTERS, MAX_WORK, NothingToSee, lint
from mailsender.lint.table import RULES, table
from mailsender.lint.view import MANY
from mailsender.message.headers import parse_mailbox
from mailsender.message.plain_text import plain_text

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SENDER = parse_mailbox("Example <mail@example.org>")
KNOWN = Surroundings(now=NOW, sender=SENDER, signing=partial(nearest, {"example.org"}))

WORDS = (
    "Your order has left our house and will be with you on Monday between eight and ten, as you asked for."
)
HTML = f'<p>Hello Ann,</p><p>{WORDS}</p><p><a href="https://example.org/orders/7">Your order</a></p>'
GOOD: dict[str, Any] = {
    "Subject": "Your order",
    "Body": HTML,
    "TextBody": f"Hello Ann,\n\n{WORDS}\n",
    "Addresses": [{"Address": "ann@example.com", "Name": "Ann"}],
    "Personal": True,
}
LEAVE = {"URL": "https://example.org/leave/7"}
MAILING = {
    "Body": f'{HTML}<p><a href="https://example.org/leave/7">Unsubscribe</a></p>',
    "Headers": {"Precedence": "bulk"},
    "ListUnsubscribe": LEAVE,
}

OF_EACH = [{"Address": f"a{n}@example.com", "ListUnsubscribe": LEAVE} for n in range(60)]
"""As many as are bulk, each with a way of its own to leave."""
CLICKLESS = {"Address": "c@example.com", "ListUnsubscribe": {"Mail": "leave@example.org"}}

HEAD = {
    "Date": "Sun, 29 Nov 2026 11:00:00 +0000",
    "From": "Example <mail@example.org>",
    "To": "Ann <ann@example.com>",
    "Subject": "Your order",
    "Message-ID": "<7@example.org>",
    "MIME-Version": "1.0",
    "Content-Type": "text/plain; charset=utf-8",
    "DKIM-Signature": "v=1; a=rsa-sha256; d=example.org; s=one; h=From:To:Subject; bh=x; b=y",
}


def letter(**changes: Any) -> bytes:
    return json.dumps([GOOD | changes]).encode()


def mailing(**changes: Any) -> bytes:
    return letter(**(MAILING | changes))


def message(body: str = WORDS, more: str = "", **changes: str | None) -> bytes:
    """A finished message; None leaves a header out, `_` in its name is a hyphen."""
    head: dict[str, str | None] = dict(HEAD) | {
        name.replace("_", "-"): each for name, each in changes.items()
    }
    lines = [f"{name}: {value}\r\n" for name, value in head.items() if value is not None]
    return f"{''.join(lines)}{more}\r\n{body}\r\n".encode()


def rules_of(data: bytes, known: Surroundings = KNOWN) -> set[str]:
    return {each.rule for each in lint(data, known).findings}


def html(body: str) -> bytes:
    """A letter whose HTML has `body` behind words enough."""
    return letter(Body=HTML + body)


def test_a_text_part_that_the_service_makes_is_one() -> None:
    made = replace(KNOWN, text_of=plain_text)
    assert "no-text" in rules_of(letter(TextBody=None))
    assert "no-text" not in rules_of(letter(TextBody=None), made)
    assert "no-text" in rules_of(letter(TextBody=None, Body="<img src=a.png>"), made)


IMAGE = '<img src="https://example.org/a.png" alt="A parcel">'
BROKEN: Mapping[str, tuple[bytes, ...]] = {
    "refused": (letter(Addresses=["nobody"]), letter(Subject=7)),
    "from": (message(From=None), message(From="a@example.org, b@example.org"), message(From="Ann <ann>")),
    "header-twice": (message(more="Subject: Again\r\n"), message(more="from: b@example.org\r\n")),
    "from-not-aligned": (
        letter(From="shop@example.net", ReversePath="bounces@example.org"),
        message(From="shop@example.net"),
        message(From="shop@example.net", DKIM_Signature=None, more="Return-Path: <b@example.org>\r\n"),
    ),
    "not-signed": (letter(From="shop@example.net"), message(DKIM_Signature=None)),
    "reverse-path": (letter(ReversePath="bounces@mailer.example"),),
    "from-name": (
        letter(FromName="support@example.net"),
        message(From='"ann@bank.example" <mail@example.org>'),
    ),
    "to-self": (letter(To=["mail@example.org"], Personal=None), message(To="MAIL@example.org")),
    "to-many": (
        letter(To=[f"a{number}@example.com" for number in range(21)], Personal=None),
        message(Cc=", ".join(f"a{number}@example.com" for number in range(21))),
    ),
    "to-nobody": (mailing(Personal=None), message(To="undisclosed-recipients:;", Precedence="bulk")),
    "subject-empty": (letter(Subject=" "), message(Subject=None)),
    "subject-long": (letter(Subject="long " * 40),),
    "date": (message(Date=None), message(Date="yesterday")),
    "date-ahead": (message(Date="Tue, 01 Dec 2026 12:00:00 +0000"),),
    "message-id": (message(Message_ID=None), message(Message_ID="7@example.org")),
    "message-id-local": (message(Message_ID="<7@localhost>"), message(Message_ID="<7@box.local>")),
    "line-long": (message(body="x" * 999), message(Subject="x" * 1000)),
    "line-end": (message(body="one\ntwo"), message(body="one\rtwo")),
    "octets": (message(body="a\0b"), message(Subject="Ваш заказ")),
    "mime": (
        message(Content_Type="multipart/mixed"),
        message(Content_Type='multipart/mixed; boundary="a"', body="no such boundary"),
    ),
    "unsubscribe": (
        mailing(ListUnsubscribe=None),
        letter(Addresses=[f"a{number}@example.com" for number in range(MANY)]),
        letter(Addresses=[*OF_EACH, "b@example.com"]),
        message(List_ID="<news.example.org>"),
    ),
    "unsubscribe-click": (
        letter(Addresses=[*OF_EACH, CLICKLESS], Body=MAILING["Body"]),
        mailing(ListUnsubscribe={"Mail": "leave@example.org"}),
        mailing(ListUnsubscribe={"URL": "http://example.org/leave"}),
        message(List_Unsubscribe="<https://example.org/leave>"),
    ),
    "unsubscribe-signed": (
        message(
            List_Unsubscribe="<https://example.org/leave>",
            List_Unsubscribe_Post="List-Unsubscribe=One-Click",
        ),
    ),
    "unsubscribe-link": (mailing(Body=HTML), letter(Addresses=OF_EACH[:2])),
    "no-text": (letter(TextBody=None), letter(TextBody=" \n")),
    "empty": (letter(Body="<p> </p>", TextBody=None), message(body="")),
    "clipped": (letter(Body=HTML + "<p>more words</p>" * 7000),),
    "image-alt": (html('<img src="https://example.org/a.png">'),),
    "image-data": (html('<img alt="" src="data:image/png;base64,iVBORw0KGgo=">'),),
    "image-missing": (
        html('<img alt="" src="cid:logo">'),
        letter(
            Body=HTML + '<img alt="" src="cid:logo">',
            Attachments=[{"Name": "a.png", "Content": "AAEC", "Inline": True, "ContentID": "other"}],
        ),
    ),
    "image-only": (letter(Body=IMAGE, TextBody=None),),
    "html-active": (
        html("<script>alert(1)</script>"),
        html('<form action="https://example.org/"><input></form>'),
        html('<p onclick="alert(1)">Hello</p>'),
        html('<a href="javascript:alert(1)">Hello</a>'),
    ),
    "attachment-runs": (
        letter(Attachments=[{"Name": "bill.pdf.exe", "Content": "AAAA"}]),
        letter(Attachments=[{"ContentType": "application/x-msdownload", "Content": "AAAA"}]),
        message(Content_Type='application/octet-stream; name="a.JS"', body="alert(1)"),
    ),
    "template-left": (
        letter(Subject="Hello {{ name }}"),
        html("<p>{% if name %}</p>"),
        html('<a href="https://example.org/${order}">Your order</a>'),
        html("<p>Hello *|FNAME|*</p>"),
        letter(TextBody="Hello %%name%%"),
    ),
    "value-empty": (
        html("<p>Dear ,</p>"),
        html("<p>Hello <b></b> ,</p>"),
        html("<p>Уважаемый , добрый день</p>"),
        letter(TextBody="Hello None,\n\nyour order"),
        html("<td>Total:</td><td>undefined</td>"),
        html("<p>[object Object]</p>"),
        html('<a href="">Your order</a>'),
        html('<a href="https://example.org/orders/None">Your order</a>'),
    ),
    "link-ip": (
        html('<a href="http://192.0.2.1/a">Your order</a>'),
        html('<a href="https://[2001:db8::1]/a">Your order</a>'),
        html('<a href="https://0xC0.0.2.1/a">Your order</a>'),
        html('<a href="https://3221225985/a">Your order</a>'),
        letter(TextBody="Look: http://192.0.2.1/a"),
    ),
    "link-port": (html('<a href="https://example.org:8443/a">Your order</a>'),),
    "link-http": (html('<a href="http://example.org/a">Your order</a>'),),
    "link-text": (
        html('<a href="https://clicks.example.net/7">https://www.example.org/orders</a>'),
        html('<a href="https://clicks.example.net/7"><b>example.com</b>.</a>'),
    ),
    "partly-seen": (html("<!-- never ends"), letter(Body="<p>a</p>" + "x" * MAX_HTML)),
}
"""For each rule, messages that break it."""

FINE: Mapping[str, tuple[bytes, ...]] = {
    "from": (letter(From="shop@shop.example.org"), message()),
    "header-twice": (message(more="X-Mine: 1\r\nX-Mine: 2\r\nReceived: a\r\nReceived: b\r\n"),),
    "from-not-aligned": (
        letter(From="shop@news.example.org", ReversePath="bounces@example.org"),
        message(From="shop@example.org", DKIM_Signature="d=news.example.org; h=from"),
    ),
    "reverse-path": (letter(ReversePath="bounces@mail.example.org"),),
    "from-name": (letter(FromName="help@news.example.org"),),
    "to-self": (message(To="mail@example.org, ann@example.com"),),
    "to-many": (letter(Addresses=[f"a{number}@example.com" for number in range(21)], Personal=None),),
    "date-ahead": (message(Date="Sun, 29 Nov 2026 20:00:00 -0000"),),
    "message-id": (message(Message_ID=" <a.b-c@mail.example.org> "),),
    "line-end": (message().replace(b"\r\n", b"\n"),),
    "line-long": (message(body="x" * 998),),
    "octets": (message(body="Ваш заказ"), message(Subject="=?utf-8?B?0JLQsNGI?=")),
    "unsubscribe": (
        mailing(),
        letter(Addresses=OF_EACH, Body=MAILING["Body"]),
        letter(Addresses=[f"a{number}@example.com" for number in range(MANY - 1)]),
    ),
    "unsubscribe-click": (mailing(), mailing(ListUnsubscribe=LEAVE | {"Mail": "leave@example.org"})),
    "unsubscribe-signed": (
        message(
            List_Unsubscribe="<https://example.org/leave>",
            List_Unsubscribe_Post="List-Unsubscribe=One-Click",
            DKIM_Signature="d=example.org; h=From : List-Unsubscribe :\r\n List-Unsubscribe-Post",
        ),
    ),
    "unsubscribe-link": (
        mailing(Body=f'{HTML}<a href="https://example.org/x">Отписаться</a>'),
        mailing(Body=f'{HTML}<a href="https://example.org/leave/7">Stop</a>'),
        mailing(Body=HTML, TextBody="To unsubscribe: https://example.org/leave/7"),
    ),
    "no-text": (letter(), letter(Body="", TextBody="Hello")),
    "clipped": (letter(Body=HTML + "x" * 100_000),),
    "image-alt": (html('<img src="https://example.org/a.png" alt>'), html(IMAGE)),
    "image-only": (html(IMAGE),),
    "attachment-runs": (letter(Attachments=[{"Name": "exe", "Content": "AAAA"}]),),
    "template-left": (html("<style>p{a:b}p{c:{d:e}}</style><p>{ } 100% [1] $5</p>"),),
    "value-empty": (
        html("<p>Bonjour !</p><p>None of it is undefined behaviour; Dear me, no. Hello, Ann.</p>"),
        html('<a href="#top">Up</a>'),
    ),
    "link-http": (html('<a href="mailto:ann@example.org">Ann</a>'),),
    "link-port": (html('<a href="https://example.org:443/">a</a>'),),
    "link-ip": (html('<a href="https://1.example.org/">a</a>'), html('<a href="http://[broken">a</a>')),
    "link-text": (
        html('<a href="https://www.example.org/7">example.org</a>'),
        html('<a href="https://example.org/7">report.zip</a>'),
        html('<a href="https://example.org/7">Read more on example.com today</a>'),
    ),
}
"""For rules that are easily too strict, messages that keep them."""


def test_each_rule_has_an_example() -> None:
    assert {rule.id for rule in RULES} == set(BROKEN)
    assert set(FINE) < set(BROKEN)


@pytest.mark.parametrize(("rule", "data"), [(rule, each) for rule, many in BROKEN.items() for each in many])
def test_what_breaks_a_rule_is_found(rule: str, data: bytes) -> None:
    assert rule in rules_of(data)


@pytest.mark.parametrize(("rule", "data"), [(rule, each) for rule, many in FINE.items() for each in many])
def test_what_keeps_a_rule_is_not(rule: str, data: bytes) -> None:
    assert rule not in rules_of(data)


@pytest.mark.parametrize("data", [letter(), message(), mailing()], ids=["letter", "message", "mailing"])
def test_nothing_is_said_where_all_is_well(data: bytes) -> None:
    found = lint(data, KNOWN)
    assert found.findings == ()
    assert worst(found.findings) == "ok"


def test_of_what_is_not_known_nothing_is_said() -> None:
    """From a command line nobody knows whose keys sign, nor who the sender is."""
    stranger = Surroundings(now=NOW)
    assert rules_of(letter(), stranger) == set()
    assert rules_of(letter(From="shop@example.net"), stranger) == set()
    unsigned = letter(From="shop@example.net", ReversePath="bounces@example.org")
    assert rules_of(unsigned, stranger) == {"reverse-path"}


def test_it_may_be_said_that_a_letter_is_bulk_or_is_not() -> None:
    assert "unsubscribe" in rules_of(letter(), Surroundings(now=NOW, bulk=True))
    assert rules_of(mailing(ListUnsubscribe=None), Surroundings(now=NOW, bulk=False)) == set()


def test_a_batch_one_letter_and_a_message_are_told_apart() -> None:
    batch = lint(json.dumps([GOOD, GOOD | {"Subject": ""}]).encode(), KNOWN)
    assert (batch.kind, batch.messages, batch.looked_at) == ("letters", 2, 2)
    assert [(each.index, each.rule) for each in batch.findings] == [(1, "subject-empty")]
    one = lint(b"\xef\xbb\xbf \r\n" + json.dumps(GOOD).encode(), KNOWN)
    assert (one.kind, one.messages) == ("letters", 1)
    assert lint(message(), KNOWN).kind == "message"


def test_the_worst_of_a_letter_comes_first() -> None:
    found = lint(letter(Subject="{{ a }}" + "long " * 40, TextBody=None), KNOWN).findings
    assert [each.level for each in found] == ["error", "warning", "note"]
    assert worst(found) == "error"
    assert LEVELS.index("error") > LEVELS.index("warning") > LEVELS.index("note")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "begins with no header"),
        (b"[]", "nothing to send"),
        (b"[1]", "element 0 is a number"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "nests too deep"),
        (b"words\r\n", "begins with no header"),
        (b"\x00\xff\xfe" * 100, "begins with no header"),
        (b"Content-Type: multipart/mixed; boundary=a\r\n" * 51 + b"\r\n", "more than 50 parts"),
        (b"From: a@example.org\n" + b"\n" * 9_000_000, "more lines"),
        (b"A: " + b"x" * 41 * 1024 * 1024, "octets; "),
    ],
)
def test_what_is_neither_is_told(data: bytes, why: str) -> None:
    with pytest.raises(NothingToSee, match=why):
        lint(data, KNOWN)


def test_a_message_with_parts_is_read_as_it_is_shown() -> None:
    data = (
        b"MIME-Version: 1.0\nDate: Sun, 29 Nov 2026 11:00:00 +0000\nMessage-ID: <7@example.org>\n"
        b"To: a@example.com\n"
        b"From: =?utf-8?Q?=D0=98?= <mail@example.org>\nSubject: =?utf-8?B?0KLQtdC80LA=?=\n"
        b'Content-Type: multipart/mixed; boundary="m"\n\n'
        b'--m\nContent-Type: multipart/alternative; boundary="a"\n\n'
        b"--a\nContent-Type: text/plain\n\nHello\n--a\nContent-Type: text/html; charset=koi8-r\n"
        b"Content-Transfer-Encoding: base64\n\nPGEgaHJlZj0iaHR0cDovL2V4YW1wbGUub3JnLyI+8tXX8DwvYT4=\n--a--\n"
        b"--m\nContent-Type: application/pdf\n"
        b"Content-Disposition: attachment;\n filename*=utf-8''%D0%B0.exe\n\nx\n--m--\n"
    )
    assert rules_of(data) == {"link-http", "attachment-runs", "not-signed"}


# --- hostile input -------------------------------------------------------------------------------

SECONDS = 20.0
"""Far more than any of it takes on a busy machine, far less than what grows by the square."""

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        "<div>" * 200_000,
        "<!--" * 250_000,
        "<a " * 350_000,
        "<a href='" * 100_000,
        '<a href="' + "x" * MEGABYTE,
        "<![" * 300_000,
        "<![foo bar]>" * 80_000,
        "<!" * 500_000,
        "<?" * 500_000,
        "</" * 500_000,
        "<style>" + "</s" * 300_000,
        "&#" + "9" * MEGABYTE,
        "&#x" + "f" * MEGABYTE,
        "&" * MEGABYTE,
        "<a href=x>" * 100_000,
        "<img>" * 200_000,
        "{{" * 500_000,
        ": " * 500_000,
        "\n" * MEGABYTE,
        "Dear" + " " * MEGABYTE,
        "\0\ud7ff\u2028" * 300_000,
        "<p a" + "=" * MEGABYTE + "'",
    ],
    ids=lambda body: body[:12].strip() or "lines",
)
def test_hostile_html_is_looked_at_in_bounded_time(body: str) -> None:
    begun = time.monotonic()
    lint(letter(Body=body, TextBody=body[: MEGABYTE // 2]), KNOWN)
    assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize(
    "data",
    [
        b"From: " + b"(" * MEGABYTE + b"\r\n\r\n",
        b"From: " + b"<" * 90_000 + b"\r\n\r\n",
        b"To: " + b"a@b.example," * 9_000 + b"\r\n\r\n",
        b"Subject: " + b"=?utf-8?B?" * 10_000 + b"\r\n\r\n",
        b"Subject: =?utf-8?B?0K?= =?nonsense?Q?=ff?=\r\nDate: 99 Foo 99999999999\r\n\r\n",
        b"A: b\r\n" * 200_000 + b"\r\n",
        b"Content-Type: text/html; charset=\xff\xfe\r\n\r\n<p>\xff",
        b'Content-Type: text/html; charset*0*="' + b"x*" * 30_000 + b'"\r\n\r\nx',
        b"Content-Disposition: attachment; filename*=utf-8''" + b"%ff" * 30_000 + b"\r\n\r\nx",
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n\r\n" * 4_900,
        b"DKIM-Signature: " + b";d" * 100_000 + b"\r\n\r\n",
        b"From: a@example.org\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"=" * MEGABYTE,
    ],
    ids=range(12),
)
def test_hostile_messages_are_looked_at_in_bounded_time(data: bytes) -> None:
    begun = time.monotonic()
    assert lint(data, KNOWN).kind == "message"
    assert time.monotonic() - begun < SECONDS


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(list("<>&#;\"'=!-/?[]{}aAx0 \n\0é")), max_size=200))
def test_any_html_is_read(html: str) -> None:
    assert isinstance(read_html(html).text, str)


_NAMES = ("From", "To", "Subject", "Date", "Message-ID", "Content-Type", "Content-Disposition")
_VALUES = st.text(st.sampled_from(list("<>@\"'();:,=?*%/aA0 \t\n\r\0éQB_")), max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*_NAMES, "DKIM-Signature", "List-Unsubscribe", "X"]), _VALUES)),
    st.sampled_from(["text/html", "multipart/mixed; boundary=a", "message/rfc822", "text/plain; charset=x"]),
    st.binary(max_size=200),
)
def test_any_message_is_looked_at(headers: list[tuple[str, str]], kind: str, body: bytes) -> None:
    head = "".join(f"{name}: {value}\n" for name, value in [("Content-Type", kind), *headers])
    data = head.encode("utf-8", "surrogatepass") + b"\n--a\n" + body
    assert lint(data, KNOWN).kind == "message"


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize(
    "value",
    [
        b"Content-Type: " + b";" * MEGABYTE,
        b"content-type:text/plain" + b"".join(b"; a*%d=b" % number for number in range(60_000)),
        b'Content-Disposition: attachment; filename="' + b";" * MEGABYTE + b'"',
        b"Content-Type: a/b" + b";\r\n a=b;\n\tc=d;\r e=f" * 50_000,
    ],
    ids=["semicolons", "numbered", "quoted", "folded"],
)
def test_what_the_parser_would_take_minutes_for_is_told(value: bytes, end: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(NothingToSee, match="more than 100 parameters"):
        lint(b"From: a@example.org" + end + value + end + end + b"x", KNOWN)
    assert time.process_time() - begun < 1


def test_an_attached_message_is_not_what_is_shown() -> None:
    inner = "Subject: {{ a }}\n\n<a href=http://192.0.2.1/>".replace("\n", "\r\n")
    parts = f"--b\r\nContent-Type: text/plain\r\n\r\n{WORDS}\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
    data = message(Content_Type="multipart/mixed; boundary=b", body=f"{parts}{inner}\r\n--b--")
    assert lint(data, KNOWN).findings == ()


def test_a_batch_is_looked_at_as_far_as_is_told() -> None:
    found = lint(json.dumps([{"Addresses": ["a@example.com"]}] * (MAX_LETTERS + 5)).encode(), KNOWN)
    assert found.messages == MAX_LETTERS + 5
    assert found.looked_at <= MAX_LETTERS
    assert len(found.findings) == MAX_FINDINGS
    large = lint(json.dumps([GOOD | {"Body": "x" * MEGABYTE}] * 12).encode(), KNOWN)
    assert 0 < large.looked_at < large.messages == 12


# --- the parts -----------------------------------------------------------------------------------


def test_html_is_read_as_it_is_shown() -> None:
    page = read_html(
        "<html><head><title>Not shown</title><style>p{}</style></head><body>"
        "<p>Hello <b>Ann</b>&nbsp;&amp; Bob,</p><!-- not this --><td>One</td><td>Two\n three</td>"
        '<![if mso]><a href="https://a.example/?a=1&amp;b=2">Look <i>here</i><img src="x" alt="pic"></a>'
        "<![endif]>"
        "<a name=top>Top</a>"
    )
    assert page.text == "Hello Ann & Bob,\nOne\nTwo three\nLook hereTop"
    assert list(page.links) == [Link("https://a.example/?a=1&b=2", "Look herepic")]
    assert list(page.images) == [Image("x", True)]
    assert page.complete


def test_html_that_is_cut_short_is_so_told() -> None:
    assert not read_html("<p>Hello</p><a href='x").complete
    assert not read_html("x" * (MAX_HTML + 1)).complete
    assert not read_html("<a href=x>" * (MAX_LINKS + 1)).complete
    assert read_html("<p>1 &lt; 2 & so on").text == "1 < 2 & so on"


@pytest.mark.parametrize(
    ("domain", "whose"),
    [
        ("a.b.example.org", "example.org"),
        ("Shop.Example.CO.UK.", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("a.me.uk", "me.uk"),
        ("localhost", "localhost"),
    ],
)
def test_the_domain_of_an_organization(domain: str, whose: str) -> None:
    assert organization(domain) == whose
    assert aligned(domain, whose)


def test_hosts_of_urls() -> None:
    assert host_of(" HTTPS://User@Example.org.:8080/a ") == "example.org"
    assert host_of("mailto:a@example.org") == host_of("http://[") == host_of("http://a:99999/") == ""
    assert [is_numeric(each) for each in ("192.0.2.1", "::1", "0x7f.1", "1.example", "")] == [
        *(True, True, True),
        *(False, False),
    ]


# --- the page ------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "lint.md").read_text(encoding="utf-8")


def test_the_page_has_the_rules_as_they_are() -> None:
    shown = PAGE.partition("<!-- lint:begin -->\n")[2].partition("\n<!-- lint:end -->")[0]
    assert shown.splitlines() == list(table()), "put what `mailsender lint-table` prints between the marks"
    assert "|" not in "".join(f"{rule.about}{rule.reason}{rule.source}" for rule in RULES)


def test_the_page_names_the_bounds_as_they_are() -> None:
    assert f"{MAX_HTML // 1024} KB" in PAGE
    assert f"{MAX_LETTERS} letters" in PAGE
    assert f"{MAX_WORK // MEGABYTE} MB of bodies" in PAGE
    assert f"{MAX_INPUT // MEGABYTE} MB" in PAGE
    assert f"{MANY} addresses or more" in PAGE
    for level in LEVELS:
        assert f"| `{level}` |" in PAGE


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "status", "said"),
    [
        (letter(Personal=None), [], 0, ""),
        (letter(TextBody=None), [], 0, "warning letter 0, no-text: it has HTML and no text part"),
        (
            letter(Subject="{{ a }}"),
            [],
            1,
            "error   letter 0, template-left: signs of a template are left: {{",
        ),
        (letter(From="a@example.net"), [], 0, ""),
        (letter(From="a@example.net"), ["--signed-by", "Example.org"], 0, "warning letter 0, not-signed"),
        (letter(), ["--bulk"], 1, "error   letter 0, unsubscribe: "),
        (mailing(ListUnsubscribe=None), ["--no-bulk"], 0, ""),
        (message(Date=None), [], 1, "error   date: it has no Date"),
        (b"words", [], 2, "cannot be looked at: it is neither a batch in JSON nor a message"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_it_in_lines_and_by_its_status(
    data: bytes, options: list[str], status: int, said: str, as_json: bool, tmp_path: Path
) -> None:
    path = tmp_path / "given"
    path.write_bytes(data)
    made = CliRunner().invoke(app, ["lint", str(path), *options, *(["--json"] if as_json else [])])
    assert made.exit_code == status, made.output
    if not as_json:
        assert said in made.output
        assert bool(made.stdout) == (status < 2 and bool(said))
    elif status == 2:
        assert "neither" in json.loads(made.stdout)["error"]["text"]
    else:
        found = json.loads(made.stdout)
        assert found["worst"] == ("error" if status else "ok" if not said else "warning")
        assert found["messages"] == found["looked_at"] == 1


def test_the_command_reads_standard_input_and_the_senders_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_FROM", "Example <mail@example.org>")
    made = CliRunner().invoke(app, ["lint", "-"], input=letter(To=["mail@example.org"], Personal=None))
    assert "to-self" in made.stdout
    monkeypatch.setenv("SMTP_FROM", "no address")
    assert CliRunner().invoke(app, ["lint", "-"], input=letter()).exit_code == 0
    assert CliRunner().invoke(app, ["lint", "/no/such/file"]).exit_code == 2
