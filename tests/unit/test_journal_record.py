"""What a journal's records say: cut off, damaged, of another version or place."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mailsender.journal import record
from mailsender.journal.record import Trail
from mailsender.model.letter import Phase, Result, Verdict

PLACE = record.place_of(["host", "database", "letters"])
LETTER, TOKEN = "6b03f03e1c3fe5165a363fce", "0" * 31 + "1"
KEY, OTHER = record.key_of(LETTER, TOKEN), record.key_of("1" * 24, TOKEN)
RELAY, LONG = "relay.example.test:25", "email-smtp.eu-central-1.a-provider-with-a-long-name.example.test:587"
TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
NOBODY = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550)
LATER = Result(verdict=Verdict.DEFERRED, phase=Phase.DOT, code=451)

HEAD = record.head(PLACE) + record.named(1, RELAY)


def dot(start: int, count: int, relay: int = 1, key: bytes = KEY) -> bytes:
    return record.known(relay, key, start, count, record.packed(record.UNCERTAIN))


def reply(start: int, count: int, result: Result, relay: int = 1, key: bytes = KEY) -> bytes:
    return record.known(relay, key, start, count, record.packed(result))


def told(*files: bytes) -> dict[bytes, Trail]:
    return record.trails([each for raw in files for each in record.read(raw, PLACE)])


def words(results: dict[str, Result]) -> dict[str, tuple[Verdict, Phase, int | None]]:
    return {who: (said.verdict, said.phase, said.code) for who, said in results.items()}


def test_a_reply_is_known_by_recipient_over_two_files() -> None:
    replies = HEAD + reply(0, 1, TAKEN) + reply(1, 1, NOBODY) + reply(2, 1, TAKEN)
    trail = told(HEAD + dot(0, 3), replies)[KEY]
    found = trail.outcome(["a", "b", "c"])
    assert words(found) == words({"a": TAKEN, "b": NOBODY, "c": TAKEN})


def test_behind_a_dot_without_a_reply_all_are_uncertain_and_other_slices_are_not_named() -> None:
    trail = told(HEAD + dot(0, 1) + reply(0, 1, TAKEN) + dot(1, 1))[KEY]
    found = trail.outcome(["a", "b", "c"])
    assert words(found) == words({"a": TAKEN, "b": record.UNCERTAIN})


def test_another_dot_makes_uncertain_again_what_was_answered() -> None:
    trail = told(HEAD + dot(0, 2) + reply(0, 2, LATER) + dot(0, 1))[KEY]
    assert words(trail.outcome(["a", "b"])) == words({"a": record.UNCERTAIN, "b": LATER})


def test_places_beyond_the_letter_mean_nothing() -> None:
    assert told(HEAD + dot(0, 9))[KEY].outcome(["a"]) == {"a": record.UNCERTAIN}


def test_the_relay_is_the_one_that_a_letter_went_over_last() -> None:
    raw = record.head(PLACE) + record.named(1, RELAY) + record.named(2, LONG)
    found = told(raw + dot(0, 1, 1) + dot(0, 1, 2) + dot(0, 1, 1, OTHER))
    assert (found[KEY].relay, found[OTHER].relay) == (LONG, RELAY)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_name_of_a_relay_is_told(name: str) -> None:
    [(_, _, _, relay, _)] = record.read(record.head(PLACE) + record.named(7, name) + dot(0, 1, 7), PLACE)
    assert relay == name


STEPS = [
    record.named(1, RELAY),
    dot(0, 2),
    reply(0, 1, TAKEN),
    reply(1, 1, NOBODY),
    record.named(2, LONG),
    dot(0, 1, 2, OTHER),
    reply(0, 1, LATER, 2, OTHER),
    dot(0, 1, 1, OTHER),
]
WHOLE = record.head(PLACE) + b"".join(STEPS)


@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_file_cut_off_and_damaged_anywhere_tells_only_what_was_written(
    end: int, at: int, change: int
) -> None:
    raw = bytearray(WHOLE[:end])
    if at < end:
        raw[at] ^= change
    records = (end - record.HEAD) // record.SIZE
    try:
        found = record.read(bytes(raw), PLACE)
    except record.Unreadable:
        assert end < record.HEAD or (at < end and change)
        return
    assert found == record.read(WHOLE, PLACE)[: len(found)]
    written = WHOLE[: record.HEAD + records * record.SIZE]
    assert found == record.read(written, PLACE), "no whole record is lost either"


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_any_damaged_octet_of_a_whole_file_is_noticed(at: int, change: int) -> None:
    raw = bytearray(WHOLE)
    raw[at] ^= change
    with pytest.raises(record.Unreadable) as raised:
        record.read(bytes(raw), PLACE)
    assert not isinstance(raised.value, record.Foreign)


def test_nothing_stands_behind_a_record_that_is_not_there() -> None:
    with pytest.raises(record.Unreadable, match="61 is damaged"):
        told(HEAD + bytes(record.SIZE) + dot(0, 1))


def test_another_place_and_another_version_are_told_apart() -> None:
    with pytest.raises(record.Foreign, match="another host"):
        told(record.head(record.place_of(["host", "database", "other"])) + dot(0, 1))
    with pytest.raises(record.Unreadable, match="another version"):
        told(b"MSN2" + WHOLE[4:])
    with pytest.raises(record.Unreadable, match="another version"):
        told(b"")


@given(st.sampled_from(Verdict), st.sampled_from(Phase), st.none() | st.integers(200, 599))
def test_a_result_survives_in_sixteen_bits(verdict: Verdict, phase: Phase, code: int | None) -> None:
    assume(verdict is not Verdict.UNCERTAIN)
    found = record.unpacked(record.packed(Result(verdict=verdict, phase=phase, code=code)))
    assert (found.verdict, found.phase, found.code) == (verdict, phase, code)


@given(st.sampled_from(Phase), st.none() | st.integers(200, 599))
def test_what_is_uncertain_is_told_in_the_same_words(phase: Phase, code: int | None) -> None:
    found = Result(verdict=Verdict.UNCERTAIN, phase=phase, code=code)
    assert record.unpacked(record.packed(found)) == record.UNCERTAIN


@pytest.mark.parametrize("letter_id", ["", "~[1]", "g" * 24, " " * 24, "\ud800", LETTER + "00", f"{LETTER} "])
def test_ids_of_another_form_are_known_by_their_hash(letter_id: str) -> None:
    keys = {record.key_of(each, TOKEN) for each in (letter_id, letter_id + "x", LETTER)}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {len(KEY)}
    assert {key[12:].hex() for key in keys} == {TOKEN}


def test_a_key_names_the_replica_of_its_token() -> None:
    assert record.replica_in(record.key_of(LETTER, "ab" * 8 + "cd" * 8)) == "ab" * 8
