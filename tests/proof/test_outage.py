"""The end of an outage is what a client sees: a write that a majority has."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab.parts import or_missing
from mailsender.dev.mongod import Mongod, mongod_binary
from proof.history import Break
from proof.outage import Outages, written
from proof.stage import Stage


def test_a_failover_ends_when_a_majority_follows_the_new_primary(stage: Stage) -> None:
    breaks: list[Break] = []
    faults: list[str] = []
    members = stage.replica_set
    assert written(members.uri, 30)
    outages = Outages(members.uri, breaks.append, faults.append)
    struck = time.monotonic()
    with members.primary.client() as client:
        client.admin.command("replSetStepDown", 5, force=True)
    commanded = time.monotonic()
    outages.since("failover", struck)
    outages.wait()
    assert faults == []
    (seen,) = breaks
    assert (seen.what, seen.start) == ("failover", struck)
    # The others notice after two seconds without a primary; the command itself takes a few milliseconds.
    assert seen.end - commanded > 1.0
    assert members.primary.child.running


def test_a_frozen_mongodb_is_away_until_it_is_thawed(tmp_path: Path) -> None:
    with or_missing():
        mongod_binary()
    breaks: list[Break] = []
    faults: list[str] = []
    alone = Mongod(tmp_path / "mongod")
    alone.start()
    try:
        outages = Outages(alone.uri, breaks.append, faults.append)
        alone.freeze()
        outages.since("first", time.monotonic())
        outages.since("second", time.monotonic())
        thawed = time.monotonic()
        alone.thaw()
        outages.wait()
    finally:
        alone.kill()
    assert faults == []
    assert {each.what for each in breaks} == {"first", "second"}
    assert all(each.end >= thawed for each in breaks)


def test_a_mongodb_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.outage.LONGEST", 0.1)
    breaks: list[Break] = []
    faults: list[str] = []
    outages = Outages("mongodb://127.0.0.1:1/?replicaSet=none", breaks.append, faults.append)
    outages.since("failover", 1.0)
    outages.wait()
    assert [each.start for each in breaks] == [1.0]
    assert len(faults) == 1
