"""The main job, from the topic to the reports, as its clients see it."""

from __future__ import annotations

import json
import subprocess
from email import message_from_bytes
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import mailsender.dev
from lab.parts import wait_until
from lab.world import World, batches, check_all_answered, letter, subjects
from mailsender.dev.catcher import Catcher

SAMPLE = json.loads((Path(mailsender.dev.__file__).parent / "sample.json").read_text("utf-8"))
SEVEN = ["ID", "Addresses", "Subject", "Body", "Token", "Status", "KafkaKey"]


def test_the_sample_over_kafka(world: World, catcher: Catcher) -> None:
    world.started()
    world.publish([SAMPLE], key=b"key-\xff")
    messages = catcher.wait_for(6)
    reports = world.wait_reports(6)
    assert subjects(messages) == subjects({"subject": entry["Subject"]} for entry in SAMPLE)
    assert [report["Status"] for report in reports] == ["sent"] * 6
    for report in reports:
        assert list(report)[:7] == SEVEN
        assert report["KafkaKey"] == "key-�"
    sent = {entry["Subject"]: entry for entry in SAMPLE}
    for report in reports:
        entry = sent[report["Subject"]]
        assert report["Addresses"] == entry["Addresses"]
        assert report["Body"] == entry["Body"]
        assert report["Token"] == entry.get("Token", "")
        assert report["ID"] == entry.get("ID", report["ID"]).lower()
    assert {record.key() for record in world.records(world.topics.reports)} == {b"key-\xff"}


def test_the_seven_fields_stand_as_the_original_wrote_them(world: World) -> None:
    world.started()
    batch = [
        {
            "ID": "6b03f03e1c3fe5165a363fce",
            "Addresses": ["a1@example.test"],
            "Subject": "Тема",
            "Body": "Тело <b>&…",
            "Token": "Иван",
        }
    ]
    world.publish([batch], key="ключ".encode())
    world.wait_reports(1)
    (record,) = world.records(world.topics.reports)
    text = record.value().decode("utf-8")
    assert text.startswith(
        '{"ID":"6b03f03e1c3fe5165a363fce","Addresses":["a1@example.test"],"Subject":"Тема",'
        '"Body":"Тело \\u003cb\\u003e\\u0026…","Token":"Иван","Status":"sent","KafkaKey":"ключ"'
    )
    assert "\n" not in text


def test_the_sample_over_post(world: World, catcher: Catcher) -> None:
    service = world.started()
    answer = service.post(SAMPLE)
    assert answer.status == 200, answer.body
    landed = answer.json()
    assert landed["topic"] == world.topics.letters
    assert len(landed["ids"]) == 6
    catcher.wait_for(6)
    reports = world.wait_reports(6)
    assert {report["ID"] for report in reports} == set(landed["ids"])
    assert {report["Status"] for report in reports} == {"sent"}
    one = service.get(f"/letters/{landed['ids'][0]}")
    assert one.status == 200
    assert one.json()["status"] == "sent"


def test_blind_copies_stay_blind(world: World, catcher: Catcher) -> None:
    world.started()
    addresses = [f"blind{n}@example.test" for n in range(20)]
    world.publish([[letter(1, *addresses)]])
    (message,) = catcher.wait_for(1)
    assert sorted(message["rcpt_tos"]) == sorted(addresses)
    raw = catcher.raw(message["id"])
    assert not [address for address in addresses if address.encode() in raw]
    parsed = message_from_bytes(raw)
    assert parsed["To"] == "undisclosed-recipients:;"
    assert parsed["Cc"] is None
    assert parsed["Bcc"] is None


def test_the_message_is_what_it_was(world: World, catcher: Catcher) -> None:
    world.started()
    body = "<p>Привет, мир</p>\n.\n..dots\r\n" + "x" * 3000
    world.publish([[{"Subject": "Ж" * 200, "Body": body, "Addresses": ["a@example.test"]}]])
    (message,) = catcher.wait_for(1)
    (report,) = world.wait_reports(1)
    parsed = message_from_bytes(catcher.raw(message["id"]))
    content = parsed.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert content.decode().replace("\r\n", "\n").rstrip("\n") == body.replace("\r\n", "\n").rstrip("\n")
    assert parsed.get_content_type() == "text/html"
    assert parsed["Message-ID"] == report["MessageID"]
    assert report["ID"] in parsed["Message-ID"]
    assert message["mail_from"] == "sender@example.test"


