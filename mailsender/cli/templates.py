"""`mailsender template …`: look at templates, try them, save them.

`check`, and `preview --dir`, work on files here and ask nobody; the others ask a running service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mailsender.cli.client import ServiceClient, ServiceError

if TYPE_CHECKING:
    from mailsender.templates.folder import Folder
    from mailsender.templates.template import Template, TemplateError

T = TypeVar("T")

Ask = Callable[[Callable[[ServiceClient], Coroutine[Any, Any, T]]], T]
"""Puts a question to the service; ends the command where it has no answer."""


class Unusable(Exception):  # noqa: N818  what the command line gives cannot be worked with
    """A file or folder cannot be read, or is not what is needed; the text is fit for a terminal."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one template, or one of its files."""

    template: str
    level: str
    text: str


def read(directory: Path, language: str) -> tuple[Folder, list[TemplateError]]:
    """The templates in a folder, and what is wrong with the others.

    Raises:
        Unusable: it cannot be read, or `language` is none.
    """
    from mailsender.templates.folder import read_folder  # noqa: PLC0415  Jinja and Babel take a while
    from mailsender.templates.template import normal_language  # noqa: PLC0415  as above

    tag = normal_language(language)
    if not tag:
        raise Unusable(f"TEMPLATES_LANGUAGE: {language!r} is no language tag such as ru or pt-br")
    try:
        return read_folder(directory, language=tag)
    except OSError as error:
        raise Unusable(f"{directory} cannot be read: {error.strerror or error}") from None


def check(directory: str, language: str, variables: Mapping[str, Any]) -> list[Finding]:
    """What there is to say about each template of a folder; each is filled in with its sample.

    Raises:
        Unusable: no folder is named, or it cannot be read.
    """
    from mailsender.templates.library import Library  # noqa: PLC0415  as above

    if not directory:
        raise Unusable("name a folder, or set TEMPLATES_DIR")
    folder, errors = read(Path(directory), language)
    library = Library(folder)

    async def look() -> list[Finding]:
        found: list[Finding] = []
        for each in folder.listed():
            template = _template(folder, each.name)
            found += _of(template, await library.check(template, variables))
        return found

    broken = [Finding(each.template, "error", _without(each)) for each in errors]
    return [*broken, *asyncio.run(look())]


def _template(folder: Folder, name: str) -> Template:
    stored = folder.look_up(name)
    if stored is None:
        raise Unusable(f"there is no template {name}")
    return stored.template


def _of(template: Template, faults: list[TemplateError]) -> list[Finding]:
    if faults:
        return [Finding(each.template or template.name, "error", _without(each)) for each in faults]
    languages = ", ".join(sorted({lang or template.language for lang in template.languages}))
    filled = (
        "it has no sample to be filled in with" if template.sample is None else "filled in with its sample"
    )
    return [Finding(template.name, "ok", f"{languages}; {filled}")]


def _without(error: TemplateError) -> str:
    """What is wrong, without the template's name."""
    where = [f"line {error.line}"] if error.line is not None else []
    where += [f"variable {error.variable}"] if error.variable else []
    return f"{', '.join(where)}: {error.reason}" if where else error.reason


def preview(
    directory: Path, name: str, *, language: str, lang: str, variables: Mapping[str, Any], own: Any
) -> dict[str, Any]:
    """What a template of a folder makes of `own` variables, or of its sample where they are None.

    Raises:
        Unusable: there is no such template, or it cannot be filled in.
    """
    from mailsender.templates.library import Library  # noqa: PLC0415  as above
    from mailsender.templates.template import TemplateError  # noqa: PLC0415  as above

    folder, errors = read(directory, language)

    async def make() -> dict[str, Any]:
        found = await Library(folder).found(name, lang)
        given = (found.made_of[0].sample or {}) if own is None else own
        made = found.compiled.render(variables, given)
        parts = {"subject": made.subject, "html": made.html, "text": made.text}
        return {"name": found.compiled.name, "version": found.compiled.version, **parts}

    try:
        return asyncio.run(make())
    except TemplateError as error:
        mine = [each for each in errors if each.template.partition(".")[0] == name.partition("@")[0]]
        raise Unusable(str(mine[0] if mine else error)) from None


def put(directory: Path, names: list[str], language: str, ask: Ask[Any], *, only_check: bool) -> list[Any]:
    """Save templates of a folder; what one leads to, before it. Returns what the service said of each.

    Raises:
        Unusable: one is not there, or the service does not take it.
    """
    files = _files(directory)
    for name in names:
        if name not in files:
            raise Unusable(f"there is no template {name} in {directory}")
    waiting = names or sorted(files)
    done: list[Any] = []
    while waiting:
        refused: dict[str, ServiceError] = {}
        for name in waiting:
            answer = ask(_tried(name, files[name], language, only_check))
            if isinstance(answer, ServiceError):
                refused[name] = answer
            else:
                done.append(answer)
        if len(refused) == len(waiting):
            raise Unusable("\n".join(f"{name}: {error}" for name, error in refused.items()))
        waiting = list(refused)  # it may lead to one that is there now
    return done


def _tried(
    name: str, files: Mapping[str, str], language: str, only_check: bool
) -> Callable[[ServiceClient], Coroutine[Any, Any, Any]]:
    async def question(service: ServiceClient) -> Any:
        try:
            return await service.put_template(name, files, language=language, only_check=only_check)
        except ServiceError as error:
            if error.problem is not None and error.problem.get("reason") == "bad-template":
                return error
            raise

    return question


def _files(directory: Path) -> dict[str, dict[str, str]]:
    """The files of each template of a folder, whether or not it is one."""
    from mailsender.templates.template import parse_source_name  # noqa: PLC0415  as above

    found: dict[str, dict[str, str]] = {}
    try:
        for path in sorted(directory.iterdir()):
            parsed = parse_source_name(path.name)
            if parsed is not None and path.is_file():
                found.setdefault(parsed[0], {})[path.name] = path.read_text("utf-8-sig")
    except OSError as error:
        raise Unusable(f"{directory} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{directory}: {path.name} is not UTF-8") from None
    if not found:
        raise Unusable(f"{directory} holds no templates: files such as welcome.html and welcome.subject")
    return found


def write(directory: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files of a template into a folder; the names come from the service, and are looked at.

    Raises:
        Unusable: one cannot be written.
    """
    from mailsender.templates.template import parse_source_name  # noqa: PLC0415  as above

    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in sorted(files.items()):
            if parse_source_name(name) is None:
                raise Unusable(f"{name!r} is no name of a template's file")
            path = directory / name
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise Unusable(f"{directory} cannot be written: {error.strerror or error}") from None
    return written


def variables_of(file: Path | None) -> dict[str, Any] | None:
    """The variables in a JSON file; None where none is given.

    Raises:
        Unusable: it cannot be read, or holds no JSON object.
    """
    if file is None:
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise Unusable(f"{file} holds no JSON") from None
    if not isinstance(found, dict):
        raise Unusable(f"{file} holds no JSON object")
    return found


def shared_variables(text: str) -> dict[str, Any]:
    """The value of TEMPLATES_VARIABLES.

    Raises:
        Unusable: it is no JSON object.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unusable("TEMPLATES_VARIABLES: a JSON object is needed")
    return found
