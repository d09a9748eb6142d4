"""Templates that want out, or want all of the time or memory."""

# ruff: noqa: E501  sources of templates

from __future__ import annotations

import tracemalloc
from time import process_time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from mailsender.templates.filters import filters_of, locale_of
from mailsender.templates.filters import tests as named_tests
from mailsender.templates.template import Limits, TemplateError
from tests.templates import compiled, html, render, template, text

VARIABLES: dict[str, Any] = {
    "a": 1,
    "text": "a b<c>&" * 10_000,
    "numbers": list(range(3_000)),
    "words": [f"w{i}" * 5 for i in range(2_000)],
    "rows": [{"n": i % 7, "s": "x" * 20, "d": f"2026-11-{i % 28 + 1:02}"} for i in range(700)],
    "keys": {f"k{i}": i for i in range(1_000)},
}

SECONDS = 3.0
"""Of the processor, several times what the worst takes."""

MEMORY = 64 * 1024 * 1024


def refused(source: str, *, part: str = "html", lines: int = 1) -> TemplateError:
    """The error that a template ends with, which has to come soon and cheaply."""
    begun = process_time()
    with pytest.raises(TemplateError) as caught:
        render({f"letter.{part}": source}, VARIABLES)
    assert process_time() - begun < SECONDS
    return caught.value


