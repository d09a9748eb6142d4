"""`Shelf` on two collections: versions of templates, and what letters were taken in with.

A version is a document that is inserted once and never changed. Its `_id` is the name and the number with
leading zeros, so that the newest is the last in the index that each collection has. What author and service
made of it stands in arrays and texts: names of files and of variables are no names of fields.

- `files`: names and texts as they were saved. `prepared`: part, language and text, as they are rendered.
- `schema`: JSON text, absent where there is none. The sample is one of the files.
- `content`: a hash of all that, by which the same is known again.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import now_ms
from mailsender.queue.mongo.client import Client, Document, calling, durable
from mailsender.templates.port import MAX_AGE, MAX_LISTED, Listed, Stored, number_of
from mailsender.templates.template import Part, Template, TemplateError

DIGITS = 9
"""Of a version's number in an `_id`."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of all files of a version; what is made of them stands beside them, within MongoDB's 16 MiB."""

KEPT = 8 * 1024 * 1024
"""Bytes of versions that are kept in memory, the last used."""

KNOWN = 4096
"""Names of which it is kept which version is the newest, or that there is none."""

TRIES = 10
"""Versions that others may save while one is being saved."""


class MongoShelf:
    """See `Shelf`. `collection` holds the versions, and what is pinned lies beside it in `.pinned`.

    `timeout` is each call's deadline in seconds.
    """

    def __init__(
        self, client: Client, *, database: str, collection: str, clock: Clock, timeout: float = 10.0
    ) -> None:
        self._versions = durable(client, database, collection, timeout)
        self._pins = durable(client, database, f"{collection}.pinned", timeout)
        self._clock = clock
        self._timeout = timeout
        self._templates: OrderedDict[str, tuple[Template, int]] = OrderedDict()  # by `_id`, with their sizes
        self._size = 0
        self._newest: OrderedDict[str, tuple[str | None, float]] = OrderedDict()  # an `_id`, and until when

    # --- reading ---------------------------------------------------------------------------------

    async def find(self, name: str, version: str | None) -> Template | None:
        """See `TemplateStore.find`. Which is the newest is known for `MAX_AGE` seconds.

        Raises:
            Unavailable: MongoDB does not answer.
            TemplateError: what is stored cannot be read.
        """
        if version is None:
            stored_id = await self._newest_id(name)
        else:
            number = number_of(version)
            stored_id = None if number is None else _id_of(name, number)
        if stored_id is None:
            return None
        known = self._templates.get(stored_id)
        if known is not None:
            self._templates.move_to_end(stored_id)
            return known[0]
        async with calling(self._timeout):
            document = await self._versions.find_one({"_id": stored_id})
        return None if document is None else self._kept(stored_id, _stored(document))

    async def _newest_id(self, name: str) -> str | None:
        known = self._newest.get(name)
        if known is not None and self._clock.monotonic() < known[1]:
            return known[0]
        asked = self._clock.monotonic()
        async with calling(self._timeout):
            found = await self._versions.find_one(_of(name), {"_id": 1}, sort=[("_id", DESCENDING)])
        newest: str | None = None if found is None else found["_id"]
        self._newest[name] = newest, asked + MAX_AGE
        self._newest.move_to_end(name)
        while len(self._newest) > KNOWN:
            self._newest.popitem(last=False)
        return newest

    def _kept(self, stored_id: str, stored: Stored) -> Template:
        template = stored.template
        size = sum(map(len, template.sources.values()))
        if stored_id not in self._templates:
            self._size += size
        self._templates[stored_id] = template, size
        while self._size > KEPT and len(self._templates) > 1:
            self._size -= self._templates.popitem(last=False)[1][1]
        return template

    async def look_up(self, name: str, version: str | None) -> Stored | None:
        """See `Shelf.look_up`."""
        query: Document = _of(name)
        if version is not None:
            number = number_of(version)
            if number is None:
                return None
            query = {"_id": _id_of(name, number)}
        async with calling(self._timeout):
            document = await self._versions.find_one(query, sort=[("_id", DESCENDING)])
        return None if document is None else _stored(document)

    async def listed(self) -> list[Listed]:
        """See `Shelf.listed`."""
        newest: list[Document] = [
            {"$sort": {"_id": ASCENDING}},
            {"$project": {"name": 1, "number": 1, "saved_at": 1, "files.name": 1}},
            {"$group": {"_id": "$name", "last": {"$last": "$$ROOT"}}},
            {"$sort": {"_id": ASCENDING}},
            {"$limit": MAX_LISTED},
        ]
        async with calling(self._timeout):
            cursor = self._versions.aggregate(newest)
            if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
                cursor = await cursor
            found = await cursor.to_list(None)
        return [_listed(each["last"]) for each in found]

    # --- writing ---------------------------------------------------------------------------------

    async def put(self, template: Template, files: Mapping[str, str]) -> tuple[Stored, bool]:
        """See `Shelf.put`."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in files.values())
        if size > MAX_BYTES:
            raise Rejected(f"the template's files have {size} bytes; {MAX_BYTES} can be stored")
        document = _document(template, files)
        for _ in range(TRIES):
            async with calling(self._timeout):
                last = await self._versions.find_one(
                    _of(template.name), {"content": 1, "number": 1}, sort=[("_id", DESCENDING)]
                )
                if last is not None and last["content"] == document["content"]:
                    same = await self._versions.find_one({"_id": last["_id"]})
                    return _stored(same), False
                number = 1 if last is None else last["number"] + 1
                document |= {"_id": _id_of(template.name, number), "number": number}
                document["saved_at"] = now_ms(self._clock.epoch())
                if await self._inserted(document):
                    self._newest.pop(template.name, None)
                    return _stored(document), True
        raise Unavailable("others save versions of this template as fast as this one")

    async def _inserted(self, document: Document) -> bool:
        try:
            await self._versions.insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    async def pin(self, digest: str, text: str) -> None:
        """See `PinStore.pin`."""
        async with calling(self._timeout):
            await self._pins.update_one({"_id": digest}, {"$setOnInsert": {"text": text}}, upsert=True)

    async def pinned(self, digest: str) -> str | None:
        """See `PinStore.pinned`."""
        async with calling(self._timeout):
            found = await self._pins.find_one({"_id": digest})
        return None if found is None else str(found.get("text", ""))


