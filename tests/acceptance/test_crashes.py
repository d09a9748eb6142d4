"""Stopped and halted in the middle: nothing lost, nothing unreported. `make proof` kills at any moment."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from lab.parts import wait_until
from lab.world import World, batches, check_all_answered, letter, subjects
from mailsender.dev.catcher import Catcher

LETTERS = 500


def test_killed_in_a_large_letter_one_slice_of_it_comes_twice_at_most(world: World, catcher: Catcher) -> None:
    world.settings = {"MONGODB_LEASE": "2s", "SMTP_MAX_RECIPIENTS": "10"}
    addresses = [f"r{number}@example.test" for number in range(1500)]
    service = world.replica()
    world.publish([[letter(1, *addresses)]])
    for slices in (20, 60):
        service.start()
        wait_until(lambda n=slices: catcher.counts()["received"] >= n, f"{slices} slices arrived", 60)
        service.child.kill()
    service.start()
    [report] = world.wait_reports(1, 90)
    assert report["Status"] == "sent"
    assert {each["Status"] for each in report["Recipients"]} == {"accepted"}
    arrived = Counter(each for message in catcher.messages() for each in message["rcpt_tos"])
    assert set(arrived) == set(addresses)
    assert sum(arrived.values()) - len(addresses) <= 2 * 10, "one slice a kill"


@pytest.mark.parametrize("how", ["SIGTERM", "halt"])
def test_stopped_in_the_middle(world: World, catcher: Catcher, how: str) -> None:
    world.publish(batches(LETTERS))
    # A rate, so that there is a middle to stop in however fast the machine is.
    first = world.started(SMTP_RATE_LIMIT_MAX_LETTERS="150", SMTP_RATE_LIMIT_PERIOD="1s")
    wait_until(lambda: catcher.counts()["received"] >= 100, "100 letters arrived", 60)
    if how == "halt":
        assert first.halt().status == 200
    else:
        first.terminate()
    assert first.wait_exit() == 0
    stopped_at = catcher.counts()["received"]
    assert stopped_at < LETTERS, "the stop came too late to show anything"
    assert "processing" not in world.by_status()
    assert len(world.reports()) == stopped_at
    world.started()
    check_all_answered(world, LETTERS, world.wait_reports(LETTERS))
    arrived = subjects(catcher.messages())
    assert len(arrived) == LETTERS
    assert max(arrived.values()) == 1


def test_a_second_halt_says_how_far_it_is(world: World) -> None:
    service = world.started(SMTP_RATE_LIMIT_MAX_LETTERS="1", SMTP_RATE_LIMIT_PERIOD="2s")
    world.publish(batches(20))
    wait_until(lambda: service.status()["since_start"]["sent"] > 0, "a letter sent")
    assert service.halt().status == 200
    again = service.halt()
    assert again.status in {0, 200}
    if again.status == 200:
        assert again.json()["step"]
    assert service.wait_exit() == 0
    assert "processing" not in world.by_status()


def test_a_second_signal_cuts_it_short(world: World) -> None:
    with_a_stalled_relay = world.replica(SMTP_PORT=str(_stalling_relay()), DRAIN_TIMEOUT="60s")
    with_a_stalled_relay.start()
    world.publish(batches(20))
    wait_until(lambda: world.by_status()["processing"] > 0, "letters in hand")
    with_a_stalled_relay.terminate()
    wait_until(lambda: with_a_stalled_relay.events("drain_begins"), "a drain")
    began = time.monotonic()
    with_a_stalled_relay.terminate()
    with_a_stalled_relay.wait_exit(20)
    assert time.monotonic() - began < 15
    assert set(world.by_status()) == {"awaiting"}


def test_nothing_is_sent_after_a_stop(world: World, catcher: Catcher) -> None:
    service = world.started(SMTP_RATE_LIMIT_MAX_LETTERS="20", SMTP_RATE_LIMIT_PERIOD="1s")
    world.publish(batches(200))
    wait_until(lambda: catcher.counts()["received"] >= 10, "some letters arrived", 60)
    service.terminate()
    assert service.wait_exit() == 0
    exited = time.time()
    assert max(message["accepted_at"] for message in catcher.messages()) <= exited
    assert world.by_status() == {
        "sent": catcher.counts()["received"],
        "awaiting": 200 - len(catcher.messages()),
    }


def _stalling_relay() -> int:
    """A relay that greets, says EHLO, and never answers MAIL."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"220 stalling\r\n")
            while line := connection.recv(4096):
                if line.upper().startswith((b"EHLO", b"HELO", b"NOOP", b"RSET")):
                    connection.sendall(b"250 ok\r\n")

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])