# --- out of the sandbox ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ ''['__cla' ~ 'ss__'] }}",
        "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
        "{{ (''|attr('__class__')) }}",
        "{{ ['']|map(attribute='__class__')|list|length }}{{ ['']|map(attribute='__class__')|first }}",
        "{{ ['']|map('attr', '__class__')|first }}",
        "{{ [text]|groupby('__class__')|first|first }}",
        "{{ ['']|sum(attribute='__class__') }}",
        "{{ [{}]|sort(attribute='__class__')|first }}{{ [{}]|map(attribute='__class__')|join }}",
        "{{ [text]|selectattr('__class__')|first }}",
        "{{ '{0.__class__}'.format(a) }}",
        "{{ '{x.__class__}'.format_map({'x': a}) }}",
        "{{ ['{0.__class__}'.format]|map('string')|first }}",
        "{% set f = 'x'['format'] %}{{ f(a) }}",
        "{{ ('x'|e).format(a) }}",
        "{{ '%s'|format(a) }}",
        "{{ '%s' % a }}",
        "{{ self.__init__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ self['_TemplateReference__context'] }}",
        "{% for x in [1] %}{{ loop.__init__ }}{% endfor %}",
        "{% for x in [1] %}{{ loop['_iterator'] }}{% endfor %}",
        "{% for x in [1] %}{{ loop._undefined }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
        "{% macro m() %}{% endmacro %}{{ m['_environment'] }}",
        "{% macro m() %}{% endmacro %}{{ m._func }}",
        "{% set n = namespace(a=1) %}{{ n['__class__'] }}",
        "{% set n = namespace(a=1) %}{{ n['_Namespace__attrs'] }}",
        "{{ namespace.__init__ }}",
        "{{ namespace.mro() }}",
        "{{ range.__globals__ }}",
        "{{ range.__self__ }}",
        "{{ cycler.__init__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ joiner }}{{ dict }}",
        "{{ request }}{{ config }}",
        "{{ undefined.__class__ }}",
        "{{ (1).real }}{{ (1).bit_length() }}",
        "{{ [].append(1) }}",
        "{{ numbers.pop() }}",
        "{{ keys.clear() }}",
        "{{ keys.update({}) }}",
        "{{ keys.setdefault('a', 1) }}",
        "{{ text.encode() }}",
        "{{ text.translate({}) }}",
        "{{ text.join(words) }}",
        "{{ text.replace('a', 'b') }}",
        "{{ text.zfill(10) }}",
        "{{ ('x'|e).unescape() }}",
        "{{ ''.mro() }}",
        "{{ {}.fromkeys(numbers) }}",
        "{{ text|xmlattr }}",
        "{{ text|pprint }}",
        "{{ keys|xmlattr }}",
        "{{ numbers|random }}",
        "{{ words|map('a tick')|list|length }}",
        "{{ [-100000]|map('a tick')|list }}",
        "{{ [a]|map('a key')|map('an each')|list }}",
        "{% autoescape false %}{{ text }}{% endautoescape %}",
        "{% for x in words recursive %}{{ loop(x) }}{% endfor %}",
        "{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1) }}",
        "{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(x=1) }}",
        "{{ range(*[1, 2]) }}",
        "{{ range(**{'a': 1}) }}",
        "{% set n = a %}{% set n.x = 1 %}",
        "{{ text() }}{{ a() }}",
        "{{ none() }}",
        "{{ {numbers: 1} }}",
        "{{ {[1]: 1} }}",
        "{{ keys[[1]] }}",
        "{% do a %}",
        "{% break %}",
        "{% debug %}",
        "{% trans %}x{% endtrans %}",
        "{{ [''.upper]|map('string')|first }}",
        "{{ ''.upper|string }}",
        "{{ (''.upper)|tojson }}",
        "{% block b %}x{% endblock %}{{ self.b|string }}",
        "{{ self|string }}",
        "{% macro m() %}{% endmacro %}{{ m|string }}",
        "{% macro m() %}{% endmacro %}{{ {'m': m}|tojson }}",
        "{% macro m() %}{% endmacro %}{{ 'x'|replace('x', m) }}",
        "{% for x in [1] %}{{ loop|string }}{% endfor %}",
        "{{ namespace|string }}{{ range|string }}",
        "{{ namespace(f=keys.get)|string }}",
        "{{ [namespace(f=namespace(g=keys.get))]|tojson }}",
    ],
)
def test_nothing_leads_out(source: str) -> None:
    error = refused(source)
    assert "Traceback" not in str(error)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ numbers|batch(3, 'y') }}", "batch takes linecount beside its value, not what it is given"),
        ("{{ numbers|batch }}", "batch takes linecount beside its value, not what it is given"),
        ("{{ text|upper(1) }}", "upper takes nothing beside its value, not what it is given"),
        ("{{ 1|money }}", "money takes currency beside its value, not what it is given"),
        ("{{ 1|plural('a', 'b') }}", "plural takes forms beside its value, not what it is given"),
        ("{{ numbers|join(',', none, 1) }}", "join takes separator, attribute beside its value, not what it"),
        ("{{ a is divisibleby }}", "divisibleby takes num beside its value, not what it is given"),
        ("{{ numbers|batch('x') }}", "batch cannot be made of a list with what it is given"),
        ("{{ a|join }}", "join cannot be made of a number with what it is given"),
        ("{{ a is in(a) }}", "in cannot be made of a number with what it is given"),
    ],
)
def test_wrong_arguments_are_told_in_words_of_templates(source: str, told: str) -> None:
    assert told in str(refused(source))


def test_filters_and_tests_are_those_that_are_named() -> None:
    english = locale_of("en")
    assert english is not None
    names = set(filters_of(english))
    assert {"format", "attr", "xmlattr", "random", "urlize", "striptags", "wordwrap", "center"}.isdisjoint(
        names
    )
    assert {"date", "money", "plural", "number", "percent", "time", "datetime"} <= names - set(FILTERS)
    assert set(named_tests()) < set(TESTS)
    assert {"filter", "test", "callable", "sameas", "escaped"}.isdisjoint(named_tests())


def test_variables_of_a_letter_change_nothing_for_the_next_one() -> None:
    one = compiled({"letter.txt": "{% set ns = namespace(n=0) %}{% set ns.n = ns.n + x %}{{ ns.n }}"})
    assert [one.render({"x": x}).text for x in (1, 2, 1)] == ["1", "2", "1"]


