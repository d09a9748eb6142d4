from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.message.headers import MAX_VALUE
from mailsender.templates.files import read_files
from mailsender.templates.library import Library
from mailsender.templates.template import (
    Limits,
    NoTemplate,
    Part,
    StoredTemplates,
    Template,
    TemplateError,
    normal_language,
    parse_reference,
    parse_source_name,
)
from tests.templates import compiled, html, render, template, text

EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00\r"), max_size=60)


class TextOf(HTMLParser):
    """The text and the values of attributes that a reader's program finds in HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found.extend(value or "" for _, value in attrs)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


# --- rendering -----------------------------------------------------------------------------------


def test_three_parts_from_one_set_of_variables() -> None:
    rendered = render(
        {
            "welcome.subject": "Welcome, {{ name }}\n",
            "welcome.html": "<p>{{ name }}</p>",
            "welcome.txt": "{{ name }}\n",
        },
        {"name": "Tom & <b>Co</b>"},
    )
    assert rendered.subject == "Welcome, Tom & <b>Co</b>"
    assert rendered.html == "<p>Tom &amp; &lt;b&gt;Co&lt;/b&gt;</p>"
    assert rendered.text == "Tom & <b>Co</b>"


def test_a_part_that_is_not_there_is_none() -> None:
    rendered = render({"welcome.txt": "Hi"})
    assert (rendered.subject, rendered.html, rendered.text) == (None, None, "Hi")


@given(TEXT)
def test_a_value_in_html_is_read_back_as_it_was_and_makes_no_tag(value: str) -> None:
    found = TextOf(html('<p title="{{ v }}">{{ v }}</p>', {"v": value}))
    assert found.tags == ["p"]
    assert found.found[0] == value
    assert "".join(found.found[1:]) == value


def test_later_layers_win_over_those_before() -> None:
    files = {"letter.txt": "{{ a }} {{ b }} {{ c }}"}
    everyone, letter, recipient = {"a": 1, "b": 1, "c": 1}, {"b": 2, "c": 2}, {"c": 3}
    assert render(files, everyone, letter, recipient).text == "1 2 3"


def test_layers_replace_whole_variables() -> None:
    with pytest.raises(TemplateError) as caught:
        render({"letter.txt": "{{ a.x }}"}, {"a": {"x": 1}}, {"a": {"y": 2}})
    assert caught.value.variable == "x"


def test_a_key_wins_over_a_method_of_the_same_name() -> None:
    source = "{% for each in order.items %}{{ each }}{% endfor %}"
    assert text(source, {"order": {"items": ["a", "b"]}}) == "ab"
    assert text("{% for k, v in o.items() %}{{ k }}{{ v }}{% endfor %}", {"o": {"a": 1}}) == "a1"


def test_lines_of_statements_alone_leave_no_line() -> None:
    assert text("{% if a %}\nyes\n{% endif %}\nend", {"a": 1}) == "yes\nend"


@pytest.mark.parametrize("fault", ["a\nb", "a\rb", "a\u2028b", "a\x00b"])
def test_a_subject_of_two_lines_is_refused(fault: str) -> None:
    with pytest.raises(TemplateError, match="the subject holds") as caught:
        render({"letter.subject": "Hi {{ name }}"}, {"name": fault})
    assert caught.value.template == "letter.subject"


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(TemplateError, match="surrogate"):
        text("{{ a }}", {"a": "\ud800"})


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "variable"),
    [
        ("{{ nam }}", 1, "nam"),
        ("Hi\n\n{{ name }} {{ nam }}", 3, "nam"),
        ("\n{{ user.nam }}", 2, "nam"),
        ("{{ user['nam'] }}", 1, "nam"),
        ("{{ user.nam.first }}", 1, "nam"),
        ("{% if nam %}{% endif %}", 1, "nam"),
        ("{% for each in nam %}{% endfor %}", 1, "nam"),
        ("{{ nam|upper }}", 1, "nam"),
        ("{{ nam|number }}", 1, "nam"),
        ("{{ nam|date }}", 1, "nam"),
        ("{{ nam + 1 }}", 1, "nam"),
        ("{{ nam ~ 'x' }}", 1, "nam"),
        ("{{ nam == 1 }}", 1, "nam"),
        ("{{ nam() }}", 1, "nam"),
        ("{{ [1, 2][nam] }}", 1, "nam"),
        ("{{ list[7] }}", 1, "7"),
    ],
)
def test_a_missing_variable_is_told_with_its_place(source: str, line: int, variable: str) -> None:
    with pytest.raises(TemplateError) as caught:
        text(source, {"name": "Anna", "user": {"name": "Anna"}, "list": [1]})
    error = caught.value
    assert (error.template, error.line, error.variable) == ("letter.txt", line, variable)
    assert str(error) == f"template letter.txt, line {line}, variable {variable}: it is missing"


def test_a_missing_variable_may_be_tested_and_have_a_default() -> None:
    assert text("{{ a|default('x') }}{% if a is defined %}y{% endif %}{{ 'z' if a is undefined }}") == "xz"


def test_an_error_in_another_source_names_that_one() -> None:
    footer = template({"footer.ru.txt": "\n\n{{ missing }}"})
    with pytest.raises(TemplateError) as caught:
        render({"letter.ru.txt": "{% include 'footer.txt' %}"}, {}, others=(footer,), lang="ru")
    assert (caught.value.template, caught.value.line) == ("footer.ru.txt", 3)


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ({"a": "SECRET"}, "{{ v }}"),
        (["SECRET"], "{{ v }}"),
        ("SECRET", "{{ v|number }}"),
        ("SECRET", "{{ v|date }}"),
        ("SECRET", "{{ v + 1 }}"),
        ("SECRET", "{{ v|money('EUR') }}"),
        ("SECRET", "{{ 1|money(v) }}"),
        ("SECRET", "{{ v() }}"),
        ({"SECRET": 1}, "{{ v < 1 }}"),
        ("SECRET", "{{ v|sum }}"),
        ("SECRET", "{{ v|round }}"),
        ("SECRET\n", "{{ v|abs }}"),
        ("SECRET", "{{ [1, v]|sort }}"),
        ("SECRET", "{{ '2026-11-29'|datetime('short', v) }}"),
        ("SECRET", "{{ {}[v] }}"),
        ("SECRET", "{{ {'a': 1}[v].b }}"),
        ("SECRET", "{{ [][v] }}"),
        ("SECRET", "{{ 'x'[v] }}"),
        ("SECRET", "{{ self[v] }}"),
        ("SECRET", "{{ [1]|map(v)|list }}"),
        ("SECRET", "{{ [1]|select(v)|list }}"),
        ("SECRET", "{{ {'a': 1}|dictsort(by=v) }}"),
        (4829137, "{{ [1][v] }}"),
    ],
)
def test_no_value_is_told_in_an_error(value: Any, source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        text(source, {"v": value})
    assert "SECRET" not in str(caught.value)
    assert "4829137" not in str(caught.value)
    assert caught.value.line == 1


@pytest.mark.parametrize("value", ["null", "[]", "{}"])
def test_what_is_no_text_and_no_number_is_not_written_out(value: str) -> None:
    import json

    with pytest.raises(TemplateError, match="cannot be written out"):
        text("{{ v }}", {"v": json.loads(value)})


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("\n{{ a", 2),
        ("{% if a %}", 1),
        ("\n\n{% nosuch %}", 3),
        ("{{ a|nosuch }}", 1),
        ("{{ a is nosuch }}", 1),
        ("{% for a in b %}" * 25 + "{% endfor %}" * 25, None),
    ],
)
def test_what_is_no_template_is_told_when_it_is_compiled(source: str, line: int | None) -> None:
    with pytest.raises(TemplateError) as caught:
        compiled({"letter.html": source})
    assert (caught.value.template, caught.value.line) == ("letter.html", line)


# --- one template in another -----------------------------------------------------------------------


def test_extends_include_and_import() -> None:
    layout = template(
        {"layout.html": "<body>{% block content %}{% endblock %}{% include 'foot.html' %}</body>"}
    )
    foot = template({"foot.html": "<i>{{ company }}</i>"})
    macros = template({"macros.html": "{% macro button(url) %}<a href='{{ url }}'>go</a>{% endmacro %}"})
    source = (
        "{% extends 'layout.html' %}{% from 'macros.html' import button %}"
        "{% block content %}{{ button(url) }}{% endblock %}"
    )
    rendered = render(
        {"letter.html": source}, {"company": "A&B", "url": "?a&b"}, others=(layout, foot, macros)
    )
    assert rendered.html == "<body><a href='?a&amp;b'>go</a><i>A&amp;B</i></body>"


@pytest.mark.parametrize(
    "source",
    [
        "{% include 'foot.txt' %}",  # not escaped as HTML has to be
        "{% include 'foot.ru.html' %}",
        "{% include 'foot' %}",
        "{% include '../foot.html' %}",
        "{% include '/etc/passwd' %}",
        "{% include 'nosuch.html' %}",
        "{% include 'nosuch.html' ignore missing %}",
        "{% include ['foot.html'] %}",
        "{% include name %}",
        "{% extends name %}",
        "{% extends 'foot.html' if name else 'foot.html' %}",
        "{% import name as x %}",
    ],
)
def test_another_template_is_named_by_a_constant_of_the_same_part(source: str) -> None:
    foot = template({"foot.html": "x", "foot.txt": "x", "foot.ru.html": "x"})
    with pytest.raises(TemplateError) as caught:
        compiled({"letter.html": source}, foot)
    assert (caught.value.template, caught.value.line) == ("letter.html", 1)


def test_templates_do_not_lead_back_to_themselves() -> None:
    a = template({"a.html": "{% include 'b.html' %}"})
    b = template({"b.html": "{% if x %}{% include 'a.html' %}{% endif %}"})
    with pytest.raises(TemplateError, match=r"leads back to a\.html"):
        compiled({"letter.html": "{% extends 'a.html' %}"}, a, b)
    with pytest.raises(TemplateError, match=r"leads back to letter\.html"):
        compiled({"letter.html": "{% include 'letter.html' %}"})


def test_a_chain_and_a_crowd_of_templates_are_bounded() -> None:
    chain = [template({f"t{i}.txt": f"{{% include 't{i + 1}.txt' %}}"}) for i in range(8)]
    chain.append(template({"t8.txt": "end"}))
    with pytest.raises(TemplateError, match="8 sources in a row"):
        compiled({"letter.txt": "{% include 't0.txt' %}"}, *chain)
    assert render({"letter.txt": "{% include 't2.txt' %}"}, {}, others=tuple(chain)).text == "end"
    crowd = [template({f"t{i}.txt": "x"}) for i in range(32)]
    source = "".join(f"{{% include 't{i}.txt' %}}" for i in range(32))
    with pytest.raises(TemplateError, match="32 sources"):
        compiled({"letter.txt": source}, *crowd)


def test_many_ways_through_few_templates_are_found_at_once() -> None:
    """Each of 7 in a row leads to all that follow, twice."""
    row = [
        template({f"t{i}.txt": "".join(f"{{% include 't{j}.txt' %}}" * 2 for j in range(i + 1, 7)) or "."})
        for i in range(7)
    ]
    assert render({"letter.txt": "{% include 't0.txt' %}"}, {}, others=tuple(row)).text == "." * 486


# --- languages -------------------------------------------------------------------------------------

WELCOME = {
    "welcome.subject": "Hello {{ 1.5|number }}",
    "welcome.ru.subject": "Привет {{ 1.5|number }}",
    "welcome.txt": "Hello",
    "welcome.ru.txt": "Привет",
    "welcome.pt-br.txt": "Olá",
}


@pytest.mark.parametrize(
    ("lang", "subject", "body"),
    [
        ("", "Hello 1.5", "Hello"),
        ("ru", "Привет 1,5", "Привет"),
        ("ru-RU", "Привет 1,5", "Привет"),
        ("ru_UA", "Привет 1,5", "Привет"),
        ("RU", "Привет 1,5", "Привет"),
        ("de", "Hello 1.5", "Hello"),  # German numbers have no place in English words
        ("de-CH", "Hello 1.5", "Hello"),
        ("pt-BR", "Hello 1.5", "Olá"),
        ("pt", "Hello 1.5", "Hello"),
        ("../../etc", "Hello 1.5", "Hello"),
        ("x" * 10_000, "Hello 1.5", "Hello"),
    ],
)
def test_the_language_of_the_reader_before_the_one_without(lang: str, subject: str, body: str) -> None:
    rendered = render(WELCOME, {}, lang=lang)
    assert (rendered.subject, rendered.text) == (subject, body)


def test_dates_are_written_as_in_the_country_of_the_reader() -> None:
    source = {"letter.txt": "{{ '2026-11-29'|date('short') }}"}
    assert render(source, lang="en-US").text == "11/29/26"
    assert render(source, lang="en-GB").text == "29/11/2026"


@pytest.mark.parametrize(
    ("source", "lang", "expected"),
    [
        ("{{ '2026-11-29'|date }}", "en", "November 29, 2026"),
        ("{{ '2026-11-29'|date }}", "ru", "29 ноября 2026\u202fг."),
        ("{{ '2026-11-29'|date }}", "de", "29. November 2026"),
        ("{{ '2026-11-29T23:30:00Z'|date('d MMMM', 'Europe/Moscow') }}", "ru", "30 ноября"),
        ("{{ '2026-11-29T23:30:00Z'|time('HH:mm', 'Asia/Tokyo') }}", "en", "08:30"),
        ("{{ '2026-11-29'|date('yyyy-MM-dd', 'America/New_York') }}", "en", "2026-11-29"),
        ("{{ '20261129'|datetime('yyyy-MM-dd HH:mm z', 'Asia/Tokyo') }}", "en", "2026-11-29 00:00 +0900"),
        ("{{ '2026-11-29T00:00:00'|date('yyyy-MM-dd', 'America/New_York') }}", "en", "2026-11-28"),
        ("{{ '2026-11-29T23:30:00+03:00'|datetime('yyyy-MM-dd HH:mm') }}", "en", "2026-11-29 23:30"),
        ("{{ 1234567.5|number }}", "en", "1,234,567.5"),
        ("{{ 1234567.5|number }}", "de", "1.234.567,5"),
        ("{{ 1234567|number }}", "ru", "1\u00a0234\u00a0567"),
        ("{{ '19.999'|number(2) }}", "en", "20.00"),
        ("{{ 0.155|percent(1) }}", "en", "15.5%"),
        ("{{ 0.15|percent }}", "ru", "15\u00a0%"),
        ("{{ 19.99|money('EUR') }}", "de", "19,99\u00a0€"),
        ("{{ '0.1'|money('JPY') }}", "en", "¥0"),
        ("{{ 1234.5|money('RUB') }}", "ru", "1\u00a0234,50\u00a0₽"),
    ],
)
def test_dates_numbers_and_money_in_words_of_the_language(source: str, lang: str, expected: str) -> None:
    files = {f"letter.{lang}.txt": source}
    assert render(files, {}, lang=lang).text == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "письмо"), (2, "письма"), (5, "писем"), (11, "писем"), (21, "письмо"), (22, "письма"), (0, "писем")],
)
def test_plurals_of_russian(count: int, expected: str) -> None:
    source = "{{ n|plural(one='письмо', few='письма', many='писем') }}"
    assert render({"letter.ru.txt": source}, {"n": count}, lang="ru").text == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1.0, "1 one"),
        ("1.00", "1 one"),
        ("1e0", "1 one"),
        (1.5, "1.5 other"),
        ("1.50", "1.5 other"),
        (100.0, "100 other"),
    ],
)
def test_a_plural_goes_with_what_is_written(count: Any, expected: str) -> None:
    assert text("{{ n|number }} {{ n|plural(one='one', other='other') }}", {"n": count}) == expected


def test_a_form_that_a_language_needs_and_nobody_gave() -> None:
    with pytest.raises(TemplateError, match="'few', which ru needs"):
        render({"letter.ru.txt": "{{ 2|plural(one='письмо') }}"}, {}, lang="ru")
    assert text("{{ 2|plural(one='letter', other='letters') }}") == "letters"


def test_equal_numbers_of_different_kinds_keep_their_own_words() -> None:
    assert text("{{ 1|number }} {{ 1.0|number }} {{ '1.00'|number(1) }}") == "1 1 1.0"
    with pytest.raises(TemplateError, match="true or false is no number"):
        text("{{ 1|number }} {{ true|number }}")


@pytest.mark.parametrize(
    "value",
    ["", "x", "1e400", "1e18", "nan", "inf", "-inf", "1" * 65, "1e-100", "0x10", [], {}, True, None, 10**18],
)
@pytest.mark.parametrize("name", ["number", "percent", "money('EUR')", "plural(other='x')"])
def test_what_is_no_number_is_told(name: str, value: Any) -> None:
    with pytest.raises(TemplateError) as caught:
        text(f"{{{{ v|{name} }}}}", {"v": value})
    assert "number" in caught.value.reason


@pytest.mark.parametrize("value", ["", "x", "29.11.2026", "2026-13-01", "2026-11-29" + " " * 99, 5, None, []])
def test_what_is_no_date_is_told(value: Any) -> None:
    with pytest.raises(TemplateError, match="ISO 8601"):
        text("{{ v|date }}", {"v": value})


@pytest.mark.parametrize("zone", ["Nowhere/At_All", "../../etc/passwd", "/etc/passwd", "", "x" * 65, 5])
def test_what_is_no_zone_is_told(zone: Any) -> None:
    with pytest.raises(TemplateError, match="Europe/Moscow"):
        text("{{ '2026-11-29T00:00:00Z'|date('short', zone) }}", {"zone": zone})


def test_a_language_that_nobody_knows_is_told_when_it_is_compiled() -> None:
    with pytest.raises(TemplateError, match="CLDR does not know the language qqq"):
        compiled({"letter.qqq.txt": "x"}, lang="qqq")


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("welcome.html", ("welcome", "", "html")),
        ("welcome.ru.html", ("welcome", "ru", "html")),
        ("welcome.pt-BR.mjml", ("welcome", "pt-br", "mjml")),
        ("welcome.schema.json", ("welcome", "", "schema.json")),
        ("welcome.ru.schema.json", None),
        ("welcome", None),
        ("welcome.htm", None),
        (".html", None),
        ("../welcome.html", None),
        ("a/b.html", None),
        ("welcome.ru.de.html", None),
        ("x" * 65 + ".html", None),
    ],
)
def test_names_of_files(name: str, parsed: tuple[str, str, str] | None) -> None:
    assert parse_source_name(name) == parsed


@pytest.mark.parametrize(
    ("reference", "parsed"), [("a", ("a", None)), ("a@3", ("a", "3")), ("a-b_C@1.0-x", ("a-b_C", "1.0-x"))]
)
def test_references(reference: str, parsed: tuple[str, str | None]) -> None:
    assert parse_reference(reference) == parsed


@pytest.mark.parametrize(
    "reference", ["", "@", "a@", "@1", "a.b", "a/b", "a@b@c", "a" * 65, "a@" + "1" * 65, "a\n"]
)
def test_what_is_no_reference_is_told(reference: str) -> None:
    with pytest.raises(TemplateError, match="name@version"):
        parse_reference(reference)


@given(st.text(max_size=20))
def test_a_language_is_a_tag_or_none(lang: str) -> None:
    tag = normal_language(lang)
    assert tag == "" or template({f"t.{tag}.txt": "x"}).languages == {tag}


# --- the library -----------------------------------------------------------------------------------


class Counted(Library):
    """Counts what is compiled."""

    count = 0

    async def compile(self, template: Template, lang: str = "") -> Any:
        self.count += 1
        return await super().compile(template, lang)


def test_a_template_is_compiled_once_for_each_version_and_language() -> None:
    store = StoredTemplates((template(WELCOME, "1"), template(WELCOME, "2")))
    library = Counted(store)

    async def ask() -> None:
        first = await library.find("welcome", "ru")
        assert first is await library.find("welcome", "ru-XX")  # a country that CLDR does not know
        assert first is await library.find("welcome@2", "RU")
        assert library.count == 1
        assert first is not await library.find("welcome@1", "ru")
        assert first is not await library.find("welcome")
        assert library.count == 3
        assert (first.name, first.version) == ("welcome", "2")

    asyncio.run(ask())


def test_only_so_many_are_kept_and_strangers_languages_take_no_room() -> None:
    library = Counted(
        StoredTemplates(template({f"t{i}.txt": str(i)}) for i in range(5)), kept=2
    )  # characters

    async def ask() -> None:
        for name in ("t0", "t1", "t2", "t1", "t3", "t1"):
            await library.find(name)
        assert library.count == 4  # t1 was used in between
        await library.find("t0")
        assert library.count == 5
        for number in range(300):
            await library.find("t0", f"xx-{number:04}")
        assert library.count == 5

    asyncio.run(ask())


def test_a_changed_layout_is_seen() -> None:
    stored = [template({"layout.txt": "old {% block a %}{% endblock %}"}, "1")]
    letter = template({"letter.txt": "{% extends 'layout.txt' %}{% block a %}x{% endblock %}"})

    class Store:
        async def find(self, name: str, version: str | None) -> Template | None:
            return {"layout": stored[-1], "letter": letter}.get(name)

    library = Counted(Store())

    async def ask() -> None:
        assert (await library.find("letter")).render().text == "old x"
        assert (await library.find("letter")).render().text == "old x"
        assert library.count == 1
        stored.append(template({"layout.txt": "new {% block a %}{% endblock %}"}, "1"))  # edited in place
        assert (await library.find("letter")).render().text == "new x"

    asyncio.run(ask())


def test_what_is_not_there_is_told() -> None:
    library = Library(StoredTemplates((template(WELCOME),)))
    for reference in ("nosuch", "welcome@9"):
        with pytest.raises(NoTemplate) as caught:
            asyncio.run(library.find(reference))
        assert caught.value.template == reference


def test_the_first_store_that_knows_a_name_wins() -> None:
    first = StoredTemplates((template({"a.txt": "first"}),))
    second = StoredTemplates((template({"a.txt": "second"}), template({"b.txt": "b"})))
    library = Library(first, second)
    assert asyncio.run(library.find("a")).render().text == "first"
    assert asyncio.run(library.find("b")).render().text == "b"


def test_check_finds_what_a_sample_shows_in_each_language() -> None:
    one = template(
        {"a.txt": "{{ name }}", "a.ru.txt": "{{ nam }}", "a.de.txt": "{{ name"},
        sample={"name": "Anna"},
        schema={"type": "object", "required": ["name"]},
    )
    found = asyncio.run(Library().check(one))
    assert sorted((each.template, each.variable) for each in found) == [
        ("a.de.txt", None),
        ("a.ru.txt", "nam"),
    ]


def test_check_holds_the_sample_to_the_schema() -> None:
    one = template({"a.txt": "x"}, sample={}, schema={"type": "object", "required": ["name"]})
    (error,) = asyncio.run(Library().check(one))
    assert error.variable == "name"


# --- files -----------------------------------------------------------------------------------------


def test_files_become_templates_and_a_bad_one_does_not_hide_the_others() -> None:
    templates, errors = read_files(
        {
            "good.txt": "x",
            "good.schema.json": "{}",
            "bad.html": "{{",
            "worse.schema.json": "[",
            "worse.txt": "x",
            "both.html": "x",
            "both.mjml": "<mjml></mjml>",
            "README.md": "x",
        }
    )
    assert [each.name for each in templates] == ["good"]
    assert sorted(each.template for each in errors) == ["README.md", "bad.html", "both", "worse.schema.json"]


def test_a_files_version_is_what_it_holds() -> None:
    def version(text: str, language: str = "en") -> str:
        (one,), errors = read_files({"a.txt": text}, language=language)
        assert not errors
        return one.version

    assert version("x") == version("x") != version("y")
    assert version("x", "ru") != version("x")


def test_a_file_with_a_schema_alone_makes_another_version() -> None:
    def version(schema: str) -> str:
        (one,), errors = read_files({"a.txt": "x", "a.schema.json": schema})
        assert not errors
        return one.version

    assert version("{}") != version('{"type": "object"}')
    assert version('{"a": 1, "b": 2}') == version('{"b": 2, "a": 1}')


# --- the two that come with it ---------------------------------------------------------------------


def examples() -> tuple[list[Template], list[TemplateError]]:
    return read_files({each.name: each.read_text("utf-8") for each in EXAMPLES.iterdir()})


def test_the_examples_are_whole() -> None:
    templates, errors = examples()
    assert not errors
    assert {each.name for each in templates} == {"codes-layout", "password", "retrieve"}
    library = Library(StoredTemplates(tuple(templates)))
    for each in templates:
        assert asyncio.run(library.check(each)) == []


@pytest.mark.parametrize("name", ["password", "retrieve"])
@pytest.mark.parametrize(
    ("lang", "minutes", "time"), [("en", "10 minutes", "6:10\u202fPM"), ("ru", "10 минут", "18:10")]
)
def test_an_example_says_its_code_in_both_bodies_alone(name: str, lang: str, minutes: str, time: str) -> None:
    templates, _ = examples()
    sample = next(each.sample for each in templates if each.name == name)
    assert sample
    library = Library(StoredTemplates(tuple(templates)))
    hostile = {"name": "<b>Eve</b>"}
    rendered = asyncio.run(library.find(name, lang)).render(sample, hostile)
    assert rendered.subject
    assert rendered.text
    assert rendered.html
    found = TextOf(rendered.html)
    assert "482913" not in rendered.subject, "relays quote subjects, and logs keep them"
    for part in (rendered.text, " ".join(found.found)):
        assert "482913" in part
        assert minutes in part
        assert time in part
        assert "<b>Eve</b>" in part
    assert "b" not in found.tags
    assert "{" not in rendered.text
    assert any(
        "letter-spacing: 6px" in each for each in found.found
    )  # the layout's style, in the code's element


def test_an_example_without_a_name() -> None:
    templates, _ = examples()
    library = Library(StoredTemplates(tuple(templates)))
    for each in templates:
        if each.sample:
            without = {key: value for key, value in each.sample.items() if key != "name"}
            for variables in ({**without, "name": None}, without):
                rendered = asyncio.run(library.find(each.name)).render(variables)
                assert rendered.text is not None
                assert rendered.text.startswith("Hello,")


def test_limits_are_settable() -> None:
    with pytest.raises(TemplateError, match="more than 3 bytes"):
        render({"letter.txt": "{{ a }}"}, {"a": "äö"}, limits=Limits(output=3))
    with pytest.raises(TemplateError, match="more than 10 bytes"):
        compiled({"letter.txt": "ä" * 6}, limits=Limits(source=10))
    assert Part("txt") is Part.TEXT


def test_a_subject_is_no_longer_than_a_header_may_be() -> None:
    assert Limits().subject == MAX_VALUE
    files = {"letter.subject": "{{ x }}", "letter.txt": "t"}
    assert render(files, {"x": "x" * MAX_VALUE}).subject == "x" * MAX_VALUE
    with pytest.raises(TemplateError, match="the subject has 8001 characters; 8000 are allowed") as caught:
        render(files, {"x": "x" * (MAX_VALUE + 1)})
    assert caught.value.template == "letter.subject"
