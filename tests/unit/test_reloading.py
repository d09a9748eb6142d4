"""The file is read again: what is taken holds, what is not is told, and a wrong file changes nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from mailsender import signals
from mailsender.admin.operations import ReplicaOperations
from mailsender.admin.reloading import Reloading
from mailsender.app import _main, build
from mailsender.cli.app import app as command_line
from mailsender.model.clock import SystemClock
from mailsender.model.letter import now_ms
from mailsender.ratelimit.gcra import UNLIMITED, Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing.plan import Plan
from mailsender.service import Replica
from mailsender.settings.environment import Settings, load
from mailsender.settings.relays import plan_of
from mailsender.web.operations import BadConfig, NoConfig
from tests.dispatching import letter, until

TEXT = """\
[relays.a]
host = "127.0.0.1"
rate = "14/s"
[relays.b]
host = "127.0.0.1"
port = 25
[routes.default]
relays = ["a"]
[routes.news]
match = { stream = "news" }
relays = ["b"]
"""


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    found = tmp_path / "relays.toml"
    found.write_text(TEXT)
    for name, value in {
        "SMTP_FROM": "robot@example.com",
        "KAFKA_BROKERS": "127.0.0.1:1",
        "MONGODB_URI": "memory:",
        "MAILSENDER_CONFIG": str(found),
    }.items():
        monkeypatch.setenv(name, value)
    return found


async def nobody(_: Replica) -> None:
    """Listens to nobody."""


def replica_of() -> Replica:
    settings, clock = load(), SystemClock()
    return Replica(settings, build(settings, clock), clock, listen=nobody)


def replaced(path: Path, *pairs: tuple[str, str]) -> None:
    text = TEXT
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


@pytest.mark.asyncio
async def test_a_rate_and_a_route_are_taken(path: Path) -> None:
    replica = replica_of()
    a, b = replica.relays
    default, news = replica.routes
    replaced(
        path,
        ('"14/s"', '"7/s"'),
        ('relays = ["a"]', 'relays = ["a"]\nfallback = ["b"]'),
        ('[routes.news]\nmatch = { stream = "news" }', '[routes.other]\nmatch = { stream = "other" }'),
    )
    with capture_logs() as logs:
        found = await Reloading(replica).reload("SIGHUP")
    assert found.taken == ("relays.a.rate", "routes.default", "routes.other", "routes.news is gone")
    assert found.left == ()
    assert [each["event"] for each in logs] == ["config_reloaded"]
    assert replica.relays == [a, b]
    assert a.limiter.allowance.letters == 7
    assert b.limiter.allowance.unlimited
    assert replica.routes[0] is default
    assert default.relays == (a, b)
    assert [route.name for route in replica.routes] == ["default", "other"]
    assert news not in replica.dispatcher.routes
    again = await Reloading(replica).reload("SIGHUP")
    assert (again.taken, again.left) == ((), ())


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("old", "new"), [('"14/s"', '"7/"'), ("[relays.a]", "[relays.a"), ('relays = ["a"]', 'relays = ["x"]')]
)
async def test_a_wrong_file_changes_nothing(path: Path, old: str, new: str) -> None:
    replica = replica_of()
    plan, routes = replica.plan, list(replica.routes)
    replaced(path, (old, new), ("port = 25", "port = 26"))
    with capture_logs() as logs, pytest.raises(BadConfig, match=r"relays\.toml:\d+: ") as caught:
        await Reloading(replica).reload("SIGHUP")
    assert not isinstance(caught.value, NoConfig)
    assert [each["event"] for each in logs] == ["config_refused"]
    assert replica.plan is plan
    assert replica.routes == routes
    assert replica.relays[0].limiter.allowance.letters == 14


@pytest.mark.asyncio
async def test_what_cannot_change_is_told_until_a_restart(path: Path) -> None:
    replica = replica_of()
    replaced(path, ("port = 25", "port = 26"), ('"14/s"', '"14/s"\nconnections = 9'))
    for _ in range(2):
        found = await Reloading(replica).reload("SIGHUP")
        assert found.taken == ()
        assert found.left == ("relays.a.connections", "relays.b: how it is reached, or who logs in")
    assert replica.relays[1].address == "127.0.0.1:25"


LOGIN = 'rate = "14/s"\nuser = "u"\ntls = "none"\nauth_cleartext = true\n'


@pytest.mark.asyncio
async def test_the_file_of_a_password_is_read_again_and_another_password_takes_a_restart(path: Path) -> None:
    password = path.with_name("password")
    replaced(path, ('rate = "14/s"\n', f'{LOGIN}password_file = "{password}"\n'))
    password.write_text("before")
    reloading = Reloading(replica_of())
    assert (await reloading.reload("SIGHUP")).left == ()
    password.write_text("after")
    found = await reloading.reload("SIGHUP")
    assert (found.taken, found.left) == ((), ("relays.a: how it is reached, or who logs in",))
    password.write_text("")
    with pytest.raises(BadConfig, match=r"relays\.a\.password_file: the file .* is empty"):
        await reloading.reload("SIGHUP")
    password.unlink()
    with pytest.raises(BadConfig, match=r"relays\.a\.password_file: the file .* cannot be read"):
        await reloading.reload("SIGHUP")


@pytest.mark.asyncio
async def test_files_of_tokens_are_not_read_by_a_reload(path: Path) -> None:
    token = path.with_name("token")
    replaced(path, ('rate = "14/s"\n', f'{LOGIN}oauth = {{ token_file = "{token}" }}\n'))
    token.write_text("before")
    reloading = Reloading(replica_of())
    token.write_text("after")
    assert (await reloading.reload("SIGHUP")).left == ()
    token.unlink()
    assert (await reloading.reload("SIGHUP")).left == ()


@pytest.mark.asyncio
async def test_without_a_file_there_is_nothing_to_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILSENDER_CONFIG")
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    with pytest.raises(NoConfig, match="MAILSENDER_CONFIG names none"):
        await Reloading(replica_of()).reload("SIGHUP")


@pytest.mark.asyncio
async def test_a_signal_begins_it(path: Path) -> None:
    replica = replica_of()
    replaced(path, ('"14/s"', '"7/s"'))
    reloading = Reloading(replica)
    reloading.begin("SIGHUP")
    async with asyncio.timeout(10):
        await asyncio.gather(*reloading._tasks)
    assert replica.relays[0].limiter.allowance.letters == 7
    replaced(path, ("[relays.a]", "wrong"))
    with capture_logs() as logs:
        reloading.begin("SIGHUP")
        await asyncio.wait(reloading._tasks)
    assert [each["event"] for each in logs] == ["config_refused"]


@pytest.mark.asyncio
async def test_the_mail_goes_on_while_the_file_is_read_and_a_plan_is_made_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with thousands of patterns takes most of a second for each of the two."""
    replica, threads = replica_of(), []

    def made(settings: Settings) -> Plan:
        threads.append(threading.current_thread())
        return plan_of(settings)

    monkeypatch.setattr("mailsender.admin.reloading.plan_of", made)
    replaced(path, ('"14/s"', '"7/s"'))
    await Reloading(replica).reload("SIGHUP")
    assert threads
    assert threading.main_thread() not in threads
    assert replica.relays[0].limiter.allowance.letters == 7


