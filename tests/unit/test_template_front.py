"""Templates over HTTP and by the command line: the real operations, over a shelf in memory."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from mailsender.admin.confined import Confined
from mailsender.admin.template_operations import ReplicaTemplates
from mailsender.cli.app import app
from mailsender.cli.help import EXAMPLES
from mailsender.model.errors import Unavailable
from mailsender.templates.files import template_of
from mailsender.templates.folder import Folder, read_folder
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.prepare import prepared
from mailsender.web.app import make_app, serve
from mailsender.web.template_operations import BadTemplate
from tests.clocks import ManualClock
from tests.unit.test_web import KEY, Client, Played, problem, serving

EXAMPLES_DIR = Path(__file__).parents[2] / "examples" / "templates"
WELCOME = {
    "welcome.subject": "Hello {{ name }}",
    "welcome.html": "<style>p { color: red }</style><p>{{ name }} of {{ company }}</p>",
    "welcome.ru.html": "<p>{{ name }}: {{ company }}</p>",
    "welcome.txt": "{{ name }} of {{ company }}",
    "welcome.sample.json": '{"name": "<Anna>"}',
}


class Service(Played):
    """A service whose templates are real, but for the store."""

    def __init__(self, folder: Folder | None = None) -> None:
        super().__init__()
        self.shelf = MemoryShelf(ManualClock())
        self.replica: Any = SimpleNamespace(
            parts=SimpleNamespace(folder=folder or Folder(), shelf=self.shelf),
            settings=SimpleNamespace(variables={"company": "A&B"}),
            opening=SimpleNamespace(text=""),
        )
        self.templates = ReplicaTemplates(self.replica, asyncio.to_thread)


async def put(client: Client, files: dict[str, str], name: str = "welcome", **more: Any) -> Any:
    body = json.dumps({"files": files, **more.pop("body", {})})
    return await client.ask("PUT", f"/templates/{name}", data=body, **more)


async def got(client: Client, path: str) -> Any:
    status, _, text = await client.ask("GET", path)
    assert status == 200, text
    return json.loads(text)


@pytest.mark.asyncio
async def test_what_is_saved_is_listed_shown_and_previewed() -> None:
    async with serving(Service()) as client:
        status, _, text = await put(client, WELCOME)
        assert (status, json.loads(text)) == (200, {"name": "welcome", "version": "1", "new": True})
        assert json.loads((await put(client, WELCOME))[2])["new"] is False
        (listed,) = (await got(client, "/templates"))["templates"]
        assert (listed["name"], listed["version"], listed["place"]) == ("welcome", "1", "mongodb")
        assert listed["files"] == sorted(WELCOME)
        shown = await got(client, "/templates/welcome")
        assert (shown["files"], shown["language"], shown["version"]) == (WELCOME, "en", "1")
        status, headers, page = await client.ask("GET", "/templates/welcome/preview")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert '<p style="color: red">&lt;Anna&gt; of A&amp;B</p>' in page
        assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
        russian = (await client.ask("GET", "/templates/welcome/preview?lang=ru-RU&version=1"))[2]
        assert russian == "<p>&lt;Anna&gt;: A&amp;B</p>"
        body = json.dumps({"variables": {"name": "Eve", "company": "C"}})
        _, _, text = await client.ask("POST", "/templates/welcome/preview", data=body)
        assert json.loads(text)["text"] == "Eve of C"
        assert (
            json.loads((await client.ask("POST", "/templates/welcome/preview"))[2])["subject"]
            == "Hello <Anna>"
        )


@pytest.mark.asyncio
async def test_versions_stay() -> None:
    async with serving(Service()) as client:
        for text in ("first", "second"):
            await put(client, {"welcome.txt": text})
        assert (await got(client, "/templates/welcome"))["files"] == {"welcome.txt": "second"}
        assert (await got(client, "/templates/welcome?version=1"))["files"] == {"welcome.txt": "first"}
        for version in ("1", 1):
            asked = json.dumps({"version": version, "variables": {}})
            status, _, text = await client.ask("POST", "/templates/welcome/preview", data=asked)
            assert (status, json.loads(text)["text"]) == (200, "first")
        status, headers, text = await client.ask("GET", "/templates/welcome/preview?version=1")
        assert (status, headers["Content-Type"], text) == (200, "text/plain; charset=utf-8", "first")


@pytest.mark.asyncio
async def test_a_check_saves_nothing() -> None:
    service = Service()
    async with serving(service) as client:
        status, _, text = await client.ask(
            "PUT", "/templates/welcome?check=true", data=json.dumps({"files": WELCOME})
        )
        assert (status, json.loads(text)) == (200, {"name": "welcome", "version": "", "new": False})
    assert await service.shelf.listed() == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"welcome.html": "\n{{ a"}, {"template": "welcome.html", "line": 2}),
        ({"welcome.html": "<p", "welcome.txt": ""}, {"template": "welcome.html", "line": 1}),
        ({"welcome.html": "{% include 'foot.html' %}"}, {"template": "welcome.html", "line": 1}),
        (
            {"welcome.txt": "\n{{ nam }}", "welcome.sample.json": "{}"},
            {"template": "welcome.txt", "line": 2, "variable": "nam"},
        ),
        (
            {"welcome.txt": "", "welcome.sample.json": "{}", "welcome.schema.json": '{"required": ["a"]}'},
            {"template": "welcome", "variable": "a"},
        ),
        ({"welcome.txt": "", "welcome.sample.json": "["}, {"template": "welcome.sample.json"}),
        ({"other.txt": ""}, {"template": "other.txt"}),
        ({"../welcome.txt": ""}, {"template": "../welcome.txt"}),
        ({"welcome.RU.txt": "", "welcome.ru.txt": ""}, {"template": "welcome.ru.txt"}),
        ({"welcome.sample.json": "{}"}, {"template": "welcome"}),
        ({"welcome.html": "<mjml><mj-body><mj-nosuch/></mj-body></mjml>"}, {"template": "welcome.html"}),
        (
            {"welcome.txt": "{% for i in range(10**9) %}{% endfor %}", "welcome.sample.json": "{}"},
            {"template": "welcome.txt", "line": 1},
        ),
        ({"welcome.txt": "{{ ''.__class__ }}"}, {"template": "welcome.txt", "line": 1}),
        ({"welcome.txt": "x" * 300_000}, {"template": "welcome.txt"}),
    ],
)
async def test_what_is_wrong_is_told_with_its_place_and_not_saved(
    files: dict[str, str], fault: dict[str, Any]
) -> None:
    service = Service()
    async with serving(service, max_bytes=1_000_000) as client:
        told = problem(await put(client, files))
    assert (told["status"], told["reason"]) == (400, "bad-template")
    (found,) = told["faults"]
    assert {key: value for key, value in found.items() if value is not None and key != "text"} == fault
    assert found["text"]
    assert await service.shelf.listed() == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"files": {"a": 1}}',
        b'{"files": [], "x": 1}',
        b'{"files": {"a": "\\ud800"}}',
    ],
)
async def test_a_body_that_is_none_is_told(body: bytes) -> None:
    async with serving(Service()) as client:
        told = problem(await client.ask("PUT", "/templates/welcome", data=body))
    assert (told["status"], told["reason"]) == (400, "bad-body")


@pytest.mark.asyncio
async def test_what_is_not_there_is_told() -> None:
    async with serving(Service()) as client:
        await put(client, {"welcome.txt": "x"})
        for path in ("nosuch", "welcome?version=2", "welcome?version=x", "a.b", "nosuch/preview"):
            assert problem(await client.ask("GET", f"/templates/{path}"))["status"] in {400, 404}
        assert problem(await client.ask("GET", "/templates/welcome?version=2"))["status"] == 404
        assert problem(await client.ask("POST", "/templates/nosuch/preview"))["status"] == 404
        assert (
            problem(await client.ask("PUT", "/templates/welcome?check=maybe", data=b'{"files":{}}'))["reason"]
            == "bad-query"
        )


@pytest.mark.asyncio
async def test_variables_that_will_not_do_are_told_and_not_repeated() -> None:
    async with serving(Service()) as client:
        await put(client, WELCOME)
        body = json.dumps({"variables": {"name": ["SECRET"]}})
        told = problem(await client.ask("POST", "/templates/welcome/preview", data=body))
    assert told["reason"] == "bad-template"
    assert "SECRET" not in json.dumps(told)


@pytest.mark.asyncio
async def test_a_name_of_the_folder_is_not_saved() -> None:
    folder, errors = read_folder(EXAMPLES_DIR)
    assert errors == []
    service = Service(folder)
    async with serving(service) as client:
        told = problem(await put(client, {"password.txt": "x"}, "password"))
        assert (told["status"], told["reason"]) == (409, "in-folder")
        await put(client, WELCOME)
        listed = (await got(client, "/templates"))["templates"]
        assert [(each["name"], each["place"]) for each in listed] == [
            ("codes-layout", "folder"),
            ("password", "folder"),
            ("retrieve", "folder"),
            ("welcome", "mongodb"),
        ]
        shown = await got(client, "/templates/password")
        assert shown["files"]["password.txt"] == (EXAMPLES_DIR / "password.txt").read_text("utf-8")
        assert "482913" in (await client.ask("GET", "/templates/password/preview?lang=ru"))[2]


@pytest.mark.asyncio
async def test_they_want_the_key_and_no_page_of_another_site() -> None:
    async with serving(Service()) as client:
        for method, path in (
            ("GET", "/templates"),
            ("GET", "/templates/a"),
            ("PUT", "/templates/a"),
            ("GET", "/templates/a/preview"),
            ("POST", "/templates/a/preview"),
        ):
            assert (await client.ask(method, path, key=None))[0] == 401
    async with serving(Service(), key="") as client:
        told = problem(await put(client, WELCOME, headers={"Sec-Fetch-Site": "cross-site"}))
        assert told["reason"] == "cross-site"


@pytest.mark.asyncio
async def test_while_mongodb_is_away_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    service.replica.opening.text = "MongoDB is not available"
    async with serving(service) as client:
        for method, path, body in (
            ("GET", "/templates", b""),
            ("GET", "/templates/a", b""),
            ("PUT", "/templates/a", b'{"files": {"a.txt": "x"}}'),
            ("POST", "/templates/a/preview", b""),
        ):
            assert problem(await client.ask(method, path, data=body))["reason"] == "unavailable"
        service.replica.opening.text = ""

        async def away(*_: object) -> None:
            raise Unavailable("MongoDB does not answer")

        monkeypatch.setattr(service.shelf, "put", away)
        assert problem(await put(client, WELCOME))["status"] == 503


@pytest.mark.asyncio
async def test_a_layout_that_was_saved_elsewhere_a_moment_ago_is_found() -> None:
    service = Service()
    async with serving(service) as client:
        files = {"letter.html": "{% extends 'layout.html' %}"}
        assert problem(await put(client, files, "letter"))["reason"] == "bad-template"
        layout = {"layout.html": "<p>"}
        await service.shelf.put(template_of("layout", layout), layout)
        assert (await put(client, files, "letter"))[0] == 200


# --- by the command line -------------------------------------------------------------------------

Command = Callable[..., Any]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    for name in (
        "MAILSENDER_URL",
        "HTTP_API_KEY",
        "TEMPLATES_DIR",
        "TEMPLATES_LANGUAGE",
        "TEMPLATES_VARIABLES",
    ):
        monkeypatch.delenv(name, raising=False)
    return lambda *words, **options: CliRunner().invoke(app, ["template", *words], **options)


@pytest.fixture
def served() -> Iterator[dict[str, str]]:
    """The surroundings in which a command finds a service, which runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    application = make_app(Service(), api_key=KEY, max_bytes=1_000_000, timeout=10)
    server = run(serve(application, "127.0.0.1", 0))
    try:
        yield {"MAILSENDER_URL": f"http://127.0.0.1:{server.port}", "HTTP_API_KEY": KEY}
    finally:
        run(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def write(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def test_a_folder_is_checked_without_a_service(command: Command, tmp_path: Path) -> None:
    made = command("check", str(EXAMPLES_DIR))
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines() == [
        "ok    codes-layout: en; it has no sample to be filled in with",
        "ok    password: en, ru; filled in with its sample",
        "ok    retrieve: en, ru; filled in with its sample",
    ]
    files = {
        "bad.txt": "\n{{ nam }}",
        "bad.sample.json": "{}",
        "worse.html": "{{",
        "README.md": "x",
        ".x": "x",
    }
    folder = write(tmp_path / "t", {**files, "welcome.htm": "x"})
    made = command("check", env={"TEMPLATES_DIR": str(folder)})
    assert made.exit_code == 1
    assert made.stdout.splitlines() == [
        "error welcome.htm: no name of a template's file",
        "error worse.html: line 1: unexpected 'end of template'",
        "error bad.txt: line 2, variable nam: it is missing",
    ]
    document = json.loads(command("check", str(folder), "--json").stdout)
    assert (document["worst"], len(document["findings"])) == ("error", 3)


def test_variables_of_all_letters_are_known_to_a_check(command: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "t", WELCOME)
    assert command("check", str(folder)).exit_code == 1
    assert command("check", str(folder), env={"TEMPLATES_VARIABLES": '{"company": "C"}'}).exit_code == 0


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["check"], {}),
        (["check", "nosuch"], {}),
        (["check", "."], {"TEMPLATES_VARIABLES": "[1]"}),
        (["check", "."], {"TEMPLATES_LANGUAGE": "../x"}),
    ],
)
def test_what_cannot_be_checked_is_told(command: Command, words: list[str], env: dict[str, str]) -> None:
    made = command(*words, env=env)
    assert made.exit_code == 2
    assert made.stderr.startswith("mailsender: ")
    assert made.stderr.count("\n") == 1


