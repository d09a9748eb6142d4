"""Letters and records made to kill what reads them, between good ones."""

from __future__ import annotations

import time
from typing import Any

from bson import Int64, ObjectId

from proof.checker import check
from proof.history import Allowed, Published
from proof.load import DOMAIN, letter
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

RECORDS = (
    b"",
    b"{",
    b"null",
    b"1",
    b'"text"',
    b"{}",
    b"[1]",
    b"[[]]",
    b"[null]",
    b"\xff\xfe",
    b"\x00" * 1000,
    b"[NaN]",
    b"[{}" * 20,
    b"[" * 100_000,
    b"[" * 20_000 + b"]" * 20_000,
    b'[{"Subject":"\xed\xa0\x80"}]',
    b"[" + b"9" * 5000 + b"]",
    b'[{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
)
"""Values of records that are no batches."""


def bad_letters(name: str) -> list[dict[str, Any]]:
    """Elements of which each has to end as `error`, and must not harm its neighbours."""
    address = [f"one@{DOMAIN}"]
    wrongs: list[dict[str, Any]] = [
        {"Subject": 5},
        {"Subject": ["x"]},
        {"Subject": "a\r\nBcc: evil@example.test"},
        {"Subject": "a\nb"},
        {"Subject": "a\u2028b"},
        {"Subject": "a\0b"},
        {"Body": 7},
        {"Body": {"$set": 1}},
        {"Body": "\ud800"},
        {"Addresses": []},
        {"Addresses": None},
        {"Addresses": "one@example.test"},
        {"Addresses": [1]},
        {"Addresses": [["a@b.c"]]},
        {"Addresses": ["a@b.c, d@e.f"]},
        {"Addresses": ["a@b.c\r\nRCPT TO:<evil@example.test>"]},
        {"Addresses": ["a@b.c SIZE=1"]},
        {"Addresses": [""]},
        {"Addresses": ["@"]},
        {"Addresses": ["x" * 100_000 + "@b.c"]},
        {"ID": "xyz"},
        {"ID": 7},
        {"ID": {"$oid": "0" * 24}},
        {"Attachments": [{}]},
    ]
    return [
        {"Subject": "bad", "Body": "x", "Addresses": address, **wrong, "Token": f"{name}.bad{number}"}
        for number, wrong in enumerate(wrongs)
    ]


def foreign(name: str) -> list[dict[str, Any]]:
    """Documents that another program left in the collection, each wrong in its own way."""
    wrongs: list[dict[str, Any]] = [
        {"addresses": None},
        {"addresses": 5},
        {"addresses": [5]},
        {"addresses": [{"a": 1}]},
        {"addresses": []},
        {"addresses": ["a@b.c\r\nRCPT TO:<evil@example.test>"]},
        {"subject": 5},
        {"subject": None, "addresses": [None]},
        {"subject": "a\r\nBcc: evil@example.test"},
        {"body": 5, "addresses": ["not an address"]},
        {"_id": "text", "addresses": []},
        {"_id": Int64(7), "addresses": []},
        {"_id": {"a": 1}, "addresses": []},
        {"attempts": "many", "addresses": []},
        {"recipients": "none", "addresses": []},
        {"outcome": 5, "addresses": []},
        {"claim": {"$never": 1}, "status": "processing", "addresses": []},
    ]
    return [
        {
            "_id": ObjectId(),
            "addresses": [f"one@{DOMAIN}"],
            "subject": "bad",
            "body": "x",
            "status": "awaiting",
            "kafkakey": "",
            **wrong,
            "token": f"{name}.foreign{number}",
        }
        for number, wrong in enumerate(wrongs)
    ]


def poison(stage: Stage, seed: int) -> Row:
    """All of them between good letters."""
    began = time.monotonic()
    with run(stage, "poison", seed) as world:
        name = world.publisher_name
        service = world.world.started()
        bad = bad_letters(name)
        for number, wrong in enumerate(bad):
            _between_good_ones(world, f"{name}.good{number}", wrong)
        for value in RECORDS:
            world.publisher.raw(value)
            world.publisher.publish(3)
        strangers = foreign(name)
        with world.world.letters() as letters:
            letters.insert_many(strangers)
        for wrong in strangers:
            world.publisher.published.append(Published(mark=wrong["token"], addresses=()))
        world.publisher.publish(20)
        done = world.wait_done(60)
        if not done:
            world.fault("not all was done within 60 s")
        if not service.child.running:
            world.fault(f"the service ended, with {service.child.returncode}")
        world.stop_services()
        history = world.history(poison=RECORDS)
        errors = {report.mark for report in history.reports if report.status == "error"}
        for mark in [each["Token"] for each in bad]:
            if mark not in errors:
                world.fault(f"a bad letter was not told as error: {mark}")
        verdict = check(world.history(poison=RECORDS), Allowed(duplicates=0))
    count = len(RECORDS) + len(bad) + len(strangers)
    return row(
        "letters and records that kill",
        seed,
        count,
        verdict,
        notes=f"{len(RECORDS)} records, {len(bad)} letters, {len(strangers)} foreign documents",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="poison --seed {seed}"',
    )


def _between_good_ones(world: Run, name: str, wrong: dict[str, Any]) -> None:
    batch = []
    for side in ("before", "after"):
        mark, addresses = f"{name}.{side}", (f"{side}@{DOMAIN}",)
        world.publisher.published.append(Published(mark=mark, addresses=addresses))
        batch.append(letter(mark, addresses))
    world.publisher.published.append(Published(mark=wrong["Token"], addresses=()))
    world.publisher.send([batch[0], wrong, batch[1]])
