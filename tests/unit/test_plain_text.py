"""The text part of HTML: what people read in it, and what strangers cannot do with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.message.plain_text import MAX_HTML, MAX_TEXT, plain_text

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Receipt</h1><p>Thank you,<br>Ivan.</p><p>Bye", "Receipt\n\nThank you,\nIvan.\n\nBye\n"),
        ("<p>in<b>tern</b>al <i>w</i>ord", "internal word\n"),
        ("a < b &amp; c &lt;d&gt; &amp;lt; &#1046;\u00a0!", "a < b & c <d> &lt; Ж !\n"),
        ("<p>one</p>\n\n\n<p> <p>&nbsp;<p>two", "one\n\ntwo\n"),
        ("<pre>a\n  b</pre>c", "a\n  b\nc\n"),
        (
            "<ul><li>one<li>two<ul><li>deep</ul></ul><ol><li>a<li value='²'>b</ol>",
            "* one\n* two\n  + deep\n1. a\n2. b\n",
        ),
        ("<table><tr><th>Tea<th>Qty<tr><td>Green<td>2</table>", "Tea Qty\nGreen 2\n"),
        ("<table><tr><td><p>left</p><td><p>right</p></table>", "left\n\nright\n"),
        ("a<hr>b", "a\n\nb\n"),
        ("<?xml version='1.0' encoding='windows-1251'?><html><meta charset=koi8-r>Привет", "Привет\n"),
        ("only words", "only words\n"),
    ],
)
def test_people_read_what_the_html_says(html: str, text: str) -> None:
    assert plain_text(html) == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        (
            '<a href="https://a.example/?x=1&copy=2&region=3&amp;t=4">Pay</a>.',
            "Pay <https://a.example/?x=1&copy=2&region=3&t=4>.\n",
        ),
        (
            '<a href="https://a.example/">a.example</a> <a href="http://b.c/d">http://b.c/d</a>',
            "a.example http://b.c/d\n",
        ),
        (
            '<a href="mailto:a@b.example">a@b.example</a> <a href="mailto:a@b.example">Ask</a>',
            "a@b.example Ask <mailto:a@b.example>\n",
        ),
        ('<a href=" https://a.example/a b ">x</a>', "x <https://a.example/a%20b>\n"),
        (
            '<a href="javascript:alert(1)">x</a> <a href="#top">up</a> <a name=y>z</a> <a href="/rel">r</a>',
            "x up z r\n",
        ),
        (
            '<a href="https://a.example/f"><img src=f.png alt="Pay now"></a>',
            "Pay now <https://a.example/f>\n",
        ),
        ('<img src=l.png alt="Shop"><img src=p.gif width=1>', "Shop\n"),
        ("<a href='https://a.example/" + "x" * 2000 + "'>long</a>", "long\n"),
    ],
)
def test_a_link_has_its_address_and_an_image_its_words(html: str, text: str) -> None:
    assert plain_text(html) == text


@pytest.mark.parametrize(
    "hidden",
    [
        "<div style='display: none'>secret <b>too</b></div>",
        "<span style='DISPLAY:NONE;mso-hide:all'>secret</span>",
        "<a style='display:none' href='https://a.example/secret'>secret</a>",
        "<img style='display:none' src=a.png alt=secret>",
        "<table><tr><td hidden>secret</table>",
        "<div style='max-height:0px;overflow:hidden'>secret</div>",
        "<p hidden>secret</p>",
        "<style>secret{}</style><script>secret</script><title>secret</title><template>secret</template>",
        "<!-- secret --><!--[if mso]><p>secret</p><![endif]--><?secret ?>",
        "<svg><title>secret</title></svg><select><option>secret</select><textarea>secret</textarea>",
    ],
)
def test_what_is_hidden_stays_hidden(hidden: str) -> None:
    assert plain_text(f"<p>a</p>{hidden}<p>b</p>") == "a\n\nb\n"


def test_what_follows_a_comment_or_an_instruction_is_there() -> None:
    assert plain_text("a<?x ?>b<!-- x -->c<![if !mso]>d<![endif]>e") == "abcde\n"


@pytest.mark.parametrize(
    "html", ["", " ", "<p></p>", "<!-- x -->", "<img src=x>", "\u200b&zwnj;&#847;", "\ud800", "<p>\udfff"]
)
def test_where_there_are_no_words_there_is_no_text(html: str) -> None:
    assert plain_text(html) is None


ATTRIBUTES = " ".join(f"a{number}" for number in range(20_000))


@pytest.mark.parametrize(
    "html",
    [
        "x" * (MAX_HTML + 1),
        "<b>x</b>" * 2_600,
        "<p>x" * 2_600,
        "<div>" * 300 + "lost" + "</div>" * 300 + "kept",
        "<table><tr><td>" * 60 + "x",
        "<ul>" * 99 + "<li>x" * 2_000,
        "y" * 150_000 + "<i>z</i>" * 1_000,
        "&" * MAX_TEXT,
        f"<p {ATTRIBUTES}>x",
        f"<p {ATTRIBUTES.replace(' ', '/')}>x",
        f'<p a=x"y b=">" {ATTRIBUTES}>x',
        f"<!--><p {ATTRIBUTES}>x-->",
        "<p " + " ".join(f"<a{number}" for number in range(4_900)) + ">x",
        "<a b='" * 4_900 + "x" * 150_000,
        "<a b=" * 4_900 + "x" * 150_000,
        "".join(f"<span><a href=https://a.example/{number}>" for number in range(90)) + "x" * 100_000,
    ],
    ids=range(16),
)
def test_what_is_too_much_has_no_text_at_all_and_that_is_soon_known(html: str) -> None:
    since = thread_time()
    assert plain_text(html) is None
    assert thread_time() - since < 0.5  # some 0.05


@pytest.mark.parametrize(
    "html",
    [
        "<ul style='padding-left:99999em'><li style='margin-top:99999em'>x</ul>",
        "<p style='" + "style:" * 3_000 + "a'>x",
        "<p style='margin-top:" + "9" * 400 + "em'>x",
        "<p style='" + "max-height " * 20_000 + "'>x",
        "<td colspan=99999999 rowspan=99999999>x",
        "<p title='" + "y" * 200_000 + "'>x",
        "<ol><li value=" + "9" * 5_000 + ">x</ol>",
    ],
    ids=range(7),
)
def test_styles_and_attributes_mean_nothing(html: str) -> None:
    text = plain_text(html)
    assert text is not None
    assert text.strip("* 1.\n") == "x"


@given(st.text(st.sampled_from("<>/=\"'& abp!-?\n\0\u00a0\ud800") | st.characters(), max_size=200))
def test_anything_has_a_text_or_none(html: str) -> None:
    text = plain_text(html)
    assert text is None or (text.endswith("\n") and text.strip() != "" and "\n\n\n" not in text)


def test_threads_do_not_write_into_each_others_texts() -> None:
    pages = [f"<p>{number}</p>" + f"<i>{number}</i> " * 300 for number in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for number, text in enumerate(pool.map(plain_text, pages)):
            assert text is not None
            assert set(text.split()) == {str(number)}
