"""`mailsender check` as an operator runs it: a process, real parts, lines and an exit status.

Each fault is tried against the real thing, with all else in order, so that exactly one line speaks of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from lab import parts
from lab.dns_server import SERVFAIL, DnsServer
from lab.parts import Certificates, KafkaServer, MongoServer, Topics
from lab.relay_zoo import HeloCritic, ZooRelay
from lab.scripted import OFFERS, Script, ScriptedRelay
from mailsender.dev.catcher import Catcher
from mailsender.dev.process import free_port
from tests.kafka_clients import foreign_member
from tests.sessions import server_tls
from tests.signing import ED25519, key, written

SENDER = "robot@example.test"
USER, PASSWORD = "submitter", "relay-s3cret"
RELAYS = Path(__file__).parents[2] / "deploy" / "k8s" / "components" / "relays" / "relays.toml"


class Line(NamedTuple):
    level: str
    part: str
    text: str


class Made(NamedTuple):
    """What a run came to."""

    status: int
    lines: list[Line]
    output: str

    def troubles(self) -> list[Line]:
        """What is not in order. That the catcher is asked without TLS is not the point here."""
        return [line for line in self.lines if line.level != "ok" and line.part != "settings"]

    def trouble(self) -> Line:
        """The one line that is not in order."""
        [line] = self.troubles() or [Line("ok", "all", "all is well")]
        return line


DNS = "dns"
"""Where the address of the DNS server stands among the settings of a test; it is none itself."""


def check(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    command = [sys.executable, "-m", "mailsender", "check", "--dns", variables.pop(DNS), *options]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)


def run(environment: dict[str, str], *options: str, **changes: str) -> Made:
    """Run the command; every line of it has to be a finding."""
    done = check({**environment, **changes}, *options)
    assert done.stderr == ""
    found = [
        re.fullmatch(r"(ok|warning|error) +([^:]+(?::\d+)?): (.+)", line) for line in done.stdout.splitlines()
    ]
    assert found, "it has to say something"
    assert all(found), done.stdout
    return Made(done.returncode, [Line(*match.groups()) for match in found if match], done.stdout)


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    """DNS, in which the sender's domain has all that receivers want but a key."""
    zone = {"example.test": "v=spf1 ip4:192.0.2.1 -all", "_dmarc.example.test": "v=DMARC1; p=none"}
    with DnsServer(zone) as server:
        yield server


@pytest.fixture
def well(
    kafka: KafkaServer, mongod: MongoServer, topics: Topics, catcher: Catcher, dns: DnsServer, tmp_path: Path
) -> dict[str, str]:
    """Settings with which nothing is to be said but that there is no TLS; the topics are there."""
    own = key("example.test", "s1", ED25519)
    dns.zone[own.record_name] = own.record
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    names = (topics.letters, topics.reports, topics.dead)
    for future in admin.create_topics([NewTopic(name, 2, 1) for name in names]).values():
        future.result(20)
    return {
        "KAFKA_BROKERS": kafka.bootstrap,
        "KAFKA_TOPIC_MAILSENDER": topics.letters,
        "KAFKA_TOPIC_PROFILE": topics.reports,
        "KAFKA_TOPIC_DEAD_LETTER": topics.dead,
        "MONGODB_URI": mongod.uri,
        "SMTP_HOST": catcher.host,
        "SMTP_PORT": str(catcher.port),
        "SMTP_TLS": "none",
        "SMTP_FROM": f"Robot <{SENDER}>",
        "DKIM_KEYS": written(tmp_path, ("example.test", "s1", ED25519)),
        DNS: dns.address,
    }


