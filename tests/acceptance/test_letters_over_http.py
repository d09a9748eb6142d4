"""`POST /letters` against the service on real parts: one letter at a time, waited for, repeated, tried."""

from __future__ import annotations

import json
import os
import socket
import time
from base64 import b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, cast

from lab.parts import MongoServer, Topics, wait_until
from lab.world import KEY, Answer, Replica, World, check_all_answered, letter
from mailsender.dev.catcher import Catcher
from mailsender.dev.kafka import KafkaBroker
from mailsender.intake.idempotency import id_of_key

FORM = {"Content-Type": "multipart/form-data; boundary=b0undary"}


def submit(service: Replica, given: object, query: str = "wait=10s", **headers: str) -> Answer:
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    # Headers go out as Latin-1: so their UTF-8 is taken for that.
    named = {name.replace("_", "-"): value.encode().decode("latin-1") for name, value in headers.items()}
    return service.request("POST", f"/letters?{query}", body, named)


def form(given: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    parts = [b'name="letter"\r\n\r\n' + json.dumps(given).encode()]
    parts += [b'name="file"; filename="%b"\r\n\r\n%b' % (name.encode(), file) for name, file in files.items()]
    head = b"--b0undary\r\nContent-Disposition: form-data; "
    return b"".join(head + part + b"\r\n" for part in parts) + b"--b0undary--\r\n"


def message(raw: bytes) -> EmailMessage:
    return cast("EmailMessage", message_from_bytes(raw, policy=policy.default))


def test_sent_refused_and_still_under_way(world: World, catcher: Catcher) -> None:
    service = world.started()
    sent = submit(service, letter(1))
    assert (sent.status, sent.json()["status"]) == (200, "sent"), sent.body
    assert [each["verdict"] for each in sent.json()["recipients"]] == ["accepted"]
    assert sent.json()["origin"]["topic"] == world.topics.letters
    refused = submit(service, letter(2, "reject-550@example.test"))
    assert (refused.status, refused.json()["reason"]) == (422, "refused"), refused.body
    assert "reject-550@example.test: 550" in refused.json()["detail"]
    assert refused.json()["letter"]["recipients"][0]["code"] == 550
    some = submit(service, letter(3, "reject-550@example.test", "b@example.test"))
    assert (some.status, len(some.json()["recipients"])) == (200, 2)
    began = time.monotonic()
    under_way = submit(service, letter(4, "reject-451@example.test"), "wait=1s")
    assert (under_way.status, time.monotonic() - began >= 1) == (202, True), under_way.body
    at_once = submit(service, letter(5), "")
    assert at_once.status == 202
    assert at_once.headers["Location"] == f"letters/{at_once.json()['id']}"
    catcher.wait_for(3)
    assert service.get(f"/letters/{under_way.json()['id']}").json()["status"] == "awaiting"
    assert {report["Status"] for report in world.wait_reports(4)} == {"sent", "error"}


def test_the_same_key_at_once_by_two_replicas_and_over_the_topic_is_one_mail(
    world: World, catcher: Catcher
) -> None:
    replicas = [world.started(), world.started()]
    key = "\N{GRINNING FACE}" * 256
    given, query = letter(1), "wait=10s&key=k"  # with one key all reports are in the same words
    world.publish([[{**given, "IdempotencyKey": key}]], key=b"k")
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(submit, replicas[n % 2], given, query, Idempotency_Key=key) for n in range(4)]
        answers = [each.result() for each in asked]
    assert [answer.status for answer in answers] == [200] * 4, [answer.body for answer in answers]
    assert {answer.json()["id"] for answer in answers} == {id_of_key(key)}
    assert submit(replicas[0], given, Idempotency_Key=key + "!").status == 400
    other = submit(replicas[0], {**given, "Subject": "another"}, Idempotency_Key=key)
    assert (other.status, other.json()["reason"]) == (422, "duplicate-id"), other.body
    # Five publishers of the one, each with a report in the same words; and one of the other.
    reports = world.wait_reports(2)
    assert {report["ID"] for report in reports if report["Status"] == "sent"} == {id_of_key(key)}
    check_all_answered(world, 2, reports)
    assert catcher.counts()["received"] == 1


def test_a_caller_who_goes_away_changes_nothing(world: World, catcher: Catcher) -> None:
    service = world.started()
    body = json.dumps(letter(1)).encode()
    head = f"POST /letters?wait=10s HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: service.status()["intake"]["records"] == 1, "the letter taken in")
    catcher.wait_for(1)
    (report,) = world.wait_reports(1)
    assert report["Status"] == "sent"
    assert service.halt().status == 200
    assert service.wait_exit() == 0
    assert not service.events("http_request_failed")


