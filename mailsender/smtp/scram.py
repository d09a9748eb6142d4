"""SCRAM-SHA-256 (RFC 5802, RFC 7677) as a client: the password is proved and never told. Pure.

Channel binding (-PLUS) is left out: few relays offer it, and TLS with a verified name does what it is for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

MECHANISM: Final = "SCRAM-SHA-256"

FEWEST, MOST = 4096, 1_000_000
"""Rounds of hashing that a relay may ask for. With fewer the password is guessed too easily from what is
overheard (RFC 7677 §4); a million takes a third of a second, and a relay shall not keep a processor busy."""

_HEADER: Final = "n,,"  # no channel binding, nobody else's name (RFC 5802 §7)


class BadServer(Exception):  # noqa: N818  it is about the other side
    """What the relay said is not of SCRAM, or does not prove that it knows the password."""


def fits(user: str, password: str) -> bool:
    """Whether it can be used with them.

    Text beyond ASCII would have to be prepared by SASLprep; without, it may not be used (RFC 5802 §2.2).
    """
    return all(text.isascii() and text.isprintable() for text in (user, password))


class Scram:
    """One exchange. `nonce` is printable ASCII without commas, new and not to be guessed for each."""

    def __init__(self, user: str, password: str, nonce: str) -> None:
        self._password = password
        self._nonce = nonce
        name = user.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={nonce}"
        self._signature = b""

    def first(self) -> bytes:
        """What is said first."""
        return f"{_HEADER}{self._bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        """What is said to the relay's challenge: the proof. It takes a while, by the rounds asked for.

        Raises:
            BadServer: it is no challenge, not one for us, or one that asks for too few or too many rounds.
        """
        said = _fields(challenge)
        nonce, salt, rounds = said.get("r", ""), _octets(said.get("s", "")), said.get("i", "")
        if "m" in said or not salt or not (nonce.startswith(self._nonce) and nonce != self._nonce):
            raise BadServer("its challenge is not of SCRAM")
        if not (rounds.isascii() and rounds.isdigit() and len(rounds) < 8 and FEWEST <= int(rounds) <= MOST):
            raise BadServer(f"it asks for {rounds[:20] or 'no'} rounds, and {FEWEST} to {MOST} are done")
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), salt, int(rounds))
        client_key = _hmac(salted, b"Client Key")
        without_proof = f"c={_coded(_HEADER.encode())},r={nonce}"
        exchanged = b",".join((self._bare.encode(), challenge, without_proof.encode()))
        signature = _hmac(hashlib.sha256(client_key).digest(), exchanged)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._signature = _hmac(_hmac(salted, b"Server Key"), exchanged)
        return f"{without_proof},p={_coded(proof)}".encode()

    def proves(self, outcome: bytes) -> bool:
        """Whether what the relay said at last shows that it knows the password; else it says why not."""
        try:
            told = _octets(_fields(outcome).get("v", ""))
        except BadServer:
            return False
        return bool(self._signature) and hmac.compare_digest(told, self._signature)


def _fields(message: bytes) -> dict[str, str]:
    try:
        parts = message.decode().split(",")
    except UnicodeDecodeError:
        raise BadServer("what it says is no text") from None
    return {name: value for name, equals, value in (part.partition("=") for part in parts) if equals}


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadServer("what it says is not base64") from None


def _coded(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
