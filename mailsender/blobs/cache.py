"""Contents as messages hold them, in base64: read and encoded once, shared, and bounded in bytes.

Ten thousand letters with the same file share one content. While letters are sent that need more than the
budget has room for, the next one waits; one letter alone always goes, whatever its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mailsender.blobs.port import BlobStore, Damaged
from mailsender.message.parts import Base64, Base64Encoder, encoded_size
from mailsender.model.blobs import PREFIX

PATIENCE = 5.0
"""Seconds for which a letter that finds no room is passed by those whose contents are there. After that they
wait behind it: while thousands with the same file are sent, some of them use it at each moment."""

_ENTRY = 1024
"""Bytes of an entry beside its content, rounded up: of small files there may be many."""


class _Entry:
    """A content in memory, or on its way into it; `users` are letters that are being sent with it."""

    __slots__ = ("loading", "size", "users")

    def __init__(self, size: int, loading: asyncio.Task[Base64]) -> None:
        self.size = size
        self.loading = loading
        self.users = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """The contents that a letter needs, by their `Ref`s, until they are given back."""

    contents: Mapping[str, Base64]
    entries: tuple[_Entry, ...]


def _nothing() -> None:
    pass


class BlobCache:
    """Contents of a store, at most `budget` bytes of them in base64, those used last."""

    def __init__(self, store: BlobStore, budget: int) -> None:
        self._store = store
        self._budget = budget
        self._entries: dict[str, _Entry] = {}  # the one that was used last comes last
        self._bytes = 0
        self._turn = asyncio.Lock()  # of those who wait for room, one looks for it at a time
        self._wanting = 0  # how many look for room, or wait for their turn to
        self._freed = asyncio.Event()
        self._waits_since: float | None = None

    @property
    def size(self) -> int:
        """Bytes of base64 in memory, or on their way into it."""
        return self._bytes

    async def take(self, refs: Sequence[str], waits: Callable[[], None] = _nothing) -> Taken:
        """The contents of `refs`; each `take` is followed by `give_back`.

        `waits` is called where it has to wait for room: what whoever asks holds meanwhile may be what those
        need who are to make room.

        Raises:
            Damaged: one is not there, or not what it was; the message says which.
            Unavailable: the store is away.
        """
        needed = tuple(dict.fromkeys(refs))
        if (needed and self._long_waited()) or not all(ref in self._entries for ref in needed):
            sizes = {ref: await self._size_of(ref) for ref in needed}
            entries = await self._in_turn(sizes, waits)
        else:
            entries = self._use(needed)
        try:
            # Shielded: whoever gives up waits for nothing, and what was read serves the others.
            loaded = [await asyncio.shield(each.loading) for each in entries]
        except BaseException:
            self._release(entries)
            raise
        return Taken(dict(zip(needed, loaded, strict=True)), entries)

    def give_back(self, taken: Taken) -> None:
        """They are not needed any more."""
        self._release(taken.entries)

    async def _in_turn(self, needed: Mapping[str, int], waits: Callable[[], None]) -> tuple[_Entry, ...]:
        """What is `needed`, by sizes, once there is room for it and nobody was here before."""
        self._wanting += 1
        try:
            if self._wanting > 1:
                waits()
            async with self._turn:
                await self._make_room(needed, waits)
                return self._use(tuple(needed))
        finally:
            self._wanting -= 1

    async def _make_room(self, needed: Mapping[str, int], waits: Callable[[], None]) -> None:
        """Let all of `needed` be in memory, or on its way into it, once there is room for them."""
        try:
            await self._load_missing(needed, waits)
        finally:
            self._waits_since = None

    async def _load_missing(self, needed: Mapping[str, int], waits: Callable[[], None]) -> None:
        while missing := [ref for ref in needed if ref not in self._entries]:
            wanted = sum([needed[ref] for ref in missing])
            self._evict(wanted, beside=needed)
            if self._bytes + wanted > self._budget and any(map(_in_use, self._entries.values())):
                waits()
                await self._some_freed()
                continue
            for ref in missing:
                self._load(ref, needed[ref])

    async def _some_freed(self) -> None:
        """Wait until somebody gives contents back; it is noted since when there was no room."""
        if self._waits_since is None:
            self._waits_since = asyncio.get_running_loop().time()
        self._freed.clear()
        await self._freed.wait()

    def _long_waited(self) -> bool:
        since = self._waits_since
        return since is not None and asyncio.get_running_loop().time() - since >= PATIENCE

    async def _size_of(self, ref: str) -> int:
        """Bytes that it takes in memory."""
        if (entry := self._entries.get(ref)) is not None:
            return entry.size
        blob = await self._store.find(ref)
        if blob is None:
            raise Damaged(f"the attachment {ref} is not there any more")
        return _ENTRY + encoded_size(blob.size)

    def _evict(self, wanted: int, *, beside: Collection[str]) -> None:
        """Forget contents that nobody uses, those that were used longest ago first."""
        over = self._bytes + wanted - self._budget
        idle: list[tuple[str, _Entry]] = []
        for ref, entry in self._entries.items():
            if over <= 0:
                break
            if not _in_use(entry) and ref not in beside:
                idle.append((ref, entry))
                over -= entry.size
        for ref, entry in idle:
            self._forget(ref, entry)

    def _load(self, ref: str, size: int) -> None:
        entry = _Entry(size, asyncio.create_task(self._loaded(ref)))
        self._entries[ref] = entry
        self._bytes += size
        entry.loading.add_done_callback(lambda _: self._ended(ref, entry))

    async def _loaded(self, ref: str) -> Base64:
        """The content. A damaged one is forgotten, so that it can be put anew."""
        encoder, digest, fault = Base64Encoder(), sha256(), ""
        try:
            async for block in self._store.read(ref):
                digest.update(block)
                encoder.feed(block)
        except Damaged as error:
            fault = str(error)
        if not fault and PREFIX + digest.hexdigest() != ref:
            fault = "its content has another hash"
        if fault:
            await self._store.verify(ref)
            raise Damaged(f"the attachment {ref} is damaged: {fault}")
        return encoder.end()

    def _ended(self, ref: str, entry: _Entry) -> None:
        """What could not be read is read anew by whoever comes next."""
        if entry.loading.cancelled() or entry.loading.exception() is not None:
            self._forget(ref, entry)
        self._freed.set()

    def _use(self, refs: Sequence[str]) -> tuple[_Entry, ...]:
        used = []
        for ref in refs:
            entry = self._entries[ref] = self._entries.pop(ref)
            entry.users += 1
            used.append(entry)
        return tuple(used)

    def _release(self, entries: Sequence[_Entry]) -> None:
        for each in entries:
            each.users -= 1
        self._freed.set()

    def _forget(self, ref: str, entry: _Entry) -> None:
        if self._entries.get(ref) is entry:
            del self._entries[ref]
            self._bytes -= entry.size


def _in_use(entry: _Entry) -> bool:
    return entry.users > 0 or not entry.loading.done()