def test_files_are_previewed_without_a_service(command: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "t", WELCOME)
    env = {"TEMPLATES_VARIABLES": '{"company": "C"}'}
    made = command("preview", "welcome", "--dir", str(folder), env=env)
    assert (made.exit_code, made.stdout) == (0, "Subject: Hello <Anna>\n\n<Anna> of C\n")
    made = command("preview", "welcome", "--dir", str(folder), "--lang", "ru", "--out", "page.html", env=env)
    assert made.exit_code == 0, made.output
    assert (tmp_path / "page.html").read_text() == "<p>&lt;Anna&gt;: C</p>"
    (tmp_path / "v.json").write_text('{"name": "Eve", "company": "D"}')
    made = command("preview", "welcome", "--dir", str(folder), "--variables", "v.json", "--json")
    assert json.loads(made.stdout)["text"] == "Eve of D"
    made = command("preview", "nosuch", "--dir", str(folder))
    assert (made.exit_code, made.stderr) == (1, "mailsender: template nosuch: there is no such template\n")


def test_a_folder_is_saved_layouts_first(command: Command, served: dict[str, str], tmp_path: Path) -> None:
    made = command("put", str(EXAMPLES_DIR), env=served)
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines() == ["codes-layout@1 saved", "password@1 saved", "retrieve@1 saved"]
    files = {"a.html": "{% extends 'z.html' %}", "z.html": "<p>"}
    made = command("put", str(write(tmp_path / "t", files)), env=served)
    assert made.stdout.splitlines() == ["z@1 saved", "a@1 saved"]
    made = command("put", str(EXAMPLES_DIR), "password", env=served)
    assert made.stdout == "password@1 is there already\n"
    made = command("list", env=served)
    assert made.stdout.splitlines()[2].startswith("password@1  mongodb  password.html, ")
    assert [
        each["name"] for each in json.loads(command("list", "--json", env=served).stdout)["templates"]
    ] == [*("a", "codes-layout", "password", "retrieve", "z")]
    made = command("preview", "password", "--lang", "ru", env=served)
    assert "482913" in made.stdout


