"""What outsiders write is what it is meant to be, and what is judged of it is judged rightly."""

from __future__ import annotations

import random
from typing import Any

import bson
import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from lab.vitals import Seen, own_stall
from proof.clock import OtherClock, library
from proof.experiments.strangers import documents
from proof.experiments.whole import replies
from proof.fuzz.chance import record
from proof.history import History, Published, Report, Stored
from proof.hostile import KINDS, PREFIX, only
from proof.plan import Plan
from proof.raw import _batch, _record


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("key", [None, b"", b"k" * 70_000])
def test_a_raw_record_is_one_that_libraries_read(packed: bool, key: bytes | None) -> None:
    raw = _batch(_record(key, b"value", [(b"name", b"\xff")]), 1_700_000_000_000, packed=packed)
    batch = DefaultRecordBatch(raw)
    assert batch.validate_crc()
    (read,) = batch
    assert (read.key, read.value, read.timestamp) == (key, b"value", 1_700_000_000_000)
    assert read.headers == [("name", b"\xff")]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_hostile_record_fits_where_it_is_written(kind: str) -> None:
    for put in KINDS[kind].make(random.Random(7)):
        raw = _batch(_record(put.key, put.value, put.headers), 0, packed=put.packed)
        assert len(raw) <= KINDS[kind].needs
        assert all(mark.startswith(PREFIX) for mark in put.marks)


def test_documents_of_other_programs_are_documents() -> None:
    for each in documents(random.Random(7), 500):
        bson.encode(each)


def test_a_relay_can_say_what_it_is_to_say() -> None:
    plan: dict[str, Any] = replies(random.Random(7), 0.5)
    Plan(plan)
    for rule in plan["chance"]:
        assert rule.get("text", "").isprintable()
        assert not rule.get("text", "").startswith(("2", "5"))


def test_records_of_a_seed_are_the_same_each_time() -> None:
    assert record(random.Random(7)) == record(random.Random(7))


def test_a_publisher_is_judged_by_his_own_letters() -> None:
    history = History(
        published=(Published(mark="good.1", addresses=("a@b.c",)),),
        reports=(
            Report(letter="1", mark="good.1", status="sent"),
            Report(letter="2", mark="hostile.1", status="sent"),
        ),
        stored=(Stored(letter="2", mark="", status="error"),),
        dead=(b"x",),
    )
    seen = only(history, "good")
    assert [each.mark for each in seen.reports] == ["good.1"]
    assert (seen.stored, seen.dead) == ((), ())


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        ({}, None),
        ({"event_loop": None}, None),
        ({"event_loop": {"longest_stall_seconds": 2.0}}, None),
        ({"event_loop": {"longest_stall_seconds": 2.0, "longest_stall_cpu_seconds": 0.5}}, 0.5),
    ],
)
def test_the_service_s_own_word_about_its_stalls(status: dict[str, Any], seconds: float | None) -> None:
    assert own_stall(status) == seconds


def test_what_was_seen_is_told_in_a_line() -> None:
    text = "memory at most 90 MiB, longest stall 50 ms"
    assert str(Seen(memory=90.2, stall=0.05)) == text
    assert str(Seen(memory=90.2, stall=0.05, own=0.0)) == f"{text} (0 ms of work by its own watchdog)"


@pytest.mark.skipif(library() is None, reason="there is no libfaketime")
def test_another_clock_can_be_moved(tmp_path: Any) -> None:
    clock = OtherClock(tmp_path / "clock", 3600.0)
    assert (tmp_path / "clock").read_text() == "+3600.000\n"
    clock.set(-2.5)
    assert (tmp_path / "clock").read_text() == "-2.500\n"