def test_an_imported_template_sees_no_letter_and_costs_each_letter_the_same() -> None:
    macros = template({"macros.txt": "{% set total = 0 %}{% macro m(x) %}{{ x }}{{ total }}{% endmacro %}"})
    source = "{% import 'macros.txt' as macros %}{{ macros.m(secret) }}"
    one = compiled({"letter.txt": source}, macros)
    assert [one.render({"secret": x}).text for x in ("a", "b")] == ["a0", "b0"]
    seeing = template({"macros.txt": "{{ secret }}"})
    with pytest.raises(TemplateError) as caught:
        compiled({"letter.txt": source}, seeing)
    assert caught.value.variable == "secret"


LINKS = """{% set n = namespace(urls=[]) %}
{% macro link(url) %}{% set n.urls = n.urls + [url] %}[{{ n.urls|length }}]{% endmacro %}
{% macro all() %}{{ n.urls|join(" ") }}{% endmacro %}"""


@pytest.mark.parametrize(
    "source",
    [
        "{% import 'links.txt' as links %}{{ links.link(url) }}{{ links.all() }}",
        "{% from 'links.txt' import link, all %}{{ link(url) }}{{ all() }}",
        "{% from 'links.txt' import n %}{% set n.urls = n.urls + [url] %}[1]{{ n.urls|join(' ') }}",
        "{% import 'outer.txt' as links %}{{ links.link(url) }}{{ links.all() }}",
    ],
)
def test_a_namespace_of_an_imported_template_begins_anew_with_each_letter(source: str) -> None:
    """What one recipient's letter put into it would stand in the next one's."""
    outer = template(
        {
            "outer.txt": "{% import 'links.txt' as links %}{% macro link(url) %}{{ links.link(url) }}{% endmacro %}"
            "{% macro all() %}{{ links.all() }}{% endmacro %}"
        }
    )
    one = compiled({"letter.txt": source}, template({"links.txt": LINKS}), outer)
    assert [one.render({"url": url}).text for url in ("a", "b", "b")] == ["[1]a", "[1]b", "[1]b"]


def test_all_imports_of_a_letter_share_one_namespace() -> None:
    links = template({"links.txt": LINKS})
    layout = template({"layout.txt": "{% import 'links.txt' as l %}{% block b %}{% endblock %}{{ l.all() }}"})
    source = (
        "{% extends 'layout.txt' %}{% block b %}{% import 'links.txt' as l %}{{ l.link(url) }}{% endblock %}"
    )
    one = compiled({"letter.txt": source}, links, layout)
    assert [one.render({"url": url}).text for url in ("a", "b")] == ["[1]a", "[1]b"]


# --- all of the time, all of the memory ----------------------------------------------------------------

NAMESPACES = (
    "{% set n = namespace(v='') %}{% for i in range(20) %}{% set n.v = namespace(l=n.v, r=n.v) %}{% endfor %}"
)
"""In each other, each twice: a million of them, for whoever writes them."""
GROUPS = (
    "{% set w = words|join(' ') %}{% set a = w.split(' ')|groupby('0')|first %}"
    "{% set b = w.split(' ')|groupby('0')|first %}"
)
"""Two equal ones, each of all the words, which begin alike."""

