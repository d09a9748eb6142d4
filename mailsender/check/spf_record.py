"""What a domain's SPF record says (RFC 7208): its grammar and bounds, without asking for what it names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from mailsender.check.findings import Finding
from mailsender.check.txt import BadRecord, quoted, text_of

MAX_LOOKUPS: Final = 10
"""Terms that make a receiver ask DNS, those of all included records among them (RFC 7208 §4.6.4)."""

MAX_CHARACTERS: Final = 450
"""Characters up to which an answer fits 512 octets, whatever the domain's name (RFC 7208 §3.4)."""

_VERSION = re.compile(r"v=spf1(?: |\Z)", re.IGNORECASE)
_LIKE_SPF = re.compile(r'\W{0,3}v\s?=\s?"?spf', re.IGNORECASE)
_TERM = re.compile(r"([+?~-]?)([a-z][a-z0-9_.-]*)([:/=].*)?", re.IGNORECASE)
_EXPAND = r"%(?:\{[slodiphv][0-9]*r?[.\-+,/_=]*\}|[%_-])"
_TOP_LABEL = r"(?![0-9]+\.?\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_EXPAND}|[!-$&-~])*(?:\.{_TOP_LABEL}\.?|{_EXPAND})", re.IGNORECASE)
_MACROS = re.compile(rf"(?:{_EXPAND}|[!-$&-~])*", re.IGNORECASE)
_PREFIX = r"0|[1-9][0-9]{0,2}"
_DUAL = re.compile(rf"(?::(?P<domain>.+?))?(?:/(?P<four>{_PREFIX}))?(?://(?P<six>{_PREFIX}))?")
_NETWORK = re.compile(rf":(?P<address>[0-9a-f:.]+)(?:/(?P<prefix>{_PREFIX}))?", re.IGNORECASE)
_ASKING = frozenset({"include", "a", "mx", "ptr", "exists"})
_WIDE = 8  # the prefix of the largest networks that were ever given to one owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Spf:
    """A record that was read.

    `lookups` is how many terms of its own make a receiver ask DNS; `follows` are the domains of its
    ``include`` and ``redirect``, whose lookups count, too. `rest` is the qualifier of its ``all`` (+, -, ~ or
    ?); empty where it redirects instead, and ? where it does neither (§4.7). `remarks` are sentences about
    what works and is unwise.
    """

    lookups: int
    follows: tuple[str, ...]
    rest: str
    remarks: tuple[str, ...]


class _Term(NamedTuple):
    """A word of a record; `value` is what stands behind the name, with the sign between the two."""

    text: str
    qualifier: str
    name: str
    value: str


def spf_of(records: Sequence[bytes]) -> Spf:
    """The SPF record among the TXT records of a domain, the strings of each joined.

    Raises:
        BadRecord: there is not one, or it does not follow the grammar.
    """
    ours = _ours(records)
    if len(ours) != 1:
        raise BadRecord("is there more than once" if ours else "is missing")
    return read_spf(text_of(ours[0]))


def _ours(records: Sequence[bytes]) -> list[bytes]:
    return [record for record in records if _VERSION.match(record[:7].decode("ascii", "replace"))]


def check_spf_records(domain: str, records: Sequence[bytes], total: int | None = None) -> list[Finding]:
    """What receivers will make of a reverse-path of `domain`.

    Args:
        domain: of the reverse-path.
        records: the TXT records of `domain`, the strings of each joined.
        total: lookups of its record and of those that it includes; None where they were not counted.
    """
    part = f"SPF {domain}"
    ours = _ours(records)
    if not ours:
        return [Finding(part=part, level="warning", text=_none(domain, records))]
    if len(ours) > 1:
        text = f"DNS has {len(ours)} SPF records, which counts as an error (RFC 7208 §4.5); make one of them"
        return [Finding(part=part, level="error", text=text)]
    try:
        spf = read_spf(text_of(ours[0]))
    except BadRecord as error:
        text = f"the record {error}; receivers take the whole record for an error"
        return [Finding(part=part, level="error", text=text)]
    found = [Finding(part=part, level="warning", text=remark) for remark in spf.remarks]
    if spf.rest == "+":
        text = "the record lets everybody send, by its all or +all; end it with -all or ~all"
        found.append(Finding(part=part, level="error", text=text))
    if spf.lookups > MAX_LOOKUPS:
        text = (
            f"the record needs {spf.lookups} lookups in DNS, and over {MAX_LOOKUPS} are an error;"
            " write addresses (ip4, ip6) in place of some of a, mx and include"
        )
        found.append(Finding(part=part, level="error", text=text))
    elif total is not None and total > MAX_LOOKUPS:
        text = (
            f"the record and those that it includes need over {MAX_LOOKUPS} lookups in DNS, an error to all;"
            " take out what no longer sends, or write addresses (ip4, ip6) in place of some"
        )
        found.append(Finding(part=part, level="error", text=text))
    if not found:
        text = f"one record, which needs {spf.lookups} of {MAX_LOOKUPS} lookups"
        if spf.follows:
            others = ", ".join(spf.follows)
            text += f", and those of {others}" if total is None else f", {total} with those of {others}"
        found.append(Finding(part=part, level="ok", text=text))
    return found


