"""The mail catcher and the embedded stack as a whole."""

from __future__ import annotations

import http.client
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from lab.parts import Certificates, local_kafka, local_mongod, running, wait_until
from mailsender.dev.catcher import Catcher
from mailsender.dev.mailbox import Mailbox


def letter(subject: str = "Привет <b>мир</b>") -> bytes:
    message = EmailMessage()
    message["Subject"] = subject
    message["Message-ID"] = "<one@example.test>"
    message.set_content("<p>Тест</p>", subtype="html")
    return message.as_bytes().replace(b"\n", b"\r\n")


def send(catcher: Catcher, *recipients: str) -> None:
    with smtplib.SMTP(catcher.host, catcher.port) as client:
        client.sendmail("from@example.test", recipients, letter())


def test_a_letter_is_kept_with_its_envelope_and_times(catcher: Catcher) -> None:
    send(catcher, "a@example.test", "b@example.test")
    (caught,) = catcher.wait_for(1)
    assert caught["mail_from"] == "from@example.test"
    assert caught["rcpt_tos"] == ["a@example.test", "b@example.test"]
    assert caught["subject"] == "Привет <b>мир</b>"
    assert caught["message_id"] == "<one@example.test>"
    assert caught["mail_at"] <= caught["accepted_at"]
    full = catcher.message(caught["id"])
    assert full["html"].strip() == "<p>Тест</p>"
    assert ["Message-ID", "<one@example.test>"] in full["headers"]
    assert catcher.raw(caught["id"]).strip() == letter().strip()


def test_newer_ones_only_and_forgetting_all(catcher: Catcher) -> None:
    for number in range(3):
        send(catcher, f"n{number}@example.test")
    assert [caught["id"] for caught in catcher.messages()] == [1, 2, 3]
    assert [caught["id"] for caught in catcher.messages(since=2)] == [3]
    catcher.clear()
    assert catcher.messages() == []
    send(catcher, "n4@example.test")
    assert [caught["id"] for caught in catcher.messages()] == [4]


def test_magic_recipients_fail_as_their_names_ask(catcher: Catcher) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(catcher, "reject-450@example.test")
    assert refused.value.recipients["reject-450@example.test"][0] == 450
    with pytest.raises(smtplib.SMTPDataError) as at_dot:
        send(catcher, "good@example.test", "dot-552@example.test")
    assert at_dot.value.smtp_code == 552
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(catcher, "drop@example.test")
    assert catcher.messages() == []


