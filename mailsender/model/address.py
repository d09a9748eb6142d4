"""Mail addresses by a grammar of our own: one ``local@domain``, and nothing that could mean more.

SMTP and mail headers allow comments, routes, groups, quoted local parts and address literals, and
relays disagree about all of them: each such form has been used to turn one recipient into another,
or an address into a command. So only the plain form is taken:

* The local part is of characters of a dot-atom (RFC 5322 §3.2.3), which may be beyond ASCII (RFC 6531
  §3.3). Its dots may stand where a dot-atom has none, first, last or beside another: ``a..b@docomo.ne.jp`` is
  in use, and goes onto the wire in quotes (RFC 5321 §4.1.2). A local part that is written in quotes
  (``"a b"@example.org``) is refused.
* A local part may have more than the 64 octets of RFC 5321 §4.5.3.1.1: reply addresses of GitHub and
  rewritten ones (SRS) do. The section lets a client try, and the relay judges. Only the whole is bounded.
* The domain is a name of letters, digits, hyphens (RFC 5321 §4.1.2) and underscores, a single label included.
  Underscores are no part of that section, but DNS has them, some hosts' names do, and Postfix takes them.
* A label beyond ASCII is turned into its A-label (RFC 5891), so that it needs no extension of the relay. One
  in ASCII goes out as it is written, an A-label of whatever kind too: DNS knows whether there is such a name.
  So a domain with an emoji is taken as ``xn--i-7iq.ws`` only. IDNA2008 has no such labels, and the older
  rules disagree about which name is meant.
* A dot behind the domain is refused: it is no part of a Mailbox (RFC 5321 §4.1.2), and relays refuse it.
  So is an address literal (``a@[192.0.2.1]``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple
from unicodedata import category, normalize

import idna

MAX_ADDRESS = 254
"""Octets of the longest address: a path of 256 less its angle brackets (RFC 5321 §4.5.3.1.3)."""

_ATEXT = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+")
_LABEL = re.compile(r"\w(?:[\w\-]{0,61}\w)?", re.ASCII)
# Nearly every address there is; what it matches needs no closer look than its length.
_PLAIN = re.compile(
    r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*)"
    r"@(\w(?:[\w\-]{0,61}\w)?(?:\.\w(?:[\w\-]{0,61}\w)?)*)",
    re.ASCII,
)
# Of those again nearly every one: its domain is in lower case already, and has no hyphen beside another. Any
# number of them, a line each.
_AS_WRITTEN = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++)*+"
    r"@[a-z0-9]++(?:[.\-][a-z0-9]++)*+\n)*+"
)
# So short that no label can be longer than DNS has it: 63 octets, behind one and the @.
_SHORT = 65
# Controls, invisible formatting (it can make one address look like another), lone surrogates.
_HIDDEN = frozenset({"Cc", "Cf", "Cs"})
_SPACES = frozenset({"Zs", "Zl", "Zp"})
_OUTSIDE_ATOMS = {
    '"': "a quoted local part is not supported",
    "(": "a comment is not supported",
    ")": "a comment is not supported",
    "<": "one bare address is needed, without a name or angle brackets",
    ">": "one bare address is needed, without a name or angle brackets",
    ",": "one address is needed, not a list",
    ";": "one address is needed, not a list",
    ":": "a route or group is not supported",
}


class BadAddress(ValueError):  # noqa: N818  reads better where it is caught
    """The text is no address that this program sends to; the message says why."""


class Address(NamedTuple):
    """One address. `text` is as it was written, `domain` in A-labels and lower case."""

    text: str
    local: str
    domain: str

    @property
    def wire(self) -> str:
        """What stands between the angle brackets of MAIL and RCPT."""
        return f"{_on_the_wire(self.local)}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a relay that offers SMTPUTF8 (RFC 6531) can take it."""
        return not self.local.isascii()


