"""Templates by name, compiled once and kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import jinja2
from babel import Locale
from jinja2 import nodes

from mailsender.model.text import octets
from mailsender.templates.compiled import Compiled, CompiledSource, located
from mailsender.templates.filters import filters_of, locale_of, tests
from mailsender.templates.meter import metered
from mailsender.templates.prepare import extended, prepared
from mailsender.templates.sandbox import Sandbox
from mailsender.templates.syntax import REFERENCES
from mailsender.templates.template import (
    Limits,
    NoTemplate,
    Part,
    Template,
    TemplateError,
    TemplateStore,
    normal_language,
    parse_reference,
    parse_source_name,
)
from mailsender.templates.variables import Schema

KEPT = 4 * 1024 * 1024
"""Characters of sources whose compiled form is kept, those of hundreds of templates. It takes 4 times the
room where HTML is most of them, and 12 times where code is."""


@dataclass(frozen=True, slots=True)
class Found:
    """A template that is ready, and what it was made of: itself, then all others that it leads to."""

    compiled: Compiled
    made_of: tuple[Template, ...]

    @property
    def size(self) -> int:
        """Characters of all sources that it was made of."""
        return sum(len(text) for each in self.made_of for text in each.sources.values())


class Library:
    """Templates by name, from the first store that knows one.

    Compiled ones are kept, the last used, as long as their sources have no more than `kept` characters
    together. A template, or one that it leads to, that was changed in its store is compiled anew when it is
    next asked for. `preparing` runs a function that reads what may be a stranger's HTML.
    """

    def __init__(
        self,
        *stores: TemplateStore,
        limits: Limits | None = None,
        kept: int = KEPT,
        preparing: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._stores = stores
        self._limits = limits or Limits()
        self._kept = kept
        self._preparing = preparing
        self._size = 0
        self._compiled: OrderedDict[_Key, Found] = OrderedDict()

    async def find(self, reference: str, lang: str = "") -> Compiled:
        """The template that a letter names (``welcome``, ``welcome@3``), for readers of `lang`.

        Raises:
            NoTemplate: there is none.
            TemplateError: it cannot be compiled.
            Unavailable: a store does not answer.
        """
        return (await self.found(reference, lang)).compiled

    async def found(self, reference: str, lang: str = "") -> Found:
        """The same, with what it was made of."""
        name, version = parse_reference(reference)
        template = await self._stored(name, version)
        if template is None:
            raise NoTemplate("there is no such template", template=reference)
        lang = _useful(template, normal_language(lang))
        key = (template.name, template.version, template.digest, lang)
        known = self._compiled.get(key)
        if known is None or not await self._unchanged(known.made_of[1:]):
            compiled, others = await self.compile(template, lang)
            known = Found(compiled, (template, *others))
            self._keep(key, known)
        elif key in self._compiled:
            self._compiled.move_to_end(key)
        return known

    def _keep(self, key: _Key, found: Found) -> None:
        old = self._compiled.pop(key, None)
        self._size += found.size - (old.size if old else 0)
        self._compiled[key] = found
        while self._size > self._kept and len(self._compiled) > 1:
            self._size -= self._compiled.popitem(last=False)[1].size

    async def compile(self, template: Template, lang: str = "") -> tuple[Compiled, tuple[Template, ...]]:
        """`template`, which need not be stored, for readers of `lang`; and the others that it leads to.

        It takes some 10 ms, and most of a second with as much code as is allowed: a thread does it.

        Raises:
            TemplateError: it cannot be compiled.
            Unavailable: a store does not answer.
        """
        compiled: dict[Part, CompiledSource] = {}
        others: dict[str, Template] = {}
        for part in Part:
            chosen = template.chosen(part, lang)
            if chosen is None:
                continue
            sources = _Sources()
            sandbox = Sandbox(
                html=part is Part.HTML,
                filters=filters_of(_locale(template, chosen[0], lang)),
                tests=tests(),
                loader=sources,
                cache_size=self._limits.sources + 1,
            )
            await self._gather(template, part, lang, sandbox, sources)
            start = f"{template.name}.{part}"
            compiled[part] = await asyncio.to_thread(sources.compiled, sandbox, start, self._limits)
            others.update((each.template.name, each.template) for each in sources.by_name.values())
        if not compiled:
            raise TemplateError("it has no source", template=template.name)
        others.pop(template.name, None)
        schema = None if template.schema is None else Schema(template.schema, template.name)
        return Compiled(template.name, template.version, compiled, schema, self._limits), tuple(
            others.values()
        )

    async def prepared(self, template: Template) -> Template:
        """`template`, which need not be stored, as it is to be stored; see `prepare.prepared`.

        Layouts are taken from the stores: their styles go into what extends them as they are now.

        Raises:
            TemplateError: it cannot be prepared.
        """
        layouts: dict[str, Template] = {}
        open_ = await self._preparing(extended, template)
        while open_ and len(layouts) < self._limits.sources:
            name = open_.pop()
            layout = None if name in layouts else await self._stored(name, None)
            if layout is not None:
                layouts[name] = layout
                open_ |= await self._preparing(extended, layout)
        ready: Template = await self._preparing(partial(prepared, limits=self._limits), template, layouts)
        return ready

    async def check(
        self, template: Template, variables: Mapping[str, Any] = MappingProxyType({})
    ) -> list[TemplateError]:
        """What is wrong with `template`, which is prepared and need not be stored.

        It is compiled in each of its languages and rendered with its sample, and with `variables`, those of
        all letters.
        """
        found: dict[str, TemplateError] = {}
        for lang in sorted(template.languages | {""}):
            try:
                compiled, _ = await self.compile(template, lang)
                if template.sample is not None:
                    await asyncio.to_thread(compiled.render, variables, template.sample)
            except TemplateError as error:
                # Without its traceback, which would hold this frame, and so itself.
                found.setdefault(str(error), error.with_traceback(None))
        return list(found.values())

    async def _stored(self, name: str, version: str | None) -> Template | None:
        for store in self._stores:
            template = await store.find(name, version)
            if template is not None:
                return template
        return None

    async def _unchanged(self, others: tuple[Template, ...]) -> bool:
        for each in others:
            now = await self._stored(each.name, None)
            if now is None or (now.version, now.digest) != (each.version, each.digest):
                return False
        return True

    async def _gather(
        self, template: Template, part: Part, lang: str, sandbox: Sandbox, sources: _Sources
    ) -> None:
        """Puts the source of `part`, and all that it leads to, into `sources`."""
        start = f"{template.name}.{part}"
        owners = {start: template}
        leads_to: dict[str, list[str]] = {}
        while owners.keys() - leads_to.keys():
            name = next(each for each in owners if each not in leads_to)
            source = _source(owners[name], part, lang, self._limits)
            sources.by_name[name] = source
            leads_to[name] = []
            tree = await asyncio.to_thread(sandbox.parsed, source.text, name, source.label)
            for node in tree.find_all(REFERENCES):
                target = node.template.value  # type: ignore[attr-defined]  # a constant, as `parsed` saw
                leads_to[name].append(target)
                if isinstance(node, nodes.Import | nodes.FromImport) and not node.with_context:
                    sources.imported.add(target)
                if target not in owners:
                    owners[target] = await self._other(target, part, lang, source.label, node.lineno)
            if len(owners) > self._limits.sources:
                raise TemplateError(
                    f"it leads to more than {self._limits.sources} sources", template=template.name
                )
        _no_circle(leads_to, start, self._limits.chain)

    async def _other(self, target: str, part: Part, lang: str, label: str, line: int) -> Template:
        """The template whose source is named `target`."""
        parsed = parse_source_name(target)
        if parsed is None or parsed[1] or parsed[2] != part:
            raise TemplateError(
                f"another template is named as footer.{part}, without a language", template=label, line=line
            )
        other = await self._stored(parsed[0], None)
        if other is None or other.chosen(part, lang) is None:
            raise TemplateError(f"there is no {target}", template=label, line=line)
        return other


_Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Source:
    template: Template
    label: str
    """The name of the file that it is (``footer.ru.html``), for errors."""
    text: str


@dataclass(eq=False)  # Jinja keeps it in a set of weak references
class _Sources(jinja2.BaseLoader):
    """What one part leads to, by the names that templates use (``footer.html``); it compiles them."""

    by_name: dict[str, _Source] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    """Those that others import without their context."""

    def load(self, environment: jinja2.Environment, name: str, globals: Any = None) -> jinja2.Template:  # noqa: A002
        """One source, compiled with its meter."""
        source = self.by_name.get(name)
        if source is None or not isinstance(environment, Sandbox):
            raise jinja2.TemplateNotFound(name)
        tree = environment.counting(environment.parsed(source.text, name, source.label))
        code = environment.compile(tree, name, source.label)
        variables = {**environment.globals, **(globals or {})}
        return environment.template_class.from_code(environment, code, variables)

    def compiled(self, sandbox: Sandbox, start: str, limits: Limits) -> CompiledSource:
        """The source `start`; the others stay in the sandbox's cache."""
        with metered(limits):  # constants are computed now
            for name, source in self.by_name.items():
                self._compile(sandbox, name, source.label)
        return CompiledSource(sandbox.get_template(start), self.by_name[start].label)

    def _compile(self, sandbox: Sandbox, name: str, label: str) -> None:
        try:
            loaded = sandbox.get_template(name)
            if name in self.imported:
                _ = loaded.module  # it sees no letter, so what is wrong with it is so now
        except TemplateError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(error.message or "syntax", template=label, line=error.lineno) from None
        except SyntaxError:  # Python's own, for more than 20 loops within each other
            raise TemplateError("its parts are nested too deeply", template=label) from None
        except Exception as error:  # noqa: BLE001  whatever it does is the template's error
            raise located(error, label) from None


