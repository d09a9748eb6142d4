"""What `mailsender check` makes of the privileges that MongoDB tells; real ones are in test_check.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailsender.queue.mongo.rights import RIGHTS, lacking

ALL = ["collStats", "createIndex", "find", "insert", "remove", "update"]


def privilege(resource: dict[str, Any], *actions: str) -> dict[str, Any]:
    return {"resource": resource, "actions": list(actions)}


@pytest.mark.parametrize(
    "resource",
    [{"db": "mts", "collection": ""}, {"db": "", "collection": ""}, {"anyResource": True}],
)
def test_rights_that_hold_for_more_than_one_collection(resource: dict[str, Any]) -> None:
    assert lacking([privilege(resource, *ALL)], "mts", "letters") == ""
    assert lacking([privilege(resource, "anyAction")], "mts", "letters") == ""


@pytest.mark.parametrize(
    "resource",
    [
        {"db": "other", "collection": ""},
        {"db": "mts", "collection": "other"},
        {"cluster": True},
        {"system_buckets": ""},
        {"anyResource": False},
    ],
)
def test_rights_that_hold_elsewhere_do_not_count(resource: dict[str, Any]) -> None:
    assert lacking([privilege(resource, *ALL, "anyAction")], "mts", "letters") == lacking(
        [], "mts", "letters"
    )


def test_rights_of_several_roles_add_up() -> None:
    each = [privilege({"db": "mts", "collection": ""}, action) for action in ALL]
    assert lacking(each, "mts", "letters") == ""
    assert lacking(each[:-1], "mts", "letters") == (
        "update in mts.letters and mts.letters.blobs.chunks and mts.letters.blobs.files"
        " and mts.letters.deadletters and mts.letters.flows and mts.letters.outbox"
        " and mts.letters.partitions"
        " and mts.letters.replicas and mts.letters.slots and mts.letters.suppression"
        " and mts.letters.templates and mts.letters.templates.pinned"
    )


PAGES = [Path(__file__).parents[2] / "docs" / each for each in ("reference/cli.md", "changes.md")]


@pytest.mark.skipif(not PAGES[0].exists(), reason="no checkout around the compiled form")
@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.name)
def test_each_collection_is_named_for_operators(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [each for each in RIGHTS if each and f"{each}`" not in text] == []
