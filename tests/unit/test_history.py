from __future__ import annotations

import json
import random

from mailsender.model.history import MOST, History, Milestone, Standing, digest_of, from_document, from_text

DAY = 86400.0


def milestone(offset: int, day: float) -> Milestone:
    return Milestone(offset=offset, at=day * DAY, last=offset - 1, digest=f"{offset}")


def history(*places: tuple[int, float]) -> History:
    made = History()
    for offset, day in places:
        made = made.reached(milestone(offset, day), since=day * DAY if made == History() else 0, first=100)
    return made


def test_what_lies_beyond_the_last_milestone_is_new_and_what_lies_before_it_is_not() -> None:
    known = history((100, 1), (200, 2), (300, 3)).aged(20 * DAY, 30 * DAY)
    assert [known.standing(n) for n in (300, 10_000)] == [Standing.NEW] * 2
    assert [known.standing(n) for n in (299, 100)] == [Standing.AGAIN] * 2
    assert known.standing(99) is Standing.UNDATED
    assert History().standing(0) is Standing.NEW


def test_the_first_record_that_is_met_begins_what_is_known() -> None:
    known = History().reached(milestone(100, 2), since=1 * DAY, first=40)
    assert [known.standing(n) for n in (39, 40, 99)] == [Standing.UNDATED, Standing.AGAIN, Standing.AGAIN]
    assert known.aged(31.5 * DAY, 30 * DAY).standing(99) is Standing.FORGOTTEN


def test_a_record_may_be_forgotten_when_the_milestone_before_it_is_older_than_the_retention() -> None:
    known = history((100, 1), (200, 2), (300, 3)).aged(31.5 * DAY, 30 * DAY)
    assert [known.standing(n) for n in (0, 199)] == [Standing.FORGOTTEN] * 2
    assert known.standing(200) is Standing.AGAIN
    later = known.aged(100 * DAY, 30 * DAY)
    assert later.standing(299) is Standing.FORGOTTEN
    assert later.standing(300) is Standing.NEW


def test_a_retention_that_is_raised_makes_nothing_young_again() -> None:
    known = history((100, 1), (200, 2), (300, 3)).aged(20 * DAY, 30 * DAY)
    raised = known.aged(32.5 * DAY, 60 * DAY)
    assert raised.standing(250) is Standing.FORGOTTEN
    assert raised.aged(32.5 * DAY, 60 * DAY) == raised
    later = raised.reached(milestone(400, 33), since=32.9 * DAY)
    assert later.aged(70 * DAY, 60 * DAY).standing(350) is Standing.AGAIN
    assert later.aged(93 * DAY, 60 * DAY).standing(350) is Standing.FORGOTTEN


def test_what_was_reported_under_a_shorter_retention_is_forgotten_by_it_although_it_was_raised() -> None:
    """The store forgets each letter when it was to be forgotten at its report."""
    known = history((100, 1), (200, 31), (300, 32)).aged(32.4 * DAY, 30 * DAY).aged(32.5 * DAY, 60 * DAY)
    assert known.standing(299) is Standing.AGAIN
    stored = from_document(json.loads(json.dumps(known.document())))
    assert stored.aged(62.2 * DAY, 60 * DAY).standing(299) is Standing.FORGOTTEN
    later = stored.reached(milestone(400, 40), since=39 * DAY)
    assert later.aged(62.4 * DAY, 60 * DAY).standing(350) is Standing.AGAIN
    assert later.aged(90 * DAY, 60 * DAY).standing(350) is Standing.AGAIN
    assert later.aged(101 * DAY, 60 * DAY).standing(350) is Standing.FORGOTTEN
    twice = stored.aged(40 * DAY, 90 * DAY)
    assert twice.aged(62.2 * DAY, 90 * DAY).standing(299) is Standing.FORGOTTEN


def test_milestones_are_bounded_and_the_newest_and_the_oldest_stay() -> None:
    known = History()
    for n in range(1, 3000):
        known = known.reached(milestone(n * 10, n / 100), since=0.0)
    assert len(known.milestones) == MOST
    assert [each.offset for each in known.milestones[-5:]] == [29950, 29960, 29970, 29980, 29990]
    assert known.milestones[0].offset == 0
    gaps = [b.at - a.at for a, b in zip(known.milestones, known.milestones[1:], strict=False)]
    assert max(gaps) < 5 * DAY  # of thirty


def test_dead_letters_for_their_age_are_noted_as_a_stretch() -> None:
    known = History()
    for offset in (5, 6, 8):
        known = known.bury(offset)
    assert [known.was_buried(n) for n in (5, 6, 7, 8)] == [False, False, False, True]
    for offset in (9, 10, 9):
        known = known.bury(offset)
    assert known.buried == (8, 11)


def test_a_log_that_is_cut_off_knows_nothing_of_what_lay_behind() -> None:
    known = history((100, 1), (200, 2), (300, 3)).aged(32.5 * DAY, 30 * DAY).bury(50)
    cut = known.cut(200)
    assert (cut.high, cut.log, cut.forgotten) == (200, 1, 200)
    assert cut.standing(200) is Standing.NEW
    assert known.cut(0) == History(log=1, retention=30 * DAY)


def test_it_can_be_stored_and_read_again_and_what_is_no_history_is_none() -> None:
    known = history((100, 1), (200, 2)).aged(20 * DAY, 30 * DAY).bury(7)
    assert from_document(json.loads(json.dumps(known.document()))) == known
    for other in (
        {},
        {"milestones": 3},
        {**known.document(), "buried": "x"},
        {"milestones": [{"offset": 1}]},
    ):
        assert from_document(other) == History()


def test_what_lies_beside_a_committed_offset() -> None:
    made = milestone(100, 1)
    found = from_text(made.text(), 120)
    assert found is not None
    assert (found.offset, found.last, found.digest) == (120, 99, "100")
    for other in ("", "{", "[]", "3", '{"last": 200, "digest": "x"}', '{"last": "x", "digest": "x"}'):
        assert from_text(other, 120) is None


def test_a_digest_tells_records_apart() -> None:
    chance = random.Random(1)
    fields = [(k, v, t) for k in (None, b"", b"a") for v in (None, b"", b"a", b"ab") for t in (-1, 0, 7)]
    assert len({digest_of(*each) for each in fields}) == len(fields)
    assert digest_of(b"k", chance.randbytes(10), 3) != digest_of(b"k", chance.randbytes(10), 3)