def test_by_kcat(world: World, catcher: Catcher) -> None:
    world.started()
    kcat = ["kcat", "-b", world.bootstrap, "-q"]
    line = json.dumps([letter(1), letter(2)]).encode() + b"\n"
    subprocess.run([*kcat, "-P", "-t", world.topics.letters, "-k", "by-kcat"], input=line, check=True)
    catcher.wait_for(2)
    world.wait_reports(2)
    read = subprocess.run(
        [*kcat, "-C", "-t", world.topics.reports, "-o", "beginning", "-e", "-f", "%k %s\n"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert read.count("by-kcat {") == 2


def test_a_letter_to_250_addresses_of_which_some_are_refused_and_some_deferred(
    world: World, catcher: Catcher
) -> None:
    world.settings = {"SMTP_RETRY_DELAY": "200ms", "SMTP_MAX_ATTEMPTS": "2"}
    world.started()
    good = [f"good{n}@example.test" for n in range(230)]
    refused = [f"reject-550@r{n}.example.test" for n in range(10)]
    deferred = [f"reject-450@d{n}.example.test" for n in range(10)]
    addresses = [a for trio in zip(good[:10], refused, deferred, strict=True) for a in trio] + good[10:]
    world.publish([[letter(1, *addresses)]])
    (report,) = world.wait_reports(1)
    assert report["Status"] == "sent"
    by_status: dict[str, list[str]] = {}
    for entry in report["Recipients"]:
        by_status.setdefault(entry["Status"], []).append(entry["Address"])
    assert sorted(by_status["accepted"]) == sorted(good)
    assert sorted(by_status["refused"]) == sorted(refused)
    assert sorted(by_status["deferred"]) == sorted(deferred)
    assert report["Attempts"] == 2
    messages = catcher.messages()
    assert sorted(a for m in messages for a in m["rcpt_tos"]) == sorted(good), "each accepted exactly once"
    assert max(len(m["rcpt_tos"]) for m in messages) <= 100
    assert len({m["message_id"] for m in messages}) == 1


def test_many_letters_are_all_answered_once(world: World, catcher: Catcher) -> None:
    world.started()
    world.publish(batches(300), key=b"k")
    reports = world.wait_reports(300)
    check_all_answered(world, 300, reports)
    assert max(subjects(catcher.messages()).values()) == 1


def test_the_metrics_tell_what_was_done(world: World) -> None:
    service = world.started()
    world.publish(batches(30), key=b"k")
    wait_until(lambda: service.status()["reports"]["marked"] == 30, "the last report is acknowledged")
    found = {
        (each.name.removeprefix("mailsender_"), *each.labels.values()): each.value
        for family in text_string_to_metric_families(service.get("/metrics").body.decode())
        for each in family.samples
    }
    assert found["outcomes_total", "sent"] == found["letters_in_total", "taken"] == 30
    assert found["attempts_total", "default", "2xx", "dot"] == 30
    assert found["reports_total", "published"] == 30
    assert found["record_to_acceptance_seconds_count",] == found["record_to_report_seconds_count",] == 30
    assert 0 < found["record_to_acceptance_seconds_sum",] <= found["record_to_report_seconds_sum",]
    assert found["insert_seconds_count",] >= 1
    lags = [
        value for name, value in found.items() if name[0] == "consumer_lag" and world.topics.letters in name
    ]
    assert lags
    assert not any(lags)
    assert found["ready",] == 1


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_the_four_codecs(world: World, catcher: Catcher, codec: str) -> None:
    world.started()
    world.publish([[letter(n)] for n in range(20)], **{"compression.type": codec, "linger.ms": 200})
    assert len(subjects(catcher.wait_for(20))) == 20
    world.wait_reports(20)
