"""The command line: which commands there are, in the order in which `--help` has them.

The environment of the service is read by `mailsender.settings.sources` and nobody else. Commands that talk to
a running service need an address and a key instead: options, else what the service's own settings say.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

import typer

from mailsender import __version__
from mailsender.cli.commands import developers, explaining, running, service
from mailsender.cli.commands.suppressions import suppress
from mailsender.cli.commands.templates import templates
from mailsender.cli.help import DEVELOPERS, RUNNING, SERVICE, SUPPRESSION, TEMPLATES, Command, Group

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Pretty tracebacks show local variables, and those hold passwords and letters.
    pretty_exceptions_enable=False,
    help="Sends mail for other services: batches of letters from Kafka, kept in MongoDB, out over SMTP within"
    " a rate, and a report on each.",
)

COMMANDS: Final[Mapping[str, Sequence[Callable[..., None]]]] = {
    SERVICE: (service.run, service.dev, service.check),
    RUNNING: (
        running.post,
        running.status,
        explaining.explain,
        running.health,
        running.reload,
        running.lift,
        running.halt,
    ),
    DEVELOPERS: (developers.lint, developers.schema),
}
"""What can be typed, by group; each function is a command of its name."""

HIDDEN: Final[Mapping[str, Callable[..., None]]] = {
    "settings-table": developers.settings_table,
    "config-tables": developers.config_tables,
    "lint-table": developers.lint_table,
    "metrics-table": developers.metrics_table,
}
"""What only those type who change a page."""

for _group, _functions in COMMANDS.items():
    for _function in _functions:
        app.command(cls=Command, rich_help_panel=_group)(_function)
for _name, _function in HIDDEN.items():
    app.command(_name, hidden=True)(_function)
app.add_typer(suppress, name="suppress", rich_help_panel=SUPPRESSION)
app.add_typer(templates, name="template", rich_help_panel=TEMPLATES)


def main() -> None:
    """Run the command that the process was called with."""
    # What a relay says may be in letters that the terminal's encoding lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="mailsender")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mailsender {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hold what stands before a command's name."""


__all__ = ["app", "main"]
