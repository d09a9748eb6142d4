"""A running service: to give it letters, to see what it does, to end it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mailsender.cli.asking import ask
from mailsender.cli.options import AsJson, Key, Url
from mailsender.cli.terminal import content, fail, print_json
from mailsender.model.text import counted
from mailsender.settings.sources import SettingsError, place


def post(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A JSON array of letters; - reads standard input.",
            show_default=False,
        ),
    ],
    *,
    record_key: Annotated[
        str,
        typer.Option(
            "--record-key",
            metavar="TEXT",
            help="The record's key, which the reports bring back. Else a random one.",
            show_default=False,
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Publish nothing: show routes, recipients, messages and faults."),
    ] = False,
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Give the service a batch of letters; print their IDs.

    They go to its topic as a producer would send them. A batch with a fault is refused whole, and each fault
    is named.
    """
    batch = content(file, as_json=as_json)
    answer = ask(url, key, lambda service: service.post(batch, record_key, dry_run=dry_run), as_json=as_json)
    if dry_run:
        _tell_dry_run(answer, as_json=as_json)
        return
    if as_json:
        print_json(answer)
        return
    place = f"{answer['topic']}, partition {answer['partition']}, offset {answer['offset']}"
    typer.echo(f"{counted(len(answer['ids']), 'letter')} published to {place}", err=True)
    for letter_id in answer["ids"]:
        typer.echo(letter_id)


def _tell_dry_run(answer: Mapping[str, Any], *, as_json: bool) -> None:
    from mailsender.cli.dry_run import end_told, letters_told  # noqa: PLC0415  brings in aiohttp

    if as_json:
        print_json(answer)
    else:
        for line in letters_told(answer):
            typer.echo(line)
        for line in end_told(answer):
            typer.echo(line, err=True)
    if answer["faults"]:
        raise typer.Exit(1)


def status(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Show what the service is doing.

    How much waits and how much was sent, the rate and what is left of the quota, sessions, the relay, the
    drain, and why it is not ready, if it is not.
    """
    answer = ask(url, key, lambda service: service.status(), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    from mailsender.cli.tables import print_status  # noqa: PLC0415  rich takes a while to import

    print_status(answer)


def health(
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            help="Where the service listens on this machine. Else as HTTP_PORT says.",
            show_default=False,
        ),
    ] = None,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether it is ready, not only alive.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say by the exit status whether the service here is alive.

    Asks /healthz, or /readyz with --ready; no key is needed. Made for containers' health checks.
    """
    from mailsender.cli.health import probe  # noqa: PLC0415  only this command needs it

    host, own = "", port
    try:
        host, own = place()
        fault = probe(own if port is None else port, host=host, ready=ready)
    except SettingsError as error:
        fault = str(error)
    document = {
        "well": not fault,
        "asked": "ready" if ready else "alive",
        "port": own if port is None else port,
        "fault": fault or None,
    }
    if fault:
        fail(fault, document=document if as_json else None)
    if as_json:
        print_json(document)


def reload(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Have a service read its file of relays and routes again.

    Says what it took, and what takes a restart. With something wrong in the file nothing is changed, and what
    is wrong is said. Each replica reads its own file.
    """
    answer = ask(url, key, lambda service: service.reload(), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    for each in answer["taken"]:
        typer.echo(f"taken    {each}")
    for each in answer["left"]:
        typer.echo(f"restart  {each}")
    if not (answer["taken"] or answer["left"]):
        typer.echo(f"{answer['path']} says what it said")


def lift(
    relay: Annotated[str, typer.Argument(metavar="RELAY", help="The relay's name.", show_default=False)],
    scope: Annotated[
        str,
        typer.Argument(
            metavar="[SCOPE]",
            help="What the order covers: relay, destination:DOMAIN or sender:ADDRESS.",
        ),
    ] = "relay",
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the log.")] = "",
    url: Url = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """End what a relay's reply ordered: wait, slow or stop.

    All replicas go on, this one at once; the relay's next reply may order it again. What holds is in
    `status`. Letters that only waited for its end are due again within seconds; those to which the reply was
    given come at the time to which it put them off.
    """
    answer = ask(url, key, lambda service: service.lift_order(relay, scope, reason), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    rule = f", by the rule {answer['rule']}; it had said: {answer['said']}" if answer["rule"] else ""
    typer.echo(f"lifted   {answer['relay']} {answer['scope']}{rule}")


def halt(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Start the service's drain; again: say how far it is.

    It takes no more letters, ends what is under way, gives back the rest, reports, and exits.
    """
    answer = ask(url, key, lambda service: service.halt(), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    typer.echo("draining: " + ", ".join(f"{name} {value}" for name, value in answer.items() if _told(value)))


def _told(value: object) -> bool:
    """Whether a member of the drain's progress says anything beyond that there is one."""
    return value is not None and value != [] and not isinstance(value, bool)