FOREVER = {
    "loop": "{% for i in range(10**9) %}{% endfor %}",
    "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "loop that skips": "{% for i in numbers %}{% for j in numbers if false %}{% endfor %}{% endfor %}",
    "loop over a text": "{% for i in numbers %}{% for c in text %}{% endfor %}{% endfor %}",
    "conditions": "{% for i in numbers %}" + "{% if a %}{% endif %}" * 900 + "{% endfor %}",
    "ternaries": "{% for i in numbers %}" + "{{ 1 if a else 2 }}" * 900 + "{% endfor %}",
    "names": "{% for i in numbers %}" + "{% set b = a %}" * 900 + "{% endfor %}",
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro by two": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(19) }}",
    "caller": "{% macro m() %}{{ caller() }}{% endmacro %}"
    "{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
    "block": "{% block b %}{{ self.b() }}{% endblock %}",
    "text times": "{{ 'x' * 10**9 }}",
    "text times, bit by bit": "{% for i in numbers %}{% set x = 'x' * 30000 %}{% endfor %}",
    "text plus": "{% set x = 'xxxxxxxx' %}" + "{% set x = x + x %}" * 40 + "{{ x }}",
    "text and text": "{% set x = 'xxxxxxxx' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "list times": "{{ [1] * 10**9 }}",
    "list plus": "{% set x = numbers %}" + "{% set x = x + x %}" * 40,
    "list of lists": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 40 + "{{ x == x }}",
    "tuple as a key": "{% set x = (1, 1) %}" + "{% set x = (x, x) %}" * 40 + "{{ {x: 1} }}",
    "object of objects": "{% set x = {'a': 1} %}" + "{% set x = {'a': x, 'b': x} %}" * 40 + "{{ x|tojson }}",
    "list in a namespace": "{% set n = namespace(x=[1]) %}{% for i in numbers %}{% set n.x = [n.x, n.x] %}{% endfor %}",
    "namespaces": NAMESPACES + "{{ n.v|string|length }}",
    "namespaces as JSON": NAMESPACES + "{{ n.v|tojson|length }}",
    "namespaces in HTML": NAMESPACES + "{{ n.v|e|length }}",
    "namespaces in a list": NAMESPACES + "{{ [n.v]|string|length }}",
    "namespaces of objects": NAMESPACES + "{{ {'a': namespace(b=[n.v])}|tojson|length }}",
    "groups": GROUPS
    + "{% for i in range(2000) %}{% if a == b and a == b and a == b %}{% endif %}{% endfor %}",
    "groups, is equal": GROUPS
    + "{% for i in range(2000) %}{% if a is eq b and a is eq b and a is eq b %}{% endif %}{% endfor %}",
    "captured": "{% for i in numbers %}{% set x %}{{ text }}{{ text }}{% endset %}{% endfor %}",
    "captured data": "{% set x %}{% for i in range(90000) %}" + "d" * 9000 + "{% endfor %}{% endset %}",
    "captured small data": "{% set x %}{% for i in range(99000) %}" + "d" * 250 + "{% endfor %}{% endset %}",
    "filtered": "{% for i in numbers %}{% filter upper %}{{ text }}{% endfilter %}{% endfor %}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "power, bit by bit": "{% set x = 3 ** 80 %}{{ x * x * x * x }}",
    "negative power": "{{ 10 ** -(10**9) }}",
    "remainder": "{{ '%1000000000d' % 1 }}",
    "width": "{{ '%1000000000d'|format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "center": "{{ 'x'|center(10**9) }}",
    "indent": "{{ 'x'|indent(10**9) }}",
    "indent, bit by bit": "{% for i in numbers %}{{ ('\n' * 9000)|indent(40)|length }}{% endfor %}",
    "replace": "{{ ('a' * 90000)|replace('a', 'a' * 90000) }}",
    "replace nothing": "{{ 'a'|replace('', 'b') }}",
    "join": "{{ numbers|join('x' * 90000) }}",
    "batch": "{{ [1]|batch(10**9, 0)|list }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "round": "{{ 1|round(10**9, 'ceil') }}",
    "wordwrap": "{{ text|wordwrap(1) }}",
    "urlize": "{{ text|urlize }}",
    "lipsum": "{{ lipsum(10**9) }}",
    "sum of lists": "{{ [numbers]|sum(start=[]) }}",
    "sort": "{% for i in numbers %}{{ words|sort|length }}{% endfor %}",
    "unique": "{% for i in numbers %}{{ words|unique|list|length }}{% endfor %}",
    "groupby": "{% for i in numbers %}{{ rows|groupby('n')|length }}{% endfor %}",
    "dictsort": "{% for i in numbers %}{{ keys|dictsort|length }}{% endfor %}",
    "map": "{% for i in numbers %}{{ words|map('upper')|list|length }}{% endfor %}",
    "map of dates": "{% for i in numbers %}{{ rows|map(attribute='d')|map('date', 'EEEE')|list|length }}{% endfor %}",
    "selectattr": "{% for i in numbers %}{{ rows|selectattr('n', 'eq', 3)|list|length }}{% endfor %}",
    "title": "{% for i in numbers %}{{ text|title|length }}{% endfor %}",
    "escape": "{% for i in numbers %}{{ text|e|length }}{% endfor %}",
    "truncate": "{% for i in numbers %}{{ text|truncate(69000)|length }}{% endfor %}",
    "urlencode": "{% for i in numbers %}{{ text|urlencode|length }}{% endfor %}",
    "split": "{% for i in numbers %}{{ text.split(' ')|length }}{% endfor %}",
    "in a text": "{% for i in numbers %}{% if 'zzz' in text %}{% endif %}{% endfor %}",
    "in a list": "{% for i in numbers %}{% if 'zzz' in words %}{% endif %}{% endfor %}",
    "is in": "{% for i in numbers %}{% if 'zzz' is in words %}{% endif %}{% endfor %}",
    "equal": "{% for i in numbers %}{% if rows == rows|list %}{% endif %}{% endfor %}",
    "is equal": "{% for i in numbers %}{% if rows is eq rows %}{% endif %}{% endfor %}",
    "slices": "{% for i in numbers %}{% set x = numbers[1:] %}{% endfor %}",
    "changed": "{% for i in numbers %}{{ loop.changed(rows) }}{% endfor %}",
    "trim": "{% for i in numbers %}{{ text|trim('ab') }}{% endfor %}",
    "trim of much": "{{ text|trim(text) }}",
    "tojson": "{% for i in numbers %}{{ rows|tojson|length }}{% endfor %}",
    "amounts": "{% for i in range(50000) %}{{ i|money('EUR') }}{% endfor %}",
    "a pattern": "{{ '2026-11-29'|date('y' * 90000) }}",
    "decimals": "{{ 1|number(10**9) }}",
    "exponent": "{{ '1e1000000000'|money('EUR') }}",
    "digits": "{{ ('9' * 4000)|int + 1 }}",
    "written": "{% for i in range(5000) %}" + "{{ text }}" + "{% endfor %}",
}


