"""What a journal says of letters on their way, and what that of a dead process tells. Pure.

A file is a head (version, and the place: which host and collection) and records of 45 octets, each with a
checksum. A record says what is known of some recipients of a letter under a token, by their places in
`Letter.everybody`: so no address is ever written down. Before a dot that is `UNCERTAIN`, afterwards what the
relay replied. Relays are named by numbers; what a number means stands before its first use.

That a letter is done is not written: what is no longer claimed under its token is of no interest any more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final
from zlib import crc32

from mailsender.model.letter import REPLICA_DIGITS, Phase, Result, Verdict

MAGIC: Final = b"MSJ3"
"""Begins every file; its last character is the format's version."""

HEAD: Final = 16
"""Octets of a head."""

SIZE: Final = 45
"""Octets of a record."""

_LETTER, _RELAY = b"LR"
_OF_A_LETTER = struct.Struct("<BHH28sII")
_OF_A_RELAY = struct.Struct("<BH38s")
_NAME: Final = 38
_ID: Final = 12
_KEY: Final = 28
_SUM: Final = 4
_CODES: Final = 1 << 10
_VERDICTS = tuple(Verdict)
_PHASES = tuple(Phase)
_VERDICT_OF = {verdict: number << 14 for number, verdict in enumerate(_VERDICTS)}
_PHASE_OF = {phase: number << 10 for number, phase in enumerate(_PHASES)}

UNCERTAIN = Result(
    verdict=Verdict.UNCERTAIN,
    phase=Phase.DOT,
    text="the process died between the end of the message and the relay's reply: it may have been sent",
)

Known = tuple[bytes, int, int, str, Result]
"""What a record says: letter and token (`key_of`), first place, number of recipients, relay, result."""


class Unreadable(Exception):  # noqa: N818  an answer, not a mistake
    """A file is not what this version writes; the text says why."""


class Foreign(Unreadable):
    """A file is of another host, database or collection: somebody there may still want it."""


@dataclass(slots=True)
class Trail:
    """What is known of a letter under a token: results by place, and the relay that it went over last."""

    relay: str = ""
    results: dict[int, Result] = field(default_factory=dict)

    def outcome(self, everybody: Sequence[str]) -> dict[str, Result]:
        """Results by address, `everybody` being the letter's. Places beyond it mean nothing."""
        return {everybody[at]: said for at, said in self.results.items() if at < len(everybody)}


def head(place: bytes) -> bytes:
    """The beginning of a file; `place` is from `place_of`."""
    return _summed(MAGIC + place)


def place_of(parts: Iterable[str]) -> bytes:
    """Eight octets that stand for where a process keeps its letters; `parts` in a fixed order."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def known(relay: int, key: bytes, start: int, count: int, result: int) -> bytes:
    """One record; `relay` is the number of one that was `named`, `result` from `packed`."""
    return _summed(_OF_A_LETTER.pack(_LETTER, relay, result, key, start, count))


def named(relay: int, name: str) -> bytes:
    """The records that say what a relay's number means."""
    raw = name.encode()
    parts = [raw[at : at + _NAME] for at in range(0, len(raw) or 1, _NAME)]
    return b"".join([_summed(_OF_A_RELAY.pack(_RELAY, relay, each)) for each in parts])


def key_of(letter_id: str, token: str) -> bytes:
    """Letter and token as records hold them; of an ID that another program made up there is a hash."""
    try:
        found = bytes.fromhex(letter_id + token)
    except ValueError:
        found = b""
    if len(letter_id) == 2 * _ID and len(found) == _KEY:  # spaces between digits are let pass
        return found
    raw = letter_id.encode("utf-8", "surrogatepass")
    return blake2b(raw, digest_size=_ID).digest() + bytes.fromhex(token)


def packed(result: Result) -> int:
    """Verdict, phase and code in 16 bits; the text is left out."""
    code = result.code or 0
    return _VERDICT_OF[result.verdict] | _PHASE_OF[result.phase] | (code if 0 <= code < _CODES else 0)


def _summed(body: bytes) -> bytes:
    return body + crc32(body).to_bytes(_SUM, "little")


def read(raw: bytes, place: bytes) -> list[Known]:
    """What a file of this place says, in order. A last record that is not whole was never written.

    Raises:
        Unreadable: something is damaged, or of another version.
        `Foreign`: of another place.
    """
    if not raw.startswith(MAGIC):
        raise Unreadable("it is of another version, or no journal")
    if not raw.startswith(place, len(MAGIC)) and _whole(raw[:HEAD]):
        raise Foreign("it is of another host, database or collection")
    if raw[:HEAD] != head(place):
        raise Unreadable("its head is damaged")
    found: list[Known] = []
    relays: dict[int, bytes] = {}
    for at in range(HEAD, len(raw) - SIZE + 1, SIZE):
        record = raw[at : at + SIZE]
        if not _whole(record):
            raise Unreadable(f"the record at {at} is damaged")
        kind, relay, result, key, start, count = _OF_A_LETTER.unpack(record[:-_SUM])
        if kind == _RELAY:
            relays[relay] = relays.get(relay, b"") + record[-_NAME - _SUM : -_SUM].rstrip(b"\0")
        else:
            found.append((key, start, count, relays[relay].decode(), unpacked(result)))
    return found


def unpacked(number: int) -> Result:
    """The result behind `packed`, with a text of our own."""
    verdict, phase, code = _VERDICTS[number >> 14], _PHASES[number // _CODES % 16], number % _CODES
    if verdict is Verdict.UNCERTAIN:
        return UNCERTAIN
    text = "known from the journal of a process that died before it could write it down"
    return Result(verdict=verdict, phase=phase, code=code or None, text=text)


def trails(records: Iterable[Known]) -> dict[bytes, Trail]:
    """What all records say together, by `key_of`: what was written last holds."""
    found: dict[bytes, Trail] = {}
    for key, start, count, relay, result in records:
        trail = found.setdefault(key, Trail())
        trail.relay = relay
        trail.results.update(dict.fromkeys(range(start, start + count), result))
    return found


def replica_in(key: bytes) -> str:
    """The ID of the replica whose token is in a key."""
    return key[_ID:].hex()[:REPLICA_DIGITS]


def _whole(part: bytes) -> bool:
    return _summed(part[:-_SUM]) == part
