"""What the HTTP side may ask about blobs of a replica."""

from __future__ import annotations

from collections.abc import AsyncIterable

from mailsender.blobs.receive import receive
from mailsender.model.blobs import Blob
from mailsender.model.errors import Unavailable
from mailsender.service import Replica
from mailsender.web.operations import Refused

RETRY_SOON = 5.0
"""Seconds after which a refused upload may be tried again, at another replica at best."""

RETRY_LATER = 300.0
"""The same where the store is full: a sweep, or an operator, has to come first."""

MEASURED = 10.0
"""Seconds for which it is known what the store holds."""


class ReplicaBlobs:
    """Implements `web.operations.Blobs` over a replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._stored = 0
        self._measured_until = 0.0

    async def put(self, blocks: AsyncIterable[bytes], ref: str = "", offset: int = 0) -> Blob:
        """See `Blobs`."""
        self._open()
        state = self._replica.state
        if state != "running":
            text = f"This replica is {state} and takes nothing; try another one."
            raise Refused(state, text, retry_after=RETRY_SOON)
        await self._check_room()
        limit = self._replica.settings.blob_max_bytes
        return await receive(self._replica.parts.blobs, blocks, limit=limit, ref=ref, offset=offset)

    async def find(self, ref: str) -> Blob | None:
        """See `Blobs`."""
        self._open()
        return await self._replica.parts.blobs.find(ref)

    async def keep(self, ref: str) -> Blob | None:
        """See `Blobs`."""
        self._open()
        if not await self._replica.parts.blobs.secure([ref], {}):
            return None
        return await self._replica.parts.blobs.find(ref)

    async def resumable(self, ref: str) -> int:
        """See `Blobs`."""
        self._open()
        return await self._replica.parts.blobs.resumable(ref)

    async def _check_room(self) -> None:
        """Raises Refused when as much is stored as may be."""
        limit, now = self._replica.settings.blob_store_max_bytes, self._replica.clock.monotonic()
        if limit and now >= self._measured_until:
            self._stored = await self._replica.parts.blobs.stored()
            self._measured_until = now + MEASURED
        if limit and self._stored > limit:
            text = f"Attachments take {self._stored} bytes already, more than BLOB_STORE_MAX_BYTES ({limit})."
            raise Refused("store-full", text, retry_after=RETRY_LATER)

    def _open(self) -> None:
        if self._replica.opening.text:
            raise Unavailable(self._replica.opening.text)
