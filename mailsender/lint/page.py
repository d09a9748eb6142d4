"""What HTML shows: its words, links and images. Strangers' HTML, so it is bounded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final

MAX_HTML: Final = 512 * 1024
"""Characters of HTML that are read: Gmail shows a fifth of it, and at the worst it takes half a second."""

MAX_LINKS: Final = 5_000
"""Links, and images, that are kept: each takes two bytes of markup for a hundred in memory."""

MAX_URL: Final = 2_000
"""Characters that are kept of a URL, and of a link's words."""

_PIECE: Final = 16 * 1024
"""Characters that are read at a time. What has not ended in a piece, such as a comment, is looked through
again with the next one: with small pieces that would take time by the square of its length."""

_OPEN: Final = 128 * 1024
"""Characters of a tag, a comment or a style sheet that has not ended, at which no more is read."""

_SILENT: Final = frozenset({"script", "style", "title", "template", "noscript"})
"""Elements whose text nobody sees."""

_INLINE: Final = frozenset(
    {
        "a",
        "abbr",
        "b",
        "big",
        "bdo",
        "cite",
        "code",
        "em",
        "font",
        "i",
        "img",
        "ins",
        "kbd",
        "mark",
        "o:p",
        "q",
    }
    | {"s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"}
)
"""Elements that do not end a line."""

_LONG_NUMBER = re.compile(r"&#[0-9]{8,}")


@dataclass(frozen=True, slots=True)
class Link:
    """A link: where it leads, and the words that show it, in one line."""

    href: str
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image: where it is, and whether it says what it shows (an empty text says: nothing of note)."""

    src: str
    has_alt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a piece of HTML shows.

    `text` has a line for each block. `active` names the elements and attributes that would run or ask
    something. `complete` is false where it was longer than is read, or did not end what it began.
    """

    text: str = ""
    links: Sequence[Link] = ()
    images: Sequence[Image] = ()
    active: frozenset[str] = frozenset()
    complete: bool = True


def read_html(html: str) -> Page:
    """What `html` shows; of what is longer than `MAX_HTML` the beginning."""
    source = html[:MAX_HTML]
    # The library takes some of these for a fault of its caller; in HTML they are comments.
    source = source.replace("<![", "<!x")
    # It makes a number of them first, which Python refuses for 4,300 digits; any of so many is no character.
    source = _LONG_NUMBER.sub("&#9999999", source)
    reader = _Reader()
    # What stands behind the last tag is held back in case it goes on.
    source += " \n"
    for start in range(0, len(source), _PIECE):
        reader.feed(source[start : start + _PIECE])
        if len(reader.rawdata) > _OPEN:
            break
    # It is never closed: the library would then look for the end of each thing that has none.
    return reader.page(complete=len(html) <= MAX_HTML and not reader.rawdata.strip())


class _Reader(HTMLParser):
    """Keeps what is shown, flat: however deep elements lie in each other, nothing of it is kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._words: list[str] = []
        self._links: list[Link] = []
        self._images: list[Image] = []
        self._active: set[str] = set()
        self._silent = ""  # the element in which we are that shows nothing
        self._href: str | None = None
        self._link_words: list[str] = []

    def page(self, *, complete: bool) -> Page:
        self._end_link()
        lines = (" ".join(line.split()) for line in "".join(self._words).split("\n"))
        return Page(
            text="\n".join(line for line in lines if line),
            links=self._links,
            images=self._images,
            active=frozenset(self._active),
            complete=complete and len(self._links) < MAX_LINKS and len(self._images) < MAX_LINKS,
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _INLINE:
            self._words.append("\n")
        given = dict(reversed(attrs))  # of two the first counts
        self._note_active(tag, given)
        if tag in {"a", "area"} and "href" in given:
            self._end_link()
            self._href = (given["href"] or "")[:MAX_URL]
        elif tag == "img":
            self._take_image(given)
        elif tag in _SILENT and not self._silent:
            self._silent = tag
        elif tag == "body":
            self._silent = ""

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self._words.append("\n")
        if tag == "a":
            self._end_link()
        elif tag == self._silent:
            self._silent = ""

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        words = data.replace("\n", " ")
        self._words.append(words)
        if self._href is not None:
            self._link_words.append(words[:MAX_URL])

    def _end_link(self) -> None:
        if self._href is not None and len(self._links) < MAX_LINKS:
            words = " ".join("".join(self._link_words).split())
            self._links.append(Link(self._href, words[:MAX_URL]))
        self._href, self._link_words = None, []

    def _take_image(self, given: dict[str, str | None]) -> None:
        alt = given.get("alt")
        if len(self._images) < MAX_LINKS:
            self._images.append(Image((given.get("src") or "")[:MAX_URL], "alt" in given))
        if alt and self._href is not None:
            self._link_words.append(alt[:MAX_URL])

    def _note_active(self, tag: str, given: dict[str, str | None]) -> None:
        if tag in {"script", "form", "iframe", "frame", "object", "embed", "applet"}:
            self._active.add(f"<{tag}>")
        elif any(name.startswith("on") and len(name) > 3 for name in given):
            self._active.add("on…=")
        if (given.get("href") or "").strip()[:11].lower() == "javascript:":
            self._active.add("javascript:")