def test_all_is_well(well: dict[str, str], topics: Topics, catcher: Catcher) -> None:
    made = run(well)
    assert made.status == 0
    assert made.troubles() == []
    said = {line.part: line.text for line in made.lines}
    assert set(said) == {
        "settings",
        "kafka",
        f"topic {topics.letters}",
        f"topic {topics.reports}",
        f"topic {topics.dead}",
        "mongodb",
        f"relay {catcher.host}:{catcher.port}",
        "DKIM s1._domainkey.example.test",
        "SPF example.test",
        "DMARC example.test",
    }
    assert SENDER in said[f"relay {catcher.host}:{catcher.port}"]
    assert catcher.messages() == [], "asking must send nothing"


def test_for_programs_it_is_one_document(well: dict[str, str]) -> None:
    done = check({**well, "MONGODB_URI": "mongodb://127.0.0.1:1/", "MONGODB_TIMEOUT": "1s"}, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 1
    assert list(found) == ["worst", "findings"]
    assert found["worst"] == "error"
    assert all(list(finding) == ["part", "level", "text"] for finding in found["findings"])
    assert [each["part"] for each in found["findings"] if each["level"] == "error"] == ["mongodb"]


# --- Kafka ---------------------------------------------------------------------------------------


def test_no_broker(well: dict[str, str]) -> None:
    port = free_port()
    made = run(well, KAFKA_BROKERS=f"127.0.0.1:{port}", KAFKA_TIMEOUT="2s")
    line = made.trouble()
    assert (made.status, line.level, line.part) == (1, "error", "kafka")
    assert f"127.0.0.1:{port}" in line.text
    assert "KAFKA_BROKERS" in line.text


def test_a_topic_is_missing_and_the_broker_would_make_it(well: dict[str, str]) -> None:
    made = run(well, KAFKA_TOPIC_PROFILE="nobody-made-this")
    line = made.trouble()
    assert (made.status, line.level, line.part) == (0, "warning", "topic nobody-made-this")
    assert "does not exist" in line.text
    assert "create it" in line.text


def test_a_topic_is_missing_and_nobody_will_make_it(well: dict[str, str], tmp_path: Path) -> None:
    with parts.running(parts.local_kafka(tmp_path / "kafka", auto_create=False)) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for name in (well["KAFKA_TOPIC_PROFILE"], well["KAFKA_TOPIC_DEAD_LETTER"]):
            admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
        made = run(well, KAFKA_BROKERS=broker.bootstrap)
    line = made.trouble()
    assert (made.status, line.level) == (1, "error")
    assert line.part == f"topic {well['KAFKA_TOPIC_MAILSENDER']}"
    assert "does not exist" in line.text
    assert "create it" in line.text


# --- MongoDB -------------------------------------------------------------------------------------


def test_mongodb_does_not_answer(well: dict[str, str]) -> None:
    uri = f"mongodb://robot:mongo-s3cret@127.0.0.1:{free_port()}/"
    made = run(well, MONGODB_URI=uri, MONGODB_TIMEOUT="1s")
    line = made.trouble()
    assert (made.status, line.level, line.part) == (1, "error", "mongodb")
    assert "MONGODB_URI" in line.text
    assert "s3cret" not in made.output


def test_mongodb_is_no_replica_set(well: dict[str, str], lone_mongod: parts.LoneMongod) -> None:
    made = run(well, MONGODB_URI=lone_mongod.uri())
    line = made.trouble()
    assert (made.status, line.level, line.part) == (0, "warning", "mongodb")
    assert "standalone" in line.text
    assert "replica set" in line.text
    assert "s3cret" not in made.output


def test_mongodb_refuses_the_password(well: dict[str, str], lone_mongod: parts.LoneMongod) -> None:
    made = run(well, MONGODB_URI=lone_mongod.uri("wrong-s3cret"))
    line = made.trouble()
    assert (made.status, line.level, line.part) == (1, "error", "mongodb")
    assert "password" in line.text
    assert "MONGODB_URI" in line.text
    assert "s3cret" not in made.output


def test_mongodb_wants_a_user(well: dict[str, str], lone_mongod: parts.LoneMongod) -> None:
    made = run(well, MONGODB_URI=f"mongodb://127.0.0.1:{lone_mongod.port}/")
    line = made.trouble()
    assert (made.status, line.level, line.part) == (1, "error", "mongodb")
    assert "rights" in line.text
    assert "MONGODB_URI" in line.text


NEEDED = {
    "letters": {"find", "insert", "update", "remove", "createIndex"},
    "letters.outbox": {"find", "insert", "update", "remove", "createIndex"},
    "letters.replicas": {"find", "insert", "update", "remove"},
    "letters.slots": {"find", "insert", "update"},
    "letters.deadletters": {"find", "insert", "update", "createIndex"},
    "letters.partitions": {"find", "insert", "update"},
    "letters.flows": {"find", "insert", "update", "createIndex"},
    "letters.blobs.files": {"find", "insert", "update", "remove", "createIndex"},
    "letters.blobs.chunks": {"find", "insert", "update", "remove", "createIndex", "collStats"},
    "letters.suppression": {"find", "insert", "update", "remove", "createIndex"},
    "letters.templates": {"find", "insert", "update"},
    "letters.templates.pinned": {"find", "insert", "update"},
}
"""What README says that the user has to be allowed."""


def run_as(lone_mongod: parts.LoneMongod, well: dict[str, str], rights: dict[str, set[str]]) -> Made:
    """Run it as a user who may do so much in each collection, and nothing else."""
    made = run(well, MONGODB_URI=lone_mongod.narrow_user("mts", rights))
    assert "s3cret" not in made.output
    return made


def test_mongodb_gives_the_rights_that_are_needed(
    well: dict[str, str], lone_mongod: parts.LoneMongod
) -> None:
    made = run_as(lone_mongod, well, NEEDED)
    assert made.status == 0
    assert "standalone" in made.trouble().text, "and nothing else"


def test_mongodb_gives_rights_to_the_letters_alone(
    well: dict[str, str], lone_mongod: parts.LoneMongod
) -> None:
    made = run_as(lone_mongod, well, {"letters": NEEDED["letters"]})
    line = made.trouble()
    assert (made.status, line.level, line.part) == (1, "error", "mongodb")
    assert "mts.letters.outbox" in line.text
    assert "rights" in line.text


def test_mongodb_lets_the_user_read_alone(well: dict[str, str], lone_mongod: parts.LoneMongod) -> None:
    made = run_as(lone_mongod, well, {each: {"find"} for each in NEEDED})
    lines = [line for line in made.lines if line.level == "error"]
    assert made.status == 1
    assert [line.part for line in lines] == ["mongodb"]
    most = "mts.letters and mts.letters.blobs.files and mts.letters.outbox and mts.letters.suppression"
    assert f"createIndex, insert, remove, update in {most};" in lines[0].text
    rest = "mts.letters.partitions and mts.letters.slots and mts.letters.templates"
    assert f"; insert, update in {rest}" in lines[0].text
    indexed = "mts.letters.deadletters and mts.letters.flows"
    assert f"createIndex, insert, update in {indexed}" in lines[0].text
    assert "readWrite" in lines[0].text


def test_mongodb_lets_the_user_remove_nothing(well: dict[str, str], lone_mongod: parts.LoneMongod) -> None:
    made = run_as(lone_mongod, well, {each: may - {"remove"} for each, may in NEEDED.items()})
    [line] = [line for line in made.lines if line.level == "error"]
    assert (made.status, line.part) == (1, "mongodb")
    blobs = "mts.letters.blobs.chunks and mts.letters.blobs.files"
    where = f"mts.letters and {blobs} and mts.letters.outbox and mts.letters.replicas"
    where += " and mts.letters.suppression"
    assert f"the user lacks: remove in {where};" in line.text


# --- the relay -----------------------------------------------------------------------------------


async def run_against(relay: ScriptedRelay, well: dict[str, str], **changes: str) -> Made:
    """Run it with this relay, in a thread: the relay lives on this loop."""
    place = {"SMTP_HOST": "localhost", "SMTP_PORT": str(relay.port), **changes}
    made = await asyncio.to_thread(run, {**well, **place})
    assert not any(command.startswith(("RCPT", "DATA")) for command in relay.commands), "nothing may be sent"
    return made


def is_relay_error(made: Made, relay: ScriptedRelay) -> Line:
    line = made.trouble()
    assert (made.status, line.level, line.part) == (1, "error", f"relay localhost:{relay.port}")
    assert "s3cret" not in made.output
    return line


@pytest.mark.asyncio
async def test_nobody_listens_where_the_relay_should_be(well: dict[str, str]) -> None:
    relay = ScriptedRelay()
    relay.port = free_port()
    line = is_relay_error(await run_against(relay, well), relay)
    assert "SMTP_HOST and SMTP_PORT" in line.text


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["implicit", "starttls"])
async def test_the_relays_certificate_is_not_trusted(
    well: dict[str, str], certificates: Certificates, way: str
) -> None:
    tls = server_tls(certificates)
    async with ScriptedRelay(tls=tls, implicit=way == "implicit") as relay:
        line = is_relay_error(await run_against(relay, well, SMTP_TLS=way), relay)
        well_done = await run_against(relay, well, SMTP_TLS=way, SMTP_TLS_CA_FILE=str(certificates.ca))
    assert "certificate is not to be trusted" in line.text
    assert "SMTP_TLS_CA_FILE" in line.text
    assert well_done.troubles() == [], "what it says to do has to help"