@pytest.mark.parametrize("name", FOREVER)
def test_nothing_goes_on_forever(name: str) -> None:
    refused(FOREVER[name])


@pytest.mark.parametrize(
    "name", ["list of lists", "captured", "captured data", "written", "join", "text and text"]
)
def test_nothing_fills_the_memory(name: str) -> None:
    one = compiled({"letter.html": FOREVER[name]})
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            one.render(VARIABLES)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(90000) %}{% include 'part.html' %}{% endfor %}",
        "{% for i in range(90000) %}{% import 'part.html' as p with context %}{% endfor %}",
        "{% for i in range(90000) %}{% block b scoped %}{% endblock %}{% endfor %}",
        "{% for i in range(90000) %}{% include 'part.html' without context %}{% endfor %}",
    ],
)
def test_what_copies_all_variables_counts_them(source: str) -> None:
    """Each of thousands of includes would copy thousands of variables."""
    one = template({"part.html": ""})
    begun = process_time()
    with pytest.raises(TemplateError):
        render({"letter.html": source}, {f"v{i}": i for i in range(9_000)}, others=(one,))
    assert process_time() - begun < SECONDS


def test_what_is_included_counts_too() -> None:
    big = template({"big.html": "d" * 100_000})
    source = "{% set x %}{% for i in range(5000) %}{% include 'big.html' %}{% endfor %}{% endset %}"
    with pytest.raises(TemplateError, match="steps"):
        render({"letter.html": source}, {}, others=(big,))


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 200_000,
        "{{ " + "(" * 90 + "a" + ")" * 90 + " }}",
        "{{ " + "[" * 150 + "]" * 150 + "|length }}",
        "{{ " + "not " * 50_000 + "a }}",
        "{{ a" + ".b" * 100_000 + " }}",
        "{{ a" + "|e" * 100_000 + " }}",
        "{{ 1" + "+1" * 100_000 + " }}",
        "{{ 1" + "+1" * 200 + " }}",
        "{{ a" + "~a" * 100_000 + " }}",
        "{{ [" + "1," * 100_000 + "]|length }}",
        "{{ " + "9" * 200_000 + " }}",
        "{{ " + "9" * 4_000 + " }}",
        "{{ 0x" + "f" * 200_000 + " }}",
        "{{ " + "9" * 400 + ".0 }}",
        "{% if a %}" * 300 + "{% endif %}" * 300,
        "{% for i in a %}" * 30 + "{% endfor %}" * 30,
        "{{ a }}" * 30_000,
        "{##}" * 60_000,
        "{{",
        "{{" * 100_000,
        "{%" * 100_000,
        "{#" * 100_000,
        "{% raw %}" * 20_000,
        "{{ '" + "a" * 200_000,
        "{{ a" + " " * 200_000,
        "x" * (256 * 1024 + 1),
    ],
    ids=lambda source: f"{source[:16]} {len(source)}",
)
def test_no_source_takes_long_to_refuse(source: str) -> None:
    refused(source)


