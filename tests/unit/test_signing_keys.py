"""`DKIM_KEYS`: keys in files, each fault told with its remedy, and never a word of a key."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from lab.parts import missing
from mailsender.model.errors import Rejected
from mailsender.settings.environment import Settings, load, slips
from mailsender.settings.signing import signing_keys
from mailsender.settings.sources import SettingsError
from tests.signing import ED25519, RSA, pem, written

PEM, DER = Encoding.PEM, Encoding.DER
PKCS8 = PrivateFormat.PKCS8
BODY = pem(ED25519).decode().splitlines()[1]
SHORT = generate_rsa(public_exponent=65537, key_size=1024)
OTHER = generate_private_key(SECP256R1())


@pytest.fixture(autouse=True)
def _needed(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        "SMTP_HOST": "h",
        "SMTP_USER": "a@example.com",
        "KAFKA_BROKERS": "k:1",
        "MONGODB_URI": "mongodb://m/",
    }
    for name, value in needed.items():
        monkeypatch.setenv(name, value)


def settings(monkeypatch: pytest.MonkeyPatch, keys: str, secrets: Path | None = None) -> Settings:
    monkeypatch.setenv("DKIM_KEYS", keys)
    if secrets is not None:
        monkeypatch.setenv("MAILSENDER_SECRETS_DIR", str(secrets))
    return load()


def test_without_the_setting_nothing_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signing_keys(settings(monkeypatch, "")) is None


def test_keys_side_by_side_by_domain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = written(
        tmp_path,
        ("example.com", "s1", RSA),
        ("example.com", "s2", ED25519),
        ("Почта.рф", "s1", ED25519),
    )
    keys = signing_keys(settings(monkeypatch, text))
    assert keys is not None
    assert [each.algorithm for each in keys.for_sender("example.com")] == ["rsa-sha256", "ed25519-sha256"]
    assert [each.record_name for each in keys] == [
        "s1._domainkey.example.com",
        "s2._domainkey.example.com",
        "s1._domainkey.xn--80a1acny.xn--p1ai",
    ]


def test_a_bare_name_lies_in_the_directory_of_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dkim_key").write_bytes(pem(ED25519))
    found = settings(monkeypatch, " example.com : s1 : dkim_key ,", tmp_path)
    keys = signing_keys(found)
    assert keys is not None
    assert [each.record_name for each in keys] == ["s1._domainkey.example.com"]
    assert slips() == [], "it is no slip of a setting's name"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("example.com", "entry 1 of 1 is not domain:selector:file"),
        ("example.com:s1:/k, example.com:s2", "entry 2 of 2 is not domain:selector:file"),
        (":s1:/k", "entry 1 of 1 is not domain:selector:file"),
        (BODY, "a file is needed, not the key"),
        ("example.com:s1:keys/s1.pem", "example.com:s1 needs a whole path"),
    ],
    ids=["no file", "the second", "no domain", "the key itself", "a relative path"],
)
def test_an_entry_that_is_none_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    with pytest.raises(SettingsError) as error:
        settings(monkeypatch, text)
    assert str(error.value).startswith("DKIM_KEYS: ")
    assert words in str(error.value)
    assert BODY not in str(error.value)


FILES = [
    (b"", "no private key in PEM or DER"),
    (b"\0" * 20_000, "over 16384 octets"),
    (pem(ED25519)[:60], "no private key in PEM or DER"),
    (pem(ED25519).replace(b"A", b"B"), "no private key in PEM or DER"),
    (ED25519.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo), "the private key is needed"),
    (ED25519.private_bytes(PEM, PKCS8, BestAvailableEncryption(b"x")), "openssl pkey -in OLD -out NEW"),
    (SHORT.private_bytes(PEM, PKCS8, NoEncryption()), "1024 bits; 2048 to 4096 are needed"),
    (OTHER.private_bytes(DER, PKCS8, NoEncryption()), "DKIM takes RSA and Ed25519"),
]


@pytest.mark.parametrize(
    ("octets", "words"),
    FILES,
    ids=["empty", "zeros", "cut", "spoilt", "public", "encrypted", "short", "another kind"],
)
def test_a_file_that_holds_no_such_key_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, octets: bytes, words: str
) -> None:
    good = written(tmp_path, ("example.com", "s1", ED25519))
    (tmp_path / "bad.pem").write_bytes(octets)
    text = f"{good}, example.com:s2:{tmp_path / 'bad.pem'}"
    found = settings(monkeypatch, text)
    with pytest.raises(Rejected) as error:
        signing_keys(found)
    said = str(error.value)
    assert said.startswith("DKIM_KEYS: example.com:s2: ")
    assert words in said
    assert "\n" not in said
    lines = [line for line in octets.decode("latin-1").splitlines() if len(line) > 20 and "-" not in line]
    assert not any(line in said for line in lines)


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = settings(monkeypatch, f"example.com:s1:{tmp_path / 'none.pem'}, example.com:s2:{tmp_path}")
    with pytest.raises(Rejected) as error:
        signing_keys(found)
    assert str(error.value) == (
        f"DKIM_KEYS: example.com:s1: its file {tmp_path / 'none.pem'} is not there; name that of the private"
        f" key; example.com:s2: its file {tmp_path} is no file; name that of the private key"
    )


def test_a_key_in_the_place_of_a_bare_name_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inline = BODY.replace("/", "_")
    for secrets, words in ((None, "MAILSENDER_SECRETS_DIR is not set"), (tmp_path, "is not there")):
        with pytest.raises(Rejected, match=words) as error:
            signing_keys(settings(monkeypatch, f"example.com:s1:{inline}", secrets))
        assert inline not in str(error.value)


def test_a_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Rejected, match="is no file"):
        signing_keys(settings(monkeypatch, f"example.com:s1:{tmp_path / 'pipe'}"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("exa mple.com:s1", "example.com:s1"),
        ("example.com:s_1!", "its selector is not a valid name"),
        ("example.com:s1, example.com:S1", "two keys are called s1._domainkey.example.com"),
    ],
)
def test_names_that_dns_cannot_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entry: str, words: str
) -> None:
    (tmp_path / "k.pem").write_bytes(pem(ED25519))
    text = ", ".join(f"{each}:{tmp_path / 'k.pem'}" for each in entry.split(", "))
    with pytest.raises(Rejected) as error:
        signing_keys(settings(monkeypatch, text))
    assert words.removeprefix("example.com:") in str(error.value)


def test_settings_show_nothing_of_what_was_written_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dkim" not in repr(settings(monkeypatch, f"example.com:s1:/{b64encode(b'x').decode()}"))


def test_the_commands_of_the_page_make_keys_and_their_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        missing("there is no openssl")
    page = (Path(__file__).parents[2] / "docs" / "dkim.md").read_text(encoding="utf-8")
    make, show = [textwrap.dedent(block) for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    done = subprocess.run(
        ["/bin/sh", "-ec", make + show], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    entries = re.findall(r"DKIM_KEYS=(.*)", page)[0]
    keys = signing_keys(settings(monkeypatch, entries.replace("/etc/mailsender", str(tmp_path))))
    assert keys is not None
    assert [each.algorithm for each in keys] == ["rsa-sha256", "ed25519-sha256"]
    assert done.stdout.replace("\n", "") == "".join(each.public for each in keys)
