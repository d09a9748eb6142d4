"""Why it is so, and what would be: of a reply, of a letter to come, of one that waits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated

import typer

from mailsender.cli.asking import ask, asked_in_passing
from mailsender.cli.options import AsJson, Key, Url
from mailsender.cli.terminal import error_document, fail, print_json


def _preset_names() -> list[str]:
    from mailsender.routing.presets import PRESETS  # noqa: PLC0415  it is wanted for completion alone

    return list(PRESETS)


def explain(
    reply: Annotated[
        str,
        typer.Argument(
            metavar="REPLY", help="What the relay said, with its code, in quotes.", show_default=False
        ),
    ] = "",
    *,
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="When it was said: connect, greeting, ehlo, auth, mail, rcpt, data, dot.",
        ),
    ] = "dot",
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="The relay's preset, such as ses. Asks no setting.",
            show_default=False,
            autocompletion=_preset_names,
        ),
    ] = "",
    relay: Annotated[
        str,
        typer.Option(
            "--relay",
            metavar="NAME",
            help="A relay of the service's own settings: default, or one of the file's.",
            show_default=False,
        ),
    ] = "",
    taken: Annotated[
        bool, typer.Option("--taken", help="It took other recipients in the same transaction.")
    ] = False,
    carried: Annotated[
        bool, typer.Option("--carried", help="It took other letters in the same session.")
    ] = False,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="ADDRESS",
            help="In place of REPLY: the way of a letter to this recipient.",
            show_default=False,
        ),
    ] = "",
    stream: Annotated[str, typer.Option("--stream", help="The letter's stream.", show_default=False)] = "",
    sender: Annotated[
        str,
        typer.Option(
            "--from", metavar="ADDRESS", help="The letter's sender. Else the service's.", show_default=False
        ),
    ] = "",
    priority: Annotated[
        str, typer.Option("--priority", help="The letter's priority: high, normal, low.")
    ] = "normal",
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="A tag of the letter; may be repeated.", show_default=False),
    ] = None,
    route: Annotated[
        str, typer.Option("--route", help="The route that the letter names.", show_default=False)
    ] = "",
    letter: Annotated[
        str,
        typer.Option(
            "--letter",
            metavar="ID",
            help="In place of REPLY: a letter that a running service has, which is asked.",
            show_default=False,
        ),
    ] = "",
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Say what a reply would mean, or why a letter waits.

    Of a reply: which rule fits, what would be done, to whom, and until when. Without --preset and --relay
    the defaults speak, which hold for every relay. docs/replies.md has them. Of a letter to be (--to): its
    route and the relays of that, by the settings and the file, and whether the address is on the
    suppression list, where a service can be asked. Of a letter that waits (--letter): the same, and what
    stands in its way now, by the running service. Nothing is sent.
    """
    from mailsender.cli import explaining  # noqa: PLC0415  pydantic takes a while to import
    from mailsender.cli.letter_way import list_told, told  # noqa: PLC0415  this command alone needs it

    if sum(map(bool, (reply, to, letter))) != 1:
        text = "one of REPLY, --to and --letter is needed, and not two of them"
        fail(text, status=2, document=error_document(text) if as_json else None)
    now = datetime.now(UTC)
    if letter:
        answer = ask(url, key, lambda service: service.explain(letter), as_json=as_json)
        if as_json:
            print_json(answer)
        else:
            typer.echo("\n".join(told(answer, now)))
        return
    no_way = False
    try:
        if to:
            way = explaining.way(
                to, stream=stream, sender=sender, priority=priority, tags=tag or (), route=route
            )
            entries = asked_in_passing(url, key, lambda service: service.suppressed(to, stream))
            document, no_way = way.document() | {"suppressed": entries}, isinstance(way, explaining.NoWay)
            lines: Iterator[str] = chain(way.lines(), list_told(entries))
        else:
            found = explaining.explanation(reply, stage, preset, relay, taken=taken, carried=carried)
            document, lines = found.document(now), found.lines(now)
    except (ValueError, explaining.SettingsError) as error:
        fail(str(error), status=2, document=error_document(str(error)) if as_json else None)
    if as_json:
        print_json(document)
    else:
        for line in lines:
            typer.echo(line)
    if no_way:
        raise typer.Exit(1)
