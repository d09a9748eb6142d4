"""What DNS may hold in place of a key, and what is said about it."""

from __future__ import annotations

import random
from base64 import b64encode

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mailsender.check.dkim_record import check_dkim_record
from mailsender.check.findings import Finding
from mailsender.check.txt import MAX_RECORD, BadRecord, quoted, read_tags, text_of
from mailsender.message.dkim import SigningKey, load_key

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = Ed25519PrivateKey.generate()


def loaded(private: rsa.RSAPrivateKey | Ed25519PrivateKey, selector: str) -> SigningKey:
    data = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return load_key(data, domain="example.com", selector=selector)


RSA_KEY, ED_KEY = loaded(RSA, "rsa"), loaded(ED25519, "ed")
OTHER = loaded(Ed25519PrivateKey.generate(), "ed")
PKCS1 = b64encode(RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode()
ENVELOPE = b64encode(
    ED25519.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


def found(*records: str | bytes, key: SigningKey = ED_KEY) -> Finding:
    [finding] = check_dkim_record(key, [each.encode() if isinstance(each, str) else each for each in records])
    assert finding.part == f"DKIM {key.record_name}"
    assert "\n" not in finding.text
    return finding


@pytest.mark.parametrize("key", [RSA_KEY, ED_KEY], ids=["rsa", "ed25519"])
def test_what_is_to_be_published_is_right(key: SigningKey) -> None:
    assert found(key.record, key=key).level == "ok"


@pytest.mark.parametrize(
    "record",
    [
        f"k=ed25519;p={ED_KEY.public}",
        f"v=DKIM1; p={ED_KEY.public}; k=ed25519;",
        f" v = DKIM1 ; k = ed25519 ; h = sha1 : sha256 ; s = * ; t = s ; n=by hand ; p = {ED_KEY.public} ; ",
        f"v=DKIM1; k=ed25519; s=tlsrpt:email; x=unknown; p={ED_KEY.public[:9]} {ED_KEY.public[9:]}",
    ],
    ids=["version left out", "key before kind", "spaces and tags", "key in two parts"],
)
def test_other_ways_to_write_it_are_right(record: str) -> None:
    assert found(record).level == "ok"


@pytest.mark.parametrize("kind", ["k=rsa; ", ""])
@pytest.mark.parametrize("public", [RSA_KEY.public, PKCS1], ids=["spki", "pkcs1"])
def test_both_forms_of_an_rsa_key_are_right(kind: str, public: str) -> None:
    assert found(f"v=DKIM1; {kind}p={public}", key=RSA_KEY).level == "ok"


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "DNS has no such record"),
        ([ED_KEY.record, ED_KEY.record], "DNS has 2 TXT records"),
        (["v=DKIM1; k=ed25519; p="], "p= is empty, which withdraws the key"),
        (["v=DKIM1; k=ed25519"], "has no p="),
        ([""], "has no p="),
        ([OTHER.record], "holds another key"),
        ([f"v=DKIM1; k=ed25519; p={ENVELOPE}"], "an envelope around the key"),
        ([f"v=DKIM1; k=ed25519; p={ED_KEY.public[:-3]}"], "p= is no base64; a part may have been lost"),
        ([f"v=DKIM1; k=ed25519; p={ED_KEY.public[:20]}?{ED_KEY.public[20:]}"], "p= is no base64"),
        ([f"v=DKIM1; p={ED_KEY.public}"], 'of the kind "rsa", and this one is ed25519'),
        ([f"v=DKIM2; k=ed25519; p={ED_KEY.public}"], 'is "DKIM2" where DKIM1'),
        ([f"k=ed25519; v=DKIM1; p={ED_KEY.public}"], "v= is not first"),
        ([f"v=DKIM1; k=ed25519; h=sha1; p={ED_KEY.public}"], 'h= is "sha1"'),
        ([f"v=DKIM1; k=ed25519; s=tlsrpt; p={ED_KEY.public}"], 's= is "tlsrpt"'),
        ([f"v=DKIM1; k=ed25519; k=ed25519; p={ED_KEY.public}"], 'has its tag "k" twice'),
        ([f"v=DKIM1; k=ed25519;; p={ED_KEY.public}"], "where a tag should be"),
        ([f"v=DKIM1; ed25519; p={ED_KEY.public}"], 'has "ed25519" where a tag should be'),
        ([f'"v=DKIM1; k=ed25519; p={ED_KEY.public}"'], "which belong to a zone file"),
        (["v=DKIM1\\; k=ed25519"], "the record's v="),
        ([b"v=DKIM1; k=ed25519; n=\xd0\x9f; p="], "holds characters beyond ASCII"),
        ([b"v=DKIM1; p=" + b"A" * MAX_RECORD], "has 4107 octets, and no more than 4096 are read"),
    ],
)
def test_what_keeps_verifiers_from_the_key(records: list[str], reason: str) -> None:
    finding = found(*records)
    assert finding.level == "error"
    assert reason in finding.text
    assert finding.text.endswith(f"publish this TXT record: {ED_KEY.record}")


def test_testing_is_a_warning() -> None:
    finding = found(f"v=DKIM1; k=ed25519; t=s:y; p={ED_KEY.public}")
    assert finding.level == "warning"
    assert "take it out" in finding.text


def test_dkimpy_reads_a_published_record_alike() -> None:
    public, size, kind, _ = dkimpy.evaluate_pk(RSA_KEY.record_name, RSA_KEY.record)
    assert (size, kind) == (2048, b"rsa")
    assert public["modulus"] == RSA.public_key().public_numbers().n
    public, _, kind, _ = dkimpy.evaluate_pk(ED_KEY.record_name, ED_KEY.record)
    assert (bytes(public), kind) == (ED25519.public_key().public_bytes_raw(), b"ed25519")


NEARLY = [*"v=DKIM1; k=ed25519; p=h:sa256y*", ED_KEY.public, "p=", "; ", "\\", '"', "\n", "é", "\x1b[31m"]


@given(
    st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(NEARLY)).map(lambda p: "".join(p).encode()))
)
def test_any_octets_have_one_finding_that_can_be_printed(record: bytes) -> None:
    finding = found(record)
    assert finding.level in {"ok", "warning", "error"}
    assert finding.text.isprintable()


TAG_NAMES = st.text("abcXYZ_019", min_size=1, max_size=6).map(lambda name: f"t{name}")


@given(st.dictionaries(TAG_NAMES, st.text("abc:=/+ 1", max_size=9), max_size=8))
def test_tags_come_back_as_they_were_written(tags: dict[str, str]) -> None:
    white = random.Random(len(tags))
    parts = [f"{name}{' ' * white.randint(0, 1)}={value}" for name, value in tags.items()]
    assert read_tags(" ;\t".join(parts)) == {name: value.strip() for name, value in tags.items()}


def test_what_is_quoted_is_short_and_printable() -> None:
    assert quoted("x" * 100) == f'"{"x" * 60}…"'
    assert quoted("a\x1b[31m\r\nb") == '"a [31m b"'
    with pytest.raises(BadRecord):
        text_of(b"\x80")