def test_what_is_shown_can_be_saved_again(command: Command, served: dict[str, str], tmp_path: Path) -> None:
    command("put", str(write(tmp_path / "t", WELCOME)), env=served)
    made = command("show", "welcome@1", "--write", "out", env=served)
    assert made.exit_code == 0, made.output
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    assert written == WELCOME
    assert command("put", "out", env=served).stdout == "welcome@1 is there already\n"
    shown = command("show", "welcome", env=served).stdout
    assert "--- welcome.subject\nHello {{ name }}\n" in shown
    assert command("show", "welcome@2", env=served).exit_code == 1


def test_what_is_not_saved_is_told_with_each_fault(
    command: Command, served: dict[str, str], tmp_path: Path
) -> None:
    folder = write(tmp_path / "t", {"a.txt": "ok", "b.txt": "{{ x", "c.txt": "{{ y", "b.ru.txt": "{{"})
    made = command("put", str(folder), env=served)
    assert made.exit_code == 1
    assert "\n  b.txt, line 1: " in made.stderr
    assert "\n  b.ru.txt, line 1: " in made.stderr
    assert "template c.txt, line 1" in made.stderr
    assert [
        each["name"] for each in json.loads(command("list", "--json", env=served).stdout)["templates"]
    ] == ["a"]
    made = command("put", str(folder), "nosuch", env=served)
    assert (made.exit_code, "there is no template nosuch" in made.stderr) == (1, True)
    made = command("put", str(tmp_path), env=served)
    assert "holds no templates" in made.stderr


