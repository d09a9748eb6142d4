from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.message.compose import BadBody
from mailsender.message.parts import (
    MAX_ATTACHMENTS,
    MAX_NAME,
    Attachment,
    BadPart,
    Base64,
    Calendar,
    Content,
    media_type,
)


def attachment(
    name: str = "a.pdf", content_type: str = "application/pdf", *, inline: bool = False, content_id: str = ""
) -> Attachment:
    return Attachment(
        name=name, content_type=content_type, content=Base64.of([b"x"]), inline=inline, content_id=content_id
    )


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_base64_is_the_same_whatever_the_blocks_are_cut_to(blocks: list[bytes]) -> None:
    content = b"".join(blocks)
    made = Base64.of(blocks)
    assert made == Base64.of([content])
    text = b"".join(made.pieces)
    assert text.replace(b"\r\n", b"") == b64encode(content)
    assert made.size == len(text)
    assert text.endswith(b"\r\n") == bool(content)
    assert all(len(line) == 76 for line in text.split(b"\r\n")[:-2])


@pytest.mark.parametrize("cut", [1000, 255 * 1024, 5_000_000])
def test_large_contents_come_in_pieces_of_whole_lines(cut: int) -> None:
    content = bytes(range(256)) * 8000
    made = Base64.of(content[start : start + cut] for start in range(0, len(content), cut))
    assert len(made.pieces) == 5
    for piece in made.pieces:
        assert piece.endswith(b"\r\n")
        assert len(piece) <= 640_000
    for piece in made.pieces[:-1]:
        assert len(piece) % 78 == 0
    assert b64decode(b"".join(made.pieces)) == content


@pytest.mark.parametrize(
    ("text", "kind", "parameters"),
    [
        ("application/pdf", "application/pdf", ()),
        ("Image/PNG", "image/png", ()),
        ("text/csv; charset=utf-8", "text/csv", (("charset", "utf-8"),)),
        (
            'text/csv;Charset="utf-8" ; header=present',
            "text/csv",
            (("charset", "utf-8"), ("header", "present")),
        ),
        ("application/vnd.ms-excel+x.y_z", "application/vnd.ms-excel+x.y_z", ()),
    ],
)
def test_a_media_type_and_its_parameters(
    text: str, kind: str, parameters: tuple[tuple[str, str], ...]
) -> None:
    assert media_type(text) == (kind, parameters)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *(
            (text, "no media type")
            for text in ("", "pdf", "a/", "/b", "a/b/c", "a/b; c", "a/b\r\nX: y", "a b/c")
        ),
        *(
            (text, "no media type")
            for text in ("a/b; c=d e", 'a/b; c="d', "a/b; c=d\0", "a/я", "a/" + "b" * 300)
        ),
        *((text, "cannot be multipart") for text in ("multipart/mixed", "Multipart/x; boundary=a")),
        *((text, "cannot be message") for text in ("message/rfc822", "message/external-body; name=x")),
        *((text, "a parameter twice") for text in ("a/b; c=d; C=e", "a/b; name=x", "a/b; Boundary=x")),
    ],
)
def test_what_is_no_media_type_of_a_file_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadPart, match=reason):
        attachment(content_type=text)


@pytest.mark.parametrize("name", ["a\r\nb", "a\0", "\ud800", "a\u2028"])
def test_a_name_that_could_end_its_header_is_refused(name: str) -> None:
    with pytest.raises(BadPart, match="an attachment's name holds"):
        attachment(name)


def test_a_name_is_no_longer_than_file_systems_keep() -> None:
    attachment("a" * MAX_NAME)
    with pytest.raises(BadPart, match=f"has {MAX_NAME + 1} characters"):
        attachment("a" * (MAX_NAME + 1))


@pytest.mark.parametrize("content_id", ["<a>", "a b", "a>\r\nX: y", "я", 'a"', "a%20b", "a" * 201])
def test_what_is_no_content_id_is_refused(content_id: str) -> None:
    with pytest.raises(BadPart, match="ContentID has at most"):
        attachment(content_id=content_id)


@pytest.mark.parametrize(
    ("text", "method", "reason"),
    [
        ("METHOD:REQUEST", "request", "is none of ADD, CANCEL"),
        ("METHOD:REQUEST", "", "is none of"),
        ("BEGIN:VCALENDAR", "REQUEST", "no line METHOD:"),
        ("BEGIN:VCALENDAR", "", "no line METHOD:"),
        ("METHOD:CANCEL", "REQUEST", "has METHOD:CANCEL, and not REQUEST"),
        ("METHOD:SECRET", "REQUEST", "has a METHOD that is none of"),
        ("X-METHOD:REQUEST", "REQUEST", "no line"),
        ("SUMMARY:a\r\n METHOD:REQUEST", "REQUEST", "no line"),
    ],
)
def test_a_calendars_method_is_the_one_in_its_text(text: str, method: str, reason: str) -> None:
    with pytest.raises(BadPart, match=reason):
        Calendar(text, method)


@pytest.mark.parametrize("text", ["METHOD:ADD", "BEGIN:VCALENDAR\nmethod:add\n", "A:b\rMETHOD:ADD \r\n"])
def test_a_method_is_found_in_any_line(text: str) -> None:
    assert Calendar(text, "ADD").method == "ADD"


@pytest.mark.parametrize("form", ["html", "text"])
def test_a_body_that_is_no_text_is_refused(form: str) -> None:
    with pytest.raises(BadBody, match="body holds a lone surrogate"):
        Content(**{form: "a\ud800"})


def test_a_content_has_so_many_attachments_and_ids_of_their_own() -> None:
    logo = attachment(inline=True, content_id="logo")
    with pytest.raises(BadPart, match="the same ContentID"):
        Content(html="", attachments=(logo, logo))
    with pytest.raises(BadPart, match=f"has {MAX_ATTACHMENTS + 1} attachments"):
        Content(attachments=(attachment(),) * (MAX_ATTACHMENTS + 1))
    assert len(Content(attachments=(attachment(),) * MAX_ATTACHMENTS).attachments) == MAX_ATTACHMENTS
