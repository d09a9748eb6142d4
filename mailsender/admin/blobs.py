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


class ReplicaBlobs:
    """Implements `web.operations.Blobs` over a replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def put(self, blocks: AsyncIterable[bytes], ref: str = "", offset: int = 0) -> Blob:
        """See `Blobs`."""
        self._open()
        state = self._replica.state
        if state != "running":
            text = f"This replica is {state} and takes nothing; try another one."
            raise Refused(state, text, retry_after=RETRY_SOON)
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

    def _open(self) -> None:
        if self._replica.opening.text:
            raise Unavailable(self._replica.opening.text)
