"""The relay's name in its many spellings, and the name that we give ourselves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from lab.parts import Certificates
from lab.relay_zoo import HeloCritic, ZooRelay
from lab.restricted_postfix import PostfixHelo, RealPostfix
from lab.scripted import ScriptedRelay
from mailsender.model.clock import SystemClock
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.port import RelayAway
from tests.integration.test_relay_zoo import real
from tests.sessions import ACCEPTED, SHORTLY, config, opened, send, server_tls, verdicts

LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was looked up; every name is this machine's."""
    names: list[str] = []
    real_one = socket.getaddrinfo

    def look_up(host: Any, *where: Any, **how: Any) -> Any:
        if isinstance(host, bytes):
            host = host.decode()
        names.append(host)
        return real_one("127.0.0.1" if host.endswith("host.") else host, *where, **how)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


@pytest.mark.asyncio
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_name_that_ends_with_a_dot(
    certificates: Certificates, looked_up: list[str], tls: Any
) -> None:
    """It is looked up as it is (no search domains), and is no part of what TLS compares (RFC 6066 §3)."""
    told: list[str | None] = []
    context = server_tls(certificates)
    context.sni_callback = lambda _, name, __: told.append(name)
    relay = ScriptedRelay(tls=context, implicit=tls == "implicit")
    async with relay, opened(relay, host="localhost.", tls=tls, ca_file=str(certificates.ca)) as session:
        assert verdicts(await send(session)) == [ACCEPTED]
    assert told == ["localhost"]
    assert "localhost." in looked_up


class OnIPv6(HeloCritic):
    """On ::1."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.host = "::1"


@pytest.fixture
def ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")


@LOOPS
@pytest.mark.parametrize("host", ["::1", "[::1]", "[IPv6:::1]", "[ipv6:::1]"])
@pytest.mark.usefixtures("ipv6")
def test_an_ipv6_address_with_and_without_brackets(
    host: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        async with OnIPv6() as relay, opened(relay, host=host) as session:
            assert verdicts(await send(session)) == [ACCEPTED]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.asyncio
async def test_an_ipv4_address_in_brackets() -> None:
    async with ScriptedRelay() as relay, opened(relay, host="[127.0.0.1]") as session:
        assert verdicts(await send(session)) == [ACCEPTED]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mail.example.com.", "mail.example.com:25"),
        ("[::1]", "[::1]:25"),
        ("[IPv6:2001:db8::1]", "[2001:db8::1]:25"),
        ("[192.0.2.1]", "192.0.2.1:25"),
        ("2001:db8::1", "[2001:db8::1]:25"),
    ],
)
def test_a_relay_has_one_name_however_it_is_spelt(host: str, name: str) -> None:
    assert SmtpRelay(config(host, 25), SystemClock()).name == name


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["[mail.example.com]", "[", "[]", ".", "..", "[::1", "a b", "\x00"])
async def test_what_is_no_host_is_said_to_be_none(host: str) -> None:
    with pytest.raises(RelayAway) as caught:
        await SmtpRelay(config(host, 25), SystemClock()).connect()
    assert "SMTP_HOST" in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["a b", "\n", "пример.рф", "a\x00b"])
async def test_what_cannot_be_said_in_ehlo_is_no_name(name: str) -> None:
    async with ScriptedRelay() as relay:
        with pytest.raises(RelayAway) as caught:
            await SmtpRelay(config(relay.host, relay.port, helo_name=name), SystemClock()).connect()
    assert "SMTP_HELO_NAME" in str(caught.value)
    assert caught.value.permanent


@pytest.mark.asyncio
async def test_of_several_addresses_a_dead_one_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with an IPv6 address that leads nowhere is common."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [_knock(full.getsockname()) for _ in range(3)]
        async with ZooRelay() as relay:
            addresses = [full.getsockname(), ("127.0.0.1", relay.port)]

            async def both(*_: Any, **__: Any) -> list[Any]:
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in addresses]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
            begun = time.monotonic()
            async with opened(relay, timeouts=replace(SHORTLY, connect=1.0)) as session:
                assert verdicts(await send(session)) == [ACCEPTED]
            assert time.monotonic() - begun < 1.0
        for each in waiting:
            each.close()


@pytest.mark.asyncio
async def test_a_resolver_that_hangs_is_asked_once_for_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads are few, and none of them can be called off."""
    async with ZooRelay() as relay:
        answered, asked = asyncio.Event(), []

        async def slow(host: str, *_: Any, **__: Any) -> list[Any]:
            asked.append(host)
            await answered.wait()
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", relay.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", slow)
        hurried = replace(SHORTLY, connect=0.1)
        client = SmtpRelay(config("relay.test", relay.port, timeouts=hurried), SystemClock())
        for _ in range(2):
            failed = await asyncio.gather(*(client.connect() for _ in range(5)), return_exceptions=True)
            assert {str(error) for error in failed} == {
                "no address was found for SMTP_HOST=relay.test (the resolver did not answer in time)"
            }
        assert len(asked) == 1
        answered.set()
        await (await client.connect()).close()
        await (await client.connect()).close()
        assert len(asked) == 2


