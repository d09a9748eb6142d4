# ruff: noqa: E501  sources of templates
from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from html.parser import HTMLParser
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.templates.library import Library
from mailsender.templates.markup import MARK, marked, restored, tags
from mailsender.templates.prepare import prepared, prepared_all, prepared_html, styles_of
from mailsender.templates.template import Part, StoredTemplates, TemplateError
from tests.templates import render, template

SECONDS = 3.0


class Elements(HTMLParser):
    """The elements of HTML, with their attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), "an attribute twice"
        self.found.append((tag, dict(attrs)))


def style(source: str, tag: str) -> list[str | None]:
    return [attributes.get("style") for name, attributes in Elements(source).found if name == tag]


def inlined(source: str, styles: str = "") -> str:
    return prepared_html(source, "letter.html", styles=styles)


# --- styles ------------------------------------------------------------------------------------------


def test_styles_go_into_the_elements_and_stay_for_what_cannot() -> None:
    styles = "p.a { color: red } @media (max-width: 9px) { p { color: blue } }"
    source = f"<style>{styles}</style><p class='a'>x</p><p>y</p>"
    made = inlined(source)
    assert style(made, "p") == ["color: red", None]
    assert made.replace(' style="color: red"', "") == source


def test_an_elements_own_style_comes_last_and_wins() -> None:
    made = inlined("<style>p { color: red; margin: 0 }</style><p style='color: blue'>x</p>")
    assert style(made, "p") == ["color: red;margin: 0;color: blue"]


TABLE = """{% extends "layout.html" %}
<!DOCTYPE html>
<style>
  td { padding: 1px; font-family: "Open Sans" }
  .paid { color: green }