def test_a_service_writes_no_file_outside_of_the_folder(tmp_path: Path) -> None:
    from mailsender.cli.templates import Unusable
    from mailsender.cli.templates import write as write_files

    for name in ("../x.txt", "/tmp/x.txt", "x", ".txt", "a/b.txt"):
        with pytest.raises(Unusable, match="no name"):
            write_files(tmp_path / "out", {name: "x"})
    assert list(tmp_path.rglob("*.txt")) == []


OF_TEMPLATES = [line for key, rows in EXAMPLES.items() if key.startswith("template") for line, _ in rows]


@pytest.mark.parametrize("name", ["check", "list", "show", "put", "preview"])
def test_each_help_has_examples_that_can_be_typed(name: str) -> None:
    text = CliRunner().invoke(app, ["template", name, "--help"], env={"COLUMNS": "80"}).stdout
    assert all(line in text for line, _ in EXAMPLES[f"template {name}"])
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("line", OF_TEMPLATES)
def test_an_example_can_be_typed(line: str) -> None:
    words = line.partition(" |")[0].split()
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    templates = group.commands[words[1]]
    assert isinstance(templates, TyperGroup)
    if words[-1] != "--help":
        templates.commands[words[2]].make_context(words[2], words[3:]).close()


# --- hostile ones ----------------------------------------------------------------------------------------

