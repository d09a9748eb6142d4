"""DKIM signatures: RSA (RFC 6376) and Ed25519 (RFC 8463), relaxed/relaxed, always over the whole body.

A message is signed as it goes onto the wire, before dots are stuffed: `BodyHash` takes the body piece by
piece, and `sign` makes a header for each key from that hash and the message's headers. It stands before them.

A relay that writes a signed header anew breaks the signature. So does one that encodes the body anew, which
may happen to 8-bit lines: a message that is to be signed has none (RFC 6376 §5.3).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, Literal, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from mailsender.model.address import BadAddress, parse_address

Algorithm: TypeAlias = Literal["rsa-sha256", "ed25519-sha256"]

RSA_BITS: Final = (2048, 4096)
"""The smallest and the largest RSA key: signers should use 2048 bits at least, and no verifier has to take
more than 4096 (RFC 8301 §3.2)."""

MAX_KEY_FILE: Final = 16_384
"""Octets of the longest key that is looked at; an RSA key of 4096 bits takes 3,300 in PEM."""

MAX_NAME: Final = 253
"""Characters of the longest name in DNS (RFC 1035 §2.3.4)."""

_COVERED: Final = {
    "From": True,
    "Sender": False,
    "Reply-To": True,
    "To": True,
    "Cc": True,
    "Subject": True,
    "Date": False,
    "Message-ID": False,
    "In-Reply-To": True,
    "References": True,
    "MIME-Version": False,
    "Content-Type": False,
    "Content-Transfer-Encoding": False,
    "List-Unsubscribe": True,
    "List-Unsubscribe-Post": True,
}
"""The headers that are signed: each once more than it stands in the message, so that nobody can add another
(RFC 6376 §5.4.2, §8.15). True: also where it does not stand there. Of the others all but Sender, which a list
may have reasons to add, stand in every message. List-Unsubscribe and its Post have to be signed (RFC 8058
§4); where there are none, one that a stranger adds would be a button of the sender's."""

_SELECTOR = re.compile(r"\w(?:[\w-]{0,61}\w)?(?:\.\w(?:[\w-]{0,61}\w)?)*", re.ASCII)
_PUBLIC = re.compile(rb"-----BEGIN (?:[A-Z]+ )?(?:PUBLIC KEY|CERTIFICATE)-----")
_WHITE = b" \t\r\n"
_WHITE_RUN = re.compile(rb"[ \t\r\n]+")
_SPACES = re.compile(rb"  +")
_LINE = 76  # characters of a header's line; 78 is what RFC 5322 §2.1.1 asks for
_EDGE = 64  # octets of a piece in which its first or last text nearly always stands


class BadKey(ValueError):  # noqa: N818  reads better where it is caught
    """A key cannot sign; the message says why, and holds nothing of the key."""


# --- keys ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key, and where its public half stands in DNS.

    `domain` (d=) and `selector` (s=) are in lower case and A-labels. `public` is the public key as p= of its
    record has it.
    """

    domain: str
    selector: str
    algorithm: Algorithm
    public: str
    private: RSAPrivateKey | Ed25519PrivateKey = field(repr=False, compare=False)

    @property
    def record_name(self) -> str:
        """The name of its record in DNS."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """The text of its record in DNS (RFC 6376 §3.6.1), to be published."""
        return f"v=DKIM1; k={self.algorithm.partition('-')[0]}; p={self.public}"

    def signature(self, data: bytes) -> bytes:
        """The signature of `data`. Takes 0.7 ms with RSA of 2048 bits, and 0.05 ms with Ed25519."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(data, PKCS1v15(), SHA256())
        return self.private.sign(sha256(data).digest())  # the hash is what is signed (RFC 8463 §3)


def load_key(data: bytes, *, domain: str, selector: str) -> SigningKey:
    """The key in `data`: PEM or DER, PKCS #8 or PKCS #1, without a password.

    Args:
        data: the octets of a key's file.
        domain: the domain that signs.
        selector: which of the domain's keys it is.

    Raises:
        BadKey: `data` is no such key, its size or kind does not do, or a name is none.
    """
    try:
        domain = parse_address(f"dkim@{domain}").domain
    except BadAddress as error:
        raise BadKey(str(error)) from None
    if not _SELECTOR.fullmatch(selector):
        raise BadKey("its selector is not a valid name: letters, digits and hyphens, in parts between dots")
    private = _private_key(data)
    if isinstance(private, RSAPrivateKey):
        public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        public = private.public_key().public_bytes_raw()
    key = SigningKey(
        domain=domain,
        selector=selector.lower(),
        algorithm="rsa-sha256" if isinstance(private, RSAPrivateKey) else "ed25519-sha256",
        public=b64encode(public).decode(),
        private=private,
    )
    if len(key.record_name) > MAX_NAME:
        raise BadKey(f"the name of its record, selector and domain together, has over {MAX_NAME} characters")
    return key