@pytest.mark.asyncio
async def test_the_file_to_copy_is_accepted_where_its_relays_are(
    well: dict[str, str], certificates: Certificates, tmp_path: Path
) -> None:
    """The example with our servers for its hosts: a line for each of them, and a login under TLS."""
    (tmp_path / "secrets").mkdir()
    for name in ("ses-password", "sendgrid-key", "postfix-password"):
        (tmp_path / "secrets" / name).write_text(f"{PASSWORD}\n")
    async with ScriptedRelay({"AUTH": "235 2.7.0 Ok"}, tls=server_tls(certificates)) as relay:
        here = f'host = "localhost"\nport = {relay.port}\ntls_ca_file = "{certificates.ca}"'
        text, relays = re.subn(r'^host = ".*"$', here, RELAYS.read_text(), flags=re.MULTILINE)
        (tmp_path / "relays.toml").write_text(text)
        places = {
            "MAILSENDER_CONFIG": str(tmp_path / "relays.toml"),
            "MAILSENDER_SECRETS_DIR": str(tmp_path / "secrets"),
        }
        given = {
            name: value for name, value in well.items() if not name.startswith(("SMTP_H", "SMTP_P", "SMTP_T"))
        }
        made = await asyncio.to_thread(run, given, **places)
        logins = [command for command in relay.commands if command.startswith("AUTH")]
    assert (made.status, relays, len(logins)) == (0, 3, 3), made.output
    assert [line for line in made.lines if line.level != "ok"] == []
    at = f"at localhost:{relay.port}"
    said = [line.part for line in made.lines if line.part.startswith("relay")]
    assert said == [f"relay {name} {at}" for name in ("ses", "sendgrid", "postfix")]
    assert PASSWORD not in made.output


