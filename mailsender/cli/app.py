"""The command line.

Modules are imported inside of the commands that need them, so that `mailsender --help` and `mailsender
status` do not pay for Kafka's and MongoDB's clients; each such line carries its `noqa: PLC0415`.

The environment of the service is read by `mailsender.settings.sources` and nobody else. Commands that talk to
a running service need an address and a key instead: options, else what the service's own settings say.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from mailsender import __version__
from mailsender.cli.help import (
    DEVELOPERS,
    RUNNING,
    SERVICE,
    TEMPLATES,
    Command,
    Group,
    TemplateCommand,
    TemplateGroup,
)
from mailsender.settings.sources import SettingsError, place, read

if TYPE_CHECKING:
    from mailsender.cli.client import ServiceClient
    from mailsender.settings.environment import Settings

STATE: Final = Path(".dev")
"""Where `mailsender dev` keeps its state, and says where its parts listen."""

STDIN: Final = Path("-")

_EXTRA: Final = frozenset({"aiosmtpd", "confluent_kafka", "fiftyone"})
"""What the `dev` extra brings."""

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

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="MAILSENDER_URL",
        help="Where the service listens. Else that of `mailsender dev` here, else by HTTP_HOST, HTTP_PORT.",
        show_default=False,
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="HTTP_API_KEY",
        help="The service's X-API-KEY. Others on the machine can read options: prefer the variable, or a file"
        " in MAILSENDER_SECRETS_DIR.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]


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


# --- the service ---------------------------------------------------------------------------------


@app.command(cls=Command, rich_help_panel=SERVICE)
def run() -> None:
    """Run the service until SIGTERM, SIGHUP, Ctrl-C or `halt`.

    Settings come from the environment, and from files in MAILSENDER_SECRETS_DIR; docs/reference/settings.md
    lists them. The first signal stops it in good order, a second one cuts that short. It logs to standard
    error.
    """
    settings = _settings()
    from mailsender.app import run_service  # noqa: PLC0415  brings in every client library

    run_service(settings)


@app.command(cls=Command, rich_help_panel=SERVICE)
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
        _fail(f"`mailsender dev` needs {error.name}; install it with: pip install 'mailsender[dev]'")
    raise typer.Exit(run_stack(STATE))


@app.command(cls=Command, rich_help_panel=SERVICE)
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

    Asks the brokers for their topics, MongoDB for its members, the relay for a session in which it names the
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
        _fail(text, status=2, document=_checked("error", [("dns", "error", text)]) if as_json else None)
    findings = asyncio.run(run_checks(settings, to, server))
    if as_json:
        rows = ((finding.part, finding.level, finding.text) for finding in findings)
        _print_json(_checked(worst(findings), rows))
    else:
        for finding in findings:
            typer.echo(f"{finding.level:<7} {finding.part}: {finding.text}")
    raise typer.Exit(1 if worst(findings) == "error" else 0)


def _settings(*, as_json: bool = False) -> Settings:
    from mailsender.settings.environment import load  # noqa: PLC0415  pydantic takes a while to import

    try:
        return load()
    except SettingsError as error:
        document = _checked("error", [("settings", "error", str(error))]) if as_json else None
        _fail(str(error), status=2, document=document)


def _checked(worst: str, findings: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """What `check --json` says; each finding is part, level and text."""
    told = [{"part": part, "level": level, "text": text} for part, level, text in findings]
    return {"worst": worst, "findings": told}


# --- a running service ---------------------------------------------------------------------------


@app.command(cls=Command, rich_help_panel=RUNNING)
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
    batch = _content(file, as_json=as_json)
    answer = _ask(url, key, lambda service: service.post(batch, record_key, dry_run=dry_run), as_json=as_json)
    if dry_run:
        _tell_dry_run(answer, as_json=as_json)
        return
    if as_json:
        _print_json(answer)
        return
    place = f"{answer['topic']}, partition {answer['partition']}, offset {answer['offset']}"
    typer.echo(f"{len(answer['ids'])} letters published to {place}", err=True)
    for letter_id in answer["ids"]:
        typer.echo(letter_id)


def _tell_dry_run(answer: Mapping[str, Any], *, as_json: bool) -> None:
    from mailsender.cli.dry_run import end_told, letters_told  # noqa: PLC0415  brings in aiohttp

    if as_json:
        _print_json(answer)
    else:
        for line in letters_told(answer):
            typer.echo(line)
        for line in end_told(answer):
            typer.echo(line, err=True)
    if answer["faults"]:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel=RUNNING)
def status(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Show what the service is doing.

    How much waits and how much was sent, the rate and what is left of the quota, sessions, the relay, the
    drain, and why it is not ready, if it is not.
    """
    answer = _ask(url, key, lambda service: service.status(), as_json=as_json)
    if as_json:
        _print_json(answer)
        return
    from mailsender.cli.tables import print_status  # noqa: PLC0415  rich takes a while to import

    print_status(answer)


