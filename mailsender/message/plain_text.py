"""The words of an HTML body as plain text, for readers who see no HTML; by inscriptis, on a tree of lxml.

What a stranger may have written into a letter makes this neither slow nor large: what is too much has no text
at all, for none may say less than it seems to. The parser takes time by the square of a tag's attributes, and
drops what lies deeper than 256 elements. inscriptis obeys styles and pads tables, either of which a few bytes
make fill the memory, and it decodes entities once more, which makes ``&copy=1`` in a URL a ©. So it gets a
tree without attributes, in which ampersands are escaped, and knows tables as lines.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.html_engine import Inscriptis
from inscriptis.html_properties import Display
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_element import HtmlElement
from inscriptis.model.tag import CustomHtmlTagHandlerMapping
from lxml.etree import LxmlError, iterwalk
from lxml.html import HTMLParser, document_fromstring

MAX_HTML: Final = 256 * 1024
"""Characters of HTML that are looked at. Gmail clips a letter at 102 KB."""

MAX_TAGS: Final = 5_000
MAX_ATTRIBUTES: Final = 100
"""Attributes of one tag."""

MAX_ELEMENTS: Final = 2_500
"""Elements, some 15 µs each: an event loop waits for the text."""

MAX_DEPTH: Final = 100
"""Elements within each other: inscriptis recurses."""

MAX_TEXT: Final = 256 * 1024
"""Characters of text, before and after."""

MAX_WORK: Final = 50_000_000
"""Characters of text times elements: a line is copied for each element in it."""

MAX_URL: Final = 2_000
"""Characters of a link's address; a longer one is for programs."""

KEPT: Final = 16
"""Texts that are kept: those of letters that many get, and of the parts and attempts of one."""

_TAG = re.compile(r"<[A-Za-z]")
# A tag as parsers read it (HTML §13.2.5), whatever stands in it, and with no more attributes than that.
_START = re.compile(
    r"<[A-Za-z][^\s/>]*+(?:[\s/]*+(?:=[^\s/>=]*+|[^\s/>=]++)"
    r"(?:\s*+=\s*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\s>\"'][^\s>]*+)?+)?+)"
    rf"{{0,{MAX_ATTRIBUTES}}}+[\s/]*+(>|\Z)?"
)
_URL = re.compile(r"(?:https?|mailto|tel|sms):[^\s<>]+", re.IGNORECASE)
_UNSEEN = re.compile(
    r"display\s*:\s*none|max-height\s*:\s*0(?![.\d]*[1-9])|visibility\s*:\s*hidden", re.IGNORECASE
)
_FILLER = re.compile(r"[\s\u00ad\u034f\u061c\u200b-\u200f\u2007\u2060\ufeff]+")
"""What preheaders are filled up with."""

_HIDDEN: Final = "template"
_NONE = HtmlElement(display=Display.none)
_BLOCK = HtmlElement(display=Display.block)
_LIST = HtmlElement(display=Display.block, padding_inline=2)
_PARAGRAPH = HtmlElement(display=Display.block, margin_before=1, margin_after=1)


def _nothing(*_: Any) -> None:
    """Takes the place of what inscriptis does with tables."""


_CSS: Final = {
    **CSS_PROFILES["strict"],
    **dict.fromkeys((_HIDDEN, "iframe", "noframes", "object", "select", "svg", "textarea"), _NONE),
    **dict.fromkeys(("table", "tr", "caption", "center", "dd", "dt", "section"), _BLOCK),
    **dict.fromkeys(("blockquote", "hr"), _PARAGRAPH),
    **dict.fromkeys(("ol", "ul"), _LIST),
}
_LINES: Final = dict.fromkeys(("table", "tr", "td", "th"), _nothing)
_HANDLERS: Final = CustomHtmlTagHandlerMapping(_LINES, _LINES)


def plain_text(html: str) -> str | None:
    """The words of `html`; None where it has none, or is too much for its bounds.

    A link's address stands behind its words, in angle brackets (RFC 3986, appendix C); of an image there is
    what stands for it. What the HTML hides is left out. Takes 5 ms for a letter of 10 KB.
    """
    return _plain_text(html) if len(html) <= MAX_HTML and html.count("<") <= MAX_TAGS else None


@lru_cache(maxsize=KEPT)
def _plain_text(html: str) -> str | None:
    if _crowded(html):
        return None
    try:
        parser = HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
        tree = document_fromstring(html.encode(), parser=parser)
        if not _prepared(tree):
            return None
        css = {**_CSS, "body": HtmlElement()}  # this one is written upon, and threads may be at it
        config = ParserConfig(css=css, custom_html_tag_handler_mapping=_HANDLERS)
        text = Inscriptis(tree, config).get_text()
    except (LxmlError, UnicodeEncodeError):  # no HTML in it, or no Unicode
        return None
    except Exception:  # noqa: BLE001  a stranger's HTML: a letter without this part is a letter
        return None
    return _tidy(text) if len(text) <= MAX_TEXT else None


def _crowded(html: str) -> bool:
    """Whether a tag has too many attributes, or whether it would take long to know.

    Wherever one might begin is looked at, as what is a comment, and where it ends, parsers disagree about.
    """
    read = 0
    for found in _TAG.finditer(html):
        tag = _START.match(html, found.start())
        if tag is None or tag[1] is None:
            return True
        read += len(tag[0])
        if read > 4 * len(html):
            return True
    return False


def _prepared(tree: Any) -> bool:
    """Put into the tree's texts what is to be read; False where it is too deep, or too much work."""
    depth = elements = characters = 0
    for event, element in iterwalk(tree, events=("start", "end")):
        if event == "start":
            depth += 1
            elements += 1
            if depth > MAX_DEPTH or elements > MAX_ELEMENTS:
                return False
            continue
        depth -= 1
        if "hidden" in element.attrib or _UNSEEN.search(element.get("style") or ""):
            element.tag = _HIDDEN
        elif element.tag == "a":
            _show_address(element)
        elif element.tag == "img" and element.get("alt"):
            element.tail = f" {element.get('alt')} {element.tail or ''}"
        elif element.tag in {"td", "th"}:
            element.tail = " "
        element.attrib.clear()
    for element in tree.iter():
        element.text = element.text and element.text.replace("&", "&amp;")
        element.tail = element.tail and element.tail.replace("&", "&amp;")
        characters += len(element.text or "") + len(element.tail or "")
    return characters <= MAX_TEXT and elements * characters <= MAX_WORK


def _show_address(link: Any) -> None:
    url = "%20".join((link.get("href") or "").split())
    if len(url) > MAX_URL or not _URL.fullmatch(url):
        return
    words = "".join(link.itertext()).strip()
    if words not in {url, url.partition(":")[2].lstrip("/").rstrip("/")}:
        link.tail = f" <{url}>{link.tail or ''}"


def _tidy(text: str) -> str | None:
    """Without spaces at the ends of lines, and with no more than one empty line between two."""
    lines: list[str] = []
    for line in text.split("\n"):
        shown = "" if _FILLER.fullmatch(line) else line.rstrip()
        if shown or (lines and lines[-1]):
            lines.append(shown)
    return "\n".join(lines).rstrip("\n") + "\n" if lines else None