@pytest.mark.asyncio
async def test_the_relay_does_not_offer_starttls(well: dict[str, str]) -> None:
    async with ScriptedRelay() as relay:
        line = is_relay_error(await run_against(relay, well, SMTP_TLS="starttls"), relay)
        assert not any(command.startswith("MAIL") for command in relay.commands)
    assert "does not offer STARTTLS" in line.text
    assert "SMTP_TLS=implicit" in line.text


@pytest.mark.asyncio
async def test_the_relay_refuses_the_password(well: dict[str, str]) -> None:
    script: Script = {"AUTH": f"535 5.7.8 Bad credentials: {PASSWORD}"}
    login = {"SMTP_USER": USER, "SMTP_PASSWORD": PASSWORD, "SMTP_AUTH_CLEARTEXT": "true"}
    async with ScriptedRelay(script) as relay:
        line = is_relay_error(await run_against(relay, well, **login), relay)
    assert "535 5.7.8 Bad credentials" in line.text
    assert "SMTP_USER and SMTP_PASSWORD" in line.text


@pytest.mark.asyncio
async def test_the_relay_refuses_the_sender(well: dict[str, str]) -> None:
    script: Script = {"MAIL": f"553 5.7.1 <{SENDER}>: not owned by user"}
    async with ScriptedRelay(script) as relay:
        line = is_relay_error(await run_against(relay, well), relay)
        assert [command for command in relay.commands if not command.startswith("EHLO")] == [
            f"MAIL FROM:<{SENDER}>",
            "RSET",
            "QUIT",
        ]
    assert f"553 5.7.1 <{SENDER}>: not owned by user" in line.text
    assert "SMTP_FROM" in line.text


