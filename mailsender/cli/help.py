"""What `--help` shows beyond options: commands in groups, examples, exit statuses.

Plain text on purpose: it reads the same in a terminal of 80 columns, in a pipe and in a bug report, and does
not wait for a library that paints boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from typer.core import TyperCommand, TyperGroup

SERVICE: Final = "The service"
RUNNING: Final = "A running service"
DEVELOPERS: Final = "For developers"
SUPPRESSION: Final = "Who gets no letters"
TEMPLATES: Final = "What letters are made from"
"""The groups, as `rich_help_panel` of a command names them."""

Rows: TypeAlias = Sequence[tuple[str, str]]

WHOLE: Final = ""
"""Stands in the tables below for the command line as a whole."""

EXAMPLES: Final[Mapping[str, Rows]] = {
    WHOLE: (
        ("mailsender dev", "try it on this machine"),
        ("mailsender check && mailsender run", "run it if all it needs is there"),
        ("mailsender post batch.json", "give it letters"),
        ("mailsender status", "see what became of them"),
        ("mailsender post --help", "more on one command"),
    ),
    "run": (
        ("mailsender run", "in the foreground"),
        ("mailsender run 2>> mailsender.log", "its log in a file"),
    ),
    "check": (
        ("mailsender check", "a line for each part"),
        ("mailsender check --to ann@example.org", "would the relay take mail for her?"),
        ("mailsender check --dns 9.9.9.9", "what does the world's DNS say of the senders?"),
        ("mailsender check --json | jq -r .worst", "ok, warning or error"),
    ),
    "dev": (
        ("mailsender dev", "until Ctrl-C; `rm -r .dev` forgets its letters"),
        ("mailsender status", "from the same directory: finds it by itself"),
    ),
    "schema": (
        ("mailsender schema", "the names"),
        ("mailsender schema openapi > openapi.json", "for a generator of clients"),
        ("mailsender schema config > relays.schema.json", "for an editor of the file"),
        ("mailsender schema --write docs", "all of them"),
    ),
    "lint": (
        ("mailsender lint batch.json", "two lines for each finding"),
        ("mailsender lint message.eml --bulk", "a finished message, as a newsletter"),
        ("mailsender lint batch.json --json | jq -r .worst", "ok, note, warning or error"),
    ),
    "explain": (
        ('mailsender explain "550 5.1.1 No such user" --stage rcpt', "by the defaults"),
        ('mailsender explain "454 Throttling failure" --preset ses', "by a preset"),
        ('mailsender explain "450 Slow down" --relay default', "by the settings"),
        ("mailsender explain --to a@example.org --stream news", "its route and relays"),
        ("mailsender explain --letter 6b03f03e1c3fe5165a363fce", "why does it not go out?"),
    ),
    "post": (
        ("mailsender post batch.json", "prints an ID a line"),
        ("make-letters | mailsender post -", "from standard input"),
        ("mailsender post batch.json --json", "where the batch lies, and the IDs"),
        ("mailsender post batch.json --dry-run", "what would be sent, and what is wrong"),
    ),
    "status": (
        ("mailsender status", "tables"),
        ("mailsender status --json | jq .queue.awaiting", "one number"),
        ("mailsender status --url http://10.0.0.7:8000", "on another machine"),
    ),
    "health": (
        ("mailsender health", "is it alive? For a container's health check"),
        ("mailsender health --ready", "does it work, with all it needs?"),
    ),
    "reload": (
        ("mailsender reload", "a line for each change"),
        ("mailsender reload --json | jq .left", "what takes a restart"),
    ),
    "lift": (
        ("mailsender lift ses", "all that goes over it may begin again"),
        ("mailsender lift ses destination:gmail.com", "what goes there"),
        ("mailsender status", "what holds: its table of orders"),
    ),
    "template": (
        ("mailsender template check templates", "the files of a folder"),
        ("mailsender template put templates", "save them, for letters to come"),
        ("mailsender template preview welcome", "see one, filled in with its sample"),
        ("mailsender template put --help", "more on one command"),
    ),
    "template check": (
        ("mailsender template check templates", "a line for each; asks nobody"),
        ("mailsender template check", "the folder that TEMPLATES_DIR names"),
    ),
    "template list": (
        ("mailsender template list", "name, version, place"),
        ("mailsender template list --json | jq -r .templates[].name", "the names"),
    ),
    "template show": (
        ("mailsender template show welcome", "its newest version"),
        ("mailsender template show welcome@3 --write old", "its files, into a folder"),
    ),
    "template put": (
        ("mailsender template put templates", "all of a folder"),
        ("mailsender template put templates welcome", "one of them"),
        ("mailsender template put templates --check", "would the service take them?"),
    ),
    "template preview": (
        ("mailsender template preview welcome", "subject and text"),
        ("mailsender template preview welcome --out page.html", "the HTML, for a browser"),
        ("mailsender template preview welcome --dir templates", "from files; asks nobody"),
    ),
    "suppress": (
        ("mailsender suppress add ann@example.org", "nothing is sent to her any more"),
        ("mailsender suppress list --address ann@example.org", "why is nothing sent to her?"),
        ("mailsender suppress import left.csv", "all addresses of a file"),
        ("mailsender suppress add --help", "more on one command"),
    ),
    "suppress add": (
        ("mailsender suppress add ann@example.org --reason unsubscribed", "all letters"),
        ("mailsender suppress add @example.org --stream news", "one stream's, to a whole domain"),
        ("mailsender suppress add ann@example.org --until never", "until it is removed"),
    ),
    "suppress list": (
        ("mailsender suppress list", "a line an entry"),
        ("mailsender suppress list --stream news --json | jq .suppressions", "for programs"),
    ),
    "suppress remove": (
        ("mailsender suppress remove ann@example.org", "for all streams"),
        ("mailsender suppress remove ann@example.org --stream news", "for one"),
    ),
    "suppress import": (
        ("mailsender suppress import left.csv", "from a file"),
        ("make-addresses | mailsender suppress import -", "from standard input"),
    ),
    "suppress export": (
        ("mailsender suppress export > suppressed.csv", "all of it"),
        ("mailsender suppress export --stream news --out news.csv", "one stream's"),
    ),
    "halt": (
        ("mailsender halt", "begin; again: how far is it?"),
        ("mailsender halt --json | jq .in_hand", "letters that it still holds"),
    ),
}
"""Lines to type, and what they do; a test holds them against the commands."""

STATUSES: Final[Mapping[str, Rows]] = {
    WHOLE: (
        ("0", "It worked."),
        ("1", "It did not; a line on standard error says why."),
        ("2", "The command line or a setting is wrong; nothing was begun."),
        ("130", "Interrupted with Ctrl-C."),
    ),
    "run": (
        ("0", "Stopped when asked to, and nothing was left behind."),
        ("1", "It could not listen, or the drain left something; the log says what."),
        ("2", "A setting is missing or wrong."),
    ),
    "check": (
        ("0", "Nothing is broken; there may be warnings."),
        ("1", "Something is broken: an `error` line says what."),
        ("2", "A setting is missing or wrong; nobody was asked."),
    ),
    "template check": (
        ("0", "All of them can be filled in with their samples."),
        ("1", "Some cannot: an `error` line says what is wrong."),
        ("2", "The folder cannot be read, or a setting is wrong."),
    ),
    "suppress import": (
        ("0", "All rows of the file are on the list."),
        ("1", "Some are not: standard error names them. Or it was not taken."),
        ("2", "The command line is wrong, or the file cannot be read."),
    ),
    "post": (
        ("0", "It was published. With --dry-run: nothing is wrong with it."),
        ("1", "It was not, or something is wrong; standard error says what."),
        ("2", "The command line is wrong, or the file cannot be read."),
        ("130", "Interrupted with Ctrl-C."),
    ),
    "lint": (
        ("0", "No finding is an error; there may be warnings and notes."),
        ("1", "At least one finding is an error."),
        ("2", "FILE cannot be read, or is neither letters nor a message."),
    ),
    "explain": (
        ("0", "It is told. Some rule fits: one always does."),
        ("1", "With --letter: no service answers, or it has no such letter."),
        ("2", "REPLY or an address is none, or there is no such preset, stage or relay."),
    ),
    "health": (
        ("0", "It is alive; with --ready: it is ready."),
        ("1", "It is not; a line on standard error says why."),
        ("2", "The command line is wrong."),
    ),
}
"""What the exit status of a command means; one that is not named here keeps to `WHOLE`."""

WIDEST: Final = 46
"""Columns of the longest line to type that has its explanation beside it, not below."""


class Command(TyperCommand):
    """A command with its examples and exit statuses below its options."""

    # typer's contexts and formatters have had several homes, none of them public: hence Any.
    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the signature is typer's
        """Write what stands last."""
        _write_tables(self.name or WHOLE, formatter)


class TemplateCommand(Command):
    """One of `mailsender template`."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the signature is typer's
        """Write what stands last."""
        _write_tables(f"template {self.name}", formatter)


class SuppressCommand(Command):
    """One of `mailsender suppress`."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the signature is typer's
        """Write what stands last."""
        _write_tables(f"suppress {self.name}", formatter)


class Group(TyperGroup):
    """All commands, by group, in the order in which they were defined."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a table for each group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if isinstance(command, TyperCommand | TyperGroup) and not command.hidden:
                rows = groups.setdefault(command.rich_help_panel or "Others", [])
                rows.append((name, command.get_short_help_str(limit=200)))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the signature is typer's
        """Write what stands last."""
        _write_tables(WHOLE, formatter)


class TemplateGroup(Group):
    """The commands of `mailsender template`."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the signature is typer's
        """Write what stands last."""
        _write_tables("template", formatter)


class SuppressGroup(Group):
    """The commands of `mailsender suppress`."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the signature is typer's
        """Write what stands last."""
        _write_tables("suppress", formatter)


def _write_tables(name: str, formatter: Any) -> None:
    for title, rows in (
        ("Examples", EXAMPLES.get(name)),
        ("Exit status", STATUSES.get(name, STATUSES[WHOLE])),
    ):
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows, col_max=WIDEST)
