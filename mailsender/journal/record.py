"""What a process notes about letters while it sends them, and what the notes of a dead one say. Pure.

A note is 64 octets with a checksum: kind, run, place (which host and collection), letter, lease token, and a
range of recipients by their index in `Letter.everybody`. So a transaction is the ranges that it covers, and
no address is ever written down.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from zlib import crc32

from mailsender.model.letter import Phase, Result, Verdict

SIZE = 64
"""Octets of a note."""

MAGIC = b"MSN2"
"""Begins every note; its last character is the format's version."""

DOT, REPLIED, DONE = b"DRS"
"""The final dot is about to be written; it was answered; durably settled or given back.

A claim needs no note: its token begins with the run, so what is under it can be found in the queue."""

_KINDS = frozenset((DOT, REPLIED, DONE))
_BODY = struct.Struct("<4sBxH8s8s12s16sII")
_TAIL = struct.Struct("<II")
_SUM = struct.Struct("<I")
_HEAD, _KEY = 24, 28
_VERDICTS = tuple(Verdict)
_PHASES = tuple(Phase)
_VERDICT_OF = {verdict: number << 14 for number, verdict in enumerate(_VERDICTS)}
_PHASE_OF = {phase: number << 10 for number, phase in enumerate(_PHASES)}
_CODES = 1 << 10


_ID = re.compile("[0-9a-fA-F]{24}")


class Unreadable(Exception):  # noqa: N818  an answer, not a mistake
    """A file is not what this version writes; the text says why."""


class Foreign(Unreadable):
    """A file is of another host, database or collection: somebody there may still want it."""


def key(letter_id: str, token: str) -> bytes | None:
    """Letter and token as notes hold them; None for a token of another form, which has no notes."""
    found = _octets(letter_id + token) if len(letter_id) == 24 else None
    return found or _octets(noted_id(letter_id) + token)


def _octets(digits: str) -> bytes | None:
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        return None
    return found if len(found) == _KEY else None  # spaces are let pass between digits


