"""What the HTTP side may ask of a replica about templates: list, show, save, preview."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mailsender.admin.confined import TooMuch
from mailsender.model.errors import Unavailable
from mailsender.service import Replica
from mailsender.templates.files import template_of
from mailsender.templates.library import Library
from mailsender.templates.port import Listed, Shelf, Stored
from mailsender.templates.template import NAME, NoTemplate, Template, TemplateError
from mailsender.web.template_operations import BadTemplate, InFolder, Place, Preview


class _AsItIsNow:
    """A shelf without what it remembers: what was saved through another replica a moment ago counts here."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def find(self, name: str, version: str | None) -> Template | None:
        """See `TemplateStore.find`."""
        stored = await self._shelf.look_up(name, version)
        return None if stored is None else stored.template


class ReplicaTemplates:
    """Implements `web.template_operations.TemplateOperations` over a replica; `preparing` is `Library`'s."""

    def __init__(self, replica: Replica, preparing: Callable[..., Awaitable[Any]]) -> None:
        self._replica = replica
        self._folder = replica.parts.folder
        self._library = Library(self._folder, _AsItIsNow(replica.parts.shelf), kept=0, preparing=preparing)
        self._variables = replica.settings.variables
        self._working = asyncio.Lock()  # to prepare and compile takes a processor, and there is one for all

    @property
    def _shelf(self) -> Shelf:
        """The store, once it is open."""
        if self._replica.opening.text:
            raise Unavailable(self._replica.opening.text)
        return self._replica.parts.shelf

    async def listed(self) -> list[tuple[Place, Listed]]:
        """See `TemplateOperations.listed`."""
        in_folder = self._folder.listed()
        hidden = {each.name for each in in_folder}
        found: list[tuple[Place, Listed]] = [("folder", each) for each in in_folder]
        found += [("mongodb", each) for each in await self._shelf.listed() if each.name not in hidden]
        return sorted(found, key=lambda pair: pair[1].name)

    async def show(self, name: str, version: str | None) -> tuple[Place, Stored] | None:
        """See `TemplateOperations.show`."""
        if not NAME.fullmatch(name):
            return None
        here = self._folder.look_up(name)
        if here is not None and version in {None, here.template.version}:
            return "folder", here
        stored = await self._shelf.look_up(name, version)
        return None if stored is None else ("mongodb", stored)

    async def put(
        self, name: str, files: Mapping[str, str], *, language: str, check: bool
    ) -> tuple[str, bool]:
        """See `TemplateOperations.put`."""
        if self._folder.look_up(name) is not None:
            raise InFolder
        shelf = self._shelf
        async with self._working:
            ready = await self._checked(name, files, language)
            if check:
                return "", False
            stored, new = await shelf.put(ready, files)
        return stored.template.version, new

    async def _checked(self, name: str, files: Mapping[str, str], language: str) -> Template:
        try:
            ready = await self._library.prepared(template_of(name, files, language=language))
            faults = await self._library.check(ready, self._variables)
        except TemplateError as error:
            raise BadTemplate([error]) from None
        except TooMuch as error:
            raise BadTemplate([TemplateError(str(error), template=name)]) from None
        if faults:
            raise BadTemplate(faults)
        return ready

    async def preview(
        self, name: str, version: str | None, *, lang: str, variables: Mapping[str, Any] | None
    ) -> Preview | None:
        """See `TemplateOperations.preview`."""
        _ = self._shelf
        reference = name if version is None else f"{name}@{version}"
        try:
            async with self._working:
                found = await self._library.found(reference, lang)
                given = (found.made_of[0].sample or {}) if variables is None else variables
                rendered = await asyncio.to_thread(found.compiled.render, self._variables, given)
        except NoTemplate:
            return None
        except TemplateError as error:
            raise BadTemplate([error]) from None
        return Preview(name=found.compiled.name, version=found.compiled.version, rendered=rendered)
