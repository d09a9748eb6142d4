"""`mailsender suppress` against a service with a list in memory, over a real socket."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from mailsender.cli.app import app
from mailsender.model.errors import Unavailable
from mailsender.web.app import make_app, serve
from tests.unit.test_web import KEY
from tests.unit.test_web_suppressions import ANN, BOB, Played

Command = Callable[..., Result]


@pytest.fixture
def service() -> Iterator[tuple[Played, str]]:
    """A service in a thread of its own, and its URL."""
    played = Played()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = run(serve(make_app(played, api_key=KEY, max_bytes=10_000, timeout=5), "127.0.0.1", 0))
    try:
        with capture_logs():  # else they stand in what the command prints
            yield played, f"http://127.0.0.1:{server.port}"
    finally:
        run(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def suppress(service: tuple[Played, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `mailsender suppress …` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    where = {"MAILSENDER_URL": service[1], "HTTP_API_KEY": KEY}
    return lambda *words, **more: CliRunner().invoke(app, ["suppress", *words], env=where, **more)


def test_addresses_are_added_listed_and_removed(suppress: Command, service: tuple[Played, str]) -> None:
    made = suppress("add", "Ann@example.test", BOB, "--reason", "left us", "--until", "never")
    assert (made.exit_code, made.stdout) == (0, "2 put, 2 of them new\n")
    assert suppress("add", BOB, "--stream", "news").exit_code == 0
    listed = suppress("list")
    assert re.sub(r"[0-9-]{10}T[0-9:]{8}Z", "SOME TIME", listed.stdout).splitlines() == [
        f"{ANN}  for good  operator: left us",
        f"{BOB}  for good  operator: left us",
        f"{BOB} (news)  until SOME TIME  operator",
    ]
    assert "there may be more" not in listed.stderr
    assert suppress("list", "--address", ANN).stdout.startswith(ANN)
    assert suppress("list", "--stream", "").stdout.count("\n") == 2
    page = suppress("list", "--limit", "2")
    assert "there may be more" in page.stderr
    found = json.loads(suppress("list", "--limit", "2", "--json").stdout)
    assert suppress("list", "--after", found["next"]).stdout.startswith(f"{BOB} (news)")
    assert suppress("remove", BOB, "eve@example.test", "--stream", "news").stdout == "1 removed\n"
    assert json.loads(suppress("remove", ANN, BOB, "--json").stdout) == {"removed": 2, "held": []}
    assert service[0].kept() == []


def test_an_address_that_its_domain_holds_is_listed_and_not_removed(suppress: Command) -> None:
    assert suppress("add", "@dead.test", "--until", "60d").exit_code == 0
    assert suppress("list", "--address", "anyone@dead.test").stdout.startswith("@dead.test  until ")
    made = suppress("remove", "anyone@dead.test")
    text = "No such entry is on the list, but @dead.test is, which holds for it."
    assert (made.exit_code, made.stdout, made.stderr) == (
        0,
        "0 removed\n",
        f"mailsender: anyone@dead.test: {text}\n",
    )
    found = json.loads(suppress("remove", "anyone@dead.test", "--json").stdout)
    assert found == {"removed": 0, "held": [{"address": "anyone@dead.test", "text": text}]}


def test_the_way_of_a_letter_says_whether_the_list_has_its_address(
    suppress: Command, service: tuple[Played, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SMTP_HOST": "mx.example.test",
        "SMTP_FROM": "me@example.test",
        "KAFKA_BROKERS": "k:9092",
        "MONGODB_URI": "mongodb://m/mts",
    }.items():
        monkeypatch.setenv(name, value)

    def told(*words: str, url: str = service[1]) -> str:
        words = ("explain", "--to", ANN, *words, "--url", url, "--key", KEY)
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    assert told().splitlines()[-1] == "list    the address is not on the suppression list"
    assert suppress("add", ANN, "--stream", "news", "--until", "never").exit_code == 0
    assert suppress("add", "@example.test", "--reason", "left us", "--until", "never").exit_code == 0
    by_domain = "list    nothing is sent: @example.test, by operator (left us)"
    assert told().splitlines()[-1] == by_domain
    assert told("--stream", "news").splitlines()[-2:] == [
        f"list    nothing is sent: {ANN} for the stream news, by operator",
        by_domain,
    ]
    assert len(json.loads(told("--stream", "news", "--json"))["suppressed"]) == 2
    assert json.loads(told("--json", url="http://127.0.0.1:1"))["suppressed"] is None


def test_a_file_goes_in_and_comes_out(suppress: Command, service: tuple[Played, str], tmp_path: Path) -> None:
    (tmp_path / "left.csv").write_text(f"{ANN},news,left us\nnobody\n")
    made = suppress("import", "left.csv")
    assert (made.exit_code, made.stdout) == (1, "1 put, 1 of them new, 1 row wrong\n")
    assert made.stderr == "row 2: address: it has no @\n"
    assert json.loads(suppress("import", "-", "--json", input=f"{BOB}\n").stdout)["new"] == 1
    shown = suppress("export")
    assert (shown.exit_code, shown.stdout.count("\n")) == (0, 3)
    assert suppress("export", "--stream", "news", "--out", "news.csv").exit_code == 0
    assert (tmp_path / "news.csv").read_text().count("\n") == 2
    before = dict(service[0].store._entries)
    service[0].store._entries.clear()
    assert suppress("import", "-", input=shown.stdout).exit_code == 0
    assert service[0].store._entries == before


def test_what_its_page_types_can_be_typed(suppress: Command, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "suppression.md"
    (commands,) = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "left.csv").write_text("bob@example.com,,left us\n")
    for command in commands.splitlines():
        program, group, *words = shlex.split(command.partition(">")[0])
        made = suppress(*words)
        assert (program, group, made.exit_code) == ("mailsender", "suppress", 0), made.output
    assert [line.partition(",")[0] for line in made.stdout.splitlines()] == ["address", "bob@example.com"]


def test_what_goes_wrong_is_told(suppress: Command, service: tuple[Played, str], tmp_path: Path) -> None:
    made = suppress("add", "nobody")
    assert made.exit_code == 1
    assert made.stderr.startswith(
        "mailsender: suppressions.0.address: it has no @; nothing was put on the list"
    )
    made = suppress("import", "none.csv", "--json")
    assert (made.exit_code, json.loads(made.stdout)["error"]["text"]) == (
        2,
        "none.csv cannot be read: No such file or directory",
    )
    made = suppress("export", "--out", str(tmp_path / "no" / "x.csv"))
    assert (made.exit_code, "cannot be written" in made.stderr) == (1, True)
    assert suppress("import", "-", input=f"{ANN}\n" * 1500).exit_code == 0
    service[0].store.fault, service[0].store.pages = Unavailable("MongoDB is away"), 1
    for words in (("list",), ("remove", ANN), ("add", ANN), ("export",)):
        made = suppress(*words)
        assert (made.exit_code, made.stderr) == (1, "mailsender: MongoDB is away (503)\n")


def test_a_list_that_breaks_off_is_no_whole_file(suppress: Command, service: tuple[Played, str]) -> None:
    rows = "".join(f"{number}@example.test\n" for number in range(1500))
    assert suppress("import", "-", input=rows).exit_code == 0
    service[0].store.fault, service[0].store.pages = Unavailable("MongoDB is away"), 0
    made = suppress("export")
    assert (made.exit_code, made.stderr) == (
        1,
        "mailsender: the file is not whole: the connection broke off\n",
    )
