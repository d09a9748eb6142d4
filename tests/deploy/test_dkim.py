"""Signatures, verified by a second program in another language: emersion/go-msgauth."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lab.parts import met, missing
from mailsender.message.composer import LetterComposer
from mailsender.message.dkim import SigningKey, SigningKeys, body_hash, load_key, sign
from mailsender.message.signing import SigningComposer
from tests.unit.test_signing import FULL, composed, letter

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

VERIFIER = Path(__file__).parent / "dkim_verifier"
MESSAGES = 500
NOW = datetime.now(UTC)


def loaded(private: RSAPrivateKey | Ed25519PrivateKey, selector: str) -> SigningKey:
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return load_key(data, domain="example.com", selector=selector)


KEYS = (loaded(generate_private_key(65537, 2048), "rsa"), loaded(Ed25519PrivateKey.generate(), "ed"))
VALUE_PARTS = [b"a", b" ", b"  ", b"\t", b"\r\n ", b" \r\n\t", b"b=", b";", b":", "Почта".encode(), b"x" * 90]
BODY_PARTS = [b"a", b" ", b"  ", b"\t", b"\r\n", b"\r\n\r\n", b" \r\n", b".", b"\xff\x00", b"x" * 300]
NAMES = ["Subject", "subject", "To", "Cc", "Reply-To", "X-Other", "Message-ID", "List-Unsubscribe", "Date"]


def messages(seed: int) -> Iterator[tuple[list[tuple[str, bytes]], list[bytes]]]:
    """Headers, and the pieces of a body."""
    chance = random.Random(seed)
    for _ in range(MESSAGES):
        headers = [("From", b" News\r\n <news@example.com>")]
        for _ in range(chance.randrange(8)):
            value = b"".join(chance.choices(VALUE_PARTS, k=chance.randrange(8)))
            if all(line.strip() for line in value.split(b"\r\n")[1:]):  # else it is no fold
                headers.insert(chance.randrange(len(headers) + 1), (chance.choice(NAMES), value))
        pieces = chance.choices(BODY_PARTS, k=chance.randrange(20))
        yield headers, [*pieces, b"\r\n"] if pieces else []


def verdicts(asked: list[bytes], directory: Path) -> list[list[str]]:
    """What the verifier says of each signature of each message."""
    if shutil.which("go") is None:
        missing("there is no go, with which the second verifier of signatures is built")
    shutil.copytree(VERIFIER, directory / "verifier")
    records = {key.record_name: key.record for key in KEYS}
    lines = [json.dumps({"message": b64encode(each).decode(), "records": records}) for each in asked]
    done = subprocess.run(
        ["go", "run", "."],
        cwd=directory / "verifier",
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    met["second verifier of DKIM"] = "go-msgauth"
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(asked)
    return said


def test_a_second_verifier_takes_each_signature_and_no_change(tmp_path: Path) -> None:
    signed: list[bytes] = []
    changed: list[bytes] = []
    for headers, pieces in messages(seed=7):
        signature = sign(KEYS, headers, body_hash(pieces), now=NOW, lifetime=timedelta(days=7))
        block = b"".join(b"%b:%b\r\n" % (name.encode(), value) for name, value in headers)
        message = b"".join([signature, block, b"\r\n", *pieces])
        signed.append(message)
        changed.append(message + b"more\r\n")
        changed.append(message.replace(b" News\r\n", b" Other\r\n"))
        changed.append(message.replace(block, b"Reply-To: evil@example.net\r\n" + block))
    said = verdicts(signed + changed, tmp_path)
    wrong = [i for i, each in enumerate(said[:MESSAGES]) if each != ["pass", "pass"]]
    assert not wrong, (said[wrong[0]], signed[wrong[0]])
    assert all(len(each) == 2 and "pass" not in each for each in said[MESSAGES:])


def test_a_second_verifier_takes_letters_as_they_go_out(tmp_path: Path) -> None:
    """Of the plain form, and of all that a letter may be; the first verifier is that of the unit tests."""
    ours = {name: value for name, value in FULL.items() if name != "From"}
    plain = LetterComposer("Робот", "robot@example.com")
    composer = SigningComposer(plain, "robot@example.com", SigningKeys(KEYS))
    letters = [
        letter("<p>Привет,  мир</p> \n.\n"),
        letter(""),
        letter("x" * 3000),
        letter("<p>1</p>", **ours),
    ]
    messages = [composed(each, composer, smtputf8=True) for each in letters]
    said = verdicts(messages, tmp_path)
    assert said == [["pass", "pass"]] * len(messages)
