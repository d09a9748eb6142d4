"""What a client asks of a certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from mailsender.kafka.client import KafkaConfig, client_options
from mailsender.smtp.connect import SmtpConfig, tls_context

STRICT = ssl.VERIFY_X509_STRICT


@pytest.fixture
def ca_file(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's defaults from 3.13 on."""
    made = ssl.create_default_context

    def as_of_3_13(*given: Any, **named: Any) -> ssl.SSLContext:
        context = made(*given, **named)
        context.verify_flags |= STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_of_3_13)


def contexts(ca_file: str) -> list[ssl.SSLContext]:
    smtp = SmtpConfig(host="h", port=1, tls="implicit", ca_file=ca_file)
    kafka = KafkaConfig(brokers=("k:1",), security_protocol="SSL", tls_ca_file=ca_file)
    return [tls_context(smtp), client_options(kafka)["ssl_context"]]


def test_a_private_ca_need_not_be_by_all_the_rules_and_is_verified_all_the_same(ca_file: str) -> None:
    for context in contexts(ca_file):
        assert not context.verify_flags & STRICT
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_public_cas_are_held_to_what_python_asks() -> None:
    assert all(context.verify_flags & STRICT for context in contexts(""))


def test_a_key_under_a_password_is_an_error_and_no_question_on_the_terminal(
    ca_file: str, tmp_path: Path
) -> None:
    issued = trustme.CA().issue_cert("client.test")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    plain = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = BestAvailableEncryption(b"pass")
    key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    config = KafkaConfig(
        brokers=("k:1",),
        security_protocol="SSL",
        tls_ca_file=ca_file,
        tls_cert_file=str(cert),
        tls_key_file=str(key),
    )
    with pytest.raises(OSError, match="SSL"):
        client_options(config)
