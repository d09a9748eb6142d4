"""What the tests of templates share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mailsender.templates.compiled import Compiled, Rendered
from mailsender.templates.library import Library
from mailsender.templates.template import Limits, Part, StoredTemplates, Template, parse_source_name


def template(files: Mapping[str, str], version: str = "1", **more: Any) -> Template:
    """A template of the sources of files, all of one name."""
    sources: dict[tuple[Part, str], str] = {}
    names: set[str] = set()
    for file_name, text in files.items():
        parsed = parse_source_name(file_name)
        assert parsed is not None
        names.add(parsed[0])
        sources[Part(parsed[2]), parsed[1]] = text
    (name,) = names
    return Template(name=name, version=version, sources=sources, **more)


def compiled(
    files: Mapping[str, str], *others: Template, lang: str = "", limits: Limits | None = None, **more: Any
) -> Compiled:
    one = template(files, **more)
    return asyncio.run(Library(StoredTemplates((one, *others)), limits=limits).find(one.name, lang))


def render(
    files: Mapping[str, str],
    *layers: Mapping[str, Any],
    others: tuple[Template, ...] = (),
    lang: str = "",
    limits: Limits | None = None,
) -> Rendered:
    return compiled(files, *others, lang=lang, limits=limits).render(*layers)


def text(source: str, variables: Mapping[str, Any] | None = None, *, lang: str = "") -> str:
    """The text that one source becomes."""
    rendered = render({"letter.txt": source}, variables or {}, lang=lang).text
    assert rendered is not None
    return rendered


def html(source: str, variables: Mapping[str, Any] | None = None) -> str:
    rendered = render({"letter.html": source}, variables or {}).html
    assert rendered is not None
    return rendered
