"""Batches made from the published schema alone: each of them is accepted, stored and answered.

The schemas are read from docs/, as others would read them.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema
from jsonschema import Draft202012Validator

from lab import parts
from lab.world import World
from mailsender.intake.batch import decode, faults, read_letter
from mailsender.intake.schema import Limits
from mailsender.model.letter import Origin, Status
from tests.acceptance import conftest as acceptance
from tests.said_elsewhere import KEYS

DOCS = Path(__file__).parents[2] / "docs"
LETTERS = json.loads((DOCS / "schemas" / "letters.schema.json").read_text("utf-8"))
REPORT = json.loads((DOCS / "schemas" / "report.schema.json").read_text("utf-8"))
OPENAPI = json.loads((DOCS / "openapi.json").read_text("utf-8"))

NOW = datetime(2026, 1, 2, tzinfo=UTC)

world = acceptance.world

Batch = list[dict[str, Any]]


def batches() -> st.SearchStrategy[Batch]:
    """Batches as the schema has them; of few letters to few addresses, for the sake of time."""
    schema = copy.deepcopy(LETTERS)
    schema |= {"minItems": 1, "maxItems": 3}
    addresses = schema["items"]["properties"]["Addresses"]
    addresses["maxItems"] = 3
    for key in KEYS | {"RequireTLS"}:  # that is for the relay to keep, and the catcher does not offer it
        del schema["items"]["properties"][key]
    # A schema cannot say which blobs are there, nor that no two content IDs are the same, nor that an empty
    # content is none.
    attachments = schema["items"]["properties"]["Attachments"]["anyOf"][0]
    attachments["maxItems"] = 1
    attachments["items"] |= {"required": ["Content"]}
    del attachments["items"]["properties"]["Ref"], attachments["items"]["oneOf"]
    (content,) = [
        each
        for each in attachments["items"]["properties"]["Content"]["anyOf"]
        if each.get("type") == "string"
    ]
    attachments["items"]["properties"]["Content"] = content | {"minLength": 1}
    # Made once and not at every draw, which takes thrice as long: patterns of many letters are dear.
    plain, further = addresses["items"]["anyOf"]
    made = from_schema(plain)
    one = {"type": "string", "format": "made"}
    addresses["items"]["anyOf"] = [one, further | {"properties": {"Address": one}}]
    return from_schema(schema, custom_formats={"made": made})


def bounded(examples: int) -> settings:
    """So many examples; that addresses made from a pattern take their time is no fault."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


# Nearly all of its time goes into making batches, and twice as much of it when each line is counted.
@pytest.mark.no_cover
@bounded(100)
@given(batches())
def test_every_batch_of_the_schema_is_accepted(batch: Batch) -> None:
    elements = decode(json.dumps(batch).encode())
    assert not faults(elements)
    for index, element in enumerate(elements):
        origin = Origin(topic="in", partition=0, offset=1, index=index, timestamp=2)
        letter = read_letter(element, origin, None, Limits(), now=NOW)
        assert (letter.status, letter.reason) == (Status.AWAITING, "")


def _examples(count: int) -> list[Batch]:
    """As many batches from the schema, the same ones at every run."""
    found: list[Batch] = []

    @settings(bounded(count), phases=[Phase.generate], derandomize=True, database=None)
    @given(batches())
    def collect(batch: Batch) -> None:
        found.append(batch)

    collect()
    return found


def _with_ids_of_their_own(batches: list[Batch]) -> Iterator[Batch]:
    """Without an ID, or what one is made from, that came before: that would make one of two, or a clash."""
    seen: set[str] = set()
    for batch in batches:
        for letter in batch:
            for key in ("ID", "IdempotencyKey"):
                own = str(letter.get(key) or "").lower()
                if own.strip("0") and own in seen:
                    del letter[key]
                seen.add(own)
        yield batch


def _content(letter: Mapping[str, Any]) -> str:
    """What of a letter comes back in its report, to be counted."""
    fields = (
        # A report names them as the original does, however the batch did.
        [each if isinstance(each, str) else each["Address"] for each in letter["Addresses"]],
        letter.get("Subject") or "",
        letter.get("Body") or "",
        letter.get("Token", ""),
    )
    return json.dumps(fields, sort_keys=True)


def _reports_by_kcat(world: World) -> list[dict[str, Any]]:
    """The profile topic, read without a line of the service's code."""
    kcat = ["kcat", "-b", world.bootstrap, "-q", "-C", "-t", world.topics.reports, "-o", "beginning", "-e"]
    read = subprocess.run([*kcat, "-f", "%s\n"], capture_output=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in read.splitlines()]


def _described(path: str, answer: Any) -> None:
    """An answer of 200 is as the published description says."""
    (operation,) = [inner for method, inner in OPENAPI["paths"][path].items() if method in {"get", "post"}]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(answer)


@pytest.mark.no_cover  # as above
def test_every_batch_of_the_schema_is_stored_sent_and_answered(world: World) -> None:
    if shutil.which("kcat") is None:
        parts.missing("there is no kcat")
    service = world.started()
    batches = list(_with_ids_of_their_own(_examples(60)))
    letters = [letter for batch in batches for letter in batch]
    assert len(batches) >= 50
    posted = 0
    for batch in batches[::6]:
        answer = service.post(batch)
        assert answer.status == 200, answer.body
        _described("/post", answer.json())
        posted += len(answer.json()["ids"])
    world.publish([batch for index, batch in enumerate(batches) if index % 6], key=b"made from the schema")
    assert posted > 5
    world.wait_reports(len(letters))

    reports = _reports_by_kcat(world)
    validator = Draft202012Validator(REPORT, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for report in reports:
        validator.validate(report)
    answered = {report["ID"]: report for report in reports}
    assert Counter(map(_content, answered.values())) == Counter(map(_content, letters))
    assert [one["Reason"] for one in answered.values() if one["Reason"]["Phase"] == "intake"] == []
    assert [one["Reason"] for one in answered.values() if one["Status"] != "sent"] == []

    _described("/status", service.status())
    for letter_id in list(answered)[:20]:
        _described("/letters/{id}", service.get(f"/letters/{letter_id}").json())
    _described("/halt", service.halt().json())
    assert service.wait_exit() == 0


@pytest.mark.parametrize("change", [{"Time": "yesterday"}, {"Status": "lost"}, {"Reason": {}}, {"ID": None}])
def test_the_schema_of_reports_can_say_no(change: dict[str, Any]) -> None:
    assert not Draft202012Validator(REPORT).is_valid({**REPORT_SAMPLE, **change})
    assert Draft202012Validator(REPORT).is_valid(REPORT_SAMPLE)


REPORT_SAMPLE: dict[str, Any] = {
    **dict.fromkeys(["Subject", "Body", "Token", "KafkaKey", "Relay", "MessageID"], ""),
    "ID": "6b03f03e1c3fe5165a363fce",
    "Addresses": ["a@example.test"],
    "Status": "sent",
    "Reason": {"Code": 250, "EnhancedCode": "", "Text": "", "Phase": "dot"},
    "Recipients": [],
    "Attempts": 1,
    "History": [],
    "Time": "2026-11-23T20:15:30.123Z",
    "Uncertain": False,
    "BodyOmitted": False,
    "Omitted": [],
    "Route": "default",
    "Stream": "",
    "Tags": [],
}