MJML = "<mjml><mj-body><mj-section><mj-column>{}</mj-column></mj-section></mj-body></mjml>"


@pytest.mark.parametrize(
    "inner",
    [
        "<mj-carousel>" + "<mj-carousel-image src='a'/>" * 2_800 + "</mj-carousel>",
        "<mj-carousel>" + "<mj-carousel-image src='a'/>" * 8_000 + "</mj-carousel>",
        "<mj-accordion>" + "<mj-accordion-element/>" * 5_000 + "</mj-accordion>",
        "<mj-social>" + "<mj-social-element name='facebook'/>" * 5_000 + "</mj-social>",
    ],
    ids=["carousel", "large carousel", "accordion", "social"],
)
@pytest.mark.asyncio
async def test_what_a_library_takes_long_for_takes_nothing_of_the_service(inner: str) -> None:
    service = Service()
    confined = Confined(prepared.__module__)
    service.templates = ReplicaTemplates(service.replica, confined.run)
    begun = time.process_time()
    with suppress(BadTemplate):
        await service.templates.put("h", {"h.mjml": MJML.format(inner)}, language="en", check=True)
    took = time.process_time() - begun
    await confined.close()
    assert took < 1


@pytest.mark.asyncio
async def test_prepared_elsewhere_a_template_is_the_same() -> None:
    service = Service()
    confined = Confined(prepared.__module__)
    elsewhere = ReplicaTemplates(service.replica, confined.run)
    files = {**WELCOME, "welcome.de.mjml": MJML.format("<mj-text>{{ name }}, {{ company }}</mj-text>")}
    saved = await elsewhere.put("welcome", files, language="en", check=False)
    assert saved[1]
    assert await service.templates.put("welcome", files, language="en", check=False) == (saved[0], False)
    with pytest.raises(BadTemplate, match=r"template welcome\.html, line 1: "):
        await elsewhere.put("welcome", {"welcome.html": "<p"}, language="en", check=True)
    await confined.close()
