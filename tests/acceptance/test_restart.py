"""Killed at full load and started again in the same place: what the journal says is settled at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab.parts import wait_until
from lab.world import Replica, World, batches, check_all_answered, letter, subjects
from mailsender.dev.catcher import Catcher

SESSIONS = 5
"""The default of SMTP_MAX_SENDERS: at most one letter in each is behind its dot."""

KILLS = 4

SOON = 20.0
"""Seconds in which the claimed ones must be on their way again: a third of the lease that would give them
back. It takes about one; a machine with other work takes longer."""


def journaling(world: World, tmp_path: Path, **settings: str) -> Replica:
    """A replica that keeps a journal; its lease is long enough to play no part."""
    world.settings = {
        "MONGODB_LEASE": "60s",
        "MAILSENDER_STATE_DIR": str(tmp_path / "state"),
        "KAFKA_GROUP_INSTANCE_ID": "replica-0",
        **settings,
    }
    return world.replica()


def kill_and_start_again(service: Replica, catcher: Catcher, more: int) -> float:
    """Kill it when so many more letters have arrived; returns how long it takes to send again."""
    goal = catcher.counts()["received"] + more
    wait_until(lambda: catcher.counts()["received"] >= goal, f"{goal} letters arrived", 60)
    service.child.kill()
    before = catcher.counts()["received"]
    began = time.monotonic()
    service.start()
    wait_until(lambda: catcher.counts()["received"] > before, "a letter sent again", SOON)
    return time.monotonic() - began


@pytest.mark.parametrize("uncertain", ["resend", "error"])
def test_what_arrives_twice_was_named(world: World, catcher: Catcher, tmp_path: Path, uncertain: str) -> None:
    letters = 3000
    service = journaling(world, tmp_path, SMTP_UNCERTAIN=uncertain)
    world.publish(batches(letters))
    service.start()
    took = [kill_and_start_again(service, catcher, more) for more in [100, 250, 10, 400][:KILLS]]
    reports = world.wait_reports(letters, 120)
    check_all_answered(world, letters, reports)
    arrived = subjects(catcher.messages())
    named = {event["letter"] for event in service.events("letter_uncertain")}
    by_id = {report["ID"]: report for report in reports}
    twice = {subject for subject, times in arrived.items() if times > 1}
    recovered = service.events("journal_recovered")
    print(
        f"again after {[f'{each:.2f}' for each in took]} s; {len(twice)} twice, {len(named)} uncertain;",
        recovered,
    )
    assert len(recovered) == KILLS
    assert max(arrived.values()) <= 2
    assert twice <= {by_id[each]["Subject"] for each in named}
    assert len(named) <= SESSIONS * KILLS
    unsent = {report["ID"] for report in reports if report["Status"] == "error"}
    if uncertain == "resend":
        assert not unsent
        assert len(arrived) == letters
        return
    assert not twice
    assert unsent == named
    for each in named:
        [recipient] = by_id[each]["Recipients"]
        assert (recipient["Status"], recipient["Phase"], recipient["Uncertain"]) == ("uncertain", "dot", True)
    assert {by_id[each]["Subject"] for each in by_id.keys() - named} <= set(arrived)


def test_a_clean_end_leaves_no_journal(world: World, catcher: Catcher, tmp_path: Path) -> None:
    service = journaling(world, tmp_path)
    world.publish(batches(50))
    service.start()
    world.wait_reports(50)
    service.terminate()
    assert service.wait_exit() == 0
    assert list((tmp_path / "state").iterdir()) == []
    assert catcher.counts()["received"] == 50


def test_a_lost_reply_ends_as_an_error_when_that_is_wanted(world: World, tmp_path: Path) -> None:
    service = journaling(world, tmp_path, SMTP_UNCERTAIN="error")
    world.publish([[letter(1, "drop@example.test")]])
    service.start()
    [report] = world.wait_reports(1)
    assert (report["Status"], report["Uncertain"], report["Reason"]["Phase"]) == ("error", True, "dot")
    assert report["Attempts"] == 1
    assert service.status()["since_start"]["uncertain"] == 1
