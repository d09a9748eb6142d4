"""Keys that sign, in files, and what verifiers make of signatures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import dkim as dkimpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailsender.message.dkim import SigningKey, load_key

RSA = generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = Ed25519PrivateKey.generate()


def pem(private: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key(domain: str, selector: str, private: RSAPrivateKey | Ed25519PrivateKey = ED25519) -> SigningKey:
    return load_key(pem(private), domain=domain, selector=selector)


def both(domain: str) -> tuple[SigningKey, SigningKey]:
    """An RSA key and one of Ed25519, side by side."""
    return key(domain, "rsa", RSA), key(domain, "ed")


def written(directory: Path, *keys: tuple[str, str, RSAPrivateKey | Ed25519PrivateKey]) -> str:
    """Files of keys of these domains and selectors, and what `DKIM_KEYS` says of them."""
    entries = []
    for domain, selector, private in keys:
        path = directory / f"{selector}.{domain}.pem"
        path.write_bytes(pem(private))
        entries.append(f"{domain}:{selector}:{path}")
    return ", ".join(entries)


def signatures(message: bytes) -> list[dict[str, str]]:
    """The tags of each signature, from the top."""
    head = message.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    found = re.findall(r"^DKIM-Signature:([^\r]*(?:\r\n[ \t][^\r]*)*)", head, re.MULTILINE)
    return [dict(_tags(each)) for each in found]


def _tags(signature: str) -> Iterator[tuple[str, str]]:
    for tag in signature.split(";"):
        name, _, value = tag.partition("=")
        yield name.strip(), re.sub(r"\s", "", value)


def verified(message: bytes, keys: Iterable[SigningKey]) -> list[bool]:
    """What dkimpy says of each signature, from the top."""
    records = {f"{each.record_name}.".encode(): each.record.encode() for each in keys}
    return [_verified(message, number, records) for number in range(len(signatures(message)))]


def _verified(message: bytes, number: int, records: Mapping[bytes, bytes]) -> bool:
    try:
        return cast(
            "bool", dkimpy.DKIM(message).verify(idx=number, dnsfunc=lambda name, timeout: records.get(name))
        )
    except dkimpy.ValidationError:
        return False