@pytest.mark.asyncio
async def test_the_relay_wants_a_login(well: dict[str, str]) -> None:
    async with ScriptedRelay({"MAIL": "530 5.7.0 Authentication required"}) as relay:
        line = is_relay_error(await run_against(relay, well), relay)
    assert "530 5.7.0 Authentication required" in line.text
    assert "set SMTP_USER and SMTP_PASSWORD" in line.text


@pytest.mark.asyncio
async def test_the_relay_does_not_take_the_sender_now(well: dict[str, str]) -> None:
    async with ScriptedRelay({"MAIL": "451 4.7.1 Greylisted, come back"}) as relay:
        made = await run_against(relay, well)
    line = made.trouble()
    assert (made.status, line.level) == (0, "warning")
    assert "451 4.7.1 Greylisted, come back" in line.text


@pytest.mark.asyncio
@pytest.mark.parametrize("secret_in", ["the password", "the words for AUTH"])
async def test_a_relay_that_repeats_the_password_is_not_repeated(
    well: dict[str, str], secret_in: str
) -> None:
    said = {"the password": PASSWORD, "the words for AUTH": "AHN1Ym1pdHRlcgByZWxheS1zM2NyZXQ="}[secret_in]
    login = {"SMTP_USER": USER, "SMTP_PASSWORD": PASSWORD, "SMTP_AUTH_CLEARTEXT": "true"}
    async with ScriptedRelay({"MAIL": f"550 no mail for {said}"}, offers=OFFERS) as relay:
        made = await run_against(relay, well, **login)
    assert "550 no mail for" in made.trouble().text
    assert said not in made.output


# --- a recipient is asked, and the name that we give ourselves ------------------------------------


async def ask_for(relay: Any, well: dict[str, str], to: str, **changes: str) -> Made:
    place = {"SMTP_HOST": "localhost", "SMTP_PORT": str(relay.port), **changes}
    return await asyncio.to_thread(lambda: run({**well, **place}, "--to", to))


@pytest.mark.asyncio
async def test_a_recipient_who_is_asked_gets_no_letter(well: dict[str, str]) -> None:
    async with ZooRelay() as relay:
        made = await ask_for(relay, well, "ann@example.test")
        assert [each for each in relay.commands if not each.startswith("EHLO")] == [
            f"MAIL FROM:<{SENDER}>",
            "RCPT TO:<ann@example.test>",
            "RSET",
            "QUIT",
        ]
    assert made.troubles() == []
    assert any("mail for ann@example.test" in line.text for line in made.lines)


