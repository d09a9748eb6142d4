"""What notes say: every kind, torn, damaged, of another version or place."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mailsender.journal import record as notes
from mailsender.model.letter import Phase, Result, Verdict

RUN, PLACE = b"r" * 8, notes.place(["host", "database", "letters"])
LETTER, TOKEN = "6b03f03e1c3fe5165a363fce", "0" * 31 + "1"
KEY = bytes.fromhex(LETTER + TOKEN)
TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
NOBODY = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550)


def note(kind: int, *numbers: int, place: bytes = PLACE) -> bytes:
    return notes.encode(kind, RUN, place, KEY, *numbers)


def told(*files: bytes) -> notes.Stories:
    stories = notes.Stories(PLACE)
    for each in files:
        stories.add(each)
    return stories


def test_a_reply_is_known_by_recipient_over_two_files() -> None:
    replies = notes.encode_replies(RUN, PLACE, KEY, 0, [TAKEN, NOBODY, TAKEN])
    [story] = told(note(notes.DOT, 0, 3), replies).open()
    found = story.outcome(["a", "b", "c"])
    assert [(r.verdict, r.phase, r.code) for r in found.values()] == [
        (r.verdict, r.phase, r.code) for r in (TAKEN, NOBODY, TAKEN)
    ]


def test_behind_a_dot_without_a_reply_all_are_uncertain_and_other_slices_are_not_named() -> None:
    replies = notes.encode_replies(RUN, PLACE, KEY, 0, [TAKEN])
    [story] = told(note(notes.DOT, 0, 1) + replies + note(notes.DOT, 1, 1)).open()
    found = story.outcome(["a", "b", "c"])
    assert {address: result.verdict for address, result in found.items()} == {
        "a": Verdict.ACCEPTED,
        "b": Verdict.UNCERTAIN,
    }


def test_what_is_done_is_not_told() -> None:
    assert told(note(notes.DOT, 0, 1), note(notes.DONE)).open() == []


@pytest.mark.parametrize("left", range(1, notes.SIZE))
def test_a_torn_last_note_is_ignored(left: int) -> None:
    [story] = told(note(notes.DOT, 0, 1) + note(notes.DOT, 1, 1)[:left]).open()
    assert story.dots == [(0, 1)]


REST = bytes(3 * notes.SIZE)


@given(st.sets(st.integers(1, notes.SIZE - 1), min_size=1))
def test_a_note_that_was_being_written_is_ignored(missing: set[int]) -> None:
    """Its octets come in any order, but for the first, which comes last."""
    torn = bytearray(note(notes.DOT, 1, 1))
    whole = bytes(torn)
    for at in {0, *missing}:
        torn[at] = 0
    assume(torn[1:] != whole[1:])
    [story] = told(note(notes.DOT, 0, 1) + bytes(torn) + REST).open()
    assert story.dots == [(0, 1)]


def test_a_note_that_lacks_only_its_first_octet_counts() -> None:
    [story] = told(note(notes.DOT, 0, 1) + b"\0" + note(notes.DOT, 1, 1)[1:] + REST).open()
    assert story.dots == [(0, 1), (1, 2)]


def test_nothing_stands_behind_a_note_that_is_not_there() -> None:
    with pytest.raises(notes.Unreadable, match="64 is damaged"):
        told(note(notes.DOT, 0, 1) + bytes(notes.SIZE) + note(notes.DOT, 1, 1) + REST)


@given(st.integers(0, notes.SIZE - 1), st.integers(1, 255))
def test_any_damaged_octet_is_noticed_and_nothing_of_the_file_is_kept(at: int, change: int) -> None:
    raw = bytearray(note(notes.DOT, 0, 1) + note(notes.DOT, 1, 1))
    raw[notes.SIZE + at] ^= change
    assume(at > 0 or raw[notes.SIZE] != 0)  # that is a note without its first octet: see below
    stories = notes.Stories(PLACE)
    with pytest.raises(notes.Unreadable):
        stories.add(bytes(raw))
    assert stories.open() == []


def test_another_place_is_told_apart() -> None:
    with pytest.raises(notes.Unreadable, match="another host"):
        told(note(notes.DOT, place=notes.place(["host", "database", "other"])))


@given(st.sampled_from(Verdict), st.sampled_from(Phase), st.none() | st.integers(200, 599))
def test_a_result_survives_in_sixteen_bits(verdict: Verdict, phase: Phase, code: int | None) -> None:
    found = notes.unpacked(notes.packed(Result(verdict=verdict, phase=phase, code=code)))
    assert (found.verdict, found.phase, found.code) == (verdict, phase, code)


@pytest.mark.parametrize("letter_id", ["", "~[1]", "g" * 24, " " * 24, "\ud800", LETTER + "00"])
def test_ids_of_another_form_are_noted_by_their_hash(letter_id: str) -> None:
    named = notes.noted_id(letter_id)
    assert named not in {letter_id, notes.noted_id(letter_id + "x")}
    assert notes.key(letter_id, TOKEN) == notes.key(named, TOKEN) == bytes.fromhex(named + TOKEN)


@pytest.mark.parametrize("token", ["", "g" * 32, TOKEN + "00", " " * 32])
def test_a_token_of_another_form_has_no_notes(token: str) -> None:
    assert notes.key(LETTER, token) is None
    assert notes.key("~[1]", token) is None


@given(st.sampled_from([notes.DOT, notes.REPLIED, notes.DONE]), st.integers(0, 9), st.integers(0, 9))
def test_a_pen_writes_the_same(kind: int, start: int, count: int) -> None:
    pen = notes.Pen(RUN, PLACE)
    assert pen.note(kind, KEY, start, count) == note(kind, start, count)
    assert pen.replies(KEY, start, [TAKEN]) == notes.encode_replies(RUN, PLACE, KEY, start, [TAKEN])
