"""The other side of logins: what a relay does with SCRAM-SHA-256 (RFC 7677) and with tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets

REFUSED = json.dumps({"status": "401", "schemes": "bearer", "scope": "https://mail.example.test/"})
"""What is said of a token that does not count (RFC 7628 §3.2.2, and Google's)."""


class ScramServer:
    """One exchange with a client that should know `password`."""

    def __init__(self, user: str, password: str, *, rounds: int = 4096) -> None:
        self._user = user
        self._salt = secrets.token_bytes(12)
        self._rounds = rounds
        self._salted = hashlib.pbkdf2_hmac("sha256", password.encode(), self._salt, rounds)
        self._exchanged: list[str] = []
        self._nonce = ""

    def challenge(self, first: str) -> str:
        """What is said to the client's first message; ValueError where that is none."""
        header, _, bare = first.partition(",,")
        fields = dict(part.split("=", 1) for part in bare.split(","))
        if header not in {"n", "y"} or set(fields) != {"n", "r"}:
            raise ValueError(first)
        self._nonce = fields["r"] + secrets.token_hex(8)
        self._known = fields["n"].replace("=2C", ",").replace("=3D", "=") == self._user
        salt = base64.b64encode(self._salt).decode()
        said = f"r={self._nonce},s={salt},i={self._rounds}"
        self._exchanged = [bare, said]
        return said

    def outcome(self, final: str) -> str | None:
        """What is said to the client's proof; None where it proves nothing."""
        without, _, proof = final.rpartition(",p=")
        exchanged = ",".join([*self._exchanged, without]).encode()
        stored = hashlib.sha256(hmac.digest(self._salted, b"Client Key", "sha256")).digest()
        signature = hmac.digest(stored, exchanged, "sha256")
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if not self._known or hashlib.sha256(key).digest() != stored or f"r={self._nonce}" not in without:
            return None
        server_key = hmac.digest(self._salted, b"Server Key", "sha256")
        return f"v={base64.b64encode(hmac.digest(server_key, exchanged, 'sha256')).decode()}"


def bearer(mechanism: str, said: str) -> tuple[str, str]:
    """User and token as XOAUTH2 and OAUTHBEARER tell them; ValueError where that is not so."""
    parts = said.split("\x01")
    if mechanism == "XOAUTH2":
        user, auth, *rest = parts
        if not user.startswith("user=") or rest != ["", ""]:
            raise ValueError(said)
        return user.removeprefix("user="), auth.removeprefix("auth=Bearer ")
    header, *fields, before, last = parts
    told = dict(field.split("=", 1) for field in fields)
    if not header.startswith("n,a=") or not header.endswith(",") or before or last or "host" not in told:
        raise ValueError(said)
    user = header[4:-1].replace("=2C", ",").replace("=3D", "=")
    return user, told["auth"].removeprefix("Bearer ")
