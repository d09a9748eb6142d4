"""The harness decides, too: what is left to run, what a change means, who still publishes."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proof import run
from proof.experiments.http_abuse import Heard, fate_of, few_enough
from proof.history import Published, Report
from proof.lanes import minutes
from proof.load import Filler, Publisher
from proof.parts import steps_of
from proof.stage import Stage
from proof.steps import Options, Step, digest, left
from proof.table import Row
from proof.watch import is_commit, kind_of


def step(name: str, seconds: float = 30.0) -> Step:
    def make(_: Stage) -> Row:
        return Row(experiment=name, seed=1, runs=1)

    return Step(name=name, seconds=seconds, make=make)


def tree(directory: Path, text: str) -> Path:
    (directory / "mailsender").mkdir(exist_ok=True)
    (directory / "mailsender" / "one.py").write_text(text)
    return directory


def test_what_was_run_of_other_sources_is_run_again(tmp_path: Path) -> None:
    here = tree(tmp_path, "a = 1\n")
    row = Row(experiment="x", seed=1, runs=1, step="one", tree=digest(here))
    assert [each.name for each in left([step("one"), step("two")], [row], here)] == ["two"]
    tree(tmp_path, "a = 2\n")
    assert [each.name for each in left([step("one"), step("two")], [row], here)] == ["one", "two"]


def test_words_alone_make_no_other_sources(tmp_path: Path) -> None:
    before = digest(tree(tmp_path, '"""One."""\ndef f():\n    """Two."""\n    return "three"\n'))
    other_words = '"""Uno."""\n# Why.\ndef f():\n    """Due."""\n    return "three"\n'
    assert digest(tree(tmp_path, other_words)) == before
    assert digest(tree(tmp_path, other_words.replace("three", "tre"))) != before


def test_the_whole_proof_fits_into_two_hours_and_its_short_form_into_eight() -> None:
    assert minutes(steps_of([], Options(seed=1, jobs=2)), 2, cores=2) < 120
    assert minutes(steps_of([], Options(seed=1, short=True))) < 8


@pytest.mark.parametrize(("left", "waits"), [(False, False), (True, True)])
def test_what_never_comes_is_not_waited_for_once_the_service_has_nothing_left_to_do(
    monkeypatch: pytest.MonkeyPatch, *, left: bool, waits: bool
) -> None:
    class Quiet(run.Run):
        def __init__(self) -> None:
            self.publisher = SimpleNamespace(published=[Published(mark="one", addresses=())])  # type: ignore[assignment]
            self._told: set[str] = set()
            self._reports: list[Report] = []

        def read_reports(self, seconds: float) -> None:
            time.sleep(0.01)

        def _settled(self) -> bool:
            return True

        def _open(self) -> bool:
            return left

    monkeypatch.setattr(run, "NO_MORE", 0.1)
    began = time.monotonic()
    assert not Quiet().wait_done(1.0)
    assert (time.monotonic() - began >= 1.0) is waits


@pytest.mark.parametrize(
    ("more", "full"),
    [
        ({}, True),
        ({"runs": 5}, False),
        ({"short": True}, False),
        ({"rate": 0}, False),
        ({"form": "x"}, False),
    ],
)
def test_only_a_run_without_cuts_counts_for_the_full_proof(more: dict[str, Any], full: bool) -> None:
    assert Options(seed=1, **more).full is full


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"operationType": "insert", "ns": {"coll": "letters"}}, "insert"),
        ({"operationType": "insert", "ns": {"coll": "letters.outbox"}}, "announce"),
        ({"operationType": "update", "status": "processing"}, "claim"),
        ({"operationType": "update", "status": "sent"}, "settle"),
        ({"operationType": "update", "status": "error"}, "settle"),
        ({"operationType": "delete", "ns": {"coll": "letters.outbox"}}, "acknowledge"),
        ({"operationType": "delete", "ns": {"coll": "letters"}}, ""),
        ({"operationType": "update", "status": "awaiting"}, ""),
        ({"operationType": "update"}, ""),
    ],
)
def test_a_change_of_the_collection_is_told_by_what_it_sets(change: dict[str, Any], kind: str) -> None:
    assert kind_of(change) == kind


def test_a_commit_is_known_by_its_group() -> None:
    # Kafka's key of an offset: version 0 or 1, then the group and the topic, each with its length.
    key = b"\0\1\0\5group\0\1t\0\0\0\0"
    assert is_commit(key, b"group")
    assert not is_commit(key, b"grou")
    assert not is_commit(b"\0\2\0\5group", b"group"), "that is the group's membership"


class Silent(Publisher):
    """Remembers what it would have published."""

    def __init__(self, *, broken: bool = False) -> None:
        self._name, self._chance = "x", random.Random(1)
        self._broken = broken
        self.published, self.made, self.unwanted = [], 0, 0

    def raw(self, value: bytes) -> None:
        if self._broken:
            raise RuntimeError("no broker")

    def flush(self, timeout: float = 120.0) -> None:
        pass


HONEST = {"reason": "busy", "retry_after": "1"}


@pytest.mark.parametrize(
    ("heard", "fate"),
    [
        ({"status": 200}, "taken"),
        ({"status": 503, **HONEST}, "refused"),
        ({"status": 503, **HONEST, "reason": "queue-full"}, "refused"),
        ({"status": 503, **HONEST, "reason": "no-broker"}, "refused"),
        ({"status": 503, **HONEST, "reason": "unconfirmed", "ids": 1}, "unsure"),
        ({"status": 504, "reason": "timeout"}, "unsure"),
        # Without these words the answer says nothing that one can act upon.
        ({"status": 503, **HONEST, "reason": "unconfirmed"}, "wrong"),
        ({"status": 503, "reason": "busy"}, "wrong"),
        ({"status": 503, **HONEST, "retry_after": "0"}, "wrong"),
        ({"status": 503, **HONEST, "retry_after": "soon"}, "wrong"),
        ({"status": 503, **HONEST, "reason": ""}, "wrong"),
        ({"status": 503, **HONEST, "reason": "draining"}, "wrong"),
        ({"status": 504}, "wrong"),
        ({"status": 0}, "wrong"),
        ({"status": 500}, "wrong"),
    ],
)
def test_what_an_answer_to_a_letter_means(heard: dict[str, Any], fate: str) -> None:
    assert fate_of(Heard(**heard)) == fate


@pytest.mark.parametrize(("refused", "callers", "good"), [(0, 1, True), (50, 100, True), (51, 100, False)])
def test_not_most_good_callers_may_be_refused(refused: int, callers: int, good: bool) -> None:
    assert few_enough(refused, callers) is good


def test_refused_letters_are_not_waited_for() -> None:
    publisher = Silent()
    publisher.publish(2000)
    assert 40 < publisher.unwanted < 120
    taken = len(publisher.published) - publisher.unwanted  # all that the relay takes at all
    done = threading.Event()

    def count() -> int:
        done.set()
        return taken

    filler = Filler(publisher, count, 30)
    assert done.wait(10)
    filler.stop()
    left = len(publisher.published) - publisher.unwanted - taken
    assert 25 <= left <= 30


def test_one_who_cannot_publish_is_found_out() -> None:
    filler = Filler(Silent(broken=True), lambda: 0, 10)
    filler._thread.join(10)
    with pytest.raises(RuntimeError, match="no broker"):
        filler.check()