def _private_key(data: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    if len(data) > MAX_KEY_FILE:
        raise BadKey(f"it is no private key: it has over {MAX_KEY_FILE} octets")
    if b"PRIVATE KEY" not in data and _PUBLIC.search(data):
        raise BadKey("it is a public key or a certificate; the private key is needed")
    try:
        if b"-----BEGIN" in data:
            private = load_pem_private_key(data, password=None)
        else:
            private = load_der_private_key(data, password=None)
    except TypeError:  # the library's word for a password that is missing
        raise BadKey(
            "it is encrypted; write it without its password: openssl pkey -in OLD -out NEW"
        ) from None
    except UnsupportedAlgorithm:
        raise BadKey("it is of another kind; DKIM takes RSA and Ed25519") from None
    except ValueError:
        raise BadKey("it is no private key in PEM or DER (PKCS #8 or PKCS #1), or a damaged one") from None
    if isinstance(private, RSAPrivateKey):
        least, most = RSA_BITS
        if not least <= private.key_size <= most:
            raise BadKey(f"it is an RSA key of {private.key_size} bits; {least} to {most} are needed")
        return private
    if isinstance(private, Ed25519PrivateKey):
        return private
    raise BadKey("it is of another kind; DKIM takes RSA and Ed25519")


class SigningKeys:
    """All keys, found by the domain of a letter's sender.

    Those of the very domain sign, all of them side by side, in the order in which they were given; where it
    has none, those of the nearest domain above it. Such a signature is aligned in DMARC's relaxed mode, which
    is the default: both have one organizational domain (RFC 9989 §4.4), unless a public suffix lies between.
    Keys of domains below or beside are never taken, though relaxed alignment would have them, too: a key that
    was made for ``shop.example.com`` must not speak for ``example.com``.

    Raises:
        BadKey: two keys have the same domain and selector.
    """

    __slots__ = ("_by_domain",)

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        self._by_domain: dict[str, tuple[SigningKey, ...]] = {}
        names: set[str] = set()
        for key in keys:
            if key.record_name in names:
                raise BadKey(f"two keys are called {key.record_name}; each needs a selector of its own")
            names.add(key.record_name)
            self._by_domain[key.domain] = (*self._by_domain.get(key.domain, ()), key)

    def __iter__(self) -> Iterator[SigningKey]:
        for keys in self._by_domain.values():
            yield from keys

    def for_sender(self, domain: str) -> tuple[SigningKey, ...]:
        """The keys that sign for a sender of `domain` (A-labels, lower case); none where there are none."""
        while domain and domain not in self._by_domain:
            domain = domain.partition(".")[2]
        return self._by_domain.get(domain, ())


# --- the body ------------------------------------------------------------------------------------


class BodyHash:
    """SHA-256 of a body in its relaxed form (RFC 6376 §3.4.4), taken piece by piece.

    Pieces may be cut anywhere; line ends are CRLF. One without spaces, as of base64, is not copied. What a
    piece adds depends on all before it, so the hash of a file is of no use for the next message.
    """

    __slots__ = ("_gap", "_hash", "_text")

    def __init__(self) -> None:
        self._hash = sha256()
        self._gap: list[bytes] = []  # white space since the last text: it counts once other text follows
        self._text = False

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        start, end = _text_within(piece)
        if start == end:
            if piece:
                self._gap.append(piece)
            return
        self._hash.update(_relaxed_lines(b"".join((*self._gap, piece[:start]))))
        text = memoryview(piece)[start:end]
        if b" " in piece or b"\t" in piece:
            self._hash.update(_relaxed_lines(bytes(text)))
        else:
            self._hash.update(text)
        self._text = True
        self._gap = [piece[end:]]

    def digest(self) -> bytes:
        """The hash of all pieces so far, if they are the whole body."""
        whole = self._hash.copy()
        if self._text:
            whole.update(b"\r\n")  # the last line's end; empty lines behind it do not count
        return whole.digest()


def body_hash(pieces: Iterable[bytes]) -> bytes:
    """The hash of the body that `pieces` make up, by `BodyHash`."""
    taken = BodyHash()
    for piece in pieces:
        taken.update(piece)
    return taken.digest()


def _text_within(piece: bytes) -> tuple[int, int]:
    """Where the text of `piece` begins and ends, without white space around it; equal if there is none."""
    start = _white_before(piece[:_EDGE])
    if start == _EDGE:
        start = _white_before(piece)
    if start == len(piece):
        return start, start
    edge = piece[-_EDGE:]
    white = len(edge) - len(edge.rstrip(_WHITE))
    if white == _EDGE:
        white = len(piece) - len(piece.rstrip(_WHITE))
    return start, len(piece) - white


def _white_before(octets: bytes) -> int:
    return len(octets) - len(octets.lstrip(_WHITE))


def _relaxed_lines(octets: bytes) -> bytes:
    """`octets` with one space for each run of white space within a line, and none at a line's end."""
    octets = octets.replace(b"\t", b" ")
    if b"  " in octets:
        octets = _SPACES.sub(b" ", octets)
    return octets.replace(b" \r\n", b"\r\n")


# --- signatures ----------------------------------------------------------------------------------


def sign(
    keys: Sequence[SigningKey],
    headers: Sequence[tuple[str, bytes]],
    body: bytes,
    *,
    now: datetime,
    lifetime: timedelta | None = None,
    leave_out: Collection[str] = (),
) -> bytes:
    """The ``DKIM-Signature`` headers of a message, one for each of `keys`, folded, each with its CRLF.

    Args:
        keys: whose signatures are wanted; none of them, no header. SES refuses a message with two.
        headers: name and value of each of the message's headers, from its top; values as they are written,
            with their folds, and with or without the space before and the CRLF after.
        body: the hash of the body, by `BodyHash`.
        now: the time of signing, aware.
        lifetime: how long the signature counts; for ever, if None. A relay may try for five days (RFC 5321
            §4.5.4.1), and only after that it is verified.
        leave_out: names, in lower case, of headers that are not signed because the relay writes them anew, as
            SES does with Date and Message-ID.

    Raises:
        ValueError: there is no From, it is left out, or `lifetime` is shorter than a second.
    """
    values: dict[str, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)
    if "from" not in values or "from" in leave_out:
        raise ValueError("a signature has to cover From (RFC 6376 §5.4)")
    if lifetime is not None and lifetime < timedelta(seconds=1):
        raise ValueError("a signature's lifetime is a second at least")
    names: list[str] = []
    lines: list[bytes] = []
    for name, always in _COVERED.items():
        present = values.get(name.lower(), [])
        if name.lower() in leave_out or not (present or always):
            continue
        names += [name] * (len(present) + 1)
        lines += [_relaxed_header(name, value) for value in reversed(present)]  # from the bottom (§5.4.2)
    signed = b"\r\n".join(lines)
    since = int(now.timestamp())
    times = f"t={since};" if lifetime is None else f"t={since}; x={since + int(lifetime.total_seconds())};"
    covered = f"{_folded_names(names)};\r\n bh={b64encode(body).decode()};"
    return b"".join(
        _signature_header(key, signed, f"d={key.domain};\r\n s={key.selector}; {times}\r\n {covered}")
        for key in keys
    )


def _signature_header(key: SigningKey, signed: bytes, tags: str) -> bytes:
    unsigned = f" v=1; a={key.algorithm}; c=relaxed/relaxed;\r\n {tags}\r\n b=".encode()
    signature = b64encode(key.signature(_signing_input(signed, unsigned)))
    folded = b"\r\n ".join(signature[i : i + _LINE - 4] for i in range(0, len(signature), _LINE - 4))
    return b"DKIM-Signature:%b%b\r\n" % (unsigned, folded)


def _signing_input(signed: bytes, unsigned: bytes) -> bytes:
    """What is hashed and signed (RFC 6376 §3.7).

    `signed` is the relaxed form of the signed headers, the last one without its CRLF; `unsigned` is the value
    of the ``DKIM-Signature`` with nothing behind its ``b=``.
    """
    return b"%b\r\n%b" % (signed, _relaxed_header("DKIM-Signature", unsigned))


def _relaxed_header(name: str, value: bytes) -> bytes:
    """The relaxed form of a header, without its CRLF (RFC 6376 §3.4.2)."""
    return b"%b:%b" % (name.lower().encode(), _WHITE_RUN.sub(b" ", value).strip(b" "))


def _folded_names(names: Sequence[str]) -> str:
    """The tag h=, its lines as long as a header's should be (RFC 5322 §2.1.1)."""
    lines = ["h=" + names[0]]
    for name in names[1:]:
        lines[-1] += ":"
        if len(lines[-1]) + len(name) + len(": ") > _LINE:
            lines.append("")
        lines[-1] += name
    return "\r\n ".join(lines)
