"""`mailsender template …`; what it does stands in `mailsender.cli.templates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mailsender.cli.asking import ask
from mailsender.cli.help import TemplateCommand, TemplateGroup
from mailsender.cli.options import AsJson, Key, Url
from mailsender.cli.terminal import error_document, fail, findings_document, print_json
from mailsender.settings.sources import SettingsError, read

templates = typer.Typer(
    cls=TemplateGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look at templates, try them, save them.",
)

Reference = Annotated[
    str, typer.Argument(metavar="NAME", help="The template, or NAME@VERSION.", show_default=False)
]


@templates.command("check", cls=TemplateCommand, rich_help_panel="Commands")
def template_check(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The folder. Else that of TEMPLATES_DIR.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read the templates of a folder and fill each in with its sample.

    Says a line for each, in all of its languages. It asks nobody and changes nothing.
    """
    from mailsender.cli.templates import Unusable, check, shared_variables  # noqa: PLC0415  brings in aiohttp

    try:
        given = read(["templates_dir", "templates_language", "templates_variables"])
        folder = str(directory or given.get("templates_dir", ""))
        variables = shared_variables(given.get("templates_variables", ""))
        found = check(folder, given.get("templates_language", "en"), variables)
    except (Unusable, SettingsError) as error:
        fail(str(error), status=2, document=error_document(str(error)) if as_json else None)
    worst = "error" if any(each.level == "error" for each in found) else "ok"
    if as_json:
        print_json(findings_document(worst, ((each.template, each.level, each.text) for each in found)))
    else:
        for each in found:
            typer.echo(f"{each.level:<5} {each.template}: {each.text}")
    raise typer.Exit(1 if worst == "error" else 0)


@templates.command("list", cls=TemplateCommand, rich_help_panel="Commands")
def template_list(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Show all templates that the service has.

    Those of TEMPLATES_DIR and those that were saved, with their newest versions.
    """
    answer = ask(url, key, lambda service: service.templates(), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    for each in answer["templates"]:
        typer.echo(f"{each['name']}@{each['version']}  {each['place']}  {', '.join(each['files'])}")


@templates.command("show", cls=TemplateCommand, rich_help_panel="Commands")
def template_show(
    name: Reference,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", help="Write its files into this folder instead.")
    ] = None,
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Show the files of a template, as they were saved."""
    from mailsender.cli import templates as of_templates  # noqa: PLC0415  brings in aiohttp

    plain, _, version = name.partition("@")
    answer = ask(url, key, lambda service: service.template(plain, version), as_json=as_json)
    if write is not None:
        try:
            written = of_templates.write(write, answer["files"])
        except of_templates.Unusable as error:
            fail(str(error), document=error_document(str(error)) if as_json else None)
        for path in written:
            typer.echo(path, err=as_json)
    if as_json:
        print_json(answer)
    elif write is None:
        typer.echo(f"{answer['name']}@{answer['version']}, {answer['place']}", err=True)
        for file_name, text in sorted(answer["files"].items()):
            typer.echo(f"--- {file_name}\n{text}")


@templates.command("put", cls=TemplateCommand, rich_help_panel="Commands")
def template_put(
    *,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder.", show_default=False)],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Templates of it. Else all.", show_default=False),
    ] = None,
    only_check: Annotated[
        bool, typer.Option("--check", help="Save nothing; say whether the service would take them.")
    ] = False,
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Save the templates of a folder; letters find them within seconds.

    Each is a new version, unless its files are those of the newest one. A layout goes before what extends
    it. With a fault it is not saved, and each fault is named; those before it are.
    """
    from mailsender.cli.templates import Unusable, put  # noqa: PLC0415  brings in aiohttp

    try:
        language = read(["templates_language"]).get("templates_language", "en")
        saved = put(
            directory,
            names or [],
            language,
            lambda question: ask(url, key, question, as_json=as_json),
            only_check=only_check,
        )
    except (Unusable, SettingsError) as error:
        fail(str(error), document=error_document(str(error)) if as_json else None)
    if as_json:
        print_json({"templates": saved})
        return
    for each in saved:
        said = "can be saved" if only_check else "saved" if each["new"] else "is there already"
        typer.echo(f"{each['name']} {said}" if only_check else f"{each['name']}@{each['version']} {said}")


@templates.command("preview", cls=TemplateCommand, rich_help_panel="Commands")
def template_preview(
    *,
    name: Reference,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Take it from this folder; the service is not asked."),
    ] = None,
    lang: Annotated[str, typer.Option("--lang", metavar="LANG", help="The reader's language.")] = "",
    variables: Annotated[
        Path | None,
        typer.Option("--variables", metavar="FILE", help="A JSON object. Else the template's sample."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the HTML here, or the text where there is none."),
    ] = None,
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Show the letter that a template makes of its sample, or of variables.

    Prints subject and text; --out writes the page. Nothing is sent.
    """
    from mailsender.cli import templates as of_templates  # noqa: PLC0415  brings in aiohttp

    try:
        own = of_templates.variables_of(variables)
        if directory is None:
            plain, _, version = name.partition("@")
            made = ask(
                url,
                key,
                lambda service: service.preview_template(plain, version, lang=lang, variables=own),
                as_json=as_json,
            )
        else:
            given = read(["templates_language", "templates_variables"])
            made = of_templates.preview(
                directory,
                name,
                language=given.get("templates_language", "en"),
                lang=lang,
                variables=of_templates.shared_variables(given.get("templates_variables", "")),
                own=own,
            )
        if out is not None:
            out.write_text(made["html"] or made["text"] or "", encoding="utf-8")
    except (of_templates.Unusable, SettingsError) as error:
        fail(str(error), document=error_document(str(error)) if as_json else None)
    except OSError as error:
        text = f"{out} cannot be written: {error.strerror or error}"
        fail(text, document=error_document(text) if as_json else None)
    if as_json:
        print_json(made)
        return
    if made["subject"] is not None:
        typer.echo(f"Subject: {made['subject']}\n")
    if out is None:
        typer.echo(made["text"] if made["text"] is not None else made["html"])
