"""A content that comes in blocks, from wherever, becomes a blob: never whole in memory, hashed on its way."""

from __future__ import annotations

from collections.abc import AsyncIterable
from hashlib import sha256

from mailsender.blobs.port import CHUNK, BlobStore, Upload
from mailsender.model.blobs import PREFIX, Blob


class WrongContent(Exception):  # noqa: N818  an answer to whoever sends it
    """A content is not the one that was announced; the message says in what. Nothing of it is kept."""


class TooLong(WrongContent):
    """It has more bytes than are allowed."""


class WrongOffset(Exception):  # noqa: N818  as above
    """Of an upload there are `size` bytes, and the content goes on elsewhere."""

    def __init__(self, size: int) -> None:
        """Note where it could go on."""
        super().__init__(f"{size} bytes of it are there")
        self.size = size


async def receive(
    store: BlobStore, blocks: AsyncIterable[bytes], *, limit: int, ref: str = "", offset: int = 0
) -> Blob:
    """Store what comes in `blocks` of any length, at most `limit` bytes with what is there already.

    Args:
        store: where to.
        blocks: the content, or what is left of it. What they raise ends the upload as it is: with a `ref` it
            can be resumed, and without one it is swept.
        limit: bytes that a content may have.
        ref: of the whole content, where it is known before.
        offset: bytes of it that are there, by an upload that is resumed now.

    Raises:
        WrongContent: it is too long, or its hash is another than `ref` says.
        WrongOffset: that many bytes are not there.
        Overtaken: somebody else resumed the same upload.
        Damaged: what was there of it is not whole any more.
        Unavailable: the store is away.
    """
    upload = await _at(store, ref, offset)
    digest, rest = sha256(), bytearray()
    if offset:
        async for block in store.written(upload):
            digest.update(block)
    size = offset
    async for block in blocks:
        size += len(block)
        if size > limit:
            await store.drop(upload)
            raise TooLong(f"it has more than {limit} bytes")
        digest.update(block)
        rest += block
        while len(rest) >= CHUNK:
            upload = await store.append(upload, bytes(rest[:CHUNK]))
            del rest[:CHUNK]
    found = PREFIX + digest.hexdigest()
    if ref and found != ref:
        await store.drop(upload)
        raise WrongContent(f"its hash is {found}")
    if rest:
        upload = await store.append(upload, bytes(rest))
    return await store.finish(upload, found)


async def _at(store: BlobStore, ref: str, offset: int) -> Upload:
    if not offset:
        return await store.begin(ref)
    there = await store.resumable(ref)
    if there != offset:  # before it is taken from whoever else may be at it
        raise WrongOffset(there)
    upload = await store.resume(ref)
    if upload is None or upload.size != offset:
        raise WrongOffset(upload.size if upload else 0)
    return upload
