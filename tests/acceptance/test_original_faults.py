"""The faults of the original service, each absent; kills, outages and replicas have files of their own."""

from __future__ import annotations

import time
from pathlib import Path

from lab.parts import KafkaServer, MongoServer, Topics, wait_until
from lab.world import World, batches, letter, subjects
from mailsender.dev.catcher import Catcher
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod
from tests.acceptance.test_crashes import _stalling_relay

POISON: list[bytes] = [
    b"",
    b"not json",
    b"{}",
    b"null",
    b"42",
    b'"text"',
    b"[1, 2]",
    b'[{"Subject": "x"}, null]',
    b"[" * 100_000,
    b"[" + b"9" * 5000 + b"]",
    b'[{"a": NaN}]',
    b'[{"a": Infinity}]',
    b"\xff\xfe\x00",
    '[{"Subject": "\xff"}]'.encode("latin-1"),
    b'[{"Subject": "open"',
    b"\x00" * 100,
]


def test_poison_records_of_every_kind_between_good_ones(world: World, catcher: Catcher) -> None:
    world.started()
    mixed: list[object] = []
    for number, poison in enumerate(POISON):
        mixed += [[letter(number)], poison]
    world.publish(mixed)
    reports = world.wait_reports(len(POISON))
    assert {report["Status"] for report in reports} == {"sent"}
    wait_until(lambda: len(world.records(world.topics.dead)) >= len(POISON), "the dead letters")
    dead = world.records(world.topics.dead)
    assert sorted(record.value() or b"" for record in dead) == sorted(POISON)
    for record in dead:
        headers = dict(record.headers())
        wanted = {f"mailsender-{name}" for name in ("reason", "topic", "partition", "offset", "time")}
        assert set(headers) >= wanted
        assert headers["mailsender-topic"].decode() == world.topics.letters


