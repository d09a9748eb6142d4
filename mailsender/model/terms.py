"""What a letter asks of a relay beside delivery: notifications by mail, and TLS on all of the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NOTIFY: Final = ("NEVER", "SUCCESS", "FAILURE", "DELAY")
"""On what a relay may be asked to send a notification (RFC 3461 §4.1)."""

RET: Final = ("FULL", "HDRS")
"""What of the message may be asked for in it: all, or the headers (RFC 3461 §4.3)."""

MAX_ENVID: Final = 100
"""Octets of the longest ENVID as it goes onto the wire: what RFC 3461 §4 lets a MAIL command grow by."""

MAX_ORCPT: Final = 500
"""Characters of the longest ORCPT (RFC 3461 §4)."""


class BadTerms(ValueError):  # noqa: N818  reads better where it is caught
    """A letter asks for what SMTP cannot say; the message says why, as a sentence without its subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a relay is to take a letter. What is empty was not asked for.

    `notify`, `ret` and `envid` are those of RFC 3461, `envid` as its sender wrote it. `require_tls`: no
    server on the way may hand the message on without TLS (RFC 8689).

    Raises:
        BadTerms: a word is none of those that there are, NEVER is not alone, or `envid` is too long or not of
            printable ASCII.
    """

    notify: tuple[str, ...] = ()
    ret: str = ""
    envid: str = ""
    require_tls: bool = False

    def __post_init__(self) -> None:
        if not set(self.notify) <= set(NOTIFY) or len(set(self.notify)) < len(self.notify):
            raise BadTerms(f"has a Notify that is not of {', '.join(NOTIFY)}, each once")
        if "NEVER" in self.notify and len(self.notify) > 1:
            raise BadTerms("has a Notify of NEVER and others; NEVER stands alone")
        if self.ret and self.ret not in RET:
            raise BadTerms(f"has a Ret that is not {' or '.join(RET)}")
        if self.envid and not (self.envid.isascii() and self.envid.isprintable()):
            raise BadTerms("has an EnvID that is not of printable ASCII")
        if len(xtext(self.envid)) > MAX_ENVID:
            raise BadTerms(f"has an EnvID of over {MAX_ENVID} characters; a space, + and = count as three")

    @property
    def notifications(self) -> bool:
        """Whether it says anything about notifications."""
        return bool(self.notify or self.ret or self.envid)

    @property
    def of_mail(self) -> str:
        """Parameters of MAIL about notifications, each with the space before it."""
        ret = f" RET={self.ret}" if self.ret else ""
        return f"{ret} ENVID={xtext(self.envid)}" if self.envid else ret

    def of_rcpt(self, address: str) -> str:
        """Parameters of RCPT about notifications, where `address` is the recipient as it is named there.

        What cannot stand in an ORCPT (RFC 3461 §4.2) has none: an address beyond ASCII, or one too long.
        """
        original = f"rfc822;{xtext(address)}"
        fits = original.isascii() and len(original) <= MAX_ORCPT
        notify = f" NOTIFY={','.join(self.notify)}" if self.notify else ""
        return f"{notify} ORCPT={original}" if fits else notify


def xtext(text: str) -> str:
    """Printable ASCII as the value of a parameter of SMTP (RFC 3461 §4)."""
    return "".join(f"+{ord(char):02X}" if char in " +=" else char for char in text)
