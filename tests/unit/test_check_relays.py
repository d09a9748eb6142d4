"""What `check` says of the relays of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.scripted import ScriptedRelay
from mailsender.check.relays import judge_file, probe_relays, sender_of
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import RelayPlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.settings.environment import Settings, load

TEXT = """\
[relays.bad]
host = "127.0.0.1"
port = 1
tls = "none"
helo_name = "bare"
[relays.good]
host = "127.0.0.1"
port = {port}
tls = "none"
from = ["*.example.org"]
[relays.spare]
host = "127.0.0.1"
tls_verify = false
user = "u"
password = "hunter2"
[routes.default]
relays = ["bad"]
fallback = ["good"]
"""


def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, **variables: str) -> Settings:
    path = tmp_path / "relays.toml"
    path.write_text(text)
    needed = {"SMTP_FROM": "robot@example.com", "KAFKA_BROKERS": "k:1", "MONGODB_URI": "memory:"}
    for name, value in {**needed, "MAILSENDER_CONFIG": str(path), **variables}.items():
        monkeypatch.setenv(name, value)
    return load()


@pytest.mark.asyncio
async def test_every_relay_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with ScriptedRelay() as relay:
        settings = settings_of(
            monkeypatch,
            tmp_path,
            TEXT.format(port=relay.port).replace(
                'tls_verify = false\nuser = "u"\npassword = "hunter2"\n', "port = 1\n"
            ),
            SMTP_HOST="127.0.0.1",
            SMTP_PORT="1",
        )
        ours, bad, good, spare = await probe_relays(settings, "")
        assert [each.level for each in (ours, bad, good, spare)] == ["error", "error", "ok", "error"]
        assert (ours.part, bad.part) == ("relay 127.0.0.1:1", "relay bad at 127.0.0.1:1")
        assert "see SMTP_HOST and SMTP_PORT" in ours.text
        assert "see host and port" in bad.text
        assert "SMTP_" not in bad.text
        assert good.part == f"relay good at 127.0.0.1:{relay.port}"
        assert "robot@example.org may send" in good.text
        assert "it takes no mail from SMTP_FROM, by its `from`" in good.text
        assert "MAIL FROM:<robot@example.org>" in " ".join(relay.commands)


def test_what_can_be_said_without_asking_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = list(judge_file(settings_of(monkeypatch, tmp_path, TEXT.format(port=1))))
    texts = [each.text for each in found if each.level == "warning"]
    for words in (
        "relays.bad.tls = none: mail goes out in clear text",
        "relays.bad.helo_name = bare is no whole name",
        "relays.spare.tls_verify = false",
        "relays.spare.password stands in the file itself",
        "relays.spare: no route leads to it",
    ):
        assert any(text.startswith(words) for text in texts), words
    assert not any(text.startswith("relays.good: no route") for text in texts)
    assert "hunter2" not in " ".join(texts)


ROUTES = """\
[relays.ours]
host = "127.0.0.1"
[relays.theirs]
host = "127.0.0.1"
from = ["other.example"]
[routes.default]
relays = ["theirs"]
{default}
[routes.other]
match = {{ {match} }}
relays = ["theirs"]
{other}
"""


@pytest.mark.parametrize(
    ("default", "match", "other", "expected"),
    [
        ("", 'sender = "other.example"', "", {"default": "error"}),
        ('fallback = ["ours"]', 'sender = "other.example"', "", {}),
        ('fallback = ["ours"]', 'stream = "news"', "", {"other": "error"}),
        ('fallback = ["ours"]', 'sender = "*.com"', "", {"other": "error"}),
        ('fallback = ["ours"]', 'sender = "other.example"', "open = true", {"other": "warning"}),
    ],
)
def test_a_route_of_which_no_relay_takes_the_services_sender_is_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    default: str,
    match: str,
    other: str,
    expected: dict[str, str],
) -> None:
    settings = settings_of(monkeypatch, tmp_path, ROUTES.format(default=default, match=match, other=other))
    found = [each for each in judge_file(settings) if "SMTP_FROM" in each.text]
    assert {each.text.partition(":")[0]: each.level for each in found} == {
        f"routes.{name}": level for name, level in expected.items()
    }


RENEWED = """\
[relays.{name}]
host = "127.0.0.1"
user = "a@example.com"
[relays.{name}.oauth]
token_url = "https://oauth2.example.com/token"
client_id = "c"
refresh_file = "{file}"
"""


def test_two_relays_that_renew_their_tokens_in_one_file_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("R1")
        (tmp_path / name).chmod(0o600)
    files = {"first": "one", "second": "one", "third": "two"}
    text = "".join(RENEWED.format(name=name, file=tmp_path / file) for name, file in files.items())
    text += '[routes.default]\nrelays = ["first", "second", "third"]\n'
    settings = settings_of(monkeypatch, tmp_path, text)
    (found,) = [each for each in judge_file(settings) if "refresh token" in each.text]
    assert (found.level, found.text.partition(":")[0]) == ("error", "relays first, second")
    assert str(tmp_path / "one") in found.text


def test_without_a_file_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = settings_of(monkeypatch, tmp_path, "", SMTP_HOST="h", MAILSENDER_CONFIG="")
    assert list(judge_file(settings)) == []


@pytest.mark.parametrize(
    ("senders", "asked"),
    [
        ((), "robot@example.com"),
        (("example.com",), "robot@example.com"),
        (("robot@example.com", "a@b.c"), "robot@example.com"),
        (("a@b.c",), "a@b.c"),
        (("example.org",), "robot@example.org"),
        (("*.com",), "robot@example.com"),
        (("*.example.com",), "robot@example.com"),
    ],
)
def test_a_relay_is_asked_about_a_sender_that_it_takes(senders: tuple[str, ...], asked: str) -> None:
    policy = RelayPolicy(reverse_path="robot@example.com", max_recipients=1, sessions=PoolLimits(sessions=1))
    plan = RelayPlan(allowance=Allowance(letters=0, period=1), policy=policy, senders=senders)
    assert sender_of(plan) == asked