@app.command(cls=Command, rich_help_panel=RUNNING)
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
        _fail(fault, document=document if as_json else None)
    if as_json:
        _print_json(document)


@app.command(cls=Command, rich_help_panel=RUNNING)
def halt(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Start the service's drain; again: say how far it is.

    It takes no more letters, ends what is under way, gives back the rest, reports, and exits.
    """
    answer = _ask(url, key, lambda service: service.halt(), as_json=as_json)
    if as_json:
        _print_json(answer)
        return
    typer.echo("draining: " + ", ".join(f"{name} {value}" for name, value in answer.items() if _told(value)))


def _content(file: Path, *, as_json: bool) -> bytes:
    """What stands in a file, or comes from standard input."""
    try:
        return typer.get_binary_stream("stdin").read() if file == STDIN else file.read_bytes()
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror or error}"
        _fail(text, status=2, document=_error(text) if as_json else None)


def _told(value: object) -> bool:
    """Whether a member of the drain's progress says anything beyond that there is one."""
    return value is not None and value != [] and not isinstance(value, bool)


def _ask(
    url: str | None,
    key: str,
    question: Callable[[ServiceClient], Coroutine[Any, Any, dict[str, Any]]],
    *,
    as_json: bool,
) -> dict[str, Any]:
    """The service's answer; when there is none, the command ends with the reason."""
    from mailsender.cli.client import ServiceClient, ServiceError  # noqa: PLC0415  brings in aiohttp

    try:
        where = (url or "").strip() or _dev_url() or _own_url()
        key = key.strip() or read(["http_api_key"]).get("http_api_key", "")
        return asyncio.run(question(ServiceClient(url=where, key=key)))
    except ServiceError as error:
        _fail(str(error), document=_error(str(error), error.problem) if as_json else None)
    except SettingsError as error:
        _fail(str(error), status=2, document=_error(str(error)) if as_json else None)


def _dev_url() -> str | None:
    """The address of the service that `mailsender dev` runs from this directory, if it does.

    Raises:
        ServiceError: what it left there cannot be read.
    """
    from mailsender.cli.client import ServiceError  # noqa: PLC0415  brings in aiohttp

    path = STATE / "endpoints.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["http"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
        text = f"{path} cannot be read ({reason}); remove it, or say where with --url"
        raise ServiceError(text) from error
    return str(found)


def _own_url() -> str:
    """The address of the service that has the settings of this command's surroundings."""
    host, port = place()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# --- before letters are sent ---------------------------------------------------------------------


@app.command(cls=Command, rich_help_panel=DEVELOPERS)
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
    data = _content(file, as_json=as_json)
    from mailsender.cli.linting import NothingToSee, lines, linted  # noqa: PLC0415  pydantic takes a while

    try:
        found = linted(data, bulk, signed_by or ())
    except NothingToSee as error:
        text = f"{file} cannot be looked at: {error}"
        _fail(text, status=2, document=_error(text) if as_json else None)
    document = found.document()
    if as_json:
        _print_json(document)
    else:
        for line in lines(found):
            typer.echo(line)
    if found.looked_at < found.messages:
        typer.echo(f"the first {found.looked_at} of {found.messages} letters were looked at", err=True)
    raise typer.Exit(1 if document["worst"] == "error" else 0)


# --- templates -----------------------------------------------------------------------------------

templates = typer.Typer(
    cls=TemplateGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look at templates, try them, save them.",
)
app.add_typer(templates, name="template", rich_help_panel=TEMPLATES)

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
        _fail(str(error), status=2, document=_error(str(error)) if as_json else None)
    worst = "error" if any(each.level == "error" for each in found) else "ok"
    if as_json:
        _print_json(_checked(worst, ((each.template, each.level, each.text) for each in found)))
    else:
        for each in found:
            typer.echo(f"{each.level:<5} {each.template}: {each.text}")
    raise typer.Exit(1 if worst == "error" else 0)


@templates.command("list", cls=TemplateCommand, rich_help_panel="Commands")
def template_list(url: Url = None, key: Key = "", as_json: AsJson = False) -> None:
    """Show all templates that the service has.

    Those of TEMPLATES_DIR and those that were saved, with their newest versions.
    """
    answer = _ask(url, key, lambda service: service.templates(), as_json=as_json)
    if as_json:
        _print_json(answer)
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
    answer = _ask(url, key, lambda service: service.template(plain, version), as_json=as_json)
    if write is not None:
        try:
            written = of_templates.write(write, answer["files"])
        except of_templates.Unusable as error:
            _fail(str(error), document=_error(str(error)) if as_json else None)
        for path in written:
            typer.echo(path, err=as_json)
    if as_json:
        _print_json(answer)
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
            lambda question: _ask(url, key, question, as_json=as_json),
            only_check=only_check,
        )
    except (Unusable, SettingsError) as error:
        _fail(str(error), document=_error(str(error)) if as_json else None)
    if as_json:
        _print_json({"templates": saved})
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
            made = _ask(
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
        _fail(str(error), document=_error(str(error)) if as_json else None)
    except OSError as error:
        text = f"{out} cannot be written: {error.strerror or error}"
        _fail(text, document=_error(text) if as_json else None)
    if as_json:
        _print_json(made)
        return
    if made["subject"] is not None:
        typer.echo(f"Subject: {made['subject']}\n")
    if out is None:
        typer.echo(made["text"] if made["text"] is not None else made["html"])


# --- contracts -----------------------------------------------------------------------------------


def _contract_names() -> list[str]:
    from mailsender.cli.schemas import DOCUMENTS  # noqa: PLC0415  pydantic takes a while to import

    return list(DOCUMENTS)


@app.command(cls=Command, rich_help_panel=DEVELOPERS)
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            help="asyncapi, openapi, letters, report or dead-letter. Without one: the names of all.",
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

    They are made from the program's own models: what HTTP answers, and what travels on the topics.
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
        _fail(f"give one of {', '.join(DOCUMENTS)}, or --write DIR", status=2)


@app.command("settings-table", hidden=True)
def settings_table() -> None:
    """Print the table of settings as docs/reference/settings.md shows it."""
    from mailsender.settings.environment import table  # noqa: PLC0415  pydantic takes a while to import

    typer.echo("| setting | default | takes | meaning |\n| --- | --- | --- | --- |")
    for row in table():
        prose = " " in row.default or row.default.startswith("`") or row.default in {"", "required", "none"}
        shown = (row.default or "none") if prose else f"`{row.default}`"
        mark = " °" if row.original else ""
        typer.echo(f"| `{row.name}`{mark} | {shown} | {row.values} | {row.meaning} |")


@app.command("lint-table", hidden=True)
def lint_table() -> None:
    """Print the table of rules as docs/reference/lint.md shows it."""
    from mailsender.lint.table import table  # noqa: PLC0415  pydantic takes a while to import

    typer.echo("\n".join(table()))


@app.command("metrics-table", hidden=True)
def metrics_table() -> None:
    """Print the table of metrics as docs/reference/metrics.md shows it."""
    from mailsender.observe.metrics import table  # noqa: PLC0415  takes a while to import

    typer.echo("\n".join(table()))


# --- how commands speak --------------------------------------------------------------------------


def _print_json(document: Mapping[str, Any]) -> None:
    plain = sys.stdout.encoding.lower().replace("-", "") != "utf8"  # JSON has its own way to write the rest
    typer.echo(json.dumps(document, ensure_ascii=plain, indent=2))


def _error(text: str, problem: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What commands say with --json when they fail; `problem` is the service's own answer, if it gave one."""
    return {"error": {"text": text, "problem": problem}}


def _fail(text: str, *, status: int = 1, document: Mapping[str, Any] | None = None) -> NoReturn:
    """End the command: a line for people on standard error, and for programs `document`, if they asked."""
    if document is not None:
        _print_json(document)
    typer.echo(f"mailsender: {text}", err=True)
    raise typer.Exit(status)


__all__ = ["app", "main"]
