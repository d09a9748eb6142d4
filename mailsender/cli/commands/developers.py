"""What developers ask: what is wrong with letters, the contracts, and the tables of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mailsender.cli.options import AsJson
from mailsender.cli.terminal import content, error_document, fail, print_json


def lint(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A JSON array of letters, one letter, or a message (.eml); - reads standard input.",
            show_default=False,
        ),
    ],
    bulk: Annotated[
        bool | None,
        typer.Option(
            "--bulk/--no-bulk",
            help="They are bulk mail, or are not. Else as Precedence, List- headers and the number of"
            " recipients say.",
            show_default=False,
        ),
    ] = None,
    signed_by: Annotated[
        list[str] | None,
        typer.Option(
            "--signed-by",
            metavar="DOMAIN",
            help="A domain whose DKIM key will sign the letters; may be repeated. Without one nothing is said"
            " of their signatures.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what mailbox providers would mind in letters or in a message.

    Nothing is sent and nobody is asked. What begins with [ or { is JSON as on the in-topic, all else a
    message. The sender of letters without From is that of SMTP_FROM or SMTP_USER, where these are set.
    docs/reference/lint.md has the rules, and who says so.
    """
    data = content(file, as_json=as_json)
    from mailsender.cli.linting import NothingToSee, lines, linted  # noqa: PLC0415  pydantic takes a while

    try:
        found = linted(data, bulk, signed_by or ())
    except NothingToSee as error:
        text = f"{file} cannot be looked at: {error}"
        fail(text, status=2, document=error_document(text) if as_json else None)
    document = found.document()
    if as_json:
        print_json(document)
    else:
        for line in lines(found):
            typer.echo(line)
    if found.looked_at < found.messages:
        typer.echo(f"the first {found.looked_at} of {found.messages} letters were looked at", err=True)
    raise typer.Exit(1 if document["worst"] == "error" else 0)


def _contract_names() -> list[str]:
    from mailsender.cli.schemas import DOCUMENTS  # noqa: PLC0415  pydantic takes a while to import

    return list(DOCUMENTS)


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            help="asyncapi, openapi, letters, report, dead-letter or config. Without one: the names of all.",
            show_default=False,
            autocompletion=_contract_names,
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="DIR", help="Write all of them into this directory instead."),
    ] = None,
) -> None:
    """Print a contract: OpenAPI, AsyncAPI, or a JSON Schema.

    They are made from the program's own models: what HTTP answers, what travels on the topics, and what may
    stand in the file of MAILSENDER_CONFIG.
    """
    from mailsender.cli.schemas import DOCUMENTS, text_of  # noqa: PLC0415  pydantic takes a while to import

    if write is not None and name is None:
        for each, (place, _) in DOCUMENTS.items():
            path = write / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_of(each), encoding="utf-8")
            typer.echo(path)
    elif name in DOCUMENTS and write is None:
        typer.echo(text_of(name), nl=False)
    elif name is None:
        typer.echo("\n".join(DOCUMENTS))
    else:
        fail(f"give one of {', '.join(DOCUMENTS)}, or --write DIR", status=2)


def settings_table() -> None:
    """Print the table of settings as docs/reference/settings.md shows it."""
    from mailsender.settings.table import table  # noqa: PLC0415  pydantic takes a while to import

    typer.echo("| setting | default | takes | meaning |\n| --- | --- | --- | --- |")
    for row in table():
        prose = " " in row.default or row.default.startswith("`") or row.default in {"", "required", "none"}
        shown = (row.default or "none") if prose else f"`{row.default}`"
        mark = " °" if row.original else ""
        typer.echo(f"| `{row.name}`{mark} | {shown} | {row.values} | {row.meaning} |")


def config_tables() -> None:
    """Print the tables of the file's keys as docs/reference/configuration.md shows them."""
    from mailsender.settings.file.table import pages  # noqa: PLC0415  pydantic takes a while to import

    typer.echo("\n".join(pages()))


def lint_table() -> None:
    """Print the table of rules as docs/reference/lint.md shows it."""
    from mailsender.lint.table import table  # noqa: PLC0415  pydantic takes a while to import

    typer.echo("\n".join(table()))


def metrics_table() -> None:
    """Print the table of metrics as docs/reference/metrics.md shows it."""
    from mailsender.observe.metrics import table  # noqa: PLC0415  takes a while to import

    typer.echo("\n".join(table()))
