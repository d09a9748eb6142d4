"""Templates in memory: for a queue in memory, and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mailsender.model.clock import Clock
from mailsender.model.letter import now_ms
from mailsender.templates.port import MAX_LISTED, Listed, Stored, number_of
from mailsender.templates.template import Template


class MemoryShelf:
    """See `Shelf`; nothing outlives the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._versions: dict[str, list[Stored]] = {}
        self._pins: dict[str, str] = {}

    async def find(self, name: str, version: str | None) -> Template | None:
        """See `TemplateStore.find`."""
        stored = await self.look_up(name, version)
        return None if stored is None else stored.template

    async def look_up(self, name: str, version: str | None) -> Stored | None:
        """See `Shelf.look_up`."""
        versions = self._versions.get(name, [])
        number = len(versions) if version is None else number_of(version)
        return versions[number - 1] if number and number <= len(versions) else None

    async def put(self, template: Template, files: Mapping[str, str]) -> tuple[Stored, bool]:
        """See `Shelf.put`."""
        versions = self._versions.setdefault(template.name, [])
        if versions and _same(versions[-1], template, files):
            return versions[-1], False
        numbered = replace(template, version=str(len(versions) + 1))
        stored = Stored(template=numbered, files=dict(files), saved_at=now_ms(self._clock.epoch()))
        versions.append(stored)
        return stored, True

    async def listed(self) -> list[Listed]:
        """See `Shelf.listed`."""
        newest = [versions[-1] for _, versions in sorted(self._versions.items())][:MAX_LISTED]
        return [
            Listed(
                name=each.template.name,
                version=each.template.version,
                files=tuple(sorted(each.files)),
                saved_at=each.saved_at,
            )
            for each in newest
        ]

    async def pin(self, digest: str, text: str) -> None:
        """See `PinStore.pin`."""
        self._pins.setdefault(digest, text)

    async def pinned(self, digest: str) -> str | None:
        """See `PinStore.pinned`."""
        return self._pins.get(digest)


def _same(stored: Stored, template: Template, files: Mapping[str, str]) -> bool:
    return stored.files == files and stored.template == replace(template, version=stored.template.version)