@pytest.mark.parametrize(
    "source",
    [
        " \n" * 100_000,
        "{{ a" + " " * 200_000 + "}}",
        "{{ '" + "\\'" * 100_000 + "'|length }}",
        "{% if a %}" + "{% elif a %}" * 300 + "{% endif %}",
        "".join(f"{{{{ a{i}|default(1) }}}}" for i in range(1_500)),
        "<p>" * 80_000,
    ],
    ids=lambda source: f"{source[:16]} {len(source)}",
)
def test_no_source_takes_long_to_compile(source: str) -> None:
    begun = process_time()
    compiled({"letter.txt": source})
    assert process_time() - begun < SECONDS


# --- what has to go on working -----------------------------------------------------------------------


def test_a_table_of_a_thousand_rows_is_well_within_the_limits() -> None:
    source = (
        "<table>{% for row in rows %}<tr class='{{ loop.cycle('a', 'b') }}'><td>{{ loop.index }}</td>"
        "<td>{{ row.name }}</td><td>{{ row.count|number }}</td><td>{{ row.price|money('EUR') }}</td>"
        "{% if row.note %}<td>{{ row.note }}</td>{% endif %}</tr>{% endfor %}</table>{{ rows|sum('price') }}"
    )
    rows = [{"name": f"Thing {i}", "count": i, "price": i / 4, "note": ""} for i in range(1_000)]
    letter = compiled({"letter.html": source}).render({"rows": rows}).html
    assert letter is not None
    assert letter.count("<tr") == 1_000
    with pytest.raises(TemplateError, match="more than 1000 steps"):
        compiled({"letter.html": source}, limits=Limits(steps=1_000)).render({"rows": rows})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 7 // 2 }} {{ 7 % 2 }} {{ 2 ** 10 }} {{ -7 + 2.5 }} {{ 1 / 4 }} {{ 3 - 1 }}", "3 1 1024 -4.5 0.25 2"),
        ("{{ '=' * 5 }}{{ 'a' + 'b' }}{{ 'a' ~ 1 ~ true }}", "=====aba1True"),
        ("{{ ([1] + [2, 3])|join('-') }}", "1-2-3"),
        ("{{ 1 < 2 <= 2 != 3 }} {{ 'b' in 'abc' }} {{ 4 not in [1, 2] }}", "True True True"),
        ("{{ [1, 2, 3][1:]|join }}{{ 'abc'[::-1] }}{{ 'abc'[0] }}{{ [1, 2][-1] }}", "23cba" + "a" + "2"),
        ("{{ (1, 2)|join(',') }} {{ {'a': 1}.a }} {{ {'a': {'b': 2}}['a'].b }}", "1,2 1 2"),
        ("{{ ['b', 'a', 'B']|sort|join }} {{ [3, 1]|max }} {{ [1, 1, 2]|unique|join }}", "abB 3 12"),
        ("{{ [{'n': 1, 'v': 2}, {'n': 1, 'v': 3}]|sum('v') }}", "5"),
        ("{{ [{'n': 1}, {'n': 2}]|map(attribute='n')|join(',') }}", "1,2"),
        ("{{ [{'n': 1}, {'n': 2}]|selectattr('n', 'gt', 1)|map(attribute='n')|first }}", "2"),
        ("{% for k, g in [{'n': 1}, {'n': 2}, {'n': 1}]|groupby('n') %}{{ k }}:{{ g|length }} {% endfor %}", "1:2 2:1 "),
        ("{% for g in [{'n': 1}]|groupby('n') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}", "11"),
        ("{% for k, v in {'b': 1, 'a': 2}|dictsort %}{{ k }}{{ v }}{% endfor %}", "a2b1"),
        ("{% for row in [1, 2, 3]|batch(2) %}{{ row|join(',') }};{% endfor %}", "1,2;3;"),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 'aXbX'|replace('X', '-') }}{{ 'aXbX'|replace('X', '-', 1) }}", "a-b-a-bX"),
        ("{{ 2.345|round(2) }} {{ 2.1|round(method='ceil') }}", "2.35 3.0"),
        ("{{ ' x '|trim }}{{ '--x'|trim('-') }}", "xx"),
        ("{{ 'one two three'|truncate(7, leeway=0) }}", "one..."),
        ("{{ 'a b'|urlencode }} {{ 'ab'|title }} {{ 'ab'|length }} {{ [1, 2]|last }}", "a%20b Ab 2 2"),
        ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{% set n, o = namespace(n=1), namespace(n=2) %}{{ [n, o]|map(attribute='n')|join }}{{ (n|d(o)).n }}", "121"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=3) }}", "1213"),
        ("{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}", "[x]"),
        ("{% macro m() %}{% if caller is defined %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}x{% endcall %}",
         "x"),
        ("{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(9) }}", "9876543210"),
        ("{% filter upper %}a{{ 'b' }}{% endfilter %}", "AB"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}{{ x }}", "a1a1"),
        ("{% with a = 1 %}{{ a }}{% endwith %}", "1"),
        ("{% for i in range(3) %}{{ loop.index }}{{ loop.first }}{% if not loop.last %},{% endif %}{% endfor %}",
         "1True,2False,3False"),
        ("{% for i in [] %}x{% else %}none{% endfor %}", "none"),
        ("{% for i in [1, 2, 3] if i is odd %}{{ i }}{% endfor %}", "13"),
        ("{% for c in 'ab' %}{{ loop.previtem|default('-') }}{{ c }}{% endfor %}", "-aab"),
        ("{{ 'a,b'.split(',')|join('+') }}{{ 'ab'.startswith('a') }}{{ 'AB'.lower() }}", "a+bTrueab"),
        ("{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.keys()|first }}{{ {'a': 1}|items|first|join }}", "2aa1"),
        ("{% block a %}x{% endblock %}{{ self.a() }}", "xx"),
        ("{{ none|default('n', true) }}{{ ''|default('e', true) }}", "ne"),
        ("{% raw %}{{ x }}{% endraw %}{# no #}", "{{ x }}"),
    ],
)  # fmt: skip
def test_what_templates_of_letters_need(source: str, expected: str) -> None:
    assert text(source) == expected