</style>
<!--[if mso]><table><tr><td>{{ outlook }}</td></tr></table><![endif]-->
<TABLE class={{ kind }}>
{% for row in rows if row.n < 3 and row.n > 1 and "</table>" %}
  <tr><td style="color: {{ row.color|default("red") }}" width='{{ row["w"] }}'>{{ row.a > "b" }} &amp; &nbsp;</td></tr>
{% else %}
  <tr><td {% if a %}style="x: y"{% endif %} class="paid">none</td></tr>
{% endfor %}
</TABLE>
{# <td> a comment #}{% raw %}<td>{{ raw }}</td>{% endraw %}
<p class="paid {% if b %}c{% endif %}">{{ {"a": {"b": 1}}.a.b }}<br/>x < y</p>
"""


def test_nothing_of_a_source_changes_but_styles() -> None:
    made = inlined(TABLE)
    assert re.findall(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", made) == re.findall(
        r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", TABLE
    )
    cells = "padding: 1px;font-family: &#x27;Open Sans&#x27;"
    expected = (
        TABLE.replace('style="color: {{', f'style="{cells};color: {{{{')
        # what a construct decides about is left to it
        .replace('<p class="paid', '<p style="color: green" class="paid')
    )
    assert made == expected


def test_a_source_without_styles_stays_as_it_is() -> None:
    source = TABLE.replace("<style>", "<title>").replace("</style>", "</title>")
    assert inlined(source) == source


@pytest.mark.parametrize(
    "css",
    [
        "<style>p { color: {{ color }} }</style>",
        "<style media='print'>p { color: red }</style>",
        "<style data-css-inline='ignore'>p { color: red }</style>",
        "<style {{ x }}>p { color: red }</style>",
        "<!-- <style>p { color: red }</style> -->",
        "{# <style>p { color: red }</style> #}",
        "<textarea><style>p { color: red }</style></textarea>",
        "<style>p { content: '{' '{' }</style>".replace("' '", ""),  # would become a construct
        "<style>@import url(http://127.0.0.1:1/x.css);</style>",
        "<link rel='stylesheet' href='http://127.0.0.1:1/x.css'>",
        "<link rel='stylesheet' href='file:///etc/passwd'>",
    ],
)
def test_what_is_not_put_into_elements(css: str) -> None:
    source = f"{css}<p>x</p>"
    try:
        assert inlined(source) == source
    except TemplateError as error:  # '{{' opens a construct that never ends
        assert "'{{'" in css
        assert error.template == "letter.html"  # noqa: PT017  either of two is right


def test_a_layouts_styles_go_into_what_extends_it() -> None:
    base = prepared(template({"base.html": "<style>p { margin: 0 }</style>{% block a %}{% endblock %}"}))
    layout = prepared(
        template({"layout.html": "{% extends 'base.html' %}<style>.x { color: red }</style>"}), {"base": base}
    )
    letter = template(
        {"letter.html": "{% extends 'layout.html' %}{% block a %}<p class='x'>{{ a }}</p>{% endblock %}"}
    )
    library = Library(StoredTemplates((layout, base)))
    for made in (
        prepared(letter, {"base": base, "layout": layout}),
        asyncio.run(library.prepared(letter)),
        next(each for each in prepared_all([letter, layout, base])[0] if each.name == "letter"),
    ):
        assert style(made.sources[Part.HTML, ""], "p") == ["margin: 0;color: red"]


def test_each_language_has_its_own_layout() -> None:
    layout = template(
        {
            "layout.html": "<style>p { color: red }</style>",
            "layout.ru.html": "<style>p { color: blue }</style>",
        }
    )
    letter = template(
        {f"letter{lang}.html": "{% extends 'layout.html' %}<p>x</p>" for lang in ("", ".ru", ".de")}
    )
    made = prepared(letter, {"layout": layout}).sources
    assert [style(made[Part.HTML, lang], "p") for lang in ("", "ru", "de")] == [
        ["color: red"],
        ["color: blue"],
        ["color: red"],
    ]


def test_layouts_in_a_circle_are_prepared_and_told_when_compiled() -> None:
    a = template({"a.html": "{% extends 'b.html' %}<style>p { color: red }</style><p>"})
    b = template({"b.html": "{% extends 'a.html' %}"})
    made, errors = prepared_all([a, b])
    assert (len(made), errors) == (2, [])
    with pytest.raises(TemplateError, match="circle"):
        asyncio.run(Library(StoredTemplates(tuple(made))).find("a"))


def test_preparing_what_is_prepared_keeps_its_look() -> None:
    once = inlined("<style>p { color: red }</style><p style='margin: 0'>x</p>")
    assert style(inlined(once), "p") == ["color: red;color: red;margin: 0"]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('\n<p title="x>y', 2),
        ("<p>\n<!-- x", 2),
        ("{{ a\n}}\n<style>p {", 3),
        ("\n\n<title>x</titl", 3),
        ("<p\n", 1),
        ("<!DOCTYPE html", 1),
        ("\n{{ a", 2),
        ("<div>" * 201, 1),
        ("<p>" * 10_001, 1),
    ],
)
def test_what_is_no_html_is_told_with_its_line(source: str, line: int) -> None:
    with pytest.raises(TemplateError) as caught:
        inlined(source)
    assert (caught.value.template, caught.value.line) == ("letter.html", line)


def test_the_private_character_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"U\+E000"):
        inlined(f"<p>{MARK}</p>")


@given(st.text(st.sampled_from("{%}#- \n'\"<>/=!abp"), max_size=50))
def test_a_source_is_restored_whatever_it_is(source: str) -> None:
    try:
        text, constructs = marked(source, "letter.html")
    except TemplateError:
        return
    assert restored(text, constructs) == source
    assert text.count(MARK) == len(constructs)
    for each in constructs:
        assert each[:2] in {"{{", "{%", "{#"}
        assert each[-2:] in {"}}", "%}", "#}"}


NAMES = st.sampled_from(["p", "td", "b"])
PIECES = st.one_of(
    st.sampled_from(
        [
            "text ",
            "&lt;",
            "{{ a }}",
            "{{ a|default('<p>') }}",
            "{# <p> #}",
            "<br>",
            "<!-- <p class='x'> -->",
            "< ",
        ]
    ),
    st.tuples(
        NAMES, st.sampled_from(["", " class=x", " class='x {{ a }}'", ' style="margin: 0"', " title='>'"])
    ).map(lambda t: f"<{t[0]}{t[1]}>"),
    NAMES.map(lambda name: f"</{name}>"),
    st.just("{% set b = a %}"),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_styles_alone_are_new_and_each_is_where_it_belongs(body: str) -> None:
    source = "<style>.x { color: red } td { padding: 1px }</style>" + body
    made = inlined(source)
    assert re.sub(r' style="[^"]*"', "", made) == source.replace(' style="margin: 0"', "")
    before, after = Elements(source).found, Elements(made).found
    assert [name for name, _ in before] == [name for name, _ in after]
    for (name, attributes), (_, styled) in zip(before, after, strict=True):
        assert {**styled, "style": None} == {**attributes, "style": None}
        written = styled.get("style") or ""
        assert written.endswith(attributes.get("style") or "")
        if name in {"p", "b"}:  # cells outside of a table are none
            assert ("color: red" in written) == ("x" in (attributes.get("class") or "").split())


# --- MJML --------------------------------------------------------------------------------------------

MJML = """{% set company = "A & B" %}
<mjml>
  <mj-head>
    <mj-title>{{ title }}</mj-title>
    <mj-style inline="inline">.price { color: green }</mj-style>
    <mj-style>.wide { width: {{ width }} }</mj-style>
  </mj-head>
  <mj-body>
    {# a comment #}
    <mj-raw>{% if n < 3 %}</mj-raw>
    <mj-section background-color="{{ color }}">
      <mj-column>
        <mj-text>Hi {{ name|default("a < b") }} {% for i in items %}<b class="price">{{ i }}</b>{% endfor %}</mj-text>
        <mj-button href="{{ url }}?a=1&amp;b={{ b }}">go</mj-button>
        <mj-table>{% for i in items %}<tr><td>{{ i }}</td></tr>{% endfor %}</mj-table>
      </mj-column>
    </mj-section>
    <mj-raw>{% endif %}</mj-raw>
  </mj-body>
</mjml>
"""


def test_mjml_says_no_language_and_no_title_that_it_does_not_know() -> None:
    made = inlined("<mjml><mj-body><mj-raw><p lang='und'>x</p></mj-raw></mj-body></mjml>")
    assert (made.count("und"), made.count("<title>")) == (1, 0)
    made = inlined("<mjml lang='ru'><mj-head><mj-title>T</mj-title></mj-head><mj-body></mj-body></mjml>")
    assert '<html lang="ru"' in made
    assert "<title>T</title>" in made


def test_mjml_becomes_html_with_all_constructs() -> None:
    made = inlined(MJML)
    assert "<mj" not in made
    assert made.startswith('{% set company = "A & B" %}\n<!doctype html>')
    variables = {
        "title": "T",
        "width": "9px",
        "n": 1,
        "color": "#123456",
        "name": "<Eve>",
        "items": ["x", "y"],
    }
    rendered = render({"letter.html": made}, {**variables, "url": "https://example.org/", "b": 2}).html
    assert rendered is not None
    found = Elements(rendered).found
    assert [a["href"] for name, a in found if name == "a"] == ["https://example.org/?a=1&b=2"]
    assert [a["style"] for name, a in found if name == "b"] == ["color: green", "color: green"]
    assert "#123456" in rendered
    assert "Hi &lt;Eve&gt;" in rendered
    assert "<tr><td>x</td></tr><tr><td>y</td></tr>" in rendered
    without = render({"letter.html": made}, {**variables, "n": 3}).html
    assert without is not None
    assert "Hi" not in without


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("<mj-section><mj-column width='{{ w }}'><mj-text>a</mj-text></mj-column></mj-section>", "drops"),
        ("<mj-section><mj-column><mj-text>a < b</mj-text></mj-column></mj-section>", "MJML"),
        ("<mj-section><mj-nosuch>a</mj-nosuch></mj-section>", "mj-nosuch"),
        ("<mj-include path='/etc/passwd' />", "MJML"),
        ("<mj-include path='http://127.0.0.1:1/' />", "MJML"),
        ("<mj-section>", "MJML"),
        ("</mj-body></mjml>text", "beside"),
    ],
)
def test_what_mjml_cannot_do_is_told(source: str, reason: str) -> None:
    end = "" if source.endswith("text") else "</mj-body></mjml>"
    with pytest.raises(TemplateError, match=reason) as caught:
        inlined(f"<mjml><mj-body>{source}{end}")
    assert caught.value.template == "letter.html"


def test_a_lost_construct_is_told_with_its_line() -> None:
    source = "{#\n#}<mjml><mj-body>\n<mj-section>\n<mj-column width='{{ w }}'></mj-column></mj-section></mj-body></mjml>"
    with pytest.raises(TemplateError, match="drops") as caught:
        inlined(source)
    assert caught.value.line == 4


# --- all of the time -----------------------------------------------------------------------------------

BODY = "<mjml><mj-body>{}</mj-body></mjml>"
CSS = "<style>{}</style>"


@pytest.mark.parametrize(
    "source",
    [
        "<" * 250_000,
        "<a " * 80_000,
        "<a b='" * 40_000,
        "<a " + "a " * 120_000,
        "<a " + "a=" * 120_000 + ">",
        "<!--" * 60_000,
        "<style>" * 30_000,
        "<style></style>" * 9_000,
        CSS.format("p{a:b}" * 10_000) + "<p>",
        CSS.format("p{a:b}" * 200) + "<p>" * 9_000,
        CSS.format("p{" + "a:b;" * 15_000 + "}") + "<p>" * 500,
        CSS.format("div " * 900 + "p{a:b}") + "<div>" * 190 + "<p>" * 5_000,
        CSS.format("* * * * * * * p{a:b}") + "<div>" * 190 + "<p>" * 5_000,
        CSS.format(":not(" * 2_000 + "p{a:b}") + "<p>",
        CSS.format("(" * 60_000) + "<p>",
        CSS.format("p:has(div) ~ * ~ * ~ *:nth-child(3n+1){a:b}") + "<div></div>" * 4_900,
        CSS.format("p{a:b}") + "<b><i><p>" * 60,
        CSS.format("p{a:b}") + ("<a>" * 150 + "<p>") * 60,
        CSS.format("p{a:b}") + "<table><tr><td>" * 190,
        CSS.format("p{a:b}") + "<div/>" * 30_000,
        CSS.format("p{a:b}") + "<li>" * 9_000,
        CSS.format("p{a:b}") + "<svg>" + "<path>" * 150,
        BODY.format("<div>" * 30_000),
        BODY.format("<mj-wrapper>" * 30_000),
        BODY.format("<mj-wrapper>" * 190 + "</mj-wrapper>" * 190),
        BODY.format(
            "<mj-section><mj-column><mj-text>" + "<br>" * 9_000 + "</mj-text></mj-column></mj-section>"
        ),
        BODY.format("<mj-section><mj-column><mj-text>a</mj-text></mj-column></mj-section>" * 1_500),
        BODY.format("<mj-text>" + "<p>" * 30_000),
        "<mjml>" * 30_000,
    ],
    ids=lambda source: f"{source[:30]} {len(source)}",
)
def test_no_html_takes_long(source: str) -> None:
    begun = process_time()
    try:
        assert inlined(source)
    except TemplateError as error:
        assert error.template == "letter.html"  # noqa: PT017  either of two is right
    assert process_time() - begun < SECONDS


def test_the_depth_that_is_allowed_is_far_from_the_end_of_the_stack() -> None:
    """In a process of its own: what it must not do is to end it. A thread's stack is smaller than the first's."""
    program = """if True:
        import threading
        from mailsender.templates import markup, prepare
        markup.MAX_DEPTH = 900
        threading.stack_size(1024 * 1024)
        def work():
            deep = "<div>" * 800
            prepare.prepared_html("<style>div p{a:b}</style>" + deep + "<p>", "x")
            end = "</div>" * 800
            body = f"<mj-section><mj-column><mj-text>{deep}{end}</mj-text></mj-column></mj-section>"
            prepare.prepared_html(f"<mjml><mj-body>{body}</mj-body></mjml>", "x")
            print("whole")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "whole"), done.stderr[-500:]


def test_styles_of_a_source() -> None:
    assert (
        styles_of("<style>a{b:c}</style>{% if x %}<style>d{e:f}</style>{% endif %}", "x") == "a{b:c}\nd{e:f}"
    )
    with pytest.raises(TemplateError, match="style"):
        styles_of("<style>a{", "x")


def test_tags_know_their_attributes() -> None:
    (tag,) = tags("<A b c=1 d='2' e=\"3\" f = g />")
    assert [(each.name, each.value) for each in tag.attributes] == [
        ("b", ""),
        ("c", "1"),
        ("d", "2"),
        ("e", "3"),
        ("f", "g"),
    ]
