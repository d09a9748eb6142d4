"""Templates out of a folder, which are there from the start of the process to its end.

The folder is read once. What runs is then what was checked at the start, the same on each replica that was
deployed with it, and no letter meets a file that is half written. Whoever wants to change templates while
the service runs saves them in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mailsender.templates.files import MAX_FILES, read_files
from mailsender.templates.port import Listed, Stored
from mailsender.templates.template import (
    Limits,
    StoredTemplates,
    Template,
    TemplateError,
    parse_source_name,
)

_BESIDE = frozenset({".md"})
"""Endings of files that explain a folder."""


class Folder(StoredTemplates):
    """The templates of a folder; each has one version, which is a hash of its files."""

    def __init__(self, templates: Iterable[Template] = (), files: Mapping[str, str] | None = None) -> None:
        self._templates = {each.name: each for each in templates}
        super().__init__(tuple(self._templates.values()))
        self._files: dict[str, dict[str, str]] = {}
        for file_name, text in (files or {}).items():
            parsed = parse_source_name(file_name)
            if parsed is not None:
                self._files.setdefault(parsed[0], {})[file_name] = text

    def look_up(self, name: str) -> Stored | None:
        """What was read of one template."""
        template = self._templates.get(name)
        return None if template is None else Stored(template=template, files=self._files.get(name, {}))

    def listed(self) -> list[Listed]:
        """All templates, by name."""
        return [
            Listed(name=name, version=each.version, files=tuple(sorted(self._files.get(name, {}))))
            for name, each in sorted(self._templates.items())
        ]


def read_folder(
    directory: Path, *, language: str = "en", limits: Limits | None = None
) -> tuple[Folder, list[TemplateError]]:
    """The templates of the files that lie in `directory`, and what is wrong with the others.

    Folders within it, files that begin with a dot and those that end with ``.md`` are passed over.

    Raises:
        OSError: it cannot be read.
    """
    limits = limits or Limits()
    files: dict[str, str] = {}
    errors: list[TemplateError] = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in _BESIDE or not path.is_file():
            continue
        if len(files) == MAX_FILES:
            return Folder(), [TemplateError(f"there are more than {MAX_FILES} files")]
        try:
            files[path.name] = _text(path, limits.source)
        except TemplateError as error:
            errors.append(error)
    templates, more = read_files(files, language=language, limits=limits)
    return Folder(templates, files), errors + more


def _text(path: Path, most: int) -> str:
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise TemplateError(f"it has more than {most} bytes", template=path.name[:200])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TemplateError(f"it is not UTF-8 at byte {error.start}", template=path.name[:200]) from None