@pytest.mark.parametrize("filtered", ["money('EUR')", "number(1)", "percent"])
def test_a_zero_has_no_sign_whichever_letter_came_before(filtered: str) -> None:
    zeros = [html(f"{{{{ x|{filtered} }}}}", {"x": x}) for x in (-0.0, 0.0, "-0.00", "0.00")]
    assert zeros[:2] == [zeros[2]] * 2 == [zeros[3]] * 2
    assert "-" not in zeros[0]


def test_concatenated_and_joined_texts_are_escaped_as_jinja_does() -> None:
    variables = {"a": "<a>", "b": ["<b>", "&"]}
    assert html("{{ a ~ '<i>' }}", variables) == "&lt;a&gt;&lt;i&gt;"
    assert html("{{ a ~ ('<i>'|safe) }}", variables) == "&lt;a&gt;<i>"
    assert html("{{ b|join('<br>'|safe) }}", variables) == "&lt;b&gt;<br>&amp;"
    assert html("{{ b|join('<br>') }}", variables) == "&lt;b&gt;&lt;br&gt;&amp;"
    assert html("{% set x %}<p>{{ a }}</p>{% endset %}{{ x }}", variables) == "<p>&lt;a&gt;</p>"
    assert html("<a data-x='{{ b|tojson }}'></a>", {"b": {"k": "<'&>"}}) == (
        '<a data-x=\'{"k":"\\u003c\\u0027\\u0026\\u003e"}\'></a>'
    )


