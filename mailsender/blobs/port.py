"""What the service needs from a store of blobs. The docstrings are the contract.

Every implementation answers to the same suite (`tests/contract/test_blobs.py`). A blob is known by the hash
of its content: to store it twice is harmless, and what is read can be checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from mailsender.model.blobs import Blob

CHUNK: Final = 255 * 1024
"""Bytes of a block of a stored blob, and of an upload that can be resumed: GridFS's own number."""

UNFINISHED: Final = timedelta(hours=6)
"""How long an upload that stopped can be resumed. One takes far less, so that none is swept while blocks of
it are on their way."""

LOOK_AGAIN: Final = timedelta(hours=1)
"""After how long a blob whose time is over, but which a letter names, is looked at again at the earliest."""


class Damaged(ValueError):  # noqa: N818  a finding about a letter
    """A blob that the store has is not what it was, or is not there any more; the message says which."""


class Overtaken(Exception):  # noqa: N818  an answer, not a mistake
    """Somebody else resumed this upload, or it took so long that it was swept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A content on its way into the store: `size` bytes of it are there, all in whole chunks until it ends.

    `writer` fences: whoever resumes an upload has it for himself from then on.
    """

    id: str
    writer: str
    size: int


class BlobStore(Protocol):
    """Contents by their hashes, kept for as long as letters need them.

    Every write is durable (majority, journaled) when its call returns. All calls raise `Unavailable` when the
    store is away or cannot say whether a write is durable; each is safe to repeat but `append`.
    """

    async def open(self) -> None:
        """Make sure that the indexes exist. Safe to repeat."""
        ...

    async def find(self, ref: str) -> Blob | None:
        """The blob of this `Ref`, None where there is none that is whole."""
        ...

    def read(self, ref: str) -> AsyncIterator[bytes]:
        """The content, in blocks of at most a few chunks.

        Raises:
            Damaged: it is not there, or not all of it. Of its hash nothing is known.
        """
        ...

    async def verify(self, ref: str) -> bool:
        """Whether a blob is there and what it was, all of it read.

        One that is not what it was is forgotten, so that it can be put anew.
        """
        ...

    async def secure(self, refs: Collection[str], contents: Mapping[str, bytes]) -> dict[str, int]:
        """Keep these for the store's retention from now on, and store those of `contents` that are not there.

        To be called before letters that name them are inserted, not longer before than an hour: a sweep lets
        alone what was secured, and from then on what a letter names. Returns the size of each that is there
        for certain; what is missing in it is not there.
        """
        ...

    async def stored(self) -> int:
        """Bytes that all contents take, with those of uploads that have not ended; about."""
        ...

    async def begin(self, ref: str = "") -> Upload:
        """Begin to store a content in blocks. With its `ref`, if that is known, it can be resumed."""
        ...

    async def resumable(self, ref: str) -> int:
        """Bytes that are there of the last upload of `ref` that has not ended."""
        ...

    async def resume(self, ref: str) -> Upload | None:
        """Take over the last upload of `ref` that has not ended; None where there is none."""
        ...

    def written(self, upload: Upload) -> AsyncIterator[bytes]:
        """What is there of an upload.

        Raises:
            Damaged: not all of it is.
        """
        ...

    async def append(self, upload: Upload, block: bytes) -> Upload:
        """Store the next block: of `CHUNK` bytes, but for the last one.

        Raises:
            Overtaken: see there. Nothing more can be done with this upload.
        """
        ...

    async def finish(self, upload: Upload, ref: str) -> Blob:
        """Let an upload be the blob `ref`, whose hash its content has. One that is there already stays.

        Raises:
            Overtaken: see there.
        """
        ...

    async def drop(self, upload: Upload) -> None:
        """Remove an upload, unless somebody else has resumed it."""
        ...

    async def sweep(self, limit: int) -> int:
        """Of blobs and uploads whose time is over remove up to `limit` that no letter names.

        Returns how many were removed; where it is none there may be others behind hundreds that letters name.
        One that is secured meanwhile stays.
        """
        ...