def _source(template: Template, part: Part, lang: str, limits: Limits) -> _Source:
    chosen = template.chosen(part, lang)
    if chosen is None:
        raise NoTemplate(f"it has no {part}", template=template.name)
    label = ".".join(filter(None, (template.name, chosen[0], part)))
    try:
        size = octets(chosen[1])
    except UnicodeEncodeError:
        raise TemplateError("it holds half of a surrogate pair", template=label) from None
    if size > limits.source:
        raise TemplateError(f"it has more than {limits.source} bytes", template=label)
    return _Source(template, label, chosen[1])


def _no_circle(leads_to: Mapping[str, list[str]], start: str, longest: int) -> None:
    """Raises TemplateError where sources lead back to themselves, or too far."""
    lengths: dict[str, int] = {}

    def length(name: str, row: tuple[str, ...]) -> int:
        if name in row:
            raise TemplateError(f"it leads back to {name} in a circle", template=row[-1])
        if name not in lengths:
            lengths[name] = 1 + max((length(each, (*row, name)) for each in leads_to[name]), default=0)
        return lengths[name]

    if length(start, ()) > longest:
        raise TemplateError(f"it leads to more than {longest} sources in a row", template=start)


def _useful(template: Template, lang: str) -> str:
    """`lang` as far as the template or CLDR knows it: strangers choose it, and what is kept takes room."""
    ours = {each.partition("-")[0] for each in {*template.languages, template.language}}
    while lang and lang not in template.languages:
        if lang.partition("-")[0] in ours and locale_of(lang) is not None:
            break
        lang = lang.rpartition("-")[0]
    return lang


def _locale(template: Template, chosen: str, lang: str) -> Locale:
    """How dates and numbers are written: as in the reader's country, but in the language of the source."""
    spoken = chosen or template.language
    same = lang.partition("-")[0] == spoken.partition("-")[0]
    for each in (lang if same else "", spoken, spoken.partition("-")[0]):
        locale = locale_of(each) if each else None
        if locale is not None:
            return locale
    raise TemplateError(f"CLDR does not know the language {spoken}", template=template.name)
