"""The service itself: to run it, here or on trial, and to try what its settings name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mailsender import signals
from mailsender.cli.asking import STATE
from mailsender.cli.options import AsJson
from mailsender.cli.terminal import fail, findings_document, print_json
from mailsender.settings.sources import SettingsError

if TYPE_CHECKING:
    from mailsender.settings.environment import Settings

_EXTRA: Final = frozenset({"aiosmtpd", "confluent_kafka", "fiftyone"})
"""What the `dev` extra brings."""


def run() -> None:
    """Run the service until SIGTERM, SIGHUP, Ctrl-C or `halt`.

    Settings come from the environment, and from files in MAILSENDER_SECRETS_DIR; docs/reference/settings.md
    lists them. MAILSENDER_CONFIG may name a file of relays and routes: then SIGHUP has it read again instead
    of stopping the service. The first signal stops it in good order, a second one cuts that short. It logs to
    standard error.
    """
    settings = _settings()
    if settings.config is not None:
        signals.remember_reload()
    from mailsender.app import run_service  # noqa: PLC0415  brings in every client library

    run_service(settings)


def dev() -> None:
    """Run the service with Kafka, MongoDB and a mail catcher.

    All of it runs on this machine, without Docker, and keeps its state in .dev/ of this directory. Nothing is
    mailed: the catcher shows on its page what would have been. Needs mailsender[dev].
    """
    try:
        from mailsender.dev.stack import run_stack  # noqa: PLC0415  the extra may not be installed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        fail(f"`mailsender dev` needs {error.name}; install it with: pip install 'mailsender[dev]'")
    raise typer.Exit(run_stack(STATE))


def check(
    to: Annotated[
        str, typer.Option("--to", metavar="ADDRESS", help="A recipient to ask the relay about, too.")
    ] = "",
    dns: Annotated[
        str,
        typer.Option(
            "--dns",
            metavar="ADDRESS[:PORT]",
            help="A DNS server to ask about the senders' domains. Else the machine's own.",
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Try what the settings name; say in a line each what is wrong.

    Asks the brokers for their topics, MongoDB for its members, each relay for a session in which it names the
    sender, and DNS for what receivers will find there about the senders' domains: DKIM, SPF and DMARC. Many
    relays judge greeting and sender only when they hear a recipient: --to names one, who gets no letter. It
    changes nothing and sends nothing. A line says how bad it is, what it is about, what is so, and what to
    do.
    """
    settings = _settings(as_json=as_json)
    from mailsender.check.resolver import server_of  # noqa: PLC0415  as below
    from mailsender.check.run import run_checks, worst  # noqa: PLC0415  brings in every client library

    try:
        server = server_of(dns) if dns else None
    except ValueError as error:
        text = f"--dns: {error}"
        fail(
            text, status=2, document=findings_document("error", [("dns", "error", text)]) if as_json else None
        )
    findings = asyncio.run(run_checks(settings, to, server))
    if as_json:
        rows = ((finding.part, finding.level, finding.text) for finding in findings)
        print_json(findings_document(worst(findings), rows))
    else:
        for finding in findings:
            typer.echo(f"{finding.level:<7} {finding.part}: {finding.text}")
    raise typer.Exit(1 if worst(findings) == "error" else 0)


def _settings(*, as_json: bool = False) -> Settings:
    from mailsender.settings.environment import load  # noqa: PLC0415  pydantic takes a while to import

    try:
        return load()
    except SettingsError as error:
        document = findings_document("error", [("settings", "error", str(error))]) if as_json else None
        fail(str(error), status=2, document=document)