def noted_id(letter_id: str) -> str:
    """A letter's ID as notes hold it, 24 hex digits: itself, or a hash of what another program made up."""
    if _ID.fullmatch(letter_id):
        return letter_id
    return blake2b(letter_id.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Pen:
    """Writes notes of one run at one place: what they have in common is made once."""

    def __init__(self, run: bytes, place: bytes) -> None:
        self._run, self._place = run, place
        nothing = bytes(_KEY)
        self._heads = {kind: encode(kind, run, place, nothing)[:_HEAD] for kind in _KINDS}

    def note(self, kind: int, key: bytes, start: int = 0, count: int = 0) -> bytes:
        """One note without a result, the same as `encode` makes."""
        body = self._heads[kind] + key + _TAIL.pack(start, count)
        return body + _SUM.pack(crc32(body))

    def replies(self, key: bytes, start: int, results: Sequence[Result]) -> bytes:
        """See `encode_replies`."""
        return encode_replies(self._run, self._place, key, start, results)


def encode(  # noqa: PLR0917  the fields of a note; called for every letter
    kind: int, run: bytes, place: bytes, key: bytes, start: int = 0, count: int = 0, result: int = 0
) -> bytes:
    """One note. `run` and `place` are 8 octets, `key` is from `key`, `result` from `packed`."""
    body = _BODY.pack(MAGIC, kind, result, run, place, key[:12], key[12:], start, count)
    return body + _SUM.pack(crc32(body))


def encode_replies(run: bytes, place: bytes, key: bytes, start: int, results: Sequence[Result]) -> bytes:
    """The notes of a reply: one for each run of recipients that ended alike, from index `start` on."""
    if results and results.count(results[0]) == len(results):  # nearly always
        return encode(REPLIED, run, place, key, start, len(results), packed(results[0]))
    notes, begun = [], 0
    codes = [packed(result) for result in results]
    for index in range(1, len(codes) + 1):
        if index == len(codes) or codes[index] != codes[begun]:
            notes.append(encode(REPLIED, run, place, key, start + begun, index - begun, codes[begun]))
            begun = index
    return b"".join(notes)


def packed(result: Result) -> int:
    """Verdict, phase and code in 16 bits; the text is left out."""
    code = result.code or 0
    return _VERDICT_OF[result.verdict] | _PHASE_OF[result.phase] | (code if 0 <= code < _CODES else 0)


def unpacked(number: int) -> Result:
    """The result behind `packed`, with a text of our own.

    Raises:
        Unreadable: no result is packed like that.
    """
    phase = (number >> 10) & 15
    if phase >= len(_PHASES):
        raise Unreadable("a result that this version does not know")
    return Result(
        verdict=_VERDICTS[number >> 14],
        phase=_PHASES[phase],
        code=number % _CODES or None,
        text="known from the notes of a process that died before it could write it down",
    )


@dataclass(slots=True)
class Story:
    """What notes say about one letter under one token; `letter_id` is what `noted_id` makes of its ID.

    `dots` are the ranges of recipients (start, end) whose dot was about to be written, `results`
    what is known of single ones by index.
    """

    letter_id: str
    token: str
    dots: list[tuple[int, int]] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    done: bool = False

    def outcome(self, everybody: Sequence[str]) -> dict[str, Result]:
        """Results by address, `everybody` being the letter's.

        Who is behind a dot without a reply is uncertain. Indices beyond `everybody` mean nothing.
        """
        found = {}
        for start, end in self.dots:
            for index in range(start, min(end, len(everybody))):
                found[everybody[index]] = self.results.get(index, UNCERTAIN)
        return found


UNCERTAIN = Result(
    verdict=Verdict.UNCERTAIN,
    phase=Phase.DOT,
    text="the process died between the end of the message and the relay's reply: it may have been sent",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """What dead processes left: stories that did not come to their end, and the runs, as tokens begin.

    All that a run's tokens hold and no story names was never sent.
    """

    stories: Sequence[Story] = ()
    runs: Sequence[str] = ()


class Stories:
    """What all files of one place say together: a letter's notes may lie in several of one run."""

    def __init__(self, place: bytes) -> None:
        self._place = place
        self._found: dict[bytes, Story] = {}

    def add(self, raw: bytes) -> None:
        """Read one file's octets. A torn last note is ignored. Nothing is kept of a file that raises.

        Raises:
            Unreadable: a note is damaged, or of another version.
            `Foreign`: of another place.
        """
        whole = _written(raw)
        notes = [self._note(whole, at) for at in range(0, len(whole) - SIZE + 1, SIZE)]
        for kind, number, key_, start, count in notes:
            self._tell(kind, number, key_, start, count)

    def _note(self, raw: bytes, at: int) -> tuple[int, int, bytes, int, int]:
        body = raw[at : at + SIZE - 4]
        magic, kind, number, _, place, letter, token, start, count = _BODY.unpack(body)
        if magic != MAGIC:
            raise Unreadable("it is of another version, or no file of notes")
        if crc32(body) != _SUM.unpack_from(raw, at + SIZE - 4)[0]:
            raise Unreadable(f"the note at {at} is damaged")
        if kind not in _KINDS:
            raise Unreadable("it holds notes that this version does not know")
        if place != self._place:
            raise Foreign("it is of another host, database or collection")
        if kind == REPLIED:
            unpacked(number)
        return kind, number, letter + token, start, count

    def _tell(self, kind: int, number: int, key_: bytes, start: int, count: int) -> None:
        story = self._found.get(key_)
        if story is None:
            story = self._found[key_] = Story(key_[:12].hex(), key_[12:].hex())
        if kind == DONE:
            story.done = True
        elif kind == DOT:
            story.dots.append((start, start + count))
            # What an earlier transaction came to for them is over.
            for index in [each for each in story.results if start <= each < start + count]:
                del story.results[index]
        elif kind == REPLIED:
            story.results.update(dict.fromkeys(range(start, start + count), unpacked(number)))

    def open(self) -> list[Story]:
        """Those that did not come to their end, in the order of their first note."""
        return [story for story in self._found.values() if not story.done]


def _written(raw: bytes) -> bytes:
    """The notes of a file that is zero from some octet on.

    A note's first octet was written last, when all of the others were there.

    Raises:
        Unreadable: more stands behind a note that was not written to its end.
    """
    end = 0
    while end < len(raw) and raw[end]:
        end += SIZE
    if raw[end + SIZE :].strip(b"\0"):
        raise Unreadable(f"the note at {end} is damaged")
    last = MAGIC[:1] + raw[end + 1 : end + SIZE]
    if len(last) == SIZE and crc32(last[:-4]) == _SUM.unpack_from(last, SIZE - 4)[0]:
        return raw[:end] + last  # killed between its last two octets: to take it as written is the safe side
    return raw[:end]


def place(parts: Iterable[str]) -> bytes:
    """Eight octets that stand for where a process keeps its letters; `parts` in a fixed order."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