def test_pipelined_commands_are_answered_in_order(catcher: Catcher) -> None:
    with socket.create_connection((catcher.host, catcher.port)) as connection:
        lines = connection.makefile("rb")
        lines.readline()
        connection.sendall(b"EHLO client.example.test\r\n")
        offered = [lines.readline()]
        while offered[-1][3:4] == b"-":
            offered.append(lines.readline())
        assert {b"250-PIPELINING\r\n", b"250-8BITMIME\r\n", b"250-SMTPUTF8\r\n"} <= set(offered)
        assert not any(b"AUTH" in line for line in offered)
        group = b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"
        connection.sendall(group)
        assert [lines.readline()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
        connection.sendall(b"Subject: x\r\n\r\ny\r\n.\r\n" + group)
        assert [lines.readline()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        lines.close()


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls_and_auth(tmp_path: Path, certificates: Certificates, tls: str) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    connect: Callable[[Catcher], smtplib.SMTP] = (
        (lambda catcher: smtplib.SMTP_SSL("localhost", catcher.port, context=context))
        if tls == "implicit"
        else (lambda catcher: smtplib.SMTP("localhost", catcher.port))
    )
    made = Catcher(tmp_path, tls=tls, cert=certificates.cert, key=certificates.key, auth="user:päss")  # type: ignore[arg-type]
    with running(made) as catcher, connect(catcher) as client:
        if tls == "starttls":
            assert client.docmd("MAIL FROM:<a@example.test>")[0] in {503, 530}
            client.starttls(context=context)
        client.ehlo()
        assert client.docmd("MAIL FROM:<a@example.test>")[0] == 530
        bad = client.docmd("AUTH", "PLAIN AHVzZXIAd3Jvbmc=")
        assert bad[0] == 535
        assert client.docmd("AUTH", "PLAIN AHVzZXIAcMOkc3M=")[0] == 235
        client.sendmail("a@example.test", ["b@example.test"], letter())
        assert len(catcher.messages()) == 1


def test_a_message_of_many_parts_is_shown_with_all_of_them(catcher: Catcher) -> None:
    message = EmailMessage()
    message["Subject"], message["To"] = "Files", "Anna <anna@example.test>"
    message.set_content("In words\n")
    message.add_alternative('<img src="cid:logo"><img src="cid:other">', subtype="html")
    html = message.get_payload()[1]
    html.add_related(b"png", "image", "png", cid="<logo>", disposition="inline")  # type: ignore[union-attr]
    message.add_attachment(b"<script>", "text", "html", filename="Счёт.html")
    with smtplib.SMTP(catcher.host, catcher.port) as client:
        client.send_message(message, "from@example.test", ["a@example.test"])
    full = catcher.message(1)
    assert full["text"].strip() == "In words"
    assert [(each["name"], each["content_id"], each["size"]) for each in full["files"]] == [
        ("", "logo", 3),
        ("Счёт.html", "", 8),
    ]
    shown = answered(catcher, "/messages/1.html")[1]
    assert b'src="data:image/png;base64,cG5n"' in shown
    assert b'src="cid:other"' in shown
    assert answered(catcher, "/messages/1.txt")[1].strip() == b"In words"
    answer, content = answered(catcher, "/messages/1/files/1")
    assert content == b"<script>"
    assert answer.getheader("Content-Disposition") == "attachment"
    assert "sandbox" in str(answer.getheader("Content-Security-Policy"))
    assert answer.getheader("Content-Type") == "application/octet-stream"
    assert answered(catcher, "/messages/1/files/2")[0].status == 404


def answered(catcher: Catcher, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(catcher.host, catcher.http_port)
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_the_page_fetches_nothing_from_elsewhere(catcher: Catcher) -> None:
    send(catcher, "a@example.test")
    for path in ("/", "/page.css", "/page.js", "/messages/1.html"):
        connection = http.client.HTTPConnection(catcher.host, catcher.http_port)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200
        assert "default-src 'none'" in str(answer.getheader("Content-Security-Policy"))
        assert "//" not in text.replace("application//", "")
        assert "innerHTML" not in text


def test_mailbox_drops_the_oldest_and_counts_it() -> None:
    mailbox = Mailbox(max_messages=3, max_bytes=100)
    for number in range(5):
        mailbox.add(
            mail_at=number, accepted_at=number, mail_from="", rcpt_tos=["a@example.test"], raw=b"x" * 10
        )
    assert [caught.id for caught in mailbox.since(0)] == [3, 4, 5]
    mailbox.add(mail_at=6, accepted_at=6, mail_from="", rcpt_tos=["a@example.test"], raw=b"x" * 95)
    assert [caught.id for caught in mailbox.since(0)] == [6]
    assert (mailbox.received, mailbox.dropped, len(mailbox)) == (6, 5, 1)


def test_a_message_that_is_no_message_is_shown_anyway() -> None:
    raw = b"Subject: =?nonsense?q?=ff?=\r\nContent-Type: text/html; charset=nobody\r\n\r\n\xff\xfe"
    caught = Mailbox().add(mail_at=0, accepted_at=0, mail_from="", rcpt_tos=[], raw=raw)
    full = caught.in_full()
    full["html"].encode()
    assert caught.summary["size"] == len(raw)


STAND_IN = """
import http.server, os, signal, sys, threading, time
from pathlib import Path

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.do_GET()
        threading.Thread(target=server.shutdown).start()
    def log_message(self, *_):
        pass

server = http.server.HTTPServer((os.environ["HTTP_HOST"], int(os.environ["HTTP_PORT"])), Handler)
signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()

from pymongo import MongoClient  # the parts must still be there while the service drains
from confluent_kafka import Consumer, Producer
time.sleep(0.5)
with MongoClient(os.environ["MONGODB_URI"], serverSelectionTimeoutMS=3000) as client:
    client.test.things.insert_one({})
    print("things:", client.test.things.count_documents({}), flush=True)
producer = Producer({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
producer.produce("mts-to-profile", b"x")
print("unsent:", producer.flush(10), flush=True)
sys.exit(int(os.environ.get("STAND_IN_STATUS", "0")))
"""

RUN = """
import sys
from pathlib import Path
from mailsender.dev.stack import run_stack
sys.exit(run_stack(Path(".dev"), service=[sys.executable, sys.argv[1]]))
"""


class Stack:
    """`run_stack` as a process of its own, with a stand-in for the service."""

    def __init__(self, directory: Path, **env: str) -> None:
        stand_in = directory / "stand_in.py"
        stand_in.write_text(STAND_IN)
        self.told = directory / ".dev" / "endpoints.json"
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(stand_in)],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def endpoints(self) -> dict[str, str]:
        wait_until(lambda: self.told.exists() or self.process.poll() is not None, "endpoints.json", 90)
        if not self.told.exists():
            pytest.fail(self.process.communicate()[0])
        found: dict[str, str] = json.loads(self.told.read_text())
        return found

    def end(self) -> tuple[int, str]:
        try:
            output, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, output


@pytest.fixture
def _stack_parts(tmp_path: Path) -> None:
    local_kafka(tmp_path)
    local_mongod(tmp_path)


@pytest.mark.usefixtures("_stack_parts")
def test_stack_starts_drains_and_keeps_its_state(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    endpoints = stack.endpoints()
    assert list(endpoints) == ["http", "kafka", "mongodb", "smtp", "catcher"]
    first_port = int(endpoints["kafka"].rpartition(":")[2])
    assert endpoints["http"].startswith("http://127.0.0.1:")
    host, _, port = endpoints["smtp"].partition(":")
    with smtplib.SMTP(host, int(port)) as client:
        client.noop()
    os.killpg(stack.process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: the whole group gets it
    status, output = stack.end()
    assert status == 0, output
    assert "things: 1" in output
    assert "unsent: 0" in output
    assert "/halt" in output
    assert not stack.told.exists()

    with socket.create_server(("127.0.0.1", first_port)):  # the second start finds a port taken
        second = Stack(tmp_path, STAND_IN_STATUS="3")
        endpoints = second.endpoints()
        assert int(endpoints["kafka"].rpartition(":")[2]) > first_port
        address = endpoints["http"].removeprefix("http://")
        connection = http.client.HTTPConnection(address)
        connection.request("POST", "/halt")
        connection.getresponse().read()
        connection.close()
        status, output = second.end()
    assert status == 3, output
    assert "things: 2" in output


@pytest.mark.usefixtures("_stack_parts")
def test_a_second_stack_in_the_same_place_is_refused(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    wait_until((tmp_path / ".dev" / "lock").exists, "lock")
    status, output = Stack(tmp_path).end()
    stack.process.send_signal(signal.SIGTERM)
    first_status, first_output = stack.end()
    assert (status, first_status) == (1, 0), output + first_output
    assert "another `mailsender dev`" in output