class Held:
    """Holds each reading of the file until it is let go; `begun` are those that are held, or were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = self.at_once = self.most = 0
        read = Settings.read_again

        def held(settings: Settings) -> Settings:
            self.begun += 1
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            assert self.go.wait(10)
            self.at_once -= 1
            return read(settings)

        monkeypatch.setattr(Settings, "read_again", held)


@pytest.mark.asyncio
@pytest.mark.parametrize("event", ["config_reloaded", "config_refused"])
async def test_it_goes_on_to_its_end_when_nobody_waits_for_it_any_more(
    path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    replica, held = replica_of(), Held(monkeypatch)
    replaced(path, ('"14/s"', '"7/s"' if event == "config_reloaded" else '"7/"'))
    operations = ReplicaOperations(replica)
    with capture_logs() as logs:
        asked = [asyncio.create_task(operations.reload(f"client {number}")) for number in (1, 2)]
        await until(lambda: held.begun == 1)
        for each in asked:
            each.cancel()
        await asyncio.wait(asked)
        assert all(each.cancelled() for each in asked)
        held.go.set()
        await until(lambda: len(logs) == 2)
    assert [(each["event"], each["by"]) for each in logs] == [(event, "client 1"), (event, "client 2")]
    assert replica.relays[0].limiter.allowance.letters == (7 if event == "config_reloaded" else 14)
    assert (held.begun, held.most) == (2, 1), "one after the other"


@pytest.mark.asyncio
async def test_a_letter_that_waits_is_tried_next_when_its_window_is_open(path: Path) -> None:
    replica = replica_of()
    operations = ReplicaOperations(replica)
    due, far = now_ms(replica.clock.epoch()), []
    await replica.parts.queue.insert([letter(1)])
    replica.opening.clear()
    for window in ("", "Mon-Sun", "Sat 10:00-10:01, Wed 10:00-10:01"):
        replaced(
            path, ('relays = ["a"]', f'relays = ["a"]\nwindow = "{window}"' if window else 'relays = ["a"]')
        )
        await operations.reload("test")
        found = await operations.letter(letter(1).id)
        assert found is not None
        assert found.due is not None
        far.append(found.due.minute == 0 and found.due.hour == 10 and found.due > due)
    assert far == [False, False, True]


@pytest.mark.asyncio
async def test_status_tells_of_the_first_relay_what_its_file_says(path: Path) -> None:
    replaced(path, ('"14/s"', '"14/s"\nconnections = 9'))
    status = await ReplicaOperations(replica_of()).status()
    assert (status["rate"]["letters"], status["sessions"]["max"]) == (14, 9)
    assert status["relays"][0]["sessions"]["max"] == 9


# --- a signal that comes early ---------------------------------------------------------------------


@pytest.fixture
def hung_up() -> Iterator[list[int]]:
    """What a hang-up does is put back afterwards; here are those that nobody has taken over."""
    found: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: found.append(number))
    yield found
    signal.signal(signal.SIGHUP, before)
    signals.reload_came()


def test_a_hang_up_before_it_runs_is_remembered_once(hung_up: list[int]) -> None:
    signals.remember_reload()
    assert not signals.reload_came()
    signal.raise_signal(signal.SIGHUP)
    assert (signals.reload_came(), signals.reload_came(), hung_up) == (True, False, [])


def test_one_that_is_ignored_by_wish_stays_ignored(hung_up: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.remember_reload()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("file", [True, False])
def test_once_its_file_was_read_a_hang_up_ends_it_no_more(
    path: Path, hung_up: list[int], monkeypatch: pytest.MonkeyPatch, *, file: bool
) -> None:
    if not file:
        monkeypatch.delenv("MAILSENDER_CONFIG")
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    module = ModuleType("mailsender.app")
    module.__dict__["run_service"] = lambda _: signal.raise_signal(signal.SIGHUP)
    monkeypatch.setitem(sys.modules, "mailsender.app", module)
    made = CliRunner().invoke(command_line, ["run"])
    assert made.exit_code == 0, made.output
    assert (signals.reload_came(), bool(hung_up)) == (file, not file)


@pytest.mark.asyncio
async def test_what_was_remembered_is_done_when_it_runs(
    path: Path, hung_up: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of()

    async def run() -> int:
        await until(lambda: replica.relays[0].limiter.allowance.letters == 7)
        return 0

    monkeypatch.setattr(replica, "run", run)
    monkeypatch.setattr("mailsender.app.Replica", lambda *_, **__: replica)
    for name in ("build", "_spare_the_collector", "_give_memory_back"):
        monkeypatch.setattr(f"mailsender.app.{name}", lambda *_: None)
    replaced(path, ('"14/s"', '"7/s"'))
    signals.remember_reload()
    signal.raise_signal(signal.SIGHUP)
    assert await _main(replica.settings) == 0


# --- the limiter ---------------------------------------------------------------------------------


def limiter_of(letters: int, period: float = 1.0) -> Limiter:
    clock = SystemClock()
    allowance = Allowance(letters=letters, period=period)
    return Limiter(MemorySlotStore(clock), allowance, clock, backlog=lambda: 0)


@pytest.mark.asyncio
async def test_who_waits_for_a_slot_goes_on_where_there_is_no_rate_any_more() -> None:
    limiter = limiter_of(1)
    waits = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    limiter.change(limiter_of(0).allowance)
    async with asyncio.timeout(5):
        assert await waits is UNLIMITED
    assert limiter.at_once() is UNLIMITED


@pytest.mark.asyncio
async def test_who_waits_does_not_keep_a_loop_busy_that_has_nothing_to_lease_any_more() -> None:
    limiter, stop = limiter_of(1, 60.0), asyncio.Event()
    first = await ran(limiter, stop)
    waits = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0.05)
    limiter.change(limiter_of(0).allowance)
    async with asyncio.timeout(5):
        assert await waits is UNLIMITED
        stop.set()
        await first


async def ran(limiter: Limiter, stop: asyncio.Event) -> asyncio.Task[None]:
    """Its loop, once the first slot was had."""
    loop = asyncio.create_task(limiter.run(stop))
    async with asyncio.timeout(5):
        await limiter.acquire()
    return loop


@pytest.mark.asyncio
async def test_a_rate_that_comes_is_kept_by_the_loop_that_runs() -> None:
    limiter, stop = limiter_of(0), asyncio.Event()
    loop = asyncio.create_task(limiter.run(stop))
    await asyncio.sleep(0)
    limiter.change(limiter_of(1000).allowance)
    assert limiter.at_once() is None
    async with asyncio.timeout(5):
        assert await limiter.acquire() is not UNLIMITED
        stop.set()
        await loop


@pytest.mark.asyncio
async def test_what_was_leased_under_another_rate_is_lost() -> None:
    limiter, stop = limiter_of(1000), asyncio.Event()
    loop = asyncio.create_task(limiter.run(stop))
    async with asyncio.timeout(5):
        slot = await limiter.acquire()
        limiter.put_back(slot)
        limiter.change(limiter_of(1).allowance)
        assert limiter._take() is None
        stop.set()
        await loop
