"""Several replicas on one topic and one database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from lab.parts import wait_until
from lab.rates import most_in_a_window
from lab.world import World, batches, check_all_answered, subjects
from mailsender.dev.catcher import Catcher


def test_two_replicas_send_no_letter_twice(world: World, catcher: Catcher) -> None:
    replicas = [world.started(), world.started()]
    world.publish(batches(600))
    check_all_answered(world, 600, world.wait_reports(600))
    assert max(subjects(catcher.messages()).values()) == 1
    wait_until(
        lambda: sum(r.status()["since_start"]["sent"] for r in replicas) == 600, "all counted by the replicas"
    )


def test_three_replicas_keep_one_rate(world: World, catcher: Catcher) -> None:
    letters, period, burst = 20, 1.0, 3
    world.settings = {
        "SMTP_RATE_LIMIT_MAX_LETTERS": str(letters),
        "SMTP_RATE_LIMIT_PERIOD": "1s",
        "SMTP_RATE_LIMIT_BURST": str(burst),
    }
    replicas = [world.started() for _ in range(3)]
    world.publish(batches(150, size=5))
    messages = catcher.wait_for(150, timeout=60)
    begun = [message["mail_at"] for message in messages]
    assert most_in_a_window(begun, period) <= letters + burst
    # And it is used: three replicas that each waste slots would take far longer.
    assert max(begun) - min(begun) < 150 / letters * 1.6
    assert [replica.status()["rate"]["quota_left"] for replica in replicas] == [None] * 3


def test_one_of_two_replicas_is_killed(world: World, catcher: Catcher) -> None:
    survivor, victim = world.started(), world.started()
    world.publish(batches(600))
    wait_until(lambda: catcher.counts()["received"] >= 100, "100 letters arrived", 60)
    victim.child.kill()
    reports = world.wait_reports(600, timeout=90)
    check_all_answered(world, 600, reports)
    arrived = subjects(catcher.messages())
    assert len(arrived) == 600
    assert sum(arrived.values()) - 600 <= 60
    assert survivor.get("/readyz").status == 200


def _publish_until(over: Event, world: World) -> int:
    """A hundred letters a second, or as many as the broker takes; returns how many."""
    count = 0
    while not over.wait(0.1):
        world.publish(batches(10, start=count))
        count += 10
    return count


def test_a_rolling_restart_under_load(world: World, catcher: Catcher) -> None:
    """As a Deployment does it: a new one is ready before an old one is stopped, and letters keep coming."""
    old, over = [world.started(), world.started()], Event()
    with ThreadPoolExecutor(1) as publisher:
        published = publisher.submit(_publish_until, over, world)
        try:
            for each in old:
                catcher.wait_for(catcher.counts()["received"] + 50, timeout=60)
                world.started()
                each.terminate()
                assert each.wait_exit() == 0
            catcher.wait_for(catcher.counts()["received"] + 50, timeout=60)
        finally:
            over.set()
        count = published.result()
    check_all_answered(world, count, world.wait_reports(count))
    arrived = subjects(catcher.messages())
    assert (len(arrived), max(arrived.values())) == (count, 1), "nothing lost, nothing twice"
    assert not [event for each in old for event in each.log if event["level"] == "error"]


def test_the_daily_quota_holds_over_replicas_and_restarts(world: World, catcher: Catcher) -> None:
    world.settings = {"SMTP_DAILY_QUOTA": "30"}
    first, second = world.started(), world.started()
    world.publish(batches(50))
    wait_until(lambda: first.status()["rate"]["waiting_until"], "the quota used up", 30)
    first.terminate()
    assert first.wait_exit() == 0
    third = world.started()
    wait_until(lambda: third.status()["rate"]["waiting_until"], "the quota still used up", 30)
    # One that sent nothing knows it as well, though nobody asks it for a slot.
    wait_until(lambda: second.status()["rate"]["quota_left"] == 0, "the quota used up for all", 30)
    assert third.status()["rate"]["quota_left"] == 0
    assert catcher.counts()["received"] <= 30
    assert catcher.counts()["received"] >= 28, "the quota is used, too: next to nothing lapses"
    wait_until(lambda: "processing" not in world.by_status(), "all others waiting")