def test_a_drain_sends_away_who_waits(world: World) -> None:
    service = world.started()
    with ThreadPoolExecutor(1) as callers:
        began = time.monotonic()
        waits = callers.submit(submit, service, letter(1, "reject-451@example.test"), "wait=14s")
        wait_until(lambda: world.by_status() == {"awaiting": 1}, "the letter deferred")
        assert service.halt().status == 200
        answer = waits.result()
    assert (answer.status, time.monotonic() - began < 13) == (202, True), answer.body
    assert service.wait_exit() == 0
    assert world.by_status() == {"awaiting": 1}


def test_files_arrive_and_an_upload_over_the_limit_does_not(world: World, catcher: Catcher) -> None:
    service = world.started()
    pdf = os.urandom(700_000)
    answer = submit(service, form(letter(1), {"Счёт.pdf": pdf, "empty.txt": b""}), **_named(FORM))
    assert answer.status == 200, answer.body
    (caught,) = catcher.wait_for(1)
    files = {
        each.get_filename(): each.get_content()
        for each in message(catcher.raw(caught["id"])).iter_attachments()
    }
    assert files == {"Счёт.pdf": pdf, "empty.txt": b""}
    large = form(letter(2), {"large.bin": bytes(10_000_000)})
    assert _hurled(service, large) == 413
    assert submit(service, form(letter(3), {"a.bin": bytes(900_000)}), **_named(FORM)).status == 200
    within = letter(4) | {"Attachments": [{"Name": "a.bin", "Content": b64encode(bytes(900_000)).decode()}]}
    beyond = submit(service, within)
    assert (beyond.status, beyond.json()["reason"]) == (413, "too-large"), "its record is over a megabyte"
    assert world.by_status() == {"sent": 2}


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in headers.items()}


def _hurled(service: Replica, body: bytes) -> int:
    """The status of the answer to one who sends on, whether anybody reads it or not."""
    head = f"POST /letters HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in FORM.items())
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        with suppress(ConnectionError):
            connection.sendall(head.encode() + b"\r\n" + body)
        return int(connection.recv(12).split()[1])


def test_a_dry_run_shows_the_message_that_is_sent_then(world: World, catcher: Catcher) -> None:
    service = world.started()
    given = letter(1, "a@example.test", IdempotencyKey="one", TextBody="Текст", Cc=["c@example.test"])
    dry = submit(service, given, "dry_run=true")
    assert (dry.status, dry.json()["faults"]) == (200, []), dry.body
    (shown,) = dry.json()["shown"]
    assert (shown["id"], shown["recipients"]) == (id_of_key("one"), ["a@example.test", "c@example.test"])
    assert shown["relays"] == [f"127.0.0.1:{world.smtp_port}"]
    batch = service.request("POST", "/post?dry_run=true", json.dumps([given, {}]).encode()).json()
    assert (batch["letters"], batch["shown"][0]["id"]) == (2, id_of_key("one"))
    assert [(fault["index"], fault["field"]) for fault in batch["faults"]] == [(1, "Addresses")]
    assert world.records(world.topics.letters) == []
    assert submit(service, given).status == 200
    (caught,) = catcher.wait_for(1)
    assert sorted(caught["rcpt_tos"]) == sorted(shown["recipients"])
    tried, sent = message(shown["messages"][0]["text"].encode()), message(catcher.raw(caught["id"]))
    for name in ("From", "Cc", "Subject", "Message-ID", "MIME-Version"):
        assert tried[name] == sent[name]
    for kind in ("plain", "html"):
        one, other = tried.get_body((kind,)), sent.get_body((kind,))
        assert one is not None
        assert other is not None
        assert one.get_content() == other.get_content()


def test_without_a_broker_it_is_503_and_the_key_makes_it_safe_to_repeat(
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
        service = world.started()
        own_kafka.freeze()
        answer = submit(service, letter(1), "wait=1s&key=k", Idempotency_Key="one")
        assert (answer.status, "Retry-After" in answer.headers) == (503, True), answer.body
        assert answer.json()["reason"] in {"no-broker", "unconfirmed"}
        if answer.json()["reason"] == "unconfirmed":
            assert answer.json()["ids"] == [id_of_key("one")]
        own_kafka.thaw()
        again = partial(submit, service, letter(1), "wait=5s&key=k", Idempotency_Key="one")
        wait_until(lambda: again().status == 200, "it sent", 60)
        check_all_answered(world, 1, world.wait_reports(1))
        assert catcher.counts()["received"] == 1
    finally:
        world.close()
