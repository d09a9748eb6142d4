"""Files from a publisher to a reader: put once, named by many, swept when nobody needs them."""

from __future__ import annotations

import http.client
import os
from base64 import b64encode
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

from lab.parts import SmtpSink, wait_until
from lab.vitals import peak
from lab.world import Answer, Replica, World, letter
from mailsender.dev.catcher import Catcher
from mailsender.model.blobs import ref_of

PDF = b"%PDF-1.7 " + os.urandom(2_000_000)
MOST_MEMORY = 200
"""MiB of the process at its worst, though each message takes nearly three."""


def put(service: Replica, content: bytes, path: str = "/blobs", **headers: str) -> Answer:
    return service.request("PUT", path, content, headers)


def carrying(number: int, *attachments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return letter(number, **more) | {"Attachments": list(attachments)}


def files(catcher: Catcher, message: Any) -> dict[str, bytes]:
    parsed = cast("EmailMessage", message_from_bytes(catcher.raw(message["id"]), policy=policy.default))
    return {
        str(each.get_filename()): cast("bytes", each.get_payload(decode=True))
        for each in parsed.iter_attachments()
    }


def test_a_file_that_was_put_and_one_that_the_letter_brings_arrive(world: World, catcher: Catcher) -> None:
    service = world.started()
    ref = put(service, PDF).json()["ref"]
    assert ref == ref_of(PDF)
    assert service.get(f"/blobs/{ref}").json()["bytes"] == len(PDF)
    named = {"Name": "Счёт.pdf", "ContentType": "application/pdf", "Ref": ref}
    brought = {"Name": "a.bin", "Content": b64encode(b"\0\xff\r\n.\r\n").decode()}
    world.publish([[carrying(1, named, brought)]])
    (message,) = catcher.wait_for(1)
    assert files(catcher, message) == {"Счёт.pdf": PDF, "a.bin": b"\0\xff\r\n.\r\n"}
    (report,) = world.wait_reports(1)
    assert report["Status"] == "sent"


def test_a_missing_one_is_its_letters_error_alone(world: World, catcher: Catcher) -> None:
    world.started()
    missing = {"Name": "a.pdf", "Ref": ref_of(b"never put")}
    world.publish([[carrying(1, missing), letter(2)]])
    (message,) = catcher.wait_for(1)
    assert message["subject"] == "letter 2"
    reports = {each["Subject"]: each for each in world.wait_reports(2)}
    assert reports["letter 1"]["Status"] == "error"
    assert reports["letter 1"]["Reason"]["Phase"] == "intake"
    assert "names a blob that is not there" in reports["letter 1"]["Reason"]["Text"]


def test_many_letters_with_one_file_take_one_copy_and_little_memory(
    world: World, smtp_sink: SmtpSink
) -> None:
    service = world.started(SMTP_PORT=str(smtp_sink.port), SMTP_MAX_SENDERS="20")
    named = {"Name": "a.pdf", "Ref": put(service, PDF).json()["ref"]}
    count = 400
    world.publish([[carrying(n, named) for n in range(at, at + 50)] for at in range(0, count, 50)])
    reports = world.wait_reports(count, 240)
    assert {each["Status"] for each in reports} == {"sent"}
    assert peak(service.child.pid) < MOST_MEMORY
    with world.letters() as letters:
        assert letters.blobs.files.count_documents({}) == 1
        assert letters.blobs.chunks.count_documents({}) == -(-len(PDF) // (255 * 1024))


def test_many_letters_each_with_a_file_of_its_own_take_little_memory(
    world: World, smtp_sink: SmtpSink
) -> None:
    service = world.started(SMTP_PORT=str(smtp_sink.port), SMTP_MAX_SENDERS="20")
    count = 60
    contents = [PDF + str(number).encode() for number in range(count)]
    refs = [put(service, each).json()["ref"] for each in contents]
    assert len(set(refs)) == count
    world.publish([[carrying(n, {"Name": "a.pdf", "Ref": ref})] for n, ref in enumerate(refs)])
    reports = world.wait_reports(count, 240)
    assert {each["Status"] for each in reports} == {"sent"}
    assert peak(service.child.pid) < MOST_MEMORY


def test_an_upload_survives_the_process_that_took_it(world: World) -> None:
    """Half of it went to one that was killed; the rest goes to its successor, which hashes all of it."""
    service = world.started()
    ref, half = ref_of(PDF), 255 * 1024 * 4
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    line.putrequest("PUT", f"/blobs/{ref}")
    line.putheader("X-API-KEY", service.settings["HTTP_API_KEY"])
    line.putheader("Content-Length", str(len(PDF)))
    line.endheaders()
    line.send(PDF[: half + 1000])
    wait_until(
        lambda: service.get(f"/blobs/{ref}").headers.get("Upload-Offset") == str(half), "half of it there", 20
    )
    service.child.kill()
    line.close()
    successor = world.started()
    there = int(successor.get(f"/blobs/{ref}").headers["Upload-Offset"])
    assert there == half
    rest = put(
        successor,
        PDF[there:],
        f"/blobs/{ref}",
        **{"Content-Range": f"bytes {there}-{len(PDF) - 1}/{len(PDF)}"},
    )
    assert rest.status == 200, rest.body
    assert rest.json()["bytes"] == len(PDF)


def test_bodies_and_files_go_before_their_letters(world: World, catcher: Catcher) -> None:
    service = world.started(MONGODB_BODY_RETENTION="1s")
    named = {"Name": "a.pdf", "Ref": put(service, PDF).json()["ref"]}
    identity = "6b03f03e1c3fe5165a363fce"
    told = carrying(1, named, ID=identity)
    world.publish([[told]])
    catcher.wait_for(1)
    world.wait_reports(1)
    wait_until(lambda: service.get(f"/letters/{identity}").json()["body_omitted"], "the body gone", 60)
    with world.letters() as letters:
        (document,) = letters.find({})
        assert document["body"] == ""
        assert {"blobs", "mail"} & document.keys() == set()
    # Another publisher of the same letter is answered, and hears what can no longer be repeated.
    world.publish([[told | {"Token": "the second"}]])
    wait_until(lambda: len(world.reports()) == 2, "the second report", 30)
    (late,) = [each for each in world.reports() if each["Token"] == "the second"]
    assert (late["ID"], late["Status"], late["Body"], late["BodyOmitted"]) == (identity, "sent", "", True)
    assert len(catcher.wait_for(1)) == 1