@pytest.mark.asyncio
async def test_a_relay_that_finds_fault_with_our_greeting_is_found_by_asking_a_recipient(
    well: dict[str, str],
) -> None:
    async with HeloCritic() as relay:
        line = is_relay_error(await ask_for(relay, well, "ann@example.test", SMTP_HELO_NAME="vm"), relay)
        assert "Helo command rejected" in line.text
        assert "SMTP_HELO_NAME" in line.text
        mended = await ask_for(relay, well, "ann@example.test")
    assert mended.troubles() == [], "what it says to do has to help"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "level", "words"),
    [
        ("553 5.7.1 <robot@example.test>: not owned by user", "error", "for ann@example.test: 553 5.7.1"),
        ("450 4.2.0 Greylisted", "warning", "now: 450 4.2.0"),
    ],
)
async def test_a_recipient_who_is_refused(well: dict[str, str], text: str, level: str, words: str) -> None:
    async with ScriptedRelay({"RCPT": text}) as relay:
        made = await ask_for(relay, well, "ann@example.test")
    line = made.trouble()
    assert line.level == level
    assert words in line.text


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "warned"), [("vm", True), ("mail.example.test", False), ("[::1]", False)])
async def test_a_name_for_ehlo_that_is_no_whole_one(well: dict[str, str], name: str, warned: bool) -> None:
    async with ZooRelay() as relay:
        made = await run_against(relay, well, SMTP_HELO_NAME=name)
    found = [line for line in made.lines if "SMTP_HELO_NAME" in line.text]
    assert bool(found) is warned
    assert all((line.level, line.part) == ("warning", "settings") for line in found)


# --- DNS -----------------------------------------------------------------------------------------


def test_a_key_that_dns_does_not_have(well: dict[str, str], dns: DnsServer) -> None:
    record = dns.zone.pop("s1._domainkey.example.test")
    line = run(well).trouble()
    assert (line.level, line.part) == ("error", "DKIM s1._domainkey.example.test")
    assert f"publish this TXT record: {record}" in line.text
    dns.zone["s1._domainkey.example.test"] = line.text.rpartition("record: ")[2]
    assert run(well).troubles() == [], "what it says to do has to help"


def test_where_dns_does_not_answer_that_is_a_warning(well: dict[str, str], dns: DnsServer) -> None:
    dns.zone = dict.fromkeys([*dns.zone, "_dmarc.test"], SERVFAIL)
    made = run(well)
    line = made.trouble()
    assert (made.status, line.level, line.part) == (0, "warning", "DNS")
    assert "does not answer (the server said SERVFAIL)" in line.text


def test_a_key_that_cannot_be_read_is_told_and_dns_is_asked_all_the_same(
    well: dict[str, str], tmp_path: Path
) -> None:
    made = run(well, DKIM_KEYS=f"example.test:s1:{tmp_path / 'none.pem'}")
    wrong = [line for line in made.lines if line.level == "error"]
    assert made.status == 1
    assert [(line.part, "DKIM_KEYS: example.test:s1" in line.text) for line in wrong] == [("settings", True)]
    assert any(line.part == "SPF example.test" for line in made.lines)


def test_where_to_ask_has_to_be_an_address(well: dict[str, str]) -> None:
    done = check({**well, DNS: "dns.example.test"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mailsender: --dns: dns.example.test is no DNS server; an IP address is needed, or one with :PORT"
        " behind it\n"
    )


OTHERS = [
    {"partition_assignment_strategy": "cooperative-sticky"},
    {"partition_assignment_strategy": "roundrobin"},
    {"group_protocol": "consumer"},
]


@pytest.mark.parametrize("settings", OTHERS, ids=lambda each: "-".join(each.values()))
def test_another_program_in_our_group(well: dict[str, str], topics: Topics, settings: dict[str, str]) -> None:
    well["KAFKA_GROUPID"] = topics.letters
    with foreign_member(well["KAFKA_BROKERS"], topics.letters, topics.letters, **settings):
        line = run(well).trouble()
    assert (line.level, line.part) == ("warning", f"group {topics.letters}")
    assert "billing at" in line.text
    assert "KAFKA_GROUPID" in line.text
    assert run(well).troubles() == []