# --- property: whatever a template is, it ends -------------------------------------------------------

NAMES = st.sampled_from(["a", "text", "numbers", "words", "rows", "keys", "x", "loop", "nosuch"])
LEAVES = st.one_of(
    NAMES,
    st.integers(-3, 10**12).map(str),
    st.sampled_from(["'s'", "[]", "{}", "none", "true", "1.5", "'%s'", "'{}'"]),
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(
        ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or", "is eq"]
    )
    english = locale_of("en")
    assert english is not None
    filters = st.sampled_from(
        [*sorted(name for name in filters_of(english) if " " not in name), "attr", "format"]
    )
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, filters).map(lambda t: f"({t[0]}|{t[1]})"),
        st.tuples(inner, filters, inner).map(lambda t: f"({t[0]}|{t[1]}({t[2]}))"),
        st.tuples(inner, inner).map(lambda t: f"[{t[0]}, {t[1]}]"),
        st.tuples(inner, inner).map(lambda t: f"{{{t[0]}: {t[1]}}}"),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}[{t[1]}]"),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}[{t[1]}:]"),
        st.tuples(inner, st.sampled_from(["s", "items", "format", "__class__", "index", "split"])).map(
            ".".join
        ),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=8)
STATEMENTS = st.recursive(
    EXPRESSIONS.map(lambda e: f"{{{{ {e} }}}}") | EXPRESSIONS.map(lambda e: f"{{% set x = {e} %}}"),
    lambda inner: st.one_of(
        st.tuples(EXPRESSIONS, inner).map(lambda t: f"{{% for a in {t[0]} %}}{t[1]}{{% endfor %}}"),
        st.tuples(EXPRESSIONS, inner).map(lambda t: f"{{% if {t[0]} %}}{t[1]}{{% endif %}}"),
        inner.map(lambda each: f"{{% set x %}}{each}{{% endset %}}{{{{ x }}}}"),
        inner.map(lambda each: f"{{% macro m(a) %}}{each}{{% endmacro %}}{{{{ m(x) }}}}"),
        st.tuples(inner, inner).map("".join),
    ),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STATEMENTS)
def test_whatever_a_template_does_it_ends_in_a_letter_or_an_error(source: str) -> None:
    begun = process_time()
    try:
        written = html(source, VARIABLES)
    except TemplateError as error:
        assert error.template == "letter.html"  # noqa: PT017  either of two is right
    else:
        assert len(written.encode()) <= Limits().output
    assert process_time() - begun < SECONDS


@settings(deadline=None)
@given(st.text(st.sampled_from("{%}#-+ \n'\"abif|x<>&~()[]."), max_size=60))
def test_whatever_a_source_is_it_ends_in_a_letter_or_an_error(source: str) -> None:
    try:
        html(source, VARIABLES)
    except TemplateError as error:
        assert error.template == "letter.html"  # noqa: PT017  either of two is right


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(2000) %}{% set _ = number ~ '' %}{% endfor %}",
        "{% for i in range(2000) %}{% set _ = [number]|join %}{% endfor %}",
        "{% for i in range(20) %}{% set _ = text|title %}{% endfor %}",
    ],
)
def test_what_takes_long_to_write_counts_for_more(source: str) -> None:
    """A letter may bring a number of 4,300 digits, and each time they take 0.2 ms."""
    with pytest.raises(TemplateError, match="more than 200000 steps"):
        render({"letter.txt": source}, {"number": 10**4299, "text": "a b " * 20_000})
