"""Whether DNS holds the public half of a signing key (RFC 6376 §3.6.1, RFC 8463 §4)."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Iterator, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailsender.check.findings import Finding
from mailsender.check.txt import BadRecord, quoted, read_tags, text_of
from mailsender.message.dkim import SigningKey


def check_dkim_record(key: SigningKey, records: Sequence[bytes]) -> list[Finding]:
    """What verifiers will make of `key`.

    Args:
        key: signs.
        records: the TXT records of `key.record_name`, the strings of each joined; none if DNS has none.
    """
    part = f"DKIM {key.record_name}"
    publish = f"; publish this TXT record: {key.record}"
    if not records:
        text = f"DNS has no such record, so that nobody can verify what this key signs{publish}"
        return [Finding(part=part, level="error", text=text)]
    if len(records) > 1:
        text = (
            f"DNS has {len(records)} TXT records of this name; verifiers want one alone (RFC 6376 §3.6.2.2)"
        )
        return [Finding(part=part, level="error", text=text + publish)]
    try:
        tags = read_tags(text_of(records[0]))
    except BadRecord as error:
        return [Finding(part=part, level="error", text=f"the record {error}{publish}")]
    fault = next(_faults(key, tags), None)
    if fault:
        return [Finding(part=part, level="error", text=fault + publish)]
    if "y" in _listed(tags.get("t", "")):
        text = "the record says t=y: receivers may take letters for unsigned; take it out when all is well"
        return [Finding(part=part, level="warning", text=text)]
    return [Finding(part=part, level="ok", text=f"DNS has this key, for {key.algorithm}")]


def _faults(key: SigningKey, tags: Mapping[str, str]) -> Iterator[str]:
    """Why no signature of `key` will be verified, the plainest reason first."""
    kind = tags.get("k", "rsa")
    ours = key.algorithm.partition("-")[0]
    if "v" in tags and (next(iter(tags)) != "v" or tags["v"] != "DKIM1"):
        yield f"the record's v= is not first, or is {quoted(tags['v'])} where DKIM1 is the only version"
    if "p" not in tags:
        yield "the record has no p=, the key itself"
    elif not tags["p"]:
        yield "the record's p= is empty, which withdraws the key; sign with another one"
    if kind != ours:
        yield f"the record is for keys of the kind {quoted(kind)}, and this one is {ours}"
    if "sha256" not in _listed(tags.get("h", "sha256")):
        yield f"the record's h= is {quoted(tags['h'])}; what is signed here is a hash by sha256"
    if not {"*", "email"} & _listed(tags.get("s", "*")):
        yield f"the record's s= is {quoted(tags['s'])}; it has to name email or *"
    yield from _other_key(key, tags["p"])


def _other_key(key: SigningKey, published: str) -> Iterator[str]:
    """Why `published` is not the key's public half, if it is not."""
    try:
        octets = b64decode("".join(published.split()), validate=True)
    except Error:
        yield "the record's p= is no base64; a part may have been lost"
        return
    public = key.private.public_key()
    wrapped = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if isinstance(key.private, RSAPrivateKey):
        # RFC 6376 §3.6.1 says PKCS #1, its examples have the other form, and verifiers take both.
        if octets not in {wrapped, key.private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)}:
            yield "the record holds another key than the one that signs"
    elif octets == wrapped:
        yield "the record's p= is an envelope around the key, not its 32 octets alone (RFC 8463 §4.2)"
    elif octets != b64decode(key.public):
        yield "the record holds another key than the one that signs"


def _listed(value: str) -> set[str]:
    return {each.strip() for each in value.split(":")}
