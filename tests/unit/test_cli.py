"""The command line against a service that is played, over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from mailsender import __version__
from mailsender.check.findings import Finding, worst
from mailsender.cli.app import app
from mailsender.cli.tables import print_status
from mailsender.dev.process import free_port
from mailsender.model.letter import Letter
from mailsender.settings.environment import Settings
from mailsender.web.app import make_app, serve
from mailsender.web.explain_models import ExplainedView
from mailsender.web.models import DryLetterView, DryMessageView, DryRunView, FaultView
from mailsender.web.operations import (
    BadBatch,
    BadConfig,
    Lifted,
    NoOrder,
    Posted,
    Refused,
    Reloaded,
    Submission,
)

KEY = "the-key"
ID = "6b03f03e1c3fe5165a363fce"

Command = Callable[..., Result]


class Flaw:
    index, field, text = 2, "Addresses", "is empty"


class Played:
    """A service whose answers a test sets."""

    state = "running"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.dry = DryRunView(letters=0, faults=[], shown=[])
        self.explained: ExplainedView | None = None
        self.bodies: list[bytes] = []
        self.keys: list[str] = []
        self.lifted: tuple[str, str, str] | None = None
        self.reloaded = Reloaded(path="/r.toml", taken=(), left=())

    def accepting(self) -> None:
        pass

    async def post(self, body: bytes, key: str = "") -> Posted:
        self.bodies.append(body)
        self.keys.append(key)
        if self.error:
            raise self.error
        return Posted(topic="mts-to-mailsender", partition=3, offset=7, ids=(ID, ID[::-1]))

    async def dry_run(self, given: bytes | Submission) -> DryRunView:
        assert isinstance(given, bytes)
        self.bodies.append(given)
        if self.error:
            raise self.error
        return self.dry

    def ready(self) -> tuple[bool, list[str]]:
        return False, ["kafka: no broker answers [sic]"]

    async def status(self) -> Mapping[str, Any]:
        return {
            "waits_for": [
                {
                    "part": "quota",
                    "text": "all [red]used[/red]",
                    "since": "today",
                    "until": "tomorrow",
                    "relay": "ses",
                },
                {"part": "queue", "text": "full", "since": "noon", "until": None},
            ],
            "queue": {"awaiting": 12345, "oldest_due_seconds": 1.5},
            "relay": {"name": "smtp.example.test:25", "trouble": "550 [red]no[/red]", "since": None},
            "relays": [
                {
                    "relay": "ses",
                    "state": "answers",
                    "breaker": "closed",
                    "orders": [
                        {
                            "scope": "relay",
                            "rule": "ses/rate",
                            "said": "454 [b]x",
                            "holds": True,
                            "until": None,
                            "pace": 0.0,
                            "over": None,
                        }
                    ],
                },
                {"relay": "own", "state": "away", "breaker": "open", "orders": []},
            ],
            "routes": [
                {
                    "route": "news",
                    "relays": ["a", "b"],
                    "awaiting": 4321,
                    "blocked_because": "a: [red]no[/red]",
                }
            ],
            "drain": {"draining": False},
        }

    async def letter(self, letter_id: str) -> Letter | None:
        raise NotImplementedError

    async def explain(self, letter_id: str) -> ExplainedView | None:
        return self.explained if letter_id == ID else None

    async def lift_order(self, relay: str, scope: str, *, by: str, reason: str) -> Lifted:
        if self.error:
            raise self.error
        self.lifted = relay, scope, reason
        return Lifted(relay=relay, scope=scope, rule="ses/rate", said="454 [red]no[/red]")

    async def reload(self, by: str) -> Reloaded:
        if self.error:
            raise self.error
        return self.reloaded

    def begin_drain(self) -> Mapping[str, Any]:
        return {"draining": True, "step": "senders", "in_hand": 4, "unclean": []}


@pytest.fixture
def played() -> Iterator[tuple[Played, str]]:
    """A service in a thread of its own, and its URL."""
    service = Played()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    application = make_app(service, api_key=KEY, max_bytes=10_000, timeout=5)
    server = run(serve(application, "127.0.0.1", 0))
    try:
        yield service, f"http://127.0.0.1:{server.port}"
    finally:
        run(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `mailsender …` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAILSENDER_URL", raising=False)
    runner = CliRunner()
    return lambda *arguments, **options: runner.invoke(app, list(arguments), **options)


def test_the_version(command: Command) -> None:
    result = command("--version")
    assert (result.exit_code, result.stdout) == (0, f"mailsender {__version__}\n")


def test_post_reads_a_file_and_prints_the_ids(
    command: Command, played: tuple[Played, str], tmp_path: Path
) -> None:
    service, url = played
    batch = tmp_path / "batch.json"
    batch.write_bytes(b'[{"Subject": "\xd1\x8f"}]')
    result = command("post", str(batch), "--url", url, "--key", KEY)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{ID}\n{ID[::-1]}\n"
    assert "2 letters published to mts-to-mailsender, partition 3, offset 7" in result.stderr
    assert service.bodies == [b'[{"Subject": "\xd1\x8f"}]']


def test_post_reads_standard_input_and_the_environment(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    given = ("post", "-", "--record-key", "user & 17")
    result = command(*given, input=b"[{}]", env={"MAILSENDER_URL": url + "/", "HTTP_API_KEY": KEY})
    assert result.exit_code == 0, result.output
    assert service.bodies == [b"[{}]"]
    assert service.keys == ["user & 17"]


@pytest.mark.parametrize("name", ["status", "halt", "post", "health"])
def test_what_the_service_s_own_settings_say_is_taken(
    command: Command, played: tuple[Played, str], tmp_path: Path, name: str
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "HTTP_API_KEY").write_text(f"{KEY}\n")
    (secrets / "HTTP_PORT").write_text(played[1].rpartition(":")[2])
    words = ["post", "-"] if name == "post" else [name]
    given = {"MAILSENDER_SECRETS_DIR": str(secrets), "HTTP_HOST": "0.0.0.0"}
    result = command(*words, input=b"[{}]", env=given)
    assert result.exit_code == 0, result.output
    (secrets / "HTTP_PORT").write_text(str(free_port()))
    port = played[1].rpartition(":")[2]
    result = command(*words, input=b"[{}]", env={"MAILSENDER_SECRETS_DIR": str(secrets), "HTTP_PORT": port})
    assert result.exit_code == 0, result.output


def test_settings_that_cannot_be_read_are_one_line(command: Command, tmp_path: Path) -> None:
    for name, status in (("status", 2), ("halt", 2), ("health", 1)):
        result = command(name, "--json", env={"MAILSENDER_SECRETS_DIR": str(tmp_path / "none")})
        assert result.exit_code == status
        assert result.stderr.startswith("mailsender: MAILSENDER_SECRETS_DIR: ")
        assert result.stderr.count("\n") == 1
        assert json.loads(result.stdout)


def test_a_refused_batch_is_told_fault_by_fault(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    service.error = BadBatch("1 of 3 letters is wrong.", [Flaw()])
    result = command("post", "-", "--url", url, "--key", KEY, input=b"[]")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "mailsender: 1 of 3 letters is wrong. (400)\n  letter 2, Addresses: is empty\n"


def test_a_service_that_drains_says_so_in_one_line(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    service.error = Refused("draining", "This replica is draining.", retry_after=5)
    result = command("post", "-", "--url", url, "--key", KEY, input=b"[]")
    assert (result.exit_code, result.stderr) == (1, "mailsender: This replica is draining. (503)\n")


def test_what_may_have_been_stored_is_told_with_its_ids(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    service.error = Refused("unconfirmed", "It may have been stored.", retry_after=5, ids=[ID] * 12)
    result = command("post", "-", "--url", url, "--key", KEY, input=b"[]")
    first, *ids, last = result.stderr.splitlines()
    assert first == "mailsender: It may have been stored. (503)"
    assert ids[0] == f"  letter 0: ID {ID}"
    assert len(ids) == 10
    assert last == "  … and 2 more; --json has them all"


def test_a_dry_run_shows_letters_and_messages_and_publishes_nothing(
    command: Command, played: tuple[Played, str]
) -> None:
    service, url = played
    message = DryMessageView(person="", size=30, text="Subject: \u044f\r\n\r\n<p>\x1b[31m\ttab</p>\r\n")
    large = DryMessageView(person="b@example.test", size=9_000_000, text=None)
    one = DryLetterView(
        index=0,
        id=ID,
        route="default",
        relays=["relay.example.test:25"],
        reverse_path="robot@example.test",
        recipients=[f"a{number}@example.test" for number in range(22)],
        recipients_left_out=5,
        messages=[message, large],
        messages_left_out=4,
    )
    service.dry = DryRunView(letters=3, faults=[], shown=[one, one.model_copy(update={"id": None})])
    result = command("post", "-", "--dry-run", "--url", url, "--key", KEY, input=b"[{}]")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"letter 0: {ID}"
    assert lines[1] == "  route default over relay.example.test:25, reverse-path robot@example.test"
    assert lines[2].endswith("a19@example.test and 7 more")
    assert lines[3:9] == [
        "  message of 30 bytes",
        "    Subject: \u044f",
        "    ",
        "    <p>\\x1b[31m\ttab</p>",
        "  message of 9000000 bytes for b@example.test",
        "    (not shown: there is too much)",
    ]
    assert lines[9] == "  … and 4 more messages"
    assert "letter 0: gets an ID when it is posted" in lines
    assert result.stderr == "3 letters, of which 1 are not shown; nothing was published\n"
    assert service.keys == [], "nothing was posted"


def test_a_dry_run_of_a_wrong_batch_fails_and_names_each_fault(
    command: Command, played: tuple[Played, str]
) -> None:
    service, url = played
    fault = FaultView(index=2, field="Addresses", pointer="#/2/Addresses", text="is empty")
    service.dry = DryRunView(letters=3, faults=[fault], shown=[])
    result = command("post", "-", "--dry-run", "--url", url, "--key", KEY, input=b"[{}]")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("  letter 2, Addresses: is empty\n")
    result = command("post", "-", "--dry-run", "--json", "--url", url, "--key", KEY, input=b"[{}]")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["faults"] == [fault.model_dump()]


def test_a_service_that_knows_no_dry_run_is_not_taken_for_one(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def published(*_: object) -> dict[str, Any]:
        return {"topic": "t", "partition": 0, "offset": 0, "ids": [ID]}

    monkeypatch.setattr("mailsender.cli.client.ServiceClient._ask", published)
    result = command("post", "-", "--dry-run", "--url", "http://old.example.test", input=b"[{}]")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "mailsender: http://old.example.test knows no dry run: the batch was published\n"


@pytest.mark.parametrize("name", ["status", "halt"])
def test_a_wrong_key_is_one_line(command: Command, played: tuple[Played, str], name: str) -> None:
    result = command(name, "--url", played[1], "--key", "wrong")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "HTTP_API_KEY" in result.stderr


def test_nobody_there_is_one_line(command: Command) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = command("status", "--url", url)
    assert result.exit_code == 1
    assert result.stderr == f"mailsender: no service answers at {url}: connection refused\n"


def test_ctrl_c_while_it_waits_is_130(tmp_path: Path) -> None:
    code = (
        # A shell that started us in the background has told us to ignore it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mailsender.cli.app import main; main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(30)
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        command = [sys.executable, "-c", code, "status", "--url", url]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = mute.accept()
            with connection:
                assert connection.recv(1)  # it has asked, and waits
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1/", "http://127.0.0.1:99999"])
def test_a_bad_url_is_one_line(command: Command, url: str) -> None:
    result = command("status", "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("mailsender: ")
    assert result.stderr.count("\n") == 1


def test_another_programs_answer_is_one_line(command: Command, played: tuple[Played, str]) -> None:
    # `/healthz` followed by what the client appends is an unknown path, so ask for what is no JSON object.
    result = command("status", "--url", played[1] + "/healthz?", "--key", KEY)
    assert result.exit_code == 1
    assert "another program" in result.stderr


def test_status_shows_tables(command: Command, played: tuple[Played, str]) -> None:
    result = command("status", "--url", played[1], "--key", KEY)
    assert result.exit_code == 0, result.output
    assert f"mailsender {__version__}: running, not ready" in result.stdout
    assert "kafka: no broker answers [sic]" in result.stdout
    assert "waits for quota ses: all [red]used[/red]; since today, until tomorrow" in result.stdout
    assert "waits for queue: full; since noon\n" in result.stdout
    assert "12,345" in result.stdout
    assert "oldest due seconds" in result.stdout
    assert "550 [red]no[/red]" in result.stdout
    assert "4,321" in result.stdout
    assert "a: [red]no[/red]" in result.stdout


def test_status_shows_what_replies_asked_for(command: Command, played: tuple[Played, str]) -> None:
    result = command("status", "--url", played[1], "--key", KEY)
    orders = result.stdout.partition("\norders")[2].partition("\nroutes")[0]
    assert "ses/rate" in orders
    assert "454 [b]x" in orders
    assert "somebody" in orders, "who has to act is told, where no time ends it"
    assert "own" not in orders


def printed(status: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=240)
    print_status(status, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_times_are_those_of_a_clock_in_utc() -> None:
    """What programs read of `/status` has microseconds and an offset; no person needs either."""
    raw = "2026-11-30T10:44:38.430000+00:00"
    shown = printed(
        {
            "version": "1",
            "state": "running",
            "ready": False,
            "not_ready_because": [],
            "waits_for": [{"part": "relay", "relay": "a", "text": "no", "since": raw, "until": raw}],
            "queue": {"since": raw, "in": {"at": "2026-11-30T12:44:38.4+02:00"}},
            "relays": [{"relay": "a", "again": raw, "trouble": f"at {raw} it said"}],
        }
    )
    assert "since 2026-11-30T10:44:38Z, until 2026-11-30T10:44:38Z" in shown
    assert shown.count("2026-11-30T10:44:38Z") == 5
    assert shown.count(raw) == 1, "the words of others stay as they are"


def test_orders_have_columns_that_say_what_they_mean() -> None:
    raw, later = "2026-11-30T10:44:38.430000+00:00", "2026-11-30T10:54:38Z"
    order = {"scope": "relay", "rule": "r/1", "said": "454 x", "until": raw, "pace": 0.5, "over": later}
    orders = [order | {"holds": True}, order | {"holds": False, "rule": "r/2"}]
    shown = printed({"relays": [{"relay": "a", "orders": orders}]}).partition("\norders")[2]
    lines = [line for line in shown.splitlines() if re.search("[┃│]", line)]
    heads, *rows = [[cell.strip() for cell in re.split("[┃│]", line)][1:-1] for line in lines]
    assert heads == [
        *("relay", "scope", "rule", "nothing until"),
        *("part of the rate now", "full rate again", "said"),
    ]
    assert rows == [
        ["a", "relay", "r/1", "2026-11-30T10:44:38Z", "50%", later, "454 x"],
        ["a", "relay", "r/2", "-", "50%", later, "454 x"],
    ]


def test_it_is_said_why_a_letter_waits(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    service.explained = ExplainedView(
        id=ID,
        status="awaiting",
        says=["It waits on the route default."],
        route="default",
        due=None,
        ahead=7,
        ways=[],
        obstacles=[],
        recipients=[],
        recipients_left_out=0,
    )
    result = command("explain", "--letter", ID, "--url", url, "--key", KEY)
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [f"letter {ID}: awaiting", "  It waits on the route default."],
    )
    result = command("explain", "--letter", ID, "--url", url, "--key", KEY, "--json")
    assert json.loads(result.stdout)["ahead"] == 7
    result = command("explain", "--letter", "f" * 24, "--url", url, "--key", KEY)
    assert (result.exit_code, "no letter with this ID" in result.stderr) == (1, True)


@pytest.mark.parametrize("name", ["status", "halt", "post"])
def test_for_programs_the_services_own_answer_is_printed(
    command: Command, played: tuple[Played, str], name: str
) -> None:
    words = ["post", "-"] if name == "post" else [name]
    result = command(*words, "--json", "--url", played[1], "--key", KEY, input=b"[{}]")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    if name == "status":
        assert found["queue"]["awaiting"] == 12345
    elif name == "halt":
        assert found == {"draining": True, "step": "senders", "in_hand": 4, "unclean": []}
    else:
        wanted = {"topic": "mts-to-mailsender", "partition": 3, "offset": 7, "ids": [ID, ID[::-1]]}
        assert found == wanted


def test_for_programs_a_refusal_is_a_document_too(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    service.error = BadBatch("1 of 3 letters is wrong.", [Flaw()])
    result = command("post", "-", "--json", "--url", url, "--key", KEY, input=b"[]")
    assert result.exit_code == 1
    assert result.stderr.startswith("mailsender: 1 of 3 letters is wrong. (400)\n")
    found = json.loads(result.stdout)
    assert list(found) == ["error"]
    assert list(found["error"]) == ["text", "problem"]
    assert found["error"]["text"] in result.stderr
    assert found["error"]["problem"]["status"] == 400
    assert found["error"]["problem"]["errors"][0]["field"] == "Addresses"


@pytest.mark.parametrize("name", ["status", "halt"])
def test_for_programs_silence_is_a_document_too(command: Command, name: str) -> None:
    result = command(name, "--json", "--url", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["text"].startswith("no service answers at ")
    assert error["problem"] is None


def test_for_programs_broken_endpoints_are_a_document_too(command: Command, tmp_path: Path) -> None:
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "endpoints.json").write_text("{")
    result = command("status", "--json")
    assert result.exit_code == 1
    assert "endpoints.json" in json.loads(result.stdout)["error"]["text"]


@pytest.mark.parametrize("there", [True, False])
def test_the_health_for_programs(command: Command, played: tuple[Played, str], there: bool) -> None:
    port = int(played[1].rpartition(":")[2]) if there else free_port()
    result = command("health", "--json", "--port", str(port))
    found = json.loads(result.stdout)
    fault = found.pop("fault")
    assert result.exit_code == (0 if there else 1)
    assert found == {"well": there, "asked": "alive", "port": port}
    assert fault is None if there else f"no service answers on port {port}" in fault


def test_the_health_of_a_service_that_is_not_ready(command: Command, played: tuple[Played, str]) -> None:
    result = command("health", "--json", "--ready", "--port", played[1].rpartition(":")[2])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["well"], found["asked"]) == (1, False, "ready")
    assert "/readyz answered 503" in found["fault"]


def test_halt_says_how_far_it_is(command: Command, played: tuple[Played, str]) -> None:
    result = command("halt", "--url", played[1], "--key", KEY)
    assert (result.exit_code, result.stdout) == (0, "draining: step senders, in_hand 4\n")


def test_reload_says_what_was_taken_and_what_was_not(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    assert command("reload", "--url", url, "--key", KEY).stdout == "/r.toml says what it said\n"
    service.reloaded = Reloaded(path="/r.toml", taken=("relays.a.rate",), left=("relays.b is new",))
    result = command("reload", "--url", url, "--key", KEY)
    assert (result.exit_code, result.stdout) == (0, "taken    relays.a.rate\nrestart  relays.b is new\n")
    service.error = BadConfig("MAILSENDER_CONFIG: /r.toml:3: relays.a.prot: is no key here")
    result = command("reload", "--url", url, "--key", KEY)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "/r.toml:3: relays.a.prot: is no key here. (409)" in result.stderr


def test_lift_says_what_holds_no_more(command: Command, played: tuple[Played, str]) -> None:
    service, url = played
    result = command("lift", "ses", "--reason", "mended", "--url", url, "--key", KEY)
    assert result.stdout == "lifted   ses relay, by the rule ses/rate; it had said: 454 [red]no[/red]\n"
    assert service.lifted == ("ses", "relay", "mended")
    document = command("lift", "ses", "sender:a/b@c.test", "--json", "--url", url, "--key", KEY).stdout
    assert json.loads(document)["scope"] == "sender:a/b@c.test"
    service.error = NoOrder("nothing is ordered for this scope of ses")
    result = command("lift", "ses", "--url", url, "--key", KEY)
    assert (result.exit_code, "nothing is ordered" in result.stderr) == (1, True)


def test_the_embedded_stacks_service_is_found(
    command: Command, played: tuple[Played, str], tmp_path: Path
) -> None:
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "endpoints.json").write_text(json.dumps({"http": played[1]}))
    assert command("halt", "--key", KEY).exit_code == 0
    other = command("halt", "--key", KEY, env={"MAILSENDER_URL": "http://127.0.0.1:1"})
    assert (other.exit_code, "127.0.0.1:1" in other.stderr) == (1, True)


@pytest.mark.parametrize("content", ["", "{}", "[]", "{"])
def test_broken_endpoints_are_one_line(command: Command, tmp_path: Path, content: str) -> None:
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "endpoints.json").write_text(content)
    result = command("status")
    assert result.exit_code == 1
    assert "endpoints.json" in result.stderr
    assert result.stderr.count("\n") == 1


NEEDED = {
    "SMTP_HOST": "h",
    "SMTP_USER": "a@example.test",
    "KAFKA_BROKERS": "k:1",
    "MONGODB_URI": "mongodb://m/",
}


@pytest.mark.parametrize("name", ["run", "check"])
def test_bad_settings_stop_the_start_with_one_line_and_2(command: Command, name: str) -> None:
    result = command(name, env={**NEEDED, "SMTP_PORT": "x", "SMTP_PASSWORD": "s3cret"})
    assert result.exit_code == 2
    assert result.stderr.startswith("mailsender: SMTP_PORT: ")
    assert result.stderr.count("\n") == 1
    assert "s3cret" not in result.output


UNPRINTABLE = """
from mailsender.check import run as check; from mailsender.cli import app as cli
from mailsender.check.findings import Finding

