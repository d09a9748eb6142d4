"""The command line.

Modules are imported inside of the commands that need them, so that `mailsender --help` and `mailsender
status` do not pay for Kafka's and MongoDB's clients; each such line carries its `noqa: PLC0415`.

The environment of the service is read by `mailsender.settings` and nobody else. Commands that talk to a
running service need an address and a key instead; those are options, and typer fills them from the
environment.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from mailsender import __version__

if TYPE_CHECKING:
    from mailsender.client import ServiceClient
    from mailsender.settings import Settings

STATE: Final = Path(".dev")
"""Where `mailsender dev` keeps its state, and says where its parts listen."""

DEFAULT_URL: Final = "http://127.0.0.1:8000"

_EXTRA: Final = frozenset({"aiosmtpd", "confluent_kafka", "fiftyone"})
"""What the `dev` extra brings."""

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    # Pretty tracebacks show local variables, and those hold passwords and letters.
    pretty_exceptions_enable=False,
    help="A Kafka-native mail dispatcher.",
)

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="MAILSENDER_URL",
        help=f"Where the service listens. Else that of `mailsender dev` here, else {DEFAULT_URL}.",
        show_default=False,
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="HTTP_API_KEY",
        help="The service's X-API-KEY. Others on the machine can read options: prefer the variable.",
        show_default=False,
    ),
]


def main() -> None:
    """Run the command that the process was called with."""
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


# --- the service ---------------------------------------------------------------------------------


@app.command()
def run() -> None:
    """Run the service until SIGTERM, Ctrl-C or /halt; settings come from the environment."""
    # As process 1 of a container a signal without a handler is ignored, and importing takes a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = _settings()
    from mailsender.service import run_service  # noqa: PLC0415  brings in every client library

    raise typer.Exit(run_service(settings))


@app.command()
def dev() -> None:
    """Run the service with Kafka, MongoDB and a mail catcher of its own, under .dev/ here."""
    try:
        from mailsender.dev.stack import run_stack  # noqa: PLC0415  the extra may not be installed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        _fail(f"`mailsender dev` needs {error.name}; install it with: pip install 'mailsender[dev]'")
    raise typer.Exit(run_stack(STATE))


@app.command()
def check() -> None:
    """Try the settings, Kafka, MongoDB and the relay; say in a line each what is wrong."""
    settings = _settings()
    from mailsender.check import run_checks, worst  # noqa: PLC0415  brings in every client library

    findings = asyncio.run(run_checks(settings))
    for finding in findings:
        typer.echo(f"{finding.level:<7} {finding.part}: {finding.text}")
    raise typer.Exit(1 if worst(findings) == "error" else 0)


@app.command("settings-table", hidden=True)
def settings_table() -> None:
    """Print the table of settings as README shows it."""
    from mailsender.settings import table  # noqa: PLC0415  pydantic takes a while to import

    typer.echo("| setting | default | takes | meaning |\n| --- | --- | --- | --- |")
    for row in table():
        prose = " " in row.default or row.default.startswith("`") or row.default in {"", "required", "none"}
        shown = (row.default or "none") if prose else f"`{row.default}`"
        mark = " °" if row.original else ""
        typer.echo(f"| `{row.name}`{mark} | {shown} | {row.values} | {row.meaning} |")


@app.command()
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            help="asyncapi, openapi, letters, report or dead-letter. Without one: the names of all.",
            show_default=False,
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="DIR", help="Write all of them into this directory instead."),
    ] = None,
) -> None:
    """Print a contract: AsyncAPI, OpenAPI, or the JSON Schema of what is on a topic."""
    from mailsender.contracts import DOCUMENTS, text_of  # noqa: PLC0415  pydantic takes a while to import

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
        _fail(f"give one of {', '.join(DOCUMENTS)}, or --write DIR", status=2)


def _settings() -> Settings:
    from mailsender.settings import SettingsError, load  # noqa: PLC0415  pydantic takes a while to import

    try:
        return load()
    except SettingsError as error:
        _fail(str(error), status=2)


# --- a running service ---------------------------------------------------------------------------


@app.command()
def post(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(help="A JSON array of letters; - reads standard input.")
    ],
    url: Url = None,
    key: Key = "",
) -> None:
    """Give a batch of letters to a running service; print the letters' IDs."""
    answer = _ask(_client(url, key).post(file.read()))
    place = f"{answer['topic']}, partition {answer['partition']}, offset {answer['offset']}"
    typer.echo(f"{len(answer['ids'])} letters published to {place}", err=True)
    for letter_id in answer["ids"]:
        typer.echo(letter_id)


@app.command()
def status(
    url: Url = None,
    key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="As the service says it, for programs.")] = False,
) -> None:
    """Show what a running service is doing."""
    answer = _ask(_client(url, key).status())
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    from mailsender.tables import print_status  # noqa: PLC0415  rich takes a while to import

    print_status(answer)


@app.command()
def health(
    port: Annotated[
        int, typer.Option("--port", envvar="HTTP_PORT", help="Where the service listens on this machine.")
    ] = 8000,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether it is ready, not only alive.")] = False,
) -> None:
    """Say by the exit status whether the service on this machine answers; for containers' health checks."""
    from mailsender.health import probe  # noqa: PLC0415  only this command needs it

    fault = probe(port, ready=ready)
    if fault:
        _fail(fault)


@app.command()
def halt(url: Url = None, key: Key = "") -> None:
    """Start a running service's drain; called again, say how far it is."""
    answer = _ask(_client(url, key).halt())
    typer.echo("draining: " + ", ".join(f"{name} {value}" for name, value in answer.items() if _told(value)))


def _told(value: object) -> bool:
    """Whether a member of the drain's progress says anything beyond that there is one."""
    return value is not None and value != [] and not isinstance(value, bool)


def _client(url: str | None, key: str) -> ServiceClient:
    from mailsender.client import ServiceClient  # noqa: PLC0415  brings in aiohttp

    return ServiceClient(url=url or _dev_url() or DEFAULT_URL, key=key)


def _dev_url() -> str | None:
    """The address of the service that `mailsender dev` runs from this directory, if it does."""
    path = STATE / "endpoints.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["http"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _fail(f"{path} cannot be read ({type(error).__name__}); remove it, or say where with --url")
    return str(found)


def _ask(asking: Coroutine[Any, Any, T]) -> T:
    from mailsender.client import ServiceError  # noqa: PLC0415  brings in aiohttp

    try:
        return asyncio.run(asking)
    except ServiceError as error:
        _fail(str(error))


def _fail(text: str, *, status: int = 1) -> NoReturn:
    typer.echo(f"mailsender: {text}", err=True)
    raise typer.Exit(status)


__all__ = ["app", "main"]
