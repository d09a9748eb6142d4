"""What letters are made of that are made when they are sent: kept as it was when they were taken in.

A letter that is personal is rendered for each recipient, hours later perhaps and on another replica. Until
then its template may have a newer version, its footer may have been edited, and the folder may be another
one. So all that it takes but the letter's own variables is written down as one text, under its hash, once
for all letters that share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from mailsender.templates.compiled import Compiled, Rendered
from mailsender.templates.library import Found, Library
from mailsender.templates.port import PinStore
from mailsender.templates.template import Limits, Part, StoredTemplates, Template, TemplateError

KEPT = 2 * 1024 * 1024
"""Characters of texts whose compiled form is kept: those of personal letters that are on their way."""

MAX_PIN = 8 * 1024 * 1024
"""Bytes of the largest text: MongoDB takes documents of 16 MiB."""


def pin_of(templates: Sequence[Template], variables: Mapping[str, Any]) -> tuple[str, str]:
    """The hash and the text of templates, of which the first is the letter's, and of all letters' variables.

    Raises:
        TemplateError: they are too large.
    """
    content = {"variables": dict(variables), "templates": [_written(each) for each in templates]}
    raw = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    if len(raw) > MAX_PIN:
        raise TemplateError(f"it leads to more than {MAX_PIN} bytes of sources", template=templates[0].name)
    return sha256(raw).hexdigest(), raw.decode()


def _written(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "version": template.version,
        "language": template.language,
        "schema": template.schema,
        "sources": sorted([part.value, lang, text] for (part, lang), text in template.sources.items()),
    }


def _read(value: Mapping[str, Any]) -> Template:
    return Template(
        name=value["name"],
        version=value["version"],
        language=value["language"],
        schema=value["schema"],
        sources={(Part(part), lang): text for part, lang, text in value["sources"]},
    )


@dataclass(frozen=True, slots=True)
class Filling:
    """A letter's template, ready, with the variables of all letters that it was taken in with."""

    compiled: Compiled
    variables: Mapping[str, Any]

    def letter(self, subject: str, *layers: Mapping[str, Any]) -> Rendered:
        """One recipient's letter; see `Compiled.letter`."""
        return self.compiled.letter(subject, self.variables, *layers)


class Pins:
    """Fillings by their hash and language, read once and kept, the last used."""

    def __init__(self, store: PinStore, *, limits: Limits | None = None, kept: int = KEPT) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._kept = kept
        self._size = 0
        self._fillings: OrderedDict[tuple[str, str], tuple[Filling, int]] = OrderedDict()

    async def filling(self, digest: str, lang: str) -> Filling:
        """What is pinned under `digest`, for readers of `lang`.

        Raises:
            TemplateError: it is not there, or cannot be compiled.
            Unavailable: the store does not answer.
        """
        key = digest, lang
        known = self._fillings.get(key)
        if known is not None:
            self._fillings.move_to_end(key)
            return known[0]
        text = await self._store.pinned(digest)
        if text is None:
            raise TemplateError("the template that it was taken in with is no longer stored")
        filling = await self._filling(digest, text, lang)
        if key not in self._fillings:
            self._fillings[key] = filling, len(text)
            self._size += len(text)
        while self._size > self._kept and len(self._fillings) > 1:
            self._size -= self._fillings.popitem(last=False)[1][1]
        return filling

    async def _filling(self, digest: str, text: str, lang: str) -> Filling:
        if sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != digest:
            raise TemplateError("the template that it was taken in with was changed in its store")
        content = orjson.loads(text)
        templates = tuple(map(_read, content["templates"]))
        library = Library(StoredTemplates(templates), limits=self._limits)
        compiled = await library.find(templates[0].name, lang)
        return Filling(compiled, content["variables"])


class Pinner:
    """Pins what letters that come in are made of, each thing once."""

    def __init__(self, store: PinStore, variables: Mapping[str, Any], *, most: int = 1024) -> None:
        self._store = store
        self._variables = variables
        self._most = most
        self._known: OrderedDict[tuple[tuple[str, str, str], ...], str] = OrderedDict()

    async def pin(self, found: Found) -> str:
        """The hash under which all that `found` was made of is kept now.

        Raises:
            TemplateError: it is too large.
            Unavailable: nobody knows whether it is kept.
        """
        key = tuple((each.name, each.version, each.digest) for each in found.made_of)
        digest = self._known.get(key)
        if digest is None:
            digest, text = pin_of(found.made_of, self._variables)
            await self._store.pin(digest, text)
            self._known[key] = digest
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return digest