async def run_checks(settings, to, dns):
    return [Finding(part="relay", level="error", text="550 Отказано 📪")]

check.run_checks = run_checks
cli.main()
"""


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_what_the_terminal_cannot_show_is_escaped(encoding: str, options: list[str]) -> None:
    environment = {**NEEDED, "PYTHONIOENCODING": encoding, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", UNPRINTABLE, "check", *options],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"550 \\u041e" in done.stdout
    if options:
        assert json.loads(done.stdout)["findings"][0]["text"] == "550 Отказано 📪"


def test_a_newline_behind_the_key_is_no_part_of_it(command: Command, played: tuple[Played, str]) -> None:
    variables = {"HTTP_API_KEY": f"{KEY}\n", "MAILSENDER_URL": f"{played[1]}\n"}
    assert command("status", env=variables).exit_code == 0


@pytest.mark.parametrize("outcome", [0, 3])
def test_run_ends_with_the_services_own_status(
    command: Command, monkeypatch: pytest.MonkeyPatch, outcome: int
) -> None:
    seen: list[Settings] = []

    def run_service(settings: Settings) -> NoReturn:
        seen.append(settings)
        raise SystemExit(outcome)

    replace_module(monkeypatch, "mailsender.app", run_service=run_service)
    assert command("run", env=NEEDED).exit_code == outcome
    assert seen[0].smtp_host == "h"


@pytest.mark.parametrize(
    ("levels", "expected"), [(["ok"], 0), (["ok", "warning"], 0), (["warning", "error", "ok"], 1)]
)
def test_check_says_a_line_for_each_finding(
    command: Command, monkeypatch: pytest.MonkeyPatch, levels: list[Any], expected: int
) -> None:
    async def run_checks(_: Settings, __: str, ___: tuple[str, int] | None) -> list[Finding]:
        return [Finding(part="kafka", level=level, text="words") for level in levels]

    replace_module(monkeypatch, "mailsender.check.run", run_checks=run_checks, worst=worst)
    result = command("check", env=NEEDED)
    assert result.exit_code == expected
    assert result.stdout.splitlines() == [f"{level:<7} kafka: words" for level in levels]


def test_a_check_for_programs_names_each_finding(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_checks(_: Settings, __: str, ___: tuple[str, int] | None) -> list[Finding]:
        levels: list[Any] = ["ok", "error"]
        return [Finding(part="kafka", level=level, text="слова") for level in levels]

    replace_module(monkeypatch, "mailsender.check.run", run_checks=run_checks, worst=worst)
    result = command("check", "--json", env=NEEDED)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "worst": "error",
        "findings": [
            {"part": "kafka", "level": "ok", "text": "слова"},
            {"part": "kafka", "level": "error", "text": "слова"},
        ],
    }


def test_a_check_for_programs_tells_bad_settings_in_the_same_form(command: Command) -> None:
    result = command("check", "--json", env={**NEEDED, "SMTP_PORT": "x"})
    found = json.loads(result.stdout)
    assert (result.exit_code, found["worst"]) == (2, "error")
    assert [(each["part"], each["level"]) for each in found["findings"]] == [("settings", "error")]
    assert found["findings"][0]["text"].startswith("SMTP_PORT: ")


def test_dev_without_its_extra_says_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError("No module named 'aiosmtpd'", name="aiosmtpd")

    monkeypatch.setitem(sys.modules, "mailsender.dev.stack", Missing("mailsender.dev.stack"))
    result = command("dev")
    assert result.exit_code == 1
    assert result.stderr == (
        "mailsender: `mailsender dev` needs aiosmtpd; install it with: pip install 'mailsender[dev]'\n"
    )


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError("No module named 'mailsender.gone'", name="mailsender.gone")

    monkeypatch.setitem(sys.modules, "mailsender.dev.stack", Broken("mailsender.dev.stack"))
    assert isinstance(command("dev").exception, ModuleNotFoundError)


@pytest.mark.parametrize(("name", "why"), [("nowhere.json", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_a_wrong_command_line(command: Command, name: str, why: str) -> None:
    result = command("post", name, "--json")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"mailsender: {name} cannot be read: {why}")
    assert json.loads(result.stdout)["error"]["text"] in result.stderr


def test_it_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "mailsender", "--version"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout == f"mailsender {__version__}\n"


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    for member, value in members.items():
        setattr(module, member, value)
    monkeypatch.setitem(sys.modules, name, module)
