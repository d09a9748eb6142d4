"""What `check` says of senders' domains, asked of a DNS server on loopback: every rule, and every trouble."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import pytest

from lab.dns_server import ALIAS, EMPTY, LATE, MUTE, REFUSED, SERVFAIL, SILENT, DnsServer, Zone
from mailsender.check.domains import MOST, check_domains
from mailsender.check.findings import Finding
from mailsender.check.resolver import Dns, server_of
from mailsender.check.spf_lookups import count_lookups
from mailsender.dev.process import LOOPBACK, free_port
from mailsender.message.dkim import SigningKey, SigningKeys
from tests.signing import RSA, both, key

RSA_KEY, ED_KEY = both("example.test")
DMARC = "v=DMARC1; p=reject; rua=mailto:d@example.test"
SPF = "v=spf1 ip4:192.0.2.1 -all"
GOOD: dict[str, Any] = {
    RSA_KEY.record_name: RSA_KEY.record,
    ED_KEY.record_name: ED_KEY.record,
    "example.test": ["google-site-verification=x", SPF],
    "_dmarc.example.test": DMARC,
}
PATIENCE = 0.6
"""Seconds: three tries of 0.2 s each."""


async def found(
    zone: Zone,
    *,
    senders: Iterable[str] = ("example.test",),
    reverse_path: str = "example.test",
    keys: Iterable[SigningKey] = (RSA_KEY, ED_KEY),
) -> list[Finding]:
    with DnsServer(zone) as server:
        dns = Dns((server.host, server.port), patience=PATIENCE)
        every = list(keys)
        signing = SigningKeys(every) if every else None
        return await check_domains(dns.txt, set(senders), reverse_path=reverse_path, keys=signing)


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    return {each.part: each.level for each in findings}


def about(findings: Iterable[Finding], part: str) -> Finding:
    (one,) = [each for each in findings if each.part.startswith(part)]
    return one


@pytest.mark.asyncio
async def test_all_is_well() -> None:
    findings = await found(GOOD)
    assert levels(findings) == {
        "DKIM rsa._domainkey.example.test": "ok",
        "DKIM ed._domainkey.example.test": "ok",
        "SPF example.test": "ok",
        "DMARC example.test": "ok",
    }
    assert "aligned by DKIM and SPF" in about(findings, "DMARC").text


@pytest.mark.asyncio
async def test_without_keys_nothing_is_said_of_dkim() -> None:
    findings = await found(GOOD, keys=())
    assert levels(findings) == {"SPF example.test": "ok", "DMARC example.test": "warning"}
    assert "aligned by SPF alone" in about(findings, "DMARC").text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("record", "level", "words"),
    [
        (None, "error", "DNS has no such record"),
        (EMPTY, "error", "DNS has no such record"),
        (key("example.test", "rsa", RSA).record.replace("p=M", "p=N"), "error", "another key"),
        ([RSA_KEY.record, RSA_KEY.record + ";"], "error", "2 TXT records"),
        (
            SERVFAIL,
            "warning",
            "DNS does not answer for rsa._domainkey.example.test: the server said SERVFAIL",
        ),
        (REFUSED, "warning", "the server said REFUSED"),
        (SILENT, "warning", "there was no answer in time"),
        (f"{LATE}{RSA_KEY.record}", "ok", "DNS has this key"),
        (f"{ALIAS}rsa.provider.test", "ok", "DNS has this key"),
        ([[RSA_KEY.record[:7], RSA_KEY.record[7:200], RSA_KEY.record[200:]]], "ok", "DNS has this key"),
    ],
)
async def test_the_record_of_a_key(record: Any, level: str, words: str) -> None:
    zone = {**GOOD, RSA_KEY.record_name: record, "rsa.provider.test": RSA_KEY.record}
    if record is None:
        del zone[RSA_KEY.record_name]
    findings = await found(zone)
    one = about(findings, "DKIM rsa")
    assert one.level == level
    assert words in one.text
    assert about(findings, "SPF").level == about(findings, "DMARC").level == "ok", "others are looked at"


@pytest.mark.asyncio
async def test_what_no_datagram_holds_comes_by_tcp() -> None:
    many = [f"verification-{number}={'x' * 60}" for number in range(30)]
    with DnsServer({"example.test": [*many, SPF], "other.test": f"{MUTE}{'x' * 2000}"}) as server:
        dns = Dns((server.host, server.port), patience=PATIENCE)
        found = await check_domains(
            dns.txt, {"example.test", "other.test"}, reverse_path="example.test", keys=None
        )
        assert server.by_tcp["example.test"] == 1
    assert about(found, "SPF example").level == "ok"
    assert about(found, "SPF other").text.endswith("for other.test: the server closed the connection")


@pytest.mark.asyncio
async def test_where_dns_does_not_answer_one_line_says_so() -> None:
    silent = dict.fromkeys([*GOOD, "_dmarc.test"], SILENT)
    (only,) = await found(silent)
    assert (only.part, only.level) == ("DNS", "warning")
    assert only.text == (
        "DNS does not answer (there was no answer in time); DKIM, SPF and DMARC of example.test were not"
        " looked at"
    )


@pytest.mark.asyncio
async def test_where_nobody_listens_one_line_says_so() -> None:
    with DnsServer({}) as server:
        nowhere = (server.host, server.port)
    dns = Dns(nowhere, patience=PATIENCE)
    (only,) = await check_domains(dns.txt, {"example.test"}, reverse_path="example.test", keys=None)
    assert (only.part, only.level) == ("DNS", "warning")


@pytest.mark.asyncio
async def test_a_name_is_asked_for_once() -> None:
    with DnsServer(GOOD) as server:
        dns = Dns((server.host, server.port), patience=PATIENCE)
        senders = {"example.test", "a.example.test", "b.example.test"}
        await check_domains(dns.txt, senders, reverse_path="example.test", keys=SigningKeys([RSA_KEY]))
        assert max(server.asked.values()) == 1


@pytest.mark.asyncio
async def test_all_answers_have_to_come_in_time() -> None:
    with DnsServer(GOOD) as server:
        dns = Dns((server.host, server.port), patience=PATIENCE, all_=0.0)
        (only,) = await check_domains(dns.txt, {"example.test"}, reverse_path="example.test", keys=None)
    assert "other answers took too long" in only.text


# --- alignment -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_sender_of_another_domain_is_not_aligned() -> None:
    zone = {**GOOD, "_dmarc.example.org": "v=DMARC1; p=reject; rua=mailto:d@example.org"}
    findings = await found(zone, senders=["example.org", "example.test"])
    one = about(findings, "DMARC example.org")
    assert one.level == "error"
    assert "neither by DKIM nor by SPF" in one.text
    assert about(findings, "DMARC example.test").level == "ok"
    assert about(findings, "SPF example.org").level == "warning"


@pytest.mark.asyncio
async def test_a_key_of_the_domain_above_is_aligned() -> None:
    findings = await found(GOOD, senders=["shop.example.test"], reverse_path="bounces.example.net")
    assert about(findings, "DMARC").text.endswith("letters are aligned by DKIM")


@pytest.mark.asyncio
async def test_a_key_that_no_letter_will_have() -> None:
    other = key("example.net", "s1")
    zone = {**GOOD, other.record_name: other.record}
    findings = await found(zone, keys=[RSA_KEY, other])
    idle = [each for each in findings if each.part == "DKIM s1._domainkey.example.net"]
    assert [each.level for each in idle] == ["warning", "ok"]
    assert "it signs nothing" in idle[0].text


@pytest.mark.asyncio
async def test_a_silent_dmarc_record_is_no_missing_one() -> None:
    findings = await found({**GOOD, "_dmarc.example.test": SERVFAIL})
    assert about(findings, "DMARC").text.startswith("DNS does not answer for _dmarc.example.test")


@pytest.mark.asyncio
async def test_so_many_domains_are_looked_up_and_no_more() -> None:
    senders = [f"d{number:03}.test" for number in range(MOST + 2)]
    findings = await found({}, senders=senders, keys=())
    assert about(findings, "DNS").text == f"only {MOST} of {MOST + 2} domains were looked up"
    assert len([each for each in findings if each.part.startswith("SPF")]) == MOST


# --- SPF with all that it includes ---------------------------------------------------------------


def includes(count: int, *, rest: str = "-all") -> dict[str, str]:
    """A chain of records, each of which includes the next."""
    chain = {f"i{n}.test": f"v=spf1 include:i{n + 1}.test {rest}" for n in range(1, count)}
    return {**chain, f"i{count}.test": SPF}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("records", "level", "words"),
    [
        (includes(3), "ok", "needs 1 of 10 lookups, 3 with those of i1.test"),
        (includes(10), "ok", "10 with those of i1.test"),
        (includes(11), "error", "need over 10 lookups in DNS"),
        ({"i1.test": "v=spf1 include:example.test -all"}, "error", "need over 10 lookups in DNS"),
        ({"i1.test": "v=spf1 " + "a " * 9 + "-all"}, "ok", "10 with those"),
        ({"i1.test": "v=spf1 " + "a " * 10 + "-all"}, "error", "need over 10 lookups"),
        ({"i1.test": "v=spf1 exists:%{i}.x.test include:%{d}.y.test -all"}, "ok", "3 with those"),
        ({}, "error", 'the record of "i1.test", which it includes, is missing; receivers'),
        ({"i1.test": "v=spf1 foo -all"}, "error", 'the record of "i1.test", which it includes, has "foo"'),
        ({"i1.test": [SPF, SPF + " "]}, "error", "is there more than once"),
        (
            {"i1.test": SERVFAIL},
            "warning",
            "DNS does not answer for i1.test: the server said SERVFAIL, which",
        ),
    ],
)
async def test_what_a_record_includes_counts(records: dict[str, Any], level: str, words: str) -> None:
    findings = await found({**GOOD, "example.test": "v=spf1 include:i1.test -all", **records})
    told = [each for each in findings if each.part == "SPF example.test"]
    assert [each.text for each in told if each.level == level and words in each.text], told


def test_to_count_ends_whatever_the_records_say() -> None:
    every = {
        f"d{n}.test": [b"v=spf1 " + b" ".join(b"include:d%d.test" % m for m in range(50)) + b" -all"]
        for n in range(50)
    }
    counted = count_lookups("d0.test", every)
    assert counted.count > 10
    assert counted.unknown == ()


# --- where to ask --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_server_is_an_address_with_a_port_or_without(text: str, server: tuple[str, int]) -> None:
    assert server_of(text) == server


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:53", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:x", "1.2.3:53"]
)
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an IP address is needed"):
        server_of(text)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_server_takes_another_port_where_one_was_taken_meanwhile(
    monkeypatch: pytest.MonkeyPatch, kind: socket.SocketKind
) -> None:
    with socket.socket(type=kind) as other:
        other.bind((LOOPBACK, 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        taken, free = other.getsockname()[1], free_port()
        monkeypatch.setattr("lab.dns_server.free_port", iter([taken, free]).__next__)
        with DnsServer({}) as server:
            assert server.address == f"{LOOPBACK}:{free}"
