"""Every sentence of `Shelf`'s docstrings, against each store of templates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio

from mailsender.model.clock import SystemClock
from mailsender.model.errors import Rejected
from mailsender.queue.mongo.templates import MongoShelf
from mailsender.templates.files import template_of
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.port import MAX_AGE, Shelf, Stored
from mailsender.templates.prepare import prepared
from mailsender.templates.template import Part, TemplateError
from tests.clocks import ManualClock
from tests.contract.conftest import MONGO, only

pytestmark = pytest.mark.asyncio

FILES = {
    "welcome.html": "<style>p { color: red }</style><p>{{ name }}</p>",
    "welcome.ru.html": "<p>{{ name }} по-русски</p>",
    "welcome.subject": "$name {{ name }}",
    "welcome.schema.json": '{"$schema": "http://json-schema.org/draft-07/schema#", "required": ["name"]}',
    "welcome.sample.json": '{"name": "Анна", "a.b": 1}',
}


@pytest.fixture
def make(
    backend: str, client: Any, request: pytest.FixtureRequest
) -> Callable[[], tuple[Shelf, ManualClock]]:
    """Makes the shelf of one more replica, with the clock that it goes by."""
    if backend == "memory":
        shared = MemoryShelf(SystemClock())
        return lambda: (shared, ManualClock())
    name = request.getfixturevalue("database")

    def of_replica() -> tuple[Shelf, ManualClock]:
        clock = ManualClock()
        return MongoShelf(client, database=name, collection="letters.templates", clock=clock), clock

    return of_replica


@pytest_asyncio.fixture
async def shelf(make: Callable[[], tuple[Shelf, ManualClock]]) -> Shelf:
    return make()[0]


async def put(shelf: Shelf, files: dict[str, str], name: str = "welcome") -> tuple[Stored, bool]:
    return await shelf.put(prepared(template_of(name, files)), files)


async def test_versions_are_numbers_and_the_highest_is_the_newest(shelf: Shelf) -> None:
    for number in range(1, 12):
        stored, new = await put(shelf, {**FILES, "welcome.txt": f"text {number}"})
        assert (stored.template.version, new) == (str(number), True)
    newest = await shelf.find("welcome", None)
    assert newest is not None
    assert (newest.version, newest.sources[Part.TEXT, ""]) == ("11", "text 11")
    second = await shelf.find("welcome", "2")
    assert second is not None
    assert second.sources[Part.TEXT, ""] == "text 2"


async def test_what_is_put_comes_back(shelf: Shelf) -> None:
    await put(shelf, FILES)
    ready = prepared(template_of("welcome", FILES))
    found = await shelf.find("welcome", None)
    assert found is not None
    assert (found.sources, found.schema, found.sample) == (ready.sources, ready.schema, ready.sample)
    assert found.language == "en"
    assert 'style="color: red"' in found.sources[Part.HTML, ""], "it was prepared when it was saved"
    stored = await shelf.look_up("welcome", "1")
    assert stored is not None
    assert stored.files == FILES, "and is shown as it was written"
    assert stored.template == found
    assert stored.saved_at is not None


async def test_the_same_files_again_are_no_new_version(shelf: Shelf) -> None:
    await put(shelf, FILES)
    again, new = await put(shelf, dict(reversed(FILES.items())))
    assert (again.template.version, new) == ("1", False)
    other = {**FILES, "welcome.sample.json": "{}"}
    assert [(await put(shelf, each))[0].template.version for each in (other, FILES)] == ["2", "3"]


async def test_the_same_files_are_another_version_when_they_are_prepared_otherwise(shelf: Shelf) -> None:
    """As when the styles of the layout, which go into them, have changed."""
    await put(shelf, FILES)
    plain = template_of("welcome", FILES)
    stored, new = await shelf.put(plain, FILES)
    assert (stored.template.version, new) == ("2", True)


@pytest.mark.parametrize("version", ["0", "3", "01", "-1", "1.0", "x", "", "9" * 30, "١"])
async def test_a_version_that_is_not_there_is_none(shelf: Shelf, version: str) -> None:
    await put(shelf, FILES)
    await put(shelf, {"welcome.txt": "x"})
    assert await shelf.find("welcome", version) is None
    assert await shelf.look_up("welcome", version) is None


async def test_names_that_begin_alike_are_apart(shelf: Shelf) -> None:
    for name in ("a", "a-b", "ab", "A", "a_"):
        await put(shelf, {f"{name}.txt": name}, name)
    for name in ("a", "a-b", "ab", "A", "a_"):
        found = await shelf.find(name, None)
        assert found is not None
        assert (found.name, found.version, found.sources[Part.TEXT, ""]) == (name, "1", name)
    assert await shelf.find("b", None) is None


async def test_a_list_names_the_newest_of_each(shelf: Shelf) -> None:
    assert await shelf.listed() == []
    await put(shelf, {"z.txt": "x"}, "z")
    await put(shelf, {"a.txt": "x"}, "a")
    await put(shelf, {"a.txt": "y", "a.subject": "y"}, "a")
    listed = await shelf.listed()
    assert [(each.name, each.version, each.files) for each in listed] == [
        ("a", "2", ("a.subject", "a.txt")),
        ("z", "1", ("z.txt",)),
    ]
    assert all(each.saved_at is not None for each in listed)


async def test_of_many_at_once_each_has_a_version_of_its_own(
    make: Callable[[], tuple[Shelf, ManualClock]],
) -> None:
    shelves = [make()[0] for _ in range(4)]
    stored = await asyncio.gather(
        *(put(each, {"welcome.txt": f"text {number}"}) for number, each in enumerate(shelves))
    )
    assert sorted(each.template.version for each, _ in stored) == ["1", "2", "3", "4"]
    for each, _ in stored:
        found = await shelves[0].look_up("welcome", each.template.version)
        assert found is not None
        assert found.files == each.files


async def test_other_replicas_find_it_within_seconds(make: Callable[[], tuple[Shelf, ManualClock]]) -> None:
    (one, _), (other, clock) = make(), make()
    assert await other.find("welcome", None) is None
    await put(one, {"welcome.txt": "first"})
    for text in ("first", "second"):
        await put(one, {"welcome.txt": text})
        clock.forward(MAX_AGE)
        found = await other.find("welcome", None)
        assert found is not None
        assert found.sources[Part.TEXT, ""] == text
        here = await one.find("welcome", None)
        assert here is not None
        assert here.sources[Part.TEXT, ""] == text, "at once where it was saved"


@only(*MONGO)
async def test_it_answers_from_memory(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for each letter."""
    shelf, clock = make()
    await put(shelf, FILES)
    first = await shelf.find("welcome", None)
    asked = []
    find_one = type(shelf._versions).find_one

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return find_one(self, *args, **kwargs)

    monkeypatch.setattr(type(shelf._versions), "find_one", counted)
    for _ in range(100):
        assert await shelf.find("welcome", None) is first
        assert await shelf.find("welcome", "1") is first
    assert asked == []
    clock.forward(MAX_AGE)
    assert await shelf.find("welcome", None) is first
    assert len(asked) == 1, "only whether there is a newer one"


