"""A template that is ready: variables in, a letter's texts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from traceback import walk_tb
from typing import Any

import jinja2
from jinja2.exceptions import TemplateRuntimeError

from mailsender.model.text import header_fault, octets
from mailsender.templates.meter import Refusal, metered
from mailsender.templates.sandbox import MissingVariable
from mailsender.templates.template import Limits, Part, TemplateError
from mailsender.templates.variables import Schema, merged


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a letter says. A part is None where the template has none."""

    subject: str | None
    html: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class CompiledSource:
    """One part, compiled. `label` is the name of its file (``welcome.ru.html``), for errors."""

    jinja: jinja2.Template
    label: str


class Compiled:
    """One version of a template for readers of one language; `Library` makes them."""

    __slots__ = ("_limits", "_schema", "_sources", "name", "version")

    def __init__(
        self,
        name: str,
        version: str,
        sources: Mapping[Part, CompiledSource],
        schema: Schema | None,
        limits: Limits,
    ) -> None:
        self.name = name
        self.version = version
        self._sources = sources
        self._schema = schema
        self._limits = limits

    def render(self, *layers: Mapping[str, Any]) -> Rendered:
        """The letter with these variables: those of all letters, then the letter's, then the recipient's.

        Each layer wins over those before it. The same variables always make the same letter, or the same
        error.

        Raises:
            TemplateError: a variable is missing or not as the schema wants it, or the template fails or
                takes too much with them.
        """
        variables = merged(*layers, limits=self._limits)
        if self._schema is not None:
            self._schema.check(variables)
        with metered(self._limits):
            texts = {part: self._text(source, variables) for part, source in self._sources.items()}
        subject = texts.get(Part.SUBJECT)
        return Rendered(
            None if subject is None else self._one_line(subject), texts.get(Part.HTML), texts.get(Part.TEXT)
        )

    def letter(self, subject: str, *layers: Mapping[str, Any]) -> Rendered:
        """As `render`, for a letter that may bring a `subject` of its own, which then stands in its place.

        Raises:
            TemplateError: as `render` and `whole` do.
        """
        self.whole(subject)
        made = self.render(*layers)
        return replace(made, subject=subject) if subject else made

    def whole(self, subject: str) -> None:
        """Nothing, if it can make a letter that brings `subject`, which may be empty.

        Raises:
            TemplateError: it is only there for others to extend or include, or nobody has a subject.
        """
        if not self._sources.keys() & {Part.HTML, Part.TEXT}:
            raise TemplateError("it has neither an .html nor a .txt source", template=self.name)
        if not subject and Part.SUBJECT not in self._sources:
            raise TemplateError(
                "it has no .subject source, and the letter has no Subject", template=self.name
            )

    def _text(self, source: CompiledSource, variables: dict[str, Any]) -> str:
        chunks: list[str] = []
        size, most = 0, self._limits.output
        try:
            for chunk in source.jinja.root_render_func(source.jinja.new_context(variables)):
                size += len(chunk)
                if size > most:
                    break
                chunks.append(chunk)
            text = "".join(chunks)
            size = max(size, octets(text))
        except UnicodeEncodeError:
            raise TemplateError("a variable holds half of a surrogate pair", template=source.label) from None
        except Exception as error:  # noqa: BLE001  whatever a template does is that letter's error
            raise located(error, source.label) from None
        if size > most:
            raise TemplateError(f"it writes more than {most} bytes", template=source.label)
        return text

    def _one_line(self, text: str) -> str:
        subject = text.strip()
        fault = header_fault(subject)
        if len(subject) > self._limits.subject:
            fault = f"has {len(subject)} characters; {self._limits.subject} are allowed"
        if fault:
            raise TemplateError(f"the subject {fault}", template=self._sources[Part.SUBJECT].label)
        return subject


_NO_SUCH = ("No filter named", "No test named")


def located(error: Exception, label: str) -> TemplateError:
    """`error` with its place in the source, and without values; `label` is the source if it tells of none."""
    if isinstance(error, TemplateError):
        return error
    line: int | None = None
    for frame, number in walk_tb(error.__traceback__):
        template = frame.f_globals.get("__jinja_template__")
        if isinstance(template, jinja2.Template):
            label, line = template.filename or label, template.get_corresponding_lineno(number)
    if isinstance(error, MissingVariable):
        name = str(error.name)[:200] if error.name is not None else None
        reason = "it is missing" if name is not None else "a value is missing"
        return TemplateError(reason, template=label, line=line, variable=name)
    if isinstance(error, TemplateRuntimeError) and str(error).startswith(_NO_SUCH):
        # Jinja quotes it, and it may be a value: map(name).
        return TemplateError("there is no such filter or test", template=label, line=line)
    if isinstance(error, Refusal | TemplateRuntimeError | TypeError | ZeroDivisionError):
        reason = str(error)  # Python's own name kinds, no values
    elif isinstance(error, RecursionError):
        reason = "its parts or variables are nested too deeply"
    else:
        reason = f"{type(error).__name__} in an expression"
    return TemplateError(reason, template=label, line=line)
