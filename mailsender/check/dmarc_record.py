"""What a domain's DMARC record says, and whether letters are aligned with it (RFC 9989, once RFC 7489)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast
from urllib.parse import unquote

from mailsender.check.findings import Finding
from mailsender.check.txt import BadRecord, quoted, read_tags, text_of
from mailsender.model.address import BadAddress, parse_address

Policy: TypeAlias = Literal["none", "quarantine", "reject"]

_POLICIES: Final = ("none", "quarantine", "reject")
_VERSION = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|$)")
_SIZE = re.compile(r"![0-9]+[kmgt]?$", re.IGNORECASE)
_WALK = 8  # names that a receiver asks for at most (§4.10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmarc:
    """A record that was read, defaults filled in.

    `policy` is p=, and `subdomains` what counts for domains below. `psd` is y for a public suffix, n for an
    organization's own domain, u where that is not said. `reports` are the addresses of rua=. `remarks` are
    sentences about what receivers will not understand as it was meant.
    """

    policy: Policy
    subdomains: Policy
    strict_dkim: bool
    strict_spf: bool
    psd: str
    reports: tuple[str, ...]
    remarks: tuple[str, ...]


def dmarc_domains(domain: str) -> tuple[str, ...]:
    """The domains whose records say something about `domain`, itself first: its walk up the tree (§4.10).

    The record of each is the TXT record of its name behind ``_dmarc.``.
    """
    labels = domain.split(".")
    above = labels[1:] if len(labels) < _WALK else labels[1 - _WALK :]
    return (domain, *(".".join(above[i:]) for i in range(len(above))))


def read_dmarc(records: Sequence[bytes]) -> Dmarc | None:
    """The record among the TXT records of a name; None if there is none.

    Raises:
        BadRecord: there are several, or receivers ignore it; the message is the rest of a sentence.
    """
    texts = [text_of(record) for record in records if b"dmarc1" in record[:80].lower()]
    ours = [text for text in texts if _VERSION.match(text)]
    if len(ours) > 1:
        raise BadRecord("is there more than once, and receivers take none of them (RFC 9989 §4.10)")
    if not ours:
        if texts:
            raise BadRecord(f'{quoted(texts[0])} is none to receivers: it has to begin with "v=DMARC1;"')
        return None
    tags = read_tags(ours[0])
    reports, remarks = _addresses("rua", tags.get("rua", ""))
    remarks += _addresses("ruf", tags.get("ruf", ""))[1]
    remarks += _strange_values(tags)
    unknown = [name for name in ("p", "sp", "np") if tags.get(name, "none").lower() not in _POLICIES]
    if unknown or "p" not in tags:
        fault = f"has a {unknown[0]}= that nobody knows" if unknown else "has no p="
        if not reports:
            raise BadRecord(f"{fault}, and no rua=: receivers ignore it (RFC 9989 §4.10.1)")
        remarks.append(f"the record {fault}: receivers take it for p=none; write none, quarantine or reject")
    policy = "none" if unknown else tags.get("p", "none").lower()
    return Dmarc(
        policy=cast("Policy", policy),
        subdomains=cast("Policy", policy if unknown else tags.get("sp", policy).lower()),
        strict_dkim=tags.get("adkim", "r").lower() == "s",
        strict_spf=tags.get("aspf", "r").lower() == "s",
        psd=tags.get("psd", "u").lower(),
        reports=tuple(reports),
        remarks=tuple(remarks),
    )


def _strange_values(tags: Mapping[str, str]) -> Iterator[str]:
    """Sentences about values that receivers replace by their defaults, or no longer know."""
    for name, known in (("adkim", "rs"), ("aspf", "rs"), ("t", "yn"), ("psd", "ynu")):
        value = tags.get(name, known[0]).lower()
        if value not in set(known):
            yield f"the record's {name}= is {quoted(value)}, which nobody knows; write {' or '.join(known)}"
    if tags.get("pct", "100") != "100":
        yield "the record's pct= counts no longer (RFC 9989); for a trial write t=y in its place"
    if tags.get("t", "n").lower() == "y":
        yield "the record says t=y: a policy one step milder is applied; take it out when all is well"


def _addresses(name: str, value: str) -> tuple[list[str], list[str]]:
    """The addresses in the tag `name`, a list of URIs (§4.8), and a sentence about each that is none."""
    addresses, remarks = [], []
    for uri in value.split(",") if value else ():
        scheme, colon, rest = _SIZE.sub("", uri.strip()).partition(":")
        if not colon or "@" in scheme:
            remarks.append(f"{quoted(uri)} in {name}= is no URI; write mailto: before the address")
        elif scheme.lower() != "mailto":
            remarks.append(f"{quoted(uri)} in {name}= is no mailto:, and receivers need not take others")
        else:
            try:
                addresses.append(parse_address(unquote(rest.partition("?")[0])).wire)
            except BadAddress as error:
                remarks.append(f"{quoted(uri)} in {name}= names no address: {error}")
    return addresses, remarks


# --- alignment -----------------------------------------------------------------------------------


def organizational_domain(domain: str, records: Mapping[str, Dmarc]) -> str:
    """The organizational domain of `domain` (§4.10.2), by the records of its `dmarc_domains`."""
    walk = [each for each in dmarc_domains(domain) if each in records]
    for each in walk:
        if records[each].psd == "n":
            return each
        if records[each].psd == "y" and each != domain:
            below = domain.removesuffix(f".{each}").rpartition(".")[2]
            return f"{below}.{each}"
    return walk[-1] if walk else domain


def check_dmarc(
    domain: str,
    records: Mapping[str, Sequence[bytes]],
    *,
    signing: Collection[str],
    reverse_path: str,
) -> list[Finding]:
    """What receivers will make of letters whose From is of `domain`.

    Args:
        domain: of From, in A-labels and lower case.
        records: by domain, the TXT records of its name behind ``_dmarc.``, the strings of each joined: of all
            `dmarc_domains` of `domain`, of each of `signing` and of `reverse_path`.
        signing: the domains whose keys sign for `domain`.
        reverse_path: the domain of the reverse-path, which SPF is about.
    """
    part = f"DMARC {domain}"
    found: list[Finding] = []
    read: dict[str, Dmarc] = {}
    for each, texts in records.items():
        try:
            record = read_dmarc(texts)
        except BadRecord as error:
            if each in dmarc_domains(domain):
                text = f"the record of _dmarc.{each} {error}"
                found.append(Finding(part=part, level="error", text=text))
            continue
        if record is not None:
            read[each] = record
    organization = organizational_domain(domain, read)
    at = next((each for each in (domain, organization, *dmarc_domains(domain)) if each in read), None)
    if at is None:
        text = (
            "DNS has no valid record; Gmail, Yahoo and Outlook want one of those who send much: publish"
            f' "v=DMARC1; p=none; rua=mailto:ADDRESS" as the TXT record of _dmarc.{organization}'
        )
        return found or [Finding(part=part, level="warning", text=text)]
    remarks = read[at].remarks
    found += [Finding(part=part, level="warning", text=f"_dmarc.{at}: {remark}") for remark in remarks]
    policy = read[at].policy if at == domain else read[at].subdomains
    rule = f"the policy of _dmarc.{at} is {policy}"
    by_dkim = any(_aligned(each, domain, read, strict=read[at].strict_dkim) for each in signing)
    by_spf = _aligned(reverse_path, domain, read, strict=read[at].strict_spf)
    if by_dkim:
        text = f"{rule}; letters are aligned by DKIM{' and SPF' if by_spf else ''}"
        found.append(Finding(part=part, level="ok", text=text))
    else:
        text = f"{rule}; {_unsigned(domain, signing, by_spf=by_spf, strict=read[at].strict_dkim)}"
        harmless = by_spf or policy == "none"
        found.append(Finding(part=part, level="warning" if harmless else "error", text=text))
    return found


def _aligned(other: str, domain: str, records: Mapping[str, Dmarc], *, strict: bool) -> bool:
    """Whether what passes for `other` speaks for `domain` (§4.4)."""
    if strict or other == domain:
        return other == domain
    return organizational_domain(other, records) == organizational_domain(domain, records)


def _unsigned(domain: str, signing: Collection[str], *, by_spf: bool, strict: bool) -> str:
    """What it means that no key that signs is aligned, and what to do."""
    above = next((each for each in signing if domain.endswith(f".{each}")), None)
    if strict and signing:
        advice = f"adkim=s wants a key of {domain} itself"
    elif above:
        advice = f"the key of {above} counts for it only with a record of _dmarc.{above} (RFC 9989 §4.10.2)"
    else:
        advice = f"sign with a key of {domain} or of its organization"
    if by_spf:
        return f"letters are aligned by SPF alone, which forwarding breaks: {advice}"
    return f"letters are aligned neither by DKIM nor by SPF, unless the relay signs for {domain}: {advice}"