@only(*MONGO)
async def test_what_others_wrote_there_is_told(shelf: Any) -> None:
    await put(shelf, FILES)
    await shelf._versions.update_one({}, {"$set": {"prepared": "x"}})
    with pytest.raises(TemplateError, match="cannot be read") as caught:
        await shelf.find("welcome", "1")
    assert caught.value.template == "welcome@000000001"


@only(*MONGO)
async def test_what_is_too_large_is_refused(shelf: Shelf) -> None:
    many = {f"welcome.{a}{b}.txt": "x" * 200_000 for a in "abcdefg" for b in "abcdefg"}
    with pytest.raises(Rejected, match="can be stored"):
        await put(shelf, many)
    assert await shelf.look_up("welcome", None) is None


# --- what letters are made of --------------------------------------------------------------------


async def test_what_is_pinned_stays(shelf: Shelf) -> None:
    assert await shelf.pinned("0" * 64) is None
    await shelf.pin("0" * 64, "$text Привет \u2028 {{ name }}")
    await shelf.pin("0" * 64, "$text Привет \u2028 {{ name }}")
    await shelf.pin("1" * 64, "other")
    assert await shelf.pinned("0" * 64) == "$text Привет \u2028 {{ name }}"
    assert await shelf.pinned("1" * 64) == "other"


async def test_many_pin_the_same_at_once(make: Callable[[], tuple[Shelf, ManualClock]]) -> None:
    shelves = [make()[0] for _ in range(8)]
    await asyncio.gather(*(each.pin("0" * 64, "text") for each in shelves))
    assert await shelves[0].pinned("0" * 64) == "text"