def test_bad_letters_get_an_answer_and_their_neighbours_are_sent(world: World, catcher: Catcher) -> None:
    world.started()
    bad: list[dict[str, object]] = [
        {"Subject": "no addresses", "Body": "b", "Addresses": []},
        {"Subject": "addresses absent", "Body": "b"},
        {"Subject": "no address", "Body": "b", "Addresses": ["nobody"]},
        {"Subject": "two in one", "Body": "b", "Addresses": ["a@example.test, b@example.test"]},
        {"Subject": "a command", "Body": "b", "Addresses": ["a@example.test>\r\nRCPT TO:<x@example.test"]},
        {"Subject": ["wrong type"], "Body": "b", "Addresses": ["a@example.test"]},
        {"Subject": "s", "Body": 7, "Addresses": ["a@example.test"]},
        {"Subject": "s", "Body": "b", "Addresses": "a@example.test"},
        {"Subject": "a\r\nBcc: x@example.test", "Body": "b", "Addresses": ["a@example.test"]},
        {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"], "ID": "not hex"},
        {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"], "Attachments": [{"Name": "x"}]},
        {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"], "Token": "x" * 5000},
    ]
    world.publish([[letter(0), *bad, letter(1)]])
    reports = world.wait_reports(len(bad) + 2)
    errors = [report for report in reports if report["Status"] == "error"]
    assert len(errors) == len(bad)
    assert all(len(report["Reason"]["Text"]) > 10 for report in errors)
    assert set(subjects(catcher.messages())) == {"letter 0", "letter 1"}
    raw = b"".join(catcher.raw(message["id"]) for message in catcher.messages())
    assert b"x@example.test" not in raw


def test_a_lone_surrogate_harms_nobody_else(world: World, catcher: Catcher) -> None:
    world.started()
    text = '[{"Subject":"\\ud800","Body":"b","Addresses":["a@example.test"]},%s]'
    good = '{"Subject":"letter 1","Body":"b","Addresses":["a@example.test"]}'
    world.publish([(text % good).encode()])
    reports = world.wait_reports(2)
    assert sorted(report["Status"] for report in reports) == ["error", "sent"]


def test_a_repeated_id_is_answered(world: World, catcher: Catcher) -> None:
    world.started()
    same = "ab" * 12
    world.publish([[letter(1, ID=same)]], key=b"first")
    world.wait_reports(1)
    world.publish([[{**letter(1, ID=same), "Token": "second"}]], key=b"second")
    world.publish([[letter(2, ID=same)]], key=b"third")

    def answers() -> dict[bytes, tuple[str, str]]:
        found = {}
        for record in world.records(world.topics.reports):
            import json

            report = json.loads(record.value())
            found[record.key()] = (report["Status"], report["Token"])
        return found

    wait_until(lambda: len(answers()) == 3, "three answers")
    assert answers() == {
        b"first": ("sent", "token 1"),
        b"second": ("sent", "second"),
        b"third": ("error", "token 2"),
    }
    assert subjects(catcher.messages()) == {"letter 1": 1}


def test_one_550_harms_neither_the_other_recipients_nor_the_session(world: World, catcher: Catcher) -> None:
    world.started(SMTP_MAX_SENDERS="1")
    world.publish([[letter(0, "a@example.test", "reject-550@example.test"), letter(1), letter(2)]])
    world.publish([[letter(3, "dot-554@example.test"), letter(4)]])
    reports = {report["Subject"]: report for report in world.wait_reports(5)}
    assert {s: r["Status"] for s, r in reports.items()} == {
        "letter 0": "sent",
        "letter 1": "sent",
        "letter 2": "sent",
        "letter 3": "error",
        "letter 4": "sent",
    }
    assert reports["letter 3"]["Reason"]["Code"] == 554


def test_a_dropped_connection_costs_only_its_own_letter_a_retry(world: World, catcher: Catcher) -> None:
    world.started(SMTP_MAX_SENDERS="1", SMTP_RETRY_DELAY="100ms", SMTP_MAX_ATTEMPTS="2")
    world.publish([[letter(0, "drop@example.test"), *[letter(n) for n in range(1, 20)]]])
    reports = {report["Subject"]: report for report in world.wait_reports(20)}
    assert reports["letter 0"]["Status"] == "error"
    assert reports["letter 0"]["Uncertain"] is True
    assert all(reports[f"letter {n}"]["Status"] == "sent" for n in range(1, 20))
    assert all(reports[f"letter {n}"]["Attempts"] == 1 for n in range(1, 20))


def test_post_answers_at_once_and_letters_do_not_take_a_second_each(world: World, catcher: Catcher) -> None:
    service = world.started()
    service.post([letter(0)])
    began = time.monotonic()
    assert service.post([letter(n) for n in range(1, 101)]).status == 200
    catcher.wait_for(101)
    assert time.monotonic() - began < 20, "the original took 100 seconds"


def test_an_idle_service_costs_little_and_logs_nothing(world: World) -> None:
    service = world.started()
    before_lines, before_cpu = len(service.log), cpu_seconds(service.child.pid)
    time.sleep(5)  # what it costs to do nothing is measured for so long
    assert cpu_seconds(service.child.pid) - before_cpu < 0.5, "the original burnt 1 to 1.5 cores"
    assert len(service.log) - before_lines <= 1


def test_no_secret_and_no_content_in_the_log(world: World, catcher: Catcher) -> None:
    service = world.replica(
        SMTP_PASSWORD="canary-password",
        SMTP_USER="canary-user",
        SMTP_FROM="s@example.test",
        SMTP_AUTH_CLEARTEXT="true",
        LOG_LEVEL="debug",
    )
    service.start()
    # The relay offers no login, so it never gets ready.
    service.child.until(lambda: service.get("/").body.endswith(b": running\n"), 40)
    canary = letter(
        1, "canary-address@example.test", "reject-550@example.test", Body="canary-body", Token="canary-token"
    )
    service.post([canary, {"Subject": "canary-bad", "Body": "canary-body", "Addresses": ["canary"]}])
    wait_until(lambda: len(service.log) > 3, "a log")
    service.terminate()
    service.wait_exit()
    text = service.child.log.read_text()
    assert "canary" not in text.replace("canary-user", "")


def test_a_list_of_brokers_and_a_rate_of_zero(world: World, catcher: Catcher) -> None:
    world.started(KAFKA_BROKERS=f"127.0.0.1:1,{world.bootstrap}", SMTP_RATE_LIMIT_MAX_LETTERS="0")
    world.publish(batches(10))
    world.wait_reports(10)


def test_after_a_kill_records_are_read_again_soon(world: World, catcher: Catcher) -> None:
    first = world.started(KAFKA_GROUP_INSTANCE_ID="replica-0")
    world.publish(batches(10))
    world.wait_reports(10)
    first.child.kill()
    world.started(KAFKA_GROUP_INSTANCE_ID="replica-0")
    began = time.monotonic()
    world.publish(batches(10, start=10))
    world.wait_reports(20)
    assert time.monotonic() - began < 10, "the original took 30 seconds"


def test_halt_does_not_hang_on_a_stalled_relay(world: World) -> None:
    service = world.started(SMTP_PORT=str(_stalling_relay()), DRAIN_TIMEOUT="6s")
    world.publish(batches(20))
    wait_until(lambda: world.by_status()["processing"] > 0, "letters in hand")
    assert service.halt().status == 200
    assert service.wait_exit(15) == 0
    assert set(world.by_status()) == {"awaiting"}


def test_halt_does_not_hang_on_a_frozen_mongod(
    tmp_path: Path, kafka: KafkaServer, own_mongod: Mongod, topics: Topics, catcher: Catcher
) -> None:
    world = World(tmp_path, kafka.bootstrap, own_mongod.uri, "mts", topics, catcher.port)
    world.create_topics()
    try:
        service = world.started(
            SMTP_RATE_LIMIT_MAX_LETTERS="10", SMTP_RATE_LIMIT_PERIOD="1s", DRAIN_TIMEOUT="6s"
        )
        world.publish(batches(50))
        catcher.wait_for(3)
        own_mongod.freeze()
        service.halt()
        assert service.wait_exit(30) == 1
        assert service.events("drain_unclean")
        own_mongod.thaw()
    finally:
        world.close()


def test_halt_does_not_hang_on_a_frozen_broker(
    tmp_path: Path,
    own_kafka: KafkaBroker,
    mongod: MongoServer,
    database: str,
    topics: Topics,
    catcher: Catcher,
) -> None:
    world = World(tmp_path, own_kafka.bootstrap, mongod.uri, database, topics, catcher.port)
    world.create_topics()
    try:
        service = world.started(
            SMTP_RATE_LIMIT_MAX_LETTERS="10", SMTP_RATE_LIMIT_PERIOD="1s", DRAIN_TIMEOUT="6s"
        )
        world.publish(batches(50))
        catcher.wait_for(3)
        own_kafka.freeze()
        service.halt()
        assert service.wait_exit(40) in {0, 1}
        assert "processing" not in world.by_status()
        own_kafka.thaw()
    finally:
        world.close()


def test_letters_that_the_original_left_are_sent_and_reported(world: World, catcher: Catcher) -> None:
    with world.letters() as letters:
        letters.insert_many(
            [
                {
                    "addresses": [f"left{n}@example.test"],
                    "subject": f"letter {n}",
                    "body": "b",
                    "token": f"t{n}",
                    "status": status,
                    "kafkakey": "k",
                }
                for n, status in enumerate(["awaiting", "processing", "awaiting", "processing"])
            ]
        )
        letters.insert_one({"subject": "broken", "status": "awaiting", "addresses": "nobody"})
    world.started()
    reports = world.wait_reports(5)
    assert sorted(report["Status"] for report in reports) == ["error", *["sent"] * 4]
    assert subjects(catcher.messages()) == {f"letter {n}": 1 for n in range(4)}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