def _id_of(name: str, number: int) -> str:
    return f"{name}@{number:0{DIGITS}}"


def _of(name: str) -> Document:
    """All versions of a template: ``:`` follows the digits, and ``@`` is in no name."""
    return {"_id": {"$gte": f"{name}@", "$lt": f"{name}@:"}}


def _document(template: Template, files: Mapping[str, str]) -> Document:
    """Without what its number tells."""
    content: Document = {
        "name": template.name,
        "language": template.language,
        "files": [{"name": name, "text": text} for name, text in sorted(files.items())],
        "prepared": [
            {"part": part.value, "lang": lang, "text": text}
            for (part, lang), text in sorted(template.sources.items())
        ],
    }
    if template.schema is not None:
        content["schema"] = orjson.dumps(template.schema, option=orjson.OPT_SORT_KEYS).decode()
    raw = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return {**content, "content": sha256(raw).hexdigest()}


def _stored(document: Mapping[str, Any]) -> Stored:
    """Raises TemplateError for what none of us wrote."""
    try:
        files = {each["name"]: each["text"] for each in document["files"]}
        name = document["name"]
        sample = files.get(f"{name}.sample.json")
        template = Template(
            name=name,
            version=str(document["number"]),
            language=document["language"],
            sources={(Part(each["part"]), each["lang"]): each["text"] for each in document["prepared"]},
            schema=orjson.loads(document["schema"]) if "schema" in document else None,
            sample=None if sample is None else orjson.loads(sample),
        )
        return Stored(template=template, files=files, saved_at=document["saved_at"])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"what is stored of it cannot be read ({type(error).__name__})"
        raise TemplateError(reason, template=str(document.get("_id"))[:80]) from None


def _listed(document: Mapping[str, Any]) -> Listed:
    return Listed(
        name=str(document.get("name")),
        version=str(document.get("number")),
        files=tuple(sorted(str(each.get("name")) for each in document.get("files", ()))),
        saved_at=document.get("saved_at"),
    )
