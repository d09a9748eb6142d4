"""What is done to HTML when a template is saved: MJML becomes HTML, and styles go into the elements.

Neither program knows Jinja. So MJML is given a word for each construct, and what it makes is refused unless
every word is in it. The CSS inliner never sees the source: it is given the bare tags, numbered, and what it
says of each is written into the source at that tag. Nothing else of the source changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from html import escape
from html.parser import HTMLParser

import css_inline
import mjml
from jinja2 import nodes

from mailsender.model.text import storable
from mailsender.templates.markup import MARK, Malformed, Tag, line_of, marked, restored, tags
from mailsender.templates.sandbox import Sandbox
from mailsender.templates.template import Limits, Part, Template, TemplateError, parse_source_name

MAX_STYLES = 64 * 1024
"""Characters of all styles of one source."""

MAX_MATCHES = 2_000_000
"""Rules times elements."""

_NO_LANGUAGE = re.compile(r"(?<=<html) lang=\"und\"|(?<=role=\"article\") lang=\"und\"")
"""What the library writes where the document names none: it would have a voice guess less well."""
_NUMBER = "data-numbered"
_INLINER = css_inline.CSSInliner(keep_style_tags=True, load_remote_stylesheets=False)
_PARSER = Sandbox(html=True, filters={}, tests={})


def prepared(
    template: Template, layouts: Mapping[str, Template] | None = None, *, limits: Limits | None = None
) -> Template:
    """`template` with the HTML that is rendered later.

    Styles of ``<style>`` are put into the elements that they are about, before those of their own ``style``;
    the ``<style>`` stays for what cannot be put there (media queries, classes that are computed, what the
    letter brings). Styles of the layouts that it extends, prepared already, are put into it as well, as far
    as they do not ask for elements around it. Of MJML it is what ``<mj-style inline="inline">`` holds. A
    ``<style>`` with constructs in it, or for certain media, is left alone.

    Raises:
        TemplateError: it is no template, or its MJML or HTML cannot be read, or a construct would be lost.
    """
    sources = dict(template.sources)
    for (part, lang), source in template.sources.items():
        if part is Part.HTML:
            label = ".".join(filter(None, (template.name, lang, part)))
            layout_styles = "\n".join(_layout_styles(source, label, lang, layouts or {}))
            sources[part, lang] = prepared_html(source, label, styles=layout_styles, limits=limits)
    return replace(template, sources=sources)


def prepared_html(source: str, label: str, *, styles: str = "", limits: Limits | None = None) -> str:
    """One HTML or MJML source, with `styles` from elsewhere; see `prepared`."""
    limits = limits or Limits()
    if not storable(source):
        raise TemplateError("it holds half of a surrogate pair", template=label)
    if len(source.encode()) > limits.source:
        raise TemplateError(f"it has more than {limits.source} bytes", template=label)
    _PARSER.parsed(source, label, label)
    text, constructs = marked(source, label)
    try:
        found = list(tags(text))
        css = [styles, *_styles(found)]
        if found and found[0].name == "mjml":
            source = _from_mjml(text, constructs, found[0].start, label)
            text, constructs = marked(source, label)
            found = list(tags(text))
        made = restored(_inlined(text, found, "\n".join(css), label), constructs)
    except Malformed as error:
        line = line_of(text, error.position, constructs)
        raise TemplateError(str(error), template=label, line=line) from None
    if len(made.encode()) > limits.source:
        raise TemplateError(f"it comes to more than {limits.source} bytes of HTML", template=label)
    return made


def styles_of(source: str, label: str) -> str:
    """The CSS of all ``<style>`` of an HTML source without constructs in them."""
    text, constructs = marked(source, label)
    try:
        return "\n".join(_styles(tags(text)))
    except Malformed as error:
        line = line_of(text, error.position, constructs)
        raise TemplateError(str(error), template=label, line=line) from None


def prepared_all(
    templates: Iterable[Template], *, limits: Limits | None = None
) -> tuple[list[Template], list[TemplateError]]:
    """Templates that lead only to each other, as those of a folder; and what is wrong with the others."""
    raw = {each.name: each for each in templates}
    done: dict[str, Template] = {}
    errors: list[TemplateError] = []
    waiting = dict(raw)
    while waiting:
        ready = [each for each in waiting.values() if not (extended(each) & waiting.keys())]
        # What extends itself in a circle is told when it is compiled.
        for each in ready or list(waiting.values()):
            del waiting[each.name]
            try:
                done[each.name] = prepared(each, done, limits=limits)
            except TemplateError as error:
                errors.append(error)
    return [done[name] for name in raw if name in done], errors


def extended(template: Template) -> set[str]:
    """Names of the templates that the HTML of `template` extends."""
    found: set[str] = set()
    for (part, _), source in template.sources.items():
        if part is Part.HTML:
            try:
                found.update(_extends(source, template.name))
            except TemplateError:  # told when it is prepared
                continue
    return found


# --- MJML ----------------------------------------------------------------------------------------------


def _from_mjml(text: str, constructs: list[str], start: int, label: str) -> str:
    """The HTML of an MJML document; constructs before and after it stay where they are."""
    end = text.lower().rfind("</mjml>")
    end = len(text) if end < 0 else end + len("</mjml>")
    before, document, after = text[:start], text[start:end], text[end:]
    if (before + after).replace(MARK, "").strip():
        raise TemplateError("beside <mjml> there are only {% %} and {{ }}", template=label)
    first = before.count(MARK)
    last = first + document.count(MARK)
    # Letters and digits alone, for they stand in names, styles and addresses.
    salt = "j" + sha256(text.encode()).hexdigest()[:8] + "n"
    words = ["" if each.startswith("{#") else f"{salt}{n}n" for n, each in enumerate(constructs)]
    html = _called("MJML", label, lambda: mjml.mjml2html(restored(document, words[first:last])))
    html = _NO_LANGUAGE.sub("", html).replace("<title></title>", "", 1)
    unknown = re.search(r"<(mj-[a-z-]+)", html)
    if unknown:
        raise TemplateError(f"MJML does not know <{unknown[1]}> where it stands", template=label)
    made = {int(each) for each in re.findall(rf"{salt}(\d+)n", html)}
    for number in range(first, last):
        if words[number] and number not in made:
            position = [mark.start() for mark in re.finditer(MARK, text)][number]
            raise TemplateError(
                "MJML drops this {% %} or {{ }}; put it into <mj-raw>, or into what shows text",
                template=label,
                line=line_of(text, position, constructs),
            )
    html = re.sub(rf"{salt}(\d+)n", lambda match: constructs[int(match[1])], html)
    return restored(before, constructs[:first]) + html + restored(after, constructs[last:])


def _called(what: str, label: str, function: Callable[[], str]) -> str:
    """What `function`, which is written in Rust, returns; its errors and panics as ours."""
    try:
        return function()
    except ValueError as error:
        raise TemplateError(f"{what}: {str(error)[:300]}", template=label) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it is no Exception
            raise
        raise TemplateError(f"{what} cannot read it", template=label) from None


# --- styles --------------------------------------------------------------------------------------------


def _styles(found: Iterable[Tag]) -> Iterator[str]:
    """The CSS that is to go into elements."""
    for each in found:
        if each.closing or MARK in each.content or each.computed:
            continue
        attributes = {one.name: one.value for one in each.attributes}
        plain = each.name == "style" and not attributes.keys() & {"media", "data-css-inline"}
        if plain or (each.name == "mj-style" and attributes.get("inline") == "inline"):
            yield each.content


def _layout_styles(source: str, label: str, lang: str, layouts: Mapping[str, Template]) -> list[str]:
    """The styles of what `source` extends, and of what that extends, the outermost first."""
    found: list[str] = []
    seen: set[str] = set()
    open_ = [(source, label)]
    while open_:
        for name in _extends(*open_.pop()):
            layout = layouts.get(name)
            chosen = layout.chosen(Part.HTML, lang) if layout else None
            if chosen and name not in seen:
                seen.add(name)
                its_label = ".".join(filter(None, (name, chosen[0], Part.HTML)))
                found.append(styles_of(chosen[1], its_label))
                open_.append((chosen[1], its_label))
    return found[::-1]


def _extends(source: str, label: str) -> Iterator[str]:
    """Names of the templates that `source` extends."""
    for node in _PARSER.parsed(source, label, label).find_all(nodes.Extends):
        parsed = parse_source_name(node.template.value)  # type: ignore[attr-defined]
        if parsed:
            yield parsed[0]


def _inlined(text: str, found: list[Tag], css: str, label: str) -> str:
    """Marked text with `css` in its elements."""
    if not css.strip():
        return text
    if len(css) > MAX_STYLES:
        raise TemplateError(f"its styles have more than {MAX_STYLES} characters", template=label)
    if css.count("{") * len(found) > MAX_MATCHES:
        raise TemplateError("it has too many elements for so many styles", template=label)
    reader = _StylesRead()
    reader.feed(_called("a style", label, lambda: _INLINER.inline("".join(_skeleton(found, css)))))
    reader.close()
    pieces: list[str] = []
    done = 0
    for number, tag in enumerate(found):
        style = reader.styles.get(number)
        # Which attributes a tag has may be for a construct to say; and no style may become a construct.
        if not style or tag.computed or re.search(r"\{[{%#]", style):
            continue
        own = next((each for each in tag.attributes if each.name == "style"), None)
        if own is None:
            pieces += (text[done : tag.name_end], f' style="{escape(style)}"')
            done = tag.name_end
        else:
            quote = "'" if text[own.start : own.start + 1] == "'" else '"'
            pieces += (text[done : own.start], f"{quote}{escape(style)};{own.value.strip()}{quote}")
            done = own.end
    return "".join((*pieces, text[done:]))


def _skeleton(found: list[Tag], css: str) -> Iterator[str]:
    """The tags alone, with their numbers; constructs in their attributes are spaces."""
    yield f"<!DOCTYPE html><style>{css}</style>"
    for number, tag in enumerate(found):
        if tag.closing:
            yield f"</{tag.name}>"
            continue
        yield f'<{tag.name} {_NUMBER}="{number}"'
        for each in tag.attributes:
            if each.name not in {"style", _NUMBER} and MARK not in each.name:
                # As it stands in the source, so its entities are written already.
                value = each.value.replace(MARK, " ").replace('"', "&quot;")
                yield f' {each.name}="{value}"'
        yield ">"


class _StylesRead(HTMLParser):
    """Reads what the inliner wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.styles: dict[int, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        found = dict(attrs)
        number, style = found.get(_NUMBER), found.get("style")
        if number and style:
            self.styles[int(number)] = style.strip().rstrip(";")
