"""`mailsender suppress …`: who is on a running service's suppression list."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mailsender.cli.asking import ask
from mailsender.cli.help import SuppressCommand, SuppressGroup
from mailsender.cli.options import AsJson, Key, Url
from mailsender.cli.terminal import STDIN, error_document, fail, moment, print_json
from mailsender.model.text import counted

suppress = typer.Typer(
    cls=SuppressGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="See and change the list of addresses to which nothing is sent.",
)

Addresses = Annotated[
    list[str],
    typer.Argument(metavar="ADDRESS...", help="Addresses, or @ and a domain.", show_default=False),
]
Stream = Annotated[
    str | None,
    typer.Option("--stream", metavar="TEXT", help="Of this stream alone; '' is for all.", show_default=False),
]


@suppress.command("add", cls=SuppressCommand, rich_help_panel="Commands")
def suppress_add(
    *,
    addresses: Addresses,
    stream: Annotated[
        str, typer.Option("--stream", metavar="TEXT", help="Hold back this stream's letters. Else all.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for reports.")] = "",
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Such as 2026-12-31T00:00:00Z, 60d, or never."),
    ] = None,
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Put addresses on the list: nothing is sent to them any more.

    An entry that is there already is replaced. Without --until it ends after SUPPRESSION_LIFE.
    """
    entries = [{"address": each, "stream": stream, "reason": reason, "until": until} for each in addresses]
    answer = ask(url, key, lambda service: service.suppress(entries), as_json=as_json)
    _tell(answer, f"{answer['put']} put, {answer['new']} of them new", as_json=as_json)


@suppress.command("list", cls=SuppressCommand, rich_help_panel="Commands")
def suppress_list(
    *,
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="What holds for this address.")
    ] = "",
    stream: Stream = None,
    after: Annotated[str, typer.Option("--after", metavar="TEXT", help="The `next` of --json before.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")
    ] = 1000,
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Show who is on the list, why, and until when.

    A line an entry; export writes them all.
    """
    query = {"limit": str(limit)}
    query |= {name: each for name, each in (("address", address), ("after", after)) if each}
    query |= {} if stream is None else {"stream": stream}
    answer = ask(url, key, lambda service: service.suppressions(query), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    for each in answer["suppressions"]:
        typer.echo(_line(each))
    if answer["next"] is not None:
        typer.echo("mailsender: there may be more; `mailsender suppress export` writes all", err=True)


def _line(entry: Mapping[str, Any]) -> str:
    whose = f" ({entry['stream']})" if entry["stream"] else ""
    until = f"until {moment(entry['until'])}" if entry["until"] else "for good"
    why = f"{entry['source']}: {entry['reason']}" if entry["reason"] else entry["source"]
    return f"{entry['address']}{whose}  {until}  {why}"


@suppress.command("remove", cls=SuppressCommand, rich_help_panel="Commands")
def suppress_remove(
    *, addresses: Addresses, stream: Stream = None, url: Url = None, key: Key = "", as_json: AsJson = False
) -> None:
    """Take addresses off the list, whatever put them there.

    One that is not on it is no error. Where its domain is, standard error says so.
    """
    answer = ask(url, key, lambda service: service.lift(addresses, stream), as_json=as_json)
    for each in [] if as_json else answer["held"]:
        typer.echo(f"mailsender: {each['address']}: {each['text']}", err=True)
    _tell(answer, f"{answer['removed']} removed", as_json=as_json)


@suppress.command("import", cls=SuppressCommand, rich_help_panel="Commands")
def suppress_import(
    *,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file of CSV; - reads standard input.", show_default=False),
    ],
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Put the addresses of a file on the list.

    The first row may name columns: address, stream, reason, source, since, until. Rows that are wrong are
    passed over and named.
    """
    try:
        source = nullcontext(typer.get_binary_stream("stdin")) if file == STDIN else file.open("rb")
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror or error}"
        fail(text, status=2, document=error_document(text) if as_json else None)
    with source as rows:
        answer = ask(url, key, lambda service: service.import_suppressions(rows), as_json=as_json)
    for each in [] if as_json else answer["faults"]:
        typer.echo(f"row {each['row']}: {each['text']}", err=True)
    wrong = f", {counted(answer['wrong'], 'row')} wrong" if answer["wrong"] else ""
    put = f"{answer['put']} put, {answer['new']} of them new{wrong}"
    _tell(answer, put, as_json=as_json)
    if answer["wrong"]:
        raise typer.Exit(1)


@suppress.command("export", cls=SuppressCommand, rich_help_panel="Commands")
def suppress_export(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it here. Else standard output.")
    ] = None,
    stream: Stream = None,
    url: Url = None,
    key: Key = "",
) -> None:
    """Write the list as CSV, as import takes it.

    A file that is not whole is told by the exit status.
    """
    query = {} if stream is None else {"stream": stream}
    try:
        with nullcontext(typer.get_binary_stream("stdout")) if out is None else out.open("wb") as target:
            ask(url, key, lambda service: service.export_suppressions(query, target), as_json=False)
    except OSError as error:
        fail(f"{out or 'standard output'} cannot be written: {error.strerror or error}")


def _tell(answer: Mapping[str, Any], line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        typer.echo(line)