def _knock(address: tuple[str, int]) -> socket.socket:
    """A connection that nobody takes: a few of them fill a listener's queue."""
    knocking = socket.socket()
    knocking.setblocking(False)
    knocking.connect_ex(address)
    return knocking


# --- what we say of ourselves --------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("Box-1.example.test", "box-1.example.test"),
        ("my_box", "[127.0.0.1]"),
        ("vm", "[127.0.0.1]"),
        ("c231c1f0bd02", "[127.0.0.1]"),
        ("localhost", "[127.0.0.1]"),
        ("localhost.localdomain", "[127.0.0.1]"),
        ("10.0.0.7", "[127.0.0.1]"),
        ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
        ("", "[127.0.0.1]"),
    ],
)
async def test_without_a_name_for_ehlo_the_machines_is_given_or_its_address(
    monkeypatch: pytest.MonkeyPatch, machine: str, said: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: machine)
    async with ScriptedRelay() as relay, opened(relay, helo_name=""):
        assert relay.commands == [f"EHLO {said}"]


@pytest.mark.asyncio
@pytest.mark.usefixtures("ipv6")
async def test_the_address_is_that_of_our_end_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "vm")
    async with OnIPv6() as relay, opened(relay, helo_name="") as session:
        assert relay.commands == ["EHLO [IPv6:::1]"]
        assert verdicts(await send(session)) == [ACCEPTED]


@pytest.mark.asyncio
async def test_the_same_is_said_again_under_tls(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "vm")
    relay = ScriptedRelay(tls=server_tls(certificates))
    async with relay, opened(relay, helo_name="", tls="starttls", ca_file=str(certificates.ca)):
        assert [each for each in relay.commands if each.startswith("EHLO")] == ["EHLO [127.0.0.1]"] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [HeloCritic, None], ids=["scripted", "Postfix"])
async def test_a_relay_that_wants_a_whole_name_takes_mail_from_a_machine_that_has_none(
    monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "vm")
    async with make() if make else real(PostfixHelo) as relay, opened(relay, helo_name="") as session:
        assert verdicts(await send(session)) == [ACCEPTED]


# --- recipients whose names SMTP has to quote ----------------------------------------------------

DOTTED = ["a..b@docomo.ne.jp", ".a@docomo.ne.jp", "a.@docomo.ne.jp", "ann@example.test"]


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [ZooRelay, None], ids=["scripted", "Postfix"])
async def test_dots_that_stand_where_they_should_not_go_out_in_quotes(make: Any) -> None:
    """Such mailboxes exist. What is told of them has the spelling that they were given in."""
    async with make() if make else real(RealPostfix) as relay, opened(relay) as session:
        outcome = await send(session, *DOTTED)
        assert verdicts(outcome) == [ACCEPTED] * 4
        assert list(outcome.results) == DOTTED
        if isinstance(relay, ZooRelay):
            assert [each.removeprefix("RCPT TO:") for each in relay.commands if "RCPT" in each] == [
                '<"a..b"@docomo.ne.jp>',
                '<".a"@docomo.ne.jp>',
                '<"a."@docomo.ne.jp>',
                "<ann@example.test>",
            ]
