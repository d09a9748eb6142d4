"""The store of blobs in MongoDB, laid out as GridFS lays out its files (`<collection>.blobs`).

Any program for GridFS can read them. The drivers' own classes for it are not used: they write one file at a
time, in three round trips, where a batch of letters brings hundreds, they do not resume, and Motor's differ
from PyMongo's. A document of `<collection>.blobs.files`:

- `_id`: that of one upload, and `files_id` of its chunks. `chunkSize`, `uploadDate`: as in GridFS.
- `filename`: the blob's `Ref`, once it is whole; it is unique. `length`: its bytes then.
- `kept_until`: before that nobody removes it. It is only ever pushed on, by `secure`.
- `writer`: the one who may end an upload; absent once it is whole. `upload`: the `Ref` that it is to become,
  where that was said.

Letters name blobs in their field `blobs`. A sweep takes one whose time is over and that no letter names,
and takes its name away in one step, if its time is still over: whoever secured it meanwhile has pushed that
on, and a letter is inserted only after that. Its chunks go then; should the process die in between, the
document without a name is found by the next sweep.
"""

from __future__ import annotations

import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from mailsender.blobs.port import CHUNK, LOOK_AGAIN, UNFINISHED, Damaged, Overtaken, Upload
from mailsender.model.blobs import PREFIX, Blob
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.queue.mongo.client import (
    DUPLICATE_KEY,
    Client,
    Document,
    ServerClock,
    calling,
    committed,
    durable,
    passing,
    translated,
)
from mailsender.queue.mongo.indexes import ensure_indexes

WINDOW: Final = 8
"""Chunks that are read in one round trip: two megabytes."""

ROUND_BYTES: Final = 8 * 1024 * 1024
"""Bytes of contents that are written in one round trip, though one content is whatever its size."""

ROUNDS: Final = 5
"""How often a blob that is swept just when it is secured is stored anew."""

LOOKS: Final = 500
"""Blobs that a sweep looks at without finding anything to remove: a second's work. Nearly all whose time is
over may be named, as with a file for each letter, and the others must not wait behind them for ever."""

_NAMED: Final = "mailsender_blobs"

OF_LETTERS: Final = IndexModel([("blobs", ASCENDING)], name=_NAMED, sparse=True)
"""By which it is found out whether a letter names a blob; letters without one have no entry."""

OF_FILES: Final = (
    IndexModel([("filename", ASCENDING)], name="mailsender_ref", unique=True, sparse=True),
    IndexModel([("kept_until", ASCENDING)], name="mailsender_kept"),
    IndexModel([("upload", ASCENDING)], name="mailsender_upload", sparse=True),
)

OF_CHUNKS: Final = (
    # GridFS's own, under its own name. Two who write the same upload meet here.
    IndexModel([("files_id", ASCENDING), ("n", ASCENDING)], name="files_id_1_n_1", unique=True),
)


@asynccontextmanager
async def _calling(timeout: float) -> AsyncIterator[None]:
    """As `calling`. What is refused for good has to do with a rule of the collection, and with no content."""
    try:
        async with calling(timeout):
            yield
    except Rejected as error:
        raise Unavailable(f"{error}; does a rule of its collections of blobs refuse them?") from error


