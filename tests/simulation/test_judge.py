"""The judge finds what is planted, one promise at a time, and nothing in a world in which all is well."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from mailsender.model.letter import Status
from mailsender.ratelimit.gcra import Allowance
from simulation.judge import Obeyed, Terms, counts, faults, fullest, shown
from simulation.ledger import Begun, Broken, Dot, Ledger, Published, Refused, Reported, Told
from simulation.store import START

ONE, TWO = "one.test:25", "two.test:25"
WHO, LETTER = "r1.0@example.test", "6b49f1d79b29e343ecbbac80"


def begun(
    at: float, relay: str = ONE, *, process: str = "a", owned: bool = True, letter: str = LETTER
) -> Begun:
    return Begun(at=at, relay=relay, process=process, letter=letter, owned=owned)


def dot(
    at: float,
    relay: str = ONE,
    *,
    process: str = "a",
    taken: bool | None = True,
    answered: float | None = None,
    given_up: float = float("inf"),
    owned: bool = True,
) -> Dot:
    return Dot(
        at=at,
        relay=relay,
        process=process,
        letter=LETTER,
        recipient=WHO,
        owned=owned,
        taken=taken,
        answered=at + 0.1 if answered is None else answered,
        given_up=given_up,
    )


def reported(
    status: str = "accepted",
    *,
    letter_status: str = "sent",
    relay: str = ONE,
    uncertain: bool = False,
    stored: Status | None = Status.SENT,
    more: str = "",
) -> Reported:
    told = {
        "Address": WHO,
        "Status": status,
        "Relay": relay,
        "Uncertain": uncertain,
        "Code": 535,
        "Text": more,
    }
    words = orjson.dumps({"ID": LETTER, "Status": letter_status, "Recipients": [told]})
    return Reported(at=9.0, letter=LETTER, status=letter_status, words=words, stored=stored)


def ledger() -> Ledger:
    """One letter, sent and reported."""
    return Ledger(
        published={LETTER: Published(at=0.5, letter=LETTER, recipients=(WHO,), route="default")},
        begun=[begun(1.0)],
        dots=[dot(1.1)],
        reported=[reported()],
    )


def kinds(found: Ledger, terms: Terms | None = None) -> set[str]:
    return {f"{each.promise} {each.kind}" for each in faults(found, terms or Terms())}


def test_all_is_well() -> None:
    assert kinds(ledger()) == set()


def test_one_who_does_not_own_a_letter() -> None:
    bad = ledger()
    bad.begun[0] = begun(1.0, owned=False)
    assert kinds(bad) == {"P3 begun by one who does not own it"}
    bad = ledger()
    bad.dots[0] = dot(1.1, owned=False)
    assert kinds(bad) == {"P3 a dot by one who does not own it"}


def test_a_letter_without_an_answer() -> None:
    bad = ledger()
    bad.reported.clear()
    assert kinds(bad) == {"P4 unreported"}
    bad.dots.clear()
    assert kinds(bad) == {"P4 lost"}


def test_an_answer_without_a_letter() -> None:
    bad = ledger()
    bad.published.clear()
    assert kinds(bad) == {"P4 a report about nothing"}


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (reported(stored=Status.PROCESSING), "P4 reported before it was durable"),
        (reported(stored=None), "P4 reported before it was durable"),
        (reported(stored=Status.ERROR), "P4 reported as something else"),
        (reported(relay=TWO), "P4 told accepted, and was not"),
    ],
)
def test_an_answer_that_is_not_true(report: Reported, kind: str) -> None:
    bad = ledger()
    bad.reported[0] = report
    assert kinds(bad) == {kind}


def test_a_letter_is_not_sent_that_nobody_is_known_to_have() -> None:
    bad, terms = ledger(), Terms(resends=0)
    bad.dots[0] = dot(1.1, answered=float("inf"), given_up=2.0)
    bad.reported[0] = reported("uncertain", uncertain=True)
    assert kinds(bad, terms) == {"P4 a status that its recipients deny"}


def test_one_who_is_not_told_of_and_one_whom_nobody_named() -> None:
    bad = ledger()
    bad.published[LETTER] = replace(bad.published[LETTER], recipients=(WHO, "r1.1@example.test"))
    assert kinds(bad) == {"P4 a recipient is not told"}
    bad.published[LETTER] = replace(bad.published[LETTER], recipients=())
    assert kinds(bad) == {"P4 a recipient nobody named"}


def test_one_who_is_given_up_though_nobody_refused_it() -> None:
    bad = ledger()
    bad.dots.clear()
    bad.reported[0] = reported("deferred", letter_status="error", stored=Status.ERROR)
    assert kinds(bad) == {"P4 given up before its time"}
    assert kinds(bad, Terms(patience=8.0)) == set(), "it was tried for as long as was agreed"
    assert kinds(bad, Terms(expire={"default": 8.0})) == set()
    assert kinds(bad, Terms(expire={"default": 60.0})) == {"P4 given up before its time"}


def test_one_who_ends_in_doubt_after_fewer_doubts_than_were_agreed() -> None:
    bad = ledger()
    bad.dots[0] = dot(1.1, answered=float("inf"), given_up=2.0)
    bad.reported[0] = reported("uncertain", letter_status="error", uncertain=True, stored=Status.ERROR)
    assert kinds(bad, Terms(resends=0)) == set()
    assert kinds(bad, Terms(resends=1)) == {"P4 given up before its time"}


def test_a_doubt_that_nobody_had() -> None:
    bad = ledger()
    bad.reported[0] = reported(uncertain=True)
    assert kinds(bad) == {"P11 told as uncertain, and was not"}
    bad.broken.append(Broken(process="b", what="killed", start=1.15, end=float("inf")))
    assert kinds(bad) == {"P11 told as uncertain, and was not"}, "that somebody else died is no reason"
    bad.broken.append(Broken(process="a", what="killed", start=1.15, end=float("inf")))
    assert kinds(bad) == set()


def test_an_answer_in_other_words() -> None:
    bad = ledger()
    bad.reported.append(reported(more="other"))
    assert kinds(bad) == {"P4 other words"}
    bad.reported[1] = bad.reported[0]
    assert kinds(bad) == set(), "twice the same is no fault"


def test_one_who_was_accepted_and_is_told_not_to_be() -> None:
    bad = ledger()
    bad.refused.append(Refused(recipient=WHO, relay=ONE))
    bad.reported[0] = reported("refused", letter_status="error", stored=Status.ERROR)
    assert kinds(bad) == {"P4 told not accepted, and was"}


def test_one_who_fails_for_the_account_s_fault() -> None:
    bad = ledger()
    bad.dots.clear()
    bad.reported[0] = reported("refused", letter_status="error", stored=Status.ERROR)
    assert kinds(bad) == {"P14 failed for no fault of its own"}
    bad.refused.append(Refused(recipient=WHO, relay=ONE))
    assert kinds(bad) == set()


def test_a_doubt_that_is_not_told() -> None:
    found = ledger()
    found.dots.insert(0, dot(1.0, answered=float("inf"), given_up=1.05))
    assert kinds(found) == {"P4 a doubt that is not told"}
    found.reported[0] = reported(uncertain=True)
    assert kinds(found) == set()
    found.reported[0] = reported()
    found.broken.append(Broken(process="a", what="killed", start=1.0, end=2.0))
    assert kinds(found) == set(), "nobody was left who could tell"


def test_too_fast() -> None:
    allowance = Allowance(letters=2, period=10.0, burst=1)
    found = ledger()
    found.begun = [begun(at) for at in (1.0, 2.0, 3.0, 11.5)]
    assert kinds(found, Terms(allowances={ONE: (allowance,)})) == set()
    found.begun.insert(3, begun(10.9))
    assert kinds(found, Terms(allowances={ONE: (allowance,)})) == {"P5 too fast"}
    assert kinds(found, Terms(allowances={TWO: (allowance,)})) == set(), "it is another relay's"


def test_more_than_a_day_s_quota() -> None:
    terms = Terms(allowances={ONE: (Allowance(letters=0, period=1.0, quota=2),)})
    found = ledger()
    found.begun = [begun(at) for at in (1.0, 2.0, 86400.0)]
    assert kinds(found, terms) == set()
    found.begun.insert(2, begun(3.0))
    assert kinds(found, terms) == {"P5 more than a day's quota"}


def test_more_than_one_of_several_rates_and_more_than_a_quota_of_any_time() -> None:
    rates = (Allowance(letters=10, period=1.0), Allowance(letters=1, period=60.0, burst=1))
    found = ledger()
    found.begun = [begun(at) for at in (1.0, 20.0, 61.5)]
    assert kinds(found, Terms(allowances={ONE: rates})) == set()
    quota = Allowance(letters=0, period=1.0, quota=2, quota_period=60.6)
    assert kinds(found, Terms(allowances={ONE: (quota,)})) == {"P5 more than a quota"}
    found.begun.insert(2, begun(60.9))
    assert kinds(found, Terms(allowances={ONE: rates})) == {"P5 too fast"}


def test_more_connections_than_there_may_be() -> None:
    found = ledger()
    found.sessions[ONE] = 3
    assert kinds(found, Terms(connections={ONE: 3})) == set()
    assert kinds(found, Terms(connections={ONE: 2})) == {"P5 too many connections"}


def test_relays_whose_weights_are_not_kept() -> None:
    found = ledger()
    found.begun = [begun(float(at), TWO if at % 4 == 0 else ONE, letter=str(at)) for at in range(600)]
    found.begun += [begun(700.0, TWO, letter=str(at)) for at in range(600)]  # what one did not take
    assert kinds(found, Terms(weights={ONE: 3, TWO: 1})) == set()
    assert kinds(found, Terms(weights={ONE: 2, TWO: 1})) == {"- not by weight"}
    assert kinds(found, Terms(weights={TWO: 1, "three.test:25": 1})) == {"- not by weight"}


def test_what_begins_outside_its_hours_or_after_its_time() -> None:
    found = ledger()
    found.begun = [begun(1.0), begun(99.0)]
    assert kinds(found, Terms(hours={"default": lambda at: at - START < 100})) == set()
    assert kinds(found, Terms(hours={"default": lambda at: at - START < 99})) == {
        "- begun outside the window"
    }
    assert kinds(found, Terms(hours={"other": lambda _: False}, expire={"other": 1.0})) == set()
    assert kinds(found, Terms(expire={"default": 95.0})) == set()
    assert kinds(found, Terms(expire={"default": 90.0})) == {"- begun after its time"}


def test_who_is_told_of_a_limit_again_and_again() -> None:
    found, terms = ledger(), Terms(moderate={ONE})
    found.begun = [begun(float(at)) for at in range(600)]
    found.told = [Told(reached=at + 0.5, relay=ONE, process="a", words="454", seconds=0.1) for at in range(6)]
    assert kinds(found, terms) == set()
    found.told.append(Told(reached=7.5, relay=ONE, process="a", words="454", seconds=0.1))
    assert kinds(found, terms) == {"P14 told of its limit again and again"}
    assert kinds(found, Terms(silent={ONE})) == {"P5 more than a relay allows that was known"}
    assert kinds(found, Terms(silent={TWO})) == set()


@pytest.mark.parametrize(("whom", "bad"), [("@example.test", True), (WHO, True), ("@other.test", False)])
def test_what_is_said_of_a_domain_or_of_somebody_holds_for_no_others(whom: str, *, bad: bool) -> None:
    found = ledger()
    found.told.append(Told(reached=2.0, relay=ONE, process="a", words="451", seconds=60.0, whom=whom))
    found.begun.append(replace(begun(20.0), recipients=("first@x.test", WHO)))
    assert kinds(found) == ({"P14 not obeyed"} if bad else set())


@pytest.mark.parametrize(("relay", "kind"), [(ONE, "P3 sent twice"), (TWO, "P12 given to a second relay")])
def test_a_letter_that_comes_twice(relay: str, kind: str) -> None:
    bad = ledger()
    bad.dots.append(dot(5.0, relay, process="b"))
    assert kinds(bad) == {kind}
    bad.broken.append(Broken(process="c", what="killed", start=2.0, end=3.0))
    assert kinds(bad) == {kind}, "that somebody else died is no excuse"
    bad.broken.append(Broken(process="a", what="killed", start=4.0, end=float("inf")))
    assert kinds(bad) == {kind}, "it had written it down long before"
    bad.broken.append(Broken(process="a", what="killed", start=1.3, end=float("inf")))
    assert kinds(bad) == set(), "what it knew died with it"


@pytest.mark.parametrize(("relay", "kind"), [(ONE, "P3 sent twice"), (TWO, "P12 given to a second relay")])
def test_one_that_is_sent_again_while_its_answer_is_waited_for(relay: str, kind: str) -> None:
    bad = ledger()
    bad.dots = [dot(1.0, answered=400.0), dot(50.0, relay)]
    assert kinds(bad, Terms(resends=1)) == {kind}
    bad.dots = [dot(1.0, answered=float("inf"), given_up=400.0), dot(50.0, relay)]
    bad.reported[0] = reported(relay=relay, uncertain=True)
    assert kinds(bad, Terms(resends=1)) == {kind}


def test_what_a_dead_process_knew_stands_in_its_journal() -> None:
    bad = ledger()
    bad.dots.append(dot(9.0, process="host/2"))
    bad.dots[0] = dot(1.1, process="host/1", answered=1.2)
    bad.broken.append(Broken(process="host/1", what="killed", start=1.25, end=float("inf")))
    assert kinds(bad) == set()
    assert kinds(bad, Terms(journal=True)) == {"P11 sent twice, though it was written down"}
    bad.broken.append(Broken(process="host/2", what="frozen", start=3.0, end=9.0))
    assert kinds(bad, Terms(journal=True)) == set(), "who was to read it could not"


def test_one_whom_the_first_relay_did_not_take_may_go_to_a_second() -> None:
    good = ledger()
    good.dots.insert(0, dot(1.0, TWO, taken=False))
    assert kinds(good) == set()


def test_one_of_whom_nobody_knows_is_sent_to_as_often_as_was_agreed() -> None:
    found = ledger()
    found.reported[0] = reported(uncertain=True)
    found.dots = [dot(1.0, answered=float("inf"), given_up=1.1), dot(2.0)]
    assert kinds(found, Terms(resends=1)) == set()
    assert kinds(found, Terms(resends=0)) == {"P3 sent twice"}
    found.dots.insert(1, dot(1.5, answered=float("inf"), given_up=1.6))
    assert kinds(found, Terms(resends=1)) == {"P3 sent twice"}


def test_a_doubt_that_died_with_its_process_is_none_of_those_that_were_agreed() -> None:
    found = ledger()
    found.reported[0] = reported(uncertain=True)
    found.dots = [
        dot(1.0, process="dead", answered=float("inf")),
        dot(1.5, answered=float("inf"), given_up=1.6),
        dot(2.0),
    ]
    found.broken.append(Broken(process="dead", what="killed", start=1.2, end=float("inf")))
    assert kinds(found, Terms(resends=1)) == set()
    assert kinds(found, Terms(resends=1, journal=True)) == {"P3 sent twice"}
    assert kinds(found, Terms(resends=0)) == {"P3 sent twice"}


def test_one_that_is_held_up_by_others() -> None:
    found = ledger()
    found.begun[0] = begun(9.0)
    assert kinds(found, Terms(prompt={"default": 10.0})) == set()
    assert kinds(found, Terms(prompt={"express": 3.0})) == set()
    assert kinds(found, Terms(prompt={"default": 3.0})) == {"P13 held up by others"}
    found.broken.append(Broken(process="a", what="killed", start=2.0, end=3.0))
    assert kinds(found, Terms(prompt={"default": 3.0})) == set()


def test_a_reply_that_is_not_obeyed() -> None:
    found = ledger()
    found.told.append(Told(reached=2.0, relay=ONE, process="a", words="454", seconds=60.0))
    found.begun += [begun(7.9, process="b"), begun(61.0, TWO), begun(61.5, process="b"), begun(63.0)]
    assert kinds(found) == set()
    assert kinds(found, Terms(obeyed=Obeyed.ALL)) == {"P14 not obeyed"}
    found.broken.append(Broken(process="a", what="killed", start=40.0, end=float("inf")))
    found.broken.append(Broken(process="", what="the store is away", start=30.0, end=90.0))
    assert kinds(found, Terms(obeyed=Obeyed.ALL)) == {"P14 not obeyed"}, "it was written down long before"
    found.broken.insert(0, Broken(process="b", what="frozen", start=1.0, end=62.0))
    assert kinds(found, Terms(obeyed=Obeyed.ALL)) == set(), "it could not hear of it"
    found.begun.insert(1, begun(2.2))
    assert kinds(found) == {"P14 not obeyed"}
    assert kinds(found, Terms(on_its_way=0.3)) == set()


def test_what_was_seen_is_told_with_the_rest() -> None:
    bad = ledger()
    bad.seen += ["a loop failed"] * 10
    lines = shown(faults(bad, Terms()))
    assert lines[0] == "- seen ×10"
    assert len(lines) == 4


def test_what_is_counted() -> None:
    found = ledger()
    assert counts(found) == ((0, 1, 0), (0, 1, 0), 0)
    found.dots.append(dot(5.0))
    found.reported.clear()
    assert counts(found) == ((0, 0, 1), (1, 0, 0), 1)
    found.dots.clear()
    assert counts(found) == ((1, 0, 0), (1, 0, 0), 0)


def test_the_fullest_window() -> None:
    assert fullest([], 1.0) == 0
    assert fullest([0.0, 0.5, 1.0, 1.4], 1.0) == 3
