"""A template as a value, the names of its sources, and the port behind which templates are kept.

A template has sources by part and language. In a folder each is a file, and so are the names that templates
call each other by: ``welcome.html``, ``welcome.ru.html``, ``welcome.ru.subject``, ``welcome.schema.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Protocol

import orjson

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A template's name: no dot, which separates the language, and no slash, which would leave the folder."""

VERSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")

LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8}){0,3}")
"""A language tag in lower case (RFC 5646 §2.1, without extensions and private use)."""

MAX_SOURCES = 200
"""Sources of one template: three parts in more languages than anybody writes."""

REFERENCE_MAX = 129
"""Characters of the longest reference: a name, ``@``, a version."""


class Part(StrEnum):
    """What a source becomes; its value ends the file's name."""

    SUBJECT = "subject"
    HTML = "html"
    TEXT = "txt"


class TemplateError(ValueError):
    """A template, or what was given to it, cannot become a letter.

    `template` names the source, `line` and `variable` are where it went wrong, if that is known. The text
    names places and kinds, and never a value: values are what is written to people.
    """

    def __init__(
        self, reason: str, *, template: str = "", line: int | None = None, variable: str | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.template = template
        self.line = line
        self.variable = variable

    def __str__(self) -> str:
        where = [f"template {self.template}"] if self.template else []
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.variable is not None:
            where.append(f"variable {self.variable}")
        return f"{', '.join(where)}: {self.reason}" if where else self.reason


class NoTemplate(TemplateError):  # noqa: N818  reads better where it is caught
    """There is no template of this name, or not in this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one template and one rendering may take. Each is far above what letters need."""

    source: int = 256 * 1024
    """Bytes of one source. Gmail clips a letter at 102 KB."""
    sources: int = 32
    """Sources that one source leads to by extends, include and import."""
    chain: int = 8
    """Sources in a row, each named by the one before it."""
    output: int = 1024 * 1024
    """Bytes of each rendered part: a Kafka record is a megabyte."""
    subject: int = 8_000
    """Characters of a rendered subject: as `mailsender.message.headers.MAX_VALUE`."""
    steps: int = 200_000
    """What a rendering may do (`meter.Meter`): a table of 1,000 rows with two amounts in each takes half."""
    calls: int = 20
    """Macros within macros."""
    values: int = 10_000
    """Values in all variables together, nested ones included."""
    nesting: int = 32
    """Lists and objects within each other in the variables."""
    characters: int = 512 * 1024
    """Characters of all texts in the variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One version of one template.

    `sources` has the text of each part and language; the language is empty where the file's name has none,
    and `language` says which one such sources are in. `schema` is a JSON Schema of the variables, `sample` an
    example of them. What is only extended or included by others needs no subject.
    """

    name: str
    version: str
    sources: Mapping[tuple[Part, str], str]
    schema: Mapping[str, Any] | None = None
    sample: Mapping[str, Any] | None = None
    language: str = "en"
    digest: str = field(init=False, repr=False, compare=False)
    """What is compiled is kept under it, so that an edit without a new version is noticed."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise TemplateError("a template's name is 1 to 64 letters, digits, '-' and '_'")
        if not VERSION.fullmatch(self.version):
            raise TemplateError("a version is 1 to 64 letters, digits, '.', '-' and '_'", template=self.name)
        for tag in (self.language, *(lang for _, lang in self.sources if lang)):
            if not LANGUAGE.fullmatch(tag):
                raise TemplateError("a language is a tag in lower case, as ru or pt-br", template=self.name)
        if len(self.sources) > MAX_SOURCES:
            raise TemplateError(f"it has more than {MAX_SOURCES} sources", template=self.name)
        try:
            object.__setattr__(self, "digest", digest_of(self.sources, self.language, self.schema))
        except orjson.JSONEncodeError:
            raise TemplateError("the schema is no JSON", template=self.name) from None

    def chosen(self, part: Part, lang: str) -> tuple[str, str] | None:
        """The language and source of `part` for readers of `lang`; None where there is no such part.

        ``pt-br`` takes ``pt-br``, else ``pt``, else the source whose file names none (RFC 4647 §3.4).
        """
        for each in _narrowing(lang):
            source = self.sources.get((part, each))
            if source is not None:
                return each, source
        return None

    @property
    def languages(self) -> frozenset[str]:
        """The languages it has sources of; the empty one stands for `language`."""
        return frozenset(lang for _, lang in self.sources)


class TemplateStore(Protocol):
    """Where templates are kept."""

    async def find(self, name: str, version: str | None) -> Template | None:
        """The template of this name in `version`, or in the newest one; None where there is none.

        It is asked for each batch of letters, so it answers from memory where it can. Sources are
        prepared already.
        """


class StoredTemplates:
    """Templates in memory, the last of each name being the newest: what a folder becomes once read."""

    def __init__(self, templates: Iterator[Template] | tuple[Template, ...] = ()) -> None:
        self._versions: dict[str, dict[str, Template]] = {}
        for each in templates:
            versions = self._versions.setdefault(each.name, {})
            versions.pop(each.version, None)
            versions[each.version] = each

    async def find(self, name: str, version: str | None) -> Template | None:
        """See `TemplateStore.find`."""
        versions = self._versions.get(name, {})
        if version is None:
            return next(reversed(versions.values()), None)
        return versions.get(version)


def parse_reference(text: str) -> tuple[str, str | None]:
    """The name and version in ``name`` or ``name@version``, as a letter's ``Template`` has them.

    Raises:
        TemplateError: it is neither.
    """
    name, at, version = text[: REFERENCE_MAX + 1].partition("@")
    if not NAME.fullmatch(name) or (at and not VERSION.fullmatch(version)):
        raise TemplateError("Template is a name or name@version, of letters, digits, '-', '_' ('.')")
    return name, version if at else None


def parse_source_name(text: str) -> tuple[str, str, str] | None:
    """Name, language and the rest of a file's name (``html``, ``schema.json``); None where it is not one."""
    name, _, rest = text.partition(".")
    if not NAME.fullmatch(name):
        return None
    if rest in _ENDINGS:
        return name, "", rest
    lang, _, ending = rest.partition(".")
    lang = lang.lower()
    if ending in _BY_LANGUAGE and LANGUAGE.fullmatch(lang):
        return name, lang, ending
    return None


_BY_LANGUAGE = frozenset({"subject", "html", "mjml", "txt"})
_ENDINGS = _BY_LANGUAGE | {"schema.json", "sample.json"}


def digest_of(
    sources: Mapping[tuple[Part, str], str], language: str, schema: Mapping[str, Any] | None = None
) -> str:
    """A version for sources that have none of their own, as files: 12 hex digits of SHA-256.

    Raises:
        orjson.JSONEncodeError: `schema` is no JSON.
    """
    digest = sha256(language.encode())
    if schema is not None:
        digest.update(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    for (part, lang), source in sorted(sources.items()):
        for each in (part, lang, source):
            data = each.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(data), data))
    return digest.hexdigest()[:12]


def normal_language(text: str) -> str:
    """A language tag as names of sources have it: ``pt_BR`` is ``pt-br``; empty where it is none."""
    tag = text.strip().replace("_", "-").lower()
    return tag if LANGUAGE.fullmatch(tag) else ""


def _narrowing(lang: str) -> Iterator[str]:
    while lang:
        yield lang
        lang = lang.rpartition("-")[0]
    yield ""
