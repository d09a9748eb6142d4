"""Nasty values from a seeded generator: cheap to make, and shaped like what they are meant for."""

from __future__ import annotations

import json
from random import Random
from typing import Any

CANARY = "canary-7f3a-secret"
"""Stands in every secret; it may show up nowhere."""

PIECES = (
    "",
    "a",
    "Z",
    "0",
    " ",
    "  ",
    "\t",
    "\r",
    "\n",
    "\r\n",
    "\n.\n",
    "\r\n.\r\n",
    "\n.\r\n",
    "\r.\r\n",
    "\r\n.\r",
    "\r\n.\n",
    ".",
    "..",
    ".\r\n",
    "\0",
    "\x1f",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\u200b",
    "\u202e",
    "\ud800",
    "\udfff",
    "\U0001f600",
    "é",
    "Тема",
    "中",
    "=?utf-8?B?",
    "?=",
    "=?",
    "<",
    ">",
    "@",
    ",",
    ";",
    ":",
    '"',
    "\\",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "%",
    "$",
    "$set",
    "{0}",
    "%s",
    "a@b.c",
    "one@example.test",
    "Bcc: evil@example.test",
    "RCPT TO:<evil@example.test>\r\n",
    "MAIL FROM:<evil@example.test>\r\n",
    "DATA\r\n",
    "QUIT\r\n",
    "x" * 70,
    "x" * 300,
    "x" * 999,
    "xn--",
    "null",
    "NaN",
    "1e999",
    "00" * 12,
    "6b03f03e1c3fe5165a363fce",
)

FIELDS = (
    *("ID", "Addresses", "Subject", "Body", "Token", "Status", "KafkaKey"),
    *("subject", "BODY", "addresses", "id", "TextBody", "Headers", "ReplyTo", "Other", "", "$set", "a.b"),
)


def text(chance: Random, most: int = 8) -> str:
    """A text of a few nasty pieces, and of any characters."""
    parts = []
    for _ in range(chance.randint(0, most)):
        if chance.random() < 0.8:
            parts.append(chance.choice(PIECES))
        else:
            parts.append(chr(chance.choice((chance.randrange(128), chance.randrange(0x3000)))))
    return "".join(parts)


HARMLESS = tuple(piece for piece in PIECES if piece.isprintable())


def line(chance: Random) -> str:
    """A text that can stand in a header: mostly printable, so that it gets past the first check."""
    if chance.random() < 0.2:
        return text(chance)
    return "".join(chance.choice(HARMLESS) for _ in range(chance.randint(0, 12)))


def value(chance: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    sort = chance.randrange(10 if depth else 6)
    if sort < 3:
        return text(chance)
    if sort == 3:
        return chance.choice((None, True, False, 0, -1, 2**53, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308))
    if sort == 4:
        return chance.choice(("", [], {}, "6b03f03e1c3fe5165a363fce", "0" * 24))
    if sort == 5:
        return chance.randrange(-1000, 1000)
    if sort < 8:
        return [value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return {text(chance, 3): value(chance, depth - 1) for _ in range(chance.randint(0, 3))}


def address(chance: Random) -> str:
    """An address, good for about every second letter."""
    if chance.random() < 0.5:
        return f"user{chance.randrange(1000)}@example.test"
    return chance.choice((text(chance, 4), f"{text(chance, 2)}@example.test", f"a@{text(chance, 2)}"))


def element(chance: Random) -> Any:
    """An element of a batch: mostly an object with known fields, of right or wrong types."""
    if chance.random() < 0.03:
        return value(chance)
    made: dict[str, Any] = {
        "Subject": line(chance),
        "Body": text(chance, 20),
        "Addresses": [address(chance) for _ in range(chance.randint(1, 3))],
        "Token": value(chance, 2),
    }
    for _ in range(chance.choice((0, 0, 1, 3))):
        made[chance.choice(FIELDS)] = value(chance)
    if chance.random() < 0.1:
        made.pop(chance.choice(list(made)), None)
    return made


def record(chance: Random) -> bytes:
    """The value of a record: a batch, often damaged."""
    sort = chance.random()
    if sort < 0.05:
        return chance.randbytes(chance.randrange(200))
    batch: Any = [element(chance) for _ in range(chance.randint(0, 4))] if sort < 0.95 else value(chance)
    plain = json.dumps(batch, ensure_ascii=chance.random() < 0.5)
    return mutated(chance, plain.encode("utf-8", "surrogatepass")) if chance.random() < 0.4 else _utf8(plain)


def body(chance: Random) -> bytes:
    """What is posted: every other time a batch of good letters, with keys that are not known."""
    if chance.random() < 0.5:
        return record(chance)
    batch = []
    for _ in range(chance.randint(1, 3)):
        good: dict[str, Any] = {"Subject": "".join(chance.choices(HARMLESS, k=3)), "Body": line(chance)}
        good |= {"Addresses": [f"user{chance.randrange(1000)}@example.test"], "Token": line(chance)}
        good |= {f"x-{text(chance, 2)}": value(chance, 2) for _ in range(chance.randint(0, 2))}
        batch.append(good)
    return json.dumps(batch, ensure_ascii=chance.random() < 0.7).encode("utf-8", "surrogatepass")


def _utf8(plain: str) -> bytes:
    return plain.encode("utf-8", "surrogatepass")


def mutated(chance: Random, raw: bytes) -> bytes:
    """Octets changed, lost, doubled or put in."""
    made = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(made) + 1)
        sort = chance.randrange(5)
        if sort == 0:
            made[place:place] = bytes([chance.randrange(256)])
        elif sort == 1:
            del made[place : place + chance.randint(1, 8)]
        elif sort == 2:
            made[place : place + 1] = bytes([chance.randrange(256)])
        elif sort == 3:
            made[place:place] = made[place : place + chance.randint(1, 30)]
        else:
            made[place:place] = chance.choice(PIECES).encode("utf-8", "surrogatepass")
    return bytes(made)


CODES = ("220", "250", "250", "250", "354", "421", "451", "550", "550", "599", "999", "25", "2x0", "100")


def replies(chance: Random) -> bytes:
    """What a relay might say: replies of one line and of many, often damaged."""
    if chance.random() < 0.5:
        code, lines = chance.choice(CODES[:10]), [line(chance) for _ in range(chance.randint(1, 4))]
        made = [f"{code}-{said}\r\n" for said in lines[:-1]] + [f"{code} {lines[-1]}\r\n"]
        raw = "".join(made).encode("utf-8", "surrogatepass") * chance.randint(1, 3)
        return mutated(chance, raw) if chance.random() < 0.3 else raw
    lines = []
    for _ in range(chance.randint(1, 6)):
        code = chance.choice(CODES)
        separator = chance.choice((" ", " ", "-", "", "\t"))
        enhanced = chance.choice(("", "2.1.0 ", "5.1.1 ", "9.9.9 ", "5.1.1"))
        end = "\r\n" if chance.random() < 0.9 else chance.choice(("\n", "\r", ""))
        said = line(chance) if chance.random() < 0.9 else text(chance, 3)
        lines.append(f"{code}{separator}{enhanced}{said}{end}")
    raw = "".join(lines).encode("utf-8", "surrogatepass")
    return mutated(chance, raw) if chance.random() < 0.3 else raw
