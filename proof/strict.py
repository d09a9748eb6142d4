"""A strict reader of SMTP, as RFC 5321 has it: lines end with CRLF and nothing else. Pure.

It is written against the RFCs alone and knows nothing of the client that it judges.
"""

from __future__ import annotations

import base64
import quopri
import re
from dataclasses import dataclass
from hashlib import blake2b

CRLF = b"\r\n"
MAX_COMMAND = 512  # RFC 5321 §4.5.3.1.4, the CRLF counted; MAIL and RCPT may be longer by their extensions
MAX_COMMAND_WITH_EXTENSIONS = 512 + 26 + 17 + 16  # SIZE, BODY, SMTPUTF8
MAX_TEXT_LINE = 1000  # §4.5.3.1.6, the CRLF counted

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"  # with the underscores that DNS and Postfix take
_MAILBOX = rf'(?:{_ATEXT}(?:\.{_ATEXT})*|"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*")@{_LABEL}(?:\.{_LABEL})*'
_MAIL = re.compile(rf"MAIL FROM:<({_MAILBOX})?>((?: [A-Z0-9][A-Z0-9-]*(?:=[!-<>-~]+)?)*)", re.IGNORECASE)
_RCPT = re.compile(rf"RCPT TO:<({_MAILBOX})>((?: [A-Z0-9][A-Z0-9-]*(?:=[!-<>-~]+)?)*)", re.IGNORECASE)
_SUBJECT_MARK = re.compile(r"\[([^\[\]]+)\]")
_ADDRESS = re.compile(rb"[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+")


class NotACommand(ValueError):  # noqa: N818  says what it is
    """The line breaks the grammar; the text says how."""


def path_of(verb: str, line: str) -> tuple[str, dict[str, str]]:
    """The address and the parameters of MAIL or RCPT."""
    found = (_MAIL if verb == "MAIL" else _RCPT).fullmatch(line)
    if found is None:
        raise NotACommand(f"no {verb} of RFC 5321: {line[:200]!r}")
    parameters = {}
    for word in found[2].split():
        name, _, value = word.partition("=")
        parameters[name.upper()] = value
    return found[1] or "", parameters


def mailbox(path: str) -> str:
    """The mailbox that a path names: quotes around its local part say nothing of it (RFC 5321 §4.1.2)."""
    local, at, domain = path.rpartition("@")
    if local.startswith('"') and local.endswith('"') and len(local) > 1:
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return f"{local}{at}{domain}"


def command_fault(line: bytes) -> str:
    """What is wrong with a command line (without its CRLF) whatever it says; empty when nothing."""
    if b"\r" in line or b"\n" in line:
        return "a bare CR or LF in a command"
    limit = MAX_COMMAND_WITH_EXTENSIONS if line[:4].upper() in {b"MAIL", b"RCPT"} else MAX_COMMAND
    if len(line) + 2 > limit and not line.upper().startswith(b"AUTH"):
        return f"a command of {len(line) + 2} octets"
    if any(octet < 32 or octet == 127 for octet in line):
        return "a control character in a command"
    return ""


def end_of_message(data: bytes | bytearray, start: int = 0) -> tuple[int, int] | None:
    """Where the message in `data` ends, and where the next command begins; None while it is not complete."""
    if data[:3] == b".\r\n":
        return 0, 3
    place = data.find(b"\r\n.\r\n", max(0, start - 4))
    return None if place < 0 else (place + 2, place + 5)


def message_faults(raw: bytes, *, eight_bit: bool) -> list[str]:
    """What is wrong with a message as it came, before its dots are taken off."""
    faults = []
    bare = raw.replace(CRLF, b"")
    if b"\r" in bare or b"\n" in bare:
        faults.append("a bare CR or LF in a message")
    if b"\0" in raw:
        faults.append("a NUL in a message")
    if not eight_bit and not raw.isascii():
        faults.append("8-bit octets without BODY=8BITMIME")
    lines = raw.split(CRLF)
    if max(map(len, lines)) + 2 > MAX_TEXT_LINE + 1:  # a stuffed dot does not count
        faults.append("a line of more than 1000 octets")
    if any(line[:1] == b"." and line[:2] != b".." for line in lines):
        faults.append("a line that begins with one dot")
    return faults


def unstuffed(raw: bytes) -> bytes:
    """The message without the dots that were added for the way (RFC 5321 §4.5.2)."""
    raw = raw[1:] if raw.startswith(b".") else raw
    return raw.replace(b"\r\n.", b"\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What the judge has to know of a message."""

    mark: str
    message_id: str
    digest: str
    size: int
    leaked: tuple[str, ...]


def look_at(message: bytes, recipients: list[str], blind_domain: bytes) -> Message:
    """Its mark, its identity, and the addresses in it that ought not to be there.

    Those are its own recipients', and any in `blind_domain`, which only recipients have. The body is
    searched as it came and decoded.
    """
    head, _, body = message.partition(b"\r\n\r\n")
    headers = _headers(head)
    text = message + b"\n" + _decoded(headers, body)
    low = text.lower()
    leaked = {address for address in recipients if address.lower().encode() in low}
    if b"@" + blind_domain in low:
        found = (address.lower() for address in _ADDRESS.findall(text))
        leaked |= {a.decode() for a in found if a.endswith(b"@" + blind_domain)}
    subject = _words(headers.get(b"subject", b""))
    mark = _SUBJECT_MARK.search(subject)
    return Message(
        mark=mark[1] if mark else subject,
        message_id=headers.get(b"message-id", b"").decode("latin-1"),
        digest=blake2b(message, digest_size=12).hexdigest(),
        size=len(message),
        leaked=tuple(sorted(leaked)),
    )


def _headers(head: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in re.sub(rb"\r\n(?=[ \t])", b"", head).split(CRLF):
        name, _, value = line.partition(b":")
        # Of two the first stays, for a second one is what an injection would add.
        found.setdefault(name.strip().lower(), value.strip())
    return found


def _decoded(headers: dict[bytes, bytes], body: bytes) -> bytes:
    encoding = headers.get(b"content-transfer-encoding", b"").lower()
    if encoding == b"base64":
        try:
            return base64.b64decode(body)
        except ValueError:
            return b""
    return quopri.decodestring(body) if encoding == b"quoted-printable" else b""


def _words(value: bytes) -> str:
    """A header's text with its encoded-words read (RFC 2047), as far as the mark needs it."""

    def read(found: re.Match[bytes]) -> bytes:
        raw = found[3]
        return base64.b64decode(raw) if found[2] in b"bB" else quopri.decodestring(raw, header=True)

    value = re.sub(rb"\?=\s+=\?", b"?==?", value)
    return re.sub(rb"=\?([^?]+)\?([bBqQ])\?([^?]*)\?=", read, value).decode("utf-8", "replace")
