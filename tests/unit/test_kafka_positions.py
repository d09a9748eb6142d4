from __future__ import annotations

import pytest

from mailsender.kafka.positions import Met, Place, placed
from mailsender.model.history import History, Milestone, digest_of


def record(offset: int, log: str = "") -> tuple[bytes, bytes, int]:
    return b"k", f"{log}{offset}".encode(), 1000 + offset


def milestone(offset: int) -> Milestone:
    return Milestone(offset=offset, at=float(offset), last=offset - 1, digest=digest_of(*record(offset - 1)))


def history(*offsets: int) -> History:
    made = History()
    for offset in offsets:
        made = made.reached(milestone(offset), since=0.0)
    return made


def run(place: Place, begin: int, end: int, same_below: int) -> list[Met]:
    """Read a log that is as it was below `same_below`, and another one from there on."""
    met = []
    while place.compares:
        offset = max(place.position, begin)
        assert offset < end
        met.append(place.meet(offset, *record(offset, "" if offset < same_below else "other")))
    return met


def test_a_log_that_is_as_it_was_is_read_on() -> None:
    place = placed(300, milestone(300).text(), 0, 350, history(100, 200, 300))
    assert place.position == 299
    assert run(place, 0, 350, 350) == [Met.SAME]
    assert (place.position, place.cut, place.lost) == (300, None, 0)


def test_control_records_may_lie_between_the_last_record_and_the_offset() -> None:
    place = placed(303, milestone(300).text(), 0, 350, history())
    assert run(place, 0, 350, 350) == [Met.MOVE]
    assert place.position == 303


@pytest.mark.parametrize(("same_below", "from_"), [(250, 200), (150, 100), (50, 0), (0, 0)])
def test_a_log_that_is_another_one_is_read_from_where_it_agrees(same_below: int, from_: int) -> None:
    place = placed(300, milestone(300).text(), 0, 350, history(100, 200, 300))
    assert run(place, 0, 350, same_below)[-1] is Met.OTHER
    assert (place.position, place.cut) == (from_, from_)


def test_a_log_that_is_shorter_than_what_was_taken_in_is_another_one() -> None:
    place = placed(300, milestone(300).text(), 0, 150, history(100, 200, 300))
    assert place.position == 99
    assert run(place, 0, 150, 150) == [Met.OTHER]
    assert (place.position, place.cut) == (100, 100)
    empty = placed(300, milestone(300).text(), 0, 0, history(100, 200, 300))
    assert (empty.position, empty.cut, empty.compares) == (0, 0, False)
    unknown = placed(300, "", 0, 50, History())
    assert (unknown.position, unknown.cut, unknown.compares) == (0, 0, False)


def test_records_that_were_deleted_unread_are_counted() -> None:
    place = placed(300, milestone(300).text(), 320, 350, history(100, 200, 300))
    assert (place.lost, place.position, place.compares, place.cut) == (20, 320, False, None)


def test_offsets_that_were_set_back_by_hand_are_kept() -> None:
    place = placed(50, "", 0, 350, history(100, 200, 300))
    assert run(place, 0, 350, 350) == [Met.MOVE]
    assert (place.position, place.cut) == (50, None)


def test_without_an_offset_it_is_read_from_its_beginning_and_compared_all_the_same() -> None:
    same = placed(None, "", 10, 350, history(100, 200, 300))
    assert run(same, 10, 350, 350) == [Met.MOVE]
    assert (same.position, same.cut) == (10, None)
    other = placed(None, "", 0, 350, history(100, 200, 300))
    assert run(other, 0, 350, 0)[-1] is Met.OTHER
    assert (other.position, other.cut) == (0, 0)
    new = placed(None, "", 0, 5, History())
    assert (new.position, new.compares, new.cut) == (0, False, None)


def test_what_compaction_took_away_says_nothing() -> None:
    place = placed(300, milestone(300).text(), 0, 350, history(200))
    assert place.meet(305, *record(305)) is Met.MOVE
    assert place.position == 199
    assert place.meet(199, *record(199)) is Met.MOVE
    assert (place.position, place.cut) == (300, None)
