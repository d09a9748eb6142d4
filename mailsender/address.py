"""Mail addresses by a grammar of our own: one ``local@domain``, and nothing that could mean more.

SMTP and mail headers allow comments, routes, groups, quoted local parts and address literals, and
relays disagree about all of them: each such form has been used to turn one recipient into another,
or an address into a command. So only the plain form is taken:

* The local part is of characters of a dot-atom (RFC 5322 §3.2.3), which may be beyond ASCII (RFC 6531
  §3.3). Its dots may stand where a dot-atom has none, first, last or beside another: ``a..b@docomo.ne.jp`` is
  in use, and goes onto the wire in quotes (RFC 5321 §4.1.2). A local part that is written in quotes
  (``"a b"@example.org``) is refused.
* The domain is a name of letters, digits and hyphens (RFC 5321 §4.1.2), a single label included; a
  name beyond ASCII is turned into its A-labels (RFC 5891), so that it needs no extension of the relay.
  An address literal (``a@[192.0.2.1]``) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple
from unicodedata import category, normalize

import idna

MAX_LOCAL = 64
"""Octets of the longest local part (RFC 5321 §4.5.3.1.1)."""

MAX_ADDRESS = 254
"""Octets of the longest address: a path of 256 less its angle brackets (RFC 5321 §4.5.3.1.3)."""

_ATEXT = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?")
# Nearly every address there is; what it matches needs no closer look than its length.
_PLAIN = re.compile(
    r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*)"
    r"@((?!xn--)[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
    r"(?:\.(?!xn--)[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?)*)",
    re.IGNORECASE | re.ASCII,
)
# Of those again nearly every one: its domain is in lower case already, and has no hyphen beside another. Any
# number of them, a line each.
_AS_WRITTEN = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++)*+"
    r"@[a-z0-9]++(?:[.\-][a-z0-9]++)*+\n)*+"
)
# So short that neither the part before the @ nor a label can be too long.
_SHORT = MAX_LOCAL + 1
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
        if len(local) <= MAX_LOCAL:
            return Address(text, local, domain.lower())
    else:
        local, domain = _split(text)
        _check_local(local)
        domain = _a_labels(domain)
    octets = len(_on_the_wire(local).encode())
    if octets > MAX_LOCAL:
        raise BadAddress(f"the part before the @ is longer than {MAX_LOCAL} octets")
    if octets + 1 + len(domain) > MAX_ADDRESS:
        raise BadAddress(f"it is longer than {MAX_ADDRESS} octets")
    return Address(text=text, local=local, domain=domain.lower())


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
    if not domain.isascii() or "xn--" in domain.lower():
        try:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except idna.IDNAError:
            raise BadAddress("its domain is not a valid internationalized name") from None
    for label in domain.split("."):
        if not _LABEL.fullmatch(label):
            raise BadAddress("its domain is not a valid name")
    return domain
