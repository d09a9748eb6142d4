"""Names and hashes under the service's secret. Pure.

A code of six digits has 20 bits. Whoever has its hash finds it by trying all million of them: with SHA-256 in
a second, and with scrypt, at 0.1 s each, in a day on one core and in minutes on many; and each check would
cost the service those 0.1 s. So what is stored is an HMAC-SHA256 under a key that is not in the database.
Without the key the database tells nothing, however long somebody tries; with both no function could help, and
what protects a code then is that it holds for minutes.

Addresses and callers are kept in the same way, as they are as easily guessed.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import sha256

from mailsender.model.address import Address

HANDLE_BYTES = 16
"""Bytes of the ID under which a code is checked: nobody guesses 128 bits."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What is made of names and codes under `secret`."""

    secret: bytes = field(repr=False)

    def handle(self, key: str, purpose: str, address: Address) -> str:
        """The ID of the code that is asked for under an idempotency key: the same each time."""
        return self._mac("handle", key, purpose, exact(address))[:HANDLE_BYTES].hex()

    def name(self, handle: str, purpose: str, address: Address) -> bytes:
        """The name of a code. Nobody finds it who does not know all three."""
        return self._mac("name", handle, purpose, exact(address))

    def hash(self, name: bytes, code: str) -> bytes:
        """The hash of a code, of no use under another name."""
        return self._mac("code", name.hex(), code)

    def address(self, address: Address) -> bytes:
        """The name under which codes for an address are counted."""
        return self._mac("address", folded(address))

    def caller(self, caller: str) -> bytes:
        """The name under which a caller's codes are counted."""
        return self._mac("caller", caller)

    def _mac(self, what: str, *parts: str) -> bytes:
        """The HMAC of `parts`, each with its length, so that none can be taken for another."""
        mac = hmac.new(self.secret, digestmod=sha256)
        for part in (what, *parts):
            raw = part.encode("utf-8", "surrogatepass")
            mac.update(len(raw).to_bytes(8, "big") + raw)
        return mac.digest()


def exact(address: Address) -> str:
    """An address as it counts for a code: its domain in lower case and A-labels, its local part as it is.

    What two spellings of a local part mean only their host knows (RFC 5321 §2.4). Were Ann@ and ann@ taken
    for one, a code that went to one mailbox would confirm another.
    """
    return f"{address.local}@{address.domain}"


def folded(address: Address) -> str:
    """An address as it counts for a limit: without regard to case, nor to what stands behind a plus sign.

    Nearly all hosts put such spellings into one mailbox, which could else be filled by way of them. Where
    they are mailboxes of several people, those share one limit.
    """
    return f"{address.local.partition('+')[0].casefold()}@{address.domain}"
