"""Rules about the body: its forms, images and files, and what templates leave behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from mailsender.lint.page import MAX_HTML
from mailsender.lint.rule import SPAMASSASSIN, YAHOO_MAIL, Rule, some
from mailsender.lint.view import Attached, View
from mailsender.model.text import counted

CLIPPED: Final = 102 * 1024
"""Octets of HTML from which on Gmail hides the rest behind a link, as senders have measured."""

FEW_WORDS: Final = 20
"""Words below which images stand for text: fewer than a sentence with a greeting has."""

EXECUTABLE: Final = frozenset(
    {
        *("ade", "adp", "apk", "appx", "appxbundle", "bat", "cab", "chm", "cmd", "com", "cpl", "diagcab"),
        *("diagcfg", "diagpkg", "dll", "dmg", "ex", "ex_", "exe", "hta", "img", "ins", "iso", "isp", "jar"),
        *("jnlp", "js", "jse", "lib", "lnk", "mde", "mjs", "msc", "msi", "msix", "msixbundle", "msp", "mst"),
        *("nsh", "pif", "ps1", "scr", "sct", "shb", "sys", "vb", "vbe", "vbs", "vhd", "vxd", "wsc", "wsf"),
        *("wsh", "xll"),
    }
)
"""Endings of files that Gmail refuses (support.google.com/mail/answer/6590)."""

_PROGRAMS: Final = (
    "application/x-ms",
    "application/x-dosexec",
    "application/java-archive",
    "application/x-sh",
)

_TEMPLATE = re.compile(
    r"\{\{|\}\}|\{%|%\}|<%"  # Jinja, Handlebars, Go; ERB
    r"|\$\{[A-Za-z_][\w.]{0,60}\}|\*\|[A-Z_:]{1,60}\|\*|%%\w{1,60}%%|\[\[\w{1,60}\]\]"
)
_NAMELESS = re.compile(
    r"^(?:Dear|Уважаем(?:ый|ая|ые)|Sehr geehrter?|Liebe[rs]?|Estimad[oa]|Cher|Chère|Car[oa])[ \t\u00a0]*[,!:]"
    # With a space before the comma a name was to stand there. Not so the exclamation mark: French has one.
    r"|^(?:Hello|Hi|Hey|Good (?:morning|afternoon|evening)|Здравствуйте|Привет|Hallo|Hola|Ciao|Bonjour"
    r"|Guten (?:Tag|Morgen|Abend))[ \t\u00a0]+,",
    re.MULTILINE,
)
_NOTHING = r"(?:None|null|nil|undefined|NaN)"
_EMPTY = re.compile(
    rf"\[object Object\]|\bInvalid Date\b|^[ \t]*{_NOTHING}[ \t]*[.,!]?[ \t]*$|:[ \t]*{_NOTHING}[ \t]*$"
    rf"|^(?:Dear|Hello|Hi|Hey|Здравствуйте|Привет|Hallo|Hola|Bonjour|Уважаем\w\w)[ \t,]{{1,3}}{_NOTHING}\b",
    re.MULTILINE,
)
_EMPTY_IN_URL = re.compile(rf"[/=]{_NOTHING}(?=[/&?#]|$)")


# --- forms and size ------------------------------------------------------------------------------


def _no_text(view: View) -> str:
    if view.html is None or not view.html.strip() or (view.text or "").strip():
        return ""
    return "its text part is empty" if view.text is not None else "it has HTML and no text part"


def _empty(view: View) -> str:
    if not view.body_known or view.attachments or view.words.strip() or view.page.images:
        return ""
    return "it shows nothing"


def _clipped(view: View) -> str:
    size = len((view.html or "").encode("utf-8", "surrogatepass"))
    return f"its HTML has {size // 1024} KB" if size > CLIPPED else ""


def _partly_seen(view: View) -> str:
    if view.unseen:
        return view.unseen
    if view.page.complete:
        return ""
    if len(view.html or "") > MAX_HTML:
        return f"of its HTML the first {MAX_HTML // 1024} KB were looked at"
    return "its HTML ends in the middle of a tag or a comment, or has thousands of links"


# --- images --------------------------------------------------------------------------------------


def _no_alt(view: View) -> str:
    images = view.page.images
    bare = sum(not each.has_alt for each in images)
    return f"{bare} of {len(images)} images have no alt" if bare else ""


def _data_images(view: View) -> str:
    found = sum(each.src.lstrip()[:5].lower() == "data:" for each in view.page.images)
    verb = "stands" if found == 1 else "stand"
    return f"{counted(found, 'image')} {verb} in the HTML itself, as data: URIs" if found else ""


def _missing_images(view: View) -> str:
    there = {each.content_id for each in view.attachments}
    named = [each.src.strip() for each in view.page.images]
    found = sum(src[:4].lower() == "cid:" and unquote(src[4:]) not in there for src in named)
    return f"{counted(found, 'image')} of no attachment, by cid:" if found else ""


def _only_images(view: View) -> str:
    if not view.page.images or len(view.words.split()) >= FEW_WORDS:
        return ""
    return f"it has {counted(len(view.page.images), 'image')} and {counted(len(view.words.split()), 'word')}"


def _active(view: View) -> str:
    return f"its HTML has {some(sorted(view.page.active))}" if view.page.active else ""


# --- files ---------------------------------------------------------------------------------------


def _executable(view: View) -> str:
    found = [each.name or each.content_type for each in view.attachments if _runs(each)]
    return f"files that can be run go along: {some(found)}" if found else ""


def _runs(file: Attached) -> bool:
    ending = file.name.rstrip(". ").rpartition(".")[2].lower() if "." in file.name else ""
    return ending in EXECUTABLE or (not ending and file.content_type.lower().startswith(_PROGRAMS))


# --- what templates leave ------------------------------------------------------------------------


def _seen(view: View) -> Iterator[str]:
    yield view.subject or ""
    yield view.words[: 2 * MAX_HTML]


def _template_left(view: View) -> str:
    found = [each[0] for text in _seen(view) for each in _TEMPLATE.finditer(text)]
    found += [each[0] for link in view.page.links for each in _TEMPLATE.finditer(link.href)]
    found += [each[0] for image in view.page.images for each in _TEMPLATE.finditer(image.src)]
    return f"signs of a template are left: {some(found)}" if found else ""


def _left_empty(view: View) -> str:
    found = [each[0].strip() for text in _seen(view) for each in _EMPTY.finditer(text)]
    found += [each[0].strip() for text in _seen(view) for each in _NAMELESS.finditer(text)]
    found += ["a link without an address" for link in view.page.links if not link.href.strip()]
    found += [
        f"a link with {each[0]}" for link in view.page.links for each in _EMPTY_IN_URL.finditer(link.href)
    ]
    return f"a value seems to be missing: {some(found)}" if found else ""


BODY_RULES: Final = (
    Rule(
        id="no-text",
        level="warning",
        about="There is HTML and no text part, or an empty one.",
        reason="Filters count it; watches, voices and plain readers show the text.",
        source=f"RFC 2046 §5.1.4; {SPAMASSASSIN}, MIME_HTML_ONLY",
        look=_no_text,
    ),
    Rule(
        id="empty",
        level="warning",
        about="Nothing is shown: no word, no image, no file.",
        reason="It is taken for a fault, or for somebody who tries out addresses.",
        source=f"{SPAMASSASSIN}, EMPTY_MESSAGE",
        look=_empty,
    ),
    Rule(
        id="clipped",
        level="warning",
        about="The HTML has more than 102 KB.",
        reason="Gmail hides the rest behind a link: the footer and the unsubscribe link, too.",
        source="Measured, as by spamresource.com (January 2022); Google has not published the number",
        look=_clipped,
    ),
    Rule(
        id="image-alt",
        level="warning",
        about="An image has no alt. An empty one says that it means nothing.",
        reason="Many programs show no images at first, and voices read alt.",
        source="HTML Standard §4.8.4.4; WCAG 2.2, 1.1.1",
        look=_no_alt,
    ),
    Rule(
        id="image-data",
        level="warning",
        about="An image stands in the HTML as a data: URI.",
        reason="Gmail and Outlook do not show it. Attach it inline (cid:), or link to it.",
        source="caniemail.com/features/image-base64",
        look=_data_images,
    ),
    Rule(
        id="image-missing",
        level="error",
        about="An image names an attachment, by cid:, that is not there.",
        reason="Readers see a broken image.",
        source="RFC 2392 §2",
        look=_missing_images,
    ),
    Rule(
        id="image-only",
        level="warning",
        about=f"There are images and fewer than {FEW_WORDS} words.",
        reason="Spam hides its words in images; filters count it, and without images nothing is left.",
        source=f"{SPAMASSASSIN}, HTML_IMAGE_ONLY_*",
        look=_only_images,
    ),
    Rule(
        id="html-active",
        level="warning",
        about="The HTML has scripts, forms, frames or embedded objects.",
        reason="Programs take them out or warn of them, and filters count them.",
        source=YAHOO_MAIL,
        look=_active,
    ),
    Rule(
        id="attachment-runs",
        level="error",
        about="A file goes along that can be run.",
        reason="Gmail refuses the message, others take the file out.",
        source="Google, File types blocked in Gmail (support.google.com/mail/answer/6590)",
        look=_executable,
    ),
    Rule(
        id="template-left",
        level="error",
        about="Signs of a template are left over, as {{ }}.",
        reason="The reader sees that nobody looked at it.",
        source="docs/reference/topics.md, `Template`",
        look=_template_left,
    ),
    Rule(
        id="value-empty",
        level="warning",
        about="A value seems to be missing: `Dear ,`, None, undefined, a link without an address.",
        reason="The reader sees that nobody looked at it, and a link to nowhere is of no use.",
        source="docs/reference/topics.md, `Variables`",
        look=_left_empty,
    ),
    Rule(
        id="partly-seen",
        level="note",
        about="Not all of it was looked at.",
        reason="What is said here is about the rest.",
        source="docs/limits.md",
        look=_partly_seen,
    ),
)
"""The rules, in the order of the page."""
