"""The tags of an HTML source with Jinja's constructs in it: enough to find styles, never to change text.

A construct (``{{ }}``, ``{% %}``, ``{# #}``, a raw block) becomes one character that HTML knows nothing of,
so that what is written in it is not taken for HTML; `restored` puts the constructs back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, TemplateSyntaxError

from mailsender.templates.template import TemplateError

MARK = "\ue000"
"""Stands for a construct: a private character, which no source has any business with."""

MAX_DEPTH = 200
"""Elements within each other. What reads them afterwards recurses: 30,000 ended the process in a trial."""

MAX_TAGS = 10_000

_LEXER = Environment(autoescape=True).lexer
_BEGINS = frozenset({"variable_begin", "block_begin", "comment_begin", "raw_begin"})
_ENDS = frozenset({"variable_end", "block_end", "comment_end", "raw_end"})

_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>\ue000]*)")
_ATTRIBUTE = re.compile(
    r"[\s/]*+(?:(>)|([^\s=>/\"']++)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s>\"']++)))?+)"
)
_RAW = frozenset({"mj-style", "script", "style", "textarea", "title"})
# fmt: off
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
})
_IMPLIED = frozenset({"dd", "dt", "li", "option", "p", "tbody", "td", "tfoot", "th", "thead", "tr"})
# fmt: on
"""Elements whose end may be left out, and which do not stand in each other without others between."""


@dataclass(slots=True)
class Attribute:
    """One attribute; `start` and `end` are where its value stands, the quotes included."""

    name: str
    value: str
    start: int
    end: int


@dataclass(slots=True)
class Tag:
    """A start tag, or an end tag where `closing`; `name_end` is where its name ends."""

    name: str
    start: int
    name_end: int
    closing: bool
    attributes: list[Attribute] = field(default_factory=list)
    content: str = ""
    """What stands in an element whose content is no HTML."""

    @property
    def computed(self) -> bool:
        """Whether a construct makes attributes of it, and not only parts of their values."""
        return any(MARK in each.name for each in self.attributes)


def marked(source: str, label: str) -> tuple[str, list[str]]:
    """`source`, its line ends as Jinja sees them, with a mark for each construct; and the constructs.

    Raises:
        TemplateError: it is no template, or has the mark's character.
    """
    source = re.sub(r"\r\n?", "\n", source)
    if MARK in source:
        raise TemplateError("the character U+E000 is not for templates", template=label)
    pieces: list[str] = []
    constructs: list[str] = []
    done, at, start = 0, 0, 0
    try:
        for _, kind, text in _LEXER.tokeniter(source, None):
            if not text:
                continue
            begin = source.index(text, at)  # only spaces that '-' takes away lie between
            at = begin + len(text)
            if kind in _BEGINS:
                start = begin
            elif kind in _ENDS:
                end = begin + len(text.rstrip())
                pieces += (source[done:start], MARK)
                constructs.append(source[start:end])
                done = end
    except TemplateSyntaxError as error:
        raise TemplateError(error.message or "syntax", template=label, line=error.lineno) from None
    pieces.append(source[done:])
    return "".join(pieces), constructs


def restored(text: str, constructs: Sequence[str]) -> str:
    """`text` with its constructs in place of the marks, in order."""
    pieces = text.split(MARK)
    return "".join(piece for pair in zip(pieces, (*constructs, ""), strict=True) for piece in pair)


def line_of(text: str, position: int, constructs: Sequence[str]) -> int:
    """The line of the source at a position in marked text."""
    before = text[:position]
    within = sum(each.count("\n") for each in constructs[: before.count(MARK)])
    return 1 + before.count("\n") + within


class Malformed(Exception):  # noqa: N818  reads better where it is caught
    """HTML that cannot be read; `position` is where."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.position = position


def tags(text: str) -> Iterator[Tag]:
    """The tags of marked text, in order; comments and what is in them are left out.

    Raises:
        Malformed: a tag, comment, quote or element does not end, or there are too many, or too deep.
    """
    at, depth, count = 0, 0, 0
    xml = False
    while (at := text.find("<", at)) >= 0:
        if text.startswith("<!--", at):
            at = _after(text, "-->", at, "a comment does not end")
            continue
        if text.startswith(("<!", "<?"), at):
            at = _after(text, ">", at, "a declaration does not end")
            continue
        head = _TAG.match(text, at)
        if head is None:  # a lone '<' is text
            at += 1
            continue
        tag = Tag(head[2].lower(), at, head.end(), bool(head[1]))
        at = _attributes(text, tag)
        if tag.name in _RAW and not tag.closing:
            at = _content(text, tag, at)
        elif tag.name not in _VOID and (text[at - 2] != "/" if xml else tag.name not in _IMPLIED):
            depth = max(0, depth - 1) if tag.closing else depth + 1
        xml = xml or (count == 0 and tag.name == "mjml")
        count += 1
        if depth > MAX_DEPTH or count > MAX_TAGS:
            raise Malformed(f"there are more than {MAX_DEPTH} elements in each other or {MAX_TAGS} tags", at)
        yield tag


def _attributes(text: str, tag: Tag) -> int:
    """Reads the attributes of `tag`; where it ends."""
    at = tag.name_end
    while True:
        found = _ATTRIBUTE.match(text, at)
        if found is None:
            raise Malformed("a tag or a quote in it does not end", tag.start)
        if found[1]:
            return found.end()
        group = found.lastindex or 2
        value = found[group] if group > 2 else ""
        quoted = group in {3, 4}
        tag.attributes.append(
            Attribute(found[2].lower(), value, found.start(group) - quoted, found.end(group) + quoted)
        )
        at = found.end()


def _content(text: str, tag: Tag, at: int) -> int:
    """Reads what is in a script, style, title or textarea; where its end tag begins."""
    end = re.compile(rf"</{tag.name}[\s/>]", re.IGNORECASE).search(text, at)
    if end is None:
        raise Malformed(f"<{tag.name}> does not end", tag.start)
    tag.content = text[at : end.start()]
    return end.start()


def _after(text: str, end: str, start: int, reason: str) -> int:
    at = text.find(end, start)
    if at < 0:
        raise Malformed(reason, start)
    return at + len(end)