class MongoBlobs:
    """`BlobStore` beside a collection of letters, shared with any number of replicas.

    `retention` is how long, in seconds, what no letter names is kept; `timeout` the deadline of every call to
    the server, in seconds.
    """

    def __init__(
        self,
        client: Client,
        *,
        database: str,
        collection: str,
        retention: float,
        clock: Clock,
        timeout: float,
    ) -> None:
        self._retention = timedelta(seconds=retention)
        self._timeout = timeout
        self._clock = ServerClock(client, clock)
        self._letters = durable(client, database, collection, timeout)
        self._files = durable(client, database, f"{collection}.blobs.files", timeout)
        self._chunks = durable(client, database, f"{collection}.blobs.chunks", timeout)
        self._naming = ""

    async def open(self) -> None:
        """See `BlobStore.open`."""
        self._naming = (await ensure_indexes(self._letters, [OF_LETTERS])).get(_NAMED, "")
        await ensure_indexes(self._files, OF_FILES)
        await ensure_indexes(self._chunks, OF_CHUNKS)

    async def find(self, ref: str) -> Blob | None:
        """See `BlobStore.find`. What a majority has not got yet may be rolled back, and is not told."""
        async with _calling(self._timeout):
            file = await committed(self._files).find_one({"filename": ref})
        return None if file is None else Blob(ref, file["length"], file["kept_until"])

    async def read(self, ref: str) -> AsyncIterator[bytes]:
        """See `BlobStore.read`."""
        async with _calling(self._timeout):
            file = await self._files.find_one({"filename": ref}, {"length": 1})
        if file is None:
            raise Damaged(f"{ref} is not there")
        async for block in self._blocks(file["_id"], file["length"]):
            yield block

    async def _blocks(self, upload: ObjectId, size: int) -> AsyncIterator[bytes]:
        number, left = 0, size
        while left > 0:
            window = {"files_id": upload, "n": {"$gte": number, "$lt": number + WINDOW}}
            async with _calling(self._timeout):
                found = await self._chunks.find(window).sort([("n", ASCENDING)]).to_list(WINDOW)
            if not found:
                raise Damaged(f"{left} bytes of {size} are not there")
            for chunk in found:
                left -= len(chunk["data"])
                if chunk["n"] != number or left < 0:
                    raise Damaged(f"its chunks are not those of {size} bytes")
                number += 1
                yield bytes(chunk["data"])

    async def verify(self, ref: str) -> bool:
        """See `BlobStore.verify`. What is being swept, or was stored anew meanwhile, is let alone."""
        async with _calling(self._timeout):
            file = await self._files.find_one({"filename": ref}, {"length": 1})
        if file is None:
            return False
        digest = sha256()
        with contextlib.suppress(Damaged):
            async for block in self._blocks(file["_id"], file["length"]):
                digest.update(block)
        if PREFIX + digest.hexdigest() == ref:
            return True
        async with _calling(self._timeout):
            change = {"$set": {"kept_until": await self._clock.now()}, "$unset": _UNNAMED}
            if await self._change({"_id": file["_id"], "filename": ref}, change):
                await self._remove([file["_id"]])
        return False

    # --- for letters -----------------------------------------------------------------------------

    async def secure(self, refs: Collection[str], contents: Mapping[str, bytes]) -> dict[str, int]:
        """See `BlobStore.secure`. Those that are there cost two round trips, the others three more."""
        there: dict[str, int] = {}
        wanted = list(dict.fromkeys([*refs, *contents]))
        for _ in range(ROUNDS):
            there |= await self._keep(wanted)
            missing = {ref: content for ref, content in contents.items() if ref not in there}
            for part in _parts(missing):
                stored = await self._store(part)
                there |= {ref: len(part[ref]) for ref in stored}
            wanted = [ref for ref in missing if ref not in there]
            if not wanted:
                return there
        raise Unavailable("blobs are swept as fast as they are stored")

    async def _keep(self, refs: Sequence[str]) -> dict[str, int]:
        """Push on until when these are kept; the sizes of those for which that is certain."""
        if not refs:
            return {}
        async with _calling(self._timeout):
            until = await self._clock.now() + self._retention
            these = {"filename": {"$in": list(refs)}}
            await self._files.update_many(these, {"$max": {"kept_until": until}})
            query = {**these, "kept_until": {"$gte": until}}
            found = await committed(self._files).find(query, {"filename": 1, "length": 1}).to_list(None)
        return {file["filename"]: file["length"] for file in found}

    async def _store(self, contents: Mapping[str, bytes]) -> set[str]:
        """Store whole contents; the `Ref`s of those that somebody else had not stored meanwhile.

        The documents of the files come first, so that chunks of a process that dies are found.
        """
        async with _calling(self._timeout):
            now = await self._clock.now()
            files = {ref: _begun(now) for ref in contents}
            await self._files.insert_many(list(files.values()), ordered=False)
            chunks = [
                {"files_id": files[ref]["_id"], "n": number, "data": content[start : start + CHUNK]}
                for ref, content in contents.items()
                for number, start in enumerate(range(0, len(content), CHUNK))
            ]
            if chunks:
                await self._chunks.insert_many(chunks, ordered=False)
            refs = list(contents)
            until = now + self._retention
            whole = [
                UpdateOne({"_id": files[ref]["_id"]}, _whole(ref, len(contents[ref]), until)) for ref in refs
            ]
            taken: set[str] = set()
            try:
                await self._files.bulk_write(whole, ordered=False)
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                if passing(error) or any(each["code"] != DUPLICATE_KEY for each in faults):
                    raise translated(error) from error
                taken = {refs[each["index"]] for each in faults}
            if taken:
                await self._remove([files[ref]["_id"] for ref in taken])
        return contents.keys() - taken

    async def stored(self) -> int:
        """See `BlobStore.stored`. MongoDB keeps count of it; a sharded one in each shard."""
        async with _calling(self._timeout):
            cursor = self._chunks.aggregate([{"$collStats": {"storageStats": {}}}])
            if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
                cursor = await cursor
            found = await cursor.to_list(None)
        return sum([int(each["storageStats"]["size"]) for each in found])

    # --- uploads ---------------------------------------------------------------------------------

    async def begin(self, ref: str = "") -> Upload:
        """See `BlobStore.begin`."""
        async with _calling(self._timeout):
            file = _begun(await self._clock.now(), ref)
            await self._files.insert_one(file)
        return Upload(id=str(file["_id"]), writer=file["writer"], size=0)

    async def resumable(self, ref: str) -> int:
        """See `BlobStore.resumable`."""
        async with _calling(self._timeout):
            last = await self._last(ref)
            return 0 if last is None else (await self._written(last))[0]

    async def resume(self, ref: str) -> Upload | None:
        """See `BlobStore.resume`."""
        writer = secrets.token_hex(8)
        async with _calling(self._timeout):
            last = await self._last(ref)
            until = await self._clock.now() + UNFINISHED
            change = {"$set": {"writer": writer}, "$max": {"kept_until": until}}
            if last is None or not await self._change({"_id": last, "upload": ref}, change):
                return None
            size, partial = await self._written(last)
            if partial is not None:  # the end of an upload whose last step failed comes again
                await self._chunks.delete_one({"_id": partial})
        return Upload(id=str(last), writer=writer, size=size)

    async def written(self, upload: Upload) -> AsyncIterator[bytes]:
        """See `BlobStore.written`."""
        async for block in self._blocks(ObjectId(upload.id), upload.size):
            yield block

    async def append(self, upload: Upload, block: bytes) -> Upload:
        """See `BlobStore.append`."""
        chunk = {"files_id": ObjectId(upload.id), "n": upload.size // CHUNK, "data": block}
        async with _calling(self._timeout):
            if not await self._put(chunk):
                raise Overtaken
        return replace(upload, size=upload.size + len(block))

    async def finish(self, upload: Upload, ref: str) -> Blob:
        """See `BlobStore.finish`."""
        ours = ObjectId(upload.id)
        for _ in range(ROUNDS):
            async with _calling(self._timeout):
                until = await self._clock.now() + self._retention
                named = await self._name(upload, ref, until)
            if named:
                return Blob(ref, upload.size, until)
            if await self._keep([ref]):
                async with _calling(self._timeout):
                    await self._remove([ours])
                blob = await self.find(ref)
                if blob is not None:
                    return blob
        raise Unavailable("the blob is swept as fast as it is stored")

    async def drop(self, upload: Upload) -> None:
        """See `BlobStore.drop`."""
        ours = ObjectId(upload.id)
        async with _calling(self._timeout):
            change = {"$set": {"kept_until": await self._clock.now()}, "$unset": _UNNAMED}
            if await self._change({"_id": ours, "writer": upload.writer}, change):
                await self._remove([ours])

    async def _name(self, upload: Upload, ref: str, until: datetime) -> bool:
        """Let an upload be whole; False where another is under its name.

        Raises:
            Overtaken: it is not ours any more.
        """
        ours = {"_id": ObjectId(upload.id), "writer": upload.writer}
        try:
            if await self._change(ours, _whole(ref, upload.size, until)):
                return True
        except DuplicateKeyError:
            return False
        # Of an earlier try the reply may have been lost.
        if await self._change({"_id": ours["_id"], "filename": ref}, {"$max": {"kept_until": until}}):
            return True
        raise Overtaken

    async def _put(self, chunk: Document) -> bool:
        """Store a chunk; False where there is one in its place."""
        try:
            await self._chunks.insert_one(chunk)
        except DuplicateKeyError:
            return False
        return True

    async def _change(self, query: Document, change: Document) -> bool:
        """Change the file of `query` in one step; whether there was one."""
        return await self._files.find_one_and_update(query, change, {"_id": 1}) is not None

    async def _last(self, ref: str) -> ObjectId | None:
        """The upload of `ref` that was begun last and has not ended."""
        newest = self._files.find({"upload": ref}, {"_id": 1}).sort([("_id", DESCENDING)])
        found: list[dict[str, ObjectId]] = await newest.limit(1).to_list(1)
        return found[0]["_id"] if found else None

    async def _written(self, upload: ObjectId) -> tuple[int, Any]:
        """How many bytes of it are there in whole chunks, and the `_id` of one that is not."""
        shown = {"n": 1, "size": {"$binarySize": "$data"}}
        newest = self._chunks.find({"files_id": upload}, shown).sort([("n", DESCENDING)])
        found = await newest.limit(1).to_list(1)
        if not found:
            return 0, None
        last = found[0]
        whole = last["size"] == CHUNK
        return (last["n"] + whole) * CHUNK, None if whole else last["_id"]

    # --- what nobody needs any more --------------------------------------------------------------

    async def sweep(self, limit: int) -> int:
        """See `BlobStore.sweep`."""
        if not self._naming:
            return 0  # without the index each question would look at every letter
        async with _calling(self._timeout):
            now = await self._clock.now()
        removed = looked = 0
        while removed < limit and looked < LOOKS:
            files = await self._over(now, limit - removed)
            if not files:
                break
            looked += len(files)
            for file in files:
                async with _calling(self._timeout):
                    removed += await self._swept(file, now)
        return removed

    async def _over(self, now: datetime, limit: int) -> list[Document]:
        """Those whose time is over, the longest first."""
        async with _calling(self._timeout):
            over = self._files.find({"kept_until": {"$lt": now}}, {"filename": 1})
            found: list[Document] = await over.sort([("kept_until", ASCENDING)]).limit(limit).to_list(limit)
        return found

    async def _swept(self, file: Document, now: datetime) -> bool:
        letter = await self._named(file["filename"]) if "filename" in file else None
        if letter is not None:
            again = {"$max": {"kept_until": _look_again(letter, now)}}
            await self._files.update_one({"_id": file["_id"]}, again)
            return False
        # The one step that decides: secured meanwhile, its time is not over any more.
        if not await self._change({"_id": file["_id"], "kept_until": {"$lt": now}}, {"$unset": _UNNAMED}):
            return False
        await self._remove([file["_id"]])
        return True

    async def _named(self, ref: str) -> Document | None:
        """A letter that names it, be it only one that is remembered, with the times at which it goes."""
        times = {"body_until": 1, "expire_at": 1}
        found: Document | None = await self._letters.find_one({"blobs": ref}, times, hint=self._naming)
        return found

    async def _remove(self, uploads: Sequence[ObjectId]) -> None:
        """Remove what is no blob: chunks first, so that what is left of them is found."""
        await self._chunks.delete_many({"files_id": {"$in": list(uploads)}})
        await self._files.delete_many({"_id": {"$in": list(uploads)}, "filename": {"$exists": False}})


_UNNAMED: Final[Document] = dict.fromkeys(["filename", "upload", "writer"], "")


def _look_again(letter: Document, now: datetime) -> datetime:
    """When a blob is looked at again that a letter names: where that is known, not before the letter goes."""
    goes = letter.get("body_until") or letter.get("expire_at")
    return max(goes, now + LOOK_AGAIN) if isinstance(goes, datetime) else now + LOOK_AGAIN


def _begun(now: datetime, ref: str = "") -> Document:
    """The document of an upload that begins."""
    file: Document = {
        "_id": ObjectId(),
        "length": 0,
        "chunkSize": CHUNK,
        "uploadDate": now,
        "kept_until": now + UNFINISHED,
        "writer": secrets.token_hex(8),
    }
    return {**file, "upload": ref} if ref else file


def _whole(ref: str, size: int, until: datetime) -> Document:
    """What makes an upload a blob."""
    named = {"filename": ref, "length": size, "kept_until": until}
    return {"$set": named, "$unset": {"writer": "", "upload": ""}}


def _parts(contents: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    """Contents in parts that a round trip carries well."""
    parts: list[dict[str, bytes]] = []
    size = 0
    for ref, content in contents.items():
        if not parts or size + len(content) > ROUND_BYTES:
            parts.append({})
            size = 0
        parts[-1][ref] = content
        size += len(content)
    return parts
