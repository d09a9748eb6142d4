"""What the HTTP side needs from the service about templates. Its docstrings are the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mailsender.templates.compiled import Rendered
from mailsender.templates.port import Listed, Stored
from mailsender.templates.template import TemplateError

Place = Literal["folder", "mongodb"]


class BadTemplate(Exception):  # noqa: N818  an answer to the caller, not a mistake of ours
    """A template, or what it was to be filled in with, is wrong; nothing was saved."""

    def __init__(self, faults: Sequence[TemplateError]) -> None:
        """Note what is wrong, and where."""
        super().__init__("the template cannot be taken" if len(faults) != 1 else str(faults[0]))
        self.faults = tuple(faults)


class InFolder(Exception):  # noqa: N818  as above
    """A template of this name is in TEMPLATES_DIR, which comes first: nobody would ever see another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a template makes of variables."""

    name: str
    version: str
    rendered: Rendered


class TemplateOperations(Protocol):
    """Templates, as the HTTP side sees them. Each call may raise `Unavailable`, which becomes a 503."""

    async def listed(self) -> list[tuple[Place, Listed]]:
        """The newest version of each, by name, with the place that it is in."""
        ...

    async def show(self, name: str, version: str | None) -> tuple[Place, Stored] | None:
        """One version, or the newest one, with its files; None where there is none."""
        ...

    async def put(
        self, name: str, files: Mapping[str, str], *, language: str, check: bool
    ) -> tuple[str, bool]:
        """Save the files of a template as its newest version; with `check` only look whether that would do.

        Returns the version, and whether it is new: the same files twice are one version. With `check` the
        version is empty.

        Raises:
            BadTemplate: it cannot be a template, or cannot be filled in with its sample.
            InFolder: it would never be seen.
        """
        ...

    async def preview(
        self, name: str, version: str | None, *, lang: str, variables: Mapping[str, Any] | None
    ) -> Preview | None:
        """The letter that a template makes of `variables`, or of its sample; None where there is none.

        Raises:
            BadTemplate: it cannot be filled in with them.
        """
        ...
