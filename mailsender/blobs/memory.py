"""The store of blobs in memory: for trials, and for tests of what uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from mailsender.blobs.port import CHUNK, LOOK_AGAIN, UNFINISHED, Damaged, Overtaken, Upload
from mailsender.model.blobs import Blob, ref_of
from mailsender.model.clock import Clock
from mailsender.model.letter import now_ms

RETENTION = 7 * 86400.0
"""Seconds for which what no letter names is kept, unless told otherwise."""


def _nobody(_: str) -> bool:
    return False


@dataclass(slots=True, kw_only=True)
class _Unfinished:
    """What is there of an upload, in blocks; whose it is, what it is to become, and until when it is kept."""

    writer: str
    ref: str
    kept_until: datetime
    blocks: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(map(len, self.blocks))


class MemoryBlobs:
    """`BlobStore` in memory. `named` says whether a letter names a blob; one that none does goes in time."""

    def __init__(
        self, clock: Clock, retention: float = RETENTION, named: Callable[[str], bool] = _nobody
    ) -> None:
        self._clock = clock
        self._retention = timedelta(seconds=retention)
        self._named = named
        self._blobs: dict[str, tuple[bytes, datetime]] = {}
        self._uploads: dict[str, _Unfinished] = {}
        self._numbers = count(1)

    async def open(self) -> None:
        """See `BlobStore.open`."""

    async def find(self, ref: str) -> Blob | None:
        """See `BlobStore.find`."""
        found = self._blobs.get(ref)
        return None if found is None else Blob(ref, len(found[0]), found[1])

    async def read(self, ref: str) -> AsyncIterator[bytes]:
        """See `BlobStore.read`."""
        if ref not in self._blobs:
            raise Damaged(f"{ref} is not there")
        content = self._blobs[ref][0]
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]

    async def verify(self, ref: str) -> bool:
        """See `BlobStore.verify`."""
        if ref in self._blobs and ref_of(self._blobs[ref][0]) != ref:
            del self._blobs[ref]
        return ref in self._blobs

    async def secure(self, refs: Collection[str], contents: Mapping[str, bytes]) -> dict[str, int]:
        """See `BlobStore.secure`."""
        for ref, content in contents.items():
            self._blobs.setdefault(ref, (content, self._now()))
        there = [ref for ref in dict.fromkeys([*refs, *contents]) if ref in self._blobs]
        for ref in there:
            self._keep(ref, self._now() + self._retention)
        return {ref: len(self._blobs[ref][0]) for ref in there}

    async def stored(self) -> int:
        """See `BlobStore.stored`."""
        whole = sum([len(content) for content, _ in self._blobs.values()])
        return whole + sum([upload.size for upload in self._uploads.values()])

    async def begin(self, ref: str = "") -> Upload:
        """See `BlobStore.begin`."""
        number = f"{next(self._numbers):024x}"
        writer = str(next(self._numbers))
        self._uploads[number] = _Unfinished(writer=writer, ref=ref, kept_until=self._now() + UNFINISHED)
        return Upload(id=number, writer=writer, size=0)

    async def resumable(self, ref: str) -> int:
        """See `BlobStore.resumable`."""
        last = self._last(ref)
        return self._uploads[last].size // CHUNK * CHUNK if last else 0

    async def resume(self, ref: str) -> Upload | None:
        """See `BlobStore.resume`."""
        last = self._last(ref)
        if not last:
            return None
        upload = self._uploads[last]
        upload.writer = str(next(self._numbers))
        upload.kept_until = self._now() + UNFINISHED
        if upload.blocks and len(upload.blocks[-1]) < CHUNK:
            upload.blocks.pop()
        return Upload(id=last, writer=upload.writer, size=upload.size)

    async def written(self, upload: Upload) -> AsyncIterator[bytes]:
        """See `BlobStore.written`."""
        for block in self._ours(upload).blocks:
            yield block

    async def append(self, upload: Upload, block: bytes) -> Upload:
        """See `BlobStore.append`."""
        unfinished = self._ours(upload)
        unfinished.blocks.append(block)
        return Upload(id=upload.id, writer=upload.writer, size=unfinished.size)

    async def finish(self, upload: Upload, ref: str) -> Blob:
        """See `BlobStore.finish`."""
        if upload.id in self._uploads or ref not in self._blobs:
            content = b"".join(self._ours(upload).blocks)
            self._blobs.setdefault(ref, (content, self._now()))
            del self._uploads[upload.id]
        self._keep(ref, self._now() + self._retention)
        return Blob(ref, len(self._blobs[ref][0]), self._blobs[ref][1])

    async def drop(self, upload: Upload) -> None:
        """See `BlobStore.drop`."""
        found = self._uploads.get(upload.id)
        if found is not None and found.writer == upload.writer:
            del self._uploads[upload.id]

    async def sweep(self, limit: int) -> int:
        """See `BlobStore.sweep`."""
        now, removed = self._now(), 0
        for ref in [ref for ref, (_, until) in self._blobs.items() if until < now][:limit]:
            if self._named(ref):
                self._keep(ref, now + LOOK_AGAIN)
            else:
                del self._blobs[ref]
                removed += 1
        for number in [each for each, upload in self._uploads.items() if upload.kept_until < now]:
            if removed < limit:
                del self._uploads[number]
                removed += 1
        return removed

    def _now(self) -> datetime:
        return now_ms(self._clock.epoch())

    def _keep(self, ref: str, until: datetime) -> None:
        content, before = self._blobs[ref]
        self._blobs[ref] = content, max(before, until)

    def _last(self, ref: str) -> str:
        return max((each for each, upload in self._uploads.items() if ref and upload.ref == ref), default="")

    def _ours(self, upload: Upload) -> _Unfinished:
        found = self._uploads.get(upload.id)
        if found is None or found.writer != upload.writer:
            raise Overtaken
        return found