def _none(domain: str, records: Sequence[bytes]) -> str:
    for record in records:
        text = record[:80].decode("ascii", "replace")
        if _LIKE_SPF.match(text):
            return f'the record {quoted(text)} is none to receivers: it has to begin with "v=spf1 "'
    return (
        f"DNS has no SPF record, so that receivers do not know who may send for {domain};"
        " publish one that names your relays, as: v=spf1 include:RELAY ~all"
    )


# --- reading -------------------------------------------------------------------------------------


def read_spf(text: str) -> Spf:
    """The record in `text`, which begins with its version.

    Raises:
        BadRecord: it does not follow the grammar (RFC 7208 §12); the message is the rest of a sentence.
    """
    terms = [_term(each) for each in text.split(" ")[1:] if each]
    redirects = [term.value[1:] for term in terms if term.name == "redirect"]
    if len(redirects) > 1 or sum(term.name == "exp" for term in terms) > 1:
        raise BadRecord("has redirect= or exp= twice")
    mechanisms = [term for term in terms if not term.value.startswith("=")]
    end = next((i for i, term in enumerate(mechanisms) if term.name == "all"), None)
    asked = [term for term in mechanisms[:end] if term.name in _ASKING]
    follows = [term.value[1:] for term in asked if term.name == "include"]
    if end is not None:
        rest = mechanisms[end].qualifier or "+"
    elif redirects:
        rest = ""
        follows += redirects
    else:
        rest = "?"
    remarks = [remark for term in mechanisms[:end] for remark in _unwise(term)]
    if end is not None and (redirects or mechanisms[end + 1 :]):
        remarks.append("what stands behind all, and redirect= beside it, counts for nothing; take it out")
    if rest == "?":
        remarks.append("the record says nothing about all others; end it with -all or ~all")
    if len(text) > MAX_CHARACTERS:
        remarks.append(f"the record has {len(text)} characters; over {MAX_CHARACTERS} it may get lost (§3.4)")
    lookups = len(asked) + (not rest)
    return Spf(lookups=lookups, follows=tuple(follows), rest=rest, remarks=tuple(remarks))


def _term(text: str) -> _Term:
    """The term `text`, its grammar checked (§5, §6)."""
    match = _TERM.fullmatch(text)
    if match is None:
        raise BadRecord(f"has {quoted(text)}, which is no term")
    term = _Term(text, match[1], match[2].lower(), match[3] or "")
    if term.value.startswith("=") and not term.qualifier:
        if term.name in {"redirect", "exp"}:
            _check_domain(term, term.value[1:])
        elif not _MACROS.fullmatch(term.value[1:]):
            raise BadRecord(f"has {quoted(text)}, whose % is no macro")
    elif term.name in {"include", "exists"} or (term.name == "ptr" and term.value):
        _check_domain(term, term.value[1:] if term.value.startswith(":") else "")
    elif term.name in {"a", "mx"}:
        _check_host(term)
    elif term.name in {"ip4", "ip6"}:
        _check_network(term)
    elif term.name not in {"all", "ptr"} or term.value:
        raise BadRecord(f"has {quoted(text)}, which is no mechanism of SPF")
    return term


def _check_domain(term: _Term, text: str) -> None:
    """Raises BadRecord unless `text` is a domain, perhaps with macros (§7.1)."""
    if not _DOMAIN.fullmatch(text):
        raise BadRecord(f"has {quoted(term.text)}, which names no domain")


def _check_host(term: _Term) -> None:
    match = _DUAL.fullmatch(term.value)
    if match is None or int(match["four"] or 0) > 32 or int(match["six"] or 0) > 128:
        raise BadRecord(
            f"has {quoted(term.text)}, which is not {term.name}, {term.name}:domain or these with /24"
        )
    if match["domain"]:
        _check_domain(term, match["domain"])


def _check_network(term: _Term) -> None:
    fault = BadRecord(f"has {quoted(term.text)}, which is no address or network of {term.name}")
    match = _NETWORK.fullmatch(term.value)
    if match is None:
        raise fault
    try:
        longest = (IPv4Address if term.name == "ip4" else IPv6Address)(match["address"]).max_prefixlen
    except AddressValueError:
        raise fault from None
    if int(match["prefix"] or 0) > longest:
        raise fault


def _unwise(term: _Term) -> Iterator[str]:
    """What may be written and had better not be."""
    if term.name == "ptr":
        yield f"{quoted(term.text)} is slow and unsafe (RFC 7208 §5.5); write addresses or an include instead"
    match = _NETWORK.fullmatch(term.value)
    if match and match["prefix"] and int(match["prefix"]) < _WIDE and term.qualifier in {"", "+"}:
        yield f"{quoted(term.text)} lets a large part of the Internet send; name your own addresses"