def parse_address(text: str) -> Address:
    """The address that `text` is, whole and alone.

    Raises:
        BadAddress: with a reason a person understands; the address itself is not part of it.
    """
    plain = _PLAIN.fullmatch(text) if len(text) <= MAX_ADDRESS else None
    if plain:
        local, domain = plain.groups()
        return Address(text, local, domain.lower())
    local, domain = _split(text)
    _check_local(local)
    address = Address(text=text, local=local, domain=_a_labels(domain).lower())
    if len(address.wire.encode()) > MAX_ADDRESS:
        raise BadAddress(f"it is longer than {MAX_ADDRESS} octets")
    return address


def domain_of(address: str) -> str:
    """The domain of an address, or a domain alone, as it goes onto the wire: in A-labels and lower case.

    Of what is no domain the case is folded: nothing is sent there.
    """
    domain = address.rpartition("@")[2]
    if domain.isascii():
        return domain.lower()
    try:
        return _a_labels(domain).lower()
    except BadAddress:
        return domain.lower()


def folded(address: str) -> str:
    """An address by which others are known to be the same: its domain as on the wire, all in lower case."""
    local, at, _ = address.rpartition("@")
    return f"{local.lower()}{at}{domain_of(address)}"


def all_as_written(texts: Collection[str]) -> bool:
    """Whether each of `texts` is an address that goes onto the wire letter for letter, without SMTPUTF8.

    A short look for the many, where what `parse_address` makes of each is not needed. False says nothing.
    """
    if max(map(len, texts), default=0) > _SHORT:
        return False
    lines = "\n".join([*texts, ""])
    return lines.count("\n") == len(texts) and _AS_WRITTEN.fullmatch(lines) is not None


def _on_the_wire(local: str) -> str:
    """The local part, in quotes where its dots would make it none otherwise."""
    return local if all(local.split(".")) else f'"{local}"'


def _split(text: str) -> tuple[str, str]:
    if not text:
        raise BadAddress("it is empty")
    # Each character is an octet at least, and what follows takes time by length.
    if len(text) > MAX_ADDRESS:
        raise BadAddress(f"it is longer than {MAX_ADDRESS} octets")
    for char in text:
        kind = category(char)
        if kind in _SPACES:
            raise BadAddress("it holds a space")
        if kind in _HIDDEN:
            raise BadAddress(f"it holds the control or invisible character U+{ord(char):04X}")
        if char in _OUTSIDE_ATOMS:
            raise BadAddress(_OUTSIDE_ATOMS[char])
    local, at, domain = text.partition("@")
    if not at:
        raise BadAddress("it has no @")
    if "@" in domain:
        raise BadAddress("it has more than one @")
    return local, domain


def _check_local(local: str) -> None:
    if not local:
        raise BadAddress("nothing stands before the @")
    # A relay may fold compatibility forms: U+FF20 is a letter to us and an @ to it.
    folded = normalize("NFKC", local)
    if not local.strip(".") or folded.count(".") != local.count("."):
        raise BadAddress("the part before the @ is of dots, or holds what a relay may read as dots")
    for atom in f"{local}.{folded}".split("."):
        if atom and not _ATEXT.fullmatch(atom):
            raise BadAddress("the part before the @ holds a character that is not allowed there")


def _a_labels(domain: str) -> str:
    if not domain:
        raise BadAddress("nothing stands after the @")
    if domain.startswith("["):
        raise BadAddress("an IP address in place of a domain is not supported")
    if not domain.isascii():
        try:
            mapped = idna.uts46_remap(domain, std3_rules=False)
            domain = ".".join(map(_a_label, mapped.split(".")))
        except idna.IDNAError:
            raise BadAddress(
                "its domain is not a valid internationalized name; one that DNS knows all the same can be"
                " written in A-labels (xn--)"
            ) from None
    if domain.endswith("."):
        raise BadAddress("its domain ends with a dot")
    for label in domain.split("."):
        if not _LABEL.fullmatch(label):
            raise BadAddress("its domain is not a valid name")
    return domain


def _a_label(label: str) -> str:
    return label if label.isascii() else idna.alabel(label).decode("ascii")
