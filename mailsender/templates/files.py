"""Templates out of the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from mailsender.templates.prepare import prepared_all
from mailsender.templates.template import (
    Limits,
    Part,
    Template,
    TemplateError,
    digest_of,
    parse_source_name,
)

MAX_FILES = 10_000
"""Files of a folder."""


def read_files(
    files: Mapping[str, str], *, language: str = "en", limits: Limits | None = None
) -> tuple[list[Template], list[TemplateError]]:
    """The templates whose files' names and texts are given, prepared; and what is wrong with the others.

    Files are ``welcome.html`` or ``welcome.mjml``, ``welcome.txt`` and ``welcome.subject``, each with a
    language before its ending (``welcome.ru.html``) or in `language`; ``welcome.schema.json`` and
    ``welcome.sample.json``. A version is what the files hold (`digest_of`): that of their history is git's.
    """
    errors: list[TemplateError] = []
    by_name: dict[str, dict[tuple[str, str], str]] = {}
    if len(files) > MAX_FILES:
        return [], [TemplateError(f"there are more than {MAX_FILES} files")]
    for file_name, text in sorted(files.items()):
        parsed = parse_source_name(file_name)
        if parsed is None:
            errors.append(TemplateError("no name of a template's file", template=file_name[:200]))
        else:
            by_name.setdefault(parsed[0], {})[parsed[2], parsed[1]] = text
    templates: list[Template] = []
    for name, found in by_name.items():
        try:
            templates.append(_template(name, found, language))
        except TemplateError as error:
            errors.append(error)
    done, more = prepared_all(templates, limits=limits)
    return done, errors + more


def template_of(name: str, files: Mapping[str, str], *, language: str = "en") -> Template:
    """One template of its files' names and texts, not prepared yet.

    Raises:
        TemplateError: they are not the files of this template.
    """
    found: dict[tuple[str, str], str] = {}
    for file_name, text in sorted(files.items()):
        parsed = parse_source_name(file_name)
        if parsed is None or parsed[0] != name:
            raise TemplateError(
                f"a file is named {name[:64]}.html, .mjml, .txt or .subject, with a language before the"
                f" ending or without, or {name[:64]}.schema.json or .sample.json",
                template=file_name[:200],
            )
        if (parsed[2], parsed[1]) in found:
            raise TemplateError("it is there twice, in capitals and small letters", template=file_name[:200])
        found[parsed[2], parsed[1]] = text
    made = _template(name, found, language)
    if not made.sources:
        raise TemplateError("it has no source: no .html, .mjml, .txt or .subject", template=name)
    return made


def _template(name: str, found: Mapping[tuple[str, str], str], language: str) -> Template:
    sources: dict[tuple[Part, str], str] = {}
    for (ending, lang), text in found.items():
        if ending in {"schema.json", "sample.json"}:
            continue
        part = Part.HTML if ending == "mjml" else Part(ending)
        if (part, lang) in sources:
            raise TemplateError("it is both an .html and an .mjml file", template=name)
        sources[part, lang] = text
    schema = _object(f"{name}.schema.json", found.get(("schema.json", "")))
    try:
        version = digest_of(sources, language, schema)
    except orjson.JSONEncodeError:
        raise TemplateError("it is nested too deeply", template=f"{name}.schema.json") from None
    return Template(
        name=name,
        version=version,
        sources=sources,
        schema=schema,
        sample=_object(f"{name}.sample.json", found.get(("sample.json", ""))),
        language=language,
    )


def _object(file_name: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        raise TemplateError("it is no JSON", template=file_name) from None
    if not isinstance(value, dict):
        raise TemplateError("it is no object", template=file_name)
    return value
