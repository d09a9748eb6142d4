"""Signatures, verified by dkimpy; the RFCs' own examples; bodies and headers of every shape, cut anywhere."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailsender.message import dkim
from mailsender.message.dkim import BadKey, BodyHash, SigningKey, SigningKeys, body_hash, load_key, sign

NOW = datetime.now(UTC)
EMPTY = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="  # RFC 6376 §3.4.4, of an empty body
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = Ed25519PrivateKey.generate()
HEADERS = (
    ("Date", b" Sun, 1 Mar 2026 09:08:07 +0000"),
    ("From", b" News\r\n <news@example.com>"),
    ("To", b" undisclosed-recipients:;"),
    ("Subject", b" Hello"),
    ("Message-ID", b" <1@example.com>"),
    ("MIME-Version", b" 1.0"),
    ("Content-Type", b" text/html; charset=utf-8"),
)
UNSUBSCRIBE = (
    ("List-Unsubscribe", b" <https://example.com/u/1>,\r\n <mailto:u@example.com>"),
    ("List-Unsubscribe-Post", b" List-Unsubscribe=One-Click"),
)
Headers = Sequence[tuple[str, bytes]]


def written(
    key: object, encoding: Encoding = Encoding.PEM, form: PrivateFormat = PrivateFormat.PKCS8
) -> bytes:
    return encrypted(key, encoding, form, NoEncryption())


def encrypted(
    key: object, encoding: Encoding, form: PrivateFormat, encryption: KeySerializationEncryption
) -> bytes:
    octets = key.private_bytes(encoding, form, encryption)  # type: ignore[attr-defined]
    assert isinstance(octets, bytes)
    return octets


RSA_KEY = load_key(written(RSA), domain="example.com", selector="rsa")
ED_KEY = load_key(written(ED25519), domain="example.com", selector="ed")
BOTH = (RSA_KEY, ED_KEY)


def message(headers: Headers, body: bytes, signature: bytes = b"") -> bytes:
    lines = [b"%b:%b\r\n" % (name.encode(), value) for name, value in headers]
    return b"".join([signature, *lines, b"\r\n", body])


def signed(
    headers: Headers = HEADERS, body: bytes = b"<p>Hi</p>\r\n", keys: Sequence[SigningKey] = BOTH
) -> bytes:
    return message(headers, body, sign(keys, headers, body_hash([body]), now=NOW))


def verified(octets: bytes, keys: Sequence[SigningKey] = BOTH) -> list[bool]:
    """What dkimpy says of each signature, from the top."""
    records = {f"{key.record_name}.".encode(): key.record.encode() for key in keys}
    verifier = dkimpy.DKIM(octets)
    count = len(re.findall(rb"^DKIM-Signature:", octets.partition(b"\r\n\r\n")[0], re.MULTILINE))
    return [verifier.verify(idx=i, dnsfunc=lambda name, timeout: records[name]) for i in range(count)]


def tags_of(signature: bytes) -> dict[str, str]:
    """The tags of one header, white space left out."""
    text = re.sub(r"\s", "", signature.decode().partition(":")[2])
    return dict(pair.split("=", 1) for pair in text.split(";"))


def relaxed_by_dkimpy(body: bytes) -> bytes:
    relaxed = dkimpy.canonicalization.Relaxed.canonicalize_body(body)
    assert isinstance(relaxed, bytes)
    return relaxed


# --- the RFCs' examples --------------------------------------------------------------------------


def test_canonicalization_as_in_rfc_6376() -> None:
    assert dkim._relaxed_header("A", b" X\r\n") == b"a:X"
    assert dkim._relaxed_header("B", b" Y\t\r\n\tZ  \r\n") == b"b:Y Z"
    assert body_hash([b" C \r\nD \t E\r\n\r\n\r\n"]) == sha256(b" C\r\nD E\r\n").digest()


FOOTBALL = (
    ("From", b" Joe SixPack <joe@football.example.com>"),
    ("To", b" Suzie Q <suzie@shopping.example.net>"),
    ("Subject", b" Is dinner ready?"),
    ("Date", b" Fri, 11 Jul 2003 21:00:37 -0700 (PDT)"),
    ("Message-ID", b" <20030712040037.46341.5F8J@football.example.com>"),
)
DINNER = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
ED_SEED = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
ED_PUBLIC = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
ED_UNSIGNED = (
    b" v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b="
)
ED_SIGNATURE = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
# DER, not PEM: what looks for secrets in the tree by PEM's first line finds none that is not known to all.
RSA_DER = b64decode("""
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
""")
RSA_UNSIGNED = (
    b" v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
    b" date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b="
)
RSA_SIGNATURE = (
    "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3"
    "DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz"
    "dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8="
)


def football_signed() -> bytes:
    return b"\r\n".join(dkim._relaxed_header(name, value) for name, value in FOOTBALL)


def test_the_hash_of_the_body_in_rfc_8463() -> None:
    assert b64encode(body_hash([DINNER])) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="


def test_the_ed25519_signature_of_rfc_8463() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b64decode(ED_SEED))
    key = load_key(written(private), domain="football.example.com", selector="brisbane")
    assert key.record == f"v=DKIM1; k=ed25519; p={ED_PUBLIC}"
    assert key.record_name == "brisbane._domainkey.football.example.com"
    made = key.signature(dkim._signing_input(football_signed(), ED_UNSIGNED))
    assert b64encode(made).decode() == ED_SIGNATURE


def test_the_rsa_signature_of_rfc_8463() -> None:
    """Its key has 1024 bits, which is no longer allowed; what is signed is the same."""
    private = load_der_private_key(RSA_DER, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    made = private.sign(dkim._signing_input(football_signed(), RSA_UNSIGNED), PKCS1v15(), SHA256())
    assert b64encode(made).decode() == RSA_SIGNATURE
    with pytest.raises(BadKey, match="an RSA key of 1024 bits; 2048 to 4096 are needed"):
        load_key(RSA_DER, domain="football.example.com", selector="test")


# --- signing -------------------------------------------------------------------------------------


def test_each_key_signs() -> None:
    assert verified(signed()) == [True, True]
    assert verified(signed(HEADERS + UNSUBSCRIBE)) == [True, True]
    assert sign((), HEADERS, body_hash([]), now=NOW) == b""


@pytest.mark.parametrize(
    "changed",
    [
        lambda octets: octets.replace(b"<p>Hi</p>", b"<p>Ho</p>"),
        lambda octets: octets.replace(b"Subject: Hello", b"Subject: Hullo"),
        lambda octets: octets.replace(b"\r\n\r\n<p>", b"\r\nSubject: Another\r\n\r\n<p>"),
        lambda octets: octets.replace(b"\r\nDate:", b"\r\nReply-To: evil@example.net\r\nDate:"),
        lambda octets: octets.replace(b"\r\nDate:", b"\r\nCc: evil@example.net\r\nDate:"),
        lambda octets: octets.replace(b"\r\nDate:", b"\r\nContent-Type: text/plain\r\nDate:"),
        lambda octets: octets.replace(b"One-Click", b"Two-Clicks"),
        lambda octets: octets.replace(b"https://example.com/u/1", b"https://example.com/u/2"),
        lambda octets: octets.replace(b"\r\nDate:", b"\r\nList-Unsubscribe: <https://e.net>\r\nDate:"),
        lambda octets: octets.replace(b"\r\nDate:", b"\r\nReferences: <x@e.net>\r\nDate:"),
        lambda octets: octets.replace(b"t=", b"t=1", 1).replace(b"s=ed; t=", b"s=ed; t=1", 1),
    ],
)
def test_no_change_goes_unseen(changed) -> None:  # type: ignore[no-untyped-def]
    octets = signed(HEADERS + UNSUBSCRIBE)
    other = changed(octets)
    assert other != octets
    records = {f"{key.record_name}.".encode(): key.record.encode() for key in BOTH}
    for index in (0, 1):
        try:
            assert not dkimpy.DKIM(other).verify(idx=index, dnsfunc=lambda name, timeout: records[name])
        except dkimpy.ValidationError:
            continue


def test_what_a_relay_may_add_breaks_nothing() -> None:
    added = (
        b"Received: from a by b; Sun, 1 Mar 2026 09:08:08 +0000\r\nX-Spam: no\r\nSender: list@example.org\r\n"
    )
    assert verified(added + signed()) == [True, True]


@pytest.mark.parametrize(
    "added",
    [
        b"List-Unsubscribe: <https://evil.example/>\r\n",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        b"In-Reply-To: <1@evil.example>\r\n",
        b"References: <1@evil.example>\r\n",
        b"Reply-To: <a@evil.example>\r\n",
        b"Cc: <a@evil.example>\r\n",
    ],
)
def test_what_a_message_does_not_have_nobody_can_add(added: bytes) -> None:
    octets = signed()
    assert b"\r\n%b:" % added.partition(b":")[0] not in octets
    records = {f"{key.record_name}.".encode(): key.record.encode() for key in BOTH}
    for index in (0, 1):
        checked = dkimpy.DKIM(added + octets).verify(idx=index, dnsfunc=lambda name, timeout: records[name])
        assert not checked


def test_each_header_is_covered_once_more_than_it_stands_there() -> None:
    twice = (*HEADERS, *UNSUBSCRIBE, ("subject", b" Again"))
    tags = tags_of(sign([ED_KEY], twice, body_hash([]), now=NOW))
    counts = {name: tags["h"].split(":").count(name) for name in set(tags["h"].split(":"))}
    assert counts == {
        "From": 2,
        "Reply-To": 1,
        "To": 2,
        "Cc": 1,
        "Subject": 3,
        "Date": 2,
        "Message-ID": 2,
        "In-Reply-To": 1,
        "References": 1,
        "MIME-Version": 2,
        "Content-Type": 2,
        "List-Unsubscribe": 2,
        "List-Unsubscribe-Post": 2,
    }
    assert verified(signed(twice)) == [True, True]


def test_the_tags() -> None:
    signature = sign([ED_KEY], HEADERS, body_hash([]), now=NOW)
    tags = tags_of(signature)
    assert list(tags) == ["v", "a", "c", "d", "s", "t", "h", "bh", "b"]
    assert (tags["v"], tags["a"], tags["c"]) == ("1", "ed25519-sha256", "relaxed/relaxed")
    assert (tags["d"], tags["s"], tags["t"]) == ("example.com", "ed", str(int(NOW.timestamp())))
    assert tags["bh"] == EMPTY


def test_a_lifetime_is_written_and_kept() -> None:
    signature = sign(BOTH, HEADERS, body_hash([]), now=NOW, lifetime=timedelta(days=7))
    assert int(tags_of(signature.split(b"DKIM-")[1])["x"]) == int(NOW.timestamp()) + 604_800
    assert verified(message(HEADERS, b"", signature)) == [True, True]
    past = sign(BOTH, HEADERS, body_hash([]), now=NOW - timedelta(days=8), lifetime=timedelta(days=7))
    with pytest.raises(dkimpy.ValidationError, match="x= value is past"):
        verified(message(HEADERS, b"", past))
    with pytest.raises(ValueError, match="a second at least"):
        sign(BOTH, HEADERS, body_hash([]), now=NOW, lifetime=timedelta(0))


def test_headers_that_a_relay_writes_anew_are_left_out() -> None:
    signature = sign([RSA_KEY], HEADERS, body_hash([]), now=NOW, leave_out={"date", "message-id"})
    assert not {"Date", "Message-ID"} & set(tags_of(signature)["h"].split(":"))
    anew = [(name, b" anew" if name in {"Date", "Message-ID"} else value) for name, value in HEADERS]
    assert verified(message(anew, b"", signature)) == [True]


def test_from_is_always_signed() -> None:
    with pytest.raises(ValueError, match="From"):
        sign(BOTH, HEADERS[2:], body_hash([]), now=NOW)
    with pytest.raises(ValueError, match="From"):
        sign(BOTH, HEADERS, body_hash([]), now=NOW, leave_out={"from"})


def test_lines_are_short_and_end_with_crlf() -> None:
    signature = sign(BOTH, HEADERS + UNSUBSCRIBE, body_hash([]), now=NOW, lifetime=timedelta(days=7))
    assert signature.endswith(b"\r\n")
    assert b"\n" not in signature.replace(b"\r\n", b"")
    lines = signature.split(b"\r\n")[:-1]
    assert max(map(len, lines)) <= 78  # RFC 5322 §2.1.1
    assert all(line.startswith((b" ", b"DKIM-Signature:")) for line in lines)
    assert not any(b" " in line.strip() and not line.strip() for line in lines)


def test_the_longest_names_still_fit_a_line() -> None:
    domain = ".".join(["d" * 60] * 3)
    key = load_key(written(ED25519), domain=domain, selector="s" * 57)
    assert len(key.record_name) == 251
    signature = sign([key], HEADERS, body_hash([]), now=NOW)
    assert max(map(len, signature.split(b"\r\n"))) <= 998
    assert verified(message(HEADERS, b"", signature), [key]) == [True]


VALUE_PARTS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=20).map(lambda octets: re.sub(rb"[\x00-\x20\x7f]", b"x", octets)),
        st.sampled_from([b" ", b"  ", b"\t", b" \t ", b"\r\n ", b" \r\n\t", b";", b":", b"=", b"b="]),
        st.sampled_from(["Почта".encode(), b"x" * 200, b"=?utf-8?B?0J/QvtGH0YLQsA==?="]),
    ),
    max_size=12,
).map(b"".join)
# A line of white space alone is no fold (RFC 5322 §3.2.2), and ends the headers to some readers.
VALUES = VALUE_PARTS.filter(lambda value: all(line.strip() for line in value.split(b"\r\n")[1:]))
NAMES = st.sampled_from(["Subject", "SUBJECT", "To", "Cc", "Reply-To", "X-Other", "List-Unsubscribe"])
WHITE = (b" ", b"\t", b"  ", b"\r\n", b"\r\n\r\n", b" \r\n", b"\t\r\n ")
BODY_PARTS = st.one_of(st.sampled_from([*WHITE, b"a", b"b.", b".", b"x" * 80]), st.binary(max_size=6))
# Bare CR and LF are no part of a message; a reader may take them for line ends. Its last line is ended.
BODIES = st.lists(BODY_PARTS, max_size=20).map(
    lambda parts: re.sub(rb"\r(?!\n)|(?<!\r)\n", b"?", b"".join(parts)) + b"\r\n" * bool(parts)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), BODIES)
@example([("Subject", b" ")], b"")
@example([("Subject", b"")], b" \r\n")
def test_any_headers_and_body_verify(headers: list[tuple[str, bytes]], body: bytes) -> None:
    octets = signed([("From", b" a@example.com"), *headers], body, [ED_KEY])
    assert verified(octets, [ED_KEY]) == [True]


# --- the body ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "relaxed"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n\r\n", b""),
        (b" \t\r\n \r\n", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a\r\n\r\n\r\n", b"a\r\n"),
        (b"a \t\r\n\t\r\n", b"a\r\n"),
        (b"\r\n\r\na\r\n", b"\r\n\r\na\r\n"),
        (b" a\r\n", b" a\r\n"),
        (b"\t a \t b\r\n", b" a b\r\n"),
        (b"a\r\n \r\n b\r\n", b"a\r\n\r\n b\r\n"),
        ("Привет  мир\xa0 \r\n".encode(), "Привет мир\xa0\r\n".encode()),
        (b"\xff\xfe  \x00\r\n", b"\xff\xfe \x00\r\n"),
        (b"a\x0b \x0c\r\n", b"a\x0b \x0c\r\n"),  # these two are no white space to DKIM
        (b"x" * 100 + b" " * 200 + b"\r\n" * 200, b"x" * 100 + b"\r\n"),
        (b" " * 200 + b"x", b" x\r\n"),
    ],
)
def test_the_relaxed_body(body: bytes, relaxed: bytes) -> None:
    assert body_hash([body]) == sha256(relaxed).digest()
    assert body_hash(body[i : i + 1] for i in range(len(body))) == sha256(relaxed).digest()


@given(BODIES, st.lists(st.integers(0, 400), max_size=6))
def test_pieces_hash_as_the_whole(body: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(places)]
    assert b"".join(pieces) == body
    assert body_hash(pieces) == sha256(relaxed_by_dkimpy(body)).digest()


def test_the_hash_so_far_can_be_read_and_more_taken() -> None:
    hashing = BodyHash()
    hashing.update(b"a \r\n")
    assert hashing.digest() == hashing.digest() == sha256(b"a\r\n").digest()
    hashing.update(b"\r\nb")
    assert hashing.digest() == sha256(b"a\r\n\r\nb\r\n").digest()


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_every_common_form_of_a_key_is_read(encoding: Encoding, form: PrivateFormat) -> None:
    assert load_key(written(RSA, encoding, form), domain="example.com", selector="rsa") == RSA_KEY
    if form == PrivateFormat.PKCS8:
        assert load_key(written(ED25519, encoding, form), domain="example.com", selector="ed") == ED_KEY


def test_names_are_lower_case_and_a_labels() -> None:
    key = load_key(written(ED25519), domain="Почта.Example.COM", selector="S1.Mail")
    assert key.record_name == "s1.mail._domainkey.xn--80a1acny.example.com"


PASSWORD = BestAvailableEncryption(b"secret")
PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
NO_KEY = "it is no private key in PEM or DER"
UNFIT: Mapping[str, tuple[bytes, str]] = {
    "encrypted": (encrypted(RSA, Encoding.PEM, PrivateFormat.PKCS8, PASSWORD), "it is encrypted; write it"),
    "encrypted of old": (
        encrypted(RSA, Encoding.PEM, PrivateFormat.TraditionalOpenSSL, PASSWORD),
        "it is encrypted; write it",
    ),
    "encrypted DER": (encrypted(RSA, Encoding.DER, PrivateFormat.PKCS8, PASSWORD), "it is encrypted"),
    "public": (PUBLIC, "it is a public key or a certificate"),
    "public DER": (b64decode(RSA_KEY.public), NO_KEY),
    "elliptic": (written(ec.generate_private_key(ec.SECP256R1())), "it is of another kind"),
    "Ed448": (written(ed448.Ed448PrivateKey.generate()), "it is of another kind"),
    "DSA": (written(dsa.generate_private_key(1024)), "it is of another kind"),
    "OpenSSH": (written(ED25519, form=PrivateFormat.OpenSSH), NO_KEY),
    "cut off": (written(RSA)[:900], NO_KEY),
    "damaged": (written(RSA).replace(b"\n", b"\nA"), NO_KEY),
    "base64 alone": (ED_SEED.encode(), NO_KEY),
    "empty": (b"", NO_KEY),
    "text": (b"hello", NO_KEY),
    "long": (written(RSA) * 20, "it has over 16384 octets"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_sign_is_refused(case: str) -> None:
    data, reason = UNFIT[case]
    with pytest.raises(BadKey, match=reason) as refused:
        load_key(data, domain="example.com", selector="s")
    # Nothing of the key, not even behind it: causes are printed, too.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert len(str(refused.value)) < 100


# None of an RSA key: to look at one takes a seventh of a second.
KEY_FILES = [UNFIT["encrypted"][0], written(ED25519), written(ED25519, Encoding.DER)]


@settings(deadline=None)
@given(st.sampled_from(KEY_FILES), st.integers(0, 2000), st.binary(max_size=3))
def test_a_damaged_file_is_a_key_or_refused(data: bytes, place: int, other: bytes) -> None:
    place %= len(data)
    with suppress(BadKey):
        load_key(data[:place] + other + data[place + len(other) :], domain="example.com", selector="s")


def test_neither_repr_nor_comparison_knows_the_private_key() -> None:
    assert "private" not in repr(RSA_KEY)
    assert load_key(written(RSA), domain="example.com", selector="rsa") == RSA_KEY
    assert load_key(written(RSA), domain="example.com", selector="other") != RSA_KEY


@pytest.mark.parametrize(
    ("domain", "selector", "reason"),
    [
        ("", "s", "nothing stands after the @"),
        ("example.com.", "s", "ends with a dot"),
        ("exa mple.com", "s", "holds a space"),
        ("a;b", "s", "domain is not a valid name|not a list"),
        ("example.com", "", "selector is not a valid name"),
        ("example.com", "a b", "selector is not a valid name"),
        ("example.com", "a;x=1", "selector is not a valid name"),
        ("example.com", "a..b", "selector is not a valid name"),
        ("example.com", "-a", "selector is not a valid name"),
        ("example.com", "a\n", "selector is not a valid name"),
        ("example.com", "ключ", "selector is not a valid name"),
        (".".join(["d" * 60] * 3), "s" * 60, "over 253 characters"),
    ],
)
def test_names_that_are_none(domain: str, selector: str, reason: str) -> None:
    with pytest.raises(BadKey, match=reason):
        load_key(written(ED25519), domain=domain, selector=selector)


def test_the_keys_of_the_very_domain_sign_else_those_of_the_nearest_above() -> None:
    news = load_key(written(ED25519), domain="news.example.com", selector="n")
    keys = SigningKeys([ED_KEY, news, RSA_KEY])
    assert keys.for_sender("example.com") == (ED_KEY, RSA_KEY)
    assert keys.for_sender("news.example.com") == (news,)
    assert keys.for_sender("a.news.example.com") == (news,)
    assert keys.for_sender("shop.example.com") == (ED_KEY, RSA_KEY)
    for stranger in ("com", "example.net", "notexample.com", "com.example", ""):
        assert keys.for_sender(stranger) == ()


def test_no_domain_signs_for_those_above_it_or_beside() -> None:
    keys = SigningKeys([load_key(written(ED25519), domain="shop.example.com", selector="n")])
    assert keys.for_sender("example.com") == keys.for_sender("news.example.com") == ()


def test_two_keys_of_one_name_are_refused() -> None:
    with pytest.raises(BadKey, match=r"two keys are called ed\._domainkey\.example\.com"):
        SigningKeys(
            [ED_KEY, load_key(written(Ed25519PrivateKey.generate()), domain="example.com", selector="ED")]
        )
